"""Which actor answers to which name.  Invariant R1: a name never resolves to a dead actor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..errors import AlreadyExists, LimitExceeded
from ..scope import Scope

if TYPE_CHECKING:
    from .actor import Actor


class Registry:
    """All living actors of a node, by address.

    Args:
        actors_per_tenant_max: how many a tenant may have.
    """

    def __init__(self, actors_per_tenant_max: int) -> None:
        self._actors_per_tenant_max = actors_per_tenant_max
        self._by_scope: dict[Scope, dict[str, Actor]] = {}
        self._per_tenant: dict[str, int] = {}
        # Asked on every message; two dictionary lookups on interned parts are cheaper than hashing an Address.
        self.count = 0
        # Makes an actor for a name nobody has, or answers None: virtual actors exist by being named.
        self.activate: Callable[[Scope, str], Actor | None] = lambda _scope, _text: None

    def add(self, actor: Actor) -> None:
        """Give the actor its name.

        Raises:
            AlreadyExists: another living actor has it.
            LimitExceeded: the tenant has as many actors as it may.
        """
        address = actor.address
        names = self._by_scope.setdefault(address.scope, {})
        if address.text in names:
            raise AlreadyExists(f"actor {address.text!r} exists already in namespace {address.scope.namespace!r}")
        used = self._per_tenant.get(address.scope.tenant, 0)
        if used >= self._actors_per_tenant_max:
            raise LimitExceeded(
                f"the tenant has {used} actors, as many as it may: stop some, or raise actors_per_tenant_max",
                limit="actors_per_tenant_max",
                value=self._actors_per_tenant_max,
            )
        names[address.text] = actor
        self._per_tenant[address.scope.tenant] = used + 1
        self.count += 1

    def remove(self, actor: Actor) -> None:
        """Take the actor's name away; nothing happens if another has it already."""
        address = actor.address
        names = self._by_scope.get(address.scope)
        if names is None or names.get(address.text) is not actor:
            return
        del names[address.text]
        if not names:
            del self._by_scope[address.scope]
        left = self._per_tenant[address.scope.tenant] - 1
        if left:
            self._per_tenant[address.scope.tenant] = left
        else:
            del self._per_tenant[address.scope.tenant]
        self.count -= 1

    def find(self, scope: Scope, text: str) -> Actor | None:
        """The living actor called `text` in `scope`."""
        names = self._by_scope.get(scope)
        return names.get(text) if names is not None else None

    def resolve(self, scope: Scope, text: str) -> Actor | None:
        """The living actor called `text` in `scope`, or a virtual one that starts to live because it was named."""
        names = self._by_scope.get(scope)
        actor = names.get(text) if names is not None else None
        return actor if actor is not None else self.activate(scope, text)

    def of_type(self, scope: Scope, actor_type: str) -> list[Actor]:
        """All living actors of one type, in the order they were added."""
        return [actor for actor in self._by_scope.get(scope, {}).values() if actor.address.type == actor_type]

    def matching(self, scope: Scope, actor_type: str, capability: str, label: str, limit: int) -> list[Actor]:
        """The first `limit` living actors of `scope` that are all of this, in the order they were added.

        Args:
            actor_type: "" for any.
            capability: what the actor may use, for some name at least; "" for any.
            label: `name` or `name=value`, "" for any.
        """
        name, has_value, value = label.partition("=")
        found: list[Actor] = []
        for actor in self._by_scope.get(scope, {}).values():
            if (
                (actor_type and actor.address.type != actor_type)
                or (capability and not actor.spec.capabilities.holds(capability))
                or (label and (name not in actor.labels or (has_value and actor.labels[name] != value)))
            ):
                continue
            found.append(actor)
            if len(found) == limit:
                break
        return found

    def of_tenant(self, tenant: str, namespace: str | None = None) -> Iterator[Actor]:
        """All living actors of a tenant, or of one of its namespaces."""
        for scope, names in self._by_scope.items():
            if scope.tenant == tenant and namespace in (None, scope.namespace):
                yield from names.values()

    def __iter__(self) -> Iterator[Actor]:
        for names in self._by_scope.values():
            yield from names.values()
