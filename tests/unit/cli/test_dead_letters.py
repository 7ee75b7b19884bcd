"""`plexspaces dead-letters` against the real edge with channels in memory."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from plexspaces_runtime.cli import app
from plexspaces_runtime.scope import Scope
from tests.unit.api.memory_node import Served, serving
from tests.unit.api.test_dead_letters import MINE, bury


@dataclass
class Shell:
    served: Served

    async def run(self, *words: str) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        env = {
            "PLEXSPACES_URL": f"http://127.0.0.1:{self.served.server.port}",
            "PLEXSPACES_TOKEN": self.served.token,
            "HOME": "/nonexistent",
        }

        def inside() -> tuple[int, str, str]:
            clean: dict[str, str | None] = {name: None for name in os.environ if name.startswith("PLEXSPACES_")}
            with CliRunner().isolation("", {**clean, **env}) as (out, err, _):
                status = app.run(["dead-letters", *words])
                return int(status), out.getvalue().decode(), err.getvalue().decode()

        return await asyncio.to_thread(inside)

    def dead(self) -> list[str]:
        return [each.id for each in self.served.stores.channels.dead_letters(MINE)]


@pytest.fixture(name="shell")
async def _shell() -> AsyncIterator[Shell]:
    async with serving() as served:
        yield Shell(served)


async def test_ls(shell: Shell) -> None:
    assert await shell.run("ls") == (0, "", "no dead letters\n")
    first, second = bury(shell.served, '{"a": 1}'), bury(shell.served, channel="other")
    status, out, _ = await shell.run("ls")
    heading, *lines = out.splitlines()
    assert heading.split() == ["ID", "SOURCE", "TYPE", "TRIED", "SINCE", "REASON"]
    assert [line.split()[:4] for line in lines] == [[first, "orders", "order", "1"], [second, "other", "order", "1"]]
    assert lines[0].endswith("no such customer")
    status, out, _ = await shell.run("ls", "--source", "orders", "--json")
    assert (status, [json.loads(line)["payload"] for line in out.splitlines()]) == (0, [{"a": 1}])


async def test_retry_and_drop_by_id(shell: Shell) -> None:
    letters = [bury(shell.served) for _ in range(3)]
    assert await shell.run("retry", *letters[:2]) == (0, f"retried {letters[0]}\nretried {letters[1]}\n", "")
    assert shell.served.stores.channels.depth(MINE, "orders") == 2
    assert await shell.run("drop", letters[2]) == (0, f"dropped {letters[2]}\n", "")
    assert shell.dead() == []


async def test_all_of_them_turns_pages_and_leaves_other_sources_alone(shell: Shell) -> None:
    for _ in range(101):
        bury(shell.served)
    other = bury(shell.served, channel="other")
    bury(shell.served, scope=Scope("default", "two"))
    assert await shell.run("retry", "--all", "--source", "orders") == (0, "retried 101 dead letters\n", "")
    assert shell.dead() == [other]
    status, out, _ = await shell.run("drop", "--all", "--json")
    assert (status, json.loads(out)) == (0, {"dropped": 1})
    assert shell.dead() == []
    assert (await shell.run("drop", "--all", "-n", "two"))[1] == "dropped 1 dead letter\n"


async def test_what_goes_wrong_says_what_to_do(shell: Shell) -> None:
    id_ = bury(shell.served)
    assert (await shell.run("drop"))[0] == 2
    assert (await shell.run("drop", id_, "--all"))[0] == 2
    assert (await shell.run("drop", id_, "--source", "orders"))[0] == 2
    assert shell.dead() == [id_]
    status, out, err = await shell.run("drop", id_, "message-999")
    assert (status, out) == (1, f"dropped {id_}\n")
    assert "there is no dead letter 'message-999' (1 dead letter dropped before)" in err
    assert "plexspaces dead-letters ls" in err
