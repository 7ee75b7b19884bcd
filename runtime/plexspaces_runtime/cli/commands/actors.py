"""`ps`, `ask`, `tell`, `info`, `stop`, `kill`, `restart`: what one does with actors that run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ..arguments import ArgumentError, parse_arguments
from ..client import NodeClient
from ..output import Cell, count_text, json_option, json_wanted, printable, show_json, show_table, state_cell
from .apps import application_path
from .deploy import operations

_HEADINGS = {"started_ms": "started"}
_AS_TYPED = {"ignore_unknown_options": True, "allow_interspersed_args": True}


def address_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--namespace` and `--tenant`."""
    command = click.option("--tenant", envvar="PLEXSPACES_TENANT", help="The tenant [default: the token's].")(command)
    return click.option(
        "-n", "--namespace", default="default", show_default=True, envvar="PLEXSPACES_NAMESPACE", help="The namespace."
    )(command)


@click.command()
@click.option("-n", "--namespace", envvar="PLEXSPACES_NAMESPACE", help="Only this namespace [default: all].")
@json_option
def ps(namespace: str | None) -> None:
    """List the actors that run."""
    actors = _all_actors(NodeClient(), {"namespace": namespace} if namespace else {})
    if json_wanted():
        show_json({"actors": actors})
        return
    rows: list[list[str | Cell]] = [
        [
            str(each["namespace"]),
            str(each["type"]) if each["key"] == "default" else f"{each['type']}/{each['key']}",
            state_cell(str(each["state"])),
            str(each["mailbox_messages"]),
            str(each["messages_handled"]),
            str(each["restarts"]),
            str(each["last_exit"]),
        ]
        for each in actors
    ]
    headings = ("NAMESPACE", "ACTOR", "STATE", "MAILBOX", "HANDLED", "RESTARTS", "LAST EXIT")
    show_table(
        headings,
        rows,
        empty="no actors run; deploy one: plexspaces deploy FILE --type TYPE",
        dispensable=("HANDLED", "MAILBOX", "RESTARTS"),
    )


def _all_actors(client: NodeClient, query: dict[str, str]) -> list[dict[str, Any]]:
    """Every page of the list."""
    actors: list[dict[str, Any]] = []
    while True:
        page = client.call("GET", "/api/v1/actors", query=query)
        actors += page["actors"]
        if "next" not in page:
            return actors
        query = {**query, "after": page["next"]}


@click.command(context_settings=_AS_TYPED)
@click.argument("actor")
@click.argument("operation")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@address_options
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.001), default=30.0, help="Seconds to wait.")
@json_option
def ask(
    actor: str, operation: str, arguments: tuple[str, ...], namespace: str, tenant: str | None, timeout_s: float
) -> None:
    """Send OPERATION to ACTOR (`type` or `type/key`) and print the reply.

    \b
    plexspaces ask counter increment --amount 5
    plexspaces ask counter increment amount=5
    plexspaces ask counter increment '{"amount": 5}'
    echo '{"amount": 5}' | plexspaces ask counter increment -
    """
    client = NodeClient()
    reply = client.call(
        "POST",
        client.actor_path(actor, tenant=tenant, namespace=namespace),
        query={"wait": f"{timeout_s:g}"},
        body={**_parsed(arguments), "op": operation},
        timeout_s=timeout_s,
    )
    show_json(reply)


@click.command(context_settings=_AS_TYPED)
@click.argument("actor")
@click.argument("operation")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@address_options
@click.option("--id", "message_id", help="Your own id: the same id again is the same message.")
@json_option
def tell(
    actor: str,
    operation: str,
    arguments: tuple[str, ...],
    namespace: str,
    tenant: str | None,
    message_id: str | None,
) -> None:
    """Send OPERATION to ACTOR (`type` or `type/key`) and go on; prints the message's id."""
    client = NodeClient()
    answer = client.call(
        "POST",
        client.actor_path(actor, tenant=tenant, namespace=namespace),
        body={**_parsed(arguments), "op": operation},
        headers={"Idempotency-Key": message_id} if message_id else None,
    )
    if json_wanted():
        show_json(answer)
    else:
        click.echo(answer["message_id"])


@click.command()
@click.argument("actor")
@address_options
@json_option
def info(actor: str, namespace: str, tenant: str | None) -> None:
    """Show ACTOR (`type` or `type/key`): state, mailbox, restarts, last exit, operations."""
    client = NodeClient()
    answer = client.call("GET", client.actor_path(actor, tenant=tenant, namespace=namespace) + "/info")
    if json_wanted():
        show_json(answer)
        return
    shown = {name: value for name, value in answer.items() if name != "handlers"}
    for name, value in {**shown, "operations": operations(answer)}.items():
        click.echo(printable(f"{_HEADINGS.get(name, name.replace('_', ' ')):<20} {_plain(name, value)}"))


@click.command()
@click.argument("actor")
@address_options
@json_option
def stop(actor: str, namespace: str, tenant: str | None) -> None:
    """Stop ACTOR (`type` or `type/key`); it finishes the message it is handling.

    It stays down until it is restarted or deployed.
    """
    _end(actor, namespace, tenant, kill=False, done="stopped")


@click.command()
@click.argument("actor")
@address_options
@json_option
def kill(actor: str, namespace: str, tenant: str | None) -> None:
    """Stop ACTOR (`type` or `type/key`) at once, in the middle of whatever it does.

    It stays down until it is restarted or deployed.
    """
    _end(actor, namespace, tenant, kill=True, done="killed")


def _end(actor: str, namespace: str, tenant: str | None, *, kill: bool, done: str) -> None:
    client = NodeClient()
    path = client.actor_path(actor, tenant=tenant, namespace=namespace)
    answer = client.call("DELETE", path, query={"kill": "true"} if kill else None)
    if json_wanted():
        show_json(answer if answer is not None else {done: actor})
    else:
        click.echo(f"{done} {actor}")


@click.command()
@click.argument("actor", required=False)
@click.option("--app", "application", metavar="NAME", help="Restart the application NAME instead.")
@address_options
@json_option
def restart(actor: str | None, application: str | None, namespace: str, tenant: str | None) -> None:
    """Stop ACTOR (`type` or `type/key`), if it lives, and start it again; with --app, a whole application."""
    if (actor is None) == (application is None):
        raise click.UsageError("name an ACTOR, or an application with --app NAME")
    client = NodeClient()
    if application is not None:
        status = client.call("POST", application_path(application) + "/restart")
        if json_wanted():
            show_json(status)
        else:
            actors = count_text(status["actors"], "actor")
            click.echo(f"restarted application {application} ({status['state']}, {actors})")
        return
    assert actor is not None
    whole = actor if "/" in actor else f"{actor}/default"
    answer = client.call("POST", client.actor_path(whole, tenant=tenant, namespace=namespace) + "/restart")
    if json_wanted():
        show_json(answer if answer is not None else {"restarted": actor})
    else:
        click.echo(f"restarted {actor}")


def _parsed(words: tuple[str, ...]) -> dict[str, Any]:
    try:
        return parse_arguments(words, _read)
    except ArgumentError as error:
        raise click.UsageError(str(error)) from None


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise ArgumentError(f"cannot read {name}: {error.strerror}") from None


def _plain(name: str, value: Any) -> str:
    """A field's value on one line, for people."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False) if value else "-"
    if name == "started_ms":
        return datetime.fromtimestamp(value / 1000, UTC).astimezone().isoformat(sep=" ", timespec="seconds")
    return f"{value:.1f}" if isinstance(value, float) else str(value) or "-"
