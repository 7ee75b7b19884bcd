"""Arguments as people type them."""

from __future__ import annotations

from typing import Any

import pytest

from plexspaces_runtime.cli.arguments import ArgumentError, parse_arguments


def parsed(*words: str, **files: str) -> dict[str, Any]:
    return parse_arguments(words, lambda name: files["stdin" if name == "-" else name])


@pytest.mark.parametrize(
    "words",
    [
        ("--amount", "5", "--note", "hi there"),
        ("--amount=5", "--note=hi there"),
        ("amount=5", "note=hi there"),
        ('{"amount": 5, "note": "hi there"}',),
        ('{"amount": 5}', "note=hi there"),
        ("amount=5", "--note", '"hi there"'),
    ],
)
def test_three_ways_to_say_one_thing(words: tuple[str, ...]) -> None:
    assert parsed(*words) == {"amount": 5, "note": "hi there"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("1.5", 1.5),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ('"5"', "5"),
        ("007", "007"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_a_value_is_json_or_text(text: str, value: Any) -> None:
    assert parsed(f"x={text}") == {"x": value}
    assert parsed(f"--x={text}") == {"x": value}


def test_an_option_without_value_is_true() -> None:
    assert parsed("--force", "--count", "1", "--last") == {"force": True, "count": 1, "last": True}


def test_dashes_in_options_are_underscores() -> None:
    assert parsed("--max-count", "1") == {"max_count": 1}


def test_objects_from_files_and_stdin() -> None:
    assert parsed("@a.json", **{"a.json": '{"x": 1}'}) == {"x": 1}
    assert parsed("-", stdin='{"x": 2}') == {"x": 2}


@pytest.mark.parametrize("words", [("amount",), ("{",), ("@list",), ("x=1", "--x", "2"), ("op=x",), ("--op", "x")])
def test_what_is_no_argument_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ArgumentError):
        parsed(*words, list="[1]")


def test_nothing_is_no_arguments() -> None:
    assert parsed() == {}
