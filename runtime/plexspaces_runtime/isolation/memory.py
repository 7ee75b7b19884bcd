"""How much memory a process has for itself, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

# Not what is mapped from files: the compiled code and the image of its memory are shared with all who map them.
_PRIVATE: Final = frozenset({"RssAnon", "RssShmem", "VmSwap"})


def private_bytes(status: str) -> int:
    """From the text of a `/proc/PID/status`."""
    total = 0
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name in _PRIVATE:
            total += int(value.split()[0]) * 1024
    return total


def memory_bytes(pid: int) -> int:
    """Of a process; 0 if it is gone."""
    try:
        return private_bytes(Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return 0
