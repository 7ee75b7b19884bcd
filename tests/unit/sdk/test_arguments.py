"""Arguments are bound by name and checked; a refusal says everything that is wrong."""

from __future__ import annotations

import base64
import datetime as dt
import enum
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces._annotations import Problem, Shapes, UnusableAnnotation, to_json
from plexspaces.definition import SLOW, InvalidArguments, Parameters, compile_invoke


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Odd(enum.Enum):
    PAIR = (1, 2)
    OTHER = (3, 4)


class Line(TypedDict):
    sku: str
    count: NotRequired[int]


@dataclass
class Point:
    x: int
    y: int = 0

    def __post_init__(self) -> None:
        if self.y < 0:
            raise ValueError("y is negative")


@dataclass
class Tree:
    children: list[Tree]


def read(annotation: Any, value: Any) -> Any:
    problems: list[Problem] = []
    result = Shapes().of(annotation).read(value, "v", problems)
    return [str(problem) for problem in problems] if problems else result


ACCEPTED: list[tuple[Any, Any, Any]] = [
    (int, 3, 3),
    (int, 3.0, 3),
    (float, 3, 3.0),
    (str, "", ""),
    (bool, True, True),
    (None, None, None),
    (int | None, None, None),
    (int | float, 1.0, 1.0),
    (int | str, "1", "1"),
    (list[int], [1, 2], [1, 2]),
    (set[str], ["a", "a"], {"a"}),
    (frozenset[int], [1], frozenset({1})),
    (tuple[int, str], [1, "a"], (1, "a")),
    (tuple[int, ...], [1, 2], (1, 2)),
    (dict[str, list[float]], {"a": [1]}, {"a": [1.0]}),
    (dict[int, str], {"-3": "x"}, {-3: "x"}),
    (dict[Colour, int], {"red": 1}, {Colour.RED: 1}),
    (Literal["a", 1, None], 1, 1),
    (Colour, "red", Colour.RED),
    (Odd, "PAIR", Odd.PAIR),
    (Point, {"x": 1}, Point(1)),
    (Tree, {"children": [{"children": []}]}, Tree([Tree([])])),
    (Line, {"sku": "a"}, {"sku": "a"}),
    (dt.datetime, "2026-01-31T12:00:00+00:00", dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)),
    (dt.date, "2026-01-31", dt.date(2026, 1, 31)),
    (dt.timedelta, 1.5, dt.timedelta(seconds=1.5)),
    (Decimal, "1.10", Decimal("1.10")),
    (Decimal, 0.1, Decimal("0.1")),
    (bytes, base64.b64encode(b"\x00\xff").decode(), b"\x00\xff"),
    (uuid.UUID, "12345678-1234-5678-1234-567812345678", uuid.UUID("12345678-1234-5678-1234-567812345678")),
    (Any, {"x": [1]}, {"x": [1]}),
    (object, 1, 1),
]


@pytest.mark.parametrize(("annotation", "value", "expected"), ACCEPTED)
def test_what_fits_is_converted(annotation: Any, value: Any, expected: Any) -> None:
    result = read(annotation, value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "value", "says"),
    [
        (int, True, "v must be integer, not boolean"),
        (int, 1.5, "v must be integer, not number"),
        (int, "1", "v must be integer, not string"),
        (int, None, "v must be integer, not null"),
        (float, True, "v must be number, not boolean"),
        (float, 10**400, "v is too large for a float"),
        (bool, 1, "v must be boolean, not integer"),
        (str, 1, "v must be string, not integer"),
        (int | None, "x", "v must be integer or null, not string"),
        (list[int], [1, "a", None], "v[1] must be integer, not string"),
        (dict[str, int], {"k": "a"}, "v.k must be integer, not string"),
        (dict[int, int], {"k": 1}, "the name 'k' in v must be a whole number"),
        (tuple[int, int], [1], "v must be array of 2 items, not of 1"),
        (set[Any], [[1]], "v holds arrays or objects, which cannot be members of a set"),
        (Literal[1], True, "v must be 1, not True"),
        (Colour, "green", "v must be one of 'red', 'blue', not 'green'"),
        (Point, {"x": "a", "z": 1}, "v.x must be integer, not string"),
        (Point, {}, "v.x is missing"),
        (Point, {"x": 1, "y": -1}, "v is not a valid Point: y is negative"),
        (Point | None, {"x": "a"}, "v.x must be integer, not string"),
        (Line, {"count": 1}, "v.sku is missing"),
        (Tree, {"children": [{"children": 1}]}, "v.children[0].children must be array of Tree (object), not integer"),
        (dt.datetime, "tomorrow", "v must be an ISO 8601 date and time"),
        (bytes, "*", "v must be base64 text"),
        (Decimal, "NaN", "v must be a decimal number, as a string (exact) or a number, not string"),
        (Decimal, True, "v must be a decimal number, as a string (exact) or a number, not boolean"),
        (uuid.UUID, "x", "v must be a UUID"),
    ],
)
def test_what_does_not_fit_is_named(annotation: Any, value: Any, says: str) -> None:
    problems = read(annotation, value)
    assert isinstance(problems, list)
    assert any(problem.startswith(says) for problem in problems), problems


@pytest.mark.parametrize("annotation", [Callable[[], None], complex, dict[bytes | int, int], Literal[b"x"], type])
def test_annotations_without_a_json_form_are_refused(annotation: Any) -> None:
    with pytest.raises(UnusableAnnotation):
        Shapes().of(annotation)


@given(st.sampled_from([entry for entry in ACCEPTED if entry[0] is not object]))
def test_what_was_read_is_written_so_that_it_can_be_read_again(entry: tuple[Any, Any, Any]) -> None:
    annotation, _, expected = entry
    if isinstance(expected, dict) and any(not isinstance(key, (str, int)) for key in expected):
        return  # json writes only these as names
    assert read(annotation, json.loads(json.dumps(expected, default=to_json))) == expected


# -- schema and check say the same ---------------------------------------------------------------------------


def valid(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """As much of JSON Schema 2020-12 as our schemas use."""
    if "$ref" in schema:
        return valid(root[schema["$ref"].rpartition("/")[2]], value, root)
    if "anyOf" in schema:
        return any(valid(option, value, root) for option in schema["anyOf"])
    if "enum" in schema:
        return any(type(choice) is type(value) and choice == value for choice in schema["enum"])
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match schema.get("type"):
        case None:
            return True
        case "integer":
            return number and float(value).is_integer()
        case "number":
            return number
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "array":
            if not isinstance(value, list):
                return False
            if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
                return False
            shapes = schema.get("prefixItems") or [schema.get("items", {})] * len(value)
            return all(valid(shape, item, root) for shape, item in zip(shapes, value, strict=True))
        case "object":
            if not isinstance(value, dict) or any(name not in value for name in schema.get("required", ())):
                return False
            others = schema.get("additionalProperties", True)
            for name, item in value.items():
                shape = schema.get("properties", {}).get(name, others)
                if shape is False or (shape is not True and not valid(shape, item, root)):
                    return False
            return True
    raise AssertionError(schema)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.sampled_from(["", "a", "red", "x", "1"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["x", "y", "sku", "count", "children"]), inner, max_size=3),
    max_leaves=6,
)


@given(
    json_values,
    st.sampled_from(
        [
            int,
            float,
            str,
            bool,
            int | None,
            list[int],
            list[str | bool],
            dict[str, int],
            tuple[int, str],
            Literal["a", 1],
            Colour,
            Line,
            Tree,
            list[Line] | int,
        ]
    ),
)
def test_schema_and_check_agree(value: Any, annotation: Any) -> None:
    shape = Shapes().of(annotation)
    defs: dict[str, Any] = {}
    schema = shape.schema(defs)
    problems: list[Problem] = []
    shape.read(value, "v", problems)
    assert (not problems) == valid(schema, value, defs), problems


# -- binding -------------------------------------------------------------------------------------------------


def parameters(**annotations: Any) -> Parameters:
    shapes = Shapes()
    return Parameters(tuple(shapes.field(name, hint, required=True) for name, hint in annotations.items()))


def test_all_problems_come_in_one_message_with_the_signature() -> None:
    known = parameters(amount=int, note=str)
    with pytest.raises(InvalidArguments) as caught:
        known.bind("deposit", {"amuont": 3, "note": 1}, lenient=False)
    assert caught.value.message == (
        "deposit(amount: integer, note: string): "
        "amuont is not a parameter; did you mean 'amount'?; note must be string, not integer; amount is missing"
    )
    assert caught.value.details["parameters"] == ["amount", "note"]
    assert [problem["path"] for problem in caught.value.details["problems"]] == ["amuont", "note", "amount"]


@pytest.mark.parametrize("name", ["op", "action", "message_type", "msg_type"])
def test_routing_fields_are_arguments_only_where_they_are_declared(name: str) -> None:
    assert parameters(x=int).bind("add", {"x": 1, name: "add"}, lenient=False) == ({"x": 1}, [])
    declared = parameters(**{name: str})
    assert declared.bind("add", {name: "other"}, lenient=False) == ({name: "other"}, [])


def test_lenient_ignores_unknown_fields_and_says_which() -> None:
    assert parameters(x=int).bind("add", {"x": 1, "y": 2}, lenient=True) == ({"x": 1}, ["y"])
    with pytest.raises(InvalidArguments):
        parameters(x=int).bind("add", {"x": "1", "y": 2}, lenient=True)


class Receiver:
    def plain(self, amount: int = 1, *, note: str = "n", anything: Any = None) -> Any:
        return amount, note, anything

    def nothing(self) -> str:
        return "called"


def compiled(name: str) -> Callable[[Any, dict[str, Any]], Any]:
    shapes = Shapes()
    fields = {
        "plain": (
            shapes.field("amount", int, required=False, default=1),
            shapes.field("note", str, required=False, default="n"),
            shapes.field("anything", Any, required=False, default=None),
        ),
        "nothing": (),
    }[name]
    return compile_invoke(getattr(Receiver, name), Parameters(fields))


def test_the_compiled_path_calls_what_fits_and_leaves_the_rest_to_the_thorough_one() -> None:
    plain, nothing, receiver = compiled("plain"), compiled("nothing"), Receiver()
    assert plain(receiver, {}) == (1, "n", None)
    assert plain(receiver, {"amount": 2, "anything": [1]}) == (2, "n", [1])
    for slow in ({"amount": "2"}, {"amount": True}, {"amount": 2.0}, {"note": None}, {"amount": 1, "other": 1}):
        assert plain(receiver, slow) is SLOW
    assert nothing(receiver, {}) == "called"
    # What carried the operation is no argument, and no reason to be thorough.
    assert nothing(receiver, {"op": "x"}) == "called"
    assert nothing(receiver, {"op": "x", "other": 1}) is SLOW
    assert plain(receiver, {"action": "plain", "amount": 3}) == (3, "n", None)
    assert plain(receiver, {"action": "plain", "amuont": 3}) is SLOW
