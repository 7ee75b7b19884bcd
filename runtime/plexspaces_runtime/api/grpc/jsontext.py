"""The parts of a JSON text, each as it was written: numbers of any length and nesting of any depth stay what they are.

For texts that are known to be valid JSON; of any other the result is meaningless.
"""

from __future__ import annotations

import re
from typing import Final

import orjson

_SPACE: Final = re.compile(r"[ \t\n\r]*+")
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR: Final = re.compile(r"[^,\]} \t\n\r]*+")
# A string whole, so that a bracket in it is none.
_BRACKETS: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)


def members(text: str) -> dict[str, str]:
    """The members of an object, by name; of several of one name the last."""
    found: dict[str, str] = {}
    at = _after_space(text, _after_space(text, 0) + 1)
    while text[at] != "}":
        end = _end(text, at)
        name = text[at:end]
        at = _after_space(text, _after_space(text, end) + 1)
        end = _end(text, at)
        found[orjson.loads(name)] = text[at:end]
        at = _next(text, end)
    return found


def elements(text: str) -> list[str]:
    """The elements of an array."""
    found: list[str] = []
    at = _after_space(text, _after_space(text, 0) + 1)
    while text[at] != "]":
        end = _end(text, at)
        found.append(text[at:end])
        at = _next(text, end)
    return found


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _next(text: str, end: int) -> int:
    at = _after_space(text, end)
    return _after_space(text, at + 1) if text[at] == "," else at


def _end(text: str, at: int) -> int:
    """Where the value that begins at `at` ends."""
    if text[at] not in "[{":
        found = (_STRING if text[at] == '"' else _SCALAR).match(text, at)
        assert found is not None
        return found.end()
    depth = 0
    for bracket in _BRACKETS.finditer(text, at):
        match bracket[0]:
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
                if not depth:
                    return bracket.end()
    raise AssertionError("the text is not valid JSON")
