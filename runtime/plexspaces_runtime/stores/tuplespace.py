"""Linda's tuple space, one per namespace: write, read, take, wait for a match, be told of every match.

All live tuples are in memory, indexed by every field; behind them is a table that follows by the node's one ordered
stream of writes.  A write or a take is done when the table has accepted it, so a refused one leaves no trace, and what
the table accepted is on disk before any answer that depends on it leaves the node.  Two takers never get one tuple: the
first removes it from memory, and there is one memory.

Who waits has found nothing, so between two calls no waiter's pattern matches a live tuple.  A new tuple is therefore
offered once, when it is written: to all readers who wait for such a one, then to the taker who has waited longest.

Time is the monotonic clock's while the node runs; what is stored is wall clock, because a lease goes on while the node
is down.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from ..clock import Clock
from ..config import Limits
from ..errors import BusyError, InvalidArgument, LimitExceeded, MailboxFull, PlexSpacesError
from ..scope import Scope
from .agenda import Agenda
from .patterns import Pattern, parse_pattern, parse_tuple
from .tupleindex import StoredTuple, TupleIndex, WatchIndex

if TYPE_CHECKING:
    from .database import Database
    from .quotas import Quotas

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1_000
LEASE_MS_MAX: Final = 10 * 365 * 24 * 3_600 * 1_000
# What a tuple costs beside its text: so that a million empty ones are not free.
OVERHEAD_BYTES: Final = 64

_NS_PER_MS: Final = 1_000_000
_RETRY_NS: Final = 1_000_000_000
_ROWS_AT_ONCE: Final = 10_000
_DELETED_AT_ONCE: Final = 500

SCHEMA: Final[tuple[str, ...]] = (
    # AUTOINCREMENT: the id of a tuple that was taken is never given again, not even after a restart.
    """CREATE TABLE tuples (
        id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, namespace TEXT NOT NULL,
        fields TEXT NOT NULL, expires_ms INTEGER NOT NULL)""",
)


# -- what is kept ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TupleRow:
    """A tuple as it is stored.

    Attributes:
        number: its place in the order of all tuples.
        fields: JSON text, as it was written.
        expires_ms: Unix milliseconds, 0 for never.
    """

    number: int
    scope: Scope
    fields: str
    expires_ms: int


class TupleTable(Protocol):
    """Where tuples are kept.  Both writes are one atomic unit each, in the order of the calls."""

    def last_number(self) -> int:
        """The greatest number there ever was."""

    def rows(self) -> Iterator[TupleRow]:
        """All that are there, oldest first."""

    def insert(self, row: TupleRow) -> None:
        """Add one.

        Raises:
            Unavailable: the disk refuses.
            LimitExceeded: too much waits for the disk.
        """

    def delete(self, numbers: Sequence[int]) -> None:
        """Remove some; raises as `insert` does."""


class SqliteTuples:
    """On the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last_number(self) -> int:
        rows = self._database.read("SELECT seq FROM sqlite_sequence WHERE name = 'tuples'", ())
        return int(rows[0][0]) if rows else 0

    def rows(self) -> Iterator[TupleRow]:
        after = 0
        while True:
            rows = self._database.read(
                "SELECT id, tenant, namespace, fields, expires_ms FROM tuples WHERE id > ? ORDER BY id LIMIT ?",
                (after, _ROWS_AT_ONCE),
            )
            for number, tenant, namespace, fields, expires_ms in rows:
                yield TupleRow(number, Scope(tenant, namespace), fields, expires_ms)
            if len(rows) < _ROWS_AT_ONCE:
                return
            after = rows[-1][0]

    def insert(self, row: TupleRow) -> None:
        self._database.stream.write(
            [
                (
                    "INSERT INTO tuples VALUES (?, ?, ?, ?, ?)",
                    (row.number, row.scope.tenant, row.scope.namespace, row.fields, row.expires_ms),
                )
            ]
        )

    def delete(self, numbers: Sequence[int]) -> None:
        self._database.stream.write([("DELETE FROM tuples WHERE id = ?", (number,)) for number in numbers])


class MemoryTuples:
    """In memory; as durable as its owner."""

    def __init__(self) -> None:
        self._rows: dict[int, TupleRow] = {}
        self._last = 0

    def last_number(self) -> int:
        return self._last

    def rows(self) -> Iterator[TupleRow]:
        yield from tuple(self._rows.values())

    def insert(self, row: TupleRow) -> None:
        self._rows[row.number] = row
        self._last = row.number

    def delete(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            del self._rows[number]


# -- who waits ---------------------------------------------------------------------------------------------


class _Waiting(Enum):
    WAITING = "waiting"


# What `read` and `take` answer when the waiter will hear later.
WAITING: Final = _Waiting.WAITING

Found = str | None


@dataclass(frozen=True, slots=True)
class Waiter:
    """Somebody who would wait for a tuple.

    Attributes:
        owner: who: an incarnation of an actor.
        deadline_ns: until when, on the monotonic clock.
        wanted: whether it still waits; asked before anything is taken for it.
        on_result: hears once, never within the call itself: the tuple, None after the deadline, or an error.
    """

    owner: Hashable
    deadline_ns: int
    wanted: Callable[[], bool]
    on_result: Callable[[Found | PlexSpacesError], None]


class _Watch:
    """A waiter or a subscription in a space."""

    __slots__ = ("entry", "number", "owner", "pattern", "space")

    def __init__(self, number: int, owner: Hashable, pattern: Pattern, space: _Space) -> None:
        self.number = number
        self.owner = owner
        self.pattern = pattern
        self.space = space
        self.entry = 0


class _Blocked(_Watch):
    __slots__ = ("takes", "waiter")

    def __init__(self, number: int, pattern: Pattern, space: _Space, waiter: Waiter, takes: bool) -> None:
        super().__init__(number, waiter.owner, pattern, space)
        self.waiter = waiter
        self.takes = takes


class _Subscription(_Watch):
    __slots__ = ("full", "id", "on_match")

    def __init__(
        self,
        number: int,
        owner: Hashable,
        pattern: Pattern,
        space: _Space,
        on_match: Callable[[str], None],
        full: Callable[[], bool],
    ) -> None:
        super().__init__(number, owner, pattern, space)
        self.id = f"tuple-subscription-{number}"
        self.on_match = on_match
        self.full = full


class _Space:
    """A namespace's tuples, and who waits for some."""

    __slots__ = ("blocked", "by_owner", "index", "scope", "subscriptions")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.index = TupleIndex()
        self.blocked: WatchIndex[_Blocked] = WatchIndex()
        self.subscriptions: WatchIndex[_Subscription] = WatchIndex()
        self.by_owner: dict[Hashable, dict[_Watch, None]] = {}

    @property
    def idle(self) -> bool:
        return not self.index.live and not self.by_owner


# -- the space ---------------------------------------------------------------------------------------------


class TupleSpace:
    """All tuple spaces of a node.  Every function works in the space of its scope and knows of no other.

    Args:
        table: what is behind the memory.
        quotas: what each tenant may store.
        clock: time.
        limits: how large, how many.
        set_alarm: called with a number of seconds: `ring` must be called after so long; None: not at all.  A later call
            replaces an earlier one.
    """

    def __init__(
        self,
        table: TupleTable,
        *,
        quotas: Quotas,
        clock: Clock,
        limits: Limits,
        set_alarm: Callable[[float | None], None],
    ) -> None:
        self._table = table
        self._quotas = quotas
        self._clock = clock
        self._limits = limits
        self._agenda: Agenda[StoredTuple | _Blocked] = Agenda(clock, set_alarm)
        self._spaces: dict[Scope, _Space] = {}
        self._last_number = 0
        self._last_watch = 0
        # Tuples that have expired and are still in the table, because it refused to remove them.
        self._remains: list[int] = []
        self._retry_ns = 0

    def load(self) -> None:
        """Read what there is.  Once, before anything else."""
        now_ns, now_ms = self._clock.monotonic_ns(), self._clock.now_ns() // _NS_PER_MS
        self._last_number = self._table.last_number()
        for row in self._table.rows():
            if row.expires_ms and row.expires_ms <= now_ms:
                self._remains.append(row.number)
                continue
            expires_ns = now_ns + (row.expires_ms - now_ms) * _NS_PER_MS if row.expires_ms else 0
            space = self._space(row.scope)
            self._add(space, StoredTuple(row.number, parse_tuple(row.fields), row.fields, space, expires_ns))
        self._remove_remains(now_ns)

    # -- writing ------------------------------------------------------------------------------------------

    def write(self, scope: Scope, text: str, lease_ms: int | None = None) -> str:
        """Write a tuple; its id.

        Args:
            text: a JSON array of 1 to 64 fields.
            lease_ms: milliseconds after which it is removed unless taken; None for never.

        Raises:
            InvalidArgument: it is no tuple, or no lease.
            LimitExceeded: `tuple_bytes_max`, `tuples_per_tenant_max`, `stored_bytes_per_tenant_max`.
            MailboxFull: a subscriber does not keep up, and none may miss a match.
            Unavailable: the disk refuses.
        """
        now_ns = self._tick()
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if size > self._limits.tuple_bytes_max:
            raise LimitExceeded(
                f"the tuple has {size} bytes, more than tuple_bytes_max = {self._limits.tuple_bytes_max}: "
                "keep what is large elsewhere and write where it is, or raise the limit",
                limit="tuple_bytes_max",
                value=self._limits.tuple_bytes_max,
            )
        if lease_ms is not None and not 1 <= lease_ms <= LEASE_MS_MAX:
            raise InvalidArgument(f"lease-ms = {lease_ms}: a lease has 1 to {LEASE_MS_MAX} milliseconds (ten years)")
        fields = parse_tuple(text)
        space = self._spaces.get(scope)
        subscribers = space.subscriptions.matching(fields) if space is not None else []
        for subscriber in subscribers:
            if subscriber.full():
                raise MailboxFull("an actor that is subscribed to such tuples does not keep up: try again later")
        self._quotas.tuples.check(scope.tenant, 1)
        self._quotas.bytes.check(scope.tenant, size + OVERHEAD_BYTES)
        expires_ms = self._clock.now_ns() // _NS_PER_MS + lease_ms if lease_ms is not None else 0
        number = self._last_number + 1
        self._table.insert(TupleRow(number, scope, text, expires_ms))
        self._last_number = number
        space = self._space(scope)
        new = StoredTuple(number, fields, text, space, now_ns + lease_ms * _NS_PER_MS if lease_ms is not None else 0)
        self._add(space, new)
        for subscriber in subscribers:
            subscriber.on_match(text)
        self._offer(space, new)
        return f"tuple-{number}"

    def _offer(self, space: _Space, new: StoredTuple) -> None:
        """Give a new tuple to those who wait for such a one: copies first, then itself."""
        waiting = space.blocked.matching(new.fields)
        for blocked in waiting:
            if not blocked.takes:
                self._forget(blocked)
                if blocked.waiter.wanted():
                    blocked.waiter.on_result(new.text)
        for blocked in waiting:
            if not blocked.takes:
                continue
            self._forget(blocked)
            if not blocked.waiter.wanted():
                continue
            try:
                self._take([new])
            except BusyError as error:
                # As if it had called now.  It must not wait on beside a tuple that it would take.
                blocked.waiter.on_result(error)
                continue
            blocked.waiter.on_result(new.text)
            return

    # -- reading ------------------------------------------------------------------------------------------

    def read(self, scope: Scope, pattern: str, waiter: Waiter | None = None) -> Found | _Waiting:
        """A copy of the oldest match; without one, None, or `WAITING` if somebody waits.

        Raises:
            InvalidArgument: it is no pattern.
            LimitExceeded: `tuples_examined_max`.
        """
        return self._find(scope, pattern, waiter, takes=False)

    def take(self, scope: Scope, pattern: str, waiter: Waiter | None = None) -> Found | _Waiting:
        """The oldest match, removed; without one, None, or `WAITING` if somebody waits.

        Raises:
            InvalidArgument, LimitExceeded: as `read`.
            Unavailable: the disk refuses.
        """
        return self._find(scope, pattern, waiter, takes=True)

    def _find(self, scope: Scope, text: str, waiter: Waiter | None, *, takes: bool) -> Found | _Waiting:
        now_ns = self._tick()
        pattern = parse_pattern(text)
        found = self._search(scope, pattern, 1)
        if found:
            if takes:
                self._take(found)
            return found[0].text
        if waiter is None or waiter.deadline_ns <= now_ns:
            return None
        space = self._space(scope)
        self._last_watch += 1
        blocked = _Blocked(self._last_watch, pattern, space, waiter, takes)
        space.blocked.add(blocked)
        space.by_owner.setdefault(waiter.owner, {})[blocked] = None
        self._agenda.add(blocked, waiter.deadline_ns)
        return WAITING

    def read_all(self, scope: Scope, pattern: str, limit: int = 0) -> list[str]:
        """Copies of the oldest matches.

        Args:
            limit: at most so many, up to 1,000; 0 stands for 100.

        Raises:
            InvalidArgument, LimitExceeded: as `read`.
        """
        self._tick()
        return [each.text for each in self._search(scope, parse_pattern(pattern), _checked(limit))]

    def take_all(self, scope: Scope, pattern: str, limit: int = 0) -> list[str]:
        """The oldest matches, removed: all of them or, where it raises, none.

        Raises:
            InvalidArgument, LimitExceeded, Unavailable: as `take`.
        """
        self._tick()
        found = self._search(scope, parse_pattern(pattern), _checked(limit))
        if found:
            self._take(found)
        return [each.text for each in found]

    def count(self, scope: Scope, pattern: str) -> int:
        """How many match.

        Raises:
            InvalidArgument, LimitExceeded: as `read`.
        """
        self._tick()
        parsed = parse_pattern(pattern)
        space = self._spaces.get(scope)
        if space is None:
            return 0
        _, several, exact = space.index.candidates(parsed)
        return several if exact else len(self._search(scope, parsed, None))

    def _search(self, scope: Scope, pattern: Pattern, limit: int | None) -> list[StoredTuple]:
        """The oldest matches."""
        space = self._spaces.get(scope)
        if space is None:
            return []
        candidates, several, exact = space.index.candidates(pattern)
        found: list[StoredTuple] = []
        if several > self._limits.tuples_examined_max and not exact:
            candidates = self._few(candidates)
        for each in candidates:
            if exact or pattern.fits(each.fields):
                found.append(each)
                if len(found) == limit:
                    break
        return found

    def _few(self, candidates: Iterable[StoredTuple]) -> Iterator[StoredTuple]:
        """As many as may be looked at in one call, so that one guest's search does not hold up all others."""
        examined_max = self._limits.tuples_examined_max
        for examined, each in enumerate(candidates):
            if examined >= examined_max:
                raise LimitExceeded(
                    f"no answer among the {examined_max} oldest tuples that had to be looked at one by one: give the "
                    "pattern a field that is equal to something rare, or raise tuples_examined_max",
                    limit="tuples_examined_max",
                    value=examined_max,
                )
            yield each

    # -- subscriptions and ends ---------------------------------------------------------------------------

    def subscribe(
        self, scope: Scope, owner: Hashable, pattern: str, on_match: Callable[[str], None], full: Callable[[], bool]
    ) -> str:
        """Be told of each future match, whether or not it is taken at once; the subscription's id.

        Args:
            owner: who: an incarnation of an actor.
            on_match: given the tuple; must not call back.
            full: whether no further match can be told: then such a tuple cannot be written.

        Raises:
            InvalidArgument: it is no pattern.
            LimitExceeded: `tuple_subscriptions_per_actor_max`.
        """
        parsed = parse_pattern(pattern)
        space = self._space(scope)
        theirs = space.by_owner.get(owner, ())
        subscriptions_max = self._limits.tuple_subscriptions_per_actor_max
        if sum(isinstance(watch, _Subscription) for watch in theirs) >= subscriptions_max:
            raise LimitExceeded(
                f"the actor is subscribed to {subscriptions_max} patterns, as many as it may be: end some, or raise "
                "tuple_subscriptions_per_actor_max",
                limit="tuple_subscriptions_per_actor_max",
                value=subscriptions_max,
            )
        self._last_watch += 1
        made = _Subscription(self._last_watch, owner, parsed, space, on_match, full)
        space.subscriptions.add(made)
        space.by_owner.setdefault(owner, {})[made] = None
        return made.id

    def unsubscribe(self, scope: Scope, owner: Hashable, subscription_id: str) -> bool:
        """End a subscription; False when the owner has none of this id."""
        space = self._spaces.get(scope)
        for watch in space.by_owner.get(owner, ()) if space is not None else ():
            if isinstance(watch, _Subscription) and watch.id == subscription_id:
                self._forget(watch)
                return True
        return False

    def forget(self, scope: Scope, owner: Hashable) -> None:
        """The owner has ended: it waits for nothing and is told of nothing any more."""
        space = self._spaces.get(scope)
        if space is not None:
            for watch in tuple(space.by_owner.get(owner, ())):
                self._forget(watch)

    def _forget(self, watch: _Watch) -> None:
        space = watch.space
        if isinstance(watch, _Blocked):
            space.blocked.discard(watch)
            self._agenda.discard(watch)
        elif isinstance(watch, _Subscription):
            space.subscriptions.discard(watch)
        watches = space.by_owner[watch.owner]
        del watches[watch]
        if not watches:
            del space.by_owner[watch.owner]
        self._prune(space)

    # -- the books ----------------------------------------------------------------------------------------

    def _space(self, scope: Scope) -> _Space:
        space = self._spaces.get(scope)
        if space is None:
            space = self._spaces[scope] = _Space(scope)
        return space

    def _prune(self, space: _Space) -> None:
        if space.idle:
            self._spaces.pop(space.scope, None)

    def _add(self, space: _Space, new: StoredTuple) -> None:
        space.index.add(new)
        self._quotas.tuples.add(space.scope.tenant, 1)
        self._quotas.bytes.add(space.scope.tenant, _bytes(new))
        if new.expires_ns:
            self._agenda.add(new, new.expires_ns)

    def _take(self, several: list[StoredTuple]) -> None:
        self._table.delete([each.number for each in several])
        for each in several:
            self._remove(each)

    def _remove(self, old: StoredTuple) -> None:
        space = old.space
        assert isinstance(space, _Space)
        space.index.remove(old)
        self._quotas.tuples.add(space.scope.tenant, -1)
        self._quotas.bytes.add(space.scope.tenant, -_bytes(old))
        self._agenda.discard(old)
        self._prune(space)

    # -- time ---------------------------------------------------------------------------------------------

    def ring(self) -> None:
        """The alarm."""
        self._tick()
        self._agenda.rang()

    def _tick(self) -> int:
        """Do what is due; the time, in nanoseconds on the monotonic clock."""
        now_ns = self._clock.monotonic_ns()
        for item in self._agenda.due(now_ns):
            if isinstance(item, StoredTuple):
                self._remove(item)
                self._remains.append(item.number)
            else:
                self._forget(item)
                if item.waiter.wanted():
                    item.waiter.on_result(None)
        if self._remains and now_ns >= self._retry_ns:
            self._remove_remains(now_ns)
        return now_ns

    def _remove_remains(self, now_ns: int) -> None:
        """Take what has expired out of the table.  There is no hurry: its date is in the table, too."""
        try:
            while self._remains:
                self._table.delete(self._remains[:_DELETED_AT_ONCE])
                del self._remains[:_DELETED_AT_ONCE]
            self._retry_ns = 0
        except BusyError:
            self._retry_ns = now_ns + _RETRY_NS


def _bytes(stored: StoredTuple) -> int:
    text = stored.text
    return (len(text) if text.isascii() else len(text.encode("utf-8", "replace"))) + OVERHEAD_BYTES


def _checked(limit: int) -> int:
    if limit > LIMIT_MAX:
        raise InvalidArgument(f"limit = {limit} is too much: at most {LIMIT_MAX} tuples, 0 takes {LIMIT_DEFAULT}")
    return limit or LIMIT_DEFAULT
