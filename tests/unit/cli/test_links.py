"""`plexspaces links` against the real edge."""

from __future__ import annotations

import asyncio
import json
import os

from click.testing import CliRunner

from plexspaces_runtime.cli import app
from tests.unit.api.memory_node import Served, serving


async def run(served: Served, *words: str) -> str:
    env = {
        "PLEXSPACES_URL": f"http://127.0.0.1:{served.server.port}",
        "PLEXSPACES_TOKEN": served.token,
        "HOME": "/nonexistent",
        "COLUMNS": "200",
    }

    def inside() -> str:
        clean: dict[str, str | None] = {name: None for name in os.environ if name.startswith("PLEXSPACES_")}
        with CliRunner().isolation("", {**clean, **env}) as (out, _, _):
            assert app.run(["links", *words]) == 0
            return out.getvalue().decode()

    return await asyncio.to_thread(inside)


async def test_links_are_listed_with_how_they_fare() -> None:
    async with serving() as served:
        heading, shared, own, _ = (await run(served)).splitlines()
        assert " ".join(heading.split()) == "NAME NAMESPACE LEADS TO SECRETS BREAKER REQUESTS FAILURES ALLOWS"
        assert " ".join(shared.split()) == "shared (node) https://api.example.com/v1 key open 7 5 GET /a/*, * /b?c&q"
        assert own.split()[:2] == ["api", "default"]
        told = json.loads(await run(served, "--json"))
        assert [each["name"] for each in told["links"]] == ["shared", "api", "other"]
