"""Which types of facets there are, built in and from installed packages, and how an actor's are joined to a chain."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, Final, Protocol

from ..clock import Clock
from ..config import ConfigError, Limits
from ..errors import InvalidArgument
from ..events import EventBus
from ..scope import Address
from .authorisation import AuthorisationType
from .contained import Contained
from .kind import Chain, FacetContext, FacetType
from .metrics import MetricsType
from .rate_limit import RateLimitType
from .settings import nearest
from .virtual_actor import Residents, VirtualActorConfig, VirtualActorType
from .workflow import NAME as WORKFLOW

GROUP: Final = "plexspaces.facets"
_SPELLINGS: Final = {"authorization": "authorisation"}


class FacetEntry(Protocol):
    """One facet as an application's configuration has it."""

    @property
    def type(self) -> str:
        """The name of its type."""

    @property
    def priority(self) -> int | None:
        """Where it stands; None for where its type stands."""

    @property
    def config(self) -> Mapping[str, Any]:
        """As it was written."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A facet that an actor is to have, with its configuration read.

    Attributes:
        custom: it comes from an installed package.
    """

    name: str
    type: FacetType[Any]
    config: Any
    priority: int
    custom: bool


class FacetRegistry:
    """All types of facets that a node knows.

    Args:
        residents: keeps virtual actors.
        durability: the type of facet that makes actors durable.
        workflow: the type of facet that all workflows have; None for a node without any.
        entry_points: where custom ones come from; those of the installed packages by default.

    Raises:
        ConfigError: an entry point does not import, is no `FacetType`, or takes a name that is taken; every one.
    """

    def __init__(
        self,
        residents: Residents,
        durability: FacetType[Any],
        *,
        clock: Clock,
        events: EventBus,
        limits: Limits,
        workflow: FacetType[Any] | None = None,
        entry_points: Iterable[EntryPoint] | None = None,
    ) -> None:
        self._clock = clock
        self._events = events
        self._limits = limits
        self._types: dict[str, FacetType[Any]] = {
            "virtual_actor": VirtualActorType(residents),
            "durability": durability,
            "authorisation": AuthorisationType(),
            "rate_limit": RateLimitType(),
            "metrics": MetricsType(),
        }
        if workflow is not None:
            self._types[WORKFLOW] = workflow
        self._built_in = frozenset(self._types)
        self._load(importlib.metadata.entry_points(group=GROUP) if entry_points is None else entry_points)

    @property
    def names(self) -> tuple[str, ...]:
        """All types, those built in first."""
        return tuple(self._types)

    @property
    def parsers(self) -> dict[str, Callable[[Mapping[str, Any]], object]]:
        """What checks a configuration, by every spelling of a type's name; see `FacetType.parse`."""
        spellings = {name: name for name in self._types} | _SPELLINGS
        return {spelling: self._types[name].parse for spelling, name in spellings.items()}

    def parse_all(self, entries: Sequence[FacetEntry]) -> tuple[Chosen, ...]:
        """Check an actor's facets and put them in their order: the higher its priority, the further out; of the same
        priority, the first written.

        Raises:
            InvalidArgument: a type is unknown or written twice, or a configuration is wrong.
        """
        chosen: dict[str, Chosen] = {}
        for entry in entries:
            name = _SPELLINGS.get(entry.type, entry.type)
            type_ = self._types.get(name)
            if type_ is None:
                raise InvalidArgument(f"there is no facet {entry.type!r}; {nearest(entry.type, self._types)}")
            if name in chosen:
                raise InvalidArgument(f"facet {name!r} is given twice: keep one", facet=name)
            priority = type_.priority if entry.priority is None else entry.priority
            chosen[name] = Chosen(name, type_, type_.parse(entry.config), priority, name not in self._built_in)
        return tuple(sorted(chosen.values(), key=lambda each: -each.priority))

    def chain(self, entries: Sequence[FacetEntry], address: Address) -> Chain | None:
        """The facets of one actor; None if it has none.

        Raises:
            InvalidArgument: see `parse_all`.
        """
        if not entries:
            return None
        context = FacetContext(address, self._clock, self._events, self._limits)
        named = []
        for each in self.parse_all(entries):
            facet = each.type.build(context, each.config)
            if facet is not None:
                hull = Contained(facet, each.name, address, self._events) if each.custom else facet
                named.append((each.name, hull))
        return Chain(tuple(named)) if named else None

    def is_eager(self, entries: Sequence[FacetEntry]) -> bool:
        """Whether a virtual actor with these facets is activated before anybody names it.

        Raises:
            InvalidArgument: see `parse_all`.
        """
        return any(
            isinstance(each.config, VirtualActorConfig) and each.config.eager for each in self.parse_all(entries)
        )

    def _load(self, entry_points: Iterable[EntryPoint]) -> None:
        issues: list[str] = []
        for entry in entry_points:
            package = entry.dist.name if entry.dist is not None else "an unnamed package"
            where = f"facet {entry.name!r} of package {package} ({entry.value})"
            if entry.name in self._types or entry.name in _SPELLINGS:
                issues.append(f"{where}: there is a facet of this name already; uninstall one of the two")
                continue
            try:
                loaded = entry.load()
                type_ = loaded() if isinstance(loaded, type) else loaded
            except Exception as error:  # noqa: BLE001 - the boundary to foreign code
                text = f"{type(error).__name__}: {error}"
                issues.append(f"{where}: cannot be loaded: {text}; mend or uninstall the package")
                continue
            if not isinstance(type_, FacetType):
                issues.append(
                    f"{where}: is a {type(type_).__name__}, not a plexspaces_runtime.facets.kind.FacetType; "
                    "mend or uninstall the package"
                )
                continue
            self._types[entry.name] = type_
        if issues:
            raise ConfigError(issues)
