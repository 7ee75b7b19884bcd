"""The test node's event streams: offsets, idempotency, retention, and the breaker with its events."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ._bindings.componentize_py_types import Err
from ._testing_base import NS_PER_MS, Quotas, VirtualClock, contract_error, over, page_size, parse_json, size_of

_NS: Final = 1_000_000_000
_PATH_BYTES_MAX: Final = 512
_EVENT_OVERHEAD_BYTES: Final = 64
_HEAD_OVERHEAD_BYTES: Final = 256
_EXCERPT_CHARS: Final = 512
_SWEEP_NS: Final = 60 * _NS
_OWN_TYPES: Final = frozenset({"paused", "resumed"})
_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")
_PATH: Final = re.compile(r"(?:/[^\x00-\x20/\x7f]{1,256}){1,16}")
_KEY: Final = re.compile(r"[^\x00-\x1f\x7f]{1,256}")


@dataclass(frozen=True, slots=True)
class Event:
    """One event; the payload is JSON text."""

    offset: int
    event_type: str
    payload: str
    time_ms: int

    @property
    def bytes(self) -> int:
        """What it counts for."""
        return size_of(self.payload) + len(self.event_type) + _EVENT_OVERHEAD_BYTES


class Flow(Enum):
    """Whether a stream takes appends; if not, whether the breaker or an operator has paused it."""

    FLOWING = "flowing"
    TRIPPED = "tripped"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class _Key:
    offset: int
    number: int
    time_ms: int


class _Stream:
    """One log.

    Attributes:
        next: the offset of the next event.
        keyed: how many appends had an idempotency key.
        level: of the breaker's bucket, which leaks as many events a second as it holds.
        attempt_ns: the last time somebody tried to append.
        refused: appends refused since it was paused.
    """

    __slots__ = (
        "attempt_ns",
        "events",
        "flow",
        "keyed",
        "keys",
        "level",
        "level_ns",
        "next",
        "path",
        "refused",
        "size",
    )

    def __init__(self, path: str, now_ns: int) -> None:
        self.path = path
        self.events: list[Event] = []
        # Of all of them.
        self.size = 0
        self.next = 1
        self.keys: dict[str, _Key] = {}
        self.keyed = 0
        self.flow = Flow.FLOWING
        self.level = 0.0
        self.level_ns = now_ns
        self.attempt_ns = now_ns
        self.refused = 0


class Streams:
    """All event streams."""

    def __init__(self, clock: VirtualClock, limits: Mapping[str, float], quotas: Quotas) -> None:
        self._clock = clock
        self._limits = limits
        self._quotas = quotas
        self._streams: dict[str, _Stream] = {}
        self._watchers: dict[str, dict[object, Callable[[], None]]] = {}

    # -- writing ------------------------------------------------------------------------------------------

    def append(self, path: str, event_type: str, payload: str, idempotency_key: str) -> int:
        """See the contract."""
        check_path(path)
        if idempotency_key and not _KEY.fullmatch(idempotency_key):
            raise contract_error(
                "invalid-argument", "an idempotency key has 1 to 256 characters, none of them a control character"
            )
        event_type, payload = self._judge(event_type, payload)
        stream = self._streams.get(path)
        is_new = stream is None
        if stream is None:
            most = self._limits["streams_per_tenant_max"]
            if len(self._streams) >= most:
                raise over("streams_per_tenant_max", most, "there are as many streams as there may be")
            stream = _Stream(path, self._clock.elapsed_ns)
        elif (known := self._remembered(stream, idempotency_key)) is not None:
            return known.offset
        self._admit(stream)
        event = Event(stream.next, event_type, payload, self._clock.now_ms)
        self._add(stream, event, is_new=is_new)
        if idempotency_key:
            stream.keyed += 1
            stream.keys.pop(idempotency_key, None)
            stream.keys[idempotency_key] = _Key(event.offset, stream.keyed, event.time_ms)
        self._streams[path] = stream
        self._tell(path)
        return event.offset

    def pause(self, path: str, by: str) -> bool:
        """Pause a stream until an operator resumes it; False when one has paused it already."""
        stream = self._existing(path)
        if stream.flow is Flow.HELD:
            return False
        self._change(stream, Flow.HELD, "paused", {"reason": "operator", "by": by})
        return True

    def resume(self, path: str, by: str) -> bool:
        """Let a paused stream go on; False when it was not paused."""
        stream = self._existing(path)
        if stream.flow is Flow.FLOWING:
            return False
        self._resume(stream, {"reason": "operator", "by": by})
        return True

    def _judge(self, event_type: str, payload: str) -> tuple[str, str]:
        """An append as it is kept: what is no event becomes one of type `error` that says what came."""
        size, most = size_of(payload), self._limits["stream_event_bytes_max"]
        if not _TYPE.fullmatch(event_type):
            reason, message = "bad-type", "a type is 1 to 128 letters, digits, '_', '.', ':', '/' or '-'"
        elif event_type in _OWN_TYPES:
            reason, message = "bad-type", f"events of type {event_type!r} are the node's own: choose another type"
        elif size > most:
            reason, message = "too-large", f"{size} bytes are more than stream_event_bytes_max = {most}"
        else:
            try:
                parse_json("the payload", payload)
            except Err as failure:
                reason, message = "not-json", failure.value.message
            else:
                return event_type, payload
        return "error", json.dumps(
            {
                "code": "invalid-event",
                "reason": reason,
                "message": message,
                "event_type": event_type[:128],
                "bytes": size,
                "excerpt": payload[:_EXCERPT_CHARS],
            }
        )

    def _remembered(self, stream: _Stream, key: str) -> _Key | None:
        known = stream.keys.get(key)
        if known is None or known.number <= stream.keyed - self._limits["stream_keys_max"]:
            return None
        return known if known.time_ms > self._clock.now_ms - self._limits["stream_key_age_s_max"] * 1_000 else None

    def _add(self, stream: _Stream, event: Event, *, is_new: bool = False, own: bool = False) -> None:
        """Add an event, and drop what has to go for it.

        Args:
            own: the node's: a full quota must not keep anybody from learning that a stream is paused.
        """
        first, size = self._outdated(stream, len(stream.events) + 1, stream.size + event.bytes, keep=1)
        head_bytes = size_of(stream.path) + _HEAD_OVERHEAD_BYTES if is_new else 0
        growth = head_bytes + size - stream.size
        if not own:
            self._quotas.check_bytes(growth)
        self._quotas.add_bytes(growth)
        del stream.events[:first]
        stream.events.append(event)
        stream.size = size
        stream.next = event.offset + 1
        self._plan_sweep(stream)

    def _outdated(self, stream: _Stream, count: int, size: int, *, keep: int) -> tuple[int, int]:
        """How many of the oldest events go when there are so many of such a size, and the size of the others; `keep` of
        the newest stay in any case."""
        cutoff_ms = self._clock.now_ms - int(self._limits["stream_age_s_max"] * 1_000)
        events, first = stream.events, 0
        while first < count - keep and (
            count - first > self._limits["stream_events_max"]
            or size > self._limits["stream_bytes_max"]
            or events[first].time_ms < cutoff_ms
        ):
            size -= events[first].bytes
            first += 1
        return first, size

    def _plan_sweep(self, stream: _Stream) -> None:
        if stream.events:
            age_ns = int(self._limits["stream_age_s_max"] * _NS)
            due_ns = self._clock.elapsed_ns - (self._clock.now_ms - stream.events[0].time_ms) * NS_PER_MS + age_ns
            self._clock.call_at(due_ns + _SWEEP_NS, lambda: self._sweep(stream))

    def _sweep(self, stream: _Stream) -> None:
        """Drop what is too old, and a stream that nobody has written to or follows."""
        if self._streams.get(stream.path) is not stream:
            return
        dropped, size = self._outdated(stream, len(stream.events), stream.size, keep=0)
        self._quotas.add_bytes(size - stream.size)
        del stream.events[:dropped]
        stream.size = size
        if not stream.events and stream.flow is Flow.FLOWING and not self._watchers.get(stream.path):
            self._quotas.add_bytes(-size_of(stream.path) - _HEAD_OVERHEAD_BYTES)
            del self._streams[stream.path]
        elif dropped:
            self._plan_sweep(stream)

    # -- the breaker --------------------------------------------------------------------------------------

    def _admit(self, stream: _Stream) -> None:
        """Refuse an append that the breaker or an operator does not let through."""
        now_ns, rate = self._clock.elapsed_ns, self._limits["stream_events_per_second_max"]
        self._resume_if_quiet(stream)
        stream.attempt_ns = now_ns
        if stream.flow is not Flow.FLOWING:
            stream.refused += 1
            self._watch_for_quiet(stream)
            raise self._paused(stream)
        level = max(0.0, stream.level - (now_ns - stream.level_ns) / _NS * rate)
        if level + 1 > rate:
            told = {
                "reason": "rate",
                "events_per_second_max": rate,
                "resumes_after_quiet_s": self._limits["stream_pause_s"],
            }
            self._change(stream, Flow.TRIPPED, "paused", told)
            stream.refused = 1
            self._watch_for_quiet(stream)
            raise self._paused(stream)
        stream.level, stream.level_ns = level + 1, now_ns

    def _watch_for_quiet(self, stream: _Stream) -> None:
        due_ns = stream.attempt_ns + int(self._limits["stream_pause_s"] * _NS)
        self._clock.call_at(due_ns, lambda: self._resume_if_quiet(stream))

    def _resume_if_quiet(self, stream: _Stream) -> None:
        quiet_ns = self._clock.elapsed_ns - stream.attempt_ns
        if stream.flow is Flow.TRIPPED and quiet_ns >= self._limits["stream_pause_s"] * _NS:
            self._resume(stream, {"reason": "quiet"})

    def _resume(self, stream: _Stream, told: dict[str, Any]) -> None:
        told["refused"], stream.refused = stream.refused, 0
        self._change(stream, Flow.FLOWING, "resumed", told)
        stream.level = 0.0

    def _change(self, stream: _Stream, flow: Flow, event_type: str, told: dict[str, Any]) -> None:
        stream.flow = flow
        self._add(stream, Event(stream.next, event_type, json.dumps(told), self._clock.now_ms), own=True)
        self._tell(stream.path)

    def _paused(self, stream: _Stream) -> Exception:
        pause_s = self._limits["stream_pause_s"]
        if stream.flow is Flow.HELD:
            return contract_error(
                "rate-limited",
                f"stream {stream.path!r} is paused by an operator",
                path=stream.path,
                reason="operator",
                retry_after_ms=60_000,
            )
        return contract_error(
            "rate-limited",
            f"stream {stream.path!r} is paused, because events came faster than stream_events_per_second_max: stop for "
            f"{pause_s:g} seconds",
            path=stream.path,
            reason="rate",
            retry_after_ms=int(pause_s * 1_000),
        )

    # -- reading ------------------------------------------------------------------------------------------

    def read(self, path: str, after: int, limit: int) -> list[Event]:
        """See the contract."""
        check_path(path)
        count = page_size(limit)
        stream = self._streams.get(path)
        return [] if stream is None else [each for each in stream.events if each.offset > after][:count]

    def events(self, path: str) -> list[Event]:
        """All that are kept."""
        check_path(path)
        stream = self._streams.get(path)
        return [] if stream is None else list(stream.events)

    def flow(self, path: str) -> Flow:
        """Whether it takes appends."""
        check_path(path)
        stream = self._streams.get(path)
        return Flow.FLOWING if stream is None else stream.flow

    def watch(self, path: str, notify: Callable[[], None]) -> Callable[[], None]:
        """Call `notify` whenever there are new events; returns what ends that."""
        check_path(path)
        token = object()
        self._watchers.setdefault(path, {})[token] = notify

        def end() -> None:
            self._watchers[path].pop(token, None)

        return end

    def _tell(self, path: str) -> None:
        for notify in list(self._watchers.get(path, {}).values()):
            notify()

    def _existing(self, path: str) -> _Stream:
        check_path(path)
        stream = self._streams.get(path)
        if stream is None:
            raise contract_error("not-found", f"there is no stream {path!r}: it begins with its first event", path=path)
        return stream


def check_path(path: str) -> None:
    """Refuse what is no path of a stream."""
    parts = path.split("/")
    if not _PATH.fullmatch(path) or size_of(path) > _PATH_BYTES_MAX or "." in parts or ".." in parts:
        raise contract_error(
            "invalid-argument",
            f"{path[:80]!r} is no stream's path: 1 to 16 parts, each a '/' and then printable characters without "
            f"spaces and not '.' or '..', such as /sessions/abc; at most {_PATH_BYTES_MAX} bytes",
        )
