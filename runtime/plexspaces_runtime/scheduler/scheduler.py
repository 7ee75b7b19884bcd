"""The run queue: one actor at a time, one message or one time slice each, then to the back of the queue.

The queue is fair between tenants (see `fair.py`): each turn is charged to the actor's tenant, with all that the node
does for it meanwhile.

What the BEAM does with reductions is done here with time.  A turn on the loop ends after `slice_ms`, so that sockets
and timers get theirs; a guest that burns CPU is interrupted by the epoch (see `wasm/ticker.py`) and goes to the back;
one that keeps burning goes on on another thread.  A guest that calls the host is suspended, the call is served right
here on the loop's stack, and the guest goes on at once if the answer is there.

Ownership (`Run` in `actors/actor.py`): an actor is in the queue exactly when it is READY; its guest is polled only
while it is RUNNING (here) or OFFLOADED (there).  One that runs in another process (AWAY) is nobody's here: it is polled
when there is news of it.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Final, Protocol

import orjson

from ..actors import exits, lifecycle, links
from ..actors.actor import Actor, ActorSpec, Deactivate, Run, Step, Stop, Upgrade
from ..actors.asks import Asks
from ..actors.deadlines import Deadlines
from ..actors.envelope import Envelope, Kind
from ..actors.exits import Exit
from ..actors.facets import Keeper
from ..actors.guest import Export, Failure, Guest, HostRequest, Poll, Remote, Result, Trapped
from ..actors.sizes import check_size
from ..clock import Clock
from ..config import Limits
from ..errors import (
    ActorExited,
    Conflict,
    HandlerCrashed,
    HandlerRefused,
    LimitExceeded,
    PermissionDenied,
    PlexSpacesError,
)
from ..events import (
    CallerRefused,
    DeactivationRefused,
    EventBus,
    FiberOffloaded,
    MessageExpired,
    MessageRefused,
    NodeFault,
)
from .fair import FairQueue, Lane
from .offload import Offloader


class _Pending(Enum):
    PENDING = "pending"


# What `serve` answers when the result comes later, through `Scheduler.resume`.
PENDING: Final = _Pending.PENDING


# For how long after the last change from one tenant's actors to another's the node counts as shared.
_SHARED_NS: Final = 1_000_000_000
# A turn is so many times shorter then, and so many rounds of the loop lie between two.
_SHARED_PARTS: Final = 8
_WAYS: Final = 2


class GuestTrap(Exception):
    """A host function whose type has no room for an error refuses: the guest traps with this text."""


class Ticker(Protocol):
    """Makes a guest that has been running for a while give control back."""

    def enter(self) -> None:
        """A guest begins to run on the loop."""

    def leave(self) -> None:
        """It gave control back."""

    def offloading(self, active: bool) -> None:
        """Guests run (or no longer run) on other threads."""

    def sharing(self, active: bool) -> None:
        """Several tenants use the node (or no longer do): guests are to give way sooner (or not)."""


class _WallLimit:
    """A message, or a step of a plan, that is suspended; `Deadlines` keeps it."""

    __slots__ = ("actor", "bucket", "work")

    def __init__(self, actor: Actor, work: Envelope | Step) -> None:
        self.actor = actor
        self.work = work
        self.bucket = -1


@dataclass(frozen=True, slots=True)
class _Ended:
    """A dead actor whose end nobody has heard of; `step` is what it was in the middle of."""

    actor: Actor
    exit: Exit
    step: Step | None


class Scheduler:
    """Runs actors.

    Args:
        clock: time.
        limits: slices, off-loading.
        events: told what happens.
        asks: the questions under way.
        ticker: the epoch.
        serve: answers a host call at once, or answers `PENDING` and calls `resume` later.
        release: takes a dead actor out of every store (names, groups, timers), before anybody hears of its end.
        set_wall_alarm: like `Deadlines`' alarm, for suspended messages.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        limits: Limits,
        events: EventBus,
        asks: Asks,
        ticker: Ticker,
        serve: Callable[[Actor, HostRequest], Any],
        release: Callable[[Actor], None],
        set_wall_alarm: Callable[[float], None],
    ) -> None:
        self._clock = clock
        self._now_ns = clock.monotonic_ns
        self._events = events
        self._asks = asks
        self._ticker = ticker
        self._serve = serve
        self._release = release
        self._ready: FairQueue[Actor] = FairQueue()
        self._scheduled = False
        # While an actor runs, nobody else is begun: not from within an event, not from within a reply.
        self._in_turn = False
        self._breathing = False
        self._direct_until_ns = 0
        # The dead whose end has yet to be told, in the order they died.
        self._ended: deque[_Ended] = deque()
        self._telling = False
        self._slice_ns = self._turn_ns = limits.slice_ms * 1_000_000
        # Actors of several tenants were woken of late.
        self._shared = False
        self._shared_until_ns = 0
        # Nobody's at first, so that no actor without a lane seems to be in it.
        self._nobodys: Lane[Actor] = Lane()
        self._last_lane = self._nobodys
        self._offload_after_ns = self._slice_ns * limits.offload_after_slices
        self._loop = asyncio.get_running_loop()
        self._offloader = Offloader(
            limits.offload_threads, clock, self._loop.call_soon_threadsafe, self._returned, ticker.offloading
        )
        self._walls = Deadlines(clock, set_wall_alarm, self._wall_reached)
        self.ring_walls = self._walls.ring
        self._wall_of: dict[Actor, _WallLimit] = {}
        # For /metrics.
        self.preemptions = 0
        self.offloads = 0
        self.messages = 0

    # -- what others ask of it ----------------------------------------------------------------------------

    def start(self, actor: Actor, state: str | None, on_started: Callable[[Exit | None], None]) -> None:
        """Instantiate, restore `state` if there is one, and run `init`.

        `on_started` hears None, or why the actor could not start (it is dead then).
        """

        def failed(exit_: Exit) -> None:
            self._end(actor, exit_)
            on_started(exit_)

        def ready() -> None:
            actor.advance(lifecycle.Event.STARTED)
            actor.spawner = None
            if actor.facets is not None:
                actor.facets.started()
            on_started(None)

        def go(known: str | None) -> None:
            try:
                actor.guest = actor.spec.new_guest()
            except PlexSpacesError as error:
                failed(exits.limit("instances", error.message))
                return
            actor.plan = self._start_plan(actor, actor.spec, lambda: known, ready, failed, actor.keeper)
            self._wake(actor)

        if actor.keeper is None:
            go(state)
        else:
            actor.keeper.recover(actor, go, failed)

    def deliver(self, actor: Actor, envelope: Envelope) -> bool:
        """Put a message into the mailbox; False when that is full.

        Raises:
            PermissionDenied: its caller may not send that.
            PlexSpacesError: a facet refuses it.
        """
        if actor.spec.access is not None:
            self._check_access(actor, envelope)
        if (facets := actor.facets) is not None:
            if envelope.kind is not Kind.INFO:
                facets.admit(envelope)
            if facets.divert(envelope):
                return True
        if not actor.mailbox.offer(envelope):
            return False
        if actor.run is Run.RESTING:
            self._wake(actor)
        return True

    def deliver_and_run(self, actor: Actor, envelope: Envelope) -> bool:
        """As `deliver`, but if the actor would be the next to run, run it right now.

        Saves two rounds of the event loop, a fifth of a short call.  For callers outside the scheduler only.  So that
        a caller who asks again and again does not keep the loop from its sockets, this goes on for one slice; then
        messages take the queue until the loop has had its turn.
        """
        if self._in_turn or actor.run is not Run.RESTING or envelope.repeatable:
            return self.deliver(actor, envelope)
        if (lane := actor.lane) is not self._last_lane:
            lane = self._other_lane(actor)
        if self._ready and not self._ready.is_next(lane):
            return self.deliver(actor, envelope)
        now_ns = self._now_ns()
        if not self._breathing:
            self._breathing = True
            self._direct_until_ns = now_ns + self._turn_ns
            self._loop.call_soon(self._breathe)
        elif now_ns >= self._direct_until_ns:
            return self.deliver(actor, envelope)
        if actor.spec.access is not None:
            self._check_access(actor, envelope)
        if (facets := actor.facets) is not None:
            facets.admit(envelope)
            if facets.divert(envelope):
                return True
        if not actor.mailbox.offer(envelope):
            return False
        actor.run = Run.READY
        self._in_turn = True
        try:
            self._guarded_run(actor)
        finally:
            self._in_turn = False
            lane.owed_ns += self._now_ns() - now_ns
        return True

    def _check_access(self, actor: Actor, envelope: Envelope) -> None:
        access = actor.spec.access
        # What an actor has the node tell itself, its timers for instance, nobody else can have sent.
        if access is None or envelope.kind is Kind.INFO:
            return
        try:
            access.check(actor.address, envelope)
        except PermissionDenied as denied:
            caller, sender = envelope.caller, envelope.sender
            self._events.emit(
                CallerRefused(
                    actor.address,
                    envelope.id,
                    envelope.op,
                    caller.subject if caller is not None else "",
                    sender.text if sender is not None else "",
                    envelope.causation_id,
                    denied.message,
                )
            )
            raise

    def _breathe(self) -> None:
        self._breathing = False

    def wake(self, actor: Actor) -> None:
        """Something has come into the mailbox by another way."""
        if actor.run is Run.RESTING and actor.alive:
            self._wake(actor)

    def notify(self, actor: Actor, notice: Envelope) -> None:
        """Tell a living actor something of the node's: it goes before other messages, and no limit refuses it."""
        actor.mailbox.offer_system(notice)
        self.wake(actor)

    def stop(self, actor: Actor, exit_: Exit) -> None:
        """Let the actor finish its message and run its `terminate`, then end it."""
        actor.mailbox.offer_system(Stop(exit_))
        self.wake(actor)

    def kill(self, actor: Actor, exit_: Exit = exits.KILLED) -> None:
        """End the actor now, whatever it is doing."""
        if actor.alive:
            self._end(actor, exit_)

    def upgrade(self, actor: Actor, spec: ActorSpec, on_done: Callable[[Exception | None], None]) -> None:
        """Let the actor go on as `spec`, between two messages, with its state."""
        actor.mailbox.offer_system(Upgrade(spec, on_done))
        self.wake(actor)

    def deactivate(self, actor: Actor, on_done: Callable[[str | None], bool]) -> None:
        """End the actor with its state kept, if it is idle when its turn comes: see `Deactivate`.

        `on_done` is called before the actor's exit is told to anybody.
        """
        actor.mailbox.offer_system(Deactivate(on_done))
        self.wake(actor)

    def describe(self, actor: Actor, on_done: Callable[[Result], None]) -> None:
        """Run `describe` on a fresh instance of an actor that nobody can address, then discard it."""

        def described(result: Result) -> bool:
            self._end(actor, exits.NORMAL)
            on_done(result)
            return False

        def instantiated(result: Result) -> bool:
            if isinstance(result, Trapped | Failure):
                return described(result)
            return True

        actor.guest = actor.spec.new_guest()
        actor.plan = [
            Step(Export.INSTANTIATE, tuple, instantiated),
            Step(Export.DESCRIBE, tuple, described),
        ]
        self._wake(actor)

    def try_out(self, actor: Actor) -> None:
        """Run the plan of an actor that nobody can address, on a fresh instance; whoever made the plan ends the actor.

        Raises:
            LimitExceeded: there is no room for another instance.
        """
        actor.guest = actor.spec.new_guest()
        self._wake(actor)

    def resume(self, actor: Actor, token: int, value: Any) -> None:
        """The answer to a host call that was `PENDING`; one that comes too late is dropped."""
        if actor.run is not Run.WAITING or actor.wait_token != token:
            return
        assert actor.guest is not None
        if actor.keeper is not None:
            actor.keeper.answered(value)
        actor.guest.answer(value)
        self._wake(actor)

    def close(self) -> None:
        """End the other threads.  All actors must be dead."""
        self._offloader.stop()

    @property
    def offloaded(self) -> int:
        """How many actors are on other threads now."""
        return self._offloader.count

    @property
    def ready(self) -> int:
        """How many actors are in the run queue now."""
        return len(self._ready)

    # -- the queue ----------------------------------------------------------------------------------------

    def _wake(self, actor: Actor) -> None:
        actor.run = Run.READY
        if (lane := actor.lane) is not self._last_lane:
            lane = self._other_lane(actor)
        self._ready.push(lane, actor)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _other_lane(self, actor: Actor) -> Lane[Actor]:
        """The lane of an actor that is not of the tenant whose actor was woken last, or was never woken."""
        lane: Lane[Actor] | None = actor.lane
        if lane is None:
            lane = actor.lane = self._ready.lane(actor.address.scope.tenant)
        if lane is not self._last_lane:
            if self._last_lane is not self._nobodys:
                self._shared_until_ns = self._now_ns() + _SHARED_NS
                if not self._shared:
                    self._share(True)
            self._last_lane = lane
        return lane

    def _share(self, shared: bool) -> None:
        """Several tenants use the node, or no longer do.

        Whose turn it is is decided fairly, but who comes while another's guest runs waits until that gives way, and
        then for the sockets.  So turns and slices are shorter while there is somebody who could come.
        """
        self._shared = shared
        self._turn_ns = self._slice_ns // _SHARED_PARTS if shared else self._slice_ns
        self._ticker.sharing(shared)

    def _turn(self) -> None:
        """Run ready actors for a turn, then let the loop see to sockets and timers."""
        ready = self._ready
        now_ns = self._now_ns
        began_ns = now_ns()
        if self._shared and began_ns >= self._shared_until_ns:
            self._share(False)
        until_ns = began_ns + self._turn_ns
        self._in_turn = True
        while ready:
            lane, actor = ready.pop()
            # It may have been killed since it was queued.
            if actor.run is Run.READY:
                self._guarded_run(actor)
                ended_ns = now_ns()
                lane.owed_ns += ended_ns - began_ns
                if ended_ns >= until_ns:
                    break
                began_ns = ended_ns
        self._in_turn = False
        if not ready:
            self._scheduled = False
        elif self._shared:
            self._loop.call_soon(self._make_way, _WAYS)
        else:
            self._loop.call_soon(self._turn)

    def _make_way(self, rounds: int) -> None:
        """Let the loop go round before the next turn: a request takes a few rounds from its socket to its reply."""
        if rounds > 1:
            self._loop.call_soon(self._make_way, rounds - 1)
        else:
            self._loop.call_soon(self._turn)

    def _guarded_run(self, actor: Actor) -> None:
        try:
            self._run(actor)
        except Exception as fault:  # noqa: BLE001 - a crash becomes an exit: of this actor, not of the node
            self._fault(actor, fault)

    def _fault(self, actor: Actor, fault: Exception) -> None:
        """A bug of the node came up while it ran an actor: the others must not notice."""
        self._report(actor, fault)
        self._end(actor, exits.crashed("internal", f"a fault of the node ({type(fault).__name__}: {fault})"))

    def _report(self, actor: Actor, fault: Exception) -> None:
        text = f"{type(fault).__name__}: {fault}"
        self._events.emit(NodeFault(actor.address, text, "".join(traceback.format_exception(fault))))

    def _run(self, actor: Actor) -> None:
        """One message, or one slice of it."""
        if actor.current is None and actor.step is None and not self._begin_next(actor):
            actor.run = Run.RESTING
            return
        actor.run = Run.RUNNING
        guest = actor.guest
        assert guest is not None
        ticker = self._ticker
        began_ns = self._now_ns()
        while True:
            ticker.enter()
            outcome = guest.poll()
            ticker.leave()
            if outcome is Poll.DONE:
                used_ns = self._now_ns() - began_ns
                actor.cpu_ns += used_ns
                self._done(actor)
                return
            if outcome is Poll.REQUEST and self._answer(actor, guest):
                # Served on the spot.  A guest that calls and calls must not keep the loop either.
                if self._now_ns() - began_ns < self._turn_ns:
                    continue
            elif actor.run is not Run.RUNNING:
                # Suspended, or dead: a host call may end its own caller.
                if actor.run is Run.WAITING:
                    actor.cpu_ns += self._now_ns() - began_ns
                return
            actor.cpu_ns += self._now_ns() - began_ns
            if outcome is Poll.AWAY:
                self._part(actor, guest)
                return
            self.preemptions += 1
            self._go_on(actor)
            return

    def _part(self, actor: Actor, guest: Guest) -> None:
        """The guest runs in another process: its actor is heard of again when that reports, or is lost."""
        assert isinstance(guest, Remote)

        def back(used_ns: int) -> None:
            if actor.run is Run.AWAY and actor.guest is guest:
                actor.cpu_ns += used_ns
                self._wake(actor)

        def lost(exit_: Exit) -> None:
            if guest is actor.guest and actor.previous_guest is not None:
                # The version that was being tried.
                self._overrun(actor, exit_)
            elif guest in (actor.guest, actor.previous_guest):
                self._end(actor, exit_)

        actor.run = Run.AWAY
        self._watch_wall(actor)
        guest.on_news, guest.on_lost = back, lost

    def _go_on(self, actor: Actor) -> None:
        """The guest has more to do: to the back of the queue, to another thread, or no further."""
        cpu_ns_max = actor.spec.limits.cpu_ms_per_message_max * 1_000_000
        if actor.cpu_ns >= cpu_ns_max:
            self._overrun(
                actor,
                exits.limit(
                    "cpu",
                    f"used {actor.cpu_ns // 1_000_000} ms of processor time for one message, more than "
                    f"cpu_ms_per_message_max = {actor.spec.limits.cpu_ms_per_message_max}",
                ),
            )
        elif isinstance(actor.guest, Remote):
            self._wake(actor)
        elif (actor.cpu_ns - actor.cpu_called_ns if actor.in_run else actor.cpu_ns) >= self._offload_after_ns:
            # What a run has used in all says nothing: it may have gone on for days, a little at a time.
            self._offload(actor, cpu_ns_max - actor.cpu_ns)
        else:
            self._wake(actor)

    def _offload(self, actor: Actor, cpu_ns_left: int) -> None:
        # Counted once per message, said once per message: a chatty one goes to and fro.
        if actor.run is not Run.OFFLOADED and actor.cpu_budget_ns == 0:
            self.offloads += 1
            self._events.emit(FiberOffloaded(actor.address, actor.current_id, actor.cpu_ns / 1e6))
        actor.run = Run.OFFLOADED
        self._offloader.submit(actor, cpu_ns_left)

    def _returned(self, actor: Actor, outcome: Poll, used_ns: int) -> None:
        """An off-loaded actor is ours again."""
        actor.cpu_ns += used_ns
        actor.run = Run.RUNNING
        if actor.ending is not None:
            self._end(actor, actor.ending)
            return
        assert actor.guest is not None
        try:
            match outcome:
                case Poll.DONE:
                    self._done(actor)
                case Poll.REQUEST:
                    if self._answer(actor, actor.guest):
                        self._go_on(actor)
                case Poll.PREEMPTED:
                    self._go_on(actor)
        except Exception as fault:  # noqa: BLE001 - as in `_guarded_run`
            self._fault(actor, fault)

    # -- host calls ---------------------------------------------------------------------------------------

    def _answer(self, actor: Actor, guest: Guest) -> bool:
        """Serve the guest's request; True when it can go on at once."""
        actor.host_calls += 1
        limits = actor.spec.limits
        if actor.host_calls > limits.host_calls_per_message_max:
            self._overrun(
                actor,
                exits.limit(
                    "host-calls",
                    f"called the host more than host_calls_per_message_max = {limits.host_calls_per_message_max} "
                    "times for one message",
                ),
            )
            return False
        request = guest.request
        assert request is not None
        actor.wait_token += 1
        actor.cpu_called_ns = actor.cpu_ns
        try:
            value = self._serve(actor, request)
        except GuestTrap as refusal:
            guest.trap(str(refusal))
            return actor.run is Run.RUNNING
        if actor.run is not Run.RUNNING:
            return False
        if value is PENDING:
            actor.run = Run.WAITING
            self._watch_wall(actor)
            return False
        guest.answer(value)
        return True

    def _watch_wall(self, actor: Actor) -> None:
        """What is under way waits: from now on somebody has to see how long it takes."""
        work = actor.current or actor.step
        # A workflow's run may take days.
        endless = isinstance(work, Envelope) and work.kind is Kind.RUN
        if work is not None and not endless and actor not in self._wall_of:
            wall = self._wall_of[actor] = _WallLimit(actor, work)
            self._walls.add(wall, self._now_ns() + int(actor.spec.limits.wall_s_per_message_max * 1e9))

    def _wall_reached(self, entry: object) -> None:
        assert isinstance(entry, _WallLimit)
        actor = entry.actor
        self._wall_of.pop(actor, None)
        if actor.alive and entry.work in (actor.current, actor.step):
            what = f"`{entry.work.export.value}`" if isinstance(entry.work, Step) else "one message"
            wall_s = actor.spec.limits.wall_s_per_message_max
            self._overrun(
                actor, exits.limit("wall", f"{what} took longer than wall_s_per_message_max = {wall_s}")
            )

    # -- messages -----------------------------------------------------------------------------------------

    def _begin_next(self, actor: Actor) -> bool:
        """Begin a step of the plan, a signal or a message; False when there is none."""
        if actor.plan:
            self._begin_step(actor)
            return True
        mailbox = actor.mailbox
        # What is to come first was begun before the notices were sent.
        wanted = _no_notice if mailbox.returning else None
        while (signal := mailbox.take_system(wanted)) is not None:
            match signal:
                case Envelope():
                    begun = self._begin_message(actor, signal)
                case Stop():
                    begun = self._begin_stop(actor, signal)
                case Deactivate():
                    begun = self._begin_deactivation(actor, signal)
                case Upgrade():
                    begun = self._begin_upgrade(actor, signal)
            if begun:
                return True
        while (envelope := mailbox.take()) is not None:
            if self._begin_message(actor, envelope):
                return True
        return False

    def _begin_message(self, actor: Actor, envelope: Envelope) -> bool:
        """Begin to handle a message; False when it is void."""
        pending, keeper = envelope.pending, actor.keeper
        # What is kept goes on even if whoever asked has stopped waiting.
        if pending is not None and pending.ended and not envelope.accepted:
            self._events.emit(MessageExpired(actor.address, envelope.id))
            if keeper is not None:
                keeper.dropped(envelope)
            return False
        if envelope.claim is not None and not envelope.claim(actor):
            if keeper is not None:
                keeper.dropped(envelope)
            return False
        if keeper is not None and not keeper.begin(envelope):
            return False
        actor.current = envelope
        actor.advance(lifecycle.Event.TOOK)
        assert actor.guest is not None
        actor.guest.begin(Export.HANDLE, *envelope.arguments())
        return True

    def _done(self, actor: Actor) -> None:
        """A call of an export is over."""
        assert actor.guest is not None
        result = actor.guest.take_result()
        if actor.step is not None:
            self._finish_step(actor, result)
        else:
            self._finish_message(actor, result)
        if actor.alive:
            if actor.plan or not actor.mailbox.empty:
                self._wake(actor)
            else:
                actor.run = Run.RESTING

    def _finish_message(self, actor: Actor, result: Result) -> None:
        envelope = actor.current
        assert envelope is not None
        if isinstance(result, Trapped):
            self._end(actor, result.exit)
            return
        if isinstance(result, Failure) and result.crashed:
            self._end(actor, exits.crashed(result.code, result.message, result.traceback))
            return
        keeper = actor.keeper
        if keeper is not None:
            if (exit_ := keeper.finished(envelope, result)) is not None:
                self._end(actor, exit_)
                return
            if keeper.checkpoint_due:
                actor.plan.append(_checkpoint(keeper))
        if actor.facets is not None:
            actor.facets.handled(envelope, result, actor.cpu_ns)
        self._settle_books(actor)
        actor.handled += 1
        self.messages += 1
        actor.advance(lifecycle.Event.FINISHED)
        pending = envelope.pending
        if pending is None and isinstance(result, Failure):
            self._events.emit(
                MessageRefused(actor.address, envelope.id, envelope.op, result.code, result.message)
            )
        if pending is None or pending.ended:
            return
        if isinstance(result, Failure):
            self._asks.end(pending, refused(result.code, result.message, result.details))
        elif result is not None:
            try:
                check_size("reply", result, actor.spec.limits.payload_bytes_max)
            except LimitExceeded as error:
                self._asks.end(pending, error)
            else:
                self._asks.end(pending, result)
        else:
            # The handler answers later, with `messaging.reply`; until then the deadline watches.
            actor.deferred[envelope.id] = pending

    def _settle_books(self, actor: Actor) -> None:
        """The message or step is over: what was counted for it begins anew."""
        actor.current = None
        actor.cpu_total_ns += actor.cpu_ns
        actor.cpu_ns = 0
        actor.cpu_called_ns = 0
        actor.cpu_budget_ns = 0
        actor.host_calls = 0
        actor.log_lines = 0
        if self._wall_of and (wall := self._wall_of.pop(actor, None)) is not None:
            self._walls.discard(wall)

    # -- plans: start, stop, upgrade ----------------------------------------------------------------------

    def _start_plan(
        self,
        actor: Actor,
        spec: ActorSpec,
        state: Callable[[], str | None],
        ready: Callable[[], None],
        failed: Callable[[Exit], None],
        keeper: Keeper | None = None,
    ) -> list[Step]:
        """Instantiate, set the state if there is one, replay what came after it, init, and keep the state then."""

        def config(restored: bool) -> tuple[str, str, str, bool, str]:
            return (actor.address.text, spec.role, spec.args, restored, spec.facets)

        def good(result: Result) -> bool:
            if isinstance(result, Trapped):
                failed(result.exit)
                return False
            if isinstance(result, Failure):
                failed(exits.crashed(result.code, result.message, result.traceback))
                return False
            return True

        def instantiated(result: Result) -> bool:
            if not good(result):
                return False
            if (text := state()) is not None:
                begun = keeper.begin_again(failed) if keeper is not None else []
                actor.plan[:0] = [*begun, Step(Export.SET_STATE, lambda: (config(True), text), restored)]
            return True

        def restored(result: Result) -> bool:
            if not good(result):
                return False
            if keeper is not None:
                actor.plan[:0] = keeper.replay(failed)
            return True

        def initialising() -> tuple[Any, ...]:
            configured = config(state() is not None)
            if keeper is not None:
                keeper.initialising(configured)
            return (configured,)

        def initialised(result: Result) -> bool:
            if keeper is not None:
                keeper.initialised()
            if not good(result):
                return False
            if keeper is None:
                ready()
            return True

        def captured(result: Result) -> bool:
            assert keeper is not None
            if isinstance(result, Failure):
                failed(exits.crashed(result.code, f"its state cannot be kept: {result.message}", result.traceback))
            elif good(result):
                assert not isinstance(result, Trapped)
                keeper.captured(result or "", spec.component_hash)
                ready()
            return False

        plan = [
            Step(Export.INSTANTIATE, tuple, instantiated),
            Step(Export.INIT, initialising, initialised),
        ]
        if keeper is not None:
            plan.append(Step(Export.GET_STATE, tuple, captured))
        return plan

    def _begin_step(self, actor: Actor) -> None:
        step = actor.step = actor.plan.pop(0)
        assert actor.guest is not None
        actor.guest.begin(step.export, *step.arguments())

    def _finish_step(self, actor: Actor, result: Result) -> None:
        step = actor.step
        assert step is not None
        actor.step = None
        self._settle_books(actor)
        if not step.on_result(result):
            actor.plan.clear()

    def _begin_stop(self, actor: Actor, signal: Stop) -> bool:
        actor.advance(lifecycle.Event.STOPPED)

        def terminated(_result: Result) -> bool:
            # Whatever `terminate` says, the actor ends for the reason it was given.
            self._end(actor, signal.exit)
            return False

        actor.plan = [Step(Export.TERMINATE, lambda: (signal.exit.text,), terminated)]
        self._begin_step(actor)
        return True

    def _begin_upgrade(self, actor: Actor, signal: Upgrade) -> bool:
        """Begin to replace the instance; False when nothing is left to run because it was refused at once."""
        spec = signal.spec
        state = ""

        def stay(exit_: Exit) -> None:
            if actor.guest is not None:
                actor.guest.close()
                actor.guest, actor.previous_guest = actor.previous_guest, None
            signal.on_done(_cannot_upgrade(actor, exit_))

        def upgraded() -> None:
            assert actor.previous_guest is not None
            actor.previous_guest.close()
            actor.previous_guest = None
            actor.spec = spec
            signal.on_done(None)

        def captured(result: Result) -> bool:
            nonlocal state
            match result:
                case Trapped(exit_):
                    signal.on_done(_cannot_upgrade(actor, exit_))
                    self._end(actor, exit_)
                    return False
                case Failure():
                    signal.on_done(_cannot_upgrade(actor, exits.crashed(result.code, result.message)))
                    return False
                case _:
                    state = result or ""
            if (size := len(state.encode())) > actor.spec.limits.state_bytes_max:
                signal.on_done(_state_too_large(actor, size))
                return False
            try:
                guest = spec.new_guest()
            except PlexSpacesError as error:
                signal.on_done(error)
                return False
            if actor.keeper is not None:
                # Nothing that the old version did is left for the new one to do again.
                actor.keeper.captured(state)
            actor.previous_guest, actor.guest = actor.guest, guest
            actor.plan = self._start_plan(actor, spec, lambda: state, upgraded, stay, actor.keeper)
            return True

        actor.plan = [Step(Export.GET_STATE, tuple, captured)]
        self._begin_step(actor)
        return True

    def _begin_deactivation(self, actor: Actor, signal: Deactivate) -> bool:
        """Begin to put an idle actor aside; False when it is not idle any more."""

        def idle() -> bool:
            return actor.mailbox.empty and not actor.anchored

        if not idle():
            signal.on_done(None)
            return False

        def captured(result: Result) -> bool:
            match result:
                case Trapped(exit_):
                    signal.on_done(None)
                    self._end(actor, exit_)
                    return False
                case Failure():
                    problem = f"its state cannot be kept: {result.message}"
                case _:
                    state = result or ""
                    size = len(state.encode())
                    problem = ""
                    if size > actor.spec.limits.state_bytes_max:
                        problem = f"its state has {size} bytes, more than state_bytes_max allows"
            if problem:
                self._events.emit(DeactivationRefused(actor.address, problem))
            if problem or not idle():
                signal.on_done(None)
                return False

            def terminated(_result: Result) -> bool:
                # What came in the meantime stays in the mailbox, for the next incarnation.
                self._end(actor, exits.SHUTDOWN)
                return False

            if not signal.on_done(state):
                return False
            actor.advance(lifecycle.Event.STOPPED)
            actor.plan.append(Step(Export.TERMINATE, lambda: (exits.SHUTDOWN.text,), terminated))
            return True

        actor.plan = [Step(Export.GET_STATE, tuple, captured)]
        self._begin_step(actor)
        return True

    # -- ends ---------------------------------------------------------------------------------------------

    def _overrun(self, actor: Actor, exit_: Exit) -> None:
        """A limit stops what is under way: the actor, or only the upgrade that was being tried."""
        if actor.previous_guest is not None and actor.step is not None and actor.run is not Run.OFFLOADED:
            self._finish_step(actor, Trapped(exit_))
            if actor.alive:
                self._wake(actor)
        else:
            self._end(actor, exit_)

    def _end(self, actor: Actor, exit_: Exit) -> None:
        """The actor is dead from here on, and gone from every store; ending a dead one does nothing.

        Others hear of it in the order of the deaths.  Telling of one may cause more, by links or by a supervisor's
        decision: these are dead at once too, and told of after it, so that a chain of any length needs no stack.
        """
        if not actor.alive:
            return
        if actor.run is Run.OFFLOADED:
            # Its guest is another's just now; `_returned` comes back here.  The first reason is the reason.
            if actor.ending is None:
                actor.ending = exit_
            return
        self._bury(actor, exit_)
        if self._telling:
            return
        self._telling = True
        try:
            while self._ended:
                self._tell(self._ended.popleft())
        finally:
            self._telling = False

    def _bury(self, actor: Actor, exit_: Exit) -> None:
        actor.run = Run.RESTING
        actor.advance(lifecycle.Event.ENDED)
        self._ended.append(_Ended(actor, exit_, actor.step))
        actor.step = None
        actor.plan = []
        for guest in (actor.guest, actor.previous_guest):
            if guest is not None:
                guest.close()
        actor.guest = actor.previous_guest = None
        for ask in tuple(actor.asks):
            self._asks.abandon(ask)
        # What it was told is nothing to a successor, who inherits the mailbox.
        actor.mailbox.forget_signals(lambda signal: isinstance(signal, Envelope))
        self._confined(actor, lambda: self._release(actor))
        facets, envelope = actor.facets, actor.current
        if facets is not None:
            if envelope is not None:
                self._confined(actor, lambda: facets.handled(envelope, Trapped(exit_), actor.cpu_ns))
            self._confined(actor, lambda: facets.ended(exit_))

    def _tell(self, ended: _Ended) -> None:
        actor, exit_ = ended.actor, ended.exit
        self._confined(actor, lambda: links.sever(actor, exit_, self.notify, self._end))
        self._confined(actor, lambda: actor.on_exit(actor, exit_))
        envelope = actor.current
        self._settle_books(actor)
        owed = list(actor.deferred.values())
        if envelope is not None and envelope.pending is not None:
            owed.insert(0, envelope.pending)
        actor.deferred.clear()
        for pending in owed:
            self._confined(actor, partial(self._asks.end, pending, _end_error(actor, exit_)))
        step = ended.step
        if step is not None:
            # Whoever waits for the start, the description or the upgrade hears why it will not come.
            self._confined(actor, lambda: step.on_result(Trapped(exit_)))

    def _confined(self, actor: Actor, do: Callable[[], object]) -> None:
        """Do one part of an end: a bug in it must not keep the others from being done."""
        try:
            do()
        except Exception as fault:  # noqa: BLE001 - as in `_guarded_run`
            self._report(actor, fault)


def _no_notice(signal: Any) -> bool:
    return not isinstance(signal, Envelope)


def _checkpoint(keeper: Keeper) -> Step:
    def captured(result: Result) -> bool:
        if isinstance(result, Failure):
            keeper.not_captured(f"the state cannot be kept: {result.message}")
        elif isinstance(result, Trapped):
            keeper.not_captured(f"the state cannot be kept: {result.exit.text}")
        else:
            keeper.captured(result or "")
        return True

    return Step(Export.GET_STATE, tuple, captured)


def refused(code: str, message: str, details: str) -> HandlerRefused:
    """What the asker is told whom a handler refused."""
    try:
        known = orjson.loads(details or "{}")
    except orjson.JSONDecodeError:
        known = {}
    error = HandlerRefused(message)
    # Assigned, not passed: the guest chooses the names.
    error.details = {**(known if isinstance(known, dict) else {}), "reason": code}
    return error


def _end_error(actor: Actor, exit_: Exit) -> PlexSpacesError:
    """What a caller hears whose message was being handled.  Never the traceback: it may be another tenant's reader."""
    if exit_.reason in (exits.Reason.CRASHED, exits.Reason.LIMIT, exits.Reason.NONDETERMINISM):
        return HandlerCrashed(exit_.message or exit_.text, exit=exit_.text)
    return ActorExited(f"actor {actor.address.text!r} ended ({exit_.text}) before it replied", exit=exit_.text)


def _state_too_large(actor: Actor, size: int) -> LimitExceeded:
    bytes_max = actor.spec.limits.state_bytes_max
    return LimitExceeded(
        f"the state of actor {actor.address.text!r} has {size} bytes, more than state_bytes_max = {bytes_max}: "
        "it stays at its version",
        limit="state_bytes_max",
        value=bytes_max,
    )


def _cannot_upgrade(actor: Actor, exit_: Exit) -> Conflict:
    return Conflict(
        f"actor {actor.address.text!r} stays at its version: the new one could not take over its state "
        f"({exit_.message or exit_.text})",
        actor=actor.address.text,
        exit=exit_.text,
    )
