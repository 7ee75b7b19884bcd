"""`plexspaces build`: an actor's source in, a component out."""

from __future__ import annotations

from pathlib import Path

import click

from ...build import build as build_component
from ...build.builder import BuildResult
from ..output import bytes_text, json_option, json_wanted, phases, show_finding, show_json


@click.command(epilog="A directory is a package, or holds one module with actors.  Unchanged sources build at once.")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="The file to write [default: SOURCE.wasm]."
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but mistakes.")
@json_option
def build(source: Path, output: Path | None, quiet: bool) -> None:
    """Compile SOURCE, an actor's Python file or directory, to a sealed WebAssembly component.

    Every mistake in the actor is reported at once, with file, line and what to do, before anything is compiled.
    Pure-Python packages that it imports come along.
    """
    output = output or default_output(source)
    result = build_with_phases(source, output, quiet=quiet)
    if json_wanted():
        show_json(result.to_json())
    elif not quiet:
        how = "unchanged" if result.cached else "built"
        size = bytes_text(result.size_bytes)
        click.echo(f"{output}  {size}  sha256:{result.sha256[:16]}  ({how} in {result.elapsed_s:.1f} s)")


def default_output(source: Path) -> Path:
    """`counter_actor.py` becomes `counter_actor.wasm`, here."""
    return Path(source.absolute().stem + ".wasm")


def build_with_phases(source: Path, output: Path, *, quiet: bool = False) -> BuildResult:
    """Build, showing the phases and then the warnings."""
    with phases(quiet) as begin:
        result = build_component(source, output, progress=lambda step: begin(step.phase, step.text))
    if not quiet and not json_wanted():
        for finding in result.warnings:
            show_finding(finding)
    return result
