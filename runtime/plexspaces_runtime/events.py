"""Everything that happens in a node, as frozen dataclasses.

Logs, metrics, traces and the dashboard read these; tests assert on them.  An event holds what happened, not words
about it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .scope import Address, Scope


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """The node accepts work."""


@dataclass(frozen=True, slots=True)
class NodeStopping:
    """The node takes no new work and finishes what is running."""

    grace_s: float


@dataclass(frozen=True, slots=True)
class ComponentDeployed:
    scope: Scope
    actor_type: str
    component_hash: str
    version: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DeploymentRefused:
    scope: Scope
    actor_type: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Undeployed:
    scope: Scope
    actor_type: str


@dataclass(frozen=True, slots=True)
class ActorStarted:
    address: Address
    component_hash: str
    restarts: int


@dataclass(frozen=True, slots=True)
class ActorUpgraded:
    address: Address
    component_hash: str


@dataclass(frozen=True, slots=True)
class UpgradeRefused:
    address: Address
    component_hash: str
    message: str


@dataclass(frozen=True, slots=True)
class ActorExited:
    """`reason` is the exit's text; `traceback` is the guest's and stays inside the node."""

    address: Address
    reason: str
    orderly: bool
    traceback: str
    message_id: str


@dataclass(frozen=True, slots=True)
class ActorRestartDelayed:
    """An actor ended more often than its intensity allows: the next start waits."""

    address: Address
    delay_s: float
    restarts_in_window: int
    window_s: float


@dataclass(frozen=True, slots=True)
class MessageExpired:
    """The asker had stopped waiting before the actor came to its message."""

    address: Address
    message_id: str


@dataclass(frozen=True, slots=True)
class FiberOffloaded:
    """A handler used its slices several times over and goes on on another thread."""

    address: Address
    message_id: str
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class PermissionRefused:
    """An actor called what it was not granted."""

    address: Address
    capability: str
    function: str


@dataclass(frozen=True, slots=True)
class HostFault:
    """A host function failed in a way it should not: a bug of the node."""

    address: Address
    interface: str
    function: str
    message: str


@dataclass(frozen=True, slots=True)
class NodeFault:
    """A bug of the node, confined to the actor it was running."""

    address: Address
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class GuestLogged:
    """A line an actor wrote."""

    address: Address
    message_id: str
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class GuestLogTruncated:
    """An actor wrote more lines for one message than are kept."""

    address: Address
    message_id: str
    lines_max: int


Event = (
    NodeStarted
    | NodeStopping
    | ComponentDeployed
    | DeploymentRefused
    | Undeployed
    | ActorStarted
    | ActorUpgraded
    | UpgradeRefused
    | ActorExited
    | ActorRestartDelayed
    | MessageExpired
    | FiberOffloaded
    | PermissionRefused
    | HostFault
    | NodeFault
    | GuestLogged
    | GuestLogTruncated
)


class EventBus:
    """Hands each event to every subscriber, in the order they subscribed, on the loop's thread.

    A subscriber that raises is a bug of the node: the exception is not swallowed here.
    """

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Event], None]] = []

    def subscribe(self, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Call `subscriber` with each event from now on; returns what ends the subscription."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def emit(self, event: Event) -> None:
        """Tell everybody."""
        for subscriber in tuple(self._subscribers):
            subscriber(event)
