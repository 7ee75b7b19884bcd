"""Frames and values between processes: everything comes back as it was, and what is not of its type is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.actors import exits
from plexspaces_runtime.actors.guest import Err, Export, Failure, Ok, Result, Trapped
from plexspaces_runtime.isolation.wire import (
    FRAME_BYTES_MAX,
    Contract,
    Frames,
    Malformed,
    TooLong,
    Word,
    decode_result,
    decoder,
    encode_result,
    encoder,
    frame,
)
from plexspaces_runtime.wasm import wit
from plexspaces_runtime.wasm.values import record_class
from plexspaces_runtime.wasm.wit import List, Option, Primitive, Record, Tuple, Type

PACKAGE = wit.load()
CONTRACT = Contract(PACKAGE)
NUMBERS = {f"{sign}{bits}" for sign in "su" for bits in (8, 16, 32, 64)}


def types() -> st.SearchStrategy[Type]:
    leaves = st.sampled_from([*map(Primitive, sorted(NUMBERS)), wit.STRING, wit.BOOL, wit.Enum("e", ("one", "two"))])
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            inner.map(List),
            inner.filter(lambda each: not isinstance(each, Option)).map(Option),
            st.lists(inner, min_size=1, max_size=3).map(lambda items: Tuple(tuple(items))),
            st.tuples(inner | st.none(), inner | st.none()).map(lambda sides: wit.Result(*sides)),
            st.lists(inner, min_size=1, max_size=3).map(
                lambda items: Record("r", tuple((f"f{number}", each) for number, each in enumerate(items)))
            ),
        ),
        max_leaves=6,
    )


def values(type_: Type) -> st.SearchStrategy[Any]:
    match type_:
        case Primitive("string"):
            return st.text(st.characters(exclude_categories=["Cs"]))
        case Primitive("bool"):
            return st.booleans()
        case Primitive(name):
            half = 1 << int(name[1:]) - 1
            return st.integers(-half, half - 1) if name[0] == "s" else st.integers(0, 2 * half - 1)
        case wit.Enum(_, cases):
            return st.sampled_from(cases)
        case Option(of):
            return st.none() | values(of)
        case List(of):
            return st.lists(values(of), max_size=3)
        case Tuple(items):
            return st.tuples(*map(values, items))
        case Record(_, fields):
            return st.tuples(*(values(each) for _, each in fields)).map(record_class(type_)._make)  # type: ignore[attr-defined]
        case wit.Result(ok, err):
            return st.one_of(
                (st.none() if ok is None else values(ok)).map(Ok), (st.none() if err is None else values(err)).map(Err)
            )
    raise AssertionError(type_)


@given(st.data())
def test_every_value_comes_back_as_it_was(data: st.DataObject) -> None:
    type_ = data.draw(types())
    value = data.draw(values(type_))
    encode = encoder(type_) or (lambda each: each)
    (content,) = Frames().feed(frame(Word.PING, encode(value)))
    back = decoder(type_)(content[1])
    assert back == value
    assert type(back) is type(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(types(), json_values)
def test_anything_else_is_refused_and_nothing_else_happens(type_: Type, content: Any) -> None:
    try:
        value = decoder(type_)(content)
    except Malformed:
        return
    assert (encoder(type_) or (lambda each: each))(value) == content


@given(st.binary(max_size=200))
def test_bytes_that_are_no_frames_are_refused(data: bytes) -> None:
    try:
        for content in Frames().feed(data):
            assert type(content[0]) is int
    except Malformed:
        pass


@given(st.lists(st.lists(st.integers(0, 9) | st.text("aü\U0001f600"), max_size=3)), st.integers(1, 9))
def test_frames_are_whole_however_they_are_cut(contents: list[list[Any]], step: int) -> None:
    raw = b"".join(frame(Word.PONG, *content) for content in contents)
    frames = Frames()
    seen = [each for at in range(0, len(raw), step) for each in frames.feed(raw[at : at + step])]
    assert seen == [[Word.PONG, *content] for content in contents]


def test_a_frame_has_a_longest() -> None:
    with pytest.raises(Malformed, match="a frame of"):
        list(Frames().feed((FRAME_BYTES_MAX + 1).to_bytes(4, "little")))
    assert list(Frames().feed(FRAME_BYTES_MAX.to_bytes(4, "little"))) == []
    overhead = len(frame(Word.PING, "")) - 4
    frame(Word.PING, "x" * (FRAME_BYTES_MAX - overhead))
    with pytest.raises(TooLong):
        frame(Word.PING, "x" * (FRAME_BYTES_MAX - overhead + 1))


def test_lone_surrogates_become_what_a_wit_string_can_hold() -> None:
    (content,) = Frames().feed(frame(Word.ANSWER, 1, [0, "a\ud800b"], ("\udfff", 2)))
    assert content == [Word.ANSWER, 1, [0, "a?b"], ["?", 2]]


def test_the_contract_covers_every_function_and_export() -> None:
    assert len(CONTRACT.functions) == sum(len(each.functions) for each in PACKAGE.interfaces.values())
    config = ("a", "r", "{}", False, "{}")
    for export, arguments in {
        Export.INSTANTIATE: (),
        Export.DESCRIBE: (),
        Export.INIT: (config,),
        Export.SET_STATE: (config, "{}"),
        Export.GET_STATE: (),
        Export.HANDLE: ("id", "call", "op", "{}", "", ""),
        Export.TERMINATE: ("normal",),
    }.items():
        assert CONTRACT.called(export, CONTRACT.call(export, arguments)) == arguments


@pytest.mark.parametrize("number", [-1, 10_000, True, "0", None])
def test_a_function_that_there_is_not_is_refused(number: object) -> None:
    with pytest.raises(Malformed):
        CONTRACT.asked(number, [])


@pytest.mark.parametrize(
    "result",
    [
        None,
        "text",
        Failure(True, "ValueError", "no", "{}", "Traceback"),
        Trapped(exits.limit("memory", "full")),
        Trapped(exits.crashed("trap", "unreachable", "frames")),
    ],
)
def test_results_come_back_as_they_were(result: Result) -> None:
    (content,) = Frames().feed(frame(Word.DONE, encode_result(result)))
    assert decode_result(content[1]) == result


@pytest.mark.parametrize(
    "content",
    [
        *(5, [], {}, ["killed", "", "", ""], ["shutdown", "", "", ""], ["crashed", "", ""]),
        *([1, "", "", "", ""], [True, "", 5, "", ""]),
    ],
)
def test_a_process_cannot_say_that_it_ended_as_it_likes(content: object) -> None:
    with pytest.raises(Malformed):
        decode_result(content)


def test_what_a_process_says_of_an_end_is_no_longer_than_what_is_kept() -> None:
    huge = "x" * 1_000_000
    trapped = decode_result(["crashed", huge, huge, huge])
    assert isinstance(trapped, Trapped)
    assert len(trapped.exit.subject) + len(trapped.exit.message) + len(trapped.exit.traceback) < 40_000
    failure = decode_result([True, huge, huge, huge, huge])
    assert isinstance(failure, Failure)
    assert len(failure.code + failure.message + failure.details + failure.traceback) < 150_000
