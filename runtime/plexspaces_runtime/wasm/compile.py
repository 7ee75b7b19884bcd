"""Compiles one component in a process of its own: `python -m plexspaces_runtime.wasm.compile FILE MEMORY_BYTES_MAX`.

The wasm comes by standard input, the compiled component goes to FILE, which must not exist, and one line of JSON to
standard output: `{"sha256": ...}` of the file, or `{"error": ...}` when the bytes are no valid component.

A process, because compiling takes seconds on all cores and Wasmtime's compiler reads a stranger's bytes: here it has a
lower priority, a limit of memory, a life that ends with its parent's, and may crash.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import signal
import sys

from wasmtime import Engine, WasmtimeError
from wasmtime.component import Component

from .config import engine_config

_NICENESS = 10
_PR_SET_PDEATHSIG = 1
# An error names the first cause and the last; a stranger's component decides how long they are.
_ERROR_CHARS_MAX = 500


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 when compiled, 1 when the component is invalid."""
    file, memory_bytes_max = arguments
    _confine(int(memory_bytes_max))
    wasm = sys.stdin.buffer.read()
    try:
        compiled = Component(Engine(engine_config()), wasm).serialize()
    except WasmtimeError as error:
        print(json.dumps({"error": _summary(str(error))}))
        return 1
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(compiled)
        out.flush()
        os.fsync(out.fileno())
    print(json.dumps({"sha256": hashlib.sha256(compiled).hexdigest()}))
    return 0


def _confine(memory_bytes_max: int) -> None:
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes_max, memory_bytes_max))
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the parent ended meanwhile")


def _summary(error: str) -> str:
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    first, last = lines[0], lines[-1]
    return (first if first == last else f"{first}: {last}")[:_ERROR_CHARS_MAX]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
