"""What streams, schedules, blobs and channels may be kept in, each as an asynchronous context of a `Backend`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.config import Limits
from plexspaces_runtime.events import EventBus
from plexspaces_runtime.stores import blobs, channels, engine, promises, replies, schedules, streams, workflows
from plexspaces_runtime.stores.database import Database, Schema
from plexspaces_runtime.stores.quotas import Quotas

SCHEMA = Schema(
    1,
    [
        *engine.SCHEMA,
        *streams.SCHEMA,
        *schedules.SCHEMA,
        *blobs.SCHEMA,
        *channels.SCHEMA,
        *replies.SCHEMA,
        *workflows.SCHEMA,
        *promises.SCHEMA,
    ],
)


@dataclass
class Backend:
    """What a store is made on; `database` is None for the ones in memory."""

    folder: Path
    database: Database | None = None

    async def flush(self) -> None:
        """Let everything come to disk, and everybody hear of it."""
        if self.database is not None:
            await self.database.stream.flushed()

    def quotas(self, limits: Limits) -> Quotas:
        """Fresh ones: a store counts what it finds."""
        return Quotas(limits)


@asynccontextmanager
async def memory(folder: Path) -> AsyncIterator[Backend]:
    yield Backend(folder)


@asynccontextmanager
async def sqlite(folder: Path, **options: Any) -> AsyncIterator[Backend]:
    database = Database(folder, SCHEMA, loop=asyncio.get_running_loop(), events=EventBus(), limits=Limits(), **options)
    await database.start()
    try:
        yield Backend(folder, database)
    finally:
        await database.stop()


def backends() -> list[Any]:
    """One parameter for each."""
    return [pytest.param(memory, id="memory"), pytest.param(sqlite, id="sqlite")]
