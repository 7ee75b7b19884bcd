"""The component of `guest.py`, built with componentize-py alone, and kept by content."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from wasmtime.component import Component

from plexspaces_runtime.wasm.config import config_digest

from .fibers import Fiber, World, answer_next

WIT = """package test:facts;
interface host { ask: func(x: u32) -> u32; }
world facts { import host; export act: func(command: string, text: string) -> string; }
"""
SOURCE = Path(__file__).with_name("guest.py")


def _kept() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parts = (WIT, SOURCE.read_text(encoding="utf-8"), version("componentize-py"), config_digest())
    return base / "plexspaces" / "tests" / f"facts-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:16]}.cwasm"


@pytest.fixture(scope="session")
def python_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    kept = _kept()
    world = World("(component)", answer_next)
    if not kept.exists():
        folder = tmp_path_factory.mktemp("facts")
        (folder / "facts.wit").write_text(WIT, encoding="utf-8")
        shutil.copy(SOURCE, folder / "facts_guest.py")
        tool = str(Path(sys.executable).with_name("componentize-py"))
        build = [
            "-q",
            "-d",
            "facts.wit",
            "-w",
            "facts",
            "componentize",
            "--stub-wasi",
            "facts_guest",
            "-o",
            "facts.wasm",
        ]
        subprocess.run([tool, *build], cwd=folder, check=True)
        compiled = Component(world.engine, (folder / "facts.wasm").read_bytes()).serialize()
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(compiled)
        os.replace(temporary, kept)
    world.component = Component.deserialize_file(world.engine, str(kept))
    return world


@pytest.fixture
def python_guest(python_world: World) -> Callable[..., Fiber]:
    """Makes instances of the guest, with a limit of memory."""
    return lambda memory_bytes_max=64 << 20: Fiber(python_world, memory_bytes_max=memory_bytes_max)
