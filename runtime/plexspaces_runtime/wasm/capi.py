"""The asynchronous half of Wasmtime's C API, which the package's public Python API leaves out.

The only module that touches `wasmtime._bindings` for calls.  Pointers are plain integers here: building a `POINTER`
object for each argument of each call costs more than the call.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, PYFUNCTYPE, c_bool, c_char_p, c_size_t, c_uint64, c_void_p
from typing import Any

import wasmtime._bindings as _b
import wasmtime._ffi as _ffi

Val = _b.wasmtime_component_val_t
Func = _b.wasmtime_component_func_t
RawInstance = _b.wasmtime_component_instance_t
AsyncCallback = _b.wasmtime_component_func_async_callback_t
AsyncContinuation = _b.wasmtime_async_continuation_t
ContinuationCallback = _b.wasmtime_func_async_continuation_callback_t
Finalizer = CFUNCTYPE(None, c_void_p)
NO_FINALIZER = ctypes.cast(0, Finalizer)


def _prototype(name: str, restype: Any, *argtypes: Any) -> Any:
    # PYFUNCTYPE keeps the GIL: these take less time than handing it over and back.
    return PYFUNCTYPE(restype, *argtypes)((name, _ffi.dll))


call_async = _prototype(
    "wasmtime_component_func_call_async", c_void_p, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p
)
instantiate_async = _prototype(
    "wasmtime_component_linker_instantiate_async", c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p
)
# The one that runs guest code: without the GIL, so that other threads (the ticker, an off-loaded fiber) go on.
future_poll: Any = CFUNCTYPE(c_bool, c_void_p)(("wasmtime_call_future_poll", _ffi.dll))
future_delete = _prototype("wasmtime_call_future_delete", None, c_void_p)
get_func = _prototype("wasmtime_component_instance_get_func", c_bool, c_void_p, c_void_p, c_void_p, c_void_p)
val_delete = _prototype("wasmtime_component_val_delete", None, c_void_p)
epoch_yield = _prototype("wasmtime_context_epoch_deadline_async_yield_and_update", c_void_p, c_void_p, c_uint64)
error_new = _prototype("wasmtime_error_new", c_void_p, c_char_p)
add_func_async = _prototype(
    "wasmtime_component_linker_instance_add_func_async",
    c_void_p,
    c_void_p,
    c_char_p,
    c_size_t,
    AsyncCallback,
    c_void_p,
    Finalizer,
)


def address_of(pointer: Any) -> int:
    """The address in a ctypes pointer."""
    return ctypes.cast(pointer, c_void_p).value or 0
