"""How a call into the host is made: a failure record of the contract becomes the exception of its code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from . import _imports
from .errors import HOST_ERRORS, HostError


def failure(error: Any) -> HostError:
    """The exception for one of the contract's error records."""
    code = error.code.name.lower().replace("_", "-")
    try:
        details = json.loads(error.details) if error.details else {}
    except ValueError:
        details = {"text": error.details}
    return HOST_ERRORS.get(code, HostError)(error.message, code=code, details=details)


def do(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of the host.

    Raises:
        HostError
    """
    try:
        return function(*args)
    except _imports.current.Err as failed:
        raise failure(failed.value) from None
