"""Where the contract's WIT files are: in the installed package, or beside the sources in a checkout."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from .errors import InternalError

WORLD = "actor"
_HERE = Path(__file__).resolve().parent


@cache
def wit_dir() -> Path:
    """The directory with the package `plexspaces:actor`.

    Raises:
        InternalError: this installation lacks it.
    """
    # A checkout comes first: an old wheel's copy must not shadow the file being edited.
    for candidate in (_HERE.parent.parent / "wit" / "plexspaces-actor", _HERE / "_wit"):
        if (candidate / "world.wit").is_file():
            return candidate
    raise InternalError("this installation of plexspaces has lost its WIT files; install it again")


def wit_files() -> list[Path]:
    """Every file of the package, sorted by name."""
    return sorted(wit_dir().glob("*.wit"))
