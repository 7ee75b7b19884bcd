"""Requests and answers as a guest meets them: nothing of them outlives the incarnation that waits for them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from plexspaces_runtime.actors.actor import Run
from plexspaces_runtime.actors.guest import Err, Ok
from plexspaces_runtime.egress.model import Call, Request, Response
from plexspaces_runtime.errors import RateLimited
from plexspaces_runtime.events import HostFault
from tests.unit.outside import Outside, Pieces
from tests.unit.scripted import Bench, call


def request(
    path: str = "/v1",
    *,
    link: str = "api",
    method: str = "GET",
    headers: str = "{}",
    body: str = "",
    is_base64: bool = False,
    timeout_ms: int = 0,
) -> Any:
    return (link, method, path, headers, body, is_base64, timeout_ms)


def fetch(*args: Any, **named: Any) -> Any:
    return call("http", "fetch", request(*args, **named))


def stream(*args: Any, **named: Any) -> Any:
    return call("http", "fetch-stream", request(*args, **named))


def read(id_: str) -> Any:
    return call("http", "read-chunk", id_)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def always(answer: Any) -> Callable[[Call, Request], Awaitable[Any]]:
    async def give(_call: Call, _request: Request) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return give


async def bench(answer: Any, *, link: dict[str, Any] | None = None, **limits: Any) -> tuple[Bench, Outside]:
    made = Bench(**limits)
    outside = Outside(answer if callable(answer) else always(answer), **(link or {}))
    made.host.egress = outside  # type: ignore[assignment]
    await made.puppet("a")
    return made, outside


def code(answer: Any) -> str:
    assert isinstance(answer, Err), answer
    return str(answer.value[0])


async def test_a_request_leaves_as_it_was_asked_for_and_comes_back_as_it_is() -> None:
    made, outside = await bench(Response(201, {"x-a": "1"}, '{"ä": 1}'.encode()))
    answer = await made.do(
        "a", fetch("/v1?q=1", method="POST", headers='{"X-B": "2"}', body="ü", timeout_ms=5_000)
    )
    assert answer == Ok((201, '{"x-a":"1"}', '{"ä": 1}', False))
    ((caused, wanted),) = outside.calls
    assert wanted == Request("api", "POST", "/v1?q=1", {"X-B": "2"}, "ü".encode(), 5_000)
    assert (caused.actor, caused.scope, caused.idempotency_key) == ("a", made.actors["a"].address.scope, "")
    assert caused.message_id
    # The caller's deadline travels.
    left_s = (caused.deadline_ns - made.clock.monotonic_ns()) / 1e9
    assert 3 < left_s <= 5


async def test_bytes_travel_as_base64() -> None:
    data = bytes(range(256))
    made, outside = await bench(Response(200, {}, data))
    answer = await made.do("a", fetch(body=base64.b64encode(data).decode(), is_base64=True))
    assert answer == Ok((200, "{}", base64.b64encode(data).decode(), True))
    assert outside.calls[0][1].body == data


@pytest.mark.parametrize(
    "wrong",
    [
        fetch(headers="[]"),
        fetch(headers='{"a": 1}'),
        fetch(headers="{"),
        fetch(body="!", is_base64=True),
        fetch(body="YQ", is_base64=True),
        stream(headers="7"),
    ],
)
async def test_what_is_no_request_does_not_leave(wrong: Any) -> None:
    made, outside = await bench(Response(200, {}, b""))
    assert code(await made.do("a", wrong)) == "invalid-argument"
    assert outside.calls == []


async def test_errors_are_the_guests_and_faults_are_ours() -> None:
    made, outside = await bench(RateLimited("slower", retry_after_ms=7))
    limited = await made.do("a", fetch())
    assert (code(limited), json.loads(limited.value[2])) == ("rate-limited", {"retry_after_ms": 7})
    outside.answer = always(ValueError("the password is x"))
    for wanted in (fetch(), stream()):
        fault = await made.do("a", wanted)
        assert code(fault) == "internal"
        assert "password" not in str(fault)
    assert [event.function for event in made.seen if isinstance(event, HostFault)] == ["fetch", "fetch-stream"]
    assert code(await made.do("a", fetch(link="other"))) == "not-found"


async def test_a_node_without_a_way_out_says_so() -> None:
    made, _ = await bench(Response(200, {}, b""))
    made.host.egress = None
    for wanted in (fetch(), stream(), read("answer-1")):
        assert code(await made.do("a", wanted)) == "unavailable"


async def test_others_go_on_while_one_waits() -> None:
    release = asyncio.Event()

    async def slow(_call: Call, _request: Request) -> Response:
        await release.wait()
        return Response(200, {}, b"late")

    made, _ = await bench(slow)
    await made.puppet("b")
    waiting = made.begin("a", fetch())
    await until(lambda: made.actors["a"].run is Run.WAITING)
    assert await made.do("b", call("lifecycle", "self-id")) == "b"
    release.set()
    outcome = await waiting
    assert made.puppets["a"].done[outcome] == [Ok((200, "{}", "late", False))]  # type: ignore[index]
    assert made.host.waiting == {}
    assert made.host.exchanges.under_way == 0


@pytest.mark.parametrize("wanted", [fetch(), stream()])
async def test_a_request_ends_with_its_actor(wanted: Any) -> None:
    made, outside = await bench(lambda *_: asyncio.Event().wait())
    made.begin("a", wanted)
    await until(lambda: outside.under_way == 1)
    await made.kill("a")
    await until(lambda: outside.under_way == 0)
    assert made.host.exchanges.under_way == 0
    assert made.host.waiting == {}


async def test_a_request_ends_with_the_time_of_its_message() -> None:
    made, outside = await bench(lambda *_: asyncio.Event().wait(), wall_s_per_message_max=0.05)
    made.begin("a", fetch())
    await until(lambda: "a" in made.exits)
    assert made.exits["a"].text == "limit(wall)"
    await until(lambda: outside.under_way == 0)


async def test_one_that_is_killed_before_its_request_has_begun_sends_none() -> None:
    made, outside = await bench(Response(200, {}, b""))
    made.begin("a", fetch())
    while made.actors["a"].run is not Run.WAITING:
        made.scheduler._turn()
    await made.kill("a")
    await until(lambda: made.host.exchanges.under_way == 0)
    assert outside.calls == []


# -- piece by piece ----------------------------------------------------------------------------------------


async def opened(made: Bench, *args: Any, **named: Any) -> str:
    answer = await made.do("a", stream(*args, **named))
    assert isinstance(answer, Ok), answer
    return str(answer.value[2])


async def test_an_answer_is_read_piece_by_piece() -> None:
    body = Pieces(["one", "two"], 206, {"x-a": "1"})
    made, _ = await bench(body)
    answer = await made.do("a", stream())
    status, headers, id_, is_base64 = answer.value
    assert (status, headers, is_base64) == (206, '{"x-a":"1"}', False)
    assert [await made.do("a", read(id_)) for _ in range(3)] == [Ok("one"), Ok("two"), Ok(None)]
    assert body.closed
    assert code(await made.do("a", read(id_))) == "not-found"


async def test_a_broken_answer_is_over() -> None:
    body = Pieces(["one", RateLimited("slower")])
    made, _ = await bench(body)
    id_ = await opened(made)
    assert await made.do("a", read(id_)) == Ok("one")
    assert code(await made.do("a", read(id_))) == "rate-limited"
    assert body.closed
    assert code(await made.do("a", read(id_))) == "not-found"


async def test_closing_frees_the_connection_and_may_be_repeated() -> None:
    body = Pieces(["one"])
    made, _ = await bench(body)
    id_ = await opened(made)
    assert await made.do("a", call("http", "close", id_)) == Ok(None)
    assert body.closed
    assert await made.do("a", call("http", "close", id_)) == Ok(None)
    assert await made.do("a", call("http", "close", "nonsense")) == Ok(None)
    assert code(await made.do("a", read(id_))) == "not-found"


async def test_answers_belong_to_their_actor_and_end_with_it() -> None:
    never = asyncio.Event()
    bodies = [Pieces(["one"]), Pieces([never])]

    async def give(_call: Call, wanted: Request) -> Pieces:
        return bodies[int(wanted.path[1:])]

    made, _ = await bench(give)
    await made.puppet("b")
    ids = [await opened(made, f"/{number}") for number in range(2)]
    assert len(set(ids)) == 2
    assert code(await made.do("b", read(ids[0]))) == "not-found"
    assert await made.do("b", call("http", "close", ids[0])) == Ok(None)
    assert not bodies[0].closed
    made.begin("a", read(ids[1]))
    await until(lambda: bodies[1].reading)
    dead = made.actors["a"]
    await made.kill("a")
    await until(lambda: not bodies[1].reading)
    assert [body.closed for body in bodies] == [True, True]
    assert made.host.exchanges.under_way == 0
    # Not even a successor reads on.
    await made.restart("a", dead)
    assert code(await made.do("a", read(ids[0]))) == "not-found"


@pytest.mark.parametrize("most", [1, 2])
async def test_how_many_one_actor_reads_is_limited(most: int) -> None:
    made, outside = await bench(lambda *_: always(Pieces(["x"]))(*_), http_streams_per_actor_max=most)
    ids = [await opened(made) for _ in range(most)]
    refused = await made.do("a", stream())
    assert code(refused) == "limit-exceeded"
    assert json.loads(refused.value[2]) == {"limit": "http_streams_per_actor_max", "value": most}
    assert len(outside.calls) == most
    await made.do("a", call("http", "close", ids[0]))
    await opened(made)


@pytest.mark.parametrize("of", ["link", "request"])
async def test_an_answer_that_nobody_reads_is_closed_when_its_time_is_over(of: str) -> None:
    body = Pieces(["one"])
    made, _ = await bench(body, link={"total_timeout_s": 0.05} if of == "link" else None)
    id_ = await opened(made, timeout_ms=50 if of == "request" else 0)
    assert not body.closed
    await until(lambda: body.closed)
    assert code(await made.do("a", read(id_))) == "deadline-exceeded"
    assert code(await made.do("a", read(id_))) == "not-found"


async def test_time_that_is_over_during_a_read_ends_it_after_the_piece() -> None:
    late = asyncio.Event()
    body, other = Pieces([late, "one", "two"]), Pieces(["x"])

    async def give(_call: Call, wanted: Request) -> Pieces:
        return other if wanted.path == "/other" else body

    made, _ = await bench(give)
    id_ = await opened(made, timeout_ms=50)
    await opened(made, "/other", timeout_ms=50)
    reading = made.begin("a", read(id_))
    await until(lambda: other.closed)
    assert body.reading
    assert not body.closed
    late.set()
    assert made.puppets["a"].done[await reading] == [Ok("one")]  # type: ignore[index]
    assert body.closed
    assert code(await made.do("a", read(id_))) == "deadline-exceeded"


async def test_a_read_ends_with_the_callers_time() -> None:
    body = Pieces([asyncio.Event()])
    made, _ = await bench(body)
    id_ = await opened(made)
    made.puppets["a"].todo["k"] = (read(id_),)
    await made.ask(made.actors["a"], "do", "k", timeout_s=0.05)
    await until(lambda: made.puppets["a"].done.get("k", []) != [])
    assert code(made.puppets["a"].done["k"][0]) == "deadline-exceeded"
    assert body.closed


async def test_closing_waits_for_what_is_under_way() -> None:
    made, outside = await bench(lambda *_: asyncio.Event().wait())
    made.begin("a", fetch())
    await until(lambda: outside.under_way == 1)
    made.scheduler.kill(made.actors["a"])
    async with asyncio.timeout(5):
        await made.host.exchanges.close()
    assert outside.under_way == 0
