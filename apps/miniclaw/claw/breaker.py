"""A circuit breaker as a table: closed, open, half-open.  (Nygard, "Release It!", "Circuit Breaker".)"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any


class Circuit(StrEnum):
    """Closed lets all through, open none, half-open one that tries."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True)
class Rules:
    """How many failures in a row open it, and for how long."""

    failures_max: int = 5
    open_ms: int = 30_000


@dataclass(frozen=True)
class Breaker:
    """One provider's, as it is kept."""

    circuit: Circuit = Circuit.CLOSED
    failures: int = 0
    until_ms: int = 0

    @classmethod
    def load(cls, kept: dict[str, Any] | None) -> Breaker:
        """From what was kept; a new one from nothing."""
        return cls() if kept is None else cls(Circuit(kept["circuit"]), kept["failures"], kept["until_ms"])

    def kept(self) -> dict[str, Any]:
        """What is kept."""
        return {"circuit": self.circuit.value, "failures": self.failures, "until_ms": self.until_ms}


def admit(breaker: Breaker, now_ms: int, rules: Rules) -> tuple[Breaker, bool]:
    """Whether a call may be made now, and the breaker after it was let through."""
    match breaker.circuit:
        case Circuit.CLOSED:
            return breaker, True
        case Circuit.OPEN | Circuit.HALF_OPEN if now_ms >= breaker.until_ms:
            # The one that tries has as long as a circuit stays open; if it is never heard of, another one may.
            return replace(breaker, circuit=Circuit.HALF_OPEN, until_ms=now_ms + rules.open_ms), True
    return breaker, False


def succeeded(breaker: Breaker) -> Breaker:
    """After an answer."""
    return breaker if breaker == Breaker() else Breaker()


def failed(breaker: Breaker, now_ms: int, rules: Rules) -> Breaker:
    """After a failure that is the provider's."""
    failures = breaker.failures + 1
    if breaker.circuit is Circuit.HALF_OPEN or failures >= rules.failures_max:
        return Breaker(Circuit.OPEN, failures, now_ms + rules.open_ms)
    return Breaker(Circuit.CLOSED, failures, 0)
