"""Over HTTP: no token, another tenant's, and what a refusal may not give away."""

from __future__ import annotations

import pytest

from plexspaces_runtime.api.auth import LocalAuthority
from plexspaces_runtime.scope import Address, Scope
from tests.unit.api.memory_node import Served, assert_problem, serving

OPERATIONS = [
    ("POST", "/api/v1/actors/{tenant}/{namespace}/counter"),
    ("POST", "/api/v1/actors/{tenant}/{namespace}/counter?wait=5"),
    ("GET", "/api/v1/actors/{tenant}/{namespace}/counter"),
    ("HEAD", "/api/v1/actors/{tenant}/{namespace}/counter"),
    ("DELETE", "/api/v1/actors/{tenant}/{namespace}/counter"),
    ("GET", "/api/v1/actors/{tenant}/{namespace}/counter/key"),
    ("GET", "/api/v1/actors/{tenant}/{namespace}/counter/info"),
    ("GET", "/api/v1/actors/{tenant}/{namespace}/counter/key/info"),
]
OWN = [
    ("GET", "/api/v1/actors"),
    ("GET", "/api/v1/deployments"),
    ("POST", "/api/v1/deploy"),
    ("DELETE", "/api/v1/deployments/default/counter"),
]


async def call(served: Served, method: str, path: str, token: str | None, tenant: str = "default") -> tuple[int, str]:
    headers = {"authorization": f"Bearer {token}"} if token is not None else {"authorization": ""}
    content = b'{"op":"increment"}' if method == "POST" else None
    url = path.format(tenant=tenant, namespace="default")
    response = await served.http.request(method, url, headers=headers, content=content)
    return response.status_code, response.text


@pytest.mark.parametrize(("method", "path"), OPERATIONS + OWN)
async def test_nothing_without_a_token(method: str, path: str) -> None:
    async with serving() as served:
        stranger = LocalAuthority(b"x" * 32, served.node.clock).mint("default", "eve", ["admin"], 60)
        for token in (None, "nonsense", stranger):
            assert (await call(served, method, path, token))[0] == 401
        assert served.node.messages == []
        assert len(served.node.living) == 1


async def test_the_challenge() -> None:
    async with serving() as served:
        served.http.headers.pop("authorization")
        path = "/api/v1/actors/default/default/counter"
        bare = await served.http.get(path)
        assert_problem(bare, 401, "unauthenticated")
        assert bare.headers["www-authenticate"] == 'Bearer realm="plexspaces"'
        bad = await served.http.get(path, headers=[(b"authorization", b'Bearer "x"\xe9')])
        assert_problem(bad, 401, "unauthenticated")
        wrong = await served.http.get(path, headers={"authorization": "Bearer a.b.c"})
        assert 'error="invalid_token", error_description="' in wrong.headers["www-authenticate"]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_another_tenants_actors(method: str, path: str) -> None:
    async with serving() as served:
        served.node.spawn(Address(Scope("acme", "default"), "counter"))
        token = served.authority.mint("default", "ada", ["admin"], 60)
        # Paths are remembered: the owner having been there must not open them.
        owner = served.authority.mint("acme", "bob", ["admin"], 60)
        assert (await call(served, "GET", OPERATIONS[2][1], owner, "acme"))[0] == 200
        messages = len(served.node.messages)
        there = await call(served, method, path, token, "acme")
        nowhere = await call(served, method, path, token, "nobody")
        assert there[0] == nowhere[0] == 403
        # Whether the other tenant exists cannot be told.
        assert there[1].replace("acme", "nobody") == nowhere[1]
        assert len(served.node.messages) == messages
        assert Address(Scope("acme", "default"), "counter") in served.node.living


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_a_namespace_the_token_is_not_for(method: str, path: str) -> None:
    async with serving() as served:
        token = served.authority.mint("default", "ada", ["admin"], 60, namespaces=["mine"])
        assert (await call(served, method, path, token))[0] == 403
        assert served.node.messages == []


async def test_lists_show_only_what_the_token_is_for() -> None:
    async with serving() as served:
        for tenant, namespace in (("default", "mine"), ("acme", "mine")):
            served.node.spawn(Address(Scope(tenant, namespace), "counter"))
        token = served.authority.mint("default", "ada", ["admin"], 60, namespaces=["mine"])
        headers = {"authorization": f"Bearer {token}"}
        listed = (await served.http.get("/api/v1/actors", headers=headers)).json()["actors"]
        assert [(row["tenant"], row["namespace"]) for row in listed] == [("default", "mine")]
        refused = await served.http.get("/api/v1/actors?namespace=default", headers=headers)
        assert_problem(refused, 403, "permission-denied")
        refused = await served.http.get("/api/v1/deployments?namespace=default", headers=headers)
        assert_problem(refused, 403, "permission-denied")
        refused = await served.http.delete("/api/v1/deployments/default/counter", headers=headers)
        assert_problem(refused, 403, "permission-denied")


async def test_a_token_is_judged_before_the_body_is_read() -> None:
    async with serving() as served:
        head = (
            "POST /api/v1/deploy HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n"
            "content-type: multipart/form-data; boundary=b\r\n\r\n"
        )
        answer = await served.raw(head.encode())
        assert answer.startswith(b"HTTP/1.1 401 ")


async def test_an_idempotency_key_does_not_cross_tenants() -> None:
    async with serving() as served:
        served.node.spawn(Address(Scope("acme", "default"), "counter"))
        for tenant in ("default", "acme"):
            token = served.authority.mint(tenant, "ada", ["admin"], 60)
            response = await served.http.post(
                f"/api/v1/actors/{tenant}/default/counter?wait=5",
                json={"op": "increment"},
                headers={"authorization": f"Bearer {token}", "idempotency-key": "same"},
            )
            assert response.json() == {"count": 1}
            assert "idempotency-replayed" not in response.headers
