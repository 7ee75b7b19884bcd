"""A node that pays through a bank outside is killed with -9 again and again: of ten payments the bank sees ten, or
eleven of which two have the same key."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.guest
CLI = [sys.executable, "-m", "plexspaces_runtime.cli"]
KILLS = int(os.environ.get("PLEXSPACES_HTTP_KILLS", "4"))
RUNS = 4
STEPS = 10
CONFIG = """
[application]
name = "payments"

[[components]]
name = "code"
path = "WASM"

[links.bank]
base_url = "http://127.0.0.1:PORT"
allow = ["POST /pay/**"]
addresses = ["127.0.0.1"]
# What the node sends again by itself would have the same key as well: here only deaths are to be seen.
retries_max = 0

[supervisor]
children = [
  { name = "errands", actor_type = "code", role = "errands", capabilities = ["default", "http:bank"], facets = [
    { type = "virtual_actor" },
  ] },
  { name = "payer", actor_type = "code", role = "payer", capabilities = ["default", "http:bank"] },
]
"""


class Life:
    """One life of a node; the first one deploys."""

    def __init__(self, data_dir: Path, config: Path | None) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PLEXSPACES_") or k == "PLEXSPACES_CACHE_DIR"}
        self.process = subprocess.Popen(
            [*CLI, "serve", *([str(config)] if config else []), "--port", "0", "--egress-permit", "127.0.0.0/8"],
            env={**clean, "PLEXSPACES_DATA_DIR": str(data_dir)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        lines, url, ready = [], "", config is None
        for line in self.process.stderr:
            lines.append(line)
            url = line.split()[-1] if "listening on" in line else url
            ready = ready or '"ApplicationDeployed"' in line
            if url and ready:
                break
        else:
            raise AssertionError("".join(lines))
        self.url = url
        # Whoever does not read on lets it wait for a full pipe.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.token = (data_dir / "token").read_text().strip()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/api/v1/{path}",
            None if body is None else json.dumps(body).encode(),
            {"authorization": f"Bearer {self.token}", "content-type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def until(self, good: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not good():
            assert time.monotonic() < end
            time.sleep(0.01)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Life]]:
    lives: list[Life] = []

    def begin(config: Path | None = None) -> Life:
        lives.append(Life(tmp_path / "data", config))
        return lives[-1]

    yield begin
    for each in lives:
        each.kill()


@contextlib.contextmanager
def bank(seed: int) -> Iterator[int]:
    """The bank's port."""
    file = Path(__file__).parent / "bank.py"
    process = subprocess.Popen([sys.executable, str(file), str(seed)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait(30)


def seen(port: int) -> list[tuple[str, str]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as response:
        return [(path, key) for path, key in json.load(response)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ten_payments_are_ten_or_eleven_with_the_same_key(
    guest: Callable[[str], Path], begin: Callable[..., Life], tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    with bank(seed) as port:
        config = tmp_path / "app-config.toml"
        config.write_text(CONFIG.replace("PORT", str(port)).replace("WASM", str(guest("fetcher"))))
        node = begin(config)
        runs = [f"errands/{number}" for number in range(RUNS)]
        for run in runs:
            assert node.call("POST", f"workflows/{run}", {"steps": STEPS})["status"] == "running"
        node.call("POST", "actors/default/default/payer", {"op": "pay", "what": "rent", "times": STEPS})
        for _ in range(KILLS):
            time.sleep(0.01 + chance.random() * 0.1)
            node.kill()
            node = begin()
        for run in runs:
            node.until(lambda run=run: node.call("GET", f"workflows/{run}")["status"] != "running")  # type: ignore[misc]
            assert node.call("GET", f"workflows/{run}")["result"] == [
                f"/pay/{run}/{number} paid" for number in range(STEPS)
            ]
        paid = [f"/pay/rent/{number} paid" for number in range(STEPS)]
        node.until(lambda: bool(node.call("GET", "actors/default/default/payer") == paid))
        requests = seen(port)
    keys_of: dict[str, set[str]] = {}
    for path, key in requests:
        assert key
        keys_of.setdefault(path, set()).add(key)
    wanted = [f"/pay/{who}/{number}" for who in (*runs, "rent") for number in range(STEPS)]
    assert sorted(keys_of) == sorted(wanted)
    # Each payment has one key, whatever has died, and no two share one.
    assert [len(keys) for keys in keys_of.values()] == [1] * len(wanted)
    assert len(set.union(*keys_of.values())) == len(wanted)
    # Only what was under way when a node died was made again: of each actor one at most for each death.
    again: Counter[str] = Counter()
    for path, times in Counter(path for path, _ in requests).items():
        again[path.rpartition("/")[0]] += times - 1
    assert max(again.values()) <= KILLS
    assert len(requests) - len(wanted) <= KILLS * (RUNS + 1)
