"""Workflows of the test node: runs that wait, crash and go on, without a thread.

What a run has asked the host for is recorded.  When it has to wait, its code is left by an exception, and when it may
go on it is begun again on a new instance, with what is recorded given to it once more: each wait is a crash and a
recovery.  So a run that depends on anything but its state and the host is found out at its first wait.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from . import _imports
from ._bindings.componentize_py_types import Err
from ._bindings.wit_world.imports import types
from ._testing_base import NS_PER_MS, Waiter, contract_error, over, parse_json
from ._version import __version__
from ._world import make_world

if TYPE_CHECKING:
    from .testing import TestNode, _Cell

_CRASHES_MAX: Final = 3
_BACKOFF_MS_MAX: Final = 3_600_000
_NAME_BYTES_MAX: Final = 256
# Harmless to everybody: what a query may use.
_HARMLESS: Final = frozenset({"clock", "random", "logging"})


class Left(BaseException):
    """Unwinds the code of a run that has to wait, or has crashed."""


@dataclass(frozen=True, slots=True)
class TestPromise:
    """A promise as a test sees it.

    Attributes:
        value: decoded; None until it is resolved.
    """

    __test__ = False

    id: str
    name: str
    owner: str
    resolved: bool
    value: Any = None


@dataclass(slots=True)
class _Promise:
    id: str
    name: str
    owner: str
    value: str | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of the host that has answered."""

    function: str
    args: tuple[Any, ...]
    result: Any


@dataclass(slots=True, eq=False)
class Record:
    """What somebody has asked the host for, to be given again.

    Attributes:
        given: how much of it has been given again.
    """

    calls: list[_Call] = field(default_factory=list)
    given: int = 0

    @property
    def replaying(self) -> bool:
        return self.given < len(self.calls)


@dataclass(slots=True)
class _Step:
    """The step under way."""

    name: str = ""
    attempt: int = 0
    trying: bool = False
    options: Mapping[str, int] = field(default_factory=dict)
    due_ns: int | None = None
    # When the next attempt may begin, after one has failed.
    again_ns: int = 0


@dataclass(slots=True, eq=False)
class Run:
    """A run of a workflow.

    Attributes:
        before: the state before it began.
        fresh: the instance has just been made: it can go on there.
        begun_ns: when what it waits for was begun.
        waits_for: "" unless it waits.
        due_ns: when it has waited long enough; None for never.
    """

    cell: _Cell
    envelope: Any
    record: Record = field(default_factory=Record)
    status: str = "running"
    outcome: str = ""
    failure: Any = None
    before: str | None = None
    published: str = ""
    fresh: bool = True
    ready: bool = False
    left: bool = False
    begun_ns: int | None = None
    waits_for: str = ""
    due_ns: int | None = None
    cancel: str | None = None
    cancel_told: bool = False
    crashes: int = 0
    crash_at: int | None = None
    made: int = 0
    attempt_at: int = 0
    nondeterminism: str = ""
    step: _Step = field(default_factory=_Step)
    steps_done: int = 0
    signals: deque[str] = field(default_factory=deque)

    @property
    def running(self) -> bool:
        return self.status == "running"


class TestRun:
    """A run of a workflow as a test sees it."""

    __test__ = False

    def __init__(self, node: TestNode, run: Run) -> None:
        self._node = node
        self._run = run

    def __repr__(self) -> str:
        return f"<TestRun {self._run.cell.actor_id} {self.status}>"

    @property
    def status(self) -> str:
        """`running`, `completed`, `failed` or `cancelled`."""
        return self._run.status

    @property
    def waiting_for(self) -> str:
        """What it waits for: `sleep`, `signal`, `promise ID`, `retry`; "" when it does not."""
        return self._run.waits_for

    @property
    def step(self) -> str:
        """The step under way, "" between steps."""
        return self._run.step.name

    @property
    def steps_done(self) -> int:
        """How many steps have succeeded."""
        return self._run.steps_done

    @property
    def calls(self) -> int:
        """How often the run has asked its host for something, until now; what was given again does not count."""
        return self._run.made

    def result(self) -> Any:
        """What it has returned.

        Raises:
            HostError: it has failed, was cancelled, or has not ended.
        """
        with self._node._translated():
            if self._run.running:
                waits = self._run.waits_for or "its turn"
                raise contract_error("unavailable", f"{self._run.cell.actor_id} has not ended: it waits for {waits}")
            return json.loads(self._node._workflows.outcome(self._run))

    def cancel(self, reason: str = "") -> None:
        """Ask for it to be cancelled; what follows is done on return."""
        with self._node._translated():
            self._node._workflows.cancel(self._run, reason)
        self._node.settle()


class Workflows:
    """All runs and promises of a test node."""

    def __init__(self, node: TestNode) -> None:
        self._node = node
        self._runs: dict[str, Run] = {}
        self._promises: dict[str, _Promise] = {}
        # Whose calls of the host are recorded, while they are on the stack.
        self._records: dict[str, Record] = {}

    # -- what the node asks ------------------------------------------------------------------------------

    def kind(self, cell: _Cell, kind: Any, op: str) -> Any:
        """The kind of a message for a workflow: its operation says it where a sender could not."""
        kinds, definition = types.MessageKind, cell.definition
        if definition.behaviour != "Workflow" or kind not in (kinds.CALL, kinds.CAST):
            return kind
        table = definition.calls if kind is kinds.CALL else definition.casts
        known = table.get(op) or (definition.calls.get("run") if op == "run" else table.get("*"))
        if known is None:
            return kind
        meant = {"run": kinds.RUN, "signal": kinds.SIGNAL, "query": kinds.QUERY}
        return meant.get(known.kinds[0], kind)

    def busy(self, cell: _Cell) -> bool:
        """Its run is under way: other messages wait."""
        run = self._runs.get(cell.actor_id)
        return run is not None and run.running and run.before is not None

    def find(self, actor_id: str) -> Run | None:
        """The run of an actor."""
        return self._runs.get(actor_id)

    def start(self, cell: _Cell, envelope: Any) -> Run:
        """Begin a run, or give the one there is."""
        run = self._runs.get(cell.actor_id)
        if run is None:
            run = self._runs[cell.actor_id] = Run(cell, envelope)
            cell.mailbox.append(envelope)
        return run

    def begin(self, cell: _Cell) -> None:
        """The turn of the message that starts a run has come."""
        run = self._runs[cell.actor_id]
        run.before = self._node._export(cell, "get_state")
        self._drive(run)

    def go_on(self) -> bool:
        """Let a run go on that has what it waited for; False when there is none."""
        node = self._node
        run = next(
            (run for run in self._runs.values() if run.ready and run.cell.alive and run.cell not in node._stack), None
        )
        if run is None:
            return False
        self._drive(run)
        return True

    def signal(self, cell: _Cell, envelope: Any) -> bool:
        """Put a signal in line for a run; False when none is under way."""
        run = self._runs.get(cell.actor_id)
        if run is None or not run.running:
            return False
        most = self._node._limits["signals_waiting_max"]
        if len(run.signals) >= most:
            raise over("signals_waiting_max", most, f"{len(run.signals)} signals wait for {cell.actor_id}")
        head = {"id": envelope.id, "name": envelope.op, "sender": envelope.sender, "context": envelope.context}
        run.signals.append(f'{json.dumps(head)[:-1]},"payload":{envelope.payload}}}')
        if run.waits_for == "signal":
            run.ready = True
        return True

    def query(self, cell: _Cell, envelope: Any) -> str | None:
        """Answer from the last published state, on an instance that can reach nothing; None when no run is under way.

        Raises:
            Err: `handler-refused`, also where it wants more than to read.
        """
        run = self._runs.get(cell.actor_id)
        if run is None or not run.running or not run.published:
            return None
        world = make_world(cell.deployed.definitions, types, Err, version=__version__)
        config = types.InitConfig(cell.actor_id, cell.deployed.role, cell.args, True, cell.facets)
        before = _imports.bind(_Harmless(cell.imports))
        try:
            world().set_state(config, run.published)
            reply: str | None = world().handle(envelope)
        except Err as failed:
            raise _query_error(self._node, cell, envelope.op, failed.value) from None
        finally:
            _imports.bind(before)
        return reply

    def outcome(self, run: Run) -> str:
        """The reply to whoever has started a run that has ended.

        Raises:
            Err
        """
        if run.failure is not None:
            raise self._node._caller_error(run.cell, run.failure)
        return run.outcome

    def cancel(self, run: Run, reason: str) -> None:
        """Ask for a run to be cancelled."""
        if not run.running:
            raise contract_error("conflict", f"{run.cell.actor_id} has ended: it is {run.status}")
        if run.cancel is None:
            run.cancel = reason
            run.ready = run.ready or bool(run.waits_for)

    def recovered(self, cell: _Cell) -> None:
        """A new incarnation is up; what was under way goes on there."""
        run = self._runs.get(cell.actor_id)
        if run is not None and run.running and run.before is not None:
            run.fresh = run.ready = True

    def crash(self, actor_id: str, at_call: int) -> None:
        """Let the actor's run die when it asks the host for something for the `at_call`-th time from now."""
        run = self._runs.get(actor_id)
        if run is None or not run.running:
            raise contract_error("not-found", f"{actor_id} has no run under way that could crash")
        run.crash_at = run.made + at_call

    # -- recording ---------------------------------------------------------------------------------------

    def initialise(self, cell: _Cell, config: Any, state: str | None, record: Record) -> None:
        """Give an instance its state, and run its `init`; what `init` has asked for before is given to it again."""
        record.given = 0
        if state is not None:
            self._node._export(cell, "set_state", config, state)
        before = self._records.get(cell.actor_id)
        self._records[cell.actor_id] = record
        try:
            self._node._export(cell, "init", config)
        finally:
            if before is None:
                del self._records[cell.actor_id]
            else:
                self._records[cell.actor_id] = before

    def call(self, cell: _Cell, function: str, implementation: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """A workflow's actor calls the host."""
        record = self._records.get(cell.actor_id)
        if record is None:
            return implementation(*args)
        run = self._runs.get(cell.actor_id)
        run = run if run is not None and run.record is record else None
        if run is not None and run.left:
            # Code that runs while the stack is left, a `finally` for instance.
            raise Left
        if function == "workflow.publish_state":
            return implementation(*args)
        if function == "logging.log":
            return None if record.replaying else implementation(*args)
        if record.replaying:
            return self._again(cell, run, record, function, args)
        if run is not None and run.crash_at is not None and run.made + 1 >= run.crash_at:
            run.crash_at = None
            self._node._kill_busy(cell)
            run.left = True
            raise Left
        result: Any
        try:
            result = implementation(*args)
        except Err as refused:
            self._note(run, record, function, args, refused)
            raise
        self._note(run, record, function, args, result)
        return result

    def _note(self, run: Run | None, record: Record, function: str, args: tuple[Any, ...], result: Any) -> None:
        if run is not None:
            run.begun_ns = None
            run.made += 1
            if function == "workflow.step_succeeded" and result is None:
                # A step that is done is one call with its result, and is not entered again.
                begin = record.calls[run.attempt_at]
                record.calls[run.attempt_at :] = [_Call(begin.function, begin.args, args[1])]
                record.given = len(record.calls)
                return
            if function == "workflow.step_failed" and isinstance(result, int):
                # Nor is an attempt that has failed: the next one begins where it began.
                del record.calls[run.attempt_at :]
                record.given = len(record.calls)
                return
            if function == "workflow.step_begin" and result is None:
                run.attempt_at = len(record.calls)
        record.calls.append(_Call(function, args, result))
        record.given += 1

    def _again(self, cell: _Cell, run: Run | None, record: Record, function: str, args: tuple[Any, ...]) -> Any:
        known = record.calls[record.given]
        if (known.function, _told(known.args)) != (function, _told(args)):
            problem = (
                f"{cell.actor_id} asks for {function}{_told(args)} where it asked for {known.function}"
                f"{_told(known.args)} before: a run may depend on nothing but its state and the host"
            )
            if run is None:
                raise RuntimeError(problem)
            run.nondeterminism, run.left = problem, True
            raise Left
        record.given += 1
        if isinstance(known.result, Err):
            raise known.result
        return known.result

    # -- running -----------------------------------------------------------------------------------------

    def wait(self, cell: _Cell, waits_for: str, timeout_ns: int | None) -> Run | None:
        """Leave the run's code until it has what it waits for, or its time is over: then this returns.

        None, at once, outside of a run: others wait as everybody does.
        """
        run = self.executing(cell)
        if run is None:
            return None
        clock = self._node._clock
        if run.begun_ns is None:
            run.begun_ns = clock.elapsed_ns
        ends = [
            due
            for due in (run.step.due_ns, None if timeout_ns is None else run.begun_ns + timeout_ns)
            if due is not None
        ]
        run.due_ns = min(ends, default=None)
        if run.due_ns is not None and clock.elapsed_ns >= run.due_ns:
            return run
        run.waits_for, run.left = waits_for, True
        if run.due_ns is not None:
            due_ns = run.due_ns

            def due() -> None:
                if run.due_ns == due_ns and run.waits_for:
                    run.ready = True

            clock.call_at(due_ns, due)
        raise Left

    def executing(self, cell: _Cell) -> Run | None:
        """The run whose code calls."""
        run = self._runs.get(cell.actor_id)
        record = self._records.get(cell.actor_id)
        return run if run is not None and record is run.record else None

    def outside_id(self, cell: _Cell) -> str | None:
        """What a call that the run makes now is known by outside: the same if it is made again after a crash, or by
        another attempt at its step; None when no run calls."""
        run = self.executing(cell)
        if run is None:
            return None
        if not run.step.trying:
            return f"{run.envelope.id}/{run.made}"
        return f"{run.envelope.id}/{run.step.name}/{len(run.record.calls) - run.attempt_at}"

    def interrupt(self, run: Run) -> None:
        """Tell a run once that it is to be cancelled, never within a step.

        Raises:
            Err: `cancelled`.
        """
        if run.cancel is not None and not run.cancel_told and not run.step.trying:
            run.cancel_told = True
            raise contract_error("cancelled", run.cancel)

    def _drive(self, run: Run) -> None:
        """Let a run go on until it waits again, ends or dies."""
        node, cell = self._node, run.cell
        run.ready = run.left = False
        run.waits_for, run.due_ns = "", None
        run.record.given = 0
        if not run.fresh:
            node._renew(cell)
            config = types.InitConfig(cell.actor_id, cell.deployed.role, cell.args, True, cell.facets)
            node._export(cell, "set_state", config, run.before)
        run.fresh = False
        cell.deadline_ns = run.step.due_ns
        cell.context = json.loads(run.envelope.context) if run.envelope.context else {}
        self._records[cell.actor_id] = run.record
        failure = None
        try:
            reply = node._call(cell, "handle", run.envelope)
        except Err as failed:
            reply, failure = None, failed.value
        finally:
            del self._records[cell.actor_id]
            cell.deadline_ns = None
        if cell.doomed is not None:
            node._end(cell, cell.doomed)
        elif run.nondeterminism:
            self._diverged(run)
        elif run.left:
            return
        elif failure is not None and failure.kind is types.FailureKind.CRASHED:
            run.crashes += 1
            if run.crashes >= _CRASHES_MAX:
                self._finish(run, "failed", failure=failure)
            node._crashed(cell, failure)
        elif run.record.replaying:
            left = run.record.calls[run.record.given]
            run.nondeterminism = f"{cell.actor_id} ended where it asked for {left.function}{_told(left.args)} before"
            self._diverged(run)
        elif failure is not None:
            if not run.published:
                # It never began: who started it has to mend the arguments.
                del self._runs[cell.actor_id]
            self._finish(run, "cancelled" if failure.code == "cancelled" else "failed", failure=failure)
        else:
            self._finish(run, "completed", reply or "null")

    def _diverged(self, run: Run) -> None:
        failure = types.Failure(types.FailureKind.CRASHED, "nondeterminism", run.nondeterminism, "{}", "")
        self._finish(run, "failed", failure=failure)
        self._node._diverged(run.cell, run.nondeterminism)

    def _finish(self, run: Run, status: str, outcome: str = "", failure: Any = None) -> None:
        run.status, run.outcome, run.failure = status, outcome, failure
        node, cell = self._node, run.cell
        if status != "failed" or failure.kind is types.FailureKind.REFUSED:
            cell.saved = node._export(cell, "get_state")
        for text in run.signals:
            signal = json.loads(text)
            cell.mailbox.append(
                node._envelope(
                    types.MessageKind.SIGNAL,
                    signal["name"],
                    json.dumps(signal["payload"]),
                    signal["sender"],
                    signal["context"],
                )
            )
        run.signals.clear()
        awaited = {other.waits_for for other in self._runs.values() if other.running}
        for promise in [each for each in self._promises.values() if each.owner == cell.actor_id]:
            if f"promise {promise.id}" not in awaited:
                del self._promises[promise.id]

    # -- promises ----------------------------------------------------------------------------------------

    def promises(self) -> list[TestPromise]:
        """All there are, in the order they were made."""
        return [
            TestPromise(
                each.id,
                each.name,
                each.owner,
                each.value is not None,
                None if each.value is None else json.loads(each.value),
            )
            for each in self._promises.values()
        ]

    def create(self, owner: str, name: str) -> str:
        """A new promise; its id."""
        if len(name.encode("utf-8", "surrogatepass")) > _NAME_BYTES_MAX:
            raise contract_error("invalid-argument", f"a promise's name has at most {_NAME_BYTES_MAX} bytes")
        most = self._node._limits["promises_per_tenant_max"]
        if len(self._promises) >= most:
            raise over("promises_per_tenant_max", most, f"there are {len(self._promises)} promises")
        promise = _Promise(f"promise-{next(self._node._ids)}", name, owner)
        self._promises[promise.id] = promise
        return promise.id

    def promise(self, promise_id: str) -> _Promise:
        """One promise."""
        known = self._promises.get(promise_id)
        if known is None:
            raise contract_error("not-found", f"there is no promise {promise_id!r}")
        return known

    def resolve(self, promise_id: str, value: str) -> None:
        """Give a promise its value."""
        known = self.promise(promise_id)
        parsed = parse_json("the value", value)
        if known.value is not None:
            if json.loads(known.value) != parsed:
                raise contract_error("conflict", f"promise {promise_id!r} is resolved already, with another value")
            return
        known.value = value
        for run in self._runs.values():
            if run.waits_for == f"promise {promise_id}":
                run.ready = True
        for waiter in self._node._promise_waiters.pop(promise_id, ()):
            waiter.answer(value)


class WorkflowInterface:
    """`plexspaces:actor/workflow` for one actor."""

    def __init__(self, node: TestNode, cell: _Cell) -> None:
        self._node = node
        self._cell = cell
        self._workflows = node._workflows

    def step_begin(self, name: str, options: str) -> None:
        run = self._run()
        step = run.step
        self._workflows.interrupt(run)
        if step.trying:
            raise contract_error("invalid-argument", f"step {name!r} begins within step {step.name!r}: one at a time")
        known = {"retries_max": 0, "backoff_ms": 1_000, "timeout_ms": 0, **json.loads(options or "{}")}
        again = step.name == name
        clock = self._node._clock
        if again and clock.elapsed_ns < step.again_ns:
            run.begun_ns = clock.elapsed_ns
            self._workflows.wait(self._cell, "retry", step.again_ns - clock.elapsed_ns)
        due_ns = clock.elapsed_ns + known["timeout_ms"] * NS_PER_MS if known["timeout_ms"] else None
        run.step = _Step(name, step.attempt + 1 if again else 1, True, known, due_ns)
        self._cell.deadline_ns = due_ns

    def step_succeeded(self, name: str, value: str) -> None:
        run = self._under_way(name)
        due_ns, now_ns = run.step.due_ns, self._node._clock.elapsed_ns
        if due_ns is not None and now_ns > due_ns:
            raise contract_error(
                "deadline-exceeded", f"step {name!r} took longer than its {run.step.options['timeout_ms']} ms"
            )
        run.step = _Step()
        run.steps_done += 1
        self._cell.deadline_ns = None

    def step_failed(self, name: str, message: str) -> int | None:
        run = self._under_way(name)
        step, self._cell.deadline_ns = run.step, None
        if step.attempt > step.options["retries_max"]:
            run.step = _Step()
            return None
        wait_ms = int(min(step.options["backoff_ms"] << min(step.attempt - 1, 32), _BACKOFF_MS_MAX))
        again_ns = self._node._clock.elapsed_ns + wait_ms * NS_PER_MS
        run.step = _Step(step.name, step.attempt, False, step.options, again_ns=again_ns)
        return wait_ms

    def sleep_ms(self, duration_ms: int) -> None:
        run = self._workflows.executing(self._cell)
        if run is None:
            clock = self._node._clock
            clock.pass_until(self._node._until_ns(self._cell, duration_ms))
            return
        self._workflows.interrupt(run)
        self._workflows.wait(self._cell, "sleep", duration_ms * NS_PER_MS)
        if run.step.due_ns is not None and run.begun_ns is not None:
            self._check_step(run, run.begun_ns + duration_ms * NS_PER_MS)

    def promise_create(self, name: str) -> str:
        return self._workflows.create(self._cell.actor_id, name)

    def promise_await(self, promise_id: str, timeout_ms: int) -> str:
        run = self._workflows.executing(self._cell)
        promise = self._workflows.promise(promise_id)
        if promise.value is not None:
            return promise.value
        late = contract_error("deadline-exceeded", f"nobody has resolved promise {promise_id!r} in time")
        if run is None:
            return self._wait_in_place(promise_id, timeout_ms, late)
        self._workflows.interrupt(run)
        self._workflows.wait(self._cell, f"promise {promise_id}", timeout_ms * NS_PER_MS or None)
        raise late

    def _wait_in_place(self, promise_id: str, timeout_ms: int, late: Exception) -> str:
        node = self._node
        waiter = Waiter(self._cell, node._until_ns(self._cell, timeout_ms or 1 << 50))
        waiting = node._promise_waiters.setdefault(promise_id, [])
        waiting.append(waiter)
        value = node._wait(self._cell, waiter, lambda: waiting.remove(waiter) if waiter in waiting else None)
        if value is None:
            raise late
        return str(value)

    def promise_resolve(self, promise_id: str, value: str) -> None:
        self._workflows.resolve(promise_id, value)

    def next_signal(self, timeout_ms: int) -> str | None:
        run = self._run()
        self._workflows.interrupt(run)
        if not run.signals and timeout_ms:
            self._workflows.wait(self._cell, "signal", timeout_ms * NS_PER_MS)
        return run.signals.popleft() if run.signals else None

    def cancelled(self) -> bool:
        run = self._workflows.executing(self._cell)
        return run is not None and run.cancel is not None

    def publish_state(self, state: str) -> None:
        run = self._workflows.executing(self._cell)
        if run is not None:
            run.published = state

    def _run(self) -> Run:
        run = self._workflows.executing(self._cell)
        if run is None:
            raise contract_error("invalid-argument", "only the run of a workflow has steps and waits for signals")
        return run

    def _under_way(self, name: str) -> Run:
        run = self._run()
        if not run.step.trying or run.step.name != name:
            raise contract_error("invalid-argument", f"step {name!r} is not under way: begin it first")
        return run

    def _check_step(self, run: Run, wanted_ns: int) -> None:
        due_ns = run.step.due_ns
        if due_ns is not None and wanted_ns > due_ns <= self._node._clock.elapsed_ns:
            raise contract_error("deadline-exceeded", f"step {run.step.name!r} has taken longer than it may")


class Recorded:
    """An interface of a workflow's actor: its calls are recorded while the actor runs."""

    def __init__(self, workflows: Workflows, cell: _Cell, name: str, interface: Any) -> None:
        self._workflows = workflows
        self._cell = cell
        self._name = name
        self._interface = interface

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._interface, name)
        if isinstance(value, type) or not callable(value):
            return value
        return lambda *args: self._workflows.call(self._cell, f"{self._name}.{name}", value, args)


class _Harmless:
    """What a query imports."""

    Err = Err

    def __init__(self, imports: Any) -> None:
        self._imports = imports

    def __getattr__(self, interface: str) -> Any:
        found = getattr(self._imports, interface)
        if interface in _HARMLESS:
            return found._interface if isinstance(found, Recorded) else found
        return _Refusing(found, interface)


class _Refusing:
    def __init__(self, interface: Any, name: str) -> None:
        self._interface = interface
        self._name = name

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._interface, name)
        if isinstance(value, type) or not callable(value):
            return value

        def refuse(*_args: Any) -> Any:
            raise contract_error("permission-denied", f"this actor may not use {self._name}", capability=self._name)

        return refuse


def _query_error(node: TestNode, cell: _Cell, op: str, failure: Any) -> Exception:
    details = json.loads(failure.details or "{}")
    if failure.kind is types.FailureKind.CRASHED and details.get("host_error") == "permission-denied":
        return contract_error(
            "handler-refused",
            f"query {op!r} wants more than a query may, which only reads the state: {failure.message}",
            reason="query-reads-only",
        )
    return node._caller_error(cell, failure)


def _told(args: tuple[Any, ...]) -> str:
    text = repr(args)
    return text if len(text) <= 2_000 else f"{text[:1_000]}...{text[-1_000:]}"
