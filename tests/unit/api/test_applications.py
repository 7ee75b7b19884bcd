"""Applications and the supervision tree over HTTP: what is sent, what is refused, and who sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import InvalidArgument
from plexspaces_runtime.scope import Address, Scope

from .memory_node import MemoryNode, Served, assert_problem, serving

WASM = b"\0asm" + b"w" * 5_000
CONFIG = """\
[application]
name = "shop"

[[components]]
name = "code"
source = "shop/"

[[components]]
name = "more"
path = "/etc/passwd"

[supervisor]
strategy = "rest_for_one"

[[supervisor.children]]
name = "orders"
actor_type = "code"

[[supervisor.children]]
name = "workers"
[supervisor.children.supervisor]
[[supervisor.children.supervisor.children]]
name = "packer"
actor_type = "more"
"""
FILES = {"code": WASM, "more": WASM + b"2"}
BASE = "/api/v1/applications"


async def send(served: Served, config: str = CONFIG, files: dict[str, bytes] | None = None, **headers: str) -> Any:
    # The configuration last: a client may send the parts in any order.
    parts: list[tuple[str, Any]] = [
        (name, (f"../{name}", content)) for name, content in (FILES if files is None else files).items()
    ]
    return await served.http.post(BASE, files=[*parts, ("config", (None, config))], headers=headers)


def token(served: Served, tenant: str = "default", namespaces: list[str] | None = None) -> dict[str, str]:
    claims = {} if namespaces is None else {"namespaces": namespaces}
    return {"authorization": f"Bearer {served.authority.mint(tenant, 'eve', ['admin'], 3600, **claims)}"}


async def test_deploy_look_change_restart_undeploy(tmp_path: Path) -> None:
    async with serving(config=HttpConfig(port=0, upload_dir=tmp_path)) as served:
        response = await send(served)
        assert response.status_code == 201, response.text
        first = response.json()
        assert (first["name"], first["namespace"], first["tenant"], first["state"]) == (
            "shop",
            "default",
            "default",
            "running",
        )
        assert first["changes"] == ["started orders", "started packer"]
        assert set(first["components"]) == {"code", "more"}
        assert first["components"]["code"] != first["components"]["more"]
        assert response.headers["location"] == f"{BASE}/shop"
        assert (await served.http.get(f"{BASE}/shop")).json() == first
        assert list(tmp_path.iterdir()) == []

        changed = (await send(served, CONFIG.replace('"packer"', '"sorter"'))).json()
        assert (changed["version"], changed["changes"]) == (2, ["stopped packer", "started sorter"])
        assert (await send(served, CONFIG.replace('"packer"', '"sorter"'))).json()["changes"] == []

        restarted = await served.http.post(f"{BASE}/shop/restart")
        assert (restarted.status_code, restarted.json()["restarts"]) == (200, 1)
        assert [each["name"] for each in (await served.http.get(BASE)).json()["applications"]] == ["shop"]
        assert (await served.http.get(f"{BASE}?namespace=other")).json() == {"applications": []}

        assert (await served.http.delete(f"{BASE}/shop")).status_code == 204
        for method, path in [("GET", "/shop"), ("DELETE", "/shop"), ("POST", "/shop/restart")]:
            problem = assert_problem(await served.http.request(method, BASE + path), 404, "not-found")
            assert "'shop'" in problem["detail"]


async def test_the_nodes_disk_is_not_read() -> None:
    async with serving() as served:
        problem = assert_problem(await send(served, files={"code": WASM}), 400, "invalid-argument")
        assert problem["details"] == {"missing": ["more"], "unknown": []}
        assert "'more' (line 8 of the configuration) is not in the form" in problem["detail"]
        assert "reads neither path nor source" in problem["detail"]
        assert served.node.uploads == []


async def test_missing_and_unknown_components_are_named_at_once() -> None:
    async with serving() as served:
        problem = assert_problem(await send(served, files={"more": WASM, "moer": WASM}), 400, "invalid-argument")
        assert problem["details"] == {"missing": ["code"], "unknown": ["moer"]}
        assert "a file 'moer', and the configuration has no such component; it has code, more" in problem["detail"]
        assert served.node.applied == {}


async def test_every_mistake_in_the_configuration_comes_with_its_line() -> None:
    async with serving() as served:
        bad = CONFIG.replace("rest_for_one", "rest_of_one").replace('name = "packer"', 'name = "packer"\nrole = 3')
        problem = assert_problem(await send(served, bad), 400, "invalid-argument")
        issues = problem["details"]["issues"]
        assert [issue.split(": ")[0] for issue in issues] == ["app-config.toml:13", "app-config.toml:24"]
        assert all(issue in problem["detail"] for issue in issues)
        assert served.node.uploads == []


async def test_facets_are_checked_where_the_node_says_which_there_are() -> None:
    def virtual(config: Any) -> None:
        if "idle_timeout" not in config:
            raise InvalidArgument("idle_timeout is missing")

    facets = CONFIG + 'facets = [{ type = "virtal" },\n { type = "virtual", config = {} }]\n'
    async with serving(facet_types={"virtual": virtual}) as served:
        issues = assert_problem(await send(served, facets), 400, "invalid-argument")["details"]["issues"]
        assert [issue.split(": ", 2)[0] for issue in issues] == ["app-config.toml:25", "app-config.toml:26"]
        assert "did you mean 'virtual'?" in issues[0]
        assert "idle_timeout is missing" in issues[1]


async def test_an_actors_limit_may_not_be_more_than_the_nodes() -> None:
    limits = CONFIG + "limits = { mailbox_messages_max = 11 }\n"
    node = MemoryNode(limits=Limits(mailbox_messages_max=10, wasm_bytes_max=1 << 20))
    async with serving(node) as served:
        problem = assert_problem(await send(served, limits), 400, "invalid-argument")
        assert "at most 10 (mailbox_messages_max of its own configuration)" in problem["detail"]
        assert (await send(served, limits.replace("11", "10"))).status_code == 201


async def test_no_configuration_and_no_form() -> None:
    async with serving() as served:
        problem = assert_problem(await served.http.post(BASE, files={"code": WASM}), 400, "invalid-argument")
        assert "no field 'config'" in problem["detail"]
        assert_problem(await served.http.post(BASE, json={}), 415, "unsupported-media-type")
        twice = [("config", (None, CONFIG)), ("config", (None, CONFIG))]
        assert "twice" in assert_problem(await served.http.post(BASE, files=twice), 400, "invalid-argument")["detail"]
        same = [("config", (None, CONFIG)), ("code", WASM), ("code", WASM)]
        assert "two files called 'code'" in (await served.http.post(BASE, files=same)).json()["detail"]
        broken = await served.http.post(
            BASE, content=b"--b\r\nx", headers={"content-type": "multipart/form-data; boundary=b"}
        )
        assert_problem(broken, 400, "invalid-argument")
        assert "is not UTF-8" in (await served.http.post(BASE, files={"config": (None, b"\xff")})).json()["detail"]


async def test_a_component_that_is_none_is_the_components_fault() -> None:
    async with serving() as served:
        assert_problem(await send(served, files={**FILES, "code": b"no wasm"}), 422, "invalid-component")
        assert "toml:1: this is not TOML" in (await send(served, "= 1")).json()["detail"]


@pytest.mark.parametrize(("size", "status"), [(99, 201), (100, 201), (101, 413)])
async def test_one_component_is_as_large_as_a_component_may_be(tmp_path: Path, size: int, status: int) -> None:
    node = MemoryNode(limits=Limits(wasm_bytes_max=100))
    async with serving(node, HttpConfig(port=0, upload_dir=tmp_path)) as served:
        response = await send(served, files={"code": b"\0asm".ljust(size, b"x"), "more": b"\0asm"})
        assert response.status_code == status, response.text
        if status == 413:
            assert assert_problem(response, 413, "payload-too-large")["details"]["limit"] == "wasm_bytes_max"
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("size", "status"), [(1_999, 201), (2_000, 201), (2_001, 413)])
async def test_all_components_together_have_a_limit(tmp_path: Path, size: int, status: int) -> None:
    config = HttpConfig(port=0, upload_dir=tmp_path, application_bytes_max=2_000)
    async with serving(config=config) as served:
        files = {"code": b"\0asm".ljust(1_000, b"x"), "more": b"\0asm".ljust(size - 1_000, b"x")}
        response = await send(served, files=files)
        assert response.status_code == status, response.text
        if status == 413:
            assert assert_problem(response, 413, "payload-too-large")["details"]["limit"] == "application_bytes_max"
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("files_max", "status"), [(1, 400), (2, 201), (3, 201)])
async def test_the_number_of_components_has_a_limit(files_max: int, status: int) -> None:
    async with serving(config=HttpConfig(port=0, application_components_max=files_max)) as served:
        response = await send(served)
        assert response.status_code == status
        assert status == 201 or f"more files than the {files_max}" in response.json()["detail"]


async def test_a_whole_form_that_is_too_large_is_refused_by_its_length() -> None:
    async with serving(config=HttpConfig(port=0, application_bytes_max=1_000)) as served:
        head = served.head(
            f"POST {BASE} HTTP/1.1", "content-type: multipart/form-data; boundary=b", "content-length: 9999999"
        )
        assert (await served.raw(head)).startswith(b"HTTP/1.1 413 ")


async def test_a_file_without_content_is_a_file() -> None:
    async with serving() as served:
        assert_problem(await send(served, files={**FILES, "more": b""}), 422, "invalid-component")


ROUTES = [
    ("POST", BASE),
    ("GET", BASE),
    ("GET", f"{BASE}/shop"),
    ("DELETE", f"{BASE}/shop"),
    ("POST", f"{BASE}/shop/restart"),
    ("GET", "/api/v1/tree"),
    ("POST", "/api/v1/actors/default/default/orders/default/restart"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_nothing_goes_without_a_token(method: str, path: str) -> None:
    async with serving() as served:
        await send(served)
        response = await served.http.request(method, path, headers={"authorization": ""})
        assert_problem(response, 401, "unauthenticated")
        assert served.node.application("default", "shop").restarts == 0


def same_but_for_names(one: httpx.Response, other: httpx.Response, name: str, other_name: str) -> bool:
    return (one.status_code, one.text.replace(name, "?")) == (other.status_code, other.text.replace(other_name, "?"))


@pytest.mark.parametrize("namespaces", [None, ["elsewhere"]], ids=["other tenant", "other namespace"])
@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if "/shop" in route[1]])
async def test_anothers_application_is_like_none(method: str, path: str, namespaces: list[str] | None) -> None:
    async with serving() as served:
        await send(served)
        who = token(served, "default" if namespaces else "other", namespaces)
        theirs = await served.http.request(method, path, headers=who)
        nobodys = await served.http.request(method, path.replace("shop", "none"), headers=who)
        assert_problem(theirs, 404, "not-found")
        assert same_but_for_names(theirs, nobodys, "shop", "none")
        assert served.node.application("default", "shop").restarts == 0


async def test_lists_and_trees_hold_only_what_one_may_see() -> None:
    async with serving() as served:
        await send(served)
        await send(served, CONFIG.replace('"shop"', '"shop2"\nnamespace = "two"'))
        form = {"namespace": "two", "actor_type": "lone"}
        await served.http.post("/api/v1/deploy", data=form, files={"wasm": WASM})
        for who, names, roots in [
            (token(served), ["shop", "shop2"], ["default/shop", "two/shop2", "two/lone"]),
            (token(served, namespaces=["two"]), ["shop2"], ["two/shop2", "two/lone"]),
            (token(served, namespaces=["three"]), [], []),
            (token(served, "other"), [], []),
        ]:
            listed = (await served.http.get(BASE, headers=who)).json()["applications"]
            assert [each["name"] for each in listed] == names
            tree = (await served.http.get("/api/v1/tree", headers=who)).json()["tree"]
            assert [f"{each['namespace']}/{each['name']}" for each in tree] == roots
        for path in (BASE, "/api/v1/tree"):
            forbidden = await served.http.get(f"{path}?namespace=two", headers=token(served, namespaces=["three"]))
            assert_problem(forbidden, 403, "permission-denied")
        one = (await served.http.get("/api/v1/tree?namespace=default")).json()["tree"]
        assert [each["name"] for each in one] == ["shop"]


async def test_one_deploys_only_where_one_may() -> None:
    async with serving() as served:
        await send(served)
        two = token(served, namespaces=["two"])
        assert_problem(await send(served, **two), 403, "permission-denied")
        problem = assert_problem(
            await send(served, CONFIG.replace('"shop"', '"shop"\nnamespace = "two"'), **two), 409, "conflict"
        )
        assert "default" not in problem["detail"]
        assert (await send(served, **token(served, "other"))).status_code == 201
        assert {key[0] for key in served.node.applied} == {"default", "other"}


async def test_the_tree_shows_supervisors_and_actors() -> None:
    async with serving() as served:
        await send(served)
        (root,) = (await served.http.get("/api/v1/tree")).json()["tree"]
        assert (root["kind"], root["strategy"], root["address"], root["restarts_max"]) == (
            "application",
            "rest_for_one",
            None,
            10,
        )
        orders, workers = root["children"]
        assert (orders["kind"], orders["address"], orders["restart"]) == ("actor", "orders", "permanent")
        assert (workers["kind"], [each["address"] for each in workers["children"]]) == ("supervisor", ["packer"])


async def test_an_actor_is_restarted_even_after_it_was_stopped() -> None:
    async with serving() as served:
        counter = "/api/v1/actors/default/default/counter"
        await served.http.post(f"{counter}?wait=5", json={"op": "increment"})
        assert (await served.http.post(f"{counter}/default/restart")).status_code == 204
        assert (await served.http.get(counter)).json() == {"count": 0}
        assert (await served.http.delete(counter)).status_code == 204
        assert_problem(await served.http.get(counter), 404, "actor-not-found")
        assert (await served.http.post(f"{counter}/default/restart")).status_code == 204
        assert (await served.http.get(counter)).json() == {"count": 0}
        assert_problem(await served.http.post(f"{counter}/k/restart"), 404, "actor-not-found")
        assert_problem(await served.http.get(f"{counter}/default/restart"), 405, "method-not-allowed")
        foreign = "/api/v1/actors/other/default/counter/default/restart"
        assert_problem(await served.http.post(foreign), 403, "permission-denied")


async def test_an_actor_may_have_the_key_restart() -> None:
    async with serving() as served:
        address = Address(Scope("default", "default"), "counter", "restart")
        served.node.spawn(address).count = 7
        key = "/api/v1/actors/default/default/counter/restart"
        assert (await served.http.get(key)).json() == {"count": 7}
        told = await served.http.post(f"{key}?wait=5", json={"op": "increment"})
        assert told.json() == {"count": 8}
