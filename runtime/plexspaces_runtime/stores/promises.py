"""Promises: values that somebody will give later, and whoever waits for them until then.

A promise is resolved once, by anybody of its namespace who knows its id.  It is kept after that, because a run that is
replayed, or another one, may still ask; those of a workflow go with its run, the others when they are old.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from ..clock import Clock
from ..config import Limits
from ..errors import Conflict, InvalidArgument, NotFound
from ..ids import Ids
from ..scope import Address, Scope
from .quotas import Quota, Quotas

if TYPE_CHECKING:
    from .database import Database

LIST_MAX: Final = 1_000
NAME_BYTES_MAX: Final = 256
OVERHEAD_BYTES: Final = 200
_NS_PER_MS: Final = 1_000_000

SCHEMA: Final[tuple[str, ...]] = (
    """CREATE TABLE promises (
        tenant TEXT NOT NULL, namespace TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL, owner TEXT NOT NULL,
        created_ms INTEGER NOT NULL, value TEXT, resolved_ms INTEGER NOT NULL,
        PRIMARY KEY (tenant, namespace, id)) WITHOUT ROWID""",
)


@dataclass(frozen=True, slots=True)
class Promise:
    """A promise.

    Attributes:
        name: for people.
        owner: the actor that made it.
        value: JSON text; None until it is resolved.
        created_ms, resolved_ms: wall clock; 0 until it is resolved.
    """

    scope: Scope
    id: str
    name: str
    owner: str
    created_ms: int
    value: str | None = None
    resolved_ms: int = 0


class PromiseTable(Protocol):
    """Where promises are kept."""

    def rows(self) -> Iterable[Promise]:
        """Every promise there is, at the start."""

    def put(self, promise: Promise) -> None:
        """Store one.

        Raises:
            Unavailable, LimitExceeded: it was not accepted.
        """

    def remove(self, promise: Promise) -> None:
        """Forget one."""


class Promises:
    """All promises of a node."""

    def __init__(self, table: PromiseTable, *, clock: Clock, ids: Ids, limits: Limits, quotas: Quotas) -> None:
        self._table = table
        self._clock = clock
        self._ids = ids
        self._limits = limits
        self._quotas = quotas
        self._count = Quota("promises_per_tenant_max", limits.promises_per_tenant_max, "promises")
        # In the order they were made.
        self._promises: OrderedDict[tuple[Scope, str], Promise] = OrderedDict()
        self._of_owner: dict[Address, set[str]] = {}
        self._waiting: dict[tuple[Scope, str], dict[Callable[[str], None], None]] = {}

    def load(self) -> None:
        """Read what there is.  Once, before anything else."""
        for promise in sorted(self._table.rows(), key=lambda each: each.created_ms):
            self._add(promise)

    def create(self, owner: Address, name: str = "") -> Promise:
        """Make a promise in the owner's namespace.

        Raises:
            InvalidArgument, LimitExceeded, Unavailable
        """
        if len(name.encode("utf-8", "surrogatepass")) > NAME_BYTES_MAX:
            raise InvalidArgument(f"a promise's name has at most {NAME_BYTES_MAX} bytes")
        self._forget_old()
        tenant = owner.scope.tenant
        self._count.check(tenant)
        promise = Promise(owner.scope, self._ids.next("promise"), name, owner.text, self._now_ms())
        self._quotas.bytes.check(tenant, _size(promise))
        self._table.put(promise)
        self._add(promise)
        return promise

    def get(self, scope: Scope, id_: str) -> Promise:
        """One promise.

        Raises:
            NotFound
        """
        promise = self._promises.get((scope, id_))
        if promise is None:
            raise NotFound(f"there is no promise {id_[:80]!r} in namespace {scope.namespace!r}", promise=id_[:80])
        return promise

    def page(self, scope: Scope, *, resolved: bool | None = None, after: str = "", limit: int = 100) -> list[Promise]:
        """Promises of a namespace, by id.

        Args:
            resolved: only those that are, or are not.
            after: only those behind this id.
        """
        found = sorted(
            (
                promise
                for (of, id_), promise in self._promises.items()
                if of == scope and id_ > after and resolved in (None, promise.value is not None)
            ),
            key=lambda each: each.id,
        )
        return found[:limit]

    def resolve(self, scope: Scope, id_: str, value: str) -> Promise:
        """Give a promise its value; giving it the same again changes nothing.

        Args:
            value: JSON text.

        Raises:
            NotFound
            Conflict: it has another value.
            InvalidArgument: the value is not JSON.
            LimitExceeded, Unavailable
        """
        promise = self.get(scope, id_)
        if promise.value is not None:
            if not _same(promise.value, value):
                raise Conflict(f"promise {id_!r} is resolved already, with another value", promise=id_)
            return promise
        try:
            orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise InvalidArgument(f"the value is not JSON: {error}") from None
        self._quotas.bytes.check(scope.tenant, len(value))
        resolved = replace(promise, value=value, resolved_ms=self._now_ms())
        self._table.put(resolved)
        self._promises[scope, id_] = resolved
        self._quotas.bytes.add(scope.tenant, _size(resolved) - _size(promise))
        for answer in list(self._waiting.pop((scope, id_), ())):
            answer(value)
        return resolved

    def wait(self, scope: Scope, id_: str, answer: Callable[[str], None]) -> Callable[[], None]:
        """Hear the value of a promise that has none, once; what ends the waiting."""
        key = (scope, id_)
        self._waiting.setdefault(key, {})[answer] = None

        def give_up() -> None:
            waiting = self._waiting.get(key)
            if waiting is not None:
                waiting.pop(answer, None)
                if not waiting:
                    del self._waiting[key]

        return give_up

    def forget_of(self, owner: Address) -> None:
        """Forget the promises that an actor has made, but for those that others wait for."""
        for id_ in list(self._of_owner.get(owner, ())):
            if (owner.scope, id_) not in self._waiting:
                self._remove(self._promises[owner.scope, id_])

    # -- inside -------------------------------------------------------------------------------------------

    def _add(self, promise: Promise) -> None:
        self._promises[promise.scope, promise.id] = promise
        self._of_owner.setdefault(_owner(promise), set()).add(promise.id)
        self._count.add(promise.scope.tenant)
        self._quotas.bytes.add(promise.scope.tenant, _size(promise))

    def _remove(self, promise: Promise) -> None:
        self._table.remove(promise)
        del self._promises[promise.scope, promise.id]
        owner = _owner(promise)
        theirs = self._of_owner[owner]
        theirs.discard(promise.id)
        if not theirs:
            del self._of_owner[owner]
        self._count.add(promise.scope.tenant, -1)
        self._quotas.bytes.add(promise.scope.tenant, -_size(promise))

    def _forget_old(self) -> None:
        oldest_ms = self._now_ms() - int(self._limits.promise_age_s_max * 1_000)
        while self._promises:
            promise = next(iter(self._promises.values()))
            if promise.created_ms >= oldest_ms:
                return
            self._remove(promise)

    def _now_ms(self) -> int:
        return self._clock.now_ns() // _NS_PER_MS


class SqlitePromises:
    """On the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rows(self) -> Iterable[Promise]:
        """See `PromiseTable`."""
        for tenant, namespace, *rest in self._database.read("SELECT * FROM promises"):
            yield Promise(Scope(tenant, namespace), *rest)

    def put(self, promise: Promise) -> None:
        """See `PromiseTable`."""
        scope = promise.scope
        values = (
            scope.tenant, scope.namespace, promise.id, promise.name, promise.owner, promise.created_ms, promise.value,
            promise.resolved_ms,
        )  # fmt: skip
        self._database.stream.write([("INSERT OR REPLACE INTO promises VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)])

    def remove(self, promise: Promise) -> None:
        """See `PromiseTable`."""
        key = (promise.scope.tenant, promise.scope.namespace, promise.id)
        self._database.stream.write(
            [("DELETE FROM promises WHERE tenant = ? AND namespace = ? AND id = ?", key)]
        )


class MemoryPromises:
    """In memory: for simulations."""

    def rows(self) -> Iterable[Promise]:
        """See `PromiseTable`."""
        return ()

    def put(self, promise: Promise) -> None:
        """See `PromiseTable`."""

    def remove(self, promise: Promise) -> None:
        """See `PromiseTable`."""


def _owner(promise: Promise) -> Address:
    return Address.parse(promise.scope, promise.owner)


def _same(one: str, other: str) -> bool:
    # Not orjson: to that, large whole numbers that are near one another are the same.
    try:
        return bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False


def _size(promise: Promise) -> int:
    return OVERHEAD_BYTES + len(promise.id) + len(promise.name) + len(promise.value or "")
