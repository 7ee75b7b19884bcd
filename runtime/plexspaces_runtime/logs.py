"""The node's log: each event as one line, for a person on a terminal or as JSON for a machine."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import orjson

from . import events
from .events import Event, EventBus
from .scope import Address, Scope

_LOGGER: Final = "plexspaces.node"
_GUEST_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
# Renewed certificates come a month before the old ones end.
_EXPIRES_SOON_DAYS: Final = 14
_DEBUG, _INFO, _WARNING, _ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR


def _exited(event: events.ActorExited) -> tuple[int, str]:
    """One line for an end and the restart that follows it, so that a crash loop is not a flood."""
    trace = f"\n{event.traceback.rstrip()}" if event.traceback else ""
    ended = f"ended: {event.reason}" + (f" (linked to {event.cause})" if event.cause else "")
    if event.restarts_in_window:
        wait = f" in {event.delay_s:g} s" if event.delay_s else ""
        return _WARNING, f"{ended}; is restarted{wait} ({event.restarts_in_window} of {event.restarts_max}){trace}"
    if event.comes_back:
        return _DEBUG, f"{ended}, to be started again with others"
    if event.orderly:
        return _DEBUG if event.passing else _INFO, ended
    return _WARNING, f"{ended}{trace}"


def _kind(kind: str) -> str:
    """Before a name: that of a type stands for itself."""
    return "application " if kind == "application" else ""


# Level and words of each kind of event.  A test walks all kinds.
LINES: Final[dict[type[Any], Callable[[Any], tuple[int, str]]]] = {
    events.NodeStarted: lambda e: (_INFO, "the node accepts work"),
    events.NodeStopping: lambda e: (_INFO, f"the node stops: running messages have {e.grace_s:g} s"),
    events.CertificateLoaded: lambda e: (
        _WARNING if e.days_left < _EXPIRES_SOON_DAYS else _INFO,
        f"TLS with the certificate of {e.subject} for {', '.join(e.names)}, "
        + (f"which expires in {e.days_left} days" if e.days_left >= 0 else "which has expired: renew it"),
    ),
    events.CertificateRefused: lambda e: (_ERROR, f"TLS goes on with the certificate it had: {e.message}"),
    events.ClientCertified: lambda e: (_INFO, f"{e.subject} connects over {e.door} from {e.peer}"),
    events.ClientRefused: lambda e: (
        _WARNING,
        f"refused {e.subject}, who connects over {e.door} from {e.peer}: none of its names is in client_names",
    ),
    events.StorageFailed: lambda e: (_ERROR, e.message),
    events.StorageRecovered: lambda e: (_INFO, "the disk takes writes again, and what waited is stored"),
    events.StorageFault: lambda e: (_ERROR, f"a write could not be stored: {e.message}"),
    events.ComponentDeployed: lambda e: (
        _INFO,
        f"deployed {e.actor_type} version {e.version} ({e.component_hash[:12]}, {e.size_bytes / 1e6:.1f} MB)",
    ),
    events.DeploymentRefused: lambda e: (_WARNING, f"refused to deploy {e.actor_type}: {e.message} ({e.code})"),
    events.Undeployed: lambda e: (_INFO, f"undeployed {e.actor_type}"),
    events.ActorStarted: lambda e: (
        _DEBUG if e.restarts or e.passing else _INFO,
        f"restarted ({e.restarts} so far)" if e.restarts else "started",
    ),
    events.ActorUpgraded: lambda e: (_INFO, f"goes on as {e.component_hash[:12]}"),
    events.UpgradeRefused: lambda e: (_WARNING, e.message),
    events.ActorExited: _exited,
    events.SupervisorGaveUp: lambda e: (
        _ERROR,
        f"supervisor {e.path} ends: {e.child} ended ({e.reason}) after {e.restarts_in_window} restarts "
        f"in {e.window_s:g} s",
    ),
    events.ApplicationDeployed: lambda e: (
        _INFO,
        f"deployed application {e.name} version {e.version} ({', '.join(e.changes) or 'nothing changed'})",
    ),
    events.ApplicationRefused: lambda e: (_WARNING, f"refused to deploy application {e.name}: {e.message} ({e.code})"),
    events.ApplicationRestarted: lambda e: (_INFO, f"application {e.name} runs again ({e.restarts} restarts so far)"),
    events.ApplicationFailed: lambda e: (
        _ERROR,
        f"application {e.name} failed: {e.reason}; the node starts it again in {e.delay_s:g} s",
    ),
    events.ApplicationStopped: lambda e: (_INFO, f"application {e.name} stopped: {e.reason}"),
    events.DeploymentRestored: lambda e: (_INFO, f"restored {_kind(e.kind)}{e.name} version {e.version}"),
    events.RestoreFailed: lambda e: (
        _ERROR,
        f"could not restore {_kind(e.kind)}{e.name}: {e.message} ({e.code}); "
        + (f"the node tries again in {e.delay_s:g} s" if e.delay_s else "nothing of it is deleted"),
    ),
    events.SpawnedNotRestored: lambda e: (_WARNING, f"could not be spawned again: {e.message} ({e.code})"),
    events.ProcessStarted: lambda e: (
        _WARNING if e.missing else _INFO,
        f"the process of {e.application} has started (pid {e.pid})"
        + (f", less confined than it could be: {'; '.join(e.missing)}" if e.missing else ""),
    ),
    events.ProcessEnded: lambda e: (
        _WARNING if e.delay_s else _INFO,
        f"the process of {e.application} has ended (pid {e.pid}): {e.reason}"
        + (f"; the next one waits {e.delay_s:g} s" if e.delay_s else ""),
    ),
    events.DeactivationRefused: lambda e: (_WARNING, f"stays resident: {e.message}"),
    events.StateNotKept: lambda e: (_WARNING, f"no checkpoint: {e.message}"),
    events.DeadLetter: lambda e: (
        _ERROR,
        f"gave up message {e.message_id} ({e.operation}) after {e.attempts} attempts: {e.reason}; "
        "see `plexspaces dead-letters`",
    ),
    events.FacetFault: lambda e: (
        _ERROR,
        f"facet {e.facet!r} failed in {e.hook}: {e.message} (further failures are not told)\n{e.traceback.rstrip()}",
    ),
    events.MessageRefused: lambda e: (
        _INFO,
        f"refused message {e.message_id} ({e.operation}), which nobody waits for: {e.message} ({e.code})",
    ),
    events.CallerRefused: lambda e: (
        _WARNING,
        f"refused message {e.message_id} ({e.operation}) of {e.subject or 'nobody'}"
        + (f", sent by {e.sender}" if e.sender else "")
        + f": {e.message}",
    ),
    events.MessageExpired: lambda e: (_INFO, f"message {e.message_id} was not handled: nobody waits for it any more"),
    events.FiberOffloaded: lambda e: (
        _INFO,
        f"message {e.message_id} has computed for {e.cpu_ms:.0f} ms and goes on on another thread",
    ),
    events.PermissionRefused: lambda e: (
        _WARNING,
        f"was refused {e.function}" + (f" of {e.name!r}" if e.name else "") + f": that takes {e.line}",
    ),
    events.EverythingGranted: lambda e: (
        _WARNING,
        f'actor type {e.actor_type} may do everything there is: its capabilities say "*"; see `plexspaces grants`',
    ),
    events.EffectCaused: lambda e: (
        _INFO,
        f"{e.interface}.{e.function}" + (f" {e.name!r}" if e.name else "") + f" for {e.subject or 'nobody'} "
        f"(message {e.message_id or 'none'}" + (f", caused by {e.causation_id})" if e.causation_id else ")"),
    ),
    events.HostFault: lambda e: (_ERROR, f"host function {e.interface}.{e.function} failed: {e.message}"),
    events.NodeFault: lambda e: (_ERROR, f"a fault of the node: {e.message}\n{e.traceback.rstrip()}"),
    events.GuestLogged: lambda e: (_GUEST_LEVELS.get(e.level, _INFO), e.message),
    events.GuestLogTruncated: lambda e: (
        _WARNING,
        f"wrote more than {e.lines_max} lines for message {e.message_id}: the rest is dropped",
    ),
    events.MessageDeadLettered: lambda e: (
        _WARNING,
        f"message {e.message_id} ({e.msg_type}) of channel {e.channel} is a dead letter: {e.reason}",
    ),
    events.StreamPaused: lambda e: (
        _WARNING,
        f"stream {e.path} is paused by {e.by}"
        if e.reason == "operator"
        else f"stream {e.path} is paused: more than {e.events_per_second_max} events a second",
    ),
    events.StreamResumed: lambda e: (
        _INFO,
        f"stream {e.path} goes on" + (f" (by {e.by})" if e.by else "") + f"; {e.refused} appends were refused",
    ),
    events.ScheduledAppendRefused: lambda e: (
        _WARNING,
        f"scheduled append {e.schedule_id} to stream {e.path} was refused: {e.message} ({e.code})"
        + ("; it is tried again" if e.retried else "; this one is left out"),
    ),
    events.EgressRequested: lambda e: (
        _DEBUG,
        f"{e.actor} requests {e.method} {e.path} through link {e.link}"
        + (f" (attempt {e.attempt})" if e.attempt > 1 else ""),
    ),
    events.EgressAnswered: lambda e: (
        _DEBUG,
        f"{e.method} {e.path} through link {e.link} for {e.actor}: {e.status} in {e.ms} ms, {e.bytes} bytes",
    ),
    events.EgressFailed: lambda e: (
        _INFO,
        f"{e.method} {e.path} through link {e.link} for {e.actor} failed after {e.ms} ms: {e.message} ({e.code})",
    ),
    events.EgressRefused: lambda e: (
        _WARNING,
        f"{e.actor} was refused {e.method} {e.path} through link {e.link}: {e.reason}",
    ),
    events.BreakerChanged: lambda e: (
        _INFO if e.after == "closed" else _WARNING,
        f"the circuit breaker of link {e.link} is {e.after}; it was {e.before}",
    ),
    events.SecretReflected: lambda e: (
        _WARNING,
        f"an answer to {e.actor} through link {e.link} held what is secret ({', '.join(e.names)}); it was taken out",
    ),
    events.SecretSet: lambda e: (_INFO, f"secret {e.name} of tenant {e.tenant} was set by {e.by}, version {e.version}"),
    events.SecretRemoved: lambda e: (_INFO, f"secret {e.name} of tenant {e.tenant} was removed by {e.by}"),
    events.MasterKeyReplaced: lambda e: (_INFO, f"the secrets are under a new master key, {e.fingerprint}"),
    events.CredentialRegistered: lambda e: (
        _INFO,
        f"registered the phantom token {e.token} for {', '.join(e.links)}",
    ),
    events.CredentialRefused: lambda e: (
        _WARNING,
        f"a request through link {e.link} held the phantom token {e.token}, which is "
        + (f"for {', '.join(e.links)}" if e.links else "not registered"),
    ),
    events.SecretInRequest: lambda e: (
        _ERROR,
        f"a request through link {e.link} was refused: it held the value of "
        + (", ".join(e.names) or "what looks like many secrets"),
    ),
}


def log_events(bus: EventBus) -> Callable[[], None]:
    """Write every event of `bus` to the log from now on; returns what ends it."""
    logger = logging.getLogger(_LOGGER)

    def write(event: Event) -> None:
        level, text = LINES[type(event)](event)
        if logger.isEnabledFor(level):
            logger.log(level, "%s", text, extra={"event": event})

    return bus.subscribe(write)


def configure(stream: TextIO, *, json: bool, level: str) -> None:
    """Send the log of the whole package to `stream`.

    Args:
        json: one JSON object a line, else text for a person.
        level: "debug", "info", "warning" or "error".
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonFormatter() if json else _TextFormatter())
    package = logging.getLogger("plexspaces")
    package.handlers[:] = [handler]
    package.setLevel(level.upper())
    package.propagate = False


def _plain(value: Any) -> Any:
    if isinstance(value, Address | Scope):
        return str(value) if isinstance(value, Address) else f"{value.tenant}/{value.namespace}"
    return value


def _where(event: object) -> str:
    where = getattr(event, "address", None) or getattr(event, "scope", None)
    return f"{_plain(where)}: " if where is not None else ""


def _one_line(text: str) -> str:
    # What a guest writes must not look like a line of the node's, nor command the terminal.
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text).replace(
        "\n", "\n    "
    )


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        where = _where(getattr(record, "event", None))
        line = f"{time} {record.levelname.lower():7} {where}{_one_line(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        event = getattr(record, "event", None)
        if event is not None:
            line["event"] = type(event).__name__
            for field in dataclasses.fields(event):
                line.setdefault(field.name, _plain(getattr(event, field.name)))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()
