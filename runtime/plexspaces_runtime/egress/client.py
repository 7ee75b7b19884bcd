"""One request over one connection, and the answer to it, by a client that expects the worst of whoever answers.

httpcore speaks HTTP/1.1 and HTTP/2; what it reads from and how much of it is ours.  A connection carries one request at
a time in HTTP/2 as well: two bodies in one connection share a window, so that an actor that reads slowly would hold up
another, and a body that nobody wants any more would use the window up.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import certifi
import httpcore

from ..errors import LimitExceeded, PlexSpacesError
from .links import Link
from .model import Outgoing
from .network import Dialler, NoConnection, Wire

HEAD_BYTES_MAX: Final = 64 * 1024
PIECE_BYTES_MAX: Final = 16 * 1024
IDLE_CONNECTIONS_MAX: Final = 8
IDLE_S: Final = 15.0
# How much longer than what it may hold a body may be on the wire.
_FRAMING_FACTOR: Final = 2
_FRAMING_BYTES: Final = 64 * 1024

# Frames of HTTP/2 without content: settings, and two updates of windows for each piece of the request.
_FRAMES_MAX: Final = 500
_BODY_BYTES_PER_FRAME: Final = 4096

_ENCODINGS: Final = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# What was between the node and the service, or is not so any more.
_DROPPED: Final = frozenset(
    {
        "alt-svc",
        "connection",
        "content-encoding",
        "content-length",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_COOKIES: Final = frozenset({"set-cookie", "set-cookie2"})

# They write the headers of requests at their lowest level, secrets included.
for _name in ("httpcore", "h2", "hpack"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class Broken(Exception):
    """The request has left, and what came back is no answer; the text says why, in our words."""


class Slow(Exception):
    """The request has left, and its answer, or the next piece of it, did not come in the link's time."""


class Unsent(Exception):
    """The connection was over before anything was sent on it."""


class Contexts:
    """TLS as links want it, prepared once for each set of trusted certificates."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}

    async def of(self, link: Link) -> ssl.SSLContext | None:
        """None for a link over http.

        Raises:
            NoConnection: its file of certificates cannot be used.
        """
        if link.base.scheme != "https":
            return None
        key = link.ca_file, link.http2
        if key not in self._contexts:
            try:
                # Reading the certificates takes tens of milliseconds.
                self._contexts[key] = await asyncio.to_thread(_context, *key)
            except (OSError, ValueError):
                # Not in which way: it may be any file of the machine.
                raise NoConnection("the file that `ca_file` names holds no certificates that can be used") from None
        return self._contexts[key]


def _context(ca_file: str, http2: bool) -> ssl.SSLContext:
    if ca_file:
        context = ssl.create_default_context(cafile=ca_file)
    else:
        context = ssl.create_default_context()
        context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    return context


class Line:
    """A connection with the protocol it speaks."""

    __slots__ = ("connection", "expiry", "wire")

    def __init__(self, link: Link, wire: Wire) -> None:
        base = link.base
        origin = httpcore.Origin(base.scheme.encode(), base.host.encode(), base.port)
        self.wire = wire
        self.connection: httpcore.AsyncHTTP11Connection | httpcore.AsyncHTTP2Connection = (
            httpcore.AsyncHTTP2Connection(origin, wire) if wire.http2 else httpcore.AsyncHTTP11Connection(origin, wire)
        )
        self.expiry: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        return self.connection.is_idle() and self.connection.is_available() and not self.wire.stale


class Answer:
    """An answer under way.

    Attributes:
        headers: by lower-case name; without those that were about the connection or the compression.
        whole: its body was read to the end.
    """

    def __init__(self, pool: Pool, line: Line, response: httpcore.Response, *, bodyless: bool) -> None:
        link = pool.link
        self._pool = pool
        self._line: Line | None = line
        self._response = response
        self._bytes_max = link.response_bytes_max
        self.status = response.status
        self.headers = _headers(response.headers, cookies=link.cookies)
        self.whole = False
        self._decoder = Decoder(_encoding(response.headers))
        if not bodyless:
            self._check_length()

    def _check_length(self) -> None:
        for name, value in self._response.headers:
            if name.lower() == b"content-length" and value.isdigit() and int(value[:20]) > self._bytes_max:
                raise self._too_large()

    def _too_large(self) -> LimitExceeded:
        return LimitExceeded(
            f"the answer is larger than {self._bytes_max} bytes; `links.{self._pool.link.name}.response_bytes_max` "
            "limits it",
            limit="response_bytes_max",
            value=self._bytes_max,
            unit="bytes",
        )

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body, decompressed, in pieces that are made as they are asked for.

        Raises:
            Slow: no piece of it came in the link's time.
            Broken: it ends too early, is not what it is said to be, or breaks the protocol.
            LimitExceeded: it is too large.
        """
        assert self._line is not None
        self._line.wire.allow_bytes(
            _FRAMING_FACTOR * self._bytes_max + _FRAMING_BYTES, "the answer is more framing than content"
        )
        total = 0
        with _faults_are_the_peers():
            assert isinstance(self._response.stream, AsyncIterable)
            stream = aiter(self._response.stream)
            while (raw := await self._more(stream)) is not None:
                for piece in self._decoder.feed(raw):
                    total += len(piece)
                    if total > self._bytes_max:
                        raise self._too_large()
                    yield piece
            self._decoder.finish()
        self.whole = True

    async def _more(self, stream: AsyncIterator[bytes]) -> bytes | None:
        idle_s = self._pool.link.idle_timeout_s
        try:
            async with asyncio.timeout(idle_s) as limit:
                return await anext(stream, None)
        except TimeoutError:
            if limit.expired():
                raise Slow(f"nothing more of the answer within {idle_s:g} s") from None
            raise

    async def aclose(self) -> None:
        """Be done with it; the connection is used again if the whole body was read."""
        if self._line is not None:
            line, self._line = self._line, None
            if not self.whole:
                line.wire.abort()
            await self._response.aclose()
            self._pool.put_back(line)

    def abort(self) -> None:
        """Close the connection at once; `aclose` is still to be called."""
        if self._line is not None:
            self._line.wire.abort()


class Pool:
    """The connections of one link for one tenant.

    Attributes:
        link: whose they are.
    """

    def __init__(self, link: Link, *, loop: asyncio.AbstractEventLoop, dialler: Dialler, contexts: Contexts) -> None:
        self.link = link
        self._loop = loop
        self._dialler = dialler
        self._contexts = contexts
        # The one that was used last is used next, so that those beyond the need grow old.
        self._idle: list[Line] = []
        self._closed = False

    async def send(self, out: Outgoing) -> Answer:
        """Send a request that has its secrets, and wait for the head of the answer.

        Raises:
            NoConnection: there is none.
            Forbidden: the host has an address that is not for this link.
            Broken: what came is no answer.
            Slow: no head came in the link's time.
            LimitExceeded: the head is too large, or says that the body is.
        """
        while (line := self._take()) is not None:
            try:
                return await self._send(line, out)
            except Unsent:
                # One that had been idle for too long; the others have been so for longer.
                self._drop_idle()
        wire = await self._dialler.connect(self.link, await self._contexts.of(self.link))
        try:
            return await self._send(Line(self.link, wire), out)
        except Unsent:
            raise NoConnection("the service ended the connection before anything was sent") from None

    async def _send(self, line: Line, out: Outgoing) -> Answer:
        wire = line.wire
        wire.reads, wire.written = 0, False
        wire.allow_frames(_FRAMES_MAX + len(out.body) // _BODY_BYTES_PER_FRAME)
        wire.allow_bytes(HEAD_BYTES_MAX, f"the answer's head is larger than {HEAD_BYTES_MAX} bytes")
        try:
            with _faults_are_the_peers():
                async with asyncio.timeout(self.link.first_byte_timeout_s) as limit:
                    response = await line.connection.handle_async_request(_request(self.link, out))
                if wire.reads == 0:
                    raise Broken("an answer was there before the request")
                if not 200 <= response.status <= 599:
                    raise Broken("the answer has no status that there is")
                return Answer(self, line, response, bodyless=out.method == "HEAD" or response.status in (204, 304))
        except BaseException as error:
            wire.abort()
            if isinstance(error, TimeoutError) and limit.expired():
                raise Slow(f"no answer within {self.link.first_byte_timeout_s:g} s") from None
            # HTTP/2 says goodbye with the last request it looked at, and that was one before.
            if isinstance(error, httpcore.ConnectionNotAvailable) or (isinstance(error, Broken) and not wire.written):
                raise Unsent from None
            raise

    def _take(self) -> Line | None:
        while self._idle:
            line = self._idle.pop()
            assert line.expiry is not None
            line.expiry.cancel()
            if line.usable:
                return line
            line.wire.abort()
        return None

    def put_back(self, line: Line) -> None:
        """Keep a connection for the next request, if it can take one."""
        if self._closed or len(self._idle) >= IDLE_CONNECTIONS_MAX or not line.usable:
            line.wire.abort()
            return
        self._idle.append(line)
        line.expiry = self._loop.call_later(IDLE_S, self._expire, line)
        line.wire.listen()

    def _expire(self, line: Line) -> None:
        self._idle.remove(line)
        line.wire.abort()

    def close(self) -> None:
        """Close what is idle, and keep nothing from now on."""
        self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        while self._idle:
            line = self._idle.pop()
            assert line.expiry is not None
            line.expiry.cancel()
            line.wire.abort()


def _request(link: Link, out: Outgoing) -> httpcore.Request:
    base = link.base
    headers = [(b"host", base.authority.encode())]
    headers += [(name.encode("ascii"), value.encode("ascii")) for name, value in out.headers.items()]
    if out.body or out.method in ("POST", "PUT", "PATCH"):
        headers.append((b"content-length", str(len(out.body)).encode()))
    return httpcore.Request(
        method=out.method.encode(),
        url=httpcore.URL(
            scheme=base.scheme.encode(),
            host=base.host.encode(),
            port=base.port,
            target=out.url.removeprefix(base.origin).encode("ascii"),
        ),
        headers=headers,
        content=out.body,
    )


@contextmanager
def _faults_are_the_peers() -> Iterator[None]:
    """Whatever the library makes of what a peer says is the peer's fault, and none of its words go further."""
    try:
        yield
    except (PlexSpacesError, Broken, Slow, TimeoutError, httpcore.ConnectionNotAvailable):
        raise
    except httpcore.RemoteProtocolError:
        raise Broken("the service ended the connection, or its answer breaks the protocol") from None
    except httpcore.NetworkError:
        raise Broken("the connection was lost") from None
    # A peer that tries finds every corner of a protocol that nobody thought of.
    except Exception as error:  # noqa: BLE001
        raise Broken(f"the answer could not be read ({type(error).__name__})") from None


# -- heads -------------------------------------------------------------------------------------------------


def _headers(raw: Sequence[tuple[bytes, bytes]], *, cookies: bool) -> dict[str, str]:
    if sum(len(name) + len(value) for name, value in raw) > HEAD_BYTES_MAX:
        raise LimitExceeded(f"the answer's head is larger than {HEAD_BYTES_MAX} bytes")
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        if not _TOKEN.fullmatch(raw_name):
            continue
        name = raw_name.decode("ascii").lower()
        if name in _DROPPED or name.startswith("proxy-") or (name in _COOKIES and not cookies):
            continue
        value = "".join(char if char.isprintable() else " " for char in raw_value.decode("latin-1"))
        # A cookie may hold a comma, and no line end.
        separator = "\n" if name in _COOKIES else ", "
        headers[name] = f"{headers[name]}{separator}{value}" if name in headers else value
    return headers


def _encoding(raw: Sequence[tuple[bytes, bytes]]) -> str:
    """The one content coding of an answer, "" for none."""
    codings = [
        coding.strip().lower()
        for name, value in raw
        if name.lower() == b"content-encoding"
        for coding in value.decode("latin-1").split(",")
    ]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    if len(codings) > 1:
        raise Broken("the answer is compressed more than once")
    if codings and codings[0] not in _ENCODINGS:
        raise Broken("the answer is compressed in a way that was not asked for")
    return codings[0] if codings else ""


# -- bodies ------------------------------------------------------------------------------------------------


class Decoder:
    """Decompresses a body in pieces of a bounded size, so that a bomb is seen while it goes off.

    Args:
        coding: the content coding, "" for none.
    """

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._inflate = zlib.decompressobj(_ENCODINGS[coding]) if coding else None
        # What a compressed body begins with, until it is enough to say how it is compressed.
        self._head = b""
        self._begun = False

    def feed(self, raw: bytes) -> Iterator[bytes]:
        """What `raw` decompresses to, in pieces of at most `PIECE_BYTES_MAX`; nothing is done for what is not taken.

        Raises:
            Broken: it is not compressed so, or something follows its end.
        """
        if self._inflate is None:
            for start in range(0, len(raw), PIECE_BYTES_MAX):
                yield raw[start : start + PIECE_BYTES_MAX]
            return
        if not self._begun:
            raw = self._head = self._head + raw
            if len(raw) < 2:
                return
        full = False
        # A full piece may leave output behind in the decompressor when no input is left.
        while raw or full:
            piece = self._step(raw)
            full = len(piece) == PIECE_BYTES_MAX
            if piece:
                yield piece
            if self._inflate.unused_data:
                raise Broken("something follows the end of the compressed answer")
            raw = self._inflate.unconsumed_tail

    def _step(self, raw: bytes) -> bytes:
        assert self._inflate is not None
        try:
            piece = self._inflate.decompress(raw, PIECE_BYTES_MAX)
        except zlib.error:
            if self._begun or self._coding != "deflate":
                raise Broken("the answer is not compressed as it says") from None
            # Some servers say "deflate" and leave out zlib's wrapping (RFC 9110, section 8.4.1.2).
            self._begun = True
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            return self._step(raw)
        self._begun = True
        return piece

    def finish(self) -> None:
        """Say that nothing follows.

        Raises:
            Broken: something should.
        """
        if self._inflate is not None and self._head and not self._inflate.eof:
            raise Broken("the compressed answer ends before its end")
