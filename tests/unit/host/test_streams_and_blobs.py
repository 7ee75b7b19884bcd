"""Event streams and blobs as a guest meets them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from plexspaces_runtime.actors.envelope import Envelope
from plexspaces_runtime.actors.facets import Facet, Facets
from plexspaces_runtime.actors.guest import Ok
from plexspaces_runtime.errors import PermissionDenied, RateLimited
from plexspaces_runtime.events import MessageRefused
from plexspaces_runtime.scope import Scope
from tests.unit.api.kept_stores import KeptStores, make_stores
from tests.unit.scripted import SCOPE, Bench, call, returns


async def bench_with_stores(**limits: Any) -> tuple[Bench, KeptStores]:
    bench = Bench(stream_events_per_second_max=10_000, **limits)
    stores = make_stores(bench.limits)
    bench.host.streams, bench.host.blobs = stores.streams, stores.blobs
    await bench.puppet("a")
    return bench, stores


def append(payload: str = "{}", path: str = "/s", kind: str = "note", key: str = "") -> Any:
    return call("streams", "append", path, kind, payload, key)


def subscribe(after: int = 0, path: str = "/s", op: str = "on_event") -> Any:
    return call("streams", "subscribe", path, after, op)


def offsets(bench: Bench, name: str = "a") -> list[int]:
    return [content["offset"] for _, content in bench.heard(name)]


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not happened():
            await asyncio.sleep(0)


async def rounds(bench: Bench) -> None:
    """Let the loop turn until nothing moves any more."""
    for _ in range(50):
        await asyncio.sleep(0)
        await bench.settle()


# -- streams -------------------------------------------------------------------------------------------------


async def test_append_and_read() -> None:
    bench, stores = await bench_with_stores()
    assert await bench.do("a", append('{"n": 1}', key="k"), append('{"n": 2}', key="k"), append("{")) == Ok(2)
    events = (await bench.do("a", call("streams", "read", "/s", 0, 0))).value
    assert [(offset, kind) for offset, kind, _, _ in events] == [(1, "note"), (2, "error")]
    assert (events[0][2], events[0][3]) == ('{"n": 1}', stores.streams.read(SCOPE, "/s")[0].time_ms)
    assert await bench.do("a", call("streams", "read", "/s", 1, 1)) == Ok(events[1:])
    assert (await bench.do("a", append(path="s"))).value[0] == "invalid-argument"
    assert (await bench.do("a", call("streams", "read", "/s", 0, 1_001))).value[0] == "invalid-argument"


async def test_a_node_without_stores_says_so() -> None:
    bench = Bench()
    await bench.puppet("a")
    assert (await bench.do("a", append())).value[0] == "unavailable"
    assert (await bench.do("a", call("blobs", "stat", "x"))).value[0] == "unavailable"


async def test_a_subscriber_hears_what_was_and_what_comes_in_order() -> None:
    bench, stores = await bench_with_stores()
    for n in range(40):
        stores.streams.append(SCOPE, "/s", "note", f'{{"n": {n}}}')
    await bench.do("a", subscribe(after=2))
    await rounds(bench)
    await until(lambda: len(bench.puppets["a"].heard) == 38)
    stores.streams.append(SCOPE, "/s", "note", "123456789012345678901234567890")
    stores.streams.append(SCOPE, "/other", "note", "{}")
    stores.streams.append(Scope("evil", "default"), "/s", "note", "{}")
    await until(lambda: len(bench.puppets["a"].heard) == 39)
    await rounds(bench)
    heard = bench.heard("a")
    assert [content["offset"] for _, content in heard] == list(range(3, 42))
    # The guest decides what it makes of a number; it gets the text as it was appended.
    assert '"payload":123456789012345678901234567890,' in bench.puppets["a"].envelopes[-1][3]
    assert heard[-1] == (
        "on_event",
        {
            "path": "/s",
            "offset": 41,
            "event_type": "note",
            "payload": 1.2345678901234568e29,
            "time_ms": stores.streams.read(SCOPE, "/s", 40)[0].time_ms,
        },
    )


async def test_at_most_one_message_waits_in_the_mailbox() -> None:
    bench, stores = await bench_with_stores()
    await bench.do("a", subscribe())
    asleep = bench.begin("a", call("clock", "sleep-ns", 20_000_000))
    await bench.settle()
    for _ in range(50):
        stores.streams.append(SCOPE, "/s", "note", "{}")
    await rounds(bench)
    assert len(bench.actors["a"].mailbox) == 1
    await asleep
    await until(lambda: len(bench.puppets["a"].heard) == 50)
    assert offsets(bench) == list(range(1, 51))


async def test_a_full_mailbox_is_waited_for() -> None:
    bench, stores = await bench_with_stores(mailbox_messages_max=1)
    await bench.do("a", subscribe())
    asleep = bench.begin("a", call("clock", "sleep-ns", 5_000_000))
    await bench.settle()
    assert bench.cast(bench.actors["a"], "cast")
    stores.streams.append(SCOPE, "/s", "note", "{}")
    await rounds(bench)
    await asleep
    await until(lambda: len(bench.puppets["a"].heard) == 2)
    assert [op for op, _ in bench.heard("a")] == ["cast", "on_event"]


async def test_a_subscription_ends_with_a_word_or_with_its_actor() -> None:
    bench, stores = await bench_with_stores()
    dead = bench.actors["a"]
    subscription = (await bench.do("a", subscribe())).value
    other = (await bench.do("a", subscribe(path="/t"))).value
    assert await bench.do("a", call("streams", "unsubscribe", subscription)) == Ok(True)
    assert await bench.do("a", call("streams", "unsubscribe", subscription)) == Ok(False)
    stores.streams.append(SCOPE, "/s", "note", "{}")
    stores.streams.append(SCOPE, "/t", "note", "{}")
    await until(lambda: bool(bench.puppets["a"].heard))
    assert [content["path"] for _, content in bench.heard("a")] == ["/t"]
    await bench.kill("a")
    stores.streams.append(SCOPE, "/t", "note", "{}")
    await bench.restart("a", dead)
    await rounds(bench)
    assert bench.heard("a") == []
    assert await bench.do("a", call("streams", "unsubscribe", other)) == Ok(False)
    assert not stores.streams._on_append


async def test_a_message_that_waits_is_taken_back() -> None:
    bench, stores = await bench_with_stores()
    subscription = (await bench.do("a", subscribe())).value
    asleep = bench.begin("a", call("clock", "sleep-ns", 5_000_000), call("streams", "unsubscribe", subscription))
    await bench.settle()
    stores.streams.append(SCOPE, "/s", "note", "{}")
    await rounds(bench)
    assert len(bench.actors["a"].mailbox) == 1
    await asleep
    await rounds(bench)
    assert bench.heard("a") == []


async def test_nobody_ends_a_subscription_of_another() -> None:
    bench, _ = await bench_with_stores()
    await bench.puppet("b")
    subscription = (await bench.do("a", subscribe())).value
    assert await bench.do("b", call("streams", "unsubscribe", subscription)) == Ok(False)
    assert await bench.do("a", call("streams", "unsubscribe", subscription)) == Ok(True)


async def test_an_actor_has_so_many_subscriptions() -> None:
    bench, _ = await bench_with_stores(stream_subscriptions_per_actor_max=1)
    first = (await bench.do("a", subscribe())).value
    assert (await bench.do("a", subscribe())).value[0] == "limit-exceeded"
    await bench.do("a", call("streams", "unsubscribe", first))
    assert isinstance(await bench.do("a", subscribe()), Ok)
    await bench.puppet("fresh")
    for request in (subscribe(path="s"), subscribe(op=""), subscribe(op="x" * 257)):
        assert (await bench.do("fresh", request)).value[0] == "invalid-argument"


async def test_an_event_that_a_facet_refuses_for_good_does_not_hold_up_the_next() -> None:
    bench, stores = await bench_with_stores()

    class Picky(Facet):
        refuses: list[Exception] = [PermissionDenied("no"), RateLimited("not now")]  # noqa: RUF012

        def admit(self, envelope: Envelope) -> None:
            if envelope.op == "on_event" and self.refuses:
                raise self.refuses.pop(0)

    actor = await bench.start("picky", facets=Facets((Picky(),)), handle=returns())
    bench.host.subscriptions.add(stores.streams, actor, "/s", 0, "on_event")
    for _ in range(3):
        stores.streams.append(SCOPE, "/s", "note", "{}")
    async with asyncio.timeout(5):
        while actor.handled < 2:
            await asyncio.sleep(0.01)
    assert [event.code for event in bench.seen if isinstance(event, MessageRefused)] == ["permission-denied"]


# -- blobs ---------------------------------------------------------------------------------------------------


def put(name: str, data: bytes, content_type: str = "") -> Any:
    return call("blobs", "put", name, base64.b64encode(data).decode(), content_type)


async def test_put_get_stat_list_delete() -> None:
    bench, _ = await bench_with_stores()
    data = bytes(range(256)) * 4
    info = (await bench.do("a", put("x/y", data, "image/png"))).value
    assert info[:4] == ("x/y", 1024, "image/png", hashlib.sha256(data).hexdigest())
    assert base64.b64decode((await bench.do("a", call("blobs", "get", "x/y"))).value) == data
    for offset, length in ((0, 10), (1020, 10), (5000, 10), (2**64 - 1, 1)):
        got = await bench.do("a", call("blobs", "get-range", "x/y", offset, length))
        assert base64.b64decode(got.value) == data[offset : offset + length]
    assert await bench.do("a", call("blobs", "stat", "x/y")) == Ok(info)
    assert await bench.do("a", call("blobs", "list-blobs", "x", "", 0)) == Ok([info])
    assert await bench.do("a", call("blobs", "list-blobs", "", "x/y", 0)) == Ok([])
    assert await bench.do("a", call("blobs", "delete", "x/y")) == Ok(True)
    for request in (call("blobs", "get", "x/y"), call("blobs", "get-range", "x/y", 0, 1), call("blobs", "stat", "x/y")):
        assert await bench.do("a", request) == Ok(None)


@pytest.mark.parametrize(("size", "fits"), [(2**20, True), (2**20 + 1, False)])
async def test_what_crosses_the_boundary_at_once(size: int, fits: bool) -> None:
    bench, stores = await bench_with_stores()
    assert isinstance(await bench.do("a", put("x", b"x" * size)), Ok) == fits
    upload = stores.blobs.begin(SCOPE, "y")
    upload.write(b"x" * size)
    upload.seal()
    stores.blobs.finish(upload)
    assert isinstance(await bench.do("a", call("blobs", "get", "y")), Ok) == fits
    assert isinstance(await bench.do("a", call("blobs", "get-range", "y", 0, size)), Ok) == fits


async def test_what_is_no_base64_or_no_name() -> None:
    bench, stores = await bench_with_stores()
    for request in (call("blobs", "put", "x", "@", ""), call("blobs", "put", "x", "ä", ""), put("../x", b"")):
        assert (await bench.do("a", request)).value[0] == "invalid-argument"
    assert stores.blobs.list_blobs(SCOPE) == []


async def test_an_actor_that_is_killed_meanwhile_has_put_nothing() -> None:
    bench, stores = await bench_with_stores()
    bench.begin("a", put("x", b"x" * 1000))
    await bench.settle()
    await bench.kill("a")
    # What came before it in the same pool of threads is done as well.
    await bench.puppet("b")
    assert isinstance(await bench.do("b", put("y", b"")), Ok)
    await until(lambda: stores.blobs.stat(SCOPE, "y") is not None)
    assert stores.blobs.stat(SCOPE, "x") is None
