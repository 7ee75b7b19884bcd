"""`plexspaces:actor/lifecycle`: who I am, and the life and death of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from ..actors import exits, links
from ..actors.actor import Actor
from ..actors.capabilities import Grants
from ..actors.envelope import PendingAsk
from ..actors.guest import Ok
from ..errors import InvalidArgument, PlexSpacesError, Unavailable
from ..scheduler import PENDING
from ..scope import Address
from .wire import error_value

if TYPE_CHECKING:
    from .gate import Host

_REASON_BYTES_MAX: Final = 1_024


class Spawner(Protocol):
    """Starts actors on behalf of others."""

    def spawn_from(
        self,
        parent: Actor,
        actor_type: str,
        key: str,
        args: str,
        capabilities: Grants,
        created: Callable[[Actor], None],
        done: Callable[[PlexSpacesError | None], None],
    ) -> Address:
        """Begin to start an actor under the parent's supervisor; its address.

        Args:
            actor_type: a type deployed in the parent's scope, or a role of the parent's component.
            key: "" makes the spawner choose one.
            args: a JSON object as text.
            capabilities: the parent's own: the new actor may do what they and those of its type allow.
            created: called with the actor before any of its code runs.  It may be dead afterwards, because its fate
                is tied to a parent that has ended; then it is not to be started.
            done: called once: with None when the actor is up, else with why it is not.

        Raises:
            ActorNotFound: there is no such type.
            AlreadyExists, LimitExceeded
            PermissionDenied: it is virtual, and would have more than its parent when it comes back by being named.
        """


def self_id(_host: Host, actor: Actor) -> str:
    """The caller's own name."""
    return actor.address.text


def spawn(host: Host, actor: Actor, options: tuple[str, str, str, bool, bool]) -> Any:
    """Start an actor and suspend the caller until it is up."""
    actor_type, key, args, link, monitor = options
    if host.spawner is None:
        raise Unavailable("this node starts no actors for others")
    Address.parse(actor.address.scope, f"{actor_type}/{key or 'default'}")
    host.check_payload(actor, args)
    _check_object(args)
    if link:
        links.refuse_more_links(actor)
    if monitor:
        links.refuse_more_monitors(actor)
    link_id = host.ids.next("link") if link else ""
    reference = host.ids.next("ref") if monitor else ""
    token = actor.wait_token
    wait: PendingAsk | None = None
    suspended = False
    outcome: list[PlexSpacesError | None] = []

    def created(child: Actor) -> None:
        nonlocal wait
        if not actor.alive:
            if link:
                host.scheduler.kill(child, replace(exits.NOPROC, cause=actor.address.text))
            return
        child.spawner = actor
        if link:
            # There was room when it was asked for: what others have tied to the caller since does not undo that.
            links.tie(actor, child, link_id)
        if monitor:
            links.watch(actor, child, reference)
        # The caller waits for the new one's `init`: one that asks its caller there would wait for itself.
        wall_ns = int(actor.spec.limits.wall_s_per_message_max * 1e9)
        deadline_ns = host.clock.monotonic_ns() + wall_ns
        wait = host.asks.open(link_id, child.address, actor, deadline_ns, lambda _outcome: None)

    def done(error: PlexSpacesError | None) -> None:
        if wait is not None:
            host.asks.end(wait, "")
        outcome.append(error)
        if suspended:
            host.scheduler.resume(actor, token, Ok((address.text, reference)) if error is None else error_value(error))

    address = host.spawner.spawn_from(actor, actor_type, key, args, actor.spec.capabilities, created, done)
    suspended = True
    if not outcome:
        return PENDING
    # It was up, or had failed, at once.
    if outcome[0] is not None:
        raise outcome[0]
    return (address.text, reference)


def stop(host: Host, actor: Actor, actor_id: str, reason: str) -> None:
    """Ask an actor of the same namespace, perhaps the caller itself, to end after its message."""
    if len(reason.encode("utf-8", "replace")) > _REASON_BYTES_MAX:
        raise InvalidArgument(f"a reason has at most {_REASON_BYTES_MAX} bytes")
    host.scheduler.stop(host.find_living(actor, actor_id), exits.stopped(reason))


def link(host: Host, actor: Actor, actor_id: str) -> None:
    """Tie the caller's fate to another's."""
    other, name = host.look_up(actor, actor_id)
    if other is not None:
        links.link(actor, other, host.ids.next("link"))
    elif actor.trapping:
        host.scheduler.notify(actor, links.exit_message(actor, host.ids.next("link"), name, exits.NOPROC.text))
    else:
        host.scheduler.kill(actor, replace(exits.NOPROC, cause=name))


def unlink(host: Host, actor: Actor, actor_id: str) -> None:
    """Untie them; no EXIT of the other comes any more."""
    links.unlink(actor, *host.look_up(actor, actor_id))


def monitor(host: Host, actor: Actor, actor_id: str) -> str:
    """Let the caller hear of another's end."""
    other, name = host.look_up(actor, actor_id)
    reference = host.ids.next("ref")
    if other is not None:
        links.watch(actor, other, reference)
    else:
        host.scheduler.notify(actor, links.down_message(actor, reference, name, exits.NOPROC.text))
    return reference


def demonitor(_host: Host, actor: Actor, monitor_ref: str) -> None:
    """Take a monitor back; no DOWN of it comes any more."""
    links.unwatch(actor, monitor_ref)


def trap_exit(_host: Host, actor: Actor, enabled: bool) -> bool:
    """Have the ends of linked actors as messages; the setting before."""
    before, actor.trapping = actor.trapping, enabled
    return before


def _check_object(text: str) -> None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"the arguments of a new actor are not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"the arguments of a new actor are a JSON object, not a {type(value).__name__}")
