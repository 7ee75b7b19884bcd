"""Process groups: order, membership both ways, limits, and nothing left behind."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.actors.actor import Actor, ActorSpec
from plexspaces_runtime.actors.groups import Groups
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import LimitExceeded
from plexspaces_runtime.scope import Address, Scope
from tests.unit.scripted import ScriptedGuest

SCOPE = Scope("acme", "default")


def actor(name: str, scope: Scope = SCOPE, **limits: int) -> Actor:
    spec = ActorSpec(lambda: ScriptedGuest({}), "0" * 64, Limits(**limits))
    return Actor(Address.parse(scope, name), spec, lambda *_: None, started_ms=0)


def test_members_are_in_the_order_they_joined_and_joining_again_keeps_the_place() -> None:
    groups = Groups()
    a, b, c = actor("a"), actor("b"), actor("c")
    for member in (b, a, c, b):
        groups.join(member, "g")
    assert groups.members(SCOPE, "g") == (b, a, c)
    assert groups.first(SCOPE, "g") is b
    groups.leave(b, "g")
    groups.join(b, "g")
    assert groups.members(SCOPE, "g") == (a, c, b)


def test_a_group_of_another_scope_is_another_group() -> None:
    groups = Groups()
    ours, theirs = actor("a"), actor("a", Scope("rival", "default"))
    groups.join(ours, "g")
    groups.join(theirs, "g")
    assert groups.members(SCOPE, "g") == (ours,)
    assert groups.members(Scope("acme", "other"), "g") == ()
    assert groups.first(Scope("acme", "other"), "g") is None


def test_who_leaves_all_is_in_none_and_empty_groups_are_forgotten() -> None:
    groups = Groups()
    a, b = actor("a"), actor("b")
    for name in ("g", "h", "i"):
        groups.join(a, name)
    groups.join(b, "h")
    groups.leave(b, "g")
    groups.leave_all(a)
    assert a.groups == set()
    assert groups.count == 1
    groups.leave_all(b)
    assert groups._by_scope == {}


@pytest.mark.parametrize("limit", [1, 3])
def test_an_actor_is_in_as_many_as_it_may(limit: int) -> None:
    groups = Groups()
    a = actor("a", groups_per_actor_max=limit)
    for number in range(limit):
        groups.join(a, str(number))
    groups.join(a, "0")
    with pytest.raises(LimitExceeded) as refused:
        groups.join(a, "one more")
    assert refused.value.details == {"limit": "groups_per_actor_max", "value": limit}
    groups.leave(a, "0")
    groups.join(a, "one more")


@given(st.lists(st.tuples(st.sampled_from(["join", "leave", "end"]), st.integers(0, 3), st.sampled_from("gh"))))
def test_like_a_model(steps: list[tuple[str, int, str]]) -> None:
    groups = Groups()
    actors = [actor(f"a/{number}") for number in range(4)]
    model: dict[str, OrderedDict[int, None]] = {"g": OrderedDict(), "h": OrderedDict()}
    for what, number, name in steps:
        if what == "join":
            groups.join(actors[number], name)
            model[name].setdefault(number)
        elif what == "leave":
            groups.leave(actors[number], name)
            model[name].pop(number, None)
        else:
            groups.leave_all(actors[number])
            for members in model.values():
                members.pop(number, None)
        for each, members in model.items():
            assert groups.members(SCOPE, each) == tuple(actors[one] for one in members)
        for number, one in enumerate(actors):
            assert one.groups == {each for each, members in model.items() if number in members}
        assert groups.count == sum(map(bool, model.values()))
