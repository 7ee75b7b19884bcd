"""One actor: identity, mailbox, instance, and the books the scheduler keeps on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..config import Limits
from ..scope import Address
from . import lifecycle
from .envelope import Envelope, PendingAsk
from .exits import Exit
from .guest import Export, Guest, Result
from .mailbox import Mailbox


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
        capabilities: WIT interfaces the actor may call; None for all.
    """

    new_guest: Callable[[], Guest]
    component_hash: str
    limits: Limits
    role: str = ""
    args: str = "{}"
    facets: str = "{}"
    capabilities: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """End with this reason after the message under way."""

    exit: Exit


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Go on as `spec`, with the state; `on_done` hears None, or why it stayed as it was."""

    spec: ActorSpec
    on_done: Callable[[Exception | None], None]


Signal = Stop | Upgrade


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
        "address",
        "asks",
        "cpu_budget_ns",
        "cpu_ns",
        "cpu_total_ns",
        "current",
        "deferred",
        "ending",
        "guest",
        "handled",
        "host_calls",
        "log_lines",
        "mailbox",
        "on_exit",
        "plan",
        "previous_guest",
        "run",
        "spec",
        "started_ms",
        "state",
        "step",
        "wait_token",
    )

    def __init__(
        self,
        address: Address,
        spec: ActorSpec,
        on_exit: Callable[[Actor, Exit], None],
        *,
        started_ms: int,
        mailbox: Mailbox[Envelope, Signal] | None = None,
    ) -> None:
        self.address = address
        self.spec = spec
        self.on_exit = on_exit
        self.state = lifecycle.State.STARTING
        self.run = Run.NEW
        self.mailbox: Mailbox[Envelope, Signal] = (
            mailbox if mailbox is not None else Mailbox(spec.limits.mailbox_messages_max)
        )
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
        # Names the host call under way, so that an answer which comes too late finds nobody.
        self.wait_token = 0
        # Of the message or step under way.
        self.cpu_ns = 0
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
    def current_id(self) -> str:
        """The id of the message under way, "" between messages."""
        return self.current.id if self.current is not None else ""

    def advance(self, event: lifecycle.Event) -> None:
        """Move through the lifecycle table."""
        self.state = lifecycle.step(self.state, event)

    def __repr__(self) -> str:
        return f"<Actor {self.address} {self.state.value}/{self.run.value}>"
