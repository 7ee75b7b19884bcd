"""Counts what an actor does: messages by operation and outcome, and the processor time they took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from ..actors.envelope import Envelope
from ..actors.exits import Reason
from ..actors.facets import Facet
from ..actors.guest import Failure, Result, Trapped
from .kind import FacetContext, FacetType
from .settings import Settings

# Senders choose operations' names: beyond these many, the rest is counted together.
OPERATIONS_MAX: Final = 100
OTHERS: Final = "(others)"


def outcome(result: Result) -> str:
    """What came of a message, in a word: `ok`, `refused`, `crashed`, `limit` or `killed`."""
    match result:
        case Trapped(exit_):
            match exit_.reason:
                case Reason.CRASHED | Reason.NONDETERMINISM:
                    return "crashed"
                case Reason.LIMIT:
                    return "limit"
                case _:
                    return "killed"
        case Failure():
            return "refused"
        case _:
            return "ok"


class _Operation:
    """The figures of one operation."""

    __slots__ = ("cpu_max_ns", "cpu_ns", "outcomes")

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.cpu_ns = 0
        self.cpu_max_ns = 0


class Metrics(Facet):
    """The figures of one actor, all its incarnations together."""

    __slots__ = ("_operations", "_starts")

    def __init__(self) -> None:
        self._operations: dict[str, _Operation] = {}
        self._starts = 0

    def started(self) -> None:
        self._starts += 1

    def handled(self, envelope: Envelope, result: Result, cpu_ns: int) -> None:
        figures = self._operations.get(envelope.op) or self._enter(envelope.op)
        figures.outcomes[outcome(result)] += 1
        figures.cpu_ns += cpu_ns
        figures.cpu_max_ns = max(figures.cpu_max_ns, cpu_ns)

    def _enter(self, operation: str) -> _Operation:
        name = operation if len(self._operations) < OPERATIONS_MAX else OTHERS
        return self._operations.setdefault(name, _Operation())

    def report(self) -> dict[str, Any]:
        return {
            "starts": self._starts,
            "operations": {
                name: {
                    "outcomes": dict(figures.outcomes),
                    "cpu_ms": figures.cpu_ns / 1e6,
                    "cpu_ms_max": figures.cpu_max_ns / 1e6,
                }
                for name, figures in self._operations.items()
            },
        }


class MetricsType(FacetType[None]):
    """See the module."""

    priority = 60

    def parse(self, config: Mapping[str, Any]) -> None:
        Settings("metrics", config, ())

    def build(self, context: FacetContext, config: None) -> Metrics:
        return Metrics()
