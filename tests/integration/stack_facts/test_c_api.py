"""What `wasm/` takes for granted of Wasmtime's asynchronous C API; the day an upgrade changes it, we want to know."""

from __future__ import annotations

import ctypes
import threading
from ctypes import CFUNCTYPE, byref, c_void_p
from importlib.metadata import version
from typing import Any

import pytest
import wasmtime._bindings as b
from wasmtime import Config, Engine, WasmtimeError
from wasmtime.component import Component

from plexspaces_runtime.wasm.config import SETTINGS, config_digest, engine_config
from plexspaces_runtime.wasm.values import free, lifter, lowerer
from plexspaces_runtime.wasm.wit import STRING, List

from .fibers import ASKER, NO_FINALIZER, U32, Fiber, World, address, answer, answer_next, run_alone

LEAF = "from tests.integration.stack_facts.fibers import *\n"


class Held:
    """An import whose callers wait until told otherwise, and what was seen of them."""

    def __init__(self) -> None:
        self.open = False
        self.results: list[Any] = []
        self.contexts: list[int] = []
        self.finalized: list[int] = []
        self.asked = 0
        self._wait = b.wasmtime_func_async_continuation_callback_t(self._waits)
        self._finalizer = CFUNCTYPE(None, c_void_p)(self.finalized.append)

    def __call__(
        self, _data: Any, context: Any, _ty: Any, _args: Any, _n: Any, results: Any, _m: Any, _error: Any, then: Any
    ) -> None:
        self.contexts.append(address(context))
        self.results.append(results)
        then[0].callback = self._wait
        then[0].env = len(self.results)
        then[0].finalizer = self._finalizer

    def _waits(self, _env: int) -> bool:
        self.asked += 1
        return self.open

    def answer(self, value: int) -> None:
        for results in self.results:
            results[0].kind, results[0].of.u32 = U32, value
        self.open = True


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture(scope="module")
def world() -> World:
    return World(ASKER, answer_next)


# -- 1: the asynchronous half of the C API is there --------------------------------------------------------------


def test_wasmtime_is_the_version_these_facts_are_about() -> None:
    assert version("wasmtime") == "50.0.1"


def test_a_call_runs_and_an_import_answers_in_place(world: World) -> None:
    assert Fiber(world).call("run", 41) == 42


def test_a_store_with_an_asynchronous_import_must_not_be_entered_synchronously() -> None:
    script = f"""{LEAF}
fiber = Fiber(World(ASKER, answer_next))
fiber.arguments = (Val * 1)()
fiber.arguments[0].kind, fiber.arguments[0].of.u32 = U32, 1
error = b.wasmtime_component_func_call(
    byref(fiber.function("run")), fiber.store._context(), fiber.arguments, 1, byref(fiber.result), 1)
print(WasmtimeError._from_ptr(error) if error else fiber.result.of.u32)
"""
    done = run_alone(script)
    assert done.returncode != 0 or "2" not in done.stdout.split(), done


# -- 2: ownership -----------------------------------------------------------------------------------------------


def test_arguments_are_borrowed(world: World) -> None:
    fiber = Fiber(world)
    for _ in range(3):
        assert fiber.call("echo", 7) == 7
        assert fiber.arguments[0][0].of.u32 == 7


def test_a_value_that_is_deleted_but_not_zeroed_is_freed_twice() -> None:
    script = f"""{LEAF}
from plexspaces_runtime.wasm.values import Ok, lowerer
from plexspaces_runtime.wasm.wit import STRING, Result
val = Val()
lowerer(Result(STRING, None))(val, Ok("x" * 24))
b.wasmtime_component_val_delete(byref(val))
b.wasmtime_component_val_delete(byref(val))
print("survived")
"""
    done = run_alone(script)
    assert done.returncode < 0, "the C library did not notice a double free"
    assert "survived" not in done.stdout


def test_free_leaves_a_slot_that_may_be_freed_again() -> None:
    val = b.wasmtime_component_val_t()
    lowerer(List(STRING))(val, ["x" * 24])
    free(val)
    free(val)
    assert val.kind == 0


def test_new_uninit_lists_may_be_deleted_after_they_were_zeroed() -> None:
    val = b.wasmtime_component_val_t()
    lower = lowerer(List(STRING))
    lower(val, [])
    assert lifter(List(STRING))(val) == []
    free(val)


def test_results_of_an_import_stay_valid_until_its_continuation_answers_true(held: Held) -> None:
    fiber = Fiber(World(ASKER, held))
    fiber.begin("run", 1)
    assert not any(fiber.poll() for _ in range(10))
    held.answer(99)
    assert fiber.finish().of.u32 == 99
    assert held.finalized == [1]


def test_a_killed_fiber_never_resumes_but_its_finalizer_runs_once(held: Held) -> None:
    fiber = Fiber(World(ASKER, held))
    fiber.begin("run", 1)
    assert not fiber.poll()
    asked = held.asked
    fiber.end()
    assert held.asked == asked
    assert held.finalized == [1]
    with pytest.raises(WasmtimeError, match="cannot enter component instance"):
        fiber.call("echo", 1)


# -- 3: nothing may raise through C -----------------------------------------------------------------------------


def test_a_base_exception_in_an_import_through_the_public_api_takes_the_process_down() -> None:
    script = """
from wasmtime import Engine, Store
from wasmtime.component import Component, Linker
engine = Engine()
component = Component(engine, '''(component
  (import "f" (func $f)) (core func $g (canon lower (func $f)))
  (core module $m (import "" "f" (func $f)) (func (export "run") (call $f)))
  (core instance $i (instantiate $m (with "" (instance (export "f" (func $g))))))
  (func (export "run") (canon lift (core func $i "run"))))''')
def fail(_store):
    raise BaseException("for instance a cancelled task")
linker = Linker(engine)
with linker.root() as root:
    root.add_func("f", fail)
store = Store(engine)
run = linker.instantiate(store, component).get_func(store, "run")
try:
    run(store)
except BaseException as error:
    print("caught", error)
"""
    done = run_alone(script)
    assert done.returncode < 0
    assert "caught" not in done.stdout


def test_an_import_that_sets_no_continuation_aborts_the_process() -> None:
    script = f"""{LEAF}
Fiber(World(ASKER, lambda *_: None)).call("run", 1)
"""
    done = run_alone(script)
    assert done.returncode < 0
    assert "callback must be set" in done.stderr


def test_an_import_may_set_an_error_instead_and_that_is_a_trap() -> None:
    def refuse(*arguments: Any) -> None:
        arguments[7][0] = b.wasmtime_error_new(b"refused by the guard")

    fiber = Fiber(World(ASKER, refuse))
    with pytest.raises(WasmtimeError, match="refused by the guard"):
        fiber.call("run", 1)
    with pytest.raises(WasmtimeError, match="cannot enter component instance"):
        fiber.call("echo", 1)


def test_a_result_of_the_wrong_type_is_a_trap() -> None:
    def answer_bool(*arguments: Any) -> None:
        answer(arguments[5], arguments[8], 1)
        arguments[5][0].kind = 0

    with pytest.raises(WasmtimeError, match="type mismatch: expected u32, found bool"):
        Fiber(World(ASKER, answer_bool)).call("run", 1)


# -- 4, 5: instances --------------------------------------------------------------------------------------------


def test_a_trapped_instance_is_dead(world: World) -> None:
    fiber = Fiber(world)
    with pytest.raises(WasmtimeError, match="unreachable"):
        fiber.call("crash", 1)
    with pytest.raises(WasmtimeError, match="cannot enter component instance"):
        fiber.call("echo", 1)


def test_entering_an_instance_that_is_suspended_is_not_refused(held: Held) -> None:
    fiber = Fiber(World(ASKER, held))
    fiber.begin("run", 1)
    assert not fiber.poll()
    suspended = fiber.future, fiber.result
    fiber.result = b.wasmtime_component_val_t()
    assert fiber.call("echo", 7) == 7
    fiber.future, fiber.result = suspended
    held.answer(9)
    assert fiber.finish().of.u32 == 9


# -- limits -----------------------------------------------------------------------------------------------------


def test_stack_exhaustion_is_a_trap_of_that_name(world: World) -> None:
    with pytest.raises(WasmtimeError, match="wasm trap: call stack exhausted"):
        Fiber(world).call("fall", 1)


def test_memory_beyond_the_limit_is_refused_to_the_guest_not_trapped(world: World) -> None:
    fiber = Fiber(world, memory_bytes_max=2 << 16)
    assert fiber.call("grow", 1) == 1
    assert fiber.call("grow", 1) == 0xFFFF_FFFF
    assert fiber.call("echo", 1) == 1


def test_a_table_beyond_the_limit_is_refused_to_the_guest_not_trapped(world: World) -> None:
    fiber = Fiber(world, table_elements_max=2)
    assert fiber.call("widen", 1) == 1
    assert fiber.call("widen", 1) == 0xFFFF_FFFF


def test_a_component_that_starts_above_the_limit_is_refused_by_name(world: World) -> None:
    with pytest.raises(WasmtimeError, match="memory minimum size of 1 pages exceeds memory limits"):
        Fiber(world, memory_bytes_max=100)


def test_the_epoch_makes_an_endless_loop_yield_and_it_can_be_killed(world: World) -> None:
    fiber, over = Fiber(world), threading.Event()

    # The deadline counts from when a fiber goes on, so the epoch must move while it runs: from another thread.
    def tick() -> None:
        while not over.wait(0.001):
            world.engine.increment_epoch()

    ticker = threading.Thread(target=tick)
    ticker.start()
    fiber.begin("spin", 1)
    assert not any(fiber.poll() for _ in range(5))
    fiber.end()
    over.set()
    ticker.join()


# -- 14: one configuration --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["epoch_interruption", "memory_reservation", "concurrency_support"])
def test_compiled_under_one_configuration_does_not_load_under_another(name: str) -> None:
    compiled = Component(Engine(engine_config()), ASKER).serialize()
    Component.deserialize(Engine(engine_config()), compiled)
    other = Config()
    for setting, value in SETTINGS:
        changed = value if setting != name else (not value if isinstance(value, bool) else value * 1024)
        if name == "concurrency_support" and setting == "wasm_component_model_async":
            changed = True
        getattr(b, f"wasmtime_config_{setting}_set")(other.ptr(), changed)
    with pytest.raises(WasmtimeError):
        Component.deserialize(Engine(other), compiled)


def test_the_digest_names_what_compiled_code_depends_on() -> None:
    assert len(config_digest()) == 16
    assert config_digest() == config_digest()


# -- 15, 16: stacks and threads ---------------------------------------------------------------------------------


def test_imports_run_on_the_fibers_stack_not_on_the_threads() -> None:
    places: list[int] = []

    def note(*arguments: Any) -> None:
        # The slot for an error is a local variable of the caller.
        places.append(address(arguments[7]))
        answer(arguments[5], arguments[8], 1)

    with open("/proc/self/maps", encoding="ascii") as maps:
        stack = next(line.split()[0] for line in maps if line.rstrip().endswith("[stack]"))
    low, high = (int(part, 16) for part in stack.split("-"))
    Fiber(World(ASKER, note)).call("run", 1)
    assert places
    assert not low <= places[0] < high


def test_a_suspended_fiber_may_go_on_on_another_thread(held: Held) -> None:
    world = World(ASKER, held)
    fibers = [Fiber(world) for _ in range(30)]

    def elsewhere(work: Any) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    for number, fiber in enumerate(fibers):
        fiber.begin("run", number)
        elsewhere(fiber.poll)
    held.answer(5)
    for number, fiber in enumerate(fibers):
        if number % 2:
            elsewhere(fiber.poll)
            fiber.end()
        else:
            fiber.finish()
        assert fiber.result.of.u32 == 5
        assert not fiber.error


# -- what the guard uses ----------------------------------------------------------------------------------------


def test_an_import_is_given_the_address_of_its_stores_context_on_any_thread(held: Held) -> None:
    world = World(ASKER, held)
    first, second = Fiber(world), Fiber(world)
    first.begin("run", 1)
    first.poll()
    second.begin("run", 1)
    thread = threading.Thread(target=second.poll)
    thread.start()
    thread.join()
    assert held.contexts == [address(first.store._context()), address(second.store._context())]
    first.end()
    second.end()


def test_strlen_over_a_flag_serves_as_the_continuation() -> None:
    flag = ctypes.create_string_buffer(2)
    strlen = ctypes.cast(ctypes.CDLL(None).strlen, b.wasmtime_func_async_continuation_callback_t)

    def suspend(*arguments: Any) -> None:
        arguments[5][0].kind, arguments[5][0].of.u32 = U32, 8
        arguments[8][0].callback = strlen
        arguments[8][0].env = ctypes.addressof(flag)
        arguments[8][0].finalizer = NO_FINALIZER

    fiber = Fiber(World(ASKER, suspend))
    fiber.begin("run", 1)
    assert not any(fiber.poll() for _ in range(3))
    flag[0] = 1
    assert fiber.finish().of.u32 == 8


def test_post_return_runs_by_itself_and_may_be_called_in_vain(world: World) -> None:
    fiber = Fiber(world)
    for number in range(3):
        assert fiber.call("echo", number) == number
    assert not b.wasmtime_component_func_post_return(byref(fiber.called), fiber.store._context())
    assert fiber.call("echo", 5) == 5
