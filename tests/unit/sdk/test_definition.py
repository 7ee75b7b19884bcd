"""Decorators record, definitions judge: every mistake at once, with file, line and remedy."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import pytest

from plexspaces import (
    actor,
    event_actor,
    fsm_actor,
    gen_server_actor,
    handler,
    info_handler,
    init_handler,
    migrate_handler,
    query_handler,
    run_handler,
    signal_handler,
    state,
    terminate_handler,
    workflow_actor,
)
from plexspaces.definition import ActorDefinition, DefinitionError, find_actors


def issues(cls: type) -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        ActorDefinition.of(cls)
    for issue in caught.value.issues:
        assert issue.file.endswith("test_definition.py")
        assert issue.line > 1
        assert issue.remedy
    return [issue.message for issue in caught.value.issues]


@pytest.mark.parametrize(
    ("decorate", "behaviour"),
    [
        (actor, "GenServer"),
        (gen_server_actor, "GenServer"),
        (event_actor, "GenEvent"),
        (fsm_actor, "GenStateMachine"),
    ],
)
def test_class_decorators_work_with_and_without_parentheses(decorate: Any, behaviour: str) -> None:
    class Plain:
        @handler("get")
        def get(self) -> dict:
            return {}

    class Called(Plain):
        pass

    bare = ActorDefinition.of(decorate(Plain))
    called = ActorDefinition.of(decorate(facets=["durability"])(Called))
    assert (bare.behaviour, bare.facets) == (behaviour, ())
    assert (called.behaviour, called.facets) == (behaviour, ("durability",))
    assert bare.operations() == called.operations() == ["get"]


def test_operations_and_kinds() -> None:
    @actor
    class Account:
        @handler("balance", "get")
        def balance(self) -> int:
            return 1

        @handler("log", "cast")
        def log(self, line: str) -> None: ...

        @handler("add", ["call"])
        def add(self) -> None: ...

    known = ActorDefinition.of(Account)
    assert set(known.calls) == {"balance", "get", "add"}
    assert set(known.casts) == {"balance", "get", "log"}


def test_one_operation_may_be_asked_of_one_method_and_told_to_another() -> None:
    @actor
    class Both:
        @handler("put", "call")
        def asked(self) -> None: ...

        @handler("put", "cast")
        def told(self) -> None: ...

    known = ActorDefinition.of(Both)
    assert (known.calls["put"].method, known.casts["put"].method) == ("asked", "told")


def test_every_issue_is_reported_at_once() -> None:
    @actor(facets="durability")
    class Wrong:
        items: list = state(default=[])
        context: str = state(default="")
        handle_: Any = state(default=object())

        def __init__(self, needed: int) -> None: ...

        @handler("a")
        def first(self, *args: int) -> None: ...

        @handler("a")
        def second(self, callback: Callable[[], None]) -> None: ...

        @handler("b", ["shout"])
        async def third(self) -> None: ...

        @handler("c", roles="admin")
        def fourth(self) -> set[object]: ...

        @handler(3)
        def fifth() -> None: ...  # type: ignore[misc]

        @query_handler("q")
        def sixth(self) -> None: ...

        @migrate_handler(1)
        def seventh(self, fields: dict) -> None: ...

    found = issues(Wrong)
    for expected in (
        "facets='durability' is not a list",
        "state items has a mutable default",
        "context is the SDK's own name",
        "state.handle_ is a builtins.object",
        "Wrong.__init__ takes arguments",
        "first takes *args",
        "'a' is handled twice, by first",
        "second's callback cannot come in a message",
        "'shout' is not a way to send a message",
        "third is asynchronous",
        "roles='admin' is not a list",
        "3 is not the name of an operation",
        "fifth does not take self",
        "@query_handler belongs to workflows",
        "migrates from version 1, and the actor is at version 1",
    ):
        assert any(expected in message for message in found), (expected, found)


def test_a_method_that_was_defined_twice_is_found_although_python_forgot_it() -> None:
    @actor
    class Twice:
        @handler("a")
        def same(self) -> None: ...

        @handler("b")
        def same(self) -> None: ...  # type: ignore[no-redef]  # noqa: F811

    assert any("method same is defined again" in message for message in issues(Twice))


def test_running_a_class_body_again_is_not_defining_it_twice() -> None:
    def make() -> type:
        @actor
        class Again:
            @handler("a")
            def a(self) -> None: ...

        return Again

    make()
    assert ActorDefinition.of(make()).operations() == ["a"]


@pytest.mark.parametrize("name", ["Durability", "a b", "", "x-y"])
def test_facet_names_have_a_shape(name: str) -> None:
    @actor(facets=[name])
    class A: ...

    assert any("cannot be a facet's name" in message for message in issues(A))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"states": "idle"}, "not a list of names"),
        ({"states": []}, "not a list of names"),
        ({"states": ["a", "a"]}, "names a twice"),
        ({"states": ["idle"], "initial": "idel"}, "did you mean 'idle'"),
        ({"initial": "idle"}, "need states="),
        ({"states": ["a", "b"], "transitions": {"a": ["c"]}}, "'c', which is not one of the states"),
        ({"states": ["a", "b"], "transitions": {"a": ["a"]}}, "no transition leads from 'a' to 'b'"),
        ({"states": ["a", "b"], "transitions": [("a", "b")]}, "is not a table"),
    ],
)
def test_state_machines_are_judged(options: dict[str, Any], says: str) -> None:
    @fsm_actor(**options)
    class Machine: ...

    assert any(says in message for message in issues(Machine))


def test_a_workflow_needs_a_run() -> None:
    @workflow_actor
    class Idle: ...

    assert issues(Idle) == ["workflow Idle has no run"]


def test_a_workflow_may_spell_run_signal_and_query_as_plain_methods() -> None:
    @workflow_actor
    class Order:
        def run(self, payload: dict) -> dict:
            return payload

        def signal(self, name: str, data: dict) -> None: ...

        def query(self, name: str, params: dict) -> dict:
            return {}

    known = ActorDefinition.of(Order)
    assert known.run is not None
    assert set(known.signals) == set(known.queries) == {"*"}


def test_decorated_workflow_and_life_handlers() -> None:
    @workflow_actor(version=2)
    class Order:
        @init_handler
        def start(self, config: dict) -> None: ...

        @run_handler
        def go(self, payload: dict = None) -> dict:  # noqa: RUF013
            return {}

        @signal_handler("cancel")
        def cancel(self) -> None: ...

        @query_handler("status")
        def status(self) -> dict:
            return {}

        @info_handler
        def info(self, op: str, payload: dict) -> None: ...

        @terminate_handler
        def end(self, reason: str) -> None: ...

        @migrate_handler(1)
        def from_1(self, fields: dict) -> dict:
            return fields

    known = ActorDefinition.of(Order)
    assert None not in (known.init, known.run, known.info, known.terminate)
    assert set(known.signals) == {"cancel"}
    assert set(known.queries) == {"status"}
    assert set(known.migrations) == {1}


def test_subclasses_inherit_handlers_and_state_and_may_override_them() -> None:
    class Base:
        count: int = state(default=0)

        @handler("get")
        def get(self) -> str:
            return "base"

    @actor
    class Derived(Base):
        count: int = state(default=5)

        def get(self) -> str:
            return "derived"

    known = ActorDefinition.of(Derived)
    assert [(one.name, one.make()) for one in known.states] == [("count", 5)]
    assert known.calls["get"].function(Derived()) == "derived"


class Line(TypedDict):
    sku: str
    count: int


@dataclass
class Order:
    """An order."""

    id: int
    lines: list[Line]
    next: Order | None = None


def test_schemas_come_from_annotations_and_docstrings() -> None:
    @actor
    class Shop:
        """Sells."""

        @handler("buy")
        def buy(
            self, order: Order, mode: Literal["fast", "slow"] = "slow", note: Annotated[str, "free text"] = ""
        ) -> int:
            """Buy things.

            Args:
                order: what to buy,
                    all of it.
                mode: how.

            Returns:
                A number.
            """
            return 1

    described = json.loads(json.dumps(ActorDefinition.of(Shop).describe()))
    assert described["class"] == "Shop"
    assert described["doc"] == "Sells."
    buy = described["handlers"]["buy"]
    assert buy["returns"] == {"type": "integer"}
    assert buy["doc"] == "Buy things.\n\nReturns:\n    A number."
    parameters = buy["parameters"]
    assert parameters["required"] == ["order"]
    assert parameters["additionalProperties"] is False
    assert parameters["properties"]["order"] == {"$ref": "#/$defs/Order", "description": "what to buy, all of it."}
    assert parameters["properties"]["mode"] == {"enum": ["fast", "slow"], "description": "how.", "default": "slow"}
    assert parameters["properties"]["note"] == {"type": "string", "description": "free text", "default": ""}
    order = parameters["$defs"]["Order"]
    assert order["description"] == "An order."
    assert order["required"] == ["id", "lines"]
    assert order["properties"]["next"] == {
        "anyOf": [{"$ref": "#/$defs/Order"}, {"type": "null"}],
        "default": None,
    }
    assert parameters["$defs"]["Line"]["required"] == ["sku", "count"]


def module(**members: Any) -> types.ModuleType:
    result = types.ModuleType("app")
    for name, value in members.items():
        if isinstance(value, type):
            value.__module__ = "app"
        setattr(result, name, value)
    return result


@actor
class One:
    @handler("get")
    def get(self) -> None: ...


@actor
class Two:
    @handler("get")
    def get(self) -> None: ...


@actor
class Broken:
    items: list = state(default=[])


def test_a_module_with_one_actor_needs_no_registry() -> None:
    found = find_actors(module(One=One, Alias=One))
    assert {role: known.name for role, known in found.items()} == {"": "One"}


def test_a_registry_names_roles() -> None:
    found = find_actors(module(ACTOR_REGISTRY={"a": One, "b": Two, "c": One}))
    assert {role: known.name for role, known in found.items()} == {"a": "One", "b": "Two", "c": "One"}


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({}, "holds no actor"),
        ({"One": One, "Two": Two}, "several actors"),
        ({"ACTOR_REGISTRY": []}, "not a table"),
        ({"ACTOR_REGISTRY": {"x": int}}, "is not an actor class"),
        ({"ACTOR_REGISTRY": {"x": int, "y": Broken}}, "mutable default"),
    ],
)
def test_modules_are_judged(members: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        find_actors(module(**members))
