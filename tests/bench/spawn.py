"""From "start this actor" to its first reply."""

from __future__ import annotations

import time

from plexspaces_runtime.scope import Address
from tests.nodes import SCOPE

from .common import Row, median, node, percentile, plain_counter_wasm


async def run() -> list[Row]:
    samples, kills = [], []
    async with node() as bed:
        await bed.deploy("counter", plain_counter_wasm())
        for number in range(500):
            address = Address(SCOPE, "counter", str(number))
            began = time.perf_counter()
            await bed.node.spawn(address)
            await bed.node.ask(address, "increment", '{"amount": 2}')
            samples.append((time.perf_counter() - began) * 1e3)
            # One at a time, so that this is about starting and not about how much memory others hold.
            began = time.perf_counter()
            await bed.node.stop_actor(address, kill=True)
            kills.append((time.perf_counter() - began) * 1e3)
    return [
        Row.at_most("spawn to first reply, median", median(samples), 1.5, "ms"),
        Row("spawn to first reply, 99th of 100", f"{percentile(samples, 0.99):.2f} ms"),
        Row("kill, median", f"{median(kills):.2f} ms"),
    ]
