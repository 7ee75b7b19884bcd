"""Leases with fencing tokens: who holds a name, for how long, and who comes next.

A lease ends with its time, whatever becomes of its holder: a lock that a dead actor holds is free when its time is
over, and not before, because the node cannot know what the holder has begun elsewhere.  The fencing token of a name
grows with every acquisition, for ever: a store can refuse whoever comes with an older one.  (Kleppmann, "How to do
distributed locking", 2016.)  So a name keeps its row when it is free.

Time is the wall clock's, because a lease goes on while the node is down.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ..clock import Clock
from ..errors import BusyError, Conflict, InvalidArgument
from ..ids import Ids
from ..scope import Scope
from .agenda import Agenda

if TYPE_CHECKING:
    from .database import Database
    from .quotas import Quotas

NAME_BYTES_MAX: Final = 256
TTL_MS_MAX: Final = 24 * 3_600 * 1_000
WAIT_MS_MAX: Final = 24 * 3_600 * 1_000
OVERHEAD_BYTES: Final = 160
_NS_PER_MS: Final = 1_000_000

SCHEMA: Final[tuple[str, ...]] = (
    """CREATE TABLE locks (
        tenant TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
        token INTEGER NOT NULL, holder TEXT NOT NULL, expires_ms INTEGER NOT NULL,
        PRIMARY KEY (tenant, namespace, name)) WITHOUT ROWID""",
)


@dataclass(frozen=True, slots=True)
class LockRow:
    """A name's state as it is stored; `holder` is the lease's id, "" when it is free."""

    scope: Scope
    name: str
    token: int
    holder: str
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Lease:
    """What a holder has.

    Attributes:
        lock_id: to renew and release it with.
        token: the fencing token.
        expires_ms: wall clock.
    """

    lock_id: str
    token: int
    expires_ms: int


class LockTable(Protocol):
    """Where the names are kept."""

    def rows(self) -> Iterable[LockRow]:
        """Every name there is, at the start."""

    def put(self, row: LockRow) -> None:
        """Store a name's state.

        Raises:
            Unavailable, LimitExceeded: it was not accepted.
        """


class Waiter:
    """Somebody who waits for a name.

    Attributes:
        answer: called once: with the lease, None when the time is over, or why there is none.
    """

    __slots__ = ("answer", "entry", "key", "ttl_ms")

    def __init__(self, key: tuple[Scope, str], ttl_ms: int, answer: Callable[[Lease | Exception | None], None]) -> None:
        self.key = key
        self.ttl_ms = ttl_ms
        self.answer = answer
        self.entry = 0


class _Lock:
    __slots__ = ("entry", "row", "waiting")

    def __init__(self, row: LockRow) -> None:
        self.row = row
        # In the order of asking.
        self.waiting: OrderedDict[Waiter, None] = OrderedDict()
        self.entry = 0


class Locks:
    """All locks of a node.

    Args:
        set_alarm: called with a number of seconds: `ring` must be called after so long; with None, it need not.
    """

    def __init__(
        self,
        table: LockTable,
        *,
        clock: Clock,
        ids: Ids,
        quotas: Quotas,
        set_alarm: Callable[[float | None], None],
    ) -> None:
        self._table = table
        self._clock = clock
        self._ids = ids
        self._quotas = quotas
        self._agenda: Agenda[_Lock | Waiter] = Agenda(clock, set_alarm)
        self._locks: dict[tuple[Scope, str], _Lock] = {}

    def load(self) -> None:
        """Read what there is.  Once, before anything else."""
        for row in self._table.rows():
            self._locks[row.scope, row.name] = _Lock(row)
            self._quotas.bytes.add(row.scope.tenant, _size(row.name))

    def acquire(
        self,
        scope: Scope,
        name: str,
        ttl_ms: int,
        wait_ms: int = 0,
        answer: Callable[[Lease | Exception | None], None] | None = None,
    ) -> Lease | Waiter | None:
        """Take a name; None if another holds it, or, with `wait_ms`, somebody who waits and hears of it in `answer`.

        Args:
            ttl_ms: how long it is held without renewal.

        Raises:
            InvalidArgument, LimitExceeded, Unavailable
        """
        _check_name(name)
        _check_time("ttl_ms", ttl_ms, 1, TTL_MS_MAX)
        _check_time("wait_ms", wait_ms, 0, WAIT_MS_MAX)
        key = (scope, name)
        self._settle()
        lock = self._locks.get(key)
        if lock is None or (not self._is_held(lock) and not lock.waiting):
            return self._take(key, ttl_ms)
        if wait_ms == 0 or answer is None:
            return None
        waiter = Waiter(key, ttl_ms, answer)
        lock.waiting[waiter] = None
        self._agenda.add(waiter, self._clock.monotonic_ns() + wait_ms * _NS_PER_MS)
        self._watch(lock)
        return waiter

    def renew(self, scope: Scope, name: str, lock_id: str, ttl_ms: int) -> Lease:
        """Hold a name for another `ttl_ms` from now.

        Raises:
            Conflict: it was lost in between.
        """
        _check_time("ttl_ms", ttl_ms, 1, TTL_MS_MAX)
        self._settle()
        lock = self._locks.get((scope, name))
        if lock is None or not self._is_held(lock) or lock.row.holder != lock_id:
            raise Conflict(f"the lock {name[:80]!r} is no longer held by {lock_id[:80]!r}", lock=name)
        return self._hold(lock, lock.row.token, lock_id, ttl_ms)

    def release(self, scope: Scope, name: str, lock_id: str) -> bool:
        """Give a name back; False if it was lost already."""
        self._settle()
        lock = self._locks.get((scope, name))
        if lock is None or not self._is_held(lock) or lock.row.holder != lock_id:
            return False
        self._put(lock, LockRow(scope, name, lock.row.token, "", 0))
        self._pass_on(lock)
        return True

    def give_up(self, waiter: Waiter) -> None:
        """Somebody no longer waits, and is not answered."""
        lock = self._locks.get(waiter.key)
        if lock is not None and lock.waiting.pop(waiter, self) is None:
            self._agenda.discard(waiter)
            self._watch(lock)

    def ring(self) -> None:
        """The alarm."""
        self._settle()
        self._agenda.rang()

    # -- inside -------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Whatever is due comes first: ends of leases somebody waits for, and ends of waiting."""
        for due in self._agenda.due(self._clock.monotonic_ns()):
            if isinstance(due, Waiter):
                lock = self._locks[due.key]
                del lock.waiting[due]
                self._watch(lock)
                due.answer(None)
            elif self._is_held(due):
                # The wall clock has been set back, or the lease was renewed.
                self._watch(due)
            else:
                self._pass_on(due)

    def _pass_on(self, lock: _Lock) -> None:
        while lock.waiting and not self._is_held(lock):
            waiter, _ = lock.waiting.popitem(last=False)
            self._agenda.discard(waiter)
            try:
                lease = self._take(waiter.key, waiter.ttl_ms)
            except BusyError as error:
                waiter.answer(error)
            else:
                waiter.answer(lease)
        self._watch(lock)

    def _take(self, key: tuple[Scope, str], ttl_ms: int) -> Lease:
        scope, name = key
        lock = self._locks.get(key)
        if lock is None:
            self._quotas.bytes.check(scope.tenant, _size(name))
            lock = _Lock(LockRow(scope, name, 0, "", 0))
            lease = self._hold(lock, 1, self._ids.next("lock"), ttl_ms)
            self._locks[key] = lock
            self._quotas.bytes.add(scope.tenant, _size(name))
            return lease
        return self._hold(lock, lock.row.token + 1, self._ids.next("lock"), ttl_ms)

    def _hold(self, lock: _Lock, token: int, lock_id: str, ttl_ms: int) -> Lease:
        expires_ms = self._now_ms() + ttl_ms
        self._put(lock, LockRow(lock.row.scope, lock.row.name, token, lock_id, expires_ms))
        self._watch(lock)
        return Lease(lock_id, token, expires_ms)

    def _put(self, lock: _Lock, row: LockRow) -> None:
        self._table.put(row)
        lock.row = row

    def _watch(self, lock: _Lock) -> None:
        """The end of a lease matters only to somebody who waits for it."""
        if lock.waiting and self._is_held(lock):
            left_ms = lock.row.expires_ms - self._now_ms()
            self._agenda.add(lock, self._clock.monotonic_ns() + left_ms * _NS_PER_MS)
        else:
            self._agenda.discard(lock)

    def _is_held(self, lock: _Lock) -> bool:
        return bool(lock.row.holder) and lock.row.expires_ms > self._now_ms()

    def _now_ms(self) -> int:
        return self._clock.now_ns() // _NS_PER_MS


class SqliteLocks:
    """On the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rows(self) -> Iterable[LockRow]:
        """See `LockTable`."""
        for tenant, namespace, *rest in self._database.read("SELECT * FROM locks"):
            yield LockRow(Scope(tenant, namespace), *rest)

    def put(self, row: LockRow) -> None:
        """See `LockTable`."""
        values = (row.scope.tenant, row.scope.namespace, row.name, row.token, row.holder, row.expires_ms)
        self._database.stream.write([("INSERT OR REPLACE INTO locks VALUES (?, ?, ?, ?, ?, ?)", values)])


class MemoryLocks:
    """In memory: for simulations."""

    def rows(self) -> Iterable[LockRow]:
        """See `LockTable`."""
        return ()

    def put(self, row: LockRow) -> None:
        """See `LockTable`."""


def _check_name(name: str) -> None:
    if not 1 <= len(name.encode("utf-8", "surrogatepass")) <= NAME_BYTES_MAX or "\x00" in name:
        raise InvalidArgument(f"lock name {name[:80]!r} is not possible: 1 to {NAME_BYTES_MAX} bytes, none of them 0")


def _check_time(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidArgument(f"{what} {value} is not possible: {low} to {high} milliseconds")


def _size(name: str) -> int:
    return OVERHEAD_BYTES + len(name.encode())
