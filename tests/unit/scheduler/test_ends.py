"""The end of an actor: what happens in which order, of how many at once, and what is left of it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from typing import Any

import pytest

from plexspaces_runtime.actors import exits, links
from plexspaces_runtime.actors.actor import Actor
from plexspaces_runtime.actors.envelope import Envelope
from plexspaces_runtime.actors.exits import Exit
from plexspaces_runtime.actors.facets import Facet, Facets
from plexspaces_runtime.actors.guest import Failure, Result, Trapped
from plexspaces_runtime.errors import ActorExited, HandlerCrashed, RateLimited
from plexspaces_runtime.events import DeactivationRefused, NodeFault
from plexspaces_runtime.scope import Address
from tests.unit.scripted import BURN, SCOPE, Bench, Puppet, call, returns


class Diary(Facet):
    """Writes down when its hooks are called, and what is to be seen at that moment."""

    def __init__(self, bench: Bench, lines: list[str], name: str = "") -> None:
        self.bench = bench
        self.lines = lines
        self.name = name

    def admit(self, envelope: Envelope) -> None:
        self.lines.append(f"{self.name}admit {envelope.op}")

    def started(self) -> None:
        self.lines.append(f"{self.name}started")

    def handled(self, envelope: Envelope, result: Result, cpu_ns: int) -> None:
        kind = type(result).__name__ if isinstance(result, Trapped | Failure) else repr(result)
        self.lines.append(f"{self.name}handled {envelope.op} {kind}")

    def ended(self, exit_: Exit) -> None:
        self.lines.append(f"{self.name}ended {exit_.text}")


# -- order ---------------------------------------------------------------------------------------------------


async def test_an_actor_is_gone_from_everywhere_before_anybody_hears_of_its_end() -> None:
    bench = Bench()
    lines: list[str] = []

    class Looking(Facet):
        def ended(self, exit_: Exit) -> None:
            lines.append("facets.ended")
            look()

    def look() -> None:
        assert bench.guests["a"].closed
        assert bench.registry.find(SCOPE, "a") is None
        assert bench.registry.matching(SCOPE, "", "", "tier", 10) == []
        assert bench.host.groups.members(SCOPE, "g") == ()
        assert bench.host.timers.pending == 0
        assert not actor.asks

    def busy(*_: str) -> Any:
        yield call("process-groups", "join", "g")
        yield call("registry", "set-label", "tier", "gold")
        yield call("timers", "send-after", 60_000, "tick", "{}")
        yield call("messaging", "ask", "stuck", "op", "{}", 0)

    actor = await bench.start("a", facets=Facets((Looking(),)), handle=busy)
    stuck = await bench.start("stuck", handle=returns(None))
    await bench.puppet("linked")
    await bench.puppet("watching")
    links.link(bench.actors["linked"], actor, "l-1")
    links.watch(bench.actors["watching"], actor, "r-1")

    def supervise(dead: Actor, exit_: Exit) -> None:
        lines.append(f"on_exit {dead.address.text}")
        assert bench.registry.find(SCOPE, "linked") is None, "links fire before the supervisor hears"
        look()

    bench.supervise = supervise
    answer = bench.post(actor)
    answer.add_done_callback(lambda _: lines.append("answered"))
    while not actor.asks:
        await asyncio.sleep(0)
    bench.scheduler.kill(actor)
    assert isinstance(await answer, ActorExited)
    await asyncio.sleep(0)
    assert lines == ["facets.ended", "on_exit a", "on_exit linked", "answered"]
    assert [event for event in bench.seen if isinstance(event, NodeFault)] == [], "what the hooks looked for was so"
    await bench.settle()
    assert [op for op, _ in bench.heard("watching")] == ["DOWN"]
    assert stuck.alive


async def test_what_a_supervisor_ends_in_turn_is_dead_at_once_and_told_of_afterwards() -> None:
    bench = Bench()
    lines: list[str] = []
    for name in ("a", "b", "c"):
        await bench.puppet(name)

    def supervise(dead: Actor, exit_: Exit) -> None:
        lines.append(f"begin {dead.address.text}")
        for name in ("b", "c"):
            if name in bench.actors:
                sibling = bench.actors[name]
                bench.scheduler.kill(sibling)
                assert not sibling.alive
                assert bench.registry.find(SCOPE, name) is None
        lines.append(f"end {dead.address.text}")

    bench.supervise = supervise
    bench.scheduler.kill(bench.actors["a"])
    assert lines == ["begin a", "end a", "begin b", "end b", "begin c", "end c"]


async def test_a_chain_of_ten_thousand_ends_link_by_link_without_a_stack() -> None:
    bench = Bench(actors_per_tenant_max=20_000)
    order: list[str] = []
    spec = bench.spec()
    chain = [
        Actor(Address(SCOPE, "c", str(number)), spec, lambda actor, _: order.append(actor.address.key), started_ms=0)
        for number in range(10_000)
    ]
    for number, (one, other) in enumerate(itertools.pairwise(chain)):
        bench.registry.add(one)
        links.link(one, other, str(number))
    bench.scheduler.kill(chain[0])
    assert order == [str(number) for number in range(10_000)]
    assert bench.registry.count == 0
    assert all(not actor.links and not actor.alive for actor in chain)


async def test_a_star_ends_in_the_order_of_its_links() -> None:
    bench = Bench()
    order: list[str] = []
    bench.supervise = lambda dead, _: order.append(dead.address.text)
    for name in ("hub", "a", "b", "c"):
        await bench.puppet(name)
    for name in ("b", "a", "c"):
        links.link(bench.actors["hub"], bench.actors[name], name)
    await bench.kill("hub")
    assert order == ["hub", "b", "a", "c"]


@pytest.mark.parametrize("where", ["facet", "store", "supervisor"])
async def test_a_bug_in_one_part_of_an_end_keeps_no_other_from_being_done(where: str) -> None:
    bench = Bench()

    def bug(*_: Any) -> None:
        raise RuntimeError("a bug")

    class Buggy(Facet):
        ended = bug

    def suspended(*_: str) -> Any:
        yield call("clock", "sleep-ns", 60_000_000_000)

    actor = await bench.start("a", facets=Facets((Buggy(),)) if where == "facet" else None, handle=suspended)
    await bench.puppet("watching")
    links.watch(bench.actors["watching"], actor, "r-1")
    if where == "store":
        bench.host.on_end.insert(0, bug)
    if where == "supervisor":
        bench.supervise = bug
    answer = bench.post(actor)
    await bench.settle()
    bench.scheduler.kill(actor)
    assert isinstance(await answer, ActorExited)
    await bench.settle()
    assert [op for op, _ in bench.heard("watching")] == ["DOWN"]
    assert "a" in bench.exits
    assert [event.message for event in bench.seen if isinstance(event, NodeFault)] == ["RuntimeError: a bug"]
    # And the next end is told of as ever.
    bench.supervise = lambda *_: None
    await bench.kill("watching")
    assert "watching" in bench.exits


# -- what is left --------------------------------------------------------------------------------------------


async def test_ten_thousand_that_came_and_went_leave_nothing() -> None:
    bench = Bench()
    bench.types["worker"] = Puppet()
    await bench.puppet("a", trap=True)
    busy = (
        call("process-groups", "join", "g"),
        call("timers", "send-after", 3_600_000, "tick", "{}"),
        call("timers", "send-interval", 3_600_000, "tick", "{}"),
        call("lifecycle", "monitor", "a"),
        call("registry", "set-label", "tier", "gold"),
    )
    bench.types["worker"].init_does = busy
    remains: list[weakref.ref[Actor]] = []
    for number in range(10_000):
        options = ("worker", str(number), "{}", number % 2 == 0, number % 3 == 0)
        name, _ = (await bench.do("a", call("lifecycle", "spawn", options))).value
        child = bench.actors[name]
        remains.append(weakref.ref(child))
        if number % 4 == 0:
            bench.begin(name, call("clock", "sleep-ns", 60_000_000_000))
            await bench.settle()
        bench.scheduler.kill(child)
        del child
    await bench.settle()
    bench.exits.clear()
    bench.puppets = {"a": bench.puppets["a"]}
    gc.collect()
    assert [ref() for ref in remains if ref() is not None] == []
    assert bench.registry.count == 1
    assert bench.host.timers.pending == 0
    assert bench.host.timers._heap == []
    assert bench.host.groups._by_scope == {}
    parent = bench.actors["a"]
    assert (parent.links, parent.watching, parent.watchers, parent.exits, parent.asks) == ({}, {}, {}, {}, set())
    assert not parent.mailbox.signals
    assert len(bench.heard("a")) == 5_000 + 3_334


async def test_a_dead_sender_is_not_kept_by_the_mailbox_it_waited_for() -> None:
    bench = Bench(mailbox_messages_max=1)
    await bench.puppet("full")
    bench.begin("full", call("clock", "sleep-ns", 60_000_000_000))
    await bench.settle()
    assert bench.cast(bench.actors["full"])
    sender = await bench.puppet("sender")
    bench.begin("sender", call("messaging", "send", "full", "op", "{}"))
    await bench.settle()
    assert sender.asks
    remains = weakref.ref(sender)
    await bench.kill("sender")
    bench.exits.clear()
    del sender
    gc.collect()
    assert remains() is None


async def test_a_dead_actor_is_not_kept_by_the_thread_it_was_on() -> None:
    bench = Bench(offload_after_slices=1, slice_ms=1)

    def forever(*_: str) -> Any:
        while True:
            yield BURN

    actor = await bench.start("burner", handle=forever)
    remains = weakref.ref(actor)
    answer = bench.post(actor)
    async with asyncio.timeout(5):
        while not bench.scheduler.offloaded:
            await asyncio.sleep(0)
        bench.scheduler.kill(actor)
        await answer
        del actor
        bench.guests.clear()
        # The thread lets go right after it has handed over.
        while remains() is not None:
            await asyncio.sleep(0.001)
            gc.collect()
    bench.scheduler.close()


# -- facets --------------------------------------------------------------------------------------------------


async def test_hooks_run_inwards_and_outwards_around_messages_and_life() -> None:
    bench = Bench()
    lines: list[str] = []
    facets = Facets((Diary(bench, lines, "outer "), Diary(bench, lines, "inner ")))
    actor = await bench.start("a", facets=facets, handle=returns('"r"'))
    await bench.ask(actor, "op")
    bench.scheduler.stop(actor, exits.SHUTDOWN)
    await bench.settle()
    assert lines == [
        "outer started",
        "inner started",
        "outer admit op",
        "inner admit op",
        "inner handled op '\"r\"'",
        "outer handled op '\"r\"'",
        "inner ended shutdown",
        "outer ended shutdown",
    ]


@pytest.mark.parametrize("directly", [False, True])
async def test_a_facet_that_refuses_keeps_the_message_out_of_the_mailbox(directly: bool) -> None:
    bench = Bench()

    class Refusing(Facet):
        def admit(self, envelope: Envelope) -> None:
            raise RateLimited("not now")

    lines: list[str] = []
    actor = await bench.start("a", facets=Facets((Refusing(), Diary(bench, lines))), handle=returns("1"))
    with pytest.raises(RateLimited):
        bench.post(actor, directly=directly)
    assert len(actor.mailbox) == 0
    assert lines == ["started"]


async def test_an_asker_hears_a_facets_refusal_and_waits_for_nobody() -> None:
    bench = Bench()

    class Refusing(Facet):
        def admit(self, envelope: Envelope) -> None:
            raise RateLimited("not now")

    await bench.start("picky", facets=Facets((Refusing(),)), handle=returns("1"))
    actor = await bench.puppet("a")
    assert (await bench.do("a", call("messaging", "ask", "picky", "op", "{}", 0))).value[0] == "rate-limited"
    assert not actor.asks


async def test_the_message_that_ended_an_actor_counts_as_handled() -> None:
    bench = Bench()
    lines: list[str] = []
    failure = Failure(True, "ValueError", "ValueError: x", "{}", "")
    actor = await bench.start("a", facets=Facets((Diary(bench, lines),)), handle=returns(failure))
    assert isinstance(await bench.ask(actor, "op"), HandlerCrashed)
    assert lines == ["started", "admit op", "handled op Trapped", "ended crashed(ValueError, x)"]


async def test_what_the_node_tells_is_not_asked_of_facets() -> None:
    bench = Bench()
    lines: list[str] = []
    actor = await bench.start("a", facets=Facets((Diary(bench, lines),)), handle=returns(None))
    await bench.puppet("b")
    links.watch(actor, bench.actors["b"], "r-1")
    await bench.kill("b")
    assert lines == ["started", "handled DOWN None"]


# -- deactivation --------------------------------------------------------------------------------------------


def put_aside(bench: Bench, actor: Actor, *, room: bool = True) -> asyncio.Future[str | None]:
    done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def keep(state: str | None) -> bool:
        done.set_result(state)
        return room

    bench.scheduler.deactivate(actor, keep)
    return done


async def test_an_idle_actor_is_put_aside_with_its_state() -> None:
    bench = Bench()
    order: list[str] = []

    def terminate(reason: str) -> Any:
        order.append(f"terminate {reason}")
        return None
        yield

    actor = await bench.start("v", get_state=returns("the state"), terminate=terminate)
    bench.supervise = lambda *_: order.append("on_exit")
    done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def kept(state: str | None) -> bool:
        order.append(f"kept {state}")
        done.set_result(state)
        return True

    bench.scheduler.deactivate(actor, kept)
    assert await done == "the state"
    await bench.settle()
    assert order == ["kept the state", "terminate shutdown", "on_exit"]
    assert bench.exits["v"] is exits.SHUTDOWN


async def test_what_comes_while_it_ends_waits_for_the_next_incarnation() -> None:
    bench = Bench()

    def terminate(_reason: str) -> Any:
        yield call("clock", "sleep-ns", 2_000_000)

    actor = await bench.start("v", get_state=returns("s"), handle=returns("1"), terminate=terminate)
    assert await put_aside(bench, actor) == "s"
    answer = bench.post(actor)
    async with asyncio.timeout(5):
        while "v" not in bench.exits:
            await asyncio.sleep(0.001)
    assert len(actor.mailbox) == 1
    assert not answer.done()


async def test_one_that_is_not_idle_goes_on() -> None:
    bench = Bench()
    actor = await bench.start("v", get_state=returns("s"), handle=returns("1"))
    done = put_aside(bench, actor)
    answer = bench.post(actor)
    assert await done is None
    assert await answer == "1"
    assert actor.alive


async def test_a_message_that_comes_while_the_state_is_read_keeps_it_here() -> None:
    bench = Bench()

    def get_state() -> Any:
        yield call("clock", "sleep-ns", 2_000_000)
        return "s"

    actor = await bench.start("v", get_state=get_state, handle=returns("1"))
    done = put_aside(bench, actor)
    await bench.settle()
    answer = bench.post(actor)
    assert await done is None
    assert await answer == "1"


@pytest.mark.parametrize(
    "tie",
    [
        call("lifecycle", "link", "other"),
        call("lifecycle", "monitor", "other"),
        call("process-groups", "join", "g"),
        call("timers", "send-after", 60_000, "tick", "{}"),
    ],
)
async def test_one_whose_absence_somebody_would_notice_goes_on(tie: Any) -> None:
    bench = Bench()
    other, actor = await bench.puppet("other"), await bench.puppet("v")
    await bench.do("v", tie)
    assert await put_aside(bench, actor) is None
    if actor.links or actor.watching:
        assert await put_aside(bench, other) is None, "from the other end too"
    assert actor.alive


async def test_one_that_owes_a_reply_goes_on() -> None:
    bench = Bench()
    actor = await bench.start("v", get_state=returns("s"), handle=returns(None))
    bench.post(actor)
    await bench.settle()
    assert await put_aside(bench, actor) is None


@pytest.mark.parametrize("size", [79, 80, 81])
async def test_a_state_that_is_too_large_keeps_it_here_and_is_said_so(size: int) -> None:
    bench = Bench(state_bytes_max=80)
    actor = await bench.start("v", get_state=returns("x" * size))
    assert await put_aside(bench, actor) == ("x" * size if size <= 80 else None)
    await bench.settle()
    assert actor.alive is (size > 80)
    assert len([event for event in bench.seen if isinstance(event, DeactivationRefused)]) == (size > 80)


async def test_one_whose_state_finds_no_room_goes_on() -> None:
    bench = Bench()
    actor = await bench.start("v", get_state=returns("s"), handle=returns("1"))
    assert await put_aside(bench, actor, room=False) == "s"
    await bench.settle()
    assert actor.alive
    assert await bench.ask(actor) == "1"


async def test_a_state_that_cannot_be_read_keeps_it_here() -> None:
    bench = Bench()
    failure = Failure(True, "UnsupportedType", "state.x: a socket", "{}", "")
    actor = await bench.start("v", get_state=returns(failure))
    assert await put_aside(bench, actor) is None
    assert actor.alive
    (event,) = (event for event in bench.seen if isinstance(event, DeactivationRefused))
    assert "a socket" in event.message


async def test_one_that_dies_of_it_says_so_once() -> None:
    bench = Bench()
    actor = await bench.start("v", get_state=returns(Trapped(exits.limit("stack", "too deep"))))
    assert await put_aside(bench, actor) is None
    assert bench.exits["v"].text == "limit(stack)"
