"""A message becomes the request that it means, and an answer the message that it fills."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from plexspaces_runtime.api.grpc.table import RPCS
from plexspaces_runtime.api.grpc.transcode import Encoder, fill
from plexspaces_runtime.api.routes import ROUTES
from plexspaces_runtime.errors import InvalidArgument
from tests.unit.api.grpc_client import message

_ROUTES = {route.operation: route for route in ROUTES}


def encoded(service: str, name: str, request: Any, **more: str) -> tuple[str, str, str]:
    rpc = RPCS[f"plexspaces.v1.{service}"][name]
    path, query, body = Encoder.of(rpc, _ROUTES[rpc.operation]).encode(request, "acme", more)
    return path.decode(), query.decode(), body.decode()


def test_an_address_has_its_defaults_and_the_tokens_tenant() -> None:
    assert encoded("Actors", "Stop", message("StopRequest", type="counter")) == (
        "/api/v1/actors/acme/default/counter/default",
        "",
        "",
    )
    assert encoded("Actors", "Stop", message("StopRequest", type="a", key="b", namespace="c", kill=True)) == (
        "/api/v1/actors/acme/c/a/b",
        "kill=true",
        "",
    )


@pytest.mark.parametrize(
    ("key", "written"), [("a/b", "a%2Fb"), ("..", ".."), ("a b?x=1#y", "a%20b%3Fx%3D1%23y"), ("é", "%C3%A9")]
)
def test_a_key_stays_one_part_of_the_path(key: str, written: str) -> None:
    path, _, _ = encoded("Actors", "Info", message("InfoRequest", type="counter", key=key))
    assert path == f"/api/v1/actors/acme/default/counter/{written}/info"


@pytest.mark.parametrize(
    ("path", "written"), [("/a/b", "a/b"), ("a/b", "a/b"), ("//a", "/a"), ("/a?b%2F", "a%3Fb%252F")]
)
def test_a_streams_path(path: str, written: str) -> None:
    assert encoded("Streams", "Clear", message("ClearRequest", path=path))[0] == f"/api/v1/streams/{written}"


def test_what_is_left_empty_is_not_said() -> None:
    assert encoded("Streams", "Read", message("ReadRequest", path="/a"))[1] == ""
    assert encoded("Streams", "Read", message("ReadRequest", path="/a", after=7, limit=2))[1] == "after=7&limit=2"
    assert encoded("Workflows", "ListPromises", message("ListPromisesRequest", resolved=False))[1] == "resolved=false"
    assert encoded("Workflows", "ListPromises", message("ListPromisesRequest"))[1] == ""
    assert encoded("Streams", "Follow", message("FollowRequest", path="/a"), live="true")[1] == "live=true"


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ("", '{"op":"x"}'),
        ("{}", '{"op":"x"}'),
        (" { } ", '{"op":"x"}'),
        ('{"a": 1.10}', '{"a": 1.10,"op":"x"}'),
        ('\n{"a": [{}]}\n', '{"a": [{}],"op":"x"}'),
        ('{"op": "y"}', '{"op": "y","op":"x"}'),
    ],
)
def test_the_operation_stands_last_and_counts(arguments: str, body: str) -> None:
    request = message("AskRequest", type="counter", op="x", arguments_json=arguments)
    assert encoded("Actors", "Ask", request)[2] == body
    assert orjson.loads(body)["op"] == "x"


@pytest.mark.parametrize("text", ["nonsense", "{", '{"a": 1}, {"b": 2}', '{"a": 1} }', "[1]", "1", '"{}"', '{"a":"'])
def test_arguments_are_one_object(text: str) -> None:
    with pytest.raises(InvalidArgument, match="arguments_json"):
        encoded("Actors", "Ask", message("AskRequest", type="counter", op="x", arguments_json=text))


def test_a_payload_cannot_say_what_the_message_says() -> None:
    with pytest.raises(InvalidArgument, match="payload_json"):
        encoded("Streams", "Append", message("AppendRequest", path="/a", payload_json='1,"event_type":"b"'))
    request = message("AppendRequest", path="/a", event_type='"}', payload_json='{"n": 1234567890123456789012345}')
    written = '{"event_type":"\\"}","payload":{"n": 1234567890123456789012345}}'
    assert encoded("Streams", "Append", request)[2] == written


def test_a_querys_arguments_stay_json() -> None:
    request = message(
        "QueryWorkflowRequest", type="trip", name="stage", arguments_json='{"s": "7", "n": 7, "l": ["a&b"]}'
    )
    path, query, body = encoded("Workflows", "Query", request)
    assert path == "/api/v1/workflows/trip/default/queries/stage"
    assert query == "s=%227%22&n=7&l=%5B%22a%26b%22%5D"
    assert body == ""


def test_a_whole_body_is_passed_on_as_it_is() -> None:
    request = message("ResolvePromiseRequest", id="promise-1", value_json=" 1.10 ")
    assert encoded("Workflows", "ResolvePromise", request) == ("/api/v1/promises/promise-1", "", " 1.10 ")


def test_an_answer_fills_a_message() -> None:
    application = message("Application")
    fill(
        application,
        '{"tenant": "acme", "name": "a\\u00e9", "version": 7, "components": {"x": "y"}, "changes": ["b", "c"],'
        ' "capabilities": {"n": 1.10}, "last_exit": null, "unheard_of": [1]}',
    )
    assert (application.tenant, application.name, application.version) == ("acme", "aé", 7)
    assert dict(application.components) == {"x": "y"}
    assert list(application.changes) == ["b", "c"]
    assert application.capabilities_json == '{"n": 1.10}'
    assert application.last_exit == ""


def test_an_answers_nothing_is_told_from_null() -> None:
    promise, letter = message("Promise"), message("DeadLetter")
    fill(promise, '{"value": null}')
    assert promise.value_json == "null"
    fill(letter, '{"enqueued_ms": null, "payload": {"a": [1, 2]}}')
    assert not letter.HasField("enqueued_ms")
    assert letter.payload_json == '{"a": [1, 2]}'


def test_messages_in_messages() -> None:
    tree = message("TreeReply")
    children = '[{"name": "one", "children": []}, {"name": "two"}]'
    fill(tree, f'{{"tree": [{{"name": "app", "children": {children}}}, {{"name": "b"}}]}}')
    assert [root.name for root in tree.tree] == ["app", "b"]
    assert [child.name for child in tree.tree[0].children] == ["one", "two"]
