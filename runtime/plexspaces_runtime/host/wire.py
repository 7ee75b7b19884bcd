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
# What was wrong with a call may be quoted, and is as long as the guest likes.
_MESSAGE_CHARS_MAX: Final = 16_384
_DETAILS_CHARS_MAX: Final = 131_072


def error_value(error: Exception) -> Err:
    """An error as the WIT's `error` record."""
    if not isinstance(error, PlexSpacesError):
        return Err(("internal", "a fault of the node; its log has the details", "{}"))
    code = error.code if error.code in _CODES else "internal"
    try:
        details = orjson.dumps(error.details, default=str).decode()
    except orjson.JSONEncodeError:
        details = "{}"
    return Err((code, error.message[:_MESSAGE_CHARS_MAX], details if len(details) <= _DETAILS_CHARS_MAX else "{}"))
