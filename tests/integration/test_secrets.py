"""Secrets and phantom tokens on a real node: what actors see, what leaves, what is kept, and what a restart changes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from plexspaces_runtime.cli.serving import make_doors
from plexspaces_runtime.config import EgressConfig, NodeConfig, SecretsConfig, default_cache_dir
from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.egress.keys import MasterKey
from plexspaces_runtime.errors import HandlerCrashed, InvalidArgument, NotFound, Unavailable
from plexspaces_runtime.events import CredentialRefused, SecretInRequest, SecretReflected
from plexspaces_runtime.node import Node
from plexspaces_runtime.scope import Address
from tests.nodes import SCOPE, TestBed
from tests.services import Gives, Got, Service, serving

pytestmark = pytest.mark.guest
LINKED = "sk-of-the-link-0123456789"
USERS = "ghp-of-a-user-9876543210"
CONFIG = """
[application]
name = "keepers"

[[components]]
name = "code"
path = "code.wasm"

[links.service]
base_url = "URL"
allow = ["POST /**"]
addresses = ["127.0.0.1"]
retries_max = 0
auth = { header = "X-Service-Key", value = "${secret:service}" }

[links.other]
base_url = "URL"
allow = ["POST /**"]
addresses = ["127.0.0.1"]
retries_max = 0

[supervisor]
children = [
  { name = "plain", actor_type = "code", role = "plain", capabilities = ["default", "http"] },
  { name = "durable", actor_type = "code", role = "durable", capabilities = ["default", "http"] },
  { name = "errand", actor_type = "code", role = "errand", capabilities = ["default", "http"] },
]
"""


def echo(got: Got) -> Gives:
    """Give everything back, whole or in small pieces."""
    said = json.dumps({"headers": dict(got.headers), "body": got.body.decode("latin-1")}).encode()
    shown = {"X-Echo": got.headers.get("authorization", "none")}
    if got.path == "/pieces":
        return Gives(headers=shown, pieces=[said[at : at + 7] for at in range(0, len(said), 7)])
    return Gives(said, 500 if got.path == "/fault" else 200, shown)


class World:
    def __init__(self, node: Node, service: Service, http: httpx.AsyncClient) -> None:
        self.bed = TestBed(node)
        self.node = node
        self.service = service
        self.http = http

    async def ask(self, actor: str, op: str, **arguments: Any) -> Any:
        return await self.bed.ask(actor, op, **arguments)


@pytest.fixture
def start(tmp_path: Path, guest: Callable[[str], Path]) -> Callable[..., Any]:
    """Starts a node on one data directory, the first time with the application."""

    @asynccontextmanager
    async def running(*, deploy: bool = True, secrets: SecretsConfig | None = None) -> AsyncIterator[World]:
        config = NodeConfig(
            data_dir=tmp_path / "data",
            cache_dir=default_cache_dir(),
            port=0,
            grpc_port=0,
            tenant=SCOPE.tenant,
            egress=EgressConfig(permitted=("127.0.0.0/8",)),
            secrets=secrets or SecretsConfig(),
        )
        node = Node(config)
        await node.start()
        doors = make_doors(node, config)
        await doors.start()
        token = doors.token_file.read_text().strip()
        try:
            async with (
                serving(echo) as service,
                httpx.AsyncClient(
                    base_url=f"http://127.0.0.1:{doors.http.port}",
                    headers={"authorization": f"Bearer {token}"},
                    timeout=60,
                ) as http,
            ):
                if deploy:
                    read = appconfig.parse(CONFIG.replace("URL", service.url))
                    await node.deploy_application(SCOPE.tenant, read, {"code": guest("keeper")})
                yield World(node, service, http)
        finally:
            await doors.stop(1.0)
            await node.stop(grace_s=1.0)

    return running


@pytest.fixture
async def world(start: Callable[..., Any]) -> AsyncIterator[World]:
    async with start() as running:
        yield running


def files(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


# -- the link's secret -------------------------------------------------------------------------------------


async def test_a_secret_is_set_used_replaced_and_removed_over_http(world: World) -> None:
    refused = await world.ask("plain", "fetch", path="/echo")
    assert refused["code"] == "not-found"
    assert "plexspaces secret set service" in refused["message"]
    assert (await world.http.get("/api/v1/secrets")).json() == {"secrets": []}

    put = await world.http.put("/api/v1/secrets/service", json={"value": LINKED})
    assert put.status_code == 201
    assert {**put.json(), "set_ms": 0} == {
        "name": "service", "version": 1, "set_ms": 0, "set_by": "local", "links": ["default/service"]
    }  # fmt: skip
    answer = await world.ask("plain", "fetch", path="/echo")
    assert world.service.requests[-1].headers["x-service-key"] == LINKED
    assert json.loads(answer["text"])["headers"]["x-service-key"] == "[secret service]"
    (reflected,) = world.bed.events(SecretReflected)
    assert (reflected.actor, reflected.link, reflected.names) == ("plain", "service", ("service",))

    again = await world.http.put("/api/v1/secrets/service", json={"value": "the-next-value"})
    assert (again.status_code, again.json()["version"]) == (200, 2)
    await world.ask("plain", "fetch", path="/echo")
    assert world.service.requests[-1].headers["x-service-key"] == "the-next-value"
    listed = await world.http.get("/api/v1/secrets")
    assert listed.json() == {"secrets": [again.json()]}
    assert (await world.http.get("/api/v1/secrets/service")).json() == again.json()

    assert (await world.http.delete("/api/v1/secrets/service")).status_code == 204
    assert (await world.http.delete("/api/v1/secrets/service")).status_code == 404
    assert (await world.http.get("/api/v1/secrets/service")).status_code == 404
    assert (await world.ask("plain", "fetch", path="/echo"))["code"] == "not-found"


async def test_bodies_that_are_no_secret(world: World) -> None:
    for body, status in (
        (b'{"value": "short"}', 400),
        (b'{"value": 12345678}', 400),
        (b'{"value": "a-good-value", "more": 1}', 400),
        (b'"a-good-value"', 400),
        (b"a-good-value", 400),
        (b'{"value": "a-good-value"', 400),
        (b'{"value": "' + b"x" * 70_000 + b'"}', 429),
        (b'{"value": "' + b"x" * 500_000 + b'"}', 413),
    ):
        headers = {"content-type": "application/json"}
        answer = await world.http.put("/api/v1/secrets/service", content=body, headers=headers)
        assert answer.status_code == status, answer.text
        assert "a-good-value" not in answer.text
        assert "xxxx" not in answer.text
    assert (await world.http.get("/api/v1/secrets")).json() == {"secrets": []}


# -- what an actor sees of a secret argument ----------------------------------------------------------------


@pytest.mark.parametrize("actor", ["plain", "durable"])
async def test_an_actor_sees_a_token_and_the_service_the_value(world: World, actor: str) -> None:
    await world.http.put("/api/v1/secrets/service", json={"value": LINKED})
    path = f"/api/v1/actors/acme/default/{actor}?wait=30"
    connected = await world.http.post(path, json={"op": "connect", "api_key": USERS, "token": "my-token"})
    told = connected.json()
    assert told["token"] == "my-token"
    assert told["seen"].startswith("phantom-")

    headers = {"Authorization": "Bearer my-token", "X-Other": "my-token"}
    answer = await world.ask(actor, "fetch", path="/echo", headers=headers, body="my-token")
    got = world.service.requests[-1]
    assert got.headers["authorization"] == f"Bearer {USERS}"
    assert got.headers["x-other"] == "my-token"
    assert got.body == b"my-token"
    said = json.loads(answer["text"])
    assert said["headers"]["authorization"] == "Bearer my-token"
    assert answer["headers"]["x-echo"] == "Bearer my-token"

    pieces = await world.ask(actor, "read", path="/pieces", headers=headers)
    assert json.loads(pieces["text"])["headers"]["authorization"] == "Bearer my-token"
    fault = await world.ask(actor, "fetch", path="/fault", headers=headers)
    assert (fault["status"], USERS in str(fault)) == (500, False)

    assert (await world.ask(actor, "forget", token="my-token")) is True
    await world.ask(actor, "fetch", path="/echo", headers=headers)
    assert world.service.requests[-1].headers["authorization"] == "Bearer my-token"


async def test_a_message_s_token_alone_is_worth_nothing(world: World) -> None:
    await world.http.put("/api/v1/secrets/service", json={"value": LINKED})
    token = (await world.ask("plain", "blab", api_key=USERS))["seen"][0]
    refused = await world.ask("plain", "fetch", path="/echo", headers={"Authorization": token})
    assert refused["code"] == "permission-denied"
    assert [(event.token, event.links) for event in world.bed.events(CredentialRefused)] == [(token, ())]
    await world.ask("plain", "connect", api_key=token, token="", links=["other"])
    sent = len(world.service.requests)
    assert (await world.ask("plain", "fetch", path="/echo", headers={"Authorization": token}))["code"] == (
        "permission-denied"
    )
    assert len(world.service.requests) == sent


async def test_credentials_for_links_that_are_not_there(world: World) -> None:
    told = await world.ask("plain", "connect", api_key=USERS, token="my-token", links=["service", "nowhere"])
    assert told["code"] == "not-found"
    assert "nowhere" in told["message"]
    assert (await world.ask("plain", "forget", token="my-token")) is False


async def test_a_request_that_holds_a_value_itself_goes_nowhere(world: World) -> None:
    await world.http.put("/api/v1/secrets/service", json={"value": LINKED})
    sent = len(world.service.requests)
    for arguments in ({"body": f"it is {LINKED}"}, {"headers": {"X-It": LINKED}}, {"path": f"/{LINKED}"}):
        told = await world.ask("plain", "fetch", **{"path": "/echo", **arguments})
        assert told["code"] == "permission-denied"
        assert "service" not in told["message"].replace("services", "")
    assert len(world.service.requests) == sent
    assert {event.names for event in world.bed.events(SecretInRequest)} == {("secret 'service'",)}


async def test_between_actors_and_nested(world: World) -> None:
    told = await world.ask("plain", "pass_on", to="durable", api_key=USERS)
    assert told["mine"] == told["theirs"], "what is a token already stays one"
    told = await world.ask("plain", "pass_on", to="durable", api_key=USERS, plain="a-value-of-the-actor")
    assert told["theirs"].startswith("phantom-")
    assert told["theirs"] != told["mine"]
    told = await world.ask("plain", "blab", api_key=USERS, login={"user": "ada", "password": "the-password"})
    key, _, password = told["seen"]
    assert password.startswith("phantom-")
    assert key.startswith("phantom-")
    assert password != key


async def test_secrets_that_are_none_are_refused_at_the_edge(world: World) -> None:
    for value in (12345678, "short", ["a-good-value"], {"x": "a-good-value"}):
        with pytest.raises(InvalidArgument) as caught:
            await world.ask("plain", "blab", api_key=value)
        assert "a-good-value" not in caught.value.message


async def test_a_crash_tells_the_token(world: World) -> None:
    with pytest.raises(HandlerCrashed, match=r"the key phantom-[0-9a-f]{40} is bad"):
        await world.ask("plain", "crash", api_key=USERS)


async def test_a_workflow_is_given_a_key(world: World) -> None:
    await world.http.put("/api/v1/secrets/service", json={"value": LINKED})
    answer = await world.http.post("/api/v1/workflows/errand/one?wait=30", json={"api_key": USERS})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    told = told.get("result", told)
    assert told["seen"].startswith("phantom-")
    assert world.service.requests[-1].headers["authorization"] == f"Bearer {USERS}"
    assert USERS not in answer.text


async def test_a_request_with_a_key_is_the_same_when_it_comes_again(world: World) -> None:
    """The answer to the first is found again, and what is recorded of the request says nothing of the secret."""
    path = "/api/v1/actors/acme/default/durable?wait=30"
    headers = {"idempotency-key": "once"}
    first = await world.http.post(path, json={"op": "blab", "api_key": USERS}, headers=headers)
    again = await world.http.post(path, json={"op": "blab", "api_key": USERS}, headers=headers)
    assert again.headers["idempotency-replayed"] == "true"
    assert first.json() == again.json()
    other = await world.http.post(path, json={"op": "blab", "api_key": "another-value"}, headers=headers)
    assert other.status_code == 422
    assert len(await world.ask("durable", "get")) == 1


# -- restarts ----------------------------------------------------------------------------------------------


async def test_secrets_and_tokens_survive_and_nothing_of_them_is_on_the_disk(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    async with start() as world:
        await world.http.put("/api/v1/secrets/service", json={"value": LINKED})
        told = await world.ask("durable", "connect", api_key=USERS, token="")
        await world.ask("durable", "connect_plainly", value="a-value-in-the-open", token="plain-token")
        held = (await world.ask("durable", "blab", api_key="held-for-an-hour"))["seen"][0]
        await world.ask("durable", "fetch", path="/echo", headers={"Authorization": told["token"]})
        url = world.service.url
    async with start(deploy=False) as world:
        assert world.node.vault.reveal("acme", "service") == LINKED
        for token, value in (
            (told["token"], USERS),
            ("plain-token", "a-value-in-the-open"),
            (held, "held-for-an-hour"),
        ):
            known = world.node.vault.stands_for(SCOPE, token)
            assert known is not None
            assert known.value == value
        # What the actor recorded is given to it again.
        assert len(await world.ask("durable", "get")) == 2
        assert world.service.url != url
    on_disk = files(tmp_path / "data")
    for value in (LINKED, USERS, "held-for-an-hour"):
        assert value.encode() not in on_disk
    # The actor was told this one as it is; but the record of its call holds a token.
    with sqlite3.connect(tmp_path / "data" / "plexspaces.db") as database:
        calls = [
            json.loads(body)
            for (body,) in database.execute("SELECT body FROM journal WHERE kind = 'effect'")
            if "register-credential" in body
        ]
    assert len(calls) == 2
    assert "a-value-in-the-open" not in str(calls)
    assert "plain-token" in str(calls)


async def test_the_master_key_is_replaced_while_the_node_runs(start: Callable[..., Any], tmp_path: Path) -> None:
    key_file = tmp_path / "data" / "keys" / "secrets.key"
    async with start() as world:
        await world.http.put("/api/v1/secrets/service", json={"value": LINKED})
        before = key_file.read_bytes()
        rotated = await world.http.post("/api/v1/secret-key/rotate")
        assert rotated.status_code == 200
        assert key_file.read_bytes() != before
        assert MasterKey.parse(key_file.read_text(), "it").fingerprint == rotated.json()["fingerprint"]
        await world.ask("plain", "fetch", path="/echo")
        assert world.service.requests[-1].headers["x-service-key"] == LINKED
    key_file.rename(key_file.with_name("away"))
    with pytest.raises(Unavailable, match=r"secrets.key is not there: restore that key file"):
        async with start(deploy=False):
            pass
    key_file.write_bytes(before)
    key_file.chmod(0o600)
    with pytest.raises(Unavailable, match=r"secrets.key holds another"):
        async with start(deploy=False):
            pass
    key_file.with_name("away").rename(key_file)
    # Over to the environment, and to another key there.
    one, two = MasterKey(b"1" * 32), MasterKey(b"2" * 32)
    async with start(deploy=False, secrets=SecretsConfig(key=one.text().decode())) as world:
        assert (await world.http.post("/api/v1/secret-key/rotate")).status_code == 409
    key_file.unlink()
    goes_over = SecretsConfig(key=two.text().decode(), previous_key=one.text().decode())
    async with start(deploy=False, secrets=goes_over):
        pass
    async with start(deploy=False, secrets=SecretsConfig(key=two.text().decode())) as world:
        assert world.node.vault.reveal("acme", "service") == LINKED


async def test_tokens_for_namespaces_and_other_tenants(world: World) -> None:
    await world.http.put("/api/v1/secrets/service", json={"value": LINKED})
    stranger = Address(SCOPE, "plain")
    assert world.node.secret_users("globex") == {}
    with pytest.raises(NotFound):
        world.node.vault.reveal("globex", "service")
    assert stranger.scope == SCOPE
