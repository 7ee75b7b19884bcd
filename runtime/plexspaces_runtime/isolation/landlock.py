"""Landlock: a process gives up the files, ports and signals that it will not need, and nothing gives them back.

Which rights there are depends on the kernel's ABI; what it does not know is left out, and `missing` says so.  A
restriction holds for the calling thread and whatever it starts, so it comes before all other threads.

Reference: https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from struct import Struct
from typing import Final

from ..errors import Unavailable

# The same on all machines: they came after numbers were unified.
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION_FLAG: Final = 1
_RULE_PATH: Final = 1
_RULE_PORT: Final = 2

_RULESET = Struct("=QQQ")
_PATH_RULE = Struct("=Qi")
_PORT_RULE = Struct("=QQ")


class Files(IntFlag):
    """What may be done with files and directories."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


class Ports(IntFlag):
    """What may be done with TCP ports."""

    BIND = 1 << 0
    CONNECT = 1 << 1


class Scopes(IntFlag):
    """What does not leave the restricted processes."""

    ABSTRACT_UNIX_SOCKET = 1 << 0
    SIGNAL = 1 << 1


READ: Final = Files.READ_FILE | Files.READ_DIR
WRITE: Final = (
    (READ | Files.WRITE_FILE | Files.TRUNCATE | Files.REFER)
    | (Files.REMOVE_DIR | Files.REMOVE_FILE | Files.MAKE_DIR | Files.MAKE_REG | Files.MAKE_SOCK)
    | (Files.MAKE_FIFO | Files.MAKE_SYM)
)
# The rights that mean something for what is no directory; the kernel refuses the others there.
_OF_A_FILE = Files.EXECUTE | Files.WRITE_FILE | Files.READ_FILE | Files.TRUNCATE | Files.IOCTL_DEV

# From which ABI on the kernel knows a right.
_FILES_SINCE: Final = ((Files.REFER, 2), (Files.TRUNCATE, 3), (Files.IOCTL_DEV, 5))
_PORTS_SINCE: Final = 4
_SCOPES_SINCE: Final = 6


@dataclass(frozen=True, slots=True)
class Rules:
    """What a process keeps; all else that Landlock knows of is gone.

    Attributes:
        paths: by path, with everything below it; one that is not there is left out.
        bind: TCP ports it may listen on, 0 for any that the system chooses; None for all.
        connect: TCP ports it may connect to; None for all.
        scoped: it sends no signal to and reaches no abstract socket of those outside.
    """

    paths: tuple[tuple[Path, Files], ...]
    bind: frozenset[int] | None = None
    connect: frozenset[int] | None = None
    scoped: bool = True


@dataclass(frozen=True, slots=True)
class Handled:
    """What a kernel of some ABI restricts, of what was asked for."""

    files: Files
    ports: Ports
    scopes: Scopes
    missing: tuple[str, ...]


def handled(rules: Rules, abi: int) -> Handled:
    """What of `rules` a kernel can do."""
    files = Files((1 << 16) - 1)
    missing = []
    for right, since in _FILES_SINCE:
        if abi < since:
            files &= ~right
            missing.append(f"{right.name} (Landlock ABI {since})")
    ports = Ports(0)
    if rules.bind is not None:
        ports |= Ports.BIND
    if rules.connect is not None:
        ports |= Ports.CONNECT
    if ports and abi < _PORTS_SINCE:
        ports = Ports(0)
        missing.append(f"TCP ports (Landlock ABI {_PORTS_SINCE})")
    scopes = Scopes.ABSTRACT_UNIX_SOCKET | Scopes.SIGNAL if rules.scoped else Scopes(0)
    if scopes and abi < _SCOPES_SINCE:
        scopes = Scopes(0)
        missing.append(f"signals and abstract sockets (Landlock ABI {_SCOPES_SINCE})")
    return Handled(files, ports, scopes, tuple(missing))


def rights_for(files: Files, known: Files, *, directory: bool) -> Files:
    """What a rule may grant: the kernel refuses rights that it does not handle, or that mean nothing there."""
    return files & known & (known if directory else _OF_A_FILE)


def abi() -> int:
    """The kernel's ABI; 0 where there is no Landlock, or it is switched off."""
    found = _syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    return max(0, found)


def restrict(rules: Rules) -> tuple[str, ...]:
    """Keep to `rules` from now on.

    The process must have given up new privileges, and have no other thread.

    Returns:
        What the kernel could not do of it, a phrase each.

    Raises:
        Unavailable: there is no Landlock here, or another thread runs that it would not hold.
    """
    version = abi()
    if version == 0:
        raise Unavailable("the kernel has no Landlock: it came with Linux 5.13, and `lsm=` at boot may leave it out")
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        raise Unavailable(f"Landlock would hold one of {threads} threads: it is to come before the others")
    can = handled(rules, version)
    # A kernel of an earlier ABI refuses an attribute that is longer than it knows and not zero there.
    attribute = _RULESET.pack(can.files, can.ports, can.scopes)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = _checked(_syscall(_CREATE_RULESET, attribute, len(attribute), 0), "make a ruleset")
    try:
        for path, files in rules.paths:
            _allow_path(ruleset, path, files, can.files)
        _allow_ports(ruleset, rules.bind, can.ports & Ports.BIND)
        _allow_ports(ruleset, rules.connect, can.ports & Ports.CONNECT)
        _checked(_syscall(_RESTRICT_SELF, ruleset, 0, 0), "restrict itself")
    finally:
        os.close(ruleset)
    return can.missing


def _allow_path(ruleset: int, path: Path, files: Files, known: Files) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        rights = rights_for(files, known, directory=path.is_dir())
        rule = _PATH_RULE.pack(rights, descriptor)
        _checked(_syscall(_ADD_RULE, ruleset, _RULE_PATH, rule, 0), f"allow {path}")
    finally:
        os.close(descriptor)


def _allow_ports(ruleset: int, ports: Iterable[int] | None, right: Ports) -> None:
    for port in (ports or ()) if right else ():
        rule = _PORT_RULE.pack(right, port)
        _checked(_syscall(_ADD_RULE, ruleset, _RULE_PORT, rule, 0), f"allow port {port}")


def _checked(answer: int, what: str) -> int:
    if answer < 0:
        raise Unavailable(f"Landlock could not {what}: {os.strerror(ctypes.get_errno())}")
    return answer


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    plain = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return int(libc.syscall(ctypes.c_long(number), *plain))
