"""Budgets in tokens and money: reserved before a call, settled after it.

What is reserved counts as spent.  So many calls at once cannot together go beyond a limit that each of them alone
keeps, and a node that dies between the two has spent too much on paper rather than in fact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plexspaces import host

MICRO = 1_000_000
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens."""

    input_usd: float = 0.0
    output_usd: float = 0.0

    def micro_usd(self, input_tokens: int, output_tokens: int) -> int:
        """Millionths of a dollar, rounded up: a cheap call is not a free one."""
        exact = input_tokens * self.input_usd + output_tokens * self.output_usd
        return int(exact) + (exact > int(exact))


@dataclass(frozen=True)
class Reservation:
    """What was set aside: by key, so many millionths of a dollar or tokens."""

    amounts: dict[str, int]


@dataclass(frozen=True)
class Exhausted:
    """Which budget does not allow it."""

    scope: str
    unit: str
    limit: float
    used: float

    def details(self) -> dict[str, Any]:
        """For replies and events."""
        return {"scope": self.scope, "unit": self.unit, "limit": self.limit, "used": self.used}


class Budgets:
    """What a tenant, its days and its sessions have spent, in the key-value store that all routers share.

    Args:
        limits: by `session_usd`, `day_usd`, `tenant_usd`, `session_tokens`, `day_tokens`, `tenant_tokens`; what is not
            there has no limit.
    """

    def __init__(self, limits: dict[str, float]) -> None:
        self._limits = limits

    def reserve(
        self, session_id: str, micro_usd: int, tokens: int, changed: dict[str, float] | None = None
    ) -> Reservation | Exhausted:
        """Set aside what a call may cost at most.  Where there is no limit nothing has to be: that is counted when it
        is settled.

        Args:
            changed: limits that hold in place of the declared ones.
        """
        limits = {**self._limits, **(changed or {})}
        taken: dict[str, int] = {}
        for scope, key in self._keys(session_id).items():
            for unit, amount in (("usd", micro_usd), ("tokens", tokens)):
                name = f"{key}/{unit}"
                limit = _limit(limits, f"{scope}_{unit}")
                taken[name] = amount if limit is not None else 0
                if limit is not None and (total := host.kv_increment(name, amount)) > limit:
                    self._give_back(taken)
                    shown = MICRO if unit == "usd" else 1
                    return Exhausted(scope, unit, limit / shown, (total - amount) / shown)
        return Reservation(taken)

    def settle(self, reservation: Reservation, micro_usd: int, tokens: int) -> None:
        """Put what a call did cost in place of what was set aside for it; nothing, for one that gave no answer."""
        for name, amount in reservation.amounts.items():
            spent = micro_usd if name.endswith("/usd") else tokens
            if spent != amount:
                host.kv_increment(name, spent - amount)

    def used(self, session_id: str, changed: dict[str, float] | None = None) -> dict[str, Any]:
        """By scope: what is spent, and of how much."""
        limits = {**self._limits, **(changed or {})}
        found: dict[str, Any] = {}
        for scope, key in self._keys(session_id).items():
            usd, tokens = _limit(limits, f"{scope}_usd"), _limit(limits, f"{scope}_tokens")
            found[scope] = {
                "used_usd": host.kv_get(f"{key}/usd", 0) / MICRO,
                "limit_usd": None if usd is None else usd / MICRO,
                "used_tokens": host.kv_get(f"{key}/tokens", 0),
                "limit_tokens": tokens,
            }
        return found

    def _keys(self, session_id: str) -> dict[str, str]:
        keys = {"tenant": "spent/tenant", "day": f"spent/day/{host.now_ms() // _DAY_MS}"}
        return {**keys, "session": f"spent/session/{session_id}"} if session_id else keys

    def _give_back(self, taken: dict[str, int]) -> None:
        for name, amount in taken.items():
            if amount:
                host.kv_increment(name, -amount)


def _limit(limits: dict[str, float], name: str) -> int | None:
    limit = limits.get(name)
    if limit is None:
        return None
    return round(limit * MICRO) if name.endswith("_usd") else int(limit)
