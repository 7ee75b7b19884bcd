"""MiniClaw as its users and their programs meet it: over HTTP, on the command line, and through nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from .claw import (
    Claw,
    Provider,
    Seen,
    breaks_off,
    calls,
    configuration,
    fails,
    hangs,
    in_turn,
    provider,
    says,
    writes,
)

pytestmark = pytest.mark.guest
APPROVAL = 'role = "tool_registry"\nbehavior_kind = "GenServer"'


@pytest.fixture(scope="module")
def model() -> Iterator[Provider]:
    with provider() as made:
        yield made


@pytest.fixture(scope="module")
def claw(model: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Claw]:
    folder = tmp_path_factory.mktemp("claw")
    approval = {
        APPROVAL: APPROVAL + '\nargs = { approval = ["run_python"] }',
        # Nobody here has a minute.
        "idle_timeout_s = 60": "idle_timeout_s = 2\nfirst_byte_timeout_s = 2",
    }
    made = Claw(folder / "data", configuration(model, **approval))
    yield made
    made.end()


@pytest.fixture(autouse=True)
def _fresh(claw: Claw, model: Provider) -> Iterator[None]:
    model.behave = in_turn(says("ok"))
    model.seen.clear()
    yield
    # What one test has broken is not the next one's.
    claw.ask("llm_router", "reset_circuit")


def by_last(answers: dict[str, Any]) -> Callable[[Seen], Any]:
    """A provider that answers what the last message calls for."""

    def behave(seen: Seen) -> Any:
        for word, answer in answers.items():
            if word in seen.last:
                return answer
        return says("I do not know.")

    return behave


# -- a conversation ----------------------------------------------------------------------------------------


def test_a_chat_with_tools(claw: Claw, model: Provider) -> None:
    model.behave = in_turn(
        calls(("calculator", {"expression": "6 * 7"}), ("memory_store", {"key": "answer", "value": "42"})),
        says("It is ", "42."),
    )
    reply = claw.chat("tools", "what is 6 * 7?")
    assert (reply["status"], reply["response"], reply["simulated"], reply["rounds"]) == ("ok", "It is 42.", False, 2)
    results = [each["content"] for each in model.seen[1].messages if each["role"] == "tool"]
    assert results == ['{"result": 42}', '{"result": "remembered \'answer\'"}']
    types = [event["event_type"] for event in claw.events("tools")]
    assert types[0] == "input"
    assert types[-1] == "end"
    assert types.count("tool_result") == 2
    deltas = [event["payload"]["text"] for event in claw.events("tools") if event["event_type"] == "text_delta"]
    assert "".join(deltas) == "It is 42."


def test_the_key_is_on_the_wire_and_nowhere_else(claw: Claw, model: Provider) -> None:
    claw.chat("key", "hello")
    assert model.seen[0].headers["authorization"] == f"Bearer {claw.key}"
    assert claw.key not in json.dumps(claw.events("key"))
    assert claw.key not in json.dumps(claw.audit())
    assert claw.key.encode() not in (claw.data_dir.parent / "node.log").read_bytes()


def test_two_users_at_once_never_see_each_other(claw: Claw, model: Provider) -> None:
    model.behave = lambda seen: says(f"you said {seen.last}", pause_s=0.02)
    ada, bob = claw.token_of("ada", "user"), claw.token_of("bob", "user")

    def talk(name: str, token: str) -> list[Any]:
        return [claw.chat(f"of-{name}", f"{name} secret {turn}", token) for turn in range(4)]

    with ThreadPoolExecutor() as pool:
        of_ada, of_bob = pool.map(talk, ["ada", "bob"], [ada, bob])
    assert [each["response"] for each in of_ada] == [f"you said ada secret {turn}" for turn in range(4)]
    assert "ada" not in json.dumps(of_bob)
    for seen in model.seen:
        text = json.dumps(seen.messages)
        assert not ("ada secret" in text and "bob secret" in text)
    for path in ("agent/of-ada",):
        refused = claw.send("POST", f"/api/v1/actors/default/default/{path}?wait=10", {"op": "get_history"}, bob)
        assert refused.status_code == 422 or refused.status_code in (400, 403, 409), refused.text
        assert "secret" not in refused.text
    assert claw.send("GET", "/api/v1/streams/sessions/of-ada", None, bob).status_code == 403
    refused = claw.send(
        "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, bob,
        **{"x-session-id": "of-ada"},
    )  # fmt: skip
    assert refused.status_code >= 400 or "secret" not in refused.text


def test_a_loop_in_a_tool_ends_and_the_turn_goes_on(claw: Claw, model: Provider) -> None:
    model.behave = in_turn(calls(("calculator", {"expression": "9" * 900 + " ** 9"})), says("Too large."))
    assert claw.chat("large", "hard")["response"] == "Too large."
    assert "error" in model.seen[1].last


def test_a_tool_in_an_endless_loop_is_ended_and_the_turn_goes_on(claw: Claw, model: Provider) -> None:
    model.behave = in_turn(calls(("run_python", {"code": "while True:\n    pass"})), says("It never ends."))
    assert claw.chat("loop", "run it")["status"] == "waiting_for_approval"
    (waits,) = [json.loads(line) for line in claw.run("approvals", "ls", "--json").stdout.splitlines()]
    assert claw.run("approvals", "approve", waits["approval"]).returncode == 0
    assert claw.until("loop", "end")[-1]["payload"]["response"] == "It never ends."
    assert "computed for too long" in model.seen[-1].last
    assert claw.chat("beside", "hello")["response"] == "It never ends."


# -- providers that fail -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("429", fails(429, retry_after="1")), ("500", fails(500)), ("cut-off", breaks_off("Hel")),
        ("nonsense", writes("data: {nonsense\n\n")), ("empty", writes("")), ("deaf", hangs()), ("silent", hangs("Hel")),
    ],
)  # fmt: skip
def test_a_provider_that_fails_once_is_asked_again(claw: Claw, model: Provider, name: str, first: Any) -> None:
    model.behave = in_turn(first, says("Now it works."))
    assert claw.chat(f"fails-{name}", "hello")["response"] == "Now it works."
    assert len(model.seen) == 2


def test_arguments_that_are_none_go_back_to_the_model(claw: Claw, model: Provider) -> None:
    model.behave = in_turn(calls(("calculator", "{not json")), calls(("calculator", {"expr": 1})), says("I give up."))
    assert claw.chat("wrong", "hello")["response"] == "I give up."
    assert "not JSON" in model.seen[1].last
    assert "input.expression is missing" in model.seen[2].last


def test_a_model_that_never_stops_calling_tools_is_stopped(claw: Claw, model: Provider) -> None:
    model.behave = lambda seen: calls(("calculator", {"expression": "1"}))
    reply = claw.chat("endless", "hello")
    assert (reply["status"], len(model.seen)) == ("rounds_exhausted", 5)


def test_a_provider_that_is_down_and_comes_back(claw: Claw, model: Provider) -> None:
    model.behave = in_turn(fails(503))
    first = claw.chat("down", "hello")
    # The chain ends with the simulated model, which says what it is.
    assert (first["simulated"], first["response"].startswith("[simulated]")) == (True, True)
    for _ in range(3):
        claw.chat("down", "hello")
    assert claw.ask("llm_router", "get_stats")["circuit_open"] is True
    asked = len(model.seen)
    claw.chat("down", "hello")
    assert len(model.seen) == asked
    model.behave = in_turn(says("I am back."))
    claw.ask("llm_router", "reset_circuit")
    assert claw.chat("down", "hello")["response"] == "I am back."


def test_a_budget_that_runs_out(claw: Claw, model: Provider) -> None:
    model.behave = lambda seen: says("x", usage=(1_000_000, 100_000))
    claw.ask("llm_router", "set_budget", name="session_usd", limit=1.0)
    try:
        statuses = [claw.chat("poor", "spend " * 200)["status"] for _ in range(4)]
        assert statuses[0] == "ok"
        assert statuses[-1] == "budget_exhausted"
        assert claw.chat("rich", "hello")["status"] == "ok"
        assert [event["event_type"] for event in claw.events("poor")].count("budget_exhausted") >= 1
    finally:
        claw.ask("llm_router", "set_budget", name="session_usd", limit=100.0)


def test_an_answer_that_is_stopped_in_the_middle(claw: Claw, model: Provider) -> None:
    model.behave = lambda seen: says(*(f"{number} " for number in range(400)), pause_s=0.02)
    with ThreadPoolExecutor() as pool:
        turn = pool.submit(claw.chat, "stop", "count")
        claw.until("stop", "text_delta")
        claw.ask("session_manager", "cancel_turn", session_id="stop")
        assert turn.result(30)["status"] == "cancelled"
    model.behave = in_turn(says("Hello again."))
    assert claw.chat("stop", "hello")["response"] == "Hello again."


# -- the node dies -----------------------------------------------------------------------------------------


def test_a_session_goes_on_after_a_restart_and_an_approval_is_given_after_it(claw: Claw, model: Provider) -> None:
    model.behave = by_last({"run it": calls(("run_python", {"code": "print(6 * 7)"})), "42": says("It printed 42.")})
    claw.chat("days", "my colour is blue")
    reply = claw.chat("days", "run it")
    assert reply["status"] == "waiting_for_approval"
    claw.kill()
    claw.start()
    (waits,) = [json.loads(line) for line in claw.run("approvals", "ls", "--json").stdout.splitlines()]
    assert (waits["tool"], waits["input"], waits["session_id"]) == ("run_python", {"code": "print(6 * 7)"}, "days")
    done = claw.run("approvals", "approve", waits["approval"])
    assert done.returncode == 0, done.stderr
    events = claw.until("days", "end", 2)
    assert events[-1]["payload"]["response"] == "It printed 42."
    history = claw.ask("agent/days", "get_history")["messages"]
    assert history[0]["content"] == "my colour is blue"


def test_a_turn_survives_kills_and_pays_for_no_finished_call_twice(claw: Claw, model: Provider) -> None:
    """Killed after the first model call, in the second one, and after it."""
    model.behave = by_last(
        {"begin": calls(("calculator", {"expression": "1 + 1"})), '"result": 2': says("Two. ", "Done.", pause_s=0.4)}
    )
    path = "/api/v1/actors/default/default/agent/kills"
    assert claw.send("POST", path, {"op": "chat", "message": "begin"}).status_code == 202
    claw.until("kills", "tool_result")
    claw.kill()
    claw.start()
    claw.until("kills", "text_delta")
    claw.kill()
    claw.start()
    events = claw.until("kills", "end")
    assert events[-1]["payload"]["response"] == "Two. Done."
    first = [seen for seen in model.seen if "begin" in seen.last]
    assert len(first) == 1
    # The call under way is made again, with the same key; no other.
    second = [seen for seen in model.seen if '"result": 2' in seen.last]
    assert 2 <= len(second) <= 3
    assert [event["event_type"] for event in events].count("tool_result") == 1
    assert [event["event_type"] for event in events].count("input") == 1


def test_a_router_that_crashes_in_the_middle_of_a_call(claw: Claw, model: Provider) -> None:
    model.behave = in_turn(says(*"abcdefghij", pause_s=0.2), says("Second try."))
    with ThreadPoolExecutor() as pool:
        turn = pool.submit(claw.chat, "crash", "hello")
        claw.until("crash", "text_delta")
        assert claw.run("kill", "llm_router/crash").returncode == 0
        reply = turn.result(60)
    assert "error" in reply or reply["status"] == "ok"
    assert claw.chat("crash", "again")["response"] == "Second try."


def test_an_orchestrated_task_that_is_killed_half_way_repeats_nothing(claw: Claw, model: Provider) -> None:
    model.behave = lambda seen: says(f"did {seen.last}", pause_s=0.6 if "slow" in seen.last else 0.0)
    task = {"task": "x", "subtasks": ["quick one", "slow two", "quick three"], "combine": False}
    claw.http("POST", "/api/v1/workflows/orchestrator/trip", task)
    for number in (0, 2):
        claw.until(f"trip.{number}", "end")
    claw.kill()
    claw.start()
    result = claw.http("POST", "/api/v1/workflows/orchestrator/trip?wait=60", task)
    assert result["status"] == "ok"
    assert [each["response"] for each in result["results"]] == ["did quick one", "did slow two", "did quick three"]
    asked = [seen.last for seen in model.seen]
    assert (asked.count("quick one"), asked.count("quick three")) == (1, 1)


# -- existing clients --------------------------------------------------------------------------------------


@pytest.fixture
def client(claw: Claw) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{claw.url}/v1", api_key=claw.token, max_retries=0, timeout=60)


def test_openais_library_chats(client: openai.OpenAI, model: Provider) -> None:
    model.behave = in_turn(says("Hello, ", "world."))
    answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == "Hello, world."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 15
    assert "gpt-5-mini" in [each.id for each in client.models.list()]


def test_openais_library_streams(client: openai.OpenAI, model: Provider) -> None:
    model.behave = in_turn(says("Hello, ", "world.", pause_s=0.1))
    stream = client.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "hi"}], stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert texts == ["Hello, ", "world."]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


@pytest.mark.parametrize("stream", [False, True])
def test_openais_library_brings_its_own_tools(client: openai.OpenAI, model: Provider, stream: bool) -> None:
    model.behave = in_turn(calls(("mine", {"x": 1})), says("Got it."))
    tools: Any = [{"type": "function", "function": {"name": "mine", "parameters": {"type": "object"}}}]
    messages: list[Any] = [{"role": "user", "content": "use it"}]
    if stream:
        call: Any = None
        for chunk in client.chat.completions.create(model="auto", messages=messages, tools=tools, stream=True):
            if chunk.choices and chunk.choices[0].delta.tool_calls:
                call = chunk.choices[0].delta.tool_calls[0]
    else:
        answer = client.chat.completions.create(model="auto", messages=messages, tools=tools)
        assert answer.choices[0].finish_reason == "tool_calls"
        call = (answer.choices[0].message.tool_calls or [None])[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("mine", {"x": 1})
    function = {"name": "mine", "arguments": call.function.arguments}
    messages += [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call.id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "done"},
    ]
    last = client.chat.completions.create(model="auto", messages=messages, tools=tools)
    assert last.choices[0].message.content == "Got it."
    assert model.seen[-1].messages[-1]["content"] == "done"


def test_a_session_by_header_remembers(client: openai.OpenAI, model: Provider) -> None:
    model.behave = lambda seen: says(f"{len(seen.messages)} messages")
    session = {"X-Session-Id": "by-header"}
    for wanted in ("2 messages", "4 messages"):
        answer = client.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "hi"}], extra_headers=session
        )
        assert answer.choices[0].message.content == wanted


def test_mistakes_are_errors_that_the_library_knows(client: openai.OpenAI, claw: Claw, model: Provider) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="auto", messages=[{"role": "robot", "content": "hi"}])  # type: ignore[list-item, misc]
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{claw.url}/v1", api_key="none", max_retries=0).models.list()


def test_many_conversations_of_one_caller_at_once(client: openai.OpenAI, model: Provider) -> None:
    model.behave = lambda seen: says(f"you said {seen.last}", pause_s=0.05)

    def say(number: int) -> str | None:
        answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": f"n{number}"}])
        return answer.choices[0].message.content

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(say, range(24))) == [f"you said n{number}" for number in range(24)]


# -- people ------------------------------------------------------------------------------------------------


def test_chat_in_the_terminal(claw: Claw, model: Provider) -> None:
    model.behave = in_turn(calls(("calculator", {"expression": "2 + 2"})), says("Four."))
    done = claw.run("chat", "--session", "terminal", "what is 2 + 2?")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Four."
    assert '→ calculator {"expression": "2 + 2"}' in done.stderr
    assert "simulated" not in done.stderr


def test_chat_says_that_it_is_simulated_and_how_to_connect_a_model(claw: Claw, model: Provider) -> None:
    model.behave = in_turn(fails(401))
    done = claw.run("chat", "--session", "simulated", "hello")
    assert done.stdout.startswith("[simulated]")
    assert "plexspaces secret set openai" in done.stderr


def test_what_a_model_writes_does_not_steer_the_terminal(claw: Claw, model: Provider) -> None:
    model.behave = in_turn(says("\x1b[2J\x1b]0;owned\x07 hi"))
    done = claw.run("chat", "--session", "escape", "hello")
    assert "\x1b" not in done.stdout
    assert "\\u001b" in done.stdout


def test_the_page_is_served_and_calls_nobody_but_its_node(claw: Claw) -> None:
    answer = claw.send("GET", "/chat")
    assert answer.status_code == 200
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
    assert "MiniClaw" in answer.text
    assert claw.token not in answer.text


# -- health ------------------------------------------------------------------------------------------------


def test_health_knows_who_is_missing(claw: Claw) -> None:
    assert claw.ask("health_monitor", "get_health")["status"] == "ok"
    claw.run("stop", "task_queue")
    try:
        deadline = time.monotonic() + 30
        while claw.ask("health_monitor", "get_health")["degraded"] != ["svc:task_queue"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        claw.run("restart", "task_queue")


def test_the_record_is_whole(claw: Claw) -> None:
    claw.audit()
    assert claw.ask("audit", "verify")["status"] == "ok"


def test_a_task_of_the_queue_is_done_once(claw: Claw, model: Provider) -> None:
    model.behave = lambda seen: says(f"did {seen.last}")
    payload = {"session_id": "queued", "message": "sweep"}
    for _ in range(3):
        claw.ask("task_queue", "enqueue", task_type="agent", payload=payload, idempotency_key="sweep-1")
    events = claw.until("queued", "end")
    assert events[-1]["payload"]["response"] == "did sweep"
    assert sum(seen.last == "sweep" for seen in model.seen) == 1
