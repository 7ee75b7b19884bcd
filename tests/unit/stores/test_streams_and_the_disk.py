"""Event streams while the disk refuses, and when it takes writes again."""

from __future__ import annotations

import pytest

from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import Unavailable
from plexspaces_runtime.events import EventBus
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores.quotas import Quotas
from plexspaces_runtime.stores.streams import Change, MemoryEvents, Streams

ACME = Scope("acme", "default")


class Disk(MemoryEvents):
    """Takes changes at once and has them when it is told to; or refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.line: list[Change] = []
        self.waiting: list[tuple[int, object]] = []
        self.refuses = False
        self.on_disk = 0
        self.taken = 0

    def commit(self, change: Change) -> int:
        if self.refuses:
            raise Unavailable("full")
        self.line.append(change)
        self.taken += 1
        return self.taken

    def when_durable(self, number, callback):  # type: ignore[no-untyped-def]
        if number <= self.on_disk:
            callback(None)
        elif self.refuses:
            callback(Unavailable("full"))
        else:
            self.waiting.append((number, callback))

    def sync(self) -> None:
        """Everything in line is on disk."""
        for change in self.line:
            super().commit(change)
        self.line.clear()
        self.on_disk = self.taken
        self._call(None)

    def fail(self) -> None:
        """From now on it refuses."""
        self.refuses = True
        self._call(Unavailable("full"))

    def _call(self, outcome: Exception | None) -> None:
        waiting, self.waiting = self.waiting, []
        for _, callback in waiting:
            callback(outcome)  # type: ignore[operator]


class House:
    def __init__(self, **limits: object) -> None:
        self.disk, self.clock = Disk(), ManualClock()
        self.alarm_s: float | None = None
        settings = Limits(**limits)  # type: ignore[arg-type]
        self.quotas = Quotas(settings)
        self.streams = Streams(
            self.disk,
            quotas=self.quotas,
            clock=self.clock,
            events=EventBus(),
            limits=settings,
            set_alarm=self._set_alarm,
        )
        self.streams.load()

    def _set_alarm(self, delay_s: float | None) -> None:
        self.alarm_s = delay_s

    def append(self, key: str = "") -> int:
        return self.streams.append(ACME, "/a", "note", "{}", key).offset

    def offsets(self, *, durable: bool) -> list[int]:
        return [event.offset for event in self.streams.read(ACME, "/a", durable=durable)]


def test_what_the_disk_took_late_is_told_late_and_once() -> None:
    house = House()
    told: list[list[int]] = []
    house.streams.watch(ACME, "/a", lambda: told.append(house.offsets(durable=True)), durable=True)
    house.append()
    house.disk.sync()
    house.append()
    house.disk.fail()
    assert house.offsets(durable=False) == [1, 2]
    assert house.offsets(durable=True) == [1]
    for _ in range(3):
        assert house.alarm_s is not None
        assert house.alarm_s <= 1
        house.clock.advance(house.alarm_s)
        house.streams.ring()
    assert told == [[1]]
    house.disk.refuses = False
    house.disk.sync()
    house.clock.advance(1)
    house.streams.ring()
    assert told == [[1], [1, 2]]
    assert house.offsets(durable=True) == [1, 2]


def test_an_append_that_is_refused_leaves_no_trace() -> None:
    house = House()
    house.disk.refuses = True
    with pytest.raises(Unavailable):
        house.append("k")
    assert house.streams.list_streams(ACME) == []
    assert house.quotas.bytes.of("acme") == 0
    house.disk.refuses = False
    assert house.append("k") == 1
    used = house.quotas.bytes.of("acme")
    house.disk.fail()
    with pytest.raises(Unavailable):
        house.append()
    assert house.append("k") == 1
    assert house.quotas.bytes.of("acme") == used
    assert house.offsets(durable=False) == [1]


def test_a_breaker_that_cannot_be_written_trips_later() -> None:
    house = House(stream_events_per_second_max=1)
    house.append()
    house.disk.fail()
    with pytest.raises(Unavailable):
        house.append()
    assert house.streams.info(ACME, "/a").flow == "flowing"
