"""Event streams: from an append over HTTP to a live reader, on disk in between; and appends beside bare commits."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores.database import connect
from tests.unit.api.kept_stores import durable_stores
from tests.unit.api.memory_node import Served, serving

from .common import Row, percentile

_EVENTS = 2_000
_READERS = 10
_CALLERS = 64
_MINE = Scope("default", "default")


async def _live(served: Served, path: str, arrived: list[float]) -> None:
    """Follow a stream, and note how old each event is when it comes."""
    reader, writer = await served.connect()
    head = f"GET {path}?live=true HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {served.token}\r\n\r\n"
    writer.write(head.encode())
    while len(arrived) < _EVENTS:
        line = await reader.readline()
        if line.startswith(b"data: "):
            arrived.append(time.monotonic() - json.loads(line[6:])["payload"]["at"])
    writer.close()


async def _latency(served: Served) -> list[float]:
    path = "/api/v1/streams/bench"
    arrived: list[list[float]] = [[] for _ in range(_READERS)]
    readers = [asyncio.create_task(_live(served, path, each)) for each in arrived]
    for _ in range(_EVENTS):
        body = {"event_type": "note", "payload": {"at": time.monotonic()}}
        (await served.http.post(path, json=body)).raise_for_status()
    await asyncio.gather(*readers)
    return [sample for each in arrived for sample in each]


async def _appends_per_s(served: Served) -> float:
    stores = served.stores

    async def caller(number: int) -> None:
        for _ in range(100):
            stores.streams.append(_MINE, f"/many/{number}", "note", '{"text": "hello"}')
            await stores.flushed()

    began = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(_CALLERS)))
    return _CALLERS * 100 / (time.perf_counter() - began)


def _bare_per_s(folder: Path) -> float:
    """One row a commit, by a single connection."""
    connection = connect(folder / "bare.db")
    connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, payload TEXT)")
    began = time.perf_counter()
    for number in range(2_000):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (?, ?)", (number, '{"text": "hello"}'))
        connection.execute("COMMIT")
    rate = 2_000 / (time.perf_counter() - began)
    connection.close()
    return rate


async def run() -> list[Row]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            durable_stores(folder, stream_events_per_second_max=1_000_000) as stores,
            serving(stores=stores) as served,
        ):
            samples = await _latency(served)
            appends = await _appends_per_s(served)
        bare = _bare_per_s(folder)
    return [
        Row(f"append over HTTP to {_READERS} live readers, median", f"{percentile(samples, 0.5) * 1e3:.2f} ms"),
        Row.at_most("append over HTTP to live readers, 99th percentile", percentile(samples, 0.99) * 1e3, 20, "ms"),
        Row(f"durable appends of {_CALLERS} callers", f"{appends:,.0f}/s"),
        Row("the same / single commits of one row", f"{appends / bare:.1f} x"),
    ]
