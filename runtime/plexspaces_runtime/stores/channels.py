"""Channels: durable queues of a namespace; at least once, in order, until acknowledged or dead.

A message is in exactly one state (invariant Q1), and `STEPS` says which it may go to.  The state is in memory; the
table behind it, which follows by the node's one ordered stream of writes, has the message and how often it was
delivered, but no leases: after a restart of the node, what was leased waits again, because whoever had it is gone.

A step that has to be on disk is written before memory follows, so a refused write leaves the message where it was.
Where nobody is there to hear of the refusal (a lease that ran out, a consumer that died), the message stays leased, to
nobody, and the step is tried again.

In order: messages leave in the order they were sent, and one that comes back takes its old place.  A delayed one takes
it when its delay is over.  Time is the monotonic clock's while the node runs; what is stored is wall clock.
"""

from __future__ import annotations

import heapq
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from ..clock import Clock
from ..config import Limits
from ..errors import BusyError, InvalidArgument, LimitExceeded, NotFound, PlexSpacesError
from ..events import EventBus, MessageDeadLettered
from ..scope import Scope
from .agenda import Agenda

if TYPE_CHECKING:
    from .database import Database
    from .quotas import Quotas

VISIBILITY_MS: Final = 30_000
VISIBILITY_MS_MAX: Final = 12 * 3_600 * 1_000
DELAY_MS_MAX: Final = 365 * 24 * 3_600 * 1_000
LIST_MAX: Final = 1_000
# What a message, or a remembered dedup id, costs beside its texts: so that a million empty ones are not free.
OVERHEAD_BYTES: Final = 128
RESIDENT_BYTES_MAX: Final = 64 * 1024 * 1024

_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
_TYPE: Final = re.compile(r"[^\x00-\x1f\x7f]{0,256}")
_ID: Final = re.compile(r"message-([0-9]{1,19})")
_REASON_CHARACTERS: Final = 512
_NS_PER_MS: Final = 1_000_000
_RETRY_NS: Final = 1_000_000_000
_ROWS_AT_ONCE: Final = 10_000
_DELETED_AT_ONCE: Final = 500
_SPARE: Final = 64

SCHEMA: Final[tuple[str, ...]] = (
    # AUTOINCREMENT: the id of a message that is gone is never given again, not even after a restart.
    """CREATE TABLE channel_messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, namespace TEXT NOT NULL, channel TEXT NOT NULL,
        msg_type TEXT NOT NULL, payload TEXT NOT NULL, bytes INTEGER NOT NULL, enqueued_ms INTEGER NOT NULL,
        deliveries INTEGER NOT NULL, visible_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
        dead_ms INTEGER NOT NULL, reason TEXT NOT NULL)""",
    """CREATE TABLE channel_dedups (
        tenant TEXT NOT NULL, namespace TEXT NOT NULL, channel TEXT NOT NULL, dedup_id TEXT NOT NULL,
        message INTEGER NOT NULL, sent_ms INTEGER NOT NULL,
        PRIMARY KEY (tenant, namespace, channel, dedup_id)) WITHOUT ROWID""",
)


# -- the states --------------------------------------------------------------------------------------------


class State(Enum):
    """Where a message is.  The last three are ends: it is forgotten there."""

    # By identity: Enum hashes its name in Python, on every lookup.
    __hash__ = object.__hash__

    WAITING = "waiting"
    LEASED = "leased"
    DEAD = "dead"
    ACKNOWLEDGED = "acknowledged"
    EXPIRED = "expired"
    DROPPED = "dropped"


class Event(Enum):
    """What happens to a message."""

    # By identity: Enum hashes its name in Python, on every lookup.
    __hash__ = object.__hash__

    DELIVERED = "delivered"
    ACKED = "acked"
    EXTENDED = "extended"
    # The lease is over without an ack, and it may be delivered again.
    RETURNED = "returned"
    # The lease is over without an ack, and it may not.
    BURIED = "buried"
    # Its time to live is over.
    AGED = "aged"
    # By an operator.
    RETRIED = "retried"
    REMOVED = "removed"


STEPS: Final[dict[tuple[State, Event], State]] = {
    (State.WAITING, Event.DELIVERED): State.LEASED,
    (State.WAITING, Event.AGED): State.EXPIRED,
    (State.LEASED, Event.ACKED): State.ACKNOWLEDGED,
    (State.LEASED, Event.EXTENDED): State.LEASED,
    (State.LEASED, Event.RETURNED): State.WAITING,
    (State.LEASED, Event.BURIED): State.DEAD,
    (State.LEASED, Event.AGED): State.EXPIRED,
    (State.DEAD, Event.RETRIED): State.WAITING,
    (State.DEAD, Event.REMOVED): State.DROPPED,
}


# -- what can be seen --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as its consumer gets it.

    Attributes:
        id: to ack, nack or extend it.
        payload: JSON text.
        deliveries: 1 for the first.
        enqueued_ms: Unix milliseconds.
    """

    id: str
    msg_type: str
    payload: str
    deliveries: int
    enqueued_ms: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that is not delivered any more, until an operator retries or drops it.

    Attributes:
        reason: why, for a person.
        dead_ms: since when, Unix milliseconds.
    """

    id: str
    channel: str
    msg_type: str
    payload: str
    deliveries: int
    enqueued_ms: int
    dead_ms: int
    reason: str


class _Waiting(Enum):
    WAITING = "waiting"


# What `receive` answers when the waiter will hear later.
WAITING: Final = _Waiting.WAITING


@dataclass(frozen=True, slots=True)
class Waiter:
    """Somebody who would wait for a message.

    Attributes:
        deadline_ns: until when, on the monotonic clock.
        wanted: whether it still waits; asked before a message is leased to it.
        on_result: hears once, never within the call itself: the message, None after the deadline, or an error.
    """

    deadline_ns: int
    wanted: Callable[[], bool]
    on_result: Callable[[Delivery | PlexSpacesError | None], None]


# -- what is kept ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message as it is stored, without its payload.

    Attributes:
        number: its place in the order of all messages.
        bytes: of the payload.
        visible_ms, expires_ms, dead_ms: Unix milliseconds; 0: at once, never, not.
    """

    number: int
    scope: Scope
    channel: str
    msg_type: str
    bytes: int
    enqueued_ms: int
    deliveries: int = 0
    visible_ms: int = 0
    expires_ms: int = 0
    dead_ms: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DedupRow:
    """A dedup id that is remembered, and the message that had it."""

    scope: Scope
    channel: str
    dedup_id: str
    message: int
    sent_ms: int


class ChannelTable(Protocol):
    """Where messages are kept.  Each write is one atomic unit, in the order of the calls.

    Every write raises `Unavailable` where the disk refuses and `LimitExceeded` where too much waits for it.
    """

    def last_number(self) -> int:
        """The greatest number there ever was."""

    def rows(self) -> Iterator[MessageRow]:
        """All messages, oldest first."""

    def dedups(self) -> Iterator[DedupRow]:
        """All that are remembered, oldest first."""

    def payload(self, number: int) -> str:
        """The payload of a message that is durable."""

    def insert(self, row: MessageRow, payload: str, dedup: DedupRow | None, forgotten: Sequence[DedupRow]) -> int:
        """Add a message and remember its dedup id, forgetting others; the number of the write."""

    def update(
        self, number: int, *, deliveries: int, visible_ms: int, expires_ms: int, dead_ms: int, reason: str
    ) -> None:
        """Change what can change."""

    def delete(self, numbers: Sequence[int]) -> None:
        """Remove messages."""

    def forget(self, dedups: Sequence[DedupRow]) -> None:
        """Remember these no more."""

    def when_durable(self, write: int, callback: Callable[[Exception | None], None]) -> None:
        """Call back once that write is on disk, or with the reason why it cannot be at the moment."""


class SqliteChannels:
    """On the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last_number(self) -> int:
        rows = self._database.read("SELECT seq FROM sqlite_sequence WHERE name = 'channel_messages'", ())
        return int(rows[0][0]) if rows else 0

    def rows(self) -> Iterator[MessageRow]:
        after = 0
        while True:
            rows = self._database.read(
                "SELECT id, tenant, namespace, channel, msg_type, bytes, enqueued_ms, deliveries, visible_ms,"
                " expires_ms, dead_ms, reason FROM channel_messages WHERE id > ? ORDER BY id LIMIT ?",
                (after, _ROWS_AT_ONCE),
            )
            for number, tenant, namespace, *rest in rows:
                yield MessageRow(number, Scope(tenant, namespace), *rest)
            if len(rows) < _ROWS_AT_ONCE:
                return
            after = rows[-1][0]

    def dedups(self) -> Iterator[DedupRow]:
        rows = self._database.read(
            "SELECT tenant, namespace, channel, dedup_id, message, sent_ms FROM channel_dedups ORDER BY message", ()
        )
        for tenant, namespace, *rest in rows:
            yield DedupRow(Scope(tenant, namespace), *rest)

    def payload(self, number: int) -> str:
        rows = self._database.read("SELECT payload FROM channel_messages WHERE id = ?", (number,))
        return str(rows[0][0])

    def insert(self, row: MessageRow, payload: str, dedup: DedupRow | None, forgotten: Sequence[DedupRow]) -> int:
        scope = row.scope
        statements: list[tuple[str, Sequence[object]]] = [
            (
                "INSERT INTO channel_messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, 0, '')",
                (
                    row.number,
                    scope.tenant,
                    scope.namespace,
                    row.channel,
                    row.msg_type,
                    payload,
                    row.bytes,
                    row.enqueued_ms,
                    row.visible_ms,
                    row.expires_ms,
                ),
            )
        ]
        statements.extend(map(_forgetting, forgotten))
        if dedup is not None:
            statements.append(
                (
                    "INSERT INTO channel_dedups VALUES (?, ?, ?, ?, ?, ?)",
                    (scope.tenant, scope.namespace, row.channel, dedup.dedup_id, dedup.message, dedup.sent_ms),
                )
            )
        return self._database.stream.write(statements)

    def update(
        self, number: int, *, deliveries: int, visible_ms: int, expires_ms: int, dead_ms: int, reason: str
    ) -> None:
        self._database.stream.write(
            [
                (
                    "UPDATE channel_messages SET deliveries = ?, visible_ms = ?, expires_ms = ?, dead_ms = ?,"
                    " reason = ? WHERE id = ?",
                    (deliveries, visible_ms, expires_ms, dead_ms, reason, number),
                )
            ]
        )

    def delete(self, numbers: Sequence[int]) -> None:
        self._database.stream.write([("DELETE FROM channel_messages WHERE id = ?", (number,)) for number in numbers])

    def forget(self, dedups: Sequence[DedupRow]) -> None:
        self._database.stream.write([_forgetting(dedup) for dedup in dedups])

    def when_durable(self, write: int, callback: Callable[[Exception | None], None]) -> None:
        self._database.stream.when_durable(write, callback)


def _forgetting(dedup: DedupRow) -> tuple[str, Sequence[object]]:
    return (
        "DELETE FROM channel_dedups WHERE tenant = ? AND namespace = ? AND channel = ? AND dedup_id = ?",
        (dedup.scope.tenant, dedup.scope.namespace, dedup.channel, dedup.dedup_id),
    )


class MemoryChannels:
    """In memory; as durable as its owner."""

    def __init__(self) -> None:
        self._rows: dict[int, MessageRow] = {}
        self._payloads: dict[int, str] = {}
        self._dedups: dict[tuple[Scope, str, str], DedupRow] = {}
        self._last = 0

    def last_number(self) -> int:
        return self._last

    def rows(self) -> Iterator[MessageRow]:
        yield from tuple(self._rows.values())

    def dedups(self) -> Iterator[DedupRow]:
        yield from tuple(self._dedups.values())

    def payload(self, number: int) -> str:
        return self._payloads[number]

    def insert(self, row: MessageRow, payload: str, dedup: DedupRow | None, forgotten: Sequence[DedupRow]) -> int:
        self.forget(forgotten)
        self._rows[row.number] = row
        self._payloads[row.number] = payload
        self._last = row.number
        if dedup is not None:
            self._dedups[dedup.scope, dedup.channel, dedup.dedup_id] = dedup
        return 0

    def update(
        self, number: int, *, deliveries: int, visible_ms: int, expires_ms: int, dead_ms: int, reason: str
    ) -> None:
        row = self._rows[number]
        self._rows[number] = replace(
            row,
            deliveries=deliveries,
            visible_ms=visible_ms,
            expires_ms=expires_ms,
            dead_ms=dead_ms,
            reason=reason,
        )

    def delete(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            del self._rows[number], self._payloads[number]

    def forget(self, dedups: Sequence[DedupRow]) -> None:
        for dedup in dedups:
            del self._dedups[dedup.scope, dedup.channel, dedup.dedup_id]

    def when_durable(self, write: int, callback: Callable[[Exception | None], None]) -> None:
        callback(None)


# -- in memory ---------------------------------------------------------------------------------------------


class _Message:
    """One message.

    Attributes:
        payload: None while only the table has it.
        visible_ns, expires_ns: monotonic; 0: at once, never.  The wall clock's beside them, as the table has them.
        owner: who has it leased; None for nobody.
        subscriber: the subscription it was pushed to.
        begun: whoever has it leased has seen it; else its delivery does not count.
        queued: it is among those that can be delivered.
    """

    __slots__ = (
        "begun",
        "bytes",
        "channel",
        "dead_ms",
        "deliveries",
        "enqueued_ms",
        "entry",
        "expires_ms",
        "expires_ns",
        "msg_type",
        "number",
        "owner",
        "payload",
        "queued",
        "reason",
        "state",
        "subscriber",
        "visible_ms",
        "visible_ns",
    )

    def __init__(self, row: MessageRow, channel: _Channel, payload: str | None, state: State) -> None:
        self.number = row.number
        self.channel = channel
        self.msg_type = row.msg_type
        self.payload = payload
        self.bytes = row.bytes
        self.enqueued_ms = row.enqueued_ms
        self.deliveries = row.deliveries
        self.visible_ms = row.visible_ms
        self.expires_ms = row.expires_ms
        self.dead_ms = row.dead_ms
        self.reason = row.reason
        self.state = state
        self.visible_ns = 0
        self.expires_ns = 0
        self.owner: Hashable = None
        self.subscriber: _Receiver | None = None
        self.begun = False
        self.queued = False
        self.entry = 0


class _Receiver:
    """Somebody who waits for a message: once, or, with `deliver`, again and again."""

    __slots__ = ("channel", "deliver", "entry", "id", "owner", "visibility_ns", "waiter")

    def __init__(self, channel: _Channel, owner: Hashable, receiver_id: str = "") -> None:
        self.channel = channel
        self.owner = owner
        self.id = receiver_id
        self.waiter: Waiter | None = None
        self.visibility_ns = 0
        self.deliver: Callable[[Delivery], None] | None = None
        self.entry = 0


class _Channel:
    """One queue.

    Attributes:
        counts: how many messages are in each state that is none of the ends.
        dead: its dead letters.
        ready: those that can be delivered, a heap by number; what is not `queued` any more stays until its turn.
        receivers: who waits, longest first.
        subscriptions: all, those included that are busy with a message.
        dedups: remembered ids, oldest first.
    """

    __slots__ = ("counts", "dead", "dedups", "entry", "name", "queued", "ready", "receivers", "scope", "subscriptions")

    def __init__(self, scope: Scope, name: str) -> None:
        self.scope = scope
        self.name = name
        self.counts = dict.fromkeys((State.WAITING, State.LEASED, State.DEAD), 0)
        self.dead: dict[_Message, None] = {}
        self.ready: list[tuple[int, _Message]] = []
        self.queued = 0
        # Not a dict: the first key of a dict is found by walking past all that were removed before it.
        self.receivers: OrderedDict[_Receiver, None] = OrderedDict()
        self.subscriptions: dict[str, _Receiver] = {}
        self.dedups: OrderedDict[str, DedupRow] = OrderedDict()
        self.entry = 0

    @property
    def idle(self) -> bool:
        return not (any(self.counts.values()) or self.receivers or self.subscriptions or self.dedups)

    def push(self, message: _Message) -> None:
        message.queued = True
        self.queued += 1
        heapq.heappush(self.ready, (message.number, message))

    def unqueue(self, message: _Message) -> None:
        if message.queued:
            message.queued = False
            self.queued -= 1
            if len(self.ready) > 2 * self.queued + _SPARE:
                self.ready = [each for each in self.ready if each[1].queued]
                heapq.heapify(self.ready)

    def first(self) -> _Message | None:
        """The oldest that can be delivered."""
        ready = self.ready
        while ready and not ready[0][1].queued:
            heapq.heappop(ready)
        return ready[0][1] if ready else None


_Owner = tuple[Scope, Hashable]


class Channels:
    """All channels of a node.  Every function works in its scope and knows of no other.

    Args:
        table: what is behind the memory.
        quotas: what each tenant may store.
        clock: time.
        events: hears of messages that die.
        limits: how many, how often, how long.
        set_alarm: called with a number of seconds: `ring` must be called after so long; None: not at all.  A later call
            replaces an earlier one.
        resident_bytes_max: payloads kept in memory; of the others, the table is asked when they are delivered.
    """

    def __init__(
        self,
        table: ChannelTable,
        *,
        quotas: Quotas,
        clock: Clock,
        events: EventBus,
        limits: Limits,
        set_alarm: Callable[[float | None], None],
        resident_bytes_max: int = RESIDENT_BYTES_MAX,
    ) -> None:
        self._table = table
        self._quotas = quotas
        self._clock = clock
        self._events = events
        self._limits = limits
        self._agenda: Agenda[_Message | _Receiver | _Channel] = Agenda(clock, set_alarm)
        self._channels: dict[Scope, dict[str, _Channel]] = {}
        self._messages: dict[int, _Message] = {}
        self._receivers: dict[_Owner, dict[_Receiver, None]] = {}
        self._leases: dict[_Owner, dict[_Message, None]] = {}
        self._last_number = 0
        self._last_receiver = 0
        self._resident_bytes = 0
        self._resident_bytes_max = resident_bytes_max
        # Messages that have expired and are still in the table, because it refused to remove them.
        self._remains: list[int] = []
        self._retry_ns = 0

    def load(self) -> None:
        """Read what there is.  Once, before anything else."""
        now_ns, now_ms = self._clock.monotonic_ns(), self._now_ms()
        self._last_number = self._table.last_number()
        for row in self._table.rows():
            if row.expires_ms and row.expires_ms <= now_ms and not row.dead_ms:
                self._remains.append(row.number)
                continue
            channel = self._channel(row.scope, row.channel)
            message = _Message(row, channel, None, State.DEAD if row.dead_ms else State.WAITING)
            if row.visible_ms > now_ms:
                message.visible_ns = now_ns + (row.visible_ms - now_ms) * _NS_PER_MS
            if row.expires_ms:
                message.expires_ns = now_ns + (row.expires_ms - now_ms) * _NS_PER_MS
            self._add(message)
            if message.state is State.WAITING:
                self._enqueue(message, now_ns)
        for dedup in self._table.dedups():
            channel = self._channel(dedup.scope, dedup.channel)
            self._remember(channel, dedup)
            if not channel.entry:
                self._agenda.add(channel, now_ns)
        self._remove_remains(now_ns)

    # -- sending ------------------------------------------------------------------------------------------

    def send(
        self,
        scope: Scope,
        name: str,
        msg_type: str,
        payload: str,
        *,
        delay_ms: int = 0,
        ttl_ms: int = 0,
        dedup_id: str = "",
    ) -> str:
        """Queue a message; its id, or that of the first with this dedup id.

        Args:
            name: of the channel, 1 to 256 characters; it need not exist.
            payload: JSON text.
            delay_ms: milliseconds before it can be delivered.
            ttl_ms: milliseconds after which it is dropped if it waits then; 0 keeps it.
            dedup_id: a second message of this id within the channel's memory is not queued; "" for none.

        Raises:
            InvalidArgument: a name or time makes no sense, or the payload is not JSON.
            LimitExceeded: `channel_messages_max`, `stored_bytes_per_tenant_max`.
            Unavailable: the disk refuses.
        """
        _check(_NAME, "the name of a channel", name, "1 to 256")
        _check(_TYPE, "a message's type", msg_type, "at most 256")
        _check_json(payload)
        if dedup_id:
            _check(_NAME, "a dedup id", dedup_id, "1 to 256")
        if delay_ms > DELAY_MS_MAX or ttl_ms > DELAY_MS_MAX:
            raise InvalidArgument(f"delay-ms and ttl-ms are at most a year, {DELAY_MS_MAX}")
        if ttl_ms and delay_ms >= ttl_ms:
            raise InvalidArgument(f"delay-ms = {delay_ms}, ttl-ms = {ttl_ms}: it would be dropped before it is visible")
        now_ns, now_ms = self._tick(), self._now_ms()
        channel = self._find(scope, name)
        forgotten: list[DedupRow] = []
        if dedup_id and channel is not None:
            self._forget_old_dedups(channel, now_ns)
            known = channel.dedups.get(dedup_id)
            if known is not None:
                return _id(known.message)
            if len(channel.dedups) >= self._limits.channel_dedup_ids_max:
                forgotten.append(next(iter(channel.dedups.values())))
        size = len(payload) if payload.isascii() else len(payload.encode("utf-8", "replace"))
        if channel is not None:
            self._check_depth(channel)
        number = self._last_number + 1
        dedup = DedupRow(scope, name, dedup_id, number, now_ms) if dedup_id else None
        growth = size + OVERHEAD_BYTES + (_dedup_bytes(dedup) if dedup is not None else 0)
        self._quotas.bytes.check(scope.tenant, growth - sum(map(_dedup_bytes, forgotten)))
        row = MessageRow(
            number,
            scope,
            name,
            msg_type,
            size,
            now_ms,
            visible_ms=now_ms + delay_ms if delay_ms else 0,
            expires_ms=now_ms + ttl_ms if ttl_ms else 0,
        )
        write = self._table.insert(row, payload, dedup, forgotten)
        self._last_number = number
        channel = self._channel(scope, name)
        for each in forgotten:
            self._unremember(channel, each)
        if dedup is not None:
            self._remember(channel, dedup)
            self._plan_forgetting(channel, now_ns)
        message = _Message(row, channel, payload, State.WAITING)
        message.visible_ns = now_ns + delay_ms * _NS_PER_MS if delay_ms else 0
        message.expires_ns = now_ns + ttl_ms * _NS_PER_MS if ttl_ms else 0
        self._add(message)
        self._keep_or_evict(message, write)
        self._enqueue(message, now_ns)
        self._serve(channel, now_ns)
        return _id(number)

    def _check_depth(self, channel: _Channel) -> None:
        messages_max = self._limits.channel_messages_max
        if channel.counts[State.WAITING] + channel.counts[State.LEASED] >= messages_max:
            raise LimitExceeded(
                f"channel {channel.name!r} holds {messages_max} messages, as many as it may: try again when some have "
                "been acknowledged, or raise channel_messages_max",
                limit="channel_messages_max",
                value=messages_max,
            )

    # -- receiving ----------------------------------------------------------------------------------------

    def receive(
        self, scope: Scope, name: str, owner: Hashable, visibility_ms: int = 0, waiter: Waiter | None = None
    ) -> Delivery | _Waiting | None:
        """Lease the oldest message that can be delivered; without one, None, or `WAITING` if somebody waits.

        Args:
            owner: the consumer: an incarnation of an actor.  Only it can ack, nack or extend.
            visibility_ms: milliseconds until the message waits again unless it is acknowledged; 0 stands for 30,000.

        Raises:
            InvalidArgument: a name or time makes no sense.
            Unavailable: the disk refuses.
        """
        _check(_NAME, "the name of a channel", name, "1 to 256")
        visibility_ns = _visibility_ns(visibility_ms or VISIBILITY_MS)
        now_ns = self._tick()
        channel = self._find(scope, name)
        message = channel.first() if channel is not None else None
        if message is not None:
            return self._deliver(message, owner, now_ns + visibility_ns)
        if waiter is None or waiter.deadline_ns <= now_ns:
            return None
        channel = self._channel(scope, name)
        receiver = _Receiver(channel, owner)
        receiver.waiter = waiter
        receiver.visibility_ns = visibility_ns
        channel.receivers[receiver] = None
        self._receivers.setdefault((scope, owner), {})[receiver] = None
        self._agenda.add(receiver, waiter.deadline_ns)
        return WAITING

    def subscribe(self, scope: Scope, name: str, owner: Hashable, deliver: Callable[[Delivery], None]) -> str:
        """Get one message after the other, each when the one before is settled; the subscription's id.

        Args:
            owner: as in `receive`; it settles each with `ack` or `nack`, and its lease has no end.
            deliver: given each message; must not call back.

        Raises:
            InvalidArgument: it is no name.
            LimitExceeded: `channel_subscriptions_per_actor_max`.
        """
        _check(_NAME, "the name of a channel", name, "1 to 256")
        now_ns = self._tick()
        theirs = self._receivers.get((scope, owner), {})
        subscriptions_max = self._limits.channel_subscriptions_per_actor_max
        if sum(each.deliver is not None for each in theirs) >= subscriptions_max:
            raise LimitExceeded(
                f"the actor is subscribed to {subscriptions_max} channels, as many as it may be: end some, or raise "
                "channel_subscriptions_per_actor_max",
                limit="channel_subscriptions_per_actor_max",
                value=subscriptions_max,
            )
        self._last_receiver += 1
        channel = self._channel(scope, name)
        receiver = _Receiver(channel, owner, f"channel-subscription-{self._last_receiver}")
        receiver.deliver = deliver
        self._receivers.setdefault((scope, owner), {})[receiver] = None
        channel.subscriptions[receiver.id] = receiver
        channel.receivers[receiver] = None
        self._serve(channel, now_ns)
        return receiver.id

    def unsubscribe(self, scope: Scope, owner: Hashable, subscription_id: str) -> bool:
        """End a subscription; what it delivered is still its owner's.  False when the owner has none of this id."""
        for receiver in self._receivers.get((scope, owner), ()):
            if receiver.id == subscription_id and receiver.deliver is not None:
                self._drop_receiver(receiver)
                return True
        return False

    def _serve(self, channel: _Channel, now_ns: int) -> None:
        """Give what can be delivered to who waits, the oldest to whoever has waited longest."""
        while channel.receivers and (message := channel.first()) is not None:
            receiver = next(iter(channel.receivers))
            waiter, deliver = receiver.waiter, receiver.deliver
            if waiter is not None:
                self._drop_receiver(receiver)
                if not waiter.wanted():
                    continue
                try:
                    delivery = self._deliver(message, receiver.owner, now_ns + receiver.visibility_ns)
                except BusyError as error:
                    waiter.on_result(error)
                    continue
                waiter.on_result(delivery)
            else:
                assert deliver is not None
                del channel.receivers[receiver]
                try:
                    delivery = self._deliver(message, receiver.owner, 0, receiver)
                except BusyError:
                    # It goes on when the disk does; the agenda puts it back into the row.
                    self._agenda.add(receiver, now_ns + _RETRY_NS)
                    continue
                deliver(delivery)

    def _deliver(
        self, message: _Message, owner: Hashable, until_ns: int, subscriber: _Receiver | None = None
    ) -> Delivery:
        """Lease a message."""
        payload = message.payload if message.payload is not None else self._table.payload(message.number)
        # On disk, so that a message which ends the node each time it is delivered is not delivered for ever.
        self._update(message, deliveries=message.deliveries + 1)
        channel = message.channel
        self._step(message, Event.DELIVERED)
        message.deliveries += 1
        channel.unqueue(message)
        message.owner = owner
        message.subscriber = subscriber
        message.begun = subscriber is None
        self._leases.setdefault((channel.scope, owner), {})[message] = None
        if until_ns:
            self._agenda.add(message, until_ns)
        else:
            self._agenda.discard(message)
        return Delivery(_id(message.number), message.msg_type, payload, message.deliveries, message.enqueued_ms)

    # -- settling -----------------------------------------------------------------------------------------

    def begin(self, scope: Scope, name: str, message_id: str, owner: Hashable) -> bool:
        """A pushed message is about to be handled: now its delivery counts.  False when it is not the owner's."""
        message = self._leased(scope, name, message_id, owner)
        if message is None:
            return False
        message.begun = True
        return True

    def ack(self, scope: Scope, name: str, message_id: str, owner: Hashable) -> None:
        """It is done, and gone.

        Raises:
            NotFound: it is not leased to this owner (any more).
            Unavailable: the disk refuses; it stays leased.
        """
        now_ns = self._tick()
        message = self._held(scope, name, message_id, owner)
        self._table.delete([message.number])
        self._unlease(message)
        self._step(message, Event.ACKED)
        self._remove(message)
        self._go_on(message, now_ns)

    def nack(
        self,
        scope: Scope,
        name: str,
        message_id: str,
        owner: Hashable,
        *,
        requeue: bool = True,
        delay_ms: int = 0,
        why: str = "",
    ) -> None:
        """It is not done: back into the queue, or, after `channel_deliveries_max` deliveries or on request, dead.

        Args:
            requeue: False makes it a dead letter now.
            delay_ms: milliseconds before it can be delivered again.
            why: for the operator who finds it among the dead letters.

        Raises:
            InvalidArgument: the delay makes no sense.
            NotFound, Unavailable: as `ack`.
        """
        if delay_ms > DELAY_MS_MAX:
            raise InvalidArgument(f"delay-ms = {delay_ms} is at most a year, {DELAY_MS_MAX}")
        now_ns = self._tick()
        message = self._held(scope, name, message_id, owner)
        if requeue:
            self._give_back(message, now_ns, delay_ms=delay_ms, why=why or "its consumers refused it")
        else:
            self._bury(message, why or "its consumer refused it for good")
        self._go_on(message, now_ns)

    def extend(self, scope: Scope, name: str, message_id: str, owner: Hashable, visibility_ms: int) -> None:
        """Keep it leased for so many milliseconds from now.

        Raises:
            InvalidArgument: the time makes no sense.
            NotFound: as `ack`.
        """
        visibility_ns = _visibility_ns(visibility_ms)
        now_ns = self._tick()
        message = self._held(scope, name, message_id, owner)
        self._step(message, Event.EXTENDED)
        self._agenda.add(message, now_ns + visibility_ns)

    def forget(self, scope: Scope, owner: Hashable) -> None:
        """The owner has ended: it waits for nothing, and what it had leased waits again at once.

        What it had not begun does not count as delivered.
        """
        for receiver in tuple(self._receivers.get((scope, owner), ())):
            self._drop_receiver(receiver)
        leases = self._leases.get((scope, owner))
        if not leases:
            return
        now_ns = self._clock.monotonic_ns()
        channels: dict[_Channel, None] = {}
        for message in tuple(leases):
            self._end_lease(message, now_ns, "its consumer ended while it had it")
            channels[message.channel] = None
        for channel in channels:
            self._serve(channel, now_ns)
            self._prune(channel)

    def depth(self, scope: Scope, name: str) -> int:
        """How many wait, delayed ones included; leased ones do not."""
        _check(_NAME, "the name of a channel", name, "1 to 256")
        self._tick()
        channel = self._find(scope, name)
        return channel.counts[State.WAITING] if channel is not None else 0

    # -- dead letters -------------------------------------------------------------------------------------

    def dead_letters(
        self,
        scope: Scope,
        name: str | None = None,
        after: str = "",
        limit: int = 100,
        payload_bytes_max: int | None = None,
    ) -> list[DeadLetter]:
        """Messages that are not delivered any more, oldest first.

        Args:
            name: of one channel; None for all of the namespace.
            after: the id of the last one that was seen; "" begins at the oldest.
            limit: at most so many, up to 1,000.
            payload_bytes_max: no more after the payloads have reached this size together; None for any size.
        """
        self._tick()
        channels = self._channels.get(scope, {})
        last = _number(after)
        dead = [
            message
            for channel in channels.values()
            if name in (None, channel.name)
            for message in channel.dead
            if message.number > last
        ]
        dead.sort(key=lambda message: message.number)
        found: list[DeadLetter] = []
        size = 0
        for message in dead[: min(limit, LIST_MAX)]:
            if payload_bytes_max is not None and size >= payload_bytes_max:
                break
            size += message.bytes
            found.append(self._dead_letter(message))
        return found

    def retry(self, scope: Scope, message_id: str) -> None:
        """Let a dead letter wait again in its old place, as if never delivered, and without a time to live.

        Raises:
            NotFound: there is no such dead letter.
            LimitExceeded: its channel is full.
            Unavailable: the disk refuses.
        """
        now_ns = self._tick()
        message = self._dead(scope, message_id)
        self._check_depth(message.channel)
        self._table.update(message.number, deliveries=0, visible_ms=0, expires_ms=0, dead_ms=0, reason="")
        self._step(message, Event.RETRIED)
        message.deliveries = message.visible_ms = message.visible_ns = message.expires_ms = message.expires_ns = 0
        message.dead_ms, message.reason = 0, ""
        self._enqueue(message, now_ns)
        self._serve(message.channel, now_ns)

    def drop(self, scope: Scope, message_id: str) -> None:
        """Delete a dead letter.

        Raises:
            NotFound: there is no such dead letter.
            Unavailable: the disk refuses.
        """
        self._tick()
        message = self._dead(scope, message_id)
        self._table.delete([message.number])
        self._step(message, Event.REMOVED)
        self._remove(message)
        self._prune(message.channel)

    def _dead(self, scope: Scope, message_id: str) -> _Message:
        message = self._messages.get(_number(message_id))
        if message is None or message.channel.scope != scope or message.state is not State.DEAD:
            raise NotFound(f"there is no dead letter {message_id[:80]!r}", message_id=message_id[:80])
        return message

    def _dead_letter(self, message: _Message) -> DeadLetter:
        payload = message.payload if message.payload is not None else self._table.payload(message.number)
        return DeadLetter(
            _id(message.number),
            message.channel.name,
            message.msg_type,
            payload,
            message.deliveries,
            message.enqueued_ms,
            message.dead_ms,
            message.reason,
        )

    # -- steps --------------------------------------------------------------------------------------------

    def _step(self, message: _Message, event: Event) -> None:
        """Move through the table; a missing entry is a bug of ours."""
        channel, before = message.channel, message.state
        after = message.state = STEPS[before, event]
        channel.counts[before] -= 1
        if after in channel.counts:
            channel.counts[after] += 1
        if after is State.DEAD:
            channel.dead[message] = None
        elif before is State.DEAD:
            del channel.dead[message]

    def _held(self, scope: Scope, name: str, message_id: str, owner: Hashable) -> _Message:
        message = self._leased(scope, name, message_id, owner)
        if message is None:
            raise NotFound(
                f"message {message_id[:80]!r} of channel {name[:80]!r} is not leased to this actor: it was settled, or "
                "its visibility has passed and it waits again or is another's",
                message_id=message_id[:80],
            )
        return message

    def _leased(self, scope: Scope, name: str, message_id: str, owner: Hashable) -> _Message | None:
        message = self._messages.get(_number(message_id))
        if message is None or message.state is not State.LEASED or message.owner != owner:
            return None
        channel = message.channel
        return message if channel.name == name and channel.scope == scope else None

    def _give_back(self, message: _Message, now_ns: int, *, delay_ms: int = 0, why: str) -> None:
        """End a lease without an ack: waiting, dead or, past its time, gone.  Raises before anything is done."""
        uncounted = 0 if message.begun else 1
        if message.expires_ns and message.expires_ns <= now_ns:
            self._table.delete([message.number])
            self._unlease(message)
            self._step(message, Event.AGED)
            self._remove(message)
            return
        if message.deliveries - uncounted >= self._limits.channel_deliveries_max:
            self._bury(message, f"delivered {message.deliveries} times; {why}")
            return
        if uncounted or delay_ms:
            visible_ms = self._now_ms() + delay_ms if delay_ms else 0
            self._update(message, deliveries=message.deliveries - uncounted, visible_ms=visible_ms)
            message.visible_ms = visible_ms
            message.deliveries -= uncounted
        message.visible_ns = now_ns + delay_ms * _NS_PER_MS if delay_ms else 0
        self._unlease(message)
        self._step(message, Event.RETURNED)
        self._enqueue(message, now_ns)

    def _bury(self, message: _Message, why: str) -> None:
        dead_ms, reason = self._now_ms(), why[:_REASON_CHARACTERS]
        self._update(message, dead_ms=dead_ms, reason=reason)
        message.dead_ms, message.reason = dead_ms, reason
        self._unlease(message)
        self._step(message, Event.BURIED)
        channel = message.channel
        self._events.emit(
            MessageDeadLettered(
                channel.scope, channel.name, _id(message.number), message.msg_type, message.deliveries, reason
            )
        )

    def _end_lease(self, message: _Message, now_ns: int, why: str) -> None:
        """End a lease where nobody is there to hear that it cannot be ended now."""
        try:
            self._give_back(message, now_ns, why=why)
        except BusyError:
            self._disown(message)
            self._agenda.add(message, now_ns + _RETRY_NS)

    def _unlease(self, message: _Message) -> None:
        self._agenda.discard(message)
        self._disown(message)
        subscriber, message.subscriber = message.subscriber, None
        # Ready for the next, unless the subscription has ended meanwhile.
        if subscriber is not None and subscriber.id in message.channel.subscriptions:
            message.channel.receivers[subscriber] = None

    def _disown(self, message: _Message) -> None:
        if message.owner is not None:
            key = (message.channel.scope, message.owner)
            leases = self._leases[key]
            del leases[message]
            if not leases:
                del self._leases[key]
            message.owner = None

    def _go_on(self, message: _Message, now_ns: int) -> None:
        self._serve(message.channel, now_ns)
        self._prune(message.channel)

    def _enqueue(self, message: _Message, now_ns: int) -> None:
        """A waiting message takes its place, now or when its delay is over."""
        if message.visible_ns > now_ns:
            due_ns = message.visible_ns
            if message.expires_ns:
                due_ns = min(due_ns, message.expires_ns)
            self._agenda.add(message, due_ns)
            return
        message.channel.push(message)
        if message.expires_ns:
            self._agenda.add(message, message.expires_ns)

    def _update(
        self,
        message: _Message,
        *,
        deliveries: int | None = None,
        visible_ms: int | None = None,
        dead_ms: int = 0,
        reason: str = "",
    ) -> None:
        self._table.update(
            message.number,
            deliveries=message.deliveries if deliveries is None else deliveries,
            visible_ms=message.visible_ms if visible_ms is None else visible_ms,
            expires_ms=message.expires_ms,
            dead_ms=dead_ms,
            reason=reason,
        )

    # -- the books ----------------------------------------------------------------------------------------

    def _find(self, scope: Scope, name: str) -> _Channel | None:
        channels = self._channels.get(scope)
        return channels.get(name) if channels is not None else None

    def _channel(self, scope: Scope, name: str) -> _Channel:
        channels = self._channels.setdefault(scope, {})
        channel = channels.get(name)
        if channel is None:
            channel = channels[name] = _Channel(scope, name)
        return channel

    def _prune(self, channel: _Channel) -> None:
        if not channel.idle:
            return
        channels = self._channels.get(channel.scope)
        if channels is not None and channels.get(channel.name) is channel:
            del channels[channel.name]
            if not channels:
                del self._channels[channel.scope]
        self._agenda.discard(channel)

    def _add(self, message: _Message) -> None:
        self._messages[message.number] = message
        message.channel.counts[message.state] += 1
        if message.state is State.DEAD:
            message.channel.dead[message] = None
        self._quotas.bytes.add(message.channel.scope.tenant, message.bytes + OVERHEAD_BYTES)

    def _remove(self, message: _Message) -> None:
        """It has come to an end."""
        del self._messages[message.number]
        message.channel.unqueue(message)
        self._agenda.discard(message)
        self._quotas.bytes.add(message.channel.scope.tenant, -(message.bytes + OVERHEAD_BYTES))
        if message.payload is not None:
            self._resident_bytes -= message.bytes
            message.payload = None

    def _keep_or_evict(self, message: _Message, write: int) -> None:
        """Keep the payload in memory while there is room for it, else only until the table can be asked for it."""
        self._resident_bytes += message.bytes
        if self._resident_bytes <= self._resident_bytes_max:
            return

        def durable(error: Exception | None) -> None:
            if error is None and message.payload is not None:
                self._resident_bytes -= message.bytes
                message.payload = None

        self._table.when_durable(write, durable)

    def _drop_receiver(self, receiver: _Receiver) -> None:
        channel = receiver.channel
        channel.receivers.pop(receiver, None)
        channel.subscriptions.pop(receiver.id, None)
        self._agenda.discard(receiver)
        key = (channel.scope, receiver.owner)
        theirs = self._receivers[key]
        del theirs[receiver]
        if not theirs:
            del self._receivers[key]
        self._prune(channel)

    def _remember(self, channel: _Channel, dedup: DedupRow) -> None:
        channel.dedups[dedup.dedup_id] = dedup
        self._quotas.bytes.add(channel.scope.tenant, _dedup_bytes(dedup))

    def _unremember(self, channel: _Channel, dedup: DedupRow) -> None:
        del channel.dedups[dedup.dedup_id]
        self._quotas.bytes.add(channel.scope.tenant, -_dedup_bytes(dedup))

    def _forget_old_dedups(self, channel: _Channel, now_ns: int) -> None:
        """Forget the dedup ids whose time is over.  Where the disk refuses, they are forgotten later."""
        before_ms = self._now_ms() - int(self._limits.channel_dedup_age_s_max * 1_000)
        old: list[DedupRow] = []
        for dedup in channel.dedups.values():
            if dedup.sent_ms > before_ms or len(old) >= _DELETED_AT_ONCE:
                break
            old.append(dedup)
        if old:
            try:
                self._table.forget(old)
            except BusyError:
                self._agenda.add(channel, now_ns + _RETRY_NS)
                return
            for dedup in old:
                self._unremember(channel, dedup)
        self._agenda.discard(channel)
        self._plan_forgetting(channel, now_ns)

    def _plan_forgetting(self, channel: _Channel, now_ns: int) -> None:
        if channel.dedups and not channel.entry:
            oldest = next(iter(channel.dedups.values()))
            age_ms = max(0, self._now_ms() - oldest.sent_ms)
            left_ns = int(self._limits.channel_dedup_age_s_max * 1e9) - age_ms * _NS_PER_MS
            self._agenda.add(channel, now_ns + max(_NS_PER_MS, left_ns))

    # -- time ---------------------------------------------------------------------------------------------

    def ring(self) -> None:
        """The alarm."""
        self._tick()
        self._agenda.rang()

    def _now_ms(self) -> int:
        return self._clock.now_ns() // _NS_PER_MS

    def _tick(self) -> int:
        """Do what is due; the time, in nanoseconds on the monotonic clock."""
        now_ns = self._clock.monotonic_ns()
        for item in self._agenda.due(now_ns):
            if isinstance(item, _Message):
                self._message_due(item, now_ns)
            elif isinstance(item, _Receiver):
                self._receiver_due(item, now_ns)
            else:
                self._forget_old_dedups(item, now_ns)
                self._prune(item)
        if self._remains and now_ns >= self._retry_ns:
            self._remove_remains(now_ns)
        return now_ns

    def _message_due(self, message: _Message, now_ns: int) -> None:
        if message.state is State.LEASED:
            self._end_lease(message, now_ns, "its visibility passed without an ack")
        elif message.expires_ns and message.expires_ns <= now_ns:
            self._remains.append(message.number)
            self._step(message, Event.AGED)
            self._remove(message)
        else:
            self._enqueue(message, now_ns)
        self._go_on(message, now_ns)

    def _receiver_due(self, receiver: _Receiver, now_ns: int) -> None:
        waiter = receiver.waiter
        if waiter is None:
            receiver.channel.receivers[receiver] = None
            self._serve(receiver.channel, now_ns)
            return
        self._drop_receiver(receiver)
        if waiter.wanted():
            waiter.on_result(None)

    def _remove_remains(self, now_ns: int) -> None:
        """Take what has expired out of the table.  There is no hurry: its date is in the table, too."""
        try:
            while self._remains:
                self._table.delete(self._remains[:_DELETED_AT_ONCE])
                del self._remains[:_DELETED_AT_ONCE]
            self._retry_ns = 0
        except BusyError:
            self._retry_ns = now_ns + _RETRY_NS


def _check(pattern: re.Pattern[str], what: str, text: str, characters: str) -> None:
    if not pattern.fullmatch(text):
        raise InvalidArgument(
            f"{what} has {characters} characters, none of them a control character: not {text[:80]!r}"
        )


def _check_json(payload: str) -> None:
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"the payload is not JSON text: {error}") from None


def _visibility_ns(visibility_ms: int) -> int:
    if not 1 <= visibility_ms <= VISIBILITY_MS_MAX:
        raise InvalidArgument(f"visibility-ms = {visibility_ms}: it is 1 to {VISIBILITY_MS_MAX} (twelve hours)")
    return visibility_ms * _NS_PER_MS


def _dedup_bytes(dedup: DedupRow) -> int:
    return len(dedup.dedup_id.encode("utf-8", "replace")) + OVERHEAD_BYTES


def _id(number: int) -> str:
    return f"message-{number}"


def _number(message_id: str) -> int:
    """0, which is nobody's, where it is no id."""
    found = _ID.fullmatch(message_id)
    return int(found[1]) if found else 0
