"""The restart decision: a pure function of what ended, how, and what happened before."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ..actors.exits import Exit


class RestartPolicy(Enum):
    """OTP's restart types."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    TEMPORARY = "temporary"


@dataclass(frozen=True, slots=True)
class Intensity:
    """How often is too often, and what then.

    Attributes:
        restarts_max: immediate restarts within the window.
        window_s: seconds.
        backoff_s: the first delay once that is exceeded; it doubles with each further restart in the window.
        backoff_s_max: the longest delay.
    """

    restarts_max: int = 10
    window_s: float = 60.0
    backoff_s: float = 1.0
    backoff_s_max: float = 60.0


@dataclass(frozen=True, slots=True)
class Forget:
    """It stays down."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Start it again.

    Attributes:
        delay_s: 0 is at once.
        history: monotonic times, in seconds, of the restarts that count from now on.
    """

    delay_s: float
    history: tuple[float, ...] = field(default=())


def decide(
    policy: RestartPolicy, exit_: Exit, history: tuple[float, ...], now_s: float, intensity: Intensity
) -> Forget | Restart:
    """What to do about a child that ended.

    Args:
        policy: whether it is to be restarted at all.
        exit_: how it ended.
        history: when it was restarted before, monotonic seconds, oldest first.
        now_s: monotonic seconds.
        intensity: how often is too often.

    The window is OTP's (`supervisor.erl`, add_restart): restarts older than it no longer count.
    """
    if policy is RestartPolicy.TEMPORARY or (policy is RestartPolicy.TRANSIENT and exit_.orderly):
        return Forget()
    recent = (*(at for at in history if now_s - at <= intensity.window_s), now_s)
    excess = len(recent) - intensity.restarts_max
    if excess <= 0:
        return Restart(0.0, recent)
    # Capped before it is raised: 2.0**2000 overflows.
    delay_s = min(intensity.backoff_s_max, intensity.backoff_s * 2.0 ** min(excess - 1, 32))
    return Restart(delay_s, recent)
