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

from . import _imports
from ._dispatch import NO_REPLY, dump
from .errors import (
    HOST_ERRORS,
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
    "Unavailable",
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
_RANDOM_BYTES: Final = 65_536


def _failure(error: Any) -> HostError:
    """The exception for one of the contract's error records."""
    code = error.code.name.lower().replace("_", "-")
    try:
        details = json.loads(error.details) if error.details else {}
    except ValueError:
        details = {"text": error.details}
    return HOST_ERRORS.get(code, HostError)(error.message, code=code, details=details)


def _do(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except _imports.current.Err as failure:
        raise _failure(failure.value) from None


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
    """The value of a key, or `default`."""
    text = _do(_imports.current.keyvalue.get, key)
    return default if text is None else json.loads(text)


def kv_put(key: str, value: Any, ttl_ms: int | None = None) -> None:
    """Keep a value, for `ttl_ms` milliseconds or for good."""
    _do(_imports.current.keyvalue.put, key, _value(value), ttl_ms)


def kv_delete(key: str) -> bool:
    """True when there was something to delete."""
    return _do(_imports.current.keyvalue.delete, key)


def kv_list(prefix: str = "", limit: int | None = None) -> list[str]:
    """Keys that begin with `prefix`, in ascending order; all of them, or the first `limit`."""
    keyvalue = _imports.current.keyvalue
    keys: list[str] = []
    cursor = ""
    while limit is None or len(keys) < limit:
        page = _do(keyvalue.list_keys, prefix, cursor, 1000 if limit is None else min(1000, limit - len(keys)))
        keys.extend(page.keys)
        cursor = page.cursor
        if not cursor:
            break
    return keys


def kv_cas(key: str, expected: Any, value: Any) -> bool:
    """Replace only if the value is still `expected`; `None` stands for absent, in both.  True when it was replaced."""
    before = None if expected is None else _value(expected)
    after = None if value is None else _value(value)
    return _do(_imports.current.keyvalue.compare_and_set, key, before, after)


def kv_increment(key: str, delta: int = 1) -> int:
    """Add to a whole number (absent counts as 0); the new value.

    Raises:
        Conflict: the value is not a whole number.
    """
    return _do(_imports.current.keyvalue.increment, key, delta)


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
    """Linda's tuple space.  Patterns are lists: `None` matches anything, `int` any whole number, and so on."""

    def write(self, fields: Sequence[Any], lease_ms: int | None = None) -> str:
        """Write a tuple; its id."""
        return _do(_imports.current.tuplespace.write, _value(list(fields)), lease_ms)

    def read(self, pattern: Sequence[Any], timeout_ms: int = 0) -> list[Any] | None:
        """A copy of the oldest match, waiting up to `timeout_ms`; `None` if there is none."""
        return _optional(_do(_imports.current.tuplespace.read, _pattern(pattern), timeout_ms))

    def take(self, pattern: Sequence[Any], timeout_ms: int = 0) -> list[Any] | None:
        """The oldest match, removed."""
        return _optional(_do(_imports.current.tuplespace.take, _pattern(pattern), timeout_ms))

    def read_all(self, pattern: Sequence[Any], limit: int = 0) -> list[list[Any]]:
        """Copies of up to `limit` matches (0: 100)."""
        return [json.loads(text) for text in _do(_imports.current.tuplespace.read_all, _pattern(pattern), limit)]

    def take_all(self, pattern: Sequence[Any], limit: int = 0) -> list[list[Any]]:
        """Up to `limit` matches (0: 100), removed."""
        return [json.loads(text) for text in _do(_imports.current.tuplespace.take_all, _pattern(pattern), limit)]

    def count(self, pattern: Sequence[Any]) -> int:
        """How many match."""
        return _do(_imports.current.tuplespace.count, _pattern(pattern))

    def subscribe(self, pattern: Sequence[Any], op: str) -> str:
        """Get each future match as a message `op`; the subscription's id."""
        return _do(_imports.current.tuplespace.subscribe, _pattern(pattern), op)

    def unsubscribe(self, subscription_id: str) -> bool:
        """True when it was there."""
        return _do(_imports.current.tuplespace.unsubscribe, subscription_id)

    @staticmethod
    def where(comparison: str, value: Any) -> dict[str, Any]:
        """A field of a pattern that compares: `ts.where(">", 5)`, `ts.where("prefix", "svc:")`."""
        return {"$pred": [comparison, value]}


def _optional(text: str | None) -> Any:
    return None if text is None else json.loads(text)


ts: Final = _TupleSpace()


def ts_write(fields: str, lease_ms: int | None = None) -> str:
    """Like `ts.write`, with a JSON array as text."""
    return _do(_imports.current.tuplespace.write, fields, lease_ms)


def ts_read(pattern: str, timeout_ms: int = 0) -> str | None:
    """Like `ts.read`, with JSON arrays as text."""
    return _do(_imports.current.tuplespace.read, pattern, timeout_ms)


def ts_take(pattern: str, timeout_ms: int = 0) -> str | None:
    """Like `ts.take`, with JSON arrays as text."""
    return _do(_imports.current.tuplespace.take, pattern, timeout_ms)


# -- channels ----------------------------------------------------------------------------------------------


class _Channel:
    """Durable queues.  The first argument stands for a context; pass "" for the actor's own namespace."""

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
        """Queue a message; its id."""
        channels = _imports.current.channels
        options = channels.SendOptions(delay_ms, ttl_ms, dedup_id)
        return _do(channels.send, name, msg_type, _arguments(payload), options)

    def receive(
        self, context: str, name: str, timeout_ms: int = 0, visibility_ms: int = 0
    ) -> tuple[dict[str, Any] | None, bool, str]:
        """The next message as `(message, True, "")`, or `(None, False, "")` when none came in time."""
        message = _do(_imports.current.channels.receive, name, timeout_ms, visibility_ms)
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
        """It is done."""
        _do(_imports.current.channels.ack, name, message_id)

    def nack(self, context: str, name: str, message_id: str, requeue: bool = True, delay_ms: int = 0) -> None:
        """It is not done: back into the queue, or to the dead letters."""
        _do(_imports.current.channels.nack, name, message_id, requeue, delay_ms)

    def extend(self, context: str, name: str, message_id: str, visibility_ms: int) -> None:
        """Keep it hidden from others for so many milliseconds from now."""
        _do(_imports.current.channels.extend, name, message_id, visibility_ms)

    def depth(self, context: str, name: str) -> int:
        """How many wait."""
        return _do(_imports.current.channels.depth, name)

    def subscribe(self, context: str, name: str, op: str) -> str:
        """Get each message as a message `op`; returning acknowledges it, crashing does not."""
        return _do(_imports.current.channels.subscribe, name, op)

    def unsubscribe(self, subscription_id: str) -> bool:
        """True when it was there."""
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
    """Take a lock; `None` when another holds it.

    `lock_acquire(name, ttl_ms, wait_ms)`, or as published: `lock_acquire(tenant, namespace, holder, name, lease_secs,
    timeout_ms)`, of which tenant, namespace and holder are the actor's own in any case.

    Args:
        ttl_ms: how long it holds without renewal, in milliseconds.
        wait_ms: how long to wait for it, in milliseconds.
    """
    if len(args) == 5:
        name, ttl_ms, wait_ms = args[2], round(args[3] * 1000), args[4]
    elif len(args) <= 2:
        ttl_ms = args[0] if args else ttl_ms
        wait_ms = args[1] if len(args) > 1 else wait_ms
    else:
        raise InvalidArgument("lock_acquire takes (name, ttl_ms, wait_ms) or the six arguments of the published form")
    lease = _do(_imports.current.locks.acquire, name, ttl_ms, wait_ms)
    if lease is None:
        return None
    _names_of_locks[lease.lock_id] = name
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

    Raises:
        Conflict: it was lost in between.
    """
    name, lock_id = _held(lock, args)
    if len(args) == 5:
        ttl_ms = round(args[4] * 1000)
    elif args and isinstance(args[-1], int):
        ttl_ms = args[-1]
    lease = _do(_imports.current.locks.renew, name, lock_id, ttl_ms)
    return Lease(name, lease.lock_id, lease.fencing_token, lease.expires_ms)


def lock_release(lock: Any, *args: Any) -> bool:
    """Give a lock back; False when it was lost already.

    Args:
        lock: what `lock_acquire` returned; or `name, lock_id`; or the published five arguments.
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
    """Keep bytes (or text, as UTF-8) under a name; what is known of them then."""
    raw = data.encode() if isinstance(data, str) else bytes(data)
    return _blob_info(_do(_imports.current.blobs.put, name, base64.b64encode(raw).decode("ascii"), content_type))


def blob_get(name: str) -> bytes | None:
    """The bytes of a name, or `None`."""
    blobs = _imports.current.blobs
    stat = _do(blobs.stat, name)
    if stat is None:
        return None
    parts: list[bytes] = []
    offset = 0
    while offset < stat.size_bytes:
        part = _do(blobs.get_range, name, offset, _BLOB_PART_BYTES)
        if not part:
            break
        parts.append(base64.b64decode(part))
        offset += len(parts[-1])
    return b"".join(parts)


def blob_delete(name: str) -> bool:
    """True when there was something to delete."""
    return _do(_imports.current.blobs.delete, name)


def blob_list(prefix: str = "", limit: int = 0) -> list[dict[str, Any]]:
    """Blobs whose name begins with `prefix`."""
    return [_blob_info(record) for record in _do(_imports.current.blobs.list_blobs, prefix, "", limit)]


# -- event streams -----------------------------------------------------------------------------------------


class _Stream:
    """Append-only logs under paths such as `/sessions/abc`."""

    def append(self, path: str, event_type: str, payload: Any = None, idempotency_key: str = "") -> int:
        """Append an event; its offset."""
        return _do(
            _imports.current.streams.append, path, event_type, _arguments(payload), idempotency_key
        )

    def read(self, path: str, after: int = 0, limit: int = 0) -> list[dict[str, Any]]:
        """Up to `limit` events (0: 100) after offset `after`."""
        return [
            {
                "offset": event.offset,
                "event_type": event.event_type,
                "payload": json.loads(event.payload),
                "time_ms": event.time_ms,
            }
            for event in _do(_imports.current.streams.read, path, after, limit)
        ]

    def subscribe(self, path: str, op: str, after: int = 0) -> str:
        """Get each event after `after` as a message `op`; the subscription's id."""
        return _do(_imports.current.streams.subscribe, path, after, op)

    def unsubscribe(self, subscription_id: str) -> bool:
        """True when it was there."""
        return _do(_imports.current.streams.unsubscribe, subscription_id)


stream: Final = _Stream()


# -- the way out -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer from outside; the names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: str

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def ok(self) -> bool:
        """The status is 2xx."""
        return 200 <= self.status < 300


class HttpStream:
    """An answer that is read piece by piece: iterate over it, inside `with`."""

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
    if body is None:
        text = ""
    elif isinstance(body, str):
        text = body
    else:
        text = _value(body)
        if not any(name.lower() == "content-type" for name in sent):
            sent["content-type"] = "application/json"
    return _imports.current.http.Request(link, method.upper(), path, json.dumps(sent), text, timeout_ms)


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
        body: text as it is; anything else as JSON.
        timeout_ms: milliseconds; 0 takes the link's.

    Raises:
        HostError: `not-found` (no such link), `permission-denied`, `deadline-exceeded`, `rate-limited`, `unavailable`.
    """
    response = _do(_imports.current.http.fetch, _request(link, method, path, body, headers, timeout_ms))
    return HttpResponse(response.status, json.loads(response.headers or "{}"), response.body)


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


# -- workflows ---------------------------------------------------------------------------------------------


def step(
    name: str, function: Callable[[], T], *, retries_max: int = 0, backoff_ms: int = 1000, timeout_ms: int = 0
) -> T:
    """Run a step of a workflow once: its result is recorded and comes from the record ever after.

    Args:
        name: unique within the run.
        function: does the work; its result must have a JSON form.
        retries_max: how often it is tried again when it raises.
        backoff_ms: milliseconds before the first retry; the node lengthens it.
        timeout_ms: milliseconds for one attempt; 0 sets no limit.
    """
    interface = _imports.current.workflow
    options = json.dumps({"retries_max": retries_max, "backoff_ms": backoff_ms, "timeout_ms": timeout_ms})
    recorded = _do(interface.step_begin, name, options)
    if recorded is not None:
        return json.loads(recorded)
    while True:
        try:
            result = function()
        except Exception as failed:  # whatever the author's step raises decides whether it is tried again
            wait_ms = _do(interface.step_failed, name, f"{type(failed).__name__}: {failed}"[:1000])
            if wait_ms is None:
                raise
            _do(interface.sleep_ms, wait_ms)
            continue
        text = _value(result)
        _do(interface.step_succeeded, name, text)
        # What the record will give, also the first time: a tuple is a list from the beginning.
        return json.loads(text)


class _Workflow:
    """Durable sleeps, promises and signals of a workflow's run."""

    step = staticmethod(step)

    def sleep(self, seconds: float) -> None:
        """Sleep that survives restarts, for days if need be."""
        _do(_imports.current.workflow.sleep_ms, round(seconds * 1000))

    def promise(self, name: str = "") -> str:
        """A promise that somebody else resolves; its id."""
        return _do(_imports.current.workflow.promise_create, name)

    def wait(self, promise_id: str, timeout_ms: int = 0) -> Any:
        """The promise's value, once somebody has resolved it."""
        return json.loads(_do(_imports.current.workflow.promise_await, promise_id, timeout_ms))

    def resolve(self, promise_id: str, value: Any = None) -> None:
        """Resolve a promise."""
        _do(_imports.current.workflow.promise_resolve, promise_id, _value(value))

    def next_signal(self, timeout_ms: int = 0) -> Any:
        """The next signal, or `None`; each is given once."""
        return _optional(_do(_imports.current.workflow.next_signal, timeout_ms))

    def cancelled(self) -> bool:
        """True when somebody has asked for this run to be cancelled."""
        return _do(_imports.current.workflow.cancelled)


workflow: Final = _Workflow()
