"""Blobs: large bytes by name, as files beside the database, never half visible.

A blob is a file that nobody has named but the node, and a row that says whose name leads to it.  The file is written
under a temporary name, forced to disk and renamed; only then is the row written, so a row never leads to half a file.
The file of a row that was replaced or deleted goes when that is on disk; what a crash leaves over is swept at the next
start.  No name of a caller's ever becomes part of a path: files are called by random numbers.

What is known of blobs, their rows, is always in memory.
"""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from ..clock import Clock
from ..config import Limits
from ..errors import AlreadyExists, InternalError, InvalidArgument, LimitExceeded, PayloadTooLarge, Unavailable
from ..ids import Ids
from ..scope import Scope

if TYPE_CHECKING:
    from .database import Database
    from .quotas import Quotas

NAME_BYTES_MAX: Final = 512
LIST_DEFAULT: Final = 100
LIST_MAX: Final = 1_000
DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"
ROW_OVERHEAD_BYTES: Final = 256

_NAME: Final = re.compile(r"[^\x00-\x1f/\x7f]{1,256}(?:/[^\x00-\x1f/\x7f]{1,256})*")
# What may stand in a header: RFC 9110, 8.3, without comments and line breaks.
_CONTENT_TYPE: Final = re.compile(r"[\w!#$&^.+-]{1,63}/[\w!#$&^.+-]{1,63}(?:; ?[\x20-\x7e]{1,120})?", re.ASCII)
_NS_PER_MS: Final = 1_000_000

SCHEMA: Final[tuple[str, ...]] = (
    """CREATE TABLE blobs (
        tenant TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, file TEXT NOT NULL,
        size_bytes INTEGER NOT NULL, content_type TEXT NOT NULL, sha256 TEXT NOT NULL, modified_ms INTEGER NOT NULL,
        PRIMARY KEY (tenant, namespace, name)) WITHOUT ROWID""",
)


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What is known of a blob.

    Attributes:
        sha256: of its bytes, lower-case hexadecimal.
        modified_ms: when it was put, Unix milliseconds.
    """

    name: str
    size_bytes: int
    content_type: str
    sha256: str
    modified_ms: int


# -- where the bytes are -----------------------------------------------------------------------------------


class Writer(Protocol):
    """A body that is being written; from one thread at a time, and not the loop's."""

    def write(self, data: bytes) -> None:
        """Add to it."""

    def seal(self) -> str:
        """Make it last; the name by which `Bodies` finds it."""

    def discard(self) -> None:
        """Forget it, sealed or not."""


class Reader(Protocol):
    """A body that is being read.  It stays readable when its blob is replaced or deleted."""

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes; from any one thread at a time."""

    def close(self) -> None:
        """Let go of it."""


class Bodies(Protocol):
    """Where the bytes of blobs are."""

    def create(self) -> Writer:
        """A new body."""

    def open(self, file: str) -> Reader:
        """Raises OSError: it is not there."""

    def remove(self, file: str) -> None:
        """Drop a body, if it is there."""

    def sweep(self, known: Set[str]) -> int:
        """Drop whatever is not known; how many."""


class FileBodies:
    """Files of a directory that nobody else writes to.

    Args:
        directory: made when it is missing; only for the node's user.
        ids: for the files' names.
    """

    def __init__(self, directory: Path, ids: Ids) -> None:
        self._directory = directory
        self._unfinished = directory / "unfinished"
        self._ids = ids
        self._unfinished.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self) -> Writer:
        return _FileWriter(self._unfinished, self._directory, self._ids.random_bytes(16).hex())

    def open(self, file: str) -> Reader:
        return _FileReader(_place(self._directory, file))

    def remove(self, file: str) -> None:
        _place(self._directory, file).unlink(missing_ok=True)

    def sweep(self, known: Set[str]) -> int:
        removed = 0
        for folder in self._directory.iterdir():
            for path in folder.iterdir() if folder.is_dir() else ():
                if folder == self._unfinished or path.name not in known:
                    path.unlink()
                    removed += 1
        return removed


def _place(directory: Path, file: str) -> Path:
    # Folders of a hundred thousand files are slow to list, and some tools cannot.
    return directory / file[:2] / file


class _FileWriter:
    __slots__ = ("_directory", "_file", "_name", "_path")

    def __init__(self, unfinished: Path, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._path = unfinished / name
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def seal(self) -> str:
        os.fsync(self._file)
        self._close()
        place = _place(self._directory, self._name)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        os.rename(self._path, place)
        self._path = place
        # The rename, and the folder it went to, are entries of directories: those have to be on disk as well.
        for folder in (place.parent, self._directory):
            directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        return self._name

    def discard(self) -> None:
        self._close()
        self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class _FileReader:
    __slots__ = ("_file",)

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._file, length, offset)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class MemoryBodies:
    """In memory, for simulations."""

    def __init__(self) -> None:
        self._bodies: dict[str, bytes] = {}
        self._count = 0

    def create(self) -> Writer:
        return _MemoryWriter(self)

    def open(self, file: str) -> Reader:
        if file not in self._bodies:
            raise FileNotFoundError(file)
        return _MemoryReader(self._bodies[file])

    def remove(self, file: str) -> None:
        self._bodies.pop(file, None)

    def sweep(self, known: Set[str]) -> int:
        unknown = self._bodies.keys() - known
        for file in unknown:
            del self._bodies[file]
        return len(unknown)

    def keep(self, data: bytes) -> str:
        """Add a body; its name."""
        self._count += 1
        self._bodies[str(self._count)] = data
        return str(self._count)


class _MemoryWriter:
    __slots__ = ("_bodies", "_data", "_name")

    def __init__(self, bodies: MemoryBodies) -> None:
        self._bodies = bodies
        self._data = bytearray()
        self._name = ""

    def write(self, data: bytes) -> None:
        self._data += data

    def seal(self) -> str:
        self._name = self._bodies.keep(bytes(self._data))
        return self._name

    def discard(self) -> None:
        if self._name:
            self._bodies.remove(self._name)


class _MemoryReader:
    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def close(self) -> None:
        return


# -- where the rows are ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A blob as it is stored."""

    scope: Scope
    file: str
    info: BlobInfo


class BlobTable(Protocol):
    """Where rows are kept."""

    def rows(self) -> Iterable[Row]:
        """Every row there is, at the start."""

    def put(self, row: Row) -> int:
        """Write a row over the one of its name; its number in the order of all writes.

        Raises:
            Unavailable, LimitExceeded
        """

    def delete(self, row: Row) -> int:
        """Remove a row; see `put`."""

    def when_durable(self, number: int, callback: Callable[[Exception | None], None]) -> None:
        """Call back once everything up to `number` is on disk, or with the reason why it cannot be at the moment."""


class SqliteBlobs:
    """On the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rows(self) -> Iterable[Row]:
        for tenant, namespace, name, file, *rest in self._database.read(
            "SELECT tenant, namespace, name, file, size_bytes, content_type, sha256, modified_ms FROM blobs", ()
        ):
            yield Row(Scope(tenant, namespace), file, BlobInfo(name, *rest))

    def put(self, row: Row) -> int:
        info = row.info
        values = (info.size_bytes, info.content_type, info.sha256, info.modified_ms)
        return self._database.stream.write(
            [
                (
                    "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (row.scope.tenant, row.scope.namespace, info.name, row.file, *values),
                )
            ]
        )

    def delete(self, row: Row) -> int:
        where = (row.scope.tenant, row.scope.namespace, row.info.name)
        return self._database.stream.write(
            [("DELETE FROM blobs WHERE tenant = ? AND namespace = ? AND name = ?", where)]
        )

    def when_durable(self, number: int, callback: Callable[[Exception | None], None]) -> None:
        self._database.stream.when_durable(number, callback)


class MemoryBlobs:
    """In memory, for simulations."""

    def __init__(self) -> None:
        self._rows: dict[tuple[Scope, str], Row] = {}

    def rows(self) -> Iterable[Row]:
        return list(self._rows.values())

    def put(self, row: Row) -> int:
        self._rows[row.scope, row.info.name] = row
        return 0

    def delete(self, row: Row) -> int:
        del self._rows[row.scope, row.info.name]
        return 0

    def when_durable(self, number: int, callback: Callable[[Exception | None], None]) -> None:
        callback(None)


# -- the store ---------------------------------------------------------------------------------------------


class Upload:
    """A blob that is being put.  `write`, `seal` and `discard` may block: they are for a thread, one at a time."""

    __slots__ = (
        "_digest",
        "_limit_bytes",
        "_writer",
        "content_type",
        "file",
        "name",
        "only_new",
        "scope",
        "size_bytes",
    )

    def __init__(
        self, scope: Scope, name: str, content_type: str, writer: Writer, limit_bytes: int, *, only_new: bool
    ) -> None:
        self.scope = scope
        self.name = name
        self.content_type = content_type
        self.only_new = only_new
        self.size_bytes = 0
        self.file = ""
        self._digest = hashlib.sha256()
        self._writer = writer
        self._limit_bytes = limit_bytes

    def write(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            PayloadTooLarge: together they are more than a blob may have.
            Unavailable: the disk refuses.
        """
        self.size_bytes += len(data)
        if self.size_bytes > self._limit_bytes:
            raise too_large(self._limit_bytes)
        self._digest.update(data)
        try:
            self._writer.write(data)
        except OSError as error:
            raise _refused(error) from error

    def seal(self) -> None:
        """Force it to disk.

        Raises:
            Unavailable: the disk refuses.
        """
        try:
            self.file = self._writer.seal()
        except OSError as error:
            raise _refused(error) from error

    def discard(self) -> None:
        """Forget it: for whoever began it and does not hand it to `finish`."""
        self._writer.discard()

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._digest.hexdigest()


class Blobs:
    """All blobs of a node.

    Args:
        table: where the rows are.
        bodies: where the bytes are.
        quotas: what each tenant may store.
        clock: time.
        limits: how large, how many.
        remove: called with what removes a file: so that it need not be done on the loop.
    """

    def __init__(
        self,
        table: BlobTable,
        bodies: Bodies,
        *,
        quotas: Quotas,
        clock: Clock,
        limits: Limits,
        remove: Callable[[Callable[[], None]], object],
    ) -> None:
        self._table = table
        self._bodies = bodies
        self._quotas = quotas
        self._clock = clock
        self._limits = limits
        self._remove = remove
        self._rows: dict[Scope, dict[str, Row]] = {}
        # Sorted, for lists.
        self._names: dict[Scope, list[str]] = {}
        self._count: dict[str, int] = {}

    def load(self) -> int:
        """Read what there is and drop the files that nothing leads to; how many.  Once, before anything else."""
        files = set()
        for row in self._table.rows():
            self._rows.setdefault(row.scope, {})[row.info.name] = row
            self._names.setdefault(row.scope, []).append(row.info.name)
            self._count[row.scope.tenant] = self._count.get(row.scope.tenant, 0) + 1
            self._quotas.bytes.add(row.scope.tenant, _row_bytes(row.info))
            files.add(row.file)
        for names in self._names.values():
            names.sort()
        return self._bodies.sweep(files)

    def begin(
        self, scope: Scope, name: str, content_type: str = "", *, size_bytes: int = 0, only_new: bool = False
    ) -> Upload:
        """Begin to put a blob.  Write to what is returned, seal it, and give it to `finish`; or discard it.

        Args:
            name: 1 to 512 bytes without control characters; `/` separates parts, of which none is empty, `.` or `..`.
            content_type: "" for `application/octet-stream`.
            size_bytes: as far as it is known, so that what cannot fit is refused before it comes.
            only_new: refuse when there is one of this name.

        Raises:
            InvalidArgument, AlreadyExists, Unavailable
            PayloadTooLarge: more than a blob may have.
            LimitExceeded: the tenant has as many blobs, or bytes, as it may.
        """
        check_name(name)
        content_type = content_type or DEFAULT_CONTENT_TYPE
        if not _CONTENT_TYPE.fullmatch(content_type):
            raise InvalidArgument(f"{content_type[:80]!r} is no content type: write one such as text/plain")
        if size_bytes > self._limits.blob_bytes_max:
            raise too_large(self._limits.blob_bytes_max)
        self._check(scope, name, size_bytes, only_new)
        try:
            writer = self._bodies.create()
        except OSError as error:
            raise _refused(error) from error
        return Upload(scope, name, content_type, writer, self._limits.blob_bytes_max, only_new=only_new)

    def check(self, upload: Upload) -> None:
        """Refuse an upload that has grown to more than the tenant may store.

        Raises:
            AlreadyExists, LimitExceeded
        """
        self._check(upload.scope, upload.name, upload.size_bytes, upload.only_new)

    def finish(self, upload: Upload) -> tuple[BlobInfo, bool]:
        """Make a sealed upload the blob of its name; what is known of it then, and whether there was none before.

        Raises:
            AlreadyExists, LimitExceeded, Unavailable: nothing has changed; discard the upload.
        """
        assert upload.file, "it was not sealed"
        scope, name = upload.scope, upload.name
        self.check(upload)
        now_ms = self._clock.now_ns() // _NS_PER_MS
        row = Row(scope, upload.file, BlobInfo(name, upload.size_bytes, upload.content_type, upload.sha256, now_ms))
        number = self._table.put(row)
        rows = self._rows.setdefault(scope, {})
        before = rows.get(name)
        rows[name] = row
        self._quotas.bytes.add(scope.tenant, _row_bytes(row.info))
        if before is None:
            insort(self._names.setdefault(scope, []), name)
            self._count[scope.tenant] = self._count.get(scope.tenant, 0) + 1
        else:
            self._forget(before, number)
        return row.info, before is None

    def open(self, scope: Scope, name: str) -> tuple[BlobInfo, Reader] | None:
        """A blob to be read, or None; close the reader.

        Raises:
            InvalidArgument
            InternalError: its file is gone.
        """
        row = self._row(scope, name)
        if row is None:
            return None
        try:
            return row.info, self._bodies.open(row.file)
        except OSError as error:
            raise InternalError(f"the file of blob {name!r} cannot be read: {error.strerror}") from error

    def stat(self, scope: Scope, name: str) -> BlobInfo | None:
        """What is known of a blob, or None.

        Raises:
            InvalidArgument
        """
        row = self._row(scope, name)
        return row.info if row is not None else None

    def delete(self, scope: Scope, name: str) -> bool:
        """Delete a blob; False when there was none.

        Raises:
            InvalidArgument, Unavailable
        """
        row = self._row(scope, name)
        if row is None:
            return False
        number = self._table.delete(row)
        del self._rows[scope][name]
        names = self._names[scope]
        del names[bisect_left(names, name)]
        self._count[scope.tenant] -= 1
        self._forget(row, number)
        return True

    def list_blobs(self, scope: Scope, prefix: str = "", cursor: str = "", limit: int = 0) -> list[BlobInfo]:
        """Blobs whose name begins with `prefix`, by name.

        Args:
            cursor: only those behind this name: the last of the page before.
            limit: 0: 100; at most 1,000.

        Raises:
            InvalidArgument
        """
        if limit > LIST_MAX:
            raise InvalidArgument(f"limit = {limit} is too much: at most {LIST_MAX} blobs at once")
        names = self._names.get(scope, [])
        start = bisect_left(names, prefix)
        if cursor >= prefix:
            start = max(start, bisect_left(names, cursor + "\x00"))
        found = []
        for name in islice(names, start, start + (limit or LIST_DEFAULT)):
            if not name.startswith(prefix):
                break
            found.append(self._rows[scope][name].info)
        return found

    # -- inside -------------------------------------------------------------------------------------------

    def _row(self, scope: Scope, name: str) -> Row | None:
        check_name(name)
        return self._rows.get(scope, {}).get(name)

    def _check(self, scope: Scope, name: str, size_bytes: int, only_new: bool) -> None:
        before = self._row(scope, name)
        if before is not None and only_new:
            raise AlreadyExists(f"there is a blob {name!r} already", name=name)
        blobs_max = self._limits.blobs_per_tenant_max
        if before is None and self._count.get(scope.tenant, 0) >= blobs_max:
            raise LimitExceeded(
                f"the tenant has {blobs_max} blobs, as many as it may: delete some, or raise blobs_per_tenant_max",
                limit="blobs_per_tenant_max",
                value=blobs_max,
            )
        growth = size_bytes + len(name.encode()) + ROW_OVERHEAD_BYTES
        self._quotas.bytes.check(scope.tenant, growth - (_row_bytes(before.info) if before is not None else 0))

    def _forget(self, row: Row, number: int) -> None:
        """Drop the file of a row that is no more, once that is on disk: after a crash before it, the row is back."""
        self._quotas.bytes.add(row.scope.tenant, -_row_bytes(row.info))

        def durable(refused: Exception | None) -> None:
            # Where the disk refused for a while, it stays until the next start sweeps it.
            if refused is None:
                self._remove(partial(self._bodies.remove, row.file))

        self._table.when_durable(number, durable)


def check_name(name: str) -> None:
    """Refuse what is no name of a blob.

    Raises:
        InvalidArgument
    """
    size = len(name.encode("utf-8", "replace"))
    if not _NAME.fullmatch(name) or size > NAME_BYTES_MAX or any(part in (".", "..") for part in name.split("/")):
        raise InvalidArgument(
            f"{name[:80]!r} is no name of a blob: 1 to {NAME_BYTES_MAX} bytes without control characters, in parts "
            "separated by '/', none of them empty, '.' or '..'"
        )


def too_large(bytes_max: int) -> PayloadTooLarge:
    """The error for what is more than a blob may have."""
    return PayloadTooLarge(
        f"a blob may have {bytes_max} bytes (blob_bytes_max of the node's configuration)",
        limit="blob_bytes_max",
        bytes_max=bytes_max,
    )


def _row_bytes(info: BlobInfo) -> int:
    return info.size_bytes + len(info.name.encode()) + ROW_OVERHEAD_BYTES


def _refused(error: OSError) -> Unavailable:
    return Unavailable(
        f"the node cannot write to its data directory ({error.strerror}): make room, or make it writable, and try "
        "again",
        reason=error.strerror or "",
    )
