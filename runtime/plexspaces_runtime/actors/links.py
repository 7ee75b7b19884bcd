"""Links and monitors: who hears of whose end, and who shares it.

OTP's, between incarnations: a restarted actor has none of its predecessor's.  Each lives in the books of both actors
(`links`; `watching` and `watchers`), so that either end cuts it without a search and nothing keeps a dead actor.

What is told of an end is a message in the system lane, which no full mailbox refuses.  It counts for the limits until
it is handled: `watching` and `exits` name it for so long, and taking the name away takes the message back.  That is
how `demonitor` and `unlink` keep their promise that nothing comes afterwards, and how a successor, which inherits the
mailbox, is spared what concerned its predecessor.

(Erlang reference manual, "Processes": links, monitors, the receiving of exit signals.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import orjson

from ..errors import LimitExceeded
from . import exits
from .actor import Actor
from .envelope import Envelope, Kind
from .exits import Exit

# An exception's text may be as long as a guest likes; each one told gets a copy.
_REASON_CHARS_MAX: Final = 1_000
_ABSENT: Final = object()


def link(actor: Actor, other: Actor, link_id: str) -> None:
    """Tie two living actors; nothing happens if they are tied already, or are one.

    Raises:
        LimitExceeded: one of them has `links_per_actor_max`.
    """
    if other is actor or other in actor.links:
        return
    refuse_more_links(actor)
    refuse_more_links(other)
    tie(actor, other, link_id)


def tie(actor: Actor, other: Actor, link_id: str) -> None:
    """As `link`, for two that are known to be untied and to have room."""
    actor.links[other] = link_id
    other.links[actor] = link_id


def unlink(actor: Actor, other: Actor | None, name: str) -> None:
    """Undo `link`, and take back an EXIT of `name` that has yet to be handled."""
    if other is not None and actor.links.pop(other, None) is not None:
        del other.links[actor]
    for link_id in [waiting for waiting, whose in actor.exits.items() if whose == name]:
        del actor.exits[link_id]


def watch(actor: Actor, other: Actor, reference: str) -> None:
    """Let `actor` hear once of the end of `other`, which lives.

    Raises:
        LimitExceeded: `actor` has `monitors_per_actor_max`.
    """
    refuse_more_monitors(actor)
    # Nobody hears of its own end.
    if other is not actor:
        actor.watching[reference] = other
        other.watchers[reference] = actor


def unwatch(actor: Actor, reference: str) -> None:
    """Undo `watch`, and take back a DOWN that has yet to be handled."""
    other = actor.watching.pop(reference, None)
    if other is not None:
        del other.watchers[reference]


def exit_message(actor: Actor, link_id: str, whose: str, reason: str) -> Envelope:
    """The EXIT that tells `actor` of the end of `whose`; from now on it counts as waiting.

    Raises:
        LimitExceeded: `actor` has `links_per_actor_max`, those that wait counted.
    """
    refuse_more_links(actor)
    actor.exits[link_id] = whose
    payload = orjson.dumps({"actor_id": whose, "reason": _cut(reason)}).decode()
    return Envelope(
        link_id, Kind.INFO, "EXIT", payload, claim=lambda taker: taker.exits.pop(link_id, _ABSENT) is not _ABSENT
    )


def down_message(actor: Actor, reference: str, whose: str, reason: str) -> Envelope:
    """The DOWN that tells `actor` of the end of `whose`; from now on it counts as waiting.

    Raises:
        LimitExceeded: `actor` has `monitors_per_actor_max`, those that wait counted.
    """
    if reference not in actor.watching:
        refuse_more_monitors(actor)
    actor.watching[reference] = None
    payload = orjson.dumps({"monitor_ref": reference, "actor_id": whose, "reason": _cut(reason)}).decode()
    return Envelope(
        reference, Kind.INFO, "DOWN", payload, claim=lambda taker: taker.watching.pop(reference, _ABSENT) is not _ABSENT
    )


def sever(
    actor: Actor, exit_: Exit, tell: Callable[[Actor, Envelope], None], end: Callable[[Actor, Exit], None]
) -> None:
    """The end of `actor`: tell those who asked to be told, end those who share its fate.

    Args:
        tell: puts a message into the system lane of a living actor.
        end: ends another actor; must not come back here before this call is over.
    """
    name, reason = actor.address.text, exit_.text
    never_up = actor.spawner
    linked, actor.links = actor.links, {}
    watchers, actor.watchers = actor.watchers, {}
    watching, actor.watching = actor.watching, {}
    actor.exits = {}
    actor.spawner = None
    for reference, target in watching.items():
        if target is not None:
            target.watchers.pop(reference, None)
    for other, link_id in linked.items():
        del other.links[actor]
        if not other.alive or other is never_up:
            continue
        if other.trapping:
            tell(other, exit_message(other, link_id, name, reason))
        elif exit_.reason is not exits.Reason.NORMAL:
            end(other, exits.through_link(exit_, name))
    for reference, watcher in watchers.items():
        if watcher is never_up:
            del watcher.watching[reference]
        elif watcher.alive:
            tell(watcher, down_message(watcher, reference, name, reason))


def refuse_more_links(actor: Actor) -> None:
    """Do nothing if `actor` may be linked once more.

    Raises:
        LimitExceeded
    """
    links_max = actor.spec.limits.links_per_actor_max
    if len(actor.links) + len(actor.exits) >= links_max:
        raise LimitExceeded(
            f"actor {actor.address.text!r} has {links_max} links, as many as it may (EXIT messages that wait count): "
            "unlink some, or raise links_per_actor_max",
            limit="links_per_actor_max",
            value=links_max,
        )


def refuse_more_monitors(actor: Actor) -> None:
    """Do nothing if `actor` may hold another monitor.

    Raises:
        LimitExceeded
    """
    monitors_max = actor.spec.limits.monitors_per_actor_max
    if len(actor.watching) >= monitors_max:
        raise LimitExceeded(
            f"actor {actor.address.text!r} has {monitors_max} monitors, as many as it may (DOWN messages that wait "
            "count): demonitor some, or raise monitors_per_actor_max",
            limit="monitors_per_actor_max",
            value=monitors_max,
        )


def _cut(reason: str) -> str:
    return reason if len(reason) <= _REASON_CHARS_MAX else reason[: _REASON_CHARS_MAX - 3] + "..."
