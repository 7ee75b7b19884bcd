"""A message under way, and the promise of a reply that rides with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import orjson

from ..scope import Address, Caller

if TYPE_CHECKING:
    from .actor import Actor


class Kind(Enum):
    """The WIT's `message-kind`."""

    # By identity: Enum hashes its name in Python, on every lookup.
    __hash__ = object.__hash__

    CALL = "call"
    CAST = "cast"
    INFO = "info"
    RUN = "run"
    SIGNAL = "signal"
    QUERY = "query"


# What a pending ask ends with: the reply as JSON text, or the error that the asker gets instead.
Outcome = str | Exception


class PendingAsk:
    """One question that somebody waits for.  It ends exactly once: reply, error or deadline (invariant M2).

    Attributes:
        target: the actor that was asked.
        asker: the actor that waits, or None when it is somebody outside.
        on_end: told the outcome, once.
    """

    __slots__ = ("asker", "bucket", "ended", "message_id", "on_end", "target")

    def __init__(
        self, message_id: str, target: Address, asker: Actor | None, on_end: Callable[[Outcome], None]
    ) -> None:
        self.message_id = message_id
        self.target = target
        self.asker = asker
        self.on_end = on_end
        self.ended = False
        # Where `Deadlines` keeps it, so that forgetting it costs one dictionary operation.
        self.bucket = -1


# Not frozen: one is made for every message, and a frozen dataclass costs five times as much to make.
# Nobody assigns to its fields after construction, but for `pending` and `accepted`, which whoever keeps it may set.
@dataclass(slots=True, eq=False)
class Envelope:
    """One message to one actor.

    Attributes:
        id: unique in the node; a caller may choose it.
        kind: see the WIT's `message-kind`.
        op: the operation.
        payload: the arguments as JSON text.
        sender: the sending actor, None from outside.
        caller: who started the work; travels down every message the work causes.
        deadline_ns: on the monotonic clock; 0 when there is none.
        trace: W3C traceparent, "" when there is none.
        causation_id: the message that caused this one.
        pending: the ask that waits for this message's reply.
        claim: asked when its turn has come, with the actor that is to handle it; False makes it void.  What the
            node tells one incarnation can be taken back by it, and is nothing to its successor.
        repeatable: whoever sent it may send it again under the same id, and means the same message.
        accepted: its number in a durable actor's inbox, 0 if it is not kept.
    """

    id: str
    kind: Kind
    op: str
    payload: str
    sender: Address | None = None
    caller: Caller | None = None
    deadline_ns: int = 0
    trace: str = ""
    causation_id: str = ""
    pending: PendingAsk | None = field(default=None, repr=False)
    claim: Callable[[Actor], bool] | None = field(default=None, repr=False)
    repeatable: bool = False
    accepted: int = 0

    @property
    def expired(self) -> bool:
        """The one who asked has stopped waiting: the work would be for nobody."""
        return self.pending is not None and self.pending.ended

    def arguments(self) -> tuple[str, str, str, str, str, str]:
        """What the export `handle` is called with."""
        sender = self.sender.text if self.sender is not None else ""
        return self.id, self.kind.value, self.op, self.payload, sender, self._context()

    def _context(self) -> str:
        """What the WIT's envelope says of where a message comes from, as JSON text."""
        caller = self.caller
        if caller is None and not self.trace:
            return ""
        context: dict[str, Any] = {}
        if caller is not None:
            context["subject"] = caller.subject
            context["roles"] = sorted(caller.roles)
            if caller.session:
                context["session"] = caller.session
            if caller.scopes:
                context["scopes"] = sorted(caller.scopes)
        if self.trace:
            context["trace"] = self.trace
        if self.causation_id:
            context["causation_id"] = self.causation_id
        return orjson.dumps(context).decode()
