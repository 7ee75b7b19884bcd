"""A real node for a test: real wasm, compiled components shared between runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from plexspaces_runtime.config import Limits, NodeConfig, default_cache_dir
from plexspaces_runtime.events import Event
from plexspaces_runtime.node import Node
from plexspaces_runtime.scope import Address, Scope

SCOPE = Scope("acme", "default")


class TestBed:
    """A running node and everything it said."""

    __test__ = False

    def __init__(self, node: Node) -> None:
        self.node = node
        self.seen: list[Event] = []
        node.events.subscribe(self.seen.append)

    def events(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    async def deploy(self, name: str, wasm: Path, *, scope: Scope = SCOPE, **config: Any) -> Address:
        await self.node.deploy(scope, name, wasm, config)
        return Address(scope, name)

    async def ask(self, address: Address | str, op: str, /, *, timeout_s: float = 60.0, **arguments: Any) -> Any:
        """The reply, decoded."""
        target = Address.parse(SCOPE, address) if isinstance(address, str) else address
        return json.loads(await self.node.ask(target, op, json.dumps(arguments), timeout_s=timeout_s))

    async def until(self, happened: Callable[[], bool], within_s: float = 30.0) -> None:
        """Let the node go on until something is so."""
        async with asyncio.timeout(within_s):
            while not happened():
                await asyncio.sleep(0.002)


@asynccontextmanager
async def running(tmp_path: Path, **limits: Any) -> AsyncIterator[TestBed]:
    """A node with these limits."""
    node = Node(NodeConfig(data_dir=tmp_path, cache_dir=default_cache_dir(), limits=Limits(**limits)))
    await node.start()
    try:
        yield TestBed(node)
    finally:
        await node.stop(grace_s=1.0)
