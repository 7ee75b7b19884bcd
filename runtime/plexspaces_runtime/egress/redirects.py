"""Where a redirect leads, and whether a request may follow it: only to the same host, and only where a rule says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ..errors import InvalidArgument, PermissionDenied
from .admission import Admitted, check_rule
from .links import Link
from .retries import IDEMPOTENT
from .urls import canonical_target, parse_base

_STATUSES: Final = frozenset({301, 302, 303, 307, 308})
_OF_BODY: Final = frozenset({"content-type", "content-language", "content-location"})


def follow(link: Link, request: Admitted, status: int, headers: Mapping[str, str]) -> Admitted | None:
    """The request that an answer asks for; None if it asks for none.

    Raises:
        PermissionDenied: it leads to another scheme, host or port, out of the base URL's path, or where no rule leads.
    """
    location = headers.get("location")
    if status not in _STATUSES or location is None:
        return None
    try:
        path = _path(link, request, location.partition("#")[0])
        if not path.startswith(f"{link.base.path}/"):
            raise _elsewhere(link)
        target = canonical_target(path.removeprefix(link.base.path))
    except InvalidArgument:
        raise _elsewhere(link) from None
    method = _method(request.method, status)
    check_rule(link, method, target)
    target = target.with_parameters(link.query)
    if method == request.method:
        return replace(request, target=target)
    kept = {name: value for name, value in request.headers.items() if name not in _OF_BODY}
    return replace(request, method=method, target=target, headers=kept, body=b"", repeatable=method in IDEMPOTENT)


def _method(method: str, status: int) -> str:
    """As browsers do it (RFC 9110, section 15.4)."""
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
        return "GET"
    return method


def _path(link: Link, request: Admitted, location: str) -> str:
    """The path with its query, from the root of the link's host."""
    if location.startswith("//"):
        location = f"{link.base.scheme}:{location}"
    found = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\\]*", location)
    if found is not None:
        base = parse_base(found[0])
        if (base.scheme, base.host, base.port) != (link.base.scheme, link.base.host, link.base.port):
            raise _elsewhere(link)
        rest = location[found.end() :]
        return rest if rest.startswith("/") else f"/{rest}"
    if location.startswith("/"):
        return location
    here = link.base.path + request.target.path
    return here if not location else here + location if location[0] == "?" else here[: here.rindex("/") + 1] + location


def _elsewhere(link: Link) -> PermissionDenied:
    # Not where to: that is the service's to say, and a guest's to find out nothing by.
    return PermissionDenied(
        f"the service redirects to where link {link.name!r} does not lead: only the same scheme, host and port are "
        "followed, below the base URL; redirects_max = 0 hands redirects to the actor",
        link=link.name,
        allow=f"links.{link.name}.redirects_max",
    )
