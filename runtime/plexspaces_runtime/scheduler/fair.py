"""Who is next, fairly between tenants: a queue in which each has a lane, and the lane that has used least goes first.

This is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with equal weights, charged afterwards, because
what a turn costs is known only when it is over.  A lane's `start_ns` is the time its owner has used, on a clock that
all lanes share: the start of the lane that was served last.  A lane that comes back after a rest begins at that clock,
so that nobody saves up time while idle, but not before its own start, so that nobody gets rid of a debt by resting for
a moment.  Hence

- two lanes that always have something differ in what they have got by at most the two longest turns,
- a lane that asks for little is served next, however many items others have waiting,
- items of one lane keep their order.

With one lane, an item costs a `deque`'s append and popleft; with more, a step in a heap of lanes, never of items.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import Final, Generic, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")

# What an item costs at least, so that no number of items that cost nothing measurable keeps another lane waiting.
ITEM_NS_MIN: Final = 1_000


class Lane(Generic[T]):
    """One owner's part of the queue.  It lives as long as somebody keeps it, and its owner's debt with it.

    Attributes:
        owed_ns: used since it was served; whoever runs an item adds what that took.
        start_ns: what its owner had used before that.
    """

    __slots__ = ("__weakref__", "_items", "_queued", "owed_ns", "start_ns")

    def __init__(self) -> None:
        self.owed_ns = 0
        self.start_ns = 0
        self._items: deque[T] = deque()
        # It is the queue's present lane, or waits in its heap.
        self._queued = False


class FairQueue(Generic[T]):
    """Items of several owners, in an order that is fair to the owners."""

    __slots__ = ("_arrivals", "_clock_ns", "_count", "_lanes", "_others", "_present")

    def __init__(self) -> None:
        self._lanes: WeakValueDictionary[str, Lane[T]] = WeakValueDictionary()
        # The lane that is served; it may be empty, and is then the first to make way.
        self._present: Lane[T] | None = None
        # All others that have items: start, a number that keeps ties in order, lane.
        self._others: list[tuple[int, int, Lane[T]]] = []
        self._arrivals = 0
        self._clock_ns = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def contended(self) -> bool:
        """More than one owner has something waiting."""
        return bool(self._others)

    def lane(self, owner: str) -> Lane[T]:
        """The lane of an owner; always the same while anybody keeps it."""
        lane = self._lanes.get(owner)
        if lane is None:
            lane = self._lanes[owner] = Lane()
        return lane

    def push(self, lane: Lane[T], item: T) -> None:
        """Put an item at the end of its lane."""
        lane._items.append(item)
        self._count += 1
        if not lane._queued:
            self._enter(lane)

    def pop(self) -> tuple[Lane[T], T]:
        """The next item and its lane, which is to be charged for it.

        Raises:
            IndexError: there is none.
        """
        lane = self._present
        if self._others:
            lane = self._choose()
        if lane is None:
            raise IndexError("pop from an empty queue")
        item = lane._items.popleft()
        lane.owed_ns += ITEM_NS_MIN
        self._count -= 1
        return lane, item

    def is_next(self, lane: Lane[T]) -> bool:
        """Whether an item put into this lane now would be the next one."""
        if not self._count:
            return True
        if lane._items:
            return False
        self._settle_present()
        start_ns = max(lane.start_ns + (0 if lane is self._present else lane.owed_ns), self._clock_ns)
        present = self._present
        busy_ns = present.start_ns if present is not None and present._items else start_ns
        return start_ns <= min(busy_ns, self._others[0][0] if self._others else start_ns)

    def _enter(self, lane: Lane[T]) -> None:
        """A lane that had nothing waiting has something."""
        self._settle_present()
        lane.start_ns = max(lane.start_ns + lane.owed_ns, self._clock_ns)
        lane.owed_ns = 0
        lane._queued = True
        present = self._present
        if present is not None and present._items:
            self._add(lane)
            return
        if present is not None:
            present._queued = False
        self._present = lane
        if not self._others:
            self._clock_ns = lane.start_ns

    def _settle_present(self) -> None:
        """What the lane being served has used counts from here on."""
        present = self._present
        if present is not None and present.owed_ns:
            present.start_ns += present.owed_ns
            present.owed_ns = 0
            if not self._others:
                # It had nobody to be compared with: its time is everybody's.
                self._clock_ns = present.start_ns

    def _choose(self) -> Lane[T]:
        """The lane with the earliest start becomes the present one."""
        self._settle_present()
        present, others = self._present, self._others
        assert present is not None
        if present._items:
            if present.start_ns < others[0][0]:
                self._clock_ns = max(self._clock_ns, present.start_ns)
                return present
            self._add(present)
        else:
            present._queued = False
        while True:
            lane = heappop(others)[2]
            if not lane.owed_ns:
                break
            # Charged while it waited.  Each charge moves it at most once.
            lane.start_ns += lane.owed_ns
            lane.owed_ns = 0
            if not others or lane.start_ns <= others[0][0]:
                break
            self._add(lane)
        self._present = lane
        self._clock_ns = max(self._clock_ns, lane.start_ns)
        return lane

    def _add(self, lane: Lane[T]) -> None:
        self._arrivals += 1
        heappush(self._others, (lane.start_ns, self._arrivals, lane))
