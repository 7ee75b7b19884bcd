"""The one place where the command line meets the node's edge: the HTTP server and the node's own authority."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import NodeConfig

if TYPE_CHECKING:
    from ..api.server import HttpServer
    from ..node import Node

_SUBJECT = "local"
_TTL_S = 3_600


def make_server(node: Node, config: NodeConfig) -> tuple[HttpServer, Path]:
    """A server for a node, yet to be started, and the file with the local token.

    Raises:
        InvalidArgument: the data directory's key or the issuer's cannot be used.
    """
    from ..api.auth import Authenticator, LocalAuthority
    from ..api.config import HttpConfig
    from ..api.server import HttpServer

    authority = LocalAuthority.open(config.data_dir, tenant=config.tenant)
    http = HttpConfig(host=config.host, port=config.port)
    server = HttpServer(
        node, Authenticator(authority, config.auth), http, facet_types=node.facet_types, stores=node.stores
    )
    return server, config.data_dir / "token"


def mint(data_dir: Path, *, tenant: str | None, subject: str | None, roles: Sequence[str], ttl_s: int | None) -> str:
    """A token signed with the key of the node whose data directory this is; valid for an hour if not said otherwise."""
    from ..api.auth import LocalAuthority
    from .client import find_target

    # The authority writes the local token anew if it is another tenant's, so it is told the one that it has.
    ours = find_target({}, data_dir).tenant
    return LocalAuthority.open(data_dir, tenant=ours).mint(tenant or ours, subject or _SUBJECT, roles, ttl_s or _TTL_S)
