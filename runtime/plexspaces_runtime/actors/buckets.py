"""Token buckets: how fast somebody may go, with a burst, told apart by a key.

A bucket is kept as one number, the time at which it would be full (the generic cell rate algorithm of ITU-T I.371,
which decides exactly as a token bucket does): no timer fills it, and one whose time has come is as good as none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

KEYS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a bucket fills, and how much it holds.

    Attributes:
        per_second: tokens a second.
        burst: tokens of a full bucket.
        interval_ns: how long one token takes to come back.
        tolerance_ns: how long all the others do.
    """

    per_second: float
    burst: int
    interval_ns: int = field(init=False, repr=False)
    tolerance_ns: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        interval_ns = max(1, round(1e9 / self.per_second))
        object.__setattr__(self, "interval_ns", interval_ns)
        object.__setattr__(self, "tolerance_ns", (self.burst - 1) * interval_ns)


class Buckets(Generic[K]):
    """One bucket a key, full at first.

    Args:
        keys_max: buckets that are not full; keys beyond these share one, so that neither memory nor the limit gives
            way to somebody who has many names.
    """

    __slots__ = ("_full_at_ns", "_keys_max")

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys_max = keys_max
        # By key, the one that was used longest ago first; None is the key of those beyond the limit.
        self._full_at_ns: OrderedDict[K | None, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at_ns)

    def wait_ns(self, key: K, rate: Rate, now_ns: int) -> int:
        """How long until the key's bucket has a token; 0 if it has one."""
        return max(0, self._full_at_ns.get(self._name(key, now_ns), 0) - rate.tolerance_ns - now_ns)

    def take(self, key: K, rate: Rate, now_ns: int) -> None:
        """Take a token that is there."""
        name = self._name(key, now_ns)
        full_at_ns = self._full_at_ns
        full_at_ns[name] = max(now_ns, full_at_ns.get(name, 0)) + rate.interval_ns
        full_at_ns.move_to_end(name)

    def _name(self, key: K, now_ns: int) -> K | None:
        """The key of its bucket."""
        if key in self._full_at_ns:
            return key
        if len(self._full_at_ns) >= self._keys_max:
            self._forget_full(now_ns)
        return key if len(self._full_at_ns) < self._keys_max else None

    def _forget_full(self, now_ns: int) -> None:
        # The one used longest ago is full first or soon after: none stays for longer than a bucket takes to fill.
        while self._full_at_ns and next(iter(self._full_at_ns.values())) <= now_ns:
            self._full_at_ns.popitem(last=False)
