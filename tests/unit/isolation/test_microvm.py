"""The configuration of a microVM against what Firecracker documents, and against what it would refuse."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from plexspaces_runtime.config import ConfigError
from plexspaces_runtime.isolation.microvm import PORT, Jail, MicroVm, unavailable

# From Firecracker's firecracker.yaml: of each object, the keys it must have and those it may have, with their types.
SCHEMA: dict[str, tuple[dict[str, type], dict[str, type]]] = {
    "boot-source": ({"kernel_image_path": str}, {"boot_args": str, "initrd_path": str}),
    "drive": (
        {"drive_id": str, "is_root_device": bool},
        {
            "path_on_host": str,
            "is_read_only": bool,
            "partuuid": str,
            "cache_type": str,
            "io_engine": str,
            "rate_limiter": dict,
            "socket": str,
        },
    ),
    "machine-config": (
        {"vcpu_count": int, "mem_size_mib": int},
        {"smt": bool, "cpu_template": str, "track_dirty_pages": bool, "huge_pages": str},
    ),
    "vsock": ({"guest_cid": int, "uds_path": str}, {"vsock_id": str}),
}
ROOT = PurePosixPath("/")


def vm(**changes: Any) -> MicroVm:
    values: dict[str, Any] = {
        "id": "shop-1",
        "kernel": ROOT / "vmlinux",
        "root": ROOT / "root.ext4",
        "components": ROOT / "components.squashfs",
        "guest_cid": 3,
    }
    return MicroVm(**{**values, **changes})


def jail(**changes: Any) -> Jail:
    values: dict[str, Any] = {
        "jailer": ROOT / "usr/bin/jailer",
        "firecracker": ROOT / "usr/bin/firecracker",
        "user": 1001,
        "group": 1002,
    }
    return Jail(**{**values, **changes})


def conforms(content: dict[str, Any], schema: tuple[dict[str, type], dict[str, type]]) -> None:
    required, optional = schema
    assert required.keys() <= content.keys() <= required.keys() | optional.keys()
    for key, value in content.items():
        assert type(value) is {**required, **optional}[key], key


def test_the_configuration_is_what_firecracker_documents() -> None:
    content = json.loads(json.dumps(vm(memory_mib=300, vcpus=2).configuration()))
    assert content.keys() == {"boot-source", "drives", "machine-config", "vsock"}
    for name in ("boot-source", "machine-config", "vsock"):
        conforms(content[name], SCHEMA[name])
    for drive in content["drives"]:
        conforms(drive, SCHEMA["drive"])
    assert content["machine-config"] == {"vcpu_count": 2, "mem_size_mib": 300, "smt": False}
    assert [drive["is_root_device"] for drive in content["drives"]] == [True, False]
    assert all(drive["is_read_only"] for drive in content["drives"])
    assert "network-interfaces" not in content


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("id", ["a", "x" * 64, "A-9"], ["", "x" * 65, "a_b", "../x", "a b"]),
        ("vcpus", [1, 32], [0, 33, -1]),
        ("memory_mib", [128], [127, 0]),
        ("guest_cid", [3, 0xFFFFFFFE], [0, 2, 0xFFFFFFFF]),
        ("kernel", [ROOT / "k"], [PurePosixPath("k"), ROOT / ".." / "k"]),
        ("socket", [ROOT / ("s" * 101)], [ROOT / ("s" * 102), PurePosixPath("v.sock")]),
    ],
)
def test_what_firecracker_would_refuse_is_refused(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        vm(**{name: value})
    for value in bad:
        with pytest.raises(ConfigError, match=name):
            vm(**{name: value})


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        vm(id="", vcpus=0, guest_cid=1)
    assert len(caught.value.details["issues"]) == 3


def test_the_jailers_command() -> None:
    machine, confined = vm(), jail()
    command = confined.command(machine)
    options = command[: command.index("--")]
    assert options[0] == "/usr/bin/jailer"
    pairs = dict(zip(options[1:-1:2], options[2::2], strict=False))
    assert pairs["--id"] == "shop-1"
    assert (pairs["--uid"], pairs["--gid"]) == ("1001", "1002")
    assert pairs["--cgroup"] == f"memory.max={(512 + 64) << 20}"
    assert command[command.index("--") + 1 :] == ["--config-file", "/vm.json", "--no-api"]
    # docs/jailer.md: <chroot_base>/<exec_file_name>/<id>/root; docs/vsock.md: a guest's connection to PORT.
    assert str(confined.root(machine)) == "/srv/jailer/firecracker/shop-1/root"
    assert str(confined.socket(machine)) == f"/srv/jailer/firecracker/shop-1/root/run/v.sock_{PORT}"


@pytest.mark.parametrize(
    ("name", "value"),
    [("user", 0), ("group", 0), ("firecracker", ROOT / "usr/bin/qemu"), ("jailer", PurePosixPath("jailer"))],
)
def test_what_the_jailer_would_refuse_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        jail(**{name: value})


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    assert "needs" in unavailable(tmp_path / "kvm")
    (tmp_path / "kvm").touch()
    assert "not started by this version" in unavailable(tmp_path / "kvm")
