"""The journals of a node that is stopped, read from its data directory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from ..errors import NotFound, Unavailable
from ..stores.database import FILE
from ..stores.engine import explain
from ..stores.journal import JournalTable
from ..stores.stores import SCHEMA


class _Frozen:
    """A database file as it is at one moment."""

    # There is nobody to write.
    stream = None

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """See `stores.database.Database.read`."""
        return self._connection.execute(sql, parameters).fetchall()


# What is kept of durable actors is since this format of the database as it is now.
FORMAT_MIN: Final = 1


@contextmanager
def opened(data_dir: Path) -> Iterator[JournalTable]:
    """The rows in a data directory; nothing is changed, and a node may run on it meanwhile.

    Raises:
        NotFound: there is no database.
        Unavailable: it cannot be read, or another version wrote it.
    """
    path = data_dir / FILE
    if not path.is_file():
        raise NotFound(f"{path}: no such file: --data-dir is the directory that plexspaces serve was given")
    try:
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, isolation_level=None)
        try:
            # One moment for all that is read.
            connection.execute("BEGIN")
            ((version,),) = connection.execute("PRAGMA user_version").fetchall()
            if not FORMAT_MIN <= version <= SCHEMA.version:
                raise Unavailable(
                    f"{path} is of format {version}, and this version reads {FORMAT_MIN} to {SCHEMA.version}: use the "
                    "version that wrote it"
                )
            yield JournalTable(_Frozen(connection))
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise Unavailable(f"{path}: {explain(error)}") from None
