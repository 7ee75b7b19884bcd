"""`plexspaces streams` against the real edge with streams in memory."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from plexspaces_runtime.cli import app
from plexspaces_runtime.config import Limits
from plexspaces_runtime.scope import Scope
from tests.unit.api.kept_stores import make_stores
from tests.unit.api.memory_node import Served, serving

MINE = Scope("default", "default")


@dataclass
class Shell:
    served: Served

    @property
    def env(self) -> dict[str, str]:
        return {
            "PLEXSPACES_URL": f"http://127.0.0.1:{self.served.server.port}",
            "PLEXSPACES_TOKEN": self.served.token,
            "HOME": "/nonexistent",
        }

    async def run(self, *words: str) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""

        def inside() -> tuple[int, str, str]:
            clean: dict[str, str | None] = {name: None for name in os.environ if name.startswith("PLEXSPACES_")}
            with CliRunner().isolation("", {**clean, **self.env}) as (out, err, _):
                status = app.run(["streams", *words])
                return int(status), out.getvalue().decode(), err.getvalue().decode()

        return await asyncio.to_thread(inside)


@pytest.fixture(name="shell")
async def _shell() -> AsyncIterator[Shell]:
    async with serving(stores=make_stores(Limits(stream_events_per_second_max=10_000))) as served:
        yield Shell(served)


async def test_append_cat_and_ls(shell: Shell) -> None:
    assert await shell.run("append", "/sessions/abc", "note", "text=hello", "n=5") == (0, "1\n", "")
    status, out, _ = await shell.run("append", "/sessions/abc", "note", '{"x": [1]}', "--json")
    assert (status, json.loads(out)) == (0, {"offset": 2, "event_type": "note"})
    status, out, _ = await shell.run("cat", "/sessions/abc", "--json")
    assert [json.loads(line)["payload"] for line in out.splitlines()] == [{"text": "hello", "n": 5}, {"x": [1]}]
    status, out, _ = await shell.run("cat", "/sessions/abc", "--after", "1")
    assert out.split()[0] == "2"
    assert out.endswith('note         {"x": [1]}\n')
    await shell.run("append", "/other", "note")
    status, out, _ = await shell.run("ls", "/sessions", "--json")
    assert [each["path"] for each in json.loads(out)["streams"]] == ["/sessions/abc"]
    status, out, _ = await shell.run("ls")
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["/other", "1"], ["/sessions/abc", "2"]]


async def test_a_key_appends_once(shell: Shell) -> None:
    for _ in range(2):
        assert (await shell.run("append", "/a", "note", "--id", "k"))[:2] == (0, "1\n")


async def test_cat_and_ls_turn_pages(shell: Shell) -> None:
    for n in range(1_001):
        shell.served.stores.streams.append(MINE, f"/many/{n}", "note", "{}")
        shell.served.stores.streams.append(MINE, "/many/0", "note", "{}")
    assert len((await shell.run("cat", "/many/0", "--json"))[1].splitlines()) == 1_002
    assert len(json.loads((await shell.run("ls", "--json"))[1])["streams"]) == 1_001


@pytest.mark.parametrize(("count", "expected"), [("2", [4, 5]), ("0", []), ("9", [1, 2, 3, 4, 5])])
async def test_tail(shell: Shell, count: str, expected: list[int]) -> None:
    for _ in range(5):
        await shell.run("append", "/a", "note")
    status, out, _ = await shell.run("tail", "/a", "-c", count, "--json")
    assert status == 0
    assert [json.loads(line)["offset"] for line in out.splitlines()] == expected


async def test_tail_follows_also_a_stream_that_has_not_begun(shell: Shell) -> None:
    command = [sys.executable, "-m", "plexspaces_runtime.cli", "streams", "tail", "-f", "/a", "--json"]
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **shell.env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        for n in range(3):
            shell.served.stores.streams.append(MINE, "/a", "note", str(n))
            assert json.loads(await process.stdout.readline())["payload"] == n
        process.terminate()
        await process.wait()


async def test_what_goes_wrong_says_what_to_do(shell: Shell) -> None:
    status, _, err = await shell.run("cat", "/none")
    assert (status, "plexspaces streams ls" in err) == (1, True)
    status, _, err = await shell.run("cat", "none")
    assert (status, "write /none" in err) == (2, True)
    status, _, err = await shell.run("append", "/a", "paused")
    assert (status, "bad-type" in err) == (1, True)
    status, _, err = await shell.run("append", "/a", "note", "x")
    assert status == 2


async def test_pause_and_resume(shell: Shell) -> None:
    await shell.run("append", "/a", "note")
    assert await shell.run("pause", "/a") == (0, "/a is held\n", "")
    assert (await shell.run("append", "/a", "note"))[0] == 5
    assert await shell.run("resume", "/a") == (0, "/a is flowing\n", "")
    assert (await shell.run("append", "/a", "note"))[1] == "4\n"


async def test_an_actor_cannot_steer_the_terminal(shell: Shell) -> None:
    shell.served.stores.streams.append(MINE, "/a", "note", '"\x9b2J\u202e"')
    _, out, _ = await shell.run("cat", "/a")
    assert "\\u009b2J\\u202e" in out
