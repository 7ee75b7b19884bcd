"""SECURITY.md shows what it claims: each row names tests that exist, or is a limit that is stated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| what |")
]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
# What nobody prevents: each is an admission, not a claim.
ADMITTED = ("can notice how busy", "can talk the guest into", "`plexspaces build` imports")


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_a_test_that_is_named_is_there(file: str, name: str) -> None:
    assert re.search(rf"^\s*(?:async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_claim_is_shown_by_a_test(row: list[str]) -> None:
    what, shown = row
    assert re.search(r"`tests/[\w/]+\.py::\w+`", shown) or what.startswith(ADMITTED)


def test_every_suite_of_attacks_shows_something() -> None:
    files = {f"tests/security/{each.name}" for each in (ROOT / "tests" / "security").glob("test_*.py")}
    assert files - {file for file, _ in NAMED} == set()
