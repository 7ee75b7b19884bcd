"""`plexspaces secret` against the real edge with a vault in memory: values come from standard input alone."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from plexspaces_runtime.cli import app
from plexspaces_runtime.egress.vault import Vault
from plexspaces_runtime.errors import NotFound
from tests.unit.api.memory_node import MemoryNode, Served, serving
from tests.unit.egress_secrets.bench import Bench

VALUE = "sk-a-very-secret-value"


@dataclass
class Shell:
    served: Served
    vault: Vault
    token: str = ""

    async def run(self, *words: str, stdin: bytes = b"") -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        env = {
            "PLEXSPACES_URL": f"http://127.0.0.1:{self.served.server.port}",
            "PLEXSPACES_TOKEN": self.token or self.served.token,
            "HOME": "/nonexistent",
        }

        def inside() -> tuple[int, str, str]:
            clean: dict[str, str | None] = {name: None for name in os.environ if name.startswith("PLEXSPACES_")}
            with CliRunner().isolation(stdin, {**clean, **env}) as (out, err, _):
                status = app.run(["secret", *words])
                return int(status), out.getvalue().decode(), err.getvalue().decode()

        return await asyncio.to_thread(inside)


@pytest.fixture(name="shell")
async def _shell() -> AsyncIterator[Shell]:
    vault = Bench().vault()
    async with serving(MemoryNode(vault=vault)) as served:
        yield Shell(served, vault)


async def test_set_takes_standard_input(shell: Shell) -> None:
    status, out, err = await shell.run("set", "openai", stdin=VALUE.encode())
    assert (status, out) == (0, "openai is set, version 1\n")
    assert err == "no link uses it yet: a link names it as ${secret:openai}\n"
    assert shell.vault.reveal("default", "openai") == VALUE
    status, out, _ = await shell.run("set", "openai", "--json", stdin=b"another-value")
    assert (status, json.loads(out)["version"]) == (0, 2)
    assert "another-value" not in out


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (b"a-good-value\n", "a-good-value"),
        (b"a-good-value\r\n", "a-good-value"),
        (b"a-good-value\n\n", "a-good-value\n"),
        (b"  a-good-value ", "  a-good-value "),
        ("grüße-an-alle\n".encode(), "grüße-an-alle"),
    ],
)
async def test_one_line_break_at_the_end_is_left_out_and_said(shell: Shell, typed: bytes, kept: str) -> None:
    status, _, err = await shell.run("set", "openai", stdin=typed)
    assert status == 0
    assert ("the line break at the end was left out" in err) == (typed[-1:] == b"\n")
    assert shell.vault.reveal("default", "openai") == kept


async def test_values_that_are_none(shell: Shell) -> None:
    for typed, said in ((b"", "is empty"), (b"\n", "is empty"), (b"\xff" * 20, "not UTF-8"), (b"short", "5 bytes")):
        status, _, err = await shell.run("set", "openai", stdin=typed)
        assert status == 1
        assert said in err
    assert shell.vault.secrets("default") == []


async def test_there_is_no_argument_for_the_value(shell: Shell) -> None:
    status, _, err = await shell.run("set", "openai", VALUE)
    assert status == 2
    assert "unexpected extra argument" in err
    status, out, _ = await shell.run("set", "--help")
    assert "--value" not in out


async def test_ls_and_rm(shell: Shell) -> None:
    assert await shell.run("ls") == (0, "", "no secrets\n")
    for name in ("openai", "github"):
        shell.vault.set("default", name, VALUE, by="ada")
    status, out, _ = await shell.run("ls")
    heading, *lines = out.splitlines()
    assert heading.split() == ["NAME", "VERSION", "SET", "BY", "LINKS"]
    assert [line.split()[0] for line in lines] == ["github", "openai"]
    status, out, _ = await shell.run("ls", "--json")
    assert [(each["name"], each["set_by"], each["links"]) for each in json.loads(out)] == [
        ("github", "ada", []),
        ("openai", "ada", []),
    ]
    assert VALUE not in out
    assert await shell.run("rm", "github", "openai") == (0, "removed github\nremoved openai\n", "")
    status, _, err = await shell.run("rm", "github")
    assert status == 1
    assert "is not set" in err
    with pytest.raises(NotFound):
        shell.vault.reveal("default", "openai")


async def test_only_an_administrator(shell: Shell) -> None:
    for roles in ([], ["viewer"], ["operator"], ["deployer"]):
        shell.token = shell.served.authority.mint("default", "eve", roles, 3600)
        for words in (("ls",), ("rm", "openai"), ("rotate",), ("set", "openai")):
            status, _, err = await shell.run(*words, stdin=VALUE.encode())
            assert status == 4, (roles, words)
            assert "admin" in err
    shell.token = shell.served.authority.mint("default", "eve", ["admin"], 3600, namespaces=["default"])
    status, _, err = await shell.run("ls")
    assert status == 4
    assert "only for some of its namespaces" in err
    assert shell.vault.secrets("default") == []


async def test_rotate_says_what_to_do_where_it_cannot(shell: Shell) -> None:
    status, _, err = await shell.run("rotate")
    assert status == 1
    assert "PLEXSPACES_SECRETS_PREVIOUS_KEY" in err


async def test_reset_needs_a_stopped_node_and_an_answer(shell: Shell, tmp_path: Path) -> None:
    status, _, err = await shell.run("reset", "--data-dir", str(tmp_path), "--yes")
    assert status == 1
    assert "there is no database" in err
