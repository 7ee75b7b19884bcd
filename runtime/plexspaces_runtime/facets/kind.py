"""What a type of facet is: how its configuration is read, and how a facet is made of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..actors.facets import Facet, Facets
from ..clock import Clock
from ..config import Limits
from ..events import EventBus
from ..scope import Address

C = TypeVar("C")
F = TypeVar("F", bound=Facet)


@dataclass(frozen=True, slots=True)
class FacetContext:
    """What a facet may use.

    Attributes:
        address: the actor it is wrapped around.
        clock: its only source of time.
        events: where it says what happens.
        limits: the node's.
    """

    address: Address
    clock: Clock
    events: EventBus
    limits: Limits


class FacetType(ABC, Generic[C]):
    """A type of facet; `C` is its configuration once it is read.

    Attributes:
        priority: where it stands unless the configuration says so; the higher, the further out.
    """

    priority: int = 50

    @abstractmethod
    def parse(self, config: Mapping[str, Any]) -> C:
        """Read a configuration strictly; `Settings` helps.

        Raises:
            InvalidArgument: it is wrong; the message names the key and what is possible.
        """

    @abstractmethod
    def build(self, context: FacetContext, config: C) -> Facet | None:
        """The facet of one actor, or None where nothing is to be hooked."""


class Chain(Facets):
    """The facets of one actor, by name.

    Args:
        named: name and facet, outermost first.
    """

    __slots__ = ("_names",)

    def __init__(self, named: tuple[tuple[str, Facet], ...]) -> None:
        super().__init__(tuple(facet for _, facet in named))
        self._names = tuple(name for name, _ in named)

    def find(self, kind: type[F]) -> F | None:
        """The facet that is a `kind`."""
        return next((facet for facet in self._inward if isinstance(facet, kind)), None)

    def report(self) -> dict[str, dict[str, Any]]:
        """What an operator may see of them, by name, outermost first; see `Facet.report`."""
        return {name: facet.report() for name, facet in zip(self._names, self._inward, strict=True)}
