"""What a durable step of a workflow costs beside a bare commit, in the same run on the same disk."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from plexspaces_runtime.actors.envelope import Kind
from plexspaces_runtime.build import build
from plexspaces_runtime.config import default_cache_dir
from plexspaces_runtime.scope import Address
from tests.nodes import SCOPE

from .common import Row, median, node
from .kv import _bare

_STEPS = 1_000
_ROUNDS = 5
_SOURCE = """
from plexspaces import host, run_handler, workflow_actor


@workflow_actor
class Steps:
    @run_handler
    def run(self, steps: int) -> int:
        return sum(host.step(f"step {number}", lambda: 1) for number in range(steps))
"""


def _wasm() -> Path:
    source = default_cache_dir() / "bench" / "steps" / "steps.py"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(_SOURCE)
    return build(source, source.with_suffix(".wasm")).output


async def run() -> list[Row]:
    bare = []
    for _ in range(3):
        with TemporaryDirectory() as folder:
            bare.append(_bare(Path(folder)) * 1e6)
    bare_us = median(bare)
    async with node() as bed:
        await bed.deploy("steps", _wasm())

        async def run_s(number: int, steps: int) -> float:
            began = time.perf_counter()
            address = Address.parse(SCOPE, f"steps/{steps}-{number}")
            assert await bed.node.ask(address, "run", f'{{"steps": {steps}}}', kind=Kind.RUN) == str(steps)
            return time.perf_counter() - began

        empty = median([await run_s(number, 0) for number in range(_ROUNDS)])
        full = median([await run_s(number, _STEPS) for number in range(_ROUNDS)])
    step_us = (full - empty) / _STEPS * 1e6
    return [
        Row("a durable step inside a run", f"{step_us:.0f} us"),
        Row.at_most("a durable step inside a run / bare INSERT; COMMIT", step_us / bare_us, 2, "x"),
    ]
