"""A durable virtual actor that crashes has things to do though nobody names it: it comes back for them by itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import orjson
import pytest

from plexspaces_runtime.config import NodeConfig
from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.errors import HandlerCrashed
from plexspaces_runtime.ids import SeededIds
from plexspaces_runtime.node import Node
from plexspaces_runtime.scope import Address, Scope
from tests.simulation.sandbox import Crash, Memory, SimulatedSandbox
from tests.simulation.virtual_time import VirtualLoop, run
from tests.unit.scripted import BURN, call

ONE = Address(Scope("acme", "default"), "v", "1")
CONFIG = """
[application]
name = "test"

[[components]]
name = "code"
path = "code.wasm"

[[supervisor.children]]
name = "v"
actor_type = "code"
role = "actor"
facets = [
  { type = "virtual_actor", config = { idle_timeout = "50ms" } },
  { type = "durability", config = { max_attempts = 3, retry_backoff = "10ms" } },
]
"""


class World:
    """One node with one virtual actor, and what that was asked to do."""

    def __init__(self, folder: Path, loop: VirtualLoop) -> None:
        self.begun: Counter[str] = Counter()
        self.node = Node(
            NodeConfig(data_dir=folder, cache_dir=folder),
            clock=loop.clock,
            ids=SeededIds(1),
            sandbox=lambda _dir, _limits: SimulatedSandbox({"actor": self.actor}, lambda *_: False),  # type: ignore[arg-type, return-value]
            in_memory=True,
        )
        (folder / "code").write_bytes(orjson.dumps({"roles": ["actor"]}))
        self.folder = folder

    def actor(self, memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        self.begun[op] += 1
        yield BURN
        match op:
            case "crash":
                raise Crash("as told")
            case "crash_once" if self.begun[op] == 1:
                raise Crash("as told")
            case "set_timer":
                yield call("timers", "send-after", 500, "ring", "{}")
        return {}

    async def __aenter__(self) -> World:
        await self.node.start()
        await self.node.deploy_application("acme", appconfig.parse(CONFIG), {"code": self.folder / "code"})
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.node.stop(grace_s=1)


def test_a_tell_is_tried_again(tmp_path: Path) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with World(tmp_path, loop) as world:
            await world.node.tell(ONE, "crash_once", "{}")
            await asyncio.sleep(10)
            assert world.begun["crash_once"] == 2
            assert world.node.stores.journal.unfinished() == []

    run(main)


def test_a_tell_is_tried_as_often_as_it_may_and_no_more(tmp_path: Path) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with World(tmp_path, loop) as world:
            await world.node.tell(ONE, "crash", "{}")
            await asyncio.sleep(10)
            assert world.begun["crash"] == 3
            assert [dead.attempts for dead in world.node.stores.journal.dead("acme")] == [3]
            starts = world.begun["init"]
            await asyncio.sleep(1_000)
            assert world.begun["init"] == starts

    run(main)


def test_a_timer_rings_that_was_set_before_the_crash(tmp_path: Path) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with World(tmp_path, loop) as world:
            await world.node.ask(ONE, "set_timer", "{}")
            with pytest.raises(HandlerCrashed):
                await world.node.ask(ONE, "crash", "{}")
            await asyncio.sleep(10)
            assert world.begun["ring"] == 1

    run(main)


def test_one_that_has_nothing_to_do_stays_away(tmp_path: Path) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with World(tmp_path, loop) as world:
            with pytest.raises(HandlerCrashed):
                await world.node.ask(ONE, "crash", "{}")
            await asyncio.sleep(10)
            assert world.begun["init"] == 1
            assert world.node.actors("acme") == []

    run(main)
