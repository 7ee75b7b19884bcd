"""The README's quick start, as printed: its shell blocks are run by bash against a node that `make run` has started.

Two things differ from a user's terminal, and both are said here.  The node listens on a free port, so `localhost:8080`
is replaced by it in every block.  And the environment that `make run` would make is the one these tests run in: `.venv`
is a link to it, and `make` is told that it is there.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.guest
ROOT = Path(__file__).resolve().parents[2]
PREFIX = Path(sys.prefix)
# What stands in the README for text that differs from one run to the next.
ANYTHING = "…"


@dataclass(frozen=True, slots=True)
class Block:
    """A shell block of the README, and what it shows as printed."""

    commands: str
    shown: str


def quick_start() -> list[Block]:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Quick start\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^```sh\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", section, re.DOTALL | re.MULTILINE)
    return [Block(commands, shown) for commands, shown in found]


@dataclass(frozen=True, slots=True)
class Terminal:
    """A shell's folder and environment, beside the node that listens on `port`."""

    folder: Path
    env: dict[str, str]
    port: str

    def run(self, blocks: list[Block]) -> list[str]:
        """Run the blocks in one shell, which ends at the first failure; what each printed."""
        mark = "-- the next block --"
        script = f"\necho; echo '{mark}'\n".join(block.commands for block in blocks)
        script = script.replace("localhost:8080", f"localhost:{self.port}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=80,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout.split(mark)


def environment(data_dir: Path) -> dict[str, str]:
    """A plain one: nothing of ours but the cache of compiled components, and the commands on no path."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PLEXSPACES_", "VIRTUAL_ENV"))}
    if cache := os.environ.get("PLEXSPACES_CACHE_DIR"):
        kept["PLEXSPACES_CACHE_DIR"] = cache
    path = [part for part in kept["PATH"].split(os.pathsep) if Path(part) != PREFIX / "bin"]
    return {**kept, "PATH": os.pathsep.join(path), "PLEXSPACES_DATA_DIR": str(data_dir), "PLEXSPACES_PORT": "0"}


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    (tmp_path / ".venv").symlink_to(PREFIX)
    shutil.copytree(ROOT / "apps", tmp_path / "apps", ignore=shutil.ignore_patterns("*.wasm", "__pycache__"))
    env = environment(tmp_path / "data")
    first = quick_start()[0].commands.split()
    assert first == ["make", "run"]
    # In a session of its own, so that Ctrl-C can be sent to all of it, as a terminal does.
    made = ["-o", str(PREFIX / ".ready"), f"VENV={PREFIX}"]
    node = subprocess.Popen(
        [*first, *made], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert node.stderr is not None
    said: list[str] = []
    try:
        for line in node.stderr:
            said.append(line)
            if "the example is ready" in line or line.startswith("error:"):
                break
        text = "".join(said)
        assert "the example is ready" in text, text
        listening = re.search(r"listening on +http://127\.0\.0\.1:(\d+)", text)
        assert listening, text
        assert "deployed counter" in text, text
        # `make` finds the commands by their full name, the next terminal does not.
        assert f'export PATH="{PREFIX}/bin:$PATH"' in node.stderr.readline()
        yield Terminal(tmp_path, env, listening[1])
        os.killpg(node.pid, signal.SIGINT)
        rest = node.stderr.read()
        node.wait(30)
        assert "stopped" in rest, rest
    finally:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait(30)
        node.stderr.close()


def shows(printed: str, shown: str) -> None:
    """Every line that the README shows was printed, in order; between them may be what goes to a terminal only."""
    at = 0
    for line in shown.splitlines():
        pattern = ".*".join(re.escape(part) for part in line.split(ANYTHING))
        match = re.compile(pattern).search(printed, at)
        assert match, f"the README shows\n  {line}\nand this was printed:\n{printed}"
        at = match.end()


def test_the_quick_start_as_printed(terminal: Terminal) -> None:
    _, *blocks = quick_start()
    assert len(blocks) >= 4
    for block, printed in zip(blocks, terminal.run(blocks), strict=True):
        assert block.shown, f"the README shows nothing for\n{block.commands}"
        shows(printed, block.shown)


def test_make_knows_its_targets() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = sorted(set(re.findall(r"^make (\w+)", readme, re.MULTILINE)))
    assert {"run", "demo", "test", "check"} <= set(targets)
    done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    for command in (
        "plexspaces serve --example app-config.toml",
        "scripts/demo",
        "pytest",
        "ruff check",
        "mypy",
        "lint-imports",
    ):
        assert command in done.stdout


def test_continuous_integration_runs_what_make_test_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.rstrip().endswith("exec make test")
