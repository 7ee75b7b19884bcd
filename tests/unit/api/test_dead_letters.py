"""Dead letters over HTTP: list by pages, retry, drop."""

from __future__ import annotations

from pathlib import Path

import pytest

from plexspaces_runtime.config import Limits
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores.channels import Delivery

from .kept_stores import durable_stores, make_stores
from .memory_node import Served, assert_problem, serving

BASE = "/api/v1/dead-letters"
MINE = Scope("default", "default")


def bury(served: Served, payload: str = "{}", channel: str = "orders", scope: Scope = MINE) -> str:
    """A message that its consumer refuses for good; its id."""
    channels = served.stores.channels
    channels.send(scope, channel, "order", payload)
    delivery = channels.receive(scope, channel, "somebody")
    assert isinstance(delivery, Delivery)
    channels.nack(scope, channel, delivery.id, "somebody", requeue=False, why="no such customer")
    return delivery.id


async def ids(served: Served, query: str = "") -> list[str]:
    answer = await served.http.get(BASE + query)
    assert answer.status_code == 200, answer.text
    return [each["id"] for each in answer.json()["dead_letters"]]


async def test_a_dead_letter_says_what_it_was_and_why_it_died() -> None:
    async with serving() as served:
        assert (await served.http.get(BASE)).json() == {"dead_letters": []}
        id_ = bury(served, '{"number":12345678901234567890123,"price":1.0}')
        answer = await served.http.get(BASE)
        # Written as it was sent.
        assert '"payload":{"number":12345678901234567890123,"price":1.0}' in answer.text
        (letter,) = answer.json()["dead_letters"]
        assert letter.pop("dead_ms") >= letter.pop("enqueued_ms") > 1_600_000_000_000
        assert letter == {
            "id": id_,
            "kind": "channel",
            "source": "orders",
            "msg_type": "order",
            "payload": {"number": 12345678901234567890123, "price": 1.0},
            "deliveries": 1,
            "reason": "no such customer",
        }


async def test_pages() -> None:
    async with serving() as served:
        letters = [bury(served, channel=f"c{number % 2}") for number in range(5)]
        bury(served, scope=Scope("default", "other"))
        bury(served, scope=Scope("acme", "default"))
        page = (await served.http.get(f"{BASE}?limit=2")).json()
        assert ([each["id"] for each in page["dead_letters"]], page["next"]) == (letters[:2], letters[1])
        page = (await served.http.get(f"{BASE}?limit=3&after={page['next']}")).json()
        assert [each["id"] for each in page["dead_letters"]] == letters[2:]
        assert "next" not in page
        assert await ids(served, "?source=c1&kind=channel") == [letters[1], letters[3]]
        assert await ids(served, "?source=none") == []
        assert len(await ids(served, "?namespace=other")) == 1


async def test_a_page_of_large_payloads_ends_early() -> None:
    async with serving(stores=make_stores(Limits())) as served:
        letters = [bury(served, f'"{"x" * 1_000_000}"') for _ in range(7)]
        page = (await served.http.get(BASE)).json()
        assert ([each["id"] for each in page["dead_letters"]], page["next"]) == (letters[:5], letters[4])
        assert await ids(served, f"?after={page['next']}") == letters[5:]


@pytest.mark.parametrize(
    "query",
    ["?limit=0", "?limit=1001", "?limit=x", "?kind=actors", "?tenant=acme", "?namespace=..", "?after=1&after=2"],
)
async def test_what_makes_no_sense(query: str) -> None:
    async with serving() as served:
        assert_problem(await served.http.get(BASE + query), 400, "invalid-argument")


async def test_one_that_is_retried_is_delivered_as_if_for_the_first_time() -> None:
    async with serving() as served:
        first, second = bury(served, "1"), bury(served, "2")
        assert (await served.http.post(f"{BASE}/{first}/retry")).status_code == 204
        assert await ids(served) == [second]
        delivery = served.stores.channels.receive(MINE, "orders", "another")
        assert isinstance(delivery, Delivery)
        assert (delivery.id, delivery.payload, delivery.deliveries) == (first, "1", 1)
        assert_problem(await served.http.post(f"{BASE}/{first}/retry"), 404, "not-found")


async def test_one_that_is_dropped_is_gone() -> None:
    async with serving() as served:
        id_ = bury(served)
        answer = await served.http.delete(f"{BASE}/{id_}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert await ids(served) == []
        assert_problem(await served.http.delete(f"{BASE}/{id_}"), 404, "not-found")
        assert_problem(await served.http.post(f"{BASE}/{id_}/retry"), 404, "not-found")


@pytest.mark.parametrize("id_", ["message-999", "message-", "nonsense", "..", "message-1%2Fretry"])
async def test_one_that_is_not_there(id_: str) -> None:
    async with serving() as served:
        bury(served)
        assert_problem(await served.http.delete(f"{BASE}/{id_}"), 404, "not-found")
        assert len(await ids(served)) == 1


async def test_a_message_that_lives_is_none() -> None:
    async with serving() as served:
        id_ = served.stores.channels.send(MINE, "orders", "order", "{}")
        assert_problem(await served.http.delete(f"{BASE}/{id_}"), 404, "not-found")
        assert served.stores.channels.depth(MINE, "orders") == 1


async def test_a_full_channel_takes_none_back() -> None:
    async with serving(stores=make_stores(Limits(channel_messages_max=1))) as served:
        id_ = bury(served)
        served.stores.channels.send(MINE, "orders", "order", "{}")
        assert_problem(await served.http.post(f"{BASE}/{id_}/retry"), 429, "limit-exceeded")
        assert await ids(served) == [id_]


async def test_what_is_answered_is_on_disk(tmp_path: Path) -> None:
    async with durable_stores(tmp_path) as stores, serving(stores=stores) as served:
        kept, retried, dropped = (bury(served, str(number)) for number in range(3))
        await served.http.post(f"{BASE}/{retried}/retry")
        assert stores.database is not None
        assert stores.database.stream.durable == stores.database.stream.enqueued
        await served.http.delete(f"{BASE}/{dropped}")
        assert stores.database.stream.durable == stores.database.stream.enqueued
    async with durable_stores(tmp_path) as stores, serving(stores=stores) as served:
        assert await ids(served) == [kept]
        assert stores.channels.depth(MINE, "orders") == 1
