"""What a dead instance died of.  Wasmtime's component API gives only text: it is read here and nowhere else."""

from __future__ import annotations

import re

from ..actors import exits
from ..actors.exits import Exit

# The first that matches names the exit.  Facts of the pinned versions; `tests/integration/stack_facts` watches them.
_NAMES: tuple[tuple[re.Pattern[str], Exit], ...] = (
    (
        re.compile(r"call stack exhausted"),
        exits.limit("stack", "the sandbox's stack was exhausted (deep recursion outside Python, or deep JSON)"),
    ),
    (
        re.compile(r"memory minimum size of \d+ pages exceeds memory limits"),
        exits.limit("memory", "the component needs more memory to start than memory_bytes_max"),
    ),
    (
        # The allocator has no room for the arguments of a call, so the call cannot even begin.
        re.compile(r"cabi_realloc[\s\S]*out of bounds memory access"),
        exits.limit("memory", "the sandbox's memory is exhausted: memory_bytes_max"),
    ),
    (
        re.compile(r"Cannot allocate memory|failed to .*mmap|vm\.max_map_count", re.IGNORECASE),
        exits.limit(
            "mappings",
            "the kernel gives this process no more memory mappings (an actor takes 7): raise vm.max_map_count, "
            "for instance `sysctl -w vm.max_map_count=1048576`, or run fewer actors per node",
        ),
    ),
    (re.compile(r"exit_exit"), exits.crashed("exit", "the actor called os._exit: it ends the actor, nothing else")),
    (
        # The guest's own runtime gives up when it cannot allocate; an abort that Python asked for has other frames.
        re.compile(r"std::process::abort"),
        exits.limit("memory", "the sandbox's memory is exhausted: memory_bytes_max"),
    ),
    (re.compile(r"!abort"), exits.crashed("abort", "the actor called abort")),
)

_REASON = re.compile(r"wasm trap: (.*)")
# The backtrace is made of names that the component chose, of up to 100,000 characters each.
_TEXT_CHARS_MAX = 16_384


def exit_of(text: str) -> Exit:
    """The exit that Wasmtime's error text stands for."""
    if len(text) > _TEXT_CHARS_MAX:
        text = f"{text[: _TEXT_CHARS_MAX // 2]}\n...\n{text[-_TEXT_CHARS_MAX // 2 :]}"
    for pattern, exit_ in _NAMES:
        if pattern.search(text):
            return exit_
    if found := _REASON.search(text):
        return exits.crashed("trap", found.group(1), text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return exits.crashed("trap", lines[-1] if lines else "unknown", text)
