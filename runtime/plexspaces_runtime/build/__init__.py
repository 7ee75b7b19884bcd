"""From an actor's Python source to a sealed WebAssembly component."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .builder import BuildResult, Progress, Step, build, find_mistakes
    from .findings import BuildFailed, Finding, Severity

__all__ = ["BuildFailed", "BuildResult", "Finding", "Progress", "Severity", "Step", "build", "find_mistakes"]

_HOME = {"BuildFailed": "findings", "Finding": "findings", "Severity": "findings"}


def __getattr__(name: str) -> Any:
    # Most commands of the command line want the errors and never build: they should not wait for the builder.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'builder')}"), name)
