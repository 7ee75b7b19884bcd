"""`plexspaces:actor/clock`: time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..actors.actor import Actor
from ..scheduler import PENDING

if TYPE_CHECKING:
    from .gate import Host


def now_ns(host: Host, _actor: Actor) -> int:
    """The wall clock."""
    return host.clock.now_ns()


def monotonic_ns(host: Host, _actor: Actor) -> int:
    """The monotonic clock."""
    return host.clock.monotonic_ns()


def sleep_ns(host: Host, actor: Actor, duration_ns: int) -> Any:
    """Suspend the caller."""
    if actor.keeper is not None:
        # It may have been asleep before the node was started again.
        passed_ms = host.clock.now_ns() // 1_000_000 - host.begun_ms(actor)
        duration_ns = max(0, duration_ns - max(0, passed_ms) * 1_000_000)
    # No longer than the message may take anyway: asyncio refuses delays of centuries, and a timer outlives its actor.
    delay_s = min(duration_ns / 1e9, actor.spec.limits.wall_s_per_message_max + 1.0)
    token = actor.wait_token

    def wake() -> None:
        actor.alarm = None
        host.scheduler.resume(actor, token, None)

    actor.alarm = host.loop.call_later(delay_s, wake)
    return PENDING
