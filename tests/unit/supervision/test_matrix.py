"""Every strategy x restart type x exit x distance from the intensity x parent: the exact starts and stops.

The children are a, b and c; b is the one that ends.  What is expected stands in two tables, one for a restart of b and
one for what a supervisor that gives up means for its parent; nothing here asks the code under test what should be.
"""

from __future__ import annotations

import itertools

import pytest

from plexspaces_runtime.actors import exits
from plexspaces_runtime.actors.exits import Exit
from plexspaces_runtime.supervision import core
from plexspaces_runtime.supervision.spec import ChildSpec, RestartPolicy, Strategy, SupervisorSpec
from tests.unit.supervision.stage import Stage

RESTARTS_MAX = 2

EXITS = {
    "normal": exits.NORMAL,
    "shutdown": exits.SHUTDOWN,
    "killed": exits.KILLED,
    "crashed": exits.crashed("ValueError", "x"),
    "limit": exits.limit("memory", "too much"),
    "nondeterminism": Exit(exits.Reason.NONDETERMINISM),
}

# OTP design principles, "Restart Strategy" and "Child Specification".
ON_RESTART = {
    Strategy.ONE_FOR_ONE: "+b",
    Strategy.SIMPLE_ONE_FOR_ONE: "+b",
    Strategy.ONE_FOR_ALL: "-c -a +a +b +c",
    Strategy.REST_FOR_ONE: "-c +b +c",
}
RESTARTED = {
    RestartPolicy.PERMANENT: {"normal", "shutdown", "killed", "crashed", "limit", "nondeterminism"},
    RestartPolicy.TRANSIENT: {"killed", "crashed", "limit", "nondeterminism"},
    RestartPolicy.TEMPORARY: set(),
}
# Children that are stopped: one after the other in reverse order, dynamic ones together.
ON_GIVING_UP = {
    Strategy.ONE_FOR_ONE: "-c -a ended: shutdown",
    Strategy.SIMPLE_ONE_FOR_ONE: "-a -c ended: shutdown",
    Strategy.ONE_FOR_ALL: "-c -a ended: shutdown",
    Strategy.REST_FOR_ONE: "-c -a ended: shutdown",
}


def stage(strategy: Strategy, restart: RestartPolicy) -> Stage:
    """a and c are permanent, so that the type of b alone decides; dynamic children are all of one type."""
    if strategy is Strategy.SIMPLE_ONE_FOR_ONE:
        template = ChildSpec("template", "worker", restart)
        found = Stage(SupervisorSpec(strategy, RESTARTS_MAX, 60.0, children=(template,)))
        for name in "abc":
            assert found.ask(core.AddChild(name, ChildSpec(name, "worker"))) is None
        assert found.read() == ["+a", "+b", "+c"]
        return found
    children = (ChildSpec("a", "a"), ChildSpec("b", "b", restart), ChildSpec("c", "c"))
    return Stage(SupervisorSpec(strategy, RESTARTS_MAX, 60.0, children=children))


def expected(strategy: Strategy, restart: RestartPolicy, exit_: str, earlier_restarts: int) -> str:
    if exit_ not in RESTARTED[restart]:
        return ""
    if earlier_restarts < RESTARTS_MAX:
        return ON_RESTART[strategy]
    return ON_GIVING_UP[strategy]


@pytest.mark.parametrize("earlier_restarts", [RESTARTS_MAX - 1, RESTARTS_MAX, RESTARTS_MAX + 1])
@pytest.mark.parametrize("exit_", EXITS)
@pytest.mark.parametrize("restart", RestartPolicy)
@pytest.mark.parametrize("strategy", Strategy)
def test_matrix(strategy: Strategy, restart: RestartPolicy, exit_: str, earlier_restarts: int) -> None:
    found = stage(strategy, restart)
    # Dynamic children are all of one type: temporary ones leave no restarts to count.
    if strategy is not Strategy.SIMPLE_ONE_FOR_ONE or restart is not RestartPolicy.TEMPORARY:
        for _ in range(min(earlier_restarts, RESTARTS_MAX)):
            found.crash("c")
        if earlier_restarts > RESTARTS_MAX:
            # That was one too many, whatever becomes of b.
            assert found.crash("c")[-1] == "ended: shutdown"
            assert found.core.state is core.State.ENDED
            assert found.core.handle(core.ChildEnded("b", 2, EXITS[exit_]), 0.0) == []
            return
    if "b" not in found.living:
        # A temporary sibling is not restarted with c.
        assert (strategy, restart) == (Strategy.ONE_FOR_ALL, RestartPolicy.TEMPORARY)
        assert found.ask(core.AddChild("again", ChildSpec("b", "b", restart))) is None
        found.read()
    assert found.crash("b", EXITS[exit_]) == _split(expected(strategy, restart, exit_, earlier_restarts))


# How the parent's children p, n (the supervisor), q fare when n has given up: it ends with `shutdown`, which is an
# orderly end, so that a transient supervisor is not restarted.
PARENT = {
    (Strategy.ONE_FOR_ONE, RestartPolicy.PERMANENT): "+n",
    (Strategy.ONE_FOR_ALL, RestartPolicy.PERMANENT): "-q -p +p +n +q",
    (Strategy.REST_FOR_ONE, RestartPolicy.PERMANENT): "-q +n +q",
    **{
        (strategy, restart): ""
        for strategy in (Strategy.ONE_FOR_ONE, Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE)
        for restart in (RestartPolicy.TRANSIENT, RestartPolicy.TEMPORARY)
    },
}


@pytest.mark.parametrize("parent_restarts_max", [0, 1])
@pytest.mark.parametrize(("parent", "nested_restart"), PARENT)
@pytest.mark.parametrize("nested", Strategy)
def test_nesting(nested: Strategy, parent: Strategy, nested_restart: RestartPolicy, parent_restarts_max: int) -> None:
    below = stage(nested, RestartPolicy.PERMANENT)
    above = Stage(
        SupervisorSpec(
            parent,
            parent_restarts_max,
            60.0,
            children=(ChildSpec("p", "p"), ChildSpec("n", below.core.spec, nested_restart), ChildSpec("q", "q")),
        )
    )
    for _ in range(RESTARTS_MAX):
        below.crash("b")
    assert below.crash("b") == _split(ON_GIVING_UP[nested])
    found = above.crash("n", exits.SHUTDOWN)
    restarts = nested_restart is RestartPolicy.PERMANENT
    if restarts and parent_restarts_max == 0:
        assert found == ["-q", "-p", "ended: shutdown"]
    else:
        assert found == _split(PARENT[parent, nested_restart])


def test_the_matrix_is_whole() -> None:
    assert len(list(itertools.product(Strategy, RestartPolicy, EXITS, range(3)))) == 4 * 3 * 6 * 3
    assert {exit_.reason for exit_ in EXITS.values()} == set(exits.Reason) - {exits.Reason.NOPROC}


def _split(text: str) -> list[str]:
    moves, ended, reason = text.partition("ended: ")
    return moves.split() + ([ended + reason] if ended else [])
