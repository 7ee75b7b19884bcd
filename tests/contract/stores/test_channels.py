"""What every implementation of channels keeps to: against a plain model, case by case, and across tenants."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import InvalidArgument, LimitExceeded, NotFound, Unavailable
from plexspaces_runtime.events import EventBus, MessageDeadLettered
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores.channels import (
    DELAY_MS_MAX,
    OVERHEAD_BYTES,
    RESIDENT_BYTES_MAX,
    STEPS,
    VISIBILITY_MS,
    VISIBILITY_MS_MAX,
    WAITING,
    Channels,
    Delivery,
    Event,
    State,
    Waiter,
)
from plexspaces_runtime.stores.quotas import Quotas
from tests.contract.stores.shelves import KINDS, Shelf, each_kind

ACME = Scope("acme", "default")
OTHER_NAMESPACE = Scope("acme", "other")
EVIL = Scope("evil", "default")
MS = 1_000_000


@dataclass(eq=False)
class Asker:
    """One who waits, and what it heard."""

    deadline_ns: int
    still: bool = True
    heard: list[Any] = field(default_factory=list)

    def waiter(self) -> Waiter:
        return Waiter(self.deadline_ns, lambda: self.still, self.heard.append)


class Stubborn:
    """A table that refuses to write while it is told to."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self.refuses = False

    def __getattr__(self, name: str) -> Any:
        if self.refuses and name in ("insert", "update", "delete", "forget"):
            raise Unavailable("the disk is full")
        return getattr(self._table, name)


class House:
    """A store and all that is around it."""

    def __init__(self, shelf: Shelf, resident_bytes_max: int = RESIDENT_BYTES_MAX, **limits: Any) -> None:
        self.shelf = shelf
        self.clock = ManualClock()
        self.limits = Limits(**limits)
        self.resident_bytes_max = resident_bytes_max
        self.dead: list[MessageDeadLettered] = []
        self.alarm_ns: int | None = None
        self.start()

    def start(self) -> None:
        events = EventBus()
        events.subscribe(lambda event: self.dead.append(event) if isinstance(event, MessageDeadLettered) else None)
        self.quotas = Quotas(self.limits)
        self.table = Stubborn(self.shelf.channels)
        self.channels = Channels(
            self.table,
            quotas=self.quotas,
            clock=self.clock,
            events=events,
            limits=self.limits,
            set_alarm=self._set_alarm,
            resident_bytes_max=self.resident_bytes_max,
        )
        self.channels.load()

    def restart(self) -> None:
        self.shelf.reopen()
        self.start()

    def _set_alarm(self, delay_s: float | None) -> None:
        self.alarm_ns = None if delay_s is None else self.clock.monotonic_ns() + round(delay_s * 1e9)

    def send(self, payload: Any = None, *, scope: Scope = ACME, name: str = "q", **options: Any) -> str:
        return self.channels.send(scope, name, "job", json.dumps(payload), **options)

    def receive(self, *, scope: Scope = ACME, name: str = "q", owner: str = "a", visibility_ms: int = 0) -> Any:
        found = self.channels.receive(scope, name, owner, visibility_ms)
        assert found is not WAITING
        return found

    def payloads(self, **options: Any) -> list[Any]:
        """Everything that can be received, acknowledged."""
        found = []
        while (delivery := self.receive(**options)) is not None:
            found.append(json.loads(delivery.payload))
            self.ack(delivery, **options)
        return found

    def ack(self, delivery: Delivery, *, scope: Scope = ACME, name: str = "q", owner: str = "a") -> None:
        self.channels.ack(scope, name, delivery.id, owner)

    def nack(self, delivery: Delivery, owner: str = "a", **options: Any) -> None:
        self.channels.nack(ACME, "q", delivery.id, owner, **options)

    def wait(self, *, scope: Scope = ACME, name: str = "q", owner: str = "a", timeout_ms: int = 1_000) -> Asker:
        asker = Asker(self.clock.monotonic_ns() + timeout_ms * MS)
        assert self.channels.receive(scope, name, owner, 0, asker.waiter()) is WAITING
        return asker

    def subscribe(self, owner: str = "a", scope: Scope = ACME) -> tuple[str, list[Delivery]]:
        pushed: list[Delivery] = []
        return self.channels.subscribe(scope, "q", owner, pushed.append), pushed

    def depth(self, scope: Scope = ACME) -> int:
        return self.channels.depth(scope, "q")

    def die(self, owner: str = "a", scope: Scope = ACME) -> None:
        self.channels.forget(scope, owner)

    def pass_time(self, seconds: float) -> None:
        """Let the clock run, and the alarm ring at its time."""
        until_ns = self.clock.monotonic_ns() + round(seconds * 1e9)
        while self.alarm_ns is not None and self.alarm_ns <= until_ns:
            self.clock.advance(max(0, self.alarm_ns - self.clock.monotonic_ns()) / 1e9)
            self.alarm_ns = None
            self.channels.ring()
        self.clock.advance((until_ns - self.clock.monotonic_ns()) / 1e9)


@pytest.fixture
def shelf(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    made = Shelf(request.param)
    yield made
    made.close()


# -- cases -------------------------------------------------------------------------------------------------


def test_the_table_of_states_says_all_there_is() -> None:
    ends = {State.ACKNOWLEDGED, State.EXPIRED, State.DROPPED}
    assert {before for before, _ in STEPS} == set(State) - ends
    assert set(STEPS.values()) == set(State)
    assert {event for _, event in STEPS} == set(Event)


@each_kind()
def test_messages_come_in_order_with_all_they_were_sent_with(shelf: Shelf) -> None:
    house = House(shelf)
    sent = [house.send({"n": number, "x": 1.50}) for number in range(3)]
    assert house.depth() == 3
    first = house.receive()
    assert first == Delivery(sent[0], "job", '{"n": 0, "x": 1.5}', 1, house.clock.now_ns() // MS)
    assert house.depth() == 2
    house.ack(first)
    assert [payload["n"] for payload in house.payloads()] == [1, 2]
    assert house.receive() is None
    assert house.quotas.bytes.of("acme") == 0


@each_kind()
def test_what_is_not_acknowledged_in_time_comes_again_in_its_place(shelf: Shelf) -> None:
    house = House(shelf)
    house.send(1)
    house.send(2)
    lost = house.receive(owner="slow")
    house.pass_time(VISIBILITY_MS / 1_000 - 0.001)
    assert house.depth() == 1
    house.pass_time(0.001)
    assert house.depth() == 2
    again = house.receive(owner="b")
    assert (again.id, again.deliveries) == (lost.id, 2)
    for settle in (
        lambda: house.ack(lost, owner="slow"),
        lambda: house.nack(lost, owner="slow"),
        lambda: house.channels.extend(ACME, "q", lost.id, "slow", 1),
    ):
        with pytest.raises(NotFound, match=lost.id):
            settle()
    house.ack(again, owner="b")
    assert house.payloads() == [2]


@each_kind()
def test_extend_counts_from_now(shelf: Shelf) -> None:
    house = House(shelf)
    house.send(1)
    held = house.receive(visibility_ms=100)
    house.pass_time(0.09)
    house.channels.extend(ACME, "q", held.id, "a", 100)
    house.pass_time(0.099)
    assert house.depth() == 0
    house.pass_time(0.001)
    assert house.depth() == 1
    with pytest.raises(NotFound):
        house.ack(held)


@each_kind()
def test_only_who_has_it_can_settle_it(shelf: Shelf) -> None:
    house = House(shelf)
    house.send(1)
    held = house.receive(owner="a")
    for scope, name, message_id, owner in (
        (ACME, "q", held.id, "b"),
        (ACME, "other", held.id, "a"),
        (EVIL, "q", held.id, "a"),
        (OTHER_NAMESPACE, "q", held.id, "a"),
        (ACME, "q", "message-99", "a"),
        (ACME, "q", "", "a"),
        (ACME, "q", "message-" + "9" * 100, "a"),
    ):
        with pytest.raises(NotFound):
            house.channels.ack(scope, name, message_id, owner)
        with pytest.raises(NotFound):
            house.channels.nack(scope, name, message_id, owner)
        with pytest.raises(NotFound):
            house.channels.extend(scope, name, message_id, owner, 1)
        assert not house.channels.begin(scope, name, message_id, owner)
    house.ack(held)
    with pytest.raises(NotFound):
        house.ack(held)


@each_kind()
def test_nack_puts_it_back_at_once_later_or_among_the_dead(shelf: Shelf) -> None:
    house = House(shelf)
    for number in range(2):
        house.send(number)
    house.nack(house.receive())
    again = house.receive()
    assert (again.payload, again.deliveries) == ("0", 2)
    house.nack(again, delay_ms=1_000)
    assert house.depth() == 2
    assert house.payloads() == [1]
    house.pass_time(0.999)
    assert house.receive() is None
    house.pass_time(0.001)
    house.nack(house.receive(), requeue=False, why="no such customer")
    assert house.depth() == 0
    (dead,) = house.channels.dead_letters(ACME)
    assert (dead.payload, dead.deliveries, dead.channel, dead.reason) == ("0", 3, "q", "no such customer")
    assert [event.reason for event in house.dead] == ["no such customer"]


@each_kind()
@pytest.mark.parametrize("how", ["nack", "visibility", "death"])
def test_after_so_many_deliveries_it_is_a_dead_letter(shelf: Shelf, how: str) -> None:
    house = House(shelf, channel_deliveries_max=3)
    house.send("poison")
    house.send("fine")
    for delivery in range(1, 4):
        held = house.receive(visibility_ms=10)
        assert (held.payload, held.deliveries) == ('"poison"', delivery)
        if delivery == 2:
            # The count is on disk, and a restart is no way around it.
            house.restart()
        elif how == "nack":
            house.nack(held)
        elif how == "visibility":
            house.pass_time(0.01)
        else:
            house.die()
    assert house.payloads() == ["fine"]
    assert [dead.payload for dead in house.channels.dead_letters(ACME)] == ['"poison"']
    assert house.dead[0].reason.startswith("delivered 3 times; ")
    house.restart()
    assert [dead.payload for dead in house.channels.dead_letters(ACME)] == ['"poison"']
    assert house.depth() == 0


@each_kind()
def test_dead_letters_are_listed_retried_and_dropped(shelf: Shelf) -> None:
    house = House(shelf, channel_messages_max=3)
    for number in range(3):
        house.send(number, ttl_ms=5_000)
    for _ in range(3):
        house.nack(house.receive(), requeue=False)
    house.send("x", name="other")
    house.channels.nack(ACME, "other", house.receive(name="other").id, "a", requeue=False)
    ids = [dead.id for dead in house.channels.dead_letters(ACME)]
    assert [dead.payload for dead in house.channels.dead_letters(ACME, "q")] == ["0", "1", "2"]
    assert [dead.payload for dead in house.channels.dead_letters(ACME, after=ids[0], limit=2)] == ["1", "2"]
    assert [dead.payload for dead in house.channels.dead_letters(ACME, "other")] == ['"x"']
    assert house.channels.dead_letters(EVIL) == []
    # Dead letters do not age: they are an operator's.
    house.pass_time(10)
    for function in (house.channels.retry, house.channels.drop):
        for scope, message_id in ((EVIL, ids[0]), (OTHER_NAMESPACE, ids[0]), (ACME, "message-99"), (ACME, "?")):
            with pytest.raises(NotFound):
                function(scope, message_id)
    house.send("new")
    house.channels.retry(ACME, ids[1])
    house.channels.retry(ACME, ids[0])
    with pytest.raises(LimitExceeded, match="channel_messages_max"):
        house.channels.retry(ACME, ids[2])
    with pytest.raises(NotFound):
        house.channels.retry(ACME, ids[0])
    house.restart()
    first = house.receive()
    assert (first.payload, first.deliveries) == ("0", 1)
    house.ack(first)
    assert house.payloads() == [1, "new"]
    house.channels.drop(ACME, ids[2])
    with pytest.raises(NotFound):
        house.channels.drop(ACME, ids[2])
    house.channels.drop(ACME, ids[3])
    assert house.channels.dead_letters(ACME) == []
    assert house.quotas.bytes.of("acme") == 0
    shelf.flush()
    assert list(shelf.channels.rows()) == []


@each_kind()
def test_a_delayed_message_is_overtaken_until_its_time(shelf: Shelf) -> None:
    house = House(shelf)
    house.send("late", delay_ms=1_000)
    house.send("now")
    assert house.depth() == 2
    assert house.payloads() == ["now"]
    waiting = house.wait(timeout_ms=5_000)
    house.pass_time(0.999)
    assert waiting.heard == []
    house.pass_time(0.001)
    assert [each.payload for each in waiting.heard] == ['"late"']
    house.die()
    house.send("again", delay_ms=1_000)
    house.restart()
    assert house.payloads() == ["late"]
    house.pass_time(1)
    assert house.payloads() == ["again"]


@each_kind()
def test_what_nobody_took_in_its_time_is_dropped(shelf: Shelf) -> None:
    house = House(shelf)
    house.send("ready", ttl_ms=100)
    house.send("delayed", delay_ms=50, ttl_ms=100)
    house.send("kept")
    held = house.receive(visibility_ms=1_000)
    house.clock.advance(0.1)
    # Nobody has rung: nothing that is over is delivered, all the same.
    assert house.depth() == 1
    # Taken in time: it can still be acknowledged, but it does not wait again.
    house.nack(held)
    assert house.payloads() == ["kept"]
    house.send("while down", ttl_ms=100)
    shelf.flush()
    house.clock.advance(0.1)
    house.restart()
    house.restart()
    assert list(shelf.channels.rows()) == []
    assert house.quotas.bytes.of("acme") == 0


@each_kind()
def test_a_repeated_dedup_id_is_the_first_message_again(shelf: Shelf) -> None:
    house = House(shelf, channel_dedup_ids_max=2, channel_dedup_age_s_max=60.0)
    first = house.send(1, dedup_id="a")
    assert house.send(2, dedup_id="a") == first
    assert house.send(3, dedup_id="a", name="other") != first
    assert house.send(4, dedup_id="a", scope=EVIL) != first
    assert house.payloads() == [1]
    # Also after it was acknowledged, and after a restart.
    house.restart()
    assert house.send(5, dedup_id="a") == first
    assert house.payloads() == []
    # By number: the third pushes out the first.
    second = house.send(6, dedup_id="b")
    house.send(7, dedup_id="c")
    assert house.send(8, dedup_id="b") == second
    assert house.send(9, dedup_id="a") != first
    assert house.payloads() == [6, 7, 9]
    house.restart()
    assert house.payloads() == []
    # By age.
    house.pass_time(59.999)
    third = house.send(10, dedup_id="a")
    assert house.payloads() == []
    house.pass_time(0.001)
    assert house.send(11, dedup_id="a") != third
    house.payloads()
    house.payloads(name="other")
    house.payloads(scope=EVIL)
    house.pass_time(60)
    assert house.quotas.bytes.of("acme") == house.quotas.bytes.of("evil") == 0
    assert house.channels._channels == {}
    shelf.flush()
    assert list(shelf.channels.dedups()) == []


@each_kind()
def test_who_waited_longest_is_first_and_who_is_gone_gets_nothing(shelf: Shelf) -> None:
    house = House(shelf)
    first, dead, gone, last = (house.wait(owner=owner) for owner in ("first", "dead", "gone", "last"))
    house.die("dead")
    gone.still = False
    house.send(1)
    house.send(2)
    assert [each.payload for each in first.heard + last.heard] == ["1", "2"]
    assert (dead.heard, gone.heard, house.depth()) == ([], [], 0)
    house.ack(last.heard[0], owner="last")


@each_kind()
def test_waiting_ends_on_time_and_only_once(shelf: Shelf) -> None:
    house = House(shelf)
    patient, hasty = house.wait(timeout_ms=500), house.wait(timeout_ms=200)
    house.pass_time(0.2)
    assert (patient.heard, hasty.heard) == ([], [None])
    house.pass_time(0.3)
    assert patient.heard == [None]
    assert house.alarm_ns is None
    house.send(1)
    assert (patient.heard, hasty.heard) == ([None], [None])
    assert house.channels.receive(ACME, "none", "a", 0, Asker(house.clock.monotonic_ns()).waiter()) is None


@each_kind()
def test_a_consumer_that_dies_releases_its_messages_at_once(shelf: Shelf) -> None:
    house = House(shelf)
    for number in range(3):
        house.send(number)
    house.receive()
    house.receive()
    waiting = [house.wait(owner=owner, name="q") for owner in ("b",) if house.receive(owner="c") is not None]
    house.die()
    assert [each.payload for each in waiting[0].heard] == ["0"]
    again = house.receive(owner="d")
    assert (again.payload, again.deliveries) == ("1", 2)
    house.die("nobody")


@each_kind()
def test_a_subscriber_gets_one_at_a_time(shelf: Shelf) -> None:
    house = House(shelf)
    house.send(1)
    subscription, pushed = house.subscribe()
    house.send(2)
    house.send(3)
    assert [each.payload for each in pushed] == ["1"]
    assert house.channels.begin(ACME, "q", pushed[0].id, "a")
    # It is the subscriber's for as long as it takes.
    house.pass_time(3_600)
    house.ack(pushed[0])
    assert [each.payload for each in pushed] == ["1", "2"]
    assert house.channels.unsubscribe(ACME, "b", subscription) is False
    assert house.channels.unsubscribe(EVIL, "a", subscription) is False
    assert house.channels.unsubscribe(ACME, "a", subscription) is True
    assert house.channels.unsubscribe(ACME, "a", subscription) is False
    house.ack(pushed[1])
    assert len(pushed) == 2
    assert house.payloads() == [3]


@each_kind()
def test_what_a_subscriber_had_not_begun_does_not_count_as_delivered(shelf: Shelf) -> None:
    house = House(shelf, channel_deliveries_max=1)
    house.send(1)
    _, pushed = house.subscribe("a")
    house.die("a")
    house.restart()
    _, again = house.subscribe("b")
    assert [each.deliveries for each in pushed + again] == [1, 1]
    assert house.channels.begin(ACME, "q", again[0].id, "b")
    house.die("b")
    assert house.depth() == 0
    assert len(house.dead) == 1


@each_kind()
def test_limits_hold_at_their_value(shelf: Shelf) -> None:
    house = House(shelf, channel_messages_max=2, channel_subscriptions_per_actor_max=1)
    house.send(1)
    house.send(2)
    held = house.receive()
    for scope, name in ((ACME, "other"), (EVIL, "q")):
        house.send(0, scope=scope, name=name)
    with pytest.raises(LimitExceeded, match="channel_messages_max"):
        house.send(3)
    house.ack(held)
    house.send(3)
    house.subscribe("a")
    house.subscribe("b")
    with pytest.raises(LimitExceeded, match="channel_subscriptions_per_actor_max"):
        house.subscribe("a")


@each_kind()
def test_stored_bytes_are_counted_and_given_back(shelf: Shelf) -> None:
    house = House(shelf, stored_bytes_per_tenant_max=2 * (1_002 + OVERHEAD_BYTES) - 1)
    house.send("x" * 1_000)
    with pytest.raises(LimitExceeded, match="stored_bytes_per_tenant_max"):
        house.send("x" * 1_000)
    house.restart()
    assert house.quotas.bytes.of("acme") == 1_002 + OVERHEAD_BYTES
    house.payloads()
    house.send("x" * 1_000)


@each_kind()
@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": "x" * 257},
        {"name": "a\nb"},
        {"delay_ms": DELAY_MS_MAX + 1},
        {"ttl_ms": DELAY_MS_MAX + 1},
        {"delay_ms": 10, "ttl_ms": 10},
        {"dedup_id": "x" * 257},
    ],
)
def test_what_makes_no_sense_is_not_sent(shelf: Shelf, options: dict[str, Any]) -> None:
    house = House(shelf)
    with pytest.raises(InvalidArgument):
        house.send(1, **options)
    for payload in ("", "{", "nope", "[NaN]"):
        with pytest.raises(InvalidArgument, match="JSON"):
            house.channels.send(ACME, "q", "job", payload)
    with pytest.raises(InvalidArgument):
        house.channels.send(ACME, "q", "x" * 257, "{}")
    assert house.depth() == 0


@each_kind()
def test_times_that_make_no_sense_are_refused(shelf: Shelf) -> None:
    house = House(shelf)
    house.send(1)
    with pytest.raises(InvalidArgument, match="visibility-ms"):
        house.receive(visibility_ms=VISIBILITY_MS_MAX + 1)
    held = house.receive(visibility_ms=VISIBILITY_MS_MAX)
    for visibility_ms in (0, VISIBILITY_MS_MAX + 1):
        with pytest.raises(InvalidArgument, match="visibility-ms"):
            house.channels.extend(ACME, "q", held.id, "a", visibility_ms)
    with pytest.raises(InvalidArgument, match="delay-ms"):
        house.nack(held, delay_ms=DELAY_MS_MAX + 1)
    house.ack(held)


@each_kind()
def test_payloads_that_memory_has_no_room_for_come_from_the_table(shelf: Shelf) -> None:
    house = House(shelf, resident_bytes_max=10)
    for number in range(4):
        house.send([number] * 2)
    shelf.flush()
    assert house.channels._resident_bytes == 6
    house.nack(house.receive(), requeue=False)
    assert house.payloads() == [[number] * 2 for number in range(1, 4)]
    assert house.channels.dead_letters(ACME)[0].payload == "[0, 0]"
    assert house.channels._resident_bytes == 6
    house.channels.drop(ACME, house.channels.dead_letters(ACME)[0].id)
    assert house.channels._resident_bytes == 0


@each_kind()
def test_what_the_disk_refuses_leaves_everything_as_it_was(shelf: Shelf) -> None:
    house = House(shelf)
    house.send(1)
    house.send(2)
    held = house.receive()
    house.table.refuses = True
    with pytest.raises(Unavailable):
        house.send(3)
    with pytest.raises(Unavailable):
        house.send(3, dedup_id="a")
    with pytest.raises(Unavailable):
        house.receive(owner="b")
    with pytest.raises(Unavailable):
        house.ack(held)
    with pytest.raises(Unavailable):
        house.nack(held, delay_ms=1)
    with pytest.raises(Unavailable):
        house.nack(held, requeue=False)
    assert house.depth() == 1
    house.table.refuses = False
    house.ack(held)
    house.send(3, dedup_id="a")
    assert house.payloads() == [2, 3]


@each_kind()
def test_ends_that_nobody_can_be_told_of_are_tried_again(shelf: Shelf) -> None:
    house = House(shelf, channel_deliveries_max=1)
    for _ in range(2):
        house.send("poison")
    house.receive(visibility_ms=100)
    house.receive(owner="b")
    house.send("aging", ttl_ms=100)
    house.table.refuses = True
    house.pass_time(0.1)
    house.die("b")
    assert house.depth() == 0
    assert house.dead == []
    house.table.refuses = False
    house.pass_time(1)
    assert len(house.dead) == 2
    shelf.flush()
    assert [row.dead_ms > 0 for row in shelf.channels.rows()] == [True, True]


@each_kind()
def test_pushing_goes_on_when_the_disk_does(shelf: Shelf) -> None:
    house = House(shelf)
    house.send(1)
    house.table.refuses = True
    _, pushed = house.subscribe()
    assert pushed == []
    house.pass_time(2)
    house.table.refuses = False
    house.pass_time(1)
    assert [each.payload for each in pushed] == ["1"]
    waiting = house.wait(owner="b")
    insert = shelf.channels.insert

    def then_refuse(*arguments: Any) -> int:
        written = insert(*arguments)
        house.table.refuses = True
        return written

    house.table._table = type("Table", (), {"insert": staticmethod(then_refuse), "when_durable": None})()
    house.send(2)
    house.table._table, house.table.refuses = shelf.channels, False
    assert [type(each) for each in waiting.heard] == [Unavailable]
    assert house.payloads() == [2]


@each_kind()
def test_another_tenant_notices_nothing(shelf: Shelf) -> None:
    house = House(shelf)
    for other in (EVIL, OTHER_NAMESPACE):
        waiting = house.wait(scope=other, owner="o")
        _, pushed = house.subscribe("o", scope=other)
        house.send(1)
        assert (waiting.heard, pushed, house.depth(other), house.receive(scope=other)) == ([], [], 0, None)
        house.die("o")
        house.send(2, scope=other)
        house.send(3, scope=other)
        assert [each.payload for each in waiting.heard + pushed] == ["2", "3"]
        assert house.payloads() == [1]
        house.die("o", other)
        assert house.payloads(scope=other) == [2, 3]


# -- against a model ---------------------------------------------------------------------------------------

DELIVERIES_MAX = 2


@dataclass(eq=False)
class Modelled:
    """A message in the model, with the only date it has at the moment."""

    id: str
    number: int
    place: tuple[Scope, str]
    payload: str
    state: State = State.WAITING
    deliveries: int = 0
    queued: bool = False
    visible_ns: int = 0
    visible_ms: int = 0
    expires_ns: int = 0
    expires_ms: int = 0
    owner: str = ""
    by: Reader | None = None
    begun: bool = True
    due: tuple[int, int] | None = None


@dataclass(eq=False)
class Reader:
    """A waiter or a subscription in the model."""

    place: tuple[Scope, str]
    owner: str
    standing: bool = False
    visibility_ns: int = 0
    id: str = ""
    expected: list[Any] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)
    due: tuple[int, int] | None = None


places = st.tuples(st.sampled_from([ACME, EVIL]), st.sampled_from(["p", "q"]))
owners = st.sampled_from(["x", "y"])
milliseconds = st.integers(1, 40)
choice = st.integers(0, 30)


class ChannelMachine(RuleBasedStateMachine):
    """The model does each thing in the plainest way, and knows the table of states only by what is asserted."""

    kind = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.house = House(Shelf(self.kind), channel_deliveries_max=DELIVERIES_MAX, channel_messages_max=4)
        self.messages: list[Modelled] = []
        self.row: list[Reader] = []
        self.subscriptions: list[Reader] = []
        self.everybody: list[Reader] = []
        self.orders = 0
        self.sent = 0
        self.ended: Counter[State] = Counter()

    def teardown(self) -> None:
        self.house.shelf.close()

    # -- the model ----------------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        return self.house.clock.monotonic_ns()

    @property
    def now_ms(self) -> int:
        return self.house.clock.now_ns() // MS

    def _date(self, each: Modelled | Reader, due_ns: int) -> None:
        self.orders += 1
        each.due = (due_ns, self.orders)

    def _enqueue(self, message: Modelled) -> None:
        message.state = State.WAITING
        if message.visible_ns > self.now_ns:
            self._date(message, min(message.visible_ns, message.expires_ns or message.visible_ns))
            return
        message.queued = True
        if message.expires_ns:
            self._date(message, message.expires_ns)

    def _serve(self, place: tuple[Scope, str]) -> None:
        while True:
            readers = [each for each in self.row if each.place == place]
            ready = [each for each in self.messages if each.place == place and each.queued]
            if not readers or not ready:
                return
            reader, message = readers[0], min(ready, key=lambda each: each.number)
            self.row.remove(reader)
            reader.due = None
            until_ns = 0 if reader.standing else self.now_ns + reader.visibility_ns
            self._lease(message, reader.owner, until_ns, reader if reader.standing else None)
            reader.expected.append((message.id, message.deliveries))

    def _lease(self, message: Modelled, owner: str, until_ns: int, by: Reader | None) -> None:
        message.state, message.queued, message.owner, message.by = State.LEASED, False, owner, by
        message.deliveries += 1
        message.begun = by is None
        message.due = None
        if until_ns:
            self._date(message, until_ns)

    def _unlease(self, message: Modelled) -> None:
        message.due, message.owner = None, ""
        if message.by is not None and message.by in self.subscriptions:
            self.row.append(message.by)
        message.by = None

    def _gone(self, message: Modelled, state: State) -> None:
        self.messages.remove(message)
        self.ended[state] += 1

    def _give_back(self, message: Modelled, delay_ms: int = 0) -> None:
        self._unlease(message)
        if not message.begun:
            message.deliveries -= 1
        if message.expires_ns and message.expires_ns <= self.now_ns:
            self._gone(message, State.EXPIRED)
        elif message.deliveries >= DELIVERIES_MAX:
            message.state = State.DEAD
        else:
            message.visible_ns = self.now_ns + delay_ms * MS if delay_ms else 0
            message.visible_ms = self.now_ms + delay_ms if delay_ms else 0
            self._enqueue(message)

    def _due(self, each: Modelled | Reader) -> None:
        each.due = None
        if isinstance(each, Reader):
            self.row.remove(each)
            each.expected.append(None)
        elif each.state is State.LEASED:
            self._give_back(each)
            self._serve(each.place)
        elif each.expires_ns and each.expires_ns <= self.now_ns:
            self._gone(each, State.EXPIRED)
        else:
            self._enqueue(each)
            self._serve(each.place)

    def _some(self, number: int, state: State) -> Modelled | None:
        found = [each for each in self.messages if each.state is state]
        return found[number % len(found)] if found else None

    def _moment(self) -> None:
        """No two things that are asked for happen in one instant, so the order of what is due is known."""
        self.house.clock.advance(1e-6)

    # -- what is done -------------------------------------------------------------------------------------

    @rule(place=places, delay_ms=st.just(0) | milliseconds, lives_ms=st.just(0) | milliseconds)
    def send(self, place: tuple[Scope, str], delay_ms: int, lives_ms: int) -> None:
        self._moment()
        self.sent += 1
        ttl_ms = delay_ms + lives_ms if lives_ms else 0
        payload = str(self.sent)
        here = [each for each in self.messages if each.place == place and each.state is not State.DEAD]
        if len(here) >= 4:
            self.sent -= 1
            with pytest.raises(LimitExceeded):
                self.house.channels.send(*place, "t", payload)
            return
        message_id = self.house.channels.send(*place, "t", payload, delay_ms=delay_ms, ttl_ms=ttl_ms)
        message = Modelled(message_id, self.sent, place, payload)
        if delay_ms:
            message.visible_ns, message.visible_ms = self.now_ns + delay_ms * MS, self.now_ms + delay_ms
        if ttl_ms:
            message.expires_ns, message.expires_ms = self.now_ns + ttl_ms * MS, self.now_ms + ttl_ms
        self.messages.append(message)
        self._enqueue(message)
        self._serve(place)

    @rule(place=places, owner=owners, visibility_ms=milliseconds, timeout_ms=st.just(0) | milliseconds)
    def receive(self, place: tuple[Scope, str], owner: str, visibility_ms: int, timeout_ms: int) -> None:
        self._moment()
        asker = Asker(self.now_ns + timeout_ms * MS)
        waiter = asker.waiter() if timeout_ms else None
        found = self.house.channels.receive(*place, owner, visibility_ms, waiter)
        ready = [each for each in self.messages if each.place == place and each.queued]
        if ready:
            message = min(ready, key=lambda each: each.number)
            self._lease(message, owner, self.now_ns + visibility_ms * MS, None)
            assert isinstance(found, Delivery)
            assert (found.id, found.payload, found.deliveries) == (message.id, message.payload, message.deliveries)
        elif timeout_ms:
            assert found is WAITING
            reader = Reader(place, owner, visibility_ns=visibility_ms * MS, heard=asker.heard)
            self.row.append(reader)
            self.everybody.append(reader)
            self._date(reader, asker.deadline_ns)
        else:
            assert found is None

    @rule(place=places, owner=owners)
    def subscribe(self, place: tuple[Scope, str], owner: str) -> None:
        self._moment()
        reader = Reader(place, owner, standing=True)
        self.subscriptions.append(reader)
        self.everybody.append(reader)
        self.row.append(reader)
        reader.id = self.house.channels.subscribe(*place, owner, reader.heard.append)
        self._serve(place)

    @rule(number=choice)
    def unsubscribe(self, number: int) -> None:
        self._moment()
        if self.subscriptions:
            reader = self.subscriptions.pop(number % len(self.subscriptions))
            if reader in self.row:
                self.row.remove(reader)
            assert self.house.channels.unsubscribe(reader.place[0], reader.owner, reader.id)

    @rule(number=choice)
    def begin(self, number: int) -> None:
        self._moment()
        if (message := self._some(number, State.LEASED)) is not None:
            message.begun = True
            assert self.house.channels.begin(*message.place, message.id, message.owner)

    @rule(number=choice)
    def ack(self, number: int) -> None:
        self._moment()
        if (message := self._some(number, State.LEASED)) is not None:
            self.house.channels.ack(*message.place, message.id, message.owner)
            self._unlease(message)
            self._gone(message, State.ACKNOWLEDGED)
            self._serve(message.place)

    @rule(number=choice, requeue=st.booleans(), delay_ms=st.just(0) | milliseconds)
    def nack(self, number: int, requeue: bool, delay_ms: int) -> None:
        self._moment()
        if (message := self._some(number, State.LEASED)) is not None:
            self.house.channels.nack(*message.place, message.id, message.owner, requeue=requeue, delay_ms=delay_ms)
            if requeue:
                self._give_back(message, delay_ms)
            else:
                self._unlease(message)
                message.state = State.DEAD
            self._serve(message.place)

    @rule(number=choice, visibility_ms=milliseconds)
    def extend(self, number: int, visibility_ms: int) -> None:
        self._moment()
        if (message := self._some(number, State.LEASED)) is not None:
            self.house.channels.extend(*message.place, message.id, message.owner, visibility_ms)
            self._date(message, self.now_ns + visibility_ms * MS)

    @rule(number=choice)
    def settle_what_is_not_leased(self, number: int) -> None:
        self._moment()
        if (message := self._some(number, State.WAITING)) is not None:
            with pytest.raises(NotFound):
                self.house.channels.ack(*message.place, message.id, "x")

    @rule(number=choice, drops=st.booleans())
    def operate(self, number: int, drops: bool) -> None:
        self._moment()
        if (message := self._some(number, State.DEAD)) is None:
            return
        scope = message.place[0]
        if drops:
            self.house.channels.drop(scope, message.id)
            self._gone(message, State.DROPPED)
            return
        here = [each for each in self.messages if each.place == message.place and each.state is not State.DEAD]
        if len(here) >= 4:
            with pytest.raises(LimitExceeded):
                self.house.channels.retry(scope, message.id)
            return
        self.house.channels.retry(scope, message.id)
        message.deliveries = message.visible_ns = message.visible_ms = message.expires_ns = message.expires_ms = 0
        self._enqueue(message)
        self._serve(message.place)

    @rule(scope=st.sampled_from([ACME, EVIL]), owner=owners)
    def die(self, scope: Scope, owner: str) -> None:
        self._moment()
        self.house.channels.forget(scope, owner)
        self.row = [each for each in self.row if (each.place[0], each.owner) != (scope, owner)]
        self.subscriptions = [each for each in self.subscriptions if (each.place[0], each.owner) != (scope, owner)]
        for each in self.everybody:
            if each not in self.row:
                each.due = None
        held = [each for each in self.messages if each.place[0] == scope and each.state is State.LEASED]
        for message in [each for each in held if each.owner == owner]:
            self._give_back(message)
        for place in {message.place for message in held}:
            self._serve(place)

    @rule(ms=milliseconds, rings=st.booleans())
    def time_passes(self, ms: int, rings: bool) -> None:
        self._moment()
        until_ns = self.now_ns + ms * MS
        while True:
            dated = [each for each in [*self.messages, *self.row] if each.due is not None]
            if not dated:
                break
            each = min(dated, key=lambda each: each.due or (0, 0))
            assert each.due is not None
            if each.due[0] > until_ns:
                break
            self.house.clock.advance(max(0, each.due[0] - self.now_ns) / 1e9)
            # One at a time, even where several are due: the store may not do them in another order.
            several = [other for other in dated if other.due is not None and other.due[0] <= self.now_ns]
            for other in sorted(several, key=lambda other: other.due or (0, 0)):
                if other.due is not None and other.due[0] <= self.now_ns:
                    self._due(other)
            if rings:
                self.house.channels.ring()
            else:
                self.house.depth()
        self.house.clock.advance(max(0, until_ns - self.now_ns) / 1e9)
        self.house.depth()

    @rule()
    def restart(self) -> None:
        self._moment()
        self.house.restart()
        self.row, self.subscriptions = [], []
        for each in self.messages:
            each.due, each.owner, each.by, each.queued, each.begun = None, "", None, False, True
            each.visible_ns = (
                self.now_ns + (each.visible_ms - self.now_ms) * MS if each.visible_ms > self.now_ms else 0
            )
            if each.expires_ms:
                each.expires_ns = self.now_ns + (each.expires_ms - self.now_ms) * MS
        for each in list(self.messages):
            if each.state is State.DEAD:
                continue
            if each.expires_ms and each.expires_ms <= self.now_ms:
                self._gone(each, State.EXPIRED)
            else:
                self._enqueue(each)

    # -- what holds ---------------------------------------------------------------------------------------

    @invariant()
    def everybody_heard_what_they_should(self) -> None:
        for each in self.everybody:
            heard = [None if one is None else (one.id, one.deliveries) for one in each.heard]
            assert heard == each.expected

    @invariant()
    def q1_each_message_is_in_one_state_and_none_is_lost(self) -> None:
        store = self.house.channels
        assert {each.id: each.state for each in self.messages} == {
            f"message-{number}": message.state for number, message in store._messages.items()
        }
        assert len(store._messages) + sum(self.ended.values()) == self.sent
        for place in {each.place for each in self.messages}:
            here = [each for each in self.messages if each.place == place]
            assert store.depth(*place) == sum(each.state is State.WAITING for each in here)
            dead = [each.id for each in here if each.state is State.DEAD]
            assert [each.id for each in store.dead_letters(*place)] == dead

    @invariant()
    def the_books_are_right(self) -> None:
        for scope in (ACME, EVIL):
            mine = [each for each in self.messages if each.place[0] == scope]
            assert self.house.quotas.bytes.of(scope.tenant) == sum(len(m.payload) + OVERHEAD_BYTES for m in mine)
        places = {each.place for each in [*self.messages, *self.row, *self.subscriptions]}
        kept = {(scope, name) for scope, there in self.house.channels._channels.items() for name in there}
        assert kept == places


@pytest.mark.parametrize("kind", KINDS)
def test_it_behaves_as_the_model(kind: str) -> None:
    machine = type("Machine", (ChannelMachine,), {"kind": kind})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=60 if kind == "memory" else 15,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
