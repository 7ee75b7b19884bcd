"""/openapi.json says what the server does: structure, references, and every operation tried on a socket."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from plexspaces_runtime.api.faults import FAULTS
from plexspaces_runtime.api.openapi import document
from plexspaces_runtime.api.routes import ROUTES
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores.channels import Delivery
from tests.unit.api.memory_node import Served, serving

DOCUMENT = document()
OPERATIONS = [
    (path, method, operation) for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
]


SCHEDULE = {"path": "/a", "event_type": "tick", "every_s": 60}


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _nodes(each)
    elif isinstance(value, list):
        for each in value:
            yield from _nodes(each)


def test_it_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert set(DOCUMENT) >= {"info", "paths", "components"}
    assert set(DOCUMENT["info"]) >= {"title", "version"}
    try:
        from openapi_spec_validator import validate  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return
    validate(DOCUMENT)


def test_every_reference_leads_somewhere() -> None:
    references = [node["$ref"] for node in _nodes(DOCUMENT) if "$ref" in node]
    assert references
    for reference in references:
        target = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(names) == len(set(names)) == len(ROUTES)


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_an_operation_is_complete(path: str, method: str, operation: dict[str, Any]) -> None:
    in_path = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
    assert in_path == set(re.findall(r"{(\w+)}", path))
    assert all(each["required"] for each in operation.get("parameters", ()) if each["in"] == "path")
    assert operation["summary"]
    assert all(response["description"] for response in operation["responses"].values())
    good = [status for status in operation["responses"] if status.startswith("2")]
    assert good
    assert ("401" in operation["responses"]) == bool(operation["security"])
    bare = ("/restart", "/retry", "/recover", "/observe", "/rotate")
    takes_body = method in ("post", "put", "patch") and not path.endswith(bare)
    assert ("requestBody" in operation) == takes_body


def test_statuses_come_from_the_table_of_faults() -> None:
    statuses = {str(fault.status) for fault in FAULTS.values()}
    for _, _, operation in OPERATIONS:
        assert {status for status in operation["responses"] if status >= "400"} <= statuses


async def test_it_is_served_and_every_operation_exists() -> None:
    async with serving() as served:
        assert (await served.http.get("/openapi.json")).json() == DOCUMENT
        for path, method, _ in OPERATIONS:
            named = {"tenant": "default", "namespace": "default", "type": "counter", "key": "default", "name": "app"}
            concrete = path.format(**named, path="sessions/abc", id="schedule-1")
            options = await served.http.options(concrete)
            assert method.upper() in options.headers["allow"].split(", "), path
            if path not in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/chat"):
                anonymous = await served.http.request(method, concrete, headers={"authorization": ""})
                assert anonymous.status_code == 401, path


async def applied(served: Served) -> Any:
    """An application of one actor, deployed."""
    config = (
        '[application]\nname = "app"\n[[components]]\nname = "c"\npath = "c.wasm"\n[supervisor]\n'
        '[[supervisor.children]]\nname = "one"\nactor_type = "c"\n'
    )
    return (await served.http.post("/api/v1/applications", data={"config": config}, files={"c": b"\0asm"})).json()


async def buried(served: Served) -> Any:
    """A page of dead letters that is not the last."""
    channels, mine = served.stores.channels, Scope("default", "default")
    for _ in range(2):
        channels.send(mine, "orders", "order", "{}")
        delivery = channels.receive(mine, "orders", "somebody")
        assert isinstance(delivery, Delivery)
        channels.nack(mine, "orders", delivery.id, "somebody", requeue=False)
    return (await served.http.get("/api/v1/dead-letters?limit=1")).json()


async def test_answers_are_as_described() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    async with serving() as served:
        form = {"namespace": "default", "actor_type": "other"}
        deployed = await served.http.post("/api/v1/deploy", data=form, files={"wasm": b"\0asm"})
        for name, value in [
            ("Deployment", deployed.json()),
            ("Actor", (await served.http.get("/api/v1/actors")).json()["actors"][0]),
            ("ActorDetails", (await served.http.get("/api/v1/actors/default/default/other/info")).json()),
            ("Told", (await served.http.post("/api/v1/actors/default/default/other", json={"op": "get"})).json()),
            ("Application", await applied(served)),
            ("Applications", (await served.http.get("/api/v1/applications")).json()),
            ("Tree", (await served.http.get("/api/v1/tree")).json()),
            ("Links", (await served.http.get("/api/v1/links")).json()),
            ("Link", (await served.http.get("/api/v1/links")).json()["links"][0]),
            ("TreeRoot", (await served.http.get("/api/v1/tree")).json()["tree"][0]),
            ("TreeNode", (await served.http.get("/api/v1/tree")).json()["tree"][0]["children"][0]),
            ("Appended", (await served.http.post("/api/v1/streams/a/b", json={"event_type": "note"})).json()),
            ("Streams", (await served.http.get("/api/v1/streams?limit=1")).json()),
            ("Stream", (await served.http.get("/api/v1/streams")).json()["streams"][0]),
            ("StreamPage", (await served.http.get("/api/v1/streams/a/b")).json()),
            ("Schedule", (await served.http.post("/api/v1/schedules", json=SCHEDULE)).json()),
            ("Schedules", (await served.http.get("/api/v1/schedules")).json()),
            ("Blob", (await served.http.put("/api/v1/blobs/default/a/b", content=b"x")).json()),
            ("Blobs", (await served.http.get("/api/v1/blobs/default?limit=1")).json()),
            ("DeadLetters", await buried(served)),
            ("DeadLetter", (await buried(served))["dead_letters"][0]),
            ("Problem", (await served.http.get("/api/v1/actors/default/default/nobody")).json()),
        ]:
            properties = schemas[name]["properties"]
            assert set(value) <= set(properties), name
            assert set(schemas[name]["required"]) <= set(value), name
            kinds: dict[str, Any] = {
                "string": str,
                "integer": int,
                "number": (int, float),
                "boolean": bool,
                "array": list,
                "object": dict,
            }
            for key, each in value.items():
                if "type" not in properties[key]:
                    continue
                kind = properties[key]["type"]
                if isinstance(kind, list):
                    assert each is None or isinstance(each, kinds[kind[0]]), (name, key)
                else:
                    assert isinstance(each, kinds[kind]), (name, key)
