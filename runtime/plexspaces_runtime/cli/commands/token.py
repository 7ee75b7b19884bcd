"""`plexspaces token`: the local token, and others signed by the node's own key."""

from __future__ import annotations

import re
from pathlib import Path

import click

from ...config import default_data_dir
from ..exits import Exit
from ..output import CommandError, json_option, json_wanted, show_json

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def duration_s(text: str) -> int:
    """`90s`, `30m`, `12h`, `7d` as seconds."""
    match = re.fullmatch(r"(\d+)([smhd])", text)
    if not match or int(match[1]) == 0:
        raise click.BadParameter(f"{text!r} is no duration: write 90s, 30m, 12h or 7d")
    return int(match[1]) * _UNITS_S[match[2]]


@click.command()
@click.option("--tenant", help="Make a token for this tenant.")
@click.option("--subject", help="Make a token for this person or program.")
@click.option("--role", "roles", multiple=True, help="Make a token with this role; may be given several times.")
@click.option("--scope", "scopes", multiple=True, help="Make a token with this scope; may be given several times.")
@click.option(
    "--ttl", "ttl_s", type=duration_s, metavar="DURATION", help="Make a token that holds so long: 90s, 30m, 12h, 7d."
)
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="The node's data directory.")
@json_option
def token(
    tenant: str | None,
    subject: str | None,
    roles: tuple[str, ...],
    scopes: tuple[str, ...],
    ttl_s: int | None,
    data_dir: Path | None,
) -> None:
    """Print the local token.  With any of the options, print a new one, signed with the local node's key.

    A token without one of the roles viewer, operator, deployer and admin may send messages, and little else.
    """
    folder = data_dir or default_data_dir()
    if tenant is None and subject is None and not roles and not scopes and ttl_s is None:
        text = _local(folder)
    else:
        from ..serving import mint

        text = mint(_existing(folder), tenant=tenant, subject=subject, roles=roles, ttl_s=ttl_s, scopes=scopes)
    if json_wanted():
        show_json({"token": text})
    else:
        click.echo(text)


def _local(folder: Path) -> str:
    try:
        return (folder / "token").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise _no_token(folder) from None
    except PermissionError as error:
        raise CommandError(
            f"{folder / 'token'} belongs to somebody else", "set PLEXSPACES_TOKEN", Exit.NOT_ALLOWED
        ) from error


def _existing(folder: Path) -> Path:
    # Minting must not begin a new authority in a mistyped directory: no node would believe its tokens.
    if not (folder / "keys").is_dir():
        raise _no_token(folder)
    return folder


def _no_token(folder: Path) -> CommandError:
    return CommandError(
        f"there is no token in {folder}: no node has been started on this data directory",
        "plexspaces serve, which makes one; or name the directory: plexspaces token --data-dir DIR",
        Exit.NOT_ALLOWED,
        "unauthenticated",
    )
