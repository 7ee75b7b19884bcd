"""Durable actors, case by case: what is told to whom, what fires once, and what stops an actor that is not itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import orjson
import pytest

from plexspaces_runtime.actors.guest import Ok
from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import Limits, NodeConfig
from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.egress.egress import Egress
from plexspaces_runtime.errors import HandlerCrashed, HandlerRefused
from plexspaces_runtime.events import ActorExited, DeadLetter, Event
from plexspaces_runtime.node import Node
from plexspaces_runtime.scope import Address, Scope
from plexspaces_runtime.stores.stores import SCHEMA
from tests.simulation.crashing import crashing
from tests.simulation.sandbox import Crash, Memory, Refusal, SimulatedSandbox
from tests.simulation.test_durable_actors import IdsOfALife
from tests.simulation.virtual_time import VirtualLoop
from tests.unit.scripted import BURN, call

SCOPE = Scope("acme", "default")
ONE = Address(SCOPE, "one")
COMPONENT = orjson.dumps({"roles": ["role"]})
CONFIG = """
[application]
name = "bank"

[[components]]
name = "code"
path = "code.wasm"

[supervisor]
max_restarts = 4
children = [
  { name = "one", actor_type = "code", capabilities = ["default", "http"], facets = [
    { type = "durability", config = { SETTINGS } },
  ] },
]
"""
Handler = Callable[[Memory, str, Any, str], Generator[Any, Any, Any]]


class Lives:
    """Lives of one node with a durable actor `one`, on what the one before has left."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        self.config = {"retry_backoff": "1ms", **config}
        self.clock = ManualClock()
        self.image: bytes | None = None
        self.events: list[Event] = []
        self.count = 0
        self.handler: Handler = counter
        # Makes what is outside.
        self.egress: Callable[..., Any] = Egress
        # Handlers fill it; it is not the actors' own.
        self.fired: list[Any] = []

    def role(self, memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        if op in ("init", "terminate"):
            yield BURN
            return None
        memory.values.setdefault("count", 0)
        memory.values["self"] = self
        try:
            return (yield from self.handler(memory, op, arguments, sender))
        finally:
            memory.values.pop("self", None)

    def live(self, do: Callable[[Node], Awaitable[Any]]) -> Any:
        """Let a node live while `do` runs, then pull the plug."""
        self.count += 1
        loop = VirtualLoop(self.clock)
        made, database = crashing(SCHEMA, loop, random.Random(self.count), self.image)
        sandbox = SimulatedSandbox({"role": self.role}, lambda _memory, _op: False)
        node = Node(
            NodeConfig(data_dir=self.folder, cache_dir=self.folder, limits=Limits()),
            clock=self.clock,
            ids=IdsOfALife(0, self.count),
            sandbox=lambda _dir, _limits: sandbox,  # type: ignore[arg-type, return-value]
            database=database,
            egress=self.egress,
        )
        node.events.subscribe(self.events.append)

        async def main() -> Any:
            await node.start()
            if not node.applications("acme"):
                wasm = self.folder / "code"
                wasm.write_bytes(COMPONENT)
                settings = ", ".join(f"{key} = {orjson.dumps(value).decode()}" for key, value in self.config.items())
                config = appconfig.parse(CONFIG.replace("SETTINGS", settings))
                await node.deploy_application("acme", config, {"code": wasm})
            return await do(node)

        try:
            result = loop.run_until_complete(main())
            self.image = made.pull_the_plug()
            return result
        finally:
            made.stream.dead = True
            made.stream.write = lambda *_, **__: 0  # type: ignore[method-assign]
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.set_exception_handler(lambda _loop, _context: None)
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

    def exits(self) -> list[ActorExited]:
        return [event for event in self.events if isinstance(event, ActorExited) and not event.orderly]


def counter(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
    if op == "add":
        memory.values["count"] += arguments.get("n", 1)
    if op == "refuse":
        memory.values["count"] += 100
        raise Refusal("not so")
    if op == "sleep":
        yield call("clock", "sleep-ns", arguments["ms"] * 1_000_000)
        memory.values["count"] += 1
    if op == "later":
        yield call("timers", "send-after", arguments["ms"], "add", "{}")
    if op == "every":
        yield call("timers", "send-interval", arguments["ms"], "add", "{}")
    yield BURN
    return memory.values["count"]


async def ask(node: Node, op: str, message_id: str = "", address: Address = ONE, **arguments: Any) -> Any:
    return orjson.loads(await node.ask(address, op, orjson.dumps(arguments).decode(), message_id=message_id))


def test_state_is_exactly_what_it_was(tmp_path: Path) -> None:
    lives = Lives(tmp_path, checkpoint_interval=2)

    async def work(node: Node) -> Any:
        with pytest.raises(HandlerRefused):
            await ask(node, "refuse")
        return [await ask(node, "add", n=n) for n in range(5)]

    assert lives.live(work) == [100, 101, 103, 106, 110]
    # A refusal changes what it changes, and is replayed like a reply.
    assert lives.live(lambda node: ask(node, "get")) == 110


def test_a_repeated_message_is_answered_as_before_and_does_nothing(tmp_path: Path) -> None:
    lives = Lives(tmp_path)
    assert lives.live(lambda node: ask(node, "add", "once")) == 1
    assert lives.live(lambda node: ask(node, "add", "once")) == 1

    async def refused(node: Node) -> Any:
        with pytest.raises(HandlerRefused, match="not so") as first:
            await ask(node, "refuse", "refused")
        return first.value.details

    assert lives.live(refused) == lives.live(refused)
    assert lives.live(lambda node: ask(node, "get")) == 101


def test_replies_are_forgotten_after_their_retention(tmp_path: Path) -> None:
    lives = Lives(tmp_path, reply_retention="1h", checkpoint_interval=1)

    async def work(node: Node) -> Any:
        await ask(node, "add", "once")
        await asyncio.sleep(3_700)
        await ask(node, "get")
        await ask(node, "get")
        return await ask(node, "add", "once")

    assert lives.live(work) == 2


def test_what_was_accepted_is_handled_in_the_next_life(tmp_path: Path) -> None:
    lives = Lives(tmp_path)

    async def tell(node: Node) -> None:
        # The one that sleeps keeps the others waiting in the mailbox.
        await node.tell(ONE, "sleep", '{"ms": 1000}')
        for _ in range(3):
            await node.tell(ONE, "add", "{}")

    lives.live(tell)
    assert lives.live(lambda node: ask(node, "get")) == 4


def test_a_sleep_goes_on_where_it_was(tmp_path: Path) -> None:
    lives = Lives(tmp_path)

    async def fall_asleep(node: Node) -> None:
        await node.tell(ONE, "sleep", '{"ms": 10000}')
        await asyncio.sleep(6)
        await node.stores.flushed()

    async def wake(node: Node) -> float:
        began_s = node.clock.monotonic_ns() / 1e9
        assert await ask(node, "get") == 1
        return node.clock.monotonic_ns() / 1e9 - began_s

    lives.live(fall_asleep)
    assert 3.9 < lives.live(wake) < 4.1


def test_timers_go_on(tmp_path: Path) -> None:
    lives = Lives(tmp_path)

    async def set_timers(node: Node) -> None:
        await ask(node, "later", ms=5_000)
        await ask(node, "every", ms=3_000)
        await asyncio.sleep(4)
        await node.stores.flushed()

    async def wait(node: Node) -> list[int]:
        # 4 s have passed: the interval has ticked once, and ticks at 6 and 9; the other one comes at 5.
        seen = [await ask(node, "get")]
        for _ in range(3):
            await asyncio.sleep(1.5)
            seen.append(await ask(node, "get"))
        return seen

    lives.live(set_timers)
    assert lives.live(wait) == [1, 2, 3, 3]


def test_a_message_that_crashes_is_tried_again_with_what_is_recorded_and_then_given_up(tmp_path: Path) -> None:
    lives = Lives(tmp_path, max_attempts=3)

    def handler(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        if op == "get":
            yield BURN
            return memory.values["count"]
        memory.values["count"] += 1
        number = yield call("random", "random-u64")
        lives.fired.append(number)
        booked = yield call("keyvalue", "increment", "booked", 1)
        lives.fired.append(booked)
        raise Crash("always")

    lives.handler = handler

    async def work(node: Node) -> Any:
        await node.tell(ONE, "try", "{}")
        while not any(isinstance(event, DeadLetter) for event in lives.events):
            await asyncio.sleep(1)
        await node.stores.flushed()
        return await ask(node, "get")

    # What a crashed message changed in memory is gone.
    assert lives.live(work) == 0
    number, booked = lives.fired[:2]
    # Three attempts saw the same, and the books were written once.
    assert lives.fired == [number, booked] * 3
    assert booked == Ok(1)

    async def look(node: Node) -> Any:
        assert node.stores.keyvalue is not None
        (dead,) = node.stores.journal.dead("acme")
        return dead.address, dead.message["op"], dead.attempts, dead.reason

    assert lives.live(look) == (ONE, "try", 3, "crashed(Crash, always)")
    assert len(lives.fired) == 6


def test_an_effect_that_failed_is_tried_again(tmp_path: Path) -> None:
    lives = Lives(tmp_path, max_attempts=5)

    def handler(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        first = yield call("keyvalue", "increment", "tries", 1)
        answer = yield call("messaging", "ask", "three", "get", "{}", 0)
        lives.fired.append((first, type(answer).__name__))
        if not isinstance(answer, Ok):
            raise Crash("nobody there")
        memory.values["count"] = 7
        return 1

    lives.handler = handler

    async def work(node: Node) -> Any:
        await node.tell(ONE, "try", "{}")
        await asyncio.sleep(0.0005)
        lives.handler = lambda memory, op, arguments, sender: (
            handler(memory, op, arguments, sender) if op == "try" else counter(memory, op, arguments, sender)
        )
        await node.deploy(SCOPE, "three", COMPONENT, {})
        await asyncio.sleep(5)
        return await ask(node, "get")

    assert lives.live(work) == 7
    assert lives.fired[0] == (Ok(1), "Err")
    assert lives.fired[-1] == (Ok(1), "Ok")


def test_what_was_done_after_an_error_is_not_done_again_either(tmp_path: Path) -> None:
    lives = Lives(tmp_path, max_attempts=4)

    def handler(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        if op == "try":
            answer = yield call("messaging", "ask", "nobody", "get", "{}", 0)
            booked = yield call("keyvalue", "increment", "apologies", 1)
            lives.fired.append((type(answer).__name__, booked))
            raise Crash("after all")
        return (yield call("keyvalue", "get", "apologies")).value

    lives.handler = handler

    async def work(node: Node) -> Any:
        await node.tell(ONE, "try", "{}")
        await asyncio.sleep(5)
        return await ask(node, "look")

    assert lives.live(work) == "1"
    assert lives.fired == [("Err", Ok(1))] * 4


def test_an_ask_that_crashes_is_not_tried_again_and_says_the_same_when_repeated(tmp_path: Path) -> None:
    lives = Lives(tmp_path)

    def handler(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        yield BURN
        lives.fired.append(op)
        raise Crash("no")

    lives.handler = handler

    async def work(node: Node) -> str:
        with pytest.raises(HandlerCrashed) as raised:
            await ask(node, "try", "mine")
        await node.stores.flushed()
        return raised.value.message

    assert lives.live(work) == lives.live(work) == "Crash: no"
    assert lives.fired == ["try"]


def test_code_that_is_not_what_it_was_is_stopped_and_says_what_it_did(tmp_path: Path) -> None:
    lives = Lives(tmp_path)

    def get(key: str) -> Handler:
        def handler(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
            yield call("keyvalue", "get", key)
            return 1

        return handler

    lives.handler = get("old")
    lives.live(lambda node: ask(node, "look"))
    lives.handler = get("new")
    lives.events.clear()

    async def look(node: Node) -> Any:
        await asyncio.sleep(10)

    lives.live(look)
    exits = lives.exits()
    assert exits
    assert all(exit_.reason.startswith("nondeterminism(message ") for exit_ in exits)
    # Not for ever: the supervisor gives up.
    assert len(exits) < 20


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        (["a", "b"], ["a"], 'ended without asking for keyvalue.get["b"]'),
        (["a"], ["a", "b"], 'asked for keyvalue.get["b"], and had ended there'),
        (["a"], ["b"], 'asked for keyvalue.get["b"], and keyvalue.get["a"] is recorded'),
    ],
)
def test_every_kind_of_divergence_is_told(
    before: list[str], after: list[str], problem: str, tmp_path: Path
) -> None:
    lives = Lives(tmp_path)
    keys = before

    def handler(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        for key in keys:
            yield call("keyvalue", "get", key)
        return 1

    lives.handler = handler
    lives.live(lambda node: ask(node, "look"))
    keys = after

    async def restored(node: Node) -> str:
        return node.application("acme", "bank").last_exit

    assert problem in lives.live(restored)


def test_a_deferred_reply_is_given_after_a_restart(tmp_path: Path) -> None:
    lives = Lives(tmp_path)

    def handler(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        if op == "defer":
            memory.values["owed"] = arguments["id"]
            yield BURN
            return None
        if op == "pay":
            answer = yield call("messaging", "reply", memory.values["owed"], '"paid"')
            return isinstance(answer, Ok)
        yield BURN
        return memory.values["count"]

    lives.handler = handler

    async def defer(node: Node) -> None:
        asking = asyncio.ensure_future(ask(node, "defer", "owed-1", id="owed-1"))
        await asyncio.sleep(1)
        assert not asking.done()

    async def pay(node: Node) -> Any:
        # Whoever asked asks again, and hears what comes later.
        asking = asyncio.ensure_future(ask(node, "defer", "owed-1", id="owed-1"))
        await asyncio.sleep(1)
        assert await ask(node, "pay") is True
        return await asking

    lives.live(defer)
    assert lives.live(pay) == "paid"
    # And whoever asks once more hears the same.
    assert lives.live(lambda node: ask(node, "defer", "owed-1", id="owed-1")) == "paid"
