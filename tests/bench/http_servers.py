"""Which HTTP server carries the node: bare JSON echo, and the same with an actor's cost behind it, at 32 connections.

    python -m tests.bench.http_servers [--seconds S] [--rounds-of N] [--only NAME ...]

Every candidate runs in a process of its own with one event loop (uvloop); the load comes from another process, one
epoll loop that sends the next request when a reply is complete.  Figures are requests a second and, because machines
differ, their ratio to the first candidate of the same run.  "+ work" spends what an ask of a warm actor costs on the
loop: Python under the GIL, and guest code without it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import uvloop

CONNECTIONS = 32
_ROOT = Path(__file__).parents[2]
BODY = b'{"action":"increment","amount":5}'
REQUEST = (
    b"POST /api/v1/actors/default/default/counter?wait=5 HTTP/1.1\r\nhost: localhost:8080\r\nuser-agent: bench\r\n"
    b"accept: */*\r\nauthorization: Bearer "
    + b"x" * 180
    + b"\r\ncontent-type: application/json\r\ncontent-length: "
    + str(len(BODY)).encode()
    + b"\r\n\r\n"
    + BODY
)
Echo = Callable[[Any, Any, Any], Awaitable[None]]

_GUEST_BYTES = b"g" * 4096


def work(guest_rounds: int, host_rounds: int) -> None:
    """About 16 us without the GIL (a digest of more than 2 KB releases it) and 19 us with it."""
    for _ in range(guest_rounds):
        hashlib.sha256(_GUEST_BYTES).digest()
    total = 0
    for number in range(host_rounds):
        total += number


def calibrate() -> tuple[int, int]:
    """Rounds of `work` that take 16 us and 19 us on this machine."""

    def best_us(call: Callable[[], None], times: int) -> float:
        samples = []
        for _ in range(20):
            began = time.perf_counter_ns()
            for _ in range(times):
                call()
            samples.append((time.perf_counter_ns() - began) / times / 1000)
        return min(samples)

    guest = best_us(lambda: work(1, 0), 200)
    host = best_us(lambda: work(0, 1000), 50) / 1000
    return max(1, round(16 / guest)), max(1, round(19 / host))


def asgi_echo(rounds: tuple[int, int] | None) -> Echo:
    """The smallest ASGI application that reads JSON and writes it back."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        value = orjson.loads(body)
        if rounds is not None:
            work(*rounds)
        reply = orjson.dumps(value)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(reply)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply, "more_body": False})

    return app


async def serve_uvicorn(app: Any, sock: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none", http="httptools")
    await uvicorn.Server(config).serve(sockets=[sock])


async def serve_starlette(rounds: tuple[int, int] | None, sock: socket.socket) -> None:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def echo(request: Request) -> Response:
        value = orjson.loads(await request.body())
        if rounds is not None:
            work(*rounds)
        return Response(orjson.dumps(value), media_type="application/json")

    path = "/api/v1/actors/{tenant}/{namespace}/{type}"
    await serve_uvicorn(Starlette(routes=[Route(path, echo, methods=["POST"])]), sock)


async def serve_granian(app: Any, port: int, interface: str) -> None:
    from granian.constants import Interfaces
    from granian.server.embed import Server

    server = Server(
        app, address="127.0.0.1", port=port, interface=Interfaces(interface), log_enabled=False, websockets=False
    )
    await server.serve()


def rsgi_echo(rounds: tuple[int, int] | None) -> Any:
    async def app(_scope: Any, proto: Any) -> None:
        value = orjson.loads(await proto())
        if rounds is not None:
            work(*rounds)
        proto.response_bytes(200, [("content-type", "application/json")], orjson.dumps(value))

    return app


async def serve_own(app: Any, sock: socket.socket) -> None:
    from plexspaces_runtime.api.config import HttpConfig
    from plexspaces_runtime.api.connection import Listener
    from plexspaces_runtime.clock import SystemClock

    listener = Listener(app, HttpConfig(), SystemClock())
    await listener.start(sock=sock)
    await asyncio.Event().wait()


CANDIDATES = ("uvicorn", "starlette", "granian-asgi", "granian-rsgi", "own")


def serve(name: str, rounds: tuple[int, int] | None) -> None:
    """Run one candidate until killed; its port is the first line of output."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=256)
    port = sock.getsockname()[1]
    if name.startswith("granian"):
        sock.close()
    print(port, flush=True)
    if name == "uvicorn":
        uvloop.run(serve_uvicorn(asgi_echo(rounds), sock))
    elif name == "starlette":
        uvloop.run(serve_starlette(rounds, sock))
    elif name == "granian-asgi":
        uvloop.run(serve_granian(asgi_echo(rounds), port, "asginl"))
    elif name == "granian-rsgi":
        uvloop.run(serve_granian(rsgi_echo(rounds), port, "rsgi"))
    else:
        uvloop.run(serve_own(asgi_echo(rounds), sock))


def load(port: int, seconds: float, request: bytes = REQUEST, connections: int = CONNECTIONS) -> tuple[float, float]:
    """Replies a second and the median of the time per round trip, in microseconds."""
    poll = select.epoll()
    socks: dict[int, socket.socket] = {}
    for _ in range(connections):
        sock = _connect(port)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(sock, select.EPOLLIN)
        socks[sock.fileno()] = sock
    clock = time.perf_counter
    sent = dict.fromkeys(socks, 0.0)
    buffers = dict.fromkeys(socks, b"")
    for fd, sock in socks.items():
        sent[fd] = clock()
        sock.sendall(request)
    warm_until = clock() + 0.3
    until = warm_until + seconds
    replies = 0
    times: list[float] = []
    while (now := clock()) < until:
        for fd, _ in poll.poll(1.0):
            data = socks[fd].recv(65536)
            if not data:
                raise SystemExit("the server closed a connection")
            if buffers[fd]:
                data = buffers[fd] + data
            # Content-Length comes within the head; replies are small.
            head = data.find(b"\r\n\r\n")
            low = data[: head + 2].lower() if head >= 0 else b""
            at = low.find(b"content-length: ")
            if head < 0 or len(data) < head + 4 + int(low[at + 16 : at + 16 + low[at + 16 :].find(b"\r")] or b"0"):
                buffers[fd] = data
                continue
            buffers[fd] = b""
            if not data.startswith(b"HTTP/1.1 20"):
                raise SystemExit(f"not a good answer: {data[:300]!r}")
            if now > warm_until:
                replies += 1
                if replies % 8 == 0:
                    times.append(clock() - sent[fd])
            sent[fd] = clock()
            socks[fd].sendall(request)
    for sock in socks.values():
        sock.close()
    return replies / seconds, statistics.median(times) * 1e6 if times else 0.0


def _connect(port: int) -> socket.socket:
    until = time.monotonic() + 5
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def measure(name: str, rounds: tuple[int, int] | None, seconds: float) -> tuple[float, float]:
    """One candidate in its own process, on the first core; the load on the last."""
    arguments = ["-m", "tests.bench.http_servers", "--serve", name]
    if rounds is not None:
        arguments += ["--rounds", *map(str, rounds)]
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, cwd=_ROOT) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            return load(port, seconds)
        finally:
            process.kill()


def main() -> None:
    """Measure all candidates and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each measurement")
    parser.add_argument("--rounds-of", type=int, default=3, help="measurements of each")
    parser.add_argument("--only", nargs="*", choices=CANDIDATES, default=CANDIDATES)
    parser.add_argument("--serve", choices=CANDIDATES, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, tuple(options.rounds) if options.rounds else None)
        return
    rounds = calibrate()
    best: dict[tuple[str, bool], tuple[float, float]] = {}
    # Round by round, so that a busy moment of the machine meets all of them; the best of each counts.
    for _ in range(options.rounds_of):
        for name in options.only:
            for busy in (False, True):
                found = measure(name, rounds if busy else None, options.seconds)
                best[name, busy] = max(best.get((name, busy), found), found)
    print(f"{'':14}{'echo/s':>10}{'p50 us':>9}{'+ work/s':>10}{'p50 us':>9}{'echo x':>8}{'work x':>8}{'work/echo':>11}")
    first_echo, first_work = (best[options.only[0], busy][0] for busy in (False, True))
    for name in options.only:
        (echo, echo_us), (work_, work_us) = best[name, False], best[name, True]
        print(
            f"{name:14}{echo:10,.0f}{echo_us:9,.0f}{work_:10,.0f}{work_us:9,.0f}"
            f"{echo / first_echo:8.2f}{work_ / first_work:8.2f}{work_ / echo:11.2f}"
        )


if __name__ == "__main__":
    main()
