"""Little projects and little environments, written to disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plexspaces_runtime.build.environment import Environment
from plexspaces_runtime.build.plan import Plan, Scans, make_plan
from plexspaces_runtime.build.project import locate

ACTOR = "from plexspaces import actor, handler\n\n@actor\nclass A:\n    @handler('x')\n    def x(self): return 1\n"

Files = dict[str, str]


def write(folder: Path, files: Files) -> Path:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Plan]:
    """`planned({"m.py": ...}, {"dep/__init__.py": ...})` plans the build of m.py beside these installed packages."""

    def plan(project: Files, packages: Files | None = None, source: str | None = None) -> Plan:
        root, installed = tmp_path / "project", tmp_path / "site-packages"
        write(root, project)
        write(installed, packages or {})
        installed.mkdir(exist_ok=True)
        located = locate(root / (source or next(iter(project))))
        return make_plan(located, Environment(located.root, [installed]), Scans())

    return plan
