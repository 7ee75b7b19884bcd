"""What the command's exit status means."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Documented in `plexspaces --help`; scripts rely on the numbers."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_ALLOWED = 4
    TRY_LATER = 5
    CRASHED = 6
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "refused or failed: the same again will fail again",
    Exit.USAGE: "the command line is wrong",
    Exit.UNREACHABLE: "no node answers",
    Exit.NOT_ALLOWED: "no token, or one that may not do this",
    Exit.TRY_LATER: "busy or too late: the same may work later",
    Exit.CRASHED: "the actor crashed",
    Exit.INTERRUPTED: "interrupted",
}

BY_CODE = {
    "unauthenticated": Exit.NOT_ALLOWED,
    "permission-denied": Exit.NOT_ALLOWED,
    "mailbox-full": Exit.TRY_LATER,
    "deadline-exceeded": Exit.TRY_LATER,
    "rate-limited": Exit.TRY_LATER,
    "unavailable": Exit.TRY_LATER,
    "cancelled": Exit.TRY_LATER,
    "limit-exceeded": Exit.TRY_LATER,
    "handler-crashed": Exit.CRASHED,
    "actor-exited": Exit.CRASHED,
}


def exit_for(code: str) -> Exit:
    """The exit status for an error's stable code."""
    return BY_CODE.get(code, Exit.FAILED)
