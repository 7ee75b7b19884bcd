"""A whole node in memory whose applications are changed, stopped and undeployed at random while they run and fail."""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from plexspaces_runtime.config import Limits
from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.errors import PlexSpacesError
from plexspaces_runtime.scope import Address, Caller, Scope
from plexspaces_runtime.supervision.supervisor import Supervisor
from tests.simulation.virtual_time import VirtualLoop, run
from tests.simulation.world import TENANTS, Plan, World

SEEDS = int(os.environ.get("PLEXSPACES_SIMULATION_SEEDS", "30"))
# Names that an application may give to its children.
NAMES = ("a", "b", "c", "d", "e", "f")
TARGETS = ["front", "a", "b", "c", "d", "e", "f", "a/1", "b/1", "c/2", "session/1", "session/2", "session/3", "lone"]
OPS = ["add", "add", "add", "spawn", "timer", "link", "join", "fail"]
MISFORTUNES = Plan(crash=0.01, kill=0.01, kill_tree=0.001, restart=0.002)
MAY_SPAWN = 'capabilities = ["default", "spawn"]'
APPLICATION = """
[application]
name = "shop"

[[components]]
name = "code"
path = "code.wasm"

[supervisor]
{settings}
children = [
{children}
]
"""


def configuration(chance: random.Random) -> str:
    """A tree with `front`, `session` and some of `NAMES`."""
    names = chance.sample(NAMES, chance.randrange(1, len(NAMES) + 1))
    children = [_child("front", "front", chance), _session(chance)]
    while names:
        if chance.random() < 0.4:
            size = chance.randrange(1, 4)
            inside, names = names[:size], names[size:]
            children.append(_nested(chance.choice(("one", "two", "three")) + inside[0], inside, chance))
        else:
            children.append(_child(names.pop(), "worker", chance))
    chance.shuffle(children)
    return APPLICATION.format(settings=_strategy(chance, "\n"), children=",\n".join(children))


def _child(name: str, role: str, chance: random.Random) -> str:
    text = f'name = "{name}", actor_type = "code", role = "{role}", {MAY_SPAWN}'
    text += f', args = {{ tenant = "TENANT", n = {chance.randrange(2)} }}'
    if role == "worker":
        text += f', restart = "{chance.choice(("permanent", "permanent", "transient", "temporary"))}"'
    if chance.random() < 0.3:
        text += f", limits = {{ mailbox_messages_max = {chance.randrange(1, 6)} }}"
    if chance.random() < 0.3:
        text += f', shutdown = "{chance.choice(("brutal_kill", "5ms", "1s"))}"'
    if chance.random() < 0.1:
        text += ', facets = [{ type = "metrics" }]'
    return "{ " + text + " }"


def _session(chance: random.Random) -> str:
    facet = ""
    if chance.random() < 0.8:
        idle, when = chance.choice(("20ms", "80ms")), chance.choice(("lazy", "eager"))
        config = f'{{ idle_timeout = "{idle}", activation_strategy = "{when}" }}'
        facet = f', facets = [{{ type = "virtual_actor", config = {config} }}]'
    text = 'name = "session", actor_type = "code", role = "worker", args = { tenant = "TENANT" }'
    return f"{{ {text}, {MAY_SPAWN}{facet} }}"


def _nested(name: str, names: list[str], chance: random.Random) -> str:
    if len(names) == 1 and chance.random() < 0.4:
        settings = 'strategy = "simple_one_for_one"'
    else:
        settings = _strategy(chance, ", ")
    children = ", ".join(_child(each, "worker", chance) for each in names)
    return f'{{ name = "{name}", supervisor = {{ {settings}, children = [ {children} ] }} }}'


def _strategy(chance: random.Random, separator: str) -> str:
    settings = [
        f'strategy = "{chance.choice(("one_for_one", "one_for_all", "rest_for_one"))}"',
        f"max_restarts = {chance.randrange(1, 8)}",
        "max_restart_window_seconds = 1",
    ]
    if chance.random() < 0.3:
        settings.append('backoff = { initial = "5ms", max = "20ms" }')
    return separator.join(settings)


@dataclass
class ChangingWorld(World):
    """As the other, and its operators are busy, absent-minded and impatient."""

    changed: int = 0
    versions: int = 0

    async def operator(self, operations: int) -> None:
        """Begins one thing after the other, whether those before have come to their end or not."""
        for _ in range(operations):
            await asyncio.sleep(self.chance.random() * 0.05)
            self.changed += 1
            self.go(self.impatiently(self.operation()))

    def supervisors(self) -> list[Supervisor]:
        found = super().supervisors()
        found.extend(
            each.top.live for each in self.node._applications._deployments.values() if each.top.live is not None
        )
        return found

    async def operation(self) -> None:
        """What some operator does."""
        node, chance = self.node, self.chance
        tenant = chance.choice(TENANTS)
        address = Address.parse(Scope(tenant, "default"), chance.choice(TARGETS))
        match chance.randrange(12):
            case 0 | 1 | 2 | 3:
                await self.redeploy(tenant, configuration(chance))
            case 4:
                await node.restart_application(tenant, "shop")
            case 5 | 6:
                await node.undeploy_application(tenant, "shop")
                await self.redeploy(tenant, configuration(chance))
            case 7:
                await node.stop_actor(address, kill=chance.random() < 0.5)
            case 8 | 9:
                await node.restart_actor(address)
            case 10:
                await node.spawn(address, {"tenant": tenant})
            case 11:
                if chance.random() < 0.5:
                    wasm = self.component()
                    config = {"role": "worker", "args": {"tenant": tenant}, "capabilities": ["default", "spawn"]}
                    await node.deploy(Scope(tenant, "default"), "lone", wasm, config)
                else:
                    await node.undeploy(Scope(tenant, "default"), "lone")

    async def impatiently(self, operation: Any) -> None:
        """Now and then the operator's connection breaks."""
        task = self.loop.create_task(operation)
        try:
            if self.chance.random() < 0.3:
                await asyncio.wait({task}, timeout=self.chance.random() * 0.02)
                if not task.done():
                    task.cancel()
                    self.outcomes["cancelled"] += 1
            await asyncio.gather(task, return_exceptions=False)
        except asyncio.CancelledError:
            pass
        except PlexSpacesError as error:
            self.outcomes["operator: " + error.code] += 1
        else:
            self.outcomes["operated"] += 1

    def component(self) -> Path:
        self.versions += 1
        wasm = self.folder / f"component-{self.versions}"
        roles = ["worker", "front"]
        wasm.write_bytes(orjson.dumps({"roles": roles, "version": self.chance.randrange(3)}))
        return wasm

    async def redeploy(self, tenant: str, config: str) -> None:
        parsed = appconfig.parse(config.replace("TENANT", tenant))
        wasm = self.component()
        await self.node.deploy_application(tenant, parsed, {each.name: wasm for each in parsed.components})

    def check(self) -> None:
        super().check()
        applications = self.node._applications
        owners = {*applications._applications.values(), *applications._deployments.values()}
        for type_ in applications._types._types.values():
            assert type_.owner in owners, f"{type_.name} belongs to {type_.owner.title}, which is there no more"

    def check_rest(self) -> None:
        """Nobody is at work on anything: what is known of types, actors and supervisors fits together."""
        applications = self.node._applications
        assert applications._work == set()
        for actor in self.node._registry:
            type_ = applications._types.get(actor.address.scope, actor.address.type)
            assert type_ is not None, f"{actor} is of no type"
            assert actor.spec.component_hash == type_.deployment.hash, f"{actor} is at another version than its type"
        for address, place in applications.forest.places.items():
            knows = place.supervisor.core.knows(place.child_id)
            assert knows, f"{address} is remembered, and its supervisor knows nothing of it"
            assert place.supervisor.places.get(place.child_id) is place
            assert not place.coming
            assert place.actor is not None or len(place.mailbox) == 0, f"messages wait for {address}, which is down"
        for tree in self.supervisors():
            for view in tree.core.children():
                if view.running and view.spec.id in tree.places:
                    assert tree.places[view.spec.id].actor is not None, f"{view.spec.id} runs, and nobody is there"


def limits(seed: int) -> Limits:
    """Shrunk, differently for each seed, so that they are met."""
    return Limits(
        mailbox_messages_max=5,
        virtual_actors_resident_per_tenant_max=1 + seed % 4,
        actors_per_tenant_max=14 + seed % 40,
        links_per_actor_max=1 + seed % 7,
        monitors_per_actor_max=1 + seed % 7,
        timers_per_actor_max=1 + seed % 3,
        virtual_state_bytes_per_tenant_max=300 + 300 * (seed % 5),
    )


def simulate(seed: int, folder: Path) -> ChangingWorld:
    worlds: list[ChangingWorld] = []

    async def main(loop: VirtualLoop) -> None:
        # What goes wrong in a callback or in a task that nobody waits for.
        loop.set_exception_handler(lambda _loop, context: world.faults.append(context))
        first = configuration(random.Random(seed))
        world = ChangingWorld(loop, seed, MISFORTUNES, first, limits(seed), folder)
        worlds.append(world)
        loop.after_step = world.check
        await world.node.start()
        for tenant in TENANTS:
            world.go(world.redeploy(tenant, first))
            world.go(world.operator(15))
            for number in range(4):
                world.go(world.client(tenant, f"client-{number}", 30, TARGETS, OPS))
        while world.tasks:
            await asyncio.wait(set(world.tasks), return_when=asyncio.FIRST_COMPLETED)
        await world.until_quiet()
        world.check_rest()
        last = configuration(random.Random(-seed))
        for tenant in TENANTS:
            await world.redeploy(tenant, last)
        await asyncio.sleep(1)
        world.check_rest()
        for tenant in TENANTS:
            reply = await world.node.ask(
                Address(Scope(tenant, "default"), "front"),
                "add",
                orjson.dumps({"tenant": tenant, "from": "doctor", "number": 0, "op": "add", "to": "session"}).decode(),
                caller=Caller("doctor"),
                timeout_s=10,
            )
            assert orjson.loads(reply)["tenant"] == tenant
        await world.end()
        await asyncio.sleep(600)
        assert world.node._registry.count == 0

    run(main)
    assert worlds[0].faults == []
    return worlds[0]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_invariants_hold_whatever_is_changed_when(seed: int, tmp_path: Path) -> None:
    world = simulate(seed, tmp_path)
    assert world.changed > 0
