"""The kernel's mapping limit ends the growth of a node with a clear refusal, long before it ends the node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plexspaces_runtime.config import Limits, default_cache_dir
from plexspaces_runtime.errors import LimitExceeded
from plexspaces_runtime.wasm.engine import MAPPINGS_PER_INSTANCE, MAPPINGS_RESERVED, Sandbox, instances_max


def test_five_thousand_fit_under_the_kernels_default() -> None:
    assert instances_max(65_530) >= 5_000
    assert instances_max(0) == 0


@pytest.mark.guest
async def test_one_more_than_fits_is_refused_with_the_remedy(guest: Callable[[str], Path]) -> None:
    fits = 3
    mappings_max = MAPPINGS_RESERVED + fits * MAPPINGS_PER_INSTANCE
    sandbox = Sandbox(default_cache_dir(), Limits(), mappings_max=mappings_max)
    sandbox.start()
    program = await sandbox.load(guest("counter"))
    instances = [sandbox.instance(program, Limits()) for _ in range(fits)]
    with pytest.raises(LimitExceeded, match=r"sysctl -w vm\.max_map_count") as refused:
        sandbox.instance(program, Limits())
    assert refused.value.details == {"limit": "vm.max_map_count", "value": mappings_max}
    # One that ends makes room for another.
    instances.pop().close()
    instances.append(sandbox.instance(program, Limits()))
    for instance in instances:
        instance.close()
    await sandbox.close()
