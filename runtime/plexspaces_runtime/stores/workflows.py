"""Runs of workflows: which there are, how far they are, how they ended, and the signals that wait for them.

An actor has one run.  It is `running` from the moment it is accepted until its outcome is known, and its outcome stays
until the run is forgotten, so that whoever starts it again is told instead.  The rows are written in the same turn of
the loop as the journal's entries about the same thing, so after a crash the two agree.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from ..clock import Clock
from ..config import Limits
from ..errors import Conflict, DeadlineExceeded, InvalidArgument, LimitExceeded, NotFound
from ..scope import Address, Scope
from .quotas import Quota, Quotas

if TYPE_CHECKING:
    from .database import Database

LIST_MAX: Final = 1_000
STEP_NAME_BYTES_MAX: Final = 256
SIGNAL_NAME_BYTES_MAX: Final = 256
REASON_CHARS_MAX: Final = 1_000
BACKOFF_MS_MAX: Final = 3_600_000
OVERHEAD_BYTES: Final = 300
_NS_PER_MS: Final = 1_000_000
_OPTION_MAX: Final = 10 * 365 * 24 * 3_600 * 1_000

SCHEMA: Final[tuple[str, ...]] = (
    """CREATE TABLE workflows (
        tenant TEXT NOT NULL, namespace TEXT NOT NULL, actor TEXT NOT NULL,
        run_id TEXT NOT NULL, status TEXT NOT NULL, payload TEXT NOT NULL, started_ms INTEGER NOT NULL,
        ended_ms INTEGER NOT NULL, outcome TEXT NOT NULL, cancel TEXT, cancel_told INTEGER NOT NULL,
        step TEXT NOT NULL, attempt INTEGER NOT NULL, trying INTEGER NOT NULL, options TEXT NOT NULL,
        due_ms INTEGER NOT NULL, steps_done INTEGER NOT NULL,
        PRIMARY KEY (tenant, namespace, actor)) WITHOUT ROWID""",
    """CREATE TABLE signals (
        tenant TEXT NOT NULL, namespace TEXT NOT NULL, actor TEXT NOT NULL, number INTEGER NOT NULL,
        id TEXT NOT NULL, name TEXT NOT NULL, payload TEXT NOT NULL, sender TEXT NOT NULL, context TEXT NOT NULL,
        sent_ms INTEGER NOT NULL,
        PRIMARY KEY (tenant, namespace, actor, number)) WITHOUT ROWID""",
)


class Status(Enum):
    """Of a run."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """A run as it is stored.

    Attributes:
        run_id: the id of the message that started it.
        payload: its arguments, JSON text.
        started_ms, ended_ms: wall clock; 0 while it has not ended.
        outcome: JSON text: the result, or an object of `code`, `message` and `details`; "" while it has not ended.
        cancel: why it is to be cancelled; None if nobody has asked.
        cancel_told: the run has been told.
        step: the one under way, "" between steps.
        attempt: at that step, from 1 on.
        trying: the attempt is under way, and not the wait before the next one.
        options: of the step, JSON text.
        due_ms: wall clock at which the attempt has taken too long, or the next one may begin; 0 for never.
        steps_done: how many have succeeded.
    """

    address: Address
    run_id: str
    payload: str
    started_ms: int
    status: Status = Status.RUNNING
    ended_ms: int = 0
    outcome: str = ""
    cancel: str | None = None
    cancel_told: bool = False
    step: str = ""
    attempt: int = 0
    trying: bool = False
    options: str = "{}"
    due_ms: int = 0
    steps_done: int = 0

    @property
    def running(self) -> bool:
        """It has not ended."""
        return self.status is Status.RUNNING


@dataclass(frozen=True, slots=True)
class SignalRow:
    """A signal that waits for a run.

    Attributes:
        number: its place in the line.
        id: of the message.
        payload: a JSON object as text.
        sender: an actor's name, "" from outside.
        context: JSON text, as in the WIT's envelope.
    """

    number: int
    id: str
    name: str
    payload: str
    sender: str
    context: str
    sent_ms: int

    def text(self) -> str:
        """As a run gets it."""
        # Spliced, not parsed and printed: a number of any length stays what it was.
        head = orjson.dumps({"id": self.id, "name": self.name, "sender": self.sender, "context": self.context}).decode()
        return f'{head[:-1]},"payload":{self.payload or "{}"}}}'


class WorkflowTable(Protocol):
    """Where runs and signals are kept.  Every method may raise `Unavailable` or `LimitExceeded`: nothing was done."""

    def runs(self) -> Iterable[WorkflowRun]:
        """Every run there is, at the start."""

    def signals(self) -> Iterable[tuple[Address, SignalRow]]:
        """Every signal there is, at the start, those of an actor in order."""

    def put(self, run: WorkflowRun) -> None:
        """Store a run."""

    def remove(self, address: Address) -> None:
        """Forget a run and its signals."""

    def put_signal(self, address: Address, signal: SignalRow) -> None:
        """Store a signal."""

    def remove_signal(self, address: Address, number: int) -> None:
        """Forget a signal."""


class _Kept:
    """A run, and what waits for it."""

    __slots__ = ("bytes", "next_signal", "run", "signals")

    def __init__(self, run: WorkflowRun) -> None:
        self.run = run
        self.signals: deque[SignalRow] = deque()
        self.next_signal = 1
        self.bytes = 0


class Workflows:
    """All runs of a node.

    Attributes:
        on_signal, on_cancel: told of the address, after a signal or a request to cancel was stored.
    """

    def __init__(self, table: WorkflowTable, *, clock: Clock, limits: Limits, quotas: Quotas) -> None:
        self._table = table
        self._clock = clock
        self._limits = limits
        self._quotas = quotas
        self._count = Quota("workflows_per_tenant_max", limits.workflows_per_tenant_max, "workflow runs")
        self._kept: dict[Scope, dict[str, _Kept]] = {}
        # Those that have ended, by when.
        self._ended: OrderedDict[Address, int] = OrderedDict()
        self.on_signal: Callable[[Address], None] = lambda _address: None
        self.on_cancel: Callable[[Address], None] = lambda _address: None

    def load(self) -> None:
        """Read what there is.  Once, before anything else."""
        for run in self._table.runs():
            self._add(_Kept(run))
        for address, signal in self._table.signals():
            kept = self._find(address)
            if kept is not None:
                kept.signals.append(signal)
                kept.next_signal = signal.number + 1
                self._count_bytes(kept)
        ended = [kept.run for names in self._kept.values() for kept in names.values() if not kept.run.running]
        for run in sorted(ended, key=lambda each: each.ended_ms):
            self._ended[run.address] = run.ended_ms

    # -- what is there ------------------------------------------------------------------------------------

    def find(self, address: Address) -> WorkflowRun | None:
        """The run of an actor."""
        kept = self._find(address)
        return kept.run if kept is not None else None

    def get(self, address: Address) -> WorkflowRun:
        """The same.

        Raises:
            NotFound
        """
        run = self.find(address)
        if run is None:
            raise _absent(address)
        return run

    def waiting(self, address: Address) -> int:
        """How many signals wait for a run."""
        kept = self._find(address)
        return len(kept.signals) if kept is not None else 0

    def page(
        self,
        scope: Scope,
        *,
        actor_type: str | None = None,
        status: Status | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[WorkflowRun]:
        """Runs of a namespace, by the actor's name.

        Args:
            after: only those behind this name.
        """
        found: list[WorkflowRun] = []
        names = self._kept.get(scope, {})
        for name in sorted(name for name in names if name > after):
            run = names[name].run
            if actor_type in (None, run.address.type) and status in (None, run.status):
                found.append(run)
                if len(found) == limit:
                    break
        return found

    # -- a run's life -------------------------------------------------------------------------------------

    def begin(self, address: Address, run_id: str, payload: str) -> WorkflowRun:
        """A run has been accepted.

        Raises:
            Conflict: the actor has one.
            LimitExceeded, Unavailable
        """
        if self._find(address) is not None:
            raise Conflict(f"workflow {address.text!r} has been started already", workflow=address.text)
        self._forget_old()
        self._count.check(address.scope.tenant)
        kept = _Kept(WorkflowRun(address, run_id, payload, self._now_ms()))
        self._quotas.bytes.check(address.scope.tenant, _size(kept))
        self._table.put(kept.run)
        self._add(kept)
        return kept.run

    def end(self, address: Address, status: Status, outcome: str) -> WorkflowRun:
        """A run has ended; signals that it has not taken wait on."""
        kept = self._must(address)
        run = replace(_between_steps(kept.run), status=status, outcome=outcome, ended_ms=self._now_ms())
        self._put(kept, run)
        self._ended[address] = run.ended_ms
        return run

    def forget(self, address: Address) -> None:
        """Forget a run that has ended, so that it can be started anew.

        Raises:
            NotFound
            Conflict: it has not ended.
        """
        if self.get(address).running:
            raise Conflict(f"workflow {address.text!r} is running: cancel it first", workflow=address.text)
        self.remove(address)

    def remove(self, address: Address) -> None:
        """Forget a run, however far it is."""
        kept = self._must(address)
        self._table.remove(address)
        names = self._kept[address.scope]
        del names[address.text]
        if not names:
            del self._kept[address.scope]
        self._ended.pop(address, None)
        self._count.add(address.scope.tenant, -1)
        self._quotas.bytes.add(address.scope.tenant, -kept.bytes)

    # -- cancellation -------------------------------------------------------------------------------------

    def cancel(self, address: Address, reason: str) -> WorkflowRun:
        """Ask for a run to be cancelled; asking again changes nothing.

        Raises:
            NotFound
            Conflict: it has ended.
        """
        run = self.get(address)
        if not run.running:
            raise Conflict(f"workflow {address.text!r} has ended: it is {run.status.value}", workflow=address.text)
        if run.cancel is None:
            self._put(self._must(address), replace(run, cancel=reason[:REASON_CHARS_MAX]))
            self.on_cancel(address)
        return self.get(address)

    def take_cancel(self, address: Address) -> str | None:
        """Why the run is to be cancelled, told once and never within an attempt at a step; else None."""
        kept = self._must(address)
        run = kept.run
        if run.cancel is None or run.cancel_told or run.trying:
            return None
        self._put(kept, replace(run, cancel_told=True))
        return run.cancel

    # -- steps --------------------------------------------------------------------------------------------

    def step_begin(self, address: Address, name: str, options: str) -> None:
        """An attempt at a step begins; `step_ready_ms` says when it may.

        Raises:
            InvalidArgument: another step is under way, or the options make no sense.
        """
        kept = self._must(address)
        run = kept.run
        if not 1 <= len(name.encode("utf-8", "surrogatepass")) <= STEP_NAME_BYTES_MAX:
            raise InvalidArgument(f"a step's name has 1 to {STEP_NAME_BYTES_MAX} bytes")
        if run.trying:
            raise InvalidArgument(f"step {name!r} begins within step {run.step!r}: one at a time", step=run.step)
        timeout_ms = _options(options)["timeout_ms"]
        attempt = run.attempt + 1 if run.step == name else 1
        due_ms = self._now_ms() + timeout_ms if timeout_ms else 0
        self._put(kept, replace(run, step=name, attempt=attempt, trying=True, options=options, due_ms=due_ms))

    def step_ready_ms(self, address: Address, name: str) -> int:
        """When the next attempt at a step may begin: wall clock, 0 for at once."""
        run = self._must(address).run
        return run.due_ms if run.step == name and not run.trying else 0

    def step_succeeded(self, address: Address, name: str) -> None:
        """The attempt has succeeded.

        Raises:
            DeadlineExceeded: it took too long, so it has failed.
            InvalidArgument: the step is not under way.
        """
        kept = self._under_way(address, name)
        run = kept.run
        if run.due_ms and self._now_ms() > run.due_ms:
            timeout_ms = _options(run.options)["timeout_ms"]
            raise DeadlineExceeded(
                f"step {name!r} took {self._now_ms() - run.due_ms} ms longer than its {timeout_ms} ms", step=name
            )
        self._put(kept, replace(_between_steps(run), steps_done=run.steps_done + 1))

    def step_failed(self, address: Address, name: str) -> int | None:
        """The attempt has failed; milliseconds until the next one, None if there is no other.

        Raises:
            InvalidArgument: the step is not under way.
        """
        kept = self._under_way(address, name)
        run = kept.run
        options = _options(run.options)
        if run.attempt > options["retries_max"]:
            self._put(kept, _between_steps(run))
            return None
        # Doubling cannot go on for ever in Python's whole numbers either.
        wait_ms = min(options["backoff_ms"] << min(run.attempt - 1, 32), BACKOFF_MS_MAX)
        self._put(kept, replace(run, trying=False, due_ms=self._now_ms() + wait_ms))
        return wait_ms

    def _under_way(self, address: Address, name: str) -> _Kept:
        kept = self._must(address)
        if not kept.run.trying or kept.run.step != name:
            raise InvalidArgument(f"step {name!r} is not under way: begin it first", step=name)
        return kept

    # -- signals ------------------------------------------------------------------------------------------

    def signal(self, address: Address, id_: str, name: str, payload: str, sender: str, context: str) -> None:
        """Put a signal in line for a run.

        Raises:
            LimitExceeded: too many wait.
            InvalidArgument, Unavailable
        """
        kept = self._must(address)
        if not 1 <= len(name.encode("utf-8", "surrogatepass")) <= SIGNAL_NAME_BYTES_MAX:
            raise InvalidArgument(f"a signal's name has 1 to {SIGNAL_NAME_BYTES_MAX} bytes")
        most = self._limits.signals_waiting_max
        if len(kept.signals) >= most:
            raise LimitExceeded(
                f"{len(kept.signals)} signals wait for workflow {address.text!r}, as many as may: it takes them at the "
                "next boundary of a step",
                limit="signals_waiting_max",
                value=most,
            )
        self._quotas.bytes.check(address.scope.tenant, len(payload) + OVERHEAD_BYTES)
        row = SignalRow(kept.next_signal, id_, name, payload, sender, context, self._now_ms())
        self._table.put_signal(address, row)
        kept.next_signal += 1
        kept.signals.append(row)
        self._count_bytes(kept)
        self.on_signal(address)

    def take_signal(self, address: Address) -> SignalRow | None:
        """The signal that waits longest; it is the run's now."""
        kept = self._must(address)
        if not kept.signals:
            return None
        self._table.remove_signal(address, kept.signals[0].number)
        signal = kept.signals.popleft()
        self._count_bytes(kept)
        return signal

    # -- inside -------------------------------------------------------------------------------------------

    def _find(self, address: Address) -> _Kept | None:
        names = self._kept.get(address.scope)
        return names.get(address.text) if names is not None else None

    def _must(self, address: Address) -> _Kept:
        kept = self._find(address)
        if kept is None:
            raise _absent(address)
        return kept

    def _add(self, kept: _Kept) -> None:
        address = kept.run.address
        self._kept.setdefault(address.scope, {})[address.text] = kept
        self._count.add(address.scope.tenant)
        self._count_bytes(kept)

    def _put(self, kept: _Kept, run: WorkflowRun) -> None:
        self._table.put(run)
        kept.run = run
        self._count_bytes(kept)

    def _count_bytes(self, kept: _Kept) -> None:
        before, kept.bytes = kept.bytes, _size(kept)
        self._quotas.bytes.add(kept.run.address.scope.tenant, kept.bytes - before)

    def _forget_old(self) -> None:
        """The oldest ends come first, so this looks at no more than there is to forget, and one."""
        oldest_ms = self._now_ms() - int(self._limits.workflow_age_s_max * 1_000)
        while self._ended and next(iter(self._ended.values())) < oldest_ms:
            self.remove(next(iter(self._ended)))

    def _now_ms(self) -> int:
        return self._clock.now_ns() // _NS_PER_MS


class SqliteWorkflows:
    """On the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def runs(self) -> Iterable[WorkflowRun]:
        """See `WorkflowTable`."""
        for (
            tenant, namespace, actor, run_id, status, payload, started_ms, ended_ms, outcome, cancel, told,
            step, attempt, trying, options, due_ms, steps_done,
        ) in self._database.read("SELECT * FROM workflows"):  # fmt: skip
            yield WorkflowRun(
                Address.parse(Scope(tenant, namespace), actor), run_id, payload, started_ms, Status(status), ended_ms,
                outcome, cancel, bool(told), step, attempt, bool(trying), options, due_ms, steps_done,
            )  # fmt: skip

    def signals(self) -> Iterable[tuple[Address, SignalRow]]:
        """See `WorkflowTable`."""
        for tenant, namespace, actor, *rest in self._database.read(
            "SELECT * FROM signals ORDER BY tenant, namespace, actor, number"
        ):
            yield Address.parse(Scope(tenant, namespace), actor), SignalRow(*rest)

    def put(self, run: WorkflowRun) -> None:
        """See `WorkflowTable`."""
        values = (
            *_key(run.address), run.run_id, run.status.value, run.payload, run.started_ms, run.ended_ms, run.outcome,
            run.cancel, run.cancel_told, run.step, run.attempt, run.trying, run.options, run.due_ms, run.steps_done,
        )  # fmt: skip
        self._database.stream.write([(f"INSERT OR REPLACE INTO workflows VALUES ({_marks(len(values))})", values)])

    def remove(self, address: Address) -> None:
        """See `WorkflowTable`."""
        where = "WHERE tenant = ? AND namespace = ? AND actor = ?"
        self._database.stream.write(
            [(f"DELETE FROM workflows {where}", _key(address)), (f"DELETE FROM signals {where}", _key(address))]
        )

    def put_signal(self, address: Address, signal: SignalRow) -> None:
        """See `WorkflowTable`."""
        values = (
            *_key(address), signal.number, signal.id, signal.name, signal.payload, signal.sender, signal.context,
            signal.sent_ms,
        )  # fmt: skip
        self._database.stream.write([(f"INSERT INTO signals VALUES ({_marks(len(values))})", values)])

    def remove_signal(self, address: Address, number: int) -> None:
        """See `WorkflowTable`."""
        self._database.stream.write(
            [
                (
                    "DELETE FROM signals WHERE tenant = ? AND namespace = ? AND actor = ? AND number = ?",
                    (*_key(address), number),
                )
            ]
        )


class MemoryWorkflows:
    """In memory: for simulations."""

    def runs(self) -> Iterable[WorkflowRun]:
        """See `WorkflowTable`."""
        return ()

    def signals(self) -> Iterable[tuple[Address, SignalRow]]:
        """See `WorkflowTable`."""
        return ()

    def put(self, run: WorkflowRun) -> None:
        """See `WorkflowTable`."""

    def remove(self, address: Address) -> None:
        """See `WorkflowTable`."""

    def put_signal(self, address: Address, signal: SignalRow) -> None:
        """See `WorkflowTable`."""

    def remove_signal(self, address: Address, number: int) -> None:
        """See `WorkflowTable`."""


def _key(address: Address) -> tuple[str, str, str]:
    return address.scope.tenant, address.scope.namespace, address.text


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _options(text: str) -> dict[str, int]:
    """A step's options, each a whole number.

    Raises:
        InvalidArgument
    """
    options = {"retries_max": 0, "backoff_ms": 1_000, "timeout_ms": 0}
    try:
        given: Any = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        given = None
    if not isinstance(given, dict):
        raise InvalidArgument("a step's options are a JSON object")
    for name, value in given.items():
        if name not in options:
            raise InvalidArgument(f"a step has no option {name!r:.80}; there are {', '.join(options)}")
        if type(value) is not int or not 0 <= value <= _OPTION_MAX:
            raise InvalidArgument(f"a step's {name} is a whole number, 0 to {_OPTION_MAX}")
        options[name] = value
    return options


def _size(kept: _Kept) -> int:
    run = kept.run
    signals = sum(len(signal.payload) + len(signal.context) + OVERHEAD_BYTES for signal in kept.signals)
    return OVERHEAD_BYTES + len(run.payload) + len(run.outcome) + len(run.options) + signals


def _between_steps(run: WorkflowRun) -> WorkflowRun:
    return replace(run, step="", attempt=0, trying=False, due_ms=0)


def _absent(address: Address) -> NotFound:
    where = address.scope.namespace
    return NotFound(f"there is no run of a workflow {address.text!r} in namespace {where!r}", workflow=address.text)
