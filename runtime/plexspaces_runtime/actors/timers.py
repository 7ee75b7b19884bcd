"""Messages that actors send themselves later.

One heap and one alarm for all of them, so that a pending timer costs nothing until it is due.  A cancelled one stays
in the heap as a number that fits no timer, until its turn comes or such entries are the most (asyncio's way).

An interval is armed again when its message is taken out of the mailbox, not when it is put in: however short it is,
at most one message of it waits, and a node under load is not also flooded with ticks.  The next tick falls on the grid
of the first one, so an interval does not drift.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from ..clock import Clock
from ..errors import LimitExceeded
from ..scope import Caller
from .actor import Actor

_SPARE_ENTRIES: Final = 64
_NS_PER_MS: Final = 1_000_000


class Timer:
    """One timer.

    Attributes:
        owner: whom it sends to; None once it is over.
        due_ns: when, on the monotonic clock; for an interval, the last tick there was or the next one.
        interval_ns: 0 for one message, else nanoseconds between two.
        caller, trace, causation_id: of the message that set it.
        void: it was cancelled.
        of_init: it was set while its owner started, and is set again when that starts again.
    """

    __slots__ = (
        "caller",
        "causation_id",
        "due_ns",
        "entry",
        "id",
        "interval_ns",
        "of_init",
        "op",
        "owner",
        "payload",
        "trace",
        "void",
    )

    def __init__(
        self,
        timer_id: str,
        owner: Actor,
        op: str,
        payload: str,
        due_ns: int,
        interval_ns: int = 0,
        *,
        caller: Caller | None = None,
        trace: str = "",
        causation_id: str = "",
    ) -> None:
        self.id = timer_id
        self.owner: Actor | None = owner
        self.op = op
        self.payload = payload
        self.due_ns = due_ns
        self.interval_ns = interval_ns
        self.caller = caller
        self.trace = trace
        self.causation_id = causation_id
        self.void = False
        self.of_init = False
        # Its number in the heap; 0 while it is not in there.
        self.entry = 0


class Timers:
    """All timers of a node.

    Args:
        clock: whose monotonic time they are on.
        set_alarm: called with a number of seconds: `ring` must be called after so long; with None: not at all.  A
            later call replaces an earlier one.
        on_due: given each timer when its time has come: never early, at most a millisecond late, in order.
    """

    def __init__(
        self, clock: Clock, set_alarm: Callable[[float | None], None], on_due: Callable[[Timer], None]
    ) -> None:
        self._clock = clock
        self._set_alarm = set_alarm
        self._on_due = on_due
        self._heap: list[tuple[int, int, Timer]] = []
        self._entries = 0
        self._armed = 0
        self._alarm_ns: int | None = None

    @property
    def pending(self) -> int:
        """How many are yet to come."""
        return self._armed

    def add(self, timer: Timer) -> None:
        """Start it.

        Raises:
            LimitExceeded: its owner has `timers_per_actor_max`, those whose message waits in the mailbox counted.
        """
        owner = timer.owner
        assert owner is not None
        timers_max = owner.spec.limits.timers_per_actor_max
        if len(owner.timers) >= timers_max:
            raise LimitExceeded(
                f"actor {owner.address.text!r} has {timers_max} timers, as many as it may: "
                "cancel some, or raise timers_per_actor_max",
                limit="timers_per_actor_max",
                value=timers_max,
            )
        owner.timers[timer.id] = timer
        self._arm(timer)

    def cancel(self, actor: Actor, timer_id: str) -> bool:
        """End one of the actor's timers; False when it has none of this id, or its message was handled."""
        timer = actor.timers.pop(timer_id, None)
        if timer is None:
            return False
        timer.void = True
        self._disarm(timer)
        return True

    def cancel_all(self, actor: Actor) -> None:
        """The actor has ended."""
        for timer in actor.timers.values():
            self._disarm(timer)
        actor.timers.clear()

    def claim(self, timer: Timer, actor: Actor) -> bool:
        """Its message has come to be handled by `actor`; False when that is void."""
        # Cancelled in the meantime, or its owner has ended and this is the successor.
        if timer.owner is not actor:
            return False
        if timer.interval_ns:
            ticks = 1 + (self._clock.monotonic_ns() - timer.due_ns) // timer.interval_ns
            timer.due_ns += ticks * timer.interval_ns
            self._arm(timer)
        else:
            del actor.timers[timer.id]
            timer.owner = None
        return True

    def ring(self) -> None:
        """The alarm: hand out what is due, then set the next alarm."""
        self._alarm_ns = None
        now_ns = self._clock.monotonic_ns()
        while self._heap and self._heap[0][0] <= now_ns:
            _due_ns, entry, timer = heapq.heappop(self._heap)
            if timer.entry == entry:
                timer.entry = 0
                self._armed -= 1
                self._on_due(timer)
        if self._heap:
            self._alarm(self._heap[0][0])

    def _arm(self, timer: Timer) -> None:
        self._entries += 1
        timer.entry = self._entries
        self._armed += 1
        heapq.heappush(self._heap, (timer.due_ns, timer.entry, timer))
        self._alarm(timer.due_ns)

    def _disarm(self, timer: Timer) -> None:
        # The heap may keep the timer for long; it must not keep the actor.
        timer.owner = None
        if timer.entry:
            timer.entry = 0
            self._armed -= 1
            if self._armed == 0:
                self._heap.clear()
                self._alarm_ns = None
                self._set_alarm(None)
            elif len(self._heap) > 2 * self._armed + _SPARE_ENTRIES:
                self._heap = [item for item in self._heap if item[2].entry == item[1]]
                heapq.heapify(self._heap)

    def _alarm(self, due_ns: int) -> None:
        if self._alarm_ns is None or due_ns < self._alarm_ns:
            self._alarm_ns = due_ns
            # Whole milliseconds, upwards: event loops round to those, and one that rings early has to ring again.
            delay_ms = -(-max(0, due_ns - self._clock.monotonic_ns()) // _NS_PER_MS)
            self._set_alarm(delay_ms / 1_000)
