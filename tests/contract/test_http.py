"""The way out as an actor sees it: one suite through the SDK's `host`, on a real node and on the SDK's test node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from plexspaces import HostError
from plexspaces.errors import Unavailable
from plexspaces.testing import TestAnswer, TestNode, TestRequest
from plexspaces_runtime.config import EgressConfig, Limits, NodeConfig, default_cache_dir
from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.errors import PlexSpacesError
from plexspaces_runtime.node import Node
from tests.guests.fetcher import Errands, Fetcher, Payer
from tests.nodes import SCOPE, TestBed
from tests.services import Gives, Got, Service, serving

STREAMS = 2
TIMEOUT_S = 1.0
# What the service answers, by path: status, headers, body; or pieces with pauses, None where the connection breaks.
ANSWERS: dict[str, tuple[int, dict[str, str], Any]] = {
    "/hello": (200, {"X-Greeting": "yes"}, b"hello"),
    "/utf8": (200, {"Content-Type": "text/plain"}, "grüße \u2028 \U0001f680".encode()),
    "/bytes": (200, {}, bytes(range(256))),
    "/gone": (410, {}, b"no more"),
    "/fault": (500, {}, b"a fault"),
    "/nothing": (204, {}, b""),
    "/empty": (200, {}, b""),
    "/moved": (302, {"Location": "/hello"}, b"elsewhere"),
    "/pieces": (200, {"X-Live": "1"}, [b"one", 0.05, b"two", 0.05, b"three"]),
    "/split": (200, {}, [b"gr\xc3", 0.05, b"\xbc\xc3\x9fe \xf0\x9f", 0.05, b"\x9a", 0.05, b"\x80"]),
    "/cut": (200, {}, [b"ends \xf0\x9f"]),
    "/breaks": (200, {}, [b"one", 0.05, None]),
    "/never": (200, {}, [b"one", 60.0, b"two"]),
}
SLOW = {"/slow": 60.0}


class World(Protocol):
    """What the suite needs of a node with a link `api` to the service."""

    async def ask(self, op: str, actor: str = "fetcher", **arguments: Any) -> Any:
        """The reply; a failure is its code."""

    def requests(self) -> list[tuple[str, str, dict[str, str], bytes]]:
        """What the service got: method, path, headers, body."""

    async def run(self, steps: int, retries: int = 0) -> Any:
        """Run the errands."""

    def fail(self, path: str, times: int) -> None:
        """Let the service answer so many requests with 503."""


class Fake:
    """The SDK's test node."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.node = TestNode(limits={"http_streams_per_actor_max": STREAMS})
        self.node.spawn(Fetcher)
        self.node.spawn(Payer)
        self.node.spawn(Errands)
        self.links = [self.node.http(link, self.answer, timeout_s=TIMEOUT_S) for link in ("api", "bank")]

    def answer(self, request: TestRequest) -> TestAnswer:
        path = request.path.partition("?")[0]
        if fails(self.failing, path):
            return TestAnswer(status=503)
        status, headers, body = ANSWERS.get(path, (200, {}, echo(request.method, request.path, request.content)))
        delay_s = SLOW.get(path, 0.0)
        if isinstance(body, list):
            broken = Unavailable("the connection broke")
            pieces = [broken if piece is None else piece for piece in body]
            return TestAnswer(status=status, headers=headers, pieces=pieces, delay_s=delay_s)
        return TestAnswer(body or None, status, headers, delay_s)

    async def ask(self, op: str, actor: str = "fetcher", **arguments: Any) -> Any:
        try:
            return self.node.ask(actor, op, arguments)
        except HostError as error:
            return error.code

    def requests(self) -> list[tuple[str, str, dict[str, str], bytes]]:
        return [(r.method, r.path, r.headers, r.content) for link in self.links for r in link.requests]

    async def run(self, steps: int, retries: int = 0) -> Any:
        return self.node.actor("errands").run(steps=steps, retries=retries)

    def fail(self, path: str, times: int) -> None:
        self.failing[path] = times


class Real:
    """A node with sealed components, and a service on a socket."""

    def __init__(self, bed: TestBed, service: Service) -> None:
        self.bed = bed
        self.service = service

    async def ask(self, op: str, actor: str = "fetcher", **arguments: Any) -> Any:
        try:
            return await self.bed.ask(actor, op, **arguments)
        except PlexSpacesError as error:
            return error.code

    def requests(self) -> list[tuple[str, str, dict[str, str], bytes]]:
        return [(got.method, got.path, dict(got.headers), got.body) for got in self.service.requests]

    async def run(self, steps: int, retries: int = 0) -> Any:
        return await self.bed.ask("errands", "run", steps=steps, retries=retries)

    def fail(self, path: str, times: int) -> None:
        FAILING[path] = times


FAILING: dict[str, int] = {}


def fails(failing: dict[str, int], path: str) -> bool:
    """Whether this request is one that is to fail."""
    failing[path] = left = failing.get(path, 0) - 1
    return left >= 0


def echo(method: str, path: str, body: bytes) -> bytes:
    return json.dumps({"method": method, "path": path, "body": body.hex(), "receipt": path}).encode()


def answer(got: Got) -> Gives:
    path = got.path.partition("?")[0]
    if fails(FAILING, path):
        return Gives(status=503)
    status, headers, body = ANSWERS.get(path, (200, {}, echo(got.method, got.path, got.body)))
    if isinstance(body, list):
        return Gives(b"", status, headers, body, SLOW.get(path, 0.0))
    return Gives(body, status, headers, None, SLOW.get(path, 0.0))


CONFIG = """
[application]
name = "outside"
namespace = "NAMESPACE"

[[components]]
name = "code"
path = "code.wasm"

[links.api]
base_url = "URL"
allow = ["* /**"]
addresses = ["127.0.0.1"]
total_timeout_s = TIMEOUT
retries_max = 0
breaker_failures = 1000
[links.bank]
base_url = "URL"
allow = ["POST /pay/**"]
addresses = ["127.0.0.1"]
retries_max = 0

[supervisor]
children = [
  { name = "fetcher", actor_type = "code", role = "fetcher", capabilities = ["default", "http"] },
  { name = "payer", actor_type = "code", role = "payer", capabilities = ["default", "http:bank"] },
  { name = "errands", actor_type = "code", role = "errands", capabilities = ["default", "http:bank"] },
]
"""


@pytest.fixture(params=["fake", pytest.param("node", marks=pytest.mark.guest)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "fake":
        yield Fake()
        return
    wasm = request.getfixturevalue("guest")("fetcher")
    node = Node(
        NodeConfig(
            data_dir=tmp_path,
            cache_dir=default_cache_dir(),
            limits=Limits(http_streams_per_actor_max=STREAMS),
            egress=EgressConfig(permitted=("127.0.0.0/8",)),
        )
    )
    await node.start()
    try:
        async with serving(answer) as service:
            text = CONFIG.replace("NAMESPACE", SCOPE.namespace).replace("URL", service.url)
            config = appconfig.parse(text.replace("TIMEOUT", str(TIMEOUT_S)))
            await node.deploy_application(SCOPE.tenant, config, {"code": wasm})
            yield Real(TestBed(node), service)
    finally:
        await node.stop(grace_s=1.0)


async def fetch(world: World, path: str, **more: Any) -> Any:
    return await world.ask("fetch", link="api", path=path, **more)


# -- whole answers -----------------------------------------------------------------------------------------


async def test_answers_come_as_they_are(world: World) -> None:
    hello = await fetch(world, "/hello")
    assert (hello["status"], hello["text"], hello["headers"]["x-greeting"]) == (200, "hello", "yes")
    assert (await fetch(world, "/utf8"))["text"] == "grüße \u2028 \U0001f680"
    for path in ("/gone", "/fault", "/moved"):
        status, _, body = ANSWERS[path]
        told = await fetch(world, path)
        assert (told["status"], told["text"]) == (status, body.decode())
    assert [(await fetch(world, path))["size"] for path in ("/nothing", "/empty")] == [0, 0]
    binary = await fetch(world, "/bytes")
    assert (binary["size"], binary["hexadecimal"]) == (256, bytes(range(64)).hex())
    assert binary["text"] == bytes(range(256)).decode("utf-8", "replace")


async def test_requests_arrive_as_they_were_made(world: World) -> None:
    assert json.loads((await fetch(world, "/a/b?c=d&e", method="put", body="ü"))["text"]) == {
        "method": "PUT",
        "path": "/a/b?c=d&e",
        "body": "ü".encode().hex(),
        "receipt": "/a/b?c=d&e",
    }
    await fetch(world, "/json", method="POST", body={"n": [1, None]})
    await fetch(world, "/bytes", method="POST", hexadecimal="00ff80")
    await fetch(world, "/headers", headers={"X-One": "1", "Content-Type": "text/csv"})
    json_request, bytes_request, headers_request = world.requests()[-3:]
    assert json.loads(json_request[3]) == {"n": [1, None]}
    assert json_request[2]["content-type"] == "application/json"
    assert bytes_request[3] == bytes.fromhex("00ff80")
    assert (headers_request[2]["x-one"], headers_request[2]["content-type"]) == ("1", "text/csv")


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "no-slash"},
        {"path": ""},
        {"path": "/a", "method": "GE T"},
        {"path": "/a", "method": ""},
        {"path": "/a", "headers": {"x": "a\r\nb: c"}},
        {"path": "/a", "headers": {"x y": "a"}},
        {"path": "/a", "headers": {"": "a"}},
        {"path": "/a", "headers": {"x": 1}},
    ],
)
async def test_what_is_no_request_is_refused(world: World, wrong: dict[str, Any]) -> None:
    assert (await world.ask("fetch", link="api", **wrong))["code"] == "invalid-argument"
    assert world.requests() == []


async def test_a_link_that_is_none(world: World) -> None:
    refused = await world.ask("fetch", link="other", path="/")
    assert refused["code"] == "not-found"
    assert "other" in refused["message"]
    assert (await world.ask("open", name="a", link="other", path="/"))["code"] == "not-found"


async def test_time(world: World) -> None:
    assert (await fetch(world, "/slow"))["code"] == "deadline-exceeded"
    assert (await fetch(world, "/slow", timeout_ms=100))["code"] == "deadline-exceeded"
    assert (await fetch(world, "/never"))["code"] == "deadline-exceeded"
    assert (await fetch(world, "/hello", timeout_ms=900))["status"] == 200


async def test_a_connection_that_breaks(world: World) -> None:
    assert (await fetch(world, "/breaks"))["code"] == "unavailable"


async def test_too_large_a_request_does_not_leave(world: World) -> None:
    refused = await fetch(world, "/x", method="POST", size=(1 << 20) + 1)
    assert refused["code"] == "limit-exceeded"
    assert world.requests() == []
    assert (await fetch(world, "/hello", method="POST", size=1 << 20))["status"] == 200


# -- piece by piece ----------------------------------------------------------------------------------------


async def read_all(world: World, path: str, **more: Any) -> Any:
    return await world.ask("read_all", link="api", path=path, **more)


async def test_pieces_come_as_they_are_sent(world: World) -> None:
    told = await read_all(world, "/pieces")
    assert (told["pieces"], told["status"], told["headers"]["x-live"]) == (["one", "two", "three"], 200, "1")
    assert (await read_all(world, "/gone"))["status"] == 410
    assert (await read_all(world, "/empty"))["pieces"] == []


async def test_characters_are_not_split(world: World) -> None:
    pieces = (await read_all(world, "/split"))["pieces"]
    assert "".join(pieces) == "grüße \U0001f680"
    assert "\ufffd" not in "".join(pieces)
    assert "".join((await read_all(world, "/cut"))["pieces"]) == "ends \ufffd"


async def test_an_answer_that_breaks_in_the_middle(world: World) -> None:
    told = await read_all(world, "/breaks")
    assert (told["pieces"], told["code"]) == (["one"], "unavailable")


async def test_an_answer_that_never_ends(world: World) -> None:
    told = await read_all(world, "/never", timeout_ms=300)
    assert (told["pieces"], told["code"]) == (["one"], "deadline-exceeded")
    told = await read_all(world, "/never")
    assert (told["pieces"], told["code"]) == (["one"], "deadline-exceeded")


async def test_stopping_early_makes_room(world: World) -> None:
    for _ in range(STREAMS + 1):
        assert (await read_all(world, "/never", pieces_max=1))["pieces"] == ["one"]


async def test_answers_are_kept_between_messages_and_limited(world: World) -> None:
    for name in range(STREAMS):
        assert await world.ask("open", name=str(name), link="api", path="/pieces") == 200
    refused = await world.ask("open", name="more", link="api", path="/pieces")
    assert (refused["code"], refused["details"]["limit"]) == ("limit-exceeded", "http_streams_per_actor_max")
    assert [await world.ask("next", name=name) for name in ("0", "1", "0")] == ["one", "one", "two"]
    await world.ask("close", name="1")
    await world.ask("close", name="1")
    assert await world.ask("open", name="more", link="api", path="/pieces") == 200
    assert await world.ask("next", name="1") is None
    assert [await world.ask("next", name="0") for _ in range(2)] == ["three", None]


async def test_answers_end_with_their_actor(world: World) -> None:
    assert await world.ask("open", name="a", link="api", path="/never") == 200
    assert await world.ask("die") == "handler-crashed"
    for _ in range(500):
        # Its successor, once it is up.
        if isinstance(told := await world.ask("read_all", link="api", path="/pieces"), dict):
            break
        await asyncio.sleep(0.005)
    assert told["pieces"] == ["one", "two", "three"]


# -- durable -----------------------------------------------------------------------------------------------


async def test_only_durable_actors_have_keys_and_each_request_its_own(world: World) -> None:
    await fetch(world, "/hello", method="POST")
    assert await world.ask("pay", "payer", what="rent", times=2) == ["/pay/rent/0", "/pay/rent/1"]
    assert await world.ask("pay", "payer", what="rent") == ["/pay/rent/0", "/pay/rent/1", "/pay/rent/0"]
    assert await world.run(3) == [f"/pay/errands/{number}" for number in range(3)]
    keys = [headers.get("idempotency-key", "") for _, _, headers, _ in world.requests()]
    assert keys[0] == ""
    assert len(set(keys[1:])) == len(keys) - 1 == 6
    assert "" not in keys[1:]


async def test_another_attempt_at_a_step_has_the_same_key(world: World) -> None:
    world.fail("/pay/errands/1", 2)
    assert await world.run(3, retries=2) == [f"/pay/errands/{number}" for number in range(3)]
    keys: dict[str, set[str]] = {}
    for _, path, headers, _ in world.requests():
        keys.setdefault(path, set()).add(headers["idempotency-key"])
    assert len(world.requests()) == 5
    assert [len(each) for each in keys.values()] == [1, 1, 1]
    assert len(set.union(*keys.values())) == 3


async def test_an_actors_own_key_is_left_alone(world: World) -> None:
    for name in ("Idempotency-Key", "idempotency-key"):
        await world.ask("fetch", "payer", link="bank", path="/pay/x", method="POST", headers={name: "mine"})
    assert [headers["idempotency-key"] for _, _, headers, _ in world.requests()] == ["mine", "mine"]
