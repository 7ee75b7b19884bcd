"""The one ordered stream of all writes of a node, and the thread that brings it to the disk.

The node's memory is ahead of its disk, and nothing leaves the node before the disk has caught up (output commit): a
write returns at once with its number, and whoever sends something out waits until every write before it is durable.
The writer takes whatever has gathered while it was busy and commits it together, so that the price of a sync is shared
by all who write at that time (group commit), without a timer and without making a single writer wait.

The number of the last unit is stored with it, in the same transaction: after an error whose outcome is unknown (a
COMMIT that failed may still have been done), the writer looks at what is there and does nothing twice.

Invariants: units reach the disk whole and in the order of their numbers; `durable` never exceeds what a crash leaves; a
unit that was taken stays in line until it is on disk, however long the disk refuses.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, Protocol

from ..errors import InternalError, LimitExceeded, Unavailable
from ..events import EventBus, StorageFailed, StorageFault, StorageRecovered

Statement = tuple[str, Sequence[object]]

SCHEMA: Final[tuple[str, ...]] = (
    "CREATE TABLE written (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL)",
    "INSERT INTO written VALUES (1, 0)",
)

_RETRY_S: Final = 0.05
_RETRY_S_MAX: Final = 5.0
# What a unit costs beside its texts.
_UNIT_BYTES: Final = 200
# A unit of our own making that the database would never take: not the disk's fault, and not to be tried for ever.
_OURS: Final = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)


class Connection(Protocol):
    """What the writer needs of a connection; tests have one whose steps fail."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Any: ...

    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Unit:
    number: int
    statements: Sequence[Statement]
    size_bytes: int


class WriteStream:
    """Belongs to one event loop; only `_run` is on another thread.

    Args:
        connect: opens the writer's connection; called on the writer's thread, again after every failure.
        pending_max: units that may wait for the disk.
        pending_bytes_max: and their bytes.
        written: the number of the last unit on disk.

    Attributes:
        enqueued: the number of the last unit taken.
        durable: everything up to this number is on disk.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        loop: asyncio.AbstractEventLoop,
        events: EventBus,
        pending_max: int,
        pending_bytes_max: int,
        written: int = 0,
    ) -> None:
        self._connect = connect
        self._loop = loop
        self._events = events
        self._pending_max = pending_max
        self._pending_bytes_max = pending_bytes_max
        self.enqueued = written
        self.durable = written
        self._pending: deque[_Unit] = deque()
        self._pending_bytes = 0
        # By number; the count keeps those of one number in the order of asking.
        self._waiters: list[tuple[int, int, Callable[[Exception | None], None]]] = []
        self._tickets = count()
        self._refusing: str = ""
        # Units of this round of the loop.  Handed over together at its end: a writer that began with the first would
        # contend for the interpreter with those who are still writing, and commit the rest one round later.
        self._round: list[_Unit] = []
        # To the writer; None ends it.
        self._queue: queue.SimpleQueue[list[_Unit] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="plexspaces-writer", daemon=True)

    # -- on the loop --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the writer."""
        self._thread.start()

    @property
    def refusing(self) -> str:
        """Why nothing can be stored at the moment, "" if it can."""
        return self._refusing

    def write(self, statements: Sequence[Statement], *, always: bool = False) -> int:
        """Take one atomic unit; its number.  It is on disk when `durable` has reached that.

        Units that are written in one turn of the loop, by one callback, reach the disk in one transaction.

        Args:
            always: it tells of what has happened already, and is not to be refused.

        Raises:
            Unavailable: the disk refuses at the moment; the message says why and what to do.
            LimitExceeded: too much waits for the disk.
        """
        if self._refusing and not always:
            raise Unavailable(self._refusing, retry_after_ms=1_000)
        size = _UNIT_BYTES
        for _, parameters in statements:
            for value in parameters:
                size += len(value) if isinstance(value, str | bytes) else 8
        full = len(self._pending) >= self._pending_max or self._pending_bytes + size > self._pending_bytes_max
        if full and not always:
            raise LimitExceeded(
                f"{len(self._pending)} writes ({self._pending_bytes} bytes) wait for the disk, as many as may: "
                "try again later, or raise pending_writes_max or pending_write_bytes_max",
                limit="pending_writes_max",
                value=self._pending_max,
            )
        self.enqueued += 1
        unit = _Unit(self.enqueued, statements, size)
        self._pending.append(unit)
        self._pending_bytes += size
        if not self._round:
            self._loop.call_soon(self._hand_over)
        self._round.append(unit)
        return unit.number

    def when_durable(self, number: int, callback: Callable[[Exception | None], None]) -> None:
        """Call back with None once everything up to `number` is on disk, at once if it is.

        While the disk refuses, it is called with `Unavailable`: the write may still come through later.
        """
        if number <= self.durable:
            callback(None)
        elif self._refusing:
            callback(Unavailable(self._refusing, retry_after_ms=1_000))
        elif not self._waiters or self._waiters[-1][0] <= number:
            self._waiters.append((number, next(self._tickets), callback))
        else:
            insort(self._waiters, (number, next(self._tickets), callback))

    async def flushed(self) -> None:
        """Wait until everything taken so far is on disk.

        Raises:
            Unavailable: the disk refuses.
        """
        if self.enqueued == self.durable:
            return
        done: asyncio.Future[Exception | None] = self._loop.create_future()
        self.when_durable(self.enqueued, lambda error: None if done.done() else done.set_result(error))
        error = await done
        if error is not None:
            raise error

    async def stop(self) -> None:
        """Bring what is left to the disk, if it takes it, and end the writer."""
        self._hand_over()
        self._stopping.set()
        self._queue.put(None)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _hand_over(self) -> None:
        if self._round:
            self._queue.put(self._round)
            self._round = []

    def _committed(self, number: int) -> None:
        self.durable = number
        while self._pending and self._pending[0].number <= number:
            self._pending_bytes -= self._pending.popleft().size_bytes
        if self._refusing:
            self._refusing = ""
            self._events.emit(StorageRecovered())
        self._call(number, None)

    def _failed(self, reason: str) -> None:
        if not self._refusing:
            self._events.emit(StorageFailed(reason))
        self._refusing = reason
        self._call(self.enqueued, Unavailable(reason, retry_after_ms=1_000))

    def _skipped(self, number: int, message: str) -> None:
        """A unit was none that the database could ever take; who waits for it must not believe otherwise."""
        self._events.emit(StorageFault(message))
        due = [waiter for waiter in self._waiters if waiter[0] == number]
        self._waiters = [waiter for waiter in self._waiters if waiter[0] != number]
        for _, _, callback in due:
            callback(InternalError(f"a write could not be stored: {message}"))

    def _call(self, number: int, outcome: Exception | None) -> None:
        due = 0
        while due < len(self._waiters) and self._waiters[due][0] <= number:
            due += 1
        called, self._waiters = self._waiters[:due], self._waiters[due:]
        for _, _, callback in called:
            callback(outcome)

    # -- on the writer's thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        connection: Connection | None = None
        while units := self._take():
            last = units[-1].number
            delay_s = _RETRY_S
            while True:
                try:
                    if connection is None:
                        connection = self._connect()
                        units = _unwritten(connection, units)
                    if units:
                        self._commit(connection, units)
                    break
                except sqlite3.Error as error:
                    _close(connection)
                    connection = None
                    self._tell(self._failed, explain(error))
                    # What the disk refuses while the node ends is lost, and was acknowledged to nobody.
                    if self._stopping.wait(delay_s):
                        return
                    delay_s = min(_RETRY_S_MAX, delay_s * 2)
            self._tell(self._committed, last)
        _close(connection)

    def _take(self) -> list[_Unit]:
        """What there is, at least one; nothing when that is all there will ever be."""
        units: list[_Unit] = []
        while True:
            try:
                more = self._queue.get(block=not units)
            except queue.Empty:
                return units
            if more is None:
                # For the next time.
                self._queue.put(None)
                return units
            units += more

    def _commit(self, connection: Connection, units: list[_Unit]) -> None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            for unit in units:
                for sql, parameters in unit.statements:
                    connection.execute(sql, parameters)
        except _OURS:
            connection.execute("ROLLBACK")
            self._execute_good(connection, units)
        connection.execute("UPDATE written SET number = ?", (units[-1].number,))
        connection.execute("COMMIT")

    def _execute_good(self, connection: Connection, units: list[_Unit]) -> None:
        """One of the units is a bug of ours: only the others are executed."""
        connection.execute("BEGIN IMMEDIATE")
        for unit in units:
            connection.execute("SAVEPOINT unit")
            try:
                for sql, parameters in unit.statements:
                    connection.execute(sql, parameters)
            except _OURS as fault:
                connection.execute("ROLLBACK TO unit")
                self._tell(self._skipped, unit.number, f"{type(fault).__name__}: {fault}")
            connection.execute("RELEASE unit")

    def _tell(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            # The loop is closed: there is nobody left to tell.
            return


def _unwritten(connection: Connection, units: list[_Unit]) -> list[_Unit]:
    ((written,),) = connection.execute("SELECT number FROM written").fetchall()
    return [unit for unit in units if unit.number > written]


def explain(error: sqlite3.Error) -> str:
    """What a person can do about an error of the database."""
    text = str(error)
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            what = "the disk is full: make room, and the node goes on by itself"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            what = "the database cannot be written: check the data directory's permissions and mount"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            what = "another process holds the database: end it, and the node goes on by itself"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            what = "the database is damaged: stop the node and restore the data directory from a backup"
        case sqlite3.SQLITE_CANTOPEN:
            what = "the database cannot be opened: check that the data directory is there and belongs to this user"
        case sqlite3.SQLITE_IOERR:
            what = "the disk reports an error: check it"
        case _:
            what = "the database refuses"
    return f"nothing can be stored: {what} ({text})"


def _close(connection: Connection | None) -> None:
    if connection is not None:
        try:
            connection.close()
        except sqlite3.Error:
            # It is given up anyway.
            return
