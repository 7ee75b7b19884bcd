"""Roles and scopes of a token, from the edge to whatever its messages cause, on a real node with real wasm."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from plexspaces_runtime.actors.envelope import Kind
from plexspaces_runtime.api.auth import Authenticator, LocalAuthority
from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.api.server import HttpServer
from plexspaces_runtime.config import Limits, NodeConfig, default_cache_dir
from plexspaces_runtime.errors import InvalidArgument, PermissionDenied
from plexspaces_runtime.events import CallerRefused, EffectCaused
from plexspaces_runtime.node import Node
from plexspaces_runtime.scope import Address, Caller
from tests.nodes import SCOPE, TestBed, running

pytestmark = pytest.mark.guest

Guest = Callable[[str], Path]
ROLES = ("vault", "safe", "agent", "relay", "errand", "guarded")
KEEPER = Caller("kay", frozenset({"keeper"}))
SCOPED = Caller("sue", scopes=frozenset({"vault:open"}))
VISITOR = Caller("vic", frozenset({"visitor"}))


async def deploy(bed: TestBed, wasm: Path, *roles: str, **config: Any) -> None:
    for role in roles:
        own = {"capabilities": ["*"]} if role in ("agent", "relay") else {}
        await bed.deploy(role, wasm, role=role, **own, **config)


async def ask(bed: TestBed, caller: Caller | None, to: str, op: str, /, **arguments: Any) -> Any:
    address = Address.parse(SCOPE, to)
    return json.loads(await bed.node.ask(address, op, json.dumps(arguments), caller=caller, timeout_s=60))


async def opened(bed: TestBed, vault: str = "vault") -> list[Any]:
    found = await bed.ask(vault, "opened")
    assert isinstance(found, list)
    return found


async def test_the_node_asks_before_the_guest_is_entered(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await deploy(bed, guest("guarded"), "vault")
        for caller in (VISITOR, None):
            with pytest.raises(PermissionDenied) as refused:
                await ask(bed, caller, "vault", "open")
            assert refused.value.details["roles"] == ["keeper"]
            assert refused.value.details["scopes"] == ["vault:open"]
            with pytest.raises(PermissionDenied):
                await bed.node.tell(Address.parse(SCOPE, "vault"), "open", "{}", caller=caller)
        before = bed.node.info(Address.parse(SCOPE, "vault")).messages_handled
        assert before == 0
        assert await ask(bed, KEEPER, "vault", "open") == "open"
        assert await ask(bed, SCOPED, "vault", "open") == "open"
        assert [who for _, who in await opened(bed)] == ["kay", "sue"]
        refusals = bed.events(CallerRefused)
        assert [(each.subject, each.operation, each.sender) for each in refusals] == [
            ("vic", "open", ""),
            ("vic", "open", ""),
            ("", "open", ""),
            ("", "open", ""),
        ]


@pytest.mark.parametrize("way", ["ask", "through", "send", "timer", "spawn", "stream", "channel"])
async def test_a_role_travels_with_whatever_a_message_causes(guest: Guest, tmp_path: Path, way: str) -> None:
    """And the want of it does: an agent lends nobody what he has not, nor what another has."""
    async with running(tmp_path) as bed:
        await deploy(bed, guest("guarded"), "vault", "agent", "relay")

        async def use(caller: Caller) -> None:
            await ask(bed, caller, "agent", "use", way=way)

        if way in ("ask", "through", "send"):
            with pytest.raises(Exception, match="needs the role 'keeper'"):
                await use(VISITOR)
            await use(KEEPER)
            await bed.until(lambda: bed.node.info(Address.parse(SCOPE, "vault")).messages_handled == 1)
        else:
            # One subscription each, so that what is told is told on behalf of its own subscriber.
            await use(VISITOR)
            await bed.until(lambda: bool(bed.events(CallerRefused)))
            for role in ("agent", "relay"):
                await bed.node.undeploy(SCOPE, role)
            await deploy(bed, guest("guarded"), "agent")
            await use(KEEPER)
            await bed.until(lambda: bed.node.info(Address.parse(SCOPE, "vault")).messages_handled >= 1)
        how = "ask" if way == "through" else way
        # A stream still holds what the visitor wrote; the keeper's subscription reads that, too.
        assert {tuple(each) for each in await opened(bed)} == {(how, "kay")}
        refusal = bed.events(CallerRefused)[0]
        assert refusal.subject == "vic"
        assert refusal.sender.split("/")[0] == ("relay" if way == "through" else "agent")
        assert refusal.causation_id


async def test_a_durable_message_keeps_its_caller_when_it_is_replayed(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await deploy(bed, guest("guarded"), "safe", "agent")
        await ask(bed, SCOPED, "agent", "use", way="timer", to="safe")
        await ask(bed, KEEPER, "agent", "use", way="send", to="safe")
        await bed.until(lambda: bool(bed.events(CallerRefused)))
    async with running(tmp_path) as bed:
        await ask(bed, KEEPER, "agent", "use", way="timer", to="safe")
        await bed.until(lambda: bed.node.info(Address.parse(SCOPE, "safe")).messages_handled >= 1)
        assert await opened(bed, "safe") == [["send", "kay"], ["timer", "kay"]]
        assert await bed.ask("agent", "heard") == [["timer", "refused", "sue"], ["timer", "in", "kay"]]


async def test_a_run_acts_for_who_started_it_whoever_signals_it_and_after_a_restart(
    guest: Guest, tmp_path: Path
) -> None:
    async with running(tmp_path) as bed:
        await deploy(bed, guest("guarded"), "vault", "errand")
        for key, caller in (("mine", KEEPER), ("theirs", VISITOR)):
            run = Address.parse(SCOPE, f"errand/{key}")
            await bed.node.tell(run, "run", '{"to": "vault"}', caller=caller, kind=Kind.RUN)
            await bed.until(lambda run=run: bed.node.waits_for(run) != "")  # type: ignore[misc]
    async with running(tmp_path) as bed:
        outcomes = {}
        for key, caller in (("mine", VISITOR), ("theirs", KEEPER)):
            run = Address.parse(SCOPE, f"errand/{key}")
            await bed.until(lambda run=run: bed.node.waits_for(run) != "")  # type: ignore[misc]
            await bed.node.tell(run, "go", "{}", caller=caller, kind=Kind.SIGNAL)
            try:
                outcomes[key] = await bed.node.ask(run, "run", '{"to": "vault"}', timeout_s=60, kind=Kind.RUN)
            except Exception as error:
                outcomes[key] = str(error)
        assert outcomes["mine"] == '"open"'
        assert "needs the role 'keeper'" in outcomes["theirs"]
        assert await opened(bed) == [["errand", "kay"]]


async def test_a_workflows_run_and_signals_ask_for_roles_of_their_own(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await deploy(bed, guest("guarded"), "guarded")
        run = Address.parse(SCOPE, "guarded/1")
        with pytest.raises(PermissionDenied):
            await bed.node.ask(run, "run", "{}", caller=KEEPER, timeout_s=60, kind=Kind.RUN)
        with pytest.raises(PermissionDenied):
            await bed.node.tell(run, "hurry", "{}", caller=KEEPER, kind=Kind.SIGNAL)
        starter = Caller("stan", frozenset({"starter", "boss"}))
        assert await bed.node.ask(run, "run", "{}", caller=starter, timeout_s=60, kind=Kind.RUN) == '"ran"'


async def test_the_operator_asks_for_more_and_a_new_deployment_asks_at_once_and_loses_nothing(
    guest: Guest, tmp_path: Path
) -> None:
    async with running(tmp_path) as bed:
        await deploy(bed, guest("guarded"), "vault")
        assert await ask(bed, KEEPER, "vault", "open") == "open"
        await deploy(bed, guest("guarded"), "vault", authorise={"*": ["staff"], "opened": []})
        with pytest.raises(PermissionDenied, match="'staff' \\(`authorise` of its deployment says so\\)"):
            await ask(bed, KEEPER, "vault", "open")
        staff = Caller("stu", frozenset({"staff"}))
        with pytest.raises(PermissionDenied, match="its handler says so"):
            await ask(bed, staff, "vault", "open")
        both = Caller("kay", frozenset({"staff", "keeper"}))
        assert await ask(bed, both, "vault", "open") == "open"
        assert len(await ask(bed, None, "vault", "opened")) == 2
        with pytest.raises(InvalidArgument, match="authorise"):
            await deploy(bed, guest("guarded"), "vault", authorise={"open": "staff"})
    async with running(tmp_path) as bed:
        with pytest.raises(PermissionDenied):
            await ask(bed, KEEPER, "vault", "open")


@asynccontextmanager
async def audited(tmp_path: Path) -> AsyncIterator[tuple[TestBed, HttpServer, LocalAuthority]]:
    """A node that tells of each effect, and its edge."""
    node = Node(NodeConfig(data_dir=tmp_path, cache_dir=default_cache_dir(), limits=Limits(), audit="effects"))
    await node.start()
    authority = LocalAuthority(b"k" * 32, node.clock)
    server = HttpServer(
        node, Authenticator(authority, None, clock=node.clock), HttpConfig(port=0), stores=node.stores
    )
    await server.start()
    try:
        yield TestBed(node), server, authority
    finally:
        await server.stop(1.0)
        await node.stop(grace_s=1.0)


async def test_every_effect_leads_back_to_who_caused_it(guest: Guest, tmp_path: Path) -> None:
    """From a token through HTTP, one actor and another, to a key and a stream; and from those back."""
    async with audited(tmp_path) as (bed, server, authority):
        await deploy(bed, guest("guarded"), "agent", "relay")
        token = authority.mint(SCOPE.tenant, "olga", ["operator"], 3600)
        http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{server.port}", headers={"authorization": f"Bearer {token}"}
        )
        async with http:
            answer = await http.post(
                "/api/v1/actors/acme/default/agent?wait=60", json={"op": "leave", "to": "relay"}
            )
            assert answer.status_code == 200, answer.text
            journal = await http.get("/api/v1/journals/acme/default/relay")
        effects = {(each.interface, each.function, each.name): each for each in bed.events(EffectCaused)}
        asked, put = effects["messaging", "ask", "relay"], effects["keyvalue", "put", "order"]
        appended = effects["streams", "append", "/audit"]
        assert {each.subject for each in effects.values()} == {"olga"}
        assert (asked.address.text, put.address.text, appended.address.text) == ("agent", "relay", "relay")
        # The chain, from the end to the beginning.
        assert put.message_id == appended.message_id != asked.message_id
        assert put.causation_id == asked.message_id
        assert asked.causation_id == ""
        told = next(each for each in journal.json()["history"] if each["what"] == "message" and each["op"] == "leave")
        assert (told["id"], told["cause"], told["subject"]) == (put.message_id, asked.message_id, "olga")


async def test_a_node_that_is_not_told_to_audit_tells_of_no_effect(guest: Guest, tmp_path: Path) -> None:
    async with running(tmp_path) as bed:
        await deploy(bed, guest("guarded"), "agent")
        await ask(bed, KEEPER, "agent", "leave")
        assert bed.events(EffectCaused) == []
