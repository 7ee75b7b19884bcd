"""`plexspaces workflows` and `plexspaces promises` against the real edge, with runs in memory."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from plexspaces_runtime.actors.envelope import Kind
from plexspaces_runtime.cli import app
from plexspaces_runtime.scope import Address
from plexspaces_runtime.stores.workflows import Status
from tests.unit.api.memory_node import Served, serving
from tests.unit.api.test_workflows import LISBON, MINE, begin, hear


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
                status = app.run(list(words))
                return int(status), out.getvalue().decode(), err.getvalue().decode()

        return await asyncio.to_thread(inside)


@pytest.fixture(name="shell")
async def _shell() -> AsyncIterator[Shell]:
    async with serving() as served:
        yield Shell(served)


async def test_ls(shell: Shell) -> None:
    assert await shell.run("workflows", "ls") == (0, "", "no workflows\n")
    for number in range(101):
        begin(shell.served, f"k{number:03}")
    shell.served.stores.workflows.step_begin(begin(shell.served), "flight", "{}")
    status, out, _ = await shell.run("workflows", "ls")
    heading, *lines = out.splitlines()
    assert (status, len(lines)) == (0, 102)
    assert heading.split()[:3] == ["WORKFLOW", "STATUS", "STEP"]
    assert lines[-1].split()[:3] == ["trip/lisbon", "running", "flight"]
    status, out, _ = await shell.run("workflows", "ls", "--json", "--status", "running", "--type", "trip")
    assert json.loads(out.splitlines()[-1])["key"] == "lisbon"
    assert (await shell.run("workflows", "ls", "--status", "completed"))[1] == ""
    assert (await shell.run("workflows", "ls", "--status", "dead"))[0] == 2


async def test_start_show_signal_query_cancel_forget(shell: Shell) -> None:
    shell.served.node.spawn(LISBON)
    shell.served.node.spawn(Address(MINE, "order"))
    heard = hear(shell.served)
    status, out, _ = await shell.run("workflows", "start", "trip/lisbon", "city=Lisbon", "--nights", "2")
    assert status == 0
    assert "status               running" in out
    assert "waits for            sleep" in out
    assert heard == [(LISBON, Kind.RUN, "run", '{"city":"Lisbon","nights":2}')]
    assert (await shell.run("workflows", "start", "order"))[0] == 0
    assert heard[-1] == (Address(MINE, "order"), Kind.RUN, "run", "{}")
    assert json.loads((await shell.run("workflows", "show", "trip/lisbon", "--json"))[1])["status"] == "running"
    status, out, _ = await shell.run("workflows", "signal", "trip/lisbon", "approve", "by=ada")
    assert (status, heard[-1]) == (0, (LISBON, Kind.SIGNAL, "approve", '{"by":"ada"}'))
    status, out, _ = await shell.run("workflows", "query", "trip/lisbon", "echo", "a=1", 'b="1"')
    assert (status, json.loads(out)) == (0, {"a": 1, "b": "1"})
    status, out, _ = await shell.run("workflows", "cancel", "trip/lisbon", "--reason", "ill")
    assert (status, out) == (0, "cancelling trip/lisbon: ill\n")
    assert (await shell.run("workflows", "forget", "trip/lisbon"))[0] == 1
    shell.served.stores.workflows.end(LISBON, Status.COMPLETED, "[1]")
    status, out, _ = await shell.run("workflows", "show", "trip/lisbon")
    assert "result               [1]" in out
    assert await shell.run("workflows", "forget", "trip/lisbon") == (0, "forgot trip/lisbon\n", "")
    status, _, err = await shell.run("workflows", "show", "trip/lisbon")
    assert status == 1
    assert "there is no run of a workflow 'trip/lisbon'" in err
    assert "plexspaces workflows ls" in err


async def test_promises(shell: Shell) -> None:
    assert await shell.run("promises", "ls") == (0, "", "no promises\n")
    promise = shell.served.stores.promises.create(LISBON, "agreement")
    status, out, _ = await shell.run("promises", "ls")
    assert out.splitlines()[1].split()[:3] == [promise.id, "agreement", "trip/lisbon"]
    assert await shell.run("promises", "resolve", promise.id, "yes") == (0, f"resolved {promise.id}\n", "")
    assert shell.served.stores.promises.get(MINE, promise.id).value == '"yes"'
    status, _, err = await shell.run("promises", "resolve", promise.id, "[1]")
    assert status != 0
    assert "is resolved already, with another value" in err
    assert (await shell.run("promises", "ls"))[1] == ""
    status, out, _ = await shell.run("promises", "ls", "--all", "--json")
    assert json.loads(out)["value"] == "yes"
