"""Tokens that are forged, stolen from another issuer, expired, or try to choose how they are checked."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)

from plexspaces_runtime.api.auth import (
    LEEWAY_S,
    LOCAL_ISSUER,
    Authenticator,
    IssuerKeys,
    LocalAuthority,
    parse_jwks,
    parse_pem,
)
from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import AuthConfig
from plexspaces_runtime.errors import InvalidArgument, PermissionDenied, Unauthenticated, Unavailable
from plexspaces_runtime.scope import Scope

NOW = 1_700_000_000
SECRET = b"s" * 32
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P256 = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def pem(private: Any) -> bytes:
    found: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


def jwk(private: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    algorithm = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256", ed25519.Ed25519PrivateKey: "EdDSA"}
    name = next(name for kind, name in algorithm.items() if isinstance(private, kind))
    found: dict[str, Any] = json.loads(jwt.get_algorithm_by_name(name).to_jwk(private.public_key()))
    found.pop("key_ops", None)
    return {**found, **({"kid": kid} if kid is not None else {}), **more}


def claims(**changes: Any) -> dict[str, Any]:
    all_ = {"iss": "https://issuer", "aud": "plexspaces", "sub": "ada", "tenant": "acme", "exp": NOW + 600, **changes}
    return {name: value for name, value in all_.items() if value is not ...}


def sign(key: Any, algorithm: str, headers: dict[str, Any] | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


def b64(data: bytes | dict[str, Any]) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forge_raw(header: bytes, payload: bytes, secret: bytes) -> str:
    """As `forge`, with a header that is not even JSON."""
    signed = f"{b64(header)}.{b64(payload)}"
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), hashlib.sha256)) if secret else ''}"


def forge(header: dict[str, Any], payload: dict[str, Any] | bytes, secret: bytes = b"") -> str:
    """A token made by hand, signed with an HMAC whatever its header says."""
    signed = f"{b64(header)}.{b64(payload)}"
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), hashlib.sha256)) if secret else ''}"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW * 1_000_000_000)


@pytest.fixture
def local(clock: ManualClock) -> LocalAuthority:
    return LocalAuthority(SECRET, clock)


@pytest.fixture
def issuer(tmp_path: Path, local: LocalAuthority, clock: ManualClock) -> Authenticator:
    """Believes an issuer with three keys of three kinds, and the node's own key."""
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [jwk(RSA, "rsa"), jwk(P256, "p256"), jwk(ED, "ed")]}))
    config = AuthConfig(issuer="https://issuer", audience="plexspaces", jwks_file=path)
    return Authenticator(local, config, clock=clock)


def bearer(token: str) -> bytes:
    return b"Bearer " + token.encode()


async def refused(authenticator: Authenticator, token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await authenticator.verify(bearer(token))
    assert caught.value.details["reason"] == "invalid_token"
    assert token not in caught.value.message
    return caught.value.message


# -- good tokens -------------------------------------------------------------------------------------------


async def test_the_nodes_own_token(local: LocalAuthority, clock: ManualClock) -> None:
    token = local.mint("acme", "ada", ["b", "a"], 60, namespaces=["x"], session="s")
    principal = await Authenticator(local, clock=clock).verify(bearer(token))
    assert (principal.tenant, principal.subject, principal.roles) == ("acme", "ada", frozenset("ab"))
    assert (principal.namespaces, principal.session) == (frozenset("x"), "s")
    assert principal.caller.subject == "ada"
    assert principal.scope("acme", "x") == Scope("acme", "x")


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(RSA, "RS256", "rsa"), (P256, "ES256", "p256"), (ED, "EdDSA", "ed")]
)
async def test_an_issuers_tokens(issuer: Authenticator, key: Any, algorithm: str, kid: str) -> None:
    principal = await issuer.verify(bearer(sign(key, algorithm, {"kid": kid}, aud=["other", "plexspaces"])))
    assert (principal.tenant, principal.subject, principal.namespaces) == ("acme", "ada", None)


async def test_a_token_without_a_kid_where_one_key_fits(issuer: Authenticator) -> None:
    assert (await issuer.verify(bearer(sign(P256, "ES256")))).subject == "ada"


async def test_one_public_key_in_a_file(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(pem(ED))
    authenticator = Authenticator(None, AuthConfig(public_key_file=path), clock=clock)
    assert (await authenticator.verify(bearer(sign(ED, "EdDSA", {"kid": "any"})))).subject == "ada"
    await refused(authenticator, sign(SECRET, "HS256"))


# -- forged signatures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
async def test_no_signature(issuer: Authenticator, algorithm: str) -> None:
    for secret in (b"", SECRET):
        await refused(issuer, forge({"alg": algorithm, "typ": "JWT"}, claims(), secret))


async def test_no_signature_under_a_good_header(issuer: Authenticator) -> None:
    good = sign(RSA, "RS256", {"kid": "rsa"})
    await refused(issuer, good.rpartition(".")[0] + ".")


@pytest.mark.parametrize("form", [pem(RSA), pem(RSA).strip(), pem(P256), b""])
async def test_the_public_key_as_a_shared_secret(issuer: Authenticator, form: bytes) -> None:
    for kid in ("rsa", "p256", None):
        header = {"alg": "HS256", "typ": "JWT", **({"kid": kid} if kid else {})}
        await refused(issuer, forge(header, claims(), form or b"\0"))
        await refused(issuer, forge(header, claims(iss=LOCAL_ISSUER), form or b"\0"))


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [
        (OTHER_RSA, "RS256", "rsa"),
        (RSA, "PS256", "rsa"),
        (RSA, "RS512", "rsa"),
        (RSA, "RS256", "p256"),
        (P256, "ES256", "rsa"),
    ],
)
async def test_another_key_or_another_algorithm(issuer: Authenticator, key: Any, algorithm: str, kid: str) -> None:
    await refused(issuer, sign(key, algorithm, {"kid": kid}))


@pytest.mark.parametrize(
    "kid", ["../../../../dev/null", "/etc/passwd", "rsa' OR '1'='1", "rsa\0", "", "x" * 257, "http://evil/jwks"]
)
async def test_a_kid_names_no_file_and_no_address(issuer: Authenticator, kid: str) -> None:
    await refused(issuer, sign(RSA, "RS256", {"kid": kid}))
    await refused(issuer, forge({"alg": "HS256", "kid": kid}, claims(), b"\0"))


@pytest.mark.parametrize("kid", [1, ["rsa"], {"a": 1}, True])
async def test_a_kid_that_is_no_text(issuer: Authenticator, kid: object) -> None:
    await refused(issuer, forge({"alg": "RS256", "kid": kid}, claims()))


async def test_a_key_that_the_token_brings_along(issuer: Authenticator) -> None:
    mine = jwk(OTHER_RSA, "rsa")
    for header in ({"jwk": mine}, {"jku": "https://evil/jwks"}, {"x5u": "https://evil/cert"}, {"x5c": ["AAAA"]}):
        await refused(issuer, sign(OTHER_RSA, "RS256", {"kid": "rsa", **header}))


async def test_a_critical_header(issuer: Authenticator) -> None:
    await refused(issuer, sign(RSA, "RS256", {"kid": "rsa", "crit": ["exp"], "exp": 1}))
    await refused(issuer, sign(RSA, "RS256", {"kid": "rsa", "b64": False}))


@pytest.mark.parametrize(
    "nested", [b"[" * 5000, b'{"alg":' * 800, b'{"alg":"HS256","x":' + b"[" * 3000 + b"]" * 3000 + b"}"]
)
async def test_a_header_that_nests_deeper_than_any_parser_goes(issuer: Authenticator, nested: bytes) -> None:
    """Nobody has to have a key for this, so it must not be a fault of the node's."""
    await refused(issuer, f"{b64(nested)}.{b64(claims())}.{b64(b'x' * 32)}")


@pytest.mark.parametrize(
    "algorithm", ["hs256", "Hs256", "HS256 ", " HS256", "HS256\0", "HS-256", "HS256,none", "RS256 "]
)
async def test_an_algorithm_that_is_nearly_one(issuer: Authenticator, algorithm: str) -> None:
    await refused(issuer, forge({"alg": algorithm}, claims(iss=LOCAL_ISSUER), SECRET))


async def test_a_name_that_is_there_twice_counts_once_for_everybody(issuer: Authenticator) -> None:
    # In the header: what is checked is what is read, or `none` would hide behind a good algorithm.
    for header in (b'{"alg":"none","alg":"HS256"}', b'{"alg":"HS256","alg":"none"}'):
        await refused(issuer, forge_raw(header, json.dumps(claims(iss=LOCAL_ISSUER)).encode(), b""))
        await refused(issuer, forge_raw(header, json.dumps(claims(iss=LOCAL_ISSUER)).encode(), b"wrong"))
    # In the claims, under a good signature: the last one, and no other is looked at by anybody.
    twice = b'{"iss":"%b","exp":%d,"sub":"ada","tenant":"victim","tenant":"acme"}' % (LOCAL_ISSUER.encode(), NOW + 60)
    principal = await issuer.verify(bearer(forge_raw(b'{"alg":"HS256"}', twice, SECRET)))
    assert principal.tenant == "acme"
    with pytest.raises(PermissionDenied):
        principal.check("victim", "default")


async def test_claims_that_are_huge(issuer: Authenticator) -> None:
    await refused(issuer, forge({"alg": "HS256"}, claims(iss=LOCAL_ISSUER, roles=["r" * 200] * 60), SECRET))
    await refused(issuer, forge({"alg": "HS256"}, claims(iss=LOCAL_ISSUER, roles=["r"] * 65), SECRET))
    await refused(issuer, forge({"alg": "HS256"}, claims(iss=LOCAL_ISSUER, exp=10**30), SECRET))


async def test_claims_changed_after_signing(issuer: Authenticator, local: LocalAuthority) -> None:
    for token in (sign(RSA, "RS256", {"kid": "rsa"}), local.mint("acme", "ada", [], 60)):
        head, _, signature = token.split(".")
        await refused(issuer, f"{head}.{b64(claims(tenant='other'))}.{signature}")


@pytest.mark.parametrize("token", ["x", "a.b", "a.b.c", "....", "e30.e30.", "e30.e30.e30", "\u00e9", "a" * 9000])
async def test_what_is_no_token(issuer: Authenticator, token: str) -> None:
    with pytest.raises(Unauthenticated):
        await issuer.verify(bearer(token))


@pytest.mark.parametrize("header", [b"", b"Bearer", b"Bearer ", b"Basic YTpi", b"bearer\tx", b"Token x", b"\xff x"])
async def test_what_is_no_bearer_header(issuer: Authenticator, header: bytes) -> None:
    with pytest.raises(Unauthenticated):
        await issuer.verify(header)


async def test_payloads_that_are_no_claims(issuer: Authenticator) -> None:
    for payload in (b"", b"[]", b"null", b'"x"', b"\xff", b"{" * 5000):
        await refused(issuer, forge({"alg": "HS256"}, payload, SECRET))


async def test_the_local_key_does_not_speak_for_the_issuer(issuer: Authenticator) -> None:
    assert "iss" in await refused(issuer, sign(SECRET, "HS256"))
    await refused(issuer, sign(RSA, "RS256", {"kid": "rsa"}, iss=LOCAL_ISSUER))


# -- claims ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"iss": "https://other"}, "iss"),
        ({"iss": ...}, "iss"),
        ({"iss": ["https://issuer"]}, "iss"),
        ({"aud": "other"}, "aud"),
        ({"aud": ...}, "aud"),
        ({"aud": ["a", "b"]}, "aud"),
        ({"aud": "plexspaces-admin"}, "aud"),
        ({"exp": ...}, "exp"),
        ({"exp": "soon"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": 1e300}, "exp"),
        ({"exp": -1}, "exp"),
        ({"exp": NOW - LEEWAY_S}, "expired"),
        ({"nbf": NOW + LEEWAY_S + 1}, "nbf"),
        ({"iat": NOW + LEEWAY_S + 1}, "iat"),
        ({"nbf": "x"}, "nbf"),
        ({"sub": ...}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": "x" * 257}, "sub"),
        ({"tenant": ...}, "tenant"),
        ({"tenant": 1}, "tenant"),
        ({"tenant": ""}, "tenant"),
        ({"tenant": "a/b"}, "tenant"),
        ({"tenant": ".."}, "tenant"),
        ({"roles": "admin"}, "roles"),
        ({"roles": [1]}, "roles"),
        ({"roles": ["r"] * 65}, "roles"),
        ({"namespaces": "x"}, "namespaces"),
        ({"session": 1}, "session"),
    ],
)
async def test_claims_that_are_not_accepted(issuer: Authenticator, changes: dict[str, Any], hint: str) -> None:
    payload = {**claims(), **changes}
    payload = {name: value for name, value in payload.items() if value is not ...}
    token = jwt.PyJWS().encode(json.dumps(payload).encode(), ED, algorithm="EdDSA", headers={"kid": "ed"})
    assert hint in await refused(issuer, token)


@pytest.mark.parametrize(
    "changes",
    [{"exp": NOW - LEEWAY_S + 1}, {"nbf": NOW + LEEWAY_S}, {"iat": NOW + LEEWAY_S}, {"nbf": None, "exp": NOW + 0.5}],
)
async def test_clocks_may_differ_a_little(issuer: Authenticator, changes: dict[str, Any]) -> None:
    payload = {**claims(), **changes}
    token = jwt.PyJWS().encode(json.dumps(payload).encode(), ED, algorithm="EdDSA", headers={"kid": "ed"})
    assert (await issuer.verify(bearer(token))).subject == "ada"


async def test_a_verified_token_is_not_believed_after_its_end(local: LocalAuthority, clock: ManualClock) -> None:
    authenticator = Authenticator(local, clock=clock)
    header = bearer(local.mint("acme", "ada", [], 60))
    assert authenticator.known(header) is None
    await authenticator.verify(header)
    clock.advance(60 + LEEWAY_S - 1)
    assert authenticator.known(header) is not None
    clock.advance(1)
    assert authenticator.known(header) is None
    with pytest.raises(Unauthenticated, match="expired"):
        await authenticator.verify(header)


async def test_verified_tokens_are_remembered_within_limits(local: LocalAuthority, clock: ManualClock) -> None:
    authenticator = Authenticator(local, clock=clock)
    headers = [bearer(local.mint("acme", f"user{n}", [], 60)) for n in range(4097)]
    for header in headers[:4096]:
        await authenticator.verify(header)
    assert authenticator.known(headers[0]) is not None
    await authenticator.verify(headers[4096])
    assert authenticator.known(headers[0]) is not None
    assert authenticator.known(headers[1]) is None
    assert authenticator.known(headers[4096]) is not None


async def test_another_tenant_and_another_namespace(local: LocalAuthority, clock: ManualClock) -> None:
    token = local.mint("acme", "ada", [], 60, namespaces=["x"])
    principal = await Authenticator(local, clock=clock).verify(bearer(token))
    with pytest.raises(PermissionDenied, match=r"'other'.*'acme'"):
        principal.scope("other", "x")
    with pytest.raises(PermissionDenied, match=r"'y'.*'x'"):
        principal.scope("acme", "y")


# -- an issuer's keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{"algorithms": ("HS256",)}, {"algorithms": ("RS256", "HS512")}])
async def test_a_shared_secret_cannot_be_configured_beside_a_public_key(tmp_path: Path, config: dict[str, Any]) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(pem(RSA))
    with pytest.raises(InvalidArgument, match="shared secret"):
        Authenticator(None, AuthConfig(public_key_file=path, **config))


async def test_an_algorithm_that_is_not_listed(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(pem(RSA))
    authenticator = Authenticator(None, AuthConfig(public_key_file=path, algorithms=("PS256",)), clock=clock)
    await authenticator.verify(bearer(sign(RSA, "PS256")))
    await refused(authenticator, sign(RSA, "RS256"))


def test_secret_and_weak_keys_in_a_key_set_are_passed_over() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    entries = [
        {"kty": "oct", "k": b64(SECRET), "kid": "oct"},
        jwk(weak, "weak"),
        jwk(RSA, "enc", use="enc"),
        jwk(RSA, "confused", alg="HS256"),
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        "text",
        jwk(RSA, "good", alg="PS256"),
    ]
    [good] = parse_jwks(json.dumps({"keys": entries}).encode())
    assert (good.kid, good.algorithms) == ("good", frozenset({"PS256"}))
    with pytest.raises(InvalidArgument, match="no public signature key"):
        parse_jwks(json.dumps({"keys": entries[:-1]}).encode())
    for text in (b"", b"[]", b"{}", b'{"keys": {}}', json.dumps({"keys": [{}] * 101}).encode()):
        with pytest.raises(InvalidArgument, match="JSON Web Key Set"):
            parse_jwks(text)


@pytest.mark.parametrize("text", [b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", SECRET])
def test_a_public_key_file_that_is_none(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        parse_pem(text)
    path = tmp_path / "key.pem"
    path.write_bytes(text)
    with pytest.raises(InvalidArgument, match=str(path)):
        Authenticator(None, AuthConfig(public_key_file=path))


async def test_a_new_key_of_the_issuer_is_fetched_but_not_for_every_invented_name(clock: ManualClock) -> None:
    published = [jwk(RSA, "one")]
    loads = 0

    async def load() -> Any:
        nonlocal loads
        loads += 1
        return parse_jwks(json.dumps({"keys": published}).encode())

    keys = IssuerKeys(load, "test", clock)
    assert [key.kid for key in await keys.find("one", "RS256")] == ["one"]
    published.append(jwk(P256, "two"))
    assert await keys.find("two", "ES256") == []
    assert loads == 1
    clock.advance(30)
    found = await asyncio.gather(*(keys.find("two", "ES256") for _ in range(10)))
    assert all([key.kid for key in each] == ["two"] for each in found)
    assert loads == 2
    for number in range(100):
        assert await keys.find(f"invented{number}", "RS256") == []
    assert loads == 2
    published.pop(0)
    clock.advance(3601)
    assert await keys.find("one", "RS256") == []
    assert loads == 3


async def test_an_issuer_that_cannot_be_reached(clock: ManualClock) -> None:
    reachable = False

    async def load() -> Any:
        if not reachable:
            raise OSError("no route")
        return parse_jwks(json.dumps({"keys": [jwk(RSA, "one")]}).encode())

    keys = IssuerKeys(load, "https://issuer/jwks", clock)
    for _ in range(2):
        with pytest.raises(Unavailable, match="https://issuer/jwks"):
            await keys.find("one", "RS256")
    reachable = True
    clock.advance(30)
    assert await keys.find("one", "RS256")
    reachable = False
    clock.advance(4000)
    assert await keys.find("one", "RS256")


async def serve_text(respond: Callable[[asyncio.StreamWriter], None]) -> tuple[asyncio.Server, str]:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        respond(writer)
        writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"


async def test_a_key_set_behind_a_url(clock: ManualClock) -> None:
    body = json.dumps({"keys": [jwk(ED, "ed")]}).encode()
    server, url = await serve_text(
        lambda writer: writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    )
    async with server:
        authenticator = Authenticator(None, AuthConfig(jwks_url=url), clock=clock)
        assert (await authenticator.verify(bearer(sign(ED, "EdDSA", {"kid": "ed"})))).subject == "ada"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b" " * ((1 << 20) + 1),
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"nonsense",
        b"",
    ],
)
async def test_a_url_that_gives_no_keys(answer: bytes, clock: ManualClock) -> None:
    server, url = await serve_text(lambda writer: writer.write(answer))
    async with server:
        authenticator = Authenticator(None, AuthConfig(jwks_url=url), clock=clock)
        with pytest.raises(Unavailable):
            await authenticator.verify(bearer(sign(ED, "EdDSA", {"kid": "ed"})))
