"""The facet `durability`: its configuration, checked.  An actor's own state survives nothing but deactivation here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .kind import FacetContext, FacetType
from .settings import Settings


@dataclass(frozen=True, slots=True)
class DurabilityConfig:
    """Attributes:
    checkpoint_interval: messages between two checkpoints.
    """

    checkpoint_interval: int


class DurabilityType(FacetType[DurabilityConfig]):
    """See the module."""

    priority = 90

    def parse(self, config: Mapping[str, Any]) -> DurabilityConfig:
        settings = Settings("durability", config, ("checkpoint_interval",))
        return DurabilityConfig(settings.whole("checkpoint_interval", 100, low=1, high=1_000_000))

    def build(self, context: FacetContext, config: DurabilityConfig) -> None:
        return None
