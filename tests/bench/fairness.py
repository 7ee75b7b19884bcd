"""Four actors in endless loops: what the others notice."""

from __future__ import annotations

import asyncio
import time

from .common import Row, median, node, percentile, plain_counter_wasm, zoo_wasm


async def run() -> list[Row]:
    async with node(cpu_ms_per_message_max=2_000) as bed:
        counter = await bed.deploy("counter", plain_counter_wasm())
        for number in range(4):
            await bed.deploy(f"loop{number}", zoo_wasm(), role="hostile")

        async def sample(until: object) -> list[float]:
            times = []
            while not until():  # type: ignore[operator]
                began = time.perf_counter()
                await bed.node.ask(counter, "increment", '{"amount": 1}')
                times.append((time.perf_counter() - began) * 1e3)
            return times

        quiet_until = time.perf_counter() + 2
        quiet = await sample(lambda: time.perf_counter() > quiet_until)
        loops = [asyncio.ensure_future(bed.ask(f"loop{number}", "loop")) for number in range(4)]
        await asyncio.sleep(0)
        beside = await sample(lambda: all(loop.done() for loop in loops))
        await asyncio.gather(*loops, return_exceptions=True)
    return [
        Row("ask alone, median / 99th", f"{median(quiet):.3f} / {percentile(quiet, 0.99):.3f} ms"),
        Row("ask beside four endless loops, median", f"{median(beside):.3f} ms"),
        Row.at_most("ask beside four endless loops, 99th of 100", percentile(beside, 0.99), 10, "ms"),
        Row("throughput left to the others", f"{len(beside) / 8 / (len(quiet) / 2):.0%} (loops ran 8 s of CPU in all)"),
    ]
