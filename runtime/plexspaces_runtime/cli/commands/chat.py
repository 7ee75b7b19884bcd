"""`plexspaces chat`: a conversation with MiniClaw in the terminal, its tools shown as they run."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from ...config import default_data_dir
from ...ids import SystemIds
from ..client import NodeClient, Target
from ..output import CommandError, json_option, json_wanted, on_terminal, printable
from .approvals import decide, waiting

_TURN_S: Final = 300.0
_HELP: Final = """\
/new               begin another conversation
/sessions          list yours, the newest first; /switch ID goes to one
/history           what was said in this one
/approve, /reject  decide about the tool calls that wait
/cost              what this conversation has cost
/model             list the models; /model NAME asks that one from now on, /model auto lets the router choose
/quit              leave; the conversation stays
Ctrl-C stops an answer, a second one leaves."""


@dataclass
class _Talk:
    """Where the conversation is."""

    client: NodeClient
    namespace: str
    session: str
    model: str = "auto"
    told_simulated: bool = False
    approvals: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, actor: str, op: str, **arguments: Any) -> Any:
        path = self.client.actor_path(actor, tenant=None, namespace=self.namespace)
        return self.client.call("POST", path, query={"wait": "30"}, body={"op": op, **arguments})


@click.command()
@click.argument("message", required=False)
@click.option("--session", default="", help="Go on with this conversation.")
@click.option("--model", help="Ask this model; auto lets the router choose [default: auto].")
@click.option("--web", is_flag=True, help="Print the address of the chat page, token included, instead.")
@click.option("--local", is_flag=True, help="Talk to a model on this machine, on a node that ends with the chat.")
@click.option("--local-model", metavar="NAME", help="With --local: a model of Ollama's, or a GGUF file.")
@click.option(
    "--app",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="With --local: MiniClaw's configuration [default: app-config.toml here].",
)
@click.option("--namespace", default="default", show_default=True, envvar="PLEXSPACES_NAMESPACE")
@json_option
def chat(
    message: str | None,
    session: str,
    model: str | None,
    web: bool,
    local: bool,
    local_model: str | None,
    app: Path | None,
    namespace: str,
) -> None:
    """Talk to MiniClaw; with MESSAGE say one thing and leave.

    \b
    plexspaces chat
    plexspaces chat "what is 6 * 7?"
    plexspaces chat --session SESSION         go on with a conversation
    plexspaces chat --local                   no key, no network, a model on this machine
    """
    if (local_model or app) and not local:
        raise click.UsageError("--local-model and --app are for --local")
    if not local:
        _begin(NodeClient(), message, session, model or "auto", web, namespace)
        return
    with _local(local_model or "", app or _find_app()) as target:
        from ..local.node import LINK

        # By name: where it does not answer, no other does in its place.
        _begin(NodeClient(target), message, session, model or LINK, web, namespace, stay=True)


def _begin(
    client: NodeClient, message: str | None, session: str, model: str, web: bool, namespace: str, stay: bool = False
) -> None:
    if web:
        _show_page(client, namespace, stay)
        return
    talk = _Talk(client, namespace, session or _new_session(), model)
    with client.together():
        if message is not None:
            _once(talk, message)
        elif not sys.stdin.isatty():
            for line in sys.stdin:
                if line.strip():
                    _once(talk, line.strip())
        else:
            _converse(talk)


def _show_page(client: NodeClient, namespace: str, stay: bool) -> None:
    if not client.target.token:
        raise CommandError("there is no token for the page", "plexspaces token, or set PLEXSPACES_TOKEN")
    where = "" if namespace == "default" else f"&namespace={quote(namespace, safe='')}"
    click.echo(f"{client.target.url}/chat#token={client.target.token}{where}")
    click.echo("whoever has this address can do what its token may do", err=True)
    if stay:
        click.echo("Ctrl-C ends the node, and the page with it", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


def _find_app() -> Path:
    """MiniClaw's configuration: in this folder, else in the source tree that this is run from."""
    here, tree = Path("app-config.toml"), Path(__file__).parents[4] / "app-config.toml"
    for file in (here, tree):
        if file.is_file():
            return file
    raise CommandError(
        "there is no app-config.toml here, so there is no MiniClaw to talk to",
        "plexspaces chat --local --app FILE, with the app-config.toml that MiniClaw ships",
    )


@contextmanager
def _local(wanted: str, app: Path) -> Iterator[Target]:
    """A node with MiniClaw and a model of this machine's, for as long as the block lasts."""
    from ..local import Keeper, find_engine, local_node, running

    home = default_data_dir() / "local"
    if (target := running(home)) is not None:
        click.echo("another chat --local runs: this one uses its model, and ends with it", err=True)
        yield target
        return
    home.mkdir(parents=True, exist_ok=True, mode=0o700)

    def say(text: str) -> None:
        click.echo(click.style(text, dim=True), err=True)

    engine = find_engine(home, wanted)
    say(f"local model: {engine.about}")
    keeper = Keeper(engine, home / "model.log")
    try:
        keeper.start()
        with local_node(home, app, engine, say) as target:
            yield target
    finally:
        keeper.stop()


def _new_session() -> str:
    return SystemIds().next("cli")


# -- one turn ----------------------------------------------------------------------------------------------


def _once(talk: _Talk, message: str) -> None:
    failed = _turn(talk, message)
    if failed:
        raise CommandError(failed, code="chat-failed")


def _turn(talk: _Talk, message: str) -> str:
    """Say something and show what comes; what went wrong, "" for nothing."""
    shown = _Shown(talk)
    failed = ""
    for kind, content in _events(talk, message):
        if kind == "text":
            shown.text(content)
        elif kind == "failed":
            failed = content
        else:
            shown.event(content["event_type"], content["payload"])
    shown.end()
    return failed


def _events(talk: _Talk, message: str) -> Iterator[tuple[str, Any]]:
    """What the node streams of a turn: `text`, `event` or `failed`, each with its content."""
    body = {"model": talk.model, "stream": True, "messages": [{"role": "user", "content": message}]}
    headers = {"X-Session-Id": talk.session, "X-Session-Events": "true", "X-Namespace": talk.namespace}
    for name, data in talk.client.stream("POST", "/v1/chat/completions", body=body, headers=headers, timeout_s=_TURN_S):
        if data == "[DONE]":
            return
        content = json.loads(data)
        if name == "session":
            yield "event", content
        elif "error" in content:
            yield "failed", content["error"]["message"]
        else:
            for choice in content["choices"]:
                if text := choice["delta"].get("content"):
                    yield "text", text


class _Shown:
    """Writes a turn to the terminal: text as it comes, everything else in lines of its own."""

    def __init__(self, talk: _Talk) -> None:
        self._talk = talk
        self._in_text = False
        self._simulated = False

    def text(self, text: str) -> None:
        if json_wanted():
            return
        click.echo(_safe(text), nl=False)
        self._in_text = not text.endswith("\n")
        sys.stdout.flush()

    def event(self, event_type: str, payload: dict[str, Any]) -> None:
        if json_wanted():
            click.echo(json.dumps({"event_type": event_type, "payload": payload}))
            return
        show = _EVENTS.get(event_type)
        if event_type == "model_response" and payload.get("simulated"):
            self._simulated = True
        if event_type == "approval_requested":
            self._talk.approvals.append(payload)
        if show is not None and (line := show(payload)):
            self.end()
            click.echo(click.style(printable(line), dim=True), err=not on_terminal())

    def end(self) -> None:
        if self._in_text:
            click.echo()
            self._in_text = False
        if self._simulated and not self._talk.told_simulated and not json_wanted():
            self._talk.told_simulated = True
            click.echo(
                click.style("Answers are simulated: no model is connected. ", fg="yellow")
                + "To connect one: plexspaces secret set openai (or anthropic), then plexspaces deploy app-config.toml",
                err=True,
            )


def _safe(text: str) -> str:
    """What a model wrote must not steer the terminal."""
    return "".join(each if each.isprintable() or each in "\n\t" else f"\\u{ord(each):04x}" for each in text)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else text[:300] + " …"


_EVENTS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "tool_call": lambda each: f"  → {each['name']} {_short(each['input'])}",
    "tool_result": lambda each: f"  {'←' if each['ok'] else '✗'} {each['name']} {_short(each['content'])}",
    "model_failed": lambda each: (
        "" if each["code"] == "not_configured" else f"  … {each['model']}: {_short(each['message'])}"
    ),
    "approval_requested": lambda each: (
        f"  ? {each['name']} {_short(each['input'])} waits for approval: /approve or /reject"
    ),
    "budget_exhausted": lambda each: f"  ! the budget of this {each.get('scope')} is used up",
    "cancelled": lambda each: "  stopped",
}


# -- the conversation --------------------------------------------------------------------------------------


def _converse(talk: _Talk) -> None:
    _remember_lines()
    click.echo(f"MiniClaw, session {talk.session}. /help lists what else there is, /quit leaves.", err=True)
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if not line:
            continue
        try:
            if line.startswith("/"):
                if _command(talk, line):
                    return
            elif failed := _turn(talk, line):
                click.echo(click.style("error: ", fg="red") + printable(failed), err=True)
        except KeyboardInterrupt:
            # The connection is closed, and the node ends the turn at its next step.
            click.echo(click.style("\n  stopped", dim=True), err=True)
        except CommandError as error:
            error.show()


def _command(talk: _Talk, line: str) -> bool:
    """Do what a line with a slash says; True to leave."""
    word, _, rest = line[1:].partition(" ")
    rest = rest.strip()
    match word:
        case "quit" | "exit" | "q":
            return True
        case "help":
            click.echo(_HELP)
        case "new":
            talk.session = _new_session()
            click.echo(f"session {talk.session}")
        case "switch" if rest:
            talk.session = rest
            click.echo(f"session {printable(rest)}")
        case "switch":
            click.echo("/switch ID; /sessions lists them", err=True)
        case "sessions":
            for each in talk.ask("session_manager", "list_sessions")["sessions"]:
                mark = "*" if each["session_id"] == talk.session else " "
                begun = datetime.fromtimestamp(each["created_at"] / 1_000, UTC).astimezone()
                click.echo(printable(f"{mark} {each['session_id']}  {begun:%Y-%m-%d %H:%M}"))
        case "history":
            for each in talk.ask(f"agent/{talk.session}", "get_history")["messages"]:
                if each.get("content"):
                    click.echo(f"{click.style(each['role'], bold=True)}: {_safe(_short(each['content']))}")
        case "cost":
            cost = talk.ask(f"agent/{talk.session}", "get_cost")
            used = cost["usage"]
            click.echo(
                f"${cost['cost_usd']:.6f}, {used['input_tokens']} tokens in, {used['output_tokens']} out, "
                f"{cost['turns']} turns"
            )
        case "model" if rest:
            talk.model = rest
            click.echo(f"model {printable(rest)}")
        case "model":
            headers = {"X-Namespace": talk.namespace}
            for each in talk.client.call("GET", "/v1/models", headers=headers)["data"]:
                mark = "*" if each["id"] == talk.model else " "
                click.echo(printable(f"{mark} {each['id']}  {each['owned_by']}"))
        case "approve" | "reject":
            _decide(talk, word == "approve")
        case _:
            click.echo(f"there is no {printable('/' + word)}; /help lists what there is", err=True)
    return False


def _decide(talk: _Talk, approved: bool) -> None:
    mine = [each for each in waiting(talk.client, talk.namespace) if each["session_id"] == talk.session]
    if not mine:
        click.echo("nothing of this conversation waits for approval")
        return
    path = f"/api/v1/streams/sessions/{talk.session}"
    after = talk.client.call("GET", path, query={"namespace": talk.namespace, "limit": "1"})["last"]
    for each in mine:
        decide(talk.client, each, approved, "", talk.namespace)
        click.echo(printable(f"{'approved' if approved else 'rejected'} {each['tool']} {_short(each['input'])}"))
    # The turn goes on by itself; what comes of it is on the session's stream.
    shown = _Shown(talk)
    try:
        with contextlib.closing(talk.client.follow(path, query={"namespace": talk.namespace}, after=after)) as events:
            for event in events:
                if event["event_type"] == "text_delta":
                    shown.text(event["payload"]["text"])
                    continue
                shown.event(event["event_type"], event["payload"])
                if event["event_type"] in ("end", "approval_requested"):
                    break
    except KeyboardInterrupt:
        # Nobody's connection ends with it, so it has to be told.
        talk.ask("session_manager", "cancel_turn", session_id=talk.session)
        raise
    shown.end()


def _remember_lines() -> None:
    """Arrow keys, and the lines of earlier conversations, where the terminal can."""
    try:
        import atexit
        import readline

        file = Path(default_data_dir()) / "chat_history"
        with contextlib.suppress(OSError):
            readline.read_history_file(file)
        readline.set_history_length(1_000)

        def save() -> None:
            with contextlib.suppress(OSError):
                readline.write_history_file(file)
                file.chmod(0o600)

        atexit.register(save)
    except ImportError:
        return
