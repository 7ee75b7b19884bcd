"""Node processes with durable actors are killed with -9 again and again: the end is as if they had never died.

The programs that the actors of `tests/guests/mesh.py` run are made so that a model can add up what they leave, whatever
the order: what each actor has in its state and its keys, and what they all have left in channels, streams, tuples and
dead letters.  A message that is lost makes that less, an effect that fires twice makes it more.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.durability import durable
from plexspaces_runtime.scope import Address, Scope
from plexspaces_runtime.stores.database import FILE
from plexspaces_runtime.stores.journal import JournalTable

pytestmark = pytest.mark.guest
CLI = [sys.executable, "-m", "plexspaces_runtime.cli"]
SCOPE = Scope("default", "default")
REQUESTS = 60
CLIENTS = 4
# How many programs are run; `make torture PROGRAMS=6000` runs more, from another seed if one is given.
PROGRAMS = int(os.environ.get("PLEXSPACES_TORTURE_PROGRAMS", str(2 * REQUESTS)))
FIRST_SEED = int(os.environ.get("PLEXSPACES_TORTURE_SEED", "0"))
# Seeds of runs that have failed once; whoever finds one adds it.
FAILED_ONCE: tuple[int, ...] = ()
SEEDS = sorted({*FAILED_ONCE, *range(FIRST_SEED, FIRST_SEED + max(1, PROGRAMS // REQUESTS))})

# An actor asks only those after it, so that no two wait for each other.
MESH = ("a", "b", "c", "v/1", "v/2", "v/3")
CHANNELS = ("jobs", "notes")
STREAMS = ("/mesh/one", "/mesh/two")
TUPLES = ("left", "right")
MAX_ATTEMPTS = 3
# Not there yet, or not able to take it just now: nothing has been done.
AGAIN = (404, 429, 503)
Program = list[list[Any]]
Model = Counter[tuple[str, ...]]


def application(wasm: Path, chance: random.Random) -> str:
    facet = (
        f'{{ type = "durability", config = {{ checkpoint_interval = {chance.choice((1, 2, 5, 20))}, '
        f'max_attempts = {MAX_ATTEMPTS}, retry_backoff = "2ms", retain_checkpoints = {chance.randrange(1, 4)} }} }}'
    )
    virtual = f'{{ type = "virtual_actor", config = {{ idle_timeout = "{chance.choice((20, 200))}ms" }} }}'
    children = "".join(
        f'  {{ name = "{name}", actor_type = "code", facets = [{facets}] }},\n'
        for name, facets in (("a", facet), ("b", facet), ("c", facet), ("v", f"{virtual}, {facet}"))
    )
    return (
        '[application]\nname = "mesh"\n\n'
        f'[[components]]\nname = "code"\npath = "{wasm}"\n\n'
        f"[supervisor]\nmax_restarts = 100000\nchildren = [\n{children}]\n"
    )


class Author:
    """Writes random programs.

    Args:
        crashing: some end in a crash; otherwise some are answered later.  Not both: what an actor owes when it crashes
            is answered with the crash.
    """

    def __init__(self, chance: random.Random, *, crashing: bool) -> None:
        self.chance = chance
        self.crashing = crashing

    def program(self, actor: str, depth: int = 0, *, doomed: bool = False) -> Program:
        """What one message lets `actor` do."""
        steps: Program = []
        for _ in range(self.chance.randrange(1, 6)):
            if (step := self._step(actor, depth, doomed)) is not None:
                steps.append(step)
        if doomed:
            steps.append(["crash"])
        return steps

    def _step(self, actor: str, depth: int, doomed: bool) -> list[Any] | None:
        chance = self.chance
        kinds = ["add", "kv", "channel", "stream", "tuple", "sleep", "now", "random", "log"]
        if depth < 2:
            kinds += ["ask", "many", "send", "timer"]
        if not doomed:
            # What a crash takes back from the state is not to be counted anywhere else.
            kinds.append("take")
        if not doomed and depth < 2:
            # What comes after an error is done again when the message is tried again.
            kinds.append("doomed")
        kind = chance.choice(kinds)
        later = MESH[MESH.index(actor) + 1 :]
        match kind:
            case "add":
                return [kind, chance.randrange(1, 100)]
            case "kv":
                return [kind, chance.choice("xyz"), chance.randrange(1, 100)]
            case "channel" | "take":
                return [kind, chance.choice(CHANNELS)]
            case "stream":
                return [kind, chance.choice(STREAMS)]
            case "tuple":
                return [kind, chance.choice(TUPLES)]
            case "sleep":
                return [kind, chance.randrange(40) / 1_000]
            case "now" | "random" | "log":
                return [kind]
            case "ask" if later:
                to = chance.choice(later)
                op = "run" if self.crashing else chance.choice(("run", "later"))
                return [kind, to, op, self.program(to, depth + 1)]
            case "many" if later:
                several = [chance.choice(later) for _ in range(chance.randrange(1, 4))]
                return [kind, [[to, self.program(to, depth + 1)] for to in several]]
            case "send":
                to = chance.choice(MESH)
                return [kind, to, self.program(to, depth + 1, doomed=self.crashing and chance.random() < 0.3)]
            case "timer":
                return [kind, chance.randrange(200), self.program(actor, depth + 1)]
            case "doomed" if later and self.crashing:
                to = chance.choice(later)
                return [kind, to, self.program(to, depth + 1, doomed=True)]
        return None


def expect(program: Program, actor: str, model: Model, *, asked: bool) -> None:
    """What a program leaves that is run once; `asked`: somebody waits for it."""
    doomed = program[-1:] == [["crash"]]
    # A crash takes back what was changed in memory, not what was caused.
    state: Model = Counter()
    state[actor, "messages"] += 1
    for step in program:
        match step:
            case ["add", amount]:
                state[actor, "sum"] += amount
            case ["kv", key, amount]:
                model[actor, "kv", key] += amount
            case ["channel", name]:
                model["channel", name] += 1
            case ["stream", path]:
                model["stream", path] += 1
            case ["tuple", name]:
                model["tuple", name] += 1
            case ["ask", to, _, inner]:
                expect(inner, to, model, asked=True)
            case ["many", several]:
                for to, inner in several:
                    expect(inner, to, model, asked=True)
            case ["doomed", to, inner]:
                expect(inner, to, model, asked=True)
                state[actor, "sum"] += 1
            case ["send", to, inner]:
                expect(inner, to, model, asked=False)
            case ["timer", _, inner]:
                expect(inner, actor, model, asked=False)
            case ["now" | "random"]:
                state[actor, "sum"] += 1_000
                model[actor, "kv", "way"] += 1
    if not doomed:
        model.update(state)
    elif not asked:
        model["dead", actor] += 1


class Gone(Exception):
    """The node has died."""


class Life:
    """One life of a node process.

    Args:
        config: what it is told to run; None for what it has been told before.
    """

    def __init__(self, data_dir: Path, config: Path | None) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PLEXSPACES_") or k == "PLEXSPACES_CACHE_DIR"}
        self._data_dir = data_dir
        self._lines: list[str] = []
        self._url = ""
        self._up = threading.Event()
        self._ended = threading.Event()
        self.process = subprocess.Popen(
            [*CLI, "serve", *([] if config is None else [str(config)]), "--port", "0"],
            env={
                **clean,
                "PLEXSPACES_DATA_DIR": str(data_dir),
                # Here a stream that gets a lot is no runaway, and a message whose consumer dies often is no poison.
                "PLEXSPACES_LIMITS_STREAM_EVENTS_PER_SECOND_MAX": "1000000",
                "PLEXSPACES_LIMITS_CHANNEL_DELIVERIES_MAX": "1000",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.append(line)
            if "listening on" in line:
                self._url = line.split()[-1]
                self._up.set()
        self._ended.set()
        self._up.set()

    @property
    def said(self) -> str:
        return "".join(self._lines[-60:])

    def up(self, within_s: float = 60.0) -> bool:
        """Wait until it listens; False if it has not within that time."""
        if not self._up.wait(within_s):
            return False
        assert self._url, f"the node ended by itself:\n{self.said}"
        return True

    def post(self, actor: str, body: dict[str, Any], *, key: str = "", wait_s: int = 0) -> tuple[int, Any]:
        """Status and answer.

        Raises:
            Gone
        """
        host, _, port = self._url.removeprefix("http://").partition(":")
        headers = {
            "authorization": f"Bearer {(self._data_dir / 'token').read_text().strip()}",
            "content-type": "application/json",
        }
        if key:
            headers["idempotency-key"] = key
        connection = http.client.HTTPConnection(host, int(port), timeout=90)
        try:
            connection.request(
                "POST",
                f"/api/v1/actors/default/default/{actor}{f'?wait={wait_s}' if wait_s else ''}",
                json.dumps(body),
                headers,
            )
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException) as error:
            raise Gone from error
        finally:
            connection.close()

    def ask(self, actor: str, op: str, *, key: str = "", **arguments: Any) -> Any:
        """The reply, as soon as the actor is there."""
        until = time.monotonic() + 60
        while True:
            status, answer = self.post(actor, {"op": op, **arguments}, key=key, wait_s=60)
            if status == 200:
                return answer
            assert status in AGAIN, f"{status}: {answer}\n{self.said}"
            assert time.monotonic() < until, f"{actor} is not there:\n{self.said}"
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)
        self._listener.join(30)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.said
        self._listener.join(30)


Begin = Callable[[Path | None], Life]


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Begin]:
    lives: list[Life] = []

    def begin(config: Path | None) -> Life:
        lives.append(Life(tmp_path / "data", config))
        return lives[-1]

    yield begin
    for each in lives:
        each.kill()


class OnDisk:
    """What a `JournalTable` reads from; the node may be running."""

    stream: Any = None

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, timeout=10)

    def read(self, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        self._connection.close()


def left_by_the_dead(data_dir: Path, folder: Path) -> list[Address]:
    """Who has something to do, on the disk of a node that died.  Looked up in a copy: what was left stays as it is."""
    if not (data_dir / FILE).exists():
        return []
    folder.mkdir(exist_ok=True)
    for suffix in ("", "-wal"):
        (folder / f"{FILE}{suffix}").unlink(missing_ok=True)
        if (data_dir / f"{FILE}{suffix}").exists():
            shutil.copy(data_dir / f"{FILE}{suffix}", folder)
    disk = OnDisk(folder / FILE)
    try:
        if not disk.read("SELECT 1 FROM sqlite_schema WHERE name = 'durable'"):
            return []
        return JournalTable(disk).unfinished()
    finally:
        disk.close()


def check_journals(data_dir: Path) -> None:
    """Every entry of every journal is there, in its place, and as it was written."""
    disk = OnDisk(data_dir / FILE)
    table = JournalTable(disk)
    addresses = table.addresses(SCOPE.tenant)
    assert {address.text for address in addresses} >= {"a", "b", "c"}
    for address in addresses:
        row = table.find(address)
        assert row is not None
        durable.read(row, table.entries(row.id, row.base), (row.base, row.base_hash), address)
    disk.close()


class Run:
    """One mesh, its programs, and the lives of its node."""

    def __init__(self, seed: int, folder: Path, wasm: Path, begin: Begin) -> None:
        self.chance = random.Random(seed)
        self.folder = folder
        self.begin = begin
        self.config = folder / "app-config.toml"
        self.config.write_text(application(wasm, self.chance))
        author = Author(self.chance, crashing=bool(seed % 2))
        self.model: Model = Counter()
        self.waiting: deque[tuple[str, str, bool, Program]] = deque()
        for number in range(REQUESTS):
            actor = self.chance.choice(MESH)
            asked = self.chance.random() < 0.5
            program = author.program(actor)
            expect(program, actor, self.model, asked=asked)
            self.waiting.append((f"request-{seed}-{number}", actor, asked, program))
        self.acknowledged = 0
        self.wrong: list[str] = []
        # For people: what the model knows of is only how many.
        self.buried: list[str] = []
        self.interrupted = 0
        self.deaths = 0

    # -- the clients --------------------------------------------------------------------------------------

    def submit(self, node: Life, left: int) -> None:
        """Send what waits until only so much is left; what the node's death leaves unanswered waits again."""
        while len(self.waiting) > left:
            try:
                request = self.waiting.popleft()
            except IndexError:
                return
            key, actor, asked, program = request
            try:
                status, answer = node.post(actor, {"op": "run", "program": program}, key=key, wait_s=60 * asked)
            except Gone:
                self.waiting.appendleft(request)
                return
            if status == (200 if asked else 202):
                self.acknowledged += 1
            elif status in AGAIN:
                self.waiting.appendleft(request)
                time.sleep(0.02)
            else:
                self.wrong.append(f"{key} to {actor}: {status} {answer}")

    def clients(self, node: Life, left: int) -> list[threading.Thread]:
        if not self.acknowledged:
            # Whoever is there before the whole application is asks some who are not.
            for name in MESH:
                node.ask(name, "look")
        threads = [threading.Thread(target=self.submit, args=(node, left)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        return threads

    # -- the lives ----------------------------------------------------------------------------------------

    def die(self, left: int) -> None:
        """One life that ends badly."""
        began = time.monotonic()
        # Once it has acknowledged something, it knows by itself what to run.
        node = self.begin(None if self.acknowledged else self.config)
        clients: list[threading.Thread] = []
        if self.acknowledged and self.chance.random() < 0.25:
            # While it starts, and takes up what was interrupted.
            time.sleep(self.chance.uniform(0.5, 1.1) * self.start_s)
        else:
            assert node.up(), node.said
            self.start_s = time.monotonic() - began
            clients = self.clients(node, left)
            known = self.acknowledged
            while self.acknowledged == known and any(each.is_alive() for each in clients):
                time.sleep(0.001)
            time.sleep(self.chance.random() ** 2 * 0.3)
        node.kill()
        for each in clients:
            each.join()
        self.deaths += 1
        self.interrupted += bool(left_by_the_dead(self.folder / "data", self.folder / "copy"))

    def live(self) -> Model:
        """The last life, which ends well; what there is in the end."""
        node = self.begin(None if self.acknowledged else self.config)
        assert node.up(), node.said
        for each in self.clients(node, 0):
            each.join()
        assert self.wrong == []
        assert self.acknowledged == REQUESTS
        disk = OnDisk(self.folder / "data" / FILE)
        table = JournalTable(disk)
        until = time.monotonic() + 60
        while unfinished := table.unfinished():
            assert time.monotonic() < until, f"{unfinished} do not come to an end:\n{node.said}"
            time.sleep(0.02)
        found: Model = Counter()
        taken: Counter[str] = Counter()
        for name in MESH:
            seen = node.ask(name, "look")
            found[name, "sum"], found[name, "messages"] = seen["sum"], seen["messages"]
            for key, value in seen["kv"].items():
                found[name, "kv", key] = value
            taken.update(seen["taken"])
        left = node.ask("a", "left", channels=CHANNELS, streams=STREAMS, tuples=TUPLES)
        for name, number in left["channels"].items():
            found["channel", name] = number + taken[name]
        for name, number in left["streams"].items():
            found["stream", name] = number
        for name, number in left["tuples"].items():
            found["tuple", name] = number
        for dead in table.dead(SCOPE.tenant, limit=10_000):
            assert dead.attempts == MAX_ATTEMPTS
            found["dead", dead.address.text] += 1
            self.buried.append(f"{dead.address.text}: {dead.reason}: {dead.message}")
        disk.close()
        node.stop()
        check_journals(self.folder / "data")
        return found


@pytest.mark.parametrize("seed", SEEDS)
def test_random_programs_end_as_if_the_node_had_never_died(
    seed: int, tmp_path: Path, guest: Callable[[str], Path], life: Begin
) -> None:
    run = Run(seed, tmp_path, guest("mesh"), life)
    deaths = 5 + seed % 3
    for death in range(deaths):
        run.die(left=REQUESTS - (death + 1) * REQUESTS // (deaths + 1))
    found = run.live()
    differences = {what: (run.model[what], found[what]) for what in run.model | found if run.model[what] != found[what]}
    assert differences == {}, "\n".join([f"seed {seed}; dead letters:", *run.buried])
    assert run.interrupted >= deaths / 3, f"seed {seed}: the node was mostly killed when it had nothing to do"


def test_the_bank_account_survives_the_death_of_its_node(
    tmp_path: Path, guest: Callable[[str], Path], life: Begin
) -> None:
    config = tmp_path / "app-config.toml"
    config.write_text(
        f'[application]\nname = "bank"\n\n[[components]]\nname = "code"\npath = "{guest("account")}"\n\n'
        '[[supervisor.children]]\nname = "account"\nactor_type = "code"\n'
        'facets = [{ type = "durability", config = { checkpoint_interval = 4 } }]\n'
    )
    node = life(config)
    assert node.up()
    before = [node.ask("account", "deposit", key=f"first-{n}", amount=10) for n in range(10)]
    assert [each["balance"] for each in before] == list(range(10, 110, 10))
    node.kill()
    node = life(None)
    assert node.up()
    assert node.ask("account", "balance") == {"balance": 100, "deposits": 10, "booked": 100}
    # Whoever has not heard the answer asks again, and gets it.
    assert [node.ask("account", "deposit", key=f"first-{n}", amount=10) for n in range(10)] == before
    for n in range(10):
        assert node.ask("account", "deposit", key=f"second-{n}", amount=10)["balance"] == 110 + 10 * n
    node.kill()
    node = life(None)
    assert node.up()
    assert node.ask("account", "balance") == {"balance": 200, "deposits": 20, "booked": 200}
    node.stop()
    disk = OnDisk(tmp_path / "data" / FILE)
    assert JournalTable(disk).unfinished() == []
    disk.close()
