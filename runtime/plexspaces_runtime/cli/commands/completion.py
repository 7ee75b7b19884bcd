"""`plexspaces completion`: the script that teaches a shell our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_HOW = {
    "bash": 'eval "$(plexspaces completion bash)"       # in ~/.bashrc',
    "zsh": 'eval "$(plexspaces completion zsh)"        # in ~/.zshrc',
    "fish": "plexspaces completion fish | source        # in ~/.config/fish/config.fish",
}


@click.command(epilog="  ".join(_HOW.values()))
@click.argument("shell", type=click.Choice(sorted(_HOW)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    found = get_completion_class(shell)
    assert found is not None
    root = ctx.find_root()
    for name in ("plexspaces", "plexspaces-py"):
        variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
        click.echo(found(root.command, {}, name, variable).source())
