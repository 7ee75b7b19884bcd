"""What the node itself gives up when it starts: `plexspaces serve --harden`.

Whoever breaks out of a guest has the rights of the node's process.  So that process keeps what a node needs and nothing
else: its directories, the files of Python and of the system to read, its port; no other file, no program but Python's
own, no system call that no node makes, no new privilege, and no core dump with secrets in it.  It is done once, before
there is a second thread, holds for everything that the node starts, and cannot be taken back.

TCP connections are not limited to ports: where links may lead is `egress`'s to decide, by address, when an application
is deployed, and a list of ports that is fixed before that would be either in the way or of no use.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from ..config import NodeConfig, default_cache_dir
from ..errors import Unavailable
from ..witfiles import wit_files
from . import confine, landlock, seccomp
from .landlock import READ, WRITE, Files, Rules

_SYSTEM: Final = ("/usr", "/lib", "/lib64", "/proc", "/sys/devices/system", "/run/systemd/resolve")
# What the resolver, TLS and the loader look for there; a file that is replaced while the node runs is not found again.
_SETTINGS: Final = tuple(
    f"/etc/{name}"
    for name in (
        *("resolv.conf", "hosts", "host.conf", "nsswitch.conf", "gai.conf", "services", "protocols", "ssl", "pki"),
        *("ca-certificates", "localtime", "timezone", "ld.so.cache", "passwd", "group", "mime.types"),
    )
)
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
_PROGRAMS: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_LOADERS: Final = ("/lib64", "/lib", "/usr/lib64", "/usr/lib")
# Below this port only who has the capability may listen.
_ORDINARY_PORT_MIN: Final = 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """What the node keeps.

    Attributes:
        read: files and directories, with all below them.
        write: likewise, to read and write.
        execute: programs, or directories with programs.
        bind: ports to listen on; 0 is any that the system chooses.
    """

    read: tuple[Path, ...]
    write: tuple[Path, ...]
    execute: tuple[Path, ...]
    bind: frozenset[int]

    def rules(self) -> Rules:
        """For Landlock."""
        rights: dict[Path, Files] = {}
        for paths, files in ((self.read, READ), (self.write, WRITE), (self.execute, READ | Files.EXECUTE)):
            for path in paths:
                rights[path] = rights.get(path, Files(0)) | files
        for device in _DEVICES:
            rights[Path(device)] = Files.READ_FILE | Files.WRITE_FILE | Files.IOCTL_DEV
        return Rules(tuple(rights.items()), bind=self.bind)


def plan(config: NodeConfig, more: Iterable[Path] = (), *, strict: bool) -> Plan:
    """What a node with this configuration keeps.

    Args:
        more: files and directories that it is to read besides, such as an application's.
        strict: it starts no program but Python, and reads of the system's settings only what it needs.
    """
    python = Path(sys.executable)
    prefixes = {Path(each) for each in (sys.prefix, sys.base_prefix, sys.exec_prefix, sysconfig.get_path("stdlib"))}
    modules = {Path(each) for each in (*sys.path, *site.getsitepackages()) if each and Path(each).exists()}
    system = map(Path, (*_SYSTEM, *(_SETTINGS if strict else ("/etc",))))
    named = {path if path.is_dir() else path.parent for path in _paths(config)}
    programs = (python, python.resolve(), *_loaders()) if strict else (*map(Path, _PROGRAMS), *prefixes)
    return Plan(
        read=tuple(sorted({*system, *prefixes, *modules, *named, *more, wit_files()[0].parent})),
        write=tuple(sorted({config.data_dir, config.cache_dir, default_cache_dir(), _CGROUPS})),
        execute=tuple(sorted(set(programs))),
        bind=frozenset({config.port, config.grpc_port} if config.grpc else {config.port}),
    )


def _paths(content: Any) -> Iterable[Path]:
    """Every file that a configuration names; keys and certificates are renewed by replacing them in their directory."""
    if isinstance(content, Path):
        yield content
    elif is_dataclass(content):
        for each in fields(content):
            yield from _paths(getattr(content, each.name))


def _loaders() -> Iterable[Path]:
    """The dynamic loader, which the kernel starts when it is told to start Python."""
    for folder in _LOADERS:
        yield from Path(folder).glob("ld-*.so*")
        yield from Path(folder).glob("*-linux-gnu/ld-*.so*")


def apply(wanted: Plan, *, strict: bool) -> tuple[str, ...]:
    """Keep to a plan from now on.  To be called once, before other threads are started.

    Returns:
        What this machine could not do of it, a phrase each.

    Raises:
        Unavailable: and it is strict; what could be done is done, so the process is of no more use.
    """
    missing: list[str] = []

    def attempt(step: Callable[[], Iterable[str] | None]) -> None:
        try:
            missing.extend(step() or ())
        except Unavailable as error:
            missing.append(error.message)

    low = any(0 < port < _ORDINARY_PORT_MIN for port in wanted.bind)
    attempt(confine.no_core_dumps)
    attempt(confine.no_new_privileges)
    attempt(lambda: confine.drop_capabilities({confine.NET_BIND_SERVICE} if low else ()))
    attempt(lambda: landlock.restrict(wanted.rules()))
    attempt(lambda: seccomp.install(seccomp.NODE))
    if missing and strict:
        raise Unavailable(
            "this machine cannot do all that --harden=strict asks for: " + "; ".join(missing) + ". "
            "--harden does what it can"
        )
    return tuple(missing)


def make_directories(config: NodeConfig) -> None:
    """Make what is to be written to: a rule can only name what is there.

    Temporary files go there, too: the common directory for them is everybody's.
    """
    temporary = config.cache_dir / "tmp"
    for path in (config.data_dir, config.cache_dir, default_cache_dir(), temporary):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
