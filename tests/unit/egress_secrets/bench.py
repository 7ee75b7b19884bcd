"""A vault on SQLite in memory, with a clock in the hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from plexspaces_runtime.config import Limits
from plexspaces_runtime.egress.keys import KEY_BYTES, Keys, MasterKey
from plexspaces_runtime.egress.vault import Vault
from plexspaces_runtime.errors import PlexSpacesError
from plexspaces_runtime.events import Event, EventBus
from plexspaces_runtime.ids import SeededIds
from plexspaces_runtime.scope import Address, Scope
from plexspaces_runtime.stores import secrets
from plexspaces_runtime.stores.database import MemoryDatabase
from plexspaces_runtime.stores.engine import Statement

SCOPE = Scope("acme", "default")
AGENT = Address(SCOPE, "agent")
MASTER = MasterKey(bytes(range(KEY_BYTES)))


class HandClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.ns = 1_700_000_000_000_000_000

    def now_ns(self) -> int:
        return self.ns

    def monotonic_ns(self) -> int:
        return self.ns


class HandDatabase(MemoryDatabase):
    """Takes writes, or refuses them; and its disk follows, or does not."""

    def __init__(self) -> None:
        super().__init__(secrets.SCHEMA)
        self.refuses: PlexSpacesError | None = None
        self.disk_refuses: PlexSpacesError | None = None

    def write(self, statements: Sequence[Statement], *, always: bool = False) -> int:
        if self.refuses is not None:
            raise self.refuses
        return super().write(statements, always=always)

    async def flushed(self) -> None:
        if self.disk_refuses is not None:
            raise self.disk_refuses


@dataclass
class Bench:
    """What outlives a vault."""

    limits: Limits = field(default_factory=Limits)
    keys: Keys = field(default_factory=lambda: Keys(MASTER))
    database: HandDatabase = field(default_factory=HandDatabase)
    clock: HandClock = field(default_factory=HandClock)
    ids: SeededIds = field(default_factory=SeededIds)
    seen: list[Event] = field(default_factory=list)
    events: EventBus = field(default_factory=EventBus)

    def __post_init__(self) -> None:
        self.events.subscribe(self.seen.append)

    def table(self) -> secrets.SqliteSecrets:
        database: Any = self.database
        return secrets.SqliteSecrets(database)

    def vault(self, keys: Keys | None = None) -> Vault:
        """A vault that begins with what there is."""
        vault = Vault(
            self.table(),
            keys or self.keys,
            clock=self.clock,
            ids=self.ids,
            events=self.events,
            limits=self.limits,
            flushed=self.database.flushed,
        )
        vault.load()
        return vault

    def pass_s(self, seconds: float) -> None:
        self.clock.ns += round(seconds * 1e9)

    def stored(self) -> bytes:
        """Everything that is kept."""
        tables = ("vault_keys", "secrets", "credentials")
        return b"\n".join(repr(self.database.read(f"SELECT * FROM {table}")).encode() for table in tables)
