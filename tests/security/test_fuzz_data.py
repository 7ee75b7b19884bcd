"""Whatever a file, a token, a guest's text or a row says: a value, or an error of ours that names whose fault it is."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from wasmtime import Engine, WasmtimeError, wat2wasm
from wasmtime.component import Component

from plexspaces import codec as state_codec
from plexspaces_runtime import config as node_config
from plexspaces_runtime.actors.guest import Err, Ok
from plexspaces_runtime.api.auth import Authenticator, LocalAuthority, parse_jwks, parse_pem, read_claims
from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import AuthConfig
from plexspaces_runtime.deployment import appconfig
from plexspaces_runtime.deployment.model import DeployConfig, parse_description
from plexspaces_runtime.durability import codec as journal_codec
from plexspaces_runtime.durability.explain import parsed
from plexspaces_runtime.durability.journals import Reader
from plexspaces_runtime.durability.offline import opened
from plexspaces_runtime.errors import InvalidArgument, InvalidComponent, PlexSpacesError, Unauthenticated
from plexspaces_runtime.events import NodeFault
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores import patterns
from plexspaces_runtime.stores.streams import check_path, judge
from plexspaces_runtime.wasm import audit, wit
from plexspaces_runtime.wasm.config import engine_config
from plexspaces_runtime.wasm.traps import exit_of
from tests.integration.component_wat import component
from tests.security.fuzzing import NASTY, byte_strings, check_named, damaged, examples, json_texts, json_values, texts
from tests.simulation.journaled import bank

SCOPE = Scope("acme", "default")


def refused_or(parse: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What a parser gives, or None where it refuses with an error of ours."""
    try:
        return parse(*arguments, **named)
    except PlexSpacesError as error:
        check_named(error)
        return None


# -- configuration -----------------------------------------------------------------------------------------

NODE = b"""[node]
port = 8080
data_dir = "~/data"
grace_s = 1.5
[auth]
issuer = "https://a"
algorithms = ["RS256"]
[limits]
memory_bytes_max = 67_108_864
wall_s_per_message_max = 1e3
"""
APPLICATION = b"""[application]
name = "shop"
namespace = "default"
[[components]]
name = "code"
path = "code.wasm"
[supervisor]
strategy = "one_for_one"
max_restarts = 10
max_restart_window_seconds = 60
[[supervisor.children]]
name = "agent"
actor_type = "code"
role = "agent"
restart = "permanent"
shutdown = "2s"
args = { n = 1, when = 1979-05-27, big = 0xff, deep = [[1], {a = inf}] }
labels = { tier = "gold" }
capabilities = ["messaging"]
facets = [{ type = "durability", priority = 90, config = { checkpoint_interval = 3 } }]
limits = { memory_bytes_max = 20_000_000, wall_s_per_message_max = 1.5 }
"""
TOML_VALUES = st.sampled_from(
    (
        "1e400",
        "-1",
        "0",
        "nan",
        "-inf",
        "0x" + "f" * 5_000,
        "0x" + "f" * 400,
        "9" * 300,
        '""',
        "[]",
        "{}",
        "true",
        "1979-05-27T07:32:00Z",
        "[" * 200 + "]" * 200,
        '"\\u0000"',
        '"~nobody-by-this-name/x"',
        "'\U0010ffff'",
        '"a.b"',
        "99999999999999999999",
        "1.7976931348623157e308",
        '"' + "a" * 10_000 + '"',
        "[1, 2.0, 'x', {}]",
    )
)


@st.composite
def configurations(draw: st.DrawFn, seed: bytes) -> str:
    """The seed with some values replaced, some keys renamed, or simply damaged."""
    if draw(st.integers(0, 3)) == 0:
        return draw(damaged(seed)).decode("utf-8", "replace")
    lines = seed.decode().splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        key, equals, _ = lines[at].partition(" = ")
        if equals:
            lines[at] = f"{key} = {draw(TOML_VALUES)}"
        else:
            lines.insert(at, draw(st.sampled_from(("[x]", "[[components]]", "x = 1", "[supervisor.children]", "="))))
    return "\n".join(lines)


@examples(200)
@given(configurations(NODE) | texts())
def test_the_nodes_configuration(tmp_path: Path, text: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    refused_or(node_config.load, file, {})


@examples(150)
@given(
    st.dictionaries(st.sampled_from([s.environment for s in node_config.settings()]), texts(max_size=30), max_size=4)
)
def test_the_environment(environment: dict[str, str]) -> None:
    refused_or(node_config.load, None, environment)


@examples(250)
@given(configurations(APPLICATION) | texts())
def test_an_applications_configuration(text: str) -> None:
    found = refused_or(appconfig.parse, text)
    if found is not None:
        # What is accepted can be kept.
        for child in found.actors():
            orjson.dumps(child.args)


# -- what a component and its uploader say -----------------------------------------------------------------


@examples(150)
@given(json_texts())
def test_what_a_component_says_of_itself(text: str) -> None:
    refused_or(parse_description, text)


@examples(150)
@given(
    st.dictionaries(
        st.sampled_from(["role", "args", "arguments", "restart", "capabilities", "x"]), json_values(), max_size=4
    )
)
def test_the_configuration_of_a_deployment(config: dict[str, Any]) -> None:
    found = refused_or(DeployConfig.parse, config)
    if found is not None:
        assert isinstance(json.loads(found.args), dict)


@pytest.mark.parametrize("depth", [100, 250, 300, 1_000])
def test_arguments_that_can_be_read_and_not_written(depth: int) -> None:
    deep = json.loads('{"a":' * depth + "1" + "}" * depth) if depth < 900 else orjson.loads("[" * depth + "]" * depth)
    refused_or(DeployConfig.parse, {"args": {"deep": deep}})
    text = "[" * depth + "]" * depth
    # The answer that tells of it nests some levels more.
    orjson.dumps({"history": [{"payload": parsed(text), "outcome": {"of": parsed(text)}}]})


WORLD = bytes(wat2wasm(component(wit.load(), ("clock", "logging"))))


@examples(120)
@given(byte_strings(WORLD, size_max=200) | st.integers(0, len(WORLD)).map(lambda end: WORLD[:end]))
def test_components(wasm: bytes) -> None:
    try:
        audit.check_header(wasm)
    except InvalidComponent:
        return
    try:
        compiled = Component(ENGINE, wasm)
    except WasmtimeError:
        return
    try:
        audit.audit(compiled, ENGINE, PACKAGE)
    except InvalidComponent as error:
        check_named(error)


ENGINE = Engine(engine_config())
PACKAGE = wit.load()


@examples(100)
@given(
    texts()
    | st.sampled_from([name * 50_000 for name in ("cabi_realloc", "wasm trap: ", "exit_exit", "a\n", "failed to ")])
)
def test_what_wasmtime_says_of_a_dead_instance(text: str) -> None:
    found = exit_of(f"error while executing at wasm backtrace:\n{text}\n\nCaused by:\n    wasm trap: unreachable")
    assert len(found.text) + len(found.message) + len(found.traceback) < 100_000


# -- tokens ------------------------------------------------------------------------------------------------

NOW_S = 1_700_000_000
LOCAL = LocalAuthority(b"s" * 32, ManualClock(NOW_S * 10**9))
TOKEN = LOCAL.mint("acme", "ada", ["admin"], 60).encode()
P256 = ec.generate_private_key(ec.SECP256R1())
PEM = P256.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
RSA_NUMBERS = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key().public_numbers()


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


JWK_VALUES = st.one_of(
    texts(max_size=20),
    st.integers(),
    st.none(),
    st.lists(st.integers(), max_size=2),
    st.sampled_from(
        ["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "AQAB", "A" * 5_000, b64(b"\0" * 300).decode(), "sig"]
    ),
)
JWK_SEED = {
    "kty": "RSA",
    "n": b64(RSA_NUMBERS.n.to_bytes(256, "big")).decode(),
    "e": "AQAB",
    "kid": "a",
    "alg": "RS256",
    "use": "sig",
    "crv": "P-256",
    "x": b64(P256.public_key().public_numbers().x.to_bytes(32, "big")).decode(),
    "y": b64(P256.public_key().public_numbers().y.to_bytes(32, "big")).decode(),
}


@st.composite
def jwks(draw: st.DrawFn) -> bytes:
    key: dict[str, Any] = {**JWK_SEED, "kty": draw(st.sampled_from(["RSA", "EC", "OKP", "oct"]))}
    for name in draw(st.lists(st.sampled_from([*JWK_SEED, "d", "p", "k", "x5c", "key_ops"]), max_size=3)):
        key[name] = draw(JWK_VALUES)
    return json.dumps({"keys": draw(st.sampled_from([[key], [key, 5], {}, [[key]], [key] * 101]))}).encode()


@examples(150)
@given(jwks() | byte_strings(json.dumps({"keys": [JWK_SEED]}).encode()))
def test_key_sets(text: bytes) -> None:
    for key in refused_or(parse_jwks, text) or ():
        assert key.algorithms <= {
            "RS256",
            "RS384",
            "RS512",
            "PS256",
            "PS384",
            "PS512",
            "ES256",
            "ES384",
            "ES512",
            "EdDSA",
        }


@examples(150)
@given(byte_strings(PEM))
def test_public_keys(pem: bytes) -> None:
    refused_or(parse_pem, pem)


@st.composite
def tokens(draw: st.DrawFn) -> bytes:
    """A header and claims of one's own, with a signature that is good only for the node's own token."""
    if draw(st.booleans()):
        return draw(damaged(TOKEN))
    header = draw(
        st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jku", "jwk", "zip"]), json_values(5))
    )
    header.setdefault("alg", draw(st.sampled_from(["HS256", "hs256", "none", "ES256", "RS256", "", None])))
    parts = [
        b64(json.dumps(header).encode()),
        b64(draw(json_texts()).encode("utf-8", "surrogatepass")),
        draw(st.binary(max_size=40)),
    ]
    return b".".join(parts)


@examples(250)
@given(tokens(), st.sampled_from([b"Bearer ", b"bearer ", b"", b"Basic ", b"Bearer\t", b"Bearer  "]))
def test_tokens(tmp_path_factory: pytest.TempPathFactory, token: bytes, scheme: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz-key.pem"
    if not path.exists():
        path.write_bytes(PEM)
    clock = ManualClock(NOW_S * 10**9)
    for authenticator in (
        Authenticator(LOCAL, clock=clock),
        Authenticator(LOCAL, AuthConfig(public_key_file=path, issuer="i"), clock=clock),
    ):
        try:
            principal = asyncio.run(authenticator.verify(scheme + token))
        except Unauthenticated as error:
            check_named(error, 2_000)
        else:
            # Only the very claims that were signed, however the text around them was damaged.
            assert (principal.tenant, principal.subject) == ("acme", "ada")


@examples(200)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: json_values(5) | st.just(good)
            for name, good in {
                "exp": NOW_S + 60,
                "iat": NOW_S,
                "nbf": NOW_S,
                "iss": "i",
                "aud": ["a"],
                "sub": "ada",
                "tenant": "acme",
                "roles": ["r"],
                "namespaces": ["n"],
                "session": "s",
                "scope": "a b",
                "scopes": ["a"],
            }.items()
        },
    )
)
def test_claims(claims: dict[str, Any]) -> None:
    try:
        principal = read_claims(claims, now_s=NOW_S, issuer="i", audience="a")
    except Unauthenticated as error:
        check_named(error, 2_000)
        return
    assert (principal.tenant, principal.subject) == (claims["tenant"], claims["sub"])
    assert claims["iss"] == "i"
    assert claims["exp"] + 60 > NOW_S


# -- what guests and clients put into stores ---------------------------------------------------------------


@examples(200)
@given(json_texts(), json_values(10).map(lambda value: json.dumps([value, None, {"$type": "int"}])))
def test_tuples_and_patterns(text: str, pattern_text: str) -> None:
    for each in (text, pattern_text, f"[{text}]"):
        fields = refused_or(patterns.parse_tuple, each)
        pattern = refused_or(patterns.parse_pattern, each)
        if fields is not None and pattern is not None:
            hash(fields)
            assert pattern.matches(fields) in (True, False)
    for name in ("<", "prefix", "!=", ">="):
        pattern = refused_or(patterns.parse_pattern, f'[{{"$pred": ["{name}", {text}]}}]')
        for other in ("1", '"a"', "null", "[]", "{}", "9" * 400):
            fields = refused_or(patterns.parse_tuple, f"[{other}]")
            if pattern is not None and fields is not None:
                assert pattern.matches(fields) in (True, False)


@examples(200)
@given(texts(max_size=600) | st.lists(texts(max_size=20), max_size=20).map("/".join).map(lambda path: "/" + path))
def test_paths_of_streams(path: str) -> None:
    try:
        check_path(path)
    except InvalidArgument as error:
        check_named(error, 2_000)
    else:
        assert path.startswith("/")
        assert ".." not in path.split("/")
        # What is a path can be stored.
        path.encode()


@examples(150)
@given(texts(max_size=200), json_texts())
def test_events_of_streams(event_type: str, payload: str) -> None:
    kind, kept, _ = judge(event_type, payload, 1_000)
    assert '"' not in kind
    assert "\n" not in kept
    orjson.loads(kept)


@examples(250)
@given(json_texts())
def test_an_actors_state(text: str) -> None:
    try:
        value = state_codec.loads(text)
    except state_codec.Corrupt as error:
        check_named(error)
    else:
        try:
            again = state_codec.dumps(value)
        except state_codec.UnsupportedType:
            # Deeper than anything that `dumps` writes.
            return
        assert state_codec.dumps(state_codec.loads(again)) == again


TAGS = (
    "$tuple",
    "$set",
    "$frozenset",
    "$bytes",
    "$bytearray",
    "$datetime",
    "$date",
    "$time",
    "$timedelta",
    "$timezone",
    "$decimal",
    "$uuid",
    "$float",
    "$dict",
    "$escape",
    "$object",
    "$enum",
    "$x",
)


@examples(250)
@given(
    st.recursive(
        json_values(5),
        lambda inner: (
            st.dictionaries(st.sampled_from(TAGS), inner, min_size=1, max_size=1) | st.lists(inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_tags_of_an_actors_state(value: Any) -> None:
    with contextlib.suppress(state_codec.Corrupt):
        state_codec.loads(json.dumps(value))


# -- journals and rows -------------------------------------------------------------------------------------


@examples(200)
@given(json_values(10))
def test_a_recorded_value(value: Any) -> None:
    for given_ in (value, Ok(value), Err((value,)), [Ok(value)], {"a": value}):
        try:
            written = orjson.dumps(journal_codec.encode(given_))
        except TypeError:
            # Lone surrogates and numbers of more than 64 bits: nothing that comes from a guest has them.
            continue
        read = journal_codec.decode(orjson.loads(written))
        assert orjson.dumps(journal_codec.encode(read)) == written


SEED = Path(__file__).parent.parent / "fixtures" / "journal-v1.db"
TABLES = {
    "durable": ("checkpoint", "state", "head", "hash", "base", "base_hash", "open_from", "flying", "component"),
    "journal": ("number", "kind", "body", "hash"),
}
KEYS = {"durable": ("id",), "journal": ("durable", "number")}
BODIES = [
    body
    for (body,) in sqlite3.connect(SEED).execute(
        "SELECT body FROM journal UNION SELECT message FROM inbox UNION SELECT timer FROM durable_timers "
        "UNION SELECT outcome FROM durable_replies"
    )
]


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """What a row holds: of another row, with a member changed, or anything."""
    value = json.loads(draw(st.sampled_from(BODIES)))
    at = value
    while isinstance(at, dict) and at:
        name = draw(st.sampled_from(sorted(at)))
        if not isinstance(at[name], dict) or draw(st.booleans()):
            if draw(st.booleans()):
                at[name] = draw(json_values(3))
            else:
                del at[name]
            break
        at = at[name]
    return json.dumps(value)


@st.composite
def edits(draw: st.DrawFn) -> list[tuple[str, str, Any]]:
    """Table, column and value."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        table = draw(st.sampled_from(sorted(TABLES)))
        value = draw(
            st.one_of(
                bodies(),
                st.sampled_from(BODIES),
                st.integers(-(2**63), 2**63 - 1),
                st.binary(max_size=20).map(lambda raw: bytes(each & 0x7F for each in raw)),
                st.sampled_from([text for text in NASTY if len(text) < 3_000 and text.isprintable()]),
                st.sampled_from(["checkpoint", "message", "effect", "begun", "end", "handled"]),
            )
        )
        found.append((table, draw(st.sampled_from(TABLES[table])), value))
    return found


def rewrite(folder: Path, changes: list[tuple[str, str, Any]], row: int) -> None:
    with sqlite3.connect(folder / "plexspaces.db") as connection:
        for table, column, value in changes:
            ((count,),) = connection.execute(f"SELECT count(*) FROM {table}")
            names = KEYS[table]
            (key,) = connection.execute(f"SELECT {', '.join(names)} FROM {table} LIMIT 1 OFFSET ?", (row % count,))
            where = " AND ".join(f"{name} IS ?" for name in names)
            with contextlib.suppress(sqlite3.IntegrityError):
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (value, *key))
    connection.close()


def folders(base: Path) -> Generator[Path, None, None]:
    number = 0
    while True:
        number += 1
        folder = base / f"node-{number}"
        folder.mkdir()
        shutil.copy(SEED, folder / "plexspaces.db")
        yield folder
        shutil.rmtree(folder)


@pytest.fixture(scope="module", name="fresh")
def _fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Path]]:
    made = folders(tmp_path_factory.mktemp("journals"))
    yield made
    made.close()


@examples(8)
@given(edits(), st.integers(0, 50))
def test_a_database_that_somebody_has_changed(
    fresh: Iterator[Path], changes: list[tuple[str, str, Any]], row: int
) -> None:
    folder = next(fresh)
    rewrite(folder, changes, row)
    try:
        with opened(folder) as table:
            reader = Reader(table)
            for summary in reader.list("acme"):
                reader.history(summary.address)
                asyncio.run(reader.verify(summary.address))
    except PlexSpacesError as error:
        check_named(error)
    asyncio.run(_live_on(folder))


async def _live_on(folder: Path) -> None:
    """A node on these files starts, answers for what is left, and never blames itself."""
    refusal = ""
    try:
        await _look_around(folder)
    except PlexSpacesError as error:
        # The account cannot be made again, and whoever wants to deploy it hears why.
        refusal = error.message
    assert "a fault of the node" not in refusal


async def _look_around(folder: Path) -> None:
    async with bank(folder, interval=4) as house:
        async with asyncio.timeout(20):
            for path in ("", "/default/verify"):
                answer = await house.http.get(f"/api/v1/journals/acme/default/account{path}")
                assert answer.status_code != 500, (path, answer.text)
            for path in ("/api/v1/journals", "/api/v1/dead-letters", "/api/v1/actors", "/healthz"):
                answer = await house.http.get(path)
                assert answer.status_code != 500, (path, answer.text)
            await _asked(house.http, "/api/v1/actors/acme/default/account?wait=2")
            await _asked(house.http, "/api/v1/journals/acme/default/account/default/recover")
            await _asked(house.http, "/api/v1/actors/acme/default/account?wait=2")
        faults = [event for event in house.seen if isinstance(event, NodeFault)]
        assert faults == []


async def _asked(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.post(path, json={"op": "balance"} if "wait" in path else None)
    assert answer.status_code != 500, (path, answer.text)
