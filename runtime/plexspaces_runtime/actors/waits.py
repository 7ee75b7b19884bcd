"""Who waits for whom, so that an ask that could never end is refused instead of timing out.

An edge is added only when an actor asks, and every edge is checked before it is added: so there never is a cycle, and
the search below always ends.  (Holt, "Some Deadlock Properties of Computer Systems", 1972: with one unit per
resource, a cycle in the wait-for graph is a deadlock.)
"""

from __future__ import annotations

from ..errors import Deadlock
from .actor import Actor
from .registry import Registry


def refuse_cycle(registry: Registry, asker: Actor, target: Actor) -> None:
    """Do nothing if `asker` may wait for `target`.

    Raises:
        Deadlock: `target` waits, directly or through others, for `asker`; the error names the cycle.
    """
    if not target.asks and target is not asker:
        return
    path = _path(registry, target, asker)
    if path is not None:
        cycle = [asker.address.text, *path]
        raise Deadlock(
            "this ask would wait for itself: " + " -> ".join(cycle) + ". Send instead of asking, "
            "or let one of them reply before it asks",
            cycle=cycle,
        )


def _path(registry: Registry, start: Actor, goal: Actor) -> list[str] | None:
    """The names on the way from `start` to `goal` along the waits, both included."""
    came_from: dict[Actor, Actor | None] = {start: None}
    to_visit = [start]
    while to_visit:
        actor = to_visit.pop()
        if actor is goal:
            names: list[str] = []
            step: Actor | None = actor
            while step is not None:
                names.append(step.address.text)
                step = came_from[step]
            return names[::-1]
        for ask in actor.asks:
            # By name, because a restarted actor is another object with the same mailbox.
            waited_for = registry.find(ask.target.scope, ask.target.text)
            if waited_for is not None and waited_for not in came_from:
                came_from[waited_for] = actor
                to_visit.append(waited_for)
    return None
