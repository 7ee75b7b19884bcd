"""What wraps an actor: hooks around its messages and its life, in a declared order.

A facet belongs to the supervised name, not to one incarnation: its counters and buckets outlive a crash.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .actor import Actor, Step
    from .envelope import Envelope
    from .exits import Exit
    from .guest import Failure, HostRequest, Result
    from .mailbox import Mailbox
    from .timers import Timer

# What `Keeper.replayed` answers when nothing is recorded.
MISS: Final = object()


class Diverged(Exception):
    """A guest asks for something else than is recorded."""


class Facet:
    """One capability wrapped around an actor.  Every hook does nothing unless a facet overrides it.

    Hooks run on the loop's thread and must not block.  One that raises other than `admit` is a bug of the facet.
    """

    __slots__ = ()

    def admit(self, envelope: Envelope) -> None:
        """A message from another actor or from outside is about to enter the mailbox.

        Raises:
            PlexSpacesError: it must not; the sender gets this error.
        """

    def divert(self, envelope: Envelope) -> bool:
        """Take a message in another way than through the mailbox; True if that was done."""
        return False

    def started(self) -> None:
        """An incarnation is ready."""

    def handled(self, envelope: Envelope, result: Result, cpu_ns: int) -> None:
        """A message is done; `result` is the reply, None, a `Failure`, or a `Trapped` when it ended the actor."""

    def ended(self, exit_: Exit) -> None:
        """An incarnation has ended."""

    def report(self) -> dict[str, Any]:
        """What an operator may see of it, as JSON values."""
        return {}


class Keeper(Facet):
    """The facet that makes an actor durable: what the scheduler and the host ask of it."""

    __slots__ = ()

    def adopt(self, mailbox: Mailbox[Envelope, Any]) -> None:
        """A new incarnation has this mailbox."""
        raise NotImplementedError

    def accept(self, envelope: Envelope) -> None:
        """Keep a message until it is done with."""
        raise NotImplementedError

    def recover(self, actor: Actor, go: Callable[[str | None], None], failed: Callable[[Exit], None]) -> None:
        """Get ready for a new incarnation.

        Args:
            go: called, at once or later, with the state of the last checkpoint, None if there is none.
            failed: called instead, if it cannot be made.
        """
        raise NotImplementedError

    def begin_again(self, failed: Callable[[Exit], None]) -> list[Step]:
        """The steps between the instance's beginning and its being given that state."""
        raise NotImplementedError

    def replay(self, failed: Callable[[Exit], None]) -> list[Step]:
        """The steps that bring an instance with that state to where it was."""
        raise NotImplementedError

    def initialising(self, config: tuple[str, str, str, bool, str]) -> None:
        """`init` is about to run, with this configuration: what it asks for is passed by here."""
        raise NotImplementedError

    def initialised(self) -> None:
        """It has run."""
        raise NotImplementedError

    def captured(self, state: str, component: str = "") -> None:
        """This is the state between two messages.

        Args:
            component: the hash of the code that wrote it, if that is not the actor's yet.
        """
        raise NotImplementedError

    def not_captured(self, problem: str) -> None:
        """There is none: why."""
        raise NotImplementedError

    @property
    def checkpoint_due(self) -> bool:
        """Whether the state is wanted."""
        raise NotImplementedError

    def begin(self, envelope: Envelope) -> bool:
        """A message is about to be handled; False if it was before, and need not be."""
        raise NotImplementedError

    def dropped(self, envelope: Envelope) -> None:
        """A message has become void before it was begun."""
        raise NotImplementedError

    def finished(self, envelope: Envelope, result: str | Failure | None) -> Exit | None:
        """A message is done; the exit if the actor must end because it did otherwise than recorded."""
        raise NotImplementedError

    @property
    def unfinished(self) -> bool:
        """Whether its incarnation has ended and left something to do for another, though nobody may send to it."""
        raise NotImplementedError

    @property
    def attending(self) -> bool:
        """Whether host calls are to be passed by here: those of a message, or of `init`."""
        raise NotImplementedError

    @property
    def recording(self) -> bool:
        """Whether they are those of a message."""
        raise NotImplementedError

    @property
    def quiet(self) -> bool:
        """Whether what happens has happened before."""
        raise NotImplementedError

    def replayed(self, request: HostRequest) -> Any:
        """The recorded answer to a host call, or `MISS`.

        Raises:
            Diverged: another call is recorded.
        """
        raise NotImplementedError

    def diverged(self, divergence: Diverged) -> Exit:
        """The exit for that."""
        raise NotImplementedError

    def opening(self) -> None:
        """The host call that was missed is about to be served."""
        raise NotImplementedError

    def answered(self, value: Any) -> None:
        """It has been answered."""
        raise NotImplementedError

    def next_id(self) -> str:
        """The id of a message that the host call under way sends: the same if it is made again after a crash."""
        raise NotImplementedError

    def outside_id(self) -> str:
        """What the host call under way is known by outside: the same if it is made again after a crash, or by another
        attempt at the same step of a workflow."""
        raise NotImplementedError

    def begun_ms(self) -> int:
        """When the host call under way was begun first: wall clock in milliseconds."""
        raise NotImplementedError

    def replied(self, message_id: str, payload: str) -> bool:
        """A message of the past is answered; False if it is not known, or was answered."""
        raise NotImplementedError

    def timer_set(self, timer: Timer, due_ms: int) -> None:
        """A timer is set; `due_ms` is on the wall clock."""
        raise NotImplementedError

    def timer_over(self, timer_id: str) -> None:
        """It is over."""
        raise NotImplementedError


class Facets:
    """The facets of one actor.

    Args:
        facets: outermost first: that is the order of `admit` and `started`; the others run innermost first.
    """

    __slots__ = ("_diverting", "_inward", "_outward", "keeper")

    def __init__(self, facets: tuple[Facet, ...]) -> None:
        self._inward = facets
        self._outward = facets[::-1]
        # Asked about every message: only those that have something to say.
        self._diverting = tuple(facet for facet in facets if type(facet).divert is not Facet.divert)
        self.keeper = next((facet for facet in facets if isinstance(facet, Keeper)), None)

    def admit(self, envelope: Envelope) -> None:
        """See `Facet.admit`: the first that refuses decides."""
        for facet in self._inward:
            facet.admit(envelope)

    def divert(self, envelope: Envelope) -> bool:
        """See `Facet.divert`: the first that takes it has it."""
        return any(facet.divert(envelope) for facet in self._diverting)

    def started(self) -> None:
        """See `Facet.started`."""
        for facet in self._inward:
            facet.started()

    def handled(self, envelope: Envelope, result: Result, cpu_ns: int) -> None:
        """See `Facet.handled`."""
        for facet in self._outward:
            facet.handled(envelope, result, cpu_ns)

    def ended(self, exit_: Exit) -> None:
        """See `Facet.ended`."""
        for facet in self._outward:
            facet.ended(exit_)
