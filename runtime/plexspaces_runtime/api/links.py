"""The ways out of a tenant's actors over HTTP, without what they carry."""

from __future__ import annotations

from typing import Any

from ..egress.links import LinkState
from .faults import Response
from .incoming import Request, json_response, visible
from .ports import NodePort


class LinkRoutes:
    """The handler of /api/v1/links."""

    def __init__(self, node: NodePort) -> None:
        self._node = node

    async def list_links(self, request: Request) -> Response:
        """GET /api/v1/links"""
        request.arguments()
        principal = request.principal
        return json_response(
            200,
            {
                "links": [
                    _json(state)
                    for state in self._node.links(principal.tenant)
                    if not state.namespace or visible(principal, state.namespace)
                ]
            },
        )


def _json(state: LinkState) -> dict[str, Any]:
    link = state.link
    return {
        "name": link.name,
        "namespace": state.namespace,
        "base_url": link.base_url,
        "allow": [str(rule) for rule in link.allow],
        "actors": list(link.actors),
        "secrets": sorted(link.secrets),
        "breaker": state.breaker,
        "under_way": state.under_way,
        "requests": state.requests,
        "failures": state.failures,
    }
