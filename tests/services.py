"""A service outside the node, for tests: HTTP/1.1 on a socket of this machine, as simple as the protocol allows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Got:
    """A request as the service got it; headers by lower-case name."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Gives:
    """What it answers.

    Attributes:
        body: sent with its length.
        pieces: sent in chunks instead; a number is a pause in seconds, None breaks the connection.
        delay_s: before the head.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: Sequence[bytes | float | None] | None = None
    delay_s: float = 0.0


class Service:
    """Attributes:
    requests: all it got, oldest first.
    open: connections that are open now.
    """

    def __init__(self, answer: Callable[[Got], Gives]) -> None:
        self._answer = answer
        self.requests: list[Got] = []
        self.open = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self.open -= 1
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        got = Got(method, path, headers, await reader.readexactly(int(headers.get("content-length", "0"))))
        self.requests.append(got)
        gives = self._answer(got)
        if gives.delay_s:
            await self._while_connected(reader, asyncio.sleep(gives.delay_s))
        length = "transfer-encoding: chunked" if gives.pieces is not None else f"content-length: {len(gives.body)}"
        lines = [f"HTTP/1.1 {gives.status} x", *(f"{name}: {value}" for name, value in gives.headers.items())]
        if gives.status != 204:
            lines.append(length)
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + gives.body)
        for piece in gives.pieces or ():
            if piece is None:
                return False
            if isinstance(piece, float):
                await self._while_connected(reader, asyncio.sleep(piece))
            elif piece:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        if gives.pieces is not None:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _while_connected(self, reader: asyncio.StreamReader, wait: Awaitable[None]) -> None:
        """Wait, unless whoever asked goes away."""
        gone, waiting = asyncio.ensure_future(reader.read(1)), asyncio.ensure_future(wait)
        try:
            done, _ = await asyncio.wait({gone, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            waiting.cancel()
            # One reader at a time: it has to be gone before there is another.
            await asyncio.wait({gone, waiting})
        if gone in done:
            raise ConnectionError("gone")


@asynccontextmanager
async def serving(answer: Callable[[Got], Gives]) -> AsyncIterator[Service]:
    """A service on a port of its own."""
    service = Service(answer)
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    service.port = server.sockets[0].getsockname()[1]
    try:
        yield service
    finally:
        server.close()
