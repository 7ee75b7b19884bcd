"""Applications in processes of their own: the same actors, and a process that may die without anybody else noticing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.deployment.appconfig import parse
from plexspaces_runtime.errors import ActorExited, ActorNotFound, HandlerCrashed
from plexspaces_runtime.events import ActorExited as Exited
from plexspaces_runtime.events import ProcessEnded, ProcessStarted
from plexspaces_runtime.scope import Address
from tests.nodes import SCOPE, TestBed, running

pytestmark = pytest.mark.guest
Guest = Callable[[str], Path]


def config(name: str, roles: dict[str, str], *, application: str = 'isolation = "process"') -> str:
    """An application with a child for each role, all of one component."""
    children = "\n".join(
        "\n".join(
            (
                f'[[supervisor.children]]\nname = "{child}"\nactor_type = "code"',
                f'role = "{role}"' if role else "",
            )
        )
        for child, role in roles.items()
    )
    return f"""
[application]
name = "{name}"
{application}
[[components]]
name = "code"
path = "code.wasm"
[supervisor]
max_restarts = 100
{children}
"""


async def deploy(bed: TestBed, wasm: Path, name: str, roles: dict[str, str], **changes: Any) -> None:
    parsed = parse(config(name, roles, **changes))
    await bed.node.deploy_application(SCOPE.tenant, parsed, {"code": wasm})


def pid(bed: TestBed, name: str) -> int:
    """The process of an application that runs now."""
    return next(each.pid for each in reversed(bed.events(ProcessStarted)) if each.application == name)


async def test_an_isolated_actor_is_reached_through_the_same_messages(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await deploy(bed, guest("zoo"), "apart", {"echo": "echo", "relay": "relay"})
        assert await bed.ask("echo", "echo", value={"a": [1, "ü"]}) == {"a": [1, "ü"]}
        assert await bed.ask("relay", "ask", to="echo", op="echo", payload={"value": 5}) == 5
        (started,) = bed.events(ProcessStarted)
        assert started.missing == ()
        assert os.path.exists(f"/proc/{started.pid}")
    assert not os.path.exists(f"/proc/{started.pid}")


async def test_host_calls_of_an_isolated_actor_are_served_by_the_node(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await deploy(bed, guest("ledger"), "books", {"ledger": ""})
        for number in range(5):
            assert (await bed.ask("ledger", "add", entry=f"e{number}"))["total"] == number + 1
        audit = await bed.ask("ledger", "audit")
        assert audit["total"] == 5
        assert [entry for _, entry, _ in audit["events"]] == [f"e{number}" for number in range(5)]


async def test_applications_ask_each_other_across_processes(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await deploy(bed, guest("zoo"), "one", {"relay": "relay"})
        await deploy(bed, guest("zoo"), "two", {"echo": "echo"})
        await deploy(bed, guest("zoo"), "here", {"near": "relay"}, application='isolation = "none"')
        assert pid(bed, "one") != pid(bed, "two")
        assert await bed.ask("relay", "ask", to="echo", op="echo", payload={"value": 1}) == 1
        assert await bed.ask("near", "pass_on", path=["relay", "echo"], op="echo", payload={"value": 2}) == 2
        refused = await bed.ask("relay", "ask_caught", to="relay", op="ask")
        assert refused["code"] == "deadlock"


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("crash", "crashed(RuntimeError, as you wished)"),
        ("memory_bomb", "limit(memory)"),
        ("recurse_in_c", "limit(stack)"),
        ("trap", "crashed(abort, the actor called abort)"),
    ],
)
async def test_an_end_has_the_same_name_in_a_process_and_ends_only_the_actor(
    guest: Guest, tmp_path: Path, op: str, reason: str
) -> None:
    seen = {}
    async with running(tmp_path) as bed:
        for isolation in ("none", "process"):
            name = f"in_{isolation}"
            await deploy(
                bed, guest("zoo"), name, {name: "hostile", f"{name}_echo": "echo"},
                application=f'isolation = "{isolation}"',
            )
            with pytest.raises(HandlerCrashed) as caught:
                await bed.ask(name, op)
            seen[isolation] = caught.value.details["exit"]
            assert await bed.ask(name, "ping") == {"calls": 1}
            assert await bed.ask(f"{name}_echo", "echo", value=1) == 1
        assert not bed.events(ProcessEnded)
    assert seen == {"none": reason, "process": reason}


async def test_an_endless_loop_is_killed_at_once_and_is_in_nobodys_way(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await deploy(bed, guest("zoo"), "apart", {"looper": "hostile", "echo": "echo"})
        looping = asyncio.ensure_future(bed.ask("looper", "loop"))
        await bed.until(lambda: bed.node.info(_address("looper")).state == "busy")
        for number in range(20):
            assert await bed.ask("echo", "echo", value=number) == number
        assert not looping.done()
        await bed.node.stop_actor(_address("looper"), kill=True)
        with pytest.raises(ActorExited, match="killed"):
            await looping
        assert await bed.ask("echo", "echo", value="still") == "still"
        assert not bed.events(ProcessEnded)


async def test_the_processor_time_of_a_message_is_limited(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path, cpu_ms_per_message_max=300) as bed:
        await deploy(bed, guest("zoo"), "apart", {"looper": "hostile", "echo": "echo"})
        with pytest.raises(HandlerCrashed) as caught:
            await bed.ask("looper", "loop")
        assert caught.value.details["exit"] == "limit(cpu)"
        with pytest.raises(HandlerCrashed) as caught:
            await bed.ask("looper", "loop_calling")
        assert caught.value.details["exit"] in ("limit(cpu)", "limit(host-calls)")
        assert bed.node.info(_address("echo")).cpu_ms > 0
        assert await bed.ask("looper", "ping") == {"calls": 1}


async def test_a_message_that_waits_is_ended_by_its_wall_time(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path, wall_s_per_message_max=5.0, ask_timeout_ms=4_900) as bed:
        await deploy(bed, guest("zoo"), "apart", {"echo": "echo"})
        os.kill(pid(bed, "apart"), signal.SIGSTOP)
        with pytest.raises(HandlerCrashed) as caught:
            await bed.ask("echo", "echo", value=1)
        assert caught.value.details["exit"] == "limit(wall)"
        os.kill(pid(bed, "apart"), signal.SIGCONT)
        assert await bed.ask("echo", "echo", value=2) == 2


async def test_a_process_that_is_killed_ends_its_actors_and_nobody_elses(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await deploy(bed, guest("zoo"), "apart", {"echo": "echo", "worker": "worker"})
        await deploy(bed, guest("zoo"), "other", {"bystander": "echo"})
        await deploy(bed, guest("zoo"), "here", {"near": "echo"}, application='isolation = "none"')
        working = asyncio.ensure_future(bed.ask("worker", "compute", rounds=100_000_000))
        await bed.until(lambda: bed.node.info(_address("worker")).state == "busy")
        first = pid(bed, "apart")
        os.kill(first, signal.SIGKILL)
        with pytest.raises(HandlerCrashed, match="SIGKILL") as caught:
            await working
        assert caught.value.details["exit"].startswith("crashed(process, ")
        # Both were ended, and both are back, in another process.
        assert await bed.ask("echo", "echo", value=1) == 1
        assert await bed.ask("worker", "compute", rounds=10) > 0
        assert pid(bed, "apart") != first
        ended = {event.address.type for event in bed.events(Exited) if "SIGKILL" in event.reason}
        assert ended == {"echo", "worker"}
        assert [event.pid for event in bed.events(ProcessEnded)] == [first]
        assert bed.node.info(_address("bystander")).restarts == 0
        assert await bed.ask("bystander", "echo", value=1) == 1
        assert bed.node.info(_address("near")).restarts == 0


async def test_durable_actors_lose_nothing_when_their_process_is_killed_under_load(
    guest: Guest, tmp_path: Path
) -> None:
    """Every acknowledged increment is there, those under way at most once more, and others' asks go on."""
    acknowledged = 0
    sent = 0
    async with running(tmp_path) as bed:
        await deploy(bed, guest("counter"), "apart", {"counter": ""})
        await deploy(bed, guest("zoo"), "other", {"bystander": "echo"}, application='isolation = "none"')
        stopping = False

        async def client() -> None:
            nonlocal acknowledged, sent
            while not stopping:
                sent += 1
                try:
                    await bed.ask("counter", "increment")
                except (HandlerCrashed, ActorExited):
                    continue
                acknowledged += 1

        async def bystander() -> None:
            while not stopping:
                assert await bed.ask("bystander", "echo", value=1) == 1
                await asyncio.sleep(0)

        tasks = [asyncio.ensure_future(each) for each in (*(client() for _ in range(4)), bystander())]
        for kills in (1, 2, 3):
            goal = acknowledged + 50
            await bed.until(lambda goal=goal: acknowledged >= goal)
            os.kill(pid(bed, "apart"), signal.SIGKILL)
            await bed.until(lambda kills=kills: len(bed.events(ProcessEnded)) == kills)
        stopping = True
        await asyncio.gather(*tasks)
        count = (await bed.ask("counter", "get"))["count"]
        assert acknowledged <= count <= sent
        assert bed.node.info(_address("bystander")).restarts == 0
    # And after the node's own end.
    async with running(tmp_path) as bed:
        assert (await bed.ask("counter", "get"))["count"] == count


async def test_a_process_that_takes_too_much_memory_is_ended_with_that_reason(guest: Guest, tmp_path: Path) -> None:
    limit = 160 << 20
    async with running(tmp_path) as bed:
        await deploy(
            bed, guest("zoo"), "apart", {"memory": "memory"},
            application=f'isolation = "process"\nprocess_memory_bytes_max = {limit}',
        )
        await deploy(bed, guest("zoo"), "other", {"bystander": "echo"})
        for number in range(12):
            await bed.node.spawn(_address(f"memory/{number}"))
        # Each by itself stays below its own limit.
        fills = (bed.ask(f"memory/{number}", "fill", size_bytes=24 << 20) for number in range(12))
        answers = await asyncio.gather(*fills, return_exceptions=True)
        assert {type(each) for each in answers} <= {int, HandlerCrashed, ActorExited, ActorNotFound}
        await bed.until(lambda: bool(bed.events(ProcessEnded)))
        assert f"process_memory_bytes_max = {limit}" in bed.events(ProcessEnded)[0].reason
        reasons = {event.reason for event in bed.events(Exited) if event.address.type == "memory"}
        assert reasons == {"limit(process-memory)"}
        assert await bed.ask("memory", "get")
        assert bed.node.info(_address("bystander")).restarts == 0


async def test_an_application_moves_into_a_process_and_back_with_its_state(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        wasm = guest("zoo")
        await deploy(bed, wasm, "apart", {"memory": "memory"}, application='isolation = "none"')
        await bed.ask("memory", "put", name="a", value=1)
        assert not bed.events(ProcessStarted)
        await deploy(bed, wasm, "apart", {"memory": "memory"})
        first = pid(bed, "apart")
        assert (await bed.ask("memory", "put", name="b", value=2)) == {"size": 2}
        await deploy(bed, wasm, "apart", {"memory": "memory"}, application='isolation = "none"')
        assert (await bed.ask("memory", "get"))["values"] == {"a": 1, "b": 2}
        os.kill(first, signal.SIGKILL)
        await bed.until(lambda: bool(bed.events(ProcessEnded)))
        assert (await bed.ask("memory", "get"))["values"] == {"a": 1, "b": 2}


async def test_an_application_is_stopped_and_deployed_again(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await deploy(bed, guest("zoo"), "apart", {"echo": "echo"})
        await bed.node.undeploy_application(SCOPE.tenant, "apart")
        await deploy(bed, guest("zoo"), "apart", {"echo": "echo"})
        assert await bed.ask("echo", "echo", value=1) == 1


async def test_an_answer_that_comes_too_late_is_not_the_successors(guest: Guest, tmp_path: Path) -> None:
    """Whoever waits for the host when its process dies gets no answer, and neither does its successor."""
    async with running(tmp_path) as bed:
        await deploy(bed, guest("zoo"), "apart", {"echo": "echo"})
        late = asyncio.ensure_future(bed.ask("echo", "late", ms=600, value="old"))
        await bed.until(lambda: bed.node.info(_address("echo")).state == "waiting")
        os.kill(pid(bed, "apart"), signal.SIGKILL)
        with pytest.raises(HandlerCrashed):
            await late
        assert await bed.ask("echo", "late", ms=700, value="new") == "new"
        assert await bed.ask("echo", "seen") == 1


def _address(text: str) -> Address:
    return Address.parse(SCOPE, text)
