"""What a store has to do at a certain time: exact, in order, and with one alarm for all of it.

Unlike `actors/deadlines.py`, which may be a bucket late, nothing that is due stays hidden from whoever looks: a store
asks for it before it answers anything.  So an expired tuple is never read, however late the event loop is.  Cancelled
entries stay in the heap until their turn or until they are the most (asyncio's way).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Final, Generic, Protocol, TypeVar

from ..clock import Clock

_SPARE_ENTRIES: Final = 64
_NS_PER_MS: Final = 1_000_000


class Dated(Protocol):
    """What can be on an agenda: it remembers its number there (0: it is on none)."""

    entry: int


D = TypeVar("D", bound=Dated)


class Agenda(Generic[D]):
    """Entries by time; those of one time in the order they were added.

    Args:
        clock: whose monotonic time counts.
        set_alarm: called with a number of seconds: whoever owns the agenda must look at it after so long; with None:
            need not look.  A later call replaces an earlier one.
    """

    def __init__(self, clock: Clock, set_alarm: Callable[[float | None], None]) -> None:
        self._clock = clock
        self._set_alarm = set_alarm
        self._heap: list[tuple[int, int, D]] = []
        self._numbers = 0
        self._live = 0
        self._alarm_ns: int | None = None

    def __len__(self) -> int:
        return self._live

    def add(self, item: D, due_ns: int) -> None:
        """Put `item` on the agenda, or move it there, for `due_ns` on the monotonic clock."""
        if item.entry:
            self._live -= 1
        self._numbers += 1
        item.entry = self._numbers
        self._live += 1
        heapq.heappush(self._heap, (due_ns, item.entry, item))
        self._arm(due_ns)

    def discard(self, item: D) -> None:
        """Take `item` off; nothing happens if it is not on."""
        if not item.entry:
            return
        item.entry = 0
        self._live -= 1
        if self._live == 0:
            self._heap.clear()
            if self._alarm_ns is not None:
                self._alarm_ns = None
                self._set_alarm(None)
        elif len(self._heap) > 2 * self._live + _SPARE_ENTRIES:
            self._heap = [each for each in self._heap if each[2].entry == each[1]]
            heapq.heapify(self._heap)

    def due(self, now_ns: int) -> Iterator[D]:
        """Take off and hand out, one by one, what is due; what is added meanwhile and due as well is among them."""
        heap = self._heap
        while heap and heap[0][0] <= now_ns:
            _due_ns, number, item = heapq.heappop(heap)
            if item.entry == number:
                item.entry = 0
                self._live -= 1
                yield item
                # What was done with it may have swept the heap.
                heap = self._heap

    def rang(self) -> None:
        """The alarm has gone off and what was due is done: set the next one."""
        self._alarm_ns = None
        heap = self._heap
        while heap and heap[0][2].entry != heap[0][1]:
            heapq.heappop(heap)
        if heap:
            self._arm(heap[0][0])

    def _arm(self, due_ns: int) -> None:
        if self._alarm_ns is None or due_ns < self._alarm_ns:
            self._alarm_ns = due_ns
            # Whole milliseconds, upwards: event loops round to those, and one that rings early has to ring again.
            delay_ms = -(-max(0, due_ns - self._clock.monotonic_ns()) // _NS_PER_MS)
            self._set_alarm(delay_ms / 1_000)
