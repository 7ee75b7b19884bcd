"""When scheduled appends are due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.errors import InvalidArgument
from plexspaces_runtime.stores import schedule


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def text(at_ms: int | None) -> str:
    assert at_ms is not None
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@pytest.mark.parametrize(
    ("expression", "after", "due"),
    [
        ("* * * * *", "2026-01-01T00:00:00", "2026-01-01T00:01:00"),
        ("* * * * *", "2026-01-01T00:00:59", "2026-01-01T00:01:00"),
        ("*/15 * * * *", "2026-01-01T00:15:00", "2026-01-01T00:30:00"),
        ("0 0 1 1 *", "2026-01-01T00:00:00", "2027-01-01T00:00:00"),
        ("59 23 31 12 *", "2026-12-31T23:59:00", "2027-12-31T23:59:00"),
        ("0 12 29 2 *", "2024-02-29T12:00:00", "2028-02-29T12:00:00"),
        ("0 12 29 2 *", "2096-02-29T12:00:00", "2104-02-29T12:00:00"),
        ("30 8-18/5 * * MON-FRI", "2026-01-02T18:30:00", "2026-01-05T08:30:00"),
        ("0 0 * * 7", "2026-01-01T00:00:00", "2026-01-04T00:00:00"),
        ("0 0 * * 0", "2026-01-01T00:00:00", "2026-01-04T00:00:00"),
        ("0 0 * * */7", "2026-01-01T00:00:00", "2026-01-04T00:00:00"),
        ("0 0 13 * fri", "2026-01-01T00:00:00", "2026-01-02T00:00:00"),
        ("0 0 */2 * fri", "2026-01-01T00:00:00", "2026-01-09T00:00:00"),
        ("0 0 1,15 * *", "2026-01-02T00:00:00", "2026-01-15T00:00:00"),
        ("5 4 * jan,mar *", "2026-01-31T04:05:00", "2026-03-01T04:05:00"),
    ],
)
def test_cron(expression: str, after: str, due: str) -> None:
    assert text(schedule.cron(expression).next_ms(ms(after))) == due


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "* * * *",
        "* * * * * *",
        "@daily",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * * 8",
        "* * L * *",
        "*/0 * * * *",
        "5/2 * * * *",
        "*-5 * * * *",
        "9-5 * * * *",
        "1,,2 * * * *",
        "-1 * * * *",
        "1.5 * * * *",
        "x * * * *",
        "jan * * * *",
        "0 0 30 2 *",
        "0 0 31 4,6,9,11 *",
        "٣ * * * *",
        "* " * 4 + "*" + " " * 300,
    ],
)
def test_what_is_no_cron_expression(expression: str) -> None:
    with pytest.raises(InvalidArgument):
        schedule.cron(expression)


@given(
    st.integers(0, 59),
    st.sampled_from(["*", "*/7", "3", "1-4", "9-23/3"]),
    st.sampled_from(["*", "1", "28-31", "*/10"]),
    st.sampled_from(["*", "2", "1,6-8"]),
    st.sampled_from(["*", "0", "1-5", "sat"]),
    st.datetimes(datetime(1999, 1, 1), datetime(2040, 1, 1)),
)
def test_cron_names_exactly_the_minutes_that_fit(
    minute: int, hour: str, day: str, month: str, weekday: str, after: datetime
) -> None:
    """Against the definition, minute by minute over the days before the answer."""
    timing = schedule.cron(f"{minute} {hour} {day} {month} {weekday}")
    due_ms = timing.next_ms(ms(after.isoformat()))
    assert due_ms is not None
    due = datetime.fromtimestamp(due_ms / 1000, UTC).replace(tzinfo=None)
    assert after < due

    def fits(at: datetime) -> bool:
        in_month, in_week = at.day in timing.days, at.isoweekday() % 7 in timing.weekdays
        both = day.startswith("*") or weekday.startswith("*")
        return (
            at.minute in timing.minutes
            and at.hour in timing.hours
            and at.month in timing.months
            and ((in_month and in_week) if both else (in_month or in_week))
        )

    assert fits(due)
    at = max(after, due - timedelta(days=3)).replace(minute=minute, second=0, microsecond=0)
    while at < due:
        assert at <= after or not fits(at)
        at += timedelta(hours=1)


def test_once() -> None:
    assert schedule.once(1_000).next_ms(999) == 1_000
    assert schedule.once(1_000).next_ms(1_000) is None
    for at_ms in (-1, 10**15):
        with pytest.raises(InvalidArgument):
            schedule.once(at_ms)


@given(st.integers(1, 100_000), st.integers(0, 10**12), st.integers(0, 10**12))
def test_every_stays_on_its_grid(interval_s: int, start_ms: int, after_ms: int) -> None:
    due = schedule.every(interval_s, start_ms).next_ms(after_ms)
    assert due is not None
    assert due > after_ms
    assert due > start_ms
    assert (due - start_ms) % (interval_s * 1_000) == 0
    assert due - max(after_ms, start_ms) <= interval_s * 1_000


@pytest.mark.parametrize("interval_s", [0, -1, 366 * 86_400 + 1])
def test_an_interval_has_bounds(interval_s: int) -> None:
    with pytest.raises(InvalidArgument):
        schedule.every(interval_s, 0)


@pytest.mark.parametrize("timing", [schedule.Once(5), schedule.Every(60, 7), schedule.cron("*/5 1 * * sun")])
def test_a_timing_is_read_as_it_was_written(timing: schedule.Timing) -> None:
    assert schedule.parse(timing.text) == timing


def test_what_is_no_timing() -> None:
    with pytest.raises(InvalidArgument):
        schedule.parse("daily")
