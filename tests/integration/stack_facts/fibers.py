"""The barest use of Wasmtime's asynchronous C API: the facts are tested with it, and not with the runtime's own fibers.

Components are written in WebAssembly text; they compile in milliseconds.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable, Iterable
from ctypes import CFUNCTYPE, POINTER, byref, c_void_p
from pathlib import Path
from typing import Any

import wasmtime._bindings as b
import wasmtime._ffi as ffi
from wasmtime import Engine, Store, WasmtimeError
from wasmtime.component import Component, Instance, Linker

from plexspaces_runtime.wasm.config import engine_config
from plexspaces_runtime.wasm.values import Val

ROOT = Path(__file__).resolve().parents[3]
U32 = ffi.WASMTIME_COMPONENT_U32.value
STRING = ffi.WASMTIME_COMPONENT_STRING.value
NO_FINALIZER = ctypes.cast(0, CFUNCTYPE(None, c_void_p))

# `run(x)` is what `host.ask(x)` answers.  `spin` never ends, `fall` never returns, `crash` traps.
ASKER = (
    """(component
  (import "test:facts/host" (instance $host (export "ask" (func (param "x" u32) (result u32)))))
  (core func $ask (canon lower (func $host "ask")))
  (core module $m
    (import "host" "ask" (func $ask (param i32) (result i32)))
    (memory (export "memory") 1)
    (table $table 1 funcref)
    (func (export "run") (param i32) (result i32) (call $ask (local.get 0)))
    (func (export "echo") (param i32) (result i32) (local.get 0))
    (func (export "spin") (param i32) (result i32) (loop $again (br $again)) unreachable)
    (func $fall (export "fall") (param i32) (result i32) (i32.add (call $fall (local.get 0)) (i32.const 1)))
    (func (export "crash") (param i32) (result i32) unreachable)
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "widen") (param i32) (result i32) (table.grow $table (ref.null func) (local.get 0)))
    (func (export "cleanup") (param i32)))
  (core instance $i (instantiate $m (with "host" (instance (export "ask" (func $ask))))))
"""
    + "\n".join(
        f'(func (export "{name}") (param "x" u32) (result u32) '
        f'(canon lift (core func $i "{name}") (post-return (core func $i "cleanup"))))'
        for name in ("run", "echo", "spin", "fall", "crash", "grow", "widen")
    )
    + ")"
)

Callback = Callable[..., None]


class World:
    """An engine, a component, and a linker with one asynchronous import, `ask`."""

    def __init__(self, wasm: str | bytes | Component, ask: Callback, interface: str = "test:facts/host") -> None:
        self.engine = Engine(engine_config())
        self.component = wasm if isinstance(wasm, Component) else Component(self.engine, wasm)
        self.linker = Linker(self.engine)
        # ctypes callbacks must outlive every call that can reach them.
        self._callback = b.wasmtime_component_func_async_callback_t(ask)
        with self.linker.root() as root, root.add_instance(interface) as host:
            error = b.wasmtime_component_linker_instance_add_func_async(
                host.ptr(), b"ask", 3, self._callback, None, NO_FINALIZER
            )
            assert not error


class Fiber:
    """One instance, and at most one call under way."""

    def __init__(self, world: World, memory_bytes_max: int = -1, table_elements_max: int = -1) -> None:
        self.world = world
        self.store = Store(world.engine)
        self.store.set_limits(memory_size=memory_bytes_max, table_elements=table_elements_max)
        self.store.set_epoch_deadline(1)
        b.wasmtime_context_epoch_deadline_async_yield_and_update(self.store._context(), 1)
        self.raw = ffi.wasmtime_component_instance_t()
        self.error = POINTER(ffi.wasmtime_error_t)()
        self.future = b.wasmtime_component_linker_instantiate_async(
            world.linker.ptr(), self.store._context(), world.component.ptr(), byref(self.raw), byref(self.error)
        )
        self.result = Val()
        self.arguments: Any = None
        self.finish()

    def function(self, name: str) -> Any:
        found = Instance._from_raw(self.raw).get_func(self.store, name)
        assert found is not None
        return found._func

    def begin(self, name: str, *arguments: int | bytes) -> None:
        self.arguments = ((Val * max(1, len(arguments)))(), arguments)
        for slot, value in zip(self.arguments[0], arguments, strict=False):
            if isinstance(value, int):
                slot.kind, slot.of.u32 = U32, value
            else:
                slot.kind = STRING
                slot.of.string.size = len(value)
                slot.of.string.data = ctypes.cast(ctypes.c_char_p(value), POINTER(ctypes.c_uint8))
        self.error = POINTER(ffi.wasmtime_error_t)()
        self.called = self.function(name)
        self.future = b.wasmtime_component_func_call_async(
            byref(self.called),
            self.store._context(),
            self.arguments[0],
            len(arguments),
            byref(self.result),
            1,
            byref(self.error),
        )

    def poll(self) -> bool:
        return bool(b.wasmtime_call_future_poll(self.future))

    def finish(self, polls_max: int = 100_000) -> Val:
        """Poll to the end.

        Raises:
            WasmtimeError: the guest trapped.
        """
        for _ in range(polls_max):
            if self.poll():
                break
        else:
            raise AssertionError(f"not done after {polls_max} polls")
        self.end()
        if self.error:
            raise WasmtimeError._from_ptr(self.error)
        return self.result

    def end(self) -> None:
        """Forget the call; kills it where it is not done."""
        b.wasmtime_call_future_delete(self.future)

    def call(self, name: str, *arguments: int | bytes) -> int:
        self.begin(name, *arguments)
        return int(self.finish().of.u32)


def address(pointer: Any) -> int:
    return ctypes.cast(pointer, c_void_p).value or 0


_always = b.wasmtime_func_async_continuation_callback_t(lambda _env: True)


def answer(results: Any, continuation: Any, value: int) -> None:
    """Answer an import in place."""
    results[0].kind, results[0].of.u32 = U32, value
    continuation[0].callback = _always
    continuation[0].env = 0
    continuation[0].finalizer = NO_FINALIZER


def answer_next(_data: Any, _ctx: Any, _ty: Any, args: Any, _n: Any, results: Any, _m: Any, _e: Any, then: Any) -> None:
    """An import that answers its argument plus one, in place."""
    answer(results, then, args[0].of.u32 + 1)


def run_alone(script: str, arguments: Iterable[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a script that may take its process down with it."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
