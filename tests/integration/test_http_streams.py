"""Event streams over HTTP: append, read, follow, pause, schedule; with a real database where durability matters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.config import Limits
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores.database import connect
from tests.unit.api.kept_stores import durable_stores, make_stores
from tests.unit.api.memory_node import MemoryNode, Served, assert_problem, serving

ABC = "/api/v1/streams/sessions/abc"
MINE = Scope("default", "default")
NOTE = {"event_type": "note", "payload": {"text": "hello"}}

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture:DeprecationWarning")


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


class Live:
    """A live reader on a socket: blocks of lines, as they come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.head = ""
        self._rest = b""

    async def begin(self) -> None:
        self.head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        self.status = int(self.head.split(" ")[1])

    async def block(self) -> list[str] | None:
        """The next block; None at the end."""
        while b"\n\n" not in self._rest:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            self._rest += (await self._reader.readexactly(size + 2))[:-2]
            if size == 0:
                return None
        block, _, self._rest = self._rest.partition(b"\n\n")
        return block.decode().split("\n")

    async def event(self) -> dict[str, Any]:
        """The next event; heartbeats and hints are passed over."""
        while True:
            lines = await self.block()
            assert lines is not None
            fields = dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith(":"))
            if "data" in fields:
                data: dict[str, Any] = json.loads(fields["data"])
                assert (fields["id"], fields["event"]) == (str(data["offset"]), data["event_type"])
                return data

    def close(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def following(served: Served, query: str = "", path: str = ABC, *headers: str) -> AsyncIterator[Live]:
    reader, writer = await served.connect()
    lines = [f"GET {path}?live=true{query} HTTP/1.1", "host: localhost", f"authorization: Bearer {served.token}"]
    writer.write("\r\n".join([*lines, *headers, "", ""]).encode())
    live = Live(reader, writer)
    try:
        async with asyncio.timeout(20):
            await live.begin()
            yield live
    finally:
        live.close()


async def append(served: Served, n: int = 0, path: str = ABC, **headers: str) -> dict[str, Any]:
    answer = await served.http.post(path, json={"event_type": "note", "payload": {"n": n}}, headers=headers)
    assert answer.status_code in (200, 201), answer.text
    content: dict[str, Any] = answer.json()
    return content


# -- append and read ---------------------------------------------------------------------------------------


async def test_append_and_read() -> None:
    async with serving() as served:
        answer = await served.http.post(ABC, json=NOTE)
        assert (answer.status_code, answer.json()) == (201, {"offset": 1, "event_type": "note"})
        await append(served, 2)
        page = (await served.http.get(ABC)).json()
        assert [(event["offset"], event["payload"]) for event in page["events"]] == [
            (1, {"text": "hello"}),
            (2, {"n": 2}),
        ]
        assert (page["path"], page["first"], page["last"], page["next"]) == ("/sessions/abc", 1, 2, 2)
        assert (page["flow"], page["events"][0]["event_type"]) == ("flowing", "note")
        assert [e["offset"] for e in (await served.http.get(ABC + "?after=1")).json()["events"]] == [2]
        limited = (await served.http.get(ABC + "?limit=1")).json()
        assert ([e["offset"] for e in limited["events"]], limited["next"]) == ([1], 1)
        assert_problem(await served.http.get("/api/v1/streams/none"), 404, "not-found")


async def test_numbers_stay_what_they_were() -> None:
    async with serving() as served:
        body = '{"event_type":"n","payload":[123456789012345678901234567890, 1.0, 1e2, "\\u00e4\\ud83d\\ude00"]}'
        await served.http.post(ABC, content=body, headers={"content-type": "application/json"})
        text = (await served.http.get(ABC)).text
        assert '"payload":[123456789012345678901234567890,1.0,100.0,"ä😀"]' in text


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "not-json"),
        ("{", "not-json"),
        ("\xff", "not-json"),
        ("[" * 60_000, "not-json"),
        ("[]", "bad-shape"),
        ('{"payload": 1}', "bad-shape"),
        ('{"event_type": 1}', "bad-shape"),
        ('{"event_type": "a", "x": 1}', "bad-shape"),
        ('{"event_type": "a b"}', "bad-type"),
        ('{"event_type": "paused"}', "bad-type"),
        ('{"event_type": "a", "payload": 1e999}', "not-json"),
        ('{"event_type": "a", "payload": "\\ud800"}', "not-json"),
        (json.dumps({"event_type": "a", "payload": "x" * 1024}), "too-large"),
        ("x" * 200_000, "too-large"),
    ],
)
async def test_what_is_no_event_is_seen_by_whoever_reads(body: str, reason: str) -> None:
    stores = make_stores(Limits(stream_event_bytes_max=1024))
    node = MemoryNode(limits=Limits(stream_event_bytes_max=1024))
    async with serving(node, stores=stores) as served:
        headers = {"content-type": "application/json"}
        answer = await served.http.post(ABC, content=body.encode("latin-1"), headers=headers)
        assert (answer.status_code, answer.json()) == (201, {"offset": 1, "event_type": "error", "reason": reason})
        [event] = (await served.http.get(ABC)).json()["events"]
        assert (event["event_type"], event["payload"]["reason"]) == ("error", reason)
        assert event["payload"]["bytes"] > 0 or body == ""


@pytest.mark.parametrize(
    "address",
    [
        *(ABC + "?after=-1", ABC + "?after=x", ABC + "?limit=0", ABC + "?limit=1001", ABC + "?live=1", ABC + "?x=1"),
        *(ABC + "?live=true&limit=1", "/api/v1/streams/", "/api/v1/streams//a", "/api/v1/streams/a/"),
        *("/api/v1/streams/a/b%2Fc", "/api/v1/streams/a%20b", "/api/v1/streams/a/%2e%2e", ABC + "?namespace=a%20b"),
        *(f"{ABC}?after={2**63}", "/api/v1/streams/a%0d%0ab?live=true", "/api/v1/streams?limit=1001"),
    ],
)
async def test_requests_that_make_no_sense(address: str) -> None:
    async with serving() as served:
        await append(served)
        reader, writer = await served.connect()
        writer.write(served.head(f"GET {address} HTTP/1.1"))
        assert b" 400 " in (await reader.read()).split(b"\r\n")[0]
        writer.close()


async def test_the_same_key_appends_once() -> None:
    async with serving() as served:
        first = await served.http.post(ABC, json=NOTE, headers={"idempotency-key": "k"})
        again = await served.http.post(ABC, json=NOTE, headers={"idempotency-key": "k"})
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json()["offset"] == first.json()["offset"] == 1
        assert again.headers["idempotency-replayed"] == "true"
        assert (await append(served))["offset"] == 2


async def test_streams_in_pages() -> None:
    async with serving() as served:
        for path in ("/c", "/a/1", "/a/2", "/b"):
            await append(served, path="/api/v1/streams" + path)
        first = (await served.http.get("/api/v1/streams?limit=3")).json()
        assert ([each["path"] for each in first["streams"]], first["next"]) == (["/a/1", "/a/2", "/b"], "/b")
        rest = (await served.http.get("/api/v1/streams?limit=3&after=/b")).json()
        assert ([each["path"] for each in rest["streams"]], rest.get("next")) == (["/c"], None)
        assert len((await served.http.get("/api/v1/streams?prefix=/a/")).json()["streams"]) == 2


async def test_an_operator_pauses_resumes_and_clears() -> None:
    async with serving() as served:
        await append(served)
        paused = await served.http.patch(ABC, json={"flow": "held"})
        assert (paused.status_code, paused.json()["flow"]) == (200, "held")
        refused = await served.http.post(ABC, json=NOTE)
        assert_problem(refused, 429, "rate-limited")
        assert refused.headers["retry-after"] == "60"
        assert (await served.http.patch(ABC, json={"flow": "flowing"})).json()["flow"] == "flowing"
        events = (await served.http.get(ABC)).json()["events"]
        assert [event["event_type"] for event in events] == ["note", "paused", "resumed"]
        assert events[1]["payload"] == {"reason": "operator", "by": "ada"}
        for body in ({"flow": "tripped"}, {}, {"flow": "held", "x": 1}, []):
            assert_problem(await served.http.patch(ABC, json=body), 400, "invalid-argument")
        assert (await served.http.delete(ABC)).status_code == 204
        assert (await served.http.get(ABC)).json()["events"] == []
        assert (await append(served))["offset"] == 4


async def test_the_breaker_answers_when_to_come_back() -> None:
    limits = Limits(stream_events_per_second_max=1, stream_pause_s=30)
    async with serving(stores=make_stores(limits)) as served:
        await append(served)
        refused = await served.http.post(ABC, json=NOTE)
        assert_problem(refused, 429, "rate-limited")
        assert refused.headers["retry-after"] == "30"


# -- live --------------------------------------------------------------------------------------------------


async def test_a_live_reader_gets_what_was_and_what_comes() -> None:
    async with serving() as served:
        for n in range(6):
            await append(served, n)
        async with following(served) as live:
            assert live.status == 200
            assert "content-type: text/event-stream\r\n" in live.head
            assert "cache-control: no-store\r\n" in live.head
            assert await live.block() == ["retry: 2000"]
            assert [(await live.event())["offset"] for _ in range(6)] == [1, 2, 3, 4, 5, 6]
            await append(served, 7)
            assert (await live.event())["payload"] == {"n": 7}


async def test_a_stream_may_be_followed_before_it_begins() -> None:
    async with serving() as served, following(served) as live:
        await append(served)
        assert (await live.event())["offset"] == 1


async def test_a_reader_that_comes_back_goes_on_where_it_was() -> None:
    async with serving() as served:
        for n in range(5):
            await append(served, n)
        async with following(served, "&after=3") as live:
            assert (await live.event())["offset"] == 4
        async with following(served, "&after=1", ABC, "last-event-id: 4") as live:
            assert (await live.event())["offset"] == 5


async def test_an_event_leaves_only_when_it_is_on_disk(tmp_path: Path) -> None:
    """While the disk refuses, a live reader hears nothing and an append is not confirmed; then both are made good."""
    full = False

    class Filling:
        def __init__(self, path: Path) -> None:
            self._real = connect(path)

        def execute(self, sql: str, parameters: Any = (), /) -> Any:
            if full and sql == "COMMIT":
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return self._real.execute(sql, parameters)

        def close(self) -> None:
            self._real.close()

    async with durable_stores(tmp_path, open_writer=Filling) as stores, serving(stores=stores) as served:
        await append(served)
        async with following(served) as live:
            assert (await live.event())["offset"] == 1
            full = True
            refused = assert_problem(await served.http.post(ABC, json=NOTE), 503, "unavailable")
            assert "disk is full" in refused["detail"]
            # It is in line for the disk: seen inside, and told to nobody outside.
            assert len(stores.streams.read(MINE, "/sessions/abc")) == 2
            assert len((await served.http.get(ABC)).json()["events"]) == 1
            waiting = asyncio.create_task(live.event())
            assert_problem(await served.http.post(ABC, json=NOTE), 503, "unavailable")
            assert not waiting.done()
            full = False
            assert (await waiting)["offset"] == 2
            assert (await append(served))["offset"] == 3


async def test_a_quiet_stream_shows_that_it_lives() -> None:
    async with serving(config=HttpConfig(port=0, live_heartbeat_s=0.01)) as served, following(served) as live:
        assert [await live.block() for _ in range(3)] == [["retry: 2000"], [":"], [":"]]


async def test_a_stopping_node_says_goodbye_at_once() -> None:
    async with serving() as served, following(served) as live:
        assert await live.block() == ["retry: 2000"]
        began = asyncio.get_running_loop().time()
        await served.server.stop(grace_s=15)
        assert asyncio.get_running_loop().time() - began < 5
        assert await live.block() == [": the node is stopping, come back", "retry: 2000"]
        assert await live.block() is None


async def test_a_connection_does_not_outlive_its_token_for_ever() -> None:
    async with serving(config=HttpConfig(port=0, live_s_max=0.05)) as served, following(served) as live:
        assert await live.block() == ["retry: 2000"]
        assert await live.block() == [": this connection has lasted long enough, come back"]
        assert await live.block() is None


async def test_a_tenant_has_so_many_live_readers() -> None:
    limits = Limits(live_readers_per_tenant_max=2)
    node, config = MemoryNode(limits=limits), HttpConfig(port=0, live_heartbeat_s=0.02)
    async with serving(node, config) as served:
        other = served.authority.mint("other", "bob", ["admin"], 60)
        async with following(served) as first, following(served) as second:
            for live in (first, second):
                assert await live.block() == ["retry: 2000"]
            refused = await served.http.get(ABC + "?live=true")
            assert assert_problem(refused, 429, "limit-exceeded")["details"]["limit"] == "live_readers_per_tenant_max"
            headers = {"authorization": f"Bearer {other}"}
            async with served.http.stream("GET", ABC + "?live=true", headers=headers) as answer:
                assert answer.status_code == 200
        async with asyncio.timeout(10):
            status = 429
            while status == 429:
                async with following(served) as again:
                    status = again.status
        assert status == 200


async def test_a_slow_reader_costs_no_memory() -> None:
    """Four megabytes of events, a client that reads none of them: what is held for it stays small."""
    limits = Limits(stream_events_per_second_max=10_000)
    async with serving(stores=make_stores(limits), config=HttpConfig(port=0, live_heartbeat_s=0.05)) as served:
        for _ in range(100):
            served.stores.streams.append(MINE, "/sessions/abc", "note", '"' + "x" * 200_000 + '"')
        async with following(served) as live:
            live._reader._transport.pause_reading()  # type: ignore[attr-defined]
            [connection] = [
                each
                for each in served.server._listener._connections
                if each._current is not None and each._current.started
            ]
            async with asyncio.timeout(10):
                while not connection._writing_paused:
                    await asyncio.sleep(0.01)
            held = connection.transport.get_write_buffer_size() + sum(map(len, connection._held_back))
            assert 0 < held < 3_000_000
            live._reader._transport.resume_reading()  # type: ignore[attr-defined]
            assert [(await live.event())["offset"] for _ in range(100)] == list(range(1, 101))


async def test_a_reader_that_never_reads_is_cut_off() -> None:
    limits = Limits(stream_events_per_second_max=10_000)
    config = HttpConfig(port=0, live_heartbeat_s=0.05, stall_s=0.1)
    async with serving(stores=make_stores(limits), config=config) as served:
        for _ in range(100):
            served.stores.streams.append(MINE, "/sessions/abc", "note", '"' + "x" * 200_000 + '"')
        assert (await served.http.get("/healthz")).status_code == 200
        async with following(served) as live:
            live._reader._transport.pause_reading()  # type: ignore[attr-defined]
            async with asyncio.timeout(10):
                while served.server.connections > 1:
                    await asyncio.sleep(0.01)


async def test_head_of_a_live_stream_ends() -> None:
    async with serving() as served:
        answer = await served.http.head(ABC + "?live=true")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
        assert (await served.http.get("/healthz")).status_code == 200


async def test_http_1_0_gets_a_body_without_chunks() -> None:
    async with serving() as served:
        await append(served)
        reader, writer = await served.connect()
        head = served.head(f"GET {ABC}?live=true HTTP/1.0")
        writer.write(head)
        text = await reader.readuntil(b'"time_ms"')
        assert b"transfer-encoding" not in text
        assert b"\r\n\r\nretry: 2000\n\nid: 1\n" in text
        writer.close()


# -- schedules ---------------------------------------------------------------------------------------------


async def test_a_scheduled_append_comes_when_it_is_due() -> None:
    async with serving() as served, following(served) as live:
        soon_ms = served.node.clock.now_ns() // 1_000_000 + 50
        body = {"path": "/sessions/abc", "event_type": "tick", "payload": {"n": 1}, "at_ms": soon_ms}
        made = await served.http.post("/api/v1/schedules", json=body)
        assert made.status_code == 201
        assert made.json()["next_ms"] == soon_ms
        event = await live.event()
        assert (event["event_type"], event["payload"]) == ("tick", {"n": 1})
        assert event["time_ms"] >= soon_ms
        assert (await served.http.get("/api/v1/schedules")).json() == {"schedules": []}


async def test_schedules_are_listed_and_ended() -> None:
    async with serving() as served:
        base = {"path": "/a", "event_type": "tick"}
        for timing in ({"every_s": 60}, {"cron": "*/5 * * * *"}):
            made = await served.http.post("/api/v1/schedules", json={**base, **timing})
            assert made.status_code == 201
        found = (await served.http.get("/api/v1/schedules")).json()["schedules"]
        assert sorted(each["timing"].split(" ")[0] for each in found) == ["cron", "every"]
        gone = "/api/v1/schedules/" + found[0]["id"]
        assert (await served.http.delete(gone + "?namespace=other")).status_code == 404
        assert (await served.http.delete(gone)).status_code == 204
        assert_problem(await served.http.delete(gone), 404, "not-found")
        assert len((await served.http.get("/api/v1/schedules")).json()["schedules"]) == 1


@pytest.mark.parametrize(
    "change",
    [
        *({"every_s": 0}, {"every_s": True}, {"every_s": 1, "at_ms": 1}, {"cron": "@daily"}, {"cron": 5}, {"at_ms": 1}),
        *({}, {"every_s": 60, "x": 1}, {"every_s": 60, "path": "a"}, {"every_s": 60, "event_type": "paused"}),
    ],
)
async def test_what_cannot_be_scheduled(change: dict[str, Any]) -> None:
    async with serving() as served:
        body = {"path": "/a", "event_type": "tick", **change}
        assert_problem(await served.http.post("/api/v1/schedules", json=body), 400, "invalid-argument")


# -- tenants -----------------------------------------------------------------------------------------------


async def test_every_route_is_blind_to_other_tenants_and_namespaces() -> None:
    async with serving() as served:
        await append(served)
        made = await served.http.post("/api/v1/schedules", json={"path": "/a", "event_type": "t", "every_s": 60})
        schedule = "/api/v1/schedules/" + made.json()["id"]
        evil = {"authorization": f"Bearer {served.authority.mint('evil', 'eve', ['admin'], 60)}"}
        for query, headers in (("", evil), ("?namespace=other", {})):

            async def call(
                method: str, address: str, query: str = query, headers: Any = headers, **more: Any
            ) -> httpx.Response:
                return await served.http.request(method, address + query, headers=headers, **more)

            assert (await call("GET", "/api/v1/streams")).json() == {"streams": []}
            assert (await call("GET", "/api/v1/schedules")).json() == {"schedules": []}
            assert (await call("GET", ABC)).status_code == 404
            assert (await call("PATCH", ABC, json={"flow": "held"})).status_code == 404
            assert (await call("DELETE", ABC)).status_code == 404
            assert (await call("DELETE", schedule)).status_code == 404
            assert (await call("POST", ABC, json=NOTE)).json()["offset"] == 1
        assert len((await served.http.get(ABC)).json()["events"]) == 1
        assert len((await served.http.get("/api/v1/schedules")).json()["schedules"]) == 1


async def test_a_token_for_one_namespace_enters_no_other() -> None:
    async with serving() as served:
        await append(served)
        token = served.authority.mint("default", "ada", ["admin"], 60, namespaces=["other"])
        headers = {"authorization": f"Bearer {token}"}
        for method, address in (
            ("GET", "/api/v1/streams"),
            ("GET", ABC),
            ("GET", ABC + "?live=true"),
            ("POST", ABC),
            ("PATCH", ABC),
            ("DELETE", ABC),
            ("GET", "/api/v1/schedules"),
            ("POST", "/api/v1/schedules"),
            ("DELETE", "/api/v1/schedules/x"),
        ):
            assert_problem(await served.http.request(method, address, headers=headers), 403, "permission-denied")
