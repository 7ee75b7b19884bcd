"""A large task as several small ones, each given to an agent of its own, all at once, and put together again.

The run waits for nothing but signals, so that it can be asked and cancelled at every moment; who waits for an agent is
the delegate, one for each sub-task.  Both are durable: what is finished is not begun again.
"""

from __future__ import annotations

import json
import re
from typing import Any

from plexspaces import (
    HostError,
    Refuse,
    actor,
    handler,
    host,
    init_handler,
    query_handler,
    run_handler,
    signal_handler,
    state,
    workflow_actor,
)

from .helpers import audit, beside, key_of

SUBTASKS_MAX = 20
_MAY_LOOK = frozenset({"admin", "operator"})
_WAIT_MS = 600_000
_MODEL_TIMEOUT_MS = 120_000
_DECOMPOSE = (
    "Split the task into at most {most} independent sub-tasks that can be worked on at the same time. "
    "Answer with a JSON array of strings and nothing else. If it cannot be split, answer with one string."
)
_COMBINE = "Put the results of the sub-tasks together into one answer to the task. Say which sub-tasks failed, if any."


@workflow_actor
class OrchestratorActor:
    """One task."""

    task: str = state(default="")
    stage: str = state(default="new")
    subtasks: list = state(default_factory=list)
    results: dict = state(default_factory=dict)
    cancel_reason: str = state(default="")
    owner: str = state(default="")

    @init_handler
    def on_init(self, config: dict) -> None:
        args = config.get("args", {})
        self.name = key_of(config["actor_id"]) or "default"
        self.agent = args.get("agent", "agent")
        self.router = args.get("router", "llm_router")
        self.delegate = args.get("delegate", "delegate")

    @run_handler
    def run(self, task: str, subtasks: list | None = None, combine: bool = True) -> dict:
        """Do a task.

        Args:
            subtasks: what it consists of; none given: a model is asked.
            combine: let a model put the results together.
        """
        self.task, self.owner = task, self.context.subject
        self.stage = "decomposing"
        audit(self, "orchestration_started", self.name, self.context.subject, task=task)
        self.subtasks = [str(each) for each in subtasks or host.step("decompose", lambda: self._decompose(task))]
        self.subtasks = self.subtasks[:SUBTASKS_MAX]
        self.stage = "delegating"
        for number, text in enumerate(self.subtasks):
            host.send(
                f"{self.delegate}/{self.name}.{number}",
                "work",
                {
                    "orchestrator": host.self_id(),
                    "number": number,
                    "agent": beside(self.agent, self._session(number)),
                    "message": text,
                },
            )
        self.stage = "waiting"
        while len(self.results) < len(self.subtasks) and not self.cancel_reason:
            if host.workflow.next_signal(timeout_ms=_WAIT_MS) is None:
                self.cancel_reason = "the agents took too long"
        if self.cancel_reason:
            return self._cancelled()
        self.stage = "combining"
        failed = [number for number in self.results if not self.results[number]["ok"]]
        answer = ""
        if combine and len(failed) < len(self.results):
            answer = host.step("combine", self._combine)
        self.stage = "done"
        status = "ok" if not failed else "partial" if len(failed) < len(self.results) else "failed"
        audit(self, "orchestration_ended", self.name, self.context.subject, status=status)
        return {"status": status, "task": task, "answer": answer, "results": self._listed()}

    @signal_handler("subtask_done")
    def subtask_done(self, number: int, ok: bool, response: str) -> None:
        """A delegate has finished; hearing of it twice is hearing of it once."""
        if self.sender != f"{self.delegate}/{self.name}.{number}" or self.context.subject != self.owner:
            audit(self, "access_refused", self.name, self.context.subject, reason="forged-result", sender=self.sender)
            return
        self.results.setdefault(str(number), {"ok": ok, "response": response})

    @signal_handler("cancel")
    def cancel(self, reason: str = "cancelled") -> None:
        """Stop: nothing new is begun, and the agents that work are told to end their turns."""
        if not self._may():
            audit(self, "access_refused", self.name, self.context.subject, reason="not-your-task")
            return
        self.cancel_reason = reason or "cancelled"

    @query_handler("status")
    def status(self) -> dict:
        """How far it is."""
        if not self._may():
            raise Refuse("not-your-task", "this belongs to somebody else")
        return {
            "status": "ok",
            "stage": self.stage,
            "task": self.task,
            "subtasks": len(self.subtasks),
            "done": len(self.results),
            "results": self._listed(),
        }

    def _may(self) -> bool:
        subject, roles = self.context.subject, self.context.roles
        return not subject or subject == self.owner or bool(roles & _MAY_LOOK)

    def _cancelled(self) -> dict:
        for number in range(len(self.subtasks)):
            if str(number) not in self.results:
                host.ts.write(["cancel", self._session(number)], lease_ms=_WAIT_MS)
        self.stage = "cancelled"
        audit(
            self, "orchestration_ended", self.name, self.context.subject, status="cancelled", reason=self.cancel_reason
        )
        return {"status": "cancelled", "task": self.task, "reason": self.cancel_reason, "results": self._listed()}

    def _session(self, number: int) -> str:
        return f"{self.name}.{number}"

    def _listed(self) -> list[dict[str, Any]]:
        return [
            {"subtask": text, **self.results.get(str(number), {"ok": False, "response": "", "pending": True})}
            for number, text in enumerate(self.subtasks)
        ]

    def _decompose(self, task: str) -> list[str]:
        written = _enumerated(task)
        if len(written) > 1:
            return written
        said = self._ask_model(_DECOMPOSE.format(most=SUBTASKS_MAX), task)
        return _array(said) or [task]

    def _combine(self) -> str:
        return self._ask_model(_COMBINE, json.dumps({"task": self.task, "results": self._listed()}, ensure_ascii=False))

    def _ask_model(self, system: str, text: str) -> str:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        reply = host.ask(
            beside(self.router, self.name),
            "chat_completion",
            {"messages": messages, "session_id": self.name},
            timeout_ms=_MODEL_TIMEOUT_MS,
        )
        if "error" in reply:
            raise RuntimeError(f"the model did not answer: {reply['error']}: {reply.get('message', '')}")
        content: str = reply["response"]["content"]
        return content


def _enumerated(task: str) -> list[str]:
    """The items of a list that the task already is."""
    return [found.strip() for found in re.findall(r"(?m)^\s*(?:[-*]|\d+[.)])\s+(.+)$", task)]


def _array(text: str) -> list[str]:
    found = re.search(r"\[.*\]", text, re.DOTALL)
    try:
        value = json.loads(found[0]) if found else None
    except ValueError:
        value = None
    return [each for each in value if isinstance(each, str) and each.strip()] if isinstance(value, list) else []


@actor(facets=["virtual_actor", "durability"])
class DelegateActor:
    """Waits for one agent, in its orchestrator's place."""

    finished: dict = state(default_factory=dict)

    @handler("work", "cast")
    def work(self, orchestrator: str, number: int, agent: str, message: str) -> None:
        """Let an agent do a sub-task, and tell the orchestrator what came of it."""
        if not self.finished:
            try:
                reply = host.ask(agent, "chat", {"message": message}, timeout_ms=_WAIT_MS)
            except HostError as error:
                reply = {"error": error.code, "message": error.message}
            ok = reply.get("status") == "ok"
            said = reply.get("response") if ok else reply.get("message") or reply.get("error") or reply.get("status")
            self.finished = {"number": number, "ok": ok, "response": str(said)}
        host.send(orchestrator, "subtask_done", self.finished)
