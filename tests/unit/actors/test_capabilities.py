"""What entries of `capabilities` grant, which names patterns allow, and that narrowing never gives anything away."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.actors.capabilities import (
    CAPABILITIES,
    ENTRIES_MAX,
    EVERYTHING,
    NAME_CHARS_MAX,
    NOTHING,
    PATTERN_CHARS_MAX,
    Grants,
    Layer,
    Pattern,
    added,
    capability_of,
    intersect,
    need_of,
    parse_entries,
    watch,
    written,
)
from plexspaces_runtime.errors import InvalidArgument
from plexspaces_runtime.wasm import wit

NAMES = [each.name for each in CAPABILITIES]


def layer(*entries: str, origin: str = "of somebody") -> Layer:
    return Layer.of(origin, parse_entries(list(entries)))


def grants(*entries: str, origin: str = "of somebody") -> Grants:
    return Grants(frozenset({layer(*entries, origin=origin)}))


def allows(granted: Grants, capability: str, name: str | None = None) -> bool:
    return not granted.lacking(capability, name)


# -- entries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("", "there is no capability ''"),
        ("messages", "there is no capability 'messages'; did you mean 'messaging'?"),
        ("types", "there is no capability 'types'"),
        ("*:a", "there is no capability"),
        ("default:a", "there is no capability"),
        ("messaging:a", "messaging takes no pattern; write 'messaging'"),
        ("keyvalue:a*", "keyvalue takes no pattern; write 'keyvalue', or 'keyvalue:shared'"),
        ("keyvalue:shared:a", "keyvalue:shared takes no pattern"),
        ("registry:writes", "registry takes no pattern; write 'registry', or 'registry:write'"),
        ("http:", "a pattern has 1 to"),
        ("http:a\nb", "a pattern has 1 to"),
        ("streams:sessions/*", "paths begin with '/': write 'streams:/sessions/*'"),
        ("streams:read:audit", "paths begin with '/': write 'streams:read:/audit'"),
        ("streams:delete:/a", "paths begin with '/'"),
        ("http:" + "a" * (PATTERN_CHARS_MAX + 1), "a pattern has 1 to"),
    ],
)
def test_an_entry_that_cannot_be_is_refused_with_what_can(entry: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_entries(["messaging", entry])
    assert said in caught.value.message


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InvalidArgument, match=r"'a'.*; there is no capability 'b'"):
        parse_entries(["a", "messaging", "b"])


@pytest.mark.parametrize("value", ["messaging", None, {"messaging": 1}, [1], ["messaging", None]])
def test_something_else_than_a_list_of_texts_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgument, match="is not a list of texts"):
        parse_entries(value)


def test_there_may_be_so_many_entries_of_so_many_characters() -> None:
    most = [f"http:l{number}" for number in range(ENTRIES_MAX)]
    assert len(parse_entries(most)) == ENTRIES_MAX
    with pytest.raises(InvalidArgument, match="at most 256"):
        parse_entries([*most, "messaging"])
    longest = "http:" + "a" * PATTERN_CHARS_MAX
    assert parse_entries([longest]) == {longest}


def test_without_entries_an_actor_has_all_but_what_reaches_beyond_it() -> None:
    default = Grants(frozenset({Layer.of("of somebody", None)}))
    denied = {name for name in NAMES if not default.holds(name)}
    assert denied == {"http", "spawn", "registry:write", "keyvalue:shared"}
    assert default == grants("default")
    assert allows(default, "streams:append", "/any")
    assert allows(default, "channels", "any")


def test_a_published_configuration_means_what_it_says() -> None:
    granted = grants("messaging", "process-groups", "keyvalue", "streams")
    held = {name for name in NAMES if granted.holds(name)}
    assert held == {"messaging", "process-groups", "keyvalue", "streams", "streams:read", "streams:append"}


def test_a_star_is_everything_and_an_empty_list_nothing() -> None:
    assert grants("*").covers(EVERYTHING)
    assert not grants("default", "spawn").covers(EVERYTHING)
    assert all(grants("*").holds(name) for name in NAMES)
    assert not any(Grants(frozenset({layer()})).holds(name) for name in NAMES)
    assert not any(NOTHING.holds(name) for name in NAMES)


@pytest.mark.parametrize(
    ("entries", "shortest"),
    [
        (["streams:read:/a", "streams:append:/a"], ("streams:/a",)),
        (["streams:read", "streams:append:/a"], ("streams:append:/a", "streams:read")),
        (["spawn", "default", "messaging"], ("default", "spawn")),
        ([*NAMES], ("*",)),
        (["clock", "locks:b", "locks:a"], ("locks:a", "locks:b")),
    ],
)
def test_what_is_granted_is_written_in_the_shortest_way(entries: list[str], shortest: tuple[str, ...]) -> None:
    assert layer(*entries).entries == shortest


# -- patterns ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("llm-api", ["llm-api"], ["llm-apis", "xllm-api", "LLM-API", ""]),
        ("llm-*", ["llm-", "llm-api", "llm-a-b"], ["llm", "llm-a/b", "xllm-a"]),
        ("*", ["", "a", "svc:a"], ["a/b", "/a"]),
        ("**", ["", "a", "/a/b"], []),
        ("/sessions/*", ["/sessions/a", "/sessions/"], ["/sessions/a/b", "/sessions", "/sessionsx/a"]),
        ("/audit/**", ["/audit/a", "/audit/a/b/c"], ["/audit", "/audits/a", "/x/audit/a"]),
        ("/a/*/z", ["/a/b/z"], ["/a/b/c/z", "/a/z"]),
        ("/**/z", ["/a/b/z", "//z"], ["/z/a"]),
        ("a*b*c", ["abc", "axxbyyc", "abbc"], ["acb", "ab/c"]),
        ("***", ["a/b"], []),
        ("a.c", ["a.c"], ["abc"]),
        ("[ab]", ["[ab]"], ["a"]),
    ],
)
def test_a_pattern_allows_names(pattern: str, good: list[str], bad: list[str]) -> None:
    for name in good:
        assert Pattern(pattern).matches(name), name
    for name in bad:
        assert not Pattern(pattern).matches(name), name


_TEXT = st.text(alphabet="ab/-*", max_size=12)
_NAME = st.text(alphabet="ab/-", max_size=12)


def _as_regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*+)", pattern)
    return re.compile(
        "".join("[^/]*" if part == "*" else ".*" if part[:1] == "*" else re.escape(part) for part in parts), re.DOTALL
    )


@given(_TEXT, _NAME)
def test_a_pattern_allows_what_the_same_regular_expression_does(pattern: str, name: str) -> None:
    assert Pattern(pattern).matches(name) == bool(_as_regex(pattern).fullmatch(name))


@given(_TEXT, _TEXT, _NAME)
def test_what_a_pattern_covers_it_allows(wide: str, narrow: str, name: str) -> None:
    if Pattern(wide).covers(Pattern(narrow)) and Pattern(narrow).matches(name):
        assert Pattern(wide).matches(name)


@given(_TEXT, _NAME, _NAME)
def test_a_pattern_that_covers_all_below_a_prefix_allows_it(pattern: str, prefix: str, rest: str) -> None:
    if Pattern(pattern).covers_below(prefix):
        assert Pattern(pattern).matches(prefix + rest)


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [("**", "/a/*"), ("/a/**", "/a/*/b"), ("a*", "a-b*"), ("a*", "a*b"), ("*", "a*b*"), ("/a/*", "/a/b"), ("a", "a")],
)
def test_a_wider_pattern_covers_a_narrower_one(wide: str, narrow: str) -> None:
    assert Pattern(wide).covers(Pattern(narrow))
    assert wide == narrow or not Pattern(narrow).covers(Pattern(wide))


def test_no_name_makes_a_pattern_think_for_long() -> None:
    # A matcher that tries one possibility after the other would not come back.
    pattern = Pattern("*a" * 100 + "b")
    assert not pattern.matches("a" * NAME_CHARS_MAX)
    assert not pattern.covers(Pattern("a" * PATTERN_CHARS_MAX))


def test_a_name_longer_than_any_store_takes_is_matched_by_no_pattern() -> None:
    assert Pattern("**").matches("a" * NAME_CHARS_MAX)
    assert not Pattern("**").matches("a" * (NAME_CHARS_MAX + 1))


# -- needs ---------------------------------------------------------------------------------------------------

FUNCTIONS = [
    (interface.name, function)
    for interface in wit.load().interfaces.values()
    for function in interface.functions.values()
]


def test_every_function_of_the_contract_needs_a_capability_there_is_or_is_about_nobody_else() -> None:
    free = {
        (interface, function.name)
        for interface, function in FUNCTIONS
        if need_of(interface, function.name) is None and interface not in ("clock", "random", "logging")
    }
    assert free == {
        ("lifecycle", "self-id"),
        ("lifecycle", "trap-exit"),
        ("timers", "cancel"),
        ("workflow", "cancelled"),
        ("workflow", "publish-state"),
    }
    atoms = {each.name for each in CAPABILITIES if not each.parts}
    for interface, function in FUNCTIONS:
        need = need_of(interface, function.name)
        if need is None:
            continue
        assert need.capability in atoms
        # A refusal is an ordinary error, or one for each element.
        assert isinstance(function.result, wit.Result) or (interface, function.name) == ("messaging", "ask-many")


def test_every_capability_is_needed_for_something() -> None:
    needed = {need.capability for interface, function in FUNCTIONS if (need := need_of(interface, function.name))}
    assert needed == {each.name for each in CAPABILITIES if not each.parts} - {
        "keyvalue:shared",
        "clock",
        "random",
        "logging",
    }


_NAMED = {
    # By interface, what its functions call the names that patterns are for.
    "channels": "channel",
    "locks": "name",
    "blobs": "name",
    "process-groups": "group",
    "streams": "path",
}


def test_whatever_has_a_name_is_looked_at() -> None:
    for interface, function in FUNCTIONS:
        if (called := _NAMED.get(interface)) is None:
            continue
        position = next((at for at, (name, _) in enumerate(function.params) if name == called), None)
        need = need_of(interface, function.name)
        assert need is not None
        if position is None:
            # By the id of something that it was allowed before, or all names that begin so.
            assert need.below or (function.name == "unsubscribe" and need.names is None)
        else:
            assert need.names is not None
            assert list(need.names(["other"] * position + ["this"] + ["other"] * 4)) == ["this"]


@pytest.mark.parametrize(
    ("interface", "function", "arguments", "names"),
    [
        ("lifecycle", "spawn", [("worker", "key", "{}", False, False)], ["worker"]),
        ("http", "fetch", [("llm", "GET", "/", "{}", "", False, 0)], ["llm"]),
        ("http", "fetch-stream", [("llm", "GET", "/", "{}", "", False, 0)], ["llm"]),
        ("http", "register-credential", ["token", "credential", ["a", "b"]], ["a", "b"]),
        ("blobs", "list-blobs", ["reports/", "", 0], ["reports/"]),
    ],
)
def test_names_inside_of_arguments_are_found(
    interface: str, function: str, arguments: list[Any], names: list[str]
) -> None:
    need = need_of(interface, function)
    assert need is not None
    assert need.names is not None
    assert list(need.names(arguments)) == names


def test_the_keys_of_a_type_are_not_the_actors_own() -> None:
    need = need_of("keyvalue", "get")
    assert need is not None
    assert capability_of(need, shares_keys=False) == "keyvalue"
    assert capability_of(need, shares_keys=True) == "keyvalue:shared"


# -- what an actor may ---------------------------------------------------------------------------------------


def test_what_needs_no_further_look_is_what_is_granted_for_any_name() -> None:
    granted = grants("messaging", "streams:/a/*", "channels", "keyvalue")
    assert granted.free == {"", "messaging", "channels", "keyvalue"}
    # Of a type that shares its keys, they are another matter.
    assert granted.free_sharing == {"", "messaging", "channels"}
    assert grants("keyvalue:shared").free_sharing == {"", "keyvalue", "keyvalue:shared"}
    assert "keyvalue" not in grants("keyvalue:shared").free
    assert EVERYTHING.free >= {"http", "spawn"}
    assert NOTHING.free == {""}


def test_one_that_is_watched_is_the_same_and_is_always_looked_at() -> None:
    granted = grants("default")
    watched = watch(granted, True)
    assert watched == granted
    assert watched.free == watched.free_sharing == {""}
    assert watch(watched, False).free == granted.free


def test_a_call_without_a_name_is_for_whoever_holds_any() -> None:
    granted = grants("streams:read:/a/*")
    assert allows(granted, "streams:read", None)
    assert not allows(granted, "streams:append", None)
    assert allows(granted, "streams:read", "/a/b")
    assert not allows(granted, "streams:read", "/b")


def test_a_list_of_names_is_for_whoever_may_have_them_all() -> None:
    granted = layer("blobs:reports/**")
    assert granted.allows("blobs", "reports/", below=True)
    assert granted.allows("blobs", "reports/may", below=True)
    assert not granted.allows("blobs", "", below=True)
    assert not granted.allows("blobs", "reports", below=True)
    # What `*` does not reach would be listed too.
    assert not layer("blobs:reports/*").allows("blobs", "reports/", below=True)


def test_a_refusal_says_which_line_would_grant_it() -> None:
    of = "of child 'agent' in application 'claw'"
    assert layer("messaging", origin=of).line("http:llm") == f'capabilities = [..., "http:llm"] {of}'
    assert Layer.of(of, None).line("http:llm") == f'capabilities = ["default", "http:llm"] {of}'
    assert layer(origin=of).line("http:llm") == f'capabilities = ["http:llm"] {of}'
    # A guest chooses the name.
    assert layer(origin=of).line('http:a"\n') == f'capabilities = ["http:a\\"\\n"] {of}'


def test_both_layers_that_refuse_are_named() -> None:
    both = intersect(grants("messaging", "locks", origin="of b"), grants("messaging", "timers", origin="of a"))
    assert [each.origin for each in both.lacking("http", "x")] == ["of a", "of b"]
    assert [each.origin for each in both.lacking("locks", "x")] == ["of a"]


_ENTRIES = st.lists(
    st.sampled_from(
        [
            "default",
            "messaging",
            "http",
            "http:a*",
            "http:*b",
            "http:ab",
            "streams",
            "streams:/a/*",
            "streams:read:/a/**",
            "streams:append:/**/b",
            "spawn:a*",
            "spawn",
            "keyvalue:shared",
        ]
    ),
    max_size=5,
)
_CALLS = st.one_of(
    st.tuples(st.just("http"), st.text(alphabet="ab", max_size=3)),
    st.tuples(st.sampled_from(["streams:read", "streams:append"]), st.sampled_from(["/a", "/a/b", "/a/a/b", "/b"])),
    st.tuples(st.just("spawn"), st.sampled_from(["a", "ab", "b"])),
    st.tuples(st.sampled_from(["messaging", "keyvalue", "keyvalue:shared", "timers"]), st.none()),
)  # fmt: skip


@given(st.lists(_ENTRIES, min_size=1, max_size=4), _CALLS)
def test_a_line_of_ancestors_allows_what_all_of_them_allow(line: list[list[str]], call: tuple[str, str | None]) -> None:
    each = [grants(*entries, origin=f"of {number % 3}") for number, entries in enumerate(line)]
    descendant = each[0]
    for parent in each[1:]:
        descendant = intersect(descendant, parent)
    assert allows(descendant, *call) == all(allows(one, *call) for one in each)
    # What needs no look needs none with any of them.
    assert descendant.free == frozenset.intersection(*(one.free for one in each))


@given(_ENTRIES, _ENTRIES)
def test_a_child_never_has_what_its_parent_lacks(own: list[str], parents: list[str]) -> None:
    child, parent = grants(*own, origin="of b"), grants(*parents, origin="of a")
    assert parent.covers(intersect(child, parent))
    assert child.covers(intersect(child, parent))
    assert intersect(child, parent) == intersect(parent, child) == intersect(intersect(child, parent), parent)


@given(_ENTRIES, _ENTRIES, _CALLS)
def test_what_covers_allows_at_least_as_much(one: list[str], other: list[str], call: tuple[str, str | None]) -> None:
    if grants(*one).covers(grants(*other)) and allows(grants(*other), *call):
        assert allows(grants(*one), *call)


@given(_ENTRIES)
def test_what_is_written_grants_the_same(entries: list[str]) -> None:
    assert layer(*layer(*entries).entries) == Layer.of("of somebody", layer(*entries).entries)
    assert layer(*entries).covers(layer(*layer(*entries).entries))
    assert layer(*layer(*entries).entries).covers(layer(*entries))


def test_a_long_line_of_spawns_keeps_few_layers() -> None:
    granted = grants("default", "spawn", origin="of 0")
    for number in range(1, 50):
        granted = intersect(grants("default", "spawn", f"http:l{number}", origin=f"of {number % 5}"), granted)
    # Nobody may do less than the first, so it alone says all.
    assert {each.origin for each in granted.layers} == {"of 0"}


def test_what_is_added_is_what_was_not_covered() -> None:
    assert added(layer("default"), layer("default", "http:a", "streams:/x")) == ("http:a",)
    assert added(layer("streams:/a/**"), layer("streams:/a/*", "streams:/b")) == ("streams:/b",)
    assert added(layer("streams"), layer("streams:read:/a")) == ()
    assert added(layer("http:a"), layer("http")) == ("http",)
    # Any name is more than any name without a '/'.
    assert added(layer("locks:*"), layer("locks")) == ("locks",)
    assert written([]) == ()
