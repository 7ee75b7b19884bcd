"""Deadlines: each once, never early, at most a bucket late, none after it was discarded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.actors.deadlines import _BUCKETS_UNSWEPT, GRANULARITY_NS, Deadlines
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


def test_what_is_discarded_is_not_kept_until_its_time() -> None:
    world = World()
    far = Entry(10**18)
    world.deadlines.add(far, far.deadline_ns)
    for number in range(10_000):
        entry = Entry(10**17 + number * GRANULARITY_NS)
        world.deadlines.add(entry, entry.deadline_ns)
        world.deadlines.discard(entry)
    assert len(world.deadlines._heap) == len(world.deadlines._buckets) <= _BUCKETS_UNSWEPT


def test_a_sweep_in_the_middle_of_a_bucket_loses_and_repeats_nobody() -> None:
    world = World()
    reached: list[Entry] = []
    first, second, late = Entry(1), Entry(2), Entry(3)

    def on_reached(entry: Entry) -> None:
        reached.append(entry)
        if entry is first:
            for number in range(2 * _BUCKETS_UNSWEPT):
                other = Entry(0)
                deadlines.add(other, 10**15 + number * GRANULARITY_NS)
                deadlines.discard(other)
        elif entry is second:
            # The bucket is empty now and swept: this one opens another of the same number.
            for number in range(2 * _BUCKETS_UNSWEPT):
                other = Entry(0)
                deadlines.add(other, 10**16 + number * GRANULARITY_NS)
                deadlines.discard(other)
            deadlines.add(late, late.deadline_ns)

    deadlines = Deadlines(world.clock, world._set, on_reached)  # type: ignore[arg-type]
    for entry in (first, second):
        deadlines.add(entry, entry.deadline_ns)
    world.clock.advance(1)
    deadlines.ring()
    assert reached == [first, second, late]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 30)),
            st.tuples(st.just("discard"), st.integers(0, 200)),
            st.tuples(st.just("wait"), st.integers(0, 5)),
        ),
        max_size=200,
    )
)
def test_however_they_come_and_go_each_is_reached_once(steps: list[tuple[str, int]]) -> None:
    world = World()
    entries: list[Entry] = []
    discarded: set[int] = set()
    for what, number in steps:
        now_ns = world.clock.monotonic_ns()
        if what == "add":
            entries.append(Entry(now_ns + number * GRANULARITY_NS))
            world.deadlines.add(entries[-1], entries[-1].deadline_ns)
        elif what == "discard" and entries:
            chosen = number % len(entries)
            if not entries[chosen].reached_ns:
                discarded.add(chosen)
            world.deadlines.discard(entries[chosen])
        else:
            world.run_until(now_ns + number * GRANULARITY_NS)
    world.run_until(world.clock.monotonic_ns() + 31 * GRANULARITY_NS)
    for number, entry in enumerate(entries):
        assert len(entry.reached_ns) == (number not in discarded)
    assert not any(world.deadlines._buckets.values())
