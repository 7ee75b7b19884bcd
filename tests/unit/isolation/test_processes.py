"""What the node does with a process that lies, is silent, dies or takes too much; the processes are scripts."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plexspaces_runtime.actors.exits import Exit
from plexspaces_runtime.actors.guest import Export, HostRequest, Ok, Poll, Trapped
from plexspaces_runtime.clock import SystemClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.events import Event, EventBus, ProcessEnded, ProcessStarted
from plexspaces_runtime.isolation.child import Settings
from plexspaces_runtime.isolation.processes import Home, Processes, RemoteGuest
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.wasm.wit import load

HOME = Home(Scope("acme", "default"), "application", "shop", 1 << 30)
PROGRAM: Any = SimpleNamespace(loaded=SimpleNamespace(hash="00"))

# Speaks the protocol without any of our code, and does what `BODY` says with each frame that it gets.
SCRIPT = """
import json, os, signal, socket, struct, sys, time
node = socket.socket(fileno=json.loads(sys.argv[1])["descriptor"])
LOAD, MAKE, BEGIN, ANSWER, GO_ON, CLOSE, PING, READY, DONE, ASKS, SPENT, PONG = range(1, 13)
def say(*parts):
    body = json.dumps(parts).encode()
    node.sendall(struct.pack("<I", len(body)) + body)
def hear():
    head = node.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        sys.exit(0)
    return json.loads(node.recv(struct.unpack("<I", head)[0], socket.MSG_WAITALL))
say(READY, [])
while True:
    word, *rest = hear()
    if word == PING:
        say(PONG, rest[0])
        continue
    {body}
"""
HONEST = """
    if word == BEGIN:
        say(DONE, rest[0], 1000, {"handle": "a reply"}.get(rest[1]))
"""


class Bed:
    """The processes, what they said, and a way to wait for it."""

    def __init__(self, processes: Processes, events: EventBus) -> None:
        self.processes = processes
        self.seen: list[Event] = []
        events.subscribe(self.seen.append)

    def events(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    def guest(self) -> Caller:
        guest = self.processes.guest(HOME, PROGRAM, Limits())
        assert isinstance(guest, RemoteGuest)
        return Caller(guest)

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not happened():
                await asyncio.sleep(0.002)


class Caller:
    """Uses a guest as the scheduler does."""

    def __init__(self, guest: RemoteGuest) -> None:
        self.guest = guest
        self.lost: Exit | None = None
        self.used_ns = 0
        self._news = asyncio.Event()

    async def poll(self) -> Poll:
        """Until there is news, or the instance is lost."""
        while (outcome := self.guest.poll()) is Poll.AWAY:
            self._news.clear()
            self.guest.on_news, self.guest.on_lost = self._on_news, self._on_lost
            async with asyncio.timeout(20):
                await self._news.wait()
        return outcome

    async def call(self, export: Export = Export.INSTANTIATE, *arguments: Any) -> Poll:
        self.guest.begin(export, *arguments)
        return await self.poll()

    async def fails(self) -> str:
        """Call, and say what the instance died of."""
        assert await self.call() is Poll.DONE
        result = self.guest.take_result()
        assert isinstance(result, Trapped)
        self.guest.close()
        return result.exit.text

    def _on_news(self, used_ns: int) -> None:
        self.used_ns += used_ns
        self._news.set()

    def _on_lost(self, exit_: Exit) -> None:
        self.lost = exit_
        self._news.set()


@asynccontextmanager
async def processes(body: str = HONEST, **options: Any) -> AsyncIterator[Bed]:
    def command(settings: Settings) -> list[str]:
        return [sys.executable, "-I", "-c", SCRIPT.replace("{body}", body.strip()), settings.text()]

    events = EventBus()
    made = Processes(
        package=load(),
        components=Path("/nowhere"),
        compiled_file=lambda _program: Path("/nowhere/00"),
        limits=Limits(),
        clock=SystemClock(),
        events=events,
        loop=asyncio.get_running_loop(),
        command=command,
        **options,
    )
    try:
        yield Bed(made, events)
    finally:
        await made.close()
    assert not made.pids


async def test_calls_and_replies_pass() -> None:
    async with processes() as bed:
        caller = bed.guest()
        assert await caller.call() is Poll.DONE
        assert caller.guest.take_result() is None
        assert await caller.call(Export.HANDLE, "id", "call", "op", "{}", "", "") is Poll.DONE
        assert caller.guest.take_result() == "a reply"
        assert caller.used_ns == 2_000
        caller.guest.close()
        (started,) = bed.events(ProcessStarted)
        assert bed.processes.pids == {HOME.title: started.pid}
    assert [event.reason for event in bed.events(ProcessEnded)] == ["the node stops"]


async def test_host_calls_pass_with_their_types() -> None:
    functions = load().interfaces["keyvalue"].functions
    body = """
    if word == BEGIN:
        say(ASKS, rest[0], 5, NUMBER, ["a key"])
    elif word == ANSWER:
        say(DONE, rest[0], 5, json.dumps(rest[1]))
    """
    async with processes() as bed:
        number = bed.processes.contract.numbers["keyvalue", "get"]
    assert [name for name, _ in functions["get"].params] == ["key"]
    async with processes(body.replace("NUMBER", str(number))) as bed:
        caller = bed.guest()
        assert await caller.call() is Poll.REQUEST
        request = caller.guest.request
        assert isinstance(request, HostRequest)
        assert (request.interface, request.function, request.arguments) == ("keyvalue", "get", ("a key",))
        caller.guest.answer(Ok("a value"))
        assert await caller.poll() is Poll.DONE
        assert caller.guest.take_result() == '[0, "a value"]'
        caller.guest.close()


async def test_a_request_that_is_refused_ends_the_instance() -> None:
    async with processes("if word == BEGIN: say(ASKS, rest[0], 5, 0, %s)" % await _arguments_of_the_first()) as bed:
        caller = bed.guest()
        assert await caller.call() is Poll.REQUEST
        caller.guest.trap("no such thing")
        assert caller.guest.poll() is Poll.DONE
        result = caller.guest.take_result()
        assert isinstance(result, Trapped)
        assert result.exit.text == "crashed(trap, no such thing)"
        caller.guest.close()


async def _arguments_of_the_first() -> str:
    """Arguments that fit function number 0."""
    package = load()
    interface = next(iter(package.interfaces.values()))
    function = next(iter(interface.functions.values()))
    samples = {"string": '"x"', "u64": "1", "u32": "1", "s64": "1", "bool": "True"}
    return "[" + ", ".join(samples[getattr(type_, "name", "")] for _, type_ in function.params) + "]"


async def test_one_that_has_used_its_time_goes_on_if_it_is_let() -> None:
    body = """
    if word == BEGIN:
        say(SPENT, rest[0], 7)
    elif word == GO_ON:
        say(DONE, rest[0], 8, None)
    """
    async with processes(body) as bed:
        caller = bed.guest()
        assert await caller.call() is Poll.PREEMPTED
        assert await caller.poll() is Poll.DONE
        assert caller.used_ns == 15
        caller.guest.close()


LIES = {
    "no JSON": 'node.sendall(b"\\x02\\x00\\x00\\x00[[")',
    "a frame without end": 'node.sendall(b"\\xff\\xff\\xff\\xff")',
    "no array": 'node.sendall(b"\\x02\\x00\\x00\\x00{}")',
    "a word that there is not": "say(77, rest[0])",
    "a word of the node's": "say(BEGIN, rest[0], 'handle', [])",
    "ready again": "say(READY, [])",
    "an answer nobody asked for": "say(PONG, 5)",
    "another's instance": "say(DONE, rest[0] + 1, 1, None)",
    "no instance": "say(DONE, 0, 1, None)",
    "a number that is none": "say(DONE, True, 1, None)",
    "time that went back": "say(DONE, rest[0], -1, None)",
    "all the time there is": "say(DONE, rest[0], 1 << 63, None)",
    "a reply that is none": "say(DONE, rest[0], 1, {'a': 1})",
    "an exit of the node's": "say(DONE, rest[0], 1, ['killed', '', '', ''])",
    "a function that there is not": "say(ASKS, rest[0], 1, 9999, [])",
    "no arguments": "say(ASKS, rest[0], 1, 0, None)",
    "arguments of other types": "say(ASKS, rest[0], 1, 0, [[], [], [], [], []])",
    "too little": "say(DONE, rest[0])",
    "too much": "say(DONE, rest[0], 1, None, None)",
    "two replies": "say(DONE, rest[0], 1, None); say(DONE, rest[0], 1, None)",
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_process_that_lies_is_killed(lie: str) -> None:
    async with processes(f"if word == BEGIN: {LIES[lie]}") as bed:
        first, second = bed.guest(), bed.guest()
        first.guest.begin(Export.INSTANTIATE)
        poll = asyncio.ensure_future(first.poll())
        await bed.until(lambda: bool(bed.events(ProcessEnded)))
        await poll
        (ended,) = bed.events(ProcessEnded)
        assert ended.reason.startswith("the application's process was killed: ")
        # Whoever had not been called yet learns of it, too.
        assert (await second.fails()).startswith("crashed(process, the application's process was killed: ")
        first.guest.close()
    assert not os.path.exists(f"/proc/{ended.pid}")


async def test_what_a_closed_instance_says_late_is_ignored_once() -> None:
    body = """
    if word == CLOSE:
        say(DONE, rest[0], 1, None)
    """
    async with processes(body) as bed:
        first, second = bed.guest(), bed.guest()
        first.guest.begin(Export.INSTANTIATE)
        assert first.guest.poll() is Poll.AWAY
        first.guest.close()
        await asyncio.sleep(0)
        second.guest.close()
        # The first owed us a word, the second did not.
        await bed.until(lambda: bool(bed.events(ProcessEnded)))
        assert "instance 2 says something that nobody asked it" in bed.events(ProcessEnded)[0].reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGSYS)", "tried a system call that is forbidden to it"),
        ("sys.exit('it is broken')", "ended with exit status 1: it is broken"),
        ("sys.exit(0)", "ended with exit status 0"),
    ],
)
async def test_what_a_process_died_of_is_said(body: str, reason: str) -> None:
    async with processes(f"if word == BEGIN: {body}") as bed:
        caller = bed.guest()
        assert reason in await caller.fails()
        assert caller.lost is not None


async def test_one_that_does_not_answer_is_killed() -> None:
    async with processes("if word == BEGIN: os.kill(os.getpid(), signal.SIGSTOP)", answers_within_s=0.3) as bed:
        assert "it has not answered for 0.3 s" in await bed.guest().fails()


async def test_one_that_takes_too_much_memory_is_killed() -> None:
    async with processes("if word == BEGIN: kept = bytearray(os.urandom(1)) * (400 << 20); time.sleep(60)") as bed:
        small = Home(HOME.scope, HOME.kind, HOME.name, 128 << 20)
        guest = bed.processes.guest(small, PROGRAM, Limits())
        assert isinstance(guest, RemoteGuest)
        assert await Caller(guest).fails() == "limit(process-memory)"
        assert f"process_memory_bytes_max = {128 << 20}" in bed.events(ProcessEnded)[0].reason


async def test_one_that_cannot_be_started_is_told_of() -> None:
    async with processes() as bed:
        bed.processes.command = lambda _settings: ["/nonexistent/python"]
        assert "could not be started" in await bed.guest().fails()


async def test_pauses_grow_and_the_next_one_waits() -> None:
    async with processes("if word == BEGIN: sys.exit(1)") as bed:
        for _ in range(3):
            await bed.guest().fails()
        delays = [event.delay_s for event in bed.events(ProcessEnded)]
        assert delays == [0.0, 0.1, 0.2]


async def test_a_process_without_actors_ends_and_the_next_actor_gets_another() -> None:
    async with processes(lingers_s=0.05) as bed:
        first = bed.guest()
        await first.call()
        second = bed.guest()
        first.guest.close()
        await second.call()
        second.guest.close()
        await bed.until(lambda: bool(bed.events(ProcessEnded)))
        assert bed.events(ProcessEnded)[0].delay_s == 0.0
        third = bed.guest()
        assert await third.call() is Poll.DONE
        assert len(bed.events(ProcessStarted)) == 2
        third.guest.close()


async def test_much_passes_in_both_directions_at_once() -> None:
    """More than a socket holds, while the process has as much to say."""
    async with processes("if word == BEGIN: say(DONE, rest[0], 1, 'y' * 3_000_000)") as bed:
        callers = [bed.guest() for _ in range(4)]
        for caller in callers:
            caller.guest.begin(Export.HANDLE, "id", "call", "op", "x" * 3_000_000, "", "")
        assert [await caller.poll() for caller in callers] == [Poll.DONE] * 4
        for caller in callers:
            assert caller.guest.take_result() == "y" * 3_000_000
            caller.guest.close()


async def test_a_process_that_takes_nothing_is_killed_before_it_fills_the_node() -> None:
    async with processes("if word == MAKE: os.kill(os.getpid(), signal.SIGSTOP)") as bed:
        callers = [bed.guest() for _ in range(5)]
        await bed.until(lambda: bool(bed.events(ProcessStarted)))
        for caller in callers:
            caller.guest.begin(Export.HANDLE, "id", "call", "op", "x" * (40 << 20), "", "")
        await bed.until(lambda: bool(bed.events(ProcessEnded)))
        assert "takes nothing that is sent to it" in bed.events(ProcessEnded)[0].reason
        for caller in callers:
            assert caller.guest.poll() is Poll.DONE
            caller.guest.close()


async def test_too_much_at_once_ends_the_actor_and_not_the_process() -> None:
    async with processes() as bed:
        caller = bed.guest()
        await caller.call()
        assert await caller.call(Export.HANDLE, "id", "call", "op", "x" * (65 << 20), "", "") is Poll.DONE
        result = caller.guest.take_result()
        assert isinstance(result, Trapped)
        assert result.exit.text == "limit(frame)"
        caller.guest.close()
        other = bed.guest()
        assert await other.call() is Poll.DONE
        other.guest.close()


async def test_no_secret_of_the_nodes_environment_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLEXSPACES_SECRETS_KEY", "very secret")
    async with processes("if word == BEGIN: say(DONE, rest[0], 1, ' '.join(sorted(os.environ)))") as bed:
        caller = bed.guest()
        await caller.call()
        names = str(caller.guest.take_result()).split()
        assert set(names) <= {"LANG", "LC_CTYPE", "LD_LIBRARY_PATH"}
        caller.guest.close()
