"""Recorded answers to requests that may come again: what the edge keeps across a restart of the node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from .database import Database

SCHEMA: Final[tuple[str, ...]] = (
    "CREATE TABLE replies (number INTEGER PRIMARY KEY, tenant TEXT NOT NULL, namespace TEXT NOT NULL,"
    " subject TEXT NOT NULL, key TEXT NOT NULL, fingerprint BLOB NOT NULL, until_ms INTEGER NOT NULL,"
    " status INTEGER NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL, UNIQUE (tenant, namespace, subject, key))",
)

# Whose key it is: tenant, namespace, subject, key.
ReplyKey = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class ReplyRow:
    """One answer.

    Attributes:
        fingerprint: of the request it answers.
        until_ms: when it may be forgotten, Unix milliseconds.
        status: of HTTP; 0 where the answer was too large to be kept.
        headers: JSON text.
    """

    key: ReplyKey
    fingerprint: bytes
    until_ms: int
    status: int
    headers: str
    body: bytes


class ReplyTable(Protocol):
    """Where answers are kept."""

    def rows(self) -> Iterable[ReplyRow]:
        """All, the oldest first."""

    def put(self, row: ReplyRow, forgotten: Sequence[ReplyKey]) -> None:
        """Keep an answer, and forget others, as one unit.

        Raises:
            Unavailable, LimitExceeded: not now.
        """

    def remove(self, forgotten: Sequence[ReplyKey]) -> None:
        """Forget answers.

        Raises:
            Unavailable, LimitExceeded: not now.
        """


class SqliteReplies:
    """On the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rows(self) -> Iterator[ReplyRow]:
        """See `ReplyTable`."""
        for row in self._database.read(
            "SELECT tenant, namespace, subject, key, fingerprint, until_ms, status, headers, body FROM replies"
            " ORDER BY number"
        ):
            yield ReplyRow((row[0], row[1], row[2], row[3]), *row[4:])

    def put(self, row: ReplyRow, forgotten: Sequence[ReplyKey]) -> None:
        """See `ReplyTable`."""
        values = (*row.key, row.fingerprint, row.until_ms, row.status, row.headers, row.body)
        self._database.stream.write(
            [
                *map(_delete, forgotten),
                (
                    "INSERT OR REPLACE INTO replies"
                    " (tenant, namespace, subject, key, fingerprint, until_ms, status, headers, body)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    values,
                ),
            ]
        )

    def remove(self, forgotten: Sequence[ReplyKey]) -> None:
        """See `ReplyTable`."""
        self._database.stream.write([*map(_delete, forgotten)])


class MemoryReplies:
    """In memory: for simulations."""

    def rows(self) -> Iterable[ReplyRow]:
        """See `ReplyTable`."""
        return ()

    def put(self, row: ReplyRow, forgotten: Sequence[ReplyKey]) -> None:
        """See `ReplyTable`."""

    def remove(self, forgotten: Sequence[ReplyKey]) -> None:
        """See `ReplyTable`."""


def _delete(key: ReplyKey) -> tuple[str, ReplyKey]:
    return ("DELETE FROM replies WHERE tenant = ? AND namespace = ? AND subject = ? AND key = ?", key)
