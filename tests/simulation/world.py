"""A whole node in memory, with clients, faults and the numbered invariants, for one seed.

Two tenants run the same applications under the same names.  Clients ask and tell; actors ask, send, spawn, link,
monitor, join groups and set timers; and at every place where a guest waits, the world may crash it, kill it or another
one, kill a supervisor's whole tree, stop or restart an application.  After every round of the event loop the invariants
of the design are looked at.  The same seed gives the same history.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from plexspaces_runtime.actors.actor import Actor
from plexspaces_runtime.actors.guest import Err, Ok
from plexspaces_runtime.config import Limits, NodeConfig
from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.errors import HandlerCrashed, PlexSpacesError
from plexspaces_runtime.events import ActorExited, Event, HostFault, NodeFault
from plexspaces_runtime.ids import SeededIds
from plexspaces_runtime.node import Node
from plexspaces_runtime.scope import Address, Caller, Scope
from plexspaces_runtime.supervision import core
from plexspaces_runtime.supervision.supervisor import Supervisor
from tests.simulation.sandbox import Crash, Memory, SimulatedSandbox
from tests.simulation.virtual_time import VirtualLoop
from tests.unit.scripted import BURN, call

TENANTS = ("acme", "rival")
COMPONENT = orjson.dumps({"roles": ["worker", "front"]})
# Rounds of the loop that one run may take, several times what any has taken.
STEPS_MAX = 100_000


@dataclass
class Plan:
    """What may go wrong, and how often, as chances at each place where a guest waits.

    Attributes:
        at: crash exactly at these waits, counted over the whole run, and nowhere else.
    """

    crash: float = 0.0
    kill: float = 0.0
    kill_tree: float = 0.0
    restart: float = 0.0
    at: frozenset[int] | None = None


@dataclass
class World:
    """One run."""

    loop: VirtualLoop
    seed: int
    plan: Plan
    config: str
    limits: Limits
    folder: Path
    chance: random.Random = field(init=False)
    waits: int = 0
    crashes: int = 0
    steps: int = 0
    quiet: bool = False
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    # The numbers a sender's messages carried, as a receiver's incarnations handled them.
    handled: dict[tuple[str, str, str], list[int]] = field(default_factory=lambda: defaultdict(list))
    restarts: dict[tuple[Scope, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    monitors: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    faults: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.sandbox = SimulatedSandbox({"worker": self.worker, "front": self.front}, self.at_wait)
        config = NodeConfig(data_dir=self.folder, cache_dir=self.folder, limits=self.limits)
        self.node = Node(
            config,
            clock=self.loop.clock,
            ids=SeededIds(self.seed),
            sandbox=lambda _dir, _limits: self.sandbox,  # type: ignore[arg-type, return-value]
            in_memory=True,
        )
        self.node.events.subscribe(self.event)

    # -- what the actors do -------------------------------------------------------------------------------

    def worker(self, memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        """Counts, slowly."""
        tenant = self.tenant_of(memory)
        if op in ("init", "terminate"):
            yield BURN
            return None
        if op in ("DOWN", "EXIT", "tick"):
            if op == "DOWN":
                self.monitors[arguments["monitor_ref"]] += 1
                assert self.monitors[arguments["monitor_ref"]] == 1, "a monitor said DOWN twice"
            yield BURN
            return None
        assert arguments["tenant"] == tenant, "T1: a message has crossed tenants"
        self.handled[tenant, arguments["from"], memory.actor_id].append(arguments["number"])
        match op:
            case "add":
                before = memory.values.get("count", 0)
                yield call("clock", "sleep-ns", self.chance.randrange(5) * 1_000_000)
                assert memory.values.get("count", 0) == before, "W2: two messages at once"
                memory.values["count"] = before + 1
                yield BURN
            case "join":
                yield call("process-groups", "join", "all")
                members = yield call("process-groups", "members", "all")
                self.check_members(memory, members)
            case "spawn":
                args = orjson.dumps({"tenant": tenant}).decode()
                options = ("worker", "", args, self.chance.random() < 0.3, True)
                spawned = yield call("lifecycle", "spawn", options)
                if isinstance(spawned, Ok):
                    yield call("messaging", "send", spawned.value[0], "fail", orjson.dumps(arguments).decode())
            case "timer":
                yield call("timers", "send-after", 5, "tick", orjson.dumps({"tenant": tenant}).decode())
            case "link":
                yield call("lifecycle", "trap-exit", True)
                yield call("lifecycle", "link", arguments["to"])
                yield call("lifecycle", "monitor", arguments["to"])
            case "fail":
                yield BURN
                raise Crash("told to")
        return {"tenant": tenant, "actor": memory.actor_id, "count": memory.values.get("count", 0)}

    def front(self, memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        """Passes questions on."""
        if op in ("init", "terminate", "DOWN", "EXIT", "tick"):
            yield BURN
            return None
        tenant = self.tenant_of(memory)
        assert arguments["tenant"] == tenant, "T1: a message has crossed tenants"
        target, inner = arguments["to"], arguments["op"]
        passed = {**arguments, "from": memory.actor_id, "number": memory.values.get("sent", 0) + self.waits * 1_000_000}
        memory.values["sent"] = memory.values.get("sent", 0) + 1
        answer = yield call("messaging", "ask", target, inner, orjson.dumps(passed).decode(), 1_000)
        if isinstance(answer, Err):
            return {"tenant": tenant, "error": answer.value[0]}
        reply = orjson.loads(answer.value)
        assert reply["tenant"] == tenant, "T1: a reply has crossed tenants"
        return reply

    def tenant_of(self, memory: Memory) -> str:
        """Told to every actor by its configuration, and by nothing else."""
        return str(memory.args["tenant"])

    def check_members(self, memory: Memory, members: Any) -> None:
        assert isinstance(members, Ok)
        scope = Scope(self.tenant_of(memory), "default")
        for name in members.value:
            assert self.node._registry.find(scope, name) is not None, f"{name} is a member and does not live"

    # -- what goes wrong ----------------------------------------------------------------------------------

    def at_wait(self, memory: Memory, op: str) -> bool:
        if self.quiet:
            return False
        self.waits += 1
        plan = self.plan
        if plan.at is not None:
            doomed = self.waits in plan.at
        else:
            doomed = self.chance.random() < plan.crash
            self.misfortune()
        self.crashes += doomed
        return doomed

    def misfortune(self) -> None:
        """Something happens to somebody, out of the blue."""
        plan, chance = self.plan, self.chance
        if chance.random() < plan.kill:
            living = list(self.node._registry)
            if living:
                self.loop.call_soon(self.node._scheduler.kill, chance.choice(living))
                self.crashes += 1
        if chance.random() < plan.kill_tree:
            supervisors = list(self.supervisors())
            if supervisors:
                self.loop.call_soon(chance.choice(supervisors).kill)
        if chance.random() < plan.restart:
            self.go(self.node.restart_application(chance.choice(TENANTS), "shop"))

    def go(self, work: Any) -> None:
        async def guarded() -> None:
            try:
                await work
            except PlexSpacesError as error:
                self.outcomes[error.code] += 1

        task = self.loop.create_task(guarded())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # -- clients ------------------------------------------------------------------------------------------

    async def client(self, tenant: str, name: str, messages: int, targets: list[str], ops: list[str]) -> None:
        """Asks and tells; every ask ends (invariant M2)."""
        caller = Caller(f"{tenant}-{name}")
        scope = Scope(tenant, "default")
        for number in range(messages):
            target = self.chance.choice(targets)
            op = self.chance.choice(ops)
            if target.startswith("session/"):
                # Whoever is in a group or tied to somebody must not leave memory; here they come and go.
                op = "add"
            other = self.chance.choice([each for each in targets if op == "add" or not each.startswith("session/")])
            arguments = {"tenant": tenant, "from": name, "number": number, "op": "add", "to": other}
            payload = orjson.dumps(arguments).decode()
            address = Address.parse(scope, target)
            try:
                if self.chance.random() < 0.3:
                    await self.node.tell(address, op, payload, caller=caller)
                    self.outcomes["told"] += 1
                else:
                    async with asyncio.timeout(11):
                        reply = orjson.loads(await self.node.ask(address, op, payload, caller=caller, timeout_s=10))
                    assert reply["tenant"] == tenant, "T1: a reply has crossed tenants"
                    self.outcomes["replied"] += 1
            except PlexSpacesError as error:
                self.check_error(tenant, error)
            await asyncio.sleep(self.chance.random() * 0.02)

    def check_error(self, tenant: str, error: PlexSpacesError) -> None:
        other = TENANTS[TENANTS.index(tenant) - 1]
        assert other not in f"{error.message}{error.details}", "T1: an error has crossed tenants"
        self.outcomes[error.code] += 1

    async def deploy(self) -> None:
        """The same application for both tenants."""
        self.loop.after_step = self.check
        await self.node.start()
        for tenant in TENANTS:
            while True:
                try:
                    await self.redeploy(tenant, self.config)
                except HandlerCrashed:
                    # One of its actors was ended in its `init`: then nothing of the application is left.
                    assert not list(self.node._registry.of_tenant(tenant))
                    assert self.node.applications(tenant) == []
                else:
                    break

    async def redeploy(self, tenant: str, config: str) -> None:
        wasm = self.folder / "component"
        wasm.write_bytes(COMPONENT)
        parsed = appconfig.parse(config.replace("TENANT", tenant))
        await self.node.deploy_application(tenant, parsed, {each.name: wasm for each in parsed.components})

    async def until_quiet(self, messages: Callable[[], bool] = lambda: True) -> None:
        """No more faults; let everything that was begun come to its end."""
        self.quiet = True
        while self.tasks:
            await asyncio.gather(*self.tasks)
        await asyncio.sleep(300)

    async def prove_health(self, targets: list[str]) -> None:
        """Once nothing goes wrong any more, every permanent actor answers."""
        for tenant in TENANTS:
            for target in targets:
                arguments = {"tenant": tenant, "from": "doctor", "number": 0, "op": "add", "to": "stock"}
                address = Address.parse(Scope(tenant, "default"), target)
                reply = await self.node.ask(address, "add", orjson.dumps(arguments).decode(), timeout_s=10)
                assert orjson.loads(reply)["tenant"] == tenant

    async def end(self) -> None:
        """Stop the node and see that nothing is left, and that no message overtook another."""
        for (_, sender, receiver), numbers in self.handled.items():
            assert numbers == sorted(numbers), f"M1: {receiver} handled {sender}'s messages as {numbers}"
        await self.node.stop(grace_s=1.0)
        forest = self.node._applications.forest
        assert forest.places == {}, f"places are left: {list(forest.places)}"
        assert self.node._registry.count == 0
        assert not self.sandbox.living
        self.loop.after_step = lambda: None

    # -- invariants ---------------------------------------------------------------------------------------

    def event(self, event: Event) -> None:
        if isinstance(event, NodeFault | HostFault):
            # Looked at in `check`: raised here, it would be one more fault in the middle of the node's work.
            self.faults.append(event)
        if isinstance(event, ActorExited) and event.restarts_in_window:
            assert event.restarts_in_window <= event.restarts_max, "S1: more restarts than the intensity allows"

    def supervisors(self) -> list[Supervisor]:
        found: list[Supervisor] = []
        applications = self.node._applications._applications.values()
        todo = [each.top.live for each in applications if each.top.live is not None]
        while todo:
            supervisor = todo.pop()
            found.append(supervisor)
            todo.extend(supervisor.branches.values())
        return found

    def check(self) -> None:
        """After every round of the loop."""
        self.steps += 1
        assert self.steps <= STEPS_MAX, "it never ends: the node works and works, and nothing comes of it"
        assert not self.faults, self.faults
        registry = self.node._registry
        living: set[Actor] = set()
        for actor in registry:
            assert actor.alive, f"R1: the name {actor.address} resolves to a dead actor"
            assert len(actor.mailbox) <= self.limits.mailbox_messages_max, "M3: a mailbox exceeds its limit"
            living.add(actor)
        known = self.supervisors()
        for supervisor in known:
            assert supervisor.core.state is not core.State.ENDED, "an ended supervisor is still in its tree"
        for place in self.node._applications.forest.places.values():
            if place.actor is not None:
                assert place.actor in living, "S2: a place holds an actor that nobody can address"
                assert place.supervisor in known, "S2: an actor lives under a supervisor that has ended"
                living.discard(place.actor)
        assert not living, f"S2: these live under nobody: {living}"
