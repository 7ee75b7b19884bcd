"""Timers as a guest meets them: what arrives, with which context, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from plexspaces_runtime.actors.envelope import Envelope, Kind
from plexspaces_runtime.actors.guest import Ok
from plexspaces_runtime.scope import Caller
from tests.unit.scripted import Bench, call


def after(ms: int, op: str = "tick", payload: str = "{}") -> Any:
    return call("timers", "send-after", ms, op, payload)


def every(ms: int, op: str = "tick", payload: str = "{}") -> Any:
    return call("timers", "send-interval", ms, op, payload)


def cancel(timer: str) -> Any:
    return call("timers", "cancel", timer)


async def ticks(bench: Bench, name: str, count: int) -> list[tuple[str, Any]]:
    async with asyncio.timeout(5):
        while len(bench.puppets[name].heard) < count:
            await asyncio.sleep(0.001)
    return bench.heard(name)


async def test_a_timers_message_is_its_owners_and_comes_in_its_time() -> None:
    bench = Bench()
    actor = await bench.puppet("a")
    began_ns = bench.clock.monotonic_ns()
    timer = (await bench.do("a", after(5, "wake", '{"n": 1}'))).value
    assert actor.anchored
    assert await ticks(bench, "a", 1) == [("wake", {"n": 1})]
    assert bench.clock.monotonic_ns() - began_ns >= 5_000_000
    _, kind, _, _, sender, _ = bench.puppets["a"].envelopes[-1]
    assert (kind, sender) == ("info", "a")
    assert await bench.do("a", cancel(timer)) is False
    assert not actor.anchored


async def test_who_started_the_work_travels_along_and_the_deadline_does_not() -> None:
    bench = Bench()
    actor = await bench.puppet("a")
    seen: list[Envelope] = []
    bench.puppets["a"].todo["k"] = (after(1),)
    caller = Caller("alice", frozenset({"user"}), "s-1")
    deadline_ns = bench.clock.monotonic_ns() + 10**9
    bench.scheduler.deliver(actor, Envelope("m-0", Kind.CAST, "do", "k", None, caller, deadline_ns, "00-trace"))

    def handle(*arguments: str) -> Any:
        assert actor.current is not None
        seen.append(actor.current)
        return type(bench.puppets["a"]).handle(bench.puppets["a"], *arguments)

    await bench.settle()
    bench.puppets["a"].handle = handle  # type: ignore[method-assign]
    await ticks(bench, "a", 1)
    context = orjson.loads(bench.puppets["a"].envelopes[-1][5])
    assert context == {
        "subject": "alice",
        "roles": ["user"],
        "session": "s-1",
        "trace": "00-trace",
        "causation_id": "m-0",
    }


async def test_a_timer_has_no_deadline() -> None:
    bench = Bench()
    actor = await bench.puppet("a")
    deadlines: list[int] = []

    def handle(_id: str, kind: str, op: str, *_: str) -> Any:
        if op == "set":
            yield after(1)
        else:
            assert actor.current is not None
            deadlines.append(actor.current.deadline_ns)
        return "1"

    actor = await bench.start("b", handle=handle)
    await bench.ask(actor, "set", timeout_s=3.0)
    async with asyncio.timeout(5):
        while not deadlines:
            await asyncio.sleep(0.001)
    assert deadlines == [0]


async def test_an_interval_goes_on_until_it_is_cancelled() -> None:
    bench = Bench()
    await bench.puppet("a")
    timer = (await bench.do("a", every(2))).value
    assert len(await ticks(bench, "a", 3)) >= 3
    assert await bench.do("a", cancel(timer)) is True
    bench.heard("a")
    assert await bench.do("a", cancel(timer)) is False
    await bench.do("a", call("clock", "sleep-ns", 10_000_000))
    await bench.settle()
    assert bench.heard("a") == []


async def test_timers_end_with_their_actor_even_those_whose_message_waits() -> None:
    bench = Bench()
    first = await bench.puppet("a")
    bench.begin("a", after(1, "once"), every(1), after(60_000), call("clock", "sleep-ns", 60_000_000_000))
    async with asyncio.timeout(5):
        while len(first.mailbox) < 2:
            await asyncio.sleep(0.001)
    await bench.kill("a")
    assert bench.host.timers.pending == 0
    await bench.restart("a", first)
    await bench.settle()
    assert bench.heard("a") == []


async def test_a_full_mailbox_delays_a_timer_and_loses_none() -> None:
    bench = Bench(mailbox_messages_max=1)
    actor = await bench.puppet("a")
    asleep = bench.begin("a", after(0, "t1"), after(0, "t2"), after(0, "t3"), call("clock", "sleep-ns", 5_000_000))
    await bench.settle()
    assert bench.cast(actor, "cast")
    async with asyncio.timeout(5):
        while bench.host.timers.pending:
            await asyncio.sleep(0.001)
    assert len(actor.mailbox) == 1, "no mailbox exceeds its limit"
    await asleep
    assert [op for op, _ in await ticks(bench, "a", 4)] == ["cast", "t1", "t2", "t3"]


async def test_what_waits_for_room_takes_none_once_its_actor_has_ended() -> None:
    bench = Bench(mailbox_messages_max=1)
    first = await bench.puppet("a")
    bench.begin("a", *[after(0)] * 3, call("clock", "sleep-ns", 60_000_000_000))
    await bench.settle()
    assert bench.host.timers.pending == 3
    async with asyncio.timeout(5):
        while bench.host.timers.pending or not len(first.mailbox):
            await asyncio.sleep(0.001)
    await bench.kill("a")
    assert [envelope.op for envelope in first.mailbox.drain()] == ["tick"], "and none of those that waited"


async def test_what_waits_for_room_is_void_once_it_is_cancelled() -> None:
    bench = Bench(mailbox_messages_max=1)
    actor = await bench.puppet("a")
    key = "k"
    bench.puppets["a"].todo[key] = ()

    def handle(message_id: str, kind: str, op: str, payload: str, *rest: str) -> Any:
        if op != "set":
            bench.puppets["a"].heard.append((op, None))
            return None
        timer = yield after(0, "t1")
        yield call("clock", "sleep-ns", 5_000_000)
        bench.puppets["a"].heard.append(("cancelled", (yield cancel(timer.value))))
        return "1"

    actor = await bench.start("b", handle=handle)
    asked = bench.post(actor, "set")
    await bench.settle()
    assert bench.cast(actor, "cast")
    await asked
    await bench.settle()
    assert bench.heard("a") == [("cancelled", True), ("cast", None)]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (after(365 * 24 * 3_600_000 + 1), "invalid-argument"),
        (every(365 * 24 * 3_600_000 + 1), "invalid-argument"),
        (every(0), "invalid-argument"),
        (after(1, payload='"' + "x" * 64 + '"'), "limit-exceeded"),
    ],
)
async def test_what_makes_no_sense_is_refused(request_: Any, code: str) -> None:
    bench = Bench(payload_bytes_max=64)
    await bench.puppet("a")
    assert (await bench.do("a", request_)).value[0] == code
    assert bench.host.timers.pending == 0
    assert isinstance(await bench.do("a", after(365 * 24 * 3_600_000)), Ok)


async def test_another_actors_timer_is_not_there() -> None:
    bench = Bench()
    await bench.puppet("a")
    await bench.puppet("b")
    timer = (await bench.do("a", after(60_000))).value
    assert await bench.do("b", cancel(timer)) is False
    assert await bench.do("a", cancel(timer)) is True
