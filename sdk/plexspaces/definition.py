"""What an actor class is, judged as a whole: either a definition, or every mistake in it at once."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

from . import codec
from ._annotations import (
    MISSING,
    Field,
    Problem,
    Schema,
    Shape,
    Shapes,
    UnusableAnnotation,
    object_schema,
    suggest,
)
from ._declare import MARKS, RECORD, UNSET, ActorRecord, Mark, StateField, Where
from .errors import Refuse

ROUTING_FIELDS: Final = frozenset({"op", "action", "message_type", "msg_type"})
KINDS: Final = ("call", "cast")
FSM_FIELD: Final = "fsm_state"
# Read-only on every actor.  `actor_id` is not among them: an actor may keep it as state under its own name.
RESERVED: Final = ("sender", "context")
_FACET = re.compile(r"[a-z][a-z0-9_]*")
# The one of these parameters that is not in the message gets all of it.
_CATCH_ALL: Final = "payload"


@dataclass(frozen=True, slots=True)
class Issue:
    """One mistake in an actor, where it is, and what to do about it."""

    file: str
    line: int
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}. {self.remedy}."


class DefinitionError(Exception):
    """A class (or module) that is no actor; `issues` has every reason."""

    def __init__(self, issues: Iterable[Issue]) -> None:
        self.issues = tuple(issues)
        super().__init__("\n".join(str(issue) for issue in self.issues))


class InvalidArguments(Refuse):
    """The message's arguments do not fit the handler."""


class IllegalTransition(Refuse):
    """A state machine was to go where its table does not lead."""


# Told by a compiled invoker when the message needs the thorough path: a conversion, or a refusal to be worded.
SLOW: Final = object()
Invoke = Callable[[Any, dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a handler takes, by name."""

    fields: tuple[Field, ...]
    rest: Shape | None = None
    catch_all: bool = False
    names_operation: bool = False

    def text(self) -> str:
        """As in a signature: `amount: integer = 1, note: string`."""
        parts = []
        for parameter in self.fields:
            text = parameter.name if parameter.shape.anything else f"{parameter.name}: {parameter.shape.text}"
            if not parameter.required:
                text += " = ..." if parameter.default is MISSING else f" = {parameter.default!r}"
            parts.append(text)
        if self.rest is not None:
            parts.append("...")
        return ", ".join(parts)

    def schema(self) -> Schema:
        """The JSON Schema of the message's arguments."""
        defs: dict[str, Schema] = {}
        schema = object_schema(self.fields, defs)
        if self.rest is not None:
            schema["additionalProperties"] = self.rest.schema(defs) if not self.rest.anything else True
        elif self.catch_all:
            schema["additionalProperties"] = True
            if _CATCH_ALL in schema.get("required", ()):
                schema["required"] = [name for name in schema["required"] if name != _CATCH_ALL]
        if defs:
            schema["$defs"] = defs
        return schema

    def bind(self, operation: str, arguments: dict[str, Any], *, lenient: bool) -> tuple[dict[str, Any], list[str]]:
        """The keyword arguments for the handler, and the names that were ignored.

        Raises:
            InvalidArguments: with every problem in one message.
        """
        problems: list[Problem] = []
        bound: dict[str, Any] = {}
        known = {parameter.name: parameter for parameter in self.fields}
        ignored: list[str] = []
        takes_all = self.catch_all and _CATCH_ALL not in arguments
        for name, value in arguments.items():
            parameter = known.get(name)
            if parameter is not None:
                bound[name] = parameter.shape.read(value, name, problems)
            elif name in ROUTING_FIELDS:
                continue
            elif self.rest is not None:
                bound[name] = self.rest.read(value, name, problems)
            elif takes_all:
                continue
            elif lenient:
                ignored.append(name)
            else:
                problems.append(Problem(name, f"is not a parameter{suggest(name, known)}"))
        for parameter in self.fields:
            if parameter.name in arguments:
                continue
            if takes_all and parameter.name == _CATCH_ALL:
                everything = {name: value for name, value in arguments.items() if name not in ROUTING_FIELDS}
                bound[_CATCH_ALL] = parameter.shape.read(everything, _CATCH_ALL, problems)
            elif self.names_operation and parameter.name in ROUTING_FIELDS:
                bound[parameter.name] = operation
            elif parameter.required:
                problems.append(Problem(parameter.name, "is missing"))
        if problems:
            listed = "; ".join(str(problem) for problem in problems)
            raise InvalidArguments(
                "invalid-arguments",
                f"{operation}({self.text()}): {listed}",
                operation=operation,
                parameters=[parameter.name for parameter in self.fields],
                problems=[{"path": problem.path, "message": problem.message} for problem in problems],
            )
        return bound, ignored


@dataclass(frozen=True, slots=True)
class Handler:
    """One method that takes messages.

    Attributes:
        invoke: calls the method with a message's arguments, or answers `SLOW`.
    """

    operation: str
    method: str
    kinds: tuple[str, ...]
    roles: frozenset[str]
    parameters: Parameters
    returns: Schema
    doc: str
    function: Callable[..., Any]
    invoke: Invoke
    where: Where
    positional: bool = False

    def describe(self) -> dict[str, Any]:
        return {
            "kind": list(self.kinds),
            "roles": sorted(self.roles),
            "parameters": self.parameters.schema(),
            "returns": self.returns,
            "doc": self.doc,
        }


@dataclass(frozen=True, slots=True)
class Machine:
    """A state machine's table."""

    states: tuple[str, ...]
    initial: str
    transitions: Mapping[str, frozenset[str]] | None

    def check(self, name: str, before: str, after: str) -> None:
        """Refuse a step that is not in the table."""
        if after == before and after in self.states:
            return
        allowed = self.states if self.transitions is None else sorted(self.transitions.get(before, ()))
        if after not in allowed:
            choices = ", ".join(repr(choice) for choice in allowed) or "nothing"
            raise IllegalTransition(
                "illegal-transition",
                f"{name} is in state {before!r}: {after!r} may not follow, only {choices}",
                **{"from": before, "to": after, "allowed": list(allowed)},
            )


@dataclass(frozen=True, slots=True)
class ActorDefinition:
    """Everything the dispatcher needs to know of one actor class."""

    cls: type
    name: str
    behaviour: str
    facets: tuple[str, ...]
    version: int
    states: tuple[StateField, ...]
    calls: Mapping[str, Handler]
    casts: Mapping[str, Handler]
    signals: Mapping[str, Handler]
    queries: Mapping[str, Handler]
    run: Handler | None
    init: Handler | None
    info: Handler | None
    terminate: Handler | None
    migrations: Mapping[int, Callable[..., Any]]
    machine: Machine | None
    # Of a GenEvent: all handlers of an event, in the order they were written; `casts` has the first.
    events: Mapping[str, tuple[Handler, ...]] = field(default_factory=dict)
    types: Mapping[str, type] = field(default_factory=dict)

    @classmethod
    def of(cls, actor_class: type) -> ActorDefinition:
        """Judge a decorated class.

        Raises:
            DefinitionError: with every issue.
        """
        judge = _Judge(actor_class)
        definition = judge.definition()
        if judge.issues or definition is None:
            raise DefinitionError(judge.issues)
        return definition

    def operations(self) -> list[str]:
        """The names callers may use, in the order they were written."""
        return [name for name in dict.fromkeys([*self.calls, *self.casts]) if name != "*"]

    def describe(self) -> dict[str, Any]:
        """This actor for machines: behaviour, state, handlers with JSON Schemas."""
        handlers: dict[str, Any] = {}
        for name in dict.fromkeys([*self.calls, *self.casts]):
            known = self.calls.get(name) or self.casts[name]
            handlers[name] = known.describe()
        result: dict[str, Any] = {
            "class": self.name,
            "behaviour": self.behaviour,
            "facets": list(self.facets),
            "version": self.version,
            "doc": inspect.cleandoc(self.cls.__doc__ or ""),
            "state": [state.name for state in self.states],
            "handlers": handlers,
        }
        if self.behaviour == "Workflow":
            result["run"] = self.run.describe() if self.run is not None else None
            result["signals"] = {name: known.describe() for name, known in self.signals.items()}
            result["queries"] = {name: known.describe() for name, known in self.queries.items()}
        if self.behaviour == "GenEvent":
            result["events"] = {name: [known.method for known in several] for name, several in self.events.items()}
        if self.machine is not None:
            table = self.machine.transitions
            result["fsm"] = {
                "states": list(self.machine.states),
                "initial": self.machine.initial,
                "transitions": None if table is None else {key: sorted(value) for key, value in table.items()},
            }
        return result


def find_actors(module: ModuleType) -> dict[str, ActorDefinition]:
    """The actors of a module by role: its `ACTOR_REGISTRY`, or its one decorated class under the role `""`.

    Raises:
        DefinitionError: there is none, there are several without a registry, or some are faulty; every issue.
    """
    file = getattr(module, "__file__", None) or module.__name__
    issues: list[Issue] = []
    found: dict[str, ActorDefinition] = {}
    registry = getattr(module, "ACTOR_REGISTRY", None)
    if registry is None:
        classes = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and RECORD in vars(value) and value.__module__ == module.__name__
        ]
        classes = list(dict.fromkeys(classes))
        if not classes:  # a package's __init__ may merely pass its actor on
            classes = [value for value in vars(module).values() if isinstance(value, type) and RECORD in vars(value)]
        if not classes:
            raise DefinitionError([Issue(file, 1, f"{module.__name__} holds no actor", "Put @actor before a class")])
        if len(classes) > 1:
            names = ", ".join(cls.__name__ for cls in classes)
            pairs = ", ".join(f'"{_snake(cls.__name__)}": {cls.__name__}' for cls in classes)
            issues.append(
                Issue(
                    file,
                    vars(classes[1])[RECORD].where.line,
                    f"{module.__name__} holds several actors ({names}) and does not say which role each plays",
                    f"Add ACTOR_REGISTRY = {{{pairs}}}",
                )
            )
        roles: dict[Any, Any] = {"": classes[0]} if len(classes) == 1 else {cls.__name__: cls for cls in classes}
    elif not isinstance(registry, Mapping) or not registry:
        raise DefinitionError(
            [Issue(file, 1, "ACTOR_REGISTRY is not a table of actors", 'Write ACTOR_REGISTRY = {"role": Class}')]
        )
    else:
        roles = dict(registry)
    judged: dict[type, ActorDefinition] = {}
    for role, cls in roles.items():
        if not isinstance(role, str) or not isinstance(cls, type) or RECORD not in vars(cls):
            issues.append(
                Issue(
                    file, 1, f"ACTOR_REGISTRY[{role!r}] is not an actor class", "Name a class that has @actor before it"
                )
            )
            continue
        try:
            if cls not in judged:
                judged[cls] = ActorDefinition.of(cls)
            found[role] = judged[cls]
        except DefinitionError as error:
            issues.extend(error.issues)
    if issues:
        raise DefinitionError(dict.fromkeys(issues))
    return found


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class _Judge:
    """Reads one class and collects what is wrong with it."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.issues: list[Issue] = []
        self._shapes = Shapes()
        # Filled where an event may have several handlers.
        self._events: dict[str, list[Handler]] | None = None

    def issue(self, where: Where, message: str, remedy: str) -> None:
        self.issues.append(Issue(where.file, where.line, message, remedy))

    def definition(self) -> ActorDefinition | None:
        cls = self.cls
        record: ActorRecord | None = vars(cls).get(RECORD)
        if record is None:
            self.issue(Where(cls.__module__, 1), f"{cls.__name__} is not an actor", "Put @actor before the class")
            return None
        facets = self._facets(record)
        if not isinstance(record.version, int) or isinstance(record.version, bool) or record.version < 1:
            self.issue(record.where, f"version={record.version!r} is not a version", "Use whole numbers from 1")
        self._lost_methods(record)
        self._construction(record)
        machine = self._machine(record)
        if record.behaviour == "GenEvent":
            self._events = {}
        states = self._states(record, machine)
        marks = self._marked()
        tables: dict[str, dict[str, Handler]] = {"call": {}, "cast": {}, "signal": {}, "query": {}}
        single: dict[str, Handler] = {}
        migrations: dict[int, Callable[..., Any]] = {}
        for name, function, mark in marks:
            self._function(name, function, mark)
            if mark.kind == "handler":
                self._handler(name, function, mark, tables)
            elif mark.kind in ("signal", "query"):
                self._workflow_only(record, mark)
                self._named(name, function, mark, tables)
            elif mark.kind == "migrate":
                self._migration(name, function, mark, migrations, record)
            else:
                if mark.kind == "run":
                    self._workflow_only(record, mark)
                if mark.kind in single:
                    self.issue(
                        mark.where,
                        f"{cls.__name__} has a second @{mark.kind}_handler, {name}; "
                        f"the first is {single[mark.kind].method}",
                        "Keep one",
                    )
                single[mark.kind] = self._make(mark.kind, name, function, mark, (mark.kind,))
        if record.behaviour == "Workflow":
            self._plain_workflow(single, tables)
            run = single.get("run")
            if run is None:
                self.issue(record.where, f"workflow {cls.__name__} has no run", "Put @run_handler before a method")
            else:
                tables["call"].setdefault("run", run)
            for name, known in tables["query"].items():
                tables["call"].setdefault(name, known)
            for name, known in tables["signal"].items():
                tables["call"].setdefault(name, known)
                tables["cast"].setdefault(name, known)
        return ActorDefinition(
            cls=cls,
            name=cls.__name__,
            behaviour=record.behaviour,
            facets=facets,
            version=record.version,
            states=states,
            calls=tables["call"],
            casts=tables["cast"],
            signals=tables["signal"],
            queries=tables["query"],
            run=single.get("run"),
            init=single.get("init"),
            info=single.get("info"),
            terminate=single.get("terminate"),
            migrations=migrations,
            machine=machine,
            events={name: tuple(several) for name, several in (self._events or {}).items()},
        )

    # -- the class ---------------------------------------------------------------------------------------

    def _facets(self, record: ActorRecord) -> tuple[str, ...]:
        facets = record.facets
        if isinstance(facets, str) or not isinstance(facets, Iterable):
            self.issue(record.where, f"facets={facets!r} is not a list", f"Write facets=[{facets!r}]")
            return ()
        names = list(facets)
        for name in names:
            if not isinstance(name, str) or not _FACET.fullmatch(name):
                self.issue(
                    record.where,
                    f"{name!r} cannot be a facet's name",
                    'Use names such as "durability" or "virtual_actor"',
                )
        return tuple(name for name in dict.fromkeys(names) if isinstance(name, str))

    def _lost_methods(self, record: ActorRecord) -> None:
        last: dict[str, Where] = {}
        for name, where, _ in record.seen:
            if name in last:
                self.issue(
                    last[name],
                    f"method {name} is defined again in line {where.line}, which replaces this one",
                    "Give the two methods different names",
                )
            last[name] = where

    def _construction(self, record: ActorRecord) -> None:
        cls = self.cls
        if not hasattr(cls, "__dict__") or any("__slots__" in vars(base) for base in cls.__mro__[:-1]):
            self.issue(record.where, f"{cls.__name__} has __slots__", "Remove __slots__; state() keeps its fields")
        init = cls.__init__  # type: ignore[misc]
        if init is not object.__init__:
            try:
                parameters = list(inspect.signature(init).parameters.values())[1:]
            except (TypeError, ValueError):
                return
            needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
            if needed:
                code = getattr(init, "__code__", None)
                where = Where(code.co_filename, code.co_firstlineno) if code is not None else record.where
                self.issue(
                    where,
                    f"{cls.__name__}.__init__ takes arguments, which nobody gives",
                    "Use @init_handler, which receives them",
                )

    def _states(self, record: ActorRecord, machine: Machine | None) -> tuple[StateField, ...]:
        fields: dict[str, StateField] = {}
        for base in reversed(self.cls.__mro__):
            for name, value in vars(base).items():
                if isinstance(value, StateField):
                    fields[name] = value
                elif name in fields and base is not object:
                    del fields[name]  # a subclass made something else of it
                if name in RESERVED and base is not object and not getattr(value, "plexspaces", False):
                    where = value.where if isinstance(value, StateField) else record.where
                    self.issue(where, f"{name} is the SDK's own name on every actor", "Choose another name")
        for name, declared in fields.items():
            if declared.default is not UNSET and declared.default_factory is not UNSET:
                self.issue(declared.where, f"state {name} has a default and a default_factory", "Keep one")
            if name.startswith("__"):
                self.issue(declared.where, f"state {name} begins with two underscores", "Choose another name")
            default = declared.default
            if default is not UNSET and isinstance(default, (list, dict, set, bytearray)):
                kind = type(default).__name__
                factory = kind if not default else f"lambda: {default!r}"
                self.issue(
                    declared.where,
                    f"state {name} has a mutable default, which all actors would share",
                    f"Write state(default_factory={factory})",
                )
            elif declared.default_factory is not UNSET and not callable(declared.default_factory):
                self.issue(declared.where, f"state {name}: default_factory is not callable", "Pass list, dict, ...")
            elif default is not UNSET:
                try:
                    codec.encode(default, f"state.{name}")
                except codec.UnsupportedType as error:
                    self.issue(declared.where, str(error), "Keep plain data in state")
        if record.behaviour == "GenStateMachine":
            declared_fsm = fields.get(FSM_FIELD)
            if declared_fsm is None:
                plain = inspect.getattr_static(self.cls, FSM_FIELD, "")
                first = plain if isinstance(plain, str) else ""
                declared_fsm = StateField(first or (machine.initial if machine else ""), UNSET, record.where)
                declared_fsm.name = FSM_FIELD
                fields[FSM_FIELD] = declared_fsm
            if machine is not None and declared_fsm.default not in (UNSET, "", machine.initial):
                self.issue(
                    declared_fsm.where,
                    f"fsm_state begins as {declared_fsm.default!r}, but initial={machine.initial!r}",
                    "Leave one of the two out",
                )
        return tuple(fields.values())

    def _machine(self, record: ActorRecord) -> Machine | None:
        if record.behaviour != "GenStateMachine":
            return None
        states, initial, transitions = record.states, record.initial, record.transitions
        if states is UNSET:
            if transitions is not UNSET or initial is not UNSET:
                self.issue(record.where, "initial= and transitions= need states=", "Add states=[...]")
            return None
        if isinstance(states, str) or not isinstance(states, Iterable):
            self.issue(record.where, f"states={states!r} is not a list of names", 'Write states=["idle", "running"]')
            return None
        names = list(states)
        bad = [name for name in names if not isinstance(name, str) or not name]
        if bad or not names:
            self.issue(record.where, f"states={names!r} is not a list of names", 'Write states=["idle", "running"]')
            return None
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            self.issue(record.where, f"states= names {', '.join(repeated)} twice", "Name each state once")
        if initial is UNSET:
            initial = names[0]
        if initial not in names:
            self.issue(
                record.where,
                f"initial={initial!r} is not one of the states{suggest(str(initial), names)}",
                f"Use one of {', '.join(names)}",
            )
            return None
        if transitions is UNSET:
            return Machine(tuple(names), initial, None)
        if not isinstance(transitions, Mapping):
            self.issue(record.where, "transitions= is not a table", 'Write transitions={"idle": ["running"], ...}')
            return None
        table: dict[str, frozenset[str]] = {}
        for before, after in transitions.items():
            followers = [after] if isinstance(after, str) else list(after)
            for name in [before, *followers]:
                if name not in names:
                    self.issue(
                        record.where,
                        f"transitions= names {name!r}, which is not one of the states{suggest(str(name), names)}",
                        "Add it to states= or mend the name",
                    )
            table[before] = frozenset(followers)
        reachable, front = {initial}, [initial]
        while front:
            for name in table.get(front.pop(), ()):
                if name not in reachable:
                    reachable.add(name)
                    front.append(name)
        lost = [name for name in names if name not in reachable]
        if lost:
            self.issue(
                record.where,
                f"no transition leads from {initial!r} to {', '.join(map(repr, lost))}",
                "Add the transition or remove the state",
            )
        return Machine(tuple(names), initial, table)

    # -- the methods -------------------------------------------------------------------------------------

    def _marked(self) -> list[tuple[str, Callable[..., Any], Mark]]:
        found: dict[str, list[Mark]] = {}
        for base in reversed(self.cls.__mro__):
            for name, value in vars(base).items():
                function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
                marks = getattr(function, MARKS, None) if callable(function) else None
                if marks is not None:
                    if isinstance(value, (staticmethod, classmethod)):
                        self.issue(
                            marks[0].where, f"{name} is a {type(value).__name__}", "Make it a method that takes self"
                        )
                        continue
                    # The order of decorators is written top to bottom and applied bottom to top.
                    found[name] = list(reversed(marks))
        return [(name, getattr(self.cls, name), mark) for name, marks in found.items() for mark in marks]

    def _function(self, name: str, function: Callable[..., Any], mark: Mark) -> None:
        named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if next((p.kind for p in inspect.signature(function).parameters.values()), None) not in named:
            self.issue(mark.where, f"{name} does not take self", "Add self as its first parameter")
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            self.issue(
                mark.where,
                f"{name} is asynchronous",
                "Write a plain def: waiting in host.ask or host.sleep suspends this actor only",
            )
        elif inspect.isgeneratorfunction(function):
            self.issue(mark.where, f"{name} is a generator", "Return a value instead of yielding")

    def _roles(self, mark: Mark) -> frozenset[str]:
        roles = mark.roles
        if isinstance(roles, str) or not isinstance(roles, Iterable):
            self.issue(mark.where, f"roles={roles!r} is not a list", f"Write roles=[{roles!r}]")
            return frozenset()
        names = list(roles)
        if not all(isinstance(role, str) and role for role in names):
            self.issue(mark.where, f"roles={names!r} holds something else than names", "Use strings")
        return frozenset(role for role in names if isinstance(role, str))

    def _handler(
        self, name: str, function: Callable[..., Any], mark: Mark, tables: dict[str, dict[str, Handler]]
    ) -> None:
        operations: list[str] = []
        kinds: list[str] = []
        for position, item in enumerate(mark.names):
            if isinstance(item, (list, tuple, set)):
                kinds.extend(item)
            elif isinstance(item, str) and position and item in KINDS:
                kinds.append(item)
            elif isinstance(item, str) and item.strip():
                operations.append(item)
            else:
                self.issue(mark.where, f"{item!r} is not the name of an operation", 'Write @handler("deposit")')
        if not mark.names:
            operations = [name]
        for kind in kinds:
            if kind not in KINDS:
                self.issue(mark.where, f"{kind!r} is not a way to send a message", 'Use "call" or "cast"')
        chosen = tuple(kind for kind in KINDS if kind in kinds) or KINDS
        for operation in operations:
            known = self._make(operation, name, function, mark, chosen, catch_all=operation == "*")
            for kind in chosen:
                if kind == "cast" and self._events is not None:
                    self._subscribe(self._events, operation, known)
                    tables[kind].setdefault(operation, known)
                else:
                    self._enter(tables[kind], operation, known)

    def _subscribe(self, events: dict[str, list[Handler]], event: str, handler: Handler) -> None:
        several = events.setdefault(event, [])
        if any(other.method == handler.method for other in several):
            self.issue(handler.where, f"{handler.method} handles {event!r} twice", "Name the event once")
        several.append(handler)

    def _enter(self, table: dict[str, Handler], operation: str, handler: Handler) -> None:
        other = table.get(operation)
        if other is None:
            table[operation] = handler
        elif not any(issue.message.startswith(f"{operation!r} ") for issue in self.issues):
            self.issue(
                handler.where,
                f"{operation!r} is handled twice, by {other.method} (line {other.where.line}) and {handler.method}",
                "Rename or remove one of them"
                if self._events is None
                else 'An ask has one answer: write @handler(name, "cast") before those that are only told',
            )

    def _named(
        self, name: str, function: Callable[..., Any], mark: Mark, tables: dict[str, dict[str, Handler]]
    ) -> None:
        operation = mark.names[0]
        if not isinstance(operation, str) or not operation:
            self.issue(
                mark.where, f"@{mark.kind}_handler needs a name", f'Write @{mark.kind}_handler("name") before {name}'
            )
            return
        handler = self._make(operation, name, function, mark, (mark.kind,), catch_all=True)
        self._enter(tables[mark.kind], operation, handler)

    def _workflow_only(self, record: ActorRecord, mark: Mark) -> None:
        if record.behaviour != "Workflow":
            self.issue(
                mark.where,
                f"@{mark.kind}_handler belongs to workflows, and {self.cls.__name__} is a {record.behaviour}",
                "Use @workflow_actor, or @handler",
            )

    def _plain_workflow(self, single: dict[str, Handler], tables: dict[str, dict[str, Handler]]) -> None:
        """Methods called run(payload), signal(name, data) and query(name, params) need no decorator."""
        for kind in ("run", "signal", "query"):
            function = inspect.getattr_static(self.cls, kind, None)
            if not inspect.isfunction(function) or hasattr(function, MARKS):
                continue
            mark = Mark(kind, Where(function.__code__.co_filename, function.__code__.co_firstlineno))
            if kind == "run":
                if "run" not in single:
                    single["run"] = self._make("run", kind, function, mark, ("run",), catch_all=True)
            elif "*" not in tables[kind]:
                handler = self._make("*", kind, function, mark, (kind,), positional=True)
                tables[kind]["*"] = handler

    def _migration(
        self,
        name: str,
        function: Callable[..., Any],
        mark: Mark,
        migrations: dict[int, Callable[..., Any]],
        record: ActorRecord,
    ) -> None:
        version = mark.names[0]
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            self.issue(mark.where, f"{version!r} is not a version", "Write @migrate_handler(1) before the method")
            return
        if isinstance(record.version, int) and version >= record.version:
            self.issue(
                mark.where,
                f"{name} migrates from version {version}, and the actor is at version {record.version}",
                f"Write version={version + 1} in the class's decorator",
            )
        if version in migrations:
            self.issue(mark.where, f"version {version} is migrated twice", "Keep one @migrate_handler for each")
        migrations[version] = function

    def _make(
        self,
        operation: str,
        name: str,
        function: Callable[..., Any],
        mark: Mark,
        kinds: tuple[str, ...],
        *,
        catch_all: bool = False,
        positional: bool = False,
    ) -> Handler:
        where = mark.where
        roles = self._roles(mark)
        catch_all = catch_all or mark.kind in ("run", "info")
        doc = inspect.cleandoc(function.__doc__ or "")
        descriptions = parameter_docs(doc)
        fields: list[Field] = []
        rest: Shape | None = None
        signature = list(inspect.signature(function).parameters.values())
        hints = self._hints(name, function, where)
        # Lifecycle methods are called by the SDK itself and may take what it hands them under any name.
        called_by_position = positional or mark.kind in ("terminate", "migrate")
        for parameter in signature[1:]:
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                self.issue(
                    where,
                    f"{name} takes *{parameter.name}, but arguments come by name",
                    "Name the parameters, or take **kwargs",
                )
                continue
            if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and not called_by_position:
                self.issue(where, f"{name}'s {parameter.name} is positional-only", "Remove the / from the signature")
                continue
            shape_field = self._parameter(name, parameter, hints, descriptions, where)
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                rest = shape_field.shape
            else:
                fields.append(shape_field)
        has_payload = any(parameter_field.name == _CATCH_ALL for parameter_field in fields)
        parameters = Parameters(tuple(fields), rest, catch_all and has_payload, operation == "*" or mark.kind == "info")
        returns: Schema = {}
        if mark.kind in ("handler", "run", "query") and "return" in hints:
            try:
                defs: dict[str, Schema] = {}
                returns = self._shapes.of(hints["return"]).schema(defs)
                if defs:
                    returns["$defs"] = defs
            except UnusableAnnotation as error:
                self.issue(where, f"{name} returns what cannot be sent: {error}", "Return plain data")
        simple = not roles and not parameters.catch_all and not parameters.names_operation and not positional
        return Handler(
            operation=operation,
            method=name,
            kinds=kinds,
            roles=roles,
            parameters=parameters,
            returns=returns,
            doc=_prose(doc),
            function=function,
            invoke=compile_invoke(function, parameters) if simple else _always_slow,
            where=where,
            positional=positional,
        )

    def _hints(self, name: str, function: Callable[..., Any], where: Where) -> dict[str, Any]:
        try:
            return typing.get_type_hints(function, include_extras=True)
        except Exception as error:  # noqa: BLE001  resolving runs the annotation's own text
            self.issue(where, f"the annotations of {name} cannot be resolved: {error}", "Import the name it misses")
            return {}

    def _parameter(
        self,
        name: str,
        parameter: inspect.Parameter,
        hints: dict[str, Any],
        descriptions: dict[str, str],
        where: Where,
    ) -> Field:
        required = parameter.default is parameter.empty
        default = MISSING if required else parameter.default
        try:
            return self._shapes.field(
                parameter.name,
                hints.get(parameter.name, Any),
                required=required,
                default=default,
                description=descriptions.get(parameter.name, ""),
            )
        except UnusableAnnotation as error:
            self.issue(
                where,
                f"{name}'s {parameter.name} cannot come in a message: {error}",
                "Use int, float, str, bool, bytes, datetime, Decimal, list, dict, a dataclass, a TypedDict, ...",
            )
            return self._shapes.field(parameter.name, Any, required=required, default=default)


def _always_slow(actor: Any, arguments: dict[str, Any]) -> Any:
    return SLOW


def compile_invoke(function: Callable[..., Any], parameters: Parameters) -> Invoke:
    """A function that checks the usual message and calls the handler, with nothing looked up at run time.

    Guest Python is slow enough that a loop over the parameters would cost more than the handler; so the few tests
    that the signature needs are written out, as dataclasses do for `__init__`.  Whatever is not the plain case
    (a conversion, an unknown or missing name) is left to `Parameters.bind`, which has the words for it.
    """
    if parameters.rest is not None:
        return _always_slow
    names: dict[str, Any] = {"function": function, "SLOW": SLOW}
    lines = ["def invoke(actor, arguments):", "    count = 0"]
    call: list[str] = []
    for index, parameter in enumerate(parameters.fields):
        key = repr(parameter.name)
        variable = f"a{index}"
        lines += [f"    if {key} in arguments:", f"        {variable} = arguments[{key}]"]
        if not parameter.shape.anything:
            if parameter.shape.exact is None:
                lines.append("        return SLOW")
            else:
                names[f"t{index}"] = parameter.shape.exact
                lines.append(f"        if {variable}.__class__ is not t{index}: return SLOW")
        lines += ["        count += 1", "    else:"]
        if parameter.required:
            lines.append("        return SLOW")
        else:
            names[f"d{index}"] = inspect.signature(function).parameters[parameter.name].default
            lines.append(f"        {variable} = d{index}")
        call.append(f"{parameter.name}={variable}" if _keyword_only(function, parameter.name) else variable)
    # What carried the operation over HTTP is still there; it is no argument unless it was declared as one.
    lines.append("    if count != len(arguments):")
    for name in sorted(ROUTING_FIELDS - {parameter.name for parameter in parameters.fields}):
        lines.append(f"        if {name!r} in arguments: count += 1")
    lines += [
        "        if count != len(arguments): return SLOW",
        f"    return function({', '.join(['actor', *call])})",
    ]
    exec("\n".join(lines), names)
    return typing.cast(Invoke, names["invoke"])


def _keyword_only(function: Callable[..., Any], name: str) -> bool:
    return inspect.signature(function).parameters[name].kind is inspect.Parameter.KEYWORD_ONLY


_GOOGLE_ARGUMENT = re.compile(r"^\s+(\w+)(?:\s*\([^)]*\))?:\s*(.+)$")
_SPHINX_ARGUMENT = re.compile(r"^\s*:param\s+(?:\w+\s+)?(\w+):\s*(.+)$")


def parameter_docs(doc: str) -> dict[str, str]:
    """Descriptions of parameters from a docstring: an `Args:` section, or `:param name:` lines."""
    found: dict[str, str] = {}
    inside = False
    last = ""
    indent = 0
    for line in doc.splitlines():
        sphinx = _SPHINX_ARGUMENT.match(line)
        if sphinx is not None:
            found[sphinx[1]] = sphinx[2].strip()
            continue
        if line.strip() in ("Args:", "Arguments:", "Parameters:"):
            inside, indent = True, 0
        elif inside and line.strip() and not line[0].isspace():
            inside = False
        elif inside and line.strip():
            depth = len(line) - len(line.lstrip())
            match = _GOOGLE_ARGUMENT.match(line)
            if match is not None and (not indent or depth <= indent):
                indent, last = depth, match[1]
                found[last] = match[2].strip()
            elif last:
                found[last] += " " + line.strip()
    return found


def _prose(doc: str) -> str:
    """The docstring without its section on parameters, which has gone into the schema."""
    lines: list[str] = []
    skipping = False
    for line in doc.splitlines():
        if line.strip() in ("Args:", "Arguments:", "Parameters:"):
            skipping = True
        elif skipping and line.strip() and not line[0].isspace():
            skipping = False
        if not skipping and not _SPHINX_ARGUMENT.match(line):
            lines.append(line)
    return "\n".join(lines).strip()
