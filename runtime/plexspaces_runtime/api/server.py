"""The node's HTTP server: the application of `app`, on the listener of `connection`."""

from __future__ import annotations

from socket import socket

from ..deployment.appconfig import FacetTypes
from .app import Api
from .auth import Authenticator
from .config import HttpConfig
from .connection import Listener
from .idempotency import IdempotencyStore
from .ports import NodePort, StorePort
from .tls import Certificates


class HttpServer:
    """Serves one node on one address, on the running event loop.

    Args:
        node: what does the work; started and stopped by others: it is to outlive the server.
        authenticator: whose tokens are believed.
        config: address and limits.
        idempotency, facet_types, stores: see `Api`.
        tls: the certificate; None for plaintext.
    """

    def __init__(
        self,
        node: NodePort,
        authenticator: Authenticator,
        config: HttpConfig | None = None,
        *,
        idempotency: IdempotencyStore | None = None,
        facet_types: FacetTypes | None = None,
        stores: StorePort | None = None,
        tls: Certificates | None = None,
    ) -> None:
        self.config = config or HttpConfig()
        self.api = Api(
            node, authenticator, self.config, idempotency=idempotency, facet_types=facet_types, stores=stores
        )
        self._listener = Listener(self.api, self.config, node.clock, tls)

    async def start(self, sock: socket | None = None) -> None:
        """Begin to serve, on the configured address or on a socket that is bound already.

        Raises:
            OSError: the address cannot be listened on.
        """
        await self._listener.start(sock)

    @property
    def port(self) -> int:
        """The port, also where the system chose it."""
        return self._listener.port

    @property
    def connections(self) -> int:
        """Open connections."""
        return self._listener.connections

    def drain(self) -> None:
        """Begin to stop: /readyz answers 503, new connections are refused, new work too."""
        self.api.drain()
        self._listener.drain()

    async def stop(self, grace_s: float = 10.0) -> None:
        """Drain, finish what is under way, and cut off what is not finished after `grace_s` seconds."""
        self.drain()
        await self._listener.stop(grace_s)
