"""An idle node: how much processor time it uses."""

from __future__ import annotations

import asyncio
import time

from plexspaces_runtime.scope import Address
from tests.nodes import SCOPE

from .common import Row, node, plain_counter_wasm

_SECONDS = 10


async def run() -> list[Row]:
    async with node() as bed:
        await bed.deploy("counter", plain_counter_wasm())
        for number in range(200):
            await bed.node.spawn(Address(SCOPE, "counter", str(number)))
        await asyncio.sleep(1)
        before = time.process_time()
        await asyncio.sleep(_SECONDS)
        used_ms = (time.process_time() - before) * 1e3
    return [Row.at_most("processor time of an idle node with 200 actors, per 10 s", used_ms, 5, "ms")]
