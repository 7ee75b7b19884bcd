"""A parser of our own WIT package: the subset of WIT that `wit/plexspaces-actor` uses, as frozen dataclasses.

Everything outside the subset (resources, variants, flags, streams, renaming `use`, packages of others) is an error with
file and line: the types here are also what `values` can lower and lift, and there is nothing in between.

Grammar: https://component-model.bytecodealliance.org/design/wit.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NoReturn

from ..errors import InternalError
from ..witfiles import WORLD, wit_files


class WitError(InternalError):
    """The WIT package cannot be read; the message begins with file and line."""


# -- types -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Primitive:
    """A type that is named by a keyword."""

    name: str


BOOL = Primitive("bool")
U8, U16, U32, U64 = (Primitive(f"u{bits}") for bits in (8, 16, 32, 64))
S8, S16, S32, S64 = (Primitive(f"s{bits}") for bits in (8, 16, 32, 64))
F32, F64 = Primitive("f32"), Primitive("f64")
CHAR = Primitive("char")
STRING = Primitive("string")

PRIMITIVES: dict[str, Primitive] = {
    type_.name: type_ for type_ in (BOOL, U8, U16, U32, U64, S8, S16, S32, S64, F32, F64, CHAR, STRING)
}


@dataclass(frozen=True, slots=True)
class List:
    of: Type


@dataclass(frozen=True, slots=True)
class Option:
    of: Type


@dataclass(frozen=True, slots=True)
class Result:
    """`None` stands for a side without a payload."""

    ok: Type | None
    err: Type | None


@dataclass(frozen=True, slots=True)
class Tuple:
    items: tuple[Type, ...]


@dataclass(frozen=True, slots=True)
class Record:
    name: str
    fields: tuple[tuple[str, Type], ...]


@dataclass(frozen=True, slots=True)
class Enum:
    name: str
    cases: tuple[str, ...]


Type = Primitive | List | Option | Result | Tuple | Record | Enum


def text(type_: Type | None) -> str:
    """How the type is written in WIT; records and enums by their name."""
    match type_:
        case None:
            return "_"
        case Primitive(name) | Record(name, _) | Enum(name, _):
            return name
        case List(of):
            return f"list<{text(of)}>"
        case Option(of):
            return f"option<{text(of)}>"
        case Tuple(items):
            return f"tuple<{', '.join(map(text, items))}>"
        case Result(None, None):
            return "result"
        case Result(ok, None):
            return f"result<{text(ok)}>"
        case Result(ok, err):
            return f"result<{text(ok)}, {text(err)}>"


# -- what a package holds ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    params: tuple[tuple[str, Type], ...]
    result: Type | None
    docs: str


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    types: dict[str, Type]
    functions: dict[str, Function]
    docs: str = ""


@dataclass(frozen=True, slots=True)
class World:
    name: str
    imports: tuple[str, ...]
    exports: dict[str, Function]


@dataclass(frozen=True, slots=True)
class Package:
    """One package and its only world.

    Attributes:
        name: without the version, `plexspaces:actor`.
        version: `0.1.0`.
    """

    name: str
    version: str
    interfaces: dict[str, Interface]
    world: World

    def qualified(self, interface: str) -> str:
        """The name under which a component imports one of the interfaces."""
        return f"{self.name}/{interface}@{self.version}"


# -- tokens ------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"(?P<doc>///[^\n]*)|(?P<skip>\s+|//[^\n]*|/\*.*?\*/)"
    r"|(?P<version>@\d+\.\d+\.\d+[-+.\w]*)"
    r"|(?P<word>%?[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)*)"
    r"|(?P<mark>->|[{}()<>,:;=./_@*])",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    where: str
    docs: str


def _tokens(file: str, source: str) -> list[_Token]:
    tokens: list[_Token] = []
    docs: list[str] = []
    position, line = 0, 1
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None:
            raise WitError(f"{file}:{line}: {source[position]!r} does not begin anything in WIT")
        words = match.group()
        if match.lastgroup == "doc":
            docs.append(words[3:].strip())
        elif match.lastgroup != "skip":
            tokens.append(_Token(words.removeprefix("%"), f"{file}:{line}", "\n".join(docs).strip()))
            docs = []
        line += words.count("\n")
        position = match.end()
    tokens.append(_Token("", f"{file}:{line}", ""))
    return tokens


# -- syntax ------------------------------------------------------------------------------------------------
#
# A file is first read into items whose types are still names, because a name may be declared further down or in
# another file; then every name is resolved.


@dataclass(frozen=True, slots=True)
class _Name:
    """A type expression: a name with arguments.  `_` is a name without."""

    text: str
    arguments: tuple[_Name, ...]
    where: str


@dataclass(frozen=True, slots=True)
class _RawFunction:
    name: str
    params: tuple[tuple[str, _Name], ...]
    result: _Name | None
    docs: str


@dataclass(slots=True)
class _Scope:
    """An interface or a world before its names are resolved."""

    name: str
    where: str
    docs: str
    # Name -> the interface it comes from, and where the `use` stands.
    uses: dict[str, tuple[str, str]] = field(default_factory=dict)
    records: dict[str, tuple[tuple[str, _Name], ...]] = field(default_factory=dict)
    enums: dict[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: dict[str, _Name] = field(default_factory=dict)
    functions: dict[str, _RawFunction] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    exports: dict[str, _RawFunction] = field(default_factory=dict)


class _Parser:
    def __init__(self, file: str, source: str) -> None:
        self._tokens = _tokens(file, source)
        self._at = 0
        self.package = ""
        self.interfaces: list[_Scope] = []
        self.worlds: list[_Scope] = []

    def parse(self) -> None:
        self._expect("package")
        name = self._word("a package's name") + self._expect(":").text + self._word("a package's name")
        version = self._take()
        if not version.text.startswith("@"):
            self._fail(version, "a package needs a version, as in `package a:b@1.0.0;`")
        self._expect(";")
        self.package = name + version.text
        while (token := self._take()).text:
            match token.text:
                case "interface":
                    self.interfaces.append(self._scope(token, world=False))
                case "world":
                    self.worlds.append(self._scope(token, world=True))
                case other:
                    self._fail(token, f"{other!r}: expected `interface` or `world`")

    def _scope(self, start: _Token, *, world: bool) -> _Scope:
        scope = _Scope(self._word("a name"), start.where, start.docs)
        self._expect("{")
        while (token := self._take()).text != "}":
            match token.text:
                case "use":
                    self._use(scope)
                case "record":
                    name, where = self._name_at()
                    self._unique(scope, name, where)
                    scope.records[name] = self._fields(name)
                case "enum":
                    name, where = self._name_at()
                    self._unique(scope, name, where)
                    scope.enums[name] = self._cases(name)
                case "type":
                    name, where = self._name_at()
                    self._unique(scope, name, where)
                    self._expect("=")
                    scope.aliases[name] = self._type()
                    self._expect(";")
                case "import" if world:
                    name, where = self._name_at()
                    self._expect(";")
                    scope.imports[name] = where
                case "export" if world:
                    function = self._function(self._word("a function's name"), token.docs)
                    scope.exports[function.name] = function
                case word if not world and self._peek().text == ":":
                    if word in scope.functions:
                        self._fail(token, f"a second function {word!r}")
                    scope.functions[word] = self._function(word, token.docs)
                case "":
                    self._fail(token, f"the file ends inside {scope.name!r}, which began at {scope.where}")
                case other:
                    self._fail(token, f"{other!r} is outside the subset of WIT that PlexSpaces uses")
        return scope

    def _use(self, scope: _Scope) -> None:
        source = self._word("an interface of this package")
        if self._peek().text != ".":
            self._fail(self._peek(), "`use` can only name an interface of this package: `use types.{error};`")
        self._expect(".")
        self._expect("{")
        while True:
            name, where = self._name_at()
            self._unique(scope, name, where)
            scope.uses[name] = (source, where)
            if self._peek().text == "as":
                self._fail(self._peek(), "renaming (`as`) is outside the subset of WIT that PlexSpaces uses")
            if not self._more("}"):
                break
        self._expect(";")

    def _fields(self, record: str) -> tuple[tuple[str, _Name], ...]:
        self._expect("{")
        fields: dict[str, _Name] = {}
        while True:
            name, where = self._name_at()
            if name in fields:
                raise WitError(f"{where}: a second field {name!r} in record {record!r}")
            self._expect(":")
            fields[name] = self._type()
            if not self._more("}"):
                return tuple(fields.items())

    def _cases(self, enum: str) -> tuple[str, ...]:
        self._expect("{")
        cases: dict[str, None] = {}
        while True:
            name, where = self._name_at()
            if name in cases:
                raise WitError(f"{where}: a second case {name!r} in enum {enum!r}")
            cases[name] = None
            if not self._more("}"):
                return tuple(cases)

    def _function(self, name: str, docs: str) -> _RawFunction:
        self._expect(":")
        if self._peek().text == "async":
            self._fail(self._peek(), "asynchronous functions are outside the subset of WIT that PlexSpaces uses")
        self._expect("func")
        self._expect("(")
        params: list[tuple[str, _Name]] = []
        if self._peek().text == ")":
            self._take()
        else:
            while True:
                param = self._word("a parameter's name")
                self._expect(":")
                params.append((param, self._type()))
                if not self._more(")"):
                    break
        result = None
        if self._peek().text == "->":
            self._take()
            result = self._type()
        self._expect(";")
        return _RawFunction(name, tuple(params), result, docs)

    def _type(self) -> _Name:
        token = self._take()
        if token.text != "_" and not token.text[:1].isalpha():
            self._fail(token, f"{token.text!r}: expected a type")
        arguments: list[_Name] = []
        if self._peek().text == "<":
            self._take()
            while True:
                arguments.append(self._type())
                if not self._more(">"):
                    break
        return _Name(token.text, tuple(arguments), token.where)

    def _more(self, end: str) -> bool:
        """After an item of a list: whether another follows.  A comma before the end is allowed."""
        token = self._take()
        if token.text == end:
            return False
        if token.text != ",":
            self._fail(token, f"{token.text!r}: expected `,` or `{end}`")
        if self._peek().text == end:
            self._take()
            return False
        return True

    def _unique(self, scope: _Scope, name: str, where: str) -> None:
        if name in PRIMITIVES or name in scope.uses or name in scope.records | scope.enums | scope.aliases:
            raise WitError(f"{where}: a second type {name!r} in {scope.name!r}")

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _expect(self, text_: str) -> _Token:
        token = self._take()
        if token.text != text_:
            self._fail(token, f"{token.text!r}: expected `{text_}`")
        return token

    def _word(self, what: str) -> str:
        token = self._take()
        if not token.text[:1].isalpha():
            self._fail(token, f"{token.text!r}: expected {what}")
        return token.text

    def _name_at(self) -> tuple[str, str]:
        where = self._peek().where
        return self._word("a name"), where

    def _fail(self, token: _Token, problem: str) -> NoReturn:
        raise WitError(f"{token.where}: {problem}")


# -- names -------------------------------------------------------------------------------------------------


class _Resolver:
    def __init__(self, interfaces: dict[str, _Scope]) -> None:
        self._interfaces = interfaces
        self._done: dict[tuple[str, str], Type] = {}
        self._under_way: set[tuple[str, str]] = set()

    def type(self, scope: _Scope, name: _Name) -> Type:
        arguments = name.arguments
        match name.text, len(arguments):
            case "list", 1:
                return List(self.type(scope, arguments[0]))
            case "option", 1:
                return Option(self.type(scope, arguments[0]))
            case "tuple", count if count:
                return Tuple(tuple(self.type(scope, item) for item in arguments))
            case "result", count if count <= 2:
                sides = [None if side.text == "_" else self.type(scope, side) for side in arguments]
                ok, err = (*sides, None, None)[:2]
                return Result(ok, err)
            case _, 0:
                return PRIMITIVES.get(name.text) or self._named(scope, name.text, name.where)
            case _:
                raise WitError(f"{name.where}: `{name.text}` does not take {len(arguments)} types")

    def _named(self, scope: _Scope, name: str, where: str) -> Type:
        key = (scope.name, name)
        if key in self._done:
            return self._done[key]
        if key in self._under_way:
            raise WitError(f"{where}: type {name!r} contains itself")
        self._under_way.add(key)
        type_ = self._declared(scope, name, where)
        self._under_way.discard(key)
        self._done[key] = type_
        return type_

    def _declared(self, scope: _Scope, name: str, where: str) -> Type:
        if name in scope.records:
            return Record(name, tuple((each, self.type(scope, type_)) for each, type_ in scope.records[name]))
        if name in scope.enums:
            return Enum(name, scope.enums[name])
        if name in scope.aliases:
            return self.type(scope, scope.aliases[name])
        if name in scope.uses:
            source, where = scope.uses[name]
            if source not in self._interfaces:
                raise WitError(f"{where}: there is no interface {source!r} to use {name!r} from")
            return self._named(self._interfaces[source], name, where)
        raise WitError(f"{where}: no type {name!r} is declared or used in {scope.name!r}")

    def all(self, scope: _Scope) -> dict[str, Type]:
        """Every type that is declared in or brought into a scope."""
        wheres = {name: where for name, (_, where) in scope.uses.items()}
        names = [*scope.uses, *scope.records, *scope.enums, *scope.aliases]
        return {name: self._named(scope, name, wheres.get(name, scope.where)) for name in names}

    def functions(self, scope: _Scope, raw: dict[str, _RawFunction]) -> dict[str, Function]:
        return {
            name: Function(
                name,
                tuple((param, self.type(scope, type_)) for param, type_ in function.params),
                None if function.result is None else self.type(scope, function.result),
                function.docs,
            )
            for name, function in raw.items()
        }


def parse(sources: Iterable[tuple[str, str]], world: str = WORLD) -> Package:
    """Read a package from its files.

    Args:
        sources: name and text of each file.
        world: which world to take.

    Raises:
        WitError: the text is not in the subset, with file and line; or the files do not fit together.
    """
    parsers = []
    for file, source in sources:
        parser = _Parser(file, source)
        parser.parse()
        parsers.append((file, parser))
    if not parsers:
        raise WitError("a WIT package of no files")
    package = parsers[0][1].package
    interfaces: dict[str, _Scope] = {}
    for file, parser in parsers:
        if parser.package != package:
            raise WitError(f"{file}:1: package {parser.package!r}, but the other files say {package!r}")
        for scope in parser.interfaces:
            if scope.name in interfaces:
                raise WitError(f"{scope.where}: interface {scope.name!r} exists at {interfaces[scope.name].where} too")
            interfaces[scope.name] = scope
    worlds = {scope.name: scope for _, parser in parsers for scope in parser.worlds}
    if world not in worlds:
        raise WitError(f"package {package!r} has no world {world!r}")
    raw_world = worlds[world]
    for name, where in raw_world.imports.items():
        if name not in interfaces:
            raise WitError(f"{where}: there is no interface {name!r} to import")
    resolver = _Resolver(interfaces)
    resolver.all(raw_world)
    name, _, version = package.partition("@")
    return Package(
        name,
        version,
        {
            scope.name: Interface(
                scope.name, resolver.all(scope), resolver.functions(scope, scope.functions), scope.docs
            )
            for scope in interfaces.values()
        },
        World(world, tuple(raw_world.imports), resolver.functions(raw_world, raw_world.exports)),
    )


def read(files: Iterable[Path]) -> Package:
    """`parse` from disk."""
    return parse((file.name, file.read_text(encoding="utf-8")) for file in files)


@cache
def load() -> Package:
    """Our own package.

    Raises:
        WitError: it is damaged.
    """
    return read(wit_files())
