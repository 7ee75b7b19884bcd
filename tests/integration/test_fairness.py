"""A flood of one tenant beside another, on a real node with real wasm: order of turns, and what the edge lets in.

Nothing here looks at a clock: how long it takes is for `tests/bench/tenants.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from plexspaces_runtime.scope import Address, Scope
from tests.nodes import TestBed, running

pytestmark = pytest.mark.guest

Guest = Callable[[str], Path]
GOOD, EVIL = Scope("good", "default"), Scope("evil", "default")
QUIET = Address(GOOD, "quiet")
FLOODERS = 24


async def flooded(bed: TestBed, wasm: Path, operation: str) -> list[Address]:
    """One tenant's quiet actor, and another's that all do for ever what the operation does."""
    await bed.deploy("quiet", wasm, scope=GOOD, role="quiet")
    await bed.deploy("flood", wasm, scope=EVIL, role="flood")
    addresses = [Address(EVIL, "flood", str(number)) for number in range(FLOODERS)]
    for address in addresses:
        await bed.node.spawn(address)
    for address in addresses:
        await bed.node.tell(address, operation, "{}")
    return addresses


def handled(bed: TestBed, addresses: list[Address]) -> int:
    return sum(bed.node.info(address).messages_handled for address in addresses)


def turns(bed: TestBed) -> float:
    """How often an actor gave way to others, with its message done or not."""
    counters = bed.node.counters()
    return counters["messages_total"] + counters["preemptions_total"]


@pytest.mark.parametrize("operation", ["spin", "grind"])
async def test_who_asks_for_little_waits_for_few_turns_of_a_flood(
    guest: Guest, tmp_path: Path, operation: str
) -> None:
    """Not for one turn of each of the flood's actors, which is what a queue without tenants would make of it."""
    async with running(tmp_path) as bed:
        addresses = await flooded(bed, guest("flood"), operation)
        await bed.until(lambda: handled(bed, addresses) > 5 * FLOODERS)
        waited = []
        for number in range(30):
            before = turns(bed)
            assert await bed.ask(QUIET, "ask") == number + 1
            waited.append(turns(bed) - before)
            # To somewhere in the middle of the flood's own order.
            await asyncio.sleep(0)
        assert sorted(waited)[len(waited) // 2] < FLOODERS / 2
        assert turns(bed) > 5 * FLOODERS


async def test_both_get_their_part_of_the_processor(guest: Guest, tmp_path: Path) -> None:
    """One actor of one tenant computes as much as two dozen of another's together."""
    async with running(tmp_path, cpu_ms_per_message_max=600_000) as bed:
        addresses = await flooded(bed, guest("flood"), "grind")
        await bed.deploy("flood", guest("flood"), scope=GOOD, role="flood")
        rival = Address(GOOD, "flood")

        def used_ms(several: list[Address]) -> float:
            return sum(bed.node.info(address).cpu_ms for address in several)

        await bed.until(lambda: used_ms(addresses) > 100)
        await bed.node.tell(rival, "grind", "{}")
        await bed.until(lambda: used_ms([rival]) > 20)
        rivals, floods = used_ms([rival]), used_ms(addresses)
        await bed.until(lambda: used_ms([rival]) > rivals + 300, within_s=60)
        # A third more or less: the last turns of each are not over.
        assert (used_ms(addresses) - floods) / (used_ms([rival]) - rivals) < 1.5
