"""The facet `workflow`: what a run, a signal and a query are to an actor that is one of the workflows.

Every actor whose component says that it is a `Workflow` has it.  It tells runs, signals and queries by their names, so
that any actor or client can send them, and hands them to whoever conducts the runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ..actors.envelope import Envelope, Kind
from ..actors.facets import Facet
from ..actors.guest import Result
from ..scope import Address
from .kind import FacetContext, FacetType
from .settings import Settings

NAME: Final = "workflow"
ANY: Final = "*"


class Conductor(Protocol):
    """What conducts the runs."""

    def divert(self, address: Address, envelope: Envelope) -> bool:
        """A run, signal or query for an actor; True if it has been taken in another way than as a message.

        Raises:
            PlexSpacesError: it is refused.
        """

    def started(self, address: Address) -> None:
        """An incarnation is ready."""

    def handled(self, address: Address, envelope: Envelope, result: Result) -> None:
        """A run, as a message, is done."""

    def report(self, address: Address) -> dict[str, Any]:
        """What an operator may see."""


@dataclass(frozen=True, slots=True)
class WorkflowConfig:
    """Attributes:
    kinds: by operation, what it is: `run`, `signal` or `query`; `ANY` stands for those that have no handler.
    handlers: the other operations.
    """

    kinds: Mapping[str, Kind]
    handlers: frozenset[str]


class Workflow(Facet):
    """The facet of one workflow."""

    __slots__ = ("_address", "_conductor", "_config")

    def __init__(self, address: Address, config: WorkflowConfig, conductor: Conductor) -> None:
        self._address = address
        self._config = config
        self._conductor = conductor

    def divert(self, envelope: Envelope) -> bool:
        if envelope.kind is Kind.CALL or envelope.kind is Kind.CAST:
            self._tell_kind(envelope)
        if envelope.kind in (Kind.RUN, Kind.SIGNAL, Kind.QUERY):
            return self._conductor.divert(self._address, envelope)
        return False

    def _tell_kind(self, envelope: Envelope) -> None:
        config = self._config
        if envelope.op in config.handlers:
            return
        kind = config.kinds.get(envelope.op) or config.kinds.get(ANY)
        # Nobody waits for the answer to a query that is only told.
        if kind is not None and not (kind is Kind.QUERY and envelope.kind is Kind.CAST):
            envelope.kind = kind

    def started(self) -> None:
        self._conductor.started(self._address)

    def handled(self, envelope: Envelope, result: Result, cpu_ns: int) -> None:
        if envelope.kind is Kind.RUN:
            self._conductor.handled(self._address, envelope, result)

    def report(self) -> dict[str, Any]:
        return self._conductor.report(self._address)


class WorkflowType(FacetType[WorkflowConfig]):
    """See the module."""

    # Around durability: a run that is under way is not another message.
    priority = 95

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def parse(self, config: Mapping[str, Any]) -> WorkflowConfig:
        settings = Settings(NAME, config, ("run", "signal", "query", "handlers"))
        kinds = {op: kind for kind in (Kind.QUERY, Kind.SIGNAL, Kind.RUN) for op in settings.names(kind.value)}
        return WorkflowConfig(kinds, settings.names("handlers"))

    def build(self, context: FacetContext, config: WorkflowConfig) -> Workflow:
        return Workflow(context.address, config, self._conductor)


def describe_kinds(role: Mapping[str, Any]) -> dict[str, list[str]]:
    """The facet's configuration, from what a component says of one of its roles."""
    found: dict[str, list[str]] = {"run": [], "signal": [], "query": [], "handlers": []}
    for op, handler in role["handlers"].items():
        kinds = handler.get("kind") or []
        found[kinds[0] if len(kinds) == 1 and kinds[0] in ("run", "signal", "query") else "handlers"].append(op)
    return found
