"""Far more names than fit: 100,000 virtual actors addressed on a node that holds at most 500 of them."""

from __future__ import annotations

import random
import time

from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.scope import Address
from tests.nodes import SCOPE

from .common import Row, anonymous_kb, median, node, percentile, plain_counter_wasm

_NAMES = 100_000
_RESIDENT = 500
_AGAIN = 2_000
_CONFIG = """
[application]
name = "many"

[[components]]
name = "counter"
path = "counter.wasm"

[[supervisor.children]]
name = "counter"
actor_type = "counter"
facets = [{ type = "virtual_actor", config = { idle_timeout = "1h" } }]
"""


async def run() -> list[Row]:
    chance = random.Random(1)
    async with node(virtual_actors_resident_per_tenant_max=_RESIDENT) as bed:
        await bed.node.deploy_application(SCOPE.tenant, appconfig.parse(_CONFIG), {"counter": plain_counter_wasm()})
        ask = bed.node.ask
        first, again = [], []
        most = 0
        base_kb = 0
        for number in range(_NAMES):
            address = Address(SCOPE, "counter", f"user-{number}")
            began = time.perf_counter()
            assert await ask(address, "increment", '{"amount": 3}') == '{"count":3}'
            first.append((time.perf_counter() - began) * 1e3)
            if number % 500 == 0:
                most = max(most, int(bed.node.counters()["actors"]))
            if number == 2 * _RESIDENT:
                base_kb = anonymous_kb()
        grown_kb = anonymous_kb() - base_kb
        for _ in range(_AGAIN):
            # One that was put aside long ago, with its state.
            address = Address(SCOPE, "counter", f"user-{chance.randrange(_NAMES - 2 * _RESIDENT)}")
            began = time.perf_counter()
            reply = await ask(address, "get", "{}")
            again.append((time.perf_counter() - began) * 1e3)
            assert reply == '{"count":3}'
        assert most <= _RESIDENT, most
    return [
        Row("virtual actors addressed / resident at most", f"{_NAMES:,} / {most}", f"at most {_RESIDENT}", True),
        Row.at_most("first activation to reply, a full node, median", median(first[_RESIDENT:]), 3.0, "ms"),
        Row("first activation to reply, 99th of 100", f"{percentile(first[_RESIDENT:], 0.99):.2f} ms"),
        Row.at_most("activation with state to reply, median", median(again), 3.0, "ms"),
        Row("activation with state to reply, 99th of 100", f"{percentile(again, 0.99):.2f} ms"),
        Row("memory for a name that is put aside", f"{grown_kb * 1024 / (_NAMES - 2 * _RESIDENT):,.0f} bytes"),
    ]
