"""What a process gives up of its own, for good: privileges, core dumps, being looked into, outliving its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Iterable
from pathlib import Path
from struct import Struct
from typing import Final

from ..errors import Unavailable
from .syscalls import MACHINES

_SET_PDEATHSIG: Final = 1
_SET_DUMPABLE: Final = 4
_CAPBSET_READ: Final = 23
_CAPBSET_DROP: Final = 24
_SET_NO_NEW_PRIVS: Final = 38
_CAP_AMBIENT: Final = 47
_CAP_AMBIENT_CLEAR_ALL: Final = 4

# linux/capability.h: version 3, and twice effective, permitted, inheritable for 32 capabilities each.
_CAPABILITY_VERSION: Final = 0x20080522
_CAPABILITY_HEADER = Struct("=Ii")
_CAPABILITY_DATA = Struct("=6I")
NET_BIND_SERVICE: Final = 10


def no_new_privileges() -> None:
    """No program that this process starts gets rights that it has not: set-user-id bits mean nothing any more."""
    _prctl(_SET_NO_NEW_PRIVS, 1, what="give up new privileges")


def no_core_dumps() -> None:
    """Nothing of this process's memory is written to a file when it crashes, and no stranger attaches to it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_SET_DUMPABLE, 0, what="forbid core dumps")


def die_with_parent(parent: int) -> None:
    """End when the thread ends that started this process.

    Args:
        parent: its process: if that has ended already, this one does now.
    """
    _prctl(_SET_PDEATHSIG, signal.SIGKILL, what="tie itself to its parent")
    if os.getppid() != parent:
        raise SystemExit("the parent ended meanwhile")


def drop_capabilities(keep: Iterable[int] = ()) -> None:
    """Give up the capabilities of the superuser, whoever this process runs as, except those in `keep` that it has.

    Raises:
        Unavailable: the kernel refuses, or the machine is not known here.
    """
    machine = MACHINES.get(os.uname().machine)
    if machine is None:
        raise Unavailable(f"capabilities are not dropped on {os.uname().machine}: {', '.join(MACHINES)}")
    kept = sum(1 << each for each in keep) & permitted_capabilities()
    # Of the bounding set only who has CAP_SETPCAP may drop; who has not got it has nothing to lose there.
    number = 0
    while _try_prctl(_CAPBSET_READ, number) >= 0:
        if not kept >> number & 1:
            _try_prctl(_CAPBSET_DROP, number)
        number += 1
    _try_prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    call = machine.number("capset")
    libc = _libc()
    if libc.syscall(
        ctypes.c_long(call or 0),
        _CAPABILITY_HEADER.pack(_CAPABILITY_VERSION, 0),
        _CAPABILITY_DATA.pack(low, low, 0, high, high, 0),
    ):
        raise Unavailable(f"capabilities could not be dropped: {os.strerror(ctypes.get_errno())}")


def permitted_capabilities() -> int:
    """The capabilities that this process may use, a bit each."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapPrm:"):
            return int(line.split()[1], 16)
    return 0


def first_to_be_killed() -> None:
    """When memory runs out, the kernel takes this process before others."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _try_prctl(option: int, value: int) -> int:
    zero = ctypes.c_ulong(0)
    return int(_libc().prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero))


def _prctl(option: int, value: int, *, what: str) -> None:
    if _try_prctl(option, value) < 0:
        raise Unavailable(f"the process could not {what}: {os.strerror(ctypes.get_errno())}")
