"""The node's only source of time.

`SystemClock` reads the machine's; `ManualClock` is turned by hand, so that a test owns time.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall clock, monotonic clock and processor time, in nanoseconds."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z."""

    def monotonic_ns(self) -> int:
        """Nanoseconds from an arbitrary start; never goes back."""

    def thread_cpu_ns(self) -> int:
        """Processor time of the calling thread, in nanoseconds."""


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    now_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)
    thread_cpu_ns = staticmethod(time.thread_time_ns)


class ManualClock:
    """A clock that stands still until it is advanced."""

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self._start_ns = start_ns
        self._elapsed_ns = 0

    def now_ns(self) -> int:
        return self._start_ns + self._elapsed_ns

    def monotonic_ns(self) -> int:
        return self._elapsed_ns

    def thread_cpu_ns(self) -> int:
        return self._elapsed_ns

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._elapsed_ns += round(seconds * 1e9)
