"""The process that holds an application's instances: `python -m plexspaces_runtime.isolation.child SETTINGS`.

It runs fibers, and nothing else of an actor is here: mailboxes, supervision, stores and links are the node's, and every
host call goes there.  One thread, one socket.  Guests take turns of one slice; between two of them the socket is looked
at, so that an instance that computes without end is closed as soon as the node says so.

Before anything of a guest's is loaded the process gives up what it does not need for that: see `confined`.  SETTINGS is
a JSON object with the fields of `Settings`.
"""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from ..actors import exits
from ..actors.guest import Export, HostRequest, Poll, Trapped
from ..clock import SystemClock
from ..config import Limits
from ..errors import PlexSpacesError, Unavailable
from ..wasm.audit import audit
from ..wasm.cache import Loaded, read_compiled
from ..wasm.engine import Machinery, Program
from ..wasm.fiber import Instance
from . import confine, landlock, seccomp
from .landlock import READ, Rules
from .wire import Contract, Frames, TooLong, Word, encode_result, frame, internal

_READ_BYTES: Final = 256 * 1024
# What is to be sent is sent when so much of it has come together, or so much time has passed.
_SEND_BYTES: Final = 64 * 1024
_SEND_NS: Final = 1_000_000
# The socket, three standard streams, and some for files that are being mapped.
_FILES_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class Settings:
    """What the node tells the process when it starts it.

    Attributes:
        descriptor: of the socket to the node.
        parent: the node's process.
        components: the directory with compiled components.
        slice_ms: how long a guest computes before others have their turn.
    """

    descriptor: int
    parent: int
    components: str
    slice_ms: int

    def text(self) -> str:
        """As the one argument of the command."""
        return orjson.dumps(asdict(self)).decode()


def main(arguments: list[str]) -> int:
    """Serve the node until it closes the socket."""
    settings = Settings(**orjson.loads(arguments[0]))
    confine.die_with_parent(settings.parent)
    with socket.socket(fileno=settings.descriptor) as node:
        machinery = Machinery(settings.slice_ms)
        missing = confined(Path(settings.components))
        Server(node, machinery).serve(missing)
    return 0


def confined(components: Path) -> list[str]:
    """Give up everything but computing, reading compiled components, and the descriptors that are open.

    Returns:
        What this kernel could not do of it, a phrase each: the process is isolated nevertheless.
    """
    missing: list[str] = []

    def attempt(step: Callable[[], Iterable[str] | None]) -> None:
        try:
            missing.extend(step() or ())
        except Unavailable as error:
            missing.append(error.message)

    confine.first_to_be_killed()
    attempt(confine.no_core_dumps)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES_MAX, _FILES_MAX))
    # It writes no file.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    attempt(confine.no_new_privileges)
    attempt(confine.drop_capabilities)
    rules = Rules(paths=((components, READ),), bind=frozenset(), connect=frozenset())
    attempt(lambda: landlock.restrict(rules))
    # The last: the others are calls that it forbids.
    attempt(lambda: seccomp.install(seccomp.isolated(os.getpid())))
    return missing


class _Guest:
    """An instance and what is under way in it."""

    __slots__ = ("asked", "cpu_ns_max", "instance", "number", "reported_ns", "used_ns")

    def __init__(self, number: int, instance: Instance, cpu_ns_max: int) -> None:
        self.number = number
        self.instance = instance
        self.cpu_ns_max = cpu_ns_max
        # The host's function that it waits for.
        self.asked = 0
        # Since the call began, or since the node said to go on; and how much of it the node knows of.
        self.used_ns = 0
        self.reported_ns = 0

    def begin(self) -> None:
        """A call begins, or goes on with as much time as at its beginning."""
        self.used_ns = self.reported_ns = 0

    def unreported_ns(self) -> int:
        """What the node has yet to hear of, as it is now told."""
        used_ns = self.used_ns - self.reported_ns
        self.reported_ns = self.used_ns
        return used_ns


class Server:
    """Does what the node says.

    Args:
        node: the socket.
        machinery: what instances are made with.
    """

    def __init__(self, node: socket.socket, machinery: Machinery) -> None:
        self._node = node
        self._machinery = machinery
        self._contract = Contract(machinery.package)
        self._clock = SystemClock()
        self._frames = Frames()
        self._out = bytearray()
        self._programs: dict[int, Program] = {}
        self._guests: dict[int, _Guest] = {}
        # Guests that can go on, in turn.
        self._ready: deque[_Guest] = deque()

    def serve(self, missing: list[str]) -> None:
        """Until the node closes the socket."""
        self._machinery.ticker.start()
        self._say(Word.READY, missing)
        self._send()
        # Everything up to here lives as long as the process.
        gc.freeze()
        while self._listen():
            self._work()

    # -- the socket ---------------------------------------------------------------------------------------

    def _listen(self) -> bool:
        """Take what the node has said; wait for it if there is nothing else to do.  False at the end."""
        try:
            data = self._node.recv(_READ_BYTES, socket.MSG_DONTWAIT if self._ready else 0)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if not data:
            return False
        for content in self._frames.feed(data):
            self._obey(content)
        return True

    def _say(self, *parts: Any) -> None:
        self._out += frame(*parts)

    def _send(self) -> None:
        if self._out:
            self._node.sendall(self._out)
            self._out.clear()

    def _obey(self, content: list[Any]) -> None:
        match content:
            case [Word.BEGIN, number, export, arguments]:
                self._begin(self._guests[number], Export(export), arguments)
            case [Word.ANSWER, number, value]:
                self._answer(self._guests[number], value)
            case [Word.MAKE, number, program, memory_bytes_max, cpu_ns_max]:
                limits = replace(Limits(), memory_bytes_max=memory_bytes_max)
                instance = Instance(self._machinery, self._programs[program], limits)
                self._guests[number] = _Guest(number, instance, cpu_ns_max)
            case [Word.CLOSE, number]:
                self._close(number)
            case [Word.GO_ON, number]:
                guest = self._guests[number]
                guest.begin()
                self._ready.append(guest)
            case [Word.LOAD, program, hash_, path]:
                self._programs[program] = self._load(hash_, Path(path))
            case [Word.PING, number]:
                self._say(Word.PONG, number)
            case _:
                raise AssertionError(f"the node said what this process does not know: {content!r:.200}")

    def _load(self, hash_: str, path: Path) -> Program:
        component = read_compiled(self._machinery.engine, path)
        if component is None:
            raise SystemExit(f"the compiled component {path} is damaged")
        known = audit(component, self._machinery.engine, self._machinery.package)
        return Program(Loaded(hash_, component, known, 0))

    # -- guests -------------------------------------------------------------------------------------------

    def _begin(self, guest: _Guest, export: Export, arguments: Any) -> None:
        guest.begin()
        try:
            guest.instance.begin(export, *self._contract.called(export, arguments))
        except Exception as fault:  # noqa: BLE001 - a crash becomes an exit
            self._finished(guest, internal(fault))
            return
        self._ready.append(guest)

    def _answer(self, guest: _Guest, value: Any) -> None:
        try:
            guest.instance.answer(self._contract.answered(guest.asked, value))
        except Exception as fault:  # noqa: BLE001 - a crash becomes an exit
            self._finished(guest, internal(fault))
            return
        self._ready.append(guest)

    def _close(self, number: int) -> None:
        guest = self._guests.pop(number)
        if guest in self._ready:
            self._ready.remove(guest)
        guest.instance.close()

    def _work(self) -> None:
        """Let guests take turns, until there are none or it is time to look at the socket."""
        until_ns = self._clock.monotonic_ns() + _SEND_NS
        while self._ready:
            self._run(self._ready.popleft())
            if len(self._out) >= _SEND_BYTES or self._clock.monotonic_ns() >= until_ns:
                break
        self._send()

    def _run(self, guest: _Guest) -> None:
        ticker, cpu_ns = self._machinery.ticker, self._clock.thread_cpu_ns
        before_ns = cpu_ns()
        ticker.enter()
        try:
            outcome = guest.instance.poll()
        except Exception as fault:  # noqa: BLE001 - a crash becomes an exit
            self._finished(guest, internal(fault))
            return
        finally:
            ticker.leave()
        guest.used_ns += cpu_ns() - before_ns
        match outcome:
            case Poll.DONE:
                self._done(guest)
            case Poll.REQUEST:
                self._asks(guest)
            case _ if guest.used_ns < guest.cpu_ns_max:
                self._ready.append(guest)
            case _:
                self._say(Word.SPENT, guest.number, guest.unreported_ns())

    def _done(self, guest: _Guest) -> None:
        try:
            result = guest.instance.take_result()
        except Exception as fault:  # noqa: BLE001 - a crash becomes an exit
            result = internal(fault)
        self._finished(guest, result)

    def _finished(self, guest: _Guest, result: Any) -> None:
        used_ns = guest.unreported_ns()
        try:
            self._say(Word.DONE, guest.number, used_ns, encode_result(result))
        except TooLong as error:
            self._say(Word.DONE, guest.number, used_ns, encode_result(_too_long(error)))

    def _asks(self, guest: _Guest) -> None:
        request = guest.instance.request
        assert isinstance(request, HostRequest)
        number = self._contract.numbers[request.interface, request.function]
        used_ns = guest.unreported_ns()
        try:
            self._say(Word.ASKS, guest.number, used_ns, number, self._contract.ask(number, request.arguments))
        except TooLong as error:
            self._say(Word.DONE, guest.number, used_ns, encode_result(_too_long(error)))
            return
        guest.asked = number


def _too_long(error: PlexSpacesError) -> Trapped:
    return Trapped(exits.limit("frame", f"it wrote or asked for too much at once: {error.message}"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
