"""Whether a component is sealed and speaks our WIT: the import list is the sandbox's policy.

`check_header` looks at the first bytes, before anything is compiled.  `audit` compares every import and export of the
compiled component with our package, types included: Wasmtime calls host functions that are defined through the C API
without checking their types, so nobody else does.

A component may leave interfaces and functions out, and may export more than the world asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import wasmtime._ffi as _ffi
from wasmtime import Engine
from wasmtime.component import Component
from wasmtime.component import _types as _w

from ..errors import InvalidComponent
from . import wit
from .wit import Function, Package, Type

_MAGIC = b"\0asm"
_CORE_LAYER, _COMPONENT_LAYER = 0, 1
_COMPONENT_VERSION = 0x0D
_HEADER_BYTES = 8
# What a refusal quotes of a component is the uploader's text: how much of it is ours to limit.
_PROBLEMS_SHOWN_MAX = 8
_PROBLEMS_KEPT_MAX = 100
_NAME_CHARS_MAX = 240
_TYPE_DEPTH_MAX = 4
_TYPE_ITEMS_MAX = 20
_BUILD = "build it with `plexspaces build`"


@dataclass(frozen=True, slots=True)
class Audit:
    """What an accepted component imports and exports.

    Attributes:
        imports: the interfaces, qualified, sorted.
        exports: the functions, sorted.
    """

    imports: tuple[str, ...]
    exports: tuple[str, ...]


# -- before compiling ----------------------------------------------------------------------------------------

# What people upload by mistake.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive (or a wheel)"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x7fELF", "a native Linux program or library"),
    (b"(component", "WebAssembly text: assemble it first"),
    (b"(module", "WebAssembly text of a core module"),
    (b"BC\xc0\xde", "LLVM bitcode"),
    (b"import ", "Python source"),
    (b"from ", "Python source"),
    (b'"""', "Python source"),
    (b"#!", "a script"),
)


def check_header(wasm: bytes) -> None:
    """Refuse what cannot be a component, by its first bytes.

    Raises:
        InvalidComponent: saying what it is instead, and what to do.
    """
    if not wasm:
        raise InvalidComponent("the component is empty: no bytes were sent")
    if not wasm.startswith(_MAGIC[: len(wasm)]):
        raise InvalidComponent(f"this is not WebAssembly{_guess(wasm)}; {_BUILD}")
    if len(wasm) <= _HEADER_BYTES:
        raise InvalidComponent(f"the component is truncated: it ends after {len(wasm)} bytes; send it again")
    version = int.from_bytes(wasm[4:6], "little")
    layer = int.from_bytes(wasm[6:8], "little")
    if layer == _CORE_LAYER:
        raise InvalidComponent(
            f"this is a core WebAssembly module, not a component; {_BUILD}, "
            "or turn it into a component with `wasm-tools component new`"
        )
    if layer != _COMPONENT_LAYER or version != _COMPONENT_VERSION:
        raise InvalidComponent(
            f"this WebAssembly binary has version {version} of layer {layer}; "
            f"this node reads components of version {_COMPONENT_VERSION} of layer {_COMPONENT_LAYER}; {_BUILD}"
        )


def _guess(start: bytes) -> str:
    for prefix, what in _OTHERS:
        if start.lstrip().startswith(prefix):
            return f" but looks like {what}"
    return ""


# -- after compiling -----------------------------------------------------------------------------------------


def audit(component: Component, engine: Engine, package: Package) -> Audit:
    """Compare a component with our package.

    Raises:
        InvalidComponent: `details["imports"]` are those that are refused; `details["problems"]` is all that is wrong.
    """
    type_ = component.type
    imports = {name: extern.ty for name, extern in type_.imports(engine).items()}
    exports = {name: extern.ty for name, extern in type_.exports(engine).items()}
    foreign: list[str] = []
    problems: list[str] = []
    accepted: list[str] = []
    for name, item in imports.items():
        # The world's own `use`s arrive as imported types.  A type does nothing; the functions that use it are compared.
        if isinstance(item, _w.ValType):
            continue
        interface = _ours(package, name)
        if interface is None or not isinstance(item, _w.ComponentInstanceType):
            foreign.append(name)
            continue
        accepted.append(name)
        problems += _interface_problems(package.interfaces[interface], item, engine)
    problems += _export_problems(package, exports)
    if foreign or problems:
        raise _refusal(package, sorted(foreign), problems, exports)
    return Audit(tuple(sorted(accepted)), tuple(sorted(package.world.exports)))


def _ours(package: Package, name: str) -> str | None:
    """The interface that an import names, if it is one of this very version of our package."""
    return next((interface for interface in package.interfaces if package.qualified(interface) == name), None)


def _interface_problems(interface: wit.Interface, instance: _w.ComponentInstanceType, engine: Engine) -> Iterator[str]:
    for name, extern in instance.exports(engine).items():
        item = extern.ty
        if isinstance(item, _w.FuncType):
            function = interface.functions.get(name)
            if function is None:
                yield f"imports {interface.name}.{name}, which does not exist"
            else:
                yield from (f"imports {each}" for each in _differences(f"{interface.name}.{name}", function, item))
        elif not isinstance(item, _w.ValType):
            yield f"imports {interface.name}.{name}, which is neither a function nor a type"


def _export_problems(package: Package, exports: dict[str, Any]) -> Iterator[str]:
    for name, function in package.world.exports.items():
        item = exports.get(name)
        if item is None:
            yield f"does not export `{name}`"
        elif not isinstance(item, _w.FuncType):
            yield f"exports `{name}`, but not as a function"
        else:
            yield from (f"exports {each}" for each in _differences(name, function, item))


def _differences(where: str, ours: Function, theirs: _w.FuncType) -> Iterator[str]:
    if _ffi.wasmtime_component_func_type_async(theirs.ptr()):
        yield f"`{where}` as an asynchronous function"
    params = theirs.params
    if len(params) != len(ours.params):
        yield f"`{where}` with {len(params)} parameters instead of {len(ours.params)}"
    for (name, type_), (_, their) in zip(ours.params, params, strict=False):
        if not _same(type_, their):
            yield f"`{where}` with parameter `{name}` of type {_text(their)} instead of {_long_text(type_)}"
    result = theirs.result
    if (result is None) != (ours.result is None) or (ours.result is not None and not _same(ours.result, result)):
        yield f"`{where}` with result {_text(result)} instead of {_long_text(ours.result)}"


def _refusal(package: Package, foreign: list[str], problems: list[str], exports: dict[str, Any]) -> InvalidComponent:
    wasi = [name for name in foreign if name.startswith("wasi:")]
    others = [name for name in foreign if not name.startswith(f"{package.name}/") and name not in wasi]
    versions = [name for name in foreign if name.startswith(f"{package.name}/")]
    sentences = []
    if wasi:
        sentences.append(
            f"the component is not sealed: it imports {_listed(wasi)}; {_BUILD} "
            "(or componentize with WASI stubbed), and use the interfaces of "
            f"{package.name} for time, chance, files and the network"
        )
    if others:
        sentences.append(f"it imports {_listed(others)}, and actors can import only {package.name}@{package.version}")
    if versions:
        sentences.append(
            f"it was built for another version of the contract: it imports {_listed(versions)}, and this node has "
            f"{package.name}@{package.version}; build it again with this version of plexspaces"
        )
    missing = [name for name in package.world.exports if name not in exports]
    if len(missing) == len(package.world.exports):
        found = f"exports {_listed(sorted(exports))}" if exports else "exports nothing"
        sentences.append(f"it is of another world: it {found}, and an actor exports {_listed(missing)}; {_BUILD}")
    elif problems:
        sentences.append(f"it does not fit {package.name}@{package.version}: it {_listed(problems)}; {_BUILD}")
    message = "; ".join(sentences)
    everything = [*(f"imports {name}" for name in foreign), *problems]
    return InvalidComponent(
        message if message.startswith("the") else message.replace("it", "the component", 1),
        imports=[_short(name) for name in foreign[:_PROBLEMS_KEPT_MAX]],
        problems=[_short(problem) for problem in everything[:_PROBLEMS_KEPT_MAX]],
    )


def _short(name: str) -> str:
    return name if len(name) <= _NAME_CHARS_MAX else f"{name[:_NAME_CHARS_MAX]}..."


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(map(_short, names[:_PROBLEMS_SHOWN_MAX]))
    return shown if len(names) <= _PROBLEMS_SHOWN_MAX else f"{shown} and {len(names) - _PROBLEMS_SHOWN_MAX} more"


# -- types ---------------------------------------------------------------------------------------------------


def _same(ours: Type, theirs: Any) -> bool:
    """Whether the types are structurally equal.  The names of records and enums do not count: a component has none."""
    match ours:
        case wit.Primitive(name):
            return bool(type(theirs).__name__.lower() == name)
        case wit.List(of):
            return isinstance(theirs, _w.ListType) and _same(of, theirs.element)
        case wit.Option(of):
            return isinstance(theirs, _w.OptionType) and _same(of, theirs.payload)
        case wit.Result(ok, err):
            return isinstance(theirs, _w.ResultType) and _same_side(ok, theirs.ok) and _same_side(err, theirs.err)
        case wit.Tuple(items):
            return isinstance(theirs, _w.TupleType) and _all_same(items, theirs.elements)
        case wit.Record(_, fields):
            return (
                isinstance(theirs, _w.RecordType)
                and [name for name, _ in fields] == [name for name, _ in theirs.fields]
                and _all_same([each for _, each in fields], [each for _, each in theirs.fields])
            )
        case wit.Enum(_, cases):
            return isinstance(theirs, _w.EnumType) and list(cases) == _cases(theirs)


def _same_side(ours: Type | None, theirs: Any) -> bool:
    return theirs is None if ours is None else theirs is not None and _same(ours, theirs)


def _all_same(ours: Iterable[Type], theirs: Iterable[Any]) -> bool:
    ours, theirs = list(ours), list(theirs)
    return len(ours) == len(theirs) and all(map(_same, ours, theirs))


def _long_text(type_: Type | None) -> str:
    """Our type in the words of `_text`: records and enums by what they hold."""
    match type_:
        case None:
            return "nothing"
        case wit.Primitive(name):
            return name
        case wit.List(of):
            return f"list<{_long_text(of)}>"
        case wit.Option(of):
            return f"option<{_long_text(of)}>"
        case wit.Result(ok, err):
            return f"result<{_long_text(ok)}, {_long_text(err)}>"
        case wit.Tuple(items):
            return f"tuple<{', '.join(map(_long_text, items))}>"
        case wit.Record(_, fields):
            return _record_text([(name, _long_text(each)) for name, each in fields])
        case wit.Enum(_, cases):
            return _enum_text(cases)


def _text(theirs: Any, depth: int = 0) -> str:
    """A component's type for a person; only so deep and so wide, because types that share parts grow without end."""
    if depth > _TYPE_DEPTH_MAX:
        return "..."

    def inner(each: Any) -> str:
        return _text(each, depth + 1)

    match theirs:
        case None:
            return "nothing"
        case _w.ListType():
            return f"list<{inner(theirs.element)}>"
        case _w.OptionType():
            return f"option<{inner(theirs.payload)}>"
        case _w.ResultType():
            return f"result<{inner(theirs.ok)}, {inner(theirs.err)}>"
        case _w.TupleType():
            return f"tuple<{', '.join(map(inner, theirs.elements[:_TYPE_ITEMS_MAX]))}>"
        case _w.RecordType():
            return _record_text([(name, inner(each)) for name, each in theirs.fields[:_TYPE_ITEMS_MAX]])
        case _w.EnumType():
            return _enum_text(_cases(theirs)[:_TYPE_ITEMS_MAX])
        case _:
            return type(theirs).__name__.lower().removesuffix("type")


def _cases(theirs: _w.EnumType) -> list[str]:
    return [theirs.name(number) or "" for number in range(theirs.names_count)]


def _record_text(fields: list[tuple[str, str]]) -> str:
    return f"record {{{', '.join(f'{name}: {each}' for name, each in fields)}}}"


def _enum_text(cases: Iterable[str]) -> str:
    return f"enum {{{', '.join(cases)}}}"
