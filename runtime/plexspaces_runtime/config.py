"""What a node may be told: its settings and limits, read strictly from a TOML file, the environment and flags.

A flag wins over the environment, which wins over the file, which wins over the default.  Everything that is wrong
is reported at once, each with its place and, for a misspelt name, the nearest right one.

The file has a few tables, the environment the same names in capitals:

    [node]                                  PLEXSPACES_PORT=8080
    port = 8080
    [auth]                                  PLEXSPACES_AUTH_ISSUER=https://login.example.com
    issuer = "https://login.example.com"
    [egress]                                PLEXSPACES_EGRESS_PERMITTED=10.1.0.0/16
    permitted = ["10.1.0.0/16"]
    [limits]                                PLEXSPACES_LIMITS_MEMORY_BYTES_MAX=67108864
    memory_bytes_max = 67_108_864
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from .errors import InvalidArgument

_KIB = 1024
_MIB = 1024 * _KIB
_GIB = 1024 * _MIB


class ConfigError(InvalidArgument):
    """The configuration cannot be used; the message lists every issue, `details["issues"]` holds them."""

    def __init__(self, issues: list[str]) -> None:
        super().__init__("the configuration cannot be used:\n" + "\n".join(f"  {issue}" for issue in issues))
        self.details = {"issues": issues}


# ruff does not know that `_setting` is a field specifier.
# ruff: noqa: RUF009


def _setting(
    default: Any, doc: str, *, low: float | None = None, high: float | None = None, secret: bool = False
) -> Any:
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "secret": secret}, repr=not secret)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one tenant, actor or message may use.  Every limit is positive and names its unit."""

    memory_bytes_max: int = _setting(
        64 * _MIB, "Linear memory of one actor; a Python guest needs 13 MiB.", low=16 * _MIB, high=4 * _GIB
    )
    cpu_ms_per_message_max: int = _setting(5_000, "Computing time of one message, waiting not counted.", low=1)
    wall_s_per_message_max: float = _setting(
        300.0, "Time from the start of a message to its end, waiting included.", low=0.001
    )
    mailbox_messages_max: int = _setting(1_000, "Messages that wait for one actor.", low=1)
    payload_bytes_max: int = _setting(1 * _MIB, "Arguments or reply of one message, as UTF-8 JSON.", low=64)
    host_calls_per_message_max: int = _setting(100_000, "Calls into the node during one message.", low=1)
    log_lines_per_message_max: int = _setting(1_000, "Lines kept of what one message logs.", low=0)
    log_line_bytes_max: int = _setting(8 * _KIB, "Bytes kept of one logged line.", low=80)
    state_bytes_max: int = _setting(8 * _MIB, "An actor's state, as the SDK writes it.", low=64)
    actors_per_tenant_max: int = _setting(10_000, "Actors of one tenant that live at the same time.", low=1)
    links_per_actor_max: int = _setting(10_000, "Links of one actor, EXIT messages that wait for it included.", low=1)
    monitors_per_actor_max: int = _setting(
        10_000, "Monitors that one actor holds, DOWN messages that wait for it included.", low=1
    )
    timers_per_actor_max: int = _setting(10_000, "Timers of one actor, those whose message waits included.", low=1)
    groups_per_actor_max: int = _setting(1_000, "Process groups that one actor is in.", low=1)
    labels_per_actor_max: int = _setting(64, "Labels of one actor in the registry.", low=1)
    virtual_actors_resident_per_tenant_max: int = _setting(
        5_000, "Virtual actors of one tenant that are in memory at the same time.", low=1
    )
    virtual_state_bytes_per_tenant_max: int = _setting(
        256 * _MIB, "States of one tenant's virtual actors that are not in memory.", low=0
    )
    streams_per_tenant_max: int = _setting(100_000, "Event streams of one tenant.", low=1)
    stream_event_bytes_max: int = _setting(
        256 * _KIB, "Payload of one event; a larger one becomes an error event.", low=64
    )
    stream_events_max: int = _setting(10_000, "Events kept of one stream; older ones go.", low=1)
    stream_bytes_max: int = _setting(64 * _MIB, "Bytes kept of one stream; older events go.", low=_KIB)
    stream_age_s_max: float = _setting(2_592_000.0, "How long an event is kept.", low=1)
    stream_events_per_second_max: int = _setting(
        100, "Events a second, and at once, after which a stream is paused.", low=1
    )
    stream_pause_s: float = _setting(10.0, "How long a stream paused so has to be left alone to go on.", low=0.01)
    stream_keys_max: int = _setting(1_000, "Idempotency keys remembered of one stream.", low=1)
    stream_key_age_s_max: float = _setting(86_400.0, "How long an idempotency key is remembered.", low=1)
    stream_subscriptions_per_actor_max: int = _setting(100, "Streams that one actor is subscribed to.", low=1)
    live_readers_per_tenant_max: int = _setting(1_000, "Live readers of one tenant's streams over HTTP.", low=1)
    schedules_per_tenant_max: int = _setting(1_000, "Scheduled appends of one tenant.", low=1)
    blob_bytes_max: int = _setting(256 * _MIB, "Size of one blob.", low=1)
    blobs_per_tenant_max: int = _setting(100_000, "Blobs of one tenant.", low=1)
    pending_writes_max: int = _setting(100_000, "Writes of the node that wait for the disk.", low=1)
    pending_write_bytes_max: int = _setting(256 * _MIB, "Bytes of the writes that wait for the disk.", low=_MIB)
    value_bytes_max: int = _setting(1 * _MIB, "One stored value, as UTF-8 JSON.", low=64)
    stored_bytes_per_tenant_max: int = _setting(10 * _GIB, "What one tenant's stores hold together.", low=_KIB)
    keys_per_tenant_max: int = _setting(1_000_000, "Keys of one tenant's key-value store.", low=1)
    tuples_per_tenant_max: int = _setting(1_000_000, "Tuples of one tenant's spaces.", low=1)
    tuple_bytes_max: int = _setting(64 * _KIB, "One tuple, as UTF-8 JSON.", low=16)
    tuples_examined_max: int = _setting(
        100_000, "Tuples that one call may look at, where the pattern's equal fields do not single them out.", low=1
    )
    tuple_subscriptions_per_actor_max: int = _setting(100, "Tuple patterns that one actor is subscribed to.", low=1)
    tuple_matches_waiting_max: int = _setting(
        1_000, "Matches that wait for one subscriber; beyond that nobody can write such a tuple.", low=1
    )
    channel_messages_max: int = _setting(100_000, "Messages of one channel that wait or are leased.", low=1)
    channel_deliveries_max: int = _setting(5, "Deliveries after which a message becomes a dead letter.", low=1)
    channel_dedup_ids_max: int = _setting(10_000, "Dedup ids remembered of one channel.", low=1)
    channel_dedup_age_s_max: float = _setting(3_600.0, "How long a dedup id is remembered.", low=1)
    channel_subscriptions_per_actor_max: int = _setting(100, "Channels that one actor is subscribed to.", low=1)
    http_streams_per_actor_max: int = _setting(
        16, "Answers from outside that one actor reads piece by piece at the same time.", low=1
    )
    workflows_per_tenant_max: int = _setting(100_000, "Runs of one tenant's workflows, ended ones included.", low=1)
    workflow_age_s_max: float = _setting(2_592_000.0, "How long the outcome of a run is kept.", low=1)
    signals_waiting_max: int = _setting(1_000, "Signals that wait for one run.", low=1)
    promises_per_tenant_max: int = _setting(100_000, "Promises of one tenant, resolved ones included.", low=1)
    promise_age_s_max: float = _setting(31_536_000.0, "How long a promise is kept.", low=1)
    secrets_per_tenant_max: int = _setting(1_000, "Named secrets of one tenant.", low=1)
    secret_bytes_max: int = _setting(64 * _KIB, "One secret value, as UTF-8.", low=64, high=1 * _MIB)
    credentials_per_tenant_max: int = _setting(
        2_000, "Phantom tokens of one tenant, those of messages included.", low=1
    )
    requests_per_second_per_tenant_max: float = _setting(20_000.0, "Requests of one tenant to the edge.", low=0.001)
    requests_burst_per_tenant: int = _setting(20_000, "How many of them may come at once.", low=1)
    requests_per_second_per_caller_max: float = _setting(
        10_000.0, "Requests with tokens of one tenant and subject.", low=0.001
    )
    requests_burst_per_caller: int = _setting(10_000, "How many of them may come at once.", low=1)
    requests_per_second_per_actor_max: float = _setting(
        10_000.0, "Messages that come to one actor from outside.", low=0.001
    )
    requests_burst_per_actor: int = _setting(10_000, "How many of them may come at once.", low=1)
    requests_in_flight_per_tenant_max: int = _setting(
        5_000, "Requests of one tenant that are under way at the same time.", low=1
    )
    ask_timeout_ms: int = _setting(30_000, "How long an ask waits that names no timeout of its own.", low=1)
    wasm_bytes_max: int = _setting(64 * _MIB, "Size of an uploaded component.", low=_KIB, high=1 * _GIB)
    compile_memory_bytes_max: int = _setting(4 * _GIB, "Memory that compiling one component may take.", low=256 * _MIB)
    compile_s_max: float = _setting(120.0, "How long compiling one component may take.", low=1)
    components_max: int = _setting(256, "Compiled components kept in memory.", low=1)
    slice_ms: int = _setting(2, "How long a handler computes before others have their turn.", low=1, high=1_000)
    offload_after_slices: int = _setting(
        10, "Slices in a row after which a handler goes on, on a thread of its own.", low=1
    )
    process_memory_bytes_max: int = _setting(
        1 * _GIB, "Private memory of one isolated application's process.", low=128 * _MIB
    )
    offload_threads: int = _setting(1, "Threads for handlers that compute for long.", low=1, high=64)


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Whose tokens are believed.  With nothing set, only those signed by the node's own key."""

    issuer: str | None = _setting(None, "The `iss` a token must carry.")
    audience: str | None = _setting(None, "The `aud` a token must carry.")
    algorithms: tuple[str, ...] = _setting((), "Accepted signature algorithms, for example RS256, ES256, EdDSA.")
    jwks_file: Path | None = _setting(None, "A JSON Web Key Set with the issuer's public keys.")
    jwks_url: str | None = _setting(None, "Where the issuer publishes its JSON Web Key Set (https).")
    public_key_file: Path | None = _setting(None, "One public key of the issuer, in PEM.")


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """TLS of both doors, HTTP and gRPC.  With a certificate and its key it is on."""

    cert_file: Path | None = _setting(None, "The certificate and those between it and its root, in PEM.")
    key_file: Path | None = _setting(None, "The certificate's private key, in PEM; only this user may read it.")
    client_ca_file: Path | None = _setting(None, "Who signs clients' certificates: one or more roots, in PEM.")
    client_auth: str = _setting(
        "none", "Whether clients have certificates too: none, optional (gRPC asks for none then) or required."
    )
    client_names: tuple[str, ...] = _setting(
        (), "Names of which a client's certificate must carry one: its common name, a DNS name or a URI."
    )

    @property
    def on(self) -> bool:
        """Whether there is a certificate."""
        return self.cert_file is not None


@dataclass(frozen=True, slots=True)
class EgressConfig:
    """What the operator allows of the way out."""

    permitted: tuple[str, ...] = _setting(
        (), "Ranges of addresses that are not public and that links may lead to, for example 10.1.0.0/16."
    )


@dataclass(frozen=True, slots=True)
class SecretsConfig:
    """Where the key is that all secrets are kept under.  With nothing set, a file that the node makes."""

    key_file: Path | None = _setting(None, "The file with the master key, in place of keys/secrets.key.")
    key: str | None = _setting(
        None, "The master key itself, base64 of 32 bytes: from the environment alone.", secret=True
    )
    previous_key: str | None = _setting(
        None, "The one before it, to go over from; from the environment alone.", secret=True
    )


@dataclass(frozen=True, slots=True)
class LinkTable:
    """A `[links.NAME]` of the node file as it is written: whoever knows links reads it.

    Attributes:
        places: file and line by key; "" is the table's own.
    """

    content: Mapping[str, Any]
    places: Mapping[str, str]


_BESIDE = Path("plexspaces-data")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything a node is told when it starts.  It is not read again."""

    data_dir: Path = _setting(_BESIDE, "Where the node keeps keys, caches and stores.")
    cache_dir: Path = _setting(
        _BESIDE / "cache", "Where compiled components are kept; what is in there may be removed at any time."
    )
    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(8080, "Port to listen on; 0 lets the system choose.", low=0, high=65_535)
    grpc: bool = _setting(True, "Whether there is a gRPC door beside HTTP.")
    grpc_port: int = _setting(
        9090, "Its port; 0 lets the system choose, as does a port of 0 where this is not set.", low=0, high=65_535
    )
    insecure_plaintext: bool = _setting(
        False, "Listen beyond this machine without TLS, for example behind a proxy that does it."
    )
    grace_s: float = _setting(10.0, "How long a stopping node lets running messages finish.", low=0, high=3_600)
    restore_wait_s: float = _setting(
        5.0,
        "How long one deployment that a starting node brings back may keep it and the next ones waiting.",
        low=0,
        high=3_600,
    )
    tenant: str = _setting("default", "The tenant of the local token.")
    isolation: str = _setting(
        "none", "Where actors run whose application does not say: none (in the node's process) or process (in its own)."
    )
    harden: str = _setting(
        "off", "What the node gives up when it starts: off, on (what this kernel can do of it) or strict (all of it)."
    )
    audit: str = _setting("off", "`effects` tells of each effect of an actor, and who is answerable for it.")
    auth: AuthConfig = field(default_factory=AuthConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    egress: EgressConfig = field(default_factory=EgressConfig)
    secrets: SecretsConfig = field(default_factory=SecretsConfig)
    limits: Limits = field(default_factory=Limits)
    # Ways out of actors of every tenant, or of those that they name.
    links: Mapping[str, LinkTable] = field(default_factory=dict)
    # By tenant, the limits of those that have some of their own; only `QUOTAS` differ.
    quotas: Mapping[str, Limits] = field(default_factory=dict)


# The limits that `[quotas.TENANT]` may set for one tenant.
QUOTAS = tuple(each.name for each in fields(Limits) if each.name.startswith("requests_"))

_TABLES: Mapping[str, type[Any]] = {
    "node": NodeConfig,
    "auth": AuthConfig,
    "tls": TlsConfig,
    "egress": EgressConfig,
    "secrets": SecretsConfig,
    "limits": Limits,
}
_PREFIX = {
    "node": "PLEXSPACES_",
    "auth": "PLEXSPACES_AUTH_",
    "tls": "PLEXSPACES_TLS_",
    "egress": "PLEXSPACES_EGRESS_",
    "secrets": "PLEXSPACES_SECRETS_",
    "limits": "PLEXSPACES_LIMITS_",
}
# Flags that are no settings of the node's own table.
_FLAGS = {"egress_permit": ("egress", "permitted")}
_ALGORITHMS = frozenset(f"{family}{bits}" for family in ("HS", "RS", "PS", "ES") for bits in (256, 384, 512)) | {
    "EdDSA"
}
_CLIENT_AUTH = ("none", "optional", "required")
ISOLATIONS = ("none", "process")
HARDENING = ("off", "on", "strict")
_HTTPS_OR_LOCAL = re.compile(r"https://|http://(localhost|127\.0\.0\.1|\[::1\])[:/]")
_T = TypeVar("_T")


def default_data_dir(env: Mapping[str, str] | None = None) -> Path:
    """`$PLEXSPACES_DATA_DIR`, else `$XDG_DATA_HOME/plexspaces`, else `~/.local/share/plexspaces`."""
    env = os.environ if env is None else env
    if chosen := env.get("PLEXSPACES_DATA_DIR"):
        return Path(chosen).expanduser()
    return _xdg(env, "XDG_DATA_HOME", ".local/share") / "plexspaces"


def default_cache_dir(env: Mapping[str, str] | None = None) -> Path:
    """`$PLEXSPACES_CACHE_DIR`, else `$XDG_CACHE_HOME/plexspaces`, else `~/.cache/plexspaces`.

    What is in there may be removed at any time.
    """
    env = os.environ if env is None else env
    if chosen := env.get("PLEXSPACES_CACHE_DIR"):
        return Path(chosen).expanduser()
    return _xdg(env, "XDG_CACHE_HOME", ".cache") / "plexspaces"


def _xdg(env: Mapping[str, str], variable: str, below_home: str) -> Path:
    # The base directory specification: a relative path is invalid and to be ignored.
    base = env.get(variable, "")
    if base.startswith("/"):
        return Path(base)
    return Path(env.get("HOME") or Path.home()) / below_home


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """One setting, as documentation and command line see it."""

    table: str
    name: str
    default: Any
    doc: str
    environment: str


def settings() -> Iterator[SettingInfo]:
    """Every setting there is, in the order of the tables."""
    for table, cls in _TABLES.items():
        for each in _plain_fields(cls):
            yield SettingInfo(table, each.name, each.default, each.metadata["doc"], _PREFIX[table] + each.name.upper())


def load(
    file: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> NodeConfig:
    """Read a node's configuration.

    Args:
        file: a TOML file with the tables `node`, `auth` and `limits`, or none.  Paths in it are relative to it.
        env: the environment; the process's own by default.
        flags: settings of `NodeConfig` by name, from the command line; those that are `None` were not given.

    Raises:
        ConfigError: anything is unknown, of the wrong type, out of range or contradictory.
    """
    env = os.environ if env is None else env
    issues: list[str] = []
    values: dict[str, dict[str, Any]] = {table: {} for table in _TABLES}
    if file is not None:
        _read_file(file, values, issues)
    _read_environment(env, values, issues)
    for name, value in (flags or {}).items():
        if value is not None:
            table, key = _FLAGS.get(name, ("node", name))
            _accept(table, key, value, f"--{name.replace('_', '-')}", values, issues)
    if values["node"].get("port") == 0:
        # Whoever lets one port be chosen has another node beside this one.
        values["node"].setdefault("grpc_port", 0)
    values["node"].setdefault("data_dir", default_data_dir(env))
    values["node"].setdefault("cache_dir", default_cache_dir(env))
    if issues:
        raise ConfigError(issues)
    limits = Limits(**values["limits"])
    config = NodeConfig(
        **values["node"],
        auth=AuthConfig(**values["auth"]),
        tls=TlsConfig(**values["tls"]),
        egress=EgressConfig(**values["egress"]),
        secrets=SecretsConfig(**values["secrets"]),
        limits=limits,
        links=values.get("links", {}),
        quotas={tenant: replace(limits, **own) for tenant, own in values.get("quotas", {}).items()},
    )
    issues.extend(_contradictions(config))
    if issues:
        raise ConfigError(issues)
    return config


def _read_file(file: Path, values: dict[str, dict[str, Any]], issues: list[str]) -> None:
    try:
        text = file.read_text(encoding="utf-8")
        document = tomllib.loads(text)
        # In hexadecimal any number can be read; what says that it is wrong could not be written.
        repr(document)
    except OSError as error:
        issues.append(f"{file}: cannot be read: {error.strerror}")
        return
    except RecursionError:
        issues.append(f"{file}: not a TOML file: values are nested too deeply")
        return
    # TOMLDecodeError, UnicodeDecodeError, or a number of more digits than Python converts.
    except ValueError as error:
        issues.append(f"{file}: not a TOML file: {error}")
        return
    lines = _key_lines(text)
    _read_quotas(file, document.pop("quotas", {}), lines, values, issues)
    _read_links(file, document.pop("links", {}), lines, values, issues)
    for table, content in document.items():
        place = f"{file}:{lines.get((table, ''), lines.get(('', table), 1))}"
        if table not in _TABLES:
            hint = _nearest(table, _TABLES)
            homes = [t for t, cls in _TABLES.items() if table in {f.name for f in _plain_fields(cls)}]
            if homes and not isinstance(content, dict):
                hint = f"it belongs into the table [{homes[0]}]"
            issues.append(f"{place}: unknown table or key {table!r}; {hint}")
        elif not isinstance(content, dict):
            issues.append(f"{place}: {table!r} is a table; write [{table}] and its keys below it")
        else:
            for name, value in content.items():
                at = f"{file}:{lines.get((table, name), 1)}"
                _accept(table, name, value, at, values, issues, base=file.parent)


def _read_quotas(
    file: Path, content: Any, lines: Mapping[tuple[str, str], int], values: dict[str, dict[str, Any]], issues: list[str]
) -> None:
    """`[quotas.TENANT]`: limits of one tenant."""
    tables = content if isinstance(content, dict) else {"": content}
    for tenant, own in tables.items():
        table = f"quotas.{tenant}"
        place = f"{file}:{lines.get((table, ''), lines.get(('quotas', tenant), lines.get(('quotas', ''), 1)))}"
        if not _NAME.fullmatch(tenant) or not isinstance(own, dict):
            issues.append(f"{place}: quotas are one table for each tenant; write [quotas.TENANT] and its keys below it")
            continue
        accepted: dict[str, dict[str, Any]] = {"limits": {}}
        for name, value in own.items():
            at = f"{file}:{lines.get((table, name), 1)}"
            if name in QUOTAS:
                _accept("limits", name, value, at, accepted, issues)
            else:
                issues.append(f"{at}: unknown key {name!r} in [{table}]; {_nearest(name, QUOTAS)}")
        values.setdefault("quotas", {})[tenant] = accepted["limits"]


def _read_links(
    file: Path, content: Any, lines: Mapping[tuple[str, str], int], values: dict[str, dict[str, Any]], issues: list[str]
) -> None:
    """`[links.NAME]`: ways out, which are kept as they are written."""
    tables = content if isinstance(content, dict) else {"": content}
    for name, own in tables.items():
        table = f"links.{name}"
        home = lines.get((table, ""), lines.get(("links", name), lines.get(("links", ""), 1)))
        if not isinstance(own, dict):
            issues.append(f"{file}:{home}: links are one table each; write [links.NAME] and its keys below it")
            continue
        places = {key: f"{file}:{lines.get((table, key), home)}" for key in own}
        values.setdefault("links", {})[name] = LinkTable(own, {"": f"{file}:{home}", **places})


def _read_environment(env: Mapping[str, str], values: dict[str, dict[str, Any]], issues: list[str]) -> None:
    for setting in settings():
        # An empty variable is how shells and compose files say "not set".
        if text := env.get(setting.environment):
            _accept(setting.table, setting.name, text, setting.environment, values, issues, textual=True)
    # Only our own prefixes can be judged: Kubernetes adds variables named after any service called plexspaces.
    for table in ("auth", "tls", "egress", "secrets", "limits"):
        known = {s.environment for s in settings() if s.table == table}
        for variable in env:
            if variable.startswith(_PREFIX[table]) and variable not in known:
                issues.append(f"{variable}: unknown; {_nearest(variable, known)}")


def _accept(
    table: str,
    name: str,
    value: Any,
    place: str,
    values: dict[str, dict[str, Any]],
    issues: list[str],
    *,
    textual: bool = False,
    base: Path | None = None,
) -> None:
    cls = _TABLES[table]
    known = {f.name: f for f in _plain_fields(cls)}
    if name not in known:
        issues.append(f"{place}: unknown key {name!r} in [{table}]; {_nearest(name, known)}")
        return
    if known[name].metadata["secret"] and not textual:
        issues.append(f"{place}: {name} comes from the environment alone: {_PREFIX[table]}{name.upper()}")
        return
    try:
        converted = _convert(get_type_hints(cls)[name], value, textual=textual, base=base)
        low, high = known[name].metadata["low"], known[name].metadata["high"]
        if low is not None and converted < low:
            raise ValueError(f"must be at least {low}")
        if high is not None and converted > high:
            raise ValueError(f"must be at most {high}")
    except ValueError as error:
        issues.append(f"{place}: {name} = {_shown(value)}: {error}")
    else:
        values[table][name] = converted


def _convert(hint: Any, value: Any, *, textual: bool, base: Path | None) -> Any:
    if hint is bool:
        if textual and value in ("true", "false"):
            return value == "true"
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value
    if hint is int:
        return _number(value, int, "a whole number", textual)
    if hint is float:
        number = _number(value, float, "a number", textual)
        if number != number or number in (float("inf"), float("-inf")):
            raise ValueError("must be finite")
        return number
    if hint == tuple[str, ...]:
        items = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) and item for item in items):
            raise ValueError('must be a list of texts, such as ["RS256"]')
        return tuple(items)
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("must be a text that is not empty")
    if hint in (Path, Path | None):
        try:
            path = Path(value).expanduser()
        except RuntimeError as error:
            # There is no user of that name.
            raise ValueError(str(error)) from None
        return base / path if base is not None else path
    return str(value)


def _number(value: Any, to: type[_T], called: str, textual: bool) -> _T:
    allowed: tuple[type, ...] = (int, float) if to is float else (int,)
    if textual:
        try:
            return cast(_T, cast(Any, to)(value.replace("_", "")))
        except ValueError:
            raise ValueError(f"must be {called}") from None
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise ValueError(f"must be {called}")
    try:
        return cast(_T, cast(Any, to)(value))
    except OverflowError:
        raise ValueError("is too large") from None


def _contradictions(config: NodeConfig) -> Iterator[str]:
    limits, auth = config.limits, config.auth
    if limits.ask_timeout_ms > limits.wall_s_per_message_max * 1_000:
        yield (
            f"limits: ask_timeout_ms = {limits.ask_timeout_ms} is longer than wall_s_per_message_max = "
            f"{limits.wall_s_per_message_max:g} s: a message that asks would be ended before its answer is late"
        )
    if limits.slice_ms > limits.cpu_ms_per_message_max:
        yield "limits: slice_ms is longer than cpu_ms_per_message_max: the limit could not be kept"
    for algorithm in auth.algorithms:
        if algorithm not in _ALGORITHMS:
            yield f"auth: unknown algorithm {_shown(algorithm)}; {_nearest(algorithm, _ALGORITHMS)}"
    yield from _exposed(config)
    sources = [name for name in ("jwks_file", "jwks_url", "public_key_file") if getattr(auth, name) is not None]
    if len(sources) > 1:
        yield f"auth: {' and '.join(sources)} are alternatives; keep one"
    if auth.jwks_url is not None and not _HTTPS_OR_LOCAL.match(auth.jwks_url):
        yield "auth: jwks_url must begin with https:// (http only on this machine): who answers it decides who gets in"
    for text in config.egress.permitted:
        try:
            if ipaddress.ip_network(text).prefixlen == 0:
                yield f"egress: permitted {text!r} is every address: name the ranges that are meant"
        except ValueError as error:
            yield f"egress: permitted {text!r} is no range of addresses, such as 10.1.0.0/16: {error}"
    if config.isolation not in ISOLATIONS:
        yield f"node: isolation {_shown(config.isolation)} is not known; it is {' or '.join(ISOLATIONS)}"
    if config.harden not in HARDENING:
        yield f"node: harden {_shown(config.harden)} is not known; it is {', '.join(HARDENING)}"
    if config.audit not in ("off", "effects"):
        yield f"node: audit {config.audit!r} is not known; it is off or effects"
    if not _NAME.fullmatch(config.tenant):
        yield f"node: tenant {_shown(config.tenant)} is not a name: use letters, digits, '_', '.' or '-'"


def _exposed(config: NodeConfig) -> Iterator[str]:
    """What is wrong with TLS, or with its absence."""
    tls = config.tls
    if (tls.cert_file is None) != (tls.key_file is None):
        yield "tls: cert_file and key_file go together: set both, or neither"
    if tls.client_auth not in _CLIENT_AUTH:
        yield f"tls: client_auth {_shown(tls.client_auth)} is to be {', '.join(_CLIENT_AUTH)}"
    elif tls.client_auth != "none" and (not tls.on or tls.client_ca_file is None):
        yield f"tls: client_auth = {tls.client_auth!r} needs cert_file, key_file and client_ca_file"
    elif tls.client_auth == "none" and (tls.client_ca_file is not None or tls.client_names):
        yield 'tls: client_ca_file and client_names mean nothing while client_auth is "none"'
    if not tls.on and not config.insecure_plaintext and not _is_loopback(config.host):
        yield (
            f"node: host = {_shown(config.host)} lets other machines connect, and without TLS whoever is between them "
            "and this one reads every token: set cert_file and key_file in [tls], or listen on 127.0.0.1, or, where "
            "something in front does TLS, set insecure_plaintext = true (--insecure-plaintext)"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _plain_fields(cls: type[Any]) -> list[Field[Any]]:
    return [f for f in fields(cls) if f.default is not MISSING]


def _nearest(name: str, known: Any) -> str:
    names = sorted(known)
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.6):
        return f"did you mean {close[0]!r}?"
    return "known are " + ", ".join(names)


_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?")
_HEADER = re.compile(r"\s*\[\s*\"?([\w-]+)\"?\s*(?:\.\s*\"?([\w.-]+?)\"?\s*)?\]")
_KEY = re.compile(r"\s*\"?([\w-]+)\"?\s*(?:\.\s*\"?([\w-]+)\"?\s*)?=")


def _key_lines(text: str) -> dict[tuple[str, str], int]:
    """Where each table and key stands.  `tomllib` does not say; settings are flat, so a look at the lines is enough."""
    found: dict[tuple[str, str], int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = header[1] if header[2] is None else f"{header[1]}.{header[2]}"
            found.setdefault((table, ""), number)
        elif key := _KEY.match(line):
            where = (key[1], key[2]) if not table and key[2] else (table, key[1])
            found.setdefault(where, number)
    return found
