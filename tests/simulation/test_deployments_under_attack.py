"""Deployments at bad moments: cancelled, crossing each other, failing half-way, changed while actors come and go."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.actors import exits
from plexspaces_runtime.errors import AlreadyExists, Conflict, HandlerCrashed, NotFound, PlexSpacesError
from plexspaces_runtime.events import NodeFault
from plexspaces_runtime.scope import Address
from tests.simulation.sandbox import Crash, Memory
from tests.simulation.test_applications import MAY_SPAWN, SCOPE, app
from tests.simulation.test_applications import Bed as PlainBed
from tests.simulation.virtual_time import VirtualLoop, run
from tests.unit.scripted import call


class Bed(PlainBed):
    """As the other, and its actors take `init_s` seconds to start, or spawn another while they do.

    Attributes:
        stuck: of whom which time it is to go on with its state with other code, that it cannot.
    """

    def __init__(self, loop: VirtualLoop, folder: Path, **limits: Any) -> None:
        super().__init__(loop, folder, **limits)
        self.stuck: dict[str, int] = {}

    def it(self, memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        if op == "init" and "init_s" in memory.args:
            yield call("clock", "sleep-ns", int(memory.args["init_s"] * 1e9))
        if op == "init" and memory.values and memory.actor_id in self.stuck:
            self.stuck[memory.actor_id] -= 1
            if self.stuck[memory.actor_id] == 0:
                raise Crash("what is all this?")
        if op == "init" and "spawns" in memory.args:
            yield call("lifecycle", "spawn", (memory.args["spawns"], f"of-{memory.actor_id}", "{}", False, False))
        return (yield from super().it(memory, op, arguments, sender))


def on_a_node(folder: Path, test: Callable[[Bed], Coroutine[Any, Any, None]], **limits: Any) -> None:
    faults: list[Any] = []

    async def main(loop: VirtualLoop) -> None:
        # What goes wrong in a callback or in a task that nobody waits for.
        loop.set_exception_handler(lambda _loop, context: faults.append(context))
        bed = Bed(loop, folder, **limits)
        await bed.node.start()
        await test(bed)
        assert bed.events(NodeFault) == []
        await bed.node.stop(grace_s=1.0)
        assert bed.node._registry.count == 0
        assert bed.node._applications.forest.places == {}
        # Nothing comes back.
        await asyncio.sleep(600)
        assert bed.node._registry.count == 0
        assert not bed.sandbox.living

    run(main)
    assert faults == []


def nested(name: str, *children: str, settings: str = "") -> str:
    """A child that is a supervisor."""
    listed = ", ".join(f'{{ actor_type = "code", role = "it", {MAY_SPAWN}, {child} }}' for child in children)
    return f'name = "{name}", supervisor = {{ {settings} children = [ {listed} ] }}'


VIRTUAL = ', facets = [{ type = "virtual_actor" }]'
SLOW = 'name = "slow", args = { init_s = 2 }'


async def cancelled(work: Awaitable[Any], after_s: float) -> None:
    task = asyncio.ensure_future(work)
    await asyncio.sleep(after_s)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("after_s", [0.0, 0.5, 1.9])
def test_whoever_deploys_goes_away_during_the_first_start(tmp_path: Path, after_s: float) -> None:
    async def test(bed: Bed) -> None:
        await cancelled(bed.deploy(app('name = "a"', SLOW)), after_s)
        await asyncio.sleep(10)
        # Whatever has become of it, it can be seen, changed and undeployed.
        await bed.deploy(app('name = "a"', SLOW))
        assert await bed.ask("slow", "add") == 1
        await bed.node.undeploy_application("acme", "shop")
        assert bed.node.actors("acme") == []
        assert bed.node.deployments("acme") == []

    on_a_node(tmp_path, test)


@pytest.mark.parametrize("what", ["restart", "undeploy"])
def test_whoever_restarts_or_undeploys_goes_away(tmp_path: Path, what: str) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', SLOW))
        busy = asyncio.ensure_future(bed.ask("a", "wait", s=3))
        await asyncio.sleep(0.1)
        if what == "restart":
            await cancelled(bed.node.restart_application("acme", "shop"), 0.5)
        else:
            await cancelled(bed.node.undeploy_application("acme", "shop"), 0.5)
        await asyncio.gather(busy, return_exceptions=True)
        await asyncio.sleep(10)
        if what == "restart":
            assert bed.node.application("acme", "shop").state == "running"
            assert await bed.ask("a", "add") == 1
        else:
            assert bed.node.applications("acme") == []
            await bed.deploy(app('name = "a"', SLOW))
        await bed.node.undeploy_application("acme", "shop")
        assert bed.node.actors("acme") == []
        with pytest.raises(NotFound):
            await bed.node.undeploy_application("acme", "shop")

    on_a_node(tmp_path, test)


def test_whoever_changes_an_application_goes_away(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', 'name = "b"'))
        await bed.ask("a", "add")
        busy = asyncio.ensure_future(bed.ask("b", "wait", s=3))
        await asyncio.sleep(0.1)
        await cancelled(bed.deploy(app('name = "a"', 'name = "b"', SLOW), version=2), 0.5)
        await busy
        await asyncio.sleep(10)
        (one,) = {each.hash for each in bed.node.deployments("acme")}
        assert {info.component_hash for info in bed.node.actors("acme")} == {one}
        assert await bed.deploy(app('name = "a"', 'name = "b"', SLOW), version=2) == ()

    on_a_node(tmp_path, test)


def test_the_node_stops_in_the_middle_of_a_deployment(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "z"', name="other"))
        first = asyncio.ensure_future(bed.deploy(app('name = "a"', SLOW)))
        again = asyncio.ensure_future(bed.deploy(app('name = "z"', 'name = "y", args = { init_s = 2 }', name="other")))
        await asyncio.sleep(0.5)
        await bed.node.stop(grace_s=0.2)
        for task in (first, again):
            with pytest.raises(PlexSpacesError):
                await task
        await asyncio.sleep(300)
        assert bed.node._registry.count == 0

    on_a_node(tmp_path, test)


def test_a_deployment_that_has_yet_to_begin_does_not_start_on_a_node_that_stops(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        deploying = asyncio.ensure_future(bed.deploy(app('name = "a"')))
        await asyncio.sleep(0)
        await bed.node.stop(grace_s=0.0)
        await asyncio.gather(deploying, return_exceptions=True)
        await asyncio.sleep(300)
        assert bed.node._registry.count == 0

    on_a_node(tmp_path, test)


def test_what_was_asked_for_after_an_undeployment_finds_nothing(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', 'name = "b"'))
        undeploying = asyncio.ensure_future(bed.node.undeploy_application("acme", "shop"))
        await asyncio.sleep(0)
        restarting = asyncio.ensure_future(bed.node.restart_application("acme", "shop"))
        twice = asyncio.ensure_future(bed.node.undeploy_application("acme", "shop"))
        await undeploying
        with pytest.raises(NotFound):
            await restarting
        with pytest.raises(NotFound):
            await twice
        starts = bed.started("a")
        await asyncio.sleep(300)
        assert bed.started("a") == starts == 1
        assert bed.node.applications("acme") == []

    on_a_node(tmp_path, test)


def test_an_application_deployed_behind_an_undeployment_is_a_new_one(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"'))
        undeploying = asyncio.ensure_future(bed.node.undeploy_application("acme", "shop"))
        await asyncio.sleep(0)
        changes = await bed.deploy(app('name = "a"'))
        await undeploying
        assert changes == ("started a",)
        assert bed.node.application("acme", "shop").version == 1
        assert await bed.ask("a", "add") == 1

    on_a_node(tmp_path, test)


def test_first_deployments_that_fail_one_after_the_other(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        bed.refusals["a"] = 1
        one = asyncio.ensure_future(bed.deploy(app('name = "a"')))
        await asyncio.sleep(0)
        two = asyncio.ensure_future(bed.deploy(app('name = "b"')))
        with pytest.raises(HandlerCrashed):
            await one
        three = asyncio.ensure_future(bed.deploy(app('name = "c"')))
        await asyncio.gather(two, three)
        living = {info.address.text for info in bed.node.actors("acme")}
        assert living == {each.actor_type for each in bed.node.deployments("acme")}
        await bed.node.undeploy_application("acme", "shop")
        assert bed.node.actors("acme") == []
        assert bed.node.deployments("acme") == []

    on_a_node(tmp_path, test)


def test_an_application_that_gives_up_while_it_is_undeployed_stays_away(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', SLOW, supervisor="max_restarts = 0"))
        with pytest.raises(HandlerCrashed):
            await bed.ask("a", "crash")
        await asyncio.sleep(1.5)
        assert bed.node.application("acme", "shop").state == "restarting"
        # It is starting: `slow` takes its time.  What ends meanwhile is dealt with when all have started.
        undeploying = asyncio.ensure_future(bed.node.undeploy_application("acme", "shop"))
        a = bed.node._registry.find(SCOPE, "a")
        assert a is not None
        bed.node._scheduler.kill(a)
        await undeploying
        starts = bed.started("a")
        await asyncio.sleep(300)
        assert bed.started("a") == starts
        assert bed.node.actors("acme") == []

    on_a_node(tmp_path, test)


def test_an_application_killed_before_it_is_undeployed_while_it_starts(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', SLOW, supervisor="max_restarts = 0"))
        with pytest.raises(HandlerCrashed):
            await bed.ask("a", "crash")
        await asyncio.sleep(1.5)
        a = bed.node._registry.find(SCOPE, "a")
        assert a is not None
        bed.node._scheduler.kill(a)
        await bed.node.undeploy_application("acme", "shop")
        starts = bed.started("a")
        await asyncio.sleep(300)
        assert bed.started("a") == starts
        assert bed.node.actors("acme") == []

    on_a_node(tmp_path, test)


def test_an_actor_may_spawn_in_its_init(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        began = bed.loop.time()
        await bed.deploy(app('name = "b"', 'name = "a", args = { spawns = "b" }'))
        assert bed.loop.time() - began < 5
        assert await bed.ask("b/of-a", "add") == 1

    on_a_node(tmp_path, test)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((nested("one", 'name = "y"'), nested("two", 'name = "x"', 'name = "z"')),
         (nested("one", 'name = "x"', 'name = "y"'), nested("two", 'name = "z"'))),
        ((nested("one", 'name = "x"', 'name = "y"'),), ('name = "x"', nested("one", 'name = "y"'))),
        (('name = "x"', nested("one", 'name = "y"')), (nested("one", 'name = "x"', 'name = "y"'),)),
    ],
)
def test_a_child_moves_to_another_supervisor(tmp_path: Path, before: tuple[str, ...], after: tuple[str, ...]) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app(*before))
        await bed.ask("y", "add")
        await bed.deploy(app(*after))
        assert await bed.ask("x", "add") == 1
        assert await bed.ask("y", "add") == 2
        await bed.deploy(app(*before))
        assert await bed.ask("y", "add") == 3
        assert await bed.ask("x", "add") == 1

    on_a_node(tmp_path, test)


def test_a_role_that_was_spawned_outlives_a_redeployment(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', 'name = "b"'))
        await bed.ask("a", "spawn", type="other", key="1")
        assert await bed.ask("other/1", "add") == 1
        assert await bed.deploy(app('name = "a"', 'name = "b"')) == ()
        assert await bed.ask("other/1", "add") == 2
        # It goes over to a new component as its spawner's type does.
        await bed.deploy(app('name = "a"', 'name = "b"'), version=2)
        assert await bed.ask("other/1", "add") == 3
        (one,) = {each.hash for each in bed.node.deployments("acme")}
        assert {info.component_hash for info in bed.node.actors("acme")} == {one}
        # And goes with it.
        await bed.deploy(app('name = "b"'), version=2)
        assert [info.address.text for info in bed.node.actors("acme")] == ["b"]
        assert [each.actor_type for each in bed.node.deployments("acme")] == ["b"]

    on_a_node(tmp_path, test)


def test_what_a_pools_actor_spawns_is_not_restarted_as_the_pools(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        pool = nested("pool", 'name = "job"', settings='strategy = "simple_one_for_one", max_restarts = 2,')
        await bed.deploy(app('name = "b"', pool))
        await bed.node.spawn(Address(SCOPE, "job", "1"))
        bed.refusals["b/1"] = 100
        assert "handler-crashed" in await bed.ask("job/1", "spawn", type="b", key="1")
        await asyncio.sleep(1)
        assert bed.refusals["b/1"] == 99
        assert await bed.ask("job/1", "spawn", type="b", key="2") == "Ok(('b/2', ''))"
        with pytest.raises(HandlerCrashed):
            await bed.ask("b/2", "crash")
        assert bed.started("b/2") == 1
        # The pool's own are, also when an operator has restarted one.
        await bed.node.restart_actor(Address(SCOPE, "job", "1"))
        with pytest.raises(HandlerCrashed):
            await bed.ask("job/1", "crash")
        assert await bed.ask("job/1", "add") == 1

    on_a_node(tmp_path, test)


@pytest.mark.parametrize("home", ["here", "elsewhere"])
def test_nobody_takes_the_name_of_an_actor_that_an_operator_has_stopped(tmp_path: Path, home: str) -> None:
    async def test(bed: Bed) -> None:
        a = 'name = "a"' if home == "here" else nested("inner", 'name = "a"')
        await bed.deploy(app(a, 'name = "b"'))
        await bed.node.stop_actor(Address(SCOPE, "a"))
        assert "already-exists" in await bed.ask("b", "spawn", type="a", key="default")
        with pytest.raises(AlreadyExists):
            await bed.node.spawn(Address(SCOPE, "a"))
        await bed.node.restart_actor(Address(SCOPE, "a"))
        assert await bed.ask("a", "add") == 1

    on_a_node(tmp_path, test)


def test_two_deployments_that_want_one_name(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"'))
        busy = asyncio.ensure_future(bed.ask("a", "wait", s=1))
        await asyncio.sleep(0.1)
        # It has to wait for `a` before it comes to `z`.
        slow = asyncio.ensure_future(bed.deploy(app('name = "a"', 'name = "z"'), version=2))
        await asyncio.sleep(0.1)
        outcomes = await asyncio.gather(
            slow, bed.deploy(app('name = "z"', name="rival"), version=2), busy, return_exceptions=True
        )
        assert sorted(type(outcome) is Conflict for outcome in outcomes[:2]) == [False, True], outcomes
        with pytest.raises(HandlerCrashed):
            await bed.ask("z", "crash")
        assert await bed.ask("z", "add") == 1
        assert await bed.ask("a", "add") == 1
        for each in list(bed.node.applications("acme")):
            await bed.node.undeploy_application("acme", each.name)
        assert bed.node.deployments("acme") == []

    on_a_node(tmp_path, test)


def test_an_upgrade_ends_though_actors_come_and_go_all_the_time(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        text = app('name = "v", facets = [{ type = "virtual_actor" }]')
        await bed.deploy(text)
        stop = False

        async def client(number: int) -> None:
            count = 0
            while not stop:
                count += 1
                await bed.ask(f"v/{number}-{count}", "add")

        clients = [asyncio.ensure_future(client(number)) for number in range(8)]
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await bed.deploy(text, version=2)
        stop = True
        await asyncio.gather(*clients)
        (one,) = {each.hash for each in bed.node.deployments("acme")}
        assert {info.component_hash for info in bed.node.actors("acme")} <= {one}

    on_a_node(tmp_path, test, virtual_actors_resident_per_tenant_max=2)


def test_a_changed_limit_of_the_mailbox_holds(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        def config(messages_max: int) -> str:
            return app(f'name = "a", limits = {{ mailbox_messages_max = {messages_max} }}')

        for first, second in ((3, 5), (5, 3)):
            await bed.deploy(config(first))
            await bed.deploy(config(second))
            busy = asyncio.ensure_future(bed.ask("a", "wait", s=1))
            await asyncio.sleep(0.1)
            asks = [asyncio.ensure_future(bed.ask("a", "add")) for _ in range(10)]
            outcomes = await asyncio.gather(*asks, return_exceptions=True)
            assert [type(outcome) is int for outcome in outcomes].count(True) == second
            await busy

    on_a_node(tmp_path, test)


def test_a_failed_deployment_does_not_wake_an_application_whose_work_is_done(tmp_path: Path) -> None:
    job = 'name = "job", restart = "transient", significant = true'

    async def test(bed: Bed) -> None:
        text = app(job, supervisor='auto_shutdown = "any_significant"')
        await bed.deploy(text)
        actor = bed.node._registry.find(SCOPE, "job")
        assert actor is not None
        bed.node._scheduler.stop(actor, exits.NORMAL)
        await asyncio.sleep(1)
        assert bed.node.application("acme", "shop").state == "stopped"
        bed.refusals["job"] = 1
        with pytest.raises(HandlerCrashed):
            await bed.deploy(text, version=2)
        await asyncio.sleep(300)
        assert bed.started("job") == 1
        assert bed.node.application("acme", "shop").state == "stopped"

    on_a_node(tmp_path, test)


def test_a_deployment_fails_as_a_whole_if_what_was_stopped_does_not_come_up(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', 'name = "b"'))
        await bed.node.stop_actor(Address(SCOPE, "a"))
        bed.refusals["a"] = 1
        with pytest.raises(HandlerCrashed):
            await bed.deploy(app('name = "a"', 'name = "c"'))
        assert bed.node.application("acme", "shop").version == 1
        assert [each.actor_type for each in bed.node.deployments("acme")] == ["a", "b"]
        assert [info.address.text for info in bed.node.actors("acme")] == ["b"]

    on_a_node(tmp_path, test)


def test_a_way_back_goes_on_where_one_actor_does_not_come_back(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', 'name = "b"', nested("inner", 'name = "x"', 'name = "y"')))
        before = bed.node.deployments("acme")
        # `a` has to go, `c` does not come, and then `a` does not come back either.
        bed.refusals["c"] = 1
        bed.refusals["a"] = 1
        with pytest.raises(HandlerCrashed, match=r"'c'.*not all is as it was before: child 'a' failed to start"):
            await bed.deploy(app('name = "b"', nested("inner", 'name = "x"', 'name = "c"')), version=2)
        assert bed.node.deployments("acme") == before
        assert {info.component_hash for info in bed.node.actors("acme")} == {before[0].hash}
        assert [info.address.text for info in bed.node.actors("acme")] == ["b", "x", "y"]

    on_a_node(tmp_path, test)


def test_a_refused_upgrade_leaves_nobody_at_the_new_version(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', 'name = "b"'))
        busy = asyncio.ensure_future(bed.ask("a", "wait", s=1))
        await asyncio.sleep(0.1)
        bed.refusals["b"] = 1
        deploying = asyncio.ensure_future(bed.deploy(app('name = "a"', 'name = "b"'), version=2))
        await asyncio.sleep(0.1)
        # Whoever comes after it finds the new version in the mailbox.
        bed.node._scheduler.kill(bed.node._registry.find(SCOPE, "a"))
        with pytest.raises(Conflict):
            await deploying
        await asyncio.gather(busy, return_exceptions=True)
        (one,) = {each.hash for each in bed.node.deployments("acme")}
        assert {info.component_hash for info in bed.node.actors("acme")} == {one}

    on_a_node(tmp_path, test)


def test_an_undeployed_type_leaves_nobody_whom_others_have_spawned(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"'))
        await bed.deploy(app('name = "b"', name="other"))
        await bed.ask("a", "spawn", type="b", key="1")
        await bed.node.undeploy_application("acme", "other")
        assert [info.address.text for info in bed.node.actors("acme")] == ["a"]

    on_a_node(tmp_path, test)


def test_an_undeployed_application_keeps_its_names_until_nobody_has_them(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"'))
        await bed.deploy(app('name = "b"', name="other"))
        await bed.ask("a", "spawn", type="b", key="1")
        busy = asyncio.ensure_future(bed.ask("b/1", "wait", s=2))
        await asyncio.sleep(0.1)
        undeploying = asyncio.ensure_future(bed.node.undeploy_application("acme", "other"))
        await asyncio.sleep(0.1)
        assert "actor-not-found" in await bed.ask("a", "spawn", type="b", key="2")
        with pytest.raises(NotFound):
            await bed.node.spawn(Address(SCOPE, "b", "3"))
        # Who deploys it again waits its turn.
        await bed.deploy(app('name = "b"', name="other"), version=2)
        assert undeploying.done()
        await busy
        assert [info.address.text for info in bed.node.actors("acme")] == ["a", "b"]
        assert bed.node.application("acme", "other").version == 1

    on_a_node(tmp_path, test)


def test_a_mended_version_is_taken_while_the_application_is_falling(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"', SLOW, supervisor="max_restarts = 0"))
        with pytest.raises(HandlerCrashed):
            await bed.ask("a", "crash")
        await asyncio.sleep(1.5)
        assert bed.node.application("acme", "shop").state == "restarting"
        bed.refusals["slow"] = 1
        await bed.deploy(app('name = "a"', supervisor="max_restarts = 0"), version=2)
        assert await bed.ask("a", "add") == 1

    on_a_node(tmp_path, test)


@pytest.mark.parametrize("end", ["restarted", "crashed"])
def test_a_temporary_child_that_an_operator_brought_back_moves_as_every_other(tmp_path: Path, end: str) -> None:
    x = 'name = "x", restart = "temporary"'

    async def test(bed: Bed) -> None:
        await bed.deploy(app(x, nested("inner", 'name = "y"')))
        if end == "crashed":
            with pytest.raises(HandlerCrashed):
                await bed.ask("x", "crash")
        await bed.node.restart_actor(Address(SCOPE, "x"))
        await bed.deploy(app(nested("inner", 'name = "y"', x)))
        assert await bed.ask("x", "add") == 1
        await bed.node.restart_actor(Address(SCOPE, "x"))
        await bed.deploy(app(nested("inner", 'name = "y"')))
        assert [info.address.text for info in bed.node.actors("acme")] == ["y"]

    on_a_node(tmp_path, test)


def test_a_refused_namesake_takes_nothing_from_the_actor_that_lives(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "b"', nested("inner", 'name = "a", restart = "temporary"')))
        with pytest.raises(HandlerCrashed):
            await bed.ask("a", "crash")
        # It lives under the supervisor of its spawner now.
        assert "Ok" in await bed.ask("b", "spawn", type="a", key="default")
        other = 'name = "a", restart = "temporary", limits = { mailbox_messages_max = 3 }'
        with pytest.raises(HandlerCrashed, match="exists already"):
            await bed.deploy(app('name = "b"', nested("inner", other)))
        assert await bed.ask("a", "add") == 1
        await bed.node.stop_actor(Address(SCOPE, "a"))
        assert [info.address.text for info in bed.node.actors("acme")] == ["b"]
        for count in (1, 2):
            await bed.node.restart_actor(Address(SCOPE, "a"))
            assert await bed.ask("a", "add") == 1
            assert bed.started("a") == 2 + count
        await bed.deploy(app('name = "b"', nested("inner", other)))
        assert await bed.ask("a", "add") == 1

    on_a_node(tmp_path, test)


@pytest.mark.parametrize(("before", "after"), [("", VIRTUAL), (VIRTUAL, "")])
def test_a_type_becomes_virtual_or_ceases_to_while_its_supervisor_is_busy(
    tmp_path: Path, before: str, after: str
) -> None:
    async def test(bed: Bed) -> None:
        def config(facet: str) -> str:
            return app(SLOW, f'name = "v"{facet}', 'name = "c"', supervisor='strategy = "one_for_all"')

        await bed.deploy(config(before))
        assert await bed.ask("v", "add") == 1
        with pytest.raises(HandlerCrashed):
            await bed.ask("c", "crash")
        # `slow` takes two seconds to start; then comes `v` as it was, and only then what it is to be.
        await asyncio.sleep(1)
        assert bed.node.application("acme", "shop").state == "running"
        await bed.deploy(config(after))
        assert await bed.ask("v", "add") == 1
        (info,) = [info for info in bed.node.actors("acme") if info.address.text == "v"]
        assert ("virtual_actor" in info.facets) is bool(after)

    on_a_node(tmp_path, test)


def test_nobody_hears_why_a_change_was_refused_if_who_asked_has_gone_away(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        await bed.deploy(app('name = "a"'))
        busy = asyncio.ensure_future(bed.ask("a", "wait", s=3))
        await asyncio.sleep(0.1)
        undeploying = asyncio.ensure_future(bed.node.undeploy_application("acme", "shop"))
        await asyncio.sleep(0.1)
        # It would be told that there is nothing to undeploy any more.
        await cancelled(bed.node.undeploy_application("acme", "shop"), 0.1)
        await undeploying
        await asyncio.gather(busy, return_exceptions=True)
        await asyncio.sleep(1)
        # An error that nobody has looked at is told of when its task is collected.
        gc.collect()

    on_a_node(tmp_path, test)


@pytest.mark.parametrize("refused", ["upgrade", "start"])
def test_who_cannot_take_its_state_back_is_started_anew(tmp_path: Path, refused: str) -> None:
    async def test(bed: Bed) -> None:
        names = ("a", "b", "c")
        before = [f'name = "{name}"' for name in names]
        await bed.deploy(app(*before))
        for name in names:
            assert await bed.ask(name, "add") == 1
        # `a` goes over to the second version and does not come back with what it knows.
        bed.stuck["a"] = 2
        if refused == "upgrade":
            bed.stuck["c"] = 1
            deploying = bed.deploy(app(*before), version=2)
        else:
            bed.refusals["d"] = 1
            deploying = bed.deploy(app(*before, 'name = "d"'), version=2)
        with pytest.raises(PlexSpacesError, match="not all is as it was before: actor 'a' was started anew"):
            await deploying
        (one,) = {each.hash for each in bed.node.deployments("acme")}
        assert {info.component_hash for info in bed.node.actors("acme")} == {one}
        assert [await bed.ask(name, "add") for name in names] == [1, 2, 2]

    on_a_node(tmp_path, test)
