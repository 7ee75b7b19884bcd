"""Whole actors on plain CPython: what the test node promises, and through it what the dispatcher and host facade do."""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces import (
    Context,
    HostError,
    Refuse,
    actor,
    event_actor,
    fsm_actor,
    handler,
    host,
    info_handler,
    init_handler,
    migrate_handler,
    query_handler,
    run_handler,
    signal_handler,
    state,
    terminate_handler,
    workflow_actor,
)
from plexspaces._dispatch import DEPTH_MAX, UnserialisableReply, dump, too_deep
from plexspaces.testing import TestNode


@dataclass
class Money:
    amount: int
    currency: str = "EUR"


@actor(facets=["durability"])
class Counter:
    count: int = state(default=0)
    history: list = state(default_factory=list)

    @handler("increment")
    def increment(self, amount: int = 1) -> dict:
        self.count += amount
        return {"count": self.count}

    @handler("get")
    def get(self) -> dict:
        return {"count": self.count}

    @handler("remember")
    def remember(self, at: dt.datetime, money: Money) -> Money:
        self.history.append((at, money))
        return money

    @handler("divide")
    def divide(self, by: int) -> float:
        self.count = -999
        return 1 / by

    @handler("withdraw")
    def withdraw(self, amount: int) -> None:
        if amount > self.count:
            raise Refuse("insufficient-funds", f"there are only {self.count}", available=self.count)
        self.count -= amount

    @handler("leave")
    def leave(self, how: str) -> None:
        raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "generator": GeneratorExit()}[how]

    @handler("recurse")
    def recurse(self) -> None:
        self.recurse()

    @handler("odd")
    def odd(self, what: str) -> Any:
        circle: list[Any] = []
        circle.append(circle)
        return {"object": object(), "nan": math.nan, "circle": circle, "none": None, "set": {1}}[what]


def code(error: pytest.ExceptionInfo[HostError]) -> str:
    return error.value.code


def test_ask_and_state() -> None:
    counter = TestNode().spawn(Counter)
    assert counter.ask("increment", amount=5) == {"count": 5}
    assert counter.ask("increment") == {"count": 6}
    assert counter.state == {"count": 6, "history": []}


def test_arguments_are_converted_and_replies_written() -> None:
    counter = TestNode().spawn(Counter)
    sent = {"at": "2026-01-31T12:00:00+00:00", "money": {"amount": 5}}
    assert counter.ask("remember", sent) == {"amount": 5, "currency": "EUR"}
    assert counter.state["history"] == [(dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC), Money(5))]


def test_a_durable_actor_that_crashes_has_the_state_of_the_message_before() -> None:
    node = TestNode()
    counter = node.spawn(Counter)
    counter.ask("increment", amount=5)
    with pytest.raises(HostError) as caught:
        counter.ask("divide", by=0)
    assert code(caught) == "handler-crashed"
    assert "ZeroDivisionError: division by zero" in caught.value.message
    assert "divide" in node.exits[0].traceback
    assert counter.ask("get") == {"count": 5}


def test_an_actor_that_is_not_durable_begins_anew() -> None:
    @actor
    class Plain:
        count: int = state(default=0)

        @handler("increment")
        def increment(self) -> int:
            self.count += 1
            return self.count

    plain = TestNode().spawn(Plain)
    assert [plain.ask("increment"), plain.ask("increment")] == [1, 2]
    plain.crash()
    assert plain.ask("increment") == 1
    plain.restart(keep_state=True)
    assert plain.ask("increment") == 2


@pytest.mark.parametrize(
    ("how", "message"), [("exit", "SystemExit: 3"), ("interrupt", "KeyboardInterrupt"), ("generator", "GeneratorExit")]
)
def test_nothing_that_a_handler_raises_gets_past_the_dispatcher(how: str, message: str) -> None:
    node = TestNode()
    counter = node.spawn(Counter)
    with pytest.raises(HostError) as caught:
        counter.ask("leave", how=how)
    assert code(caught) == "handler-crashed"
    assert node.exits[0].message == message


def test_endless_recursion_is_a_crash_with_a_short_traceback() -> None:
    node = TestNode()
    counter = node.spawn(Counter)
    with pytest.raises(HostError, match="RecursionError"):
        counter.ask("recurse")
    assert len(node.exits[0].traceback) < 20_000
    assert counter.ask("get") == {"count": 0}


def test_a_refusal_is_the_callers_and_the_actor_goes_on() -> None:
    node = TestNode()
    counter = node.spawn(Counter)
    with pytest.raises(HostError) as caught:
        counter.ask("withdraw", amount=5)
    assert code(caught) == "handler-refused"
    assert caught.value.message == "there are only 0"
    assert caught.value.details == {"reason": "insufficient-funds", "available": 0}
    assert node.exits == []


def test_unknown_operations_and_arguments_are_refused_with_a_hint() -> None:
    counter = TestNode().spawn(Counter)
    with pytest.raises(HostError) as caught:
        counter.ask("incremnt")
    assert "did you mean 'increment'?" in caught.value.message
    assert caught.value.details["reason"] == "unknown-operation"
    with pytest.raises(HostError) as caught:
        counter.ask("increment", amount=True)
    assert caught.value.details["reason"] == "invalid-arguments"
    with pytest.raises(HostError, match="must be a JSON object"):
        counter.ask("increment", "[1]")
    for text in ("{", '{"amount": NaN}', '{"amount": 1} 2'):
        with pytest.raises(HostError, match="are not JSON"):
            counter.ask("increment", text)
    assert counter.ask("increment", ' {"amount": 1}\n') == {"count": 1}


@pytest.mark.parametrize(
    ("what", "says"), [("object", "object has no JSON form"), ("nan", "JSON compliant"), ("circle", "Circular")]
)
def test_a_reply_that_is_not_json_is_a_crash_that_says_so(what: str, says: str) -> None:
    counter = TestNode().spawn(Counter)
    with pytest.raises(HostError, match=says):
        counter.ask("odd", what=what)
    assert counter.ask("odd", what="set") == [1]
    assert counter.ask("odd", what="none") is None


def test_lenient_types_ignore_unknown_arguments_and_log_them() -> None:
    node = TestNode()
    counter = node.spawn(Counter, facets={"arguments": "lenient"})
    assert counter.ask("increment", amount=2, extra=1) == {"count": 2}
    assert node.logs[-1].message == "increment: ignored the unknown arguments 'extra'"


@actor
class Guarded:
    @handler("wipe", roles=["admin", "owner", "scope:guarded:wipe"])
    def wipe(self) -> str:
        return "wiped"

    @handler("who")
    def who(self) -> list:
        context: Context = self.context  # type: ignore[attr-defined]
        return [self.sender, self.actor_id, context.subject, sorted(context.roles), context.session]  # type: ignore[attr-defined]

    @handler("*")
    def rest(self, op: str, payload: dict) -> list:
        return [op, payload]


def test_roles_come_from_the_callers_token() -> None:
    node = TestNode()
    node.spawn(Guarded)
    with pytest.raises(host.PermissionDenied) as caught:
        node.ask("guarded", "wipe", roles=["user"])
    assert caught.value.details["roles"] == ["admin", "owner"]
    with pytest.raises(host.PermissionDenied):
        node.tell("guarded", "wipe", roles=["user"])
    assert node.ask("guarded", "wipe", roles=["user", "owner"]) == "wiped"
    with pytest.raises(host.PermissionDenied):
        node.ask("guarded", "wipe", roles=["guarded:wipe"])
    assert node.ask("guarded", "wipe", scopes=["guarded:wipe"]) == "wiped"
    assert node.ask("guarded", "who", subject="ann", roles=["b", "a"], session="s") == [
        "",
        "guarded",
        "ann",
        ["a", "b"],
        "s",
    ]


def test_the_star_takes_what_nobody_else_does() -> None:
    node = TestNode()
    node.spawn(Guarded)
    assert node.ask("guarded", "anything", {"x": 1, "op": "anything"}) == ["anything", {"x": 1}]
    assert node.ask("guarded", "other", {"payload": {"y": 2}}) == ["other", {"y": 2}]


@actor
class Relay:
    seen: list = state(default_factory=list)

    @handler("forward")
    def forward(self, to: str, op: str, arguments: dict, timeout_ms: int = 0) -> Any:
        try:
            return host.ask(to, op, arguments, timeout_ms)
        except HostError as error:
            return [error.code, error.message]

    @handler("post")
    def post(self, to: str, op: str) -> str:
        return host.send(to, op, {"n": 1})

    @handler("fan")
    def fan(self, to: list[str]) -> list:
        results = host.ask_many([(one, "get", {}) for one in to], return_errors=True)
        return [result.code if isinstance(result, HostError) else result for result in results]

    @handler("spawn")
    def spawn(self, actor_type: str, key: str) -> str:
        return host.spawn(actor_type, key, {})

    @handler("note")
    def note(self, n: int) -> None:
        self.seen.append(n)

    @handler("slow")
    def slow(self, seconds: float) -> str:
        host.sleep(seconds)
        return "done"


def test_actors_ask_send_and_spawn_one_another() -> None:
    node = TestNode()
    counter, relay = node.spawn(Counter), node.spawn(Relay)
    other = node.spawn(Relay, key="2")
    assert relay.ask("forward", to="counter", op="increment", arguments={"amount": 2}) == {"count": 2}
    relay.ask("post", to="counter", op="nonsense")
    assert counter.alive
    assert relay.ask("fan", to=["counter", "nobody", "counter"]) == [{"count": 2}, "actor-not-found", {"count": 2}]
    assert relay.ask("spawn", actor_type="counter", key="b") == "counter/b"
    assert node.actor("counter/b").ask("get") == {"count": 0}
    assert relay.ask("forward", to="relay/2", op="forward", arguments={"to": "counter", "op": "get", "arguments": {}})
    assert other.alive


def test_a_wait_for_oneself_is_refused_and_names_the_cycle() -> None:
    node = TestNode()
    relay = node.spawn(Relay)
    node.spawn(Relay, key="2")
    answer = relay.ask("forward", to="relay", op="note", arguments={"n": 1})
    assert answer[0] == "deadlock"
    inner = {"to": "relay", "op": "note", "arguments": {"n": 1}}
    answer = relay.ask("forward", to="relay/2", op="forward", arguments=inner)
    assert answer == ["deadlock", "this ask would wait for itself: relay -> relay/2 -> relay"]


def test_deadlines_travel() -> None:
    node = TestNode()
    relay = node.spawn(Relay)
    node.spawn(Relay, key="2")
    start = node.now_ms
    late = {"to": "relay/2", "op": "slow", "arguments": {"seconds": 60}, "timeout_ms": 1000}
    assert relay.ask("forward", late)[0] == "deadline-exceeded"
    assert node.now_ms == start + 1000
    with pytest.raises(HostError) as caught:
        node.ask("relay", "forward", {**late, "timeout_ms": 0}, timeout_ms=500)
    assert code(caught) == "deadline-exceeded"
    assert node.now_ms == start + 1500


@actor
class Life:
    log: list = state(default_factory=list)

    @init_handler
    def start(self, config: dict) -> None:
        self.log.append(["init", config["args"], config["restored"], config["actor_type"], config["key"]])

    @handler("watch")
    def watch(self, to: str) -> str:
        return host.monitor(to)

    @handler("bind")
    def bind(self, to: str, trap: bool) -> None:
        host.trap_exit(trap)
        host.link(to)

    @info_handler
    def info(self, op: str, payload: dict) -> None:
        self.log.append([op, payload["actor_id"], payload["reason"]])

    @terminate_handler
    def end(self, reason: str) -> None:
        host.info(f"ending: {reason}")


def test_init_monitor_link_and_terminate() -> None:
    node = TestNode()
    counter = node.spawn(Counter, restart=False)
    watcher, trapping = node.spawn(Life, {"a": 1}, key="w"), node.spawn(Life, key="t")
    bound = node.spawn(Life, key="b")
    watcher.ask("watch", to="counter")
    trapping.ask("bind", to="counter", trap=True)
    bound.ask("bind", to="counter", trap=False)
    counter.crash("killed")
    assert watcher.state["log"] == [["init", {"a": 1}, False, "life", "w"], ["DOWN", "counter", "killed"]]
    assert trapping.state["log"][-1] == ["EXIT", "counter", "killed"]
    assert [end.actor_id for end in node.exits] == ["counter", "life/b"]
    assert not counter.alive
    watcher.ask("watch", to="counter")
    assert watcher.state["log"][-1] == ["DOWN", "counter", "noproc"]
    watcher.stop()
    assert node.logs[-1].message == "ending: shutdown"
    with pytest.raises(HostError, match="no actor 'life/w'"):
        watcher.ask("watch", to="counter")


def test_published_names_of_down_and_exit_are_understood() -> None:
    @actor
    class Old:
        got: list = state(default_factory=list)

        @handler("watch")
        def watch(self, to: str) -> None:
            host.monitor(to)

        @handler("__DOWN__", "cast")
        def down(self, monitor_ref: str = "", down_from: str = "", down_reason: str = "") -> None:
            self.got.append([bool(monitor_ref), down_from, down_reason])

    node = TestNode()
    old, counter = node.spawn(Old), node.spawn(Counter, restart=False)
    old.ask("watch", to="counter")
    counter.crash()
    assert old.state["got"] == [[True, "counter", "killed"]]


def test_an_init_that_fails_is_a_start_that_fails() -> None:
    @actor
    class Picky:
        @init_handler
        def start(self, size: int) -> None:
            if size < 0:
                raise ValueError("negative")

    node = TestNode()
    for args, says in (({}, "size is missing"), ({"size": -1}, "ValueError: negative")):
        with pytest.raises(HostError, match=says) as caught:
            node.spawn(Picky, args)
        assert code(caught) == "handler-crashed"
    node.spawn(Picky, {"size": 1})
    with pytest.raises(HostError) as caught:
        node.spawn(Picky, {"size": 1})
    assert code(caught) == "already-exists"


@fsm_actor(states=["idle", "running", "done"], initial="idle", transitions={"idle": ["running"], "running": ["done"]})
class Job:
    @handler("to")
    def to(self, name: str) -> str:
        self.fsm_state = name
        return self.fsm_state


def test_illegal_transitions_are_refused_and_the_state_stays() -> None:
    job = TestNode().spawn(Job)
    with pytest.raises(HostError, match="'done' may not follow, only 'running'") as caught:
        job.ask("to", name="done")
    assert caught.value.details["reason"] == "illegal-transition"
    assert job.state == {"fsm_state": "idle"}
    assert job.ask("to", name="running") == "running"
    job.restart()
    assert job.ask("to", name="done") == "done"
    with pytest.raises(HostError, match="only nothing"):
        job.ask("to", name="idle")


@workflow_actor
class Order:
    status: str = state(default="new")

    @run_handler
    def run(self, payload: dict = None) -> dict:  # noqa: RUF013
        self.status = "running"
        return {"got": payload}

    @signal_handler("cancel")
    def cancel(self, why: str = "") -> None:
        self.status = f"cancelled {why}"

    @query_handler("status")
    def query(self) -> str:
        return self.status


def test_workflows_run_and_take_signals_and_queries() -> None:
    node = TestNode()
    order = node.spawn(Order)
    assert order.run(task="x") == {"got": {"task": "x"}}
    # One that has run is not run again: whoever starts it hears how it ended.
    assert order.ask("run", task="y") == {"got": {"task": "x"}}
    order.signal("cancel", why="late")
    assert order.query("status") == order.ask("status") == "cancelled late"
    with pytest.raises(HostError, match="has no query 'stat'; did you mean 'status'"):
        order.query("stat")


@actor
class Clock:
    ticks: list = state(default_factory=list)

    @handler("start")
    def start(self) -> list:
        return [host.send_after(1500, "tick", {"n": 0}), host.send_interval(1000, "tick", {"n": 1})]

    @handler("cancel")
    def cancel(self, timer: str) -> bool:
        return host.cancel_timer(timer)

    @handler("tick", "cast")
    def tick(self, n: int) -> None:
        self.ticks.append([host.now_ms(), n])


def test_timers_fire_in_order_when_time_passes() -> None:
    node = TestNode(start_ms=0)
    clock = node.spawn(Clock)
    _, interval = clock.ask("start")
    node.advance(2.5)
    assert clock.state["ticks"] == [[1000, 1], [1500, 0], [2000, 1]]
    assert clock.ask("cancel", timer=interval) is True
    assert clock.ask("cancel", timer=interval) is False
    node.advance(10)
    assert len(clock.state["ticks"]) == 3


def test_timers_end_with_their_actor() -> None:
    node = TestNode()
    clock = node.spawn(Clock)
    clock.ask("start")
    clock.crash()
    node.advance(10)
    assert clock.state["ticks"] == []


@event_actor
class Services:
    got: list = state(default_factory=list)

    @init_handler
    def start(self) -> None:
        host.process_groups.join("svc")

    @handler("note")
    def note(self, text: str) -> None:
        self.got.append([self.sender, text])  # type: ignore[attr-defined]

    @handler("run")
    def run(self, code: str) -> Any:
        return eval(code, {"host": host})


def test_groups_registry_values_and_chance() -> None:
    node = TestNode(seed=7)
    first, second = node.spawn(Services, key="1"), node.spawn(Services, key="2")

    def run(text: str) -> Any:
        return first.ask("run", code=text)

    assert run("host.process_groups.members('svc')") == ["services/1", "services/2"]
    assert run("host.process_groups.broadcast('svc', 'note', {'text': 'hi'})") == 1
    node.settle()
    assert second.state["got"] == [["services/1", "hi"]]
    run("host.registry.set_label('kind', 'x')")
    assert [entry["actor_id"] for entry in run("host.registry.find(label='kind=x')")] == ["services/1"]
    first.stop()
    assert second.ask("run", code="host.process_groups.first('svc')") == "services/2"

    def chance(seed: int) -> Any:
        return TestNode(seed=seed).spawn(Services).ask("run", code="host.random_bytes(8).hex()")

    assert chance(1) == chance(1) != chance(2)


def test_key_values() -> None:
    node = TestNode()
    one, two = node.spawn(Services, key="1"), node.spawn(Services, key="2")

    def run(text: str) -> Any:
        return one.ask("run", code=text)

    run("host.kv_put('a', {'x': [1]})")
    run("host.kv.put('b', 'text', ttl_ms=1000)")
    assert run("[host.kv_get('a'), host.kv.get('b'), host.kv_get('c'), host.kv_get('c', 0)]") == [
        {"x": [1]},
        "text",
        None,
        0,
    ]
    assert two.ask("run", code="host.kv_get('a')") is None
    node.advance(1)
    assert run("host.kv_get('b')") is None
    assert run("[host.kv_cas('a', {'x': [2]}, 1), host.kv_cas('a', {'x': [1]}, 1)]") == [False, True]
    assert run("host.kv_get('a')") == 1
    assert run("[host.kv_increment('n'), host.kv_increment('n', 5)]") == [1, 6]
    assert run("[host.kv_delete('n'), host.kv_delete('n')]") == [True, False]
    assert run("[host.kv_put(f'k{i:04}', i) for i in range(2500)] and len(host.kv_list('k'))") == 2500
    assert run("host.kv_list('k', limit=2)") == ["k0000", "k0001"]
    with pytest.raises(HostError, match="conflict"):
        run("host.kv_put('t', 'x') or host.kv_increment('t')")


def test_the_outside_world_is_the_tests() -> None:
    node = TestNode()
    services = node.spawn(Services)
    node.http("llm", lambda got: (201, {"echo": [got.method, got.path, got.headers, got.text]}))
    text = "(lambda r: [r.status, r.ok, r.json()])(host.http_fetch('llm', 'post', '/v1', {'a': 1}))"
    assert services.ask("run", code=text) == [
        201,
        True,
        {"echo": ["POST", "/v1", {"content-type": "application/json"}, '{"a":1}']},
    ]
    with pytest.raises(HostError, match="not-found"):
        services.ask("run", code="host.http_fetch('other', 'GET', '/')")


def test_outside_an_actor_host_functions_say_where_they_work() -> None:
    with pytest.raises(HostError, match=r"plexspaces\.testing"):
        host.now_ms()


def test_a_reply_may_come_later() -> None:
    @actor
    class Later:
        waiting: list = state(default_factory=list)

        @handler("ask")
        def asked(self) -> Any:
            self.waiting.append(self.context.message_id)  # type: ignore[attr-defined]
            host.send(host.self_id(), "answer")
            return host.NO_REPLY

        @handler("never")
        def never(self) -> Any:
            return host.NO_REPLY

        @handler("answer")
        def answer(self) -> None:
            host.reply(self.waiting.pop(), {"late": True})

    later = TestNode().spawn(Later)
    assert later.ask("ask") == {"late": True}
    with pytest.raises(HostError) as caught:
        later.ask("never")
    assert code(caught) == "deadline-exceeded"


@actor(version=3)
class Grown:
    names: list = state(default_factory=list)
    fresh: str = state(default="new")

    @migrate_handler(1)
    def split(self, fields: dict) -> dict:
        return {"names": fields["name"].split(), "gone": 1}

    @handler("get")
    def get(self) -> list:
        return self.names


def test_state_of_an_earlier_version_is_migrated() -> None:
    node = TestNode()
    grown = node.spawn(Grown)
    cell = node._cells["grown"]
    cell.saved = '{"v":1,"class":"Grown","version":1,"fields":{"name":"a b"}}'
    node._start(cell, keep_state=True)
    assert grown.state == {"names": ["a", "b"], "fresh": "new"}
    assert node.logs[-1].message == "Grown dropped stored fields it no longer declares: gone"


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        ("{", "cannot be read"),
        ("{}", "cannot be read"),
        ('{"v":2,"class":"Grown","version":1,"fields":{}}', "format 2"),
        ('{"v":1,"class":"Grown","version":4,"fields":{}}', "deploy the newer version"),
    ],
)
def test_state_that_cannot_be_read_is_said_so(saved: str, says: str) -> None:
    node = TestNode()
    grown = node.spawn(Grown, restart=False)
    cell = node._cells["grown"]
    cell.saved = saved
    with pytest.raises(Exception, match=says):
        node._start(cell, keep_state=True)
    assert not grown.alive


@given(st.integers(0, 40), st.integers(0, 40), st.text(alphabet='[]{}"\\a', max_size=30))
def test_the_depth_of_a_text_is_judged_right(deep: int, wide: int, noise: str) -> None:
    quoted = json.dumps(noise)
    levels = DEPTH_MAX - 20 + deep
    text = "[" * levels + quoted + "]" * levels
    text = f'[{", ".join([text, *["[]"] * wide * 20])}]'
    assert too_deep(text) == (levels + 1 > DEPTH_MAX)


def test_a_message_that_nests_too_deep_is_refused() -> None:
    counter = TestNode().spawn(Counter)
    with pytest.raises(HostError) as caught:
        counter.ask("increment", '{"amount":' + "[" * DEPTH_MAX + "]" * DEPTH_MAX + "}")
    assert "nest more than 500 deep" in caught.value.message


def test_the_encoder_remembers_nothing_of_a_failure() -> None:
    reply: list[Any] = [object()]
    with pytest.raises(UnserialisableReply):
        dump(reply)
    reply[0] = 1
    assert dump(reply) == "[1]"
