"""A hundred actors that crash at random beside a thousand clients of others: real wasm, real HTTP."""

from __future__ import annotations

import asyncio
import gc
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.api.auth import Authenticator, LocalAuthority
from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.api.server import HttpServer
from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.errors import ActorExited as ActorEnded
from plexspaces_runtime.errors import HandlerCrashed, PlexSpacesError, Unavailable
from plexspaces_runtime.events import ActorExited, ApplicationFailed, SupervisorGaveUp
from plexspaces_runtime.logs import LINES
from plexspaces_runtime.scope import Address, Scope
from tests.nodes import SCOPE, TestBed, running

pytestmark = pytest.mark.guest
Guest = Callable[[str], Path]

CRASHERS = 100
STEADY = 10
CLIENTS = 1_000
CRASHES = 300


def application(name: str, children: list[str], role: str, **supervisor: int) -> str:
    settings = "\n".join(f"{key} = {value}" for key, value in supervisor.items())
    return (
        f'[application]\nname = "{name}"\n\n[[components]]\nname = "zoo"\npath = "zoo.wasm"\n\n'
        f"[supervisor]\n{settings}\n"
        + "".join(
            f'\n[[supervisor.children]]\nname = "{child}"\nactor_type = "zoo"\nrole = "{role}"\n' for child in children
        )
    )


async def deploy(bed: TestBed, config: str, wasm: Path, tenant: str = SCOPE.tenant) -> None:
    await bed.node.deploy_application(tenant, appconfig.parse(config), {"zoo": wasm})


def anonymous_kb() -> int:
    """Private memory of this process."""
    gc.collect()
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    raise OSError("the kernel has no smaps_rollup")


class Client:
    """One connection that asks again and again."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._head = f"host: localhost\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n"

    async def ask(self, actor: str, times: int) -> list[Any]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        answers = []
        try:
            for number in range(times):
                body = json.dumps({"op": "echo", "value": number}).encode()
                writer.write(
                    f"POST /api/v1/actors/{SCOPE.tenant}/default/{actor}?wait=60 HTTP/1.1\r\n{self._head}"
                    f"content-length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:")
                answers.append((int(head[9:12]), json.loads(await reader.readexactly(length)), number))
        finally:
            writer.close()
        return answers


@asynccontextmanager
async def served(bed: TestBed) -> AsyncIterator[Client]:
    authority = LocalAuthority(b"k" * 32, bed.node.clock)
    server = HttpServer(bed.node, Authenticator(authority, None, clock=bed.node.clock), HttpConfig(port=0))
    await server.start()
    try:
        yield Client(server.port, authority.mint(SCOPE.tenant, "ada", ["admin"], 3600))
    finally:
        await server.stop(1.0)


async def test_whoever_is_healthy_notices_nothing(guest: Guest, tmp_path: Path) -> None:
    chance = random.Random(7)
    crashers = [f"crasher-{number}" for number in range(CRASHERS)]
    steady = [f"steady-{number}" for number in range(STEADY)]
    async with running(tmp_path, actors_per_tenant_max=500) as bed:
        await deploy(bed, application("flaky", crashers, "hostile", max_restarts=CRASHES), guest("zoo"))
        await deploy(bed, application("sound", steady, "echo"), guest("zoo"))

        async def crash(times: int) -> int:
            heard = 0
            for _ in range(times):
                try:
                    await bed.ask(chance.choice(crashers), "crash")
                except HandlerCrashed as error:
                    heard += "as you wished" in error.message
            return heard

        # Once round, so that what is lazily made is there before memory is measured.
        assert await crash(50) == 50
        before_kb = anonymous_kb()
        async with served(bed) as client:
            crashing = asyncio.gather(*(crash((CRASHES - 50) // 10) for _ in range(10)))
            asking = asyncio.gather(*(client.ask(chance.choice(steady), 2) for _ in range(CLIENTS)))
            for answers in await asking:
                assert [(status, reply) for status, reply, _ in answers] == [(200, number) for _, _, number in answers]
            assert sum(await crashing) == CRASHES - 50
        await bed.until(lambda: all(info.state == "idle" for info in bed.node.actors(SCOPE.tenant)))
        infos = {info.address.text: info for info in bed.node.actors(SCOPE.tenant)}
        assert set(infos) == {*crashers, *steady}
        # Each crash is one restart of the one that crashed, within the intensity.
        assert sum(infos[name].restarts for name in crashers) == CRASHES
        assert sum(infos[name].restarts for name in steady) == 0
        assert max(event.restarts_in_window for event in bed.events(ActorExited)) <= CRASHES
        assert bed.events(SupervisorGaveUp) == []
        # Of each dead instance everything has been given back.
        assert bed.node.counters()["actors"] == CRASHERS + STEADY
        assert anonymous_kb() < before_kb * 1.15


async def test_one_who_crashes_an_actor_on_every_message_harms_no_other_application(
    guest: Guest, tmp_path: Path
) -> None:
    async with running(tmp_path) as bed:
        await deploy(bed, application("victim", ["front", "back"], "hostile", max_restarts=3), guest("zoo"))
        await deploy(bed, application("neighbour", ["next"], "echo"), guest("zoo"))
        rival = Scope("rival", "default")
        await deploy(bed, application("stranger", ["far"], "echo"), guest("zoo"), tenant="rival")
        born = {info.address: info.started_ms for info in bed.node.actors(SCOPE.tenant)}
        stop = asyncio.Event()
        heard: list[str] = []
        waits_ms: list[int] = []

        async def attacker() -> None:
            while not stop.is_set():
                try:
                    await bed.ask("front", "crash")
                except (HandlerCrashed, ActorEnded, Unavailable) as error:
                    heard.append(error.code)
                    if isinstance(error, Unavailable):
                        waits_ms.append(error.details["retry_after_ms"])
                        await asyncio.sleep(0.01)

        attackers = [asyncio.ensure_future(attacker()) for _ in range(20)]
        try:
            # It fails, is started again after a second, and fails again, while the others answer.
            await bed.until(lambda: len(bed.events(ApplicationFailed)) >= 2)
            for _ in range(100):
                assert await bed.ask("next", "echo", value=1) == 1
                assert await bed.ask(Address(rival, "far"), "echo", value=2) == 2
        finally:
            stop.set()
            await asyncio.gather(*attackers)
        assert {"handler-crashed", "unavailable"} <= set(heard)
        assert all(0 < wait_ms <= 2_000 for wait_ms in waits_ms)
        neighbour = bed.node.info(Address(SCOPE, "next"))
        assert (neighbour.restarts, neighbour.started_ms) == (0, born[Address(SCOPE, "next")])
        assert [event.delay_s for event in bed.events(ApplicationFailed)][:2] == [1.0, 2.0]
        # One line for each restart: the end of the one that crashed, and what follows from it.
        crashes = [event for event in bed.events(ActorExited) if event.address.text == "front" and not event.orderly]
        lines = [LINES[type(event)](event) for event in crashes]
        assert len(crashes) <= 8
        assert all("is restarted" in text or "ended: crashed" in text for _, text in lines)
        # The traceback is news the first time only.
        assert sum("\n" in text for _, text in lines) <= 2
        said = [LINES[type(event)](event)[0] for event in bed.seen]
        assert sum(level >= 20 for level in said) < 60
        with pytest.raises(PlexSpacesError):
            await bed.ask("back", "no-such-operation")
