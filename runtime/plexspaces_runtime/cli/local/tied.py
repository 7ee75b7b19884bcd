"""Becomes a command that ends when whoever started it does, however that ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ...isolation.confine import die_with_parent


def tied(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` so, started by this process."""
    return [sys.executable, "-m", __name__, str(os.getpid()), *command]


def main() -> None:
    """`python -m ... PARENT COMMAND...`"""
    _, parent, *command = sys.argv
    # The kernel keeps the tie when another program takes the process over.
    die_with_parent(int(parent))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
