"""What a service link is, and how one is read from a configuration: strictly, with every issue at once."""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import InvalidArgument
from ..scope import check_name
from .addresses import Network, reason_against
from .model import PhantomSlots, Slot
from .urls import METHODS, Base, Target, canonical_headers, canonical_method, canonical_target, parse_base

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
_SECRET: Final = re.compile(r"\$\{secret:([A-Za-z0-9][A-Za-z0-9_.-]{0,63})\}")
_PATTERN: Final = re.compile(r"[A-Za-z0-9*](?:[A-Za-z0-9_.*/-]{0,126}[A-Za-z0-9*])?")
_BODY_DEPTH_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Rule:
    """Requests that a link lets through.

    Attributes:
        method: in capitals, "*" for every one.
        segments: of the path, escaped as `Target` has them; "*" is any one segment, a last "**" any rest.
        parameters: names, escaped, that the query may have; None for any.
    """

    method: str
    segments: tuple[str, ...]
    parameters: frozenset[str] | None = None

    def __str__(self) -> str:
        query = "" if self.parameters is None else "?" + "&".join(sorted(self.parameters))
        return f"{self.method} /{'/'.join(self.segments)}{query}"

    def allows(self, method: str, target: Target) -> bool:
        """Whether a canonical request is one of these."""
        if self.method not in ("*", method):
            return False
        if self.parameters is not None and not target.names <= self.parameters:
            return False
        wanted, there = self.segments, target.segments
        if wanted[-1] == "**":
            wanted = wanted[:-1]
            there = there[: len(wanted)] if len(there) > len(wanted) else ()
        return len(wanted) == len(there) and all(
            one == other or (one == "*" and other != "") for one, other in zip(wanted, there, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Link:
    """A way out of the node, by name.  `LINK_KEYS` says what each field means.

    Attributes:
        base: `base_url`, canonical.
        auth: where the node writes secrets.
        phantoms: where it swaps phantom tokens.
    """

    name: str
    base: Base
    allow: tuple[Rule, ...]
    auth: tuple[Slot, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    phantoms: PhantomSlots = field(default_factory=PhantomSlots)
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 30.0
    idle_timeout_s: float = 60.0
    total_timeout_s: float = 120.0
    request_bytes_max: int = 1 * _MIB
    response_bytes_max: int = 8 * _MIB
    retries_max: int = 2
    backoff_initial_s: float = 0.2
    backoff_max_s: float = 10.0
    idempotency_header: str = "idempotency-key"
    breaker_failures: int = 5
    breaker_open_s: float = 30.0
    concurrent_max: int = 32
    rate_per_s: float = 0.0
    rate_burst: int = 0
    actors: tuple[str, ...] = ("*",)
    tenants: tuple[str, ...] = ("*",)
    addresses: tuple[Network, ...] = ()
    redirects_max: int = 0
    cookies: bool = False
    ca_file: str = ""
    http2: bool = True

    @property
    def base_url(self) -> str:
        return str(self.base)

    @property
    def secrets(self) -> frozenset[str]:
        """The names of the secrets it needs."""
        return frozenset(name for slot in self.auth for name in _SECRET.findall(slot.template))

    def allows(self, method: str, target: Target) -> bool:
        """Whether a rule lets a canonical request through."""
        return any(rule.allows(method, target) for rule in self.allow)

    def serves(self, tenant: str, actor: str) -> bool:
        """Whether an actor, as it is called in its namespace, may use it."""
        return ("*" in self.tenants or tenant in self.tenants) and any(
            _matches(pattern, actor) for pattern in self.actors
        )


@dataclass(frozen=True, slots=True)
class LinkState:
    """A link and how it fares, for one namespace; for one tenant, if it is the node's.

    Attributes:
        namespace: "" for the node's.
        breaker: `closed`, `open` or `half-open`.
        under_way: requests that wait for the head of their answer.
        requests: that have been sent since the node started or the link was changed, each attempt counted.
        failures: how many of them had no answer, or one of 500 and above.
    """

    namespace: str
    link: Link
    breaker: str = "closed"
    under_way: int = 0
    requests: int = 0
    failures: int = 0


def _matches(pattern: str, actor: str) -> bool:
    """A pattern without a slash is about the actor's type, whatever its key."""
    subject = actor if "/" in pattern else actor.partition("/")[0]
    return re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), subject, re.DOTALL) is not None


# -- reading -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Issue:
    """What is wrong with a link's configuration, and what to write instead.

    Attributes:
        path: keys and positions, from the link's own table down; () for the table itself.
    """

    path: tuple[str | int, ...]
    text: str


class LinkIssues(InvalidArgument):
    """A link cannot be used as it is configured; `issues` has all that is wrong."""

    def __init__(self, name: str, issues: Iterable[Issue]) -> None:
        self.issues = tuple(issues)
        lines = [f"  {'.'.join(map(str, issue.path)) or 'the link'}: {issue.text}" for issue in self.issues]
        super().__init__("\n".join([f"link {name[:80]!r} cannot be used:", *lines]))
        self.details = {"issues": [line.strip() for line in lines]}


class _Wrong(ValueError):
    """A value cannot be used; `path` is below the key's own."""

    def __init__(self, text: str, *path: str | int) -> None:
        super().__init__(text)
        self.path = path


@dataclass(frozen=True, slots=True)
class LinkKey:
    """One key of a link's table.

    Attributes:
        type: in words.
        default: as one would write it; "required" if it must be there, "" if leaving it out means none.
        unit: "" for none.
        field: of `Link`; the same name without one of its own.
    """

    name: str
    type: str
    default: str
    doc: str
    read: Callable[[Any], Any] = field(repr=False)
    unit: str = ""
    field: str = ""


def parse_link(name: str, table: Mapping[str, Any]) -> Link:
    """Read one link's table.

    Args:
        name: of the link.
        table: its keys, as TOML or JSON has them.

    Raises:
        LinkIssues: anything is unknown, missing, of the wrong type, out of range or contradictory.
    """
    issues: list[Issue] = []
    try:
        check_name("link", name)
    except InvalidArgument as error:
        issues.append(Issue((), error.message))
    known = {key.name: key for key in LINK_KEYS}
    issues += [
        Issue((each,), f"there is no such key in a link; {_nearest(each, known)}")
        for each in table
        if each not in known
    ]
    values: dict[str, Any] = {}
    for key in LINK_KEYS:
        if key.name not in table:
            if key.default == "required":
                issues.append(Issue((), f"a link needs {key.name!r}: {key.doc[0].lower()}{key.doc[1:]}"))
            continue
        try:
            values[key.field or key.name] = key.read(table[key.name])
        except _Wrong as wrong:
            issues.append(Issue((key.name, *wrong.path), str(wrong)))
        except InvalidArgument as error:
            issues.append(Issue((key.name,), error.message))
    issues += [Issue((key,), text) for key, text in _contradictions(values)]
    if issues:
        raise LinkIssues(name, issues)
    return Link(name=name, **values)


def _contradictions(values: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    base: Base | None = values.get("base")
    named: tuple[Network, ...] = values.get("addresses", ())
    address = None if base is None else base.address
    why = None if address is None else reason_against(address)
    if why is not None and not any(address in network for network in named):
        yield "base_url", f'{address} is {why}: name its range, as in addresses = ["{address}"], if it is meant'
    if base is not None and base.scheme == "http" and values.get("auth") and not named:
        yield (
            "auth",
            "a secret does not leave over http: write https in base_url, or name the private range in `addresses`",
        )
    for slot in values.get("auth", ()):
        if slot.name in (values.get("headers", {}) if slot.place == "header" else values.get("query", {})):
            yield "auth", f"the {slot.place} {slot.name!r} is written twice, here and in `{_TABLES[slot.place]}`"
    if values.get("rate_burst") and not values.get("rate_per_s"):
        yield "rate_burst", "a burst is nothing without `rate_per_s`"
    if values.get("backoff_initial_s", 0.2) > values.get("backoff_max_s", 10.0):
        yield "backoff_max_s", "this is less than `backoff_initial_s`"


_TABLES: Final = {"header": "headers", "query": "query"}


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    if close := difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6):
        return f"did you mean {close[0]!r}?"
    return "there are " + ", ".join(names)


# -- values ------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _Wrong("this is no text: write it in quotes")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("this is neither true nor false, which are written without quotes")
    return value


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _Wrong(f"write a whole number from {low} to {high}, without quotes")
        return value

    return read


def _number(high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= high:
            raise _Wrong(f"write a number above 0, at most {high:g}, without quotes")
        return float(value)

    return read


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not value:
        raise _Wrong('write a list of texts, as ["..."], with one at least')
    for at, each in enumerate(value):
        if not isinstance(each, str) or not each:
            raise _Wrong("this is no text: write it in quotes", at)
    return list(value)


def _each(read: Callable[[str], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """A list of texts, each read by `read`."""

    def read_all(value: Any) -> tuple[Any, ...]:
        done = []
        for at, each in enumerate(_texts(value)):
            try:
                done.append(read(each))
            except (_Wrong, InvalidArgument) as wrong:
                raise _Wrong(str(wrong), at) from None
        return tuple(done)

    return read_all


def _base(value: Any) -> Base:
    text = _text(value)
    _no_secret(text)
    return parse_base(text)


def parse_rule(text: str) -> Rule:
    """Read `METHOD /path`, where `*` is any one segment, a last `**` any rest, and `?a&b` the parameters there may be.

    Raises:
        InvalidArgument: it is no rule.
    """
    method, space, path = text.partition(" ")
    if not space or not path.startswith("/"):
        raise InvalidArgument(f'{text[:80]!r} is no rule: write one as "POST /v1/items/*"')
    path = path.strip(" ")
    target = canonical_target(path)
    segments = []
    for written, canonical in zip(path.partition("?")[0][1:].split("/"), target.segments, strict=True):
        if "*" in written and written not in ("*", "**"):
            raise InvalidArgument(f"{text[:80]!r}: '*' is a whole segment; write %2A for the character")
        segments.append(written if "*" in written else canonical)
    if "**" in segments[:-1]:
        raise InvalidArgument(f"{text[:80]!r}: '**' is the rest of a path, and stands at its end")
    return Rule(
        method="*" if method == "*" else canonical_method(method),
        segments=tuple(segments),
        parameters=target.names if "?" in path else None,
    )


def _no_secret(text: str) -> None:
    if "${secret:" in text:
        raise _Wrong("a secret is written only in `auth`, for a header or a parameter of the query")


def _auth(value: Any) -> tuple[Slot, ...]:
    slots = [_slot(each, at) for at, each in enumerate(value)] if isinstance(value, list) else [_slot(value)]
    if len({(slot.place, slot.name) for slot in slots}) < len(slots):
        raise _Wrong("two of these write the same header or parameter")
    return tuple(slots)


def _slot(value: Any, *at: int) -> Slot:
    if not isinstance(value, Mapping) or set(value) not in ({"header", "value"}, {"query", "value"}):
        raise _Wrong('write { header = "NAME", value = "...${secret:NAME}" }, or `query` for `header`', *at)
    place = "header" if "header" in value else "query"
    for key in (place, "value"):
        if not isinstance(value[key], str) or not value[key]:
            raise _Wrong("this is no text: write it in quotes", *at, key)
    name, template = value[place], value["value"]
    rest = _SECRET.sub("", template)
    if rest == template:
        raise _Wrong(
            "there is no ${secret:NAME} in it: what is no secret is written in `headers` or `query`", *at, "value"
        )
    if "${" in rest:
        raise _Wrong("there is a ${...} in it that is no ${secret:NAME}", *at, "value")
    if place == "header":
        try:
            (name,) = canonical_headers({name: rest}, cookies=True)
        except InvalidArgument as error:
            raise _Wrong(error.message, *at, "header") from None
    return Slot(place, name, template)


def _headers(value: Any) -> dict[str, str]:
    return canonical_headers(_pairs(value), cookies=True)


def _pairs(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise _Wrong('write a table of names and texts, as { name = "value" }')
    for name, text in value.items():
        if not isinstance(text, str):
            raise _Wrong("this is no text: write it in quotes", name)
        _no_secret(text)
    return dict(value)


def _body(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _Wrong("write a table: what every body has, whatever the actor writes")
    _check_json(value, _BODY_DEPTH_MAX)
    _no_secret(json.dumps(value))
    return dict(value)


def _check_json(value: Any, depth: int) -> None:
    if depth == 0:
        raise _Wrong(f"this is nested deeper than {_BODY_DEPTH_MAX}")
    if isinstance(value, Mapping):
        for each in value.values():
            _check_json(each, depth - 1)
    elif isinstance(value, list):
        for each in value:
            _check_json(each, depth - 1)
    elif not isinstance(value, str | bool | int | float) or value != value or value in (float("inf"), float("-inf")):
        raise _Wrong("JSON has no dates, and no numbers that are none")


def _phantoms(value: Any) -> PhantomSlots:
    if not isinstance(value, Mapping) or not set(value) <= {"headers", "query", "body"}:
        raise _Wrong('write { headers = ["NAME"], query = ["NAME"], body = true }, or some of these')
    default = PhantomSlots()
    try:
        return PhantomSlots(
            headers=frozenset(each.lower() for each in _names(value["headers"]))
            if "headers" in value
            else default.headers,
            query=frozenset(_names(value["query"])) if "query" in value else default.query,
            body=_boolean(value.get("body", default.body)),
        )
    except _Wrong as wrong:
        raise _Wrong(f"{wrong} (in `phantoms`)") from None


def _names(value: Any) -> list[str]:
    # Nowhere at all is possible here.
    return [] if value == [] else _texts(value)


def _pattern(text: str) -> str:
    if not _PATTERN.fullmatch(text):
        raise _Wrong(f"{text[:80]!r} is no pattern: write an actor's type or type/key, with * for any characters")
    return text


def _tenant(text: str) -> str:
    return text if text == "*" else check_name("tenant", text)


def _network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise _Wrong(f'{text[:80]!r} is no range of addresses: write one as "10.1.0.0/16" or "fd00:1::/32"') from None
    if network.prefixlen == 0:
        raise _Wrong(f"{text!r} is every address: name the range that is meant")
    return network


def _header_name(value: Any) -> str:
    (name,) = canonical_headers({_text(value): ""})
    return name


# -- the keys ----------------------------------------------------------------------------------------------

LINK_KEYS: Final = (
    LinkKey(
        "base_url",
        "text",
        "required",
        "Where the link leads: scheme, host, perhaps a port and a path.",
        _base,
        field="base",
    ),
    LinkKey(
        "allow",
        "list of texts",
        "required",
        "Requests that it lets through, each `METHOD /path` below the base URL: `*` is any one segment, a last `**` "
        "any rest, and `?a&b` the only parameters of the query (any without it). The method may be `*`.",
        _each(parse_rule),
    ),
    LinkKey(
        "auth",
        "table, or list of tables",
        "",
        'Secrets that the node writes: `{ header = "Authorization", value = "Bearer ${secret:NAME}" }`, or `query` '
        "for `header`. An actor cannot write the same header or parameter.",
        _auth,
    ),
    LinkKey("headers", "table of texts", "", "Headers of every request, in place of the actor's.", _headers),
    LinkKey("query", "table of texts", "", "Parameters of every request, in place of the actor's.", _pairs),
    LinkKey(
        "body",
        "table",
        "",
        "What every body has, which must then be a JSON object; these keys win over the actor's.",
        _body,
    ),
    LinkKey(
        "phantoms",
        "table",
        '{ headers = ["authorization", "x-api-key"] }',
        "Where a phantom token is swapped for what it stands for: `headers`, `query` (lists of names), `body` "
        "(true or false).",
        _phantoms,
    ),
    LinkKey(
        "connect_timeout_s", "number", "5", "Time to find the host, connect and agree on TLS.", _number(300), "seconds"
    ),
    LinkKey(
        "first_byte_timeout_s",
        "number",
        "30",
        "Time from the connection to the end of the answer's head.",
        _number(3600),
        "seconds",
    ),
    LinkKey(
        "idle_timeout_s",
        "number",
        "60",
        "Time from the end of the head to the body's first piece, and from one piece to the next.",
        _number(3600),
        "seconds",
    ),
    LinkKey(
        "total_timeout_s",
        "number",
        "120",
        "Time for everything: waiting, retries, and the answer's last byte, piece by piece as well.",
        _number(86_400),
        "seconds",
    ),
    LinkKey(
        "request_bytes_max", "whole number", "1_048_576", "Size of a request's body.", _whole(0, 1024 * _MIB), "bytes"
    ),
    LinkKey(
        "response_bytes_max",
        "whole number",
        "8_388_608",
        "Size of an answer's body, decompressed; also of one that is read piece by piece.",
        _whole(0, 1024 * _MIB),
        "bytes",
    ),
    LinkKey(
        "retries_max",
        "whole number",
        "2",
        "How often a request is sent again that could not be sent, or that may be repeated (its method says so, or "
        "it has an idempotency key) and was answered with 429, 502, 503, 504 or not at all.",
        _whole(0, 20),
    ),
    LinkKey(
        "backoff_initial_s",
        "number",
        "0.2",
        "The longest wait before the first retry; it doubles with each, and chance takes a part of it.",
        _number(3600),
        "seconds",
    ),
    LinkKey(
        "backoff_max_s",
        "number",
        "10",
        "The longest wait before any retry; `Retry-After` may ask for more.",
        _number(3600),
        "seconds",
    ),
    LinkKey(
        "idempotency_header",
        "text",
        '"idempotency-key"',
        "The header that tells the service that two requests are one.",
        _header_name,
    ),
    LinkKey(
        "breaker_failures",
        "whole number",
        "5",
        "Failures in a row after which the circuit breaker refuses requests: no answer, or one of 500 and above.",
        _whole(1, 10_000),
    ),
    LinkKey(
        "breaker_open_s",
        "number",
        "30",
        "How long it refuses before it lets one request through to see.",
        _number(86_400),
        "seconds",
    ),
    LinkKey(
        "concurrent_max",
        "whole number",
        "32",
        "Requests of one tenant at the same time; others wait for their turn.",
        _whole(1, 10_000),
    ),
    LinkKey(
        "rate_per_s",
        "number",
        "",
        "Requests of one tenant in a second, retries included; no limit without it.",
        _number(1_000_000),
    ),
    LinkKey(
        "rate_burst",
        "whole number",
        "",
        "Requests that may come at once; as many as in a second without it.",
        _whole(1, 1_000_000),
    ),
    LinkKey(
        "actors",
        "list of texts",
        '["*"]',
        "Who may use it: types, or type/key, with `*` for any characters.",
        _each(_pattern),
    ),
    LinkKey(
        "tenants",
        "list of texts",
        '["*"]',
        "Whose actors may use it; of a link in the node's own configuration.",
        _each(_tenant),
    ),
    LinkKey(
        "addresses",
        "list of texts",
        "",
        "Ranges of addresses that are not public and that it may lead to all the same; the node must permit them "
        "as well.",
        _each(_network),
    ),
    LinkKey(
        "redirects_max",
        "whole number",
        "0",
        "Redirects that the node follows, to the same scheme, host and port and only where `allow` says; 0 hands "
        "them to the actor.",
        _whole(0, 10),
    ),
    LinkKey(
        "cookies", "true or false", "false", "Whether an actor may send cookies and sees those it is sent.", _boolean
    ),
    LinkKey("ca_file", "text", "", "A file of certificates (PEM) that are trusted in place of the usual ones.", _text),
    LinkKey("http2", "true or false", "true", "Whether HTTP/2 is offered; HTTP/1.1 always is.", _boolean),
)

assert "TRACE" not in METHODS  # It would show the secrets of a request to whoever reads its answer.
