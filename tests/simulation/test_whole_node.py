"""A whole node in memory, with virtual time and seeded faults at every place where an actor waits."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from plexspaces_runtime.config import Limits
from tests.simulation.virtual_time import VirtualLoop, run
from tests.simulation.world import TENANTS, Plan, World

SHOP = """
[application]
name = "shop"

[[components]]
name = "code"
path = "code.wasm"

[supervisor]
strategy = "one_for_one"
max_restarts = 6
max_restart_window_seconds = 2

[[supervisor.children]]
name = "front"
actor_type = "code"
capabilities = ["default", "spawn"]
role = "front"
args = { tenant = "TENANT" }

[[supervisor.children]]
name = "stock"
actor_type = "code"
capabilities = ["default", "spawn"]
role = "worker"
restart = "transient"
args = { tenant = "TENANT" }

[[supervisor.children]]
name = "together"

[supervisor.children.supervisor]
strategy = "one_for_all"
max_restarts = 3
max_restart_window_seconds = 1
children = [
  { name = "one", WORKER, shutdown = "20ms" },
  { name = "two", WORKER, shutdown = "brutal_kill" },
]

[[supervisor.children]]
name = "line"

[supervisor.children.supervisor]
strategy = "rest_for_one"
max_restarts = 3
max_restart_window_seconds = 1
backoff = { initial = "10ms", max = "40ms" }
children = [
  { name = "first", WORKER },
  { name = "second", WORKER, restart = "temporary" },
  { name = "third", WORKER },
]

[[supervisor.children]]
name = "jobs"

[supervisor.children.supervisor]
strategy = "simple_one_for_one"
children = [{ name = "worker", WORKER }]

[[supervisor.children]]
name = "session"
actor_type = "code"
capabilities = ["default", "spawn"]
role = "worker"
args = { tenant = "TENANT" }
facets = [{ type = "virtual_actor", config = { idle_timeout = "50ms" } }]
""".replace(
    "WORKER",
    'actor_type = "code", role = "worker", capabilities = ["default", "spawn"], args = { tenant = "TENANT" }',
)

TARGETS = ["front", "stock", "one", "two", "first", "second", "third", *(f"session/{n}" for n in range(8)), "nobody"]
OPS = ["add", "add", "add", "join", "spawn", "timer", "link"]
SEEDS = int(os.environ.get("PLEXSPACES_SIMULATION_SEEDS", "30"))
MISFORTUNES = Plan(crash=0.02, kill=0.01, kill_tree=0.001, restart=0.001)


def limits(seed: int) -> Limits:
    """Shrunk, differently for each seed, so that they are met."""
    return Limits(
        mailbox_messages_max=1 + seed % 5,
        virtual_actors_resident_per_tenant_max=1 + seed % 4,
        actors_per_tenant_max=25 + seed % 40,
        links_per_actor_max=1 + seed % 7,
        monitors_per_actor_max=1 + seed % 7,
        timers_per_actor_max=1 + seed % 3,
    )


def simulate(seed: int, plan: Plan, folder: Path, *, clients: int = 4, messages: int = 25) -> World:
    worlds: list[World] = []

    async def main(loop: VirtualLoop) -> None:
        world = World(loop, seed, plan, SHOP, limits(seed), folder)
        worlds.append(world)
        await world.deploy()
        for tenant in TENANTS:
            for number in range(clients):
                world.go(world.client(tenant, f"client-{number}", messages, TARGETS, OPS))
        while any(not task.done() for task in world.tasks):
            await asyncio.wait(set(world.tasks), return_when=asyncio.FIRST_COMPLETED)
        await world.until_quiet()
        # Whatever has happened, everything permanent is there again (`stock` may have ended with one it was tied to).
        await world.prove_health(["front", "one", "two", "first", "third", "session/1"])
        await world.end()

    run(main)
    return worlds[0]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_invariants_hold_whatever_dies_when(seed: int, tmp_path: Path) -> None:
    world = simulate(seed, MISFORTUNES, tmp_path)
    assert world.outcomes["replied"] > 0
    assert world.crashes > 0


def test_the_same_seed_is_the_same_history(tmp_path: Path) -> None:
    one, two = (simulate(3, MISFORTUNES, tmp_path) for _ in range(2))
    assert (one.waits, one.steps, dict(one.outcomes)) == (two.waits, two.steps, dict(two.outcomes))
    assert one.handled == two.handled


def test_a_crash_at_each_single_wait(tmp_path: Path) -> None:
    calm = simulate(1, Plan(at=frozenset()), tmp_path, clients=1, messages=8)
    assert calm.crashes == 0
    assert set(calm.outcomes) <= {"told", "replied", "actor-not-found", "mailbox-full", "deadlock"}, calm.outcomes
    for wait in range(1, calm.waits + 1):
        world = simulate(1, replace(MISFORTUNES, at=frozenset({wait})), tmp_path, clients=1, messages=8)
        assert world.crashes == 1, wait
