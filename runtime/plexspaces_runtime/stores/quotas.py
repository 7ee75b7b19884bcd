"""What each tenant has stored, and how much that may be."""

from __future__ import annotations

from ..config import Limits
from ..errors import LimitExceeded


class Quota:
    """One kind of thing, counted by tenant.

    Args:
        limit: the setting's name.
        what: in a sentence: "keys".
    """

    def __init__(self, limit: str, most: int, what: str) -> None:
        self._limit = limit
        self._most = most
        self._what = what
        self._used: dict[str, int] = {}

    def of(self, tenant: str) -> int:
        """How much a tenant has."""
        return self._used.get(tenant, 0)

    def check(self, tenant: str, growth: int = 1) -> None:
        """Do nothing if a tenant may have so much more.

        Raises:
            LimitExceeded
        """
        used = self._used.get(tenant, 0)
        if growth > 0 and used + growth > self._most:
            raise LimitExceeded(
                f"the tenant has {used} {self._what}, and {growth} more would be more than {self._limit} = "
                f"{self._most}: delete some, or raise it",
                limit=self._limit,
                value=self._most,
                used=used,
            )

    def add(self, tenant: str, growth: int = 1) -> None:
        """Count so much more, or less."""
        used = self._used.get(tenant, 0) + growth
        assert used >= 0, f"{tenant} has {used} {self._what}"
        if used:
            self._used[tenant] = used
        else:
            self._used.pop(tenant, None)


class Quotas:
    """All quotas of a node's stores.  Each store counts what it finds at its start."""

    def __init__(self, limits: Limits) -> None:
        self.bytes = Quota("stored_bytes_per_tenant_max", limits.stored_bytes_per_tenant_max, "stored bytes")
        self.keys = Quota("keys_per_tenant_max", limits.keys_per_tenant_max, "keys")
        self.tuples = Quota("tuples_per_tenant_max", limits.tuples_per_tenant_max, "tuples")
