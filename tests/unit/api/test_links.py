"""The ways out over HTTP: what may be seen of them, and by whom."""

from __future__ import annotations

from .memory_node import serving
from .test_applications import token


async def test_a_link_is_shown_without_its_secret() -> None:
    async with serving() as served:
        answer = await served.http.get("/api/v1/links")
        shared, own, _ = answer.json()["links"]
        assert shared == {
            "name": "shared",
            "namespace": "",
            "base_url": "https://api.example.com/v1",
            "allow": ["GET /a/*", "* /b?c&q"],
            "actors": ["*"],
            "secrets": ["key"],
            "breaker": "open",
            "under_way": 1,
            "requests": 7,
            "failures": 5,
        }
        assert (own["name"], own["namespace"], own["breaker"], own["requests"]) == ("api", "default", "closed", 0)
        assert "Bearer" not in answer.text


async def test_a_token_for_some_namespaces_sees_their_links_and_the_nodes() -> None:
    async with serving() as served:
        answer = await served.http.get("/api/v1/links", headers=token(served, namespaces=["two"]))
        assert [each["name"] for each in answer.json()["links"]] == ["shared", "other"]
