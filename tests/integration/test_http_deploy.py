"""Deploying over HTTP: the form, its limits, and what is left on disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.api.config import HttpConfig
from tests.unit.api.memory_node import Served, assert_problem, serving

WASM = b"\0asm\x0d\0\x01\0" + b"w" * 100_000
FORM = {"namespace": "default", "actor_type": "counter2"}


async def deploy(served: Served, wasm: bytes = WASM, /, **fields: str) -> Any:
    data = {**FORM, **fields}
    return await served.http.post("/api/v1/deploy", data=data, files={"wasm": ("counter.wasm", wasm)})


async def test_deploy_list_use_undeploy(tmp_path: Path) -> None:
    async with serving(config=HttpConfig(port=0, upload_dir=tmp_path / "up")) as served:
        response = await deploy(served, config='{"args": {}}')
        assert response.status_code == 201, response.text
        document = response.json()
        assert document["size_bytes"] == len(WASM)
        assert len(document["hash"]) == 64
        assert (document["version"], document["replaced"], document["tenant"]) == (1, False, "default")
        assert document["imports"] == ["plexspaces:actor/messaging@0.1.0"]
        assert response.headers["location"] == "/api/v1/actors/default/default/counter2"
        assert (await served.http.get(response.headers["location"])).json() == {"count": 0}
        info = (await served.http.get(response.headers["location"] + "/info")).json()
        assert info["handlers"]["increment"]["schema"] == {"type": "object"}
        again = (await deploy(served)).json()
        assert (again["version"], again["replaced"]) == (2, True)
        listed = (await served.http.get("/api/v1/deployments?namespace=default")).json()["deployments"]
        assert [(each["actor_type"], each["version"]) for each in listed] == [("counter2", 2)]
        assert (await served.http.delete("/api/v1/deployments/default/counter2")).status_code == 204
        assert_problem(await served.http.delete("/api/v1/deployments/default/counter2"), 404, "not-found")
        assert_problem(await served.http.get(response.headers["location"]), 404, "actor-not-found")
        assert served.node.uploads[0].is_relative_to(tmp_path / "up")
        assert list((tmp_path / "up").iterdir()) == []


async def test_the_file_may_come_before_the_fields() -> None:
    async with serving() as served:
        body = b"".join(
            b'--b\r\ncontent-disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % part
            for part in [
                (b"wasm", b'; filename="a"\r\ncontent-type: application/wasm', WASM),
                (b"actor_type", b"", b"x"),
                (b"namespace", b"", b"default"),
            ]
        )
        response = await served.http.post(
            "/api/v1/deploy", content=body + b"--b--\r\n", headers={"content-type": "multipart/form-data; boundary=b"}
        )
        assert response.status_code == 201, response.text


@pytest.mark.parametrize(("size", "status"), [((1 << 20) - 1, 201), (1 << 20, 201), ((1 << 20) + 1, 413)])
async def test_the_size_of_a_component(size: int, status: int, tmp_path: Path) -> None:
    async with serving(config=HttpConfig(port=0, upload_dir=tmp_path)) as served:
        response = await deploy(served, b"\0asm" + b"w" * (size - 4))
        assert response.status_code == status
        if status == 413:
            assert assert_problem(response, 413, "payload-too-large")["details"]["limit"] == "wasm_bytes_max"
            assert served.node.uploads == []
        assert list(tmp_path.iterdir()) == []


PART = b'--b\r\ncontent-disposition: form-data; name="wasm"; filename="a"\r\n\r\n'


@pytest.mark.parametrize("announced", [True, False])
async def test_a_gigabyte_is_refused_at_once(announced: bool, tmp_path: Path) -> None:
    async with serving(config=HttpConfig(port=0, upload_dir=tmp_path)) as served:
        length = "content-length: 1073741824" if announced else "transfer-encoding: chunked"
        head = served.head("POST /api/v1/deploy HTTP/1.1", "content-type: multipart/form-data; boundary=b", length)
        reader, writer = await served.connect()
        writer.write(head + (PART if announced else b"%x\r\n%b\r\n" % (len(PART), PART)))
        answer = asyncio.create_task(reader.readuntil(b"}"))
        sent = 0
        while not announced and not answer.done():
            writer.write(b"10000\r\n" + b"\0" * 65536 + b"\r\n")
            await writer.drain()
            sent += 65536
        # Announced, it is refused before any of it has come; else when one byte too many has.
        assert (await answer).startswith(b"HTTP/1.1 413 ")
        assert sent < 64 << 20
        assert list(tmp_path.iterdir()) == []
        assert (await served.http.get("/api/v1/actors/default/default/counter")).json() == {"count": 0}
        writer.transport.abort()


@pytest.mark.parametrize("announced", [True, False])
async def test_a_client_that_sends_a_gigabyte_without_listening_still_learns_why(
    announced: bool, tmp_path: Path
) -> None:
    megabyte = b"\0" * (1 << 20)

    async def gigabyte() -> AsyncIterator[bytes]:
        yield PART
        for _ in range(1024):
            yield megabyte

    async with serving(config=HttpConfig(port=0, upload_dir=tmp_path)) as served:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        if announced:
            headers["content-length"] = str(len(PART) + (1 << 30))
        response = await served.http.post("/api/v1/deploy", content=gigabyte(), headers=headers)
        assert_problem(response, 413, "payload-too-large")
        assert list(tmp_path.iterdir()) == []
        assert (await served.http.get("/api/v1/actors/default/default/counter")).json() == {"count": 0}


@pytest.mark.parametrize(
    ("fields", "status", "code", "hint"),
    [
        ({"namespace": "-"}, 400, "invalid-argument", "namespace"),
        ({"actor_type": "a/b"}, 400, "invalid-argument", "actor type"),
        ({"actor_typo": "x"}, 400, "invalid-argument", "actor_typo"),
        ({"config": "{"}, 400, "invalid-argument", "config"),
        ({"config": "[]"}, 400, "invalid-argument", "config"),
        ({"config": " " * 300_000}, 413, "payload-too-large", "config"),
    ],
)
async def test_fields_that_cannot_be(fields: dict[str, str], status: int, code: str, hint: str, tmp_path: Path) -> None:
    async with serving(config=HttpConfig(port=0, upload_dir=tmp_path)) as served:
        assert hint in assert_problem(await deploy(served, **fields), status, code)["detail"]
        assert served.node.uploads == []
        assert list(tmp_path.iterdir()) == []


def form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> bytes:
    return (
        b"".join(
            b'--b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), content)
            for name, content in parts
        )
        + end
    )


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (b"", "ends before"),
        (b"garbage", "malformed"),
        (form(("namespace", b"default"), ("actor_type", b"x")), "no file"),
        (form(("wasm", WASM), ("actor_type", b"x")), "namespace"),
        (form(("wasm", WASM), ("namespace", b"default")), "actor_type"),
        (form(("wasm", WASM), ("wasm", WASM)), "two files"),
        (form(("namespace", b"a"), ("namespace", b"b")), "twice"),
        (form(("namespace", b"\xff")), "UTF-8"),
        (form(("wasm", WASM), ("namespace", b"default"), ("actor_type", b"x"), end=b""), "ends before"),
        (b'--b\r\ncontent-disposition: attachment; name="wasm"\r\n\r\nx\r\n--b--\r\n', "known are"),
        (b"--b\r\n" + b"x: y\r\n" * 100 + b"\r\n", "malformed"),
        (b"--b\r\nx: " + b"y" * 10_000 + b"\r\n\r\n", "malformed"),
    ],
)
async def test_forms_that_are_none(body: bytes, hint: str) -> None:
    async with serving() as served:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        response = await served.http.post("/api/v1/deploy", content=body, headers=headers)
        assert hint in assert_problem(response, 400, "invalid-argument")["detail"]
        assert served.node.uploads == []


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=" + "b" * 71]
)
async def test_what_is_not_a_form(content_type: str) -> None:
    async with serving() as served:
        response = await served.http.post("/api/v1/deploy", content=b"x", headers={"content-type": content_type})
        assert_problem(response, 415, "unsupported-media-type")


async def test_what_is_not_a_component() -> None:
    async with serving() as served:
        assert_problem(await deploy(served, b"MZ garbage"), 422, "invalid-component")


async def test_a_token_for_some_namespaces() -> None:
    async with serving() as served:
        token = served.authority.mint("default", "ada", ["admin"], 60, namespaces=["mine"])
        served.http.headers["authorization"] = f"Bearer {token}"
        assert_problem(await deploy(served), 403, "permission-denied")
        assert served.node.uploads == []
        assert (await deploy(served, namespace="mine")).status_code == 201


async def test_a_client_that_goes_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    async with serving(config=HttpConfig(port=0, upload_dir=tmp_path)) as served:
        head = served.head(
            "POST /api/v1/deploy HTTP/1.1", "content-type: multipart/form-data; boundary=b", "content-length: 900000"
        )
        _, writer = await served.connect()
        writer.write(head + form(("wasm", b"w" * 100_000), end=b""))
        await writer.drain()
        async with asyncio.timeout(10):
            while not list(tmp_path.iterdir()):
                await asyncio.sleep(0)
            writer.transport.abort()
            while list(tmp_path.iterdir()):
                await asyncio.sleep(0)
        assert served.node.uploads == []


async def test_more_uploads_than_the_node_takes() -> None:
    async with serving(config=HttpConfig(port=0, uploads_max=1)) as served:
        head = served.head(
            "POST /api/v1/deploy HTTP/1.1", "content-type: multipart/form-data; boundary=b", "content-length: 900000"
        )
        _, writer = await served.connect()
        writer.write(head)
        while not served.server.api._uploads:
            await asyncio.sleep(0)
        refused = await deploy(served)
        assert_problem(refused, 429, "rate-limited")
        assert refused.headers["retry-after"] == "2"
        writer.transport.abort()
        while served.server.api._uploads:
            await asyncio.sleep(0)
        assert (await deploy(served)).status_code == 201
