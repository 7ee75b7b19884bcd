"""When a scheduled append is due: once, every so many seconds, or by a cron expression.  Pure; times are UTC.

Cron is the five fields of crontab(5): minute, hour, day of the month, month, day of the week (0 and 7 are Sunday), each
`*`, a value, a range, a list of those, or one with a step (`*/5`, `8-18/2`).  Where both days are restricted, either
will do, as everywhere since Vixie.  Anything else, `@daily`, `L` or a sixth field, is refused rather than guessed at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from ..errors import InvalidArgument

EVERY_S_MIN: Final = 1
EVERY_S_MAX: Final = 366 * 86_400
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# The 29th of February is at most eight years away (1896 to 1904, 2096 to 2104).
_DAYS_AHEAD_MAX: Final = 8 * 366 + 1
_PART: Final = re.compile(r"(\*|[0-9a-z]+)(?:-([0-9a-z]+))?(?:/([0-9]{1,3}))?")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# The last moment that `datetime` has.
_MS_MAX: Final = 253_402_300_799_000


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a cron expression: its bounds and the names its values may have."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    names_from: int = 0


_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS, 1),
    _Field("day of the week", 0, 7, _DAYS, 0),
)


@dataclass(frozen=True, slots=True)
class Once:
    """One append at a time.

    Attributes:
        at_ms: Unix milliseconds.
    """

    at_ms: int

    @property
    def text(self) -> str:
        """As `parse` reads it."""
        return f"once {self.at_ms}"

    def next_ms(self, after_ms: int) -> int | None:
        """The first time after `after_ms`; None when there is none."""
        return self.at_ms if self.at_ms > after_ms else None


@dataclass(frozen=True, slots=True)
class Every:
    """An append every `interval_s` seconds, on the grid that begins at `start_ms`: being late once moves nothing."""

    interval_s: int
    start_ms: int

    @property
    def text(self) -> str:
        """As `parse` reads it."""
        return f"every {self.interval_s} {self.start_ms}"

    def next_ms(self, after_ms: int) -> int | None:
        """The first time after `after_ms`."""
        interval_ms = self.interval_s * 1_000
        if after_ms < self.start_ms:
            return self.start_ms + interval_ms
        return self.start_ms + ((after_ms - self.start_ms) // interval_ms + 1) * interval_ms


@dataclass(frozen=True, slots=True)
class Cron:
    """The minutes that a cron expression names.

    Attributes:
        expression: as it was written, single spaces between the fields.
    """

    expression: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    # Both kinds of days are restricted: either will do.
    either_day: bool

    @property
    def text(self) -> str:
        """As `parse` reads it."""
        return f"cron {self.expression}"

    def next_ms(self, after_ms: int) -> int | None:
        """The first time after `after_ms`; None when there is none that a calendar could hold."""
        after = _EPOCH + timedelta(milliseconds=after_ms)
        first = after.replace(second=0, microsecond=0) + timedelta(minutes=1)
        for ahead in range(_DAYS_AHEAD_MAX):
            try:
                day = first + timedelta(days=ahead)
            except OverflowError:
                return None
            if not self._on(day):
                continue
            from_minute = (first.hour * 60 + first.minute) if ahead == 0 else 0
            for hour in sorted(self.hours):
                for minute in sorted(self.minutes):
                    if hour * 60 + minute >= from_minute:
                        found = day.replace(hour=hour, minute=minute)
                        return (found - _EPOCH) // timedelta(milliseconds=1)
        return None

    def _on(self, day: datetime) -> bool:
        if day.month not in self.months:
            return False
        in_month, in_week = day.day in self.days, (day.weekday() + 1) % 7 in self.weekdays
        return (in_month or in_week) if self.either_day else (in_month and in_week)


Timing = Once | Every | Cron


def once(at_ms: int) -> Once:
    """Raises InvalidArgument: not a time that a calendar could hold."""
    if not 0 <= at_ms <= _MS_MAX:
        raise InvalidArgument(f"at_ms = {at_ms} is no time: give Unix milliseconds")
    return Once(at_ms)


def every(interval_s: int, start_ms: int) -> Every:
    """Raises InvalidArgument: shorter than a second or longer than a leap year."""
    if not EVERY_S_MIN <= interval_s <= EVERY_S_MAX:
        raise InvalidArgument(f"every_s = {interval_s}: an interval has {EVERY_S_MIN} to {EVERY_S_MAX} seconds")
    return Every(interval_s, start_ms)


def cron(expression: str) -> Cron:
    """Read a cron expression.

    Raises:
        InvalidArgument: it is none, or names no day that ever comes; the text says which field and why.
    """
    parts = expression.lower().split()
    if len(parts) != len(_FIELDS) or len(expression) > 256:
        raise InvalidArgument(
            f"{expression[:80]!r} is no cron expression: it has five fields, minute, hour, day of the month, month and "
            "day of the week, such as '*/15 8-18 * * mon-fri'"
        )
    minutes, hours, days, months, weekdays = (_values(field, part) for field, part in zip(_FIELDS, parts, strict=True))
    weekdays = frozenset(day % 7 for day in weekdays)
    # Vixie's rule looks at the first character: `*/2` counts as unrestricted.
    either_day = not parts[2].startswith("*") and not parts[4].startswith("*")
    found = Cron(" ".join(parts), minutes, hours, days, months, weekdays, either_day)
    if found.next_ms(0) is None:
        raise InvalidArgument(f"the cron expression {expression!r} names a day that never comes")
    return found


def parse(text: str) -> Timing:
    """Read what `text` of a timing wrote.

    Raises:
        InvalidArgument
    """
    kind, _, rest = text.partition(" ")
    match kind, rest.split(" "):
        case "once", [at_ms]:
            return once(int(at_ms))
        case "every", [interval_s, start_ms]:
            return every(int(interval_s), int(start_ms))
        case "cron", _:
            return cron(rest)
    raise InvalidArgument(f"{text[:80]!r} is no timing")


def _values(field: _Field, text: str) -> frozenset[int]:
    values: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None or (match[1] == "*" and match[2] is not None):
            raise _bad(field, part, "write *, a value, a range such as 1-5, or one of these with a step such as */5")
        step = 1 if match[3] is None else int(match[3])
        if step < 1:
            raise _bad(field, part, "a step is at least 1")
        if match[1] == "*":
            # 7 is another word for Sunday, not another day: it must not shift a step.
            low, high = field.low, min(field.high, 6) if field.name == "day of the week" else field.high
        else:
            low = _value(field, part, match[1])
            if match[2] is not None:
                high = _value(field, part, match[2])
            elif match[3] is not None:
                raise _bad(field, part, "a step needs a range or * before it")
            else:
                high = low
            if high < low:
                raise _bad(field, part, "the range ends before it begins")
        values.update(range(low, high + 1, step))
    return frozenset(values)


def _value(field: _Field, part: str, text: str) -> int:
    if text in field.names:
        return field.names.index(text) + field.names_from
    if not text.isdigit() or len(text) > 2 or not field.low <= int(text) <= field.high:
        named = f", or {field.names[0]} to {field.names[-1]}" if field.names else ""
        raise _bad(field, part, f"a value is {field.low} to {field.high}{named}")
    return int(text)


def _bad(field: _Field, part: str, remedy: str) -> InvalidArgument:
    return InvalidArgument(f"{part[:40]!r} is no {field.name} of a cron expression: {remedy}")
