"""`grants`: what an actor type may do, what it was refused, and the smallest list for what it was seen to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from ..client import NodeClient
from ..output import CommandError, count_text, json_option, json_wanted, show_json
from .deploy import begin_to_observe


@click.command()
@click.argument("actor_type", metavar="TYPE")
@click.option(
    "-n", "--namespace", default="default", show_default=True, envvar="PLEXSPACES_NAMESPACE", help="The namespace."
)
@click.option("--observe", is_flag=True, help="Keep what its actors use, from now on.")
@click.option("--stop", is_flag=True, help="End that, after it has been shown.")
@click.option("--write", "file", type=click.Path(path_type=Path), help="Write the smallest list to FILE.")
@json_option
def grants(actor_type: str, namespace: str, observe: bool, stop: bool, file: Path | None) -> None:
    """Show what TYPE may do; of one that is observed, the smallest list of capabilities for what it did.

    \b
    plexspaces deploy --observe agent.py      from its first instruction on
    plexspaces grants agent                   after it has done all that it is for
    plexspaces grants agent --write agent-grants.toml --stop
    """
    client = NodeClient()
    path = f"/api/v1/grants/{quote(namespace, safe='')}/{quote(actor_type, safe='')}"
    if observe:
        begin_to_observe(client, namespace, [actor_type])
    report = client.call("GET", path)
    if file is not None:
        _write(file, report)
    if stop:
        client.call("DELETE", f"{path}/observe")
    if json_wanted():
        show_json(report)
        return
    click.echo(f"granted   {', '.join(report['granted']) or '-'}")
    for entry, times in report["refused"].items():
        click.echo(f"refused   {entry} ({count_text(times, 'time')})")
    if not report["observed"]:
        click.echo(f"not observed; begin with: plexspaces grants {actor_type} --observe")
        return
    used = ", ".join(f"{name} ({count_text(calls, 'call')})" for name, calls in report["calls"].items())
    click.echo(f"used      {used or 'nothing so far'}")
    click.echo(f"smallest  {report['line']}")
    for name in report["not_all_names"]:
        click.echo(f"          {name} is for any name: there were too many, or some that no entry can have")
    if file is not None:
        click.echo(f"written to {file}")


def _write(file: Path, report: dict[str, Any]) -> None:
    if not report["observed"]:
        raise CommandError(
            f"{report['actor_type']} is not observed, so there is nothing to write",
            f"plexspaces grants {report['actor_type']} --observe, and then let it do all that it is for",
        )
    calls = count_text(sum(report["calls"].values()), "host call")
    text = f"# The least that actor type {report['actor_type']!r} needs for what it was seen to do in {calls}.\n"
    for name in report["not_all_names"]:
        text += f"# {name} is for any name: there were too many, or some that no entry can have.\n"
    try:
        file.write_text(f"{text}{report['line']}\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{file}: cannot be written: {error.strerror}", "choose another FILE") from None
