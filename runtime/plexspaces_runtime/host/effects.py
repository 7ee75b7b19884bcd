"""Which host calls do something that others can see, and what to tell of them when somebody asks who caused it."""

from __future__ import annotations

from typing import Any, Final

from ..actors.actor import Actor
from ..actors.guest import HostRequest
from ..events import EffectCaused

_NAME_CHARS_MAX: Final = 256

# By interface.  Functions that are not here only look, wait, or change nothing but the actor itself.
EFFECTS: Final[dict[str, frozenset[str]]] = {
    "messaging": frozenset({"ask", "ask-many", "send", "reply"}),
    "lifecycle": frozenset({"spawn", "stop", "link"}),
    "process-groups": frozenset({"join", "leave", "broadcast"}),
    "registry": frozenset({"set-label"}),
    "keyvalue": frozenset({"put", "delete", "compare-and-set", "increment"}),
    "locks": frozenset({"acquire", "renew", "release"}),
    "tuplespace": frozenset({"write", "take", "take-all"}),
    "channels": frozenset({"send", "receive", "ack", "nack", "extend"}),
    "blobs": frozenset({"put", "delete"}),
    "streams": frozenset({"append"}),
    "http": frozenset({"fetch", "fetch-stream", "register-credential", "forget-credential"}),
    "workflow": frozenset({"promise-create", "promise-resolve"}),
}

# The first argument of these names nothing, or something that is not to be written anywhere.
_NAMELESS: Final = frozenset(
    {("messaging", "reply"), ("tuplespace", "write"), ("tuplespace", "take"), ("tuplespace", "take-all")}
    | {("http", "register-credential"), ("http", "forget-credential"), ("messaging", "ask-many")}
)


def effect(actor: Actor, request: HostRequest) -> EffectCaused | None:
    """What to tell of a host call of an actor; None if it has no effect."""
    interface, function = request.interface, request.function
    if function not in EFFECTS.get(interface, ()):
        return None
    cause = actor.cause
    caller = cause.caller if cause is not None else None
    return EffectCaused(
        address=actor.address,
        interface=interface,
        function=function,
        name="" if (interface, function) in _NAMELESS else _name(request.arguments),
        message_id=cause.id if cause is not None else "",
        causation_id=cause.causation_id if cause is not None else "",
        subject=caller.subject if caller is not None else "",
    )


def _name(arguments: tuple[Any, ...]) -> str:
    first = arguments[0] if arguments else ""
    # A record: its first field.
    if isinstance(first, tuple) and first:
        first = first[0]
    return first[:_NAME_CHARS_MAX] if isinstance(first, str) else ""
