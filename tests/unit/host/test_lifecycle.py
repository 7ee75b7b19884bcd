"""Links, monitors, trapping, stopping and spawning, as a guest meets them: OTP's rules, one by one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from plexspaces_runtime.actors import exits
from plexspaces_runtime.actors.actor import Actor
from plexspaces_runtime.actors.capabilities import Grants, Layer
from plexspaces_runtime.actors.guest import Err, Ok
from plexspaces_runtime.errors import ActorExited
from plexspaces_runtime.scope import Address, Scope
from tests.unit.scripted import BURN, Bench, Puppet, call


def link(name: str) -> Any:
    return call("lifecycle", "link", name)


def unlink(name: str) -> Any:
    return call("lifecycle", "unlink", name)


def monitor(name: str) -> Any:
    return call("lifecycle", "monitor", name)


def demonitor(reference: str) -> Any:
    return call("lifecycle", "demonitor", reference)


def spawn(type_: str, key: str = "", args: str = "{}", *, link: bool = False, monitor: bool = False) -> Any:
    return call("lifecycle", "spawn", (type_, key, args, link, monitor))


async def pair(*, trap: bool = False) -> Bench:
    """`a` and `b`, linked; `a` traps or not."""
    bench = Bench()
    await bench.puppet("a", trap=trap)
    await bench.puppet("b")
    assert await bench.do("a", link("b")) == Ok(None)
    return bench


# -- links ---------------------------------------------------------------------------------------------------


async def test_a_crash_ends_the_linked_one_for_the_same_reason_and_names_the_cause() -> None:
    bench = await pair()
    await bench.crash("b", "no such row")
    assert bench.exits["a"].text == bench.exits["b"].text == "crashed(RuntimeError, no such row)"
    assert (bench.exits["a"].cause, bench.exits["b"].cause) == ("b", "")
    assert bench.exits["a"].traceback == "", "one traceback is enough for the log"


@pytest.mark.parametrize("dies", ["a", "b"])
async def test_a_link_holds_both_ways(dies: str) -> None:
    bench = await pair()
    await bench.crash(dies)
    assert set(bench.exits) == {"a", "b"}


@pytest.mark.parametrize(("reason", "shared"), [("normal", False), ("shutdown", True), ("because", True)])
async def test_only_a_normal_end_is_not_shared(reason: str, shared: bool) -> None:
    bench = await pair()
    assert await bench.do("b", call("lifecycle", "stop", "b", reason)) == Ok(None)
    await bench.settle()
    assert ("a" in bench.exits) is shared
    if shared:
        assert bench.exits["a"].text == bench.exits["b"].text


@pytest.mark.parametrize(
    ("reason", "text"), [("normal", "normal"), ("shutdown", "shutdown"), ("because", "crashed(stopped, because)")]
)
async def test_one_that_traps_hears_of_every_end_and_lives(reason: str, text: str) -> None:
    bench = await pair(trap=True)
    await bench.do("b", call("lifecycle", "stop", "b", reason))
    await bench.settle()
    assert bench.heard("a") == [("EXIT", {"actor_id": "b", "reason": text})]
    assert "a" not in bench.exits
    assert bench.puppets["a"].envelopes[-1][1] == "info"


async def test_a_kill_comes_through_a_link_as_killed_and_can_be_trapped() -> None:
    bench = await pair(trap=True)
    await bench.puppet("c")
    await bench.do("c", link("b"))
    await bench.kill("b")
    assert bench.heard("a") == [("EXIT", {"actor_id": "b", "reason": "killed"})]
    assert bench.exits["c"].reason is exits.Reason.KILLED


async def test_linking_twice_is_linking_once() -> None:
    bench = await pair(trap=True)
    await bench.do("a", link("b"))
    await bench.do("b", link("a"))
    await bench.kill("b")
    assert len(bench.heard("a")) == 1


async def test_after_unlink_either_may_end() -> None:
    bench = await pair()
    assert await bench.do("b", unlink("a")) == Ok(None)
    await bench.crash("a")
    assert "b" not in bench.exits


async def test_after_unlink_not_even_an_exit_that_waits_comes() -> None:
    bench = await pair(trap=True)
    awake = bench.begin("a", call("clock", "sleep-ns", 1_000_000), unlink("b"))
    await bench.settle()
    await bench.kill("b")
    assert await awake
    await bench.settle()
    assert bench.heard("a") == []
    assert bench.actors["a"].exits == {}


async def test_a_link_to_nobody_kills_with_noproc_or_tells_so() -> None:
    bench = Bench()
    await bench.puppet("a")
    await bench.puppet("t", trap=True)
    assert await bench.do("t", link("nobody")) == Ok(None)
    await bench.settle()
    assert bench.heard("t") == [("EXIT", {"actor_id": "nobody", "reason": "noproc"})]
    with pytest.raises(ActorExited, match="noproc"):
        await bench.do("a", link("nobody"))
    assert (bench.exits["a"].text, bench.exits["a"].cause) == ("noproc", "nobody")


async def test_a_link_or_monitor_to_oneself_means_nothing() -> None:
    bench = Bench()
    actor = await bench.puppet("a", trap=True)
    assert await bench.do("a", link("a")) == Ok(None)
    reference = (await bench.do("a", monitor("a"))).value
    assert await bench.do("a", demonitor(reference)) == Ok(None)
    await bench.do("a", monitor("a"))
    assert not actor.anchored
    await bench.kill("a")
    await bench.restart("a", actor)
    assert bench.heard("a") == []


async def test_an_actor_of_another_scope_is_like_a_dead_one() -> None:
    bench = Bench()
    await bench.puppet("a", trap=True)
    for scope in (Scope("rival", "default"), Scope("acme", "other")):
        stranger = Actor(Address(scope, "b"), bench.spec(), lambda *_: None, started_ms=0)
        bench.registry.add(stranger)
    reference = (await bench.do("a", link("b"), monitor("b"))).value
    await bench.settle()
    assert bench.heard("a") == [
        ("EXIT", {"actor_id": "b", "reason": "noproc"}),
        ("DOWN", {"monitor_ref": reference, "actor_id": "b", "reason": "noproc"}),
    ]
    assert (await bench.do("a", call("lifecycle", "stop", "b", "shutdown"))).value[0] == "actor-not-found"


async def test_the_first_reason_goes_all_the_way_round_a_ring() -> None:
    bench = Bench()
    names = ["a", "b", "c", "d"]
    for name in names:
        await bench.puppet(name)
    for one, next_one in zip(names, names[1:] + names[:1], strict=True):
        await bench.do(one, link(next_one))
    await bench.crash("c", "first")
    assert [bench.exits[name].text for name in names] == ["crashed(RuntimeError, first)"] * 4
    assert [bench.exits[name].cause for name in names] == ["c", "c", "", "c"]


async def test_a_link_ends_one_that_waits_and_frees_its_guest() -> None:
    bench = await pair()
    asleep = bench.begin("a", call("clock", "sleep-ns", 60_000_000_000))
    await bench.settle()
    guest = bench.actors["a"].guest
    await bench.crash("b")
    assert isinstance(await asleep, Exception)
    assert guest.closed  # type: ignore[union-attr]


async def test_a_link_ends_one_that_is_on_another_thread_when_it_comes_back_and_its_links_fire_then() -> None:
    bench = Bench(offload_after_slices=1, slice_ms=1)

    def forever(*_: str) -> Any:
        while True:
            yield BURN

    burner = await bench.start("burner", handle=forever)
    bench.actors["burner"] = burner
    await bench.puppet("a")
    await bench.puppet("z", trap=True)
    await bench.do("a", link("burner"))
    await bench.do("z", link("burner"))
    answer = bench.post(burner)
    while not bench.scheduler.offloaded:
        await asyncio.sleep(0)
    await bench.crash("a", "first")
    bench.scheduler.kill(burner)
    outcome = await answer
    assert "first" in str(outcome), "the first reason is the reason"
    await bench.settle()
    assert bench.exits["burner"].cause == "a"
    assert bench.heard("z") == [("EXIT", {"actor_id": "burner", "reason": "crashed(RuntimeError, first)"})]
    bench.scheduler.close()


async def test_trapping_is_a_switch_that_says_how_it_was() -> None:
    bench = await pair()
    assert await bench.do("a", call("lifecycle", "trap-exit", True)) is False
    assert await bench.do("a", call("lifecycle", "trap-exit", True)) is True
    assert await bench.do("a", call("lifecycle", "trap-exit", False)) is True
    await bench.crash("b")
    assert "a" in bench.exits


# -- monitors ------------------------------------------------------------------------------------------------


async def test_each_monitor_gives_one_down() -> None:
    bench = Bench()
    await bench.puppet("a")
    await bench.puppet("b")
    references = [(await bench.do("a", monitor("b"))).value for _ in range(3)]
    assert len(set(references)) == 3
    await bench.crash("b", "gone")
    assert bench.heard("a") == [
        ("DOWN", {"monitor_ref": reference, "actor_id": "b", "reason": "crashed(RuntimeError, gone)"})
        for reference in references
    ]
    assert bench.actors["a"].watching == {}


async def test_a_monitor_hears_of_a_normal_end_too_and_binds_nobody() -> None:
    bench = Bench()
    await bench.puppet("a")
    await bench.puppet("b")
    reference = (await bench.do("a", monitor("b"))).value
    await bench.do("b", call("lifecycle", "stop", "b", "normal"))
    await bench.settle()
    assert bench.heard("a") == [("DOWN", {"monitor_ref": reference, "actor_id": "b", "reason": "normal"})]
    await bench.puppet("b")
    await bench.do("a", monitor("b"))
    await bench.kill("a")
    assert "b" in bench.actors
    assert bench.actors["b"].watchers == {}


async def test_a_monitor_of_nobody_says_noproc_at_once() -> None:
    bench = Bench()
    await bench.puppet("a")
    reference = (await bench.do("a", monitor("b/7"))).value
    await bench.settle()
    assert bench.heard("a") == [("DOWN", {"monitor_ref": reference, "actor_id": "b/7", "reason": "noproc"})]


async def test_demonitor_takes_back_even_a_down_that_waits() -> None:
    bench = Bench()
    await bench.puppet("a")
    await bench.puppet("b")
    kept = (await bench.do("a", monitor("b"))).value
    flushed = (await bench.do("a", monitor("b"))).value
    awake = bench.begin("a", call("clock", "sleep-ns", 1_000_000), demonitor(flushed))
    await bench.settle()
    await bench.kill("b")
    assert await awake
    await bench.settle()
    assert [payload["monitor_ref"] for _, payload in bench.heard("a")] == [kept]
    assert await bench.do("a", demonitor("ref-of-nobody")) == Ok(None)


async def test_a_reference_is_its_holders_alone() -> None:
    bench = Bench()
    for name in ("a", "b", "c"):
        await bench.puppet(name)
    reference = (await bench.do("a", monitor("b"))).value
    await bench.do("c", demonitor(reference))
    await bench.kill("b")
    assert len(bench.heard("a")) == 1


async def test_what_the_node_tells_goes_before_what_waits_and_past_a_full_mailbox() -> None:
    bench = Bench(mailbox_messages_max=1)
    await bench.puppet("a", trap=True)
    await bench.puppet("b")
    await bench.do("a", link("b"), monitor("b"))
    awake = bench.begin("a", call("clock", "sleep-ns", 1_000_000))
    await bench.settle()
    assert bench.cast(bench.actors["a"], "cast")
    assert not bench.cast(bench.actors["a"], "cast")
    await bench.kill("b")
    await awake
    await bench.settle()
    assert [op for op, _ in bench.heard("a")] == ["EXIT", "DOWN", "cast"]


async def test_a_successor_has_no_links_and_hears_nothing_of_its_predecessors() -> None:
    bench = Bench()
    for name in ("a", "b", "c", "d"):
        await bench.puppet(name)
    await bench.do("a", call("lifecycle", "trap-exit", True), link("b"), monitor("b"), monitor("c"), link("d"))
    first = bench.actors["a"]
    bench.begin("a", call("clock", "sleep-ns", 60_000_000_000))
    await bench.settle()
    await bench.kill("b")
    assert len(first.mailbox.signals) == 2
    await bench.kill("a")
    assert first.mailbox.signals == ()
    second = await bench.restart("a", first)
    await bench.kill("c", *(["d"] if "d" in bench.actors else []))
    assert bench.heard("a") == []
    assert (second.links, second.watching, second.exits, second.trapping) == ({}, {}, {}, False)
    assert not second.mailbox.signals


async def test_a_reason_as_long_as_a_book_is_cut() -> None:
    bench = await pair(trap=True)
    await bench.crash("b", "x" * 100_000)
    ((_, payload),) = bench.heard("a")
    assert len(payload["reason"]) == 1_000
    assert payload["reason"].endswith("x...")


# -- limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3])
async def test_links_have_a_limit_at_both_ends(limit: int) -> None:
    bench = Bench(links_per_actor_max=limit)
    for name in ("a", *(f"b/{n}" for n in range(limit + 1))):
        await bench.puppet(name, trap=True)
    for number in range(limit):
        assert await bench.do(f"b/{number}", link("a")) == Ok(None)
    for one, other in ((f"b/{limit}", "a"), ("a", f"b/{limit}")):
        code, message, details = (await bench.do(one, link(other))).value
        assert code == "limit-exceeded"
        assert "links_per_actor_max" in message
        assert f'"value":{limit}' in details
    await bench.do("a", unlink("b/0"))
    assert await bench.do("a", link(f"b/{limit}")) == Ok(None)


async def test_exits_that_wait_count_as_links() -> None:
    bench = Bench(links_per_actor_max=2)
    await bench.puppet("a", trap=True)
    key = await bench.begin("a", *[link("nobody")] * 4)
    assert isinstance(key, str)
    assert [type(answer) for answer in bench.puppets["a"].done[key]] == [Ok, Ok, Err, Err]
    await bench.settle()
    assert len(bench.heard("a")) == 2
    assert await bench.do("a", link("nobody")) == Ok(None)


@pytest.mark.parametrize("limit", [1, 3])
async def test_monitors_have_a_limit_and_downs_that_wait_count(limit: int) -> None:
    bench = Bench(monitors_per_actor_max=limit)
    await bench.puppet("a")
    await bench.puppet("b")
    answers: list[Any] = []

    for _ in range(limit):
        answers.append(await bench.do("a", monitor("b")))
    for name in ("b", "nobody"):
        code, message, _ = (await bench.do("a", monitor(name))).value
        assert code == "limit-exceeded"
        assert "monitors_per_actor_max" in message
    await bench.do("a", demonitor(answers[0].value))
    assert isinstance(await bench.do("a", monitor("nobody")), Ok)
    await bench.settle()
    assert isinstance(await bench.do("a", monitor("b")), Ok)
    await bench.kill("b")
    assert len(bench.heard("a")) == limit + 1


# -- stop ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "text", "orderly"),
    [
        ("normal", "normal", True),
        ("shutdown", "shutdown", True),
        ("", "shutdown", True),
        ("out of date", "crashed(stopped, out of date)", False),
        ("killed", "crashed(stopped, killed)", False),
    ],
)
async def test_the_reason_of_a_stop_decides_how_it_counts(reason: str, text: str, orderly: bool) -> None:
    bench = Bench()
    await bench.puppet("a")
    await bench.puppet("b")
    assert await bench.do("a", call("lifecycle", "stop", "b", reason)) == Ok(None)
    await bench.settle()
    assert (bench.exits["b"].text, bench.exits["b"].orderly) == (text, orderly)


async def test_a_stop_waits_for_the_message_and_names_who_is_not_there() -> None:
    bench = Bench()
    await bench.puppet("a")
    await bench.puppet("b")
    busy = bench.begin("b", call("clock", "sleep-ns", 2_000_000), call("lifecycle", "self-id"))
    await bench.settle()
    await bench.do("a", call("lifecycle", "stop", "b", "shutdown"))
    assert isinstance(await busy, str)
    await bench.settle()
    assert (await bench.do("a", call("lifecycle", "stop", "b", "shutdown"))).value[0] == "actor-not-found"
    assert (await bench.do("a", call("lifecycle", "stop", "a/b/c", "x"))).value[0] == "invalid-argument"
    assert (await bench.do("a", call("lifecycle", "stop", "a", "x" * 1025))).value[0] == "invalid-argument"


async def test_only_messages_wake_a_virtual_actor() -> None:
    bench = Bench()
    await bench.puppet("a", trap=True)
    named: list[str] = []

    def activate(scope: Scope, text: str) -> Actor:
        named.append(text)
        actor = Actor(Address.parse(scope, text), bench.spec(), lambda *_: None, started_ms=0)
        bench.registry.add(actor)
        return actor

    bench.registry.activate = activate
    for request in (link("v/1"), unlink("v/1"), monitor("v/1"), call("lifecycle", "stop", "v/1", "shutdown")):
        await bench.do("a", request)
    assert named == []
    assert isinstance(await bench.do("a", call("messaging", "send", "v/1", "op", "{}")), Ok)
    assert named == ["v/1"]


# -- spawn ---------------------------------------------------------------------------------------------------


async def test_spawn_answers_when_the_new_actor_is_up() -> None:
    bench = Bench()
    worker = bench.types["worker"] = Puppet()
    worker.init_does = (call("clock", "sleep-ns", 2_000_000),)
    await bench.puppet("a")
    asked = bench.begin("a", spawn("worker", "7"))
    await bench.settle()
    assert bench.actors["worker/7"].state.value == "starting"
    await asked
    assert bench.puppets["a"].done.popitem()[1] == [Ok(("worker/7", ""))]
    assert bench.actors["worker/7"].state.value == "idle"
    assert not bench.actors["worker/7"].anchored
    assert (await bench.do("a", spawn("worker", "7"))).value[0] == "already-exists"


async def test_spawn_with_a_monitor_and_a_link_has_them_from_the_first_moment() -> None:
    bench = Bench()
    bench.types["worker"] = Puppet()
    await bench.puppet("a", trap=True)
    name, reference = (await bench.do("a", spawn("worker", link=True, monitor=True))).value
    assert name.startswith("worker/")
    await bench.crash(name, "soon")
    assert bench.heard("a") == [
        ("EXIT", {"actor_id": name, "reason": "crashed(RuntimeError, soon)"}),
        ("DOWN", {"monitor_ref": reference, "actor_id": name, "reason": "crashed(RuntimeError, soon)"}),
    ]


async def test_a_linked_child_dies_with_its_parent() -> None:
    bench = Bench()
    bench.types["worker"] = Puppet()
    await bench.puppet("a")
    linked, _ = (await bench.do("a", spawn("worker", link=True))).value
    free, _ = (await bench.do("a", spawn("worker"))).value
    await bench.crash("a", "parent")
    assert bench.exits[linked].text == "crashed(RuntimeError, parent)"
    assert free in bench.actors


@pytest.mark.parametrize("trap", [False, True])
async def test_a_start_that_fails_is_the_answer_and_nothing_else(trap: bool) -> None:
    bench = Bench()
    bench.types["worker"] = Puppet()
    bench.types["worker"].init_fails = True
    actor = await bench.puppet("a", trap=trap)
    answer = await bench.do("a", spawn("worker", "1", link=True, monitor=True))
    assert answer.value[0] == "handler-crashed"
    await bench.settle()
    assert actor.alive
    assert bench.heard("a") == []
    assert not actor.anchored
    assert "told to fail" in bench.exits["worker/1"].text
    bench.types["worker"].init_fails = False
    assert isinstance(await bench.do("a", spawn("worker", "1", link=True)), Ok)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("nothing", "", "{}", False, False), "actor-not-found"),
        (("no type", "", "{}", False, False), "invalid-argument"),
        (("worker", "a/b", "{}", False, False), "invalid-argument"),
        (("worker", "", "[]", False, False), "invalid-argument"),
        (("worker", "", "{", False, False), "invalid-argument"),
        (("worker", "", '{"a":"' + "x" * 100 + '"}', False, False), "limit-exceeded"),
    ],
)
async def test_a_spawn_that_makes_no_sense_is_refused(options: Any, code: str) -> None:
    bench = Bench(payload_bytes_max=64)
    bench.types["worker"] = Puppet()
    await bench.puppet("a")
    assert (await bench.do("a", call("lifecycle", "spawn", options))).value[0] == code
    assert list(bench.actors) == ["a"]


async def test_a_child_that_asks_its_parent_while_it_starts_is_told_of_the_cycle() -> None:
    bench = Bench()
    worker = bench.types["worker"] = Puppet()
    answers: list[Any] = []

    def init(*_: Any) -> Any:
        answers.append((yield call("messaging", "ask", "a", "do", "{}", 0)))
        return None

    worker.init = init  # type: ignore[method-assign]
    await bench.puppet("a")
    assert isinstance(await bench.do("a", spawn("worker", "1")), Ok)
    code, _, details = answers[0].value
    assert code == "deadlock"
    assert '["worker/1","a","worker/1"]' in details


async def test_a_parent_that_dies_while_it_spawns_takes_a_linked_child_along_and_no_other() -> None:
    bench = Bench()
    worker = bench.types["worker"] = Puppet()
    worker.init_does = (call("clock", "sleep-ns", 5_000_000),)
    for key, with_link in (("linked", True), ("free", False)):
        await bench.puppet("a")
        asked = bench.begin("a", spawn("worker", key, link=with_link, monitor=True))
        await bench.settle()
        await bench.kill("a")
        assert isinstance(await asked, ActorExited)
    assert bench.exits["worker/linked"].text == "killed"
    async with asyncio.timeout(5):
        while bench.actors["worker/free"].state.value != "idle":
            await asyncio.sleep(0.001)


async def test_a_child_that_is_made_after_its_parent_died_ends_before_it_begins() -> None:
    bench = Bench()
    bench.types["worker"] = Puppet()
    late: list[Any] = []

    class Slow:
        """Makes the actor only when it is told to."""

        def spawn_from(self, *arguments: Any) -> Address:
            late.append(lambda: bench.spawn_from(*arguments))
            return Address.parse(arguments[0].address.scope, "worker/1")

    bench.host.spawner = Slow()
    await bench.puppet("a")
    bench.begin("a", spawn("worker", "1", link=True))
    await bench.settle()
    await bench.kill("a")
    late[0]()
    assert (bench.exits["worker/1"].text, bench.exits["worker/1"].cause) == ("noproc", "a")


async def test_a_new_actor_is_offered_its_parents_capabilities_at_most() -> None:
    bench = Bench()
    bench.types["worker"] = Puppet()
    granted = Grants(frozenset({Layer.of("of a", {"spawn", "messaging"})}))
    await bench.puppet("a", capabilities=granted)
    await bench.do("a", spawn("worker", "1"))
    assert bench.actors["worker/1"].spec.capabilities == granted
    assert (await bench.do("worker/1", call("process-groups", "join", "g"))).value[0] == "permission-denied"
