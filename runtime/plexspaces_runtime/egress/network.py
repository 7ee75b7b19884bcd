"""From a link's host to a connection: resolved once, every address checked, connected to one that was.

Between a check and a connection that resolves again, the answer of the name server can change (DNS rebinding).  So the
name is resolved here, and only addresses go further; the name is used for TLS and the Host header alone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpcore

from ..errors import LimitExceeded
from .addresses import Address, Network, admissible, reason_against
from .frames import FrameLimit
from .links import Link

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

ADDRESSES_MAX: Final = 8
# A peer gets no further ahead of its reader than this and what TLS has buffered.
_READ_BYTES_MAX: Final = 16 * 1024
_LOOKUPS_MAX: Final = 32


class SystemResolver:
    """Asks the system, in threads of its own: names that nobody answers for hold up no other work of the node.

    Of one name there is one question at a time, so that it takes many such names to hold up other names.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUPS_MAX, thread_name_prefix="egress-resolver")
        self._asked: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        key = host, port
        if key not in self._asked:
            self._asked[key] = asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port)
            self._asked[key].add_done_callback(lambda done: self._forget(key, done))
        # Whoever gives up does so for itself.
        return await asyncio.shield(self._asked[key])

    def _forget(self, key: tuple[str, int], done: asyncio.Future[list[str]]) -> None:
        del self._asked[key]
        if not done.cancelled():
            # Seen, also when nobody waits for it any more.
            done.exception()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[str]:
    return [str(sockaddr[0]) for *_, sockaddr in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Wire(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection, of which only what somebody waits for is read.

    Attributes:
        reads: pieces read since it was set to 0.
        written: whether anything was.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._pending = bytearray()
        self._ended = False
        self._closed = False
        # It did not end as the peer wanted.
        self._cut = False
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._bytes_left: int | None = None
        self._frames: FrameLimit | None = None
        self._limit = ""
        self.reads = 0
        self.written = False

    # -- as the transport sees it ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # By the protocol's contract; uvloop's transports are no subclasses of asyncio's.
        self._transport = transport  # type: ignore[assignment]
        self._transport.pause_reading()  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        self._pending += data
        if self._transport is not None:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = self._closed = True
        self._cut = self._cut or exc is not None
        self._wake()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def _wake(self) -> None:
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    # -- as httpcore sees it -----------------------------------------------------------------------------------

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """The next bytes, b"" at the end.  Time is limited by whoever waits."""
        if self._pending:
            # A peer that sends much at once and little in it must not keep the loop.
            await asyncio.sleep(0)
        elif not self._ended:
            assert self._transport is not None
            self._readable = self._loop.create_future()
            self._transport.resume_reading()
            try:
                await self._readable
            finally:
                self._readable = None
                if not self._closed:
                    self._transport.pause_reading()
        if self._cut and not self._pending:
            # To a body that ends with its connection, b"" would be the end.
            raise httpcore.ReadError("the connection was cut off")
        size = min(max_bytes, _READ_BYTES_MAX)
        data = bytes(self._pending[:size])
        del self._pending[:size]
        self.reads += 1
        if self._bytes_left is not None:
            self._bytes_left -= len(data)
            if self._bytes_left < 0:
                self.abort()
                raise LimitExceeded(self._limit)
        if self._frames is not None:
            self._frames.feed(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        if self._closed or self._transport is None:
            raise httpcore.WriteError("the connection is closed")
        if buffer:
            self.written = True
            self._transport.write(buffer)
            if self._writable is not None:
                await self._writable

    async def aclose(self) -> None:
        self.abort()

    def get_extra_info(self, info: str) -> Any:
        if self._transport is None:
            return None
        return self.stale if info == "is_readable" else self._transport.get_extra_info(info)

    # -- as the client sees it ---------------------------------------------------------------------------------

    @property
    def stale(self) -> bool:
        """Whether the next request had better take another connection.

        In HTTP/1.1 an idle peer has nothing to say: what it says would be taken for the next answer.
        """
        return self._ended or self._closed or (bool(self._pending) and not self.http2)

    @property
    def http2(self) -> bool:
        """Whether HTTP/2 was agreed on."""
        tls = self.get_extra_info("ssl_object")
        return tls is not None and tls.selected_alpn_protocol() == "h2"

    def allow_frames(self, count: int) -> None:
        """Read at most so many frames of HTTP/2 without content from now on, as `allow_bytes` does."""
        if self.http2:
            self._frames = self._frames or FrameLimit()
            self._frames.begin(count)

    def allow_bytes(self, count: int, limit: str) -> None:
        """Read at most so many bytes from now on; beyond, reading raises `LimitExceeded` with the text `limit`."""
        self._bytes_left = count
        self._limit = limit

    def listen(self) -> None:
        """Notice from now on what an idle peer does, which nobody reads."""
        if self._transport is not None and not self._closed:
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once, whatever is still to be written."""
        self._closed = self._ended = self._cut = True
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    async def encrypt(self, context: ssl.SSLContext, host: str, timeout_s: float) -> None:
        """Agree on TLS with a peer that shows a certificate for `host`."""
        plain = self._transport
        assert plain is not None
        # What comes during the handshake pauses nobody: the transport below belongs to TLS from now on.
        self._transport = None
        try:
            secure = await self._loop.start_tls(
                plain, self, context, server_hostname=host, ssl_handshake_timeout=timeout_s
            )
        except BaseException:
            self._closed = self._ended = True
            plain.abort()
            raise
        assert secure is not None
        self._transport = secure
        secure.pause_reading()


class NoConnection(Exception):
    """Nothing was sent; the text says why, in our words."""


class Forbidden(Exception):
    """The host has an address that a link may not lead to.

    Attributes:
        reason: with the address, for the operator; who asked for it is told only of what kind it is.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Dialler:
    """Makes connections to links' hosts.

    Args:
        permitted: ranges of addresses that are not public and that links may name.
        resolve: the addresses of a host and port.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, permitted: Sequence[Network], resolve: Resolve) -> None:
        self._loop = loop
        self._permitted = tuple(permitted)
        self._resolve = resolve

    async def connect(self, link: Link, context: ssl.SSLContext | None) -> Wire:
        """A connection to an address of the link's host, encrypted if it has a `context`.

        Raises:
            NoConnection: there is none in the link's time.
            Forbidden: an address is not for this link; none is connected to then.
        """
        base = link.base
        try:
            async with asyncio.timeout(link.connect_timeout_s) as limit:
                addresses = await self._addresses(link)
                deadline = limit.when()
                assert deadline is not None
                wire = await self._first(addresses, base.port, deadline)
                if context is not None:
                    await wire.encrypt(context, base.host, link.connect_timeout_s)
                return wire
        except TimeoutError:
            raise NoConnection(f"no connection within {link.connect_timeout_s:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise NoConnection(f"the certificate is not trusted: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise NoConnection(f"no agreement on TLS ({error.reason})") from None
        except OSError as error:
            raise NoConnection(f"the connection failed ({error.strerror or type(error).__name__})") from None

    async def _addresses(self, link: Link) -> list[Address]:
        base = link.base
        try:
            texts = [base.host] if base.address is not None else await self._resolve(base.host, base.port)
            addresses = list(dict.fromkeys(ipaddress.ip_address(text) for text in texts))
        except (OSError, ValueError):
            raise NoConnection("the host's name cannot be resolved") from None
        for address in addresses:
            self._check(link, address)
        if not addresses:
            raise NoConnection("the host's name has no address")
        return addresses[:ADDRESSES_MAX]

    def _check(self, link: Link, address: Address) -> None:
        why = reason_against(address)
        if why is None or admissible(address, link.addresses, self._permitted):
            return
        raise Forbidden(
            f"the host of link {link.name!r} has {why}: its range must be named in `links.{link.name}.addresses`, "
            "and permitted by the node in `egress.permitted`",
            f"{link.base.host} is at {address}, {why}",
        )

    async def _first(self, addresses: Sequence[Address], port: int, deadline: float) -> Wire:
        """A connection to the first address that takes one; each has its share of the time that is left."""
        failed: OSError | None = None
        for position, address in enumerate(addresses):
            share_s = (deadline - self._loop.time()) / (len(addresses) - position)
            try:
                async with asyncio.timeout(share_s):
                    return await self._one(address, port)
            except OSError as error:  # `TimeoutError` is one.
                failed = error
        assert failed is not None
        raise failed

    async def _one(self, address: Address, port: int) -> Wire:
        family = socket.AF_INET if isinstance(address, ipaddress.IPv4Address) else socket.AF_INET6
        _, wire = await self._loop.create_connection(
            lambda: Wire(self._loop),
            str(address),
            port,
            family=family,
            # Whatever this text were, it would not be looked up.
            flags=socket.AI_NUMERICHOST,
        )
        return wire
