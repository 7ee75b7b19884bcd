"""Why an actor ended: the exit reasons of OTP, plus `limit(...)` and `nondeterminism`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Reason(Enum):
    """The closed set of exit reasons."""

    NORMAL = "normal"
    SHUTDOWN = "shutdown"
    KILLED = "killed"
    CRASHED = "crashed"
    LIMIT = "limit"
    NONDETERMINISM = "nondeterminism"
    NOPROC = "noproc"


# Reasons after which a `transient` child is not restarted (OTP: normal, shutdown, {shutdown, Term}).
_ORDERLY = frozenset({Reason.NORMAL, Reason.SHUTDOWN})


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of an actor.

    Attributes:
        reason: one of the closed set.
        subject: what kind of crash (exception type, `trap`) or which limit (`memory`, `cpu`, ...).
        message: for a person.
        traceback: the guest's; for the log, never for a caller.
        cause: the actor whose end began it, where it came through a link; "" for an end of its own.
    """

    reason: Reason
    subject: str = ""
    message: str = ""
    traceback: str = ""
    cause: str = ""

    @property
    def text(self) -> str:
        """The reason in the form the documentation uses: `limit(cpu)`, `crashed(ValueError, no such row)`."""
        match self.reason:
            case Reason.LIMIT:
                return f"limit({self.subject})"
            case Reason.CRASHED:
                # What a guest reports of an exception begins with its type already.
                message = self.message.removeprefix(f"{self.subject}: ")
                return f"crashed({self.subject}, {message})" if message else f"crashed({self.subject})"
            case Reason.NONDETERMINISM if self.message:
                return f"nondeterminism({self.message})"
            case _:
                return str(self.reason.value)

    @property
    def orderly(self) -> bool:
        """Whether a transient child stays down after it."""
        return self.reason in _ORDERLY

    def __str__(self) -> str:
        return self.text


NORMAL = Exit(Reason.NORMAL)
SHUTDOWN = Exit(Reason.SHUTDOWN)
KILLED = Exit(Reason.KILLED)
NOPROC = Exit(Reason.NOPROC)


def crashed(kind: str, message: str, traceback: str = "") -> Exit:
    """A handler raised, or the component trapped (`kind` is then `trap`)."""
    return Exit(Reason.CRASHED, kind, message, traceback)


def stopped(reason: str) -> Exit:
    """What an actor that is stopped with `reason` ends with.

    `normal` and `shutdown` are orderly; any other text is not, as with OTP's `gen_server:stop/3`.
    """
    match reason:
        case "normal":
            return NORMAL
        case "" | "shutdown":
            return SHUTDOWN
        case _:
            return crashed("stopped", reason)


def through_link(exit_: Exit, actor_id: str) -> Exit:
    """The end of an actor that was linked to `actor_id`, which ended with `exit_`: the same reason, the first cause."""
    return Exit(exit_.reason, exit_.subject, exit_.message, cause=exit_.cause or actor_id)


def limit(name: str, message: str) -> Exit:
    """A limit ended the actor; `message` names its value and how to raise it."""
    return Exit(Reason.LIMIT, name, message)
