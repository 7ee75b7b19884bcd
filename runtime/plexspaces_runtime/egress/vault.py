"""The vault: named secrets of tenants, and the phantom tokens that stand for values where guests can see them.

What goes in never comes out again but into a request on its way out: no call here gives a value to anybody else.  A
tenant's values are sealed under a key of its own; the place of each, tenant, name and version, is sealed with it, so
that rows of the database cannot be swapped.

A phantom token is registered, by an actor that chose it or let the node choose, and stays until it is forgotten; or it
was made for a value that came in a message, and is forgotten an hour after the last one.  The same value sent to the
same actor makes the same token, so that a message which comes again is the same message.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import orjson

from ..clock import Clock
from ..config import Limits
from ..errors import Conflict, InvalidArgument, LimitExceeded, NotFound, Unavailable
from ..events import CredentialRegistered, EventBus, MasterKeyReplaced, SecretRemoved, SecretSet
from ..ids import Ids
from ..scope import Address, Scope, check_name
from ..stores.secrets import CredentialRow, KeyRow, SecretRow, SecretTable
from .keys import KEY_BYTES, Broken, Keys, MasterKey, bound, seal, unseal
from .scan import VALUE_BYTES_MIN, Watch

TOKEN: Final = re.compile(r"[A-Za-z0-9_.~-]{8,256}")
_LINKS_MAX: Final = 64
_NS_PER_MS: Final = 1_000_000
# How long the token of a message holds at least; and how often that is written down anew.
_HELD_MS: Final = 3_600_000
_SLACK_MS: Final = 60_000
_TOKEN_BYTES: Final = 20


@dataclass(frozen=True, slots=True)
class SecretInfo:
    """What may be known of a named secret.

    Attributes:
        version: 1 at first, one more for each new value.
        set_ms: wall clock.
        set_by: the subject of the token.
    """

    name: str
    version: int
    set_ms: int
    set_by: str


@dataclass(frozen=True, slots=True)
class Credential:
    """What a phantom token stands for.

    Attributes:
        links: where it may be used; none for a token that came in a message and is not registered.
    """

    token: str
    value: str = field(repr=False)
    links: tuple[str, ...]


class Vault:
    """All secrets of a node.

    Args:
        keys: the master key, see `keys.open_keys`.
        flushed: waits until what was given to the table is on disk.
    """

    def __init__(
        self,
        table: SecretTable,
        keys: Keys,
        *,
        clock: Clock,
        ids: Ids,
        events: EventBus,
        limits: Limits,
        flushed: Callable[[], Awaitable[None]],
    ) -> None:
        self._table = table
        self._keys = keys
        self._master: MasterKey = keys.present
        self._clock = clock
        self._ids = ids
        self._events = events
        self._limits = limits
        self._flushed = flushed
        self._tenant_keys: dict[str, bytes] = {}
        self._secrets: dict[str, dict[str, SecretRow]] = {}
        self._credentials: dict[Scope, dict[str, CredentialRow]] = {}
        self._credential_counts: dict[str, int] = {}
        # Those of messages, the one that ends first in front.
        self._passing: OrderedDict[tuple[Scope, str], None] = OrderedDict()
        # Made when the first request of a tenant leaves, and kept up from then on.
        self._watches: dict[str, Watch] = {}
        # For as long as it takes to serve one call.
        self._covered = ("", "")
        self._rotating = asyncio.Lock()
        # A new master key is on its way to the disk, and its file not in place yet.
        self._unfinished = False

    def load(self) -> None:
        """Read what there is, and go over to another master key if the node was given one.  Once, before anything else.

        Raises:
            Unavailable: a tenant's key is damaged.
        """
        before = self._keys.before or self._master
        for key in self._table.key_rows():
            try:
                self._tenant_keys[key.tenant] = unseal(before.key, bound("tenant", key.tenant), key.wrapped)
            except Broken:
                raise Unavailable(
                    f"the key of tenant {key.tenant!r} is damaged: restore the data directory from a backup; nothing "
                    "has been changed"
                ) from None
        for secret in self._table.secret_rows():
            self._secrets.setdefault(secret.tenant, {})[secret.name] = secret
        for credential in self._table.credential_rows():
            self._remember(credential)
        if self._keys.before is not None:
            self._wrap_all(self._master)

    # -- named secrets ------------------------------------------------------------------------------------

    def set(self, tenant: str, name: str, value: str, *, by: str) -> SecretInfo:
        """Keep a secret, in place of the one of that name.

        Args:
            by: the subject who does.

        Raises:
            InvalidArgument: no name, or no value that can be kept.
            LimitExceeded, Unavailable
        """
        check_name("secret", name)
        self._check_value(value, f"secret {name!r}")
        known = self._secrets.setdefault(tenant, {})
        former = known.get(name)
        most = self._limits.secrets_per_tenant_max
        if former is None and len(known) >= most:
            raise LimitExceeded(
                f"the tenant has {len(known)} secrets, as many as it may: remove some, or raise secrets_per_tenant_max",
                limit="secrets_per_tenant_max",
                value=most,
            )
        version = 1 if former is None else former.version + 1
        sealed = self._seal(tenant, bound("secret", tenant, name, str(version)), value.encode())
        row = SecretRow(tenant, name, version, self._now_ms(), by, sealed)
        self._table.put_secret(row)
        known[name] = row
        self._watch(tenant, lambda watch: watch.put(_named(name), value))
        self._events.emit(SecretSet(tenant, name, version, by))
        return _info(row)

    def secrets(self, tenant: str) -> list[SecretInfo]:
        """What may be known of a tenant's secrets, by name."""
        return [_info(row) for _, row in sorted(self._secrets.get(tenant, {}).items())]

    def secret(self, tenant: str, name: str) -> SecretInfo:
        """What may be known of one.

        Raises:
            NotFound
        """
        return _info(self._secret(tenant, name))

    def remove(self, tenant: str, name: str, *, by: str) -> None:
        """Forget a secret.

        Raises:
            NotFound, Unavailable
        """
        self._secret(tenant, name)
        self._table.remove_secret(tenant, name)
        del self._secrets[tenant][name]
        self._watch(tenant, lambda watch: watch.remove(_named(name)))
        self._events.emit(SecretRemoved(tenant, name, by))

    def reveal(self, tenant: str, name: str) -> str:
        """The value of a secret: for a request that is about to leave, and for nothing else.

        Raises:
            NotFound: it is not set, or cannot be read; the message says how to set it.
        """
        row = self._secret(tenant, name)
        try:
            plain = unseal(self._tenant_keys[tenant], bound("secret", tenant, name, str(row.version)), row.sealed)
        except (Broken, KeyError):
            raise NotFound(
                f"the stored value of secret {name!r} is damaged: set it again with `plexspaces secret set {name}`",
                secret=name,
            ) from None
        return plain.decode()

    # -- phantom tokens -----------------------------------------------------------------------------------

    def veil(self, address: Address, value: str) -> str:
        """A token for a value that is on its way to an actor.

        A token that stands for something already comes back as it is.

        Raises:
            InvalidArgument: the value cannot be kept.
            LimitExceeded, Unavailable
        """
        scope = address.scope
        row = self._credentials.get(scope, {}).get(value)
        if row is None:
            self._check_value(value, "what is secret")
            token = self._token(address, value)
            row = self._credentials.get(scope, {}).get(token)
        else:
            token = value
        now_ms = self._now_ms()
        if row is None:
            self._put(Credential(token, value, ()), scope, now_ms + _HELD_MS + _SLACK_MS)
        elif row.until_ms and row.until_ms < now_ms + _HELD_MS:
            self._put(self._opened(row), scope, now_ms + _HELD_MS + _SLACK_MS)
        return token

    def cover(self, address: Address, credential: str) -> str:
        """What stands for a credential in the record of a call that gives it into the vault: a token, always the same.

        Raises:
            Unavailable: the disk refuses the tenant's first key.
        """
        if credential in self._credentials.get(address.scope, {}):
            return credential
        token = self._token(address, credential)
        self._covered = (token, credential)
        return token

    def uncovered(self, credential: str) -> str:
        """The credential that was covered last, if this is its token."""
        (token, value), self._covered = self._covered, ("", "")
        return value if token == credential else credential

    def register(self, address: Address, token: str, credential: str, links: Iterable[str], *, mark: str = "") -> str:
        """Let a token stand for a value in requests through some links.

        Args:
            address: of the actor that wants it; the token is its namespace's.
            token: "" makes one.
            credential: the value, or a token that stands for it.
            mark: the same makes the same token: for a call that may be made again.

        Returns:
            The token.

        Raises:
            InvalidArgument, LimitExceeded, Unavailable
        """
        scope, names = address.scope, tuple(dict.fromkeys(links))
        if token and not TOKEN.fullmatch(token):
            raise InvalidArgument(
                "a phantom token has 8 to 256 letters, digits, '_', '.', '~' or '-', so that it can be told from what "
                "stands around it"
            )
        if not names or len(names) > _LINKS_MAX:
            raise InvalidArgument(f"a credential is for 1 to {_LINKS_MAX} links, not for {len(names)}: name them")
        known = self._credentials.get(scope, {}).get(credential)
        value = credential if known is None else self._opened(known).value
        self._check_value(value, "a credential")
        if token == value:
            raise InvalidArgument("the phantom token is the credential itself: choose another, or none")
        if not token:
            token = self._token(address, mark or self._ids.random_bytes(_TOKEN_BYTES).hex(), "registered")
        self._put(Credential(token, value, names), scope, 0)
        self._events.emit(CredentialRegistered(address, token, names))
        return token

    def forget(self, scope: Scope, token: str) -> bool:
        """Forget a token; whether there was one.

        Raises:
            Unavailable
        """
        if token not in self._credentials.get(scope, {}):
            return False
        self._table.remove_credentials([(scope, token)])
        self._drop(scope, token)
        return True

    def stands_for(self, scope: Scope, token: str) -> Credential | None:
        """What a token stands for: for a request that is about to leave, and for nothing else."""
        row = self._credentials.get(scope, {}).get(token)
        if row is None or (row.until_ms and row.until_ms <= self._now_ms()):
            return None
        return self._opened(row)

    def watch(self, tenant: str) -> Watch:
        """Finds the tenant's values in a text, under `secret 'NAME'` or their tokens."""
        watch = self._watches.get(tenant)
        if watch is None:
            watch = self._watches[tenant] = Watch()
            for name in self._secrets.get(tenant, {}):
                try:
                    watch.put(_named(name), self.reveal(tenant, name))
                except NotFound:
                    # It is damaged, and can leak nowhere.
                    continue
            for scope, rows in self._credentials.items():
                for row in rows.values() if scope.tenant == tenant else ():
                    try:
                        watch.put(_token_of(scope, row.token), self._opened(row).value)
                    except NotFound:
                        continue
        return watch

    # -- the master key -----------------------------------------------------------------------------------

    async def rotate(self) -> str:
        """Go over to a new master key; its fingerprint.  The values keep the keys of their tenants.

        Raises:
            Conflict: the master key comes from the environment.
            Unavailable, LimitExceeded: not now; nothing is lost.
        """
        file = self._keys.file
        if file is None:
            raise Conflict(
                "the master key comes from PLEXSPACES_SECRETS_KEY: start the node with a new one there, and with the "
                "present one in PLEXSPACES_SECRETS_PREVIOUS_KEY"
            )
        async with self._rotating:
            if self._unfinished:
                # The key beside the file is the one that the database will name: it is not to be written over.
                await self._flushed()
                await asyncio.to_thread(file.finish)
                self._unfinished = False
            new = MasterKey(self._ids.random_bytes(KEY_BYTES))
            await asyncio.to_thread(file.prepare, new)
            self._wrap_all(new)
            self._unfinished = True
            await self._flushed()
            await asyncio.to_thread(file.finish)
            self._unfinished = False
        self._events.emit(MasterKeyReplaced(new.fingerprint))
        return new.fingerprint

    # -- inside -------------------------------------------------------------------------------------------

    def _wrap_all(self, master: MasterKey) -> None:
        rows = [self._wrap(master, tenant, key) for tenant, key in self._tenant_keys.items()]
        self._table.put_keys(rows)
        self._master = master

    def _wrap(self, master: MasterKey, tenant: str, key: bytes) -> KeyRow:
        return KeyRow(tenant, master.fingerprint, seal(master.key, bound("tenant", tenant), key, self._ids))

    def _tenant_key(self, tenant: str) -> bytes:
        key = self._tenant_keys.get(tenant)
        if key is None:
            key = self._ids.random_bytes(KEY_BYTES)
            self._table.put_keys([self._wrap(self._master, tenant, key)])
            self._tenant_keys[tenant] = key
        return key

    def _mac_key(self, tenant: str) -> bytes:
        # Apart from the key that seals: a key does one thing.
        return hashlib.blake2b(b"plexspaces phantom", key=self._tenant_key(tenant), digest_size=KEY_BYTES).digest()

    def _token(self, address: Address, *about: str) -> str:
        digest = hmac.digest(self._mac_key(address.scope.tenant), bound(str(address), *about), "sha256")
        return f"phantom-{digest[:_TOKEN_BYTES].hex()}"

    def _seal(self, tenant: str, place: bytes, plain: bytes) -> bytes:
        return seal(self._tenant_key(tenant), place, plain, self._ids)

    def _check_value(self, value: str, what: str) -> None:
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidArgument(f"{what} is not UTF-8 text") from None
        if size < VALUE_BYTES_MIN:
            raise InvalidArgument(
                f"{what} has {size} bytes, and is to have {VALUE_BYTES_MIN} at least: a shorter one is no secret, and "
                "would be found in texts that have nothing to do with it"
            )
        if size > self._limits.secret_bytes_max:
            raise LimitExceeded(
                f"{what} has {size} bytes, more than secret_bytes_max = {self._limits.secret_bytes_max}",
                limit="secret_bytes_max",
                value=self._limits.secret_bytes_max,
            )

    def _secret(self, tenant: str, name: str) -> SecretRow:
        row = self._secrets.get(tenant, {}).get(name)
        if row is None:
            raise NotFound(
                f"secret {name[:80]!r} is not set: set it with `plexspaces secret set {name[:80]}`", secret=name[:80]
            )
        return row

    def _put(self, credential: Credential, scope: Scope, until_ms: int) -> None:
        """Keep what a token stands for, in place of what it stood for before."""
        tenant = scope.tenant
        forgotten = self._ended()
        used = self._credential_counts.get(tenant, 0) - sum(each.tenant == tenant for each, _ in forgotten)
        most = self._limits.credentials_per_tenant_max
        if credential.token not in self._credentials.get(scope, {}) and used >= most:
            raise LimitExceeded(
                f"the tenant has {used} phantom tokens, as many as it may: forget some, or raise "
                "credentials_per_tenant_max",
                limit="credentials_per_tenant_max",
                value=most,
            )
        plain = orjson.dumps([credential.value, credential.links])
        row = CredentialRow(
            scope, credential.token, until_ms, self._seal(tenant, _place(scope, credential.token, until_ms), plain)
        )
        self._table.put_credential(row, forgotten)
        for each, token in forgotten:
            self._drop(each, token)
        self._remember(row)
        self._watch(tenant, lambda watch: watch.put(_token_of(scope, row.token), credential.value))

    def _ended(self) -> list[tuple[Scope, str]]:
        now_ms, ended = self._now_ms(), []
        for scope, token in self._passing:
            if self._credentials[scope][token].until_ms > now_ms:
                break
            ended.append((scope, token))
        return ended

    def _remember(self, row: CredentialRow) -> None:
        scope, key = row.scope, (row.scope, row.token)
        tokens = self._credentials.setdefault(scope, {})
        if row.token not in tokens:
            self._credential_counts[scope.tenant] = self._credential_counts.get(scope.tenant, 0) + 1
        tokens[row.token] = row
        self._passing.pop(key, None)
        if row.until_ms:
            self._passing[key] = None

    def _drop(self, scope: Scope, token: str) -> None:
        tokens = self._credentials[scope]
        del tokens[token]
        if not tokens:
            del self._credentials[scope]
        self._credential_counts[scope.tenant] -= 1
        self._passing.pop((scope, token), None)
        self._watch(scope.tenant, lambda watch: watch.remove(_token_of(scope, token)))

    def _opened(self, row: CredentialRow) -> Credential:
        scope = row.scope
        try:
            plain = unseal(self._tenant_keys[scope.tenant], _place(scope, row.token, row.until_ms), row.sealed)
        except (Broken, KeyError):
            raise NotFound(
                f"what the phantom token {row.token!r} stands for is damaged: register it again", token=row.token
            ) from None
        value, links = orjson.loads(plain)
        return Credential(row.token, value, tuple(links))

    def _watch(self, tenant: str, change: Callable[[Watch], None]) -> None:
        if (watch := self._watches.get(tenant)) is not None:
            change(watch)

    def _now_ms(self) -> int:
        return self._clock.now_ns() // _NS_PER_MS


def _info(row: SecretRow) -> SecretInfo:
    return SecretInfo(row.name, row.version, row.set_ms, row.set_by)


def _place(scope: Scope, token: str, until_ms: int) -> bytes:
    return bound("credential", scope.tenant, scope.namespace, token, str(until_ms))


def _named(name: str) -> str:
    return f"secret {name!r}"


def _token_of(scope: Scope, token: str) -> str:
    return f"phantom token {token!r} of namespace {scope.namespace!r}"
