"""The node behind `plexspaces chat --local`: one of its own, with MiniClaw and a link to the local model.

It has a data directory of its own, and ends with the chat.  The node that a user runs otherwise is left alone: letting
its actors reach this machine's ports is its operator's decision, and not a chat's.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ...clock import Clock, SystemClock
from ..applications import Application, load_components, read_application, send_application
from ..client import NodeClient, Target, find_target
from ..output import CommandError
from .model import Engine
from .tied import tied

LINK: Final = "local"
_ROUTER: Final = "llm_router"
_HERE: Final = "127.0.0.1/32"
_ANSWER_TOKENS_MAX: Final = 512
_RETRIES_MAX: Final = 6
_READY_S: Final = 120.0
_STOP_S: Final = 15.0


def configured(text: str, folder: Path, engine: Engine) -> str:
    """An application's configuration with a link to the engine, and the engine's model in front of all others.

    Args:
        text: an app-config.toml with MiniClaw's router in it.
        folder: what its paths are relative to.

    Raises:
        CommandError: it has no router.
    """
    config = tomllib.loads(text)
    router = next((each for each in _children(config.get("supervisor", {})) if each.get("role") == _ROUTER), None)
    if router is None:
        raise CommandError(
            f"this application has no child of role {_ROUTER!r}, so it is not MiniClaw",
            "plexspaces chat --local --app app-config.toml, with the one that MiniClaw ships",
        )
    for component in config.get("components", ()):
        for key in ("source", "path"):
            if key in component:
                component[key] = str((folder / Path(component[key]).expanduser()).absolute())
    config.setdefault("links", {})[LINK] = {
        "base_url": engine.url,
        "addresses": [_HERE],
        "allow": ["POST /v1/chat/completions"],
        "actors": [_ROUTER],
        # A model on a busy machine takes its time; retries and breakers are the router's.
        "first_byte_timeout_s": 110,
        "retries_max": 0,
        "breaker_failures": 10_000,
    }
    router.setdefault("capabilities", ["default"]).append(f"http:{LINK}")
    args = router.setdefault("args", {})
    args.setdefault("providers", []).append({"name": LINK, "kind": "openai", "link": LINK})
    args.setdefault("models", {})[LINK] = {
        "provider": LINK, "model": engine.name, "max_output_tokens": _ANSWER_TOKENS_MAX,
    }  # fmt: skip
    # A model whose process is started again is back after seconds: long enough to wait for, too short to give it up.
    args["retries_max"] = _RETRIES_MAX
    args["breaker"] = {"failures_max": 2 * _RETRIES_MAX, "open_ms": 2_000}
    policy = args.setdefault("policy", {})
    for kind in ("cheap", "strong"):
        policy[kind] = [LINK, *policy.get(kind, ())]
    return "".join(f"{_text(name)} = {_toml(value)}\n" for name, value in config.items())


def _children(supervisor: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for child in supervisor.get("children", ()):
        yield child
        yield from _children(child)


def _text(text: str) -> str:
    """A string of JSON is one of TOML, but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _text(value)
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return f"{{ {', '.join(f'{_text(name)} = {_toml(each)}' for name, each in value.items())} }}"
        case _:
            return str(value)


@contextlib.contextmanager
def local_node(
    home: Path, application: Path, engine: Engine, say: Callable[[str], None], clock: Clock | None = None
) -> Iterator[Target]:
    """A node with MiniClaw that talks to the engine; it ends with the block, or with this process.

    Args:
        home: a folder of ours; the node's data directory is in it.
        application: MiniClaw's app-config.toml.
        say: told what takes a while.

    Raises:
        CommandError: the node does not start, or does not take the application.
    """
    clock = clock or SystemClock()
    data_dir = home / "node"
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = home / "app-config.toml"
    text = application.read_text(encoding="utf-8")
    file.write_text(configured(text, application.parent, engine), encoding="utf-8")
    wanted = read_application(file)
    with (home / "node.log").open("ab") as log:
        # What is said to other nodes, in the environment, is not said to this one.
        env = {k: v for k, v in os.environ.items() if not k.startswith("PLEXSPACES_") or k == "PLEXSPACES_CACHE_DIR"}
        process = subprocess.Popen(
            tied(
                [
                    *(sys.executable, "-m", "plexspaces_runtime.cli", "serve", "--data-dir", str(data_dir)),
                    *("--port", "0", "--grpc-port", "0", "--egress-permit", _HERE),
                ]
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            # Ctrl-C stops an answer, and is not for the node.
            start_new_session=True,
        )
    try:
        target = _ready(process, data_dir, home / "node.log", clock)
        _deploy(target, wanted, say)
        yield target
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def running(home: Path) -> Target | None:
    """The node of another chat that has one already."""
    import httpx

    data_dir = home / "node"
    if not (data_dir / "node.json").exists():
        return None
    target = find_target({}, data_dir)
    try:
        answer = httpx.get(f"{target.url}/readyz", timeout=5.0, trust_env=False)
    except httpx.HTTPError:
        return None
    return target if answer.is_success else None


def _ready(process: subprocess.Popen[bytes], data_dir: Path, log: Path, clock: Clock) -> Target:
    import httpx

    until_ns = clock.monotonic_ns() + int(_READY_S * 1e9)
    while clock.monotonic_ns() < until_ns:
        # One that was killed has left the address of its time: the process says whose it is.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, httpx.HTTPError):
            said = json.loads((data_dir / "node.json").read_text(encoding="utf-8"))
            if said["pid"] == process.pid and httpx.get(f"{said['url']}/readyz", trust_env=False).is_success:
                return find_target({}, data_dir)
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    raise CommandError("the node for the local model did not start", f"less {log}")


def _deploy(target: Target, application: Application, say: Callable[[str], None]) -> None:
    from ...build.builder import build

    def build_and_tell(source: Path, output: Path) -> None:
        say(f"building {source.name} (a few seconds, the first time)")
        build(source, output)

    send_application(NodeClient(target), application, load_components(application, build_and_tell))
