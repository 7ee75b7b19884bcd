"""HTTP: asking an actor against the same server's bare JSON echo, 32 connections, the load from another process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .common import Row, median, plain_counter_wasm

_SECONDS = 3.0
_ROUNDS = 5


async def _serve(kind: str, folder: Path) -> None:
    """A server until killed; its port and a token are the first line of output."""
    from plexspaces_runtime.api.auth import Authenticator, LocalAuthority
    from plexspaces_runtime.api.config import HttpConfig
    from plexspaces_runtime.api.server import HttpServer
    from plexspaces_runtime.config import NodeConfig, default_cache_dir
    from plexspaces_runtime.node import Node
    from plexspaces_runtime.scope import Scope

    from .http_servers import asgi_echo, serve_own

    if kind == "echo":
        import socket

        sock = socket.create_server(("127.0.0.1", 0), backlog=256)
        print(json.dumps({"port": sock.getsockname()[1], "token": "x" * 200}), flush=True)
        await serve_own(asgi_echo(None), sock)
        return
    node = Node(NodeConfig(data_dir=folder, cache_dir=default_cache_dir()))
    await node.start()
    for number in range(8):
        await node.deploy(Scope("default", "default"), f"counter{number}", plain_counter_wasm(), {})
    authority = LocalAuthority.open(folder)
    server = HttpServer(node, Authenticator(authority), HttpConfig(port=0))
    await server.start()
    token = (folder / "token").read_text().strip()
    print(json.dumps({"port": server.port, "token": token}), flush=True)
    await asyncio.Event().wait()


def _request(token: str, number: int) -> bytes:
    body = b'{"action":"increment","amount":5}'
    head = (
        f"POST /api/v1/actors/default/default/counter{number}?wait=5 HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\n"
        f"authorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _measure(kind: str, folder: Path) -> float:
    from .http_servers import load

    command = [sys.executable, "-m", "tests.bench.http", kind, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said: dict[str, Any] = json.loads(process.stdout.readline())
            return load(said["port"], _SECONDS, _request(said["token"], 0))[0]
        finally:
            process.kill()


async def run() -> list[Row]:
    echo, actor = [], []
    plain_counter_wasm()
    with TemporaryDirectory() as folder:
        for _ in range(_ROUNDS):
            echo.append(_measure("echo", Path(folder)))
            actor.append(_measure("actor", Path(folder)))
    share = median(actor) / median(echo) * 100
    return [
        Row("bare JSON echo, 32 connections", f"{median(echo):,.0f}/s"),
        Row("ask of an actor over HTTP, token checked, 32 connections", f"{median(actor):,.0f}/s"),
        Row.at_least("HTTP ask / bare echo", share, 45, "%"),
    ]


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(sys.argv[1], Path(sys.argv[2])))
