"""From a crash to the next reply of the same actor, under its supervisor."""

from __future__ import annotations

import json
import time

from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.errors import HandlerCrashed
from plexspaces_runtime.scope import Address
from tests.nodes import SCOPE

from .common import Row, median, node, percentile, zoo_wasm

_CRASHES = 300
_CONFIG = """
[application]
name = "crashing"

[[components]]
name = "zoo"
path = "zoo.wasm"

[supervisor]
max_restarts = 100000

[[supervisor.children]]
name = "memory"
actor_type = "zoo"
role = "memory"
"""


async def run() -> list[Row]:
    samples = []
    async with node() as bed:
        await bed.node.deploy_application(SCOPE.tenant, appconfig.parse(_CONFIG), {"zoo": zoo_wasm()})
        address = Address(SCOPE, "memory")
        crash = json.dumps({"name": "a", "value": 1})
        for _ in range(_CRASHES):
            began = time.perf_counter()
            try:
                await bed.node.ask(address, "put_and_crash", crash)
            except HandlerCrashed:
                pass
            else:
                raise AssertionError("it did not crash")
            await bed.node.ask(address, "get", "{}")
            samples.append((time.perf_counter() - began) * 1e3)
        assert bed.node.info(address).restarts == _CRASHES
    return [
        Row.at_most("crash to answering again, median", median(samples), 5.0, "ms"),
        Row("crash to answering again, 99th of 100", f"{percentile(samples, 0.99):.2f} ms"),
    ]
