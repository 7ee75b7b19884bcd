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
class CertificateLoaded:
    """The node shows this certificate from now on; `days_left` is negative for one that has expired."""

    subject: str
    names: tuple[str, ...]
    days_left: int


@dataclass(frozen=True, slots=True)
class CertificateRefused:
    """The files of TLS have changed and cannot be used; the node goes on with what it had."""

    message: str


@dataclass(frozen=True, slots=True)
class ClientCertified:
    """A client has shown a certificate.  Who it is for the node, its token says.

    Attributes:
        door: `http` or `grpc`.
        peer: its address.
        subject: as RFC 4514 writes it.
    """

    door: str
    peer: str
    subject: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClientRefused:
    """A client's certificate carries none of the names that may connect; see `ClientCertified`."""

    door: str
    peer: str
    subject: str
    names: tuple[str, ...]


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
    """`passing` is an actor that comes and goes by design, such as a virtual one."""

    address: Address
    component_hash: str
    restarts: int
    passing: bool = False


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
    """An incarnation has ended.

    Attributes:
        reason: the exit's text.
        traceback: the guest's, which stays inside the node; "" when the exit before had the same.
        message_id: the message it was handling, "" between messages.
        comes_back: its supervisor starts it again.
        restarts_in_window: with this one; 0 when the exit is not counted.
        delay_s: how long the next start waits.
        cause: the actor whose end came to this one through a link, "" when it ended by itself.
        passing: it is one that comes and goes by design, such as a virtual one.
    """

    address: Address
    reason: str
    orderly: bool
    traceback: str
    message_id: str
    comes_back: bool = False
    restarts_in_window: int = 0
    restarts_max: int = 0
    delay_s: float = 0.0
    cause: str = ""
    passing: bool = False


@dataclass(frozen=True, slots=True)
class SupervisorGaveUp:
    """A child ended more often than the intensity allows: the supervisor ends, and its parent decides.

    Attributes:
        path: the supervisor, from its application down.
        child: the one whose end was too much.
    """

    scope: Scope
    path: str
    child: str
    reason: str
    restarts_in_window: int
    window_s: float


@dataclass(frozen=True, slots=True)
class ApplicationDeployed:
    """`changes` says what this deployment started, stopped, restarted and upgraded."""

    scope: Scope
    name: str
    version: int
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ApplicationRefused:
    scope: Scope
    name: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ApplicationRestarted:
    """The node, or an operator, has started the application's tree again."""

    scope: Scope
    name: str
    restarts: int


@dataclass(frozen=True, slots=True)
class ApplicationFailed:
    """The top of the application's tree has ended; the node starts it again after `delay_s`."""

    scope: Scope
    name: str
    reason: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class ApplicationStopped:
    """The tree has ended and is not started again: undeployed, or its significant children are done."""

    scope: Scope
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeploymentRestored:
    """What was deployed in an earlier life of the node runs again.

    Attributes:
        kind: "application", or "deployment" for a type deployed on its own.
    """

    scope: Scope
    kind: str
    name: str
    version: int


@dataclass(frozen=True, slots=True)
class RestoreFailed:
    """What was deployed in an earlier life of the node cannot be made ready to start; its record is kept.

    Attributes:
        delay_s: after how many seconds the node tries again; 0 if it does not, because that would change nothing.
    """

    scope: Scope
    kind: str
    name: str
    code: str
    message: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class SpawnedNotRestored:
    """An actor that an operator had spawned in an earlier life of the node does not start; its record is kept."""

    address: Address
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class DeactivationRefused:
    """A virtual actor stays resident because its state cannot be kept."""

    address: Address
    message: str


@dataclass(frozen=True, slots=True)
class StateNotKept:
    """A durable actor's state could not be written down: it is recovered from an earlier one."""

    address: Address
    message: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message was given up: whoever is to handle it crashes every time."""

    address: Address
    message_id: str
    operation: str
    reason: str
    attempts: int


@dataclass(frozen=True, slots=True)
class FacetFault:
    """A facet of somebody else's raised what it may not; of one actor and facet only the first time is told."""

    address: Address
    facet: str
    hook: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class MessageRefused:
    """A message nobody waits for was refused by its receiver: the sender cannot hear of it."""

    address: Address
    message_id: str
    operation: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class CallerRefused:
    """A message's caller has not the role or scope that the operation needs.

    Attributes:
        subject: of the caller; "" for a message that nobody has caused.
        sender: the actor that sent it on the caller's behalf, "" from outside.
        causation_id: the message that caused it.
    """

    address: Address
    message_id: str
    operation: str
    subject: str
    sender: str
    causation_id: str
    message: str


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
    """An actor called what it was not granted.

    Attributes:
        function: of the contract, such as "http.fetch".
        name: what it was called for, "" for nothing in particular.
        line: of configuration, that would grant it.
    """

    address: Address
    capability: str
    function: str
    name: str = ""
    line: str = ""


@dataclass(frozen=True, slots=True)
class EverythingGranted:
    """A deployed actor type may do whatever there is, because its configuration says `"*"`."""

    scope: Scope
    actor_type: str


@dataclass(frozen=True, slots=True)
class EffectCaused:
    """An actor had the node do something that others can see, and who is answerable; only where it is audited.

    Attributes:
        name: what it was done to: a key, a path, a channel, an actor, a link; "" where it has no name.
        message_id: the message that was being handled, "" while the actor started.
        causation_id: the message that caused that one, "" for one from outside.
        subject: who started the work, "" if nobody did.
    """

    address: Address
    interface: str
    function: str
    name: str
    message_id: str
    causation_id: str
    subject: str


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


@dataclass(frozen=True, slots=True)
class StreamPaused:
    """An event stream takes no appends.

    Attributes:
        reason: "rate": more came than `events_per_second_max`; "operator": `by` wanted it.
    """

    scope: Scope
    path: str
    reason: str
    events_per_second_max: int
    by: str = ""


@dataclass(frozen=True, slots=True)
class StreamResumed:
    """A paused event stream goes on.

    Attributes:
        reason: "quiet": it was left alone for long enough; "operator": `by` wanted it.
        refused: appends that were refused in the meantime.
    """

    scope: Scope
    path: str
    reason: str
    refused: int
    by: str = ""


@dataclass(frozen=True, slots=True)
class ScheduledAppendRefused:
    """A scheduled append was due and not done; `retried` says whether the same one is tried again."""

    scope: Scope
    path: str
    schedule_id: str
    code: str
    message: str
    retried: bool


@dataclass(frozen=True, slots=True)
class StorageFailed:
    """The disk refuses: nothing that waits for it is acknowledged until it takes writes again."""

    message: str


@dataclass(frozen=True, slots=True)
class StorageRecovered:
    """The disk takes writes again; what waited is stored."""


@dataclass(frozen=True, slots=True)
class StorageFault:
    """A write was none that the database could take: a bug of the node."""

    message: str


@dataclass(frozen=True, slots=True)
class MessageDeadLettered:
    """A channel's message is not delivered any more, until an operator retries or drops it.

    Attributes:
        reason: why; it may hold the text of an exception.
    """

    scope: Scope
    channel: str
    message_id: str
    msg_type: str
    deliveries: int
    reason: str


@dataclass(frozen=True, slots=True)
class EgressRequested:
    """A request leaves through a service link.

    Attributes:
        actor: the one that asked for it, inside its namespace.
        path: without the query, which may hold what is nobody's business.
        attempt: 1 for the first.
        caller: the subject of the token that started the work.
        message_id: of the message that the actor was handling.
        trace: W3C `traceparent` of that work.
    """

    scope: Scope
    actor: str
    link: str
    method: str
    path: str
    attempt: int
    caller: str
    message_id: str
    trace: str


@dataclass(frozen=True, slots=True)
class EgressAnswered:
    """An answer came through a service link; of one that is read piece by piece, its head.

    Attributes:
        ms: since the attempt began.
        bytes: of the body, decompressed; 0 for one that is read piece by piece.
    """

    scope: Scope
    actor: str
    link: str
    method: str
    path: str
    status: int
    ms: int
    bytes: int


@dataclass(frozen=True, slots=True)
class EgressFailed:
    """An attempt brought no answer; `code` is that of the error."""

    scope: Scope
    actor: str
    link: str
    method: str
    path: str
    code: str
    message: str
    ms: int


@dataclass(frozen=True, slots=True)
class EgressRefused:
    """A request was not let out.

    Attributes:
        reason: which rule was against it, and what in the configuration would allow it.
    """

    scope: Scope
    actor: str
    link: str
    method: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """A service link's circuit breaker, for one tenant, went from one state to another."""

    scope: Scope
    link: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class SecretReflected:
    """An answer held secrets that its request had carried; they were taken out.

    Attributes:
        names: of the secrets, never what they are.
    """

    scope: Scope
    actor: str
    link: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SecretSet:
    """A named secret has a new value; `by` is the subject who gave it."""

    tenant: str
    name: str
    version: int
    by: str


@dataclass(frozen=True, slots=True)
class SecretRemoved:
    """A named secret is forgotten."""

    tenant: str
    name: str
    by: str


@dataclass(frozen=True, slots=True)
class MasterKeyReplaced:
    """The node's secrets are under a new master key."""

    fingerprint: str


@dataclass(frozen=True, slots=True)
class CredentialRegistered:
    """An actor let a phantom token stand for a value in requests through these links."""

    address: Address
    token: str
    links: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CredentialRefused:
    """A request held a phantom token that is not for its link.

    Attributes:
        links: those that it is for; none for a token that was never registered.
    """

    scope: Scope
    link: str
    token: str
    links: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SecretInRequest:
    """A request was refused because it held what is secret, itself: a guest knows it that should not.

    Attributes:
        names: of what it held; none where it only looked so, in too many places to tell.
    """

    scope: Scope
    link: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProcessStarted:
    """An isolated application's process is there.

    Attributes:
        missing: what this machine's kernel could not do to confine it, a phrase each.
    """

    scope: Scope
    application: str
    pid: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """An isolated application's process is gone.

    Attributes:
        delay_s: how long the next one would wait before it is started.
    """

    scope: Scope
    application: str
    pid: int
    reason: str
    delay_s: float


Event = (
    NodeStarted
    | ProcessStarted
    | ProcessEnded
    | StorageFailed
    | StorageRecovered
    | StorageFault
    | NodeStopping
    | ComponentDeployed
    | DeploymentRefused
    | Undeployed
    | ActorStarted
    | ActorUpgraded
    | UpgradeRefused
    | ActorExited
    | SupervisorGaveUp
    | CertificateLoaded
    | CertificateRefused
    | ClientCertified
    | ClientRefused
    | ApplicationDeployed
    | ApplicationRefused
    | ApplicationRestarted
    | ApplicationFailed
    | ApplicationStopped
    | DeploymentRestored
    | RestoreFailed
    | SpawnedNotRestored
    | DeactivationRefused
    | StateNotKept
    | DeadLetter
    | FacetFault
    | MessageRefused
    | CallerRefused
    | MessageExpired
    | FiberOffloaded
    | PermissionRefused
    | EverythingGranted
    | EffectCaused
    | HostFault
    | NodeFault
    | GuestLogged
    | GuestLogTruncated
    | StreamPaused
    | StreamResumed
    | ScheduledAppendRefused
    | MessageDeadLettered
    | EgressRequested
    | EgressAnswered
    | EgressFailed
    | EgressRefused
    | BreakerChanged
    | SecretReflected
    | SecretSet
    | SecretRemoved
    | MasterKeyReplaced
    | CredentialRegistered
    | CredentialRefused
    | SecretInRequest
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
