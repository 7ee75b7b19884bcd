"""The one place where the command line meets the node's edge: its two servers and the node's own authority."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import NodeConfig

if TYPE_CHECKING:
    from ..api.grpc.server import GrpcServer
    from ..api.server import HttpServer
    from ..api.tls import Certificates
    from ..events import Event
    from ..node import Node

_SUBJECT = "local"
_TTL_S = 3_600


@dataclass(frozen=True, slots=True)
class Doors:
    """A node's servers.

    Attributes:
        grpc: None where the configuration leaves it out.
        tls: None for plaintext.
        token_file: where the local token is.
    """

    http: HttpServer
    grpc: GrpcServer | None
    tls: Certificates | None
    token_file: Path

    async def start(self) -> None:
        """Begin to serve.

        Raises:
            OSError: an address cannot be listened on; its `filename` is the setting with the port.
        """
        try:
            await self.http.start()
        except OSError as error:
            error.filename = "port"
            raise
        if self.grpc is not None:
            try:
                await self.grpc.start()
            except OSError as error:
                error.filename = "grpc_port"
                raise

    async def stop(self, grace_s: float) -> None:
        """Drain, finish what is under way, and cut off what is not finished after `grace_s` seconds."""
        self.http.drain()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.http.stop(grace_s))
            if self.grpc is not None:
                tasks.create_task(self.grpc.stop(grace_s))


def make_doors(node: Node, config: NodeConfig) -> Doors:
    """The servers of a node, yet to be started.

    Raises:
        InvalidArgument: the data directory's key, the issuer's or the certificate cannot be used.
    """
    from ..api.auth import Authenticator, LocalAuthority
    from ..api.config import HttpConfig
    from ..api.server import HttpServer

    authority = LocalAuthority.open(config.data_dir, tenant=config.tenant)
    tls = None
    if config.tls.on:
        from ..api.tls import Certificates

        loop = asyncio.get_running_loop()

        def emit(event: Event) -> None:
            # gRPC looks at the files on a thread of its own.
            loop.call_soon_threadsafe(node.events.emit, event)

        tls = Certificates(config.tls, node.clock, emit)
    server = HttpServer(
        node,
        Authenticator(authority, config.auth),
        HttpConfig(host=config.host, port=config.port),
        facet_types=node.facet_types,
        stores=node.stores,
        tls=tls,
    )
    grpc_server = None
    if config.grpc:
        # It takes a moment and some megabytes to import.
        from ..api.grpc.config import GrpcConfig
        from ..api.grpc.server import GrpcServer

        grpc_server = GrpcServer(server.api, GrpcConfig(host=config.host, port=config.grpc_port), tls=tls)
    return Doors(server, grpc_server, tls, config.data_dir / "token")


def mint(
    data_dir: Path,
    *,
    tenant: str | None,
    subject: str | None,
    roles: Sequence[str],
    ttl_s: int | None,
    scopes: Sequence[str] = (),
) -> str:
    """A token signed with the key of the node whose data directory this is; valid for an hour if not said otherwise."""
    from ..api.auth import LocalAuthority
    from .client import find_target

    # The authority writes the local token anew if it is another tenant's, so it is told the one that it has.
    ours = find_target({}, data_dir).tenant
    authority = LocalAuthority.open(data_dir, tenant=ours)
    return authority.mint(tenant or ours, subject or _SUBJECT, roles, ttl_s or _TTL_S, scopes=scopes)
