"""`plexspaces chat` and `plexspaces approvals`, as far as they can be seen without a MiniClaw."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from click.testing import CliRunner

from plexspaces_runtime.cli import app
from plexspaces_runtime.cli.commands.chat import _EVENTS, _safe, _short
from tests.unit.api.memory_node import serving

Run = Callable[..., Any]


@pytest.fixture(name="run")
async def _run() -> AsyncIterator[Run]:
    async with serving() as served:
        env = {
            "PLEXSPACES_URL": f"http://127.0.0.1:{served.server.port}",
            "PLEXSPACES_TOKEN": served.token,
            "HOME": "/nonexistent",
        }

        def inside(words: tuple[str, ...], more: dict[str, str], stdin: str) -> tuple[int, str, str]:
            clean: dict[str, str | None] = {name: None for name in os.environ if name.startswith("PLEXSPACES_")}
            with CliRunner().isolation(stdin, {**clean, **env, **more}) as (out, err, _):
                status = app.run(list(words))
                return int(status), out.getvalue().decode(), err.getvalue().decode()

        async def run(*words: str, stdin: str = "", **more: str) -> tuple[int, str, str]:
            return await asyncio.to_thread(inside, words, more, stdin)

        yield run


async def test_without_miniclaw_it_says_how_to_get_it(run: Run) -> None:
    for words, stdin in ((("chat", "hello"), ""), (("chat",), "hello\n")):
        status, out, err = await run(*words, stdin=stdin)
        assert (status, out) == (1, "")
        assert "MiniClaw is not deployed" in err
        assert "plexspaces deploy app-config.toml" in err


async def test_the_pages_address_has_the_token_and_nobody_elses_eyes(run: Run) -> None:
    status, out, err = await run("chat", "--web")
    assert status == 0
    address, _, token = out.strip().partition("#token=")
    assert address.endswith("/chat")
    assert token.count(".") == 2
    assert "whoever has this address" in err


async def test_the_page_of_another_namespace(run: Run) -> None:
    _, out, _ = await run("chat", "--web", "--namespace", "lab")
    assert out.strip().endswith("&namespace=lab")


async def test_what_is_for_local_is_for_local(run: Run) -> None:
    for words in (("--local-model", "x"), ("--app", "/etc/hostname")):
        status, _, err = await run("chat", *words, "hello")
        assert status == 2
        assert "--local-model and --app are for --local" in err


async def test_nothing_waits(run: Run) -> None:
    assert await run("approvals", "ls") == (0, "", "nothing waits for approval\n")
    assert await run("approvals", "ls", "--json") == (0, "", "")
    status, _, err = await run("approvals", "approve", "s.1.call")
    assert status == 1
    assert "nothing waits under 's.1.call'" in err
    assert "plexspaces approvals ls" in err


def test_what_a_model_writes_is_shown_and_does_not_steer() -> None:
    assert _safe("a\tb\nc") == "a\tb\nc"
    assert _safe("\x1b[2J\r\x07\x9b") == "\\u001b[2J\\u000d\\u0007\\u009b"
    assert _safe("größe 東京 🙂") == "größe 東京 🙂"


@pytest.mark.parametrize(("length", "shown"), [(299, 299), (300, 300), (301, 302)])
def test_what_is_long_is_cut(length: int, shown: int) -> None:
    assert len(_short("x" * length)) == shown


def test_events_in_words() -> None:
    shown = {
        "tool_call": ({"name": "f", "input": {"x": 1}}, '  → f {"x": 1}'),
        "tool_result": ({"name": "f", "ok": False, "content": "no"}, "  ✗ f no"),
        "model_failed": ({"model": "m", "code": "timeout", "message": "slow"}, "  … m: slow"),
        "budget_exhausted": ({"scope": "day"}, "  ! the budget of this day is used up"),
        "cancelled": ({}, "  stopped"),
    }
    for event, (payload, text) in shown.items():
        assert _EVENTS[event](payload) == text
    # That a provider has no key is no news to whoever has given it none.
    assert _EVENTS["model_failed"]({"model": "m", "code": "not_configured", "message": "no key"}) == ""
