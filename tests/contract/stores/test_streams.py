"""What every implementation of event streams keeps to: against a plain model, case by case, and across tenants."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import InvalidArgument, LimitExceeded, NotFound, RateLimited
from plexspaces_runtime.events import Event, EventBus, StreamPaused, StreamResumed
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores.streams import (
    EVENT_OVERHEAD_BYTES,
    MemoryEvents,
    SqliteEvents,
    Streams,
)
from tests.contract.stores.backends import Backend, backends

ACME = Scope("acme", "default")
OTHER_NAMESPACE = Scope("acme", "other")
EVIL = Scope("evil", "default")


@dataclass
class House:
    """A store and all that is around it."""

    streams: Streams
    backend: Backend
    clock: ManualClock
    seen: list[Event]
    # What the store's alarm was set to, None while it is not.
    alarm_s: list[float | None] = field(default_factory=lambda: [None])

    def append(
        self, payload: str = "{}", *, scope: Scope = ACME, path: str = "/a", kind: str = "note", key: str = ""
    ) -> int:
        return self.streams.append(scope, path, kind, payload, key).offset

    def types(self, path: str = "/a", scope: Scope = ACME) -> list[str]:
        return [event.event_type for event in self.streams.read(scope, path, 0, 1_000)]

    def offsets(self, path: str = "/a", scope: Scope = ACME, after: int = 0, limit: int = 1_000) -> list[int]:
        return [event.offset for event in self.streams.read(scope, path, after, limit)]

    def pass_time(self, seconds: float) -> None:
        """Let the clock run, and the alarm ring at its time."""
        left = seconds
        while (alarm_s := self.alarm_s[-1]) is not None and alarm_s <= left:
            self.clock.advance(alarm_s)
            left -= alarm_s
            self.alarm_s.append(None)
            self.streams.ring()
        self.clock.advance(left)
        if (alarm_s := self.alarm_s[-1]) is not None:
            self.alarm_s.append(alarm_s - left)


def make(backend: Backend, clock: ManualClock | None = None, **limits: Any) -> House:
    clock = clock or ManualClock()
    bus, seen = EventBus(), []
    bus.subscribe(seen.append)
    alarms: list[float | None] = [None]
    table = SqliteEvents(backend.database) if backend.database is not None else MemoryEvents()
    settings_ = Limits(**limits)
    streams = Streams(
        table,
        quotas=backend.quotas(settings_),
        clock=clock,
        events=bus,
        limits=settings_,
        set_alarm=alarms.append,
    )
    streams.load()
    return House(streams, backend, clock, seen, alarms)


@pytest.fixture(name="backend", params=backends())
async def _backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    async with request.param(tmp_path) as backend:
        yield backend


# -- offsets and reading -----------------------------------------------------------------------------------


async def test_offsets_begin_at_one_and_have_no_gaps(backend: Backend) -> None:
    house = make(backend)
    assert [house.append(f'{{"n":{n}}}') for n in range(5)] == [1, 2, 3, 4, 5]
    assert house.append(path="/b") == 1
    events = house.streams.read(ACME, "/a")
    assert [(event.offset, json.loads(event.payload)["n"]) for event in events] == [(n + 1, n) for n in range(5)]
    assert {event.time_ms for event in events} == {house.clock.now_ns() // 1_000_000}


@pytest.mark.parametrize("flushed", [0, 3, 7])
async def test_reading_goes_over_what_is_on_disk_and_what_is_not(backend: Backend, flushed: int) -> None:
    house = make(backend)
    for _ in range(flushed):
        house.append()
    await backend.flush()
    for _ in range(7 - flushed):
        house.append()
    for after in range(9):
        for limit in range(1, 9):
            assert house.offsets(after=after, limit=limit) == list(range(after + 1, min(7, after + limit) + 1))
    await backend.flush()
    assert house.offsets() == [1, 2, 3, 4, 5, 6, 7]


async def test_what_leaves_the_node_is_on_disk(backend: Backend) -> None:
    house = make(backend)
    house.append()
    await backend.flush()
    told: list[int] = []
    house.streams.watch(
        ACME, "/a", lambda: told.append(len(house.streams.read(ACME, "/a", durable=True))), durable=True
    )
    house.append()
    if backend.database is not None:
        assert len(house.streams.read(ACME, "/a", durable=True)) == 1
        assert house.streams.info(ACME, "/a", durable=True).last == 1
        assert told == []
    await backend.flush()
    assert len(house.streams.read(ACME, "/a", durable=True)) == 2
    assert house.streams.info(ACME, "/a", durable=True).last == 2
    assert told[-1] == 2


@pytest.mark.parametrize(("limit", "found"), [(0, 100), (1, 1), (999, 999), (1_000, 1_000)])
async def test_how_many_are_read(backend: Backend, limit: int, found: int) -> None:
    house = make(backend, stream_events_per_second_max=10_000)
    for _ in range(1_001):
        house.append()
    assert len(house.streams.read(ACME, "/a", 0, limit)) == found
    with pytest.raises(InvalidArgument):
        house.streams.read(ACME, "/a", 0, 1_001)


async def test_offsets_no_stream_has(backend: Backend) -> None:
    house = make(backend)
    assert house.streams.read(ACME, "/a") == []
    house.append()
    for after in (1, 2, 2**63, 2**64 - 1):
        assert house.streams.read(ACME, "/a", after) == []


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "a", "/a/", "//a", "/a//b", "/a b", "/a\n", "/a\x7f", "/a\x00", "/../a", "/a/.", "/" + "a" * 257),
        *("/a" * 17, ("/" + "ä" * 128) * 2, "/" + "\ud800" * 256 + "/" + "a" * 256),
    ],
)
async def test_what_is_no_path(backend: Backend, path: str) -> None:
    streams = make(backend).streams
    for call in (
        lambda: streams.append(ACME, path, "note", "{}"),
        lambda: streams.read(ACME, path),
        lambda: streams.info(ACME, path),
        lambda: streams.watch(ACME, path, lambda: None, durable=False),
    ):
        with pytest.raises(InvalidArgument):
            call()
    assert streams.list_streams(ACME) == []


@pytest.mark.parametrize("path", ["/a", "/" + "a" * 256, "/a" * 16, "/ada@example.com/..a/ä", "/%2F/:;,"])
async def test_what_is_a_path(backend: Backend, path: str) -> None:
    house = make(backend)
    assert house.append(path=path) == 1
    await backend.flush()
    assert house.offsets(path) == [1]


# -- what is no event --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "payload", "reason"),
    [
        ("note", "", "not-json"),
        ("note", "{", "not-json"),
        ("note", "NaN", "not-json"),
        ("note", '"\ud800"', "not-json"),
        ("note", '"' + "x" * 99 + '"', "too-large"),
        ("note", '"' + "ä" * 50 + '"', "too-large"),
        ("", "{}", "bad-type"),
        ("a b", "{}", "bad-type"),
        ("a\nb", "{}", "bad-type"),
        ("x" * 129, "{}", "bad-type"),
        ("paused", "{}", "bad-type"),
        ("resumed", "{}", "bad-type"),
    ],
)
async def test_what_is_no_event_becomes_one_that_says_so(
    backend: Backend, kind: str, payload: str, reason: str
) -> None:
    house = make(backend, stream_event_bytes_max=100)
    house.append()
    appended = house.streams.append(ACME, "/a", kind, payload)
    assert (appended.offset, appended.event_type, appended.reason) == (2, "error", reason)
    await backend.flush()
    event = house.streams.read(ACME, "/a", 1)[0]
    content = json.loads(event.payload)
    assert event.event_type == "error"
    assert (content["code"], content["reason"]) == ("invalid-event", reason)
    assert content["bytes"] == len(payload.encode("utf-8", "replace"))
    assert content["message"]
    assert content["excerpt"] == payload.replace("\ud800", "?")
    assert content["event_type"] == kind[:128]


@pytest.mark.parametrize("size", [99, 100])
async def test_a_payload_just_within_the_limit(backend: Backend, size: int) -> None:
    house = make(backend, stream_event_bytes_max=100)
    assert house.streams.append(ACME, "/a", "x" * 128, '"' + "x" * (size - 2) + '"').reason == ""


async def test_a_payload_is_kept_as_it_came_but_on_one_line(backend: Backend) -> None:
    house = make(backend)
    house.append('{\r\n "n": 123456789012345678901234567890,\n "f": 1.0, "s": "a\\nb\\u00e4"}')
    text = '{   "n": 123456789012345678901234567890,  "f": 1.0, "s": "a\\nb\\u00e4"}'
    assert house.streams.read(ACME, "/a")[0].payload == text


# -- idempotency -------------------------------------------------------------------------------------------


async def test_a_repeated_append_is_the_first(backend: Backend) -> None:
    house = make(backend)
    assert house.append('{"n":1}', key="k") == 1
    assert house.append('{"n":2}', key="k") == 1
    await backend.flush()
    again = house.streams.append(ACME, "/a", "note", '{"n":3}', "k")
    assert (again.offset, again.repeated) == (1, True)
    assert house.append(key="k", path="/b") == 1
    assert house.append(key="l") == 2
    assert house.offsets() == [1, 2]


@pytest.mark.parametrize("flush", [False, True])
async def test_keys_are_remembered_by_count(backend: Backend, flush: bool) -> None:
    house = make(backend, stream_keys_max=3)
    for n in range(4):
        house.append()
        assert house.append(key=f"k{n}") == 2 * n + 2
    if flush:
        await backend.flush()
    assert [house.append(key=f"k{n}") for n in (1, 2, 3)] == [4, 6, 8]
    assert house.append(key="k0") == 9
    assert house.append(key="k0") == 9
    assert house.append(key="k2") == 6
    assert house.append(key="k1") == 10


async def test_keys_are_remembered_for_a_time(backend: Backend) -> None:
    house = make(backend, stream_key_age_s_max=60)
    house.append(key="k")
    house.clock.advance(59.999)
    assert house.append(key="k") == 1
    house.clock.advance(0.001)
    assert house.append(key="k") == 2
    assert house.append(key="k") == 2


async def test_a_key_outlives_its_event(backend: Backend) -> None:
    house = make(backend, stream_events_max=1)
    house.append(key="k")
    house.append()
    await backend.flush()
    assert house.append(key="k") == 1


@pytest.mark.parametrize("key", ["x" * 257, "\x00", "a\nb"])
async def test_what_is_no_key(backend: Backend, key: str) -> None:
    with pytest.raises(InvalidArgument):
        make(backend).append(key=key)


async def test_what_a_schedule_appends_has_keys_of_its_own(backend: Backend) -> None:
    house = make(backend)
    assert house.streams.append_due(ACME, "/a", "tick", "{}", "s", 5) == 1
    assert house.streams.append_due(ACME, "/a", "tick", "{}", "s", 5) == 1
    assert house.streams.append_due(ACME, "/a", "tick", "{}", "s", 6) == 2
    assert house.append(key="s:5") == 3


# -- retention ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flush", [False, True])
async def test_the_oldest_go_when_there_are_too_many(backend: Backend, flush: bool) -> None:
    house = make(backend, stream_events_max=3)
    for n in range(1, 8):
        house.append()
        if flush:
            await backend.flush()
        assert house.offsets() == list(range(max(1, n - 2), n + 1))
    assert house.offsets(after=1) == [5, 6, 7]
    info = house.streams.info(ACME, "/a")
    assert (info.first, info.last) == (5, 7)


@pytest.mark.parametrize("flush", [False, True])
async def test_the_oldest_go_when_they_are_too_large(backend: Backend, flush: bool) -> None:
    each = 1_000 + EVENT_OVERHEAD_BYTES + len("note")
    house = make(backend, stream_bytes_max=3 * each)
    for _ in range(3):
        house.append('"' + "x" * 998 + '"')
        if flush:
            await backend.flush()
    assert house.offsets() == [1, 2, 3]
    house.append("{}")
    assert house.offsets() == [2, 3, 4]
    house.append('"' + "x" * 2_500 + '"')
    assert house.offsets() == [4, 5]
    assert house.streams.info(ACME, "/a").bytes == 2_502 + 2 + 2 * (EVENT_OVERHEAD_BYTES + len("note"))


@pytest.mark.parametrize("flush", [False, True])
async def test_the_oldest_go_when_they_are_too_old(backend: Backend, flush: bool) -> None:
    house = make(backend, stream_age_s_max=100)
    house.append()
    house.clock.advance(50)
    house.append()
    house.clock.advance(50)
    if flush:
        await backend.flush()
    house.append()
    assert house.offsets() == [1, 2, 3]
    house.clock.advance(0.001)
    house.append()
    assert house.offsets() == [2, 3, 4]


async def test_what_nobody_touches_goes_as_well(backend: Backend) -> None:
    house = make(backend, stream_age_s_max=100)
    house.append(path="/old")
    house.append(path="/watched")
    stop = house.streams.watch(ACME, "/watched", lambda: None, durable=True)
    house.pass_time(70)
    house.append(path="/young")
    house.pass_time(92)
    assert [info.path for info in house.streams.list_streams(ACME)] == ["/watched", "/young"]
    info = house.streams.info(ACME, "/watched")
    assert (info.first, info.last, info.bytes) == (2, 1, 0)
    assert house.append(path="/watched") == 2
    stop()
    await backend.flush()
    assert make(backend, house.clock).streams.list_streams(ACME) == (
        house.streams.list_streams(ACME) if backend.database is not None else []
    )
    house.pass_time(400)
    assert house.streams.list_streams(ACME) == []
    assert house.alarm_s[-1] is None
    assert house.append(path="/old") == 1


async def test_a_cleared_stream_goes_on_where_it_was(backend: Backend) -> None:
    house = make(backend)
    for _ in range(3):
        house.append()
    assert house.streams.clear(ACME, "/a") == 3
    assert house.streams.clear(ACME, "/a") == 0
    assert house.offsets() == []
    assert house.append() == 4
    await backend.flush()
    assert house.offsets() == [4]
    with pytest.raises(NotFound):
        house.streams.clear(ACME, "/b")


# -- the breaker -------------------------------------------------------------------------------------------


async def test_a_runaway_stream_is_paused_and_says_so(backend: Backend) -> None:
    house = make(backend, stream_events_per_second_max=5, stream_pause_s=10)
    for _ in range(5):
        house.append()
    with pytest.raises(RateLimited) as refused:
        house.append()
    assert refused.value.details["retry_after_ms"] == 10_000
    assert house.types() == ["note"] * 5 + ["paused"]
    assert json.loads(house.streams.read(ACME, "/a", 5)[0].payload) == {
        "reason": "rate",
        "events_per_second_max": 5,
        "resumes_after_quiet_s": 10,
    }
    assert house.seen == [StreamPaused(ACME, "/a", "rate", 5)]
    assert house.streams.info(ACME, "/a").flow == "tripped"
    assert house.append(path="/b") == 1


async def test_a_burst_and_the_permitted_rate_pass(backend: Backend) -> None:
    house = make(backend, stream_events_per_second_max=5)
    for _ in range(4):
        house.append()
    for _ in range(100):
        house.append()
        house.clock.advance(0.2)
    assert set(house.types()) == {"note"}


async def test_it_goes_on_when_it_was_left_alone(backend: Backend) -> None:
    house = make(backend, stream_events_per_second_max=1, stream_pause_s=10)
    house.append()
    for _ in range(3):
        with pytest.raises(RateLimited):
            house.append()
        house.pass_time(9.999)
    assert house.types() == ["note", "paused"]
    house.pass_time(0.001)
    assert house.types() == ["note", "paused", "resumed"]
    assert json.loads(house.streams.read(ACME, "/a", 2)[0].payload) == {"reason": "quiet", "refused": 3}
    assert house.seen[-1] == StreamResumed(ACME, "/a", "quiet", 3)
    assert house.append() == 4


async def test_an_append_after_the_quiet_time_need_not_wait_for_the_alarm(backend: Backend) -> None:
    house = make(backend, stream_events_per_second_max=1, stream_pause_s=10)
    house.append()
    with pytest.raises(RateLimited):
        house.append()
    house.clock.advance(10)
    assert house.append() == 4
    assert house.types() == ["note", "paused", "resumed", "note"]


async def test_an_operator_pauses_and_resumes(backend: Backend) -> None:
    house = make(backend, stream_pause_s=10)
    with pytest.raises(NotFound):
        house.streams.hold(ACME, "/a", "ada")
    house.append()
    assert not house.streams.resume(ACME, "/a", "ada")
    assert house.streams.hold(ACME, "/a", "ada")
    assert not house.streams.hold(ACME, "/a", "ada")
    house.pass_time(1_000)
    with pytest.raises(RateLimited):
        house.append()
    assert house.streams.resume(ACME, "/a", "bob")
    assert house.types() == ["note", "paused", "resumed"]
    assert [json.loads(event.payload) for event in house.streams.read(ACME, "/a", 1)] == [
        {"reason": "operator", "by": "ada"},
        {"reason": "operator", "by": "bob", "refused": 1},
    ]
    assert house.append() == 4


async def test_an_operator_has_the_last_word_over_the_breaker(backend: Backend) -> None:
    house = make(backend, stream_events_per_second_max=1, stream_pause_s=10)
    for path in ("/a", "/b"):
        house.append(path=path)
        with pytest.raises(RateLimited):
            house.append(path=path)
    house.streams.resume(ACME, "/a", "ada")
    assert house.append() == 4
    house.streams.hold(ACME, "/b", "ada")
    house.pass_time(1_000)
    with pytest.raises(RateLimited):
        house.append(path="/b")


async def test_a_repetition_is_answered_while_the_stream_is_paused(backend: Backend) -> None:
    house = make(backend)
    house.append(key="k")
    house.streams.hold(ACME, "/a", "ada")
    assert house.append(key="k") == 1


# -- limits ------------------------------------------------------------------------------------------------


async def test_a_tenant_has_so_many_streams(backend: Backend) -> None:
    house = make(backend, streams_per_tenant_max=2)
    house.append(path="/a")
    house.append(path="/b", scope=OTHER_NAMESPACE)
    with pytest.raises(LimitExceeded) as refused:
        house.append(path="/c")
    assert refused.value.details == {"limit": "streams_per_tenant_max", "value": 2}
    assert house.append(path="/a") == 2
    assert house.append(path="/c", scope=EVIL) == 1


async def test_a_tenant_stores_so_many_bytes(backend: Backend) -> None:
    house = make(backend, stored_bytes_per_tenant_max=10_000)
    house.append('"' + "x" * 8_000 + '"')
    with pytest.raises(LimitExceeded) as refused:
        house.append('"' + "x" * 2_000 + '"')
    assert refused.value.details["limit"] == "stored_bytes_per_tenant_max"
    assert house.offsets() == [1]
    assert house.append('"' + "x" * 8_000 + '"', scope=EVIL) == 1
    # An operator can always pause, and make room.
    house.streams.hold(ACME, "/a", "ada")
    house.streams.resume(ACME, "/a", "ada")
    house.streams.clear(ACME, "/a")
    assert house.append('"' + "x" * 2_000 + '"') == 4


# -- lists -------------------------------------------------------------------------------------------------


async def test_streams_by_prefix_in_pages(backend: Backend) -> None:
    house = make(backend)
    for path in ("/b", "/sessions/2", "/a", "/sessions", "/sessions/1", "/sessionsx"):
        house.append(path=path)
    house.append(path="/sessions/0", scope=EVIL)

    def paths(prefix: str = "", after: str = "", limit: int = 0) -> list[str]:
        return [info.path for info in house.streams.list_streams(ACME, prefix, after, limit)]

    assert paths() == ["/a", "/b", "/sessions", "/sessions/1", "/sessions/2", "/sessionsx"]
    assert paths("/sessions/") == ["/sessions/1", "/sessions/2"]
    assert paths("/sessions", "/sessions/1") == ["/sessions/2", "/sessionsx"]
    assert paths(after="/a", limit=2) == ["/b", "/sessions"]
    assert paths("/c") == []
    assert paths("/sessions", "/zzz") == []
    with pytest.raises(InvalidArgument):
        paths(limit=1_001)


# -- readers -----------------------------------------------------------------------------------------------


async def test_whoever_watches_is_told_until_it_stops(backend: Backend) -> None:
    house = make(backend, stream_events_per_second_max=2)
    told: list[str] = []
    stop = house.streams.watch(ACME, "/a", lambda: told.append("a"), durable=False)
    house.streams.watch(ACME, "/b", lambda: told.append("b"), durable=False)
    house.streams.watch(EVIL, "/a", lambda: told.append("evil"), durable=False)
    house.append()
    house.append(path="/b")
    assert told == ["a", "b"]
    house.append()
    with pytest.raises(RateLimited):
        house.append()
    assert told == ["a", "b", "a", "a"]
    stop()
    house.append(path="/b")
    house.streams.resume(ACME, "/a", "ada")
    assert told == ["a", "b", "a", "a", "b"]
    stop()


# -- restarts ----------------------------------------------------------------------------------------------


async def test_everything_is_there_after_a_restart(backend: Backend) -> None:
    if backend.database is None:
        pytest.skip("what is in memory ends with the process")
    house = make(backend, stream_events_max=3, stream_events_per_second_max=4, stream_pause_s=10)
    for n in range(4):
        house.append(key=f"k{n}")
    with pytest.raises(RateLimited):
        house.append()
    house.append(path="/b")
    house.streams.hold(ACME, "/b", "ada")
    await backend.flush()
    again = make(backend, house.clock, stream_events_max=3, stream_pause_s=10)
    assert again.streams.list_streams(ACME) == house.streams.list_streams(ACME)
    assert again.offsets() == [3, 4, 5]
    assert again.append(key="k3") == 4
    with pytest.raises(RateLimited):
        again.append()
    with pytest.raises(RateLimited):
        again.append(path="/b")
    again.pass_time(10)
    assert again.types() == ["note", "paused", "resumed"]
    assert again.append() == 7
    again.streams.resume(ACME, "/b", "ada")
    assert again.append(path="/b") == 4


# -- tenants -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stranger", [EVIL, OTHER_NAMESPACE])
async def test_no_function_sees_or_touches_what_belongs_to_others(backend: Backend, stranger: Scope) -> None:
    house = make(backend)
    streams = house.streams
    house.append('{"secret":1}', key="k")
    await backend.flush()
    before = streams.list_streams(ACME), streams.read(ACME, "/a")
    assert streams.read(stranger, "/a") == []
    assert streams.list_streams(stranger) == []
    told: list[int] = []
    streams.watch(stranger, "/a", lambda: told.append(1), durable=False)
    streams.watch(stranger, "/a", lambda: told.append(1), durable=True)
    for call in (
        lambda: streams.info(stranger, "/a"),
        lambda: streams.hold(stranger, "/a", "eve"),
        lambda: streams.resume(stranger, "/a", "eve"),
        lambda: streams.clear(stranger, "/a"),
    ):
        with pytest.raises(NotFound):
            call()
    assert (streams.list_streams(ACME), streams.read(ACME, "/a")) == before
    house.append()
    await backend.flush()
    assert told == []
    appended = streams.append(stranger, "/a", "note", "{}", "k")
    assert (appended.offset, appended.repeated) == (1, False)
    streams.clear(stranger, "/a")
    assert house.offsets() == [1, 2]


# -- against a model ---------------------------------------------------------------------------------------


@dataclass
class Model:
    """One stream as its description says, in the plainest way."""

    events: list[tuple[int, str, float]] = field(default_factory=list)
    next: int = 1
    keys: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    keyed: int = 0


EVENTS_MAX, KEYS_MAX, AGE_S, KEY_AGE_S = 6, 3, 100.0, 60.0
PATHS = st.sampled_from(["/a", "/a/b"])
SCOPES = st.sampled_from([ACME, EVIL])


class Machine(RuleBasedStateMachine):
    """Random appends, reads, time, flushes and restarts."""

    backend_kind: Any

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.context = self.backend_kind(Path(self.folder.name))
        self.backend = self.run(self.context.__aenter__())
        self.clock = ManualClock()
        self.model: dict[tuple[Scope, str], Model] = {}
        self.open()

    def run(self, what: Any) -> Any:
        return self.loop.run_until_complete(what)

    def open(self) -> None:
        async def inside() -> House:
            return make(
                self.backend,
                self.clock,
                stream_events_max=EVENTS_MAX,
                stream_keys_max=KEYS_MAX,
                stream_age_s_max=AGE_S,
                stream_key_age_s_max=KEY_AGE_S,
                stream_events_per_second_max=1_000_000,
            )

        self.house = self.run(inside())

    def teardown(self) -> None:
        if hasattr(self, "context"):
            self.run(self.context.__aexit__(None, None, None))
            self.loop.close()
            self.folder.cleanup()

    def now_s(self) -> float:
        return self.clock.monotonic_ns() / 1e9

    @rule(scope=SCOPES, path=PATHS, key=st.sampled_from(["", "", "k", "l", "m", "n"]), size=st.integers(0, 5))
    def append(self, scope: Scope, path: str, key: str, size: int) -> None:
        payload = json.dumps("x" * size)

        async def inside() -> int:
            return self.house.append(payload, scope=scope, path=path, key=key)

        offset = self.run(inside())
        model, now_s = self.model.setdefault((scope, path), Model()), self.now_s()
        if key and key in model.keys:
            known, number, at_s = model.keys[key]
            if number > model.keyed - KEYS_MAX and now_s - at_s < KEY_AGE_S:
                assert offset == known
                return
        assert offset == model.next
        model.events.append((offset, payload, now_s))
        model.next += 1
        model.events = [event for event in model.events if now_s - event[2] <= AGE_S][-EVENTS_MAX:]
        if key:
            model.keyed += 1
            model.keys[key] = (offset, model.keyed, now_s)

    @rule(scope=SCOPES, path=PATHS, after=st.integers(0, 20), limit=st.integers(1, 8))
    def read(self, scope: Scope, path: str, after: int, limit: int) -> None:
        async def inside() -> Any:
            return self.house.streams.read(scope, path, after, limit)

        found = [(event.offset, event.payload) for event in self.run(inside())]
        model = self.model.get((scope, path), Model())
        assert found == [(offset, payload) for offset, payload, _ in model.events if offset > after][:limit]

    @rule(scope=SCOPES, path=PATHS)
    def clear(self, scope: Scope, path: str) -> None:
        if (scope, path) in self.model:

            async def inside() -> None:
                self.house.streams.clear(scope, path)

            self.run(inside())
            self.model[scope, path].events.clear()

    @rule(seconds=st.sampled_from([0.001, 1.0, 30.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def flush(self) -> None:
        self.run(self.backend.flush())

    @precondition(lambda self: self.backend.database is not None)
    @rule()
    def restart(self) -> None:
        self.run(self.backend.flush())
        self.open()

    @invariant()
    def lists_agree(self) -> None:
        if hasattr(self, "house"):
            for scope in (ACME, EVIL):
                infos = {info.path: info for info in self.house.streams.list_streams(scope)}
                assert set(infos) == {path for owner, path in self.model if owner == scope}
                for path, info in infos.items():
                    model = self.model[scope, path]
                    assert info.last == model.next - 1
                    assert info.first == (model.events[0][0] if model.events else model.next)
                    assert info.bytes == sum(len(p) + len("note") + EVENT_OVERHEAD_BYTES for _, p, _ in model.events)


def machines() -> Iterator[Any]:
    for kind in backends():
        machine = type("Machine", (Machine,), {"backend_kind": staticmethod(kind.values[0])})
        yield pytest.param(machine, id=str(kind.id))


@pytest.mark.parametrize("machine", list(machines()))
def test_it_behaves_like_its_model(machine: Any) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
