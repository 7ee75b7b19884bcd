"""Whatever answers the command line, it ends with one of its exit statuses and says why, without a traceback."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.cli import app
from plexspaces_runtime.cli.exits import MEANINGS
from tests.security.fuzzing import examples, json_values

COMMANDS: list[tuple[str, ...]] = [
    ("ps",),
    ("ps", "--json"),
    ("tree",),
    ("apps",),
    ("apps", "shop"),
    ("ask", "a", "op"),
    ("tell", "a", "op"),
    ("info", "a"),
    ("stop", "a"),
    ("restart", "a"),
    ("streams", "ls"),
    ("streams", "cat", "/a"),
    ("streams", "append", "/a", "t"),
    ("workflows", "ls"),
    ("workflows", "show", "w/k"),
    ("promises", "ls"),
    ("dead-letters", "ls"),
    ("dead-letters", "ls", "--json"),
    ("dead-letters", "retry", "--all"),
    ("journal", "ls"),
    ("journal", "show", "a"),
    ("journal", "verify", "a"),
    ("journal", "recover", "a"),
    ("undeploy", "a"),
]
# What steers a terminal: CSI as two characters and as one, OSC, a bell, and text that runs backwards.
STEERING = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202eevil\r"

GOOD: dict[str, Any] = {
    "actors": [
        {
            "tenant": "t",
            "namespace": "n",
            "type": STEERING,
            "key": "k",
            "state": "idle",
            "last_exit": STEERING,
            "mailbox_messages": 0,
            "restarts": 0,
            "messages_handled": 0,
            "started_ms": 0,
            "cpu_ms": 0.0,
            "component_hash": "a",
            "waiting_for": [],
        }
    ],
    "tree": [{"namespace": "n", "name": STEERING, "kind": "actor", "state": "idle", "children": []}],
    "applications": [{"name": STEERING, "namespace": "n", "version": 1, "state": "running"}],
    "dead_letters": [
        {
            "id": "x",
            "kind": "actor",
            "source": STEERING,
            "msg_type": "t",
            "deliveries": 1,
            "dead_ms": 0,
            "reason": STEERING,
            "payload": STEERING,
        }
    ],
    "streams": [{"path": STEERING, "first": 1, "last": 2, "bytes": 3, "flow": "open", "modified_ms": 0}],
    "journals": [
        {
            "tenant": "t",
            "namespace": "n",
            "type": STEERING,
            "key": "k",
            "first": 1,
            "last": 1,
            "checkpoint": 1,
            "state_bytes": 1,
            "waiting": 0,
            "timers": 0,
            "dead": 0,
        }
    ],
    "events": [{"offset": 1, "event_type": STEERING, "payload": STEERING, "time_ms": 0}],
    "history": [],
    "workflows": [],
    "promises": [],
    "detail": STEERING,
    "code": "handler-crashed",
    "last": 1,
}


class Impostor:
    """Answers everything with the same bytes."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b""
        self.peers: set[Any] = set()
        self.asked: list[str] = []
        impostor = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                impostor.peers.add(self.client_address)
                impostor.asked.append(f"{self.command} {self.path}")
                self.send_response(impostor.status)
                self.send_header("Content-Length", str(len(impostor.body)))
                self.end_headers()
                self.wfile.write(impostor.body)

            do_GET = do_POST = do_DELETE = do_PATCH = answer  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def run(self, *words: str) -> tuple[int, str]:
        """Exit status, and all that was written."""
        clean: dict[str, str | None] = {k: None for k in os.environ if k.startswith(("PLEXSPACES_", "XDG_"))}
        env = {**clean, "HOME": "/nonexistent", "PLEXSPACES_URL": self.url, "PLEXSPACES_TOKEN": "a.e30.c"}
        with CliRunner().isolation("", env) as (out, err, _), contextlib.closing(out):
            status = app.run(words)
            return int(status), out.getvalue().decode("utf-8", "replace") + err.getvalue().decode("utf-8", "replace")


@pytest.fixture(scope="module")
def impostor() -> Iterator[Impostor]:
    made = Impostor()
    yield made
    made.close()


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Nearly what a node would say, anything that is JSON, or anything."""
    if draw(st.booleans()):
        value = json.loads(json.dumps(GOOD))
        for name in draw(st.lists(st.sampled_from(sorted(GOOD)), max_size=6)):
            rows = value.get(name)
            if isinstance(rows, list) and rows and isinstance(rows[0], dict) and rows[0] and draw(st.booleans()):
                row = rows[0]
                key = draw(st.sampled_from(sorted(row)))
                if draw(st.booleans()):
                    row[key] = draw(json_values(3))
                else:
                    del row[key]
            else:
                value[name] = draw(json_values(3))
        # A page that says there is another one, for ever, is for a person to interrupt.
        value.pop("next", None)
        return json.dumps(value).encode()
    found = draw(st.one_of(json_values(4).map(lambda value: json.dumps(value).encode()), st.binary(max_size=100)))
    return found if b'"next"' not in found else b"null"


@examples(150)
@given(
    st.sampled_from(COMMANDS),
    st.sampled_from([200, 200, 200, 201, 204, 400, 401, 403, 404, 429, 500, 502, 503]),
    bodies(),
)
def test_any_answer(impostor: Impostor, words: tuple[str, ...], status: int, body: bytes) -> None:
    impostor.status, impostor.body = status, b"" if status == 204 else body
    ended, said = impostor.run(*words)
    assert ended in [int(each) for each in MEANINGS]
    assert "Traceback" not in said
    if ended:
        assert said.strip()


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] != "streams" or words[1] == "ls"])
def test_what_an_actor_says_does_not_steer_the_terminal(impostor: Impostor, words: tuple[str, ...]) -> None:
    for status in (200, 502):
        impostor.status, impostor.body = status, json.dumps(GOOD).encode()
        _, said = impostor.run(*words)
        for character in "\x1b\x9b\x07\u202e\r":
            assert character not in said, (words, status, said)


def test_a_hundred_dead_letters_go_over_one_connection(impostor: Impostor) -> None:
    impostor.status = 200
    letters = [{"id": f"letter-{number}"} for number in range(100)]
    impostor.body = json.dumps({"dead_letters": letters}).encode()
    impostor.peers.clear()
    impostor.asked.clear()
    ended, _ = impostor.run("dead-letters", "retry", "--all")
    assert ended == 0
    assert len(impostor.asked) == 101
    assert len(impostor.peers) == 1
