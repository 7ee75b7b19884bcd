"""Runs, signals and queries are told from other messages by the names of their handlers."""

from __future__ import annotations

from typing import Any

import pytest

from plexspaces import handler, query_handler, run_handler, signal_handler, workflow_actor
from plexspaces.definition import ActorDefinition
from plexspaces_runtime.actors.envelope import Envelope, Kind
from plexspaces_runtime.actors.exits import crashed
from plexspaces_runtime.actors.guest import Result, Trapped
from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import InvalidArgument
from plexspaces_runtime.events import EventBus
from plexspaces_runtime.facets.kind import FacetContext
from plexspaces_runtime.facets.workflow import Workflow, WorkflowType, describe_kinds
from plexspaces_runtime.scope import Address, Scope

TRIP = Address(Scope("acme", "default"), "trip", "lisbon")


class Conductor:
    """Keeps what it hears; takes queries."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def divert(self, address: Address, envelope: Envelope) -> bool:
        self.heard.append(("divert", address, envelope.kind, envelope.op))
        return envelope.kind is Kind.QUERY

    def started(self, address: Address) -> None:
        self.heard.append(("started", address))

    def handled(self, address: Address, envelope: Envelope, result: Result) -> None:
        self.heard.append(("handled", address, envelope.op, result))

    def report(self, address: Address) -> dict[str, Any]:
        return {"of": address.text}


@workflow_actor
class Trip:
    @run_handler
    def run(self) -> None: ...

    @signal_handler("approve")
    def approve(self) -> None: ...

    @query_handler("stage")
    def stage(self) -> str:
        return ""

    @handler("ping")
    def ping(self) -> str:
        return "pong"


@workflow_actor
class Plain:
    def run(self, payload: dict) -> None: ...

    def query(self, name: str, params: dict) -> str:
        return name


def facet(cls: type) -> tuple[Workflow, Conductor]:
    conductor = Conductor()
    type_ = WorkflowType(conductor)
    config = type_.parse(describe_kinds(ActorDefinition.of(cls).describe()))
    return type_.build(FacetContext(TRIP, ManualClock(), EventBus(), Limits()), config), conductor


@pytest.mark.parametrize(
    ("cls", "sent", "op", "meant"),
    [
        (Trip, Kind.CALL, "run", Kind.RUN),
        (Trip, Kind.CAST, "run", Kind.RUN),
        (Trip, Kind.CALL, "stage", Kind.QUERY),
        (Trip, Kind.CAST, "stage", Kind.CAST),
        (Trip, Kind.CALL, "approve", Kind.SIGNAL),
        (Trip, Kind.CAST, "approve", Kind.SIGNAL),
        (Trip, Kind.CALL, "ping", Kind.CALL),
        (Trip, Kind.CALL, "unknown", Kind.CALL),
        (Trip, Kind.INFO, "run", Kind.INFO),
        (Trip, Kind.SIGNAL, "ping", Kind.SIGNAL),
        (Plain, Kind.CALL, "anything", Kind.QUERY),
        (Plain, Kind.CALL, "run", Kind.RUN),
    ],
)
def test_what_a_message_means(cls: type, sent: Kind, op: str, meant: Kind) -> None:
    workflow, conductor = facet(cls)
    envelope = Envelope("m-1", sent, op, "{}")
    taken = workflow.divert(envelope)
    assert envelope.kind is meant
    told = meant in (Kind.RUN, Kind.SIGNAL, Kind.QUERY)
    assert conductor.heard == ([("divert", TRIP, meant, op)] if told else [])
    assert taken is (meant is Kind.QUERY)


def test_only_the_end_of_a_run_is_told() -> None:
    workflow, conductor = facet(Trip)
    end = Trapped(crashed("ValueError", "no"))
    for kind in (Kind.CALL, Kind.QUERY, Kind.SIGNAL, Kind.RUN):
        workflow.handled(Envelope("m-1", kind, "op", "{}"), end, 0)
    workflow.started()
    assert conductor.heard == [("handled", TRIP, "op", end), ("started", TRIP)]
    assert workflow.report() == {"of": "trip/lisbon"}


def test_a_configuration_of_something_else_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="has no setting 'runs'; did you mean 'run'"):
        WorkflowType(Conductor()).parse({"runs": []})
