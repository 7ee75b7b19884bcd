"""Where each key of a TOML document stands: `tomllib` reads values and forgets their lines."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from typing import Final

# Keys and, for elements of arrays, their positions.
KeyPath = tuple[str | int, ...]

_BLANK: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
# Number, boolean or date; a date may hold a space.
_BARE_VALUE: Final = re.compile(r"[^,\]}#\n]+")
_STRING: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)


class Lines:
    """The lines of a document's keys, tables and array elements.

    Args:
        text: a document that `tomllib` has accepted; what this reads is as simple as it is because of that.
    """

    def __init__(self, text: str) -> None:
        self._found: Mapping[KeyPath, int] = _Scanner(text.replace("\r\n", "\n")).scan()

    def of(self, path: KeyPath) -> int:
        """The line of a key, or of the nearest table or array that would hold it; from 1."""
        while path:
            if path in self._found:
                return self._found[path]
            path = path[:-1]
        return 1


class _Scanner:
    """One pass over a document, from key to key; of values it only knows where they end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._found: dict[KeyPath, int] = {}
        # How many tables each array of tables has so far.
        self._tables: dict[KeyPath, int] = {}

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._skip(_BLANK):
            if self._take("[["):
                table = self._header(is_array=True)
                self._take("]]")
            elif self._take("["):
                table = self._header(is_array=False)
                self._take("]")
            else:
                self._pair(table)
        return self._found

    def _header(self, *, is_array: bool) -> KeyPath:
        at = self._at
        *above, last = self._key()
        path: KeyPath = ()
        for name in above:
            path = self._inside((*path, name))
        path = (*path, last)
        if not is_array:
            self._note(path, at)
            return path
        self._note(path, at)
        position = self._tables.get(path, 0)
        self._tables[path] = position + 1
        self._note((*path, position), at)
        return (*path, position)

    def _inside(self, path: KeyPath) -> KeyPath:
        """What the name of an array of tables stands for in a header: the last of them."""
        return (*path, self._tables[path] - 1) if path in self._tables else path

    def _pair(self, table: KeyPath) -> None:
        at = self._at
        path = table
        for name in self._key():
            path = (*path, name)
            self._note(path, at)
        self._skip(_SPACE)
        self._take("=")
        self._skip(_SPACE)
        self._value(path)

    def _key(self) -> list[str]:
        names = []
        while True:
            self._skip(_SPACE)
            if bare := _BARE_KEY.match(self._text, self._at):
                names.append(bare[0])
                self._at = bare.end()
            else:
                quoted = _STRING.match(self._text, self._at)
                assert quoted is not None, "a valid document has a key here"
                names.append(str(tomllib.loads(f"key = {quoted[0]}")["key"]))
                self._at = quoted.end()
            self._skip(_SPACE)
            if not self._take("."):
                return names

    def _value(self, path: KeyPath) -> None:
        if self._take("["):
            position = 0
            while self._skip(_BLANK) and not self._take("]"):
                self._note((*path, position), self._at)
                self._value((*path, position))
                position += 1
                self._skip(_BLANK)
                self._take(",")
        elif self._take("{"):
            while self._skip(_BLANK) and not self._take("}"):
                self._pair(path)
                self._skip(_BLANK)
                self._take(",")
        else:
            end = _STRING.match(self._text, self._at) or _BARE_VALUE.match(self._text, self._at)
            assert end is not None, "a valid document has a value here"
            self._at = end.end()

    def _note(self, path: KeyPath, at: int) -> None:
        self._found.setdefault(path, bisect_right(self._starts, at))

    def _take(self, text: str) -> bool:
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _skip(self, blank: re.Pattern[str]) -> bool:
        """Go on to the next thing; False at the end of the document."""
        match = blank.match(self._text, self._at)
        assert match is not None
        self._at = match.end()
        return self._at < len(self._text)
