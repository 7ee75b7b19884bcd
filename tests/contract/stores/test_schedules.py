"""What every implementation of scheduled appends keeps to, across time, refusals, restarts and tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import InvalidArgument, LimitExceeded
from plexspaces_runtime.events import Event, EventBus, ScheduledAppendRefused
from plexspaces_runtime.ids import SystemIds
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores import schedule
from plexspaces_runtime.stores.schedules import MemorySchedules, Schedules, SqliteSchedules
from plexspaces_runtime.stores.streams import MemoryEvents, SqliteEvents, Streams
from tests.contract.stores.backends import Backend, backends

ACME = Scope("acme", "default")
EVIL = Scope("evil", "default")


class House:
    """Schedules and their streams on a backend, and a clock in the hand."""

    def __init__(self, backend: Backend, clock: ManualClock | None = None, **limits: Any) -> None:
        self.clock = clock or ManualClock()
        self.seen: list[Event] = []
        self.alarm_s: float | None = None
        bus, settings, database = EventBus(), Limits(**limits), backend.database
        bus.subscribe(self.seen.append)
        self.streams = Streams(
            SqliteEvents(database) if database is not None else MemoryEvents(),
            quotas=backend.quotas(settings),
            clock=self.clock,
            events=bus,
            limits=settings,
            set_alarm=lambda _: None,
        )
        self.schedules = Schedules(
            SqliteSchedules(database) if database is not None else MemorySchedules(),
            self.streams,
            clock=self.clock,
            ids=SystemIds(),
            events=bus,
            limits=settings,
            set_alarm=self._set_alarm,
        )
        self.streams.load()
        self.schedules.load()

    def _set_alarm(self, delay_s: float | None) -> None:
        self.alarm_s = delay_s

    @property
    def now_ms(self) -> int:
        return self.clock.now_ns() // 1_000_000

    def pass_time(self, seconds: float) -> None:
        """Let the clock run, and the alarm ring at its times."""
        while self.alarm_s is not None and self.alarm_s <= seconds:
            self.clock.advance(self.alarm_s)
            seconds -= self.alarm_s
            self.alarm_s = None
            self.schedules.ring()
        self.clock.advance(seconds)
        if self.alarm_s is not None:
            self.alarm_s -= seconds

    def times_s(self, path: str = "/a") -> list[float]:
        """When there were appends, in seconds from the clock's start."""
        start_ms = ManualClock().now_ns() // 1_000_000
        return [
            (event.time_ms - start_ms) / 1_000
            for event in self.streams.read(ACME, path, 0, 1_000)
            if event.event_type == "tick"
        ]


@pytest.fixture(name="backend", params=backends())
async def _backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    async with request.param(tmp_path) as backend:
        yield backend


async def test_once_every_and_cron(backend: Backend) -> None:
    house = House(backend)
    start_ms = house.now_ms
    add = house.schedules.add
    add(ACME, "/once", "tick", "{}", schedule.once(start_ms + 5_000))
    add(ACME, "/every", "tick", "{}", schedule.every(7, start_ms))
    add(ACME, "/cron", "tick", "{}", schedule.cron("* * * * *"))
    house.pass_time(21)
    assert house.times_s("/once") == [5]
    assert house.times_s("/every") == [7, 14, 21]
    # The clock begins at twenty seconds past the minute.
    assert house.times_s("/cron") == []
    house.pass_time(100)
    assert house.times_s("/cron") == [40, 100]
    assert [each.path for each in house.schedules.list_schedules(ACME)] == ["/cron", "/every"]


async def test_a_schedule_ends_when_it_is_removed(backend: Backend) -> None:
    house = House(backend)
    made = house.schedules.add(ACME, "/a", "tick", "{}", schedule.every(10, house.now_ms))
    house.pass_time(10)
    assert house.schedules.remove(ACME, made.id)
    assert not house.schedules.remove(ACME, made.id)
    house.pass_time(100)
    assert house.times_s() == [10]
    assert house.schedules.list_schedules(ACME) == []
    assert house.alarm_s is None


async def test_what_was_missed_comes_once(backend: Backend) -> None:
    if backend.database is None:
        pytest.skip("what is in memory ends with the process")
    house = House(backend)
    house.schedules.add(ACME, "/a", "tick", "{}", schedule.every(10, house.now_ms))
    house.schedules.add(ACME, "/b", "tick", "{}", schedule.once(house.now_ms + 20_000))
    house.pass_time(10)
    await backend.flush()
    house.clock.advance(35)
    again = House(backend, house.clock)
    again.pass_time(0)
    assert again.times_s() == [10, 45]
    assert again.times_s("/b") == [45]
    again.pass_time(20)
    assert again.times_s() == [10, 45, 50, 60]


async def test_a_crash_between_the_append_and_its_row_appends_nothing_twice(backend: Backend) -> None:
    house = House(backend)
    made = house.schedules.add(ACME, "/a", "tick", "{}", schedule.every(10, house.now_ms))
    # As if the node had come as far as the append before it died.
    house.streams.append_due(ACME, "/a", "tick", "{}", made.id, made.next_ms)
    house.pass_time(20)
    assert len(house.times_s()) == 2


async def test_a_refused_append_is_left_out_but_one_that_is_due_once_is_tried_again(backend: Backend) -> None:
    house = House(backend)
    for path in ("/a", "/b"):
        house.streams.append(ACME, path, "note", "{}")
        house.streams.hold(ACME, path, "ada")
    house.schedules.add(ACME, "/a", "tick", "{}", schedule.every(10, house.now_ms))
    house.schedules.add(ACME, "/b", "tick", "{}", schedule.once(house.now_ms + 10_000))
    house.pass_time(15)
    told = [event for event in house.seen if isinstance(event, ScheduledAppendRefused)]
    assert [(event.path, event.code, event.retried) for event in told] == [
        ("/a", "rate-limited", False),
        ("/b", "rate-limited", True),
    ]
    for path in ("/a", "/b"):
        house.streams.resume(ACME, path, "ada")
    house.pass_time(60)
    assert house.times_s("/a") == [20, 30, 40, 50, 60, 70]
    assert house.times_s("/b") == [70]


@pytest.mark.parametrize(
    ("path", "kind", "payload"), [("a", "tick", "{}"), ("/a", "a b", "{}"), ("/a", "paused", "{}"), ("/a", "tick", "{")]
)
async def test_what_would_be_no_event_is_refused_at_once(backend: Backend, path: str, kind: str, payload: str) -> None:
    house = House(backend)
    with pytest.raises(InvalidArgument):
        house.schedules.add(ACME, path, kind, payload, schedule.every(1, 0))


async def test_what_is_never_due_is_refused(backend: Backend) -> None:
    house = House(backend)
    with pytest.raises(InvalidArgument):
        house.schedules.add(ACME, "/a", "tick", "{}", schedule.once(house.now_ms))


async def test_a_tenant_has_so_many(backend: Backend) -> None:
    house = House(backend, schedules_per_tenant_max=2)
    made = [house.schedules.add(ACME, "/a", "tick", "{}", schedule.every(60, 0)) for _ in range(2)]
    with pytest.raises(LimitExceeded) as refused:
        house.schedules.add(ACME, "/a", "tick", "{}", schedule.every(60, 0))
    assert refused.value.details["limit"] == "schedules_per_tenant_max"
    house.schedules.add(EVIL, "/a", "tick", "{}", schedule.every(60, 0))
    house.schedules.remove(ACME, made[0].id)
    house.schedules.add(ACME, "/a", "tick", "{}", schedule.every(60, 0))


async def test_no_function_sees_or_touches_what_belongs_to_others(backend: Backend) -> None:
    house = House(backend)
    made = house.schedules.add(ACME, "/a", "tick", "{}", schedule.every(10, house.now_ms))
    for stranger in (EVIL, Scope("acme", "other")):
        assert house.schedules.list_schedules(stranger) == []
        assert not house.schedules.remove(stranger, made.id)
        house.pass_time(10)
        assert house.streams.read(stranger, "/a") == []
    assert len(house.times_s()) == 2
