"""From what the user typed to a project: the directory that modules come from, and the module with the actors."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import guest_python
from .findings import BuildFailed, Finding

ACTOR_DECORATORS = frozenset({"actor", "gen_server_actor", "event_actor", "fsm_actor", "workflow_actor"})
_NOT_SOURCES = frozenset({"tests", "test", "build", "dist", "venv", "env", "node_modules", "site-packages"})
_RESERVED = frozenset({"plexspaces", "plexspaces_runtime", "wit_world", "componentize_py_types"})


@dataclass(frozen=True, slots=True)
class Project:
    """What is to be built.

    Args:
        source: what the user named.
        root: the directory whose modules the actor can import; first on the path.
        module: the absolute name of the module with the actors.
        file: that module's file.
    """

    source: Path
    root: Path
    module: str
    file: Path


def shown(path: Path) -> str:
    """A path as a person at this prompt would write it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def locate(source: Path) -> Project:
    """Find the project that `source` names: a module's file, a package, or a directory with one module of actors.

    Raises:
        BuildFailed: there is nothing of the kind, or more than one.
    """
    source = source.absolute()
    if source.name == "__init__.py":
        source = source.parent
    if source.is_dir():
        file = _actor_file(source)
    elif source.suffix == ".py" and source.is_file():
        file = source
    elif source.exists():
        raise _failed(source, "not a Python file", "give a .py file or a directory that holds one")
    else:
        raise _failed(source, "no such file or directory", _look_alike(source))
    root, module = _module_name(file)
    for part in module.split("."):
        if not part.isidentifier():
            better = re.sub(r"\W", "_", part)
            raise _failed(file, f"{part!r} is not a module name", f"rename it to {better!r}")
    top = module.partition(".")[0]
    if top in _RESERVED:
        raise _failed(file, f"{top!r} is a name of the SDK", f"rename it, for example to {top + '_actor'!r}")
    if top in guest_python.STANDARD_LIBRARY:
        raise _failed(
            file,
            f"{top!r} would hide the standard library's module of that name",
            f"rename it, for example to {top + '_actor'!r}",
        )
    return Project(source, root, module, file)


def holds_actors(tree: ast.Module) -> bool:
    """Whether a module looks as if it defines or lists actors."""
    return lists_actors(tree) or any(
        isinstance(node, ast.ClassDef) and any(_decorator_name(d) in ACTOR_DECORATORS for d in node.decorator_list)
        for node in tree.body
    )


def lists_actors(tree: ast.Module) -> bool:
    """Whether a module assigns `ACTOR_REGISTRY`."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "ACTOR_REGISTRY" for target in targets):
            return True
    return False


def _decorator_name(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _actor_file(directory: Path) -> Path:
    listing: list[Path] = []
    holding: list[Path] = []
    files = list(_sources(directory))
    for file in files:
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            # It may well be the one; the check will say what is wrong with it.
            if len(files) == 1:
                return file
            continue
        if lists_actors(tree):
            listing.append(file)
        elif holds_actors(tree):
            holding.append(file)
    found = listing or holding
    if len(found) == 1:
        return found[0]
    if not found:
        raise _failed(
            directory,
            "no module with an actor in this directory",
            "decorate a class with @actor (from plexspaces import actor), or name the file",
        )
    names = ", ".join(shown(file) for file in found)
    if listing:
        raise _failed(directory, f"several modules assign ACTOR_REGISTRY: {names}", "keep one, or name the file")
    raise _failed(
        directory,
        f"several modules hold actors: {names}",
        'name one file, or list all in one module: ACTOR_REGISTRY = {"role": Class, ...}',
    )


def _sources(directory: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(directory):
        folders[:] = sorted(f for f in folders if f.isidentifier() and f not in _NOT_SOURCES and f != "__pycache__")
        for name in sorted(files):
            if name.endswith(".py") and not name.startswith("test_") and name not in ("conftest.py", "setup.py"):
                yield Path(folder, name)


def _module_name(file: Path) -> tuple[Path, str]:
    parts = [] if file.name == "__init__.py" else [file.stem]
    folder = file.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def _look_alike(source: Path) -> str:
    import difflib

    folder = source.parent
    names = [f.name for f in folder.iterdir() if f.suffix == ".py" or f.is_dir()] if folder.is_dir() else []
    close = difflib.get_close_matches(source.name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else "give a .py file or a directory that holds one"


def _failed(path: Path, message: str, remedy: str) -> BuildFailed:
    return BuildFailed([Finding(shown(path), 0, message, remedy)])
