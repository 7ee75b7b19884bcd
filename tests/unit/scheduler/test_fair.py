"""The order of the run queue: fair between owners, nobody starves, each owner's items keep theirs."""

from __future__ import annotations

import gc
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plexspaces_runtime.scheduler.fair import ITEM_NS_MIN, FairQueue

MS = 1_000_000


def serve(queue: FairQueue[tuple[str, int]], cost_ns: int) -> str:
    """Run the next item, which takes so long; whose it was."""
    lane, (owner, _) = queue.pop()
    lane.owed_ns += cost_ns
    return owner


# What may happen: an owner gets an item, or the next item runs and takes some time.
_PUSH = st.tuples(st.just("push"), st.sampled_from("abc"))
_POP = st.tuples(st.just("pop"), st.integers(0, 5 * MS))
_CHARGE = st.tuples(st.just("charge"), st.tuples(st.sampled_from("abc"), st.integers(0, 5 * MS)))


@settings(max_examples=200)
@given(st.lists(st.one_of(_PUSH, _PUSH, _POP, _CHARGE), max_size=120))
def test_nothing_is_lost_and_the_order_within_an_owner_is_kept(steps: list[tuple[str, object]]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    lanes = {owner: queue.lane(owner) for owner in "abc"}
    waiting: dict[str, list[int]] = defaultdict(list)
    for number, (what, detail) in enumerate(steps):
        if what == "push":
            assert isinstance(detail, str)
            queue.push(lanes[detail], (detail, number))
            waiting[detail].append(number)
        elif what == "charge":
            assert isinstance(detail, tuple)
            lanes[detail[0]].owed_ns += detail[1]
        elif len(queue):
            expected = [owner for owner in "abc" if not waiting[owner] and queue.is_next(lanes[owner])]
            lane, (owner, first) = queue.pop()
            assert isinstance(detail, int)
            lane.owed_ns += detail
            assert lane is lanes[owner]
            assert first == waiting[owner].pop(0)
            assert owner not in expected
        assert len(queue) == sum(map(len, waiting.values()))
    while len(queue):
        _, (owner, first) = queue.pop()
        assert first == waiting[owner].pop(0)
    with pytest.raises(IndexError):
        queue.pop()


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.integers(ITEM_NS_MIN, 5 * MS), min_size=1, max_size=5), min_size=2, max_size=6),
    st.lists(st.integers(0, 5), max_size=60),
)
def test_owners_who_always_have_something_differ_by_at_most_two_turns(
    costs: list[list[int]], late: list[int]
) -> None:
    """However long each one's turns are, and however many items each has waiting."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    used: Counter[str] = Counter()
    turns: Counter[str] = Counter()
    for number in range(len(costs)):
        for copy in range(1 + 50 * (number % 2)):
            queue.push(queue.lane(str(number)), (str(number), copy))
    longest = max(map(max, costs)) + ITEM_NS_MIN
    for _ in range(300):
        lane, item = queue.pop()
        owner = item[0]
        cost = costs[int(owner)][turns[owner] % len(costs[int(owner)])]
        turns[owner] += 1
        lane.owed_ns += cost
        used[owner] += cost + ITEM_NS_MIN
        queue.push(lane, item)
        spread = max(used.values()) - min(used[str(each)] for each in range(len(costs)))
        assert spread <= 2 * longest


def test_who_asks_for_little_is_next_however_much_the_others_have_waiting() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    flood, quiet = queue.lane("flood"), queue.lane("quiet")
    for number in range(1_000):
        queue.push(flood, ("flood", number))
    for _ in range(100):
        assert serve(queue, 2 * MS) == "flood"
        assert queue.is_next(quiet)
        queue.push(quiet, ("quiet", 0))
        assert serve(queue, 100_000) == "quiet"
    assert serve(queue, 2 * MS) == "flood"


def test_idle_time_is_not_saved_up() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    busy, lazy = queue.lane("busy"), queue.lane("lazy")
    for number in range(2_000):
        queue.push(busy, ("busy", number))
        if number < 1_000:
            serve(queue, MS)
    for number in range(1_000):
        queue.push(busy, ("busy", number))
        queue.push(lazy, ("lazy", number))
    got = Counter(serve(queue, MS) for _ in range(100))
    assert abs(got["lazy"] - got["busy"]) <= 2


def test_a_debt_outlives_a_moments_rest() -> None:
    """Else a tenant would get more than its part by having something to do only now and then, but then for long."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    steady, bursts = queue.lane("steady"), queue.lane("bursts")
    used: Counter[str] = Counter()
    for number in range(500):
        queue.push(steady, ("steady", number))
    queue.push(bursts, ("bursts", 0))
    for _ in range(400):
        if not bursts._items:
            queue.push(bursts, ("bursts", 0))
        lane, (owner, _) = queue.pop()
        cost = 50 * MS if owner == "bursts" else MS
        lane.owed_ns += cost
        used[owner] += cost
    assert abs(used["bursts"] - used["steady"]) <= 101 * MS


def test_what_is_charged_while_a_lane_waits_counts() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    first, second = queue.lane("first"), queue.lane("second")
    for number in range(10):
        queue.push(first, ("first", number))
        queue.push(second, ("second", number))
    # Equal so far: who came later has been served less lately.
    assert serve(queue, 0) == "second"
    second.owed_ns += 5 * MS
    assert [serve(queue, MS) for _ in range(5)] == ["first"] * 5
    assert serve(queue, MS) == "second"


def test_items_that_cost_nothing_measurable_keep_nobody_waiting_for_ever() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    cheap, dear = queue.lane("cheap"), queue.lane("dear")
    for number in range(5):
        queue.push(cheap, ("cheap", number))
        queue.push(dear, ("dear", number))
    assert serve(queue, 100 * ITEM_NS_MIN) == "dear"
    for _ in range(150):
        queue.push(cheap, ("cheap", 0))
    assert "dear" in [serve(queue, 0) for _ in range(150)]


def test_lanes_are_forgotten_with_those_who_keep_them() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    kept = queue.lane("kept")
    for number in range(100):
        queue.push(queue.lane(f"passing-{number}"), ("passing", number))
    while len(queue):
        queue.pop()
    queue.push(kept, ("kept", 0))
    queue.pop()
    gc.collect()
    assert set(queue._lanes) == {"kept"}
    assert queue.lane("kept") is kept


def test_the_heap_holds_owners_and_not_items() -> None:
    """What an item costs depends on how many owners have something waiting, not on how much that is."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number in range(10_000):
        owner = str(number % 4)
        queue.push(queue.lane(owner), (owner, number))
    while len(queue):
        serve(queue, number % 7)
        assert len(queue._others) <= 3
