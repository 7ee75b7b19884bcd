"""What an operator is shown: how an application fares, and the supervision tree as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..scope import Address, Scope
from .grants import CapabilityNews


@dataclass(frozen=True, slots=True)
class ApplicationStatus:
    """One application.

    Attributes:
        state: "starting", "running", "failed" (it waits for its next start), "restarting", "stopping" or "stopped".
        version: 1, and one more with each deployment of the same name.
        restarts: how often the node has started it again.
        last_exit: why its top supervisor ended the last time, "" if it never has.
        next_start_ms: when the node starts it again, Unix milliseconds; 0 if it does not wait for that.
        actors: how many of its actors live.
        components: SHA-256 by the component's name.
        changes: what the last deployment did, one phrase each ("started agent", "upgraded router"); empty if nothing
            differed.
        capabilities: of the last deployment, what each of its actor types may newly do or asks for.
    """

    scope: Scope
    name: str
    state: str
    version: int
    restarts: int
    last_exit: str
    next_start_ms: int
    actors: int
    components: Mapping[str, str]
    changes: tuple[str, ...] = ()
    capabilities: Mapping[str, CapabilityNews] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A supervisor or an actor, and what is below it.

    Attributes:
        kind: "application" or "deployment" (a root: the top supervisor), "supervisor" or "actor".
        address: of an actor, None for a supervisor.
        strategy: of a supervisor, "" for an actor.
        restart: "permanent", "transient" or "temporary"; "" for a root.
        restarts: how often it has been started again.
        restarts_max: of a supervisor: more restarts within its window end it; 0 for an actor.
        restarts_in_window: of a supervisor: how many of those there were lately.
        last_exit: why it ended the last time, "" if it never has.
        mailbox_messages: messages that wait for an actor.
        messages_handled: by this incarnation of an actor.
    """

    name: str
    kind: str
    state: str
    address: Address | None
    strategy: str
    restart: str
    restarts: int
    restarts_max: int
    restarts_in_window: int
    last_exit: str
    mailbox_messages: int
    messages_handled: int
    children: tuple[TreeNode, ...] = ()
