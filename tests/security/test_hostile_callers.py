"""Callers that smuggle, flood, stall and lie: each hears no, nobody hears of another tenant, and the node goes on."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
import subprocess
import sys
import zlib

import httpx
import pytest

from plexspaces_runtime.api.auth import LocalAuthority
from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.config import Limits
from plexspaces_runtime.scope import Address, Scope
from tests.security.test_fuzz_http import statuses
from tests.unit.api.memory_node import KEY, MemoryNode, Served, serving

COUNTER = "/api/v1/actors/default/default/counter"
OTHERS = Address(Scope("acme", "default"), "counter")


async def still_serves(served: Served) -> None:
    assert (await served.http.get(COUNTER)).status_code == 200


def operations(served: Served) -> list[str]:
    return [op for op, *_ in served.node.messages]


# -- requests in requests ----------------------------------------------------------------------------------


def inner(served: Served) -> bytes:
    """A request that is to be taken for one."""
    body = b'{"op":"increment","amount":1000}'
    return served.head(f"POST {COUNTER} HTTP/1.1", f"content-length: {len(body)}") + body


FRAMINGS = [
    "content-length: 4\r\ntransfer-encoding: chunked",
    "transfer-encoding: chunked\r\ncontent-length: 4",
    "transfer-encoding: xchunked",
    "transfer-encoding : chunked",
    "transfer-encoding\t: chunked",
    "transfer-encoding: chunked, identity",
    "transfer-encoding: identity, chunked, gzip",
    "transfer-encoding: chunked\r\ntransfer-encoding: identity",
    "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\ncontent-length: 4",
    "transfer-encoding:\x0bchunked",
    "transfer-encoding: \x00chunked",
    "transfer-encoding: ch\xc5\xaanked",
    "x: y\ntransfer-encoding: chunked",
    "x: y\rtransfer-encoding: chunked",
    "x: y\r\n transfer-encoding: chunked",
    " transfer-encoding: chunked",
    "content-length: +4",
    "content-length: -4",
    "content-length: 4, 4",
    "content-length: 4\r\ncontent-length: 4",
    "content-length: 4\r\ncontent-length: 40",
    "content-length: 0x4",
    "content-length: 1_0",
    "content-length: 4 4",
    "content-length:",
    "content-length: \u0664",
    "content-length: 18446744073709551620",
    "content-length : 4",
]


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_length_that_two_servers_may_read_in_two_ways(framing: str) -> None:
    async with serving() as served:
        smuggled = inner(served)
        head = served.head(f"POST {COUNTER} HTTP/1.1", "x: y").replace(b"connection: close\r\n", b"")
        head = head.replace(b"x: y", framing.encode("utf-8" if "\u0664" in framing else "latin-1"))
        sent = await served.raw(head + b"0\r\n\r\n" + smuggled)
        assert b'"count"' not in sent
        assert operations(served) == []
        assert len(statuses(sent)) == 1
        assert 400 <= statuses(sent)[0] < 500
        await still_serves(served)


CHUNKS = [
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"5\rhello\r0\r\r",
    b"5;\nx\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhelloXX0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"\r\nhello\r\n0\r\n\r\n",
    b"5_0\r\nhello\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("chunks", CHUNKS)
async def test_chunks_that_two_servers_may_read_in_two_ways(chunks: bytes) -> None:
    async with serving() as served:
        head = served.head(f"POST {COUNTER} HTTP/1.1", "transfer-encoding: chunked").replace(
            b"connection: close\r\n", b""
        )
        sent = await served.raw(head + chunks + inner(served), eof=True)
        assert b'"count"' not in sent
        assert operations(served) == []
        # A chunk that has not ended is no request, and gets no answer once the client is gone.
        assert all(400 <= status < 500 for status in statuses(sent))
        await still_serves(served)


async def test_extensions_and_trailers_without_end_are_cut_off() -> None:
    for junk in (b"1;" + b"a" * 70_000, b"1;" + b"a=b;" * 20_000, b"0\r\n" + b"x: y\r\n" * 20_000):
        async with serving() as served:
            head = served.head(f"POST {COUNTER} HTTP/1.1", "transfer-encoding: chunked")
            sent = await served.raw(head + junk * 20)
            assert statuses(sent) == [400] or statuses(sent) == [431]
            assert operations(served) == []
            await still_serves(served)


async def test_a_flood_of_pipelined_requests_is_answered_in_order_and_within_bounds() -> None:
    async with serving() as served:
        one = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
        reader, writer = await served.connect()
        writer.write(one * 2_999 + b"GET /nowhere HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        async with asyncio.timeout(60):
            sent = await reader.read()
        writer.close()
        assert statuses(sent) == [200] * 2_999 + [404]
        await still_serves(served)


# -- whose it is -------------------------------------------------------------------------------------------

PATHS = [
    "/api/v1/actors/acme/default/counter",
    "/api/v1/actors/default/../acme/default/counter",
    "/api/v1/actors/default/default/counter/../../../acme/default/counter",
    "/api/v1/actors/default%2f..%2facme/default/counter",
    "/api/v1/actors/%2e%2e/acme/default/counter",
    "/api/v1/actors/default/%2e%2e/acme%2fdefault/counter",
    "/api/v1/actors//acme/default/counter",
    "/api/v1//actors/acme/default/counter",
    "//api/v1/actors/acme/default/counter",
    "/api/v1/actors/acme;/default/counter",
    "/api/v1/actors/default;acme/default/counter",
    "/api/v1/actors/acme%00/default/counter",
    "/api/v1/actors/acme%20/default/counter",
    "/api/v1/actors/%61cme/default/counter",
    "/api/v1/actors/ACME/default/counter",
    "/api/v1/actors/acm%D0%B5/default/counter",
    "/api/v1/actors/acme%E2%80%8B/default/counter",
    "/api/v1/actors/%c0%ae%c0%ae/acme/default/counter",
    "/api/v1/actors/acme/default/counter?tenant=default",
    "/api/v1/actors/acme/default/counter#/default/default/counter",
    "/api/v1/actors/default%5c..%5cacme/default/counter",
    "/API/V1/ACTORS/acme/default/counter",
    "/api/v1/actors/acme/default/counter/info",
    "/api/v1/actors/%2561cme/default/counter",
    "http://acme/api/v1/actors/acme/default/counter",
    "http://default@acme/api/v1/actors/acme/default/counter",
    "https://127.0.0.1/api/v1/actors/acme/default/counter",
]


@pytest.mark.parametrize("path", PATHS)
async def test_no_spelling_of_a_path_leads_to_another_tenant(path: str) -> None:
    async with serving() as served:
        served.node.spawn(OTHERS)
        for method in ("GET", "POST", "DELETE"):
            body = b'{"op":"increment"}' if method == "POST" else b""
            sent = await served.raw(served.head(f"{method} {path} HTTP/1.1", f"content-length: {len(body)}") + body)
            assert statuses(sent)[0] in (400, 403, 404)
            assert b'"count"' not in sent
        assert served.node.messages == []
        assert served.node.living[OTHERS].count == 0


HEADERS = [
    "x-tenant: acme",
    "x-tenant-id: acme",
    "tenant: acme",
    "x-plexspaces-tenant: acme",
    "x-forwarded-host: acme",
    "x-forwarded-for: 127.0.0.1",
    "x-forwarded-prefix: /acme",
    "forwarded: for=127.0.0.1;host=acme",
    "x-original-url: /api/v1/actors/acme/default/counter",
    "x-rewrite-url: /api/v1/actors/acme/default/counter",
    "x-http-method-override: DELETE",
    "x-method-override: DELETE",
    "x-real-ip: 127.0.0.1",
    "x-remote-user: root",
    "remote-user: root",
    "x-authenticated-user: root",
    "cookie: token=x; tenant=acme",
    "proxy-authorization: Basic YTpi",
    "connection: authorization",
    "connection: close, authorization, host",
]


@pytest.mark.parametrize("header", HEADERS)
async def test_no_header_but_the_token_says_who_one_is(header: str) -> None:
    async with serving() as served:
        served.node.spawn(OTHERS)
        own = served.head(f"GET {COUNTER}?op=whoami HTTP/1.1", header)
        assert b'"subject":"ada"' in await served.raw(own)
        theirs = served.head("GET /api/v1/actors/acme/default/counter HTTP/1.1", header)
        assert statuses(await served.raw(theirs)) == [403]
        # And without a token none of them lets anybody in.
        bare = f"GET {COUNTER} HTTP/1.1\r\nhost: a\r\n{header}\r\nconnection: close\r\n\r\n".encode()
        assert statuses(await served.raw(bare)) == [401]
        assert served.node.living[OTHERS].count == 0
        assert len(served.node.living) == 2


@pytest.mark.parametrize("host", ["acme", "acme.example", "127.0.0.1:1", "[::1]", "a\tb", "evil/../x", "a" * 1_000])
async def test_the_host_decides_nothing(host: str) -> None:
    async with serving() as served:
        head = served.head(f"GET {COUNTER} HTTP/1.1").replace(b"host: localhost", b"host: " + host.encode())
        sent = await served.raw(head)
        assert statuses(sent) == [200]
        assert host.encode() not in sent


async def test_a_token_anywhere_but_in_its_header_is_none() -> None:
    async with serving() as served:
        token = served.token
        plain = httpx.AsyncClient(base_url=str(served.http.base_url), timeout=20)
        async with plain:
            for path in (
                f"{COUNTER}?access_token={token}",
                f"{COUNTER}?token={token}",
                f"{COUNTER}?authorization=Bearer%20{token}",
            ):
                assert (await plain.get(path)).status_code == 401
            for headers in (
                {"cookie": f"authorization=Bearer {token}"},
                {"x-access-token": token},
                {"proxy-authorization": f"Bearer {token}"},
                {"authorization": f"Basic {token}"},
                {"authorization": token},
                {"authorization": f"Bearer {token},Bearer {token}"},
                {"authorization": f"Bearer Bearer {token}"},
                {"authorization": f'Bearer "{token}"'},
            ):
                assert (await plain.get(COUNTER, headers=headers)).status_code == 401, headers
            form = {"access_token": token, "op": "increment"}
            assert (await plain.post(COUNTER, json=form)).status_code == 401
        assert served.node.messages == []


# -- bodies ------------------------------------------------------------------------------------------------

BOMBS = [
    b"[" * 1_000_000,
    b'{"a":' * 200_000,
    b'{"op":"get","a":' + b"[" * 990 + b"]" * 990 + b"}",
    b'{"op":"get","a":' + b"[" * 300 + b"]" * 300 + b"}",
    b'{"op":"echo","a":' + b"9" * 500_000 + b"}",
    b'{"op":"echo","a":1' + b"0" * 400 + b"}",
    b'{"op":"echo","a":1e999999999}',
    b'{"op":"echo","a":-1e999999999}',
    b'{"op":"echo","a":NaN}',
    b'{"op":"echo","a":"\\ud800"}',
    b'{"op":"echo","a":"\xed\xa0\x80"}',
    b'{"op":"echo","op":"increment","a":1,"a":2}',
    b'{"op":"echo","a":"\xff"}',
    b'\xef\xbb\xbf{"op":"echo"}',
    '{"op":"echo"}'.encode("utf-16"),
    b'{"op":"echo"}\x00',
    b'{"op":"echo","__proto__":{"a":1},"constructor":1}',
    b'{"op":["echo"]}',
    b'{"op":"' + b"e" * 200 + b'"}',
    b'{"' + b"a" * 500_000 + b'":1,"op":"echo"}',
    b'{"op":"echo",' + b",".join(b'"%d":1' % number for number in range(60_000)) + b"}",
]


@pytest.mark.parametrize("number", range(len(BOMBS)))
async def test_a_body_that_is_a_bomb(number: int) -> None:
    async with serving(node=MemoryNode(limits=Limits())) as served:
        answer = await served.http.post(f"{COUNTER}?wait=5", content=BOMBS[number])
        assert answer.status_code in (200, 400, 413)
        if answer.status_code != 200:
            # What was wrong is said, and not all of it repeated.
            assert len(answer.content) < 2_000
        await still_serves(served)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity, gzip", "x-gzip"])
async def test_a_compressed_body_is_not_unpacked(encoding: str) -> None:
    bomb = gzip.compress(b'{"op":"increment","x":"' + b"a" * 10_000_000 + b'"}')
    if encoding == "deflate":
        bomb = zlib.compress(b'{"op":"increment"}')
    async with serving(node=MemoryNode(limits=Limits())) as served:
        answer = await served.http.post(COUNTER, content=bomb, headers={"content-encoding": encoding})
        assert answer.status_code == 400
        assert served.node.messages == []


async def test_other_protocols_are_not_spoken() -> None:
    async with serving() as served:
        for request in (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
            b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\0" * 160,
            b"\x05\x01\x00",
            b"\0" * 1_000,
            b"*1\r\n$4\r\nPING\r\n",
            b"EHLO a\r\n",
            b"GET / HTTP/0.9\r\n\r\n",
            b"GET /\r\n",
        ):
            assert statuses(await served.raw(request, eof=True)) in ([400], [])
        upgrade = served.head(
            f"GET {COUNTER} HTTP/1.1",
            "upgrade: websocket",
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
            "sec-websocket-version: 13",
        ).replace(b"connection: close", b"connection: upgrade")
        # Answered as if it had not been asked for (RFC 9110, 7.8).
        assert statuses(await served.raw(upgrade)) == [200]
        for upgrade_to in (b"h2c", b"TLS/1.0"):
            head = served.head(
                f"GET {COUNTER} HTTP/1.1", f"upgrade: {upgrade_to.decode()}", "http2-settings: AAMAAABkAAQAAP__"
            )
            assert b"101" not in (await served.raw(head))[:20]
        await still_serves(served)


# -- words to the edge -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wait",
    [
        "nan",
        "NaN",
        "inf",
        "-inf",
        "Infinity",
        "-1",
        "0",
        "1e308",
        "1e3",
        "+1",
        "0x1",
        "1_0",
        " ",
        "",
        "1;1",
        "1" * 400,
        "\u0661",
    ],
)
async def test_a_wait_that_is_no_time(wait: str) -> None:
    async with serving() as served:
        assert (await served.http.post(COUNTER, params={"wait": wait}, json={"op": "get"})).status_code == 400
        preferred = await served.http.post(
            COUNTER, json={"op": "get"}, headers=[(b"prefer", b'wait="' + wait.encode() + b'"')]
        )
        # A wish, of which as much is granted as there is.
        assert preferred.status_code in (200, 202, 400)
        await still_serves(served)


async def test_a_thousand_requests_with_one_key_do_one_thing() -> None:
    async with serving() as served:
        headers = {"idempotency-key": "once"}

        async def ask() -> dict[str, int]:
            found = await served.http.post(f"{COUNTER}?wait=10", json={"op": "increment"}, headers=headers)
            assert found.status_code == 200
            answer: dict[str, int] = found.json()
            return answer

        assert {json.dumps(each) for each in await asyncio.gather(*(ask() for _ in range(200)))} == {'{"count": 1}'}
        assert operations(served) == ["increment"]


async def test_keys_without_number_fill_what_they_may_and_no_more() -> None:
    async with serving(config=HttpConfig(port=0, idempotency_entries_max=50, idempotency_bytes_max=20_000)) as served:
        for number in range(200):
            answer = await served.http.post(
                f"{COUNTER}?wait=5", json={"op": "increment"}, headers={"idempotency-key": f"k{number}" + "x" * 200}
            )
            assert answer.status_code == 200
        # The last ones are remembered; the first are not, and would be done again.
        for number, replayed in ((199, True), (0, False)):
            answer = await served.http.post(
                f"{COUNTER}?wait=5", json={"op": "increment"}, headers={"idempotency-key": f"k{number}" + "x" * 200}
            )
            assert ("idempotency-replayed" in answer.headers) is replayed


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/streams/a%00b", 400),
        ("/api/v1/streams/%ff", 400),
        ("/api/v1/streams/a/%2e%2e/b", 400),
        ("/api/v1/blobs/default/%2e%2e/%2e%2e/etc/passwd", 400),
        ("/api/v1/blobs/default/a%00", 400),
        ("/api/v1/blobs/default/..%2f..%2fetc%2fpasswd", 400),
        ("/api/v1/actors/default/default/coun%00ter", 400),
        ("/api/v1/actors/default/default/%ff", 400),
        ("/api/v1/actors/default/default/counter/%00", 400),
        ("/api/v1/actors/default/default/counter/" + "k" * 257, 400),
    ],
)
async def test_what_is_no_text_in_a_path(path: str, status: int) -> None:
    async with serving() as served:
        assert statuses(await served.raw(served.head(f"GET {path} HTTP/1.1"))) == [status]
        await still_serves(served)


async def test_the_figures_for_prometheus_name_no_tenant_and_nothing_of_one() -> None:
    """They are public, as scrapers expect: so what they say must be everybody's to know."""
    async with serving() as served:
        served.node.spawn(Address(Scope("hushed", "secretive"), "confidential"))
        token = LocalAuthority(KEY, served.node.clock).mint("hushed", "whisperer", ["admin"], 60)
        answer = await served.http.get(
            "/api/v1/actors/hushed/secretive/confidential", headers={"authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 200
        await served.http.get("/api/v1/streams/private/path")
        scraped = (await served.http.get("/metrics", headers={"authorization": ""})).text
        assert "plexspaces_http_requests_total" in scraped
        for name in ("hushed", "secretive", "confidential", "whisperer", "private", "default"):
            assert name not in scraped


# -- clients that stay -------------------------------------------------------------------------------------


async def test_slow_clients_by_the_hundred_are_sent_away_and_others_are_served() -> None:
    config = HttpConfig(port=0, head_timeout_s=0.3, body_timeout_s=0.3, keep_alive_s=0.3, linger_s=0.1)
    async with serving(config=config) as served:
        starts = [
            b"GET / HTTP/1.1\r\nhost: a\r\nx: ",
            served.head(f"POST {COUNTER} HTTP/1.1", "content-length: 100") + b"{",
            served.head(f"POST {COUNTER} HTTP/1.1", "transfer-encoding: chunked") + b"5\r\nhe",
            b"",
        ]
        clients = [await served.connect() for _ in range(200)]
        for number, (_, writer) in enumerate(clients):
            writer.write(starts[number % 4])
        while served.server.connections > 1:
            await still_serves(served)
        for number, (reader, writer) in enumerate(clients):
            sent = await reader.read()
            # Who has begun a request hears why; who has not, nothing.
            assert statuses(sent) == ([408] if number % 4 != 3 else [])
            writer.close()


async def test_half_closed_and_reset_clients_leave_nothing_behind() -> None:
    async with serving(config=HttpConfig(port=0, linger_s=0.1, keep_alive_s=1.0)) as served:
        whole = served.head(f"GET {COUNTER} HTTP/1.1")
        for part in (whole, whole[:40], b"", b"GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n" * 5):
            for ending in ("half", "reset", "close"):
                reader, writer = await served.connect()
                writer.write(part)
                await writer.drain()
                if ending == "half":
                    writer.write_eof()
                    await reader.read()
                elif ending == "reset":
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                writer.close()
        async with asyncio.timeout(20):
            while served.server.connections > 1:
                await still_serves(served)


# Opens as many connections as it may, asks for something on the last ones, and waits to be told to go.
_CROWD = """
import socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
held, refused, told = [], 0, 0
for number in range(count):
    try:
        one = socket.create_connection(("127.0.0.1", port), timeout=20)
        held.append(one)
    except OSError:
        refused += 1
for one in held[-50:]:
    try:
        one.sendall(b"GET /healthz HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n")
        told += one.recv(100).startswith(b"HTTP/1.1 503 ")
    except OSError:
        told += 1
print(len(held), refused, told, flush=True)
sys.stdin.readline()
"""


async def test_a_crowd_of_connections_is_refused_politely_and_those_who_are_in_are_served() -> None:
    """As many as this machine's limit of open files lets one process open, up to a hundred thousand."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(100_000, soft - 500) // 4
    config = HttpConfig(port=0, connections_max=300, linger_s=0.2, backlog=4_096)
    async with serving(config=config) as served:
        insider_reader, insider = await served.connect()
        ask = served.head(f"GET {COUNTER} HTTP/1.1").replace(b"connection: close", b"connection: keep-alive")

        async def served_inside() -> None:
            insider.write(ask)
            assert b'{"count":0}' in await insider_reader.readuntil(b"}")

        await served_inside()
        crowd = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _CROWD,
            str(served.server.port),
            str(count),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ},
        )
        assert crowd.stdin is not None
        assert crowd.stdout is not None
        telling = asyncio.ensure_future(crowd.stdout.readline())
        answered = 0
        while not telling.done() or answered < 20:
            await served_inside()
            answered += 1
            await asyncio.sleep(0)
        held, refused, told = map(int, (await telling).split())
        assert held + refused == count
        # Beyond the limit each hears 503, or finds the door closed.
        assert told == min(50, held)
        await served_inside()
        crowd.stdin.write(b"\n")
        await crowd.stdin.drain()
        await crowd.wait()
        async with asyncio.timeout(60):
            while served.server.connections > 2:
                await served_inside()
        await still_serves(served)
        insider.close()


async def test_a_client_that_sends_for_ever_after_it_was_refused_is_cut_off() -> None:
    async with serving(config=HttpConfig(port=0, linger_s=0.2)) as served:
        _, writer = await served.connect()

        async def go_on_for_ever() -> None:
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()

        writer.write(b"POST /api/v1/deploy HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\n\r\n")
        with pytest.raises(ConnectionError):
            await go_on_for_ever()
        writer.close()
        await still_serves(served)


@pytest.mark.parametrize("depth", [250, 300, 1_000])
async def test_arguments_that_can_be_read_and_not_written_are_refused(depth: int) -> None:
    """JSON can be read four times as deep as it can be written."""
    async with serving(node=MemoryNode(limits=Limits()), config=HttpConfig(port=0)) as served:
        deep = "[" * depth + "]" * depth
        answer = await served.http.get("/api/v1/workflows/counter/default/queries/get", params={"x": deep})
        assert answer.status_code in (200, 400)
        assert answer.status_code == 400 or depth == 250
        await still_serves(served)
