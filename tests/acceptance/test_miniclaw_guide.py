"""docs/miniclaw.md as printed: its own tool, curl and OpenAI's library, against the shipped application."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .claw import ROOT, Claw

pytestmark = pytest.mark.guest
GUIDE = (ROOT / "docs" / "miniclaw.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def claw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Claw]:
    folder = tmp_path_factory.mktemp("guide")
    text = (ROOT / "app-config.toml").read_text(encoding="utf-8")
    made = Claw(folder / "data", text.replace('"apps/miniclaw"', f'"{ROOT / "apps" / "miniclaw"}"'))
    # Without a key the simulated model answers, as it does for whoever reads the guide.
    made.http("DELETE", "/api/v1/secrets/openai")
    yield made
    made.end()


def block(language: str, holds: str) -> str:
    """The one block of a language that holds a text."""
    (found,) = [each for each in re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.S | re.M) if holds in each]
    return str(found)


def shell(claw: Claw, script: str, folder: Path) -> str:
    path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**claw.env, "PATH": path, "PLEXSPACES_URL": claw.url, "PLEXSPACES_TOKEN": claw.token}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace("http://localhost:8080", claw.url)],
        cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_tool_of_ones_own(claw: Claw, tmp_path: Path) -> None:
    source = block("python", "class Dice")
    (tmp_path / "dice_actor.py").write_text(source, encoding="utf-8")
    printed = shell(claw, block("sh", "register_tool"), tmp_path).splitlines()
    assert printed[-1] in ('{"result": 1}', '{"result": 2}')
    refused = claw.ask("tool_registry", "execute_tool", name="dice", input={"sides": 1})
    assert refused["code"] == "invalid-input"
    assert "dice" in [tool["name"] for tool in claw.ask("tool_registry/any", "list_tools")["tools"]]


def test_curl(claw: Claw, tmp_path: Path) -> None:
    assert '"content":"[simulated] calculator says: 42"' in shell(claw, block("sh", "/v1/chat/completions"), tmp_path)


def test_openais_library(claw: Claw, tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text(block("python", "openai.OpenAI"), encoding="utf-8")
    assert shell(claw, f"{sys.executable} client.py", tmp_path) == "[simulated] calculator says: 42"
