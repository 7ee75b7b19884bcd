"""What can go wrong for an actor's author, by whose doing it is.

`Refuse` is the actor's answer to a caller; `HostError` is the node's answer to the actor; `SandboxError` is the
sandbox's answer to code that wanted more than it may have.
"""

from __future__ import annotations

import errno
from typing import Any, ClassVar


class Refuse(Exception):
    """Raise it in a handler to refuse a message: the caller gets an error, the actor goes on.

    Args:
        code: stable and machine-readable, in kebab case: `insufficient-funds`.
        message: one sentence for a person.
        details: JSON-serialisable particulars.
    """

    def __init__(self, code: str, message: str = "", /, **details: Any) -> None:
        super().__init__(message or code)
        self.code = code
        self.message = message or code
        self.details = details


class HostError(Exception):
    """The node refused or could not do what was asked.

    Every subclass stands for one `error-code` of the contract, so that `except host.NotFound` reads well and
    `error.code` can be switched on.

    Attributes:
        code: the contract's error code, in kebab case.
        message: one sentence: what happened and what to do.
        details: particulars, such as `retry_after_ms` or `cycle`.
    """

    default_code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, code: str | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code if code is not None else self.default_code
        self.message = message
        self.details = details if details is not None else {}

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class InvalidArgument(HostError):
    default_code = "invalid-argument"


class NotFound(HostError):
    default_code = "not-found"


class ActorNotFound(HostError):
    default_code = "actor-not-found"


class AlreadyExists(HostError):
    default_code = "already-exists"


class Conflict(HostError):
    default_code = "conflict"


class PermissionDenied(HostError):
    default_code = "permission-denied"


class MailboxFull(HostError):
    default_code = "mailbox-full"


class DeadlineExceeded(HostError):
    default_code = "deadline-exceeded"


class Deadlock(HostError):
    default_code = "deadlock"


class LimitExceeded(HostError):
    default_code = "limit-exceeded"


class HandlerRefused(HostError):
    default_code = "handler-refused"


class HandlerCrashed(HostError):
    default_code = "handler-crashed"


class ActorExited(HostError):
    default_code = "actor-exited"


class RateLimited(HostError):
    default_code = "rate-limited"


class Unavailable(HostError):
    default_code = "unavailable"


class Cancelled(HostError):
    default_code = "cancelled"


class Internal(HostError):
    default_code = "internal"


HOST_ERRORS: dict[str, type[HostError]] = {cls.default_code: cls for cls in HostError.__subclasses__()}


class WorkflowCancelled(BaseException):
    """Somebody has asked for this run to be cancelled; raised in `run`, once, at a step's boundary.

    Not an `Exception`, as with `asyncio.CancelledError`: code that copes with the failure of a step is not meant to
    cope with this.  Whoever catches it and goes on has decided not to be cancelled.
    """


class SandboxError(PermissionError):
    """The sandbox has no files, sockets, processes or threads; the text says what to use instead.

    It is a `PermissionError`, so that libraries which cope with a closed file system cope with this one.
    """

    def __init__(self, message: str) -> None:
        super().__init__(errno.EPERM, message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class MissingModule(ModuleNotFoundError):
    """A module that was not imported while the component was built: there is nothing to load it from now."""
