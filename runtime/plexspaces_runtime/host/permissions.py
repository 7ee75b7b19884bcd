"""Whether an actor may make a host call, what is said when it may not, and what those use who are watched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ..actors.actor import Actor
from ..actors.capabilities import ALL, PATTERN_CHARS_MAX, Need, capability_of, entry_text, watch
from ..actors.registry import Registry
from ..errors import InvalidArgument, LimitExceeded, PermissionDenied
from ..events import EventBus, PermissionRefused
from ..scope import Scope

WATCHED_TYPES_PER_TENANT_MAX: Final = 100
NAMES_PER_TYPE_MAX: Final = 1_000
_REFUSALS_PER_TYPE_MAX: Final = 50
_REFUSED_TYPES_MAX: Final = 1_000
# Each is matched against every pattern.
_NAMES_AT_ONCE_MAX: Final = 256


@dataclass(slots=True)
class Uses:
    """What the actors of a watched type have used.

    Attributes:
        calls: how often, by capability.
        names: by capability, what for; prefixes end with `**`.
        more: capabilities for which there were more names than are kept, or some that no entry can have.
    """

    calls: Counter[str] = field(default_factory=Counter)
    names: dict[str, set[str]] = field(default_factory=dict)
    more: set[str] = field(default_factory=set)

    def add(self, capability: str, names: Iterable[str]) -> None:
        """A call was allowed."""
        self.calls[capability] += 1
        known = self.names.setdefault(capability, set())
        for name in names:
            if name in known:
                continue
            full = sum(map(len, self.names.values())) >= NAMES_PER_TYPE_MAX
            if full or len(name) > PATTERN_CHARS_MAX or not name.isprintable():
                self.more.add(capability)
            else:
                known.add(name)


class Permissions:
    """The permissions of all actors of a node: decided here, and remembered for people by actor type.

    What is remembered is in memory alone, and bounded.
    """

    def __init__(self, registry: Registry, events: EventBus) -> None:
        self._registry = registry
        self._events = events
        self._uses: dict[tuple[Scope, str], Uses] = {}
        self._refusals: dict[tuple[Scope, str], Counter[str]] = {}

    # -- deciding -----------------------------------------------------------------------------------------

    def check(self, actor: Actor, interface: str, function: str, need: Need, arguments: Sequence[Any]) -> None:
        """Refuse a host call for which the actor has no capability.

        Raises:
            PermissionDenied
            InvalidArgument: it is about too many names at once.
        """
        capability = capability_of(need, shares_keys=actor.spec.shares_keys)
        names = tuple(need.names(arguments)) if need.names is not None else ()
        if len(names) > _NAMES_AT_ONCE_MAX:
            raise InvalidArgument(f"{len(names)} names at once are too many: at most {_NAMES_AT_ONCE_MAX}")
        self._decide(actor, capability, names, f"{interface}.{function}", below=need.below)

    def permit(self, actor: Actor, capability: str, name: str | None = None) -> None:
        """Refuse what the actor has no capability for.

        Args:
            name: what it is wanted for; None for nothing in particular.

        Raises:
            PermissionDenied
        """
        if capability not in actor.spec.free:
            self._decide(actor, capability, () if name is None else (name,), capability)

    def _decide(
        self, actor: Actor, capability: str, names: tuple[str, ...], function: str, *, below: bool = False
    ) -> None:
        granted = actor.spec.capabilities
        for name in names or (None,):
            if refusing := granted.lacking(capability, name, below=below):
                shown = name if name is None or not below else f"{name}**"
                entry = _entry(capability, shown, below=below)
                lines = "; and ".join(layer.line(entry) for layer in refusing)
                self._remember(actor, entry)
                self._events.emit(PermissionRefused(actor.address, capability, function, (shown or "")[:200], lines))
                raise PermissionDenied(
                    f"this actor may not use {entry!r}: that takes {lines}",
                    capability=entry,
                    function=function,
                    name=(shown or "")[:200],
                    actor_type=actor.address.type,
                    line=lines,
                )
        if granted.watched and (uses := self._uses.get((actor.address.scope, actor.address.type))) is not None:
            uses.add(capability, (f"{name}**" for name in names) if below else names)

    def _remember(self, actor: Actor, entry: str) -> None:
        place = (actor.address.scope, actor.address.type)
        refusals = self._refusals.get(place)
        if refusals is None:
            while len(self._refusals) >= _REFUSED_TYPES_MAX:
                del self._refusals[next(iter(self._refusals))]
            refusals = self._refusals[place] = Counter()
        if entry in refusals or len(refusals) < _REFUSALS_PER_TYPE_MAX:
            refusals[entry] += 1

    # -- what people are told -----------------------------------------------------------------------------

    def refusals(self, scope: Scope, actor_type: str) -> dict[str, int]:
        """How often actors of a type were refused what, since it was deployed last."""
        return dict(self._refusals.get((scope, actor_type), ()))

    def forget_refusals(self, scope: Scope, actor_type: str) -> None:
        """A type was deployed anew, or is gone."""
        self._refusals.pop((scope, actor_type), None)

    def is_watched(self, scope: Scope, actor_type: str) -> bool:
        """Whether what actors of a type use is kept."""
        return (scope, actor_type) in self._uses

    def uses(self, scope: Scope, actor_type: str) -> Uses | None:
        """What actors of a type have used since they are watched; None if they are not."""
        return self._uses.get((scope, actor_type))

    def watch(self, scope: Scope, actor_type: str) -> None:
        """Keep what actors of a type use from now on, its future versions' too; one that is watched goes on so.

        Raises:
            LimitExceeded: the tenant has as many watched types as it may.
        """
        place = (scope, actor_type)
        if place not in self._uses:
            if sum(other.tenant == scope.tenant for other, _ in self._uses) >= WATCHED_TYPES_PER_TENANT_MAX:
                raise LimitExceeded(
                    f"{WATCHED_TYPES_PER_TENANT_MAX} actor types are observed, as many as may be at a time: "
                    "end that of some",
                    limit="watched_types_per_tenant_max",
                    value=WATCHED_TYPES_PER_TENANT_MAX,
                )
            self._uses[place] = Uses()
            self._tell_living(scope, actor_type, watched=True)

    def unwatch(self, scope: Scope, actor_type: str) -> None:
        """End that, and forget what was kept."""
        if self._uses.pop((scope, actor_type), None) is not None:
            self._tell_living(scope, actor_type, watched=False)

    def _tell_living(self, scope: Scope, actor_type: str, *, watched: bool) -> None:
        for actor in self._registry.of_type(scope, actor_type):
            actor.spec = replace(actor.spec, capabilities=watch(actor.spec.capabilities, watched))


def _entry(capability: str, name: str | None, *, below: bool) -> str:
    """What would have to be granted, as precisely as an entry can say it."""
    if name is None or not name.isprintable() or len(name) > PATTERN_CHARS_MAX or (ALL in name and not below):
        return capability
    return entry_text(capability, name)
