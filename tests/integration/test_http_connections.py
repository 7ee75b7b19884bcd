"""What clients do to a server: malformed, endless, slow, oversized and half-closed requests, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable

import httpx
import pytest
import uvloop

from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.api.connection import Listener
from plexspaces_runtime.clock import SystemClock
from tests.unit.api.memory_node import Served, serving

COUNTER = "/api/v1/actors/default/default/counter"
QUICK = HttpConfig(port=0, head_timeout_s=0.2, body_timeout_s=0.2, keep_alive_s=0.2, linger_s=0.2)


# pytest-asyncio warns of its own successor to this fixture, which its older versions do not have.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture:DeprecationWarning")


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


def answers(stream: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """The answers in a stream, each with a Content-Length."""
    found = []
    while stream:
        head, _, stream = stream.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        headers = dict(each.split(": ", 1) for each in lines)
        length = int(headers.get("content-length", "0"))
        found.append((int(line.split(" ")[1]), headers, stream[:length]))
        stream = stream[length:]
    return found


def only_problem(stream: bytes, status: int, code: str) -> dict[str, object]:
    [(found, headers, body)] = answers(stream)
    assert found == status, stream
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    document: dict[str, object] = json.loads(body)
    assert (document["code"], document["status"]) == (code, status)
    return document


async def still_serves(served: Served) -> None:
    assert (await served.http.get(COUNTER)).status_code == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
        b"GET / HTTP/9.9\r\nhost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\nhost: a\n\n",
        b"GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n folded: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)
async def test_what_is_not_http(request_: bytes) -> None:
    async with serving() as served:
        only_problem(await served.raw(request_), 400, "invalid-argument")
        await still_serves(served)


async def test_a_request_without_a_host() -> None:
    async with serving() as served:
        only_problem(await served.raw(b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n"), 400, "invalid-argument")
        [(status, headers, _)] = answers(await served.raw(b"GET /healthz HTTP/1.0\r\n\r\n"))
        assert (status, headers["connection"]) == (200, "close")


@pytest.mark.parametrize("name", ["host", "authorization", "content-type", "idempotency-key"])
async def test_a_header_that_may_be_there_once(name: str) -> None:
    async with serving() as served:
        head = served.head(f"GET {COUNTER} HTTP/1.1", f"{name}: a", f"{name}: b", "accept: x", "accept: y")
        document = only_problem(await served.raw(head), 400, "invalid-argument")
        assert name in str(document["detail"])


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 414, "uri-too-long"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 33000 + b"\r\n\r\n", 431, "headers-too-large"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 200_000, 431, "headers-too-large"),
        (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 101 + b"\r\n", 431, "headers-too-large"),
    ],
)
async def test_heads_that_are_too_large(head: bytes, status: int, code: str) -> None:
    async with serving() as served:
        only_problem(await served.raw(head), status, code)
        await still_serves(served)


async def test_a_head_just_within_the_limits() -> None:
    async with serving(config=HttpConfig(port=0, head_bytes_max=1000, headers_max=5)) as served:

        def head(size: int) -> bytes:
            fixed = len(b"/healthz") + sum(map(len, ("host", "a", "connection", "close", "x"))) + 3 * 4
            return b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: %b\r\n\r\n" % (b"v" * (size - fixed))

        assert answers(await served.raw(head(1000)))[0][0] == 200
        only_problem(await served.raw(head(1001)), 431, "headers-too-large")


async def test_a_head_that_follows_a_large_body_is_not_blamed_for_it() -> None:
    async with serving(config=HttpConfig(port=0, head_bytes_max=1000)) as served:
        body = b'{"op":"echo","a":"' + b"x" * 3000 + b'"}'
        first = served.head(f"POST {COUNTER} HTTP/1.1", f"content-length: {len(body)}").replace(
            b"connection: close\r\n", b""
        )
        # The second head comes in two pieces, the first of which stands behind the body.
        second = served.head("GET /healthz HTTP/1.1")
        reader, writer = await served.connect()
        writer.write(first + body + second[:20])
        told = await reader.readuntil(b"}")
        writer.write(second[20:])
        assert [status for status, _, _ in answers(told + await reader.read())] == [202, 200]
        writer.close()


async def test_a_head_that_follows_a_body_has_the_same_limits() -> None:
    async with serving(config=HttpConfig(port=0, head_bytes_max=1000)) as served:
        body = b'{"op":"get"}'
        first = served.head(f"POST {COUNTER} HTTP/1.1", f"content-length: {len(body)}").replace(
            b"connection: close\r\n", b""
        )
        second = b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 1000 + b"\r\n\r\n"
        found = answers(await served.raw(first + body + second))
        assert [status for status, _, _ in found] == [202, 431]
        reader, writer = await served.connect()
        writer.write(first + body + second[:20])
        told = await reader.readuntil(b"}")
        writer.write(second[20:-4] + b"y" * 1000)
        assert [status for status, _, _ in answers(told + await reader.read())] == [202, 431]
        writer.close()


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as served:
        body = b'{"op":"increment"}'
        ask = served.head(f"POST {COUNTER}?wait=5 HTTP/1.1", f"content-length: {len(body)}").replace(
            b"connection: close\r\n", b""
        )
        stream = await served.raw((ask + body) * 50 + served.head("GET /healthz HTTP/1.1"))
        found = answers(stream)
        assert [json.loads(content) for _, _, content in found[:-1]] == [{"count": n} for n in range(1, 51)]
        assert found[-1][2] == b'{"status":"ok"}'


async def test_nonsense_behind_a_request_is_answered_after_it() -> None:
    async with serving() as served:
        head = served.head(f"GET {COUNTER} HTTP/1.1").replace(b"connection: close\r\n", b"")
        good, bad = answers(await served.raw(head + b"\0\0\0\0\r\n\r\n"))
        assert (good[0], good[2]) == (200, b'{"count":0}')
        assert bad[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloworld\r\n0\r\n\r\n",
        b"fffffffffffffffffff\r\n",
    ],
)
async def test_bad_chunks(body: bytes) -> None:
    async with serving() as served:
        head = served.head(f"POST {COUNTER} HTTP/1.1", "transfer-encoding: chunked")
        only_problem(await served.raw(head + body), 400, "invalid-argument")
        await still_serves(served)


async def test_a_body_in_one_byte_chunks() -> None:
    async with serving() as served:
        message = b'{"op":"echo","text":"' + b"x" * 1000 + b'"}'
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in message) + b"0\r\n\r\n"
        head = served.head(f"POST {COUNTER}?wait=5 HTTP/1.1", "transfer-encoding: chunked")
        [(status, _, body)] = answers(await served.raw(head + chunks))
        assert (status, json.loads(body)) == (200, {"text": "x" * 1000})


async def test_trailers_are_no_headers() -> None:
    async with serving() as served:
        token = served.token
        head = (
            f"POST {COUNTER}?wait=5 HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        ).encode()
        body = b'14\r\n{"op":"increment"}  \r\n0\r\n' + f"authorization: Bearer {token}\r\n\r\n".encode()
        only_problem(await served.raw(head + body), 401, "unauthenticated")


@pytest.mark.parametrize("junk", [b"1;" + b"e" * 4000 + b"\r\nx\r\n", b"0\r\n" + b"t: " + b"v" * 1_000_000])
async def test_framing_that_outweighs_its_content(junk: bytes) -> None:
    async with serving() as served:
        head = served.head(f"POST {COUNTER} HTTP/1.1", "transfer-encoding: chunked")
        only_problem(await served.raw(head + junk * 400), 400, "invalid-argument")
        await still_serves(served)


async def test_expect_100_continue() -> None:
    async with serving() as served:
        body = b'{"op":"increment"}'
        head = served.head(f"POST {COUNTER}?wait=5 HTTP/1.1", f"content-length: {len(body)}", "expect: 100-continue")
        reader, writer = await served.connect()
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert answers(await reader.read())[0][2] == b'{"count":1}'
        writer.close()


async def test_a_refusal_comes_instead_of_100_continue() -> None:
    async with serving() as served:
        head = served.head(f"POST {COUNTER} HTTP/1.1", "content-length: 1000000", "expect: 100-continue")
        only_problem(await served.raw(head), 413, "payload-too-large")


async def test_upgrade_is_not_taken() -> None:
    async with serving() as served:
        upgrade = ("connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__")
        get = served.head(f"GET {COUNTER} HTTP/1.1", *upgrade).replace(b"connection: close\r\n", b"")
        assert answers(await served.raw(get))[0][2] == b'{"count":0}'
        post = served.head(f"POST {COUNTER} HTTP/1.1", *upgrade, "content-length: 2")
        document = only_problem(
            await served.raw(post.replace(b"connection: close\r\n", b"") + b"{}"), 400, "invalid-argument"
        )
        assert "Upgrade" in str(document["detail"])


async def test_a_client_that_closes_its_half_still_gets_the_answer() -> None:
    async with serving() as served:
        body = b'{"op":"wait"}'
        head = served.head(f"POST {COUNTER}?wait=5 HTTP/1.1", f"content-length: {len(body)}")
        answer = asyncio.create_task(served.raw(head + body, eof=True))
        await served.node.entered.wait()
        served.node.gate.set()
        assert answers(await answer)[0][2] == b'{"count":1}'


async def test_a_client_that_goes_in_the_middle_of_its_body() -> None:
    async with serving() as served:
        head = served.head(f"POST {COUNTER} HTTP/1.1", "content-length: 100")
        assert await served.raw(head + b'{"op"', eof=True) == b""
        assert served.node.messages == []
        await still_serves(served)


@pytest.mark.parametrize("piece", [b"GET /healthz HTTP/1.1\r\nhost: a\r\n", b"G", b"POST / HTTP/1.1\r\nx"])
async def test_a_head_that_does_not_end(piece: bytes) -> None:
    async with serving(config=QUICK) as served:
        only_problem(await served.raw(piece), 408, "request-timeout")


async def test_a_head_that_drips_is_not_given_more_time() -> None:
    async with serving(config=QUICK) as served:
        reader, writer = await served.connect()
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        ended = asyncio.create_task(reader.read())
        drips = 0
        while not ended.done():
            writer.write(b"x: y\r\n")
            drips += 1
            await asyncio.wait([ended], timeout=0.02)
            assert drips < 200
        only_problem(await ended, 408, "request-timeout")
        writer.close()


@pytest.mark.parametrize("drip", [b"", b"x"])
async def test_a_body_that_does_not_come_or_drips(drip: bytes) -> None:
    async with serving(config=QUICK) as served:
        reader, writer = await served.connect()
        writer.write(served.head(f"POST {COUNTER} HTTP/1.1", "content-length: 4000") + b'{"op":"')
        ended = asyncio.create_task(reader.read())
        drips = 0
        while not ended.done():
            writer.write(drip)
            drips += 1
            await asyncio.wait([ended], timeout=0.02)
            assert drips < 200
        only_problem(await ended, 408, "request-timeout")
        writer.close()
        assert served.node.messages == []


async def test_a_connection_that_does_nothing_is_closed() -> None:
    async with serving(config=QUICK) as served:
        assert await served.raw(b"") == b""
        reader, writer = await served.connect()
        writer.write(served.head(f"GET {COUNTER} HTTP/1.1").replace(b"connection: close\r\n", b""))
        assert answers(await reader.read())[0][0] == 200
        writer.close()


async def test_a_slow_actor_is_not_a_slow_client() -> None:
    async with serving(config=QUICK) as served:
        asked = asyncio.create_task(served.http.post(COUNTER + "?wait=5", json={"op": "wait"}))
        await served.node.entered.wait()
        # As long as an idle connection may live, and another.
        await served.raw(b"")
        await served.raw(b"")
        served.node.gate.set()
        assert (await asked).json() == {"count": 1}


async def test_more_connections_than_the_node_serves() -> None:
    async with serving(config=HttpConfig(port=0, connections_max=2)) as served:
        _, first = await served.connect()
        await served.http.get("/healthz")
        only_problem(await served.raw(b""), 503, "overloaded")
        first.close()
        await still_serves(served)


async def test_no_connection_no_timer() -> None:
    async with serving(config=QUICK) as served:
        assert await served.raw(b"") == b""
        await served.http.aclose()
        while served.server.connections:
            await asyncio.sleep(0)
        # The last sweep finds nobody and is not repeated.
        async with asyncio.timeout(5):
            while served.server._listener._sweeper is not None:
                await asyncio.sleep(0)


async def served_by(app: Callable[..., object], request: bytes) -> bytes:
    """What an application other than ours answers with on our connections."""
    listener = Listener(app, HttpConfig(port=0), SystemClock())  # type: ignore[arg-type]
    await listener.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(request)
        async with asyncio.timeout(10):
            stream = await reader.read()
        writer.close()
        return stream
    finally:
        await listener.stop(1)


async def test_an_answer_in_pieces() -> None:
    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        for piece in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"three"})

    new = await served_by(app, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert b"transfer-encoding: chunked" in new
    assert new.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n")
    old = await served_by(app, b"GET / HTTP/1.0\r\n\r\n")
    assert old.endswith(b"\r\n\r\nonetwothree")
    head = await served_by(app, b"HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("begun", [False, True])
async def test_an_application_that_fails(begun: bool) -> None:
    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("hunter2")

    request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    if begun:
        # Cut off in the middle, so that nobody takes it for the whole.
        with contextlib.suppress(ConnectionResetError):
            assert b"\r\n0\r\n" not in await served_by(app, request)
    else:
        stream = await served_by(app, request)
        only_problem(stream, 500, "internal")
        assert b"hunter2" not in stream


async def test_an_answers_header_cannot_hold_another() -> None:
    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        headers = [(b"location", b"/a\r\nset-cookie: x=y")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    stream = await served_by(app, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    only_problem(stream, 500, "internal")
    assert b"set-cookie" not in stream


async def test_a_client_that_reads_slowly_makes_the_application_wait() -> None:
    written = 0

    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        nonlocal written
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(400):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            written += 65536

    listener = Listener(app, HttpConfig(port=0), SystemClock())
    await listener.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    await reader.readexactly(1000)
    before = -1
    while written != before:
        before = written
        for _ in range(50):
            await asyncio.sleep(0)
    assert written < 400 * 65536
    writer.transport.abort()
    await listener.stop(0)


async def test_every_answer_says_when_and_by_whom() -> None:
    async with serving() as served:
        response: httpx.Response = await served.http.get("/healthz")
        assert response.headers["server"] == "plexspaces"
        assert response.headers["date"].endswith(" GMT")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert (await served.http.get(COUNTER)).headers["cache-control"] == "no-store"
