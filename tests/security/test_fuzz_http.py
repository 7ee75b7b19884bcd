"""Whatever bytes arrive at the HTTP edge, there is a well-formed answer and never a fault of the node's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.api.app import Api
from plexspaces_runtime.api.auth import Authenticator, LocalAuthority
from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.api.connection import Connection, Listener
from plexspaces_runtime.api.incoming import Request
from plexspaces_runtime.api.requests import (
    check_content_type,
    decode_path,
    parse_actor_path,
    parse_idempotency_key,
    parse_message,
    parse_query,
    parse_query_message,
    parse_traceparent,
    parse_wait,
)
from plexspaces_runtime.api.uploads import FormShape, Upload
from plexspaces_runtime.errors import InvalidArgument, PayloadTooLarge, PlexSpacesError, UnsupportedMediaType
from plexspaces_runtime.scope import Address, Scope
from tests.security.fuzzing import byte_strings, check_named, examples, json_texts, texts
from tests.unit.api.kept_stores import make_stores
from tests.unit.api.memory_node import KEY, MemoryNode

# -- the parts of a request --------------------------------------------------------------------------------


def refused_or(parse: Any, *arguments: Any) -> Any:
    """What a parser gives, or None where it refuses with an error that names whose fault it is."""
    try:
        return parse(*arguments)
    except PlexSpacesError as error:
        check_named(error, 2_000)
        return None


@examples(200)
@given(byte_strings(b"acme/default/counter/key", b"a/b/c%2Fd/info", b"%c3%a9/b/c", b"a/b/c/k/restart"))
def test_paths(path: bytes) -> None:
    found = refused_or(parse_actor_path, path)
    if found is not None:
        named = found.actor or found.about or found.restart
        assert (named.scope.tenant, named.scope.namespace) == (found.tenant, found.namespace)
        # The tenant is checked against the token under this very text.
        assert path.split(b"/")[0].isascii()
    refused_or(decode_path, path)


@examples(200)
@given(byte_strings(b"a=1&b=x%20y&op=get", b"wait=1", b"a=[1,2]&a=3", b"op=a&op=b"))
def test_queries(query: bytes) -> None:
    refused_or(parse_query, query)
    found = refused_or(parse_query_message, query)
    if found is not None:
        op, payload = found
        assert 0 < len(op) <= 128
        # The arguments are spliced as they came: what comes out has to be one JSON object nevertheless.
        assert isinstance(json.loads(payload), dict)


@examples(150)
@given(json_texts().map(lambda text: text.encode("utf-8", "surrogatepass")) | byte_strings(b'{"op":"get","a":1}'))
def test_bodies(body: bytes) -> None:
    found = refused_or(parse_message, body)
    if found is not None:
        assert isinstance(json.loads(found[1]), dict)


@examples(200)
@given(
    st.dictionaries(st.sampled_from(["wait", "x"]), texts(max_size=30), max_size=2),
    st.none() | byte_strings(b"wait=10", b'respond-async, wait="1.5"; a=b', b"wait=nan", b"wait=-1", b"wait=1e308"),
    byte_strings(b'"key"', b"key", b"k" * 255),
    byte_strings(b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),
    byte_strings(b"application/json; charset=utf-8", b"text/plain", b"application/x+json;charset=latin-1"),
)
def test_headers(query: dict[str, str], prefer: bytes | None, key: bytes, trace: bytes, kind: bytes) -> None:
    wait_s = refused_or(parse_wait, query, prefer, 300.0)
    assert wait_s is None or 0 < wait_s <= 300
    found = refused_or(parse_idempotency_key, key)
    assert found is None or (found.isascii() and found.isprintable() and 0 < len(found) <= 255)
    assert parse_traceparent(trace) in ("", trace.decode("latin-1"))
    refused_or(check_content_type, kind, b"")


@pytest.mark.parametrize(
    "prefer",
    [
        b"wait=" + b" " * 30_000 + b"x x",
        b" " * 30_000 + b"x",
        b"wait" + b" " * 30_000 + b"x",
        b'wait="' + b"1" * 30_000 + b'" x',
        b"wait=1" + b" " * 30_000 + b"x",
        b"," * 30_000,
        b"wait=;" * 5_000,
    ],
)
def test_a_preference_of_thirty_thousand_characters_is_read_in_one_go(prefer: bytes) -> None:
    """Backtracking would need hundreds of millions of steps for these: a thousand times what is allowed here, which is
    processor time measured in steps of this very interpreter."""
    began_s = time.process_time()
    for _ in range(2_000_000):
        pass
    allowed_s = 20 * (time.process_time() - began_s)
    began_s = time.process_time()
    refused_or(parse_wait, {}, prefer, 300.0)
    assert time.process_time() - began_s < allowed_s


# -- forms -------------------------------------------------------------------------------------------------

FORM = (
    b'--b\r\ncontent-disposition: form-data; name="namespace"\r\n\r\ndefault\r\n'
    b'--b\r\nContent-Disposition: form-data; name="wasm"; filename="a"\r\nx: y\r\n\r\n\0asm\r\n--b--\r\n'
)


@examples(60)
@given(
    byte_strings(FORM, size_max=800),
    st.lists(st.integers(1, 200), max_size=8),
    byte_strings(b"multipart/form-data; boundary=b", b"multipart/form-data; boundary=\"b\"; x*=utf-8''%e9"),
)
def test_forms(tmp_path_factory: pytest.TempPathFactory, form: bytes, cuts: list[int], content_type: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "forms"
    shape = FormShape(("namespace", "config"), "wasm", file_bytes_max=1_000, files_bytes_max=1_000)

    async def pieces() -> AsyncIterator[bytes]:
        rest = form
        for cut in cuts:
            yield rest[:cut]
            rest = rest[cut:]
        yield rest

    async def receive(kind: bytes) -> None:
        async with Upload(kind, shape, directory=folder) as upload:
            await upload.read(pieces())
            assert upload.files["wasm"].is_file()
            assert set(upload.fields) <= {"namespace", "config"}

    for kind in (b"multipart/form-data; boundary=b", content_type):
        with contextlib.suppress(InvalidArgument, PayloadTooLarge, UnsupportedMediaType):
            asyncio.run(receive(kind))
        assert not folder.exists() or list(folder.iterdir()) == []


# -- whole connections -------------------------------------------------------------------------------------


class Wire(asyncio.Transport):
    """The other end of a connection, in memory."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1), "sockname": ("192.0.2.2", 2)})
        self.sent = bytearray()
        self.closing = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0


class Edge:
    """The whole edge over a node in memory, without a socket."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.faults: list[Any] = []
        self.runner.run(self._open())

    async def _open(self) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: self.faults.append(context))
        node = MemoryNode()
        node.spawn(Address(Scope("default", "default"), "counter"))
        authority = LocalAuthority(KEY, node.clock)
        self.token = authority.mint("default", "ada", ["admin"], 10**9).encode()
        self.config = HttpConfig(port=0, wait_s_max=0.05)
        self.node = node
        self.stores = make_stores(node.limits, clock=node.clock)
        self.api = Api(node, Authenticator(authority, clock=node.clock), self.config, stores=self.stores)
        self.listener = Listener(self.api, self.config, node.clock)
        self.listener.loop = asyncio.get_running_loop()

    def exchange(self, chunks: list[bytes]) -> bytes:
        """What is answered to these chunks and the end of the client."""
        return self.runner.run(self._exchange(chunks))

    async def _exchange(self, chunks: list[bytes]) -> bytes:
        wire, connection = Wire(), Connection(self.listener)
        connection.connection_made(wire)
        for chunk in chunks:
            if wire.closing:
                break
            for _ in range(200):
                if wire.reading or wire.closing:
                    break
                await asyncio.sleep(0)
            connection.data_received(chunk)
            await asyncio.sleep(0)
        for _ in range(200):
            await asyncio.sleep(0)
        connection.eof_received()
        if tasks := [exchange.task for exchange in self.listener.running if exchange.task is not None]:
            await asyncio.wait(tasks, timeout=0.2)
        connection.flush()
        connection.connection_lost(None)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not self.listener.connections
        return bytes(wire.sent)

    def close(self) -> None:
        async def end() -> None:
            self.stores.close()
            for exchange in list(self.listener.running):
                assert exchange.task is not None
                exchange.task.cancel()
            await asyncio.sleep(0)

        self.runner.run(end())
        self.runner.close()


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    made = Edge()
    yield made
    made.close()


def statuses(stream: bytes) -> list[int]:
    """Of the answers in a stream, each of which has to be well-formed to its last byte; the last may be cut off."""
    found = []
    while stream:
        head, end, rest = stream.partition(b"\r\n\r\n")
        assert end, stream
        line, *lines = head.split(b"\r\n")
        status = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+", line)
        assert status, line
        headers: dict[bytes, bytes] = {}
        for each in lines:
            header = re.fullmatch(rb"([a-z0-9-]+): ([\x20-\x7e]*)", each)
            assert header, each
            headers[header[1]] = header[2]
        code = int(status[1])
        if code == 100:
            stream = rest
            continue
        found.append(code)
        if b"transfer-encoding" in headers or b"content-length" not in headers:
            return found
        # The answer to HEAD has a length and no body.
        stream = rest if code == 304 or rest.startswith(b"HTTP/1.1 ") else rest[int(headers[b"content-length"]) :]
    return found


PATHS = (
    b"/healthz",
    b"/readyz",
    b"/metrics",
    b"/openapi.json",
    b"/",
    b"*",
    b"/api/v1/actors",
    b"/api/v1/tree",
    b"/api/v1/actors/default/default/counter",
    b"/api/v1/actors/default/default/counter/info",
    b"/api/v1/actors/default/default/counter/key/restart",
    b"/api/v1/actors/acme/default/counter",
    b"/api/v1/deployments",
    b"/api/v1/deployments/default/counter",
    b"/api/v1/applications",
    b"/api/v1/applications/x/restart",
    b"/api/v1/streams",
    b"/api/v1/streams/a/b",
    b"/api/v1/schedules",
    b"/api/v1/blobs/default",
    b"/api/v1/blobs/default/a%2fb",
    b"/api/v1/dead-letters",
    b"/api/v1/dead-letters/x/retry",
    b"/api/v1/journals",
    b"/api/v1/journals/default/default/counter/k/recover",
    b"/api/v1/workflows",
    b"/api/v1/workflows/t/k",
    b"/api/v1/workflows/t/k/signals/s",
    b"/api/v1/workflows/t/k/queries/q",
    b"/api/v1/promises",
    b"/api/v1/promises/p",
    b"http://a/api/v1/actors/default/default/counter",
)
HEADERS = (
    b"host: a",
    b"connection: keep-alive",
    b"connection: close",
    b"content-length: 5",
    b"content-length: 0",
    b"transfer-encoding: chunked",
    b"transfer-encoding: identity",
    b"expect: 100-continue",
    b"upgrade: websocket",
    b"connection: upgrade",
    b"content-type: application/json",
    b"content-type: multipart/form-data; boundary=b",
    b"prefer: wait=0.01",
    b"prefer: wait=nan",
    b"idempotency-key: k",
    b"range: bytes=0-",
    b"range: bytes=-1,9-",
    b"if-none-match: *",
    b"if-range: x",
    b"last-event-id: 3",
    b"accept: text/event-stream",
    b"x:",
    b"x: \xff",
    b"x-forwarded-for: 127.0.0.1",
    b"x-http-method-override: DELETE",
)
BODIES = (
    b'{"op":"get"}',
    b'{"op":"increment","amount":1e400}',
    b'{"event_type":"t","payload":"\\ud800"}',
    b"5\r\nhello\r\n0\r\n\r\n",
    b'{"path":"/a","event_type":"t","every_s":99999999999999999999}',
    b'{"path":"/a","event_type":"t","cron":"* * * * *"}',
    b'{"path":"/a","event_type":"t","at_ms":-1}',
    b"[" * 2_000,
    b'{"op":"echo","a":' + b"[" * 500 + b"]" * 500 + b"}",
    FORM,
    b'{"event_type":"t","payload":' + b"[" * 990 + b"]" * 990 + b"}",
    b'{"event_type":"t","payload":' + b"9" * 5_000 + b"}",
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request, mostly plausible."""
    method = draw(st.sampled_from((b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"TRACE")))
    target = draw(st.sampled_from(PATHS))
    if draw(st.booleans()):
        target += b"?" + draw(
            st.sampled_from(
                (
                    b"wait=0.01",
                    b"namespace=default",
                    b"limit=1",
                    b"limit=-1",
                    b"after=%ff",
                    b"after=99999999999999999999",
                    b"op=echo&x=[[[",
                    b"x=" + b"[" * 300 + b"]" * 300,
                    b"live=true",
                    b"kind=actor",
                    b"namespace=../x",
                    b"a=%00",
                    b"resolved=true",
                    b"check=true",
                    b"kill=true",
                    b"remaining=redeliver",
                    b"status=running",
                    b"type=%F0%9F%98%80",
                )
            )
        )
    headers = draw(st.lists(st.sampled_from(HEADERS), max_size=6))
    body = draw(st.sampled_from((b"", *BODIES)))
    if draw(st.booleans()):
        headers += [b"host: localhost"]
    if body and draw(st.booleans()):
        headers += [b"content-length: %d" % len(body)]
    headers += [b"authorization: Bearer TOKEN"]
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method, target), *headers, b"", b""]) + body


@st.composite
def dialogues(draw: st.DrawFn) -> list[bytes]:
    """What a client sends: requests, some of them damaged, cut anywhere."""
    from tests.security.fuzzing import damaged

    data = b"".join(
        draw(
            st.lists(st.one_of(requests(), requests().flatmap(damaged), st.binary(max_size=60)), min_size=1, max_size=3)
        )
    )
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=5)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


@examples(300)
@given(dialogues())
def test_whatever_a_client_sends_gets_well_formed_answers_and_no_fault(edge: Edge, chunks: list[bytes]) -> None:
    edge.faults.clear()
    sent = edge.exchange([chunk.replace(b"TOKEN", edge.token) for chunk in chunks])
    assert edge.faults == []
    for status in statuses(sent):
        # 502 to 504 are words of the actor's or of a store that is not there; 500 is a fault of ours.
        assert status < 600
        assert status != 500, (chunks, sent)
    # And the next client is served as ever.
    ask = b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    assert statuses(edge.exchange([ask])) == [200]


@examples(100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from((b"host", b"range", b"x", b"authorization", b"content-length")), st.binary(max_size=30)
        ),
        max_size=6,
    ),
    st.binary(max_size=40),
)
def test_a_requests_head(headers: list[tuple[bytes, bytes]], query: bytes) -> None:
    scope = {"method": "GET", "raw_path": b"/", "query_string": query, "headers": headers, "http_version": "1.0"}
    request = refused_or(Request, scope, cast(Any, None))
    if request is not None:
        refused_or(request.arguments, "a", "b")
