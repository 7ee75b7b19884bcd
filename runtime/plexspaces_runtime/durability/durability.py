"""All durable actors of a node: what they share, and when what was interrupted goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from ..actors.actor import Actor
from ..actors.asks import Asks
from ..actors.timers import Timer, Timers
from ..clock import Clock
from ..errors import Conflict
from ..events import EventBus
from ..scheduler import Scheduler
from ..scope import Address
from ..stores.journal import JournalTable, Row
from .durable import Durable

_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class DurabilityConfig:
    """Attributes:
    checkpoint_interval: messages between two checkpoints.
    max_attempts: how often a message that nobody waits for is tried before it is given up.
    retry_backoff_s: seconds before the second attempt; each further one waits twice as long.
    reply_retention_ms: how long a reply is kept for whoever repeats the message.
    retain_checkpoints: how many checkpoints the journal goes back, for people to read.
    """

    checkpoint_interval: int = 100
    max_attempts: int = 3
    retry_backoff_s: float = 0.1
    reply_retention_ms: int = 24 * 3_600 * 1_000
    retain_checkpoints: int = 4


class Durability:
    """What the durable actors of a node share.

    Args:
        held: what was interrupted does not go on before `go_on` is called: a node that starts has not yet started
            those whom it concerns.

    Attributes:
        held: see above.
        closing: the node is stopping: what is interrupted now goes on after its next start.
    """

    def __init__(
        self,
        table: JournalTable,
        *,
        clock: Clock,
        events: EventBus,
        asks: Asks,
        timers: Timers,
        scheduler: Scheduler,
        loop: asyncio.AbstractEventLoop,
        held: bool = False,
    ) -> None:
        self.table = table
        self.events = events
        self.asks = asks
        self.closing = False
        self._clock = clock
        self._timers = timers
        self._scheduler = scheduler
        self._loop = loop
        self.held = held
        self._accepted = table.last_accepted()
        # Rows that may not be on disk yet.
        self._fresh: dict[Address, Row] = {}
        # Actors whose journals an operator changes, and their starts, which wait for that.
        self._repaired: dict[Address, list[Callable[[], None]]] = {}
        # The facets of names that somebody still knows.
        self._facets: WeakValueDictionary[Address, Durable] = WeakValueDictionary()
        # Up, and waiting for the others.
        self._waiting: list[Durable] = []

    # -- what the node asks -------------------------------------------------------------------------------

    def facet(self, address: Address, config: DurabilityConfig) -> Durable:
        """The facet that makes the actor at `address` durable."""
        facet = self._facets[address] = Durable(self, address, config)
        return facet

    def go_on(self) -> None:
        """Everybody is there: let what was interrupted go on."""
        self.held = False
        waiting, self._waiting = self._waiting, []
        for durable in waiting:
            durable.go_on()

    def unfinished(self) -> list[Address]:
        """Actors that have something to do."""
        return self.table.unfinished()

    def repair(self, address: Address) -> None:
        """An operator changes this actor's journal: whoever starts it waits.

        Raises:
            Conflict: somebody does already.
        """
        if address in self._repaired:
            raise Conflict(f"the journal of actor {address.text!r} is being recovered: see what comes of that")
        self._repaired[address] = []

    def repaired(self, address: Address) -> None:
        """That is over."""
        for start in self._repaired.pop(address):
            start()

    def forget_reply(self, address: Address, durable: int, message_id: str) -> None:
        """A message that was answered is to be handled again under its id."""
        self.table.forget_reply(durable, message_id)
        facet = self._facets.get(address)
        if facet is not None:
            facet.forget_reply(message_id)

    # -- what the facets ask ------------------------------------------------------------------------------

    def up(self, durable: Durable) -> None:
        """An actor has been made again."""
        if self.held:
            self._waiting.append(durable)
        else:
            durable.go_on()

    def is_repaired(self, address: Address, start: Callable[[], None]) -> bool:
        """Whether an actor's journal is being changed: then `start` is called once that is over."""
        waiting = self._repaired.get(address)
        if waiting is None:
            return False
        waiting.append(start)
        return True

    def row(self, address: Address) -> Row:
        """An actor's row, a new one if it has none."""
        row = self._fresh.get(address) or self.table.find(address)
        if row is None:
            row = self._fresh[address] = self.table.create(address)

            def settled(error: Exception | None) -> None:
                if error is None:
                    self._fresh.pop(address, None)

            self.table.settled(settled)
        return row

    def next_accepted(self) -> int:
        """A number for the inbox."""
        self._accepted += 1
        return self._accepted

    def add_timer(self, timer: Timer) -> None:
        """Start a timer that was set before."""
        self._timers.add(timer)

    def wake(self, actor: Actor) -> None:
        """Something has come into the mailbox."""
        self._scheduler.wake(actor)

    def soon(self, do: Callable[[], object]) -> None:
        """Do it when whatever is under way is done."""
        self._loop.call_soon(do)

    def later(self, delay_s: float, do: Callable[[], None]) -> None:
        """Do it after a while."""
        self._loop.call_later(delay_s, do)

    def now_ms(self) -> int:
        """The wall clock."""
        return self._clock.now_ns() // _NS_PER_MS

    def monotonic_ns(self) -> int:
        """The clock that only goes on."""
        return self._clock.monotonic_ns()
