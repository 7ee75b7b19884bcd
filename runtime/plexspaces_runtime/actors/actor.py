"""One actor: identity, mailbox, instance, and the books the scheduler keeps on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from ..config import Limits
from ..scope import Address
from . import lifecycle
from .access import Access
from .capabilities import EVERYTHING, Grants
from .envelope import Envelope, Kind, PendingAsk
from .exits import Exit
from .facets import Facets
from .guest import Export, Guest, Result
from .mailbox import Mailbox

if TYPE_CHECKING:
    from .timers import Timer


class Run(Enum):
    """Where an actor's fiber is.  Exactly one owner at a time: nobody, the run queue, the loop, or another thread."""

    # By identity: Enum hashes its name in Python, on every lookup.
    __hash__ = object.__hash__

    # Not started yet: messages may wait for it, nothing runs.
    NEW = "new"
    RESTING = "resting"
    READY = "ready"
    RUNNING = "running"
    # Suspended in a host call whose answer has yet to come.
    WAITING = "waiting"
    # Its guest runs in another process, which will report.
    AWAY = "away"
    OFFLOADED = "offloaded"


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """What an incarnation is made from.

    Attributes:
        new_guest: makes an instance that has yet to be instantiated.
        component_hash: SHA-256 of the component, hexadecimal.
        role: which of the component's actors, "" when it holds one.
        args: for `init`, a JSON object.
        facets: for `init`, a JSON object.
        capabilities: what it may ask of the host.
        labels: what it is found by from its first moment.
        shares_keys: its key-value space is its type's, and not its own.
        access: who may send it what; None for everybody everything.
        process: names the process that holds its instance; "" for the node's own.
        free: the capabilities whose use needs no further look, for every host call.
    """

    new_guest: Callable[[], Guest]
    component_hash: str
    limits: Limits
    role: str = ""
    args: str = "{}"
    facets: str = "{}"
    capabilities: Grants = EVERYTHING
    labels: Mapping[str, str] = field(default_factory=dict)
    shares_keys: bool = False
    process: str = ""
    access: Access | None = None
    free: frozenset[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        granted = self.capabilities
        object.__setattr__(self, "free", granted.free_sharing if self.shares_keys else granted.free)


@dataclass(frozen=True, slots=True)
class Stop:
    """End with this reason after the message under way."""

    exit: Exit


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Go on as `spec`, with the state; `on_done` hears None, or why it stayed as it was."""

    spec: ActorSpec
    on_done: Callable[[Exception | None], None]


@dataclass(frozen=True, slots=True)
class Deactivate:
    """End an idle actor whose state is kept.

    Attributes:
        on_done: hears the state, and answers whether it is kept: if not, the actor goes on living.  It hears None,
            and the answer does not matter, where the actor goes on living anyway, or has died.
    """

    on_done: Callable[[str | None], bool]


# An envelope here is a notice of the node's: DOWN or EXIT.
Signal = Stop | Upgrade | Deactivate | Envelope


class Alarm(Protocol):
    """Something that is to happen, until it is cancelled."""

    def cancel(self) -> object:
        """It will not happen."""


@dataclass(slots=True, eq=False)
class Step:
    """One call of an export that is not a message: part of starting, upgrading or ending.

    Attributes:
        arguments: makes them when the step begins, because an earlier step may yield what they need.
        on_result: what to do with the result; answers whether to go on with the plan.
    """

    export: Export
    arguments: Callable[[], tuple[Any, ...]]
    on_result: Callable[[Result], bool]


class Actor:
    """One incarnation of an actor.  A restart makes another, which inherits address and mailbox.

    The scheduler is the only one who changes it.
    """

    __slots__ = (
        "__weakref__",
        "address",
        "alarm",
        "asks",
        "cpu_budget_ns",
        "cpu_called_ns",
        "cpu_ns",
        "cpu_total_ns",
        "current",
        "deferred",
        "ending",
        "exits",
        "facets",
        "groups",
        "guest",
        "handled",
        "host_calls",
        "keeper",
        "labels",
        "lane",
        "links",
        "log_lines",
        "mailbox",
        "on_exit",
        "plan",
        "previous_guest",
        "run",
        "spawner",
        "spec",
        "started_ms",
        "state",
        "step",
        "timers",
        "trapping",
        "wait_token",
        "watchers",
        "watching",
    )

    def __init__(
        self,
        address: Address,
        spec: ActorSpec,
        on_exit: Callable[[Actor, Exit], None],
        *,
        started_ms: int,
        mailbox: Mailbox[Envelope, Signal] | None = None,
        facets: Facets | None = None,
    ) -> None:
        self.address = address
        self.spec = spec
        self.on_exit = on_exit
        self.state = lifecycle.State.STARTING
        self.run = Run.NEW
        self.mailbox: Mailbox[Envelope, Signal] = (
            mailbox if mailbox is not None else Mailbox(spec.limits.mailbox_messages_max)
        )
        self.facets = facets
        # The facet that makes it durable.
        self.keeper = facets.keeper if facets is not None else None
        if self.keeper is not None:
            self.keeper.adopt(self.mailbox)
        self.guest: Guest | None = None
        # The instance of the old version while an upgrade is under way.
        self.previous_guest: Guest | None = None
        # What is under way: a message, or a step of a plan, never both.
        self.current: Envelope | None = None
        self.step: Step | None = None
        self.plan: list[Step] = []
        # Set once it is to die; an off-loaded fiber is killed when its thread hands it back.
        self.ending: Exit | None = None
        # The asks it waits for: the edges of the wait-for graph.
        self.asks: set[PendingAsk] = set()
        # Calls whose handler returned nothing: answered later, with `messaging.reply`.
        self.deferred: dict[str, PendingAsk] = {}
        # Links, from both ends; each has an id.
        self.links: dict[Actor, str] = {}
        # EXIT messages that wait in the mailbox: the link's id, and whose end they tell of.
        self.exits: dict[str, str] = {}
        # Monitors it holds, by reference; None once the other has ended and its DOWN waits in the mailbox.
        self.watching: dict[str, Actor | None] = {}
        # Monitors held on it.
        self.watchers: dict[str, Actor] = {}
        # EXIT comes as a message, instead of ending it.
        self.trapping = False
        # Who spawned it, until it is up: its start failing is that one's answer, not also an EXIT or a DOWN.
        self.spawner: Actor | None = None
        # Pending ones, and those whose message waits in the mailbox.
        self.timers: dict[str, Timer] = {}
        self.groups: set[str] = set()
        self.labels: dict[str, str] = dict(spec.labels)
        # What wakes it when it sleeps.
        self.alarm: Alarm | None = None
        # The scheduler's: where its tenant stands in the run queue.
        self.lane: Any = None
        # Names the host call under way, so that an answer which comes too late finds nobody.
        self.wait_token = 0
        # Of the message or step under way.
        self.cpu_ns = 0
        # And how much of that before its last host call.
        self.cpu_called_ns = 0
        # How much of it an off-loading thread may still spend.
        self.cpu_budget_ns = 0
        self.host_calls = 0
        self.log_lines = 0
        # Since the start.
        self.cpu_total_ns = 0
        self.handled = 0
        self.started_ms = started_ms

    @property
    def alive(self) -> bool:
        return self.state is not lifecycle.State.DEAD

    @property
    def in_run(self) -> bool:
        """It is in the middle of a workflow's run, which may take days, and which its successor can go on with."""
        return self.keeper is not None and self.current is not None and self.current.kind is Kind.RUN

    @property
    def anchored(self) -> bool:
        """Somebody would notice if it were deactivated: it owes a reply or itself a message, or fates are tied."""
        return bool(
            self.deferred or self.timers or self.links or self.exits or self.watching or self.watchers or self.groups
        )

    @property
    def cause(self) -> Envelope | None:
        """The message on whose behalf it acts: the one under way, or, until it is up, what had it spawned."""
        actor: Actor | None = self
        while actor is not None:
            if actor.current is not None:
                return actor.current
            actor = actor.spawner
        return None

    @property
    def current_id(self) -> str:
        """The id of the message under way, "" between messages."""
        return self.current.id if self.current is not None else ""

    def advance(self, event: lifecycle.Event) -> None:
        """Move through the lifecycle table."""
        self.state = lifecycle.step(self.state, event)

    def __repr__(self) -> str:
        return f"<Actor {self.address} {self.state.value}/{self.run.value}>"
