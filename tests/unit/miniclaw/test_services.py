"""Memory, tasks, health and orchestration."""

from __future__ import annotations

from typing import Any

import pytest

from plexspaces import HostError, Refuse, actor, handler, host, state
from plexspaces.testing import TestNode

from .conftest import Claw, answers, audited


@pytest.fixture
def memory() -> TestNode:
    from claw.memory import MemoryActor  # type: ignore[import-not-found]

    node = TestNode()
    node.spawn(MemoryActor, actor_type="memory")
    return node


def store(node: TestNode, key: str, value: str, subject: str = "ada", **more: Any) -> dict[str, Any]:
    reply: dict[str, Any] = node.ask("memory", "store_memory", {"key": key, "value": value, **more}, subject=subject)
    return reply


def recall(node: TestNode, key: str, subject: str = "ada", **more: Any) -> Any:
    return node.ask("memory", "recall_memory", {"key": key, **more}, subject=subject)["value"]


# -- memory ------------------------------------------------------------------------------------------------


def test_scopes_are_apart(memory: TestNode) -> None:
    store(memory, "k", "global")
    store(memory, "k", "agent", scope="agent", agent_id="a")
    store(memory, "k", "one", scope="session", session_id="s1")
    store(memory, "k", "two", scope="session", session_id="s2")
    assert recall(memory, "k") == "global"
    assert recall(memory, "k", scope="agent", agent_id="a") == "agent"
    assert recall(memory, "k", scope="session", session_id="s1") == "one"
    assert recall(memory, "k", scope="session", session_id="s2") == "two"
    assert recall(memory, "k", scope="session", session_id="s") == ""


def test_a_session_whose_name_begins_another_sees_nothing_of_it(memory: TestNode) -> None:
    store(memory, "k", "long", scope="session", session_id="s10")
    listed = memory.ask("memory", "list_memories", {"scope": "session", "session_id": "s1"}, subject="ada")
    assert listed["memories"] == []


def test_nobody_reads_changes_or_deletes_what_is_somebody_elses(memory: TestNode) -> None:
    store(memory, "k", "ada's", scope="session", session_id="s1")
    where = {"scope": "session", "session_id": "s1"}
    for op, payload in (
        ("recall_memory", {"key": "k", **where}),
        ("store_memory", {"key": "k", "value": "x", **where}),
        ("delete_memory", {"key": "k", **where}),
        ("forget_session", {"session_id": "s1"}),
    ):
        with pytest.raises(HostError) as refused:
            memory.ask("memory", op, payload, subject="bob")
        assert refused.value.details["reason"] == "not-your-memory", op
    found = memory.ask("memory", "search_memory", {"query": "ada", **where}, subject="bob")
    assert found["memories"] == []
    assert recall(memory, "k", **where) == "ada's"


def test_it_is_found_by_prefix_part_and_tag_the_newest_first(memory: TestNode) -> None:
    where = {"scope": "session", "session_id": "s1"}
    for number, key in enumerate(["trip-lisbon", "trip-porto", "food"]):
        store(
            memory,
            key,
            f"value {number} Lisbon" if number != 1 else "v",
            tags=["travel"] if number < 2 else [],
            **where,
        )
        memory.advance(1)

    def search(query: str, mode: str) -> list[str]:
        payload = {"query": query, "mode": mode, **where}
        return [each["key"] for each in memory.ask("memory", "search_memory", payload, subject="ada")["memories"]]

    assert search("trip", "prefix") == ["trip-porto", "trip-lisbon"]
    assert search("LISBON", "substring") == ["food", "trip-lisbon"]
    assert search("travel", "tag") == ["trip-porto", "trip-lisbon"]


def test_what_has_a_time_to_live_is_forgotten(memory: TestNode) -> None:
    store(memory, "k", "v", ttl_ms=5_000)
    memory.advance(6)
    assert recall(memory, "k") == ""
    assert memory.tuples(["memory", None, None, None]) == []


@pytest.mark.parametrize(
    "secret",
    [
        "sk-" + "a1B2" * 8,
        "ghp_" + "x" * 36,
        "AKIA" + "A" * 16,
        "Bearer " + "t" * 24,
        "xoxb-" + "1" * 12,
        "eyJ" + "a" * 20 + ".eyJ" + "b" * 12 + ".c2ln",
        "-----BEGIN RSA PRIVATE " + "KEY-----\nabc\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_what_looks_like_a_secret_is_never_kept(memory: TestNode, secret: str) -> None:
    assert store(memory, "note", f"it is {secret} ok")["redacted"] >= 1
    assert recall(memory, "note") == "it is [redacted] ok"
    assert secret not in str(memory.kv("memory")) + str(memory.tuples())


def test_a_password_that_is_named_is_not_kept_either(memory: TestNode) -> None:
    store(memory, "note", "the password is hunter22, and the colour is blue")
    assert recall(memory, "note") == "the password is [redacted], and the colour is blue"
    assert "error" in store(memory, "sk-" + "a1B2" * 8, "v")


def test_deleting_deletes_every_copy(memory: TestNode) -> None:
    store(memory, "k", "unique-value-1")
    store(memory, "k", "unique-value-2")
    assert memory.tuples(["memory", "global", "k", None]) == [["memory", "global", "k", "unique-value-2"]]
    assert memory.ask("memory", "delete_memory", {"key": "k"}, subject="ada")["deleted"]
    assert "unique-value" not in str(memory.kv("memory")) + str(memory.tuples())


def test_a_session_is_forgotten_whole(memory: TestNode) -> None:
    for key in ("a", "b"):
        store(memory, key, "gone", scope="session", session_id="s1")
    store(memory, "a", "stays", scope="session", session_id="s2")
    assert memory.ask("memory", "forget_session", {"session_id": "s1"}, subject="ada")["deleted"] == 2
    assert "gone" not in str(memory.kv("memory"))
    assert recall(memory, "a", scope="session", session_id="s2") == "stays"


# -- tasks -------------------------------------------------------------------------------------------------


@pytest.fixture
def tasks() -> TestNode:
    from claw.task_queue import TaskQueueActor, TaskWorkerActor  # type: ignore[import-not-found]

    @actor(facets=["virtual_actor", "durability"])
    class Agent:
        heard: list = state(default_factory=list)
        heard_for: list = state(default_factory=list)

        @handler("chat")
        def chat(self, message: str, on_behalf: str) -> dict:
            if message == "fail":
                return {"error": "no_provider"}
            if message == "pry":
                raise Refuse("not-your-session", "this is ada's")
            self.heard.append(message)
            self.heard_for.append(on_behalf)
            return {"status": "ok", "response": f"did {message}"}

        @handler("heard_for")
        def get_heard_for(self) -> list:
            return self.heard_for

        @handler("heard")
        def get_heard(self) -> list:
            return self.heard

    node = TestNode()
    node.deploy("agent", Agent)
    node.spawn(TaskQueueActor, actor_type="task_queue")
    node.spawn(TaskWorkerActor, actor_type="task_worker")
    return node


def test_a_task_is_taken_and_acknowledged_or_comes_back(tasks: TestNode) -> None:
    first = tasks.ask("task_queue", "enqueue", {"task_type": "mail", "payload": {"to": "ada"}})["msg_id"]
    (task,) = tasks.ask("task_queue", "dequeue")["tasks"]
    assert (task["id"], task["payload"]["payload"]) == (first, {"to": "ada"})
    assert tasks.ask("task_queue", "dequeue")["tasks"] == []
    tasks.ask("task_queue", "nack", {"msg_id": first})
    (again,) = tasks.ask("task_queue", "dequeue")["tasks"]
    assert (again["id"], again["deliveries"]) == (first, 2)
    assert tasks.ask("task_queue", "ack", {"msg_id": first})["status"] == "ok"
    assert "error" in tasks.ask("task_queue", "ack", {"msg_id": first})
    assert tasks.ask("task_queue", "get_stats")["depth"] == 0


def test_a_task_is_enqueued_once_by_its_key(tasks: TestNode) -> None:
    ids = {
        tasks.ask("task_queue", "enqueue", {"task_type": "mail", "idempotency_key": "k"})["msg_id"] for _ in range(3)
    }
    assert len(ids) == 1
    assert len(tasks.ask("task_queue", "dequeue", {"limit": 10})["tasks"]) == 1


def test_a_task_for_an_agent_is_done_without_being_fetched(tasks: TestNode) -> None:
    payload = {"session_id": "s1", "message": "tidy up"}
    tasks.ask("task_queue", "enqueue", {"task_type": "agent", "payload": payload, "idempotency_key": "t1"})
    assert tasks.ask("agent/s1", "heard") == ["tidy up"]
    assert tasks.ask("task_worker", "get_result", {"key": "t1"})["response"] == "did tidy up"
    assert "error" in tasks.ask("task_queue", "enqueue", {"task_type": "agent", "payload": {}})


def test_what_came_of_a_task_is_for_whoever_enqueued_it(tasks: TestNode) -> None:
    payload = {"session_id": "s1", "message": "tidy up"}
    for subject in ("ada", "bob"):
        task = {"task_type": "agent", "payload": payload, "idempotency_key": "t1"}
        tasks.ask("task_queue", "enqueue", task, subject=subject)
        assert tasks.ask("task_worker", "get_result", {"key": "t1"}, subject=subject)["response"] == "did tidy up"
    assert tasks.ask("agent/s1", "heard") == ["tidy up", "tidy up"]
    assert tasks.ask("agent/s1", "heard_for") == ["ada", "bob"]
    assert "error" in tasks.ask("task_worker", "get_result", {"key": "t1"}, subject="mallory")


def test_a_task_for_somebody_elses_session_is_not_tried_again(tasks: TestNode) -> None:
    task = {"task_type": "agent", "payload": {"session_id": "s1", "message": "pry"}, "idempotency_key": "t1"}
    tasks.ask("task_queue", "enqueue", task, subject="mallory")
    assert tasks.ask("task_worker", "get_result", {"key": "t1"}, subject="mallory")["status"] == "refused"
    tasks.advance(3_600)
    assert tasks.channel("tasks:agent").dead_letters == []


def test_nobody_gives_the_worker_a_task_but_its_channel(tasks: TestNode) -> None:
    task = {"task_type": "agent", "payload": {"message": "x"}, "subject": "ada"}
    pushed = {"channel": "tasks:agent", "id": "m-1", "msg_type": "agent", "payload": task}
    with pytest.raises(HostError) as refused:
        tasks.ask("task_worker", "work", pushed, subject="mallory")
    assert refused.value.details["reason"] == "not-the-channel"
    assert [each["subject"] for each in audited(tasks, "access_refused")] == ["mallory"]


def test_a_task_that_an_agent_cannot_do_ends_with_the_dead_letters(tasks: TestNode) -> None:
    tasks.ask("task_queue", "enqueue", {"task_type": "agent", "payload": {"session_id": "s1", "message": "fail"}})
    tasks.ask("task_queue", "enqueue", {"task_type": "agent", "payload": {"session_id": "s2", "message": "ok"}})
    tasks.advance(3_600)
    assert len(tasks.channel("tasks:agent").dead_letters) == 1
    assert tasks.ask("agent/s2", "heard") == ["ok"]


# -- health ------------------------------------------------------------------------------------------------


def test_a_group_without_members_is_degraded_and_recovers() -> None:
    from claw.health import HealthMonitorActor  # type: ignore[import-not-found]

    @actor
    class Member:
        @handler("join")
        def join(self) -> None:
            host.process_groups.join("svc:a")

    node = TestNode()
    monitor = node.spawn(HealthMonitorActor, {"poll_interval_ms": 1_000, "groups": ["svc:a"]})
    assert monitor.ask("get_health")["degraded"] == ["svc:a"]
    member = node.spawn(Member, restart=False)
    member.ask("join")
    assert monitor.ask("get_health")["status"] == "ok"
    member.crash()
    node.advance(2)
    assert monitor.ask("get_health")["degraded"] == ["svc:a"]
    assert node.tuples(["health_snapshot", None, None]) != []


# -- orchestration -----------------------------------------------------------------------------------------


@pytest.fixture
def orchestra(claw: Claw) -> Claw:
    from claw.orchestrator import DelegateActor, OrchestratorActor  # type: ignore[import-not-found]

    claw.node.deploy("delegate", DelegateActor)
    claw.node.deploy("orchestrator", OrchestratorActor)
    return claw


def _run(claw: Claw, name: str, **arguments: Any) -> dict[str, Any]:
    result: dict[str, Any] = claw.node.ask(f"orchestrator/{name}", "run", arguments, timeout_ms=10_000_000)
    return result


def test_a_task_is_split_done_by_agents_and_put_together(orchestra: Claw) -> None:
    orchestra.script("r1", answers('Sure: ["buy milk", "buy bread"]'), answers("All bought."))
    orchestra.script("r1.0", answers("milk is here"))
    orchestra.script("r1.1", answers("bread is here"))
    result = _run(orchestra, "r1", task="go shopping")
    assert (result["status"], result["answer"]) == ("ok", "All bought.")
    assert [(each["subtask"], each["response"]) for each in result["results"]] == [
        ("buy milk", "milk is here"),
        ("buy bread", "bread is here"),
    ]


def test_a_list_needs_no_model_to_be_split(orchestra: Claw) -> None:
    for number in range(2):
        orchestra.script(f"r2.{number}", answers(f"done {number}"))
    result = _run(orchestra, "r2", task="please:\n1. one\n2. two", combine=False)
    assert [each["subtask"] for each in result["results"]] == ["one", "two"]
    assert orchestra.asked("r2") == []


def test_what_fails_in_part_says_which_part(orchestra: Claw) -> None:
    orchestra.script("r3.0", answers("fine"))
    orchestra.script("r3.1", {"error": "no_provider", "message": "nobody is there"})
    result = _run(orchestra, "r3", task="x", subtasks=["a", "b"], combine=False)
    assert result["status"] == "partial"
    assert [(each["ok"], each["response"]) for each in result["results"]] == [
        (True, "fine"),
        (False, "nobody is there"),
    ]


def test_it_can_be_asked_and_cancelled_while_it_runs(orchestra: Claw) -> None:
    @actor(facets=["virtual_actor"])
    class Slow:
        @handler("work", "cast")
        def work(self, orchestrator: str, number: int, agent: str, message: str) -> None:
            if number == 0:
                done = {"number": 0, "ok": True, "response": "early"}
                host.send(orchestrator, "subtask_done", done)

    orchestra.node.deploy("delegate", Slow)
    from claw.orchestrator import OrchestratorActor

    run = orchestra.node.spawn(OrchestratorActor, actor_type="orchestrator", key="r4").start(
        task="x", subtasks=["a", "b"], combine=False
    )
    status = orchestra.node.actor("orchestrator/r4").query("status")
    assert (status["stage"], status["done"], status["subtasks"]) == ("waiting", 1, 2)
    orchestra.node.actor("orchestrator/r4").signal("cancel", reason="enough")
    result = run.result()
    assert (result["status"], result["reason"]) == ("cancelled", "enough")
    assert orchestra.node.tuples(["cancel", None]) == [["cancel", "r4.1"]]


def test_a_strangers_word_is_nothing_to_a_task(orchestra: Claw) -> None:
    orchestra.node.tell("orchestrator/r5", "run", {"task": "x", "subtasks": ["a"], "combine": False}, subject="ada")
    forged = {"number": 0, "ok": True, "response": "forged"}
    orchestra.node.tell("orchestrator/r5", "subtask_done", forged, subject="mallory")
    orchestra.node.tell("orchestrator/r5", "cancel", {"reason": "no"}, subject="mallory")
    with pytest.raises(HostError) as refused:
        orchestra.node.ask("orchestrator/r5", "status", subject="mallory")
    assert refused.value.details["reason"] == "not-your-task"
    seen = orchestra.node.ask("orchestrator/r5", "status", subject="ada")
    assert "forged" not in str(seen)
    assert seen["stage"] != "cancelled"
    reasons = {each["detail"]["reason"] for each in audited(orchestra.node, "access_refused")}
    assert {"forged-result", "not-your-task"} <= reasons


def test_what_a_task_remembers_that_acts_for_nobody_is_not_everybodys(memory: TestNode) -> None:
    where = {"scope": "session", "session_id": "s1"}
    store(memory, "k", "of nobody", subject="", **where)
    assert recall(memory, "k", subject="", **where) == "of nobody"
    with pytest.raises(HostError) as refused:
        recall(memory, "k", subject="bob", **where)
    assert refused.value.details["reason"] == "not-your-memory"
