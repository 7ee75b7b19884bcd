"""What is to run on a node after a restart: deployments with their components, actors spawned and stopped by operators.

A record is written in the same synchronous section in which a deployment becomes what runs, and the component files it
names are on disk before that; a file goes only when no durable record names it any more.  So a crash at any instruction
leaves records whose components are all there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import orjson

from ..errors import BusyError, Conflict, InvalidComponent, Unavailable
from ..ids import Ids
from ..scope import Address, Scope
from .database import Database
from .engine import Statement

SCHEMA: Final[tuple[str, ...]] = (
    "CREATE TABLE deployments (position INTEGER PRIMARY KEY, tenant TEXT NOT NULL, namespace TEXT NOT NULL,"
    " kind TEXT NOT NULL, name TEXT NOT NULL, config TEXT NOT NULL, components TEXT NOT NULL, version INTEGER NOT NULL,"
    " versions TEXT NOT NULL, UNIQUE (tenant, namespace, kind, name))",
    "CREATE TABLE spawned (tenant TEXT NOT NULL, namespace TEXT NOT NULL, type TEXT NOT NULL, key TEXT NOT NULL,"
    " args TEXT, PRIMARY KEY (tenant, namespace, type, key)) WITHOUT ROWID",
    "CREATE TABLE stopped (tenant TEXT NOT NULL, namespace TEXT NOT NULL, type TEXT NOT NULL, key TEXT NOT NULL,"
    " PRIMARY KEY (tenant, namespace, type, key)) WITHOUT ROWID",
)

APPLICATION: Final = "application"
DEPLOYMENT: Final = "deployment"

_RETRY_S: Final = 1.0
_PIECE_BYTES: Final = 1024 * 1024

# A component as it came: its bytes, or a file that may go away later.
Source = bytes | Path


@dataclass(frozen=True, slots=True)
class Record:
    """One application, or one type deployed on its own, as it was last deployed.

    Attributes:
        kind: "application" or "deployment".
        config: as it was given: app-config.toml, or the deployment's JSON object.
        components: SHA-256 by the component's name.
        version: of the application.
        versions: of its actor types, by name.
    """

    scope: Scope
    kind: str
    name: str
    config: str
    components: Mapping[str, str]
    version: int
    versions: Mapping[str, int]

    @property
    def place(self) -> tuple[str, str, str, str]:
        """Under which it is kept: only one of these is there at a time."""
        return (self.scope.tenant, self.scope.namespace, self.kind, self.name)


class DeploymentTable(Protocol):
    """Where records are kept."""

    def records(self) -> Iterable[Record]:
        """All, in the order in which each was deployed first."""

    def spawned(self) -> Iterable[tuple[Address, str | None]]:
        """Actors that operators have spawned, with their arguments."""

    def stopped(self) -> Iterable[Address]:
        """Actors that operators have stopped."""

    def write(self, statements: list[Statement]) -> None:
        """Take one atomic unit.

        Raises:
            Unavailable, LimitExceeded: not now.
        """


class Deployments:
    """What is to run after a restart.

    Args:
        files: the components; None keeps none, for simulations.
        set_alarm: sets the alarm that is to call `ring`, in seconds.
        flushed: waits until everything written so far is on disk.
    """

    def __init__(
        self,
        table: DeploymentTable,
        files: ComponentFiles | None,
        *,
        set_alarm: Callable[[float | None], None],
        flushed: Callable[[], Awaitable[None]],
    ) -> None:
        self._table = table
        self._files = files
        self._set_alarm = set_alarm
        self._flushed = flushed
        self._records: dict[tuple[str, str, str, str], Record] = {}
        self._spawned: dict[Address, str | None] = {}
        self._stopped: set[Address] = set()
        # Changes of what runs that the database would not take at the moment, oldest first: they cannot be undone any
        # more, and are written before anything that came after them.
        self._late: deque[list[Statement]] = deque()
        # Components of deployments under way, which no record names yet.
        self._pinned: Counter[str] = Counter()
        # Files come and go one after the other: what is about to be removed may be wanted again.
        self._files_lock = asyncio.Lock()

    def load(self) -> None:
        """Read what was kept."""
        self._records = {record.place: record for record in self._table.records()}
        self._spawned = dict(self._table.spawned())
        self._stopped = set(self._table.stopped())

    # -- records ------------------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """All, in the order in which each was deployed first."""
        return list(self._records.values())

    def find(self, scope: Scope, kind: str, name: str) -> Record | None:
        """One record."""
        return self._records.get((scope.tenant, scope.namespace, kind, name))

    def put(self, record: Record) -> None:
        """This is deployed now, in place of what was under the same name.  What was spawned or stopped of types that it
        has no more is forgotten."""
        before = self._records.get(record.place)
        self._records[record.place] = record
        gone = before.versions.keys() - record.versions.keys() if before is not None else ()
        values = (
            *record.place,
            record.config,
            orjson.dumps(dict(record.components)).decode(),
            record.version,
            orjson.dumps(dict(record.versions)).decode(),
        )
        self._write(
            [
                (
                    "INSERT INTO deployments (tenant, namespace, kind, name, config, components, version, versions)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, namespace, kind, name) DO UPDATE SET"
                    " config = excluded.config, components = excluded.components, version = excluded.version,"
                    " versions = excluded.versions",
                    values,
                ),
                *self._forget(record.scope, gone),
            ]
        )

    def drop(self, scope: Scope, kind: str, name: str, types: Iterable[str] = ()) -> None:
        """This is deployed no more.

        Args:
            types: its actor types: what was spawned or stopped of them is forgotten as well.
        """
        place = (scope.tenant, scope.namespace, kind, name)
        statements: list[Statement] = []
        if self._records.pop(place, None) is not None:
            statements.append(
                ("DELETE FROM deployments WHERE tenant = ? AND namespace = ? AND kind = ? AND name = ?", place)
            )
        self._write(statements + self._forget(scope, types))

    # -- actors -------------------------------------------------------------------------------------------

    def spawned(self, scope: Scope, types: Iterable[str]) -> list[tuple[Address, str | None]]:
        """Which actors of some types operators have spawned, with their arguments, JSON text."""
        wanted = set(types)
        return [
            (address, args)
            for address, args in self._spawned.items()
            if address.scope == scope and address.type in wanted
        ]

    def put_spawned(self, address: Address, args: str | None) -> None:
        """An operator has spawned this actor."""
        self._spawned[address] = args
        self._write([("INSERT OR REPLACE INTO spawned VALUES (?, ?, ?, ?, ?)", (*_row(address), args))])

    def drop_spawned(self, address: Address) -> None:
        """It is gone; one that nobody has spawned is no error."""
        if address in self._spawned:
            del self._spawned[address]
            self._write([_delete("spawned", address)])

    def is_stopped(self, address: Address) -> bool:
        """Whether an operator wants this actor to be down."""
        return address in self._stopped

    def put_stopped(self, address: Address) -> None:
        """An operator has stopped this actor: it stays down."""
        if address not in self._stopped:
            self._stopped.add(address)
            self._write([("INSERT OR REPLACE INTO stopped VALUES (?, ?, ?, ?)", _row(address))])

    def drop_stopped(self, address: Address) -> None:
        """It runs again; one that nobody has stopped is no error."""
        if address in self._stopped:
            self._stopped.discard(address)
            self._write([_delete("stopped", address)])

    def forget_stopped(self, scope: Scope, types: Iterable[str]) -> None:
        """Everything of these types is to run."""
        for name in types:
            self.drop_stopped(Address(scope, name))

    def forget_actors(self, scope: Scope, types: Iterable[str]) -> None:
        """The tree with these types begins anew: nothing is spawned or stopped in it."""
        self._write(self._forget(scope, types))

    def _forget(self, scope: Scope, types: Iterable[str]) -> list[Statement]:
        names = set(types)
        statements: list[Statement] = []
        for address in [each for each in self._spawned if each.scope == scope and each.type in names]:
            del self._spawned[address]
            statements.append(_delete("spawned", address))
        for address in [each for each in self._stopped if each.scope == scope and each.type in names]:
            self._stopped.discard(address)
            statements.append(_delete("stopped", address))
        return statements

    # -- components ---------------------------------------------------------------------------------------

    async def keep(self, components: Mapping[str, Source]) -> Pins:
        """Bring components to the disk before a record names them.

        Args:
            components: by SHA-256.

        Returns:
            What holds them until the record is written; it is to be used as a context manager.

        Raises:
            Unavailable: the disk refuses.
        """
        pins = Pins(self._pinned, tuple(components))
        if self._files is None:
            return pins
        try:
            await self._settled()
            async with self._files_lock:
                for hash_, source in components.items():
                    await asyncio.to_thread(self._files.put, hash_, source)
        except BaseException:
            pins.release()
            raise
        return pins

    async def component(self, hash_: str) -> Path:
        """The file of a component that was kept, looked through for damage.

        Raises:
            InvalidComponent: it is missing or damaged; the message says what to do.
            Unavailable: it cannot be read.
        """
        if self._files is None:
            raise InvalidComponent("this node keeps no components")
        return await asyncio.to_thread(self._files.check, hash_)

    async def settle(self) -> None:
        """Wait until what runs is recorded on disk, and remove components that nobody needs any more.

        Raises:
            Unavailable: the disk refuses; it is recorded as soon as it does not.
        """
        await self._settled()
        await self.tidy()

    async def tidy(self) -> None:
        """Remove components that no record names.  Call it only when the records are on disk."""
        if self._files is not None:
            async with self._files_lock:
                wanted = {hash_ for record in self._records.values() for hash_ in record.components.values()}
                await asyncio.to_thread(self._files.sweep, wanted | set(self._pinned))

    # -- inside -------------------------------------------------------------------------------------------

    def ring(self) -> None:
        """The alarm: what could not be written is tried again."""
        self._write([])

    def _write(self, statements: list[Statement]) -> None:
        if statements:
            self._late.append(statements)
        while self._late:
            try:
                self._table.write(self._late[0])
            except BusyError:
                self._set_alarm(_RETRY_S)
                return
            self._late.popleft()

    async def _settled(self) -> None:
        self._write([])
        if self._late:
            raise Unavailable(
                "what runs could not be recorded: the disk refuses at the moment; it is tried again",
                retry_after_ms=int(_RETRY_S * 1000),
            )
        await self._flushed()


class Pins:
    """Components that are needed although no record names them yet."""

    __slots__ = ("_hashes", "_pinned")

    def __init__(self, pinned: Counter[str], hashes: tuple[str, ...]) -> None:
        self._pinned = pinned
        self._hashes = hashes
        pinned.update(hashes)

    def __enter__(self) -> Pins:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Not needed any more for this."""
        hashes, self._hashes = self._hashes, ()
        self._pinned.subtract(hashes)
        for hash_ in hashes:
            if self._pinned[hash_] <= 0:
                del self._pinned[hash_]


class ComponentFiles:
    """Components in a folder, each called by its SHA-256.  Its methods wait for the disk: not for the loop."""

    def __init__(self, folder: Path, ids: Ids) -> None:
        self._folder = folder
        self._ids = ids

    def put(self, hash_: str, source: Source) -> None:
        """Keep a component; when this returns, it survives a crash.  One that is there already is looked through, and
        replaced if it is damaged.

        Raises:
            Unavailable: the disk refuses.
            Conflict: the source is not what its name says, because somebody has changed it meanwhile.
        """
        target = self._path(hash_)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if target.exists() and _hash(target) == hash_:
                return
            temporary = self._folder / f"{self._ids.next('component')}.tmp"
            try:
                if _copy(source, temporary) != hash_:
                    raise Conflict("the component was changed while it was being deployed: deploy it again")
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            for folder in (self._folder, self._folder.parent):
                _sync_folder(folder)
        except OSError as error:
            raise Unavailable(
                f"the component cannot be kept in {self._folder}: {error.strerror or error}: make room, or check who "
                "owns the folder",
                retry_after_ms=5_000,
            ) from None

    def check(self, hash_: str) -> Path:
        """A component's file, if it is what it was.

        Raises:
            InvalidComponent: it is not, or it is not there.
            Unavailable: it cannot be read.
        """
        path = self._path(hash_)
        try:
            found = _hash(path)
        except FileNotFoundError:
            raise InvalidComponent(
                f"the component {hash_[:12]} is not in {self._folder} any more: deploy it again, or put the file back "
                "and restart it",
                hash=hash_,
            ) from None
        except OSError as error:
            raise Unavailable(f"the component {path} cannot be read: {error.strerror or error}") from None
        if found != hash_:
            raise InvalidComponent(
                f"the component {path} is damaged: its SHA-256 is {found[:12]}..., not what its name says; deploy it "
                "again, or put an intact file there and restart it",
                hash=hash_,
            )
        return path

    def sweep(self, wanted: set[str]) -> None:
        """Remove every component but these, and what a crash has left half done."""
        # What cannot be removed does no harm, and is tried again the next time.
        with contextlib.suppress(OSError):
            for path in list(self._folder.iterdir()):
                if path.suffix == ".tmp" or (path.suffix == ".wasm" and path.stem not in wanted):
                    with contextlib.suppress(OSError):
                        path.unlink()

    def _path(self, hash_: str) -> Path:
        return self._folder / f"{hash_}.wasm"


class SqliteDeployments:
    """On the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def records(self) -> Iterator[Record]:
        """See `DeploymentTable`."""
        for tenant, namespace, kind, name, config, components, version, versions in self._database.read(
            "SELECT tenant, namespace, kind, name, config, components, version, versions FROM deployments"
            " ORDER BY position"
        ):
            yield Record(
                Scope(tenant, namespace), kind, name, config, orjson.loads(components), version, orjson.loads(versions)
            )

    def spawned(self) -> Iterator[tuple[Address, str | None]]:
        """See `DeploymentTable`."""
        for tenant, namespace, type_, key, args in self._database.read("SELECT * FROM spawned"):
            yield Address(Scope(tenant, namespace), type_, key), args

    def stopped(self) -> Iterator[Address]:
        """See `DeploymentTable`."""
        for tenant, namespace, type_, key in self._database.read("SELECT * FROM stopped"):
            yield Address(Scope(tenant, namespace), type_, key)

    def write(self, statements: list[Statement]) -> None:
        """See `DeploymentTable`."""
        self._database.stream.write(statements)


class MemoryDeployments:
    """In memory: for simulations."""

    def records(self) -> Iterable[Record]:
        """See `DeploymentTable`."""
        return ()

    def spawned(self) -> Iterable[tuple[Address, str | None]]:
        """See `DeploymentTable`."""
        return ()

    def stopped(self) -> Iterable[Address]:
        """See `DeploymentTable`."""
        return ()

    def write(self, statements: list[Statement]) -> None:
        """See `DeploymentTable`."""


def _row(address: Address) -> tuple[str, str, str, str]:
    return (address.scope.tenant, address.scope.namespace, address.type, address.key)


def _delete(table: str, address: Address) -> Statement:
    return (f"DELETE FROM {table} WHERE tenant = ? AND namespace = ? AND type = ? AND key = ?", _row(address))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: Source, target: Path) -> str:
    """Write a file that is on disk when this returns; the SHA-256 of what was written."""
    digest = hashlib.sha256()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        for piece in _pieces(source):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(descriptor)
    return digest.hexdigest()


def _pieces(source: Source) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
