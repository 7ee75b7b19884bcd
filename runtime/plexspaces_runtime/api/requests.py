"""From the parts of an HTTP request to an actor's message: address, operation, arguments, how long to wait.  Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_to_bytes

import orjson

from ..errors import InvalidArgument, UnsupportedMediaType
from ..scope import Address, Scope, check_name

OP_NAMES = ("op", "action", "message_type", "msg_type")
_OP_MAX = 128
_ARGUMENTS_MAX = 100
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
# Possessive: a run of spaces is taken whole, or the time to refuse it would grow with its square.
_WAIT = re.compile(r"""\s*+wait\s*+=\s*+"?([^"\s;]*+)"?\s*+(?:;.*)?""", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_IDEMPOTENCY_KEY = re.compile(r'(?:"([\x20\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x7e]{1,255}))')
_TRACEPARENT = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class ActorPath:
    """What an address below /api/v1/actors/ names.  The scope in it is a claim until a token has confirmed it.

    Attributes:
        actor: the actor to talk to; None where the address can only be asked about one.
        about: the actor that a final `info` asks about; None without one.
        restart: the actor that a final `restart` is for; None without one.
    """

    tenant: str
    namespace: str
    actor: Address | None
    about: Address | None
    restart: Address | None = None


def decode_segment(segment: bytes) -> str:
    """One segment of a path, percent-decoded.

    Raises:
        InvalidArgument: bad percent-encoding, or not UTF-8.
    """
    if b"%" in segment:
        if _BAD_PERCENT.search(segment):
            raise InvalidArgument("the address holds a '%' that two hexadecimal digits do not follow: write it as %25")
        segment = unquote_to_bytes(segment)
    try:
        return segment.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidArgument("the address is not UTF-8 once its percent-encoding is undone") from None


def decode_path(path: bytes) -> str:
    """One or more segments of a path, percent-decoded.

    Raises:
        InvalidArgument: bad percent-encoding, not UTF-8, or an encoded `/`: it would look like one that separates.
    """
    segments = [decode_segment(segment) for segment in path.split(b"/")]
    if len(segments) > 1 and any("/" in segment for segment in segments):
        raise InvalidArgument("the address holds an encoded '/' (%2F): parts of this name are separated by a plain one")
    return "/".join(segments)


def parse_actor_path(rest: bytes) -> ActorPath | None:
    """Read `{tenant}/{namespace}/{type}[/{key}][/info]` or `.../{type}/{key}/restart`; None when it has another shape.

    `{type}/info` is both: on GET it asks about the actor of that type, otherwise it is the actor whose key is `info`.

    Raises:
        InvalidArgument: a name in it cannot be one.
    """
    segments = [decode_segment(segment) for segment in rest.split(b"/")]
    if not 3 <= len(segments) <= 5 or (len(segments) == 5 and segments[4] not in ("info", "restart")):
        return None
    tenant, namespace, type_, *rest_ = segments
    scope = Scope(check_name("tenant", tenant), check_name("namespace", namespace))
    check_name("actor type", type_)
    match rest_:
        case []:
            return ActorPath(tenant, namespace, Address.parse(scope, type_), None)
        case ["info"]:
            return ActorPath(tenant, namespace, Address(scope, type_, "info"), Address.parse(scope, type_))
        case [key]:
            return ActorPath(tenant, namespace, Address.parse(scope, f"{type_}/{key}"), None)
        case [key, "restart"]:
            return ActorPath(tenant, namespace, None, None, Address.parse(scope, f"{type_}/{key}"))
        case _:
            return ActorPath(tenant, namespace, None, Address.parse(scope, f"{type_}/{rest_[0]}"))


def check_content_type(value: bytes | None, body: bytes) -> None:
    """Accept JSON, and nothing else.

    Raises:
        UnsupportedMediaType
    """
    if value is None or value == b"application/json":
        return
    kind, _, parameters = value.decode("latin-1").partition(";")
    kind = kind.strip().lower()
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if charset not in ("", "utf-8", "utf8"):
        raise UnsupportedMediaType(f"JSON is UTF-8, not {charset[:40]!r}")
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    # What curl says of any `-d` unless told otherwise.
    if kind == "application/x-www-form-urlencoded" and body.lstrip()[:1] == b"{":
        return
    raise UnsupportedMediaType(f"send a JSON object (Content-Type: application/json), not {kind[:80]!r}")


def parse_message(body: bytes) -> tuple[str, str]:
    """The operation that a JSON body names, and the body as text: the arguments go to the actor as they came.

    Raises:
        InvalidArgument: no JSON object, or no operation in it.
    """
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not body:
            message = {}
        else:
            raise InvalidArgument(f"the body is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise InvalidArgument('the body is to be a JSON object, such as {"op": "increment", "amount": 5}')
    for name in OP_NAMES:
        op = message.get(name)
        if op is not None:
            return _check_op(name, op), body.decode()
    raise InvalidArgument('the body names no operation: add "op", such as {"op": "increment", "amount": 5}')


def parse_query_message(query: bytes) -> tuple[str, str]:
    """The operation (`get` unless `op` says otherwise) and the arguments of a query, as JSON text.

    A value that is JSON counts as that JSON (so `"7"` in quotes is a string), any other is a string; a name that
    comes several times is a list.

    Raises:
        InvalidArgument: bad percent-encoding, or too many arguments.
    """
    if not query:
        return "get", "{}"
    arguments: dict[str, list[str]] = {}
    for name, value in parse_query(query):
        arguments.setdefault(name, []).append(value)
    op = "get"
    for name in OP_NAMES:
        if name in arguments:
            op = _check_op(name, arguments[name][0] if len(arguments[name]) == 1 else arguments[name])
            break
    members = []
    for name, values in arguments.items():
        # Spliced, not parsed and printed: a number of any length stays what it was.
        texts = [value if name not in OP_NAMES and _is_json(value) else _quote(value) for value in values]
        members.append(f"{_quote(name)}:{texts[0] if len(texts) == 1 else '[' + ','.join(texts) + ']'}")
    return op, "{" + ",".join(members) + "}"


def parse_query(query: bytes) -> list[tuple[str, str]]:
    """The names and values of a query string, in order.

    Raises:
        InvalidArgument: bad percent-encoding, not UTF-8, or too many.
    """
    if _BAD_PERCENT.search(query):
        raise InvalidArgument("the query holds a '%' that two hexadecimal digits do not follow: write it as %25")
    try:
        return parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_ARGUMENTS_MAX)
    except UnicodeDecodeError:
        raise InvalidArgument("the query is not UTF-8 once its percent-encoding is undone") from None
    except ValueError:
        raise InvalidArgument(f"a query may have {_ARGUMENTS_MAX} arguments: send more in a body") from None


def parse_wait(query: dict[str, str], prefer: bytes | None, wait_s_max: float) -> float | None:
    """How many seconds the caller wants to wait for the reply; None when it does not.

    `?wait=SECONDS` is a demand and refused where it cannot be met; `Prefer: wait=SECONDS` (RFC 7240) is a wish, of
    which as much is granted as there is.

    Raises:
        InvalidArgument: not a number of seconds, or too many demanded.
    """
    if (demanded := query.get("wait")) is not None:
        seconds = _seconds(demanded, "?wait=")
        if not 0 < seconds <= wait_s_max:
            raise InvalidArgument(f"?wait= is to be more than 0 and at most {wait_s_max:g} seconds")
        return seconds
    if prefer is None:
        return None
    for preference in prefer.decode("latin-1").split(","):
        if match := _WAIT.fullmatch(preference):
            return min(_seconds(match[1], "Prefer: wait="), wait_s_max) or None
    return None


def parse_idempotency_key(value: bytes) -> str:
    """The value of an `Idempotency-Key`, with or without its quotes.

    Raises:
        InvalidArgument: empty, longer than 255 characters, or not printable ASCII.
    """
    match = _IDEMPOTENCY_KEY.fullmatch(value.decode("latin-1"))
    if match is None:
        raise InvalidArgument("Idempotency-Key is to be 1 to 255 printable ASCII characters, best a new UUID")
    key: str = match[1] or match[2]
    return key


def parse_traceparent(value: bytes | None) -> str:
    """A W3C `traceparent`; "" where there is none or it is malformed (the standard says: ignore it)."""
    return value.decode("ascii") if value is not None and _TRACEPARENT.fullmatch(value) else ""


def _seconds(text: str, what: str) -> float:
    if not _SECONDS.fullmatch(text):
        raise InvalidArgument(f"{what} is to be a number of seconds, not {text[:40]!r}")
    return float(text)


def _check_op(name: str, op: object) -> str:
    if not isinstance(op, str) or not 0 < len(op) <= _OP_MAX:
        raise InvalidArgument(f"{name!r} is to name the operation: a string of 1 to {_OP_MAX} characters")
    return op


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _quote(text: str) -> str:
    return orjson.dumps(text).decode()
