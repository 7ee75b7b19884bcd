"""A durable counter as a workflow of Temporal that is updated; prints calls a second, by how many call.

    python temporal_counter.py ADDRESS SECONDS CALLERS...
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import timedelta

from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker


@workflow.defn
class Counter:
    def __init__(self) -> None:
        self.count = 0

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.update
    def increment(self, amount: int) -> int:
        self.count += amount
        return self.count


async def rate(handles: list[WorkflowHandle[Counter, None]], seconds: float) -> float:
    until = time.perf_counter() + seconds

    async def caller(handle: WorkflowHandle[Counter, None]) -> int:
        done = 0
        while time.perf_counter() < until:
            await handle.execute_update(Counter.increment, 2)
            done += 1
        return done

    began = time.perf_counter()
    done = sum(await asyncio.gather(*map(caller, handles)))
    return done / (time.perf_counter() - began)


async def main() -> None:
    seconds = float(sys.argv[2])
    client = await Client.connect(sys.argv[1])
    async with Worker(client, task_queue="counters", workflows=[Counter]):
        figures = {}
        for callers in map(int, sys.argv[3:]):
            handles = [
                await client.start_workflow(
                    Counter.run, id=f"c-{callers}-{n}", task_queue="counters", task_timeout=timedelta(seconds=10)
                )
                for n in range(callers)
            ]
            await rate(handles, seconds / 4)
            figures[callers] = await rate(handles, seconds)
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    # The workflow is run in a sandbox that imports this file again.
    asyncio.run(main())
