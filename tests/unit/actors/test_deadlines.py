"""Deadlines: each once, never early, at most a bucket late, none after it was discarded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.actors.deadlines import GRANULARITY_NS, Deadlines
from plexspaces_runtime.clock import ManualClock


class Entry:
    def __init__(self, deadline_ns: int) -> None:
        self.deadline_ns = deadline_ns
        self.bucket = -1
        self.reached_ns: list[int] = []


class World:
    """Deadlines with a clock that jumps from alarm to alarm."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.alarm_ns: int | None = None
        self.alarms = 0
        self.deadlines = Deadlines(self.clock, self._set, self._reached)

    def _set(self, delay_s: float) -> None:
        self.alarms += 1
        self.alarm_ns = self.clock.monotonic_ns() + round(delay_s * 1e9)

    def _reached(self, entry: Entry) -> None:  # type: ignore[override]
        entry.reached_ns.append(self.clock.monotonic_ns())

    def run_until(self, now_ns: int) -> None:
        while self.alarm_ns is not None and self.alarm_ns <= now_ns:
            at, self.alarm_ns = self.alarm_ns, None
            self.clock.advance(max(0, at - self.clock.monotonic_ns()) / 1e9)
            self.deadlines.ring()
        self.clock.advance(max(0, now_ns - self.clock.monotonic_ns()) / 1e9)


@given(st.lists(st.tuples(st.integers(1, 500_000_000), st.booleans()), max_size=60))
def test_each_is_reached_once_in_time_unless_discarded(wanted: list[tuple[int, bool]]) -> None:
    world = World()
    entries = [(Entry(deadline_ns), discard) for deadline_ns, discard in wanted]
    for entry, _ in entries:
        world.deadlines.add(entry, entry.deadline_ns)
    for entry, discard in entries:
        if discard:
            world.deadlines.discard(entry)
    world.run_until(600_000_000)
    for entry, discard in entries:
        if discard:
            assert entry.reached_ns == []
        else:
            (reached_ns,) = entry.reached_ns
            assert entry.deadline_ns <= reached_ns <= entry.deadline_ns + GRANULARITY_NS


def test_ten_thousand_pending_cost_one_alarm() -> None:
    world = World()
    for number in range(10_000):
        world.deadlines.add(Entry(0), 1_000_000_000 + number)
    assert world.alarms == 1


def test_an_earlier_one_moves_the_alarm_forward() -> None:
    world = World()
    late, early = Entry(400_000_000), Entry(100_000_000)
    world.deadlines.add(late, late.deadline_ns)
    world.deadlines.add(early, early.deadline_ns)
    world.run_until(200_000_000)
    assert early.reached_ns
    assert not late.reached_ns
    world.run_until(500_000_000)
    assert late.reached_ns


def test_one_that_discards_another_of_its_bucket_wins() -> None:
    world = World()
    first, second = Entry(1_000), Entry(2_000)

    def reached(entry: Entry) -> None:
        entry.reached_ns.append(0)
        deadlines.discard(second if entry is first else first)

    deadlines = Deadlines(world.clock, world._set, reached)  # type: ignore[arg-type]
    deadlines.add(first, first.deadline_ns)
    deadlines.add(second, second.deadline_ns)
    world.clock.advance(1)
    deadlines.ring()
    assert (len(first.reached_ns), len(second.reached_ns)) == (1, 0)
