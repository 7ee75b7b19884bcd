"""The test node's stores: what the suite that they share with the node cannot say, for there time is real."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces import HostError, actor, handler, host, state
from plexspaces._testing_tuples import same
from plexspaces.testing import Exit, TestActor, TestNode


@actor
class Worker:
    heard: list = state(default_factory=list)

    @handler("run")
    def run(self, code: str) -> Any:
        return eval(code, {"host": host})

    @handler("heard")
    def take(self) -> list:
        heard, self.heard = self.heard, []
        return heard

    @handler("hear")
    def hear(self, fields: list) -> None:
        self.heard.append([host.now_ms(), *fields])

    @handler("follow")
    def follow(self, path: str, offset: int, event_type: str, payload: Any, time_ms: int) -> None:
        self.heard.append([offset, event_type])

    @handler("work")
    def work(self, channel: str, id: str, msg_type: str, payload: dict, deliveries: int, enqueued_ms: int) -> None:
        self.heard.append([payload["n"], deliveries])
        if payload.get("crash"):
            raise RuntimeError("as told")
        if "wait_ms" in payload:
            host.ts.take(["never"], payload["wait_ms"])


START_MS = 1_000_000


def world(count: int = 2, **limits: float) -> tuple[TestNode, list[TestActor]]:
    node = TestNode(start_ms=START_MS, limits=limits)
    return node, [node.spawn(Worker, key=str(number + 1)) for number in range(count)]


def run(worker: TestActor, code: str) -> Any:
    return worker.ask("run", code=code)


def refused(worker: TestActor, code: str) -> str:
    with pytest.raises(HostError) as caught:
        run(worker, code)
    assert caught.value.code == "handler-crashed"
    return caught.value.message


# -- time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "look", "before", "after", "ms"),
    [
        ("host.kv_put('k', 1, 50)", "host.kv_get('k')", 1, None, 50),
        ("host.ts.write(['t'], 50)", "host.ts.count(['t'])", 1, 0, 50),
        ("host.channel.send('', 'q', 't', ttl_ms=50)", "host.channel.depth('', 'q')", 1, 0, 50),
        ("host.channel.send('', 'q', 't', delay_ms=50)", "host.channel.receive('', 'q')[1]", False, True, 50),
        (
            "[host.channel.send('', 'q', 't'), host.channel.receive('', 'q', 0, 50)]",
            "host.channel.depth('', 'q')",
            0,
            1,
            50,
        ),
        ("host.lock_acquire('l', 50) and 1", "host.lock_acquire('l', 1) is not None", False, True, 50),
        (
            "host.channel.send('', 'q', 't') and host.channel.receive('', 'q')[1]",
            "host.channel.depth('', 'q')",
            0,
            1,
            30_000,
        ),
    ],
)
def test_time_is_over_to_the_millisecond(begin: str, look: str, before: Any, after: Any, ms: int) -> None:
    node, (worker, other) = world()
    run(worker, begin)
    node.advance((ms - 1) / 1000)
    assert run(other if "lock" in look else worker, look) == before
    node.advance(0.001)
    assert run(other if "lock" in look else worker, look) == after


def test_who_waits_goes_on_when_what_it_waits_for_comes() -> None:
    _, (worker, other) = world()
    run(other, "host.send_after(700, 'run', {'code': 'host.ts.write([1])'}) and 1")
    assert run(worker, "[host.ts.take([int], 5000), host.now_ms()]") == [[1], START_MS + 700]
    run(other, "host.channel.send('', 'q', 't', delay_ms=300) and host.lock_acquire('l', 900) and 1")
    assert run(worker, "[host.channel.receive('', 'q', 5000)[1], host.now_ms()]") == [True, START_MS + 1_000]
    assert run(worker, "[host.lock_acquire('l', 1, 5000).fencing_token, host.now_ms()]") == [2, START_MS + 1_600]
    assert run(worker, "[host.ts.read(['no'], 400), host.now_ms()]") == [None, START_MS + 2_000]


def test_who_waits_lets_the_others_work() -> None:
    node, (worker, _) = world()
    later = "host.send_after(5, 'run', {'code': 'host.ts.write([\"answer\"])'})"
    answer = f"host.send('worker/1', 'hear', {{'fields': ['x']}}) and {later} and 1"
    assert run(worker, f"host.send('worker/2', 'run', {{'code': {answer!r}}}) and host.ts.take(['answer'], 100)")
    # Its own mail waits until it is done.
    assert worker.ask("heard") == [[START_MS + 5, "x"]]
    assert node.now_ms == START_MS + 5


def test_the_one_who_began_to_wait_first_gets_it() -> None:
    node, (first, _, third) = world(3)
    # The second begins to wait while the first does, and writes come while both do.
    wait = "host.kv_put('got', host.ts.take(['t', None], 1000))"
    run(third, "[host.send_after(ms, 'run', {'code': f'host.ts.write([\"t\", {ms}])'}) for ms in (100, 200)] and 1")
    run(first, f'host.send("worker/2", "run", {{"code": {wait!r}}}) and {wait}')
    assert node.kv("worker/1") == {"got": ["t", 100]}
    assert node.kv("worker/2") == {"got": ["t", 200]}


def test_what_comes_after_a_deadline_is_not_given_to_who_is_gone() -> None:
    node, (first, _) = world()
    # The other sleeps over the end of the wait, and writes then.
    late = "host.sleep(1) or host.ts.write(['late'])"
    assert run(first, f'host.send("worker/2", "run", {{"code": {late!r}}}) and host.ts.take(["late"], 500)') is None
    assert node.tuples() == [["late"]]


def test_a_lock_is_not_given_to_who_has_given_up() -> None:
    node, (first, second, third) = world(3)
    run(third, "host.lock_acquire('l', 800) and 1")
    late = "host.sleep(1) or host.kv_put('got', host.lock_acquire('l', 1000) is not None)"
    assert run(first, f'host.send("worker/2", "run", {{"code": {late!r}}}) and host.lock_acquire("l", 9, 500)') is None
    assert node.kv(second.actor_id) == {"got": True}


def test_an_ask_of_who_waits_cannot_be_answered_here() -> None:
    node, (first, _) = world()
    ask = "host.ask('worker/1', 'heard')"
    run(first, f'host.send("worker/2", "run", {{"code": {ask!r}}}) and host.ts.take(["never"], 10)')
    (end,) = node.exits
    assert "worker/1 cannot answer before worker/1 has what it waits for" in end.message
    assert "(unavailable)" in end.message


def test_who_is_ended_while_it_waits_takes_nothing() -> None:
    node, (first, _) = world()
    run(first, "host.link('worker/2')")
    # The other ends with it, and one tuple comes after that.
    last = "host.ts.write(['t']) if host.stop('worker/2', 'boom') is None else 0"
    with pytest.raises(HostError) as caught:
        run(
            first,
            f'host.send("worker/2", "run", {{"code": {last!r}}}) and [host.ts.take(["u"], 1000), host.ts.write(["v"])]',
        )
    assert caught.value.code == "actor-exited"
    assert [end.actor_id for end in node.exits] == ["worker/2", "worker/1"]
    assert node.now_ms == START_MS
    assert node.tuples() == [["t"]]


def test_waiting_ends_with_the_callers_deadline() -> None:
    _, (first, _) = world()
    ask = "host.ask('worker/2', 'run', {'code': 'host.ts.take([1], 60000)'}, 200)"
    assert run(first, f"[{ask}, host.now_ms()]") == [None, START_MS + 200]


# -- what ends with an actor -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["crash", "stop", "restart"])
def test_what_ends_with_an_actor_and_what_does_not(how: str) -> None:
    node, (worker, other) = world()
    run(other, "[host.channel.send('', name, 't', {'n': 1}) for name in ('pull', 'push')]")
    run(
        worker,
        "[host.kv_put('k', 1), host.ts.write([1]), host.blob_put('b', 'x'), host.stream.append('/s', 'e'),"
        " host.lock_acquire('l', 5000) and 1, host.channel.receive('', 'pull')[1],"
        " host.ts.subscribe([None], 'hear'), host.stream.subscribe('/s', 'follow', 1)]",
    )
    assert node.channel("pull").leased == 1
    getattr(worker, how)()
    run(other, "[host.ts.write([2]), host.stream.append('/s', 'e')]")
    assert node.kv("worker/1") == {"k": 1}
    assert node.tuples() == [[1], [2]]
    assert node.blob("b") == b"x"
    assert len(node.stream("/s").events) == 2
    assert node.lock("l")
    assert (node.channel("pull").depth, node.channel("pull").leased) == (1, 0)
    if worker.alive:
        assert worker.ask("heard") == []
    node.advance(5)
    assert node.lock("l") is None


def test_a_message_that_kills_its_consumer_is_dead_after_as_many_deliveries_as_may_be() -> None:
    node, (worker, _) = world(channel_deliveries_max=3)
    jobs = node.channel("jobs")
    jobs.send("t", {"n": 1, "crash": True})
    jobs.send("t", {"n": 2})
    for _ in range(3):
        run(worker, "host.channel.subscribe('', 'jobs', 'work')")
    (dead,) = jobs.dead_letters
    assert (dead.msg_type, dead.payload, dead.deliveries) == ("t", {"n": 1, "crash": True}, 3)
    assert "3 times" in dead.reason
    assert jobs.waiting == [{"n": 2}]
    assert [end.reason for end in node.exits] == ["crashed"] * 3
    run(worker, "host.channel.subscribe('', 'jobs', 'work')")
    assert worker.ask("heard") == [[2, 1]]
    assert (jobs.depth, jobs.leased) == (0, 0)


def test_a_pushed_message_is_its_consumers_however_long_it_takes() -> None:
    node, (worker, _) = world()
    run(worker, "host.channel.subscribe('', 'jobs', 'work')")
    node.channel("jobs").send("t", {"n": 1, "wait_ms": 3_600_000})
    assert worker.ask("heard") == [[1, 1]]
    assert node.channel("jobs").depth == 0


def test_a_time_to_live_counts_while_a_message_waits() -> None:
    node, (worker, _) = world()
    run(worker, "host.channel.send('', 'q', 't', ttl_ms=50) and host.channel.receive('', 'q')[1]")
    node.advance(0.05)
    assert node.channel("q").leased == 1
    # Back in the queue its time is over.
    run(worker, "host.channel.nack('', 'q', 'message-1')")
    assert (node.channel("q").leased, node.channel("q").depth) == (0, 0)


def test_a_dedup_id_is_forgotten_with_time() -> None:
    node, (worker, _) = world(channel_dedup_age_s_max=10)
    send = "host.channel.send('', 'q', 't', dedup_id='x')"
    assert run(worker, send) == "message-1"
    node.advance(9.999)
    assert run(worker, send) == "message-1"
    node.advance(0.001)
    assert run(worker, send) == "message-2"


# -- streams -----------------------------------------------------------------------------------------------


def test_old_events_go_with_the_next_append_or_a_minute_later() -> None:
    node, (worker, _) = world(stream_age_s_max=10)
    run(worker, "host.stream.append('/a', 'e') + host.stream.append('/b', 'e')")
    node.advance(10)
    assert len(node.stream("/a").events) == 1
    node.advance(0.001)
    assert run(worker, "host.stream.append('/a', 'e')") == 2
    assert [event["offset"] for event in node.stream("/a").events] == [2]
    assert len(node.stream("/b").events) == 1
    node.advance(60)
    # Nobody has written to it or follows it: it begins anew.
    assert node.stream("/b").events == []
    assert run(worker, "host.stream.append('/b', 'e')") == 1
    run(worker, "host.stream.subscribe('/b', 'follow', 9)")
    node.advance(100)
    assert node.stream("/b").events == []
    assert run(worker, "host.stream.append('/b', 'e')") == 2


def test_retention_by_bytes_keeps_the_newest() -> None:
    node, (worker, _) = world(stream_bytes_max=400)
    run(worker, "[host.stream.append('/s', 'e', {'text': 'x' * 100}) for _ in range(5)]")
    assert [event["offset"] for event in node.stream("/s").events] == [4, 5]
    run(worker, "host.stream.append('/s', 'e', {'text': 'x' * 500})")
    assert [event["offset"] for event in node.stream("/s").events] == [6]


def test_idempotency_keys_are_forgotten_with_time() -> None:
    node, (worker, _) = world(stream_key_age_s_max=10)
    append = "host.stream.append('/s', 'e', {}, 'key')"
    assert run(worker, append) == 1
    node.advance(9.999)
    assert run(worker, append) == 1
    node.advance(0.001)
    assert run(worker, append) == 2
    assert run(worker, append) == 2


def test_the_breaker_waits_for_quiet() -> None:
    node, _ = world(stream_events_per_second_max=2, stream_pause_s=10)
    stream = node.stream("/s")
    for _ in range(2):
        stream.append("e")
    with pytest.raises(HostError, match="rate-limited"):
        stream.append("e")
    assert stream.flow == "tripped"
    node.advance(9.999)
    with pytest.raises(HostError) as caught:
        stream.append("e")
    assert caught.value.details["retry_after_ms"] == 10_000
    node.advance(9.999)
    assert stream.flow == "tripped"
    node.advance(0.001)
    assert stream.flow == "flowing"
    assert [event["event_type"] for event in stream.events] == ["e", "e", "paused", "resumed"]
    assert stream.events[-1]["payload"] == {"reason": "quiet", "refused": 2}
    assert stream.append("e") == 5
    # The bucket leaks: two a second go on for ever.
    for _ in range(10):
        node.advance(0.5)
        stream.append("e")
    assert stream.flow == "flowing"


def test_an_operator_pauses_and_resumes() -> None:
    node, (worker, _) = world()
    stream = node.stream("/s")
    with pytest.raises(HostError, match="not-found"):
        stream.pause()
    run(worker, "host.stream.subscribe('/s', 'follow')")
    stream.append("e", {"n": 1})
    assert [stream.pause(), stream.pause()] == [True, False]
    node.advance(3_600)
    assert "rate-limited" in refused(worker, "host.stream.append('/s', 'e')")
    assert [stream.resume(), stream.resume()] == [True, False]
    assert [event["event_type"] for event in stream.events] == ["e", "paused", "resumed"]
    run(worker, "host.stream.subscribe('/s', 'follow', 1)")
    assert worker.ask("heard") == [[2, "paused"], [3, "resumed"]]


# -- the books ---------------------------------------------------------------------------------------------


def test_what_is_gone_does_not_count() -> None:
    node, (worker, _) = world(stored_bytes_per_tenant_max=3_000, channel_dedup_age_s_max=1, stream_age_s_max=1)
    fill = (
        "[host.kv_put('k', 'x' * 300, 1000), host.ts.write(['x' * 300], 1000), host.blob_put('b', 'x' * 300),"
        " host.channel.send('', 'q', 't', {'x': 'x' * 300}, ttl_ms=1000, dedup_id='d'), host.stream.append('/s', 'e')]"
    )
    for _ in range(5):
        run(worker, fill)
        assert "stored_bytes_per_tenant_max" in refused(worker, "host.kv_put('large', 'x' * 1500)")
        run(worker, "host.blob_delete('b')")
        node.advance(62)
        run(worker, "host.channel.send('', 'q', 't', {}) and host.channel.receive('', 'q')[1]")
        run(worker, "host.kv_put('large', 'x' * 1500) or host.kv_delete('large')")
        # The consumer's end gives the message back: it has to go, too.
        worker.crash()
        run(worker, "host.channel.ack('', 'q', host.channel.receive('', 'q')[0]['id'])")


def test_deleted_keys_and_taken_tuples_do_not_count() -> None:
    _, (worker, _) = world(keys_per_tenant_max=1, tuples_per_tenant_max=1)
    for _ in range(3):
        run(worker, "host.kv_put('k', 1) or host.kv_delete('k')")
        run(worker, "host.ts.write([1]) and host.ts.take([1])")


def test_a_full_quota_does_not_hide_that_a_stream_is_paused() -> None:
    node, (worker, _) = world(stored_bytes_per_tenant_max=460, stream_events_per_second_max=1)
    assert run(worker, "host.stream.append('/s', 'e')") == 1
    assert "rate-limited" in refused(worker, "host.stream.append('/s', 'e')")
    assert [event["event_type"] for event in node.stream("/s").events] == ["e", "paused"]


def test_limits_are_those_that_exist() -> None:
    with pytest.raises(ValueError, match="tuple_bites_max"):
        TestNode(limits={"tuple_bites_max": 1})


def test_a_look_at_what_is_not_there() -> None:
    node, _ = world()
    assert node.kv("nobody") == {}
    assert node.tuples() == node.tuples([None]) == node.stream("/s").events == node.channel("q").dead_letters == []
    assert node.lock("l") is node.blob("b") is None
    assert node.stream("/s").flow == "flowing"
    for look in (
        lambda: node.tuples([]),
        lambda: node.channel("").depth,
        lambda: node.stream("s"),
        lambda: node.blob("/"),
        lambda: node.channel("q").send("t", "no json"),
    ):
        with pytest.raises(HostError, match="invalid-argument"):
            look()


def test_a_look_at_tuples() -> None:
    node, (worker, _) = world()
    run(worker, "[host.ts.write(fields) for fields in (['a', 1], ['a', 'b'], ['c', 2])]")
    assert node.tuples(["a", None]) == [["a", 1], ["a", "b"]]
    assert node.tuples([None, int]) == [["a", 1], ["c", 2]]
    assert node.tuples([None, host.ts.where(">", 1)]) == [["c", 2]]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0, 1.5]) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=1), inner, max_size=2),
    max_leaves=6,
)


def canonical(value: Any) -> str:
    """Equal JSON, equal text: numbers without the way they are written."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, int | float):
        return repr(float(value))
    if isinstance(value, list):
        return f"[{','.join(map(canonical, value))}]"
    return f"{{{','.join(sorted(f'{name}:{canonical(each)}' for name, each in value.items()))}}}"


@given(json_values, json_values)
def test_equality_is_jsons(one: Any, other: Any) -> None:
    assert same(one, other) == (canonical(one) == canonical(other))
    assert same(one, one)


def test_exits_are_told() -> None:
    node, (worker, _) = world()
    worker.crash()
    assert node.exits == [Exit("worker/1", "killed")]
