"""From a plan to a component: stage the files, write the entry module, run componentize-py, translate its failures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from .. import witfiles
from ..errors import InternalError
from . import guest_python
from .findings import BuildFailed, Finding
from .plan import ENTRY_MODULE, Plan, Preload
from .project import shown

# Where componentize-py mounts the staged files in the guest.
_MOUNT = "/0/"
_FAILURE_FILE = "plexspaces-failure.json"
_COMPONENTIZE = "import sys; from componentize_py import script; sys.argv[0] = 'componentize-py'; sys.exit(script())"

_ENTRY = '''\
"""Runs once, while the component is built: import all there is, then hand the actors to the world."""

import builtins
import importlib
import sys
import traceback

_open = builtins.open


def _load():
    from plexspaces import _guest

    _guest.install()
    module = importlib.import_module({module!r})
    for name, attribute, required in {preloads!r}:
        try:
            # A name that is no submodule is an attribute, and no error.
            __import__(name, fromlist=[attribute] if attribute else [])
            importlib.import_module(name)
        except Exception:
            if required:
                raise
    for name in {always!r}:
        importlib.import_module(name)
    loaded_with = {loaded_with!r}
    for name in list(sys.modules):
        for companion in loaded_with.get(name, ()):
            importlib.import_module(companion)
    return _guest.world(module)


def _report(error):
    import json

    frames = [[f.filename, f.lineno, f.name] for f in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        frames.append([error.filename, error.lineno, ""])
    text = "".join(traceback.format_exception_only(type(error), error)).strip()
    with _open({failure!r}, "w", encoding="utf-8") as file:
        file.write(json.dumps({{"text": text, "frames": frames}}))


try:
    WitWorld = _load()
except BaseException as error:
    _report(error)
    raise
'''


def entry_source(module: str, preloads: Iterable[Preload]) -> str:
    """The module that componentize-py runs to build the component."""
    return _ENTRY.format(
        module=module,
        preloads=[(p.module, p.attribute, p.required) for p in preloads],
        always=guest_python.ALWAYS_LOADED,
        loaded_with=guest_python.LOADED_WITH,
        failure=_MOUNT + _FAILURE_FILE,
    )


def stage(plan: Plan, folder: Path) -> None:
    """Write the plan's files and the entry module into an empty directory."""
    for staged in plan.files:
        target = folder / staged.destination
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(staged.data)
    (folder / f"{ENTRY_MODULE}.py").write_text(entry_source(plan.project.module, plan.preloads), encoding="utf-8")


def componentize(plan: Plan, workspace: Path) -> Path:
    """Compile a plan inside an empty directory; returns the component's file in there.

    Raises:
        BuildFailed: the module could not be imported in the guest.
        InternalError: componentize-py itself failed.
    """
    staged, output, empty = workspace / "stage", workspace / "component.wasm", workspace / "none"
    staged.mkdir()
    # Without a virtual environment componentize-py adds the interpreter's own site-packages to the guest's path;
    # an empty one keeps everything out that was not staged.
    (empty / "lib" / "python3" / "site-packages").mkdir(parents=True)
    stage(plan, staged)
    arguments = ["-q", "-d", str(witfiles.wit_dir()), "-w", witfiles.WORLD]
    arguments += ["componentize", "--stub-wasi", "-p", str(staged), ENTRY_MODULE, "-o", str(output)]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RUST_", "PIPENV_"))}
    env["VIRTUAL_ENV"] = str(empty)
    done = subprocess.run(
        [sys.executable, "-c", _COMPONENTIZE, *arguments],
        cwd=workspace,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode == 0 and output.exists():
        return output
    said = done.stdout.decode(errors="replace")
    failure = staged / _FAILURE_FILE
    raise _translated(plan, failure.read_text(encoding="utf-8") if failure.exists() else None, said)


def _translated(plan: Plan, report: str | None, said: str) -> BuildFailed | InternalError:
    """The one line that matters of what went wrong in the guest."""
    if report is None:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        causes = [line for line in lines if not re.match(r"\d+:|at /|Stack backtrace|File |Traceback|Caused by", line)]
        reason = next((line for line in reversed(causes) if "Error" in line), causes[-1] if causes else "no output")
        if re.search(r"_Exit|wasm trap|unreachable", said):
            finding = Finding(
                shown(plan.project.file),
                0,
                "importing the module ends the sandbox's Python",
                "remove what exits, or recurses without end, while the module is imported",
            )
            return BuildFailed([finding])
        return InternalError(f"componentize-py failed: {reason}", output=said[-4000:])
    failure = json.loads(report)
    sources = {_MOUNT + staged.destination: staged.source for staged in plan.files}
    own = set(plan.trees)
    frames = [(sources[name], line) for name, line, _ in failure["frames"] if name in sources]
    place = next(((file, line) for file, line in reversed(frames) if file in own), None)
    file, line = place or (frames[-1] if frames else (plan.project.file, 0))
    return BuildFailed(
        [
            Finding(
                shown(file),
                line or 0,
                f"importing the module in the sandbox raises {failure['text']}",
                "it works on plain Python, but not there: no files, network, threads or processes while it is built",
            )
        ]
    )
