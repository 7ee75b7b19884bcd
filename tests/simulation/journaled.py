"""A node whose one durable actor is an account in plain Python, on a real database, with the edge around it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson

from plexspaces_runtime.actors.guest import Ok
from plexspaces_runtime.api.auth import Authenticator, LocalAuthority
from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.api.server import HttpServer
from plexspaces_runtime.clock import Clock
from plexspaces_runtime.config import Limits, NodeConfig
from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.events import Event
from plexspaces_runtime.node import Node
from plexspaces_runtime.scope import Address, Scope
from tests.simulation.sandbox import Crash, Handler, Memory, Refusal, SimulatedSandbox
from tests.unit.scripted import BURN, call

SCOPE = Scope("acme", "default")
# What a fixture of years ago has answered is known for good.
DURABILITY = (
    '{{ checkpoint_interval = {interval}, max_attempts = 2, retry_backoff = "1ms", retain_checkpoints = 3, '
    'reply_retention = "36500d" }}'
)
ACCOUNT = Address(SCOPE, "account")
CONFIG = """
[application]
name = "bank"

[[components]]
name = "code"
path = "code.wasm"

[supervisor]
max_restarts = {restarts}

[[supervisor.children]]
name = "account"
actor_type = "code"
role = "{role}"
shutdown = "200ms"
facets = [
  {{ type = "durability", config = {durability} }},
  {more}
]
"""


def account(memory: Memory, op: str, arguments: Any, _sender: str) -> Generator[Any, Any, Any]:
    """The account as it was first."""
    values = memory.values
    match op:
        case "init" | "terminate":
            yield BURN
            return None
        case "deposit":
            booked = yield call("keyvalue", "increment", "booked", arguments["amount"])
            assert isinstance(booked, Ok)
            values["balance"] = values.get("balance", 0) + arguments["amount"]
            return {"balance": values["balance"]}
        case "mixed":
            yield call("random", "random-u64")
            yield call("channels", "send", "orders", "order", '{"n":1}', (0, 0, ""))
            got = yield call("channels", "receive", "orders", 0, 1000)
            values["got"] = str(got)
        case "later":
            yield call("timers", "send-after", 3_600_000, "note", '{"text":"later"}')
        case "note":
            values["notes"] = [*values.get("notes", ()), arguments["text"]]
        case "wait":
            # Longer than any test.
            yield call("clock", "sleep-ns", 3_600_000_000_000)
        case "refuse":
            raise Refusal("no")
        case "crash":
            yield call("clock", "now-ns")
            raise Crash("as told")
        case "balance":
            booked = yield call("keyvalue", "get", "booked")
            return {"balance": values.get("balance", 0), "booked": int(booked.value or 0), "notes": values.get("notes")}
    return "done"


def other(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
    """A version that asks for something else."""
    if op == "deposit":
        yield call("clock", "now-ns")
    return (yield from account(memory, op, arguments, sender))


def mended(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
    """A version that does not crash, and is otherwise the same."""
    if op == "crash":
        memory.values["mended"] = memory.values.get("mended", 0) + 1
        return "mended"
    return (yield from account(memory, op, arguments, sender))


def curt(memory: Memory, op: str, arguments: Any, sender: str) -> Generator[Any, Any, Any]:
    """A version that asks for the same and answers otherwise."""
    return "ok" if (yield from account(memory, op, arguments, sender)) else None


ROLES = {"account": account, "other": other, "mended": mended, "curt": curt}


@dataclass
class Bank:
    """The node, and a client of its edge."""

    node: Node
    http: httpx.AsyncClient
    folder: Path
    seen: list[Event] = field(default_factory=list)

    async def ask(self, op: str, /, **arguments: Any) -> Any:
        return orjson.loads(await self.node.ask(ACCOUNT, op, orjson.dumps(arguments).decode(), timeout_s=5))

    async def tell(self, op: str, /, *, id_: str = "", **arguments: Any) -> str:
        return await self.node.tell(ACCOUNT, op, orjson.dumps(arguments).decode(), message_id=id_)

    async def get(self, path: str, status: int = 200) -> Any:
        answer = await self.http.get(path)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def post(self, path: str, status: int = 200) -> Any:
        answer = await self.http.post(path)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None


@asynccontextmanager
async def bank(
    folder: Path,
    role: str = "account",
    *,
    interval: int = 100,
    restarts: int = 100,
    more: str = "",
    code: Handler | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Bank]:
    """One life of the node; the account is deployed as `role` where it is not yet.

    Args:
        code: what the role `account` does in this life.
        clock: the node's time.
    """
    sandbox = SimulatedSandbox({**ROLES, "account": code or account}, lambda _memory, _op: False)
    node = Node(
        NodeConfig(data_dir=folder, cache_dir=folder / "cache", limits=Limits()),
        clock=clock,
        sandbox=lambda _dir, _limits: sandbox,  # type: ignore[arg-type, return-value]
    )
    await node.start()
    authority = LocalAuthority(b"k" * 32, node.clock)
    server = HttpServer(node, Authenticator(authority, None, clock=node.clock), HttpConfig(port=0), stores=node.stores)
    await server.start()
    token = authority.mint("acme", "ada", ["admin"], 3600)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{server.port}", headers={"authorization": f"Bearer {token}"}, timeout=20
        ) as client:
            made = Bank(node, client, folder)
            node.events.subscribe(made.seen.append)
            if not node.applications("acme"):
                await deploy(node, folder, role, interval=interval, restarts=restarts, more=more)
            yield made
    finally:
        await server.stop(1.0)
        await node.stop(grace_s=1.0)


async def deploy(
    node: Node, folder: Path, role: str, *, interval: int = 100, restarts: int = 100, more: str = ""
) -> None:
    wasm = folder / "code"
    wasm.write_bytes(orjson.dumps({"roles": [role]}))
    durability = DURABILITY.format(interval=interval)
    config = CONFIG.format(role=role, durability=durability, restarts=restarts, more=more)
    await node.deploy_application("acme", appconfig.parse(config), {"code": wasm})


def copied(folder: Path, to: Path) -> Path:
    """What a node leaves that is killed now; everything it wrote must be on disk."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*-shm", "*.lock", "cache"))
    return to


def edit(folder: Path, *statements: str) -> None:
    """Change the files of a node that is stopped."""
    with sqlite3.connect(folder / "plexspaces.db") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "plexspaces.db") as connection:
        found = connection.execute(sql).fetchall()
    connection.close()
    return found
