"""The circuit breaker: whether a service that kept failing is asked again (Nygard, Release It!, chapter 5).

A table says what follows from what.  Time is a value, and so is a request's permission: an outcome counts only for the
state in which its request was let through, so that answers to old requests open or close nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Signal(Enum):
    """What can happen to a breaker.

    `FAILED` is one failure among fewer than the limit, `FAILED_TOO_OFTEN` the one that reaches it; `COOLED` is the end
    of the pause, and `ABANDONED` a trial of which nobody learns how it would have gone.
    """

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    FAILED_TOO_OFTEN = "failed too often"
    COOLED = "cooled"
    ABANDONED = "abandoned"


_NEXT: Final = {
    (State.CLOSED, Signal.SUCCEEDED): State.CLOSED,
    (State.CLOSED, Signal.FAILED): State.CLOSED,
    (State.CLOSED, Signal.FAILED_TOO_OFTEN): State.OPEN,
    (State.CLOSED, Signal.ABANDONED): State.CLOSED,
    (State.OPEN, Signal.COOLED): State.HALF_OPEN,
    (State.HALF_OPEN, Signal.SUCCEEDED): State.CLOSED,
    (State.HALF_OPEN, Signal.FAILED): State.OPEN,
    (State.HALF_OPEN, Signal.FAILED_TOO_OFTEN): State.OPEN,
    (State.HALF_OPEN, Signal.ABANDONED): State.HALF_OPEN,
}


@dataclass(frozen=True, slots=True)
class Permission:
    """A request was let through; `epoch` is the breaker's at that time."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Pause:
    """A request is not let through; `wait_ns` until the next is, 0 if that depends on one under way."""

    wait_ns: int


class Breaker:
    """One circuit breaker.

    Args:
        failures_max: failures in a row that open it.
        open_ns: how long it stays open.
    """

    __slots__ = ("_epoch", "_failures", "_failures_max", "_open_ns", "_opened_ns", "_trial", "state")

    def __init__(self, failures_max: int, open_ns: int) -> None:
        self.state = State.CLOSED
        self._failures_max = failures_max
        self._open_ns = open_ns
        self._failures = 0
        self._opened_ns = 0
        # Counts changes of state.
        self._epoch = 0
        # A request is under way that decides whether the half-open breaker closes.
        self._trial = False

    def admit(self, now_ns: int) -> Permission | Pause:
        """Whether a request may go; whoever has a permission must `settle` it."""
        if self.state is State.OPEN:
            if (wait_ns := self._opened_ns + self._open_ns - now_ns) > 0:
                return Pause(wait_ns)
            self._step(Signal.COOLED, now_ns)
        if self.state is State.HALF_OPEN:
            if self._trial:
                return Pause(0)
            self._trial = True
        return Permission(self._epoch)

    def settle(self, permission: Permission, signal: Signal, now_ns: int) -> None:
        """Say how a permitted request went: SUCCEEDED, FAILED or ABANDONED."""
        if permission.epoch != self._epoch:
            return
        self._trial = False
        if signal is Signal.SUCCEEDED:
            self._failures = 0
        elif signal is Signal.FAILED:
            self._failures += 1
            if self._failures >= self._failures_max:
                signal = Signal.FAILED_TOO_OFTEN
        self._step(signal, now_ns)

    def _step(self, signal: Signal, now_ns: int) -> None:
        after = _NEXT[self.state, signal]
        if after is self.state:
            return
        self.state = after
        self._epoch += 1
        self._failures = 0
        if after is State.OPEN:
            self._opened_ns = now_ns
