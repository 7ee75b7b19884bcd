"""Repeated requests get the first one's answer: `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header).

A key belongs to a tenant, a namespace and a subject; the same key with another request is refused (422).  A request
that comes again while the first is under way joins it and waits for the same answer.  The draft suggests 409 there;
but nearly always the repetition comes from a client that lost its connection and wants exactly this answer, and a 409
would only make it ask again until there is one.

Recorded is every outcome after which the work may have happened, a deadline among them: doing it again is what the
key forbids.  A request that certainly never reached its actor is forgotten, so that the same key may try again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ..clock import Clock
from .faults import IdempotencyKeyReused, Overloaded, ReplyNotKept, Response

# Errors that are raised before a message is in a mailbox, or for one that never left it.
NEVER_DONE = frozenset(
    {
        "actor-exited",
        "actor-not-found",
        "invalid-argument",
        "mailbox-full",
        "not-found",
        "overloaded",
        "payload-too-large",
        "permission-denied",
        "rate-limited",
        "unauthenticated",
        "unavailable",
        "unsupported-media-type",
        "uri-too-long",
    }
)


class IdempotencyId(NamedTuple):
    """Whose key it is."""

    tenant: str
    namespace: str
    subject: str
    key: str


class Claim(Protocol):
    """The right and duty to do a request: end it with `keep` or `forget`."""

    def keep(self, answer: Response) -> None:
        """Give this answer to everybody who asks again."""

    def forget(self, answer: Response) -> None:
        """Give this answer to those who wait now, and let the next one try again."""


class IdempotencyStore(Protocol):
    """Where answers are recorded."""

    async def claim(self, id_: IdempotencyId, fingerprint: bytes) -> Claim | Response:
        """The claim to do the request, or the answer of the one who had it.

        Args:
            fingerprint: the same for the same request, and for no other.

        Raises:
            IdempotencyKeyReused: the key belongs to another request.
            ReplyNotKept: it was done, and its answer was too large to be kept.
            Overloaded: too many requests with keys are under way.
        """


@dataclass(slots=True, eq=False)
class _Entry:
    fingerprint: bytes
    until_ns: int
    answer: Response | None = None
    # The answer was too large: only that there was one is known.
    lost: bool = False
    waiting: list[asyncio.Future[Response]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return 512 + (len(self.answer.body) if self.answer is not None else 0)

    @property
    def done(self) -> bool:
        return self.lost or self.answer is not None


class _MemoryClaim:
    __slots__ = ("_entry", "_id", "_memory")

    def __init__(self, memory: MemoryIdempotency, id_: IdempotencyId, entry: _Entry) -> None:
        self._memory = memory
        self._id = id_
        self._entry = entry

    def keep(self, answer: Response) -> None:
        self._memory.end(self._id, self._entry, answer, kept=True)

    def forget(self, answer: Response) -> None:
        self._memory.end(self._id, self._entry, answer, kept=False)


class MemoryIdempotency:
    """Records answers in memory, the oldest forgotten first.

    Args:
        entries_max: keys remembered.
        bytes_max: their answers together.
        reply_bytes_max: a larger answer is not kept.
        retention_s: how long an answer is kept.
    """

    def __init__(
        self, clock: Clock, *, entries_max: int, bytes_max: int, reply_bytes_max: int, retention_s: float
    ) -> None:
        self._clock = clock
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._reply_bytes_max = min(reply_bytes_max, bytes_max)
        self._retention_ns = int(retention_s * 1e9)
        # Under way, and done in the order in which they were: the oldest answer is the first to go.
        self._open: dict[IdempotencyId, _Entry] = {}
        self._done: OrderedDict[IdempotencyId, _Entry] = OrderedDict()
        self._bytes = 0

    async def claim(self, id_: IdempotencyId, fingerprint: bytes) -> Claim | Response:
        self._expire()
        entry = self._open.get(id_) or self._done.get(id_)
        if entry is None:
            if len(self._open) >= self._entries_max:
                raise Overloaded("too many requests with an Idempotency-Key are under way: try again later")
            entry = self._open[id_] = _Entry(fingerprint, 0)
            return _MemoryClaim(self, id_, entry)
        if entry.fingerprint != fingerprint:
            raise IdempotencyKeyReused(
                "this Idempotency-Key came before with another request: use a new key for a new request"
            )
        if entry.lost:
            raise ReplyNotKept(
                "the request was done before, but its reply was too large to be kept; it is not done again"
            )
        if entry.answer is not None:
            return entry.answer
        waiting: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        entry.waiting.append(waiting)
        return await waiting

    def end(self, id_: IdempotencyId, entry: _Entry, answer: Response, *, kept: bool) -> None:
        """A claim has ended."""
        del self._open[id_]
        if kept:
            if len(answer.body) <= self._reply_bytes_max:
                entry.answer = answer
            else:
                entry.lost = True
            entry.until_ns = self._clock.monotonic_ns() + self._retention_ns
            self._done[id_] = entry
            self._bytes += entry.bytes
            while len(self._done) > self._entries_max or self._bytes > self._bytes_max:
                self._bytes -= self._done.popitem(last=False)[1].bytes
        for waiting in entry.waiting:
            if not waiting.done():
                waiting.set_result(answer)
        entry.waiting.clear()

    def _expire(self) -> None:
        now_ns = self._clock.monotonic_ns()
        while self._done:
            id_, entry = next(iter(self._done.items()))
            if entry.until_ns > now_ns:
                return
            del self._done[id_]
            self._bytes -= entry.bytes
