"""A node is stopped, or copied as its disk stands as after a crash, and started again: what was deployed is there.

Actors are generators in place of wasm; the database, the component files and the clock of the machine are real.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from plexspaces_runtime.config import Limits, NodeConfig
from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.errors import (
    ActorNotFound,
    HandlerCrashed,
    InvalidComponent,
    NotFound,
    PlexSpacesError,
    Unavailable,
)
from plexspaces_runtime.events import (
    ActorStarted,
    ApplicationFailed,
    DeploymentRestored,
    Event,
    RestoreFailed,
    SpawnedNotRestored,
)
from plexspaces_runtime.node import Node
from plexspaces_runtime.scope import Address, Scope
from plexspaces_runtime.stores.deployments import APPLICATION, DEPLOYMENT
from tests.simulation.sandbox import Crash, Memory, SimulatedSandbox
from tests.unit.scripted import BURN, call

SCOPE = Scope("acme", "default")
SHOP = """
[application]
name = "shop"

[[components]]
name = "code"
path = "code.wasm"

[supervisor]
strategy = "one_for_one"

[[supervisor.children]]
name = "orders"
actor_type = "code"
role = "worker"
args = { greeting = "hello" }

[[supervisor.children]]
name = "till"
actor_type = "code"
role = "worker"

[[supervisor.children]]
name = "delivery"
[supervisor.children.supervisor]
strategy = "rest_for_one"

[[supervisor.children.supervisor.children]]
name = "packer"
actor_type = "code"
role = "worker"
"""
GUESTS = """
[[supervisor.children]]
name = "guests"
actor_type = "code"
role = "worker"
facets = [{ type = "virtual_actor", config = { idle_timeout = "10m" } }]
"""


def component(number: int = 1) -> bytes:
    return orjson.dumps({"roles": ["worker"], "number": number})


class Life:
    """One life of a node on a data directory."""

    def __init__(
        self, folder: Path, *, bad: frozenset[str] = frozenset(), limits: Limits | None = None, **config: Any
    ) -> None:
        self.folder = folder
        # Actors whose `init` crashes.
        self.bad = set(bad)
        self.began: list[str] = []
        self.sandbox = SimulatedSandbox({"worker": self.worker}, lambda _memory, _op: False)
        self.node = Node(
            NodeConfig(data_dir=folder, cache_dir=folder / "cache", limits=limits or Limits(), **config),
            sandbox=lambda _dir, _limits: self.sandbox,  # type: ignore[arg-type, return-value]
        )
        self.seen: list[Event] = []
        self.node.events.subscribe(self.seen.append)

    def worker(self, memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        if op == "init":
            self.began.append(memory.actor_id)
            yield BURN
            if memory.actor_id in self.bad:
                raise Crash("will not start")
            return None
        yield BURN
        if op == "end":
            raise Crash("told to")
        return {"actor": memory.actor_id, "args": memory.args}

    def events(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    async def ask(self, text: str) -> Any:
        return json.loads(await self.node.ask(Address.parse(SCOPE, text), "get", "{}", timeout_s=5))

    async def deploy(self, actor_type: str, number: int = 1, **config: Any) -> Any:
        return await self.node.deploy(SCOPE, actor_type, component(number), {"restart": "permanent", **config})

    async def deploy_shop(self, config: str = SHOP, number: int = 1) -> Any:
        wasm = self.folder / "upload.wasm"
        wasm.write_bytes(component(number))
        try:
            return await self.node.deploy_application("acme", appconfig.parse(config), {"code": wasm})
        finally:
            wasm.unlink()

    def living(self) -> set[str]:
        return {info.address.text for info in self.node.actors("acme")}

    def files(self) -> set[str]:
        return {path.name for path in (self.folder / "components").iterdir()}

    def component_file(self) -> Path:
        """The only one."""
        (name,) = self.files()
        return self.folder / "components" / name

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not happened():
                await asyncio.sleep(0.001)


@asynccontextmanager
async def living(folder: Path, **options: Any) -> AsyncIterator[Life]:
    life = Life(folder, **options)
    await life.node.start()
    try:
        yield life
    finally:
        await life.node.stop(grace_s=0.2)


def crashed(life: Life, folder: Path) -> Path:
    """The data directory as a crash at this moment would leave it."""
    shutil.copytree(life.folder, folder)
    return folder


# -- what comes back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
async def test_everything_that_was_deployed_runs_again(tmp_path: Path, kill: bool) -> None:
    folder = tmp_path / "a"
    async with living(folder) as life:
        await life.deploy("counter", args={"step": 2})
        await life.deploy_shop(SHOP + GUESTS)
        if kill:
            folder = crashed(life, tmp_path / "b")
    async with living(folder) as again:
        # Before the node takes work.
        assert again.living() == {"counter", "orders", "till", "packer"}
        assert again.began == ["counter", "orders", "till", "packer"], "the order of deploying, then of starting"
        assert (await again.ask("counter"))["args"] == {"step": 2}
        assert (await again.ask("orders"))["args"] == {"greeting": "hello"}
        assert (await again.ask("guests/ada"))["actor"] == "guests/ada"
        assert [(e.kind, e.name) for e in again.events(DeploymentRestored)] == [
            ("deployment", "counter"),
            ("application", "shop"),
        ]
        (status,) = again.node.applications("acme")
        assert (status.state, status.version, status.restarts) == ("running", 1, 0)


async def test_versions_go_on(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.deploy("counter")
        await life.deploy("counter", 2)
        await life.deploy_shop()
        await life.deploy_shop(number=2)
    async with living(tmp_path) as again:
        assert again.node.application("acme", "shop").version == 2
        found = {each.actor_type: (each.version, each.hash) for each in again.node.deployments("acme")}
        assert found["counter"][0] == found["orders"][0] == 2
        assert found["counter"][1] == found["orders"][1] == again.node.info(Address(SCOPE, "till")).component_hash
        assert (await again.deploy("counter", 3)).version == 3
        assert (await again.deploy_shop(number=3)).version == 3
    async with living(tmp_path) as third:
        assert third.node.application("acme", "shop").version == 3


async def test_the_same_application_deployed_over_what_came_back_changes_only_what_differs(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.deploy_shop()
    async with living(tmp_path) as again:
        began = len(again.began)
        assert (await again.deploy_shop()).changes == ()
        assert (await again.deploy_shop(SHOP + GUESTS)).changes == ("started guests",)
        assert len(again.began) == began


async def test_what_was_undeployed_stays_away(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.deploy("counter")
        await life.deploy_shop()
        await life.node.undeploy(SCOPE, "counter")
        await life.node.undeploy_application("acme", "shop")
        assert life.files() == set()
    async with living(tmp_path) as again:
        assert again.living() == set()
        assert again.node.tree("acme") == []


async def test_a_refused_deployment_leaves_the_record_that_was(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.deploy_shop()
        before = life.files()
        life.bad = {"cashier"}
        with pytest.raises(HandlerCrashed):
            await life.deploy_shop(SHOP.replace('"till"', '"cashier"'), number=2)
        life.bad = {"counter"}
        with pytest.raises(HandlerCrashed):
            await life.deploy("counter")
        await life.deploy("other")
        assert life.files() == before, "components that nobody names are removed"
    async with living(tmp_path) as again:
        assert again.living() == {"orders", "till", "packer", "other"}


async def test_whoever_goes_away_in_the_middle_leaves_what_runs(tmp_path: Path) -> None:
    """A deployment that was cancelled is not begun, or goes on to its end, and its record with it."""
    folder, chance = tmp_path / "data", random.Random(3)
    async with living(folder) as life:
        await life.deploy("counter", 1)
        cancelled = 0
        for number in range(2, 40):
            task = asyncio.create_task(life.deploy("counter", number))
            # At a moment of its own: while it is read, kept, started or recorded.
            await asyncio.wait([task], timeout=chance.choice((0.0, 0.001, 0.002, 0.005, 0.01, 5.0)))
            task.cancel()
            await asyncio.wait([task])
            cancelled += task.cancelled()
            await life.until(lambda: not life.node._applications._work)
            await life.node.stores.deployments.settle()
            record = life.node.deployed_as(SCOPE, DEPLOYMENT, "counter")
            deployment = life.node.deployment(SCOPE, "counter")
            assert record is not None
            assert deployment is not None
            assert record.components == {"counter": deployment.hash}
            assert record.version == deployment.version
            assert life.files() == {f"{deployment.hash}.wasm"}
        assert cancelled > 0, "none was cancelled"
        assert deployment.version > 1, "none was far enough to go on"
        folder = crashed(life, tmp_path / "copy")
    async with living(folder) as again:
        assert again.node.info(Address(SCOPE, "counter")).component_hash == deployment.hash


# -- actors ------------------------------------------------------------------------------------------------


async def test_a_stopped_actor_stays_stopped_until_it_is_restarted(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.deploy_shop()
        await life.node.stop_actor(Address(SCOPE, "till"))
        await life.node.stop_actor(Address(SCOPE, "packer"), kill=True)
    async with living(tmp_path) as second:
        assert second.living() == {"orders"}
        assert second.began == ["orders"], "a stopped actor is not even started"
        with pytest.raises(ActorNotFound):
            await second.ask("till")
        await second.node.restart_actor(Address(SCOPE, "till"))
        assert (await second.ask("till"))["actor"] == "till"
    async with living(tmp_path) as third:
        assert third.living() == {"orders", "till"}
        await third.node.restart_application("acme", "shop")
        assert third.living() == {"orders", "till", "packer"}
    async with living(tmp_path) as fourth:
        assert fourth.living() == {"orders", "till", "packer"}


async def test_a_deployment_brings_up_what_was_stopped(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.deploy("counter", restart="temporary")
        await life.node.stop_actor(Address(SCOPE, "counter"))
    async with living(tmp_path) as second:
        assert second.living() == set()
        await second.deploy("counter")
        assert second.living() == {"counter"}
    async with living(tmp_path) as third:
        assert third.living() == {"counter"}


async def test_spawned_actors_come_back_with_their_arguments_unless_they_had_ended(tmp_path: Path) -> None:
    async with living(tmp_path / "a") as life:
        await life.deploy("counter")
        for key in ("blue", "red", "green", "grey"):
            await life.node.spawn(Address(SCOPE, "counter", key), {"colour": key})
        await life.node.stop_actor(Address(SCOPE, "counter", "red"))
        with pytest.raises(HandlerCrashed):
            await life.node.ask(Address(SCOPE, "counter", "green"), "end", "{}", timeout_s=5)
        await life.until(lambda: "counter/green" not in life.living())
        copy = crashed(life, tmp_path / "b")
    for folder in (tmp_path / "a", copy):
        async with living(folder, bad=frozenset({"counter/grey"})) as again:
            assert again.living() == {"counter", "counter/blue"}
            assert (await again.ask("counter/blue"))["args"] == {"colour": "blue"}
            (failed,) = again.events(SpawnedNotRestored)
            assert failed.address.text == "counter/grey"
        async with living(folder) as third:
            assert third.living() == {"counter", "counter/blue", "counter/grey"}, "nothing was deleted"
            await third.node.undeploy(SCOPE, "counter")
            await third.deploy("counter")
        async with living(folder) as fourth:
            assert fourth.living() == {"counter"}


# -- what cannot start -------------------------------------------------------------------------------------


async def damaged(folder: Path) -> Path:
    """A node's data whose component of the shop is not what it was; `counter`'s is."""
    async with living(folder) as life:
        await life.deploy("counter", 7)
        await life.deploy_shop()
        record = life.node.deployed_as(SCOPE, APPLICATION, "shop")
        assert record is not None
    file = folder / "components" / f"{record.components['code']}.wasm"
    file.write_bytes(file.read_bytes() + b" ")
    return file


async def test_a_damaged_component_is_told_and_keeps_nobody_from_starting(tmp_path: Path) -> None:
    file = await damaged(tmp_path)
    async with living(tmp_path) as again:
        assert again.living() == {"counter"}
        (failed,) = again.events(RestoreFailed)
        assert (failed.name, failed.code, failed.delay_s) == ("shop", "invalid-component", 0.0)
        assert "damaged" in failed.message
        (status,) = again.node.applications("acme")
        assert (status.state, status.version) == ("failed", 1)
        assert "damaged" in status.last_exit
        root = next(each for each in again.node.tree("acme") if each.name == "shop")
        assert (root.state, "damaged" in root.last_exit) == ("failed", True)
        with pytest.raises(Unavailable, match="damaged"):
            await again.ask("orders")
        with pytest.raises(InvalidComponent):
            await again.node.restart_application("acme", "shop")
        assert again.node.application("acme", "shop").state == "failed"
        assert file.exists()
        file.write_bytes(component())
        await again.node.restart_application("acme", "shop")
        assert again.living() == {"counter", "orders", "till", "packer"}
    async with living(tmp_path) as third:
        assert third.node.application("acme", "shop").state == "running"


async def test_a_deployment_mends_what_was_damaged(tmp_path: Path) -> None:
    await damaged(tmp_path)
    async with living(tmp_path) as again:
        assert (await again.deploy_shop()).version == 2
        assert again.living() == {"counter", "orders", "till", "packer"}
    async with living(tmp_path) as third:
        assert third.node.application("acme", "shop").version == 2
        assert third.living() == {"counter", "orders", "till", "packer"}


async def test_a_deployment_over_what_was_damaged_starts_what_was_stopped(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.deploy_shop()
        await life.node.spawn(Address(SCOPE, "till", "2"))
        await life.node.stop_actor(Address(SCOPE, "till"))
        life.component_file().write_bytes(b"")
    async with living(tmp_path) as again:
        assert again.living() == set()
        await again.deploy_shop()
        assert again.living() == {"orders", "till", "till/2", "packer"}


async def test_a_component_that_cannot_be_read_is_tried_again(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.deploy_shop()
        file = life.component_file()
    file.rename(tmp_path / "moved")
    file.mkdir()
    (tmp_path / "components" / "component-1.tmp").write_bytes(b"left by a crash")
    async with living(tmp_path) as again:
        assert again.files() == {file.name}, "what a crash left is gone"
        (failed,) = again.events(RestoreFailed)
        assert (failed.code, failed.delay_s) == ("unavailable", 1.0)
        assert again.node.application("acme", "shop").next_start_ms > 0
        file.rmdir()
        (tmp_path / "moved").rename(file)
        await again.until(lambda: again.living() == {"orders", "till", "packer"})


async def test_what_is_damaged_can_be_undeployed(tmp_path: Path) -> None:
    await damaged(tmp_path)
    async with living(tmp_path) as again:
        await again.node.undeploy_application("acme", "shop")
        with pytest.raises(NotFound):
            again.node.application("acme", "shop")
        assert len(again.files()) == 1
    async with living(tmp_path) as third:
        assert third.living() == {"counter"}


async def test_a_missing_component(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.deploy("counter")
    (tmp_path / "components").rename(tmp_path / "elsewhere")
    async with living(tmp_path) as again:
        with pytest.raises(InvalidComponent, match="is not in"):
            await again.node.restart_actor(Address(SCOPE, "counter"))
        shutil.copytree(tmp_path / "elsewhere", tmp_path / "components")
        await again.node.restart_actor(Address(SCOPE, "counter"))
        assert (await again.ask("counter"))["actor"] == "counter"
    shutil.rmtree(tmp_path / "components")
    async with living(tmp_path) as again:
        (failed,) = again.events(RestoreFailed)
        assert "is not in" in failed.message
        (root,) = again.node.tree("acme")
        assert (root.name, root.kind, root.state) == ("counter", "deployment", "failed")
        assert again.node.namespaces("acme") == ["default"]
        with pytest.raises(Unavailable, match="could not be restored"):
            await again.ask("counter")
        mended = await again.deploy("counter")
        assert (mended.version, mended.replaced) == (2, True)
        assert (await again.ask("counter"))["actor"] == "counter"


async def test_a_configuration_that_this_node_does_not_take(tmp_path: Path) -> None:
    limits = "limits = { mailbox_messages_max = 500 }"
    async with living(tmp_path) as life:
        await life.deploy_shop(SHOP.replace('name = "till"', f'name = "till"\n{limits}'))
    async with living(tmp_path, limits=Limits(mailbox_messages_max=100)) as again:
        (failed,) = again.events(RestoreFailed)
        assert "mailbox_messages_max" in failed.message
        assert again.node.application("acme", "shop").state == "failed"
    async with living(tmp_path) as third:
        assert third.node.application("acme", "shop").state == "running"


async def test_an_init_that_crashes_is_tried_again_with_back_off(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.deploy_shop()
        await life.deploy("counter")
        await life.node.spawn(Address(SCOPE, "till", "2"))
    async with living(tmp_path, bad=frozenset({"packer"})) as again:
        assert again.living() == {"counter"}
        (failed,) = again.events(ApplicationFailed)
        assert "will not start" in failed.reason
        assert again.node.application("acme", "shop").state in ("failed", "restarting")
        with pytest.raises(Unavailable):
            await again.ask("orders")
        again.bad.clear()
        await again.until(lambda: again.living() == {"counter", "orders", "till", "till/2", "packer"})
        assert again.node.application("acme", "shop").version == 1


async def test_an_init_that_takes_its_time_keeps_nobody_waiting_for_long(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.deploy("slow")
        await life.deploy("counter")
    again = Life(tmp_path, restore_wait_s=0.02)

    def worker(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        if op == "init" and memory.actor_id == "slow":
            yield call("clock", "sleep-ns", 300_000_000)
        yield BURN
        return {"actor": memory.actor_id}

    again.sandbox.roles = {"worker": worker}
    await again.node.start()
    try:
        started = {event.address.text for event in again.events(ActorStarted)}
        assert started == {"counter"}
        await again.until(lambda: len(again.events(DeploymentRestored)) == 2)
        assert (await again.ask("slow"))["actor"] == "slow"
    finally:
        await again.node.stop(grace_s=0.2)


async def test_a_disk_that_refuses_refuses_the_deployment(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.deploy("counter")
        (tmp_path / "components").rename(tmp_path / "gone")
        (tmp_path / "components").write_text("not a folder")
        with pytest.raises(PlexSpacesError, match="cannot be kept"):
            await life.deploy("counter", 2)
        assert life.node.deployment(SCOPE, "counter").version == 1  # type: ignore[union-attr]
