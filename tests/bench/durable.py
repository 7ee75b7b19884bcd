"""Durable asks against what SQLite does without us, replay, and recovery from the death of the process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.node import Node
from plexspaces_runtime.scope import Address
from tests.nodes import SCOPE, TestBed, running

from .common import ROOT, Row, counter_wasm, median, plain_counter_wasm
from .kv import _bare, _writer

_CALLERS = 100
_CALLS = 20_000
_SINGLE = 2_000
_ROUNDS = 3
_REPLAYED = 20_000
_AGE = 100_000
_RECOVERIES = 5
_PAYLOAD = '{"amount": 2}'


def _config(actors: int, checkpoint_interval: int | None) -> appconfig.AppConfig:
    """So many counters `c0`, `c1`, ...; None for actors that are not durable."""
    durability = f'{{ type = "durability", config = {{ checkpoint_interval = {checkpoint_interval} }} }}'
    facets = "" if checkpoint_interval is None else durability
    children = "".join(
        f'  {{ name = "c{number}", actor_type = "counter", facets = [{facets}] }},\n' for number in range(actors)
    )
    return appconfig.parse(
        '[application]\nname = "counters"\n\n[[components]]\nname = "counter"\npath = "counter.wasm"\n\n'
        f"[supervisor]\nchildren = [\n{children}]\n"
    )


async def _deploy(bed: TestBed, actors: int, checkpoint_interval: int | None) -> None:
    wasm = plain_counter_wasm() if checkpoint_interval is None else counter_wasm()
    await bed.node.deploy_application(SCOPE.tenant, _config(actors, checkpoint_interval), {"counter": wasm})


async def _asks(node: Node, address: Address, calls: int) -> None:
    for _ in range(calls):
        await node.ask(address, "increment", _PAYLOAD)


async def _rates(checkpoint_interval: int | None) -> tuple[list[float], list[float]]:
    """Asks a second of a hundred callers, and microseconds of one alone."""
    many, one = [], []
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        bed = await stack.enter_async_context(running(Path(folder)))
        await _deploy(bed, _CALLERS, checkpoint_interval)
        addresses = [Address(SCOPE, f"c{number}") for number in range(_CALLERS)]
        for address in addresses:
            await _asks(bed.node, address, 20)
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            await asyncio.gather(*(_asks(bed.node, address, _CALLS // _CALLERS) for address in addresses))
            many.append(_CALLS / (time.perf_counter() - began))
            began = time.perf_counter()
            await _asks(bed.node, addresses[0], _SINGLE)
            one.append((time.perf_counter() - began) / _SINGLE * 1e6)
    return many, one


async def _grow_old(folder: Path, age: int, checkpoint_interval: int) -> None:
    """A counter handles so many messages, and then its process dies."""
    async with running(folder) as bed:
        await _deploy(bed, 1, checkpoint_interval)
        address = Address(SCOPE, "c0")
        await asyncio.gather(*(_asks(bed.node, address, age // 50) for _ in range(50)))
        await bed.node.stores.flushed()
        os.kill(os.getpid(), signal.SIGKILL)


def _aged(folder: Path, age: int, checkpoint_interval: int) -> None:
    arguments = (str(folder), str(age), str(checkpoint_interval))
    done = subprocess.run([sys.executable, "-m", "tests.bench.durable", *arguments], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL


async def _recovery_ms(folder: Path, age: int) -> float:
    """From the start of a node to the first reply of its actor, which has replayed what it had to."""
    began = time.perf_counter()
    async with running(folder) as bed:
        reply = json.loads(await bed.node.ask(Address(SCOPE, "c0"), "get", "{}"))
        ms = (time.perf_counter() - began) * 1e3
        assert reply["count"] == 2 * age, reply
    return ms


async def _recoveries_ms(age: int, checkpoint_interval: int) -> list[float]:
    with TemporaryDirectory() as folder:
        _aged(Path(folder), age, checkpoint_interval)
        # The first one finds everything as the dead process has left it.
        first = await _recovery_ms(Path(folder), age)
        return [first, *[await _recovery_ms(Path(folder), age) for _ in range(_RECOVERIES - 1)]]


async def run() -> list[Row]:
    bare_many, bare_one = [], []
    for _ in range(_ROUNDS):
        with TemporaryDirectory() as name:
            bare_many.append(_writer(Path(name)))
            bare_one.append(_bare(Path(name)) * 1e6)
    many, one = await _rates(100)
    plain_many, plain_one = await _rates(None)
    fresh = await _recoveries_ms(0, 100)
    old = await _recoveries_ms(_AGE, 100)
    (replay, *_) = await _recoveries_ms(_REPLAYED, 1_000_000)
    return [
        Row("bare writer thread, batches of 64", f"{median(bare_many):,.0f} units/s"),
        Row("asks of 100 actors that are not durable, 100 callers", f"{median(plain_many):,.0f}/s"),
        Row("durable asks of 100 actors, 100 callers", f"{median(many):,.0f}/s"),
        Row.at_least(
            "durable asks of 100 actors / bare writer thread", median(many) / median(bare_many) * 100, 6, "%"
        ),
        Row("bare INSERT; COMMIT with fsync", f"{median(bare_one):.0f} us"),
        Row("ask of an actor that is not durable, one caller", f"{median(plain_one):.0f} us"),
        Row("durable ask, one caller", f"{median(one):.0f} us"),
        Row.at_most("durable ask, one caller / bare INSERT; COMMIT", median(one) / median(bare_one), 3, "x"),
        Row("node start to reply of a durable actor that has done nothing", f"{median(fresh):.0f} ms"),
        Row.at_most("node start to reply of one killed after 100,000 messages", median(old), 100, "ms"),
        Row.at_least("replay of a counter", _REPLAYED / (replay - median(fresh)) * 1e3, 10_000, "messages/s"),
    ]


if __name__ == "__main__":
    asyncio.run(_grow_old(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
