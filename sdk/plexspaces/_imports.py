"""Where host calls go: the component's imports in the sandbox, a fake under test, nowhere else.

`current` has one attribute per interface of the contract (`messaging`, `clock`, ...), each with the functions and
records of the generated bindings.  Whoever runs actors binds it; the facade in `host` looks it up at every call.
"""

from __future__ import annotations

from typing import Any

from .errors import Unavailable


class Unbound:
    """What there is outside a running actor: nothing."""

    def __getattr__(self, interface: str) -> Any:
        raise Unavailable(
            f"the host's {interface} cannot be reached here: host functions work in an actor's handlers, not while its "
            "module is imported or in ordinary programs; to try an actor on plain Python, use plexspaces.testing"
        )


unbound = Unbound()
current: Any = unbound


def bind(imports: Any) -> Any:
    """Make `imports` the current ones; returns those before, to be bound again afterwards."""
    global current
    before, current = current, imports
    return before
