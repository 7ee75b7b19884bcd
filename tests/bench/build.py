"""Building: from nothing, and an actor that has not changed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from .common import ROOT, Row, median


async def run() -> list[Row]:
    tool = str(Path(sys.executable).with_name("plexspaces"))
    source = str(ROOT / "apps" / "counter" / "counter_actor.py")
    with TemporaryDirectory() as folder:
        command = [tool, "build", source, "-o", f"{folder}/counter.wasm", "--quiet"]
        environment = {**os.environ, "PLEXSPACES_CACHE_DIR": f"{folder}/cache"}
        began = time.perf_counter()
        subprocess.run(command, check=True, env=environment)
        fresh = time.perf_counter() - began
        again = []
        for _ in range(7):
            began = time.perf_counter()
            subprocess.run(command, check=True, env=environment)
            again.append(time.perf_counter() - began)
        size_mb = Path(folder, "counter.wasm").stat().st_size / 1e6
    return [
        Row("building the counter from nothing", f"{fresh:.1f} s, {size_mb:.1f} MB"),
        Row.at_most("building it again unchanged, the whole command", median(again), 0.5, "s"),
    ]
