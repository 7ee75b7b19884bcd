"""Process groups: named sets of actors in a scope.  A member is alive, because it leaves when it ends."""

from __future__ import annotations

from collections import OrderedDict

from ..errors import LimitExceeded
from ..scope import Scope
from .actor import Actor

# Not a dict: the first key of a dict is found by walking past all that were removed before it.
Members = OrderedDict[Actor, None]


class Groups:
    """All groups of a node.  Joining, leaving and the first member cost the same however large a group is."""

    def __init__(self) -> None:
        self._by_scope: dict[Scope, dict[str, Members]] = {}

    def join(self, actor: Actor, group: str) -> None:
        """Make `actor` the last member; one that is a member keeps its place.

        Raises:
            LimitExceeded: it is in `groups_per_actor_max` groups.
        """
        if group in actor.groups:
            return
        groups_max = actor.spec.limits.groups_per_actor_max
        if len(actor.groups) >= groups_max:
            raise LimitExceeded(
                f"actor {actor.address.text!r} is in {groups_max} groups, as many as it may: "
                "leave some, or raise groups_per_actor_max",
                limit="groups_per_actor_max",
                value=groups_max,
            )
        groups = self._by_scope.setdefault(actor.address.scope, {})
        groups.setdefault(group, OrderedDict())[actor] = None
        actor.groups.add(group)

    def leave(self, actor: Actor, group: str) -> None:
        """Leave; nothing happens if it is no member."""
        if group not in actor.groups:
            return
        actor.groups.discard(group)
        scope = actor.address.scope
        groups = self._by_scope[scope]
        members = groups[group]
        del members[actor]
        if not members:
            del groups[group]
            if not groups:
                del self._by_scope[scope]

    def leave_all(self, actor: Actor) -> None:
        """The actor has ended."""
        for group in tuple(actor.groups):
            self.leave(actor, group)

    def members(self, scope: Scope, group: str) -> tuple[Actor, ...]:
        """In the order they joined; none for a group nobody is in."""
        return tuple(self._by_scope.get(scope, {}).get(group, ()))

    def first(self, scope: Scope, group: str) -> Actor | None:
        """The member that joined before all others."""
        return next(iter(self._by_scope.get(scope, {}).get(group, ())), None)

    @property
    def count(self) -> int:
        """How many groups have a member."""
        return sum(len(groups) for groups in self._by_scope.values())
