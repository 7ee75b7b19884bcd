"""A request as the edge's handlers get it: its head, the way to its body, and the answers most of them give."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import orjson

from ..errors import InvalidArgument, PayloadTooLarge
from .auth import Principal
from .faults import Response
from .requests import parse_query

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

JSON = (b"content-type", b"application/json")
NO_STORE = (b"cache-control", b"no-store")
# Two of one of these would mean that somebody on the way may see another request than we do.
_SINGLE_HEADERS = (b"host", b"authorization", b"content-type", b"content-length", b"idempotency-key", b"range")


class ClientGone(Exception):
    """The client went away before its request was complete: there is nobody to answer."""


class Request:
    """A request's head, and the way to its body."""

    __slots__ = ("admitted", "headers", "method", "operation", "parameters", "path", "principal", "query", "receive")

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive) -> None:
        self.method: str = scope["method"]
        self.path: bytes = scope["raw_path"]
        self.query: bytes = scope["query_string"]
        headers = scope["headers"]
        self.headers: dict[bytes, bytes] = dict(headers)
        if len(self.headers) != len(headers):
            _check_single(headers)
        if b"host" not in self.headers and scope["http_version"] == "1.1":
            raise InvalidArgument("an HTTP/1.1 request has a Host header (RFC 9112, 3.2)")
        self.receive = receive
        self.operation = "other"
        # The tenant among whose requests this one is counted, once it is; None before that.
        self.admitted: str | None = None
        self.parameters: dict[str, str] = {}
        # Set before any handler of a route that is not public runs.
        self.principal: Principal

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises:
            ClientGone
        """
        more = True
        while more:
            message = await self.receive()
            if message["type"] != "http.request":
                raise ClientGone
            more = message.get("more_body", False)
            yield message.get("body", b"")

    async def body(self, bytes_max: int) -> bytes:
        """The whole body.

        Raises:
            PayloadTooLarge: it is longer; no more of it is read.
            ClientGone
        """
        if int(self.headers.get(b"content-length", b"0")) > bytes_max:
            raise body_too_large(bytes_max)
        message = await self.receive()
        if message["type"] != "http.request":
            raise ClientGone
        body: bytes = message.get("body", b"")
        if message.get("more_body", False):
            parts, size = [body], len(body)
            async for piece in self.pieces():
                size += len(piece)
                if size > bytes_max:
                    break
                parts.append(piece)
            body = b"".join(parts)
            if size > bytes_max:
                raise body_too_large(bytes_max)
        if len(body) > bytes_max:
            raise body_too_large(bytes_max)
        return body

    def arguments(self, *known: str) -> dict[str, str]:
        """The query's parameters, each at most once.

        Raises:
            InvalidArgument: one is unknown or there twice.
        """
        if not self.query:
            return {}
        found: dict[str, str] = {}
        for name, value in parse_query(self.query):
            if name not in known:
                raise InvalidArgument(
                    f"the query parameter {name[:80]!r} is not known here; "
                    + ("known are " + ", ".join(known) if known else "there are none")
                )
            if name in found:
                raise InvalidArgument(f"the query parameter {name!r} is there twice")
            found[name] = value
        return found


def _check_single(headers: list[tuple[bytes, bytes]]) -> None:
    names = [name for name, _ in headers]
    for name in _SINGLE_HEADERS:
        if names.count(name) > 1:
            raise InvalidArgument(f"the header {name.decode()} is there twice")


def json_response(status: int, content: Mapping[str, Any]) -> Response:
    """An answer of JSON that nobody keeps."""
    return Response(status, [JSON, NO_STORE], orjson.dumps(content))


def whole(name: str, text: str, high: int) -> int:
    """A whole number from 1 to `high`.

    Raises:
        InvalidArgument
    """
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= high):
        raise InvalidArgument(f"{name} is to be a whole number from 1 to {high}")
    return int(text)


def visible(principal: Principal, namespace: str) -> bool:
    """Whether a principal may know of what is in a namespace of its tenant."""
    return principal.namespaces is None or namespace in principal.namespaces


def body_too_large(bytes_max: int) -> PayloadTooLarge:
    """The error for a body that is longer than a message may be."""
    return PayloadTooLarge(
        f"a message may have {bytes_max} bytes (payload_bytes_max of the node's configuration)",
        limit="payload_bytes_max",
        bytes_max=bytes_max,
    )
