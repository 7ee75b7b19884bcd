"""Secret arguments are swapped before anybody keeps the message, and nothing else of it changes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces import Secret, actor, handler, query_handler, run_handler, signal_handler, workflow_actor
from plexspaces.definition import ActorDefinition
from plexspaces_runtime.egress.veil import Veil, read_schema
from plexspaces_runtime.errors import InvalidArgument
from plexspaces_runtime.scope import Address, Scope

SCOPE = Scope("acme", "default")
AGENT = Address(SCOPE, "agent", "ada")


@dataclass
class Login:
    user: str
    password: Secret


@dataclass
class Tree:
    key: Secret | None = None
    left: "Tree | None" = None  # noqa: UP037 - it holds itself
    many: "list[Tree] | None" = None  # noqa: UP037


class Keys(TypedDict, total=False):
    first: Secret
    other: int


@actor
class Agent:
    @handler("connect")
    def connect(self, api_key: Secret, note: str = "") -> None: ...

    @handler("maybe")
    def maybe(self, api_key: Secret | None = None) -> None: ...

    @handler("nested")
    def nested(
        self,
        login: Login | None = None,
        many: list[Secret] | None = None,
        named: dict[str, Secret] | None = None,
        pair: tuple[int, Secret] | None = None,
        keys: Keys | None = None,
    ) -> None: ...

    @handler("tree")
    def tree(self, tree: Tree) -> None: ...

    @handler("plain")
    def plain(self, api_key: str) -> None: ...

    @handler("*")
    def rest(self, payload: dict[str, Any], token: Secret | None = None) -> None: ...


@actor
class Plain:
    @handler("connect")
    def connect(self, api_key: str) -> None: ...


@workflow_actor
class Errand:
    @run_handler
    def run(self, key: Secret) -> None: ...

    @signal_handler("more")
    def more(self, key: Secret) -> None: ...

    @query_handler("look")
    def look(self, key: Secret) -> None: ...


def veil(cls: type, swapped: list[str] | None = None) -> Veil:
    def swap(address: Address, value: str) -> str:
        if swapped is not None:
            swapped.append(value)
        return f"phantom<{value}>@{address.text}"

    made = Veil(swap)
    made.declare(SCOPE, "agent", ActorDefinition.of(cls).describe()["handlers"])
    return made


def drawn(op: str, arguments: Any) -> Any:
    return json.loads(veil(Agent).drawn(AGENT, op, json.dumps(arguments)))


def test_a_secret_argument_is_swapped() -> None:
    assert drawn("connect", {"op": "connect", "api_key": "hush", "note": "hush"}) == {
        "op": "connect",
        "api_key": "phantom<hush>@agent/ada",
        "note": "hush",
    }
    assert drawn("plain", {"api_key": "hush"}) == {"api_key": "hush"}
    assert drawn("maybe", {"api_key": None}) == {"api_key": None}
    assert drawn("maybe", {"api_key": "hush"}) == {"api_key": "phantom<hush>@agent/ada"}


def test_nested_ones_too() -> None:
    p = "phantom<{}>@agent/ada".format
    assert drawn(
        "nested",
        {
            "login": {"user": "ada", "password": "one"},
            "many": ["two", "three"],
            "named": {"a": "four"},
            "pair": [5, "six"],
            "keys": {"first": "seven", "other": 8},
        },
    ) == {
        "login": {"user": "ada", "password": p("one")},
        "many": [p("two"), p("three")],
        "named": {"a": p("four")},
        "pair": [5, p("six")],
        "keys": {"first": p("seven"), "other": 8},
    }
    tree = {"key": "a", "left": {"key": "b", "many": [{"key": "c"}, {"left": {"key": "d"}}]}}
    assert drawn("tree", {"tree": tree}) == {
        "tree": {
            "key": p("a"),
            "left": {"key": p("b"), "many": [{"key": p("c")}, {"left": {"key": p("d")}}]},
        }
    }


def test_any_other_operation_is_the_catch_all_s() -> None:
    assert drawn("anything", {"token": "hush", "x": "y"}) == {"token": "phantom<hush>@agent/ada", "x": "y"}
    assert drawn("plain", {"api_key": "x", "token": "hush"}) == {"api_key": "x", "token": "hush"}


def test_a_workflow_s_run_signals_and_queries() -> None:
    for op in ("run", "more", "look"):
        assert json.loads(veil(Errand).drawn(AGENT, op, '{"key": "hush"}')) == {"key": "phantom<hush>@agent/ada"}


@pytest.mark.parametrize(
    "payload",
    [
        '{ "note" :\t"x", "n": 123456789012345678901234567890, "f": 1.10, "e": 1E5,\n "api_key": "hush" , "z": [ 1]}',
        '{"api_key":"hush"}',
        '  {"api\\u005fkey" : "hu\\u0073h"}  ',
        '{"api_key": "hush", "api_key": "hush"}',
    ],
)
def test_the_rest_stays_as_it_came(payload: str) -> None:
    said = veil(Agent).drawn(AGENT, "connect", payload)
    assert "hush" not in said.replace("phantom<hush>", "")
    assert said.replace('"phantom<hush>@agent/ada"', '"hush"') == payload.replace("hu\\u0073h", "hush")


def test_types_without_secrets_cost_nothing() -> None:
    plain = veil(Plain)
    assert not plain.declared
    assert plain.drawn(AGENT, "connect", "not even JSON") == "not even JSON"
    assert read_schema({"type": "object", "properties": {"a": {"type": "string"}}}) is None


def test_another_version_and_the_end_of_a_type() -> None:
    made = veil(Agent)
    made.declare(Scope("globex", "default"), "agent", {})
    assert list(made.declared) == [(SCOPE, "agent")]
    made.declare(SCOPE, "agent", ActorDefinition.of(Plain).describe()["handlers"])
    assert not made.declared
    made.declare(SCOPE, "agent", ActorDefinition.of(Agent).describe()["handlers"])
    made.forget(SCOPE, "agent")
    made.forget(SCOPE, "agent")
    assert not made.declared


@pytest.mark.parametrize("value", [12345678, 1.5, True, ["x"], {"x": "y"}])
def test_a_secret_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        veil(Agent).drawn(AGENT, "connect", json.dumps({"api_key": value}))
    assert caught.value.message == "api_key is a secret: it is to be a string"


@pytest.mark.parametrize(
    "payload",
    [
        '{"api_key": "hush"',
        '{"api_key": "hush",}',
        '{"api_key" "hush"}',
        "{api_key: 1}",
        "{",
        '{"api_key": hush}',
        "[",
        '{"a": 1} x',
    ],
)
def test_what_is_no_json_goes_nowhere(payload: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        veil(Agent).drawn(AGENT, "connect", payload)
    assert caught.value.message == "the arguments are not JSON"


def test_json_that_is_no_object_is_left_to_the_guest() -> None:
    for payload in ("null", "[1, 2]", '"text"', "", "12"):
        assert veil(Agent).drawn(AGENT, "connect", payload) == payload


def test_too_deep() -> None:
    deep = '{"left": ' * 100_000
    with pytest.raises(InvalidArgument, match="not JSON"):
        veil(Agent).drawn(AGENT, "tree", '{"tree": ' + deep)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=4), json_values, max_size=4), st.text(min_size=1), st.integers(0, 3))
def test_any_arguments(others: dict[str, Any], key: str, indent: int) -> None:
    swapped: list[str] = []
    text = json.dumps({**others, "api_key": key}, indent=indent or None)
    said = json.loads(veil(Agent, swapped).drawn(AGENT, "connect", text))
    assert swapped == [key]
    assert said == {**others, "api_key": f"phantom<{key}>@agent/ada"}


def test_hostile_schemas_do_no_harm() -> None:
    deep: dict[str, Any] = {"format": "secret"}
    for _ in range(5_000):
        deep = {"properties": {"a": deep}}
    assert read_schema(deep) is None
    loop = {"$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}, {"format": "secret"}]}}, "$ref": "#/$defs/A"}
    made = Veil(lambda _address, value: value.upper())
    made.declare(SCOPE, "agent", {"x": {"parameters": loop}, "y": {"parameters": [1]}, "z": 5, "w": {}})
    assert made.drawn(AGENT, "x", '"hush"') == '"HUSH"'
    assert read_schema({"properties": [], "anyOf": {}, "items": 5, "$defs": 7, "$ref": 9}) is None
