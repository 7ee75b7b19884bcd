"""The restart decision, case by case and at the edges of its window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_runtime.actors import exits
from plexspaces_runtime.supervision.restart import Forget, Intensity, Restart, RestartPolicy, decide

CRASH = exits.crashed("ValueError", "x")
LIMIT = Intensity(restarts_max=3, window_s=60.0, backoff_s=1.0, backoff_s_max=8.0)


@pytest.mark.parametrize("exit_", [exits.NORMAL, exits.SHUTDOWN, exits.KILLED, CRASH, exits.limit("cpu", "x")])
@pytest.mark.parametrize("policy", list(RestartPolicy))
def test_who_is_restarted(policy: RestartPolicy, exit_: exits.Exit) -> None:
    verdict = decide(policy, exit_, (), 0.0, LIMIT)
    restarted = {
        RestartPolicy.PERMANENT: True,
        RestartPolicy.TRANSIENT: exit_.reason not in (exits.Reason.NORMAL, exits.Reason.SHUTDOWN),
        RestartPolicy.TEMPORARY: False,
    }[policy]
    assert isinstance(verdict, Restart if restarted else Forget)


def delays(times: list[float]) -> list[float]:
    history: tuple[float, ...] = ()
    found = []
    for now in times:
        verdict = decide(RestartPolicy.PERMANENT, CRASH, history, now, LIMIT)
        assert isinstance(verdict, Restart)
        found.append(verdict.delay_s)
        history = verdict.history
    return found


def test_up_to_the_intensity_at_once_then_ever_later_then_no_later_than_the_most() -> None:
    assert delays([0, 1, 2, 3, 4, 5, 6, 7]) == [0, 0, 0, 1, 2, 4, 8, 8]


def test_a_restart_as_old_as_the_window_still_counts_and_an_older_one_does_not() -> None:
    assert delays([0, 1, 2, 60.0])[-1] == 1
    assert delays([0, 1, 2, 60.001])[-1] == 0


def test_after_a_quiet_window_all_is_forgiven() -> None:
    assert delays([0, 1, 2, 3, 4, 200])[-1] == 0


@given(st.lists(st.floats(0, 1_000), max_size=60).map(sorted))
def test_never_more_immediate_restarts_in_a_window_than_the_intensity(times: list[float]) -> None:
    immediate = [now for now, delay in zip(times, delays(times), strict=True) if delay == 0]
    for now in immediate:
        assert sum(now - LIMIT.window_s <= other <= now for other in immediate) <= LIMIT.restarts_max
