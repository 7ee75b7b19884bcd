"""Durable values by key, each owner's to itself.

What an operation sees is what all earlier ones have done, whether the disk has it yet or not: the table answers from
its pending writes first.  Operations run on the loop, one after the other, so compare-and-set and increment are atomic
by being short.  A refused write leaves no trace.
"""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from ..clock import Clock
from ..config import Limits
from ..errors import BusyError, Conflict, InvalidArgument, LimitExceeded
from ..scope import Scope

if TYPE_CHECKING:
    from .database import Database
    from .quotas import Quotas

KEY_BYTES_MAX: Final = 1_024
LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1_000
TTL_MS_MAX: Final = 10 * 365 * 24 * 3_600 * 1_000
RECENT_BYTES_MAX: Final = 32 << 20
# What a key costs beside its texts: so that a million empty ones are not free.
OVERHEAD_BYTES: Final = 128
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_SWEPT_AT_ONCE: Final = 500
# Expired values are invisible at once; their room is given back a moment later, many together.
_SWEEP_AFTER_MS: Final = 1_000

SCHEMA: Final[tuple[str, ...]] = (
    """CREATE TABLE kv (
        tenant TEXT NOT NULL, namespace TEXT NOT NULL, owner TEXT NOT NULL, key TEXT NOT NULL,
        value TEXT NOT NULL, expires_ms INTEGER NOT NULL,
        PRIMARY KEY (tenant, namespace, owner, key)) WITHOUT ROWID""",
    "CREATE INDEX kv_by_expiry ON kv (expires_ms) WHERE expires_ms > 0",
)


@dataclass(frozen=True, slots=True)
class Space:
    """One owner's keys."""

    scope: Scope
    owner: str


@dataclass(frozen=True, slots=True)
class Value:
    """A stored value; `expires_ms` is wall clock, 0 for never."""

    text: str
    expires_ms: int = 0


# Tenant, namespace, owner, key.
Place = tuple[str, str, str, str]


class KeyTable(Protocol):
    """Where values are kept: reads see every write that was accepted."""

    def get(self, space: Space, key: str) -> Value | None:
        """The value of a key, expired or not."""

    def set(self, space: Space, key: str, value: Value | None) -> None:
        """Store a value, or with None forget one.

        Raises:
            Unavailable, LimitExceeded: it was not accepted, and nothing has changed.
        """

    def keys(self, space: Space, prefix: str, after: str) -> Iterator[tuple[str, Value]]:
        """Keys after `after` that begin with `prefix`, in ascending byte order."""

    def expired(self, now_ms: int, limit: int) -> list[tuple[Space, str, Value]]:
        """Some of those whose time is over."""

    def next_expiry(self) -> int:
        """When the next one's time is over; 0 if no key has a time."""

    def everything(self) -> Iterable[tuple[str, int, int]]:
        """By tenant: how many keys there are, and their bytes."""


class KeyValue:
    """The key-value store of a node.

    Args:
        set_alarm: called with a number of seconds: `ring` must be called after so long.  A later call replaces an
            earlier one.
    """

    def __init__(
        self, table: KeyTable, *, clock: Clock, limits: Limits, quotas: Quotas, set_alarm: Callable[[float], None]
    ) -> None:
        self._table = table
        self._clock = clock
        self._limits = limits
        self._quotas = quotas
        self._set_alarm = set_alarm
        # For when the alarm is set, wall clock; 0 if it is not.
        self._alarm_ms = 0

    def load(self) -> None:
        """Count what there is.  Once, before anything else."""
        for tenant, keys, size in self._table.everything():
            self._quotas.keys.add(tenant, keys)
            self._quotas.bytes.add(tenant, size)
        self._arm(self._table.next_expiry())

    def get(self, space: Space, key: str) -> str | None:
        """The value of a key, None if there is none.

        Raises:
            InvalidArgument: the key cannot be one.
        """
        found = self._living(space, _checked(key))
        return found.text if found is not None else None

    def put(self, space: Space, key: str, value: str, ttl_ms: int | None = None) -> None:
        """Keep a value, for so many milliseconds or for good.

        Raises:
            InvalidArgument: no key, no JSON, or no time.
            LimitExceeded: the value is too large, or the tenant has as much as it may.
            Unavailable: the disk refuses.
        """
        self._set(space, _checked(key), Value(self._json(value), self._expiry(ttl_ms)))

    def delete(self, space: Space, key: str) -> bool:
        """Forget a value; whether there was one."""
        living = self._living(space, _checked(key)) is not None
        self._forget(space, key)
        return living

    def list_keys(self, space: Space, prefix: str = "", cursor: str = "", limit: int = 0) -> tuple[list[str], str]:
        """Keys that begin with `prefix`, in ascending byte order, and the cursor of the next page, "" on the last.

        Raises:
            InvalidArgument: the limit is too large.
        """
        if limit > LIMIT_MAX:
            raise InvalidArgument(f"limit {limit} is too large: at most {LIMIT_MAX}")
        limit = limit or LIMIT_DEFAULT
        now_ms = self._now_ms()
        keys: list[str] = []
        for key, value in self._table.keys(space, prefix, cursor):
            if _is_over(value, now_ms):
                continue
            if len(keys) == limit:
                return keys, keys[-1]
            keys.append(key)
        return keys, ""

    def compare_and_set(self, space: Space, key: str, expected: str | None, value: str | None) -> bool:
        """Replace a value if it is `expected`, None meaning absent in both; whether it was replaced.

        Values are compared as JSON: the order of an object's names and the blanks do not count.
        """
        found = self._living(space, _checked(key))
        wanted = None if expected is None else self._json(expected)
        if (found is None) is not (wanted is None) or (
            found is not None and wanted is not None and not _same(found.text, wanted)
        ):
            return False
        if value is None:
            self._forget(space, key)
        else:
            self._set(space, key, Value(self._json(value)))
        return True

    def increment(self, space: Space, key: str, delta: int) -> int:
        """Add to a whole number, absent counting as 0; the new value.  Its time to live goes on.

        Raises:
            Conflict: it is no whole number, or would be none of 64 bits.
        """
        found = self._living(space, _checked(key))
        before = 0 if found is None else _loads(found.text)
        if isinstance(before, bool) or not isinstance(before, int):
            raise Conflict(f"the value of {key[:80]!r} is no whole number", key=key)
        after = before + delta
        if not _INT_MIN <= after <= _INT_MAX:
            raise Conflict(f"the value of {key[:80]!r} would leave the range of 64 bits", key=key)
        self._set(space, key, Value(str(after), found.expires_ms if found is not None else 0))
        return after

    def ring(self) -> None:
        """The alarm: give back the room of what has expired."""
        self._alarm_ms = 0
        now_ms = self._now_ms()
        try:
            for space, key, _ in self._table.expired(now_ms, _SWEPT_AT_ONCE):
                self._forget(space, key)
        except BusyError:
            # The disk refuses: there is another time.
            self._arm(now_ms)
        else:
            self._arm(self._table.next_expiry())

    # -- inside -------------------------------------------------------------------------------------------

    def _living(self, space: Space, key: str) -> Value | None:
        found = self._table.get(space, key)
        return None if found is None or _is_over(found, self._now_ms()) else found

    def _set(self, space: Space, key: str, value: Value) -> None:
        tenant = space.scope.tenant
        before = self._table.get(space, key)
        growth = _size(key, value) - (0 if before is None else _size(key, before))
        self._quotas.bytes.check(tenant, growth)
        if before is None:
            self._quotas.keys.check(tenant)
        self._table.set(space, key, value)
        self._quotas.bytes.add(tenant, growth)
        if before is None:
            self._quotas.keys.add(tenant)
        self._arm(value.expires_ms)

    def _forget(self, space: Space, key: str) -> None:
        before = self._table.get(space, key)
        if before is not None:
            self._table.set(space, key, None)
            self._quotas.bytes.add(space.scope.tenant, -_size(key, before))
            self._quotas.keys.add(space.scope.tenant, -1)

    def _json(self, text: str) -> str:
        if (size := _bytes(text)) > self._limits.value_bytes_max:
            raise LimitExceeded(
                f"the value has {size} bytes, more than value_bytes_max = {self._limits.value_bytes_max}: use a blob",
                limit="value_bytes_max",
                value=self._limits.value_bytes_max,
            )
        _loads(text)
        return text

    def _expiry(self, ttl_ms: int | None) -> int:
        if ttl_ms is None:
            return 0
        if not 1 <= ttl_ms <= TTL_MS_MAX:
            raise InvalidArgument(f"ttl_ms {ttl_ms} is not possible: 1 to {TTL_MS_MAX} milliseconds, or none")
        return self._now_ms() + ttl_ms

    def _now_ms(self) -> int:
        return self._clock.now_ns() // 1_000_000

    def _arm(self, expires_ms: int) -> None:
        if expires_ms and (not self._alarm_ms or expires_ms < self._alarm_ms):
            self._alarm_ms = expires_ms
            self._set_alarm(max(0, expires_ms - self._now_ms() + _SWEEP_AFTER_MS) / 1000)


class SqliteKeys:
    """On the node's database.  What the disk does not have yet is in `_pending`, with the number of its write.

    Args:
        recent_bytes_max: how much of what was used lately is kept in memory.
    """

    def __init__(self, database: Database, recent_bytes_max: int = RECENT_BYTES_MAX) -> None:
        self._database = database
        self._recent: OrderedDict[Place, Value | None] = OrderedDict()
        self._recent_bytes = 0
        self._recent_bytes_max = recent_bytes_max
        self._pending: dict[Place, tuple[int, Value | None]] = {}
        # The same in the order of writing, so that what is durable is forgotten without a search.
        self._order: deque[tuple[int, Place]] = deque()

    def get(self, space: Space, key: str) -> Value | None:
        """See `KeyTable`."""
        self._prune()
        place = _place(space, key)
        if (pending := self._pending.get(place)) is not None:
            return pending[1]
        if place in self._recent:
            self._recent.move_to_end(place)
            return self._recent[place]
        rows = self._database.read(
            "SELECT value, expires_ms FROM kv WHERE tenant = ? AND namespace = ? AND owner = ? AND key = ?",
            place,
        )
        value = Value(*rows[0]) if rows else None
        self._remember(place, value)
        return value

    def set(self, space: Space, key: str, value: Value | None) -> None:
        """See `KeyTable`."""
        place = _place(space, key)
        if value is None:
            statement: tuple[str, tuple[object, ...]] = (
                "DELETE FROM kv WHERE tenant = ? AND namespace = ? AND owner = ? AND key = ?",
                place,
            )
        else:
            statement = ("INSERT OR REPLACE INTO kv VALUES (?, ?, ?, ?, ?, ?)", (*place, value.text, value.expires_ms))
        number = self._database.stream.write([statement])
        self._pending[place] = (number, value)
        self._order.append((number, place))

    def keys(self, space: Space, prefix: str, after: str) -> Iterator[tuple[str, Value]]:
        """See `KeyTable`."""
        self._prune()
        owner = _place(space, "")[:3]
        changed = {
            place[3]: value
            for place, (_, value) in self._pending.items()
            if place[:3] == owner and place[3] > after and place[3].startswith(prefix)
        }
        waiting = deque(sorted(key for key, value in changed.items() if value is not None))
        for key, value in self._stored(space, prefix, after):
            while waiting and waiting[0] < key:
                yield self._changed(changed, waiting.popleft())
            if key not in changed:
                yield key, value
        while waiting:
            yield self._changed(changed, waiting.popleft())

    def expired(self, now_ms: int, limit: int) -> list[tuple[Space, str, Value]]:
        """See `KeyTable`.  What is pending is looked at when the disk has it."""
        self._prune()
        found = [
            (Space(Scope(tenant, namespace), owner), key, Value(value, expires_ms))
            for tenant, namespace, owner, key, value, expires_ms in self._database.read(
                "SELECT * FROM kv WHERE expires_ms > 0 AND expires_ms <= ? ORDER BY expires_ms LIMIT ?", (now_ms, limit)
            )
        ]
        return [each for each in found if _place(each[0], each[1]) not in self._pending]

    def next_expiry(self) -> int:
        """See `KeyTable`."""
        self._prune()
        times = [value.expires_ms for _, value in self._pending.values() if value is not None and value.expires_ms]
        rows = self._database.read(
            "SELECT tenant, namespace, owner, key, expires_ms FROM kv WHERE expires_ms > 0 ORDER BY expires_ms LIMIT ?",
            (2 * _SWEPT_AT_ONCE,),
        )
        for tenant, namespace, owner, key, expires_ms in rows:
            if (tenant, namespace, owner, key) not in self._pending:
                times.append(expires_ms)
                break
        else:
            # All of these are on their way out: behind them may be more, which the next look will find.
            times += [row[4] + _SWEEP_AFTER_MS for row in rows[-1:] if len(rows) == 2 * _SWEPT_AT_ONCE]
        return min(times, default=0)

    def everything(self) -> Iterable[tuple[str, int, int]]:
        """See `KeyTable`."""
        for tenant, keys, size in self._database.read(
            "SELECT tenant, count(*), sum(length(CAST(key AS BLOB)) + length(CAST(value AS BLOB))) FROM kv"
            " GROUP BY tenant"
        ):
            yield tenant, keys, size + keys * OVERHEAD_BYTES

    def _changed(self, changed: dict[str, Value | None], key: str) -> tuple[str, Value]:
        value = changed[key]
        assert value is not None
        return key, value

    def _stored(self, space: Space, prefix: str, after: str) -> Iterator[tuple[str, Value]]:
        """Page by page: the caller may stop early, and the disk is read no further than it goes."""
        while True:
            rows = self._database.read(
                "SELECT key, value, expires_ms FROM kv WHERE tenant = ? AND namespace = ? AND owner = ? AND key > ?"
                " AND key >= ? ORDER BY key LIMIT ?",
                (space.scope.tenant, space.scope.namespace, space.owner, after, prefix, LIMIT_MAX),
            )
            for key, value, expires_ms in rows:
                if not key.startswith(prefix):
                    return
                yield key, Value(value, expires_ms)
            if len(rows) < LIMIT_MAX:
                return
            after = rows[-1][0]

    def _prune(self) -> None:
        durable, order = self._database.stream.durable, self._order
        while order and order[0][0] <= durable:
            number, place = order.popleft()
            if self._pending[place][0] == number:
                self._remember(place, self._pending.pop(place)[1])

    def _remember(self, place: Place, value: Value | None) -> None:
        """Keep what is on disk now, for as long as it is among what was used last."""
        recent = self._recent
        if place in recent:
            self._recent_bytes -= _recent_bytes(place, recent.pop(place))
        recent[place] = value
        self._recent_bytes += _recent_bytes(place, value)
        while self._recent_bytes > self._recent_bytes_max:
            self._recent_bytes -= _recent_bytes(*recent.popitem(last=False))


class MemoryKeys:
    """In memory: for simulations."""

    def __init__(self) -> None:
        self._spaces: dict[Space, tuple[list[str], dict[str, Value]]] = {}

    def get(self, space: Space, key: str) -> Value | None:
        """See `KeyTable`."""
        known = self._spaces.get(space)
        return known[1].get(key) if known is not None else None

    def set(self, space: Space, key: str, value: Value | None) -> None:
        """See `KeyTable`."""
        order, values = self._spaces.setdefault(space, ([], {}))
        if value is not None:
            if key not in values:
                insort(order, key)
            values[key] = value
        elif values.pop(key, None) is not None:
            del order[bisect_left(order, key)]

    def keys(self, space: Space, prefix: str, after: str) -> Iterator[tuple[str, Value]]:
        """See `KeyTable`."""
        order, values = self._spaces.get(space, ([], {}))
        for key in order[bisect_left(order, max(prefix, after)) :]:
            if not key.startswith(prefix):
                return
            if key > after:
                yield key, values[key]

    def expired(self, now_ms: int, limit: int) -> list[tuple[Space, str, Value]]:
        """See `KeyTable`."""
        return [
            (space, key, value)
            for space, (_, values) in self._spaces.items()
            for key, value in values.items()
            if _is_over(value, now_ms)
        ][:limit]

    def next_expiry(self) -> int:
        """See `KeyTable`."""
        return min(
            (value.expires_ms for _, values in self._spaces.values() for value in values.values() if value.expires_ms),
            default=0,
        )

    def everything(self) -> Iterable[tuple[str, int, int]]:
        """See `KeyTable`."""
        return ()


def _place(space: Space, key: str) -> Place:
    # Strings remember their hash; a dataclass of dataclasses computes it anew each time.
    return (space.scope.tenant, space.scope.namespace, space.owner, key)


def _recent_bytes(place: Place, value: Value | None) -> int:
    # In characters, not bytes: this is about memory, and near enough.
    return 300 + len(place[3]) + (len(value.text) if value is not None else 0)


def _checked(key: str) -> str:
    if not 1 <= _bytes(key) <= KEY_BYTES_MAX or "\x00" in key:
        raise InvalidArgument(f"key {key[:80]!r} is not possible: 1 to {KEY_BYTES_MAX} bytes, none of them 0")
    return key


def _loads(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"the value is not JSON: {error}") from None


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    # Dumped again, because in Python True == 1 == 1.0; and not by orjson, to which whole numbers of more than 64 bits
    # that are near one another are the same.
    try:
        return json.dumps(json.loads(one), sort_keys=True) == json.dumps(json.loads(other), sort_keys=True)
    except RecursionError:
        # Nearly as deep as a value may nest: only written alike is it the same.
        return False


def _size(key: str, value: Value) -> int:
    return OVERHEAD_BYTES + _bytes(key) + _bytes(value.text)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _is_over(value: Value, now_ms: int) -> bool:
    return 0 < value.expires_ms <= now_ms
