"""Secrets over HTTP: set, list, remove.  Values go in and never come out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from ..egress.vault import SecretInfo, Vault
from ..errors import InvalidArgument, PermissionDenied, Unavailable
from .faults import Response
from .incoming import NO_STORE, Request, json_response
from .ports import NodePort, StorePort
from .requests import check_content_type

# In JSON every byte of a value may be written as six.
_ESCAPED: Final = 6
_AROUND_BYTES: Final = 256


class SecretRoutes:
    """The handlers of the routes below /api/v1/secrets.

    Args:
        stores: None for a node that keeps nothing.
    """

    def __init__(self, node: NodePort, stores: StorePort | None) -> None:
        self._node = node
        self._stores = stores

    async def list_secrets(self, request: Request) -> Response:
        """GET /api/v1/secrets"""
        request.arguments()
        tenant, vault = _tenant(request), self._vault()
        users = self._node.secret_users(tenant)
        return json_response(200, {"secrets": [_json(info, users) for info in vault.secrets(tenant)]})

    async def get_secret(self, request: Request) -> Response:
        """GET /api/v1/secrets/{name}"""
        request.arguments()
        tenant = _tenant(request)
        info = self._vault().secret(tenant, request.parameters["name"])
        return json_response(200, _json(info, self._node.secret_users(tenant)))

    async def put_secret(self, request: Request) -> Response:
        """PUT /api/v1/secrets/{name}"""
        request.arguments()
        tenant, vault = _tenant(request), self._vault()
        body = await request.body(self._node.limits.secret_bytes_max * _ESCAPED + _AROUND_BYTES)
        check_content_type(request.headers.get(b"content-type"), body)
        value = _value(body)
        info = vault.set(tenant, request.parameters["name"], value, by=request.principal.subject)
        await self._settled()
        return json_response(201 if info.version == 1 else 200, _json(info, self._node.secret_users(tenant)))

    async def delete_secret(self, request: Request) -> Response:
        """DELETE /api/v1/secrets/{name}"""
        request.arguments()
        self._vault().remove(_tenant(request), request.parameters["name"], by=request.principal.subject)
        await self._settled()
        return Response(204, [NO_STORE])

    async def rotate_secret_key(self, request: Request) -> Response:
        """POST /api/v1/secret-key/rotate"""
        request.arguments()
        if _tenant(request) != self._node.home_tenant:
            raise PermissionDenied("the master key is the node's, not a tenant's: ask who runs the node")
        return json_response(200, {"fingerprint": await self._vault().rotate()})

    def _vault(self) -> Vault:
        vault = self._node.vault
        if vault is None:
            raise Unavailable("this node keeps no secrets")
        return vault

    async def _settled(self) -> None:
        if self._stores is not None:
            await self._stores.flushed()


def _tenant(request: Request) -> str:
    """The tenant whose secrets they are: all of it, so a token for some of its namespaces is not enough."""
    principal = request.principal
    if principal.namespaces is not None:
        raise PermissionDenied("secrets are the tenant's, and the token is only for some of its namespaces")
    return principal.tenant


def _value(body: bytes) -> str:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        # Without the parser's words, lest they show a piece of it.
        content = None
    if not isinstance(content, dict) or content.keys() != {"value"} or not isinstance(content["value"], str):
        raise InvalidArgument('the body is to be a JSON object with one text: {"value": "..."}')
    value: str = content["value"]
    return value


def _json(info: SecretInfo, users: Mapping[str, list[str]]) -> dict[str, Any]:
    return {
        "name": info.name,
        "version": info.version,
        "set_ms": info.set_ms,
        "set_by": info.set_by,
        "links": users.get(info.name, []),
    }
