"""What is decided without a socket: addresses, the breaker, turns, tokens, retries."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.egress.addresses import admissible, reason_against, wrapped_in
from plexspaces_runtime.egress.breaker import Breaker, Pause, Permission, Signal, State
from plexspaces_runtime.egress.budget import Bucket, Turns
from plexspaces_runtime.egress.frames import FrameLimit
from plexspaces_runtime.egress.links import Link, parse_link
from plexspaces_runtime.egress.retries import retry_after_s, retry_in_s
from plexspaces_runtime.egress.urls import canonical_host, canonical_target
from plexspaces_runtime.errors import InvalidArgument, LimitExceeded

SECOND = 1_000_000_000
V4 = ipaddress.IPv4Address


# -- addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
     "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0",
     "198.17.255.255", "198.20.0.0", "223.255.255.255", "2606:4700::1111", "2a00::1", "::ffff:1.1.1.1",
     "64:ff9b::1.1.1.1", "2002:101:101::1"],
)  # fmt: skip
def test_public_addresses_are_public(text: str) -> None:
    assert reason_against(ipaddress.ip_address(text)) is None


@given(st.ip_addresses(v=4))
def test_what_wraps_an_address_is_no_better_than_it(inner: V4) -> None:
    number = int(inner)
    for outer in (
        0xFFFF << 32 | number,
        0x64_FF9B << 96 | number,
        0x2002 << 112 | number << 80,
        0x2606_4700 << 96 | 0x5EFE << 32 | number,
    ):
        address = ipaddress.IPv6Address(outer)
        assert wrapped_in(address) == (inner,)
        assert (reason_against(address) is None) == (reason_against(inner) is None)
        # What permits the one permits the other, and nothing else does.
        ranges = [ipaddress.ip_network(f"{inner}/32")]
        assert admissible(address, ranges, ranges)
        assert not admissible(address, [ipaddress.ip_network(f"{address}/128")], ranges)


@given(st.ip_addresses())
def test_an_address_that_python_calls_private_is_not_public(address: Any) -> None:
    if not address.is_global and not wrapped_in(address):
        assert reason_against(address) is not None


@given(st.ip_addresses(v=4), st.sampled_from(["dotted", "number", "hex", "octal", "mixed", "short"]))
def test_every_spelling_of_an_address_is_the_same_address(address: V4, spelling: str) -> None:
    number = int(address)
    a, b, c, d = address.packed
    text = {
        "dotted": str(address),
        "number": str(number),
        "hex": hex(number),
        "octal": f"0{number:o}",
        "mixed": f"0{a:o}.{b:#x}.{c}.{d}",
        "short": f"{a}.{number & 0xFFFFFF}",
    }[spelling]
    assert canonical_host(text) == str(address)


@given(st.text(max_size=40))
def test_a_host_has_one_form_or_none(text: str) -> None:
    try:
        host = canonical_host(text)
    except InvalidArgument:
        return
    assert host.isascii()
    assert host == host.lower()
    assert canonical_host(f"[{host}]" if ":" in host else host) == host


@given(st.text(max_size=60).map(lambda text: f"/{text}"))
def test_a_path_has_one_form_or_none(text: str) -> None:
    try:
        target = canonical_target(text)
    except (InvalidArgument, LimitExceeded):
        return
    assert target.text.isascii()
    assert target.text.isprintable()
    assert " " not in target.text
    assert canonical_target(target.text) == target
    assert not {".", ".."} & set(target.segments)


# -- the breaker -------------------------------------------------------------------------------------------


def trip(breaker: Breaker, times: int, now_ns: int = 0) -> None:
    for _ in range(times):
        permission = breaker.admit(now_ns)
        assert isinstance(permission, Permission)
        breaker.settle(permission, Signal.FAILED, now_ns)


def test_failures_in_a_row_open_it_and_a_success_between_does_not() -> None:
    breaker = Breaker(3, SECOND)
    trip(breaker, 2)
    permission = breaker.admit(0)
    assert isinstance(permission, Permission)
    breaker.settle(permission, Signal.SUCCEEDED, 0)
    trip(breaker, 2)
    assert breaker.state is State.CLOSED
    trip(breaker, 1)
    assert breaker.state is State.OPEN
    assert breaker.admit(SECOND - 1) == Pause(1)


@pytest.mark.parametrize(
    ("signal", "after"),
    [(Signal.SUCCEEDED, State.CLOSED), (Signal.FAILED, State.OPEN), (Signal.ABANDONED, State.HALF_OPEN)],
)
def test_one_request_tries_whether_it_is_well_again(signal: Signal, after: State) -> None:
    breaker = Breaker(1, SECOND)
    trip(breaker, 1)
    trial = breaker.admit(SECOND)
    assert isinstance(trial, Permission)
    assert breaker.state is State.HALF_OPEN
    assert breaker.admit(SECOND) == Pause(0)
    breaker.settle(trial, signal, SECOND)
    assert breaker.state is after
    if after is State.OPEN:
        assert breaker.admit(SECOND) == Pause(SECOND)
    else:
        assert isinstance(breaker.admit(SECOND), Permission)


def test_an_old_request_decides_nothing() -> None:
    breaker = Breaker(1, SECOND)
    old, older = breaker.admit(0), breaker.admit(0)
    assert isinstance(old, Permission)
    assert isinstance(older, Permission)
    trip(breaker, 1)
    breaker.settle(old, Signal.SUCCEEDED, 0)
    assert breaker.state is State.OPEN
    assert isinstance(breaker.admit(SECOND), Permission)
    breaker.settle(older, Signal.SUCCEEDED, SECOND)
    assert breaker.state is State.HALF_OPEN
    assert breaker.admit(SECOND) == Pause(0)


# -- frames ------------------------------------------------------------------------------------------------


def frame(kind: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, 0, 0, 0, 0, 1]) + payload


@given(st.integers(1, 40))
def test_frames_without_content_are_counted_however_they_are_cut(step: int) -> None:
    # A payload that looks like frames is none.
    said = frame(4, b"") + frame(0, frame(6, b"12345678") * 50) + frame(6, b"12345678") + frame(0, b"")
    for allowed, fits in ((2, False), (3, True), (4, True)):
        limit = FrameLimit()
        limit.begin(allowed)
        refused = False
        for at in range(0, len(said), step):
            try:
                limit.feed(said[at : at + step])
            except LimitExceeded:
                refused = True
                break
        assert refused is not fits


# -- turns and tokens --------------------------------------------------------------------------------------


async def test_turns_go_to_whoever_waited_longest() -> None:
    turns, order = Turns(1), []
    await turns.take()

    async def wait(name: int) -> None:
        await turns.take()
        order.append(name)
        turns.give()

    tasks = [asyncio.create_task(wait(name)) for name in range(4)]
    await asyncio.sleep(0)
    assert turns.waiting == 4
    tasks[1].cancel()
    # Its turn is given and taken away in the same moment.
    turns.give()
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [2, 3]
    await asyncio.wait_for(turns.take(), 1)
    assert turns.waiting == 0


@given(st.lists(st.integers(0, 3 * SECOND), max_size=60), st.integers(1, 5))
def test_a_bucket_gives_no_more_than_its_rate(steps_ns: list[int], burst: int) -> None:
    bucket, now_ns, taken = Bucket(2.0, burst), 0, 0
    for step_ns in steps_ns:
        now_ns += step_ns
        wait_ns = bucket.take(now_ns)
        taken += wait_ns == 0
        assert taken <= burst + 2 * now_ns / SECOND
        if wait_ns:
            assert bucket.take(now_ns + wait_ns - 1) > 0
            now_ns += wait_ns
            assert bucket.take(now_ns) == 0
            taken += 1


# -- retries -----------------------------------------------------------------------------------------------

LINK = parse_link(
    "api",
    {"base_url": "https://a.example", "allow": ["GET /"], "retries_max": 3, "backoff_initial_s": 1, "backoff_max_s": 5},
)


def retry(link: Link = LINK, **changed: Any) -> float | None:
    values = {"attempt": 1, "repeatable": True, "sent": True, "status": 503, "retry_after_s": 0.0, "left_s": 100.0}
    return retry_in_s(link, **(values | {"chance": 0.5} | changed))


def test_the_wait_doubles_up_to_its_limit_and_chance_takes_a_part() -> None:
    assert [retry(attempt=attempt, chance=1.0) for attempt in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, None]
    assert [retry(attempt=3, chance=chance) for chance in (0.0, 0.25)] == [0.0, 1.0]
    assert retry(attempt=3, chance=1.0, retry_after_s=7.5) == 7.5


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ({}, True),
        ({"status": 429}, True),
        ({"status": 502}, True),
        ({"status": 504}, True),
        ({"status": 0}, True),
        ({"status": 500}, False),
        ({"status": 200}, False),
        ({"status": 408}, False),
        ({"repeatable": False}, False),
        ({"repeatable": False, "status": 0}, False),
        ({"repeatable": False, "status": 0, "sent": False}, True),
        ({"left_s": 0.5}, False),
        ({"left_s": 0.51}, True),
        ({"retry_after_s": 100.0}, False),
    ],
)
def test_what_is_sent_again(changed: dict[str, Any], again: bool) -> None:
    assert (retry(**changed) is not None) == again


NOW_NS = 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("1e9", 0.0),
        ("9" * 5000, 1e9),
        ("٥", 0.0),
        ("", 0.0),
        ("soon", 0.0),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10.0),
        ("Tue, 14 Nov 2023 22:13:10 GMT", 0.0),
        ("Tue, 14 Nov 99999 22:13:10 GMT", 0.0),
        ("Tue, 99 Nov 2023 22:13:10 GMT", 0.0),
    ],
)
def test_retry_after_is_read(text: str, seconds: float) -> None:
    assert retry_after_s({"retry-after": text}, NOW_NS) == seconds
