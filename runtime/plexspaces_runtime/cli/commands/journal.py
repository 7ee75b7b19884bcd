"""`journal ls|show|verify|recover`: what durable actors have recorded, and the way out when it cannot be replayed."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from ..client import NodeClient
from ..output import (
    Cell,
    CommandError,
    bytes_text,
    count_text,
    json_option,
    json_wanted,
    on_terminal,
    printable,
    show_json,
    show_table,
)

_PATH: Final = "/api/v1/journals"
_PAGE: Final = "200"
_WIDTH: Final = 80
# A recovery stops an actor that may be in the middle of a message.
_RECOVER_S: Final = 60.0
_MARKS: Final = {
    "reply": "=>",
    "refusal": "refused",
    "crash": "CRASHED",
    "later": "answers later",
    "done": "done",
    "": "in flight",
}


def _namespace(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-n", "--namespace", default="default", show_default=True, envvar="PLEXSPACES_NAMESPACE", help="The namespace."
    )(command)


def _offline(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--tenant", help="With --data-dir: whose [default: everybody's].")(command)
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        help="Read the files of a node that is stopped, instead of asking one that runs.",
    )(command)


@click.group()
def journal() -> None:
    """What durable actors have recorded."""


@journal.command()
@click.option("-n", "--namespace", envvar="PLEXSPACES_NAMESPACE", help="Only this namespace.")
@json_option
def ls(namespace: str | None) -> None:
    """List the durable actors."""
    found = list(_journals(NodeClient(), namespace))
    if json_wanted():
        show_json({"journals": found})
        return
    rows: list[list[str | Cell]] = [
        [
            each["namespace"],
            Cell(_name(each), "bold"),
            f"{each['first']}-{each['last']}",
            str(each["checkpoint"]),
            bytes_text(each["state_bytes"]),
            str(each["waiting"]),
            str(each["timers"]),
            Cell(str(each["dead"]), "red" if each["dead"] else ""),
        ]
        for each in found
    ]
    headings = ("NAMESPACE", "ACTOR", "ENTRIES", "CHECKPOINT", "STATE", "WAITING", "TIMERS", "DEAD")
    show_table(headings, rows, empty='no durable actors; an actor becomes one with @actor(facets=["durability"])')


@journal.command()
@click.argument("actor")
@_namespace
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only what is behind this entry.")
@click.option("--last", type=click.IntRange(min=1), help="Only so many messages and checkpoints, the latest.")
@json_option
def show(actor: str, namespace: str, after: int, last: int | None) -> None:
    """Explain the history of ACTOR (type or type/key): with --json one object a line, in full.

    Each message is shown with the numbers of its entries, when its turn came, who sent it, what it asked of the host
    and got, and how it ended.
    """
    client = NodeClient()
    told = _history(client, _path(client, actor, namespace), after)
    if last is not None:
        told = iter(list(told)[-last:])
    lines = None
    for lines in map(_lines, told):
        for line in lines:
            click.echo(line)
    if lines is None and not json_wanted():
        click.echo("nothing is recorded there", err=True)


@journal.command()
@click.argument("actor", required=False)
@_namespace
@_offline
@json_option
def verify(actor: str | None, namespace: str, data_dir: Path | None, tenant: str | None) -> None:
    """Walk along the chain of hashes of ACTOR's journal, or of all, and name the first entry that is not as written.

    \b
    plexspaces journal verify account
    plexspaces journal verify --data-dir ~/.local/share/plexspaces

    The exit status is 1 if something was found.
    """
    if tenant is not None and data_dir is None:
        raise click.UsageError("--tenant goes with --data-dir: a node's token says whose journals they are")
    if data_dir is not None:
        verdicts = _verdicts_offline(data_dir, tenant, actor, namespace)
    else:
        verdicts = _verdicts(NodeClient(), actor, namespace)
    if json_wanted():
        show_json({"journals": verdicts})
    else:
        for each in verdicts:
            told = "ok" if each["ok"] else f"NOT WHAT WAS WRITTEN: {each['problem']}"
            click.echo(f"{each['actor']}: {count_text(each['entries'], 'entry').replace('entrys', 'entries')}, {told}")
    bad = [each["actor"] for each in verdicts if not each["ok"]]
    if bad:
        raise CommandError(
            f"{len(bad)} of {count_text(len(verdicts), 'journal')} not as written: {', '.join(bad[:5])}",
            "restore the data directory from a backup, or plexspaces journal recover ACTOR",
            code="journal-damaged",
            details={"actors": bad},
        )
    if not verdicts and not json_wanted():
        click.echo("there are no journals", err=True)


@journal.command()
@click.argument("actor")
@_namespace
@click.option("--dead-letter", "remaining", flag_value="dead-letter", default=True, help="Keep them [default].")
@click.option("--redeliver", "remaining", flag_value="redeliver", help="Deliver those again that nobody waits for.")
@click.option("--accept-state", is_flag=True, help="Go on even if the state is not known to be what was written.")
@json_option
def recover(actor: str, namespace: str, remaining: str, accept_state: bool) -> None:
    """Let ACTOR go back to its last checkpoint, with the present code: the way out when it cannot be made again.

    The messages it handled since become dead letters, which can be looked at, retried or dropped one by one; with
    --redeliver those that nobody waits for are handled again at once, with all that they cause. Nothing is dropped.
    """
    client = NodeClient()
    done = client.call(
        "POST",
        _path(client, actor, namespace, keyed=True) + "/recover",
        query={"remaining": remaining, "accept_state": str(accept_state).lower()},
        timeout_s=_RECOVER_S,
    )
    if json_wanted():
        show_json(done)
        return
    click.echo(f"{actor} is back at checkpoint {done['checkpoint']}; entry {done['recorded']} says so")
    if done["damage"]:
        click.echo(printable(f"  the journal was damaged: {done['damage']}"))
    if done["set_aside"]:
        numbers = ", ".join(map(str, done["set_aside"][:10])) + (" ..." if len(done["set_aside"]) > 10 else "")
        click.echo(f"  set aside, in the table journal_aside of the node's database: entry {numbers}")
    for each in done["redelivered"]:
        click.echo(printable(f"  is delivered again: {each['op']} ({each['id']}); {each['end']}"))
    for each in done["dead_letters"]:
        click.echo(printable(f"  is dead letter {each['dead_letter']}: {each['op']} ({each['id']}); {each['end']}"))
    if not done["redelivered"] and not done["dead_letters"]:
        click.echo("  no message had been recorded after it")
    if done["started"]:
        click.echo(f"  it is up; messages that wait for it: {done['waiting']}")
    else:
        raise CommandError(
            f"{actor} is not up: {done['problem'] or 'nothing by that name is deployed'}",
            "plexspaces tree, to see what keeps it down",
            details=done,
        )


# -- a node that runs ---------------------------------------------------------------------------------------


def _path(client: NodeClient, actor: str, namespace: str, *, keyed: bool = False) -> str:
    parts = actor.split("/", 1)
    if keyed and len(parts) == 1:
        parts.append("default")
    return "/".join([_PATH, *(quote(part, safe="") for part in (client.target.tenant, namespace, *parts))])


def _journals(client: NodeClient, namespace: str | None) -> Iterator[dict[str, Any]]:
    query = {"limit": _PAGE, **({"namespace": namespace} if namespace is not None else {})}
    while True:
        page = client.call("GET", _PATH, query=query)
        yield from page["journals"]
        if "next" not in page:
            return
        query["after"] = page["next"]


def _history(client: NodeClient, path: str, after: int) -> Iterator[dict[str, Any]]:
    while True:
        page = client.call("GET", path, query={"after": str(after), "limit": _PAGE})
        yield from page["history"]
        if "next" not in page:
            return
        after = page["next"]


def _verdicts(client: NodeClient, actor: str | None, namespace: str) -> list[dict[str, Any]]:
    if actor is not None:
        wanted = [(namespace, actor)]
    else:
        wanted = [(each["namespace"], _name(each)) for each in _journals(client, None)]
    return [
        {"actor": f"{where}/{name}", **client.call("GET", _path(client, name, where, keyed=True) + "/verify")}
        for where, name in wanted
    ]


def _name(summary: dict[str, Any]) -> str:
    return str(summary["type"]) if summary["key"] == "default" else f"{summary['type']}/{summary['key']}"


# -- files --------------------------------------------------------------------------------------------------


def _verdicts_offline(data_dir: Path, tenant: str | None, actor: str | None, namespace: str) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from ...durability.journals import Reader
    from ...durability.offline import opened
    from ...scope import Address, Scope

    with opened(data_dir) as table:
        reader = Reader(table)
        tenants = table.tenants() if tenant is None else [tenant]
        if actor is not None:
            addresses = [Address.parse(Scope(each, namespace), actor) for each in tenants]
            addresses = [each for each in addresses if table.find(each) is not None] or addresses[:1]
        else:
            addresses = [address for each in tenants for address in table.addresses(each)]
        found = []
        for address in addresses:
            verdict = asyncio.run(reader.verify(address))
            found.append({"actor": str(address), "ok": verdict.ok, **asdict(verdict)})
        if actor is None:
            for durable, entries in table.orphans():
                problem = f"{entries} entries of number {durable}, which is no actor's: the actor's row was removed"
                found.append(
                    {"actor": f"(nobody, {durable})", "ok": False, "entries": entries, "number": 0, "problem": problem}
                )
        return found


# -- for people ---------------------------------------------------------------------------------------------


def _lines(told: dict[str, Any]) -> list[str]:
    if json_wanted():
        return [json.dumps(told, ensure_ascii=False)]
    width = shutil.get_terminal_size((_WIDTH, 24)).columns if on_terminal() else _WIDTH
    return [_fitted(line, width) for line in _told_lines(told)]


def _told_lines(told: dict[str, Any]) -> Iterator[str]:
    match told["what"]:
        case "checkpoint":
            when = f"#{told['number']:<6} {_time(told['at_ms'])}"
            yield f"{when}  -- checkpoint, component {told['component'][:12]}"
            if told["back_to"]:
                yield f"          an operator let it go back to the state of checkpoint {told['back_to']}"
        case "unreadable":
            yield f"#{told['number']:<6} cannot be read ({told['kind']}): plexspaces journal verify says more"
        case "message":
            yield from _message_lines(told)


def _message_lines(told: dict[str, Any]) -> Iterator[str]:
    numbers = str(told["first"]) if told["first"] == told["last"] else f"{told['first']}-{told['last']}"
    yield f"#{numbers:<6} {_time(told['at_ms'])}  {told['op'] or told['kind']} {_json(told['payload'])}"
    whence = (told["sender"] or "outside") + (f", by {told['subject']}" if told["subject"] else "")
    cause = f", caused by {told['cause']}" if told["cause"] else ""
    attempt = f", attempt {told['attempt']}" if told["attempt"] > 1 else ""
    yield f"          {'told' if told['kept'] else 'asked'} from {whence}{attempt}; message {told['id']}{cause}"
    if told["reused"]:
        yield f"          the first {told['reused']} results are those of the attempt before"
    for call in told["calls"]:
        waited = f" (since {_time(call['began_ms'])})" if call["began_ms"] else ""
        yield f"          {call['function']} {call['request']} -> {_result(call['result'])}{waited}"
    if told["waits_since_ms"]:
        yield f"          waits since {_time(told['waits_since_ms'])}"
    yield f"       {_MARKS[told['end']]}{_outcome(told)}"


def _outcome(told: dict[str, Any]) -> str:
    outcome = told["outcome"]
    match told["end"]:
        case "reply":
            return f" {_json(outcome)}"
        case "refusal":
            return f" {outcome['code']}: {outcome['message']}"
        case "crash":
            return f" {outcome['exit']}: {outcome['message']}" + ("; it is tried again" if told["again"] else "")
        case _:
            return ""


def _result(result: Any) -> str:
    if isinstance(result, dict) and len(result) == 1:
        ((kind, value),) = result.items()
        if kind == "ok":
            return _json(value)
        if kind == "err":
            return f"error {_json(value)}"
    return _json(result)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _fitted(line: str, width: int) -> str:
    # What an actor wrote must not steer the operator's terminal.
    line = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in line)
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1_000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
