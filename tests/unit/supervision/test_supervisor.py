"""The shell of supervision with scripted guests: real scheduler, real core, no wasm."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import pytest

from plexspaces_runtime.actors import exits
from plexspaces_runtime.actors.actor import Actor, ActorSpec
from plexspaces_runtime.actors.capabilities import EVERYTHING, Grants
from plexspaces_runtime.actors.envelope import Outcome
from plexspaces_runtime.actors.exits import Exit
from plexspaces_runtime.actors.facets import Facets
from plexspaces_runtime.actors.guest import Export, Failure
from plexspaces_runtime.errors import ActorExited as ActorEnded
from plexspaces_runtime.errors import AlreadyExists, HandlerCrashed, PlexSpacesError, Unavailable
from plexspaces_runtime.events import ActorExited, ActorStarted, SupervisorGaveUp
from plexspaces_runtime.scope import Address
from plexspaces_runtime.supervision import core
from plexspaces_runtime.supervision.spec import Backoff, ChildSpec, RestartPolicy, Strategy, SupervisorSpec
from plexspaces_runtime.supervision.supervisor import Branch, Forest, Place, Report, Supervisor, Worker
from tests.unit.scripted import BURN, SCOPE, Bench, ScriptedGuest, call, returns

Answered = list[PlexSpacesError | None]


def handle(_id: str, _kind: str, op: str, *_rest: Any) -> Generator[Any, Any, Any]:
    """What the test's actors do, by operation."""
    match op:
        case "crash":
            return Failure(True, "ValueError", "ValueError: boom", "{}", "Traceback: boom")
        case "spin":
            while True:
                yield BURN
        case "wait":
            yield call("clock", "sleep-ns", 3_600_000_000_000)
    return f'"{op}"'


class Grove:
    """One tree with everything it did."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.forest = Forest(
            scheduler=self.bench.scheduler,
            registry=self.bench.registry,
            asks=self.bench.asks,
            clock=self.bench.clock,
            events=self.bench.events,
            loop=asyncio.get_running_loop(),
            keepers=self,
        )
        # How many more starts of an actor fail, and those whose init waits.
        self.refusals: dict[str, int] = {}
        self.hanging: set[str] = set()
        # Those that are not launched, as when there is no room.
        self.without_room: set[str] = set()
        self.reports: list[Report] = []
        self.reported = asyncio.Event()
        self.log: list[str] = []
        self.top: Supervisor

    # What the shell asks of a deployment.

    def spec(self, worker: Worker, capabilities: Grants | None) -> ActorSpec:
        name = worker.address.text

        def init(*_arguments: Any) -> Generator[Any, Any, Any]:
            self.log.append(f"+{name}")
            if name in self.hanging:
                yield call("clock", "sleep-ns", 3_600_000_000_000)
            if self.refusals.get(name, 0):
                self.refusals[name] -= 1
                return Failure(True, "OSError", "OSError: not today", "{}", "")
            return None

        def terminate(*_arguments: Any) -> Generator[Any, Any, Any]:
            self.log.append(f"-{name}")
            return None
            yield

        table = {Export.INIT: init, Export.TERMINATE: terminate, Export.HANDLE: handle, Export.INSTANTIATE: returns()}
        return ActorSpec(
            new_guest=lambda: ScriptedGuest(table),
            component_hash="0" * 64,
            limits=self.bench.limits,
            capabilities=capabilities or EVERYTHING,
        )

    def facets(self, worker: Worker) -> Facets | None:
        return None

    def launch(self, place: Place, actor: Actor, on_started: Callable[[Exit | None], None]) -> None:
        if actor.address.text in self.without_room:
            return
        self.bench.scheduler.start(actor, None, on_started)

    def vacated(self, place: Place, exit_: Exit) -> bool:
        return False

    # What a test does.

    def _report(self, report: Report) -> None:
        self.reports.append(report)
        self.reported.set()

    async def grow(self, spec: SupervisorSpec) -> Supervisor:
        """Start the tree and wait until it says how that went."""
        self.top = Supervisor(self.forest, SCOPE, "app", spec, self._report)
        self.top.start()
        await self.next_report()
        return self.top

    async def next_report(self) -> Report:
        async with asyncio.timeout(5):
            await self.reported.wait()
        self.reported.clear()
        return self.reports[-1]

    def actor(self, name: str) -> Actor:
        found = self.bench.registry.find(SCOPE, name)
        assert found is not None, f"{name} does not live"
        return found

    async def ask(self, name: str, op: str) -> Outcome:
        return await self.bench.ask(self.actor(name), op)

    async def settle(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not happened():
                await asyncio.sleep(0)

    async def command(self, make: Callable[[int], core.Message], supervisor: Supervisor | None = None) -> Any:
        answers: Answered = []
        (supervisor or self.top).request(make, answers.append)
        await self.settle(lambda: bool(answers))
        return answers[0]

    def events(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.bench.seen if isinstance(event, kind)]


def worker(name: str, detail: Any = None) -> Worker:
    return Worker(Address.parse(SCOPE, name), detail)


def child(name: str, **rest: Any) -> ChildSpec:
    return ChildSpec(name, worker(name), **rest)


def spec(*names: str, **rest: Any) -> SupervisorSpec:
    return SupervisorSpec(children=tuple(child(name) for name in names), **rest)


async def test_children_start_in_order_and_stop_in_reverse() -> None:
    grove = Grove()
    await grove.grow(spec("a", "b", "c"))
    grove.top.shutdown()
    await grove.next_report()
    assert grove.log == ["+a", "+b", "+c", "-c", "-b", "-a"]
    assert grove.reports == [core.Started(), core.Ended(exits.SHUTDOWN)]
    assert grove.bench.registry.count == 0
    assert grove.forest.places == {}


async def test_a_crashed_actor_keeps_its_name_and_its_mailbox() -> None:
    grove = Grove()
    await grove.grow(spec("a"))
    actor = grove.actor("a")
    crash = grove.bench.post(actor, "crash")
    waiting = [grove.bench.post(actor, f"m{number}") for number in range(3)]
    assert isinstance(await crash, HandlerCrashed)
    # Already somebody else, before the callers have heard anything more.
    assert grove.actor("a") is not actor
    assert await asyncio.gather(*waiting) == ['"m0"', '"m1"', '"m2"']
    (exited,) = grove.events(ActorExited)
    assert (exited.reason, exited.comes_back, exited.restarts_in_window) == ("crashed(ValueError, boom)", True, 1)
    assert [event.restarts for event in grove.events(ActorStarted)] == [0, 1]


async def test_one_for_all_and_their_mailboxes() -> None:
    grove = Grove()
    await grove.grow(spec("a", "b", "c", strategy=Strategy.ONE_FOR_ALL))
    waits = grove.bench.post(grove.actor("a"), "wait", timeout_s=10)
    # `a` is suspended in a message that nothing will end: its shutdown time is short, so it is killed.
    behind = grove.bench.post(grove.actor("c"), "crash")
    late = grove.bench.post(grove.actor("c"), "late")
    assert isinstance(await behind, HandlerCrashed)
    await grove.settle(lambda: "-b" in grove.log)
    grove.bench.scheduler.kill(grove.actor("a"))
    assert isinstance(await waits, ActorEnded)
    assert await late == '"late"'
    assert grove.log == ["+a", "+b", "+c", "-b", "+a", "+b", "+c"]


async def test_a_child_that_does_not_end_in_time_is_killed() -> None:
    grove = Grove()
    await grove.grow(SupervisorSpec(children=(child("a", shutdown_s=0.01), child("b"))))
    stuck = grove.bench.post(grove.actor("a"), "wait", timeout_s=10)
    await grove.settle(lambda: grove.actor("a").current is not None)
    grove.top.shutdown()
    assert await grove.next_report() == core.Ended(exits.SHUTDOWN)
    assert isinstance(await stuck, ActorEnded)
    assert grove.log == ["+a", "+b", "-b"]
    assert [event.reason for event in grove.events(ActorExited)] == ["shutdown", "killed"]


async def test_too_many_crashes_end_the_supervisor_and_what_waits_is_answered() -> None:
    grove = Grove()
    await grove.grow(spec("a", "b", restarts_max=2))
    asks = [grove.bench.post(grove.actor("b"), "crash") for _ in range(3)]
    behind = grove.bench.post(grove.actor("b"), "behind")
    assert await grove.next_report() == core.Ended(exits.SHUTDOWN)
    assert all(isinstance(outcome, HandlerCrashed) for outcome in await asyncio.gather(*asks))
    assert isinstance(await behind, ActorEnded)
    assert grove.log == ["+a", "+b", "+b", "+b", "-a"]
    (gave_up,) = grove.events(SupervisorGaveUp)
    assert (gave_up.path, gave_up.child, gave_up.reason) == ("app", "b", "crashed(ValueError, boom)")
    assert grove.top.gave_up is not None
    assert grove.bench.registry.count == 0


async def test_a_nested_supervisor_that_gives_up_is_restarted_by_its_parent() -> None:
    grove = Grove()
    nested = Branch("inner", spec("x", "y", restarts_max=0))
    await grove.grow(SupervisorSpec(children=(child("a"), ChildSpec("inner", nested), child("b"))))
    assert grove.log == ["+a", "+x", "+y", "+b"]
    await grove.ask("y", "crash")
    await grove.settle(lambda: grove.log[4:] == ["-x", "+x", "+y"])
    assert await grove.ask("y", "hello") == '"hello"'
    assert [event.path for event in grove.events(SupervisorGaveUp)] == ["app/inner"]
    assert nested.live is grove.top.branches["inner"]


async def test_a_start_that_fails_stops_those_that_had_started() -> None:
    grove = Grove()
    grove.refusals["c"] = 1
    await grove.grow(spec("a", "b", "c", "d"))
    (report,) = grove.reports
    assert isinstance(report, core.StartFailed)
    assert (report.child_id, report.exit.text) == ("c", "crashed(OSError, not today)")
    assert grove.log == ["+a", "+b", "+c", "-b", "-a"]
    assert grove.bench.registry.count == 0


async def test_a_restart_that_fails_is_tried_again_and_messages_wait_meanwhile() -> None:
    grove = Grove()
    await grove.grow(spec("a", restarts_max=5))
    grove.refusals["a"] = 3
    crash, behind = (grove.bench.post(grove.actor("a"), op) for op in ("crash", "behind"))
    assert isinstance(await crash, HandlerCrashed)
    assert await behind == '"behind"'
    assert grove.log == ["+a"] * 5
    assert grove.forest.places[Address.parse(SCOPE, "a")].restarts == 4


async def test_backoff_keeps_the_name_and_an_end_meanwhile_is_an_end() -> None:
    grove = Grove()
    await grove.grow(spec("a", backoff=Backoff(3_600.0, 3_600.0)))
    crash, behind = (grove.bench.post(grove.actor("a"), op) for op in ("crash", "behind"))
    assert isinstance(await crash, HandlerCrashed)
    assert not behind.done()
    successor = grove.actor("a")
    # One that has not begun may be killed, through a link for instance: it still comes back.
    grove.bench.scheduler.kill(successor)
    assert grove.actor("a") is not successor
    assert not behind.done()
    grove.top.shutdown()
    await grove.next_report()
    assert isinstance(await behind, ActorEnded)
    assert grove.bench.registry.count == 0


async def test_killing_a_supervisor_kills_everything_below_it() -> None:
    grove = Grove()
    nested = Branch("inner", SupervisorSpec(children=(child("x"), ChildSpec("deep", Branch("deep", spec("z"))))))
    await grove.grow(SupervisorSpec(children=(child("a"), ChildSpec("inner", nested))))
    spins = grove.bench.post(grove.actor("x"), "wait", timeout_s=10)
    grove.top.kill()
    assert grove.reports[-1] == core.Ended(exits.KILLED)
    assert isinstance(await spins, ActorEnded)
    assert grove.bench.registry.count == 0
    assert [event.reason for event in grove.events(ActorExited)] == ["killed"] * 3
    assert nested.live is None


async def test_a_killed_supervisor_reports_only_when_an_offloaded_actor_is_gone() -> None:
    grove = Grove()
    await grove.grow(spec("a"))
    spins = grove.bench.post(grove.actor("a"), "spin", timeout_s=10)
    await grove.settle(lambda: grove.bench.scheduler.offloaded == 1)
    grove.top.kill()
    while len(grove.reports) < 2:
        # The name is not free before the actor is gone.
        assert grove.bench.registry.count == 1
        await asyncio.sleep(0)
    assert grove.reports[-1] == core.Ended(exits.KILLED)
    assert grove.bench.registry.count == 0
    assert isinstance(await spins, ActorEnded)
    grove.bench.scheduler.close()


async def test_an_actor_added_at_run_time_is_there_at_once() -> None:
    grove = Grove()
    await grove.grow(spec("a"))
    answers: Answered = []
    created: list[Actor] = []
    actor = grove.top.add(child("b/1", restart=RestartPolicy.TEMPORARY), answers.append, created=created.append)
    assert created == [actor] == [grove.actor("b/1")]
    assert await grove.ask("b/1", "hello") == '"hello"'
    assert answers == [None]
    with pytest.raises(AlreadyExists):
        grove.top.add(child("b/1", restart=RestartPolicy.TEMPORARY), answers.append)
    await grove.ask("b/1", "crash")
    assert grove.bench.registry.find(SCOPE, "b/1") is None
    assert Address.parse(SCOPE, "b/1") not in grove.forest.places
    assert grove.events(ActorExited)[-1].restarts_in_window == 0


async def test_a_spawned_actor_whose_init_waits_does_not_keep_its_supervisor() -> None:
    grove = Grove()
    await grove.grow(spec("a"))
    grove.hanging.add("slow/1")
    answers: Answered = []
    grove.top.add(child("slow/1", restart=RestartPolicy.TEMPORARY), answers.append)
    await grove.settle(lambda: "+slow/1" in grove.log)
    assert isinstance(await grove.ask("a", "crash"), HandlerCrashed)
    assert await grove.ask("a", "hello") == '"hello"'
    assert answers == []
    grove.bench.scheduler.kill(grove.actor("slow/1"))
    assert isinstance(answers[0], HandlerCrashed)


async def test_a_spawn_that_fails_says_why_and_leaves_nothing() -> None:
    grove = Grove()
    await grove.grow(spec("a"))
    for restart in (RestartPolicy.TEMPORARY, RestartPolicy.PERMANENT):
        grove.refusals["b/1"] = 1
        answers: Answered = []
        grove.top.add(child("b/1", restart=restart), answers.append)
        waiting = grove.bench.post(grove.actor("b/1"), "hello")
        await grove.settle(lambda answers=answers: bool(answers))
        assert isinstance(answers[0], HandlerCrashed)
        assert "not today" in answers[0].message
        assert isinstance(await waiting, ActorEnded)
        assert grove.bench.registry.find(SCOPE, "b/1") is None
        assert not grove.top.core.knows("b/1")


async def test_an_ended_supervisor_takes_nobody_and_says_so() -> None:
    grove = Grove()
    await grove.grow(spec("a"))
    grove.top.kill()
    with pytest.raises(Unavailable):
        grove.top.add(child("b"), lambda _error: None)
    assert isinstance(await grove.command(lambda ref: core.TerminateChild(ref, "a")), Unavailable)


async def test_a_terminated_child_stays_down_until_it_is_restarted() -> None:
    grove = Grove()
    await grove.grow(spec("a", "b"))
    assert await grove.command(lambda ref: core.TerminateChild(ref, "a")) is None
    assert grove.bench.registry.find(SCOPE, "a") is None
    assert grove.forest.places[Address.parse(SCOPE, "a")].actor is None
    assert await grove.command(lambda ref: core.RestartChild(ref, "a")) is None
    assert await grove.ask("a", "hello") == '"hello"'
    assert grove.log == ["+a", "+b", "-a", "+a"]


async def test_a_stop_meant_for_one_incarnation_does_not_reach_the_next() -> None:
    grove = Grove()
    await grove.grow(spec("a", "b", strategy=Strategy.ONE_FOR_ALL))
    stuck = grove.bench.post(grove.actor("a"), "wait", timeout_s=10)
    await grove.settle(lambda: grove.actor("a").current is not None)
    await grove.ask("b", "crash")
    # `a` has been asked to end for the sake of `b`, and is killed before it comes to that.
    grove.bench.scheduler.kill(grove.actor("a"))
    assert isinstance(await stuck, ActorEnded)
    assert await grove.ask("a", "hello") == '"hello"'
    assert await grove.ask("b", "hello") == '"hello"'
    assert grove.log == ["+a", "+b", "+a", "+b"]


async def test_a_changed_configuration_concerns_only_what_differs() -> None:
    grove = Grove()
    before = spec("a", "b", "c")
    await grove.grow(before)
    kept = grove.actor("a")
    a, b, _ = before.children
    changed = replace(b, content=worker("b", "other"))
    behind = [grove.bench.post(grove.actor("b"), "wait", timeout_s=10), grove.bench.post(grove.actor("b"), "later")]
    await grove.settle(lambda: grove.actor("b").current is not None)
    answers: Answered = []
    after = replace(before, children=(a, changed, child("d")))
    grove.top.request(lambda ref: core.Replace(ref, after), answers.append)
    await grove.settle(lambda: "-c" in grove.log)
    grove.bench.scheduler.kill(grove.actor("b"))
    await grove.settle(lambda: bool(answers))
    assert answers == [None]
    assert grove.actor("a") is kept
    assert grove.forest.places[Address.parse(SCOPE, "b")].worker == changed.content
    assert grove.log == ["+a", "+b", "+c", "-c", "+b", "+d"]
    assert isinstance(await behind[0], ActorEnded)
    # What waited for the one that was configured anew is handled by it.
    assert await behind[1] == '"later"'
    assert grove.bench.registry.find(SCOPE, "c") is None


async def test_the_same_traceback_is_said_once() -> None:
    grove = Grove()
    await grove.grow(spec("a"))
    for _ in range(3):
        await grove.ask("a", "crash")
    assert [event.traceback for event in grove.events(ActorExited)] == ["Traceback: boom", "", ""]


async def test_a_name_that_is_taken_meanwhile_counts_as_a_failed_start() -> None:
    grove = Grove()
    grove.bench.limits = replace(grove.bench.limits, actors_per_tenant_max=2)
    grove.bench.registry._actors_per_tenant_max = 2
    await grove.grow(spec("a", "b", "c"))
    (report,) = grove.reports
    assert isinstance(report, core.StartFailed)
    assert report.exit.subject == "limit-exceeded"
    assert grove.log == ["+a", "+b", "-b", "-a"]


async def test_a_thousand_levels_deep_nothing_recurses() -> None:
    grove = Grove()
    tree = spec("leaf", restarts_max=0)
    for level in range(300):
        tree = SupervisorSpec(restarts_max=0, children=(ChildSpec(f"s{level}", Branch(f"s{level}", tree)),))
    await grove.grow(tree)
    # Every supervisor gives up in turn, up to the top.
    crash = grove.bench.post(grove.actor("leaf"), "crash")
    assert await grove.next_report() == core.Ended(exits.SHUTDOWN)
    assert isinstance(await crash, HandlerCrashed)
    assert len(grove.events(SupervisorGaveUp)) == 301



async def test_an_actor_that_waits_for_room_ends_at_once() -> None:
    grove = Grove()
    await grove.grow(spec("a"))
    grove.without_room.add("b/1")
    answers: Answered = []
    grove.top.add(child("b/1", restart=RestartPolicy.TEMPORARY), answers.append)
    waiting = grove.bench.post(grove.actor("b/1"), "hello")
    grove.top.shutdown()
    assert await grove.next_report() == core.Ended(exits.SHUTDOWN)
    assert isinstance(await waiting, ActorEnded)
    assert isinstance(answers[0], HandlerCrashed)


async def test_who_waits_for_an_answer_of_a_supervisor_that_is_killed_hears_that() -> None:
    grove = Grove()
    await grove.grow(spec("a"))
    grove.hanging.add("b")
    answers: Answered = []
    grove.top.add(child("b"), answers.append)
    await grove.settle(lambda: "+b" in grove.log)
    grove.top.kill()
    assert [type(answer) for answer in answers] == [Unavailable]


async def test_an_ended_supervisor_is_forgotten() -> None:
    grove = Grove()
    await grove.grow(spec("a", backoff=Backoff(3_600.0, 3_600.0)))
    await grove.ask("a", "crash")
    grove.top.kill()
    gone = weakref.ref(grove.top)
    del grove.top
    await asyncio.sleep(0)
    gc.collect()
    assert gone() is None, gc.get_referrers(gone())
