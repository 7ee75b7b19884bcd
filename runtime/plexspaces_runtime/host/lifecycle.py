"""`plexspaces:actor/lifecycle`: who I am, and the end of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..actors import exits
from ..actors.actor import Actor

if TYPE_CHECKING:
    from .gate import Host


def self_id(_host: Host, actor: Actor) -> str:
    """The caller's own name."""
    return actor.address.text


def stop(host: Host, actor: Actor, actor_id: str, reason: str) -> None:
    """Ask an actor of the same namespace, perhaps the caller itself, to end after its message."""
    target = host.find(actor, actor_id)
    host.scheduler.stop(target, exits.NORMAL if reason == "normal" else exits.SHUTDOWN)
