"""`secret set|ls|rm|rotate|reset`: what links need to know and nobody else should."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from ...config import default_data_dir
from ..client import NodeClient
from ..output import Cell, CommandError, count_text, json_option, json_wanted, on_terminal, show_json, show_table

_PATH = "/api/v1/secrets"
# More than any node takes: what is longer is refused there, with the node's own words.
_READ_BYTES_MAX = 2 << 20


@click.group()
def secret() -> None:
    """Secrets of the tenant: the node puts them into requests through links, and shows them to nobody."""


@secret.command(name="set")
@click.argument("name")
@json_option
def set_(name: str) -> None:
    """Keep a secret, in place of the one of that name.

    The value is read from standard input, or asked for on a terminal without being shown.  There is no option for it:
    arguments are visible to every process of the machine, and stay in the shell's history.

    \b
    plexspaces secret set openai
    plexspaces secret set openai < key.txt
    """
    value = _asked(name) if on_terminal(sys.stdin) else _read()
    answer = NodeClient().call("PUT", _path(name), body={"value": value})
    if json_wanted():
        show_json(answer)
        return
    click.echo(f"{name} is set, version {answer['version']}")
    if not answer["links"]:
        click.echo(f"no link uses it yet: a link names it as ${{secret:{name}}}", err=True)


@secret.command()
@json_option
def ls() -> None:
    """List secrets: versions, when they were set and by whom, and which links use them.  Values are not shown."""
    found = NodeClient().call("GET", _PATH)["secrets"]
    if json_wanted():
        show_json(found)
        return
    rows: list[list[str | Cell]] = [
        [
            Cell(str(each["name"]), "bold"),
            str(each["version"]),
            datetime.fromtimestamp(each["set_ms"] / 1_000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            str(each["set_by"]),
            ", ".join(each["links"]) or "-",
        ]
        for each in found
    ]
    show_table(("NAME", "VERSION", "SET", "BY", "LINKS"), rows, empty="no secrets", dispensable=("BY", "VERSION"))


@secret.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@json_option
def rm(names: tuple[str, ...]) -> None:
    """Forget secrets.  Requests through links that name them are refused from then on."""
    client = NodeClient()
    for name in names:
        client.call("DELETE", _path(name))
        if not json_wanted():
            click.echo(f"removed {name}")
    if json_wanted():
        show_json({"removed": list(names)})


@secret.command()
@json_option
def rotate() -> None:
    """Replace the node's master key.  Values stay as they are; to replace one of those, set it again."""
    answer = NodeClient().call("POST", "/api/v1/secret-key/rotate")
    if json_wanted():
        show_json(answer)
    else:
        click.echo(f"the secrets are under a new master key, {answer['fingerprint']}; back up the key file anew")


@secret.command()
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="The node's data directory.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def reset(data_dir: Path | None, yes: bool) -> None:
    """Forget all secrets of a node that is stopped: for a master key that is lost."""
    folder = data_dir or default_data_dir()
    if not (folder / "plexspaces.db").exists():
        raise CommandError(f"there is no database in {folder}", "plexspaces secret reset --data-dir DIR")
    if not yes:
        click.confirm(f"Forget every secret and phantom token of every tenant in {folder}?", abort=True, err=True)
    with _sole_use_of(folder):
        secrets, tokens = _forget(folder)
    if json_wanted():
        show_json({"secrets": secrets, "phantom_tokens": tokens})
    else:
        click.echo(f"forgot {count_text(secrets, 'secret')} and {count_text(tokens, 'phantom token')}")


def _forget(folder: Path) -> tuple[int, int]:
    from ...stores.database import connect

    connection: Any = connect(folder / "plexspaces.db")
    try:
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("BEGIN IMMEDIATE")
        gone = [
            connection.execute(f"DELETE FROM {table}").rowcount for table in ("secrets", "credentials", "vault_keys")
        ]
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise CommandError(
            f"{folder / 'plexspaces.db'} cannot be changed: {error}", "start a node on it once"
        ) from None
    finally:
        connection.close()
    return gone[0], gone[1]


@contextlib.contextmanager
def _sole_use_of(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(f"a node uses the data directory {folder}", "stop it first") from None
        yield


def _path(name: str) -> str:
    return f"{_PATH}/{quote(name, safe='')}"


def _asked(name: str) -> str:
    value: str = click.prompt(f"Value of {name}", hide_input=True, confirmation_prompt="The same again", err=True)
    return value


def _read() -> str:
    raw = sys.stdin.buffer.read(_READ_BYTES_MAX)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise CommandError(
            "standard input is not UTF-8 text, and a secret is", "base64 it, if the service takes it so"
        ) from None
    value = text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
    if value != text:
        click.echo("the line break at the end was left out", err=True)
    if not value:
        raise CommandError("standard input is empty", "plexspaces secret set NAME < FILE")
    return value
