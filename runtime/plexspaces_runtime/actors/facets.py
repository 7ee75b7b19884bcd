"""What wraps an actor: hooks around its messages and its life, in a declared order.

A facet belongs to the supervised name, not to one incarnation: its counters and buckets outlive a crash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .envelope import Envelope
    from .exits import Exit
    from .guest import Result


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

    def started(self) -> None:
        """An incarnation is ready."""

    def handled(self, envelope: Envelope, result: Result, cpu_ns: int) -> None:
        """A message is done; `result` is the reply, None, a `Failure`, or a `Trapped` when it ended the actor."""

    def ended(self, exit_: Exit) -> None:
        """An incarnation has ended."""

    def report(self) -> dict[str, Any]:
        """What an operator may see of it, as JSON values."""
        return {}


class Facets:
    """The facets of one actor.

    Args:
        facets: outermost first: that is the order of `admit` and `started`; the others run innermost first.
    """

    __slots__ = ("_inward", "_outward")

    def __init__(self, facets: tuple[Facet, ...]) -> None:
        self._inward = facets
        self._outward = facets[::-1]

    def admit(self, envelope: Envelope) -> None:
        """See `Facet.admit`: the first that refuses decides."""
        for facet in self._inward:
            facet.admit(envelope)

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
