"""Components that have been built, kept by the content of everything that went into them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .findings import Finding
from .imports import Import

KEPT_BYTES_MAX = 2 << 30


@dataclass(frozen=True, slots=True)
class Entry:
    """A built component in the cache.

    Args:
        wasm: its file.
        sha256: of the component, lower-case hexadecimal.
        size_bytes: its size.
        roles: the actors it holds.
        warnings: what was said about its source when it was built.
    """

    wasm: Path
    sha256: str
    size_bytes: int
    roles: tuple[str, ...]
    warnings: tuple[Finding, ...]


def content_key(ingredients: Mapping[str, str], files: Iterable[tuple[str, bytes]]) -> str:
    """The name of what is built from these: SHA-256 over every ingredient and every staged file.

    Args:
        ingredients: versions and the like, by name.
        files: destination and content; the order does not matter.
    """
    digest = hashlib.sha256()
    for name, value in sorted(ingredients.items()):
        digest.update(f"{len(name)}:{name}={len(value)}:{value}\n".encode())
    for destination, data in sorted(files):
        # Lengths first, so that no content can pass for another division of the same bytes.
        digest.update(f"{len(destination)}:{destination}:{len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


class BuildCache:
    """A directory of components and of what reading sources found out.

    Safe for several processes: files appear whole or not at all, and one process builds a key while others wait.

    Args:
        directory: is created.
        kept_bytes_max: of components; the least recently used go first, the newest always stays.
    """

    def __init__(self, directory: Path, *, kept_bytes_max: int = KEPT_BYTES_MAX) -> None:
        self.directory = directory
        self._kept_bytes_max = kept_bytes_max
        directory.mkdir(parents=True, exist_ok=True)

    def find(self, key: str) -> Entry | None:
        """The component of a key, if it is there and whole."""
        wasm = self._wasm(key)
        try:
            about = json.loads(self._about(key).read_text(encoding="utf-8"))
            if wasm.stat().st_size != about["size_bytes"]:
                return None
            # The least recently used go first when room is made.
            os.utime(wasm)
        except (OSError, ValueError, KeyError):
            return None
        return Entry(
            wasm,
            about["sha256"],
            about["size_bytes"],
            tuple(about["roles"]),
            tuple(Finding.from_json(each) for each in about["warnings"]),
        )

    def store(self, key: str, built: Path, roles: Iterable[str], warnings: Iterable[Finding]) -> Entry:
        """Take a finished component in; `built` is moved and must be on the cache's file system."""
        with built.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        about = {
            "sha256": sha256,
            "size_bytes": built.stat().st_size,
            "roles": sorted(roles),
            "warnings": [finding.to_json() for finding in warnings],
        }
        os.replace(built, self._wasm(key))
        # The description is what makes an entry: it comes last.
        write_atomically(self._about(key), json.dumps(about).encode())
        self._make_room(keep=key)
        entry = self.find(key)
        assert entry is not None
        return entry

    @contextlib.contextmanager
    def building(self, key: str) -> Iterator[None]:
        """Hold the right to build a key; waits while another process does."""
        with (self.directory / f"{key}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Whoever waits holds the same inode and finds the finished entry; a later one makes a new file.
                (self.directory / f"{key}.lock").unlink(missing_ok=True)

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """An empty directory on the cache's file system, removed afterwards."""
        with tempfile.TemporaryDirectory(prefix="work-", dir=self.directory) as folder:
            yield Path(folder)

    def load_scans(self, source: str) -> dict[str, list[Import]]:
        """What was read from installed files the last time this source was built."""
        try:
            raw = json.loads(self._scans(source).read_text(encoding="utf-8"))
            return {key: [Import(*row) for row in rows] for key, rows in raw.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def save_scans(self, source: str, scans: Mapping[str, list[Import]]) -> None:
        rows: dict[str, list[list[Any]]] = {k: [list(asdict(i).values()) for i in v] for k, v in scans.items()}
        write_atomically(self._scans(source), json.dumps(rows).encode(), durable=False)

    def _wasm(self, key: str) -> Path:
        return self.directory / f"{key}.wasm"

    def _about(self, key: str) -> Path:
        return self.directory / f"{key}.json"

    def _scans(self, source: str) -> Path:
        return self.directory / f"scans-{hashlib.sha256(source.encode()).hexdigest()[:32]}.json"

    def _make_room(self, keep: str) -> None:
        entries = []
        for wasm in self.directory.glob("*.wasm"):
            with contextlib.suppress(FileNotFoundError):
                status = wasm.stat()
                entries.append((status.st_mtime_ns, status.st_size, wasm))
        total = sum(size for _, size, _ in entries)
        for _, size, wasm in sorted(entries):
            if total <= self._kept_bytes_max:
                return
            if wasm.stem != keep:
                wasm.with_suffix(".json").unlink(missing_ok=True)
                wasm.unlink(missing_ok=True)
                total -= size


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that readers see the old content or the new, never a part; `durable`: also after a power cut."""
    with _replacing(path, durable) as file:
        file.write(data)


def copy_atomically(source: Path, target: Path) -> None:
    """Copy a file so that readers of `target` see the old content or the new."""
    import shutil

    with source.open("rb") as read, _replacing(target, durable=True) as write:
        shutil.copyfileobj(read, write, 1 << 20)


@contextlib.contextmanager
def _replacing(path: Path, durable: bool) -> Iterator[Any]:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            # mkstemp's files are for the owner alone; what is built is an ordinary file.
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(file.fileno(), 0o666 & ~umask)
            if durable:
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
