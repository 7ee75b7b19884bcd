"""`build`: an actor's source in, a sealed component out; the same content is compiled once."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..clock import Clock, SystemClock
from ..config import default_cache_dir
from ..witfiles import wit_files
from . import guest_python
from .cache import BuildCache, Entry, content_key, copy_atomically
from .check import check_module, check_text, without_doubles
from .environment import Environment, package_dirs
from .findings import BuildFailed, Finding, Severity, errors_of
from .plan import Plan, Scans, make_plan
from .project import locate, shown


@dataclass(frozen=True, slots=True)
class Step:
    """A phase that begins: `check`, `stage` or `compile`, and what it works on."""

    phase: str
    text: str


Progress = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A component and how it came to be.

    Args:
        output: where it was written.
        sha256: of the component, lower-case hexadecimal.
        size_bytes: its size.
        cached: whether an earlier build of the same content was taken.
        elapsed_s: how long it took.
        module: the module with the actors.
        roles: the actors in it.
        dependencies: top-level names of the installed packages in it.
        warnings: what may go wrong later.
    """

    output: Path
    sha256: str
    size_bytes: int
    cached: bool
    elapsed_s: float
    module: str
    roles: tuple[str, ...]
    dependencies: tuple[str, ...]
    warnings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "output": str(self.output),
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "cached": self.cached,
            "elapsed_s": round(self.elapsed_s, 3),
            "module": self.module,
            "roles": list(self.roles),
            "dependencies": list(self.dependencies),
            "warnings": [finding.to_json() for finding in self.warnings],
        }


def build(
    source: Path,
    output: Path,
    *,
    progress: Progress = lambda step: None,
    cache_dir: Path | None = None,
    clock: Clock | None = None,
) -> BuildResult:
    """Compile an actor to a sealed WebAssembly component.

    Args:
        source: a module's file, a package's directory, or a directory with one module that holds actors.
        output: the file to write; replaced whole, or left alone on failure.
        progress: told of each phase as it begins.
        cache_dir: where builds are kept; by default `plexspaces/build` in the user's cache directory.
        clock: measures `elapsed_s`.

    Raises:
        BuildFailed: the source has mistakes; all of them are listed, and `output` is untouched.
        InternalError: the compiler failed for a reason of its own.
    """
    clock = clock or SystemClock()
    started_ns = clock.monotonic_ns()
    if output.is_dir():
        raise BuildFailed([Finding(shown(output), 0, "is a directory", "name the file to write: -o counter.wasm")])
    store = BuildCache(cache_dir or default_cache_dir() / "build")
    project = locate(source)
    progress(Step("check", shown(project.file)))
    environment = Environment(project.root, package_dirs())
    scans = Scans(store.load_scans(str(project.file)))
    plan = make_plan(project, environment, scans)
    if scans.used.keys() != scans.by_hash.keys():
        store.save_scans(str(project.file), scans.used)
    key = build_key(plan)
    entry = None if errors_of(list(plan.findings)) else store.find(key)
    cached = entry is not None
    if entry is None:
        roles, warnings = _check(plan, environment)
        with store.building(key):
            # Another process may have built it while this one waited for its turn.
            entry = store.find(key)
            if entry is None:
                entry = _compile(plan, store, key, roles, warnings, progress)
            else:
                cached = True
    output.parent.mkdir(parents=True, exist_ok=True)
    copy_atomically(entry.wasm, output)
    return BuildResult(
        output,
        entry.sha256,
        entry.size_bytes,
        cached,
        (clock.monotonic_ns() - started_ns) / 1e9,
        project.module,
        entry.roles,
        plan.dependencies,
        entry.warnings,
    )


def find_mistakes(source: Path) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """Look for mistakes without compiling.

    Returns:
        The roles found, and the warnings.

    Raises:
        BuildFailed: there are mistakes.
    """
    project = locate(source)
    environment = Environment(project.root, package_dirs())
    roles, warnings = _check(make_plan(project, environment, Scans()), environment)
    return tuple(roles), tuple(warnings)


def build_key(plan: Plan) -> str:
    """The content of everything that goes into a plan's component, as one name."""
    ingredients = {
        "builder": _own_sources(),
        "componentize-py": _componentize_version(),
        "guest-python": ".".join(map(str, guest_python.VERSION)),
        "host-python": ".".join(map(str, sys.version_info[:2])),
        "module": plan.project.module,
        "preloads": repr([(p.module, p.attribute, p.required) for p in plan.preloads]),
    }
    files = [(f"stage/{staged.destination}", staged.data) for staged in plan.files]
    files += [(f"wit/{file.name}", file.read_bytes()) for file in wit_files()]
    return content_key(ingredients, files)


def _check(plan: Plan, environment: Environment) -> tuple[list[str], list[Finding]]:
    findings = [*plan.findings, *check_text(plan)]
    roles: list[str] = []
    # A module with broken syntax or missing parts cannot be imported: that would only say the same again.
    if not errors_of(list(plan.findings)):
        roles, more = check_module(plan, environment)
        findings += more
    findings = without_doubles(findings)
    if errors_of(findings):
        raise BuildFailed(findings)
    return roles, [finding for finding in findings if finding.severity is Severity.WARNING]


def _compile(
    plan: Plan, store: BuildCache, key: str, roles: list[str], warnings: list[Finding], progress: Progress
) -> Entry:
    # Runs the compiler, so it is imported only when there is something to compile.
    from .compile import componentize

    with store.workspace() as workspace:
        progress(Step("stage", f"{len(plan.files)} files"))
        progress(Step("compile", plan.project.module))
        return store.store(key, componentize(plan, workspace), roles, warnings)


@cache
def _own_sources() -> str:
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def _componentize_version() -> str:
    # The name of the metadata directory holds the version; importlib.metadata would cost more than the whole lookup.
    for folder in sys.path:
        for info in Path(folder or ".").glob("componentize_py-*.dist-info"):
            return info.name.removeprefix("componentize_py-").removesuffix(".dist-info")
    from importlib.metadata import version

    return version("componentize-py")
