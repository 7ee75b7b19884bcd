"""An event loop and a clock of one virtual time: nothing waits, and what would take an hour takes a moment."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

from plexspaces_runtime.clock import ManualClock


class NothingWillHappen(AssertionError):
    """Somebody waits, and no timer, socket or callback could ever wake them: a lost wake-up."""


class _Selector(selectors.DefaultSelector):  # type: ignore[valid-type, misc]
    """Instead of waiting, turns the clock."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise NothingWillHappen("the loop has nothing to do, and nothing will ever come")
        # Up, never down: a timer must be due when its time has come.
        self._clock.advance(timeout + 1e-9)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time is `clock`'s; `after_step` is called after each of its rounds."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        self.after_step: Callable[[], None] = lambda: None
        super().__init__(_Selector(self.clock))

    def time(self) -> float:
        return self.clock.monotonic_ns() / 1e9

    def run_in_executor(self, _executor: Any, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """At once: another thread would need time of its own."""
        done = self.create_future()
        try:
            done.set_result(function(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]
        self.after_step()


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, None]]) -> None:
    """Run a simulation to its end."""
    loop = VirtualLoop()
    try:
        loop.run_until_complete(main(loop))
    finally:
        loop.close()
