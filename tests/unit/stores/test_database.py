"""The database file: made, migrated, refused."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import Unavailable
from plexspaces_runtime.events import EventBus
from plexspaces_runtime.stores import engine
from plexspaces_runtime.stores.database import FILE, Database, Schema

ONE = Schema(1, (*engine.SCHEMA, "CREATE TABLE a (x INTEGER)"))
THREE = Schema(
    3,
    (*engine.SCHEMA, "CREATE TABLE a (x INTEGER, y INTEGER, z INTEGER)"),
    {1: ("ALTER TABLE a ADD COLUMN y INTEGER",), 2: ("ALTER TABLE a ADD COLUMN z INTEGER", "UPDATE a SET z = x * 2")},
)


def database(folder: Path, schema: Schema = ONE) -> Database:
    return Database(folder, schema, loop=asyncio.get_running_loop(), events=EventBus(), limits=Limits())


async def test_a_new_file_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    opened = database(tmp_path / "new")
    await opened.start()
    assert stat.S_IMODE(os.stat(opened.path).st_mode) == 0o600
    assert opened.read("SELECT count(*) FROM a") == [(0,)]
    await opened.stop()


async def test_an_older_file_is_migrated_step_by_step(tmp_path: Path) -> None:
    old = database(tmp_path)
    await old.start()
    old.stream.write([("INSERT INTO a VALUES (?)", (21,))])
    await old.stop()
    new = database(tmp_path, THREE)
    await new.start()
    assert new.read("SELECT x, y, z FROM a") == [(21, None, 42)]
    assert new.read("PRAGMA user_version") == [(3,)]
    # The order of writes goes on.
    assert new.stream.durable == 1
    await new.stop()


async def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    old = database(tmp_path)
    await old.start()
    await old.stop()
    broken = Schema(2, ONE.create, {1: ("ALTER TABLE a ADD COLUMN y INTEGER", "UPDATE nothing SET x = 1")})
    with pytest.raises(Unavailable, match="nothing"):
        await database(tmp_path, broken).start()
    again = database(tmp_path)
    await again.start()
    assert [row[1] for row in again.read("PRAGMA table_info(a)")] == ["x"]
    await again.stop()


async def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    new = database(tmp_path, THREE)
    await new.start()
    await new.stop()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(Unavailable, match=r"newer version \(format 3, this one knows 1\)"):
        await database(tmp_path).start()
    assert (tmp_path / FILE).read_bytes() == before
    # And the lock has been given back.
    new = database(tmp_path, THREE)
    await new.start()
    await new.stop()


async def test_a_file_too_old_to_migrate_is_refused(tmp_path: Path) -> None:
    old = database(tmp_path)
    await old.start()
    await old.stop()
    with pytest.raises(Unavailable, match="a version in between"):
        await database(tmp_path, Schema(3, ONE.create, {2: ()})).start()


async def test_two_nodes_do_not_share_a_data_directory(tmp_path: Path) -> None:
    first = database(tmp_path)
    await first.start()
    with pytest.raises(Unavailable, match="another node uses the data directory"):
        await database(tmp_path).start()
    await first.stop()
    second = database(tmp_path)
    await second.start()
    await second.stop()


@pytest.mark.parametrize(
    "content", [b"this is no database at all, but something else entirely" * 100, b"SQLite format 3\0"]
)
async def test_what_is_no_database_is_refused_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(Unavailable, match="restore the data directory from a backup"):
        await database(tmp_path).start()
    assert (tmp_path / FILE).read_bytes() == content


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be used"):
        await database(tmp_path / "file" / "data").start()


async def test_names_of_folders_do_not_steer_sqlite(tmp_path: Path) -> None:
    folder = tmp_path / "a?mode=memory#b%20c"
    opened = database(folder)
    await opened.start()
    opened.stream.write([("INSERT INTO a VALUES (1)", ())])
    await opened.stream.flushed()
    assert opened.read("SELECT x FROM a") == [(1,)]
    await opened.stop()
    connection = sqlite3.connect(folder / FILE)
    assert connection.execute("SELECT x FROM a").fetchall() == [(1,)]
    connection.close()
