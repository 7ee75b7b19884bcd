"""Many deadlines, most of which are never reached, at the price of two dictionary operations each.

A timing wheel without the wheel: deadlines fall into buckets of `GRANULARITY_NS`, and only the earliest bucket has
an alarm.  A deadline is reached at most one bucket late and never early.
(Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987.)
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Protocol

from ..clock import Clock

GRANULARITY_NS = 10_000_000
_BUCKETS_UNSWEPT = 1_024


class Deadline(Protocol):
    """What can be kept here: it remembers its bucket (-1: none)."""

    bucket: int


class Deadlines:
    """Calls `on_reached(entry)` once for each entry whose time has come, in the order of their buckets.

    Args:
        clock: whose monotonic time counts.
        set_alarm: called with a number of seconds: `ring` must be called after so long.  A later call replaces
            an earlier one.
        on_reached: what to do with an entry.
    """

    def __init__(
        self, clock: Clock, set_alarm: Callable[[float], None], on_reached: Callable[[Deadline], None]
    ) -> None:
        self._clock = clock
        self._set_alarm = set_alarm
        self._on_reached = on_reached
        # A dict keeps the order of insertion, and an entry leaves it in constant time.
        self._buckets: dict[int, dict[Deadline, None]] = {}
        # Numbers of the buckets.  One that was emptied stays until its time, or until a sweep.
        self._heap: list[int] = []
        self._alarm_for: int | None = None
        self._sweep_at = _BUCKETS_UNSWEPT

    def add(self, entry: Deadline, deadline_ns: int) -> None:
        """Keep `entry` until `deadline_ns` on the monotonic clock, or until it is discarded."""
        bucket = -(-deadline_ns // GRANULARITY_NS)
        entry.bucket = bucket
        entries = self._buckets.get(bucket)
        if entries is None:
            if len(self._buckets) >= self._sweep_at:
                self._sweep()
            self._buckets[bucket] = {entry: None}
            heapq.heappush(self._heap, bucket)
            if self._alarm_for is None or bucket < self._alarm_for:
                self._arm(bucket)
        else:
            entries[entry] = None

    def discard(self, entry: Deadline) -> None:
        """Forget `entry`; nothing happens if it is not kept."""
        if entry.bucket >= 0:
            entries = self._buckets.get(entry.bucket)
            if entries is not None:
                entries.pop(entry, None)
            entry.bucket = -1

    def ring(self) -> None:
        """The alarm: hand out every entry whose time has come, then set the next alarm."""
        self._alarm_for = None
        now = self._clock.monotonic_ns() // GRANULARITY_NS
        while self._heap and self._heap[0] <= now:
            bucket = heapq.heappop(self._heap)
            # Still in place while it is emptied: `on_reached` may discard others of this very bucket.
            entries = self._buckets.get(bucket)
            if entries is None:
                # A sweep while it was being emptied has numbered it twice.
                continue
            while entries:
                entry = next(iter(entries))
                del entries[entry]
                entry.bucket = -1
                self._on_reached(entry)
            # `on_reached` may have had it swept, and another opened in its place.
            if self._buckets.get(bucket) is entries:
                del self._buckets[bucket]
        if self._heap and self._alarm_for is None:
            self._arm(self._heap[0])

    def _sweep(self) -> None:
        """Forget emptied buckets.  A deadline may be far away, and what was discarded must not be kept until then."""
        self._buckets = {bucket: entries for bucket, entries in self._buckets.items() if entries}
        self._heap = list(self._buckets)
        heapq.heapify(self._heap)
        # Twice as many as are left: so the cost of a sweep is spread over as many additions.
        self._sweep_at = max(_BUCKETS_UNSWEPT, 2 * len(self._buckets))

    def _arm(self, bucket: int) -> None:
        self._alarm_for = bucket
        delay_ns = bucket * GRANULARITY_NS - self._clock.monotonic_ns()
        self._set_alarm(max(0.0, delay_ns / 1e9))
