"""Capabilities on a real node: what is denied, how it is said, what is recorded of it, and what spawned actors get."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.deployment.status import ApplicationStatus
from plexspaces_runtime.errors import NotFound
from plexspaces_runtime.events import ActorExited, EverythingGranted, PermissionRefused
from tests.nodes import SCOPE, TestBed, running

pytestmark = pytest.mark.guest
Guest = Callable[[str], Path]
DURABLE = [{"type": "durability", "config": {"checkpoint_interval": 1_000}}]


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[TestBed]:
    async with running(tmp_path) as made:
        yield made


async def call(bed: TestBed, name: str, interface: str, function: str, *arguments: Any) -> Any:
    """What a prober's host call gave: the value, or the code of its error."""
    answer = await whole(bed, name, interface, function, *arguments)
    return answer["error"]["code"] if "error" in answer else answer["value"]


async def whole(bed: TestBed, name: str, interface: str, function: str, *arguments: Any) -> Any:
    return await bed.ask(name, "call", interface=interface, function=function, arguments=list(arguments))


def options(actor_type: str, key: str = "") -> dict[str, Any]:
    fields = {"actor_type": actor_type, "key": key, "args": "{}", "link": False, "monitor": False}
    return {"$record": "SpawnOptions", "fields": fields}


def query(capability: str) -> dict[str, Any]:
    return {"$record": "Query", "fields": {"actor_type": "", "capability": capability, "label": "", "limit": 0}}


async def deploy_tree(bed: TestBed, wasm: Path, *children: str, name: str = "claw") -> ApplicationStatus:
    """An application of probers; each child is the inside of an inline table."""
    listed = ", ".join(f'{{ actor_type = "code", {child} }}' for child in children)
    text = (
        f'[application]\nname = "{name}"\n[[components]]\nname = "code"\npath = "code.wasm"\n'
        f"[supervisor]\nchildren = [{listed}]\n"
    )
    config = appconfig.parse(text, facet_types=bed.node.facet_types)
    return await bed.node.deploy_application(SCOPE.tenant, config, {"code": wasm})


DENIED = "PERMISSION_DENIED"


async def test_without_a_word_an_actor_has_all_but_what_reaches_beyond_it(bed: TestBed, guest: Guest) -> None:
    await bed.deploy("p", guest("prober"))
    assert await call(bed, "p", "keyvalue", "put", "k", "1", None) is None
    assert await call(bed, "p", "streams", "append", "/a", "note", "1", "") == 1
    assert await call(bed, "p", "process_groups", "join", "g") is None
    assert await call(bed, "p", "lifecycle", "spawn", options("p", "1")) == DENIED
    assert await call(bed, "p", "registry", "set_label", "tier", "gold") == DENIED
    request = {"link": "llm", "method": "GET", "path": "/", "headers": "{}", "body": "", "body_base64": False}
    record = {"$record": "Request", "fields": {**request, "timeout_ms": 0}}
    assert await call(bed, "p", "http", "fetch", record) == DENIED
    await bed.deploy("s", guest("prober"), shared_keys=True)
    assert await call(bed, "s", "keyvalue", "get", "k") == DENIED
    assert {event.capability for event in bed.events(PermissionRefused)} == {
        "spawn",
        "registry:write",
        "http",
        "keyvalue:shared",
    }


async def test_what_is_granted_by_pattern_is_granted_for_those_names(bed: TestBed, guest: Guest) -> None:
    await bed.deploy(
        "p",
        guest("prober"),
        capabilities=[
            "streams:append:/audit/**",
            "streams:read:/sessions/*",
            "channels:tasks-*",
            "process-groups:svc:*",
            "blobs:reports/**",
            "locks:mine",
        ],
    )
    for allowed in [
        ("streams", "append", "/audit/a/b", "note", "1", ""),
        ("streams", "read", "/sessions/a", 0, 0),
        ("channels", "depth", "tasks-a"),
        ("process_groups", "members", "svc:a"),
        ("blobs", "list_blobs", "reports/", "", 0),
        ("blobs", "stat", "reports/may"),
        ("locks", "release", "mine", "id"),
        ("streams", "unsubscribe", "subscription-1"),
    ]:
        assert "value" in await whole(bed, "p", *allowed), allowed
    for refused in [
        ("streams", "append", "/sessions/a", "note", "1", ""),
        ("streams", "read", "/sessions/a/b", 0, 0),
        ("streams", "read", "/audit/a", 0, 0),
        ("streams", "subscribe", "/audit/a", 0, "op"),
        ("channels", "depth", "task"),
        ("process_groups", "broadcast", "svc", "op", "{}"),
        ("blobs", "list_blobs", "", "", 0),
        ("blobs", "delete", "secret"),
        ("locks", "acquire", "Mine", 1_000, 0),
        ("keyvalue", "get", "k"),
        ("timers", "send_after", 1, "op", "{}"),
    ]:
        assert (await whole(bed, "p", *refused))["error"]["code"] == DENIED, refused
    # A path that would have to be resolved first is none, whatever the patterns say.
    assert await call(bed, "p", "streams", "append", "/audit/../sessions/a", "note", "1", "") == "INVALID_ARGUMENT"
    assert await call(bed, "p", "streams", "append", "/audit//a", "note", "1", "") == "INVALID_ARGUMENT"


async def test_a_refusal_names_the_line_that_would_grant_it(bed: TestBed, guest: Guest) -> None:
    await deploy_tree(bed, guest("prober"), 'name = "agent", capabilities = ["messaging"]', 'name = "plain"')
    error = (await whole(bed, "agent", "streams", "append", "/a", "note", "1", ""))["error"]
    line = "capabilities = [..., \"streams:append:/a\"] of child 'agent' in application 'claw'"
    assert line in error["message"]
    assert orjson.loads(error["details"]) == {
        "capability": "streams:append:/a",
        "function": "streams.append",
        "name": "/a",
        "actor_type": "agent",
        "line": line,
    }
    (event,) = bed.events(PermissionRefused)
    assert (event.address.text, event.name, event.line) == ("agent", "/a", line)
    # One that was granted nothing in particular keeps what it has.
    error = (await whole(bed, "plain", "registry", "set_label", "a", "b"))["error"]
    assert 'capabilities = ["default", "registry:write"] of child \'plain\'' in error["message"]
    address = event.address
    assert bed.node.info(address).refused == {"streams:append:/a": 1}
    assert bed.node.info(address).capabilities == {"of child 'agent' in application 'claw'": ("messaging",)}


async def test_each_of_several_asks_is_refused(bed: TestBed, guest: Guest) -> None:
    await bed.deploy("p", guest("prober"), capabilities=["timers"])
    request = {"$record": "Request", "fields": {"to": "p", "op": "told", "payload": "{}"}}
    answers = (await whole(bed, "p", "messaging", "ask_many", [request, request], 0))["value"]
    assert [each["value"]["code"] for each in answers] == [DENIED, DENIED]


async def test_a_redeployment_grants_and_takes_away_while_actors_live(bed: TestBed, guest: Guest) -> None:
    wasm = guest("prober")
    await bed.deploy("p", wasm, capabilities=["messaging"])
    append = ("streams", "append", "/a", "note", "1", "")
    assert await call(bed, "p", *append) == DENIED
    assert await bed.ask("p", "note", n=1) == {"noted": 1}
    deployment = await bed.node.deploy(SCOPE, "p", wasm, {"capabilities": ["messaging", "streams:append:/a"]})
    assert await call(bed, "p", *append) == 1
    # It is the same actor, with its state.
    assert await bed.ask("p", "note", n=2) == {"noted": 2}
    assert deployment.capabilities.newly_granted == ("streams:append:/a",)
    deployment = await bed.node.deploy(SCOPE, "p", wasm, {"capabilities": ["messaging"]})
    assert await call(bed, "p", *append) == DENIED
    assert deployment.capabilities.no_longer_granted == ("streams:append:/a",)


async def test_everything_is_granted_with_a_warning_only(bed: TestBed, guest: Guest) -> None:
    await bed.deploy("p", guest("prober"), capabilities=["*"])
    assert await call(bed, "p", "registry", "set_label", "a", "b") is None
    assert [(event.scope, event.actor_type) for event in bed.events(EverythingGranted)] == [(SCOPE, "p")]


# -- spawned actors ------------------------------------------------------------------------------------------


async def test_a_spawned_actor_may_do_at_most_what_its_parent_may(bed: TestBed, guest: Guest) -> None:
    await deploy_tree(
        bed,
        guest("prober"),
        'name = "boss", capabilities = ["messaging", "spawn:w*", "streams:append:/a/**"]',
        'name = "w1", capabilities = ["messaging", "spawn", "streams:append:/a/b/*", "timers"]',
        'name = "w2", capabilities = ["*"]',
        'name = "x"',
    )
    assert await call(bed, "boss", "lifecycle", "spawn", options("x", "1")) == DENIED
    assert (await call(bed, "boss", "lifecycle", "spawn", options("w1", "1")))["actor_id"] == "w1/1"
    timer, append = ("timers", "send_after", 10_000, "note", "{}"), ("streams", "append")
    # Its type has it, its parent has not; the other way round; and both.
    assert "value" in await whole(bed, "w1", *timer)
    assert await call(bed, "w1/1", *timer) == DENIED
    assert await call(bed, "w1/1", *append, "/a/x", "note", "1", "") == DENIED
    assert await call(bed, "w1/1", *append, "/a/b/x", "note", "1", "") == 1
    # And so on: its type may spawn whatever there is, its parent only some.
    assert await call(bed, "w1/1", "lifecycle", "spawn", options("x", "1")) == DENIED
    assert (await call(bed, "w1/1", "lifecycle", "spawn", options("w2", "1")))["actor_id"] == "w2/1"
    assert "value" in await whole(bed, "w2", *timer)
    assert await call(bed, "w2/1", *timer) == DENIED
    assert await call(bed, "w2/1", *append, "/a/x", "note", "1", "") == DENIED
    assert await call(bed, "w2/1", *append, "/a/b/y", "note", "1", "") == 1
    refused = bed.events(PermissionRefused)[-1]
    assert refused.line.endswith("of child 'w1' in application 'claw'")


async def test_narrowing_outlives_a_restart_and_another_version(bed: TestBed, guest: Guest) -> None:
    wasm = guest("prober")
    boss, worker = 'name = "boss", capabilities = ["messaging", "spawn"]', 'name = "w", capabilities = ["*"]'
    inner = f'{{ strategy = "simple_one_for_one", children = [{{ actor_type = "code", {worker} }}] }}'
    text = (
        '[application]\nname = "claw"\n[[components]]\nname = "code"\npath = "code.wasm"\n[supervisor]\n'
        f'children = [{{ actor_type = "code", {boss} }}, {{ name = "pool", supervisor = {inner} }}]\n'
    )
    config = appconfig.parse(text)
    await bed.node.deploy_application(SCOPE.tenant, config, {"code": wasm})
    await call(bed, "boss", "lifecycle", "spawn", options("w", "1"))
    put = ("keyvalue", "put", "k", "1", None)
    assert await call(bed, "w/1", *put) == DENIED
    address = next(info.address for info in bed.node.actors(SCOPE.tenant) if info.address.text == "w/1")
    await bed.node.restart_actor(address)
    assert await call(bed, "w/1", *put) == DENIED
    changed = appconfig.parse(text.replace('["*"]', '["*", "default"], args = { n = 2 }'))
    await bed.node.deploy_application(SCOPE.tenant, changed, {"code": wasm})
    assert await call(bed, "w/1", *put) == DENIED
    await bed.node.stop_actor(address, kill=True)


async def test_a_virtual_actor_is_spawned_by_those_only_who_may_as_much(bed: TestBed, guest: Guest) -> None:
    """It comes back by being named, also after a restart of the node, and nothing would narrow it then."""
    virtual = 'facets = [{ type = "virtual_actor" }]'
    await deploy_tree(
        bed,
        guest("prober"),
        f'name = "v", capabilities = ["messaging", "timers"], {virtual}',
        'name = "less", capabilities = ["messaging", "spawn"]',
        'name = "more", capabilities = ["default", "spawn"]',
    )
    error = (await whole(bed, "less", "lifecycle", "spawn", options("v", "1")))["error"]
    assert error["code"] == DENIED
    assert "may not spawn actors of the virtual type 'v'" in error["message"]
    assert "value" in await whole(bed, "more", "lifecycle", "spawn", options("v", "2"))


async def test_after_a_restart_of_the_node_nobody_has_more(tmp_path: Path, guest: Guest) -> None:
    put = ("keyvalue", "put", "k", "1", None)
    async with running(tmp_path) as bed:
        await deploy_tree(
            bed,
            guest("prober"),
            'name = "boss", capabilities = ["messaging", "spawn"]',
            f'name = "w", capabilities = ["default"], facets = [{{ type = "{DURABLE[0]["type"]}" }}]',
        )
        await call(bed, "boss", "lifecycle", "spawn", options("w", "1"))
        assert await call(bed, "w/1", *put) == DENIED
    async with running(tmp_path) as bed:
        assert await call(bed, "boss", *put) == DENIED
        assert await call(bed, "w", *put) is None
        # What an actor has spawned does not come back by itself, so it cannot come back with more.
        assert "w/1" not in {info.address.text for info in bed.node.actors(SCOPE.tenant)}
        await call(bed, "boss", "lifecycle", "spawn", options("w", "1"))
        assert await call(bed, "w/1", *put) == DENIED


# -- durable actors ------------------------------------------------------------------------------------------


async def test_a_replay_agrees_although_the_grant_has_changed(tmp_path: Path, guest: Guest) -> None:
    append = {"interface": "streams", "function": "append", "arguments": ["/a", "note", "1", ""]}
    async with running(tmp_path) as bed:
        address = await bed.deploy("p", guest("prober"), capabilities=["messaging"], facets=DURABLE)
        payload = orjson.dumps(append).decode()
        denied = await bed.node.ask(address, "call", payload, timeout_s=60, message_id="first")
        assert DENIED in denied
        await bed.ask("p", "note", n=1)
    with closing(sqlite3.connect(tmp_path / "plexspaces.db")) as database, database:
        granted = {"capabilities": ["messaging", "streams"], "facets": DURABLE}
        assert database.execute("UPDATE deployments SET config = ?", (orjson.dumps(granted).decode(),)).rowcount == 1
    async with running(tmp_path) as bed:
        # It was made again from the journal, by calling the same and being told the same.
        assert await bed.ask("p", "note", n=2) == {"noted": 2}
        assert bed.events(ActorExited) == []
        assert bed.events(PermissionRefused) == []
        assert await bed.node.ask(address, "call", payload, timeout_s=60, message_id="first") == denied
        assert await bed.ask("p", "call", **append) == {"value": 1}
        assert len(bed.node.stores.streams.read(SCOPE, "/a", 0, 10)) == 1


# -- observing -----------------------------------------------------------------------------------------------


async def test_what_a_type_uses_is_observed_from_its_first_instruction(bed: TestBed, guest: Guest) -> None:
    wasm = guest("prober")
    bed.node.observe(SCOPE, "p", on=True)
    capabilities = ["default", "registry:write"]
    await bed.deploy("p", wasm, capabilities=capabilities)
    for number in range(5):
        await call(bed, "p", "streams", "append", f"/sessions/s{number}", "note", "1", "")
    await call(bed, "p", "lifecycle", "spawn", options("p", "1"))
    # Another version goes on being observed, and so does an actor that lives.
    await bed.deploy("p", wasm, capabilities=capabilities, args={"n": 2})
    await call(bed, "p", "registry", "set_label", "a", "b")
    await call(bed, "p", "locks", "acquire", "nightly", 1_000, 0)
    report = bed.node.grants(SCOPE, "p")
    assert report.line == 'capabilities = ["locks:nightly", "registry:write", "streams:append:/sessions/s*"]'
    assert report.calls == {"streams:append": 5, "registry:write": 1, "locks": 1}
    assert report.granted == ("default", "registry:write")
    # With just that it does just the same, and is still observed.
    await bed.deploy("p", wasm, capabilities=list(report.smallest))
    assert await call(bed, "p", "streams", "append", "/sessions/s9", "note", "1", "") == 1
    assert await call(bed, "p", "streams", "read", "/sessions/s9", 0, 0) == DENIED
    assert bed.node.grants(SCOPE, "p").refused == {"streams:read:/sessions/s9": 1}
    bed.node.observe(SCOPE, "p", on=False)
    assert await call(bed, "p", "locks", "release", "nightly", "id") is False
    assert bed.node.grants(SCOPE, "p").calls == {}
    with pytest.raises(NotFound):
        bed.node.grants(SCOPE, "nothing")


async def test_a_living_type_can_be_observed_too(bed: TestBed, guest: Guest) -> None:
    await bed.deploy("p", guest("prober"))
    await call(bed, "p", "keyvalue", "get", "before")
    bed.node.observe(SCOPE, "p", on=True)
    await call(bed, "p", "process_groups", "join", "g")
    assert bed.node.grants(SCOPE, "p").smallest == ("process-groups:g",)


# -- what is told of a version -------------------------------------------------------------------------------


async def test_a_deployment_tells_what_is_new(bed: TestBed, guest: Guest) -> None:
    first = await deploy_tree(bed, guest("prober"), 'name = "a"', 'name = "b", capabilities = ["default", "http:llm"]')
    assert first.capabilities["a"].newly_granted == ()
    assert first.capabilities["b"].newly_granted == ("http:llm",)
    second = await deploy_tree(bed, guest("prober"), 'name = "a", capabilities = ["messaging"]', 'name = "b"')
    assert "timers" in second.capabilities["a"].no_longer_granted
    assert second.capabilities["b"].no_longer_granted == ("http:llm",)
    assert second.capabilities["b"].newly_imports == ()


async def test_what_may_be_found_by_capability(bed: TestBed, guest: Guest) -> None:
    await bed.deploy("a", guest("prober"), capabilities=["registry", "http:llm"])
    await bed.deploy("b", guest("prober"))

    async def found(capability: str) -> list[str]:
        return [each["actor_id"] for each in await call(bed, "a", "registry", "find", query(capability))]

    assert await found("http") == ["a"]
    assert await found("streams") == ["b"]
    assert await found("spawn") == await found("telepathy") == []
