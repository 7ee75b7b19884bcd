"""A durable actor of real wasm meets another version of its code: tried first, then recovered with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plexspaces_runtime.scope import Address
from tests.nodes import SCOPE, running
from tests.simulation.journaled import copied, edit

pytestmark = pytest.mark.guest
ACCOUNT = Address(SCOPE, "account")


async def test_the_state_is_migrated_when_an_actor_is_recovered_with_new_code(
    guest: Callable[[str], Path], tmp_path: Path
) -> None:
    async with running(tmp_path / "first") as bed:
        await bed.deploy("account", guest("account"))
        for amount in (10, 5, 7):
            await bed.ask(ACCOUNT, "deposit", amount=amount)
        await bed.node.stores.flushed()
        folder = copied(tmp_path / "first", tmp_path / "second")
    # The node was killed, and comes back with nothing deployed.
    edit(folder, "DELETE FROM deployments")
    async with running(folder) as bed:
        wasm = guest("account_v2")
        good = await bed.node.check(SCOPE, "account", wasm, {})
        assert (good.agreed, good.messages, good.diverged) == (1, 3, [])
        bad = await bed.node.check(SCOPE, "account", wasm, {"role": "careless"})
        (found,) = bad.diverged
        assert (found.op, bad.agreed) == ("deposit", 0)
        assert found.problem.startswith("asked for keyvalue.put")
        assert "keyvalue.increment" in found.problem
        assert bed.node.actors("acme") == []
        await bed.deploy("account", wasm)
        # The state of the checkpoint was migrated, and what came after it was done again by the new code.
        assert await bed.ask(ACCOUNT, "look") == {"cents": 2200, "deposits": 3, "migrated": True}
        # Nothing was booked twice.
        assert await bed.ask(ACCOUNT, "deposit", amount=1) == {"balance": 23, "booked": 23}
        verdict = await bed.node.journals.verify(ACCOUNT)
        assert verdict.ok, verdict.problem
