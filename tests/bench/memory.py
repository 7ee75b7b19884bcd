"""What a live actor costs, how many fit, and what is said when the kernel gives no more."""

from __future__ import annotations

import time

from plexspaces_runtime.errors import PlexSpacesError
from plexspaces_runtime.scope import Address
from tests.nodes import SCOPE

from .common import Row, anonymous_kb, node, plain_counter_wasm

_LIVE = 5_000


async def run() -> list[Row]:
    async with node(actors_per_tenant_max=100_000) as bed:
        await bed.deploy("counter", plain_counter_wasm())
        before_kb = anonymous_kb()
        began = time.perf_counter()
        for number in range(_LIVE):
            address = Address(SCOPE, "counter", str(number))
            await bed.node.spawn(address)
            await bed.node.ask(address, "increment", '{"amount": 2}')
        seconds = time.perf_counter() - began
        each_mb = (anonymous_kb() - before_kb) / _LIVE / 1024
        for number in range(_LIVE):
            await bed.node.ask(Address(SCOPE, "counter", str(number)), "increment", '{"amount": 2}')
        again_mb = (anonymous_kb() - before_kb) / _LIVE / 1024
        said, number = "", _LIVE
        while not said and number < 60_000:
            try:
                await bed.node.spawn(Address(SCOPE, "counter", str(number)))
                number += 1
            except PlexSpacesError as error:
                said = str(error)
        # Whatever ended it, the others go on.
        await bed.node.ask(Address(SCOPE, "counter", "0"), "increment", '{"amount": 2}')
        return [
            Row.at_most("private memory per live counter actor, after its first call", each_mb, 1.2, "MB"),
            Row("the same after two calls", f"{again_mb:.2f} MB"),
            Row.at_least("actors live on one node", bed.node.counters()["actors"] - 1, _LIVE, "actors"),
            Row("started and called per second, while 5,000 came to life", f"{_LIVE / seconds:,.0f}"),
            Row(f"what is said after {number:,} actors", said or "nothing: none was refused"),
        ]
