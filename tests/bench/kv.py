"""Durable key-value puts against what SQLite does without us, in the same run on the same disk."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from plexspaces_runtime.clock import SystemClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.events import EventBus
from plexspaces_runtime.ids import SystemIds
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores.database import connect
from plexspaces_runtime.stores.keyvalue import Space
from plexspaces_runtime.stores.stores import Stores

from .common import Row, median

_CALLERS = 64
_PUTS = 30_000
_SINGLE = 2_000
_ROUNDS = 3
_VALUE = '"' + "v" * 100 + '"'
_SPACES = [Space(Scope("acme", "default"), f"actor/{number}") for number in range(_CALLERS)]


async def _stores(folder: Path) -> Stores:
    stores = Stores(
        folder,
        clock=SystemClock(),
        ids=SystemIds(),
        events=EventBus(),
        limits=Limits(),
        loop=asyncio.get_running_loop(),
        alarms=lambda _name, _ring: lambda _delay_s: None,
    )
    await stores.start()
    return stores


async def _ours(folder: Path, callers: int, puts: int) -> float:
    """Puts a second, each caller waiting for its own to be on disk."""
    stores = await _stores(folder)

    async def caller(space: Space) -> None:
        for number in range(puts // callers):
            stores.keyvalue.put(space, f"key-{number % 100}", _VALUE)
            await stores.flushed()

    began = time.perf_counter()
    await asyncio.gather(*(caller(_SPACES[number]) for number in range(callers)))
    rate = puts / (time.perf_counter() - began)
    await stores.stop()
    return rate


def _writer(folder: Path) -> float:
    """Puts a second of a bare thread that commits the same statements in batches of as many as there were callers."""
    connection = connect(folder / "bare.db")
    connection.execute(
        "CREATE TABLE kv (tenant TEXT, namespace TEXT, owner TEXT, key TEXT, value TEXT, expires_ms INTEGER,"
        " PRIMARY KEY (tenant, namespace, owner, key)) WITHOUT ROWID"
    )
    connection.close()
    batches: queue.SimpleQueue[list[tuple[object, ...]] | None] = queue.SimpleQueue()
    for number in range(_PUTS // _CALLERS):
        batches.put([(*_where(space), f"key-{number % 100}", _VALUE, 0) for space in _SPACES])
    batches.put(None)

    def work() -> None:
        writer = connect(folder / "bare.db")
        while (batch := batches.get()) is not None:
            writer.execute("BEGIN IMMEDIATE")
            for row in batch:
                writer.execute("INSERT OR REPLACE INTO kv VALUES (?, ?, ?, ?, ?, ?)", row)
            writer.execute("COMMIT")
        writer.close()

    thread = threading.Thread(target=work)
    began = time.perf_counter()
    thread.start()
    thread.join()
    return _PUTS / (time.perf_counter() - began)


def _where(space: Space) -> tuple[str, str, str]:
    return (space.scope.tenant, space.scope.namespace, space.owner)


def _bare(folder: Path) -> float:
    """Seconds for one INSERT; COMMIT."""
    connection = connect(folder / "single.db")
    connection.execute("CREATE TABLE kv (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
    began = time.perf_counter()
    for number in range(_SINGLE):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT OR REPLACE INTO kv VALUES (?, ?)", (f"key-{number % 100}", _VALUE))
        connection.execute("COMMIT")
    seconds = (time.perf_counter() - began) / _SINGLE
    connection.close()
    return seconds


async def _read_during_commits(folder: Path) -> tuple[float, float]:
    """Microseconds of a read, while nothing is written and while the disk is never idle."""
    stores = await _stores(folder)
    stores.keyvalue.put(_SPACES[0], "key", _VALUE)
    await stores.flushed()

    def read() -> float:
        began = time.perf_counter()
        for _ in range(20):
            stores.keyvalue.get(_SPACES[0], "key")
        return (time.perf_counter() - began) / 20 * 1e6

    quiet = [read() for _ in range(200)]
    stop = False

    async def writing() -> None:
        number = 0
        while not stop:
            stores.keyvalue.put(_SPACES[1], f"key-{number % 100}", _VALUE)
            number += 1
            await stores.flushed()

    tasks = [asyncio.ensure_future(writing()) for _ in range(16)]
    busy = []
    for _ in range(200):
        await asyncio.sleep(0)
        busy.append(read())
    stop = True
    await asyncio.gather(*tasks)
    await stores.stop()
    return median(quiet), median(busy)


async def run() -> list[Row]:
    many, bare_many, one, bare_one = [], [], [], []
    for _ in range(_ROUNDS):
        with TemporaryDirectory() as name:
            folder = Path(name)
            many.append(await _ours(folder / "many", _CALLERS, _PUTS))
            bare_many.append(_writer(folder))
            one.append(1 / await _ours(folder / "one", 1, _SINGLE))
            bare_one.append(_bare(folder))
    with TemporaryDirectory() as name:
        quiet, busy = await _read_during_commits(Path(name))
    return [
        Row("bare writer thread, batches of 64", f"{median(bare_many):,.0f} puts/s"),
        Row("durable puts of 64 callers", f"{median(many):,.0f} puts/s"),
        Row.at_least(
            "durable puts of 64 callers / bare writer thread", median(many) / median(bare_many) * 100, 50, "%"
        ),
        Row("bare INSERT; COMMIT with fsync", f"{median(bare_one) * 1e6:.0f} us"),
        Row.at_most("single durable put / bare INSERT; COMMIT", median(one) / median(bare_one), 1.5, "x"),
        Row("read of a key, nothing being written", f"{quiet:.1f} us"),
        Row("read of a key, the disk never idle", f"{busy:.1f} us"),
    ]
