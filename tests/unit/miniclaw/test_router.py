"""The router: whom it asks, what it pays, and what it does when they fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces import HostError, actor, handler, host
from plexspaces.errors import DeadlineExceeded, Unavailable
from plexspaces.testing import TestAnswer, TestNode

ARGS = {
    "providers": [
        {"name": "one", "kind": "openai", "link": "one"},
        {"name": "two", "kind": "anthropic", "link": "two"},
    ],
    "models": {
        "small": {
            "provider": "one",
            "model": "m-small",
            "input_usd_per_million": 1.0,
            "output_usd_per_million": 2.0,
            "max_output_tokens": 100,
        },
        "large": {
            "provider": "two",
            "model": "m-large",
            "input_usd_per_million": 10.0,
            "output_usd_per_million": 20.0,
            "max_output_tokens": 100,
        },
    },
    "policy": {"cheap": ["small", "large"], "strong": ["large", "small"], "cheap_tokens_max": 50},
    "backoff_ms": 100,
    "breaker": {"failures_max": 3, "open_ms": 10_000},
}
SSE = {"content-type": "text/event-stream"}


def openai_events(
    *texts: str, calls: list[dict[str, Any]] | None = None, usage: tuple[int, int] = (10, 5)
) -> list[str]:
    """What an OpenAI-compatible provider streams."""
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": {"content": text}}]} for text in texts]
    chunks += [{"choices": [{"delta": {"tool_calls": [call]}}]} for call in calls or []]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "tool_calls" if calls else "stop"}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}})
    return [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + ["data: [DONE]\n\n"]


def anthropic_events(*texts: str, call: tuple[str, str, str] | None = None) -> list[str]:
    """What Anthropic streams."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 11, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for text in texts),
    ]
    if call is not None:
        block = {"type": "tool_use", "id": call[0], "name": call[1], "input": {}}
        events.append({"type": "content_block_start", "index": 1, "content_block": block})
        for part in (call[2][:3], call[2][3:]):
            delta = {"type": "input_json_delta", "partial_json": part}
            events.append({"type": "content_block_delta", "index": 1, "delta": delta})
    stop = "tool_use" if call else "end_turn"
    events.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 7}})
    events.append({"type": "message_stop"})
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]


def streamed(pieces: list[Any]) -> TestAnswer:
    return TestAnswer(headers=SSE, pieces=pieces)


@actor(facets=["virtual_actor"])
class Asker:
    """An agent as far as its router can see: a session's router answers nobody from outside."""

    @handler("relay")
    def relay(self, payload: dict) -> dict:
        name = f"llm_router/{payload['session_id']}"
        reply: dict = host.ask(name, "chat_completion", payload, timeout_ms=600_000)
        return reply


class World:
    """A router, and its two providers; each answers with what is next in its list, the last one for ever."""

    def __init__(self, args: dict[str, Any] | None = None) -> None:
        from claw.router import LLMRouterActor  # type: ignore[import-not-found]

        self.node = TestNode()
        self.node.deploy("llm_router", LLMRouterActor, shared_keys=True, args={**ARGS, **(args or {})})
        self.node.deploy("agent", Asker)
        self.requests: list[Any] = []

    def provider(self, link: str, *answers: Any) -> None:
        left = list(answers)

        def answer(request: Any) -> Any:
            self.requests.append(request)
            return left.pop(0) if len(left) > 1 else left[0]

        self.node.http(link, answer)

    def ask(self, text: str = "hi", session: str = "s1", subject: str = "ada", **more: Any) -> dict[str, Any]:
        payload = {"messages": [{"role": "user", "content": text}], "session_id": session, **more}
        reply: dict[str, Any] = self.node.ask(
            f"agent/{session}", "relay", {"payload": payload}, subject=subject, timeout_ms=600_000
        )
        return reply

    def links(self) -> list[str]:
        return [request.link for request in self.requests]


@pytest.fixture
def world() -> World:
    made = World()
    made.provider("one", streamed(openai_events("Hel", "lo.")))
    made.provider("two", streamed(anthropic_events("Good ", "day.")))
    return made


# -- providers ---------------------------------------------------------------------------------------------


def test_an_openai_compatible_provider_is_asked_and_read(world: World) -> None:
    tools = [{"name": "add", "description": "adds", "input_schema": {"type": "object", "properties": {}}}]
    reply = world.ask(tools=tools, temperature=0.5, max_tokens=50)
    assert reply["response"] == {"role": "assistant", "stop_reason": "end_turn", "content": "Hello.", "tool_calls": []}
    assert (reply["model"], reply["provider"], reply["simulated"]) == ("small", "one", False)
    assert reply["usage"] == {"input_tokens": 10, "output_tokens": 5}
    assert reply["cost_usd"] == pytest.approx(0.00002)
    (request,) = world.requests
    body = request.json()
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert (body["model"], body["stream"], body["max_tokens"], body["temperature"]) == ("m-small", True, 50, 0.5)
    assert body["tools"][0]["function"]["name"] == "add"
    assert body["messages"] == [{"role": "user", "content": "hi"}]


def test_anthropic_is_asked_and_read(world: World) -> None:
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "name": "add", "input": {"a": 1}}]},
        {"role": "tool", "tool_call_id": "c1", "name": "add", "content": "2"},
    ]
    reply = world.ask(messages=history, model="large")
    assert reply["response"]["content"] == "Good day."
    assert reply["usage"] == {"input_tokens": 11, "output_tokens": 7}
    (request,) = world.requests
    body = request.json()
    assert (request.path, request.headers["anthropic-version"]) == ("/v1/messages", "2023-06-01")
    assert body["system"] == "Be brief."
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"] == [{"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}]
    assert body["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "c1", "content": "2"}]


def test_tool_calls_are_put_together_from_their_pieces(world: World) -> None:
    parts = [
        {"index": 0, "id": "a", "function": {"name": "add", "arguments": '{"x"'}},
        {"index": 1, "id": "b", "function": {"name": "sub", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": ": 1}"}},
    ]
    world.provider("one", streamed(openai_events(calls=parts)))
    world.provider("two", streamed(anthropic_events("Let me see.", call=("c9", "add", '{"y": 2}'))))
    assert world.ask()["response"]["tool_calls"] == [
        {"id": "a", "name": "add", "input": {"x": 1}},
        {"id": "b", "name": "sub", "input": {}},
    ]
    reply = world.ask(model="large")["response"]
    assert (reply["stop_reason"], reply["content"]) == ("tool_use", "Let me see.")
    assert reply["tool_calls"] == [{"id": "c9", "name": "add", "input": {"y": 2}}]


@pytest.mark.parametrize("arguments", ["{not json", "[1]", '"text"'])
def test_arguments_that_are_none_are_handed_on_as_a_mistake_of_the_models(world: World, arguments: str) -> None:
    call = {"index": 0, "id": "a", "function": {"name": "add", "arguments": arguments}}
    world.provider("one", streamed(openai_events(calls=[call])))
    (found,) = world.ask()["response"]["tool_calls"]
    assert (found["input"], "invalid" in found) == ({}, True)


def test_an_answer_that_is_not_streamed_is_read_too(world: World) -> None:
    whole = {
        "choices": [{"message": {"content": "Whole."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    }
    world.provider("one", TestAnswer(whole, headers={"content-type": "application/json"}))
    reply = world.ask()
    assert (reply["response"]["content"], reply["usage"]["output_tokens"]) == ("Whole.", 4)


@given(cuts=st.lists(st.integers(1, 700), max_size=12))
def test_it_does_not_matter_where_the_network_cuts_a_stream(cuts: list[int]) -> None:
    from claw.providers import openai  # type: ignore[import-not-found]

    text = "".join(openai_events("Grüße, ", "Ada", calls=[{"index": 0, "id": "a", "function": {"name": "f"}}]))
    reader, said, at = openai.Reader(), "", 0
    for cut in [*sorted(cuts), len(text)]:
        said += "".join(reader.feed(text[at:cut]))
        at = max(at, cut)
    said += "".join(reader.finish())
    answer = reader.answer()
    assert said == answer.text == "Grüße, Ada"
    assert [call["name"] for call in answer.tool_calls] == ["f"]


# -- failures ----------------------------------------------------------------------------------------------


def test_what_may_pass_is_tried_again_and_the_text_says_which_attempt(world: World) -> None:
    world.provider("one", TestAnswer("busy", status=503), streamed(openai_events("Now.")))
    reply = world.ask(stream="/sessions/s1")
    assert (reply["response"]["content"], reply["attempts"]) == ("Now.", 2)
    events = world.node.stream("/sessions/s1").events
    assert [(event["event_type"], event["payload"]["attempt"]) for event in events] == [
        ("model_failed", 1),
        ("text_delta", 2),
    ]


def test_a_provider_says_when_to_come_back(world: World) -> None:
    begun = world.node.now_ms
    world.provider("one", TestAnswer("", status=429, headers={"retry-after": "3"}), streamed(openai_events("Ok.")))
    assert world.ask()["response"]["content"] == "Ok."
    assert 3_000 <= world.node.now_ms - begun < 4_000


def test_one_that_wants_to_be_left_alone_for_long_is_left_for_the_next_model(world: World) -> None:
    begun = world.node.now_ms
    world.provider("one", TestAnswer("", status=429, headers={"retry-after": "600"}))
    reply = world.ask()
    assert (reply["model"], world.links()) == ("large", ["one", "two"])
    assert world.node.now_ms - begun < 1_000


BROKEN: dict[str, Callable[[], Any]] = {
    "500": lambda: TestAnswer("oops", status=500),
    "unreachable": lambda: Unavailable("nobody listens"),
    "too slow": lambda: DeadlineExceeded("it took too long"),
    "cut off": lambda: streamed(openai_events("Hel")[:1]),
    "broken off": lambda: streamed([openai_events("Hel")[0], Unavailable("reset")]),
    "no JSON": lambda: streamed(["data: {nonsense\n\n"]),
    "an error in the stream": lambda: streamed(['data: {"error": {"message": "overloaded"}}\n\n']),
}


@pytest.mark.parametrize("how", BROKEN)
def test_one_that_fails_is_tried_three_times_and_then_the_next_model(world: World, how: str) -> None:
    world.provider("one", BROKEN[how]())
    reply = world.ask()
    assert reply["response"]["content"] == "Good day."
    assert (reply["model"], reply["attempts"]) == ("large", 4)
    assert world.links() == ["one", "one", "one", "two"]


@pytest.mark.parametrize(("status", "code"), [(400, "invalid_request"), (401, "unauthorised"), (403, "unauthorised")])
def test_what_will_not_pass_is_not_tried_again(world: World, status: int, code: str) -> None:
    world.provider("one", TestAnswer({"error": {"message": "no"}}, status=status))
    reply = world.ask(model="small")
    assert (reply["error"], world.links()) == (code, ["one"])
    assert "no" in reply["message"]


def test_without_anybody_it_says_what_each_of_them_said() -> None:
    world = World()
    reply = world.ask()
    assert reply["error"] == "no_provider"
    assert [each["model"] for each in reply["tried"]] == ["small", "large"]
    assert {each["error"] for each in reply["tried"]} == {"not_configured"}


def test_the_simulated_model_is_the_last_resort_and_says_so() -> None:
    world = World({"policy": {"cheap": ["small", "miniclaw-simulated-v1"], "strong": []}})
    reply = world.ask("hello")
    assert reply["simulated"] is True
    assert reply["response"]["content"].startswith("[simulated]")
    assert reply["cost_usd"] == 0


# -- the breaker -------------------------------------------------------------------------------------------


def test_one_that_keeps_failing_is_not_asked_for_a_while_by_any_session(world: World) -> None:
    world.provider("one", TestAnswer("", status=500))
    world.ask(session="s1")
    world.requests.clear()
    assert world.ask(session="s2")["model"] == "large"
    assert world.links() == ["two"]
    assert world.node.ask("llm_router", "get_stats")["circuit_open"] is True


def test_the_breaker_survives_its_routers(world: World) -> None:
    world.provider("one", TestAnswer("", status=500))
    world.ask()
    world.node.actor("llm_router/s1").crash()
    world.requests.clear()
    world.ask()
    assert world.links() == ["two"]


def test_after_a_while_one_call_tries_and_closes_it(world: World) -> None:
    world.provider("one", TestAnswer("", status=500))
    world.ask()
    world.provider("one", streamed(openai_events("Back.")))
    world.node.advance(11)
    world.requests.clear()
    assert world.ask()["response"]["content"] == "Back."
    assert world.node.ask("llm_router", "get_stats")["circuit_open"] is False


def test_a_try_that_fails_opens_it_again_at_once(world: World) -> None:
    world.provider("one", TestAnswer("", status=500))
    world.ask()
    world.node.advance(11)
    world.requests.clear()
    world.ask()
    assert world.links() == ["one", "two"]


def test_a_mistake_of_the_callers_does_not_open_it(world: World) -> None:
    world.provider("one", TestAnswer("", status=400))
    for _ in range(5):
        world.ask(model="small")
    assert len(world.links()) == 5


_EVENTS = st.lists(st.sampled_from(["ok", "fail", "ask", "wait"]), max_size=60)


@given(events=_EVENTS)
def test_the_table_of_the_breaker_holds(events: list[str]) -> None:
    from claw.breaker import Breaker, Circuit, Rules, admit, failed, succeeded  # type: ignore[import-not-found]

    rules, breaker, now_ms, in_a_row = Rules(3, 1_000), Breaker(), 0, 0
    for event in events:
        match event:
            case "wait":
                now_ms += 700
            case "ask":
                was = breaker
                breaker, admitted = admit(breaker, now_ms, rules)
                if was.circuit is Circuit.CLOSED:
                    assert admitted
                else:
                    assert admitted == (now_ms >= was.until_ms)
                    # Whoever comes at the same moment is not let through as well.
                    assert not admitted or admit(breaker, now_ms, rules)[1] is False
            case "fail":
                in_a_row += 1
                breaker = failed(breaker, now_ms, rules)
                assert breaker.circuit is Circuit.OPEN or in_a_row < 3
            case "ok":
                in_a_row = 0
                breaker = succeeded(breaker)
                assert breaker == Breaker()
        assert Breaker.load(breaker.kept()) == breaker


# -- budgets -----------------------------------------------------------------------------------------------


def test_a_session_that_has_spent_its_money_is_told_before_the_call(world: World) -> None:
    world.node.ask("llm_router", "set_budget", {"name": "session_usd", "limit": 0.00025}, roles=["admin"])
    assert "error" not in world.ask()
    calls = 0
    while "error" not in (reply := world.ask()):
        calls += 1
        assert calls < 50
    assert (reply["error"], reply["budget"]["scope"], reply["budget"]["unit"]) == ("budget_exhausted", "session", "usd")
    before = len(world.requests)
    world.ask()
    assert len(world.requests) == before
    used = world.node.ask("llm_router", "get_budget", {"session_id": "s1"})["budget"]["session"]
    assert used["used_usd"] <= used["limit_usd"]
    assert "error" not in world.ask(session="s2")


def test_tokens_and_days_have_limits_too(world: World) -> None:
    world.node.ask("llm_router", "set_budget", {"name": "day_tokens", "limit": 110}, roles=["admin"])
    assert "error" not in world.ask()
    assert world.ask(session="s2")["budget"]["scope"] == "day"
    world.node.advance(86_400)
    assert "error" not in world.ask(session="s2")


def test_what_was_set_aside_for_a_call_that_failed_is_given_back(world: World) -> None:
    world.provider("one", TestAnswer("", status=500))
    world.provider("two", TestAnswer("", status=500))
    assert "error" in world.ask()
    assert world.node.ask("llm_router", "get_budget", {"session_id": "s1"})["budget"]["session"]["used_usd"] == 0


def test_an_answer_that_broke_off_is_paid_for_as_far_as_it_came(world: World) -> None:
    world.provider("one", streamed(openai_events("a" * 400)[:1]))
    assert "error" in world.ask(model="small")
    used = world.node.ask("llm_router", "get_budget", {"session_id": "s1"})["budget"]["session"]
    assert used["used_usd"] > 0.0003


def test_only_administrators_change_budgets(world: World) -> None:
    with pytest.raises(HostError):
        world.node.ask("llm_router", "set_budget", {"name": "session_usd", "limit": 9.0}, roles=["user"])
    assert "error" in world.node.ask("llm_router", "set_budget", {"name": "x_usd", "limit": 9.0}, roles=["admin"])


@given(calls=st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=20), limit=st.integers(1, 200))
def test_no_order_of_calls_spends_more_than_the_limit(calls: list[tuple[int, bool]], limit: int) -> None:
    from claw.budget import Budgets, Exhausted  # type: ignore[import-not-found]

    from plexspaces import actor, handler, host

    @actor
    class Spender:
        @handler("run")
        def run(self) -> list:
            budgets = Budgets({"tenant_tokens": limit})
            held, seen = [], []
            for amount, settles in calls:
                reserved = budgets.reserve("", 0, amount)
                if not isinstance(reserved, Exhausted):
                    held.append((reserved, amount))
                if settles and held:
                    first, most = held.pop(0)
                    budgets.settle(first, 0, most // 2)
                seen.append(host.kv_get("spent/tenant/tokens", 0))
            return seen

    assert all(0 <= total <= limit for total in TestNode().spawn(Spender).ask("run"))


# -- choosing ----------------------------------------------------------------------------------------------


def test_the_policy_sends_what_is_short_to_the_cheap_model_and_the_rest_to_the_strong_one(world: World) -> None:
    assert world.ask("hi")["model"] == "small"
    assert world.ask("x" * 1_000)["model"] == "large"
    assert world.ask("hi", force="strong")["model"] == "large"
    assert world.ask("x" * 1_000, force="cheap")["model"] == "small"
    assert world.ask("hi", model="large")["model"] == "large"
    assert "there is no model 'gpt-9'; there are" in world.ask("hi", model="gpt-9")["message"]


def test_the_same_question_of_the_same_person_is_answered_from_the_cache_for_a_while() -> None:
    world = World({"cache_ttl_s": 60})
    world.provider("one", streamed(openai_events("Cached.")))
    assert world.ask()["cached"] is False
    again = world.ask()
    assert (again["cached"], again["cost_usd"], again["response"]["content"]) == (True, 0.0, "Cached.")
    assert world.ask(subject="bob")["cached"] is False
    world.node.advance(61)
    assert world.ask()["cached"] is False
    assert len(world.requests) == 3


def test_what_runs_tools_or_varies_is_never_cached() -> None:
    world = World({"cache_ttl_s": 60})
    world.provider("one", streamed(openai_events("Fresh.")))
    for more in ({"tools": [{"name": "add", "input_schema": {}}]}, {"temperature": 0.7}):
        world.ask(**more)
        assert world.ask(**more)["cached"] is False


@pytest.mark.parametrize("messages", [[], [{"role": "robot", "content": ""}], ["hi"], [{"role": "user", "content": 7}]])
def test_what_is_no_conversation_is_refused(world: World, messages: list[Any]) -> None:
    assert world.ask(messages=messages)["error"] == "invalid_request"
    assert world.requests == []


def test_a_turn_that_is_cancelled_stops_in_the_middle_of_an_answer(world: World) -> None:
    from plexspaces import actor, handler, host

    @actor
    class Canceller:
        @handler("cancel")
        def cancel(self) -> None:
            host.ts.write(["cancel", "s1"])

    canceller = world.node.spawn(Canceller)

    def answer(request: Any) -> Any:
        canceller.ask("cancel")
        return streamed(openai_events(*"abcdef"))

    world.node.http("one", answer)
    reply = world.ask(stream="/sessions/s1")
    assert reply["error"] == "cancelled"


@pytest.mark.parametrize(("pieces", "stops"), [(12, False), (13, True)])
def test_an_answer_without_text_is_cancelled_too(world: World, pieces: int, stops: bool) -> None:
    """Every sixteenth piece is asked for: of these answers three are their end."""

    @actor
    class Canceller:
        @handler("cancel")
        def cancel(self) -> None:
            host.ts.write(["cancel", "s1"])

    canceller = world.node.spawn(Canceller)

    def answer(request: Any) -> Any:
        canceller.ask("cancel")
        parts = [
            {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}" if not n else ""}}
            for n in range(pieces)
        ]
        return streamed(openai_events(calls=parts))

    world.node.http("one", answer)
    assert (world.ask().get("error") == "cancelled") is stops


def test_text_is_published_at_once_and_then_in_larger_pieces(world: World) -> None:
    pieces: list[Any] = []
    for piece in openai_events(*(f"{number} " for number in range(50))):
        pieces += [piece, 0.01]
    world.provider("one", streamed(pieces))
    reply = world.ask(stream="/sessions/s1")
    deltas = [event["payload"]["text"] for event in world.node.stream("/sessions/s1").events]
    assert "".join(deltas) == reply["response"]["content"]
    assert deltas[0] == "0 "
    assert 8 <= len(deltas) <= 16


# -- credentials -------------------------------------------------------------------------------------------


def test_a_key_that_is_registered_is_never_seen_by_the_router(world: World) -> None:
    key = "sk-" + "k" * 24
    reply = world.node.ask(
        "llm_router", "register_credential", {"phantom_token": "phantom-one", "api_key": key}, roles=["admin"]
    )
    assert reply == {"status": "ok", "phantom_token": "phantom-one", "links": ["one", "two"]}
    world.ask()
    world.ask(model="large")
    assert world.requests[0].headers["authorization"] == f"Bearer {key}"
    assert world.requests[1].headers["x-api-key"] == key
    everything = (
        str(world.node.kv("llm_router")) + str(world.node.channel("audit:events").waiting) + str(world.node.logs)
    )
    assert key not in everything


def test_nobody_else_registers_credentials(world: World) -> None:
    payload = {"phantom_token": "phantom-one", "api_key": "x" * 20}
    with pytest.raises(HostError):
        world.node.ask("llm_router", "register_credential", payload, roles=["user"])


# -- the simulated model -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "input_"),
    [
        ("please calculate (3 + 4) * 2", "calculator", {"expression": "(3 + 4) * 2"}),
        ("what is 6 * 7?", "calculator", {"expression": "6 * 7"}),
        ("how is the weather in New York?", "weather", {"location": "New York"}),
        ("remember that my colour is blue", "memory_store", {"key": "my-colour-is-blue", "value": "my colour is blue"}),
        ("search for actor systems", "web_search", {"query": "actor systems"}),
        ("run this python: print(1)", "run_python", {"code": "print(1)"}),
    ],
)
def test_the_simulated_model_wants_the_tool_that_the_words_call_for(
    text: str, name: str, input_: dict[str, Any]
) -> None:
    from claw.providers import Ask, simulated  # type: ignore[import-not-found]

    tools = [{"name": each} for each in ("calculator", "weather", "memory_store", "web_search", "run_python")]
    answer = simulated.answer(Ask("m", [{"role": "user", "content": text}], tools))
    assert [(call["name"], call["input"]) for call in answer.tool_calls] == [(name, input_)]
    assert simulated.answer(Ask("m", [{"role": "user", "content": text}], [])).tool_calls == []


@given(text=st.text(max_size=300))
def test_whatever_it_is_told_the_simulated_model_is_labelled_and_always_says_the_same(text: str) -> None:
    from claw.providers import Ask, simulated

    ask = Ask("m", [{"role": "user", "content": text}], [{"name": "calculator"}])
    answer = simulated.answer(ask)
    assert answer == simulated.answer(ask)
    assert answer.tool_calls or answer.text.startswith("[simulated]")


def test_a_caller_from_outside_names_neither_a_session_nor_a_stream(world: World) -> None:
    for more in ({"session_id": "s1"}, {"stream": "/sessions/s1"}):
        payload = {"messages": [{"role": "user", "content": "hi"}], **more}
        with pytest.raises(HostError) as refused:
            world.node.ask("llm_router/s1", "chat_completion", payload, subject="mallory")
        assert refused.value.details["reason"] == "not-an-actor"
    assert world.requests == []
    events = [each for each in world.node.channel("audit:events").waiting if each["event_type"] == "access_refused"]
    assert {each["subject"] for each in events} == {"mallory"}
    assert world.node.ask("llm_router", "chat_completion", {"messages": [{"role": "user", "content": "hi"}]})["status"]
