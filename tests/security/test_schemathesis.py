"""A real node answers as its own OpenAPI document says, whatever is asked of it, and never with a fault of its own.

`PLEXSPACES_FUZZ=50 pytest tests/security/test_schemathesis.py` asks fifty times as much.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from plexspaces_runtime.api.auth import Authenticator, LocalAuthority
from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.api.openapi import document
from plexspaces_runtime.api.server import HttpServer
from plexspaces_runtime.events import HostFault, NodeFault, StorageFault
from plexspaces_runtime.scope import Scope
from tests.nodes import TestBed, running
from tests.security.fuzzing import FACTOR

pytestmark = pytest.mark.guest

OPERATIONS = [
    (method.upper(), path)
    for path, methods in document()["paths"].items()
    for method in methods
    if method in ("get", "post", "put", "patch", "delete")
]
CHECKED = [status_code_conformance, content_type_conformance, response_schema_conformance]


@dataclass
class Served:
    """A node with a counter, a durable one beside it, and its server, on a thread of their own."""

    url: str
    token: str
    bed: TestBed


@pytest.fixture(scope="module")
def served(guest: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, wasm = tmp_path_factory.mktemp("node"), guest("counter")
    ready: dict[str, Any] = {}
    up = threading.Event()

    async def live() -> None:
        stop = ready["stop"] = asyncio.Event()
        ready["loop"] = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            bed = await stack.enter_async_context(running(folder, wall_s_per_message_max=5.0, ask_timeout_ms=2_000))
            await bed.node.deploy(Scope("default", "default"), "counter", wasm, {})
            authority = LocalAuthority.open(folder)
            config = HttpConfig(port=0, wait_s_max=2.0, live_s_max=0.2, upload_dir=folder / "uploads")
            server = HttpServer(
                bed.node, Authenticator(authority), config, facet_types=bed.node.facet_types, stores=bed.node.stores
            )
            await server.start()
            stack.push_async_callback(server.stop, 1.0)
            ready["served"] = Served(f"http://127.0.0.1:{server.port}", authority.token, bed)
            up.set()
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(live())
        finally:
            up.set()

    thread = threading.Thread(target=run)
    thread.start()
    up.wait(60)
    yield ready["served"]
    ready["loop"].call_soon_threadsafe(ready["stop"].set)
    thread.join(60)


@pytest.fixture(scope="module")
def schema(served: Served) -> Any:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{method} {path}" for method, path in OPERATIONS])
def test_every_operation_answers_as_the_document_says(served: Served, schema: Any, method: str, path: str) -> None:
    operation = schema[path][method]
    headers = {"authorization": f"Bearer {served.token}"}

    @settings(
        max_examples=4 * FACTOR,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=FACTOR == 1,
        database=None,
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        # Of its own, so that most of what is asked gets past the tenant.
        for name, own in (("tenant", "default"), ("namespace", "default")):
            if case.path_parameters and name in case.path_parameters:
                case.path_parameters[name] = own
        response = case.call(headers=headers)
        # 502 to 504 are the actor's, or say that it took too long; 500 is the node's.
        assert response.status_code < 500 or response.status_code in (502, 503, 504), response.text
        case.validate_response(response, checks=CHECKED)

    ask()
    faults = [event for event in served.bed.seen if isinstance(event, NodeFault | HostFault | StorageFault)]
    assert faults == []
    assert httpx.get(f"{served.url}/healthz", timeout=20).status_code == 200


def test_the_document_lists_every_operation_that_is_attacked(served: Served) -> None:
    offered = httpx.get(f"{served.url}/openapi.json", timeout=20).json()["paths"]
    assert {path for _, path in OPERATIONS} == set(offered)
    assert len(OPERATIONS) > 40
