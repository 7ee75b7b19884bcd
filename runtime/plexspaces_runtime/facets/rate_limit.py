"""Refuses messages that come faster than allowed: a token bucket for the actor, or one for each caller.

The bucket is kept as one number, the time at which it would be full (the generic cell rate algorithm of ITU-T I.371,
which decides exactly as a token bucket does): no timer fills it, and one whose time has come is as good as none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..actors.envelope import Envelope
from ..actors.facets import Facet
from ..clock import Clock
from ..errors import RateLimited
from .kind import FacetContext, FacetType
from .settings import Settings

# Buckets that are not full; callers beyond these share one, so that neither memory nor the limit gives way.
CALLERS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class RateLimitConfig:
    """Attributes:
    messages_per_second: how fast a bucket fills.
    burst: how many messages a full one holds.
    per_caller: one for each caller, told apart by the token's subject.
    """

    messages_per_second: float
    burst: int
    per_caller: bool

    @property
    def interval_ns(self) -> int:
        """How long one message takes to be allowed again."""
        return max(1, round(1e9 / self.messages_per_second))


class RateLimit(Facet):
    """The buckets of one actor."""

    __slots__ = ("_clock", "_config", "_full_at_ns", "_interval_ns", "_refused", "_text", "_tolerance_ns")

    def __init__(self, address_text: str, clock: Clock, config: RateLimitConfig) -> None:
        self._text = address_text
        self._clock = clock
        self._config = config
        self._interval_ns = config.interval_ns
        self._tolerance_ns = (config.burst - 1) * config.interval_ns
        # By caller, the one that was used longest ago first.
        self._full_at_ns: OrderedDict[str | None, int] = OrderedDict()
        self._refused = 0

    def admit(self, envelope: Envelope) -> None:
        now_ns = self._clock.monotonic_ns()
        caller = self._bucket(envelope, now_ns)
        full_at_ns = max(now_ns, self._full_at_ns.get(caller, 0))
        wait_ns = full_at_ns - self._tolerance_ns - now_ns
        if wait_ns > 0:
            self._refused += 1
            who = "this caller" if self._config.per_caller else "all callers together"
            raise RateLimited(
                f"actor {self._text!r} takes {self._config.messages_per_second:g} messages per second from {who}: "
                f"try again in {-(-wait_ns // 1_000_000)} ms",
                retry_after_ms=-(-wait_ns // 1_000_000),
            )
        self._full_at_ns[caller] = full_at_ns + self._interval_ns
        self._full_at_ns.move_to_end(caller)

    def _bucket(self, envelope: Envelope, now_ns: int) -> str | None:
        """The name of the caller's bucket; "" is for those without a name, None for those beyond the limit."""
        if not self._config.per_caller:
            return ""
        caller = envelope.caller.subject if envelope.caller is not None else ""
        if caller in self._full_at_ns:
            return caller
        if len(self._full_at_ns) >= CALLERS_MAX:
            self._forget_full(now_ns)
        return caller if len(self._full_at_ns) < CALLERS_MAX else None

    def _forget_full(self, now_ns: int) -> None:
        # The one used longest ago is full first or soon after: none stays for longer than a bucket takes to fill.
        while self._full_at_ns and next(iter(self._full_at_ns.values())) <= now_ns:
            self._full_at_ns.popitem(last=False)

    def report(self) -> dict[str, Any]:
        return {"refused": self._refused, "callers": len(self._full_at_ns) if self._config.per_caller else 0}


class RateLimitType(FacetType[RateLimitConfig]):
    """See the module."""

    priority = 70

    def parse(self, config: Mapping[str, Any]) -> RateLimitConfig:
        settings = Settings("rate_limit", config, ("messages_per_second", "burst", "per"))
        rate = settings.number("messages_per_second", above=0, high=1_000_000)
        return RateLimitConfig(
            messages_per_second=rate,
            burst=settings.whole("burst", max(1, round(rate)), low=1, high=1_000_000),
            per_caller=settings.choice("per", ("actor", "caller")) == "caller",
        )

    def build(self, context: FacetContext, config: RateLimitConfig) -> RateLimit:
        return RateLimit(context.address.text, context.clock, config)
