"""The SDK's version, in one place that both halves read."""

from __future__ import annotations

__version__ = "0.1.0"
