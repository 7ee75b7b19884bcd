"""The sandbox of a node: one engine, one linker, all living instances, and the compiled components they share."""

from __future__ import annotations

import ctypes
from ctypes import addressof
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from wasmtime import Engine
from wasmtime.component import ExportIndex, Linker

from ..actors.guest import Export
from ..config import Limits
from ..errors import InternalError, LimitExceeded
from . import capi
from .cache import ComponentCache, Loaded
from .calls import Calls
from .config import engine_config
from .fiber import Instance
from .guard import ImportGuard
from .ticker import EpochTicker
from .wit import load as load_wit

_MAX_MAP_COUNT = Path("/proc/sys/vm/max_map_count")
# An instance has 7 memory mappings, its fiber 2 more while a call is under way.
MAPPINGS_PER_INSTANCE = 9
# For the node itself: when the kernel gives no more, Python cannot even say so.
MAPPINGS_RESERVED = 4_000


def instances_max(mappings_max: int) -> int:
    """How many instances fit when the kernel gives a process `mappings_max` mappings."""
    return max(0, (mappings_max - MAPPINGS_RESERVED) // MAPPINGS_PER_INSTANCE)


def kernel_mappings_max() -> int:
    """How many memory mappings the kernel gives a process."""
    try:
        return int(_MAX_MAP_COUNT.read_text())
    except (OSError, ValueError):
        # The kernel's default.
        return 65_530


class Program:
    """A compiled component, with its exports looked up once."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.component_address = capi.address_of(loaded.component.ptr())
        self._indexes: dict[Export, ExportIndex | None] = {
            export: loaded.component.get_export_index(export.value)
            for export in Export
            if export is not Export.INSTANTIATE
        }

    def function(self, instance: Instance, export: Export) -> Any:
        """The C API's handle of `export` in one instance."""
        index = self._indexes[export]
        function = capi.Func()
        if index is None or not capi.get_func(
            addressof(instance.instance), instance.context, capi.address_of(index.ptr()), addressof(function)
        ):
            raise InternalError(f"the component has no export {export.value!r} although it was audited")
        return function


class Machinery:
    """What instances are made with and run on, wherever their code comes from.

    Args:
        slice_ms: milliseconds after which a guest that runs is interrupted.
        mappings_max: memory mappings the kernel gives this process; asked of the kernel if None.
    """

    def __init__(self, slice_ms: int, *, mappings_max: int | None = None) -> None:
        self._mappings_max = kernel_mappings_max() if mappings_max is None else mappings_max
        self._instances_max = instances_max(self._mappings_max)
        self.engine = Engine(engine_config())
        self.package = load_wit()
        self.instances: dict[int, Instance] = {}
        self.frames = Calls(self.package)
        self._guard = ImportGuard(self.package, self.instances)
        self._linker = Linker(self.engine)
        self._guard.define(self._linker)
        self.linker_address = capi.address_of(self._linker.ptr())
        self.ticker = EpochTicker(self.engine.increment_epoch, slice_ms / 1000)

    def instance(self, program: Program, limits: Limits) -> Instance:
        """A new instance, yet to be instantiated.

        Raises:
            LimitExceeded: the kernel would not give it the memory mappings that it needs.
        """
        if len(self.instances) >= self._instances_max:
            raise too_many_instances(len(self.instances), self._mappings_max)
        return Instance(self, program, limits)


def too_many_instances(count: int, mappings_max: int) -> LimitExceeded:
    """The kernel gives a process no more memory mappings."""
    return LimitExceeded(
        f"{count} actors live in this process, as many as the kernel's vm.max_map_count = {mappings_max} allows: "
        "raise it (`sysctl -w vm.max_map_count=1048576`) or stop some",
        limit="vm.max_map_count",
        value=mappings_max,
    )


class Sandbox(Machinery):
    """Loads components and makes instances.

    Args:
        cache_dir: where compiled components are kept.
        limits: tick length, compile limits.
        mappings_max: memory mappings the kernel gives this process; asked of the kernel if None.
    """

    def __init__(self, cache_dir: Path, limits: Limits, *, mappings_max: int | None = None) -> None:
        super().__init__(limits.slice_ms, mappings_max=mappings_max)
        self._cache = ComponentCache(
            self.engine,
            cache_dir / "components",
            compile_s_max=limits.compile_s_max,
            compile_memory_bytes_max=limits.compile_memory_bytes_max,
            entries_max=limits.components_max,
            package=self.package,
        )
        # One per component in use; the specs of its actors keep it.
        self._programs: WeakValueDictionary[str, Program] = WeakValueDictionary()

    async def load(self, wasm: bytes | Path) -> Program:
        """Check, compile (or find compiled) and audit a component.

        Raises:
            InvalidComponent: it is no sealed component of our world; the message names what is wrong.
            LimitExceeded: compiling it took too much time or memory.
        """
        loaded = await self._cache.load(wasm)
        program = self._programs.get(loaded.hash)
        if program is None:
            program = self._programs[loaded.hash] = Program(loaded)
        return program

    def compiled_file(self, program: Program) -> Path:
        """Where a component's compiled code is, for another process to map; written again if it was removed."""
        return self._cache.file(program.loaded)

    def start(self) -> None:
        """Start the epoch ticker."""
        self.ticker.start()

    async def close(self) -> None:
        """End the ticker and whatever is being compiled; every instance must be closed."""
        await self._cache.close()
        self.ticker.stop()
        assert not self.instances, f"{len(self.instances)} instances were never closed"


assert ctypes.sizeof(ctypes.c_void_p) == 8, "the frames of wasm/calls.py are laid out for 64 bits"
