"""A server that stops: readiness, requests under way, requests that do not end."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from plexspaces_runtime.api.auth import Authenticator
from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.api.server import HttpServer
from tests.unit.api.memory_node import assert_problem, serving

COUNTER = "/api/v1/actors/default/default/counter"
WAIT = COUNTER + "?wait=9"


async def test_a_request_under_way_is_finished_and_new_ones_are_refused() -> None:
    async with serving() as served:
        # Two kept connections: one is busy, the other asks while the server stops.
        await served.http.get("/healthz")
        asked = asyncio.create_task(served.http.post(WAIT, json={"op": "wait"}))
        await served.node.entered.wait()
        async with httpx.AsyncClient(base_url=served.http.base_url, headers=served.auth) as other:
            assert (await other.get("/readyz")).status_code == 200
            stopping = asyncio.create_task(served.server.stop(9))
            await asyncio.sleep(0)
            not_ready = await other.get("/readyz")
            assert_problem(not_ready, 503, "unavailable")
            assert not_ready.headers["retry-after"] == "5"
            assert not_ready.headers["connection"] == "close"
            with pytest.raises(httpx.ConnectError):
                await other.get("/readyz")
        assert not stopping.done()
        served.node.gate.set()
        response = await asked
        assert (response.status_code, response.json()) == (200, {"count": 1})
        await stopping
        assert served.server.connections == 0


async def test_new_work_on_a_kept_connection_is_refused() -> None:
    async with serving() as served:
        asked = asyncio.create_task(served.http.post(WAIT, json={"op": "wait"}))
        await served.node.entered.wait()
        async with httpx.AsyncClient(base_url=served.http.base_url, headers=served.auth) as other:
            await other.get("/healthz")
            stopping = asyncio.create_task(served.server.stop(9))
            await asyncio.sleep(0)
            assert_problem(await other.post(COUNTER, json={"op": "increment"}), 503, "unavailable")
        served.node.gate.set()
        assert (await asked).json() == {"count": 1}
        await stopping


async def test_a_request_that_does_not_end_is_cut_off_with_an_answer() -> None:
    async with serving() as served:
        asked = asyncio.create_task(served.http.post(WAIT, json={"op": "wait"}))
        keyed = asyncio.create_task(served.http.post(WAIT, json={"op": "wait"}, headers={"idempotency-key": "k"}))
        while len(served.node.messages) < 2:
            await asyncio.sleep(0)
        await served.server.stop(0.05)
        for response in (await asked, await keyed):
            document = assert_problem(response, 503, "unavailable")
            assert "may still have happened" in document["detail"]
        assert served.server.connections == 0
        assert served.node.living[next(iter(served.node.living))].count == 0


async def test_an_upload_under_way_is_cut_off_and_cleaned_up() -> None:
    async with serving() as served:
        head = served.head(
            "POST /api/v1/deploy HTTP/1.1", "content-type: multipart/form-data; boundary=b", "content-length: 5000"
        )
        reader, writer = await served.connect()
        writer.write(head + b'--b\r\ncontent-disposition: form-data; name="wasm"; filename="a"\r\n\r\n\0asm')
        while not served.server._listener.running:
            await asyncio.sleep(0)
        await served.server.stop(0.05)
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        assert served.node.uploads == []
        writer.close()


async def test_idle_connections_do_not_hold_up_the_end() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        await served.http.get("/healthz")
        async with asyncio.timeout(5):
            await served.server.stop(60)
        assert await reader.read() == b""
        writer.close()


async def test_a_server_that_could_not_start_can_be_stopped() -> None:
    async with serving() as served:
        second = HttpServer(
            served.node, Authenticator(served.authority), HttpConfig(host="127.0.0.1", port=served.server.port)
        )
        with pytest.raises(OSError, match="in use"):
            await second.start()
        await second.stop(0)


async def test_stopping_twice_is_stopping_once() -> None:
    async with serving() as served:
        await served.server.stop(1)
        await served.server.stop(1)
