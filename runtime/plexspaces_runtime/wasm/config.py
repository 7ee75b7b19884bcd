"""How engines are configured: one table, for the node and for the process that compiles, so that they cannot differ."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

import wasmtime._bindings as _b
from wasmtime import Config

_MIB = 1 << 20

# A host import runs on the fiber's stack above whatever the guest has used of it, so the two differ by the
# room that is left for the guard.
FIBER_STACK_BYTES = 2 * _MIB
GUEST_STACK_BYTES = 1 * _MIB

# Name of the C API's setter, value.  Everything that changes compiled code or the layout of an instance is named, even
# where it is the default: a default that moves with an upgrade would otherwise move unseen.
SETTINGS: tuple[tuple[str, bool | int], ...] = (
    ("epoch_interruption", True),
    ("consume_fuel", False),
    ("async_stack_size", FIBER_STACK_BYTES),
    ("max_wasm_stack", GUEST_STACK_BYTES),
    # 4 GiB of address space an instance by default; 64 MiB cost nothing measurable and let thousands live.
    ("memory_reservation", 64 * _MIB),
    ("memory_guard_size", 32 * _MIB),
    # A memory that outgrows its reservation moves; this much more is reserved with the move, 2 GiB by default.
    ("memory_reservation_for_growth", 64 * _MIB),
    ("memory_may_move", True),
    ("memory_init_cow", True),
    ("debug_info", False),
    # Guests are synchronous; without the bookkeeping for the component model's own concurrency each call is 1.5 us
    # cheaper.  The first of the two must be off for the second to be.
    ("wasm_component_model_async", False),
    ("concurrency_support", False),
    ("wasm_threads", False),
    ("shared_memory", False),
    ("parallel_compilation", True),
)


def engine_config() -> Config:
    """The configuration of every engine.  A `Config` can be used for one engine only."""
    config = Config()
    for name, value in SETTINGS:
        getattr(_b, f"wasmtime_config_{name}_set")(config.ptr(), value)
    return config


@cache
def config_digest() -> str:
    """Names everything besides the component itself that compiled code depends on: 16 hexadecimal digits.

    Wasmtime's version, this configuration, the machine and what its processor can do.
    """
    parts = (version("wasmtime"), repr(SETTINGS), platform.system(), platform.machine(), _processor_features())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _processor_features() -> str:
    # A data directory may move to another machine.  Wasmtime refuses code that needs what the processor lacks; with
    # the features in the key the code is compiled again instead, and better where the processor has more.
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return " ".join(sorted(value.split()))
    return ""
