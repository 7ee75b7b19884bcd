"""Providers of models: how each is asked, and how its stream is read.  Nothing here calls anybody.

A provider is a module with `request` (a conversation as this provider wants it) and `Reader` (pieces of its stream in,
text as it comes, the whole answer at the end).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

TOOL_CALLS_MAX = 16


class ProviderError(Exception):
    """A provider did not give an answer.

    Attributes:
        code: `rate_limited`, `overloaded`, `timeout`, `cut_off`, `malformed`, `unauthorised`, `not_configured`,
            `invalid_request`, `provider_error`.
        retryable: the same request may do better.
        retry_after_ms: when, if the provider said so.
    """

    def __init__(self, code: str, message: str, *, retryable: bool, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms


@dataclass
class Ask:
    """One request to a provider.

    Attributes:
        messages: canonical, the system prompt first.
        tools: as the registry lists them.
        credential: a phantom token to send, "" where the link itself has one.
        size: of the messages, in tokens, about.
    """

    model: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    max_tokens: int = 1024
    temperature: float | None = None
    tool_choice: str = ""
    response_format: dict[str, Any] | None = None
    credential: str = ""
    size: int = 0


@dataclass
class Answer:
    """What a provider answered, whole."""

    text: str
    tool_calls: list[dict[str, Any]]
    stop_reason: str
    input_tokens: int
    output_tokens: int


class Lines:
    """Server-sent events (WHATWG HTML, "Server-sent events") from pieces of text: the data of each."""

    def __init__(self) -> None:
        self._rest = ""
        self._data: list[str] = []

    def feed(self, piece: str) -> Iterator[str]:
        """The data of the events that this piece ends."""
        *lines, self._rest = (self._rest + piece).split("\n")
        for line in lines:
            line = line.rstrip("\r")
            if line.startswith("data:"):
                self._data.append(line[5:].removeprefix(" "))
            elif not line and self._data:
                data, self._data = "\n".join(self._data), []
                yield data

    def finish(self) -> Iterator[str]:
        """What was not ended by an empty line."""
        yield from self.feed("\n\n")


def parsed(data: str) -> dict[str, Any]:
    """An event's data, a JSON object.

    Raises:
        ProviderError: it is none.
    """
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ProviderError("malformed", f"the provider sent what is no JSON object: {data[:80]!r}", retryable=True)
    return value


def tool_call(id_: str, name: str, arguments: str, number: int) -> dict[str, Any]:
    """A call as the model wrote it; one whose arguments are no JSON object says so, for the model to read."""
    call: dict[str, Any] = {"id": id_ or f"call_{number}", "name": name, "input": {}}
    try:
        value = json.loads(arguments or "{}")
    except ValueError as error:
        return {**call, "invalid": f"the arguments are not JSON ({error}): {arguments[:200]}"}
    if not isinstance(value, dict):
        return {**call, "invalid": "the arguments are not a JSON object"}
    return {**call, "input": value}


def failure(status: int, body: str, headers: dict[str, str]) -> ProviderError:
    """What an answer with an error status means."""
    text = _message(body) or f"status {status}"
    if status == 429:
        return ProviderError("rate_limited", text, retryable=True, retry_after_ms=_retry_after_ms(headers))
    if status in (401, 403):
        return ProviderError("unauthorised", f"the provider does not take the credential: {text}", retryable=False)
    if status in (408, 504):
        return ProviderError("timeout", text, retryable=True)
    if status in (500, 502, 503, 529):
        return ProviderError("overloaded", text, retryable=True, retry_after_ms=_retry_after_ms(headers))
    if status in (400, 404, 413, 422):
        return ProviderError("invalid_request", text, retryable=False)
    return ProviderError("provider_error", text, retryable=False)


def _message(body: str) -> str:
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:500]
    except (ValueError, KeyError, TypeError):
        return body.strip()[:200]


def _retry_after_ms(headers: dict[str, str]) -> int:
    try:
        return max(0, int(float(headers.get("retry-after", "0")) * 1000))
    except ValueError:
        # A date: the clocks may differ, and the usual back-off is near enough.
        return 0
