"""The limit decides as a token bucket does, says how long to wait, and stays small."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.actors import buckets
from plexspaces_runtime.actors.buckets import Rate
from plexspaces_runtime.actors.envelope import Envelope, Kind
from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.errors import InvalidArgument, RateLimited
from plexspaces_runtime.facets.rate_limit import RateLimit, RateLimitConfig, RateLimitType
from plexspaces_runtime.scope import Caller


def message(subject: str | None = None) -> Envelope:
    return Envelope("m", Kind.CALL, "get", "{}", caller=None if subject is None else Caller(subject))


def let_in(limit: RateLimit, subject: str | None = None) -> int:
    """0 if the message is let in, else the milliseconds to wait."""
    try:
        limit.admit(message(subject))
    except RateLimited as error:
        return max(1, int(error.details["retry_after_ms"]))
    return 0


class Bucket:
    """A token bucket, by the book."""

    def __init__(self, interval_ns: int, burst: int) -> None:
        self._interval_ns, self._burst = interval_ns, burst
        self._tokens, self._at_ns = Fraction(burst), 0

    def take(self, now_ns: int) -> bool:
        self._tokens = min(Fraction(self._burst), self._tokens + Fraction(now_ns - self._at_ns, self._interval_ns))
        self._at_ns = now_ns
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@given(
    rate=st.sampled_from([0.5, 1.0, 3.0, 10.0, 1_000.0]),
    burst=st.integers(1, 5),
    per_caller=st.booleans(),
    messages=st.lists(st.tuples(st.integers(0, 3_000), st.sampled_from(["ada", "bob", None])), max_size=60),
)
def test_it_decides_as_a_token_bucket(
    rate: float, burst: int, per_caller: bool, messages: list[tuple[int, str | None]]
) -> None:
    clock = ManualClock()
    config = RateLimitConfig(Rate(rate, burst), per_caller)
    limit = RateLimit("counter", clock, config)
    kept: dict[Any, Bucket] = {}
    for wait_ms, subject in messages:
        clock.advance(wait_ms / 1_000)
        bucket = kept.setdefault(subject if per_caller else "all", Bucket(config.rate.interval_ns, burst))
        assert (let_in(limit, subject) == 0) is bucket.take(clock.monotonic_ns())


def test_who_waits_as_long_as_told_is_let_in_and_a_moment_earlier_is_not() -> None:
    clock = ManualClock()
    limit = RateLimit("counter", clock, RateLimitConfig(Rate(10, 2), per_caller=False))
    assert [let_in(limit), let_in(limit)] == [0, 0]
    assert let_in(limit) == 100
    clock.advance(0.099)
    assert let_in(limit) == 1
    clock.advance(0.001)
    assert let_in(limit) == 0
    assert limit.report() == {"refused": 2, "callers": 0}


def test_a_refused_message_takes_nothing() -> None:
    clock = ManualClock()
    limit = RateLimit("counter", clock, RateLimitConfig(Rate(1, 1), per_caller=False))
    assert let_in(limit) == 0
    for _ in range(20):
        assert let_in(limit) == 1_000
    clock.advance(1)
    assert let_in(limit) == 0


def test_one_caller_does_not_use_up_anothers() -> None:
    limit = RateLimit("counter", ManualClock(), RateLimitConfig(Rate(1, 1), per_caller=True))
    assert [let_in(limit, "ada"), let_in(limit, "bob"), let_in(limit)] == [0, 0, 0]
    assert all(let_in(limit, subject) for subject in ("ada", "bob", None))


def test_no_number_of_callers_takes_more_memory_or_gets_around_the_limit() -> None:
    clock = ManualClock()
    limit = RateLimit("counter", clock, RateLimitConfig(Rate(1, 1), per_caller=True))
    callers_max = buckets.KEYS_MAX
    for number in range(callers_max):
        assert let_in(limit, f"c-{number}") == 0
    # One more bucket for all the others together.
    assert let_in(limit, "one-more") == 0
    assert let_in(limit, "yet-another")
    assert let_in(limit, "c-0")
    assert limit.report()["callers"] == callers_max + 1
    clock.advance(1)
    assert let_in(limit, "yet-another") == 0
    assert limit.report()["callers"] == 1


def test_one_caller_who_goes_on_does_not_keep_the_others_buckets_in_memory() -> None:
    clock = ManualClock()
    limit = RateLimit("counter", clock, RateLimitConfig(Rate(1, 2), per_caller=True))
    for number in range(buckets.KEYS_MAX):
        let_in(limit, f"c-{number}")
    clock.advance(0.9)
    assert let_in(limit, "c-0") == 0
    clock.advance(0.1)
    assert let_in(limit, "new") == 0
    assert limit.report()["callers"] == 2


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "needs the setting 'messages_per_second'"),
        ({"messages_per_second": 0}, "messages_per_second = 0: must be a number above 0"),
        ({"messages_per_second": True}, "messages_per_second = True"),
        ({"messages_per_second": 10, "burst": 0}, "burst = 0: must be a whole number from 1"),
        ({"messages_per_second": 10, "burst": 1.5}, "burst = 1.5"),
        ({"messages_per_second": 10, "brust": 5}, "no setting 'brust'; did you mean 'burst'?"),
        ({"messages_per_second": 10, "per": "callers"}, "must be 'actor' or 'caller' (did you mean 'caller'?)"),
    ],
)
def test_a_configuration_that_is_wrong_is_refused_with_a_remedy(config: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        RateLimitType().parse(config)
    assert words in raised.value.message
    assert raised.value.details["facet"] == "rate_limit"


def test_the_burst_is_a_second_s_worth_unless_told() -> None:
    parse = RateLimitType().parse
    assert parse({"messages_per_second": 20}) == RateLimitConfig(Rate(20.0, 20), per_caller=False)
    assert parse({"messages_per_second": 0.1}).rate.burst == 1
    per_caller = parse({"messages_per_second": 1, "burst": 7, "per": "caller"})
    assert per_caller == RateLimitConfig(Rate(1.0, 7), per_caller=True)
