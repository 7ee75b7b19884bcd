"""A node is killed with -9 while it deploys, upgrades, undeploys and stops: after each restart, by itself, what runs is
what was acknowledged, or what was under way."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.guest
CLI = [sys.executable, "-m", "plexspaces_runtime.cli"]
KILLS = int(os.environ.get("PLEXSPACES_NODE_KILLS", "6"))
TYPES = ("red", "green", "blue")
ACTORS = "/api/v1/actors/default/default"
CHILD = """
[[supervisor.children]]
name = "{name}"
actor_type = "code"
"""
APPLICATION = """
[application]
name = "shop"

[[components]]
name = "code"
path = "code.wasm"

[supervisor]
strategy = "one_for_one"

[[supervisor.children]]
name = "branch"
[supervisor.children.supervisor]
strategy = "one_for_all"

[[supervisor.children.supervisor.children]]
name = "packer"
actor_type = "code"
"""


class Life:
    """One life of a node, to which nobody deploys anything at its start."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PLEXSPACES_") or k == "PLEXSPACES_CACHE_DIR"}
        self.process = subprocess.Popen(
            [*CLI, "serve", "--port", "0", *arguments],
            env={**clean, "PLEXSPACES_DATA_DIR": str(data_dir)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.lines = []
        for line in self.process.stderr:
            self.lines.append(line)
            if "listening on" in line:
                break
        else:
            raise AssertionError("".join(self.lines))
        url = self.lines[-1].split()[-1]
        # Whoever does not read on lets it wait for a full pipe.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        token = (data_dir / "token").read_text().strip()
        self.http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Callable[..., Life]]:
    lives: list[Life] = []

    def begin(*arguments: str) -> Life:
        lives.append(Life(tmp_path / "data", *arguments))
        return lives[-1]

    yield begin
    for each in lives:
        each.kill()
        each.http.close()


@dataclass(frozen=True)
class Seen:
    """What a node has: versions by name, and the actors that live."""

    types: dict[str, int] = field(default_factory=dict)
    application: int = 0
    children: frozenset[str] = frozenset()
    stopped: frozenset[str] = frozenset()


def seen(node: Life) -> Seen:
    """After a restart, by what it answers."""
    deployed = {each["actor_type"]: each for each in node.http.get("/api/v1/deployments").json()["deployments"]}
    applications = node.http.get("/api/v1/applications").json()["applications"]
    assert all(each["state"] == "running" for each in applications)
    living = {each["type"] for each in node.http.get("/api/v1/actors").json()["actors"]}
    for name in living:
        assert node.http.get(f"{ACTORS}/{name}?op=audit").json()["total"] == 0, "it answers"
    assert living <= deployed.keys()
    return Seen(
        types={name: each["version"] for name, each in deployed.items() if name in TYPES},
        application=applications[0]["version"] if applications else 0,
        children=frozenset(name for name in deployed if name not in TYPES),
        stopped=frozenset(name for name in TYPES if name in deployed and name not in living),
    )


Step = tuple[Seen, Callable[[Life], httpx.Response]]


class Operator:
    """Deploys, upgrades, undeploys and stops, one after the other, and remembers what was acknowledged."""

    def __init__(self, wasm: bytes, chance: random.Random) -> None:
        self.wasm = wasm
        self.chance = chance
        self.acknowledged = Seen()
        # What it will be if the one under way gets through.
        self.under_way: Seen | None = None
        self.done = 0

    def work(self, node: Life) -> None:
        with contextlib.suppress(httpx.TransportError):
            while True:
                after, do = self.step()
                self.under_way = after
                response = do(node)
                assert response.status_code < 300, response.text
                self.acknowledged, self.under_way = after, None
                self.done += 1

    def step(self) -> Step:
        now, name = self.acknowledged, self.chance.choice(TYPES)
        match self.chance.choice(["deploy", "deploy", "undeploy", "stop", "application", "withdraw"]):
            case "undeploy" if name in now.types:
                types = {each: version for each, version in now.types.items() if each != name}
                stays = replace(now, types=types, stopped=now.stopped - {name})
                return stays, lambda node: node.http.delete(f"/api/v1/deployments/default/{name}")
            case "stop" if name in now.types and name not in now.stopped:
                stopped = replace(now, stopped=now.stopped | {name})
                return stopped, lambda node: node.http.delete(f"{ACTORS}/{name}")
            case "application":
                return self.application()
            case "withdraw" if now.application:
                gone = replace(now, application=0, children=frozenset())
                return gone, lambda node: node.http.delete("/api/v1/applications/shop")
            case _:
                types = {**now.types, name: now.types.get(name, 0) + 1}
                return replace(now, types=types, stopped=now.stopped - {name}), lambda node: self.deploy(node, name)

    def deploy(self, node: Life, name: str) -> httpx.Response:
        form = {"namespace": "default", "actor_type": name}
        return node.http.post("/api/v1/deploy", data=form, files={"wasm": (name, self.wasm)})

    def application(self) -> Step:
        extra = {f"child{number}" for number in range(3) if self.chance.random() < 0.5}
        config = APPLICATION + "".join(CHILD.format(name=name) for name in sorted(extra))
        after = replace(
            self.acknowledged,
            application=self.acknowledged.application + 1,
            children=frozenset({"packer", *extra}),
        )
        files: dict[str, Any] = {"code": ("code.wasm", self.wasm)}
        return after, lambda node: node.http.post("/api/v1/applications", data={"config": config}, files=files)


def test_what_was_acknowledged_runs_after_each_kill(
    guest: Callable[[str], Path], life: Callable[..., Life], tmp_path: Path
) -> None:
    chance = random.Random(7)
    operator = Operator(guest("ledger").read_bytes(), chance)
    components = tmp_path / "data" / "components"
    for round_ in range(KILLS + 1):
        node = life()
        found = seen(node)
        possible = [operator.acknowledged, *([operator.under_way] if operator.under_way is not None else [])]
        assert found in possible, f"round {round_}"
        operator.acknowledged, operator.under_way = found, None
        kept = list(components.iterdir()) if components.exists() else []
        assert len(kept) == bool(found.types or found.application), "one component, if anything needs it"
        before = operator.done
        client = threading.Thread(target=operator.work, args=(node,))
        client.start()
        while operator.done < before + 2:
            assert client.is_alive(), "the operator has stopped"
            time.sleep(0.001)
        time.sleep(chance.random() * 0.4)
        node.kill()
        client.join()
    assert operator.done >= 2 * KILLS


def test_serve_with_a_file_leaves_what_is_the_same_and_changes_what_differs(
    guest: Callable[[str], Path], life: Callable[..., Life], tmp_path: Path
) -> None:
    (tmp_path / "code.wasm").write_bytes(guest("ledger").read_bytes())
    config = tmp_path / "app-config.toml"

    def running(node: Life, version: int) -> dict[str, Any]:
        while True:
            answer = node.http.get("/api/v1/applications/shop").json()
            if answer.get("version") == version and answer.get("state") == "running":
                return dict(answer)
            assert node.process.poll() is None
            time.sleep(0.005)

    config.write_text(APPLICATION + CHILD.format(name="child0"))
    node = life(str(config))
    assert running(node, 1)["actors"] == 2
    assert node.http.delete(f"{ACTORS}/child0").status_code == 204
    node.kill()
    node = life(str(config))
    assert running(node, 1)["actors"] == 1, "the same file starts nothing that an operator has stopped"
    node.kill()
    config.write_text(APPLICATION + CHILD.format(name="child0") + CHILD.format(name="child1"))
    node = life(str(config))
    assert running(node, 2)["changes"] == ["started child1"]
    assert running(node, 2)["actors"] == 3
