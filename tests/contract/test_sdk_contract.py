"""The SDK covers the contract: every import is reachable, every error has its exception, every export is there."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
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
from plexspaces_runtime.host.gate import _SERVED
from plexspaces_runtime.witfiles import wit_files

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


def calls_in_function(function: ast.FunctionDef) -> set[str]:
    """`interface.function` for each `_imports.current.interface.function` in it, also by way of a local name."""
    found: set[str] = set()
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


def calls_in(path: Path) -> set[str]:
    """What all functions of a file import."""
    functions_ = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
    return set().union(*map(calls_in_function, functions_))


# Reachable in other ways: the standard library's own clock and chance, and a whole blob in one piece.
ELSEWHERE = {"clock.monotonic_ns", "random.random_u64", "blobs.get"}
# A workflow's functions are called by the objects that a run hands out.
BEHIND_A_RUN = "workflow."


def test_the_facade_reaches_every_function_and_no_other() -> None:
    known = {f"{name}.{one}" for name in INTERFACES for one in own_functions(name)}
    used = {call for call in calls_in(Path(host.__file__)) if not call.rpartition(".")[2][0].isupper()}
    assert used <= known
    assert {call for call in known - used if not call.startswith(BEHIND_A_RUN)} == ELSEWHERE


# -- one function, four places: the WIT, the node's module, the SDK's facade, the test node's fake -------------

_FUNCTION = re.compile(r"^    ([a-z0-9-]+): func\(([^)]*)\)", re.MULTILINE)


def wit_functions() -> dict[str, list[str]]:
    """`interface.function`, as Python writes them, to the names of its parameters."""
    found = {}
    for file in wit_files():
        interface_name = file.stem.replace("-", "_")
        for function, parameters in _FUNCTION.findall(file.read_text(encoding="utf-8")):
            names = re.findall(r"([a-z0-9-]+):", parameters)
            if interface_name != "world":
                found[f"{interface_name}.{function.replace('-', '_')}"] = [name.replace("-", "_") for name in names]
    return found


# What the facade calls an interface's functions; those that are published under another name, or as part of another.
PREFIXES = {
    "messaging": "",
    "lifecycle": "",
    "timers": "",
    "clock": "",
    "random": "",
    "logging": "",
    "keyvalue": "kv_",
    "tuplespace": "ts.",
    "channels": "channel.",
    "locks": "lock_",
    "blobs": "blob_",
    "streams": "stream.",
    "process_groups": "process_groups.",
    "registry": "registry.",
    "http": "http_",
}
PUBLISHED = {
    "keyvalue.list_keys": "kv_list",
    "keyvalue.compare_and_set": "kv_cas",
    "blobs.list_blobs": "blob_list",
    "blobs.get_range": "blob_get",
    "blobs.stat": "blob_get",
    "timers.cancel": "cancel_timer",
    "clock.now_ns": "now_ms",
    "clock.sleep_ns": "sleep",
    "random.random_hex": "random_bytes",
    "http.fetch_stream": "http_stream",
    "http.read_chunk": "HttpStream.__iter__",
    "http.close": "HttpStream.close",
    "http.register_credential": "register_credential",
    "http.forget_credential": "forget_credential",
}


def facade_name(function: str) -> str:
    interface_name, _, name = function.partition(".")
    return PUBLISHED.get(function, PREFIXES[interface_name] + name)


def reached_by(name: str) -> set[str]:
    """The imports that a public name of `host` uses, itself or by way of other functions of the module."""
    head, _, method = name.partition(".")
    owner = getattr(host, head)
    start = f"{owner.__name__ if inspect.isclass(owner) else type(owner).__name__}.{method}" if method else head
    module = ast.parse(Path(host.__file__).read_text(encoding="utf-8"))
    bodies = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    for cls in (node for node in module.body if isinstance(node, ast.ClassDef)):
        bodies |= {f"{cls.name}.{node.name}": node for node in cls.body if isinstance(node, ast.FunctionDef)}
    found: set[str] = set()
    done: set[str] = set()
    todo = [start]
    while todo:
        at = todo.pop()
        if at in done or at not in bodies:
            continue
        done.add(at)
        found |= calls_in_function(bodies[at])
        todo.extend(node.id for node in ast.walk(bodies[at]) if isinstance(node, ast.Name))
    return found


def test_the_wit_is_what_the_bindings_were_made_of() -> None:
    wit = wit_functions()
    assert len(wit) > 60
    assert wit == {
        f"{name}.{one}": list(inspect.signature(function).parameters)
        for name in INTERFACES
        for one, function in functions(interface(name)).items()
        if function.__module__ == interface(name).__name__
    }


@pytest.mark.parametrize("function", sorted(wit_functions()))
def test_the_node_serves_every_function(function: str) -> None:
    interface_name, _, name = function.partition(".")
    served = getattr(_SERVED[interface_name.replace("_", "-")], name)
    # Host and actor come first.
    assert len(inspect.signature(served).parameters) == 2 + len(wit_functions()[function])
    assert inspect.getdoc(served)


def test_the_names_are_the_contracts_own_but_for_those_that_were_published() -> None:
    assert PUBLISHED.keys() <= wit_functions().keys()


@pytest.mark.parametrize(
    "function", sorted(one for one in set(wit_functions()) - ELSEWHERE if not one.startswith(BEHIND_A_RUN))
)
def test_the_facade_has_every_function_under_its_name_and_documents_it(function: str) -> None:
    name = facade_name(function)
    assert function in reached_by(name)
    found: Any = host
    for part in name.split("."):
        found = getattr(found, part)
    if not name.endswith("__"):
        assert inspect.getdoc(found)
        assert name.partition(".")[0] in host.__all__


# What tests answer themselves piece by piece, and what no test node has.
@pytest.mark.parametrize("function", sorted(wit_functions()))
def test_the_test_node_has_every_function_with_its_parameters(function: str) -> None:
    interface_name, _, name = function.partition(".")
    fake = vars(sdk_testing._FAKES[interface_name])[name]
    assert list(inspect.signature(fake).parameters)[1:] == wit_functions()[function]


def test_the_test_node_has_no_function_of_its_own() -> None:
    known = wit_functions()
    for name, fake in sdk_testing._FAKES.items():
        own = {one for one, value in vars(fake).items() if inspect.isfunction(value) and not one.startswith("_")}
        assert {f"{name}.{one}" for one in own} <= set(known)


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
        "Secret",
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
