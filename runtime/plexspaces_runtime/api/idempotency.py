"""Repeated requests get the first one's answer: `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header).

A key belongs to a tenant, a namespace and a subject; the same key with another request is refused (422).  A request
that comes again while the first is under way joins it and waits for the same answer.  The draft suggests 409 there;
but nearly always the repetition comes from a client that lost its connection and wants exactly this answer, and a 409
would only make it ask again until there is one.

Recorded is every outcome after which the work may have happened, a deadline among them: doing it again is what the
key forbids.  A request that certainly never reached its actor is forgotten, so that the same key may try again.

What is recorded survives the node, if it is on disk before the answer goes out.  What was under way when the node died
is forgotten: its message carries an id made from the key, by which a durable actor recognises it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import orjson

from ..clock import Clock
from ..errors import BusyError, Unavailable
from ..stores.replies import MemoryReplies, ReplyRow, ReplyTable
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

    async def settle(self) -> None:
        """Wait until what was recorded would survive a crash: before the answer goes out.

        Raises:
            Unavailable: the disk refuses.
        """


@dataclass(slots=True, eq=False)
class _Entry:
    fingerprint: bytes
    until_ms: int
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


class _Claim:
    __slots__ = ("_entry", "_id", "_memory")

    def __init__(self, memory: Idempotency, id_: IdempotencyId, entry: _Entry) -> None:
        self._memory = memory
        self._id = id_
        self._entry = entry

    def keep(self, answer: Response) -> None:
        self._memory.end(self._id, self._entry, answer, kept=True)

    def forget(self, answer: Response) -> None:
        self._memory.end(self._id, self._entry, answer, kept=False)


class Idempotency:
    """Records answers, the oldest forgotten first.

    Args:
        table: where they are kept beside memory; None for in memory alone.
        flushed: waits until what was given to the table is on disk.
        entries_max: keys remembered.
        bytes_max: their answers together.
        reply_bytes_max: a larger answer is not kept.
        retention_s: how long an answer is kept.
    """

    def __init__(
        self,
        clock: Clock,
        table: ReplyTable | None = None,
        flushed: Callable[[], Awaitable[None]] | None = None,
        *,
        entries_max: int,
        bytes_max: int,
        reply_bytes_max: int,
        retention_s: float,
    ) -> None:
        self._clock = clock
        self._table: ReplyTable = table or MemoryReplies()
        self._flushed = flushed
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._reply_bytes_max = min(reply_bytes_max, bytes_max)
        self._retention_ms = int(retention_s * 1000)
        # Under way, and done in the order in which they were: the oldest answer is the first to go.
        self._open: dict[IdempotencyId, _Entry] = {}
        self._done: OrderedDict[IdempotencyId, _Entry] = OrderedDict()
        self._bytes = 0
        # What the table would not take at the moment, oldest first.
        self._late: deque[tuple[ReplyRow | None, Sequence[IdempotencyId]]] = deque(maxlen=entries_max)
        for row in self._table.rows():
            self._remember(IdempotencyId(*row.key), _entry(row))
        self._make_room()

    async def claim(self, id_: IdempotencyId, fingerprint: bytes) -> Claim | Response:
        self._expire()
        entry = self._open.get(id_) or self._done.get(id_)
        if entry is None:
            if len(self._open) >= self._entries_max:
                raise Overloaded("too many requests with an Idempotency-Key are under way: try again later")
            entry = self._open[id_] = _Entry(fingerprint, 0)
            return _Claim(self, id_, entry)
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

    async def settle(self) -> None:
        self._write_late()
        if self._late:
            raise Unavailable("the answer could not be recorded: the disk refuses; ask again with the same key")
        if self._flushed is not None:
            await self._flushed()

    def end(self, id_: IdempotencyId, entry: _Entry, answer: Response, *, kept: bool) -> None:
        """A claim has ended."""
        del self._open[id_]
        if kept:
            if len(answer.body) <= self._reply_bytes_max:
                entry.answer = answer
            else:
                entry.lost = True
            entry.until_ms = self._now_ms() + self._retention_ms
            self._remember(id_, entry)
            self._keep(_row(id_, entry), self._make_room())
        for waiting in entry.waiting:
            if not waiting.done():
                waiting.set_result(answer)
        entry.waiting.clear()

    def _remember(self, id_: IdempotencyId, entry: _Entry) -> None:
        self._done[id_] = entry
        self._bytes += entry.bytes

    def _make_room(self) -> list[IdempotencyId]:
        """Forget the oldest that there is no room for; which those are."""
        forgotten = []
        while len(self._done) > self._entries_max or self._bytes > self._bytes_max:
            id_, entry = self._done.popitem(last=False)
            self._bytes -= entry.bytes
            forgotten.append(id_)
        return forgotten

    def _expire(self) -> None:
        now_ms = self._now_ms()
        forgotten = []
        while self._done:
            id_, entry = next(iter(self._done.items()))
            if entry.until_ms > now_ms:
                break
            del self._done[id_]
            self._bytes -= entry.bytes
            forgotten.append(id_)
        if forgotten:
            self._keep(None, forgotten)

    def _keep(self, row: ReplyRow | None, forgotten: Sequence[IdempotencyId]) -> None:
        """Let the table follow, in order, as soon as it takes it: what is known here is answered meanwhile."""
        self._late.append((row, forgotten))
        self._write_late()

    def _write_late(self) -> None:
        while self._late:
            row, forgotten = self._late[0]
            try:
                if row is not None:
                    self._table.put(row, forgotten)
                elif forgotten:
                    self._table.remove(forgotten)
            except BusyError:
                break
            self._late.popleft()

    def _now_ms(self) -> int:
        return self._clock.now_ns() // 1_000_000


def _row(id_: IdempotencyId, entry: _Entry) -> ReplyRow:
    answer = entry.answer
    if answer is None:
        return ReplyRow(id_, entry.fingerprint, entry.until_ms, 0, "[]", b"")
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers]
    return ReplyRow(id_, entry.fingerprint, entry.until_ms, answer.status, orjson.dumps(headers).decode(), answer.body)


def _entry(row: ReplyRow) -> _Entry:
    if not row.status:
        return _Entry(row.fingerprint, row.until_ms, lost=True)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in orjson.loads(row.headers)]
    return _Entry(row.fingerprint, row.until_ms, Response(row.status, headers, row.body))
