"""How many requests at once, and how many a second: turns taken in order, and a bucket of tokens."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress


class Turns:
    """So many at the same time; others wait, and the one that waited longest is next.

    An actor waits for one turn at a time, so that first come, first served is fair among actors.
    """

    __slots__ = ("_free", "_waiting", "turns_max")

    def __init__(self, turns_max: int) -> None:
        self.turns_max = turns_max
        self._free = turns_max
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Return when it is the caller's turn; cancelling gives up the place."""
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # It was given at the moment at which nobody wanted it any more.
                self.give()
            else:
                with suppress(ValueError):
                    self._waiting.remove(turn)
            raise

    def give(self) -> None:
        """End a turn that was taken."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    @property
    def waiting(self) -> int:
        return len(self._waiting)


class Bucket:
    """A token bucket, kept as the time at which it would be full (the generic cell rate algorithm, ITU-T I.371).

    Args:
        per_s: how fast it fills.
        burst: how many tokens it holds.
    """

    __slots__ = ("_full_at_ns", "_interval_ns", "_tolerance_ns")

    def __init__(self, per_s: float, burst: int) -> None:
        self._interval_ns = max(1, round(1e9 / per_s))
        self._tolerance_ns = (burst - 1) * self._interval_ns
        self._full_at_ns = 0

    def take(self, now_ns: int) -> int:
        """Take a token: 0, or the nanoseconds until there is one, and nothing is taken."""
        full_at_ns = max(now_ns, self._full_at_ns)
        wait_ns = full_at_ns - self._tolerance_ns - now_ns
        if wait_ns > 0:
            return wait_ns
        self._full_at_ns = full_at_ns + self._interval_ns
        return 0
