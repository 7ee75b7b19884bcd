"""Python values to and from Wasmtime's component values, by WIT type.

For each type a closure is made once (`lifter`, `lowerer`, `borrower`); a call walks closures, never types.  Going by
the type is also what keeps `option` and `result` apart: `None` in an `option` is "none", whatever surrounds it.

In Python: `bool`, `int`, `float`, `str`; a `list`; for an `option` the value or `None`; for a `result` an `Ok` or an
`Err`; for a `tuple` a tuple, for a `record` the named tuple of `record_class`; for an `enum` its case as WIT writes it.
An `option` of an `option` has no such representation and is refused.

Who owns what (the C API's documentation, and `tests/integration/stack_facts`):

- *Lifting* copies; the component value is left as it is.  `free` deletes one of ours.
- *Lowering* makes owned values, for an import's result: memory of Wasmtime's, which takes the whole value over.
- *Borrowing* makes arguments of a call: they point into memory of Python's, which the returned object keeps alive.
  Such a value must never be freed.

A component value is a kind and a union.  Both are read and written with `struct`, because each attribute of a nested
ctypes structure makes an object; the layouts assumed are checked when this module is imported.
"""

from __future__ import annotations

import ctypes
import keyword
from collections import namedtuple
from collections.abc import Callable
from ctypes import PYFUNCTYPE, addressof, c_char_p, c_size_t, c_ssize_t, c_void_p, py_object, sizeof
from functools import cache
from struct import Struct
from typing import Any, assert_never

import wasmtime._bindings as _b
import wasmtime._ffi as _ffi

from ..actors.guest import Err, Ok
from ..errors import InternalError
from .wit import Enum, List, Option, Primitive, Record, Result, Tuple, Type, text

Val = _b.wasmtime_component_val_t

Lift = Callable[[Val], Any]
Lower = Callable[[Val, Any], None]
Borrow = Callable[[Val, Any], object]


class WrongType(InternalError, TypeError):
    """A value is not of its WIT type: of the node's making when lowering, an unaudited component's when lifting."""


# -- layout ------------------------------------------------------------------------------------------------

_VAL_BYTES = sizeof(Val)
_ENTRY_BYTES = sizeof(_b.wasmtime_component_valrecord_entry_t)
_ENTRY_VAL = _b.wasmtime_component_valrecord_entry_t.val.offset
_UNION = Val.of.offset

# A kind, then what the union begins with.  Native alignment puts the second member where C does.
_KIND = Struct("@B")
_SLICE = Struct("@BNP")  # string, enum, list, record, tuple: size, address
_POINTER = Struct("@BP")  # option
_RESULT = Struct("@B7x?P")
_WHOLE = Struct("@4Q")

_ASSUMED = {
    "value": ((_VAL_BYTES, _UNION), (32, 8)),
    "record entry": ((_ENTRY_BYTES, _ENTRY_VAL), (48, 16)),
    "structs": ((_SLICE.size, _POINTER.size, _RESULT.size), (24, 16, 24)),
}
assert all(actual == assumed for actual, assumed in _ASSUMED.values()), (
    f"component values are laid out anew: {_ASSUMED}"
)

_STRING = _ffi.WASMTIME_COMPONENT_STRING.value
_LIST = _ffi.WASMTIME_COMPONENT_LIST.value
_RECORD = _ffi.WASMTIME_COMPONENT_RECORD.value
_TUPLE = _ffi.WASMTIME_COMPONENT_TUPLE.value
_ENUM = _ffi.WASMTIME_COMPONENT_ENUM.value
_OPTION = _ffi.WASMTIME_COMPONENT_OPTION.value
_RESULT_KIND = _ffi.WASMTIME_COMPONENT_RESULT.value


@cache
def _number(name: str) -> tuple[int, Struct, type, int, int]:
    """Kind, layout, Python's type and range of a primitive that is a number."""
    kind = getattr(_ffi, f"WASMTIME_COMPONENT_{name.upper()}").value
    if name[0] == "f":
        return kind, Struct("@B7xf" if name == "f32" else "@B7xd"), float, 0, 0
    bits = int(name[1:])
    letter = {8: "b", 16: "h", 32: "i", 64: "q"}[bits]
    layout = Struct(f"@B7x{letter if name[0] == 's' else letter.upper()}")
    if name[0] == "s":
        return kind, layout, int, -(1 << bits - 1), (1 << bits - 1) - 1
    return kind, layout, int, 0, (1 << bits) - 1


# -- C functions -------------------------------------------------------------------------------------------


def _function(name: str, restype: Any, *argtypes: Any) -> Any:
    # PYFUNCTYPE keeps the GIL: these take nanoseconds, and giving it up would hand it to another thread.
    return PYFUNCTYPE(restype, *argtypes)((name, _ffi.dll))


_bytes_new = _function("wasm_byte_vec_new", None, c_void_p, c_size_t, c_char_p)
_list_new = _function("wasmtime_component_vallist_new_uninit", None, c_void_p, c_size_t)
_record_new = _function("wasmtime_component_valrecord_new_uninit", None, c_void_p, c_size_t)
_tuple_new = _function("wasmtime_component_valtuple_new_uninit", None, c_void_p, c_size_t)
_val_new = _function("wasmtime_component_val_new", c_void_p, c_void_p)
_val_delete = _function("wasmtime_component_val_delete", None, c_void_p)
# One copy, where string_at() and decode() make two.  With "replace" it cannot fail on what the memory holds.
_decode = PYFUNCTYPE(py_object, c_void_p, c_ssize_t, c_char_p)(("PyUnicode_DecodeUTF8", ctypes.pythonapi))

_address_of = PYFUNCTYPE(c_void_p, py_object)(("PyBytes_AsString", ctypes.pythonapi))


def free(val: Val) -> None:
    """Delete a value that is ours, and make its slot usable again: deleted is not cleared."""
    _val_delete(addressof(val))
    _WHOLE.pack_into(val, 0, 0, 0, 0, 0)


def _encode(value: Any) -> bytes:
    if type(value) is not str:
        raise _wrong("string", value)
    # JSON can hold lone surrogates, a WIT string cannot, and Wasmtime aborts on bytes that are not UTF-8.
    return value.encode("utf-8", "replace")


def _wrong(expected: str, value: object) -> WrongType:
    return WrongType(f"a value of type {expected} was expected, not {value!r:.200} ({type(value).__name__})")


def _wrong_kind(expected: Type, kind: int) -> WrongType:
    return WrongType(f"a component value of type {text(expected)} was expected, but its kind is {kind}")


# -- records -----------------------------------------------------------------------------------------------


@cache
def record_class(record: Record) -> type[tuple[Any, ...]]:
    """The named tuple for a record: its fields in WIT's order, in snake case, with `_` after Python's keywords."""
    fields = [name.replace("-", "_") for name, _ in record.fields]
    fields = [f"{name}_" if keyword.iskeyword(name) else name for name in fields]
    name = "".join(part.capitalize() for part in record.name.split("-"))
    return namedtuple(name, fields)


# -- lifting -----------------------------------------------------------------------------------------------


@cache
def lifter(type_: Type) -> Lift:
    """A function that copies a component value of `type_` into Python.

    It raises `WrongType` before it reads anything that the value's kind does not warrant.
    """
    match type_:
        case Primitive("string"):
            return _lift_text(type_, _STRING)
        case Enum():
            return _lift_text(type_, _ENUM)
        case Primitive("bool" | "char" as name):
            return _lift_small(type_, name)
        case Primitive(name):
            return _lift_number(type_, name)
        case Option(of):
            return _lift_option(type_, of)
        case Result(ok, err):
            return _lift_result(type_, ok, err)
        case List(of):
            return _lift_list(type_, of)
        case Record():
            return _lift_record(type_)
        case Tuple(items):
            return _lift_tuple(type_, items)
        case _:
            assert_never(type_)


def _lift_text(type_: Type, expected: int) -> Lift:
    unpack, decode = _SLICE.unpack_from, _decode

    def lift(val: Val) -> str:
        kind, size, address = unpack(val)
        if kind != expected:
            raise _wrong_kind(type_, kind)
        return decode(address, size, b"replace") if size else ""

    return lift


def _lift_small(type_: Type, name: str) -> Lift:
    layout = Struct("@B7x?" if name == "bool" else "@B7xI")
    expected = getattr(_ffi, f"WASMTIME_COMPONENT_{name.upper()}").value
    convert = bool if name == "bool" else chr

    def lift(val: Val) -> Any:
        kind, value = layout.unpack_from(val)
        if kind != expected:
            raise _wrong_kind(type_, kind)
        return convert(value)

    return lift


def _lift_number(type_: Type, name: str) -> Lift:
    expected, layout, _, _, _ = _number(name)

    def lift(val: Val) -> Any:
        kind, value = layout.unpack_from(val)
        if kind != expected:
            raise _wrong_kind(type_, kind)
        return value

    return lift


def _lift_option(type_: Type, of: Type) -> Lift:
    if isinstance(of, Option):
        raise WrongType(f"{text(type_)} cannot be told apart in Python")
    unpack, inner, at = _POINTER.unpack_from, lifter(of), Val.from_address

    def lift(val: Val) -> Any:
        kind, address = unpack(val)
        if kind != _OPTION:
            raise _wrong_kind(type_, kind)
        return inner(at(address)) if address else None

    return lift


def _lift_result(type_: Type, ok: Type | None, err: Type | None) -> Lift:
    unpack, at = _RESULT.unpack_from, Val.from_address
    lift_ok = lifter(ok) if ok is not None else None
    lift_err = lifter(err) if err is not None else None

    def lift(val: Val) -> Any:
        kind, is_ok, address = unpack(val)
        if kind != _RESULT_KIND:
            raise _wrong_kind(type_, kind)
        inner = lift_ok if is_ok else lift_err
        if (inner is None) == bool(address):
            raise WrongType(f"a {text(type_)} without, or with too much, payload")
        value = inner(at(address)) if inner is not None else None
        return Ok(value) if is_ok else Err(value)

    return lift


def _lift_list(type_: Type, of: Type) -> Lift:
    unpack, inner, at = _SLICE.unpack_from, lifter(of), Val.from_address

    def lift(val: Val) -> list[Any]:
        kind, size, address = unpack(val)
        if kind != _LIST:
            raise _wrong_kind(type_, kind)
        return [inner(at(address + _VAL_BYTES * i)) for i in range(size)]

    return lift


def _lift_record(type_: Record) -> Lift:
    unpack, at = _SLICE.unpack_from, Val.from_address
    make: Callable[..., Any] = record_class(type_)._make  # type: ignore[attr-defined]
    inners = [(lifter(each), _ENTRY_BYTES * i + _ENTRY_VAL) for i, (_, each) in enumerate(type_.fields)]

    def lift(val: Val) -> Any:
        kind, size, address = unpack(val)
        if kind != _RECORD:
            raise _wrong_kind(type_, kind)
        if size != len(inners):
            raise WrongType(f"a record {type_.name} of {size} fields")
        return make([inner(at(address + offset)) for inner, offset in inners])

    return lift


def _lift_tuple(type_: Type, items: tuple[Type, ...]) -> Lift:
    unpack, at = _SLICE.unpack_from, Val.from_address
    inners = [(lifter(each), _VAL_BYTES * i) for i, each in enumerate(items)]

    def lift(val: Val) -> tuple[Any, ...]:
        kind, size, address = unpack(val)
        if kind != _TUPLE:
            raise _wrong_kind(type_, kind)
        if size != len(inners):
            raise WrongType(f"a {text(type_)} of {size} items")
        return tuple([inner(at(address + offset)) for inner, offset in inners])

    return lift


# -- lowering: both ways ------------------------------------------------------------------------------------


@cache
def lowerer(type_: Type) -> Lower:
    """A function that writes a Python value into a slot as an owned value of `type_`.

    The slot must be empty: what it held before is overwritten, not freed.  When the value is not of its type the
    function raises `WrongType`, has freed what it had made, and the slot is empty.
    """
    return _owned(type_)


@cache
def borrower(type_: Type) -> Borrow:
    """A function that writes a Python value into a slot as a borrowed value of `type_`.

    It returns what the slot points to: keep that until the call's future is done, and do not free the slot.  It raises
    `WrongType` when the value is not of its type.
    """
    return _borrowed(type_)


def _scalar(type_: Type) -> Lower | None:
    """Lowering of what has no memory of its own; the same whoever owns it."""
    match type_:
        case Primitive("bool"):
            bool_kind, bool_layout = _ffi.WASMTIME_COMPONENT_BOOL.value, Struct("@B7x?")

            def lower_bool(val: Val, value: Any) -> None:
                if type(value) is not bool:
                    raise _wrong("bool", value)
                bool_layout.pack_into(val, 0, bool_kind, value)

            return lower_bool
        case Primitive("char"):
            char_kind, char_layout = _ffi.WASMTIME_COMPONENT_CHAR.value, Struct("@B7xI")

            def lower_char(val: Val, value: Any) -> None:
                if type(value) is not str or len(value) != 1 or 0xD800 <= ord(value) <= 0xDFFF:
                    raise _wrong("char", value)
                char_layout.pack_into(val, 0, char_kind, ord(value))

            return lower_char
        case Primitive("string"):
            return None
        case Primitive(name):
            kind, layout, python, low, high = _number(name)
            bounded = python is int

            def lower_number(val: Val, value: Any) -> None:
                fits = type(value) is python
                if not fits or (bounded and not low <= value <= high):
                    raise _wrong(name, value)
                layout.pack_into(val, 0, kind, value)

            return lower_number
        case _:
            return None


# -- lowering: owned ----------------------------------------------------------------------------------------


def _owned(type_: Type) -> Lower:
    scalar = _scalar(type_)
    if scalar is not None:
        return scalar
    match type_:
        case Enum(name, cases):
            return _own_text(_ENUM, {case: case.encode() for case in cases}, name)
        case Option(of):
            return _own_option(type_, of)
        case Result(ok, err):
            return _own_result(ok, err)
        case List(of):
            return _own_list(of)
        case Record():
            return _own_record(type_)
        case Tuple(items):
            return _own_tuple(items)
        case _:
            return _own_text(_STRING, None, "string")


def _own_text(kind: int, cases: dict[str, bytes] | None, name: str) -> Lower:
    pack, new, encode = _KIND.pack_into, _bytes_new, _encode

    def lower(val: Val, value: Any) -> None:
        raw = encode(value) if cases is None else _case(cases, name, value)
        new(addressof(val) + _UNION, len(raw), raw)
        pack(val, 0, kind)

    return lower


def _case(cases: dict[str, bytes], name: str, value: Any) -> bytes:
    raw = cases.get(value) if type(value) is str else None
    if raw is None:
        raise _wrong(f"enum {name} ({', '.join(cases)})", value)
    return raw


def _own_option(type_: Type, of: Type) -> Lower:
    if isinstance(of, Option):
        raise WrongType(f"{text(type_)} cannot be told apart in Python")
    pack, inner, new = _POINTER.pack_into, _owned(of), _val_new

    def lower(val: Val, value: Any) -> None:
        address = 0
        if value is not None:
            scratch = Val()
            inner(scratch, value)
            address = new(addressof(scratch))
        pack(val, 0, _OPTION, address)

    return lower


def _own_result(ok: Type | None, err: Type | None) -> Lower:
    pack, new = _RESULT.pack_into, _val_new
    sides = {Ok: _owned(ok) if ok is not None else None, Err: _owned(err) if err is not None else None}

    def lower(val: Val, value: Any) -> None:
        side = type(value)
        if side not in sides:
            raise _wrong("result", value)
        inner, address = sides[side], 0
        if inner is not None:
            scratch = Val()
            inner(scratch, value.value)
            address = new(addressof(scratch))
        elif value.value is not None:
            raise _wrong("_ (nothing)", value.value)
        pack(val, 0, _RESULT_KIND, side is Ok, address)

    return lower


def _fill(val: Val, kind: int, size: int, stride: int, write: Callable[[int], None]) -> None:
    """Fill the elements of a fresh list, record or tuple, or free it whole."""
    _, _, address = _SLICE.unpack_from(val)
    if size:
        # So that the whole may be freed when one element fails: an empty slot owns nothing.
        ctypes.memset(address, 0, size * stride)
    _KIND.pack_into(val, 0, kind)
    try:
        write(address)
    except BaseException:
        free(val)
        raise


def _own_list(of: Type) -> Lower:
    inner, at = _owned(of), Val.from_address

    def lower(val: Val, value: Any) -> None:
        if type(value) is not list:
            raise _wrong("list", value)

        def write(address: int) -> None:
            for i, each in enumerate(value):
                inner(at(address + _VAL_BYTES * i), each)

        _list_new(addressof(val) + _UNION, len(value))
        _fill(val, _LIST, len(value), _VAL_BYTES, write)

    return lower


def _own_tuple(items: tuple[Type, ...]) -> Lower:
    inners, at = [_owned(each) for each in items], Val.from_address

    def lower(val: Val, value: Any) -> None:
        if not isinstance(value, tuple) or len(value) != len(inners):
            raise _wrong(f"tuple of {len(inners)}", value)

        def write(address: int) -> None:
            for i, (inner, each) in enumerate(zip(inners, value, strict=True)):
                inner(at(address + _VAL_BYTES * i), each)

        _tuple_new(addressof(val) + _UNION, len(inners))
        _fill(val, _TUPLE, len(inners), _VAL_BYTES, write)

    return lower


def _own_record(type_: Record) -> Lower:
    at = Val.from_address
    inners = [(name.encode(), _owned(each)) for name, each in type_.fields]

    def lower(val: Val, value: Any) -> None:
        if not isinstance(value, tuple) or len(value) != len(inners):
            raise _wrong(f"record {type_.name} of {len(inners)} fields", value)

        def write(address: int) -> None:
            for (name, inner), each in zip(inners, value, strict=True):
                _bytes_new(address, len(name), name)
                inner(at(address + _ENTRY_VAL), each)
                address += _ENTRY_BYTES

        _record_new(addressof(val) + _UNION, len(inners))
        _fill(val, _RECORD, len(inners), _ENTRY_BYTES, write)

    return lower


# -- lowering: borrowed -------------------------------------------------------------------------------------


def _borrowed(type_: Type) -> Borrow:
    scalar = _scalar(type_)
    if scalar is not None:
        return scalar
    match type_:
        case Enum(name, cases):
            return _borrow_text(_ENUM, {case: case.encode() for case in cases}, name)
        case Option(of):
            return _borrow_option(type_, of)
        case Result(ok, err):
            return _borrow_result(ok, err)
        case List(of):
            return _borrow_list(of)
        case Record():
            return _borrow_record(type_)
        case Tuple(items):
            return _borrow_tuple(items)
        case _:
            return _borrow_text(_STRING, None, "string")


def _borrow_text(kind: int, cases: dict[str, bytes] | None, name: str) -> Borrow:
    pack = _SLICE.pack_into

    def borrow(val: Val, value: Any) -> object:
        raw = _encode(value) if cases is None else _case(cases, name, value)
        pack(val, 0, kind, len(raw), _address_of(raw))
        return raw

    return borrow


def _borrow_option(type_: Type, of: Type) -> Borrow:
    if isinstance(of, Option):
        raise WrongType(f"{text(type_)} cannot be told apart in Python")
    pack, inner = _POINTER.pack_into, _borrowed(of)

    def borrow(val: Val, value: Any) -> object:
        if value is None:
            pack(val, 0, _OPTION, 0)
            return None
        held = Val()
        kept = inner(held, value)
        pack(val, 0, _OPTION, addressof(held))
        return held, kept

    return borrow


def _borrow_result(ok: Type | None, err: Type | None) -> Borrow:
    pack = _RESULT.pack_into
    sides = {Ok: _borrowed(ok) if ok is not None else None, Err: _borrowed(err) if err is not None else None}

    def borrow(val: Val, value: Any) -> object:
        side = type(value)
        if side not in sides:
            raise _wrong("result", value)
        inner = sides[side]
        if inner is None:
            if value.value is not None:
                raise _wrong("_ (nothing)", value.value)
            pack(val, 0, _RESULT_KIND, side is Ok, 0)
            return None
        held = Val()
        kept = inner(held, value.value)
        pack(val, 0, _RESULT_KIND, side is Ok, addressof(held))
        return held, kept

    return borrow


def _borrow_list(of: Type) -> Borrow:
    pack, inner = _SLICE.pack_into, _borrowed(of)

    def borrow(val: Val, value: Any) -> object:
        if type(value) is not list:
            raise _wrong("list", value)
        held = (Val * max(1, len(value)))()
        kept = [inner(slot, each) for slot, each in zip(held, value, strict=False)]
        pack(val, 0, _LIST, len(value), addressof(held))
        return held, kept

    return borrow


def _borrow_tuple(items: tuple[Type, ...]) -> Borrow:
    pack, inners = _SLICE.pack_into, [_borrowed(each) for each in items]
    array = Val * len(inners)

    def borrow(val: Val, value: Any) -> object:
        if not isinstance(value, tuple) or len(value) != len(inners):
            raise _wrong(f"tuple of {len(inners)}", value)
        held = array()
        kept = [inner(slot, each) for inner, slot, each in zip(inners, held, value, strict=True)]
        pack(val, 0, _TUPLE, len(inners), addressof(held))
        return held, kept

    return borrow


def _borrow_record(type_: Record) -> Borrow:
    pack, at, pack_name = _SLICE.pack_into, Val.from_address, Struct("@NP").pack_into
    # The names never change: they are kept by this closure.
    names = [ctypes.create_string_buffer(name.encode()) for name, _ in type_.fields]
    inners = [_borrowed(each) for _, each in type_.fields]
    entries = ctypes.c_char * (_ENTRY_BYTES * len(inners))

    def borrow(val: Val, value: Any) -> object:
        if not isinstance(value, tuple) or len(value) != len(inners):
            raise _wrong(f"record {type_.name} of {len(inners)} fields", value)
        held = entries()
        start = addressof(held)
        kept = []
        for i, (name, inner, each) in enumerate(zip(names, inners, value, strict=True)):
            pack_name(held, _ENTRY_BYTES * i, len(name) - 1, addressof(name))
            kept.append(inner(at(start + _ENTRY_BYTES * i + _ENTRY_VAL), each))
        pack(val, 0, _RECORD, len(inners), start)
        return held, kept

    return borrow
