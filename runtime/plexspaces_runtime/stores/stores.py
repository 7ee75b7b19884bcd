"""All stores of a node: made, loaded and closed together, on one database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from ..clock import Clock
from ..config import Limits
from ..events import EventBus
from ..ids import Ids
from . import (
    blobs,
    channels,
    deployments,
    engine,
    journal,
    keyvalue,
    locks,
    promises,
    replies,
    schedules,
    secrets,
    streams,
    tuplespace,
    workflows,
)
from .blobs import Blobs, BlobTable, Bodies, FileBodies, MemoryBlobs, MemoryBodies, SqliteBlobs
from .channels import Channels, MemoryChannels, SqliteChannels
from .database import Database, MemoryDatabase, Schema
from .deployments import ComponentFiles, Deployments, MemoryDeployments, SqliteDeployments
from .journal import JournalTable
from .keyvalue import KeyValue, MemoryKeys, SqliteKeys
from .locks import Locks, MemoryLocks, SqliteLocks
from .promises import MemoryPromises, Promises, SqlitePromises
from .quotas import Quotas
from .replies import MemoryReplies, ReplyTable, SqliteReplies
from .schedules import MemorySchedules, Schedules, SqliteSchedules
from .secrets import MemorySecrets, SecretTable, SqliteSecrets
from .streams import MemoryEvents, SqliteEvents, Streams
from .tuplespace import MemoryTuples, SqliteTuples, TupleSpace
from .workflows import MemoryWorkflows, SqliteWorkflows, Workflows

SCHEMA: Final = Schema(
    2,
    (
        *engine.SCHEMA,
        *keyvalue.SCHEMA,
        *locks.SCHEMA,
        *tuplespace.SCHEMA,
        *channels.SCHEMA,
        *streams.SCHEMA,
        *schedules.SCHEMA,
        *blobs.SCHEMA,
        *journal.SCHEMA,
        *deployments.SCHEMA,
        *replies.SCHEMA,
        *workflows.SCHEMA,
        *promises.SCHEMA,
        *secrets.SCHEMA,
    ),
    {1: secrets.SCHEMA},
)

# Makes what sets an alarm: called with a number of seconds, or None for not at all; a later call replaces an earlier.
Alarms = Callable[[str, Callable[[], None]], Callable[[float | None], None]]


async def _at_once() -> None:
    """There is no disk to wait for."""


class Stores:
    """The stores of one node.

    Args:
        folder: the data directory; None keeps everything in memory, for simulations.
        alarms: by name and what is to be rung, what sets the alarm.
        database: in place of the folder's own; a simulation has one that can crash.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        clock: Clock,
        ids: Ids,
        events: EventBus,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        alarms: Alarms,
        database: Database | None = None,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._ids = ids
        self._events = events
        self._limits = limits
        self._loop = loop
        self._alarms = alarms
        self._given = database
        self._database: Database | None = None
        self.keyvalue: KeyValue
        self.locks: Locks
        self.tuplespace: TupleSpace
        self.channels: Channels
        self.streams: Streams
        self.schedules: Schedules
        self.blobs: Blobs
        self.journal: JournalTable
        self.deployments: Deployments
        self.replies: ReplyTable
        self.workflows: Workflows
        self.promises: Promises
        self.secrets: SecretTable

    async def start(self) -> None:
        """Open the database and read what must be in memory.

        Raises:
            Unavailable: the data directory cannot be used; the message says why and what to do.
        """
        database = self._database = self._given
        if database is None and self._folder is not None:
            database = self._database = Database(
                self._folder, SCHEMA, loop=self._loop, events=self._events, limits=self._limits
            )
        tables: tuple[Any, ...]
        blob_table: BlobTable
        bodies: Bodies
        if database is None:
            tables = (MemoryKeys(), MemoryLocks(), MemoryTuples(), MemoryChannels(), MemoryEvents(), MemorySchedules())
            blob_table = MemoryBlobs()
            self.journal = JournalTable(MemoryDatabase(journal.SCHEMA))
        else:
            await database.start()
            tables = tuple(
                kind(database)
                for kind in (SqliteKeys, SqliteLocks, SqliteTuples, SqliteChannels, SqliteEvents, SqliteSchedules)
            )
            blob_table = SqliteBlobs(database)
            self.journal = JournalTable(database)
        bodies = MemoryBodies() if self._folder is None else FileBodies(self._folder / "blobs", self._ids)
        self._make(tables, blob_table, bodies)
        await self.deployments.tidy()

    def _make(self, tables: tuple[Any, ...], blob_table: Any, bodies: Any) -> None:
        clock, events, limits, alarms = self._clock, self._events, self._limits, self._alarms
        quotas = Quotas(limits)
        keys, leases, tuples, queues, appended, scheduled = tables
        self.keyvalue = KeyValue(
            keys, clock=clock, limits=limits, quotas=quotas, set_alarm=alarms("keyvalue", lambda: self.keyvalue.ring())
        )
        self.locks = Locks(
            leases, clock=clock, ids=self._ids, quotas=quotas, set_alarm=alarms("locks", lambda: self.locks.ring())
        )
        self.tuplespace = TupleSpace(
            tuples,
            clock=clock,
            limits=limits,
            quotas=quotas,
            set_alarm=alarms("tuplespace", lambda: self.tuplespace.ring()),
        )
        self.channels = Channels(
            queues,
            clock=clock,
            events=events,
            limits=limits,
            quotas=quotas,
            set_alarm=alarms("channels", lambda: self.channels.ring()),
        )
        self.streams = Streams(
            appended,
            clock=clock,
            events=events,
            limits=limits,
            quotas=quotas,
            set_alarm=alarms("streams", lambda: self.streams.ring()),
        )
        self.schedules = Schedules(
            scheduled,
            self.streams,
            clock=clock,
            ids=self._ids,
            events=events,
            limits=limits,
            set_alarm=alarms("schedules", lambda: self.schedules.ring()),
        )
        self.blobs = Blobs(
            blob_table,
            bodies,
            clock=clock,
            limits=limits,
            quotas=quotas,
            remove=lambda remove: self._loop.run_in_executor(None, remove),
        )
        for store in (self.keyvalue, self.locks, self.tuplespace, self.channels, self.streams, self.schedules):
            store.load()
        self.blobs.load()
        self._make_workflows(quotas)
        self._make_deployments()

    def _make_workflows(self, quotas: Quotas) -> None:
        database, clock, limits = self._database, self._clock, self._limits
        self.workflows = Workflows(
            MemoryWorkflows() if database is None else SqliteWorkflows(database),
            clock=clock,
            limits=limits,
            quotas=quotas,
        )
        self.promises = Promises(
            MemoryPromises() if database is None else SqlitePromises(database),
            clock=clock,
            ids=self._ids,
            limits=limits,
            quotas=quotas,
        )
        self.workflows.load()
        self.promises.load()

    def _make_deployments(self) -> None:
        database, folder = self._database, self._folder
        self.replies = MemoryReplies() if database is None else SqliteReplies(database)
        self.secrets = MemorySecrets() if database is None else SqliteSecrets(database)
        self.deployments = Deployments(
            MemoryDeployments() if database is None else SqliteDeployments(database),
            None if folder is None else ComponentFiles(folder / "components", self._ids),
            set_alarm=self._alarms("deployments", lambda: self.deployments.ring()),
            flushed=self.flushed,
        )
        self.deployments.load()

    @property
    def settled(self) -> bool:
        """Whether everything that was written is on disk."""
        return self._database is None or self._database.stream.enqueued == self._database.stream.durable

    def flushed(self) -> Awaitable[None]:
        """Wait until everything written so far is on disk: before something leaves the node that may depend on it.

        Raises:
            Unavailable: the disk refuses.
        """
        return _at_once() if self._database is None else self._database.stream.flushed()

    async def stop(self) -> None:
        """Bring everything to the disk and close."""
        if self._database is not None:
            await self._database.stop()
