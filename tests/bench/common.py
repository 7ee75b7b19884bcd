"""What the benchmarks share."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from plexspaces_runtime.build import build
from plexspaces_runtime.config import default_cache_dir
from tests.nodes import TestBed, running

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        goal: what was aimed at, as text; "" for a figure that only explains others.
        met: whether it was; None where there is no goal.
    """

    what: str
    figure: str
    goal: str = ""
    met: bool | None = None

    @classmethod
    def at_most(cls, what: str, value: float, goal: float, unit: str) -> Row:
        return cls(what, f"{value:,.2f} {unit}", f"at most {goal:g} {unit}", value <= goal)

    @classmethod
    def at_least(cls, what: str, value: float, goal: float, unit: str) -> Row:
        return cls(what, f"{value:,.1f} {unit}", f"at least {goal:g} {unit}", value >= goal)


def counter_wasm() -> Path:
    """The example counter, built."""
    output = default_cache_dir() / "bench" / "counter.wasm"
    output.parent.mkdir(parents=True, exist_ok=True)
    return build(ROOT / "apps" / "counter" / "counter_actor.py", output).output


def plain_counter_wasm() -> Path:
    """The same counter, not durable, built."""
    source = default_cache_dir() / "bench" / "plain" / "counter_actor.py"
    source.parent.mkdir(parents=True, exist_ok=True)
    durable = (ROOT / "apps" / "counter" / "counter_actor.py").read_text()
    source.write_text(durable.replace('@actor(facets=["durability"])', "@actor"))
    return build(source, source.with_suffix(".wasm")).output


def zoo_wasm() -> Path:
    """The actors of the tests, built."""
    output = default_cache_dir() / "bench" / "zoo.wasm"
    output.parent.mkdir(parents=True, exist_ok=True)
    return build(ROOT / "tests" / "guests" / "zoo.py", output).output


@asynccontextmanager
async def node(**limits: object) -> AsyncIterator[TestBed]:
    """A running node with its data in a temporary folder."""
    with TemporaryDirectory() as folder:
        async with running(Path(folder), **limits) as bed:
            yield bed


def anonymous_kb() -> int:
    """Private memory of this process: resident size would count shared pages once per instance."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    raise OSError("the kernel has no smaps_rollup")


def percentile(samples: list[float], part: float) -> float:
    """The sample below which `part` of all lie."""
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * part))]


def median(samples: list[float]) -> float:
    return statistics.median(samples)
