"""MiniClaw on the test node: its actors as they are, between a model and tools whose answers are written down."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plexspaces import actor, handler, host, state
from plexspaces.testing import TestNode

_SOURCE = str(Path(__file__).parents[3] / "apps" / "miniclaw")


@pytest.fixture(scope="session", autouse=True)
def _importable() -> Iterator[None]:
    sys.path.insert(0, _SOURCE)
    yield
    sys.path.remove(_SOURCE)


def answers(text: str, *, tokens: int = 10) -> dict[str, Any]:
    """What the router replies when the model is done."""
    return _reply({"role": "assistant", "stop_reason": "end_turn", "content": text, "tool_calls": []}, tokens)


def wants(*calls: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    """What the router replies when the model wants tools: (id, name, input)."""
    listed = [{"id": id_, "name": name, "input": input_} for id_, name, input_ in calls]
    return _reply({"role": "assistant", "stop_reason": "tool_use", "content": "", "tool_calls": listed}, 10)


def _reply(response: dict[str, Any], tokens: int) -> dict[str, Any]:
    return {
        "status": "ok",
        "response": response,
        "model": "scripted-1",
        "provider": "scripted",
        "attempts": 1,
        "usage": {"input_tokens": tokens, "output_tokens": 5},
        "cost_usd": 0.001,
        "cached": False,
        "simulated": False,
    }


@actor(facets=["virtual_actor", "durability"])
class ScriptedRouter:
    """A router whose model has read the script; it keeps what it was asked."""

    script: list = state(default_factory=list)
    requests: list = state(default_factory=list)

    @handler("load")
    def load(self, script: list) -> None:
        self.script = script

    @handler("chat_completion")
    def chat_completion(self, messages: list, session_id: str, **rest: Any) -> dict:
        self.requests.append({"messages": messages, "session_id": session_id, **rest})
        return self.script.pop(0)

    @handler("asked")
    def asked(self) -> list:
        return self.requests


@actor(facets=["virtual_actor"])
class ScriptedTools:
    """Tools by name: `add`, `fail`, `dangerous` (wants approval); it counts what it ran."""

    runs: list = state(default_factory=list)

    @handler("list_tools")
    def list_tools(self) -> dict:
        tools = [{"name": name, "description": name, "input_schema": {"type": "object"}} for name in ("add", "fail")]
        return {"status": "ok", "tools": tools, "count": len(tools)}

    @handler("execute_tools")
    def execute_tools(self, calls: list, session_id: str, approved: list) -> dict:
        return {"results": [self._run(call, approved) for call in calls]}

    @handler("ran")
    def ran(self) -> list:
        return self.runs

    def _run(self, call: dict, approved: list) -> dict:
        if call["name"] == "dangerous" and call["id"] not in approved:
            return {"id": call["id"], "name": call["name"], "approval": True}
        self.runs.append(call["id"])
        host.kv_increment(call["id"])
        if call["name"] == "fail":
            return {"id": call["id"], "name": call["name"], "ok": False, "content": {"error": "no such thing"}}
        return {"id": call["id"], "name": call["name"], "ok": True, "content": {"result": sum(call["input"].values())}}


class Claw:
    """A session at a node with scripted surroundings."""

    def __init__(self, node: TestNode) -> None:
        self.node = node

    def script(self, session: str, *replies: dict[str, Any]) -> None:
        self.node.ask(f"llm_router/{session}", "load", {"script": list(replies)})

    def chat(self, session: str, text: str, subject: str = "ada", **more: Any) -> dict[str, Any]:
        reply: dict[str, Any] = self.node.ask(f"agent/{session}", "chat", {"message": text, **more}, subject=subject)
        return reply

    def asked(self, session: str) -> list[dict[str, Any]]:
        requests: list[dict[str, Any]] = self.node.ask(f"llm_router/{session}", "asked")
        return requests

    def events(self, session: str) -> list[tuple[str, dict[str, Any]]]:
        return [(event["event_type"], event["payload"]) for event in self.node.stream(f"/sessions/{session}").events]

    def history(self, session: str, subject: str = "ada") -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.node.ask(f"agent/{session}", "get_history", subject=subject)["messages"]
        return messages


def audited(node: TestNode, event_type: str) -> list[dict[str, Any]]:
    """What was reported and nobody has put on record yet."""
    events = [
        {**message, **event}
        for message in node.channel("audit:events").waiting
        for event in message.get("several") or [message]
    ]
    return [event for event in events if event["event_type"] == event_type]


@pytest.fixture
def claw() -> Claw:
    from claw.agent import AgentActor  # type: ignore[import-not-found]
    from claw.approval import ApprovalActor  # type: ignore[import-not-found]
    from claw.fsm import AgentStateFSM  # type: ignore[import-not-found]
    from claw.session import SessionManagerActor  # type: ignore[import-not-found]

    node = TestNode()
    node.deploy("llm_router", ScriptedRouter)
    node.deploy("tool_registry", ScriptedTools)
    node.deploy("agent_fsm", AgentStateFSM)
    node.deploy("approval", ApprovalActor)
    node.deploy("agent", AgentActor, args={"system_prompt": "Be brief.", "max_history": 12})
    node.spawn(SessionManagerActor, actor_type="session_manager")
    return Claw(node)
