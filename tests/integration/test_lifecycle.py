"""Links, monitors, spawning, groups, registry and timers: one suite, on a real node and on the SDK's test node."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from plexspaces import HostError
from plexspaces.testing import LIMITS, TestNode
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import PlexSpacesError
from plexspaces_runtime.scope import Address
from tests.guests.lifecycle import Puppet
from tests.nodes import SCOPE, TestBed, running


class World(Protocol):
    """What the suite needs of a node with puppets."""

    async def put(self, name: str, restart: str = "temporary", **args: Any) -> None:
        """Start one."""

    async def ask(self, name: str, op: str, **arguments: Any) -> Any:
        """The reply; a failure is its code."""

    async def kill(self, name: str) -> None:
        """End one at once, as an operator does."""

    def lives(self, name: str) -> bool: ...

    async def until(self, happened: Callable[[], bool]) -> None:
        """Let things happen."""

    async def heard(self, name: str, count: int) -> list[Any]:
        """What a puppet has heard, once it is so many."""


class Named(dict[str, Any]):
    """Arguments by name."""


async def do(world: World, name: str, *calls: tuple[Any, ...]) -> Any:
    """What the last of a puppet's host calls gave; a call is `(name, *arguments)`, those by name last."""
    told = [
        [what, [one for one in arguments if type(one) is not Named], *(one for one in arguments if type(one) is Named)]
        for what, *arguments in calls
    ]
    answers = await world.ask(name, "do", calls=told)
    return answers[-1] if isinstance(answers, list) else answers


class Fake:
    """The SDK's test node."""

    def __init__(self) -> None:
        self.node = TestNode()
        self.node.deploy("puppet", Puppet)

    async def put(self, name: str, restart: str = "temporary", **args: Any) -> None:
        self.node.spawn(Puppet, args, actor_type=name, restart=restart != "temporary")

    async def ask(self, name: str, op: str, **arguments: Any) -> Any:
        try:
            return self.node.ask(name, op, arguments)
        except HostError as error:
            return error.code

    async def kill(self, name: str) -> None:
        actor = self.node.actor(name)
        self.node._cells[name].restart = False
        actor.crash()

    def lives(self, name: str) -> bool:
        cell = self.node._cells.get(name)
        return cell is not None and cell.alive

    async def until(self, happened: Callable[[], bool]) -> None:
        for _ in range(1_000):
            self.node.settle()
            if happened():
                return
            self.node.advance(0.001)
        raise TimeoutError

    async def heard(self, name: str, count: int) -> list[Any]:
        got: list[Any] = []

        def enough() -> bool:
            got.extend(self.node.ask(name, "take"))
            return len(got) >= count

        await self.until(enough)
        return got


class Real:
    """A node with sealed components."""

    def __init__(self, bed: TestBed, wasm: Path) -> None:
        self.bed = bed
        self.wasm = wasm

    async def put(self, name: str, restart: str = "temporary", **args: Any) -> None:
        capabilities = ["default", "spawn", "registry:write"]
        await self.bed.deploy(name, self.wasm, restart=restart, args=args, capabilities=capabilities)

    async def ask(self, name: str, op: str, **arguments: Any) -> Any:
        try:
            return await self.bed.ask(name, op, **arguments)
        except PlexSpacesError as error:
            return error.code

    async def kill(self, name: str) -> None:
        await self.bed.node.stop_actor(Address.parse(SCOPE, name), kill=True)

    def lives(self, name: str) -> bool:
        return name in {info.address.text for info in self.bed.node.actors(SCOPE.tenant)}

    async def until(self, happened: Callable[[], bool]) -> None:
        await self.bed.until(happened)

    async def heard(self, name: str, count: int) -> list[Any]:
        got: list[Any] = []
        waiting = self.bed.node.info(Address.parse(SCOPE, name))
        assert waiting
        while True:
            got.extend(await self.bed.ask(name, "take"))
            if len(got) >= count:
                return got
            handled = self.bed.node.info(Address.parse(SCOPE, name)).messages_handled
            await self.bed.until(
                lambda: self.bed.node.info(Address.parse(SCOPE, name)).messages_handled > handled,  # noqa: B023
            )


@pytest.fixture(params=["fake", pytest.param("node", marks=pytest.mark.guest)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "fake":
        yield Fake()
        return
    wasm = request.getfixturevalue("guest")("lifecycle")
    async with running(tmp_path) as bed:
        real = Real(bed, wasm)
        # The type that can be spawned.
        await real.put("puppet")
        yield real


def test_the_test_node_has_the_nodes_limits() -> None:
    limits = Limits()
    assert {name: getattr(limits, name) for name in LIMITS} == dict(LIMITS)


async def test_a_crash_ends_the_linked_and_tells_who_traps_or_watches(world: World) -> None:
    for name in ("a", "b", "t", "w"):
        await world.put(name)
    await do(world, "a", ("link", "b"))
    assert await do(world, "t", ("trap_exit", True), ("link", "b")) is None
    reference = await do(world, "w", ("monitor", "b"))
    assert await world.ask("b", "crash", text="no such row") == "handler-crashed"
    reason = "crashed(RuntimeError, no such row)"
    assert await world.heard("t", 1) == [["EXIT", {"actor_id": "b", "reason": reason}]]
    assert await world.heard("w", 1) == [["DOWN", {"monitor_ref": reference, "actor_id": "b", "reason": reason}]]
    await world.until(lambda: not world.lives("a"))
    assert world.lives("t")
    assert world.lives("w")


async def test_a_kill_is_trapped_as_killed(world: World) -> None:
    await world.put("a")
    await world.put("b")
    await do(world, "a", ("trap_exit",), ("link", "b"))
    await world.kill("b")
    assert await world.heard("a", 1) == [["EXIT", {"actor_id": "b", "reason": "killed"}]]


@pytest.mark.parametrize(
    ("reason", "text"), [("normal", "normal"), ("shutdown", "shutdown"), ("old", "crashed(stopped, old)")]
)
async def test_stopping_and_what_others_hear_of_it(world: World, reason: str, text: str) -> None:
    for name in ("a", "b", "l"):
        await world.put(name)
    await do(world, "l", ("link", "b"))
    await do(world, "a", ("trap_exit",), ("link", "b"), ("stop", "b", reason))
    assert await world.heard("a", 1) == [["EXIT", {"actor_id": "b", "reason": text}]]
    assert world.lives("l") is (reason == "normal")
    assert await do(world, "a", ("stop", "b")) == {"code": "actor-not-found"}


async def test_who_is_dead_already(world: World) -> None:
    await world.put("a")
    await world.put("b")
    reference = await do(world, "a", ("monitor", "nobody"))
    assert await world.heard("a", 1) == [["DOWN", {"monitor_ref": reference, "actor_id": "nobody", "reason": "noproc"}]]
    await do(world, "a", ("trap_exit",), ("link", "nobody"))
    assert await world.heard("a", 1) == [["EXIT", {"actor_id": "nobody", "reason": "noproc"}]]
    assert await do(world, "b", ("link", "nobody")) == "actor-exited"
    await world.until(lambda: not world.lives("b"))


async def test_what_is_taken_back_does_not_come(world: World) -> None:
    await world.put("a")
    await world.put("b")
    dropped = await do(world, "a", ("monitor", "b"))
    kept = await do(world, "a", ("trap_exit",), ("link", "b"), ("monitor", "b"))
    await do(world, "a", ("unlink", "b"), ("demonitor", dropped), ("link", "a"), ("monitor", "a"))
    await world.kill("b")
    assert await world.heard("a", 1) == [["DOWN", {"monitor_ref": kept, "actor_id": "b", "reason": "killed"}]]
    # What waits in the mailbox, too.
    await do(
        world, "a", ("link", "nobody"), ("monitor", "nobody"), ("monitor", "nobody"), ("unlink", "nobody"),
        ("demonitor", "$1"),
    )  # fmt: skip
    ((op, _),) = await world.heard("a", 1)
    assert op == "DOWN"


async def test_spawn_monitor_link_and_a_start_that_fails(world: World) -> None:
    await world.put("a")
    await do(world, "a", ("trap_exit",))
    name, reference = await do(world, "a", ("spawn_monitor", "puppet", "7", {}, Named(link=True)))
    assert name == "puppet/7"
    assert await do(world, "a", ("spawn", "puppet", "7")) == {"code": "already-exists"}
    assert await world.ask(name, "crash", text="soon") == "handler-crashed"
    reason = "crashed(RuntimeError, soon)"
    assert await world.heard("a", 2) == [
        ["EXIT", {"actor_id": name, "reason": reason}],
        ["DOWN", {"monitor_ref": reference, "actor_id": name, "reason": reason}],
    ]
    await world.until(lambda: not world.lives(name))
    failed = await do(world, "a", ("spawn_monitor", "puppet", "8", {"fail": True}, Named(link=True)))
    assert failed == {"code": "handler-crashed"}
    assert await do(world, "a", ("spawn", "unheard-of")) == {"code": "actor-not-found"}
    other = await do(world, "a", ("spawn", "puppet"))
    assert other.startswith("puppet/")
    # Nothing was heard of the start that failed.
    assert await world.ask("a", "take") == []


async def test_a_child_that_is_linked_ends_with_its_parent(world: World) -> None:
    await world.put("a")
    linked = await do(world, "a", ("spawn", "puppet", "linked", {}, Named(link=True)))
    free = await do(world, "a", ("spawn", "puppet", "free"))
    await world.ask("a", "crash")
    await world.until(lambda: not world.lives(linked))
    assert world.lives(free)


async def test_groups(world: World) -> None:
    for name in ("a", "b", "c"):
        await world.put(name)
        await do(world, name, ("process_groups.join", "g"))
    assert await do(world, "a", ("process_groups.members", "g")) == ["a", "b", "c"]
    assert await do(world, "c", ("process_groups.broadcast", "g", "note", {"n": 7})) == 2
    for name in ("a", "b"):
        assert await world.heard(name, 1) == [["note", {"n": 7}]]
    await world.kill("a")
    await do(world, "b", ("process_groups.leave", "g"))
    assert await do(world, "b", ("process_groups.first", "g")) == "c"
    assert await do(world, "b", ("process_groups.first", "empty")) is None
    assert await do(world, "b", ("process_groups.members", "g")) == ["c"]
    assert await do(world, "b", ("process_groups.join", "x" * 257)) == {"code": "invalid-argument"}


async def test_registry(world: World) -> None:
    await world.put("a")
    await world.put("b")
    await do(world, "b", ("registry.set_label", "tier", "gold"))

    async def found(**query: Any) -> list[str]:
        return [entry["actor_id"] for entry in await do(world, "a", ("registry.find", Named(query)))]

    assert await do(world, "a", ("registry.find", "b")) == [
        {"actor_id": "b", "actor_type": "b", "labels": {"tier": "gold"}}
    ]
    assert await found(label="tier") == await found(label="tier=gold") == ["b"]
    assert await found(label="tier=silver") == await found(actor_type="a", label="tier") == []
    assert set(await found(capability="process-groups")) >= {"a", "b"}
    assert await found(capability="telepathy") == []
    await do(world, "b", ("registry.set_label", "tier", ""))
    assert await found(label="tier") == []
    assert await do(world, "a", ("registry.set_label", "a=b", "c")) == {"code": "invalid-argument"}
    assert await do(world, "a", ("registry.find", "", "", "", 1_001)) == {"code": "invalid-argument"}


async def test_timers(world: World) -> None:
    await world.put("a")
    await do(world, "a", ("send_after", 20, "late", {"n": 2}), ("send_after", 5, "soon", {"n": 1}))
    assert await world.heard("a", 2) == [["soon", {"n": 1}], ["late", {"n": 2}]]
    timer = await do(world, "a", ("send_interval", 3, "tick", {}))
    assert (await world.heard("a", 3))[:3] == [["tick", {}]] * 3
    assert await do(world, "a", ("cancel_timer", timer)) is True
    assert await do(world, "a", ("cancel_timer", timer)) is False
    await world.ask("a", "take")
    # One whose message waits already is taken back.
    assert await do(world, "a", ("send_after", 0, "never", {}), ("sleep", 0.01), ("cancel_timer", "$0")) is True
    assert await do(world, "a", ("send_interval", 0, "tick", {})) == {"code": "invalid-argument"}
    assert await do(world, "a", ("send_after", 366 * 24 * 3_600_000, "tick", {})) == {"code": "invalid-argument"}
    assert await world.ask("a", "take") == []


async def test_a_restart_cuts_all_ties(world: World) -> None:
    await world.put("a", restart="permanent")
    await world.put("b")
    await world.put("w")
    await do(world, "a", ("link", "b"), ("monitor", "w"), ("send_after", 20, "late", {}))
    await do(world, "a", ("process_groups.join", "g"), ("registry.set_label", "tier", "gold"))
    reference = await do(world, "w", ("monitor", "a"))
    assert await world.ask("a", "crash", text="once") == "handler-crashed"
    assert await world.heard("w", 1) == [
        ["DOWN", {"monitor_ref": reference, "actor_id": "a", "reason": "crashed(RuntimeError, once)"}]
    ]
    await world.until(lambda: not world.lives("b"))
    await world.until(lambda: world.lives("a"))
    assert await do(world, "a", ("process_groups.members", "g")) == []
    assert await do(world, "a", ("registry.find", "", "", "tier")) == []
    await world.kill("w")
    await do(world, "a", ("send_after", 40, "mark", {}))
    assert await world.heard("a", 1) == [["mark", {}]]


async def test_a_handler_that_is_ended_by_its_own_call_answers_nobody(world: World) -> None:
    await world.put("a")
    assert await do(world, "a", ("link", "nobody"), ("registry.set_label", "reached", "yes")) == "actor-exited"
    await world.put("b")
    assert await do(world, "b", ("registry.find", "", "", "reached")) == []


def test_payloads_are_json() -> None:
    node = TestNode()
    node.spawn(Puppet, {"calls": [["self_id", []]]})
    assert json.dumps(node.ask("puppet", "take")) == '[["init", "puppet"]]'
