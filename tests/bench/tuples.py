"""The tuple space: does a take with one bound field cost more among a million tuples than among a thousand?"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from plexspaces_runtime.clock import SystemClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores.quotas import Quotas
from plexspaces_runtime.stores.tuplespace import MemoryTuples, TupleSpace

from .common import Row, anonymous_kb, median
from .kv import _stores

_SCOPE = Scope("acme", "default")
_FEW, _MANY = 1_000, 1_000_000
_TAKES = 500
_ROUNDS = 9


def _space(count: int) -> TupleSpace:
    limits = Limits(tuples_per_tenant_max=2 * _MANY)
    space = TupleSpace(
        MemoryTuples(), quotas=Quotas(limits), clock=SystemClock(), limits=limits, set_alarm=lambda _delay_s: None
    )
    for number in range(count):
        space.write(_SCOPE, f'["job",{number},{number % 100}]')
    return space


def _takes(space: TupleSpace, count: int, step: int, *, keyed: bool) -> float:
    """Microseconds a take; what was taken is written again, unmeasured."""
    spent = 0.0
    for take in range(_TAKES):
        pattern = f'[null,{take * step % count},null]' if keyed else '["job",null,null]'
        began = time.perf_counter()
        found = space.take(_SCOPE, pattern)
        spent += time.perf_counter() - began
        assert isinstance(found, str)
        space.write(_SCOPE, found)
    return 1e6 * spent / _TAKES


async def _durable(folder: Path) -> float:
    """Writes and takes a second, one after the other, each on disk before the next."""
    stores = await _stores(folder)
    began = time.perf_counter()
    for number in range(2_000):
        stores.tuplespace.write(_SCOPE, f'["job",{number}]')
        await stores.flushed()
        stores.tuplespace.take(_SCOPE, '["job",null]')
        await stores.flushed()
    rate = 2_000 / (time.perf_counter() - began)
    await stores.stop()
    return rate


async def run() -> list[Row]:
    few = _space(_FEW)
    before_kb = anonymous_kb()
    began = time.perf_counter()
    many = _space(_MANY)
    fill_us = 1e6 * (time.perf_counter() - began) / _MANY
    bytes_each = (anonymous_kb() - before_kb) * 1_024 / _MANY
    # What a collection costs depends on everything that lives, and is not the index's.
    gc.freeze()
    rare: tuple[list[float], list[float]] = [], []
    common: tuple[list[float], list[float]] = [], []
    for _ in range(_ROUNDS):
        for keyed, samples in ((True, rare), (False, common)):
            samples[0].append(_takes(few, _FEW, 7, keyed=keyed))
            samples[1].append(_takes(many, _MANY, 1_999, keyed=keyed))
    with TemporaryDirectory() as folder:
        durable = await _durable(Path(folder))
    return [
        Row(f"tuple write, filling to {_MANY:,}", f"{fill_us:.1f} us, {bytes_each:,.0f} bytes of memory each"),
        Row("tuple take by a field that one tuple has, among 1,000", f"{median(rare[0]):.1f} us"),
        Row("tuple take by a field that one tuple has, among 1,000,000", f"{median(rare[1]):.1f} us"),
        Row.at_most("tuple take by a rare field: a million / a thousand", median(rare[1]) / median(rare[0]), 3.0, "x"),
        Row("tuple take by a field that all have, among 1,000,000", f"{median(common[1]):.1f} us"),
        Row.at_most(
            "tuple take by a common field: a million / a thousand", median(common[1]) / median(common[0]), 3.0, "x"
        ),
        Row("tuple written and taken, each on disk before the next", f"{durable:,.0f}/s"),
    ]
