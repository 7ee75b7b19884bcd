"""When a node starts a failed application again: a pure function of its failures so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DELAY_S: Final = 1.0
DELAY_S_MAX: Final = 60.0
# Once it has run for so long, earlier failures are forgotten.
WELL_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Failures:
    """How often in a row an application has failed.

    Attributes:
        count: failures since it last ran well.
        started_s: monotonic seconds, when it was last started.
    """

    count: int = 0
    started_s: float = 0.0

    def again(self, now_s: float) -> tuple[float, Failures]:
        """It failed at `now_s`: how many seconds to wait before the next start, and what to remember."""
        count = 1 if now_s - self.started_s > WELL_S else self.count + 1
        # Capped before it is raised: 2.0**2000 overflows.
        delay_s = min(DELAY_S_MAX, DELAY_S * 2.0 ** min(count - 1, 16))
        return delay_s, Failures(count, now_s + delay_s)
