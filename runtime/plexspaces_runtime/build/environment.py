"""Where a module would come from: the project, an installed distribution, the guest's standard library, or nowhere."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path

from . import guest_python


class Kind(Enum):
    """Who provides a module."""

    USER = "user"
    DEPENDENCY = "dependency"
    SDK = "sdk"
    STANDARD = "standard library"
    NOT_IN_GUEST = "standard library, but not in the sandbox"
    BINDINGS = "generated bindings"
    NATIVE = "compiled extension"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Located:
    """A module and where it is.

    Args:
        name: absolute.
        kind: who provides it.
        file: its source; None for what has none (namespace packages, the standard library, ...).
        is_package: whether it is a package, with or without an `__init__`.
        unit: what must be brought along for it: its outermost regular package, or the file alone.
        unit_name: the absolute name of the unit.
    """

    name: str
    kind: Kind
    file: Path | None = None
    is_package: bool = False
    unit: Path | None = None
    unit_name: str = ""

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


# Provided by componentize-py while it builds.
_BINDINGS = re.compile(r"(wit_world|componentize_py_\w+|poll_loop)(\.|$)")


class Environment:
    """Finds modules without importing any.

    Args:
        root: the project's own directory.
        packages: directories with installed distributions, in the order they are searched.
    """

    def __init__(self, root: Path, packages: Iterable[Path]) -> None:
        self._root = [str(root)]
        self._packages = [str(path) for path in packages]
        self._found: dict[tuple[str, bool], Located] = {}
        self._specs: dict[tuple[str, bool], ModuleSpec | None] = {}
        self._distributions: dict[str, list[str]] | None = None

    @property
    def packages(self) -> list[str]:
        """Directories with installed distributions."""
        return list(self._packages)

    def find(self, name: str, *, for_user: bool) -> Located:
        """Locate a module by its absolute name.

        Args:
            name: absolute, for example `jinja2.sandbox`.
            for_user: whether the project's own code asks, which sees its own modules first.
        """
        key = (name, for_user)
        if key not in self._found:
            self._found[key] = self._find(name, for_user)
        return self._found[key]

    def hides_standard_library(self, name: str) -> bool:
        """Whether the project has a module of its own under a standard name."""
        top = name.partition(".")[0]
        return top in guest_python.STANDARD_LIBRARY and PathFinder.find_spec(top, self._root) is not None

    def installed_names(self) -> set[str]:
        """Top-level names of all installed packages and of the project, for suggestions."""
        names: set[str] = set()
        for folder in (*self._root, *self._packages):
            try:
                entries = list(os.scandir(folder))
            except OSError:
                continue
            for entry in entries:
                stem = entry.name.removesuffix(".py")
                if stem.isidentifier() and not stem.startswith("_"):
                    names.add(stem)
        return names

    def distribution_of(self, top: str) -> str | None:
        """The name of the installed distribution that provides a top-level module."""
        for folder in self._packages:
            if info := dist_info(Path(folder), top):
                return info.name.partition("-")[0]
        if self._distributions is None:
            from importlib.metadata import distributions

            self._distributions = {}
            for distribution in distributions(path=self._packages):
                tops = (distribution.read_text("top_level.txt") or "").split() or sorted(
                    {file.parts[0].removesuffix(".py") for file in distribution.files or ()}
                )
                for each in tops:
                    self._distributions.setdefault(each, []).append(distribution.name)
        names = self._distributions.get(top)
        return names[0] if names else None

    def declares(self, top: str, needed_top: str) -> bool:
        """Whether the distribution of `top` requires that of `needed_top`, extras aside."""
        from importlib.metadata import PackageNotFoundError, distributions

        ours, theirs = self.distribution_of(top), self.distribution_of(needed_top)
        if ours is None or theirs is None:
            return False
        try:
            found = next(iter(distributions(name=ours, path=self._packages)), None)
        except PackageNotFoundError:
            return False
        for requirement in (found.requires if found else None) or ():
            name = re.match(r"[\w.-]+", requirement)
            if name and normalised(name[0]) == normalised(theirs) and "extra" not in requirement:
                return True
        return False

    def _find(self, name: str, for_user: bool) -> Located:
        if _BINDINGS.match(name):
            return Located(name, Kind.BINDINGS)
        top = name.partition(".")[0]
        spec = self._spec(name, for_user)
        if spec is not None:
            return self._located(name, spec, for_user)
        if top in guest_python.STANDARD_LIBRARY:
            return Located(name, Kind.STANDARD)
        if top in sys.stdlib_module_names:
            return Located(name, Kind.NOT_IN_GUEST)
        return Located(name, Kind.ABSENT)

    def _spec(self, name: str, for_user: bool) -> ModuleSpec | None:
        key = (name, for_user)
        if key not in self._specs:
            parent, _, _ = name.rpartition(".")
            if not parent:
                self._specs[key] = self._top_spec(name, for_user)
            else:
                above = self._spec(parent, for_user)
                places = above.submodule_search_locations if above else None
                self._specs[key] = PathFinder.find_spec(name, list(places)) if places is not None else None
        return self._specs[key]

    def _top_spec(self, name: str, for_user: bool) -> ModuleSpec | None:
        if name == "plexspaces":
            return PathFinder.find_spec(name, [str(sdk_dir().parent)])
        if for_user and (spec := PathFinder.find_spec(name, self._root)) is not None and not _is_empty(spec):
            return spec
        if name in guest_python.STANDARD_LIBRARY:
            return None
        if (spec := PathFinder.find_spec(name, self._packages)) is not None:
            return spec
        if name in sys.stdlib_module_names:
            return None
        return _editable(name)

    def _located(self, name: str, spec: ModuleSpec, for_user: bool) -> Located:
        top = name.partition(".")[0]
        is_package = spec.submodule_search_locations is not None
        kind = Kind.SDK if top == "plexspaces" else self._provider(spec)
        if spec.origin is None or not spec.has_location:
            return Located(name, kind, None, is_package)
        file = Path(spec.origin)
        if file.name.endswith(tuple(EXTENSION_SUFFIXES)) or file.suffix in (".so", ".pyd"):
            return Located(name, Kind.NATIVE, file, is_package)
        unit, unit_name = (file.parent, name) if is_package else (file, name)
        parent = name.rpartition(".")[0]
        while parent:
            above = self._spec(parent, for_user)
            if above is None or above.origin is None:
                break
            unit, unit_name = Path(above.origin).parent, parent
            parent = parent.rpartition(".")[0]
        return Located(name, kind, file, is_package, unit, unit_name)

    def _provider(self, spec: ModuleSpec) -> Kind:
        places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
        # Installed distributions may lie below the project (`.venv`): the longer prefix decides.
        inside = [root for root in (*self._root, *self._packages) for p in places if Path(p).is_relative_to(root)]
        return Kind.USER if inside and max(inside, key=len) == self._root[0] else Kind.DEPENDENCY


def _is_empty(spec: ModuleSpec) -> bool:
    """A directory that merely has the name, without any module in it, is not what an import meant."""
    if spec.origin is not None:
        return False
    return not any(next(Path(p).glob("*.py"), None) for p in spec.submodule_search_locations or ())


def _editable(name: str) -> ModuleSpec | None:
    """What an editable installation provides through an import hook."""
    for finder in sys.meta_path:
        if getattr(finder, "__module__", getattr(type(finder), "__module__", "")).startswith("__editable__"):
            spec: ModuleSpec | None = finder.find_spec(name, None)
            if spec is not None:
                return spec
    return None


def sdk_dir() -> Path:
    """The directory of the installed `plexspaces` package."""
    spec = PathFinder.find_spec("plexspaces", [p for p in sys.path if p])
    if spec is None or spec.origin is None:
        from ..errors import InternalError

        raise InternalError("the package plexspaces is not installed beside plexspaces_runtime; install it again")
    return Path(spec.origin).parent


def package_dirs(environment: dict[str, str] | None = None) -> list[Path]:
    """Directories with installed distributions: an active virtual environment's first, then the interpreter's own."""
    active = (os.environ if environment is None else environment).get("VIRTUAL_ENV")
    found = sorted(Path(active).glob("lib/python3*/site-packages")) if active else []
    standard = {Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platstdlib"))}
    dynload = {path / "lib-dynload" for path in standard}
    for entry in sys.path:
        path = Path(entry)
        if entry and path.is_dir() and path not in standard | dynload and path not in found:
            found.append(path)
    # The directory of the console script, or that of `python -m`, is no place for distributions.
    script = Path(sys.argv[0]).absolute().parent if sys.argv and sys.argv[0] else None
    return [path for path in found if path != script]


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def dist_info(folder: Path, top: str) -> Path | None:
    """The metadata directory of the distribution that is named like a top-level module, which most are."""
    for candidate in folder.glob(f"{top[:1]}*.dist-info") if top[:1].isalpha() else ():
        if normalised(candidate.name.partition("-")[0]) == normalised(top):
            return candidate
    return None
