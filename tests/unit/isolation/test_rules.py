"""Decisions without a process: Landlock's rights by ABI, pauses, memory, control groups, what a hardened node keeps."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from plexspaces_runtime.config import NodeConfig
from plexspaces_runtime.isolation import harden
from plexspaces_runtime.isolation.backoff import Deaths
from plexspaces_runtime.isolation.cgroups import Cgroups, Group
from plexspaces_runtime.isolation.landlock import READ, WRITE, Files, Ports, Rules, Scopes, handled, rights_for
from plexspaces_runtime.isolation.memory import memory_bytes, private_bytes

RULES = Rules(paths=(), bind=frozenset({80}), connect=frozenset())


@pytest.mark.parametrize(
    ("abi", "missing"),
    [
        (1, ["REFER", "TRUNCATE", "IOCTL_DEV", "TCP ports", "signals"]),
        (2, ["TRUNCATE", "IOCTL_DEV", "TCP ports", "signals"]),
        (3, ["IOCTL_DEV", "TCP ports", "signals"]),
        (4, ["IOCTL_DEV", "signals"]),
        (5, ["signals"]),
        (6, []),
        (7, []),
    ],
)
def test_what_an_older_kernel_cannot_do_is_said(abi: int, missing: list[str]) -> None:
    can = handled(RULES, abi)
    assert [phrase.split(" (")[0].split(" and ")[0] for phrase in can.missing] == missing
    assert (Files.TRUNCATE in can.files) is (abi >= 3)
    assert can.ports == (Ports.BIND | Ports.CONNECT if abi >= 4 else Ports(0))
    assert bool(can.scopes) is (abi >= 6)


def test_what_was_not_asked_for_is_not_missing() -> None:
    can = handled(Rules(paths=(), scoped=False), 3)
    assert (can.ports, can.scopes) == (Ports(0), Scopes(0))
    assert can.missing == ("IOCTL_DEV (Landlock ABI 5)",)


def test_a_file_is_granted_what_means_something_for_a_file() -> None:
    known = handled(RULES, 7).files
    assert rights_for(READ, known, directory=True) == Files.READ_FILE | Files.READ_DIR
    assert rights_for(READ, known, directory=False) == Files.READ_FILE
    assert rights_for(WRITE, handled(RULES, 1).files, directory=True) & (Files.REFER | Files.TRUNCATE) == Files(0)


def test_no_right_but_executing_is_left_out_of_writing() -> None:
    devices = Files.MAKE_CHAR | Files.MAKE_BLOCK | Files.IOCTL_DEV
    assert WRITE | Files.EXECUTE | devices == Files((1 << 16) - 1)
    assert not WRITE & (Files.EXECUTE | devices)


def test_pauses_grow_while_one_dies_after_the_other() -> None:
    deaths, delays = Deaths(), []
    for _ in range(13):
        deaths = deaths.after(1.0)
        delays.append(deaths.delay_s)
    assert delays[:5] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == 30.0
    assert deaths.after(59.9).count == 14
    assert deaths.after(60.0).delay_s == 0.0


def test_memory_is_what_a_process_has_for_itself() -> None:
    text = "VmRSS:\t  900 kB\nRssAnon:\t  300 kB\nRssFile:\t  500 kB\nRssShmem:\t 100 kB\nVmSwap:\t   4 kB\n"
    assert private_bytes(text) == 404 * 1024
    before = memory_bytes(os.getpid())
    with mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as own:
        # A page is there once it has been written to.
        for at in range(0, len(own), mmap.PAGESIZE):
            own[at] = 1
        assert memory_bytes(os.getpid()) - before > 24 << 20
    assert memory_bytes(2**22 + 1) == 0


class TestCgroups:
    """By a directory that is laid out as the kernel lays it out."""

    def laid_out(self, tmp_path: Path, name: str, controllers: str = "cpu memory pids") -> tuple[Path, Path]:
        group = tmp_path / "mount" / name
        group.mkdir(parents=True)
        (group / "cgroup.controllers").write_text(controllers)
        own = tmp_path / "own"
        own.write_text(f"4:memory:/elsewhere\n0::/{name}\n")
        return group, own

    def test_the_node_moves_aside_and_hands_out_memory(self, tmp_path: Path) -> None:
        group, own = self.laid_out(tmp_path, "plexspaces.service")
        found = Cgroups.find(tmp_path / "mount", own)
        assert found == Cgroups(group)
        assert (group / "node" / "cgroup.procs").read_text() == str(os.getpid())
        assert (group / "cgroup.subtree_control").read_text() == "+memory"
        process = Cgroups(group).confine(77, 1 << 30)
        assert process == Group(group / "process-77")
        files = {file.name: file.read_text() for file in process.path.iterdir()}
        assert files == {
            "memory.max": str(1 << 30),
            "memory.swap.max": "0",
            "memory.oom.group": "1",
            "cgroup.procs": "77",
        }

    def test_a_second_node_finds_what_the_first_has_made(self, tmp_path: Path) -> None:
        group, own = self.laid_out(tmp_path, "plexspaces.service/node")
        (group.parent / "cgroup.subtree_control").write_text("memory\n")
        assert Cgroups.find(tmp_path / "mount", own) == Cgroups(group.parent)

    @pytest.mark.parametrize(
        ("name", "controllers"), [("", "memory"), ("session.scope", "cpu pids")], ids=["root", "no memory"]
    )
    def test_what_cannot_be_handed_out_is_left_alone(self, tmp_path: Path, name: str, controllers: str) -> None:
        group, own = self.laid_out(tmp_path, name or ".", controllers)
        own.write_text(f"0::/{name}\n")
        assert Cgroups.find(tmp_path / "mount", own) is None
        assert not (group / "node").exists()

    def test_without_version_2_there_is_none(self, tmp_path: Path) -> None:
        _, own = self.laid_out(tmp_path, "x")
        own.write_text("4:memory:/x\n")
        assert Cgroups.find(tmp_path / "mount", own) is None
        assert Cgroups(tmp_path / "gone").confine(1, 1) is None

    @pytest.mark.parametrize(("events", "killed"), [("oom 2\noom_kill 1\n", True), ("oom 2\noom_kill 0\n", False)])
    def test_the_kernel_says_whether_it_ended_something(self, tmp_path: Path, events: str, killed: bool) -> None:
        (tmp_path / "memory.events").write_text(events)
        assert Group(tmp_path).was_out_of_memory() is killed
        assert Group(tmp_path / "gone").was_out_of_memory() is False


class TestPlan:
    def config(self, tmp_path: Path) -> NodeConfig:
        return NodeConfig(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache", port=8443, grpc_port=9443)

    def test_only_its_own_directories_are_written_to(self, tmp_path: Path) -> None:
        wanted = harden.plan(self.config(tmp_path), strict=True)
        assert {tmp_path / "data", tmp_path / "cache"} <= set(wanted.write)
        assert Path("/tmp") not in wanted.write
        assert wanted.bind == frozenset({8443, 9443})
        rights = dict(wanted.rules().paths)
        assert rights[tmp_path / "data"] == WRITE

    def test_strictly_no_program_is_started_but_python(self, tmp_path: Path) -> None:
        strict = harden.plan(self.config(tmp_path), strict=True)
        loose = harden.plan(self.config(tmp_path), strict=False)
        assert all(path.is_file() or path.is_symlink() for path in strict.execute), strict.execute
        assert any(path.name.startswith("ld-") for path in strict.execute)
        assert Path("/usr") in loose.execute
        assert Path("/usr") in strict.read
        assert (Path("/etc") in loose.read, Path("/etc") in strict.read) == (True, False)

    def test_files_of_the_configuration_are_read_where_they_are_renewed(self, tmp_path: Path) -> None:
        keys = tmp_path / "keys"
        keys.mkdir()
        config = self.config(tmp_path)
        auth = type(config.auth)(jwks_file=keys / "jwks.json")
        config = NodeConfig(data_dir=config.data_dir, cache_dir=config.cache_dir, auth=auth)
        assert keys in harden.plan(config, strict=True).read
