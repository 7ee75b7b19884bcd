"""How long to wait before a process that died is started again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_FIRST_S: Final = 0.1
_LONGEST_S: Final = 30.0
# Who has lived so long starts anew.
_STABLE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Deaths:
    """The deaths in a row, each sooner than `_STABLE_S` after its start."""

    count: int = 0

    def after(self, lived_s: float) -> Deaths:
        """With one more, of a process that lived this long."""
        return Deaths(1) if lived_s >= _STABLE_S else Deaths(self.count + 1)

    @property
    def delay_s(self) -> float:
        """How long to wait: not at all after the first, then twice as long each time."""
        if self.count <= 1:
            return 0.0
        return min(_LONGEST_S, _FIRST_S * 2.0 ** min(self.count - 2, 16))
