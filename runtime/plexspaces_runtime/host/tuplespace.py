"""`plexspaces:actor/tuplespace`: the tuple space of the caller's namespace."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..actors.actor import Actor
from ..actors.envelope import Envelope, Kind
from ..errors import BusyError, PlexSpacesError, Unavailable
from ..events import MessageRefused
from ..scheduler import PENDING
from ..stores.tuplespace import WAITING, TupleSpace, Waiter
from . import waiting

if TYPE_CHECKING:
    from .gate import Host

_RETRY_S: Final = 1.0


def write(host: Host, actor: Actor, fields: str, lease_ms: int | None) -> str:
    """Write a tuple."""
    return _space(host).write(actor.address.scope, fields, lease_ms)


def read(host: Host, actor: Actor, pattern: str, timeout_ms: int) -> Any:
    """A copy of the oldest match; suspends the caller while there is none."""
    found = _space(host).read(actor.address.scope, pattern, _waiter(host, actor, timeout_ms))
    return PENDING if found is WAITING else found


def take(host: Host, actor: Actor, pattern: str, timeout_ms: int) -> Any:
    """The oldest match, removed; suspends the caller while there is none."""
    found = _space(host).take(actor.address.scope, pattern, _waiter(host, actor, timeout_ms))
    return PENDING if found is WAITING else found


def read_all(host: Host, actor: Actor, pattern: str, limit: int) -> list[str]:
    """Copies of the oldest matches."""
    return _space(host).read_all(actor.address.scope, pattern, limit)


def take_all(host: Host, actor: Actor, pattern: str, limit: int) -> list[str]:
    """The oldest matches, removed."""
    return _space(host).take_all(actor.address.scope, pattern, limit)


def count(host: Host, actor: Actor, pattern: str) -> int:
    """How many match."""
    return _space(host).count(actor.address.scope, pattern)


def subscribe(host: Host, actor: Actor, pattern: str, op: str) -> str:
    """Each future match as a message to the caller: `{"fields": [...]}`."""
    return host.tuple_feeds.add(_space(host), actor, pattern, op)


def unsubscribe(host: Host, actor: Actor, subscription_id: str) -> bool:
    """End a subscription; none of its messages comes any more, not even one that waits already."""
    return host.tuple_feeds.remove(_space(host), actor, subscription_id)


def _space(host: Host) -> TupleSpace:
    if host.tuplespace is None:
        raise Unavailable("this node keeps no tuples")
    return host.tuplespace


def _waiter(host: Host, actor: Actor, timeout_ms: int) -> Waiter | None:
    if not timeout_ms:
        return None
    wait = waiting.begin(host, actor, timeout_ms)
    return Waiter(actor, wait.deadline_ns, wait.wanted, wait.answer)


class _Feed:
    """The matches of one subscription that its actor has yet to hear of.

    Attributes:
        owner: whom they are for; None once the subscription has ended.
        matches: those that are in no mailbox, oldest first.
        cause: the message that subscribed: what it causes is in its name.
        waits: one of them waits in the mailbox, or for room there.
        pumping: `_pump` is about to be called.
    """

    __slots__ = ("cause", "matches", "op", "owner", "pumping", "waits")

    def __init__(self, owner: Actor, op: str) -> None:
        self.owner: Actor | None = owner
        self.op = op
        self.cause = owner.cause
        self.matches: deque[str] = deque()
        self.waits = False
        self.pumping = False


class TupleFeeds:
    """All subscriptions to tuples: matches become messages, one after the other.

    At most one message of a subscription waits in a mailbox, so a busy space does not crowd out other senders; up to
    `tuple_matches_waiting_max` wait here.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._by_actor: dict[Actor, dict[str, _Feed]] = {}

    def add(self, space: TupleSpace, actor: Actor, pattern: str, op: str) -> str:
        """Begin to tell an actor; the subscription's id.

        Raises:
            InvalidArgument, LimitExceeded: see `TupleSpace.subscribe`.
        """
        self._host.check_text("the operation", op)
        feed = _Feed(actor, op)
        waiting_max = actor.spec.limits.tuple_matches_waiting_max

        def matched(fields: str) -> None:
            feed.matches.append(fields)
            self._pump_soon(feed)

        made = space.subscribe(actor.address.scope, actor, pattern, matched, lambda: len(feed.matches) >= waiting_max)
        self._by_actor.setdefault(actor, {})[made] = feed
        return made

    def remove(self, space: TupleSpace, actor: Actor, subscription_id: str) -> bool:
        """Stop telling an actor; False when it has no such subscription."""
        feed = self._by_actor.get(actor, {}).pop(subscription_id, None)
        if feed is not None:
            feed.owner = None
        return space.unsubscribe(actor.address.scope, actor, subscription_id)

    def remove_all(self, actor: Actor) -> None:
        """The actor has ended: it waits for nothing, and is told of nothing."""
        for feed in self._by_actor.pop(actor, {}).values():
            feed.owner = None
        if self._host.tuplespace is not None:
            self._host.tuplespace.forget(actor.address.scope, actor)

    def _pump_soon(self, feed: _Feed) -> None:
        # Not within somebody else's write, nor while the scheduler takes a message.
        if not feed.pumping and not feed.waits:
            feed.pumping = True
            self._host.loop.call_soon(self._pump, feed)

    def _pump(self, feed: _Feed) -> None:
        feed.pumping = False
        owner, host, cause = feed.owner, self._host, feed.cause
        if owner is None or feed.waits or not feed.matches:
            return
        envelope = Envelope(
            host.ids.next("m"),
            Kind.CAST,
            feed.op,
            f'{{"fields":{feed.matches[0]}}}',
            None,
            cause.caller if cause is not None else None,
            trace=cause.trace if cause is not None else "",
            causation_id=cause.id if cause is not None else "",
            claim=partial(self._claim, feed),
        )
        try:
            delivered = host.scheduler.deliver(owner, envelope)
        except BusyError:
            # A facet refuses for now, a rate limit for instance; the match is not lost to it.
            feed.pumping = True
            host.loop.call_later(_RETRY_S, self._pump, feed)
            return
        except PlexSpacesError as error:
            # It will refuse this one again; what comes behind it is not to wait for ever.
            host.events.emit(MessageRefused(owner.address, envelope.id, feed.op, error.code, error.message))
            feed.matches.popleft()
            self._pump_soon(feed)
            return
        feed.matches.popleft()
        feed.waits = True
        if not delivered:
            owner.mailbox.wait_for_room(envelope, lambda: feed.owner is not None)

    def _claim(self, feed: _Feed, actor: Actor) -> bool:
        if feed.owner is not actor:
            return False
        feed.waits = False
        self._pump_soon(feed)
        return True
