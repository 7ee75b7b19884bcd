"""An ask of a warm actor through the whole node, against the bare fiber call, in turns."""

from __future__ import annotations

import asyncio
import time

from plexspaces_runtime.scope import Address
from tests.nodes import SCOPE

from .bare import BareFiber
from .common import Row, median, node, plain_counter_wasm

_ROUNDS = 9
_CALLS = 3_000
_PAYLOAD = '{"amount": 2}'


async def run() -> list[Row]:
    fiber = BareFiber()
    async with node() as bed:
        addresses = [await bed.deploy(f"counter{number}", plain_counter_wasm()) for number in range(16)]
        ask = bed.node.ask

        async def asks(address: Address, calls: int) -> None:
            for _ in range(calls):
                await ask(address, "increment", _PAYLOAD)

        bare, alone, together, through = [], [], [], []
        for address in addresses:
            await asks(address, 200)
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            for _ in range(_CALLS):
                fiber.call("increment", _PAYLOAD)
            bare.append((time.perf_counter() - began) / _CALLS)
            began = time.perf_counter()
            await asks(addresses[0], _CALLS)
            alone.append((time.perf_counter() - began) / _CALLS)
            began = time.perf_counter()
            await asyncio.gather(*(asks(address, _CALLS // 16) for address in addresses))
            together.append((time.perf_counter() - began) / (_CALLS // 16 * 16))
        through = await _through(bed)
    us = [1e6 * median(samples) for samples in (bare, alone, together, through)]
    return [
        Row("bare fiber call, JSON in and out", f"{us[0]:.1f} us ({1e6 / us[0]:,.0f}/s)"),
        Row("in-process ask, one caller", f"{us[1]:.1f} us ({1e6 / us[1]:,.0f}/s)"),
        Row("in-process ask, 16 callers of 16 actors", f"{us[2]:.1f} us ({1e6 / us[2]:,.0f}/s)"),
        Row("ask of an actor that asks another", f"{us[3]:.1f} us ({1e6 / us[3]:,.0f}/s)"),
        Row.at_most("in-process ask / bare fiber call, one caller", us[1] / us[0], 1.6, "x"),
        Row.at_most("in-process ask / bare fiber call, 16 callers", us[2] / us[0], 1.6, "x"),
    ]


async def _through(bed: object) -> list[float]:
    from tests.nodes import TestBed

    from .common import zoo_wasm

    assert isinstance(bed, TestBed)
    await bed.deploy("relay", zoo_wasm(), role="relay")
    payload = '{"to": "counter0", "op": "increment", "payload": {"amount": 2}}'
    address = Address(SCOPE, "relay")
    samples = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        for _ in range(500):
            await bed.node.ask(address, "ask", payload)
        samples.append((time.perf_counter() - began) / 500)
    return samples
