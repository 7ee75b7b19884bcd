"""Blobs over HTTP: streamed both ways, with conditions, ranges and limits; real files behind them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.api.config import HttpConfig
from tests.unit.api.kept_stores import durable_stores
from tests.unit.api.memory_node import Served, assert_problem, serving

BLOBS = "/api/v1/blobs/default"
MAY = BLOBS + "/reports/may%20one.pdf"
DATA = bytes(range(256)) * 8


@pytest.fixture(name="served")
async def _served(tmp_path: Path) -> AsyncIterator[Served]:
    async with durable_stores(tmp_path) as stores, serving(stores=stores) as served:
        yield served


async def put(served: Served, data: bytes = DATA, address: str = MAY, **headers: str) -> Any:
    return await served.http.put(
        address, content=data, headers={name.replace("_", "-"): v for name, v in headers.items()}
    )


async def test_put_get_and_delete(served: Served) -> None:
    made = await put(served, content_type="application/pdf")
    sha256 = hashlib.sha256(DATA).hexdigest()
    assert made.status_code == 201
    info = made.json()
    assert (info["name"], info["size_bytes"], info["sha256"]) == ("reports/may one.pdf", 2048, sha256)
    assert made.headers["etag"] == f'"{sha256}"'
    assert (await put(served, content_type="application/pdf")).status_code == 200
    got = await served.http.get(MAY)
    assert (got.status_code, got.content) == (200, DATA)
    assert got.headers["content-type"] == "application/pdf"
    assert got.headers["content-length"] == "2048"
    assert got.headers["etag"] == f'"{sha256}"'
    assert "sandbox" in got.headers["content-security-policy"]
    head = await served.http.head(MAY)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "2048")
    assert (await served.http.delete(MAY)).status_code == 204
    assert_problem(await served.http.delete(MAY), 404, "not-found")
    assert_problem(await served.http.get(MAY), 404, "not-found")


async def test_it_is_there_after_a_restart(tmp_path: Path) -> None:
    for round_ in range(2):
        async with durable_stores(tmp_path) as stores, serving(stores=stores) as served:
            if round_ == 0:
                assert (await put(served)).status_code == 201
            else:
                assert (await served.http.get(MAY)).content == DATA


@pytest.mark.parametrize(
    ("wanted", "status", "expected"),
    [
        ("bytes=0-0", 206, DATA[:1]),
        ("bytes=10-19", 206, DATA[10:20]),
        ("bytes=2040-", 206, DATA[2040:]),
        ("bytes=2047-9999", 206, DATA[2047:]),
        ("bytes=-5", 206, DATA[-5:]),
        ("bytes=-9999", 206, DATA),
        ("bytes=0-1,5-6", 200, DATA),
        ("lines=0-1", 200, DATA),
        ("bytes=5-1", 200, DATA),
        ("bytes=-", 200, DATA),
    ],
)
async def test_ranges(served: Served, wanted: str, status: int, expected: bytes) -> None:
    await put(served)
    answer = await served.http.get(MAY, headers={"range": wanted})
    assert (answer.status_code, answer.content) == (status, expected)
    if status == 206:
        first, last = DATA.rindex(expected) if len(expected) < 2048 else 0, 0
        unit, _, rest = answer.headers["content-range"].partition(" ")
        span, _, size = rest.partition("/")
        first, last = map(int, span.split("-"))
        assert (unit, size, DATA[first : last + 1]) == ("bytes", "2048", expected)


@pytest.mark.parametrize("wanted", ["bytes=2048-", "bytes=9999-10000", "bytes=-0"])
async def test_a_range_behind_the_end(served: Served, wanted: str) -> None:
    await put(served)
    answer = await served.http.get(MAY, headers={"range": wanted})
    assert_problem(answer, 416, "range-not-satisfiable")
    assert answer.headers["content-range"] == "bytes */2048"


async def test_conditions(served: Served) -> None:
    etag = (await put(served)).headers["etag"]
    for condition in (etag, f'"x", W/{etag}', "*"):
        answer = await served.http.get(MAY, headers={"if-none-match": condition})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert (await served.http.get(MAY, headers={"if-none-match": '"x"'})).status_code == 200
    for if_range, status in ((etag, 206), ('"x"', 200)):
        headers = {"range": "bytes=0-1", "if-range": if_range}
        assert (await served.http.get(MAY, headers=headers)).status_code == status
    assert_problem(await put(served, if_none_match="*"), 409, "already-exists")
    assert (await put(served, address=BLOBS + "/new", if_none_match="*")).status_code == 201
    for headers in ({"if_match": "*"}, {"if_none_match": etag}, {"content_range": "bytes 0-1/2"}):
        assert_problem(await put(served, **headers), 400, "invalid-argument")


async def test_large_ones_are_streamed_both_ways(tmp_path: Path) -> None:
    piece = bytes(range(256)) * 1024
    async with durable_stores(tmp_path) as stores, serving(stores=stores) as served:

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield piece

        made = await served.http.put(BLOBS + "/large", content=pieces())
        assert made.json()["size_bytes"] == 40 * len(piece)
        digest = hashlib.sha256()
        async with served.http.stream("GET", BLOBS + "/large") as answer:
            async for part in answer.aiter_bytes():
                digest.update(part)
        assert digest.hexdigest() == made.json()["sha256"] == hashlib.sha256(piece * 40).hexdigest()


async def test_more_than_a_blob_may_have(tmp_path: Path) -> None:
    async with durable_stores(tmp_path, blob_bytes_max=1_000) as stores, serving(stores=stores) as served:

        async def pieces() -> AsyncIterator[bytes]:
            yield b"x" * 600
            yield b"x" * 600

        for content in (b"x" * 1_001, pieces()):
            assert_problem(await served.http.put(MAY, content=content), 413, "payload-too-large")
        assert (await put(served, b"x" * 1_000)).status_code == 201
        assert len([path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]) == 1


async def test_more_than_the_tenant_may_store(tmp_path: Path) -> None:
    async with durable_stores(tmp_path, stored_bytes_per_tenant_max=2_000) as stores, serving(stores=stores) as served:
        assert_problem(await put(served), 429, "limit-exceeded")
        assert (await served.http.get(BLOBS)).json() == {"blobs": []}


async def test_a_client_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    async with durable_stores(tmp_path) as stores, serving(stores=stores) as served:
        await put(served, b"old")
        _, writer = await served.connect()
        head = f"PUT {MAY} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {served.token}\r\ncontent-length: 9\r\n\r\nnew"
        writer.write(head.encode())
        await writer.drain()
        unfinished = tmp_path / "blobs" / "unfinished"
        async with asyncio.timeout(10):
            while not any(unfinished.iterdir()):
                await asyncio.sleep(0.005)
            writer.transport.abort()
            while any(unfinished.iterdir()):
                await asyncio.sleep(0.005)
        assert (await served.http.get(MAY)).content == b"old"


async def test_a_client_that_reads_half_lets_go_of_the_file(tmp_path: Path) -> None:
    async with (
        durable_stores(tmp_path) as stores,
        serving(stores=stores, config=HttpConfig(port=0, stall_s=0.1)) as served,
    ):
        await put(served, b"x" * 20_000_000)

        def open_files() -> int:
            return sum(str(tmp_path / "blobs") in str(each.resolve()) for each in Path("/proc/self/fd").iterdir())

        reader, writer = await served.connect()
        writer.write(served.head(f"GET {MAY} HTTP/1.1"))
        await reader.readexactly(1_000)
        assert open_files() == 1
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            while open_files():
                await asyncio.sleep(0.01)
        writer.close()
        assert (await served.http.head(MAY)).status_code == 200
        assert open_files() == 0


async def test_only_so_many_are_received_at_a_time(tmp_path: Path) -> None:
    config = HttpConfig(port=0, blob_uploads_max=1)
    async with durable_stores(tmp_path) as stores, serving(config=config, stores=stores) as served:
        _, writer = await served.connect()
        head = f"PUT {MAY} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {served.token}\r\ncontent-length: 3\r\n\r\n"
        writer.write(head.encode())
        async with asyncio.timeout(10):
            while (answer := await put(served, address=BLOBS + "/b")).status_code == 201:
                await asyncio.sleep(0.005)
        assert_problem(answer, 429, "rate-limited")
        writer.close()


@pytest.mark.parametrize("name", ["a%2Fb/c", "a//b", "a/", "%2e%2e/x", "a/..%00", "a%0ab", "x" * 300])
async def test_what_is_no_name(served: Served, name: str) -> None:
    reader, writer = await served.connect()
    writer.write(served.head(f"PUT {BLOBS}/{name} HTTP/1.1", "content-length: 1") + b"x")
    assert b" 400 " in (await reader.read()).split(b"\r\n")[0]
    writer.close()


async def test_blobs_in_pages(served: Served) -> None:
    for name in ("b", "a/1", "a/2"):
        await put(served, address=f"{BLOBS}/{name}")
    first = (await served.http.get(BLOBS + "?limit=2")).json()
    assert ([each["name"] for each in first["blobs"]], first["next"]) == (["a/1", "a/2"], "a/2")
    rest = (await served.http.get(BLOBS + "?limit=2&cursor=a/2")).json()
    assert ([each["name"] for each in rest["blobs"]], rest.get("next")) == (["b"], None)
    assert len((await served.http.get(BLOBS + "?prefix=a/")).json()["blobs"]) == 2


async def test_every_route_is_blind_to_other_tenants_and_namespaces(served: Served) -> None:
    await put(served)
    evil = {"authorization": f"Bearer {served.authority.mint('evil', 'eve', ['admin'], 60)}"}
    for base, headers in ((BLOBS, evil), ("/api/v1/blobs/other", {})):
        address = base + "/reports/may%20one.pdf"
        assert (await served.http.get(base, headers=headers)).json() == {"blobs": []}
        assert (await served.http.get(address, headers=headers)).status_code == 404
        assert (await served.http.delete(address, headers=headers)).status_code == 404
        assert (await served.http.put(address, content=b"theirs", headers=headers)).status_code == 201
    assert (await served.http.get(MAY)).content == DATA
    token = served.authority.mint("default", "ada", ["admin"], 60, namespaces=["other"])
    for method, address in (("GET", BLOBS), ("GET", MAY), ("PUT", MAY), ("DELETE", MAY)):
        answer = await served.http.request(method, address, headers={"authorization": f"Bearer {token}"})
        assert_problem(answer, 403, "permission-denied")


async def test_a_browser_runs_nothing_of_a_blob() -> None:
    async with serving() as served:
        page = b"<script>fetch('/api/v1/actors')</script>"
        await served.http.put("/api/v1/blobs/default/page.html", content=page, headers={"content-type": "text/html"})
        got = await served.http.get("/api/v1/blobs/default/page.html")
        assert got.headers["content-type"] == "text/html"
        assert got.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert got.headers["x-content-type-options"] == "nosniff"
