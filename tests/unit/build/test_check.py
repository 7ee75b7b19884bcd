"""Mistakes in an actor, told before anything is compiled."""

from __future__ import annotations

from pathlib import Path

import pytest

from plexspaces_runtime.build import BuildFailed, Finding, Severity, find_mistakes

from .conftest import ACTOR, write


def mistakes(tmp_path: Path, text: str, **others: str) -> list[Finding]:
    write(tmp_path, {"my_actor.py": text, **{f"{name}.py": content for name, content in others.items()}})
    with pytest.raises(BuildFailed) as caught:
        find_mistakes(tmp_path / "my_actor.py")
    return caught.value.findings


def only(tmp_path: Path, text: str) -> Finding:
    [finding] = mistakes(tmp_path, text)
    return finding


def test_a_good_actor_has_roles_and_no_warnings(tmp_path: Path) -> None:
    write(tmp_path, {"my_actor.py": ACTOR})
    roles, warnings = find_mistakes(tmp_path / "my_actor.py")
    assert len(roles) == 1
    assert warnings == ()


def test_no_actor_at_all(tmp_path: Path) -> None:
    assert "actor" in only(tmp_path, "x = 1\n").message


def test_an_async_handler_is_reported_once_with_its_line(tmp_path: Path) -> None:
    finding = only(tmp_path, ACTOR.replace("def x", "async def x"))
    assert finding.line == 5
    assert "async" in finding.message
    assert "def" in finding.remedy


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("x = host.now_ms()", True),
        ("class C:\n    x = host.now_ms()", True),
        ("def f(x=host.now_ms()): pass", True),
        ("x = [host.now_ms() for _ in range(2)]", True),
        ("def f(): return host.now_ms()", False),
        ("f = lambda: host.now_ms()", False),
        ("if __name__ == '__main__':\n    host.now_ms()", False),
    ],
)
def test_the_host_is_not_called_while_the_module_is_imported(tmp_path: Path, line: str, found: bool) -> None:
    text = f"from plexspaces import host\n{line}\n{ACTOR}"
    if found:
        finding = mistakes(tmp_path, text)[0]
        assert "host.now_ms(...) is called while the module is imported" in finding.message
    else:
        write(tmp_path, {"my_actor.py": text})
        find_mistakes(tmp_path / "my_actor.py")


def test_an_exception_while_importing_is_told_with_the_users_line(tmp_path: Path) -> None:
    [finding] = mistakes(tmp_path, "import helper\n" + ACTOR, helper="import json\n\nX = json.loads('{')\n")
    assert (finding.file.rpartition("/")[2], finding.line) == ("helper.py", 3)
    assert "JSONDecodeError" in finding.message


@pytest.mark.parametrize("what", ["raise SystemExit(3)", "import os; os._exit(3)", "raise KeyboardInterrupt"])
def test_a_module_that_ends_its_interpreter_does_not_end_the_tool(tmp_path: Path, what: str) -> None:
    assert "importing the module" in only(tmp_path, f"{what}\n{ACTOR}").message


def test_what_a_module_prints_while_imported_confuses_nobody(tmp_path: Path) -> None:
    write(tmp_path, {"my_actor.py": "print('{\"roles\": []}')\n" + ACTOR})
    assert len(find_mistakes(tmp_path / "my_actor.py")[0]) == 1


def test_mistakes_of_the_definition_come_with_line_and_remedy_all_at_once(tmp_path: Path) -> None:
    text = """\
from plexspaces import actor, handler, state, host

START = host.now_ms()

@actor
class A:
    @handler("x")
    async def x(self): return 1

    @handler("y")
    def y(self, a: "NoSuchType"): return 1
"""
    found = mistakes(tmp_path, text)
    lines = {finding.line for finding in found}
    assert {3, 7} <= lines
    assert all(finding.remedy for finding in found)


def test_warnings_alone_do_not_refuse(tmp_path: Path) -> None:
    write(tmp_path, {"my_actor.py": "import threading\n" + ACTOR})
    _, warnings = find_mistakes(tmp_path / "my_actor.py")
    assert [(w.line, w.severity) for w in warnings] == [(1, Severity.WARNING)]


def test_a_thread_that_a_module_leaves_behind_holds_nobody_up(tmp_path: Path) -> None:
    leave = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    write(tmp_path, {"my_actor.py": leave + ACTOR})
    assert len(find_mistakes(tmp_path / "my_actor.py")[0]) == 1
