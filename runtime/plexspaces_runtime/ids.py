"""The node's only source of chance: ids and random bytes."""

from __future__ import annotations

import os
import random
from typing import Final, Protocol

# 80 bits.
_ID_CHARS: Final = 20
_POOL_IDS: Final = 256


class Ids(Protocol):
    """Unique ids and random bytes."""

    def next(self, prefix: str) -> str:
        """A new id, unique in this node and, in practice, among all."""

    def random_bytes(self, count: int) -> bytes:
        """`count` bytes nobody can guess."""


class SystemIds:
    """Random ids.  A counter would be cheaper, and tell each tenant how much the others do."""

    def __init__(self) -> None:
        self._pool = ""
        self._at = 0

    def next(self, prefix: str) -> str:
        if self._at == len(self._pool):
            # A system call each would cost more than all the rest.
            self._pool = os.urandom(_POOL_IDS * _ID_CHARS // 2).hex()
            self._at = 0
        begin, self._at = self._at, self._at + _ID_CHARS
        return f"{prefix}-{self._pool[begin : self._at]}"

    random_bytes = staticmethod(os.urandom)


class SeededIds:
    """The same ids in the same order for the same seed: for tests and simulations, never for a real node."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._count = 0

    def next(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}-{self._count:x}"

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)
