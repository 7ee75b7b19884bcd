"""The command line as its users meet it: parsing, output, exit status; the server is real and answers as told."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from click.testing import CliRunner

from plexspaces_runtime.api.auth import LocalAuthority
from plexspaces_runtime.cli import app
from plexspaces_runtime.cli.app import COMMANDS
from plexspaces_runtime.cli.client import find_target


@dataclass
class Node:
    """Records what it is sent and answers what the test put in."""

    answers: list[tuple[int, Any]] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    @property
    def last(self) -> tuple[str, str, dict[str, str], dict[str, str], bytes]:
        return self.requests[-1]

    @property
    def last_body(self) -> Any:
        return json.loads(self.last[4])


@pytest.fixture
def node() -> Iterator[Node]:
    recorded = Node()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            split = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            recorded.requests.append((self.command, split.path, dict(parse_qsl(split.query)), headers, body))
            status, value = recorded.answers.pop(0)
            raw = b"" if value is None else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    recorded.url = f"http://127.0.0.1:{server.server_port}"
    yield recorded
    server.shutdown()
    thread.join()
    server.server_close()


def token_for(tenant: str) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"tenant": tenant}).encode()).rstrip(b"=").decode()
    return f"header.{claims}.signature"


@dataclass
class Result:
    status: int
    out: str
    err: str


def run(*words: str, env: dict[str, str] | None = None, cwd: Path | None = None, stdin: str = "") -> Result:
    """The command with nothing of this process's settings."""
    clean: dict[str, str | None] = {k: None for k in os.environ if k.startswith(("PLEXSPACES_", "XDG_"))}
    with (
        contextlib.chdir(cwd or Path.cwd()),
        CliRunner().isolation(stdin, {**clean, "HOME": "/nonexistent", **(env or {})}) as (out, err, _),
    ):
        status = app.run(words)
        return Result(int(status), out.getvalue().decode(), err.getvalue().decode())


def at(node: Node, token: str = "") -> dict[str, str]:
    return {"PLEXSPACES_URL": node.url, "PLEXSPACES_TOKEN": token or token_for("acme")}


def test_help_lists_every_command_and_the_exit_statuses() -> None:
    result = run("--help")
    assert result.status == 0
    for name in COMMANDS:
        assert f"  {name} " in result.out
    assert "no node answers" in result.out


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    result = run(name, "--help")
    assert result.status == 0, result.err
    assert f" {name} " in result.out.splitlines()[0]


def test_a_misspelt_command_is_a_usage_error_with_a_suggestion() -> None:
    result = run("biuld")
    assert result.status == 2
    assert "build" in result.err


def test_ask_sends_operation_and_arguments_and_prints_the_reply(node: Node) -> None:
    node.answers.append((200, {"count": 5}))
    result = run("ask", "counter/a b@c", "increment", "--amount", "5", "note=x", env=at(node))
    assert (result.status, json.loads(result.out)) == (0, {"count": 5})
    method, path, query, headers, _ = node.last
    assert (method, path) == ("POST", "/api/v1/actors/acme/default/counter/a%20b%40c")
    assert query == {"wait": "30"}
    assert headers["authorization"] == f"Bearer {token_for('acme')}"
    assert node.last_body == {"op": "increment", "amount": 5, "note": "x"}


def test_ask_reads_arguments_from_stdin(node: Node) -> None:
    node.answers.append((200, None))
    run("ask", "counter", "increment", "-", "--timeout", "2.5", "-n", "ns", env=at(node), stdin='{"amount": 7}')
    assert node.last[1:3] == ("/api/v1/actors/acme/ns/counter", {"wait": "2.5"})
    assert node.last_body == {"op": "increment", "amount": 7}


def test_tell_prints_the_id_and_sends_the_idempotency_key(node: Node) -> None:
    node.answers.append((202, {"message_id": "m-1"}))
    result = run("tell", "counter", "increment", "--id", "mine", "--tenant", "t", env=at(node))
    assert (result.status, result.out) == (0, "m-1\n")
    assert node.last[1] == "/api/v1/actors/t/default/counter"
    assert node.last[2] == {}
    assert node.last[3]["idempotency-key"] == "mine"


@pytest.mark.parametrize(
    ("http", "code", "status"),
    [
        (401, "unauthenticated", 4),
        (403, "permission-denied", 4),
        (404, "actor-not-found", 1),
        (422, "handler-refused", 1),
        (429, "mailbox-full", 5),
        (504, "deadline-exceeded", 5),
        (502, "handler-crashed", 6),
        (500, "internal", 1),
    ],
)
def test_a_refusal_is_told_and_has_its_exit_status(node: Node, http: int, code: str, status: int) -> None:
    problem = {"type": "x", "status": http, "code": code, "detail": "what happened", "details": {"limit": 3}}
    node.answers += [(http, problem), (http, problem)]
    plain = run("ask", "counter", "get", env=at(node))
    assert (plain.status, plain.out) == (status, "")
    assert "what happened" in plain.err
    machine = run("ask", "counter", "get", "--json", env=at(node))
    assert machine.status == status
    error = json.loads(machine.err)["error"]
    assert (error["code"], error["message"], error["details"]) == (code, "what happened", {"limit": 3})


def test_an_answer_that_is_no_problem_document_is_still_told(node: Node) -> None:
    node.answers.append((503, ["?"]))
    result = run("ps", env=at(node))
    assert result.status == 1
    assert "HTTP 503" in result.err


def test_no_node_is_a_status_of_its_own_and_says_what_to_do() -> None:
    result = run("ps", env={"PLEXSPACES_URL": "http://127.0.0.1:1"})
    assert (result.status, result.out) == (3, "")
    assert "plexspaces serve" in result.err


def an_actor(key: str) -> dict[str, Any]:
    return {
        "namespace": "ns",
        "type": "counter",
        "key": key,
        "state": "idle",
        "mailbox_messages": 3,
        "messages_handled": 4,
        "restarts": 5,
        "last_exit": "normal",
    }


def test_ps_prints_all_pages_as_a_table_or_json(node: Node) -> None:
    pages = [(200, {"actors": [an_actor("default")], "next": "n"}), (200, {"actors": [an_actor("k")]})]
    node.answers += [*pages, *pages, (200, {"actors": []})]
    table = run("ps", "-n", "ns", env=at(node)).out.splitlines()
    assert table[0].split()[:3] == ["NAMESPACE", "ACTOR", "STATE"]
    assert [line.split() for line in table[1:]] == [
        ["ns", "counter", "idle", "3", "4", "5", "normal"],
        ["ns", "counter/k", "idle", "3", "4", "5", "normal"],
    ]
    assert [request[2] for request in node.requests] == [{"namespace": "ns"}, {"namespace": "ns", "after": "n"}]
    assert json.loads(run("ps", "--json", env=at(node)).out) == {"actors": [an_actor("default"), an_actor("k")]}
    nothing = run("ps", env=at(node))
    assert nothing.out == ""
    assert "no actors run" in nothing.err


def test_stop_and_info(node: Node) -> None:
    described = {"increment": {}, "get": {}}
    shown = {"state": "idle", "last_exit": "", "cpu_ms": 1.23456, "facets": {"metrics": {"messages": 3}}, "labels": {}}
    node.answers += [(204, None), (200, {**shown, "handlers": described})]
    assert run("stop", "counter/k", env=at(node)).out == "stopped counter/k\n"
    assert node.last[:3] == ("DELETE", "/api/v1/actors/acme/default/counter/k", {})
    lines = [line.split(maxsplit=2) for line in run("info", "counter", env=at(node)).out.splitlines()]
    assert lines == [
        ["state", "idle"],
        ["last", "exit", "-"],
        ["cpu", "ms", "1.2"],
        ["facets", '{"metrics":', '{"messages": 3}}'],
        ["labels", "-"],
        ["operations", "increment,", "get"],
    ]
    assert node.last[:2] == ("GET", "/api/v1/actors/acme/default/counter/info")


def test_deploy_sends_the_component_and_its_configuration(node: Node, tmp_path: Path) -> None:
    wasm = tmp_path / "counter_actor.wasm"
    wasm.write_bytes(b"\0asm-component")
    described = {"increment": {}, "get": {}}
    node.answers.append((201, {"version": 2, "handlers": described}))
    result = run("deploy", str(wasm), "--config", '{"args": {}}', env=at(node))
    assert result.status == 0, result.err
    assert "deployed default/counter, version 2" in result.out
    assert "operations: increment, get" in result.out
    assert "plexspaces ask counter increment" in result.out
    method, path, _, headers, body = node.last
    assert (method, path) == ("POST", "/api/v1/deploy")
    assert headers["content-type"].startswith("multipart/form-data")
    for part in (b'name="namespace"', b'name="actor_type"', b'name="config"', b'name="wasm"', b"\0asm-component"):
        assert part in body


def not_found() -> tuple[int, Any]:
    return 404, {"status": 404, "code": "not-found", "detail": "nothing", "details": {"application": "x"}}


def test_undeploy_of_a_type(node: Node) -> None:
    node.answers += [not_found(), (204, None), (204, None)]
    assert run("undeploy", "counter", env=at(node)).out == "undeployed default/counter\n"
    assert node.last[:2] == ("DELETE", "/api/v1/deployments/default/counter")
    assert run("undeploy", "counter", "--type", "-n", "ns", env=at(node)).status == 0
    assert node.last[:2] == ("DELETE", "/api/v1/deployments/ns/counter")
    assert len(node.requests) == 3


def test_build_reports_every_mistake_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad_actor.py").write_text("import nowhere\nimport ssl\nfrom plexspaces import actor\n")
    env = {"PLEXSPACES_CACHE_DIR": str(tmp_path / "cache")}
    result = run("build", "bad_actor.py", "-o", "bad.wasm", env=env, cwd=tmp_path)
    assert (result.status, result.out) == (1, "")
    assert "bad_actor.py:1: error: imports nowhere" in result.err
    assert "bad_actor.py:2: error: imports ssl" in result.err
    assert not (tmp_path / "bad.wasm").exists()
    machine = run("build", "bad_actor.py", "--json", env=env, cwd=tmp_path)
    findings = json.loads(machine.err)["error"]["details"]["findings"]
    assert [finding["line"] for finding in findings] == [1, 2]


def test_the_local_token_is_printed_or_missed(tmp_path: Path) -> None:
    missing = run("token", "--data-dir", str(tmp_path))
    assert missing.status == 4
    assert "plexspaces serve" in missing.err
    (tmp_path / "token").write_text("abc\n")
    assert run("token", "--data-dir", str(tmp_path)).out == "abc\n"
    assert json.loads(run("token", "--json", env={"PLEXSPACES_DATA_DIR": str(tmp_path)}).out) == {"token": "abc"}


def test_a_token_is_minted_with_the_nodes_key(tmp_path: Path) -> None:
    authority = LocalAuthority.open(tmp_path, tenant="acme")
    words = ["--subject", "ada", "--role", "r1", "--role", "r2", "--ttl", "2h", "--data-dir", str(tmp_path)]
    claims = authority.claims(run("token", *words).out.strip())
    assert (claims["tenant"], claims["sub"], claims["roles"]) == ("acme", "ada", ["r1", "r2"])
    assert claims["exp"] - claims["iat"] == 7_200
    other = authority.claims(run("token", "--tenant", "other", "--data-dir", str(tmp_path)).out.strip())
    assert other["tenant"] == "other"
    assert authority.claims(run("token", "--data-dir", str(tmp_path)).out.strip())["tenant"] == "acme"


def test_a_token_is_not_minted_where_no_node_has_been(tmp_path: Path) -> None:
    assert run("token", "--tenant", "x", "--data-dir", str(tmp_path)).status == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ttl", ["5", "0s", "1w", "-1d", "soon"])
def test_a_duration_has_a_unit(ttl: str) -> None:
    assert run("token", "--ttl", ttl).status == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_both_names(shell: str) -> None:
    result = run("completion", shell)
    assert result.status == 0, result.err
    assert "_PLEXSPACES_COMPLETE" in result.out
    assert "_PLEXSPACES_PY_COMPLETE" in result.out


def test_a_new_projects_test_passes_and_its_actor_has_no_mistakes(tmp_path: Path) -> None:
    result = run("init", "my-hello", cwd=tmp_path)
    assert result.status == 0, result.err
    project = tmp_path / "my-hello"
    assert {f.name for f in project.iterdir()} == {
        "my_hello_actor.py",
        "test_my_hello_actor.py",
        "README.md",
        ".gitignore",
    }
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
    )
    assert tested.returncode == 0, tested.stdout
    assert "2 passed" in tested.stdout
    again = run("init", "my-hello", cwd=tmp_path)
    assert again.status == 1
    assert "already has" in again.err


@pytest.mark.parametrize("name", ["", "1st", "../..", "ü"])
def test_a_new_project_needs_a_usable_name(tmp_path: Path, name: str) -> None:
    assert run("init", "x", "--name", name or "-", cwd=tmp_path).status == 1
    assert list(tmp_path.iterdir()) == []


def test_the_node_file_and_flags_of_serve_are_checked_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[limits]\nslice = 1\n")
    result = run("serve", "--config", str(file), "--port", "70000", "--data-dir", str(tmp_path / "data"))
    assert result.status == 1
    assert f"{file}:2: unknown key 'slice'" in result.err
    assert "--port" in result.err
    assert not (tmp_path / "data").exists()


def test_the_example_that_serve_deploys_is_the_example_application() -> None:
    import plexspaces_runtime.cli as package

    template = Path(package.__file__).parent / "templates" / "counter_actor.py.txt"
    example = Path(__file__).parents[3] / "apps" / "counter" / "counter_actor.py"
    assert template.read_text() == example.read_text()


def test_where_a_node_is_looked_for(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert find_target(home).url == "http://127.0.0.1:8080"
    data = tmp_path / ".local/share/plexspaces"
    data.mkdir(parents=True)
    (data / "node.json").write_text('{"url": "http://127.0.0.1:9/"}')
    (data / "token").write_text(token_for("t") + "\n")
    found = find_target(home)
    assert (found.url, found.tenant) == ("http://127.0.0.1:9", "t")
    found = find_target({**home, "PLEXSPACES_URL": "http://x/", "PLEXSPACES_TOKEN": "junk"})
    assert (found.url, found.token, found.tenant) == ("http://x", "junk", "default")


@pytest.mark.parametrize(
    "command",
    [["--help"], ["ps", "--help"], ["tree", "--help"], ["deploy", "--help"], ["build", "--help"], ["token", "--help"]],
)
def test_heavy_packages_are_not_imported_before_they_are_needed(command: list[str]) -> None:
    code = (
        "import sys\nfrom plexspaces_runtime.cli.app import cli\n"
        f"try:\n    cli.main({command!r}, standalone_mode=False)\nfinally:\n"
        "    heavy = {'wasmtime', 'rich', 'httpx', 'grpc', 'uvicorn', 'uvloop', 'jwt', 'orjson', 'componentize_py'}\n"
        "    print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
