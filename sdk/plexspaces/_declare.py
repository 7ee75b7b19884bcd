"""The decorators.  They only record what was written and where; `definition` judges it, all at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final, TypeVar, overload

T = TypeVar("T")
C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])

UNSET: Final[Any] = object()
MARKS: Final = "__plexspaces_marks__"
RECORD: Final = "__plexspaces_record__"


@dataclass(frozen=True, slots=True)
class Where:
    """A place in the author's source."""

    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Mark:
    """One decorator on one method."""

    kind: str
    where: Where
    names: tuple[Any, ...] = ()
    roles: Any = ()


@dataclass(frozen=True, slots=True)
class ActorRecord:
    """The decorator on a class, and the methods that were decorated in its body (also those it lost again)."""

    behaviour: str
    where: Where
    facets: Any
    version: Any
    states: Any
    initial: Any
    transitions: Any
    seen: tuple[tuple[str, Where, CodeType], ...]


class StateField:
    """A class attribute that stands for a value kept across restarts.

    A plain attribute of the instance shadows it, so reading state costs what reading any attribute costs.
    """

    __slots__ = ("default", "default_factory", "name", "where")

    def __init__(self, default: Any, default_factory: Any, where: Where) -> None:
        self.default = default
        self.default_factory = default_factory
        self.where = where
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def make(self) -> Any:
        """A fresh first value."""
        if self.default_factory is not UNSET:
            return self.default_factory()
        return None if self.default is UNSET else self.default


@overload
def state() -> Any: ...
@overload
def state(*, default: T) -> T: ...
@overload
def state(*, default_factory: Callable[[], T]) -> T: ...
def state(*, default: Any = UNSET, default_factory: Any = UNSET) -> Any:
    """Declare a field that survives crashes, restarts, deactivation and new versions.  No other field does.

    Args:
        default: the first value; it must not be mutable.
        default_factory: makes the first value, once per actor: `list`, `dict`.
    """
    return StateField(default, default_factory, _caller())


# Methods that were decorated in class bodies which are still open: qualified class name -> (name, where, code).
# A class decorator takes its own.  This is how a second `def` of the same name is found, which Python forgets.
_open_bodies: dict[tuple[str, str], list[tuple[str, Where, CodeType]]] = {}


def _caller(depth: int = 2) -> Where:
    frame = sys._getframe(depth)
    return Where(frame.f_code.co_filename, frame.f_lineno)


def _mark(function: F, kind: str, names: tuple[Any, ...] = (), roles: Any = ()) -> F:
    code = function.__code__
    where = Where(code.co_filename, code.co_firstlineno)
    marks = function.__dict__.setdefault(MARKS, [])
    marks.append(Mark(kind, where, names, roles))
    owner = function.__qualname__.rpartition(".")[0]
    if owner:
        seen = _open_bodies.setdefault((function.__module__, owner), [])
        if not any(known is code for _, _, known in seen):
            seen.append((function.__name__, where, code))
    return function


def handler(*names: Any, roles: Iterable[str] = ()) -> Any:
    """Route messages to a method.

    `@handler("deposit")`, `@handler("balance", "get")` (two operations), `@handler("log", "cast")` or
    `@handler("log", ["cast"])` (only told, never asked), `@handler("*")` (whatever no other handler takes).

    Args:
        names: operations; `"call"` and `"cast"` after the first one, or a list of them, restrict how it is sent.
        roles: the caller needs one of these roles, or of the scopes of its token that are written `scope:NAME`.
    """
    if len(names) == 1 and callable(names[0]) and not isinstance(names[0], str):
        function = names[0]
        return _mark(function, "handler", (function.__name__,))
    return lambda function: _mark(function, "handler", names, roles)


def _simple(kind: str, doc: str) -> Any:
    def decorate(function: Any = None, /, *, roles: Iterable[str] = ()) -> Any:
        if function is None:
            return lambda method: _mark(method, kind, (), roles)
        return _mark(function, kind)

    decorate.__doc__ = doc
    decorate.__name__ = decorate.__qualname__ = f"{kind}_handler"
    return decorate


def _named(kind: str, doc: str) -> Any:
    def decorate(name: Any, /, *, roles: Iterable[str] = ()) -> Any:
        return lambda method: _mark(method, kind, (name,), roles)

    decorate.__doc__ = doc
    decorate.__name__ = decorate.__qualname__ = f"{kind}_handler"
    return decorate


init_handler: Any = _simple(
    "init",
    """Called once per instance, after the state is there and before any message.

    It takes nothing, or `config` (`actor_id`, `actor_type`, `key`, `role`, `args`, `restored`, `facets`), or the
    arguments of the child specification by name.
    """,
)
run_handler: Any = _simple("run", "A workflow's run: takes the arguments by name, or all of them as `payload`.")
info_handler: Any = _simple(
    "info", "Signals of the node (`DOWN`, `EXIT`) that no handler takes by name: takes `op` and `payload`."
)
terminate_handler: Any = _simple("terminate", "Called when the actor is about to end; takes nothing or `reason`.")
signal_handler: Any = _named("signal", "A workflow's signal of this name.")
query_handler: Any = _named("query", "A workflow's query of this name; it must not change the state.")
migrate_handler: Any = _named(
    "migrate",
    """Turns the stored fields of version `from_version` into those of the next version.

    It takes the fields as a dict and returns them, or changes them in place.
    """,
)


def _record(
    cls: C,
    where: Where,
    behaviour: str,
    facets: Any,
    version: Any,
    states: Any = UNSET,
    initial: Any = UNSET,
    transitions: Any = UNSET,
) -> C:
    seen = tuple(_open_bodies.pop((cls.__module__, cls.__qualname__), ()))
    setattr(cls, RECORD, ActorRecord(behaviour, where, facets, version, states, initial, transitions, seen))
    return cls


def _class_decorator(name: str, behaviour: str, doc: str) -> Any:
    def decorate(cls: Any = None, /, *, facets: Iterable[str] = (), version: int = 1) -> Any:
        where = _caller()
        if cls is None:
            return lambda decorated: _record(decorated, where, behaviour, facets, version)
        return _record(cls, where, behaviour, facets, version)

    decorate.__doc__ = doc
    decorate.__name__ = decorate.__qualname__ = name
    return decorate


_ARGUMENTS = """

    Args:
        facets: capabilities the actor expects: `"durability"`, `"virtual_actor"`, ...
        version: of the state's form; see `migrate_handler`.
    """
actor: Any = _class_decorator("actor", "GenServer", "An actor that answers requests." + _ARGUMENTS)
gen_server_actor: Any = _class_decorator("gen_server_actor", "GenServer", "The same as `actor`." + _ARGUMENTS)
event_actor: Any = _class_decorator(
    "event_actor",
    "GenEvent",
    """An actor that is told, seldom asked.

    An event may have several handlers, `@handler("paid", "cast")` each: they run in the order they are written.  One
    that raises is reported in the log; the others get the event, and the actor goes on."""
    + _ARGUMENTS,
)
workflow_actor: Any = _class_decorator(
    "workflow_actor", "Workflow", "A long run with signals and queries." + _ARGUMENTS
)


def fsm_actor(
    cls: Any = None,
    /,
    *,
    states: Iterable[str] = UNSET,
    initial: str = UNSET,
    transitions: Mapping[str, Iterable[str]] = UNSET,
    facets: Iterable[str] = (),
    version: int = 1,
) -> Any:
    """A state machine.  Its state is the field `fsm_state`, which is kept as `state()` fields are.

    Assigning one that may not follow raises a `Refuse` with the code `illegal-transition`: unless the handler catches
    it, the caller hears it, with `from`, `to` and `allowed`, and the operator reads of it in the log.  `fsm_state` and
    everything after the assignment stay undone; what the handler did before it stands, as with every `Refuse`.

    Args:
        states: all states; without them nothing is enforced.
        initial: the first one.
        transitions: from each state, the states that may follow; without them any may.
        facets: capabilities the actor expects.
        version: of the state's form; see `migrate_handler`.
    """
    where = _caller()
    if cls is None:
        return lambda decorated: _record(
            decorated, where, "GenStateMachine", facets, version, states, initial, transitions
        )
    return _record(cls, where, "GenStateMachine", facets, version, states, initial, transitions)
