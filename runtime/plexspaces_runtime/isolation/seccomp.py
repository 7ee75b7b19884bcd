"""Filters of system calls: what the node may not call, and the little that an isolated process may.

A policy is a table; `program` turns it into a filter for one machine, and `install` hands it to the kernel for all
threads.  A call made in another machine's way (a 32-bit one, x32) is never allowed: its numbers mean other calls.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ..errors import Unavailable
from .bpf import Instruction, Item, Label, Op, assemble
from .syscalls import MACHINES, Machine

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_KILL_PROCESS: Final = 0x80000000

# struct seccomp_data: nr, arch, instruction pointer, six arguments of 64 bits; both machines are little-endian.
_NUMBER_AT: Final = 0
_ARCH_AT: Final = 4
_ARGUMENTS_AT: Final = 16

_SET_MODE_FILTER: Final = 1
_FLAG_TSYNC: Final = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a call: `word` is what the kernel wants to hear."""

    word: int


ALLOW: Final = Verdict(_ALLOW)
# The process ends at once, by SIGSYS.
KILL: Final = Verdict(_KILL_PROCESS)


def refuse(number: int) -> Verdict:
    """The call is not made, and its caller sees this `errno`."""
    return Verdict(_ERRNO | number)


@dataclass(frozen=True, slots=True)
class Only:
    """The call is allowed if an argument's low 32 bits, masked, are one of `values`; else `otherwise`."""

    argument: int
    values: frozenset[int]
    otherwise: Verdict
    mask: int = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Policy:
    """What becomes of each call, and of those that are not named."""

    default: Verdict
    calls: Mapping[str, Verdict | Only] = field(default_factory=dict)


def program(policy: Policy, machine: Machine) -> bytes:
    """The filter of a policy for one machine."""
    items: list[Item] = [
        Instruction(Op.LOAD, _ARCH_AT),
        Instruction(Op.JUMP_EQUAL, machine.audit_arch, then="ours"),
        Instruction(Op.RETURN, KILL.word),
        Label("ours"),
        Instruction(Op.LOAD, _NUMBER_AT),
    ]
    if machine.foreign_from:
        items += [
            Instruction(Op.JUMP_AT_LEAST, machine.foreign_from, otherwise="native"),
            Instruction(Op.RETURN, KILL.word),
            Label("native"),
        ]
    for name, rule in policy.calls.items():
        if (number := machine.number(name)) is not None:
            items += _rule(name, number, rule)
    items.append(Instruction(Op.RETURN, policy.default.word))
    return assemble(items)


def _rule(name: str, number: int, rule: Verdict | Only) -> list[Item]:
    after = f"after {name}"
    items: list[Item] = [Instruction(Op.JUMP_EQUAL, number, otherwise=after)]
    match rule:
        case Verdict(word):
            items.append(Instruction(Op.RETURN, word))
        case Only(argument, values, otherwise, mask):
            items.append(Instruction(Op.LOAD, _ARGUMENTS_AT + 8 * argument))
            if mask != 0xFFFFFFFF:
                items.append(Instruction(Op.AND, mask))
            good = f"good {name}"
            items += [Instruction(Op.JUMP_EQUAL, value, then=good) for value in sorted(values)]
            items += [Instruction(Op.RETURN, otherwise.word), Label(good), Instruction(Op.RETURN, ALLOW.word)]
    items.append(Label(after))
    return items


# -- policies ----------------------------------------------------------------------------------------------

_EPERM: Final = refuse(errno.EPERM)

# Looking into other processes, and taking things out of them.
_OTHERS = ("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd")
# The file system's shape, and files by other ways than their names.
_MOUNTS = (
    *("mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount"),
    *("fspick", "mount_setattr", "open_by_handle_at", "name_to_handle_at", "fanotify_init", "quotactl", "swapon"),
    *("swapoff", "acct", "nfsservctl"),
)
# Where most ways into the kernel have been found.
_SURFACE = (
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "add_key"),
    *("request_key", "keyctl", "memfd_secret", "modify_ldt", "mbind", "set_mempolicy", "migrate_pages", "move_pages"),
)
# The machine itself.
_MACHINE = (
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "syslog"),
    *("lookup_dcookie", "sethostname", "setdomainname", "settimeofday", "adjtimex", "clock_settime"),
    *("clock_adjtime", "ioperm", "iopl", "vhangup", "personality"),
)
_NAMESPACES = ("unshare", "setns")
DANGEROUS: Final = (*_OTHERS, *_MOUNTS, *_SURFACE, *_MACHINE, *_NAMESPACES)

# sched.h: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; of NEWTIME `clone` knows nothing.
_NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_CLONE_THREAD = 0x00010000
# AF_UNIX, AF_INET, AF_INET6, and AF_NETLINK, by which the resolver learns of the machine's addresses.
_FAMILIES = frozenset({1, 2, 10, 16})

NODE: Final = Policy(
    ALLOW,
    {
        **dict.fromkeys(DANGEROUS, _EPERM),
        "clone": Only(0, frozenset({0}), _EPERM, mask=_NEW_NAMESPACES),
        # Its flags are in memory, where no filter can see them.  As if the kernel did not have it, so that the C
        # library takes `clone`.
        "clone3": refuse(errno.ENOSYS),
        "socket": Only(0, _FAMILIES, refuse(errno.EAFNOSUPPORT)),
    },
)
"""A node may do anything but what no node does."""


def isolated(pid: int) -> Policy:
    """An isolated process may compute, and talk through the one socket that it has.

    What is harmless to try and useless here is refused; what nothing here would ever try ends the process.

    Args:
        pid: its own, the only one that it may send a signal.
    """
    return Policy(
        _EPERM,
        {
            **dict.fromkeys(_COMPUTING, ALLOW),
            **dict.fromkeys(("execve", "execveat", *DANGEROUS), KILL),
            # Threads, no processes.
            "clone": Only(0, frozenset({_CLONE_THREAD}), KILL, mask=_NEW_NAMESPACES | _CLONE_THREAD),
            "clone3": refuse(errno.ENOSYS),
            "tgkill": Only(0, frozenset({pid}), KILL),
            "prlimit64": Only(0, frozenset({0, pid}), _EPERM),
        },
    )


_COMPUTING: Final = (
    # In the order of how often they are made: the filter is walked from its beginning, for each call.
    *("futex", "sendto", "recvfrom", "mprotect", "madvise", "mmap", "munmap", "read", "write", "clock_gettime"),
    *("clock_nanosleep", "rt_sigprocmask", "rt_sigaction", "rt_sigreturn", "sigaltstack", "mremap", "brk"),
    *("openat", "close", "fstat", "newfstatat", "statx", "lseek", "pread64", "readv", "writev", "fadvise64", "open"),
    *("stat", "lstat", "readlink", "readlinkat", "fcntl", "poll", "ppoll", "sendmsg", "recvmsg", "sched_yield"),
    *("nanosleep", "getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid", "sched_getaffinity"),
    *("getrandom", "clock_getres", "gettimeofday", "time", "set_robust_list", "rseq", "sysinfo", "getrlimit", "getcpu"),
    *("restart_syscall", "uname", "membarrier", "exit", "exit_group"),
)


# -- installing --------------------------------------------------------------------------------------------


class _Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def available() -> bool:
    """Whether this machine has a table here and its kernel takes filters."""
    return platform.machine() in MACHINES and os.path.exists("/proc/sys/kernel/seccomp/actions_avail")


def install(policy: Policy) -> None:
    """Hold all threads of this process, and whatever they start, to a policy, for good.

    The process must have given up new privileges (`confine.no_new_privileges`).

    Raises:
        Unavailable: the kernel or the machine cannot do it.
    """
    machine = MACHINES.get(platform.machine())
    if machine is None:
        raise Unavailable(f"there is no filter of system calls for {platform.machine()}: {', '.join(MACHINES)}")
    seccomp = machine.number("seccomp")
    assert seccomp is not None
    raw = program(policy, machine)
    buffer = ctypes.create_string_buffer(raw, len(raw))
    header = _Program(len(raw) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    failed = libc.syscall(
        ctypes.c_long(seccomp),
        ctypes.c_long(_SET_MODE_FILTER),
        ctypes.c_long(_FLAG_TSYNC),
        ctypes.byref(header),
    )
    if failed > 0:
        raise Unavailable(f"the kernel could not hold thread {failed} to the filter of system calls")
    if failed:
        raise Unavailable(f"the kernel takes no filter of system calls: {os.strerror(ctypes.get_errno())}")
