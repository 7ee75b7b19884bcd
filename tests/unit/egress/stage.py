"""Real sockets for the way out: a peer that does as it is told, and an egress that may reach it."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from plexspaces_runtime.clock import SystemClock
from plexspaces_runtime.egress.egress import Egress
from plexspaces_runtime.egress.links import Link, parse_link
from plexspaces_runtime.egress.model import Call, Outgoing, PhantomSlots, Request, Slot
from plexspaces_runtime.errors import NotFound
from plexspaces_runtime.events import Event, EventBus
from plexspaces_runtime.ids import SeededIds
from plexspaces_runtime.scope import Scope

SCOPE = Scope("acme", "default")
CALL = Call(SCOPE, "agent/one")
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
Script = Callable[["Heard", Writer], Awaitable[None]]


# -- the peer ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """A request as it arrived."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class Peer:
    """A server on a loopback address.

    Attributes:
        connections: how many were made to it.
        heard: every request.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = 0
        self.heard: list[Heard] = []
        self.closed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context, limit=2**20)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (heard := await self._hear(reader)) is not None:
                self.heard.append(heard)
                script = asyncio.ensure_future(self.script(heard, writer))
                # A script that waits for ever ends when nobody listens any more.
                while not script.done() and not reader.at_eof() and not writer.transport.is_closing():
                    await asyncio.wait({script}, timeout=0.005)
                script.cancel() if not script.done() else script.result()
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self.closed.set()

    async def _hear(self, reader: Reader) -> Heard | None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return Heard(method, target, headers, await reader.readexactly(int(headers.get("content-length", 0))))


def answer(body: bytes = b"ok", status: int = 200, **headers: str) -> bytes:
    """An honest answer, as bytes."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *lines])
    return head.encode("latin-1") + b"\r\n\r\n" + body


def saying(*answers: bytes) -> Script:
    """One after another, the last one for ever."""
    left = list(answers)

    async def script(_heard: Heard, writer: Writer) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])

    return script


@asynccontextmanager
async def listening(script: Script, context: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    peer = Peer(script)
    await peer.start(context)
    try:
        yield peer
    finally:
        await peer.stop()


# -- secrets -----------------------------------------------------------------------------------------------


class Redacted:
    """Finds values that are in one piece, raw or in base64."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.found: set[str] = set()
        self._marks = {
            form: name for name, value in secrets.items() for form in (value, base64.b64encode(value.encode()).decode())
        }

    def text(self, text: str) -> str:
        for form, name in self._marks.items():
            if form in text:
                self.found.add(name)
                text = text.replace(form, f"[{name}]")
        return text

    def data(self, data: bytes) -> bytes:
        return self.text(data.decode("latin-1")).encode("latin-1")

    def stream(self) -> RedactedStream:
        return RedactedStream(self, max(map(len, self._marks), default=1) - 1)


class RedactedStream:
    def __init__(self, redactor: Redacted, keep: int) -> None:
        self._redactor = redactor
        self._keep = keep
        self._held = ""

    def feed(self, piece: str) -> str:
        text = self._redactor.text(self._held + piece)
        cut = max(0, len(text) - self._keep)
        self._held = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        return self._redactor.text(self._held)


class Secrets:
    """Credentials of one tenant: named secrets, and tokens that stand for one."""

    def __init__(self, secrets: Mapping[str, str] | None = None, phantoms: Mapping[str, str] | None = None) -> None:
        self.secrets = dict(secrets or {})
        self.phantoms = dict(phantoms or {})
        self.injected = 0

    def inject(
        self, scope: Scope, link: str, slots: tuple[Slot, ...], phantoms: PhantomSlots, out: Outgoing
    ) -> tuple[Outgoing, Redacted]:
        self.injected += 1
        headers, url, used = dict(out.headers), out.url, {}
        for name in phantoms.headers & headers.keys():
            for token, value in self.phantoms.items():
                if token in headers[name]:
                    headers[name] = headers[name].replace(token, value)
                    used[token] = value
        for slot in slots:
            value = slot.template
            for name, secret in self.secrets.items():
                if f"${{secret:{name}}}" in value:
                    value = value.replace(f"${{secret:{name}}}", secret)
                    used[name] = secret
            if "${secret:" in value:
                raise NotFound(f"a secret of link {link!r} is not set")
            if slot.place == "header":
                headers[slot.name] = value
            else:
                url += f"{'&' if '?' in url else '?'}{slot.name}={value}"
        return replace(out, url=url, headers=headers), Redacted(used)


# -- the egress --------------------------------------------------------------------------------------------


@dataclass
class Stage:
    egress: Egress
    seen: list[Event]
    secrets: Secrets

    def events(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    def link(self, base_url: str, /, name: str = "api", application: str = "app", **table: Any) -> Link:
        """Let this be the only link of an application; it may reach loopback addresses."""
        keys = {"base_url": base_url, "allow": ["* /**"], "addresses": ["127.0.0.0/8"], "backoff_initial_s": 0.001}
        link = parse_link(name, {key: value for key, value in (keys | table).items() if value is not None})
        self.egress.set_links(SCOPE, application, {name: link})
        return link

    async def get(self, path: str = "/", **fields: Any) -> Any:
        return await self.egress.fetch(CALL, Request("api", "GET", path, **fields))

    async def post(self, path: str = "/", call: Call = CALL, **fields: Any) -> Any:
        return await self.egress.fetch(call, Request("api", "POST", path, **fields))


@asynccontextmanager
async def egress(
    *,
    permitted: Sequence[Any] = LOOPBACK,
    resolve: Callable[[str, int], Awaitable[Sequence[str]]] | None = None,
    secrets: Secrets | None = None,
    node_links: Mapping[str, Link] | None = None,
    flushed: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[Stage]:
    bus = EventBus()
    seen: list[Event] = []
    bus.subscribe(seen.append)
    credentials = secrets or Secrets()

    async def nothing_to_flush() -> None:
        pass

    way_out = Egress(
        clock=SystemClock(),
        ids=SeededIds(1),
        events=bus,
        loop=asyncio.get_running_loop(),
        credentials=credentials,
        permitted=permitted,
        resolve=resolve,
        node_links=node_links,
        flushed=flushed or nothing_to_flush,
    )
    try:
        yield Stage(way_out, seen, credentials)
    finally:
        await way_out.close()


# -- TLS ---------------------------------------------------------------------------------------------------


def certificate(folder: Path, *names: str) -> tuple[ssl.SSLContext, str]:
    """A server's TLS for these names, and the file of who vouches for it; both made now."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    return context, str(cert_file)
