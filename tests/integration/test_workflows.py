"""Workflows on a real node: the same trips as on plain Python, as components, with waits, crashes and restarts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.actors.envelope import Kind
from plexspaces_runtime.config import Limits, NodeConfig, default_cache_dir
from plexspaces_runtime.errors import (
    Conflict,
    DeadlineExceeded,
    HandlerCrashed,
    HandlerRefused,
    InvalidArgument,
)
from plexspaces_runtime.node import Node
from plexspaces_runtime.scope import Address
from plexspaces_runtime.stores.workflows import Status, WorkflowRun
from tests.nodes import SCOPE, TestBed

pytestmark = pytest.mark.guest

TRIP = Address.parse(SCOPE, "trip/lisbon")


class Bed(TestBed):
    async def start(self, address: Address = TRIP, **arguments: Any) -> str:
        return await self.node.tell(address, "run", json.dumps(arguments), kind=Kind.RUN)

    async def result(self, address: Address = TRIP, **arguments: Any) -> Any:
        return json.loads(await self.node.ask(address, "run", json.dumps(arguments), kind=Kind.RUN, timeout_s=30.0))

    async def signal(self, name: str, **arguments: Any) -> None:
        await self.node.tell(TRIP, name, json.dumps(arguments), kind=Kind.SIGNAL)

    async def query(self, name: str, address: Address = TRIP) -> Any:
        return json.loads(await self.node.ask(address, name, "{}", kind=Kind.QUERY, timeout_s=30.0))

    async def ledger(self) -> list[str]:
        done: list[str] = await self.ask("ledger", "seen")
        return done

    def run(self, address: Address = TRIP) -> WorkflowRun:
        return self.node.stores.workflows.get(address)

    async def waits(self, what: str, address: Address = TRIP) -> None:
        await self.until(lambda: self.node.waits_for(address).startswith(what))


@pytest.fixture
def world(tmp_path: Path, guest: Callable[[str], Path]) -> Callable[..., Any]:
    @asynccontextmanager
    async def begin(deploy: bool = True, **limits: Any) -> AsyncIterator[Bed]:
        node = Node(NodeConfig(data_dir=tmp_path, cache_dir=default_cache_dir(), limits=Limits(**limits)))
        await node.start()
        bed = Bed(node)
        try:
            if deploy:
                for role in ("ledger", "trip", "chain", "impatient", "buggy"):
                    await bed.deploy(role, guest("workflows"), role=role)
            yield bed
        finally:
            await node.stop(grace_s=1.0)

    return begin


BOOKED = ["flight Lisbon done", "hotel done", "car done"]


async def test_a_run_sleeps_and_goes_on_and_is_done_once(world: Callable[..., Any]) -> None:
    async with world() as bed:
        await bed.start(city="Lisbon", night_s=0.3)
        await bed.waits("sleep")
        assert await bed.ledger() == ["flight Lisbon"]
        assert (bed.run().status, bed.run().steps_done) == (Status.RUNNING, 1)
        # Whoever starts it again, by name or as a message, waits for the one there is.
        both = await asyncio.gather(bed.result(city="Porto"), bed.ask("trip/lisbon", "run", city="Faro"))
        assert both == [{"booked": BOOKED, "approved": ""}] * 2
        assert bed.run().status is Status.COMPLETED
        assert await bed.result(city="Porto") == both[0]
        assert await bed.ledger() == ["flight Lisbon", "hotel", "car"]


async def test_an_asker_has_a_deadline_and_the_run_has_none(world: Callable[..., Any]) -> None:
    async with world(wall_s_per_message_max=0.5) as bed:
        with pytest.raises(DeadlineExceeded):
            await bed.ask("trip/lisbon", "run", city="Lisbon", night_s=1.5, timeout_s=0.2)
        assert (await bed.result())["booked"] == BOOKED


async def test_queries_are_answered_while_it_waits(world: Callable[..., Any]) -> None:
    async with world() as bed:
        assert await bed.query("stage") == "new"
        await bed.start(city="Lisbon", approval=True)
        await bed.waits("signal")
        answers = await asyncio.gather(bed.query("stage"), bed.ask("trip/lisbon", "stage"), bed.query("stage"))
        assert answers == ["approval"] * 3
        with pytest.raises(HandlerRefused, match="query 'curious' wants more than a query may"):
            await bed.query("curious")
        with pytest.raises(HandlerRefused, match="has no query 'stag'; did you mean 'stage'"):
            await bed.query("stag")
        with pytest.raises(DeadlineExceeded):
            await bed.ask("trip/lisbon", "ping", timeout_s=0.2)
        # Another actor, by the names alone.
        assert await bed.ask("ledger", "ask", to="trip/lisbon", op="stage") == {"answer": "approval"}
        await bed.ask("ledger", "send", to="trip/lisbon", op="approve", arguments={"by": "ada"})
        assert (await bed.result())["approved"] == "ada"
        assert await bed.query("stage") == "booked"
        assert await bed.ask("trip/lisbon", "ping") == "pong"


async def test_cancellation_undoes_what_was_done(world: Callable[..., Any]) -> None:
    async with world() as bed:
        await bed.start(city="Lisbon", night_s=60)
        await bed.waits("sleep")
        bed.node.stores.workflows.cancel(TRIP, "the customer is ill")
        with pytest.raises(HandlerRefused, match="the customer is ill") as caught:
            await bed.result()
        assert caught.value.details["reason"] == "cancelled"
        assert bed.run().status is Status.CANCELLED
        assert await bed.ledger() == ["flight Lisbon", "cancel flight"]
        with pytest.raises(Conflict):
            bed.node.stores.workflows.cancel(TRIP, "again")


async def test_a_step_is_tried_again_and_one_that_fails_for_good_undoes_the_others(world: Callable[..., Any]) -> None:
    async with world() as bed:
        await bed.ask("ledger", "fail", what="hotel", times=1)
        await bed.ask("ledger", "fail", what="car", times=9)
        with pytest.raises(HandlerRefused, match=r"step 'car' failed: .*car does not work") as caught:
            await bed.result(city="Lisbon", night_s=0.01, retries=1)
        assert (caught.value.details["reason"], caught.value.details["step"]) == ("step-failed", "car")
        assert bed.run().status is Status.FAILED
        assert await bed.ledger() == ["flight Lisbon", "hotel", "cancel: hotel done", "cancel flight"]
        assert await bed.query("stage") == "car"


async def test_an_attempt_has_a_time_limit(world: Callable[..., Any]) -> None:
    async with world() as bed:
        impatient = Address.parse(SCOPE, "impatient/a")
        with pytest.raises(HandlerRefused, match="step 'slow' failed") as caught:
            await bed.result(impatient, timeout_s=0.2, retries=1)
        assert caught.value.details["type"] == "DeadlineExceeded"


async def test_promises(world: Callable[..., Any]) -> None:
    async with world() as bed:
        await bed.start(city="Lisbon", boss=True, night_s=0.01)
        await bed.waits("promise ")
        promise = await bed.query("promise")
        assert bed.node.waits_for(TRIP) == f"promise {promise}"
        await bed.ask("ledger", "resolve", promise=promise, value={"yes": 1})
        assert (await bed.result())["booked"] == BOOKED
        assert bed.node.stores.promises.page(SCOPE) == []


async def test_what_is_no_workflow_and_what_cannot_be_begun(world: Callable[..., Any]) -> None:
    async with world() as bed:
        with pytest.raises(InvalidArgument, match="actor 'ledger' is no workflow: it has no run"):
            await bed.start(Address.parse(SCOPE, "ledger"))
        with pytest.raises(HandlerRefused, match="town is not a parameter; city is missing"):
            await bed.result(town="Lisbon")
        assert (await bed.result(city="Lisbon", night_s=0.01))["booked"] == BOOKED


async def test_whatever_leaves_a_run_is_its_end(world: Callable[..., Any]) -> None:
    async with world() as bed:
        with pytest.raises(HandlerRefused, match="the run failed: KeyError: 'oops'"):
            await bed.result(Address.parse(SCOPE, "buggy/bug"), how="oops")


async def test_a_run_whose_actor_dies_of_a_limit_is_tried_again_with_what_it_took(world: Callable[..., Any]) -> None:
    async with world() as bed:
        hoarder = Address.parse(SCOPE, "buggy/hoarder")
        await bed.start(hoarder, how="memory")
        await bed.waits("signal", hoarder)
        # It comes once; an attempt that was not given it again would wait for ever.
        await bed.node.tell(hoarder, "go", "{}", kind=Kind.SIGNAL)
        with pytest.raises(HandlerCrashed, match="the actor crashed 3 times in its run"):
            await bed.result(hoarder)
        assert (bed.run(hoarder).status, bed.run(hoarder).steps_done) == (Status.FAILED, 1)
        assert await bed.ledger() == ["one"]


async def test_runs_go_on_after_the_node_was_stopped(world: Callable[..., Any]) -> None:
    async with world() as bed:
        await bed.start(city="Lisbon", approval=True, boss=True, night_s=0.5)
        await bed.waits("promise ")
        promise = await bed.query("promise")
    async with world(deploy=False) as bed:
        await bed.waits("promise ")
        assert await bed.query("stage") == "boss"
        await bed.signal("approve", by="ada")
        bed.node.stores.promises.resolve(SCOPE, promise, "1")
        await bed.waits("sleep")
    async with world(deploy=False) as bed:
        assert await bed.result() == {"booked": BOOKED, "approved": "ada"}
        assert await bed.ledger() == ["flight Lisbon", "hotel", "car"]
    async with world(deploy=False) as bed:
        # What has ended is known for what it was.
        assert await bed.result() == {"booked": BOOKED, "approved": "ada"}
        assert await bed.query("stage") == "booked"


async def test_many_runs_at_once(world: Callable[..., Any]) -> None:
    async with world() as bed:
        chains = [Address.parse(SCOPE, f"chain/{number}") for number in range(20)]
        results = await asyncio.gather(*(bed.result(chain, steps=5, nap_s=0.01) for chain in chains))
        assert results == [[f"chain/{n} {step} done" for step in range(5)] for n in range(20)]
        assert len(await bed.ledger()) == 100


async def test_a_deployment_does_not_wait_for_a_run_which_goes_on_with_the_new_code(
    world: Callable[..., Any], guest: Callable[[str], Path], tmp_path: Path
) -> None:
    later = tmp_path / "later.wasm"
    # The same with another hash: a custom section that nobody reads.
    later.write_bytes(guest("workflows").read_bytes() + b"\x00\x05\x04note")
    async with world() as bed:
        await bed.start(city="Lisbon", approval=True)
        await bed.waits("signal")
        async with asyncio.timeout(20):
            await bed.deploy("trip", later, role="trip")
        await bed.waits("signal")
        assert bed.node.info(TRIP).component_hash == bed.node.deployment(SCOPE, "trip").hash
        assert await bed.query("stage") == "approval"
        await bed.signal("approve", by="ada")
        assert await bed.result() == {"booked": BOOKED, "approved": "ada"}
        assert await bed.ledger() == ["flight Lisbon", "hotel", "car"]
