"""What a supervisor is told: its children, how they are restarted, and how often that may happen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

# Shutdown times beside a number of seconds, as in OTP.
BRUTAL_KILL: Final = 0.0
INFINITY: Final = math.inf
# OTP's default for workers.
SHUTDOWN_S: Final = 5.0


class RestartPolicy(Enum):
    """OTP's restart types."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    TEMPORARY = "temporary"


class Strategy(Enum):
    """Which children are restarted when one ends."""

    ONE_FOR_ONE = "one_for_one"
    ONE_FOR_ALL = "one_for_all"
    REST_FOR_ONE = "rest_for_one"
    # Children of one kind that come and go at run time; none at the start.
    SIMPLE_ONE_FOR_ONE = "simple_one_for_one"


class AutoShutdown(Enum):
    """Whether the end of significant children ends the supervisor (OTP 24)."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


@dataclass(frozen=True, slots=True)
class Backoff:
    """A pause before each restart, beyond OTP: `initial_s`, doubled with each one in the window, at most `max_s`."""

    initial_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child.

    Attributes:
        id: unique in its supervisor.
        restart: OTP's restart type.
        shutdown_s: how long it may take to end when told to: `BRUTAL_KILL`, seconds, or `INFINITY`.
        significant: its orderly end counts for the supervisor's `auto_shutdown`.
        content: what is started: opaque here, compared by `==` to tell whether a changed configuration concerns it.
            A nested supervisor's is its `SupervisorSpec`.
    """

    id: str
    content: Any
    restart: RestartPolicy = RestartPolicy.PERMANENT
    shutdown_s: float = SHUTDOWN_S
    significant: bool = False


@dataclass(frozen=True, slots=True)
class SupervisorSpec:
    """One supervisor.

    Attributes:
        restarts_max: more restarts than this within the window end the supervisor (OTP's intensity).
        window_s: seconds (OTP's period).
        children: in the order of starting; for `SIMPLE_ONE_FOR_ONE` exactly one, the template.
    """

    strategy: Strategy = Strategy.ONE_FOR_ONE
    restarts_max: int = 10
    window_s: float = 60.0
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER
    backoff: Backoff | None = None
    children: tuple[ChildSpec, ...] = ()
