"""The chat's edge: what it makes of a client's request, how it finds a turn among a session's events, and its page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import pytest

from plexspaces_runtime.api.chat import _Follow, parse
from plexspaces_runtime.errors import InvalidArgument
from tests.unit.api.memory_node import serving

HELLO = [{"role": "user", "content": "hello"}]


def request(headers: dict[bytes, bytes] | None = None, **body: Any) -> Any:
    return parse(json.dumps({"messages": HELLO, **body}).encode(), headers or {})


def test_a_conversation_of_the_clients() -> None:
    ask = request(
        model="gpt-5", max_tokens=7, temperature=0.5, tool_choice={"function": {"name": "f"}}, stream=True,
        stream_options={"include_usage": True}, tools=[{"type": "function", "function": {"name": "f"}}],
    )  # fmt: skip
    assert (ask.op, ask.session, ask.model, ask.stream, ask.include_usage, ask.events) == (
        "complete", "", "gpt-5", True, True, False,
    )  # fmt: skip
    assert ask.payload == {
        "messages": HELLO,
        "tools": [{"name": "f", "description": "", "input_schema": {"type": "object", "properties": {}}}],
        "model": "gpt-5",
        "max_tokens": 7,
        "temperature": 0.5,
        "tool_choice": "f",
        "response_format": None,
    }


def test_a_session_keeps_its_conversation_itself() -> None:
    ask = request({b"x-session-id": b"mine", b"x-session-events": b"true"}, messages=[*HELLO, *HELLO], model="auto")
    assert (ask.op, ask.session, ask.events) == ("chat", "mine", True)
    assert ask.payload == {"message": "hello", "model": ""}


@pytest.mark.parametrize("model", [None, "auto", "miniclaw"])
def test_the_policy_chooses_where_no_model_is_named(model: str | None) -> None:
    assert request(model=model).payload["model"] == ""


def test_messages_in_all_their_forms() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": '{"x": 1}'}}
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ]
    assert request(messages=messages).payload["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "name": "f", "input": {"x": 1}}]},
        {"role": "tool", "content": "1", "tool_call_id": "c", "name": ""},
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "an object with"),
        (b'{"messages": []}', "at least one"),
        (b'{"messages": [1]}', r"messages\[0\] is to be an object"),
        (b'{"messages": [{"role": "robot"}]}', r"messages\[0\]\.role"),
        (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "image_url"),
        (b'{"messages": [{"role": "user", "content": 1}]}', r"messages\[0\]\.content"),
        (b'{"messages": [{"role": "assistant", "tool_calls": [{}]}]}', "no call of a function"),
        (b'{"messages": [{"role": "user"}], "n": 2}', "n is to be 1"),
        (b'{"messages": [{"role": "user"}], "model": 1}', "model is to be a text"),
        (b'{"messages": [{"role": "user"}], "tools": [{}]}', r"tools\[0\]"),
        (b'{"messages": [{"role": "user"}], "max_tokens": -1}', "max_tokens"),
        (b'{"messages": [{"role": "user"}], "max_tokens": true}', "max_tokens"),
        (b'{"messages": [{"role": "user"}], "temperature": 3}', "temperature"),
        (b'{"messages": [{"role": "user"}], "tool_choice": {}}', "tool_choice"),
        (b'{"messages": [{"role": "user"}], "response_format": 1}', "response_format"),
    ],
)
def test_what_is_no_request_is_refused_and_says_where(body: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse(body, {})


@pytest.mark.parametrize("session", [b"a/b", b".hidden", b"x" * 129, b"two words"])
def test_a_session_is_a_name(session: bytes) -> None:
    with pytest.raises(InvalidArgument, match="X-Session-Id"):
        request({b"x-session-id": session})
    assert request({b"x-session-id": b"x" * 128}).session == "x" * 128


def test_a_session_runs_its_own_tools_and_takes_what_a_user_says() -> None:
    with pytest.raises(InvalidArgument, match="leave tools out"):
        request({b"x-session-id": b"mine"}, tools=[{"function": {"name": "f"}}])
    with pytest.raises(InvalidArgument, match="the last message of a session is the user's"):
        request({b"x-session-id": b"mine"}, messages=[{"role": "assistant", "content": "hi"}])


# -- a turn among a session's events -----------------------------------------------------------------------


def follow(*events: tuple[str, dict[str, Any]]) -> tuple[list[str], list[str], dict[str, Any]]:
    """The types of the events that are of the turn `mine`, its pieces of text, and the head of its chunks."""
    head: dict[str, Any] = {"model": "auto"}
    turn = _Follow("mine", head)
    kinds, texts = [], []
    for event_type, payload in events:
        if turn.take(event_type, payload) is not None:
            kinds.append(event_type)
        texts += turn.texts()
    return kinds, texts, head


def test_of_two_turns_one_is_followed() -> None:
    kinds, texts, head = follow(
        ("input", {"request": "theirs"}), ("text_delta", {"round": 1, "text": "no"}), ("end", {}),
        ("input", {"request": "mine"}), ("text_delta", {"round": 1, "text": "yes"}),
        ("model_response", {"model": "gpt-5"}), ("end", {}), ("text_delta", {"round": 1, "text": "no"}),
    )  # fmt: skip
    assert kinds == ["input", "text_delta", "model_response", "end"]
    assert (texts, head["model"]) == (["yes"], "gpt-5")


def test_an_answer_that_begins_again_says_so_and_another_round_does_not() -> None:
    _, texts, _ = follow(
        ("input", {"request": "mine"}),
        ("text_delta", {"round": 1, "attempt": 1, "text": "Hel"}),
        ("text_delta", {"round": 1, "attempt": 2, "text": "Hello"}),
        ("text_delta", {"round": 2, "attempt": 1, "text": "Done"}),
    )
    assert texts == ["Hel", "\n\n[the answer broke off; it begins again]\n\n", "Hello", "Done"]


# -- the routes --------------------------------------------------------------------------------------------


async def test_the_page_runs_its_own_script_and_no_other() -> None:
    async with serving() as served:
        answer = await served.http.get("/chat")
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        for tag in ("script", "style"):
            (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
            hash_ = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
            assert policy[f"{tag}-src"] == f"'sha256-{hash_}'"
        assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
        # What a policy of hashes does not allow: handlers and styles as attributes, and what comes from elsewhere.
        markup = re.sub(r"<(script|style)>.*?</\1>", "", answer.text, flags=re.DOTALL)
        assert not re.search(r"\s(on\w+|style|src|href)=", markup)


async def test_without_miniclaw_it_says_how_to_get_it() -> None:
    async with serving() as served:
        headers = {"authorization": f"Bearer {served.token}"}
        for answer in (
            await served.http.get("/v1/models", headers=headers),
            await served.http.post("/v1/chat/completions", headers=headers, json={"messages": HELLO}),
        ):
            assert answer.status_code == 404
            assert "plexspaces deploy app-config.toml" in answer.json()["detail"]
        assert (await served.http.get("/v1/models", headers={"authorization": "Bearer x"})).status_code == 401
