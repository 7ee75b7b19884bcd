"""Scheduled appends: events that a stream gets later, by itself, also after a restart.

An append that is due is written first and the schedule's row second; between the two stands nothing but the stream's
memory for idempotency keys: the key is the schedule and the time that was due, so that a crash between them, or a disk
that refuses the second, appends nothing twice.

What came due while the node was down, or while its clock was set forward, is appended once, however often it was due.
What the stream refuses, because it is paused or the tenant's quota is full, is left out, with an event of the node;
only an append that is due but once is tried again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from ..clock import Clock
from ..config import Limits
from ..errors import BusyError, InvalidArgument, LimitExceeded, Unavailable
from ..events import EventBus, ScheduledAppendRefused
from ..ids import Ids
from ..scope import Scope
from . import schedule
from .schedule import Once, Timing
from .streams import Streams, check_path, judge

if TYPE_CHECKING:
    from .database import Database

_RETRY_MS: Final = 5_000
_RETRY_ONCE_MS: Final = 60_000
# The wall clock may be set: so long it takes at most until that is noticed.
_ALARM_S_MAX: Final = 60.0
_NS_PER_MS: Final = 1_000_000

SCHEMA: Final[tuple[str, ...]] = (
    """CREATE TABLE stream_schedules (
        tenant TEXT NOT NULL, namespace TEXT NOT NULL, id TEXT NOT NULL, path TEXT NOT NULL,
        event_type TEXT NOT NULL, payload TEXT NOT NULL, timing TEXT NOT NULL, next_ms INTEGER NOT NULL,
        PRIMARY KEY (tenant, namespace, id)) WITHOUT ROWID""",
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """One scheduled append.

    Attributes:
        next_ms: when it is due next, Unix milliseconds.
    """

    scope: Scope
    id: str
    path: str
    event_type: str
    payload: str
    timing: Timing
    next_ms: int


class ScheduleTable(Protocol):
    """Where schedules are kept."""

    def rows(self) -> Iterable[Schedule]:
        """Every one there is, at the start."""

    def put(self, row: Schedule) -> None:
        """Write one over the one of its id.

        Raises:
            Unavailable, LimitExceeded
        """

    def delete(self, row: Schedule) -> None:
        """Remove one; see `put`."""


class SqliteSchedules:
    """On the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rows(self) -> Iterable[Schedule]:
        for tenant, namespace, id_, path, event_type, payload, timing, next_ms in self._database.read(
            "SELECT tenant, namespace, id, path, event_type, payload, timing, next_ms FROM stream_schedules", ()
        ):
            yield Schedule(Scope(tenant, namespace), id_, path, event_type, payload, schedule.parse(timing), next_ms)

    def put(self, row: Schedule) -> None:
        where = (row.scope.tenant, row.scope.namespace, row.id)
        values = (row.path, row.event_type, row.payload, row.timing.text, row.next_ms)
        self._database.stream.write(
            [("INSERT OR REPLACE INTO stream_schedules VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*where, *values))]
        )

    def delete(self, row: Schedule) -> None:
        where = (row.scope.tenant, row.scope.namespace, row.id)
        self._database.stream.write(
            [("DELETE FROM stream_schedules WHERE tenant = ? AND namespace = ? AND id = ?", where)]
        )


class MemorySchedules:
    """In memory, for simulations."""

    def __init__(self) -> None:
        self._rows: dict[tuple[Scope, str], Schedule] = {}

    def rows(self) -> Iterable[Schedule]:
        return list(self._rows.values())

    def put(self, row: Schedule) -> None:
        self._rows[row.scope, row.id] = row

    def delete(self, row: Schedule) -> None:
        del self._rows[row.scope, row.id]


class Schedules:
    """All scheduled appends of a node.

    Args:
        table: where they are kept.
        streams: where their events go.
        clock: its wall clock counts.
        ids: for their ids.
        events: hears of appends that were refused.
        limits: how many.
        set_alarm: called with a number of seconds: `ring` must be called after so long.  A later call replaces an
            earlier one; None: not at all.
    """

    def __init__(
        self,
        table: ScheduleTable,
        streams: Streams,
        *,
        clock: Clock,
        ids: Ids,
        events: EventBus,
        limits: Limits,
        set_alarm: Callable[[float | None], None],
    ) -> None:
        self._table = table
        self._streams = streams
        self._clock = clock
        self._ids = ids
        self._events = events
        self._limits = limits
        self._set_alarm = set_alarm
        self._schedules: dict[Scope, dict[str, Schedule]] = {}
        self._count: dict[str, int] = {}
        # When to look at which; one that was removed stays until its time.
        self._heap: list[tuple[int, int, Schedule]] = []
        self._pushed = 0

    def load(self) -> None:
        """Read what there is.  Once, after the streams were loaded; what is overdue comes with the first alarm."""
        for each in self._table.rows():
            self._keep(each)
            self._push(each.next_ms, each)
        self._arm()

    def add(self, scope: Scope, path: str, event_type: str, payload: str, timing: Timing) -> Schedule:
        """Append this event whenever it is due.

        Raises:
            InvalidArgument: no path, no event, or never due.
            LimitExceeded: the tenant has as many as it may.
            Unavailable: the disk refuses.
        """
        check_path(path)
        _, text, reason = judge(event_type, payload, self._limits.stream_event_bytes_max)
        if reason:
            raise InvalidArgument(f"this would be no event ({reason}): give a type and JSON that a stream takes")
        schedules_max = self._limits.schedules_per_tenant_max
        if self._count.get(scope.tenant, 0) >= schedules_max:
            raise LimitExceeded(
                f"the tenant has {schedules_max} scheduled appends, as many as it may: remove some, or raise "
                "schedules_per_tenant_max",
                limit="schedules_per_tenant_max",
                value=schedules_max,
            )
        next_ms = timing.next_ms(self._now_ms())
        if next_ms is None:
            raise InvalidArgument("this is never due: its time has passed")
        made = Schedule(scope, self._ids.next("schedule"), path, event_type, text, timing, next_ms)
        self._table.put(made)
        self._keep(made)
        self._push(next_ms, made)
        self._arm()
        return made

    def remove(self, scope: Scope, schedule_id: str) -> bool:
        """End a schedule; False when there is none of this id.

        Raises:
            Unavailable
        """
        found = self._schedules.get(scope, {}).get(schedule_id)
        if found is None:
            return False
        self._table.delete(found)
        self._drop(found)
        return True

    def list_schedules(self, scope: Scope) -> list[Schedule]:
        """The schedules of a namespace, by id."""
        return sorted(self._schedules.get(scope, {}).values(), key=lambda each: (each.path, each.id))

    def ring(self) -> None:
        """The alarm: append what is due."""
        now_ms = self._now_ms()
        while self._heap and self._heap[0][0] <= now_ms:
            _, _, due = heapq.heappop(self._heap)
            if self._schedules.get(due.scope, {}).get(due.id) is due:
                again_ms, left = self._append(due, now_ms)
                if left is not None:
                    self._push(again_ms, left)
        self._arm()

    def _append(self, due: Schedule, now_ms: int) -> tuple[int, Schedule | None]:
        """When to look again, and at what."""
        try:
            self._streams.append_due(due.scope, due.path, due.event_type, due.payload, due.id, due.next_ms)
        except Unavailable as error:
            self._refused(due, error, retried=True)
            return now_ms + _RETRY_MS, due
        except BusyError as error:
            is_once = isinstance(due.timing, Once)
            self._refused(due, error, retried=is_once)
            if is_once:
                return now_ms + _RETRY_ONCE_MS, due
        next_ms = due.timing.next_ms(now_ms)
        try:
            if next_ms is None:
                self._table.delete(due)
                self._drop(due)
                return 0, None
            after = replace(due, next_ms=next_ms)
            self._table.put(after)
        except BusyError:
            return now_ms + _RETRY_MS, due
        self._schedules[due.scope][due.id] = after
        return next_ms, after

    def _refused(self, due: Schedule, error: BusyError, *, retried: bool) -> None:
        self._events.emit(ScheduledAppendRefused(due.scope, due.path, due.id, error.code, error.message, retried))

    def _keep(self, made: Schedule) -> None:
        self._schedules.setdefault(made.scope, {})[made.id] = made
        self._count[made.scope.tenant] = self._count.get(made.scope.tenant, 0) + 1

    def _drop(self, gone: Schedule) -> None:
        del self._schedules[gone.scope][gone.id]
        self._count[gone.scope.tenant] -= 1

    def _push(self, look_ms: int, each: Schedule) -> None:
        self._pushed += 1
        heapq.heappush(self._heap, (look_ms, self._pushed, each))

    def _arm(self) -> None:
        if not self._heap:
            self._set_alarm(None)
            return
        wait_s = (self._heap[0][0] - self._now_ms()) / 1_000
        self._set_alarm(min(max(0.0, wait_s), _ALARM_S_MAX))

    def _now_ms(self) -> int:
        return self._clock.now_ns() // _NS_PER_MS
