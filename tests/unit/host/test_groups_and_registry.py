"""Process groups and the registry as a guest meets them."""

from __future__ import annotations

from typing import Any

import pytest

from plexspaces_runtime.actors.actor import Actor
from plexspaces_runtime.actors.capabilities import Grants, Layer
from plexspaces_runtime.actors.envelope import Envelope
from plexspaces_runtime.actors.facets import Facet, Facets
from plexspaces_runtime.actors.guest import Ok
from plexspaces_runtime.errors import RateLimited
from plexspaces_runtime.scope import Address, Scope
from tests.unit.scripted import SCOPE, Bench, call


def group(function: str, *arguments: Any) -> Any:
    return call("process-groups", function, "g", *arguments)


def find(actor_type: str = "", capability: str = "", label: str = "", limit: int = 0) -> Any:
    return call("registry", "find", (actor_type, capability, label, limit))


def label(name: str, value: str) -> Any:
    return call("registry", "set-label", name, value)


def granted(*entries: str) -> Grants:
    return Grants(frozenset({Layer.of("of somebody", entries)}))


async def found(bench: Bench, **query: Any) -> list[str]:
    return [name for name, _, _ in (await bench.do("a", find(**query))).value]


# -- groups --------------------------------------------------------------------------------------------------


async def test_members_first_and_leave() -> None:
    bench = Bench()
    for name in ("a", "b/1"):
        actor = await bench.puppet(name)
        assert await bench.do(name, group("join")) == Ok(None)
        assert actor.anchored
    assert await bench.do("a", group("members")) == Ok(["a", "b/1"])
    assert await bench.do("a", group("first")) == Ok("a")
    assert await bench.do("a", group("leave")) == Ok(None)
    assert await bench.do("a", group("leave")) == Ok(None)
    assert await bench.do("a", group("first")) == Ok("b/1")
    await bench.kill("b/1")
    assert await bench.do("a", group("members")) == Ok([])
    assert await bench.do("a", group("first")) == Ok(None)


async def test_a_broadcast_reaches_all_but_the_caller_and_whom_it_cannot_reach() -> None:
    bench = Bench(mailbox_messages_max=1)

    class Refusing(Facet):
        def admit(self, envelope: Envelope) -> None:
            raise RateLimited("not now")

    for name in ("a", "b", "full"):
        await bench.puppet(name)
    picky = await bench.start("picky", facets=Facets((Refusing(),)))
    bench.host.groups.join(picky, "g")
    for name in ("full", "a", "b"):
        await bench.do(name, group("join"))
    asleep = bench.begin("full", call("clock", "sleep-ns", 2_000_000))
    await bench.settle()
    assert bench.cast(bench.actors["full"], "cast")
    assert await bench.do("a", group("broadcast", "note", '{"n": 1}')) == Ok(1)
    await asleep
    await bench.settle()
    assert bench.heard("b") == [("note", {"n": 1})]
    assert bench.heard("a") == []
    assert bench.heard("full") == [("cast", {})]
    _, kind, _, _, sender, _ = bench.puppets["b"].envelopes[-1]
    assert (kind, sender) == ("cast", "a")


async def test_a_broadcast_to_nobody_and_one_that_is_too_large() -> None:
    bench = Bench(payload_bytes_max=64)
    await bench.puppet("a")
    assert await bench.do("a", group("broadcast", "note", "{}")) == Ok(0)
    assert (await bench.do("a", group("broadcast", "note", '"' + "x" * 64 + '"'))).value[0] == "limit-exceeded"


@pytest.mark.parametrize(("name", "fits"), [("", False), ("x" * 256, True), ("x" * 257, False), ("ä" * 129, False)])
async def test_the_name_of_a_group_has_a_length(name: str, fits: bool) -> None:
    bench = Bench()
    await bench.puppet("a")
    answer = await bench.do("a", call("process-groups", "join", name))
    assert (answer == Ok(None)) if fits else (answer.value[0] == "invalid-argument")


# -- registry ------------------------------------------------------------------------------------------------


async def test_actors_are_found_by_all_that_is_asked_for() -> None:
    bench = Bench()
    await bench.puppet("a", labels={"tier": "gold"})
    await bench.puppet("w/1", capabilities=granted("messaging", "registry"))
    await bench.puppet("w/2", capabilities=granted("messaging"), labels={"tier": "silver", "zone": "eu"})
    assert await found(bench) == ["a", "w/1", "w/2"]
    assert await found(bench, actor_type="w") == ["w/1", "w/2"]
    assert await found(bench, capability="registry") == ["a", "w/1"]
    assert await found(bench, capability="telepathy") == []
    assert await found(bench, label="tier") == ["a", "w/2"]
    assert await found(bench, label="tier=silver") == ["w/2"]
    assert await found(bench, label="tier=") == []
    assert await found(bench, actor_type="w", label="tier=gold") == []
    assert await found(bench, actor_type="w", limit=1) == ["w/1"]
    assert (await bench.do("a", find(label="zone"))).value == [("w/2", "w", '{"tier":"silver","zone":"eu"}')]
    await bench.kill("w/2")
    assert await found(bench, actor_type="w") == ["w/1"]


async def test_another_scopes_actors_are_not_found() -> None:
    bench = Bench()
    await bench.puppet("a")
    for scope in (Scope("rival", "default"), Scope("acme", "other")):
        bench.registry.add(Actor(Address(scope, "b"), bench.spec(), lambda *_: None, started_ms=0))
    assert await found(bench) == ["a"]


@pytest.mark.parametrize(("limit", "entries"), [(0, 100), (1, 1), (100, 100), (101, 101), (1_000, 102)])
async def test_how_many_are_found(limit: int, entries: int) -> None:
    bench = Bench()
    await bench.puppet("a")
    for number in range(101):
        bench.registry.add(Actor(Address(SCOPE, "b", str(number)), bench.spec(), lambda *_: None, started_ms=0))
    assert len(await found(bench, limit=limit)) == entries
    assert (await bench.do("a", find(limit=1_001))).value[0] == "invalid-argument"


async def test_labels_are_set_changed_and_removed_and_end_with_the_incarnation() -> None:
    bench = Bench()
    first = await bench.puppet("a", labels={"tier": "gold"})
    assert await bench.do("a", label("zone", "eu")) == Ok(None)
    assert await bench.do("a", label("tier", "silver")) == Ok(None)
    assert await found(bench, label="zone=eu") == ["a"]
    assert await bench.do("a", label("zone", "")) == Ok(None)
    assert await bench.do("a", label("zone", "")) == Ok(None)
    assert first.labels == {"tier": "silver"}
    assert first.spec.labels == {"tier": "gold"}


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("n" * 256, "v" * 256, True),
        ("n" * 257, "v", False),
        ("n", "v" * 257, False),
        ("", "v", False),
        ("a=b", "v", False),
        ("n", "a=b", True),
    ],
)
async def test_a_label_has_a_form(name: str, value: str, fits: bool) -> None:
    bench = Bench()
    await bench.puppet("a")
    answer = await bench.do("a", label(name, value))
    assert (answer == Ok(None)) if fits else (answer.value[0] == "invalid-argument")
    assert await found(bench, label=f"{name}={value}") == (["a"] if fits else [])


@pytest.mark.parametrize("limit", [1, 3])
async def test_an_actor_has_as_many_labels_as_it_may(limit: int) -> None:
    bench = Bench(labels_per_actor_max=limit)
    await bench.puppet("a")
    for number in range(limit):
        assert await bench.do("a", label(str(number), "v")) == Ok(None)
    code, message, _ = (await bench.do("a", label("one more", "v"))).value
    assert code == "limit-exceeded"
    assert "labels_per_actor_max" in message
    assert await bench.do("a", label("0", "other")) == Ok(None)
    assert await bench.do("a", label("0", "")) == Ok(None)
    assert await bench.do("a", label("one more", "v")) == Ok(None)
