"""What the test node's stores share: a clock in the test's hand, limits, and refusals as the contract writes them.

The stores beside this module are an implementation of their own, small and in memory, of what the node does on disk;
one suite runs against both.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from ._bindings.componentize_py_types import Err
from ._bindings.wit_world.imports import types

NS_PER_MS: Final = 1_000_000
LIST_DEFAULT: Final = 100
LIST_MAX: Final = 1_000

# The node's defaults.
LIMITS: Final[Mapping[str, float]] = {
    "payload_bytes_max": 1 << 20,
    "links_per_actor_max": 10_000,
    "monitors_per_actor_max": 10_000,
    "timers_per_actor_max": 10_000,
    "groups_per_actor_max": 1_000,
    "labels_per_actor_max": 64,
    "stored_bytes_per_tenant_max": 10 << 30,
    "value_bytes_max": 1 << 20,
    "keys_per_tenant_max": 1_000_000,
    "tuples_per_tenant_max": 1_000_000,
    "tuple_bytes_max": 64 << 10,
    "tuples_examined_max": 100_000,
    "tuple_subscriptions_per_actor_max": 100,
    "tuple_matches_waiting_max": 1_000,
    "channel_messages_max": 100_000,
    "channel_deliveries_max": 5,
    "channel_dedup_ids_max": 10_000,
    "channel_dedup_age_s_max": 3_600.0,
    "channel_subscriptions_per_actor_max": 100,
    "blob_bytes_max": 256 << 20,
    "blobs_per_tenant_max": 100_000,
    "streams_per_tenant_max": 100_000,
    "stream_event_bytes_max": 256 << 10,
    "stream_events_max": 10_000,
    "stream_bytes_max": 64 << 20,
    "stream_age_s_max": 2_592_000.0,
    "stream_events_per_second_max": 100,
    "stream_pause_s": 10.0,
    "stream_keys_max": 1_000,
    "stream_key_age_s_max": 86_400.0,
    "stream_subscriptions_per_actor_max": 100,
    "http_streams_per_actor_max": 16,
    "signals_waiting_max": 1_000,
    "promises_per_tenant_max": 100_000,
}


def contract_error(code: str, message: str, /, **details: Any) -> Exception:
    """A refusal as a host function gives it."""
    return Err(types.Error(types.ErrorCode[code.upper().replace("-", "_")], message, json.dumps(details)))


def over(limit: str, value: float, message: str, **details: Any) -> Exception:
    """`limit-exceeded`, naming the limit."""
    return contract_error("limit-exceeded", f"{message}: see {limit}", limit=limit, value=value, **details)


class VirtualClock:
    """Time that stands still until somebody moves it, and what is to happen when.

    Args:
        start_ms: wall clock at the beginning, milliseconds since 1970.

    Attributes:
        elapsed_ns: since the beginning; the monotonic clock.
    """

    def __init__(self, start_ms: int) -> None:
        self._start_ns = start_ms * NS_PER_MS
        self.elapsed_ns = 0
        self._alarms: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    @property
    def now_ns(self) -> int:
        """The wall clock, nanoseconds since 1970."""
        return self._start_ns + self.elapsed_ns

    @property
    def now_ms(self) -> int:
        """The wall clock, milliseconds since 1970."""
        return self.now_ns // NS_PER_MS

    def call_at(self, due_ns: int, action: Callable[[], None]) -> None:
        """Do something at a time of the monotonic clock.  It finds out for itself whether it is still wanted."""
        heapq.heappush(self._alarms, (due_ns, next(self._numbers), action))

    def call_at_ms(self, due_ms: int, action: Callable[[], None]) -> None:
        """The same, at a time of the wall clock."""
        self.call_at(due_ms * NS_PER_MS - self._start_ns, action)

    def next_due_ns(self) -> int | None:
        """When the next thing is to happen."""
        return self._alarms[0][0] if self._alarms else None

    def pass_until(self, end_ns: int) -> None:
        """Let time pass; what becomes due happens at its own time and in its order."""
        while self._alarms and self._alarms[0][0] <= end_ns:
            due_ns, _, action = heapq.heappop(self._alarms)
            self.elapsed_ns = max(self.elapsed_ns, due_ns)
            action()
        self.elapsed_ns = max(self.elapsed_ns, end_ns)


class Quotas:
    """What is stored, by the name of the limit on it."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        self._limits = limits
        self._used: dict[str, int] = {}

    def check(self, limit: str, growth: int = 1) -> None:
        """Do nothing if there may be so much more."""
        used, most = self._used.get(limit, 0), self._limits[limit]
        if growth > 0 and used + growth > most:
            raise over(limit, most, f"{used} are stored, and {growth} more would be too much", used=used)

    def add(self, limit: str, growth: int = 1) -> None:
        """Count so much more, or less."""
        used = self._used.get(limit, 0) + growth
        assert used >= 0, limit
        self._used[limit] = used

    def check_bytes(self, growth: int) -> None:
        """`check` of the bytes of all stores."""
        self.check("stored_bytes_per_tenant_max", growth)

    def add_bytes(self, growth: int) -> None:
        """`add` of the same."""
        self.add("stored_bytes_per_tenant_max", growth)


class Waiter:
    """A handler that waits for something in a store.

    Attributes:
        owner: the actor.
        deadline_ns: until when, on the monotonic clock.
        outcome: what it got, once `done`.
    """

    __slots__ = ("deadline_ns", "done", "outcome", "owner")

    def __init__(self, owner: object, deadline_ns: int) -> None:
        self.owner = owner
        self.deadline_ns = deadline_ns
        self.done = False
        self.outcome: Any = None

    def answer(self, outcome: Any) -> None:
        """It need not wait any more."""
        self.done = True
        self.outcome = outcome


def size_of(text: str) -> int:
    """Bytes of UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _whole(text: str) -> int:
    _fraction(text)
    return int(text)


def _fraction(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decode: Final = json.JSONDecoder(parse_float=_fraction, parse_constant=_constant).decode
_decode_strictly: Final = json.JSONDecoder(parse_int=_whole, parse_float=_fraction, parse_constant=_constant).decode


def parse_json(what: str, text: str, *, any_number: bool = False) -> Any:
    """A value from JSON text, as strictly as the node reads it: NaN and an infinite number are no JSON.

    Args:
        what: for the message: "the value".
        any_number: whole numbers of any length, and halves of surrogate pairs, as tuples may hold them.

    Raises:
        Err: `invalid-argument`.
    """
    try:
        if any_number:
            return _decode(text)
        value = _decode_strictly(text)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "it nests too deep" if isinstance(error, RecursionError) else str(error)
        raise contract_error("invalid-argument", f"{what} is not JSON: {reason}") from None
    return value


def check_text(what: str, text: str, bytes_max: int = 256) -> None:
    """Refuse a name that is empty or longer than such may be."""
    if not 1 <= size_of(text) <= bytes_max:
        raise contract_error("invalid-argument", f"{what} has 1 to {bytes_max} bytes, not {size_of(text)}")


def page_size(limit: int) -> int:
    """How many a list may give."""
    if limit > LIST_MAX:
        raise contract_error("invalid-argument", f"limit = {limit} is too much: at most {LIST_MAX} at once")
    return limit or LIST_DEFAULT


def check_between(what: str, value: int, low: int, high: int) -> None:
    """Refuse a number of milliseconds that makes no sense."""
    if not low <= value <= high:
        raise contract_error("invalid-argument", f"{what} = {value}: {low} to {high} milliseconds")
