"""A node with MiniClaw, and a provider of models that does what a test says, both reached over real HTTP."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "plexspaces_runtime.cli"]

# -- the provider ------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """A request as the provider got it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages

    @property
    def last(self) -> str:
        return str(self.messages[-1].get("content") or "")


# What the provider does with a request: writes its answer.
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        seen = Seen(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        self.server.provider.seen.append(seen)
        self.server.provider.behave(seen)(self)

    def do_GET(self) -> None:
        self.server.provider.gets.append(self.path)
        self.whole(200, self.server.provider.page)

    def whole(self, status: int, content: Any, **headers: str) -> None:
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", headers.pop("content_type", "application/json"))
        self.send_header("content-length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

    def event(self, content: Any) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        return


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, provider: Provider) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.provider = provider

    def handle_error(self, request: Any, client_address: Any) -> None:
        # The node went away in the middle, which is what some tests are about.
        return


@dataclass
class Provider:
    """Speaks OpenAI's API.

    Attributes:
        behave: what it does with a request.
        seen: what it was asked, in order.
        page: what it answers to a GET.
    """

    behave: Callable[[Seen], Answer]
    seen: list[Seen] = field(default_factory=list)
    gets: list[str] = field(default_factory=list)
    page: str = "nothing"
    url: str = ""


def says(*texts: str, usage: tuple[int, int] = (10, 5), pause_s: float = 0.0) -> Answer:
    """An answer in these pieces."""

    def answer(handler: Handler) -> None:
        handler.begin()
        for text in texts:
            handler.event({"choices": [{"index": 0, "delta": {"content": text}}]})
            if pause_s:
                time.sleep(pause_s)
        handler.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        handler.event({"choices": [], "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}})
        handler.event("[DONE]")

    return answer


def calls(*wanted: tuple[str, dict[str, Any] | str], prefix: str = "call") -> Answer:
    """An answer that wants tools: name and arguments of each."""

    def answer(handler: Handler) -> None:
        handler.begin()
        for index, (name, arguments) in enumerate(wanted):
            text = arguments if isinstance(arguments, str) else json.dumps(arguments)
            function = {"name": name, "arguments": text}
            call = {"index": index, "id": f"{prefix}_{secrets.token_hex(4)}", "type": "function", "function": function}
            handler.event({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})
        handler.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
        handler.event({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}})
        handler.event("[DONE]")

    return answer


def fails(status: int, message: str = "no", **headers: str) -> Answer:
    """An error."""
    return lambda handler: handler.whole(status, {"error": {"message": message}}, **headers)


def breaks_off(text: str) -> Answer:
    """An answer whose connection ends in the middle."""

    def answer(handler: Handler) -> None:
        handler.begin()
        handler.event({"choices": [{"index": 0, "delta": {"content": text}}]})
        handler.connection.close()

    return answer


def hangs(text: str = "") -> Answer:
    """An answer that never comes, or stops coming after some text."""

    def answer(handler: Handler) -> None:
        if text:
            handler.begin()
            handler.event({"choices": [{"index": 0, "delta": {"content": text}}]})
        # Until the node has had enough of it.
        handler.connection.settimeout(30)
        handler.connection.recv(1)
        handler.close_connection = True

    return answer


def writes(text: str) -> Answer:
    """Anything at all."""
    return lambda handler: handler.whole(200, text, content_type="text/event-stream")


def in_turn(*answers: Answer) -> Callable[[Seen], Answer]:
    """One after the other; the last for ever."""
    left = list(answers)
    lock = threading.Lock()

    def behave(_seen: Seen) -> Answer:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return behave


@contextmanager
def provider(behave: Callable[[Seen], Answer] | None = None) -> Iterator[Provider]:
    """A provider that listens."""
    made = Provider(behave or in_turn(says("ok")))
    server = Server(made)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


# -- the node ----------------------------------------------------------------------------------------------


def configuration(model: Provider, **changes: str) -> str:
    """The application that the repository ships, with its model at `model`.

    Args:
        changes: what stands in the file, by what it is to be replaced with.
    """
    text = (ROOT / "app-config.toml").read_text(encoding="utf-8")
    here = f'base_url = "{model.url}"\naddresses = ["127.0.0.1/32"]'
    wanted = {
        'base_url = "https://api.openai.com"': here,
        'source = "apps/miniclaw"': f'source = "{ROOT / "apps" / "miniclaw"}"',
        **changes,
    }
    for before, after in wanted.items():
        assert text.count(before) >= 1, before
        text = text.replace(before, after)
    return text


class Claw:
    """A node's process with MiniClaw on it."""

    def __init__(self, data_dir: Path, config: str, **env: str) -> None:
        self.data_dir = data_dir
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PLEXSPACES_") or k == "PLEXSPACES_CACHE_DIR"}
        self.env = {**clean, "PLEXSPACES_DATA_DIR": str(data_dir), **env}
        self.config = data_dir.parent / "app-config.toml"
        self.config.write_text(config, encoding="utf-8")
        self.key = "sk-" + secrets.token_hex(24)
        self.start()
        self.http("PUT", "/api/v1/secrets/openai", {"value": self.key})
        done = self.run("deploy", str(self.config), timeout_s=300)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        self.log = (self.data_dir.parent / "node.log").open("ab")
        self.process = subprocess.Popen(
            [*CLI, "serve", "--port", "0", "--grpc-port", "0", "--egress-permit", "127.0.0.0/8"],
            env=self.env,
            stderr=self.log,
        )
        self._find()

    def _find(self) -> None:
        """Wait until the node says where it is."""
        file = self.data_dir / "node.json"
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, "the node has ended"
            assert time.monotonic() < deadline, "the node does not answer"
            try:
                said = json.loads(file.read_text())
                if said.get("pid", self.process.pid) == self.process.pid:
                    self.url = said["url"]
                    if httpx.get(self.url + "/readyz", timeout=5).status_code == 200:
                        break
            except (OSError, ValueError, KeyError, httpx.TransportError):
                pass
            time.sleep(0.05)
        self.token = (self.data_dir / "token").read_text().strip()

    def kill(self) -> None:
        """End the node with -9."""
        self.process.kill()
        self.process.wait(30)
        (self.data_dir / "node.json").unlink(missing_ok=True)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(30)
        self.log.close()

    def run(self, *words: str, timeout_s: float = 60, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """A command of the command line, beside this node."""
        env = {**self.env, "PLEXSPACES_URL": self.url}
        return subprocess.run(
            [*CLI, *words], env=env, capture_output=True, text=True, timeout=timeout_s, input=stdin, check=False
        )

    def token_of(self, subject: str, *roles: str) -> str:
        """A token for somebody else."""
        words = [word for role in roles for word in ("--role", role)]
        done = self.run("token", "--subject", subject, "--ttl", "1h", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def http(self, method: str, path: str, body: Any = None, token: str = "", timeout_s: float = 60) -> Any:
        answer = self.send(method, path, body, token, timeout_s)
        assert answer.is_success, f"{answer.status_code}: {answer.text}"
        return answer.json() if answer.content else None

    def send(
        self, method: str, path: str, body: Any = None, token: str = "", timeout_s: float = 60, **headers: str
    ) -> httpx.Response:
        sent = {"authorization": f"Bearer {token or self.token}", **headers}
        return httpx.request(method, self.url + path, json=body, headers=sent, timeout=timeout_s)

    def ask(self, actor: str, op: str, token: str = "", wait_s: float = 60, **arguments: Any) -> Any:
        """Ask an actor over HTTP."""
        path = f"/api/v1/actors/default/default/{actor}?wait={wait_s:g}"
        return self.http("POST", path, {"op": op, **arguments}, token, wait_s + 10)

    def chat(self, session: str, message: str, token: str = "", **more: Any) -> Any:
        """One turn."""
        return self.ask(f"agent/{session}", "chat", token, message=message, **more)

    def events(self, session: str) -> list[dict[str, Any]]:
        """What happened in a session."""
        found: list[dict[str, Any]] = self.http("GET", f"/api/v1/streams/sessions/{session}?limit=1000")["events"]
        return found

    def until(self, session: str, event_type: str, count: int = 1, within_s: float = 60) -> list[dict[str, Any]]:
        """A session's events as soon as there are so many of a type."""
        deadline = time.monotonic() + within_s
        while True:
            answer = self.send("GET", f"/api/v1/streams/sessions/{session}?limit=1000")
            events = answer.json()["events"] if answer.status_code == 200 else []
            if sum(event["event_type"] == event_type for event in events) >= count:
                return list(events)
            assert time.monotonic() < deadline, f"no {event_type}: {[each['event_type'] for each in events]}"
            time.sleep(0.02)

    def audit(self, **wanted: Any) -> list[dict[str, Any]]:
        """What is on record, once all that was reported is."""
        deadline = time.monotonic() + 30
        while self.ask("audit", "get_stats")["waiting"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        found: list[dict[str, Any]] = self.ask("audit", "query_events", limit=1000, **wanted)["events"]
        return found
