"""Who is in memory, who waits, who leaves; and that nobody who sends messages can tell."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plexspaces_runtime.actors import exits
from plexspaces_runtime.actors.actor import Run
from plexspaces_runtime.actors.exits import Exit
from plexspaces_runtime.actors.guest import Failure
from plexspaces_runtime.actors.lifecycle import State
from plexspaces_runtime.errors import HandlerCrashed
from plexspaces_runtime.events import DeactivationRefused
from plexspaces_runtime.facets.virtual_actor import NAME_BYTES, RESCAN_NS, MemoryStates, Stay
from plexspaces_runtime.scope import Address
from tests.unit.facets.house import OTHER, House, Looked
from tests.unit.scripted import SCOPE

# -- nobody can tell ---------------------------------------------------------------------------------------


class Model:
    """What is answered where every actor lives for ever."""

    def __init__(self) -> None:
        self._totals: dict[str, int] = {}

    def ask(self, name: str, op: str, argument: int) -> str | None:
        match op:
            case "add":
                self._totals[name] = self._totals.get(name, 0) + argument
            case "crash":
                self._totals.pop(name, None)
                return None
        return str(self._totals.setdefault(name, 0))


async def compare(seed: int, messages: int, names: int, cap: int, idle_s: float, *, crashes: bool = True) -> House:
    chance = random.Random(seed)
    house, model = House(cap, idle_s), Model()
    expected, futures = [], []

    def post() -> None:
        name = f"n/{chance.randrange(names)}"
        op = chance.choices(["add", "burn", "crash"], [90, 8, 2 if crashes else 0])[0]
        argument = chance.randrange(1, 5)
        expected.append(model.ask(name, op, argument))
        futures.append(house.post(name, op, argument))

    def meanwhile() -> None:
        if len(futures) < messages and chance.random() < 0.5:
            post()

    house.guests.meanwhile = meanwhile
    while len(futures) < messages:
        post()
        if chance.random() < 0.3:
            await house.settle()
        if chance.random() < 0.2:
            house.clock.advance(chance.choice([0.001, idle_s, 3 * idle_s]))
            house.alarm.look()
    await house.pass_time(RESCAN_NS / 1e9)
    outcomes = [future.result() for future in futures]
    told: list[Any] = [None if isinstance(outcome, HandlerCrashed) else outcome for outcome in outcomes]
    assert told == expected
    assert house.guests.open_most <= cap
    resident, waiting, activations, deactivations = house.figures()
    assert (resident, waiting) == (house.guests.open, 0)
    if not crashes:
        assert resident == activations - deactivations
    return house


async def test_thousands_of_messages_over_many_names_get_the_answers_they_would_get_if_all_lived_for_ever() -> None:
    house = await compare(1, messages=6_000, names=60, cap=4, idle_s=0.02)
    *_, deactivations = house.figures()
    assert deactivations > 1_000


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    names=st.integers(1, 8),
    cap=st.integers(1, 4),
    idle_s=st.sampled_from([0.01, 0.05, 1.0]),
    crashes=st.booleans(),
)
def test_so_does_any_course_of_things(seed: int, names: int, cap: int, idle_s: float, crashes: bool) -> None:
    asyncio.run(compare(seed, 120, names, cap, idle_s, crashes=crashes))


# -- the cap -----------------------------------------------------------------------------------------------


async def test_the_one_used_longest_ago_leaves_and_only_when_it_is_gone_the_new_one_begins() -> None:
    house = House(cap=2)
    await house.ask("a")
    await house.ask("b")
    await house.ask("a")
    house.diary.clear()
    assert await house.ask("c") == "1"
    assert house.resident() == {"a", "c"}
    assert house.diary == [("ends", "b"), ("begins", "c")]
    assert await house.ask("b") == "2"
    assert house.resident() == {"b", "c"}
    assert house.guests.open_most == 2


@pytest.mark.parametrize(("asked", "resident"), [(2, 2), (3, 3), (4, 3)])
async def test_at_the_cap_one_below_and_one_above(asked: int, resident: int) -> None:
    house = House(cap=3)
    for number in range(asked):
        await house.ask(f"n/{number}")
    assert house.figures() == (resident, 0, asked, asked - resident)


async def test_one_that_waits_for_room_has_an_open_mailbox_and_has_not_begun() -> None:
    house = House(cap=1)
    busy = house.post("a", "burn", 20)
    waiting = [house.post("b", "add"), house.post("b", "add")]
    actor = house.resolve("b")
    assert (actor.state, actor.run, len(actor.mailbox)) == (State.STARTING, Run.NEW, 2)
    assert house.figures()[:2] == (1, 1)
    assert house.residency("b").report() == {"stay": "waiting", "idle_timeout_s": 60.0}
    assert not busy.done()
    await house.settle()
    assert [future.result() for future in waiting] == ["1", "2"]
    assert busy.result() == "0"


async def test_those_who_wait_begin_in_the_order_of_coming() -> None:
    house = House(cap=1)
    house.post("a", "burn", 5)
    for name in ("x", "b", "m"):
        house.post(name, "burn", 3)
    await house.settle()
    assert [name for what, name in house.diary if what == "begins"] == ["a", "x", "b", "m"]
    assert house.guests.open_most == 1


async def test_one_that_owes_a_reply_stays_and_is_found_soon_after_it_has_given_it() -> None:
    house = House(cap=1)
    owed = house.post("a", "defer")
    await house.settle()
    actor = house.resolve("a")
    assert actor.anchored
    waiting = house.post("b", "add")
    await house.settle()
    assert house.resident() == {"a"}
    # The deadline ends what is owed without the actor having any part in it.
    actor.deferred.clear()
    await house.settle()
    assert house.resident() == {"a"}
    await house.pass_time(RESCAN_NS / 1e9)
    assert house.resident() == {"b"}
    assert waiting.result() == "1"
    assert not owed.done()


async def test_one_that_gets_a_message_before_its_turn_to_leave_lives_on_and_another_leaves() -> None:
    house = House(cap=2)
    await house.ask("a")
    await house.ask("b")
    new = house.post("c", "add")
    # `a` has been asked to leave, and this comes before it is its turn.
    house.post("a", "add")
    await house.settle()
    assert house.resident() == {"a", "c"}
    assert ("ends", "a") not in house.diary
    assert new.result() == "1"


@pytest.mark.parametrize("exit_", [exits.KILLED, exits.SHUTDOWN, exits.stopped("by an operator")], ids=str)
async def test_one_ended_while_it_waits_leaves_the_queue_and_its_state_is_there_for_the_next(exit_: Exit) -> None:
    house = House(cap=1)
    await house.ask("b", argument=7)
    busy = house.post("a", "burn", 30)
    await house.ask("a")
    assert busy.done()
    house.post("a", "burn", 10)
    second = house.post("b", "add")
    third = house.post("c", "add")
    assert house.figures()[1] == 2
    waiting = house.resolve("b")
    waiting.mailbox.drain()
    house.bench.scheduler.kill(waiting, exit_)
    assert house.figures()[1] == 1
    await house.settle()
    assert ("b", exit_) in house.starts
    assert third.result() == "1"
    assert not second.done()
    assert await house.ask("b") == "8"


async def test_one_that_handles_a_message_or_has_one_waiting_is_not_asked_to_leave() -> None:
    house = House(cap=2)
    for name in ("a", "b"):
        await house.ask(name)
    house.guests.holds_message = True
    held = house.post("a", "hold")
    await house.until(lambda: house.resolve("a").state is State.BUSY)
    house.post("b", "add")
    new = house.post("c", "add")
    assert [house.residency(name).stay for name in ("a", "b", "c")] == [Stay.RESIDENT, Stay.RESIDENT, Stay.WAITING]
    await house.until(new.done)
    assert house.resident() == {"a", "c"}
    house.guests.holds_message = False
    await house.until(held.done)


async def test_while_one_waits_a_message_to_another_costs_no_search_through_all() -> None:
    house = House(cap=200)
    for number in range(200):
        house.post(f"n/{number}", "defer")
    await house.settle()
    house.post("new", "add")
    await house.settle()
    before = Looked.looks
    for number in range(400):
        house.post(f"n/{number % 200}", "add")
        await house.settle()
    assert house.figures()[:2] == (200, 1)
    assert Looked.looks - before <= 3 * 400


async def test_where_one_cannot_leave_the_next_is_asked_at_once() -> None:
    house = House(cap=2)
    for name in ("a", "b"):
        await house.ask(name)
    house.guests.state_fails = frozenset({"a"})
    assert await house.ask("c") == "1"
    assert house.resident() == {"a", "c"}


async def test_tenants_do_not_take_each_others_room() -> None:
    house = House(cap=1)
    await house.ask("a")
    await house.ask("a", scope=OTHER)
    assert house.resident() == house.resident(OTHER) == {"a"}
    await house.ask("b", scope=OTHER)
    assert house.resident() == {"a"}
    assert house.resident(OTHER) == {"b"}


async def test_the_room_of_one_that_crashes_goes_to_the_one_that_waits() -> None:
    house = House(cap=1)
    house.post("a", "burn", 3)
    house.post("a", "crash")
    new = house.post("b", "add")
    await house.settle()
    assert new.result() == "1"
    assert house.figures() == (1, 0, 2, 0)


# -- idleness ----------------------------------------------------------------------------------------------


async def test_one_leaves_when_it_was_idle_for_its_time_and_not_before_and_a_message_begins_the_time_anew() -> None:
    house = House(idle_s=10)
    await house.ask("a")
    await house.pass_time(9.98)
    assert await house.ask("a") == "2"
    await house.pass_time(9.98)
    assert house.resident() == {"a"}
    await house.pass_time(0.04)
    assert house.resident() == set()
    assert house.figures() == (0, 0, 1, 1)
    assert await house.ask("a") == "3"
    assert house.figures() == (1, 0, 2, 1)


async def test_the_time_of_idleness_begins_when_a_long_message_ends() -> None:
    house = House(idle_s=10)
    await house.ask("a")
    long = house.post("a", "defer")
    await house.settle()
    actor = house.resolve("a")
    await house.pass_time(11)
    assert house.resident() == {"a"}
    await house.ask("a", "reply", actor.deferred and next(iter(actor.deferred)))
    assert long.result() == '"late"'
    await house.pass_time(9.9)
    assert house.resident() == {"a"}
    await house.pass_time(0.2)
    assert house.resident() == set()


async def test_messages_set_no_alarm_and_thousands_of_idle_ones_have_one() -> None:
    house = House(idle_s=10, cap=2_000)
    for number in range(2_000):
        house.post(f"n/{number}", "add")
    await house.settle()
    before = house.alarm.settings
    assert before < 10
    for number in range(2_000):
        house.post(f"n/{number}", "add")
    await house.settle()
    assert house.alarm.settings == before
    await house.pass_time(10.1)
    assert house.figures() == (0, 0, 2_000, 2_000)
    assert house.alarm.due_ns is None


# -- what happens on the way out ---------------------------------------------------------------------------


async def test_a_message_that_comes_while_the_state_is_read_keeps_it_alive() -> None:
    house = House(idle_s=1)
    await house.ask("a")
    house.guests.holds_state = True
    house.clock.advance(1.1)
    house.alarm.look()
    await house.until(lambda: house.guests.state_reads == 1)
    late = house.post("a", "add")
    house.guests.holds_state = False
    await house.settle()
    assert late.result() == "2"
    assert house.figures() == (1, 0, 1, 0)
    await house.pass_time(2)
    assert house.resident() == set()


async def test_a_message_that_comes_during_its_terminate_is_for_the_next_incarnation_which_has_the_state() -> None:
    house = House(idle_s=1)
    await house.ask("a", argument=5)
    house.guests.holds_terminate = True
    house.clock.advance(1.1)
    house.alarm.look()
    await house.until(lambda: house.figures()[3] == 1)
    actor = house.resolve("a")
    assert actor.state is State.STOPPING
    late = house.post("a", "add")
    house.guests.holds_terminate = False
    await house.settle()
    assert late.result() == "6"
    assert house.figures() == (1, 0, 2, 1)
    assert house.resolve("a") is not actor


async def test_after_a_crash_it_begins_afresh_and_so_does_one_that_cannot_begin_with_what_it_left() -> None:
    house = House(idle_s=1)
    await house.ask("a", argument=5)
    await house.ask("a", "crash")
    assert await house.ask("a") == "1"
    await house.pass_time(2)
    house.guests.init_fails = Failure(True, "ValueError", "ValueError: corrupt", "{}", "")
    actor = house.resolve("a")
    await house.settle()
    assert not actor.alive
    house.guests.init_fails = None
    assert await house.ask("a") == "1"


async def test_a_start_for_which_the_node_has_no_room_loses_no_state() -> None:
    house = House(idle_s=1)
    await house.ask("a", argument=5)
    await house.pass_time(2)
    house.room = False
    house.resolve("a")
    await house.settle()
    assert house.starts[-1][1] is not None
    assert house.figures()[:2] == (0, 0)
    house.room = True
    assert await house.ask("a") == "6"


async def test_one_whose_state_cannot_be_kept_for_want_of_room_stays_and_the_node_says_so_once() -> None:
    state_bytes = NAME_BYTES + len('{"total":1}')
    house = House(idle_s=1, state_bytes_max=2 * state_bytes)
    for name in ("a", "b", "c", "d"):
        await house.ask(name)
    await house.pass_time(1.5)
    assert len(house.resident()) == 2
    for _ in range(5):
        await house.pass_time(1.5)
    (event,) = [event for event in house.bench.seen if isinstance(event, DeactivationRefused)]
    assert "virtual_state_bytes_per_tenant_max" in event.message
    assert len(house.resident()) == 2
    for name in ("a", "b", "c", "d"):
        assert await house.ask(name) == "2"


async def test_a_full_store_lets_one_in_for_one_that_leaves() -> None:
    state_bytes = NAME_BYTES + len('{"total":1}')
    house = House(cap=1, state_bytes_max=state_bytes)
    for total in range(1, 5):
        for name in ("a", "b"):
            assert await house.ask(name) == str(total)


async def test_one_whose_state_cannot_be_read_stays_and_is_not_asked_again_and_again() -> None:
    house = House(cap=1, idle_s=10)
    house.guests.state_fails = frozenset({"a"})
    await house.ask("a")
    new = house.post("b", "add")
    await house.settle()
    for _ in range(50):
        await house.pass_time(0.15)
    assert house.guests.state_reads == 1
    assert house.resident() == {"a"}
    house.guests.state_fails = frozenset()
    await house.pass_time(3)
    assert new.result() == "1"


@pytest.mark.parametrize("facets_stay", [True, False])
async def test_one_killed_on_its_way_out_leaves_its_place_and_its_successor_comes_after_those_who_wait(
    facets_stay: bool,
) -> None:
    house = House(cap=1)
    house.facets_stay = facets_stay
    await house.ask("a")
    house.guests.holds_state = True
    new = house.post("b", "add")
    await house.until(lambda: house.guests.state_reads == 1)
    late = house.post("a", "add")
    house.bench.scheduler.kill(house.resolve("a"))
    assert house.figures()[:2] == (0, 2)
    assert house.residency("a").stay is Stay.WAITING
    house.guests.holds_state = False
    await house.settle()
    assert (new.result(), late.result()) == ("1", "1")
    assert house.figures() == (1, 0, 3, 1)


# -- the states --------------------------------------------------------------------------------------------

ADDRESSES = [Address(scope, type_, key) for scope in (SCOPE, OTHER) for type_ in ("a", "b") for key in ("x", "y")]
STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "keep", "put_back", "forget"]), st.sampled_from(ADDRESSES), st.text(max_size=9))
)


@given(STEPS)
def test_the_store_is_a_dict_with_a_limit_for_each_tenant(steps: list[tuple[str, Address, str]]) -> None:
    bytes_max = 3 * (NAME_BYTES + 5)
    store, model = MemoryStates(bytes_max), dict[Address, str]()

    def used(tenant: str) -> int:
        return sum(NAME_BYTES + len(s.encode()) for a, s in model.items() if a.scope.tenant == tenant)

    for step, address, state in steps:
        match step:
            case "take":
                assert store.take(address) == model.pop(address, None)
            case "keep":
                after = {**model, address: state}
                fits = (
                    sum(
                        NAME_BYTES + len(s.encode()) for a, s in after.items() if a.scope.tenant == address.scope.tenant
                    )
                    <= bytes_max
                )
                assert store.keep(address, state) is fits
                if fits:
                    model = after
            case "put_back":
                store.put_back(address, state)
                model[address] = state
            case "forget":
                store.forget(address.scope, address.type)
                model = {a: s for a, s in model.items() if (a.scope, a.type) != (address.scope, address.type)}
        for scope in (SCOPE, OTHER):
            assert store.bytes_of(scope.tenant) == used(scope.tenant)


async def test_what_a_type_left_is_forgotten_with_it() -> None:
    house = House(idle_s=1)
    await house.ask("a")
    await house.ask("b")
    await house.pass_time(2)
    house.residents.forget(SCOPE, "a")
    assert await house.ask("a") == "1"
    assert await house.ask("b") == "2"
