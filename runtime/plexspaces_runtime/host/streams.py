"""`plexspaces:actor/streams`: append-only logs of the caller's namespace, and messages for what is new in them."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson

from ..actors.actor import Actor
from ..actors.envelope import Envelope, Kind
from ..errors import BusyError, LimitExceeded, PlexSpacesError, Unavailable
from ..events import MessageRefused
from ..stores.streams import StreamEvent, Streams, check_path

if TYPE_CHECKING:
    from .gate import Host

_READ_AHEAD: Final = 16
_RETRY_S: Final = 1.0


def append(host: Host, actor: Actor, path: str, event_type: str, payload: str, idempotency_key: str) -> int:
    """Add an event; what is none becomes an event of type `error`, whose offset is returned."""
    return _streams(host).append(actor.address.scope, path, event_type, payload, idempotency_key).offset


def read(host: Host, actor: Actor, path: str, after: int, limit: int) -> list[tuple[int, str, str, int]]:
    """Events after an offset, those that are not yet on disk included."""
    found = _streams(host).read(actor.address.scope, path, after, limit)
    return [(event.offset, event.event_type, event.payload, event.time_ms) for event in found]


def subscribe(host: Host, actor: Actor, path: str, after: int, op: str) -> str:
    """Each event after `after` as a message to the caller."""
    return host.subscriptions.add(_streams(host), actor, path, after, op)


def unsubscribe(host: Host, actor: Actor, subscription_id: str) -> bool:
    """End a subscription, and take back its message if that waits in the mailbox."""
    return host.subscriptions.remove(actor, subscription_id)


def _streams(host: Host) -> Streams:
    if host.streams is None:
        raise Unavailable("this node keeps no event streams")
    return host.streams


class _Subscription:
    """One actor's place in one stream.

    Attributes:
        owner: whom it tells; None once it is over.
        after: the offset of the last event that was read.
        waits: a message of it is on its way, or waits in the mailbox.
    """

    __slots__ = ("after", "cause", "end_watch", "id", "op", "owner", "path", "pumping", "read_ahead", "waits")

    def __init__(self, id_: str, owner: Actor, path: str, after: int, op: str) -> None:
        self.id = id_
        self.owner: Actor | None = owner
        self.path = path
        self.after = after
        self.op = op
        self.cause = owner.cause
        self.waits = False
        self.pumping = False
        self.read_ahead: deque[StreamEvent] = deque()
        self.end_watch: Any = None


class Subscriptions:
    """Who is told of which stream.

    At most one message of a subscription waits in a mailbox; the next one is put in when that has been taken out.  So a
    stream that is faster than its reader waits in the store, and in nobody's memory.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._by_actor: dict[Actor, dict[str, _Subscription]] = {}

    def add(self, streams: Streams, actor: Actor, path: str, after: int, op: str) -> str:
        """Begin to tell an actor; the subscription's id.

        Raises:
            InvalidArgument
            LimitExceeded: it has as many as it may.
        """
        check_path(path)
        self._host.check_text("the operation", op)
        subscriptions_max = actor.spec.limits.stream_subscriptions_per_actor_max
        if len(self._by_actor.get(actor, ())) >= subscriptions_max:
            raise LimitExceeded(
                f"actor {actor.address.text!r} is subscribed to {subscriptions_max} streams, as many as it may be: end "
                "some, or raise stream_subscriptions_per_actor_max",
                limit="stream_subscriptions_per_actor_max",
                value=subscriptions_max,
            )
        made = _Subscription(self._host.ids.next("subscription"), actor, path, after, op)
        made.end_watch = streams.watch(
            actor.address.scope, path, partial(self._pump_soon, streams, made), durable=False
        )
        self._by_actor.setdefault(actor, {})[made.id] = made
        self._pump_soon(streams, made)
        return made.id

    def remove(self, actor: Actor, subscription_id: str) -> bool:
        """Stop telling an actor; False when it has no such subscription."""
        found = self._by_actor.get(actor, {}).pop(subscription_id, None)
        if found is None:
            return False
        _end(found)
        return True

    def remove_all(self, actor: Actor) -> None:
        """The actor has ended."""
        for each in self._by_actor.pop(actor, {}).values():
            _end(each)

    def _pump_soon(self, streams: Streams, each: _Subscription) -> None:
        # Not within somebody else's append, nor while a scheduler takes a message.
        if not each.pumping and not each.waits:
            each.pumping = True
            self._host.loop.call_soon(self._pump, streams, each)

    def _pump(self, streams: Streams, each: _Subscription) -> None:
        each.pumping = False
        owner, host = each.owner, self._host
        if owner is None or each.waits:
            return
        if not each.read_ahead:
            each.read_ahead.extend(streams.read(owner.address.scope, each.path, each.after, _READ_AHEAD))
            if not each.read_ahead:
                return
        event, cause = each.read_ahead[0], each.cause
        envelope = Envelope(
            host.ids.next("m"),
            Kind.CAST,
            each.op,
            _message(each.path, event),
            None,
            cause.caller if cause is not None else None,
            trace=cause.trace if cause is not None else "",
            causation_id=cause.id if cause is not None else "",
            claim=partial(self._claim, streams, each),
        )
        try:
            delivered = host.scheduler.deliver(owner, envelope)
        except BusyError:
            # A facet refuses for now, a rate limit for instance; the event is not lost to it.
            each.pumping = True
            host.loop.call_later(_RETRY_S, self._pump, streams, each)
            return
        except PlexSpacesError as error:
            # It will refuse this one again; what comes behind it is not to wait for ever.
            host.events.emit(MessageRefused(owner.address, envelope.id, each.op, error.code, error.message))
            each.read_ahead.popleft()
            each.after = event.offset
            self._pump_soon(streams, each)
            return
        each.read_ahead.popleft()
        each.after = event.offset
        each.waits = True
        if not delivered:
            owner.mailbox.wait_for_room(envelope, lambda: each.owner is not None)

    def _claim(self, streams: Streams, each: _Subscription, actor: Actor) -> bool:
        if each.owner is not actor:
            return False
        each.waits = False
        self._pump_soon(streams, each)
        return True


def _end(each: _Subscription) -> None:
    each.owner = None
    each.read_ahead.clear()
    each.end_watch()


def _message(path: str, event: StreamEvent) -> str:
    # Spliced, not parsed and printed: a number of any length stays what it was.
    return (
        f'{{"path":{orjson.dumps(path).decode()},"offset":{event.offset},"event_type":"{event.event_type}",'
        f'"payload":{event.payload},"time_ms":{event.time_ms}}}'
    )
