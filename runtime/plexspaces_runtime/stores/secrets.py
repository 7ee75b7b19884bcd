"""What the vault keeps on disk: sealed values, and the tenants' keys that seal them, wrapped by the node's master key.

Nothing here can be read without the master key, and nothing here knows it.  What is deleted or replaced is overwritten
in the file as well: an old value that was revoked with good reason should not wait there for the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from ..scope import Scope

if TYPE_CHECKING:
    from .database import Database
    from .engine import Statement

SCHEMA: Final[tuple[str, ...]] = (
    "CREATE TABLE vault_keys (tenant TEXT PRIMARY KEY, master TEXT NOT NULL, wrapped BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE secrets (tenant TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, set_ms INTEGER NOT NULL,"
    " set_by TEXT NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (tenant, name))",
    "CREATE TABLE credentials (tenant TEXT NOT NULL, namespace TEXT NOT NULL, token TEXT NOT NULL,"
    " until_ms INTEGER NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (tenant, namespace, token))",
)

# Of a connection, not of the file: only these few statements pay for what it writes.
_WIPE: Final = ("PRAGMA secure_delete = ON", ())
_WIPE_NO_MORE: Final = ("PRAGMA secure_delete = OFF", ())


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A tenant's key.

    Attributes:
        master: the fingerprint of the master key it is wrapped by.
        wrapped: nonce and ciphertext.
    """

    tenant: str
    master: str
    wrapped: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SecretRow:
    """A named secret.

    Attributes:
        version: 1 at first, one more for each new value.
        set_ms: wall clock.
        set_by: the subject of the token.
        sealed: salt, nonce and ciphertext.
    """

    tenant: str
    name: str
    version: int
    set_ms: int
    set_by: str
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """What a phantom token stands for.

    Attributes:
        until_ms: when it is forgotten, wall clock; 0 for one that is registered, which stays.
        sealed: salt, nonce and ciphertext of the value and the links it is for.
    """

    scope: Scope
    token: str
    until_ms: int
    sealed: bytes = field(repr=False)


class SecretTable(Protocol):
    """Where sealed values are kept.  Each method is one atomic unit of the write stream.

    Raises:
        Unavailable, LimitExceeded: it was not accepted.
    """

    def key_rows(self) -> Iterable[KeyRow]:
        """Every tenant's key, at the start."""

    def secret_rows(self) -> Iterable[SecretRow]:
        """Every named secret, at the start."""

    def credential_rows(self) -> Iterable[CredentialRow]:
        """Every phantom token, those that end first at first."""

    def put_keys(self, rows: Sequence[KeyRow]) -> None:
        """Store keys: all or none."""

    def put_secret(self, row: SecretRow) -> None:
        """Store a secret, in place of the one of that name."""

    def remove_secret(self, tenant: str, name: str) -> None:
        """Forget one."""

    def put_credential(self, row: CredentialRow, forgotten: Sequence[tuple[Scope, str]] = ()) -> None:
        """Store a phantom token, in place of the one of that text, and forget others."""

    def remove_credentials(self, forgotten: Sequence[tuple[Scope, str]]) -> None:
        """Forget phantom tokens."""


class SqliteSecrets:
    """On the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def key_rows(self) -> Iterable[KeyRow]:
        """See `SecretTable`."""
        return [KeyRow(*row) for row in self._database.read("SELECT tenant, master, wrapped FROM vault_keys")]

    def secret_rows(self) -> Iterable[SecretRow]:
        """See `SecretTable`."""
        rows = self._database.read("SELECT tenant, name, version, set_ms, set_by, sealed FROM secrets")
        return [SecretRow(*row) for row in rows]

    def credential_rows(self) -> Iterable[CredentialRow]:
        """See `SecretTable`."""
        rows = self._database.read(
            "SELECT tenant, namespace, token, until_ms, sealed FROM credentials ORDER BY until_ms"
        )
        return [CredentialRow(Scope(row[0], row[1]), *row[2:]) for row in rows]

    def put_keys(self, rows: Sequence[KeyRow]) -> None:
        """See `SecretTable`."""
        self._write(
            [
                ("INSERT OR REPLACE INTO vault_keys VALUES (?, ?, ?)", (row.tenant, row.master, row.wrapped))
                for row in rows
            ]
        )

    def put_secret(self, row: SecretRow) -> None:
        """See `SecretTable`."""
        values = (row.tenant, row.name, row.version, row.set_ms, row.set_by, row.sealed)
        self._write([("INSERT OR REPLACE INTO secrets VALUES (?, ?, ?, ?, ?, ?)", values)])

    def remove_secret(self, tenant: str, name: str) -> None:
        """See `SecretTable`."""
        self._write([("DELETE FROM secrets WHERE tenant = ? AND name = ?", (tenant, name))])

    def put_credential(self, row: CredentialRow, forgotten: Sequence[tuple[Scope, str]] = ()) -> None:
        """See `SecretTable`."""
        values = (row.scope.tenant, row.scope.namespace, row.token, row.until_ms, row.sealed)
        self._write([*map(_forget, forgotten), ("INSERT OR REPLACE INTO credentials VALUES (?, ?, ?, ?, ?)", values)])

    def remove_credentials(self, forgotten: Sequence[tuple[Scope, str]]) -> None:
        """See `SecretTable`."""
        self._write([*map(_forget, forgotten)])

    def _write(self, statements: Sequence[Statement]) -> None:
        self._database.stream.write([_WIPE, *statements, _WIPE_NO_MORE])


class MemorySecrets:
    """In memory: for simulations."""

    def key_rows(self) -> Iterable[KeyRow]:
        """See `SecretTable`."""
        return ()

    def secret_rows(self) -> Iterable[SecretRow]:
        """See `SecretTable`."""
        return ()

    def credential_rows(self) -> Iterable[CredentialRow]:
        """See `SecretTable`."""
        return ()

    def put_keys(self, rows: Sequence[KeyRow]) -> None:
        """See `SecretTable`."""

    def put_secret(self, row: SecretRow) -> None:
        """See `SecretTable`."""

    def remove_secret(self, tenant: str, name: str) -> None:
        """See `SecretTable`."""

    def put_credential(self, row: CredentialRow, forgotten: Sequence[tuple[Scope, str]] = ()) -> None:
        """See `SecretTable`."""

    def remove_credentials(self, forgotten: Sequence[tuple[Scope, str]]) -> None:
        """See `SecretTable`."""


def _forget(which: tuple[Scope, str]) -> Statement:
    scope, token = which
    return (
        "DELETE FROM credentials WHERE tenant = ? AND namespace = ? AND token = ?",
        (scope.tenant, scope.namespace, token),
    )
