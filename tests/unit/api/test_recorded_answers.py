"""`Idempotency-Key` across a restart of the node, on a real database."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest

from plexspaces_runtime.api.faults import IdempotencyKeyReused, ReplyNotKept, Response
from plexspaces_runtime.api.idempotency import Idempotency, IdempotencyId
from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.errors import Unavailable
from plexspaces_runtime.scope import Address, Scope
from plexspaces_runtime.stores.replies import MemoryReplies, ReplyRow, SqliteReplies
from tests.contract.stores.backends import sqlite
from tests.unit.api.kept_stores import durable_stores
from tests.unit.api.memory_node import assert_problem, serving

ID = IdempotencyId("acme", "default", "ada", "6f2c")
ASK = "/api/v1/actors/default/default/counter?wait=9"
TELL = "/api/v1/actors/default/default/counter"
KEY = {"idempotency-key": "6f2c"}
WASM = b"\0asm\x0d\0\x01\0" + b"w" * 1000


def made(table: MemoryReplies | SqliteReplies, clock: ManualClock, **options: float) -> Idempotency:
    limits = {"entries_max": 3, "bytes_max": 100_000, "reply_bytes_max": 1_000, "retention_s": 60.0, **options}
    return Idempotency(clock, table, **limits)  # type: ignore[arg-type]


async def done(idempotency: Idempotency, key: str, answer: Response, fingerprint: bytes = b"f") -> None:
    claim = await idempotency.claim(ID._replace(key=key), fingerprint)
    assert not isinstance(claim, Response)
    claim.keep(answer)


async def recorded(idempotency: Idempotency, key: str) -> Response | None:
    found = await idempotency.claim(ID._replace(key=key), b"f")
    return found if isinstance(found, Response) else None


async def test_answers_keys_and_retention_survive(tmp_path: Path) -> None:
    clock = ManualClock()
    answer = Response(201, [(b"location", b"/caf\xe9")], b"\x00\xff{}")
    async with sqlite(tmp_path) as backend:
        assert backend.database is not None
        first = made(SqliteReplies(backend.database), clock)
        await done(first, "a", answer)
        await done(first, "large", Response(200, [], b"x" * 1_001))
        pending = await first.claim(ID._replace(key="pending"), b"f")
        assert not isinstance(pending, Response)
    clock.advance(59)
    async with sqlite(tmp_path) as backend:
        assert backend.database is not None
        second = made(SqliteReplies(backend.database), clock)
        assert await recorded(second, "a") == answer
        with pytest.raises(IdempotencyKeyReused):
            await second.claim(ID._replace(key="a"), b"other")
        with pytest.raises(ReplyNotKept):
            await second.claim(ID._replace(key="large"), b"f")
        assert await recorded(second, "pending") is None, "what was under way is free again"
        clock.advance(2)
        assert await recorded(second, "a") is None, "its time is over"
        await backend.flush()
        assert backend.database.read("SELECT count(*) FROM replies") == [(0,)]


async def test_the_oldest_make_room_on_disk_too(tmp_path: Path) -> None:
    clock = ManualClock()
    async with sqlite(tmp_path) as backend:
        assert backend.database is not None
        first = made(SqliteReplies(backend.database), clock)
        for number in range(5):
            await done(first, str(number), Response(200, []))
        await backend.flush()
        rows = list(SqliteReplies(backend.database).rows())
        assert [row.key[3] for row in rows] == ["2", "3", "4"]
        fewer = made(SqliteReplies(backend.database), clock, entries_max=1)
        assert await recorded(fewer, "4") is not None
        assert await recorded(fewer, "3") is None


async def test_an_answer_that_the_disk_refuses_is_not_given_before_it_is_recorded() -> None:
    class Refusing(MemoryReplies):
        def __init__(self) -> None:
            self.refusing = True
            self.rows_put: list[str] = []

        def put(self, row: ReplyRow, forgotten: object) -> None:
            if self.refusing:
                raise Unavailable("disk")
            self.rows_put.append(row.key[3])

    table = Refusing()
    idempotency = made(table, ManualClock())
    await done(idempotency, "a", Response(200, []))
    await done(idempotency, "b", Response(200, []))
    with pytest.raises(Unavailable, match="could not be recorded"):
        await idempotency.settle()
    table.refusing = False
    await idempotency.settle()
    assert table.rows_put == ["a", "b"]


class Full(sqlite3.Connection):
    """A disk without room, for as long as `full` says."""

    full = False

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql == "COMMIT" and Full.full:
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, parameters)


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Full)


async def test_no_answer_goes_out_that_a_crash_would_take_back(tmp_path: Path) -> None:
    async with durable_stores(tmp_path, open_writer=connect) as stores, serving(stores=stores) as served:
        Full.full = True
        try:
            for _ in range(2):
                # The repetition is answered by what memory has, and that is not on disk either.
                refused = await served.http.post(TELL, json={"op": "increment"}, headers=KEY)
                assert_problem(refused, 503, "unavailable")
        finally:
            Full.full = False
        while not (answer := await served.http.post(TELL, json={"op": "increment"}, headers=KEY)).is_success:
            assert_problem(answer, 503, "unavailable")
        assert answer.headers["idempotency-replayed"] == "true"
        assert len(served.node.messages) == 1


async def test_ask_tell_and_deploy_are_answered_again_by_the_next_life(tmp_path: Path) -> None:
    async def requests(http: httpx.AsyncClient) -> list[httpx.Response]:
        return [
            await http.post(ASK, json={"op": "increment"}, headers={"idempotency-key": "ask"}),
            await http.post(TELL, json={"op": "increment"}, headers={"idempotency-key": "tell"}),
            await http.post(
                "/api/v1/deploy",
                data={"namespace": "default", "actor_type": "counter2"},
                files={"wasm": ("counter.wasm", WASM)},
                headers={"idempotency-key": "deploy"},
            ),
        ]

    async with durable_stores(tmp_path) as stores, serving(stores=stores) as served:
        first = await requests(served.http)
    assert [each.status_code for each in first] == [200, 202, 201]
    async with durable_stores(tmp_path) as stores, serving(stores=stores) as served:
        second = await requests(served.http)
        assert served.node.messages == []
        assert served.node.uploads == [], "nothing was deployed"
    for before, after in zip(first, second, strict=True):
        assert (after.status_code, after.content) == (before.status_code, before.content)
        assert after.headers["idempotency-replayed"] == "true"
    assert second[2].headers["location"] == first[2].headers["location"]


async def test_a_deployment_with_a_key_is_one_request() -> None:
    async with serving() as served:

        async def deploy(wasm: bytes, type_: str = "counter2") -> httpx.Response:
            form = {"namespace": "default", "actor_type": type_}
            return await served.http.post("/api/v1/deploy", data=form, files={"wasm": ("c", wasm)}, headers=KEY)

        refused = await deploy(b"no component")
        assert refused.status_code == 422
        assert (await deploy(WASM)).json()["version"] == 1, "one that failed has changed nothing: the key is free"
        assert (await deploy(WASM)).json()["version"] == 1
        assert_problem(await deploy(WASM + b"w"), 422, "idempotency-key-reused")
        assert_problem(await deploy(WASM, "counter3"), 422, "idempotency-key-reused")


async def test_the_same_key_makes_the_same_message_in_every_life() -> None:
    ids = []
    for _ in range(2):
        async with serving() as served:
            served.node.spawn(Address(Scope("default", "default"), "counter", "two"))
            await served.http.post(ASK, json={"op": "increment"}, headers=KEY)
            await served.http.post(ASK, json={"op": "increment"}, headers={"idempotency-key": "other"})
            other = TELL.replace("counter", "counter/two") + "?wait=9"
            for key in ("third", "fourth"):
                await served.http.post(other, json={"op": "increment"}, headers={"idempotency-key": key})
            ids.append([message_id for _, _, message_id, _ in served.node.messages])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == len(ids[0]) == 4


async def test_a_request_that_the_end_of_the_node_cuts_off_is_free_again(tmp_path: Path) -> None:
    async with durable_stores(tmp_path) as stores, serving(stores=stores) as served:
        under_way = asyncio.create_task(served.http.post(ASK, json={"op": "wait"}, headers=KEY))
        await served.node.entered.wait()
        await served.server.stop(0.0)
        await asyncio.wait([under_way])
    async with durable_stores(tmp_path) as stores, serving(stores=stores) as served:
        served.node.gate.set()
        again = await served.http.post(ASK, json={"op": "wait"}, headers=KEY)
        assert again.json() == {"count": 1}
        assert "idempotency-replayed" not in again.headers
