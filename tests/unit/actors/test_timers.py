"""Timers: each in its time, in order, cheap while they wait, and none after it was cancelled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.actors.actor import Actor, ActorSpec
from plexspaces_runtime.actors.timers import Timer, Timers
from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import LimitExceeded
from plexspaces_runtime.scope import Address, Scope
from tests.unit.scripted import ScriptedGuest

MS = 1_000_000


class World:
    """Timers with a clock that jumps from alarm to alarm; a message is handled `handling_ns` after it came."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.alarm_ns: int | None = None
        self.alarms = 0
        self.rings = 0
        self.fired: list[tuple[str, int]] = []
        self.waiting: list[Timer] = []
        self.timers = Timers(self.clock, self._set, self._due)

    def actor(self, **limits: int) -> Actor:
        spec = ActorSpec(lambda: ScriptedGuest({}), "0" * 64, Limits(**limits))
        return Actor(Address(Scope("acme", "default"), "a"), spec, lambda *_: None, started_ms=0)

    def _set(self, delay_s: float | None) -> None:
        self.alarms += 1
        self.alarm_ns = None if delay_s is None else self.clock.monotonic_ns() + round(delay_s * 1e9)

    def _due(self, timer: Timer) -> None:
        self.fired.append((timer.id, self.clock.monotonic_ns()))
        self.waiting.append(timer)

    def handle(self) -> int:
        """Handle what waits; how many were not void."""
        waiting, self.waiting = self.waiting, []
        return sum(self.timers.claim(timer, timer.owner) for timer in waiting if timer.owner is not None)

    def run_until(self, now_ns: int, *, handling: bool = True) -> None:
        while self.alarm_ns is not None and self.alarm_ns <= now_ns:
            at, self.alarm_ns = self.alarm_ns, None
            self.clock.advance(max(0, at - self.clock.monotonic_ns()) / 1e9)
            self.rings += 1
            self.timers.ring()
            if handling:
                self.handle()
        self.clock.advance(max(0, now_ns - self.clock.monotonic_ns()) / 1e9)

    def after(self, owner: Actor, name: str, delay_ns: int, interval_ns: int = 0) -> Timer:
        timer = Timer(name, owner, "op", "{}", self.clock.monotonic_ns() + delay_ns, interval_ns)
        self.timers.add(timer)
        return timer


@given(st.lists(st.tuples(st.integers(0, 50 * MS), st.booleans()), max_size=200))
def test_each_fires_once_in_order_and_in_time_unless_it_is_cancelled(wanted: list[tuple[int, bool]]) -> None:
    world = World()
    actor = world.actor()
    for number, (delay_ns, _) in enumerate(wanted):
        world.after(actor, str(number), delay_ns)
    for number, (_, cancelled) in enumerate(wanted):
        if cancelled:
            assert world.timers.cancel(actor, str(number))
            assert not world.timers.cancel(actor, str(number))
    assert world.timers.pending == sum(not cancelled for _, cancelled in wanted)
    world.run_until(100 * MS)
    due = sorted((delay_ns, number) for number, (delay_ns, cancelled) in enumerate(wanted) if not cancelled)
    assert [name for name, _ in world.fired] == [str(number) for _, number in due]
    for (delay_ns, _), (_, at_ns) in zip(due, world.fired, strict=True):
        assert delay_ns <= at_ns <= delay_ns + MS
    assert (actor.timers, world.timers.pending, world.alarm_ns) == ({}, 0, None)


def test_ten_thousand_that_wait_cost_nothing_while_one_ticks() -> None:
    world = World()
    actor = world.actor(timers_per_actor_max=20_000)
    for number in range(10_000):
        world.after(actor, str(number), (10_000 + number) * MS)
    assert world.alarms == 1
    world.after(actor, "tick", 10 * MS, 10 * MS)
    compared = 0

    class Counted(int):
        """A due time that counts how often it is looked at."""

        def __lt__(self, other: int) -> bool:
            nonlocal compared
            compared += 1
            return int(self) < other

    world.timers._heap = [(Counted(due), entry, timer) for due, entry, timer in world.timers._heap]
    world.run_until(1_000 * MS)
    assert len(world.fired) == world.rings == 100
    assert world.timers.pending == 10_001
    # Taking the first of a heap and putting one in is the heap's depth, 2 x 14 looks, and not its 10,000 entries.
    assert compared <= 100 * 40


def test_what_is_cancelled_is_not_kept_until_its_time() -> None:
    world = World()
    actor = world.actor()
    year_ns = 365 * 24 * 3600 * 10**9
    stays = world.after(actor, "stays", year_ns)
    for number in range(100_000):
        world.after(actor, "goes", year_ns - number)
        assert world.timers.cancel(actor, "goes")
    assert len(world.timers._heap) < 200
    assert world.timers.pending == 1
    assert stays.owner is actor
    world.timers.cancel_all(actor)
    assert world.timers._heap == []
    assert world.alarm_ns is None, "an alarm in a year would keep the node until then"


def test_a_cancelled_timer_does_not_keep_its_actor() -> None:
    world = World()
    actor, other = world.actor(), world.actor()
    kept = world.after(other, "x", 10 * MS)
    timer = world.after(actor, "y", 20 * MS)
    world.timers.cancel_all(actor)
    assert timer.owner is None
    assert kept.owner is other


def test_an_interval_does_not_drift() -> None:
    world = World()
    actor = world.actor()
    world.clock.advance(0.0003)
    world.after(actor, "tick", 10 * MS, 10 * MS)
    world.run_until(1_000 * MS)
    start_ns = 300_000
    assert len(world.fired) == 99
    for number, (_, at_ns) in enumerate(world.fired, 1):
        assert 0 <= at_ns - (start_ns + number * 10 * MS) < MS


def test_ticks_do_not_pile_up_behind_a_slow_actor() -> None:
    world = World()
    actor = world.actor()
    world.after(actor, "tick", 10 * MS, 10 * MS)
    world.run_until(95 * MS, handling=False)
    assert world.fired == [("tick", 10 * MS)], "one waits, the others are skipped"
    assert world.alarm_ns is None, "and nobody looks after them meanwhile"
    assert world.handle() == 1
    world.run_until(120 * MS)
    assert [at_ns for _, at_ns in world.fired[1:]] == [100 * MS, 110 * MS, 120 * MS], "on the grid of the first"


def test_a_message_that_waits_can_be_taken_back() -> None:
    world = World()
    actor = world.actor()
    for interval_ns in (0, 10 * MS):
        timer = world.after(actor, "t", MS, interval_ns)
        world.run_until(world.clock.monotonic_ns() + 2 * MS, handling=False)
        assert world.waiting == [timer]
        assert world.timers.cancel(actor, "t") is True
        assert world.timers.claim(timer, actor) is False
        world.waiting.clear()
    assert world.timers.pending == 0


def test_a_message_is_nothing_to_a_successor() -> None:
    world = World()
    actor, successor = world.actor(), world.actor()
    timer = world.after(actor, "t", MS)
    world.run_until(2 * MS, handling=False)
    assert world.timers.claim(timer, successor) is False
    world.timers.cancel_all(actor)
    assert world.timers.claim(timer, successor) is False


def test_a_timer_that_was_handled_is_over() -> None:
    world = World()
    actor = world.actor()
    world.after(actor, "t", MS)
    world.run_until(2 * MS)
    assert world.timers.cancel(actor, "t") is False


@pytest.mark.parametrize("limit", [1, 3])
def test_an_actor_has_as_many_as_it_may_those_included_whose_message_waits(limit: int) -> None:
    world = World()
    actor = world.actor(timers_per_actor_max=limit)
    for number in range(limit):
        world.after(actor, str(number), MS)
    world.run_until(2 * MS, handling=False)
    with pytest.raises(LimitExceeded) as refused:
        world.after(actor, "one more", MS)
    assert refused.value.details == {"limit": "timers_per_actor_max", "value": limit}
    world.handle()
    world.after(actor, "one more", MS)
