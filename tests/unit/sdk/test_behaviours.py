"""GenServer, GenEvent and GenStateMachine: what each adds to an actor, and what of it the node can read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces import HostError, Refuse, actor, event_actor, fsm_actor, gen_server_actor, handler, host, state
from plexspaces.definition import ActorDefinition, DefinitionError
from plexspaces.testing import TestNode


def logged(node: TestNode, level: str) -> list[str]:
    return [line.message for line in node.logs if line.level == level]


# -- GenServer ---------------------------------------------------------------------------------------------


@gen_server_actor
class Till:
    cents: int = state(default=0)

    @handler("sell", "call")
    def sell(self, cents: int) -> int:
        self.cents += cents
        return self.cents

    @handler("refund", "cast")
    def refund(self, cents: int) -> int:
        self.cents -= cents
        return self.cents

    @handler("total")
    def total(self) -> int:
        return self.cents


def test_a_server_answers_calls_is_told_casts_and_keeps_the_two_apart() -> None:
    node = TestNode()
    till = node.spawn(Till)
    assert till.ask("sell", cents=500) == 500
    assert till.tell("refund", cents=200) is None
    assert till.ask("total") == 300
    with pytest.raises(HostError, match="'refund' of Till can only be told, not asked"):
        till.ask("refund", cents=1)
    till.tell("sell", cents=1)
    assert "'sell' of Till can only be asked, not told" in logged(node, "warn")[0]
    assert till.ask("total") == 300


@pytest.mark.parametrize(
    ("decorate", "behaviour"),
    [(actor, "GenServer"), (gen_server_actor, "GenServer"), (event_actor, "GenEvent"), (fsm_actor, "GenStateMachine")],
)
def test_the_description_names_the_behaviour(decorate: Any, behaviour: str) -> None:
    @decorate
    class Anything:
        @handler("get")
        def get(self) -> None: ...

    assert ActorDefinition.of(Anything).describe()["behaviour"] == behaviour


# -- GenEvent ----------------------------------------------------------------------------------------------


@event_actor
class Audit:
    seen: list = state(default_factory=list)

    @handler("paid", "cast")
    def write_down(self, order: str) -> None:
        self.seen.append(f"wrote {order}")

    @handler("paid", "cast")
    def check(self, order: str) -> None:
        self.seen.append(f"checked {order}")
        if order == "bad":
            raise ValueError("no such order")
        if order == "odd":
            raise Refuse("not-mine", "somebody else's")

    @handler("sent", "paid", "cast")
    def notify(self, order: str) -> None:
        self.seen.append(f"notified {order}")

    @handler("seen", "call")
    def all_seen(self) -> list:
        seen, self.seen = self.seen, []
        return seen


def test_an_events_handlers_run_in_the_order_they_are_written() -> None:
    audit = TestNode().spawn(Audit)
    audit.tell("paid", order="1")
    assert audit.ask("seen") == ["wrote 1", "checked 1", "notified 1"]
    audit.tell("sent", order="2")
    assert audit.ask("seen") == ["notified 2"]


def test_a_handler_that_fails_is_reported_keeps_its_place_and_keeps_the_event_from_nobody() -> None:
    node = TestNode()
    audit = node.spawn(Audit)
    audit.tell("paid", order="bad")
    assert audit.ask("seen") == ["wrote bad", "checked bad", "notified bad"]
    (line,) = logged(node, "error")
    assert line.startswith("paid: check failed:\nTraceback")
    assert line.endswith("ValueError: no such order")
    audit.tell("paid", order="3")
    assert audit.ask("seen") == ["wrote 3", "checked 3", "notified 3"]


def test_a_refusal_of_one_is_reported_and_one_of_all_is_a_refusal_of_the_event() -> None:
    node = TestNode()
    audit = node.spawn(Audit)
    audit.tell("paid", order="odd")
    assert audit.ask("seen") == ["wrote odd", "checked odd", "notified odd"]
    assert logged(node, "warn") == ["paid: check refused the event: somebody else's"]
    node.logs.clear()
    audit.tell("paid")
    assert audit.ask("seen") == []
    assert logged(node, "warn") == ["refused 'paid': paid(order: string): order is missing"]


def test_the_only_handler_of_an_event_may_fail_too() -> None:
    @event_actor
    class Lone:
        count: int = state(default=0)

        @handler("tick", "cast")
        def tick(self) -> None:
            self.count += 1
            raise KeyError("x")

    node = TestNode()
    lone = node.spawn(Lone)
    lone.tell("tick")
    lone.tell("tick")
    assert lone.state == {"count": 2}
    assert len(logged(node, "error")) == 2


def test_exhausted_memory_and_an_ask_that_fails_end_the_actor_as_they_do_anywhere() -> None:
    @event_actor
    class Greedy:
        count: int = state(default=0)

        @handler("eat", "cast")
        def eat(self) -> None:
            self.count += 1
            raise MemoryError

        @handler("ask")
        def ask(self) -> None:
            raise ValueError("asked")

    greedy = TestNode().spawn(Greedy)
    greedy.tell("eat")
    assert greedy.state == {"count": 0}
    with pytest.raises(HostError) as caught:
        greedy.ask("ask")
    assert caught.value.code == "handler-crashed"


def test_an_event_that_a_timer_brings_reaches_all_of_its_handlers() -> None:
    @event_actor
    class Alarm:
        rung: list = state(default_factory=list)

        @handler("arm", "call")
        def arm(self) -> None:
            host.send_after(1_000, "ring", {})

        @handler("ring", "cast")
        def first(self) -> None:
            self.rung.append(1)

        @handler("ring", "cast")
        def second(self) -> None:
            self.rung.append(2)

    node = TestNode()
    alarm = node.spawn(Alarm)
    alarm.ask("arm")
    node.advance(2)
    assert alarm.state == {"rung": [1, 2]}


def test_a_wildcard_hears_what_no_handler_names() -> None:
    @event_actor
    class Sink:
        heard: list = state(default_factory=list)

        @handler("named", "cast")
        def named(self) -> None:
            self.heard.append("named")

        @handler("*", "cast")
        def others(self, op: str, payload: dict) -> None:
            self.heard.append(op)

    sink = TestNode().spawn(Sink)
    for op in ("named", "else"):
        sink.tell(op)
    assert sink.state == {"heard": ["named", "else"]}


def test_the_description_lists_the_handlers_of_each_event() -> None:
    described = ActorDefinition.of(Audit).describe()
    assert described["events"] == {"paid": ["write_down", "check", "notify"], "sent": ["notify"]}
    assert "events" not in ActorDefinition.of(Till).describe()


def test_an_ask_has_one_handler_and_only_events_have_several() -> None:
    @event_actor
    class Asked:
        @handler("get")
        def one(self) -> int:
            return 1

        @handler("get")
        def two(self) -> int:
            return 2

    @actor
    class Server:
        @handler("note", "cast")
        def one(self) -> None: ...

        @handler("note", "cast")
        def two(self) -> None: ...

    @event_actor
    class Twice:
        @handler("note", "cast")
        @handler("note", "cast")
        def one(self) -> None: ...

    for cls, message, remedy in (
        (Asked, "'get' is handled twice", 'write @handler(name, "cast")'),
        (Server, "'note' is handled twice", "Rename or remove"),
        (Twice, "one handles 'note' twice", "Name the event once"),
    ):
        with pytest.raises(DefinitionError) as caught:
            ActorDefinition.of(cls)
        (issue,) = caught.value.issues
        assert issue.message.startswith(message)
        assert remedy in issue.remedy


# -- GenStateMachine ---------------------------------------------------------------------------------------

TABLE = {"open": ["paid", "void"], "paid": ["sent"], "sent": ["open"]}


@fsm_actor(states=["open", "paid", "sent", "void"], initial="open", transitions=TABLE)
class Order:
    tries: int = state(default=0)
    moves: int = state(default=0)

    @handler("to")
    def to(self, name: str) -> str:
        self.tries += 1
        self.fsm_state = name
        self.moves += 1
        return self.fsm_state

    @handler("try")
    def attempt(self, name: str) -> str:
        try:
            self.fsm_state = name
        except Refuse as refusal:
            return refusal.code
        return "gone"

    @handler("where")
    def where(self) -> str:
        return self.fsm_state


def test_an_illegal_transition_is_refused_reported_and_leaves_the_machine_where_it_is() -> None:
    node = TestNode()
    order = node.spawn(Order)
    with pytest.raises(HostError) as caught:
        order.ask("to", name="sent")
    assert caught.value.code == "handler-refused"
    details = dict(caught.value.details)
    assert details == {"reason": "illegal-transition", "from": "open", "to": "sent", "allowed": ["paid", "void"]}
    assert logged(node, "warn") == [
        "to: illegal transition refused: Order is in state 'open': 'sent' may not follow, only 'paid', 'void'"
    ]
    assert order.ask("where") == "open"
    # As with every refusal: what came before it stands, what comes after it is not done.
    assert order.state == {"tries": 1, "moves": 0, "fsm_state": "open"}
    assert order.ask("to", name="paid") == "paid"


def test_a_handler_may_catch_the_refusal_and_go_on() -> None:
    order = TestNode().spawn(Order)
    assert order.ask("try", name="sent") == "illegal-transition"
    assert order.ask("where") == "open"


@given(st.lists(st.sampled_from(["open", "paid", "sent", "void", "nowhere"]), max_size=12))
def test_a_machine_goes_exactly_where_its_table_leads(path: list[str]) -> None:
    order = TestNode().spawn(Order)
    where = "open"
    for wanted in path:
        legal = wanted in TABLE.get(where, []) or wanted == where
        assert order.ask("try", name=wanted) == ("gone" if legal else "illegal-transition")
        where = wanted if legal else where
        assert order.ask("where") == where


def test_the_state_is_kept_as_declared_fields_are() -> None:
    order = TestNode().spawn(Order)
    order.ask("to", name="paid")
    order.restart()
    assert order.ask("where") == "paid"
    with pytest.raises(HostError, match="only 'sent'"):
        order.ask("to", name="open")


def test_the_description_has_the_table() -> None:
    described = ActorDefinition.of(Order).describe()
    assert described["fsm"] == {
        "states": ["open", "paid", "sent", "void"],
        "initial": "open",
        "transitions": {before: sorted(after) for before, after in TABLE.items()},
    }
    assert "fsm_state" in described["state"]


def test_states_without_a_table_lead_anywhere_among_them() -> None:
    @fsm_actor(states=["cold", "warm"])
    class Oven:
        fsm_state: str = "cold"

        @handler("to")
        def to(self, name: str) -> str:
            self.fsm_state = name
            return self.fsm_state

    oven = TestNode().spawn(Oven)
    assert [oven.ask("to", name=name) for name in ("warm", "cold")] == ["warm", "cold"]
    with pytest.raises(HostError, match="'hot' may not follow, only 'cold', 'warm'"):
        oven.ask("to", name="hot")


def test_a_machine_without_states_is_not_guarded_and_its_state_is_kept() -> None:
    @fsm_actor
    class Loose:
        fsm_state: str = "here"

        @handler("to")
        def to(self, name: str) -> str:
            self.fsm_state = name
            return self.fsm_state

    loose = TestNode().spawn(Loose)
    assert loose.state == {"fsm_state": "here"}
    assert loose.ask("to", name="anywhere") == "anywhere"
    loose.restart()
    assert loose.state == {"fsm_state": "anywhere"}


def test_a_first_state_that_is_written_twice_must_be_the_same() -> None:
    @fsm_actor(states=["cold", "warm"], initial="warm")
    class Oven:
        fsm_state: str = "cold"

    with pytest.raises(DefinitionError, match="fsm_state begins as 'cold', but initial='warm'"):
        ActorDefinition.of(Oven)
