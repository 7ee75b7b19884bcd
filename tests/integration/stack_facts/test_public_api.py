"""Why the public Python API is not used for values and WASI."""

from __future__ import annotations

import ctypes

import pytest
import wasmtime._ffi as ffi
from wasmtime import Engine, Store
from wasmtime.component import Component
from wasmtime.component import _types as types

from .fibers import run_alone


def lowered_by_the_public_api(error: str, value: object) -> bytes:
    """`value` as a `result<option<string>, ERROR>`."""
    engine = Engine()
    text = f'(component (import "lookup" (func (result (result (option string) (error {error}))))))'
    function = Component(engine, text).type.imports(engine)["lookup"].ty
    assert isinstance(function, types.FuncType)
    assert isinstance(function.result, types.ResultType)
    val = ffi.wasmtime_component_val_t()
    function.result.convert_to_c(Store(engine), value, ctypes.pointer(val))
    return bytes(val)


def test_whether_a_result_is_tagged_depends_on_the_python_types_of_its_other_side() -> None:
    assert lowered_by_the_public_api("u32", None)
    with pytest.raises(TypeError, match="expected Variant"):
        lowered_by_the_public_api("string", None)


WASI_SLEEPER = """(component
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $outer)) (export "pollable" (type $p (eq $outer)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (core func $subscribe (canon lower (func $clock "subscribe-duration")))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core module $m
    (import "" "subscribe" (func $subscribe (param i64) (result i32)))
    (import "" "block" (func $block (param i32)))
    (func (export "sleep") (param i32) (result i32)
      (call $block (call $subscribe (i64.const 50000000))) (local.get 0)))
  (core instance $i (instantiate $m (with "" (instance
    (export "subscribe" (func $subscribe)) (export "block" (func $block))))))
  (func (export "sleep") (param "x" u32) (result u32) (canon lift (core func $i "sleep"))))"""


def test_wasmtimes_own_asynchronous_wasi_in_a_fiber_aborts_the_process() -> None:
    script = f"""
from tests.integration.stack_facts.fibers import *
from wasmtime import WasiConfig
class Wasi(World):
    def __init__(self):
        self.engine = Engine(engine_config())
        self.component = Component(self.engine, '''{WASI_SLEEPER}''')
        self.linker = Linker(self.engine)
        assert not b.wasmtime_component_linker_add_wasip2_async(self.linker.ptr())
        prepare = Store.__init__
        def with_wasi(store, *arguments):
            prepare(store, *arguments)
            store.set_wasi(WasiConfig())
        Store.__init__ = with_wasi
print("slept", Fiber(Wasi()).call("sleep", 1))
"""
    done = run_alone(script)
    assert "slept" not in done.stdout
    assert done.returncode < 0, done.stderr
    assert "no reactor running" in done.stderr


def test_bytes_that_are_not_utf8_from_the_host_abort_or_trap_but_never_reach_the_guest() -> None:
    script = """
from tests.integration.stack_facts.fibers import *
WAT = '''(component
  (core module $m (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
    (func (export "len") (param i32 i32) (result i32) (local.get 1)))
  (core instance $i (instantiate $m))
  (import "test:facts/host" (instance))
  (func (export "len") (param "s" string) (result u32)
    (canon lift (core func $i "len") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))'''
fiber = Fiber(World(WAT, answer_next))
print("good", fiber.call("len", b"good"))
print("bad", fiber.call("len", bytes([0xff, 0xfe])))
"""
    done = run_alone(script)
    assert "good 4" in done.stdout, done.stderr
    assert "bad" not in done.stdout
    assert done.returncode != 0
