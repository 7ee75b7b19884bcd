"""Who is calling: bearer tokens (JWT, RFC 7519) to principals.

A node believes its own key from the first run: `LocalAuthority` makes it, and a token for whoever may read the data
directory.  An issuer's public keys (one in PEM, a JWK Set in a file or behind a URL) are believed beside it.

What a token's header says is never trusted to choose how it is checked (RFC 8725): an algorithm is bound to a key by
the key's own type, the symmetric one to the node's own key alone, `kid` is compared with the names of keys already
held, and `jku`, `jwk`, `x5u` and `crit` name nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ..clock import Clock, SystemClock
from ..config import AuthConfig
from ..errors import InvalidArgument, PermissionDenied, Unauthenticated, Unavailable
from ..ids import Ids, SystemIds
from ..scope import Caller, Scope, check_name
from ..stores.keyfiles import check_private, read_private, write_private
from .permissions import Permission, described, granted, needed, owns_stream

LOCAL_ISSUER = "plexspaces:local"
LEEWAY_S = 30
_LOCAL_TOKEN_S = 365 * 86_400
_LOCAL_TOKEN_RENEWED_S = 30 * 86_400
_KEY_BYTES = 32
_RSA_BITS_MIN = 2048
# A withdrawn key must not live on in verified tokens.
_BELIEVED_S = 300
_VERIFIED_MAX = 4096
_ROLES_MAX = 64
_SCOPE_CHARS_MAX = 4096
_TEXT_MAX = 256
_JWKS_BYTES_MAX = 1 << 20
_JWKS_KEYS_MAX = 100
_JWKS_FRESH_S = 3600.0
_JWKS_PAUSE_S = 30.0
_JWKS_TIMEOUT_S = 5.0
_DEFAULT_ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a verified token names.

    Attributes:
        tenant: everything the principal sees belongs to it.
        roles: for handlers that ask for one, and for the node, see `permissions`.
        namespaces: the only ones it may enter; None for all of its tenant.
        session: what it groups its messages by.
        scopes: of OAuth 2: what the token was made for.
        caller: the same, as it travels with a message.
        permissions: what it may do at the edge.
    """

    tenant: str
    subject: str
    roles: frozenset[str] = frozenset()
    namespaces: frozenset[str] | None = None
    session: str = ""
    scopes: frozenset[str] = frozenset()
    caller: Caller = field(init=False, compare=False)
    permissions: frozenset[Permission] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "caller", Caller(self.subject, self.roles, self.session, self.scopes))
        object.__setattr__(self, "permissions", granted(self.roles, self.scopes))

    def require(self, operation: str, *, stream: str = "") -> None:
        """Refuse an operation of the edge that the token does not allow.

        Args:
            operation: a name of `permissions.NEEDED`; one that is not there is an administrator's.
            stream: the path that is read; a session may read its own streams.

        Raises:
            PermissionDenied: the message says what would allow it.
        """
        permission = needed(operation)
        if permission in self.permissions:
            return
        if operation == "read_stream" and Permission.CALL in self.permissions and owns_stream(self.session, stream):
            return
        raise PermissionDenied(
            f"this token may not do that: it needs {described(permission)}",
            operation=operation,
            permission=permission.value,
        )

    def scope(self, tenant: str, namespace: str) -> Scope:
        """The scope of a request that names a tenant and a namespace.

        Raises:
            PermissionDenied: the token is for others.  Whether they exist is not said.
        """
        self.check(tenant, namespace)
        return Scope(tenant, check_name("namespace", namespace))

    def check(self, tenant: str, namespace: str) -> None:
        """See `scope`."""
        if tenant != self.tenant:
            raise PermissionDenied(
                f"the address names tenant {tenant!r}, but the token is for tenant {self.tenant!r}: "
                "use a token of that tenant, or correct the address",
                tenant=self.tenant,
            )
        if self.namespaces is not None and namespace not in self.namespaces:
            raise PermissionDenied(
                f"the address names namespace {namespace!r}, but the token is only for "
                + ", ".join(map(repr, sorted(self.namespaces))),
                namespaces=sorted(self.namespaces),
            )


# -- the node's own key ------------------------------------------------------------------------------------


class LocalAuthority:
    """Signs and knows tokens with the node's own secret key (HS256)."""

    def __init__(self, key: bytes, clock: Clock | None = None) -> None:
        if len(key) < _KEY_BYTES:
            raise InvalidArgument(f"a signing key has at least {_KEY_BYTES} bytes; this one has {len(key)}")
        self._key = key
        self._clock = clock or SystemClock()
        self.kid = hashlib.sha256(b"plexspaces-kid\0" + key).hexdigest()[:16]
        self.token = ""

    @classmethod
    def open(
        cls, data_dir: Path, *, tenant: str = "default", clock: Clock | None = None, ids: Ids | None = None
    ) -> LocalAuthority:
        """Take the key in `<data_dir>/keys/signing.key` and the token in `<data_dir>/token`, or make them.

        Several processes may do so at the same time and will agree on one key.

        Args:
            tenant: of the local token; its subject is `local`, its role `admin`.

        Raises:
            InvalidArgument: a file is readable by others, not ours, or no key; the message says what to do.
        """
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        keys = data_dir / "keys"
        keys.mkdir(mode=0o700, exist_ok=True)
        check_private(keys, os.stat(keys, follow_symlinks=False), stat.S_ISDIR)
        path = keys / "signing.key"
        if not path.exists():
            write_private(path, (ids or SystemIds()).random_bytes(_KEY_BYTES).hex().encode() + b"\n", replace=False)
        try:
            key = bytes.fromhex(read_private(path).decode("ascii").strip())
        except ValueError:
            raise InvalidArgument(
                f"{path} does not hold a signing key: restore it, or remove it to have a new one made "
                "(which ends all tokens signed so far)"
            ) from None
        authority = cls(key, clock)
        authority.token = authority._local_token(data_dir / "token", tenant)
        return authority

    def mint(
        self,
        tenant: str,
        subject: str,
        roles: Iterable[str] = (),
        ttl_s: float = 3600,
        *,
        namespaces: Iterable[str] | None = None,
        session: str = "",
        scopes: Iterable[str] = (),
    ) -> str:
        """A new token.

        Args:
            roles, scopes: see `permissions`; with none of the node's it may only send messages.
            ttl_s: how long it is valid.
            namespaces: the only ones it is for; None for all of the tenant.

        Raises:
            InvalidArgument: a name is none, or the time is not positive.
        """
        check_name("tenant", tenant)
        if ttl_s <= 0:
            raise InvalidArgument("a token must be valid for some time: ttl_s is to be positive")
        now_s = self._clock.now_ns() // 1_000_000_000
        claims: dict[str, Any] = {
            "iss": LOCAL_ISSUER,
            "sub": subject,
            "tenant": tenant,
            "roles": sorted(roles),
            "iat": now_s,
            "exp": now_s + max(1, round(ttl_s)),
        }
        if namespaces is not None:
            claims["namespaces"] = sorted(check_name("namespace", name) for name in namespaces)
        if session:
            claims["session"] = session
        if scope := " ".join(sorted(scopes)):
            claims["scope"] = scope
        # What the node would not believe must not leave it either.
        try:
            read_claims(claims, now_s=now_s, issuer=LOCAL_ISSUER, audience=None)
        except Unauthenticated as error:
            raise InvalidArgument(error.message) from None
        return jwt.encode(claims, self._key, algorithm="HS256", headers={"kid": self.kid})

    def claims(self, token: str) -> dict[str, Any]:
        """The claims of a token with a good signature of this key; nothing else is checked.

        Raises:
            jwt.InvalidTokenError
        """
        return _claims(jwt.PyJWS().decode(token, self._key, algorithms=["HS256"]))

    def _local_token(self, path: Path, tenant: str) -> str:
        now_s = self._clock.now_ns() // 1_000_000_000
        if path.exists():
            token = read_private(path).decode("ascii", "replace").strip()
            try:
                claims = self.claims(token)
                if claims["tenant"] == tenant and claims["exp"] - now_s > _LOCAL_TOKEN_RENEWED_S:
                    return token
            except (jwt.InvalidTokenError, Unauthenticated, KeyError, TypeError):
                pass  # Of another key, or none of ours: a good one takes its place.
        token = self.mint(tenant, "local", ["admin"], _LOCAL_TOKEN_S)
        write_private(path, token.encode() + b"\n", replace=True)
        return token


# -- an issuer's keys --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key, and the only algorithms it may check."""

    kid: str
    key: Any
    algorithms: frozenset[str]


def _algorithms_of(key: Any) -> frozenset[str]:
    """The algorithms a key is for, by its type and size; none for a key that is not to be used."""
    match key:
        case rsa.RSAPublicKey() if key.key_size >= _RSA_BITS_MIN:
            return frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
        case ec.EllipticCurvePublicKey():
            curves = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
            return frozenset({curves[key.curve.name]} if key.curve.name in curves else ())
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return frozenset({"EdDSA"})
    return frozenset()


def parse_pem(pem: bytes) -> list[IssuerKey]:
    """One public key in PEM.

    Raises:
        InvalidArgument: it is none, or too weak.
    """
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidArgument("the public key file holds no public key in PEM") from None
    algorithms = _algorithms_of(key)
    if not algorithms:
        raise InvalidArgument(
            "the public key is none of RSA (2048 bits or more), P-256, P-384, P-521, Ed25519 or Ed448"
        )
    return [IssuerKey("", key, algorithms)]


def parse_jwks(text: bytes) -> list[IssuerKey]:
    """The signature keys of a JWK Set (RFC 7517).  Keys of other kinds or uses are passed over.

    Raises:
        InvalidArgument: it is no key set, or holds no key that could be used.
    """
    try:
        document = orjson.loads(text)
        entries = document["keys"]
        if not isinstance(entries, list) or len(entries) > _JWKS_KEYS_MAX:
            raise TypeError
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise InvalidArgument(f"this is not a JSON Web Key Set of at most {_JWKS_KEYS_MAX} keys") from None
    keys = [key for entry in entries if (key := _parse_jwk(entry)) is not None]
    if not keys:
        raise InvalidArgument("the JSON Web Key Set holds no public signature key")
    return keys


def _parse_jwk(entry: object) -> IssuerKey | None:
    # A secret key has no place in a published set: whoever can read the set could sign.
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use", "sig") != "sig":
        return None
    public = {name: value for name, value in entry.items() if name not in ("d", "p", "q", "dp", "dq", "qi", "oth", "k")}
    try:
        key = jwt.PyJWK.from_dict(public).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        return None
    algorithms = _algorithms_of(key)
    if "alg" in entry:
        algorithms &= {entry["alg"]} if isinstance(entry["alg"], str) else frozenset()
    kid = entry.get("kid", "")
    return IssuerKey(kid, key, algorithms) if algorithms and isinstance(kid, str) else None


class IssuerKeys:
    """An issuer's keys, loaded when they are first needed and again when a token names an unknown one.

    Args:
        load: reads the keys; raises `OSError`, `InvalidArgument` or an `httpx.HTTPError`.
        described: for messages: where they come from.
    """

    def __init__(
        self, load: Callable[[], Awaitable[list[IssuerKey]]], described: str, clock: Clock | None = None
    ) -> None:
        self._load = load
        self._described = described
        self._clock = clock or SystemClock()
        self._keys: list[IssuerKey] = []
        self._loaded_s = -_JWKS_FRESH_S
        self._tried_s = -_JWKS_PAUSE_S
        self._lock = asyncio.Lock()

    async def find(self, kid: str | None, algorithm: str) -> list[IssuerKey]:
        """The keys that a token with this header may have been signed with; usually one or none.

        Raises:
            Unavailable: there are no keys, because they cannot be loaded.
        """
        found = self._held(kid, algorithm)
        if not found or self._now_s() - self._loaded_s > _JWKS_FRESH_S:
            await self._refresh()
            found = self._held(kid, algorithm)
        return found

    def _held(self, kid: str | None, algorithm: str) -> list[IssuerKey]:
        usable = [key for key in self._keys if algorithm in key.algorithms]
        if kid is None:
            return usable if len(usable) == 1 else []
        return [key for key in usable if key.kid == kid or (key.kid == "" and len(self._keys) == 1)]

    async def _refresh(self) -> None:
        async with self._lock:
            now_s = self._now_s()
            # Tokens with invented names must not become requests to the issuer.
            if now_s - self._tried_s < _JWKS_PAUSE_S:
                if not self._keys:
                    raise self._unavailable()
                return
            self._tried_s = now_s
            try:
                self._keys = await self._load()
                self._loaded_s = now_s
            except (OSError, InvalidArgument, httpx.HTTPError, TimeoutError) as error:
                # Keys that were good an hour ago are better than nobody getting in.
                if not self._keys:
                    raise self._unavailable() from error

    def _unavailable(self) -> Unavailable:
        return Unavailable(
            f"the issuer's keys ({self._described}) cannot be loaded now: try again later",
            retry_after_ms=_JWKS_PAUSE_S * 1000,
        )

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9


async def fetch_jwks(url: str) -> list[IssuerKey]:
    """Get a key set over HTTP, within limits of size and time and without following redirects.

    Raises:
        httpx.HTTPError, TimeoutError, InvalidArgument
    """
    async with (
        asyncio.timeout(_JWKS_TIMEOUT_S),
        httpx.AsyncClient(timeout=_JWKS_TIMEOUT_S) as client,
        client.stream("GET", url, headers={"accept": "application/json"}) as response,
    ):
        if response.status_code != 200:
            raise InvalidArgument(f"{url} answers {response.status_code}")
        text = b""
        async for piece in response.aiter_bytes(65536):
            text += piece
            if len(text) > _JWKS_BYTES_MAX:
                raise InvalidArgument(f"{url} answers more than {_JWKS_BYTES_MAX} bytes")
    return parse_jwks(text)


# -- tokens ------------------------------------------------------------------------------------------------


class Authenticator:
    """Decides whether a token is believed, and remembers that it is.

    Args:
        local: the node's own key; None where only an issuer's tokens count.
        config: the issuer.
        token_bytes_max: longer tokens are refused unread.

    Raises:
        InvalidArgument: the configuration contradicts itself, or a key file is unusable.
    """

    def __init__(
        self,
        local: LocalAuthority | None,
        config: AuthConfig | None = None,
        *,
        token_bytes_max: int = 8192,
        clock: Clock | None = None,
    ) -> None:
        config = config or AuthConfig()
        self._local = local
        self._config = config
        self._clock = clock or SystemClock()
        self._token_bytes_max = token_bytes_max
        self._verified: OrderedDict[bytes, tuple[Principal, int]] = OrderedDict()
        symmetric = [name for name in config.algorithms if name.startswith("HS")]
        self._keys = self._issuer_keys(config)
        if symmetric and self._keys is not None:
            raise InvalidArgument(
                f"algorithms {', '.join(symmetric)} need a shared secret, and an issuer's public key must never be "
                "used as one: name RS256, PS256, ES256 or EdDSA"
            )
        self._algorithms = frozenset(config.algorithms) or _DEFAULT_ALGORITHMS

    def known(self, header: bytes) -> Principal | None:
        """The principal of an `Authorization` header that was verified lately: one look-up."""
        entry = self._verified.get(header)
        if entry is None:
            return None
        if self._clock.now_ns() >= entry[1]:
            del self._verified[header]
            return None
        self._verified.move_to_end(header)
        return entry[0]

    async def verify(self, header: bytes) -> Principal:
        """The principal that an `Authorization` header names.

        Raises:
            Unauthenticated: there is no token, or it is not believed; the message says why.
            Unavailable: the issuer's keys cannot be had.
        """
        principal = self.known(header)
        if principal is not None:
            return principal
        token = self._token(header)
        try:
            claims, issuer, audience = await self._checked(token)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise _refused(f"the token is not valid: {error}") from None
        now_ns = self._clock.now_ns()
        principal = read_claims(claims, now_s=now_ns / 1e9, issuer=issuer, audience=audience)
        until_ns = min(int((claims["exp"] + LEEWAY_S) * 1e9), now_ns + _BELIEVED_S * 1_000_000_000)
        self._verified[header] = (principal, until_ns)
        if len(self._verified) > _VERIFIED_MAX:
            self._verified.popitem(last=False)
        return principal

    def _token(self, header: bytes) -> str:
        if not header:
            raise Unauthenticated(
                "this needs a token: send `Authorization: Bearer TOKEN` (`plexspaces token` prints the local one)"
            )
        if len(header) > self._token_bytes_max:
            raise _refused(f"the token is longer than {self._token_bytes_max} bytes")
        scheme, _, token = header.partition(b" ")
        if scheme.lower() != b"bearer" or not token.strip():
            raise Unauthenticated("the Authorization header is to be `Bearer TOKEN`")
        try:
            return token.strip().decode("ascii")
        except UnicodeDecodeError:
            raise _refused("the token is not a JSON Web Token") from None

    async def _checked(self, token: str) -> tuple[dict[str, Any], str | None, str | None]:
        """The claims of a token with a good signature, and the issuer and audience they must name."""
        header = jwt.get_unverified_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if "crit" in header or header.get("b64", True) is not True:
            raise _refused("the token's header asks for what this node does not know (crit)")
        if not isinstance(algorithm, str) or not (kid is None or (isinstance(kid, str) and len(kid) <= _TEXT_MAX)):
            raise _refused("the token's header is not usable")
        if algorithm == "HS256" and self._local is not None:
            return self._local.claims(token), LOCAL_ISSUER, None
        if self._keys is None or algorithm not in self._algorithms:
            raise _refused(f"algorithm {algorithm[:20]!r} is not accepted")
        keys = await self._keys.find(kid, algorithm)
        if not keys:
            raise _refused("the token was signed with a key that is not known here")
        for key in keys[:-1]:
            try:
                return self._verified_claims(token, key, algorithm), self._config.issuer, self._config.audience
            except jwt.InvalidSignatureError:
                continue
        return self._verified_claims(token, keys[-1], algorithm), self._config.issuer, self._config.audience

    @staticmethod
    def _verified_claims(token: str, key: IssuerKey, algorithm: str) -> dict[str, Any]:
        return _claims(jwt.PyJWS().decode(token, key.key, algorithms=[algorithm]))

    def _issuer_keys(self, config: AuthConfig) -> IssuerKeys | None:
        if config.jwks_url is not None:
            url = config.jwks_url
            return IssuerKeys(lambda: fetch_jwks(url), url, self._clock)
        path, parse = (
            (config.jwks_file, parse_jwks) if config.jwks_file is not None else (config.public_key_file, parse_pem)
        )
        if path is None:
            return None

        async def load() -> list[IssuerKey]:
            return parse(await asyncio.to_thread(path.read_bytes))

        try:
            # At the start, so that a wrong file is heard of now and not from the first caller.
            parse(path.read_bytes())
        except OSError as error:
            raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from None
        except InvalidArgument as error:
            raise InvalidArgument(f"{path}: {error}") from None
        return IssuerKeys(load, str(path), self._clock)


def _claims(payload: bytes) -> dict[str, Any]:
    claims = orjson.loads(payload)
    if not isinstance(claims, dict):
        raise _refused("the token holds no claims")
    return claims


def read_claims(claims: Mapping[str, Any], *, now_s: float, issuer: str | None, audience: str | None) -> Principal:
    """Whom verified claims name.

    Args:
        now_s: seconds since 1970.
        issuer: what `iss` must be; None accepts any.
        audience: what `aud` must be or hold; None accepts any.

    Raises:
        Unauthenticated: they are not valid now, not for us, or name nobody.
    """
    expires = _instant(claims, "exp")
    if expires is None:
        raise _refused("the token has no `exp`: tokens that never end are not accepted")
    if now_s >= expires + LEEWAY_S:
        raise _refused("the token has expired: get a new one")
    for name in ("nbf", "iat"):
        begins = _instant(claims, name)
        if begins is not None and now_s < begins - LEEWAY_S:
            raise _refused(f"the token is not valid yet (`{name}`): compare the clocks")
    if issuer is not None and claims.get("iss") != issuer:
        raise _refused("the token is another issuer's (`iss`)")
    if audience is not None:
        audiences = claims.get("aud")
        if audience not in (audiences if isinstance(audiences, list) else [audiences]):
            raise _refused("the token is for another audience (`aud`)")
    tenant, subject, session = claims.get("tenant"), claims.get("sub"), claims.get("session", "")
    roles, namespaces = claims.get("roles", []), claims.get("namespaces")
    if not isinstance(tenant, str) or not isinstance(subject, str) or not 0 < len(subject) <= _TEXT_MAX:
        raise _refused("the token names no `tenant` or no `sub`")
    if not _texts(roles) or not (namespaces is None or _texts(namespaces)) or not _texts([session]):
        raise _refused("the token's `roles`, `namespaces` or `session` are not usable")
    try:
        check_name("tenant", tenant)
    except InvalidArgument as error:
        raise _refused(f"the token's {error.message}") from None
    return Principal(
        tenant,
        subject,
        frozenset(roles),
        None if namespaces is None else frozenset(namespaces),
        session,
        _scopes(claims),
    )


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """`scope` (RFC 8693, 4.2: a text with spaces) and `scp` (a list, or such a text), as issuers write them."""
    found: frozenset[str] = frozenset()
    for name in ("scope", "scp"):
        value = claims.get(name, [])
        if isinstance(value, str) and len(value) <= _SCOPE_CHARS_MAX:
            value = value.split()
        if not _texts(value):
            raise _refused(f"the token's `{name}` is not usable")
        found |= frozenset(value)
    return found


def _texts(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _ROLES_MAX
        and all(isinstance(item, str) and len(item) <= _TEXT_MAX for item in value)
    )


def _instant(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    # Beyond this there is no date; infinities and NaN fail the comparison.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise _refused(f"the token's `{name}` is not a time")
    return value


def _refused(message: str) -> Unauthenticated:
    return Unauthenticated(message, reason="invalid_token")
