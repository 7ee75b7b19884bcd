"""What many tests share: guest components, built once by the product's own builder and kept by content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plexspaces_runtime.build import build

ROOT = Path(__file__).resolve().parent.parent
# The example application's counter is the tests' counter: one component less to build, and the example is tested.
_SOURCES = {"counter": ROOT / "apps" / "counter" / "counter_actor.py"}


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`guest("zoo")` is the component of tests/guests/zoo.py, `guest("counter")` that of the example application."""
    built: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("guests")

    def component(name: str) -> Path:
        if name not in built:
            source = _SOURCES.get(name, ROOT / "tests" / "guests" / f"{name}.py")
            built[name] = build(source, folder / f"{name}.wasm").output
        return built[name]

    return component
