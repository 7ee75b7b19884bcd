"""`plexspaces:actor/workflow`: steps, waits that survive restarts, promises and signals; and who conducts the runs.

A run is one message that is in flight for as long as it takes.  Whoever has asked for it waits beside it, so that no
deadline ends it; signals stand in line in a table until it takes them; queries are answered by an instance of their own
from the state that the run has published last.  What the run has asked its host for is in its actor's journal, so after
a crash it comes back to where it was, and only then do the functions here hear of it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from ..actors.actor import Actor, Run, Step
from ..actors.capabilities import NOTHING
from ..actors.envelope import Envelope, Kind, Outcome, PendingAsk
from ..actors.exits import Reason
from ..actors.guest import Export, Failure, Ok, Result, Trapped
from ..actors.sizes import check_size
from ..errors import (
    Cancelled,
    DeadlineExceeded,
    HandlerCrashed,
    HandlerRefused,
    InvalidArgument,
    LimitExceeded,
    PlexSpacesError,
    Unavailable,
)
from ..events import DeadLetter, Event
from ..scheduler import PENDING
from ..scheduler.scheduler import refused
from ..scope import Address, Caller
from ..stores.promises import Promises
from ..stores.workflows import Status, WorkflowRun, Workflows
from .messaging import inherited_deadline_ns
from .wire import error_value

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from .gate import Host

_NS_PER_MS: Final = 1_000_000
# No longer than this without a look at the wall clock, by which durable waits are measured.
_ALARM_S_MAX: Final = 600.0
_DURATION_MS_MAX: Final = 10 * 365 * 24 * 3_600 * 1_000
# Refusals of a message that has not got as far as the author's code.
_NOT_BEGUN: Final = frozenset({"invalid-arguments", "unknown-operation", "permission-denied"})


@dataclass(slots=True, eq=False)
class _Suspended:
    """A host call that waits.

    Attributes:
        what: for whom it may concern: `sleep`, `retry`, `signal`, `promise ID`.
        due_ms: wall clock; None for never.
        on_due: gives the answer then, or raises it.
        forget: takes it out of where else it waits.
    """

    token: int
    what: str
    due_ms: int | None
    on_due: Callable[[], Any]
    forget: Callable[[], None]
    alarm: TimerHandle | None = None


@dataclass(slots=True)
class _Aside:
    """Queries of one workflow: one at a time, in order.

    Attributes:
        state: what the run has published last; None if it has not yet.
    """

    state: str | None
    waiting: list[Envelope]
    busy: bool = False


class Runs:
    """Conducts the runs of a node; see `facets.workflow.Conductor`."""

    def __init__(self, host: Host, workflows: Workflows, promises: Promises) -> None:
        self.workflows = workflows
        self.promises = promises
        self._host = host
        # Who waits for the end of a run.
        self._followers: dict[Address, list[PendingAsk]] = {}
        self._asides: dict[Address, _Aside] = {}
        self._suspended: dict[Actor, _Suspended] = {}
        workflows.on_signal = self._signalled
        workflows.on_cancel = self._cancelling
        host.events.subscribe(self._heard)

    # -- messages that come in ----------------------------------------------------------------------------

    def divert(self, address: Address, envelope: Envelope) -> bool:
        """See `Conductor.divert`."""
        run = self.workflows.find(address)
        if envelope.kind is Kind.RUN:
            return self._divert_run(address, envelope, run)
        if run is None or not run.running:
            return False
        if envelope.kind is Kind.SIGNAL:
            *_, sender, context = envelope.arguments()
            self.workflows.signal(address, envelope.id, envelope.op, envelope.payload, sender, context)
            if envelope.pending is not None:
                self._host.asks.end(envelope.pending, "null")
            return True
        if envelope.pending is not None:
            self._ask_aside(address, envelope)
        return True

    def _divert_run(self, address: Address, envelope: Envelope, run: WorkflowRun | None) -> bool:
        """The first message begins the run, the others hear of its end."""
        pending = envelope.pending
        if run is not None and not run.running:
            if pending is not None:
                self._host.asks.end(pending, _outcome(run))
            return True
        if run is None:
            actor = self._host.registry.find(address.scope, address.text)
            if actor is None or actor.mailbox.full:
                # There is no room: the sender hears it from the mailbox.
                return False
            self.workflows.begin(address, envelope.id, envelope.payload)
        if pending is not None:
            followers = self._followers.setdefault(address, [])
            followers[:] = [each for each in followers if not each.ended]
            followers.append(pending)
        if run is not None:
            return True
        # Whoever asked may stop waiting; the run goes on.
        envelope.pending = None
        envelope.deadline_ns = 0
        return False

    def started(self, address: Address) -> None:
        """See `Conductor.started`: signals that came when a run had just ended are messages."""
        run = self.workflows.find(address)
        if run is not None and not run.running:
            self._pass_on_signals(address)

    def handled(self, address: Address, envelope: Envelope, result: Result) -> None:
        """See `Conductor.handled`."""
        run = self.workflows.find(address)
        if run is None or not run.running or run.run_id != envelope.id:
            return
        if isinstance(result, Trapped):
            # It goes on with the next incarnation, which nobody may be there to start; or is given up, see `_heard`.
            if result.exit.reason in (Reason.CRASHED, Reason.LIMIT):
                self._host.loop.call_soon(self._revive, address)
            return
        if isinstance(result, Failure):
            aside = self._asides.get(address)
            if result.code in _NOT_BEGUN and (aside is None or aside.state is None) and run.steps_done == 0:
                # Whoever started it has to mend the arguments, and may try again.
                self.workflows.remove(address)
                self._end(address, refused(result.code, result.message, result.details))
                return
            status = Status.CANCELLED if result.code == "cancelled" else Status.FAILED
            self._ended(address, status, _failure_text(result))
            return
        text = result or "null"
        try:
            check_size("the run's result", text, self._limits_of(address))
        except LimitExceeded as error:
            failure = {"code": "limit-exceeded", "message": error.message, "details": error.details}
            self._ended(address, Status.FAILED, orjson.dumps(failure).decode())
        else:
            self._ended(address, Status.COMPLETED, text)

    def _revive(self, address: Address) -> None:
        try:
            self._host.registry.resolve(address.scope, address.text)
        except PlexSpacesError:
            # There is no room just now: the next message to it, or the node's next start, finds it.
            return

    def _limits_of(self, address: Address) -> int:
        actor = self._host.registry.find(address.scope, address.text)
        assert actor is not None, "a run has ended whose actor is not there"
        return actor.spec.limits.payload_bytes_max

    def _heard(self, event: Event) -> None:
        """A run whose actor crashes every time is given up."""
        if isinstance(event, DeadLetter):
            run = self.workflows.find(event.address)
            if run is not None and run.running and run.run_id == event.message_id:
                message = f"the actor crashed {event.attempts} times in its run: {event.reason}"
                crash = {"code": "crashed", "message": message, "details": {"exit": event.reason}}
                self._ended(event.address, Status.FAILED, orjson.dumps(crash).decode())

    def _ended(self, address: Address, status: Status, outcome: str) -> None:
        run = self.workflows.end(address, status, outcome)
        self.promises.forget_of(address)
        self._pass_on_signals(address)
        self._end(address, _outcome(run))

    def _end(self, address: Address, outcome: Outcome) -> None:
        for pending in self._followers.pop(address, ()):
            self._host.asks.end(pending, outcome)
        aside = self._asides.pop(address, None)
        actor = self._host.registry.find(address.scope, address.text)
        for envelope in aside.waiting if aside is not None else ():
            if actor is not None:
                # No run is under way: a query is a message.
                self._deliver(actor, envelope)

    def _pass_on_signals(self, address: Address) -> None:
        """What a run has not taken goes to its actor as messages."""
        actor = self._host.registry.find(address.scope, address.text)
        while actor is not None and not actor.mailbox.full and (signal := self.workflows.take_signal(address)):
            sender = Address.parse(address.scope, signal.sender) if signal.sender else None
            caller = _caller(signal.context)
            self._deliver(actor, Envelope(signal.id, Kind.SIGNAL, signal.name, signal.payload, sender, caller))

    def _deliver(self, actor: Actor, envelope: Envelope) -> None:
        pending = envelope.pending
        try:
            if self._host.scheduler.deliver(actor, envelope) or pending is None:
                return
            outcome: Outcome = Unavailable("the mailbox is full: try again later")
        except PlexSpacesError as error:
            outcome = error
        if pending is not None:
            self._host.asks.end(pending, outcome)

    def report(self, address: Address) -> dict[str, Any]:
        """See `Conductor.report`."""
        run = self.workflows.find(address)
        if run is None:
            return {}
        return {"run": run.status.value, "step": run.step, "waits_for": self.waits_for(address)}

    def waits_for(self, address: Address) -> str:
        """What a run waits for just now, "" if for nothing."""
        actor = self._host.registry.find(address.scope, address.text)
        suspended = self._suspended.get(actor) if actor is not None else None
        return suspended.what if suspended is not None else ""

    # -- queries ------------------------------------------------------------------------------------------

    def publish(self, address: Address, state: str) -> bool:
        """A run's state, for queries; False if it is the first in this life of its actor."""
        aside = self._asides.setdefault(address, _Aside(None, []))
        first, aside.state = aside.state is None, state
        self._next_aside(address, aside)
        return not first

    def _ask_aside(self, address: Address, envelope: Envelope) -> None:
        aside = self._asides.setdefault(address, _Aside(None, []))
        aside.waiting.append(envelope)
        self._next_aside(address, aside)

    def _next_aside(self, address: Address, aside: _Aside) -> None:
        """Answer the query that waits longest, on an instance that can reach nothing and is thrown away."""
        while aside.waiting and aside.waiting[0].expired:
            del aside.waiting[0]
        actor = self._host.registry.find(address.scope, address.text)
        if aside.busy or aside.state is None or not aside.waiting or actor is None:
            return
        envelope = aside.waiting.pop(0)
        state, host = aside.state, self._host
        spec = replace(actor.spec, capabilities=NOTHING)
        instance = Actor(address, spec, lambda _actor, _exit: None, started_ms=0)
        config = (address.text, spec.role, spec.args, True, spec.facets)

        def answered(result: Result) -> bool:
            aside.busy = False
            host.scheduler.kill(instance)
            if envelope.pending is not None:
                host.asks.end(envelope.pending, _answer(envelope.op, result))
            self._next_aside(address, aside)
            return False

        def good(result: Result) -> bool:
            return answered(result) if isinstance(result, Trapped | Failure) else True

        try:
            instance.guest = spec.new_guest()
        except PlexSpacesError as error:
            if envelope.pending is not None:
                host.asks.end(envelope.pending, error)
            return
        aside.busy = True
        instance.plan = [
            Step(Export.INSTANTIATE, tuple, good),
            Step(Export.SET_STATE, lambda: (config, state), good),
            Step(Export.HANDLE, envelope.arguments, answered),
        ]
        instance.run = Run.RESTING
        host.scheduler.wake(instance)

    # -- waiting ------------------------------------------------------------------------------------------

    def suspend(
        self,
        actor: Actor,
        what: str,
        due_ms: int | None,
        on_due: Callable[[], Any],
        forget: Callable[[], None] = lambda: None,
    ) -> Any:
        """Let the host call that is being served wait; answers `PENDING`."""
        suspended = _Suspended(actor.wait_token, what, due_ms, on_due, forget)
        self._suspended[actor] = suspended
        self._host.waiting[actor] = lambda: self._drop(actor)
        self._arm(actor, suspended)
        return PENDING

    def settle(self, actor: Actor, outcome: Any) -> None:
        """Answer the host call that waits, with a value or an error."""
        suspended = self._suspended[actor]
        self._host.waiting.pop(actor, None)
        self._drop(actor)
        value = error_value(outcome) if isinstance(outcome, Exception) else Ok(outcome)
        self._host.scheduler.resume(actor, suspended.token, value)

    def _drop(self, actor: Actor) -> None:
        suspended = self._suspended.pop(actor)
        if suspended.alarm is not None:
            suspended.alarm.cancel()
        suspended.forget()

    def _arm(self, actor: Actor, suspended: _Suspended) -> None:
        if suspended.due_ms is None:
            return
        left_s = max(0, suspended.due_ms - self.now_ms()) / 1_000
        suspended.alarm = self._host.loop.call_later(
            min(left_s, _ALARM_S_MAX), lambda: self._rang(actor, suspended)
        )

    def _rang(self, actor: Actor, suspended: _Suspended) -> None:
        assert suspended.due_ms is not None
        if self.now_ms() < suspended.due_ms:
            self._arm(actor, suspended)
            return
        try:
            outcome = suspended.on_due()
        except PlexSpacesError as error:
            outcome = error
        self.settle(actor, outcome)

    def _waiting(self, address: Address) -> Iterator[tuple[Actor, _Suspended]]:
        actor = self._host.registry.find(address.scope, address.text)
        if actor is not None and (suspended := self._suspended.get(actor)) is not None:
            yield actor, suspended

    def _signalled(self, address: Address) -> None:
        for actor, suspended in self._waiting(address):
            if suspended.what == "signal" and (signal := self.workflows.take_signal(address)) is not None:
                self.settle(actor, signal.text())

    def _cancelling(self, address: Address) -> None:
        for actor, _ in self._waiting(address):
            if actor.current is not None and actor.current.kind is Kind.RUN:
                reason = self.workflows.take_cancel(address)
                if reason is not None:
                    self.settle(actor, Cancelled(reason))

    def now_ms(self) -> int:
        """The wall clock."""
        return self._host.clock.now_ns() // _NS_PER_MS

    def interrupt(self, address: Address) -> None:
        """Tell a run once that it is to be cancelled.

        Raises:
            Cancelled
        """
        reason = self.workflows.take_cancel(address)
        if reason is not None:
            raise Cancelled(reason)


# -- the functions of the interface ------------------------------------------------------------------------


def step_begin(host: Host, actor: Actor, name: str, options: str) -> Any:
    """Begin an attempt at a step, once it is time for it."""
    runs, address = _run(host, actor)
    runs.interrupt(address)

    def begin() -> None:
        runs.workflows.step_begin(address, name, options)
        _watch(host, actor, address)

    ready_ms = runs.workflows.step_ready_ms(address, name)
    if ready_ms > runs.now_ms():
        return runs.suspend(actor, "retry", ready_ms, begin)
    begin()
    return None


def step_succeeded(host: Host, actor: Actor, name: str, value: str) -> None:
    """The attempt has succeeded."""
    runs, address = _run(host, actor)
    host.check_payload(actor, value)
    runs.workflows.step_succeeded(address, name)
    _watch(host, actor, address)


def step_failed(host: Host, actor: Actor, name: str, _message: str) -> int | None:
    """The attempt has failed."""
    runs, address = _run(host, actor)
    wait_ms = runs.workflows.step_failed(address, name)
    _watch(host, actor, address)
    return wait_ms


def sleep_ms(host: Host, actor: Actor, duration_ms: int) -> Any:
    """Suspend the caller, across restarts."""
    runs = _runs(host)
    if duration_ms > _DURATION_MS_MAX:
        raise InvalidArgument(f"a sleep of {duration_ms} ms is too long: at most ten years")
    _interrupt(host, actor)
    wanted_ms = host.begun_ms(actor) + duration_ms
    limit_ms = _limit_ms(host, actor)
    due_ms = wanted_ms if limit_ms is None else min(wanted_ms, limit_ms)

    def over() -> None:
        if due_ms < wanted_ms:
            raise DeadlineExceeded("the time for this is over before the sleep is")

    if due_ms <= runs.now_ms():
        over()
        return None
    return runs.suspend(actor, "sleep", due_ms, over)


def promise_create(host: Host, actor: Actor, name: str) -> str:
    """Make a promise."""
    return _runs(host).promises.create(actor.address, name).id


def promise_await(host: Host, actor: Actor, promise_id: str, timeout_ms: int) -> Any:
    """Wait for a promise's value."""
    runs = _runs(host)
    scope = actor.address.scope
    promise = runs.promises.get(scope, promise_id)
    if promise.value is not None:
        return promise.value
    _interrupt(host, actor)
    ends = [host.begun_ms(actor) + timeout_ms] if timeout_ms else []
    if (limit_ms := _limit_ms(host, actor)) is not None:
        ends.append(limit_ms)
    due_ms = min(ends, default=None)

    def late() -> None:
        raise DeadlineExceeded(f"nobody has resolved promise {promise_id!r} in time", promise=promise_id)

    if due_ms is not None and due_ms <= runs.now_ms():
        late()
    give_up = runs.promises.wait(scope, promise_id, lambda value: runs.settle(actor, value))
    return runs.suspend(actor, f"promise {promise_id}", due_ms, late, give_up)


def promise_resolve(host: Host, actor: Actor, promise_id: str, value: str) -> None:
    """Give a promise its value."""
    host.check_payload(actor, value)
    _runs(host).promises.resolve(actor.address.scope, promise_id, value)


def next_signal(host: Host, actor: Actor, timeout_ms: int) -> Any:
    """The signal that waits longest."""
    runs, address = _run(host, actor)
    runs.interrupt(address)
    signal = runs.workflows.take_signal(address)
    if signal is not None:
        return signal.text()
    due_ms = host.begun_ms(actor) + timeout_ms if timeout_ms else 0
    if due_ms <= runs.now_ms():
        return None
    return runs.suspend(actor, "signal", due_ms, lambda: None)


def cancelled(host: Host, actor: Actor) -> bool:
    """Whether somebody has asked for the run to be cancelled."""
    run = host.runs.workflows.find(actor.address) if host.runs is not None and _is_run(actor) else None
    return run is not None and run.cancel is not None


def publish_state(host: Host, actor: Actor, state: str) -> None:
    """The state, for queries."""
    if host.runs is None or not _is_run(actor):
        return
    run = host.runs.workflows.find(actor.address)
    if run is None or not run.running or len(state.encode()) > actor.spec.limits.state_bytes_max:
        return
    if not host.runs.publish(actor.address, state):
        # A run that has come back may be in the middle of an attempt that has a limit.
        _watch(host, actor, actor.address)


def _runs(host: Host) -> Runs:
    if host.runs is None:
        raise Unavailable("this node keeps no workflows")
    return host.runs


def _is_run(actor: Actor) -> bool:
    return actor.current is not None and actor.current.kind is Kind.RUN


def _run(host: Host, actor: Actor) -> tuple[Runs, Address]:
    """Who conducts the run that calls, and its address.

    Raises:
        InvalidArgument: it is not the run of a workflow.
    """
    runs = _runs(host)
    if not _is_run(actor) or runs.workflows.find(actor.address) is None:
        raise InvalidArgument("only the run of a workflow has steps and waits for signals")
    return runs, actor.address


def _interrupt(host: Host, actor: Actor) -> None:
    runs = _runs(host)
    if _is_run(actor) and runs.workflows.find(actor.address) is not None:
        runs.interrupt(actor.address)


def _watch(host: Host, actor: Actor, address: Address) -> None:
    """Whatever the actor waits for ends with the attempt that is under way."""
    run = _runs(host).workflows.get(address)
    assert actor.current is not None
    if run.trying and run.due_ms:
        left_ms = run.due_ms - host.clock.now_ns() // _NS_PER_MS
        actor.current.deadline_ns = max(1, host.clock.monotonic_ns() + left_ms * _NS_PER_MS)
    else:
        actor.current.deadline_ns = 0


def _limit_ms(host: Host, actor: Actor) -> int | None:
    """When the caller's own time is over, on the wall clock."""
    deadline_ns = inherited_deadline_ns(actor)
    if not deadline_ns:
        return None
    return (host.clock.now_ns() + deadline_ns - host.clock.monotonic_ns()) // _NS_PER_MS


def _caller(context: str) -> Caller | None:
    """Who sent a signal, from what a run would have been told."""
    known = orjson.loads(context or "{}")
    if "subject" not in known:
        return None
    return Caller(
        known["subject"], frozenset(known["roles"]), known.get("session", ""), frozenset(known.get("scopes", ()))
    )


def _failure_text(failure: Failure) -> str:
    try:
        details = orjson.loads(failure.details or "{}")
    except orjson.JSONDecodeError:
        details = {}
    return orjson.dumps({"code": failure.code, "message": failure.message, "details": details}).decode()


def _outcome(run: WorkflowRun) -> Outcome:
    """What whoever started a run that has ended is told."""
    if run.status is Status.COMPLETED:
        return run.outcome
    failure = orjson.loads(run.outcome)
    if failure["code"] == "crashed":
        return HandlerCrashed(failure["message"], **failure["details"])
    return refused(failure["code"], failure["message"], orjson.dumps(failure["details"]).decode())


def _answer(op: str, result: Result) -> Outcome:
    """What whoever asked a query is told."""
    match result:
        case Trapped(exit_):
            return HandlerCrashed(exit_.message or exit_.text, exit=exit_.text)
        case Failure(crashed=False):
            return refused(result.code, result.message, result.details)
        case Failure():
            if b'"permission-denied"' in result.details.encode():
                return HandlerRefused(
                    f"query {op!r} wants more than a query may, which only reads the state: {result.message}",
                    reason="query-reads-only",
                )
            return HandlerCrashed(result.message, exit=f"crashed({result.code})")
        case _:
            return result or "null"
