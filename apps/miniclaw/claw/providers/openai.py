"""Chat completions as OpenAI has them, and Ollama, vLLM, OpenRouter and llama.cpp after it.

Source: OpenAI API reference, "Chat Completions" and its streaming events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from . import TOOL_CALLS_MAX, Answer, Ask, Lines, ProviderError, parsed, tool_call

PATH = "/v1/chat/completions"
_STOP = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens", "function_call": "tool_use"}


def request(ask: Ask) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Path, headers and body."""
    body: dict[str, Any] = {
        "model": ask.model,
        "messages": [_message(message) for message in ask.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": ask.max_tokens,
    }
    if ask.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool["name"],
                    "description": tool.get("description", ""),
                    "parameters": tool.get("input_schema") or {"type": "object", "properties": {}},
                },
            }
            for tool in ask.tools
        ]
        if ask.tool_choice:
            chosen = ask.tool_choice
            body["tool_choice"] = (
                chosen if chosen in ("auto", "none", "required") else {"type": "function", "function": {"name": chosen}}
            )
    if ask.temperature is not None:
        body["temperature"] = ask.temperature
    if ask.response_format:
        body["response_format"] = ask.response_format
    headers = {"authorization": f"Bearer {ask.credential}"} if ask.credential else {}
    return PATH, headers, body


def _message(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "tool", "tool_call_id": message["tool_call_id"], "content": message["content"]}
    if message.get("tool_calls"):
        calls = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": json.dumps(call["input"])},
            }
            for call in message["tool_calls"]
        ]
        return {"role": "assistant", "content": message.get("content") or None, "tool_calls": calls}
    return {"role": message["role"], "content": message.get("content") or ""}


class Reader:
    """Reads one answer."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._text: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._finish = ""
        self._usage: dict[str, Any] = {}
        self._done = False

    def feed(self, piece: str) -> Iterator[str]:
        """The text in this piece."""
        for data in self._lines.feed(piece):
            yield from self._event(data)

    def finish(self) -> Iterator[str]:
        """What was left."""
        for data in self._lines.finish():
            yield from self._event(data)

    def whole(self, body: str) -> Iterator[str]:
        """An answer that was not streamed although it was asked for."""
        document = parsed(body)
        choice = _first(document)
        yield from self._delta(choice.get("message") or {}, choice, document)
        self._done = True

    def _event(self, data: str) -> Iterator[str]:
        if data == "[DONE]":
            self._done = True
            return
        document = parsed(data)
        if "error" in document:
            raise ProviderError("overloaded", f"the provider broke off: {document['error']}"[:500], retryable=True)
        choice = _first(document)
        yield from self._delta(choice.get("delta") or {}, choice, document)

    def _delta(self, delta: dict[str, Any], choice: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
        self._usage = document.get("usage") or self._usage
        self._finish = choice.get("finish_reason") or self._finish
        text = delta.get("content")
        if isinstance(text, str) and text:
            self._text.append(text)
            yield text
        for position, part in enumerate(delta.get("tool_calls") or ()):
            index = part.get("index", position)
            if index not in self._calls and len(self._calls) >= TOOL_CALLS_MAX:
                continue
            call = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
            function = part.get("function") or {}
            call["id"] = part.get("id") or call["id"]
            call["name"] += function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""

    def answer(self) -> Answer:
        """The whole of it.

        Raises:
            ProviderError: it broke off.
        """
        if not self._done and not self._finish:
            raise ProviderError("cut_off", "the answer broke off before its end", retryable=True)
        calls = [
            tool_call(call["id"], call["name"], call["arguments"], number)
            for number, call in sorted(self._calls.items())
            if call["name"]
        ]
        stop = "tool_use" if calls else _STOP.get(self._finish, "end_turn")
        return Answer(
            "".join(self._text),
            calls,
            stop,
            int(self._usage.get("prompt_tokens") or 0),
            int(self._usage.get("completion_tokens") or 0),
        )


def _first(document: dict[str, Any]) -> dict[str, Any]:
    choices = document.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    return {}
