"""app-config.toml: what is read, and that each mistake is told with its line, its key and what to write instead."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plexspaces_runtime.actors.capabilities import CAPABILITIES
from plexspaces_runtime.config import ConfigError, Limits
from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.deployment.appconfig import (
    AppConfig,
    ChildConfig,
    ComponentConfig,
    FacetConfig,
    SupervisorConfig,
    parse,
    reference,
)
from plexspaces_runtime.egress.links import parse_link
from plexspaces_runtime.errors import InvalidArgument
from plexspaces_runtime.supervision.spec import AutoShutdown, Backoff, RestartPolicy, Strategy

GOOD = """\
[application]
name = "miniclaw"
namespace = "claws"

[[components]]
name = "claw_wasm"
source = "apps/miniclaw"

[[components]]
name = "tools"
path = "tools.wasm"

[supervisor]
strategy = "rest_for_one"
max_restarts = 3
max_restart_window_seconds = 7.5
auto_shutdown = "all_significant"
backoff = { initial = "200ms", max = "0.5m" }

[[supervisor.children]]
name = "agent"
actor_type = "claw_wasm"
role = "assistant"
behavior_kind = "GenFSM"
args = { agent_name = "general", nested = [{ a = 1.5 }, true] }
capabilities = ["messaging", "process-groups"]
arguments = "lenient"
restart = "transient"
shutdown = "1h"
significant = true
labels = { tier = "gold" }
limits = { mailbox_messages_max = 50, wall_s_per_message_max = 2 }
facets = [
  { type = "virtual_actor", priority = 100, config = { idle_timeout = "10m" } },
  { type = "durability" },
]

[[supervisor.children]]
name = "pool"
[supervisor.children.supervisor]
strategy = "simple_one_for_one"
[[supervisor.children.supervisor.children]]
name = "shell"
actor_type = "tools"
"""

EXPECTED = AppConfig(
    name="miniclaw",
    namespace="claws",
    components=(ComponentConfig("claw_wasm", source="apps/miniclaw"), ComponentConfig("tools", path="tools.wasm")),
    supervisor=SupervisorConfig(
        strategy=Strategy.REST_FOR_ONE,
        restarts_max=3,
        window_s=7.5,
        auto_shutdown=AutoShutdown.ALL_SIGNIFICANT,
        backoff=Backoff(0.2, 30.0),
        children=(
            ChildConfig(
                name="agent",
                actor_type="claw_wasm",
                role="assistant",
                behavior_kind="GenStateMachine",
                args={"agent_name": "general", "nested": [{"a": 1.5}, True]},
                capabilities=frozenset({"messaging", "process-groups"}),
                facets=(
                    FacetConfig("virtual_actor", 100, {"idle_timeout": "10m"}),
                    FacetConfig("durability", None, {}),
                ),
                restart=RestartPolicy.TRANSIENT,
                shutdown_s=3_600.0,
                significant=True,
                arguments="lenient",
                labels={"tier": "gold"},
                limits={"mailbox_messages_max": 50, "wall_s_per_message_max": 2.0},
            ),
            ChildConfig(
                name="pool",
                shutdown_s=float("inf"),
                supervisor=SupervisorConfig(
                    strategy=Strategy.SIMPLE_ONE_FOR_ONE, children=(ChildConfig(name="shell", actor_type="tools"),)
                ),
            ),
        ),
    ),
)

# The least there can be; what is tried stands below it, in the child's table.
LEAST = """\
[application]
name = "app"
[[components]]
name = "code"
path = "code.wasm"
[supervisor]
[[supervisor.children]]
name = "one"
actor_type = "code"
"""
HERE = LEAST.count("\n") + 1


def issues(text: str, **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, **options)
    found: list[str] = caught.value.details["issues"]
    return found


def the_issue(text: str, **options: Any) -> str:
    (only,) = issues(text, **options)
    return only


def test_everything_is_read() -> None:
    config = parse(GOOD)
    assert config == EXPECTED
    assert [component.line for component in config.components] == [5, 9]
    lines = GOOD.splitlines()
    assert [lines[child.line - 1] for child in config.actors()] == [
        "[[supervisor.children]]",
        "[[supervisor.children.supervisor.children]]",
    ]
    assert [child.name for child in config.actors()] == ["agent", "shell"]


def test_what_is_left_out_is_as_in_otp() -> None:
    config = parse(LEAST)
    assert config.namespace == "default"
    assert config.supervisor == SupervisorConfig(children=(ChildConfig(name="one", actor_type="code"),))
    supervisor, (child,) = config.supervisor, config.supervisor.children
    assert (supervisor.strategy, supervisor.restarts_max, supervisor.window_s) == (Strategy.ONE_FOR_ONE, 10, 60.0)
    assert (supervisor.auto_shutdown, supervisor.backoff) == (AutoShutdown.NEVER, None)
    assert (child.restart, child.shutdown_s, child.significant) == (RestartPolicy.PERMANENT, 5.0, False)
    assert (child.capabilities, child.arguments, child.facets) == (None, "strict", ())


def test_everything_that_is_wrong_is_told_at_once_in_the_order_of_lines() -> None:
    text = (
        GOOD.replace('"claws"', "3")
        .replace('path = "tools', 'pth = "tools')
        .replace("max_restarts = 3", "max_restarts = -3")
        .replace('"0.5m"', "30")
        .replace('"lenient"', '"lax"')
        .replace('"tools"\n', '"tool"\n', 2)
    )
    found = issues(text, file="dir/app.toml")
    assert [issue.split(": ")[:2] for issue in found] == [
        ["dir/app.toml:3", "application.namespace"],
        ["dir/app.toml:9", "components[tool]"],
        ["dir/app.toml:11", "components[tool].pth"],
        ["dir/app.toml:15", "supervisor.max_restarts"],
        ["dir/app.toml:18", "supervisor.backoff.max"],
        ["dir/app.toml:27", "supervisor.children[agent].arguments"],
    ]
    with pytest.raises(ConfigError) as caught:
        parse(text, file="dir/app.toml")
    assert all(issue in str(caught.value) for issue in found)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        # Unknown keys and values that are none.
        ('restrat = "permanent"', "restrat: there is no such key in a child (actor); did you mean 'restart'?"),
        ('restart = "permanant"', "restart: 'permanant' is not possible; did you mean 'permanent'?"),
        ("restart = 1", "restart: 1 is not possible; there are permanent, transient, temporary"),
        ('arguments = "strikt"', "arguments: 'strikt' is not possible; did you mean 'strict'?"),
        ("arguments = true", "arguments: true is not possible"),
        ('behavior_kind = "gen_server"', "behavior_kind: 'gen_server' is no behaviour; did you mean 'GenServer'?"),
        ('behavior_kind = "Actor"', "there are GenServer, GenEvent, GenFSM, Workflow"),
        ("role = 3", "role: 3 is not a text: write it in quotes"),
        ('role = ""', "role: the text is empty"),
        ('significant = "yes"', "significant: 'yes' is neither true nor false, which are written without quotes"),
        # Units.
        ("shutdown = 5", 'shutdown: 5 has no unit: write "5ms" or "5s" or "brutal_kill" or "infinity"'),
        ("shutdown = 2.5", '2.5 has no unit: write "2.5ms" or "2.5s"'),
        ('shutdown = "5 s"', "shutdown: '5 s' is not a duration: write one as \"200ms\""),
        ('shutdown = "5sec"', 'is not a duration: write one as "200ms", "5s", "10m" or "1h"'),
        ('shutdown = "infinit"', "did you mean 'infinity'?"),
        ('shutdown = "0s"', 'is out of range: write more than "0s", and at most "30d" or "brutal_kill"'),
        ('shutdown = "31d"', "is out of range"),
        ("shutdown = true", "shutdown: true is not a duration"),
        # Arguments are JSON.
        ("args = 3", 'args: 3 is not a table: write one, such as { name = "general" }'),
        (
            "args = { at = 2024-01-01 }",
            "args.at: 2024-01-01 is a date or a time, and JSON has none: write it as a text",
        ),
        ("args = { list = [1, { at = 07:32:00 }] }", "args.list[2].at: 07:32:00 is a date"),
        ("args = { n = nan }", "args.n: nan is no JSON"),
        ("args = { n = [inf] }", "args.n[1]: inf is no JSON"),
        (f"args = {{ n = {2**64} }}", "does not fit into 64 bits: write it as a text"),
        (f"args = {{ n = {-(2**63) - 1} }}", "does not fit into 64 bits"),
        ("args = { a = " + "[" * 33 + "]" * 33 + " }", "nested deeper than 32 levels"),
        # Capabilities and labels.
        ('capabilities = "messaging"', "capabilities: 'messaging' is not a list of texts: write one such as"),
        ('capabilities = ["messages"]', "capabilities: there is no capability 'messages'; did you mean 'messaging'?"),
        ('capabilities = ["types"]', "there is no capability 'types'"),
        ("capabilities = [1]", "is not a list of texts"),
        ("labels = [1]", "labels: a list is not a table"),
        ("labels = { tier = 3 }", "labels.tier: 3 is not a text that a label can be"),
        ('labels = { tier = "" }', "labels.tier: '' is not a text that a label can be"),
        ('labels = { "a=b" = "x" }', "the name of a label is not empty and holds no '='"),
        # Limits.
        ("limits = { mailbox = 1 }", "limits.mailbox: there is no such key in limits; did you mean"),
        ("limits = { mailbox_messages_max = 0 }", "limits.mailbox_messages_max: 0 is out of range: at least 1"),
        ("limits = { memory_bytes_max = 16_777_215 }", "at least 16777216"),
        (f"limits = {{ memory_bytes_max = {2**32 + 1} }}", f"at most {2**32}"),
        ("limits = { mailbox_messages_max = 1.5 }", "1.5 is not a whole number: write one without quotes"),
        ('limits = { memory_bytes_max = "64MB" }', "'64MB' is not a whole number of bytes"),
        ("limits = { wall_s_per_message_max = true }", "true is not a number of seconds"),
        ("limits = { wall_s_per_message_max = inf }", "inf is out of range"),
        ("limits = { slice_ms = 1 }", "limits.slice_ms: there is no such key in limits"),
        ("limits = { actors_per_tenant_max = 1 }", "there is no such key in limits"),
        # Facets.
        ('facets = "virtual_actor"', "facets: 'virtual_actor' is not a list of tables: write [{ type = "),
        ('facets = { type = "metrics" }', "facets: this is one table, and there may be several: write [{"),
        ('facets = ["metrics"]', "facets: a list is not a list of tables"),
        ("facets = [{ priority = 1 }]", "facets[1]: a facet needs 'type'"),
        ('facets = [{ type = "m", priority = 1001 }]', "facets[m].priority: 1001 is not a whole number from 0 to 1000"),
        ('facets = [{ type = "m", priority = -1 }]', "-1 is not a whole number from 0 to 1000"),
        ('facets = [{ type = "m", priority = true }]', "true is not a whole number"),
        ('facets = [{ type = "m", config = 1 }]', "facets[m].config: 1 is not a table"),
        ('facets = [{ type = "m", conf = {} }]', "there is no such key in a facet; did you mean 'config'?"),
        ('facets = [{ type = "m m" }]', "facet 'm m' is not a name"),
        ('facets = [{ type = "m" }, { type = "m" }]', "the actor has the facet 'm' twice: leave one out"),
        # Significant children, as OTP refuses them.
        ('significant = true\nrestart = "transient"', "a significant child says nothing while auto_shutdown is never"),
    ],
)
def test_a_mistake_in_a_child(wrong: str, expected: str) -> None:
    issue = the_issue(LEAST + wrong + "\n")
    assert issue.startswith(f"app-config.toml:{HERE}: supervisor.children[one]")
    assert expected in issue


LINK = 'base_url = "https://a.example"\nallow = ["GET /"]\n'


def test_links_come_with_their_application() -> None:
    links = f"[links.api]\n{LINK}[links.b]\n{LINK}http2 = false\n[supervisor]\n"
    config = parse(LEAST.replace("[supervisor]\n", links))
    assert config.links == {
        "api": parse_link("api", {"base_url": "https://a.example", "allow": ["GET /"]}),
        "b": parse_link("b", {"base_url": "https://a.example", "allow": ["GET /"], "http2": False}),
    }
    assert parse(LEAST).links == parse(LEAST.replace("[supervisor]\n", "[links]\n[supervisor]\n")).links == {}


@pytest.mark.parametrize(
    ("old", "new", "line", "expected"),
    [
        ('[application]\nname = "app"', "", 1, "the file needs 'application'"),
        ('name = "app"', "", 1, "application: [application] needs 'name'"),
        ('name = "app"', 'name = "a b"', 2, "application.name: application 'a b' is not a name: use 1 to 64 letters"),
        ('name = "app"', 'name = "app"\nnamespace = "/"', 3, "application.namespace: namespace '/' is not a name"),
        ('name = "app"', 'name = "app"\nversion = 1', 3, "application.version: there is no such key in [application]"),
        ("[application]", "[aplication]\n[application]", 1, "aplication: there is no such key in the file; did you"),
        ('[application]\nname = "app"', "application = 3", 1, "application: 3 is not a table: write a table [app"),
        ("[supervisor]\n", "[[links]]\n[supervisor]\n", 6, "links: a list is not a table: write each link as [links.N"),
        ("[supervisor]\n", "[links]\napi = 1\n[supervisor]\n", 7, "links.api: 1 is not a table: write [links.api]"),
        ("[supervisor]\n", f"[links.api]\n{LINK}time = 1\n[supervisor]\n", 9, "links.api.time: there is no such key"),
        ("[supervisor]\n", f"[links.api]\n{LINK}retries_max = -1\n[supervisor]\n", 9, "links.api.retries_max: write a"),
        ("[supervisor]\n", f'[links.api]\n{LINK}tenants = ["a"]\n[supervisor]\n', 9, "tenants: an application's links"),
        ("[supervisor]\n", f'[links."a b"]\n{LINK}[supervisor]\n', 6, "links.'a b': link 'a b' is not a name"),
        ('path = "code.wasm"', "", 3, "components[code]: the component needs its code: path = a built .wasm"),
        ('path = "code.wasm"', 'path = "a"\nsource = "b"', 3, "components[code]: the component has path and source"),
        ('path = "code.wasm"', 'path = ""', 5, "components[code].path: the text is empty"),
        ('path = "code.wasm"', 'path = "a"\nhash = 1', 6, "components[code].hash: there is no such key in a component"),
        ("[supervisor]\n", '[[components]]\nname = "code"\npath = "b"\n[supervisor]\n', 7, "another component is call"),
        ("[[components]]", "[components]", 3, "components: this is one table, and there may be several: write each"),
        ('actor_type = "code"', 'actor_type = "coed"', 9, "there is no component 'coed'; did you mean 'code'?"),
        ('actor_type = "code"', "", 7, "supervisor.children[one]: a child (actor) needs 'actor_type'"),
        ('name = "one"', "", 7, "supervisor.children[1]: a child (actor) needs 'name'"),
        ('name = "one"', 'name = "one/two"', 8, "child 'one/two' is not a name"),
        ("[supervisor]\n", '[supervisor]\nstrategy = "one"\n', 7, "supervisor.strategy: 'one' is not possible; did"),
        ("[supervisor]\n", "[supervisor]\nmax_restarts = -1\n", 7, "-1 is out of range: write a whole number from 0"),
        ("[supervisor]\n", "[supervisor]\nmax_restarts = 1.0\n", 7, "1.0 is not a whole number"),
        ("[supervisor]\n", "[supervisor]\nmax_restarts = true\n", 7, "true is not a whole number"),
        ("[supervisor]\n", f"[supervisor]\nmax_restarts = {2**31}\n", 7, "is out of range"),
        ("[supervisor]\n", "[supervisor]\nmax_restart_window_seconds = 0\n", 7, "0 is out of range: write more than"),
        ("[supervisor]\n", "[supervisor]\nmax_restart_window_seconds = nan\n", 7, "nan is out of range"),
        ("[supervisor]\n", '[supervisor]\nmax_restart_window_seconds = "1m"\n', 7, "the unit is in the key's name"),
        ("[supervisor]\n", "[supervisor]\nmax_restart_window_seconds = []\n", 7, "is not a number of seconds"),
        ("[supervisor]\n", '[supervisor]\nauto_shutdown = "any"\n', 7, "auto_shutdown: 'any' is not possible"),
        ("[supervisor]\n", '[supervisor]\nbackoff = "1s"\n', 7, "backoff: '1s' is not a table: write { initial ="),
        (
            "[supervisor]\n",
            '[supervisor]\nbackoff = { initial = "1s" }\n',
            7,
            "supervisor.backoff: backoff needs 'max'",
        ),
        (
            "[supervisor]\n",
            '[supervisor]\nbackoff = { initial = "2s", max = "1s" }\n',
            7,
            "supervisor.backoff: initial is longer than max",
        ),
        (
            "[[supervisor.children]]",
            "[supervisor.children]",
            7,
            "children: this is one table, and there may be several",
        ),
    ],
)
def test_a_mistake_elsewhere(old: str, new: str, line: int, expected: str) -> None:
    assert LEAST.count(old) == 1
    found = issues(LEAST.replace(old, new))
    assert any(issue.startswith(f"app-config.toml:{line}: ") and expected in issue for issue in found), found


def below(text: str) -> str:
    """A child supervisor with these children, after the child `one`."""
    return LEAST + '[[supervisor.children]]\nname = "sub"\n[supervisor.children.supervisor]\n' + text


ANOTHER = '[[supervisor.children]]\nname = "one"\nactor_type = "code"\n'
INNER = '[[supervisor.children.supervisor.children]]\nname = "{}"\nactor_type = "code"\n'


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        (LEAST + ANOTHER, 11, "another child is called 'one', in line 7"),
        (below(INNER.format("one")), 14, "another actor is called 'one', in line 7"),
        (below(INNER.format("a") + INNER.format("a")), 17, "another child is called 'a', in line 13"),
        (below("children = []\n"), 13, "supervisor.children: the supervisor has no children: add one"),
        (below(""), 12, "children[sub].supervisor: a supervisor needs 'children'"),
        (
            below('strategy = "simple_one_for_one"\n' + INNER.format("a") + INNER.format("b")),
            13,
            "simple_one_for_one has exactly one child, the pattern of those to come, and here are 2",
        ),
        (
            LEAST.replace("[supervisor]", '[supervisor]\nstrategy = "simple_one_for_one"').replace(
                'actor_type = "code"', "[supervisor.children.supervisor]\n" + INNER.format("a")
            ),
            8,
            "the one child of simple_one_for_one is an actor, not a supervisor",
        ),
        (below(INNER.format("a")).replace('"sub"', '"sub"\nrole = "x"'), 12, "only actors have this: give it to one"),
        (
            LEAST.replace("[supervisor]", '[supervisor]\nauto_shutdown = "any_significant"') + "significant = true\n",
            11,
            "a permanent child never ends for good: write restart =",
        ),
        (LEAST + "supervisor = 3\n", 9, "this child is a supervisor, and only actors have this"),
    ],
)
def test_combinations_that_cannot_be(text: str, line: int, expected: str) -> None:
    found = issues(text)
    assert any(issue.startswith(f"app-config.toml:{line}: ") and expected in issue for issue in found), found
    assert len(found) == 1 or "supervisor = 3" in text


def test_an_empty_application_is_told_what_it_needs() -> None:
    assert [issue.split(":", 2)[2].split("'")[1] for issue in issues("")] == ["application", "components", "supervisor"]


@pytest.mark.parametrize(("words", "seconds"), [("200ms", 0.2), ("1.5s", 1.5), ("10m", 600.0), ("2h", 7_200.0)])
def test_durations(words: str, seconds: float) -> None:
    (child,) = parse(LEAST + f'shutdown = "{words}"\n').supervisor.children
    assert child.shutdown_s == pytest.approx(seconds)


def test_shutdown_has_two_words_of_its_own() -> None:
    for word, expected in [("brutal_kill", 0.0), ("infinity", float("inf"))]:
        (child,) = parse(LEAST + f'shutdown = "{word}"\n').supervisor.children
        assert child.shutdown_s == expected


@pytest.mark.parametrize(
    ("written", "described"),
    [
        ("GenServer", "GenServer"),
        ("GenEvent", "GenEvent"),
        ("GenFSM", "GenStateMachine"),
        ("GenStateMachine", "GenStateMachine"),
        ("Workflow", "Workflow"),
    ],
)
def test_a_behaviour_is_what_describe_says(written: str, described: str) -> None:
    (child,) = parse(LEAST + f'behavior_kind = "{written}"\n').supervisor.children
    assert child.behavior_kind == described


def test_every_capability_can_be_granted() -> None:
    names = [*(each.name for each in CAPABILITIES), "default", "*", "http:llm-*", "streams:read:/audit/**"]
    written = ", ".join(f'"{name}"' for name in names)
    (child,) = parse(LEAST + f"capabilities = [{written}]\n").supervisor.children
    assert child.capabilities == frozenset(names)
    assert parse(LEAST + "capabilities = []\n").supervisor.children[0].capabilities == frozenset()


def test_an_actors_limit_may_be_lowered_and_not_raised() -> None:
    text = LEAST + "limits = { state_bytes_max = 1000, wall_s_per_message_max = 3 }\n"
    assert parse(text, limits=Limits(state_bytes_max=1000)).supervisor.children[0].limits["state_bytes_max"] == 1000
    issue = the_issue(text, limits=Limits(state_bytes_max=999))
    assert "1000 is more than the node allows: at most 999 (state_bytes_max of its own configuration)" in issue
    assert parse(text).supervisor.children[0].limits == {"state_bytes_max": 1000, "wall_s_per_message_max": 3.0}


def test_every_limit_of_an_actor_is_one_of_the_nodes_and_takes_its_default() -> None:
    names = [key.name for key in reference() if key.table == "[supervisor.children.limits]"]
    assert set(names) <= {each.name for each in fields(Limits)}
    written = ", ".join(f"{name} = {getattr(Limits(), name)}" for name in names)
    (child,) = parse(LEAST + f"limits = {{ {written} }}\n", limits=Limits()).supervisor.children
    assert child.limits == {name: getattr(Limits(), name) for name in names}


def test_facets_are_checked_by_their_types() -> None:
    seen: list[Mapping[str, Any]] = []

    def check(config: Mapping[str, Any]) -> None:
        seen.append(config)
        if "n" not in config:
            raise InvalidArgument("n is missing: write how many")

    facets = '[{ type = "count", config = { n = 1 } },\n { type = "cuont" }, { type = "other" }]'
    found = issues(LEAST + f"facets = {facets}\n", facet_types={"count": check, "other": check})
    assert found == [
        f"app-config.toml:{HERE + 1}: supervisor.children[one].facets[cuont].type: "
        "there is no facet 'cuont'; did you mean 'count'?",
        f"app-config.toml:{HERE + 1}: supervisor.children[one].facets[other].config: n is missing: write how many",
    ]
    assert seen == [{"n": 1}, {}]
    (child,) = parse(LEAST + f"facets = {facets}\n").supervisor.children
    assert [facet.type for facet in child.facets] == ["count", "cuont", "other"]


# -- text that is none -------------------------------------------------------------------------------------


def test_what_is_no_toml_has_a_line_too() -> None:
    assert the_issue("a = 1\nb = = 2\n").startswith("app-config.toml:2: this is not TOML: Invalid value (column 5)")
    assert the_issue(f"a = {'1' * 5_000}").startswith("app-config.toml:1: this is not TOML")


def test_a_file_has_a_size() -> None:
    padded = LEAST + "#".ljust(appconfig.CONFIG_BYTES_MAX - len(LEAST) - 1, "x")
    for more in ("", "x"):
        assert parse(padded + more).name == "app"
    assert "longer than 262144 characters" in the_issue(padded + "xx")


@pytest.mark.parametrize("part", ["a", '"a"', "'a' "])
def test_a_key_has_a_number_of_parts(part: str) -> None:
    assert "there is no such key" in issues(".".join([part] * 48) + " = 1")[0]
    for text in (".".join([part] * 49) + " = 1", "\n[" + ".".join([part] * 100_000)[:200_000] + "]"):
        line = 2 if text.startswith("\n") else 1
        assert the_issue(text) == f"app-config.toml:{line}: a key has more than 48 parts"


def test_nesting_has_a_depth() -> None:
    assert "nested too deeply" in the_issue("a = " + "[" * 100_000)
    for depth, right in [(16, True), (17, False)]:
        text, path = LEAST.split("[supervisor]")[0] + "[supervisor]\n", "supervisor"
        for level in range(1, depth):
            text += f'[[{path}.children]]\nname = "s{level}"\n[{path}.children.supervisor]\n'
            path += ".children.supervisor"
        text += f'[[{path}.children]]\nname = "leaf"\nactor_type = "code"\n'
        if right:
            assert [child.name for child in parse(text).actors()] == ["leaf"]
        else:
            assert "nested deeper than 16 levels" in the_issue(text)


KEYS = st.sampled_from(sorted({key.name for key in reference()} | {"application", "components", "links", "x"}))
WORDS = st.sampled_from(["5s", "code", "infinity", "permanent", "one_for_one", "GenServer"])
TEXTS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=5)
VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), TEXTS, WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=20,
)


def written(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case list():
            return "[" + ", ".join(map(written, value)) + "]"
        case dict():
            return "{ " + ", ".join(f"{name} = {written(each)}" for name, each in value.items()) + " }"
        case _:
            return repr(value)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
@settings(max_examples=200, deadline=None)
def test_whatever_is_written_is_read_or_refused_with_a_place(document: dict[str, Any]) -> None:
    text = "".join(f"{name} = {written(value)}\n" for name, value in document.items())
    assert tomllib.loads(text).keys() == document.keys()
    try:
        parse(text)
    except ConfigError as error:
        for issue in error.details["issues"]:
            _, line, rest = issue.split(":", 2)
            assert 1 <= int(line) <= max(1, len(document))
            assert rest.strip()
