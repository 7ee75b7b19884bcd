"""The chat page in a real browser, where there is one: Chromium without a window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import browser as browsers
from .browser import Browser
from .claw import Claw, Provider, calls, configuration, in_turn, provider, says

COMMAND = browsers.find()
pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(COMMAND is None, reason=f"no browser here: none of {', '.join(browsers.NAMES)}"),
]
APPROVAL = 'role = "tool_registry"\nbehavior_kind = "GenServer"'


@pytest.fixture(scope="module")
def model() -> Iterator[Provider]:
    with provider() as made:
        yield made


@pytest.fixture(scope="module")
def claw(model: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Claw]:
    folder = tmp_path_factory.mktemp("page")
    approval = {APPROVAL: APPROVAL + '\nargs = { approval = ["run_python"] }'}
    made = Claw(folder / "data", configuration(model, **approval))
    yield made
    made.end()


@pytest.fixture
def page(claw: Claw, tmp_path: Path) -> Iterator[Browser]:
    assert COMMAND is not None
    with browsers.browser(COMMAND, tmp_path / "profile") as made:
        made.look()
        made.open(f"{claw.url}/chat#token={claw.token}")
        made.until("document.readyState === 'complete' && document.querySelectorAll('#model option').length")
        yield made
        assert made.messages == [], "the browser's console has errors"


def session(page: Browser) -> str:
    return str(page.run("session"))


def test_a_conversation_with_a_tool(claw: Claw, model: Provider, page: Browser) -> None:
    answer = "It is **42**, of course:\n```\n6 * 7\n```\n<b>not markup</b>"
    model.behave = in_turn(calls(("calculator", {"expression": "6 * 7"})), says(answer[:20], answer[20:]))
    page.type("what is 6 * 7?")
    page.until("turn === null && document.querySelector('.agent')")
    assert page.run("document.querySelector('.user').innerText") == "what is 6 * 7?"
    assert page.run("document.querySelector('.tool summary').innerText") == '✓ calculator {"expression":"6 * 7"}'
    assert page.run("document.querySelector('.agent strong').innerText") == "42"
    assert page.run("document.querySelector('.agent pre').innerText").strip() == "6 * 7"
    assert "<b>not markup</b>" in page.text()
    assert page.run("document.querySelectorAll('.agent').length") == 1
    # The token is neither in the address nor in the history.
    assert claw.token not in page.run("location.href")


def test_a_reload_brings_the_conversation_back(claw: Claw, model: Provider, page: Browser) -> None:
    model.behave = in_turn(says("Hello, person."))
    page.type("hello")
    page.until("turn === null && document.querySelector('.agent')")
    page.reload()
    page.until("document.querySelectorAll('.message').length === 2")
    assert page.run("[...document.querySelectorAll('.message')].map((each) => each.innerText)") == [
        "hello",
        "Hello, person.",
    ]
    page.click("#new")
    page.until("document.querySelectorAll('.message').length === 0")


@pytest.mark.parametrize("reload", [False, True])
@pytest.mark.parametrize("label", ["Approve", "Reject"])
def test_an_approval_goes_on_by_itself(claw: Claw, model: Provider, page: Browser, label: str, reload: bool) -> None:
    model.behave = in_turn(calls(("run_python", {"code": "print(6 * 7)"})), says("That was ", "that."))
    page.type("run it")
    page.shows("run_python waits for approval")
    if reload:
        page.reload()
        page.shows("run_python waits for approval")
    page.click(".approval button", label)
    page.shows("That was that.")
    page.until("turn === null")
    assert f"run_python: {'approved' if label == 'Approve' else 'rejected'} by local" in page.text()
    result = model.seen[-1].last
    assert ("42" in result) if label == "Approve" else ("rejected" in result)


def test_what_is_to_be_approved_cannot_look_like_something_else(claw: Claw, model: Provider, page: Browser) -> None:
    model.behave = in_turn(calls(("run_python", {"code": "print('\u202egnihton\u202c')\n\tx\x00"})), says("No."))
    page.type("run it")
    page.until("document.querySelector('.approval code')")
    shown = page.run("document.querySelector('.approval code').textContent")
    assert shown == "print('\\u{202e}gnihton\\u{202c}')\n\tx\\u{0}"
    page.click(".approval button", "Reject")
    page.shows("No.")


def test_an_approval_that_is_given_elsewhere_goes_on_too(claw: Claw, model: Provider, page: Browser) -> None:
    model.behave = in_turn(calls(("run_python", {"code": "1"})), says("Somebody agreed."))
    page.type("run it")
    page.shows("run_python waits for approval")
    (line,) = [each for each in claw.run("approvals", "ls").stdout.splitlines() if session(page) in each]
    assert claw.run("approvals", "approve", line.split()[0]).returncode == 0
    page.shows("Somebody agreed.")


def test_who_may_not_approve_is_told_and_sees_the_answer_all_the_same(
    claw: Claw, model: Provider, page: Browser
) -> None:
    token = claw.token_of("bob", "guest")
    page.run(f"sessionStorage.clear(); location.href = '/chat#token={token}'; location.reload()")
    page.until("document.querySelectorAll('#model option').length && claims().sub === 'bob'")
    model.behave = in_turn(calls(("run_python", {"code": "1"})), says("An operator agreed."))
    page.type("run it")
    page.shows("run_python waits for approval")
    page.click(".approval button", "Approve")
    page.shows("Your token may not decide about this")
    (line,) = [each for each in claw.run("approvals", "ls").stdout.splitlines() if session(page) in each]
    assert claw.run("approvals", "approve", line.split()[0]).returncode == 0
    page.shows("An operator agreed.")
    # The browser notes refusals; the page has said what they mean.
    page.messages[:] = [each for each in page.messages if "403" not in each]


def test_stop_stops_the_answer_and_the_conversation_goes_on(claw: Claw, model: Provider, page: Browser) -> None:
    model.behave = lambda seen: says(*(f"{number} " for number in range(400)), pause_s=0.02)
    page.type("count")
    page.shows("5 6 7")
    page.click("#send", "Stop")
    page.shows("stopped")
    claw.until(session(page), "cancelled")
    model.behave = in_turn(says("Hello again."))
    page.run("$('text').focus()")
    page.type("hello")
    page.shows("Hello again.")


def test_stop_ends_a_turn_that_waits_for_approval(claw: Claw, model: Provider, page: Browser) -> None:
    model.behave = in_turn(calls(("run_python", {"code": "1"})), says("Something else."))
    page.type("run it")
    page.shows("run_python waits for approval")
    page.click("#send", "Stop")
    claw.until(session(page), "cancelled")
    page.until("turn === null")
    page.run("$('text').focus()")
    page.type("never mind")
    page.shows("Something else.")


def test_what_goes_wrong_is_said(claw: Claw, model: Provider, page: Browser) -> None:
    page.run("$('model').append(new Option('no-such-model')); $('model').value = 'no-such-model'; $('text').focus()")
    page.type("hello")
    page.shows("there is no model 'no-such-model'")
    page.until("turn === null")


def test_a_token_that_is_none_is_asked_for_again(claw: Claw, page: Browser) -> None:
    page.run("sessionStorage.clear(); location.href = '/chat#token=nonsense'; location.reload()")
    page.until("document.getElementById('ask')?.open")
    page.run("document.getElementById('token').focus()")
    page.type(claw.token)
    page.until("!document.getElementById('ask').open && document.querySelectorAll('#model option').length")
    page.messages[:] = [each for each in page.messages if "401" not in each]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390], ids=["desktop", "phone"])
def test_nothing_is_wider_than_the_window(
    claw: Claw, model: Provider, page: Browser, width: int, dark: bool, tmp_path: Path
) -> None:
    page.look(width=width, dark=dark)
    long = "x" * 300
    model.behave = in_turn(
        calls(("calculator", {"expression": "1 + 1"}), ("memory_store", {"key": "k", "value": long})),
        calls(("run_python", {"code": f"print('{long}')"})),
        says(f"Look:\n```\n{long}\n```\nand `{long}`"),
    )
    page.type(f"say {long}")
    page.shows("run_python waits for approval")
    page.click(".approval button", "Approve")
    page.shows("Look:")
    page.until("turn === null")
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("document.getElementById('scroll').scrollWidth") <= width
    # The composer is in sight.
    bottom = page.run("document.getElementById('form').getBoundingClientRect().bottom")
    assert bottom <= page.run("innerHeight")
    # What is written can be told from what it is written on.
    colours = page.run(
        "['color', 'backgroundColor'].map((name) => getComputedStyle(document.body)[name].match(/\\d+/g)"
        ".slice(0, 3).reduce((sum, each) => sum + Number(each), 0))"
    )
    assert abs(colours[0] - colours[1]) > 400
    assert (colours[0] > colours[1]) is dark
    page.picture(tmp_path / "page.png")
