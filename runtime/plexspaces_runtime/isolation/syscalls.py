"""The numbers of the system calls that filters name, by machine; other calls have no name here.

From the kernel's headers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h (aarch64).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

# By name: the number on x86_64, the number on aarch64; None where the machine has no such call.
# fmt: off
CALLS: Final[Mapping[str, tuple[int | None, int | None]]] = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "brk": (12, 214),
    "capset": (126, 91), "chroot": (161, 51), "clock_adjtime": (305, 266), "clock_getres": (229, 114),
    "clock_gettime": (228, 113), "clock_nanosleep": (230, 115), "clock_settime": (227, 112), "clone": (56, 220),
    "clone3": (435, 435), "close": (3, 57), "delete_module": (176, 106), "execve": (59, 221), "execveat": (322, 281),
    "exit": (60, 93), "exit_group": (231, 94), "fadvise64": (221, 223), "fanotify_init": (300, 262),
    "fcntl": (72, 25), "finit_module": (313, 273), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fsopen": (430, 430), "fspick": (433, 433), "fstat": (5, 80), "futex": (202, 98), "getcpu": (309, 168),
    "getegid": (108, 177), "geteuid": (107, 175), "getgid": (104, 176), "getpid": (39, 172), "getppid": (110, 173),
    "getrandom": (318, 278), "getrlimit": (97, 163), "gettid": (186, 178), "gettimeofday": (96, 169),
    "getuid": (102, 174), "init_module": (175, 105), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425), "ioctl": (16, 29), "ioperm": (173, None), "iopl": (172, None), "kcmp": (312, 272),
    "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219), "lookup_dcookie": (212, 18),
    "lseek": (8, 62), "lstat": (6, None), "madvise": (28, 233), "mbind": (237, 235), "membarrier": (324, 283),
    "memfd_secret": (447, None), "migrate_pages": (256, 238), "mmap": (9, 222), "modify_ldt": (154, None),
    "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429), "move_pages": (279, 239),
    "mprotect": (10, 226), "mremap": (25, 216), "munmap": (11, 215), "name_to_handle_at": (303, 264),
    "nanosleep": (35, 101), "newfstatat": (262, 79), "nfsservctl": (180, 42), "open": (2, None),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "openat": (257, 56), "perf_event_open": (298, 241),
    "personality": (135, 92), "pidfd_getfd": (438, 438), "pivot_root": (155, 41), "poll": (7, None),
    "ppoll": (271, 73), "prctl": (157, 167), "pread64": (17, 67), "prlimit64": (302, 261),
    "process_madvise": (440, 440), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "ptrace": (101, 117), "quotactl": (179, 60), "read": (0, 63), "readlink": (89, None), "readlinkat": (267, 78),
    "readv": (19, 65), "reboot": (169, 142), "recvfrom": (45, 207), "recvmsg": (47, 212), "request_key": (249, 218),
    "restart_syscall": (219, 128), "rseq": (334, 293), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "sched_getaffinity": (204, 123), "sched_yield": (24, 124), "seccomp": (317, 277),
    "sendmsg": (46, 211), "sendto": (44, 206), "set_mempolicy": (238, 237), "set_robust_list": (273, 99),
    "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268), "settimeofday": (164, 170),
    "sigaltstack": (131, 132), "socket": (41, 198), "stat": (4, None), "statx": (332, 291), "swapoff": (168, 225),
    "swapon": (167, 224), "sysinfo": (99, 179), "syslog": (103, 116), "tgkill": (234, 131), "time": (201, None),
    "umount2": (166, 39), "uname": (63, 160), "unshare": (272, 97), "userfaultfd": (323, 282), "vhangup": (153, 58),
    "write": (1, 64), "writev": (20, 66),
}
# fmt: on


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind of processor, as a filter knows it.

    Attributes:
        name: as `platform.machine()` has it.
        audit_arch: what the kernel says of a call made in this machine's way (linux/audit.h).
        foreign_from: numbers from here up are another calling convention of the same machine's; 0 for none.
    """

    name: str
    audit_arch: int
    column: int
    foreign_from: int = 0

    def number(self, call: str) -> int | None:
        """The number of a call, None where there is no such call.

        Raises:
            KeyError: the call has no name here.
        """
        return CALLS[call][self.column]


# x32 shares x86_64's mark, and begins at this bit.
X86_64: Final = Machine("x86_64", 0xC000003E, 0, foreign_from=0x40000000)
AARCH64: Final = Machine("aarch64", 0xC00000B7, 1)
MACHINES: Final[Mapping[str, Machine]] = {machine.name: machine for machine in (X86_64, AARCH64)}
