"""The command line: `plexspaces`, and `plexspaces-py` as its other name."""

from __future__ import annotations


def main() -> None:
    """The console scripts' entry point."""
    import sys

    from .app import run

    sys.exit(run())


__all__ = ["main"]
