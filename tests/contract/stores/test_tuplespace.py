"""What every implementation of the tuple space keeps to: against a plain model, case by case, and across tenants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import InvalidArgument, LimitExceeded, MailboxFull, Unavailable
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores.patterns import parse_pattern, parse_tuple
from plexspaces_runtime.stores.quotas import Quotas
from plexspaces_runtime.stores.tuplespace import (
    LEASE_MS_MAX,
    LIMIT_MAX,
    OVERHEAD_BYTES,
    WAITING,
    TupleSpace,
    Waiter,
)
from tests.contract.stores.shelves import KINDS, Shelf, each_kind

ACME = Scope("acme", "default")
OTHER_NAMESPACE = Scope("acme", "other")
EVIL = Scope("evil", "default")
MS = 1_000_000


@dataclass(eq=False)
class Asker:
    """One who waits, and what it heard."""

    owner: str
    deadline_ns: int
    still: bool = True
    heard: list[Any] = field(default_factory=list)

    def waiter(self) -> Waiter:
        return Waiter(self.owner, self.deadline_ns, lambda: self.still, self.heard.append)


class Stubborn:
    """A table that refuses while it is told to."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self.refuses = False

    def __getattr__(self, name: str) -> Any:
        if self.refuses and name in ("insert", "delete"):
            raise Unavailable("the disk is full")
        return getattr(self._table, name)


class House:
    """A store and all that is around it."""

    def __init__(self, shelf: Shelf, **limits: Any) -> None:
        self.shelf = shelf
        self.clock = ManualClock()
        self.limits = Limits(**limits)
        self.alarm_s: float | None = None
        self.start()

    def start(self) -> None:
        self.quotas = Quotas(self.limits)
        self.table = Stubborn(self.shelf.tuples)
        self.space = TupleSpace(
            self.table, quotas=self.quotas, clock=self.clock, limits=self.limits, set_alarm=self._set_alarm
        )
        self.space.load()

    def restart(self) -> None:
        self.shelf.reopen()
        self.start()

    def _set_alarm(self, delay_s: float | None) -> None:
        self.alarm_s = delay_s

    def write(self, *fields: Any, scope: Scope = ACME, lease_ms: int | None = None) -> str:
        return self.space.write(scope, json.dumps(fields), lease_ms)

    def read(self, *pattern: Any, scope: Scope = ACME) -> Any:
        return _fields(self.space.read(scope, json.dumps(pattern)))

    def take(self, *pattern: Any, scope: Scope = ACME) -> Any:
        return _fields(self.space.take(scope, json.dumps(pattern)))

    def read_all(self, *pattern: Any, scope: Scope = ACME, limit: int = 0) -> list[Any]:
        return [json.loads(text) for text in self.space.read_all(scope, json.dumps(pattern), limit)]

    def take_all(self, *pattern: Any, scope: Scope = ACME, limit: int = 0) -> list[Any]:
        return [json.loads(text) for text in self.space.take_all(scope, json.dumps(pattern), limit)]

    def count(self, *pattern: Any, scope: Scope = ACME) -> int:
        return self.space.count(scope, json.dumps(pattern))

    def wait(
        self, what: str, *pattern: Any, scope: Scope = ACME, owner: str = "a", timeout_ms: int = 1_000
    ) -> Asker:
        asker = Asker(owner, self.clock.monotonic_ns() + timeout_ms * MS)
        assert getattr(self.space, what)(scope, json.dumps(pattern), asker.waiter()) is WAITING
        return asker

    def subscribe(self, *pattern: Any, scope: Scope = ACME, owner: str = "a", full: Any = lambda: False) -> Any:
        told: list[Any] = []
        return self.space.subscribe(
            scope, owner, json.dumps(pattern), lambda text: told.append(json.loads(text)), full
        ), told

    def ring(self) -> None:
        """Let the alarm ring, at its time and not before."""
        assert self.alarm_s is not None
        self.clock.advance(self.alarm_s)
        self.alarm_s = None
        self.space.ring()


def _fields(text: Any) -> Any:
    return None if text is None else json.loads(text)


@pytest.fixture
def shelf(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    made = Shelf(request.param)
    yield made
    made.close()


# -- cases -------------------------------------------------------------------------------------------------


@each_kind()
def test_the_oldest_match_comes_first_as_it_was_written(shelf: Shelf) -> None:
    house = House(shelf)
    text = '[ "job" ,1.50, {"b":1, "a":2}]'
    house.space.write(ACME, text)
    house.write("job", 2, None)
    assert house.space.read(ACME, '["job", null, null]') == text
    assert house.space.take(ACME, '["job", null, null]') == text
    assert house.take("job", None, None) == ["job", 2, None]
    assert house.take("job", None, None) is None


@each_kind()
def test_ids_are_never_given_twice_not_even_after_a_restart(shelf: Shelf) -> None:
    house = House(shelf)
    ids = [house.write("a"), house.write("b")]
    assert house.take_all(None) == [["a"], ["b"]]
    house.restart()
    ids.append(house.write("c"))
    assert len(set(ids)) == 3


@each_kind()
def test_all_takes_no_more_than_the_limit(shelf: Shelf) -> None:
    house = House(shelf)
    for number in range(101):
        house.write(number)
    assert house.read_all(None) == [[number] for number in range(100)]
    assert house.read_all(None, limit=LIMIT_MAX) == [[number] for number in range(101)]
    assert house.take_all(None, limit=2) == [[0], [1]]
    assert house.count(None) == 99
    for function in (house.read_all, house.take_all):
        with pytest.raises(InvalidArgument, match="1001"):
            function(None, limit=LIMIT_MAX + 1)


@each_kind()
def test_a_lease_ends_on_the_millisecond_also_across_a_restart(shelf: Shelf) -> None:
    house = House(shelf)
    house.write("short", lease_ms=1_000)
    house.write("long", lease_ms=2_000)
    house.write("for ever")
    house.clock.advance(0.999)
    assert house.count(None) == 3
    house.clock.advance(0.001)
    # Nobody has rung: nothing that is over is seen, all the same.
    assert house.read_all(None) == [["long"], ["for ever"]]
    house.restart()
    house.clock.advance(0.999)
    assert house.read("long") == ["long"]
    house.clock.advance(0.001)
    house.restart()
    assert house.read_all(None) == [["for ever"]]
    assert house.quotas.tuples.of("acme") == 1
    house.restart()
    assert [row.fields for row in shelf.tuples.rows()] == ['["for ever"]']


@each_kind()
@pytest.mark.parametrize("lease_ms", [0, LEASE_MS_MAX + 1])
def test_a_lease_that_makes_no_sense_is_refused(shelf: Shelf, lease_ms: int) -> None:
    house = House(shelf)
    with pytest.raises(InvalidArgument, match="lease-ms"):
        house.write("a", lease_ms=lease_ms)
    house.write("a", lease_ms=1)
    house.write("a", lease_ms=LEASE_MS_MAX)


@each_kind()
def test_who_waited_longest_takes_and_readers_get_copies_before(shelf: Shelf) -> None:
    house = House(shelf)
    first = house.wait("take", "job", None, owner="a")
    reader = house.wait("read", None, 1, owner="b")
    second = house.wait("take", None, {"$type": "int"}, owner="c")
    late_reader = house.wait("read", "job", {"$pred": ["<", 2]}, owner="d")
    stranger = house.wait("take", "other", None, owner="e")
    house.write("job", 1)
    assert first.heard == reader.heard == late_reader.heard == ['["job", 1]']
    assert second.heard == stranger.heard == []
    assert house.count(None, None) == 0
    house.write("job", 2)
    assert second.heard == ['["job", 2]']
    assert first.heard == ['["job", 1]']
    house.write("job", 3)
    assert house.take("job", None) == ["job", 3]


@each_kind()
def test_waiting_ends_on_time_and_only_once(shelf: Shelf) -> None:
    house = House(shelf)
    patient, hasty = house.wait("read", "a", timeout_ms=500), house.wait("take", "a", timeout_ms=200)
    house.ring()
    assert (patient.heard, hasty.heard) == ([], [None])
    assert house.clock.monotonic_ns() == 200 * MS
    house.ring()
    assert patient.heard == [None]
    assert house.clock.monotonic_ns() == 500 * MS
    assert house.alarm_s is None
    house.write("a")
    assert (patient.heard, hasty.heard) == ([None], [None])
    assert house.space.take(ACME, '["b"]', Asker("a", house.clock.monotonic_ns()).waiter()) is None


@each_kind()
def test_nothing_is_taken_for_one_who_is_gone(shelf: Shelf) -> None:
    house = House(shelf)
    dead = house.wait("take", "a", owner="dead")
    gone = house.wait("take", "a", owner="gone")
    alive = house.wait("take", "a", owner="alive")
    house.space.forget(ACME, "dead")
    gone.still = False
    house.write("a")
    assert (dead.heard, gone.heard, alive.heard) == ([], [], ['["a"]'])
    house.space.forget(ACME, "nobody")


@each_kind()
def test_subscribers_hear_of_every_match_until_they_end(shelf: Shelf) -> None:
    house = House(shelf)
    house.write("job", 0)
    mine, told = house.subscribe("job", None, owner="a")
    _, also = house.subscribe(None, {"$type": "int"}, owner="b")
    assert house.take("job", None) == ["job", 0]
    taker = house.wait("take", "job", None, owner="c")
    house.write("job", 1)
    house.write("other", "x")
    # It was taken as it came, and they have heard of it all the same.
    assert taker.heard == ['["job", 1]']
    assert told == [["job", 1]]
    assert also == [["job", 1]]
    assert house.space.unsubscribe(ACME, "b", mine) is False
    assert house.space.unsubscribe(EVIL, "a", mine) is False
    assert house.space.unsubscribe(ACME, "a", mine) is True
    assert house.space.unsubscribe(ACME, "a", mine) is False
    house.space.forget(ACME, "b")
    house.write("job", 2)
    assert (len(told), len(also)) == (1, 1)


@each_kind()
def test_a_subscriber_that_does_not_keep_up_holds_up_such_tuples_only(shelf: Shelf) -> None:
    house = House(shelf)
    full = False
    _, told = house.subscribe("job", owner="a", full=lambda: full)
    house.write("job")
    full = True
    with pytest.raises(MailboxFull):
        house.write("job")
    house.write("other")
    assert (house.count(None), told) == (2, [["job"]])


@each_kind()
def test_limits_hold_at_their_value(shelf: Shelf) -> None:
    house = House(
        shelf, tuple_bytes_max=16, tuples_per_tenant_max=3, tuples_examined_max=2, tuple_subscriptions_per_actor_max=1
    )
    fits = '["0123456789ab"]'
    assert len(fits) == 16
    house.space.write(ACME, fits)
    with pytest.raises(LimitExceeded, match="tuple_bytes_max"):
        house.space.write(ACME, '["0123456789abc"]')
    with pytest.raises(LimitExceeded, match="tuple_bytes_max"):
        house.space.write(ACME, '["0123456789aä"]')
    house.write("b")
    # Two may be looked at one by one.
    assert house.read({"$pred": ["prefix", "b"]}) == ["b"]
    house.write("c", scope=OTHER_NAMESPACE)
    with pytest.raises(LimitExceeded, match="tuples_per_tenant_max"):
        house.write("d")
    house.write("d", scope=EVIL)
    house.take("c", scope=OTHER_NAMESPACE)
    house.write("d")
    with pytest.raises(LimitExceeded, match="tuples_examined_max"):
        house.read({"$pred": ["prefix", "d"]})
    with pytest.raises(LimitExceeded, match="tuples_examined_max"):
        house.count({"$type": "str"})
    assert house.read({"$pred": ["prefix", "b"]}) == ["b"]
    assert house.read("d") == ["d"]
    assert house.count(None) == 3
    house.subscribe("x", owner="a")
    house.subscribe("x", owner="b")
    with pytest.raises(LimitExceeded, match="tuple_subscriptions_per_actor_max"):
        house.subscribe("y", owner="a")


@each_kind()
def test_stored_bytes_are_counted_and_given_back(shelf: Shelf) -> None:
    text = '["' + "x" * 996 + '"]'
    house = House(shelf, stored_bytes_per_tenant_max=2 * (len(text) + OVERHEAD_BYTES) - 1)
    house.space.write(ACME, text)
    with pytest.raises(LimitExceeded, match="stored_bytes_per_tenant_max"):
        house.space.write(ACME, text)
    house.restart()
    assert house.quotas.bytes.of("acme") == len(text) + OVERHEAD_BYTES
    house.take(None)
    assert house.quotas.bytes.of("acme") == 0
    house.space.write(ACME, text)


@each_kind()
def test_what_the_disk_refuses_leaves_no_trace(shelf: Shelf) -> None:
    house = House(shelf)
    house.write("kept", 1)
    _, told = house.subscribe("new", None)
    waiting = house.wait("read", "new", None)
    house.table.refuses = True
    with pytest.raises(Unavailable):
        house.write("new", 2)
    for function in (house.take, house.take_all):
        with pytest.raises(Unavailable):
            function("kept", None)
    assert (told, waiting.heard) == ([], [])
    assert house.read("kept", None) == ["kept", 1]
    house.table.refuses = False
    house.write("new", 2)
    assert (told, waiting.heard) == ([["new", 2]], ['["new", 2]'])


@each_kind()
def test_a_taker_whom_the_disk_refuses_hears_so_and_the_tuple_stays(shelf: Shelf) -> None:
    house = House(shelf)
    first, second = house.wait("take", "a", owner="a"), house.wait("take", "a", owner="b")
    insert = shelf.tuples.insert

    def then_refuse(row: Any) -> None:
        insert(row)
        house.table.refuses = True

    house.table._table = type("Table", (), {"insert": staticmethod(then_refuse)})()
    house.write("a")
    assert [type(each) for each in first.heard + second.heard] == [Unavailable, Unavailable]
    house.table._table, house.table.refuses = shelf.tuples, False
    assert house.take("a") == ["a"]


@each_kind()
def test_what_expires_while_the_disk_refuses_goes_when_it_does_not(shelf: Shelf) -> None:
    house = House(shelf)
    house.write("a", lease_ms=10)
    house.table.refuses = True
    house.clock.advance(0.01)
    assert house.read("a") is None
    assert house.quotas.tuples.of("acme") == 0
    house.table.refuses = False
    house.clock.advance(1.0)
    assert house.read("a") is None
    shelf.flush()
    assert list(shelf.tuples.rows()) == []


@each_kind()
def test_another_tenant_notices_nothing(shelf: Shelf) -> None:
    house = House(shelf)
    house.write("a", 1)
    for other in (EVIL, OTHER_NAMESPACE):
        assert house.read("a", None, scope=other) is None
        assert house.take("a", None, scope=other) is None
        assert house.read_all(None, None, scope=other) == []
        assert house.take_all(None, None, scope=other) == []
        assert house.count(None, None, scope=other) == 0
        waits = house.wait("take", "a", None, scope=other, owner="o")
        _, told = house.subscribe(None, None, scope=other, owner="o")
        house.write("a", 2)
        assert (waits.heard, told) == ([], [])
        house.space.forget(ACME, "o")
        house.write("a", 3, scope=other)
        assert (waits.heard, told) == (['["a", 3]'], [["a", 3]])
        assert house.take("a", 2) == ["a", 2]
        house.space.forget(other, "o")
    house.restart()
    assert house.read_all(None, None) == [["a", 1]]
    assert house.read_all(None, None, scope=EVIL) == []
    assert house.quotas.tuples.of("evil") == 0


def test_a_million_tuples_taken_one_by_one_from_the_front_cost_no_search() -> None:
    """A queue of tuples is read at the front: what was removed there must not be walked past again and again."""
    shelf = Shelf("memory")
    house = House(shelf)
    for number in range(20_000):
        house.space.write(ACME, f'["job",{number}]')
    bucket, several, _ = house.space._spaces[ACME].index.candidates(parse_pattern('["job", null]'))
    assert several == 20_000
    steps = 0
    for number in range(20_000):
        text = house.space.take(ACME, '["job", null]')
        assert text == f'["job",{number}]'
        if number < 19_999:
            steps += len(bucket.tuples) - bucket.head - bucket.live  # type: ignore[union-attr]
    assert steps < 20_000


# -- against a model ---------------------------------------------------------------------------------------

fields_of = st.lists(st.sampled_from(["a", "b", 1, 1.0, 2, True, None, [1], {"x": 1}]), min_size=1, max_size=3)
patterns = st.lists(
    st.sampled_from(
        ["a", "b", 1, 2, True, None, None, [1], {"$type": "int"}, {"$type": "str"}, {"$pred": [">", 1]},
         {"$pred": ["!=", "a"]}]
    ),
    min_size=1,
    max_size=3,
)  # fmt: skip
scopes = st.sampled_from([ACME, EVIL])
owners = st.sampled_from(["x", "y", "z"])


@dataclass(eq=False)
class Modelled:
    """A tuple in the model."""

    scope: Scope
    text: str
    expires_ns: int | None

    def fits(self, pattern: str) -> bool:
        return parse_pattern(pattern).matches(parse_tuple(self.text))


@dataclass(eq=False)
class Expecting:
    """A waiter or a subscription in the model."""

    scope: Scope
    owner: str
    pattern: str
    takes: bool = False
    asker: Asker | None = None
    expected: list[Any] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)
    id: str = ""


class TupleMachine(RuleBasedStateMachine):
    kind = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.house = House(Shelf(self.kind))
        self.tuples: list[Modelled] = []
        self.waiting: list[Expecting] = []
        self.subscriptions: list[Expecting] = []
        self.over: list[Expecting] = []

    def teardown(self) -> None:
        self.house.shelf.close()

    def _matching(self, scope: Scope, pattern: str) -> list[Modelled]:
        return [each for each in self.tuples if each.scope == scope and each.fits(pattern)]

    def _end(self, each: Expecting) -> None:
        self.waiting.remove(each)
        self.over.append(each)

    @rule(scope=scopes, fields=fields_of, lease_ms=st.none() | st.integers(1, 50))
    def write(self, scope: Scope, fields: list[Any], lease_ms: int | None) -> None:
        text = json.dumps(fields)
        self.house.space.write(scope, text, lease_ms)
        now_ns = self.house.clock.monotonic_ns()
        new = Modelled(scope, text, None if lease_ms is None else now_ns + lease_ms * MS)
        for each in self.subscriptions:
            if each.scope == scope and new.fits(each.pattern):
                each.expected.append(text)
        taken = False
        for each in [each for each in self.waiting if each.scope == scope and new.fits(each.pattern)]:
            if each.takes and taken:
                continue
            taken = taken or each.takes
            each.expected.append(text)
            self._end(each)
        if not taken:
            self.tuples.append(new)

    @rule(scope=scopes, pattern=patterns)
    def read(self, scope: Scope, pattern: list[Any]) -> None:
        text = json.dumps(pattern)
        found = self._matching(scope, text)
        assert self.house.space.read(scope, text) == (found[0].text if found else None)
        assert self.house.space.count(scope, text) == len(found)

    @rule(scope=scopes, pattern=patterns)
    def take(self, scope: Scope, pattern: list[Any]) -> None:
        text = json.dumps(pattern)
        found = self._matching(scope, text)
        assert self.house.space.take(scope, text) == (found[0].text if found else None)
        if found:
            self.tuples.remove(found[0])

    @rule(scope=scopes, pattern=patterns, limit=st.integers(1, 3), takes=st.booleans())
    def several(self, scope: Scope, pattern: list[Any], limit: int, takes: bool) -> None:
        text = json.dumps(pattern)
        found = self._matching(scope, text)[:limit]
        function = self.house.space.take_all if takes else self.house.space.read_all
        assert function(scope, text, limit) == [each.text for each in found]
        if takes:
            self.tuples = [each for each in self.tuples if each not in found]

    @rule(scope=scopes, owner=owners, pattern=patterns, takes=st.booleans(), timeout_ms=st.integers(1, 50))
    def wait(self, scope: Scope, owner: str, pattern: list[Any], takes: bool, timeout_ms: int) -> None:
        text = json.dumps(pattern)
        if self._matching(scope, text):
            return
        asker = Asker(owner, self.house.clock.monotonic_ns() + timeout_ms * MS)
        space = self.house.space
        assert (space.take if takes else space.read)(scope, text, asker.waiter()) is WAITING
        self.waiting.append(Expecting(scope, owner, text, takes, asker, heard=asker.heard))

    @rule(scope=scopes, owner=owners, pattern=patterns)
    def subscribe(self, scope: Scope, owner: str, pattern: list[Any]) -> None:
        each = Expecting(scope, owner, json.dumps(pattern))
        each.id = self.house.space.subscribe(scope, owner, each.pattern, each.heard.append, lambda: False)
        self.subscriptions.append(each)

    @rule(number=st.integers(0, 5))
    def unsubscribe(self, number: int) -> None:
        if number < len(self.subscriptions):
            each = self.subscriptions.pop(number)
            assert self.house.space.unsubscribe(each.scope, each.owner, each.id)
            self.over.append(each)

    @rule(scope=scopes, owner=owners)
    def die(self, scope: Scope, owner: str) -> None:
        self.house.space.forget(scope, owner)
        for each in [each for each in self.waiting if (each.scope, each.owner) == (scope, owner)]:
            self._end(each)
        gone = [each for each in self.subscriptions if (each.scope, each.owner) == (scope, owner)]
        self.subscriptions = [each for each in self.subscriptions if each not in gone]
        self.over += gone

    @rule(ms=st.integers(1, 30), rings=st.booleans())
    def time_passes(self, ms: int, rings: bool) -> None:
        self.house.clock.advance(ms / 1_000)
        now_ns = self.house.clock.monotonic_ns()
        if rings:
            self.house.space.ring()
        else:
            self.house.space.count(ACME, "[null]")
        self.tuples = [each for each in self.tuples if each.expires_ns is None or each.expires_ns > now_ns]
        for each in list(self.waiting):
            assert each.asker is not None
            if each.asker.deadline_ns <= now_ns:
                each.expected.append(None)
                self._end(each)

    @rule()
    def restart(self) -> None:
        self.house.restart()
        self.over += self.waiting + self.subscriptions
        self.waiting, self.subscriptions = [], []

    @invariant()
    def everybody_heard_what_they_should(self) -> None:
        for each in self.waiting + self.subscriptions + self.over:
            assert each.heard == each.expected

    @invariant()
    def the_books_are_right(self) -> None:
        for scope in (ACME, EVIL):
            mine = [each for each in self.tuples if each.scope == scope]
            assert self.house.quotas.tuples.of(scope.tenant) == len(mine)
            assert self.house.quotas.bytes.of(scope.tenant) == sum(len(each.text) + OVERHEAD_BYTES for each in mine)

    @invariant()
    def nothing_is_kept_of_spaces_that_are_empty(self) -> None:
        used = {each.scope for each in self.tuples + self.waiting + self.subscriptions}
        assert set(self.house.space._spaces) == used


@pytest.mark.parametrize("kind", KINDS)
def test_it_behaves_as_a_list_that_is_searched(kind: str) -> None:
    machine = type("Machine", (TupleMachine,), {"kind": kind})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=60 if kind == "memory" else 15,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
