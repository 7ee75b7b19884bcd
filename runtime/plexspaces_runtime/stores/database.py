"""A node's database file: who may open it, what version it has, and the connections that read and write it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import aiosqlite

from ..config import Limits
from ..errors import Unavailable
from ..events import EventBus
from .engine import Connection, Statement, WriteStream, explain

FILE: Final = "plexspaces.db"
# How long the writer waits for another process, a backup for instance, before it reports that it has to.
_BUSY_MS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Schema:
    """What is in the file.

    Attributes:
        version: of the file, kept in `PRAGMA user_version`.
        create: makes a new file of that version.
        migrations: by version: what makes the next one of it.
    """

    version: int
    create: Sequence[str]
    migrations: Mapping[int, Sequence[str]] = field(default_factory=dict)


def connect(path: Path) -> Connection:
    """The writer's connection: nothing is committed before it is on the platter."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = OFF")
    return connection


class Database:
    """One node's file.

    Args:
        folder: the data directory.
        open_writer: opens the writer's connection; a test may hand in one that fails.
    """

    def __init__(
        self,
        folder: Path,
        schema: Schema,
        *,
        loop: asyncio.AbstractEventLoop,
        events: EventBus,
        limits: Limits,
        open_writer: Callable[[Path], Connection] = connect,
    ) -> None:
        self.path = folder / FILE
        self._schema = schema
        self._loop = loop
        self._events = events
        self._limits = limits
        self._open_writer = open_writer
        self._lock: IO[bytes] | None = None
        self._reader: sqlite3.Connection
        self.stream: WriteStream

    async def start(self) -> None:
        """Open the file, or make it, and start the writer.

        Raises:
            Unavailable: another node has the data directory, the file is of a newer version, damaged or out of reach;
                the message says what to do.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
            await self._prepare()
            self._reader = sqlite3.connect(f"file:{_quoted(self.path)}?mode=ro", uri=True, isolation_level=None)
            self._reader.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            ((written,),) = self.read("SELECT number FROM written")
        except sqlite3.Error as error:
            self._unlock()
            raise Unavailable(f"{self.path}: {explain(error)}") from None
        except OSError as error:
            self._unlock()
            raise Unavailable(f"{self.path}: cannot be used: {error.strerror or error}") from None
        except Unavailable:
            self._unlock()
            raise
        self.stream = WriteStream(
            partial(self._open_writer, self.path),
            loop=self._loop,
            events=self._events,
            pending_max=self._limits.pending_writes_max,
            pending_bytes_max=self._limits.pending_write_bytes_max,
            written=written,
        )
        self.stream.start()

    async def stop(self) -> None:
        """Bring everything to the disk and close."""
        await self.stream.stop()
        self._reader.close()
        self._unlock()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What is on disk now; never waits for a commit.  For points and short ranges: it runs on the loop."""
        return self._reader.execute(sql, parameters).fetchall()

    async def scan(self, sql: str, parameters: Sequence[Any] = ()) -> AsyncIterator[tuple[Any, ...]]:
        """The same for long ranges, on a connection and a thread of its own."""
        async with (
            aiosqlite.connect(f"file:{_quoted(self.path)}?mode=ro", uri=True) as connection,
            connection.execute(sql, parameters) as cursor,
        ):
            async for row in cursor:
                yield tuple(row)

    # -- inside -------------------------------------------------------------------------------------------

    def _locked(self) -> IO[bytes]:
        lock = (self.path.parent / f"{FILE}.lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise Unavailable(
                f"another node uses the data directory {self.path.parent}: stop it, or give this one another "
                "(--data-dir)"
            ) from None
        return lock

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _prepare(self) -> None:
        """Make the file, or bring it to our version, all of it or nothing."""
        new = not self.path.exists()
        async with aiosqlite.connect(self.path, isolation_level=None) as connection:
            if new:
                os.chmod(self.path, 0o600)
            await connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            await connection.execute("PRAGMA journal_mode = WAL")
            await connection.execute("PRAGMA synchronous = FULL")
            await connection.execute("BEGIN IMMEDIATE")
            async with connection.execute("PRAGMA user_version") as cursor:
                ((version,),) = await cursor.fetchall()
            for statement in self._steps(version):
                await connection.execute(statement)
            await connection.execute(f"PRAGMA user_version = {self._schema.version}")
            await connection.execute("COMMIT")

    def _steps(self, version: int) -> list[str]:
        schema = self._schema
        if version > schema.version:
            raise Unavailable(
                f"{self.path} was written by a newer version (format {version}, this one knows {schema.version}): "
                "run that version, or another data directory"
            )
        if version == 0:
            return list(schema.create)
        missing = [step for step in range(version, schema.version) if step not in schema.migrations]
        if missing:
            raise Unavailable(
                f"{self.path} is of format {version}, which this version cannot bring to {schema.version}: "
                "open it with a version in between first"
            )
        return [statement for step in range(version, schema.version) for statement in schema.migrations[step]]


class MemoryDatabase:
    """The same for what ends with the process: there is no disk to wait for.

    Args:
        create: makes the tables.
    """

    def __init__(self, create: Sequence[str]) -> None:
        self.stream = self
        self.enqueued = 0
        self.refusing = ""
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        for statement in create:
            self._connection.execute(statement)

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """See `Database.read`."""
        return self._connection.execute(sql, parameters).fetchall()

    def write(self, statements: Sequence[Statement], *, always: bool = False) -> int:
        """See `WriteStream.write`."""
        for sql, parameters in statements:
            self._connection.execute(sql, parameters)
        self.enqueued += 1
        return self.enqueued

    def when_durable(self, _number: int, callback: Callable[[Exception | None], None]) -> None:
        """See `WriteStream.when_durable`."""
        callback(None)


def _quoted(path: Path) -> str:
    """A path for SQLite's URI."""
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
