"""How commands speak: results to stdout, everything else to stderr, JSON for machines, colour only on a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from ..build.findings import BuildFailed, Finding, Severity
from ..errors import PlexSpacesError
from .exits import Exit, exit_for


class CommandError(click.ClickException):
    """Ends a command: what went wrong, what to do next, and the exit status.

    Args:
        message: one sentence.
        hint: what to do next, "" if there is nothing.
        status: the exit status.
        code: stable, for machines.
        details: particulars for machines.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        status: Exit = Exit.FAILED,
        code: str = "failed",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.hint = hint
        self.code = code
        self.details = dict(details or {})
        # When it is shown, the command's context is gone.
        self._for_machines = json_wanted()

    def show(self, file: Any = None) -> None:
        if self._for_machines:
            error = {"code": self.code, "message": self.message, "hint": self.hint, "details": self.details}
            click.echo(json.dumps({"error": error}), err=True)
            return
        click.echo(click.style("error: ", fg="red", bold=True) + printable(self.message), err=True)
        if self.hint:
            click.echo(click.style("  try: ", fg="cyan") + printable(self.hint), err=True)


class FindingsError(CommandError):
    """A build's findings, one by one."""

    def __init__(self, failed: BuildFailed) -> None:
        super().__init__(failed.message, code="build-failed", details=failed.details)
        self.findings = failed.findings

    def show(self, file: Any = None) -> None:
        if self._for_machines:
            super().show(file)
            return
        for finding in self.findings:
            show_finding(finding)
        super().show(file)


def as_command_error(error: PlexSpacesError) -> CommandError:
    """An error of the runtime as one of the command line."""
    if isinstance(error, BuildFailed):
        return FindingsError(error)
    return CommandError(error.message, status=exit_for(error.code), code=error.code, details=error.details)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json` to a command; `json_wanted()` asks for it."""

    def remember(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
        ctx.meta["plexspaces.json"] = value or ctx.meta.get("plexspaces.json", False)
        return value

    return click.option(
        "--json", is_flag=True, expose_value=False, is_eager=True, callback=remember, help="Write JSON, for machines."
    )(command)


def json_wanted() -> bool:
    context = click.get_current_context(silent=True)
    return bool(context is not None and context.meta.get("plexspaces.json", False))


def on_terminal(stream: Any = None) -> bool:
    """Whether people look at this stream, stdout by default."""
    stream = stream or sys.stdout
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def show_finding(finding: Finding) -> None:
    """One finding, to stderr."""
    colour = "red" if finding.severity is Severity.ERROR else "yellow"
    label = click.style(f"{finding.severity.value}:", fg=colour, bold=True)
    click.echo(f"{click.style(finding.place, bold=True)}: {label} {finding.message}", err=True)
    if finding.remedy:
        click.echo(f"    {finding.remedy}", err=True)


def show_json(value: Any) -> None:
    """A value as JSON: one line for machines, indented and coloured on a terminal."""
    # To a reader of JSON an escaped character is the same; to a terminal it is not.
    raw = json.dumps(value, ensure_ascii=False)
    text = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in raw)
    if json_wanted() or not on_terminal():
        click.echo(text)
        return
    from rich.console import Console

    # It reads and writes the text once more.
    Console().print_json(text, ensure_ascii=not raw.isprintable())


@dataclass(frozen=True, slots=True)
class Cell:
    """A table's cell with a style of its own on a terminal, in Rich's words."""

    text: str
    style: str = ""


_STATE_STYLES = {
    "running": "green",
    "idle": "green",
    "busy": "cyan",
    "waiting": "cyan",
    "offloaded": "cyan",
    "starting": "yellow",
    "restarting": "yellow",
    "stopping": "yellow",
    "failed": "bold red",
    "stopped": "dim",
    "dead": "dim",
}


def state_cell(text: str, state: str | None = None) -> Cell:
    """A state, coloured by what it means; `state` is its word where `text` says more."""
    return Cell(text, _STATE_STYLES.get(state or text, ""))


# What the last column, which gives way to the others, is to keep where it has that much to say.
_LAST_COLUMN_CHARACTERS: Final = 24
_GAP: Final = "  "


def show_table(
    columns: Sequence[str], rows: Sequence[Sequence[str | Cell]], *, empty: str, dispensable: Sequence[str] = ()
) -> None:
    """Rows under headings, if there are any; plain columns where nobody looks.

    Args:
        empty: said, to stderr, where there are no rows.
        dispensable: the columns that are left out of a terminal too narrow for all, the first of these first.
    """
    if not rows:
        click.echo(empty, err=True)
        return
    cells = [[_printable(cell if isinstance(cell, Cell) else Cell(cell)) for cell in row] for row in rows]
    if on_terminal():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console()
        table = Table(box=None, pad_edge=False, header_style="bold", show_header=bool(columns))
        headings = columns or [""] * len(cells[0])
        widths = [max(len(name), *(len(row[i].text) for row in cells)) for i, name in enumerate(headings)]
        kept, left_out = _fitting(headings, widths, dispensable, console.width)
        # A row is a line: where there is not room for all, the last column gives way.
        last = kept[-1]
        room = console.width - sum(widths[number] + len(_GAP) for number in kept[:-1])
        widths[last] = max(min(widths[last], room), len(headings[last]), 1)
        for number in kept:
            table.add_column(headings[number], width=widths[number], no_wrap=True, overflow="ellipsis")
        for row in cells:
            shown = (row[number] for number in kept)
            table.add_row(*(Text(cell.text, cell.style, no_wrap=True, overflow="ellipsis") for cell in shown))
        console.print(table)
        if left_out:
            note = f"no room for {', '.join(left_out)}: --json has all, a wider terminal too"
            console.print(Text(note, "dim"))
        return
    texts = [*([list(columns)] if columns else []), *([cell.text for cell in row] for row in cells)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))]
    for line in texts:
        click.echo(_GAP.join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _fitting(
    headings: Sequence[str], widths: Sequence[int], dispensable: Sequence[str], room: int
) -> tuple[list[int], list[str]]:
    """The columns that fit, and the names of those that do not."""
    kept, left_out = list(range(len(headings))), []
    for name in dispensable:
        needed = sum(widths[number] + len(_GAP) for number in kept[:-1]) + min(widths[-1], _LAST_COLUMN_CHARACTERS)
        if needed <= room:
            break
        kept.remove(headings.index(name))
        left_out.append(name)
    return kept, left_out


_CELL_CHARACTERS_MAX = 200


def printable(text: str) -> str:
    """What comes from an actor must not steer the operator's terminal: everything but line ends is made visible."""
    return "".join(c if c.isprintable() or c == "\n" else " " if c.isspace() else "�" for c in text)


def _printable(cell: Cell) -> Cell:
    """A line of a table stays one, and does not fill the terminal."""
    text = printable(cell.text).replace("\n", " ")
    if len(text) > _CELL_CHARACTERS_MAX:
        text = text[: _CELL_CHARACTERS_MAX - 1] + "…"
    return Cell(text, cell.style)


def count_text(count: int, noun: str) -> str:
    """`1 actor`, `2 actors`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def bytes_text(count: int) -> str:
    """A size as people write it."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


@contextlib.contextmanager
def phases(quiet: bool = False) -> Iterator[Callable[[str, str], None]]:
    """Yields `begin(phase, text)`: on a terminal a live line with the time passed, else one line each, on stderr."""
    if quiet or json_wanted():
        yield lambda phase, text: None
        return
    if not on_terminal(sys.stderr):
        yield lambda phase, text: click.echo(f"{phase:<8} {text}", err=True)
        return
    live: Any = None
    task: Any = None

    def begin(phase: str, text: str) -> None:
        nonlocal live, task
        if phase == "check":
            # An unchanged actor is done before anybody could read this.
            return
        if live is None:
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            console = Console(stderr=True)
            columns = (SpinnerColumn(), TextColumn("[bold]{task.description}"), TimeElapsedColumn())
            live = Progress(*columns, console=console, transient=True)
            live.start()
            task = live.add_task("")
        live.reset(task, description=f"{phase} {text}")

    try:
        yield begin
    finally:
        if live is not None:
            live.stop()
