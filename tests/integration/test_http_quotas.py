"""Permissions and quotas at the edge: every route of the table by each role, 429 with when to come back."""

from __future__ import annotations

import re
from dataclasses import replace

import httpx
import pytest

from plexspaces_runtime.api.permissions import DEFAULT, ROLES, Permission, needed
from plexspaces_runtime.api.routes import ROUTES, Route
from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import Limits
from tests.unit.api.memory_node import MemoryNode, Served, serving

COUNTER = "/api/v1/actors/default/default/counter"
GUARDED = [route for route in ROUTES if not route.public]
LIMITS = Limits(payload_bytes_max=4096, wasm_bytes_max=1 << 20)


def path_of(route: Route) -> str:
    known = {"tenant": "default", "namespace": "default", "type": "counter", "key": "none", "name": "none"}
    return re.sub(r"\{(\w+)\}", lambda found: known.get(found[1], "none"), route.path)


async def send(served: Served, route: Route, token: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"}
    return await served.http.request(route.method, path_of(route), headers=headers)


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: route.operation)
async def test_each_role_gets_past_the_door_exactly_where_the_table_says(route: Route) -> None:
    async with serving() as served:
        permission = needed(route.operation)
        for role, permissions in {**ROLES, "": DEFAULT, "clerk": DEFAULT}.items():
            answer = await send(served, route, served.authority.mint("default", "ada", [role] if role else [], 60))
            is_refused = answer.status_code == 403
            assert is_refused is (permission not in permissions), (role, answer.status_code, answer.text)
            if is_refused:
                problem = answer.json()
                assert problem["code"] == "permission-denied"
                assert problem["details"]["permission"] == permission.value
                assert "the role" in problem["detail"] or "the scope" in problem["detail"]


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: route.operation)
async def test_a_token_for_nothing_of_the_nodes_does_nothing(route: Route) -> None:
    """An administrator's token, but made for something else; and one that is made for exactly this."""
    async with serving() as served:
        permission = needed(route.operation)
        other = "plexspaces:view" if permission is not Permission.VIEW else "plexspaces:call"
        token = served.authority.mint("default", "ada", ["admin"], 60, scopes=[other])
        assert (await send(served, route, token)).status_code == 403
        token = served.authority.mint("default", "ada", [], 60, scopes=[f"plexspaces:{permission.value}"])
        assert (await send(served, route, token)).status_code != 403


async def test_a_session_reads_its_own_stream_and_no_other() -> None:
    async with serving() as served:
        admin = served.auth
        for path in ("sessions/s1", "sessions/s2"):
            made = await served.http.post(f"/api/v1/streams/{path}", json={"event_type": "x"}, headers=admin)
            assert made.status_code == 201
        token = served.authority.mint("default", "ada", [], 60, session="s1")
        mine = {"authorization": f"Bearer {token}"}
        assert (await served.http.get("/api/v1/streams/sessions/s1", headers=mine)).status_code == 200
        assert (await served.http.get("/api/v1/streams/sessions/s1%2F..%2Fs2", headers=mine)).status_code == 400
        for path in ("sessions/s2", "sessions", "sessions%2Fs2"):
            assert (await served.http.get(f"/api/v1/streams/{path}", headers=mine)).status_code == 403
        assert (await served.http.post("/api/v1/streams/sessions/s1", json={}, headers=mine)).status_code == 403
        assert (await served.http.get("/api/v1/streams", headers=mine)).status_code == 403


async def test_too_fast_is_429_with_when_to_come_back() -> None:
    clock = ManualClock()
    limits = replace(LIMITS, requests_per_second_per_tenant_max=0.4, requests_burst_per_tenant=2)
    async with serving(MemoryNode(clock=clock, limits=limits)) as served:
        auth = served.auth
        answers = [await served.http.get(COUNTER, headers=auth) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        refused = answers[2]
        assert refused.headers["retry-after"] == "3"
        problem = refused.json()
        assert problem["code"] == "rate-limited"
        assert problem["details"] == {
            "limit": "requests_per_second_per_tenant_max",
            "value": 0.4,
            "retry_after_ms": 2_500,
        }
        assert problem["detail"] == "this tenant has 0.4 requests per second: try again in 2500 ms"
        # Another tenant, and what needs no token, are not concerned.
        other = {"authorization": f"Bearer {served.authority.mint('other', 'bob', [], 60)}"}
        assert (await served.http.get("/api/v1/actors/other/default/counter", headers=other)).status_code == 404
        assert (await served.http.get("/healthz")).status_code == 200
        clock.advance(2.5)
        assert (await served.http.get(COUNTER, headers=auth)).status_code == 200


async def test_every_route_counts_and_one_that_fails_counts_no_longer_under_way() -> None:
    limits = replace(LIMITS, requests_in_flight_per_tenant_max=1)
    async with serving(MemoryNode(limits=limits)) as served:
        for _ in range(3):
            assert (await served.http.get(COUNTER + "/none", headers=served.auth)).status_code == 404
            assert (await served.http.get("/api/v1/tree?what=1", headers=served.auth)).status_code == 400
        waiting = await served.connect()
        waiting[1].write(
            served.head(f"POST {COUNTER}?wait=5 HTTP/1.1", "content-type: application/json", "content-length: 13")
            + b'{"op":"wait"}'
        )
        await served.node.entered.wait()
        for path in (COUNTER, "/api/v1/tree"):
            refused = await served.http.get(path, headers=served.auth)
            assert refused.status_code == 429
            assert refused.json()["details"]["limit"] == "requests_in_flight_per_tenant_max"
            assert refused.headers["retry-after"] == "1"
        served.node.gate.set()
        assert (await waiting[0].read()).startswith(b"HTTP/1.1 200")
        waiting[1].close()
        assert (await served.http.get(COUNTER, headers=served.auth)).status_code == 200


async def test_a_tenants_own_quota() -> None:
    limits = replace(LIMITS, requests_per_second_per_tenant_max=0.001, requests_burst_per_tenant=1)
    quotas = {"default": replace(limits, requests_burst_per_tenant=3)}
    async with serving(MemoryNode(limits=limits, quotas=quotas)) as served:
        answers = [await served.http.get(COUNTER, headers=served.auth) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
