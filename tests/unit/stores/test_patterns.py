"""Tuples and patterns: JSON's equality, types, comparisons, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.errors import InvalidArgument
from plexspaces_runtime.stores.patterns import DEPTH_MAX, FIELDS_MAX, parse_pattern, parse_tuple


def matches(pattern: Any, fields: Any) -> bool:
    return parse_pattern(json.dumps(pattern)).matches(parse_tuple(json.dumps(fields)))


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


def json_equal(one: Any, other: Any) -> bool:
    """The plain model: equal as JSON, whatever Python thinks of booleans."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(json_equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(json_equal(one[name], other[name]) for name in one)
    return bool(one == other)


def is_special(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and any(name.startswith("$") for name in value))


@given(values, values)
def test_a_value_matches_what_is_equal_as_json(one: Any, other: Any) -> None:
    if not is_special(one):
        assert matches([one], [other]) == json_equal(one, other)
        assert matches([one], [json.loads(json.dumps(one))])


@pytest.mark.parametrize(
    ("pattern", "field", "expected"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (True, True, True),
        ("1", 1, False),
        ([1, None], [1, None], True),
        ([1, None], [1, 2], False),
        ([True], [1], False),
        ({"a": 1, "b": [2]}, {"b": [2.0], "a": 1}, True),
        ({"a": None}, {"a": 0}, False),
        ({}, [], False),
        (2**70, 2**70, True),
        (2**70 + 1, 2**70, False),
    ],
)
def test_equality_is_that_of_json(pattern: Any, field: Any, expected: bool) -> None:
    assert matches([pattern], [field]) is expected


@pytest.mark.parametrize("field", [None, True, 0, 1.5, "x", [], {}])
def test_null_is_the_wildcard_and_null_itself_is_matched_by_type(field: Any) -> None:
    assert matches([None], [field])
    assert matches([{"$type": "null"}], [field]) is (field is None)


TYPES = {"int": 7, "float": 7.0, "str": "7", "bool": True, "list": [7], "dict": {"7": 7}, "null": None}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("other", TYPES)
def test_a_type_matches_its_own_and_no_other(name: str, other: str) -> None:
    assert matches([{"$type": name}], [TYPES[other]]) is (name == other)


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@given(st.sampled_from(["<", "<=", ">", ">="]), NUMBERS, scalars)
def test_numbers_compare_with_numbers_only(op: str, against: Any, field: Any) -> None:
    expected = False
    if isinstance(field, int | float) and not isinstance(field, bool):
        expected = {"<": field < against, "<=": field <= against, ">": field > against, ">=": field >= against}[op]
    assert matches([{"$pred": [op, against]}], [field]) is expected


@given(st.sampled_from(["<", "<=", ">", ">=", "prefix"]), st.text(), scalars)
def test_texts_compare_with_texts_only(op: str, against: str, field: Any) -> None:
    expected = False
    if isinstance(field, str):
        expected = {
            "<": field < against,
            "<=": field <= against,
            ">": field > against,
            ">=": field >= against,
            "prefix": field.startswith(against),
        }[op]
    assert matches([{"$pred": [op, against]}], [field]) is expected


@given(values, values)
def test_unequal_is_the_opposite_of_equal(one: Any, other: Any) -> None:
    assert matches([{"$pred": ["!=", one]}], [other]) is not json_equal(one, other)


def test_every_field_has_to_match_and_the_length_too() -> None:
    pattern = ["job", None, {"$type": "int"}, {"$pred": [">", 3]}]
    assert matches(pattern, ["job", "x", 1, 4])
    assert not matches(pattern, ["job", "x", 1, 3])
    assert not matches(pattern, ["job", "x", "1", 4])
    assert not matches(pattern, ["jab", "x", 1, 4])
    assert not matches(pattern, ["job", "x", 1])
    assert not matches(pattern, ["job", "x", 1, 4, 5])


@pytest.mark.parametrize(
    "text",
    ["", "{}", "1", "null", '"a"', "[", "[1,]", "[NaN]", "[Infinity]", "[1e400]", "[-1e999]", "[]", "[" * 5_000],
)
def test_what_is_no_tuple_is_refused(text: str) -> None:
    for parse in (parse_tuple, parse_pattern):
        with pytest.raises(InvalidArgument):
            parse(text)


@pytest.mark.parametrize("parse", [parse_tuple, parse_pattern])
def test_a_tuple_has_at_most_so_many_fields(parse: Any) -> None:
    parse(json.dumps([0] * FIELDS_MAX))
    with pytest.raises(InvalidArgument, match=f"not {FIELDS_MAX + 1}"):
        parse(json.dumps([0] * (FIELDS_MAX + 1)))


@pytest.mark.parametrize("parse", [parse_tuple, parse_pattern])
@pytest.mark.parametrize("brackets", ["[]", ("{\"a\":", "}")])
def test_a_field_nests_at_most_so_deep(parse: Any, brackets: Any) -> None:
    opening, closing = brackets
    parse("[" + opening * DEPTH_MAX + "0" + closing * DEPTH_MAX + "]")
    with pytest.raises(InvalidArgument, match="deep"):
        parse("[" + opening * (DEPTH_MAX + 1) + "0" + closing * (DEPTH_MAX + 1) + "]")


@pytest.mark.parametrize(
    "field",
    [
        {"$type": "integer"},
        {"$type": 1},
        {"$type": ["int"]},
        {"$type": "int", "also": 1},
        {"$pred": ["~", 1]},
        {"$pred": [["<"], 1]},
        {"$pred": ["<"]},
        {"$pred": ["<", 1, 2]},
        {"$pred": ["<", True]},
        {"$pred": ["<", None]},
        {"$pred": ["<", [1]]},
        {"$pred": ["prefix", 1]},
        {"$pred": "<"},
        {"$other": 1},
    ],
)
def test_a_field_that_makes_no_sense_is_refused_with_its_place(field: Any) -> None:
    with pytest.raises(InvalidArgument, match="field 1 of the pattern"):
        parse_pattern(json.dumps(["x", field]))


def test_a_pattern_knows_what_it_can_be_found_by() -> None:
    pattern = parse_pattern('["a", null, {"$type": "int"}, [1]]')
    assert pattern.arity == 4
    assert pattern.bound == ((0, "a"), (3, (1,)))
    assert [position for position, _ in pattern.tests] == [2]


def test_a_large_number_of_digits_is_refused_not_a_fault() -> None:
    with pytest.raises(InvalidArgument):
        parse_tuple("[" + "9" * 10_000 + "]")
    assert math.isfinite(parse_tuple("[1e308]")[0])
