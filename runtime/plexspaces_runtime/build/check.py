"""Mistakes in an actor that can be told before anything is compiled: first from the text, then from the module itself.

The module is imported by an interpreter of its own, on plain CPython: whatever it does there (raise, print, exit,
loop) stays there.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .environment import Environment, sdk_dir
from .findings import Finding, Severity
from .plan import Plan
from .project import shown

_HANDLER_DECORATORS = frozenset(
    {
        "handler",
        "init_handler",
        "run_handler",
        "signal_handler",
        "query_handler",
        "info_handler",
        "terminate_handler",
        "migrate_handler",
    }
)
_IMPORT_TIMEOUT_S = 60


def check_text(plan: Plan) -> Iterator[Finding]:
    """What the syntax trees of the project's own files show."""
    for file, tree in plan.trees.items():
        yield from _async_handlers(shown(file), tree)
        yield from _host_at_import(shown(file), tree)


def _async_handlers(file: str, tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef) and any(_name(d) in _HANDLER_DECORATORS for d in node.decorator_list):
            yield Finding(
                file,
                # Where the SDK would report it as well: a function begins with its decorators.
                node.decorator_list[0].lineno,
                f"handler {node.name!r} is async",
                "write def: host.ask(...) and host.sleep(...) wait without await, and block nobody else",
            )


def _host_at_import(file: str, tree: ast.Module) -> Iterator[Finding]:
    """Calls of the host while the module is imported: at build time there is no node to answer."""
    hosts = {"plexspaces.host"}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "plexspaces" and not node.level:
            hosts.update(alias.asname or alias.name for alias in node.names if alias.name == "host")
        elif isinstance(node, ast.Import):
            hosts.update(f"{a.asname}.host" for a in node.names if a.name == "plexspaces" and a.asname)
    for call in _calls_at_import(tree.body):
        called = ast.unparse(call.func)
        if any(called.startswith(f"{name}.") for name in hosts):
            yield Finding(
                file,
                call.lineno,
                f"{called}(...) is called while the module is imported",
                "there is no node yet when a component is built: call it in a handler or in @init_handler",
            )


def _calls_at_import(body: list[ast.stmt]) -> Iterator[ast.Call]:
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop(0)
        if isinstance(node, ast.If) and ast.unparse(node.test).startswith("__name__"):
            todo.extend(node.orelse)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo.extend([*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d)])
        elif isinstance(node, ast.Lambda):
            todo.extend(node.args.defaults)
        else:
            if isinstance(node, ast.Call):
                yield node
            todo.extend(ast.iter_child_nodes(node))


def _name(decorator: ast.expr) -> str:
    if isinstance(decorator, ast.Call):
        decorator = decorator.func
    return decorator.attr if isinstance(decorator, ast.Attribute) else getattr(decorator, "id", "")


# Runs in the other interpreter, so it may use nothing of ours but the SDK.
_INSPECT = r"""
import importlib, json, os, sys, traceback
paths, module_name, answer = json.loads(sys.argv[1])
sys.argv = [module_name]
sys.path[:0] = paths
result = {"roles": [], "issues": [], "raised": None}
try:
    from plexspaces.definition import DefinitionError, find_actors
    try:
        module = importlib.import_module(module_name)
    except BaseException as error:
        frames = [[f.filename, f.lineno] for f in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, SyntaxError):
            frames.append([error.filename, error.lineno])
        if isinstance(error, DefinitionError):
            result["issues"] = [[i.file, i.line, i.message, i.remedy] for i in error.issues]
        else:
            text = "".join(traceback.format_exception_only(type(error), error)).strip()
            result["raised"] = {"type": type(error).__name__, "text": text, "frames": frames}
    else:
        try:
            result["roles"] = sorted(find_actors(module))
        except DefinitionError as error:
            result["issues"] = [[i.file, i.line, i.message, i.remedy] for i in error.issues]
finally:
    with open(answer, "w", encoding="utf-8") as file:
        json.dump(result, file)
    sys.stdout.flush()
    # Threads and exit handlers of the module have no say any more.
    os._exit(0)
"""


def check_module(plan: Plan, environment: Environment) -> tuple[list[str], list[Finding]]:
    """Import the actor's module on plain CPython and let the SDK judge what is in it.

    Returns:
        The roles found, and what is wrong.
    """
    project = plan.project
    file = shown(project.file)
    with tempfile.TemporaryDirectory(prefix="plexspaces-check-") as folder:
        answer = Path(folder, "answer.json")
        paths = [str(project.root), str(sdk_dir().parent), *environment.packages]
        request = json.dumps([paths, project.module, str(answer)])
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSTARTUP", "VIRTUAL_ENV")}
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        try:
            done = subprocess.run(
                [sys.executable, "-c", _INSPECT, request],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_IMPORT_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            remedy = "do no work while the module is imported; a handler or @init_handler is the place for it"
            return [], [Finding(file, 0, f"importing the module takes longer than {_IMPORT_TIMEOUT_S} s", remedy)]
        if not answer.exists():
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"status {done.returncode}"]
            message = f"importing the module ends the interpreter: {said[0]}"
            return [], [Finding(file, 0, message, "remove what exits or crashes while the module is imported")]
        result = json.loads(answer.read_text(encoding="utf-8"))
    findings = [
        Finding(shown(Path(where)), line, message, f"{remedy.rstrip('.')}" if remedy else "")
        for where, line, message, remedy in result["issues"]
    ]
    if raised := result["raised"]:
        own = [(f, n) for f, n in raised["frames"] if f and Path(f) in plan.trees]
        where, line = own[-1] if own else (str(plan.project.file), 0)
        findings.append(
            Finding(
                shown(Path(where)),
                line or 0,
                f"importing the module raises {raised['text']}",
                f"make the module importable: python -c 'import {project.module}'",
            )
        )
    return result["roles"], findings


def without_doubles(findings: list[Finding]) -> list[Finding]:
    """One finding a place: what the text showed is worded better than what the running module says of the same line."""
    kept: list[Finding] = []
    places: set[tuple[str, int]] = set()
    for finding in findings:
        place = (finding.file, finding.line)
        if finding.severity is Severity.ERROR and finding.line:
            if place in places:
                continue
            places.add(place)
        kept.append(finding)
    return kept
