"""The restart decision, case by case and at the edges of its window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.actors import exits
from plexspaces_runtime.supervision.restart import Decision, Verdict, count, verdict
from plexspaces_runtime.supervision.spec import Backoff, RestartPolicy, SupervisorSpec

CRASH = exits.crashed("ValueError", "x")


ANY = SupervisorSpec(restarts_max=3, window_s=60.0)


@pytest.mark.parametrize(
    ("policy", "orderly", "otherwise"),
    [
        (RestartPolicy.PERMANENT, Verdict.RESTART, Verdict.RESTART),
        (RestartPolicy.TRANSIENT, Verdict.STAY_DOWN, Verdict.RESTART),
        (RestartPolicy.TEMPORARY, Verdict.FORGET, Verdict.FORGET),
    ],
)
def test_verdicts(policy: RestartPolicy, orderly: Verdict, otherwise: Verdict) -> None:
    for exit_ in (exits.NORMAL, exits.SHUTDOWN):
        assert verdict(policy, exit_, (), 0.0, ANY).verdict is orderly
    for exit_ in (exits.KILLED, CRASH, exits.limit("cpu", "x"), exits.NOPROC, exits.Exit(exits.Reason.NONDETERMINISM)):
        assert verdict(policy, exit_, (), 0.0, ANY).verdict is otherwise


def test_only_restarts_are_remembered() -> None:
    assert verdict(RestartPolicy.TEMPORARY, CRASH, (1.0, 2.0), 3.0, ANY) == Decision(Verdict.FORGET, (1.0, 2.0))
    assert verdict(RestartPolicy.PERMANENT, CRASH, (1.0, 2.0), 3.0, ANY) == Decision(Verdict.RESTART, (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("earlier", "expected"),
    [((0.0, 1.0), Verdict.RESTART), ((0.0, 1.0, 2.0), Verdict.GIVE_UP), ((0.0, 1.0, 2.0, 3.0), Verdict.GIVE_UP)],
)
def test_one_below_at_and_one_above_the_intensity(earlier: tuple[float, ...], expected: Verdict) -> None:
    assert count(earlier, 4.0, ANY).verdict is expected


def test_none_at_all() -> None:
    assert count((), 0.0, SupervisorSpec(restarts_max=0)) == Decision(Verdict.GIVE_UP, (0.0,))


def test_the_window_includes_its_edge() -> None:
    assert count((0.0, 1.0), 60.0, ANY).history == (0.0, 1.0, 60.0)
    assert count((0.0, 1.0), 60.001, ANY).history == (1.0, 60.001)
    assert count((0.0, 0.0, 0.0), 60.0, ANY).verdict is Verdict.GIVE_UP
    assert count((0.0, 0.0, 0.0), 60.001, ANY).verdict is Verdict.RESTART


def test_backoff_doubles_from_the_first_restart_on_and_never_overflows() -> None:
    limit = SupervisorSpec(restarts_max=5_000, window_s=1e9, backoff=Backoff(0.5, 3.0))
    delays_s = [count((0.0,) * earlier, 0.0, limit).delay_s for earlier in (0, 1, 2, 3, 4_000)]
    assert delays_s == [0.5, 1.0, 2.0, 3.0, 3.0]


@given(st.lists(st.floats(0, 1_000), max_size=60).map(sorted))
def test_never_more_restarts_in_a_window_than_the_intensity(times: list[float]) -> None:
    history: tuple[float, ...] = ()
    granted: list[float] = []
    for now_s in times:
        decision = count(history, now_s, ANY)
        if decision.verdict is Verdict.GIVE_UP:
            break
        history = decision.history
        granted.append(now_s)
        assert sum(now_s - ANY.window_s <= at <= now_s for at in granted) <= ANY.restarts_max
