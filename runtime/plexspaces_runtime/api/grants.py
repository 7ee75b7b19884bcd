"""What an actor type is granted, what it was seen to use, and the smallest list for that, over HTTP."""

from __future__ import annotations

from dataclasses import asdict

from ..scope import Scope, check_name
from .faults import Response
from .incoming import NO_STORE, Request, json_response
from .ports import NodePort


class GrantRoutes:
    """The handlers of the routes below /api/v1/grants."""

    def __init__(self, node: NodePort) -> None:
        self._node = node

    async def show_grants(self, request: Request) -> Response:
        """GET /api/v1/grants/{namespace}/{type}"""
        request.arguments()
        scope, actor_type = _named(request)
        report = self._node.grants(scope, actor_type)
        return json_response(200, {"tenant": scope.tenant, "namespace": scope.namespace, **asdict(report)})

    async def observe_type(self, request: Request) -> Response:
        """PUT /api/v1/grants/{namespace}/{type}/observe"""
        request.arguments()
        self._node.observe(*_named(request), on=True)
        return Response(204, [NO_STORE])

    async def forget_observed(self, request: Request) -> Response:
        """DELETE /api/v1/grants/{namespace}/{type}/observe"""
        request.arguments()
        self._node.observe(*_named(request), on=False)
        return Response(204, [NO_STORE])


def _named(request: Request) -> tuple[Scope, str]:
    scope = request.principal.scope(request.principal.tenant, request.parameters["namespace"])
    return scope, check_name("actor type", request.parameters["type"])
