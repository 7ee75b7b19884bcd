"""The facet `durability`: an actor that survives the death of its node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..facets.kind import FacetContext, FacetType
from ..facets.settings import Settings
from .durability import Durability, DurabilityConfig
from .durable import Durable


class DurabilityType(FacetType[DurabilityConfig]):
    """See the module."""

    priority = 90

    def __init__(self, durability: Durability) -> None:
        self._durability = durability

    def parse(self, config: Mapping[str, Any]) -> DurabilityConfig:
        settings = Settings(
            "durability",
            config,
            ("checkpoint_interval", "max_attempts", "retry_backoff", "reply_retention", "retain_checkpoints"),
        )
        return DurabilityConfig(
            checkpoint_interval=settings.whole("checkpoint_interval", 100, low=1, high=1_000_000),
            max_attempts=settings.whole("max_attempts", 3, low=1, high=1_000),
            retry_backoff_s=settings.duration_s("retry_backoff", "100ms", low_s=0.0),
            reply_retention_ms=int(settings.duration_s("reply_retention", "24h", low_s=0.0) * 1_000),
            retain_checkpoints=settings.whole("retain_checkpoints", 4, low=1, high=10_000),
        )

    def build(self, context: FacetContext, config: DurabilityConfig) -> Durable:
        return self._durability.facet(context.address, config)
