"""The assembler, and what the filters decide, by a machine that runs them as the kernel does."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from struct import Struct, pack

import pytest

from plexspaces_runtime.isolation.bpf import Instruction, Label, Op, assemble
from plexspaces_runtime.isolation.seccomp import ALLOW, DANGEROUS, KILL, NODE, Policy, isolated, program, refuse
from plexspaces_runtime.isolation.syscalls import AARCH64, CALLS, MACHINES, X86_64, Machine

_INSTRUCTION = Struct("=HBBI")
HEADERS = {X86_64: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")}
PID = 4321
EPERM, ENOSYS = refuse(errno.EPERM).word, refuse(errno.ENOSYS).word


def run(raw: bytes, number: int, arch: int, arguments: tuple[int, ...] = ()) -> int:
    """The verdict of a filter."""
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = pack("=IIQ6Q", number, arch, 0, *padded)
    code = [_INSTRUCTION.unpack_from(raw, at) for at in range(0, len(raw), _INSTRUCTION.size)]
    accumulator = at = 0
    while True:
        op, then, otherwise, k = code[at]
        at += 1
        match Op(op):
            case Op.LOAD:
                accumulator = int.from_bytes(data[k : k + 4], "little")
            case Op.AND:
                accumulator &= k
            case Op.JUMP_EQUAL:
                at += then if accumulator == k else otherwise
            case Op.JUMP_AT_LEAST:
                at += then if accumulator >= k else otherwise
            case Op.RETURN:
                return k


def verdict(policy: Policy, machine: Machine, call: str, *arguments: int) -> int:
    number = machine.number(call)
    assert number is not None
    return run(program(policy, machine), number, machine.audit_arch, arguments)


def test_a_program_is_assembled_with_its_jumps() -> None:
    raw = assemble(
        [
            Instruction(Op.LOAD, 0),
            Instruction(Op.JUMP_EQUAL, 7, then="seven"),
            Instruction(Op.RETURN, 1),
            Label("seven"),
            Instruction(Op.RETURN, 2),
        ]
    )
    assert raw.hex() == "2000000000000000" "1500010007000000" "0600000001000000" "0600000002000000"
    assert (run(raw, 6, 0), run(raw, 7, 0)) == (1, 2)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "ends with a return"),
        ([Instruction(Op.LOAD, 0)], "ends with a return"),
        ([Instruction(Op.JUMP_EQUAL, 1, then="x"), Instruction(Op.RETURN, 0)], "no label 'x'"),
        ([Label("x"), Instruction(Op.JUMP_EQUAL, 1, then="x"), Instruction(Op.RETURN, 0)], "goes -1"),
        ([Instruction(Op.JUMP_EQUAL, 1, then="x"), Instruction(Op.RETURN, 0), Label("x")], "goes 1"),
        ([Label("x"), Label("x"), Instruction(Op.RETURN, 0)], "there twice"),
        ([Instruction(Op.RETURN, 1 << 32)], "32 bits"),
        ([Instruction(Op.RETURN, -1)], "32 bits"),
    ],
)
def test_what_the_kernel_would_refuse_is_refused(items: list[Instruction | Label], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assemble(items)


@pytest.mark.parametrize(("between", "fits"), [(255, True), (256, False)])
def test_a_jump_is_as_far_as_a_byte(between: int, fits: bool) -> None:
    items = [
        Instruction(Op.JUMP_EQUAL, 1, then="far"),
        *[Instruction(Op.LOAD, 0)] * between,
        Label("far"),
        Instruction(Op.RETURN, 0),
    ]
    if fits:
        assemble(items)
    else:
        with pytest.raises(ValueError, match="256"):
            assemble(items)


@pytest.mark.parametrize(("count", "fits"), [(4096, True), (4097, False)])
def test_a_program_is_as_long_as_the_kernel_takes(count: int, fits: bool) -> None:
    items = [Instruction(Op.RETURN, 0)] * count
    if fits:
        assemble(items)
    else:
        with pytest.raises(ValueError, match="4097 instructions"):
            assemble(items)


def test_the_numbers_are_the_headers() -> None:
    header = HEADERS[X86_64]
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    known = {name: int(number) for name, number in re.findall(r"__NR_(\w+) (\d+)", header.read_text())}
    # Which the installed headers are too old to know.
    ours = {name: X86_64.number(name) for name in CALLS if name in known}
    assert len(ours) > len(CALLS) - 5
    assert ours == {name: known[name] for name in ours}


def test_the_generic_numbers_are_the_headers() -> None:
    header = Path("/usr/include/asm-generic/unistd.h")
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    known = {
        name.removeprefix("3264_"): int(number)
        for name, number in re.findall(r"define __NR(?:3264)?_(\w+) (\d+)", header.read_text())
    }
    ours = {name: AARCH64.number(name) for name in CALLS if name in known and AARCH64.number(name) is not None}
    assert len(ours) > 100
    assert ours == {name: known[name] for name in ours}


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("policy", [NODE, isolated(PID)], ids=["node", "isolated"])
class TestEveryPolicy:
    def test_another_machines_calls_end_the_process(self, policy: Policy, machine: Machine) -> None:
        other = AARCH64 if machine is X86_64 else X86_64
        raw = program(policy, machine)
        assert run(raw, 0, other.audit_arch) == KILL.word
        # i386, which an x86_64 kernel serves as well.
        assert run(raw, 1, 0x40000003) == KILL.word

    def test_a_process_cannot_leave_its_namespaces(self, policy: Policy, machine: Machine) -> None:
        for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
            assert verdict(policy, machine, "clone", flag | 17) != ALLOW.word
        assert verdict(policy, machine, "clone3") == ENOSYS

    def test_nothing_dangerous_is_let_through(self, policy: Policy, machine: Machine) -> None:
        for call in DANGEROUS:
            if machine.number(call) is not None:
                assert verdict(policy, machine, call) in (EPERM, KILL.word), call


def test_x32_calls_end_the_process() -> None:
    for policy in (NODE, isolated(PID)):
        raw = program(policy, X86_64)
        assert run(raw, 0x40000000, X86_64.audit_arch) == KILL.word
        assert run(raw, 0x40000000 | 59, X86_64.audit_arch) == KILL.word
        assert run(raw, 0xFFFFFFFF, X86_64.audit_arch) == KILL.word


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_a_node_may_do_what_nodes_do(machine: Machine) -> None:
    # fork, by the C library's clone; threads; programs, for the compiler.
    assert verdict(NODE, machine, "clone", 0x01200011) == ALLOW.word
    assert verdict(NODE, machine, "clone", 0x003D0F00) == ALLOW.word
    assert verdict(NODE, machine, "execve") == ALLOW.word
    for family in (1, 2, 10, 16):
        assert verdict(NODE, machine, "socket", family, 1) == ALLOW.word
    # AF_PACKET, AF_ALG, AF_VSOCK
    for family in (17, 38, 40):
        assert verdict(NODE, machine, "socket", family, 1) == refuse(errno.EAFNOSUPPORT).word
    assert run(program(NODE, machine), 9_999, machine.audit_arch) == ALLOW.word


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_an_isolated_process_may_compute_and_talk(machine: Machine) -> None:
    policy = isolated(PID)
    for call in ("mmap", "mprotect", "futex", "sendto", "recvfrom", "openat", "exit_group", "clock_nanosleep"):
        assert verdict(policy, machine, call) == ALLOW.word, call
    assert verdict(policy, machine, "clone", 0x003D0F00) == ALLOW.word
    assert verdict(policy, machine, "clone", 0x01200011) == KILL.word
    for call in ("execve", "execveat", "ptrace", "process_vm_writev", "bpf", "unshare"):
        assert verdict(policy, machine, call) == KILL.word, call
    for call in ("socket", "prctl", "seccomp", "capset", "ioctl"):
        assert verdict(policy, machine, call) == EPERM, call
    assert run(program(policy, machine), 9_999, machine.audit_arch) == EPERM
    # It may abort itself, and no other.
    assert verdict(policy, machine, "tgkill", PID) == ALLOW.word
    assert verdict(policy, machine, "tgkill", PID + 1) == KILL.word
    # It may look at its own limits, and not at others'.
    assert verdict(policy, machine, "prlimit64", 0) == ALLOW.word
    assert verdict(policy, machine, "prlimit64", PID + 1) == EPERM
