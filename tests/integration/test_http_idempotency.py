"""`Idempotency-Key`: a repeated request does nothing twice and gets the first one's answer."""

from __future__ import annotations

import asyncio

import pytest

from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.clock import ManualClock
from tests.unit.api.memory_node import MemoryNode, assert_problem, serving

COUNTER = "/api/v1/actors/default/default/counter"
ASK = COUNTER + "?wait=9"
KEY = {"idempotency-key": '"6f2c"'}


async def test_a_repetition_gets_the_same_answer() -> None:
    async with serving() as served:
        first = await served.http.post(ASK, json={"op": "increment"}, headers=KEY)
        again = await served.http.post(
            COUNTER + "?wait=3", json={"op": "increment"}, headers={"idempotency-key": "6f2c"}
        )
        assert first.json() == again.json() == {"count": 1}
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        other = await served.http.post(ASK, json={"op": "increment"}, headers={"idempotency-key": "other"})
        assert other.json() == {"count": 2}


async def test_a_tell_is_repeated_with_the_same_message_id() -> None:
    async with serving() as served:
        answers = [await served.http.post(COUNTER, json={"op": "increment"}, headers=KEY) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202]
        assert answers[0].json() == answers[1].json()
        assert len(served.node.messages) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [(ASK, {"op": "get"}), (COUNTER, {"op": "increment"}), (COUNTER + "/key?wait=9", {"op": "increment"})],
)
async def test_the_same_key_with_another_request(path: str, body: dict[str, str]) -> None:
    async with serving() as served:
        await served.http.post(ASK, json={"op": "increment"}, headers=KEY)
        response = await served.http.post(path, json=body, headers=KEY)
        assert_problem(response, 422, "idempotency-key-reused")
        assert len(served.node.messages) == 1


async def test_a_key_belongs_to_its_caller() -> None:
    async with serving() as served:
        token = served.authority.mint("default", "bob", [], 60)
        bob = {**KEY, "authorization": f"Bearer {token}"}
        assert (await served.http.post(ASK, json={"op": "increment"}, headers=KEY)).json() == {"count": 1}
        assert (await served.http.post(ASK, json={"op": "increment"}, headers=bob)).json() == {"count": 2}


async def test_a_repetition_while_the_first_is_under_way_joins_it() -> None:
    async with serving() as served:
        first = asyncio.create_task(served.http.post(ASK, json={"op": "wait"}, headers=KEY))
        await served.node.entered.wait()
        impatient = await served.http.post(COUNTER + "?wait=0.05", json={"op": "wait"}, headers=KEY)
        assert_problem(impatient, 504, "deadline-exceeded")
        joined = asyncio.create_task(served.http.post(ASK, json={"op": "wait"}, headers=KEY))
        refused = await served.http.post(ASK, json={"op": "get"}, headers=KEY)
        assert_problem(refused, 422, "idempotency-key-reused")
        served.node.gate.set()
        assert (await first).json() == (await joined).json() == {"count": 1}
        assert len(served.node.messages) == 1


async def test_the_answer_outlives_the_connection_that_asked() -> None:
    async with serving() as served:
        body = b'{"op":"wait"}'
        head = served.head(f"POST {ASK} HTTP/1.1", 'idempotency-key: "6f2c"', f"content-length: {len(body)}")
        _, writer = await served.connect()
        writer.write(head + body)
        await served.node.entered.wait()
        writer.transport.abort()
        served.node.gate.set()
        exact = await served.http.post(ASK, content=body, headers={**KEY, "content-type": "application/json"})
        assert exact.json() == {"count": 1}
        assert len(served.node.messages) == 1


async def test_what_was_never_done_may_be_tried_again() -> None:
    async with serving() as served:
        for _ in range(2):
            response = await served.http.post(ASK, json={"op": "full"}, headers=KEY)
            assert_problem(response, 429, "mailbox-full")
            assert "idempotency-replayed" not in response.headers
        assert len(served.node.messages) == 2


@pytest.mark.parametrize("op", ["crash", "bug", "unheard-of"])
async def test_what_may_have_been_done_is_not_done_again(op: str) -> None:
    async with serving() as served:
        first = await served.http.post(ASK, json={"op": op}, headers=KEY)
        again = await served.http.post(ASK, json={"op": op}, headers=KEY)
        assert (first.status_code, first.json()) == (again.status_code, again.json())
        assert len(served.node.messages) == 1


async def test_an_answer_is_kept_for_its_time() -> None:
    clock = ManualClock()
    config = HttpConfig(port=0, idempotency_retention_s=60)
    async with serving(MemoryNode(clock=clock), config) as served:
        assert (await served.http.post(ASK, json={"op": "increment"}, headers=KEY)).json() == {"count": 1}
        clock.advance(59)
        assert (await served.http.post(ASK, json={"op": "increment"}, headers=KEY)).json() == {"count": 1}
        clock.advance(1)
        assert (await served.http.post(ASK, json={"op": "increment"}, headers=KEY)).json() == {"count": 2}


async def test_the_memory_of_answers_has_a_size() -> None:
    async with serving(config=HttpConfig(port=0, idempotency_entries_max=2)) as served:
        for key in ("a", "b", "c"):
            await served.http.post(ASK, json={"op": "increment"}, headers={"idempotency-key": key})
        kept = await served.http.post(ASK, json={"op": "increment"}, headers={"idempotency-key": "b"})
        assert kept.json() == {"count": 2}
        forgotten = await served.http.post(ASK, json={"op": "increment"}, headers={"idempotency-key": "a"})
        assert forgotten.json() == {"count": 4}


@pytest.mark.parametrize(("size", "status"), [(998, 200), (999, 409)])
async def test_a_reply_too_large_to_keep(size: int, status: int) -> None:
    async with serving(config=HttpConfig(port=0, idempotency_reply_bytes_max=1000)) as served:
        first = await served.http.post(ASK, json={"op": "big", "size": size}, headers=KEY)
        assert first.status_code == 200
        again = await served.http.post(ASK, json={"op": "big", "size": size}, headers=KEY)
        assert again.status_code == status
        assert len(served.node.messages) == 1
        if status == 409:
            assert_problem(again, 409, "reply-not-kept")


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "a b", '"a', "\u00e9"])
async def test_a_key_that_is_none(key: str) -> None:
    async with serving() as served:
        response = await served.http.post(
            ASK, json={"op": "increment"}, headers=[(b"idempotency-key", key.encode("latin-1"))]
        )
        assert_problem(response, 400, "invalid-argument")
        assert served.node.messages == []
