"""A guest that waits for something in a store: until when, whether it still does, and how it hears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..actors.actor import Actor, Run
from ..actors.guest import Ok
from ..errors import PlexSpacesError
from .messaging import inherited_deadline_ns
from .wire import error_value

if TYPE_CHECKING:
    from .gate import Host


@dataclass(frozen=True, slots=True)
class Wait:
    """The host call under way of an actor; made while it is being served."""

    host: Host
    actor: Actor
    token: int
    deadline_ns: int

    def wanted(self) -> bool:
        """It is still waiting: an answer given now is not lost."""
        return self.actor.run is Run.WAITING and self.actor.wait_token == self.token

    def answer(self, outcome: Any) -> None:
        """Let it go on, with a value or an error."""
        value = error_value(outcome) if isinstance(outcome, PlexSpacesError) else Ok(outcome)
        self.host.scheduler.resume(self.actor, self.token, value)


def begin(host: Host, actor: Actor, timeout_ms: int) -> Wait:
    """Wait for `timeout_ms` milliseconds, or as long as the caller's deadline and the message's own limit allow."""
    # A timeout of centuries is a number like any other; an alarm's is not.
    wait_ms = min(timeout_ms, int(actor.spec.limits.wall_s_per_message_max * 1_000) + 1_000)
    deadline_ns = host.clock.monotonic_ns() + wait_ms * 1_000_000
    inherited_ns = inherited_deadline_ns(actor)
    return Wait(host, actor, actor.wait_token, min(deadline_ns, inherited_ns) if inherited_ns else deadline_ns)
