"""The tool registry: the one door between a model and what it can do.

A call passes it in one order: is there such a tool, may this caller use it, does a person have to agree, is the input
what the schema says, is it not too often; then the tool's actor is asked, and has so long and no longer.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from plexspaces import HostError, Refuse, actor, handler, host, init_handler

from .helpers import audit, audit_all, beside, key_of
from .tools import schema as schemas

_NAME_CHARS_MAX = 64
_TOOLS_MAX = 128
_TIMEOUT_MS = 10_000
_CALLS_MAX = 16
# Of what a call was made with, so much is on record.
_INPUT_CHARS_MAX = 500
_CATALOGUE = "catalogue"


def _tool(name: str, description: str, properties: dict, required: list, **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required}
    return {"name": name, "description": description, "input_schema": schema, **_DEFAULTS, **more}


_DEFAULTS: dict[str, Any] = {
    "actor": "",
    "op": "execute",
    "roles": [],
    "risk": "low",
    "approval": "none",
    "timeout_ms": _TIMEOUT_MS,
    "rate_per_minute": 0,
    "per_session": False,
    "session": False,
}
_TEXT = {"type": "string", "maxLength": 2_000}
_BUILTIN = [
    _tool(
        "calculator",
        "Evaluate an arithmetic expression, such as (3 + 4) * 2 ** 5 or sqrt(2).",
        {"expression": {"type": "string", "maxLength": 1_000}},
        ["expression"],
        actor="calculator",
    ),
    _tool(
        "weather",
        "The current weather at a place.",
        {"location": {"type": "string", "maxLength": 100}},
        ["location"],
        actor="weather",
        per_session=True,
        risk="medium",
        timeout_ms=20_000,
    ),
    _tool(
        "web_search",
        "Search the web.",
        {"query": _TEXT, "limit": {"type": "integer", "minimum": 1, "maximum": 10}},
        ["query"],
        actor="web_search",
        per_session=True,
        risk="medium",
        timeout_ms=20_000,
    ),
    _tool(
        "http_get",
        "Read a page through one of the allowed links.",
        {"link": {"type": "string", "maxLength": 100}, "path": _TEXT},
        ["link"],
        actor="http_get",
        per_session=True,
        risk="medium",
        timeout_ms=20_000,
    ),
    _tool(
        "memory_store",
        "Remember something for the rest of this conversation.",
        {"key": {"type": "string", "minLength": 1, "maxLength": 200}, "value": {"type": "string", "maxLength": 20_000}},
        ["key", "value"],
        actor="memory",
        op="remember",
        session=True,
    ),
    _tool(
        "memory_search",
        "Find what was remembered.",
        {"query": _TEXT},
        ["query"],
        actor="memory",
        op="recall",
        session=True,
    ),
    _tool(
        "run_python",
        "Run Python code without any access to files, network or other actors; prints and the value of "
        "the last expression come back.",
        {"code": {"type": "string", "maxLength": 50_000}},
        ["code"],
        actor="python_sandbox",
        per_session=True,
        risk="high",
        timeout_ms=30_000,
    ),
]


@actor(facets=["virtual_actor"])
class ToolRegistryActor:
    """Tools by name.  The catalogue is in the key-value store that all registries of the type share.

    Args (in the application's configuration):
        tools: names of the built-in ones that there are; none given: all.
        approval: names of those that a person has to approve.
    """

    @init_handler
    def on_init(self, config: dict) -> None:
        args = config.get("args", {})
        wanted = args.get("tools") or [tool["name"] for tool in _BUILTIN]
        needed = set(args.get("approval", []))
        self.builtin = {
            tool["name"]: {**tool, "approval": "required" if tool["name"] in needed else tool["approval"]}
            for tool in _BUILTIN
            if tool["name"] in wanted
        }
        self.session_id = key_of(config["actor_id"])
        if not self.session_id:
            host.process_groups.join("svc:tool_registry")

    # -- the catalogue ----------------------------------------------------------------------------------

    @handler("list_tools")
    def list_tools(self) -> dict:
        """The tools that this caller may use, as a model is told of them."""
        shown = [
            {name: tool[name] for name in ("name", "description", "input_schema", "risk", "approval")}
            for tool in self._tools().values()
            if self._may(tool)
        ]
        return {"status": "ok", "tools": shown, "count": len(shown)}

    @handler("register_tool", roles=["admin", "operator"])
    def register_tool(
        self,
        name: str,
        description: str = "",
        input_schema: dict | None = None,
        actor: str = "",
        op: str = "execute",
        roles: list | None = None,
        risk: Literal["low", "medium", "high"] = "low",
        approval: Literal["none", "required"] = "none",
        timeout_ms: int = _TIMEOUT_MS,
        rate_per_minute: int = 0,
        operation: str = "",
    ) -> dict:
        """Add a tool, or replace one; from the next turn on models can call it.

        Args:
            actor: whom it asks, "" for the one that is called like the tool.
            op, operation: what it asks that one to do; over HTTP `op` is this operation itself, so say `operation`.
            roles: callers need one of them; none: everybody.
            approval: `required`: a person decides about each call.
            rate_per_minute: calls of one session; 0 for no limit.
        """
        schema = schemas.full(input_schema)
        if not name or len(name) > _NAME_CHARS_MAX or not name.replace("_", "").replace("-", "").isalnum():
            return {"error": f"a tool's name has 1 to {_NAME_CHARS_MAX} letters, digits, '_' and '-'"}
        if fault := schemas.check(schema):
            return {"error": fault}
        tool = {
            **_DEFAULTS,
            "name": name,
            "description": description[:2_000],
            "input_schema": schema,
            "actor": actor or name,
            "op": operation or ("execute" if op == "register_tool" else op),
            "roles": list(roles or []),
            "risk": risk,
            "approval": approval,
            "timeout_ms": max(1, min(timeout_ms, 120_000)),
            "rate_per_minute": max(0, rate_per_minute),
        }
        added = host.kv_get(_CATALOGUE, {})
        if len(added) >= _TOOLS_MAX and name not in added:
            return {"error": f"there are {_TOOLS_MAX} tools: remove some"}
        while not host.kv_cas(_CATALOGUE, host.kv_get(_CATALOGUE), {**host.kv_get(_CATALOGUE, {}), name: tool}):
            pass
        audit(self, "tool_registered", self.session_id, self.context.subject, name=name, actor=tool["actor"], risk=risk)
        return {"status": "ok", "name": name}

    @handler("remove_tool", roles=["admin", "operator"])
    def remove_tool(self, name: str) -> dict:
        """Take a tool away, a built-in one too."""
        if name not in self._tools():
            return {"error": f"unknown tool: {name}"}
        while True:
            before = host.kv_get(_CATALOGUE)
            if host.kv_cas(_CATALOGUE, before, {**(before or {}), name: None}):
                break
        audit(self, "tool_removed", self.session_id, self.context.subject, name=name)
        return {"status": "ok", "name": name}

    def _tools(self) -> dict[str, dict[str, Any]]:
        # None stands for one that was taken away.
        return {
            name: tool for name, tool in {**self.builtin, **host.kv_get(_CATALOGUE, {})}.items() if tool is not None
        }

    def _may(self, tool: dict[str, Any]) -> bool:
        return not tool["roles"] or bool(self.context.roles & set(tool["roles"]))

    # -- calls ------------------------------------------------------------------------------------------

    @handler("execute_tool")
    def execute_tool(self, name: str, input: dict | None = None, session_id: str = "") -> dict:
        """Run one tool: `{"result": ...}`, or `{"error": ...}` in words that a model can act on."""
        (found,) = self.execute_tools([{"id": "call", "name": name, "input": input or {}}], session_id)["results"]
        if found.get("approval"):
            text = f"tool {name} needs a person's approval: let an agent call it"
            events: list = []
            refused: dict = _refused(found, "approval-required", text, events)["content"]
            audit_all(self, session_id, self.context.subject, events)
            return refused
        content: dict = found["content"]
        return content

    @handler("execute_tools")
    def execute_tools(self, calls: list, session_id: str = "", approved: list | None = None) -> dict:
        """Run several at once; for each `ok` and `content`, or `approval` where a person has to decide first.

        Args:
            approved: ids of calls that somebody has agreed to.  Only an agent may say so.
        """
        if approved and not (self.sender or "").startswith("agent/"):
            audit(self, "access_refused", session_id, self.context.subject, reason="forged-approval", calls=approved)
            raise Refuse("not-an-agent", "only an agent says that its calls were approved")
        if self.session_id and session_id != self.session_id:
            raise Refuse("wrong-session", f"this is the registry of session {self.session_id!r}")
        tools, results, asked = self._tools(), {}, []
        events: list[tuple[str, dict[str, Any]]] = []
        for position, call in enumerate(calls):
            verdict = self._judge(tools, call, session_id, position, set(approved or ()), events)
            if isinstance(verdict, dict):
                results[call["id"]] = verdict
            else:
                asked.append((call, verdict))
        # One that is slow has its own limit; the others do not wait longer for it than for the slowest limit.
        slowest = max((tool["timeout_ms"] for _, (tool, _) in asked), default=0)
        answers = (
            host.ask_many([request for _, (_, request) in asked], timeout_ms=slowest, return_errors=True)
            if asked
            else []
        )
        for (call, (tool, _)), answer in zip(asked, answers, strict=True):
            results[call["id"]] = self._judged(call, tool, answer, events)
        for name, count in (("calls", len(asked)), ("errors", sum(not results[call["id"]]["ok"] for call, _ in asked))):
            if count:
                host.kv_increment(f"stats/{name}", count)
        audit_all(self, session_id, self.context.subject, events)
        return {"results": [{"id": call["id"], "name": call["name"], **results[call["id"]]} for call in calls]}

    def _judge(
        self, tools: dict, call: dict, session_id: str, position: int, approved: set, events: list
    ) -> dict | tuple[dict, tuple[str, str, dict]]:
        name, given = call.get("name", ""), call.get("input")
        if position >= _CALLS_MAX:
            text = f"at most {_CALLS_MAX} calls at once"
            # One entry stands for all that are too many: the record is not to be flooded either.
            return _refused(call, "too-many", text, events) if position == _CALLS_MAX else _no("too-many", text)
        tool = tools.get(name)
        if tool is None or not self._may(tool):
            # What a caller may not use is to them as if it were not there; who reads the record is told the difference.
            usable = [each for each, spec in tools.items() if self._may(spec)]
            text = f"there is no tool {str(name)[:80]!r}; there are {', '.join(usable) or 'none'}"
            return _refused(call, "unknown-tool", text, events, reason="" if tool is None else "role")
        if call.get("invalid"):
            return _refused(call, "invalid-input", str(call["invalid"]), events)
        if wrong := schemas.problems(given, tool["input_schema"]):
            return _refused(call, "invalid-input", "; ".join(wrong[:5]), events)
        if tool["approval"] == "required" and call["id"] not in approved:
            return {"approval": True}
        if tool["rate_per_minute"] and self._too_often(tool, session_id):
            text = f"{name} may be called {tool['rate_per_minute']} times a minute: wait"
            return _refused(call, "rate-limited", text, events, reason="rate")
        given = {**given, "session_id": session_id} if tool["session"] else given
        target = beside(tool["actor"], session_id) if tool["per_session"] else tool["actor"]
        return tool, (target, tool["op"], given)

    def _too_often(self, tool: dict, session_id: str) -> bool:
        minute = host.now_ms() // 60_000
        key = f"rate/{tool['name']}/{session_id}/{minute}"
        count = host.kv_increment(key)
        if count == 1:
            host.kv_put(key, 1, ttl_ms=120_000)
        return count > tool["rate_per_minute"]

    def _judged(self, call: dict, tool: dict, answer: Any, events: list) -> dict:
        if isinstance(answer, HostError):
            content: Any = {"error": _said(tool["name"], answer), "code": answer.code}
        else:
            content = answer if isinstance(answer, dict) else {"result": answer}
        ok = "error" not in content
        called = {"name": tool["name"], "ok": ok, "risk": tool["risk"], "input": _input(call)}
        events.append(("tool_called", {**called, "error": "" if ok else str(content["error"])[:300]}))
        return {"ok": ok, "content": content}

    @handler("get_stats")
    def get_stats(self) -> dict:
        """Counts."""
        return {
            "status": "ok",
            "tool_count": len(self._tools()),
            "exec_count": host.kv_get("stats/calls", 0),
            "errors": host.kv_get("stats/errors", 0),
        }


def _refused(call: dict, code: str, text: str, events: list, reason: str = "") -> dict[str, Any]:
    name = str(call.get("name", ""))[:_NAME_CHARS_MAX]
    events.append(("tool_refused", {"name": name, "reason": reason or code, "input": _input(call)}))
    return _no(code, text)


def _input(call: dict) -> str:
    return json.dumps(call.get("input"))[:_INPUT_CHARS_MAX]


def _no(code: str, text: str) -> dict[str, Any]:
    return {"ok": False, "content": {"error": text, "code": code}}


def _said(name: str, error: HostError) -> str:
    match error.code:
        case "deadline-exceeded":
            return f"{name} took too long"
        case "actor-not-found":
            return f"{name} is not running"
        case "handler-crashed" | "actor-exited":
            return f"{name} failed: {error.message}"
    return f"{name}: {error.message}"
