"""The import list is the sandbox's policy: what is accepted, and what a refusal says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from wasmtime import Engine
from wasmtime.component import Component

from plexspaces_runtime.errors import InvalidComponent
from plexspaces_runtime.wasm import wit
from plexspaces_runtime.wasm.audit import Audit, audit
from plexspaces_runtime.wasm.config import engine_config
from plexspaces_runtime.wasm.wit import BOOL, STRING, U32, Enum, Function, Option, Package, Record, Result

from .component_wat import component

OURS = wit.load()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(engine_config())


def judge(engine: Engine, text: str) -> Audit:
    return audit(Component(engine, text), engine, OURS)


def refusal(engine: Engine, text: str) -> InvalidComponent:
    with pytest.raises(InvalidComponent) as caught:
        judge(engine, text)
    return caught.value


def with_import(interface: str, function: Function) -> Package:
    """Our package, as somebody else understood one function."""
    old = OURS.interfaces[interface]
    new = replace(old, functions={**old.functions, function.name: function})
    return replace(OURS, interfaces={**OURS.interfaces, interface: new})


def with_export(function: Function) -> Package:
    exports = {**OURS.world.exports, function.name: function}
    return replace(OURS, world=replace(OURS.world, exports=exports))


class TestAccepted:
    def test_the_whole_world(self, engine: Engine) -> None:
        found = judge(engine, component(OURS))
        assert found.imports == tuple(sorted(map(OURS.qualified, OURS.world.imports)))
        assert found.exports == ("describe", "get-state", "handle", "init", "set-state", "terminate")

    def test_no_imports_at_all(self, engine: Engine) -> None:
        assert judge(engine, component(OURS, imports=())).imports == ()

    def test_part_of_an_interface(self, engine: Engine) -> None:
        clock = replace(OURS.interfaces["clock"], functions={"now-ns": OURS.interfaces["clock"].functions["now-ns"]})
        package = replace(OURS, interfaces={**OURS.interfaces, "clock": clock})
        assert judge(engine, component(package, imports=["clock"])).imports == ("plexspaces:actor/clock@0.1.0",)

    def test_more_exports_than_the_world_asks_for(self, engine: Engine) -> None:
        judge(engine, component(with_export(Function("more", (("x", U32),), U32, ""))))


class TestRefused:
    def test_wasi_naming_the_import_and_the_remedy(self, engine: Engine) -> None:
        extra = '(import "wasi:filesystem/types@0.2.0" (instance)) (import "wasi:cli/environment@0.2.0" (instance))'
        error = refusal(engine, component(OURS, extra=extra))
        assert "not sealed: it imports wasi:cli/environment@0.2.0, wasi:filesystem/types@0.2.0" in str(error)
        assert "plexspaces build" in str(error)
        assert error.details["imports"] == ["wasi:cli/environment@0.2.0", "wasi:filesystem/types@0.2.0"]

    @pytest.mark.parametrize("item", ["(func)", "(instance)", "(core module)"])
    def test_anything_foreign_of_any_sort(self, engine: Engine, item: str) -> None:
        error = refusal(engine, component(OURS, extra=f'(import "thing" {item})'))
        assert str(error) == "the component imports thing, and actors can import only plexspaces:actor@0.1.0"

    @pytest.mark.parametrize("version", ["0.1.1", "0.2.0", "1.0.0"])
    def test_another_version_of_our_package(self, engine: Engine, version: str) -> None:
        error = refusal(engine, component(replace(OURS, version=version), imports=["clock"]))
        assert "another version of the contract" in str(error)
        assert f"plexspaces:actor/clock@{version}" in str(error)

    def test_an_interface_that_our_package_does_not_have(self, engine: Engine) -> None:
        error = refusal(engine, component(OURS, extra='(import "plexspaces:actor/root@0.1.0" (instance))'))
        assert error.details["imports"] == ["plexspaces:actor/root@0.1.0"]

    def test_our_interface_imported_as_a_function(self, engine: Engine) -> None:
        error = refusal(engine, component(OURS, imports=(), extra='(import "plexspaces:actor/clock@0.1.0" (func))'))
        assert error.details["imports"] == ["plexspaces:actor/clock@0.1.0"]

    def test_a_function_that_does_not_exist(self, engine: Engine) -> None:
        error = refusal(engine, component(with_import("clock", Function("stop", (), None, ""))))
        assert error.details["problems"] == ["imports clock.stop, which does not exist"]

    def test_a_resource_inside_our_interface(self, engine: Engine) -> None:
        extra = '(import "plexspaces:actor/clock@0.1.0" (instance (export "r" (type (sub resource)))))'
        error = refusal(engine, component(OURS, imports=(), extra=extra))
        assert error.details["problems"] == ["imports clock.r, which is neither a function nor a type"]

    @pytest.mark.parametrize(
        ("function", "says"),
        [
            (Function("self-id", (), U32, ""), "result u32 instead of string"),
            (Function("self-id", (), None, ""), "result nothing instead of string"),
            (Function("self-id", (("x", U32),), STRING, ""), "1 parameters instead of 0"),
            (Function("trap-exit", (("enabled", STRING),), BOOL, ""), "`enabled` of type string instead of bool"),
            (Function("self-id", (), Option(STRING), ""), "result option<string> instead of string"),
        ],
    )
    def test_a_function_of_another_type(self, engine: Engine, function: Function, says: str) -> None:
        error = refusal(engine, component(with_import("lifecycle", function)))
        (problem,) = error.details["problems"]
        assert problem.startswith(f"imports `lifecycle.{function.name}` with")
        assert says in problem

    def test_an_error_code_more_than_we_know(self, engine: Engine) -> None:
        log = OURS.interfaces["logging"].functions["log"]
        ((_, level), message) = log.params
        assert isinstance(level, Enum)
        other = replace(level, cases=(*level.cases, "shout"))
        error = refusal(engine, component(with_import("logging", replace(log, params=(("level", other), message)))))
        assert "enum {debug, info, warn, error, shout} instead of enum {debug, info, warn, error}" in str(error)

    def test_a_record_whose_fields_are_in_another_order(self, engine: Engine) -> None:
        handle = OURS.world.exports["handle"]
        ((param, envelope),) = handle.params
        assert isinstance(envelope, Record)
        # The same types in the same places: only the names tell.
        swapped = {"op": "payload", "payload": "op"}
        other = replace(envelope, fields=tuple((swapped.get(name, name), each) for name, each in envelope.fields))
        error = refusal(engine, component(with_export(replace(handle, params=((param, other),)))))
        assert "exports `handle` with parameter `envelope`" in str(error)

    def test_a_missing_export(self, engine: Engine) -> None:
        exports = {name: each for name, each in OURS.world.exports.items() if name != "terminate"}
        error = refusal(engine, component(replace(OURS, world=replace(OURS.world, exports=exports))))
        assert "does not export `terminate`" in str(error)

    def test_an_export_with_another_result(self, engine: Engine) -> None:
        changed = replace(OURS.world.exports["describe"], result=Result(STRING, None))
        error = refusal(engine, component(with_export(changed)))
        assert "exports `describe` with result result<string, nothing> instead of string" in str(error)

    def test_a_component_of_another_world(self, engine: Engine) -> None:
        error = refusal(
            engine,
            """(component
            (core module $m (func (export "run"))) (core instance $i (instantiate $m))
            (func (export "run") (canon lift (core func $i "run"))))""",
        )
        assert "another world: it exports run, and an actor exports init, handle" in str(error)

    def test_everything_wrong_is_said_at_once(self, engine: Engine) -> None:
        package = with_import("clock", Function("stop", (), None, ""))
        error = refusal(engine, component(package, extra='(import "wasi:cli/stdin@0.2.0" (instance))'))
        assert error.details["problems"] == [
            "imports wasi:cli/stdin@0.2.0",
            "imports clock.stop, which does not exist",
        ]

    def test_a_refusal_stays_short_whatever_the_component_holds(self, engine: Engine) -> None:
        imports = "".join(f'(import "wasi:{"x" * 500}-a{number}/y@0.2.0" (instance))' for number in range(300))
        error = refusal(engine, component(OURS, imports=(), extra=imports))
        assert "and 292 more" in str(error)
        assert len(str(error)) < 3000
        assert len(str(error.details)) < 60_000

    def test_types_that_double_with_each_level_are_not_written_out(self, engine: Engine) -> None:
        types = "(type $a0 (tuple u8 u8))" + "".join(
            f"(type $a{level} (tuple $a{level - 1} $a{level - 1}))" for level in range(1, 17)
        )
        extra = f"""(import "plexspaces:actor/clock@0.1.0"
            (instance {types} (export "sleep-ns" (func (param "duration-ns" $a16)))))"""
        error = refusal(engine, component(OURS, imports=(), extra=extra))
        assert "..." in str(error)
        assert len(str(error)) < 3000
