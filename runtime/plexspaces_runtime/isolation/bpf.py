"""An assembler for classic BPF, as much of it as filters of system calls need.

A program is a list of items: instructions, and labels that jumps name.  Jumps go forward only and at most 255
instructions far, which the machine demands and `assemble` checks.

Reference: linux/filter.h, linux/seccomp.h; McCanne and Jacobson, "The BSD Packet Filter", 1993.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

# More than this the kernel refuses (BPF_MAXINSNS).
INSTRUCTIONS_MAX = 4096
_JUMP_MAX = 255
_LAYOUT = Struct("=HBBI")


class Op(IntEnum):
    """The operation codes that are used here."""

    LOAD = 0x20  # A = the 32-bit word of the input at k
    AND = 0x54  # A &= k
    JUMP_EQUAL = 0x15  # A == k
    JUMP_AT_LEAST = 0x35  # A >= k, unsigned
    RETURN = 0x06  # the verdict is k


@dataclass(frozen=True, slots=True)
class Label:
    """A place that jumps go to."""

    name: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; `then` and `otherwise` name labels, "" is whatever comes next."""

    op: Op
    k: int
    then: str = ""
    otherwise: str = ""


Item = Instruction | Label


def assemble(items: Sequence[Item]) -> bytes:
    """The program as an array of `struct sock_filter`.

    Raises:
        ValueError: a label is missing or there twice, a jump goes back or too far, a word does not fit into 32 bits,
            or the program is too long or can run off its end.
    """
    places: dict[str, int] = {}
    instructions: list[Instruction] = []
    for item in items:
        if isinstance(item, Instruction):
            instructions.append(item)
        elif item.name in places:
            raise ValueError(f"the label {item.name!r} is there twice")
        else:
            places[item.name] = len(instructions)
    if not instructions or instructions[-1].op is not Op.RETURN:
        raise ValueError("a program ends with a return")
    if len(instructions) > INSTRUCTIONS_MAX:
        raise ValueError(f"{len(instructions)} instructions are more than the kernel's {INSTRUCTIONS_MAX}")
    return b"".join(_encoded(each, number, len(instructions), places) for number, each in enumerate(instructions))


def _encoded(each: Instruction, number: int, count: int, places: dict[str, int]) -> bytes:
    if not 0 <= each.k < 1 << 32:
        raise ValueError(f"{each.k:#x} does not fit into 32 bits")

    def distance(label: str) -> int:
        if not label:
            return 0
        if label not in places:
            raise ValueError(f"there is no label {label!r}")
        steps = places[label] - number - 1
        if not 0 <= steps <= _JUMP_MAX or places[label] >= count:
            raise ValueError(f"the jump to {label!r} goes {steps} instructions: 0 to {_JUMP_MAX} are possible")
        return steps

    return _LAYOUT.pack(each.op, distance(each.then), distance(each.otherwise), each.k)
