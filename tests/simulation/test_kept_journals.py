"""Journals that earlier versions of the code have written: later ones read them, and actors come back from them."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from plexspaces_runtime.durability.explain import Checkpoint, Message
from plexspaces_runtime.durability.journals import Reader
from plexspaces_runtime.durability.offline import opened
from tests.simulation.journaled import ACCOUNT, bank, rows

FIXTURES = Path(__file__).parents[1] / "fixtures"
KEPT = sorted(FIXTURES.glob("journal-v*.db"))


@pytest.fixture(params=KEPT, ids=lambda path: path.stem)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A data directory with a kept database."""
    (tmp_path / "data").mkdir()
    shutil.copy(request.param, tmp_path / "data" / "plexspaces.db")
    return tmp_path / "data"


def test_there_is_one() -> None:
    assert KEPT


async def test_it_is_what_was_written_and_can_be_explained(folder: Path) -> None:
    with opened(folder) as table:
        reader = Reader(table)
        (summary,) = reader.list("acme")
        verdict = await reader.verify(ACCOUNT)
        assert verdict.ok, verdict.problem
        told = reader.history(ACCOUNT).told
        (letter,) = table.dead("acme")
    assert (summary.waiting, summary.timers, summary.dead) == (2, 1, 1)
    assert (letter.message["id"], letter.attempts, letter.reason) == ("given-up", 2, "crashed(Crash, as told)")
    checkpoints = [each for each in told if isinstance(each, Checkpoint)]
    messages = [each for each in told if isinstance(each, Message)]
    assert [each.format for each in checkpoints] == [1] * len(checkpoints)
    ends = [(each.op, each.end, each.attempt) for each in messages]
    assert ends[-5:] == [
        ("crash", "crash", 2),
        ("later", "reply", 1),
        ("note", "reply", 1),
        ("deposit", "reply", 1),
        ("wait", "", 1),
    ]
    assert messages[-1].waits_since_ms > 1_600_000_000_000


async def test_the_actor_comes_back_from_it(folder: Path) -> None:
    async with bank(folder) as house:
        # The hour that one slept is over; so is that of the timer.
        async with asyncio.timeout(10):
            while (await house.ask("balance"))["notes"] != ["one", "two", "later"]:
                await asyncio.sleep(0.01)
        seen = await house.ask("balance")
        assert (seen["balance"], seen["booked"]) == (121, 121)
        # One that was handled is known by its id.
        await house.tell("note", id_="noted", text="one")
        assert (await house.ask("balance"))["notes"] == ["one", "two", "later"]
        assert (await house.get("/api/v1/journals/acme/default/account/default/verify"))["ok"]
        await house.node.stores.flushed()
        assert rows(folder, "SELECT count(*) FROM inbox") == [(0,)]
