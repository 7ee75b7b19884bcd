"""`workflows ls|show|start|signal|query|cancel|forget` and `promises ls|resolve`: long runs, and what they wait for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from ..arguments import ArgumentError, parse_arguments
from ..client import NodeClient
from ..output import Cell, json_option, json_wanted, printable, show_json, show_table, state_cell

_PATH = "/api/v1/workflows"
_PROMISES = "/api/v1/promises"
_PAGE = "100"
_STATES = {"running": "busy", "completed": "idle", "failed": "dead", "cancelled": "stopped"}
_AS_TYPED = {"ignore_unknown_options": True, "allow_interspersed_args": True}
_TIMES = frozenset({"started_ms", "ended_ms"})


def _namespace(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-n", "--namespace", default="default", show_default=True, envvar="PLEXSPACES_NAMESPACE", help="The namespace."
    )(command)


@click.group()
def workflows() -> None:
    """Runs of workflows: a WORKFLOW is `type/key`, or `type` for the key `default`."""


@workflows.command()
@click.option("--type", "actor_type", metavar="TYPE", help="Only those of this actor type.")
@click.option(
    "--status", type=click.Choice(["running", "completed", "failed", "cancelled"]), help="Only those of this status."
)
@_namespace
@json_option
def ls(actor_type: str | None, status: str | None, namespace: str) -> None:
    """List runs; with --json one object a line."""
    query = {"namespace": namespace}
    if actor_type is not None:
        query["type"] = actor_type
    if status is not None:
        query["status"] = status
    found = _pages(NodeClient(), _PATH, "workflows", query)
    if json_wanted():
        for run in found:
            click.echo(json.dumps(run))
        return
    rows: list[list[str | Cell]] = [
        [
            Cell(_name(run), "bold"),
            state_cell(run["status"], _STATES[run["status"]]),
            run["step"] if run["attempt"] < 2 else f"{run['step']} (attempt {run['attempt']})",
            str(run["steps_done"]),
            str(run["waits_for"]),
            _time(run["started_ms"]),
            _time(run["ended_ms"]),
        ]
        for run in found
    ]
    headings = ("WORKFLOW", "STATUS", "STEP", "DONE", "WAITS FOR", "STARTED", "ENDED")
    show_table(headings, rows, empty="no workflows", dispensable=("DONE", "ENDED"))


@workflows.command()
@click.argument("workflow")
@_namespace
@json_option
def show(workflow: str, namespace: str) -> None:
    """Show a run: how far it is, what it waits for, how it ended."""
    _show(NodeClient().call("GET", _path(workflow), query={"namespace": namespace}))


@workflows.command(context_settings=_AS_TYPED)
@click.argument("workflow")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@_namespace
@click.option("--wait", "wait_s", type=click.FloatRange(min=0.001), help="Seconds to wait for its result.")
@json_option
def start(workflow: str, arguments: tuple[str, ...], namespace: str, wait_s: float | None) -> None:
    """Start a run, or hear of the one there is; with --wait print its result.

    \b
    plexspaces workflows start trip/lisbon city=Lisbon
    plexspaces workflows start trip/lisbon --wait 60
    """
    query = {"namespace": namespace} if wait_s is None else {"namespace": namespace, "wait": f"{wait_s:g}"}
    answer = NodeClient().call("POST", _path(workflow), query=query, body=_parsed(arguments), timeout_s=wait_s or 30.0)
    if wait_s is not None:
        show_json(answer)
    else:
        _show(answer)


@workflows.command(context_settings=_AS_TYPED)
@click.argument("workflow")
@click.argument("signal")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@_namespace
@json_option
def signal(workflow: str, signal: str, arguments: tuple[str, ...], namespace: str) -> None:
    """Send SIGNAL to a run, which takes it at its next boundary of a step.

    \b
    plexspaces workflows signal trip/lisbon approve by=ada
    """
    path = f"{_path(workflow)}/signals/{quote(signal, safe='')}"
    answer = NodeClient().call("POST", path, query={"namespace": namespace}, body=_parsed(arguments))
    if json_wanted():
        show_json(answer)
    else:
        click.echo(answer["message_id"])


@workflows.command(context_settings=_AS_TYPED)
@click.argument("workflow")
@click.argument("query")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@_namespace
@json_option
def query(workflow: str, query: str, arguments: tuple[str, ...], namespace: str) -> None:
    """Print the answer to QUERY, from the state at the run's last boundary.

    \b
    plexspaces workflows query trip/lisbon stage
    """
    path = f"{_path(workflow)}/queries/{quote(query, safe='')}"
    # As JSON, so that a string that looks like a number stays one.
    typed = {name: json.dumps(value) for name, value in _parsed(arguments).items()}
    show_json(NodeClient().call("GET", path, query={**typed, "namespace": namespace}))


@workflows.command()
@click.argument("workflow")
@click.option("--reason", default="", help="What the run is told, and whoever waits for it.")
@_namespace
@json_option
def cancel(workflow: str, reason: str, namespace: str) -> None:
    """Ask a run to end at its next boundary of a step, and to undo what it has done."""
    body = {"reason": reason} if reason else {}
    answer = NodeClient().call("POST", f"{_path(workflow)}/cancel", query={"namespace": namespace}, body=body)
    if json_wanted():
        show_json(answer)
    else:
        click.echo(printable(f"cancelling {workflow}: {answer['cancel_reason']}"))


@workflows.command()
@click.argument("workflow")
@_namespace
@json_option
def forget(workflow: str, namespace: str) -> None:
    """Delete the outcome of a run that has ended, so that it can be started anew."""
    NodeClient().call("DELETE", _path(workflow), query={"namespace": namespace})
    if json_wanted():
        show_json({"forgotten": workflow})
    else:
        click.echo(f"forgot {workflow}")


@click.group()
def promises() -> None:
    """What runs and other actors wait for somebody to give."""


@promises.command(name="ls")
@click.option("--all", "everything", is_flag=True, help="Those that are resolved as well.")
@_namespace
@json_option
def ls_promises(everything: bool, namespace: str) -> None:
    """List promises that nobody has resolved; with --json one object a line."""
    query = {"namespace": namespace} if everything else {"namespace": namespace, "resolved": "false"}
    found = _pages(NodeClient(), _PROMISES, "promises", query)
    if json_wanted():
        for promise in found:
            click.echo(json.dumps(promise))
        return
    rows: list[list[str | Cell]] = [
        [
            str(each["id"]),
            Cell(str(each["name"]), "bold"),
            str(each["owner"]),
            _time(each["created_ms"]),
            json.dumps(each["value"]) if each["resolved"] else "",
        ]
        for each in found
    ]
    show_table(("ID", "NAME", "OF", "SINCE", "VALUE"), rows, empty="no promises")


@promises.command()
@click.argument("promise")
@click.argument("value", default="null")
@_namespace
@json_option
def resolve(promise: str, value: str, namespace: str) -> None:
    """Give PROMISE its VALUE: JSON, any other word is a string; nothing for null.

    \b
    plexspaces promises resolve promise-7 '{"approved": true}'
    """
    try:
        body = json.loads(value)
    except ValueError:
        body = value
    path = f"{_PROMISES}/{quote(promise, safe='')}"
    answer = NodeClient().call("POST", path, query={"namespace": namespace}, body=body)
    if json_wanted():
        show_json(answer)
    else:
        click.echo(f"resolved {promise}")


def _path(workflow: str) -> str:
    actor_type, _, key = workflow.partition("/")
    return f"{_PATH}/{quote(actor_type, safe='')}/{quote(key or 'default', safe='')}"


def _name(run: dict[str, Any]) -> str:
    return str(run["type"]) if run["key"] == "default" else f"{run['type']}/{run['key']}"


def _pages(client: NodeClient, path: str, name: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Every page of a list."""
    query = {**query, "limit": _PAGE}
    while True:
        page = client.call("GET", path, query=query)
        yield from page[name]
        if "next" not in page:
            return
        query["after"] = page["next"]


def _show(run: dict[str, Any]) -> None:
    if json_wanted():
        show_json(run)
        return
    for name, value in run.items():
        if value in ("", None, 0) and name != "steps_done":
            continue
        text = _time(value) if name in _TIMES else value if isinstance(value, str) else json.dumps(value)
        click.echo(printable(f"{name.removesuffix('_ms').replace('_', ' '):<20} {text}"))


def _parsed(words: tuple[str, ...]) -> dict[str, Any]:
    try:
        return parse_arguments(words, lambda name: sys.stdin.read() if name == "-" else Path(name).read_text("utf-8"))
    except (ArgumentError, OSError, UnicodeDecodeError) as error:
        raise click.UsageError(str(error)) from None


def _time(time_ms: int) -> str:
    if not time_ms:
        return ""
    return datetime.fromtimestamp(time_ms / 1_000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
