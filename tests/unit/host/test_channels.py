"""Channels as a guest meets them: pulled, or pushed into a handler whose return is the ack and whose crash the nack."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from plexspaces_runtime.actors.actor import Run
from plexspaces_runtime.actors.envelope import Envelope, Kind
from plexspaces_runtime.actors.facets import Facet, Facets
from plexspaces_runtime.actors.guest import Err, Failure, Ok
from plexspaces_runtime.errors import PermissionDenied, RateLimited, Unavailable
from plexspaces_runtime.scope import Caller
from plexspaces_runtime.stores.channels import Channels, MemoryChannels
from plexspaces_runtime.stores.quotas import Quotas
from tests.unit.scripted import SCOPE, Bench, call


class Stubborn(MemoryChannels):
    """A table that refuses to delete so many times."""

    refusals = 0

    def delete(self, numbers: Any) -> None:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("the disk is full")
        super().delete(numbers)


def house(**limits: Any) -> Bench:
    bench = Bench(**limits)
    loop = asyncio.get_running_loop()
    alarms: list[asyncio.TimerHandle] = []

    def set_alarm(delay_s: float | None) -> None:
        while alarms:
            alarms.pop().cancel()
        if delay_s is not None:
            alarms.append(loop.call_later(delay_s, store(bench).ring))

    bench.host.channels = Channels(
        Stubborn(),
        quotas=Quotas(bench.limits),
        clock=bench.clock,
        events=bench.events,
        limits=bench.limits,
        set_alarm=set_alarm,
    )
    return bench


def store(bench: Bench) -> Channels:
    assert bench.host.channels is not None
    return bench.host.channels


def ch(function: str, *arguments: Any) -> Any:
    return call("channels", function, "q", *arguments)


def send(payload: Any, delay_ms: int = 0, ttl_ms: int = 0, dedup_id: str = "") -> Any:
    return ch("send", "job", json.dumps(payload), (delay_ms, ttl_ms, dedup_id))


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def suspended(bench: Bench, name: str) -> None:
    await until(lambda: bench.actors[name].run is Run.WAITING)


class Worker:
    """Scripts of a consumer whose handler does what `how` says; it keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.contexts: list[tuple[str, str, str, str]] = []
        self.how: Any = '"done"'

    def handle(self, message_id: str, kind: str, op: str, payload: str, sender: str, context: str) -> Any:
        if op == "subscribe":
            answer = yield ch("subscribe", "work")
            return json.dumps(answer.value)
        if op == "unsubscribe":
            answer = yield call("channels", "unsubscribe", json.loads(payload)["id"])
            return json.dumps(answer.value)
        if op == "reply":
            yield call("messaging", "reply", json.loads(payload)["to"], '"late"')
            return "{}"
        arguments = json.loads(payload)
        self.calls.append(arguments)
        self.contexts.append((message_id, kind, sender, context))
        if isinstance(self.how, list):
            # Not `yield from`: a list takes no answers.
            for request in self.how:  # noqa: UP028
                yield request
            return "{}"
        return self.how


async def worker(bench: Bench, name: str = "w", facets: Facets | None = None) -> tuple[Worker, Any, str]:
    made = Worker()
    actor = await bench.start(name, facets=facets, handle=made.handle)
    subscription = await bench.ask(actor, "subscribe")
    assert isinstance(subscription, str)
    return made, actor, json.loads(subscription)


CRASH = Failure(True, "RuntimeError", "RuntimeError: boom", "{}", "")
REFUSE = Failure(False, "invalid-arguments", "no such argument", "{}", "")


async def test_every_function_answers_as_its_type_says() -> None:
    bench = house()
    await bench.puppet("a")
    assert await bench.do("a", send({"n": 1}, dedup_id="d")) == Ok("message-1")
    assert await bench.do("a", send({"n": 2}, dedup_id="d")) == Ok("message-1")
    assert await bench.do("a", ch("depth")) == Ok(1)
    received = await bench.do("a", ch("receive", 0, 0))
    message_id, msg_type, payload, deliveries, enqueued_ms = received.value
    assert (message_id, msg_type, payload, deliveries) == ("message-1", "job", '{"n": 1}', 1)
    assert abs(bench.clock.now_ns() // 1_000_000 - enqueued_ms) < 5_000
    assert await bench.do("a", ch("extend", message_id, 1_000)) == Ok(None)
    assert await bench.do("a", ch("nack", message_id, True, 0)) == Ok(None)
    assert (await bench.do("a", ch("receive", 0, 0))).value[3] == 2
    assert await bench.do("a", ch("ack", message_id)) == Ok(None)
    assert (await bench.do("a", ch("ack", message_id))).value[0] == "not-found"
    assert await bench.do("a", ch("receive", 0, 0)) == Ok(None)
    assert await bench.do("a", ch("receive", 1, 0)) == Ok(None)


async def test_a_payload_is_no_larger_than_any_other() -> None:
    bench = house(payload_bytes_max=64)
    await bench.puppet("a")
    assert isinstance(await bench.do("a", send("x" * 62)), Ok)
    assert (await bench.do("a", send("x" * 63))).value[0] == "limit-exceeded"


async def test_waiting_suspends_the_one_who_waits_and_death_releases_what_it_got() -> None:
    bench = house()
    for name in ("a", "b", "c"):
        await bench.puppet(name)
    first = bench.begin("a", ch("receive", 5_000, 0))
    await suspended(bench, "a")
    dead = bench.begin("b", ch("receive", 5_000, 0))
    await suspended(bench, "b")
    await bench.do("c", send(1))
    key = await first
    assert bench.puppets["a"].done[key][0].value[2] == "1"  # type: ignore[index]
    await bench.kill("b")
    await dead
    await bench.do("c", send(2))
    assert await bench.do("c", ch("depth")) == Ok(1)
    await bench.kill("a")
    assert await bench.do("c", ch("depth")) == Ok(2)
    again = await bench.do("c", ch("receive", 0, 0))
    assert (again.value[2], again.value[3]) == ("1", 2)


async def test_a_pushed_message_is_a_call_and_its_reply_the_ack() -> None:
    bench = house()
    made = Worker()
    actor = await bench.start("w", handle=made.handle)
    bench.scheduler.deliver(actor, Envelope("m-0", Kind.CAST, "subscribe", "{}", None, Caller("alice"), 0, "00-trace"))
    await bench.puppet("a")
    for number in range(3):
        await bench.do("a", send({"n": number}))
    await until(lambda: len(made.calls) == 3)
    await bench.settle()
    assert [each["payload"]["n"] for each in made.calls] == [0, 1, 2]
    assert made.calls[0] == {
        "channel": "q",
        "id": "message-1",
        "msg_type": "job",
        "payload": {"n": 0},
        "deliveries": 1,
        "enqueued_ms": made.calls[0]["enqueued_ms"],
    }
    _, kind, sender, context = made.contexts[0]
    assert (kind, sender) == ("call", "")
    assert json.loads(context) == {"subject": "alice", "roles": [], "trace": "00-trace", "causation_id": "m-0"}
    assert store(bench)._messages == {}


async def test_a_refusal_is_the_nack_and_the_last_one_buries() -> None:
    bench = house(channel_deliveries_max=3)
    made, _, _ = await worker(bench)
    made.how = REFUSE
    store(bench).send(SCOPE, "q", "job", "{}")
    await until(lambda: store(bench).dead_letters(SCOPE))
    (dead,) = store(bench).dead_letters(SCOPE)
    assert [each["deliveries"] for each in made.calls] == [1, 2, 3]
    assert dead.reason == "delivered 3 times; no such argument"


async def test_a_crash_is_the_nack_and_the_subscription_ends_with_its_actor() -> None:
    bench = house(channel_deliveries_max=2)
    made, actor, _ = await worker(bench)
    made.how = CRASH
    store(bench).send(SCOPE, "q", "job", "1")
    store(bench).send(SCOPE, "q", "job", "2")
    await until(lambda: not actor.alive)
    assert len(made.calls) == 1
    assert store(bench).depth(SCOPE, "q") == 2
    assert bench.host.pushes._by_actor == {}
    again, second, _ = await worker(bench, "w2")
    again.how = CRASH
    await until(lambda: not second.alive)
    assert [each["deliveries"] for each in again.calls] == [2]
    assert [dead.payload for dead in store(bench).dead_letters(SCOPE)] == ["1"]
    assert store(bench).depth(SCOPE, "q") == 1


async def test_what_waits_in_the_mailbox_of_one_who_dies_is_not_its_successors_and_does_not_count() -> None:
    bench = house(channel_deliveries_max=1)
    await bench.puppet("a")
    await bench.do("a", ch("subscribe", "work"))
    busy = bench.begin("a", call("clock", "sleep-ns", 10**10))
    await suspended(bench, "a")
    dead = bench.actors["a"]
    store(bench).send(SCOPE, "q", "job", "1")
    await until(lambda: len(dead.mailbox) == 1)
    await bench.kill("a")
    await busy
    await bench.restart("a", dead)
    await bench.settle()
    assert bench.heard("a") == []
    received = await bench.do("a", ch("receive", 0, 0))
    assert received.value[3] == 1


async def test_after_unsubscribing_nothing_comes_and_nothing_is_lost() -> None:
    bench = house(channel_deliveries_max=1)
    made, actor, subscription = await worker(bench)
    blocked, other, _ = await worker(bench, "w2")
    assert await bench.ask(other, "unsubscribe", json.dumps({"id": subscription})) == "false"
    blocked.how = [call("clock", "sleep-ns", 10**10)]
    made.how = [call("clock", "sleep-ns", 30_000_000)]
    for number in range(2):
        store(bench).send(SCOPE, "q", "job", str(number))
    await until(lambda: len(made.calls) == 1)
    # Behind the message being handled, before the next.
    ended = bench.post(actor, "unsubscribe", json.dumps({"id": subscription}))
    store(bench).send(SCOPE, "q", "job", "2")
    assert await ended == "true"
    await bench.settle()
    assert [each["payload"] for each in made.calls] == [0]
    assert store(bench).depth(SCOPE, "q") == 1
    found = store(bench).receive(SCOPE, "q", "x")
    assert (found.payload, found.deliveries) == ("2", 1)  # type: ignore[union-attr]


async def test_a_deferred_reply_is_a_deferred_ack() -> None:
    bench = house()
    made, actor, _ = await worker(bench)
    made.how = None
    store(bench).send(SCOPE, "q", "job", "1")
    store(bench).send(SCOPE, "q", "job", "2")
    await until(lambda: made.calls)
    await bench.settle()
    assert store(bench).depth(SCOPE, "q") == 1
    made.how = '"done"'
    await bench.ask(actor, "reply", json.dumps({"to": made.contexts[0][0]}))
    await until(lambda: len(made.calls) == 2)
    await bench.settle()
    assert store(bench)._messages == {}


async def test_a_handler_may_settle_its_message_itself() -> None:
    bench = house()
    made, _, _ = await worker(bench)
    made.how = [ch("nack", "message-1", False, 0)]
    store(bench).send(SCOPE, "q", "job", "1")
    store(bench).send(SCOPE, "q", "job", "2")
    await until(lambda: len(made.calls) == 2)
    await bench.settle()
    assert [dead.payload for dead in store(bench).dead_letters(SCOPE)] == ["1"]
    assert store(bench).depth(SCOPE, "q") == 0


async def test_an_ack_that_the_disk_refuses_is_tried_again_and_the_work_is_not() -> None:
    bench = house()
    made, _, _ = await worker(bench)
    table = store(bench)._table
    assert isinstance(table, Stubborn)
    table.refusals = 1
    store(bench).send(SCOPE, "q", "job", "1")
    await until(lambda: not store(bench)._messages)
    assert (len(made.calls), table.refusals) == (1, 0)


class Guarded(Facet):
    """Refuses what its list says, one after the other."""

    def __init__(self, *refusals: Exception) -> None:
        self.refusals = list(refusals)

    def admit(self, envelope: Envelope) -> None:
        if envelope.op == "work" and self.refusals:
            raise self.refusals.pop(0)


async def test_a_facet_that_is_busy_delays_and_one_that_refuses_counts() -> None:
    bench = house()
    made, _, _ = await worker(bench, facets=Facets((Guarded(RateLimited("slowly"), PermissionDenied("never")),)))
    store(bench).send(SCOPE, "q", "job", "1")
    await until(lambda: made.calls)
    await bench.settle()
    assert [each["deliveries"] for each in made.calls] == [2]
    assert store(bench)._messages == {}


async def test_a_full_mailbox_delays_a_message_and_loses_none() -> None:
    bench = house(mailbox_messages_max=1)
    made, actor, _ = await worker(bench)
    made.how = [call("clock", "sleep-ns", 10_000_000)]
    assert bench.scheduler.deliver(actor, Envelope("m-1", Kind.CAST, "busy", '{"payload": "busy"}'))
    await suspended_actor(actor)
    assert bench.scheduler.deliver(actor, Envelope("m-2", Kind.CAST, "busy", '{"payload": "busy too"}'))
    store(bench).send(SCOPE, "q", "job", "1")
    await until(lambda: len(made.calls) == 3)
    assert [each["payload"] for each in made.calls] == ["busy", "busy too", 1]


async def suspended_actor(actor: Any) -> None:
    await until(lambda: actor.run is Run.WAITING)


async def test_a_node_without_channels_says_so() -> None:
    bench = Bench()
    await bench.puppet("a")
    refused = await bench.do("a", ch("depth"))
    assert isinstance(refused, Err)
    assert refused.value[0] == "unavailable"
