"""Messages as Anthropic has them.  Source: Anthropic API reference, "Messages" and "Streaming Messages"."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from . import TOOL_CALLS_MAX, Answer, Ask, Lines, ProviderError, parsed, tool_call

PATH = "/v1/messages"
_STOP = {"end_turn": "end_turn", "tool_use": "tool_use", "max_tokens": "max_tokens", "stop_sequence": "end_turn"}


def request(ask: Ask) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Path, headers and body."""
    system = "\n\n".join(message["content"] for message in ask.messages if message["role"] == "system")
    body: dict[str, Any] = {
        "model": ask.model,
        "messages": _messages(ask.messages),
        "stream": True,
        "max_tokens": ask.max_tokens,
    }
    if system:
        body["system"] = system
    if ask.tools:
        body["tools"] = [
            {
                "name": tool["name"],
                "description": tool.get("description", ""),
                "input_schema": tool.get("input_schema") or {"type": "object", "properties": {}},
            }
            for tool in ask.tools
        ]
        if ask.tool_choice:
            known = {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}
            body["tool_choice"] = known.get(ask.tool_choice, {"type": "tool", "name": ask.tool_choice})
    if ask.temperature is not None:
        body["temperature"] = ask.temperature
    headers = {"anthropic-version": "2023-06-01"}
    if ask.credential:
        headers["x-api-key"] = ask.credential
    return PATH, headers, body


def _messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turns by turns: results belong to the user's turn, and two turns of one side are one."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        role = "assistant" if message["role"] == "assistant" else "user"
        content = list(_content(message))
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += content
        elif content:
            turns.append({"role": role, "content": content})
    return turns


def _content(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if message["role"] == "tool":
        yield {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": message["content"]}
        return
    if message.get("content"):
        yield {"type": "text", "text": message["content"]}
    for call in message.get("tool_calls") or ():
        yield {"type": "tool_use", "id": call["id"], "name": call["name"], "input": call["input"]}


class Reader:
    """Reads one answer."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._text: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._stop = ""
        self._done = False
        self._input = self._output = 0

    def feed(self, piece: str) -> Iterator[str]:
        """The text in this piece."""
        for data in self._lines.feed(piece):
            yield from self._event(parsed(data))

    def finish(self) -> Iterator[str]:
        """What was left."""
        for data in self._lines.finish():
            yield from self._event(parsed(data))

    def whole(self, body: str) -> Iterator[str]:
        """An answer that was not streamed although it was asked for."""
        document = parsed(body)
        self._count(document.get("usage"))
        for index, block in enumerate(document.get("content") or ()):
            yield from self._begun(index, block)
            if block.get("type") == "tool_use":
                self._calls[index]["arguments"] = json.dumps(block.get("input") or {})
        self._stop, self._done = document.get("stop_reason") or "end_turn", True

    def _event(self, event: dict[str, Any]) -> Iterator[str]:
        match event.get("type"):
            case "message_start":
                self._count((event.get("message") or {}).get("usage"))
            case "content_block_start":
                yield from self._begun(event.get("index", 0), event.get("content_block") or {})
            case "content_block_delta":
                delta = event.get("delta") or {}
                if delta.get("type") == "text_delta" and delta.get("text"):
                    self._text.append(delta["text"])
                    yield delta["text"]
                elif delta.get("type") == "input_json_delta" and event.get("index") in self._calls:
                    self._calls[event["index"]]["arguments"] += delta.get("partial_json") or ""
            case "message_delta":
                self._count(event.get("usage"))
                self._stop = (event.get("delta") or {}).get("stop_reason") or self._stop
            case "message_stop":
                self._done = True
            case "error":
                error = event.get("error") or {}
                raise ProviderError(
                    "overloaded", f"the provider broke off: {error.get('message', error)}"[:500], retryable=True
                )

    def _begun(self, index: int, block: dict[str, Any]) -> Iterator[str]:
        if block.get("type") == "text" and block.get("text"):
            self._text.append(block["text"])
            yield block["text"]
        elif block.get("type") == "tool_use" and len(self._calls) < TOOL_CALLS_MAX:
            self._calls[index] = {"id": block.get("id") or "", "name": block.get("name") or "", "arguments": ""}

    def _count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._input = int(usage.get("input_tokens") or self._input)
            self._output = int(usage.get("output_tokens") or self._output)

    def answer(self) -> Answer:
        """The whole of it.

        Raises:
            ProviderError: it broke off.
        """
        if not self._done:
            raise ProviderError("cut_off", "the answer broke off before its end", retryable=True)
        calls = [
            tool_call(call["id"], call["name"], call["arguments"], number)
            for number, call in sorted(self._calls.items())
            if call["name"]
        ]
        stop = "tool_use" if calls else _STOP.get(self._stop, "end_turn")
        return Answer("".join(self._text), calls, stop, self._input, self._output)
