"""The yardstick: a bare call on a fiber, nothing of ours around it and no SDK in the guest.

A hand-written guest behind a three-string function, arguments lowered by hand, the result read by hand; polled at once.
"""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import sys
from ctypes import POINTER, byref, c_char_p, c_uint8, cast, string_at
from pathlib import Path
from tempfile import TemporaryDirectory

import wasmtime._bindings as c_api
import wasmtime._ffi as ffi
from wasmtime import Engine, Store, WasmtimeError
from wasmtime.component import Component, Instance, Linker

from plexspaces_runtime.config import default_cache_dir
from plexspaces_runtime.wasm.config import engine_config

_WIT = """
package bench:actor@0.1.0;
world actor {
  export handle: func(sender: string, msg-type: string, payload: string) -> result<string, string>;
}
"""
_GUEST = """
import json
import wit_world
from componentize_py_types import Err
STATE = {"count": 0}
class WitWorld(wit_world.WitWorld):
    def handle(self, sender: str, msg_type: str, payload: str) -> str:
        if msg_type == "increment":
            STATE["count"] += json.loads(payload).get("amount", 1)
            return json.dumps({"count": STATE["count"]})
        raise Err("unknown message " + msg_type)
"""
_Val = c_api.wasmtime_component_val_t
_STRING = ffi.WASMTIME_COMPONENT_STRING.value


def _component(engine: Engine) -> Component:
    digest = hashlib.sha256((_WIT + _GUEST).encode()).hexdigest()[:16]
    wasm = default_cache_dir() / "bench" / f"bare-{digest}.wasm"
    if not wasm.exists():
        wasm.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "wit").mkdir()
            (root / "wit" / "actor.wit").write_text(_WIT)
            (root / "app.py").write_text(_GUEST)
            tool = str(Path(sys.executable).with_name("componentize-py"))
            command = [tool, "-q", "-d", "wit", "-w", "actor", "componentize", "--stub-wasi", "-p", ".", "app"]
            subprocess.run([*command, "-o", "app.wasm"], cwd=root, check=True)
            wasm.write_bytes((root / "app.wasm").read_bytes())
    return Component(engine, wasm.read_bytes())


class BareFiber:
    """One instance, called as cheaply as the C API allows from Python's own bindings."""

    def __init__(self) -> None:
        self._engine = Engine(engine_config())
        component = _component(self._engine)
        linker = Linker(self._engine)
        self._store = Store(self._engine)
        self._store.set_epoch_deadline(1)
        c_api.wasmtime_context_epoch_deadline_async_yield_and_update(self._store._context(), 1)
        raw = ffi.wasmtime_component_instance_t()
        error = POINTER(ffi.wasmtime_error_t)()
        future = c_api.wasmtime_component_linker_instantiate_async(
            linker.ptr(), self._store._context(), component.ptr(), byref(raw), byref(error)
        )
        while not c_api.wasmtime_call_future_poll(future):
            pass
        c_api.wasmtime_call_future_delete(future)
        function = Instance._from_raw(raw).get_func(self._store, "handle")
        assert function is not None
        self._function = function._func

    def call(self, message: str, payload: str) -> str:
        """One message, JSON in and out."""
        arguments, result = (_Val * 3)(), _Val()
        borrowed = [text.encode() for text in ("me", message, payload)]
        for value, text in zip(arguments, borrowed, strict=True):
            value.kind = _STRING
            value.of.string.size = len(text)
            value.of.string.data = cast(c_char_p(text), POINTER(c_uint8))
        error = POINTER(ffi.wasmtime_error_t)()
        future = c_api.wasmtime_component_func_call_async(
            byref(self._function), self._store._context(), arguments, 3, byref(result), 1, byref(error)
        )
        while not c_api.wasmtime_call_future_poll(future):
            pass
        c_api.wasmtime_call_future_delete(future)
        if error:
            raise WasmtimeError._from_ptr(error)
        value = result.of.result.val[0].of.string
        text_out = string_at(value.data, value.size).decode()
        c_api.wasmtime_component_val_delete(byref(result))
        c_api.wasmtime_component_func_post_return(byref(self._function), self._store._context())
        return text_out


assert ctypes.sizeof(_Val) == 32
