"""`plexspaces:actor/channels`: durable queues of the caller's namespace, pulled or pushed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson

from ..actors.actor import Actor
from ..actors.envelope import Envelope, Kind, Outcome, PendingAsk
from ..errors import BusyError, NotFound, PlexSpacesError, Unavailable
from ..events import MessageRefused
from ..scheduler import PENDING
from ..stores.channels import WAITING, Channels, Delivery, Waiter
from . import waiting

if TYPE_CHECKING:
    from .gate import Host

_RETRY_S: Final = 1.0


def send(host: Host, actor: Actor, channel: str, msg_type: str, payload: str, options: tuple[int, int, str]) -> str:
    """Queue a message."""
    delay_ms, ttl_ms, dedup_id = options
    host.check_payload(actor, payload)
    return _channels(host).send(
        actor.address.scope, channel, msg_type, payload, delay_ms=delay_ms, ttl_ms=ttl_ms, dedup_id=dedup_id
    )


def receive(host: Host, actor: Actor, channel: str, timeout_ms: int, visibility_ms: int) -> Any:
    """The next message; suspends the caller while there is none."""
    waiter = None
    if timeout_ms:
        wait = waiting.begin(host, actor, timeout_ms)
        waiter = Waiter(wait.deadline_ns, wait.wanted, lambda outcome: wait.answer(_record(outcome)))
    found = _channels(host).receive(actor.address.scope, channel, actor, visibility_ms, waiter)
    return PENDING if found is WAITING else _record(found)


def ack(host: Host, actor: Actor, channel: str, message_id: str) -> None:
    """A message is done."""
    _channels(host).ack(actor.address.scope, channel, message_id, actor)


def nack(host: Host, actor: Actor, channel: str, message_id: str, requeue: bool, delay_ms: int) -> None:
    """A message is not done."""
    _channels(host).nack(actor.address.scope, channel, message_id, actor, requeue=requeue, delay_ms=delay_ms)


def extend(host: Host, actor: Actor, channel: str, message_id: str, visibility_ms: int) -> None:
    """A message takes longer."""
    _channels(host).extend(actor.address.scope, channel, message_id, actor, visibility_ms)


def depth(host: Host, actor: Actor, channel: str) -> int:
    """How many wait."""
    return _channels(host).depth(actor.address.scope, channel)


def subscribe(host: Host, actor: Actor, channel: str, op: str) -> str:
    """Each message of a channel as a call of the caller's handler, which acknowledges it by returning.

    Its arguments are `channel`, `id`, `msg_type`, `payload`, `deliveries` and `enqueued_ms`.  A handler that defers its
    reply defers the ack.
    """
    return host.pushes.add(_channels(host), actor, channel, op)


def unsubscribe(host: Host, actor: Actor, subscription_id: str) -> bool:
    """End a subscription; the message being handled is still acknowledged, none that waits comes any more."""
    return host.pushes.remove(_channels(host), actor, subscription_id)


def _channels(host: Host) -> Channels:
    if host.channels is None:
        raise Unavailable("this node keeps no channels")
    return host.channels


def _record(found: Any) -> Any:
    """A message as the WIT's record; anything else as it is."""
    if isinstance(found, Delivery):
        return (found.id, found.msg_type, found.payload, found.deliveries, found.enqueued_ms)
    return found


class _Push:
    """A subscription of one actor to one channel.

    Attributes:
        owner: who gets the messages; None once it has died.
        live: the subscription has not ended.
        delivery: the message under way, at most one.
        begun: its handler has been called.
        cause: the message that subscribed: what it causes is in its name.
    """

    __slots__ = ("begun", "cause", "channel", "delivery", "live", "op", "owner")

    def __init__(self, owner: Actor, channel: str, op: str) -> None:
        self.owner: Actor | None = owner
        self.live = True
        self.channel = channel
        self.op = op
        self.delivery: Delivery | None = None
        self.begun = False
        self.cause = owner.cause


class Pushes:
    """All subscriptions to channels: a message becomes a call, the call's outcome settles the message."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._by_actor: dict[Actor, dict[str, _Push]] = {}

    def add(self, channels: Channels, actor: Actor, channel: str, op: str) -> str:
        """Begin to push to an actor; the subscription's id.

        Raises:
            InvalidArgument, LimitExceeded: see `Channels.subscribe`.
        """
        self._host.check_text("the operation", op)
        push = _Push(actor, channel, op)

        def deliver(delivery: Delivery) -> None:
            push.delivery = delivery
            push.begun = False
            # Not within somebody else's send, nor while the scheduler ends a message.
            self._host.loop.call_soon(self._put, channels, push, delivery)

        made = channels.subscribe(actor.address.scope, channel, actor, deliver)
        self._by_actor.setdefault(actor, {})[made] = push
        return made

    def remove(self, channels: Channels, actor: Actor, subscription_id: str) -> bool:
        """Stop pushing to an actor; False when it has no such subscription."""
        push = self._by_actor.get(actor, {}).pop(subscription_id, None)
        if push is None:
            return False
        push.live = False
        channels.unsubscribe(actor.address.scope, actor, subscription_id)
        if push.delivery is not None and not push.begun:
            self._settle(channels, push, push.delivery, Unavailable("the subscription ended before it was handled"))
        return True

    def remove_all(self, actor: Actor) -> None:
        """The actor has ended: it waits for nothing, and what it had is another's."""
        for push in self._by_actor.pop(actor, {}).values():
            push.live = False
            push.owner = push.delivery = None
        if self._host.channels is not None:
            self._host.channels.forget(actor.address.scope, actor)

    def _put(self, channels: Channels, push: _Push, delivery: Delivery) -> None:
        """Put a message into its subscriber's mailbox."""
        owner, host, cause = push.owner, self._host, push.cause
        if owner is None or not push.live or push.delivery is not delivery:
            return
        message_id = host.ids.next("m")
        # Without a deadline: the message is the actor's until it has handled it, or has died.
        pending = PendingAsk(message_id, owner.address, None, partial(self._settle, channels, push, delivery))
        envelope = Envelope(
            message_id,
            Kind.CALL,
            push.op,
            _arguments(push.channel, delivery),
            None,
            cause.caller if cause is not None else None,
            trace=cause.trace if cause is not None else "",
            causation_id=cause.id if cause is not None else "",
            pending=pending,
            claim=partial(self._claim, channels, push, delivery),
        )
        try:
            delivered = host.scheduler.deliver(owner, envelope)
        except BusyError:
            # A facet refuses for now, a rate limit for instance; that is no fault of the message.
            host.loop.call_later(_RETRY_S, self._put, channels, push, delivery)
            return
        except PlexSpacesError as error:
            host.events.emit(MessageRefused(owner.address, envelope.id, push.op, error.code, error.message))
            channels.begin(owner.address.scope, push.channel, delivery.id, owner)
            self._settle(channels, push, delivery, error)
            return
        if not delivered:
            owner.mailbox.wait_for_room(envelope, lambda: push.live and push.delivery is delivery)

    def _claim(self, channels: Channels, push: _Push, delivery: Delivery, actor: Actor) -> bool:
        if push.owner is not actor or not push.live or push.delivery is not delivery:
            return False
        push.begun = channels.begin(actor.address.scope, push.channel, delivery.id, actor)
        return push.begun

    def _settle(self, channels: Channels, push: _Push, delivery: Delivery, outcome: Outcome) -> None:
        """The call has ended: a reply is the ack, anything else the nack."""
        owner = push.owner
        if owner is None or push.delivery is not delivery:
            # It died, and the store has the message back.
            return
        scope = owner.address.scope
        # First: what is settled makes room for the next, which may be delivered within.
        push.delivery = None
        try:
            if isinstance(outcome, str):
                channels.ack(scope, push.channel, delivery.id, owner)
            else:
                channels.nack(scope, push.channel, delivery.id, owner, why=str(outcome))
        except BusyError:
            # The disk refuses.  The work is done, so the message is not to be handled again for want of an ack.
            push.delivery = delivery
            self._host.loop.call_later(_RETRY_S, self._settle, channels, push, delivery, outcome)
        except NotFound:
            # The handler has settled it itself.
            return


def _arguments(channel: str, delivery: Delivery) -> str:
    # Spliced, not parsed and printed: a number of any length stays what it was.
    return (
        f'{{"channel":{orjson.dumps(channel).decode()},"id":"{delivery.id}",'
        f'"msg_type":{orjson.dumps(delivery.msg_type).decode()},"payload":{delivery.payload},'
        f'"deliveries":{delivery.deliveries},"enqueued_ms":{delivery.enqueued_ms}}}'
    )
