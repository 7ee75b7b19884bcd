"""Parts of JSON texts are what was written, whatever is in them."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.api.grpc.jsontext import elements, members

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), _VALUES), st.sampled_from([None, 0, 3]), st.booleans())
def test_members(value: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    found = members(f" {text}\n")
    assert {name: json.loads(each) for name, each in found.items()} == value
    assert all(each in text for each in found.values())


@given(st.lists(_VALUES), st.sampled_from([None, 2]))
def test_elements(value: list[Any], indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    found = elements(text)
    assert [json.loads(each) for each in found] == value
    assert all(each in text for each in found)


def test_numbers_and_nesting_of_any_size() -> None:
    deep = "[" * 50_000 + "]" * 50_000
    number = "9" * 10_000
    assert members(f'{{"deep": {deep}, "number" : {number},"e":1e+400}}') == {
        "deep": deep,
        "number": number,
        "e": "1e+400",
    }


@pytest.mark.parametrize("string", [r'"]"', r'"}\"{"', r'"\\"', r'"\\\"]"', r'"\u005d"', '"é\u2028"'])
def test_what_stands_in_a_string_is_no_bracket(string: str) -> None:
    assert members(f'{{"a": [{string}, {{"b": {string}}}], {string}: 1}}') == {
        "a": f'[{string}, {{"b": {string}}}]',
        orjson.loads(string): "1",
    }


def test_of_two_members_of_one_name_the_last_counts() -> None:
    assert members('{"a": 1, "\\u0061": 2}') == {"a": "2"}
