"""`plexspaces:actor/process-groups`: named sets of actors of a namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..actors.actor import Actor
from ..actors.envelope import Kind
from ..errors import PlexSpacesError
from . import messaging

if TYPE_CHECKING:
    from .gate import Host


def join(host: Host, actor: Actor, group: str) -> None:
    """Make the caller a member."""
    host.check_text("the name of a group", group)
    host.groups.join(actor, group)


def leave(host: Host, actor: Actor, group: str) -> None:
    """Make it none."""
    host.groups.leave(actor, group)


def members(host: Host, actor: Actor, group: str) -> list[str]:
    """Who is in, in the order of joining."""
    return [member.address.text for member in host.groups.members(actor.address.scope, group)]


def first(host: Host, actor: Actor, group: str) -> str | None:
    """Who joined first."""
    member = host.groups.first(actor.address.scope, group)
    return member.address.text if member is not None else None


def broadcast(host: Host, actor: Actor, group: str, op: str, payload: str) -> int:
    """Send to all but the caller; how many took it.  One that is full, or refuses, holds up nobody."""
    host.check_text("the operation", op)
    host.check_payload(actor, payload)
    deadline_ns = messaging.inherited_deadline_ns(actor)
    took = 0
    for member in host.groups.members(actor.address.scope, group):
        if member is actor:
            continue
        try:
            took += host.scheduler.deliver(member, messaging.message(host, actor, Kind.CAST, op, payload, deadline_ns))
        except PlexSpacesError:
            # A facet of that member's: its refusal is not the group's.
            continue
    return took
