"""What a tenant's flood does to another's latency: paced asks over HTTP, alone and beside each kind of flood.

The node, the floods and the one who asks are processes of their own.  With fairness switched off, all tenants share one
lane of the run queue, as if they were one.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from plexspaces_runtime.build import build
from plexspaces_runtime.config import default_cache_dir

from .common import ROOT, Row, median, percentile

_PACE_S = 0.005
_SECONDS = 6.0
_ROUNDS = 3
_ACTORS = 60
_CONNECTIONS = 64
_BIG_CONNECTIONS = 4
_FLOODS = ("many actors", "grinding actors", "endless loops", "connections", "big payloads")


def _wasm() -> Path:
    output = default_cache_dir() / "bench" / "flood.wasm"
    output.parent.mkdir(parents=True, exist_ok=True)
    return build(ROOT / "tests" / "guests" / "flood.py", output).output


async def _serve(fairness: str, flood: str, folder: Path) -> None:
    """A node until killed; its port and two tokens are the first line of output."""
    from plexspaces_runtime.api.auth import Authenticator, LocalAuthority
    from plexspaces_runtime.api.config import HttpConfig
    from plexspaces_runtime.api.server import HttpServer
    from plexspaces_runtime.config import Limits, NodeConfig
    from plexspaces_runtime.node import Node
    from plexspaces_runtime.scheduler.fair import FairQueue
    from plexspaces_runtime.scope import Address, Scope

    if fairness == "off":
        lane = FairQueue.lane
        FairQueue.lane = lambda self, _owner: lane(self, "everybody")  # type: ignore[assignment, method-assign]
    limits = Limits(cpu_ms_per_message_max=600_000)
    node = Node(NodeConfig(data_dir=folder, cache_dir=default_cache_dir(), limits=limits))
    await node.start()
    good, evil = Scope("good", "default"), Scope("evil", "default")
    await node.deploy(good, "quiet", _wasm(), {"role": "quiet"})
    await node.deploy(evil, "flood", _wasm(), {"role": "flood"})
    operation = {"many actors": "spin", "grinding actors": "grind", "endless loops": "loop"}.get(flood)
    if operation is not None:
        count = 4 if operation == "loop" else _ACTORS
        for number in range(count):
            await node.spawn(Address(evil, "flood", str(number)))
        for number in range(count):
            await node.tell(Address(evil, "flood", str(number)), operation, "{}")
    authority = LocalAuthority.open(folder)
    server = HttpServer(node, Authenticator(authority), HttpConfig(port=0))
    await server.start()
    tokens = {tenant: authority.mint(tenant, "bench") for tenant in ("good", "evil")}
    print(json.dumps({"port": server.port, **tokens}), flush=True)
    await asyncio.Event().wait()


def _request(tenant: str, token: str, actor: str, body: bytes) -> bytes:
    return (
        f"POST /api/v1/actors/{tenant}/default/{actor}?wait=60 HTTP/1.1\r\nhost: localhost\r\n"
        f"authorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


def _paced(port: int, token: str) -> list[float]:
    """The milliseconds of asks, one every so often on one connection."""
    request = _request("good", token, "quiet", b'{"op":"ask"}')
    times: list[float] = []
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = time.perf_counter()
        due = begin + 0.5
        while due < begin + _SECONDS:
            time.sleep(max(0.0, due - time.perf_counter()))
            sent = time.perf_counter()
            sock.sendall(request)
            answer = sock.recv(65536)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"not a good answer: {answer[:300]!r}")
            times.append((time.perf_counter() - sent) * 1e3)
            due = max(due + _PACE_S, time.perf_counter())
    return times


async def _flood(port: int, token: str, connections: int, payload_bytes: int) -> None:
    """Connections that ask again and again, whatever they are answered, until killed."""
    body = json.dumps({"op": "size", "text": "x" * payload_bytes}).encode()
    request = _request("evil", token, "flood", body)

    async def ask() -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while True:
                    writer.write(request)
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = next(line for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:")
                    await reader.readexactly(int(length[15:]))
            except (OSError, asyncio.IncompleteReadError):
                writer.close()

    await asyncio.gather(*(ask() for _ in range(connections)))


@contextmanager
def _started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.bench.tenants", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _measure(flood: str, fairness: str) -> list[float]:
    with TemporaryDirectory() as folder, _started("serve", fairness, flood, folder) as server:
        assert server.stdout is not None
        said: dict[str, Any] = json.loads(server.stdout.readline())
        port = int(said["port"])
        if flood not in ("connections", "big payloads"):
            return _paced(port, said["good"])
        connections, size = (_CONNECTIONS, 10) if flood == "connections" else (_BIG_CONNECTIONS, 900_000)
        with _started("flood", str(port), said["evil"], str(connections), str(size)):
            return _paced(port, said["good"])


async def run() -> list[Row]:
    _wasm()
    alone: list[list[float]] = []
    beside: dict[str, list[list[float]]] = {flood: [] for flood in _FLOODS}
    unfair: list[list[float]] = []
    for _ in range(_ROUNDS):
        alone.append(_measure("none", "on"))
        for flood in _FLOODS:
            beside[flood].append(_measure(flood, "on"))
        unfair.append(_measure("grinding actors", "off"))

    def p99(samples: list[list[float]]) -> float:
        return median([percentile(each, 0.99) for each in samples])

    def figures(samples: list[list[float]]) -> str:
        return f"{median([median(each) for each in samples]):.2f} / {p99(samples):.2f} ms"

    rows = [Row("ask over HTTP every 5 ms, alone, median / 99th", figures(alone))]
    for flood, samples in beside.items():
        rows.append(Row(f"beside another tenant's {flood}, median / 99th", figures(samples)))
        rows.append(Row.at_most(f"99th beside {flood} / alone", p99(samples) / p99(alone), 2, "x"))
    rows.append(Row("beside grinding actors, all tenants in one lane, median / 99th", figures(unfair)))
    return rows


if __name__ == "__main__":
    import uvloop

    if sys.argv[1] == "serve":
        uvloop.run(_serve(sys.argv[2], sys.argv[3], Path(sys.argv[4])))
    else:
        uvloop.run(_flood(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
