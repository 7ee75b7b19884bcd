"""A node with durable actors dies at every step of its writes, and in the middle of them: what comes after is exact.

The node, its database and the deaths are real; the guests are not, so that hundreds of lives take seconds.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from plexspaces_runtime.config import Limits, NodeConfig
from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.durability import durable
from plexspaces_runtime.events import EventBus
from plexspaces_runtime.node import Node
from plexspaces_runtime.scope import Address, Scope
from plexspaces_runtime.stores.database import FILE, Database, connect
from plexspaces_runtime.stores.engine import Connection
from plexspaces_runtime.stores.journal import ENTRY_COLUMNS
from plexspaces_runtime.stores.stores import SCHEMA
from tests.simulation.sandbox import Handler, Memory, SimulatedSandbox
from tests.unit.scripted import call

SCOPE = Scope("acme", "default")
CONFIG = """
[application]
name = "bank"

[[components]]
name = "code"
path = "code.wasm"

[supervisor]
children = [
  { name = "giro", actor_type = "code", role = "account", facets = [FACET] },
  { name = "savings", actor_type = "code", role = "account", facets = [FACET] },
]
""".replace("FACET", '{ type = "durability", config = { checkpoint_interval = 3, retain_checkpoints = 1 } }')
INTERVAL = 3
# Of a deposit: its beginning, its one host call, its end.
ENTRIES = 3
# Each is worth as much as no others together: from a sum one sees what it is made of.
MESSAGES = [
    *((f"ask-{n}", "deposit", {"amount": 1 << n}) for n in range(3)),
    *((f"tell-{n}", "deposit", {"amount": 1 << 3 + n}) for n in range(3)),
    ("ask-transfer", "transfer", {"amount": 1 << 6, "to": "savings"}),
    ("tell-later", "later", {"amount": 1 << 7}),
]
MOVED = 1 << 6
TOTAL = (1 << 8) - 1
Say = Callable[[str], None]


def account(memory: Memory, op: str, arguments: Any, _sender: str) -> Generator[Any, Any, Any]:
    values = memory.values
    match op:
        case "init" | "terminate":
            return None
        case "look":
            booked = yield call("keyvalue", "get", "booked")
            return {"balance": values.get("balance", 0), "booked": int(booked.value or 0)}
        case "later":
            yield call("timers", "send-after", 5, "deposit", orjson.dumps(arguments).decode())
            return None
        case "transfer":
            yield call("messaging", "ask", arguments["to"], "deposit_slowly", f'{{"amount":{arguments["amount"]}}}', 0)
    yield call("keyvalue", "increment", "booked", arguments["amount"])
    if op == "deposit_slowly":
        # The node may die meanwhile: then this goes on, and whoever asked asks again.
        yield call("clock", "sleep-ns", 3_000_000)
    values["balance"] = values.get("balance", 0) + arguments["amount"]
    return {"balance": values["balance"]}


class Dying:
    """The writer's connection, whose process is killed before a certain one of its statements."""

    def __init__(self, connection: Connection, statements_left: int) -> None:
        self._connection = connection
        self._left = statements_left

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        return self._connection.execute(sql, parameters)

    def close(self) -> None:
        self._connection.close()


async def started(folder: Path, database: Database, guest: Handler) -> Node:
    """A node that has the application."""
    node = Node(
        NodeConfig(data_dir=folder, cache_dir=folder),
        sandbox=lambda _dir, _limits: SimulatedSandbox({"account": guest}, lambda *_: False),  # type: ignore[arg-type, return-value]
        database=database,
    )
    await node.start()
    if not node.applications(SCOPE.tenant):
        (folder / "code").write_bytes(orjson.dumps({"roles": ["account"]}))
        await node.deploy_application(SCOPE.tenant, appconfig.parse(CONFIG), {"code": folder / "code"})
    return node


async def live(
    folder: Path, known: set[str], say: Say, *, statements: int = -1, at_once: int = 8, padding_bytes: int = 0
) -> None:
    """One life: every message that is not `known` to have been accepted, then whatever there is to do.

    Args:
        statements: after so many the process is killed; -1 lets it live.
        at_once: how many messages are under way at a time.
        padding_bytes: how much longer each message is made.
    """
    database = Database(
        folder,
        SCHEMA,
        loop=asyncio.get_running_loop(),
        events=EventBus(),
        limits=Limits(),
        open_writer=lambda path: Dying(connect(path), statements),
    )
    node = await started(folder, database, account)
    say("up")
    giro = Address(SCOPE, "giro")
    turns = asyncio.Semaphore(at_once)

    async def send(message_id: str, op: str, arguments: Any) -> None:
        payload = orjson.dumps({**arguments, "padding": "x" * padding_bytes}).decode()
        async with turns:
            if message_id.startswith("ask"):
                await node.ask(giro, op, payload, message_id=message_id)
            else:
                await node.tell(giro, op, payload, message_id=message_id)
            say(message_id)

    await asyncio.gather(*(send(*message) for message in MESSAGES if message[0] not in known))
    async with asyncio.timeout(30):
        while node.stores.journal.unfinished() or not node.stores.settled:
            await asyncio.sleep(0.001)
    for name in ("giro", "savings"):
        seen = orjson.loads(await node.ask(Address(SCOPE, name), "look", "{}"))
        say(f"{name} {seen['balance']} {seen['booked']}")
    await node.stores.flushed()
    table = node.stores.journal
    for address in table.addresses(SCOPE.tenant):
        row = table.find(address)
        assert row is not None
        durable.read(row, table.entries(row.id, row.base), (row.base, row.base_hash), address)
    await node.stop(grace_s=1)
    say("stopped")


def in_a_child(work: Callable[[Say], Any], before: Callable[[], None] = lambda: None) -> tuple[list[str], bool]:
    """Run `work` in a process of its own; what it said, and whether it died before its end."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_end)
            before()
            asyncio.run(work(lambda line: os.write(write_end, f"{line}\n".encode()) and None))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write_end)
    said = b""
    while more := os.read(read_end, 65_536):
        said += more
    os.close(read_end)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        assert os.WEXITSTATUS(status) == 0, "it failed, which is not what was to happen to it"
    return said.decode().splitlines(), os.WIFSIGNALED(status)


def deployed(folder: Path) -> Path:
    """The data of a node that has the application and has done nothing else."""

    async def work(say: Say) -> None:
        await live(folder / "new", {message_id for message_id, _, _ in MESSAGES}, say)

    said, died = in_a_child(work)
    assert said[-1] == "stopped"
    assert not died
    return folder / "new"


def check_the_end(said: list[str]) -> None:
    assert said[-1] == "stopped"
    assert f"giro {TOTAL} {TOTAL}" in said
    assert f"savings {MOVED} {MOVED}" in said


def test_it_may_die_before_any_statement(tmp_path: Path) -> None:
    new = deployed(tmp_path)
    deaths = second_deaths = 0
    for statements in range(1_000):
        folder = tmp_path / str(statements)
        shutil.copytree(new, folder)
        said, died = in_a_child(partial(live, folder, set(), statements=statements))
        if not died:
            check_the_end(said)
            break
        deaths += 1
        # In one of three lives again, while it takes up what was left.
        left = statements // 3 % 11 if statements % 3 == 0 else -1
        said_then, died_again = in_a_child(partial(live, folder, set(said), statements=left))
        second_deaths += died_again
        if died_again:
            said_then, died = in_a_child(partial(live, folder, {*said, *said_then}))
            assert not died
        check_the_end(said_then)
        shutil.rmtree(folder)
    else:
        raise AssertionError("it never came to its end")
    assert deaths > 60
    assert second_deaths > deaths / 6


def test_it_may_die_in_the_middle_of_a_write(tmp_path: Path) -> None:
    new = deployed(tmp_path)
    # The kernel ends a process that writes beyond the size it may, once the file has got as much as there is room for.
    # Only the log of the database gets larger than everything that was there before.
    least = max(path.stat().st_size for path in new.iterdir() if path.is_file())
    padding_bytes = least // 10

    def limit(bytes_max: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, bytes_max))

    deaths = acknowledged = 0
    for number in range(1_000):
        folder = tmp_path / str(number)
        shutil.copytree(new, folder)
        bytes_max = least + number * 17_333
        said, died = in_a_child(
            partial(live, folder, set(), at_once=1, padding_bytes=padding_bytes), partial(limit, bytes_max)
        )
        if not died:
            check_the_end(said)
            break
        deaths += 1
        acknowledged += len(said) - 1
        assert (folder / f"{FILE}-wal").stat().st_size == bytes_max
        said, died = in_a_child(partial(live, folder, set(said), padding_bytes=padding_bytes))
        assert not died
        check_the_end(said)
        shutil.rmtree(folder)
    else:
        raise AssertionError("it never came to its end")
    assert deaths > 10
    assert acknowledged > deaths / 2


class Reading(Database):
    """Counts the entries of journals that are read."""

    entries = 0

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        rows = super().read(sql, parameters)
        if sql.startswith(f"SELECT {ENTRY_COLUMNS} FROM journal"):
            self.entries += len(rows)
        return rows


def recovered(folder: Path, age: int) -> tuple[int, int]:
    """How many entries are read, and how many messages replayed, for an actor of that age that has died."""

    async def grow_old(_say: Say) -> None:
        loop = asyncio.get_running_loop()
        database = Database(folder, SCHEMA, loop=loop, events=EventBus(), limits=Limits())
        node = await started(folder, database, account)
        for _ in range(age):
            await node.ask(Address(SCOPE, "giro"), "deposit", '{"amount":1}')
        os.kill(os.getpid(), signal.SIGKILL)

    _, died = in_a_child(grow_old)
    assert died
    replayed: Counter[str] = Counter()

    def watched(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
        replayed[op] += 1
        return account(memory, op, arguments, sender)

    async def come_back() -> int:
        loop = asyncio.get_running_loop()
        database = Reading(folder, SCHEMA, loop=loop, events=EventBus(), limits=Limits())
        node = await started(folder, database, watched)
        entries = database.entries
        seen = orjson.loads(await node.ask(Address(SCOPE, "giro"), "look", "{}"))
        assert seen == {"balance": age, "booked": age}
        await node.stop(grace_s=1)
        return entries

    return asyncio.run(come_back()), replayed["deposit"]


def test_recovery_reads_what_came_after_the_last_checkpoint_however_old_the_actor_is(tmp_path: Path) -> None:
    since = INTERVAL - 1
    for age in (INTERVAL * 10 + since, INTERVAL * 500 + since):
        entries, replayed = recovered(tmp_path / str(age), age)
        assert replayed == since
        # Those, the checkpoint, and that of the actor which has done nothing yet.
        assert entries == since * ENTRIES + 2
