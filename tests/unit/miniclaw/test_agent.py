"""The agent's turn: what it asks, what it keeps, and how it ends when things go wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces import HostError, actor, handler, host

from .conftest import Claw, answers, audited, wants


def test_a_turn_without_tools_answers_and_is_remembered(claw: Claw) -> None:
    claw.script("s1", answers("Hello, Ada."), answers("You said hi."))
    reply = claw.chat("s1", "hi")
    assert (reply["status"], reply["response"], reply["messages_count"]) == ("ok", "Hello, Ada.", 2)
    assert (reply["session_id"], reply["model"], reply["simulated"]) == ("s1", "scripted-1", False)
    claw.chat("s1", "what did I say?")
    sent = claw.asked("s1")[1]["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user"]
    assert (sent[0]["content"], sent[1]["content"], sent[2]["content"]) == ("Be brief.", "hi", "Hello, Ada.")


def test_tools_are_run_and_their_results_go_back_to_the_model(claw: Claw) -> None:
    claw.script("s1", wants(("c1", "add", {"a": 1, "b": 2}), ("c2", "fail", {})), answers("Three."))
    assert claw.chat("s1", "add")["response"] == "Three."
    second = claw.asked("s1")[1]["messages"]
    results = {message["tool_call_id"]: message["content"] for message in second if message["role"] == "tool"}
    assert results == {"c1": '{"result": 3}', "c2": '{"error": "no such thing"}'}
    assert [call["id"] for call in second[2]["tool_calls"]] == ["c1", "c2"]


def test_every_step_of_a_turn_is_an_event_of_the_session(claw: Claw) -> None:
    claw.script("s1", wants(("c1", "add", {"a": 1})), answers("One."))
    reply = claw.chat("s1", "add")
    events = claw.events("s1")
    assert [event_type for event_type, _ in events] == [
        "input",
        "model_request",
        "model_response",
        "tool_call",
        "tool_result",
        "model_request",
        "model_response",
        "end",
    ]
    assert events[0][1]["subject"] == "ada"
    assert events[4][1]["content"] == '{"result": 1}'
    assert events[-1][1]["response"] == "One."
    assert events[-1][1]["usage"] == reply["usage"] == {"input_tokens": 20, "output_tokens": 10}
    assert reply["cost_usd"] == pytest.approx(0.002)


def test_a_model_that_wants_tools_for_ever_is_stopped_after_five_rounds(claw: Claw) -> None:
    claw.script("s1", *(wants((f"c{round_}", "add", {"a": round_})) for round_ in range(7)), answers("late"))
    reply = claw.chat("s1", "loop")
    assert reply["status"] == "rounds_exhausted"
    assert claw.node.ask("tool_registry/s1", "ran") == ["c0", "c1", "c2", "c3", "c4"]
    claw.script("s1", answers("Yes."))
    assert claw.chat("s1", "still there?")["response"] == "Yes."


def test_two_sessions_never_see_each_other(claw: Claw) -> None:
    claw.script("s1", answers("noted"))
    claw.script("s2", answers("nothing"))
    claw.chat("s1", "my secret is 4711", subject="ada")
    claw.chat("s2", "what is the secret?", subject="bob")
    assert "4711" not in str(claw.asked("s2"))
    assert "4711" not in str(claw.history("s2", subject="bob"))


def test_only_its_owner_and_administrators_may_use_a_session(claw: Claw) -> None:
    claw.script("s1", answers("hello"))
    claw.chat("s1", "hi", subject="ada")
    for op in ("chat", "get_history", "get_cost", "forget", "set_system_prompt", "cancel"):
        with pytest.raises(HostError) as refused:
            claw.node.ask("agent/s1", op, {"message": "x"} if op == "chat" else {}, subject="bob")
        assert refused.value.details["reason"] == "not-your-session", op
    refusals = [m for m in claw.node.channel("audit:events").waiting if m["event_type"] == "access_refused"]
    assert {each["subject"] for each in refusals} == {"bob"}
    assert claw.node.ask("agent/s1", "get_history", subject="root", roles=["admin"])["count"] == 2


def test_the_agent_without_a_session_hands_a_message_to_the_sessions_own(claw: Claw) -> None:
    claw.script("s9", answers("from nine"))
    reply = claw.node.ask("agent", "chat", {"message": "hi", "session_id": "s9"})
    assert (reply["response"], reply["session_id"]) == ("from nine", "s9")
    with pytest.raises(HostError) as refused:
        claw.node.ask("agent", "chat", {"message": "hi", "session_id": "s9"}, subject="mallory")
    assert refused.value.details["reason"] == "not-your-session"
    # A refusal is the session's and no crash of the one that is everybody's.
    assert claw.node.exits == []
    with pytest.raises(HostError) as refused:
        claw.node.ask("agent/s9", "chat", {"message": "hi", "session_id": "other"})
    assert refused.value.details["reason"] == "wrong-session"


def test_a_turn_without_a_model_says_why_and_leaves_a_history_that_can_be_sent(claw: Claw) -> None:
    claw.script("s1", wants(("c1", "add", {"a": 1})), {"error": "no_provider", "message": "nobody is there"})
    reply = claw.chat("s1", "add")
    assert (reply["error"], reply["message"]) == ("no_provider", "nobody is there")
    assert [event_type for event_type, _ in claw.events("s1")][-2:] == ["turn_error", "end"]
    claw.script("s1", answers("back"))
    assert claw.chat("s1", "and now?")["response"] == "back"


def test_a_budget_that_is_used_up_ends_the_turn_and_says_so(claw: Claw) -> None:
    budget = {"scope": "session", "limit_usd": 0.01, "used_usd": 0.0101}
    claw.script("s1", {"error": "budget_exhausted", "message": "the session's budget is used up", "budget": budget})
    reply = claw.chat("s1", "hi")
    assert (reply["status"], reply["budget"]) == ("budget_exhausted", budget)
    assert ("budget_exhausted", {"turn": 1, **budget}) in claw.events("s1")


def test_a_turn_is_cancelled_between_two_rounds(claw: Claw) -> None:
    @actor(facets=["virtual_actor"])
    class Cancelling:
        @handler("list_tools")
        def list_tools(self) -> dict:
            return {"tools": []}

        @handler("execute_tools")
        def execute_tools(self, calls: list, session_id: str, approved: list) -> dict:
            host.ask("session_manager", "register_session", {"session_id": session_id})
            host.ask("session_manager", "cancel_turn", {"session_id": session_id})
            return {"results": [{"id": call["id"], "ok": True, "content": "done"} for call in calls]}

    claw.node.deploy("tool_registry", Cancelling)
    claw.script("s1", wants(("c1", "add", {})), answers("never"), answers("again"))
    assert claw.chat("s1", "go")["status"] == "cancelled"
    assert len(claw.asked("s1")) == 1
    assert claw.events("s1")[-2][0] == "cancelled"
    claw.script("s1", answers("again"))
    assert claw.chat("s1", "go on")["response"] == "again"


@pytest.mark.parametrize("op", ["chat", "complete"])
def test_a_cancel_that_came_too_late_is_not_the_next_turns(claw: Claw, op: str) -> None:
    claw.script("s1", answers("one"), answers("two"))
    claw.chat("s1", "hi")
    claw.node.ask("session_manager", "register_session", {"session_id": "s1"}, subject="ada")
    claw.node.ask("session_manager", "cancel_turn", {"session_id": "s1"}, subject="ada")
    arguments = {"message": "hi"} if op == "chat" else {"messages": [{"role": "user", "content": "hi"}]}
    assert claw.node.ask("agent/s1", op, arguments, subject="ada")["status"] == "ok"
    assert claw.node.tuples(["cancel", None]) == []


def test_a_stranger_cannot_cancel_a_turn(claw: Claw) -> None:
    claw.node.ask("session_manager", "register_session", {"session_id": "s1"}, subject="ada")
    with pytest.raises(HostError):
        claw.node.ask("session_manager", "cancel_turn", {"session_id": "s1"}, subject="bob")
    assert "error" in claw.node.ask("session_manager", "cancel_turn", {"session_id": "unknown"}, subject="bob")
    assert claw.node.tuples(["cancel", None]) == []


# -- approvals ---------------------------------------------------------------------------------------------


def test_a_call_that_needs_approval_waits_for_a_person_and_then_the_turn_goes_on(claw: Claw) -> None:
    claw.script("s1", wants(("c1", "dangerous", {"x": 1}), ("c2", "add", {"a": 2})), answers("Done."))
    reply = claw.chat("s1", "do it")
    assert reply["status"] == "waiting_for_approval"
    assert [each["name"] for each in reply["approvals"]] == ["dangerous"]
    assert claw.node.ask("tool_registry/s1", "ran") == ["c2"]
    assert claw.chat("s1", "hello?")["status"] == "waiting_for_approval"
    claw.node.advance(3 * 86_400)
    (promise,) = claw.node.promises()
    assert promise.name.startswith("approval dangerous")
    claw.node.resolve(promise.id, {"approved": True, "by": "grace"})
    assert claw.node.ask("tool_registry/s1", "ran") == ["c2", "c1"]
    assert claw.events("s1")[-1][1]["response"] == "Done."
    results = [message["tool_call_id"] for message in claw.history("s1") if message["role"] == "tool"]
    assert sorted(results) == ["c1", "c2"]


def test_a_call_that_is_rejected_is_never_made_and_the_model_hears_of_it(claw: Claw) -> None:
    claw.script("s1", wants(("c1", "dangerous", {"x": 1})), answers("Then not."))
    claw.chat("s1", "do it")
    (promise,) = claw.node.promises()
    claw.node.resolve(promise.id, False)
    assert claw.node.ask("tool_registry/s1", "ran") == []
    assert "rejected" in claw.asked("s1")[1]["messages"][-1]["content"]
    assert claw.events("s1")[-1][1]["response"] == "Then not."


def test_an_approval_that_nobody_decides_is_a_rejection_after_a_week(claw: Claw) -> None:
    claw.script("s1", wants(("c1", "dangerous", {})), answers("Too late."))
    claw.chat("s1", "do it")
    claw.node.advance(7 * 86_400 + 1)
    assert claw.node.ask("tool_registry/s1", "ran") == []
    assert claw.events("s1")[-1][1]["response"] == "Too late."


def test_nobody_but_the_approval_decides(claw: Claw) -> None:
    claw.script("s1", wants(("c1", "dangerous", {})), answers("Done."))
    claw.chat("s1", "do it")
    claw.node.tell("agent/s1", "approval_decided", {"call": "c1", "approved": True}, subject="mallory")
    refused = [m for m in claw.node.channel("audit:events").waiting if m["event_type"] == "access_refused"]
    assert [(each["subject"], each["detail"]["reason"]) for each in refused] == [("mallory", "forged-approval")]
    assert claw.node.ask("tool_registry/s1", "ran") == []


@pytest.mark.parametrize("id_", ["c1", "../agent/victim", "c1.c1", "x" * 65, ""])
def test_a_call_never_passes_for_another_one_that_was_approved(claw: Claw, id_: str) -> None:
    """The ids are the model's: it may use one twice, or one that names something else."""
    claw.script(
        "s1",
        wants((id_, "dangerous", {"x": 1}), (id_, "dangerous", {"x": 2})),
        wants((id_, "dangerous", {"x": 3})),
        answers("Done."),
    )
    reply = claw.chat("s1", "do it")
    assert [each["input"] for each in reply["approvals"]] == [{"x": 1}, {"x": 2}]
    first, second = claw.node.promises()
    claw.node.resolve(first.id, True)
    claw.node.resolve(second.id, False)
    # The third call is a call of its own, whatever it calls itself.
    (third,) = claw.node.promises()
    assert len(claw.node.ask("tool_registry/s1", "ran")) == 1
    claw.node.resolve(third.id, False)
    assert claw.events("s1")[-1][1]["response"] == "Done."
    results = [message["tool_call_id"] for message in claw.history("s1") if message["role"] == "tool"]
    assert len(set(results)) == 3


def test_what_a_person_is_shown_is_what_an_agent_asked_for(claw: Claw) -> None:
    """An approval that somebody else has begun, in harmless words, decides nothing."""
    claw.script("s1", wants(("c1", "dangerous", {"x": 1})), answers("Done."))
    reply = claw.chat("s1", "do it")
    harmless = {"agent": "agent/s1", "call": "c1", "name": "add", "input": {}, "session_id": "s1"}
    with pytest.raises(HostError):
        claw.node.ask("approval/forged", "run", harmless, subject="mallory")
    assert [each["detail"]["reason"] for each in audited(claw.node, "access_refused")] == ["forged-approval"]
    (promise,) = claw.node.promises()
    name = reply["approvals"][0]["approval"]
    with pytest.raises(HostError) as refused:
        claw.node.ask(name, "get_request", subject="mallory")
    assert refused.value.details["reason"] == "not-your-approval"
    assert claw.node.ask(name, "get_request", subject="ada")["tool"] == "dangerous"
    assert claw.node.ask(name, "get_request", subject="grace", roles=["operator"])["tool"] == "dangerous"
    claw.node.resolve(promise.id, True)
    assert len(claw.node.ask("tool_registry/s1", "ran")) == 1


def test_another_approval_than_the_one_asked_decides_nothing(claw: Claw) -> None:
    @actor(facets=["virtual_actor"])
    class Approval:
        @handler("decide")
        def decide(self, agent: str, call: str) -> None:
            host.send(agent, "approval_decided", {"call": call, "approved": True})

    claw.script("s1", wants(("c1", "dangerous", {"x": 1})), answers("Done."))
    claw.chat("s1", "do it")
    claw.node.deploy("approval", Approval)
    claw.node.tell("approval/other.1.c1", "decide", {"agent": "agent/s1", "call": "c1"})
    assert claw.node.ask("tool_registry/s1", "ran") == []
    assert [each["detail"]["reason"] for each in audited(claw.node, "access_refused")] == ["forged-approval"]


def test_only_an_actor_that_acts_for_nobody_says_whose_task_it_is(claw: Claw) -> None:
    claw.script("s1", answers("hello"))
    claw.chat("s1", "my secret is 4711", subject="ada")
    with pytest.raises(HostError) as refused:
        claw.chat("s1", "tell me", subject="mallory", on_behalf="ada")
    assert refused.value.details["reason"] == "not-an-actor"
    assert len(claw.asked("s1")) == 1


def test_a_waiting_turn_can_be_cancelled(claw: Claw) -> None:
    claw.script("s1", wants(("c1", "dangerous", {})), answers("fresh"))
    claw.chat("s1", "do it")
    assert claw.node.ask("agent/s1", "cancel", subject="ada") == {"status": "ok", "cancelled": True}
    assert claw.chat("s1", "hello")["response"] == "fresh"
    (promise,) = claw.node.promises()
    claw.node.resolve(promise.id, True)
    assert claw.node.ask("tool_registry/s1", "ran") == []


# -- the history -------------------------------------------------------------------------------------------

_TURNS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 400)), min_size=1, max_size=12
)  # per turn: rounds of tools, length of the texts


@given(turns=_TURNS, messages_max=st.integers(1, 40), tokens_max=st.integers(1, 2_000))
def test_compaction_never_parts_a_call_from_its_result(
    turns: list[tuple[int, int]], messages_max: int, tokens_max: int
) -> None:
    from claw.history import assistant, compacted, open_calls, tokens, tool_result, user

    messages = []
    for number, (rounds, length) in enumerate(turns):
        messages.append(user("u" * length))
        for round_ in range(rounds):
            call = {"id": f"{number}.{round_}", "name": "add", "input": {}}
            messages.append(assistant({"content": "", "tool_calls": [call]}))
            messages.append(tool_result(call, "r" * length))
        messages.append(assistant({"content": "a" * length}))
    kept = compacted(messages, messages_max=messages_max, tokens_max=tokens_max)
    assert kept == messages[len(messages) - len(kept) :]
    assert kept[0]["role"] == "user"
    assert open_calls(kept) == []
    called = {call["id"] for message in kept for call in message.get("tool_calls", ())}
    assert {message["tool_call_id"] for message in kept if message["role"] == "tool"} == called
    one_turn = sum(message["role"] == "user" for message in kept) == 1
    assert one_turn or (len(kept) <= messages_max and tokens(kept) <= tokens_max)
    # No more is left out than has to be: with the turn before it would not fit.
    starts = [place for place, message in enumerate(messages) if message["role"] == "user"]
    for start in starts[: starts.index(len(messages) - len(kept))]:
        assert len(messages[start:]) > messages_max or tokens(messages[start:]) > tokens_max


def test_the_system_prompt_survives_compaction_and_says_what_was_left_out(claw: Claw) -> None:
    claw.script("s1", *(answers("x" * 50) for _ in range(30)))
    for turn in range(30):
        claw.chat("s1", f"turn {turn}")
    sent = claw.asked("s1")[-1]["messages"]
    assert sent[0]["role"] == "system"
    assert sent[0]["content"].startswith("Be brief.")
    assert sent[-1]["content"] == "turn 29"
    assert len(sent) <= 13


# -- the state machine --------------------------------------------------------------------------------------


def test_the_machine_follows_a_turn_and_refuses_what_cannot_be(claw: Claw) -> None:
    claw.script("s1", wants(("c1", "add", {"a": 1})), answers("ok"))
    claw.chat("s1", "go")
    assert claw.node.ask("agent_fsm/s1", "get_state") == {"status": "ok", "state": "idle", "transitions": 5}
    with pytest.raises(HostError) as refused:
        claw.node.ask("agent_fsm/s1", "transition", {"to": "responding"})
    assert refused.value.details["reason"] == "illegal-transition"


# -- crashes -----------------------------------------------------------------------------------------------


def test_a_session_goes_on_after_its_actor_died(claw: Claw) -> None:
    claw.script("s1", answers("I will remember."), answers("Blue."))
    claw.chat("s1", "my colour is blue")
    claw.node.actor("agent/s1").crash()
    assert claw.chat("s1", "which colour?")["response"] == "Blue."
    assert "my colour is blue" in str(claw.asked("s1")[1]["messages"])


# -- conversations that the caller keeps --------------------------------------------------------------------


def complete(claw: Claw, session: str = "api", **more: object) -> dict:
    payload = {"messages": [{"role": "system", "content": "Rhyme."}, {"role": "user", "content": "hi"}], **more}
    reply: dict = claw.node.ask(f"agent/{session}", "complete", payload, subject="ada")
    return reply


def test_a_conversation_that_the_caller_keeps_is_answered_and_not_kept(claw: Claw) -> None:
    claw.script("api", wants(("c1", "add", {"a": 1})), answers("One, done."), answers("second"))
    reply = complete(claw)
    assert reply["response"]["content"] == "One, done."
    sent = claw.asked("api")[1]["messages"]
    assert sent[0] == {"role": "system", "content": "Rhyme."}
    assert sent[-1]["content"] == '{"result": 1}'
    assert claw.history("api") == []
    complete(claw)
    assert "add" not in str(claw.asked("api")[2]["messages"])


def test_the_callers_own_tools_are_the_callers_to_run(claw: Claw) -> None:
    claw.script("api", wants(("c1", "mine", {"x": 1})))
    reply = complete(claw, tools=[{"name": "mine", "input_schema": {}}], tool_choice="mine")
    assert reply["response"]["tool_calls"] == [{"id": "c1", "name": "mine", "input": {"x": 1}}]
    assert claw.asked("api")[0]["tool_choice"] == "mine"
    assert claw.node.ask("tool_registry/api", "ran") == []


def test_what_needs_approval_is_not_done_where_nobody_can_wait_for_it(claw: Claw) -> None:
    claw.script("api", wants(("c1", "dangerous", {})), answers("I may not."))
    assert complete(claw)["response"]["content"] == "I may not."
    assert claw.node.ask("tool_registry/api", "ran") == []
    assert claw.node.promises() == []


def test_whoever_follows_a_turn_can_tell_it_from_others(claw: Claw) -> None:
    claw.script("s1", answers("a"), answers("b"))
    claw.chat("s1", "one", request="r-1")
    claw.chat("s1", "two", request="r-2")
    inputs = [payload["request"] for event_type, payload in claw.events("s1") if event_type == "input"]
    assert inputs == ["r-1", "r-2"]


def test_nobody_takes_the_agent_that_answers_somebody_elses_client(claw: Claw) -> None:
    adas = f"api-{b'ada'.hex()}-0"
    with pytest.raises(HostError) as refused:
        claw.chat(adas, "hi", subject="mallory")
    assert refused.value.details["reason"] == "not-your-session"
    claw.script(adas, answers("hello"))
    assert claw.chat(adas, "hi", subject="ada")["response"] == "hello"
