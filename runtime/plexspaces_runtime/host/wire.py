"""Errors as WIT values."""

from __future__ import annotations

from typing import Final

import orjson

from ..actors.guest import Err
from ..errors import PlexSpacesError

# The WIT's `error-code`: what a guest may be told.  Anything else is the node's own business.
_CODES: Final = frozenset(
    {
        "invalid-argument",
        "not-found",
        "actor-not-found",
        "already-exists",
        "conflict",
        "permission-denied",
        "mailbox-full",
        "deadline-exceeded",
        "deadlock",
        "limit-exceeded",
        "handler-refused",
        "handler-crashed",
        "actor-exited",
        "rate-limited",
        "unavailable",
        "cancelled",
        "internal",
    }
)


def error_value(error: Exception) -> Err:
    """An error as the WIT's `error` record."""
    if not isinstance(error, PlexSpacesError):
        return Err(("internal", "a fault of the node; its log has the details", "{}"))
    code = error.code if error.code in _CODES else "internal"
    return Err((code, error.message, orjson.dumps(error.details, default=str).decode()))
