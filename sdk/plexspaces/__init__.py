"""Write actors in plain Python: `from plexspaces import actor, state, handler, host`."""

from __future__ import annotations

import sys as _sys

if _sys.platform == "wasi":
    # datetime in C reads the system's clock itself, and the sandbox has none; the pure one asks `time.time`.
    # This must precede every import of datetime, also our own.
    _sys.modules["_datetime"] = None  # type: ignore[assignment]
    _sys.modules.pop("datetime", None)

from . import host
from ._declare import (
    actor,
    event_actor,
    fsm_actor,
    gen_server_actor,
    handler,
    info_handler,
    init_handler,
    migrate_handler,
    query_handler,
    run_handler,
    signal_handler,
    state,
    terminate_handler,
    workflow_actor,
)
from ._dispatch import Context
from ._secret import Secret
from ._version import __version__
from .errors import HostError, Refuse, SandboxError

__all__ = [
    "Context",
    "HostError",
    "Refuse",
    "SandboxError",
    "Secret",
    "__version__",
    "actor",
    "event_actor",
    "fsm_actor",
    "gen_server_actor",
    "handler",
    "host",
    "info_handler",
    "init_handler",
    "migrate_handler",
    "query_handler",
    "run_handler",
    "signal_handler",
    "state",
    "terminate_handler",
    "workflow_actor",
]
