"""`plexspaces grants` and what `deploy` says of capabilities, against the real edge with a node in memory."""

from __future__ import annotations

import asyncio
import json
import os
import tomllib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from plexspaces_runtime.cli import app
from plexspaces_runtime.cli.commands.deploy import news_lines
from plexspaces_runtime.scope import Scope
from tests.unit.api.memory_node import Served, assert_problem, serving

MINE = Scope("default", "default")


@dataclass
class Shell:
    served: Served
    folder: Path

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
                status = app.run([*words])
                return int(status), out.getvalue().decode(), err.getvalue().decode()

        return await asyncio.to_thread(inside)

    def component(self) -> str:
        file = self.folder / "agent.wasm"
        file.write_bytes(b"\0asm")
        return str(file)


@pytest.fixture(name="shell")
async def _shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with serving() as served:
        yield Shell(served, tmp_path)


async def test_a_type_is_observed_from_before_it_is_deployed(shell: Shell) -> None:
    assert (await shell.run("deploy", "--observe", shell.component()))[0] == 0
    assert shell.served.node.observed == {(MINE, "agent")}
    status, out, _ = await shell.run("grants", "agent")
    assert status == 0
    assert [line.split(maxsplit=1) for line in out.splitlines()] == [
        ["granted", "default"],
        ["refused", "spawn:worker (2 times)"],
        ["used", "messaging (3 calls)"],
        ["smallest", 'capabilities = ["messaging", "streams:append:/sessions/*"]'],
    ]


async def test_observing_is_for_what_is_deployed(shell: Shell) -> None:
    status, _, err = await shell.run("deploy", "--observe", "--check", shell.component())
    assert status == 2
    assert "--check and --dry-run deploy nothing" in err
    assert not shell.served.node.observed


async def test_one_that_is_not_observed_says_how_to_begin(shell: Shell) -> None:
    await shell.run("deploy", shell.component())
    status, out, _ = await shell.run("grants", "agent")
    assert status == 0
    assert "not observed; begin with: plexspaces grants agent --observe" in out
    status, out, _ = await shell.run("grants", "agent", "--observe")
    assert "smallest" in out
    assert shell.served.node.observed == {(MINE, "agent")}


async def test_the_smallest_list_is_written_and_the_observation_ended(shell: Shell) -> None:
    await shell.run("deploy", "--observe", shell.component())
    file = shell.folder / "grants.toml"
    status, out, _ = await shell.run("grants", "agent", "--write", str(file), "--stop")
    assert status == 0
    assert f"written to {file}" in out
    assert tomllib.loads(file.read_text())["capabilities"] == ["messaging", "streams:append:/sessions/*"]
    assert not shell.served.node.observed
    status, _, err = await shell.run("grants", "agent", "--write", str(file))
    assert status != 0
    assert "agent is not observed, so there is nothing to write" in err


async def test_a_file_that_cannot_be_written_is_said(shell: Shell) -> None:
    await shell.run("deploy", "--observe", shell.component())
    status, _, err = await shell.run("grants", "agent", "--write", str(shell.folder / "no" / "grants.toml"))
    assert status != 0
    assert "cannot be written: No such file or directory" in err


async def test_machines_get_json(shell: Shell) -> None:
    await shell.run("deploy", "--observe", shell.component())
    status, out, _ = await shell.run("grants", "agent", "--json")
    assert status == 0
    assert json.loads(out) == {
        "tenant": "default",
        "namespace": "default",
        "actor_type": "agent",
        "granted": ["default"],
        "refused": {"spawn:worker": 2},
        "observed": True,
        "calls": {"messaging": 3},
        "smallest": ["messaging", "streams:append:/sessions/*"],
        "line": 'capabilities = ["messaging", "streams:append:/sessions/*"]',
        "not_all_names": [],
    }


async def test_a_type_that_is_nowhere_is_not_found(shell: Shell) -> None:
    status, _, err = await shell.run("grants", "nobody")
    assert status != 0
    assert "'nobody' is not deployed" in err
    answer = await shell.served.http.get("/api/v1/grants/default/nobody")
    assert_problem(answer, 404, "not-found")


async def test_nobody_else_is_observed_or_shown(shell: Shell) -> None:
    await shell.run("deploy", shell.component())
    http, authority = shell.served.http, shell.served.authority
    viewer = {"authorization": f"Bearer {authority.mint('default', 'eve', ['viewer'], 60)}"}
    assert (await http.get("/api/v1/grants/default/agent", headers=viewer)).status_code == 200
    assert_problem(await http.put("/api/v1/grants/default/agent/observe", headers=viewer), 403, "permission-denied")
    confined = {"authorization": f"Bearer {authority.mint('default', 'eve', ['admin'], 60, namespaces=['other'])}"}
    for method, path in (("GET", ""), ("PUT", "/observe"), ("DELETE", "/observe")):
        answer = await http.request(method, f"/api/v1/grants/default/agent{path}", headers=confined)
        assert_problem(answer, 403, "permission-denied")
    assert not shell.served.node.observed


def test_news_is_told_in_a_line_each_and_nothing_where_there_is_none() -> None:
    news = {
        "granted": ["default", "http:llm-api"],
        "newly_imports": ["http"],
        "newly_granted": ["http:llm-api"],
        "no_longer_granted": [],
        "not_granted": ["locks", "blobs"],
    }
    assert news_lines(news) == [
        "this version newly imports: http",
        "newly granted: http:llm-api",
        "asks for locks, blobs but is not granted it",
    ]
    assert news_lines({"granted": ["default"]}) == []
    # Of a node of an earlier version.
    assert news_lines(None) == []
