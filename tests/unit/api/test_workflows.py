"""Workflows and promises over HTTP: list by pages, show, start, signal, query, cancel, forget, resolve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.actors.envelope import Kind
from plexspaces_runtime.scope import Address, Scope
from plexspaces_runtime.stores.workflows import Status

from .kept_stores import durable_stores
from .memory_node import Served, assert_problem, serving

BASE = "/api/v1/workflows"
PROMISES = "/api/v1/promises"
MINE = Scope("default", "default")
LISBON = Address(MINE, "trip", "lisbon")


def begin(served: Served, key: str = "lisbon", scope: Scope = MINE, actor_type: str = "trip") -> Address:
    address = Address(scope, actor_type, key)
    served.stores.workflows.begin(address, f"m-{key}", '{"city":"Lisbon","number":12345678901234567890123}')
    return address


def hear(served: Served) -> list[tuple[Address, Kind, str, str]]:
    """What the node is told; the first run of an actor begins."""
    heard: list[tuple[Address, Kind, str, str]] = []

    def listen(address: Address, kind: Kind, op: str, payload: str) -> None:
        heard.append((address, kind, op, payload))
        if kind is Kind.RUN and served.stores.workflows.find(address) is None:
            served.stores.workflows.begin(address, "m-1", payload)

    served.node.hear = listen
    return heard


async def keys(served: Served, query: str = "") -> list[str]:
    answer = await served.http.get(BASE + query)
    assert answer.status_code == 200, answer.text
    return [f"{each['type']}/{each['key']}" for each in answer.json()["workflows"]]


async def test_a_run_is_shown_from_its_beginning_to_its_end() -> None:
    async with serving() as served:
        workflows = served.stores.workflows
        assert (await served.http.get(BASE)).json() == {"workflows": []}
        address = begin(served)
        workflows.step_begin(address, "flight", '{"retries_max":3}')
        answer = await served.http.get(f"{BASE}/trip/lisbon")
        assert '"number":12345678901234567890123' in answer.text
        run = answer.json()
        assert run.pop("started_ms") > 1_600_000_000_000
        del run["arguments"]
        assert run == {
            "namespace": "default",
            "type": "trip",
            "key": "lisbon",
            "run_id": "m-lisbon",
            "status": "running",
            "ended_ms": 0,
            "step": "flight",
            "attempt": 1,
            "steps_done": 0,
            "waits_for": "",
            "signals_waiting": 0,
            "cancel_reason": None,
        }
        workflows.step_succeeded(address, "flight")
        workflows.end(address, Status.COMPLETED, '{"booked":1.0}')
        answer = await served.http.get(f"{BASE}/trip/lisbon")
        assert '"result":{"booked":1.0}' in answer.text
        assert (answer.json()["status"], answer.json()["steps_done"]) == ("completed", 1)
        failed = begin(served, "porto")
        workflows.end(failed, Status.FAILED, '{"code":"step-failed","message":"no","details":{}}')
        assert (await served.http.get(f"{BASE}/trip/porto")).json()["error"]["code"] == "step-failed"
        assert_problem(await served.http.get(f"{BASE}/trip/faro"), 404, "not-found")


async def test_pages_and_filters() -> None:
    async with serving() as served:
        for key in ("a", "b", "c"):
            begin(served, key)
        begin(served, "a", actor_type="order")
        begin(served, "a", Scope("default", "other"))
        begin(served, "a", Scope("acme", "default"))
        served.stores.workflows.end(Address(MINE, "trip", "b"), Status.CANCELLED, '{"code":"cancelled","message":""}')
        assert await keys(served) == ["order/a", "trip/a", "trip/b", "trip/c"]
        page = (await served.http.get(f"{BASE}?limit=3")).json()
        assert page["next"] == "trip/b"
        assert await keys(served, "?limit=3&after=trip/b") == ["trip/c"]
        assert await keys(served, "?type=trip&status=running") == ["trip/a", "trip/c"]
        assert await keys(served, "?status=cancelled") == ["trip/b"]
        assert await keys(served, "?namespace=other") == ["trip/a"]


@pytest.mark.parametrize("query", ["?limit=0", "?status=dead", "?type=..", "?tenant=acme", "?namespace=.."])
async def test_what_makes_no_sense(query: str) -> None:
    async with serving() as served:
        assert_problem(await served.http.get(BASE + query), 400, "invalid-argument")


async def test_start() -> None:
    async with serving() as served:
        served.node.spawn(LISBON)
        heard = hear(served)
        answer = await served.http.post(f"{BASE}/trip/lisbon", json={"city": "Lisbon"})
        assert (answer.status_code, answer.json()["status"], answer.json()["waits_for"]) == (202, "running", "sleep")
        assert heard == [(LISBON, Kind.RUN, "run", '{"city":"Lisbon"}')]
        again = await served.http.post(f"{BASE}/trip/lisbon")
        assert again.json()["run_id"] == answer.json()["run_id"]
        waited = await served.http.post(f"{BASE}/trip/lisbon?wait=5", json={})
        assert_problem(waited, 422, "handler-refused")
        assert heard[-1] == (LISBON, Kind.RUN, "run", "{}")
        assert_problem(await served.http.post(f"{BASE}/trip/faro"), 404, "actor-not-found")
        for body in (b"[]", b"{", b'"x"'):
            assert_problem(await served.http.post(f"{BASE}/trip/lisbon", content=body), 400, "invalid-argument")


async def test_signal_and_query() -> None:
    async with serving() as served:
        served.node.spawn(LISBON)
        heard = hear(served)
        answer = await served.http.post(f"{BASE}/trip/lisbon/signals/approve", json={"by": "ada"})
        assert (answer.status_code, set(answer.json())) == (202, {"message_id"})
        assert heard == [(LISBON, Kind.SIGNAL, "approve", '{"by":"ada"}')]
        answer = await served.http.get(f"{BASE}/trip/lisbon/queries/echo?a=1&b=x&namespace=default")
        assert (answer.status_code, answer.json()) == (200, {"a": 1, "b": "x"})
        assert heard[-1][:3] == (LISBON, Kind.QUERY, "echo")
        assert_problem(await served.http.get(f"{BASE}/trip/faro/queries/get"), 404, "actor-not-found")
        assert_problem(await served.http.get(f"{BASE}/trip/lisbon/queries/{'x' * 129}"), 400, "invalid-argument")


async def test_cancel_and_forget() -> None:
    async with serving() as served:
        address = begin(served)
        asked: list[Address] = []
        served.stores.workflows.on_cancel = asked.append
        assert_problem(await served.http.delete(f"{BASE}/trip/lisbon"), 409, "conflict")
        answer = await served.http.post(f"{BASE}/trip/lisbon/cancel", json={"reason": "ill"})
        assert (answer.status_code, answer.json()["cancel_reason"]) == (202, "ill")
        again = await served.http.post(f"{BASE}/trip/lisbon/cancel")
        assert (again.status_code, again.json()["cancel_reason"]) == (202, "ill")
        assert asked == [address]
        for body in ({"reason": 1}, {"why": "x"}, {"reason": "x" * 1_001}):
            assert_problem(await served.http.post(f"{BASE}/trip/lisbon/cancel", json=body), 400, "invalid-argument")
        served.stores.workflows.end(address, Status.CANCELLED, '{"code":"cancelled","message":"ill","details":{}}')
        assert_problem(await served.http.post(f"{BASE}/trip/lisbon/cancel"), 409, "conflict")
        assert (await served.http.delete(f"{BASE}/trip/lisbon")).status_code == 204
        assert_problem(await served.http.delete(f"{BASE}/trip/lisbon"), 404, "not-found")
        begin(served, "porto")
        answer = await served.http.post(f"{BASE}/trip/porto/cancel")
        assert answer.json()["cancel_reason"] == "cancelled by ada"


async def test_promises() -> None:
    async with serving() as served:
        promises = served.stores.promises
        made = [promises.create(LISBON, "the boss agrees") for _ in range(2)]
        first, second = sorted(made, key=lambda promise: promise.id)
        promises.create(Address(Scope("acme", "default"), "trip"))
        got: list[str] = []
        promises.wait(MINE, first.id, got.append)
        page = (await served.http.get(f"{PROMISES}?limit=1")).json()
        assert [each["id"] for each in page["promises"]] == [first.id] == [page["next"]]
        assert (page["promises"][0]["name"], page["promises"][0]["owner"]) == ("the boss agrees", "trip/lisbon")
        answer = await served.http.post(f"{PROMISES}/{first.id}", content=b'{"yes":12345678901234567890123}')
        assert answer.status_code == 200
        assert '"value":{"yes":12345678901234567890123}' in answer.text
        assert got == ['{"yes":12345678901234567890123}']
        again = await served.http.post(f"{PROMISES}/{first.id}", content=b'{ "yes": 12345678901234567890123 }')
        assert again.json()["resolved_ms"] == answer.json()["resolved_ms"]
        assert_problem(await served.http.post(f"{PROMISES}/{first.id}", json=2), 409, "conflict")
        assert (await served.http.get(f"{PROMISES}/{first.id}")).json()["resolved"] is True
        open_ = (await served.http.get(f"{PROMISES}?resolved=false")).json()["promises"]
        assert [each["id"] for each in open_] == [second.id]
        assert (await served.http.post(f"{PROMISES}/{second.id}")).json()["value"] is None
        assert_problem(await served.http.post(f"{PROMISES}/{second.id}", content=b"{"), 400, "invalid-argument")
        for bad in ("?resolved=maybe", "?limit=1001", "?tenant=acme"):
            assert_problem(await served.http.get(PROMISES + bad), 400, "invalid-argument")


async def test_a_promise_of_somebody_else_is_none() -> None:
    async with serving() as served:
        theirs = served.stores.promises.create(Address(Scope("acme", "default"), "trip"), "secret")
        for path in (f"{PROMISES}/{theirs.id}", f"{PROMISES}/{theirs.id}?namespace=other"):
            assert_problem(await served.http.get(path), 404, "not-found")
            assert_problem(await served.http.post(path, json=1), 404, "not-found")
        assert served.stores.promises.get(theirs.scope, theirs.id).value is None


async def test_nothing_is_said_before_it_is_on_disk(tmp_path: Path) -> None:
    async with durable_stores(tmp_path) as stores, serving(stores=stores) as served:
        begin(served)
        promise = stores.promises.create(LISBON)
        database: Any = stores.database
        for request in (
            served.http.post(f"{BASE}/trip/lisbon/cancel"),
            served.http.post(f"{PROMISES}/{promise.id}", json=1),
            served.http.get(f"{BASE}/trip/lisbon"),
        ):
            assert (await request).status_code in (200, 202)
            assert database.stream.enqueued == database.stream.durable
        stored = database.read("SELECT cancel FROM workflows"), database.read("SELECT value FROM promises")
        assert stored == ([("cancelled by ada",)], [("1",)])
