"""The standard library inside the sandbox: time, chance and output come from the host; the rest says what it lacks.

A sealed component has no clock, files, sockets, processes or threads: CPython's calls for them end in a trap, which
kills the instance and explains nothing.  So before any module of the author's is imported, `install` replaces the
functions through which the standard library reaches for them.

There are two times.  While the component is built, files are there (a module may read its data when it is imported) and
the host is not: the clock stands still and chance is a fixed sequence, so that two builds of one source are the same
bytes.  When the build is over, it is the other way round.
"""

from __future__ import annotations
import __future__

import builtins
import hashlib
import importlib.machinery
import io
import linecache
import os
import random
import sys
import time
import uuid
import weakref
from collections.abc import Callable
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any, Final

from .errors import MissingModule, SandboxError

# 2000-01-01T00:00:00Z: obviously no real time of any build.
BUILD_TIME_NS: Final = 946_684_800_000_000_000
RANDOM_BYTES_MAX: Final = 65_536
LINE_CHARS_MAX: Final = 8_192

_host: Any = None
_drawn_while_building = 0
# Generators besides the module's own that were made without a seed before the actor's life began.
_left_to_chance: list[weakref.ref[random.Random]] = []
# Modules that drew chance while they were imported: what they made of it is the same in every instance.
frozen_chance: list[str] = []


def install() -> None:
    """Replace what the standard library does itself.  Nothing changes for files until `activate`."""
    _route_time()
    _route_chance()
    _route_output()
    _close_files()
    _close_processes()
    _guard_compiler()


def seal() -> None:
    """Close what the author's modules have brought in, and importing with it.  The last step of the build."""
    _close_loaded(sys.modules)
    _remember_sources(sys.modules)
    # What the file finders remember stays where it is, unused: freeing it would write to a megabyte of memory that all
    # instances share.
    sys.meta_path[:] = [
        finder
        for finder in sys.meta_path
        if finder in (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter)
    ]
    sys.meta_path.append(_NothingToLoad)


def activate(host: Any) -> None:
    """Change over from the build to the actor's life: from now on the host answers, and the files are gone.

    Done when the build is over, so that it is in the memory that all instances share; nothing of an instance's own
    comes of it.
    """
    global _host
    _host = host


def reseed() -> None:
    """Give this instance chance of its own.  Called when it begins to live.

    The module's generator, and those that modules made without a seed as they were imported, would go on from the
    build alike in all instances.
    """
    random.seed()
    for reference in _left_to_chance:
        generator = reference()
        if generator is not None:
            generator.seed()


# -- time --------------------------------------------------------------------------------------------------


def _now_ns() -> int:
    return BUILD_TIME_NS if _host is None else _host.clock.now_ns()


def _monotonic_ns() -> int:
    return 0 if _host is None else _host.clock.monotonic_ns()


def _sleep(seconds: float) -> None:
    """Suspend this actor; the node goes on."""
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    if _host is not None:
        _host.clock.sleep_ns(round(seconds * 1e9))


def _route_time() -> None:
    localtime, gmtime, ctime, asctime, strftime = time.localtime, time.gmtime, time.ctime, time.asctime, time.strftime

    def seconds() -> float:
        return _now_ns() / 1e9

    def monotonic() -> float:
        return _monotonic_ns() / 1e9

    def of(read: Callable[[float], Any]) -> Callable[..., Any]:
        return lambda at=None: read(seconds() if at is None else at)

    def format_time(text: str, at: Any = None) -> str:
        return strftime(text, time.localtime() if at is None else at)

    def show(at: Any = None) -> str:
        return asctime(time.localtime() if at is None else at)

    def clock_gettime_ns(clock: int) -> int:
        return _now_ns() if clock == getattr(time, "CLOCK_REALTIME", 0) else _monotonic_ns()

    def clock_info(name: str) -> SimpleNamespace:
        wall = name == "time"
        return SimpleNamespace(implementation="host", monotonic=not wall, adjustable=wall, resolution=1e-9)

    routed: dict[str, Any] = {
        "get_clock_info": clock_info,
        "time": seconds,
        "time_ns": _now_ns,
        "sleep": _sleep,
        "localtime": of(localtime),
        "gmtime": of(gmtime),
        "ctime": of(ctime),
        "asctime": show,
        "strftime": format_time,
        "clock_gettime": lambda clock: clock_gettime_ns(clock) / 1e9,
        "clock_gettime_ns": clock_gettime_ns,
    }
    for name in ("monotonic", "perf_counter", "process_time", "thread_time"):
        routed[name] = monotonic
        routed[f"{name}_ns"] = _monotonic_ns
    for name, function in routed.items():
        if hasattr(time, name):
            setattr(time, name, function)


# -- chance ------------------------------------------------------------------------------------------------


def _urandom(size: int, /) -> bytes:
    global _drawn_while_building
    if size < 0:
        raise ValueError("negative argument not allowed")
    if _host is not None:
        parts = []
        while size > 0:
            count = min(size, RANDOM_BYTES_MAX)
            parts.append(bytes.fromhex(_host.random.random_hex(count)))
            size -= count
        return b"".join(parts)
    _note_frozen_chance()
    _drawn_while_building += 1
    return hashlib.shake_128(b"plexspaces build %d" % _drawn_while_building).digest(size)


def _note_frozen_chance() -> None:
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name not in (__name__, "random", "secrets", "uuid", "tempfile"):
            if name not in frozen_chance and not name.startswith(("importlib", "plexspaces")):
                frozen_chance.append(name)
            return
        frame = frame.f_back  # type: ignore[assignment]


def _getrandom(size: int, flags: int = 0) -> bytes:
    return _urandom(size)


def _route_chance() -> None:
    seed = random.Random.seed

    def seed_from_host(self: random.Random, a: Any = None, version: int = 2) -> None:
        if _host is None and self is not random._inst:
            _left_to_chance[:] = [known for known in _left_to_chance if known() not in (None, self)]
            if a is None:
                _left_to_chance.append(weakref.ref(self))
        # CPython would read the system's entropy in C, out of reach of os.urandom.
        seed(self, int.from_bytes(_urandom(32), "big") if a is None else a, version)

    os.urandom = _urandom
    if hasattr(os, "getrandom"):
        os.getrandom = _getrandom
    random._urandom = _urandom  # type: ignore[attr-defined]
    random.Random.seed = seed_from_host  # type: ignore[method-assign]
    # The module's functions are bound methods of an instance made before this.
    random.seed = seed_from_host.__get__(random._inst)
    uuid.getnode = _node
    uuid._generate_time_safe = None  # type: ignore[attr-defined]


def _node() -> int:
    """A node number for uuid1: random, with the multicast bit that says so (RFC 9562, 6.10)."""
    return int.from_bytes(_urandom(6), "big") | (1 << 40)


# -- output ------------------------------------------------------------------------------------------------


class LogStream(io.TextIOBase):
    """`sys.stdout` and `sys.stderr`: each line becomes a line of the node's log."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, level: str) -> None:
        super().__init__()
        self._level = level
        self._parts: list[str] = []
        self._chars = 0

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        *lines, rest = text.split("\n")
        for line in lines:
            self._parts.append(line)
            self._emit()
        if rest:
            self._parts.append(rest)
            self._chars += len(rest)
            if self._chars > LINE_CHARS_MAX:
                self._emit()
        return len(text)

    def flush(self) -> None:
        # A line is a line: `print("...", end="", flush=True)` is a progress bar, and a log has no use for halves.
        pass

    def finish(self) -> None:
        """Give out a last line without an end."""
        if self._parts:
            self._emit()

    def _emit(self) -> None:
        line, self._parts, self._chars = "".join(self._parts), [], 0
        if _host is not None and line:
            logging = _host.logging
            logging.log(getattr(logging.Level, self._level), line.encode("utf-8", "replace").decode("utf-8"))


_build_streams: tuple[Any, Any] = (None, None)


class _Switch(io.TextIOBase):
    """A stream that goes to the build's terminal first and to the log afterwards."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, build: Any, live: LogStream) -> None:
        super().__init__()
        self._build = build
        self._live = live

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        target = self._build if _host is None else self._live
        return 0 if target is None else target.write(text)

    def flush(self) -> None:
        if _host is None and self._build is not None:
            self._build.flush()

    def finish(self) -> None:
        self._live.finish()


def finish_output() -> None:
    """Give out lines that a message left unfinished."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, _Switch):
            stream.finish()


def _route_output() -> None:
    sys.stdout = sys.__stdout__ = _Switch(sys.stdout, LogStream("INFO"))  # type: ignore[assignment, misc]
    sys.stderr = sys.__stderr__ = _Switch(sys.stderr, LogStream("WARN"))  # type: ignore[assignment, misc]


# -- what there is not --------------------------------------------------------------------------------------

_FILES: Final = (
    "the sandbox has no file system: keep data in state(), host.kv_put or host.blob_put, "
    "or read the file at module level, while the component is built"
)
_PROCESSES: Final = "the sandbox cannot start processes: spawn an actor with host.spawn"
_THREADS: Final = "the sandbox has no threads: spawn actors with host.spawn, or ask several at once with host.ask_many"
_SOCKETS: Final = "the sandbox has no network: use host.http_fetch with a link that the operator has configured"
_EXIT: Final = "an actor cannot end its process: return, raise an exception, or use host.stop(host.self_id())"


def _closed(original: Callable[..., Any] | None, reason: str) -> Callable[..., Any]:
    """`original` while the component is built, a clean exception afterwards."""

    def closed(*args: Any, **kwargs: Any) -> Any:
        if _host is None and original is not None:
            return original(*args, **kwargs)
        raise SandboxError(reason)

    closed.__name__ = closed.__qualname__ = getattr(original, "__name__", "closed")
    return closed


def _close(module: Any, names: str, reason: str) -> None:
    for name in names.split():
        original = getattr(module, name, None)
        if original is not None:
            setattr(module, name, _closed(original, reason))


def _close_files() -> None:
    opener = _closed(io.open, _FILES)
    builtins.open = io.open = opener
    builtins.input = _closed(builtins.input, "an actor has no terminal: it is sent messages")
    # Module loaders read through `_io`, also when a traceback asks them for source lines.
    low: Any = sys.modules["_io"]
    low.open = opener
    low.open_code = io.open_code = _closed(io.open_code, _FILES)
    _close(
        os,
        "open stat lstat listdir scandir mkdir makedirs remove unlink rename replace rmdir removedirs readlink symlink "
        "link utime chmod access truncate ftruncate chdir fchdir statvfs fdopen read write close fstat lseek fsync "
        "fdatasync isatty pipe dup dup2 walk fwalk mkfifo mknod get_terminal_size pread pwrite readv writev sendfile "
        "posix_fallocate posix_fadvise",
        _FILES,
    )
    getcwd = os.getcwd
    os.getcwd = lambda: getcwd() if _host is None else "/"
    os.getcwdb = lambda: os.getcwd().encode()


def _close_processes() -> None:
    _close(
        os,
        "popen system fork forkpty posix_spawn posix_spawnp execv execve execvp execvpe execl execle execlp spawnv "
        "spawnve spawnl spawnle kill killpg wait waitpid",
        _PROCESSES,
    )
    _close(os, "_exit abort", _EXIT)
    if not hasattr(os, "system"):
        # This CPython is built without it; say why instead of AttributeError.  Not so with `fork`: libraries ask
        # whether it is there to know what they are running on.
        setattr(os, "system", _closed(None, _PROCESSES))  # noqa: B010


# -- source text that is run ---------------------------------------------------------------------------------

# CPython reports a syntax error by opening the file it is in, with C's fopen, which is a trap here.  This name has no
# encoding, so that it gives up before it opens anything.
_NO_FILE: Final = "<source>\ud800"
_COMPILER_FLAGS: Final = sum({getattr(__future__, name).compiler_flag for name in __future__.all_feature_names})


def _renamed(code: CodeType, filename: str) -> CodeType:
    constants = tuple(_renamed(item, filename) if isinstance(item, CodeType) else item for item in code.co_consts)
    return code.replace(co_filename=filename, co_consts=constants)


def _guard_compiler() -> None:
    """Make `compile`, `exec` and `ast.parse` of faulty text a SyntaxError; actors run code they were sent."""
    compile_, exec_ = builtins.compile, builtins.exec

    def safe_compile(
        source: Any,
        filename: Any,
        mode: str,
        flags: int = 0,
        dont_inherit: bool = False,
        optimize: int = -1,
        **options: Any,
    ) -> Any:
        if not dont_inherit:
            flags |= sys._getframe(1).f_code.co_flags & _COMPILER_FLAGS
        if _host is None or not isinstance(source, (str, bytes, bytearray)):
            return compile_(source, filename, mode, flags, True, optimize, **options)
        name = os.fsdecode(filename)
        try:
            result = compile_(source, _NO_FILE, mode, flags, True, optimize, **options)
        except SyntaxError as error:
            error.filename = name
            raise
        return _renamed(result, name) if isinstance(result, CodeType) else result

    def safe_exec(source: Any, globals: Any = None, locals: Any = None, /, **options: Any) -> None:
        globals = options.pop("globals", globals)
        locals = options.pop("locals", locals)
        frame = sys._getframe(1)
        if globals is None:
            globals = frame.f_globals
            if locals is None:
                locals = globals if frame.f_locals is globals else dict(frame.f_locals)
        if isinstance(source, (str, bytes, bytearray)):
            source = safe_compile(source, "<string>", "exec", frame.f_code.co_flags & _COMPILER_FLAGS, True)
        if locals is None:
            locals = globals
        exec_(source, globals, locals, **options)

    safe_compile.__name__, safe_exec.__name__ = "compile", "exec"
    builtins.compile = safe_compile
    builtins.exec = safe_exec


def _close_loaded(modules: dict[str, ModuleType]) -> None:
    """Classes are closed in place, so that `from socket import socket` is closed as well."""
    socket: Any = modules.get("socket")
    if socket is not None:
        socket.socket.__init__ = _closed(socket.socket.__init__, _SOCKETS)
        _close(
            socket,
            "create_connection create_server getaddrinfo gethostbyname gethostbyname_ex gethostbyaddr getnameinfo "
            "gethostname getfqdn socketpair fromfd",
            _SOCKETS,
        )
    subprocess: Any = modules.get("subprocess")
    if subprocess is not None:
        subprocess.Popen.__init__ = _closed(subprocess.Popen.__init__, _PROCESSES)
    threading: Any = modules.get("threading")
    if threading is not None:
        threading.Thread.start = _closed(threading.Thread.start, _THREADS)
    low: Any = modules.get("_thread")
    if low is not None:
        _close(low, "start_new_thread start_new start_joinable_thread", _THREADS)
    select: Any = modules.get("select")
    if select is not None:
        _close(select, "select poll", _SOCKETS)


def _remember_sources(modules: dict[str, ModuleType]) -> None:
    """Read the author's source now, so that a traceback can show its lines when there are no files."""
    roots = (os.path.dirname(os.__file__), os.path.dirname(__file__))
    for module in list(modules.values()):
        file = getattr(module, "__file__", None)
        if not file or not file.endswith(".py") or file.startswith(roots):
            continue
        lines = linecache.getlines(file, vars(module))
        if lines:
            # No modification time: never compared with a file again.
            linecache.cache[file] = (sum(map(len, lines)), None, lines, file)


class _NothingToLoad:
    """The last finder: an import of what was not there at build time is an ImportError, not a trap."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        raise MissingModule(
            f"No module named {name!r}: it was not imported while the component was built; import it at module level",
            name=name,
        )
