"""A model that is none: the same answer to the same question, for trying things out without a key.

Every answer says that it is simulated.  It wants a tool where a few words of the question call for one that there is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from ..history import tokens
from . import Answer, Ask

LABEL = "[simulated]"
_EXPRESSION = re.compile(r"[-+(]*\d[\d\s.]*(?:[-+*/%^()]+[\d\s.()]+)+")
_PLACE = re.compile(r"\b(?:in|for|at)\s+([A-Za-z][\w' -]{1,60}?)(?:[?.!,]|$)")


def answer(ask: Ask) -> Answer:
    """What it says to a conversation."""
    last = ask.messages[-1] if ask.messages else {"role": "user", "content": ""}
    results = _results(ask.messages)
    if last["role"] == "tool":
        text, calls = f"{LABEL} {' '.join(_told(result) for result in results)}", []
    else:
        question = next((each["content"] for each in reversed(ask.messages) if each["role"] == "user"), "")
        calls = _calls(question, {tool["name"] for tool in ask.tools}, len(ask.messages))
        text = "" if calls else f"{LABEL} {_said(question)}"
    written = [{"role": "assistant", "content": text, "tool_calls": calls}]
    return Answer(text, calls, "tool_use" if calls else "end_turn", tokens(ask.messages) + 1, tokens(written) + 1)


def _results(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tool results since the model spoke last, which is where they begin."""
    found: list[dict[str, Any]] = []
    for message in reversed(messages):
        if message["role"] != "tool":
            break
        found.insert(0, message)
    return found


def _told(message: dict[str, Any]) -> str:
    try:
        value = json.loads(message["content"])
    except ValueError:
        value = message["content"]
    if isinstance(value, dict) and "error" in value:
        return f"{message.get('name', 'The tool')} failed: {value['error']}"
    if isinstance(value, dict) and "result" in value:
        value = value["result"]
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{message.get('name', 'The tool')} says: {shown[:2_000]}"


def _said(question: str) -> str:
    if re.search(r"\b(hello|hi|hey)\b", question.lower()):
        return "Hello! No model is connected, so I only echo and call tools. Try: calculate 6 * 7"
    return f"You said: {question[:500]}"


def _calls(question: str, tools: set[str], number: int) -> list[dict[str, Any]]:
    found = [
        {"id": f"sim_{number}_{position}", "name": name, "input": build(question)}
        for position, (words, name, build) in enumerate(_RULES)
        if name in tools and re.search(words, question, re.IGNORECASE)
    ]
    return found[:4]


def _expression(question: str) -> dict[str, Any]:
    found = _EXPRESSION.search(question)
    return {"expression": found[0].strip() if found else re.sub(r"(?i).*\b(calculate|compute)\b", "", question).strip()}


def _place(question: str) -> dict[str, Any]:
    found = _PLACE.search(question)
    return {"location": found[1].strip() if found else "Berlin"}


def _remember(question: str) -> dict[str, Any]:
    text = re.sub(r"(?i)^.*?\bremember\b(\s+that)?", "", question).strip(" .:") or question
    return {"key": re.sub(r"\W+", "-", text.lower())[:40].strip("-") or "note", "value": text}


def _code(question: str) -> dict[str, Any]:
    found = re.search(r"```(?:python)?\n?(.*?)```", question, re.DOTALL)
    return {"code": found[1] if found else re.sub(r"(?is)^.*?\bpython\b\s*:?", "", question).strip()}


_RULES: list[tuple[str, str, Callable[[str], dict[str, Any]]]] = [
    (r"\bcalculate\b|\bcompute\b|\d\s*[-+*/%^]\s*[(\d]", "calculator", _expression),
    (r"\bweather\b|\bforecast\b|\btemperature\b", "weather", _place),
    (r"\bremember\b", "memory_store", _remember),
    (
        r"\brecall\b|\bwhat do you know\b",
        "memory_search",
        lambda question: {"query": question.split()[-1].strip("?.!")},
    ),
    (
        r"\bsearch\b|\blook up\b",
        "web_search",
        lambda question: {"query": re.sub(r"(?i).*\b(search for|search|look up)\b", "", question).strip(" ?.")},
    ),
    (r"\brun\b.*\bpython\b", "run_python", _code),
]
