"""The restart decision: a pure function of what ended, how, and what happened before."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from enum import Enum

from ..actors.exits import Exit
from .spec import RestartPolicy, SupervisorSpec


class Verdict(Enum):
    """What becomes of a child that ended."""

    RESTART = "restart"
    # It keeps its place, and comes back when somebody asks for it or a sibling takes it along.
    STAY_DOWN = "stay down"
    FORGET = "forget"
    # More restarts than the intensity allows: the supervisor ends.
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, and what is to be remembered for the next one.

    Attributes:
        history: the restarts within the window, this one included: seconds, oldest first.
        delay_s: how long to wait before the restart; 0 is at once.
    """

    verdict: Verdict
    history: tuple[float, ...]
    delay_s: float = 0.0


# The restart policy as a table: (policy, was the end an orderly one).
_WANTED = {
    (RestartPolicy.PERMANENT, False): Verdict.RESTART,
    (RestartPolicy.PERMANENT, True): Verdict.RESTART,
    (RestartPolicy.TRANSIENT, False): Verdict.RESTART,
    (RestartPolicy.TRANSIENT, True): Verdict.STAY_DOWN,
    (RestartPolicy.TEMPORARY, False): Verdict.FORGET,
    (RestartPolicy.TEMPORARY, True): Verdict.FORGET,
}


def verdict(
    policy: RestartPolicy, exit_: Exit, history: tuple[float, ...], now_s: float, limit: SupervisorSpec
) -> Decision:
    """Decide about a child that ended (`supervisor.erl`, do_restart).

    Args:
        policy: the child's restart type.
        exit_: how it ended.
        history: when its supervisor restarted before, seconds, oldest first.
        now_s: seconds on the same clock.
        limit: how often is too often, and how long to wait.
    """
    wanted = _WANTED[policy, exit_.orderly]
    return count(history, now_s, limit) if wanted is Verdict.RESTART else Decision(wanted, history)


def count(history: tuple[float, ...], now_s: float, limit: SupervisorSpec) -> Decision:
    """Decide about a child that is to be restarted, or whose restart just failed: too often, or once more?

    The window is OTP's (`supervisor.erl`, add_restart): a restart exactly `window_s` old still counts. OTP reads its
    clock in whole seconds; here `now_s` is as fine as the caller's.
    """
    recent = (*history[bisect_left(history, now_s - limit.window_s) :], now_s)
    if len(recent) > limit.restarts_max:
        return Decision(Verdict.GIVE_UP, recent)
    if limit.backoff is None:
        return Decision(Verdict.RESTART, recent)
    # The exponent is capped before it is raised: 2.0**2000 overflows.
    delay_s = limit.backoff.initial_s * 2.0 ** min(len(recent) - 1, 64)
    return Decision(Verdict.RESTART, recent, min(limit.backoff.max_s, delay_s))
