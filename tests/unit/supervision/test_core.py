"""The supervisor's decisions, situation by situation."""

from __future__ import annotations

from typing import Any

import pytest

from plexspaces_runtime.actors import exits
from plexspaces_runtime.errors import (
    AlreadyExists,
    Conflict,
    HandlerCrashed,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from plexspaces_runtime.supervision import core
from plexspaces_runtime.supervision.core import ChildState, Core, State
from plexspaces_runtime.supervision.spec import (
    BRUTAL_KILL,
    INFINITY,
    AutoShutdown,
    Backoff,
    ChildSpec,
    RestartPolicy,
    Strategy,
    SupervisorSpec,
)
from tests.unit.supervision.stage import CRASH, Stage

TOGETHER = [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE]


def child(text: str, content: Any = "v1", **how: Any) -> ChildSpec:
    return ChildSpec(text, content, **how)


def spec(*children: ChildSpec | str, **how: Any) -> SupervisorSpec:
    specs = tuple(each if isinstance(each, ChildSpec) else child(each) for each in children)
    return SupervisorSpec(children=specs, **how)


def simple(**how: Any) -> SupervisorSpec:
    return spec(child("template", None, **how), strategy=Strategy.SIMPLE_ONE_FOR_ONE)


def states(stage: Stage) -> dict[str, str]:
    return {view.spec.id: view.state.value for view in stage.core.children()}


# -- start -------------------------------------------------------------------------------------------------


def test_children_start_one_after_the_other() -> None:
    stage = Stage(spec("a", "b"), start=False)
    stage.paused = True
    stage.send(core.Start())
    assert stage.read() == ["+a"]
    assert states(stage) == {"a": "starting", "b": "stopped"}
    stage.go()
    assert stage.read() == ["+b", "started"]
    assert stage.core.state is State.RUNNING


def test_a_failed_start_stops_those_that_have_started_and_is_the_last_word() -> None:
    stage = Stage(spec("a", "b", "c", "d"), start=False)
    stage.failing["c"] = 1
    stage.send(core.Start())
    assert stage.read() == ["+a", "+b", "?c", "-b", "-a", "start failed: c"]
    assert stage.core.state is State.ENDED
    assert stage.dropped == ["c", "b", "a"]


def test_what_comes_while_it_starts_waits_in_order() -> None:
    stage = Stage(spec("a", "b"), start=False)
    stage.paused = True
    stage.send(core.AddChild(1, child("c")), core.Start(), core.TerminateChild(2, "b"), core.Shutdown(exits.NORMAL))
    stage.send(core.AddChild(3, child("d")))
    assert stage.read() == ["+a"]
    stage.go()
    assert stage.read() == ["+b", "started", "+c", "-b", "-c", "-a", "ended: normal"]
    assert stage.answers[1] is stage.answers[2] is None
    assert isinstance(stage.answers[3], Unavailable)


def test_a_shutdown_before_the_start_ends_it() -> None:
    stage = Stage(spec("a"), start=False)
    stage.send(core.AddChild(1, child("b")), core.Shutdown(exits.SHUTDOWN))
    assert stage.read() == ["ended: shutdown"]
    assert isinstance(stage.answers[1], Unavailable)
    assert stage.core.handle(core.Start(), 0.0) == []


# -- shutdown ----------------------------------------------------------------------------------------------


def test_a_child_that_does_not_end_in_time_is_killed() -> None:
    stage = Stage(spec("a", child("b", shutdown_s=3.0), "c"))
    stage.stubborn = {"b"}
    stage.send(core.Shutdown(exits.SHUTDOWN))
    assert stage.read() == ["-c", "-b"]
    stage.wait(2.999)
    assert stage.read() == []
    stage.wait(0.001)
    assert stage.read() == ["!b", "-a", "ended: shutdown"]
    assert not stage.timers


def test_brutal_kill_does_not_ask_and_infinity_does_not_stop_asking() -> None:
    stage = Stage(spec(child("a", shutdown_s=INFINITY), child("b", shutdown_s=BRUTAL_KILL)))
    stage.stubborn = {"a"}
    stage.send(core.Shutdown(exits.SHUTDOWN))
    assert stage.read() == ["!b", "-a"]
    assert not stage.timers
    stage.wait(1e6)
    assert stage.read() == []
    stage.send(stage.end("a"))
    assert stage.read() == ["ended: shutdown"]


def test_a_child_that_is_dead_already_is_not_waited_for() -> None:
    stage = Stage(spec("a", "b", "c"))
    stage.paused = True
    stage.send(core.Shutdown(exits.SHUTDOWN))
    stage.send(stage.end("b"), stage.end("a"))
    stage.go()
    assert stage.read() == ["-c", "ended: shutdown"]


def test_dynamic_children_end_together() -> None:
    stage = Stage(simple(shutdown_s=2.0))
    for name in ("a", "b", "c"):
        stage.ask(core.AddChild(name, child(name)))
    stage.read()
    stage.stubborn = {"a", "c"}
    stage.send(core.Shutdown(exits.SHUTDOWN))
    assert stage.read() == ["-a", "-b", "-c"]
    stage.send(stage.end("c"))
    assert stage.read() == []
    stage.wait(2.0)
    assert stage.read() == ["!a", "ended: shutdown"]


# -- restarts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", TOGETHER)
def test_all_affected_have_stopped_before_the_first_starts(strategy: Strategy) -> None:
    stage = Stage(spec("a", child("b", restart=RestartPolicy.TEMPORARY), "c", strategy=strategy))
    stage.stubborn = {"c"}
    assert stage.crash("a") == ["-c"]
    stage.wait(5.0)
    assert stage.read() == ["!c", "-b", "+a", "+c"]
    assert stage.dropped == ["b"]


@pytest.mark.parametrize("strategy", TOGETHER)
def test_a_restart_takes_along_those_that_were_down(strategy: Strategy) -> None:
    """As in OTP: whoever has a specification is started."""
    stage = Stage(spec("a", child("b", restart=RestartPolicy.TRANSIENT), "c", strategy=strategy))
    stage.crash("b", exits.NORMAL)
    stage.ask(core.TerminateChild(1, "c"))
    stage.read()
    assert stage.crash("a") == ["+a", "+b", "+c"]


def test_two_crashes_at_once_are_one_after_the_other() -> None:
    stage = Stage(spec("a", "b", "c", strategy=Strategy.ONE_FOR_ALL))
    first, second = stage.end("a"), stage.end("c")
    stage.send(first, second)
    # The second is part of the first restart: it was to end anyway.
    assert stage.read() == ["-c", "-b", "+a", "+b", "+c"]
    assert len(stage.reports) == 1


def test_a_restart_that_fails_is_tried_again_and_counts_again() -> None:
    stage = Stage(spec("a", "b", restarts_max=3))
    stage.failing["a"] = 2
    assert stage.crash("a") == ["?a", "?a", "+a"]
    assert [report.restarts_in_window for report in stage.reports] == [1, 2, 3]
    assert stage.crash("b") == ["-a", "ended: shutdown"]


def test_a_restart_that_fails_for_ever_ends_the_supervisor() -> None:
    stage = Stage(spec("a", "b", restarts_max=3))
    stage.failing["b"] = 100
    assert stage.crash("b") == ["?b", "?b", "?b", "-a", "ended: shutdown"]
    assert stage.reports[-1] == core.GaveUp("b", CRASH, 4)
    assert stage.dropped == ["b", "a"]


def test_one_for_all_tries_the_failed_one_again_with_all() -> None:
    stage = Stage(spec("a", "b", "c", strategy=Strategy.ONE_FOR_ALL))
    stage.failing["b"] = 1
    assert stage.crash("c") == ["-b", "-a", "+a", "?b", "-a", "+a", "+b", "+c"]


def test_rest_for_one_tries_again_from_the_failed_one() -> None:
    stage = Stage(spec("a", "b", "c", strategy=Strategy.REST_FOR_ONE))
    stage.failing["b"] = 1
    assert stage.crash("a") == ["-c", "-b", "+a", "?b", "+b", "+c"]


def test_what_waits_comes_before_the_next_try() -> None:
    stage = Stage(spec("a", "b"))
    stage.failing["a"] = 1
    stage.paused = True
    stage.send(stage.end("a"), core.TerminateChild(1, "b"), core.RestartChild(2, "a"))
    stage.go()
    assert stage.read() == ["?a", "-b", "+a"]
    assert isinstance(stage.answers[2], Conflict)


@pytest.mark.parametrize("strategy", TOGETHER)
def test_who_was_to_come_back_with_a_terminated_one_is_dropped(strategy: Strategy) -> None:
    stage = Stage(spec("a", "b", "c", strategy=strategy))
    stage.failing["b"] = 1
    stage.paused = True
    stage.send(stage.end("a"), core.TerminateChild(1, "b"))
    while "?b" not in stage.read():
        stage.step()
        assert stage.core.comes_back("c")
    stage.go()
    assert stage.read() == []
    assert not stage.core.comes_back("c")
    assert stage.dropped == ["b", "c"]
    assert states(stage) == {"a": "running", "b": "stopped", "c": "stopped"}


def test_late_messages_about_an_earlier_incarnation_do_nothing() -> None:
    stage = Stage(spec("a"))
    late = core.ChildEnded("a", stage.living["a"], CRASH)
    stage.crash("a")
    before = stage.core.children()
    stage.send(
        late,
        core.ChildStarted("a", late.incarnation),
        core.ChildFailed("a", late.incarnation, CRASH),
        core.ChildEnded("nobody", 1, CRASH),
        core.Elapsed(77),
        core.Start(),
    )
    assert stage.read() == []
    assert stage.core.children() == before
    assert len(stage.reports) == 1


# -- intensity ---------------------------------------------------------------------------------------------


def test_a_restart_as_old_as_the_window_counts_and_an_older_one_does_not() -> None:
    for age_s, lives in ((60.0, False), (60.001, True)):
        stage = Stage(spec("a", restarts_max=1, window_s=60.0))
        stage.crash("a")
        stage.wait(age_s)
        assert stage.crash("a") == (["+a"] if lives else ["ended: shutdown"])


def test_the_intensity_is_the_supervisors_not_the_childs() -> None:
    stage = Stage(spec("a", "b", "c", restarts_max=2))
    assert [stage.crash(name) for name in "abc"] == [["+a"], ["+b"], ["-b", "-a", "ended: shutdown"]]


# -- back-off ----------------------------------------------------------------------------------------------


def test_backoff_doubles_with_each_restart_in_the_window_up_to_its_limit() -> None:
    stage = Stage(spec("a", backoff=Backoff(1.0, 5.0), window_s=100.0))
    for delay_s in (1.0, 2.0, 4.0, 5.0):
        assert stage.crash("a") == []
        assert stage.core.comes_back("a")
        assert states(stage) == {"a": "restarting"}
        report = stage.reports[-1]
        assert isinstance(report, core.Restarting)
        assert report.delay_s == delay_s
        stage.wait(delay_s - 0.001)
        assert stage.read() == []
        stage.wait(0.001)
        assert stage.read() == ["+a"]
    stage.wait(200.0)
    stage.crash("a")
    assert list(stage.timers.values()) == [stage.now_s + 1.0]


def test_backoff_does_not_excuse_from_the_intensity() -> None:
    stage = Stage(spec("a", "b", backoff=Backoff(1.0, 5.0), restarts_max=2))
    stage.crash("a")
    stage.crash("b")
    stage.wait(1.0)
    assert stage.read() == ["+a"]
    assert stage.crash("a") == ["ended: shutdown"]
    assert not stage.timers


def test_the_supervisor_listens_while_a_child_waits_for_its_backoff() -> None:
    stage = Stage(spec("a", "b", backoff=Backoff(1.0, 5.0)))
    stage.crash("a")
    assert stage.ask(core.AddChild(1, child("c"))) is None
    assert isinstance(stage.ask(core.RestartChild(2, "a")), Conflict)
    assert stage.ask(core.TerminateChild(3, "a")) is None
    assert not stage.timers
    assert stage.dropped == ["a"]
    stage.wait(10.0)
    assert stage.read() == ["+c"]


def test_a_siblings_restart_takes_along_who_waits_for_its_backoff() -> None:
    stage = Stage(spec("a", "b", backoff=Backoff(1.0, 5.0), strategy=Strategy.ONE_FOR_ALL))
    stage.crash("a")
    stage.crash("b")
    stage.wait(1.0)
    assert stage.read() == ["+a", "+b"]
    assert not stage.timers


def test_a_timer_that_ran_out_while_it_was_busy_and_is_not_wanted_any_more_does_nothing() -> None:
    stage = Stage(spec("a", "b", backoff=Backoff(1.0, 5.0)))
    stage.crash("a")
    (timer,) = stage.timers
    stage.paused = True
    stage.send(core.TerminateChild(1, "b"), core.TerminateChild(2, "a"), core.Elapsed(timer))
    stage.go()
    assert stage.read() == ["-b"]
    assert states(stage) == {"a": "stopped", "b": "stopped"}


def test_a_shutdown_during_a_backoff_leaves_no_timer() -> None:
    stage = Stage(spec("a", "b", backoff=Backoff(1.0, 5.0)))
    stage.crash("a")
    stage.send(core.Shutdown(exits.SHUTDOWN))
    assert stage.read() == ["-b", "ended: shutdown"]
    assert stage.dropped == ["b", "a"]
    assert not stage.timers


# -- significant children ----------------------------------------------------------------------------------


def significant(name: str, restart: RestartPolicy = RestartPolicy.TRANSIENT) -> ChildSpec:
    return child(name, restart=restart, significant=True)


def test_any_significant_end_ends_the_supervisor() -> None:
    stage = Stage(spec("a", significant("b"), significant("c"), auto_shutdown=AutoShutdown.ANY_SIGNIFICANT))
    assert stage.crash("b") == ["+b"]
    assert stage.crash("b", exits.NORMAL) == ["-c", "-a", "ended: shutdown"]


def test_an_ordinary_end_does_not_end_the_supervisor() -> None:
    ordinary = child("a", restart=RestartPolicy.TRANSIENT)
    stage = Stage(spec(ordinary, significant("b"), auto_shutdown=AutoShutdown.ANY_SIGNIFICANT))
    assert stage.crash("a", exits.NORMAL) == []
    assert stage.core.state is State.RUNNING


def test_the_last_significant_end_ends_the_supervisor() -> None:
    children = ("a", significant("b"), significant("c", RestartPolicy.TEMPORARY))
    stage = Stage(spec(*children, auto_shutdown=AutoShutdown.ALL_SIGNIFICANT))
    assert stage.crash("c") == []
    assert stage.crash("b", exits.NORMAL) == ["-a", "ended: shutdown"]


def test_a_terminated_significant_child_does_not_count_as_an_end() -> None:
    stage = Stage(spec("a", significant("b"), auto_shutdown=AutoShutdown.ANY_SIGNIFICANT))
    assert stage.ask(core.TerminateChild(1, "b")) is None
    assert stage.core.state is State.RUNNING


def test_a_significant_child_that_is_being_restarted_is_not_gone() -> None:
    children = (significant("a"), significant("b"))
    stage = Stage(spec(*children, auto_shutdown=AutoShutdown.ALL_SIGNIFICANT, backoff=Backoff(1.0, 1.0)))
    stage.crash("a")
    assert stage.crash("b", exits.NORMAL) == []
    stage.wait(1.0)
    assert stage.crash("a", exits.NORMAL) == ["+a", "ended: shutdown"]


# -- commands ----------------------------------------------------------------------------------------------


def test_an_added_child_is_the_last() -> None:
    stage = Stage(spec("a", "b", strategy=Strategy.REST_FOR_ONE))
    assert stage.ask(core.AddChild(1, child("c"))) is None
    assert stage.read() == ["+c"]
    assert stage.crash("b") == ["-c", "+b", "+c"]


def test_a_child_that_cannot_be_added_is_not_there() -> None:
    stage = Stage(spec("a"))
    assert isinstance(stage.ask(core.AddChild(1, child("a"))), AlreadyExists)
    stage.failing["b"] = 1
    error = stage.ask(core.AddChild(2, child("b")))
    assert isinstance(error, HandlerCrashed)
    assert error.details["exit"] == CRASH.text
    assert not stage.core.knows("b")
    assert stage.dropped == ["b"]
    assert isinstance(stage.ask(core.AddChild(3, significant("c"))), InvalidArgument)


def test_terminate_restart_delete() -> None:
    stage = Stage(spec("a", child("t", restart=RestartPolicy.TEMPORARY)))
    assert isinstance(stage.ask(core.RestartChild(1, "a")), Conflict)
    assert isinstance(stage.ask(core.DeleteChild(2, "a")), Conflict)
    assert stage.ask(core.TerminateChild(3, "a")) is None
    assert stage.ask(core.TerminateChild(4, "a")) is None
    assert isinstance(stage.ask(core.AddChild(5, child("a"))), AlreadyExists)
    stage.failing["a"] = 1
    assert isinstance(stage.ask(core.RestartChild(6, "a")), HandlerCrashed)
    assert states(stage) == {"a": "stopped", "t": "running"}
    assert stage.ask(core.RestartChild(7, "a")) is None
    assert stage.ask(core.TerminateChild(8, "a", brutal=True)) is None
    assert stage.ask(core.DeleteChild(9, "a")) is None
    assert not stage.core.knows("a")
    for command in (core.RestartChild(10, "a"), core.DeleteChild(11, "a"), core.TerminateChild(12, "a")):
        assert isinstance(stage.ask(command), NotFound)
    # A temporary child is forgotten.
    assert stage.ask(core.TerminateChild(20, "t")) is None
    assert not stage.core.knows("t")
    assert stage.read() == ["-a", "?a", "+a", "!a", "-t"]
    assert stage.dropped == ["a", "a", "a", "t"]


def test_dynamic_children_take_after_the_template() -> None:
    stage = Stage(simple(restart=RestartPolicy.TRANSIENT, shutdown_s=BRUTAL_KILL))
    assert stage.ask(core.AddChild(1, child("a", "content", restart=RestartPolicy.PERMANENT))) is None
    assert isinstance(stage.ask(core.AddChild(2, child("a", "content"))), AlreadyExists)
    (view,) = stage.core.children()
    assert view.spec == child("a", "content", restart=RestartPolicy.TRANSIENT, shutdown_s=BRUTAL_KILL)
    assert isinstance(stage.ask(core.RestartChild(3, "a")), Conflict)
    assert isinstance(stage.ask(core.DeleteChild(4, "a")), Conflict)
    assert stage.crash("a") == ["+a", "+a"]
    assert stage.crash("a", exits.NORMAL) == []
    assert stage.core.children() == []
    assert isinstance(stage.ask(core.TerminateChild(5, "a")), NotFound)


def test_ten_thousand_children_come_and_go_each_at_the_cost_of_one() -> None:
    """Work is counted in actions, of which there are as many with one child as with ten thousand."""
    found = Core(simple(restart=RestartPolicy.TEMPORARY, significant=False))
    found.handle(core.Start(), 0.0)
    for number in range(10_000):
        name = f"c{number}"
        (start,) = found.handle(core.AddChild(number, child(name)), 0.0)
        assert isinstance(start, core.StartChild)
        assert len(found.handle(core.ChildStarted(name, start.incarnation), 0.0)) == 1
    for number in range(10_000):
        assert len(found.handle(core.ChildEnded(f"c{number}", number + 1, CRASH), 0.0)) == 1
    assert found.children() == []


# -- who comes back ----------------------------------------------------------------------------------------


def test_who_comes_back_while_the_supervisor_is_busy() -> None:
    children = ("a", child("b", restart=RestartPolicy.TRANSIENT), child("c", restart=RestartPolicy.TEMPORARY), "d")
    stage = Stage(spec(*children))
    stage.stubborn = {"d"}
    stage.send(core.TerminateChild(1, "d"))
    assert not stage.core.comes_back("a")
    stage.send(stage.end("a"), stage.end("b", exits.NORMAL), stage.end("c"))
    assert [stage.core.comes_back(name) for name in "abcd"] == [True, False, False, False]
    assert [view.running for view in stage.core.children()] == [False, False, False, False]
    stage.send(core.Shutdown(exits.SHUTDOWN))
    stage.wait(5.0)
    assert stage.read() == ["-d", "!d", "+a", "-a", "ended: shutdown"]
    assert not any(map(stage.core.comes_back, "abcd"))


def test_nobody_comes_back_to_a_supervisor_that_is_ending() -> None:
    stage = Stage(spec("a", "b", "c", backoff=Backoff(1.0, 1.0)))
    stage.stubborn = {"c"}
    stage.crash("a")
    stage.send(core.Shutdown(exits.SHUTDOWN))
    stage.send(stage.end("b"))
    assert [stage.core.comes_back(name) for name in "abc"] == [False, False, False]


def test_who_is_stopped_for_a_siblings_restart_comes_back() -> None:
    children = ("a", child("t", restart=RestartPolicy.TEMPORARY), "b")
    stage = Stage(spec(*children, strategy=Strategy.ONE_FOR_ALL))
    stage.paused = True
    stage.send(stage.end("a"))
    assert [stage.core.comes_back(name) for name in "atb"] == [True, False, True]
    assert states(stage) == {"a": "restarting", "t": "running", "b": "stopping"}
    stage.go()
    assert stage.read() == ["-b", "-t", "+a", "+b"]
    assert [view.restarts for view in stage.core.children()] == [1, 1]


# -- another specification ---------------------------------------------------------------------------------


def test_replace_touches_only_what_differs() -> None:
    stage = Stage(spec("a", "b", "c", "d"))
    assert stage.ask(core.AddChild(1, child("added"))) is None
    stage.read()
    incarnation = stage.living["a"]
    new = spec("e", child("d", "v2"), "c", child("a", shutdown_s=9.0), strategy=Strategy.REST_FOR_ONE, restarts_max=1)
    assert stage.ask(core.Replace(2, new)) is None
    assert stage.read() == ["-d", "-b", "+e", "+d"]
    assert stage.living["a"] == incarnation
    assert stage.dropped == ["b"]
    assert [view.spec.id for view in stage.core.children()] == ["e", "d", "c", "a", "added"]
    assert stage.core.children()[3].spec.shutdown_s == 9.0
    assert stage.core.spec is new
    # The new order, strategy and intensity hold.
    assert stage.crash("c") == ["-added", "-a", "+c", "+a", "+added"]
    assert stage.crash("c")[-1] == "ended: shutdown"


def test_replace_and_back_when_a_new_child_does_not_start() -> None:
    old = spec("a", "b", "c")
    stage = Stage(old)
    stage.failing["b"] = 1
    temporary = child("b", "v2", restart=RestartPolicy.TEMPORARY)
    error = stage.ask(core.Replace(1, spec("a", temporary, child("c", "v2"))))
    assert isinstance(error, HandlerCrashed)
    assert states(stage) == {"a": "running", "b": "stopped", "c": "running"}
    assert stage.read() == ["-c", "-b", "?b", "+c"]
    assert stage.ask(core.Replace(2, old)) is None
    assert stage.read() == ["-c", "+b", "+c"]
    assert stage.dropped == ["b"]
    assert [view.spec for view in stage.core.children()] == list(old.children)


def test_replace_leaves_down_what_is_down_and_does_not_repeat_what_is_done() -> None:
    children = ("a", child("once", restart=RestartPolicy.TEMPORARY), child("d", restart=RestartPolicy.TRANSIENT))
    stage = Stage(spec(*children))
    stage.crash("once", exits.NORMAL)
    stage.crash("d", exits.NORMAL)
    assert stage.ask(core.Replace(1, spec(*children, restarts_max=3))) is None
    assert stage.read() == []
    assert states(stage) == {"a": "running", "d": "stopped"}
    changed = (child("once", "v2", restart=RestartPolicy.TEMPORARY), child("d", "v2"))
    assert stage.ask(core.Replace(2, spec("a", *changed))) is None
    assert stage.read() == ["+once", "+d"]


def test_replace_during_a_backoff() -> None:
    stage = Stage(spec("a", "b", "c", backoff=Backoff(1.0, 1.0)))
    for name in "abc":
        stage.crash(name)
    assert stage.ask(core.Replace(1, spec("a", child("b", "v2"), backoff=Backoff(1.0, 1.0)))) is None
    assert stage.read() == ["+b"]
    assert stage.dropped == ["c"]
    stage.wait(1.0)
    assert stage.read() == ["+a"]


@pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ONE, *TOGETHER])
def test_one_that_is_made_temporary_while_it_was_to_come_back_comes_back(strategy: Strategy) -> None:
    stage = Stage(spec("a", "b", strategy=strategy, backoff=Backoff(1.0, 1.0)))
    stage.crash("a")
    temporary = child("a", restart=RestartPolicy.TEMPORARY)
    assert stage.ask(core.Replace(1, spec(temporary, "b", strategy=strategy, backoff=Backoff(1.0, 1.0)))) is None
    stage.wait(1.0)
    assert "+a" in stage.read()
    assert stage.crash("a") == []
    assert stage.dropped == ["a"]


def test_replace_starts_those_that_no_sibling_takes_along_any_more() -> None:
    stage = Stage(spec("a", "b", "c", strategy=Strategy.ONE_FOR_ALL))
    stage.failing["b"] = 1
    stage.paused = True
    stage.send(stage.end("a"), core.Replace(1, spec("a", "b", "c", strategy=Strategy.ONE_FOR_ONE)))
    stage.go()
    assert stage.read() == ["-c", "-b", "+a", "?b", "+c", "+b"]
    assert stage.dropped == []


@pytest.mark.parametrize("restart", list(RestartPolicy))
def test_a_declared_child_that_is_added_again_is_no_other_than_it_was(restart: RestartPolicy) -> None:
    b = child("b", restart=restart)
    stage = Stage(spec("a", b))
    assert stage.ask(core.TerminateChild(1, "b")) is None
    if restart is not RestartPolicy.TEMPORARY:
        assert stage.ask(core.DeleteChild(2, "b")) is None
    assert not stage.core.knows("b")
    assert stage.ask(core.AddChild(3, b, at_once=restart is RestartPolicy.TEMPORARY)) is None
    stage.ask(core.AddChild(4, child("c"), at_once=True))
    stage.read()
    assert stage.ask(core.Replace(5, spec("a"))) is None
    assert stage.read() == ["-b"]
    assert [view.spec.id for view in stage.core.children()] == ["a", "c"]


def test_a_significant_child_that_becomes_an_ordinary_one_does_not_count_any_more() -> None:
    stage = Stage(spec(significant("a"), significant("b"), auto_shutdown=AutoShutdown.ALL_SIGNIFICANT))
    ordinary = child("b", restart=RestartPolicy.TRANSIENT)
    new = spec(significant("a"), ordinary, auto_shutdown=AutoShutdown.ALL_SIGNIFICANT)
    assert stage.ask(core.Replace(1, new)) is None
    assert stage.crash("a", exits.NORMAL) == ["-b", "ended: shutdown"]


def test_replace_of_a_template_concerns_the_living() -> None:
    stage = Stage(simple(restart=RestartPolicy.PERMANENT))
    stage.ask(core.AddChild(1, child("a", "content")))
    assert stage.ask(core.Replace(2, simple(restart=RestartPolicy.TEMPORARY))) is None
    stage.read()
    assert stage.crash("a") == []
    assert stage.core.children() == []


def test_what_cannot_be_replaced_changes_nothing() -> None:
    stage = Stage(spec("a"))
    assert isinstance(stage.ask(core.Replace(1, simple())), Conflict)
    assert isinstance(stage.ask(core.Replace(2, spec("a", "a"))), InvalidArgument)
    dynamic = Stage(simple())
    assert isinstance(dynamic.ask(core.Replace(3, spec("a"))), Conflict)
    assert stage.read() == dynamic.read() == []
    assert stage.core.spec == spec("a")


# -- what OTP refuses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flawed",
    [
        spec("a", "a"),
        spec("a", restarts_max=-1),
        spec("a", window_s=0),
        spec("a", backoff=Backoff(0.0, 1.0)),
        spec("a", backoff=Backoff(2.0, 1.0)),
        spec(child("a", shutdown_s=-1.0)),
        spec(child("a", shutdown_s=float("nan"))),
        spec(significant("a")),
        spec(significant("a", RestartPolicy.PERMANENT), auto_shutdown=AutoShutdown.ANY_SIGNIFICANT),
        spec(strategy=Strategy.SIMPLE_ONE_FOR_ONE),
        spec("a", "b", strategy=Strategy.SIMPLE_ONE_FOR_ONE),
    ],
)
def test_flawed_specifications_are_refused(flawed: SupervisorSpec) -> None:
    with pytest.raises(InvalidArgument):
        Core(flawed)


def test_states_have_names() -> None:
    assert [state.value for state in State] == ["new", "starting", "running", "stopping", "ended"]
    assert [state.value for state in ChildState] == ["starting", "running", "stopping", "restarting", "stopped"]
