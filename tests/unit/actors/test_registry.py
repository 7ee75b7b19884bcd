"""Names: one living actor each, counted per tenant, invisible to others."""

from __future__ import annotations

from typing import Any

import pytest

from plexspaces_runtime.actors.actor import Actor
from plexspaces_runtime.actors.registry import Registry
from plexspaces_runtime.errors import AlreadyExists, InvalidArgument, LimitExceeded
from plexspaces_runtime.scope import Address, Scope
from tests.unit.scripted import Bench


def actor(tenant: str, text: str, spec: Any) -> Actor:
    return Actor(Address.parse(Scope(tenant, "default"), text), spec, lambda *_: None, started_ms=0)


async def test_a_name_is_given_once_and_can_be_given_again_when_it_is_free() -> None:
    spec, registry = Bench().spec(), Registry(10)
    first, second = actor("acme", "counter", spec), actor("acme", "counter", spec)
    registry.add(first)
    with pytest.raises(AlreadyExists):
        registry.add(second)
    registry.remove(second)
    assert registry.find(first.address.scope, "counter") is first
    registry.remove(first)
    registry.add(second)
    assert registry.find(first.address.scope, "counter") is second


async def test_tenants_do_not_see_each_other() -> None:
    spec, registry = Bench().spec(), Registry(10)
    ours, theirs = actor("acme", "counter", spec), actor("rival", "counter", spec)
    registry.add(ours)
    registry.add(theirs)
    assert registry.find(Scope("acme", "default"), "counter") is ours
    assert registry.find(Scope("acme", "other"), "counter") is None
    assert list(registry.of_tenant("acme")) == [ours]
    assert list(registry.of_tenant("acme", "other")) == []
    assert registry.of_type(Scope("rival", "default"), "counter") == [theirs]


@pytest.mark.parametrize("maximum", [1, 3])
async def test_a_tenant_has_as_many_actors_as_it_may_and_no_more(maximum: int) -> None:
    spec, registry = Bench().spec(), Registry(maximum)
    actors = [actor("acme", f"counter/{number}", spec) for number in range(maximum + 1)]
    for one in actors[:maximum]:
        registry.add(one)
    with pytest.raises(LimitExceeded) as refused:
        registry.add(actors[maximum])
    assert refused.value.details == {"limit": "actors_per_tenant_max", "value": maximum}
    registry.add(actor("rival", "counter", spec))
    registry.remove(actors[0])
    registry.add(actors[maximum])
    assert registry.count == maximum + 1


@pytest.mark.parametrize(
    "text", ["", "/", "a/", "/k", "a/b/c", "a b", "a/b c", "-a", "a" * 65, "a/" + "k" * 257, "a\n"]
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Address.parse(Scope("acme", "default"), text)


@pytest.mark.parametrize("text", ["a", "a.b-c_d", "A1", "agent/user@example.org", "agent/ü", "a" * 64])
def test_a_name_reads_back_as_it_was_written(text: str) -> None:
    assert Address.parse(Scope("acme", "default"), text).text == text


def test_the_key_default_may_be_written_or_left_out() -> None:
    scope = Scope("acme", "default")
    assert Address.parse(scope, "counter/default") == Address.parse(scope, "counter")
