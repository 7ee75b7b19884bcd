"""`deploy` and `undeploy`: which applications and actor types a node has."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from click.core import ParameterSource

from ..client import NodeClient
from ..output import CommandError, bytes_text, count_text, json_option, json_wanted, phases, printable, show_json
from .apps import application_path


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-t", "--type", "actor_type", help="The actor type [default: SOURCE's name without _actor].")
@click.option(
    "-n", "--namespace", default="default", show_default=True, envvar="PLEXSPACES_NAMESPACE", help="The namespace."
)
@click.option("--config", "config_text", help="The type's configuration: a JSON object, or @file.")
@click.option("--check", is_flag=True, help="Only try it against what durable actors have recorded.")
@click.option("--observe", is_flag=True, help="Keep what it uses from now on; see plexspaces grants.")
@click.option("--dry-run", is_flag=True, help="Only check app-config.toml; nothing is built or sent.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@json_option
@click.pass_context
def deploy(
    ctx: click.Context,
    source: Path,
    actor_type: str | None,
    namespace: str,
    config_text: str | None,
    check: bool,
    observe: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Deploy SOURCE: an application (app-config.toml), a component (.wasm) or an actor's source (.py or a directory).

    What is source is built on the way. A new version replaces the old one without losing a message; of an application,
    only what differs changes.

    With --check nothing is deployed: on throw-away instances the durable actors of the type are made again from their
    checkpoints and are given the messages they handled since, with the recorded results. The exit status is 1 if one
    comes to something else than was recorded.

    With --observe the node keeps in memory which capabilities the actors use from then on, under their present grants;
    plexspaces grants TYPE prints the smallest list for it.
    """
    if observe and (check or dry_run):
        raise click.UsageError("--observe is for what is deployed, and --check and --dry-run deploy nothing")
    if source.suffix == ".toml":
        for name in ("actor_type", "namespace", "config_text"):
            if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--type, --namespace and --config are for one actor type; {source} says it all")
        if check and dry_run:
            raise click.UsageError("--dry-run sends nothing, and --check asks the node: say one of them")
        _deploy_application(source, check, observe, dry_run, quiet)
        return
    if dry_run:
        raise click.UsageError("--dry-run checks app-config.toml; for an actor's source there is plexspaces build")
    if not source.exists():
        raise CommandError(f"{source}: no such file or directory", "plexspaces deploy FILE.py, or FILE.wasm")
    name = actor_type or default_type(source)
    config = _config(config_text)
    wasm = source.read_bytes() if source.suffix == ".wasm" else _built(source, quiet)
    form = {"namespace": namespace, "actor_type": name}
    if config is not None:
        form["config"] = json.dumps(config)
    if check:
        _show_checked([_checked(NodeClient(), form, wasm, quiet)])
        return
    client = NodeClient()
    if observe:
        begin_to_observe(client, namespace, [name])
    with phases(quiet) as begin:
        begin("deploy", f"{name}, {bytes_text(len(wasm))}")
        files = {"wasm": (f"{name}.wasm", wasm, "application/wasm")}
        answer = client.call("POST", "/api/v1/deploy", form=form, files=files)
    if json_wanted():
        show_json(answer)
    elif not quiet:
        version = answer.get("version")
        click.echo(f"deployed {namespace}/{name}" + (f", version {version}" if version else ""))
        for line in news_lines(answer.get("capabilities")):
            click.echo(f"  {line}")
        if names := operations(answer):
            elsewhere = "" if namespace == "default" else f" -n {namespace}"
            click.echo(printable(f"  operations: {', '.join(names)}"))
            click.echo(printable(f"  try: plexspaces ask {name} {names[0]}{elsewhere}"))


def _checked(client: NodeClient, form: dict[str, str], wasm: bytes, quiet: bool) -> dict[str, Any]:
    """Let the node try a component as an actor type."""
    name = form["actor_type"]
    with phases(quiet) as begin:
        begin("check", f"{name}, {bytes_text(len(wasm))}")
        files = {"wasm": (f"{name}.wasm", wasm, "application/wasm")}
        report = client.call("POST", "/api/v1/deploy", form={**form, "check": "true"}, files=files)
    return {"actor_type": name, **report}


def _show_checked(reports: list[dict[str, Any]]) -> None:
    """What the node said.

    Raises:
        CommandError: an actor came to something else than was recorded.
    """
    diverged = [(report["actor_type"], each) for report in reports for each in report["diverged"]]
    if json_wanted():
        show_json({"ok": not diverged, "types": reports})
    else:
        for report in reports:
            actors, agreed = report["agreed"] + len(report["diverged"]), report["agreed"]
            told = f"{report['actor_type']}: {agreed} of {count_text(actors, 'durable actor')} agreed"
            click.echo(f"{told} ({count_text(report['messages'], 'message')} replayed)")
            if report["left_out"]:
                click.echo(f"  {count_text(report['left_out'], 'actor')} were not tried")
            for each in report["diverged"]:
                where = f", message {each['message_id']} ({each['op']})" if each["message_id"] else ""
                click.echo(printable(f"  {each['actor']}{where}: {each['problem']}"))
    if diverged:
        raise CommandError(
            f"{count_text(len(diverged), 'actor')} could not be made again as recorded; nothing was deployed",
            "mend the code; or deploy it: actors that live go over to it with their state, and for one that cannot "
            "come back after a crash there is plexspaces journal recover",
            code="diverged",
            details={"actors": [each["actor"] for _, each in diverged]},
        )


def _check_application(application: Any, components: dict[str, bytes], quiet: bool) -> None:
    client, config = NodeClient(), application.config
    reports = []
    for child in config.actors():
        form = {"namespace": config.namespace, "actor_type": child.name}
        wanted = {"role": child.role, "args": dict(child.args)} if child.role else {"args": dict(child.args)}
        form["config"] = json.dumps(wanted)
        reports.append(_checked(client, form, components[child.actor_type], quiet))
    _show_checked(reports)


def _deploy_application(file: Path, check: bool, observe: bool, dry_run: bool, quiet: bool) -> None:
    from ..applications import load_components, read_application, send_application
    from .build import build_with_phases

    application = read_application(file)
    if dry_run:
        if json_wanted():
            show_json({"application": application.config.name, "namespace": application.config.namespace})
        elif not quiet:
            click.echo(f"{file} is in order: {application.summary}")
        return
    components = load_components(application, lambda source, output: build_with_phases(source, output, quiet=quiet))
    if check:
        _check_application(application, components, quiet)
        return
    client = NodeClient()
    if observe:
        begin_to_observe(client, application.config.namespace, [child.name for child in application.config.actors()])
    with phases(quiet) as begin:
        begin("deploy", f"{application.config.name}, {bytes_text(sum(map(len, components.values())))}")
        answer = send_application(client, application, components)
    if json_wanted():
        show_json(answer)
    elif not quiet:
        show_deployed(answer)


def show_deployed(status: Any, *, err: bool = False) -> None:
    """What the deployment of an application has changed, for people."""
    title = f"deployed application {status['name']}, version {status['version']}"
    click.echo(f"{title} ({status['state']}, {count_text(status['actors'], 'actor')})", err=err)
    for change in status["changes"]:
        click.echo(f"  {change}", err=err)
    if not status["changes"]:
        click.echo("  nothing differed", err=err)
    for actor_type, news in status.get("capabilities", {}).items():
        for line in news_lines(news):
            click.echo(f"  {actor_type}: {line}", err=err)
    click.echo(f"  try: plexspaces tree {status['name']}", err=err)


def news_lines(news: Any) -> list[str]:
    """What a version may newly do or asks for, for people."""
    if not isinstance(news, dict):
        return []
    told = (
        ("newly_imports", "this version newly imports: {}"),
        ("newly_granted", "newly granted: {}"),
        ("no_longer_granted", "no longer granted: {}"),
        ("not_granted", "asks for {} but is not granted it"),
    )
    return [text.format(", ".join(news[key])) for key, text in told if news.get(key)]


def begin_to_observe(client: NodeClient, namespace: str, actor_types: list[str]) -> None:
    """Let the node keep what these types use, from their first instruction on."""
    for actor_type in actor_types:
        client.call("PUT", f"/api/v1/grants/{quote(namespace, safe='')}/{quote(actor_type, safe='')}/observe")


@click.command()
@click.argument("name")
@click.option("--app", "kind", flag_value="app", help="NAME is an application.")
@click.option("--type", "kind", flag_value="type", help="NAME is an actor type.")
@click.option(
    "-n",
    "--namespace",
    default="default",
    show_default=True,
    envvar="PLEXSPACES_NAMESPACE",
    help="The namespace of an actor type.",
)
@json_option
def undeploy(name: str, kind: str | None, namespace: str) -> None:
    """Take the application or the actor type NAME off the node; its actors stop first."""
    client = NodeClient()
    if kind is None:
        kind = _kind_of(client, name, namespace)
    if kind == "app":
        path, what = application_path(name), f"application {name}"
    else:
        path, what = f"/api/v1/deployments/{quote(namespace, safe='')}/{quote(name, safe='')}", f"{namespace}/{name}"
    answer = client.call("DELETE", path)
    if json_wanted():
        show_json(answer if answer is not None else {"undeployed": name})
    else:
        click.echo(f"undeployed {what}")


def _kind_of(client: NodeClient, name: str, namespace: str) -> str:
    """Whether NAME is an application or an actor type.

    Raises:
        CommandError: it is both.
    """
    try:
        client.call("GET", application_path(name))
    except CommandError as error:
        if error.code != "not-found":
            raise
        return "type"
    roots = client.call("GET", "/api/v1/tree", query={"namespace": namespace})["tree"]
    if any(root["kind"] == "deployment" and root["name"] == name for root in roots):
        raise CommandError(
            f"{name!r} is an application, and an actor type in namespace {namespace!r}",
            f"plexspaces undeploy {name} --app, or plexspaces undeploy {name} --type -n {namespace}",
        )
    return "app"


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
