"""`streams ls|cat|tail|append|pause|resume`: event streams, as one meets files."""

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
from ..output import Cell, CommandError, bytes_text, json_option, json_wanted, show_json, show_table, state_cell

_PAGE = 1_000
_AS_TYPED = {"ignore_unknown_options": True, "allow_interspersed_args": True}


def _namespace(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-n", "--namespace", default="default", show_default=True, envvar="PLEXSPACES_NAMESPACE", help="The namespace."
    )(command)


@click.group()
def streams() -> None:
    """Event streams: append-only logs under paths such as /sessions/abc."""


@streams.command()
@click.argument("prefix", default="")
@_namespace
@json_option
def ls(prefix: str, namespace: str) -> None:
    """List the streams whose path begins with PREFIX."""
    client, query = NodeClient(), {"namespace": namespace, "prefix": prefix}
    found: list[dict[str, Any]] = []
    while True:
        page = client.call("GET", "/api/v1/streams", query=query)
        found += page["streams"]
        if "next" not in page:
            break
        query["after"] = page["next"]
    if json_wanted():
        show_json({"streams": found})
        return
    rows: list[list[str | Cell]] = [
        [
            str(each["path"]),
            str(each["last"] - each["first"] + 1),
            str(each["last"]),
            bytes_text(int(each["bytes"])),
            state_cell(str(each["flow"]), "running" if each["flow"] == "flowing" else "stopping"),
            _time(each["modified_ms"]),
        ]
        for each in found
    ]
    headings = ("PATH", "EVENTS", "LAST", "SIZE", "FLOW", "MODIFIED")
    show_table(headings, rows, empty="no streams; begin one: plexspaces streams append /hello note text=hi")


@streams.command()
@click.argument("path")
@_namespace
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only events behind this offset.")
@json_option
def cat(path: str, namespace: str, after: int) -> None:
    """Print every event of a stream, oldest first; with --json one object a line."""
    for event in _read(NodeClient(), path, namespace, after):
        _show(event)


@streams.command()
@click.argument("path")
@_namespace
@click.option(
    "-c", "--count", type=click.IntRange(min=0), default=10, show_default=True, help="How many to begin with."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@json_option
def tail(path: str, namespace: str, count: int, follow: bool) -> None:
    """Print the last events of a stream; with --json one object a line."""
    client = NodeClient()
    try:
        last = int(client.call("GET", _path(path), query={"namespace": namespace, "limit": "1"})["last"])
    except CommandError as error:
        if not follow or error.code != "not-found":
            raise
        # One may wait for a stream that has not begun.
        last = 0
    after = max(0, last - count)
    events = client.follow(_path(path), query={"namespace": namespace}, after=after) if follow else None
    for event in events if events is not None else _read(client, path, namespace, after):
        _show(event)


@streams.command(context_settings=_AS_TYPED)
@click.argument("path")
@click.argument("event_type")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@_namespace
@click.option("--id", "key", help="An idempotency key: the same one again appends nothing.")
@json_option
def append(path: str, event_type: str, arguments: tuple[str, ...], namespace: str, key: str | None) -> None:
    """Append an event of EVENT_TYPE; prints its offset.

    \b
    plexspaces streams append /sessions/abc note text=hello n=5
    plexspaces streams append /sessions/abc note '{"text": "hello", "n": 5}'
    """
    answer = NodeClient().call(
        "POST",
        _path(path),
        query={"namespace": namespace},
        body={"event_type": event_type, "payload": _parsed(arguments)},
        headers={"Idempotency-Key": key} if key else None,
    )
    if reason := answer.get("reason"):
        raise CommandError(
            f"this is no event ({reason}); the stream has an event of type 'error' at {answer['offset']} instead",
            f"plexspaces streams cat {path} --after {answer['offset'] - 1}",
            code="invalid-event",
            details=answer,
        )
    if json_wanted():
        show_json(answer)
    else:
        click.echo(answer["offset"])


@streams.command()
@click.argument("path")
@_namespace
@json_option
def pause(path: str, namespace: str) -> None:
    """Let a stream take no appends until it is resumed."""
    _change(path, namespace, "held")


@streams.command()
@click.argument("path")
@_namespace
@json_option
def resume(path: str, namespace: str) -> None:
    """Let a paused stream go on."""
    _change(path, namespace, "flowing")


def _change(path: str, namespace: str, flow: str) -> None:
    answer = NodeClient().call("PATCH", _path(path), query={"namespace": namespace}, body={"flow": flow})
    if json_wanted():
        show_json(answer)
    else:
        click.echo(f"{answer['path']} is {answer['flow']}")


def _path(path: str) -> str:
    if not path.startswith("/"):
        raise click.UsageError(f"a stream's path begins with '/': write /{path}")
    return "/api/v1/streams" + quote(path)


def _read(client: NodeClient, path: str, namespace: str, after: int) -> Iterator[dict[str, Any]]:
    while True:
        query = {"namespace": namespace, "after": str(after), "limit": str(_PAGE)}
        page = client.call("GET", _path(path), query=query)
        yield from page["events"]
        if len(page["events"]) < _PAGE:
            return
        after = page["next"]


def _show(event: dict[str, Any]) -> None:
    if json_wanted():
        line = json.dumps(event)
    else:
        payload = json.dumps(event["payload"], ensure_ascii=False)
        line = f"{event['offset']:>6}  {_time(event['time_ms'])}  {event['event_type']:<12} {payload}"
        # What an actor wrote must not steer the operator's terminal.
        line = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in line)
    click.echo(line)
    sys.stdout.flush()


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1_000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _parsed(words: tuple[str, ...]) -> dict[str, Any]:
    def read(name: str) -> str:
        try:
            return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise click.UsageError(f"cannot read {name}: {error.strerror}") from None

    try:
        return parse_arguments(words, read)
    except ArgumentError as error:
        raise click.UsageError(str(error)) from None
