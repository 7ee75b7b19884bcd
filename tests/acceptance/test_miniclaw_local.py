"""`plexspaces chat --local`: a model on this machine behind a link, on a node that lasts as long as the chat.

The real small model answers where it is installed; everywhere, a stand-in for Ollama shows the way to it.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.cli.local import find_engine
from plexspaces_runtime.cli.output import CommandError
from plexspaces_runtime.config import default_data_dir

from .claw import CLI, ROOT, Answer, Provider, Seen, provider, says
from .terminal import Terminal, terminal

pytestmark = pytest.mark.guest


def environment(data_dir: Path, **more: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PLEXSPACES_") or k == "PLEXSPACES_CACHE_DIR"}
    # Nobody's Ollama that happens to run here.
    return {**clean, "PLEXSPACES_DATA_DIR": str(data_dir), "OLLAMA_HOST": "127.0.0.1:1", **more}


def until(condition: Callable[[], Any], within_s: float = 60) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "never"
        time.sleep(0.05)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def below(pid: int) -> list[int]:
    """The processes that a process has started, by whichever of its threads."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(each) for each in (task / "children").read_text().split()]
    return found


# -- Ollama ------------------------------------------------------------------------------------------------


def like_ollama(seen: Seen) -> Answer:
    if seen.path == "/api/show":
        return lambda handler: handler.whole(200, {"capabilities": ["completion", "tools"]})
    return says("From ", "Ollama.", pause_s=0.05)


@pytest.fixture
def ollama() -> Iterator[Provider]:
    with provider(like_ollama) as made:
        made.page = json.dumps({"models": [{"name": "qwen3:1.7b"}]})
        yield made


@pytest.fixture
def chat(ollama: Provider, tmp_path: Path) -> Iterator[Terminal]:
    env = environment(tmp_path / "data", OLLAMA_HOST=ollama.url.removeprefix("http://"))
    command = [*CLI, "chat", "--local", "--app", str(ROOT / "app-config.toml")]
    with terminal(command, env) as made:
        made.until("local model: qwen3:1.7b, by Ollama")
        made.until("/quit leaves.", 120)
        made.until("> ")
        yield made


def test_ollama_answers_and_the_node_ends_with_the_chat(ollama: Provider, chat: Terminal, tmp_path: Path) -> None:
    chat.type("hello")
    chat.until("From Ollama.")
    asked = [seen for seen in ollama.seen if seen.path == "/v1/chat/completions"]
    assert (asked[-1].body["model"], asked[-1].last) == ("qwen3:1.7b", "hello")
    assert "calculator" in [tool["function"]["name"] for tool in asked[-1].body["tools"]]
    assert "authorization" not in asked[-1].headers
    (node,) = below(chat.process.pid)
    # Where Ollama stops answering, nobody else does in its place.
    ollama.behave = lambda seen: lambda handler: handler.whole(500, {"error": {"message": "out of memory"}})
    chat.type("hello?")
    chat.until("out of memory")
    assert "[simulated]" not in chat.shown
    # A second chat joins in.
    env = environment(tmp_path / "data", OLLAMA_HOST="127.0.0.1:1")
    ollama.behave = like_ollama
    with terminal([*CLI, "chat", "--local", "hello again"], env) as second:
        second.until("another chat --local runs")
        second.until("From Ollama.")
        assert second.end() == 0
    assert alive(node)
    chat.type("/quit")
    assert chat.end() == 0
    assert not alive(node)


def test_nothing_is_left_of_a_chat_that_is_killed(chat: Terminal) -> None:
    (node,) = below(chat.process.pid)
    os.kill(chat.process.pid, signal.SIGKILL)
    until(lambda: not alive(node))


def test_ctrl_c_stops_the_answer_and_neither_the_node_nor_the_chat(ollama: Provider, chat: Terminal) -> None:
    def slow(seen: Seen) -> Answer:
        return says(*(f"{number} " for number in range(400)), pause_s=0.02)

    ollama.behave = slow
    chat.type("count")
    chat.until("5 6 7")
    chat.interrupt()
    chat.until("stopped")
    ollama.behave = like_ollama
    chat.type("hello")
    chat.until("From Ollama.")


def test_without_a_model_it_says_how_to_get_one(tmp_path: Path) -> None:
    env = environment(tmp_path / "data", PATH="/nonexistent")
    with terminal([*CLI, "chat", "--local"], env) as made:
        assert made.end() == 1
        assert "there is no local model" in made.shown
        assert "try: ollama pull" in made.shown


# -- the small model ---------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> dict[str, str]:
    """An environment with the small model that is installed for this user, on a node of its own."""
    installed = default_data_dir() / "local"
    try:
        find_engine(installed, "", {**os.environ, "OLLAMA_HOST": "127.0.0.1:1"})
    except CommandError as error:
        pytest.skip(f"{error.message}; to have it: {error.hint}")
    home = tmp_path / "data" / "local"
    home.mkdir(parents=True)
    for name in ("engine", "models"):
        (home / name).symlink_to(installed / name)
    return environment(tmp_path / "data")


def test_the_small_model_answers_a_streamed_chat(small: dict[str, str]) -> None:
    command = [*CLI, "chat", "--local", "--app", str(ROOT / "app-config.toml")]
    with terminal(command, small) as chat:
        chat.until("which completes text and knows no tools", 120)
        chat.until("/quit leaves.", 240)
        chat.until("> ")
        chat.type("What is the capital of France?")
        chat.until("Paris", 240)
        chat.until("> ")
        assert "[simulated]" not in chat.shown
        # Its process dies and is started again; the turn waits for it.
        (engine,) = [
            pid for pid in below(chat.process.pid) if b"server.mjs" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(engine, signal.SIGKILL)

        def another() -> list[int]:
            found = [pid for pid in below(chat.process.pid) if pid != engine]
            return [pid for pid in found if b"server.mjs" in Path(f"/proc/{pid}/cmdline").read_bytes()]

        (after,) = until(another)
        chat.type("What is the capital of Italy?")
        chat.until("Italy is Rome", 240)
        others = below(chat.process.pid)
        assert after in others
        os.kill(chat.process.pid, signal.SIGKILL)
        until(lambda: not any(map(alive, others)))
