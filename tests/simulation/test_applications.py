"""Applications on a node in memory: deployed, changed, failing, restarted, undeployed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import orjson
import pytest

from plexspaces_runtime.actors import exits
from plexspaces_runtime.config import ConfigError, Limits, NodeConfig
from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.errors import (
    ActorExited as ActorEnded,
)
from plexspaces_runtime.errors import (
    ActorNotFound,
    AlreadyExists,
    Conflict,
    HandlerCrashed,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from plexspaces_runtime.events import (
    ActorExited,
    ActorStarted,
    ActorUpgraded,
    ApplicationFailed,
    ApplicationStopped,
    Event,
    MessageRefused,
    NodeFault,
)
from plexspaces_runtime.ids import SeededIds
from plexspaces_runtime.node import Node
from plexspaces_runtime.scope import Address, Caller, Scope
from tests.simulation.sandbox import Crash, Memory, Refusal, SimulatedSandbox
from tests.simulation.virtual_time import VirtualLoop, run
from tests.unit.scripted import BURN, call

SCOPE = Scope("acme", "default")


class Bed:
    """A node whose components hold one role, `it`, and `other`."""

    def __init__(self, loop: VirtualLoop, folder: Path, **limits: Any) -> None:
        self.loop = loop
        self.folder = folder
        self.sandbox = SimulatedSandbox({"it": self.it, "other": self.it}, lambda _memory, _op: False)
        self.node = Node(
            NodeConfig(data_dir=folder, cache_dir=folder, limits=Limits(**limits)),
            clock=loop.clock,
            ids=SeededIds(1),
            sandbox=lambda _dir, _limits: self.sandbox,  # type: ignore[arg-type, return-value]
            in_memory=True,
        )
        self.seen: list[Event] = []
        self.node.events.subscribe(self.seen.append)
        # Actors whose init fails, so many more times.
        self.refusals: dict[str, int] = {}

    def it(self, memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        match op:
            case "init":
                yield BURN
                if self.refusals.get(memory.actor_id, 0):
                    self.refusals[memory.actor_id] -= 1
                    raise Crash("not today")
                return None
            case "add":
                memory.values["count"] = memory.values.get("count", 0) + 1
                return memory.values["count"]
            case "args":
                return memory.args
            case "facets":
                return memory.facets
            case "crash":
                yield BURN
                raise Crash("told to")
            case "wait":
                yield call("clock", "sleep-ns", int(arguments["s"] * 1e9))
                return "waited"
            case "spawn":
                answer = yield call(
                    "lifecycle", "spawn", (arguments["type"], arguments.get("key", ""), "{}", False, False)
                )
                return repr(answer)
            case "refuse":
                raise Refusal("no")
            case "find":
                found = yield call("registry", "find", ("", "", arguments["label"], 0))
                return [entry[0] for entry in found.value]
        return None

    async def deploy(self, text: str, tenant: str = SCOPE.tenant, version: int = 1) -> tuple[str, ...]:
        """What the deployment changed."""
        wasm = self.folder / "component"
        wasm.write_bytes(orjson.dumps({"roles": ["it", "other"], "version": version}))
        parsed = appconfig.parse(text)
        status = await self.node.deploy_application(tenant, parsed, {each.name: wasm for each in parsed.components})
        return status.changes

    async def ask(self, name: str, op: str, /, *, caller: Caller | None = None, **arguments: Any) -> Any:
        reply = await self.node.ask(
            Address.parse(SCOPE, name), op, orjson.dumps(arguments).decode(), caller=caller, timeout_s=10
        )
        return orjson.loads(reply)

    def events(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    def started(self, name: str) -> int:
        return len([event for event in self.events(ActorStarted) if event.address.text == name])


Test = Callable[[Bed], Coroutine[Any, Any, None]]


def on_a_node(folder: Path, test: Test, **limits: Any) -> None:
    async def main(loop: VirtualLoop) -> None:
        bed = Bed(loop, folder, **limits)
        await bed.node.start()
        await test(bed)
        assert bed.events(NodeFault) == []
        await bed.node.stop(grace_s=1.0)
        assert bed.node._registry.count == 0
        assert bed.node._applications.forest.places == {}

    run(main)


MAY_SPAWN = 'capabilities = ["default", "spawn"]'


def app(*children: str, name: str = "shop", supervisor: str = "", namespace: str = "default") -> str:
    """A configuration; each child is the text of an inline table without braces."""
    listed = ",\n".join(
        "{ " + (child if "supervisor" in child else f'actor_type = "code", role = "it", {MAY_SPAWN}, {child}') + " }"
        for child in children
    )
    return f"""
[application]
name = "{name}"
namespace = "{namespace}"

[[components]]
name = "code"
path = "code.wasm"

[supervisor]
{supervisor}
children = [
{listed}
]
"""


def test_a_changed_configuration_changes_only_what_differs(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        first = await bed.deploy(app('name = "a"', 'name = "b", args = { n = 1 }', 'name = "c"'))
        assert first == ("started a", "started b", "started c")
        for name in "abc":
            assert await bed.ask(name, "add") == 1
        changes = await bed.deploy(
            app('name = "a"', 'name = "b", args = { n = 2 }', 'name = "d", labels = { kind = "new" }')
        )
        assert changes == ("stopped c", "started d", "upgraded b")
        # Whoever stays keeps what it knows; other arguments reach a living actor.
        assert [await bed.ask(name, "add") for name in "abd"] == [2, 2, 1]
        assert await bed.ask("b", "args") == {"n": 2}
        with pytest.raises(ActorNotFound):
            await bed.ask("c", "add")
        assert [bed.started(name) for name in "abcd"] == [1, 1, 1, 1]
        assert await bed.ask("a", "find", label="kind=new") == ["d"]
        assert await bed.deploy(
            app('name = "a"', 'name = "b", args = { n = 2 }', 'name = "d", labels = { kind = "new" }')
        ) == ()
        assert bed.node.application("acme", "shop").version == 3

    on_a_node(tmp_path, test)


def test_other_limits_or_facets_restart_the_child_and_what_waits_is_handled(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', 'name = "b"'))
        waits = asyncio.ensure_future(bed.ask("a", "wait", s=1))
        behind = asyncio.ensure_future(bed.ask("a", "add"))
        await asyncio.sleep(0.1)
        changes = await bed.deploy(app('name = "a", limits = { mailbox_messages_max = 5 }', 'name = "b"'))
        assert changes == ("restarted a",)
        assert await waits == "waited"
        assert await behind == 1
        assert [bed.started(name) for name in "ab"] == [2, 1]
        assert bed.node._registry.find(SCOPE, "a").spec.limits.mailbox_messages_max == 5  # type: ignore[union-attr]

    on_a_node(tmp_path, test)


def test_a_new_component_takes_over_the_state_of_all_its_actors(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        text = app('name = "a"', 'name = "v", facets = [{ type = "virtual_actor" }]')
        await bed.deploy(text)
        assert [await bed.ask(name, "add") for name in ("a", "v/1", "v/2")] == [1, 1, 1]
        assert await bed.deploy(text, version=2) == ("upgraded a", "upgraded v")
        assert [await bed.ask(name, "add") for name in ("a", "v/1", "v/2")] == [2, 2, 2]
        assert {event.address.text for event in bed.events(ActorUpgraded)} == {"a", "v/1", "v/2"}
        (status,) = bed.node.applications("acme")
        assert len(set(status.components.values())) == 1

    on_a_node(tmp_path, test)


def test_a_change_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', 'name = "b", args = { n = 1 }'))
        await bed.ask("a", "add")
        bed.refusals["c"] = 1
        with pytest.raises(HandlerCrashed, match="not today"):
            await bed.deploy(app('name = "b", args = { n = 2 }', 'name = "c"'))
        assert await bed.ask("b", "args") == {"n": 1}
        # It had to go for the change, and is there again.
        assert await bed.ask("a", "add") in (1, 2)
        with pytest.raises(ActorNotFound):
            await bed.ask("c", "add")
        assert bed.node.application("acme", "shop").version == 1
        assert [each.actor_type for each in bed.node.deployments("acme")] == ["a", "b"]
        assert await bed.deploy(app('name = "b", args = { n = 2 }', 'name = "c"')) == (
            "stopped a",
            "started c",
            "upgraded b",
        )

    on_a_node(tmp_path, test)


def test_a_first_deployment_that_fails_leaves_nothing(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        bed.refusals["b"] = 1
        with pytest.raises(HandlerCrashed, match="not today"):
            await bed.deploy(app('name = "a"', 'name = "b"'))
        assert bed.node.applications("acme") == []
        assert bed.node.deployments("acme") == []
        assert bed.node.tree("acme") == []
        assert bed.node.actors("acme") == []
        with pytest.raises(NotFound):
            bed.node.application("acme", "shop")
        await bed.deploy(app('name = "a"', 'name = "b"'))
        assert await bed.ask("b", "add") == 1

    on_a_node(tmp_path, test)


def test_two_applications_are_strangers(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"'))
        with pytest.raises(Conflict, match="belongs to application 'shop'"):
            await bed.deploy(app('name = "a"', name="thief"))
        assert bed.node.applications("acme")[0].name == "shop"
        assert len(bed.node.applications("acme")) == 1
        with pytest.raises(Conflict, match="belongs to application 'shop'"):
            await bed.node.deploy(SCOPE, "a", (bed.folder / "component"), {"role": "it"})
        with pytest.raises(Conflict, match="belongs to application 'shop'"):
            await bed.node.undeploy(SCOPE, "a")
        # Under another tenant, or in another namespace, the same name is another.
        await bed.deploy(app('name = "a"'), tenant="rival")
        await bed.deploy(app('name = "a"', name="elsewhere", namespace="other"))
        with pytest.raises(Conflict, match="runs in namespace 'default'"):
            await bed.deploy(app('name = "b"', namespace="other"))
        await bed.ask("a", "add")
        rival = await bed.node.ask(Address(Scope("rival", "default"), "a"), "add", "{}")
        assert rival == "1"
        await bed.node.undeploy_application("rival", "shop")
        assert await bed.ask("a", "add") == 2
        with pytest.raises(NotFound):
            await bed.node.undeploy_application("rival", "shop")

    on_a_node(tmp_path, test)


def test_the_node_starts_a_failed_application_again_ever_later(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', 'name = "b"', supervisor="max_restarts = 0"))
        await bed.deploy(app('name = "z"', name="sound"))
        for expected in (1.0, 2.0, 4.0):
            with pytest.raises(HandlerCrashed):
                await bed.ask("a", "crash")
            with pytest.raises(Unavailable, match="application 'shop' is being started again") as down:
                await bed.ask("b", "add")
            await asyncio.sleep(0.05)
            status = bed.node.application("acme", "shop")
            assert (status.state, status.actors) == ("failed", 0)
            assert status.next_start_ms == pytest.approx(bed.loop.clock.now_ns() / 1e6 + expected * 1000 - 50, abs=10)
            with pytest.raises(Unavailable) as down:
                await bed.ask("b", "add")
            assert 0 < down.value.details["retry_after_ms"] <= expected * 1000
            await asyncio.sleep(expected)
            assert await bed.ask("b", "add") == 1
            assert bed.node.application("acme", "shop").state == "running"
        assert [event.delay_s for event in bed.events(ApplicationFailed)] == [1.0, 2.0, 4.0]
        assert bed.started("z") == 1
        # What an operator asks for does not wait.
        with pytest.raises(HandlerCrashed):
            await bed.ask("a", "crash")
        await asyncio.sleep(0.05)
        assert (await bed.node.restart_application("acme", "shop")).state == "running"
        assert await bed.ask("b", "add") == 1

    on_a_node(tmp_path, test)


def test_a_failed_application_may_be_deployed_anew_or_undeployed(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', supervisor="max_restarts = 0"))
        for end in ("deploy", "undeploy"):
            with pytest.raises(HandlerCrashed):
                await bed.ask("a", "crash")
            await asyncio.sleep(0.05)
            if end == "deploy":
                assert await bed.deploy(app('name = "a"', supervisor="max_restarts = 0"), version=2) == ("started a",)
                assert await bed.ask("a", "add") == 1
            else:
                await bed.node.undeploy_application("acme", "shop")
        starts = bed.started("a")
        await asyncio.sleep(300)
        assert bed.started("a") == starts == 2
        with pytest.raises(ActorNotFound):
            await bed.ask("a", "add")

    on_a_node(tmp_path, test)


def test_an_application_whose_work_is_done_stays_down(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(
            app(
                'name = "job", restart = "transient", significant = true',
                'name = "helper"',
                supervisor='auto_shutdown = "any_significant"',
            )
        )
        job = bed.node._registry.find(SCOPE, "job")
        assert job is not None
        bed.node._scheduler.stop(job, exits.NORMAL)
        await asyncio.sleep(600)
        assert bed.node.application("acme", "shop").state == "stopped"
        assert bed.node.actors("acme") == []
        assert [event.name for event in bed.events(ApplicationStopped)] == ["shop"]
        await bed.node.restart_application("acme", "shop")
        assert await bed.ask("helper", "add") == 1

    on_a_node(tmp_path, test)


def test_nested_supervisors_come_stay_change_and_go(tmp_path: Path) -> None:
    def inner(children: str, settings: str = "") -> str:
        return f'name = "inner", supervisor = {{ {settings} children = [ {children} ] }}'

    x = '{ name = "x", actor_type = "code", role = "it" }'
    y = '{ name = "y", actor_type = "code", role = "it" }'

    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', inner(x)))
        await bed.ask("x", "add")
        assert await bed.deploy(app('name = "a"', inner(f"{x}, {y}", "max_restarts = 3,"))) == ("started y",)
        # The supervisor was told, not replaced.
        assert await bed.ask("x", "add") == 2
        (root,) = bed.node.tree("acme")
        assert [(node.name, node.kind) for node in root.children] == [("a", "actor"), ("inner", "supervisor")]
        assert root.children[1].restarts_max == 3
        assert [node.name for node in root.children[1].children] == ["x", "y"]
        with pytest.raises(HandlerCrashed):
            await bed.ask("y", "crash")
        assert await bed.ask("y", "add") == 1
        (root,) = bed.node.tree("acme")
        assert (root.children[1].restarts_in_window, root.children[1].children[1].restarts) == (1, 1)
        assert root.children[1].children[1].last_exit == "crashed(Crash, told to)"
        assert await bed.deploy(app('name = "a"')) == ("stopped x", "stopped y")
        assert [info.address.text for info in bed.node.actors("acme")] == ["a"]

    on_a_node(tmp_path, test)


def test_virtual_actors_live_by_being_named_and_a_caller_cannot_tell(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(
            app('name = "v", facets = [{ type = "virtual_actor", config = { idle_timeout = "1s" } }]', 'name = "a"')
        )
        assert [info.address.text for info in bed.node.actors("acme")] == ["a"]
        counts: dict[str, int] = {}
        for number in range(200):
            name = f"v/{number * 7 % 20}"
            counts[name] = counts.get(name, 0) + 1
            assert await bed.ask(name, "add") == counts[name]
            await asyncio.sleep(0.3)
            assert len(bed.node.actors("acme")) <= 4
        await asyncio.sleep(5)
        assert [info.address.text for info in bed.node.actors("acme")] == ["a"]
        # A crash begins afresh, as for any other actor; others are not concerned.
        with pytest.raises(HandlerCrashed):
            await bed.ask("v/0", "crash")
        assert await bed.ask("v/0", "add") == 1
        assert await bed.ask("v/1", "add") == counts["v/1"] + 1
        with pytest.raises(ActorNotFound):
            await bed.ask("a/1", "add")
        with pytest.raises(InvalidArgument):
            await bed.ask("v/not a key", "add")

    on_a_node(tmp_path, test)


def test_what_waits_for_a_virtual_actor_that_crashes_is_handled_by_the_next(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "v", facets = [{ type = "virtual_actor" }]'))
        asks = [asyncio.ensure_future(bed.ask("v/1", op)) for op in ("add", "crash", "add", "crash", "add")]
        outcomes = await asyncio.gather(*asks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [int, HandlerCrashed, int, HandlerCrashed, int]
        # One that cannot start says why, to everybody who waits, and is not tried for ever.
        bed.refusals["v/2"] = 1
        both = await asyncio.gather(*(bed.ask("v/2", "add") for _ in range(2)), return_exceptions=True)
        assert [type(outcome) for outcome in both] == [ActorEnded, ActorEnded]
        assert "not today" in str(both[0])
        assert await bed.ask("v/2", "add") == 1

    on_a_node(tmp_path, test)


def test_more_names_than_fit_and_an_eager_one(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        facet = 'facets = [{ type = "virtual_actor", config = { activation_strategy = "eager" } }]'
        await bed.deploy(app(f'name = "v", {facet}'))
        assert [info.address.text for info in bed.node.actors("acme")] == ["v"]
        for round_ in (1, 2, 3):
            replies = await asyncio.gather(*(bed.ask(f"v/{number}", "add") for number in range(100)))
            assert replies == [round_] * 100
            assert bed.node.counters()["actors"] <= 3 + 100
            await asyncio.sleep(1)
            assert bed.node.counters()["actors"] == 3

    on_a_node(tmp_path, test, virtual_actors_resident_per_tenant_max=3)


def test_spawned_actors_are_nobody_elses_trouble(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', 'name = "b"', supervisor="max_restarts = 0"))
        assert await bed.ask("a", "spawn", type="b", key="1") == "Ok(('b/1', ''))"
        assert "already-exists" in await bed.ask("a", "spawn", type="b", key="1")
        assert "actor-not-found" in await bed.ask("a", "spawn", type="nothing")
        assert "invalid-argument" in await bed.ask("a", "spawn", type="b", key="x/y")
        # A role of the spawner's own component, which is no deployed type.
        assert await bed.ask("a", "spawn", type="other", key="1") == "Ok(('other/1', ''))"
        assert await bed.ask("other/1", "add") == 1
        assert await bed.ask("b/1", "add") == 1
        bed.refusals["b/2"] = 1
        assert "handler-crashed" in await bed.ask("a", "spawn", type="b", key="2")
        with pytest.raises(HandlerCrashed):
            await bed.ask("b/1", "crash")
        with pytest.raises(ActorNotFound):
            await bed.ask("b/1", "add")
        # Intensity 0: one restart would have ended them all.
        assert bed.node.application("acme", "shop").state == "running"
        (root,) = bed.node.tree("acme")
        assert [node.name for node in root.children] == ["a", "b", "other/1"]

    on_a_node(tmp_path, test)


def test_a_pool_takes_what_is_spawned_of_its_type_and_restarts_it(tmp_path: Path) -> None:
    pool = (
        'name = "pool", supervisor = { strategy = "simple_one_for_one", '
        'children = [ { name = "job", actor_type = "code", role = "it", args = { n = 1 } } ] }'
    )

    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', pool))
        with pytest.raises(ActorNotFound):
            await bed.ask("job", "add")
        assert await bed.ask("a", "spawn", type="job", key="1") == "Ok(('job/1', ''))"
        with pytest.raises(HandlerCrashed):
            await bed.ask("job/1", "crash")
        assert await bed.ask("job/1", "add") == 1
        (root,) = bed.node.tree("acme")
        assert [node.name for node in root.children[1].children] == ["job/1"]
        await bed.node.spawn(Address(SCOPE, "job", "2"), {"n": 2})
        assert await bed.ask("job/2", "args") == {"n": 2}
        await bed.node.stop_actor(Address(SCOPE, "job", "2"))
        with pytest.raises(ActorNotFound):
            await bed.ask("job/2", "add")

    on_a_node(tmp_path, test)


def test_an_operator_stops_restarts_and_kills(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', 'name = "b"', supervisor="max_restarts = 0"))
        a = Address(SCOPE, "a")
        await bed.ask("a", "add")
        await bed.node.stop_actor(a)
        with pytest.raises(ActorNotFound):
            await bed.ask("a", "add")
        with pytest.raises(ActorNotFound):
            await bed.node.stop_actor(a)
        assert bed.node.tree("acme")[0].children[0].state == "stopped"
        await bed.node.restart_actor(a)
        assert await bed.ask("a", "add") == 1
        await bed.node.restart_actor(a)
        assert await bed.ask("a", "add") == 1
        stuck = asyncio.ensure_future(bed.ask("a", "wait", s=1_000))
        await asyncio.sleep(0.1)
        await bed.node.stop_actor(a, kill=True)
        with pytest.raises(ActorEnded):
            await stuck
        # A deployment brings up what was stopped.
        await bed.deploy(app('name = "a"', 'name = "b"', supervisor="max_restarts = 0"))
        assert await bed.ask("a", "add") == 1
        with pytest.raises(ActorNotFound):
            await bed.node.restart_actor(Address(SCOPE, "nobody"))
        # None of it counts as a restart.
        assert bed.node.application("acme", "shop").restarts == 0
        bed.refusals["a"] = 1
        with pytest.raises(HandlerCrashed):
            await bed.node.restart_actor(a)
        assert bed.node.tree("acme")[0].children[0].state == "stopped"

    on_a_node(tmp_path, test)


def test_a_redeployment_that_is_cancelled_by_the_end_of_the_node(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a", shutdown = "infinity"'))
        stuck = asyncio.ensure_future(bed.ask("a", "wait", s=200))
        await asyncio.sleep(0.1)
        undeploying = asyncio.ensure_future(bed.node.undeploy_application("acme", "shop"))
        await asyncio.sleep(0.1)
        await bed.node.stop(grace_s=0.5)
        with pytest.raises(ActorEnded):
            await stuck
        await undeploying

    on_a_node(tmp_path, test)


def test_facets_refuse_before_the_mailbox(tmp_path: Path) -> None:
    facets = (
        'facets = [{ type = "rate_limit", config = { messages_per_second = 1, burst = 2 } }, '
        '{ type = "authorisation", config = { operations = { crash = ["admin"] } } }, { type = "metrics" }]'
    )

    async def test(bed: Bed) -> None:
        await bed.deploy(app(f'name = "a", {facets}'))
        with pytest.raises(PermissionDenied, match="admin"):
            await bed.ask("a", "crash", caller=Caller("eve", frozenset({"user"})))
        with pytest.raises(HandlerCrashed):
            await bed.ask("a", "crash", caller=Caller("root", frozenset({"admin"})))
        outcomes = await asyncio.gather(*(bed.ask("a", "add") for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [int, RateLimited, RateLimited]
        await asyncio.sleep(2)
        assert await bed.ask("a", "add") >= 1
        report = bed.node.info(Address(SCOPE, "a")).facets
        assert report["metrics"]["operations"]["crash"]["outcomes"] == {"crashed": 1}

    on_a_node(tmp_path, test)


@pytest.mark.parametrize(
    ("child", "said"),
    [
        ('name = "a", facets = [{ type = "virtual_acter" }]', "did you mean 'virtual_actor'"),
        ('name = "a", facets = [{ type = "rate_limit", config = { per = "planet" } }]', "per"),
        ('name = "a", behavior_kind = "GenEvent"', "GenEvent"),
    ],
)
def test_what_only_the_node_can_check(tmp_path: Path, child: str, said: str) -> None:
    async def test(bed: Bed) -> None:
        with pytest.raises((InvalidArgument, ConfigError), match=said):
            await bed.deploy(app(child))
        assert bed.node.applications("acme") == []

    on_a_node(tmp_path, test)


def test_a_name_is_given_once_even_at_the_same_moment(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        both = await asyncio.gather(bed.deploy(app('name = "a"')), bed.deploy(app('name = "a"')))
        assert sorted(both) == [(), ("started a",)]
        await bed.node.spawn(Address(SCOPE, "a", "1"))
        with pytest.raises(AlreadyExists):
            await bed.node.spawn(Address(SCOPE, "a", "1"))
        assert bed.events(ActorExited) == []

    on_a_node(tmp_path, test)


def test_a_temporary_actor_that_is_gone_comes_back_on_command(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a", restart = "temporary"'))
        with pytest.raises(HandlerCrashed):
            await bed.ask("a", "crash")
        with pytest.raises(ActorNotFound):
            await bed.ask("a", "add")
        await bed.node.restart_actor(Address(SCOPE, "a"))
        assert await bed.ask("a", "add") == 1

    on_a_node(tmp_path, test)


def test_a_message_refused_behind_its_senders_back_is_told_to_the_operator(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"'))
        message_id = await bed.node.tell(Address(SCOPE, "a"), "refuse", "{}")
        await asyncio.sleep(0.1)
        (refused,) = bed.events(MessageRefused)
        assert (refused.message_id, refused.operation, refused.message) == (message_id, "refuse", "no")

    on_a_node(tmp_path, test)
