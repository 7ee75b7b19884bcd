"""Lowering and lifting: what goes in comes out, what is not of its type is refused before memory is touched."""

from __future__ import annotations

import ctypes
import gc
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plexspaces_runtime.wasm import wit
from plexspaces_runtime.wasm.values import Err, Ok, Val, WrongType, borrower, free, lifter, lowerer, record_class
from plexspaces_runtime.wasm.wit import (
    BOOL,
    CHAR,
    F32,
    F64,
    PRIMITIVES,
    STRING,
    U8,
    U64,
    Enum,
    List,
    Option,
    Record,
    Result,
    Tuple,
)

POINT = Record("a-point", (("x-y", U64), ("from", STRING), ("hue", Enum("colour", ("dark-red", "blue")))))
RANGES = {f"{sign}{bits}": bits for sign in "us" for bits in (8, 16, 32, 64)}


def through_owned(type_: wit.Type, value: Any) -> Any:
    val = Val()
    lowerer(type_)(val, value)
    lifted = lifter(type_)(val)
    free(val)
    assert bytes(val) == bytes(ctypes.sizeof(Val))
    return lifted


def through_borrowed(type_: wit.Type, value: Any) -> Any:
    val = Val()
    kept = borrower(type_)(val, value)
    gc.collect()
    lifted = lifter(type_)(val)
    del kept
    return lifted


def python_values(type_: wit.Type) -> st.SearchStrategy[Any]:
    """Any Python value of a WIT type."""
    match type_:
        case wit.Primitive("bool"):
            return st.booleans()
        case wit.Primitive("string"):
            return st.text()
        case wit.Primitive("char"):
            return st.characters(exclude_categories=["Cs"])
        case wit.Primitive("f32"):
            return st.floats(width=32, allow_nan=False)
        case wit.Primitive("f64"):
            return st.floats(allow_nan=False)
        case wit.Primitive(name):
            bits = RANGES[name]
            low, high = (0, 2**bits - 1) if name[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            return st.integers(low, high)
        case Enum(_, cases):
            return st.sampled_from(cases)
        case Option(of):
            return st.none() | python_values(of)
        case List(of):
            return st.lists(python_values(of), max_size=4)
        case Tuple(items):
            return st.tuples(*map(python_values, items))
        case Record(_, fields):
            return st.tuples(*(python_values(each) for _, each in fields)).map(record_class(type_)._make)  # type: ignore[attr-defined]
        case Result(ok, err):
            oks = st.just(Ok()) if ok is None else python_values(ok).map(Ok)
            errs = st.just(Err()) if err is None else python_values(err).map(Err)
            return oks | errs


LEAVES = st.sampled_from([*PRIMITIVES.values(), Enum("e", ("a", "b-c")), POINT])


def _wider(inner: st.SearchStrategy[wit.Type]) -> st.SearchStrategy[wit.Type]:
    sides = st.none() | inner
    return (
        inner.map(List)
        | inner.filter(lambda each: not isinstance(each, Option)).map(Option)
        | st.builds(Result, sides, sides)
        | st.lists(inner, min_size=1, max_size=3).map(lambda items: Tuple(tuple(items)))
        | st.lists(inner, min_size=1, max_size=3).map(
            lambda items: Record("r", tuple((f"f-{i}", each) for i, each in enumerate(items)))
        )
    )


TYPES = st.recursive(LEAVES, _wider, max_leaves=5)


@given(st.data())
def test_what_goes_in_comes_out(data: st.DataObject) -> None:
    type_ = data.draw(TYPES)
    value = data.draw(python_values(type_))
    assert through_owned(type_, value) == value
    assert through_borrowed(type_, value) == value


@settings(max_examples=30)
@given(st.data())
def test_every_type_of_our_package(data: st.DataObject) -> None:
    package = wit.load()
    functions = [
        *package.world.exports.values(),
        *(function for interface in package.interfaces.values() for function in interface.functions.values()),
    ]
    function = data.draw(st.sampled_from(functions))
    types = [type_ for _, type_ in function.params]
    if function.result is not None:
        types.append(function.result)
    for type_ in types:
        value = data.draw(python_values(type_))
        assert through_owned(type_, value) == value
        assert through_borrowed(type_, value) == value


class TestRepresentation:
    def test_none_in_an_option_is_none_whatever_surrounds_it(self) -> None:
        maybe = Result(Option(STRING), STRING)
        assert through_owned(maybe, Ok(None)) == Ok(None)
        assert through_owned(maybe, Err("")) == Err("")
        assert through_owned(Option(Result(None, None)), Ok()) == Ok()
        assert through_owned(Option(Result(None, None)), None) is None

    def test_an_option_of_an_option_is_refused_when_it_is_made_not_when_it_is_used(self) -> None:
        for make in (lifter, lowerer, borrower):
            with pytest.raises(WrongType, match="option<option<u8>>"):
                make(Option(Option(U8)))

    def test_ok_and_err_differ(self) -> None:
        assert Ok(1) != Err(1)
        assert Ok(1) == Ok(1)
        assert hash(Err("x")) != hash(Ok("x"))
        assert repr(Err("x")) == "Err('x')"

    def test_records_are_named_tuples_with_names_that_python_can_write(self) -> None:
        point: Any = through_owned(POINT, (7, "here", "dark-red"))
        assert (point.x_y, point.from_, point.hue) == (7, "here", "dark-red")
        assert type(point) is record_class(POINT)

    def test_nul_and_the_far_planes_in_strings(self) -> None:
        text = "a\0b\u00e9\U0001f600"
        assert through_owned(STRING, text) == text
        assert through_borrowed(STRING, text) == text

    def test_a_megabyte(self) -> None:
        text = "x" * (1 << 20)
        assert through_owned(List(STRING), [text, text]) == [text, text]

    def test_lone_surrogates_are_replaced_because_wasmtime_aborts_on_what_is_not_utf8(self) -> None:
        assert through_owned(STRING, "a\ud800b") == "a?b"
        assert through_borrowed(STRING, "a\udfffb") == "a?b"

    def test_floats_keep_their_specials(self) -> None:
        assert math.isnan(through_owned(F64, math.nan))
        assert through_owned(F32, math.inf) == math.inf


WRONG: list[tuple[wit.Type, Any]] = [
    (STRING, b"bytes"),
    (STRING, None),
    (BOOL, 1),
    (U8, 256),
    (U8, -1),
    (U8, True),
    (U8, 1.0),
    (wit.S64, 2**63),
    (F64, 1),
    (CHAR, "ab"),
    (CHAR, "\ud800"),
    (Enum("e", ("a",)), "b"),
    (Enum("e", ("a",)), ["a"]),
    (List(U8), (1, 2)),
    (List(U8), [1, "2"]),
    (Tuple((U8, STRING)), (1,)),
    (Tuple((U8, STRING)), (1, 2)),
    (POINT, (1, "x")),
    (POINT, (1, "x", "green")),
    (Option(U8), "x"),
    (Result(STRING, None), "bare"),
    (Result(STRING, None), Ok()),
    (Result(None, STRING), Ok("too much")),
    (List(POINT), [(1, "x", "blue"), (1, "y", 3)]),
    (List(Result(List(STRING), None)), [Ok(["a"]), Ok(["b", 1])]),
]


class TestRefusals:
    @pytest.mark.parametrize(("type_", "value"), WRONG)
    def test_lowering_raises_and_leaves_an_empty_slot(self, type_: wit.Type, value: Any) -> None:
        val = Val()
        with pytest.raises(WrongType):
            lowerer(type_)(val, value)
        assert val.kind == 0
        # Deleting what is left is harmless: nothing is freed twice.
        free(val)

    @pytest.mark.parametrize(("type_", "value"), WRONG)
    def test_borrowing_raises(self, type_: wit.Type, value: Any) -> None:
        with pytest.raises(WrongType):
            borrower(type_)(Val(), value)

    def test_lowering_that_fails_half_way_frees_what_it_had_made(self) -> None:
        lower, val = lowerer(List(Tuple((STRING, U8)))), Val()
        large = "x" * (1 << 20)

        def fail_often(times: int) -> None:
            for _ in range(times):
                with pytest.raises(WrongType):
                    lower(val, [(large, 1), (large, "wrong")])

        fail_often(20)
        before = resident_bytes()
        fail_often(200)
        assert resident_bytes() - before < 50 << 20, "200 failures of 2 MiB each were kept"

    @pytest.mark.parametrize("type_", [*PRIMITIVES.values(), List(U8), Tuple((U8,)), Option(U8), Result(U8, U8), POINT])
    def test_lifting_looks_at_the_kind_before_it_follows_a_pointer(self, type_: wit.Type) -> None:
        for kind in range(22):
            val = Val()
            # Every pointer in the union is one to nowhere.
            ctypes.memset(ctypes.addressof(val), 0x11, ctypes.sizeof(val))
            val.kind = kind
            mine = Val()
            if isinstance(type_, wit.Primitive):
                lowerer(type_)(
                    mine, {"bool": True, "string": "", "char": "x", "f32": 0.0, "f64": 0.0}.get(type_.name, 0)
                )
            else:
                lowerer(type_)(mine, ANY_OF[type(type_)])
            if kind == mine.kind:
                continue
            with pytest.raises(WrongType, match=f"kind is {kind}"):
                lifter(type_)(val)

    def test_a_record_of_other_length(self) -> None:
        val = Val()
        lowerer(Record("r", (("a", U8),)))(val, (1,))
        with pytest.raises(WrongType, match="of 1 fields"):
            lifter(POINT)(val)
        free(val)

    def test_a_result_whose_payload_is_missing(self) -> None:
        val = Val()
        lowerer(Result(None, None))(val, Ok())
        with pytest.raises(WrongType, match="payload"):
            lifter(Result(STRING, None))(val)


ANY_OF: dict[type, Any] = {List: [], Tuple: (1,), Option: None, Result: Ok(1), Record: (1, "", "blue")}


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * 4096


def test_free_may_be_called_again_and_the_slot_used_again() -> None:
    val = Val()
    for text in ("one", "two"):
        lowerer(STRING)(val, text)
        assert lifter(STRING)(val) == text
        free(val)
        free(val)
