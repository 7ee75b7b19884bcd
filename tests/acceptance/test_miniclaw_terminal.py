"""`plexspaces chat` as a person meets it, in a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from .claw import CLI, Claw, Provider, calls, configuration, in_turn, provider, says
from .terminal import Terminal, terminal

pytestmark = pytest.mark.guest
APPROVAL = 'role = "tool_registry"\nbehavior_kind = "GenServer"'


@pytest.fixture(scope="module")
def model() -> Iterator[Provider]:
    with provider() as made:
        yield made


@pytest.fixture(scope="module")
def claw(model: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Claw]:
    folder = tmp_path_factory.mktemp("terminal")
    approval = {APPROVAL: APPROVAL + '\nargs = { approval = ["run_python"] }'}
    made = Claw(folder / "data", configuration(model, **approval))
    yield made
    made.end()


@pytest.fixture
def chat(claw: Claw) -> Iterator[Terminal]:
    with terminal([*CLI, "chat"], {**claw.env, "PLEXSPACES_URL": claw.url}) as made:
        made.until("/quit leaves.")
        made.until("> ")
        yield made
        made.type("/quit")
        assert made.end() == 0
        assert "Traceback" not in made.shown


def test_a_conversation_with_a_tool(model: Provider, chat: Terminal) -> None:
    model.behave = in_turn(calls(("calculator", {"expression": "2 + 2"})), says("Four, ", "I think."))
    chat.type("what is 2 + 2?")
    shown = chat.until("Four, I think.")
    assert '→ calculator {"expression": "2 + 2"}' in shown
    assert '← calculator {"result": 4}' in shown
    chat.until("> ")


def test_new_switch_sessions_and_history(model: Provider, chat: Terminal) -> None:
    model.behave = lambda seen: says(f"I know {len(seen.messages)} messages.")
    chat.type("first")
    chat.until("I know 2 messages.")
    chat.until("> ")
    (first,) = re.findall(r"session (\S+)\.", chat.shown)
    chat.type("/new")
    chat.until("session ")
    second = chat.until("\n").strip()
    assert second != first
    chat.type("second")
    chat.until("I know 2 messages.")
    chat.type("/sessions")
    listed = chat.until(first)
    assert f"* {second}" in listed
    chat.type(f"/switch {first}")
    chat.until(f"session {first}")
    chat.type("/history")
    history = chat.until("assistant: I know 2 messages.")
    assert "user: first" in history
    assert "second" not in history
    chat.type("third")
    chat.until("I know 4 messages.")


def test_cost_model_and_help(model: Provider, chat: Terminal) -> None:
    model.behave = in_turn(says("Hello.", usage=(1_000_000, 100)))
    chat.type("hello")
    chat.until("Hello.")
    chat.type("/cost")
    chat.until("1000000 tokens in, 100 out, 1 turns")
    chat.type("/model")
    chat.until("* auto")
    chat.until("gpt-5-mini  openai")
    chat.type("/model miniclaw-simulated-v1")
    chat.until("model miniclaw-simulated-v1")
    chat.type("hello")
    chat.until("[simulated] Hello!")
    chat.until("To connect one: plexspaces secret set openai")
    chat.type("/help")
    chat.until("Ctrl-C stops an answer")
    chat.type("/nonsense")
    chat.until("there is no /nonsense")
    chat.type("/switch")
    chat.until("/sessions lists them")


@pytest.mark.parametrize("word", ["approve", "reject"])
def test_an_approval(model: Provider, chat: Terminal, word: str) -> None:
    model.behave = in_turn(calls(("run_python", {"code": "print(6 * 7)"})), says("So be it."))
    chat.type("run it")
    chat.until("waits for approval: /approve or /reject")
    # Whoever goes on talking is told what the conversation waits for.
    chat.type("are you there?")
    chat.until("[waiting for approval: run_python")
    chat.type(f"/{word}")
    chat.until("approved run_python" if word == "approve" else "rejected run_python")
    shown = chat.until("So be it.")
    assert ("42" in shown) is (word == "approve")
    chat.type(f"/{word}")
    chat.until("nothing of this conversation waits for approval")


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(claw: Claw, model: Provider, chat: Terminal) -> None:
    model.behave = lambda seen: says(*(f"{number} " for number in range(400)), pause_s=0.02)
    (session,) = re.findall(r"session (\S+)\.", chat.shown)
    chat.type("count")
    chat.until("5 6 7")
    chat.interrupt()
    chat.until("stopped")
    claw.until(session, "cancelled")
    model.behave = in_turn(says("Hello again."))
    chat.type("hello")
    chat.until("Hello again.")


def test_ctrl_c_stops_what_goes_on_after_an_approval(claw: Claw, model: Provider, chat: Terminal) -> None:
    model.behave = in_turn(
        calls(("run_python", {"code": "1"})), says(*(f"{number} " for number in range(400)), pause_s=0.02)
    )
    (session,) = re.findall(r"session (\S+)\.", chat.shown)
    chat.type("run it")
    chat.until("waits for approval")
    chat.type("/approve")
    chat.until("5 6 7")
    chat.interrupt()
    chat.until("stopped")
    claw.until(session, "cancelled")


def test_an_error_is_said_and_the_conversation_goes_on(model: Provider, chat: Terminal) -> None:
    chat.type("/model no-such-model")
    chat.type("hello")
    chat.until("error: there is no model 'no-such-model'")
    chat.type("/switch not a session!")
    chat.type("hello")
    chat.until("X-Session-Id is to be")
    chat.type("/new")
    chat.type("/model auto")
    model.behave = in_turn(says("Here I am."))
    chat.type("hello")
    chat.until("Here I am.")


def test_ctrl_c_and_ctrl_d_at_the_prompt_leave(claw: Claw) -> None:
    for key in (b"\x03", b"\x04"):
        with terminal([*CLI, "chat"], {**claw.env, "PLEXSPACES_URL": claw.url}) as made:
            made.until("> ")
            made.press(key)
            assert made.end() == 0


def test_what_a_model_writes_does_not_steer_the_terminal(model: Provider, chat: Terminal) -> None:
    model.behave = in_turn(says("\x1b[2Jred\x1b]0;owned\x07 hi"))
    chat.type("hello")
    chat.until("\\u001b[2Jred\\u001b]0;owned\\u0007 hi")
