"""An operation's arguments as people type them: `--amount 5`, `amount=5`, or one JSON object."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

_PAIR = re.compile(r"([A-Za-z_][\w-]*)=(.*)", re.DOTALL)
_OPTION = re.compile(r"--([A-Za-z_][\w-]*)(?:=(.*))?", re.DOTALL)
# These carry the operation in a message's body.
_ROUTING = frozenset({"op"})


class ArgumentError(ValueError):
    """The words are no arguments; the message says which and what would be."""


def parse_arguments(words: Sequence[str], read: Callable[[str], str]) -> dict[str, Any]:
    """Make an object of words.

    A value that is JSON is taken as such (`5`, `true`, `[1, 2]`, `"5"`), any other as text.  An option without a
    value is true.  `@file` stands for a JSON object in a file, `-` for one on stdin.

    Args:
        words: what stands after the operation.
        read: the content of a named file, or of stdin for `-`.

    Raises:
        ArgumentError: a word is none of these, or a name comes twice.
    """
    arguments: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if option := _OPTION.fullmatch(word):
            name, value = option[1].replace("-", "_"), option[2]
            if value is None:
                value = "true" if not rest or _OPTION.fullmatch(rest[0]) else rest.pop(0)
            _put(arguments, name, _value(value))
        elif word.lstrip().startswith("{") or word == "-" or word.startswith("@"):
            text = word if word.lstrip().startswith("{") else read(word.removeprefix("@"))
            for name, item in _object(text, word).items():
                _put(arguments, name, item)
        elif pair := _PAIR.fullmatch(word):
            _put(arguments, pair[1], _value(pair[2]))
        else:
            raise ArgumentError(f"{word!r} is no argument: write --name value, name=value or one JSON object")
    return arguments


def _object(text: str, word: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArgumentError(f"{word[:60]!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ArgumentError(f"{word[:60]!r} is not a JSON object")
    return value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put(arguments: dict[str, Any], name: str, value: Any) -> None:
    if name in _ROUTING:
        raise ArgumentError(f"{name!r} names the operation itself and cannot be an argument")
    if name in arguments:
        raise ArgumentError(f"{name!r} is given twice")
    arguments[name] = value
