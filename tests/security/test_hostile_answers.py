"""A service that is out to hurt whoever asks it: each answer ends in time, in bounds, in words of the node's."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import ssl
import struct
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest

from plexspaces_runtime.egress.client import HEAD_BYTES_MAX, PIECE_BYTES_MAX, Broken, Decoder
from plexspaces_runtime.egress.model import Request
from plexspaces_runtime.errors import (
    DeadlineExceeded,
    LimitExceeded,
    PermissionDenied,
    PlexSpacesError,
    Unavailable,
)
from plexspaces_runtime.events import EgressRefused, SecretReflected
from tests.unit.egress.stage import (
    CALL,
    Heard,
    Peer,
    Script,
    Secrets,
    Stage,
    Writer,
    answer,
    certificate,
    egress,
    listening,
    saying,
)

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
# Words of a hostile answer, which must never be found in an error.
EVIL = "evil-words-4711"
EVIL_B = EVIL.encode()


def raw(*pieces: bytes, close: bool = True) -> Script:
    async def script(_heard: Heard, writer: Writer) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if close:
            writer.close()

    return script


def endless(piece: bytes, head: bytes = b"") -> Script:
    async def script(_heard: Heard, writer: Writer) -> None:
        writer.write(head)
        while not writer.transport.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return script


def dripping(head: bytes, piece: bytes) -> Script:
    async def script(_heard: Heard, writer: Writer) -> None:
        writer.write(head)
        while not writer.transport.is_closing():
            writer.write(piece)
            await asyncio.sleep(0.002)

    return script


async def silence(_heard: Heard, _writer: Writer) -> None:
    await asyncio.Event().wait()


async def fails(stage: Stage, *kinds: type[PlexSpacesError], **fields: object) -> PlexSpacesError:
    """A request fails in one of these ways, in words of our own."""
    with pytest.raises(kinds) as failed:
        await stage.get("/x", **fields)
    assert EVIL not in json.dumps([failed.value.message, failed.value.details])
    assert EVIL not in repr(stage.seen)
    assert re.search("h11|httpcore|h2[.]|zlib|Traceback", failed.value.message) is None
    # Nor behind it, for whoever logs a chain.
    assert failed.value.__cause__ is None
    return failed.value


# -- answers that are none ---------------------------------------------------------------------------------

BROKEN = {
    "nothing": b"",
    "no HTTP": EVIL_B + b"\r\n\r\n",
    "HTTP/0.9": b"<html>" + EVIL_B,
    "another protocol": b"SSH-2.0-" + EVIL_B + b"\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status 000": b"HTTP/1.1 000 OK\r\n\r\n",
    "status 600": b"HTTP/1.1 600 OK\r\ncontent-length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 OK\r\ncontent-length: 0\r\n\r\n",
    "another protocol from here": b"HTTP/1.1 101 OK\r\nupgrade: " + EVIL_B + b"\r\n\r\n",
    "only an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "a header without a name": b"HTTP/1.1 200 OK\r\n: " + EVIL_B + b"\r\n\r\n",
    "a header without a colon": b"HTTP/1.1 200 OK\r\n" + EVIL_B + b"\r\n\r\n",
    "a NUL in a header": b"HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n",
    "a blank in a name": b"HTTP/1.1 200 OK\r\nx y: " + EVIL_B + b"\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "a negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    "a length in words": b"HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\nhello",
    "a length of a thousand digits": b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 1000 + b"\r\n\r\n",
    "less than was said": b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello",
    "an unknown transfer coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: " + EVIL_B + b"\r\n\r\nhello",
    "a chunk of no length": CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
    "a chunk of a negative length": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "a chunk of endless length": CHUNKED + b"f" * 1000 + b"\r\nhello",
    "a chunk without an end": CHUNKED + b"5\r\nhelloworld\r\n0\r\n\r\n",
    "no last chunk": CHUNKED + b"5\r\nhello\r\n",
    "gzip that is none": answer(b"hello", content_encoding="gzip"),
    "deflate that is none": answer(b"\xff\xff\xff\xff", content_encoding="deflate"),
    "half a gzip": answer(gzip.compress(b"hello" * 100)[:-10], content_encoding="gzip"),
    "half a deflate": answer(b"\x78", content_encoding="deflate"),
    "something after gzip": answer(gzip.compress(b"hello") + EVIL_B, content_encoding="gzip"),
    "two gzips in a row": answer(gzip.compress(b"hello") * 2, content_encoding="gzip"),
    "gzip in gzip": answer(gzip.compress(gzip.compress(b"hello")), content_encoding="gzip, gzip"),
    "gzip in gzip, in two headers": answer(
        gzip.compress(gzip.compress(b"hello")), content_encoding="gzip\r\ncontent-encoding: gzip"
    ),
    "a coding nobody asked for": answer(b"hello", content_encoding="br"),
    "another coding": answer(b"hello", content_encoding=EVIL),
}


@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN.keys())
async def test_what_is_no_answer_is_an_ordinary_error(said: bytes) -> None:
    async with listening(raw(said)) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", retries_max=0)
        await fails(stage, Unavailable, LimitExceeded)
        peer.script = saying(answer(b"fine"))
        assert (await stage.get()).body == b"fine"


@pytest.mark.parametrize("late", [False, True])
async def test_what_follows_an_answer_is_not_the_next_one(late: bool) -> None:
    said = asyncio.Event()

    async def poisoned(_heard: Heard, writer: Writer) -> None:
        writer.write(answer(b"one"))
        if late:
            await writer.drain()
            # Once the first answer has been taken.
            await said.wait()
        writer.write(answer(EVIL_B))

    async with listening(poisoned) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", retries_max=0, breaker_failures=100)
        for at in range(4):
            try:
                assert (await stage.get("/x")).body == b"one"
            except Unavailable:
                assert at > 0
            said.set()
            # What was said while the connection was idle has come by the time another request does.
            for _ in range(20):
                await asyncio.sleep(0)
            said.clear()
        assert len(peer.heard) == 4


async def test_an_answer_that_was_there_before_its_request_is_none() -> None:
    async def hasty(reader: asyncio.StreamReader, writer: Writer) -> None:
        writer.write(answer(b"one") + answer(EVIL_B))
        await writer.drain()
        await reader.read(10_000)
        await reader.read(10_000)
        writer.close()

    server = await asyncio.start_server(hasty, "127.0.0.1", 0)
    async with server, egress() as stage:
        stage.link(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", retries_max=0)
        assert (await stage.get("/x")).body == b"one"
        await fails(stage, Unavailable)


async def test_both_a_length_and_chunks_are_read_as_chunks() -> None:
    said = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    async with listening(raw(said, close=False)) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}")
        for _ in range(2):
            assert (await stage.get()).body == b"hello"


# -- answers without an end --------------------------------------------------------------------------------

ENDLESS: dict[str, tuple[Script, tuple[type[PlexSpacesError], ...]]] = {
    "no answer": (silence, (DeadlineExceeded,)),
    "a head in drops": (dripping(b"HTTP/1.1 200 OK\r\nx: ", b"y"), (DeadlineExceeded,)),
    "a body in drops": (dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"y"), (DeadlineExceeded,)),
    "a body in small chunks": (dripping(CHUNKED, b"1\r\ny\r\n"), (DeadlineExceeded,)),
    "an endless status line": (endless(b"x" * 10_000, b"HTTP/1.1 200 "), (LimitExceeded, Unavailable)),
    "an endless header": (endless(b"x" * 10_000, b"HTTP/1.1 200 OK\r\nx: "), (LimitExceeded, Unavailable)),
    "endless headers": (endless(b"x: y\r\n" * 2000, b"HTTP/1.1 200 OK\r\n"), (LimitExceeded, Unavailable)),
    "endless interim answers": (endless(b"HTTP/1.1 103 Early\r\nx: " + b"y" * 1000 + b"\r\n\r\n"), (LimitExceeded,)),
    "endless blank lines": (endless(b"\r\n" * 4000), (LimitExceeded, Unavailable)),
    "an endless body": (endless(b"x" * 10_000, b"HTTP/1.1 200 OK\r\n\r\n"), (LimitExceeded,)),
    "endless chunks": (endless(b"3e8\r\n" + b"x" * 1000 + b"\r\n", CHUNKED), (LimitExceeded,)),
    "endless chunks of one byte": (endless(b"1\r\nx\r\n" * 100, CHUNKED), (LimitExceeded, DeadlineExceeded)),
    "an endless chunk's extension": (endless(b"x" * 10_000, CHUNKED + b"1;a="), (LimitExceeded, Unavailable)),
    "chunks that are nothing but extension": (
        endless((b"1;a=" + b"b" * 400 + b"\r\nx\r\n") * 5, CHUNKED),
        (LimitExceeded, Unavailable),
    ),
    "endless trailers": (endless(b"x: y\r\n" * 2000, CHUNKED + b"0\r\n"), (LimitExceeded, Unavailable)),
    "ten gigabytes, it says": (
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n", close=False),
        (LimitExceeded,),
    ),
    "nothing of what was promised": (
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 50000\r\n\r\n", close=False),
        (DeadlineExceeded,),
    ),
}


@pytest.mark.parametrize(("script", "kinds"), ENDLESS.values(), ids=ENDLESS.keys())
async def test_what_never_ends_is_ended(script: Script, kinds: tuple[type[PlexSpacesError], ...]) -> None:
    async with listening(script) as peer, egress() as stage:
        stage.link(
            f"http://127.0.0.1:{peer.port}",
            retries_max=0,
            first_byte_timeout_s=0.5,
            total_timeout_s=0.8,
            response_bytes_max=100_000,
        )
        async with asyncio.timeout(5):
            await fails(stage, *kinds)
            # It does not go on behind our back.
            await peer.closed.wait()
        peer.script = saying(answer(b"fine"))
        assert (await stage.get()).body == b"fine"


@pytest.mark.parametrize("whole", [True, False])
async def test_a_service_that_falls_silent_in_the_middle_is_given_up(whole: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 50000\r\n\r\n"
    async with listening(raw(head + b"begun", close=False)) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", retries_max=0, idle_timeout_s=0.2, total_timeout_s=60)
        async with asyncio.timeout(5):
            if whole:
                with pytest.raises(DeadlineExceeded, match="nothing more of the answer within"):
                    await stage.get()
            else:
                body = await stage.egress.open(CALL, Request("api", "GET", "/"))
                assert await body.read() == "begun"
                with pytest.raises(DeadlineExceeded, match="nothing more of the answer within"):
                    await body.read()
            await peer.closed.wait()


async def test_a_service_that_takes_no_request_is_given_up() -> None:
    async def deaf(_reader: asyncio.StreamReader, writer: Writer) -> None:
        _reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(5)
        writer.close()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    async with egress() as stage:
        stage.link(
            f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            retries_max=0,
            first_byte_timeout_s=0.1,
            request_bytes_max=64 * 2**20,
        )
        with pytest.raises(DeadlineExceeded):
            await stage.post(body=b"x" * 32 * 2**20)
    server.close()


# -- bombs -------------------------------------------------------------------------------------------------


def bomb(gigabytes: int) -> Iterator[bytes]:
    """Zeros, as gzip: the same compressed megabyte again and again."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    megabyte = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    yield b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    for _ in range(gigabytes * 1024 // 16):
        yield megabyte * 16


@pytest.mark.parametrize("whole", [True, False])
async def test_a_bomb_is_noticed_while_it_goes_off(whole: bool) -> None:
    async def explosive(_heard: Heard, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n")
        for piece in bomb(10):
            if writer.transport.is_closing():
                return
            writer.write(piece)
            await writer.drain()

    async with listening(explosive) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", response_bytes_max=1_000_000)
        tracemalloc.start()
        try:
            if whole:
                await fails(stage, LimitExceeded)
            else:
                body = await stage.egress.open(CALL, Request("api", "GET", "/"))
                size = 0
                try:
                    while (piece := await body.read()) is not None:
                        size += len(piece)
                        assert len(piece) <= PIECE_BYTES_MAX
                except LimitExceeded:
                    assert 1_000_000 - PIECE_BYTES_MAX <= size <= 1_000_000
                else:
                    pytest.fail("ten gigabytes were read")
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # The body itself, and pieces of it on both sides.
        assert peak_bytes < 6_000_000


def test_no_piece_of_a_bomb_is_larger_than_a_piece() -> None:
    decoder = Decoder("gzip")
    pieces = bomb(1)
    next_megabytes = next(pieces) + next(pieces)
    sizes = [len(piece) for piece in decoder.feed(next_megabytes)]
    assert max(sizes) == PIECE_BYTES_MAX
    assert sum(sizes) == 16 * 2**20


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw deflate"])
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_what_is_honestly_compressed_is_read_whole_however_it_is_cut(coding: str, step: int) -> None:
    content = b"".join(struct.pack(">I", number * number) for number in range(20_000)) + bytes(100_000)
    wbits = {"gzip": 31, "deflate": 15, "raw deflate": -15}[coding]
    compressor = zlib.compressobj(9, zlib.DEFLATED, wbits)
    packed = compressor.compress(content) + compressor.flush()
    decoder = Decoder(coding.removeprefix("raw "))
    read = b"".join(piece for at in range(0, len(packed), step) for piece in decoder.feed(packed[at : at + step]))
    decoder.finish()
    assert read == content
    shorter = Decoder(coding.removeprefix("raw "))
    for _ in shorter.feed(packed[:-5]):
        pass
    with pytest.raises(Broken):
        shorter.finish()


def test_nothing_that_has_come_is_held_back() -> None:
    packed = gzip.compress(bytes(40_000) + b"some words" + bytes(40_000))
    for cut in range(len(packed)):
        decoder, whole = Decoder("gzip"), zlib.decompressobj(31)
        assert b"".join(decoder.feed(packed[:cut])) == whole.decompress(packed[:cut])


async def test_nothing_is_read_ahead_of_whoever_reads() -> None:
    sent = 0

    async def eager(_heard: Heard, writer: Writer) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.transport.is_closing():
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    async with listening(eager) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", response_bytes_max=2**30)
        body = await stage.egress.open(CALL, Request("api", "GET", "/"))
        assert len(await body.read() or "") <= PIECE_BYTES_MAX
        before = -1
        async with asyncio.timeout(10):
            # The system's own buffers fill up, and then it is over.
            while sent != before:
                before = sent
                await asyncio.sleep(0.1)
        assert sent < 32 * 2**20
        body.close()


async def test_what_an_idle_connection_says_is_not_hoarded() -> None:
    sent = 0
    idle = asyncio.Event()

    async def talkative(_heard: Heard, writer: Writer) -> None:
        nonlocal sent
        writer.write(answer(b"one"))
        await idle.wait()
        while not writer.transport.is_closing():
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    async with listening(talkative) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", retries_max=0)
        assert (await stage.get()).body == b"one"
        idle.set()
        before = -1
        async with asyncio.timeout(10):
            while sent != before or not sent:
                before = sent
                await asyncio.sleep(0.1)
        assert sent < 32 * 2**20


# -- contents ----------------------------------------------------------------------------------------------


async def test_a_body_that_is_no_text_stays_as_it_is_or_becomes_text() -> None:
    said = b"\xff\xfe{not json\x00\xc3"
    async with listening(saying(answer(said, content_type="application/json"))) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}")
        assert (await stage.get()).body == said
        body = await stage.egress.open(CALL, Request("api", "GET", "/"))
        text = ""
        while (piece := await body.read()) is not None:
            text += piece
        assert text == "\ufffd\ufffd{not json\x00\ufffd"
        text.encode()


async def test_an_answers_headers_are_those_that_concern_the_actor() -> None:
    said = answer(
        b"x",
        connection="close",
        keep_alive="timeout=5",
        proxy_authenticate="Basic",
        alt_svc='h3=":443"',
        set_cookie="a=b",
        x_odd="caf\xe9 \x7f end",
    )
    async with listening(saying(said)) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}")
        assert dict((await stage.get()).headers) == {"x-odd": "caf\xe9   end"}
        stage.link(f"http://127.0.0.1:{peer.port}", cookies=True)
        assert (await stage.get(headers={"Cookie": "a=b"})).headers["set-cookie"] == "a=b"


async def test_an_echoed_key_is_found_in_every_part_of_an_answer() -> None:
    value = "s3cr3t-value-1"
    secrets = Secrets({"key": value})
    parts = [
        answer(value.encode()),
        answer(gzip.compress(f"x{value}x".encode()), content_encoding="gzip"),
        answer(b"", 401, www_authenticate=f'Bearer realm="{value}"'),
        answer(b"", 302, location=f"https://elsewhere.example/?key={value}"),
        f"HTTP/1.1 {value}\r\n\r\n".encode(),
        f"HTTP/1.1 200 OK\r\n{value}\r\n\r\n".encode(),
        answer(f"{value} more".encode(), content_encoding=value),
    ]
    for said in parts:
        async with listening(raw(said)) as peer, egress(secrets=secrets) as stage:
            stage.link(
                f"http://127.0.0.1:{peer.port}",
                auth={"header": "authorization", "value": "Bearer ${secret:key}"},
                retries_max=0,
            )
            try:
                reply = await stage.get()
            except PlexSpacesError as error:
                outcome = f"{error.message} {error.details} {error.__cause__!r}"
            else:
                outcome = repr((reply.headers, reply.body))
                assert [event.names for event in stage.events(SecretReflected)] == [("key",)]
            assert value not in outcome
            assert value not in repr(stage.seen)
            assert value in str(peer.heard)


# -- redirects ---------------------------------------------------------------------------------------------


async def test_a_redirect_is_the_actors_unless_the_link_follows_them() -> None:
    async with listening(saying(answer(b"", 302, location="http://169.254.169.254/"))) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}")
        reply = await stage.get()
        assert (reply.status, reply.headers["location"]) == (302, "http://169.254.169.254/")
        assert len(peer.heard) == 1


async def test_a_followed_redirect_stays_where_the_link_leads() -> None:
    async with listening(saying(answer(b"not yours"))) as other:
        secrets = Secrets({"key": "s3cr3t"})
        async with listening(saying(answer())) as peer, egress(secrets=secrets) as stage:
            stage.link(
                f"http://127.0.0.1:{peer.port}/base",
                allow=["GET /a", "GET /b", "POST /a"],
                redirects_max=2,
                auth={"header": "x-key", "value": "${secret:key}"},
            )
            here = f"127.0.0.1:{peer.port}"
            for location in [
                f"http://127.0.0.1:{other.port}/base/b",
                f"//127.0.0.1:{other.port}/base/b",
                f"https://{here}/base/b",
                f"http://localhost:{peer.port}/base/b",
                f"http://{here}@127.0.0.1:{other.port}/base/b",
                f"http://127.0.0.1:{other.port}#@{here}/base/b",
                f"http://127.0.0.1:{other.port}\\@{here}/base/b",
                "http://169.254.169.254/base/b",
                "http://[::ffff:169.254.169.254]/base/b",
                "http://2852039166/base/b",
                "/b",
                "/base/../b",
                "/base/%2e%2e/b",
                "/base/c",
                "/base//b",
                "/base\\b",
                "/base/b/../c",
                "c",
                "../b",
                "file:///etc/passwd",
                "gopher://127.0.0.1/",
                "javascript:1",
                "\t//x",
            ]:
                peer.script = saying(answer(b"", 302, location=location), answer(b"followed"))
                with pytest.raises(PermissionDenied):
                    await stage.get("/a")
            assert other.connections == 0
            assert all(heard.target == "/base/a" for heard in peer.heard)
            assert len(stage.events(EgressRefused)) == 23

            for location in ("/base/b", f"http://{here}/base/b", f"HTTP://{here}/base/%62#top", "b"):
                peer.heard.clear()
                peer.script = saying(answer(b"", 302, location=location), answer(b"followed"))
                reply = await stage.post("/a", body=b"x", headers={"content-type": "text/plain"})
                assert reply.body == b"followed"
                first, second = peer.heard
                assert (second.method, second.target, second.body) == ("GET", "/base/b", b"")
                assert second.headers["x-key"] == first.headers["x-key"] == "s3cr3t"
                assert "content-type" not in second.headers
            peer.script = saying(answer(b"", 307, location="/base/a"))
            with pytest.raises(LimitExceeded):
                await stage.get("/a")


# -- HTTP/2 ------------------------------------------------------------------------------------------------

Conduct = Callable[[h2.connection.H2Connection, int, Writer], Awaitable[None]]


class Http2Peer(Peer):
    """Speaks HTTP/2 and does to each request as it is told."""

    def __init__(self, conduct: Conduct) -> None:
        super().__init__(saying(b""))
        self.conduct = conduct

    async def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        config = h2.config.H2Configuration(
            client_side=False, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        connection = h2.connection.H2Connection(config)
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        try:
            while data := await reader.read(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        headers = dict(event.headers)
                        self.heard.append(Heard(headers[b":method"].decode(), headers[b":path"].decode(), {}, b""))
                    if isinstance(event, h2.events.DataReceived):
                        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    if isinstance(event, h2.events.StreamEnded):
                        await self.conduct(connection, event.stream_id, writer)
                if not writer.transport.is_closing():
                    writer.write(connection.data_to_send())
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self.closed.set()


def honest(body: bytes = b"fine") -> Conduct:
    async def conduct(connection: h2.connection.H2Connection, stream: int, _writer: Writer) -> None:
        connection.send_headers(stream, [(":status", "200"), ("x-a", "b")])
        connection.send_data(stream, body, end_stream=True)

    return conduct


def heading(*headers: tuple[str, str]) -> Conduct:
    async def conduct(connection: h2.connection.H2Connection, stream: int, _writer: Writer) -> None:
        connection.send_headers(stream, list(headers), end_stream=True)

    return conduct


def flooding(frame: bytes, head: bytes = b"") -> Conduct:
    async def conduct(connection: h2.connection.H2Connection, _stream: int, writer: Writer) -> None:
        writer.write(connection.data_to_send() + head)
        while not writer.transport.is_closing():
            writer.write(frame * 1000)
            await writer.drain()
            await asyncio.sleep(0)

    return conduct


async def hang_up(_connection: h2.connection.H2Connection, _stream: int, writer: Writer) -> None:
    writer.close()


async def say_goodbye(connection: h2.connection.H2Connection, _stream: int, _writer: Writer) -> None:
    connection.close_connection(last_stream_id=0)


async def reset(connection: h2.connection.H2Connection, stream: int, _writer: Writer) -> None:
    connection.reset_stream(stream)


async def say_nothing(_connection: h2.connection.H2Connection, _stream: int, _writer: Writer) -> None:
    pass


async def endless_body(connection: h2.connection.H2Connection, stream: int, writer: Writer) -> None:
    connection.send_headers(stream, [(":status", "200")])
    while not writer.transport.is_closing() and connection.local_flow_control_window(stream) > 16_000:
        connection.send_data(stream, b"x" * 16_000)
        writer.write(connection.data_to_send())
        await writer.drain()


async def pinging(connection: h2.connection.H2Connection, stream: int, writer: Writer) -> None:
    connection.send_headers(stream, [(":status", "200")])
    while not writer.transport.is_closing():
        writer.write(connection.data_to_send() + frame(6, 0, 0, b"12345678") * 100)
        await writer.drain()
        await asyncio.sleep(0)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


HOSTILE_HTTP2: dict[str, tuple[Conduct, tuple[type[PlexSpacesError], ...]]] = {
    "a status in words": (heading((":status", EVIL)), (Unavailable,)),
    "a status of nothing": (heading((":status", "")), (Unavailable,)),
    "status 999": (heading((":status", "999")), (Unavailable,)),
    "a huge status": (heading((":status", "9" * 5000)), (Unavailable,)),
    "hanging up": (hang_up, (Unavailable,)),
    "goodbye": (say_goodbye, (Unavailable,)),
    "a reset": (reset, (Unavailable,)),
    "silence": (say_nothing, (DeadlineExceeded,)),
    "an endless body": (endless_body, (LimitExceeded,)),
    "pings": (flooding(frame(6, 0, 0, b"12345678")), (LimitExceeded,)),
    "pings in the middle of a body": (pinging, (LimitExceeded,)),
    "settings": (flooding(frame(4, 0, 0, b"")), (LimitExceeded,)),
    "empty pieces": (flooding(frame(0, 0, 1, b""), frame(1, 4, 1, b"\x88")), (LimitExceeded,)),
    "unknown frames": (flooding(frame(0xEE, 0, 0, b"x" * 100)), (LimitExceeded, Unavailable)),
    "interim answers": (flooding(frame(1, 4, 1, b"\x48\x03103")), (LimitExceeded, Unavailable)),
    "continuations": (
        flooding(frame(9, 0, 1, b"\x00\x01a\x01b" * 10), frame(1, 0, 1, b"\x88")),
        (LimitExceeded, Unavailable),
    ),
    "a frame that is too large": (flooding(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"), (LimitExceeded, Unavailable)),
    "a header list that unfolds": (
        # One large header in the table, and then a byte for each time it is there again.
        flooding(b"", frame(1, 4, 1, b"\x88\x40\x01a\x7f\xa1\x1e" + b"x" * 4000 + b"\xbe" * 10_000)),
        (LimitExceeded, Unavailable),
    ),
    "a window that never opens again": (
        flooding(b"", frame(4, 0, 0, struct.pack(">HI", 4, 0)) + frame(8, 0, 0, b"\x00\x00\x00\x00")),
        (LimitExceeded, Unavailable, DeadlineExceeded),
    ),
    "no streams at all": (
        flooding(b"", frame(4, 0, 0, struct.pack(">HI", 3, 0))),
        (LimitExceeded, Unavailable, DeadlineExceeded),
    ),
}


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, str]:
    context, ca_file = certificate(tmp_path, "api.example")
    context.set_alpn_protocols(["h2"])
    return context, ca_file


async def loopback(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


async def test_http2_is_spoken(tls: tuple[ssl.SSLContext, str]) -> None:
    context, ca_file = tls
    peer = Http2Peer(honest())
    await peer.start(context)
    async with egress(resolve=loopback) as stage:
        stage.link(f"https://api.example:{peer.port}", ca_file=ca_file)
        for _ in range(3):
            reply = await stage.post(body=b"x" * 100_000)
            assert (reply.status, reply.body, dict(reply.headers)) == (200, b"fine", {"x-a": "b"})
        assert peer.connections == 1
        replies = await asyncio.gather(*(stage.get(f"/{at}") for at in range(4)))
        # A connection carries one request at a time.
        assert (len(replies), peer.connections) == (4, 4)
        peer.conduct = heading((":status", "200"), ("x-a", "b\r\nx-evil: c"), ("x-\r\nevil", "d"))
        assert dict((await stage.get()).headers) == {"x-a": "b  x-evil: c"}
        stage.link(f"https://api.example:{peer.port}", ca_file=ca_file, http2=False, retries_max=0)
        with pytest.raises(Unavailable):
            await stage.get()
    await peer.stop()


@pytest.mark.parametrize(("conduct", "kinds"), HOSTILE_HTTP2.values(), ids=HOSTILE_HTTP2.keys())
async def test_hostile_http2_is_an_ordinary_error(
    conduct: Conduct, kinds: tuple[type[PlexSpacesError], ...], tls: tuple[ssl.SSLContext, str]
) -> None:
    context, ca_file = tls
    peer = Http2Peer(conduct)
    await peer.start(context)
    async with egress(resolve=loopback) as stage:
        stage.link(
            f"https://api.example:{peer.port}",
            ca_file=ca_file,
            retries_max=0,
            first_byte_timeout_s=0.5,
            total_timeout_s=1.0,
            response_bytes_max=100_000,
        )
        async with asyncio.timeout(10):
            await fails(stage, *kinds)
            await peer.closed.wait()
        peer.conduct = honest()
        assert (await stage.get()).body == b"fine"
    await peer.stop()


# -- below HTTP --------------------------------------------------------------------------------------------


async def test_a_handshake_that_is_none(tls: tuple[ssl.SSLContext, str]) -> None:
    async def garbage(reader: asyncio.StreamReader, writer: Writer) -> None:
        await reader.read(10)
        writer.write(answer(EVIL_B))
        await writer.drain()
        writer.close()

    async def never(_reader: asyncio.StreamReader, writer: Writer) -> None:
        await asyncio.sleep(2)
        writer.close()

    for handler in (garbage, never):
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        async with egress(resolve=loopback) as stage:
            stage.link(
                f"https://api.example:{server.sockets[0].getsockname()[1]}", retries_max=0, connect_timeout_s=0.2
            )
            async with asyncio.timeout(2):
                await fails(stage, Unavailable)
        server.close()


def test_the_head_is_limited_to_what_the_documentation_says() -> None:
    assert HEAD_BYTES_MAX == 64 * 1024


@pytest.mark.parametrize(("size", "fits"), [(HEAD_BYTES_MAX - 100, True), (HEAD_BYTES_MAX + 1, False)])
async def test_a_large_head_is_taken_and_a_larger_one_is_not(size: int, fits: bool) -> None:
    lines = b"".join(b"x-%05d: %s\r\n" % (at, b"y" * 990) for at in range(size // 1001))
    lines += b"x: " + b"y" * (size - len(lines) - 5) + b"\r\n"
    async with listening(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n" + lines + b"\r\n")) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", retries_max=0)
        if fits:
            assert (await stage.get()).status == 200
        else:
            await fails(stage, LimitExceeded)
