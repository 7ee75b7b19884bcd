"""Tasks that wait for somebody: a durable channel with names on it, and a worker that gives them to agents."""

from __future__ import annotations

import json

from plexspaces import HostError, actor, handler, host, init_handler, state

from .helpers import audit, beside, from_channel

_TASKS = "tasks:pending"
_AGENT_TASKS = "tasks:agent"
# Tasks of this type are done by agents, without anybody's fetching them.
AGENT_TASK = "agent"
_DONE_TTL_MS = 7 * 86_400_000
_WORK_TIMEOUT_MS = 240_000


@actor(facets=["durability"])
class TaskQueueActor:
    """Producers call `enqueue`; consumers call `dequeue`, then `ack` or `nack` each task.

    A task that nobody acknowledges comes back, and is a dead letter after some deliveries.
    """

    enqueued: int = state(default=0)
    completed: int = state(default=0)
    failed: int = state(default=0)

    @init_handler
    def on_init(self, config: dict) -> None:
        host.process_groups.join("svc:task_queue")

    @handler("enqueue")
    def enqueue(self, task_type: str = "generic", payload: dict | None = None, idempotency_key: str = "") -> dict:
        """Add a task.  One whose key was used before is not added again; the first one's id comes back.

        Args:
            task_type: `agent` for one that an agent is to do: its payload has `message`, and `session_id` if it is to
                be done in a session.
        """
        payload = payload or {}
        if task_type == AGENT_TASK and not isinstance(payload.get("message"), str):
            return {"error": "a task for an agent has a message in its payload"}
        subject = self.context.subject
        task = {
            "task_type": task_type,
            "payload": payload,
            "enqueued_at": host.now_ms(),
            "key": idempotency_key,
            "subject": subject,
        }
        # Of two people who use the same key each has a task.
        dedup_id = json.dumps([subject, idempotency_key]) if idempotency_key else ""
        channel = _AGENT_TASKS if task_type == AGENT_TASK else _TASKS
        try:
            msg_id = host.channel.send("", channel, task_type, task, dedup_id=dedup_id)
        except HostError as error:
            return {"error": f"the task was not taken: {error.message}"}
        self.enqueued += 1
        audit(
            self,
            "task_enqueued",
            str(payload.get("session_id", "")),
            self.context.subject,
            msg_id=msg_id,
            type=task_type,
        )
        return {"status": "ok", "msg_id": msg_id}

    @handler("dequeue")
    def dequeue(self, limit: int = 1, timeout_ms: int = 0) -> dict:
        """Take tasks.  They are this queue's for the while, and come back if nobody acknowledges them."""
        tasks = []
        while len(tasks) < min(limit, 100):
            task, found, _ = host.channel.receive("", _TASKS, timeout_ms if not tasks else 0)
            if not found:
                break
            tasks.append(task)
        return {"status": "ok", "tasks": tasks, "count": len(tasks)}

    @handler("ack")
    def ack(self, msg_id: str) -> dict:
        """A task is done."""
        try:
            host.channel.ack("", _TASKS, msg_id)
        except HostError as error:
            return {"error": f"ack failed: {error.message}"}
        self.completed += 1
        audit(self, "task_completed", "", self.context.subject, msg_id=msg_id)
        return {"status": "ok", "msg_id": msg_id}

    @handler("nack")
    def nack(self, msg_id: str, requeue: bool = True) -> dict:
        """A task is not done: it comes back, or is a dead letter."""
        try:
            host.channel.nack("", _TASKS, msg_id, requeue)
        except HostError as error:
            return {"error": f"nack failed: {error.message}"}
        self.failed += 1
        audit(self, "task_failed", "", self.context.subject, msg_id=msg_id, requeue=requeue)
        return {"status": "ok", "msg_id": msg_id, "requeue": requeue}

    @handler("get_stats")
    def get_stats(self) -> dict:
        """Counts, and how many tasks wait."""
        return {
            "status": "ok",
            "enqueued": self.enqueued,
            "completed": self.completed,
            "failed": self.failed,
            "depth": host.channel.depth("", _TASKS),
            "agent_depth": host.channel.depth("", _AGENT_TASKS),
        }


@actor(facets=["durability"])
class TaskWorkerActor:
    """Gives tasks to agents, one after the other: the return of the handler is the acknowledgement.

    A task that is delivered twice is the same message to the agent's session, and one that is done is known by its key.
    """

    done: int = state(default=0)

    @init_handler
    def on_init(self, config: dict) -> None:
        args = config.get("args", {})
        self.agent = args.get("agent", "agent")
        host.process_groups.join("svc:task_worker")
        host.channel.subscribe("", _AGENT_TASKS, "work")

    @handler("work", "call")
    def work(
        self, channel: str, id: str, msg_type: str, payload: dict, deliveries: int = 1, enqueued_ms: int = 0
    ) -> None:
        """Do one task."""
        from_channel(self)
        name, subject = payload.get("key") or id, payload.get("subject", "")
        place = _done(subject, name)
        if host.kv_get(place) is not None:
            return
        task = payload["payload"]
        session_id = task.get("session_id") or f"task-{id}"
        message = {"message": task["message"], "on_behalf": subject}
        try:
            reply = host.ask(beside(self.agent, session_id), "chat", message, timeout_ms=_WORK_TIMEOUT_MS)
        except host.HandlerRefused as refused:
            if refused.details.get("reason") != "not-your-session":
                raise
            # Trying again would not make it theirs.
            reply = {"status": "refused", "response": refused.message}
        if "error" in reply:
            # A refusal gives the task back: it is tried again, and kept as a dead letter in the end.
            raise RuntimeError(f"the agent did not answer: {reply['error']}")
        host.kv_put(place, {"status": reply["status"], "response": reply["response"]}, ttl_ms=_DONE_TTL_MS)
        self.done += 1
        audit(self, "task_completed", session_id, self.context.subject, msg_id=id, key=payload.get("key", ""))

    @handler("get_result")
    def get_result(self, key: str) -> dict:
        """What came of a task of the caller's, by its key or id."""
        found = host.kv_get(_done(self.context.subject, key))
        return {"error": "no such task is done", "key": key} if found is None else {"key": key, **found}

    @handler("get_stats")
    def get_stats(self) -> dict:
        """Counts."""
        return {"status": "ok", "done": self.done}


def _done(subject: str, name: str) -> str:
    return f"done/{subject}\n{name}"
