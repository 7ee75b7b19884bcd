"""Links of a real node: they come and go with their application, and what goes through them ends with its actor."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.config import EgressConfig, LinkTable, NodeConfig, default_cache_dir
from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.errors import AlreadyExists, DeadlineExceeded, HandlerCrashed, PlexSpacesError
from plexspaces_runtime.events import ActorStarted
from plexspaces_runtime.node import Node
from plexspaces_runtime.scope import Address, Scope
from tests.nodes import SCOPE, TestBed
from tests.services import Gives, Got, Service, serving

pytestmark = pytest.mark.guest
LOCAL = EgressConfig(permitted=("127.0.0.0/8",))
CONFIG = """
[application]
name = "NAME"

[[components]]
name = "code"
path = "code.wasm"

LINKS
[supervisor]
children = [
  { name = "NAME-payer", actor_type = "code", role = "payer", capabilities = ["default", "http:*"] },
  { name = "NAME-fetcher", actor_type = "code", role = "fetcher", capabilities = CAPABILITIES },
  { name = "NAME-errands", actor_type = "code", role = "errands", capabilities = ["default", "http:bank"] },
]
"""


def link(service: Service, name: str = "bank", more: str = "") -> str:
    return (
        f'[links.{name}]\nbase_url = "{service.url}"\nallow = ["* /**"]\naddresses = ["127.0.0.1"]\n'
        f"retries_max = 0\n{more}\n"
    )


@asynccontextmanager
async def running(folder: Path, **config: Any) -> AsyncIterator[TestBed]:
    node = Node(NodeConfig(data_dir=folder, cache_dir=default_cache_dir(), **{"egress": LOCAL, **config}))
    await node.start()
    try:
        yield TestBed(node)
    finally:
        await node.stop(grace_s=0.0)


async def deploy(
    bed: TestBed,
    wasm: Path,
    *links: str,
    name: str = "a",
    capabilities: str = '["default", "http:*"]',
    role: str = "fetcher",
) -> tuple[str, ...]:
    """Deploy the application; what has changed."""
    text = CONFIG.replace('role = "fetcher"', f'role = "{role}"').replace("NAME", name)
    text = text.replace("LINKS", "\n".join(links)).replace("CAPABILITIES", capabilities)
    status = await bed.node.deploy_application(SCOPE.tenant, appconfig.parse(text), {"code": wasm})
    return tuple(status.changes)


async def fetch(bed: TestBed, path: str, *, link: str = "bank", actor: str = "a-fetcher", **more: Any) -> Any:
    return await bed.ask(actor, "fetch", link=link, path=path, **more)


def says(text: str) -> Callable[[Got], Gives]:
    return lambda _got: Gives(json.dumps({"receipt": text}).encode())


async def test_links_come_change_and_go_with_their_application(guest: Callable[[str], Path], tmp_path: Path) -> None:
    wasm = guest("fetcher")
    async with serving(says("one")) as one, serving(says("two")) as two, running(tmp_path) as bed:
        await deploy(bed, wasm, link(one), link(one, "other"))
        assert await bed.ask("a-payer", "pay", what="rent") == ["one"]
        changes = await deploy(bed, wasm, link(two), link(one, "third"))
        assert changes == ("removed link other", "added link third", "changed link bank")
        # The actors have run on: nothing was started again.
        assert [event.restarts for event in bed.events(ActorStarted)] == [0, 0]
        assert await bed.ask("a-payer", "pay", what="rent") == ["one", "two"]
        assert (await fetch(bed, "/", link="other"))["code"] == "not-found"
        assert await deploy(bed, wasm, link(two), link(one, "third")) == ()
        # A namespace has one link of a name, and what is refused changes nothing.
        with pytest.raises(AlreadyExists, match="bank"):
            await deploy(bed, wasm, link(one), name="b")
        assert (await fetch(bed, "/"))["status"] == 200
        with pytest.raises(PlexSpacesError, match="nobody"):
            await deploy(bed, wasm, link(one), role="nobody")
        assert json.loads((await fetch(bed, "/"))["text"])["receipt"] == "two"
        # When it goes, so do its links: another may have the name.
        await bed.node.undeploy_application(SCOPE.tenant, "a")
        assert bed.node.links(SCOPE.tenant) == []
        await deploy(bed, wasm, link(one), name="b")
        assert json.loads((await fetch(bed, "/", actor="b-fetcher"))["text"])["receipt"] == "one"


async def test_links_come_back_with_the_node(guest: Callable[[str], Path], tmp_path: Path) -> None:
    async with serving(says("paid")) as service:
        async with running(tmp_path) as bed:
            await deploy(bed, guest("fetcher"), link(service))
            assert await bed.ask("a-payer", "pay", what="rent") == ["paid"]
        async with running(tmp_path) as bed:
            assert await bed.ask("a-payer", "pay", what="rent") == ["paid", "paid"]
            (state,) = bed.node.links(SCOPE.tenant)
            assert (state.link.name, state.namespace, state.breaker) == ("bank", "default", "closed")
            assert (state.requests, state.failures, state.under_way) == (1, 0, 0)
        assert len(service.requests) == 2


async def test_a_link_of_the_nodes_is_for_the_tenants_it_names(guest: Callable[[str], Path], tmp_path: Path) -> None:
    async with serving(says("shared")) as service:
        table: Mapping[str, Any] = {"base_url": service.url, "allow": ["GET /"], "addresses": ["127.0.0.1"]}
        links = {
            "ours": LinkTable({**table, "tenants": ["acme"]}, {"": "node.toml:1"}),
            "theirs": LinkTable({**table, "tenants": ["rival"]}, {"": "node.toml:5"}),
        }
        async with running(tmp_path, links=links) as bed:
            await deploy(bed, guest("fetcher"))
            assert (await fetch(bed, "/", link="ours"))["status"] == 200
            assert (await fetch(bed, "/", link="theirs"))["code"] == "permission-denied"
            assert [state.link.name for state in bed.node.links("acme")] == ["ours"]
            # An application's own wins.
            await deploy(bed, guest("fetcher"), link(service, "theirs"))
            assert (await fetch(bed, "/", link="theirs"))["status"] == 200


async def test_private_addresses_take_two_keys(guest: Callable[[str], Path], tmp_path: Path) -> None:
    async with serving(says("secret")) as service:
        async with running(tmp_path, egress=EgressConfig()) as bed:
            # The application has named the range; the operator has not permitted it.
            await deploy(bed, guest("fetcher"), link(service))
            refused = await fetch(bed, "/")
            assert refused["code"] == "permission-denied"
            assert "egress.permitted" in refused["message"]
        assert service.requests == []
        # And the other way round, the configuration is not even taken.
        with pytest.raises(PlexSpacesError, match="addresses"):
            appconfig.parse(
                CONFIG.replace("LINKS", link(service).replace("addresses", "#")).replace("CAPABILITIES", "[]")
            )


async def test_an_actor_needs_the_capability_and_the_links_leave(guest: Callable[[str], Path], tmp_path: Path) -> None:
    async with serving(says("hello")) as service, running(tmp_path) as bed:
        mine = link(service, more='actors = ["a-fetcher"]')
        await deploy(bed, guest("fetcher"), mine, capabilities='["default"]')
        refused = await fetch(bed, "/")
        assert refused["code"] == "permission-denied"
        assert "http:bank" in refused["message"] + json.dumps(refused["details"])
        await deploy(bed, guest("fetcher"), mine, capabilities='["default", "http:bank"]')
        assert (await fetch(bed, "/"))["status"] == 200
        # The capability it has; the link is not for it.
        refused = await fetch(bed, "/", actor="a-payer")
        assert refused["code"] == "permission-denied"
        assert len(service.requests) == 1


@pytest.mark.parametrize("op", ["fetch", "read_all"])
async def test_a_request_ends_with_its_actor(guest: Callable[[str], Path], tmp_path: Path, op: str) -> None:
    slow = Gives(pieces=[b"one", 60.0])
    async with serving(lambda _got: slow) as service, running(tmp_path) as bed:
        await deploy(bed, guest("fetcher"), link(service))
        asking = asyncio.ensure_future(bed.ask("a-fetcher", op, link="bank", path="/"))
        await bed.until(lambda: len(service.requests) == 1)
        await bed.node.stop_actor(Address(SCOPE, "a-fetcher"), kill=True)
        with pytest.raises(PlexSpacesError):
            await asking
        await bed.until(lambda: service.open == 0)


async def test_a_request_ends_with_the_callers_time(guest: Callable[[str], Path], tmp_path: Path) -> None:
    async with serving(lambda _got: Gives(delay_s=60.0)) as service, running(tmp_path) as bed:
        await deploy(bed, guest("fetcher"), link(service))
        # The actor may still answer in time that it was too late.
        with contextlib.suppress(DeadlineExceeded):
            told = await bed.ask("a-fetcher", "fetch", link="bank", path="/", timeout_s=0.2)
            assert told["code"] == "deadline-exceeded"
        await bed.until(lambda: service.open == 0)


async def test_an_answer_that_a_restart_cuts_off_is_told_so(guest: Callable[[str], Path], tmp_path: Path) -> None:
    arguments = json.dumps({"link": "bank", "path": "/talk"})
    payer = Address(Scope(SCOPE.tenant, "default"), "a-payer")
    async with serving(lambda _got: Gives(pieces=[b"one", 0.05, b"two", 60.0])) as service:
        async with running(tmp_path) as bed:
            await deploy(bed, guest("fetcher"), link(service))
            asking = asyncio.ensure_future(bed.node.ask(payer, "read_all", arguments, message_id="k-1"))
            await bed.until(lambda: _pieces(bed, payer) == 2)
            await bed.node.stop(grace_s=0.0)
            with pytest.raises((HandlerCrashed, PlexSpacesError)):
                await asking
            await bed.until(lambda: service.open == 0)
        for _ in range(2):
            # The message goes on, and the second time its recorded reply is given.
            async with running(tmp_path) as bed:
                told = json.loads(await bed.node.ask(payer, "read_all", arguments, message_id="k-1"))
                assert (told["pieces"], told["code"]) == (["one", "two"], "unavailable")
        assert len(service.requests) == 1


def _pieces(bed: TestBed, address: Address) -> int:
    """How many pieces are in the actor's journal."""
    row = bed.node.stores.journal.find(address)
    if row is None:
        return 0
    entries = bed.node.stores.journal.entries(row.id, 0)
    return sum(entry.kind == "effect" and '"http.read-chunk"' in entry.body for entry in entries)


def test_a_node_with_a_wrong_link_does_not_start(tmp_path: Path) -> None:
    config = NodeConfig(data_dir=tmp_path, cache_dir=tmp_path)
    with pytest.raises(PlexSpacesError, match=r"node\.toml:3: links\.x: a link needs 'base_url'"):
        Node(replace(config, links={"x": LinkTable({"allow": ["GET /"]}, {"": "node.toml:3"})}))
