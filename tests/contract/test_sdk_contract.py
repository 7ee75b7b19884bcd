"""The SDK covers the contract: every import is reachable, every error has its exception, every export is there."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import types as module_types
from pathlib import Path
from typing import Any

import pytest

import plexspaces
from plexspaces import _guest, errors, host
from plexspaces import testing as sdk_testing
from plexspaces._bindings import wit_world
from plexspaces._bindings.componentize_py_types import Err
from plexspaces._bindings.wit_world import imports, types
from plexspaces._world import make_world

INTERFACES = sorted(module.name for module in pkgutil.iter_modules(imports.__path__) if module.name != "types")


def interface(name: str) -> module_types.ModuleType:
    return importlib.import_module(f"plexspaces._bindings.wit_world.imports.{name}")


def functions(module: module_types.ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if inspect.isfunction(value)} if module else {}


def own_functions(name: str) -> list[str]:
    module = interface(name)
    return [one for one, value in functions(module).items() if value.__module__ == module.__name__]


def test_the_guest_loads_every_interface_while_it_is_built() -> None:
    assert sorted(_guest.INTERFACES) == INTERFACES


def test_every_error_code_has_one_exception() -> None:
    codes = {member.name.lower().replace("_", "-") for member in types.ErrorCode}
    assert set(errors.HOST_ERRORS) == codes
    for code, cls in errors.HOST_ERRORS.items():
        assert cls("x").code == code
        assert getattr(host, cls.__name__) is cls


def calls_in(path: Path) -> set[str]:
    """`interface.function` for each `_imports.current.interface.function` in a file, also by way of a local name."""
    found: set[str] = set()
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        local: dict[str, str] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("_imports.current."):
                local[ast.unparse(node.targets[0])] = ast.unparse(node.value).removeprefix("_imports.current.")
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute):
                text = ast.unparse(node)
                head, _, last = text.rpartition(".")
                if head.startswith("_imports.current."):
                    found.add(f"{head.removeprefix('_imports.current.')}.{last}")
                elif head in local:
                    found.add(f"{local[head]}.{last}")
    return found


# Reachable in other ways: the standard library's own clock and chance, and a whole blob in one piece.
ELSEWHERE = {"clock.monotonic_ns", "random.random_u64", "blobs.get"}


def test_the_facade_reaches_every_function_and_no_other() -> None:
    known = {f"{name}.{one}" for name in INTERFACES for one in own_functions(name)}
    used = {call for call in calls_in(Path(host.__file__)) if not call.rpartition(".")[2][0].isupper()}
    assert used <= known
    assert known - used == ELSEWHERE


@pytest.mark.parametrize("name", INTERFACES)
def test_the_test_node_has_the_contracts_signatures(name: str) -> None:
    fake = sdk_testing._FAKES.get(name)
    if fake is None:
        return
    real = functions(interface(name))
    for one, function in vars(fake).items():
        if one.startswith("_") or not inspect.isfunction(function):
            continue
        mine = list(inspect.signature(function).parameters)[1:]
        assert mine == list(inspect.signature(real[one]).parameters), f"{name}.{one}"


def test_every_export_is_there() -> None:
    wanted = {name for name, value in vars(wit_world.WitWorld).items() if getattr(value, "__isabstractmethod__", False)}
    world = make_world({}, types, Err, version="0")
    assert {name for name in vars(world) if not name.startswith("_")} == wanted
    for name in wanted:
        mine, theirs = getattr(world, name), getattr(wit_world.WitWorld, name)
        assert list(inspect.signature(mine).parameters) == list(inspect.signature(theirs).parameters)


def test_the_public_names() -> None:
    assert plexspaces.__all__ == [
        "Context",
        "HostError",
        "Refuse",
        "SandboxError",
        "__version__",
        "actor",
        "event_actor",
        "fsm_actor",
        "gen_server_actor",
        "handler",
        "host",
        "info_handler",
        "init_handler",
        "migrate_handler",
        "query_handler",
        "run_handler",
        "signal_handler",
        "state",
        "terminate_handler",
        "workflow_actor",
    ]
    for module in (plexspaces, host, sdk_testing):
        for name in module.__all__:
            assert hasattr(module, name)


def test_the_sdk_knows_nothing_of_the_node() -> None:
    for path in Path(plexspaces.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            assert not any(name.startswith("plexspaces_runtime") for name in names), path
