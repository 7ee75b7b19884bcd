"""What is stored behind the edge, in memory or on a database, with alarms on the running loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plexspaces_runtime.clock import Clock, SystemClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.events import Event, EventBus
from plexspaces_runtime.ids import SystemIds
from plexspaces_runtime.stores.blobs import Blobs, FileBodies, MemoryBlobs, MemoryBodies, SqliteBlobs
from plexspaces_runtime.stores.channels import Channels, MemoryChannels, SqliteChannels
from plexspaces_runtime.stores.database import Database
from plexspaces_runtime.stores.promises import MemoryPromises, Promises, SqlitePromises
from plexspaces_runtime.stores.quotas import Quotas
from plexspaces_runtime.stores.replies import MemoryReplies, ReplyTable, SqliteReplies
from plexspaces_runtime.stores.schedules import MemorySchedules, Schedules, SqliteSchedules
from plexspaces_runtime.stores.streams import MemoryEvents, SqliteEvents, Streams
from plexspaces_runtime.stores.workflows import MemoryWorkflows, SqliteWorkflows, Workflows
from tests.contract.stores.backends import sqlite


class Alarm:
    """Rings on the running loop; a later time replaces an earlier one."""

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None
        self.ring: Callable[[], None]

    def __call__(self, delay_s: float | None) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None if delay_s is None else asyncio.get_running_loop().call_later(delay_s, lambda: self.ring())


@dataclass
class KeptStores:
    """`StorePort`."""

    streams: Streams
    schedules: Schedules
    blobs: Blobs
    channels: Channels
    replies: ReplyTable
    workflows: Workflows
    promises: Promises
    alarms: tuple[Alarm, ...]
    seen: list[Event]
    database: Database | None = None

    async def flushed(self) -> None:
        if self.database is not None:
            await self.database.stream.flushed()

    def close(self) -> None:
        for alarm in self.alarms:
            alarm(None)


def make_stores(
    limits: Limits, *, database: Database | None = None, folder: Path | None = None, clock: Clock | None = None
) -> KeptStores:
    """On a database and a folder, or without both in memory."""
    clock, ids, bus, quotas = clock or SystemClock(), SystemIds(), EventBus(), Quotas(limits)
    seen: list[Event] = []
    bus.subscribe(seen.append)
    alarms = Alarm(), Alarm(), Alarm()
    streams = Streams(
        SqliteEvents(database) if database is not None else MemoryEvents(),
        quotas=quotas,
        clock=clock,
        events=bus,
        limits=limits,
        set_alarm=alarms[0],
    )
    schedules = Schedules(
        SqliteSchedules(database) if database is not None else MemorySchedules(),
        streams,
        clock=clock,
        ids=ids,
        events=bus,
        limits=limits,
        set_alarm=alarms[1],
    )
    alarms[0].ring, alarms[1].ring = streams.ring, schedules.ring
    blobs = Blobs(
        SqliteBlobs(database) if database is not None else MemoryBlobs(),
        FileBodies(folder / "blobs", ids) if folder is not None else MemoryBodies(),
        quotas=quotas,
        clock=clock,
        limits=limits,
        remove=lambda work: work(),
    )
    channels = Channels(
        SqliteChannels(database) if database is not None else MemoryChannels(),
        quotas=quotas,
        clock=clock,
        events=bus,
        limits=limits,
        set_alarm=alarms[2],
    )
    alarms[2].ring = channels.ring
    streams.load()
    schedules.load()
    blobs.load()
    channels.load()
    replies = SqliteReplies(database) if database is not None else MemoryReplies()
    workflows = Workflows(
        SqliteWorkflows(database) if database is not None else MemoryWorkflows(),
        clock=clock,
        limits=limits,
        quotas=quotas,
    )
    promises = Promises(
        SqlitePromises(database) if database is not None else MemoryPromises(),
        clock=clock,
        ids=ids,
        limits=limits,
        quotas=quotas,
    )
    workflows.load()
    promises.load()
    return KeptStores(streams, schedules, blobs, channels, replies, workflows, promises, alarms, seen, database)


@asynccontextmanager
async def durable_stores(folder: Path, clock: Clock | None = None, **options: Any) -> AsyncIterator[KeptStores]:
    """On a real database in a folder; `options` are limits, and the database's `open_writer`."""
    of_database = {name: options.pop(name) for name in ("open_writer",) if name in options}
    async with sqlite(folder, **of_database) as backend:
        stores = make_stores(Limits(**options), database=backend.database, folder=folder, clock=clock)
        try:
            yield stores
        finally:
            stores.close()
