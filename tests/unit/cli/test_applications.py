"""Commands for applications, trees and actors' lives, against the edge with a node in memory behind it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.deployment.status import ApplicationStatus, TreeNode
from plexspaces_runtime.scope import Address, Scope
from tests.unit.api.memory_node import MemoryNode, Served, serving

from .test_commands import Result, run

CONFIG = """\
[application]
name = "shop"

[[components]]
name = "code"
path = "code.wasm"

[supervisor]
[[supervisor.children]]
name = "orders"
actor_type = "code"

[[supervisor.children]]
name = "workers"
[supervisor.children.supervisor]
strategy = "rest_for_one"
[[supervisor.children.supervisor.children]]
name = "packer"
actor_type = "code"
[[supervisor.children.supervisor.children]]
name = "sorter"
actor_type = "code"
"""


class TroubledNode(MemoryNode):
    """Shows an application that waits for its next start, and an actor whose exit is written to do harm."""

    EXIT = "crashed(Error, \x1b[2J[bold]no\nsuch " + "row " * 100 + ")"

    def applications(self, tenant: str, namespace: str | None = None) -> list[ApplicationStatus]:
        next_start_ms = self.clock.now_ns() // 1_000_000 + 90_000
        return [
            replace(each, state="failed", last_exit="shutdown", next_start_ms=next_start_ms)
            for each in super().applications(tenant, namespace)
        ]

    def tree(self, tenant: str, namespace: str | None = None) -> list[TreeNode]:
        def troubled(node: TreeNode) -> TreeNode:
            children = tuple(troubled(child) for child in node.children)
            return replace(node, last_exit=self.EXIT if node.name == "packer" else "", restarts=7, children=children)

        return [troubled(root) for root in super().tree(tenant, namespace)]


@dataclass
class Running:
    """A server in a thread of its own: the commands block."""

    served: Served
    folder: Path

    @property
    def node(self) -> MemoryNode:
        return self.served.node

    @property
    def env(self) -> dict[str, str]:
        return {
            "PLEXSPACES_URL": f"http://127.0.0.1:{self.served.server.port}",
            "PLEXSPACES_TOKEN": self.served.token,
        }

    def run(self, *words: str) -> Result:
        return run(*words, env=self.env, cwd=self.folder)

    def configure(self, text: str = CONFIG) -> Path:
        file = self.folder / "app-config.toml"
        file.write_text(text, encoding="utf-8")
        return file


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    started: list[Served] = []
    ready, over = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    node = getattr(request, "param", MemoryNode)()

    async def serve() -> None:
        async with serving(node, HttpConfig(port=0)) as served:
            started.append(served)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    (tmp_path / "code.wasm").write_bytes(b"\0asm")
    yield Running(started[0], tmp_path)
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


def test_deploy_says_what_it_changed(running: Running) -> None:
    running.configure()
    first = running.run("deploy", "app-config.toml")
    assert first.status == 0, first.err
    assert first.out.splitlines() == [
        "deployed application shop, version 1 (running, 3 actors)",
        "  started orders",
        "  started packer",
        "  started sorter",
        "  try: plexspaces tree shop",
    ]
    assert "  nothing differed" in running.run("deploy", "app-config.toml").out
    running.configure(CONFIG.replace('"sorter"', '"binder"'))
    machine = running.run("deploy", "app-config.toml", "--json")
    assert json.loads(machine.out)["changes"] == ["stopped sorter", "started binder"]
    assert running.run("deploy", "app-config.toml", "-q").out == ""


def test_components_are_found_beside_the_file_wherever_one_stands(running: Running) -> None:
    file = running.configure()
    assert run("deploy", str(file), env=running.env, cwd=Path("/")).status == 0
    assert running.node.application("default", "shop").actors == 3


def test_a_dry_run_checks_and_sends_nothing(running: Running) -> None:
    running.configure()
    good = running.run("deploy", "app-config.toml", "--dry-run")
    assert good.out == "app-config.toml is in order: application shop in namespace default: 3 actors, 1 component\n"
    assert json.loads(running.run("deploy", "app-config.toml", "--dry-run", "--json").out) == {
        "application": "shop",
        "namespace": "default",
    }
    running.configure(CONFIG.replace("rest_for_one", "rest_of_one"))
    bad = running.run("deploy", "app-config.toml", "--dry-run")
    assert bad.status == 1
    assert "app-config.toml:16: supervisor.children[workers].supervisor.strategy: 'rest_of_one'" in bad.err
    assert running.node.applied == {}
    assert running.run("deploy", "code.wasm", "--dry-run").status == 2


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('path = "nowhere.wasm"', "components[code].path: there is no nowhere.wasm; path is relative to"),
        ('source = "nowhere"', "components[code].source: there is no nowhere"),
        ('source = "code.wasm"', "is built already; write path = 'code.wasm'"),
        ('path = "an_actor.py"', "is a source; write source = 'an_actor.py'"),
        ('path = "."', "a component that is to be built is given by source"),
    ],
)
def test_a_component_that_is_not_where_it_should_be(running: Running, written: str, expected: str) -> None:
    (running.folder / "an_actor.py").write_text("")
    running.configure(CONFIG.replace('path = "code.wasm"', written))
    result = running.run("deploy", "app-config.toml")
    assert result.status == 1
    assert f"app-config.toml:4: components[code].{written.split()[0]}: " in result.err
    assert expected in result.err
    assert running.node.applied == {}


def test_the_mistakes_of_all_sources_are_reported_at_once(running: Running, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (running.folder / f"{name}.py").write_text(f"import nowhere_{name}\nfrom plexspaces import actor\n")
    text = CONFIG.replace('path = "code.wasm"', 'source = "one.py"')
    running.configure(text.replace("[supervisor]\n", '[[components]]\nname = "b"\nsource = "two.py"\n[supervisor]\n'))
    env = {**running.env, "PLEXSPACES_CACHE_DIR": str(tmp_path / "cache")}
    result = run("deploy", "app-config.toml", env=env, cwd=running.folder)
    assert result.status == 1
    assert "one.py:1: error: imports nowhere_one" in result.err
    assert "two.py:1: error: imports nowhere_two" in result.err
    assert running.node.applied == {}


def test_a_file_that_cannot_be_read(running: Running) -> None:
    missing = running.run("deploy", "other.toml")
    assert (missing.status, "other.toml: cannot be read" in missing.err) == (1, True)
    (running.folder / "other.toml").write_bytes(b"\xff")
    assert "is not UTF-8" in running.run("deploy", "other.toml").err
    assert "is not UTF-8" in running.run("serve", "other.toml", "--data-dir", str(running.folder / "data")).err
    assert not (running.folder / "data").exists()


@pytest.mark.parametrize("option", [("-n", "x"), ("--type", "x"), ("--config", "{}")])
def test_what_the_file_says_is_not_said_again(running: Running, option: tuple[str, str]) -> None:
    running.configure()
    result = running.run("deploy", "app-config.toml", *option)
    assert result.status == 2
    assert "for one actor type" in result.err
    # The environment's namespace is a default, and no contradiction.
    env = {**running.env, "PLEXSPACES_NAMESPACE": "other"}
    assert run("deploy", "app-config.toml", env=env, cwd=running.folder).status == 0
    assert running.node.application("default", "shop").scope.namespace == "default"


def test_the_nodes_refusal_is_told_with_every_line(running: Running) -> None:
    running.configure(CONFIG + "limits = { memory_bytes_max = 100_000_000 }\n")
    result = running.run("deploy", "app-config.toml", "--json")
    assert result.status == 1
    issues = json.loads(result.err)["error"]["details"]["issues"]
    assert ["app-config.toml:23" in issue and "more than the node allows" in issue for issue in issues] == [True]


def test_apps_lists_and_shows(running: Running) -> None:
    assert "plexspaces deploy app-config.toml" in running.run("apps").err
    running.configure()
    running.run("deploy", "app-config.toml")
    table = [line.split() for line in running.run("apps").out.splitlines()]
    assert table == [
        ["NAME", "NAMESPACE", "STATE", "VERSION", "ACTORS", "RESTARTS", "LAST", "EXIT"],
        ["shop", "default", "running", "1", "3", "0"],
    ]
    assert running.run("apps", "-n", "other").out == ""
    details = dict(line.split(maxsplit=1) for line in running.run("apps", "shop").out.splitlines())
    assert details["state"] == "running"
    assert details["component"].startswith("code  sha256:")
    assert details["last"].split(maxsplit=1) in (["deployment", "started orders, started packer, started sorter"],)
    assert json.loads(running.run("apps", "shop", "--json").out)["name"] == "shop"
    nobody = running.run("apps", "nobody")
    assert (nobody.status, "plexspaces apps" in nobody.err) == (1, True)


@pytest.mark.parametrize("running", [TroubledNode], indirect=True)
def test_a_failed_application_says_when_it_starts_again(running: Running) -> None:
    running.configure()
    running.run("deploy", "app-config.toml")
    line = running.run("apps").out.splitlines()[1]
    assert "failed, again in 90 s" in line or "failed, again in 89 s" in line


def test_the_tree_where_nobody_looks(running: Running) -> None:
    assert "nothing is deployed" in running.run("tree").err
    running.configure()
    running.run("deploy", "app-config.toml")
    (running.folder / "lone.wasm").write_bytes(b"\0asm")
    running.run("deploy", "lone.wasm", "-n", "two")
    running.run("stop", "packer")
    lines = running.run("tree").out.splitlines()
    assert [line[: len("|  |- packer  stopped")].rstrip() for line in lines[1:]] == [
        "default/shop  running",
        "|- orders     idle",
        "`- workers    running",
        "   |- packer  stopped",
        "   `- sorter  idle",
        "two/lone      running",
        "`- lone       idle",
    ]
    assert "supervisor, rest_for_one" in lines[3]
    assert "0 of 10" in lines[3]
    assert len(running.run("tree", "shop").out.splitlines()) == 6
    assert len(running.run("tree", "-n", "two").out.splitlines()) == 3
    (root,) = json.loads(running.run("tree", "lone", "--json").out)["tree"]
    assert (root["name"], root["namespace"]) == ("lone", "two")
    nobody = running.run("tree", "nobody")
    assert (nobody.status, nobody.out) == (1, "")


def on_a_terminal(running: Running, *words: str, columns: int) -> list[str]:
    """What the command writes to a terminal, without its colours."""
    controller, terminal = pty.openpty()
    env = {**os.environ, **running.env, "TERM": "xterm-256color", "COLUMNS": str(columns)}
    command = [sys.executable, "-m", "plexspaces_runtime.cli", *words]
    with subprocess.Popen(command, stdout=terminal, stdin=terminal, env=env) as process:
        os.close(terminal)
        output = b""
        while chunk := _read(controller):
            output += chunk
    os.close(controller)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", output.decode()).splitlines()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:
        # How Linux says that the other end is closed.
        return b""


@pytest.mark.parametrize("running", [TroubledNode], indirect=True)
def test_the_tree_on_a_terminal(running: Running) -> None:
    running.configure()
    running.run("deploy", "app-config.toml")
    wide = on_a_terminal(running, "tree", columns=140)
    assert [line[:14].rstrip() for line in wide] == [
        "TREE",
        "default/shop",
        "├─ orders",
        "└─ workers",
        "   ├─ packer",
        "   └─ sorter",
    ]
    # One line each, whatever an actor has written, and nothing of it steers the terminal.
    assert max(map(len, wide)) <= 140
    assert "crashed(Error, �[2J[bold]no such row" in wide[4]
    assert wide[4].rstrip().endswith("…")
    plain = running.run("tree").out
    assert "\x1b" not in plain
    assert len(plain.splitlines()) == 6
    assert plain.splitlines()[4].endswith("…")
    assert max(map(len, plain.splitlines())) < 300


LONG = """\
[application]
name = "general-assistant"
[[components]]
name = "code"
path = "code.wasm"
[supervisor]
[[supervisor.children]]
name = "conversation-memory"
[supervisor.children.supervisor]
strategy = "rest_for_one"
[[supervisor.children.supervisor.children]]
name = "process-group-registry"
actor_type = "code"
[[supervisor.children.supervisor.children]]
name = "packer"
actor_type = "code"
"""


@pytest.mark.parametrize("running", [TroubledNode], indirect=True)
def test_names_states_and_exits_can_be_read_on_a_terminal_of_80_columns(running: Running) -> None:
    running.configure(LONG)
    (running.folder / "code.wasm").write_bytes(b"\0asm")
    running.run("deploy", "app-config.toml")
    heading, *lines, note = on_a_terminal(running, "tree", columns=80)
    assert heading.split() == ["TREE", "STATE", "RESTARTS", "LAST", "EXIT"]
    assert [line.split("  ")[0] for line in lines[:2]] == ["default/general-assistant", "└─ conversation-memory"]
    assert lines[2].startswith("   ├─ process-group-registry  idle ")
    assert lines[3].startswith("   └─ packer                  idle ")
    # The first 24 characters of a long exit at least.
    assert "crashed(Error, �[2J[bold" in lines[3]
    assert max(map(len, [heading, *lines, note])) <= 80
    assert note.rstrip() == "no room for KIND, HANDLED, WINDOW, MAILBOX: --json has all, a wider terminal too"
    wide = on_a_terminal(running, "tree", columns=160)
    assert wide[0].split() == ["TREE", "STATE", "KIND", "RESTARTS", "WINDOW", "MAILBOX", "HANDLED", "LAST", "EXIT"]
    assert not any("no room" in line for line in wide)


def test_an_actor_is_stopped_killed_and_restarted(running: Running) -> None:
    address = Address(Scope("default", "default"), "counter")
    assert running.run("kill", "counter").out == "killed counter\n"
    assert address not in running.node.living
    assert running.node.ends == [(address, True)]
    assert running.run("restart", "counter").out == "restarted counter\n"
    assert address in running.node.living
    running.node.spawn(Address(address.scope, "counter", "a@b"))
    assert running.run("stop", "counter/a@b").out == "stopped counter/a@b\n"
    assert running.node.ends[-1] == (Address(address.scope, "counter", "a@b"), False)
    assert json.loads(running.run("restart", "counter/a@b", "--json").out) == {"restarted": "counter/a@b"}
    assert json.loads(running.run("kill", "counter/a@b", "--json").out) == {"killed": "counter/a@b"}
    nobody = running.run("restart", "nobody")
    assert (nobody.status, "plexspaces ps" in nobody.err) == (1, True)


def test_an_application_is_restarted(running: Running) -> None:
    running.configure()
    running.run("deploy", "app-config.toml")
    assert running.run("restart", "--app", "shop").out == "restarted application shop (running, 3 actors)\n"
    assert running.node.application("default", "shop").restarts == 1
    assert json.loads(running.run("restart", "--app", "shop", "--json").out)["restarts"] == 2
    assert running.run("restart").status == 2
    assert running.run("restart", "counter", "--app", "shop").status == 2


def test_undeploy_takes_what_is_meant(running: Running) -> None:
    running.configure()
    running.run("deploy", "app-config.toml")
    assert running.run("undeploy", "shop").out == "undeployed application shop\n"
    assert running.node.applied == {}
    running.run("deploy", "app-config.toml")
    (running.folder / "shop.wasm").write_bytes(b"\0asm")
    running.run("deploy", "shop.wasm")
    both = running.run("undeploy", "shop")
    assert both.status == 1
    assert "plexspaces undeploy shop --app, or plexspaces undeploy shop --type -n default" in both.err
    assert running.node.applied
    assert running.node.deployed
    # In another namespace there is only the application of this name.
    assert running.run("undeploy", "shop", "--type").out == "undeployed default/shop\n"
    assert running.run("undeploy", "shop", "--app").out == "undeployed application shop\n"
    assert running.run("undeploy", "shop").status == 1


def test_an_actor_of_an_application_is_no_other_meaning_of_its_name(running: Running) -> None:
    running.configure(CONFIG.replace('"orders"', '"shop"'))
    running.run("deploy", "app-config.toml")
    assert running.run("undeploy", "shop").out == "undeployed application shop\n"


@pytest.mark.parametrize(
    ("typed", "expected"), [("und", "undeploy"), ("tre", "tree"), ("kil", "kill"), ("app", "apps")]
)
def test_the_shell_completes_commands(typed: str, expected: str) -> None:
    env: dict[str, str] = {
        **os.environ,
        "_PLEXSPACES_COMPLETE": "bash_complete",
        "COMP_WORDS": f"plexspaces {typed}",
        "COMP_CWORD": "1",
    }
    code = "from plexspaces_runtime.cli.app import cli; cli(prog_name='plexspaces')"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert f"plain,{expected}" in done.stdout.split(), done.stderr


def test_serve_checks_its_application_before_it_starts(tmp_path: Path) -> None:
    file = tmp_path / "app-config.toml"
    file.write_text(CONFIG.replace('"orders"', '"or ders"'))
    result = run("serve", str(file), "--data-dir", str(tmp_path / "data"))
    assert result.status == 1
    assert f"{file}:10: supervisor.children[or ders].name" in result.err
    assert not (tmp_path / "data").exists()
