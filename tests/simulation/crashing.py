"""A database that can die at any moment and leaves what was committed, as a real one does without power."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

from plexspaces_runtime.stores.database import Database, Schema
from plexspaces_runtime.stores.engine import Statement


class CrashingStream:
    """See `engine.WriteStream`: what is written in one turn of the loop is committed together, some time later."""

    def __init__(self, connection: sqlite3.Connection, loop: asyncio.AbstractEventLoop, chance: random.Random) -> None:
        self._connection = connection
        self._loop = loop
        self._chance = chance
        self.enqueued = 0
        self.durable = 0
        self.refusing = ""
        self.dead = False
        self._round: list[Sequence[Statement]] = []
        self._waiters: list[tuple[int, Callable[[Exception | None], None]]] = []
        self._rounds: list[list[Sequence[Statement]]] = []
        self._busy = False

    def write(self, statements: Sequence[Statement], *, always: bool = False) -> int:
        assert not self.dead, "a dead node writes"
        self.enqueued += 1
        if not self._round:
            self._loop.call_soon(self._hand_over)
        self._round.append(statements)
        return self.enqueued

    def when_durable(self, number: int, callback: Callable[[Exception | None], None]) -> None:
        if number <= self.durable:
            callback(None)
        else:
            self._waiters.append((number, callback))

    async def flushed(self) -> None:
        if self.enqueued == self.durable:
            return
        done: asyncio.Future[None] = self._loop.create_future()
        self.when_durable(self.enqueued, lambda _error: None if done.done() else done.set_result(None))
        await done

    def _hand_over(self) -> None:
        self._rounds.append(self._round)
        self._round = []
        if not self._busy:
            self._busy = True
            self._loop.call_later(self._chance.choice((0.0, 0.0005, 0.002, 0.02)), self._commit)

    def _commit(self) -> None:
        """The disk takes what has gathered."""
        self._busy = False
        if self.dead:
            return
        rounds, self._rounds = self._rounds, []
        self._connection.execute("BEGIN")
        for round_ in rounds:
            for statements in round_:
                self.durable += 1
                for sql, parameters in statements:
                    self._connection.execute(sql, parameters)
        self._connection.execute("COMMIT")
        due = [callback for number, callback in self._waiters if number <= self.durable]
        self._waiters = [waiter for waiter in self._waiters if waiter[0] > self.durable]
        for callback in due:
            callback(None)


class CrashingDatabase:
    """Stands in for `stores.database.Database`.

    Args:
        image: what an earlier one left.
    """

    def __init__(
        self, schema: Schema, loop: asyncio.AbstractEventLoop, chance: random.Random, image: bytes | None
    ) -> None:
        self.path = Path("nowhere")
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        if image is None:
            for statement in schema.create:
                self._connection.execute(statement)
        else:
            self._connection.deserialize(image)
        self.stream = CrashingStream(self._connection, loop, chance)

    async def start(self) -> None: ...

    async def stop(self) -> None:
        await self.stream.flushed()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, parameters).fetchall()

    async def scan(self, sql: str, parameters: Sequence[Any] = ()) -> AsyncIterator[tuple[Any, ...]]:
        for row in self.read(sql, parameters):
            yield row

    def pull_the_plug(self) -> bytes:
        """The node dies now: what is on disk."""
        self.stream.dead = True
        return bytes(self._connection.serialize())


def crashing(
    schema: Schema, loop: asyncio.AbstractEventLoop, chance: random.Random, image: bytes | None
) -> tuple[CrashingDatabase, Database]:
    """Such a database, and the same for whoever expects the real one."""
    made = CrashingDatabase(schema, loop, chance, image)
    return made, cast(Database, made)
