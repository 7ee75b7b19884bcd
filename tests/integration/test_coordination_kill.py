"""Processes that work on tuples and channels are killed with -9: nothing is lost, nothing taken or acked twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
from collections import Counter
from pathlib import Path

from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores.channels import Delivery
from plexspaces_runtime.stores.database import FILE
from plexspaces_runtime.stores.stores import Stores
from tests.integration.test_store_kill import Say, in_a_child, make

KILLS = int(os.environ.get("PLEXSPACES_KILLS", "100")) // 2
SCOPE = Scope("acme", "default")


def test_a_tuple_whose_taking_was_acknowledged_is_never_seen_again(tmp_path: Path) -> None:
    chance = random.Random(3)
    wrote: set[str] = set()
    took: set[str] = set()
    unsure: set[str] = set()
    for run in range(KILLS):

        async def work(say: Say, run: int = run) -> None:
            stores = await started(tmp_path)
            say("ready")

            async def writer(name: int) -> None:
                for number in range(1_000_000):
                    fields = json.dumps(["job", f"{run}/{name}/{number}", name])
                    stores.tuplespace.write(SCOPE, fields)
                    await stores.flushed()
                    say(f"wrote {fields}")

            async def taker(pattern: str) -> None:
                while True:
                    found = stores.tuplespace.take(SCOPE, pattern)
                    if isinstance(found, str):
                        say(f"takes {found}")
                        await stores.flushed()
                        say(f"took {found}")
                    else:
                        await asyncio.sleep(0)

            takers = [taker(f'["job", null, {name}]') for name in range(2)]
            await asyncio.gather(*(writer(name) for name in range(3)), *takers)

        for line in in_a_child(work, chance.random() * 0.04):
            what, _, fields = line.partition(" ")
            if what == "wrote":
                wrote.add(fields)
            elif what == "takes":
                assert fields not in took, "taken twice"
                unsure.add(fields)
            else:
                assert fields in unsure
                took.add(fields)
        there = Counter(fields for (fields,) in rows(tmp_path, "SELECT fields FROM tuples"))
        assert not took & there.keys()
        assert wrote - unsure <= there.keys()
        assert set(there.values()) <= {1}
    assert len(took) > KILLS
    assert len(wrote - unsure) > KILLS


def test_a_message_is_acknowledged_waiting_or_dead_whatever_happens(tmp_path: Path) -> None:
    chance = random.Random(4)
    sent: set[str] = set()
    # What was tried last with a message, and what was acknowledged of it.
    tried: dict[str, str] = {}
    known: dict[str, str] = {}
    for run in range(KILLS):

        async def work(say: Say, run: int = run) -> None:
            stores = await started(tmp_path)
            say("ready")
            channels = stores.channels

            async def sender(name: int) -> None:
                for number in range(1_000_000):
                    payload = json.dumps(f"{run}/{name}/{number}")
                    channels.send(SCOPE, "q", "job", payload, dedup_id=payload if name else "")
                    await stores.flushed()
                    say(f"sent {payload}")

            async def consumer(owner: str) -> None:
                choices = random.Random(run)
                while True:
                    held = channels.receive(SCOPE, "q", owner)
                    if not isinstance(held, Delivery):
                        await asyncio.sleep(0)
                        continue
                    how = choices.choice(["ack", "ack", "ack", "nack", "bury", "hold"])
                    say(f"try-{how} {held.payload}")
                    if how == "ack":
                        channels.ack(SCOPE, "q", held.id, owner)
                    elif how != "hold":
                        channels.nack(SCOPE, "q", held.id, owner, requeue=how == "nack")
                    await stores.flushed()
                    say(f"{how} {held.payload}")

            await asyncio.gather(*(sender(name) for name in range(3)), *(consumer(f"c{name}") for name in range(2)))

        for line in in_a_child(work, chance.random() * 0.04):
            what, _, payload = line.partition(" ")
            if what == "sent":
                sent.add(payload)
            elif what.startswith("try-"):
                assert known.get(payload) not in ("ack", "bury"), "delivered after it was settled"
                tried[payload] = what[4:]
            else:
                known[payload] = what
        there = rows(tmp_path, "SELECT payload, dead_ms > 0, deliveries FROM channel_messages")
        assert set(Counter(payload for payload, _, _ in there).values()) <= {1}
        dead = {payload: bool(is_dead) for payload, is_dead, _ in there}
        deliveries = {payload: count for payload, _, count in there}
        for payload in sent | tried.keys():
            match known.get(payload), tried.get(payload):
                case "ack", _:
                    assert payload not in dead
                case "bury", _:
                    assert dead[payload]
                case _, "ack":
                    assert not dead.get(payload, False)
                case _, "bury":
                    assert payload in dead
                case _, "nack" | "hold":
                    assert not dead[payload] or deliveries[payload] >= 5
                case _:
                    assert not dead[payload]
        # What was leased waits again, and nothing else is there.
        assert asyncio.run(depth(tmp_path)) == sum(not is_dead for is_dead in dead.values())
    ends = Counter(known.values())
    assert ends["ack"] > KILLS
    assert ends["bury"] > 0
    assert ends["nack"] > 0


async def started(folder: Path) -> Stores:
    stores = make(folder, asyncio.get_running_loop())
    await stores.start()
    return stores


async def depth(folder: Path) -> int:
    stores = await started(folder)
    found = stores.channels.depth(SCOPE, "q")
    await stores.stop()
    return found


def rows(folder: Path, sql: str) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(folder / FILE)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()
