"""Tell, ask, stop and look at actors over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.scope import Address, Scope
from tests.unit.api.memory_node import MemoryNode, assert_problem, serving

COUNTER = "/api/v1/actors/default/default/counter"


async def test_the_quick_start() -> None:
    async with serving() as served:
        told = await served.http.post(COUNTER, json={"action": "increment", "amount": 5})
        assert told.status_code == 202
        assert told.json()["message_id"]
        asked = await served.http.get(COUNTER)
        assert asked.status_code == 200
        assert asked.headers["content-type"] == "application/json"
        assert asked.json() == {"count": 5}


async def test_curl_without_a_content_type_header() -> None:
    async with serving() as served:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        body = b'{"action":"increment","amount":2}'
        assert (await served.http.post(COUNTER, content=body, headers=headers)).status_code == 202
        refused = await served.http.post(COUNTER, content=b"action=increment", headers=headers)
        assert_problem(refused, 415, "unsupported-media-type")


@pytest.mark.parametrize("name", ["op", "action", "message_type", "msg_type"])
async def test_a_post_with_a_wait_is_an_ask(name: str) -> None:
    async with serving() as served:
        by_query = await served.http.post(COUNTER + "?wait=5", json={name: "increment", "amount": 2})
        assert (by_query.status_code, by_query.json()) == (200, {"count": 2})
        by_header = await served.http.post(
            COUNTER, json={name: "increment"}, headers={"prefer": 'respond-async, wait="5"; x=y'}
        )
        assert (by_header.status_code, by_header.json()) == (200, {"count": 3})


async def test_the_body_reaches_the_actor_as_it_came() -> None:
    async with serving() as served:
        body = '{"op": "echo",  "n": 123456789012345678901234567890, "s": "\\u00e9\u00e9", "f": 1.0}'
        await served.http.post(COUNTER, content=body.encode())
        assert served.node.messages[-1][:2] == ("echo", body)


async def test_no_reply_is_null() -> None:
    async with serving() as served:
        assert (await served.http.post(COUNTER + "?wait=1", json={"op": "nothing"})).json() is None


async def test_an_actor_with_a_key() -> None:
    async with serving() as served:
        served.node.spawn(Address(Scope("default", "default"), "counter", "ada@example.com"))
        response = await served.http.post(COUNTER + "/ada%40example.com?wait=5", json={"op": "increment"})
        assert response.json() == {"count": 1}
        assert (await served.http.get(COUNTER)).json() == {"count": 0}


async def test_query_arguments() -> None:
    async with serving() as served:
        query = "?op=echo&n=7&s=text&quoted=%227%22&yes=true&none=null&many=1&many=x&o=%7B%22a%22:[1]%7D&empty="
        response = await served.http.get(COUNTER + query)
        assert response.json() == {
            "n": 7,
            "s": "text",
            "quoted": "7",
            "yes": True,
            "none": None,
            "many": [1, "x"],
            "o": {"a": [1]},
            "empty": "",
        }


async def test_the_caller_and_the_trace_travel_with_the_message() -> None:
    async with serving() as served:
        token = served.authority.mint("default", "bob", ["b", "a"], 60, session="s1")
        trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
        headers = {"authorization": f"Bearer {token}", "traceparent": trace}
        response = await served.http.get(COUNTER + "?op=whoami", headers=headers)
        assert response.json() == {"subject": "bob", "roles": ["a", "b"], "session": "s1"}
        assert served.node.messages[-1][3] == trace
        await served.http.get(COUNTER, headers={"traceparent": "nonsense"})
        assert served.node.messages[-1][3] == ""


@pytest.mark.parametrize(
    ("op", "status", "code"),
    [
        ("unheard-of", 422, "handler-refused"),
        ("crash", 502, "handler-crashed"),
        ("full", 429, "mailbox-full"),
    ],
)
async def test_an_actors_error_is_a_problem_document(op: str, status: int, code: str) -> None:
    async with serving() as served:
        response = await served.http.post(COUNTER + "?wait=5", json={"op": op})
        document = assert_problem(response, status, code)
        assert "secret" not in response.text
        if code == "mailbox-full":
            assert response.headers["retry-after"] == "3"
            assert document["details"]["messages"] == 1000


async def test_a_fault_of_the_node_says_nothing_but_where_to_look(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served:
        response = await served.http.post(COUNTER + "?wait=5", json={"op": "bug"})
        document = assert_problem(response, 500, "internal")
        assert "hunter2" not in response.text
        incident = document["details"]["incident"]
        assert incident in document["detail"]
        assert incident in caplog.text
        assert "hunter2" in caplog.text


async def test_a_reply_that_does_not_come_in_time() -> None:
    async with serving() as served:
        response = await served.http.post(COUNTER + "?wait=0.05", json={"op": "wait"})
        assert_problem(response, 504, "deadline-exceeded")


async def test_there_is_no_such_actor() -> None:
    async with serving() as served:
        for method, path in [
            ("GET", "/api/v1/actors/default/default/nobody"),
            ("DELETE", "/api/v1/actors/default/default/counter/nobody"),
            ("GET", "/api/v1/actors/default/default/nobody/info"),
            ("GET", "/api/v1/actors/default/default/counter/nobody/info"),
        ]:
            assert_problem(await served.http.request(method, path), 404, "actor-not-found")


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (b"", '"op"'),
        (b"{}", '"op"'),
        (b"[1]", "JSON object"),
        (b'"text"', "JSON object"),
        (b"{", "not JSON"),
        (b'{"op": "x", }', "not JSON"),
        (b'{"op": 1}', "string"),
        (b'{"op": ""}', "string"),
        (b'{"op": "' + b"x" * 129 + b'"}', "string"),
        (b'{"op": "x", "n": NaN}', "not JSON"),
        (b'{"op": "\xff"}', "not JSON"),
        (b'{"op": "x", "a": ' + b"[" * 1100 + b"]" * 1100 + b"}", "not JSON"),
    ],
)
async def test_a_body_that_is_no_message(body: bytes, hint: str) -> None:
    async with serving() as served:
        document = assert_problem(await served.http.post(COUNTER, content=body), 400, "invalid-argument")
        assert hint in document["detail"]
        assert served.node.messages == []


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "multipart/form-data", "application/json; charset=latin-1", "x"]
)
async def test_a_body_that_is_not_json(content_type: str) -> None:
    async with serving() as served:
        response = await served.http.post(COUNTER, content=b'{"op":"get"}', headers={"content-type": content_type})
        assert_problem(response, 415, "unsupported-media-type")


@pytest.mark.parametrize("content_type", ["application/json; charset=UTF-8", "application/merge-patch+json"])
async def test_json_by_other_names(content_type: str) -> None:
    async with serving() as served:
        response = await served.http.post(COUNTER, content=b'{"op":"get"}', headers={"content-type": content_type})
        assert response.status_code == 202


@pytest.mark.parametrize(("size", "status"), [(4095, 202), (4096, 202), (4097, 413)])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_size_of_a_message(size: int, status: int, chunked: bool) -> None:
    async with serving() as served:
        frame = b'{"op":"echo","a":""}'
        body = frame[:-2] + b"x" * (size - len(frame)) + frame[-2:]

        async def pieces() -> AsyncIterator[bytes]:
            yield body[:100]
            yield body[100:]

        response = await served.http.post(COUNTER, content=pieces() if chunked else body)
        assert response.status_code == status
        if status == 413:
            assert assert_problem(response, 413, "payload-too-large")["details"]["bytes_max"] == 4096


async def test_a_message_without_an_end_is_refused_before_it() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(served.head(f"POST {COUNTER} HTTP/1.1", "transfer-encoding: chunked"))
        answer = asyncio.create_task(reader.readuntil(b"}"))
        async with asyncio.timeout(10):
            while not answer.done():
                writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0)
        assert (await answer).startswith(b"HTTP/1.1 413 ")
        writer.transport.abort()


@pytest.mark.parametrize("wait", ["0", "-1", "abc", "301", "1e3", "nan", ""])
async def test_a_wait_that_cannot_be(wait: str) -> None:
    async with serving() as served:
        response = await served.http.post(COUNTER + f"?wait={wait}", json={"op": "get"})
        assert_problem(response, 400, "invalid-argument")
        assert served.node.messages == []


async def test_a_misspelt_parameter_does_not_turn_an_ask_into_a_tell() -> None:
    async with serving() as served:
        response = await served.http.post(COUNTER + "?wiat=5", json={"op": "get"})
        assert "wiat" in assert_problem(response, 400, "invalid-argument")["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/actors/default/default/coun%zzter",
        "/api/v1/actors/default/default/counter/%ff",
        "/api/v1/actors/default/default/counter/a%2Fb",
        "/api/v1/actors/default/default/counter/a%20b",
        "/api/v1/actors/default/default/counter/%00",
        "/api/v1/actors/default/default/counter/" + "k" * 257,
        "/api/v1/actors/default/default/-counter",
        "/api/v1/actors/default/default/" + "t" * 65,
        "/api/v1/actors/default//counter",
        "/api/v1/actors/../default/counter",
        "/api/v1/actors/default/default/counter/",
        "/api/v1/actors/default/default/counter?a=%zz",
        "/api/v1/actors/default/default/counter?a=%ff",
        "/api/v1/actors/default/default/counter?" + "&".join(f"a{n}=1" for n in range(101)),
    ],
)
async def test_an_address_that_names_nothing(path: str) -> None:
    async with serving() as served:
        answer = await served.raw(served.head(f"GET {path} HTTP/1.1"))
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert b'"code":"invalid-argument"' in answer


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/api/v1/actors/default", "/api/v1/actors/default/default/counter/a/b", "/api/v1/deploy/"]
)
async def test_there_is_nothing_under_an_address(path: str) -> None:
    async with serving() as served:
        assert_problem(await served.http.get(path), 404, "not-found")


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        (COUNTER, "PUT", "GET, HEAD, POST, DELETE, OPTIONS"),
        (COUNTER + "/key/info", "POST", "GET, HEAD, OPTIONS"),
        ("/api/v1/actors", "POST", "GET, HEAD, OPTIONS"),
        ("/api/v1/deploy", "GET", "POST, OPTIONS"),
        ("/healthz", "DELETE", "GET, HEAD, OPTIONS"),
    ],
)
async def test_another_method(path: str, method: str, allow: str) -> None:
    async with serving() as served:
        response = await served.http.request(method, path)
        assert assert_problem(response, 405, "method-not-allowed")["details"]["allow"] == allow.split(", ")
        assert response.headers["allow"] == allow
        options = await served.http.options(path)
        assert (options.status_code, options.headers["allow"], options.content) == (204, allow, b"")


async def test_head_is_get_without_the_body() -> None:
    async with serving() as served:
        get, head = await served.http.get("/healthz"), await served.http.head("/healthz")
        assert head.status_code == 200
        assert head.headers["content-length"] == get.headers["content-length"]
        assert head.content == b""


async def test_stop_an_actor() -> None:
    async with serving() as served:
        assert (await served.http.delete(COUNTER + "?kill=maybe")).status_code == 400
        assert (await served.http.delete(COUNTER + "?kill=true")).status_code == 204
        assert_problem(await served.http.get(COUNTER), 404, "actor-not-found")


async def test_look_at_actors() -> None:
    async with serving() as served:
        scope = Scope("default", "default")
        for number in range(5):
            served.node.spawn(Address(scope, "counter", f"k{number}"))
        served.node.spawn(Address(Scope("default", "other"), "counter"))
        served.node.spawn(Address(Scope("stranger", "default"), "hidden"))
        first = (await served.http.get("/api/v1/actors?namespace=default&limit=4")).json()
        rest = (await served.http.get("/api/v1/actors", params={"namespace": "default", "after": first["next"]})).json()
        assert [row["key"] for row in first["actors"] + rest["actors"]] == ["default", "k0", "k1", "k2", "k3", "k4"]
        assert "next" not in rest
        everything = await served.http.get("/api/v1/actors")
        assert len(everything.json()["actors"]) == 7
        assert "stranger" not in everything.text
        assert "hidden" not in everything.text
        info = (await served.http.get(COUNTER + "/k1/info")).json()
        assert (info["type"], info["key"], info["state"]) == ("counter", "k1", "idle")
        assert (await served.http.get(COUNTER + "/info")).json()["key"] == "default"


@pytest.mark.parametrize("limit", ["0", "1001", "x", "-1", "1.5"])
async def test_a_page_of_no_size(limit: str) -> None:
    async with serving() as served:
        assert_problem(await served.http.get(f"/api/v1/actors?limit={limit}"), 400, "invalid-argument")


async def test_health_readiness_and_metrics() -> None:
    async with serving() as served:
        public = httpx.AsyncClient(base_url=served.http.base_url)
        async with public:
            assert (await public.get("/healthz")).json() == {"status": "ok"}
            assert (await public.get("/readyz")).status_code == 200
            served.node.ready = False
            assert_problem(await public.get("/readyz"), 503, "unavailable")
            assert (await public.get("/healthz")).status_code == 200
            await served.http.get(COUNTER)
            metrics = await public.get("/metrics")
            assert metrics.headers["content-type"].startswith("text/plain; version=")
            assert 'plexspaces_http_requests_total{operation="get_actor",status="200"} 1.0' in metrics.text
            assert "plexspaces_messages_total 1.0" in metrics.text
            assert "plexspaces_actors 1.0" in metrics.text
            assert (
                'plexspaces_http_request_duration_seconds_bucket{le="+Inf",operation="get_actor"} 1.0' in metrics.text
            )


async def test_more_requests_than_the_node_serves() -> None:
    async with serving(config=HttpConfig(port=0, requests_max=1)) as served:
        waiting = asyncio.create_task(served.http.post(COUNTER + "?wait=9", json={"op": "wait"}))
        await served.node.entered.wait()
        refused = await served.http.get(COUNTER)
        assert_problem(refused, 503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        served.node.gate.set()
        assert (await waiting).status_code == 200


async def test_two_nodes_in_one_process() -> None:
    async with serving(MemoryNode()) as one, serving(MemoryNode()) as two:
        await one.http.post(COUNTER, json={"op": "increment"})
        assert (await one.http.get(COUNTER)).json() == {"count": 1}
        assert (await two.http.get(COUNTER)).json() == {"count": 0}
