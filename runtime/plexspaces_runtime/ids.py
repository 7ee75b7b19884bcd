"""The node's only source of chance: ids and random bytes."""

from __future__ import annotations

import os
import random
from typing import Protocol


class Ids(Protocol):
    """Unique ids and random bytes."""

    def next(self, prefix: str) -> str:
        """A new id, unique in this node and, in practice, among all."""

    def random_bytes(self, count: int) -> bytes:
        """`count` bytes nobody can guess."""


class SystemIds:
    """Ids of a random prefix per process and a counter: unique, cheap (no system call each), sortable."""

    def __init__(self) -> None:
        self._process = os.urandom(6).hex()
        self._count = 0

    def next(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}-{self._process}-{self._count:x}"

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
