"""The commands' way to a node: where it is, which token to show, and what its answers mean."""

from __future__ import annotations

import base64
import json
import os
import ssl
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..config import default_data_dir
from .exits import Exit, exit_for
from .output import CommandError

DEFAULT_URL = "http://127.0.0.1:8080"
# How much longer than its own waiting time the node is given to answer.
_PATIENCE_S = 10.0
_UPLOAD_S = 300.0
_SILENCE_S = 60.0
_RECONNECTS_MAX = 5


@dataclass(frozen=True, slots=True)
class Trust:
    """How a node of TLS is known, and how it knows us.

    Attributes:
        ca_file: who signs its certificate, in PEM; None for whom the system believes.
        pinned_file: its certificate itself, from its own data directory; names are not compared then.
        cert_file, key_file: our certificate and its key, for a node that wants one.
    """

    ca_file: Path | None = None
    pinned_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """For a client.

        Raises:
            CommandError: a file cannot be used.
        """
        try:
            if self.ca_file is None and self.pinned_file is not None:
                context = ssl.create_default_context(cafile=str(self.pinned_file))
                # Believed because of where it was found, whatever names it has and whoever signed it.
                context.check_hostname = False
                context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            else:
                context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file, password="")
        except (OSError, ValueError) as error:
            raise CommandError(
                f"a file for TLS cannot be used: {error}",
                "PLEXSPACES_CA_FILE, PLEXSPACES_CLIENT_CERT_FILE and PLEXSPACES_CLIENT_KEY_FILE name PEM files",
            ) from None
        return context


def find_trust(env: Mapping[str, str], pinned_file: Path | None = None) -> Trust:
    """What the environment says of TLS.

    Args:
        pinned_file: the certificate of a node on this machine.
    """

    def path(name: str) -> Path | None:
        return Path(env[name]).expanduser() if env.get(name) else None

    return Trust(
        path("PLEXSPACES_CA_FILE"), pinned_file, path("PLEXSPACES_CLIENT_CERT_FILE"), path("PLEXSPACES_CLIENT_KEY_FILE")
    )


@dataclass(frozen=True, slots=True)
class Target:
    """A node and how to be let in.

    Args:
        url: without a trailing slash.
        token: a bearer token; "" when none was found.
        where_from: how the token was found, for messages.
        trust: whom to believe that it is the node, where the URL is one of TLS.
    """

    url: str
    token: str
    where_from: str
    trust: Trust = Trust()

    @property
    def tenant(self) -> str:
        """The tenant that the token speaks for; only the node can tell whether it is genuine."""
        try:
            body = self.token.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            return str(claims.get("tenant") or "default")
        except (IndexError, ValueError, AttributeError):
            return "default"


def find_target(env: Mapping[str, str] | None = None, data_dir: Path | None = None) -> Target:
    """`PLEXSPACES_URL` and `PLEXSPACES_TOKEN`, each else what the local node left in its data directory."""
    env = os.environ if env is None else env
    data_dir = data_dir or default_data_dir(env)
    url, pinned_file = env.get("PLEXSPACES_URL") or "", None
    if not url:
        url, pinned_file = _running(data_dir)
    token, where_from = env.get("PLEXSPACES_TOKEN", ""), "PLEXSPACES_TOKEN"
    if not token:
        file = data_dir / "token"
        where_from = str(file)
        try:
            token = file.read_text(encoding="utf-8").strip()
        except OSError:
            token = ""
    return Target(url.rstrip("/"), token.strip(), where_from, find_trust(env, pinned_file))


def _running(data_dir: Path) -> tuple[str, Path | None]:
    """Where the node of this data directory is, and its certificate if it has one."""
    try:
        said = json.loads((data_dir / "node.json").read_text(encoding="utf-8"))
        url, cert_file = said["url"], said.get("cert_file")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return DEFAULT_URL, None
    if not isinstance(url, str):
        return DEFAULT_URL, None
    return url, Path(cert_file) if isinstance(cert_file, str) else None


class NodeClient:
    """Calls the HTTP API and turns its refusals into errors of the command line."""

    def __init__(self, target: Target | None = None) -> None:
        self.target = target or find_target()
        self._kept: Any = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """The calls of the block go over one connection, as long as the node keeps it."""
        with self._client() as self._kept:
            try:
                yield
            finally:
                self._kept = None

    def actor_path(self, actor: str, *, tenant: str | None, namespace: str) -> str:
        """The path of `type` or `type/key`."""
        parts = [tenant or self.target.tenant, namespace, *actor.split("/", 1)]
        return "/api/v1/actors/" + "/".join(quote(part, safe="") for part in parts)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        form: Mapping[str, str] | None = None,
        files: Mapping[str, tuple[str, bytes, str]] | None = None,
        timeout_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request; the answer's JSON, or None if it has no body.

        Raises:
            CommandError: the node cannot be reached, or it refused.
        """
        import httpx

        sent = self._headers("application/json", headers)
        wait = httpx.Timeout(_UPLOAD_S if files else timeout_s + _PATIENCE_S, connect=5.0)
        try:
            with self._client() as client:
                answer = client.request(
                    method,
                    self.target.url + path,
                    params=dict(query or {}),
                    json=body,
                    data=dict(form or {}) or None,
                    files=dict(files or {}) or None,
                    headers=sent,
                    timeout=wait,
                )
        except httpx.TimeoutException:
            raise CommandError(
                f"the node at {self.target.url} did not answer in time",
                "plexspaces ps, to see whether it is busy; a longer --timeout",
                Exit.TRY_LATER,
                "deadline-exceeded",
            ) from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None
        if answer.is_success:
            try:
                return answer.json() if answer.content else None
            except (ValueError, RecursionError):
                raise self._no_node("what came is not JSON") from None
        raise self._refusal(answer)

    def follow(self, path: str, *, query: Mapping[str, str], after: int) -> Generator[Any, None, None]:
        """The events of a stream after an offset, each as JSON, for as long as there is a node.

        A connection that ends is made again, and goes on behind the last event that came.

        Raises:
            CommandError: the node cannot be reached, several times in a row, or it refused.
        """
        import httpx

        failures, retry_s = 0, 1.0
        while True:
            sent = self._headers("text/event-stream", {"Last-Event-ID": str(after)})
            # Silence is broken by a heartbeat well before this.
            wait = httpx.Timeout(_SILENCE_S, connect=5.0)
            try:
                with (
                    self._client() as client,
                    client.stream(
                        "GET", self.target.url + path, params={**query, "live": "true"}, headers=sent, timeout=wait
                    ) as got,
                ):
                    if not got.is_success:
                        got.read()
                        raise self._refusal(got)
                    failures = 0
                    for line in got.iter_lines():
                        name, _, value = line.partition(": ")
                        try:
                            if name == "retry":
                                retry_s = min(int(value) / 1_000, _SILENCE_S)
                            elif name == "data":
                                event = json.loads(value)
                                after = int(event["offset"])
                        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                            raise self._no_node("what came is no stream of events") from None
                        if name == "data":
                            yield event
            except (httpx.TransportError, httpx.InvalidURL) as error:
                failures += 1
                if failures >= _RECONNECTS_MAX:
                    raise self._unreachable(error) from None
            time.sleep(retry_s)

    def stream(
        self, method: str, path: str, *, body: Any, headers: Mapping[str, str], timeout_s: float
    ) -> Iterator[tuple[str, str]]:
        """The Server-Sent Events of one answer: name ("" for none) and data of each.

        Raises:
            CommandError: the node cannot be reached, it refused, or the answer broke off.
        """
        import httpx

        sent = self._headers("text/event-stream", headers)
        wait = httpx.Timeout(timeout_s, connect=5.0)
        try:
            with (
                self._client() as client,
                client.stream(method, self.target.url + path, json=body, headers=sent, timeout=wait) as got,
            ):
                if not got.is_success:
                    got.read()
                    raise self._refusal(got)
                event = ""
                for line in got.iter_lines():
                    name, _, value = line.partition(": ")
                    if name == "event":
                        event = value
                    elif name == "data":
                        yield event, value
                        event = ""
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None

    def _headers(self, accept: str, more: Mapping[str, str] | None) -> dict[str, str]:
        sent = {"Accept": accept, **(more or {})}
        if self.target.token:
            sent["Authorization"] = f"Bearer {self.target.token}"
        return sent

    def _client(self) -> Any:
        import httpx

        if self._kept is not None:
            return nullcontext(self._kept)
        # Plaintext needs no context, and making one takes as long as an answer.
        verify = self.target.trust.context() if self.target.url.startswith("https:") else True
        return httpx.Client(trust_env=not self._is_local(), verify=verify)

    def _is_local(self) -> bool:
        """A proxy is for the way out, not for the node next door."""
        import httpx

        return httpx.URL(self.target.url).host in ("127.0.0.1", "localhost", "::1")

    def _unreachable(self, error: Exception) -> CommandError:
        return CommandError(
            f"no node answers at {self.target.url} ({error})",
            "plexspaces serve, or set PLEXSPACES_URL to where one runs",
            Exit.UNREACHABLE,
            "unreachable",
        )

    def _no_node(self, why: str) -> CommandError:
        return CommandError(
            f"what answers at {self.target.url} is no node of PlexSpaces, or one of another version: {why}",
            "plexspaces serve, or set PLEXSPACES_URL to where one runs",
            code="bad-answer",
        )

    def _refusal(self, answer: Any) -> CommandError:
        try:
            problem = answer.json()
        except (ValueError, RecursionError):
            problem = {}
        if not isinstance(problem, dict):
            problem = {}
        code = str(problem.get("code") or ("unauthenticated" if answer.status_code == 401 else "failed"))
        message = str(problem.get("detail") or problem.get("title") or f"HTTP {answer.status_code}")
        known = {"type", "title", "status", "detail", "code", "instance"}
        details = {key: value for key, value in problem.items() if key not in known}
        if isinstance(nested := details.pop("details", None), dict):
            details |= nested
        status = exit_for(code)
        if status is Exit.FAILED and answer.status_code in (401, 403):
            status = Exit.NOT_ALLOWED
        return CommandError(message, self._hint(code, answer), status, code, details)

    def _hint(self, code: str, answer: Any) -> str:
        match code:
            case "unauthenticated" if not self.target.token:
                return f"set PLEXSPACES_TOKEN; there is no token in {self.target.where_from}"
            case "unauthenticated":
                return f"check the token from {self.target.where_from}, or make one: plexspaces token --ttl 1d"
            case "permission-denied":
                return f"the token speaks for tenant {self.target.tenant!r}"
            case "actor-not-found":
                return "plexspaces ps, or deploy it: plexspaces deploy FILE --type TYPE"
            case "not-found" if "/api/v1/streams/" in str(answer.request.url):
                return "plexspaces streams ls, to see which there are"
            case "not-found" if "/api/v1/dead-letters/" in str(answer.request.url):
                return "plexspaces dead-letters ls, to see which there are"
            case "not-found" if "/api/v1/workflows/" in str(answer.request.url):
                return "plexspaces workflows ls, to see which there are"
            case "not-found" if "/api/v1/promises/" in str(answer.request.url):
                return "plexspaces promises ls --all, to see which there are"
            case "not-found" if "/api/v1/journals/" in str(answer.request.url):
                return "plexspaces journal ls, to see which there are"
            case "not-found" if "/api/v1/applications/" in str(answer.request.url):
                return "plexspaces apps, to see which there are"
            case "mailbox-full" | "rate-limited":
                return f"again in {answer.headers.get('Retry-After', 'a few')} s"
            case "deadline-exceeded":
                return "a longer --timeout, or tell instead of ask"
            case _:
                return ""
