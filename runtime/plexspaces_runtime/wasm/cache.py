"""Compiled components: from memory, else from disk, else compiled in another process.

A compiled component is machine code: whoever can write it runs in the node.  So the directory must belong to us and be
closed to others, and each file has its SHA-256 beside it, written after it: what was torn or damaged is compiled again.
The name of a file holds the hash of the wasm and a digest of everything else that compiled code depends on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import stat
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from wasmtime import Engine, WasmtimeError
from wasmtime.component import Component

from ..errors import InternalError, InvalidComponent, LimitExceeded
from .audit import Audit, audit, check_header
from .config import config_digest
from .wit import Package, load

_COMPILED = ".cwasm"
_DIGEST = ".sha256"
_TEMPORARY = ".tmp"
# How the parser says that a section reaches beyond the end.
_TRUNCATED = ("unexpected end", "out of bounds (bound")
_STDERR_CHARS_MAX = 300
# How Rust, Python and a thread that could not be started say it.  SIGKILL is the kernel's way.
_OUT_OF_MEMORY = ("memory allocation of", "MemoryError", "Cannot allocate memory", "Resource temporarily unavailable")

DISK_BYTES_MAX = 4 << 30
# A component made from Python compiles in less than 1 GiB of address space.
COMPILE_MEMORY_BYTES_MAX = 4 << 30


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Loaded:
    """A component that is compiled, audited, and ready to be instantiated.

    Attributes:
        hash: SHA-256 of the wasm, lower-case hexadecimal.
        size_bytes: of the wasm.
    """

    hash: str
    component: Component
    audit: Audit
    size_bytes: int


class ComponentCache:
    """Components by the hash of their wasm.  Belongs to one event loop.

    Args:
        engine: made with `engine_config()`.
        directory: is created, with mode 0700; several nodes may share it.
        compile_s_max: wall time for compiling one component.
        entries_max: components held in memory though nobody uses them.
        disk_bytes_max: compiled components on disk; the least recently used go first.
        compile_memory_bytes_max: address space of the compiling process.
        package: the contract to audit against.

    Raises:
        InternalError: the directory belongs to or could have been written by somebody else.
    """

    def __init__(
        self,
        engine: Engine,
        directory: Path,
        *,
        compile_s_max: float,
        entries_max: int,
        disk_bytes_max: int = DISK_BYTES_MAX,
        compile_memory_bytes_max: int = COMPILE_MEMORY_BYTES_MAX,
        package: Package | None = None,
    ) -> None:
        self._engine = engine
        self._directory = directory
        self._compile_s_max = compile_s_max
        self._entries_max = entries_max
        self._disk_bytes_max = disk_bytes_max
        self._compile_memory_bytes_max = compile_memory_bytes_max
        self._package = package or load()
        self._recent: OrderedDict[str, Loaded] = OrderedDict()
        # Whatever somebody still holds is found again, however long ago it left `_recent`.
        self._living: WeakValueDictionary[str, Loaded] = WeakValueDictionary()
        # Loads under way.  Invariant: at most one for a hash, so that two deployments compile once.
        self._flights: dict[str, asyncio.Task[Loaded]] = {}
        # Compiling uses all cores; two at once would only take twice the memory.
        self._compiler = asyncio.Semaphore(1)
        #: Components compiled, and files found damaged or stale, since the start.
        self.compiled = 0
        self.discarded = 0
        _make_private(directory)
        _remove_leftovers(directory)

    async def load(self, wasm: bytes | Path) -> Loaded:
        """The compiled and audited component.

        Cancelling the caller does not stop the work: others may wait for it, and the next deployment will.

        Raises:
            InvalidComponent: the bytes are not a sealed component of our world.
            LimitExceeded: compiling took too long or too much memory.
        """
        data = await asyncio.to_thread(wasm.read_bytes) if isinstance(wasm, Path) else wasm
        check_header(data)
        hash_ = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        loaded = self._living.get(hash_)
        if loaded is not None:
            return self._remember(loaded)
        flight = self._flights.get(hash_)
        if flight is None:
            flight = asyncio.create_task(self._load(hash_, data), name=f"compile {hash_[:12]}")
            self._flights[hash_] = flight
            flight.add_done_callback(lambda done: self._landed(hash_, done))
        return await asyncio.shield(flight)

    def file(self, loaded: Loaded) -> Path:
        """Where the compiled code of a loaded component is; written again if it has been removed meanwhile."""
        path = self._path(loaded.hash)
        if not (path.exists() and path.with_suffix(_DIGEST).exists()):
            compiled = loaded.component.serialize()
            temporary = path.with_name(f"{path.stem}.{os.getpid()}{_TEMPORARY}")
            temporary.write_bytes(compiled)
            temporary.chmod(0o600)
            self._store(temporary, path, hashlib.sha256(compiled).hexdigest())
        return path

    def _path(self, hash_: str) -> Path:
        return self._directory / f"{hash_}-{config_digest()}{_COMPILED}"

    @property
    def loading(self) -> int:
        """How many components are being loaded now."""
        return len(self._flights)

    async def close(self) -> None:
        """Stop what is being compiled, and forget everything in memory."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        self._recent.clear()

    def _landed(self, hash_: str, flight: asyncio.Task[Loaded]) -> None:
        del self._flights[hash_]
        if not flight.cancelled():
            # Looked at, even where every waiter has gone.
            flight.exception()

    def _remember(self, loaded: Loaded) -> Loaded:
        self._living[loaded.hash] = loaded
        self._recent[loaded.hash] = loaded
        self._recent.move_to_end(loaded.hash)
        while len(self._recent) > self._entries_max:
            self._recent.popitem(last=False)
        return loaded

    async def _load(self, hash_: str, wasm: bytes) -> Loaded:
        path = self._path(hash_)
        component = await asyncio.to_thread(self._from_disk, path)
        if component is None:
            async with self._compiler:
                await self._compile(wasm, path)
            component = await asyncio.to_thread(self._from_disk, path)
        if component is None:
            raise InternalError(f"the compiled component {path} vanished or was damaged as soon as it was written")
        return self._remember(Loaded(hash_, component, audit(component, self._engine, self._package), len(wasm)))

    # -- disk -----------------------------------------------------------------------------------------------

    def _from_disk(self, path: Path) -> Component | None:
        try:
            component = read_compiled(self._engine, path)
            # Says when it was last used, which is what _prune goes by.
            os.utime(path)
        except FileNotFoundError:
            return None
        if component is None:
            self.discarded += 1
            _remove(path)
        return component

    def _store(self, temporary: Path, path: Path, digest: str) -> None:
        os.replace(temporary, path)
        beside = temporary.with_suffix(f"{_DIGEST}{_TEMPORARY}")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path.with_suffix(_DIGEST))
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._prune(path)

    def _prune(self, newest: Path) -> None:
        files = []
        for file in self._directory.glob(f"*{_COMPILED}"):
            try:
                files.append((file.stat().st_mtime_ns, file.stat().st_size, file))
            except FileNotFoundError:
                continue
        total = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if total <= self._disk_bytes_max:
                return
            if file != newest:
                _remove(file)
                total -= size

    # -- compiling --------------------------------------------------------------------------------------------

    async def _compile(self, wasm: bytes, path: Path) -> None:
        temporary = path.with_name(f"{path.stem}.{os.getpid()}{_TEMPORARY}")
        temporary.unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"{__package__}.compile",
            str(temporary),
            str(self._compile_memory_bytes_max),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(self._compile_s_max):
                out, err = await process.communicate(wasm)
            digest = self._verdict(process.returncode or 0, out, err)
            await asyncio.to_thread(self._store, temporary, path, digest)
            self.compiled += 1
        except TimeoutError:
            raise LimitExceeded(
                f"the component was not compiled within compile_s_max = {self._compile_s_max:g} s; "
                "make it smaller, or raise the limit",
                limit="compile_s_max",
                value=self._compile_s_max,
                unit="s",
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            temporary.unlink(missing_ok=True)

    def _verdict(self, code: int, out: bytes, err: bytes) -> str:
        """The digest of what was compiled, or why it was not."""
        try:
            answer = json.loads(out)
        except ValueError:
            answer = {}
        if code == 0 and "sha256" in answer:
            return str(answer["sha256"])
        if any(sign in answer.get("error", "") for sign in _TRUNCATED):
            raise InvalidComponent(f"the component is truncated; send it again ({answer['error']})")
        if "error" in answer:
            raise InvalidComponent(f"the component is damaged or not valid: {answer['error']}")
        words = err.decode(errors="replace").strip()
        if any(sign in words for sign in _OUT_OF_MEMORY) or -code == signal.SIGKILL:
            raise LimitExceeded(
                "compiling the component took more memory than "
                f"compile_memory_bytes_max = {self._compile_memory_bytes_max}",
                limit="compile_memory_bytes_max",
                value=self._compile_memory_bytes_max,
                unit="bytes",
            )
        if code < 0:
            raise InvalidComponent(f"the compiler died of this component ({signal.Signals(-code).name})")
        raise InternalError(f"the compiler could not be run (exit code {code}): {words[-_STDERR_CHARS_MAX:]}")


def read_compiled(engine: Engine, path: Path) -> Component | None:
    """Map a compiled component; None if the file is damaged, or not for this machine.

    Raises:
        FileNotFoundError
    """
    try:
        expected = path.with_suffix(_DIGEST).read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        return None
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        return None
    try:
        return Component.deserialize_file(engine, str(path))
    except WasmtimeError:
        # Whole, but not for this machine: what the key leaves out, Wasmtime checks.
        return None


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InternalError(
            f"{directory} holds machine code that this node would run, but others can write to it: "
            f"remove it, or `chmod 700` it if you trust what is in it"
        )
    directory.chmod(0o700)


def _remove_leftovers(directory: Path) -> None:
    """Remove what a node that was killed had begun to write."""
    for file in directory.glob(f"*{_TEMPORARY}"):
        pid = file.name.split(".")[1]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            file.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    # The digest first: a file without one is never loaded.
    path.with_suffix(_DIGEST).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
