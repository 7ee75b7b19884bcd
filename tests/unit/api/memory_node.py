"""A node for the edge's tests: the whole port, with actors in plain Python, and a server around it on a real socket."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import orjson

from plexspaces_runtime.actors.envelope import Kind
from plexspaces_runtime.actors.info import ActorInfo
from plexspaces_runtime.api.auth import Authenticator, LocalAuthority
from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.api.server import HttpServer
from plexspaces_runtime.api.tls import Certificates
from plexspaces_runtime.clock import Clock, SystemClock
from plexspaces_runtime.config import AuthConfig, Limits
from plexspaces_runtime.deployment.appconfig import AppConfig, FacetTypes, SupervisorConfig
from plexspaces_runtime.deployment.checks import Report
from plexspaces_runtime.deployment.grants import GrantReport, toml_line
from plexspaces_runtime.deployment.model import Deployment
from plexspaces_runtime.deployment.status import ApplicationStatus, TreeNode
from plexspaces_runtime.egress.links import LinkState, parse_link
from plexspaces_runtime.egress.vault import Vault
from plexspaces_runtime.errors import (
    ActorNotFound,
    Conflict,
    DeadlineExceeded,
    HandlerCrashed,
    HandlerRefused,
    InvalidComponent,
    MailboxFull,
    NotFound,
)
from plexspaces_runtime.ids import Ids, SeededIds
from plexspaces_runtime.scope import Address, Caller, Scope
from tests.unit.api.kept_stores import KeptStores, make_stores

KEY = b"k" * 32


@dataclass
class MemoryActor:
    """A counter with a few bad habits, one operation each."""

    node: MemoryNode
    address: Address
    count: int = 0
    handled: int = 0

    async def handle(self, op: str, arguments: dict[str, Any], caller: Caller) -> Any:
        self.handled += 1
        for name in ("op", "action", "message_type", "msg_type"):
            arguments.pop(name, None)
        match op:
            case "increment":
                self.count += arguments.get("amount", 1)
                return {"count": self.count}
            case "get":
                return {"count": self.count}
            case "echo":
                return arguments
            case "whoami":
                return {"subject": caller.subject, "roles": sorted(caller.roles), "session": caller.session}
            case "nothing":
                return None
            case "wait":
                self.node.entered.set()
                await self.node.gate.wait()
                self.count += 1
                return {"count": self.count}
            case "crash":
                raise HandlerCrashed(
                    "actor 'counter' crashed: ValueError: no such row", exit="crashed(ValueError)", traceback="secret"
                )
            case "full":
                raise MailboxFull("the mailbox is full", messages=1000, retry_after_ms=2_500)
            case "bug":
                raise RuntimeError("hunter2 in /etc/secret")
            case "big":
                return "x" * arguments["size"]
        raise HandlerRefused(f"operation {op!r} is unknown", reason="unknown-operation")


@dataclass
class MemoryNode:
    """`NodePort` in memory.  `gate` holds the operation `wait` until it is set; `entered` says one has come."""

    clock: Clock = field(default_factory=SystemClock)
    ids: Ids = field(default_factory=SeededIds)
    limits: Limits = field(default_factory=lambda: Limits(payload_bytes_max=4096, wasm_bytes_max=1 << 20))
    quotas: Mapping[str, Limits] = field(default_factory=dict)
    ready: bool = True
    journals: None = None
    vault: Vault | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    living: dict[Address, MemoryActor] = field(default_factory=dict)
    deployed: dict[tuple[Scope, str], Deployment] = field(default_factory=dict)
    stopped: set[Address] = field(default_factory=set)
    observed: set[tuple[Scope, str]] = field(default_factory=set)
    ends: list[tuple[Address, bool]] = field(default_factory=list)
    applied: dict[tuple[str, str], tuple[ApplicationStatus, AppConfig]] = field(default_factory=dict)
    uploads: list[Path] = field(default_factory=list)
    messages: list[tuple[str, str, str, str]] = field(default_factory=list)
    tells: set[asyncio.Task[None]] = field(default_factory=set)
    # Told of every message with its kind.
    hear: Callable[[Address, Kind, str, str], None] = lambda _address, _kind, _op, _payload: None

    home_tenant = "default"

    def secret_users(self, tenant: str) -> dict[str, list[str]]:
        return {}

    def veiled(self, address: Address, op: str, payload: str) -> str:
        return payload

    def waits_for(self, address: Address) -> str:
        return "sleep" if address in self.living else ""

    def spawn(self, address: Address) -> MemoryActor:
        """Start an actor."""
        actor = self.living[address] = MemoryActor(self, address)
        return actor

    async def ask(
        self,
        address: Address,
        op: str,
        payload: str,
        *,
        caller: Caller,
        timeout_s: float,
        message_id: str = "",
        trace: str = "",
        kind: Kind = Kind.CALL,
    ) -> str:
        actor = self._find(address)
        self.messages.append((op, payload, message_id, trace))
        self.hear(address, kind, op, payload)
        try:
            async with asyncio.timeout(timeout_s):
                reply = await actor.handle(op, orjson.loads(payload), caller)
        except TimeoutError:
            raise DeadlineExceeded(f"actor {address.text!r} did not reply in time") from None
        return "" if reply is None else orjson.dumps(reply).decode()

    async def tell(
        self,
        address: Address,
        op: str,
        payload: str,
        *,
        caller: Caller,
        message_id: str = "",
        trace: str = "",
        kind: Kind = Kind.CAST,
    ) -> str:
        actor = self._find(address)
        message_id = message_id or self.ids.next("m")
        self.messages.append((op, payload, message_id, trace))
        self.hear(address, kind, op, payload)
        if kind in (Kind.RUN, Kind.SIGNAL):
            return message_id
        if op == "full":
            raise MailboxFull("the mailbox is full", messages=1000)
        await actor.handle(op, orjson.loads(payload), caller)
        return message_id

    async def stop_actor(self, address: Address, *, kill: bool = False) -> None:
        self._find(address)
        del self.living[address]
        self.stopped.add(address)
        self.ends.append((address, kill))

    async def restart_actor(self, address: Address) -> None:
        if address not in self.living and address not in self.stopped:
            raise ActorNotFound(f"there is no actor {address.text!r}", actor=address.text)
        self.stopped.discard(address)
        self.spawn(address)

    async def deploy(self, scope: Scope, actor_type: str, wasm: Path, config: Mapping[str, Any]) -> Deployment:
        self.uploads.append(wasm)
        content = wasm.read_bytes()
        if not content.startswith(b"\0asm"):
            raise InvalidComponent("this is not WebAssembly: it does not begin with \\0asm")
        old = self.deployed.get((scope, actor_type))
        deployment = self.deployed[scope, actor_type] = Deployment(
            scope=scope,
            actor_type=actor_type,
            hash=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            imports=("plexspaces:actor/messaging@0.1.0",),
            roles=("Counter",),
            handlers={"increment": {"schema": {"type": "object"}}, **config},
            version=old.version + 1 if old else 1,
            replaced=old is not None,
        )
        if old is None:
            self.spawn(Address(scope, actor_type))
        return deployment

    async def check(self, scope: Scope, actor_type: str, wasm: Path, config: Mapping[str, Any]) -> Report:
        """Nothing here is durable."""
        return Report(hashlib.sha256(wasm.read_bytes()).hexdigest())

    async def undeploy(self, scope: Scope, actor_type: str) -> None:
        if self.deployed.pop((scope, actor_type), None) is None:
            raise NotFound(f"actor type {actor_type!r} is not deployed")
        for address in [a for a in self.living if a.scope == scope and a.type == actor_type]:
            del self.living[address]

    def deployments(self, tenant: str, namespace: str | None = None) -> list[Deployment]:
        return [
            each
            for (scope, _), each in self.deployed.items()
            if scope.tenant == tenant and namespace in (None, scope.namespace)
        ]

    def deployment(self, scope: Scope, actor_type: str) -> Deployment | None:
        return self.deployed.get((scope, actor_type))

    async def deploy_application(
        self, tenant: str, config: AppConfig, components: Mapping[str, Path]
    ) -> ApplicationStatus:
        self.uploads.extend(components.values())
        hashes = {}
        for name, wasm in components.items():
            content = wasm.read_bytes()
            if not content.startswith(b"\0asm"):
                raise InvalidComponent(f"component {name!r} is not WebAssembly: it does not begin with \\0asm")
            hashes[name] = hashlib.sha256(content).hexdigest()
        scope = Scope(tenant, config.namespace)
        before, old = self.applied.get((tenant, config.name), (None, None))
        if before is not None and before.scope != scope:
            raise Conflict(f"application {config.name!r} runs in namespace {before.scope.namespace!r}")
        wanted = {child.name: child for child in config.actors()}
        had = {child.name: child for child in old.actors()} if old is not None else {}
        changed = [name for name in wanted if name in had and wanted[name] != had[name]]
        changes = [
            *(f"stopped {name}" for name in had if name not in wanted),
            *(f"started {name}" for name in wanted if name not in had),
            *(f"restarted {name}" for name in changed),
        ]
        for name in had:
            if name not in wanted or name in changed:
                self.living.pop(Address(scope, name), None)
        for name in wanted:
            if Address(scope, name) not in self.living:
                self.spawn(Address(scope, name))
        status = ApplicationStatus(
            scope=scope,
            name=config.name,
            state="running",
            version=before.version + 1 if before is not None else 1,
            restarts=0,
            last_exit="",
            next_start_ms=0,
            actors=len(wanted),
            components=hashes,
            changes=tuple(changes),
        )
        self.applied[tenant, config.name] = (status, config)
        return status

    def applications(self, tenant: str, namespace: str | None = None) -> list[ApplicationStatus]:
        return [
            status
            for (owner, _), (status, _) in sorted(self.applied.items())
            if owner == tenant and namespace in (None, status.scope.namespace)
        ]

    def application(self, tenant: str, name: str) -> ApplicationStatus:
        if (tenant, name) not in self.applied:
            raise NotFound(f"there is no application {name!r}", application=name)
        return self.applied[tenant, name][0]

    async def restart_application(self, tenant: str, name: str) -> ApplicationStatus:
        status = self.application(tenant, name)
        status = replace(status, restarts=status.restarts + 1)
        config = self.applied[tenant, name][1]
        for child in config.actors():
            self.spawn(Address(status.scope, child.name))
        self.applied[tenant, name] = (status, config)
        return status

    async def undeploy_application(self, tenant: str, name: str) -> None:
        scope = self.application(tenant, name).scope
        for child in self.applied.pop((tenant, name))[1].actors():
            self.living.pop(Address(scope, child.name), None)

    def grants(self, scope: Scope, actor_type: str) -> GrantReport:
        if (scope, actor_type) not in self.deployed and (scope, actor_type) not in self.observed:
            raise NotFound(f"actor type {actor_type!r} is not deployed")
        seen = (scope, actor_type) in self.observed
        used = ("messaging", "streams:append:/sessions/*") if seen else ()
        line = toml_line(used) if seen else ""
        return GrantReport(actor_type, ("default",), {"spawn:worker": 2}, seen, {"messaging": 3}, used, line, ())

    def observe(self, scope: Scope, actor_type: str, *, on: bool) -> None:
        if on:
            self.observed.add((scope, actor_type))
        else:
            self.observed.discard((scope, actor_type))

    def links(self, tenant: str) -> list[LinkState]:
        auth = {"header": "Authorization", "value": "Bearer ${secret:key}"}
        table = {"base_url": "https://api.example.com/v1", "allow": ["GET /a/*", "* /b?q&c"], "auth": auth}
        return [
            LinkState("", parse_link("shared", table), "open", 1, 7, 5),
            LinkState("default", parse_link("api", table)),
            LinkState("two", parse_link("other", table)),
        ]

    def namespaces(self, tenant: str) -> list[str]:
        scopes = [status.scope for status, _ in self.applied.values()]
        scopes += [each.scope for each in self.deployments(tenant)]
        return sorted({scope.namespace for scope in scopes if scope.tenant == tenant})

    def tree(self, tenant: str, namespace: str | None = None) -> list[TreeNode]:
        roots = [
            self._branch(status.scope, config.supervisor, name, "application", status.restarts)
            for (owner, name), (status, config) in sorted(self.applied.items())
            if owner == tenant and namespace in (None, status.scope.namespace)
        ]
        return roots + [
            replace(
                self._branch(each.scope, SupervisorConfig(), each.actor_type, "deployment"),
                children=(self._leaf(Address(each.scope, each.actor_type), "transient"),),
            )
            for each in self.deployments(tenant, namespace)
        ]

    def _branch(self, scope: Scope, config: SupervisorConfig, name: str, kind: str, restarts: int = 0) -> TreeNode:
        return TreeNode(
            name=name,
            kind=kind,
            state="running",
            address=None,
            strategy=config.strategy.value,
            restart="permanent" if kind == "supervisor" else "",
            restarts=restarts,
            restarts_max=config.restarts_max,
            restarts_in_window=0,
            last_exit="",
            mailbox_messages=0,
            messages_handled=0,
            children=tuple(
                self._leaf(Address(scope, child.name), child.restart.value)
                if child.supervisor is None
                else self._branch(scope, child.supervisor, child.name, "supervisor")
                for child in config.children
            ),
        )

    def _leaf(self, address: Address, restart: str) -> TreeNode:
        actor = self.living.get(address)
        return TreeNode(
            name=address.type,
            kind="actor",
            state="idle" if actor is not None else "stopped",
            address=address,
            strategy="",
            restart=restart,
            restarts=0,
            restarts_max=0,
            restarts_in_window=0,
            last_exit="" if actor is not None else "shutdown",
            mailbox_messages=0,
            messages_handled=actor.handled if actor is not None else 0,
        )

    def actors(self, tenant: str, namespace: str | None = None) -> list[ActorInfo]:
        return [
            self.info(address)
            for address in self.living
            if address.scope.tenant == tenant and namespace in (None, address.scope.namespace)
        ]

    def info(self, address: Address) -> ActorInfo:
        actor = self._find(address)
        return ActorInfo(
            address=address,
            state="idle",
            mailbox_messages=0,
            messages_handled=actor.handled,
            restarts=0,
            last_exit="",
            component_hash="",
            started_ms=0,
            cpu_ms=0.0,
            waiting_for=(),
        )

    def counters(self) -> dict[str, float]:
        return {"actors": len(self.living), "messages_total": len(self.messages)}

    def _find(self, address: Address) -> MemoryActor:
        if address not in self.living:
            raise ActorNotFound(f"there is no actor {address.text!r}", actor=address.text)
        return self.living[address]


@dataclass
class Served:
    """A server on a socket, and clients for it."""

    node: MemoryNode
    server: HttpServer
    authority: LocalAuthority
    http: httpx.AsyncClient
    stores: KeptStores

    @property
    def token(self) -> str:
        return self.authority.mint("default", "ada", ["admin"], 3600)

    @property
    def auth(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.server.port)

    async def raw(self, request: bytes, *, eof: bool = False) -> bytes:
        """Send bytes, and read until the server closes."""
        reader, writer = await self.connect()
        try:
            writer.write(request)
            if eof:
                writer.write_eof()
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()

    def head(self, line: str, *headers: str) -> bytes:
        """A request's head with a good token, and `Connection: close`."""
        lines = [line, "host: localhost", f"authorization: Bearer {self.token}", "connection: close", *headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


@asynccontextmanager
async def serving(
    node: MemoryNode | None = None,
    config: HttpConfig | None = None,
    auth: AuthConfig | None = None,
    facet_types: FacetTypes | None = None,
    stores: KeptStores | None = None,
    tls: Certificates | None = None,
    verify: ssl.SSLContext | bool = True,
) -> AsyncIterator[Served]:
    """A server with a counter `default/default/counter` behind it; streams and blobs are in memory if not handed in.

    Args:
        tls, verify: the server's side of TLS, and the client's.
    """
    node = node or MemoryNode()
    kept = stores or make_stores(node.limits, clock=node.clock)
    authority = LocalAuthority(KEY, node.clock)
    config = config or HttpConfig(port=0)
    authenticator = Authenticator(authority, auth, clock=node.clock)
    server = HttpServer(node, authenticator, config, facet_types=facet_types, stores=kept, tls=tls)
    await server.start()
    node.spawn(Address(Scope("default", "default"), "counter"))
    token = authority.mint("default", "ada", ["admin"], 3600)
    client = httpx.AsyncClient(
        base_url=f"{'http' if tls is None else 'https'}://127.0.0.1:{server.port}",
        headers={"authorization": f"Bearer {token}"},
        timeout=20,
        verify=verify,
    )
    try:
        async with client:
            yield Served(node, server, authority, client, kept)
    finally:
        kept.close()
        node.gate.set()
        await server.stop(1.0)


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The answer is a complete problem document; it is returned."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["code"] == code
    assert document["status"] == status
    assert document["type"] == f"urn:plexspaces:problem:{code}"
    assert document["title"]
    assert document["detail"]
    assert "Traceback" not in response.text
    return document
