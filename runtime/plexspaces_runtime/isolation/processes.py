"""The processes of isolated applications, as the node sees them: guests that are elsewhere, and what becomes of them.

An application that is isolated has one process (`Home`), which is started with its first instance and ended when it has
had none for a while.  Here is one `Remote` guest per instance; the scheduler treats it like any other, and is told when
there is news.  Whatever the process says is checked; one that says what no honest process would, that does not answer,
that takes more memory than it may, or that dies, is killed, and all its actors exit with the reason.  Their supervisors
decide; the successors get another process, after a pause that grows when one after the other dies.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from ..actors import exits
from ..actors.exits import Exit
from ..actors.guest import Export, Guest, HostRequest, Poll, Remote, Result, Trapped
from ..clock import Clock
from ..config import Limits
from ..events import EventBus, ProcessEnded, ProcessStarted
from ..scope import Scope
from ..wasm.engine import Program, instances_max, kernel_mappings_max, too_many_instances
from ..wasm.wit import Package
from .backoff import Deaths
from .cgroups import Cgroups, Group
from .child import Settings
from .memory import memory_bytes
from .wire import FRAME_BYTES_MAX, Contract, Frames, Malformed, TooLong, Word, decode_result, frame, integer

_READ_BYTES: Final = 256 * 1024
_USED_NS_MAX: Final = 1 << 62
# What waits for a process that does not read; an honest one is never so far behind.
_UNSENT_BYTES_MAX: Final = 2 * FRAME_BYTES_MAX
# How often its memory is looked at, and whether it answers: while it works, and while it rests.
_LOOK_BUSY_S: Final = 0.1
_LOOK_IDLE_S: Final = 1.0
_ANSWERS_WITHIN_S: Final = 10.0
_LINGERS_S: Final = 10.0
# It has nothing to finish: its actors are gone before it.
_ENDS_WITHIN_S: Final = 1.0
_STDERR_BYTES_MAX: Final = 2_000


@dataclass(frozen=True, slots=True)
class Home:
    """Whose process it is, and what it may take.

    Attributes:
        kind: "application", or "deployment" for a type deployed on its own.
        memory_bytes_max: private memory of the whole process.
    """

    scope: Scope
    kind: str
    name: str
    memory_bytes_max: int

    @property
    def title(self) -> str:
        """How it is called in a sentence, and told from others."""
        return f"{self.scope.tenant}/{self.scope.namespace}/{self.kind}/{self.name}/{self.memory_bytes_max}"


def _command(settings: Settings) -> list[str]:
    # Isolated from the user's and the directory's modules.
    return [sys.executable, "-I", "-m", f"{__package__}.child", settings.text()]


class Processes:
    """All processes of a node.

    Args:
        components: the directory of the compiled components.
        compiled_file: finds a program's compiled code there.
        isolates: an application that does not say where its actors run has a process.
        lingers_s: how long a process stays in which no actor lives.
        answers_within_s: how long a process may take to say that it lives.
        command: what starts one.
    """

    def __init__(
        self,
        *,
        package: Package,
        components: Path,
        compiled_file: Callable[[Program], Path],
        limits: Limits,
        clock: Clock,
        events: EventBus,
        loop: asyncio.AbstractEventLoop,
        isolates: bool = False,
        lingers_s: float = _LINGERS_S,
        answers_within_s: float = _ANSWERS_WITHIN_S,
        command: Callable[[Settings], list[str]] = _command,
    ) -> None:
        self._package = package
        self._isolates = isolates
        self.components = components
        self.compiled_file = compiled_file
        self.limits = limits
        self.clock = clock
        self.events = events
        self.loop = loop
        self.lingers_s = lingers_s
        self.answers_within_s = answers_within_s
        self.command = command
        self._living: dict[Home, _Process] = {}
        self._deaths: dict[Home, Deaths] = {}
        # Processes that have ended for us, and that the kernel has yet to say so of.
        self._reaping: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def pids(self) -> dict[str, int]:
        """The processes that run, by the title of their home."""
        return {home.title: each.pid for home, each in self._living.items() if each.pid}

    # Made when they are needed: most nodes isolate nothing.

    @cached_property
    def contract(self) -> Contract:
        """How calls are written."""
        return Contract(self._package)

    @cached_property
    def cgroups(self) -> Cgroups | None:
        """Where processes get their control groups; None if the kernel does not limit their memory for us."""
        return Cgroups.find()

    @cached_property
    def mappings_max(self) -> int:
        """Memory mappings that a process may have."""
        return kernel_mappings_max()

    def home(
        self, scope: Scope, kind: str, name: str, isolation: str = "", memory_bytes_max: int | None = None
    ) -> Home | None:
        """Where an application's instances are: its own process, or None for the node's.

        Args:
            isolation: "none", "process", or "" for what the node does otherwise.
            memory_bytes_max: of the process; None for the node's limit.
        """
        if isolation == "none" or (not isolation and not self._isolates):
            return None
        return Home(scope, kind, name, memory_bytes_max or self.limits.process_memory_bytes_max)

    def guest(self, home: Home, program: Program, limits: Limits) -> Guest:
        """A new instance in the process of `home`, which is started if there is none.

        Raises:
            LimitExceeded: the kernel would not give that process the memory mappings that it needs.
        """
        assert not self._closed, "the actors are gone before the processes"
        process = self._living.get(home)
        if process is None:
            process = self._living[home] = _Process(self, home, self._deaths.get(home, Deaths()).delay_s)
        return process.guest(program, limits)

    async def close(self) -> None:
        """End all processes and wait for it."""
        self._closed = True
        for process in tuple(self._living.values()):
            process.end("the node stops", orderly=True)
        while self._reaping:
            await asyncio.wait(self._reaping)

    def ended(self, home: Home, process: _Process, *, orderly: bool) -> float:
        """A process is no longer there for new instances; answers how long the next one would wait."""
        del self._living[home]
        if orderly:
            self._deaths.pop(home, None)
            return 0.0
        deaths = self._deaths[home] = self._deaths.get(home, Deaths()).after(process.lived_s)
        return deaths.delay_s

    def reap(self, reaping: Any) -> None:
        """Wait for a process's end without keeping anybody waiting."""
        task = self.loop.create_task(reaping)
        self._reaping.add(task)
        task.add_done_callback(self._reaped)

    def _reaped(self, task: asyncio.Task[None]) -> None:
        self._reaping.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self.loop.call_exception_handler({"message": "a process was not reaped", "exception": fault})


class _Process:
    """One process, from before its start to its end."""

    def __init__(self, node: Processes, home: Home, delay_s: float) -> None:
        self._node = node
        self._home = home
        self._guests: dict[int, RemoteGuest] = {}
        # Instances that are closed here and may have said one more thing before they heard of it.
        self._parting: set[int] = set()
        self._numbers = 0
        self._programs: dict[str, int] = {}
        # Kept as long as their numbers mean something.
        self._loaded: list[Program] = []
        self._frames = Frames()
        self._unsent = bytearray()
        self._flushing = False
        self._writing = False
        self._ready = False
        self._over = False
        self._pinged = 0
        self._pinged_ns = 0
        self._talked = False
        self._began_ns = node.clock.monotonic_ns()
        self._popen: subprocess.Popen[bytes] | None = None
        self._group: Group | None = None
        self._socket, self._theirs = socket.socketpair()
        self._socket.setblocking(False)
        self._linger: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        # What is said to it until then waits in the socket.
        self._start_timer: asyncio.TimerHandle | None = node.loop.call_later(delay_s, self._start)

    @property
    def pid(self) -> int:
        """Of the process, 0 if it does not run."""
        return self._popen.pid if self._popen is not None else 0

    @property
    def lived_s(self) -> float:
        """Seconds since it was to be started."""
        return (self._node.clock.monotonic_ns() - self._began_ns) / 1e9

    # -- guests -------------------------------------------------------------------------------------------

    def guest(self, program: Program, limits: Limits) -> RemoteGuest:
        """See `Processes.guest`."""
        if len(self._guests) >= instances_max(self._node.mappings_max):
            raise too_many_instances(len(self._guests), self._node.mappings_max)
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._numbers += 1
        guest = self._guests[self._numbers] = RemoteGuest(self, self._numbers, self._node.contract)
        number = self._program(program)
        self.say(Word.MAKE, guest.number, number, limits.memory_bytes_max, limits.cpu_ms_per_message_max * 1_000_000)
        return guest

    def _program(self, program: Program) -> int:
        hash_ = program.loaded.hash
        number = self._programs.get(hash_)
        if number is None:
            number = self._programs[hash_] = len(self._programs)
            self._loaded.append(program)
            self.say(Word.LOAD, number, hash_, str(self._node.compiled_file(program)))
        return number

    def closed(self, guest: RemoteGuest, *, running: bool) -> None:
        """An instance is not needed any more."""
        if self._guests.pop(guest.number, None) is None or self._over:
            return
        if running:
            self._parting.add(guest.number)
        self.say(Word.CLOSE, guest.number)
        if not self._guests:
            self._linger = self._node.loop.call_later(self._node.lingers_s, self._rest)

    def _rest(self) -> None:
        self.end("no actor of it lives any more", orderly=True)

    # -- start and end ------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._start_timer = None
        node = self._node
        settings = Settings(self._theirs.fileno(), os.getpid(), str(node.components), node.limits.slice_ms)
        # Nothing else of the node's environment, where secrets may be.
        environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "LANG") if name in os.environ}
        try:
            self._popen = subprocess.Popen(
                node.command(settings),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(self._theirs.fileno(),),
                env=environment,
                # A terminal's Ctrl-C is for the node, which ends it in its own time.
                start_new_session=True,
            )
        except OSError as error:
            self._theirs.close()
            self._lose(exits.crashed("process", f"the application's process could not be started: {error}"))
            return
        self._began_ns = node.clock.monotonic_ns()
        self._theirs.close()
        if node.cgroups is not None:
            self._group = node.cgroups.confine(self._popen.pid, self._home.memory_bytes_max)
        node.loop.add_reader(self._socket, self._readable)
        self._flush()
        self._look_later()

    def end(self, reason: str, *, orderly: bool) -> None:
        """End it now, by the node's will."""
        self._lose(exits.crashed("process", reason), orderly=orderly)

    def _lose(self, exit_: Exit | None, *, orderly: bool = False) -> None:
        """It is over: its actors exit, with this reason or, if None, with what the kernel says it died of."""
        if self._over:
            return
        self._over = True
        delay_s = self._node.ended(self._home, self, orderly=orderly)
        for timer in (self._linger, self._look_timer, self._start_timer):
            if timer is not None:
                timer.cancel()
        self._node.loop.remove_reader(self._socket)
        if self._writing:
            self._node.loop.remove_writer(self._socket)
        self._socket.close()
        self._theirs.close()
        self._unsent.clear()
        if self._popen is None:
            self._tell(exit_ or exits.crashed("process", "the application's process was never started"), delay_s)
            return
        if exit_ is not None:
            if not orderly:
                self._popen.kill()
            self._tell(exit_, delay_s)
        self._node.reap(self._reap(exit_, delay_s))

    async def _reap(self, told: Exit | None, delay_s: float) -> None:
        popen = self._popen
        assert popen is not None
        try:
            code = await asyncio.to_thread(popen.wait, _ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            popen.kill()
            code = await asyncio.to_thread(popen.wait)
        assert popen.stderr is not None
        with popen.stderr as stderr:
            os.set_blocking(stderr.fileno(), False)
            words = (stderr.read(_STDERR_BYTES_MAX) or b"").decode(errors="replace").strip()
        group = self._group
        if told is None:
            out_of_memory = group is not None and group.was_out_of_memory()
            self._tell(_cause(code, words, out_of_memory, self._home.memory_bytes_max), delay_s)
        if group is not None:
            group.remove()

    def _tell(self, exit_: Exit, delay_s: float) -> None:
        if self._popen is not None:
            self._node.events.emit(
                ProcessEnded(self._home.scope, self._home.name, self._popen.pid, exit_.message, delay_s)
            )
        # Whoever hears of it closes its guest.
        for guest in tuple(self._guests.values()):
            guest.lose(exit_)

    # -- what it is told ----------------------------------------------------------------------------------

    def say(self, *parts: Any) -> None:
        """Send a frame, with others of the same turn of the loop.

        Raises:
            TooLong
        """
        if self._over:
            return
        self._unsent += frame(*parts)
        self._talked = True
        if len(self._unsent) > _UNSENT_BYTES_MAX:
            self._node.loop.call_soon(self._lose, _violation("it takes nothing that is sent to it"))
        elif not self._flushing and not self._writing:
            self._flushing = True
            self._node.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._over or self._popen is None:
            return
        try:
            sent = self._socket.send(self._unsent) if self._unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            # The reader hears of the end, too, and everything that was said before it.
            return
        del self._unsent[:sent]
        if bool(self._unsent) is not self._writing:
            self._writing = not self._writing
            if self._writing:
                self._node.loop.add_writer(self._socket, self._flush)
            else:
                self._node.loop.remove_writer(self._socket)

    # -- what it says -------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose(None)
            return
        self._talked = True
        try:
            for content in self._frames.feed(data):
                self._heard(content)
                if self._over:
                    return
        except Malformed as fault:
            self._lose(_violation(fault.message))

    def _heard(self, content: list[Any]) -> None:
        match content:
            case [Word.DONE, number, used_ns, result]:
                if (guest := self._of(number)) is not None:
                    guest.done(_used(used_ns), decode_result(result))
            case [Word.ASKS, number, used_ns, function, arguments]:
                if (guest := self._of(number)) is not None:
                    guest.asks(_used(used_ns), function, arguments)
            case [Word.SPENT, number, used_ns]:
                if (guest := self._of(number)) is not None:
                    guest.spent(_used(used_ns))
            case [Word.PONG, number] if self._pinged_ns and number == self._pinged:
                self._pinged_ns = 0
            case [Word.READY, list(missing)] if not self._ready and all(isinstance(each, str) for each in missing):
                self._ready = True
                self._node.events.emit(
                    ProcessStarted(self._home.scope, self._home.name, self.pid, _short(missing))
                )
            case _:
                raise Malformed(f"a frame that means nothing here: {content!r:.100}")

    def _of(self, number: Any) -> RemoteGuest | None:
        """The guest of an instance that says something; None if it has been closed meanwhile."""
        number = integer(number, 1, self._numbers)
        guest = self._guests.get(number)
        if guest is None:
            if number not in self._parting:
                raise Malformed(f"instance {number} says something that nobody asked it")
            self._parting.discard(number)
        return guest

    # -- whether it behaves -------------------------------------------------------------------------------

    def _look_later(self) -> None:
        busy, self._talked = self._talked, False
        self._look_timer = self._node.loop.call_later(_LOOK_BUSY_S if busy else _LOOK_IDLE_S, self._look)

    def _look(self) -> None:
        now_ns = self._node.clock.monotonic_ns()
        if self._pinged_ns and now_ns - self._pinged_ns > self._node.answers_within_s * 1e9:
            self._lose(_violation(f"it has not answered for {self._node.answers_within_s:g} s"))
            return
        memory_max = self._home.memory_bytes_max
        if self._group is None and (used := memory_bytes(self.pid)) > memory_max:
            self._lose(_out_of_memory(memory_max, f"{used} bytes"))
            return
        talked = self._talked
        if self._ready and not self._pinged_ns:
            self._pinged += 1
            self._pinged_ns = now_ns
            self.say(Word.PING, self._pinged)
        # Being asked whether one lives is no work.
        self._talked = talked
        self._look_later()


class RemoteGuest(Remote):
    """An instance in an application's process.  See `actors.guest.Guest` for what its methods promise."""

    __slots__ = ("_called", "_contract", "_news", "_process", "_result", "_running", "number", "request")

    def __init__(self, process: _Process, number: int, contract: Contract) -> None:
        super().__init__()
        self._process = process
        self._contract = contract
        self.number = number
        self.request: HostRequest | None = None
        # The host's function whose answer it waits for.
        self._called = 0
        # What `poll` answers next, if there is news.
        self._news: Poll | None = None
        self._result: Result = None
        # The process owes us word of it.
        self._running = False

    # -- what the scheduler does --------------------------------------------------------------------------

    def begin(self, export: Export, *arguments: Any) -> None:
        assert not self._running, "an instance never runs two calls at once"
        if isinstance(self._result, Trapped):
            # Lost before anybody could be told.
            self._news = Poll.DONE
            return
        self._tell(Word.BEGIN, export.value, self._contract.call(export, arguments))

    def poll(self) -> Poll:
        news, self._news = self._news, None
        if news is None:
            if not self._running:
                # It was told that its time is over, and is to go on nevertheless.
                self._tell(Word.GO_ON)
            return Poll.AWAY
        if news is not Poll.REQUEST:
            self.request = None
        return news

    def answer(self, value: Any) -> None:
        self._tell(Word.ANSWER, self._contract.answer(self._called, value))

    def trap(self, message: str) -> None:
        self._news, self._result = Poll.DONE, Trapped(exits.crashed("trap", message))

    def take_result(self) -> Result:
        return self._result

    def close(self) -> None:
        self.on_news = self.on_lost = None
        self._process.closed(self, running=self._running)

    def _tell(self, word: Word, *parts: Any) -> None:
        try:
            self._process.say(word, self.number, *parts)
        except TooLong as error:
            self._news = Poll.DONE
            self._result = Trapped(exits.limit("frame", f"it was given too much at once: {error.message}"))
            return
        self._running = True

    # -- what the process says ----------------------------------------------------------------------------

    def done(self, used_ns: int, result: Result) -> None:
        """The call is over."""
        self._report(Poll.DONE)
        self._result = result
        self._wake(used_ns)

    def asks(self, used_ns: int, function: Any, arguments: Any) -> None:
        """It calls the host."""
        self._report(Poll.REQUEST)
        self.request = HostRequest(*self._contract.asked(function, arguments))
        self._called = function
        self._wake(used_ns)

    def spent(self, used_ns: int) -> None:
        """It has used the processor time that one message may take."""
        self._report(Poll.PREEMPTED)
        self._wake(used_ns)

    def lose(self, exit_: Exit) -> None:
        """The process is gone, and the instance with it."""
        self._running = False
        self._news, self._result = Poll.DONE, Trapped(exit_)
        if self.on_lost is not None:
            self.on_lost(exit_)

    def _report(self, news: Poll) -> None:
        if not self._running:
            raise Malformed(f"instance {self.number} says something that nobody asked it")
        self._running = False
        self._news = news

    def _wake(self, used_ns: int) -> None:
        if self.on_news is not None:
            self.on_news(used_ns)


def _short(phrases: list[str]) -> tuple[str, ...]:
    return tuple(each[:200] for each in phrases[:10])


def _used(value: Any) -> int:
    return integer(value, 0, _USED_NS_MAX)


def _violation(what: str) -> Exit:
    return exits.crashed("process", f"the application's process was killed: {what}")


def _out_of_memory(bytes_max: int, used: str) -> Exit:
    return exits.limit(
        "process-memory",
        f"the application's process used more memory ({used}) than process_memory_bytes_max = {bytes_max}",
    )


def _cause(code: int, words: str, out_of_memory: bool, bytes_max: int) -> Exit:
    """What a process died of that nobody here killed."""
    if out_of_memory:
        return _out_of_memory(bytes_max, "and the kernel ended it")
    last = words.splitlines()[-1][:300] if words else ""
    if code == -signal.SIGSYS:
        return exits.crashed("process", "the application's process tried a system call that is forbidden to it", words)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
    return exits.crashed("process", f"the application's process {how}{': ' + last if last else ''}", words)


