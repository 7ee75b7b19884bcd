"""The one gate through which guests call the host.

Every import of every component ends in `ImportGuard._on_import`.  It runs on the guest's fiber stack (2 MB, not the
thread's), perhaps on the off-loading thread, called from C: so it copies the arguments, notes the request on the
instance and suspends the fiber, and nothing else.  The loop serves the request later, on its own stack.

Nothing may raise past here: an exception that leaves a ctypes callback is printed and lost, and one that left the
continuation unset would abort the whole process.  So the first thing done is to fill the continuation in.

The continuation is no Python at all.  It is libc's `strlen` over a flag of the instance: "" is False, one character is
True.  Resuming takes no GIL on either thread, and a killed fiber leaves nothing to forget.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, c_size_t, c_void_p
from typing import TYPE_CHECKING, Any

from wasmtime.component import Linker

from ..actors.guest import HostRequest
from . import capi
from .values import lifter, lowerer
from .wit import Package

if TYPE_CHECKING:
    from .fiber import Instance

# As wasmtime's own type, but with plain integers for pointers.
_Callback = CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, c_void_p)
_STRLEN = ctypes.cast(ctypes.CDLL(None).strlen, c_void_p).value or 0
_VAL_BYTES = ctypes.sizeof(capi.Val)
_CONTINUATION_BYTES = ctypes.sizeof(capi.AsyncContinuation)


def continuation_over(flag_address: int) -> bytes:
    """The C structure {callback, env, finalizer} that answers whether the flag is set."""
    pointer = ctypes.sizeof(c_void_p)
    return b"".join(value.to_bytes(pointer, "little") for value in (_STRLEN, flag_address, 0))


class _HostFunction:
    """One function of the WIT, with its types resolved."""

    __slots__ = ("function", "interface", "lifters", "lower_result", "values")

    def __init__(self, interface: str, function: str, params: list[Any], result: Any) -> None:
        self.interface = interface
        self.function = function
        self.lifters = tuple(lifter(type_) for type_ in params)
        self.values = capi.Val * len(params)
        self.lower_result = lowerer(result) if result is not None else None


class ImportGuard:
    """Defines every function of our WIT package in a linker, and takes all calls.

    Args:
        package: the WIT.
        instances: by the address of their store's context; the guard only looks things up.
    """

    def __init__(self, package: Package, instances: dict[int, Instance]) -> None:
        self._instances = instances
        # Numbered from 1: ctypes hands a null pointer over as None.
        self._functions: dict[int, _HostFunction] = {}
        # Kept alive as long as the guard: the linker holds only the C pointer.
        self._callback = _Callback(self._on_import)
        self._package = package

    def define(self, linker: Linker) -> None:
        """Put all functions into `linker`."""
        entry = ctypes.cast(self._callback, capi.AsyncCallback)
        with linker.root() as root:
            for interface in self._package.interfaces.values():
                with root.add_instance(self._package.qualified(interface.name)) as instance:
                    for function in interface.functions.values():
                        number = len(self._functions) + 1
                        self._functions[number] = _HostFunction(
                            interface.name, function.name, [type_ for _, type_ in function.params], function.result
                        )
                        name = function.name.encode()
                        error = capi.add_func_async(
                            capi.address_of(instance.ptr()), name, len(name), entry, number, capi.NO_FINALIZER
                        )
                        assert not error, f"{interface.name}.{function.name} could not be defined"

    def _on_import(
        self,
        number: int,
        context: int,
        _type: int,
        arguments: int,
        _arguments_count: int,
        results: int,
        _results_count: int,
        error: int,
        continuation: int,
    ) -> None:
        try:
            instance = self._instances[context]
            ctypes.memmove(continuation, instance.continuation, _CONTINUATION_BYTES)
            function = self._functions[number]
            values = function.values.from_address(arguments) if arguments else ()
            instance.request = HostRequest(
                function.interface,
                function.function,
                tuple([lift(value) for lift, value in zip(function.lifters, values, strict=True)]),
            )
            instance.suspend(results, function.lower_result)
        except BaseException as fault:  # noqa: BLE001 - the guard: see the module's text
            c_void_p.from_address(error).value = capi.error_new(f"host: {type(fault).__name__}: {fault}".encode())
