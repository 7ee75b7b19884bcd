"""The sandbox's memory as the build leaves it: laid out so that an instance writes to as few of its pages as it can.

All instances of a component share that memory; a page of 4 KiB becomes an instance's own when it first writes there.
"""

from __future__ import annotations

import sys
from typing import Final

_LARGEST_HOLE_BYTES: Final = 1 << 19
_HOLES_MAX: Final = 20_000
# Bytes objects that fill holes, each held by the next.
_filling: object = None
# CPython reports exhausted memory as an exception, and the report needs memory too.  Zeroes that nobody writes to are
# part of the shared memory, so this costs an instance nothing until it is needed.
_reserve: list[bytes] = [bytes(256 << 10)]


def release_reserve() -> None:
    """Make room for what must be said of a `MemoryError`."""
    _reserve.clear()


def fill_holes() -> None:
    """Use up the free blocks between what the build has left, so that new objects come to lie side by side.

    The C library's allocator prefers a hole that fits; after a build there are thousands, each in another page.
    """
    global _filling
    empty = sys.getsizeof(b"")
    probe = bytes(1 << 20)
    # Too large for any hole, so it lies at the end of the heap, where what follows it will be.
    end = id(probe)
    del probe
    sizes = [1 << exponent for exponent in range(_LARGEST_HOLE_BYTES.bit_length() - 1, 9, -1)]
    for size in [*sizes, *range(504, empty, -8)]:
        beyond = 0
        for _ in range(_HOLES_MAX):
            block = bytes(size - empty)
            if id(block) >= end:
                beyond += 1
                if beyond > 2:
                    break
            _filling = (_filling, block)
