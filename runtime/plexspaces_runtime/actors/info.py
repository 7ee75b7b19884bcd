"""What an operator sees of one actor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..scope import Address


@dataclass(frozen=True, slots=True)
class ActorInfo:
    """One actor at one moment.

    Attributes:
        state: of the lifecycle table, or `offloaded` / `waiting` where it is busy in that way.
        mailbox_messages: how many wait.
        waiting_for: the actors whose replies it waits for.
        cpu_ms: spent in handlers since the actor started.
        last_exit: why its previous incarnation ended, "" if it never did.
        started_ms: wall clock, milliseconds since 1970.
        facets: what each of its facets reports, by name, outermost first.
        capabilities: what it is granted, by whose configuration; of one that was spawned, what all of them allow.
        refused: how often actors of its type were refused what, since that was deployed last.
    """

    address: Address
    state: str
    mailbox_messages: int
    messages_handled: int
    restarts: int
    last_exit: str
    component_hash: str
    started_ms: int
    cpu_ms: float
    waiting_for: tuple[str, ...]
    facets: Mapping[str, Any] = field(default_factory=dict)
    capabilities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
