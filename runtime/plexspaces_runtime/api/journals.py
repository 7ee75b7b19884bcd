"""Journals of durable actors over HTTP: list, explain, verify, recover."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, Final

from ..durability.explain import Checkpoint, Message, Told, Unreadable
from ..durability.journals import Journals, Remaining
from ..errors import InvalidArgument, Unavailable
from ..scope import Address
from ..stores.journal import Summary
from .faults import Response
from .incoming import Request, json_response, whole

_LIMIT: Final = 100
_LIMIT_MAX: Final = 1_000
_ENTRY_MAX: Final = 10**9 - 1


class JournalRoutes:
    """The handlers of the routes below /api/v1/journals.

    Args:
        journals: None for a node that keeps none.
    """

    def __init__(self, journals: Journals | None) -> None:
        self._journals = journals

    async def list_journals(self, request: Request) -> Response:
        """GET /api/v1/journals"""
        arguments = request.arguments("namespace", "after", "limit")
        principal = request.principal
        namespace = arguments.get("namespace")
        if namespace is not None:
            principal.check(principal.tenant, namespace)
        limit = _limit(arguments)
        # One more than is asked for, to know whether there is another page.
        journals = await self._kept()
        # What the principal may not see is not even counted: `next` would name it.
        namespaces: list[str | None] = [namespace]
        if namespace is None and principal.namespaces is not None:
            namespaces = [*sorted(principal.namespaces)]
        found = [
            summary
            for each in namespaces
            for summary in journals.list(principal.tenant, each, after=arguments.get("after", ""), limit=limit + 1)
        ]
        found.sort(key=_place)
        page = found[:limit]
        content: dict[str, Any] = {"journals": [summary_json(each) for each in page]}
        if len(found) > limit:
            content["next"] = _place(page[-1])
        return json_response(200, content)

    async def show_journal(self, request: Request) -> Response:
        """GET /api/v1/journals/{tenant}/{namespace}/{type}"""
        arguments = request.arguments("after", "limit")
        after = arguments.get("after", "0")
        journals = await self._kept()
        page = journals.history(
            _address(request), after=0 if after == "0" else whole("after", after, _ENTRY_MAX), limit=_limit(arguments)
        )
        content: dict[str, Any] = {"history": [told_json(each) for each in page.told]}
        if page.next:
            content["next"] = page.next
        return json_response(200, content)

    async def show_journal_by_key(self, request: Request) -> Response:
        """GET /api/v1/journals/{tenant}/{namespace}/{type}/{key}"""
        return await self.show_journal(request)

    async def verify_journal(self, request: Request) -> Response:
        """GET /api/v1/journals/{tenant}/{namespace}/{type}/{key}/verify"""
        request.arguments()
        verdict = await (await self._kept()).verify(_address(request))
        return json_response(200, {"ok": verdict.ok, **asdict(verdict)})

    async def recover_journal(self, request: Request) -> Response:
        """POST /api/v1/journals/{tenant}/{namespace}/{type}/{key}/recover"""
        arguments = request.arguments("remaining", "accept_state")
        try:
            remaining = Remaining(arguments.get("remaining", Remaining.DEAD_LETTER.value))
        except ValueError:
            raise InvalidArgument(f"remaining is to be {' or '.join(each.value for each in Remaining)}") from None
        accept = arguments.get("accept_state", "false")
        if accept not in ("true", "false"):
            raise InvalidArgument(f"accept_state is to be true or false, not {accept[:40]!r}")
        done = await (await self._kept()).recover(_address(request), remaining, accept_state=accept == "true")
        return json_response(200, asdict(done))

    async def _kept(self) -> Journals:
        if self._journals is None:
            raise Unavailable("this node keeps no journals")
        # What has happened, not what is on disk already: and nothing leaves the node that is not on disk.
        await self._journals.settle()
        return self._journals


def _address(request: Request) -> Address:
    parameters = request.parameters
    scope = request.principal.scope(parameters["tenant"], parameters["namespace"])
    actor_type, key = parameters["type"], parameters.get("key", "default")
    return Address.parse(scope, actor_type if key == "default" else f"{actor_type}/{key}")


def _place(summary: Summary) -> str:
    return f"{summary.address.scope.namespace}/{summary.address.text}"


def _limit(arguments: dict[str, str]) -> int:
    return whole("limit", arguments.get("limit", str(_LIMIT)), _LIMIT_MAX)


def summary_json(summary: Summary) -> dict[str, Any]:
    """One journal of a list, as JSON values."""
    address = summary.address
    return {
        "tenant": address.scope.tenant,
        "namespace": address.scope.namespace,
        "type": address.type,
        "key": address.key,
        **{each.name: getattr(summary, each.name) for each in fields(summary) if each.name != "address"},
    }


def told_json(told: Told) -> dict[str, Any]:
    """One item of a history, as JSON values."""
    match told:
        case Message():
            what = "message"
        case Checkpoint():
            what = "checkpoint"
        case Unreadable():
            what = "unreadable"
    return {"what": what, **asdict(told)}
