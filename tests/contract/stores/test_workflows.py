"""The contract of runs, signals and promises, over every implementation; what is on disk is there again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import Conflict, DeadlineExceeded, InvalidArgument, LimitExceeded, NotFound
from plexspaces_runtime.ids import SeededIds
from plexspaces_runtime.scope import Address, Scope
from plexspaces_runtime.stores.promises import MemoryPromises, Promises, SqlitePromises
from plexspaces_runtime.stores.quotas import Quotas
from plexspaces_runtime.stores.workflows import (
    BACKOFF_MS_MAX,
    MemoryWorkflows,
    SqliteWorkflows,
    Status,
    WorkflowRun,
    Workflows,
)

from .backends import backends

SCOPE = Scope("acme", "default")
TRIP = Address(SCOPE, "trip", "lisbon")


class Bed:
    """Both stores on one backend, with a clock in the hand."""

    def __init__(self, backend: Any, clock: ManualClock, **limits: Any) -> None:
        self.backend, self.clock, self.limits = backend, clock, Limits(**limits)
        self.quotas = Quotas(self.limits)
        database = backend.database
        self.workflows = Workflows(
            MemoryWorkflows() if database is None else SqliteWorkflows(database),
            clock=clock,
            limits=self.limits,
            quotas=self.quotas,
        )
        self.promises = Promises(
            MemoryPromises() if database is None else SqlitePromises(database),
            clock=clock,
            ids=SeededIds(),
            limits=self.limits,
            quotas=self.quotas,
        )
        self.workflows.load()
        self.promises.load()

    def begin(self, key: str = "lisbon") -> Address:
        address = Address(SCOPE, "trip", key)
        self.workflows.begin(address, f"m-{key}", "{}")
        return address

    @property
    def run(self) -> WorkflowRun:
        return self.workflows.get(TRIP)

    def signal(self, number: int) -> None:
        self.workflows.signal(TRIP, f"s-{number}", "approve", f'{{"n":{number}}}', "", "")


Make = Callable[..., Any]


@pytest.fixture(name="make", params=backends())
def _make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    @asynccontextmanager
    async def make(**limits: Any) -> AsyncIterator[Bed]:
        async with request.param(tmp_path) as backend:
            yield Bed(backend, ManualClock(), **limits)

    return make


async def again(bed: Bed) -> Bed:
    """What is there after a restart; in memory, what is there."""
    if bed.backend.database is None:
        return bed
    await bed.backend.flush()
    other = Bed(bed.backend, bed.clock)
    assert other.quotas.bytes.of("acme") == bed.quotas.bytes.of("acme")
    return other


async def test_a_run_begins_once_and_ends_once(make: Make) -> None:
    async with make() as bed:
        assert bed.workflows.find(TRIP) is None
        bed.begin()
        with pytest.raises(Conflict, match="has been started already"):
            bed.begin()
        bed = await again(bed)
        assert (bed.run.status, bed.run.run_id, bed.run.payload) == (Status.RUNNING, "m-lisbon", "{}")
        with pytest.raises(Conflict, match="is running: cancel it first"):
            bed.workflows.forget(TRIP)
        bed.clock.advance(5)
        ended = bed.workflows.end(TRIP, Status.COMPLETED, '{"x":1}')
        assert ended.ended_ms - ended.started_ms == 5_000
        bed = await again(bed)
        assert (bed.run.status, bed.run.outcome) == (Status.COMPLETED, '{"x":1}')
        bed.workflows.forget(TRIP)
        bed = await again(bed)
        assert bed.quotas.bytes.of("acme") == 0
        with pytest.raises(NotFound):
            bed.workflows.forget(TRIP)
        bed.begin()


async def test_steps_and_their_attempts(make: Make) -> None:
    async with make() as bed:
        bed.begin()
        bed.workflows.step_begin(TRIP, "a", '{"retries_max":2,"backoff_ms":1000}')
        with pytest.raises(InvalidArgument, match="step 'b' begins within step 'a'"):
            bed.workflows.step_begin(TRIP, "b", "{}")
        with pytest.raises(InvalidArgument, match="step 'b' is not under way"):
            bed.workflows.step_succeeded(TRIP, "b")
        waits = []
        for attempt in (1, 2):
            assert (bed.run.step, bed.run.attempt) == ("a", attempt)
            waits.append(bed.workflows.step_failed(TRIP, "a"))
            bed = await again(bed)
            ready_ms = bed.workflows.step_ready_ms(TRIP, "a")
            assert ready_ms - bed.clock.now_ns() // 1_000_000 == waits[-1]
            assert bed.workflows.step_ready_ms(TRIP, "b") == 0
            bed.workflows.step_begin(TRIP, "a", '{"retries_max":2,"backoff_ms":1000}')
        assert waits == [1_000, 2_000]
        assert bed.workflows.step_failed(TRIP, "a") is None
        assert (bed.run.step, bed.run.steps_done) == ("", 0)
        bed.workflows.step_begin(TRIP, "a", "{}")
        assert bed.run.attempt == 1
        bed.workflows.step_succeeded(TRIP, "a")
        assert (bed.run.step, bed.run.steps_done) == ("", 1)


async def test_the_back_off_has_an_end(make: Make) -> None:
    async with make() as bed:
        bed.begin()
        waits: list[int | None] = []
        for _ in range(40):
            bed.workflows.step_begin(TRIP, "a", '{"retries_max":100,"backoff_ms":1}')
            waits.append(bed.workflows.step_failed(TRIP, "a"))
        assert waits[:4] == [1, 2, 4, 8]
        assert waits[-1] == BACKOFF_MS_MAX


@pytest.mark.parametrize("late_ms", [0, 1])
async def test_an_attempt_has_a_limit(make: Make, late_ms: int) -> None:
    async with make() as bed:
        bed.begin()
        bed.workflows.step_begin(TRIP, "a", '{"timeout_ms":1000}')
        bed.clock.advance((1_000 + late_ms) / 1_000)
        bed = await again(bed)
        if late_ms:
            with pytest.raises(DeadlineExceeded, match="took 1 ms longer than its 1000 ms"):
                bed.workflows.step_succeeded(TRIP, "a")
            assert bed.workflows.step_failed(TRIP, "a") is None
        else:
            bed.workflows.step_succeeded(TRIP, "a")


@pytest.mark.parametrize(
    "options", ["[]", "{", '{"retries":1}', '{"retries_max":-1}', '{"retries_max":1.5}', '{"backoff_ms":true}']
)
async def test_options_that_make_no_sense(make: Make, options: str) -> None:
    async with make() as bed:
        bed.begin()
        with pytest.raises(InvalidArgument):
            bed.workflows.step_begin(TRIP, "a", options)
        assert bed.run.step == ""


@pytest.mark.parametrize(("name", "possible"), [("", False), ("x", True), ("x" * 256, True), ("x" * 257, False)])
async def test_the_name_of_a_step(make: Make, name: str, possible: bool) -> None:
    async with make() as bed:
        bed.begin()
        if possible:
            bed.workflows.step_begin(TRIP, name, "{}")
        else:
            with pytest.raises(InvalidArgument):
                bed.workflows.step_begin(TRIP, name, "{}")


async def test_a_cancellation_is_told_once_and_not_within_an_attempt(make: Make) -> None:
    async with make() as bed:
        bed.begin()
        heard: list[Address] = []
        bed.workflows.on_cancel = heard.append
        assert bed.workflows.take_cancel(TRIP) is None
        bed.workflows.step_begin(TRIP, "a", "{}")
        bed.workflows.cancel(TRIP, "ill")
        bed.workflows.cancel(TRIP, "again")
        assert heard == [TRIP]
        assert bed.workflows.take_cancel(TRIP) is None
        bed.workflows.step_succeeded(TRIP, "a")
        bed = await again(bed)
        assert bed.workflows.take_cancel(TRIP) == "ill"
        bed = await again(bed)
        assert bed.workflows.take_cancel(TRIP) is None
        bed.workflows.end(TRIP, Status.CANCELLED, "{}")
        with pytest.raises(Conflict, match="has ended: it is cancelled"):
            bed.workflows.cancel(TRIP, "late")


async def test_signals_stand_in_line_and_are_taken_once(make: Make) -> None:
    async with make(signals_waiting_max=3) as bed:
        bed.begin()
        heard: list[Address] = []
        bed.workflows.on_signal = heard.append
        for number in (1, 2, 3):
            bed.signal(number)
        with pytest.raises(LimitExceeded) as caught:
            bed.signal(4)
        assert caught.value.details["limit"] == "signals_waiting_max"
        assert heard == [TRIP] * 3
        bed = await again(bed)
        first = bed.workflows.take_signal(TRIP)
        assert first is not None
        assert first.text() == '{"id":"s-1","name":"approve","sender":"","context":"","payload":{"n":1}}'
        bed.signal(5)
        bed.workflows.end(TRIP, Status.COMPLETED, "null")
        # What a run has not taken is still there: it is the actor's.
        bed = await again(bed)
        rest = [signal.id for _ in range(4) if (signal := bed.workflows.take_signal(TRIP)) is not None]
        assert rest == ["s-2", "s-3", "s-5"]
        assert bed.workflows.waiting(TRIP) == 0


async def test_runs_are_counted_and_the_old_ones_forgotten(make: Make) -> None:
    async with make(workflows_per_tenant_max=2, workflow_age_s_max=100.0) as bed:
        bed.begin("a")
        bed.begin("b")
        with pytest.raises(LimitExceeded) as caught:
            bed.begin("c")
        assert caught.value.details["limit"] == "workflows_per_tenant_max"
        bed.workflows.end(Address(SCOPE, "trip", "a"), Status.FAILED, "{}")
        bed.clock.advance(100)
        with pytest.raises(LimitExceeded):
            bed.begin("c")
        bed.clock.advance(0.001)
        bed.begin("c")
        assert [run.address.key for run in bed.workflows.page(SCOPE)] == ["b", "c"]


async def test_nobody_sees_the_runs_of_another_scope(make: Make) -> None:
    async with make() as bed:
        bed.begin()
        for scope in (Scope("acme", "other"), Scope("rival", "default")):
            assert bed.workflows.page(scope) == []
            with pytest.raises(NotFound):
                bed.workflows.get(Address(scope, "trip", "lisbon"))


async def test_a_promise_is_resolved_once_and_whoever_waits_hears(make: Make) -> None:
    async with make() as bed:
        promise = bed.promises.create(TRIP, "agreement")
        bed = await again(bed)
        assert bed.promises.get(SCOPE, promise.id) == promise
        heard: list[str] = []
        forgone: list[str] = []
        bed.promises.wait(SCOPE, promise.id, heard.append)
        bed.promises.wait(SCOPE, promise.id, forgone.append)()
        with pytest.raises(InvalidArgument):
            bed.promises.resolve(SCOPE, promise.id, "{")
        bed.promises.resolve(SCOPE, promise.id, '{"a":1}')
        assert (heard, forgone) == (['{"a":1}'], [])
        bed = await again(bed)
        assert bed.promises.get(SCOPE, promise.id).value == '{"a":1}'
        bed.promises.resolve(SCOPE, promise.id, '{ "a": 1 }')
        for other in ('{"a":2}', "x"):
            with pytest.raises(Conflict):
                bed.promises.resolve(SCOPE, promise.id, other)
        with pytest.raises(NotFound):
            bed.promises.resolve(Scope("rival", "default"), promise.id, "1")


async def test_promises_go_with_their_owner_but_for_those_that_others_wait_for(make: Make) -> None:
    async with make() as bed:
        mine, awaited = bed.promises.create(TRIP), bed.promises.create(TRIP)
        other = bed.promises.create(Address(SCOPE, "trip", "porto"))
        bed.promises.wait(SCOPE, awaited.id, lambda _value: None)
        bed.promises.forget_of(TRIP)
        bed = await again(bed)
        assert {each.id for each in bed.promises.page(SCOPE)} == {awaited.id, other.id}
        assert mine.id not in {awaited.id, other.id}


@pytest.mark.parametrize("count", [1, 2])
async def test_promises_are_counted_and_the_old_ones_forgotten(make: Make, count: int) -> None:
    async with make(promises_per_tenant_max=2, promise_age_s_max=100.0) as bed:
        for _ in range(count):
            bed.promises.create(TRIP)
        if count == 2:
            with pytest.raises(LimitExceeded) as caught:
                bed.promises.create(TRIP)
            assert caught.value.details["limit"] == "promises_per_tenant_max"
        bed.clock.advance(100.001)
        bed.promises.create(TRIP)
        assert len((await again(bed)).promises.page(SCOPE)) == 1
