"""When a node starts a failed application again."""

from __future__ import annotations

from plexspaces_runtime.supervision.top import DELAY_S_MAX, WELL_S, Failures


def delays(runs_s: list[float]) -> list[float]:
    """The pauses of an application that runs so long each time before it fails."""
    now_s = 1_000.0
    failures = Failures(started_s=now_s)
    found = []
    for run_s in runs_s:
        now_s += run_s
        delay_s, failures = failures.again(now_s)
        found.append(delay_s)
        now_s += delay_s
    return found


def test_each_pause_is_twice_the_one_before_up_to_the_longest() -> None:
    assert delays([0.1] * 9) == [1, 2, 4, 8, 16, 32, DELAY_S_MAX, DELAY_S_MAX, DELAY_S_MAX]


def test_an_application_that_has_run_well_begins_anew() -> None:
    assert delays([0.1, 0.1, WELL_S, 0.1]) == [1, 2, 4, 8]
    assert delays([0.1, 0.1, WELL_S + 0.1, 0.1]) == [1, 2, 1, 2]


def test_thousands_of_failures_do_not_overflow() -> None:
    assert delays([0.0] * 5_000)[-1] == DELAY_S_MAX
