"""The agenda: everything in its time and order, nothing that was cancelled, and an alarm that is never late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.stores.agenda import Agenda

MS = 1_000_000


class Item:
    def __init__(self, name: int) -> None:
        self.name = name
        self.entry = 0


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.alarm_ns: int | None = None
        self.agenda: Agenda[Item] = Agenda(self.clock, self._set)

    def _set(self, delay_s: float | None) -> None:
        self.alarm_ns = None if delay_s is None else self.clock.monotonic_ns() + round(delay_s * 1e9)

    def due(self) -> list[int]:
        return [item.name for item in self.agenda.due(self.clock.monotonic_ns())]


steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "discard", "advance", "look"]), st.integers(0, 9), st.integers(0, 20 * MS)
    ),
    max_size=60,
)


@given(steps)
def test_it_is_a_sorted_list(done: list[tuple[str, int, int]]) -> None:
    world = World()
    items = [Item(number) for number in range(10)]
    model: dict[int, tuple[int, int]] = {}
    for order, (what, number, ns) in enumerate(done):
        now_ns = world.clock.monotonic_ns()
        if what == "add":
            world.agenda.add(items[number], now_ns + ns)
            model[number] = (now_ns + ns, order)
        elif what == "discard":
            world.agenda.discard(items[number])
            model.pop(number, None)
        elif what == "advance":
            world.clock.advance(ns / 1e9)
            if world.alarm_ns is not None and world.alarm_ns <= world.clock.monotonic_ns():
                world.alarm_ns = None
                expected = sorted(name for name, (due, _) in model.items() if due <= world.clock.monotonic_ns())
                assert sorted(world.due()) == expected
                for name in expected:
                    del model[name]
                world.agenda.rang()
        else:
            ready = [name for name, (due, _) in model.items() if due <= now_ns]
            assert world.due() == sorted(ready, key=lambda name: model[name])
            for name in ready:
                del model[name]
        assert len(world.agenda) == len(model)
        if model:
            # In time for the earliest, to the millisecond that event loops round to.
            earliest = min(due for due, _ in model.values())
            assert world.alarm_ns is not None
            assert world.alarm_ns <= max(earliest, world.clock.monotonic_ns()) + MS


def test_nothing_to_do_needs_no_alarm() -> None:
    world = World()
    item = Item(1)
    world.agenda.add(item, 10 * MS)
    assert world.alarm_ns == 10 * MS
    world.agenda.discard(item)
    world.agenda.discard(item)
    assert world.alarm_ns is None


def test_what_was_cancelled_is_not_kept_for_long() -> None:
    world = World()
    kept = Item(0)
    world.agenda.add(kept, 10**15)
    for number in range(10_000):
        item = Item(number)
        world.agenda.add(item, 10**15)
        world.agenda.discard(item)
    assert len(world.agenda._heap) < 100


def test_what_is_added_while_it_is_handed_out_comes_in_the_same_round_if_it_is_due() -> None:
    world = World()
    first, second, later = Item(1), Item(2), Item(3)
    world.agenda.add(first, 0)
    names = []
    for item in world.agenda.due(0):
        names.append(item.name)
        if item is first:
            world.agenda.add(second, 0)
            world.agenda.add(later, 1)
    assert names == [1, 2]
