"""Refuses messages that come faster than allowed: a token bucket for the actor, or one for each caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..actors.buckets import Buckets, Rate
from ..actors.envelope import Envelope
from ..actors.facets import Facet
from ..clock import Clock
from ..errors import RateLimited
from .kind import FacetContext, FacetType
from .settings import Settings


@dataclass(frozen=True, slots=True)
class RateLimitConfig:
    """Attributes:
    rate: in messages.
    per_caller: one bucket for each caller, told apart by the token's subject.
    """

    rate: Rate
    per_caller: bool


class RateLimit(Facet):
    """The buckets of one actor."""

    __slots__ = ("_buckets", "_clock", "_config", "_refused", "_text")

    def __init__(self, address_text: str, clock: Clock, config: RateLimitConfig) -> None:
        self._text = address_text
        self._clock = clock
        self._config = config
        # Those without a name are one caller.
        self._buckets: Buckets[str] = Buckets()
        self._refused = 0

    def admit(self, envelope: Envelope) -> None:
        now_ns = self._clock.monotonic_ns()
        rate, per_caller = self._config.rate, self._config.per_caller
        caller = envelope.caller.subject if per_caller and envelope.caller is not None else ""
        if wait_ns := self._buckets.wait_ns(caller, rate, now_ns):
            self._refused += 1
            who = "this caller" if per_caller else "all callers together"
            raise RateLimited(
                f"actor {self._text!r} takes {rate.per_second:g} messages per second from {who}: "
                f"try again in {-(-wait_ns // 1_000_000)} ms",
                retry_after_ms=-(-wait_ns // 1_000_000),
            )
        self._buckets.take(caller, rate, now_ns)

    def report(self) -> dict[str, Any]:
        return {"refused": self._refused, "callers": len(self._buckets) if self._config.per_caller else 0}


class RateLimitType(FacetType[RateLimitConfig]):
    """See the module."""

    priority = 70

    def parse(self, config: Mapping[str, Any]) -> RateLimitConfig:
        settings = Settings("rate_limit", config, ("messages_per_second", "burst", "per"))
        rate = settings.number("messages_per_second", above=0, high=1_000_000)
        return RateLimitConfig(
            Rate(rate, settings.whole("burst", max(1, round(rate)), low=1, high=1_000_000)),
            per_caller=settings.choice("per", ("actor", "caller")) == "caller",
        )

    def build(self, context: FacetContext, config: RateLimitConfig) -> RateLimit:
        return RateLimit(context.address.text, context.clock, config)
