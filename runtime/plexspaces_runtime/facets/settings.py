"""Strict reading of a facet's configuration: every key known, every value of the right form, every error helpful."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ..errors import InvalidArgument

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


class Settings:
    """One facet's configuration.

    Args:
        facet: the type's name, for messages.
        config: as it was written.
        keys: all keys there are.

    Raises:
        InvalidArgument: it has a key that is not among them.
    """

    def __init__(self, facet: str, config: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        self.facet = facet
        self._config = config
        for key in config:
            if key not in keys:
                raise InvalidArgument(
                    f"facet {facet!r} has no setting {key!r}; {nearest(str(key), keys)}", facet=facet, key=str(key)
                )

    def wrong(self, key: str, needed: str) -> InvalidArgument:
        """The error to raise for a value that is not what is `needed`: "a whole number from 1 on"."""
        value = self._config.get(key)
        return InvalidArgument(f"facet {self.facet!r}: {key} = {value!r}: must be {needed}", facet=self.facet, key=key)

    def has(self, key: str) -> bool:
        """Whether the key was written."""
        return key in self._config

    def whole(self, key: str, default: int, *, low: int, high: int) -> int:
        """A whole number."""
        value = self._config.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(key, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, *, above: float, high: float) -> float:
        """A number that must be given."""
        if key not in self._config:
            raise InvalidArgument(f"facet {self.facet!r} needs the setting {key!r}", facet=self.facet, key=key)
        value = self._config[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or not above < value <= high:
            raise self.wrong(key, f"a number above {above:g} and at most {high:g}")
        return float(value)

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """One of some words; the first is the default."""
        value = self._config.get(key, choices[0])
        if value not in choices:
            listed = " or ".join(repr(choice) for choice in choices)
            raise self.wrong(key, f"{listed}{_hint(value, choices)}")
        return str(value)

    def duration_s(self, key: str, default: str, *, low_s: float) -> float:
        """A time in seconds, written as a number and a unit."""
        value = self._config.get(key, default)
        match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        seconds = float(match[1]) * _SECONDS[match[2]] if match is not None else math.nan
        if not low_s <= seconds < math.inf:
            raise self.wrong(
                key, f'a time with its unit (ms, s, m, h or d), at least {low_s:g} s: "500ms", "30s", "10m"'
            )
        return seconds

    def names(self, key: str) -> frozenset[str]:
        """A list of names."""
        return self._names(key, self._config.get(key, ()))

    def names_by_name(self, key: str) -> dict[str, frozenset[str]]:
        """A table from a name to a list of names."""
        table = self._config.get(key, {})
        if not isinstance(table, Mapping) or not all(isinstance(name, str) and name for name in table):
            raise self.wrong(key, "a table from a name to a list of names")
        return {name: self._names(key, names) for name, names in table.items()}

    def _names(self, key: str, value: Any) -> frozenset[str]:
        if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
            raise self.wrong(key, 'a list of names, such as ["admin"]')
        return frozenset(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not known."""
    names = sorted(known)
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.6):
        return f"did you mean {close[0]!r}?"
    return f"known are {', '.join(names)}" if names else "it has none"


def _hint(value: Any, choices: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
