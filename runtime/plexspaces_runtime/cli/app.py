"""The group of commands.  Each lives in a module that is imported only when it is called, so that all start fast."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from ..errors import PlexSpacesError
from .exits import MEANINGS, Exit
from .output import CommandError, as_command_error

# Command: (module, one line for the list).
COMMANDS = {
    "init": ("init", "Begin a new actor project, with a test."),
    "build": ("build", "Compile an actor to a sealed WebAssembly component."),
    "serve": ("serve", "Run a node."),
    "deploy": ("deploy", "Put an application or an actor on the node, built on the way."),
    "undeploy": ("deploy", "Take an application or an actor type off the node."),
    "apps": ("apps", "List the applications, or show one."),
    "ps": ("actors", "List the actors that run."),
    "tree": ("apps", "Draw the supervision trees."),
    "links": ("links", "List the ways out, and how they fare."),
    "ask": ("actors", "Send a message and print the reply."),
    "tell": ("actors", "Send a message and go on."),
    "info": ("actors", "Show one actor: state, mailbox, restarts, last exit."),
    "stop": ("actors", "Stop one actor after its message; it stays down."),
    "kill": ("actors", "Stop one actor at once; it stays down."),
    "restart": ("actors", "Start one actor, or an application, again."),
    "chat": ("chat", "Talk to MiniClaw, with its tools, in the terminal or a browser."),
    "approvals": ("approvals", "List, approve and reject what agents may not do alone."),
    "streams": ("streams", "List, read, follow and append to event streams."),
    "workflows": ("workflows", "List, start, watch, signal and cancel long runs."),
    "promises": ("workflows", "List and resolve what runs wait for."),
    "dead-letters": ("dead_letters", "List, retry and drop messages that nobody could handle."),
    "grants": ("grants", "Show what an actor type may do, and the least it needs."),
    "journal": ("journal", "Read and verify what durable actors have recorded."),
    "secret": ("secret", "Set, list and remove what links need to know and nobody else."),
    "token": ("token", "Print the local token, or make another."),
    "completion": ("completion", "Print the completion script for your shell."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__package__}.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], list(COMMANDS), n=1)
            if close and "Did you mean" not in error.message:
                raise click.UsageError(f"{error.message} Did you mean {close[0]!r}?", ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # The list of commands must not import them all.
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])
        with formatter.section("Exit status"):
            formatter.write_dl([(str(int(status)), text) for status, text in MEANINGS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PlexSpacesError as error:
            raise as_command_error(error) from error


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"plexspaces {version('plexspaces')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
def cli() -> None:
    """Supervised actors, written in Python, sandboxed as WebAssembly.

    \b
    Begin:  plexspaces serve                                    (in another terminal)
            plexspaces init hello && cd hello
            plexspaces deploy hello_actor.py
            plexspaces ask hello increment amount=5
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Parse and do; returns the exit status.

    Args:
        arguments: what stands after the command's name; the process's own if None.
    """
    try:
        status = cli.main(arguments, standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        return Exit.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.status if isinstance(error, CommandError) else error.exit_code
    except BrokenPipeError:
        # `plexspaces ps | head`: nobody reads on, and that is no error.  The interpreter would flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except Exception as error:  # noqa: BLE001 - the command line's last resort
        place = traceback.extract_tb(error.__traceback__)[-1]
        CommandError(
            f"{type(error).__name__}: {str(error)[:200]} (in {os.path.basename(place.filename)}, line {place.lineno}): "
            "the node's answer was not understood, or this is a fault of plexspaces",
            "plexspaces --version here and where the node runs; the same version of both",
            code="internal",
        ).show()
        return Exit.FAILED
    return status if isinstance(status, int) else Exit.OK
