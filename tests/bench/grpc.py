"""gRPC: asking an actor over it, over HTTP, and over both at once; on the node's loop, and on a thread of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .common import Row, median, percentile, plain_counter_wasm

_SECONDS = 3.0
_ROUNDS = 3
_CALLS = 32
# Beside somebody else: enough to be felt, and not all that there is.
_BESIDE_CALLS = 4
_ASK = "/plexspaces.v1.Actors/Ask"


class Handed:
    """An application for another loop's server: each request is handed over to the loop it belongs to, and back."""

    def __init__(self, api: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._api, self._loop = api, loop
        self.config, self.limits, self.ids = api.config, api.limits, api.ids

    async def answer(self, *request: Any) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._api.answer(*request), self._loop))

    async def principal(self, header: bytes) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._api.principal(header), self._loop))


async def _serve(where: str, folder: Path) -> None:
    """A server until killed; its ports and a token are the first line of output."""
    import uvloop

    from plexspaces_runtime.api.auth import Authenticator, LocalAuthority
    from plexspaces_runtime.api.config import HttpConfig
    from plexspaces_runtime.api.grpc.config import GrpcConfig
    from plexspaces_runtime.api.grpc.server import GrpcServer
    from plexspaces_runtime.api.server import HttpServer
    from plexspaces_runtime.config import Limits, NodeConfig, default_cache_dir
    from plexspaces_runtime.node import Node
    from plexspaces_runtime.scope import Scope

    plenty = {
        name: 10_000_000 for name in Limits.__dataclass_fields__ if name.startswith("requests_") and "max" in name
    }
    node = Node(NodeConfig(data_dir=folder, cache_dir=default_cache_dir(), limits=Limits(**plenty)))
    await node.start()
    await node.deploy(Scope("default", "default"), "counter0", plain_counter_wasm(), {})
    server = HttpServer(node, Authenticator(LocalAuthority.open(folder)), HttpConfig(port=0))
    await server.start()
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[int] = loop.create_future()

    async def serve_grpc(api: Any) -> None:
        grpc_server = GrpcServer(api, GrpcConfig(port=0))
        await grpc_server.start()
        loop.call_soon_threadsafe(ready.set_result, grpc_server.port)
        await asyncio.Event().wait()

    if where == "thread":
        handed = Handed(server.api, loop)
        threading.Thread(target=lambda: uvloop.run(serve_grpc(handed)), daemon=True).start()
        port = await ready
        task = None
    else:
        task = asyncio.create_task(serve_grpc(server.api))
        port = await ready
    token = (folder / "token").read_text().strip()
    print(json.dumps({"http": server.port, "grpc": port, "token": token}), flush=True)
    await (task or asyncio.Event().wait())


async def _load(port: int, token: str, seconds: float, calls: int) -> None:
    """So many calls at a time; replies a second and times in microseconds, as the one line of output."""
    from grpc import aio

    from plexspaces_runtime.api.grpc.messages import message_class

    data = message_class("plexspaces.v1.AskRequest")(
        type="counter0", op="increment", arguments_json='{"amount":5}'
    ).SerializeToString()
    metadata = [("authorization", f"Bearer {token}")]
    times: list[float] = []
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary(_ASK)
        until = time.perf_counter() + seconds

        async def one() -> None:
            while (began := time.perf_counter()) < until:
                await ask(data, metadata=metadata, timeout=5)
                times.append(time.perf_counter() - began)

        await asyncio.gather(*(one() for _ in range(calls)))
    print(json.dumps({"rate": len(times) / seconds, "times": [each * 1e6 for each in times[::8]]}), flush=True)


def _loader(said: dict[str, Any], seconds: float, calls: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.bench.grpc", "load", str(said["grpc"]), said["token"]]
    return subprocess.Popen([*command, str(seconds), str(calls)], stdout=subprocess.PIPE, text=True)


def _ended(loader: subprocess.Popen[str]) -> dict[str, Any]:
    output = loader.communicate(timeout=60)[0]
    result: dict[str, Any] = json.loads(output)
    return result


def _measure(where: str, folder: Path) -> dict[str, float]:
    from .http import _request
    from .http_servers import load

    command = [sys.executable, "-m", "tests.bench.grpc", "serve", where, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said: dict[str, Any] = json.loads(process.stdout.readline())
            request = _request(said["token"], 0)
            http, http_us = load(said["http"], _SECONDS, request)
            alone = _ended(_loader(said, _SECONDS, _CALLS))
            _, quiet_us = load(said["http"], _SECONDS, request, _BESIDE_CALLS)
            loader = _loader(said, _SECONDS + 3.0, _BESIDE_CALLS)
            # Its interpreter takes a second to start.
            load(said["http"], 1.5, request, 1)
            beside, beside_us = load(said["http"], _SECONDS, request, _BESIDE_CALLS)
            with_it = _ended(loader)
            return {
                "http": http,
                "http_us": http_us,
                "grpc": alone["rate"],
                "grpc_us": median(alone["times"]),
                "grpc_p99_us": percentile(alone["times"], 0.99),
                "quiet_us": quiet_us,
                "beside": beside,
                "beside_us": beside_us,
                "grpc_beside": with_it["rate"],
            }
        finally:
            process.kill()


async def run() -> list[Row]:
    plain_counter_wasm()
    found: dict[str, list[dict[str, float]]] = {"loop": [], "thread": []}
    with TemporaryDirectory() as folder:
        for number in range(_ROUNDS):
            for where, results in found.items():
                results.append(_measure(where, Path(folder, f"{where}{number}")))

    def middle(where: str, name: str) -> float:
        return median([each[name] for each in found[where]])

    rows = [Row("ask over HTTP, 32 at a time", f"{middle('loop', 'http'):,.0f}/s, {middle('loop', 'http_us'):,.0f} us")]
    for where, called in (("loop", "on the node's loop"), ("thread", "on a thread of its own")):
        rows += [
            Row(
                f"ask over gRPC, 32 at a time, {called}",
                f"{middle(where, 'grpc'):,.0f}/s, {middle(where, 'grpc_us'):,.0f} us, p99 "
                f"{middle(where, 'grpc_p99_us'):,.0f} us; {middle(where, 'grpc') / middle(where, 'http'):.2f} of HTTP",
            ),
            Row(
                f"4 over HTTP beside 4 over gRPC, {called}",
                f"HTTP {middle(where, 'beside_us') / middle(where, 'quiet_us'):.2f} of its median alone "
                f"({middle(where, 'quiet_us'):,.0f} us); {middle(where, 'beside'):,.0f}/s HTTP and "
                f"{middle(where, 'grpc_beside'):,.0f}/s gRPC",
            ),
        ]
    return rows


if __name__ == "__main__":
    import uvloop

    match sys.argv[1:]:
        case ["serve", where, folder]:
            uvloop.run(_serve(where, Path(folder)))
        case ["load", port, token, seconds, calls]:
            asyncio.run(_load(int(port), token, float(seconds), int(calls)))
