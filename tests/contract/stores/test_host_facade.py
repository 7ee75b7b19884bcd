"""The stores as an actor sees them: one suite through the SDK's `host`, on a real node and on the SDK's test node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from plexspaces import HostError
from plexspaces.testing import LIMITS, TestNode
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import PlexSpacesError
from plexspaces_runtime.scope import Address, Scope
from tests.guests.stores import Keeper
from tests.nodes import SCOPE, TestBed, running

# Small enough to be reached.
SMALL: dict[str, Any] = {
    "value_bytes_max": 1_000,
    "keys_per_tenant_max": 5,
    "tuple_bytes_max": 100,
    "tuples_per_tenant_max": 20,
    "tuples_examined_max": 4,
    "tuple_subscriptions_per_actor_max": 2,
    "tuple_matches_waiting_max": 2,
    "channel_messages_max": 4,
    "channel_deliveries_max": 2,
    "channel_dedup_ids_max": 2,
    "channel_subscriptions_per_actor_max": 2,
    "blob_bytes_max": 2_000_000,
    "blobs_per_tenant_max": 3,
    "streams_per_tenant_max": 3,
    "stream_event_bytes_max": 500,
    "stream_events_max": 8,
    "stream_keys_max": 2,
    "stream_events_per_second_max": 12,
    "stream_pause_s": 0.1,
    "stream_subscriptions_per_actor_max": 2,
}


class World(Protocol):
    """What the suite needs of a node with keepers."""

    async def put(self, name: str, shared_keys: bool = False) -> None:
        """Start one that is started again after a crash."""

    async def ask(self, name: str, op: str, **arguments: Any) -> Any:
        """The reply; a failure is its code."""

    async def kill(self, name: str) -> None:
        """End one for good, as an operator does."""

    async def tick(self) -> None:
        """Let a little time pass."""

    async def upload(self, name: str, data: bytes) -> None:
        """Put a blob from outside."""


class Fake:
    """The SDK's test node."""

    def __init__(self, limits: dict[str, Any]) -> None:
        self.node = TestNode(limits=limits)

    async def put(self, name: str, shared_keys: bool = False) -> None:
        self.node.deploy(name, Keeper, shared_keys=shared_keys)
        self.node.spawn(Keeper, actor_type=name)

    async def ask(self, name: str, op: str, **arguments: Any) -> Any:
        try:
            return self.node.ask(name, op, arguments)
        except HostError as error:
            return error.code

    async def kill(self, name: str) -> None:
        self.node.actor(name).stop()

    async def tick(self) -> None:
        self.node.advance(0.005)

    async def upload(self, name: str, data: bytes) -> None:
        self.node.put_blob(name, data)


class Real:
    """A node with sealed components."""

    def __init__(self, bed: TestBed, wasm: Path) -> None:
        self.bed = bed
        self.wasm = wasm

    async def put(self, name: str, shared_keys: bool = False) -> None:
        capabilities = ["default", "spawn", "keyvalue:shared"]
        await self.bed.deploy(
            name, self.wasm, restart="permanent", shared_keys=shared_keys, capabilities=capabilities
        )

    async def ask(self, name: str, op: str, **arguments: Any) -> Any:
        try:
            return await self.bed.ask(name, op, **arguments)
        except PlexSpacesError as error:
            return error.code

    async def kill(self, name: str) -> None:
        await self.bed.node.stop_actor(Address.parse(SCOPE, name), kill=True)

    async def tick(self) -> None:
        await asyncio.sleep(0.005)

    async def upload(self, name: str, data: bytes) -> None:
        blobs = self.bed.node.stores.blobs
        upload = blobs.begin(SCOPE, name)
        upload.write(data)
        upload.seal()
        blobs.finish(upload)


def with_limits(**limits: Any) -> Callable[[Any], Any]:
    """The node of this test has other limits than usual."""

    def mark(test: Any) -> Any:
        test.limits = limits
        return test

    return mark


@pytest.fixture(params=["fake", pytest.param("node", marks=pytest.mark.guest)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    limits = getattr(request.function, "limits", {})
    if request.param == "fake":
        yield Fake(limits)
        return
    wasm = request.getfixturevalue("guest")("stores")
    async with running(tmp_path, **limits) as bed:
        yield Real(bed, wasm)


class Named(dict[str, Any]):
    """Arguments by name, last in a call."""


Call = tuple[Any, ...]


async def do(world: World, name: str, *calls: Call) -> list[Any]:
    """What the host calls of one message gave; a call is `(name, *arguments)`."""
    told = []
    for what, *given in calls:
        named = given.pop() if given and isinstance(given[-1], Named) else {}
        told.append([what, given, named])
    answers = await world.ask(name, "several", calls=told)
    assert isinstance(answers, list), answers
    return answers


async def one(world: World, name: str, *call: Any) -> Any:
    """What one host call gave."""
    return (await do(world, name, call))[0]


async def until(world: World, happened: Callable[[], Awaitable[bool]]) -> None:
    """Let things happen."""
    for _ in range(2_000):
        if await happened():
            return
        await world.tick()
    raise TimeoutError


async def heard(world: World, name: str, count: int) -> list[Any]:
    """What a keeper has heard, once it is so much."""
    got: list[Any] = []

    async def enough() -> bool:
        got.extend(await world.ask(name, "take_heard"))
        return len(got) >= count

    await until(world, enough)
    return got


def later(name: str, *given: Any) -> tuple[Any, ...]:
    """A call that the actor makes in a message of its own, 30 ms from now."""
    return ("send_after", 30, name, {"given": list(given)})


def limited(limit: str) -> dict[str, str]:
    return {"code": "limit-exceeded", "limit": limit}


INVALID = {"code": "invalid-argument"}
ABSENT = {"code": "not-found"}
CONFLICT = {"code": "conflict"}


def test_the_test_node_has_the_nodes_limits() -> None:
    limits = Limits()
    assert {name: getattr(limits, name) for name in LIMITS} == dict(LIMITS)


async def test_what_makes_no_sense_is_refused_alike(world: World) -> None:
    await world.put("a")
    nested = json.loads("[" * 66 + "]" * 66)
    calls: list[Call] = [
        ("kv_get", ""),
        ("kv_get", "x" * 1_025),
        ("kv_put", "a\x00b", 1),
        ("kv_put", "a", 1, 0),
        ("kv_put", "a", 1, -1),
        ("kv_put", "a", 1, 1.5),
        ("kv_put", "a", 1, 10 * 365 * 24 * 3_600_000 + 1),
        ("kv_put", "a", "half of a \ud800 pair"),
        ("kv_list", "", -1),
        ("kv_increment", "a", 2**63),
        ("ts.write", []),
        ("ts.write", [0] * 65),
        ("ts.write", [nested]),
        ("ts.write", [1], 0),
        ("ts.write", [1], -5),
        ("ts_write", "{}"),
        ("ts_write", "[NaN]"),
        ("ts_write", "[1"),
        ("ts.read", [{"$type": "number"}]),
        ("ts.read", [{"$pred": ["~", 1]}]),
        ("ts.read", [{"$pred": ["<", None]}]),
        ("ts.read", [{"$pred": ["prefix", 1]}]),
        ("ts.read", [{"$type": "int", "more": 1}]),
        ("ts.read", [{"$pred": ["<", True]}]),
        ("ts.read", [1], -1),
        ("ts_take", "5"),
        ("ts.read_all", [None], 1_001),
        ("ts.take_all", [None], 2**32),
        ("ts.count", []),
        ("ts.subscribe", [None], ""),
        ("ts.subscribe", [], "matched"),
        ("channel.send", "", "", "t"),
        ("channel.send", "", "a\nb", "t"),
        ("channel.send", "", "q", "t\n"),
        ("channel.send", "", "q", "t", "no json"),
        ("channel.send", "", "q", "t", Named(dedup_id="\x7f")),
        ("channel.send", "", "q", "t", Named(delay_ms=5, ttl_ms=5)),
        ("channel.send", "", "q", "t", Named(ttl_ms=365 * 24 * 3_600_000 + 1)),
        ("channel.send", "", "q", "t", Named(delay_ms=-1)),
        ("channel.receive", "", "x" * 257),
        ("channel.receive", "", "q", 0, 12 * 3_600_000 + 1),
        ("channel.extend", "", "q", "message-1", 0),
        ("channel.nack", "", "q", "message-1", True, 365 * 24 * 3_600_000 + 1),
        ("channel.depth", "", ""),
        ("channel.subscribe", "", "q", ""),
        ("channel.subscribe", "", "", "work"),
        ("lock_acquire", "", 1_000),
        ("lock_acquire", "x" * 257, 1_000),
        ("lock_acquire", "l", 0),
        ("lock_acquire", "l", 24 * 3_600_000 + 1),
        ("lock_acquire", "l", 1_000, 24 * 3_600_000 + 1),
        ("lock_acquire", "l", 1_000, -1),
        ("lock_renew", "l", "lock-1", 0),
        ("blob_put", "", "x"),
        ("blob_put", "a//b", "x"),
        ("blob_put", "../a", "x"),
        ("blob_put", "a", "x", "text"),
        ("blob_get", "a\n"),
        ("blob_delete", "/"),
        ("stream.append", "s", "t"),
        ("stream.append", "/a/", "t"),
        ("stream.append", "/a/..", "t"),
        ("stream.append", "/a", "t", {}, "k" * 257),
        ("stream.read", "/a b"),
        ("stream.read", "/a", 0, 1_001),
        ("stream.read", "/a", -1),
        ("stream.subscribe", "/" + "x" * 257, "followed"),
        ("stream.subscribe", "/a", ""),
    ]
    answers = await do(world, "a", *calls)
    assert [call for call, answer in zip(calls, answers, strict=True) if answer != INVALID] == []
    # Nothing of all that is there.
    assert await do(world, "a", ("kv_list",), ("ts.count", [None]), ("blob_list",)) == [[], 0, []]


# -- key-value ---------------------------------------------------------------------------------------------


async def test_values(world: World) -> None:
    await world.put("a")
    await world.put("b")
    value = {"text": "é\u2028", "number": 1.5, "none": None, "list": [[], {}]}
    assert await do(
        world, "a", ("kv_put", "k", value), ("kv_get", "k"), ("kv_get", "no"), ("kv_get", "no", 7), ("kv.get", "k")
    ) == [None, value, None, 7, value]
    assert await do(world, "b", ("kv_get", "k"), ("kv_delete", "k"), ("kv_list",)) == [None, False, []]
    keys = [("kv_put", key, 1) for key in ("k/2", "k/1", "k/10", "é", "z")]
    await do(world, "a", *keys)
    assert await do(world, "a", ("kv_list",), ("kv_list", "k/"), ("kv_list", "k/", 2), ("kv_list", "no")) == [
        ["k", "k/1", "k/10", "k/2", "z", "é"],
        ["k/1", "k/10", "k/2"],
        ["k/1", "k/10"],
        [],
    ]
    assert await do(world, "a", ("kv_delete", "k"), ("kv_delete", "k"), ("kv_get", "k")) == [True, False, None]
    # Values outlive what their actor remembers.
    assert await world.ask("a", "crash") == "handler-crashed"
    await until(world, lambda: answers(world, "a"))
    assert await one(world, "a", "kv_get", "z") == 1


async def answers(world: World, name: str) -> bool:
    return await world.ask(name, "several", calls=[]) == []


async def test_long_lists_of_keys(world: World) -> None:
    await world.put("a")
    await do(world, "a", *(("kv_put", f"k{number:04}", number) for number in range(1_001)))
    listed, first = await do(world, "a", ("kv_list", "k"), ("kv_list", "k", 1_000))
    assert listed == [f"k{number:04}" for number in range(1_001)]
    assert first == listed[:1_000]


async def test_values_are_compared_as_json(world: World) -> None:
    await world.put("a")
    assert await do(
        world,
        "a",
        ("kv_cas", "c", 1, 2),
        ("kv_cas", "c", None, {"b": 1, "a": [True]}),
        ("kv_cas", "c", None, 2),
        ("kv_cas", "c", {"a": [1], "b": 1}, 2),
        ("kv_cas", "c", {"a": [True], "b": 1}, 3),
        ("kv_get", "c"),
        ("kv_cas", "c", 3.0, None),
        ("kv_cas", "c", 3, None),
        ("kv_get", "c", "gone"),
    ) == [False, True, False, False, True, 3, False, True, "gone"]


async def test_counting(world: World) -> None:
    await world.put("a")
    assert await do(
        world,
        "a",
        ("kv_increment", "n"),
        ("kv_increment", "n", 2**62),
        ("kv_increment", "n", 2**62),
        ("kv_increment", "n", -5),
        ("kv_put", "f", 1.0),
        ("kv_increment", "f"),
        ("kv_put", "t", True),
        ("kv_increment", "t"),
    ) == [1, 2**62 + 1, CONFLICT, 2**62 - 4, None, CONFLICT, None, CONFLICT]


async def test_values_that_end(world: World) -> None:
    await world.put("a")
    await do(
        world, "a", ("kv_put", "n", 1, 200), ("kv_put", "x", 1, 20), ("kv_put", "kept", 1, 20), ("kv_put", "kept", 2)
    )
    # Its time goes on.
    assert await one(world, "a", "kv_increment", "n") == 2

    async def over() -> bool:
        return await one(world, "a", "kv_get", "x") is None

    await until(world, over)
    assert await do(world, "a", ("kv_list",), ("kv_cas", "x", 1, 2), ("kv_delete", "x")) in (
        [["kept", "n"], False, False],
        [["kept"], False, False],
    )

    async def all_over() -> bool:
        return await one(world, "a", "kv_list") == ["kept"]

    await until(world, all_over)
    assert await do(world, "a", ("kv_increment", "n"), ("kv_get", "kept")) == [1, 2]


# -- tuple space -------------------------------------------------------------------------------------------


async def test_tuples(world: World) -> None:
    await world.put("a")
    await world.put("b")
    ids = await do(world, "a", *(("ts.write", ["job", number, {"n": number}]) for number in range(3)))
    assert len(set(ids)) == 3
    assert await do(
        world,
        "b",
        ("ts.count", ["job", None, None]),
        ("ts.read", ["job", None, None]),
        ("ts.read", ["job", 2, None]),
        ("ts.read", ["job", None]),
        ("ts.take", ["job", None, {"n": 1}]),
        ("ts.take", ["job", 1, None]),
        ("ts.read_all", [None, None, None]),
        ("ts.read_all", [None, None, None], 1),
        ("ts.take_all", ["job", None, None]),
        ("ts.count", [None, None, None]),
    ) == [
        3,
        ["job", 0, {"n": 0}],
        ["job", 2, {"n": 2}],
        None,
        ["job", 1, {"n": 1}],
        None,
        [["job", 0, {"n": 0}], ["job", 2, {"n": 2}]],
        [["job", 0, {"n": 0}]],
        [["job", 0, {"n": 0}], ["job", 2, {"n": 2}]],
        0,
    ]
    assert await do(
        world, "a", ("ts_write", "[ 1.50, 1 ]"), ("ts_read", "[1.5, 1.0]"), ("ts_take", "[null, null]")
    ) == [
        "tuple-4",
        "[ 1.50, 1 ]",
        "[ 1.50, 1 ]",
    ]


FIELDS = [1, 1.0, 2, "a", "ab", "b", True, False, None, [1], [True], {"a": 1, "b": 2}, 0, ""]


@pytest.mark.parametrize(
    ("field", "matching"),
    [
        (None, FIELDS),
        (1, [1, 1.0]),
        (True, [True]),
        (0, [0]),
        ([1.0], [[1]]),
        ({"b": 2, "a": 1}, [{"a": 1, "b": 2}]),
        ("", [""]),
        ({"$type": "int"}, [1, 2, 0]),
        ({"$type": "float"}, [1.0]),
        ({"$type": "bool"}, [True, False]),
        ({"$type": "null"}, [None]),
        ({"$type": "list"}, [[1], [True]]),
        ({"$type": "dict"}, [{"a": 1, "b": 2}]),
        ({"$pred": ["<", 2]}, [1, 1.0, 0]),
        ({"$pred": [">=", 1]}, [1, 1.0, 2]),
        ({"$pred": [">", "a"]}, ["ab", "b"]),
        ({"$pred": ["<=", "a"]}, ["a", ""]),
        ({"$pred": ["prefix", "a"]}, ["a", "ab"]),
        ({"$pred": ["!=", 1]}, FIELDS[2:]),
        ({"$pred": ["!=", None]}, [field for field in FIELDS if field is not None]),
    ],
)
async def test_patterns_on_the_test_node(field: Any, matching: list[Any]) -> None:
    # What the node's own suite says of patterns, and `test_patterns` of some of them on both.
    fake = Fake({})
    await fake.put("a")
    found = await do(fake, "a", *(("ts.write", [each]) for each in FIELDS), ("ts.read_all", [field]))
    assert json.dumps(found[-1]) == json.dumps([[each] for each in matching])


async def test_patterns(world: World) -> None:
    await world.put("a")
    await do(world, "a", *(("ts.write", [each]) for each in FIELDS))
    patterns: list[Any] = [1, True, [1.0], {"$type": "float"}, {"$pred": [">=", 1]}, {"$pred": ["!=", 1]}]
    found = await do(world, "a", *(("ts.read_all", [each]) for each in patterns))
    assert json.dumps(found) == json.dumps(
        [[[1], [1.0]], [[True]], [[[1]]], [[1.0]], [[1], [1.0], [2]], [[each] for each in FIELDS[2:]]]
    )


async def test_waiting_for_a_tuple(world: World) -> None:
    await world.put("a")
    await world.put("b")
    before, nothing, after = await do(world, "a", ("now_ms",), ("ts.take", ["no"], 25), ("now_ms",))
    assert nothing is None
    assert after - before >= 25
    await do(world, "b", later("ts.write", ["job", 1]))
    assert (
        await do(world, "a", ("ts.read", ["job", None], 5_000), ("ts.take", ["job", None], 5_000)) == [["job", 1]] * 2
    )
    # The other one's work is in a mailbox.
    assert (await do(world, "a", ("send", "b", "ts.write", {"given": [["done"]]}), ("ts.take", ["done"], 5_000)))[
        1
    ] == ["done"]
    assert await one(world, "a", "ts.count", [None]) == 0


async def test_tuples_that_end(world: World) -> None:
    await world.put("a")
    await do(world, "a", ("ts.write", [1], 20), ("ts.write", [2], 60_000), ("ts.write", [3]))

    async def over() -> bool:
        return await one(world, "a", "ts.count", [None]) == 2

    await until(world, over)
    assert await do(world, "a", ("ts.read", [1]), ("ts.take_all", [None])) == [None, [[2], [3]]]


async def test_subscriptions_to_tuples(world: World) -> None:
    await world.put("a")
    await world.put("b")
    await one(world, "a", "ts.write", ["x", 0])
    made = await do(world, "b", ("ts.subscribe", ["x", None], "matched"), ("ts.subscribe", [None, 2], "matched"))
    await do(world, "a", ("ts.write", ["x", 1]), ("ts.take", ["x", 1]), ("ts.write", ["y", 2]), ("ts.write", ["y", 3]))
    assert sorted(await heard(world, "b", 2)) == [["x", 1], ["y", 2]]
    assert await do(
        world,
        "b",
        ("ts.unsubscribe", made[0]),
        ("ts.unsubscribe", made[0]),
        ("ts.write", ["x", 2]),
        ("ts.write", ["x", 4]),
    ) == [True, False, "tuple-5", "tuple-6"]
    assert await heard(world, "b", 1) == [["x", 2]]
    assert await one(world, "a", "ts.unsubscribe", made[1]) is False
    # It ends with its actor.
    assert await world.ask("b", "crash") == "handler-crashed"
    await until(world, lambda: answers(world, "b"))
    await one(world, "a", "ts.write", ["z", 2])
    assert await do(world, "b", ("ts.subscribe", ["mark"], "matched"), ("ts.write", ["mark"]))
    assert await heard(world, "b", 1) == [["mark"]]


# -- channels ----------------------------------------------------------------------------------------------


def message(answer: list[Any]) -> list[Any]:
    """What counts of a received message."""
    got, ok, error = answer
    assert (ok, error) == (True, "")
    assert got["enqueued_ms"] > 0
    return [got["id"], got["msg_type"], got["payload"], got["deliveries"]]


NOTHING = [None, False, ""]


async def test_channels(world: World) -> None:
    await world.put("a")
    await world.put("b")
    first, second, third, depth = await do(
        world,
        "a",
        ("channel.send", "", "jobs", "t", {"n": 1}),
        ("channel.send", "", "jobs", "u", {"n": 2}),
        ("channel.send", "", "jobs", "t", '{"n": 3.0}'),
        ("channel.depth", "", "jobs"),
    )
    assert depth == 3
    got, other, left = await do(
        world, "b", ("channel.receive", "", "jobs"), ("channel.receive", "", "jobs"), ("channel.depth", "", "jobs")
    )
    assert message(got) == [first, "t", {"n": 1}, 1]
    assert message(other) == [second, "u", {"n": 2}, 1]
    assert left == 1
    # Only who has it can settle it, and only once; what comes back takes its old place.
    assert await do(
        world, "a", ("channel.ack", "", "jobs", first), ("channel.nack", "", "jobs", first),
        ("channel.extend", "", "jobs", first, 1_000),
    ) == [ABSENT] * 3  # fmt: skip
    assert await do(
        world, "b", ("channel.nack", "", "jobs", first), ("channel.ack", "", "jobs", second),
        ("channel.ack", "", "jobs", second), ("channel.ack", "", "other", first), ("channel.depth", "", "jobs"),
    ) == [None, None, ABSENT, ABSENT, 2]  # fmt: skip
    again, last, none = await do(
        world, "b", ("channel.receive", "", "jobs"), ("channel.receive", "", "jobs"), ("channel.receive", "", "jobs")
    )
    assert message(again) == [first, "t", {"n": 1}, 2]
    assert message(last) == [third, "t", {"n": 3.0}, 1]
    assert none == NOTHING
    # A consumer that ends lets go of what it had.
    assert await world.ask("b", "crash") == "handler-crashed"

    async def back() -> bool:
        return bool(await one(world, "a", "channel.depth", "", "jobs") == 2)

    await until(world, back)
    assert [message(each)[3] for each in await do(world, "a", *[("channel.receive", "", "jobs")] * 2)] == [3, 2]


async def test_waiting_for_a_message(world: World) -> None:
    await world.put("a")
    await world.put("b")
    before, nothing, after = await do(world, "a", ("now_ms",), ("channel.receive", "", "jobs", 25), ("now_ms",))
    assert nothing == NOTHING
    assert after - before >= 25
    await do(world, "b", later("channel.send", "", "jobs", "t", {"n": 1}))
    assert message(await one(world, "a", "channel.receive", "", "jobs", 5_000))[1:] == ["t", {"n": 1}, 1]
    assert (
        await do(world, "a", ("channel.send", "", "slow", "t", {}, Named(delay_ms=40)), ("channel.depth", "", "slow"))
    )[1] == 1
    none, got = await do(world, "b", ("channel.receive", "", "slow"), ("channel.receive", "", "slow", 5_000))
    assert none == NOTHING
    assert message(got)[2:] == [{}, 1]


async def test_visibility(world: World) -> None:
    await world.put("a")
    await world.put("b")
    sent, kept = await do(world, "a", ("channel.send", "", "q", "t"), ("channel.send", "", "q", "t"))
    got, other, _ = await do(
        world, "a", ("channel.receive", "", "q", 0, 20), ("channel.receive", "", "q", 0, 20),
        ("channel.extend", "", "q", kept, 60_000),
    )  # fmt: skip
    assert [message(got)[0], message(other)[0]] == [sent, kept]
    assert message(await one(world, "b", "channel.receive", "", "q", 5_000)) == [sent, "t", {}, 2]
    assert await do(world, "a", ("channel.ack", "", "q", sent), ("channel.ack", "", "q", kept)) == [ABSENT, None]
    assert await do(world, "b", ("channel.nack", "", "q", sent, True, 30), ("channel.receive", "", "q")) == [
        None,
        NOTHING,
    ]
    assert message(await one(world, "b", "channel.receive", "", "q", 5_000)) == [sent, "t", {}, 3]
    assert await do(world, "b", ("channel.nack", "", "q", sent, False), ("channel.depth", "", "q")) == [None, 0]


async def test_time_to_live_and_dedup(world: World) -> None:
    await world.put("a")
    first, second, other = await do(
        world,
        "a",
        ("channel.send", "", "q", "t", {"n": 1}, Named(dedup_id="x")),
        ("channel.send", "", "q", "t", {"n": 2}, Named(dedup_id="x")),
        ("channel.send", "", "r", "t", {"n": 2}, Named(dedup_id="x", ttl_ms=20)),
    )
    assert first == second != other
    assert await one(world, "a", "channel.depth", "", "q") == 1

    async def dropped() -> bool:
        return bool(await one(world, "a", "channel.depth", "", "r") == 0)

    await until(world, dropped)
    # It is remembered longer than it is kept.
    assert await do(
        world, "a", ("channel.send", "", "r", "t", {}, Named(dedup_id="x")), ("channel.depth", "", "r")
    ) == [
        other,
        0,
    ]


@with_limits(channel_deliveries_max=2)
async def test_pushed_messages(world: World) -> None:
    await world.put("a")
    await world.put("b")
    await do(world, "b", ("channel.subscribe", "", "jobs", "work"))

    async def settled(waiting: int = 0) -> bool:
        # Nothing waits, and nobody has any: one that comes back would be seen.
        return bool(await one(world, "a", "channel.depth", "", "jobs") == waiting)

    await do(world, "a", *(("channel.send", "", "jobs", "t", {"n": number}) for number in range(3)))
    assert await heard(world, "b", 3) == [["jobs", "t", {"n": number}, 1] for number in range(3)]
    # A refusal is a nack: twice, and it is dead.
    await do(
        world, "a", ("channel.send", "", "jobs", "t", {"then": "refuse"}), ("channel.send", "", "jobs", "t", {"n": 9})
    )
    assert await heard(world, "b", 3) == [
        ["jobs", "t", {"then": "refuse"}, 1],
        ["jobs", "t", {"then": "refuse"}, 2],
        ["jobs", "t", {"n": 9}, 1],
    ]
    # The handler may settle it itself, or reply later; until then there is no next.
    work = [{"then": "bury"}, {"then": "later"}, {"n": 10}]
    await do(world, "a", *(("channel.send", "", "jobs", "t", payload) for payload in work))
    assert await heard(world, "b", 2) == [["jobs", "t", {"then": "bury"}, 1], ["jobs", "t", {"then": "later"}, 1]]
    assert await settled(1)
    await world.ask("b", "pay")
    assert await heard(world, "b", 1) == [["jobs", "t", {"n": 10}, 1]]
    # A crash ends the subscription, and gives the message back; the second delivery was its last.
    await do(world, "a", ("channel.send", "", "jobs", "t", {"then": "crash"}))
    await until(world, lambda: settled(1))
    await until(world, lambda: answers(world, "b"))
    (got,) = await do(world, "a", ("channel.receive", "", "jobs"))
    assert message(got)[2:] == [{"then": "crash"}, 2]
    await do(world, "a", ("channel.nack", "", "jobs", got[0]["id"]))
    assert await settled(0)


async def test_a_push_that_is_given_up(world: World) -> None:
    await world.put("a")
    made, _, gone, again = await do(
        world,
        "a",
        ("channel.subscribe", "", "jobs", "work"),
        ("channel.send", "", "jobs", "t", {"n": 1}),
        ("channel.unsubscribe", "$0"),
        ("channel.unsubscribe", "$0"),
    )
    assert (gone, again) == (True, False)
    # It was never begun, so its delivery does not count.
    assert message(await one(world, "a", "channel.receive", "", "jobs"))[2:] == [{"n": 1}, 1]
    assert await world.ask("a", "take_heard") == []
    assert made


# -- locks -------------------------------------------------------------------------------------------------


async def test_locks(world: World) -> None:
    await world.put("a")
    await world.put("b")
    (lease,) = await do(world, "a", ("lock_acquire", "l", 60_000))
    assert lease["fencing_token"] == 1
    assert await do(world, "b", ("lock_acquire", "l", 1_000), ("lock_release", "l", "lock-0")) == [None, False]
    renewed, released, again = await do(
        world, "a", ("lock_renew", lease, 90_000), ("lock_release", lease), ("lock_release", lease)
    )
    assert renewed["lock_id"] == lease["lock_id"]
    assert renewed["expires_ms"] > lease["expires_ms"]
    assert (released, again) == (True, False)
    # As published, with the holder's own tenant and namespace in front.
    (mine,) = await do(world, "b", ("lock_acquire", "t", "n", "me", "l", 60, 0))
    assert mine["fencing_token"] == 2
    assert await do(
        world, "b", ("lock_renew", "l", lease["lock_id"], 1_000), ("lock_renew", mine["lock_id"]),
        ("lock_release", mine["lock_id"]), ("lock_release", "lock-0"),
    ) == [CONFLICT, {**mine, "expires_ms": pytest.approx(mine["expires_ms"], abs=60_000)}, True, ABSENT]  # fmt: skip


async def test_a_lock_ends_with_its_time_and_not_with_its_holder(world: World) -> None:
    await world.put("a")
    await world.put("b")
    await do(world, "a", ("lock_acquire", "long", 60_000), ("lock_acquire", "short", 40))
    await world.kill("a")
    before, got, after = await do(world, "b", ("now_ms",), ("lock_acquire", "short", 1_000, 5_000), ("now_ms",))
    assert got["fencing_token"] == 2
    assert after - before < 4_000
    before, nothing, after = await do(world, "b", ("now_ms",), ("lock_acquire", "long", 1_000, 25), ("now_ms",))
    assert nothing is None
    assert after - before >= 25
    # A lease that has run out cannot be renewed or given back.
    await do(world, "b", ("lock_acquire", "mine", 10), ("sleep", 0.05))
    assert await do(world, "b", ("lock_renew", "mine", "x", 1_000), ("lock_release", "mine", "x")) == [CONFLICT, False]


async def test_waiting_for_a_lock(world: World) -> None:
    await world.put("a")
    await world.put("b")
    (lease,) = await do(world, "b", ("lock_acquire", "l", 60_000))
    await do(world, "b", later("lock_release", "l", lease["lock_id"]))
    (got,) = await do(world, "a", ("lock_acquire", "l", 1_000, 10_000))
    assert got["fencing_token"] == 2


@pytest.mark.parametrize(
    "call",
    [("ts.take", ["no"], 60_000), ("channel.receive", "", "no", 60_000), ("lock_acquire", "held", 1_000, 60_000)],
    ids=lambda call: call[0],
)
async def test_nobody_waits_longer_than_its_caller(world: World, call: Call) -> None:
    await world.put("a")
    await world.put("b")
    await do(world, "a", ("lock_acquire", "held", 3_600_000))
    name, *given = call
    before, answer, free, after = await do(
        world, "a", ("now_ms",), ("ask", "b", name, {"given": given}, 100), ("ask", "b", "self_id", {}), ("now_ms",)
    )
    assert answer in (None, NOTHING, {"code": "deadline-exceeded"})
    assert free == "b"
    assert after - before < 30_000


# -- blobs -------------------------------------------------------------------------------------------------


async def test_blobs(world: World) -> None:
    await world.put("a")
    await world.put("b")
    (info,) = await do(world, "a", ("blob_put", "docs/a", "é", "text/plain"))
    assert info == {
        "name": "docs/a",
        "size_bytes": 2,
        "content_type": "text/plain",
        "sha256": "4a99557e4033c3539de2eb65472017cad5f9557f7a0625a09f1c3f6e2ba69c4c",
        "modified_ms": info["modified_ms"],
    }
    assert info["modified_ms"] > 0
    assert await do(world, "b", ("blob_get", "docs/a"), ("blob_get", "no"), ("blob_delete", "no")) == [
        {"base64": "w6k="},
        None,
        False,
    ]
    await do(world, "b", ("blob_put", "docs/b", "x"), ("blob_put", "docs/a", "new"), ("blob_put", "z", ""))
    listed, some, none, first = await do(
        world, "a", ("blob_list",), ("blob_list", "docs/"), ("blob_list", "no"), ("blob_list", "", 2)
    )
    assert [each["name"] for each in listed] == ["docs/a", "docs/b", "z"]
    assert listed[0]["size_bytes"] == 3
    assert listed[0]["content_type"] == "application/octet-stream"
    assert some == first == listed[:2]
    assert none == []
    assert await do(world, "a", ("blob_delete", "docs/a"), ("blob_get", "docs/a"), ("blob_get", "z")) == [
        True,
        None,
        {"base64": ""},
    ]


async def test_a_blob_of_a_whole_part(world: World) -> None:
    await world.put("a")
    part = 1 << 20
    assert (
        await do(
            world,
            "a",
            ("blob_put", "whole", {"repeat": ["x", part]}),
            ("blob_get", "whole"),
            ("blob_put", "more", {"repeat": ["x", part + 1]}),
            ("blob_get", "more"),
        )
    )[1:] == [{"bytes": part}, limited("blob_part_bytes_max"), None]


@pytest.mark.parametrize("size", [(1 << 20) + 1, 2 << 20])
async def test_a_blob_that_is_read_in_parts(world: World, size: int) -> None:
    await world.put("a")
    await world.upload("large", b"x" * size)
    assert await one(world, "a", "blob_get", "large") == {"bytes": size}


# -- event streams -----------------------------------------------------------------------------------------


def seen(events: list[dict[str, Any]]) -> list[list[Any]]:
    assert all(event["time_ms"] > 0 for event in events)
    return [[event["offset"], event["event_type"], event["payload"]] for event in events]


async def test_streams(world: World) -> None:
    await world.put("a")
    await world.put("b")
    assert await do(
        world,
        "a",
        ("stream.append", "/s", "t", {"n": 1}),
        ("stream.append", "/s", "t/u", {"n": 2}, "key"),
        ("stream.append", "/s", "t", {"n": 3}, "key"),
        ("stream.append", "/s", "t", "[4,\n5]"),
        ("stream.append", "/s/other", "t"),
    ) == [1, 2, 2, 3, 1]
    everything, behind, two, none = await do(
        world, "b", ("stream.read", "/s"), ("stream.read", "/s", 2), ("stream.read", "/s", 0, 2), ("stream.read", "/no")
    )
    assert seen(everything) == [[1, "t", {"n": 1}], [2, "t/u", {"n": 2}], [3, "t", [4, 5]]]
    assert behind == everything[2:]
    assert two == everything[:2]
    assert none == []


@with_limits(stream_event_bytes_max=64)
async def test_what_is_no_event_is_one_of_an_error(world: World) -> None:
    await world.put("a")
    assert await do(
        world,
        "a",
        ("stream.append", "/s", "t", "{"),
        ("stream.append", "/s", "t", {"text": "x" * 100}),
        ("stream.append", "/s", "no type", {}),
        ("stream.append", "/s", "paused", {}),
    ) == [1, 2, 3, 4]
    events = await one(world, "a", "stream.read", "/s")
    assert [
        [event["event_type"], *(event["payload"][name] for name in ("code", "reason", "event_type", "bytes"))]
        for event in events
    ] == [
        ["error", "invalid-event", "not-json", "t", 1],
        ["error", "invalid-event", "too-large", "t", 111],
        ["error", "invalid-event", "bad-type", "no type", 2],
        ["error", "invalid-event", "bad-type", "paused", 2],
    ]
    assert events[0]["payload"]["excerpt"] == "{"


async def test_following_a_stream(world: World) -> None:
    await world.put("a")
    await world.put("b")
    await do(world, "a", ("stream.append", "/s", "t", {"n": 1}), ("stream.append", "/s", "t", {"n": 2}))
    made = await do(world, "b", ("stream.subscribe", "/s", "followed", 1), ("stream.subscribe", "/new", "followed"))
    await do(world, "a", ("stream.append", "/s", "u", {"n": 3}), ("stream.append", "/new", "t", 7))
    assert sorted(await heard(world, "b", 3)) == [
        ["/new", 1, "t", 7],
        ["/s", 2, "t", {"n": 2}],
        ["/s", 3, "u", {"n": 3}],
    ]
    # What waits in the mailbox is taken back.
    assert await do(
        world,
        "b",
        ("stream.append", "/s", "t", {"n": 4}),
        ("stream.unsubscribe", made[0]),
        ("stream.unsubscribe", made[0]),
        ("stream.append", "/new", "t", 8),
    ) == [4, True, False, 2]
    assert await heard(world, "b", 1) == [["/new", 2, "t", 8]]
    assert await world.ask("b", "crash") == "handler-crashed"
    await until(world, lambda: answers(world, "b"))
    await do(world, "b", ("stream.append", "/new", "t", 9), ("stream.subscribe", "/new", "followed", 3))
    await do(world, "a", ("stream.append", "/new", "t", 10))
    assert await heard(world, "b", 1) == [["/new", 4, "t", 10]]


@with_limits(stream_events_per_second_max=5, stream_pause_s=0.1)
async def test_a_stream_in_a_hurry_is_paused_and_resumed(world: World) -> None:
    await world.put("a")
    answers = await do(world, "a", *(("stream.append", "/s", "t", {"n": number}) for number in range(20)))
    limited = {"code": "rate-limited"}
    assert answers[:5] == [1, 2, 3, 4, 5]
    assert answers[-1] == limited
    refused = answers.count(limited)

    async def resumed() -> bool:
        last = (await one(world, "a", "stream.read", "/s"))[-1]
        return bool(last["event_type"] == "resumed")

    await until(world, resumed)
    events = await one(world, "a", "stream.read", "/s")
    assert [event["event_type"] for event in events[-2:]] == ["paused", "resumed"]
    assert events[-2]["payload"] == {"reason": "rate", "events_per_second_max": 5, "resumes_after_quiet_s": 0.1}
    assert events[-1]["payload"] == {"reason": "quiet", "refused": refused}
    assert await one(world, "a", "stream.append", "/s", "t") == events[-1]["offset"] + 1


# -- limits ------------------------------------------------------------------------------------------------


@with_limits(**SMALL)
async def test_limits(world: World) -> None:
    await world.put("a")

    async def last(*calls: Call) -> Any:
        return (await do(world, "a", *calls))[-1]

    assert await last(("kv_put", "k", "x" * 998)) is None
    assert await last(("kv_put", "k", "x" * 999)) == limited("value_bytes_max")
    assert await last(*(("kv_put", f"{number}", 1) for number in range(4))) is None
    assert await last(("kv_put", "one more", 1)) == limited("keys_per_tenant_max")
    assert await last(("kv_put", "0", 2)) is None
    assert await last(("ts.write", ["x" * 96])) == "tuple-1"
    assert await last(("ts.write", ["x" * 97])) == limited("tuple_bytes_max")
    assert await last(*(("ts.write", ["t", number]) for number in range(19))) == "tuple-20"
    assert await last(("ts.write", ["t", 19])) == limited("tuples_per_tenant_max")
    # A given field singles them out, or they are looked at one by one.
    assert await last(("ts.count", ["t", None])) == 19
    assert await last(("ts.read", ["t", {"$pred": [">=", 3]}])) == ["t", 3]
    assert await last(("ts.read", ["t", {"$pred": [">=", 4]}])) == limited("tuples_examined_max")
    assert await last(("ts.read", ["t", 18])) == ["t", 18]
    await last(("ts.take_all", [None]), ("ts.take_all", [None, None]))
    assert await last(*[("ts.subscribe", [None, None, None], "matched")] * 2) != limited(
        "tuple_subscriptions_per_actor_max"
    )
    assert await last(("ts.subscribe", [None], "matched")) == limited("tuple_subscriptions_per_actor_max")
    # Two subscriptions that nobody hears while this message goes on: a few, and no more.
    written = await do(world, "a", *[("ts.write", [1, 2, 3])] * 6)
    assert written[-1] == {"code": "mailbox-full"}
    assert await last(*[("channel.send", "", "q", "t")] * 4) != limited("channel_messages_max")
    assert await last(("channel.send", "", "q", "t")) == limited("channel_messages_max")
    assert await last(("channel.receive", "", "q"), ("channel.send", "", "q", "t")) == limited("channel_messages_max")
    # The oldest of three ids is forgotten.
    ids = [await last(("channel.send", "", "d", "t", {}, Named(dedup_id=name))) for name in ("x", "y", "z")]
    assert await last(("channel.send", "", "d", "t", {}, Named(dedup_id="y"))) == ids[1]
    assert await last(("channel.send", "", "d", "t", {}, Named(dedup_id="x"))) not in ids
    assert await last(*[("channel.subscribe", "", "no", "work")] * 2) != limited("channel_subscriptions_per_actor_max")
    assert await last(("channel.subscribe", "", "no", "work")) == limited("channel_subscriptions_per_actor_max")
    assert (await last(*(("blob_put", name, "x") for name in "abc")))["name"] == "c"
    assert await last(("blob_put", "d", "x")) == limited("blobs_per_tenant_max")
    assert (await last(("blob_put", "c", "y")))["size_bytes"] == 1
    assert await last(*(("stream.append", f"/{name}", "t") for name in "abc")) == 1
    assert await last(("stream.append", "/d", "t")) == limited("streams_per_tenant_max")
    assert await last(*(("stream.append", "/a", "t", {"n": number}) for number in range(2, 11))) == 10
    assert [event["offset"] for event in await last(("stream.read", "/a"))] == list(range(3, 11))
    appended = await do(world, "a", *(("stream.append", "/b", "t", {}, key) for key in ("x", "y", "z", "y", "x")))
    assert appended == [2, 3, 4, 3, 5]
    assert await last(*[("stream.subscribe", "/a", "followed", 10)] * 2) != limited(
        "stream_subscriptions_per_actor_max"
    )
    assert await last(("stream.subscribe", "/a", "followed")) == limited("stream_subscriptions_per_actor_max")


@with_limits(stored_bytes_per_tenant_max=2_000, blob_bytes_max=300)
async def test_bytes_are_counted_over_all_stores(world: World) -> None:
    await world.put("a")
    quota = limited("stored_bytes_per_tenant_max")
    assert (await do(world, "a", ("blob_put", "b", "x" * 301)))[0] == limited("blob_bytes_max")
    assert await do(
        world,
        "a",
        ("kv_put", "k", "x" * 1_598),
        ("ts.write", ["x" * 300]),
        ("channel.send", "", "q", "t", {"text": "x" * 300}),
        ("blob_put", "b", "x" * 200),
        ("stream.append", "/s", "t", {"text": "x" * 100}),
        ("kv_put", "other", "x" * 300),
    ) == [None, quota, quota, quota, quota, quota]
    assert (await do(world, "a", ("kv_delete", "k"), ("ts.write", ["x" * 300])))[1] == "tuple-1"


# -- sharing -----------------------------------------------------------------------------------------------


async def test_a_type_may_share_its_keys(world: World) -> None:
    await world.put("own")
    await world.put("shared", shared_keys=True)
    for name in ("own", "shared"):
        assert await one(world, name, "spawn", name, "2") == f"{name}/2"
        await one(world, name, "kv_put", "k", name)
    assert await one(world, "shared/2", "kv_get", "k") == "shared"
    assert await one(world, "own/2", "kv_get", "k") is None


@pytest.mark.guest
async def test_no_tenant_sees_anothers(tmp_path: Path, guest: Callable[[str], Path]) -> None:
    async with running(tmp_path) as bed:
        real = Real(bed, guest("stores"))
        other = Scope("other", SCOPE.namespace)
        await real.put("a")
        theirs = await bed.deploy("a", guest("stores"), scope=other)
        sent, lease = await do(
            real, "a", ("channel.send", "", "q", "t", {}, Named(dedup_id="d")), ("lock_acquire", "l", 60_000)
        )
        await do(
            real,
            "a",
            ("kv_put", "k", 1),
            ("ts.write", [1]),
            ("blob_put", "b", "x"),
            ("stream.append", "/s", "e", {}, "key"),
            ("channel.send", "", "r", "t"),
        )
        (mine,) = await do(real, "a", ("channel.receive", "", "r"))
        calls = [
            ("kv_get", ["k"]),
            ("kv_list", []),
            ("kv_cas", ["k", 1, 2]),
            ("kv_delete", ["k"]),
            ("kv_increment", ["k"]),
            ("ts.read", [[None]]),
            ("ts.take", [[None], 20]),
            ("ts.read_all", [[None]]),
            ("ts.take_all", [[None]]),
            ("ts.count", [[None]]),
            ("channel.depth", ["", "q"]),
            ("channel.receive", ["", "q", 20]),
            ("channel.ack", ["", "r", mine[0]["id"]]),
            ("channel.nack", ["", "r", mine[0]["id"]]),
            ("channel.extend", ["", "r", mine[0]["id"], 1]),
            ("lock_renew", ["l", lease["lock_id"], 1_000]),
            ("lock_release", ["l", lease["lock_id"]]),
            ("blob_get", ["b"]),
            ("blob_list", []),
            ("blob_delete", ["b"]),
            ("stream.read", ["/s"]),
            ("stream.append", ["/s", "f", {}, "key"]),
        ]
        answers = await bed.ask(theirs, "several", calls=[[name, given, {}] for name, given in calls])
        assert answers == [
            None, [], False, False, 1, None, None, [], [], 0, 0, NOTHING, ABSENT, ABSENT, ABSENT, CONFLICT, False,
            None, [], False, [], 1,
        ]  # fmt: skip
        # Their own of the same name, and their subscriptions, which hear nothing of this tenant's.
        calls = [
            ("lock_acquire", ["l", 1_000]),
            ("channel.send", ["", "q", "t", {}]),
            ("ts.subscribe", [[None], "matched"]),
            ("stream.subscribe", ["/s", "followed", 1]),
            ("channel.subscribe", ["", "r", "work"]),
        ]
        answers = await bed.ask(theirs, "several", calls=[[name, given, {}] for name, given in calls])
        assert answers[0]["fencing_token"] == 1
        assert answers[1] != sent
        await do(
            real, "a", ("ts.write", [2]), ("stream.append", "/s", "e"), ("channel.nack", "", "r", mine[0]["id"]),
            ("kv_get", "k"),
        )  # fmt: skip
        await bed.ask(theirs, "several", calls=[["ts.write", [["mark"]], {}]])
        assert await heard(Theirs(bed, theirs), "a", 1) == [["mark"]]
        after = await do(
            real, "a", ("kv_get", "k"), ("ts.count", [None]), ("channel.depth", "", "q"), ("channel.depth", "", "r"),
            ("blob_get", "b"), ("lock_release", lease),
        )  # fmt: skip
        assert after == [1, 2, 1, 1, {"base64": "eA=="}, True]
        assert seen(await one(real, "a", "stream.read", "/s")) == [[1, "e", {}], [2, "e", {}]]


class Theirs(Real):
    """The same node, for another tenant's actor."""

    def __init__(self, bed: TestBed, address: Address) -> None:
        super().__init__(bed, Path())
        self.address = address

    async def ask(self, name: str, op: str, **arguments: Any) -> Any:
        return await self.bed.ask(self.address, op, **arguments)
