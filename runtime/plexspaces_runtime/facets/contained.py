"""Keeps what somebody else's facet may do wrong from reaching anything but the messages it judges."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from ..actors.envelope import Envelope
from ..actors.exits import Exit
from ..actors.facets import Facet
from ..actors.guest import Result
from ..errors import InternalError, PlexSpacesError
from ..events import EventBus, FacetFault
from ..scope import Address


class Contained(Facet):
    """A facet from outside, in a hull.

    Where `admit` fails, the message is refused: whether it should have been let in, nobody knows.  Where another hook
    fails, the actor goes on as if there were no facet.

    Args:
        name: the facet's type.
        address: of its actor.
    """

    __slots__ = ("_address", "_events", "_inner", "_name", "_told")

    def __init__(self, inner: Facet, name: str, address: Address, events: EventBus) -> None:
        self._inner = inner
        self._name = name
        self._address = address
        self._events = events
        self._told = False

    def admit(self, envelope: Envelope) -> None:
        try:
            self._inner.admit(envelope)
        except PlexSpacesError:
            raise
        except Exception as fault:
            self._tell("admit", fault)
            raise InternalError(
                f"facet {self._name!r} of actor {self._address.text!r} failed while it judged the message: "
                "the node's log says how",
                facet=self._name,
            ) from fault

    def started(self) -> None:
        self._hook("started", self._inner.started)

    def handled(self, envelope: Envelope, result: Result, cpu_ns: int) -> None:
        self._hook("handled", lambda: self._inner.handled(envelope, result, cpu_ns))

    def ended(self, exit_: Exit) -> None:
        self._hook("ended", lambda: self._inner.ended(exit_))

    def report(self) -> dict[str, Any]:
        reported: dict[str, Any] = {}
        self._hook("report", lambda: reported.update(self._inner.report()))
        return reported

    def _hook(self, hook: str, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as fault:  # noqa: BLE001 - the boundary to foreign code
            self._tell(hook, fault)

    def _tell(self, hook: str, fault: Exception) -> None:
        # Once: it may fail at every message, and the log must not drown in it.
        if not self._told:
            self._told = True
            text = f"{type(fault).__name__}: {fault}"
            trace = "".join(traceback.format_exception(fault))
            self._events.emit(FacetFault(self._address, self._name, hook, text, trace))
