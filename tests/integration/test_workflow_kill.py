"""A whole node is killed with -9 in the middle of runs: each goes on, and every step is done once."""

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
KILLS = int(os.environ.get("PLEXSPACES_WORKFLOW_KILLS", "4"))


class Life:
    """One life of a node; the first one deploys."""

    def __init__(self, data_dir: Path, wasm: Path | None) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PLEXSPACES_") or k == "PLEXSPACES_CACHE_DIR"}
        roles = ("ledger", "trip", "chain") if wasm is not None else ()
        deploy = [word for role in roles for word in ("--deploy", f"{wasm}={role}")]
        self.process = subprocess.Popen(
            [*CLI, "serve", "--port", "0", *deploy],
            env={**clean, "PLEXSPACES_DATA_DIR": str(data_dir)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        lines = []
        url = ""
        missing = len(roles)
        for line in self.process.stderr:
            lines.append(line)
            if "listening on" in line:
                url = line.split()[-1]
            if '"ComponentDeployed"' in line:
                missing -= 1
            if url and missing <= 0:
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

    def seen(self) -> list[str]:
        seen: list[str] = self.call("POST", "actors/default/default/ledger?wait=20", {"op": "seen"})
        return seen

    def until(self, workflow: str, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + 30
        while True:
            run: dict[str, Any] = self.call("GET", f"workflows/{workflow}")
            if good(run):
                return run
            assert time.monotonic() < end, run
            time.sleep(0.01)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Callable[..., Life]]:
    lives: list[Life] = []

    def begin(wasm: Path | None = None) -> Life:
        lives.append(Life(tmp_path / "data", wasm))
        return lives[-1]

    yield begin
    for each in lives:
        each.kill()


def test_runs_that_are_killed_again_and_again_do_every_step_once(
    guest: Callable[[str], Path], life: Callable[..., Life]
) -> None:
    chance = random.Random(7)
    node = life(guest("workflows"))
    chains = [f"chain/{number}" for number in range(5)]
    for chain in chains:
        assert node.call("POST", f"workflows/{chain}", {"steps": 40, "nap_s": 0.01})["status"] == "running"
    for _ in range(KILLS):
        time.sleep(0.05 + chance.random() * 0.2)
        node.kill()
        node = life()
    for chain in chains:
        run = node.until(chain, lambda run: run["status"] != "running")
        assert (run["status"], run["steps_done"]) == ("completed", 40)
        assert run["result"] == [f"{chain} {step} done" for step in range(40)]
    seen = node.seen()
    for chain in chains:
        assert [each for each in seen if each.startswith(f"{chain} ")] == [f"{chain} {step}" for step in range(40)]


def test_what_was_accepted_for_a_run_that_waits_survives(
    guest: Callable[[str], Path], life: Callable[..., Life]
) -> None:
    node = life(guest("workflows"))
    node.call("POST", "workflows/trip/lisbon", {"city": "Lisbon", "boss": True, "approval": True, "night_s": 3})
    node.until("trip/lisbon", lambda run: run["waits_for"].startswith("promise "))
    node.call("POST", "workflows/trip/lisbon/signals/approve", {"by": "ada"})
    node.kill()
    node = life()
    # In the middle of waiting for somebody; queries are answered as if nothing had been.
    node.until("trip/lisbon", lambda run: run["waits_for"].startswith("promise "))
    assert node.call("GET", "workflows/trip/lisbon/queries/stage") == "boss"
    (promise,) = node.call("GET", "promises?resolved=false")["promises"]
    node.call("POST", f"promises/{promise['id']}", {"yes": 1})
    node.kill()
    node = life()
    # In the middle of the night, which is not longer for it.
    slept = time.monotonic()
    node.until("trip/lisbon", lambda run: run["waits_for"] == "sleep")
    node.kill()
    node = life()
    run = node.until("trip/lisbon", lambda run: run["status"] != "running")
    assert run["result"] == {"booked": ["flight Lisbon done", "hotel done", "car done"], "approved": "ada"}
    assert time.monotonic() - slept < 20
    assert node.seen() == ["flight Lisbon", "hotel", "car"]
    # Cancelled, and killed before it heard.
    node.call("POST", "workflows/trip/porto", {"city": "Porto", "night_s": 600})
    node.until("trip/porto", lambda run: run["waits_for"] == "sleep")
    node.call("POST", "workflows/trip/porto/cancel", {"reason": "ill"})
    node.kill()
    node = life()
    run = node.until("trip/porto", lambda run: run["status"] != "running")
    assert (run["status"], run["error"]["message"]) == ("cancelled", "ill")
    assert node.seen()[3:] == ["flight Porto", "cancel flight"]
    with pytest.raises(urllib.error.HTTPError, match="409"):
        node.call("POST", "workflows/trip/porto/cancel")
