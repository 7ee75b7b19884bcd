"""Virtual actors: more names than fit in memory.  `Residents` decides who is in memory, and nobody can tell.

A virtual actor is in one of four places (`Stay`).  It is launched when it is named: it takes the state that an earlier
incarnation left, and starts if the tenant has room.  If not, it waits in the order of coming, its mailbox open, while
the resident that was used longest ago is asked to leave; it starts when that one is gone and not before.  A resident
leaves only if it is idle when its turn comes, and only if its state is kept; what is sent to it meanwhile waits in the
mailbox for the next incarnation.

Costs: a message moves one entry of an ordered dict.  Of the idle time only a resident's earliest possible end has a
deadline; when that comes and the actor was used since, the deadline is set anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Final, Protocol

from ..actors.actor import Actor
from ..actors.deadlines import Deadline, Deadlines
from ..actors.envelope import Envelope
from ..actors.exits import Exit, Reason
from ..actors.facets import Facet
from ..actors.guest import Result
from ..actors.lifecycle import State
from ..clock import Clock
from ..config import Limits
from ..events import DeactivationRefused, EventBus
from ..scheduler import Scheduler
from ..scope import Address, Scope
from .kind import Chain, FacetContext, FacetType
from .settings import Settings

# While actors wait for room and no resident is idle: how soon to look again for one that has become so unnoticed,
# because a link, a timer or an owed reply that held it has gone.
RESCAN_NS: Final = 100_000_000
# Names cost memory, too: what a kept state counts for on top of its own bytes.
NAME_BYTES: Final = 256
_IDLE_S_MIN: Final = 0.01
# Exits that are the node's want of room, and say nothing against the state.
_NO_ROOM: Final = frozenset({"instances", "mappings"})


class StateStore(Protocol):
    """Where the states of virtual actors are that are not in memory."""

    def take(self, address: Address) -> str | None:
        """The state that was kept, which is forgotten here; None if there is none."""

    def keep(self, address: Address, state: str) -> bool:
        """Keep the state; False if there is no room for it."""

    def put_back(self, address: Address, state: str) -> None:
        """Keep what `take` gave, because nobody made use of it.  This is not refused."""

    def forget(self, scope: Scope, actor_type: str) -> None:
        """Forget all states of a type."""


class MemoryStates:
    """States in the node's memory.

    Args:
        bytes_per_tenant_max: how much a tenant's may have together; each counts `NAME_BYTES` more than its text.
    """

    def __init__(self, bytes_per_tenant_max: int) -> None:
        self._bytes_per_tenant_max = bytes_per_tenant_max
        self._by_type: dict[tuple[Scope, str], dict[str, str]] = {}
        self._bytes: dict[str, int] = {}

    def take(self, address: Address) -> str | None:
        """See `StateStore`."""
        place = (address.scope, address.type)
        states = self._by_type.get(place)
        state = states.pop(address.key, None) if states is not None else None
        if state is not None:
            self._count(address.scope.tenant, -_size(state))
            if not states:
                del self._by_type[place]
        return state

    def keep(self, address: Address, state: str) -> bool:
        """See `StateStore`."""
        before = self._by_type.get((address.scope, address.type), {}).get(address.key)
        more = _size(state) - (_size(before) if before is not None else 0)
        if self.bytes_of(address.scope.tenant) + more > self._bytes_per_tenant_max:
            return False
        self._put(address, state, more)
        return True

    def put_back(self, address: Address, state: str) -> None:
        """See `StateStore`."""
        self.take(address)
        self._put(address, state, _size(state))

    def forget(self, scope: Scope, actor_type: str) -> None:
        """See `StateStore`."""
        states = self._by_type.pop((scope, actor_type), {})
        self._count(scope.tenant, -sum(map(_size, states.values())))

    def bytes_of(self, tenant: str) -> int:
        """What a tenant's states count for."""
        return self._bytes.get(tenant, 0)

    def _put(self, address: Address, state: str, more: int) -> None:
        self._by_type.setdefault((address.scope, address.type), {})[address.key] = state
        self._count(address.scope.tenant, more)

    def _count(self, tenant: str, more: int) -> None:
        total = self._bytes.get(tenant, 0) + more
        if total:
            self._bytes[tenant] = total
        else:
            self._bytes.pop(tenant, None)


def _size(state: str) -> int:
    return NAME_BYTES + (len(state) if state.isascii() else len(state.encode()))


@dataclass(frozen=True, slots=True)
class VirtualActorConfig:
    """Attributes:
    idle_s: seconds without a message after which it leaves memory.
    eager: it is activated with its application, not with its first message.
    """

    idle_s: float
    eager: bool


class Stay(Enum):
    """Where a virtual actor is."""

    # By identity: Enum hashes its name in Python, on every lookup.
    __hash__ = object.__hash__

    OUT = "out"
    # Launched; it begins when there is room.
    WAITING = "waiting"
    RESIDENT = "resident"
    # Resident, and asked to leave.
    LEAVING = "leaving"


class _Crowd:
    """One tenant's virtual actors."""

    __slots__ = ("bucket", "drained", "freed", "leaving", "residents", "tenant", "told_full", "waiting")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        # Never more than the cap.  The one that was used longest ago first.
        self.residents: OrderedDict[Residency, None] = OrderedDict()
        # How many of them are LEAVING.
        self.leaving = 0
        self.waiting: OrderedDict[Residency, None] = OrderedDict()
        # No resident that could leave is known, but those in `freed`.
        self.drained = False
        # Those that handled a message since the residents were looked through in vain.
        self.freed: dict[Residency, None] = {}
        self.told_full = False
        self.bucket = -1


class Residency(Facet):
    """The facet of one virtual actor: tells `Residents` of use and end."""

    __slots__ = (
        "actor",
        "address",
        "bucket",
        "crowd",
        "idle_ns",
        "on_started",
        "residents",
        "spared_until_ns",
        "state",
        "stay",
        "used_ns",
    )

    def __init__(self, residents: Residents, address: Address, config: VirtualActorConfig) -> None:
        self.residents = residents
        self.address = address
        self.idle_ns = int(config.idle_s * 1e9)
        self.stay = Stay.OUT
        self.actor: Actor | None = None
        self.crowd: _Crowd | None = None
        self.on_started: Callable[[Exit | None], None] | None = None
        # Taken from the store, and not in use yet.
        self.state: str | None = None
        self.used_ns = 0
        # Its state could not be kept: until then it is not asked again.
        self.spared_until_ns = 0
        # Where `Deadlines` keeps it.
        self.bucket = -1

    def started(self) -> None:
        self.residents.started(self)

    def handled(self, envelope: Envelope, result: Result, cpu_ns: int) -> None:
        self.residents.used(self)

    def ended(self, exit_: Exit) -> None:
        self.residents.ended(self, exit_)

    def report(self) -> dict[str, Any]:
        return {"stay": self.stay.value, "idle_timeout_s": self.idle_ns / 1e9}


class Residents:
    """Keeps all virtual actors of a node.

    Args:
        scheduler: starts and deactivates.
        limits: `virtual_actors_resident_per_tenant_max` is the cap.
        set_alarm: called with a number of seconds: `ring` must be called after so long.  A later call replaces
            an earlier one.
        states: keeps what those have in mind that are not in memory.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        clock: Clock,
        events: EventBus,
        limits: Limits,
        set_alarm: Callable[[float], None],
        states: StateStore,
    ) -> None:
        self._scheduler = scheduler
        self._now_ns = clock.monotonic_ns
        self._events = events
        self._cap = limits.virtual_actors_resident_per_tenant_max
        self._set_alarm = set_alarm
        self._states = states
        self._crowds: dict[str, _Crowd] = {}
        self._deadlines = Deadlines(clock, self._set_later_alarm, self._reached)
        # What the next `ring`, which is due at once, has to do: tenants to look after, and starts that failed while
        # they waited.  Not done on the spot, because an end is told of in the middle of other people's work.
        self._due: dict[_Crowd, None] = {}
        self._failed: list[tuple[Callable[[Exit | None], None], Exit]] = []
        self._due_alarm = False
        self._resident = 0
        self._waiting = 0
        self._activations = 0
        self._deactivations = 0

    # -- what others ask of it ----------------------------------------------------------------------------

    def facet(self, address: Address, config: VirtualActorConfig) -> Residency:
        """The facet by which the actor at `address` is looked after."""
        return Residency(self, address, config)

    def launch(self, actor: Actor, on_started: Callable[[Exit | None], None]) -> None:
        """Start an actor that has the facet, with the state it left, at once or when there is room.

        `on_started` hears None, or why the actor could not start (it is dead then).
        """
        residency = actor.facets.find(Residency) if isinstance(actor.facets, Chain) else None
        assert residency is not None, f"{actor} is launched as a virtual actor and has no such facet"
        assert residency.stay is Stay.OUT, f"{actor} is launched and its predecessor is {residency.stay.value}"
        tenant = actor.address.scope.tenant
        crowd = self._crowds.get(tenant)
        if crowd is None:
            crowd = self._crowds[tenant] = _Crowd(tenant)
        residency.actor = actor
        residency.crowd = crowd
        residency.on_started = on_started
        # Before others are asked to leave, because it makes room for what they leave.
        residency.state = self._states.take(actor.address)
        if not crowd.waiting and len(crowd.residents) < self._cap:
            self._begin(crowd, residency)
        else:
            residency.stay = Stay.WAITING
            crowd.waiting[residency] = None
            self._waiting += 1
            self._make_room(crowd)

    def forget(self, scope: Scope, actor_type: str) -> None:
        """Forget the states of a type that is there no more."""
        self._states.forget(scope, actor_type)

    def ring(self) -> None:
        """The alarm."""
        self._due_alarm = False
        failed, self._failed = self._failed, []
        for on_started, exit_ in failed:
            on_started(exit_)
        due, self._due = self._due, {}
        for crowd in due:
            self._settle(crowd)
        self._deadlines.ring()

    def counters(self) -> dict[str, int]:
        """Totals and gauges for an operator."""
        return {
            "virtual_actors_resident": self._resident,
            "virtual_actors_waiting": self._waiting,
            "virtual_actor_activations_total": self._activations,
            "virtual_actor_deactivations_total": self._deactivations,
        }

    # -- what the facets tell -----------------------------------------------------------------------------

    def started(self, residency: Residency) -> None:
        """It is up, and the state is its own."""
        residency.state = None
        self.used(residency)
        self._deadlines.add(residency, residency.used_ns + residency.idle_ns)

    def used(self, residency: Residency) -> None:
        """It has handled a message."""
        crowd = residency.crowd
        if crowd is None:
            return
        residency.used_ns = self._now_ns()
        crowd.residents.move_to_end(residency)
        if crowd.waiting:
            crowd.freed[residency] = None
            self._soon(crowd)

    def ended(self, residency: Residency, exit_: Exit) -> None:
        """Its incarnation is dead."""
        crowd, stay = residency.crowd, residency.stay
        if crowd is None:
            return
        if stay is Stay.WAITING:
            del crowd.waiting[residency]
            self._waiting -= 1
            assert residency.on_started is not None
            self._failed.append((residency.on_started, exit_))
            self._soon(crowd)
        else:
            del crowd.residents[residency]
            self._resident -= 1
            crowd.leaving -= stay is Stay.LEAVING
            self._deadlines.discard(residency)
            crowd.freed.pop(residency, None)
        if residency.state is not None and (stay is Stay.WAITING or not _against_state(exit_)):
            self._states.put_back(residency.address, residency.state)
        residency.stay = Stay.OUT
        residency.actor = residency.crowd = residency.on_started = residency.state = None
        residency.spared_until_ns = 0
        if crowd.waiting:
            self._soon(crowd)
        elif not crowd.residents:
            self._deadlines.discard(crowd)
            self._crowds.pop(crowd.tenant, None)

    # -- coming -------------------------------------------------------------------------------------------

    def _begin(self, crowd: _Crowd, residency: Residency) -> None:
        actor, on_started = residency.actor, residency.on_started
        assert actor is not None
        assert on_started is not None
        residency.stay = Stay.RESIDENT
        residency.on_started = None
        crowd.residents[residency] = None
        self._resident += 1
        self._activations += 1
        self._scheduler.start(actor, residency.state, on_started)

    def _settle(self, crowd: _Crowd) -> None:
        """Let in who waits, as far as there is room, and see to more room."""
        while crowd.waiting and len(crowd.residents) < self._cap:
            residency, _ = crowd.waiting.popitem(last=False)
            self._waiting -= 1
            self._begin(crowd, residency)
        self._make_room(crowd)

    # -- leaving ------------------------------------------------------------------------------------------

    def _make_room(self, crowd: _Crowd) -> None:
        """Ask as many residents to leave as others wait for, where so many are idle."""
        if not crowd.waiting:
            crowd.drained = False
            crowd.freed.clear()
            return
        missing = len(crowd.waiting) - (self._cap - len(crowd.residents)) - crowd.leaving
        if missing > 0 and not crowd.drained:
            missing = self._ask_oldest(crowd, missing)
        while missing > 0 and crowd.freed:
            residency = next(iter(crowd.freed))
            del crowd.freed[residency]
            if self._can_leave(residency):
                self._ask_to_leave(residency)
                missing -= 1
        if missing > 0 and crowd.bucket < 0:
            self._deadlines.add(crowd, self._now_ns() + RESCAN_NS)

    def _ask_oldest(self, crowd: _Crowd, missing: int) -> int:
        """Look through the residents, the one used longest ago first; answers how many are missing still."""
        for _ in range(len(crowd.residents)):
            residency = next(iter(crowd.residents))
            # Asked or in use: either way not the first to be looked at the next time.
            crowd.residents.move_to_end(residency)
            if self._can_leave(residency):
                self._ask_to_leave(residency)
                missing -= 1
                if missing == 0:
                    return 0
        crowd.drained = True
        crowd.freed.clear()
        return missing

    def _can_leave(self, residency: Residency) -> bool:
        actor = residency.actor
        return (
            residency.stay is Stay.RESIDENT
            and actor is not None
            and actor.state is State.IDLE
            and actor.mailbox.empty
            and not actor.anchored
            and self._now_ns() >= residency.spared_until_ns
        )

    def _ask_to_leave(self, residency: Residency) -> None:
        actor, crowd = residency.actor, residency.crowd
        assert actor is not None
        assert crowd is not None
        residency.stay = Stay.LEAVING
        crowd.leaving += 1
        self._scheduler.deactivate(actor, partial(self._answered, residency, actor))

    def _answered(self, residency: Residency, actor: Actor, state: str | None) -> bool:
        """It leaves with its state, or stays; answers whether the state is kept."""
        crowd = residency.crowd
        # It died meanwhile, and maybe its successor lives already.
        if residency.actor is not actor or crowd is None:
            return False
        if state is not None and self._keep(actor, state):
            self._deactivations += 1
            crowd.told_full = False
            return True
        residency.stay = Stay.RESIDENT
        crowd.leaving -= 1
        now_ns = self._now_ns()
        if state is not None:
            self._tell_full(crowd, residency)
        if actor.mailbox.empty and not actor.anchored:
            # Idle, and it had to stay: asking again at once would get the same answer.
            residency.spared_until_ns = now_ns + residency.idle_ns
        if residency.bucket < 0:
            self._deadlines.add(residency, now_ns + residency.idle_ns)
        if crowd.waiting:
            self._soon(crowd)
        return False

    def _keep(self, actor: Actor, state: str) -> bool:
        if actor.keeper is None:
            return self._states.keep(actor.address, state)
        actor.keeper.captured(state)
        return True

    def _tell_full(self, crowd: _Crowd, residency: Residency) -> None:
        # Once until a state is kept again: a tenant at its limit has thousands that stay for this reason.
        if not crowd.told_full:
            crowd.told_full = True
            self._events.emit(
                DeactivationRefused(
                    residency.address,
                    "the states of this tenant's virtual actors have reached virtual_state_bytes_per_tenant_max",
                )
            )

    # -- time ---------------------------------------------------------------------------------------------

    def _reached(self, entry: Deadline) -> None:
        if isinstance(entry, _Crowd):
            entry.drained = False
            self._settle(entry)
            return
        assert isinstance(entry, Residency)
        now_ns = self._now_ns()
        actor = entry.actor
        assert actor is not None
        if entry.used_ns + entry.idle_ns > now_ns:
            self._deadlines.add(entry, entry.used_ns + entry.idle_ns)
        elif self._can_leave(entry):
            self._ask_to_leave(entry)
        elif entry.stay is Stay.RESIDENT:
            self._deadlines.add(entry, now_ns + entry.idle_ns)

    def _soon(self, crowd: _Crowd) -> None:
        self._due[crowd] = None
        if not self._due_alarm:
            self._due_alarm = True
            self._set_alarm(0.0)

    def _set_later_alarm(self, delay_s: float) -> None:
        # The one that is due at once rings the deadlines too.
        if not self._due_alarm:
            self._set_alarm(delay_s)


class VirtualActorType(FacetType[VirtualActorConfig]):
    """The facet `virtual_actor`."""

    priority = 100

    def __init__(self, residents: Residents) -> None:
        self._residents = residents

    def parse(self, config: Mapping[str, Any]) -> VirtualActorConfig:
        settings = Settings("virtual_actor", config, ("idle_timeout", "activation_strategy"))
        return VirtualActorConfig(
            idle_s=settings.duration_s("idle_timeout", "10m", low_s=_IDLE_S_MIN),
            eager=settings.choice("activation_strategy", ("lazy", "eager")) == "eager",
        )

    def build(self, context: FacetContext, config: VirtualActorConfig) -> Residency:
        return self._residents.facet(context.address, config)


def _against_state(exit_: Exit) -> bool:
    """Whether a start that ended so may have failed because of the state it was given."""
    match exit_.reason:
        case Reason.CRASHED | Reason.NONDETERMINISM:
            return True
        case Reason.LIMIT:
            return exit_.subject not in _NO_ROOM
        case _:
            return False
