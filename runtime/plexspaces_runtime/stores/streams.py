"""Event streams: append-only logs under paths such as `/sessions/abc`, with offsets from 1 and live readers.

What is known of a stream, its head, is always in memory; its events are in an `EventTable`, and those that the disk
does not have yet are kept beside the head.  An append decides first, in memory: is it an event, is the stream open,
what has to go to make room.  The whole decision is one `Change`, written as one atomic unit; only when the table has
taken it does memory follow.  So a refused write leaves no trace, and a crash no half.

What is no event (not JSON, too large, a bad type) becomes an event of type `error` that says what came: a producer that
stumbles is seen by those who read the stream, and nothing is lost in silence.

A stream that gets more than `stream_events_per_second_max` is paused: a breaker, not a throttle, because an agent in a
loop must not fill a disk at the permitted rate for a night.  `paused` and `resumed` are events of the stream itself.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from ..clock import Clock
from ..config import Limits
from ..errors import BusyError, InvalidArgument, LimitExceeded, NotFound, RateLimited
from ..events import EventBus, StreamPaused, StreamResumed
from ..scope import Scope

if TYPE_CHECKING:
    from .database import Database
    from .quotas import Quotas

ERROR_TYPE: Final = "error"
PAUSED_TYPE: Final = "paused"
RESUMED_TYPE: Final = "resumed"
READ_DEFAULT: Final = 100
READ_MAX: Final = 1_000
LIST_MAX: Final = 1_000
PATH_BYTES_MAX: Final = 512
# What a row costs beside its texts: so that a million empty events are not free.
EVENT_OVERHEAD_BYTES: Final = 64
HEAD_OVERHEAD_BYTES: Final = 256

_RESERVED_TYPES: Final = frozenset({PAUSED_TYPE, RESUMED_TYPE})
_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")
# Lone surrogates are no characters, and cannot be stored.
_PATH: Final = re.compile(r"(?:/[^\x00-\x20/\x7f\ud800-\udfff]{1,256}){1,16}")
_KEY: Final = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
_EXCERPT_CHARACTERS: Final = 512
_SIZES_AT_ONCE: Final = 256
_SWEPT_AT_ONCE: Final = 500
_SWEEP_S: Final = 60.0
_RETRY_S: Final = 1.0
_NS: Final = 1_000_000_000
_NS_PER_MS: Final = 1_000_000
# Beyond what SQLite counts, so beyond every offset.
_OFFSET_MAX: Final = 2**63 - 1

SCHEMA: Final[tuple[str, ...]] = (
    """CREATE TABLE stream_heads (
        tenant TEXT NOT NULL, namespace TEXT NOT NULL, path TEXT NOT NULL,
        first INTEGER NOT NULL, next INTEGER NOT NULL, bytes INTEGER NOT NULL, oldest_ms INTEGER NOT NULL,
        modified_ms INTEGER NOT NULL, keyed INTEGER NOT NULL, flow TEXT NOT NULL, refused INTEGER NOT NULL,
        PRIMARY KEY (tenant, namespace, path)) WITHOUT ROWID""",
    """CREATE TABLE stream_events (
        tenant TEXT NOT NULL, namespace TEXT NOT NULL, path TEXT NOT NULL, "offset" INTEGER NOT NULL,
        event_type TEXT NOT NULL, payload TEXT NOT NULL, time_ms INTEGER NOT NULL, bytes INTEGER NOT NULL,
        PRIMARY KEY (tenant, namespace, path, "offset")) WITHOUT ROWID""",
    """CREATE TABLE stream_keys (
        tenant TEXT NOT NULL, namespace TEXT NOT NULL, path TEXT NOT NULL, key TEXT NOT NULL,
        "offset" INTEGER NOT NULL, number INTEGER NOT NULL, time_ms INTEGER NOT NULL,
        PRIMARY KEY (tenant, namespace, path, key)) WITHOUT ROWID""",
    "CREATE INDEX stream_keys_by_number ON stream_keys (tenant, namespace, path, number)",
)


# -- what can be seen --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event.

    Attributes:
        offset: from 1, without gaps.
        payload: JSON text on one line.
        time_ms: of the append, Unix milliseconds; it may go back where the node's clock was set back.
    """

    offset: int
    event_type: str
    payload: str
    time_ms: int


class Flow(Enum):
    """Whether a stream takes appends."""

    FLOWING = "flowing"
    # By the breaker: until it has been left alone for a while, or until an operator resumes it.
    TRIPPED = "tripped"
    # By an operator, and until one resumes it.
    HELD = "held"


class Cause(Enum):
    """What changes the flow."""

    RUNAWAY = "rate"
    QUIET = "quiet"
    HOLD = "hold"
    RESUME = "resume"


FLOWS: Final[dict[tuple[Flow, Cause], Flow]] = {
    (Flow.FLOWING, Cause.RUNAWAY): Flow.TRIPPED,
    (Flow.FLOWING, Cause.HOLD): Flow.HELD,
    (Flow.TRIPPED, Cause.QUIET): Flow.FLOWING,
    (Flow.TRIPPED, Cause.RESUME): Flow.FLOWING,
    (Flow.TRIPPED, Cause.HOLD): Flow.HELD,
    (Flow.HELD, Cause.RESUME): Flow.FLOWING,
}


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a stream.

    Attributes:
        first: offset of the oldest event that is kept; `last + 1` when none is.
        last: offset of the newest there ever was; 0 before the first.
        bytes: what its events count for in the tenant's quota.
        flow: "flowing", "tripped" or "held".
        modified_ms: of the last append, Unix milliseconds.
    """

    path: str
    first: int
    last: int
    bytes: int
    flow: str
    modified_ms: int


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of an append.

    Attributes:
        event_type: `error` where it was no event.
        reason: why it was none: `not-json`, `too-large`, `bad-type` or `bad-shape`; "" for an event, and for a
            repeated append.
        repeated: an earlier append had the same idempotency key; the offset is that one's.
    """

    offset: int
    event_type: str
    reason: str = ""
    repeated: bool = False


# -- what is kept ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """A stream as it is stored; everything but its events.

    Attributes:
        next: the offset of the next event.
        oldest_ms: time of event `first`, 0 when none is kept.
        keyed: how many appends had an idempotency key.
        refused: how many appends were refused since it was paused.
    """

    scope: Scope
    path: str
    first: int = 1
    next: int = 1
    bytes: int = 0
    oldest_ms: int = 0
    modified_ms: int = 0
    keyed: int = 0
    flow: Flow = Flow.FLOWING
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Key:
    """An idempotency key that was used: the `number`-th of its stream."""

    text: str
    offset: int
    number: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class Size:
    """What retention has to know of an event."""

    offset: int
    bytes: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class Change:
    """One atomic step of one stream.

    Attributes:
        head: afterwards.
        events: to add, each with its size.
        drop: events below `head.first` are to go.
        key: to remember.
        keys_from: number of the oldest key that is still remembered; those before go.  0: none go.
        gone: the stream itself is to go, with all it has.
    """

    head: Head
    events: tuple[tuple[StreamEvent, int], ...] = ()
    drop: bool = False
    key: Key | None = None
    keys_from: int = 0
    gone: bool = False


class EventTable(Protocol):
    """Where events are kept.  What was committed may be unreadable until it is durable; `Streams` knows what is."""

    def heads(self) -> Iterable[Head]:
        """Every stream there is, at the start."""

    def events(self, head: Head, after: int, before: int, limit: int) -> list[StreamEvent]:
        """The first `limit` events between two offsets, both excluded."""

    def sizes(self, head: Head, after: int, before: int, limit: int) -> list[Size]:
        """The same, without what is in them."""

    def key(self, head: Head, text: str) -> Key | None:
        """An idempotency key that is remembered."""

    def commit(self, change: Change) -> int:
        """Write a change, all of it or nothing; its number in the order of all writes.

        Raises:
            Unavailable: the disk refuses.
            LimitExceeded: too much waits for the disk.
        """

    def when_durable(self, number: int, callback: Callable[[Exception | None], None]) -> None:
        """Call back once everything up to `number` is on disk, or with the reason why it cannot be at the moment."""


class SqliteEvents:
    """On the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def heads(self) -> Iterable[Head]:
        rows = self._database.read(
            "SELECT tenant, namespace, path, first, next, bytes, oldest_ms, modified_ms, keyed, flow, refused"
            " FROM stream_heads",
            (),
        )
        for tenant, namespace, path, first, next_, size, oldest_ms, modified_ms, keyed, flow, refused in rows:
            yield Head(
                Scope(tenant, namespace), path, first, next_, size, oldest_ms, modified_ms, keyed, Flow(flow), refused
            )

    def events(self, head: Head, after: int, before: int, limit: int) -> list[StreamEvent]:
        rows = self._database.read(
            'SELECT "offset", event_type, payload, time_ms FROM stream_events WHERE tenant = ? AND namespace = ?'
            ' AND path = ? AND "offset" > ? AND "offset" < ? ORDER BY "offset" LIMIT ?',
            (head.scope.tenant, head.scope.namespace, head.path, after, before, limit),
        )
        return [StreamEvent(*row) for row in rows]

    def sizes(self, head: Head, after: int, before: int, limit: int) -> list[Size]:
        rows = self._database.read(
            'SELECT "offset", bytes, time_ms FROM stream_events WHERE tenant = ? AND namespace = ?'
            ' AND path = ? AND "offset" > ? AND "offset" < ? ORDER BY "offset" LIMIT ?',
            (head.scope.tenant, head.scope.namespace, head.path, after, before, limit),
        )
        return [Size(*row) for row in rows]

    def key(self, head: Head, text: str) -> Key | None:
        rows = self._database.read(
            'SELECT key, "offset", number, time_ms FROM stream_keys'
            " WHERE tenant = ? AND namespace = ? AND path = ? AND key = ?",
            (head.scope.tenant, head.scope.namespace, head.path, text),
        )
        return Key(*rows[0]) if rows else None

    def commit(self, change: Change) -> int:
        head = change.head
        where = (head.scope.tenant, head.scope.namespace, head.path)
        this = "tenant = ? AND namespace = ? AND path = ?"
        if change.gone:
            return self._database.stream.write(
                [
                    (f"DELETE FROM {table} WHERE {this}", where)
                    for table in ("stream_heads", "stream_events", "stream_keys")
                ]
            )
        statements: list[tuple[str, tuple[object, ...]]] = [
            (
                "INSERT INTO stream_events VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*where, event.offset, event.event_type, event.payload, event.time_ms, size),
            )
            for event, size in change.events
        ]
        if change.drop:
            statements.append((f'DELETE FROM stream_events WHERE {this} AND "offset" < ?', (*where, head.first)))
        if change.key is not None:
            key = change.key
            statements.append(
                (
                    # One that is no longer remembered may still be there.
                    "INSERT OR REPLACE INTO stream_keys VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*where, key.text, key.offset, key.number, key.time_ms),
                )
            )
        if change.keys_from:
            statements.append((f"DELETE FROM stream_keys WHERE {this} AND number < ?", (*where, change.keys_from)))
        statements.append(
            (
                "INSERT OR REPLACE INTO stream_heads VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *where,
                    head.first,
                    head.next,
                    head.bytes,
                    head.oldest_ms,
                    head.modified_ms,
                    head.keyed,
                    head.flow.value,
                    head.refused,
                ),
            )
        )
        return self._database.stream.write(statements)

    def when_durable(self, number: int, callback: Callable[[Exception | None], None]) -> None:
        self._database.stream.when_durable(number, callback)


class MemoryEvents:
    """In memory, for simulations: durable at once, and gone with the process."""

    def __init__(self) -> None:
        self._heads: dict[tuple[Scope, str], Head] = {}
        self._events: dict[tuple[Scope, str], deque[tuple[StreamEvent, int]]] = {}
        self._keys: dict[tuple[Scope, str], dict[str, Key]] = {}

    def heads(self) -> Iterable[Head]:
        return list(self._heads.values())

    def events(self, head: Head, after: int, before: int, limit: int) -> list[StreamEvent]:
        return [event for event, _ in self._between(head, after, before, limit)]

    def sizes(self, head: Head, after: int, before: int, limit: int) -> list[Size]:
        return [Size(event.offset, size, event.time_ms) for event, size in self._between(head, after, before, limit)]

    def _between(self, head: Head, after: int, before: int, limit: int) -> list[tuple[StreamEvent, int]]:
        kept = self._events.get((head.scope, head.path))
        if not kept:
            return []
        start = max(0, after + 1 - kept[0][0].offset)
        stop = min(len(kept), before - kept[0][0].offset, start + limit)
        return list(islice(kept, start, max(start, stop)))

    def key(self, head: Head, text: str) -> Key | None:
        return self._keys.get((head.scope, head.path), {}).get(text)

    def commit(self, change: Change) -> int:
        head = change.head
        name = head.scope, head.path
        if change.gone:
            for table in (self._heads, self._events, self._keys):
                table.pop(name, None)
            return 0
        self._heads[name] = head
        kept = self._events.setdefault(name, deque())
        kept.extend(change.events)
        while kept and kept[0][0].offset < head.first:
            kept.popleft()
        keys = self._keys.setdefault(name, {})
        if change.key is not None:
            # To the end, as the oldest are at the beginning.
            keys.pop(change.key.text, None)
            keys[change.key.text] = change.key
        while keys and next(iter(keys.values())).number < change.keys_from:
            del keys[next(iter(keys))]
        return 0

    def when_durable(self, number: int, callback: Callable[[Exception | None], None]) -> None:
        callback(None)


# -- the store ---------------------------------------------------------------------------------------------


class _Stream:
    """A stream in memory."""

    __slots__ = (
        "attempt_ns",
        "awaited",
        "head",
        "keys",
        "level",
        "level_ns",
        "pending",
        "refused",
        "sizes",
        "sizes_to",
    )

    def __init__(self, head: Head, now_ns: int) -> None:
        self.head = head
        # What the table does not have yet, with the number of its write.
        self.pending: deque[tuple[int, StreamEvent, int]] = deque()
        self.keys: dict[str, tuple[int, Key]] = {}
        # The number of the write that is waited for; 0 when everything is durable.
        self.awaited = 0
        # The breaker: a bucket that holds as many events as may come in a second, and leaks as many.
        self.level = 0.0
        self.level_ns = now_ns
        # The last time somebody tried to append.
        self.attempt_ns = now_ns
        self.refused = head.refused
        # The oldest events, read ahead for retention, and the offset up to which they are known.
        self.sizes: deque[Size] = deque()
        self.sizes_to = head.first - 1


class Streams:
    """All event streams of a node.

    Args:
        table: where the events are.
        quotas: what each tenant may store.
        clock: time.
        events: hears of streams that are paused and resumed.
        limits: how large, how many, how fast, how long.
        set_alarm: called with a number of seconds: `ring` must be called after so long.  A later call replaces an
            earlier one; None: not at all.
    """

    def __init__(
        self,
        table: EventTable,
        *,
        quotas: Quotas,
        clock: Clock,
        events: EventBus,
        limits: Limits,
        set_alarm: Callable[[float | None], None],
    ) -> None:
        self._table = table
        self._quotas = quotas
        self._clock = clock
        self._events = events
        self._limits = limits
        self._set_alarm = set_alarm
        self._streams: dict[tuple[Scope, str], _Stream] = {}
        # Sorted, for lists by prefix.
        self._paths: dict[Scope, list[str]] = {}
        self._count: dict[str, int] = {}
        self._tripped: dict[tuple[Scope, str], _Stream] = {}
        # Called at each append, and when it is durable.
        self._on_append: dict[tuple[Scope, str], dict[object, Callable[[], None]]] = {}
        self._on_durable: dict[tuple[Scope, str], dict[object, Callable[[], None]]] = {}
        self._sweep_ns: int | None = None
        # Those whose writes the disk refused, and when to ask again.
        self._stuck: dict[tuple[Scope, str], _Stream] = {}
        self._stuck_ns: int | None = None
        self._alarm_ns: int | None = None

    def load(self) -> None:
        """Read what there is.  Once, before anything else."""
        now_ns = self._clock.monotonic_ns()
        for head in self._table.heads():
            stream = self._add(head, now_ns)
            self._quotas.bytes.add(head.scope.tenant, head.bytes + _head_bytes(head))
            if head.flow is Flow.TRIPPED:
                self._tripped[head.scope, head.path] = stream
        for paths in self._paths.values():
            paths.sort()
        self._plan_sweep()
        self._arm()

    # -- writing ------------------------------------------------------------------------------------------

    def append(self, scope: Scope, path: str, event_type: str, payload: str, idempotency_key: str = "") -> Appended:
        """Add an event to the end of a stream, which begins with its first.

        Args:
            event_type: 1 to 128 letters, digits, `_`, `.`, `:`, `/`, `-`; `paused` and `resumed` are the node's own.
            payload: JSON text.  What is not JSON, is too large or has a bad type becomes an event of type `error`.
            idempotency_key: a second append with the same one returns the first's offset; "" for none.  The last
                `stream_keys_max` of a stream are remembered, for `stream_key_age_s_max`.

        Raises:
            InvalidArgument: the path or the key cannot be one.
            RateLimited: the stream is paused; `retry_after_ms` says when to try again.
            LimitExceeded: the tenant has as many streams, or bytes, as it may.
            Unavailable: the disk refuses.
        """
        check_path(path)
        _check_key(idempotency_key)
        judged = judge(event_type, payload, self._limits.stream_event_bytes_max)
        return self._append(scope, path, judged, idempotency_key)

    def append_error(
        self,
        scope: Scope,
        path: str,
        reason: str,
        message: str,
        content: str,
        size_bytes: int,
        idempotency_key: str = "",
    ) -> Appended:
        """Add the `error` that takes the place of what cannot even be read as type and payload; see `append`.

        Args:
            reason: `not-json`, `too-large` or `bad-shape`.
            message: what is wrong, for a person.
            content: what came, as far as it is known.
            size_bytes: how much came, as far as that is known.
        """
        check_path(path)
        _check_key(idempotency_key)
        judged = ERROR_TYPE, error_payload(reason, message, "", content, size_bytes), reason
        return self._append(scope, path, judged, idempotency_key)

    def append_due(self, scope: Scope, path: str, event_type: str, payload: str, schedule_id: str, due_ms: int) -> int:
        """`append` of what a schedule asked for: the same id and time is the same append; its offset.

        Raises:
            RateLimited, LimitExceeded, Unavailable
        """
        # No key of a caller's can begin like this.
        judged = judge(event_type, payload, self._limits.stream_event_bytes_max)
        return self._append(scope, path, judged, f"\x00{schedule_id}:{due_ms}").offset

    def _append(self, scope: Scope, path: str, judged: tuple[str, str, str], key_text: str) -> Appended:
        kind, text, reason = judged
        name = scope, path
        now_ms = self._now_ms()
        stream = self._streams.get(name)
        is_new = stream is None
        if stream is None:
            self._check_count(scope.tenant)
            stream = _Stream(Head(scope, path), self._clock.monotonic_ns())
        elif key_text and (known := self._remembered(stream, key_text, now_ms)) is not None:
            return Appended(known.offset, kind, repeated=True)
        self._admit(stream)
        head = stream.head
        event = StreamEvent(head.next, kind, text, now_ms)
        keyed = head.keyed + 1 if key_text else head.keyed
        key = Key(key_text, event.offset, keyed, now_ms) if key_text else None
        self._commit(stream, event, key=key)
        if is_new:
            self._streams[name] = stream
            self._count[scope.tenant] = self._count.get(scope.tenant, 0) + 1
            insort(self._paths.setdefault(scope, []), path)
        if self._sweep_ns is None:
            self._plan_sweep()
            self._arm()
        self._tell(self._on_append, name)
        return Appended(event.offset, kind, reason)

    def _admit(self, stream: _Stream) -> None:
        """Refuse an append that the breaker or an operator does not let through."""
        now_ns, rate = self._clock.monotonic_ns(), self._limits.stream_events_per_second_max
        pause_ns = int(self._limits.stream_pause_s * _NS)
        if stream.head.flow is Flow.TRIPPED and now_ns - stream.attempt_ns >= pause_ns:
            self._resume(stream, Cause.QUIET, "")
        before_ns, stream.attempt_ns = stream.attempt_ns, now_ns
        if stream.head.flow is not Flow.FLOWING:
            stream.refused += 1
            raise _paused(stream.head, self._limits.stream_pause_s)
        level = max(0.0, stream.level - (now_ns - stream.level_ns) / _NS * rate)
        if level + 1 > rate:
            try:
                self._pause(stream, Cause.RUNAWAY, "")
            except BusyError:
                stream.attempt_ns = before_ns
                raise
            stream.refused = 1
            raise _paused(stream.head, self._limits.stream_pause_s)
        stream.level, stream.level_ns = level + 1, now_ns

    def hold(self, scope: Scope, path: str, by: str) -> bool:
        """Pause a stream until an operator resumes it; False when one has paused it already.

        Args:
            by: who; it is told in the event.

        Raises:
            NotFound, Unavailable
        """
        stream = self._must_exist(scope, path)
        if stream.head.flow is Flow.HELD:
            return False
        self._pause(stream, Cause.HOLD, by)
        return True

    def resume(self, scope: Scope, path: str, by: str) -> bool:
        """Let a paused stream go on, however it was paused; False when it was not.

        Raises:
            NotFound, Unavailable
        """
        stream = self._must_exist(scope, path)
        if stream.head.flow is Flow.FLOWING:
            return False
        self._resume(stream, Cause.RESUME, by)
        return True

    def clear(self, scope: Scope, path: str) -> int:
        """Drop every event of a stream; how many.  Its offsets go on, so no reader takes a new event for an old one.

        Raises:
            NotFound, Unavailable
        """
        stream = self._must_exist(scope, path)
        head = stream.head
        count = head.next - head.first
        if count:
            self._write(stream, Change(replace(head, first=head.next, bytes=0, oldest_ms=0), drop=True))
        return count

    # -- reading ------------------------------------------------------------------------------------------

    def read(
        self, scope: Scope, path: str, after: int = 0, limit: int = 0, *, durable: bool = False
    ) -> list[StreamEvent]:
        """Events after an offset, oldest first; none where there is no such stream.

        Args:
            after: 0: from the oldest that is kept.  An offset that retention has passed means the same.
            limit: 0: 100; at most 1,000.
            durable: only those that are on disk: for what leaves the node.

        Raises:
            InvalidArgument
        """
        check_path(path)
        if limit > READ_MAX:
            raise InvalidArgument(f"limit = {limit} is too much: at most {READ_MAX} events at once")
        stream = self._streams.get((scope, path))
        if stream is None:
            return []
        head = stream.head
        after, limit = min(max(after, head.first - 1), _OFFSET_MAX), limit or READ_DEFAULT
        if after >= head.next - 1:
            return []
        pending = stream.pending
        before = pending[0][1].offset if pending else head.next
        found = self._table.events(head, after, before, limit) if after + 1 < before else []
        if not durable and len(found) < limit:
            skip = max(0, after + 1 - before)
            found += [event for _, event, _ in islice(pending, skip, skip + limit - len(found))]
        return found

    def info(self, scope: Scope, path: str, *, durable: bool = False) -> StreamInfo:
        """What is known of a stream.

        Args:
            durable: as far as it is on disk.

        Raises:
            InvalidArgument, NotFound
        """
        stream = self._must_exist(scope, path)
        if durable and stream.pending and stream.pending[0][1].offset == 1:
            raise _not_found(path)
        return _info(stream, durable)

    def list_streams(self, scope: Scope, prefix: str = "", after: str = "", limit: int = 0) -> list[StreamInfo]:
        """Streams whose path begins with `prefix`, by path.

        Args:
            after: only those behind this path: the last of the page before.
            limit: 0: 100; at most 1,000.

        Raises:
            InvalidArgument
        """
        if limit > LIST_MAX:
            raise InvalidArgument(f"limit = {limit} is too much: at most {LIST_MAX} streams at once")
        paths = self._paths.get(scope, [])
        start = bisect_left(paths, prefix)
        if after >= prefix:
            start = max(start, bisect_left(paths, after + "\x00"))
        found = []
        for path in islice(paths, start, start + (limit or READ_DEFAULT)):
            if not path.startswith(prefix):
                break
            found.append(_info(self._streams[scope, path], durable=False))
        return found

    def watch(self, scope: Scope, path: str, notify: Callable[[], None], *, durable: bool) -> Callable[[], None]:
        """Call `notify` whenever a stream has new events to read; returns what ends that.

        It need not exist yet.  `notify` runs within somebody else's append: it may note that there is something, and
        must not read, write or raise.

        Args:
            durable: when they are on disk, rather than when they are appended.

        Raises:
            InvalidArgument
        """
        check_path(path)
        watchers, name, token = self._on_durable if durable else self._on_append, (scope, path), object()
        watchers.setdefault(name, {})[token] = notify

        def end() -> None:
            found = watchers.get(name, {})
            found.pop(token, None)
            if not found:
                watchers.pop(name, None)

        return end

    # -- time ---------------------------------------------------------------------------------------------

    def ring(self) -> None:
        """The alarm: resume what was left alone for long enough, drop what is too old."""
        self._alarm_ns = None
        now_ns = self._clock.monotonic_ns()
        pause_ns = int(self._limits.stream_pause_s * _NS)
        for stream in list(self._tripped.values()):
            if now_ns - stream.attempt_ns >= pause_ns:
                try:
                    self._resume(stream, Cause.QUIET, "")
                except BusyError:
                    # The disk refuses for the moment.
                    stream.attempt_ns = now_ns - pause_ns + int(_RETRY_S * _NS)
        if self._stuck_ns is not None and now_ns >= self._stuck_ns:
            stuck, self._stuck, self._stuck_ns = self._stuck, {}, None
            for stream in stuck.values():
                if not stream.awaited and (latest := _latest(stream)):
                    self._await(stream, latest)
        if self._sweep_ns is not None and now_ns >= self._sweep_ns:
            self._sweep()
        self._arm()

    def _sweep(self) -> None:
        cutoff_ms = self._now_ms() - int(self._limits.stream_age_s_max * 1_000)
        due = (each for each in self._streams.values() if 0 < each.head.oldest_ms < cutoff_ms)
        batch = list(islice(due, _SWEPT_AT_ONCE))
        try:
            for stream in batch:
                self._expire(stream)
        except BusyError:
            self._sweep_ns = self._clock.monotonic_ns() + int(_SWEEP_S * _NS)
            return
        if len(batch) == _SWEPT_AT_ONCE:
            self._sweep_ns = self._clock.monotonic_ns() + int(_RETRY_S * _NS)
        else:
            self._plan_sweep()

    def _expire(self, stream: _Stream) -> None:
        head = stream.head
        first, size, oldest_ms, _ = self._room(stream, head.next, head.bytes, self._now_ms(), keep=0)
        name = head.scope, head.path
        if first == head.next and head.flow is Flow.FLOWING and name not in self._on_append | self._on_durable:
            # Nobody has looked at it or written to it for as long as events are kept.
            self._write(stream, Change(replace(head, first=first, bytes=0, oldest_ms=0), drop=True, gone=True))
            self._quotas.bytes.add(head.scope.tenant, -_head_bytes(head))
            del self._streams[name]
            self._count[head.scope.tenant] -= 1
            paths = self._paths[head.scope]
            del paths[bisect_left(paths, head.path)]
            return
        if first > head.first:
            self._write(stream, Change(replace(head, first=first, bytes=size, oldest_ms=oldest_ms), drop=True))

    def _plan_sweep(self) -> None:
        """The next sweep, together for all that grow too old within a minute of each other."""
        oldest = [each.head.oldest_ms for each in self._streams.values() if each.head.oldest_ms]
        if not oldest:
            self._sweep_ns = None
            return
        wait_ms = min(oldest) + self._limits.stream_age_s_max * 1_000 - self._now_ms()
        self._sweep_ns = self._clock.monotonic_ns() + int(max(wait_ms, 0) * _NS_PER_MS) + int(_SWEEP_S * _NS)

    def _arm(self) -> None:
        pause_ns = int(self._limits.stream_pause_s * _NS)
        times = [stream.attempt_ns + pause_ns for stream in self._tripped.values()]
        times += [each for each in (self._sweep_ns, self._stuck_ns) if each is not None]
        due_ns = min(times, default=None)
        if due_ns == self._alarm_ns:
            return
        self._alarm_ns = due_ns
        now_ns = self._clock.monotonic_ns()
        # Upwards: an alarm that rings early has to ring again.
        self._set_alarm(None if due_ns is None else max(0.0, -((now_ns - due_ns) // _NS_PER_MS) / 1_000))

    # -- inside -------------------------------------------------------------------------------------------

    def _pause(self, stream: _Stream, cause: Cause, by: str) -> None:
        limits, head = self._limits, stream.head
        flow = FLOWS[head.flow, cause]
        reason: dict[str, Any] = {"reason": "operator", "by": by}
        if cause is Cause.RUNAWAY:
            reason = {
                "reason": "rate",
                "events_per_second_max": limits.stream_events_per_second_max,
                "resumes_after_quiet_s": limits.stream_pause_s,
            }
        event = StreamEvent(head.next, PAUSED_TYPE, orjson.dumps(reason).decode(), self._now_ms())
        self._commit(stream, event, flow=flow, own=True)
        name = head.scope, head.path
        if flow is Flow.TRIPPED:
            self._tripped[name] = stream
        else:
            self._tripped.pop(name, None)
        self._arm()
        self._events.emit(
            StreamPaused(head.scope, head.path, reason["reason"], limits.stream_events_per_second_max, by)
        )
        self._tell(self._on_append, name)

    def _resume(self, stream: _Stream, cause: Cause, by: str) -> None:
        head = stream.head
        flow = FLOWS[head.flow, cause]
        reason: dict[str, Any] = {"reason": "quiet"} if cause is Cause.QUIET else {"reason": "operator", "by": by}
        reason["refused"] = refused = stream.refused
        event = StreamEvent(head.next, RESUMED_TYPE, orjson.dumps(reason).decode(), self._now_ms())
        stream.refused = 0
        try:
            self._commit(stream, event, flow=flow, own=True)
        except BusyError:
            stream.refused = refused
            raise
        stream.level = 0.0
        name = head.scope, head.path
        self._tripped.pop(name, None)
        self._arm()
        self._events.emit(StreamResumed(head.scope, head.path, reason["reason"], refused, by))
        self._tell(self._on_append, name)

    def _commit(
        self,
        stream: _Stream,
        event: StreamEvent,
        *,
        key: Key | None = None,
        flow: Flow | None = None,
        own: bool = False,
    ) -> None:
        """Add an event, and drop what has to go for it.

        Args:
            own: the node's own event: a full quota must not keep anybody from learning that a stream is paused.
        """
        head, limits = stream.head, self._limits
        size = _event_bytes(event)
        first, kept, oldest_ms, dropped = self._room(stream, event.offset + 1, head.bytes + size, event.time_ms, keep=1)
        is_new = head.next == 1
        if not own:
            growth = kept - head.bytes + (_head_bytes(head) if is_new else 0)
            self._quotas.bytes.check(head.scope.tenant, growth)
        keyed = key.number if key is not None else head.keyed
        keys_from = max(0, keyed - limits.stream_keys_max + 1) if key is not None else 0
        after = Head(
            head.scope,
            head.path,
            first,
            event.offset + 1,
            kept,
            oldest_ms,
            event.time_ms,
            keyed,
            flow or head.flow,
            stream.refused,
        )
        self._write(stream, Change(after, ((event, size),), dropped, key, keys_from if keys_from > 1 else 0))
        if is_new:
            self._quotas.bytes.add(head.scope.tenant, _head_bytes(head))

    def _write(self, stream: _Stream, change: Change) -> None:
        """Write a change, then make it true in memory."""
        number = self._table.commit(change)
        before, head = stream.head, change.head
        stream.head = head
        self._quotas.bytes.add(head.scope.tenant, head.bytes - before.bytes)
        while stream.sizes and stream.sizes[0].offset < head.first:
            stream.sizes.popleft()
        stream.sizes_to = max(stream.sizes_to, head.first - 1)
        pending = stream.pending
        for event, size in change.events:
            pending.append((number, event, size))
        while pending and pending[0][1].offset < head.first:
            pending.popleft()
        if change.key is not None:
            stream.keys[change.key.text] = (number, change.key)
        if not stream.awaited:
            self._await(stream, number)

    def _await(self, stream: _Stream, number: int) -> None:
        stream.awaited = number or -1
        self._table.when_durable(number, lambda refused: self._durable(stream, number, refused))

    def _durable(self, stream: _Stream, number: int, refused: Exception | None) -> None:
        """Everything up to `number` is readable from the table, unless the disk refuses for the moment."""
        stream.awaited = 0
        if refused is not None:
            # It stays in line until the disk takes it, and to ask at once would give the same answer.
            self._stuck[stream.head.scope, stream.head.path] = stream
            if self._stuck_ns is None:
                self._stuck_ns = self._clock.monotonic_ns() + int(_RETRY_S * _NS)
                self._arm()
            return
        pending, keys = stream.pending, stream.keys
        while pending and pending[0][0] <= number:
            pending.popleft()
        for text in [text for text, (of, _) in keys.items() if of <= number]:
            del keys[text]
        self._tell(self._on_durable, (stream.head.scope, stream.head.path))
        if latest := _latest(stream):
            self._await(stream, latest)

    def _room(self, stream: _Stream, next_: int, size: int, now_ms: int, *, keep: int) -> tuple[int, int, int, bool]:
        """What retention leaves: the first offset, the bytes, the oldest's time, and whether anything has to go.

        Args:
            next_: the next offset, with what is to be added.
            size: bytes, with what is to be added.
            keep: how many of the newest stay in any case.
        """
        limits, head = self._limits, stream.head
        cutoff_ms = now_ms - int(limits.stream_age_s_max * 1_000)
        first, oldest_ms, looked_at = head.first, head.oldest_ms, 0
        if first == head.next:
            # Empty so far: what is added is the oldest.
            return first, size, now_ms if next_ > head.next else 0, False
        last_to_go = next_ - keep
        while first < last_to_go and (
            next_ - first > limits.stream_events_max or size > limits.stream_bytes_max or oldest_ms < cutoff_ms
        ):
            if first == head.next:
                break
            gone = self._size(stream, looked_at)
            size -= gone.bytes
            first += 1
            looked_at += 1
            if first < head.next:
                oldest_ms = self._size(stream, looked_at).time_ms
            else:
                oldest_ms = now_ms if next_ > head.next else 0
        return first, size, oldest_ms, first > head.first

    def _size(self, stream: _Stream, position: int) -> Size:
        """What is known of the event at a position behind the first."""
        sizes, head = stream.sizes, stream.head
        if position >= len(sizes):
            pending = stream.pending
            before = pending[0][1].offset if pending else head.next
            after = stream.sizes_to
            if after + 1 < before:
                sizes.extend(self._table.sizes(head, after, before, _SIZES_AT_ONCE))
            else:
                skip = after + 1 - before
                sizes.extend(
                    Size(event.offset, size, event.time_ms)
                    for _, event, size in islice(pending, skip, skip + _SIZES_AT_ONCE)
                )
            stream.sizes_to = sizes[-1].offset
        return sizes[position]

    def _remembered(self, stream: _Stream, text: str, now_ms: int) -> Key | None:
        found = stream.keys.get(text)
        key = found[1] if found is not None else self._table.key(stream.head, text)
        limits = self._limits
        if key is None or key.number <= stream.head.keyed - limits.stream_keys_max:
            return None
        return key if key.time_ms > now_ms - limits.stream_key_age_s_max * 1_000 else None

    def _add(self, head: Head, now_ns: int) -> _Stream:
        stream = self._streams[head.scope, head.path] = _Stream(head, now_ns)
        self._paths.setdefault(head.scope, []).append(head.path)
        self._count[head.scope.tenant] = self._count.get(head.scope.tenant, 0) + 1
        return stream

    def _check_count(self, tenant: str) -> None:
        streams_max = self._limits.streams_per_tenant_max
        if self._count.get(tenant, 0) >= streams_max:
            raise LimitExceeded(
                f"the tenant has {streams_max} streams, as many as it may: one is forgotten once all its events are "
                "older than stream_age_s_max; or raise streams_per_tenant_max",
                limit="streams_per_tenant_max",
                value=streams_max,
            )

    def _must_exist(self, scope: Scope, path: str) -> _Stream:
        check_path(path)
        stream = self._streams.get((scope, path))
        if stream is None:
            raise _not_found(path)
        return stream

    def _tell(
        self, watchers: dict[tuple[Scope, str], dict[object, Callable[[], None]]], name: tuple[Scope, str]
    ) -> None:
        if name in watchers:
            for notify in list(watchers[name].values()):
                notify()

    def _now_ms(self) -> int:
        return self._clock.now_ns() // _NS_PER_MS


# -- decisions ---------------------------------------------------------------------------------------------


def check_path(path: str) -> None:
    """Refuse what is no path of a stream.

    Raises:
        InvalidArgument
    """
    if not _PATH.fullmatch(path) or len(path.encode("utf-8", "replace")) > PATH_BYTES_MAX:
        raise InvalidArgument(
            f"{path[:80]!r} is no stream's path: 1 to 16 parts, each a '/' and then printable characters without "
            f"spaces, such as /sessions/abc; at most {PATH_BYTES_MAX} bytes, and nothing behind a final '/'"
        )
    if any(part in (".", "..") for part in path.split("/")):
        raise InvalidArgument(f"{path[:80]!r} is no stream's path: clients resolve the parts '.' and '..'")


def _check_key(text: str) -> None:
    if text and not _KEY.fullmatch(text):
        raise InvalidArgument("an idempotency key has 1 to 256 characters, none of them a control character")


def judge(event_type: str, payload: str, bytes_max: int) -> tuple[str, str, str]:
    """An append as it is kept: type, payload on one line, and why it became an `error`: "" where it did not."""
    size = len(payload.encode("utf-8", "replace"))
    if not _TYPE.fullmatch(event_type):
        reason, message = "bad-type", "a type is 1 to 128 letters, digits, '_', '.', ':', '/' or '-'"
    elif event_type in _RESERVED_TYPES:
        reason, message = "bad-type", f"events of type {event_type!r} are the node's own: choose another type"
    elif size > bytes_max:
        reason, message = "too-large", f"{size} bytes are more than stream_event_bytes_max = {bytes_max}"
    else:
        try:
            orjson.loads(payload)
        except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
            reason, message = "not-json", f"the payload is not JSON: {error}"
        else:
            if "\n" in payload or "\r" in payload:
                # Strings of JSON hold no line breaks: these are only layout, and would break a line of a live reader.
                payload = payload.replace("\r", " ").replace("\n", " ")
            return event_type, payload, ""
    return ERROR_TYPE, error_payload(reason, message, event_type, payload, size), reason


def error_payload(reason: str, message: str, event_type: str, content: str, size: int) -> str:
    """The payload of the `error` that takes the place of what was no event.

    Args:
        content: what came, as far as it is known.
        size: its bytes.
    """
    return orjson.dumps(
        {
            "code": "invalid-event",
            "reason": reason,
            "message": _clean(message),
            "event_type": _clean(event_type[:128]),
            "bytes": size,
            "excerpt": _clean(content[:_EXCERPT_CHARACTERS]),
        }
    ).decode()


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _latest(stream: _Stream) -> int:
    """The number of the last write that is waited for; 0 when there is none."""
    return max((stream.pending[-1][0] if stream.pending else 0, *(number for number, _ in stream.keys.values())))


def _event_bytes(event: StreamEvent) -> int:
    return len(event.payload.encode()) + len(event.event_type) + EVENT_OVERHEAD_BYTES


def _head_bytes(head: Head) -> int:
    return len(head.path.encode()) + HEAD_OVERHEAD_BYTES


def _info(stream: _Stream, durable: bool) -> StreamInfo:
    head = stream.head
    last = stream.pending[0][1].offset - 1 if durable and stream.pending else head.next - 1
    return StreamInfo(head.path, head.first, last, head.bytes, head.flow.value, head.modified_ms)


def _not_found(path: str) -> NotFound:
    return NotFound(f"there is no stream {path!r}: it begins with its first event", path=path)


def _paused(head: Head, pause_s: float) -> RateLimited:
    if head.flow is Flow.HELD:
        return RateLimited(
            f"stream {head.path!r} is paused by an operator: resume it, or wait until somebody does",
            path=head.path,
            reason="operator",
            retry_after_ms=60_000,
        )
    return RateLimited(
        f"stream {head.path!r} is paused, because events came faster than stream_events_per_second_max: stop for "
        f"{pause_s:g} seconds, or resume it; each attempt begins the wait anew",
        path=head.path,
        reason="rate",
        retry_after_ms=int(pause_s * 1_000),
    )
