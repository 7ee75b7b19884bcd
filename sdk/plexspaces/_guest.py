"""The entry into the sandbox: what a generated component's main module calls.

    from plexspaces import _guest
    _guest.install()
    import counter_actor
    WitWorld = _guest.world(counter_actor)
"""

from __future__ import annotations

import gc
import importlib
from types import ModuleType
from typing import Any, Final

from . import _imports, _memory, _rehearsal, _sandbox
from ._version import __version__
from ._world import make_world
from .definition import find_actors

INTERFACES: Final = (
    "blobs",
    "channels",
    "clock",
    "http",
    "keyvalue",
    "lifecycle",
    "locks",
    "logging",
    "messaging",
    "process_groups",
    "random",
    "registry",
    "streams",
    "timers",
    "tuplespace",
    "workflow",
)


class ComponentImports:
    """The component's own imports.  All are loaded while it is built: later there is nothing to load from."""

    def __init__(self) -> None:
        for name in INTERFACES:
            setattr(self, name, importlib.import_module(f"wit_world.imports.{name}"))
        self.Err = importlib.import_module("componentize_py_types").Err


_component: ComponentImports | None = None


def install() -> None:
    """Route the standard library to the host.  Call it before any module of the author's is imported."""
    global _component
    _component = ComponentImports()
    _sandbox.install()


def world(module: ModuleType) -> type:
    """The class to be named `WitWorld`, for the actors of `module`.  Call it after everything is imported.

    Raises:
        DefinitionError: the module's actors are faulty.
    """
    types: Any = importlib.import_module("wit_world.imports.types")
    err = importlib.import_module("componentize_py_types").Err
    definitions = find_actors(module)
    _sandbox.seal()
    _rehearsal.rehearse(types, err)
    made = make_world(
        definitions,
        types,
        err,
        version=__version__,
        activate=_sandbox.reseed,
        finish=_sandbox.finish_output,
    )
    # The memory as it is now is shared by all instances until they write to it, and a collection writes to the header
    # of every object it looks at: a megabyte an instance.  Frozen objects are not looked at.
    gc.collect()
    # From here on nothing may run that reaches for the host: there is none yet.
    _imports.bind(_component)
    _sandbox.activate(_component)
    _memory.fill_holes()
    gc.freeze()
    return made
