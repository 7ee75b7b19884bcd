"""The other thread: fibers that burn CPU go on here, without the GIL, and come back whenever they want something.

Ownership is the whole protocol.  An actor is handed over with `submit` and handed back with `on_return`, on the loop's
thread; in between nobody else touches its guest.  Here a guest is only polled: an import callback copies its arguments
and suspends (see `wasm/guard.py`), so nothing of the node is touched from this thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from ..actors.actor import Actor
from ..actors.guest import Poll
from ..clock import Clock
from .fair import FairQueue


class Offloader:
    """A few threads that poll off-loaded actors in turn, fair between tenants, one preempted slice each.

    Args:
        threads: how many; one is enough to keep the loop free, more use more cores.
        clock: for the processor time a fiber uses.
        call_on_loop: runs a function on the loop's thread; safe to call from any thread.
        on_return: given an actor back: why it stopped, and the processor time it used in nanoseconds.
        wants_ticks: told True when the first fiber arrives and False when the last one left.
    """

    def __init__(
        self,
        threads: int,
        clock: Clock,
        call_on_loop: Callable[[Callable[[], None]], object],
        on_return: Callable[[Actor, Poll, int], None],
        wants_ticks: Callable[[bool], None],
    ) -> None:
        self._clock = clock
        self._call_on_loop = call_on_loop
        self._on_return = on_return
        self._wants_ticks = wants_ticks
        self._inboxes: list[queue.SimpleQueue[Actor | None]] = [queue.SimpleQueue() for _ in range(threads)]
        self._threads: list[threading.Thread] = []
        self._count = 0
        self._next = 0

    @property
    def count(self) -> int:
        """How many actors are here now."""
        return self._count

    def submit(self, actor: Actor, cpu_ns_left: int) -> None:
        """Take over an actor whose fiber was preempted.

        It comes back when it is done or wants something, when it has used `cpu_ns_left`, or soon after
        `actor.ending` was set.
        """
        if not self._threads:
            self._start()
        if self._count == 0:
            self._wants_ticks(True)
        self._count += 1
        self._next = (self._next + 1) % len(self._inboxes)
        actor.cpu_budget_ns = cpu_ns_left
        self._inboxes[self._next].put(actor)

    def stop(self) -> None:
        """End the threads; actors must have come back before."""
        for inbox in self._inboxes[: len(self._threads)]:
            inbox.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _start(self) -> None:
        # Daemons, because a fiber that nobody waits for any more must not keep a dying process alive.
        for number, inbox in enumerate(self._inboxes):
            thread = threading.Thread(target=self._work, args=(inbox,), name=f"offload-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _work(self, inbox: queue.SimpleQueue[Actor | None]) -> None:
        burning: FairQueue[tuple[Actor, int]] = FairQueue()
        cpu_ns = self._clock.thread_cpu_ns
        while True:
            while not burning or not inbox.empty():
                arrived = inbox.get()
                if arrived is None:
                    return
                burning.push(burning.lane(arrived.address.scope.tenant), (arrived, 0))
            arrived = None
            lane, (actor, used_ns) = burning.pop()
            assert actor.guest is not None
            before_ns = cpu_ns()
            # An actor that was told to end while it waited its turn is not entered again.
            outcome = actor.guest.poll() if actor.ending is None else Poll.PREEMPTED
            slice_ns = cpu_ns() - before_ns
            used_ns += slice_ns
            lane.owed_ns += slice_ns
            if outcome is Poll.PREEMPTED and actor.ending is None and used_ns < actor.cpu_budget_ns:
                burning.push(lane, (actor, used_ns))
            else:
                self._hand_back(actor, outcome, used_ns)
            # Waiting for the next one, a thread must not keep the last one.
            del actor

    def _hand_back(self, actor: Actor, outcome: Poll, used_ns: int) -> None:
        def arrive() -> None:
            self._count -= 1
            if self._count == 0:
                self._wants_ticks(False)
            self._on_return(actor, outcome, used_ns)

        self._call_on_loop(arrive)
