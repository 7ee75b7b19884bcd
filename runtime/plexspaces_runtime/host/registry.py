"""`plexspaces:actor/registry`: finding actors of one's own namespace by what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from ..actors.actor import Actor
from ..errors import InvalidArgument, LimitExceeded

if TYPE_CHECKING:
    from .gate import Host

_ENTRIES: Final = 100
_ENTRIES_MAX: Final = 1_000


def find(host: Host, actor: Actor, query: tuple[str, str, str, int]) -> list[tuple[str, str, str]]:
    """Living actors that match.  A virtual one that is not resident is not among them."""
    actor_type, capability, label, limit = query
    if limit > _ENTRIES_MAX:
        raise InvalidArgument(f"limit = {limit} is too much: at most {_ENTRIES_MAX} entries, 0 takes {_ENTRIES}")
    found = host.registry.matching(actor.address.scope, actor_type, capability, label, limit or _ENTRIES)
    return [(one.address.text, one.address.type, orjson.dumps(one.labels).decode()) for one in found]


def set_label(host: Host, actor: Actor, name: str, value: str) -> None:
    """Label the caller; an empty value takes the label away."""
    host.check_text("the name of a label", name)
    if "=" in name:
        raise InvalidArgument(f"the name of a label cannot hold '=': {name!r} could not be asked for")
    if not value:
        actor.labels.pop(name, None)
        return
    host.check_text("the value of a label", value)
    labels_max = actor.spec.limits.labels_per_actor_max
    if name not in actor.labels and len(actor.labels) >= labels_max:
        raise LimitExceeded(
            f"actor {actor.address.text!r} has {labels_max} labels, as many as it may: "
            "remove some, or raise labels_per_actor_max",
            limit="labels_per_actor_max",
            value=labels_max,
        )
    actor.labels[name] = value
