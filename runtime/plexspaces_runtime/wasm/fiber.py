"""One instance of a component, called on a fiber through Wasmtime's asynchronous C API.

Ownership, which is the whole difficulty (the C API's documentation, and measured):
- the arguments of a call are borrowed until its future is done, so a frame of them is kept beside the future;
- the result is ours: it is deleted once, and its kind zeroed, because "deleted" is not "cleared";
- the result slot of an import stays valid until the continuation answers True, and what is written there is Wasmtime's;
- a trapped instance is dead, and an instance that runs a call must not be entered: both are asserted here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import addressof, c_void_p
from typing import TYPE_CHECKING, Any

import orjson
from wasmtime import Store, WasmtimeError
from wasmtime import _bindings as _b

from ..actors import exits
from ..actors.guest import Err, Export, Failure, HostRequest, Ok, Poll, Result, Trapped
from ..config import Limits
from . import capi
from .guard import continuation_over
from .traps import exit_of
from .values import Val, free

if TYPE_CHECKING:
    from .engine import Machinery, Program

_VAL_BYTES = ctypes.sizeof(Val)
_BOOL = 0
# Room for what one instance of a component made from Python needs, with a reserve; a limit of its own keeps a guest
# from taking host memory that memory_bytes_max does not count.
_TABLE_ELEMENTS_MAX = 200_000
_CORE_INSTANCES_MAX = 200
_TABLES_MAX = 20
_MEMORIES_MAX = 4
# What is kept of a failure: it goes into answers, events, logs and journals, and is as long as the guest likes.
_CODE_CHARS_MAX = 256
_MESSAGE_CHARS_MAX = 8_192
_DETAILS_CHARS_MAX = 65_536
_TRACEBACK_CHARS_MAX = 65_536


class Instance:
    """A guest.  See `actors.guest.Guest` for what its methods promise.

    Args:
        sandbox: engine, linker and the table of living instances.
        program: the compiled component.
        limits: memory.
    """

    __slots__ = (
        "_dead",
        "_error",
        "_export",
        "_flag",
        "_frame",
        "_functions",
        "_future",
        "_limits",
        "_lower",
        "_program",
        "_refusal",
        "_result",
        "_results",
        "_sandbox",
        "_store",
        "context",
        "continuation",
        "instance",
        "request",
    )

    def __init__(self, sandbox: Machinery, program: Program, limits: Limits) -> None:
        self._sandbox = sandbox
        self._program = program
        self._limits = limits
        self._store = Store(sandbox.engine)
        self._store.set_limits(
            memory_size=limits.memory_bytes_max,
            table_elements=_TABLE_ELEMENTS_MAX,
            instances=_CORE_INSTANCES_MAX,
            tables=_TABLES_MAX,
            memories=_MEMORIES_MAX,
        )
        self.context = capi.address_of(self._store._context())
        self._store.set_epoch_deadline(1)
        capi.epoch_yield(self.context, 1)
        sandbox.instances[self.context] = self
        self.instance = capi.RawInstance()
        self._functions: dict[Export, Any] = {}
        self._future: int | None = None
        self._export = Export.INSTANTIATE
        self._frame: Any = None
        self._result = Val()
        self._error = c_void_p()
        self._dead = False
        # Two bytes: what strlen sees of them is "" or one character.
        self._flag = (ctypes.c_uint8 * 2)()
        self.continuation = continuation_over(addressof(self._flag))
        self.request: HostRequest | None = None
        self._results = 0
        self._lower: Callable[[Val, Any], None] | None = None
        self._refusal: str | None = None

    # -- calls --------------------------------------------------------------------------------------------

    def begin(self, export: Export, *arguments: Any) -> None:
        """Prepare a call of `export`; `poll` runs it."""
        assert self._future is None, "an instance never runs two calls at once"
        assert not self._dead, "a trapped instance is never entered"
        self._export = export
        self._error.value = None
        if export is Export.INSTANTIATE:
            self._future = capi.instantiate_async(
                self._sandbox.linker_address,
                self.context,
                self._program.component_address,
                addressof(self.instance),
                addressof(self._error),
            )
            return
        function = self._functions.get(export)
        if function is None:
            function = self._functions[export] = self._program.function(self, export)
        frame = self._frame = self._sandbox.frames.fill(export, arguments)
        self._future = capi.call_async(
            addressof(function),
            self.context,
            frame.address,
            frame.count,
            addressof(self._result),
            1,
            addressof(self._error),
        )

    def poll(self) -> Poll:
        """Run on until the call is done, suspends in a host call, or is preempted."""
        if self._refusal is not None:
            return Poll.DONE
        self.request = None
        if capi.future_poll(self._future):
            return Poll.DONE
        return Poll.PREEMPTED if self.request is None else Poll.REQUEST

    def suspend(self, results: int, lower: Callable[[Val, Any], None] | None) -> None:
        """The guard's: the fiber waits for an answer that is to be written to `results`."""
        self._flag[0] = 0
        self._results = results
        self._lower = lower

    def answer(self, value: Any) -> None:
        """Write the result of the pending request; the next poll goes on from there."""
        if self._lower is not None:
            self._lower(Val.from_address(self._results), value)
        self._flag[0] = 1

    def trap(self, message: str) -> None:
        """Refuse the pending request: the call is over, the instance dead."""
        self._refusal = message

    def take_result(self) -> Result:
        """The result of a call that is done."""
        capi.future_delete(self._future)
        self._future = None
        if self._frame is not None:
            self._sandbox.frames.release(self._frame)
            self._frame = None
        if self._refusal is not None:
            self._dead = True
            return Trapped(exits.crashed("trap", self._refusal))
        if self._error.value is not None:
            self._dead = True
            return Trapped(exit_of(self._take_error()))
        if self._export is Export.INSTANTIATE:
            return None
        value = self._sandbox.frames.lift(self._export, self._result)
        free(self._result)
        if type(value) is Ok:
            result: str | None = value.value
            return result
        if type(value) is Err:
            return self._failure(value.value)
        assert isinstance(value, str)
        return value

    def close(self) -> None:
        """Free everything; a call under way is killed."""
        if self._future is not None:
            capi.future_delete(self._future)
            self._future = None
            if self._error.value is not None:
                self._take_error()
            # A call that was done but not looked at has left its result.
            if self._result.kind != _BOOL:
                free(self._result)
        self._frame = None
        self._dead = True
        self._sandbox.instances.pop(self.context, None)
        self._store.close()

    # -- results ------------------------------------------------------------------------------------------

    def _failure(self, record: Any) -> Result:
        if record.kind == "crashed" and record.code == "MemoryError":
            return Trapped(
                exits.limit(
                    "memory",
                    f"the sandbox's memory is exhausted: memory_bytes_max = {self._limits.memory_bytes_max}",
                )
            )
        return failure(
            crashed=record.kind == "crashed",
            code=record.code,
            message=record.message,
            details=record.details,
            traceback=record.traceback,
        )

    def _take_error(self) -> str:
        pointer = ctypes.cast(self._error.value or 0, ctypes.POINTER(_b.wasmtime_error_t))
        self._error.value = None
        error = WasmtimeError._from_ptr(pointer)
        text = str(error)
        error.close()
        return text


def failure(*, crashed: bool, code: str, message: str, details: str, traceback: str) -> Failure:
    """What a guest says of its failure, as much of it as is kept."""
    return Failure(
        crashed,
        code[:_CODE_CHARS_MAX],
        message[:_MESSAGE_CHARS_MAX],
        _details(details),
        traceback[:_TRACEBACK_CHARS_MAX],
    )


def _details(text: str) -> str:
    """A failure's details as they were given, or none if nobody could pass them on."""
    if len(text) > _DETAILS_CHARS_MAX:
        return ""
    try:
        # JSON can be read four times as deep as it can be written; the answers that carry it nest some levels more.
        orjson.dumps([[[[[[[[orjson.loads(text)]]]]]]]])
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return ""
    return text
