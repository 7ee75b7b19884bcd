"""`apps` and `tree`: the applications of a node, and who supervises whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import click

from ...clock import SystemClock
from ..client import NodeClient
from ..output import Cell, CommandError, json_option, json_wanted, on_terminal, show_json, show_table, state_cell

_BRANCHES = {True: ("├─ ", "└─ ", "│  "), False: ("|- ", "`- ", "|  ")}


@click.command()
@click.argument("name", required=False)
@click.option("-n", "--namespace", envvar="PLEXSPACES_NAMESPACE", help="Only this namespace [default: all].")
@json_option
def apps(name: str | None, namespace: str | None) -> None:
    """List the applications, or show the one called NAME."""
    client = NodeClient()
    if name is not None:
        answer = client.call("GET", application_path(name))
        if json_wanted():
            show_json(answer)
        else:
            _show(answer)
        return
    query = {"namespace": namespace} if namespace else {}
    found = client.call("GET", "/api/v1/applications", query=query)
    if json_wanted():
        show_json(found)
        return
    rows: list[list[str | Cell]] = [
        [
            str(each["name"]),
            str(each["namespace"]),
            state_cell(_state(each), str(each["state"])),
            str(each["version"]),
            str(each["actors"]),
            str(each["restarts"]),
            str(each["last_exit"]),
        ]
        for each in found["applications"]
    ]
    headings = ("NAME", "NAMESPACE", "STATE", "VERSION", "ACTORS", "RESTARTS", "LAST EXIT")
    show_table(headings, rows, empty="no applications; deploy one: plexspaces deploy app-config.toml")


def application_path(name: str) -> str:
    """Where the node has an application."""
    return f"/api/v1/applications/{quote(name, safe='')}"


def _state(status: Any) -> str:
    """The state, and for one that waits for its next start, how long."""
    wait_ms = int(status["next_start_ms"]) - SystemClock().now_ns() // 1_000_000
    return f"{status['state']}, again in {wait_ms / 1000:.0f} s" if wait_ms > 0 else str(status["state"])


def _show(status: Any) -> None:
    rows: list[tuple[str, str | Cell]] = [
        ("name", str(status["name"])),
        ("namespace", str(status["namespace"])),
        ("state", state_cell(_state(status), str(status["state"]))),
        ("version", str(status["version"])),
        ("actors", str(status["actors"])),
        ("restarts", str(status["restarts"])),
        ("last exit", str(status["last_exit"]) or "-"),
        *(
            ("component" if position == 0 else "", f"{name}  sha256:{str(digest)[:16]}")
            for position, (name, digest) in enumerate(status["components"].items())
        ),
        ("last deployment", ", ".join(map(str, status["changes"])) or "changed nothing"),
    ]
    show_table((), rows, empty="")


@click.command()
@click.argument("name", required=False)
@click.option("-n", "--namespace", envvar="PLEXSPACES_NAMESPACE", help="Only this namespace [default: all].")
@json_option
def tree(name: str | None, namespace: str | None) -> None:
    """Draw the supervision trees, or only that of the application or type called NAME."""
    answer = NodeClient().call("GET", "/api/v1/tree", query={"namespace": namespace} if namespace else {})
    roots = [root for root in answer["tree"] if name in (None, root["name"])]
    if name is not None and not roots:
        raise CommandError(
            f"there is neither an application nor a type deployed on its own called {name!r}",
            "plexspaces tree, to see all",
            code="not-found",
        )
    if json_wanted():
        show_json({"tree": roots})
        return
    rows = [row for root in roots for row in _rows(root, "", "", _BRANCHES[on_terminal()])]
    headings = ("TREE", "STATE", "KIND", "RESTARTS", "WINDOW", "MAILBOX", "HANDLED", "LAST EXIT")
    show_table(
        headings,
        rows,
        empty="nothing is deployed; deploy something: plexspaces deploy FILE",
        # What is said in the configuration first, what tells of trouble last.
        dispensable=("KIND", "HANDLED", "WINDOW", "MAILBOX", "RESTARTS"),
    )


def _rows(node: Any, first: str, rest: str, branches: tuple[str, str, str]) -> Iterator[list[str | Cell]]:
    """A node's row, and those of what is below it.

    Args:
        first: what is drawn before its name.
        rest: what is drawn before the names below it.
    """
    is_actor = node["kind"] == "actor"
    name = str(node["address"] or node["name"])
    if not first and "namespace" in node:
        name = f"{node['namespace']}/{name}"
    yield [
        Cell(first + name, "" if first else "bold"),
        state_cell(str(node["state"])),
        Cell(str(node["restart"]) if is_actor else f"{node['kind']}, {node['strategy']}", "dim"),
        str(node["restarts"]),
        "" if is_actor else f"{node['restarts_in_window']} of {node['restarts_max']}",
        str(node["mailbox_messages"]) if is_actor else "",
        str(node["messages_handled"]) if is_actor else "",
        str(node["last_exit"]),
    ]
    child, last_child, beside = branches
    below = node["children"]
    for position, each in enumerate(below):
        if position < len(below) - 1:
            yield from _rows(each, rest + child, rest + beside, branches)
        else:
            yield from _rows(each, rest + last_child, rest + "   ", branches)
