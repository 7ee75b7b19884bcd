"""An ask of an actor in its application's process, against one in the node's; and what such a process takes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from plexspaces_runtime.deployment.appconfig import parse
from plexspaces_runtime.events import ProcessStarted
from plexspaces_runtime.isolation.memory import memory_bytes
from plexspaces_runtime.scope import Address
from tests.nodes import SCOPE, TestBed

from .common import Row, median, node, zoo_wasm

_ROUNDS = 9
_CALLS = 600
_ACTORS = 16
_PAYLOAD = '{"value": 2}'
_COMPUTING = '{"rounds": 300000}'


def _config(isolation: str) -> str:
    children = [(f"{isolation}_echo{number}", "echo") for number in range(_ACTORS)]
    children += [(f"{isolation}_relay", "relay"), (f"{isolation}_worker", "worker")]
    tree = "\n".join(
        f'[[supervisor.children]]\nname = "{name}"\nactor_type = "zoo"\nrole = "{role}"' for name, role in children
    )
    return (
        f'[application]\nname = "{isolation}"\nisolation = "{isolation}"\n'
        f'[[components]]\nname = "zoo"\npath = "zoo.wasm"\n[supervisor]\n{tree}\n'
    )


async def run() -> list[Row]:
    wasm = zoo_wasm()
    kinds = ("none", "process")
    alone: dict[str, list[float]] = {kind: [] for kind in kinds}
    together: dict[str, list[float]] = {kind: [] for kind in kinds}
    through: dict[str, list[float]] = {kind: [] for kind in kinds}
    computing: dict[str, list[float]] = {kind: [] for kind in kinds}
    async with node() as bed:
        began = time.perf_counter()
        await _deploy(bed, "none", wasm)
        plain_s = time.perf_counter() - began
        began = time.perf_counter()
        await _deploy(bed, "process", wasm)
        started_s = time.perf_counter() - began - plain_s
        (process,) = bed.events(ProcessStarted)
        with_actors = memory_bytes(process.pid)
        for kind in kinds:
            await _asks(bed, f"{kind}_echo0", 200)
        for _ in range(_ROUNDS):
            for kind in kinds:
                alone[kind].append(await _timed(_asks(bed, f"{kind}_echo0", _CALLS)) / _CALLS)
                each = _CALLS // _ACTORS
                asks = (_asks(bed, f"{kind}_echo{number}", each) for number in range(_ACTORS))
                together[kind].append(await _timed(asyncio.gather(*asks)) / (each * _ACTORS))
                payload = f'{{"to": "{kind}_echo1", "op": "echo", "payload": {_PAYLOAD}}}'
                through[kind].append(await _timed(_asks(bed, f"{kind}_relay", 100, "ask", payload)) / 100)
                computing[kind].append(await _timed(_asks(bed, f"{kind}_worker", 1, "compute", _COMPUTING)))

    def figure(samples: dict[str, list[float]]) -> tuple[str, float]:
        near, far = (1e6 * median(samples[kind]) for kind in kinds)
        return f"{far:,.0f} us, in the node {near:,.0f} us", far / near

    rows = []
    for what, samples in (
        ("ask of an isolated actor, one caller", alone),
        ("ask of isolated actors, 16 callers of 16", together),
        ("ask of an isolated actor that asks another", through),
        ("ask of an isolated actor that computes", computing),
    ):
        text, ratio = figure(samples)
        rows.append(Row(what, f"{text}: {ratio:.1f} x"))
    rows.append(Row(f"memory of a process with {_ACTORS + 2} actors", f"{with_actors / 2**20:.0f} MiB private"))
    rows.append(Row("starting a process, beside starting its actors", f"{1000 * max(0.0, started_s):.0f} ms"))
    return rows


async def _deploy(bed: TestBed, isolation: str, wasm: Path) -> None:
    await bed.node.deploy_application(SCOPE.tenant, parse(_config(isolation)), {"zoo": wasm})


async def _asks(bed: TestBed, name: str, calls: int, op: str = "echo", payload: str = _PAYLOAD) -> None:
    address = Address(SCOPE, name)
    for _ in range(calls):
        await bed.node.ask(address, op, payload)


async def _timed(work: object) -> float:
    assert isinstance(work, asyncio.Future) or asyncio.iscoroutine(work)
    began = time.perf_counter()
    await work
    return time.perf_counter() - began
