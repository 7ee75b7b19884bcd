"""What an actor may ask of its node: messages, other actors, timers, time, chance, stores, the way out.

Calls block and suspend only the calling actor.  Payloads are Python values that travel as JSON.  A failure raises a
`HostError` with the contract's `code`; nothing answers with error text.
"""

# Which imports there are is known only when an actor runs, so what comes from them is Any to the type checker.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from . import _imports, _workflow
from ._calls import do as _do
from ._calls import failure as _failure
from ._dispatch import NO_REPLY, dump
from ._workflow import Signal
from .errors import (
    ActorExited,
    ActorNotFound,
    AlreadyExists,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    Deadlock,
    HandlerCrashed,
    HandlerRefused,
    HostError,
    Internal,
    InvalidArgument,
    LimitExceeded,
    MailboxFull,
    NotFound,
    PermissionDenied,
    RateLimited,
    Unavailable,
    WorkflowCancelled,
)

T = TypeVar("T")

__all__ = [
    "NO_REPLY",
    "ActorExited",
    "ActorNotFound",
    "AlreadyExists",
    "Cancelled",
    "Conflict",
    "DeadlineExceeded",
    "Deadlock",
    "HandlerCrashed",
    "HandlerRefused",
    "HostError",
    "HttpResponse",
    "HttpStream",
    "Internal",
    "InvalidArgument",
    "Lease",
    "LimitExceeded",
    "MailboxFull",
    "NotFound",
    "PermissionDenied",
    "RateLimited",
    "Signal",
    "Unavailable",
    "WorkflowCancelled",
    "ask",
    "ask_many",
    "blob_delete",
    "blob_get",
    "blob_list",
    "blob_put",
    "cancel_timer",
    "channel",
    "debug",
    "demonitor",
    "error",
    "forget_credential",
    "http_fetch",
    "http_stream",
    "info",
    "kv",
    "kv_cas",
    "kv_delete",
    "kv_get",
    "kv_increment",
    "kv_list",
    "kv_put",
    "link",
    "lock_acquire",
    "lock_release",
    "lock_renew",
    "log",
    "monitor",
    "now_ms",
    "process_groups",
    "random_bytes",
    "register_credential",
    "registry",
    "reply",
    "self_id",
    "send",
    "send_after",
    "send_interval",
    "sleep",
    "spawn",
    "spawn_monitor",
    "step",
    "stop",
    "stream",
    "tell",
    "trap_exit",
    "ts",
    "ts_read",
    "ts_take",
    "ts_write",
    "unlink",
    "warn",
    "workflow",
]

_BLOB_PART_BYTES: Final = 1 << 20
_BLOB_READS_MAX: Final = 5
_RANDOM_BYTES: Final = 65_536
_LIST_MAX: Final = 1_000
_LOCKS_REMEMBERED_MAX: Final = 1_000
_U32_MAX: Final = (1 << 32) - 1
_U64_MAX: Final = (1 << 64) - 1
_YEARS_10_MS: Final = 10 * 365 * 24 * 3_600 * 1_000


def _arguments(payload: Any) -> str:
    """The JSON object of a message.  Text is taken as JSON that is written already."""
    if payload is None:
        return "{}"
    if isinstance(payload, str):
        return payload
    return _value(payload)


def _value(value: Any) -> str:
    try:
        return dump(value)
    except TypeError as error:
        text = str(error).replace("the reply", "the payload")
        raise InvalidArgument(text) from None


def _whole(name: str, value: Any, most: int = _U64_MAX, least: int = 0) -> int:
    """A number as the contract has it; anything else could not cross the boundary, and would end the actor there."""
    if type(value) is not int or not least <= value <= most:
        raise InvalidArgument(f"{name}={value!r} is not possible: a whole number, {least} to {most}")
    return value


def _operation(op: Any, payload: Any) -> tuple[str, Any]:
    """`ask(to, {"op": "infer", ...})` carries the operation inside."""
    if isinstance(op, Mapping):
        for name in ("op", "action", "message_type", "msg_type"):
            if name in op:
                return str(op[name]), dict(op)
        raise InvalidArgument('the message names no operation: write ask(to, "operation", {...})')
    return op, payload


# -- messages ----------------------------------------------------------------------------------------------


def ask(to: str, op: Any, payload: Any = None, timeout_ms: int = 0) -> Any:
    """Send a message and wait for the reply.

    Args:
        to: `type` or `type/key`, in the caller's namespace.
        op: the operation.
        payload: its arguments by name.
        timeout_ms: milliseconds; 0 takes the node's default (30,000).  What is left of the caller's own deadline
            counts if it is less.

    Raises:
        HostError: `actor-not-found`, `mailbox-full`, `deadline-exceeded`, `deadlock`, `handler-refused`,
            `handler-crashed`, `actor-exited`, `limit-exceeded`.
    """
    op, payload = _operation(op, payload)
    return json.loads(_do(_imports.current.messaging.ask, to, op, _arguments(payload), timeout_ms))


def ask_many(
    requests: Iterable[tuple[str, str, Any]], timeout_ms: int = 0, *, return_errors: bool = False
) -> list[Any]:
    """Ask several actors at once and wait for all.

    Args:
        requests: at most 1,000 of `(to, op, payload)`.
        timeout_ms: milliseconds for all together; 0 takes the node's default.
        return_errors: put a `HostError` into the list where one failed, instead of raising the first.
    """
    messaging = _imports.current.messaging
    records = [messaging.Request(to, op, _arguments(payload)) for to, op, payload in requests]
    results: list[Any] = []
    for result in _do(messaging.ask_many, records, timeout_ms):
        if isinstance(result, _imports.current.Err):
            failure = _failure(result.value)
            if not return_errors:
                raise failure
            results.append(failure)
        else:
            results.append(json.loads(result.value))
    return results


def send(to: str, op: Any, payload: Any = None) -> str:
    """Send a message and go on; its id.  Suspends while the receiver's mailbox is full.

    Raises:
        HostError: `actor-not-found`, `mailbox-full` (after the caller's deadline), `limit-exceeded`.
    """
    op, payload = _operation(op, payload)
    return _do(_imports.current.messaging.send, to, op, _arguments(payload))


tell = send


def reply(message_id: str, payload: Any = None) -> None:
    """Answer an earlier call whose handler returned `NO_REPLY`.

    Args:
        message_id: `self.context.message_id` of that call.
        payload: the reply.

    Raises:
        NotFound: nobody waits any more.
    """
    _do(_imports.current.messaging.reply, message_id, _value(payload))


# -- life --------------------------------------------------------------------------------------------------


def self_id() -> str:
    """The caller's own name: `type` or `type/key`."""
    return _do(_imports.current.lifecycle.self_id)


def spawn(actor_type: str, key: str = "", args: Any = None, *, link: bool = False) -> str:
    """Start an actor under the caller's supervisor; its name.

    Args:
        actor_type: a deployed type, or a role of the caller's own component.
        key: "" makes the node choose one.
        args: for its init handler.
        link: tie its fate to the caller's.

    Raises:
        HostError: `actor-not-found`, `already-exists`, `limit-exceeded`, `permission-denied`, `handler-crashed`.
    """
    return _spawn(actor_type, key, args, link, False)[0]


def spawn_monitor(actor_type: str, key: str = "", args: Any = None, *, link: bool = False) -> tuple[str, str]:
    """Like `spawn`, and monitor it from its first moment; its name and the monitor's reference."""
    return _spawn(actor_type, key, args, link, True)


def _spawn(actor_type: str, key: str, args: Any, link: bool, monitor: bool) -> tuple[str, str]:
    lifecycle = _imports.current.lifecycle
    options = lifecycle.SpawnOptions(actor_type, key, _arguments(args), link, monitor)
    spawned = _do(lifecycle.spawn, options)
    return spawned.actor_id, spawned.monitor_ref


def stop(actor_id: str, reason: str = "shutdown") -> None:
    """Ask an actor to end.  It finishes the message it is handling.

    Args:
        reason: `normal` and `shutdown` are orderly; any other text counts as a crash.

    Raises:
        ActorNotFound
    """
    _do(_imports.current.lifecycle.stop, actor_id, reason)


def link(actor_id: str) -> None:
    """Tie two fates: when one ends other than normally, so does the other (or gets `EXIT`, if it traps exits).

    Linking to a dead actor is to hear of its end at once, with the reason `noproc`.

    Raises:
        LimitExceeded: `links_per_actor_max`, at either end.
    """
    _do(_imports.current.lifecycle.link, actor_id)


def unlink(actor_id: str) -> None:
    """Undo `link`.  No `EXIT` of that actor comes any more, not even one that waits already."""
    _do(_imports.current.lifecycle.unlink, actor_id)


def monitor(actor_id: str) -> str:
    """One `DOWN` message when it ends, at once if it is dead already; the reference.

    Raises:
        LimitExceeded: `monitors_per_actor_max`.
    """
    return _do(_imports.current.lifecycle.monitor, actor_id)


def demonitor(monitor_ref: str) -> None:
    """Undo `monitor`.  No `DOWN` of it comes any more, not even one that waits already."""
    _do(_imports.current.lifecycle.demonitor, monitor_ref)


def trap_exit(enabled: bool = True) -> bool:
    """Receive `EXIT` as messages instead of dying of them; the setting before."""
    return _do(_imports.current.lifecycle.trap_exit, enabled)


# -- time and chance ----------------------------------------------------------------------------------------


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(_imports.current.clock.now_ns()) // 1_000_000


def sleep(seconds: float) -> None:
    """Suspend this actor.  Its mailbox waits, the node goes on."""
    if seconds < 0:
        raise InvalidArgument("the length of a sleep must not be negative")
    _do(_imports.current.clock.sleep_ns, round(seconds * 1e9))


def random_bytes(count: int) -> bytes:
    """Cryptographically secure bytes, at most 65,536.

    Raises:
        LimitExceeded: more were asked for.
    """
    if not 0 <= count < 1 << 32:
        raise InvalidArgument(f"count={count} is not a number of bytes: use 0 to {_RANDOM_BYTES}")
    return bytes.fromhex(_do(_imports.current.random.random_hex, count))


def send_after(delay_ms: int, op: str, payload: Any = None) -> str:
    """One message to oneself after so many milliseconds, at most a year; the timer's id."""
    return _do(_imports.current.timers.send_after, delay_ms, op, _arguments(payload))


def send_interval(interval_ms: int, op: str, payload: Any = None) -> str:
    """A message to oneself every so many milliseconds; the timer's id.  While one waits, the next are skipped."""
    return _do(_imports.current.timers.send_interval, interval_ms, op, _arguments(payload))


def cancel_timer(timer_id: str) -> bool:
    """True when it was still pending: its message will not come, even if it waits in the mailbox."""
    return _do(_imports.current.timers.cancel, timer_id)


# -- the log -----------------------------------------------------------------------------------------------

_LEVELS: Final = {"debug": "DEBUG", "info": "INFO", "warn": "WARN", "warning": "WARN", "error": "ERROR"}


def log(level: str, message: object) -> None:
    """A line for the operator; `level`: debug, info, warn or error."""
    logging = _imports.current.logging
    try:
        chosen = logging.Level[_LEVELS[level.lower()]]
    except KeyError:
        raise InvalidArgument(f"{level!r} is not a level: use debug, info, warn or error") from None
    # A lone surrogate, as broken input gives, cannot cross the boundary.
    logging.log(chosen, str(message).encode("utf-8", "replace").decode("utf-8"))


def debug(message: object) -> None:
    """A line for whoever develops the actor."""
    log("debug", message)


def info(message: object) -> None:
    """A line for the operator: something happened."""
    log("info", message)


def warn(message: object) -> None:
    """A line for the operator: something may need attention."""
    log("warn", message)


def error(message: object) -> None:
    """A line for the operator: something failed."""
    log("error", message)


# -- key-value ---------------------------------------------------------------------------------------------


def kv_get(key: str, default: Any = None) -> Any:
    """The value of a key, or `default`.

    Args:
        key: 1 to 1,024 bytes.

    Raises:
        HostError: `invalid-argument`.
    """
    text = _do(_imports.current.keyvalue.get, key)
    return default if text is None else json.loads(text)


def kv_put(key: str, value: Any, ttl_ms: int | None = None) -> None:
    """Keep a value.

    Args:
        key: 1 to 1,024 bytes.
        value: anything that has a JSON form of at most `value_bytes_max` (1 MiB).
        ttl_ms: milliseconds until it is forgotten, up to ten years; `None` keeps it.

    Raises:
        HostError: `invalid-argument`, `limit-exceeded` (too large, or the tenant has as much as it may), `unavailable`.
    """
    if ttl_ms is not None:
        _whole("ttl_ms", ttl_ms)
    _do(_imports.current.keyvalue.put, key, _value(value), ttl_ms)


def kv_delete(key: str) -> bool:
    """Forget a value; True when there was one.

    Raises:
        HostError: `invalid-argument`, `unavailable`.
    """
    return _do(_imports.current.keyvalue.delete, key)


def kv_list(prefix: str = "", limit: int | None = None) -> list[str]:
    """Keys that begin with `prefix`, in ascending order.

    Args:
        limit: the first so many; `None` for all of them.

    Raises:
        HostError: `invalid-argument`.
    """
    keyvalue = _imports.current.keyvalue
    keys: list[str] = []
    cursor = ""
    left = _U64_MAX if limit is None else _whole("limit", limit)
    while left:
        page = _do(keyvalue.list_keys, prefix, cursor, min(_LIST_MAX, left))
        keys.extend(page.keys)
        left -= len(page.keys)
        cursor = page.cursor
        if not cursor:
            break
    return keys


def kv_cas(key: str, expected: Any, value: Any) -> bool:
    """Replace a value if it is still `expected`; True when it was replaced.  What is kept then has no time to live.

    Args:
        expected: `None` for absent.  Values are compared as JSON: the order of an object's names does not count.
        value: `None` deletes.

    Raises:
        HostError: as `kv_put`.
    """
    before = None if expected is None else _value(expected)
    after = None if value is None else _value(value)
    return _do(_imports.current.keyvalue.compare_and_set, key, before, after)


def kv_increment(key: str, delta: int = 1) -> int:
    """Add to a whole number of 64 bits; the new value.  Absent counts as 0, and a time to live goes on.

    Raises:
        HostError: `conflict` (the value is no whole number, or would leave the range), else as `kv_put`.
    """
    return _do(_imports.current.keyvalue.increment, key, _whole("delta", delta, (1 << 63) - 1, -(1 << 63)))


class _KeyValue:
    """The same under `host.kv`."""

    get = staticmethod(kv_get)
    put = staticmethod(kv_put)
    delete = staticmethod(kv_delete)
    list = staticmethod(kv_list)
    cas = staticmethod(kv_cas)
    increment = staticmethod(kv_increment)


kv: Final = _KeyValue()


# -- tuple space -------------------------------------------------------------------------------------------

_TYPE_NAMES: Final[dict[Any, str]] = {
    int: "int",
    float: "float",
    str: "str",
    bool: "bool",
    list: "list",
    dict: "dict",
    type(None): "null",
}


def _pattern(pattern: Sequence[Any]) -> str:
    return _value([{"$type": _TYPE_NAMES[item]} if isinstance(item, type) else item for item in pattern])


class _TupleSpace:
    """Linda's tuple space, one per namespace.

    A tuple is a list of 1 to 64 values.  A pattern is a list of the same length: `None` matches anything, a type
    (`int`, `float`, `str`, `bool`, `list`, `dict`, `type(None)`) matches its values, `ts.where(...)` compares, and
    anything else matches what is equal to it.  A text that is no JSON array cannot be given here; see `ts_write`.

    All raise a `HostError`: `invalid-argument`, `limit-exceeded`, and, where they change something, `unavailable`.
    """

    def write(self, fields: Sequence[Any], lease_ms: int | None = None) -> str:
        """Write a tuple; its id.

        Args:
            fields: at most `tuple_bytes_max` (64 KiB) as JSON.
            lease_ms: milliseconds until it is removed unless taken, up to ten years; `None` keeps it.

        Raises:
            HostError: also `mailbox-full`: an actor that is subscribed to such tuples does not keep up.
        """
        return ts_write(_value(list(fields)), lease_ms)

    def read(self, pattern: Sequence[Any], timeout_ms: int = 0) -> list[Any] | None:
        """A copy of the oldest match; `None` if there is none.

        Args:
            timeout_ms: milliseconds to wait for one; what is left of the caller's deadline counts if it is less.
        """
        return _optional(ts_read(_pattern(pattern), timeout_ms))

    def take(self, pattern: Sequence[Any], timeout_ms: int = 0) -> list[Any] | None:
        """The oldest match, removed; `None` if there is none.  No two takers get the same one.

        Args:
            timeout_ms: as for `read`.  Who has waited longest is first.
        """
        return _optional(ts_take(_pattern(pattern), timeout_ms))

    def read_all(self, pattern: Sequence[Any], limit: int = 0) -> list[list[Any]]:
        """Copies of the oldest `limit` matches (0: 100, at most 1,000)."""
        found = _do(_imports.current.tuplespace.read_all, _pattern(pattern), _whole("limit", limit, _U32_MAX))
        return [json.loads(text) for text in found]

    def take_all(self, pattern: Sequence[Any], limit: int = 0) -> list[list[Any]]:
        """The oldest `limit` matches (0: 100, at most 1,000), removed: all of them, or none if it fails."""
        found = _do(_imports.current.tuplespace.take_all, _pattern(pattern), _whole("limit", limit, _U32_MAX))
        return [json.loads(text) for text in found]

    def count(self, pattern: Sequence[Any]) -> int:
        """How many match."""
        return _do(_imports.current.tuplespace.count, _pattern(pattern))

    def subscribe(self, pattern: Sequence[Any], op: str) -> str:
        """Get each future match, taken at once or not, as a message `op` with `fields`; the subscription's id.

        It ends with `unsubscribe` or with this actor; one that is started again subscribes again.
        """
        return _do(_imports.current.tuplespace.subscribe, _pattern(pattern), op)

    def unsubscribe(self, subscription_id: str) -> bool:
        """End a subscription, and take back what waits in the mailbox; True when it was there."""
        return _do(_imports.current.tuplespace.unsubscribe, subscription_id)

    @staticmethod
    def where(comparison: str, value: Any) -> dict[str, Any]:
        """A field of a pattern that compares: `ts.where(">", 5)`, `ts.where("prefix", "svc:")`.

        Args:
            comparison: `<`, `<=`, `>`, `>=` (two numbers or two texts), `!=`, or `prefix` (texts).
        """
        return {"$pred": [comparison, value]}


def _optional(text: str | None) -> Any:
    return None if text is None else json.loads(text)


ts: Final = _TupleSpace()


def ts_write(fields: str, lease_ms: int | None = None) -> str:
    """Like `ts.write`, with a JSON array as text."""
    if lease_ms is not None:
        _whole("lease_ms", lease_ms)
    return _do(_imports.current.tuplespace.write, fields, lease_ms)


def ts_read(pattern: str, timeout_ms: int = 0) -> str | None:
    """Like `ts.read`, with JSON arrays as text."""
    return _do(_imports.current.tuplespace.read, pattern, _whole("timeout_ms", timeout_ms))


def ts_take(pattern: str, timeout_ms: int = 0) -> str | None:
    """Like `ts.take`, with JSON arrays as text."""
    return _do(_imports.current.tuplespace.take, pattern, _whole("timeout_ms", timeout_ms))


# -- channels ----------------------------------------------------------------------------------------------


class _Channel:
    """Durable queues: in order, at least once.  The first argument stands for a context; pass "" for the actor's own.

    A channel is 1 to 256 characters and need not be created.  All raise a `HostError`: `invalid-argument`,
    `limit-exceeded`, and, where they change something, `unavailable`.
    """

    def send(
        self,
        context: str,
        name: str,
        msg_type: str,
        payload: Any = None,
        *,
        delay_ms: int = 0,
        ttl_ms: int = 0,
        dedup_id: str = "",
    ) -> str:
        """Queue a message; its id.

        Args:
            msg_type: at most 256 characters, for the consumer.
            payload: its arguments; text is taken as JSON that is written already.
            delay_ms: milliseconds before anybody gets it, up to a year.
            ttl_ms: milliseconds until it is dropped if it still waits, up to a year; 0 keeps it.
            dedup_id: a second message of this id within the channel's memory (`channel_dedup_ids_max` ids,
                `channel_dedup_age_s_max` seconds) is not queued, and the first one's id returned; "" for none.
        """
        channels = _imports.current.channels
        options = channels.SendOptions(_whole("delay_ms", delay_ms), _whole("ttl_ms", ttl_ms), dedup_id)
        return _do(channels.send, name, msg_type, _arguments(payload), options)

    def receive(
        self, context: str, name: str, timeout_ms: int = 0, visibility_ms: int = 0
    ) -> tuple[dict[str, Any] | None, bool, str]:
        """The next message as `(message, True, "")`, or `(None, False, "")` when none came in time.

        A message has `id`, `msg_type`, `payload`, `deliveries` (1 for the first) and `enqueued_ms`.

        Args:
            timeout_ms: milliseconds to wait; what is left of the caller's deadline counts if it is less.
            visibility_ms: milliseconds until it is another's unless it is acknowledged, up to twelve hours; 0 takes
                30,000.
        """
        message = _do(
            _imports.current.channels.receive,
            name,
            _whole("timeout_ms", timeout_ms),
            _whole("visibility_ms", visibility_ms),
        )
        if message is None:
            return None, False, ""
        return (
            {
                "id": message.id,
                "msg_type": message.msg_type,
                "payload": json.loads(message.payload),
                "deliveries": message.deliveries,
                "enqueued_ms": message.enqueued_ms,
            },
            True,
            "",
        )

    def ack(self, context: str, name: str, message_id: str) -> None:
        """It is done, and gone.

        Raises:
            NotFound: it is not this actor's any more: it was settled, or its visibility has passed.
        """
        _do(_imports.current.channels.ack, name, message_id)

    def nack(self, context: str, name: str, message_id: str, requeue: bool = True, delay_ms: int = 0) -> None:
        """It is not done: back to its place in the queue, or, after `channel_deliveries_max` deliveries, a dead letter.

        Args:
            requeue: False makes it a dead letter at once.
            delay_ms: milliseconds before anybody gets it again, up to a year.

        Raises:
            NotFound: as `ack`.
        """
        _do(_imports.current.channels.nack, name, message_id, requeue, _whole("delay_ms", delay_ms))

    def extend(self, context: str, name: str, message_id: str, visibility_ms: int) -> None:
        """Keep it from others for so many milliseconds from now, up to twelve hours.

        Raises:
            NotFound: as `ack`.
        """
        _do(_imports.current.channels.extend, name, message_id, _whole("visibility_ms", visibility_ms))

    def depth(self, context: str, name: str) -> int:
        """How many wait, delayed ones included; those that somebody has do not count."""
        return _do(_imports.current.channels.depth, name)

    def subscribe(self, context: str, name: str, op: str) -> str:
        """Get each message as a call of `op`, one after the other; the subscription's id.

        Its arguments are `channel`, `id`, `msg_type`, `payload`, `deliveries` and `enqueued_ms`.  Returning is the ack;
        a refusal or a crash is the nack.  A handler that returns `NO_REPLY` acknowledges with its `reply`.
        It ends with `unsubscribe` or with this actor; one that is started again subscribes again.
        """
        return _do(_imports.current.channels.subscribe, name, op)

    def unsubscribe(self, subscription_id: str) -> bool:
        """End a subscription; a message that waits in the mailbox is another's then.  True when it was there."""
        return _do(_imports.current.channels.unsubscribe, subscription_id)


channel: Final = _Channel()


# -- process groups and registry ----------------------------------------------------------------------------


class _ProcessGroups:
    """Named sets of actors.  A member vanishes with its actor."""

    def join(self, group: str) -> None:
        """Joining twice is joining once."""
        _do(_imports.current.process_groups.join, group)

    def leave(self, group: str) -> None:
        """Leave; leaving a group one is not in is no error."""
        _do(_imports.current.process_groups.leave, group)

    def members(self, group: str) -> list[str]:
        """In the order they joined."""
        return list(_do(_imports.current.process_groups.members, group))

    def first(self, group: str) -> str | None:
        """The member that joined first and still lives."""
        return _do(_imports.current.process_groups.first, group)

    def broadcast(self, group: str, op: str, payload: Any = None) -> int:
        """Send to every member but the caller; how many took it.  Full ones are left out, and nobody waits."""
        return _do(_imports.current.process_groups.broadcast, group, op, _arguments(payload))


process_groups: Final = _ProcessGroups()


class _Registry:
    """Finding actors by what they are."""

    def find(self, actor_type: str = "", capability: str = "", label: str = "", limit: int = 0) -> list[dict[str, Any]]:
        """Living actors that match all given fields: `actor_id`, `actor_type`, `labels`.

        Args:
            capability: an interface that the actor may call.
            label: `name` or `name=value`.
            limit: at most so many, up to 1,000; 0 takes 100.
        """
        interface = _imports.current.registry
        entries = _do(interface.find, interface.Query(actor_type, capability, label, limit))
        return [
            {"actor_id": entry.actor_id, "actor_type": entry.actor_type, "labels": json.loads(entry.labels)}
            for entry in entries
        ]

    def set_label(self, name: str, value: str) -> None:
        """Label the caller; "" removes the label."""
        _do(_imports.current.registry.set_label, name, value)


registry: Final = _Registry()


# -- locks -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lease:
    """A lock that is held until `expires_ms`; `fencing_token` grows with every holder."""

    name: str
    lock_id: str
    fencing_token: int
    expires_ms: int


# The published release and renew name a lock by its id alone; the contract wants the name as well.
_names_of_locks: dict[str, str] = {}


def lock_acquire(name: str, *args: Any, ttl_ms: int = 30_000, wait_ms: int = 0) -> Lease | None:
    """Take a lock; `None` while another holds it.  A lock ends with its time, not with the actor that took it.

    `lock_acquire(name, ttl_ms, wait_ms)`, or as published: `lock_acquire(tenant, namespace, holder, name, lease_secs,
    timeout_ms)`, of which tenant, namespace and holder are the actor's own in any case.

    Args:
        name: 1 to 256 bytes, one namespace wide.
        ttl_ms: how long it holds without renewal, in milliseconds, up to a day.
        wait_ms: how long to wait for it, in milliseconds, up to a day; what is left of the caller's deadline counts if
            it is less.  Who has waited longest is first.

    Raises:
        HostError: `invalid-argument`, `limit-exceeded`, `unavailable`.
    """
    if len(args) == 5:
        name, ttl_ms, wait_ms = args[2], round(args[3] * 1000), args[4]
    elif len(args) <= 2:
        ttl_ms = args[0] if args else ttl_ms
        wait_ms = args[1] if len(args) > 1 else wait_ms
    else:
        raise InvalidArgument("lock_acquire takes (name, ttl_ms, wait_ms) or the six arguments of the published form")
    lease = _do(_imports.current.locks.acquire, name, _whole("ttl_ms", ttl_ms), _whole("wait_ms", wait_ms))
    if lease is None:
        return None
    _names_of_locks[lease.lock_id] = name
    if len(_names_of_locks) > _LOCKS_REMEMBERED_MAX:
        # Most are never released by their id alone, and many just run out.
        del _names_of_locks[next(iter(_names_of_locks))]
    return Lease(name, lease.lock_id, lease.fencing_token, lease.expires_ms)


def _held(lock: Any, args: tuple[Any, ...]) -> tuple[str, str]:
    if isinstance(lock, Lease):
        return lock.name, lock.lock_id
    if lock in _names_of_locks:
        return _names_of_locks[lock], lock
    if args and isinstance(args[0], str):
        return lock, args[0]
    raise NotFound(f"this actor holds no lock {lock!r}: pass what lock_acquire returned", code="not-found")


def lock_renew(lock: Any, *args: Any, ttl_ms: int = 30_000) -> Lease:
    """Hold a lock for another `ttl_ms` milliseconds from now.

    Args:
        lock: what `lock_acquire` returned; or `name, lock_id, ttl_ms`; or the published six arguments.
        ttl_ms: up to a day.

    Raises:
        HostError: `conflict` (it was lost in between), `not-found` (no lock of this actor has such an id),
            `invalid-argument`, `unavailable`.
    """
    name, lock_id = _held(lock, args)
    if len(args) == 5:
        ttl_ms = round(args[4] * 1000)
    elif args and isinstance(args[-1], int):
        ttl_ms = args[-1]
    lease = _do(_imports.current.locks.renew, name, lock_id, _whole("ttl_ms", ttl_ms))
    return Lease(name, lease.lock_id, lease.fencing_token, lease.expires_ms)


def lock_release(lock: Any, *args: Any) -> bool:
    """Give a lock back; False when it was lost already.

    Args:
        lock: what `lock_acquire` returned; or `name, lock_id`; or the published five arguments.

    Raises:
        HostError: `not-found` (no lock of this actor has such an id), `unavailable`.
    """
    name, lock_id = _held(lock, args)
    _names_of_locks.pop(lock_id, None)
    return _do(_imports.current.locks.release, name, lock_id)


# -- blobs -------------------------------------------------------------------------------------------------


def _blob_info(record: Any) -> dict[str, Any]:
    return {
        "name": record.name,
        "size_bytes": record.size_bytes,
        "content_type": record.content_type,
        "sha256": record.sha256,
        "modified_ms": record.modified_ms,
    }


def blob_put(name: str, data: bytes | str, content_type: str = "application/octet-stream") -> dict[str, Any]:
    """Keep bytes under a name, one namespace wide; `name`, `size_bytes`, `content_type`, `sha256`, `modified_ms`.

    Args:
        name: 1 to 512 bytes in parts separated by `/`, none of them empty, `.` or `..`.
        data: at most 1 MiB; larger blobs come over HTTP.  Text is kept as UTF-8.

    Raises:
        HostError: `invalid-argument`, `limit-exceeded`, `unavailable`.
    """
    raw = data.encode() if isinstance(data, str) else bytes(data)
    return _blob_info(_do(_imports.current.blobs.put, name, base64.b64encode(raw).decode("ascii"), content_type))


def blob_get(name: str) -> bytes | None:
    """The bytes of a name, or `None`; those of one moment, however many they are.

    Raises:
        HostError: `invalid-argument`, `conflict` (somebody replaces it faster than it can be read).
    """
    blobs = _imports.current.blobs

    def part(offset: int) -> bytes | None:
        text = _do(blobs.get_range, name, offset, _BLOB_PART_BYTES)
        return None if text is None else base64.b64decode(text)

    first = part(0)
    if first is None or len(first) < _BLOB_PART_BYTES:
        return first
    for _ in range(_BLOB_READS_MAX):
        stat = _do(blobs.stat, name)
        if stat is None:
            return None
        parts = [part(offset) or b"" for offset in range(0, stat.size_bytes, _BLOB_PART_BYTES)]
        after = _do(blobs.stat, name)
        if after is not None and _blob_info(after) == _blob_info(stat):
            return b"".join(parts)
    raise Conflict(f"blob {name!r} is being replaced faster than it can be read: try again later")


def blob_delete(name: str) -> bool:
    """True when there was something to delete.

    Raises:
        HostError: `invalid-argument`, `unavailable`.
    """
    return _do(_imports.current.blobs.delete, name)


def blob_list(prefix: str = "", limit: int | None = None) -> list[dict[str, Any]]:
    """What is known of the blobs whose name begins with `prefix`, by name, as `blob_put` returns it.

    Args:
        limit: the first so many; `None` for all of them.
    """
    found: list[dict[str, Any]] = []
    left = _U64_MAX if limit is None else _whole("limit", limit)
    while left:
        count = min(_LIST_MAX, left)
        page = _do(_imports.current.blobs.list_blobs, prefix, found[-1]["name"] if found else "", count)
        found.extend(map(_blob_info, page))
        left -= len(page)
        if len(page) < count:
            break
    return found


# -- event streams -----------------------------------------------------------------------------------------


class _Stream:
    """Append-only logs under paths such as `/sessions/abc`, one namespace wide.

    All raise a `HostError`: `invalid-argument`, and, where said, others.
    """

    def append(self, path: str, event_type: str, payload: Any = None, idempotency_key: str = "") -> int:
        """Append an event; its offset, from 1.  What is no event becomes one of type `error` that says what came.

        Args:
            event_type: 1 to 128 letters, digits, `_`, `.`, `:`, `/` or `-`.
            payload: at most `stream_event_bytes_max` (256 KiB); text is taken as JSON that is written already.
            idempotency_key: a second append with the same one returns the first's offset; "" for none.

        Raises:
            HostError: `rate-limited` (the stream is paused; `retry_after_ms`), `limit-exceeded`, `unavailable`.
        """
        return _do(_imports.current.streams.append, path, event_type, _arguments(payload), idempotency_key)

    def read(self, path: str, after: int = 0, limit: int = 0) -> list[dict[str, Any]]:
        """Events after an offset, oldest first: `offset`, `event_type`, `payload`, `time_ms`.

        Args:
            after: 0 for the oldest that is kept.
            limit: at most so many; 0 takes 100, the most is 1,000.
        """
        return [
            {
                "offset": event.offset,
                "event_type": event.event_type,
                "payload": json.loads(event.payload),
                "time_ms": event.time_ms,
            }
            for event in _do(
                _imports.current.streams.read, path, _whole("after", after), _whole("limit", limit, _U32_MAX)
            )
        ]

    def subscribe(self, path: str, op: str, after: int = 0) -> str:
        """Get each event after `after`, old and new ones, as a message `op`; the subscription's id.

        Its arguments are `path`, `offset`, `event_type`, `payload` and `time_ms`; at most one waits in the mailbox.
        It ends with `unsubscribe` or with this actor; one that is started again subscribes again.

        Raises:
            HostError: `limit-exceeded`.
        """
        return _do(_imports.current.streams.subscribe, path, _whole("after", after), op)

    def unsubscribe(self, subscription_id: str) -> bool:
        """End a subscription, and take back what waits in the mailbox; True when it was there."""
        return _do(_imports.current.streams.unsubscribe, subscription_id)


stream: Final = _Stream()


# -- the way out -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer from outside.

    Attributes:
        headers: the names are in lower case.
        body: as text; of bytes that are no UTF-8, with U+FFFD for what cannot be read: see `content`.
        content: the bytes.
    """

    status: int
    headers: dict[str, str]
    body: str
    binary: bytes | None = None

    @property
    def text(self) -> str:
        """The same as `body`."""
        return self.body

    @property
    def content(self) -> bytes:
        """The body's bytes."""
        return self.body.encode() if self.binary is None else self.binary

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is none.
        """
        return json.loads(self.body)

    @property
    def ok(self) -> bool:
        """The status is 2xx."""
        return 200 <= self.status < 300


class HttpStream:
    """An answer that is read piece by piece, each a text: iterate over it, inside `with`.

    Reading may raise what `http_fetch` may, and `unavailable` when a durable actor was restarted in between: the pieces
    it has read are given to it again, the rest is lost.
    """

    def __init__(self, status: int, headers: dict[str, str], stream_id: str) -> None:
        self.status = status
        self.headers = headers
        self._id = stream_id
        self._open = True

    def __enter__(self) -> HttpStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        while self._open:
            chunk = _do(_imports.current.http.read_chunk, self._id)
            if chunk is None:
                self._open = False
                return
            yield chunk

    def close(self) -> None:
        """Stop reading."""
        if self._open:
            self._open = False
            _do(_imports.current.http.close, self._id)


def _request(
    link: str, method: str, path: str, body: Any, headers: Mapping[str, str] | None, timeout_ms: int
) -> Any:
    sent = dict(headers or {})
    binary = isinstance(body, bytes | bytearray | memoryview)
    if body is None:
        text = ""
    elif isinstance(body, str):
        text = body
    elif binary:
        text = base64.b64encode(body).decode()
    else:
        text = _value(body)
        if not any(name.lower() == "content-type" for name in sent):
            sent["content-type"] = "application/json"
    try:
        written = json.dumps(sent)
        for each in (link, method, path, text):
            each.encode()
    except (TypeError, ValueError, AttributeError) as error:
        # It could not cross the boundary, and would end the actor there.
        raise InvalidArgument(f"this cannot be sent: {error}") from None
    return _imports.current.http.Request(
        link, method.upper(), path, written, text, binary, _whole("timeout_ms", timeout_ms)
    )


def http_fetch(
    link: str,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    timeout_ms: int = 0,
) -> HttpResponse:
    """A request through a service link.

    Args:
        link: its name in the configuration; a guest never names a host.
        path: below the link's base URL, with its query.
        body: text and bytes as they are; anything else as JSON.
        headers: beside those that the link sends.
        timeout_ms: milliseconds for everything; 0 takes the link's, which is also the most.

    Returns:
        The whole answer, whatever its status.

    Raises:
        HostError: `not-found` (no such link), `permission-denied` (the link's rules, or the actor's capabilities, do
            not allow it), `invalid-argument`, `deadline-exceeded`, `rate-limited`, `limit-exceeded` (too large),
            `unavailable` (no connection, a broken answer, or the link rests after failures).
    """
    response = _do(_imports.current.http.fetch, _request(link, method, path, body, headers, timeout_ms))
    answered = json.loads(response.headers or "{}")
    if not response.body_base64:
        return HttpResponse(response.status, answered, response.body)
    binary = base64.b64decode(response.body)
    return HttpResponse(response.status, answered, binary.decode("utf-8", "replace"), binary)


def http_stream(
    link: str,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    timeout_ms: int = 0,
) -> HttpStream:
    """Like `http_fetch`, with a body that is read piece by piece: `with host.http_stream(...) as answer: ...`."""
    response = _do(_imports.current.http.fetch_stream, _request(link, method, path, body, headers, timeout_ms))
    return HttpStream(response.status, json.loads(response.headers or "{}"), response.body)


def register_credential(phantom_token: str, credential: str, links: Iterable[str]) -> str:
    """Give a credential into the node's vault, and let a token stand for it in requests.

    From then on a request through one of these links may hold the token where the link allows it (in the headers
    `Authorization` and `X-Api-Key` unless it says otherwise), and leaves with the credential.  Where an answer holds
    the credential, the token stands in its place.  Nobody can read the credential back.

    Args:
        phantom_token: 8 to 256 letters, digits, `_`, `.`, `~` or `-`, as nothing else is called; "" lets the node
            choose.  One that was registered before stands for the new credential from now on.  All actors of the
            namespace may use it.
        credential: best the token that an argument annotated `Secret` came as; or the value itself, 8 bytes to 64 KiB.
        links: names of the links that it may leave through.

    Returns:
        The token.

    Raises:
        HostError: `not-found` (no such link), `permission-denied` (a link is not for this actor), `invalid-argument`,
            `limit-exceeded`.
    """
    return _do(_imports.current.http.register_credential, phantom_token, credential, list(links))


def forget_credential(phantom_token: str) -> bool:
    """Take a credential out of the node's vault; True when there was one."""
    return _do(_imports.current.http.forget_credential, phantom_token)


# -- workflows ---------------------------------------------------------------------------------------------


def step(
    name: str,
    function: Callable[[], T],
    *,
    retries_max: int = 0,
    backoff_s: float = 1.0,
    timeout_s: float | None = None,
    compensate: Callable[..., Any] | None = None,
) -> T:
    """Run a step of a workflow once: its result is recorded and comes from the record ever after.

    Args:
        name: unique within the run.
        function: does the work; its result must have a JSON form.  A `Refuse` is final, whatever else it raises is
            tried again.
        retries_max: how often it is tried again.
        backoff_s: seconds before the first retry; twice as long before each next one, at most an hour.
        timeout_s: seconds for one attempt.  What it waits for ends with them, and an attempt that took longer has
            failed, even if it then returns.
        compensate: undoes the step if the run is cancelled or fails later; takes the step's result, or nothing.  Those
            of all finished steps are called in reverse order, each as a step with the retries and time limit of its
            own.

    Raises:
        WorkflowCancelled: before or after the step.
        InvalidArgument: outside of a workflow's run, within another step, or with the name of another step.
        Exception: what the last attempt raised.
    """
    run = _workflow.current()
    if run is None:
        raise InvalidArgument("steps belong to a workflow: call host.step in the @run_handler of a @workflow_actor")
    if not isinstance(retries_max, int) or not 0 <= retries_max <= 1_000_000:
        raise InvalidArgument(f"retries_max={retries_max!r} is not possible: a whole number, 0 to 1,000,000")
    # A limit is at least a millisecond: 0 would set none.
    timeout_ms = 0 if timeout_s is None else max(1, _milliseconds("timeout_s", timeout_s))
    policy = _workflow.Policy(retries_max, _milliseconds("backoff_s", backoff_s), timeout_ms)
    undo = None if compensate is None else _workflow.undoing(compensate)
    result: T = run.step(name, function, policy, undo, _value)
    return result


class _Workflow:
    """Durable steps, sleeps, promises and signals of a workflow's run."""

    step = staticmethod(step)

    def sleep(self, seconds: float) -> None:
        """Sleep that survives restarts, for days if need be; at most ten years.

        Raises:
            WorkflowCancelled
        """
        _wait(_imports.current.workflow.sleep_ms, _milliseconds("seconds", seconds))

    def promise(self, name: str = "") -> str:
        """A promise that somebody else resolves; its id, to be given to whoever that is.

        Args:
            name: for people: what it is about.

        Raises:
            LimitExceeded
        """
        return _do(_imports.current.workflow.promise_create, name)

    def wait(self, promise_id: str, timeout_ms: int = 0) -> Any:
        """The promise's value, once somebody has resolved it.

        Args:
            promise_id: of a promise of this namespace.
            timeout_ms: milliseconds; 0 waits as long as it takes.

        Raises:
            DeadlineExceeded, NotFound
            WorkflowCancelled
        """
        return json.loads(_wait(_imports.current.workflow.promise_await, promise_id, _whole("timeout_ms", timeout_ms)))

    def resolve(self, promise_id: str, value: Any = None) -> None:
        """Resolve a promise of this namespace, anybody's.

        Raises:
            NotFound
            Conflict: it has another value already.
        """
        _do(_imports.current.workflow.promise_resolve, promise_id, _value(value))

    def next_signal(self, timeout_ms: int | None = 0) -> Signal | None:
        """The next signal, or `None` when none has come in time.  If it has a handler, that has been called.

        Args:
            timeout_ms: milliseconds to wait for one; `None` waits as long as it takes.

        Raises:
            WorkflowCancelled
            InvalidArgument: outside of a workflow's run, or within a step.
        """
        run = _workflow.current()
        if run is None:
            raise InvalidArgument("only the run of a workflow waits for signals; elsewhere they come to their handlers")
        return run.next_signal(_YEARS_10_MS if timeout_ms is None else _whole("timeout_ms", timeout_ms))

    def cancelled(self) -> bool:
        """True once somebody has asked for this run to be cancelled."""
        return _do(_imports.current.workflow.cancelled)


workflow: Final = _Workflow()


def _wait(function: Callable[..., Any], *args: Any) -> Any:
    run = _workflow.current()
    return _do(function, *args) if run is None else run.wait(function, *args)


def _milliseconds(name: str, seconds: Any) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds * 1_000 <= _YEARS_10_MS:
        raise InvalidArgument(f"{name}={seconds!r} is not possible: seconds, 0 to ten years of them")
    return round(seconds * 1_000)
