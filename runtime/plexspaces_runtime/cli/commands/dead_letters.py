"""`dead-letters ls|retry|drop`: messages that nobody could handle, and what becomes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import click

from ..client import NodeClient
from ..output import Cell, CommandError, count_text, json_option, json_wanted, show_json, show_table

_PATH = "/api/v1/dead-letters"
_PAGE = "100"


def _namespace(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-n", "--namespace", default="default", show_default=True, envvar="PLEXSPACES_NAMESPACE", help="The namespace."
    )(command)


def _source(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--source", metavar="NAME", help="Only those of this channel or actor.")(command)


def _which(command: Callable[..., Any]) -> Callable[..., Any]:
    command = _source(_namespace(json_option(command)))
    command = click.option("--all", "everything", is_flag=True, help="All there are, or all of --source.")(command)
    return click.argument("ids", nargs=-1, metavar="[ID]...")(command)


@click.group(name="dead-letters")
def dead_letters() -> None:
    """Messages that are not delivered any more, because nobody could handle them."""


@dead_letters.command()
@_source
@_namespace
@json_option
def ls(source: str | None, namespace: str) -> None:
    """List dead letters, oldest first; with --json with their payloads, one object a line."""
    letters = _letters(NodeClient(), namespace, source)
    if json_wanted():
        for letter in letters:
            click.echo(json.dumps(letter))
        return
    rows: list[list[str | Cell]] = [
        [
            str(each["id"]),
            Cell(str(each["source"]), "bold"),
            str(each["msg_type"]),
            str(each["deliveries"]),
            _time(each["dead_ms"]),
            str(each["reason"]),
        ]
        for each in letters
    ]
    headings = ("ID", "SOURCE", "TYPE", "TRIED", "SINCE", "REASON")
    show_table(headings, rows, empty="no dead letters", dispensable=("TRIED", "TYPE", "SINCE"))


@dead_letters.command()
@_which
def retry(ids: tuple[str, ...], everything: bool, source: str | None, namespace: str) -> None:
    """Deliver dead letters again, as if for the first time.

    \b
    plexspaces dead-letters retry message-7 message-9
    plexspaces dead-letters retry --all --source orders
    """
    _each(ids, everything, source, namespace, "POST", "/retry", "retried")


@dead_letters.command()
@_which
def drop(ids: tuple[str, ...], everything: bool, source: str | None, namespace: str) -> None:
    """Delete dead letters, payloads and all.

    \b
    plexspaces dead-letters drop message-7 message-9
    plexspaces dead-letters drop --all --source orders
    """
    _each(ids, everything, source, namespace, "DELETE", "", "dropped")


def _each(
    ids: tuple[str, ...], everything: bool, source: str | None, namespace: str, method: str, suffix: str, done: str
) -> None:
    if bool(ids) == everything:
        raise click.UsageError("name the dead letters by their IDs, or say --all")
    if source is not None and not everything:
        raise click.UsageError("--source goes with --all: an ID says all there is to say")
    client, changed = NodeClient(), 0
    with client.together():
        # Found before anything is done: one that dies again meanwhile is not tried again and again.
        for each in ids or [str(letter["id"]) for letter in _letters(client, namespace, source)]:
            try:
                client.call(method, f"{_PATH}/{quote(each, safe='')}{suffix}", query={"namespace": namespace})
            except CommandError as error:
                if everything and error.code == "not-found":
                    # Somebody else was faster.
                    continue
                before = f" ({count_text(changed, 'dead letter')} {done} before)" if changed else ""
                raise CommandError(
                    error.message + before, error.hint, error.status, error.code, {**error.details, done: changed}
                ) from None
            changed += 1
            if ids and not json_wanted():
                click.echo(f"{done} {each}")
    if json_wanted():
        show_json({done: changed})
    elif everything:
        click.echo(f"{done} {count_text(changed, 'dead letter')}")


def _letters(client: NodeClient, namespace: str, source: str | None) -> Iterator[dict[str, Any]]:
    """Every page of the list."""
    query = {"namespace": namespace, "limit": _PAGE, **({"source": source} if source is not None else {})}
    while True:
        page = client.call("GET", _PATH, query=query)
        yield from page["dead_letters"]
        if "next" not in page:
            return
        query["after"] = page["next"]


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1_000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
