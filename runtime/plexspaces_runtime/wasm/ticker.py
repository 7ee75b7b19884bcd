"""The epoch: a thread that interrupts guests which have been running for a while, and sleeps when none is.

It wakes once a tick only while guests run at all; when nothing has run for `_PATIENCE` ticks it waits for a sign, so an
idle node uses no CPU.  It moves the epoch only if the very same stretch of guest code that it saw a tick ago is still
running, so short calls are not disturbed by each other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# Ticks without any guest running before the thread lies down.
_PATIENCE = 25
# After so many ticks without an interruption they are as long as ever.
_CALM = 8
# Ticks are so many times shorter while several tenants use the node.
_SHARED_PARTS = 8


class EpochTicker:
    """Calls `increment_epoch` while some guest has been running for longer than a tick.

    Args:
        increment_epoch: the engine's; safe from any thread.
        tick_s: the length of a tick in seconds.
    """

    def __init__(self, increment_epoch: Callable[[], None], tick_s: float) -> None:
        self._increment_epoch = increment_epoch
        self._tick_s = tick_s
        # Odd while a guest runs on the loop.  Written there, read here: a stale read costs a tick, nothing else.
        self._stretch = 0
        self._offloading = False
        self._short_tick_s = tick_s
        self._asleep = False
        self._stopping = False
        self._sign = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread = threading.Thread(target=self._watch, name="epoch-ticker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping = True
        self._sign.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def enter(self) -> None:
        """A guest begins to run on the loop."""
        self._stretch += 1
        if self._asleep:
            self._sign.set()

    def leave(self) -> None:
        """It gave control back."""
        self._stretch += 1

    def offloading(self, active: bool) -> None:
        """Guests run (or no longer run) on other threads: they are interrupted every tick."""
        self._offloading = active
        if active:
            self._sign.set()

    def sharing(self, active: bool) -> None:
        """Several tenants use the node (or no longer do): guests that run for long are interrupted sooner (or not)."""
        self._short_tick_s = self._tick_s / _SHARED_PARTS if active else self._tick_s

    def _watch(self) -> None:
        sign = self._sign
        while not self._stopping:
            sign.clear()
            self._asleep = True
            # Looked at after `_asleep` was set: a guest that began before saw it unset and gave no sign.
            if not self._stretch & 1 and not self._offloading:
                sign.wait()
            self._asleep = False
            self._tick_while_busy()

    def _tick_while_busy(self) -> None:
        seen = -1
        idle = 0
        # Ticks since the last interruption.
        calm = _CALM
        while not self._stopping and idle < _PATIENCE:
            # Short only while there is somebody to interrupt: each tick takes the interpreter's lock from the loop.
            time.sleep(self._short_tick_s if calm < _CALM else self._tick_s)
            stretch = self._stretch
            is_long = stretch & 1 and stretch == seen
            calm = 0 if is_long else calm + 1
            if self._offloading or is_long:
                self._increment_epoch()
                idle = 0
            elif stretch == seen:
                idle += 1
            else:
                idle = 0
            seen = stretch
