"""A secret, a user's key and another tenant's data go through a node; afterwards every byte is searched for them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import resource
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from plexspaces_runtime.api.routes import ROUTES
from tests.services import Gives, Got, Service, serving

CLI: Final = [sys.executable, "-m", "plexspaces_runtime.cli"]
CONFIG: Final = """
[application]
name = "keepers"

[[components]]
name = "code"
path = "WASM"

[links.service]
base_url = "URL"
allow = ["POST /**"]
addresses = ["127.0.0.1"]
retries_max = 1
backoff_initial_s = 0.01
auth = { header = "X-Service-Key", value = "key=${secret:service}" }

[supervisor]
max_restarts = 100
children = [
  { name = "plain", actor_type = "code", role = "plain", capabilities = ["default", "http"] },
  { name = "durable", actor_type = "code", role = "durable", capabilities = ["default", "http"] },
  { name = "errand", actor_type = "code", role = "errand", capabilities = ["default", "http"] },
]
"""


def encodings(value: str) -> dict[str, list[bytes]]:
    """In what a value is searched for; by itself, so as not to repeat the node's mistakes."""
    raw = value.encode()
    aligned = []
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw)
        # Without the characters that depend on what stands beside it.
        aligned.append(text[4 if before else 0 : len(text) - 4])
    return {
        "raw": [raw],
        "base64": [*aligned, *(text.replace(b"+", b"-").replace(b"/", b"_") for text in aligned)],
        "hexadecimal": [raw.hex().encode(), raw.hex().upper().encode()],
        "percent": ["".join(f"%{byte:02{case}}" for byte in raw).encode() for case in "xX"],
        "JSON": ["".join(f"\\u{byte:04{case}}" for byte in raw).encode() for case in "xX"],
    }


def hits(value: str, places: Mapping[str, bytes]) -> list[str]:
    """Where a value is, and in which encoding."""
    found = []
    for place, content in places.items():
        for name, forms in encodings(value).items():
            if any(form in content for form in forms):
                found.append(f"{name} in {place}")
    return found


def files(*folders: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_search_finds_what_is_planted(tmp_path: Path) -> None:
    value = "canary-" + secrets.token_hex(12)
    for name, forms in encodings(value).items():
        for number, form in enumerate(forms):
            (tmp_path / f"{name}-{number}").write_bytes(os.urandom(1000) + form + os.urandom(1000))
    for before in (b"", b"x", b"xy"):
        (tmp_path / f"base64-real-{len(before)}").write_bytes(base64.b64encode(before + value.encode() + b"zz"))
    planted = files(tmp_path)
    assert len(hits(value, planted)) >= len(planted)
    assert hits("canary-" + secrets.token_hex(12), planted) == []


# -- the node ----------------------------------------------------------------------------------------------


def spellings(value: str) -> list[str]:
    """A value as a service may give it back, whole: what is searched for of base64 is less."""
    raw = value.encode()
    whole = [b"x" * before + raw + b"y" * behind for before in range(3) for behind in range(3)]
    return [
        *(base64.b64encode(each).decode() for each in whole),
        *(base64.urlsafe_b64encode(each).decode().rstrip("=") for each in whole),
        *(form.decode() for name, forms in encodings(value).items() if name != "base64" for form in forms),
    ]


def reflect(key: str, user: str) -> Callable[[Got], Gives]:
    """Gives back what it got, in every encoding, in the head and in the body, whole and in pieces."""

    def answer(got: Got) -> Gives:
        known = [each for each in (key, user) if each in str(got.headers)]
        forms = [form for each in known for form in spellings(each)]
        said = json.dumps({"path": got.path, "headers": dict(got.headers), "forms": forms}).encode()
        head = {"X-Echo": got.headers.get("x-service-key", ""), "X-Auth": got.headers.get("authorization", "")}
        if got.path == "/pieces":
            return Gives(headers=head, pieces=[said[at : at + 5] for at in range(0, len(said), 5)])
        if got.path == "/cut":
            return Gives(headers=head, pieces=[said, None])
        if got.path == "/lies":
            return Gives(b"", headers={**head, "Content-Type": known[0], "Content-Encoding": known[0]}, pieces=[said])
        return Gives(said, {"/fault": 503, "/moved": 302}.get(got.path, 200), {**head, "Location": f"/{known[0]}"})

    return answer


@dataclass
class Run:
    """A node as a process, and everything that it wrote or sent.

    Attributes:
        sent: by what was asked for, what a tenant got.
    """

    data_dir: Path
    env: dict[str, str]
    process: subprocess.Popen[bytes]
    url: str
    sent: dict[str, bytes] = field(default_factory=dict)

    def cli(self, *words: str, stdin: str = "", token: str = "") -> str:
        env = {**self.env, "PLEXSPACES_URL": self.url, **({"PLEXSPACES_TOKEN": token} if token else {})}
        ended = subprocess.run([*CLI, *words], env=env, input=stdin, capture_output=True, text=True, timeout=120)
        self.sent[f"{' '.join(words)} ({len(self.sent)})"] = (ended.stdout + ended.stderr).encode()
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    async def http(self, token: str, method: str, path: str, **more: Any) -> Any:
        headers = {"authorization": f"Bearer {token}", **more.pop("headers", {})}
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            answer = await client.request(method, path, headers=headers, **more)
        head = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
        self.sent[f"{method} {path} {answer.status_code} ({len(self.sent)})"] = head.encode() + b"\n\n" + answer.content
        with contextlib.suppress(ValueError):
            return answer.json()

    async def live(self, token: str, path: str) -> None:
        """What a live reader of a stream gets."""
        headers = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
        got = b""
        with contextlib.suppress(TimeoutError, httpx.TransportError):
            async with (
                asyncio.timeout(1.5),
                httpx.AsyncClient(base_url=self.url) as client,
                client.stream("GET", path, params={"live": "true"}, headers=headers) as answer,
            ):
                async for piece in answer.aiter_bytes():
                    got += piece
        assert got, path
        self.sent[f"live {path}"] = got


def clean_env(data_dir: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PLEXSPACES_") or k == "PLEXSPACES_CACHE_DIR"}
    return {**kept, "PLEXSPACES_DATA_DIR": str(data_dir), "PYTHONFAULTHANDLER": "1"}


def started(tmp_path: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    work = tmp_path / "work"
    work.mkdir()
    words = ["--port", "0", "--grpc-port", "0", "--egress-permit", "127.0.0.0/8"]
    with (tmp_path / "stdout.log").open("wb") as out, (tmp_path / "stderr.log").open("wb") as err:
        return subprocess.Popen(
            [*CLI, "serve", *words, "--log-level", "debug", "--log-format", "json"],
            env=env,
            stdout=out,
            stderr=err,
            cwd=work,
            # It is going to be aborted, and an image of its memory would hold what it knows.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
        )


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Run]:
    data_dir = tmp_path / "data"
    env = clean_env(data_dir)
    process = started(tmp_path, env)
    try:
        async with asyncio.timeout(60):
            while not (data_dir / "node.json").exists():
                assert process.poll() is None, (tmp_path / "stderr.log").read_text()
                await asyncio.sleep(0.05)
        yield Run(data_dir, env, process, json.loads((data_dir / "node.json").read_text())["url"])
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def get_paths() -> Iterator[str]:
    """Every GET route there is, with names that exist."""
    named = {
        "tenant": "default", "namespace": "default", "type": "durable", "key": "default", "id": "nothing",
        "path": "kept", "name": "kept",
    }  # fmt: skip
    for route in ROUTES:
        if route.method == "GET":
            yield route.path.format(**named)
    for actor_type in ("plain", "errand", "errand/one"):
        for path in ("/api/v1/actors/default/default/{}", "/api/v1/journals/default/default/{}"):
            yield path.format(actor_type)
    yield from (
        "/api/v1/streams/answers", "/api/v1/secrets/service", "/api/v1/secrets/nothing", "/api/v1/applications/keepers",
        "/api/v1/workflows/errand/one", "/api/v1/journals/default/default/durable?after=0&limit=1000",
        "/api/v1/dead-letters?namespace=default", "/nothing/here",
    )  # fmt: skip


async def exercise(node: Run, token: str, user: str) -> None:
    """Everything that a tenant's actors can do with a secret."""
    base = "/api/v1/actors/default/default"

    async def ask(actor: str, op: str, **arguments: Any) -> Any:
        return await node.http(token, "POST", f"{base}/{actor}?wait=30", json={"op": op, **arguments})

    for actor in ("plain", "durable"):
        told = await ask(actor, "connect", api_key=user, token=f"token-of-{actor}")
        assert told["token"] == f"token-of-{actor}", told
        await ask(actor, "blab", api_key=user, login={"user": "ada", "password": user}, other="nothing")
        headers = {"Authorization": f"Bearer token-of-{actor}"}
        for path in ("/echo", "/fault", "/moved", "/lies", "/cut"):
            await ask(actor, "fetch", path=path, headers=headers)
        for path in ("/pieces", "/cut"):
            await ask(actor, "read", path=path, headers=headers)
        await ask(actor, "fetch", path="/echo", headers=headers, body={"text": "hello"})
        await ask(actor, "blab", api_key=12345678)
        await ask(actor, "blab", api_key=user, extra=1)
        await ask(actor, "nothing", api_key="short")
        await node.http(token, "POST", f"{base}/{actor}", json={"op": "blab", "api_key": user})
        await node.http(token, "GET", f"{base}/{actor}?op=blab&api_key={user}")
        for _ in range(2):
            key = {"idempotency-key": f"once-{actor}"}
            body = {"op": "blab", "api_key": user}
            await node.http(token, "POST", f"{base}/{actor}?wait=30", json=body, headers=key)
        await ask(actor, "crash_with_answer", path="/echo", headers=headers)
        await ask(actor, "crash", api_key=user)
        await node.http(token, "POST", f"{base}/{actor}", json={"op": "crash", "api_key": user})
        await ask(actor, "get")
    await ask("plain", "pass_on", to="durable", api_key=user)
    ended = await node.http(token, "POST", "/api/v1/workflows/errand/one?wait=30", json={"api_key": user})
    assert "phantom-" in str(ended)
    await node.http(token, "PUT", "/api/v1/secrets/bad", content=b'{"value": "' + user.encode() + b'"')
    await node.http(token, "PUT", "/api/v1/secrets/user", json={"value": user})
    await node.http(token, "DELETE", "/api/v1/secrets/user")
    await node.http(token, "POST", "/api/v1/secret-key/rotate")


async def look_everywhere(node: Run, token: str) -> None:
    for path in get_paths():
        if "{" not in path:
            await node.http(token, "GET", path)
            await node.http("none", "GET", path)
    for path in ("/api/v1/streams/kept", "/api/v1/streams/answers"):
        await node.live(token, path)
    for words in (
        ("secret", "ls"), ("secret", "ls", "--json"), ("ps",), ("tree",), ("apps",), ("streams", "cat", "/kept"),
        ("journal", "show", "durable"), ("dead-letters", "ls", "--json"), ("info", "durable"), ("links",),
    ):  # fmt: skip
        with contextlib.suppress(AssertionError):
            await asyncio.to_thread(node.cli, *words)


@pytest.mark.guest
async def test_no_byte_that_a_node_writes_or_sends_holds_a_secret(tmp_path: Path, guest: Callable[[str], Path]) -> None:
    key, user, theirs = (f"{kind}-{secrets.token_hex(16)}" for kind in ("svc", "usr", "theirs"))
    service: Service
    async with serving(reflect(key, user)) as service, running(tmp_path) as node:
        token = (node.data_dir / "token").read_text().strip()
        config = tmp_path / "app-config.toml"
        config.write_text(CONFIG.replace("URL", service.url).replace("WASM", str(guest("keeper"))))
        await asyncio.to_thread(lambda: node.cli("secret", "set", "service", stdin=f"{key}\n"))
        await asyncio.to_thread(lambda: node.cli("deploy", str(config)))
        await exercise(node, token, user)

        # Another tenant keeps something of its own, everywhere it can; and only it is ever told.
        stranger = node.cli("token", "--tenant", "globex", "--role", "admin").strip()
        ours = dict(node.sent)
        words = ("deploy", str(guest("keeper")), "--type", "plain", "--config", '{"role": "plain"}')
        await asyncio.to_thread(lambda: node.cli(*words, token=stranger))
        for op, arguments in (("connect_plainly", {"value": theirs}), ("hold", {"text": theirs})):
            body = {"op": op, **arguments}
            await node.http(stranger, "POST", "/api/v1/actors/globex/default/plain?wait=30", json=body)
        await node.http(stranger, "PUT", "/api/v1/secrets/theirs", json={"value": f"secret-{theirs}"})
        await node.http(stranger, "PUT", "/api/v1/blobs/default/kept", content=theirs.encode())
        await node.http(stranger, "POST", "/api/v1/streams/kept", json={"event_type": "x", "payload": theirs})
        node.sent = ours
        await look_everywhere(node, token)
        ours = dict(node.sent)
        for path in ("/api/v1/secrets", "/api/v1/actors", "/api/v1/streams/kept", "/metrics"):
            await node.http(stranger, "GET", path)
        # A traceback of all threads, and no chance to tidy up: the write-ahead log stays as it is.
        os.kill(node.process.pid, signal.SIGABRT)
        node.process.wait(30)

    logs = {name: (tmp_path / name).read_bytes() for name in ("stdout.log", "stderr.log")}
    assert b"Fatal Python error: Aborted" in logs["stderr.log"]
    written = {**files(node.data_dir, tmp_path / "work"), **logs}
    assert any(name.endswith(".db-wal") and content for name, content in written.items())

    # It all took place: the service got both, what came back was taken out, and what stands for them is everywhere.
    assert any(key in got.headers.get("x-service-key", "") for got in service.requests)
    assert any(user in got.headers.get("authorization", "") for got in service.requests)
    assert b"[secret service]" in b"".join(node.sent.values())
    assert b"SecretReflected" in logs["stderr.log"]
    assert hits("[secret service]", written)
    assert hits("token-of-durable", written)
    assert hits(theirs, written), "what is no secret is found in the database by the same search"
    assert len(node.sent) > 100

    for value in (key, user, f"secret-{theirs}"):
        assert hits(value, written) == []
        assert hits(value, node.sent) == []
    assert hits(theirs, {**ours, **logs}) == []
