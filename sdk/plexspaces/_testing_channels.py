"""The test node's channels: messages wait, are leased, and end acknowledged, expired or dead."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ._testing_base import (
    NS_PER_MS,
    Quotas,
    VirtualClock,
    Waiter,
    check_between,
    contract_error,
    over,
    parse_json,
    size_of,
)

_VISIBILITY_MS: Final = 30_000
_VISIBILITY_MS_MAX: Final = 12 * 3_600 * 1_000
_DELAY_MS_MAX: Final = 365 * 24 * 3_600 * 1_000
_OVERHEAD_BYTES: Final = 128
_REASON_CHARS_MAX: Final = 512
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
_TYPE: Final = re.compile(r"[^\x00-\x1f\x7f]{0,256}")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as its consumer gets it; the payload is JSON text."""

    id: str
    msg_type: str
    payload: str
    deliveries: int
    enqueued_ms: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that is not delivered any more, and why.

    Attributes:
        id: as its consumers knew it.
        msg_type: as it was sent.
        payload: decoded.
        deliveries: how often it was delivered.
        reason: for a person.
    """

    id: str
    msg_type: str
    payload: Any
    deliveries: int
    reason: str


class State(Enum):
    """Where a message is, as long as it is kept."""

    WAITING = "waiting"
    LEASED = "leased"
    DEAD = "dead"


class _Message:
    """One message.

    Attributes:
        visible_ns, expires_ns: monotonic; 0: at once, never.
        owner: who has it leased, and `until_ns`; 0: until it is settled or its owner ends.
        subscriber: the subscription it was pushed to.
        begun: its consumer has seen it; else its delivery does not count.
    """

    __slots__ = (
        "begun",
        "channel",
        "deliveries",
        "enqueued_ms",
        "expires_ns",
        "id",
        "msg_type",
        "owner",
        "payload",
        "reason",
        "state",
        "subscriber",
        "until_ns",
        "visible_ns",
    )

    def __init__(self, id_: str, channel: _Channel, msg_type: str, payload: str, enqueued_ms: int) -> None:
        self.id = id_
        self.channel = channel
        self.msg_type = msg_type
        self.payload = payload
        self.enqueued_ms = enqueued_ms
        self.deliveries = 0
        self.visible_ns = 0
        self.expires_ns = 0
        self.state = State.WAITING
        self.owner: object = None
        self.until_ns = 0
        self.subscriber: _Subscription | None = None
        self.begun = False
        self.reason = ""


class ChannelWaiter(Waiter):
    """A handler that waits for a message."""

    __slots__ = ("channel", "visibility_ns")

    def __init__(self, owner: object, deadline_ns: int, channel: _Channel, visibility_ns: int) -> None:
        super().__init__(owner, deadline_ns)
        self.channel = channel
        self.visibility_ns = visibility_ns


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    owner: object
    channel: _Channel
    deliver: Callable[[Delivery], None]


class _Channel:
    """One queue.

    Attributes:
        messages: by id, in the order they were sent.
        receivers: who waits, longest first; a subscription that is busy with a message is not among them.
        dedups: remembered ids, oldest first: the message that had it, and since when (wall clock).
    """

    __slots__ = ("dedups", "messages", "name", "receivers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.messages: dict[str, _Message] = {}
        self.receivers: dict[ChannelWaiter | _Subscription, None] = {}
        self.dedups: dict[str, tuple[str, int]] = {}

    def count(self, *states: State) -> int:
        return sum(message.state in states for message in self.messages.values())


class Channels:
    """All channels."""

    def __init__(self, clock: VirtualClock, limits: Mapping[str, float], quotas: Quotas) -> None:
        self._clock = clock
        self._limits = limits
        self._quotas = quotas
        self._channels: dict[str, _Channel] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._last_message = 0
        self._last_subscription = 0

    # -- sending ------------------------------------------------------------------------------------------

    def send(self, name: str, msg_type: str, payload: str, delay_ms: int, ttl_ms: int, dedup_id: str) -> str:
        """See the contract."""
        most = self._limits["payload_bytes_max"]
        if size_of(payload) > most:
            raise over("payload_bytes_max", most, f"the payload has {size_of(payload)} bytes")
        channel = self._channel(name)
        _check(_TYPE, "a message's type", msg_type, "at most 256")
        parse_json("the payload", payload)
        if dedup_id:
            _check(_NAME, "a dedup id", dedup_id, "1 to 256")
        check_between("delay-ms", delay_ms, 0, _DELAY_MS_MAX)
        check_between("ttl-ms", ttl_ms, 0, _DELAY_MS_MAX)
        if ttl_ms and delay_ms >= ttl_ms:
            raise contract_error(
                "invalid-argument",
                f"delay-ms = {delay_ms}, ttl-ms = {ttl_ms}: it would be dropped before it is visible",
            )
        self._forget_old_dedups(channel)
        if dedup_id in channel.dedups:
            return channel.dedups[dedup_id][0]
        self._check_depth(channel)
        forgotten = ""
        if dedup_id and len(channel.dedups) >= self._limits["channel_dedup_ids_max"]:
            forgotten = next(iter(channel.dedups))
        growth = size_of(payload) + _OVERHEAD_BYTES + _dedup_bytes(dedup_id)
        self._quotas.check_bytes(growth - _dedup_bytes(forgotten))
        self._last_message += 1
        now_ns = self._clock.elapsed_ns
        message = _Message(f"message-{self._last_message}", channel, msg_type, payload, self._clock.now_ms)
        if forgotten:
            self._forget_dedup(channel, forgotten)
        if dedup_id:
            channel.dedups[dedup_id] = (message.id, message.enqueued_ms)
        self._quotas.add_bytes(growth)
        channel.messages[message.id] = message
        if ttl_ms:
            message.expires_ns = now_ns + ttl_ms * NS_PER_MS
            self._clock.call_at(message.expires_ns, lambda: self._age(message))
        self._delay(message, delay_ms)
        self._serve(channel)
        return message.id

    def _delay(self, message: _Message, delay_ms: int) -> None:
        message.visible_ns = self._clock.elapsed_ns + delay_ms * NS_PER_MS
        if delay_ms:
            self._clock.call_at(message.visible_ns, lambda: self._serve(message.channel))

    # -- receiving ----------------------------------------------------------------------------------------

    def receive(self, name: str, owner: object, visibility_ms: int) -> Delivery | None:
        """Lease the oldest message that can be delivered."""
        channel, visibility_ns = self._channel(name), _visibility_ns(visibility_ms or _VISIBILITY_MS)
        message = self._first(channel)
        if message is None:
            return None
        return self._deliver(message, owner, self._clock.elapsed_ns + visibility_ns)

    def wait(self, name: str, owner: object, visibility_ms: int, deadline_ns: int) -> ChannelWaiter:
        """Wait for a message, in line."""
        channel = self._channel(name)
        waiter = ChannelWaiter(owner, deadline_ns, channel, _visibility_ns(visibility_ms or _VISIBILITY_MS))
        channel.receivers[waiter] = None
        return waiter

    def give_up(self, waiter: ChannelWaiter) -> None:
        """Wait no more."""
        waiter.channel.receivers.pop(waiter, None)

    def subscribe(self, name: str, owner: object, deliver: Callable[[Delivery], None]) -> str:
        """Get one message after the other, each when the one before is settled; the subscription's id."""
        channel, most = self._channel(name), self._limits["channel_subscriptions_per_actor_max"]
        if sum(each.owner is owner for each in self._subscriptions.values()) >= most:
            raise over("channel_subscriptions_per_actor_max", most, "the actor has as many subscriptions as it may")
        self._last_subscription += 1
        made = f"channel-subscription-{self._last_subscription}"
        subscription = self._subscriptions[made] = _Subscription(owner, channel, deliver)
        channel.receivers[subscription] = None
        self._serve(channel)
        return made

    def unsubscribe(self, subscription_id: str) -> None:
        """End a subscription; what it delivered is still its owner's."""
        subscription = self._subscriptions.pop(subscription_id, None)
        if subscription is not None:
            subscription.channel.receivers.pop(subscription, None)

    def _first(self, channel: _Channel) -> _Message | None:
        now_ns = self._clock.elapsed_ns
        waiting = (each for each in channel.messages.values() if each.state is State.WAITING)
        return next((each for each in waiting if each.visible_ns <= now_ns), None)

    def _serve(self, channel: _Channel) -> None:
        """Give what can be delivered to who waits, the oldest to whoever has waited longest."""
        while channel.receivers and (message := self._first(channel)) is not None:
            receiver = next(iter(channel.receivers))
            del channel.receivers[receiver]
            if isinstance(receiver, _Subscription):
                receiver.deliver(self._deliver(message, receiver.owner, 0, receiver))
            elif receiver.deadline_ns > self._clock.elapsed_ns:
                until_ns = self._clock.elapsed_ns + receiver.visibility_ns
                receiver.answer(self._deliver(message, receiver.owner, until_ns))

    def _deliver(
        self, message: _Message, owner: object, until_ns: int, subscriber: _Subscription | None = None
    ) -> Delivery:
        message.state = State.LEASED
        message.deliveries += 1
        message.owner = owner
        message.subscriber = subscriber
        message.begun = subscriber is None
        self._lease_until(message, until_ns)
        return Delivery(message.id, message.msg_type, message.payload, message.deliveries, message.enqueued_ms)

    def _lease_until(self, message: _Message, until_ns: int) -> None:
        message.until_ns = until_ns
        if until_ns:
            self._clock.call_at(until_ns, lambda: self._lease_over(message, until_ns))

    # -- settling -----------------------------------------------------------------------------------------

    def begin(self, name: str, message_id: str, owner: object) -> bool:
        """A pushed message is about to be handled: now its delivery counts.  False when it is not the owner's."""
        message = self._leased(name, message_id, owner)
        if message is None:
            return False
        message.begun = True
        return True

    def ack(self, name: str, message_id: str, owner: object) -> None:
        """See the contract."""
        message = self._held(name, message_id, owner)
        self._unlease(message)
        self._remove(message)
        self._serve(message.channel)

    def nack(
        self, name: str, message_id: str, owner: object, *, requeue: bool = True, delay_ms: int = 0, why: str = ""
    ) -> None:
        """See the contract; `why` is for whoever finds it among the dead letters."""
        check_between("delay-ms", delay_ms, 0, _DELAY_MS_MAX)
        message = self._held(name, message_id, owner)
        if requeue:
            self._give_back(message, delay_ms, why or "its consumers refused it")
        else:
            self._bury(message, why or "its consumer refused it for good")
        self._serve(message.channel)

    def extend(self, name: str, message_id: str, owner: object, visibility_ms: int) -> None:
        """See the contract."""
        visibility_ns = _visibility_ns(visibility_ms)
        self._lease_until(self._held(name, message_id, owner), self._clock.elapsed_ns + visibility_ns)

    def forget(self, owner: object) -> None:
        """The actor has ended: it waits for nothing, and what it had leased waits again at once."""
        for name in [name for name, each in self._subscriptions.items() if each.owner is owner]:
            self.unsubscribe(name)
        for channel in list(self._channels.values()):
            for receiver in [each for each in channel.receivers if each.owner is owner]:
                del channel.receivers[receiver]
            leased = [each for each in channel.messages.values() if each.owner is owner]
            for message in leased:
                self._give_back(message, 0, "its consumer ended while it had it")
            if leased:
                self._serve(channel)

    def _held(self, name: str, message_id: str, owner: object) -> _Message:
        message = self._leased(name, message_id, owner)
        if message is None:
            raise contract_error(
                "not-found",
                f"message {message_id[:80]!r} of channel {name[:80]!r} is not leased to this actor: it was settled, or "
                "its visibility has passed and it waits again or is another's",
                message_id=message_id[:80],
            )
        return message

    def _leased(self, name: str, message_id: str, owner: object) -> _Message | None:
        channel = self._channels.get(name)
        message = channel.messages.get(message_id) if channel is not None else None
        return message if message is not None and message.owner is owner else None

    def _lease_over(self, message: _Message, until_ns: int) -> None:
        if message.state is State.LEASED and message.until_ns == until_ns:
            self._give_back(message, 0, "its visibility passed without an ack")
            self._serve(message.channel)

    def _give_back(self, message: _Message, delay_ms: int, why: str) -> None:
        """End a lease without an ack: waiting, dead or, past its time, gone."""
        uncounted = 0 if message.begun else 1
        if 0 < message.expires_ns <= self._clock.elapsed_ns:
            self._unlease(message)
            self._remove(message)
        elif message.deliveries - uncounted >= self._limits["channel_deliveries_max"]:
            self._bury(message, f"delivered {message.deliveries} times; {why}")
        else:
            message.deliveries -= uncounted
            self._unlease(message)
            message.state = State.WAITING
            self._delay(message, delay_ms)

    def _bury(self, message: _Message, why: str) -> None:
        self._unlease(message)
        message.state = State.DEAD
        message.reason = why[:_REASON_CHARS_MAX]

    def _unlease(self, message: _Message) -> None:
        message.owner = None
        message.until_ns = 0
        subscriber, message.subscriber = message.subscriber, None
        if subscriber is not None and subscriber in self._subscriptions.values():
            message.channel.receivers[subscriber] = None

    def _age(self, message: _Message) -> None:
        if message.state is State.WAITING:
            self._remove(message)

    def _remove(self, message: _Message) -> None:
        if message.channel.messages.pop(message.id, None) is not None:
            self._quotas.add_bytes(-size_of(message.payload) - _OVERHEAD_BYTES)

    # -- looking ------------------------------------------------------------------------------------------

    def depth(self, name: str) -> int:
        """See the contract."""
        return self._channel(name).count(State.WAITING)

    def leased(self, name: str) -> int:
        """How many messages somebody has."""
        return self._channel(name).count(State.LEASED)

    def waiting(self, name: str) -> list[Any]:
        """The payloads that wait, in order."""
        messages = self._channel(name).messages.values()
        return [json.loads(each.payload) for each in messages if each.state is State.WAITING]

    def dead_letters(self, name: str) -> list[DeadLetter]:
        """Messages that are not delivered any more, oldest first."""
        return [
            DeadLetter(each.id, each.msg_type, json.loads(each.payload), each.deliveries, each.reason)
            for each in self._channel(name).messages.values()
            if each.state is State.DEAD
        ]

    def _channel(self, name: str) -> _Channel:
        _check(_NAME, "the name of a channel", name, "1 to 256")
        return self._channels.setdefault(name, _Channel(name))

    def _check_depth(self, channel: _Channel) -> None:
        most = self._limits["channel_messages_max"]
        if channel.count(State.WAITING, State.LEASED) >= most:
            raise over("channel_messages_max", most, f"channel {channel.name!r} holds as many messages as it may")

    def _forget_old_dedups(self, channel: _Channel) -> None:
        before_ms = self._clock.now_ms - int(self._limits["channel_dedup_age_s_max"] * 1_000)
        for dedup_id in [name for name, (_, sent_ms) in channel.dedups.items() if sent_ms <= before_ms]:
            self._forget_dedup(channel, dedup_id)

    def _forget_dedup(self, channel: _Channel, dedup_id: str) -> None:
        del channel.dedups[dedup_id]
        self._quotas.add_bytes(-_dedup_bytes(dedup_id))


def _check(pattern: re.Pattern[str], what: str, text: str, characters: str) -> None:
    if not pattern.fullmatch(text):
        raise contract_error(
            "invalid-argument",
            f"{what} has {characters} characters, none of them a control character: not {text[:80]!r}",
        )


def _visibility_ns(visibility_ms: int) -> int:
    check_between("visibility-ms", visibility_ms, 1, _VISIBILITY_MS_MAX)
    return visibility_ms * NS_PER_MS


def _dedup_bytes(dedup_id: str) -> int:
    return size_of(dedup_id) + _OVERHEAD_BYTES if dedup_id else 0
