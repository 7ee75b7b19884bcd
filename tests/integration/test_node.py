"""A whole node in one process: many actors, blocked actors, new versions under load, restarts, shutdown."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from plexspaces_runtime.errors import (
    ActorNotFound,
    AlreadyExists,
    Conflict,
    HandlerCrashed,
    HandlerRefused,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from plexspaces_runtime.events import (
    ActorExited,
    ActorStarted,
    ActorUpgraded,
    FiberOffloaded,
    GuestLogged,
    PermissionRefused,
)
from plexspaces_runtime.scope import Address, Caller, Scope
from tests.nodes import SCOPE, running

pytestmark = pytest.mark.guest
Guest = Callable[[str], Path]


async def test_five_thousand_actors_live_and_a_thousand_of_them_wait_at_once_on_one_thread(
    guest: Guest, tmp_path: Path
) -> None:
    async with running(tmp_path, mailbox_messages_max=2_000, ask_timeout_ms=120_000) as bed:
        await bed.deploy("echo", guest("zoo"), role="echo")
        await bed.deploy("relay", guest("zoo"), role="relay")
        for number in range(4_998):
            await bed.node.spawn(Address(SCOPE, "relay", str(number)))
        assert bed.node.counters()["actors"] == 5_000
        threads = threading.active_count()
        asks = [
            asyncio.ensure_future(bed.ask(f"relay/{number}", "ask", to="echo", op="hold", timeout_s=120))
            for number in range(1_000)
        ]
        await bed.until(lambda: bed.node.info(Address(SCOPE, "echo")).messages_handled == 1_000)
        waiting = [info for info in bed.node.actors("acme") if info.waiting_for == ("echo",)]
        assert len(waiting) == 1_000
        assert {info.state for info in waiting} == {"waiting"}
        assert threading.active_count() == threads
        assert await bed.ask("echo", "release", value="go") == 1_000
        assert await asyncio.gather(*asks) == ["go"] * 1_000
        # Those that were never used answer too.
        assert await bed.ask("relay/4997", "ask", to="echo", op="echo", payload={"value": 7}) == 7


async def test_an_actor_asked_by_a_thousand_at_once_stays_in_order(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path, mailbox_messages_max=2_000) as bed:
        await bed.deploy("counter", guest("counter"))
        replies = await asyncio.gather(*(bed.ask("counter", "increment", amount=1) for _ in range(1_000)))
        assert [reply["count"] for reply in replies] == list(range(1, 1_001))


async def test_state_survives_a_new_version_under_load_and_no_message_is_lost(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await bed.deploy("counter", guest("counter"))
        stop = asyncio.Event()
        counts: list[int] = []

        async def client() -> None:
            while not stop.is_set():
                counts.append((await bed.ask("counter", "increment", amount=1))["count"])

        clients = [asyncio.ensure_future(client()) for _ in range(8)]
        for number in range(5):
            enough = len(counts) + 200
            await bed.until(lambda enough=enough: len(counts) >= enough)
            await bed.deploy("counter", guest("counter"), args={"round": number})
        stop.set()
        await asyncio.gather(*clients)
        # Each increment happened once, in one unbroken history.
        assert sorted(counts) == list(range(1, len(counts) + 1))
        assert len(bed.events(ActorUpgraded)) == 5
        assert bed.events(ActorExited) == []
        assert bed.node.deployments("acme")[0].version == 6
        # The same again is nothing new.
        await bed.deploy("counter", guest("counter"), args={"round": 4})
        assert len(bed.events(ActorUpgraded)) == 5


async def test_a_version_that_does_not_start_leaves_the_old_one_in_charge(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await bed.deploy("memory", guest("zoo"), role="memory")
        await bed.ask("memory", "put", name="a", value=[1, {"b": None}])
        with pytest.raises(Conflict, match="told to fail"):
            await bed.deploy("memory", guest("zoo"), role="memory", args={"fail": True})
        assert (await bed.ask("memory", "get"))["values"] == {"a": [1, {"b": None}]}
        assert bed.node.deployments("acme")[0].version == 1


async def test_a_first_version_that_does_not_start_is_not_deployed(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        with pytest.raises(HandlerCrashed, match="told to fail"):
            await bed.deploy("memory", guest("zoo"), role="memory", args={"fail": True})
        assert bed.node.deployments("acme") == []
        with pytest.raises(ActorNotFound):
            await bed.ask("memory", "get")
        await bed.deploy("memory", guest("zoo"), role="memory")
        assert (await bed.ask("memory", "get"))["born"] == 1


async def test_a_crashed_actor_is_started_again_and_what_waited_is_answered(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        address = await bed.deploy("memory", guest("zoo"), role="memory", args={"n": 1})
        asks = [
            bed.ask("memory", "put", name="a", value=1),
            bed.ask("memory", "put_and_crash", name="b", value=2),
            bed.ask("memory", "get"),
        ]
        first, crash, after = await asyncio.gather(*asks, return_exceptions=True)
        assert first == {"size": 1}
        assert isinstance(crash, HandlerCrashed)
        assert crash.message == "RuntimeError: after writing"
        assert after == {"values": {}, "born": 1, "args": {"n": 1}}
        info = bed.node.info(address)
        assert (info.restarts, info.last_exit) == (1, "crashed(RuntimeError, after writing)")
        (exit_,) = bed.events(ActorExited)
        assert "put_and_crash" in exit_.traceback
        assert [event.restarts for event in bed.events(ActorStarted)] == [0, 1]


async def test_heavy_computing_moves_to_another_thread_and_its_asks_come_back_right(
    guest: Guest, tmp_path: Path
) -> None:
    async with running(tmp_path) as bed:
        await bed.deploy("worker", guest("zoo"), role="worker")
        await bed.deploy("counter", guest("counter"))
        replies = await bed.ask("worker", "compute_and_ask", rounds=300_000, to="counter", op="increment", times=5)
        assert [reply["count"] for reply in replies] == [1, 2, 3, 4, 5]
        assert len(bed.events(FiberOffloaded)) == 1
        # And the next message begins where every message does.
        assert await bed.ask("worker", "compute", rounds=10) == sum(n * n % 7 for n in range(10))
        assert bed.node.counters()["offloaded_actors"] == 0


async def test_a_cycle_of_asks_is_refused_and_named(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        for name in ("a", "b", "c"):
            await bed.deploy(name, guest("zoo"), role="relay")
        reply = await bed.ask("a", "ask_caught", to="a", op="ask")
        assert reply["code"] == "deadlock"
        reply = await bed.ask(
            "a", "ask", to="b", op="ask",
            payload={"to": "c", "op": "ask_caught", "payload": {"to": "a", "op": "ask"}},
        )  # fmt: skip
        assert reply["code"] == "deadlock"
        assert "c -> a -> b -> c" in reply["message"]


async def test_the_caller_travels_down_and_the_sender_is_the_actor(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await bed.deploy("echo", guest("zoo"), role="echo")
        await bed.deploy("relay", guest("zoo"), role="relay")
        text = await bed.node.ask(
            Address(SCOPE, "relay"),
            "ask",
            '{"to": "echo", "op": "whoami"}',
            caller=Caller("alice", frozenset({"user", "admin"})),
        )
        assert json.loads(text) == {
            "actor_id": "echo",
            "self_id": "echo",
            "sender": "relay",
            "subject": "alice",
            "roles": ["admin", "user"],
        }


async def test_namespaces_and_tenants_are_strangers(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await bed.deploy("relay", guest("zoo"), role="relay")
        await bed.deploy("echo", guest("zoo"), scope=Scope("rival", "default"), role="echo")
        reply = await bed.ask("relay", "ask_caught", to="echo", op="echo")
        assert reply["code"] == "actor-not-found"
        reply = await bed.ask("relay", "ask_caught", to="rival/default/echo", op="echo")
        assert reply["code"] == "invalid-argument"
        assert [info.address.text for info in bed.node.actors("acme")] == ["relay"]


async def test_instances_of_one_component_have_time_and_chance_of_their_own(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await bed.deploy("one", guest("zoo"), role="sources")
        await bed.deploy("two", guest("zoo"), role="sources")
        one, two = await bed.ask("one", "chance"), await bed.ask("two", "chance")
        assert not [name for name in one if one[name] == two[name]]
        time = await bed.ask("one", "time")
        assert abs(time["time"] - bed.node.clock.now_ns() / 1e9) < 60


async def test_an_actor_without_a_capability_is_told_so(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await bed.deploy("echo", guest("zoo"), role="echo")
        await bed.deploy("relay", guest("zoo"), role="relay", capabilities=["lifecycle"])
        reply = await bed.ask("relay", "ask_caught", to="echo", op="echo")
        assert reply["code"] == "permission-denied"
        assert "messaging" in reply["message"]
        assert [event.capability for event in bed.events(PermissionRefused)] == ["messaging"]


async def test_mistakes_of_a_caller_are_refusals_with_the_way_out(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await bed.deploy("counter", guest("counter"))
        with pytest.raises(HandlerRefused, match="increment") as refused:
            await bed.ask("counter", "incremnt")
        assert refused.value.details["reason"] == "unknown-operation"
        with pytest.raises(HandlerRefused, match="amount") as refused:
            await bed.ask("counter", "increment", amount="five", amuont=3)
        assert refused.value.details["reason"] == "invalid-arguments"
        with pytest.raises(ActorNotFound, match="'cuonter'"):
            await bed.ask("cuonter", "get")
        with pytest.raises(NotFound):
            await bed.node.spawn(Address(SCOPE, "nothing", "1"))
        with pytest.raises(InvalidArgument, match="did you mean"):
            await bed.deploy("counter", guest("counter"), rol="x")
        assert await bed.ask("counter", "get") == {"count": 0}


async def test_a_key_is_given_once(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await bed.deploy("counter", guest("counter"))
        await bed.node.spawn(Address(SCOPE, "counter", "blue"))
        await bed.ask("counter/blue", "increment", amount=3)
        with pytest.raises(AlreadyExists):
            await bed.node.spawn(Address(SCOPE, "counter", "blue"))
        assert await bed.ask("counter/blue", "get") == {"count": 3}
        assert await bed.ask("counter", "get") == {"count": 0}


async def test_stopping_an_actor_runs_its_terminate_and_killing_does_not(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        stopped = await bed.deploy("stopped", guest("zoo"), role="memory")
        killed = await bed.deploy("killed", guest("zoo"), role="memory")
        await bed.node.stop_actor(stopped)
        await bed.node.stop_actor(killed, kill=True)
        assert [(event.address.text, event.reason) for event in bed.events(ActorExited)] == [
            ("stopped", "shutdown"),
            ("killed", "killed"),
        ]
        assert [(line.address.text, line.message) for line in bed.events(GuestLogged)] == [
            ("stopped", "ended: shutdown")
        ]
        with pytest.raises(ActorNotFound):
            await bed.ask("stopped", "get")


async def test_undeploy_ends_all_actors_of_the_type(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await bed.deploy("counter", guest("counter"))
        await bed.node.spawn(Address(SCOPE, "counter", "blue"))
        await bed.node.undeploy(SCOPE, "counter")
        assert bed.node.counters()["actors"] == 0
        with pytest.raises(NotFound):
            await bed.node.undeploy(SCOPE, "counter")


async def test_a_stopping_node_finishes_what_runs_and_what_waits(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await bed.deploy("echo", guest("zoo"), role="echo")
        asks = [asyncio.ensure_future(bed.ask("echo", "late", ms=50, value=n)) for n in range(4)]
        await bed.until(lambda: bed.node.info(Address(SCOPE, "echo")).mailbox_messages == 3)
        await bed.node.stop(grace_s=10)
        assert await asyncio.gather(*asks) == [0, 1, 2, 3]
        with pytest.raises(Unavailable):
            await bed.ask("echo", "echo")


async def test_a_stopping_node_does_not_wait_longer_than_its_grace(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await bed.deploy("hostile", guest("zoo"), role="hostile")
        await bed.deploy("echo", guest("zoo"), role="echo")
        endless = asyncio.ensure_future(bed.ask("hostile", "loop"))
        asleep = asyncio.ensure_future(bed.ask("echo", "late", ms=100_000))
        await bed.until(lambda: bed.node.counters()["offloaded_actors"] == 1)
        await bed.node.stop(grace_s=0.1)
        outcomes = await asyncio.gather(endless, asleep, return_exceptions=True)
        assert all("killed" in str(outcome) for outcome in outcomes)


async def test_two_nodes_fit_in_one_process(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path / "a") as one, running(tmp_path / "b") as two:
        await one.deploy("counter", guest("counter"))
        await two.deploy("counter", guest("counter"))
        await one.ask("counter", "increment", amount=7)
        assert await one.ask("counter", "get") == {"count": 7}
        assert await two.ask("counter", "get") == {"count": 0}
