"""Turns, host calls, ends: the scheduler with guests in plain Python."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from plexspaces_runtime.actors import exits
from plexspaces_runtime.actors.actor import Actor
from plexspaces_runtime.actors.exits import Exit
from plexspaces_runtime.actors.guest import Err, Failure, Ok, Trapped
from plexspaces_runtime.actors.lifecycle import State
from plexspaces_runtime.errors import (
    ActorExited,
    DeadlineExceeded,
    HandlerCrashed,
    HandlerRefused,
    LimitExceeded,
)
from plexspaces_runtime.events import FiberOffloaded, GuestLogged, GuestLogTruncated, MessageExpired
from plexspaces_runtime.scope import Address, Scope
from tests.unit.scripted import BURN, SCOPE, Bench, call, returns


def echo(_id: str, _kind: str, op: str, payload: str, _sender: str, _context: str) -> Any:
    return payload
    yield


async def test_a_call_gets_its_handlers_reply() -> None:
    bench = Bench()
    actor = await bench.start("echo", handle=echo)
    assert await bench.ask(actor, payload='{"n": 1}') == '{"n": 1}'
    assert actor.state is State.IDLE
    assert actor.handled == 1


async def test_messages_are_handled_one_at_a_time_in_order() -> None:
    bench = Bench()
    seen: list[str] = []

    def handle(_id: str, _kind: str, op: str, payload: str, *_: str) -> Any:
        seen.append(f"begin {payload}")
        yield BURN
        yield call("clock", "sleep-ns", 1_000_000)
        seen.append(f"end {payload}")
        return payload

    actor = await bench.start("slow", handle=handle)
    await asyncio.gather(*(bench.post(actor, payload=str(n)) for n in range(20)))
    assert seen == [word for n in range(20) for word in (f"begin {n}", f"end {n}")]


async def test_an_actor_that_burns_lets_others_run_between() -> None:
    bench = Bench(offload_after_slices=1_000_000)
    turns: list[str] = []

    def burner(*_: str) -> Any:
        for _turn in range(5):
            turns.append("burner")
            yield BURN
        return "done"

    def quick(*_: str) -> Any:
        turns.append("quick")
        return "done"
        yield

    first = await bench.start("burner", handle=burner)
    second = await bench.start("quick", handle=quick)
    await asyncio.gather(bench.post(first), *(bench.post(second) for _ in range(3)))
    assert turns == ["burner", "quick", "burner", "quick", "burner", "quick", "burner", "burner"]


async def test_a_handler_that_keeps_burning_goes_to_another_thread_and_comes_back_for_host_calls() -> None:
    import threading

    bench = Bench(offload_after_slices=1, slice_ms=1)
    threads: list[str] = []

    def handle(*_: str) -> Any:
        until = bench.clock.monotonic_ns() + 20_000_000
        while bench.clock.monotonic_ns() < until:
            threads.append(threading.current_thread().name)
            yield BURN
        name = yield call("lifecycle", "self-id")
        threads.append(threading.current_thread().name)
        return name

    actor = await bench.start("hot", handle=handle)
    assert await bench.ask(actor) == "hot"
    assert "MainThread" in threads
    assert "offload-0" in threads
    assert [type(event) for event in bench.seen].count(FiberOffloaded) == 1
    assert bench.scheduler.offloaded == 0
    bench.scheduler.close()


async def test_an_offloaded_actor_can_be_killed() -> None:
    bench = Bench(offload_after_slices=1, slice_ms=1)

    def forever(*_: str) -> Any:
        while True:
            yield BURN

    actor = await bench.start("hot", handle=forever)
    answer = bench.post(actor)
    while not bench.scheduler.offloaded:
        await asyncio.sleep(0)
    bench.scheduler.kill(actor)
    outcome = await answer
    assert isinstance(outcome, ActorExited)
    assert bench.exits["hot"] is exits.KILLED
    assert bench.guests["hot"].closed
    bench.scheduler.close()


async def test_the_cpu_limit_ends_a_burning_handler_and_names_itself() -> None:
    bench = Bench(cpu_ms_per_message_max=5, offload_after_slices=1_000_000)

    def forever(*_: str) -> Any:
        while True:
            yield BURN

    actor = await bench.start("hot", handle=forever)
    outcome = await bench.ask(actor)
    assert isinstance(outcome, HandlerCrashed)
    assert outcome.details["exit"] == "limit(cpu)"
    assert "cpu_ms_per_message_max" in str(outcome)
    assert bench.exits["hot"].text == "limit(cpu)"


async def test_the_cpu_limit_holds_on_the_other_thread_too() -> None:
    bench = Bench(cpu_ms_per_message_max=20, offload_after_slices=1, slice_ms=1)

    def forever(*_: str) -> Any:
        while True:
            yield BURN

    outcome = await bench.ask(await bench.start("hot", handle=forever))
    assert isinstance(outcome, HandlerCrashed)
    assert outcome.details["exit"] == "limit(cpu)"
    bench.scheduler.close()


async def test_a_handler_that_calls_the_host_without_end_meets_its_limit() -> None:
    bench = Bench(host_calls_per_message_max=50)
    calls = 0

    def chatty(*_: str) -> Any:
        nonlocal calls
        while True:
            yield call("clock", "now-ns")
            calls += 1

    outcome = await bench.ask(await bench.start("chatty", handle=chatty))
    assert isinstance(outcome, HandlerCrashed)
    assert outcome.details["exit"] == "limit(host-calls)"
    assert calls == 50


async def test_an_init_that_waits_for_ever_meets_the_wall_limit_too() -> None:
    bench = Bench(wall_s_per_message_max=0.05)

    def init(*_: Any) -> Any:
        yield call("clock", "sleep-ns", 3_600_000_000_000)

    actor = Actor(Address.parse(SCOPE, "a"), bench.spec(init=init), bench._exited, started_ms=0)
    bench.registry.add(actor)
    done: asyncio.Future[Exit | None] = asyncio.get_running_loop().create_future()
    bench.scheduler.start(actor, None, done.set_result)
    async with asyncio.timeout(5):
        failed = await done
    assert failed is not None
    assert failed.text == "limit(wall)"
    assert "`init` took longer than wall_s_per_message_max = 0.05" in failed.message
    assert not actor.alive


async def test_a_suspended_message_meets_its_wall_limit() -> None:
    bench = Bench(wall_s_per_message_max=0.05)

    def sleeper(*_: str) -> Any:
        while True:
            yield call("clock", "sleep-ns", 10_000_000)

    outcome = await bench.ask(await bench.start("sleeper", handle=sleeper))
    assert isinstance(outcome, HandlerCrashed)
    assert outcome.details["exit"] == "limit(wall)"


async def test_a_refusal_is_the_callers_and_the_actor_goes_on() -> None:
    bench = Bench()
    failure = Failure(False, "unknown-operation", "no handler 'x'", '{"near": "y"}', "")
    actor = await bench.start("picky", handle=returns(failure))
    outcome = await bench.ask(actor)
    assert isinstance(outcome, HandlerRefused)
    assert outcome.details == {"reason": "unknown-operation", "near": "y"}
    assert actor.state is State.IDLE


async def test_a_crash_ends_the_actor_and_tells_the_caller_without_the_traceback() -> None:
    bench = Bench()
    failure = Failure(True, "ValueError", "ValueError: no such row", "{}", "secret traceback")
    actor = await bench.start("frail", handle=returns(failure))
    outcome = await bench.ask(actor)
    assert isinstance(outcome, HandlerCrashed)
    assert outcome.message == "ValueError: no such row"
    assert "secret" not in repr(outcome.details) + str(outcome)
    assert bench.exits["frail"].traceback == "secret traceback"
    assert bench.registry.find(actor.address.scope, "frail") is None
    assert bench.guests["frail"].closed


async def test_a_trap_ends_the_actor() -> None:
    bench = Bench()
    actor = await bench.start("broken", handle=returns(Trapped(exits.limit("stack", "too deep"))))
    outcome = await bench.ask(actor)
    assert isinstance(outcome, HandlerCrashed)
    assert outcome.details["exit"] == "limit(stack)"


async def test_an_init_that_fails_is_a_failed_start() -> None:
    bench = Bench()
    failure = Failure(True, "KeyError", "KeyError: 'args'", "{}", "")
    with pytest.raises(AssertionError) as refused:
        await bench.start("stillborn", init=returns(failure))
    assert refused.value.args[0].text == "crashed(KeyError, 'args')"
    assert bench.registry.count == 0


async def test_state_is_restored_before_init() -> None:
    bench = Bench()
    order: list[Any] = []

    def record(name: str) -> Any:
        def script(*arguments: Any) -> Any:
            order.append((name, arguments))
            return None
            yield

        return script

    await bench.start("old", state='{"count": 5}', init=record("init"), set_state=record("set-state"))
    config = ("old", "", "{}", True, "{}")
    assert order == [("set-state", (config, '{"count": 5}')), ("init", (config,))]


async def test_a_caller_who_asks_again_and_again_does_not_keep_the_loop_from_others() -> None:
    bench = Bench(slice_ms=1)
    actor = await bench.start("echo", handle=echo)
    others_ran = False

    def other() -> None:
        nonlocal others_ran
        others_ran = True

    asyncio.get_running_loop().call_soon(other)
    asked = 0
    while not others_ran:
        # Answered before it is awaited, for a slice; then through the queue, which gives the loop its turn.
        assert await bench.ask_directly(actor) == "{}"
        asked += 1
    assert asked > 1


async def test_an_actor_that_is_busy_or_behind_others_is_not_run_out_of_turn() -> None:
    bench = Bench()
    order: list[str] = []

    def handle(_id: str, _kind: str, op: str, *_: str) -> Any:
        order.append(op)
        return "1"
        yield

    first, second = await bench.start("first", handle=handle), await bench.start("second", handle=handle)
    waiting = [bench.post(first, "a"), bench.post(first, "b")]
    await bench.ask_directly(second, "c")
    await asyncio.gather(*waiting)
    assert order == ["a", "c", "b"]


# -- host calls ----------------------------------------------------------------------------------------------


def relay(to: str, answers: list[Any], timeout_ms: int = 0) -> Any:
    def script(_id: str, _kind: str, op: str, payload: str, *_: str) -> Any:
        answer = yield call("messaging", "ask", to, op, payload, timeout_ms)
        answers.append(answer)
        return orjson.dumps(repr(answer)).decode()

    return script


async def test_an_actor_asks_another() -> None:
    bench = Bench()
    answers: list[Any] = []
    await bench.start("echo", handle=echo)
    await bench.ask(await bench.start("relay", handle=relay("echo", answers)), payload='{"x": 1}')
    assert answers == [Ok('{"x": 1}')]


async def test_asking_oneself_is_a_deadlock_refused_at_once() -> None:
    bench = Bench()
    answers: list[Any] = []
    await bench.ask(await bench.start("narcissus", handle=relay("narcissus", answers)))
    (answer,) = answers
    assert isinstance(answer, Err)
    code, message, details = answer.value
    assert code == "deadlock"
    assert orjson.loads(details) == {"cycle": ["narcissus", "narcissus"]}
    assert "narcissus -> narcissus" in message


async def test_a_cycle_of_three_is_refused_where_it_would_close_and_names_itself() -> None:
    bench = Bench()
    answers: list[Any] = []
    first = await bench.start("a", handle=relay("b", answers))
    await bench.start("b", handle=relay("c", answers))
    await bench.start("c", handle=relay("a", answers))
    await bench.ask(first)
    code, _message, details = answers[0].value
    assert code == "deadlock"
    assert orjson.loads(details)["cycle"] == ["c", "a", "b", "c"]
    # The refusal went back up as ordinary replies: nobody hangs.
    assert [type(answer) for answer in answers] == [Err, Ok, Ok]


async def test_a_deadline_travels_down_and_is_the_smaller_one() -> None:
    bench = Bench()
    answers: list[Any] = []

    def asleep(*_: str) -> Any:
        yield call("clock", "sleep-ns", 10_000_000_000)
        return "1"

    await bench.start("asleep", handle=asleep)
    outer = await bench.start("outer", handle=relay("asleep", answers, timeout_ms=60_000))
    outcome = await bench.ask(outer, timeout_s=0.05)
    assert isinstance(outcome, DeadlineExceeded)
    while not answers:
        await asyncio.sleep(0.005)
    assert answers[0].value[0] == "deadline-exceeded"


async def test_a_message_nobody_waits_for_any_more_is_not_handled() -> None:
    bench = Bench()
    handled: list[str] = []

    def slow(_id: str, _kind: str, op: str, *_: str) -> Any:
        handled.append(op)
        yield call("clock", "sleep-ns", 60_000_000)
        return "1"

    actor = await bench.start("slow", handle=slow)
    first = bench.post(actor, "first")
    second = bench.post(actor, "second", timeout_s=0.01)
    assert isinstance(await second, DeadlineExceeded)
    assert await first == "1"
    await asyncio.sleep(0)
    assert handled == ["first"]
    assert any(isinstance(event, MessageExpired) for event in bench.seen)


async def test_ask_many_answers_in_the_order_of_the_requests() -> None:
    bench = Bench()
    answers: list[Any] = []

    def fan_out(*_: str) -> Any:
        many = yield call(
            "messaging",
            "ask-many",
            [("echo", "o", "1"), ("nobody", "o", "2"), ("slow", "o", "3"), ("echo", "o", "4")],
            0,
        )
        answers.extend(many)
        return "1"

    def slow(_id: str, _kind: str, _op: str, payload: str, *_: str) -> Any:
        yield call("clock", "sleep-ns", 5_000_000)
        return payload

    await bench.start("echo", handle=echo)
    await bench.start("slow", handle=slow)
    await bench.ask(await bench.start("fan", handle=fan_out))
    assert [answer.value if isinstance(answer, Ok) else answer.value[0] for answer in answers] == [
        "1",
        "actor-not-found",
        "3",
        "4",
    ]


async def test_a_sender_waits_for_room_and_order_is_kept() -> None:
    bench = Bench(mailbox_messages_max=2)
    received: list[str] = []

    def receiver(_id: str, _kind: str, op: str, *_: str) -> Any:
        yield call("clock", "sleep-ns", 1_000_000)
        received.append(op)
        return None

    def sender(*_: str) -> Any:
        for number in range(8):
            answer = yield call("messaging", "send", "receiver", str(number), "{}")
            assert isinstance(answer, Ok)
        return "1"

    await bench.start("receiver", handle=receiver)
    assert await bench.ask(await bench.start("sender", handle=sender)) == "1"
    while len(received) < 8:
        await asyncio.sleep(0.002)
    assert received == [str(number) for number in range(8)]


async def test_an_asker_of_a_full_mailbox_is_told_at_once() -> None:
    bench = Bench(mailbox_messages_max=1)
    answers: list[Any] = []

    def stuck(*_: str) -> Any:
        yield call("clock", "sleep-ns", 10_000_000_000)
        return None

    target = await bench.start("stuck", handle=stuck)
    bench.cast(target)
    await asyncio.sleep(0.01)
    assert bench.cast(target)
    assert not bench.cast(target)
    await bench.ask(await bench.start("relay", handle=relay("stuck", answers)))
    assert answers[0].value[0] == "mailbox-full"


async def test_a_deferred_reply_reaches_the_one_who_asked() -> None:
    bench = Bench()
    asked: list[str] = []

    def handle(message_id: str, _kind: str, op: str, *_: str) -> Any:
        if op == "ask":
            asked.append(message_id)
            return None
        answer = yield call("messaging", "reply", asked[0], '"late"')
        return repr(answer)

    actor = await bench.start("later", handle=handle)
    first = bench.post(actor, "ask")
    assert await bench.ask(actor, "answer") == repr(Ok(None))
    assert await first == '"late"'
    again = await bench.ask(actor, "answer")
    assert isinstance(again, str)
    assert "not-found" in again


async def test_what_was_promised_later_fails_when_the_actor_ends() -> None:
    bench = Bench()
    actor = await bench.start("later", handle=returns(None))
    answer = bench.post(actor)
    while actor.handled == 0:
        await asyncio.sleep(0)
    bench.scheduler.stop(actor, exits.SHUTDOWN)
    assert isinstance(await answer, ActorExited)


async def test_an_interface_without_a_store_says_unavailable() -> None:
    bench = Bench()
    answers: list[Any] = []

    def handle(*_: str) -> Any:
        answers.append((yield call("keyvalue", "get", "k")))
        return "1"

    assert await bench.ask(await bench.start("kv", handle=handle)) == "1"
    code, message, _details = answers[0].value
    assert code == "unavailable"
    assert message == "this node keeps no values"


async def test_a_function_without_room_for_an_error_traps_instead_of_lying() -> None:
    bench = Bench()

    def handle(*_: str) -> Any:
        yield call("registry", "nothing")
        return "1"

    outcome = await bench.ask(await bench.start("flow", handle=handle))
    assert isinstance(outcome, HandlerCrashed)
    assert "registry.nothing" in str(outcome)


async def test_log_lines_are_kept_up_to_their_limit_and_cut_to_size() -> None:
    bench = Bench(log_lines_per_message_max=3, log_line_bytes_max=80)

    def handle(*_: str) -> Any:
        for number in range(10):
            yield call("logging", "log", "info", f"{number} " + "ä" * 100)
        return "1"

    assert await bench.ask(await bench.start("noisy", handle=handle)) == "1"
    lines = [event for event in bench.seen if isinstance(event, GuestLogged)]
    assert [line.message[0] for line in lines] == ["0", "1", "2"]
    assert all(len(line.message.encode()) <= 80 for line in lines)
    assert [type(event) for event in bench.seen].count(GuestLogTruncated) == 1


# -- stop, kill, upgrade -------------------------------------------------------------------------------------


async def test_stop_lets_the_message_finish_and_runs_terminate() -> None:
    bench = Bench()
    order: list[str] = []

    def slow(*_: str) -> Any:
        yield call("clock", "sleep-ns", 5_000_000)
        order.append("handled")
        return "1"

    def terminate(reason: str) -> Any:
        order.append(f"terminate {reason}")
        return None
        yield

    actor = await bench.start("worker", handle=slow, terminate=terminate)
    answer = bench.post(actor)
    await asyncio.sleep(0.001)
    bench.scheduler.stop(actor, exits.SHUTDOWN)
    assert await answer == "1"
    while "worker" not in bench.exits:
        await asyncio.sleep(0)
    assert order == ["handled", "terminate shutdown"]
    assert bench.exits["worker"] is exits.SHUTDOWN


async def test_kill_ends_a_suspended_actor_at_once() -> None:
    bench = Bench()

    def stuck(*_: str) -> Any:
        yield call("clock", "sleep-ns", 10_000_000_000)

    actor = await bench.start("stuck", handle=stuck)
    answer = bench.post(actor)
    await asyncio.sleep(0.001)
    bench.scheduler.kill(actor)
    outcome = await answer
    assert isinstance(outcome, ActorExited)
    assert "killed" in str(outcome)
    assert bench.guests["stuck"].closed


async def test_an_upgrade_keeps_the_state_and_loses_no_message() -> None:
    bench = Bench()
    restored: list[str] = []

    def set_state(_config: Any, state: str) -> Any:
        restored.append(state)
        return None
        yield

    actor = await bench.start("versioned", handle=returns("1"), get_state=returns("the state"))
    old = bench.guests["versioned"]
    done: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    before = [bench.post(actor) for _ in range(3)]
    bench.scheduler.upgrade(actor, bench.spec(handle=returns("2"), set_state=set_state), done.set_result)
    after = [bench.post(actor) for _ in range(3)]
    assert await done is None
    replies = await asyncio.gather(*before, *after)
    # The signal goes first: all six are answered, by one version each, never by a mixture.
    assert set(replies) <= {"1", "2"}
    assert replies[-1] == "2"
    assert restored == ["the state"]
    assert old.closed


async def test_a_version_that_cannot_take_over_the_state_leaves_the_old_one_running() -> None:
    bench = Bench()
    actor = await bench.start("versioned", handle=returns("1"), get_state=returns("the state"))
    failure = Failure(True, "KeyError", "KeyError: 'gone'", "{}", "")
    done: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    bench.scheduler.upgrade(actor, bench.spec(handle=returns("2"), set_state=returns(failure)), done.set_result)
    error = await done
    assert error is not None
    assert "KeyError: 'gone'" in str(error)
    assert await bench.ask(actor) == "1"


@pytest.mark.parametrize(("size", "fits"), [(79, True), (80, True), (81, False)])
async def test_a_state_goes_over_to_a_new_version_up_to_its_limit(size: int, fits: bool) -> None:
    bench = Bench(state_bytes_max=80)
    actor = await bench.start("large", handle=returns("1"), get_state=returns("x" * size))
    done: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    bench.scheduler.upgrade(actor, bench.spec(handle=returns("2")), done.set_result)
    error = await done
    if fits:
        assert error is None
        assert await bench.ask(actor) == "2"
    else:
        assert isinstance(error, LimitExceeded)
        assert error.details == {"limit": "state_bytes_max", "value": 80}
        assert await bench.ask(actor) == "1"


async def test_a_version_whose_init_never_ends_leaves_the_old_one_running() -> None:
    bench = Bench(cpu_ms_per_message_max=5, offload_after_slices=1_000_000)

    def forever(*_: Any) -> Any:
        while True:
            yield BURN

    actor = await bench.start("versioned", handle=returns("1"), get_state=returns("s"))
    done: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    bench.scheduler.upgrade(actor, bench.spec(handle=returns("2"), init=forever), done.set_result)
    error = await done
    assert error is not None
    assert "limit(cpu)" in repr(error.details)
    assert await bench.ask(actor) == "1"


async def test_a_thousand_askers_are_answered_in_order() -> None:
    bench = Bench(mailbox_messages_max=2_000)
    order: list[str] = []

    def handle(_id: str, _kind: str, _op: str, payload: str, *_: str) -> Any:
        order.append(payload)
        return payload
        yield

    actor = await bench.start("popular", handle=handle)
    replies = await asyncio.gather(*(bench.post(actor, payload=str(n)) for n in range(1_000)))
    assert replies == order == [str(n) for n in range(1_000)]


async def test_turns_are_short_while_several_tenants_are_at_work_and_only_then() -> None:
    bench = Bench()
    others = Scope("other", "default")
    mine = await bench.start("mine", handle=echo)
    for _ in range(3):
        await bench.post(mine)
        await bench.ask_directly(mine)
    assert not bench.ticker.shared
    theirs = await bench.start("theirs", scope=others, handle=echo)
    assert bench.ticker.shared
    # The first turn after a second of one tenant's alone.
    bench.scheduler._shared_until_ns = bench.clock.monotonic_ns()
    await bench.post(theirs)
    assert not bench.ticker.shared
    await bench.post(theirs)
    assert not bench.ticker.shared
    await asyncio.gather(bench.ask_directly(mine), bench.ask_directly(theirs))
    assert bench.ticker.shared


async def test_a_tenant_with_many_ready_actors_is_one_tenant() -> None:
    """Another's message comes after one turn of theirs, however many of them are ready."""
    bench = Bench(offload_after_slices=1_000_000)
    turns: list[str] = []

    def burner(*_: str) -> Any:
        for _turn in range(5):
            turns.append("many")
            yield BURN
        return "done"

    def quick(*_: str) -> Any:
        turns.append("few")
        return "done"
        yield

    many = [await bench.start(f"burner-{number}", handle=burner) for number in range(10)]
    few = await bench.start("quick", scope=Scope("other", "default"), handle=quick)
    answers = [bench.post(each) for each in many]
    await asyncio.gather(bench.post(few), *answers)
    assert turns.index("few") <= 2
    assert turns.count("many") == 50
