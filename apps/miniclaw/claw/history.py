"""The conversation as it is kept and sent: bounded, and never with a tool call apart from its result."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

Message = dict[str, Any]

TOOL_RESULT_CHARS_MAX = 16_000
_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def user(text: str) -> Message:
    """What a person said."""
    return {"role": "user", "content": text}


def assistant(response: Mapping[str, Any]) -> Message:
    """What the model said, as it is kept."""
    message: Message = {
        "role": "assistant",
        "content": response.get("content") or "",
        "stop_reason": response.get("stop_reason", "end_turn"),
    }
    if response.get("tool_calls"):
        message["tool_calls"] = list(response["tool_calls"])
    return message


def with_own_ids(response: Mapping[str, Any], before: Iterable[Message], prefix: str) -> dict[str, Any]:
    """An answer whose calls have ids that no other call of the conversation has, and that any name can hold.

    An id is the model's to choose, and an approval, a result and the name of who waits for it are found by it: one that
    is used twice would let a call pass for another one.

    Args:
        prefix: of the ids that replace such; no other answer has it.
    """
    known = {call["id"] for message in before for call in message.get("tool_calls", ())}
    calls = []
    for number, call in enumerate(response.get("tool_calls") or ()):
        id_ = call["id"]
        if id_ in known or not _CALL_ID.fullmatch(id_):
            id_ = next(each for each in (f"{prefix}_{number}{'x' * many}" for many in count()) if each not in known)
        known.add(id_)
        calls.append({**call, "id": id_})
    return {**response, "tool_calls": calls}


def tool_result(call: Mapping[str, Any], content: Any) -> Message:
    """What a tool answered, as the model reads it."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    if len(text) > TOOL_RESULT_CHARS_MAX:
        text = text[:TOOL_RESULT_CHARS_MAX] + f" … (cut off; {len(text)} characters)"
    return {"role": "tool", "tool_call_id": call["id"], "name": call["name"], "content": text}


def tokens(messages: Iterable[Mapping[str, Any]]) -> int:
    """About how many tokens these messages are: four characters each, as the providers say of English."""
    return sum(map(_characters, messages)) // 4


def _characters(message: Mapping[str, Any]) -> int:
    calls = message.get("tool_calls")
    # Near enough to what is sent, and no history is written as JSON only to be measured.
    return len(message.get("content") or "") + (len(repr(calls)) if calls else 0)


def compacted(messages: list[Message], *, messages_max: int, tokens_max: int) -> list[Message]:
    """The newest part of a history that fits, cut where a person spoke.

    Cut there and nowhere else, an answer keeps its question and a tool call its result: a provider refuses a history in
    which one stands without the other.  The turn that was spoken last is kept whole, however long it is.
    """
    sizes = [_characters(message) for message in messages]
    left, start = sum(sizes), 0
    for position, message in enumerate(messages):
        if message["role"] == "user":
            start = position
            if len(messages) - position <= messages_max and left // 4 <= tokens_max:
                break
        left -= sizes[position]
    return messages[start:]


def open_calls(messages: list[Message]) -> list[Mapping[str, Any]]:
    """The tool calls that have no result yet."""
    done = {message["tool_call_id"] for message in messages if message["role"] == "tool"}
    return [call for message in messages for call in message.get("tool_calls", ()) if call["id"] not in done]
