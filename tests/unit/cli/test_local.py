"""What `plexspaces chat --local` finds, writes and keeps alive; the chat itself is an acceptance test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.cli.local import model as models
from plexspaces_runtime.cli.local import node as nodes
from plexspaces_runtime.cli.local.model import Engine, Keeper, failures_after, find_engine, pause_s
from plexspaces_runtime.cli.local.node import configured
from plexspaces_runtime.cli.output import CommandError
from plexspaces_runtime.deployment.appconfig import parse

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = (ROOT / "app-config.toml").read_text(encoding="utf-8")
ENGINE = Engine('odd "name"', "http://127.0.0.1:4711", (), "")
WAIT_S = 60.0


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "never"
        time.sleep(0.02)
    return found


# -- the configuration -------------------------------------------------------------------------------------


def test_the_shipped_application_gets_a_link_to_the_model_and_the_model_in_front() -> None:
    config = parse(configured(SHIPPED, ROOT, ENGINE))
    link = config.links["local"]
    assert link.base_url == "http://127.0.0.1:4711"
    assert [str(each) for each in link.addresses] == ["127.0.0.1/32"]
    assert link.actors == ("llm_router",)
    children = {child.name: child for child in config.actors()}
    router = children["llm_router"]
    assert router.capabilities is not None
    assert "http:local" in router.capabilities
    assert [name for name, child in children.items() if "http:local" in (child.capabilities or ())] == ["llm_router"]
    assert router.args["models"]["local"]["model"] == 'odd "name"'
    assert {"name": "local", "kind": "openai", "link": "local"} in router.args["providers"]
    assert router.args["policy"]["cheap"][:2] == ["local", "gpt-5-mini"]
    assert router.args["policy"]["strong"][0] == "local"


def test_everything_else_stays_as_it_is() -> None:
    before, after = tomllib.loads(SHIPPED), tomllib.loads(configured(SHIPPED, ROOT, ENGINE))
    assert after["components"] == [{"name": "miniclaw_wasm", "source": str(ROOT / "apps" / "miniclaw")}]
    del before["components"], after["components"], after["links"]["local"]
    others = [
        [child for child in config["supervisor"].pop("children") if child["name"] != "llm_router"]
        for config in (before, after)
    ]
    assert others[0] == others[1]
    assert before == after


def test_the_router_is_found_below_other_supervisors() -> None:
    text = '[[supervisor.children]]\nname = "models"\n[[supervisor.children.children]]\nrole = "llm_router"\n'
    (models_,) = tomllib.loads(configured(text, ROOT, ENGINE))["supervisor"]["children"]
    assert models_["children"][0]["args"]["policy"] == {"cheap": ["local"], "strong": ["local"]}
    assert models_["children"][0]["capabilities"] == ["default", "http:local"]


def test_an_application_that_is_not_miniclaw_is_refused() -> None:
    with pytest.raises(CommandError, match="no child of role 'llm_router'"):
        configured((ROOT / "apps" / "counter" / "app-config.toml").read_text(encoding="utf-8"), ROOT, ENGINE)


values = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_any_value_is_written_as_toml_reads_it(value: Any) -> None:
    assert tomllib.loads(f"x = {nodes._toml(value)}") == {"x": value}


# -- what there is -----------------------------------------------------------------------------------------


@dataclass
class Ollama:
    """What Ollama answers about its models: by name, what they can do."""

    models: dict[str, list[str]] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    made = Ollama()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say({"models": [{"name": name} for name in made.models]})

        def do_POST(self) -> None:
            name = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
            self._say({"capabilities": made.models[name]})

        def _say(self, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.env = {"OLLAMA_HOST": f"127.0.0.1:{server.server_address[1]}", "PATH": "/nonexistent"}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_of_ollamas_models_the_first_that_can_call_tools_is_taken(ollama: Ollama, tmp_path: Path) -> None:
    ollama.models = {"llava:7b": ["completion", "vision"], "qwen3:1.7b": ["completion", "tools"], "x": ["tools"]}
    engine = find_engine(tmp_path, "", ollama.env)
    assert (engine.name, engine.url) == ("qwen3:1.7b", f"http://{ollama.env['OLLAMA_HOST']}")
    assert engine.command == ()


def test_a_model_of_ollamas_by_name(ollama: Ollama, tmp_path: Path) -> None:
    ollama.models = {"a:latest": ["tools"], "llava:7b": []}
    assert find_engine(tmp_path, "llava:7b", ollama.env).name == "llava:7b"
    assert find_engine(tmp_path, "a", ollama.env).name == "a:latest"
    with pytest.raises(CommandError, match="no model 'b'; it has a:latest, llava:7b") as caught:
        find_engine(tmp_path, "b", ollama.env)
    assert caught.value.hint == "ollama pull b"


CLOSED = {"OLLAMA_HOST": "127.0.0.1:1"}


def fake_nodejs(folder: Path, version: str) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    script = folder / "node"
    script.write_text(f"#!/bin/sh\necho {version}\n")
    script.chmod(0o755)
    return {**CLOSED, "PATH": str(folder)}


def test_ollama_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"Ollama does not answer at 127\.0\.0\.1:1"):
        find_engine(tmp_path, "qwen3:1.7b", CLOSED)


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("", "127.0.0.1:11434"), ("localhost:1234", "127.0.0.1:1234"), ("0.0.0.0:1234", "127.0.0.1:1234"),
        ("http://127.0.0.1:99/", "127.0.0.1:99"), ("gpu.example.com:1234", "127.0.0.1:11434"),
    ],
)  # fmt: skip
def test_only_this_machines_ollama_is_local(said: str, address: str) -> None:
    assert models._ollama_address({"OLLAMA_HOST": said}) == address


def test_without_nodejs_or_with_an_old_one(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"Node.js 20 or newer; this machine has none"):
        find_engine(tmp_path, "", {**CLOSED, "PATH": "/nonexistent"})
    with pytest.raises(CommandError, match="this machine has 18"):
        find_engine(tmp_path, "", fake_nodejs(tmp_path / "bin", "v18.20.4"))


def test_what_is_missing_is_one_command(tmp_path: Path) -> None:
    env = fake_nodejs(tmp_path / "bin", "v22.1.0")
    home = tmp_path / "my home"
    with pytest.raises(CommandError, match="not installed") as caught:
        find_engine(home, "any.gguf", env)
    assert caught.value.hint == f"npm install --prefix '{home}/engine' node-llama-cpp"
    (home / "engine" / "node_modules" / "node-llama-cpp").mkdir(parents=True)
    with pytest.raises(CommandError, match=r"there is no file any\.gguf"):
        find_engine(home, "any.gguf", env)
    weights = tmp_path / "tiny.gguf"
    weights.write_bytes(b"GGUF")
    engine = find_engine(home, str(weights), env)
    assert engine.name == "tiny"
    nodejs, server, folder, file, port = engine.command
    assert (nodejs, folder, file) == (str(tmp_path / "bin" / "node"), str(home / "engine"), str(weights))
    assert Path(server).read_text(encoding="utf-8").startswith("// A small model")
    assert engine.url == f"http://127.0.0.1:{port}"


# -- its process -------------------------------------------------------------------------------------------


def test_pauses_grow_and_end_with_one_that_ran_for_long() -> None:
    assert [pause_s(failures) for failures in (1, 2, 3, 4, 7, 8, 1_000_000)] == [0.5, 1, 2, 4, 30, 30, 30]
    assert [failures_after(5, ran_s) for ran_s in (0.0, 59.9, 60.0, 3600.0)] == [6, 6, 1, 1]


SERVER = textwrap.dedent(
    """
    import os, sys
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
    """
)


def engine_of(script: str = SERVER) -> Engine:
    port = models._free_port()
    return Engine("test", f"http://127.0.0.1:{port}", (sys.executable, "-c", script, str(port)), "")


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_a_model_that_dies_is_started_again_at_the_same_address(tmp_path: Path) -> None:
    engine = engine_of()
    keeper = Keeper(engine, tmp_path / "log")
    keeper.start()
    try:
        first = keeper.pid
        os.kill(first, signal.SIGKILL)
        second = until(lambda: keeper.pid if keeper.pid not in (0, first) else 0)
        assert keeper.ends == 1

        def answers() -> bool:
            try:
                return httpx.get(engine.url, trust_env=False).is_success
            except httpx.HTTPError:
                return False

        until(answers)
    finally:
        keeper.stop()
    assert gone(second)
    assert keeper.pid == 0


def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    keeper = Keeper(engine_of("raise RuntimeError('no such weights')"), tmp_path / "log")
    with pytest.raises(CommandError, match="did not start: RuntimeError: no such weights"):
        keeper.start()
    assert keeper.pid == 0


def test_one_that_ignores_being_told_to_end_is_ended(tmp_path: Path) -> None:
    deaf = engine_of("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER)
    keeper = Keeper(deaf, tmp_path / "log", stop_s=0.3)
    keeper.start()
    pid = keeper.pid
    keeper.stop()
    until(lambda: gone(pid))


def test_nothing_is_left_of_a_model_whose_chat_is_killed(tmp_path: Path) -> None:
    """Killed with -9, which nobody can answer: the kernel ends what was started."""
    engine = engine_of()
    script = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from plexspaces_runtime.cli.local.model import Engine, Keeper
        keeper = Keeper(Engine("test", {engine.url!r}, {engine.command!r}, ""), Path({str(tmp_path / "log")!r}))
        keeper.start()
        print(keeper.pid, flush=True)
        time.sleep(1000)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as chat:
        assert chat.stdout is not None
        pid = int(chat.stdout.readline())
        assert not gone(pid)
        chat.kill()
        until(lambda: gone(pid))
