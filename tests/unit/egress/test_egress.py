"""What an actor gets through a link when nobody is hostile: rules, templates, secrets, retries, budgets, streams."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from plexspaces_runtime.egress.admission import Admitted
from plexspaces_runtime.egress.links import parse_link
from plexspaces_runtime.egress.model import Call, Request
from plexspaces_runtime.egress.network import SystemResolver
from plexspaces_runtime.egress.urls import canonical_target
from plexspaces_runtime.errors import (
    AlreadyExists,
    DeadlineExceeded,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from plexspaces_runtime.events import (
    BreakerChanged,
    EgressAnswered,
    EgressFailed,
    EgressRefused,
    EgressRequested,
    SecretReflected,
)
from plexspaces_runtime.scope import Scope

from .stage import CALL, SCOPE, Heard, Secrets, Writer, answer, certificate, egress, listening, saying

# -- the request -------------------------------------------------------------------------------------------


async def test_a_request_goes_out_and_its_answer_comes_back() -> None:
    async with listening(saying(answer(b"hello", x_colour="red"))) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}/base/")
        reply = await stage.get("/a%7Eb?q=1", headers={"X-Mine": " yes "})
        assert (reply.status, reply.body, reply.headers["x-colour"]) == (200, b"hello", "red")
        (heard,) = peer.heard
        assert (heard.method, heard.target) == ("GET", "/base/a~b?q=1")
        assert heard.headers["host"] == f"127.0.0.1:{peer.port}"
        assert heard.headers["x-mine"] == "yes"
        assert "content-length" not in heard.headers
    (asked,) = stage.events(EgressRequested)
    assert (asked.scope, asked.actor, asked.link, asked.method, asked.path) == (
        SCOPE,
        "agent/one",
        "api",
        "GET",
        "/a~b",
    )
    (answered,) = stage.events(EgressAnswered)
    assert (answered.status, answered.bytes) == (200, 5)


async def test_a_request_holds_what_the_link_adds() -> None:
    async with listening(saying(answer())) as peer, egress() as stage:
        stage.link(
            f"http://127.0.0.1:{peer.port}",
            headers={"X-Version": "7"},
            query={"tier": "fr ee"},
            body={"model": "small", "options": {"safe": True}},
        )
        await stage.post(
            "/x?tier=paid&ti%65r=paid&other=1",
            body=b'{"model": "large", "options": {"safe": false, "n": 2}, "prompt": "\\u00e9"}',
            headers={"x-version": "8"},
        )
        (heard,) = peer.heard
        assert heard.target == "/x?other=1&tier=fr%20ee"
        assert heard.headers["x-version"] == "7"
        assert json.loads(heard.body) == {"model": "small", "options": {"safe": True, "n": 2}, "prompt": "é"}
        for body in (b"[1]", b"nonsense", b'{"a": NaN}', b"[" * 100_000, b"\xff"):
            with pytest.raises(InvalidArgument):
                await stage.post("/x", body=body)


async def test_a_denial_says_which_line_would_allow_it() -> None:
    async with listening(saying(answer())) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", allow=["GET /v1/items/*", "GET /search?q"], actors=["agent"])
        await stage.get("/v1/items/1?anything=1")
        await stage.get("/search?q=1")
        for method, path, line in [
            ("POST", "/v1/items/1", "POST /v1/items/1"),
            ("GET", "/v1/items/1/x", "GET /v1/items/1/x"),
            ("GET", "/v1/items/", "GET /v1/items/"),
            ("GET", "/search?q=1&debug=1", "GET /search?debug&q"),
        ]:
            with pytest.raises(PermissionDenied) as denied:
                await stage.egress.fetch(CALL, Request("api", method, path))
            assert denied.value.details == {"link": "api", "allow": "links.api.allow", "value": line}
            assert line in denied.value.message
        with pytest.raises(PermissionDenied) as denied:
            await stage.egress.fetch(replace(CALL, actor="other/agent"), Request("api", "GET", "/search"))
        assert denied.value.details["allow"] == "links.api.actors"
        assert len(peer.heard) == 2
    refused = stage.events(EgressRefused)
    assert [event.path for event in refused] == ["/v1/items/1", "/v1/items/1/x", "/v1/items/", "/search", "/search"]


async def test_links_belong_to_a_namespace_and_hide_the_nodes() -> None:
    node = parse_link("api", {"base_url": "https://node.example", "allow": ["* /**"], "tenants": ["other"]})
    async with egress(node_links={"api": node}) as stage:
        assert stage.egress.find(SCOPE, "api") is node
        with pytest.raises(PermissionDenied) as denied:
            await stage.get("/")
        assert denied.value.details == {"link": "api", "allow": "links.api.tenants", "value": "acme"}
        own = stage.link("https://own.example")
        assert stage.egress.find(SCOPE, "api") == own
        assert stage.egress.find(Scope("acme", "else"), "api") is node
        with pytest.raises(AlreadyExists):
            stage.link("https://second.example", application="second")
        assert stage.egress.find(SCOPE, "api") == own
        stage.egress.set_links(SCOPE, "app", {})
        assert stage.egress.find(SCOPE, "api") is node
        with pytest.raises(NotFound):
            stage.egress.find(SCOPE, "nothing")


async def test_nothing_leaves_before_what_it_depends_on_is_on_disk() -> None:
    on_disk = asyncio.Event()
    async with listening(saying(answer())) as peer, egress(flushed=on_disk.wait) as stage:
        stage.link(f"http://127.0.0.1:{peer.port}")
        with pytest.raises(DeadlineExceeded, match="the disk"):
            await stage.get(timeout_ms=50)
        # Nor after its time: the asker may have been told already that nothing happened.
        with pytest.raises(DeadlineExceeded):
            await stage.egress.fetch(replace(CALL, deadline_ns=1), Request("api", "GET", "/"))
        assert peer.connections == 0
        assert not stage.events(EgressRequested)
        on_disk.set()
        with pytest.raises(DeadlineExceeded):
            await stage.egress.fetch(replace(CALL, deadline_ns=1), Request("api", "GET", "/"))
        assert not stage.events(EgressRequested)
        await stage.get()
        assert peer.connections == 1


@pytest.mark.parametrize(("size", "fits"), [(9, True), (10, True), (11, False)])
async def test_sizes_are_limited_both_ways(size: int, fits: bool) -> None:
    async with listening(saying(answer(b"x" * size))) as peer, egress() as stage:
        for key, body in (("request_bytes_max", b"x" * size), ("response_bytes_max", b"")):
            stage.link(f"http://127.0.0.1:{peer.port}", **{key: 10})
            if fits:
                assert (await stage.post(body=body)).status == 200
            else:
                with pytest.raises(LimitExceeded) as refused:
                    await stage.post(body=body)
                assert refused.value.details["limit"] == key


# -- secrets -----------------------------------------------------------------------------------------------


async def echo(heard: Heard, writer: Writer) -> None:
    everything = f"{heard.target} {heard.headers}".encode()
    writer.write(answer(everything, 200, x_echo=heard.headers.get("authorization", "")))


async def test_secrets_are_put_in_last_and_taken_out_of_whatever_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = Secrets({"key": "s3cr3t-value-1", "token": "qu3ry-value-2"}, {"phantom-123": "r3al-value-3"})
    async with listening(echo) as peer, egress(secrets=secrets) as stage:
        stage.link(
            f"http://127.0.0.1:{peer.port}",
            auth=[
                {"header": "Authorization", "value": "Bearer ${secret:key}"},
                {"query": "token", "value": "${secret:token}"},
            ],
        )
        reply = await stage.get("/x?a=1", headers={"X-Api-Key": "phantom-123", "X-Other": "phantom-123"})
        (heard,) = peer.heard
        assert heard.headers["authorization"] == "Bearer s3cr3t-value-1"
        assert heard.headers["x-api-key"] == "r3al-value-3"
        assert heard.headers["x-other"] == "phantom-123"
        assert heard.target == "/x?a=1&token=qu3ry-value-2"
        assert reply.headers["x-echo"] == "Bearer [key]"
        assert b"[key]" in reply.body
        assert b"[token]" in reply.body
        for header, name in (("authorization", "header"), ("Authorization", "header"), ("AUTHORIZATION", "header")):
            with pytest.raises(InvalidArgument, match=name):
                await stage.get("/x", headers={header: "mine"})
        for query in ("?token=mine", "?%74oken=mine"):
            with pytest.raises(InvalidArgument, match="parameter"):
                await stage.get("/x" + query)
    (reflected,) = stage.events(SecretReflected)
    assert reflected.names == ("key", "phantom-123", "token")
    said = repr(stage.seen) + repr(reply) + caplog.text
    for value in ("s3cr3t", "qu3ry", "r3al"):
        assert value not in said


@pytest.mark.parametrize("written", ["a key", "a+key", "a%20key", "%61+key"])
async def test_a_links_parameter_cannot_be_written_in_another_spelling(written: str) -> None:
    async with listening(saying(answer())) as peer, egress(secrets=Secrets({"key": "real"})) as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", auth={"query": "a key", "value": "${secret:key}"})
        with pytest.raises(InvalidArgument, match="parameter"):
            await stage.get(f"/?{written}=mine")
        stage.link(f"http://127.0.0.1:{peer.port}", query={"a key": "ours"})
        await stage.get(f"/?{written}=mine")
        assert [heard.target for heard in peer.heard] == ["/?a%20key=ours"]


async def test_a_secret_never_changes_where_a_request_goes() -> None:
    secrets = Secrets({"key": "x\r\nx-evil: 1"})
    async with listening(saying(answer())) as peer, egress(secrets=secrets) as stage:
        for place in ("header", "query"):
            stage.link(f"http://127.0.0.1:{peer.port}", auth={place: "x-key", "value": "${secret:key}"})
            with pytest.raises(InvalidArgument) as refused:
                await stage.get()
            assert "evil" not in refused.value.message
        assert peer.connections == 0


async def test_phantom_tokens_are_not_swapped_in_the_open() -> None:
    admitted = Admitted("GET", canonical_target("/"), {"x-api-key": "phantom-123"}, b"", True)
    async with egress(secrets=Secrets(phantoms={"phantom-123": "r3al"})) as stage:
        for base_url, addresses, sent in [
            ("http://public.example", None, "phantom-123"),
            ("https://public.example", None, "r3al"),
            ("http://inside.example", ["10.0.0.0/8"], "r3al"),
        ]:
            link = stage.link(base_url, addresses=addresses)
            out, _ = stage.egress.inject(CALL, link, admitted)
            assert out.headers["x-api-key"] == sent


# -- retries -----------------------------------------------------------------------------------------------


async def test_a_passing_failure_is_retried_with_the_same_key() -> None:
    script = saying(answer(b"", 503), answer(b"", 502), answer(b"done"))
    async with listening(script) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}")
        reply = await stage.post(call=replace(CALL, idempotency_key="step-7"), body=b"x")
        assert reply.body == b"done"
        assert [heard.headers["idempotency-key"] for heard in peer.heard] == ["step-7"] * 3
        assert [event.attempt for event in stage.events(EgressRequested)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("method", "headers", "attempts"),
    [
        ("GET", {}, 3),
        ("PUT", {}, 3),
        ("DELETE", {}, 3),
        ("POST", {}, 1),
        ("PATCH", {}, 1),
        ("POST", {"Idempotency-Key": "mine"}, 3),
    ],
)
async def test_only_what_may_be_repeated_is_retried(method: str, headers: dict[str, str], attempts: int) -> None:
    async with listening(saying(answer(b"busy", 503))) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}")
        reply = await stage.egress.fetch(CALL, Request("api", method, "/", headers))
        assert (reply.status, reply.body, len(peer.heard)) == (503, b"busy", attempts)


async def test_a_connection_that_is_lost_is_retried_only_if_the_request_may_be() -> None:
    async def hang_up(_heard: Heard, writer: Writer) -> None:
        writer.close()

    async with listening(hang_up) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", breaker_failures=100)
        for method, attempts in (("GET", 3), ("POST", 1)):
            before = len(peer.heard)
            with pytest.raises(Unavailable):
                await stage.egress.fetch(CALL, Request("api", method, "/"))
            assert len(peer.heard) - before == attempts


async def test_what_was_not_sent_is_retried_whatever_it_is() -> None:
    async with listening(saying(answer())) as peer:
        port = peer.port
    async with egress() as stage:
        stage.link(f"http://127.0.0.1:{port}")
        with pytest.raises(Unavailable, match="connection"):
            await stage.post(body=b"x")
        assert [event.attempt for event in stage.events(EgressRequested)] == [1, 2, 3]
        assert len(stage.events(EgressFailed)) == 3


async def test_retry_after_is_honoured_as_long_as_there_is_time() -> None:
    script = saying(answer(b"", 429, retry_after="1"), answer(b"done"))
    async with listening(script) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}")
        began = asyncio.get_running_loop().time()
        assert (await stage.get()).body == b"done"
        assert asyncio.get_running_loop().time() - began >= 1.0
    async with listening(saying(answer(b"later", 429, retry_after="3600"))) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}")
        assert (await stage.get()).body == b"later"
        assert len(peer.heard) == 1


async def test_an_idle_connection_that_was_closed_is_replaced_unnoticed() -> None:
    async def once(_heard: Heard, writer: Writer) -> None:
        writer.write(answer())
        await writer.drain()
        writer.close()

    async with listening(once) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", retries_max=0)
        for _ in range(5):
            assert (await stage.post(body=b"x")).status == 200
            await asyncio.wait_for(peer.closed.wait(), 5)
            peer.closed.clear()
            # The end of the connection takes a few turns of the loop to be seen.
            for _ in range(20):
                await asyncio.sleep(0)
        assert (peer.connections, len(peer.heard)) == (5, 5)


async def test_connections_are_used_again() -> None:
    async with listening(saying(answer())) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}")
        for _ in range(5):
            await stage.get()
        assert (peer.connections, len(peer.heard)) == (1, 5)
        # The same link again keeps its connection, another one does not.
        stage.link(f"http://127.0.0.1:{peer.port}")
        await stage.get()
        assert peer.connections == 1
        stage.link(f"http://127.0.0.1:{peer.port}", total_timeout_s=7)
        await asyncio.wait_for(peer.closed.wait(), 5)
        await stage.get()
        assert peer.connections == 2
        peer.closed.clear()
        await stage.egress.close()
        await asyncio.wait_for(peer.closed.wait(), 5)


# -- budgets -----------------------------------------------------------------------------------------------


async def test_the_breaker_opens_and_closes_again() -> None:
    script = saying(*[answer(b"", 500)] * 2, answer(b"well again"))
    async with listening(script) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", breaker_failures=2, breaker_open_s=0.05)
        for _ in range(2):
            assert (await stage.get()).status == 500
        with pytest.raises(Unavailable) as refused:
            await stage.get()
        assert 0 < refused.value.details["retry_after_ms"] <= 50
        assert len(peer.heard) == 2
        async with asyncio.timeout(5):
            while len(peer.heard) == 2:
                try:
                    assert (await stage.get()).body == b"well again"
                except Unavailable:
                    await asyncio.sleep(0.005)
    changes = [(event.before, event.after) for event in stage.events(BreakerChanged)]
    assert changes == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]


async def test_a_guests_own_hurry_does_not_open_the_breaker() -> None:
    async def silent(_heard: Heard, _writer: Writer) -> None:
        await asyncio.Event().wait()

    async with listening(silent) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", breaker_failures=1, retries_max=0)
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                await stage.get(timeout_ms=20)
        assert not stage.events(BreakerChanged)
        stage.link(f"http://127.0.0.1:{peer.port}", breaker_failures=1, retries_max=0, total_timeout_s=0.02)
        with pytest.raises(DeadlineExceeded):
            await stage.get()
        assert len(stage.events(BreakerChanged)) == 1


async def test_others_wait_for_their_turn_in_order() -> None:
    go_on = asyncio.Event()

    async def when_told(heard: Heard, writer: Writer) -> None:
        await go_on.wait()
        writer.write(answer(heard.target.encode()))

    async with listening(when_told) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", concurrent_max=2)
        tasks = [asyncio.create_task(stage.get(f"/{at}")) for at in range(6)]
        async with asyncio.timeout(5):
            while len(peer.heard) < 2:
                await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match="concurrent_max"):
            await stage.get("/late", timeout_ms=50)
        assert len(peer.heard) == 2
        go_on.set()
        assert [(await task).body for task in tasks] == [f"/{at}".encode() for at in range(6)]
        assert [event.path for event in stage.events(EgressRequested)] == [f"/{at}" for at in range(6)]
        assert peer.connections == 2


async def test_the_rate_is_limited_for_each_tenant() -> None:
    async with listening(saying(answer())) as peer:
        table = {"base_url": f"http://127.0.0.1:{peer.port}", "allow": ["* /**"], "addresses": ["127.0.0.0/8"]}
        link = parse_link("api", {**table, "rate_per_s": 0.5, "rate_burst": 2})
        async with egress(node_links={"api": link}) as stage:
            for tenant in ("acme", "other"):
                call = Call(Scope(tenant, "default"), "agent")
                for _ in range(2):
                    await stage.egress.fetch(call, Request("api", "GET", "/"))
                with pytest.raises(RateLimited) as refused:
                    await stage.egress.fetch(call, Request("api", "GET", "/"))
                assert 0 < refused.value.details["retry_after_ms"] <= 2000


async def test_a_caller_that_gives_up_leaves_no_turn_taken() -> None:
    async def silent(_heard: Heard, _writer: Writer) -> None:
        await asyncio.Event().wait()

    async with listening(silent) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", concurrent_max=1)
        for _ in range(3):
            task = asyncio.create_task(stage.get())
            while not peer.heard:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(peer.closed.wait(), 5)
            peer.heard.clear()
            peer.closed.clear()
        assert peer.connections == 3


# -- streams -----------------------------------------------------------------------------------------------


async def test_a_body_is_read_piece_by_piece_and_characters_stay_whole() -> None:
    go_on = asyncio.Event()

    async def in_pieces(_heard: Heard, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in ("é".encode()[:1], "é".encode()[1:] + b" and ", b"more"):
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()
            await go_on.wait()
        writer.write(b"0\r\n\r\n")

    async with listening(in_pieces) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}")
        body = await stage.egress.open(CALL, Request("api", "GET", "/"))
        assert body.status == 200
        go_on.set()
        pieces = []
        while (piece := await body.read()) is not None:
            pieces.append(piece)
        assert "".join(pieces) == "é and more"
        assert await body.read() is None
        await stage.get("/again")
        assert peer.connections == 1


async def test_a_stream_holds_its_turn_until_it_is_closed() -> None:
    async def endless(_heard: Heard, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()

    async with listening(endless) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", concurrent_max=1)
        body = await stage.egress.open(CALL, Request("api", "GET", "/"))
        assert (await body.read() or "")[:1] == "x"
        with pytest.raises(DeadlineExceeded, match="concurrent_max"):
            await stage.get(timeout_ms=50)
        body.close()
        body.close()
        assert await body.read() is None
        await asyncio.wait_for(peer.closed.wait(), 5)
        second = await stage.egress.open(CALL, Request("api", "GET", "/"))
        await second.read()
        await stage.egress.close()
        with pytest.raises(Unavailable, match="the node stops"):
            await second.read()
        with pytest.raises(Unavailable, match="the node stops"):
            await stage.get()


async def test_a_stream_ends_with_its_time_whether_it_is_read_or_not() -> None:
    async def slow(_heard: Heard, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nfirst")
        await writer.drain()
        await asyncio.Event().wait()

    async with listening(slow) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", concurrent_max=1)
        body = await stage.egress.open(CALL, Request("api", "GET", "/", timeout_ms=100))
        assert await body.read() == "first"
        with pytest.raises(DeadlineExceeded):
            await body.read()
        await asyncio.wait_for(peer.closed.wait(), 5)
        peer.closed.clear()
        await stage.egress.open(CALL, Request("api", "GET", "/", timeout_ms=100))
        await asyncio.wait_for(peer.closed.wait(), 5)


async def test_nothing_is_retried_after_a_piece_was_handed_on() -> None:
    async def broken(_heard: Heard, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfirst")
        await writer.drain()
        writer.close()

    async with listening(broken) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}")
        body = await stage.egress.open(CALL, Request("api", "GET", "/"))
        assert await body.read() == "first"
        for _ in range(2):
            with pytest.raises(Unavailable):
                await body.read()
        assert len(peer.heard) == 1


async def test_a_stream_is_retried_before_its_first_piece() -> None:
    async with listening(saying(answer(b"", 503), answer(b"fine"))) as peer, egress() as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", concurrent_max=1)
        body = await stage.egress.open(CALL, Request("api", "GET", "/"))
        assert (body.status, await body.read(), await body.read()) == (200, "fine", None)
        assert len(peer.heard) == 2
        await stage.get(timeout_ms=1000)


async def test_a_secret_that_is_split_between_pieces_is_found() -> None:
    async def split(_heard: Heard, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nthe key is s3cr")
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(b"3t-value-1, is it not?")
        await writer.drain()
        writer.close()

    secrets = Secrets({"key": "s3cr3t-value-1"})
    async with listening(split) as peer, egress(secrets=secrets) as stage:
        stage.link(f"http://127.0.0.1:{peer.port}", auth={"header": "x-key", "value": "${secret:key}"})
        body = await stage.egress.open(CALL, Request("api", "GET", "/"))
        text = ""
        while (piece := await body.read()) is not None:
            text += piece
        assert text == "the key is [key], is it not?"
        assert [event.names for event in stage.events(SecretReflected)] == [("key",)]


# -- TLS ---------------------------------------------------------------------------------------------------


async def resolved(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


async def test_tls_is_for_the_name_and_not_for_the_address(tmp_path: Path) -> None:
    context, ca_file = certificate(tmp_path, "api.example")
    async with listening(saying(answer()), context) as peer, egress(resolve=resolved) as stage:
        stage.link(f"https://api.example:{peer.port}", ca_file=ca_file)
        assert (await stage.get()).status == 200
        assert peer.heard[0].headers["host"] == f"api.example:{peer.port}"
        for base_url, file in [
            (f"https://other.example:{peer.port}", ca_file),
            (f"https://api.example:{peer.port}", None),
            (f"https://api.example:{peer.port}", str(tmp_path / "none.pem")),
            (f"https://api.example:{peer.port}", str(tmp_path / "key.pem")),
        ]:
            stage.link(base_url, ca_file=file, retries_max=0)
            with pytest.raises(Unavailable) as refused:
                await stage.get()
            assert str(tmp_path) not in refused.value.message
        assert len(peer.heard) == 1


# -- names -------------------------------------------------------------------------------------------------


async def test_the_systems_resolver_asks_once_for_all_who_wait() -> None:
    resolver = SystemResolver()
    try:
        first, second = await asyncio.gather(resolver("localhost", 80), resolver("localhost", 80))
        assert first is second
        assert {"127.0.0.1", "::1"} & set(first)
        # One that gives up takes the answer from nobody else.
        waiting = [asyncio.ensure_future(resolver("localhost", 81)) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        assert {"127.0.0.1", "::1"} & set(await waiting[1])
        with pytest.raises(socket.gaierror):
            await resolver("nothing.invalid", 80)
    finally:
        resolver.close()
