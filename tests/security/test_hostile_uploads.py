"""Whatever is uploaded, a real node answers with the reason and goes on: real HTTP, real wasm."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from wasmtime import wat2wasm

from plexspaces_runtime.api.auth import Authenticator, LocalAuthority
from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.api.server import HttpServer
from plexspaces_runtime.wasm import wit
from tests.integration.component_wat import component
from tests.nodes import TestBed, running

pytestmark = pytest.mark.guest
COUNTER = "/api/v1/actors/default/default/counter"
# A world of somebody else's: a component, sealed, but not an actor.
OTHER_WORLD = '(component (core module $m (func (export "f"))) (core instance $i (instantiate $m)) \
(func (export "run") (canon lift (core func $i "f"))))'
WASI = component(wit.load(), extra='(import "wasi:sockets/tcp@0.2.0" (instance))')

UPLOADS: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "empty"),
    ("garbage", os.urandom(10_000), "not WebAssembly"),
    ("text", b"print('hello')", "not WebAssembly"),
    ("core module", bytes(wat2wasm("(module (func))")), "core WebAssembly module"),
    ("cut off", bytes(wat2wasm(WASI))[:60], ""),
    ("damaged", bytes(wat2wasm(WASI))[:200] + b"\xff" * 50 + bytes(wat2wasm(WASI))[250:], ""),
    ("wasi imports", bytes(wat2wasm(WASI)), "wasi:sockets/tcp@0.2.0"),
    ("another world", bytes(wat2wasm(OTHER_WORLD)), "handle"),
]


@asynccontextmanager
async def served(tmp_path: Path) -> AsyncIterator[tuple[TestBed, httpx.AsyncClient]]:
    async with running(tmp_path) as bed:
        authority = LocalAuthority.open(tmp_path)
        server = HttpServer(bed.node, Authenticator(authority), HttpConfig(port=0, upload_dir=tmp_path / "up"))
        await server.start()
        token = (tmp_path / "token").read_text().strip()
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{server.port}", headers={"authorization": f"Bearer {token}"}, timeout=60
        ) as http:
            yield bed, http
        await server.stop(1.0)


async def deploy(http: httpx.AsyncClient, actor_type: str, wasm: bytes) -> httpx.Response:
    form = {"namespace": "default", "actor_type": actor_type}
    return await http.post("/api/v1/deploy", data=form, files={"wasm": ("x.wasm", wasm)})


async def test_what_is_no_actor_is_refused_with_the_reason_and_the_node_goes_on(
    guest: Callable[[str], Path], tmp_path: Path
) -> None:
    async with served(tmp_path) as (bed, http):
        wasm = await asyncio.to_thread(guest("counter").read_bytes)
        assert (await deploy(http, "counter", wasm)).status_code == 201
        for name, upload, said in UPLOADS:
            response = await deploy(http, "bad", upload)
            problem = response.json()
            assert 400 <= response.status_code < 500, (name, problem)
            assert response.headers["content-type"] == "application/problem+json"
            assert problem["code"] in ("invalid-component", "invalid-argument"), (name, problem)
            assert said in problem["detail"], (name, problem)
            # Over the actor that runs, too: it stays what it is.
            assert 400 <= (await deploy(http, "counter", upload)).status_code < 500
        assert (await http.post(COUNTER + "?wait=5", json={"op": "increment", "amount": 2})).json() == {"count": 2}
        assert [each.version for each in bed.node.deployments("default")] == [1]
        assert bed.node.counters()["actors"] == 1
        assert list((tmp_path / "up").iterdir()) == []


async def test_a_gigabyte_is_refused_and_nothing_of_it_is_kept(guest: Callable[[str], Path], tmp_path: Path) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--b\r\ncontent-disposition: form-data; name="wasm"; filename="a"\r\n\r\n'
        while sent < 1 << 30:
            sent += 1 << 20
            yield b"\0" * (1 << 20)

    async with served(tmp_path) as (bed, http):
        wasm = await asyncio.to_thread(guest("counter").read_bytes)
        assert (await deploy(http, "counter", wasm)).status_code == 201
        try:
            response = await http.post(
                "/api/v1/deploy", content=body(), headers={"content-type": "multipart/form-data; boundary=b"}
            )
        except (httpx.WriteError, httpx.ReadError):
            # The node may close while the client still writes; what counts is how little it took.
            pass
        else:
            assert response.status_code == 413
            assert response.json()["details"]["limit"] == "wasm_bytes_max"
        assert list((tmp_path / "up").iterdir()) == []
        assert (await http.get(COUNTER)).json() == {"count": 0}
        assert bed.node.ready
