"""What `init` sets beside the state is there when messages are given again, exactly as it was for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plexspaces_runtime.errors import HandlerCrashed
from tests.nodes import SCOPE, running

pytestmark = pytest.mark.guest


async def test_messages_find_what_init_had_set_for_them(tmp_path: Path, guest: Callable[[str], Path]) -> None:
    async with running(tmp_path) as bed:
        actor = await bed.deploy("stamped", guest("stamped"))
        before = [await bed.ask(actor, "note", text=text) for text in ("a", "b")]
        assert before[0].split()[1:] == before[1].split()[1:]
        with pytest.raises(HandlerCrashed):
            await bed.ask(actor, "fail")
        found = await bed.ask(actor, "all")
        assert found["notes"] == before
        # Its own `init` has run since, once, and that is what the next messages find.
        assert (found["starts"], found["members"]) == (2, ["stamped"])
        after = await bed.ask(actor, "note", text="c")
        assert after.split()[1] != before[0].split()[1]
        with pytest.raises(HandlerCrashed):
            await bed.ask(actor, "fail")
        assert (await bed.ask(actor, "all"))["notes"] == [*before, after]


async def test_the_next_life_of_the_node_finds_it_too(tmp_path: Path, guest: Callable[[str], Path]) -> None:
    async with running(tmp_path) as bed:
        actor = await bed.deploy("stamped", guest("stamped"))
        before = [await bed.ask(actor, "note", text=text) for text in ("a", "b")]
    async with running(tmp_path) as bed:
        assert (await bed.ask(actor, "all"))["notes"] == before


async def test_another_version_is_tried_on_and_takes_over(tmp_path: Path, guest: Callable[[str], Path]) -> None:
    """Its `init` asks for more than the recorded one did."""
    async with running(tmp_path) as bed:
        actor = await bed.deploy("stamped", guest("stamped"))
        before = await bed.ask(actor, "note", text="a")
        report = await bed.node.check(SCOPE, "stamped", guest("stamped_v2"), {})
        assert (report.agreed, report.diverged) == (1, [])
        await bed.deploy("stamped", guest("stamped_v2"))
        after = await bed.ask(actor, "note", text="b")
        with pytest.raises(HandlerCrashed):
            await bed.ask(actor, "fail")
        found = await bed.ask(actor, "all")
        assert (found["notes"], found["starts"]) == ([before, after], 3)
