"""HTTP/1.1 on the node's own event loop: sockets and httptools on one side, an ASGI application on the other.

Everything a client can do to a server before the application sees a request is judged here: malformed or endless
heads, bodies that drip, framing that outweighs its content, clients that neither send nor go.

A connection is in one phase at a time, and the phase says how long the client may stay in it:

    IDLE      nothing has come of the next request           keep_alive_s
    HEAD      request line or headers are incomplete         head_timeout_s from the first byte
    BODY      the headers are there, the body is not         body_timeout_s, and a minimal rate
    HANDLING  the request is complete                        none: the application has deadlines of its own
    LINGER    answered and half closed, the client still     linger_s
              sends: it is read and dropped, because closing
              at once would reset the answer away

One timer looks after all connections of a listener, and there is none while there is no connection, so that an idle
node does not wake.  Requests that a client pipelines are answered in order, one at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from email.utils import formatdate
from enum import Enum
from http import HTTPStatus
from socket import socket
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import httptools

from ..clock import Clock
from ..errors import InternalError, InvalidArgument, PlexSpacesError, Unavailable
from .config import HttpConfig
from .faults import Headers, HeadersTooLarge, Overloaded, RequestTimeout, Response, UriTooLong, problem
from .handshakes import TlsServer
from .tls import Certificates

Message = MutableMapping[str, Any]
AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_log = logging.getLogger("plexspaces.http")
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_BODILESS = frozenset({204, 304})
_NEVER = float("inf")
# Unread bytes of a body after which the client is made to wait.
_HIGH_WATER_BYTES = 64 * 1024
# The most that an event loop hands over at once.
_CHUNK_BYTES = 256 * 1024
# Chunk sizes, extensions and trailers may be so many times as long as what they frame.
_FRAMING_RATIO_MAX = 16
_GOODBYE_S = 1.0
# Pieces of an answer that are sent together; more of them are sent as they come, so that the client's pace is felt.
_HELD_BACK_MAX = 16


class Disconnected(OSError):
    """The client has gone in the middle of its answer, or does not read it: there is nobody to go on for."""


class Phase(Enum):
    __hash__ = object.__hash__

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    HANDLING = "handling"
    LINGER = "linger"


class Listener:
    """Listens on one address and gives every request to an ASGI application, as a task of its own.

    Args:
        app: an ASGI 3 application; it gets `http` scopes only.
        config: address, limits, times.
        clock: for the `Date` header.
        tls: the certificate; None for plaintext.
    """

    def __init__(self, app: AsgiApp, config: HttpConfig, clock: Clock, tls: Certificates | None = None) -> None:
        self.app = app
        self.tls = tls
        self.config = config
        self.draining = False
        self.phase_s = {
            Phase.IDLE: config.keep_alive_s,
            Phase.HEAD: config.head_timeout_s,
            Phase.BODY: config.body_timeout_s,
            Phase.HANDLING: _NEVER,
            Phase.LINGER: config.linger_s,
        }
        # A timeout is kept to within a quarter, and to a second where it is long.
        self._sweep_s = min(1.0, min(self.phase_s.values()) / 4)
        self._clock = clock
        self._connections: set[Connection] = set()
        # The application's tasks under way; the loop itself keeps only weak references to tasks.
        self.running: set[Exchange] = set()
        self._server: asyncio.Server | TlsServer | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        # Connections with something to write.  All that was answered in one round of the loop is written together: the
        # first write wakes the other side, and waking somebody costs more than the answer.
        self._to_flush: list[Connection] = []
        self._tail = b""
        self._tail_until = 0.0

    async def start(self, sock: socket | None = None) -> None:
        """Begin to listen, on the configured address or on a socket that is bound already.

        Raises:
            OSError: the address cannot be listened on.
        """
        self.loop = asyncio.get_running_loop()
        config = self.config
        if self.tls is not None:
            self._server = TlsServer(
                self.tls.context,
                lambda: Connection(self),
                lambda: self.connections < config.connections_max,
                handshake_timeout_s=config.handshake_timeout_s,
                shutdown_timeout_s=config.linger_s,
            )
            await self._server.start(sock, config.host, config.port, config.backlog)
        elif sock is not None:
            self._server = await self.loop.create_server(lambda: Connection(self), sock=sock, backlog=config.backlog)
        else:
            self._server = await self.loop.create_server(
                lambda: Connection(self), config.host, config.port, backlog=config.backlog
            )

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._server is not None
        assert self._server.sockets, "not listening"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """How many are open, those that are agreeing on TLS included."""
        shaking = self._server.handshakes if isinstance(self._server, TlsServer) else 0
        return len(self._connections) + shaking

    def flush_soon(self, connection: Connection) -> None:
        """Write what the connection holds back, at the end of this round of the loop."""
        if not self._to_flush:
            self.loop.call_soon(self._flush)
        self._to_flush.append(connection)

    def _flush(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            connection.flush()

    def drain(self) -> None:
        """Accept no more connections; each open one ends with its next answer."""
        self.draining = True
        if self._server is not None:
            self._server.close()

    async def stop(self, grace_s: float) -> None:
        """Drain, let requests under way finish, and cut off what has not after `grace_s` seconds: with a 503 where
        the answer has not begun."""
        self.drain()
        if self._server is None:
            return
        deadline = self.loop.time() + grace_s
        while self.running and (left_s := deadline - self.loop.time()) > 0:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left_s)
            except TimeoutError:
                break
        tasks = [exchange.task for exchange in self.running if exchange.task is not None]
        for exchange in list(self.running):
            exchange.cut_off()
        for connection in list(self._connections):
            connection.close()
        if tasks:
            await asyncio.wait(tasks, timeout=_GOODBYE_S)
        deadline = self.loop.time() + _GOODBYE_S
        while self._connections and (left_s := deadline - self.loop.time()) > 0:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left_s)
            except TimeoutError:
                break
        for connection in list(self._connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        await self._server.wait_closed()

    # -- for connections ----------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(self._sweep_s, self._sweep)

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._changed.set()

    def ended(self, exchange: Exchange) -> None:
        self.running.discard(exchange)
        if not self.running:
            self._changed.set()

    def tail(self) -> bytes:
        """The headers that every answer has."""
        now = self.loop.time()
        if now >= self._tail_until:
            date = formatdate(self._clock.now_ns() / 1e9, usegmt=True)
            self._tail = f"date: {date}\r\nserver: plexspaces\r\nx-content-type-options: nosniff\r\n".encode()
            self._tail_until = now + 1.0
        return self._tail

    def _sweep(self) -> None:
        self._sweeper = None
        now = self.loop.time()
        for connection in list(self._connections):
            if connection.deadline <= now:
                connection.timed_out()
        if self._connections:
            self._sweeper = self.loop.call_later(self._sweep_s, self._sweep)


class Connection(asyncio.Protocol):
    """One client's connection: bytes to requests, answers to bytes."""

    __slots__ = (
        "_body_bytes",
        "_chunk_bytes",
        "_chunk_is_one",
        "_counted",
        "_current",
        "_drained",
        "_fed_bytes",
        "_held_back",
        "_listener",
        "_parser",
        "_paused",
        "_phase",
        "_phase_since",
        "_queue",
        "_rated_from_bytes",
        "_reading",
        "_refusal",
        "_timed_phase",
        "_url",
        "_writing_paused",
        "deadline",
        "gone",
        "peername",
        "sockname",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._parser = httptools.HttpRequestParser(self)
        self._phase = self._timed_phase = Phase.IDLE
        self._phase_since = 0.0
        self.deadline = _NEVER
        # The exchange that is being read: the last of `_current` and `_queue`.
        self._reading: Exchange | None = None
        # The exchange that is being answered, and those that a client pipelined behind it.
        self._current: Exchange | None = None
        self._queue: deque[Exchange] = deque()
        # What ends the connection once the exchanges before it are answered.
        self._refusal: PlexSpacesError | None = None
        self._url = b""
        self._chunk_bytes = 0
        # No message has begun in this chunk, and none was incomplete before it.
        self._chunk_is_one = True
        # All bytes of the message that is being read are in `_fed_bytes`.
        self._counted = True
        self._fed_bytes = 0
        self._body_bytes = 0
        # The body's bytes up to here say nothing of the client's pace.
        self._rated_from_bytes = 0
        self.peername: Any = None
        self.sockname: Any = None
        self._held_back: list[bytes] = []
        self._paused = False
        self._writing_paused = False
        self._drained: asyncio.Future[None] | None = None
        self.gone = False

    # -- asyncio's side -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        listener = self._listener
        # By the protocol's contract; uvloop's transports are no subclasses of asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        self.peername, self.sockname = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        listener.opened(self)
        self.deadline = listener.loop.time() + listener.config.keep_alive_s
        if listener.tls is not None:
            # It was counted when it was accepted.
            self._admit(listener.tls)
        elif listener.connections > listener.config.connections_max:
            self._refuse(Overloaded(f"the node serves {listener.config.connections_max} connections: try again later"))

    def _admit(self, tls: Certificates) -> None:
        secured = self.transport.get_extra_info("ssl_object")
        try:
            tls.admit("http", _place(self.peername), secured.getpeercert(True))
        except PlexSpacesError as error:
            self._refuse(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._listener.closed(self)
        # The parser holds this object and this object the parser.
        self._parser = None  # type: ignore[assignment]
        for exchange in (self._current, *self._queue):
            if exchange is not None:
                exchange.wake()
        self._queue.clear()
        self.resume_writing()

    def eof_received(self) -> bool:
        # A client that has sent its whole request and closed its half still gets the answer.  TLS has no halves.
        return self._listener.tls is None and self._current is not None and self._phase is Phase.HANDLING

    def write(self, data: bytes) -> None:
        """Send bytes, at the end of this round of the loop."""
        if not self._held_back:
            self._listener.flush_soon(self)
        self._held_back.append(data)
        if len(self._held_back) >= _HELD_BACK_MAX:
            self.flush()

    def flush(self) -> None:
        """Send what is held back now."""
        if self._held_back:
            data = self._held_back[0] if len(self._held_back) == 1 else b"".join(self._held_back)
            self._held_back.clear()
            if not self.transport.is_closing():
                self.transport.write(data)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def drained(self) -> None:
        """Wait until the client has read enough of what was written."""
        while self._writing_paused and not self.gone:
            self._drained = self._listener.loop.create_future()
            await self._drained

    def data_received(self, data: bytes) -> None:
        if self._phase is Phase.LINGER or self._refusal is not None:
            return
        self._chunk_bytes = len(data)
        self._fed_bytes += len(data)
        self._chunk_is_one = self._phase is Phase.IDLE
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrade_asked()
        except httptools.HttpParserError as error:
            if self._refusal is None:
                cause = error.__context__
                refusal = cause if isinstance(cause, PlexSpacesError) else None
                self._refuse(refusal or InvalidArgument(f"this is not HTTP/1.1: {error}"))
            return
        if self._refusal is not None or self.gone:
            return
        if self._phase is not Phase.HANDLING:
            self._judge_incomplete()
        if self._phase is not self._timed_phase:
            self._enter(self._phase)

    # -- httptools' side ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._phase = Phase.HEAD
        self._url = b""
        # Where in its chunk a message begins is not told.  Behind another one, the first chunk is not counted: it
        # must not be blamed for what stood before it.
        self._counted = self._chunk_is_one
        self._fed_bytes = self._chunk_bytes if self._counted else 0
        self._chunk_is_one = False
        self._body_bytes = self._rated_from_bytes = 0
        self._reading = Exchange(self)

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > self._listener.config.url_bytes_max:
            raise UriTooLong(f"an address may have {self._listener.config.url_bytes_max} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come here too, and are nothing we asked for: nobody may add a header after the fact.
        if self._phase is not Phase.HEAD:
            return
        exchange = self._reading
        assert exchange is not None
        exchange.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        config = self._listener.config
        exchange = self._reading
        assert exchange is not None
        headers = exchange.headers
        if len(headers) > config.headers_max:
            raise HeadersTooLarge(f"a request may have {config.headers_max} headers")
        # What was fed is more than the head, and nearly always small enough to know.
        if self._fed_bytes > config.head_bytes_max or not self._counted:
            size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in headers)
            if size > config.head_bytes_max:
                raise _head_too_large(config)
        parser = self._parser
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise InvalidArgument("this node speaks HTTP/1.1")
        exchange.keep_alive = version == "1.1" and parser.should_keep_alive()
        exchange.begin(self._listener, parser.get_method().decode("ascii"), version, *self._split_url())
        self._phase = Phase.BODY
        if self._current is None:
            self._start(exchange)
        else:
            self._queue.append(exchange)
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        exchange = self._reading
        assert exchange is not None
        self._body_bytes += len(body)
        exchange.feed(body)

    def on_message_complete(self) -> None:
        exchange = self._reading
        assert exchange is not None
        self._phase = Phase.HANDLING
        exchange.complete()

    # -- exchanges' side ----------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()
            if self._phase is Phase.BODY:
                # While it was made to wait, the client could not be late.
                self._phase_since = self._listener.loop.time()
                self._rated_from_bytes = self._body_bytes
                self._time_body()

    def answered(self, exchange: Exchange) -> None:
        """An exchange's answer is written completely: go on with the next, or end."""
        if self.gone:
            return
        self._current = None
        if exchange.more:
            self._linger()
        elif not exchange.keep_alive:
            self.close()
        elif self._queue:
            self._start(self._queue.popleft())
            if not self._queue:
                self.resume_reading()
        elif self._refusal is not None:
            self._refuse(self._refusal)
        else:
            if self._phase is Phase.HANDLING:
                self._enter(Phase.IDLE)
            self.resume_reading()

    # -- ending -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the connection after what is written already."""
        self.flush()
        self.transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        self._held_back.clear()
        self.transport.abort()

    def timed_out(self) -> None:
        """The client has been in its phase for longer than it may."""
        if self.transport.is_closing():
            # It was told goodbye and does not read it.
            self.abort()
        elif self._phase in (Phase.IDLE, Phase.LINGER):
            self.deadline = self._listener.loop.time() + self._listener.config.linger_s
            if self._phase is Phase.LINGER or self._held_back or self.transport.get_write_buffer_size():
                self.abort()
            else:
                self.close()
        elif not self._paused:
            self._refuse(RequestTimeout("the request came too slowly, or stopped before its end"))

    def _refuse(self, error: PlexSpacesError) -> None:
        """Answer what is no request, after those that were, and end the connection."""
        self._refusal = error
        current, exchange = self._current, self._reading
        if current is not None and (current is not exchange or not current.more):
            self.pause_reading()
            return
        if current is not None and current.started:
            self.abort()
            return
        if exchange is None or exchange.answered:
            exchange = Exchange(self)
        exchange.keep_alive = False
        exchange.more = True
        self._current = exchange
        answer = problem(error)
        exchange.respond(answer.status, answer.headers, answer.body)
        exchange.wake()

    def _linger(self) -> None:
        transport = self.transport
        if transport.is_closing():
            return
        self._enter(Phase.LINGER)
        if transport.can_write_eof():
            self.flush()
            transport.write_eof()
        self.resume_reading()

    # -- inside -------------------------------------------------------------------------------------------

    def _start(self, exchange: Exchange) -> None:
        self._current = exchange
        listener = self._listener
        listener.running.add(exchange)
        exchange.task = listener.loop.create_task(exchange.run(listener))

    def _enter(self, phase: Phase) -> None:
        self._phase = self._timed_phase = phase
        now = self._phase_since = self._listener.loop.time()
        self.deadline = now + self._listener.phase_s[phase]

    def _time_body(self) -> None:
        config = self._listener.config
        credit_s = (self._body_bytes - self._rated_from_bytes) / config.body_bytes_per_s_min
        self.deadline = self._phase_since + config.body_timeout_s + credit_s

    def _judge_incomplete(self) -> None:
        """More has come, and the request is still not complete: is there an end in sight?"""
        if self._phase is Phase.HEAD:
            if self._fed_bytes > self._listener.config.head_bytes_max:
                self._refuse(_head_too_large(self._listener.config))
        elif self._phase is Phase.BODY and self._timed_phase is Phase.BODY:
            self._time_body()
            # The head and what stood before it were in the first chunks.
            allowed = self._listener.config.head_bytes_max + _CHUNK_BYTES + self._body_bytes * _FRAMING_RATIO_MAX
            if self._fed_bytes - self._body_bytes > allowed:
                self._refuse(InvalidArgument("the body has more framing than content: send larger chunks"))

    def _split_url(self) -> tuple[bytes, bytes]:
        url = self._url
        if not url.startswith(b"/"):
            # Absolute form, as to a proxy; anything else (CONNECT, *) names nothing here.
            try:
                parsed = httptools.parse_url(url)
            except httptools.HttpParserInvalidURLError:
                raise InvalidArgument("the address is not a path") from None
            return parsed.path or b"/", parsed.query or b""
        path, _, query = url.partition(b"?")
        return path, query

    def _upgrade_asked(self) -> None:
        """Another protocol is not spoken here.  The parser stops at the request's head: without a body it is
        answered as if nothing had been asked (RFC 9110, 7.8), with one the body is lost."""
        exchange = self._reading
        assert exchange is not None
        exchange.keep_alive = False
        names = {name for name, _ in exchange.headers}
        if names & {b"transfer-encoding"} or dict(exchange.headers).get(b"content-length", b"0") != b"0":
            exchange.refusal = InvalidArgument("this node speaks HTTP/1.1 only: send the request without Upgrade")


class Exchange:
    """One request and its answer; the `receive` and `send` of ASGI."""

    __slots__ = (
        "_body",
        "_chunked",
        "_connection",
        "_delivered",
        "_head",
        "_only_head",
        "_unread_bytes",
        "_waiter",
        "_wants_continue",
        "answered",
        "headers",
        "keep_alive",
        "more",
        "refusal",
        "scope",
        "started",
        "status",
        "task",
    )

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.headers: Headers = []
        self.scope: dict[str, Any] = {}
        self.task: asyncio.Task[None] | None = None
        self.keep_alive = True
        # What the connection has to say instead of the application.
        self.refusal: PlexSpacesError | None = None
        # The request's body is not complete.
        self.more = True
        self._body: list[bytes] = []
        self._unread_bytes = 0
        self._delivered = False
        self._waiter: asyncio.Future[None] | None = None
        self._wants_continue = False
        self._only_head = False
        self._head: Message | None = None
        self._chunked = False
        self.status = 0
        self.started = False
        self.answered = False

    def begin(self, listener: Listener, method: str, version: str, path: bytes, query: bytes) -> None:
        """The head is complete."""
        self._only_head = method == "HEAD"
        self._wants_continue = version == "1.1" and (b"expect", b"100-continue") in self.headers
        connection = self._connection
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": version,
            "method": method,
            "scheme": "http" if connection._listener.tls is None else "https",
            "path": path.decode("latin-1") if b"%" not in path else unquote_to_bytes(path).decode("utf-8", "replace"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self.headers,
            "client": connection.peername,
            "server": connection.sockname,
        }

    # -- the request --------------------------------------------------------------------------------------

    def feed(self, body: bytes) -> None:
        if self.answered:
            return
        self._body.append(body)
        self._unread_bytes += len(body)
        if self._unread_bytes > _HIGH_WATER_BYTES:
            self._connection.pause_reading()
        self.wake()

    def complete(self) -> None:
        self.more = False
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> Message:
        """ASGI: the next piece of the body, or the news that the client has gone."""
        connection = self._connection
        if self._wants_continue and not self._body and not connection.gone and not self.started:
            self._wants_continue = False
            connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        delivered = self._delivered
        while (delivered or (self.more and not self._body)) and not connection.gone and not self.answered:
            connection.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.answered or (connection.gone and (delivered or self.more)):
            return {"type": "http.disconnect"}
        body = b"".join(self._body)
        self._body.clear()
        self._unread_bytes = 0
        self._delivered = not self.more
        return {"type": "http.request", "body": body, "more_body": self.more}

    # -- the answer ---------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """ASGI: the head, then the body in one or more pieces.  Head and first piece leave in one write."""
        connection = self._connection
        if connection._writing_paused:
            try:
                async with asyncio.timeout(connection._listener.config.stall_s):
                    await connection.drained()
            except TimeoutError:
                connection.abort()
                raise Disconnected("the client does not read its answer") from None
        if connection.gone or self.answered:
            if self.started and not self.answered:
                # Of a whole answer nobody need know; one that comes in pieces must not be made for nobody.
                raise Disconnected("the client has gone")
            return
        if message["type"] == "http.response.start":
            assert self._head is None, "the answer has begun already"
            self._head = message
            return
        head = self._head
        assert head is not None, "the head comes before the body"
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            if self.started:
                self._finish(body)
            else:
                self.respond(head["status"], head["headers"], body)
        elif not self.started:
            headers = head["headers"]
            if not _has_length(headers):
                if self.scope["http_version"] == "1.1":
                    self._chunked = True
                    headers = [*headers, (b"transfer-encoding", b"chunked")]
                else:
                    self.keep_alive = False
            self._write_head(head["status"], headers, self._framed(body))
        else:
            connection.write(self._framed(body))

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Write a complete answer at once."""
        if status not in _BODILESS and not _has_length(headers):
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        self._write_head(status, headers, body)
        self._end()

    def _write_head(self, status: int, headers: Headers, body: bytes) -> None:
        listener = self._connection._listener
        parts = [_STATUS_LINES[status], listener.tail()]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        if listener.draining or self.more:
            self.keep_alive = False
        parts.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        head = b"".join(parts)
        # No value may begin a header, or an answer, of its own.
        if head.count(b"\n") != len(headers) + (5 if self.keep_alive else 6):
            raise ValueError("a header of the answer holds a line break")
        self.started = True
        self.status = status
        self._connection.write(head if self._only_head else head + body)

    def _framed(self, body: bytes) -> bytes:
        if self._only_head or not body:
            return b""
        return b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body

    def _finish(self, body: bytes) -> None:
        framed = self._framed(body)
        if self._chunked and not self._only_head:
            framed += b"0\r\n\r\n"
        if framed:
            self._connection.write(framed)
        self._end()

    def _end(self) -> None:
        self.answered = True
        self._body.clear()
        self._connection.answered(self)

    # -- the application ----------------------------------------------------------------------------------

    async def run(self, listener: Listener) -> None:
        """Let the application answer.  The last resort: what it lets go is answered here."""
        try:
            if self.refusal is not None:
                answer = problem(self.refusal)
                self.respond(answer.status, answer.headers, answer.body)
            else:
                await listener.app(self.scope, self.receive, self.send)
                if not self.answered and not self._connection.gone:
                    raise RuntimeError("the application ended without a complete answer")
        except asyncio.CancelledError:
            self._give_up(problem(Unavailable("the node is stopping")))
            raise
        except Disconnected:
            pass
        except Exception:  # noqa: BLE001 - the last resort: what an application lets go
            _log.exception("the application failed at %s %s", self.scope.get("method"), self.scope.get("raw_path"))
            self._give_up(problem(InternalError("the application failed")))
        finally:
            listener.ended(self)

    def cut_off(self) -> None:
        """End at once: with a clear answer if none has begun, else in the middle of it."""
        self._give_up(
            problem(Unavailable("the node stopped before there was an answer; the work may still have happened"))
        )
        if self.task is not None:
            self.task.cancel()

    def _give_up(self, answer: Response) -> None:
        if self.answered or self._connection.gone:
            return
        if self.started:
            self._connection.abort()
            return
        self.keep_alive = False
        self.respond(answer.status, answer.headers, answer.body)


def _head_too_large(config: HttpConfig) -> HeadersTooLarge:
    return HeadersTooLarge(f"request line and headers together may have {config.head_bytes_max} bytes")


def _place(peername: Any) -> str:
    return f"{peername[0]}:{peername[1]}" if isinstance(peername, tuple) else ""


def _has_length(headers: Headers) -> bool:
    # Nearly always it is the last.
    return bool(headers) and (
        headers[-1][0] == b"content-length" or any(name == b"content-length" for name, _ in headers)
    )
