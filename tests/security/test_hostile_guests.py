"""A hostile guest harms itself, with a named reason, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.errors import HandlerCrashed, PlexSpacesError
from plexspaces_runtime.events import ActorExited, GuestLogged, GuestLogTruncated, HostFault, NodeFault
from tests.nodes import SCOPE, TestBed, running

pytestmark = pytest.mark.guest

# operation, arguments, what the caller hears (code, part of the message), the exit's reason (None: it goes on)
ATTACKS: list[tuple[str, dict[str, Any], str, str, str | None]] = [
    ("memory_bomb", {}, "handler-crashed", "memory_bytes_max", "limit(memory)"),
    (
        "crash",
        {},
        "handler-crashed",
        "RuntimeError: as you wished",
        "crashed(RuntimeError, as you wished)",
    ),
    ("base_exception", {}, "handler-crashed", "BaseException", "crashed(BaseException, "),
    ("keyboard_interrupt", {}, "handler-crashed", "KeyboardInterrupt", "crashed(KeyboardInterrupt"),
    ("sys_exit", {}, "handler-crashed", "SystemExit", "crashed(SystemExit, "),
    ("os_exit", {}, "handler-crashed", "", "crashed("),
    ("trap", {}, "handler-crashed", "", "crashed("),
    ("recurse", {}, "handler-crashed", "RecursionError", "crashed(RecursionError, "),
    ("recurse_in_c", {}, "handler-crashed", "", ""),
    ("deep_json", {}, "handler-crashed", "", ""),
    ("big_reply", {}, "limit-exceeded", "payload_bytes_max", None),
    ("log_lines", {"count": 1_000_000}, "handler-crashed", "host_calls_per_message_max", "limit(host-calls)"),
    ("loop", {}, "handler-crashed", "cpu_ms_per_message_max", "limit(cpu)"),
    ("loop_catching", {}, "handler-crashed", "cpu_ms_per_message_max", "limit(cpu)"),
    ("loop_calling", {}, "handler-crashed", "host_calls_per_message_max", "limit(host-calls)"),
    ("surrogates", {}, "", "", None),
    ("open_file", {}, "handler-crashed", "", "crashed("),
    ("not_json", {}, "handler-crashed", "", "crashed("),
]


async def attack(bed: TestBed, op: str, arguments: dict[str, Any]) -> tuple[str, str]:
    try:
        reply = await bed.ask("hostile", op, **arguments)
    except PlexSpacesError as error:
        return error.code, error.message
    return "", str(reply)[:100]


@pytest.mark.parametrize(("op", "arguments", "code", "said", "reason"), ATTACKS, ids=[row[0] for row in ATTACKS])
async def test_an_attack_harms_only_its_own_actor(
    guest: Callable[[str], Path],
    tmp_path: Path,
    op: str,
    arguments: dict[str, Any],
    code: str,
    said: str,
    reason: str | None,
) -> None:
    async with running(tmp_path, cpu_ms_per_message_max=1_000, host_calls_per_message_max=5_000) as bed:
        await bed.deploy("hostile", guest("zoo"), role="hostile")
        await bed.deploy("bystander", guest("zoo"), role="echo")
        heard, *_ = await asyncio.gather(
            attack(bed, op, arguments), *(bed.ask("bystander", "echo", value=n) for n in range(50))
        )
        assert heard[0] == code
        assert said in heard[1]
        exits = [event.reason for event in bed.events(ActorExited)]
        if reason is None:
            assert exits == []
        else:
            (only,) = exits
            assert only.startswith(reason)
        # The attacker is back, new, and the bystander has noticed nothing.
        assert await bed.ask("hostile", "ping") == {"calls": 1}
        assert await bed.ask("bystander", "seen") == 50
        assert bed.events(HostFault) == []
        assert bed.events(NodeFault) == []


async def test_of_a_million_log_lines_the_first_are_kept_and_the_rest_is_said_once(
    guest: Callable[[str], Path], tmp_path: Path
) -> None:
    async with running(tmp_path, log_lines_per_message_max=100) as bed:
        await bed.deploy("hostile", guest("zoo"), role="hostile")
        await attack(bed, "log_lines", {"count": 5_000})
        assert len(bed.events(GuestLogged)) == 100
        assert len(bed.events(GuestLogTruncated)) == 1


async def test_four_endless_loops_leave_the_others_their_latency_and_end_by_their_limit(
    guest: Callable[[str], Path], tmp_path: Path
) -> None:
    async with running(tmp_path, cpu_ms_per_message_max=1_500) as bed:
        for number in range(4):
            await bed.deploy(f"loop{number}", guest("zoo"), role="hostile")
        await bed.deploy("bystander", guest("zoo"), role="echo")
        loops = [asyncio.ensure_future(bed.ask(f"loop{number}", "loop")) for number in range(4)]
        answered = 0
        while not all(loop.done() for loop in loops):
            assert await bed.ask("bystander", "echo", value=answered) == answered
            answered += 1
        outcomes = await asyncio.gather(*loops, return_exceptions=True)
        assert all(isinstance(outcome, HandlerCrashed) for outcome in outcomes)
        assert [event.reason for event in bed.events(ActorExited)] == ["limit(cpu)"] * 4
        # Not a clock in the test suite: were the loop blocked for slices of the four, a few dozen would get through.
        assert answered > 1_000


async def test_a_guest_that_asks_with_a_payload_too_large_is_refused_and_goes_on(
    guest: Callable[[str], Path], tmp_path: Path
) -> None:
    async with running(tmp_path, payload_bytes_max=10_000) as bed:
        await bed.deploy("hostile", guest("zoo"), role="hostile")
        await bed.deploy("bystander", guest("zoo"), role="echo")
        code, message = await attack(bed, "big_ask", {"to": "bystander", "size_bytes": 20_000})
        assert code == "handler-crashed"
        assert "payload_bytes_max = 10000" in message
        assert len(await bed.ask("hostile", "big_ask", to="bystander", size_bytes=9_000)) == 9_000


async def test_all_attacks_at_once_beside_a_tenant_whose_calls_go_on(
    guest: Callable[[str], Path], tmp_path: Path
) -> None:
    from plexspaces_runtime.scope import Address, Scope

    async with running(tmp_path, cpu_ms_per_message_max=500) as bed:
        ours = Scope("victim", "default")
        await bed.node.deploy(ours, "echo", guest("zoo"), {"role": "echo"})
        for number, _row in enumerate(ATTACKS):
            await bed.deploy(f"hostile{number}", guest("zoo"), role="hostile")
        attacks = [
            asyncio.ensure_future(bed.node.ask(Address(SCOPE, f"hostile{number}"), op, "{}", timeout_s=60))
            for number, (op, *_rest) in enumerate(ATTACKS)
        ]
        answered = 0
        while not all(one.done() for one in attacks):
            assert await bed.ask(Address(ours, "echo"), "echo", value=answered) == answered
            answered += 1
        await asyncio.gather(*attacks, return_exceptions=True)
        assert answered > 100
        assert bed.events(NodeFault) == []
