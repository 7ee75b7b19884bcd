"""How much one tenant, caller or actor may ask of the edge: token buckets, and requests under way at the same time.

Asked once for each request, after its token is known and before its body is read.  What is refused takes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..actors.buckets import Buckets, Rate
from ..clock import Clock
from ..config import Limits
from ..errors import RateLimited
from ..scope import Address

# When to come back who has too much under way: nobody knows when that will be done.
_BUSY_RETRY_MS = 1_000


@dataclass(frozen=True, slots=True)
class _Quota:
    """What one tenant's requests are held to."""

    tenant: Rate
    caller: Rate
    actor: Rate
    in_flight_max: int

    @classmethod
    def of(cls, limits: Limits) -> _Quota:
        return cls(
            Rate(limits.requests_per_second_per_tenant_max, limits.requests_burst_per_tenant),
            Rate(limits.requests_per_second_per_caller_max, limits.requests_burst_per_caller),
            Rate(limits.requests_per_second_per_actor_max, limits.requests_burst_per_actor),
            limits.requests_in_flight_per_tenant_max,
        )


class Admission:
    """The doorkeeper of both doors, HTTP and gRPC.

    Args:
        limits: of every tenant ...
        quotas: ... but these, each with limits of its own.
    """

    def __init__(self, clock: Clock, limits: Limits, quotas: Mapping[str, Limits] | None = None) -> None:
        self._now_ns = clock.monotonic_ns
        self._general = _Quota.of(limits)
        self._quotas = {tenant: _Quota.of(own) for tenant, own in (quotas or {}).items()}
        self._of_tenants: Buckets[str] = Buckets()
        self._of_callers: Buckets[tuple[str, str]] = Buckets()
        self._of_actors: Buckets[Address] = Buckets()
        # Only tenants with requests under way.
        self._in_flight: dict[str, int] = {}
        self.refused = 0

    def enter(self, tenant: str, subject: str, actor: Address | None = None) -> None:
        """Let a request in; `leave` must follow when it has been answered.

        Args:
            actor: whom it is for, if it is a message.

        Raises:
            RateLimited: not now; `details["retry_after_ms"]` says when, `details["limit"]` which limit it was.
        """
        quota = self._quotas.get(tenant, self._general)
        in_flight = self._in_flight.get(tenant, 0)
        if in_flight >= quota.in_flight_max:
            self.refused += 1
            raise RateLimited(
                f"{in_flight} requests of this tenant are under way, as many as may be at a time: wait for some of "
                "them, then try again",
                limit="requests_in_flight_per_tenant_max",
                value=quota.in_flight_max,
                retry_after_ms=_BUSY_RETRY_MS,
            )
        now_ns = self._now_ns()
        caller = (tenant, subject)
        wait_ns = self._of_tenants.wait_ns(tenant, quota.tenant, now_ns)
        if wait_ns:
            raise self._too_fast("this tenant", "tenant", quota.tenant, wait_ns)
        wait_ns = self._of_callers.wait_ns(caller, quota.caller, now_ns)
        if wait_ns:
            raise self._too_fast("this caller", "caller", quota.caller, wait_ns)
        if actor is not None:
            wait_ns = self._of_actors.wait_ns(actor, quota.actor, now_ns)
            if wait_ns:
                raise self._too_fast(f"actor {actor.text!r}", "actor", quota.actor, wait_ns)
            self._of_actors.take(actor, quota.actor, now_ns)
        self._of_tenants.take(tenant, quota.tenant, now_ns)
        self._of_callers.take(caller, quota.caller, now_ns)
        self._in_flight[tenant] = in_flight + 1

    def leave(self, tenant: str) -> None:
        """A request that was let in has been answered."""
        left = self._in_flight[tenant] - 1
        if left:
            self._in_flight[tenant] = left
        else:
            del self._in_flight[tenant]

    def _too_fast(self, who: str, of: str, rate: Rate, wait_ns: int) -> RateLimited:
        self.refused += 1
        wait_ms = math.ceil(wait_ns / 1_000_000)
        return RateLimited(
            f"{who} has {rate.per_second:g} requests per second: try again in {wait_ms} ms",
            limit=f"requests_per_second_per_{of}_max",
            value=rate.per_second,
            retry_after_ms=wait_ms,
        )
