"""What starts an application's process inside a Firecracker microVM: its configuration and the jailer's command line.

The seam is the one of `processes`: frames over a stream.  In a microVM the stream is a vsock connection that the guest
makes to the host's port `PORT`, which Firecracker hands to the Unix socket `uds_path_PORT`; what runs in there is
`isolation.child` as the first process of a read-only root file system, with nothing else.

Only the configuration is made here, and checked; this version does not start one (`unavailable` says so), and nothing
of it has been tried on a machine.  See docs/decisions/0010-isolation-seam.md.

Reference: Firecracker's src/firecracker/swagger/firecracker.yaml, docs/vsock.md and docs/jailer.md.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ..config import ConfigError

MICROVM: Final = "microvm"
# Where the guest finds the node: CID 2 is the host, from inside.
PORT: Final = 9_000
_KVM: Final = Path("/dev/kvm")
_SOCKET: Final = PurePosixPath("/run/v.sock")
_CONFIGURATION: Final = PurePosixPath("/vm.json")
# The jailer's own default.
_BASE: Final = PurePosixPath("/srv/jailer")

_VCPUS_MAX: Final = 32
_MEMORY_MIB_MIN: Final = 128
# 0 to 2 are the hypervisor's, reserved and the host's.
_GUEST_CID_MIN: Final = 3
_GUEST_CID_MAX: Final = 0xFFFFFFFE
# `sun_path` is 108 bytes with the zero at its end, and "_9000" is appended.
_SOCKET_PATH_BYTES_MAX: Final = 107 - len(f"_{PORT}")
_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
# An initial process without a console, that is over when anything goes wrong.
_BOOT_ARGUMENTS: Final = "reboot=k panic=1 pci=off 8250.nr_uarts=0 quiet ro init=/sbin/plexspaces-child"


def unavailable(kvm: Path = _KVM) -> str:
    """Why an application cannot have `isolation = "microvm"` on this machine, and what it can have."""
    if not os.access(kvm, os.R_OK | os.W_OK):
        return f'isolation = "microvm" needs {kvm}, which this user cannot open here: write "process"'
    return (
        'isolation = "microvm" is not started by this version, which only makes the configuration for it '
        '(docs/hardening.md): write "process"'
    )


@dataclass(frozen=True, slots=True)
class MicroVm:
    """One application's microVM.

    Attributes:
        id: unique on the machine: letters, digits and hyphens.
        kernel: an uncompressed kernel, as seen by Firecracker (inside its jail).
        root: a read-only root file system, likewise.
        components: a read-only file system with the compiled components, likewise.
        memory_mib: of the whole machine, its kernel included.
        vcpus: one runs the guests, as in a process.
        guest_cid: of its vsock, unique on the machine.
        socket: where Firecracker listens for the host's side of the vsock, likewise seen from the jail.
    """

    id: str
    kernel: PurePosixPath
    root: PurePosixPath
    components: PurePosixPath
    guest_cid: int
    memory_mib: int = 512
    vcpus: int = 1
    socket: PurePosixPath = _SOCKET

    def __post_init__(self) -> None:
        issues = []
        if not _ID.fullmatch(self.id):
            issues.append(f"id {self.id!r:.80}: 1 to 64 letters, digits and hyphens")
        for name in ("kernel", "root", "components", "socket"):
            path: PurePosixPath = getattr(self, name)
            if not path.is_absolute() or ".." in path.parts:
                issues.append(f"{name} {str(path)!r:.80}: an absolute path without '..'")
        if len(os.fsencode(self.socket)) > _SOCKET_PATH_BYTES_MAX:
            issues.append(f"socket: a path of at most {_SOCKET_PATH_BYTES_MAX} bytes")
        if not 1 <= self.vcpus <= _VCPUS_MAX:
            issues.append(f"vcpus = {self.vcpus}: 1 to {_VCPUS_MAX}")
        if self.memory_mib < _MEMORY_MIB_MIN:
            issues.append(f"memory_mib = {self.memory_mib}: at least {_MEMORY_MIB_MIN}")
        if not _GUEST_CID_MIN <= self.guest_cid <= _GUEST_CID_MAX:
            issues.append(f"guest_cid = {self.guest_cid}: {_GUEST_CID_MIN} to {_GUEST_CID_MAX}")
        if issues:
            raise ConfigError(issues)

    def configuration(self) -> dict[str, Any]:
        """For `firecracker --config-file`: no network, no balloon, nothing that can be written to."""
        return {
            "boot-source": {"kernel_image_path": str(self.kernel), "boot_args": _BOOT_ARGUMENTS},
            "drives": [
                _drive("root", self.root, is_root=True),
                _drive("components", self.components, is_root=False),
            ],
            "machine-config": {"vcpu_count": self.vcpus, "mem_size_mib": self.memory_mib, "smt": False},
            "vsock": {"guest_cid": self.guest_cid, "uds_path": str(self.socket)},
        }


def _drive(name: str, path: PurePosixPath, *, is_root: bool) -> dict[str, Any]:
    return {
        "drive_id": name,
        "path_on_host": str(path),
        "is_root_device": is_root,
        "is_read_only": True,
        "io_engine": "Sync",
    }


@dataclass(frozen=True, slots=True)
class Jail:
    """How Firecracker itself is confined.

    Attributes:
        jailer: the jailer's executable.
        firecracker: the executable that it starts; the jailer wants "firecracker" in its name.
        user: numeric, and nobody else's.
        base: where jails are.
        overhead_mib: memory for Firecracker beside the machine's own.
    """

    jailer: PurePosixPath
    firecracker: PurePosixPath
    user: int
    group: int
    base: PurePosixPath = _BASE
    overhead_mib: int = 64

    def __post_init__(self) -> None:
        issues = [
            f"{name} {str(path)!r:.80}: an absolute path"
            for name, path in (("jailer", self.jailer), ("firecracker", self.firecracker), ("base", self.base))
            if not path.is_absolute()
        ]
        if "firecracker" not in self.firecracker.name:
            issues.append(f"firecracker {self.firecracker.name!r:.80}: the jailer starts nothing that is not called so")
        if self.user <= 0 or self.group <= 0:
            issues.append("user and group: of an ordinary user, not the superuser's 0")
        if issues:
            raise ConfigError(issues)

    def root(self, vm: MicroVm) -> PurePosixPath:
        """The machine's `/`, as the host sees it: where kernel, drives and configuration are put."""
        return self.base / self.firecracker.name / vm.id / "root"

    def socket(self, vm: MicroVm) -> PurePosixPath:
        """Where the node listens for the guest, as the host sees it."""
        inside = vm.socket.relative_to("/")
        return self.root(vm) / f"{inside}_{PORT}"

    def command(self, vm: MicroVm, configuration: PurePosixPath = _CONFIGURATION) -> list[str]:
        """What starts the machine.

        Args:
            configuration: the file with `MicroVm.configuration`, seen from the jail.
        """
        memory_bytes = (vm.memory_mib + self.overhead_mib) << 20
        return [
            str(self.jailer),
            *("--id", vm.id),
            *("--exec-file", str(self.firecracker)),
            *("--uid", str(self.user), "--gid", str(self.group)),
            *("--chroot-base-dir", str(self.base)),
            *("--cgroup-version", "2", "--cgroup", f"memory.max={memory_bytes}"),
            *("--resource-limit", "no-file=64", "--resource-limit", "fsize=0"),
            "--new-pid-ns",
            "--",
            *("--config-file", str(configuration), "--no-api"),
        ]
