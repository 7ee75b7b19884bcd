"""Every error that can leave the node, by whose fault it is.

A caller's error is not to be repeated as it is; a busy one may be repeated later; an actor's is for its author.
Each has a stable `code` (the WIT's `error-code` where the guest can see it) and `details` for machines.
`api/faults.py` maps codes to HTTP statuses; a test walks the tree and finds none missing.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PlexSpacesError(Exception):
    """Base of all errors with a stable code.

    Args:
        message: one sentence for a person: what happened, and what to do about it.
        details: JSON-serialisable particulars for machines.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return self.message


class CallerError(PlexSpacesError):
    """The caller's fault: the same request will fail again."""


class BusyError(PlexSpacesError):
    """Nobody's fault: try again later."""


class ActorError(PlexSpacesError):
    """The called actor's fault."""


class InternalError(PlexSpacesError):
    """The node's own fault."""

    code = "internal"


# -- the caller's ------------------------------------------------------------------------------------------


class InvalidArgument(CallerError):
    code = "invalid-argument"


class NotFound(CallerError):
    code = "not-found"


class ActorNotFound(CallerError):
    code = "actor-not-found"


class AlreadyExists(CallerError):
    code = "already-exists"


class Conflict(CallerError):
    code = "conflict"


class PermissionDenied(CallerError):
    code = "permission-denied"


class Unauthenticated(CallerError):
    code = "unauthenticated"


class PayloadTooLarge(CallerError):
    code = "payload-too-large"


class UnsupportedMediaType(CallerError):
    code = "unsupported-media-type"


class Deadlock(CallerError):
    code = "deadlock"


class InvalidComponent(CallerError):
    """The uploaded bytes are not a sealed component of our world."""

    code = "invalid-component"


class HandlerRefused(CallerError):
    """The actor refused the message: unknown operation, wrong arguments, or a refusal of its own."""

    code = "handler-refused"


# -- nobody's ----------------------------------------------------------------------------------------------


class MailboxFull(BusyError):
    code = "mailbox-full"


class DeadlineExceeded(BusyError):
    code = "deadline-exceeded"


class RateLimited(BusyError):
    code = "rate-limited"


class Unavailable(BusyError):
    code = "unavailable"


class Cancelled(BusyError):
    code = "cancelled"


class LimitExceeded(BusyError):
    """A limit of the node; `details` name it, its value and its unit."""

    code = "limit-exceeded"


# -- the actor's -------------------------------------------------------------------------------------------


class HandlerCrashed(ActorError):
    """The actor ended while it handled the message; `details["exit"]` is the exit reason's text."""

    code = "handler-crashed"


class ActorExited(ActorError):
    """The actor ended before it came to the message."""

    code = "actor-exited"
