"""What the runtime needs of a sandboxed instance; `wasm/` has the real one, tests have one in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from .exits import Exit


class Export(Enum):
    """The entry points of an instance.  INSTANTIATE is one because it, too, runs guest code."""

    # By identity: Enum hashes its name in Python, on every lookup.
    __hash__ = object.__hash__

    INSTANTIATE = "instantiate"
    DESCRIBE = "describe"
    INIT = "init"
    SET_STATE = "set-state"
    GET_STATE = "get-state"
    HANDLE = "handle"
    TERMINATE = "terminate"


class Poll(Enum):
    """Why a running guest gave control back."""

    # By identity: Enum hashes its name in Python, on every lookup.
    __hash__ = object.__hash__

    DONE = "done"
    # It called the host; `Guest.request` says what it wants.
    REQUEST = "request"
    # The epoch ended its turn.
    PREEMPTED = "preempted"
    # It runs elsewhere, and reports when there is something to tell: see `Remote`.
    AWAY = "away"


# One is made for every host call; nobody assigns to it after construction.
@dataclass(slots=True, eq=False)
class HostRequest:
    """A call of a host function: the arguments are copies, the guest is suspended.

    Attributes:
        interface: as in WIT, `process-groups`.
        function: as in WIT, `ask-many`.
        arguments: lifted by WIT type.
    """

    interface: str
    function: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """The guest answered with the WIT's `failure`."""

    crashed: bool
    code: str
    message: str
    details: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Trapped:
    """The instance is dead (invariant W1: it is never entered again); `exit` says why."""

    exit: Exit


class _Side:
    """One side of a WIT `result`."""

    __match_args__ = ("value",)
    __slots__ = ("value",)

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.value == other.value

    def __hash__(self) -> int:
        return hash((type(self), self.value))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r})"


class Ok(_Side):
    """The good side of a WIT `result`."""

    __slots__ = ()


class Err(_Side):
    """The bad side of a WIT `result`; for our `error` record, (code, message, details)."""

    __slots__ = ()


# What a finished call leaves: text (reply, state, description), nothing, the guest's failure, or a dead instance.
Result = str | None | Failure | Trapped


class Guest(Protocol):
    """One instance.  At most one call at a time is under way (invariant W2), and one thread polls it."""

    request: HostRequest | None

    def begin(self, export: Export, *arguments: Any) -> None:
        """Prepare a call; `poll` runs it."""

    def poll(self) -> Poll:
        """Run until the call is done, wants something of the host, or its turn is over."""

    def answer(self, value: Any) -> None:
        """Give the pending host request its result; the next `poll` goes on from there."""

    def trap(self, message: str) -> None:
        """Refuse the pending host request with a trap: for functions whose type has no room for an error."""

    def take_result(self) -> Result:
        """The result of a call that is done."""

    def close(self) -> None:
        """Free the instance, killing whatever it was doing."""


class Remote:
    """What a guest is besides whose instance is in another process: `poll` does not run it, but asks for news.

    Whoever was told `Poll.AWAY` says whom to tell next: that there is news, so that `poll` answers something else, or
    that the instance is lost, which may be at any later time.  Both are called on the loop's thread, outside of
    every call of the guest's own methods.
    """

    __slots__ = ("on_lost", "on_news")

    def __init__(self) -> None:
        # Hears how much processor time the guest has used since it was told `AWAY`, in nanoseconds.
        self.on_news: Callable[[int], None] | None = None
        self.on_lost: Callable[[Exit], None] | None = None
