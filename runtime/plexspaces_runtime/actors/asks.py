"""The questions under way on a node: each is opened once and ends once, with a reply, an error or its deadline."""

from __future__ import annotations

from collections.abc import Callable

from ..clock import Clock
from ..errors import DeadlineExceeded
from ..scope import Address
from .actor import Actor
from .deadlines import Deadline, Deadlines
from .envelope import Outcome, PendingAsk


def _nobody(_outcome: Outcome) -> None:
    """Whoever waited has heard, or is gone."""


class Asks:
    """Opens and ends asks.

    Args:
        clock: whose monotonic time deadlines are on.
        set_alarm: see `Deadlines`.
    """

    def __init__(self, clock: Clock, set_alarm: Callable[[float], None]) -> None:
        self._deadlines = Deadlines(clock, set_alarm, self._reached)
        self.ring = self._deadlines.ring

    def open(
        self,
        message_id: str,
        target: Address,
        asker: Actor | None,
        deadline_ns: int,
        on_end: Callable[[Outcome], None],
    ) -> PendingAsk:
        """Begin to wait.  `on_end` is told the outcome exactly once, unless the ask is abandoned."""
        ask = PendingAsk(message_id, target, asker, on_end)
        self._deadlines.add(ask, deadline_ns)
        if asker is not None:
            asker.asks.add(ask)
        return ask

    def both(self, first: PendingAsk | None, second: PendingAsk) -> PendingAsk:
        """One ask for two that wait for the same reply: it has no deadline, they have theirs."""
        if first is None or first.ended:
            return second

        def ended(outcome: Outcome) -> None:
            self.end(first, outcome)
            self.end(second, outcome)

        return PendingAsk(first.message_id, first.target, None, ended)

    def end(self, ask: PendingAsk, outcome: Outcome) -> bool:
        """Deliver the outcome; False when the ask had ended already (a reply after the deadline, say)."""
        if ask.ended:
            return False
        on_end = ask.on_end
        self.abandon(ask)
        on_end(outcome)
        return True

    def abandon(self, ask: PendingAsk) -> None:
        """The asker is gone: whatever comes now is for nobody."""
        ask.ended = True
        self._deadlines.discard(ask)
        if ask.asker is not None:
            ask.asker.asks.discard(ask)
            # The message may wait in a mailbox for long: it must not keep the one who asked.
            ask.asker = None
        ask.on_end = _nobody

    def _reached(self, entry: Deadline) -> None:
        assert isinstance(entry, PendingAsk)
        self.end(
            entry,
            DeadlineExceeded(
                f"actor {entry.target.text!r} did not reply in time; it may still be working on message "
                f"{entry.message_id}",
                message_id=entry.message_id,
            ),
        )
