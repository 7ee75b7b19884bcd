"""`deploy` and `undeploy`: which actor types a node has."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from ..client import NodeClient
from ..output import CommandError, bytes_text, json_option, json_wanted, phases, show_json


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-t", "--type", "actor_type", help="The actor type [default: SOURCE's name without _actor].")
@click.option(
    "-n", "--namespace", default="default", show_default=True, envvar="PLEXSPACES_NAMESPACE", help="The namespace."
)
@click.option("--config", "config_text", help="The type's configuration: a JSON object, or @file.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@json_option
def deploy(source: Path, actor_type: str | None, namespace: str, config_text: str | None, quiet: bool) -> None:
    """Deploy SOURCE, a component (.wasm) or an actor's source (.py or a directory, built on the way).

    A new version replaces the old one without losing a message.
    """
    if source.suffix == ".toml":
        raise CommandError(
            f"{source} describes an application, and applications are not available in this version",
            "deploy its actors one by one: plexspaces deploy FILE --type TYPE",
        )
    if not source.exists():
        raise CommandError(f"{source}: no such file or directory", "plexspaces deploy FILE.py, or FILE.wasm")
    name = actor_type or default_type(source)
    config = _config(config_text)
    wasm = source.read_bytes() if source.suffix == ".wasm" else _built(source, quiet)
    form = {"namespace": namespace, "actor_type": name}
    if config is not None:
        form["config"] = json.dumps(config)
    with phases(quiet) as begin:
        begin("deploy", f"{name}, {bytes_text(len(wasm))}")
        files = {"wasm": (f"{name}.wasm", wasm, "application/wasm")}
        answer = NodeClient().call("POST", "/api/v1/deploy", form=form, files=files)
    if json_wanted():
        show_json(answer)
    elif not quiet:
        version = answer.get("version")
        click.echo(f"deployed {namespace}/{name}" + (f", version {version}" if version else ""))
        if names := operations(answer):
            elsewhere = "" if namespace == "default" else f" -n {namespace}"
            click.echo(f"  operations: {', '.join(names)}")
            click.echo(f"  try: plexspaces ask {name} {names[0]}{elsewhere}")


@click.command()
@click.argument("actor_type")
@click.option(
    "-n", "--namespace", default="default", show_default=True, envvar="PLEXSPACES_NAMESPACE", help="The namespace."
)
@json_option
def undeploy(actor_type: str, namespace: str) -> None:
    """Take ACTOR_TYPE off the node; its actors stop first."""
    path = f"/api/v1/deployments/{quote(namespace, safe='')}/{quote(actor_type, safe='')}"
    answer = NodeClient().call("DELETE", path)
    if json_wanted():
        show_json(answer if answer is not None else {"undeployed": actor_type})
    else:
        click.echo(f"undeployed {namespace}/{actor_type}")


def default_type(source: Path) -> str:
    """`counter_actor.py` and `counter.wasm` are both of type `counter`."""
    stem = source.absolute().stem
    return stem.removesuffix("_actor") or stem


def _config(text: str | None) -> Any:
    if text is None:
        return None
    try:
        if text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        config = json.loads(text)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--config is neither a JSON object nor @file with one: {error}") from None
    if not isinstance(config, dict):
        raise click.UsageError("--config is not a JSON object")
    return config


def _built(source: Path, quiet: bool) -> bytes:
    from .build import build_with_phases

    with tempfile.TemporaryDirectory(prefix="plexspaces-") as folder:
        output = Path(folder, "component.wasm")
        build_with_phases(source, output, quiet=quiet)
        return output.read_bytes()


def operations(answer: Any) -> list[str]:
    """The operations in the node's description of a deployed type."""
    handlers = answer.get("handlers") if isinstance(answer, dict) else None
    return [name for name in handlers if name != "*"] if isinstance(handlers, dict) else []
