"""The shell around the supervision core: it starts and ends what the core decides, and tells the core what happened.

Nothing here decides.  A `Supervisor` turns the core's actions into starts, stops and timers; actors, nested
supervisors and timers post messages back.  Messages of all supervisors of a node pass through one queue that is
drained where the first was posted: an exit is dealt with before whoever caused it goes on, however deep the tree.

A child's `Place` outlives its incarnations: the name, the mailbox, the facets, the count of restarts.  While a child
is sure to come back, its name belongs to a successor that has not begun yet, so that messages find a mailbox.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from ..actors import exits
from ..actors.actor import Actor, ActorSpec, Deactivate, Run, Upgrade
from ..actors.asks import Asks
from ..actors.capabilities import Grants
from ..actors.envelope import Envelope
from ..actors.exits import Exit
from ..actors.facets import Facets
from ..actors.mailbox import Mailbox
from ..actors.registry import Registry
from ..clock import Clock
from ..errors import ActorExited as ActorEnded
from ..errors import AlreadyExists, HandlerCrashed, PlexSpacesError, Unavailable
from ..events import ActorExited, ActorStarted, EventBus, SupervisorGaveUp
from ..scheduler import Scheduler
from ..scope import Address, Scope
from . import core
from .core import Core, Message
from .spec import ChildSpec, RestartPolicy, Strategy, SupervisorSpec

# What a supervisor tells its parent.
Report = core.Started | core.StartFailed | core.Ended


@dataclass(frozen=True, slots=True)
class Worker:
    """The content of a child that is an actor.

    Attributes:
        detail: what its specification is made from, opaque here; compared to tell whether a changed configuration
            concerns the actor.
    """

    address: Address
    detail: Any


class Branch:
    """The content of a child that is a supervisor.  Compared by identity: a changed configuration is handed to the
    supervisor itself instead of replacing it."""

    __slots__ = ("live", "name", "spec")

    def __init__(self, name: str, spec: SupervisorSpec) -> None:
        self.name = name
        self.spec = spec
        # The supervisor that runs it now.
        self.live: Supervisor | None = None


class _Phase(Enum):
    """Of a place's actor."""

    # It has a name and a mailbox and is not begun.
    WAITING = "waiting"
    STARTING = "starting"
    UP = "up"


@dataclass(slots=True, eq=False)
class Place:
    """What is supervised under one name, whoever fills it at the moment."""

    supervisor: Supervisor
    child_id: str
    worker: Worker
    mailbox: Mailbox[Envelope, Any]
    facets: Facets | None = None
    actor: Actor | None = None
    phase: _Phase = _Phase.WAITING
    # Added by somebody, and the core has yet to hear of it.
    coming: bool = False
    incarnation: int = 0
    restarts: int = 0
    last_exit: Exit | None = None
    # The message that the last incarnation ended with, and what was said of its traceback.
    last_message_id: str = ""
    last_traceback: str = field(default="", repr=False)
    # What its parent might do, for an actor that another one spawned: it never may do more.
    capabilities: Grants | None = None
    # Its present incarnation has got up, or the last one had.
    began: bool = False
    # Told how the first start went, of a child whose supervisor does not wait for that.
    on_up: Callable[[PlexSpacesError | None], None] | None = None

    def up(self, error: PlexSpacesError | None) -> None:
        """Tell how the first start went, once."""
        if (on_up := self.on_up) is not None:
            self.on_up = None
            on_up(error)


class Keepers(Protocol):
    """What the shell needs to know about actors that only the deployment knows."""

    def spec(self, worker: Worker, capabilities: Grants | None) -> ActorSpec:
        """The specification of an actor's next incarnation; `capabilities` narrows what it may do."""

    def facets(self, worker: Worker) -> Facets | None:
        """The facets of a new place."""

    def launch(self, place: Place, actor: Actor, on_started: Callable[[Exit | None], None]) -> None:
        """Start an incarnation, at once or when there is room."""

    def vacated(self, place: Place, exit_: Exit) -> bool:
        """Nobody will fill the place again; True if its mailbox has been taken over."""


class Forest:
    """All supervisors of a node: what they share, and the queue of their messages.

    Args:
        keepers: see `Keepers`.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        registry: Registry,
        asks: Asks,
        clock: Clock,
        events: EventBus,
        loop: asyncio.AbstractEventLoop,
        keepers: Keepers,
    ) -> None:
        self.scheduler = scheduler
        self.registry = registry
        self.asks = asks
        self.clock = clock
        self.events = events
        self.loop = loop
        self.keepers = keepers
        # Every place that somebody may ask about: living, starting, waiting or stopped.
        self.places: dict[Address, Place] = {}
        # Whether an actor was stopped by an operator, and does not start with its supervisor.
        self.stays_down: Callable[[Address], bool] = lambda _address: False
        self.restarts = 0
        self.crashes = 0
        self._inbox: deque[tuple[Supervisor, Message]] = deque()
        self._draining = False

    def post(self, supervisor: Supervisor, message: Message) -> None:
        """Let a supervisor deal with a message, after those that came before."""
        self._inbox.append((supervisor, message))
        if self._draining:
            return
        self._draining = True
        try:
            while self._inbox:
                receiver, next_message = self._inbox.popleft()
                receiver.handle(next_message)
        finally:
            self._draining = False

    def incarnate(self, place: Place) -> Actor:
        """A successor that holds the name and has not begun.

        Raises:
            AlreadyExists, LimitExceeded
        """
        spec = self.keepers.spec(place.worker, place.capabilities)
        # The mailbox may be a predecessor's, with another limit.
        place.mailbox.resize(spec.limits.mailbox_messages_max)
        actor = Actor(
            place.worker.address,
            spec,
            place.supervisor.actor_ended(place),
            started_ms=self.clock.now_ns() // 1_000_000,
            mailbox=place.mailbox,
            facets=place.facets,
        )
        self.registry.add(actor)
        self.places[place.worker.address] = place
        place.actor = actor
        place.phase = _Phase.WAITING
        return actor

    def enter(self, place: Place) -> None:
        """Let a place be found by its name, unless another's actor has that."""
        present = self.places.get(place.worker.address)
        if present is None or present.actor is None:
            self.places[place.worker.address] = place

    def discard(self, place: Place, exit_: Exit) -> None:
        """Take the name from a successor that has not begun."""
        if (waiting := place.actor) is not None:
            place.actor = None
            self.registry.remove(waiting)
            self.scheduler.kill(waiting, exit_)

    def vacate(self, place: Place, exit_: Exit) -> None:
        """Nobody will come back to the place: its name is free, what waits in the mailbox is answered."""
        self.discard(place, exit_)
        _purge(place.mailbox)
        while (signal := place.mailbox.take_system()) is not None:
            signal.on_done(_gone(place, exit_))
        if self.keepers.vacated(place, exit_):
            return
        for envelope in place.mailbox.drain():
            if envelope.pending is not None:
                self.asks.end(envelope.pending, _gone(place, exit_))


class Supervisor:
    """One supervisor that runs.

    Args:
        path: where it stands, for people: `application/child/child`.
        parent: told `Started`, `StartFailed` and `Ended`.
    """

    def __init__(
        self,
        forest: Forest,
        scope: Scope,
        path: str,
        spec: SupervisorSpec,
        parent: Callable[[Report], None],
    ) -> None:
        self.forest = forest
        self.scope = scope
        self.path = path
        self.core = Core(spec)
        self.places: dict[str, Place] = {}
        self.branches: dict[str, Supervisor] = {}
        # Set when the intensity was exceeded: why this supervisor ends.
        self.gave_up: Exit | None = None
        self.last_traceback = ""
        # Its children come and go by design: their coming is no news.
        self._passing = spec.strategy is Strategy.SIMPLE_ONE_FOR_ONE
        self._parent = parent
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._answers: dict[object, Callable[[PlexSpacesError | None], None]] = {}
        self._ref = 0
        self._over = False
        self._killed = False

    # -- what others ask of it ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the children in order, but for those that are to stay down; the parent hears how it went."""
        down = (
            child.id
            for child in self.core.spec.children
            if isinstance(child.content, Worker) and self.forest.stays_down(child.content.address)
        )
        self.forest.post(self, core.Start(frozenset(down)))

    def shutdown(self, exit_: Exit = exits.SHUTDOWN) -> None:
        """End the children in reverse order, then this supervisor; the parent hears of it."""
        self.forest.post(self, core.Shutdown(exit_))

    def kill(self) -> None:
        """End this supervisor and everything below it at once; the parent hears of it when nothing lives any more."""
        if self._over:
            return
        self._close()
        self._killed = True
        for branch in reversed(list(self.branches.values())):
            branch.kill()
        for place in reversed(list(self.places.values())):
            if place.actor is not None and place.phase is not _Phase.WAITING:
                self.forest.scheduler.kill(place.actor, exits.KILLED)
            else:
                self._forget(place, exits.KILLED)
        self._report_if_gone()

    def request(self, make: Callable[[int], Message], answered: Callable[[PlexSpacesError | None], None]) -> None:
        """Post a message that is answered; `make` gets the reference that it must carry."""
        if self._over:
            answered(_over(self))
            return
        self._ref += 1
        self._answers[self._ref] = answered
        self.forest.post(self, make(self._ref))

    def replace(self, spec: SupervisorSpec, answered: Callable[[PlexSpacesError | None], None]) -> None:
        """Go over to another specification, touching only the children that it changes."""

        def replaced(error: PlexSpacesError | None) -> None:
            # Of a child that was down already, or was taken out after it had ended, no end is told.
            for place in list(self.places.values()):
                if not place.coming and not self.core.knows(place.child_id):
                    self._forget(place, exits.SHUTDOWN)
            answered(error)

        self.request(lambda ref: core.Replace(ref, spec), replaced)

    def add(
        self,
        spec: ChildSpec,
        answered: Callable[[PlexSpacesError | None], None],
        *,
        mailbox: Mailbox[Envelope, Any] | None = None,
        created: Callable[[Actor], None] | None = None,
        capabilities: Grants | None = None,
    ) -> Actor:
        """Add and start an actor at run time; its name, mailbox and actor are there when this returns.

        A temporary one counts as started at once: its `init` may wait for something without making its supervisor
        wait, which is not going to start it again anyway; and it need not wait for its supervisor, which may be
        starting the very actor that waits for it.

        Args:
            answered: told None once the actor is up, or why it is not.
            mailbox: of a predecessor.
            created: called with the actor before anything of it runs; if it is dead then, it is not started.
            capabilities: what it may do at most; None for whatever its type may.

        Raises:
            AlreadyExists, LimitExceeded: the name is taken, the tenant has as many actors as it may.
        """
        if self._over:
            raise _over(self)
        worker = spec.content
        assert isinstance(worker, Worker)
        stopped = self.forest.places.get(worker.address)
        if stopped is not None and stopped.supervisor.core.is_down(stopped.child_id):
            raise AlreadyExists(
                f"actor {worker.address.text!r} exists already in namespace {worker.address.scope.namespace!r}: it is "
                "down, and its name is kept for when it is restarted"
            )
        place = Place(
            self, spec.id, worker, mailbox or self._mailbox(worker), self.forest.keepers.facets(worker),
            capabilities=capabilities,
        )  # fmt: skip
        actor = self.forest.incarnate(place)
        place.coming = True
        self._enter(place)
        if created is not None:
            created(actor)
            if not actor.alive:
                # Tied to somebody who has ended meanwhile.
                self._forget(place, exits.NOPROC)
                answered(_cannot_start(place, exits.NOPROC))
                return actor
        if spec.restart is RestartPolicy.TEMPORARY:
            place.on_up = answered
            self.request(lambda ref: core.AddChild(ref, spec, at_once=True), lambda error: self._refused(place, error))
        else:
            self.request(lambda ref: core.AddChild(ref, spec), lambda error: self._refused(place, error, answered))
        return actor

    def _refused(
        self,
        place: Place,
        error: PlexSpacesError | None,
        answered: Callable[[PlexSpacesError | None], None] | None = None,
    ) -> None:
        """The core has answered to an addition: if it would not have it, the name is free again."""
        if error is not None and place.coming:
            self._forget(place, exits.SHUTDOWN)
        if answered is not None:
            answered(error)
        elif error is not None:
            place.up(error)

    # -- messages -----------------------------------------------------------------------------------------

    def handle(self, message: Message) -> None:
        """Let the core decide, then do."""
        if self._over:
            return
        actions = self.core.handle(message, self.forest.clock.monotonic_ns() / 1e9)
        if isinstance(message, core.ChildEnded | core.ChildFailed):
            self._say_exit(message, actions)
        for action in actions:
            self._do(action)
            if self._over:
                return
        if isinstance(message, core.ChildEnded | core.ChildFailed):
            self._settle(message.child_id, message.exit)

    def _do(self, action: core.Action) -> None:
        match action:
            case core.StartChild(child_id, incarnation, spec):
                if isinstance(spec.content, Branch):
                    self._start_branch(child_id, incarnation, spec.content)
                else:
                    self._start_worker(child_id, incarnation, spec.content)
            case core.StopChild(child_id, incarnation, exit_):
                if (branch := self.branches.get(child_id)) is not None:
                    branch.shutdown(exit_)
                elif (actor := self._actor(child_id, incarnation)) is not None:
                    # One that waits for room has nothing to finish.
                    end = self.forest.scheduler.kill if actor.run is Run.NEW else self.forest.scheduler.stop
                    end(actor, exit_)
            case core.KillChild(child_id, incarnation):
                if (branch := self.branches.get(child_id)) is not None:
                    branch.kill()
                elif (actor := self._actor(child_id, incarnation)) is not None:
                    self.forest.scheduler.kill(actor, exits.KILLED)
            case core.SetTimer(timer, delay_s):
                self._timers[timer] = self.forest.loop.call_later(delay_s, self._elapsed, timer)
            case core.CancelTimer(timer):
                if (handle := self._timers.pop(timer, None)) is not None:
                    handle.cancel()
            case core.Answer(ref, error):
                self._answers.pop(ref)(error)
            case core.Restarting(child_id):
                self.forest.restarts += 1
                if (place := self.places.get(child_id)) is not None:
                    place.restarts += 1
            case core.GaveUp(child_id, exit_, restarts):
                self.gave_up = exit_
                self.forest.events.emit(
                    SupervisorGaveUp(
                        self.scope, self.path, child_id, exit_.text, restarts, self.core.spec.window_s
                    )
                )
            case core.Dropped(child_id, exit_):
                self._settle(child_id, exit_)
            case core.Started():
                self._parent(action)
            case core.StartFailed(_, exit_) | core.Ended(exit_):
                self._close()
                for place in list(self.places.values()):
                    self._forget(place, exit_)
                self._parent(action)

    def _elapsed(self, timer: int) -> None:
        self._timers.pop(timer, None)
        self.forest.post(self, core.Elapsed(timer))

    def _close(self) -> None:
        """Nothing is expected any more: no timer, no message, no request."""
        self._over = True
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        answers, self._answers = self._answers, {}
        for answered in answers.values():
            answered(_over(self))

    def _report_if_gone(self) -> None:
        # An actor on another thread dies when that thread hands it back.
        if self._killed and not self.places and not self.branches:
            self._killed = False
            self._parent(core.Ended(exits.KILLED))

    # -- children -----------------------------------------------------------------------------------------

    def _start_worker(self, child_id: str, incarnation: int, worker: Worker) -> None:
        place = self.places.get(child_id)
        if place is None or place.worker is not worker:
            place = self._replace(child_id, worker, place)
        place.coming = False
        place.incarnation = incarnation
        waiting = place.actor
        at_once = place.on_up is not None
        try:
            # One that was killed before it began may not have been told of yet.
            actor = waiting if waiting is not None and waiting.alive else self.forest.incarnate(place)
        except PlexSpacesError as error:
            failed_to_start = core.ChildEnded if at_once else core.ChildFailed
            place.up(error)
            self.forest.post(
                self, failed_to_start(child_id, incarnation, exits.crashed(error.code, error.message))
            )
            return
        place.phase = _Phase.STARTING
        place.began = False

        def started(failed: Exit | None) -> None:
            # Of a start that failed `actor_ended` has spoken.
            if failed is not None or place.actor is not actor:
                return
            place.began = True
            self.forest.events.emit(
                ActorStarted(actor.address, actor.spec.component_hash, place.restarts, self._passing)
            )
            if at_once:
                place.up(None)
            else:
                place.phase = _Phase.UP
                self.forest.post(self, core.ChildStarted(child_id, incarnation))

        if at_once:
            place.phase = _Phase.UP
        self.forest.keepers.launch(place, actor, started)

    def _start_branch(self, child_id: str, incarnation: int, branch: Branch) -> None:
        def reported(report: Report) -> None:
            message: Message
            match report:
                case core.Started():
                    message = core.ChildStarted(child_id, incarnation)
                case core.StartFailed(_, exit_):
                    message = core.ChildFailed(child_id, incarnation, exit_)
                case core.Ended(exit_):
                    message = core.ChildEnded(child_id, incarnation, exit_)
            if not isinstance(report, core.Started):
                del self.branches[child_id]
                branch.live = None
            if self._over:
                self._report_if_gone()
            else:
                self.forest.post(self, message)

        if (place := self.places.get(child_id)) is not None:
            # The child was an actor, and has been configured anew.
            self._forget(place, exits.SHUTDOWN)
        supervisor = Supervisor(self.forest, self.scope, f"{self.path}/{branch.name}", branch.spec, reported)
        self.branches[child_id] = branch.live = supervisor
        supervisor.start()

    def _replace(self, child_id: str, worker: Worker, old: Place | None) -> Place:
        """The place of a child that is new, or configured anew: then what waits in the mailbox stays."""
        mailbox = self._mailbox(worker) if old is None else old.mailbox
        place = Place(self, child_id, worker, mailbox, self.forest.keepers.facets(worker))
        if old is not None:
            place.restarts, place.last_exit = old.restarts, old.last_exit
            self.forest.discard(old, exits.SHUTDOWN)
        self._enter(place)
        return place

    def _enter(self, place: Place) -> None:
        self.places[place.child_id] = place
        self.forest.enter(place)

    def _mailbox(self, worker: Worker) -> Mailbox[Envelope, Any]:
        return Mailbox(self.forest.keepers.spec(worker, None).limits.mailbox_messages_max)

    def _actor(self, child_id: str, incarnation: int) -> Actor | None:
        """The actor that is this incarnation; None if it has ended, which the core will hear in its turn."""
        place = self.places.get(child_id)
        return place.actor if place is not None and place.incarnation == incarnation else None

    def actor_ended(self, place: Place) -> Callable[[Actor, Exit], None]:
        """What an actor of `place` calls when it has ended."""

        def ended(actor: Actor, exit_: Exit) -> None:
            self.forest.registry.remove(actor)
            if place.actor is not actor:
                return
            place.actor = None
            _purge(place.mailbox)
            if place.phase is _Phase.WAITING:
                # Ended before it began, by a link for instance: the core knows nothing of it.
                self._settle(place.child_id, exit_)
                return
            started = place.phase is _Phase.UP
            place.phase = _Phase.WAITING
            place.last_exit = exit_
            place.last_message_id = actor.current_id
            place.up(_cannot_start(place, exit_))
            if not exit_.orderly:
                self.forest.crashes += 1
            if self._over:
                self._emit_exit(place, exit_, None)
                self._forget(place, exit_)
                self._report_if_gone()
                return
            message = core.ChildEnded if started else core.ChildFailed
            self.forest.post(self, message(place.child_id, place.incarnation, exit_))

        return ended

    def _settle(self, child_id: str, exit_: Exit) -> None:
        """Give the name of a child that has ended to its successor, or to nobody."""
        place = self.places.get(child_id)
        if place is None or place.coming or (place.actor is not None and place.phase is not _Phase.WAITING):
            return
        if self.core.comes_back(child_id):
            if place.actor is None:
                try:
                    self.forest.incarnate(place)
                except PlexSpacesError:
                    # The tenant's other actors have taken the room meanwhile: the start itself will say so.
                    return
        elif self.core.knows(child_id):
            self.forest.vacate(place, place.last_exit or exit_)
        else:
            self._forget(place, exit_)

    def _forget(self, place: Place, exit_: Exit) -> None:
        if self.places.get(place.child_id) is place:
            del self.places[place.child_id]
        if self.forest.places.get(place.worker.address) is place:
            del self.forest.places[place.worker.address]
        self.forest.vacate(place, place.last_exit or exit_)

    # -- what is said -------------------------------------------------------------------------------------

    def _say_exit(self, message: core.ChildEnded | core.ChildFailed, actions: list[core.Action]) -> None:
        place = self.places.get(message.child_id)
        if place is None or place.incarnation != message.incarnation:
            return
        restarting = next((a for a in actions if isinstance(a, core.Restarting)), None)
        self._emit_exit(place, message.exit, restarting)

    def _emit_exit(self, place: Place, exit_: Exit, restarting: core.Restarting | None) -> None:
        # The same traceback again would be a flood, not news.
        teller = self if self._passing else place
        traceback = "" if exit_.traceback == teller.last_traceback else exit_.traceback
        teller.last_traceback = exit_.traceback or teller.last_traceback
        self.forest.events.emit(
            ActorExited(
                address=place.worker.address,
                reason=exit_.text,
                orderly=exit_.orderly,
                traceback=traceback,
                message_id=place.last_message_id,
                comes_back=not self._over and self.core.comes_back(place.child_id),
                restarts_in_window=restarting.restarts_in_window if restarting is not None else 0,
                restarts_max=self.core.spec.restarts_max,
                delay_s=restarting.delay_s if restarting is not None else 0.0,
                cause=exit_.cause,
                passing=self._passing,
            )
        )


def _purge(mailbox: Mailbox[Envelope, Any]) -> None:
    """Drop the signals that were for the incarnation that has ended; a new version is for whoever comes next, too."""
    upgrades: list[Upgrade] = []
    while (signal := mailbox.take_system()) is not None:
        if isinstance(signal, Upgrade):
            upgrades.append(signal)
        elif isinstance(signal, Deactivate):
            signal.on_done(None)
    for upgrade in upgrades:
        mailbox.offer_system(upgrade)


def _cannot_start(place: Place, exit_: Exit) -> HandlerCrashed:
    return HandlerCrashed(
        f"actor {place.worker.address.text!r} could not start: {exit_.message or exit_.text}", exit=exit_.text
    )


def _gone(place: Place, exit_: Exit) -> ActorEnded:
    return ActorEnded(
        f"actor {place.worker.address.text!r} ended ({exit_.text}) before it came to this message", exit=exit_.text
    )


def _over(supervisor: Supervisor) -> Unavailable:
    return Unavailable(f"supervisor {supervisor.path!r} has ended", supervisor=supervisor.path)
