"""OTP's supervisor without the processes: messages and the time go in, what is to be done comes out.

The model is `supervisor.erl` of OTP 25, function by function.  What makes it exact is its mailbox.  OTP's supervisor is
one process: while it starts a child or waits for one to end, everything else waits in the mailbox, in order, and the
exit of a child that it stops is taken out of there.  So a supervisor never decides about a child while it moves
another, and two crashes at once are one after the other.

Here a job (one message dealt with) is a generator.  Where OTP blocks in `receive`, the job yields; `handle` resumes it
with the message it waits for and keeps all others in `_inbox`.  An exit that was kept is noted on its child as well:
stopping a child that is dead already must not wait for an end that has been.

No clock, no loop, no actors: the same messages at the same times give the same actions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeAlias

from ..actors import exits
from ..actors.exits import Exit
from ..errors import (
    AlreadyExists,
    Conflict,
    HandlerCrashed,
    InvalidArgument,
    NotFound,
    PlexSpacesError,
    Unavailable,
)
from .restart import Decision, Verdict, count, verdict
from .spec import BRUTAL_KILL, INFINITY, AutoShutdown, ChildSpec, RestartPolicy, Strategy, SupervisorSpec

# -- messages ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Start the children; the first message of all.

    Attributes:
        down: children that are left down, as OTP leaves one whose `init` says `ignore`: until somebody asks for them.
    """

    down: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ChildStarted:
    """What `StartChild` asked for has been done."""

    child_id: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class ChildFailed:
    """A child's start failed, and nothing of it lives."""

    child_id: str
    incarnation: int
    exit: Exit


@dataclass(frozen=True, slots=True)
class ChildEnded:
    """A child that had started has ended, by itself or because it was told to."""

    child_id: str
    incarnation: int
    exit: Exit


@dataclass(frozen=True, slots=True)
class Elapsed:
    """A timer ran out."""

    timer: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The parent wants the supervisor to end, with this exit."""

    exit: Exit


@dataclass(frozen=True, slots=True)
class AddChild:
    """OTP's start_child.  For `SIMPLE_ONE_FOR_ONE` only the id and the content of `spec` count.

    Attributes:
        at_once: beyond OTP, for what one child spawns: it is temporary whatever the others are, counts as started with
            its `StartChild`, and does not wait for what the supervisor is doing, which may be starting the spawner.
    """

    ref: Any
    spec: ChildSpec
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class TerminateChild:
    """OTP's terminate_child: end it and leave it down; a temporary or dynamic one is forgotten.

    Attributes:
        brutal: kill it at once, whatever its `shutdown_s`.
    """

    ref: Any
    child_id: str
    brutal: bool = False


@dataclass(frozen=True, slots=True)
class RestartChild:
    """OTP's restart_child: start one that is down."""

    ref: Any
    child_id: str


@dataclass(frozen=True, slots=True)
class DeleteChild:
    """OTP's delete_child: forget one that is down."""

    ref: Any
    child_id: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Go over to another specification, touching only the children that it changes."""

    ref: Any
    spec: SupervisorSpec


@dataclass(frozen=True, slots=True)
class _TryAgain:
    """Sent by a supervisor to itself when a restart's start failed (OTP's try_again_restart)."""

    child_id: str


Command: TypeAlias = AddChild | TerminateChild | RestartChild | DeleteChild | Replace
Message: TypeAlias = Start | ChildStarted | ChildFailed | ChildEnded | Elapsed | Shutdown | Command

# -- actions -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartChild:
    """Start it, then say `ChildStarted` or `ChildFailed` with the same incarnation."""

    child_id: str
    incarnation: int
    spec: ChildSpec


@dataclass(frozen=True, slots=True)
class StopChild:
    """Ask it to end, then say `ChildEnded`.  If it has ended meanwhile, the message that says so is enough."""

    child_id: str
    incarnation: int
    exit: Exit


@dataclass(frozen=True, slots=True)
class KillChild:
    """End it now, then say `ChildEnded`.  May follow a `StopChild` that took too long."""

    child_id: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Say `Elapsed` after `delay_s` seconds."""

    timer: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """`Elapsed` is not wanted any more; one that is under way, or has just been said, does no harm."""

    timer: int


@dataclass(frozen=True, slots=True)
class Started:
    """To the parent: all children have started."""


@dataclass(frozen=True, slots=True)
class StartFailed:
    """To the parent: a child failed to start, the others have been stopped.  The last action; no `Ended` follows."""

    child_id: str
    exit: Exit


@dataclass(frozen=True, slots=True)
class Ended:
    """To the parent: the supervisor has ended and no child lives.  The last action."""

    exit: Exit


@dataclass(frozen=True, slots=True)
class Answer:
    """To who sent the command `ref`: it was done, or why not."""

    ref: Any
    error: PlexSpacesError | None


@dataclass(frozen=True, slots=True)
class Restarting:
    """For the record: a child ended, or failed to start again, and is restarted after `delay_s` seconds."""

    child_id: str
    exit: Exit
    restarts_in_window: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class GaveUp:
    """For the record: that was one restart too many; the supervisor ends."""

    child_id: str
    exit: Exit
    restarts_in_window: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """A child that lived or was to come back is down now, and stays down until somebody asks for it."""

    child_id: str
    exit: Exit


Action: TypeAlias = (
    StartChild
    | StopChild
    | KillChild
    | SetTimer
    | CancelTimer
    | Started
    | StartFailed
    | Ended
    | Answer
    | Restarting
    | GaveUp
    | Dropped
)

# -- what it knows -----------------------------------------------------------------------------------------


class State(Enum):
    """Of the supervisor."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class ChildState(Enum):
    """Of a child."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    # Down, and to be started again without anybody's command.
    RESTARTING = "restarting"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ChildView:
    """A child, for people.

    Attributes:
        restarts: how often it was started again without a command, also for a sibling's sake.
        incarnation: of the one that lives or lived last; 0 before the first start.
    """

    spec: ChildSpec
    running: bool
    state: ChildState
    restarts: int
    incarnation: int


@dataclass(slots=True, eq=False)
class _Child:
    spec: ChildSpec
    # Added at run time: `Replace` leaves it alone.
    dynamic: bool = False
    # Added at once: never restarted, whatever the template says.
    apart: bool = False
    # RESTARTING is OTP's pid {restarting, _}: it waits for its back-off or for `_TryAgain`.
    state: ChildState = ChildState.STOPPED
    # A restart under way or pending takes it along; OTP's pid is `undefined` once it is down.
    taken: bool = False
    incarnation: int = 0
    restarts: int = 0
    # How this incarnation ended, when that is known and not yet dealt with.
    ended: Exit | None = None
    # The back-off it waits for.
    timer: int | None = None


# Strategies by which a child's restart is others' too.
_TOGETHER = frozenset({Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE})

# A job waits for a message at each `yield`; what it returns is for the job that it is part of.
_Job: TypeAlias = Generator[None, Message, None]
_Failure: TypeAlias = Generator[None, Message, Exit | None]


class Core:
    """One supervisor's decisions.

    Args:
        spec: what it is told.

    Raises:
        InvalidArgument: two children of one id, a negative limit, a combination that OTP refuses.

    A command that comes after the last action (`Ended`, `StartFailed`) is not answered: look at `state`.
    """

    def __init__(self, spec: SupervisorSpec) -> None:
        if (error := _flaw(spec)) is not None:
            raise error
        self._spec = spec
        self._state = State.NEW
        # In the order of starting.
        self._children: dict[str, _Child] = {}
        self._template: ChildSpec | None = None
        if spec.strategy is Strategy.SIMPLE_ONE_FOR_ONE:
            self._template = spec.children[0]
        else:
            self._children = {child.id: _Child(child) for child in spec.children}
        # When it restarted within the window, seconds, oldest first.
        self._history: tuple[float, ...] = ()
        self._now_s = 0.0
        self._incarnations = 0
        self._timers = 0
        # Of the children that wait for their back-off.
        self._backoffs: dict[int, _Child] = {}
        # Significant children that OTP would give a pid, so that `auto_shutdown` need not look for them.
        self._significant_up = 0
        self._inbox: deque[Message | _TryAgain] = deque()
        self._job: _Job | None = None
        # What the job waits for: children by incarnation, and the time limit of their shutdown.
        self._awaited: dict[int, _Child] = {}
        self._deadline: int | None = None
        self._actions: list[Action] = []

    @property
    def spec(self) -> SupervisorSpec:
        """What it is told now."""
        return self._spec

    @property
    def state(self) -> State:
        return self._state

    @property
    def restarts_in_window(self) -> int:
        """How many restarts it has counted lately, as of its last message."""
        return len(self._history)

    def knows(self, child_id: str) -> bool:
        """Whether it has a child of that id, running or not."""
        return child_id in self._children

    def is_down(self, child_id: str) -> bool:
        """Whether it has a child of that id that is down, and may be restarted."""
        child = self._children.get(child_id)
        return child is not None and _is_down(child)

    def child(self, child_id: str) -> ChildSpec | None:
        """What a child is told; None if there is none of that id."""
        child = self._children.get(child_id)
        return None if child is None else child.spec

    def comes_back(self, child_id: str) -> bool:
        """Whether a child that is not running will be started without anybody's command.

        True while it is being started or restarted and while it waits for its back-off.  Of a child whose end has not
        been dealt with yet, because the supervisor is busy, its restart type tells; if it turns out otherwise,
        `Dropped` says so.
        """
        child = self._children.get(child_id)
        if child is None or self._state in (State.STOPPING, State.ENDED):
            return False
        match child.state:
            case ChildState.STARTING | ChildState.RESTARTING:
                return True
            case ChildState.STOPPING | ChildState.STOPPED:
                return child.taken
            case ChildState.RUNNING:
                if child.ended is None:
                    return False
                wanted = verdict(child.spec.restart, child.ended, (), self._now_s, self._spec).verdict
                return child.taken or wanted in (Verdict.RESTART, Verdict.GIVE_UP)

    def children(self) -> list[ChildView]:
        """All children, in the order of starting."""
        return [
            ChildView(
                child.spec,
                child.state is ChildState.RUNNING and child.ended is None,
                ChildState.RESTARTING if child.taken and child.state is ChildState.STOPPED else child.state,
                child.restarts,
                child.incarnation,
            )
            for child in self._children.values()
        ]

    def handle(self, message: Message, now_s: float) -> list[Action]:
        """Take a message; return what is to be done, in order.

        Args:
            now_s: seconds on a clock that never goes back.

        Messages about an incarnation or a timer that is over are ignored.
        """
        if self._state is State.ENDED:
            return []
        self._now_s = now_s
        if self._job is not None and self._awaits(message):
            self._resume(message)
        elif self._state is State.NEW and isinstance(message, Start):
            self._run(self._init(message.down))
        elif self._state is State.NEW and isinstance(message, Shutdown):
            self._end(Ended(message.exit))
        elif not (isinstance(message, AddChild) and message.at_once and self._adopt(message)):
            self._keep(message)
        while self._job is None and self._inbox and self._state is State.RUNNING:
            self._run(self._receive(self._inbox.popleft()))
        actions, self._actions = self._actions, []
        return actions

    # -- the mailbox --------------------------------------------------------------------------------------

    def _awaits(self, message: Message) -> bool:
        match message:
            case ChildStarted() | ChildFailed() | ChildEnded():
                child = self._awaited.get(message.incarnation)
                return child is not None and child.spec.id == message.child_id
            case Elapsed(timer):
                return timer == self._deadline
            case _:
                return False

    def _keep(self, message: Message) -> None:
        match message:
            case Start() | ChildStarted() | ChildFailed():
                # Said twice, or about an incarnation that is over.
                return
            case ChildEnded():
                if (child := self._living(message)) is None:
                    return
                child.ended = message.exit
        self._inbox.append(message)

    def _living(self, message: ChildEnded) -> _Child | None:
        """The child that a message is about, unless that incarnation has been dealt with."""
        child = self._children.get(message.child_id)
        if child is None or child.incarnation != message.incarnation or child.state is not ChildState.RUNNING:
            return None
        return child

    def _run(self, job: _Job) -> None:
        self._job = job
        try:
            next(job)
        except StopIteration:
            self._job = None

    def _resume(self, message: Message) -> None:
        assert self._job is not None
        try:
            self._job.send(message)
        except StopIteration:
            self._job = None

    def _receive(self, message: Message | _TryAgain) -> _Job:
        match message:
            case ChildEnded():
                yield from self._child_ended(message)
            case _TryAgain(child_id):
                yield from self._try_again(child_id)
            case Elapsed(timer):
                if (child := self._backoffs.pop(timer, None)) is not None:
                    child.timer = None
                    yield from self._restart(child)
            case Shutdown(exit_):
                yield from self._terminate(Ended(exit_))
            case AddChild(ref, spec, at_once):
                if not (at_once and self._adopt(message)):
                    self._answer(ref, (yield from self._add(spec)))
            case TerminateChild(ref, child_id, brutal):
                self._answer(ref, (yield from self._terminate_child(child_id, brutal)))
            case RestartChild(ref, child_id):
                self._answer(ref, (yield from self._restart_child(child_id)))
            case DeleteChild(ref, child_id):
                self._answer(ref, self._delete_child(child_id))
            case Replace(ref, spec):
                self._answer(ref, (yield from self._replace(spec)))
            case Start() | ChildStarted() | ChildFailed():
                raise AssertionError(f"{message} is never kept")

    # -- start and end ------------------------------------------------------------------------------------

    def _init(self, down: frozenset[str]) -> _Job:
        self._state = State.STARTING
        for child in list(self._children.values()):
            if child.spec.id in down:
                continue
            if (failed := (yield from self._start(child))) is not None:
                self._put_down(child, failed)
                yield from self._terminate(StartFailed(child.spec.id, failed))
                return
        self._state = State.RUNNING
        self._actions.append(Started())

    def _terminate(self, last: Ended | StartFailed) -> _Job:
        self._state = State.STOPPING
        children = list(self._children.values())
        if self._template is not None:
            yield from self._stop(children)
        else:
            for child in reversed(children):
                yield from self._stop([child])
        self._end(last)

    def _end(self, last: Ended | StartFailed) -> None:
        self._state = State.ENDED
        for message in self._inbox:
            if isinstance(message, Command):
                self._answer(message.ref, Unavailable("the supervisor has ended: ask again when it has been restarted"))
        self._inbox.clear()
        self._actions.append(last)

    # -- children that end --------------------------------------------------------------------------------

    def _child_ended(self, message: ChildEnded) -> _Job:
        if (child := self._living(message)) is None:
            return
        decision = verdict(child.spec.restart, message.exit, self._history, self._now_s, self._spec)
        if decision.verdict in (Verdict.RESTART, Verdict.GIVE_UP):
            yield from self._recover(child, message.exit, decision)
            return
        self._put_down(child, message.exit)
        if child.spec.significant and self._is_enough():
            yield from self._terminate(Ended(exits.SHUTDOWN))

    def _is_enough(self) -> bool:
        match self._spec.auto_shutdown:
            case AutoShutdown.NEVER:
                return False
            case AutoShutdown.ANY_SIGNIFICANT:
                return True
            case AutoShutdown.ALL_SIGNIFICANT:
                return self._significant_up == 0

    def _try_again(self, child_id: str) -> _Job:
        child = self._children.get(child_id)
        # As in OTP the message names the child and not the attempt: one that has begun to wait again since is meant.
        if child is None or child.state is not ChildState.RESTARTING or child.timer is not None:
            return
        assert child.ended is not None
        yield from self._recover(child, child.ended, count(self._history, self._now_s, self._spec))

    def _recover(self, child: _Child, exit_: Exit, decision: Decision) -> _Job:
        self._history = decision.history
        restarts = len(decision.history)
        if decision.verdict is Verdict.GIVE_UP:
            self._actions.append(GaveUp(child.spec.id, exit_, restarts))
            # Not to be offered to somebody who asks between this and the end of its siblings.
            self._state = State.STOPPING
            self._put_down(child, exit_)
            yield from self._terminate(Ended(exits.SHUTDOWN))
            return
        self._actions.append(Restarting(child.spec.id, exit_, restarts, decision.delay_s))
        self._move(child, ChildState.RESTARTING)
        if decision.delay_s > 0:
            child.timer = self._set_timer(decision.delay_s)
            self._backoffs[child.timer] = child
        else:
            yield from self._restart(child)

    def _restart(self, child: _Child) -> _Job:
        affected = self._affected(child)
        child.taken = True
        for sibling in affected:
            # One that was to come back does, even if it has been made a temporary one meanwhile.
            sibling.taken = sibling.taken or sibling.spec.restart is not RestartPolicy.TEMPORARY
        if self._spec.strategy in _TOGETHER:
            self._move(child, ChildState.STOPPED)
            for sibling in reversed(affected):
                yield from self._stop([sibling])
        for sibling in affected:
            if sibling.taken and (failed := (yield from self._start(sibling, again=True))) is not None:
                self._fail_again(sibling, failed)
                return

    def _affected(self, child: _Child) -> list[_Child]:
        match self._spec.strategy:
            case Strategy.ONE_FOR_ONE | Strategy.SIMPLE_ONE_FOR_ONE:
                return [child]
            case Strategy.ONE_FOR_ALL:
                return list(self._children.values())
            case Strategy.REST_FOR_ONE:
                after: list[_Child] = []
                for other in reversed(self._children.values()):
                    after.append(other)
                    if other is child:
                        break
                after.reverse()
                return after

    def _fail_again(self, child: _Child, failed: Exit) -> None:
        self._move(child, ChildState.RESTARTING)
        child.ended = failed
        # Behind all that waits already, as OTP's cast to itself.
        self._inbox.append(_TryAgain(child.spec.id))

    # -- moving children ----------------------------------------------------------------------------------

    def _start(self, child: _Child, *, again: bool = False) -> _Failure:
        """Start it; the exit is why that failed, and the caller says what becomes of the child then."""
        self._forget_timer(child)
        self._incarnations += 1
        child.incarnation = self._incarnations
        child.restarts += again
        child.taken = False
        child.ended = None
        self._move(child, ChildState.STARTING)
        self._actions.append(StartChild(child.spec.id, child.incarnation, child.spec))
        self._awaited[child.incarnation] = child
        message = yield
        del self._awaited[child.incarnation]
        match message:
            case ChildFailed() | ChildEnded():
                return message.exit
            case _:
                self._move(child, ChildState.RUNNING)
                return None

    def _stop(self, children: Iterable[_Child], *, brutal: bool = False) -> _Job:
        """End children together, giving them the time of their specification.  Those that are `taken` wait to be
        started again, the others are dropped."""
        limit_s = 0.0
        for child in children:
            if child.state is not ChildState.RUNNING or child.ended is not None:
                self._put_down(child, child.ended or exits.SHUTDOWN)
                continue
            self._awaited[child.incarnation] = child
            self._move(child, ChildState.STOPPING)
            if brutal or child.spec.shutdown_s == BRUTAL_KILL:
                self._actions.append(KillChild(child.spec.id, child.incarnation))
            else:
                self._actions.append(StopChild(child.spec.id, child.incarnation, exits.SHUTDOWN))
                limit_s = child.spec.shutdown_s
        if self._awaited and 0.0 < limit_s < INFINITY:
            self._deadline = self._set_timer(limit_s)
        while self._awaited:
            match (yield):
                case ChildEnded(_, incarnation, exit_) | ChildFailed(_, incarnation, exit_):
                    self._put_down(self._awaited.pop(incarnation), exit_)
                case Elapsed():
                    self._deadline = None
                    for child in self._awaited.values():
                        self._actions.append(KillChild(child.spec.id, child.incarnation))
                case _:
                    pass
        if self._deadline is not None:
            self._actions.append(CancelTimer(self._deadline))
            self._deadline = None

    def _put_down(self, child: _Child, exit_: Exit) -> None:
        """It does not live any more: it waits for its restart if it is `taken`, else it is dropped."""
        self._forget_timer(child)
        coming = child.taken and self._state is not State.STOPPING
        lost = not coming and (child.taken or child.state is not ChildState.STOPPED)
        child.taken = coming
        child.ended = None
        self._move(child, ChildState.STOPPED)
        if not coming and (child.spec.restart is RestartPolicy.TEMPORARY or self._template is not None):
            del self._children[child.spec.id]
        if lost:
            self._actions.append(Dropped(child.spec.id, exit_))

    def _move(self, child: _Child, state: ChildState) -> None:
        if child.spec.significant:
            self._significant_up += (state is not ChildState.STOPPED) - (child.state is not ChildState.STOPPED)
        child.state = state

    def _set_timer(self, delay_s: float) -> int:
        self._timers += 1
        self._actions.append(SetTimer(self._timers, delay_s))
        return self._timers

    def _forget_timer(self, child: _Child) -> None:
        if child.timer is not None:
            self._actions.append(CancelTimer(child.timer))
            del self._backoffs[child.timer]
            child.timer = None

    # -- commands -----------------------------------------------------------------------------------------

    def _answer(self, ref: Any, error: PlexSpacesError | None) -> None:
        self._actions.append(Answer(ref, error))

    def _add(self, spec: ChildSpec) -> Generator[None, Message, PlexSpacesError | None]:
        if self._template is not None:
            spec = replace(self._template, id=spec.id, content=spec.content)
        elif (flaw := _child_flaw(spec, self._spec.auto_shutdown)) is not None:
            return flaw
        if (present := self._children.get(spec.id)) is not None:
            how = "restart" if _is_down(present) else "terminate"
            state = present.state.value
            return AlreadyExists(f"child {spec.id!r} is {state}: {how} it, or delete it", child=spec.id, state=state)
        child = self._children[spec.id] = _Child(spec, dynamic=not self._declares(spec.id))
        if (failed := (yield from self._start(child))) is None:
            return None
        self._put_down(child, failed)
        self._children.pop(spec.id, None)
        return _failed_to_start(spec.id, failed)

    def _adopt(self, message: AddChild) -> bool:
        """Add a child in the middle of whatever is under way; False if that has to come first."""
        if self._state not in (State.STARTING, State.RUNNING):
            return False
        spec = replace(message.spec, restart=RestartPolicy.TEMPORARY, significant=False)
        if (present := self._children.get(spec.id)) is not None:
            if not present.apart or present.state is not ChildState.RUNNING or present.ended is None:
                return False
            # Its predecessor's end has not been dealt with: there is nothing to decide about it.
            self._put_down(present, present.ended)
        if self._template is not None:
            spec = replace(spec, shutdown_s=self._template.shutdown_s)
        elif (flaw := _child_flaw(spec, self._spec.auto_shutdown)) is not None:
            self._answer(message.ref, flaw)
            return True
        self._incarnations += 1
        self._children[spec.id] = _Child(
            spec,
            dynamic=not self._declares(spec.id),
            apart=True,
            state=ChildState.RUNNING,
            incarnation=self._incarnations,
        )
        self._actions.append(StartChild(spec.id, self._incarnations, spec))
        self._answer(message.ref, None)
        return True

    def _declares(self, child_id: str) -> bool:
        """Whether a child that is added is one that the specification names, which had been forgotten or deleted."""
        return any(child.id == child_id for child in self._spec.children)

    def _terminate_child(self, child_id: str, brutal: bool) -> Generator[None, Message, PlexSpacesError | None]:
        if (child := self._children.get(child_id)) is None:
            return _unknown(child_id)
        self._release(child)
        yield from self._stop([child], brutal=brutal)
        if self._spec.strategy in _TOGETHER:
            for stranded in self._stranded():
                self._release(stranded)
        return None

    def _restart_child(self, child_id: str) -> Generator[None, Message, PlexSpacesError | None]:
        match self._down(child_id, "restart"):
            case PlexSpacesError() as error:
                return error
            case child:
                taken = child.taken
                if (failed := (yield from self._start(child))) is None:
                    return None
                child.taken = taken
                self._put_down(child, failed)
                return _failed_to_start(child_id, failed)

    def _delete_child(self, child_id: str) -> PlexSpacesError | None:
        match self._down(child_id, "delete"):
            case PlexSpacesError() as error:
                return error
            case child:
                self._release(child)
                del self._children[child_id]
                return None

    def _down(self, child_id: str, what: str) -> _Child | PlexSpacesError:
        if self._template is not None:
            return Conflict(f"a simple_one_for_one supervisor cannot {what} a child: terminate it and add another")
        if (child := self._children.get(child_id)) is None:
            return _unknown(child_id)
        if not _is_down(child):
            state = child.state.value
            return Conflict(f"child {child_id!r} is {state}: terminate it first", child=child_id, state=state)
        return child

    def _release(self, child: _Child) -> None:
        """It is not to be taken along by a sibling's restart any more."""
        if child.taken and _is_down(child):
            self._actions.append(Dropped(child.spec.id, exits.SHUTDOWN))
        child.taken = False

    def _stranded(self) -> list[_Child]:
        """Those that were to come back with a sibling, and no sibling is left to take them along."""
        strategy = self._spec.strategy
        waiting = [child for child in self._children.values() if child.state is ChildState.RESTARTING]
        hope = bool(waiting) and strategy is Strategy.ONE_FOR_ALL
        stranded = []
        for child in self._children.values():
            if strategy is Strategy.REST_FOR_ONE and child.state is ChildState.RESTARTING:
                hope = True
            if child.taken and not hope:
                stranded.append(child)
        return stranded

    def _replace(self, spec: SupervisorSpec) -> Generator[None, Message, PlexSpacesError | None]:
        if (flaw := _flaw(spec)) is not None:
            return flaw
        if (self._template is not None) is not (spec.strategy is Strategy.SIMPLE_ONE_FOR_ONE):
            return Conflict("a supervisor cannot become or cease to be simple_one_for_one: remove it and add another")
        before, self._spec = self._spec, spec
        if self._template is not None:
            self._template = spec.children[0]
            for child in self._children.values():
                if not child.apart:
                    self._respecify(child, replace(self._template, id=child.spec.id, content=child.spec.content))
            return None
        wanted = {child.id: child for child in spec.children}
        gone, changed = self._compare(wanted)
        for child in gone.values():
            self._release(child)
        for child in changed.values():
            child.taken = True
        for child in list(reversed(self._children.values())):
            if child.spec.id in gone or child.spec.id in changed:
                yield from self._stop([child])
        added = self._rearrange(wanted, {child.id: child.content for child in before.children})
        to_start = changed | added | {child.spec.id: child for child in self._stranded()}
        failure: PlexSpacesError | None = None
        for child in [child for child in self._children.values() if child.spec.id in to_start]:
            if (failed := (yield from self._start(child))) is not None:
                # It keeps its place, even a temporary one: whoever asked decides what comes next.
                self._move(child, ChildState.STOPPED)
                self._actions.append(Dropped(child.spec.id, failed))
                failure = failure or _failed_to_start(child.spec.id, failed)
        return failure

    def _compare(self, wanted: dict[str, ChildSpec]) -> tuple[dict[str, _Child], dict[str, _Child]]:
        """Which children a new specification ends, and which it makes others."""
        gone, changed = {}, {}
        for child_id, child in self._children.items():
            if (new := wanted.get(child_id)) is None:
                if not child.dynamic:
                    gone[child_id] = child
            elif new.content != child.spec.content:
                changed[child_id] = child
        return gone, changed

    def _rearrange(self, wanted: dict[str, ChildSpec], known: dict[str, object]) -> dict[str, _Child]:
        """Put the children into the order of a new specification, those added at run time last; return the new ones."""
        before, self._children, added = self._children, {}, {}
        for child_id, spec in wanted.items():
            if (child := before.get(child_id)) is not None:
                self._respecify(child, spec)
                child.dynamic = child.apart = False
            elif child_id in known and known[child_id] == spec.content:
                # It has been forgotten (temporary) or deleted since: nothing about it is new.
                continue
            else:
                child = added[child_id] = _Child(spec, taken=True)
            self._children[child_id] = child
        for child_id, child in before.items():
            if child.dynamic and child_id not in wanted:
                self._children[child_id] = child
        return added

    def _respecify(self, child: _Child, spec: ChildSpec) -> None:
        if child.state is not ChildState.STOPPED:
            self._significant_up += spec.significant - child.spec.significant
        child.spec = spec


def _is_down(child: _Child) -> bool:
    return child.state is ChildState.STOPPED


def _unknown(child_id: str) -> NotFound:
    return NotFound(f"there is no child {child_id!r}", child=child_id)


def _failed_to_start(child_id: str, failed: Exit) -> HandlerCrashed:
    return HandlerCrashed(f"child {child_id!r} failed to start: {failed}", child=child_id, exit=failed.text)


def _flaw(spec: SupervisorSpec) -> InvalidArgument | None:
    """What OTP would refuse about a supervisor's specification."""
    if spec.restarts_max < 0:
        return InvalidArgument(f"restarts_max is {spec.restarts_max}: use 0 or more")
    if not spec.window_s > 0:
        return InvalidArgument(f"window_s is {spec.window_s}: use more than 0 seconds")
    if spec.backoff is not None and not 0 < spec.backoff.initial_s <= spec.backoff.max_s:
        return InvalidArgument("back-off needs 0 < initial_s <= max_s")
    if spec.strategy is Strategy.SIMPLE_ONE_FOR_ONE and len(spec.children) != 1:
        return InvalidArgument(f"simple_one_for_one needs one child, the template; there are {len(spec.children)}")
    ids: set[str] = set()
    for child in spec.children:
        if child.id in ids:
            return InvalidArgument(f"there are two children {child.id!r}: ids are unique in a supervisor")
        ids.add(child.id)
        if (flaw := _child_flaw(child, spec.auto_shutdown)) is not None:
            return flaw
    return None


def _child_flaw(spec: ChildSpec, auto_shutdown: AutoShutdown) -> InvalidArgument | None:
    if not spec.shutdown_s >= 0:
        return InvalidArgument(
            f"child {spec.id!r}: shutdown_s is {spec.shutdown_s}: use BRUTAL_KILL, seconds or INFINITY"
        )
    if spec.significant and auto_shutdown is AutoShutdown.NEVER:
        return InvalidArgument(f"child {spec.id!r} is significant, but auto_shutdown is never")
    if spec.significant and spec.restart is RestartPolicy.PERMANENT:
        return InvalidArgument(f"child {spec.id!r} is significant and permanent: it never ends for good")
    return None
