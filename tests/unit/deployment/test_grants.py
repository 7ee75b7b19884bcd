"""What is told of a version's capabilities, and the smallest list for what was observed."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.actors.capabilities import CAPABILITIES, Layer, Pattern
from plexspaces_runtime.deployment.appconfig import parse
from plexspaces_runtime.deployment.grants import (
    ALIKE_MAX,
    CapabilityNews,
    collapse,
    interface_name,
    news,
    smallest,
    toml_line,
)

ALL = ("messaging", "lifecycle", "http", "locks", "keyvalue", "streams", "clock")
HERE = "of child 'a' in application 'x'"


def layer(*entries: str) -> Layer:
    return Layer.of(HERE, entries)


def full(*names: str) -> tuple[str, ...]:
    return tuple(f"plexspaces:actor/{name}@0.1.0" for name in names)


# -- news ----------------------------------------------------------------------------------------------------


def test_the_first_version_is_compared_with_what_is_granted_by_default() -> None:
    assert news(None, full("messaging"), Layer.of(HERE, None), ALL) == CapabilityNews(granted=("default",))
    told = news(None, full("messaging"), layer("messaging", "http:llm"), ALL)
    assert (told.newly_imports, told.newly_granted) == ((), ("http:llm",))
    assert told.no_longer_granted == ()


def test_what_a_version_newly_imports_and_may_newly_do_is_told() -> None:
    before = (full("messaging"), layer("messaging", "streams:/a/**"))
    told = news(before, full("messaging", "http", "locks"), layer("messaging", "http:llm", "streams:/a/*"), ALL)
    assert told.newly_imports == ("http", "locks")
    assert told.newly_granted == ("http:llm",)
    assert told.no_longer_granted == ("streams:/a/**",)
    assert told.not_granted == ("locks",)


def test_a_version_like_the_one_before_is_no_news() -> None:
    before = (full(*ALL), layer("messaging", "spawn"))
    told = news(before, full(*ALL), layer("messaging", "spawn"), ALL)
    assert told == CapabilityNews(granted=("messaging", "spawn"))


def test_a_component_that_imports_all_there_is_asks_for_nothing_in_particular() -> None:
    assert news(None, full(*ALL), layer("messaging"), ALL).not_granted == ()
    some = full("http", "locks", "lifecycle", "clock")
    assert news(None, some, layer("messaging", "spawn:worker"), ALL).not_granted == ("http", "locks")


def test_an_interface_is_called_what_its_import_ends_with() -> None:
    assert interface_name("plexspaces:actor/process-groups@0.1.0") == "process-groups"
    assert interface_name("locks") == "locks"


# -- the smallest list ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        ([], []),
        (["a"], ["a"]),
        (["/sessions/1", "/sessions/2", "/sessions/3"], ["/sessions/1", "/sessions/2", "/sessions/3"]),
        ([f"/sessions/{letter}" for letter in "abcd"], ["/sessions/*"]),
        ([f"/sessions/{letter}/log" for letter in "abcd"], ["/sessions/*/log"]),
        ([f"/sessions/s-{letter}" for letter in "abcd"] + ["/sessions/index"], ["/sessions/index", "/sessions/s-*"]),
        ([f"tasks-{number}" for number in range(4)], ["tasks-*"]),
        ([f"worker{number}" for number in range(4)], ["worker*"]),
        (["tasks-1", "tasks-2", "tasks-3"], ["tasks-1", "tasks-2", "tasks-3"]),
        # Nothing in common: a pattern for all would be no least.
        (["red", "green", "blue", "black", "white"], ["black", "blue", "green", "red", "white"]),
        (["/red", "/green", "/blue", "/black", "/white"], ["/black", "/blue", "/green", "/red", "/white"]),
        (["svc:a", "svc:b", "svc:c", "svc:d", "other"], ["other", "svc:*"]),
        # A prefix that was listed makes the names below it superfluous.
        (["reports/**", "reports/may", "other"], ["other", "reports/**"]),
    ],
)
def test_names_become_patterns_where_many_begin_alike(names: list[str], patterns: list[str]) -> None:
    assert list(collapse(names)) == patterns


_NAMES = st.sets(st.from_regex(r"\A(/?(a|b1|b2|b3|b4|c-x|c-y|c-z|c-w)){1,3}\Z"), max_size=12)


@given(_NAMES)
def test_every_name_that_was_used_is_allowed(names: set[str]) -> None:
    patterns = [Pattern(each) for each in collapse(names)]
    assert all(any(pattern.matches(name) for pattern in patterns) for name in names)
    assert len(patterns) <= len(names)


@given(st.sets(st.text(alphabet="ab/-*1", min_size=1, max_size=8), max_size=10))
def test_odd_names_are_allowed_too(names: set[str]) -> None:
    patterns = [Pattern(each) for each in collapse(names)]
    assert all(any(pattern.matches(name) for pattern in patterns) for name in names)


def test_the_smallest_list_has_just_what_was_used() -> None:
    entries = smallest(
        ["messaging", "streams:read", "streams:append", "http", "locks", "blobs", "channels", "spawn"],
        {
            "streams:read": {"/audit/a"},
            "streams:append": {"/audit/a", "/log"},
            "http": {"llm"},
            "locks": {"a"},
            "blobs": {"**"},
            "channels": set(),
            "spawn": {f"w{number}" for number in range(ALIKE_MAX + 1)},
        },
        {"locks"},
    )
    assert entries == (
        "blobs",
        "channels",
        "http:llm",
        "locks",
        "messaging",
        "spawn:w*",
        "streams:/audit/a",
        "streams:append:/log",
    )
    assert smallest([], {}, ()) == ()


def test_the_line_is_one_of_an_app_config() -> None:
    names = [each.name for each in CAPABILITIES]
    line = toml_line([*names, 'http:a"b\\c', "streams:/ü/*"])
    assert tomllib.loads(line)["capabilities"] == [*names, 'http:a"b\\c', "streams:/ü/*"]
    text = f"""
        [application]
        name = "a"
        [[components]]
        name = "c"
        path = "c.wasm"
        [[supervisor.children]]
        name = "one"
        actor_type = "c"
        {line}
    """
    assert parse(text).supervisor.children[0].capabilities == {*names, 'http:a"b\\c', "streams:/ü/*"}
