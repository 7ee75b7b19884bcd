"""Random programs over a mesh of durable actors, whose node dies again and again: the end is as if it had not.

Every step of a program can be done in any order, so a model without crashes computes what must be there in the end:
what each actor has added up in its state, and what its effects (key-value increments, messages to channels, messages to
others) have left.  A message that is lost makes that less, an effect that fires twice makes it more.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import orjson
import pytest

from plexspaces_runtime.actors.guest import Ok
from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import Limits, NodeConfig
from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.durability import durable
from plexspaces_runtime.events import Event, HostFault, NodeFault
from plexspaces_runtime.ids import SeededIds
from plexspaces_runtime.node import Node
from plexspaces_runtime.scope import Address, Scope
from plexspaces_runtime.stores.stores import SCHEMA
from tests.simulation.crashing import crashing
from tests.simulation.sandbox import Crash, Memory, SimulatedSandbox
from tests.simulation.virtual_time import VirtualLoop
from tests.unit.scripted import BURN, call

SEEDS = int(os.environ.get("PLEXSPACES_SIMULATION_SEEDS", "40"))
SCOPE = Scope("acme", "default")
# An actor asks only those after it, so that no two wait for each other.
MESH = ("a", "b", "c", "v/1", "v/2", "v/3")
CONFIG = """
[application]
name = "mesh"

[[components]]
name = "code"
path = "code.wasm"

[supervisor]
max_restarts = 10000
children = [
  { name = "a", actor_type = "code", role = "mesh", FACETS },
  { name = "b", actor_type = "code", role = "mesh", FACETS },
  { name = "c", actor_type = "code", role = "mesh", FACETS },
  { name = "v", actor_type = "code", role = "mesh", VIRTUAL },
]
"""
Program = list[list[Any]]


def durability(chance: random.Random) -> str:
    interval, retain = chance.choice((1, 2, 3, 10)), chance.randrange(1, 4)
    return (
        f'{{ type = "durability", config = {{ checkpoint_interval = {interval}, max_attempts = 1000, '
        f'retry_backoff = "1ms", retain_checkpoints = {retain} }} }}'
    )


def configuration(chance: random.Random) -> str:
    facet = durability(chance)
    virtual = f'{{ type = "virtual_actor", config = {{ idle_timeout = "{chance.choice((20, 100))}ms" }} }}'
    return CONFIG.replace("FACETS", f"facets = [{facet}]").replace("VIRTUAL", f"facets = [{facet}, {virtual}]")


def program(chance: random.Random, actor: str, depth: int = 0) -> Program:
    """What one message lets an actor do."""
    steps: Program = []
    later = MESH[MESH.index(actor) + 1 :]
    for _ in range(chance.randrange(1, 5)):
        kind = chance.choice(("add", "kv", "ask", "many", "send", "channel", "sleep", "timer", "now", "random", "log"))
        deep = depth < 2
        match kind:
            case "add":
                steps.append(["add", chance.randrange(1, 100)])
            case "kv":
                steps.append(["kv", chance.choice("xyz"), chance.randrange(1, 100)])
            case "channel":
                steps.append(["channel", chance.choice("pq")])
            case "sleep":
                steps.append(["sleep", chance.randrange(30)])
            case "ask" if deep and later:
                to = chance.choice(later)
                steps.append(["ask", to, program(chance, to, depth + 1)])
            case "many" if deep and later:
                several = [chance.choice(later) for _ in range(chance.randrange(1, 4))]
                steps.append(["many", [[to, program(chance, to, depth + 1)] for to in several]])
            case "send" if deep:
                to = chance.choice(MESH)
                steps.append(["send", to, program(chance, to, depth + 1)])
            case "timer" if deep:
                steps.append(["timer", chance.randrange(50), program(chance, actor, depth + 1)])
            case "now" | "random" | "log":
                steps.append([kind])
    return steps


def expect(program_: Program, actor: str, model: Counter[tuple[str, ...]]) -> None:
    """What a program leaves, run once."""
    model[actor, "messages"] += 1
    for step in program_:
        match step:
            case ["add", amount]:
                model[actor, "sum"] += amount
            case ["kv", key, amount]:
                model[actor, "kv", key] += amount
            case ["channel", name]:
                model["channel", name] += 1
            case ["ask" | "send", to, inner]:
                expect(inner, to, model)
            case ["many", several]:
                for to, inner in several:
                    expect(inner, to, model)
            case ["timer", _, inner]:
                expect(inner, actor, model)
            case ["now" | "random"]:
                model[actor, "sum"] += 1000
                model[actor, "kv", "x"] += 1


class IdsOfALife(SeededIds):
    """Ids that no other life has had, as a real node's are."""

    def __init__(self, seed: int, life: int) -> None:
        super().__init__(seed * 1_000 + life)
        self._life = life

    def next(self, prefix: str) -> str:
        return super().next(f"{prefix}-{self._life}")


class Mesh:
    """One run: lives of a node, one after the other, on what the one before has left."""

    def __init__(self, seed: int, folder: Path, deaths: int) -> None:
        self.chance = random.Random(seed)
        self.clock = ManualClock()
        self.folder = folder
        self.seed = seed
        self.deaths = deaths
        self.image: bytes | None = None
        self.config = configuration(self.chance)
        self.model: Counter[tuple[str, ...]] = Counter()
        self.requests: list[tuple[str, str, bool, Program]] = []
        for number in range(12):
            actor = self.chance.choice(MESH)
            steps = program(self.chance, actor)
            expect(steps, actor, self.model)
            self.requests.append((f"request-{number}", actor, self.chance.random() < 0.5, steps))
        self.acknowledged: set[str] = set()
        self.faults: list[Any] = []
        self.final: Counter[tuple[str, ...]] = Counter()
        self.node: Node
        self.lives = 0
        self.crashes = 0

    # -- the actors ---------------------------------------------------------------------------------------

    def at_wait(self, memory: Memory, op: str) -> bool:
        """Whether a message that nobody waits for crashes here."""
        if op != "told" or self.lives > self.deaths or self.chance.random() > 0.03:
            return False
        actor = self.node._registry.find(SCOPE, memory.actor_id)
        if actor is None or actor.current is None:
            # It is replayed: what did not crash then does not crash now.
            return False
        self.crashes += 1
        return True

    def mesh(self, memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        values = memory.values
        if op in ("init", "terminate"):
            yield BURN
            return None
        if op == "look":
            kept = {}
            for key in "xyz":
                found = yield call("keyvalue", "get", key)
                kept[key] = int(found.value or 0)
            return {"sum": values.get("sum", 0), "messages": values.get("messages", 0), "kv": kept}
        values["messages"] = values.get("messages", 0) + 1
        for step in arguments["program"]:
            match step:
                case ["add", amount]:
                    values["sum"] = values.get("sum", 0) + amount
                case ["kv", key, amount]:
                    self.good((yield call("keyvalue", "increment", key, amount)))
                case ["channel", name]:
                    sent = yield call("channels", "send", name, "note", "{}", (0, 0, ""))
                    self.good(sent)
                case ["sleep", ms]:
                    yield call("clock", "sleep-ns", ms * 1_000_000)
                case ["ask", to, inner]:
                    self.good((yield call("messaging", "ask", to, "asked", self.payload(inner), 0)))
                case ["many", several]:
                    asks = [(to, "asked", self.payload(inner)) for to, inner in several]
                    for answer in (yield call("messaging", "ask-many", asks, 0)):
                        self.good(answer)
                case ["send", to, inner]:
                    self.good((yield call("messaging", "send", to, "told", self.payload(inner))))
                case ["timer", ms, inner]:
                    self.good((yield call("timers", "send-after", ms, "told", self.payload(inner))))
                case ["log"]:
                    yield call("logging", "log", "info", "here")
                case ["now" | "random" as kind]:
                    # The same to whoever looks from outside, and another way for each value.
                    if kind == "now":
                        value = yield call("clock", "now-ns")
                    else:
                        value = yield call("random", "random-u64")
                    if value // 1000 % 2:
                        values["sum"] = values.get("sum", 0) + 1000
                        self.good((yield call("keyvalue", "increment", "x", 1)))
                    else:
                        self.good((yield call("keyvalue", "increment", "x", 1)))
                        values["sum"] = values.get("sum", 0) + 1000
        return {"sum": values.get("sum", 0)}

    def payload(self, inner: Program) -> str:
        return orjson.dumps({"program": inner}).decode()

    def good(self, answer: Any) -> None:
        if not isinstance(answer, Ok):
            self.faults.append(answer)
            raise Crash(f"refused: {answer}")

    # -- lives --------------------------------------------------------------------------------------------

    def live(self) -> None:
        """One life; the last one ends by itself."""
        self.lives += 1
        last = self.lives > self.deaths
        loop = VirtualLoop(self.clock)
        made, database = crashing(SCHEMA, loop, self.chance, self.image)
        sandbox = SimulatedSandbox({"mesh": self.mesh}, self.at_wait)
        node = Node(
            NodeConfig(data_dir=self.folder, cache_dir=self.folder, limits=Limits(ask_timeout_ms=600_000)),
            clock=self.clock,
            ids=IdsOfALife(self.seed, self.lives),
            sandbox=lambda _dir, _limits: sandbox,  # type: ignore[arg-type, return-value]
            database=database,
        )
        self.node = node
        node.events.subscribe(self.event)
        loop.set_exception_handler(lambda _loop, context: self.faults.append(context))

        async def main() -> None:
            living = asyncio.ensure_future(self.life(node, last=last))
            if last:
                await living
                return
            longest_s = self.chance.choice((0.002, 0.02, 0.1, 0.4))
            await asyncio.wait({living}, timeout=longest_s * self.chance.random())
            if living.done():
                living.result()

        try:
            loop.run_until_complete(main())
            self.image = made.pull_the_plug()
        finally:
            made.stream.dead = True
            for task in asyncio.all_tasks(loop):
                task.cancel()
            # What is left of the dead node is not to be heard of.
            loop.set_exception_handler(lambda _loop, _context: None)
            made.stream.write = lambda *_, **__: 0  # type: ignore[method-assign]
            loop.run_until_complete(asyncio.sleep(0))
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

    async def life(self, node: Node, *, last: bool) -> None:
        await node.start()
        if not node.applications("acme"):
            wasm = self.folder / "code"
            wasm.write_bytes(orjson.dumps({"roles": ["mesh"]}))
            await node.deploy_application("acme", appconfig.parse(self.config), {"code": wasm})
        await asyncio.gather(*(self.client(node, number) for number in range(3)))
        if last:
            while node.stores.journal.unfinished():
                await asyncio.sleep(1)
                await node.stores.flushed()
            await self.look(node)

    async def client(self, node: Node, number: int) -> None:
        """Repeats each request under its id until it is acknowledged."""
        for message_id, actor, waits, steps in self.requests[number::3]:
            if message_id in self.acknowledged:
                continue
            address, payload = Address.parse(SCOPE, actor), self.payload(steps)
            if waits:
                await node.ask(address, "asked", payload, message_id=message_id, timeout_s=600)
            else:
                await node.tell(address, "told", payload, message_id=message_id)
            self.acknowledged.add(message_id)

    async def look(self, node: Node) -> None:
        for name in MESH:
            seen = orjson.loads(await node.ask(Address.parse(SCOPE, name), "look", "{}"))
            self.final[name, "sum"] = seen["sum"]
            self.final[name, "messages"] = seen["messages"]
            for key, value in seen["kv"].items():
                self.final[name, "kv", key] = value
        for name in "pq":
            self.final["channel", name] = node.stores.channels.depth(SCOPE, name)
        await node.stores.flushed()
        table = node.stores.journal
        for address in table.addresses("acme"):
            row = table.find(address)
            assert row is not None
            durable.read(row, table.entries(row.id, row.base), (row.base, row.base_hash), address)

    def event(self, event: Event) -> None:
        if isinstance(event, HostFault | NodeFault):
            self.faults.append(event)


def run(seed: int, folder: Path, deaths: int) -> Mesh:
    mesh = Mesh(seed, folder, deaths)
    for _ in range(deaths + 1):
        mesh.live()
    assert mesh.faults == []
    assert +mesh.final == +mesh.model
    return mesh


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_end_is_as_if_the_node_had_never_died(seed: int, tmp_path: Path) -> None:
    run(seed, tmp_path, deaths=1 + seed % 8)
