"""Facts about Python in a sealed component: what the SDK has to work around, and how a guest's end looks outside."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from wasmtime import WasmtimeError

from plexspaces_runtime.wasm.values import free, lifter
from plexspaces_runtime.wasm.wit import STRING

from .fibers import Fiber, World

pytestmark = pytest.mark.guest
Guest = Callable[..., Fiber]


def act(fiber: Fiber, command: str, text: str = "") -> str:
    fiber.begin("act", command.encode(), text.encode())
    answer = lifter(STRING)(fiber.finish())
    free(fiber.result)
    assert isinstance(answer, str)
    return answer


def trap(fiber: Fiber, command: str, text: str = "") -> str:
    with pytest.raises(WasmtimeError) as caught:
        act(fiber, command, text)
    return str(caught.value)


# -- 8: WASI stubbed --------------------------------------------------------------------------------------------


def test_a_stubbed_component_imports_only_what_it_asked_for(python_world: World) -> None:
    assert set(python_world.component.type.imports(python_world.engine)) <= {"test:facts/host"}


@pytest.mark.parametrize(
    ("command", "text", "frame"),
    [
        ("time", "", "wall_clock_now"),
        ("urandom", "", "random_get_random_bytes"),
        ("open", "/etc/passwd", "filesystem_preopens_get_directories"),
    ],
)
def test_the_standard_library_reaches_a_stub_and_traps(
    python_guest: Guest, command: str, text: str, frame: str
) -> None:
    message = trap(python_guest(), command, text)
    assert frame in message
    assert "wasm trap: wasm `unreachable` instruction executed" in message


def test_random_repeats_the_seed_of_the_build_in_every_instance(python_guest: Guest) -> None:
    assert act(python_guest(), "random") == act(python_guest(), "random")


# -- 9: imports -------------------------------------------------------------------------------------------------


def test_a_module_that_was_not_imported_while_building_cannot_be_imported(python_guest: Guest) -> None:
    assert act(python_guest(), "import", "json") == "imported"
    assert "unreachable" in trap(python_guest(), "import", "colorsys")


# -- 10: the end of a guest -------------------------------------------------------------------------------------


def test_an_uncaught_exception_traps_and_the_trap_says_nothing_of_it(python_guest: Guest) -> None:
    fiber = python_guest()
    message = trap(fiber, "raise", "the very reason")
    assert "unreachable" in message
    assert "the very reason" not in message
    assert "ValueError" not in message
    assert "cannot enter component instance" in trap(fiber, "echo")


def test_os_exit_can_be_told_by_a_frame(python_guest: Guest) -> None:
    assert "exit_exit" in trap(python_guest(), "exit")


def test_recursion_in_python_is_an_exception_and_in_c_a_trap(python_guest: Guest) -> None:
    assert act(python_guest(), "recurse") == "RecursionError"
    assert "wasm trap: call stack exhausted" in trap(python_guest(), "deep-json", "100000")


# -- 11: memory -------------------------------------------------------------------------------------------------


def test_the_least_a_python_guest_needs(python_guest: Guest) -> None:
    assert act(python_guest(memory_bytes_max=13 << 20), "echo", "there") == "there"
    with pytest.raises(WasmtimeError, match=r"memory minimum size of \d+ pages exceeds memory limits"):
        python_guest(memory_bytes_max=8 << 20)


def test_reaching_the_memory_limit_is_a_memory_error_that_the_guest_can_catch(python_guest: Guest) -> None:
    fiber = python_guest(memory_bytes_max=32 << 20)
    assert act(fiber, "hoard") == "MemoryError"
    assert act(fiber, "echo", "alive") == "alive"


# -- 12: code that was sent -------------------------------------------------------------------------------------


def test_source_that_was_sent_can_be_run(python_guest: Guest) -> None:
    assert act(python_guest(), "exec", "result = sum(range(10))") == "45"
