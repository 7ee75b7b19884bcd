"""What durable actors leave on disk: journals, checkpoints, messages accepted, replies given, timers, dead letters.

Rows only: what they mean is the business of `durability/`.  Everything is written through the node's one stream of
writes, so that what is on disk after a crash is what had happened up to some moment, for all actors alike; writes made
in one turn of the loop reach the disk together or not at all.

Nothing here is read while its writes are on their way, except by those who wrote it: an actor is recovered after
everything written so far is on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from ..scope import Address, Scope

if TYPE_CHECKING:
    from .engine import Statement

SCHEMA: Final[tuple[str, ...]] = (
    """CREATE TABLE durable (
        id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, namespace TEXT NOT NULL, actor TEXT NOT NULL,
        component TEXT NOT NULL, checkpoint INTEGER NOT NULL, state TEXT, head INTEGER NOT NULL, hash BLOB NOT NULL,
        base INTEGER NOT NULL, base_hash BLOB NOT NULL, open_from INTEGER NOT NULL,
        flying INTEGER NOT NULL, UNIQUE (tenant, namespace, actor))""",
    """CREATE TABLE journal (
        durable INTEGER NOT NULL, number INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, hash BLOB NOT NULL,
        PRIMARY KEY (durable, number)) WITHOUT ROWID""",
    """CREATE TABLE inbox (
        durable INTEGER NOT NULL, number INTEGER NOT NULL, message TEXT NOT NULL, attempts INTEGER NOT NULL,
        PRIMARY KEY (durable, number)) WITHOUT ROWID""",
    """CREATE TABLE durable_replies (
        durable INTEGER NOT NULL, message_id TEXT NOT NULL, outcome TEXT, at_ms INTEGER NOT NULL,
        PRIMARY KEY (durable, message_id)) WITHOUT ROWID""",
    """CREATE TABLE durable_timers (
        durable INTEGER NOT NULL, id TEXT NOT NULL, timer TEXT NOT NULL,
        PRIMARY KEY (durable, id)) WITHOUT ROWID""",
    """CREATE TABLE dead_messages (
        id INTEGER PRIMARY KEY, durable INTEGER NOT NULL, message TEXT NOT NULL, reason TEXT NOT NULL,
        attempts INTEGER NOT NULL, at_ms INTEGER NOT NULL)""",
    "CREATE INDEX dead_messages_of ON dead_messages (durable, id)",
    # What a recovery by an operator could not read: entries of a journal, and states.
    """CREATE TABLE journal_aside (
        id INTEGER PRIMARY KEY, durable INTEGER NOT NULL, at_ms INTEGER NOT NULL, number INTEGER NOT NULL,
        kind TEXT NOT NULL, body TEXT NOT NULL, hash BLOB NOT NULL)""",
)

_NO_HASH: Final = b""

# A column holds a value of any type, if somebody puts it there: of whatever was written, the chain of hashes judges.
ENTRY_COLUMNS: Final = "CAST(number AS INTEGER), CAST(kind AS TEXT), CAST(body AS TEXT), CAST(hash AS BLOB)"
_ROW: Final = (
    "id, CAST(component AS TEXT), CAST(checkpoint AS INTEGER), CAST(state AS TEXT), CAST(head AS INTEGER), "
    "CAST(hash AS BLOB), CAST(base AS INTEGER), CAST(base_hash AS BLOB), CAST(open_from AS INTEGER), "
    "CAST(flying AS INTEGER)"
)


class Stream(Protocol):
    """What is needed of the stream of writes; see `engine.WriteStream`."""

    enqueued: int

    @property
    def refusing(self) -> str:
        """Why the disk refuses at the moment, "" if it does not."""

    def write(self, statements: list[Statement], *, always: bool = ...) -> int:
        """Take one unit."""

    def when_durable(self, number: int, callback: Callable[[Exception | None], None]) -> None:
        """Call back once it is on disk."""


class Base(Protocol):
    """What is needed of the database."""

    stream: Any

    def read(self, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        """What is on disk now."""


@dataclass(slots=True)
class Row:
    """One durable actor.

    Attributes:
        component: hash of the component that wrote the checkpoint.
        checkpoint: number of the journal's entry that `state` is of; 0 for none.
        head, hash: of the last entry whose message was finished.
        base, base_hash: of the last entry that was compacted away.
        open_from: where to begin to read for what messages did that were begun before the checkpoint; 0 if there are
            none.
        flying: a message was in flight when the checkpoint was written.
    """

    id: int
    component: str
    checkpoint: int
    state: str | None
    head: int
    hash: bytes
    base: int
    base_hash: bytes
    open_from: int
    flying: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a journal; `hash` covers it and the one before."""

    number: int
    kind: str
    body: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that was accepted and is not yet done with."""

    number: int
    message: dict[str, Any]
    attempts: int


@dataclass(frozen=True, slots=True)
class DeadMessage:
    """A message that was given up."""

    id: int
    address: Address
    message: dict[str, Any]
    reason: str
    attempts: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Summary:
    """One durable actor, as a list of them shows it.

    Attributes:
        component: hash of the component that wrote the last checkpoint.
        first, last: numbers of the entries that are kept; 0 where there are none.
        checkpoint: number of the last checkpoint's entry; 0 for none.
        state_bytes: of the state it has.
        waiting: messages that are accepted and not done with.
        timers: that are to come.
        dead: messages that were given up.
        aside: entries that a recovery could not read.
    """

    address: Address
    component: str
    first: int
    last: int
    checkpoint: int
    state_bytes: int
    waiting: int
    timers: int
    dead: int
    aside: int


class JournalTable:
    """The rows of all durable actors of a node.

    Args:
        database: see `database.Database`.
    """

    def __init__(self, database: Base) -> None:
        self._database = database
        self._stream: Stream = database.stream
        ((last,),) = database.read("SELECT max(id) FROM durable")
        self._last_id: int = last or 0
        ((last,),) = database.read("SELECT max(id) FROM dead_messages")
        self._last_dead: int = last or 0

    def last_accepted(self) -> int:
        """The highest number in any inbox."""
        ((last,),) = self._database.read("SELECT max(CAST(number AS INTEGER)) FROM inbox")
        # Below zero are those that an operator has put before all others.
        return max(last or 0, 0)

    @property
    def refusing(self) -> str:
        """Why nothing can be stored at the moment, "" if it can."""
        return self._stream.refusing

    def settled(self, callback: Callable[[Exception | None], None]) -> None:
        """Call back once everything written so far is on disk."""
        self._stream.when_durable(self._stream.enqueued, callback)

    # -- actors -------------------------------------------------------------------------------------------

    def find(self, address: Address) -> Row | None:
        """One actor's row."""
        rows = self._database.read(
            f"SELECT {_ROW} FROM durable "
            "WHERE tenant = ? AND namespace = ? AND actor = ?",
            (address.scope.tenant, address.scope.namespace, address.text),
        )
        return Row(*rows[0]) if rows else None

    def create(self, address: Address) -> Row:
        """A new actor's row."""
        self._last_id += 1
        row = Row(self._last_id, "", 0, None, 0, _NO_HASH, 0, _NO_HASH, 0, 0)
        self._write(
            "INSERT INTO durable VALUES (?, ?, ?, ?, '', 0, NULL, 0, ?, 0, ?, 0, 0)",
            row.id, address.scope.tenant, address.scope.namespace, address.text, _NO_HASH, _NO_HASH,
        )  # fmt: skip
        return row

    def unfinished(self) -> list[Address]:
        """Actors with something to do: a message in flight or accepted, or a timer."""
        rows = self._database.read(
            "SELECT tenant, namespace, actor FROM durable WHERE flying "
            "OR EXISTS (SELECT 1 FROM inbox WHERE inbox.durable = durable.id) "
            "OR EXISTS (SELECT 1 FROM durable_timers WHERE durable_timers.durable = durable.id) "
            "OR EXISTS (SELECT 1 FROM journal WHERE journal.durable = durable.id AND journal.number > durable.head)"
        )
        return [Address.parse(Scope(tenant, namespace), actor) for tenant, namespace, actor in rows]

    def addresses(self, tenant: str) -> list[Address]:
        """All of a tenant's durable actors."""
        rows = self._database.read(
            "SELECT namespace, actor FROM durable WHERE tenant = ? ORDER BY namespace, actor", (tenant,)
        )
        return [Address.parse(Scope(tenant, namespace), actor) for namespace, actor in rows]

    # -- entries ------------------------------------------------------------------------------------------

    def entries(self, durable: int, after: int, limit: int = -1) -> list[Entry]:
        """Entries after a number, in order."""
        rows = self._database.read(
            f"SELECT {ENTRY_COLUMNS} FROM journal WHERE durable = ? AND number > ? ORDER BY number LIMIT ?",
            (durable, after, limit),
        )
        return [Entry(*row) for row in rows]

    def append(self, durable: int, number: int, kind: str, body: str, hash_: bytes) -> None:
        """Write an entry of a message that is under way."""
        self._write("INSERT INTO journal VALUES (?, ?, ?, ?, ?)", durable, number, kind, body, hash_)

    def finish(
        self, durable: int, number: int, kind: str, body: str, hash_: bytes, *, accepted: int
    ) -> None:
        """Write the entry that ends a message; `accepted` is what it was in the inbox, 0 if it was not there."""
        statements: list[Statement] = [
            ("INSERT INTO journal VALUES (?, ?, ?, ?, ?)", (durable, number, kind, body, hash_)),
            ("UPDATE durable SET head = ?, hash = ?, flying = 0 WHERE id = ?", (number, hash_, durable)),
        ]
        if accepted:
            statements.append(("DELETE FROM inbox WHERE durable = ? AND number = ?", (durable, accepted)))
        self._stream.write(statements, always=True)

    def checkpoint(self, row: Row, body: str, *, cut: tuple[int, bytes] | None) -> None:
        """Write `row`, whose checkpoint it has a new one for, and the entry of it; forget what is up to `cut`."""
        statements: list[Statement] = [
            ("INSERT INTO journal VALUES (?, ?, 'checkpoint', ?, ?)", (row.id, row.head, body, row.hash)),
        ]
        if cut is not None:
            row.base, row.base_hash = cut
            statements.append(("DELETE FROM journal WHERE durable = ? AND number <= ?", (row.id, row.base)))
        statements.append(
            (
                "UPDATE durable SET component = ?, checkpoint = ?, state = ?, head = ?, hash = ?, base = ?, "
                "base_hash = ?, open_from = ?, flying = ? WHERE id = ?",
                (
                    row.component, row.checkpoint, row.state, row.head, row.hash, row.base, row.base_hash,
                    row.open_from, row.flying, row.id,
                ),
            )
        )  # fmt: skip
        self._stream.write(statements, always=True)

    # -- the inbox ----------------------------------------------------------------------------------------

    def inbox(self, durable: int) -> list[Accepted]:
        """Accepted messages, in the order they came."""
        rows = self._database.read(
            "SELECT number, message, attempts FROM inbox WHERE durable = ? ORDER BY number", (durable,)
        )
        return [Accepted(number, orjson.loads(message), attempts) for number, message, attempts in rows]

    def accept(self, durable: int, number: int, message: str) -> None:
        """Keep a message until it is done with."""
        self._write("INSERT INTO inbox VALUES (?, ?, ?, 0)", durable, number, message)

    def attempted(self, durable: int, number: int, attempts: int) -> None:
        """It was tried so often."""
        self._write("UPDATE inbox SET attempts = ? WHERE durable = ? AND number = ?", attempts, durable, number)

    def forget_accepted(self, durable: int, number: int) -> None:
        """It is void."""
        self._write("DELETE FROM inbox WHERE durable = ? AND number = ?", durable, number)

    # -- replies ------------------------------------------------------------------------------------------

    def reply(self, durable: int, message_id: str) -> tuple[str | None] | None:
        """What a message was answered with: (None,) when it has yet to be, None when it is not known."""
        rows = self._database.read(
            "SELECT outcome FROM durable_replies WHERE durable = ? AND message_id = ?", (durable, message_id)
        )
        return rows[0] if rows else None

    def put_reply(self, durable: int, message_id: str, outcome: str | None, at_ms: int) -> int:
        """Keep an answer for whoever repeats the message; the number of the write."""
        return self._stream.write(
            [("INSERT OR REPLACE INTO durable_replies VALUES (?, ?, ?, ?)", (durable, message_id, outcome, at_ms))],
            always=True,
        )

    def forget_replies(self, durable: int, before_ms: int) -> None:
        """Those given before a time."""
        self._write(
            "DELETE FROM durable_replies WHERE durable = ? AND at_ms < ? AND outcome IS NOT NULL", durable, before_ms
        )

    # -- timers -------------------------------------------------------------------------------------------

    def timers(self, durable: int) -> list[dict[str, Any]]:
        """Timers that are to come."""
        rows = self._database.read("SELECT timer FROM durable_timers WHERE durable = ? ORDER BY id", (durable,))
        return [orjson.loads(timer) for (timer,) in rows]

    def put_timer(self, durable: int, timer_id: str, timer: str) -> None:
        """Keep a timer."""
        self._write("INSERT OR REPLACE INTO durable_timers VALUES (?, ?, ?)", durable, timer_id, timer)

    def forget_timer(self, durable: int, timer_id: str) -> None:
        """It is over."""
        self._write("DELETE FROM durable_timers WHERE durable = ? AND id = ?", durable, timer_id)

    # -- dead letters -------------------------------------------------------------------------------------

    def bury(self, durable: int, message: str, reason: str, attempts: int, at_ms: int) -> int:
        """Keep a message that was given up; the number it has from now on."""
        self._last_dead += 1
        self._write(
            "INSERT INTO dead_messages VALUES (?, ?, ?, ?, ?, ?)",
            self._last_dead, durable, message, reason, attempts, at_ms,
        )  # fmt: skip
        return self._last_dead

    def dead(
        self,
        tenant: str,
        namespace: str | None = None,
        *,
        source: str | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> list[DeadMessage]:
        """A tenant's dead messages, or those of one namespace or actor, in the order they died."""
        rows = self._database.read(
            "SELECT dead_messages.id, namespace, actor, message, reason, attempts, at_ms FROM dead_messages "
            "JOIN durable ON durable.id = dead_messages.durable "
            "WHERE tenant = ? AND (? IS NULL OR namespace = ?) AND (? IS NULL OR actor = ?) AND dead_messages.id > ? "
            "ORDER BY dead_messages.id LIMIT ?",
            (tenant, namespace, namespace, source, source, after, limit),
        )
        return [
            DeadMessage(
                dead_id, Address.parse(Scope(tenant, space), actor), orjson.loads(message), reason, attempts, at_ms
            )
            for dead_id, space, actor, message, reason, attempts, at_ms in rows
        ]

    def find_dead(self, scope: Scope, dead_id: int) -> DeadMessage | None:
        """One of them, if it is of this scope."""
        found = self.dead(scope.tenant, scope.namespace, after=dead_id - 1, limit=1)
        return found[0] if found and found[0].id == dead_id else None

    def forget_dead(self, dead_id: int) -> None:
        """It was taken up again, or dropped."""
        self._write("DELETE FROM dead_messages WHERE id = ?", dead_id)

    # -- for operators ------------------------------------------------------------------------------------

    def summaries(
        self, tenant: str, namespace: str | None = None, *, after: str = "", limit: int = 100
    ) -> list[Summary]:
        """A tenant's durable actors, ordered by `namespace/actor`, behind the one that is called `after` so."""
        rows = self._database.read(
            """SELECT namespace, actor, component,
                (SELECT coalesce(min(number), 0) FROM journal WHERE journal.durable = durable.id),
                (SELECT coalesce(max(number), 0) FROM journal WHERE journal.durable = durable.id),
                checkpoint, coalesce(length(CAST(state AS BLOB)), 0),
                (SELECT count(*) FROM inbox WHERE inbox.durable = durable.id),
                (SELECT count(*) FROM durable_timers WHERE durable_timers.durable = durable.id),
                (SELECT count(*) FROM dead_messages WHERE dead_messages.durable = durable.id),
                (SELECT count(*) FROM journal_aside WHERE journal_aside.durable = durable.id)
            FROM durable WHERE tenant = ? AND (? IS NULL OR namespace = ?) AND namespace || '/' || actor > ?
            ORDER BY namespace || '/' || actor LIMIT ?""",
            (tenant, namespace, namespace, after, limit),
        )
        return [Summary(Address.parse(Scope(tenant, space), actor), *rest) for space, actor, *rest in rows]

    def tenants(self) -> list[str]:
        """Those with durable actors."""
        return [tenant for (tenant,) in self._database.read("SELECT DISTINCT tenant FROM durable ORDER BY tenant")]

    def orphans(self) -> list[tuple[int, int]]:
        """Journals of nobody, and how many entries each has: an actor's row was removed."""
        rows = self._database.read(
            "SELECT durable, count(*) FROM journal WHERE durable NOT IN (SELECT id FROM durable) GROUP BY durable"
        )
        return [(durable, count) for durable, count in rows]

    def forget_reply(self, durable: int, message_id: str) -> None:
        """Whoever repeats this message means another."""
        self._write("DELETE FROM durable_replies WHERE durable = ? AND message_id = ?", durable, message_id)

    def set_aside(self, durable: int, entries: list[Entry], at_ms: int) -> None:
        """Take entries out of a journal, and keep them where nobody reads them."""
        self._stream.write(
            [
                statement
                for each in entries
                for statement in (
                    (
                        "INSERT INTO journal_aside (durable, at_ms, number, kind, body, hash) "
                        "VALUES (?, ?, ?, ?, ?, ?)",
                        (durable, at_ms, each.number, each.kind, each.body, each.hash),
                    ),
                    ("DELETE FROM journal WHERE durable = ? AND number = ?", (durable, each.number)),
                )
            ],
            always=True,
        )

    def aside(self, durable: int) -> list[Entry]:
        """What was set aside."""
        rows = self._database.read(
            f"SELECT {ENTRY_COLUMNS} FROM journal_aside WHERE durable = ? ORDER BY id", (durable,)
        )
        return [Entry(*row) for row in rows]

    def _write(self, sql: str, *parameters: Any) -> None:
        # What is recorded here has happened already: it is not to be refused.
        self._stream.write([(sql, parameters)], always=True)
