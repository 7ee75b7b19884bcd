"""A control group of its own for each process, where the node's own group has been handed to it (version 2 only).

Under systemd that is `Delegate=memory` (see packaging/systemd).  A group that hands out controllers may hold no process
itself, so the node moves into a group beside those of its applications.  Where any of this cannot be done the node
looks at the processes' memory instead.

Reference: https://docs.kernel.org/admin-guide/cgroup-v2.html, "No Internal Process Constraint", "Delegation".
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MOUNT: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")
_NODE: Final = "node"


@dataclass(frozen=True, slots=True)
class Group:
    """One process's group."""

    path: Path

    def was_out_of_memory(self) -> bool:
        """Whether the kernel has ended something in it because it reached its limit."""
        with contextlib.suppress(OSError, ValueError):
            for line in (self.path / "memory.events").read_text(encoding="ascii").splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count) > 0
        return False

    def remove(self) -> None:
        """It is empty."""
        with contextlib.suppress(OSError):
            self.path.rmdir()


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The group that has been handed to the node."""

    path: Path

    @classmethod
    def find(cls, mount: Path = _MOUNT, own: Path = _OWN) -> Cgroups | None:
        """The node's own group made ready to hold others, or None where it is not the node's to change."""
        try:
            path = mount / _own_path(own.read_text(encoding="ascii")).lstrip("/")
            # The root is nobody's: it has no limits, and everybody's processes.
            if path == mount or "memory" not in (path / "cgroup.controllers").read_text(encoding="ascii").split():
                return None
            if path.name == _NODE and "memory" in _words(path.parent / "cgroup.subtree_control"):
                # Moved there before, by another node of this process or by systemd (DelegateSubgroup=node).
                return cls(path.parent)
            (path / _NODE).mkdir(exist_ok=True)
            (path / _NODE / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
            (path / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
        except (OSError, ValueError):
            return None
        return cls(path)

    def confine(self, pid: int, memory_bytes_max: int) -> Group | None:
        """Put a process into a group of its own; None if that could not be done."""
        path = self.path / f"process-{pid}"
        try:
            path.mkdir()
            (path / "memory.max").write_text(str(memory_bytes_max), encoding="ascii")
            with contextlib.suppress(OSError):
                # Not everywhere is swap accounted for.
                (path / "memory.swap.max").write_text("0", encoding="ascii")
            (path / "memory.oom.group").write_text("1", encoding="ascii")
            (path / "cgroup.procs").write_text(str(pid), encoding="ascii")
        except OSError:
            with contextlib.suppress(OSError):
                path.rmdir()
            return None
        return Group(path)


def _own_path(text: str) -> str:
    """From the text of `/proc/self/cgroup`: the one hierarchy of version 2 has number 0 and no controllers listed.

    Raises:
        ValueError: there is none.
    """
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            return path
    raise ValueError("this process is in no group of version 2")


def _words(file: Path) -> list[str]:
    return file.read_text(encoding="ascii").split()
