"""A whole node is killed with -9 again and again while clients write through an actor: nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.guest
CLI = [sys.executable, "-m", "plexspaces_runtime.cli"]
KILLS = int(os.environ.get("PLEXSPACES_NODE_KILLS", "4"))
CLIENTS = 4


class Life:
    """One life of a node."""

    def __init__(self, data_dir: Path, wasm: Path) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PLEXSPACES_") or k == "PLEXSPACES_CACHE_DIR"}
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [*CLI, "serve", "--port", "0", "--deploy", f"{wasm}=ledger"],
            env={
                **clean,
                "PLEXSPACES_DATA_DIR": str(data_dir),
                # Here a stream that gets a lot is no runaway.
                "PLEXSPACES_LIMITS_STREAM_EVENTS_PER_SECOND_MAX": "1000000",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        lines = []
        deployed = False
        for line in self.process.stderr:
            lines.append(line)
            # The first life deploys it, the others bring it back.
            deployed = deployed or "deployed ledger" in line or "restored ledger" in line
            if "listening on" in line:
                self.url = line.split()[-1]
            if deployed and hasattr(self, "url"):
                break
        else:
            raise AssertionError("".join(lines))
        # Whoever does not read on lets it wait for a full pipe.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.token = (data_dir / "token").read_text().strip()

    def ask(self, op: str, **arguments: Any) -> Any:
        request = urllib.request.Request(
            f"{self.url}/api/v1/actors/default/default/ledger?wait=20",
            json.dumps({"op": op, **arguments}).encode(),
            {"authorization": f"Bearer {self.token}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Callable[[Path], Life]]:
    lives: list[Life] = []

    def begin(wasm: Path) -> Life:
        lives.append(Life(tmp_path / "data", wasm))
        return lives[-1]

    yield begin
    for each in lives:
        each.kill()


def test_what_was_answered_is_there_after_each_kill(
    guest: Callable[[str], Path], life: Callable[[Path], Life]
) -> None:
    chance = random.Random(5)
    wasm = guest("ledger")
    answered: dict[str, dict[str, int]] = {}
    sent: set[str] = set()

    def client(node: Life, name: str) -> None:
        number = 0
        while True:
            entry = f"{name}-{number}"
            number += 1
            sent.add(entry)
            try:
                answered[entry] = node.ask("add", entry=entry)
            except (OSError, urllib.error.URLError):
                return

    for round_ in range(KILLS):
        node = life(wasm)
        before = len(answered)
        clients = [threading.Thread(target=client, args=(node, f"{round_}-{n}")) for n in range(CLIENTS)]
        for each in clients:
            each.start()
        while len(answered) == before:
            assert any(each.is_alive() for each in clients), "nobody was answered"
            time.sleep(0.001)
        time.sleep(chance.random() * 0.5)
        node.kill()
        for each in clients:
            each.join()
    found = life(wasm).ask("audit")
    entries, events = found["entries"], found["events"]
    # Everything that was answered is there, with the very numbers that were answered.
    for entry, reply in answered.items():
        assert entries[entry] == reply["total"]
        assert events[reply["offset"] - 1] == [reply["offset"], entry, reply["total"]]
    assert set(entries) <= sent
    # What was under way may be there or not, but never out of order: each write follows the one before it.
    assert len(entries) <= found["total"] <= len(sent)
    assert [offset for offset, _, _ in events] == list(range(1, len(events) + 1))
    assert len(entries) >= len(events) >= len(answered)
    totals = [total for _, _, total in events]
    assert totals == sorted(set(totals))
    assert len(answered) > KILLS * 10
