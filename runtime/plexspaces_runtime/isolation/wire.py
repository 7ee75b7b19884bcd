"""What a node and a process with its guests say to each other: frames of JSON, read by their WIT types.

The process is not believed: somebody may have broken out of a guest in there.  So the node takes from a frame only what
the type of the value allows, and a frame that is anything else is the end of the process.  JSON, because nothing that
is read can do anything, and payloads are JSON text already.

A frame is its length, four bytes little-endian, and a JSON array: a `Word`, the number of the instance, and what
belongs to it.

    node -> process                                     process -> node
    LOAD   component, path                              READY  how it is confined
    MAKE   instance, component, memory, processor time  DONE   instance, used_ns, result
    BEGIN  instance, export, arguments                  ASKS   instance, used_ns, function, arguments
    ANSWER instance, value                              SPENT  instance, used_ns
    GO_ON  instance                                     PONG   number
    CLOSE  instance
    PING   number
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, Final, assert_never

import orjson

from ..actors import exits
from ..actors.exits import Exit, Reason
from ..actors.guest import Err, Export, Failure, Ok, Result, Trapped
from ..errors import InternalError
from ..wasm import wit
from ..wasm.fiber import failure
from ..wasm.values import record_class
from ..wasm.wit import Enum, List, Option, Package, Primitive, Record, Tuple, Type

LENGTH_BYTES: Final = 4
# A guest's whole memory as one text is the longest that an honest process has to say.
FRAME_BYTES_MAX: Final = 64 << 20


class Word(IntEnum):
    """What a frame is about."""

    LOAD = 1
    MAKE = 2
    BEGIN = 3
    ANSWER = 4
    GO_ON = 5
    CLOSE = 6
    PING = 7
    READY = 8
    DONE = 9
    ASKS = 10
    SPENT = 11
    PONG = 12


class Malformed(InternalError):
    """What the other side sent is no frame, or not of its type: it is not to be talked to any more."""


class TooLong(InternalError):
    """A frame would be longer than the other side takes."""


# -- frames ------------------------------------------------------------------------------------------------


def frame(*parts: Any) -> bytes:
    """A frame, ready to be sent.

    Raises:
        TooLong: it has more than `FRAME_BYTES_MAX`.
    """
    try:
        body = orjson.dumps(parts)
    except orjson.JSONEncodeError:
        # Lone surrogates, which a text of Python's can hold and a WIT string cannot: as `wasm.values` lowers them.
        body = orjson.dumps(_without_surrogates(parts))
    if len(body) > FRAME_BYTES_MAX:
        raise TooLong(f"{len(body)} bytes at once are more than the {FRAME_BYTES_MAX} that pass between processes")
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def _without_surrogates(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case list() | tuple():
            return [_without_surrogates(each) for each in value]
        case _:
            return value


class Frames:
    """Takes bytes as they come, and gives whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[list[Any]]:
        """The frames that are whole now, as they were sent.

        Raises:
            Malformed: no frame begins here, or one that is too long.
        """
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= LENGTH_BYTES:
                size = int.from_bytes(buffer[at : at + LENGTH_BYTES], "little")
                if size > FRAME_BYTES_MAX:
                    raise Malformed(f"a frame of {size} bytes")
                end = at + LENGTH_BYTES + size
                if len(buffer) < end:
                    break
                # A view: the body is not copied before it is read.  It must be gone before the buffer changes.
                with memoryview(buffer) as view, view[at + LENGTH_BYTES : end] as body:
                    content = _parsed(body)
                at = end
                yield content
        finally:
            del buffer[:at]


def _parsed(body: memoryview) -> list[Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"not JSON: {error}") from None
    if not isinstance(content, list) or not content or type(content[0]) is not int:
        raise Malformed("a frame is a word and what belongs to it")
    return content


# -- values, by WIT type -----------------------------------------------------------------------------------

Encode = Callable[[Any], Any]
Decode = Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def encoder(type_: Type) -> Encode | None:
    """What makes JSON's equivalent of a value of this type; None where that is the value itself."""
    match type_:
        case Primitive() | Enum():
            return None
        case Option(of):
            inner = encoder(of)
            return None if inner is None else lambda value: None if value is None else inner(value)
        case List(of):
            return _list_encoder(encoder(of))
        case wit.Result(ok, err):
            return _result_encoder(None if ok is None else encoder(ok), None if err is None else encoder(err))
        case Record(_, fields):
            return _items_encoder([encoder(each) for _, each in fields])
        case Tuple(items):
            return _items_encoder([encoder(each) for each in items])
        case _:
            assert_never(type_)


def _list_encoder(inner: Encode | None) -> Encode | None:
    return None if inner is None else lambda value: [inner(each) for each in value]


def _items_encoder(inners: list[Encode | None]) -> Encode:
    if not any(inners):
        # Named tuples are no tuples to JSON.
        return list
    each_encoded = [inner or _same for inner in inners]
    return lambda value: [inner(each) for inner, each in zip(each_encoded, value, strict=True)]


def _result_encoder(ok: Encode | None, err: Encode | None) -> Encode:
    good, bad = ok or _same, err or _same
    return lambda value: [0, good(value.value)] if type(value) is Ok else [1, bad(value.value)]


def decoder(type_: Type) -> Decode:
    """What makes a value of this type from JSON's equivalent; it raises `Malformed` for anything else."""
    match type_:
        case Primitive(name):
            return _primitive_decoder(name)
        case Enum(name, cases):
            return _enum_decoder(name, frozenset(cases))
        case Option(of):
            inner = decoder(of)
            return lambda value: None if value is None else inner(value)
        case List(of):
            return _list_decoder(decoder(of))
        case wit.Result(ok, err):
            return _result_decoder(_side_decoder(ok), _side_decoder(err))
        case Record(_, fields):
            make: Callable[..., Any] = record_class(type_)._make  # type: ignore[attr-defined]
            return _items_decoder([decoder(each) for _, each in fields], make)
        case Tuple(items):
            return _items_decoder([decoder(each) for each in items], tuple)
        case _:
            assert_never(type_)


def _primitive_decoder(name: str) -> Decode:
    match name:
        case "string" | "char":
            return _text
        case "bool":
            return _boolean
        case "f32" | "f64":
            return _float
        case _:
            bits = int(name[1:])
            low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if name[0] == "s" else (0, (1 << bits) - 1)
            return lambda value: integer(value, low, high)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise _not("a text", value)
    return value


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise _not("true or false", value)
    return value


def _float(value: Any) -> float:
    if type(value) is not float:
        raise _not("a float", value)
    return value


def integer(value: Any, low: int, high: int) -> int:
    """A whole number of this range.

    Raises:
        Malformed
    """
    if type(value) is not int or not low <= value <= high:
        raise _not(f"a whole number from {low} to {high}", value)
    return value


def _enum_decoder(name: str, cases: frozenset[str]) -> Decode:
    def decode(value: Any) -> str:
        if type(value) is not str or value not in cases:
            raise _not(f"a case of {name}", value)
        return value

    return decode


def _list_decoder(inner: Decode) -> Decode:
    def decode(value: Any) -> list[Any]:
        if type(value) is not list:
            raise _not("a list", value)
        return [inner(each) for each in value]

    return decode


def _items_decoder(inners: list[Decode], make: Callable[..., Any]) -> Decode:
    def decode(value: Any) -> Any:
        if type(value) is not list or len(value) != len(inners):
            raise _not(f"{len(inners)} values", value)
        return make([inner(each) for inner, each in zip(inners, value, strict=True)])

    return decode


def _nothing(value: Any) -> None:
    if value is not None:
        raise _not("nothing", value)


def _side_decoder(type_: Type | None) -> Decode:
    return _nothing if type_ is None else decoder(type_)


def _result_decoder(ok: Decode, err: Decode) -> Decode:
    def decode(value: Any) -> Ok | Err:
        match value:
            case [0, good]:
                return Ok(ok(good))
            case [1, bad]:
                return Err(err(bad))
            case _:
                raise _not("a result", value)

    return decode


def _not(expected: str, value: object) -> Malformed:
    return Malformed(f"{value!r:.100} is not {expected}")


# -- calls -------------------------------------------------------------------------------------------------


class _Items:
    """Arguments, in order."""

    __slots__ = ("decode", "encode")

    def __init__(self, types: list[Type]) -> None:
        self.encode = _items_encoder([encoder(each) for each in types])
        self.decode = _items_decoder([decoder(each) for each in types], tuple)


class Contract:
    """How the calls of our WIT package are written: of exports by the node, of imports by a guest.

    Args:
        package: the WIT; both sides read the same.
    """

    def __init__(self, package: Package) -> None:
        self._exports = {export: _Items(_parameters(package, export)) for export in Export}
        # By their place in the package: shorter than names, and nothing else can be meant.
        self.functions: tuple[tuple[str, str], ...] = tuple(
            (interface.name, function.name)
            for interface in package.interfaces.values()
            for function in interface.functions.values()
        )
        self.numbers = {name: number for number, name in enumerate(self.functions)}
        functions = [package.interfaces[interface].functions[name] for interface, name in self.functions]
        self._imports = [_Items([type_ for _, type_ in function.params]) for function in functions]
        self._answers: list[tuple[Encode, Decode]] = [
            (_same, _nothing) if each.result is None else (encoder(each.result) or _same, decoder(each.result))
            for each in functions
        ]

    def call(self, export: Export, arguments: tuple[Any, ...]) -> Any:
        """The arguments of an export."""
        return self._exports[export].encode(arguments)

    def called(self, export: Export, content: Any) -> tuple[Any, ...]:
        """And back."""
        arguments: tuple[Any, ...] = self._exports[export].decode(content)
        return arguments

    def ask(self, number: int, arguments: tuple[Any, ...]) -> Any:
        """The arguments of an import."""
        return self._imports[number].encode(arguments)

    def asked(self, number: Any, content: Any) -> tuple[str, str, tuple[Any, ...]]:
        """And back: interface, function, arguments.

        Raises:
            Malformed
        """
        number = integer(number, 0, len(self.functions) - 1)
        return *self.functions[number], self._imports[number].decode(content)

    def answer(self, number: int, value: Any) -> Any:
        """The result of an import."""
        return self._answers[number][0](value)

    def answered(self, number: int, content: Any) -> Any:
        """And back."""
        return self._answers[number][1](content)


def _parameters(package: Package, export: Export) -> list[Type]:
    if export is Export.INSTANTIATE:
        return []
    types = [type_ for _, type_ in package.world.exports[export.value].params]
    if export is Export.HANDLE:
        # The envelope is handed over field by field: see `wasm.calls`.
        (envelope,) = types
        assert isinstance(envelope, Record)
        return [wit.STRING] * len(envelope.fields)
    return types


# -- results -----------------------------------------------------------------------------------------------

# What a dead instance can say of its end; every other reason is the node's to give.
_TRAPS = {reason.value: reason for reason in (Reason.CRASHED, Reason.LIMIT)}
_TEXT_CHARS_MAX = 16_384


def encode_result(result: Result) -> Any:
    """A result of an export."""
    match result:
        case Failure(crashed, code, message, details, traceback):
            return [crashed, code, message, details, traceback]
        case Trapped(exit_):
            return [exit_.reason.value, exit_.subject, exit_.message, exit_.traceback]
        case _:
            return result


def decode_result(content: Any) -> Result:
    """And back, no longer than it may be.

    Raises:
        Malformed
    """
    match content:
        case None | str():
            return content
        case [bool(crashed), str(code), str(message), str(details), str(traceback)]:
            return failure(crashed=crashed, code=code, message=message, details=details, traceback=traceback)
        case [str(reason), str(subject), str(message), str(traceback)] if reason in _TRAPS:
            return Trapped(
                Exit(
                    _TRAPS[reason],
                    subject[:256],
                    message[:_TEXT_CHARS_MAX],
                    traceback[:_TEXT_CHARS_MAX],
                )
            )
        case _:
            raise _not("a result", content)


def internal(fault: BaseException) -> Trapped:
    """An instance is given up because of a fault of ours."""
    return Trapped(exits.crashed("internal", f"a fault of the node ({type(fault).__name__}: {fault})"))
