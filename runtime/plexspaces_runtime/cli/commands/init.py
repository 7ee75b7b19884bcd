"""`plexspaces init`: a new project with an actor, its test and what to do with them."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

import click

from ...build.guest_python import STANDARD_LIBRARY
from ..output import CommandError, json_option, json_wanted, show_json

_TEMPLATES = Path(__file__).parent.parent / "templates"
_FILES = {
    "{module}.py": "counter_actor.py.txt",
    "test_{module}.py": "test_counter_actor.py.txt",
    "README.md": "README.md.txt",
    ".gitignore": "gitignore.txt",
}


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--name", help="The actor type [default: the directory's name].")
@json_option
def init(directory: Path, name: str | None) -> None:
    """Begin a new actor project in DIRECTORY, which must be new or hold none of its files."""
    actor_type = actor_type_name(name or directory.absolute().name)
    words = {"module": f"{actor_type}_actor", "type": actor_type, "Class": class_name(actor_type)}
    files = {directory / target.format(**words): source for target, source in _FILES.items()}
    if there := [file.name for file in files if file.exists()]:
        raise CommandError(f"{directory} already has {', '.join(there)}", "plexspaces init ANOTHER_DIRECTORY")
    directory.mkdir(parents=True, exist_ok=True)
    for file, source in files.items():
        file.write_text(render((_TEMPLATES / source).read_text(encoding="utf-8"), words), encoding="utf-8")
    if json_wanted():
        show_json({"directory": str(directory), "files": [str(file) for file in files], "actor_type": actor_type})
        return
    for file in files:
        click.echo(f"wrote {file}")
    click.echo(f"try: cd {directory} && python -m pytest && plexspaces build {words['module']}.py -o {actor_type}.wasm")


def actor_type_name(text: str) -> str:
    """A name that is an actor type and, with `_actor` after it, a Python module."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_").lower()
    if not name or name[0].isdigit():
        raise CommandError(f"{text!r} makes no actor type", "plexspaces init DIRECTORY --name my_actor")
    if keyword.iskeyword(f"{name}_actor") or f"{name}_actor" in STANDARD_LIBRARY or len(name) > 57:
        raise CommandError(f"{name!r} cannot name an actor", "plexspaces init DIRECTORY --name my_actor")
    return name


def class_name(actor_type: str) -> str:
    return "".join(part.capitalize() for part in actor_type.split("_"))


def render(template: str, words: dict[str, str]) -> str:
    """The counter's files, under another name."""
    return (
        template.replace("counter_actor", words["module"])
        .replace("Counter", words["Class"])
        .replace("counter", words["type"])
        .replace(f"A {words['type']}:", "A counter:")
    )
