"""What tuples and channels may be kept in, opened for tests that are not coroutines, such as Hypothesis's machines."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.config import Limits
from plexspaces_runtime.events import EventBus
from plexspaces_runtime.stores import channels, engine, tuplespace
from plexspaces_runtime.stores.database import Database, Schema

SCHEMA = Schema(1, [*engine.SCHEMA, *tuplespace.SCHEMA, *channels.SCHEMA])
KINDS = ("memory", "sqlite")


def each_kind() -> Any:
    """A decorator: the test gets every kind of shelf as `shelf`."""
    return pytest.mark.parametrize("shelf", KINDS, indirect=True)


class Shelf:
    """Tables in memory, or in a database of their own."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._runner: asyncio.Runner | None = None
        if kind == "memory":
            self.tuples: tuplespace.TupleTable = tuplespace.MemoryTuples()
            self.channels: channels.ChannelTable = channels.MemoryChannels()
            return
        self._runner = asyncio.Runner()
        self._folder = tempfile.TemporaryDirectory()
        self.database = self._runner.run(self._open())
        self.tuples = tuplespace.SqliteTuples(self.database)
        self.channels = channels.SqliteChannels(self.database)

    async def _open(self) -> Database:
        database = Database(
            Path(self._folder.name), SCHEMA, loop=asyncio.get_running_loop(), events=EventBus(), limits=Limits()
        )
        await database.start()
        return database

    def flush(self) -> None:
        """Let everything come to disk, and everybody hear of it."""
        if self._runner is not None:
            self._runner.run(self.database.stream.flushed())

    def reopen(self) -> None:
        """Close what holds the data, and open it again."""
        if self._runner is None:
            return
        self._runner.run(self.database.stop())
        self.database = self._runner.run(self._open())
        self.tuples = tuplespace.SqliteTuples(self.database)
        self.channels = channels.SqliteChannels(self.database)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What the database holds."""
        return self.database.read(sql, parameters)

    def close(self) -> None:
        """Give everything back."""
        if self._runner is not None:
            self._runner.run(self.database.stop())
            self._runner.close()
            self._folder.cleanup()
