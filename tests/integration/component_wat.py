"""Writes a component of our world in WebAssembly text, from the parsed WIT, with anything about it changed at will.

Its functions do nothing (they trap): it is there to be looked at, and compiles in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable

from plexspaces_runtime.wasm.wit import Enum, Function, List, Option, Package, Primitive, Record, Result, Tuple, Type

_FLAT_PARAMS_MAX = 16


def component(package: Package, imports: Iterable[str] | None = None, extra: str = "") -> str:
    """The text of a component.

    Args:
        package: as whose component it is to look.
        imports: interfaces to import whole; all of the world's if not given.
        extra: more component text, for the beginning.
    """
    names = package.world.imports if imports is None else tuple(imports)
    return "\n".join(
        [
            "(component",
            extra,
            *(_import(package, name) for name in names),
            _core(package.world.exports.values()),
            *_exports(package.world.exports.values()),
            ")",
        ]
    )


class _Types:
    """Type definitions of one scope.  Records and enums must be exported to be used by what is exported."""

    def __init__(self, import_instead: bool) -> None:
        self.lines: list[str] = []
        self._known: dict[Type, str] = {}
        self._import = import_instead

    def reference(self, type_: Type) -> str:
        if isinstance(type_, Primitive):
            return type_.name
        if type_ not in self._known:
            self._known[type_] = self._define(type_)
        return self._known[type_]

    def _define(self, type_: Type) -> str:
        body = self._body(type_)
        number = len(self._known)
        name = f"$t{number}"
        self.lines.append(f"(type {name} {body})")
        if not isinstance(type_, Record | Enum):
            return name
        public = f"$n{number}"
        if self._import:
            self.lines.append(f'(import "t{number}-{type_.name}" (type {public} (eq {name})))')
        else:
            self.lines.append(f'(export "{type_.name}" (type {public} (eq {name})))')
        return public

    def _body(self, type_: Type) -> str:
        match type_:
            case List(of):
                return f"(list {self.reference(of)})"
            case Option(of):
                return f"(option {self.reference(of)})"
            case Tuple(items):
                return f"(tuple {' '.join(map(self.reference, items))})"
            case Result(ok, err):
                good = "" if ok is None else f" {self.reference(ok)}"
                bad = "" if err is None else f" (error {self.reference(err)})"
                return f"(result{good}{bad})"
            case Record(_, fields):
                members = [f'(field "{name}" {self.reference(each)})' for name, each in fields]
                return f"(record {' '.join(members)})"
            case Enum(_, cases):
                quoted = [f'"{case}"' for case in cases]
                return f"(enum {' '.join(quoted)})"
            case Primitive(name):
                return name

    def signature(self, function: Function) -> str:
        params = [f'(param "{name}" {self.reference(type_)})' for name, type_ in function.params]
        result = [] if function.result is None else [f"(result {self.reference(function.result)})"]
        return " ".join(params + result)


def _import(package: Package, name: str) -> str:
    types = _Types(import_instead=False)
    functions = [
        f'(export "{function.name}" (func {types.signature(function)}))'
        for function in package.interfaces[name].functions.values()
    ]
    return f'(import "{package.qualified(name)}" (instance {" ".join(types.lines + functions)}))'


def _core(functions: Iterable[Function]) -> str:
    return "\n".join(
        [
            '(core module $m (memory (export "memory") 1)',
            '(func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))',
            *(f'(func (export "{each.name}") {_core_signature(each)} unreachable)' for each in functions),
            ")",
            "(core instance $i (instantiate $m))",
        ]
    )


def _exports(functions: Iterable[Function]) -> list[str]:
    types = _Types(import_instead=True)
    lifts = []
    for each in functions:
        signature = types.signature(each)
        lifts.append(
            f'(func (export "{each.name}") {signature} (canon lift (core func $i "{each.name}") '
            '(memory (core memory $i "memory")) (realloc (core func $i "realloc"))))'
        )
    return types.lines + lifts


def _core_signature(function: Function) -> str:
    params = [flat for _, type_ in function.params for flat in _flat(type_)]
    if len(params) > _FLAT_PARAMS_MAX:
        params = ["i32"]
    results = [] if function.result is None else _flat(function.result)
    if len(results) > 1:
        results = ["i32"]
    return f"(param {' '.join(params)}) (result {' '.join(results)})"


def _flat(type_: Type) -> list[str]:
    """The canonical ABI's flattening."""
    match type_:
        case Primitive("string") | List():
            return ["i32", "i32"]
        case Primitive("u64" | "s64"):
            return ["i64"]
        case Primitive("f32" | "f64" as name):
            return [name]
        case Primitive() | Enum():
            return ["i32"]
        case Option(of):
            return ["i32", *_flat(of)]
        case Result(ok, err):
            good, bad = ([] if side is None else _flat(side) for side in (ok, err))
            shorter, longer = sorted((good, bad), key=len)
            joined = [a if a == b else "i64" for a, b in zip(shorter, longer, strict=False)]
            return ["i32", *joined, *longer[len(shorter) :]]
        case Tuple(items):
            return [flat for item in items for flat in _flat(item)]
        case Record(_, fields):
            return [flat for _, each in fields for flat in _flat(each)]
