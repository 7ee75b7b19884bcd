"""The gRPC door over real sockets: the same answers as HTTP, who gets in, deadlines, streams, uploads, limits, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped,unused-ignore]
import orjson
import pytest
import uvloop
from cryptography.hazmat.primitives.serialization import Encoding
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped,unused-ignore]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped,unused-ignore]

from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.api.grpc.config import GrpcConfig
from plexspaces_runtime.api.grpc.server import GrpcServer
from plexspaces_runtime.api.tls import Certificates
from plexspaces_runtime.clock import SystemClock
from plexspaces_runtime.config import Limits, TlsConfig
from plexspaces_runtime.events import ClientCertified, ClientRefused, Event
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores.channels import Delivery
from tests.certificates import Authority, Signed
from tests.unit.api.grpc_client import Opened, message, opened, refused, told
from tests.unit.api.memory_node import MemoryNode

COUNTER = "/api/v1/actors/default/default/counter"
MINE = Scope("default", "default")

# pytest-asyncio warns of its own successor to this fixture, which its older versions do not have.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture:DeprecationWarning")


@pytest.fixture(params=[uvloop.EventLoopPolicy, asyncio.DefaultEventLoopPolicy], ids=["uvloop", "asyncio"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not happened():
            await asyncio.sleep(0.005)


@dataclass
class Attentive(MemoryNode):
    """Remembers how long each ask may take."""

    timeouts_s: list[float] = field(default_factory=list)

    async def ask(self, *arguments: Any, timeout_s: float, **more: Any) -> str:
        self.timeouts_s.append(timeout_s)
        return await super().ask(*arguments, timeout_s=timeout_s, **more)


# -- the same as HTTP --------------------------------------------------------------------------------------


async def test_actors_are_talked_to() -> None:
    async with opened() as door:
        asked = await door.client.call(
            "Actors.Ask", type="counter", op="increment", arguments_json='{"amount": 5}', namespace="default"
        )
        assert orjson.loads(asked.reply_json) == {"count": 5}
        told_ = await door.client.call("Actors.Tell", type="counter", key="default", op="increment")
        assert told_.message_id
        assert (await door.served.http.get(COUNTER)).json() == {"count": 6}
        nothing = await door.client.call("Actors.Ask", type="counter", op="nothing")
        assert nothing.reply_json == "null"
        info = await door.client.call("Actors.Info", type="counter")
        assert (info.tenant, info.type, info.key, info.messages_handled) == ("default", "counter", "default", 4)
        listed = await door.client.call("Actors.List", limit=1)
        assert [each.type for each in listed.actors] == ["counter"]
        await door.client.call("Actors.Stop", type="counter", kill=True)
        assert door.served.node.ends[-1][1] is True
        assert await refused(door.client.call("Actors.Info", type="counter")) == ("NOT_FOUND", "actor-not-found")
        await door.client.call("Actors.Restart", type="counter")
        assert (await door.served.http.get(COUNTER)).json() == {"count": 0}


async def test_arguments_and_replies_stay_what_they_are() -> None:
    async with opened() as door:
        given = '{ "n": 123456789012345678901234567890, "f": 1.10, "text": "é\\u00e9\\n", "nested": [[], {"}": "]"}] }'
        await door.client.call("Actors.Tell", type="counter", op="echo", arguments_json=given)
        op, payload, _, _ = door.served.node.messages[-1]
        assert op == "echo"
        assert payload.startswith(given.rstrip(" }"))
        reply = await door.client.call(
            "Actors.Ask", type="counter", op="echo", arguments_json='{"é": ["\\ud83d\\ude00", null, true]}'
        )
        assert orjson.loads(reply.reply_json) == {"é": ["😀", None, True]}


@pytest.mark.parametrize("arguments", ['{"op": "crash"}', '{"op": "crash", "action": "crash"}', '{"action": "crash"}'])
async def test_the_message_names_the_operation_and_not_its_arguments(arguments: str) -> None:
    async with opened() as door:
        reply = await door.client.call("Actors.Ask", type="counter", op="get", arguments_json=arguments)
        assert orjson.loads(reply.reply_json) == {"count": 0}


@pytest.mark.parametrize(
    "arguments", ["{", "[1]", '"text"', "7", "nonsense", '{"a": 1} {"b": 2}', '{"a": 1}, "b": {"c": 2}', "{" * 3000]
)
async def test_arguments_that_are_none(arguments: str) -> None:
    async with opened() as door:
        for name in ("Actors.Ask", "Actors.Tell"):
            call = door.client.call(name, type="counter", op="get", arguments_json=arguments)
            assert await refused(call) == ("INVALID_ARGUMENT", "invalid-argument")
        assert door.served.node.messages == []


@pytest.mark.parametrize(
    ("op", "codes"),
    [
        ("crash", ("INTERNAL", "handler-crashed")),
        ("full", ("RESOURCE_EXHAUSTED", "mailbox-full")),
        ("unheard-of", ("INVALID_ARGUMENT", "handler-refused")),
        ("bug", ("INTERNAL", "internal")),
        ("", ("INVALID_ARGUMENT", "invalid-argument")),
    ],
)
async def test_an_actors_errors(op: str, codes: tuple[str, str]) -> None:
    async with opened() as door:
        with pytest.raises(aio.AioRpcError) as caught:
            await door.client.call("Actors.Ask", type="counter", op=op)
        assert told(caught.value) == codes
        trailing = caught.value.trailing_metadata()
        assert "hunter2" not in f"{trailing}{caught.value.details()}"
        assert "secret" not in f"{trailing}{caught.value.details()}"
        assert ("retry-after" in dict(trailing)) == (op == "full")


async def test_streams() -> None:
    async with opened() as door:
        client = door.client
        appended = await client.call(
            "Streams.Append", path="/sessions/é%20", event_type="note", payload_json='{"n": 12345678901234567890123}'
        )
        assert (appended.offset, appended.event_type, appended.reason) == (1, "note", "")
        page = await client.call("Streams.Read", path="/sessions/é%20")
        assert (page.path, page.first, page.last, page.next) == ("/sessions/é%20", 1, 1, 1)
        (event,) = page.events
        assert (event.offset, event.event_type, event.payload_json) == (1, "note", '{"n":12345678901234567890123}')
        http = (await door.served.http.get("/api/v1/streams/sessions/%C3%A9%2520")).json()
        assert event.time_ms == http["events"][0]["time_ms"]
        assert [each.path for each in (await client.call("Streams.List", prefix="/sess")).streams] == ["/sessions/é%20"]
        held = await client.call("Streams.SetFlow", path="/sessions/é%20", flow="held")
        assert held.flow == "held"
        assert await refused(client.call("Streams.Append", path="/sessions/é%20", event_type="x")) == (
            "RESOURCE_EXHAUSTED",
            "rate-limited",
        )
        await client.call("Streams.SetFlow", path="/sessions/é%20", flow="flowing")
        await client.call("Streams.Clear", path="/sessions/é%20")
        assert not (await client.call("Streams.Read", path="/sessions/é%20")).events
        made = await client.call("Streams.AddSchedule", path="/t", event_type="tick", every_s=60)
        assert [each.id for each in (await client.call("Streams.ListSchedules")).schedules] == [made.id]
        assert await refused(client.call("Streams.AddSchedule", path="/t", event_type="tick")) == (
            "INVALID_ARGUMENT",
            "invalid-argument",
        )
        await client.call("Streams.RemoveSchedule", id=made.id)
        assert await refused(client.call("Streams.RemoveSchedule", id=made.id)) == ("NOT_FOUND", "not-found")


async def test_dead_letters() -> None:
    async with opened() as door:
        channels = door.served.stores.channels
        for number in range(2):
            channels.send(MINE, "orders", "order", f'{{"n":{number}}}')
            delivery = channels.receive(MINE, "orders", "somebody")
            assert isinstance(delivery, Delivery)
            channels.nack(MINE, "orders", delivery.id, "somebody", requeue=False)
        page = await door.client.call("DeadLetters.List", kind="channel", limit=1)
        (letter,) = page.dead_letters
        assert (letter.kind, letter.source, letter.payload_json) == ("channel", "orders", '{"n":0}')
        assert letter.HasField("enqueued_ms")
        (second,) = (await door.client.call("DeadLetters.List", after=page.next)).dead_letters
        await door.client.call("DeadLetters.Retry", id=letter.id)
        await door.client.call("DeadLetters.Drop", id=second.id)
        assert not (await door.client.call("DeadLetters.List")).dead_letters
        assert await refused(door.client.call("DeadLetters.Drop", id=second.id)) == ("NOT_FOUND", "not-found")


async def test_workflows_and_promises() -> None:
    heard: list[tuple[str, str, str]] = []
    async with opened() as door:
        client, stores, node = door.client, door.served.stores, door.served.node
        node.hear = lambda _address, kind, op, payload: heard.append((kind.name, op, payload))
        address = next(iter(node.living))
        stores.workflows.begin(address, "m-1", '{"city":"Lisbon"}')
        started = await client.call("Workflows.Start", type="counter", arguments_json='{"city":"Lisbon"}')
        assert (started.status, started.arguments_json, started.run_id) == ("running", '{"city":"Lisbon"}', "m-1")
        assert heard[-1] == ("RUN", "run", '{"city":"Lisbon"}')
        assert not started.HasField("cancel_reason")
        got = await client.call("Workflows.Get", type="counter", key="default")
        assert got.run_id == "m-1"
        signalled = await client.call(
            "Workflows.Signal", type="counter", key="default", name="approve", arguments_json='{"by":"grace"}'
        )
        assert signalled.message_id
        assert heard[-1] == ("SIGNAL", "approve", '{"by":"grace"}')
        queried = await client.call(
            "Workflows.Query", type="counter", key="default", name="echo", arguments_json='{"n": 7, "s": "7", "l": [1]}'
        )
        assert orjson.loads(queried.result_json) == {"n": 7, "s": "7", "l": [1]}
        cancelled = await client.call("Workflows.Cancel", type="counter", key="default", reason="enough")
        assert cancelled.cancel_reason == "enough"
        assert [each.key for each in (await client.call("Workflows.List", status="running")).workflows] == ["default"]
        assert await refused(client.call("Workflows.Forget", type="counter", key="default")) == ("ABORTED", "conflict")
        assert await refused(client.call("Workflows.Query", type="counter", name="echo", arguments_json="[1]")) == (
            "INVALID_ARGUMENT",
            "invalid-argument",
        )
        assert await refused(
            client.call("Workflows.Query", type="counter", name="echo", arguments_json='{"x": "' + "y" * 9000 + '"}')
        ) == ("RESOURCE_EXHAUSTED", "payload-too-large")


async def test_deployments_and_applications(tmp_path: Path) -> None:
    config = (
        '[application]\nname = "app"\n[[components]]\nname = "c"\npath = "c.wasm"\n[[components]]\nname = "d"\n'
        'path = "d.wasm"\n[supervisor]\n[[supervisor.children]]\nname = "one"\nactor_type = "c"\n'
        '[[supervisor.children]]\nname = "two"\nactor_type = "d"\n'
    )
    async with opened(http=HttpConfig(port=0, upload_dir=tmp_path)) as door:
        client = door.client

        async def pieces() -> AsyncIterator[Any]:
            yield message("DeployRequest", head={"actor_type": "other", "config_json": '{"role": "x"}'})
            yield message("DeployRequest", wasm=b"\0asm")
            yield message("DeployRequest", wasm=b"--plexspaces-\r\n")
            yield message("DeployRequest", end={})

        deployed = await client.upload("Deployments.Deploy", pieces())
        assert (deployed.actor_type, deployed.size_bytes, deployed.version) == ("other", 19, 1)
        assert orjson.loads(deployed.handlers_json)["role"] == "x"
        assert list(deployed.roles) == ["Counter"]
        checked = await client.upload("Deployments.Check", pieces())
        assert checked.ok
        assert checked.hash == deployed.hash
        assert [each.version for each in (await client.call("Deployments.List")).deployments] == [1]
        await client.call("Deployments.Undeploy", type="other")
        assert not (await client.call("Deployments.List")).deployments

        parts = [
            message("DeployApplicationRequest", config=config),
            message("DeployApplicationRequest", component={"name": "c", "wasm": b"\0asm"}),
            message("DeployApplicationRequest", component={"name": "c", "wasm": b"one"}),
            message("DeployApplicationRequest", component={"name": "d", "wasm": b"\0asm"}),
            message("DeployApplicationRequest", end={}),
        ]
        application = await client.upload("Deployments.DeployApplication", parts)
        assert (application.name, application.actors, application.version) == ("app", 2, 1)
        assert application.components["c"] != application.components["d"]
        assert list(application.changes) == ["started one", "started two"]
        assert [each.name for each in (await client.call("Deployments.ListApplications")).applications] == ["app"]
        (root,) = (await client.call("Deployments.Tree", namespace="default")).tree
        assert [child.address for child in root.children] == ["one", "two"]
        assert (await client.call("Deployments.RestartApplication", name="app")).restarts == 1
        assert (await client.call("Deployments.GetApplication", name="app")).restarts == 1
        await client.call("Deployments.UndeployApplication", name="app")
        assert await refused(client.call("Deployments.GetApplication", name="app")) == ("NOT_FOUND", "not-found")
        assert list(tmp_path.iterdir()) == []


# -- who gets in -------------------------------------------------------------------------------------------


async def test_nothing_without_a_token() -> None:
    async with opened() as door, door.as_("") as nobody:
        for name in ("Actors.Ask", "Actors.List", "Deployments.Tree", "Streams.Read", "Streams.Follow"):
            assert await refused(nobody.call(name)) == ("UNAUTHENTICATED", "unauthenticated")
        for name, first in (
            ("Deployments.Deploy", message("DeployRequest", head={"actor_type": "x"})),
            ("Deployments.DeployApplication", message("DeployApplicationRequest", config="x")),
        ):
            assert await refused(nobody.upload(name, [first])) == ("UNAUTHENTICATED", "unauthenticated")


@pytest.mark.parametrize("authorization", ["Bearer nonsense", "Basic YTpi", "Bearer " + "x" * 9000, "Bearer", " "])
async def test_a_bad_token(authorization: str) -> None:
    async with opened() as door:
        call = door.client.call("Actors.List", metadata=[("authorization", authorization)])
        assert await refused(call) == ("UNAUTHENTICATED", "unauthenticated")


async def test_two_tokens_are_none() -> None:
    async with opened() as door:
        twice = [("authorization", f"Bearer {door.served.token}")]
        assert (await refused(door.client.call("Actors.List", more=twice)))[1] == "invalid-argument"


async def test_a_tenant_is_the_tokens_and_no_other() -> None:
    async with opened() as door:
        other = door.served.authority.mint("rival", "eve", ["admin"], 3600)
        async with door.as_(other) as eve:
            smuggled = [("x-tenant", "default"), ("tenant", "default"), (":authority", "default")][:2]
            assert not (await eve.call("Actors.List", more=smuggled)).actors
            call = eve.call("Actors.Ask", type="counter", op="get", namespace="default", more=smuggled)
            assert await refused(call) == ("NOT_FOUND", "actor-not-found")
            for namespace in ("../default", "default/default", "..", "%2e%2e", "rival/../default"):
                assert (await refused(eve.call("Actors.Ask", type="counter", op="get", namespace=namespace)))[0] in (
                    "INVALID_ARGUMENT",
                    "NOT_FOUND",
                )
        assert door.served.node.messages == []


async def test_a_token_for_some_namespaces() -> None:
    async with opened() as door:
        token = door.served.authority.mint("default", "ada", ["admin"], 3600, namespaces=["lab"])
        async with door.as_(token) as ada:
            assert await refused(ada.call("Actors.Ask", type="counter", op="get")) == (
                "PERMISSION_DENIED",
                "permission-denied",
            )
            assert not (await ada.call("Actors.List")).actors


async def test_roles_count_here_too() -> None:
    async with opened() as door:
        async with door.as_(door.served.authority.mint("default", "ada", [], 3600)) as ada:
            assert await refused(ada.call("Actors.Stop", type="counter")) == ("PERMISSION_DENIED", "permission-denied")
            head = message("DeployRequest", head={"actor_type": "x"})
            assert await refused(ada.upload("Deployments.Deploy", [head])) == ("PERMISSION_DENIED", "permission-denied")
        assert door.served.node.uploads == []


async def test_other_metadata_mean_nothing() -> None:
    async with opened() as door:
        for header in (("prefer", "wait=5"), ("content-length", "99999999"), ("content-type-x", "text/html")):
            assert (await door.client.call("Actors.Tell", type="counter", op="get", more=[header])).message_id
        await door.client.call("Streams.Append", path="/a", event_type="x")
        follow = door.client.call("Streams.Follow", path="/a", more=[("last-event-id", "1")])
        assert (await follow.read()).offset == 1
        follow.cancel()


async def test_who_called_and_in_which_trace() -> None:
    async with opened() as door:
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        reply = await door.client.call("Actors.Ask", type="counter", op="whoami", more=[("traceparent", trace)])
        assert orjson.loads(reply.reply_json)["subject"] == "ada"
        assert door.served.node.messages[-1][3] == trace


# -- repetition --------------------------------------------------------------------------------------------


async def test_a_key_is_done_once() -> None:
    async with opened() as door:
        more = [("idempotency-key", "k-1")]
        replies = [
            await door.client.call("Actors.Ask", type="counter", op="increment", arguments_json="{}", more=more)
            for _ in range(3)
        ]
        assert {each.reply_json for each in replies} == {'{"count":1}'}
        again = door.client.call("Actors.Ask", type="counter", op="get", arguments_json="{}", more=more)
        assert await refused(again) == ("INVALID_ARGUMENT", "idempotency-key-reused")
        both = [*more, ("idempotency-key", "k-2")]
        call = door.client.call("Actors.Ask", type="counter", op="increment", more=both)
        assert await refused(call) == ("INVALID_ARGUMENT", "invalid-argument")
        offsets = [
            (await door.client.call("Streams.Append", path="/a", event_type="x", more=more)).offset for _ in range(2)
        ]
        assert offsets == [1, 1]


# -- deadlines ---------------------------------------------------------------------------------------------


async def test_the_deadline_is_how_long_is_waited() -> None:
    node = Attentive()
    async with opened(node) as door:
        await door.client.call("Actors.Ask", type="counter", op="get", timeout_s=7.0)
        assert 6.0 < node.timeouts_s[-1] <= 7.01
        await door.client.call("Actors.Ask", type="counter", op="get", timeout_s=100_000.0)
        assert node.timeouts_s[-1] == door.served.server.config.wait_s_max
        await door.client.call("Actors.Ask", type="counter", op="get", timeout_s=None)
        assert node.timeouts_s[-1] == node.limits.ask_timeout_ms / 1000
        with pytest.raises(aio.AioRpcError) as caught:
            await door.client.call("Actors.Ask", type="counter", op="wait", timeout_s=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_node_that_gives_up_first_says_so() -> None:
    node = MemoryNode(limits=Limits(payload_bytes_max=4096, ask_timeout_ms=50))
    async with opened(node) as door:
        call = door.client.call("Actors.Ask", type="counter", op="wait", timeout_s=None)
        assert await refused(call) == ("DEADLINE_EXCEEDED", "deadline-exceeded")


async def test_a_cancelled_call_is_waited_for_no_longer() -> None:
    async with opened() as door:
        call = asyncio.ensure_future(_awaited(door.client.call("Actors.Ask", type="counter", op="wait")))
        await door.served.node.entered.wait()
        call.cancel()
        await until(lambda: door.served.server.api._in_flight == 0)
        door.served.node.gate.set()
        assert (await door.served.http.get(COUNTER)).json() == {"count": 0}


async def _awaited(call: Any) -> Any:
    return await call


# -- following ---------------------------------------------------------------------------------------------


async def test_what_was_and_what_comes() -> None:
    async with opened() as door:
        for number in range(3):
            await door.client.call("Streams.Append", path="/a", event_type="old", payload_json=str(number))
        follow = door.client.call("Streams.Follow", path="/a", after=1)
        assert [(await follow.read()).payload_json for _ in range(2)] == ["1", "2"]
        await door.served.http.post("/api/v1/streams/a", json={"event_type": "new", "payload": {"a": "b\nc"}})
        event = await follow.read()
        assert (event.offset, event.event_type, event.payload_json) == (4, "new", '{"a":"b\\nc"}')
        follow.cancel()
        await until(lambda: not door.served.server.api._streams._readers)


async def test_following_what_is_no_stream() -> None:
    async with opened() as door:
        assert await refused(door.client.call("Streams.Follow", path="/a//b")) == (
            "INVALID_ARGUMENT",
            "invalid-argument",
        )


async def test_more_readers_than_there_may_be() -> None:
    node = MemoryNode(limits=Limits(payload_bytes_max=4096, live_readers_per_tenant_max=1))
    async with opened(node) as door:
        first = door.client.call("Streams.Follow", path="/a")
        await first.initial_metadata()
        assert await refused(door.client.call("Streams.Follow", path="/a")) == ("RESOURCE_EXHAUSTED", "limit-exceeded")
        first.cancel()


async def test_a_node_that_stops_ends_its_readers() -> None:
    async with opened() as door:
        follow = door.client.call("Streams.Follow", path="/a")
        await follow.initial_metadata()
        door.served.server.drain()
        assert await refused(follow) == ("UNAVAILABLE", "unavailable")


async def test_a_reader_that_has_lasted_long_enough_ends_well() -> None:
    async with opened(http=HttpConfig(port=0, live_s_max=0.05)) as door:
        follow = door.client.call("Streams.Follow", path="/a")
        assert await follow.read() is aio.EOF
        assert await follow.code() is grpc.StatusCode.OK


async def test_a_reader_that_does_not_read_is_ended() -> None:
    limits = Limits(payload_bytes_max=4096, stream_events_per_second_max=10_000)
    async with opened(MemoryNode(limits=limits), GrpcConfig(port=0, stall_s=0.2)) as door:
        large = orjson.dumps("x" * 200_000)
        for _ in range(60):
            door.served.stores.streams.append(MINE, "/a", "large", large.decode())
        follow = door.client.call("Streams.Follow", path="/a", timeout_s=30.0)
        await follow.initial_metadata()
        await until(lambda: not door.served.server.api._streams._readers)
        assert (await refused(follow))[1] == "cancelled"


# -- uploads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [{"wasm": b"\0asm"}],
        [{"head": {"actor_type": "x"}}],
        [{"head": {"actor_type": "x"}}, {"end": {}}],
        [{"head": {"actor_type": "x"}}, {"wasm": b"\0asm"}],
        [{"head": {"actor_type": "x"}}, {"head": {"actor_type": "x"}}],
        [{"head": {"actor_type": "x"}}, {"wasm": b"\0asm"}, {"head": {"actor_type": "y"}}],
        [{"head": {"actor_type": "../x"}}, {"wasm": b"\0asm"}, {"end": {}}],
        [{"head": {"actor_type": "x", "config_json": "nonsense"}}, {"wasm": b"\0asm"}, {"end": {}}],
    ],
)
async def test_streams_that_make_no_form(parts: list[dict[str, Any]], tmp_path: Path) -> None:
    async with opened(http=HttpConfig(port=0, upload_dir=tmp_path)) as door:
        call = door.client.upload("Deployments.Deploy", [message("DeployRequest", **each) for each in parts])
        assert await refused(call) == ("INVALID_ARGUMENT", "invalid-argument")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ['c"; filename="evil', "c\r\nx: y", "", "a/b"])
async def test_a_components_name_is_a_name(name: str) -> None:
    async with opened() as door:
        parts = [
            message("DeployApplicationRequest", config='[application]\nname = "app"\n'),
            message("DeployApplicationRequest", component={"name": name, "wasm": b"\0asm"}),
            message("DeployApplicationRequest", end={}),
        ]
        with pytest.raises(aio.AioRpcError, match="is not a name") as caught:
            await door.client.upload("Deployments.DeployApplication", parts)
        assert told(caught.value) == ("INVALID_ARGUMENT", "invalid-argument")


async def test_a_component_that_is_too_large(tmp_path: Path) -> None:
    async with opened(http=HttpConfig(port=0, upload_dir=tmp_path)) as door:
        parts = [message("DeployRequest", head={"actor_type": "x"})]
        parts += [message("DeployRequest", wasm=b"\0" * 500_000) for _ in range(8)]
        # All of it is listened to, or not every client would hear why.
        assert await refused(door.client.upload("Deployments.Deploy", parts)) == (
            "RESOURCE_EXHAUSTED",
            "payload-too-large",
        )
        assert list(tmp_path.iterdir()) == []


async def test_a_component_that_never_ends_is_listened_to_for_a_while(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[Any]:
        yield message("DeployRequest", head={"actor_type": "x"})
        while True:
            yield message("DeployRequest", wasm=b"\0" * 500_000)

    async with opened(http=HttpConfig(port=0, upload_dir=tmp_path, linger_s=0.1)) as door:
        call = door.client.upload("Deployments.Deploy", endless(), timeout_s=60.0)
        with pytest.raises(aio.AioRpcError) as caught:
            await call
        # A client that sends when it has been answered may not read the answer.
        assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)
        await until(lambda: door.served.server.api._uploads == 0 and list(tmp_path.iterdir()) == [])
        assert (await door.client.call("Actors.List")).actors


async def test_a_stream_that_stands_still(tmp_path: Path) -> None:
    stands_still = asyncio.Event()

    async def slow() -> AsyncIterator[Any]:
        yield message("DeployRequest", head={"actor_type": "x"})
        yield message("DeployRequest", wasm=b"\0asm")
        await stands_still.wait()

    async with opened(http=HttpConfig(port=0, upload_dir=tmp_path, body_timeout_s=0.2, linger_s=0.1)) as door:
        call = door.client.upload("Deployments.Deploy", slow())
        assert await refused(call) == ("DEADLINE_EXCEEDED", "request-timeout")
        await until(lambda: list(tmp_path.iterdir()) == [])
        assert door.served.server.api._uploads == 0
        stands_still.set()


async def test_a_client_that_goes_in_the_middle_of_its_upload(tmp_path: Path) -> None:
    stands_still = asyncio.Event()

    async def part() -> AsyncIterator[Any]:
        yield message("DeployRequest", head={"actor_type": "x"})
        yield message("DeployRequest", wasm=b"\0asm")
        await stands_still.wait()

    async with opened(http=HttpConfig(port=0, upload_dir=tmp_path)) as door:
        call = door.client.upload("Deployments.Deploy", part())
        await until(lambda: door.served.server.api._uploads == 1)
        call.cancel()
        await until(lambda: door.served.server.api._uploads == 0 and list(tmp_path.iterdir()) == [])
        assert door.served.node.uploads == []
        stands_still.set()


# -- limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x12\x02\xff\xfe", b"\x0a\x10short"])
async def test_what_is_no_message_is_the_callers_fault(data: bytes) -> None:
    async with opened() as door:
        assert await refused(door.client.call("Actors.Ask", data=data)) == ("INVALID_ARGUMENT", "invalid-argument")


async def test_what_is_unheard_of_is_left_alone() -> None:
    """A field of a later version: the rule of protocol buffers."""
    data = message("AskRequest", type="counter", op="get").SerializeToString() + b"\xfa\x3e\x03abc"
    async with opened() as door:
        assert (await door.client.call("Actors.Ask", data=data)).reply_json == '{"count":0}'


async def test_a_payload_that_is_too_large() -> None:
    async with opened() as door:
        text = '{"x": "' + "y" * 4096 + '"}'
        call = door.client.call("Actors.Ask", type="counter", op="echo", arguments_json=text)
        assert await refused(call) == ("RESOURCE_EXHAUSTED", "payload-too-large")
        with pytest.raises(aio.AioRpcError) as caught:
            await door.client.call("Actors.Ask", type="counter", op="echo", arguments_json='"' + "y" * 2_000_000 + '"')
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert door.served.node.messages == []


async def test_what_is_small_on_the_wire_stays_small() -> None:
    async with opened() as door:
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            with pytest.raises(aio.AioRpcError) as caught:
                await door.client.call(
                    "Actors.Ask", type="counter", op="x" * 1_000_000, compression=compression, timeout_s=5.0
                )
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metadata_that_are_too_large() -> None:
    async with opened() as door:
        with pytest.raises(aio.AioRpcError) as caught:
            await door.client.call("Actors.List", more=[("x", "y" * 100_000)])
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await door.client.call("Actors.List")).actors


async def test_calls_beyond_the_limit_of_a_connection_wait() -> None:
    async with opened(config=GrpcConfig(port=0, streams_per_connection_max=2)) as door:
        node = door.served.node
        calls = [
            asyncio.ensure_future(_awaited(door.client.call("Actors.Ask", type="counter", op="wait"))) for _ in range(2)
        ]
        await until(lambda: len(node.messages) == 2)
        third = asyncio.ensure_future(_awaited(door.client.call("Actors.Ask", type="counter", op="get")))
        # A connection of its own is not held up, and says that time has passed.
        async with door.as_(door.served.token) as other:
            for _ in range(3):
                await other.call("Actors.Ask", type="counter", op="nothing")
        assert not third.done()
        assert len(node.messages) == 5
        node.gate.set()
        await asyncio.gather(*calls, third)


async def test_connections_beyond_the_limit_are_closed() -> None:
    async with opened(config=GrpcConfig(port=0, connections_max=2)) as door:
        await door.client.call("Actors.List")
        async with door.as_(door.served.token) as second:
            await second.call("Actors.List")
            loop = asyncio.get_running_loop()
            with socket.create_connection(("127.0.0.1", door.grpc.port)) as third:
                third.setblocking(False)
                async with asyncio.timeout(10):
                    with contextlib.suppress(ConnectionError):
                        assert await loop.sock_recv(third, 1000) == b""
            assert (await second.call("Actors.List")).actors


async def test_who_connects_and_says_nothing_is_closed() -> None:
    async with opened(config=GrpcConfig(port=0, handshake_timeout_s=0.2)) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.grpc.port)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                while await reader.read(1000):
                    pass
        writer.close()
        assert (await door.client.call("Actors.List")).actors


async def test_who_pings_all_the_time_is_closed() -> None:
    import h2.config
    import h2.connection
    import h2.events

    async with opened() as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.grpc.port)
        protocol = h2.connection.H2Connection(h2.config.H2Configuration())
        protocol.initiate_connection()
        ended: list[Any] = []
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                for number in range(20):
                    protocol.ping(number.to_bytes(8))
                writer.write(protocol.data_to_send())
                while data := await reader.read(65536):
                    events = protocol.receive_data(data)
                    ended += [each for each in events if isinstance(each, h2.events.ConnectionTerminated)]
                    if not ended:
                        writer.write(protocol.data_to_send())
        assert [each.additional_data for each in ended] == [b"too_many_pings"]
        writer.close()
        assert (await door.client.call("Actors.List")).actors


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"\x16\x03\x01" + bytes(500), b"\0" * 100_000])
async def test_what_is_not_http_2(sent: bytes) -> None:
    async with opened(config=GrpcConfig(port=0, handshake_timeout_s=0.5)) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.grpc.port)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                writer.write(sent)
                while await reader.read(65536):
                    pass
        writer.close()
        assert (await door.client.call("Actors.List")).actors


# -- operation ---------------------------------------------------------------------------------------------


async def test_health_and_reflection_need_no_token() -> None:
    async with opened() as door, door.as_("") as nobody:
        health = health_pb2_grpc.HealthStub(nobody.channel)
        for service in ("", "plexspaces.v1.Actors", "plexspaces.v1.Workflows"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(nobody.channel)

        def asked() -> Iterator[Any]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            yield reflection_pb2.ServerReflectionRequest(file_containing_symbol="plexspaces.v1.Actors")

        answers = [each async for each in reflection.ServerReflectionInfo(asked())]
        names = {each.name for each in answers[0].list_services_response.service}
        assert {"plexspaces.v1.Actors", "plexspaces.v1.Streams", "grpc.health.v1.Health"} <= names
        assert b"AskRequest" in answers[1].file_descriptor_response.file_descriptor_proto[0]
        await door.grpc.drain()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()


async def test_a_server_that_stops_finishes_what_is_under_way() -> None:
    async with opened() as door:
        call = asyncio.ensure_future(_awaited(door.client.call("Actors.Ask", type="counter", op="wait")))
        await door.served.node.entered.wait()
        door.served.server.drain()
        assert await refused(door.client.call("Actors.List")) == ("UNAVAILABLE", "unavailable")
        stopping = asyncio.ensure_future(door.grpc.stop(10.0))
        door.served.node.gate.set()
        assert orjson.loads((await call).reply_json) == {"count": 1}
        await stopping


async def test_a_server_that_stops_cuts_off_what_is_not_finished() -> None:
    async with opened() as door:
        call = asyncio.ensure_future(_awaited(door.client.call("Actors.Ask", type="counter", op="wait")))
        await door.served.node.entered.wait()
        await door.grpc.stop(0.05)
        with pytest.raises(aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await until(lambda: door.served.server.api._in_flight == 0)


async def test_a_port_that_is_taken() -> None:
    async with opened() as door:
        second = GrpcServer(door.served.server.api, GrpcConfig(port=door.grpc.port))
        with pytest.raises(OSError, match="in use") as caught:
            await second.start()
        assert caught.value.errno == errno.EADDRINUSE
        await second.stop(0)
        assert (await door.client.call("Actors.List")).actors


# -- TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture(name="authority")
def _authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


def trusting(authority: Authority, own: Signed | None = None) -> Any:
    return grpc.ssl_channel_credentials(
        authority.root.read_bytes(),
        None if own is None else own.key.read_bytes(),
        None if own is None else own.certificate.read_bytes(),
    )


@contextlib.asynccontextmanager
async def secured(
    authority: Authority, own: Signed, **tls: Any
) -> AsyncIterator[tuple[Opened, Certificates, list[Event]]]:
    events: list[Event] = []
    config = TlsConfig(cert_file=own.certificate, key_file=own.key, **tls)
    certificates = Certificates(config, SystemClock(), events.append)
    async with opened(tls=certificates, credentials=trusting(authority)) as door:
        yield door, certificates, events


async def test_everything_is_said_over_tls(authority: Authority) -> None:
    async with secured(authority, authority.server()) as (door, _, _):
        assert (await door.client.call("Actors.Ask", type="counter", op="get")).reply_json == '{"count":0}'
        async with door.as_(door.served.token) as plain:
            with pytest.raises(aio.AioRpcError):
                await plain.call("Actors.List", timeout_s=3.0)


async def test_a_certificate_of_the_clients(authority: Authority, tmp_path: Path) -> None:
    tls = {"client_auth": "required", "client_ca_file": authority.root, "client_names": ("ada",)}
    async with secured(authority, authority.server(), **tls) as (door, _, events):
        with pytest.raises(aio.AioRpcError):
            await door.client.call("Actors.List", timeout_s=3.0)
        stranger = Authority(tmp_path / "other", "stranger").sign("ada", client=True)
        async with door.as_(door.served.token, credentials=trusting(authority, stranger)) as client:
            with pytest.raises(aio.AioRpcError):
                await client.call("Actors.List", timeout_s=3.0)
        assert events[1:] == []
        eve = authority.sign("eve", client=True)
        async with door.as_(door.served.token, credentials=trusting(authority, eve)) as client:
            assert await refused(client.call("Actors.List")) == ("PERMISSION_DENIED", "permission-denied")
        ada = authority.sign("ada", client=True)
        async with door.as_(door.served.token, credentials=trusting(authority, ada)) as client:
            for _ in range(3):
                assert (await client.call("Actors.List")).actors
        async with door.as_("", credentials=trusting(authority, ada)) as client:
            assert await refused(client.call("Actors.List")) == ("UNAUTHENTICATED", "unauthenticated")
        assert [each.subject for each in events if isinstance(each, ClientRefused)] == ["CN=eve"]
        certified = [each for each in events if isinstance(each, ClientCertified)]
        # Two connections: told once for each, not for each call.
        assert [(each.door, each.subject) for each in certified] == [("grpc", "CN=ada")] * 2
        assert certified[0].peer.startswith("127.0.0.1:")


async def test_a_renewed_certificate(authority: Authority) -> None:
    own = authority.server()
    async with secured(authority, own) as (door, certificates, _):
        new = authority.server("renewed")
        assert _shown(door.grpc.port, authority) == own.leaf.public_bytes(Encoding.DER)
        shutil.copy(new.certificate, own.certificate)
        shutil.copy(new.key, own.key)
        certificates.refresh(at_once=True)
        shown = await asyncio.to_thread(_shown, door.grpc.port, authority)
        assert shown == new.leaf.public_bytes(Encoding.DER)
        assert (await door.client.call("Actors.List")).actors


def _shown(port: int, authority: Authority) -> bytes | None:
    context = authority.trust()
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(
        plain, server_hostname="localhost"
    ) as sock:
        return sock.getpeercert(True)
