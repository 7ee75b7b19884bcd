"""A process that replaces its master key all the time is killed with -9 at random moments: no secret is ever lost."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

from plexspaces_runtime.clock import SystemClock
from plexspaces_runtime.config import Limits, SecretsConfig
from plexspaces_runtime.egress.keys import open_keys
from plexspaces_runtime.egress.vault import Vault
from plexspaces_runtime.events import EventBus
from plexspaces_runtime.ids import SystemIds
from plexspaces_runtime.scope import Address, Scope
from plexspaces_runtime.stores.stores import Stores
from tests.integration.test_store_kill import Say, in_a_child, make

KILLS = int(os.environ.get("PLEXSPACES_KILLS", "60"))
AGENT = Address(Scope("acme", "default"), "agent")


async def opened(folder: Path) -> tuple[Stores, Vault]:
    """What a node does when it starts."""
    stores = make(folder, asyncio.get_running_loop())
    await stores.start()
    in_use = next((row.master for row in stores.secrets.key_rows()), None)
    vault = Vault(
        stores.secrets,
        open_keys(SecretsConfig(), folder, in_use, SystemIds()),
        clock=SystemClock(),
        ids=SystemIds(),
        events=EventBus(),
        limits=Limits(),
        flushed=stores.flushed,
    )
    vault.load()
    return stores, vault


def test_a_rotation_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    async def work(say: Say) -> None:
        stores, vault = await opened(tmp_path)
        say("ready")

        async def rotating() -> None:
            while True:
                say(f"key {await vault.rotate()}")

        async def setting() -> None:
            number = 0
            while True:
                number += 1
                name = f"secret-{os.getpid()}-{number % 5}"
                vault.set("acme", name, f"the-value-of-{number:06}", by="ada")
                vault.set(f"tenant-{os.getpid()}", "first", f"the-value-of-{number:06}", by="ada")
                vault.register(AGENT, f"token-of-{number % 5}", f"the-credential-{number:06}", ["link"])
                await stores.flushed()
                say(f"{name} {number}")
                await asyncio.sleep(0)

        await asyncio.gather(rotating(), setting())

    async def check(acknowledged: dict[str, int]) -> int:
        stores, vault = await opened(tmp_path)
        for row in stores.secrets.secret_rows():
            value = vault.reveal(row.tenant, row.name)
            assert int(value.removeprefix("the-value-of-")) >= acknowledged.get(row.name, 0)
        names = {info.name for info in vault.secrets("acme")}
        assert set(acknowledged) <= names
        for number in range(5):
            known = vault.stands_for(AGENT.scope, f"token-of-{number}")
            assert known is None or known.value.startswith("the-credential-")
        await stores.stop()
        return len(names)

    chance = random.Random(3)
    acknowledged: dict[str, int] = {}
    rotations = pending = 0
    for _ in range(KILLS):
        for line in in_a_child(work, chance.random() * 0.06):
            name, number = line.split()
            if name == "key":
                rotations += 1
            else:
                acknowledged[name] = int(number)
        pending += (tmp_path / "keys" / "secrets.key.next").exists()
        asyncio.run(check(acknowledged))
        assert not (tmp_path / "keys" / "secrets.key.next").exists()
    assert rotations > KILLS / 4, "the processes were killed before they had done anything"
    assert pending > 0, "none was killed in the middle of a rotation"
