"""An actor's life as a table.

    starting --started--> idle <--took / finished--> busy
    any of them --asked to stop--> stopping --ended--> dead

A pair that is missing from the table cannot happen; if it does, that is our bug and it is loud.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where an actor is in its life."""

    # By identity: Enum hashes its name in Python, on every lookup.
    __hash__ = object.__hash__

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    STOPPING = "stopping"
    DEAD = "dead"


class Event(Enum):
    """What moves an actor through its life."""

    # By identity: Enum hashes its name in Python, on every lookup.
    __hash__ = object.__hash__

    STARTED = "started"
    TOOK = "took"
    FINISHED = "finished"
    STOPPED = "stopped"
    ENDED = "ended"


TABLE: dict[tuple[State, Event], State] = {
    (State.STARTING, Event.STARTED): State.IDLE,
    (State.STARTING, Event.STOPPED): State.STOPPING,
    (State.STARTING, Event.ENDED): State.DEAD,
    (State.IDLE, Event.TOOK): State.BUSY,
    (State.IDLE, Event.STOPPED): State.STOPPING,
    (State.IDLE, Event.ENDED): State.DEAD,
    (State.BUSY, Event.FINISHED): State.IDLE,
    (State.BUSY, Event.STOPPED): State.STOPPING,
    (State.BUSY, Event.ENDED): State.DEAD,
    (State.STOPPING, Event.ENDED): State.DEAD,
}


class ImpossibleTransition(AssertionError):
    """The runtime moved an actor where its lifecycle does not lead."""


def step(state: State, event: Event) -> State:
    """The state after `event`.

    Raises:
        ImpossibleTransition: the table has no such pair.
    """
    try:
        return TABLE[state, event]
    except KeyError:
        raise ImpossibleTransition(f"an actor that is {state.value} cannot be {event.value}") from None
