"""What an actor may send through a link, and what the link adds to it: a decision, nothing is sent here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import InvalidArgument, LimitExceeded, PermissionDenied
from .links import Link
from .model import Call, Outgoing, Request
from .retries import IDEMPOTENT
from .urls import Target, canonical_headers

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may leave, before its secrets are in it.

    Attributes:
        target: below the link's base URL.
        repeatable: doing it twice is doing it once.
    """

    method: str
    target: Target
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    repeatable: bool

    def outgoing(self, link: Link) -> Outgoing:
        """As it is about to leave."""
        return Outgoing(self.method, str(link.base) + self.target.text, self.headers, self.body)


def check_user(link: Link, call: Call) -> None:
    """Whether an actor may use a link at all.

    Raises:
        PermissionDenied: it may not.
    """
    if link.serves(call.scope.tenant, call.actor):
        return
    key, wanted = (
        ("actors", call.actor)
        if "*" in link.tenants or call.scope.tenant in link.tenants
        else ("tenants", call.scope.tenant)
    )
    raise PermissionDenied(
        f"link {link.name!r} is not for {wanted!r}: {key} = [{json.dumps(wanted)}] in [links.{link.name}] "
        "would allow it",
        link=link.name,
        allow=f"links.{link.name}.{key}",
        value=wanted,
    )


def admit(link: Link, call: Call, request: Request, method: str, target: Target) -> Admitted:
    """Hold a request against the link's rules, and bring its headers and body into their form.

    Args:
        method: the request's, canonical.
        target: the request's path and query, canonical.

    Raises:
        InvalidArgument: a part of it has no such form.
        PermissionDenied: no rule lets it through.
        LimitExceeded: it is too large.
    """
    check_rule(link, method, target)
    _check_parameters(link, target)
    if len(request.body) > link.request_bytes_max:
        raise LimitExceeded(
            f"the request is larger than {link.request_bytes_max} bytes; "
            f"`links.{link.name}.request_bytes_max` limits it",
            limit="request_bytes_max",
            value=link.request_bytes_max,
            unit="bytes",
        )
    headers = canonical_headers(
        request.headers,
        taken=(slot.name for slot in link.auth if slot.place == "header"),
        cookies=link.cookies,
    )
    body = request.body
    if link.body and (body or method in _WITH_BODY):
        body = _with_template(link, body)
        headers.setdefault("content-type", "application/json")
    headers.update(link.headers)
    # What the node can decompress; it hands on plain bodies only.
    headers["accept-encoding"] = "gzip, deflate"
    headers.setdefault("accept", "*/*")
    headers.setdefault("user-agent", "plexspaces")
    if call.idempotency_key and method not in IDEMPOTENT:
        headers.setdefault(link.idempotency_header, call.idempotency_key)
    return Admitted(
        method=method,
        target=target.with_parameters(link.query),
        headers=headers,
        body=body,
        repeatable=method in IDEMPOTENT or bool(headers.get(link.idempotency_header)),
    )


def check_rule(link: Link, method: str, target: Target) -> None:
    """Raises `PermissionDenied` if no rule of the link lets a canonical request through."""
    if link.allows(method, target):
        return
    rule = f"{method} {target.path}"
    if any(each.allows(method, Target(target.segments)) for each in link.allow):
        rule += "?" + "&".join(sorted(target.names))
    raise PermissionDenied(
        f"link {link.name!r} does not allow this request: {json.dumps(rule)} in the list `allow` of "
        f"[links.{link.name}] would",
        link=link.name,
        allow=f"links.{link.name}.allow",
        value=rule,
    )


def _check_parameters(link: Link, target: Target) -> None:
    for slot in link.auth:
        if slot.place == "query" and slot.name in target.plain_names:
            raise InvalidArgument(f"the parameter {slot.name!r} is written by the link: leave it out")


def _with_template(link: Link, body: bytes) -> bytes:
    """The body with the link's keys in place of the actor's."""
    try:
        content = json.loads(body) if body else {}
        if not isinstance(content, dict):
            raise InvalidArgument(f"link {link.name!r} adds to the body, which must be a JSON object for that")
        return json.dumps(_merged(content, link.body), ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise InvalidArgument(
            f"link {link.name!r} adds to the body, and this one is no JSON (RFC 8259) or nested too deeply"
        ) from None


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return merged
