"""Workflows on plain Python: steps, waits, signals, queries, cancellation, compensation, and crashes in between."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from plexspaces import HostError, Refuse, actor, handler, host, query_handler, run_handler, signal_handler, state
from plexspaces import workflow_actor as workflow
from plexspaces.testing import TestNode

DAY_S = 24 * 3_600


@actor(facets=["durability"])
class Ledger:
    """What the outside world has seen, in order."""

    seen: list = state(default_factory=list)
    failing: dict = state(default_factory=dict)

    @handler("do")
    def do(self, what: str) -> str:
        if self.failing.get(what, 0) > 0:
            self.failing[what] -= 1
            raise Refuse("busy", f"{what} does not work")
        self.seen.append(what)
        return f"{what} done"

    @handler("fail")
    def fail(self, what: str, times: int) -> None:
        self.failing[what] = times

    @handler("slow")
    def slow(self, seconds: float) -> str:
        host.sleep(seconds)
        self.seen.append("slow")
        return "late"

    @handler("seen")
    def all_seen(self) -> list:
        return self.seen


def do(what: str) -> Any:
    return lambda: host.ask("ledger", "do", {"what": what})


@workflow
class Trip:
    """Books three things, with a night in between; what is booked is undone if it does not come about."""

    stage: str = state(default="new")
    approved: bool = state(default=False)

    @run_handler
    def run(self, city: str, approval: bool = False, retries: int = 0) -> dict:
        self.stage = "flight"
        flight = host.step("flight", do(f"flight {city}"), compensate=lambda: do("cancel flight")())
        self.stage = "approval"
        while approval and not self.approved:
            if host.workflow.next_signal(timeout_ms=7 * DAY_S * 1_000) is None:
                raise Refuse("expired", "nobody has approved it in time")
        self.stage = "night"
        host.workflow.sleep(DAY_S)
        self.stage = "hotel"
        hotel = host.step("hotel", do("hotel"), retries_max=retries, backoff_s=60, compensate=self.no_hotel)
        self.stage = "car"
        car = host.step("car", do("car"), retries_max=retries, backoff_s=60)
        self.stage = "booked"
        return {"booked": [flight, hotel, car]}

    def no_hotel(self, booked: str) -> None:
        host.ask("ledger", "do", {"what": f"cancel: {booked}"})

    @signal_handler("approve")
    def approve(self, by: str) -> None:
        self.approved = True

    @query_handler("stage")
    def query(self) -> str:
        return self.stage

    @query_handler("curious")
    def curious(self) -> str:
        return host.kv_get("x")

    @handler("ping")
    def ping(self) -> str:
        return "pong"


def world() -> tuple[TestNode, Any, Any]:
    node = TestNode()
    return node, node.spawn(Ledger), node.spawn(Trip, key="lisbon")


def test_a_run_sleeps_and_goes_on_and_is_done_once() -> None:
    node, ledger, trip = world()
    began_ms = node.now_ms
    run = trip.start(city="Lisbon")
    assert (run.status, run.waiting_for, run.steps_done) == ("running", "sleep", 1)
    assert ledger.ask("seen") == ["flight Lisbon"]
    node.advance(DAY_S - 1)
    assert run.status == "running"
    node.advance(1)
    assert (run.status, run.steps_done) == ("completed", 3)
    assert node.now_ms - began_ms == DAY_S * 1_000
    booked = {"booked": ["flight Lisbon done", "hotel done", "car done"]}
    assert run.result() == booked
    # The same workflow again: the one there is.
    assert trip.run(city="Porto") == booked
    assert ledger.ask("seen") == ["flight Lisbon", "hotel", "car"]


def test_time_passes_for_whoever_waits_for_the_end() -> None:
    _, _, trip = world()
    assert trip.run(city="Lisbon")["booked"][0] == "flight Lisbon done"


def test_an_ask_from_outside_has_a_deadline_and_the_run_has_none() -> None:
    node, _, trip = world()
    with pytest.raises(HostError, match="did not answer 'run' in time"):
        trip.ask("run", city="Lisbon")
    node.advance(DAY_S)
    assert trip.start().status == "completed"


def test_queries_are_answered_while_it_waits_and_other_messages_are_not() -> None:
    node, _, trip = world()
    assert trip.query("stage") == "new"
    run = trip.start(city="Lisbon", approval=True)
    assert trip.query("stage") == trip.ask("stage") == "approval"
    with pytest.raises(HostError, match="did not answer 'ping' in time"):
        trip.ask("ping")
    trip.signal("approve", by="ada")
    assert (trip.query("stage"), run.waiting_for) == ("night", "sleep")
    node.advance(DAY_S)
    assert trip.query("stage") == "booked"
    assert trip.ask("ping") == "pong"


def test_a_query_only_reads() -> None:
    _, _, trip = world()
    trip.start(city="Lisbon")
    with pytest.raises(HostError, match=r"query 'curious' wants more than a query may.*keyvalue.*handler-refused"):
        trip.query("curious")
    assert trip.query("stage") == "night"


def test_a_signal_comes_at_the_next_boundary_and_one_before_the_run_is_a_message() -> None:
    node, _, trip = world()
    trip.signal("approve", by="ada")
    run = trip.start(city="Lisbon", approval=True)
    assert run.waiting_for == "sleep"
    node.advance(DAY_S)
    assert run.status == "completed"


def test_a_signal_that_never_comes() -> None:
    node, ledger, trip = world()
    run = trip.start(city="Lisbon", approval=True)
    node.advance(7 * DAY_S)
    assert run.status == "failed"
    with pytest.raises(HostError, match="nobody has approved it in time"):
        run.result()
    assert ledger.ask("seen") == ["flight Lisbon", "cancel flight"]


def test_a_step_is_tried_again_with_longer_and_longer_waits() -> None:
    node, ledger, _ = world()
    tries: list[int] = []

    @workflow
    class Stubborn:
        @run_handler
        def run(self) -> str:
            def attempt() -> str:
                tries.append(host.now_ms())
                if len(tries) < 4:
                    raise ConnectionError("no")
                return "at last"

            return host.step("call", attempt, retries_max=3, backoff_s=2)

    assert node.spawn(Stubborn).run() == "at last"
    # Each wait is a recovery here, in which what is recorded is not done again: every try is there once.
    assert [later - earlier for earlier, later in itertools.pairwise(sorted(set(tries)))] == [2_000, 4_000, 8_000]
    assert ledger.ask("seen") == []


def test_a_step_that_fails_for_good_undoes_what_was_done_in_reverse_order() -> None:
    _, ledger, trip = world()
    ledger.ask("fail", what="car", times=9)
    with pytest.raises(HostError, match=r"step 'car' failed: .*car does not work") as caught:
        trip.run(city="Lisbon", retries=2)
    assert caught.value.details["reason"] == "step-failed"
    assert caught.value.details["step"] == "car"
    assert ledger.ask("seen") == ["flight Lisbon", "hotel", "cancel: hotel done", "cancel flight"]
    # The actor lives on.
    assert trip.query("stage") == "car"


def test_what_cannot_be_undone_is_told_and_the_rest_is_undone() -> None:
    node, ledger, trip = world()
    ledger.ask("fail", what="car", times=1)
    ledger.ask("fail", what="cancel: hotel done", times=1)
    with pytest.raises(HostError) as caught:
        trip.run(city="Lisbon")
    assert caught.value.details["compensation_failed"] == ["hotel"]
    assert ledger.ask("seen") == ["flight Lisbon", "hotel", "cancel flight"]
    assert any("step 'hotel' could not be undone" in line.message for line in node.logs)


def test_a_cancelled_run_ends_at_its_boundary_and_is_undone() -> None:
    _, ledger, trip = world()
    run = trip.start(city="Lisbon")
    run.cancel("the customer is ill")
    assert run.status == "cancelled"
    with pytest.raises(HostError, match="the customer is ill") as caught:
        run.result()
    assert caught.value.details["reason"] == "cancelled"
    assert ledger.ask("seen") == ["flight Lisbon", "cancel flight"]
    with pytest.raises(HostError, match="has ended: it is cancelled"):
        run.cancel()


def test_a_run_may_decide_not_to_be_cancelled() -> None:
    @workflow
    class Captain:
        @run_handler
        def run(self) -> list:
            try:
                host.workflow.sleep(10)
            except host.WorkflowCancelled as cancelled:
                host.workflow.sleep(5)
                return [str(cancelled), host.workflow.cancelled()]
            return []

    node = TestNode()
    run = node.spawn(Captain).start()
    run.cancel("go down")
    assert (run.status, run.waiting_for) == ("running", "sleep")
    node.advance(5)
    assert run.result() == ["go down", True]


def test_a_cancellation_does_not_come_within_a_step() -> None:
    reached = []

    @workflow
    class Diver:
        @run_handler
        def run(self) -> None:
            def dive() -> int:
                host.workflow.sleep(10)
                reached.append("surface")
                return 1

            host.step("dive", dive)
            reached.append("beach")

    node = TestNode()
    run = node.spawn(Diver).start()
    assert run.step == "dive"
    run.cancel()
    assert run.status == "running"
    node.advance(10)
    assert run.status == "cancelled"
    assert reached == ["surface"]


def test_promises() -> None:
    @workflow
    class Purchase:
        @run_handler
        def run(self, within_ms: int = 0) -> Any:
            promise = host.workflow.promise("the boss agrees")
            self.asked = promise
            return host.workflow.wait(promise, timeout_ms=within_ms)

    @actor
    class Boss:
        @handler("agree")
        def agree(self, promise: str) -> None:
            host.workflow.resolve(promise, {"yes": 1})

        @handler("wait")
        def wait(self, promise: str) -> Any:
            return host.workflow.wait(promise, timeout_ms=1_000)

    node = TestNode()
    boss = node.spawn(Boss)
    run = node.spawn(Purchase, key="a").start()
    (promise,) = node.promises()
    assert (promise.name, promise.owner, promise.resolved) == ("the boss agrees", "purchase/a", False)
    assert run.waiting_for == f"promise {promise.id}"
    with pytest.raises(HostError, match="nobody has resolved"):
        boss.ask("wait", promise=promise.id)
    boss.ask("agree", promise=promise.id)
    assert run.result() == {"yes": 1}
    # It went with the run that had made it.
    with pytest.raises(HostError, match="there is no promise"):
        node.resolve(promise.id, 2)
    late = node.spawn(Purchase, key="b").start(within_ms=5_000)
    node.advance(5)
    with pytest.raises(HostError, match=r"nobody has resolved promise .* in time"):
        late.result()
    other = node.spawn(Purchase, key="c").start()
    (promise,) = node.promises()
    node.resolve(promise.id, [1])
    assert other.result() == [1]


def test_a_promise_has_one_value() -> None:
    @workflow
    class Holder:
        @run_handler
        def run(self) -> Any:
            host.workflow.promise("p")
            host.workflow.sleep(1)

    node = TestNode()
    node.spawn(Holder).start()
    (promise,) = node.promises()
    node.resolve(promise.id, {"a": [1]})
    node.resolve(promise.id, {"a": [1]})
    with pytest.raises(HostError, match="with another value"):
        node.resolve(promise.id, 2)
    assert node.promises()[0].value == {"a": [1]}


def test_an_attempt_has_a_time_limit_and_what_it_waits_for_ends_with_it() -> None:
    @workflow
    class Impatient:
        @run_handler
        def run(self) -> str:
            return host.step("slow", lambda: host.ask("ledger", "slow", {"seconds": 20}), timeout_s=5, retries_max=1)

    node, _, _ = world()
    began_ms = node.now_ms
    with pytest.raises(HostError, match="step 'slow' failed") as caught:
        node.spawn(Impatient).run()
    assert caught.value.details["type"] == "DeadlineExceeded"
    assert node.now_ms - began_ms < 20_000


def test_an_attempt_that_took_too_long_has_failed_even_if_it_returns() -> None:
    slept = []

    @workflow
    class Late:
        @run_handler
        def run(self) -> str:
            def nap() -> str:
                slept.append(host.now_ms())
                host.sleep(1 if len(slept) > 1 else 10)
                return "rested"

            return host.step("nap", nap, timeout_s=5, retries_max=1)

    assert TestNode().spawn(Late).run() == "rested"
    assert len(set(slept)) == 2


def test_steps_and_signals_belong_to_a_run() -> None:
    @workflow
    class Odd:
        @run_handler
        def run(self, how: str) -> Any:
            if how == "within":
                return host.step("outer", lambda: host.step("inner", lambda: 1))
            if how == "again":
                return [host.step("one", lambda: 1), host.step("one", lambda: 2)]
            if how == "signal":
                return host.step("s", lambda: host.workflow.next_signal())
            if how == "undo":
                return host.step("s", lambda: 1, compensate=lambda a, b: None)
            return host.step("", lambda: 1)

        @handler("outside")
        def outside(self, what: str) -> Any:
            return host.step("s", lambda: 1) if what == "step" else host.workflow.next_signal()

    node = TestNode()
    for how, says in [
        ("within", "step 'inner' begins within step 'outer'"),
        ("again", "has a step 'one' already"),
        ("signal", "signals come at the boundaries of steps"),
        ("undo", "takes the step's result, or nothing"),
        ("empty", "a step's name is a text"),
    ]:
        with pytest.raises(HostError, match=says):
            node.spawn(Odd, key=how).run(how=how)
    odd = node.spawn(Odd)
    with pytest.raises(HostError, match="steps belong to a workflow"):
        odd.ask("outside", what="step")
    with pytest.raises(HostError, match="only the run of a workflow waits for signals"):
        odd.ask("outside", what="signal")


def test_a_run_that_was_started_wrongly_has_not_begun() -> None:
    _, _, trip = world()
    with pytest.raises(HostError, match="city is missing"):
        trip.run(town="Lisbon")
    assert trip.start(city="Lisbon").status == "running"


def test_whatever_leaves_a_run_is_its_end_and_the_actor_lives() -> None:
    @workflow
    class Buggy:
        @run_handler
        def run(self) -> None:
            host.step("one", lambda: 1)
            raise KeyError("x")

    node = TestNode()
    buggy = node.spawn(Buggy)
    with pytest.raises(HostError, match="the run failed: KeyError: 'x'") as caught:
        buggy.run()
    assert caught.value.details["reason"] == "run-failed"
    assert buggy.alive
    assert not node.exits
    assert any(line.level == "error" and "KeyError" in line.message for line in node.logs)


def test_signals_without_a_handler_wait_for_whoever_asks_and_a_bad_one_ends_nothing() -> None:
    @workflow
    class Collector:
        got: list = state(default_factory=list)

        @run_handler
        def run(self, count: int) -> list:
            host.workflow.sleep(1)
            while len(self.got) < count:
                signal = host.workflow.next_signal(timeout_ms=None)
                self.got.append([signal.name, signal.payload, signal.sender])
            return self.got

        @signal_handler("strict")
        def strict(self, number: int) -> None:
            if number < 0:
                raise ValueError("negative")

    node = TestNode()
    collector = node.spawn(Collector)
    run = collector.start(count=3)
    collector.signal("a", n=1)
    collector.signal("strict", number="x")
    collector.signal("strict", number=-1)
    node.advance(1)
    assert run.waiting_for == "signal"
    collector.signal("b")
    collector.signal("strict", number=1)
    assert run.result() == [["a", {"n": 1}, ""], ["b", {}, ""], ["strict", {"number": 1}, ""]]
    lines = [line.message for line in node.logs]
    assert any("refused: strict" in line for line in lines)
    assert any("strict failed" in line and "negative" in line for line in lines)


def test_actors_start_signal_and_query_by_the_names_alone() -> None:
    @actor
    class Desk:
        @handler("go")
        def go(self) -> list:
            host.send("trip/lisbon", "run", {"city": "Lisbon", "approval": True})
            return []

        @handler("approve")
        def approve(self) -> list:
            before = host.ask("trip/lisbon", "stage")
            host.send("trip/lisbon", "approve", {"by": "desk"})
            return [before]

    node, _, trip = world()
    desk = node.spawn(Desk)
    desk.ask("go")
    assert desk.ask("approve") == ["approval"]
    assert trip.query("stage") == "night"


def test_a_crash_at_any_moment_changes_nothing() -> None:
    def play(at_call: int | None) -> tuple[Any, list[str], int, int]:
        node, ledger, trip = world()
        ledger.ask("fail", what="hotel", times=1)
        run = trip.start(city="Lisbon", approval=True, retries=1)
        if at_call is not None:
            node.crash("trip/lisbon", at_call=at_call)
        trip.signal("approve", by="ada")
        node.advance(2 * DAY_S)
        return run.result(), ledger.ask("seen"), len(node.exits), run.calls

    result, seen, exits, calls = play(None)
    assert exits == 0
    assert calls > 15
    crashed = [play(at_call) for at_call in range(1, calls - 4)]
    assert sum(exits for _, _, exits, _ in crashed) > 10
    for other, others_seen, _, _ in crashed:
        assert (other, others_seen) == (result, seen)


def test_a_crash_while_it_waits() -> None:
    node, ledger, trip = world()
    run = trip.start(city="Lisbon")
    node.advance(DAY_S / 2)
    trip.crash()
    assert [exit_.reason for exit_ in node.exits] == ["killed"]
    assert (run.status, trip.query("stage")) == ("running", "night")
    node.advance(DAY_S / 2)
    assert run.status == "completed"
    assert ledger.ask("seen") == ["flight Lisbon", "hotel", "car"]


def test_a_crash_in_the_middle_of_being_undone() -> None:
    exits = 0
    for at_call in range(1, 6):
        node, ledger, trip = world()
        run = trip.start(city="Lisbon")
        node.advance(DAY_S / 2)
        node.crash("trip/lisbon", at_call=at_call)
        run.cancel("no")
        assert run.status == "cancelled"
        assert ledger.ask("seen") == ["flight Lisbon", "cancel flight"]
        exits += len(node.exits)
    assert exits == 4


def test_a_run_that_depends_on_the_outside_is_found_out() -> None:
    chance = itertools.count()

    @workflow
    class Gambler:
        @run_handler
        def run(self) -> None:
            host.step(f"roll {next(chance)}", lambda: 1)
            host.workflow.sleep(1)

    node = TestNode()
    run = node.spawn(Gambler).start()
    node.advance(1)
    assert run.status == "failed"
    (exit_,) = node.exits
    assert exit_.reason == "nondeterminism"
    assert "roll 1" in exit_.message
    assert "roll 0" in exit_.message
