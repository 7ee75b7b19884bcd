"""Requests of durable actors: one that was under way when the node died is made again with the same key, others never
are, and what a restart cuts off ends with an error that replay agrees with."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.actors.guest import Err, Ok
from plexspaces_runtime.egress.model import Call, Request, Response
from plexspaces_runtime.errors import DeadlineExceeded, Unavailable
from plexspaces_runtime.node import Node
from plexspaces_runtime.scope import Address
from plexspaces_runtime.stores.journal import Entry
from tests.simulation.sandbox import Crash, Memory
from tests.simulation.test_durable_cases import ONE, SCOPE, Lives
from tests.unit.outside import Outside, Pieces
from tests.unit.scripted import call

Answer = Callable[[Call, Request], Awaitable[Any]]


class World:
    """Lives of a node, and what is outside all the time."""

    def __init__(self, folder: Path, answer: Answer, **config: Any) -> None:
        self.lives = Lives(folder, **config)
        self.answer = answer
        self.calls: list[tuple[Call, Request]] = []
        self.lives.egress = self._outside

    def _outside(self, **known: Any) -> Outside:
        outside = Outside(lambda call, request: self.answer(call, request), flushed=known["flushed"])
        outside.calls = self.calls
        return outside

    @property
    def keys(self) -> list[str]:
        return [call.idempotency_key for call, _ in self.calls]

    def paths(self) -> list[str]:
        return [request.path for _, request in self.calls]

    def live(self, do: Callable[[Node], Awaitable[Any]]) -> Any:
        return self.lives.live(do)


async def echo(_call: Call, request: Request) -> Response:
    return Response(200, {}, request.path.encode())


def fetch(path: str) -> Any:
    return call("http", "fetch", ("api", "POST", path, "{}", "", False, 0))


def pay(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
    """Make some requests, and remember what came."""
    got = memory.values.setdefault("got", [])
    if op == "pay":
        for number in range(arguments["times"]):
            answer = yield fetch(f"/{arguments['what']}/{number}")
            got.append(answer.value[2] if isinstance(answer, Ok) else answer.value[0])
    return got


def asking(op: str, arguments: str = "{}") -> Callable[[Node], Awaitable[Any]]:
    async def do(node: Node) -> Any:
        return await node.ask(ONE, op, arguments)

    return do


async def settled(node: Node) -> None:
    """Let everything happen that can, and come to disk."""
    for _ in range(50):
        await asyncio.sleep(0.01)
    await node.stores.flushed()


@pytest.mark.parametrize("under_way", range(4))
def test_what_was_under_way_is_made_again_with_its_key_and_nothing_else_is(tmp_path: Path, under_way: int) -> None:
    dying = True

    async def answer(made: Call, request: Request) -> Response:
        if dying and request.path.endswith(f"/{under_way}"):
            await asyncio.Event().wait()
        return await echo(made, request)

    world = World(tmp_path, answer)
    world.lives.handler = pay

    async def die(node: Node) -> None:
        await node.tell(ONE, "pay", '{"what": "rent", "times": 4}')
        while len(world.calls) <= under_way:
            await asyncio.sleep(0.001)

    world.live(die)
    dying = False
    world.live(settled)
    assert world.live(asking("get")) == '["/rent/0","/rent/1","/rent/2","/rent/3"]'
    paths = world.paths()
    assert paths == [f"/rent/{number}" for number in (*range(under_way + 1), *range(under_way, 4))]
    by_path = {path: {key for other, key in zip(paths, world.keys, strict=True) if other == path} for path in paths}
    assert all(len(keys) == 1 for keys in by_path.values())
    assert len({key for keys in by_path.values() for key in keys}) == 4
    assert all(key.startswith("ps-") for key in world.keys)


def test_before_a_request_leaves_the_journal_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, echo)
    world.lives.handler = pay
    kept: list[Entry] = []

    async def look(node: Node) -> None:
        async def answer(_call: Call, _request: Request) -> Response:
            # What another life of the node would find, if this one ended now.
            row = node.stores.journal.find(ONE)
            assert row is not None
            kept.extend(node.stores.journal.entries(row.id, 0))
            return Response(200, {}, b"done")

        world.answer = answer
        await node.ask(ONE, "pay", '{"what": "rent", "times": 1}')

    world.live(look)
    assert [entry.kind for entry in kept][-2:] == ["message", "begun"]
    assert "/rent/0" in kept[-1].body


def test_who_asks_for_something_else_than_was_under_way_is_stopped(tmp_path: Path) -> None:
    async def never(_call: Call, _request: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    world = World(tmp_path, never)
    world.lives.handler = pay

    async def die(node: Node) -> None:
        await node.tell(ONE, "pay", '{"what": "rent", "times": 1}')
        while not world.calls:
            await asyncio.sleep(0.001)

    world.live(die)

    def other(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        yield fetch("/other")

    world.lives.handler = other
    world.live(settled)
    assert "nondeterminism" in world.lives.exits()[-1].reason
    assert world.paths() == ["/rent/0"]


def test_another_attempt_is_given_good_answers_again_and_asks_anew_where_it_failed(tmp_path: Path) -> None:
    outcomes: dict[str, list[Any]] = {"/a": [200], "/b": [503, DeadlineExceeded("late"), 200]}

    async def answer(_call: Call, request: Request) -> Response:
        outcome = outcomes[request.path].pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return Response(outcome, {}, b"")

    def handler(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        for path in ("/a", "/b") if op == "go" else ():
            answered = yield fetch(path)
            if isinstance(answered, Err) or answered.value[0] != 200:
                raise Crash("it did not work")
            memory.values[path] = "done"
        return sorted(key for key in memory.values if key.startswith("/"))

    world = World(tmp_path, answer)
    world.lives.handler = handler

    async def go(node: Node) -> Any:
        await node.tell(ONE, "go", "{}")
        await settled(node)
        return await node.ask(ONE, "get", "{}")

    assert world.live(go) == '["/a","/b"]'
    assert world.paths() == ["/a", "/b", "/b", "/b"]
    assert len(set(world.keys)) == 2, "another attempt at the same request has the same key"


def test_keys_tell_actors_messages_and_places_apart(tmp_path: Path) -> None:
    world = World(tmp_path, echo)
    world.lives.handler = pay

    async def ask(node: Node) -> None:
        await node.spawn(Address(SCOPE, "one", "2"))
        for address in (ONE, Address(SCOPE, "one", "2")):
            # The same message id for both: it may be its sender's choice.
            await node.ask(address, "pay", '{"what": "rent", "times": 2}', message_id="k-1")
            await node.ask(address, "pay", '{"what": "rent", "times": 2}', message_id="k-2")

    world.live(ask)
    assert len(set(world.keys)) == len(world.keys) == 8


# -- piece by piece ----------------------------------------------------------------------------------------


def listen(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
    """Read an answer to its end; if it is cut off, once more from the start."""
    got = memory.values.setdefault("got", [])
    while op == "listen":
        answer = yield call("http", "fetch-stream", ("api", "GET", "/talk", "{}", "", False, 0))
        id_ = answer.value[2]
        while isinstance(piece := (yield call("http", "read-chunk", id_)), Ok):
            got.append(piece.value)
            if piece.value is None:
                yield call("http", "close", id_)
                return got
        got.append(piece.value[0])
    return got


@pytest.mark.parametrize("read", [0, 1, 2])
def test_an_answer_that_a_restart_cuts_off_says_so_and_replay_agrees(tmp_path: Path, read: int) -> None:
    bodies: list[Pieces] = []

    async def talk(_call: Call, _request: Request) -> Pieces:
        waits: list[Any] = [asyncio.Event()] if not bodies else []
        bodies.append(Pieces([*["one", "two"][:read], *waits, *["one", "two"][read:]]))
        return bodies[-1]

    world = World(tmp_path, talk, checkpoint_interval=100)
    world.lives.handler = listen

    async def die(node: Node) -> None:
        await node.tell(ONE, "listen", "{}")
        while not (bodies and bodies[0].reading):
            await asyncio.sleep(0.001)
        await node.stores.flushed()

    world.live(die)
    world.live(settled)
    before = ["one", "two"][:read]
    expected = [*before, "unavailable", "one", "two", None]
    for _ in range(2):
        # The second time, and the third: from the journal alone.
        got = world.live(asking("get"))
        assert got == str(expected).replace("'", '"').replace("None", "null").replace(", ", ",")
    assert len(bodies) == 2
    assert len(set(world.keys)) == 2
    assert not world.lives.exits()


def test_an_answer_ends_with_the_incarnation_that_reads_it(tmp_path: Path) -> None:
    """Not the node dies here, but the actor: another attempt is told what it had read, and that it is over."""
    bodies: list[Pieces] = []
    crashes = [True]

    async def talk(_call: Call, _request: Request) -> Pieces:
        bodies.append(Pieces(["one", "two"]))
        return bodies[-1]

    def handler(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        if op == "get":
            return memory.values["got"]
        got = []
        opened = yield call("http", "fetch-stream", ("api", "GET", "/talk", "{}", "", False, 0))
        for _ in range(2):
            piece = yield call("http", "read-chunk", opened.value[2])
            got.append(piece.value if isinstance(piece, Ok) else piece.value[0])
            if crashes and crashes.pop():
                raise Crash("in the middle")
        memory.values["got"] = got
        return None

    world = World(tmp_path, talk)
    world.lives.handler = handler

    async def go(node: Node) -> None:
        await node.tell(ONE, "listen", "{}")
        await settled(node)

    world.live(go)
    assert bodies[0].closed
    assert len(bodies) == 1
    assert world.live(asking("get")) == '["one","unavailable"]'


# -- chance ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_ten_or_eleven_with_the_same_key(tmp_path: Path, seed: int) -> None:
    """A node that dies again and again at random moments makes each of ten requests once, or twice with one key."""
    chance = random.Random(seed)
    deaths = 25
    failed = [0]

    async def answer(made: Call, request: Request) -> Response:
        await asyncio.sleep(chance.choice((0, 0.001, 0.01)))
        if chance.random() < 0.1:
            failed[0] += 1
            raise Unavailable("no connection")
        return await echo(made, request)

    def handler(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        if op == "pay":
            for number in range(10):
                while isinstance((yield fetch(f"/{number}")), Err):
                    yield call("clock", "sleep-ns", 1_000_000)
            memory.values["paid"] = memory.values.get("paid", 0) + 1
        return memory.values.get("paid", 0)

    world = World(tmp_path, answer)
    world.lives.handler = handler

    async def begin(node: Node) -> None:
        await node.tell(ONE, "pay", "{}")

    async def die(_node: Node) -> None:
        await asyncio.sleep(chance.random() * 0.03)

    world.live(begin)
    for _ in range(deaths):
        world.live(die)
    assert world.live(asking("get")) == "1"
    made: dict[str, list[str]] = {}
    for path, key in zip(world.paths(), world.keys, strict=True):
        made.setdefault(path, []).append(key)
    assert list(made) == [f"/{number}" for number in range(10)]
    # A request that was answered with an error is another one when it is made again: a handler decides so.
    failures = sum(len(set(keys)) - 1 for keys in made.values())
    repeated = sum(len(keys) - len(set(keys)) for keys in made.values())
    assert failures <= failed[0]
    assert 0 < repeated <= deaths
    assert not world.lives.exits()
