"""app-config.toml: an application's components and supervision tree, read strictly.

Everything that is wrong is reported at once, each with file, line, key, and what to write instead.  The tables of keys
are what reads a file and what its documentation is held to.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Final, get_type_hints

from ..actors import access
from ..actors.capabilities import parse_entries
from ..config import ISOLATIONS, ConfigError, Limits
from ..egress.links import Link, LinkIssues, parse_link
from ..errors import InvalidArgument
from ..isolation import microvm
from ..isolation.microvm import MICROVM
from ..scope import check_name
from ..supervision.spec import BRUTAL_KILL, INFINITY, SHUTDOWN_S, AutoShutdown, Backoff, RestartPolicy, Strategy
from .lines import KeyPath, Lines

CONFIG_BYTES_MAX: Final = 256 * 1024
# Deeper nesting is no configuration, but an attempt at somebody's stack.
SUPERVISOR_DEPTH_MAX: Final = 16
_KEY_PARTS_MAX: Final = 3 * SUPERVISOR_DEPTH_MAX
_VALUE_DEPTH_MAX: Final = 32
_DURATION_S_MAX: Final = 30 * 86_400.0

# What a facet's type does with its `config`: it raises `InvalidArgument` if that is wrong.
FacetTypes = Mapping[str, Callable[[Mapping[str, Any]], object]]

# -- what comes out ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FacetConfig:
    """One facet of an actor.

    Attributes:
        priority: the higher, the further out; None for what its type has.
        config: as its type wants it.
    """

    type: str
    priority: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComponentConfig:
    """Code: a component that is built already (`path`), or from source (`source`); the other is None."""

    name: str
    path: str | None = None
    source: str | None = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """One child of a supervisor: an actor, or another supervisor.

    Attributes:
        name: unique among its siblings; an actor's is its actor type, unique in the application.
        actor_type: the name of the component with its code; "" for a supervisor.
        role: which of the component's actors; "" takes the only one, or the one called like the child.
        behavior_kind: what the component must say it is, in the words of its `describe`; "" for anything.
        args: for the actor's `init`.
        capabilities: entries of what it may ask of the host; None for what is granted where nothing is said.
        arguments: "strict" refuses unknown arguments of messages, "lenient" ignores them.
        labels: what the registry finds it by.
        shared_keys: all actors of the type have one key-value space, not one each.
        limits: fields of `Limits` that are its own.
        authorise: roles and scopes of which a caller needs one, by operation; `*` is for all others.
        supervisor: what it supervises; None for an actor.
    """

    name: str
    actor_type: str = ""
    role: str = ""
    behavior_kind: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    capabilities: frozenset[str] | None = None
    facets: tuple[FacetConfig, ...] = ()
    restart: RestartPolicy = RestartPolicy.PERMANENT
    shutdown_s: float = SHUTDOWN_S
    significant: bool = False
    arguments: str = "strict"
    labels: Mapping[str, str] = field(default_factory=dict)
    shared_keys: bool = False
    limits: Mapping[str, Any] = field(default_factory=dict)
    authorise: Mapping[str, frozenset[str]] = field(default_factory=dict)
    supervisor: SupervisorConfig | None = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class SupervisorConfig:
    """A supervisor, as `supervision.spec.SupervisorSpec` has it, with its children in the order of starting."""

    strategy: Strategy = Strategy.ONE_FOR_ONE
    restarts_max: int = 10
    window_s: float = 60.0
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER
    backoff: Backoff | None = None
    children: tuple[ChildConfig, ...] = ()


@dataclass(frozen=True, slots=True)
class AppConfig:
    """A whole application.

    Attributes:
        links: its actors' ways out, by name.
        isolation: "none", "process", or "" for what the node does otherwise.
        process_memory_bytes_max: of its process, if it has one; None for the node's.
        text: what it was read from, to be read again after a restart of the node.
    """

    name: str
    namespace: str
    components: tuple[ComponentConfig, ...]
    supervisor: SupervisorConfig
    links: Mapping[str, Link] = field(default_factory=dict)
    isolation: str = ""
    process_memory_bytes_max: int | None = None
    text: str = field(default="", compare=False, repr=False)

    def actors(self) -> Iterator[ChildConfig]:
        """Every actor of the tree, in the order of starting."""
        return _actors(self.supervisor)


def _actors(supervisor: SupervisorConfig) -> Iterator[ChildConfig]:
    for child in supervisor.children:
        if child.supervisor is None:
            yield child
        else:
            yield from _actors(child.supervisor)


# -- reading -----------------------------------------------------------------------------------------------


def parse(
    text: str,
    *,
    file: str = "app-config.toml",
    facet_types: FacetTypes | None = None,
    limits: Limits | None = None,
) -> AppConfig:
    """Read an application's configuration.

    Args:
        text: the file's content.
        file: its name, for messages.
        facet_types: the facets there are, and what checks their `config`; None leaves both to the node.
        limits: those of the node, which an actor's own may lower and not raise; None leaves this to the node.

    Raises:
        ConfigError: anything is unknown, missing, of the wrong type or unit, out of range or contradictory.
    """
    document = _document(text, file)
    reader = _Reader(file, Lines(text), facet_types, limits)
    values = reader.table((), document, _ROOT, where="the file")
    if reader.issues:
        raise ConfigError([issue for _, issue in sorted(reader.issues, key=lambda each: each[0])])
    return AppConfig(
        name=values["application"]["name"],
        namespace=values["application"]["namespace"],
        components=values["components"],
        supervisor=values["supervisor"],
        links=values["links"],
        isolation=values["application"]["isolation"],
        process_memory_bytes_max=values["application"]["process_memory_bytes_max"],
        text=text,
    )


# `tomllib` takes time with the square of a key's parts.  A name is looked at from its beginning only, so that this
# does not.
_LONG_KEY: Final = re.compile(
    r"(?<![A-Za-z0-9_-])(?:(?:[A-Za-z0-9_-]++|\"[^\"\n]*\"|'[^'\n]*')[ \t]*+\.[ \t]*+){" + f"{_KEY_PARTS_MAX}}}"
)


def _document(text: str, file: str) -> dict[str, Any]:
    if len(text) > CONFIG_BYTES_MAX:
        raise ConfigError([f"{file}:1: the file is longer than {CONFIG_BYTES_MAX} characters"])
    if (long := _LONG_KEY.search(text)) is not None:
        line = text.count("\n", 0, long.start()) + 1
        raise ConfigError([f"{file}:{line}: a key has more than {_KEY_PARTS_MAX} parts"])
    try:
        document = tomllib.loads(text)
        # In hexadecimal any number can be read; what says that it is wrong could not be written.
        repr(document)
        return document
    except RecursionError:
        raise ConfigError([f"{file}:1: values are nested too deeply"]) from None
    # A number of more digits than Python converts is no TOMLDecodeError.
    except ValueError as error:
        place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        what = str(error).replace(place[0], f"(column {place[2]})") if place else str(error)
        raise ConfigError([f"{file}:{place[1] if place else 1}: this is not TOML: {what}"]) from None


class _Wrong(ValueError):
    """A value cannot be used; the text says why, and what to write instead."""


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One key, as its documentation sees it.

    Attributes:
        table: the table it stands in, as one writes it.
        type: in words.
        unit: "" for none.
        default: as one would write it; "required" if it must be there, "" if leaving it out means none.
    """

    table: str
    name: str
    type: str
    unit: str
    default: str
    doc: str


_Read = Callable[["_Reader", KeyPath, Any], Any]


@dataclass(frozen=True, slots=True)
class _Key:
    """A key of a table: what the documentation says of it, and what reads it.

    Attributes:
        value: what it is if it is not there.
        of: "actor" or "supervisor" if only such a child has it.
    """

    name: str
    type: str
    default: str
    doc: str
    read: _Read
    value: Any = None
    unit: str = ""
    of: str = ""

    @property
    def required(self) -> bool:
        return self.default == "required"


class _Reader:
    """Walks one document with the tables of keys, and collects what is wrong."""

    def __init__(self, file: str, lines: Lines, facet_types: FacetTypes | None, limits: Limits | None) -> None:
        self.issues: list[tuple[int, str]] = []
        self.facet_types = facet_types
        self.limits = limits
        self.components: dict[str, int] = {}
        # Where each actor type is declared first.
        self.actors: dict[str, KeyPath] = {}
        self._file = file
        self._lines = lines
        # Names of children by their path, for messages.
        self._titles: dict[KeyPath, str] = {}

    def line(self, path: KeyPath) -> int:
        return self._lines.of(path)

    def issue(self, path: KeyPath, text: str) -> None:
        line = self.line(path)
        shown = self._shown(path)
        self.issues.append((line, f"{self._file}:{line}: {shown + ': ' if shown else ''}{text}"))

    def call(self, path: KeyPath, name: str) -> None:
        """Let messages say `children[agent]` instead of `children[2]`."""
        self._titles[path] = name

    def _shown(self, path: KeyPath) -> str:
        text = ""
        for position, part in enumerate(path):
            if isinstance(part, int):
                text += f"[{self._titles.get(path[: position + 1], str(part + 1))}]"
            else:
                text += ("." if text else "") + (part if re.fullmatch(r"[\w-]{1,60}", part) else repr(part[:60]))
        return text

    def read(self, path: KeyPath, value: Any, read: _Read, default: Any) -> Any:
        """What a value is, or `default` after an issue."""
        try:
            return read(self, path, value)
        except _Wrong as wrong:
            self.issue(path, str(wrong))
        except InvalidArgument as error:
            self.issue(path, error.message)
        return default

    def table(self, path: KeyPath, content: Mapping[str, Any], keys: Sequence[_Key], *, where: str) -> dict[str, Any]:
        """Every key of a table: as it is there, or its default."""
        known = {key.name: key for key in keys}
        for name in content:
            if name not in known:
                self.issue((*path, name), f"there is no such key in {where}; {_nearest(name, known)}")
        values = {}
        for key in keys:
            if key.name in content:
                values[key.name] = self.read((*path, key.name), content[key.name], key.read, key.value)
            else:
                if key.required:
                    self.issue(path, f"{where} needs {key.name!r}: {key.doc[0].lower()}{key.doc[1:]}")
                values[key.name] = key.value
        return values


def _nearest(name: str, known: Iterable[str]) -> str:
    names, wanted = list(known), name.lower()
    begun = [each for each in names if len(wanted) >= 3 and each.startswith(wanted)]
    if close := begun or difflib.get_close_matches(wanted, names, n=1, cutoff=0.6):
        return f"did you mean {close[0]!r}?"
    return "there are " + ", ".join(names)


# -- plain values ------------------------------------------------------------------------------------------

_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


def _text(_reader: _Reader, _path: KeyPath, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _Wrong(f"{_written(value)} is not a text: write it in quotes" if value != "" else "the text is empty")
    return value


def _named(what: str) -> _Read:
    def read(reader: _Reader, path: KeyPath, value: Any) -> str:
        return check_name(what, _text(reader, path, value))

    return read


def _boolean(_reader: _Reader, _path: KeyPath, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong(f"{_written(value)} is neither true nor false, which are written without quotes")
    return value


def _whole(low: int) -> _Read:
    def read(_reader: _Reader, _path: KeyPath, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _Wrong(f"{_written(value)} is not a whole number: write one without quotes, from {low} up")
        if not low <= value < 2**31:
            raise _Wrong(f"{value} is out of range: write a whole number from {low} up")
        return value

    return read


def _seconds(_reader: _Reader, _path: KeyPath, value: Any) -> float:
    if isinstance(value, str):
        raise _Wrong(f"{_written(value)} is a text, and the unit is in the key's name: write a number of seconds")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Wrong(f"{_written(value)} is not a number of seconds")
    if not 0 < value <= _DURATION_S_MAX:
        raise _Wrong(f"{value} is out of range: write more than 0 seconds, and at most {_DURATION_S_MAX:.0f}")
    return float(value)


def _duration(words: Mapping[str, float]) -> _Read:
    others = "".join(f' or "{word}"' for word in words)

    def read(_reader: _Reader, _path: KeyPath, value: Any) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise _Wrong(f'{value} has no unit: write "{value}ms" or "{value}s"{others}')
        if not isinstance(value, str):
            raise _Wrong(f'{_written(value)} is not a duration: write one as "200ms", "5s", "10m" or "1h"{others}')
        if value in words:
            return words[value]
        parts = _DURATION.fullmatch(value)
        if parts is None:
            raise _Wrong(
                f'{_written(value)} is not a duration: write one as "200ms", "5s", "10m" or "1h"{others}; '
                f"{_nearest(value, words)}"
                if words
                else f'{_written(value)} is not a duration: write one as "200ms", "5s", "10m" or "1h"'
            )
        duration_s = float(parts[1]) * _SECONDS[parts[2]]
        if not 0 < duration_s <= _DURATION_S_MAX:
            raise _Wrong(f'{_written(value)} is out of range: write more than "0s", and at most "30d"{others}')
        return duration_s

    return read


def _one_of(*members: Enum) -> _Read:
    by_name = {str(member.value): member for member in members}

    def read(_reader: _Reader, _path: KeyPath, value: Any) -> Enum:
        if not isinstance(value, str) or value not in by_name:
            raise _Wrong(f"{_written(value)} is not possible; {_nearest(str(value), by_name)}")
        return by_name[value]

    return read


def _arguments(_reader: _Reader, _path: KeyPath, value: Any) -> str:
    if value not in ("strict", "lenient"):
        raise _Wrong(f"{_written(value)} is not possible; {_nearest(str(value), ('strict', 'lenient'))}")
    return str(value)


# The published names, and what `describe` calls them.
_BEHAVIOURS: Final = {
    "GenServer": "GenServer",
    "GenEvent": "GenEvent",
    "GenFSM": "GenStateMachine",
    "GenStateMachine": "GenStateMachine",
    "Workflow": "Workflow",
}
_BEHAVIOUR_NAMES: Final = ("GenServer", "GenEvent", "GenFSM", "Workflow")


def _behaviour(_reader: _Reader, _path: KeyPath, value: Any) -> str:
    if not isinstance(value, str) or value not in _BEHAVIOURS:
        plain = {name.lower(): name for name in _BEHAVIOURS}
        meant = plain.get(re.sub(r"[\W_]", "", str(value)).lower())
        hint = f"did you mean {meant!r}?" if meant else _nearest(str(value), _BEHAVIOUR_NAMES)
        raise _Wrong(f"{_written(value)} is no behaviour; {hint}")
    return _BEHAVIOURS[value]


def _table_of(value: Any, example: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong(f"{_written(value)} is not a table: write {example}")
    return value


def _tables_of(value: Any, example: str) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        raise _Wrong(f"this is one table, and there may be several: write {example}")
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise _Wrong(f"{_written(value)} is not a list of tables: write {example}")
    return value


def _written(value: Any) -> str:
    """A value as its author may have written it, short."""
    match value:
        case bool():
            return "true" if value else "false"
        case dict():
            return "a table"
        case list():
            return "a list"
        case str():
            return repr(value if len(value) <= 80 else value[:77] + "...")
        case _:
            return str(value)[:80]


def _json_object(reader: _Reader, path: KeyPath, value: Any) -> dict[str, Any]:
    content = _table_of(value, 'one, such as { name = "general" }')
    _check_json(reader, path, content, 0)
    return content


def _check_json(reader: _Reader, path: KeyPath, value: Any, depth: int) -> None:
    """Report what TOML has and JSON has not: an actor gets its arguments as JSON."""
    if depth > _VALUE_DEPTH_MAX:
        reader.issue(path, f"this is nested deeper than {_VALUE_DEPTH_MAX} levels")
        return
    match value:
        case dict():
            for name, each in value.items():
                _check_json(reader, (*path, name), each, depth + 1)
        case list():
            for position, each in enumerate(value):
                _check_json(reader, (*path, position), each, depth + 1)
        case bool() | str():
            pass
        case float():
            if not math.isfinite(value):
                reader.issue(path, f"{value} is no JSON: write a finite number")
        case int():
            if not -(2**63) <= value < 2**64:
                reader.issue(path, f"{str(value)[:80]} does not fit into 64 bits: write it as a text")
        case _:
            reader.issue(path, f"{value} is a date or a time, and JSON has none: write it as a text, in quotes")


def _labels(reader: _Reader, path: KeyPath, value: Any) -> dict[str, str]:
    content = _table_of(value, 'one of texts, such as { tier = "gold" }')
    for name, each in content.items():
        if not name or "=" in name:
            reader.issue((*path, name), "the name of a label is not empty and holds no '='")
        elif not isinstance(each, str) or not each:
            reader.issue((*path, name), f"{_written(each)} is not a text that a label can be: write one in quotes")
    return content


def _capabilities(_reader: _Reader, _path: KeyPath, value: Any) -> frozenset[str]:
    return parse_entries(value)


def _authorise(_reader: _Reader, _path: KeyPath, value: Any) -> dict[str, frozenset[str]]:
    try:
        return access.parse(value)
    except ValueError as error:
        raise _Wrong(str(error)) from None


# -- limits ------------------------------------------------------------------------------------------------

# Those that the node looks up per actor; the others are the node's or the tenant's.
_LIMITS: Final = (
    "memory_bytes_max",
    "cpu_ms_per_message_max",
    "wall_s_per_message_max",
    "mailbox_messages_max",
    "host_calls_per_message_max",
    "log_lines_per_message_max",
    "log_line_bytes_max",
    "state_bytes_max",
    "links_per_actor_max",
    "monitors_per_actor_max",
    "timers_per_actor_max",
    "groups_per_actor_max",
    "labels_per_actor_max",
    "ask_timeout_ms",
)
_UNITS: Final = (("_bytes_", "bytes"), ("_ms", "milliseconds"), ("_s_", "seconds"))


def _limit(name: str, low: float | None, high: float | None, *, whole: bool) -> _Read:
    def read(reader: _Reader, _path: KeyPath, value: Any) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            unit = next((unit for part, unit in _UNITS if part in name), "")
            wanted = f"{'whole ' if whole else ''}number{' of ' + unit if unit else ''}"
            raise _Wrong(f"{_written(value)} is not a {wanted}: write one without quotes")
        if not math.isfinite(value) or (low is not None and value < low):
            raise _Wrong(f"{value} is out of range: at least {low}")
        if high is not None and value > high:
            raise _Wrong(f"{value} is out of range: at most {high}")
        if reader.limits is not None and value > (most := getattr(reader.limits, name)):
            raise _Wrong(f"{value} is more than the node allows: at most {most} ({name} of its own configuration)")
        return value if whole else float(value)

    return read


def _limit_keys(names: Iterable[str]) -> Iterator[_Key]:
    hints = get_type_hints(Limits)
    by_name = {each.name: each for each in fields(Limits)}
    for name in names:
        meta, whole = by_name[name].metadata, hints[name] is int
        unit = next((unit for part, unit in _UNITS if part in name), "")
        yield _Key(
            name,
            "whole number" if whole else "number",
            "the node's",
            meta["doc"],
            _limit(name, meta["low"], meta["high"], whole=whole),
            unit=unit,
        )


def _limits(reader: _Reader, path: KeyPath, value: Any) -> dict[str, Any]:
    content = _table_of(value, "one, such as { mailbox_messages_max = 100 }")
    values = reader.table(path, content, _LIMIT_KEYS, where="limits")
    return {name: each for name, each in values.items() if each is not None}


# -- facets ------------------------------------------------------------------------------------------------


def _facet_type(reader: _Reader, path: KeyPath, value: Any) -> str:
    name = _named("facet")(reader, path, value)
    if reader.facet_types is not None and name not in reader.facet_types:
        raise _Wrong(f"there is no facet {name!r}; {_nearest(name, reader.facet_types)}")
    return str(name)


def _checked_by(check: Callable[[Mapping[str, Any]], object]) -> _Read:
    return lambda _reader, _path, value: check(value)


def _priority(_reader: _Reader, _path: KeyPath, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1_000:
        raise _Wrong(f"{_written(value)} is not a whole number from 0 to 1000")
    return value


def _facets(reader: _Reader, path: KeyPath, value: Any) -> tuple[FacetConfig, ...]:
    found: list[FacetConfig] = []
    for position, each in enumerate(_tables_of(value, '[{ type = "virtual_actor" }]')):
        at = (*path, position)
        if isinstance(each.get("type"), str):
            reader.call(at, each["type"][:60])
        values = reader.table(at, each, _FACET, where="a facet")
        name, config = values["type"], values["config"]
        if name in [other.type for other in found]:
            reader.issue(at, f"the actor has the facet {name!r} twice: leave one out")
        elif name and reader.facet_types is not None:
            reader.read((*at, "config"), config, _checked_by(reader.facet_types[name]), None)
        found.append(FacetConfig(name, values["priority"], config))
    return tuple(found)


# -- the tree ----------------------------------------------------------------------------------------------


def _backoff(reader: _Reader, path: KeyPath, value: Any) -> Backoff | None:
    content = _table_of(value, '{ initial = "200ms", max = "30s" }')
    before = len(reader.issues)
    values = reader.table(path, content, _BACKOFF, where="backoff")
    if len(reader.issues) > before:
        return None
    if values["initial"] > values["max"]:
        raise _Wrong("initial is longer than max: the first pause is the shortest")
    return Backoff(values["initial"], values["max"])


def _supervisor(reader: _Reader, path: KeyPath, value: Any) -> SupervisorConfig:
    shown = "[supervisor]" if len(path) == 1 else "[supervisor.children.supervisor]"
    content = _table_of(value, f"a table {shown}")
    if sum(part == "supervisor" for part in path) > SUPERVISOR_DEPTH_MAX:
        raise _Wrong(f"supervisors are nested deeper than {SUPERVISOR_DEPTH_MAX} levels")
    values = reader.table(path, content, _SUPERVISOR, where="a supervisor")
    supervisor = SupervisorConfig(
        strategy=values["strategy"],
        restarts_max=values["max_restarts"],
        window_s=values["max_restart_window_seconds"],
        auto_shutdown=values["auto_shutdown"],
        backoff=values["backoff"],
        children=values["children"],
    )
    _check_supervisor(reader, path, content, supervisor)
    return supervisor


def _check_supervisor(reader: _Reader, path: KeyPath, content: Mapping[str, Any], supervisor: SupervisorConfig) -> None:
    """What no key can know of alone.  OTP refuses the same (supervisor:check_childspecs/2)."""
    written = content.get("children")
    if isinstance(written, list) and not written:
        reader.issue((*path, "children"), "the supervisor has no children: add one, or leave the supervisor out")
    if supervisor.strategy is Strategy.SIMPLE_ONE_FOR_ONE and isinstance(written, list):
        if len(written) > 1:
            reader.issue(
                (*path, "strategy"),
                f"simple_one_for_one has exactly one child, the pattern of those to come, and here are {len(written)}: "
                "write one_for_one, or leave one child",
            )
        elif any(child.supervisor is not None for child in supervisor.children):
            reader.issue((*path, "children", 0), "the one child of simple_one_for_one is an actor, not a supervisor")
    for position, child in enumerate(supervisor.children):
        at = (*path, "children", position, "significant")
        if not child.significant:
            continue
        if supervisor.auto_shutdown is AutoShutdown.NEVER:
            reader.issue(
                at,
                "a significant child says nothing while auto_shutdown is never: set auto_shutdown of its supervisor to "
                "any_significant or all_significant, or leave significant out",
            )
        if child.restart is RestartPolicy.PERMANENT:
            reader.issue(
                at,
                'a permanent child never ends for good: write restart = "transient" or "temporary" beside significant',
            )


def _children(reader: _Reader, path: KeyPath, value: Any) -> tuple[ChildConfig, ...]:
    found: list[ChildConfig] = []
    siblings: dict[str, KeyPath] = {}
    for position, content in enumerate(_tables_of(value, "each as [[supervisor.children]]")):
        at = (*path, position)
        if isinstance(content.get("name"), str):
            reader.call(at, content["name"][:60])
        child = _child(reader, at, content)
        found.append(child)
        if not child.name:
            continue
        if (first := siblings.setdefault(child.name, at)) != at:
            reader.issue(
                (*at, "name"),
                f"another child is called {child.name!r}, in line {reader.line(first)}: give each its own name",
            )
        elif "supervisor" not in content and (first := reader.actors.setdefault(child.name, at)) != at:
            reader.issue(
                (*at, "name"),
                f"another actor is called {child.name!r}, in line {reader.line(first)}: an actor's name is its type in "
                "the namespace, so give each its own",
            )
    return tuple(found)


def _child(reader: _Reader, path: KeyPath, content: Mapping[str, Any]) -> ChildConfig:
    kind, other = ("supervisor", "actor") if "supervisor" in content else ("actor", "supervisor")
    foreign = {key.name for key in _CHILD if key.of == other}
    for name in content:
        if name in foreign:
            reader.issue(
                (*path, name),
                "this child is a supervisor, and only actors have this: give it to one of its children",
            )
    own = [key for key in _CHILD if key.of in ("", kind)]
    values = reader.table(path, {k: v for k, v in content.items() if k not in foreign}, own, where=f"a child ({kind})")
    shutdown_s = values["shutdown"]
    if shutdown_s is None:
        shutdown_s = INFINITY if kind == "supervisor" else SHUTDOWN_S
    names = {each.name for each in fields(ChildConfig)}
    return ChildConfig(
        shutdown_s=shutdown_s,
        line=reader.line(path),
        **{name: value for name, value in values.items() if name in names},
    )


def _component_of(reader: _Reader, path: KeyPath, value: Any) -> str:
    name = _text(reader, path, value)
    if name not in reader.components:
        known = f"; {_nearest(name, reader.components)}" if reader.components else ": add it as [[components]]"
        raise _Wrong(f"there is no component {name[:60]!r}{known}")
    return name


def _components(reader: _Reader, path: KeyPath, value: Any) -> tuple[ComponentConfig, ...]:
    found = []
    for position, content in enumerate(_tables_of(value, "each as [[components]]")):
        at = (*path, position)
        if isinstance(content.get("name"), str):
            reader.call(at, content["name"][:60])
        values = reader.table(at, content, _COMPONENT, where="a component")
        name, wasm, source = values["name"], values["path"], values["source"]
        if ("path" in content) == ("source" in content):
            both = "has path and source: keep one" if "path" in content else "needs its code"
            reader.issue(at, f"the component {both}: path = a built .wasm, source = an actor's .py file or directory")
        line = reader.line(at)
        if name and reader.components.setdefault(name, position) != position:
            reader.issue((*at, "name"), f"another component is called {name!r}: give each its own name")
        found.append(ComponentConfig(name, wasm, source, line))
    if not found:
        raise _Wrong("there are no components: add one as [[components]]")
    return tuple(found)


def _isolation(_reader: _Reader, _path: KeyPath, value: Any) -> str:
    if value == MICROVM:
        raise _Wrong(microvm.unavailable())
    if value not in ISOLATIONS:
        raise _Wrong(f"{_written(value)} is not possible; {_nearest(str(value), ISOLATIONS)}")
    return str(value)


def _application(reader: _Reader, path: KeyPath, value: Any) -> dict[str, Any]:
    return reader.table(path, _table_of(value, "a table [application]"), _APPLICATION, where="[application]")


def _links(reader: _Reader, path: KeyPath, value: Any) -> dict[str, Link]:
    links: dict[str, Link] = {}
    for name, content in _table_of(value, "each link as [links.NAME]").items():
        at = (*path, name)
        if not isinstance(content, dict):
            reader.issue(at, f"{_written(content)} is not a table: write [links.{name[:60]}], and its keys below it")
            continue
        if "tenants" in content:
            reader.issue((*at, "tenants"), "an application's links are its tenant's: only the node's own name tenants")
            content = {key: each for key, each in content.items() if key != "tenants"}
        if "ca_file" in content:
            # A path on the node's machine is not a tenant's to name.
            reader.issue((*at, "ca_file"), "whom to believe is said by the node's own links: leave it out")
            content = {key: each for key, each in content.items() if key != "ca_file"}
        try:
            links[name] = parse_link(name, content)
        except LinkIssues as wrong:
            for issue in wrong.issues:
                reader.issue((*at, *issue.path), issue.text)
    return links


# -- the keys ----------------------------------------------------------------------------------------------

_APPLICATION: Final = (
    _Key(
        "name",
        "name",
        "required",
        "What it is called: unique in the tenant, and how it is redeployed and undeployed.",
        _named("application"),
        "",
    ),
    _Key("namespace", "name", '"default"', "The namespace of its actors.", _named("namespace"), "default"),
    _Key(
        "isolation",
        "`none` or `process`",
        "the node's",
        "Where its actors run: in the node's process, or in one of their own.",
        _isolation,
        "",
    ),
    *(key for key in _limit_keys(("process_memory_bytes_max",))),
)

_COMPONENT: Final = (
    _Key("name", "name", "required", "What children call it by in `actor_type`.", _named("component"), ""),
    _Key("path", "text", "", "A built component (.wasm), relative to this file.", _text),
    _Key("source", "text", "", "An actor's source, a .py file or a directory, relative to this file.", _text),
)

_BACKOFF: Final = (
    _Key("initial", "duration", "required", "The pause before the first restart in the window.", _duration({})),
    _Key("max", "duration", "required", "The longest pause; each is twice the one before.", _duration({})),
)

_FACET: Final = (
    _Key("type", "name", "required", "Which facet.", _facet_type, ""),
    _Key("priority", "whole number, 0 to 1000", "the type's", "The higher, the further out.", _priority),
    _Key("config", "table", "{}", "What the facet's type wants to know.", _json_object, {}),
)

_LIMIT_KEYS: Final = tuple(_limit_keys(_LIMITS))

_CHILD: Final = (
    _Key(
        "name",
        "name",
        "required",
        "Unique among its siblings. An actor's is its type, and unique in the application.",
        _named("child"),
        "",
    ),
    _Key(
        "actor_type", "text", "required", "The component that holds its code, by name.", _component_of, "", of="actor"
    ),
    _Key(
        "role",
        "text",
        "the only one, or the one called like the child",
        "Which of the component's actors.",
        _text,
        "",
        of="actor",
    ),
    _Key(
        "behavior_kind",
        "`GenServer`, `GenEvent`, `GenFSM` or `Workflow`",
        "",
        "What the actor has to be; another one is refused.",
        _behaviour,
        "",
        of="actor",
    ),
    _Key("args", "table", "{}", "Handed to the actor's `@init_handler`, as JSON.", _json_object, {}, of="actor"),
    _Key(
        "capabilities",
        "list of texts",
        '["default"]',
        "What it may ask of the host: see [Capabilities](capabilities.md).",
        _capabilities,
        of="actor",
    ),
    _Key("facets", "list of tables", "[]", "What is wrapped around it.", _facets, (), of="actor"),
    _Key(
        "arguments",
        "`strict` or `lenient`",
        '"strict"',
        "Whether a message with unknown arguments is refused, or they are ignored.",
        _arguments,
        "strict",
        of="actor",
    ),
    _Key("labels", "table of texts", "{}", "What the registry finds it by.", _labels, {}, of="actor"),
    _Key(
        "shared_keys",
        "true or false",
        "false",
        "All actors of the type have one key-value space instead of one each.",
        _boolean,
        False,
        of="actor",
    ),
    _Key("limits", "table", "{}", "Limits of its own, at most those of the node.", _limits, {}, of="actor"),
    _Key(
        "authorise",
        "table of lists",
        "{}",
        "Roles, or scopes as `scope:NAME`, of which a caller needs one, by operation; `*` is for all others.",
        _authorise,
        {},
        of="actor",
    ),
    _Key(
        "restart",
        "`permanent`, `transient` or `temporary`",
        '"permanent"',
        "Whether it is started again when it ends.",
        _one_of(*RestartPolicy),
        RestartPolicy.PERMANENT,
    ),
    _Key(
        "shutdown",
        "duration, `brutal_kill` or `infinity`",
        '"5s"; of a supervisor "infinity"',
        "How long it may take to end when it is told to.",
        _duration({"brutal_kill": BRUTAL_KILL, "infinity": INFINITY}),
    ),
    _Key(
        "significant",
        "true or false",
        "false",
        "Its orderly end counts for `auto_shutdown`; not for a permanent one.",
        _boolean,
        False,
    ),
    _Key(
        "supervisor",
        "table",
        "",
        "Makes the child a supervisor, with the keys of `[supervisor]`.",
        _supervisor,
        of="supervisor",
    ),
)

_SUPERVISOR: Final = (
    _Key(
        "strategy",
        "`one_for_one`, `one_for_all`, `rest_for_one` or `simple_one_for_one`",
        '"one_for_one"',
        "Who is started again besides the child that ended.",
        _one_of(*Strategy),
        Strategy.ONE_FOR_ONE,
    ),
    _Key(
        "max_restarts",
        "whole number",
        "10",
        "More restarts than this within the window end the supervisor.",
        _whole(0),
        10,
    ),
    _Key("max_restart_window_seconds", "number", "60", "The window.", _seconds, 60.0, unit="seconds"),
    _Key(
        "auto_shutdown",
        "`never`, `any_significant` or `all_significant`",
        '"never"',
        "Whether the end of significant children ends the supervisor.",
        _one_of(*AutoShutdown),
        AutoShutdown.NEVER,
    ),
    _Key(
        "backoff",
        "table",
        "",
        'A pause before each restart, as `{ initial = "200ms", max = "30s" }`; without it there is none.',
        _backoff,
    ),
    _Key("children", "list of tables", "required", "In the order of starting.", _children, ()),
)

# Components first: children name them.
_ROOT: Final = (
    _Key("application", "table", "required", "What the application is called.", _application, {}),
    _Key("components", "list of tables", "required", "The code of its actors.", _components, ()),
    _Key("links", "table of tables", "", "Its actors' ways out, each as `[links.NAME]`.", _links, {}),
    _Key("supervisor", "table", "required", "The tree of its actors.", _supervisor),
)

_TABLES: Final[tuple[tuple[str, tuple[_Key, ...]], ...]] = (
    ("[application]", _APPLICATION),
    ("[[components]]", _COMPONENT),
    ("[supervisor]", _SUPERVISOR),
    ("[supervisor.backoff]", _BACKOFF),
    ("[[supervisor.children]]", _CHILD),
    ("[[supervisor.children.facets]]", _FACET),
    ("[supervisor.children.limits]", _LIMIT_KEYS),
)


class _JsonReader(_Reader):
    """Reads what comes as JSON, where a key has a place but no line."""

    def __init__(self, facet_types: FacetTypes | None, limits: Limits | None) -> None:
        super().__init__("config", Lines(""), facet_types, limits)

    def issue(self, path: KeyPath, text: str) -> None:
        shown = self._shown(path)
        self.issues.append((0, f"config: {shown + ': ' if shown else ''}{text}"))


def read_actor_keys(
    content: Mapping[str, Any], names: Iterable[str], *, facet_types: FacetTypes | None, limits: Limits | None
) -> dict[str, Any]:
    """Some keys of a child that is an actor, from the configuration of a type that is deployed on its own.

    Raises:
        InvalidArgument: the message tells of all that is wrong.
    """
    reader = _JsonReader(facet_types, limits)
    wanted = set(names)
    keys = [key for key in _CHILD if key.name in wanted]
    values = reader.table((), {name: content[name] for name in wanted & content.keys()}, keys, where="config")
    if reader.issues:
        raise InvalidArgument("; ".join(issue for _, issue in reader.issues))
    return values


def reference() -> Iterator[KeyInfo]:
    """Every key there is, table by table."""
    for table, keys in _TABLES:
        for key in keys:
            yield KeyInfo(table, key.name, key.type, key.unit, key.default, key.doc)
