"""What goes into a component: which files are brought along and which modules are imported up front.

Starting from the actor's module, imports are followed through the project, the SDK and installed pure-Python
packages.  What cannot work in the sandbox is a finding at the user's own line that leads there; what somebody
catches the absence of is left out.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import guest_python
from .environment import Environment, Kind, Located, dist_info, normalised
from .findings import Finding, Severity
from .imports import Import, scan, scan_tree
from .project import Project, shown

ENTRY_MODULE = "plexspaces_entry"
# Not for the guest: the fakes for plain CPython, and the stubs that componentize-py's real bindings replace.
_SDK_LEFT_OUT = ("plexspaces.testing", "plexspaces._bindings")


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A file and where it goes.  The bytes are read once, so that what is hashed is what is compiled."""

    destination: str
    source: Path
    data: bytes


@dataclass(frozen=True, slots=True, order=True)
class Preload:
    """A module to import while the component is built.

    Args:
        module: its absolute name.
        attribute: from `from module import attribute`, which may be a submodule; or "".
        required: whether the actor needs it; else a failure to import it is passed over.
    """

    module: str
    attribute: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a component is made of, and all there is to say about it."""

    project: Project
    files: tuple[StagedFile, ...]
    preloads: tuple[Preload, ...]
    dependencies: tuple[str, ...]
    trees: dict[Path, ast.Module]
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class Scans:
    """The imports of installed files by the files' content: reading them again is most of a cached build's time."""

    by_hash: dict[str, list[Import]] = field(default_factory=dict)
    used: dict[str, list[Import]] = field(default_factory=dict)

    def of(self, data: bytes, module: str, is_package: bool) -> list[Import]:
        key = hashlib.sha256(f"{module}\0{is_package}\0".encode() + data).hexdigest()
        found = self.by_hash.get(key)
        if found is None:
            try:
                found = scan(data.decode("utf-8-sig"), module, is_package=is_package)
            except (SyntaxError, ValueError, RecursionError):
                # Packages ship templates and files for other Pythons; one that matters fails when imported.
                found = []
        self.used[key] = found
        return found


@dataclass(frozen=True, slots=True)
class _Origin:
    """The user's line that led here, and the modules passed on the way."""

    file: str
    line: int
    chain: tuple[str, ...] = ()


@dataclass(slots=True)
class _Collected:
    """What the walk has gathered; copied before following an import whose failure would be caught."""

    modules: dict[str, Located] = field(default_factory=dict)
    preloads: dict[tuple[str, str], bool] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def copy(self) -> _Collected:
        return _Collected(dict(self.modules), dict(self.preloads), list(self.findings))


def make_plan(project: Project, environment: Environment, scans: Scans) -> Plan:
    """Follow all imports from the actor's module.  Never raises for what is wrong with the source: see `findings`."""
    walk = _Walk(project, environment, scans)
    origin = _Origin(shown(project.file), 0)
    walk.follow_to("plexspaces._guest", origin, for_user=False)
    walk.follow_to(project.module, origin, for_user=True)
    state = walk.state
    files = {staged.destination: staged for staged in _stage(state.modules.values(), environment)}
    preloads = tuple(sorted(Preload(m, a, required) for (m, a), required in state.preloads.items()))
    dependencies = sorted({m.top for m in state.modules.values() if m.kind is Kind.DEPENDENCY})
    return Plan(
        project,
        tuple(files[name] for name in sorted(files)),
        preloads,
        tuple(dependencies),
        walk.trees,
        tuple(state.findings),
    )


class _Walk:
    def __init__(self, project: Project, environment: Environment, scans: Scans) -> None:
        self.state = _Collected()
        self.trees: dict[Path, ast.Module] = {}
        self._project = project
        self._environment = environment
        self._scans = scans

    def follow_to(self, name: str, origin: _Origin, *, for_user: bool) -> None:
        """Visit a module and all that it needs."""
        todo = [(name, origin, for_user)]
        while todo:
            module, origin, user = todo.pop()
            located = self._environment.find(module, for_user=user)
            if module in self.state.modules or located.kind not in (Kind.USER, Kind.DEPENDENCY, Kind.SDK):
                continue
            self.state.modules[module] = located
            if parent := module.rpartition(".")[0]:
                todo.append((parent, origin, user))
            if located.file is None or located.file.suffix != ".py":
                continue
            for each in self._imports(located):
                here = self._at(located, each, origin)
                if each.module == "":
                    self._leaves_package(located, each)
                    continue
                for target in self._targets(located, each, here):
                    todo.append((target, here, located.kind is Kind.USER))

    def _imports(self, located: Located) -> list[Import]:
        assert located.file is not None
        data = located.file.read_bytes()
        if located.kind is not Kind.USER:
            return self._scans.of(data, located.name, located.is_package)
        try:
            tree = ast.parse(data, filename=str(located.file))
        except SyntaxError as error:
            what = f"not valid Python: {error.msg}"
            self._say(shown(located.file), error.lineno or 0, what, (error.text or "").strip())
            return []
        except ValueError as error:
            self._say(shown(located.file), 0, f"not valid Python: {error}")
            return []
        self.trees[located.file] = tree
        return scan_tree(tree, located.name, is_package=located.is_package)

    def _at(self, located: Located, each: Import, origin: _Origin) -> _Origin:
        if located.kind is Kind.USER:
            assert located.file is not None
            return _Origin(shown(located.file), each.line)
        return _Origin(origin.file, origin.line, (*origin.chain, located.name))

    def _targets(self, importer: Located, each: Import, here: _Origin) -> Iterator[str]:
        """The modules to visit because of one import."""
        user = importer.kind is Kind.USER
        optional = each.guarded or each.conditional
        if each.module.startswith(_SDK_LEFT_OUT) or f"{each.module}.{each.attribute}".startswith(_SDK_LEFT_OUT):
            if user and not optional:
                self._say(
                    here.file,
                    here.line,
                    f"{each.module} is for tests on plain Python and has no place in a component",
                    "import the actor from the test, not the test's tools from the actor",
                )
            return
        if user and self._environment.hides_standard_library(each.module):
            top = each.module.partition(".")[0]
            self._say(
                here.file,
                here.line,
                f"the project's own {top!r} hides the standard library's module of that name",
                f"rename it, for example to {top + '_module'!r}",
            )
            return
        found = self._environment.find(each.module, for_user=user)
        match found.kind:
            case Kind.BINDINGS:
                return
            case Kind.STANDARD:
                if user:
                    self._warn_of_no_use(each, here)
                if each.lazy:
                    self._preload(each, required=user and not optional)
            case Kind.NOT_IN_GUEST | Kind.NATIVE | Kind.ABSENT:
                self._unusable(importer, each, found, here, optional)
            case Kind.USER | Kind.DEPENDENCY | Kind.SDK:
                yield from self._usable(importer, each, found, here, optional)

    def _usable(self, importer: Located, each: Import, found: Located, here: _Origin, optional: bool) -> Iterator[str]:
        user = importer.kind is Kind.USER
        names = [found.name]
        if each.attribute and found.is_package:
            submodule = f"{found.name}.{each.attribute}"
            inner = self._environment.find(submodule, for_user=user)
            if inner.kind in (Kind.USER, Kind.DEPENDENCY, Kind.SDK):
                names.append(submodule)
            elif inner.kind is Kind.NATIVE:
                self._unusable(importer, each, inner, here, optional)
                return
        foreign = found.top != importer.top
        if foreign and not user and (optional or each.lazy):
            # Packages look for many others that they can do without; those they declare they may need.
            if importer.kind is Kind.SDK or not self._environment.declares(importer.top, found.top):
                return
            if not self._try(names, here, for_user=False):
                return
        elif foreign and optional and not self._try(names, here, for_user=True):
            self._say(
                here.file,
                here.line,
                f"{found.top} cannot be part of a component and is left out; the code that catches its absence runs",
                severity=Severity.WARNING,
            )
            return
        if each.lazy:
            self._preload(each, required=user and not optional)
        yield from names

    def _try(self, names: list[str], origin: _Origin, *, for_user: bool) -> bool:
        """Follow imports whose failure somebody catches; undo all of it if they cannot work."""
        before, self.state = self.state, self.state.copy()
        errors = _count_errors(before.findings)
        for name in names:
            self.follow_to(name, origin, for_user=for_user)
        if _count_errors(self.state.findings) == errors:
            return True
        self.state = before
        return False

    def _unusable(self, importer: Located, each: Import, found: Located, here: _Origin, optional: bool) -> None:
        user = importer.kind is Kind.USER
        if each.guarded or (not user and (optional or each.lazy)):
            return
        through = "".join(f"{name} imports " for name in here.chain)
        severity = Severity.WARNING if each.conditional else Severity.ERROR
        match found.kind:
            case Kind.NOT_IN_GUEST:
                message = f"{through}{found.name}, which the sandbox's Python does not have"
                remedy = guest_python.INSTEAD.get(found.top, "find another way, or catch the ImportError")
            case Kind.NATIVE:
                what = found.file.name if found.file else found.name
                message = f"{through}{found.name}, a compiled extension ({what})"
                remedy = (
                    "only pure Python runs in the sandbox; use a pure-Python package, "
                    "or put the work behind a service and call it with host.http_fetch"
                )
            case _:
                message = f"{through}{found.name}, which is not installed"
                remedy = self._how_to_get(found.name, user)
        if through:
            remedy += f" (by way of {here.chain[0].partition('.')[0]})"
        else:
            message = f"imports {message}"
        self._say(here.file, here.line, message, remedy, severity)

    def _how_to_get(self, name: str, user: bool) -> str:
        top = name.partition(".")[0]
        if top != name and self._environment.find(top, for_user=user).kind is not Kind.ABSENT:
            return f"the package {top} is there, but has no module {name.rpartition('.')[2]!r}"
        known = self._environment.installed_names() | guest_python.STANDARD_LIBRARY
        for declared in _declared_requirements(self._project):
            if normalised(declared) == normalised(top):
                return f"it is required beside the actor but not installed: pip install {declared}"
        if close := difflib.get_close_matches(top, sorted(known), n=1, cutoff=0.75):
            return f"did you mean {close[0]!r}? or install it: pip install {top}"
        return f"pip install {top}, or put {top}.py beside the actor"

    def _warn_of_no_use(self, each: Import, here: _Origin) -> None:
        names = [each.module, f"{each.module}.{each.attribute}", each.module.partition(".")[0]]
        for name in names:
            if name in guest_python.OF_NO_USE:
                remedy = guest_python.OF_NO_USE[name]
                self._say(here.file, here.line, f"imports {name}, which does nothing here", remedy, Severity.WARNING)
                return

    def _leaves_package(self, located: Located, each: Import) -> None:
        if located.kind is not Kind.USER or each.guarded:
            return
        assert located.file is not None
        inside = "." in located.name or located.is_package
        self._say(
            shown(located.file),
            each.line,
            "a relative import that leaves the package" if inside else "a relative import outside of any package",
            "import by the absolute name, or build the package's directory",
        )

    def _preload(self, each: Import, *, required: bool) -> None:
        key = (each.module, each.attribute)
        self.state.preloads[key] = self.state.preloads.get(key, False) or required

    def _say(self, file: str, line: int, message: str, remedy: str = "", severity: Severity = Severity.ERROR) -> None:
        finding = Finding(file, line, message, remedy, severity)
        if finding not in self.state.findings:
            self.state.findings.append(finding)


def _count_errors(findings: list[Finding]) -> int:
    return sum(finding.severity is Severity.ERROR for finding in findings)


def _declared_requirements(project: Project) -> Iterator[str]:
    """Names required in a requirements.txt or pyproject.toml beside the source or up to two levels above."""
    for folder in (project.root, *list(project.root.parents)[:2]):
        requirements = folder / "requirements.txt"
        if requirements.is_file():
            for line in requirements.read_text(encoding="utf-8", errors="replace").splitlines():
                if match := re.match(r"\s*([A-Za-z0-9][\w.-]*)", line):
                    yield match[1]
        pyproject = folder / "pyproject.toml"
        if pyproject.is_file():
            import tomllib

            try:
                table = tomllib.loads(pyproject.read_text(encoding="utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError):
                continue
            for line in table.get("project", {}).get("dependencies", ()):
                if match := re.match(r"\s*([A-Za-z0-9][\w.-]*)", str(line)):
                    yield match[1]


_LEFT_OUT_FOLDERS = frozenset({"__pycache__", "node_modules"})
_LEFT_OUT_SUFFIXES = (".pyc", ".pyo", ".so", ".pyd", ".dylib", ".pyi", ".wasm")


def _stage(modules: Iterable[Located], environment: Environment) -> Iterator[StagedFile]:
    """The files of all units that the modules belong to; a unit is brought whole, for its data and its own ways
    of importing."""
    seen: set[Path] = set()
    metadata: set[str] = set()
    for module in modules:
        if module.kind is Kind.DEPENDENCY:
            metadata.add(module.top)
        if module.unit is None or module.unit in seen:
            continue
        seen.add(module.unit)
        base = module.unit_name.replace(".", "/")
        if module.unit.is_file():
            yield StagedFile(f"{base}.py", module.unit, module.unit.read_bytes())
            continue
        for path in _files_below(module.unit, module.kind):
            inside = path.relative_to(module.unit).as_posix()
            yield StagedFile(f"{base}/{inside}", path, path.read_bytes())
    # `importlib.metadata.version(...)` at import is common; it needs no more than this.
    for top in sorted(metadata):
        for folder in environment.packages:
            info = dist_info(Path(folder), top)
            if info is not None and (info / "METADATA").is_file():
                yield StagedFile(f"{info.name}/METADATA", info / "METADATA", (info / "METADATA").read_bytes())
                break


def _files_below(folder: Path, kind: Kind) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        inside = Path(parent).relative_to(folder).parts
        if kind is Kind.SDK and not inside:
            folders[:] = [f for f in folders if f"plexspaces.{f}" not in _SDK_LEFT_OUT]
            files = [f for f in files if f"plexspaces.{f.removesuffix('.py')}" not in _SDK_LEFT_OUT]
        folders[:] = sorted(f for f in folders if f not in _LEFT_OUT_FOLDERS and not f.startswith("."))
        if kind is Kind.USER:
            folders[:] = [f for f in folders if f != "tests" and not Path(parent, f, "pyvenv.cfg").exists()]
            files = [f for f in files if not f.startswith("test_") and f != "conftest.py"]
        for name in sorted(files):
            if not name.endswith(_LEFT_OUT_SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)
