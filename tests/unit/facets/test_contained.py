"""A facet from outside may do anything wrong, and only its own messages notice."""

from __future__ import annotations

from typing import Any

import pytest

from plexspaces_runtime.actors.envelope import Envelope
from plexspaces_runtime.actors.exits import Exit
from plexspaces_runtime.actors.facets import Facet
from plexspaces_runtime.actors.guest import Result
from plexspaces_runtime.errors import InternalError, RateLimited
from plexspaces_runtime.events import FacetFault, NodeFault
from plexspaces_runtime.facets.contained import Contained
from plexspaces_runtime.facets.kind import Chain
from plexspaces_runtime.scope import Address
from tests.unit.scripted import SCOPE, Bench, returns


class Clumsy(Facet):
    """Fails wherever it is told to, and counts what it is asked."""

    def __init__(self, *fails: str) -> None:
        self.fails = set(fails)
        self.seen: list[str] = []

    def _do(self, hook: str) -> None:
        self.seen.append(hook)
        if hook in self.fails:
            raise ZeroDivisionError(hook)

    def admit(self, envelope: Envelope) -> None:
        if envelope.op == "refuse":
            raise RateLimited("not now", retry_after_ms=5)
        self._do("admit")

    def started(self) -> None:
        self._do("started")

    def handled(self, envelope: Envelope, result: Result, cpu_ns: int) -> None:
        self._do("handled")

    def ended(self, exit_: Exit) -> None:
        self._do("ended")

    def report(self) -> dict[str, Any]:
        self._do("report")
        return {"seen": len(self.seen)}


def chain(bench: Bench, facet: Facet) -> Chain:
    return Chain((("clumsy", Contained(facet, "clumsy", Address(SCOPE, "a"), bench.events)),))


def faults(bench: Bench) -> list[FacetFault]:
    assert not [event for event in bench.seen if isinstance(event, NodeFault)]
    return [event for event in bench.seen if isinstance(event, FacetFault)]


@pytest.mark.parametrize("hook", ["started", "handled", "ended"])
async def test_a_hook_that_fails_is_told_once_and_the_actor_goes_on(hook: str) -> None:
    bench, facet = Bench(), Clumsy(hook)
    actor = await bench.start("a", handle=returns("1"), facets=chain(bench, facet))
    assert [await bench.ask(actor), await bench.ask(actor)] == ["1", "1"]
    bench.scheduler.kill(actor)
    assert hook in facet.seen
    (fault,) = faults(bench)
    assert (fault.address, fault.facet, fault.hook) == (actor.address, "clumsy", hook)
    assert fault.message == f"ZeroDivisionError: {hook}"
    assert "in _do" in fault.traceback


async def test_a_message_that_could_not_be_judged_is_refused_and_the_next_is_let_in() -> None:
    bench, facet = Bench(), Clumsy("admit")
    actor = await bench.start("a", handle=returns("1"), facets=chain(bench, facet))
    for _ in range(3):
        with pytest.raises(InternalError, match="facet 'clumsy' of actor 'a' failed"):
            bench.cast(actor)
    assert len(faults(bench)) == 1
    facet.fails.clear()
    assert await bench.ask(actor) == "1"


async def test_its_own_refusals_reach_the_sender_and_are_no_fault() -> None:
    bench = Bench()
    actor = await bench.start("a", handle=returns("1"), facets=chain(bench, Clumsy()))
    with pytest.raises(RateLimited, match="not now"):
        bench.cast(actor, "refuse")
    assert faults(bench) == []


async def test_a_report_that_fails_is_an_empty_one() -> None:
    bench = Bench()
    assert chain(bench, Clumsy()).report() == {"clumsy": {"seen": 1}}
    assert chain(bench, Clumsy("report")).report() == {"clumsy": {}}
    assert len(faults(bench)) == 1
