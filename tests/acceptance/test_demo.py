"""`make demo`: it ends well where everything is as it should be, and says what is not where it is not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.guest
ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_the_demo_as_make_runs_it() -> None:
    ready = Path(sys.prefix, ".ready")
    done = run("make", "demo", "-o", str(ready), f"VENV={sys.prefix}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n12. Health" in done.stdout
    assert re.search(r"^All as it should be, in \d+ seconds\.", done.stdout, re.MULTILINE)
    # Who reads it sees what came, not only that it was right.
    for shown in ('← calculator {"result": 42}', "run_python says", "5050", "belongs to somebody else"):
        assert shown in done.stdout


def test_the_demo_says_what_is_not_as_it_should_be(tmp_path: Path) -> None:
    """Without its calculator MiniClaw runs, and cannot calculate."""
    text = (ROOT / "app-config.toml").read_text(encoding="utf-8")
    parts = text.split("[[supervisor.children]]\n")
    kept = [part for part in parts if not part.startswith('name = "calculator"')]
    assert len(kept) == len(parts) - 1
    app = tmp_path / "app-config.toml"
    app.write_text("[[supervisor.children]]\n".join(kept), encoding="utf-8")
    os.symlink(ROOT / "apps", tmp_path / "apps")
    done = run(sys.executable, "scripts/demo", "--app", str(app))
    assert done.returncode == 1, done.stdout
    assert "The demo failed in step 3: the answer to 'calculate (3 + 4) * 6' was to hold '42'" in done.stderr
    assert "calculator is not running" in done.stderr
