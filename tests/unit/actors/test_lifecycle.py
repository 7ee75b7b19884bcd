"""The lifecycle table is complete and closed."""

from __future__ import annotations

import itertools

import pytest

from plexspaces_runtime.actors.lifecycle import TABLE, Event, ImpossibleTransition, State, step


def test_every_state_but_dead_can_end() -> None:
    for state in State:
        if state is not State.DEAD:
            assert step(state, Event.ENDED) is State.DEAD


def test_nothing_leads_out_of_dead() -> None:
    assert not [pair for pair in TABLE if pair[0] is State.DEAD]


def test_every_state_is_reached_from_starting() -> None:
    reached = {State.STARTING}
    for _ in State:
        reached |= {TABLE[pair] for pair in TABLE if pair[0] in reached}
    assert reached == set(State)


def test_what_the_table_lacks_is_an_error_that_names_both() -> None:
    for state, event in itertools.product(State, Event):
        if (state, event) not in TABLE:
            with pytest.raises(ImpossibleTransition, match=f"{state.value}.*{event.value}"):
                step(state, event)
