"""The tuple space as a guest meets it: waiting that suspends it alone, matches as messages, nothing of the dead."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from plexspaces_runtime.actors.actor import Run
from plexspaces_runtime.actors.envelope import Envelope, Kind
from plexspaces_runtime.actors.guest import Err, Ok
from plexspaces_runtime.scope import Caller
from plexspaces_runtime.stores.quotas import Quotas
from plexspaces_runtime.stores.tuplespace import MemoryTuples, TupleSpace
from tests.unit.scripted import SCOPE, Bench, call


def house(**limits: Any) -> Bench:
    bench = Bench(**limits)
    loop = asyncio.get_running_loop()
    alarms: list[asyncio.TimerHandle] = []

    def set_alarm(delay_s: float | None) -> None:
        while alarms:
            alarms.pop().cancel()
        if delay_s is not None:
            alarms.append(loop.call_later(delay_s, bench.host.tuplespace.ring))  # type: ignore[union-attr]

    bench.host.tuplespace = TupleSpace(
        MemoryTuples(), quotas=Quotas(bench.limits), clock=bench.clock, limits=bench.limits, set_alarm=set_alarm
    )
    return bench


def ts(function: str, *arguments: Any) -> Any:
    return call("tuplespace", function, *arguments)


def write(*fields: Any) -> Any:
    return ts("write", json.dumps(fields), None)


async def heard(bench: Bench, name: str, count: int) -> list[tuple[str, Any]]:
    async with asyncio.timeout(5):
        while len(bench.puppets[name].heard) < count:
            await asyncio.sleep(0)
    return bench.heard(name)


async def suspended(bench: Bench, name: str) -> None:
    async with asyncio.timeout(5):
        while bench.actors[name].run is not Run.WAITING:
            await asyncio.sleep(0)


async def test_every_function_answers_as_its_type_says() -> None:
    bench = house()
    await bench.puppet("a")
    assert await bench.do("a", write("x", 1)) == Ok("tuple-1")
    assert await bench.do("a", ts("write", '["x",2]', 60_000)) == Ok("tuple-2")
    assert await bench.do("a", ts("read", '["x",null]', 0)) == Ok('["x", 1]')
    assert await bench.do("a", ts("count", '["x",null]')) == Ok(2)
    assert await bench.do("a", ts("read-all", '["x",null]', 0)) == Ok(['["x", 1]', '["x",2]'])
    assert await bench.do("a", ts("take", '["x",null]', 0)) == Ok('["x", 1]')
    assert await bench.do("a", ts("take-all", '["x",null]', 0)) == Ok(['["x",2]'])
    assert await bench.do("a", ts("take", '["x",null]', 0)) == Ok(None)
    refused = await bench.do("a", ts("read", "nonsense", 0))
    assert isinstance(refused, Err)
    assert refused.value[0] == "invalid-argument"


async def test_waiting_suspends_the_one_who_waits_and_nobody_else() -> None:
    bench = house()
    await bench.puppet("a")
    await bench.puppet("b")
    waiting = bench.begin("a", ts("take", '["x",null]', 5_000))
    await suspended(bench, "a")
    await bench.do("b", write("x", 1))
    key = await waiting
    assert bench.puppets["a"].done[key] == [Ok('["x", 1]')]  # type: ignore[index]
    assert await bench.do("b", ts("count", '["x",null]')) == Ok(0)


async def test_waiting_ends_with_nothing_after_its_time_however_long_it_was_to_be() -> None:
    bench = house()
    await bench.puppet("a")
    assert await bench.do("a", ts("read", '["x"]', 5)) == Ok(None)
    waiting = bench.begin("a", ts("read", '["x"]', 2**64 - 1))
    await suspended(bench, "a")
    await bench.kill("a")
    await waiting


async def test_waiting_goes_on_no_longer_than_the_callers_deadline() -> None:
    bench = house()
    actor = await bench.puppet("a")
    bench.puppets["a"].todo["k"] = (ts("take", '["x"]', 60_000),)
    deadline_ns = bench.clock.monotonic_ns() + 10_000_000
    bench.scheduler.deliver(actor, Envelope("m-0", Kind.CAST, "do", "k", None, None, deadline_ns))
    async with asyncio.timeout(5):
        while not bench.puppets["a"].done.get("k"):
            await asyncio.sleep(0.001)
    assert bench.puppets["a"].done["k"] == [Ok(None)]


async def test_nothing_is_taken_for_the_dead() -> None:
    bench = house()
    await bench.puppet("a")
    await bench.puppet("b")
    dead = bench.begin("a", ts("take", '["x"]', 5_000))
    await suspended(bench, "a")
    alive = bench.begin("b", ts("take", '["x"]', 5_000))
    await suspended(bench, "b")
    await bench.kill("a")
    await dead
    await bench.puppet("c")
    await bench.do("c", write("x"))
    key = await alive
    assert bench.puppets["b"].done[key] == [Ok('["x"]')]  # type: ignore[index]


async def test_matches_come_as_messages_in_order_and_in_the_name_of_who_subscribed() -> None:
    bench = house()
    actor = await bench.puppet("a")
    await bench.puppet("b")
    bench.puppets["a"].todo["k"] = (ts("subscribe", '["x",null]', "matched"),)
    bench.scheduler.deliver(actor, Envelope("m-0", Kind.CAST, "do", "k", None, Caller("alice"), 0, "00-trace"))
    await bench.settle()
    for number in range(5):
        await bench.do("b", write("x", number))
    await bench.do("b", write("y", 0))
    assert await heard(bench, "a", 5) == [("matched", {"fields": ["x", number]}) for number in range(5)]
    _, kind, _, _, sender, context = bench.puppets["a"].envelopes[-1]
    assert (kind, sender) == ("cast", "")
    assert json.loads(context) == {"subject": "alice", "roles": [], "trace": "00-trace", "causation_id": "m-0"}


async def test_a_subscription_ends_when_told_and_with_its_actor() -> None:
    bench = house()
    await bench.puppet("a")
    await bench.puppet("b")
    (subscription,) = (await bench.do("a", ts("subscribe", '["x"]', "matched"))).value,
    # One that waits in the mailbox is taken back, too.
    await bench.do("b", write("x"))
    assert await bench.do("b", ts("unsubscribe", subscription)) == Ok(False)
    assert await bench.do("a", write("x"), ts("unsubscribe", subscription)) == Ok(True)
    bench.heard("a")
    await bench.do("b", write("x"))
    await bench.settle()
    assert bench.heard("a") == []
    await bench.do("a", ts("subscribe", '["x"]', "matched"))
    dead = bench.actors["a"]
    await bench.kill("a")
    await bench.restart("a", dead)
    await bench.do("b", write("x"))
    await asyncio.sleep(0)
    await bench.settle()
    assert bench.heard("a") == []
    assert bench.host.tuple_feeds._by_actor == {}
    assert bench.host.tuplespace._spaces[SCOPE].by_owner == {}  # type: ignore[union-attr]


async def test_a_slow_subscriber_has_one_message_in_its_mailbox_and_a_bounded_rest() -> None:
    bench = house(tuple_matches_waiting_max=3)
    actor = await bench.puppet("slow")
    await bench.puppet("b")
    await bench.do("slow", ts("subscribe", '["x",null]', "matched"))
    busy = bench.begin("slow", call("clock", "sleep-ns", 50_000_000))
    await suspended(bench, "slow")
    written = 0
    while isinstance(answer := await bench.do("b", write("x", written)), Ok):
        written += 1
        await asyncio.sleep(0)
    assert isinstance(answer, Err)
    assert answer.value[0] == "mailbox-full"
    assert (written, len(actor.mailbox)) == (4, 1)
    assert isinstance(await bench.do("b", write("y", 0)), Ok)
    await busy
    assert [payload["fields"][1] for _, payload in await heard(bench, "slow", 4)] == [0, 1, 2, 3]
    assert isinstance(await bench.do("b", write("x", 4)), Ok)


@pytest.mark.parametrize("op", ["", "x" * 257])
async def test_the_operation_has_to_be_one(op: str) -> None:
    bench = house()
    await bench.puppet("a")
    refused = await bench.do("a", ts("subscribe", '["x"]', op))
    assert refused.value[0] == "invalid-argument"


async def test_a_full_mailbox_delays_a_match_and_loses_none() -> None:
    bench = house(mailbox_messages_max=1)
    actor = await bench.puppet("a")
    await bench.puppet("b")
    await bench.do("a", ts("subscribe", '["x",null]', "matched"))
    busy = bench.begin("a", call("clock", "sleep-ns", 20_000_000))
    await suspended(bench, "a")
    assert bench.scheduler.deliver(actor, Envelope("m-1", Kind.CAST, "other", "{}"))
    for number in range(2):
        await bench.do("b", write("x", number))
    await busy
    assert await heard(bench, "a", 3) == [("other", {})] + [("matched", {"fields": ["x", n]}) for n in range(2)]
