"""The other thread takes turns between tenants, not between actors."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from plexspaces_runtime.actors import exits
from plexspaces_runtime.actors.actor import Actor, ActorSpec
from plexspaces_runtime.actors.guest import Export, Poll
from plexspaces_runtime.clock import SystemClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.scheduler.offload import Offloader
from plexspaces_runtime.scope import Address, Scope
from tests.unit.scripted import BURN, ScriptedGuest

ROUNDS = 400


async def test_one_tenants_many_do_not_keep_anothers_one_waiting() -> None:
    turns: Counter[str] = Counter()
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    clock = SystemClock()

    def actor(tenant: str, key: str, rounds: int) -> Actor:
        def compute(*_: Any) -> Any:
            for _round in range(rounds):
                until_ns = clock.thread_cpu_ns() + 20_000
                while clock.thread_cpu_ns() < until_ns:
                    pass
                turns[tenant] += 1
                yield BURN

        made = Actor(
            Address(Scope(tenant, "default"), "burner", key),
            ActorSpec(lambda: ScriptedGuest({Export.HANDLE: compute}), "", Limits()),
            lambda _actor, _exit: None,
            started_ms=0,
        )
        made.guest = made.spec.new_guest()
        made.guest.begin(Export.HANDLE)
        return made

    def returned(which: Actor, outcome: Poll, _used_ns: int) -> None:
        if which is few:
            assert outcome is Poll.DONE
            done.set_result(turns["many"])

    loop = asyncio.get_running_loop()
    offloader = Offloader(1, clock, loop.call_soon_threadsafe, returned, lambda _active: None)
    many = [actor("many", str(number), 10**9) for number in range(20)]
    for each in many:
        offloader.submit(each, 10**15)
    while turns["many"] < 100:
        await asyncio.sleep(0)
    before = turns["many"]
    few = actor("few", "default", ROUNDS)
    offloader.submit(few, 10**15)
    others = await asyncio.wait_for(done, 30) - before
    for each in many:
        each.ending = exits.KILLED
    while offloader.count:
        await asyncio.sleep(0)
    offloader.stop()
    # As many turns as its own, more or less: not as many for each of the twenty.
    assert turns["few"] == ROUNDS
    assert others < 3 * ROUNDS
