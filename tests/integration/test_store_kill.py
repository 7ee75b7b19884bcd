"""Processes that write to the stores are killed with -9 at random moments: what was acknowledged is there, whole."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import sqlite3
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from plexspaces_runtime.clock import SystemClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.events import EventBus
from plexspaces_runtime.ids import SystemIds
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores import engine
from plexspaces_runtime.stores.database import FILE, Database, Schema
from plexspaces_runtime.stores.keyvalue import Space
from plexspaces_runtime.stores.stores import Stores

KILLS = int(os.environ.get("PLEXSPACES_KILLS", "100"))
PARTS = 3
SCHEMA = Schema(1, (*engine.SCHEMA, "CREATE TABLE log (number INTEGER, part INTEGER, PRIMARY KEY (number, part))"))
SPACE = Space(Scope("acme", "default"), "counter")

Say = Callable[[str], None]


def in_a_child(work: Callable[[Say], Coroutine[Any, Any, None]], after_s: float) -> list[str]:
    """Run `work` in a process of its own and kill that after so long; the whole lines that it said.

    Forked, so that a hundred of them take seconds: what they share with this process is code.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_end)
            asyncio.run(work(lambda line: os.write(write_end, f"{line}\n".encode()) and None))
        finally:
            os._exit(1)
    os.close(write_end)
    said = b""
    # Its life begins when it has said that it is ready.
    while not said:
        said = os.read(read_end, 65_536)
    until = time.monotonic() + after_s
    while (left := until - time.monotonic()) > 0:
        if select.select([read_end], [], [], left)[0]:
            said += os.read(read_end, 65_536)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while more := os.read(read_end, 65_536):
        said += more
    os.close(read_end)
    return said.decode().split("\n")[1:-1]


def test_units_are_whole_in_order_and_there_once_they_were_acknowledged(tmp_path: Path) -> None:
    async def work(say: Say) -> None:
        database = Database(tmp_path, SCHEMA, loop=asyncio.get_running_loop(), events=EventBus(), limits=Limits())
        await database.start()
        say("ready")

        async def writer() -> None:
            while True:
                number = database.stream.enqueued + 1
                database.stream.write([("INSERT INTO log VALUES (?, ?)", (number, part)) for part in range(PARTS)])
                await database.stream.flushed()
                say(str(number))

        await asyncio.gather(*(writer() for _ in range(8)))

    chance = random.Random(1)
    acknowledged = 0
    grown = 0
    for _ in range(KILLS):
        said = in_a_child(work, chance.random() * 0.03)
        acknowledged = max([acknowledged, *map(int, said)])
        connection = sqlite3.connect(tmp_path / FILE)
        rows = connection.execute("SELECT number, count(*) FROM log GROUP BY number ORDER BY number").fetchall()
        ((written,),) = connection.execute("SELECT number FROM written").fetchall()
        connection.close()
        # One unbroken history of whole units, which ends where the file says, at or after what was acknowledged.
        assert rows == [(number, PARTS) for number in range(1, written + 1)]
        assert written >= acknowledged
        grown += bool(said)
    assert grown > KILLS / 4, "the processes were killed before they had done anything"
    assert acknowledged > KILLS


def test_values_and_increments_are_exact(tmp_path: Path) -> None:
    async def work(say: Say) -> None:
        loop = asyncio.get_running_loop()
        stores = make(tmp_path, loop)
        await stores.start()
        say("ready")

        async def writer(name: str) -> None:
            while True:
                count = stores.keyvalue.increment(SPACE, name, 1)
                stores.keyvalue.put(SPACE, f"{name}/{count % 7}", str(count))
                await stores.flushed()
                say(f"{name} {count}")

        await asyncio.gather(*(writer(f"w{number}") for number in range(8)))

    async def found() -> dict[str, int]:
        stores = make(tmp_path, asyncio.get_running_loop())
        await stores.start()
        keys, _ = stores.keyvalue.list_keys(SPACE, limit=1_000)
        values = {key: int(stores.keyvalue.get(SPACE, key) or "") for key in keys}
        await stores.stop()
        return values

    chance = random.Random(2)
    acknowledged: dict[str, int] = {}
    for _ in range(KILLS // 5):
        for line in in_a_child(work, chance.random() * 0.05):
            name, count = line.split()
            acknowledged[name] = max(acknowledged.get(name, 0), int(count))
        values = asyncio.run(found())
        for name, count in acknowledged.items():
            assert values[name] >= count
            # Written together with it, or, of the last one that nobody was told of, perhaps not yet.
            assert values[f"{name}/{count % 7}"] >= count
            assert max(values[f"{name}/{n}"] for n in range(7) if f"{name}/{n}" in values) in (
                values[name],
                values[name] - 1,
            )
    assert len(acknowledged) == 8


def make(folder: Path, loop: asyncio.AbstractEventLoop) -> Stores:
    return Stores(
        folder,
        clock=SystemClock(),
        ids=SystemIds(),
        events=EventBus(),
        limits=Limits(),
        loop=loop,
        alarms=lambda _name, _ring: lambda _delay_s: None,
    )
