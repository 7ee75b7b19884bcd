"""How an error leaves the node: one table from its code to HTTP status, gRPC code and RFC 9457 problem document.

Nothing else decides what a client is told.  A fault of the node's own is described by an incident's id, never by its
text; a traceback leaves the node in no case.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from ..errors import BusyError, CallerError, Conflict, PlexSpacesError

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table.

    Attributes:
        status: of HTTP.
        grpc: the name of the gRPC code.
        title: the same for every occurrence (RFC 9457, 3.1.4).
        retry_after_s: what `Retry-After` says unless the error's `retry_after_ms` knows better; 0 for none.
    """

    status: int
    grpc: str
    title: str
    retry_after_s: int = 0


class MethodNotAllowed(CallerError):
    code = "method-not-allowed"


class RequestTimeout(CallerError):
    """The client did not send its request in time."""

    code = "request-timeout"


class UriTooLong(CallerError):
    code = "uri-too-long"


class HeadersTooLarge(CallerError):
    code = "headers-too-large"


class IdempotencyKeyReused(CallerError):
    """An `Idempotency-Key` came again with another request."""

    code = "idempotency-key-reused"


class ReplyNotKept(Conflict):
    """A repeated request was done, but its reply was too large to be recorded."""

    code = "reply-not-kept"


class RangeNotSatisfiable(CallerError):
    """The `Range` that was asked for begins behind the end; `details["size_bytes"]` says where that is."""

    code = "range-not-satisfiable"


class Overloaded(BusyError):
    """The edge serves as many requests as it may."""

    code = "overloaded"


FAULTS: dict[str, Fault] = {
    "invalid-argument": Fault(400, "INVALID_ARGUMENT", "The request makes no sense"),
    "unauthenticated": Fault(401, "UNAUTHENTICATED", "No valid token"),
    "permission-denied": Fault(403, "PERMISSION_DENIED", "Not allowed"),
    "not-found": Fault(404, "NOT_FOUND", "There is no such thing"),
    "actor-not-found": Fault(404, "NOT_FOUND", "There is no such actor"),
    "method-not-allowed": Fault(405, "UNIMPLEMENTED", "Not with this method"),
    "request-timeout": Fault(408, "DEADLINE_EXCEEDED", "The request came too slowly"),
    "already-exists": Fault(409, "ALREADY_EXISTS", "It exists already"),
    "conflict": Fault(409, "ABORTED", "Somebody else was first"),
    "deadlock": Fault(409, "FAILED_PRECONDITION", "Waiting would never end"),
    "reply-not-kept": Fault(409, "ABORTED", "Done before, and the reply is gone"),
    "payload-too-large": Fault(413, "RESOURCE_EXHAUSTED", "Too large"),
    "uri-too-long": Fault(414, "INVALID_ARGUMENT", "The address is too long"),
    "unsupported-media-type": Fault(415, "INVALID_ARGUMENT", "Not in this format"),
    "range-not-satisfiable": Fault(416, "OUT_OF_RANGE", "There is nothing in this range"),
    "invalid-component": Fault(422, "INVALID_ARGUMENT", "Not a sealed component"),
    "handler-refused": Fault(422, "INVALID_ARGUMENT", "The actor refused the message"),
    "idempotency-key-reused": Fault(422, "INVALID_ARGUMENT", "The key belongs to another request"),
    "mailbox-full": Fault(429, "RESOURCE_EXHAUSTED", "The actor has too much to do", 1),
    "rate-limited": Fault(429, "RESOURCE_EXHAUSTED", "Too many requests", 1),
    "limit-exceeded": Fault(429, "RESOURCE_EXHAUSTED", "A limit is reached", 5),
    "headers-too-large": Fault(431, "INVALID_ARGUMENT", "The headers are too large"),
    "internal": Fault(500, "INTERNAL", "A fault of the node"),
    "handler-crashed": Fault(502, "INTERNAL", "The actor crashed"),
    "unavailable": Fault(503, "UNAVAILABLE", "Not available now", 5),
    "overloaded": Fault(503, "UNAVAILABLE", "The node has too much to do", 1),
    "cancelled": Fault(503, "CANCELLED", "Cancelled", 1),
    "actor-exited": Fault(503, "UNAVAILABLE", "The actor ended before it came to the message", 1),
    "deadline-exceeded": Fault(504, "DEADLINE_EXCEEDED", "No reply in time"),
}

_JSON_PROBLEM = (b"content-type", b"application/problem+json")


# Not frozen: one is made for every request, and a frozen dataclass costs five times as much to make.
# Nobody assigns to its fields after construction.
@dataclass(slots=True)
class Response:
    """A complete answer: status, headers (without Content-Length) and body."""

    status: int
    headers: Headers
    body: bytes = b""


@dataclass(slots=True)
class StreamingResponse:
    """An answer that comes in pieces, at the client's pace.

    Attributes:
        headers: with a Content-Length where it is known.
        pieces: the body.
        close: called at the end, also where no piece was asked for.
    """

    status: int
    headers: Headers
    pieces: AsyncGenerator[bytes, None]
    close: Callable[[], None] = lambda: None


def problem(error: PlexSpacesError, *, incident: str = "") -> Response:
    """The answer that tells a client of an error.

    Args:
        error: what happened.
        incident: where the node's log holds the particulars, for an error whose own text must stay inside.
    """
    fault = FAULTS[error.code]
    details = {key: value for key, value in error.details.items() if key != "traceback"}
    detail = error.message
    if fault.status == 500:
        detail = "the node failed to do this; its log says why" + (f" under {incident}" if incident else "")
        details = {"incident": incident} if incident else {}
    document: dict[str, Any] = {
        "type": f"urn:plexspaces:problem:{error.code}",
        "title": fault.title,
        "status": fault.status,
        "detail": detail,
        "code": error.code,
    }
    if details:
        document["details"] = details
    headers = [_JSON_PROBLEM, (b"cache-control", b"no-store")]
    if fault.retry_after_s:
        headers.append((b"retry-after", str(_retry_after_s(details, fault)).encode()))
    match error.code:
        case "unauthenticated":
            headers.append((b"www-authenticate", _challenge(error)))
        case "range-not-satisfiable" if "size_bytes" in error.details:
            headers.append((b"content-range", b"bytes */%d" % error.details["size_bytes"]))
        case "method-not-allowed":
            headers.append((b"allow", ", ".join(error.details.get("allow", ())).encode()))
    return Response(fault.status, headers, orjson.dumps(document, default=str, option=orjson.OPT_NON_STR_KEYS))


def _retry_after_s(details: dict[str, Any], fault: Fault) -> int:
    wanted_ms = details.get("retry_after_ms")
    if isinstance(wanted_ms, int | float) and 0 < wanted_ms < 86_400_000:
        return math.ceil(wanted_ms / 1000)
    return fault.retry_after_s


def _challenge(error: PlexSpacesError) -> bytes:
    """RFC 6750, 3: a request without any token gets the bare challenge, one with a bad token the reason."""
    reason = error.details.get("reason")
    if not isinstance(reason, str):
        return b'Bearer realm="plexspaces"'
    text = "".join(c for c in error.message if " " <= c <= "~" and c not in '"\\')
    return f'Bearer realm="plexspaces", error="{reason}", error_description="{text}"'.encode()
