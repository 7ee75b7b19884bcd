"""`plexspaces serve`: run a node until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ... import config as configuration
from ...config import HARDENING, NodeConfig
from ...errors import PlexSpacesError, Unavailable
from ...isolation import harden as hardening
from ..applications import Application, load_components, read_application, send_application
from ..client import NodeClient, Target, find_trust
from ..exits import Exit
from ..output import CommandError, as_command_error, show_finding
from .deploy import show_deployed

if TYPE_CHECKING:
    from ...node import Node
    from ...stores.deployments import Record


@click.command(
    epilog="Every option is also read from PLEXSPACES_... (PLEXSPACES_PORT=8080) and from a node file, "
    "which holds the limits too."
)
@click.argument("app_config", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--host", help="Address to listen on [default: 127.0.0.1].")
@click.option("--port", type=int, help="Port to listen on, 0 for any [default: 8080].")
@click.option("--grpc-port", type=int, help="Port of the gRPC door, 0 for any [default: 9090; any where --port is 0].")
@click.option(
    "--insecure-plaintext",
    is_flag=True,
    default=None,
    help="Listen beyond this machine without TLS, for example behind a proxy that does it.",
)
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Where keys and stores are kept.")
@click.option("--grace-s", type=float, help="Seconds that running messages may take at the end [default: 10].")
@click.option("--tenant", help="The tenant of the local token [default: default].")
@click.option(
    "--egress-permit",
    multiple=True,
    metavar="RANGE",
    help="Addresses that are not public and that links may lead to, such as 127.0.0.0/8; may be repeated.",
)
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="PLEXSPACES_CONFIG",
    help="A node file (TOML) with the tables node, auth and limits.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    envvar="PLEXSPACES_LOG_LEVEL",
    help="The least that is logged [default: info].",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    envvar="PLEXSPACES_LOG_FORMAT",
    help="Lines for a person or for a machine; auto is text on a terminal [default: auto].",
)
@click.option(
    "--harden",
    is_flag=False,
    flag_value="on",
    type=click.Choice(HARDENING),
    help="Give up what a node does not need; strict: or do not start [default: off].",
)
@click.option("--deploy", "deployments", multiple=True, metavar="FILE[=TYPE]", help="Deploy this at the start.")
@click.option("--example", is_flag=True, help="Deploy the example application (a counter) at the start.")
def serve(
    app_config: Path | None,
    host: str | None,
    port: int | None,
    grpc_port: int | None,
    insecure_plaintext: bool | None,
    data_dir: Path | None,
    grace_s: float | None,
    tenant: str | None,
    egress_permit: tuple[str, ...],
    config_file: Path | None,
    log_level: str,
    log_format: str,
    harden: str | None,
    deployments: tuple[str, ...],
    example: bool,
) -> int:
    """Run a node in the foreground; with APP_CONFIG, build and deploy that application at the start.

    SIGTERM and SIGINT (Ctrl-C) stop it gracefully: running messages are finished first.  A second one stops it at once.
    """
    flags = {
        "host": host,
        "port": port,
        "grpc_port": grpc_port,
        "insecure_plaintext": insecure_plaintext,
        "data_dir": data_dir,
        "grace_s": grace_s,
        "tenant": tenant,
        "egress_permit": egress_permit or None,
        "harden": harden,
    }
    config = configuration.load(config_file, os.environ, flags)
    # What is started from here, a compiler for instance, has no use for the keys.
    for name in ("PLEXSPACES_SECRETS_KEY", "PLEXSPACES_SECRETS_PREVIOUS_KEY"):
        os.environ.pop(name, None)
    wanted = [_deployment(text) for text in deployments]
    application = None if app_config is None else read_application(app_config)
    import uvloop

    from ...logs import configure

    configure(
        sys.stderr, json=log_format == "json" or (log_format == "auto" and not sys.stderr.isatty()), level=log_level
    )
    with _sole_use_of(config.data_dir), contextlib.ExitStack() as stack:
        if config.harden != "off":
            hardening.make_directories(config)
        if example:
            wanted.insert(0, (stack.enter_context(_example_source()), "counter"))
        _harden(config, [*(source for source, _ in wanted), *([] if app_config is None else [app_config])])
        try:
            uvloop.run(_serve(config, wanted, application, example))
        except OSError as error:
            raise _cannot_listen(error, config) from error
    return int(Exit.OK)


def _harden(config: NodeConfig, sources: list[Path]) -> None:
    """Give up what the node does not need.  What it is to build is beside the files that are named."""
    if config.harden == "off":
        return
    strict = config.harden == "strict"
    folders = [(each if each.is_dir() else each.parent).resolve() for each in sources]
    wanted = hardening.plan(config, folders, strict=strict)
    try:
        missing = hardening.apply(wanted, strict=strict)
    except Unavailable as error:
        raise CommandError(error.message, "plexspaces serve --harden=on, to do without") from error
    for each in missing:
        click.echo(f"warning: less hardened than it could be: {each}", err=True)


async def _serve(
    config: NodeConfig, wanted: list[tuple[Path, str]], application: Application | None, example: bool
) -> None:
    from ...logs import log_events
    from ...node import Node
    from ..serving import make_doors

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            click.echo("stopped at once", err=True)
            # Whatever keeps the node from stopping must not keep it from this.
            sys.stderr.flush()
            os._exit(Exit.INTERRUPTED)
        click.echo(f"\nstopping: running messages have {config.grace_s:g} s; again stops at once", err=True)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    node = Node(config)
    log_events(node.events)
    await node.start()
    try:
        doors = make_doors(node, config)
        token_file = doors.token_file
        try:
            await doors.start()
            if doors.tls is not None:
                loop.add_signal_handler(signal.SIGHUP, functools.partial(doors.tls.refresh, at_once=True))
            url = _url(config.host, doors.http.port, "http" if doors.tls is None else "https")
            grpc_at = "" if doors.grpc is None else _url(config.host, doors.grpc.port, "").removeprefix("://")
            with _announced(config, url, grpc_at):
                # Of what is deployed at the start, what to try is said once it is there.
                hints = "" if example or application is not None else _HINTS.format(path=_path_hint())
                _banner(url, grpc_at, config, token_file, hints)
                async with asyncio.TaskGroup() as tasks:
                    deploying = tasks.create_task(
                        _deploy_all(node, url, config, token_file, wanted, application, example)
                    )
                    await stop.wait()
                    deploying.cancel()
        finally:
            await doors.stop(config.grace_s)
    finally:
        await node.stop(grace_s=config.grace_s)
    click.echo("stopped", err=True)


async def _deploy_all(
    node: Node,
    url: str,
    config: NodeConfig,
    token_file: Path,
    wanted: list[tuple[Path, str]],
    application: Application | None,
    example: bool,
) -> None:
    """Deploy through the same door as everybody; a failure is told and does not end the node."""
    from ...scope import Scope
    from ...stores.deployments import APPLICATION

    target = await asyncio.to_thread(_local_target, url, config, token_file)
    failed = False
    steps: list[Callable[[], None]] = [functools.partial(_deploy_one, target, *each) for each in wanted]
    if application is not None:
        scope = Scope(target.tenant, application.config.namespace)
        present = node.deployed_as(scope, APPLICATION, application.config.name)
        steps.append(functools.partial(_deploy_application, target, application, present))
    for step in steps:
        try:
            await asyncio.to_thread(step)
        except (PlexSpacesError, CommandError) as error:
            (as_command_error(error) if isinstance(error, PlexSpacesError) else error).show()
            failed = True
    talks = application is not None and any(each.role == "agent" for each in application.config.actors())
    if example and not failed:
        chat = _CHAT if talks else ""
        click.echo(_EXAMPLE.format(url=url, tenant=target.tenant, path=_path_hint(), chat=chat), err=True)
    elif talks and not failed:
        click.echo(_TALKS.format(path=_path_hint(), chat=_CHAT), err=True)


def _deploy_application(target: Target, application: Application, present: Record | None) -> None:
    def build(source: Path, output: Path) -> None:
        _build(source.name, source, output)

    components = load_components(application, build)
    hashes = {name: hashlib.sha256(wasm).hexdigest() for name, wasm in components.items()}
    if present is not None and (present.config, dict(present.components)) == (application.text, hashes):
        # The node has brought it back by itself; a deployment would start what an operator has stopped.
        click.echo(f"application {application.config.name} is as it was deployed, version {present.version}", err=True)
        return
    show_deployed(send_application(NodeClient(target), application, components), err=True)


def _build(name: str, source: Path, output: Path) -> None:
    from ...build.builder import build

    click.echo(f"building {name} (a few seconds, the first time)", err=True)
    for finding in build(source, output).warnings:
        show_finding(finding)


def _local_target(url: str, config: NodeConfig, token_file: Path) -> Target:
    token = token_file.read_text(encoding="utf-8").strip()
    return Target(url, token, str(token_file), find_trust(os.environ, config.tls.cert_file))


def _deploy_one(target: Target, source: Path, actor_type: str) -> None:
    client = NodeClient(target)
    there = client.call("GET", "/api/v1/deployments", query={"namespace": "default"})["deployments"]
    if source.suffix == ".wasm":
        wasm = source.read_bytes()
    else:
        with tempfile.TemporaryDirectory(prefix="plexspaces-") as folder:
            output = Path(folder, "component.wasm")
            _build(actor_type, source, output)
            wasm = output.read_bytes()
    # What the node has brought back by itself is not deployed again: that would be a new version of the same.
    if (actor_type, hashlib.sha256(wasm).hexdigest()) in {(each["actor_type"], each["hash"]) for each in there}:
        return
    client.call(
        "POST",
        "/api/v1/deploy",
        form={"namespace": "default", "actor_type": actor_type},
        files={"wasm": (f"{actor_type}.wasm", wasm, "application/wasm")},
    )


def _deployment(text: str) -> tuple[Path, str]:
    from .deploy import default_type

    file, equals, actor_type = text.rpartition("=")
    source = Path(file if equals else text)
    if not source.exists():
        raise CommandError(f"--deploy {text}: no such file or directory: {source}", "--deploy FILE=TYPE")
    return source, actor_type if equals else default_type(source)


@contextlib.contextmanager
def _example_source() -> Iterator[Path]:
    """The example's actor as a file: the package may be installed without its sources' tree."""
    text = (Path(__file__).parent.parent / "templates" / "counter_actor.py.txt").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="plexspaces-example-") as folder:
        source = Path(folder, "counter_actor.py")
        source.write_text(text, encoding="utf-8")
        yield source


@contextlib.contextmanager
def _sole_use_of(data_dir: Path) -> Iterator[None]:
    """Two nodes on one data directory would overwrite each other's stores."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (data_dir / "lock").open("a+")
    except OSError as error:
        raise CommandError(
            f"the data directory {data_dir} cannot be used: {error.strerror}", "plexspaces serve --data-dir DIR"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                f"another node uses the data directory {data_dir}",
                "plexspaces ps, to look at that one; plexspaces serve --data-dir DIR --port PORT, for a second",
            ) from None
        yield


@contextlib.contextmanager
def _announced(config: NodeConfig, url: str, grpc_at: str) -> Iterator[None]:
    """While the node runs, the other commands find it through its data directory."""
    from ...build.cache import write_atomically

    file = config.data_dir / "node.json"
    said: dict[str, Any] = {"url": url, "pid": os.getpid()}
    if grpc_at:
        said["grpc"] = grpc_at
    if config.tls.cert_file is not None:
        said["cert_file"] = str(config.tls.cert_file.absolute())
    write_atomically(file, json.dumps(said).encode(), durable=False)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _url(host: str, port: int, scheme: str) -> str:
    # The wildcard addresses mean every interface; nobody can connect to them by that name everywhere.
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)
    if ":" in reachable and not reachable.startswith("["):
        reachable = f"[{reachable}]"
    return f"{scheme}://{reachable}:{port}"


def _cannot_listen(error: OSError, config: NodeConfig) -> Exception:
    match error.errno:
        case errno.EADDRINUSE if error.filename == "grpc_port":
            return CommandError(
                f"port {config.grpc_port} of {config.host}, for gRPC, is taken", "plexspaces serve --grpc-port PORT"
            )
        case errno.EADDRINUSE:
            return CommandError(f"port {config.port} of {config.host} is taken", "plexspaces serve --port PORT")
        case errno.EACCES:
            return CommandError(f"port {config.port} may not be used", "plexspaces serve --port 8080")
        case errno.EADDRNOTAVAIL:
            return CommandError(f"{config.host} is no address of this machine", "plexspaces serve --host 127.0.0.1")
        case _:
            return error


_BANNER = """\
{title}
  listening on  {url}{grpc}
  data          {data}
  token         {token}    (plexspaces token)
{hints}
  Ctrl-C stops."""

_HINTS = """
  try, in another terminal:{path}
    plexspaces init hello && cd hello
    plexspaces deploy hello_actor.py
    plexspaces ask hello increment amount=5
    plexspaces ps
"""

_EXAMPLE = """
the example is ready; try, in another terminal:{path}
    plexspaces ask counter increment amount=5
    curl "{url}/api/v1/actors/{tenant}/default/counter" -H "Authorization: Bearer $(plexspaces token)"
    plexspaces ps{chat}
"""

_TALKS = """
try, in another terminal:{path}{chat}
"""

_CHAT = """
    plexspaces chat
    plexspaces chat --web\
"""


def _path_hint() -> str:
    """How the next terminal finds the commands, if it is not told already: `make run` starts ours by its full name."""
    command = Path(sys.argv[0]).absolute()
    if command.name != "plexspaces" or shutil.which("plexspaces") is not None:
        return ""
    return f'\n    export PATH="{command.parent}:$PATH"'


def _banner(url: str, grpc_at: str, config: NodeConfig, token_file: Path, hints: str) -> None:
    title = click.style("PlexSpaces node", bold=True)
    grpc = f"\n  gRPC on       {grpc_at}" if grpc_at else ""
    click.echo(
        _BANNER.format(title=title, url=url, grpc=grpc, data=config.data_dir, token=token_file, hints=hints), err=True
    )


__all__: list[Any] = ["serve"]
