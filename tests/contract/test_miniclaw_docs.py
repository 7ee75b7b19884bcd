"""What MiniClaw's documentation says, compared with what its code says: operations, events, tools, limits, snippets."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from plexspaces.definition import find_actors
from plexspaces_runtime.api import chat as edge
from plexspaces_runtime.cli.commands import chat as command
from plexspaces_runtime.deployment.appconfig import parse
from plexspaces_runtime.egress.links import parse_link
from tests.contract.test_docs import blocks, code, rows

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "apps" / "miniclaw"
GUIDE = ROOT / "docs" / "miniclaw.md"


@pytest.fixture(scope="module")
def miniclaw() -> Iterator[ModuleType]:
    sys.path.insert(0, str(APP))
    try:
        yield importlib.import_module("miniclaw_actor")
    finally:
        sys.path.remove(str(APP))


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_operation_of_every_role_is_documented_as_it_is(miniclaw: ModuleType) -> None:
    for role, definition in find_actors(miniclaw).items():
        expected = {}
        for name, known in definition.describe()["handlers"].items():
            schema = known["parameters"]
            needed = schema.get("required", ())
            arguments = [each if each in needed else f"{each}?" for each in schema["properties"]]
            expected[name] = (arguments, known["roles"])
        found = {
            code(name): (names(arguments), names(roles))
            for name, arguments, roles, _ in rows(GUIDE, f"### `{role}`")
        }  # fmt: skip
        assert found == expected, role


def test_no_role_is_documented_that_is_not_there(miniclaw: ModuleType) -> None:
    assert re.findall(r"^### `(\w+)`$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE) == list(
        miniclaw.ACTOR_REGISTRY
    )


def published() -> set[str]:
    """The names of events in all calls that publish one."""
    found = set()
    for file in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            position = {"_say": 0, "publish": 1, "publish_to": 1}.get(name)
            if position is None or len(node.args) <= position:
                continue
            event = node.args[position]
            if isinstance(event, ast.Constant):
                found.add(str(event.value))
    return found


def test_every_event_of_a_session_is_documented() -> None:
    documented = {code(name) for name, _ in rows(GUIDE, "## What happens in a session")}
    assert {"input", "text_delta", "tool_call", "end"} <= documented
    assert documented == published()


def test_every_tool_is_documented(miniclaw: ModuleType) -> None:
    registry = sys.modules["claw.registry"]
    documented = {name: code(actor) for cell, actor, _ in rows(GUIDE, "## Tools") for name in names(cell)}
    assert documented == {tool["name"]: tool["actor"] for tool in registry._BUILTIN}


def test_the_limits_are_what_the_code_says(miniclaw: ModuleType) -> None:
    claw: Any = {
        name: sys.modules[f"claw.{name}"] for name in ("agent", "history", "registry", "memory", "orchestrator")
    }
    expected = [
        claw["agent"].ROUNDS_MAX,
        claw["registry"]._CALLS_MAX,
        claw["agent"]._MESSAGE_CHARS_MAX,
        claw["history"].TOOL_RESULT_CHARS_MAX,
        miniclaw.AgentActor.max_history.default,
        miniclaw.AgentActor.max_context_tokens.default,
        claw["registry"]._TOOLS_MAX,
        claw["memory"]._VALUE_CHARS_MAX,
        claw["orchestrator"].SUBTASKS_MAX,
        edge._SLOTS_MAX,
    ]
    assert [int(value) for _, value in rows(GUIDE, "## Limits")] == expected


def test_the_commands_of_the_chat_are_documented() -> None:
    documented = {word for cell, _ in rows(GUIDE, "## Talking to it") for word in re.findall(r"/[a-z]+", cell)}
    assert documented == set(re.findall(r"(?<![\w])/[a-z]+", command._HELP)) | {"/help"}


def test_the_configurations_that_are_shown_can_be_read(miniclaw: ModuleType) -> None:
    routing = sys.modules["claw.routing"]
    shown = [tomllib.loads(each) for each in blocks(GUIDE, "toml")]
    links = {name: link for each in shown for name, link in each.get("links", {}).items()}
    assert set(links) == {"openrouter", "ollama"}
    for name, link in links.items():
        parse_link(name, link)
    routed = [each["supervisor"]["children"]["args"] for each in shown if "supervisor" in each]
    routes = routing.Routes.read(routed[0])
    assert (routes.cheap, routes.strong) == (["qwen"], ["llama", "qwen"])
    assert {provider.link for provider in (model.provider for model in routes.models.values())} == {"", *links}
    assert routed[1] == {"approval": ["run_python"]}


def test_what_the_shipped_application_grants_is_enough_for_its_links() -> None:
    config = parse((ROOT / "app-config.toml").read_text(encoding="utf-8"))
    router = next(child for child in config.actors() if child.role == "llm_router")
    assert router.capabilities is not None
    for provider in router.args["providers"]:
        assert f"http:{provider['link']}" in router.capabilities
        assert provider["link"] in config.links


def test_every_file_of_the_application_is_in_its_readme() -> None:
    text = (APP / "README.md").read_text(encoding="utf-8")
    for file in APP.glob("claw/*.py"):
        if file.name not in ("__init__.py", "helpers.py"):
            assert file.name in text, file.name
