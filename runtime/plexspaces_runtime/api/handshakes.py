"""Listening with TLS: connections are accepted, agree on TLS within a time, and only then become anybody's.

asyncio's own servers do this out of sight: what a client opens and then leaves alone would be counted by nobody.  So
the sockets are accepted here, and what has not shaken hands yet is counted with what has.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from ssl import SSLContext
from typing import Final

# What asyncio's servers do where the process has no descriptor left: the client waits in the kernel's queue.
_PAUSE_S: Final = 1.0
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class TlsServer:
    """Like `asyncio.Server`, as far as a listener needs one.

    Args:
        context: of TLS.
        make: a protocol for a connection that has agreed on TLS.
        has_room: whether there may be one more connection; else it is closed, for nothing can be said before TLS.
        handshake_timeout_s: how long the agreement may take.
        shutdown_timeout_s: how long a client may take to agree to the end.
    """

    def __init__(
        self,
        context: SSLContext,
        make: Callable[[], asyncio.Protocol],
        has_room: Callable[[], bool],
        *,
        handshake_timeout_s: float,
        shutdown_timeout_s: float,
    ) -> None:
        self._context = context
        self._make = make
        self._has_room = has_room
        self._handshake_timeout_s = handshake_timeout_s
        self._shutdown_timeout_s = shutdown_timeout_s
        self.sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._shaking: set[asyncio.Task[None]] = set()

    @property
    def handshakes(self) -> int:
        """How many are under way."""
        return len(self._shaking)

    async def start(self, sock: socket.socket | None, host: str, port: int, backlog: int) -> None:
        """Begin to listen, on every address of a host or on a socket that is bound already.

        Raises:
            OSError: the address cannot be listened on.
        """
        self._loop = asyncio.get_running_loop()
        if sock is not None:
            sock.listen(backlog)
            self.sockets = [sock]
        else:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            try:
                for family, _, _, _, address in dict.fromkeys(found):
                    self.sockets.append(socket.create_server(address, family=family, backlog=backlog))
            except OSError:
                self.close()
                raise
        for each in self.sockets:
            each.setblocking(False)
            self._accepting.append(self._loop.create_task(self._accept(each)))

    def close(self) -> None:
        """Accept no more connections."""
        for task in self._accepting:
            task.cancel()
        for each in self.sockets:
            each.close()

    async def wait_closed(self) -> None:
        """Give up the agreements under way, and wait for the end of all."""
        for task in self._shaking:
            task.cancel()
        if tasks := [*self._accepting, *self._shaking]:
            await asyncio.wait(tasks)

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = await self._loop.sock_accept(listening)
            except OSError as error:
                # Anything else is a client that went away before it was accepted.
                await asyncio.sleep(_PAUSE_S if error.errno in _EXHAUSTED else 0)
                continue
            if not self._has_room():
                client.close()
                continue
            task = self._loop.create_task(self._shake(client))
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    async def _shake(self, client: socket.socket) -> None:
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(
                self._make,
                client,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_timeout_s,
                ssl_shutdown_timeout=self._shutdown_timeout_s,
            )
        except OSError:
            # Not TLS, no certificate that will do, too slow, or gone: there is nobody to tell.
            client.close()
