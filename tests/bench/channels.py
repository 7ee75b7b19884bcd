"""Channels: messages sent, received and acknowledged, each step on disk before it is believed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores.channels import Delivery
from plexspaces_runtime.stores.stores import Stores

from .common import Row, median
from .kv import _stores

_SCOPE = Scope("acme", "default")
_PAYLOAD = '{"order":"' + "x" * 100 + '"}'
_ROUNDS = 3


async def _one(stores: Stores, name: str, messages: int) -> None:
    channels = stores.channels
    for _ in range(messages):
        channels.send(_SCOPE, name, "job", _PAYLOAD)
        await stores.flushed()
        held = channels.receive(_SCOPE, name, name)
        assert isinstance(held, Delivery)
        await stores.flushed()
        channels.ack(_SCOPE, name, held.id, name)
        await stores.flushed()


async def _pipeline(stores: Stores, name: str, messages: int) -> None:
    """A producer and a consumer of one channel, each waiting for its own writes alone."""
    channels = stores.channels

    async def produce() -> None:
        for _ in range(messages):
            channels.send(_SCOPE, name, "job", _PAYLOAD)
            await stores.flushed()

    async def consume() -> None:
        taken = 0
        while taken < messages:
            held = channels.receive(_SCOPE, name, name)
            if isinstance(held, Delivery):
                channels.ack(_SCOPE, name, held.id, name)
                taken += 1
            await stores.flushed()
            if held is None:
                await asyncio.sleep(0)

    await asyncio.gather(produce(), consume())


async def _rate(work: Callable[[Stores, str, int], Awaitable[None]], several: int, messages: int) -> float:
    """Messages a second, all steps of them."""
    with TemporaryDirectory() as folder:
        stores = await _stores(Path(folder))
        began = time.perf_counter()
        await asyncio.gather(*(work(stores, f"q{number}", messages // several) for number in range(several)))
        rate = messages / (time.perf_counter() - began)
        await stores.stop()
    return rate


async def run() -> list[Row]:
    alone, sixteen, pipeline = [], [], []
    for _ in range(_ROUNDS):
        alone.append(await _rate(_one, 1, 2_000))
        sixteen.append(await _rate(_one, 16, 8_000))
        pipeline.append(await _rate(_pipeline, 16, 8_000))
    return [
        Row("channel send, receive and ack, three commits in turn, one actor", f"{median(alone):,.0f}/s"),
        Row.at_least("channel send, receive and ack, three commits in turn, 16 actors", median(sixteen), 3_000, "/s"),
        Row("channel send, receive and ack, 16 producers and 16 consumers", f"{median(pipeline):,.0f}/s"),
    ]
