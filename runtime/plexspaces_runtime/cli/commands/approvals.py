"""`approvals ls|approve|reject`: the tool calls that wait for a person."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import click

from ..client import NodeClient
from ..output import Cell, CommandError, json_option, json_wanted, printable, show_json, show_table

_NAME = "approval "
_namespace = click.option(
    "--namespace", default="default", show_default=True, help="Where MiniClaw runs.", envvar="PLEXSPACES_NAMESPACE"
)


@click.group()
def approvals() -> None:
    """Tool calls that wait for a person."""


@approvals.command(name="ls")
@_namespace
@json_option
def ls_approvals(namespace: str) -> None:
    """List what waits; with --json one object a line."""
    found = waiting(NodeClient(), namespace)
    if json_wanted():
        for each in found:
            click.echo(json.dumps(each))
        return
    rows: list[list[str | Cell]] = [
        [
            each["approval"],
            Cell(each["tool"], "bold"),
            json.dumps(each["input"], ensure_ascii=False)[:80],
            each["requested_by"],
            datetime.fromtimestamp(each["since_ms"] / 1_000, UTC).astimezone().strftime("%Y-%m-%d %H:%M"),
        ]
        for each in found
    ]
    show_table(("APPROVAL", "TOOL", "INPUT", "ASKED BY", "SINCE"), rows, empty="nothing waits for approval")


@approvals.command()
@click.argument("approval")
@click.option("--reason", default="", help="For the record.")
@_namespace
@json_option
def approve(approval: str, reason: str, namespace: str) -> None:
    """Let a tool call be made; the turn that waits for it goes on."""
    _decide(approval, True, reason, namespace)


@approvals.command()
@click.argument("approval")
@click.option("--reason", default="", help="For the record, and for the model.")
@_namespace
@json_option
def reject(approval: str, reason: str, namespace: str) -> None:
    """Let a tool call not be made; the turn that waits for it goes on without."""
    _decide(approval, False, reason, namespace)


def waiting(client: NodeClient, namespace: str) -> list[dict[str, Any]]:
    """What waits for a decision, the oldest first."""
    query = {"namespace": namespace, "resolved": "false", "limit": "1000"}
    found = []
    while True:
        page = client.call("GET", "/api/v1/promises", query=query)
        for promise in page["promises"]:
            if promise["name"].startswith(_NAME):
                found.append(
                    {
                        **_request(client, promise["owner"], namespace),
                        "promise": promise["id"],
                        "approval": promise["owner"].partition("/")[2],
                        "since_ms": promise["created_ms"],
                    }
                )
        if "next" not in page:
            return sorted(found, key=lambda each: each["since_ms"])
        query["after"] = page["next"]


def decide(client: NodeClient, each: dict[str, Any], approved: bool, reason: str, namespace: str) -> None:
    """Resolve what one of `waiting` waits for."""
    body = {"approved": approved, "by": getpass.getuser(), "reason": reason}
    path = f"/api/v1/promises/{quote(each['promise'], safe='')}"
    client.call("POST", path, query={"namespace": namespace}, body=body)


def _request(client: NodeClient, owner: str, namespace: str) -> dict[str, Any]:
    key = quote(owner.partition("/")[2], safe="")
    path = f"/api/v1/workflows/approval/{key}/queries/get_request"
    request = client.call("GET", path, query={"namespace": namespace})
    return {name: request.get(name, "") for name in ("tool", "input", "session_id", "requested_by")}


def _decide(approval: str, approved: bool, reason: str, namespace: str) -> None:
    client = NodeClient()
    found = [each for each in waiting(client, namespace) if each["approval"] == approval]
    if not found:
        raise CommandError(f"nothing waits under {approval!r}", "plexspaces approvals ls", code="not-found")
    decide(client, found[0], approved, reason, namespace)
    word = "approved" if approved else "rejected"
    if json_wanted():
        show_json({"approval": approval, "approved": approved})
    else:
        click.echo(printable(f"{word} {found[0]['tool']} of session {found[0]['session_id']}"))
