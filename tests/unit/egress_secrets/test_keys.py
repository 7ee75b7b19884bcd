"""The master key's file: made once, private, and replaced so that no crash loses anything."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from plexspaces_runtime.config import SecretsConfig
from plexspaces_runtime.egress.keys import KeyFile, Keys, MasterKey, open_keys
from plexspaces_runtime.errors import InvalidArgument, LimitExceeded, Unavailable
from plexspaces_runtime.events import MasterKeyReplaced
from plexspaces_runtime.ids import SeededIds, SystemIds
from tests.unit.egress_secrets.bench import MASTER, Bench
from tests.unit.egress_secrets.test_vault import check_filled, filled

OTHER = MasterKey(b"\x07" * 32)


def opened(folder: Path, in_use: str | None = None, **config: str | Path) -> Keys:
    return open_keys(SecretsConfig(**config), folder, in_use, SystemIds())  # type: ignore[arg-type]


def in_use(bench: Bench) -> str | None:
    rows = bench.database.read("SELECT DISTINCT master FROM vault_keys")
    assert len(rows) <= 1, "all keys are under one"
    return str(rows[0][0]) if rows else None


def text(key: MasterKey) -> str:
    return key.text().decode()


def test_a_key_is_made_and_found_again(tmp_path: Path) -> None:
    first = opened(tmp_path)
    path = tmp_path / "keys" / "secrets.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert opened(tmp_path).present == first.present
    assert opened(tmp_path, first.present.fingerprint).present == first.present
    assert first.before is None


def test_a_file_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "the.key"
    assert opened(tmp_path, key_file=path).present == opened(tmp_path, key_file=path).present
    assert path.exists()
    assert not (tmp_path / "keys").exists()


def test_others_may_not_read_it(tmp_path: Path) -> None:
    opened(tmp_path)
    path = tmp_path / "keys" / "secrets.key"
    path.chmod(0o640)
    with pytest.raises(InvalidArgument, match=r"chmod 0600"):
        opened(tmp_path)
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        opened(tmp_path)


def test_a_file_that_holds_no_key(tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / "keys" / "secrets.key").write_text("what is this\n")
    with pytest.raises(InvalidArgument, match="holds no key: it is to be base64 of 32 bytes"):
        opened(tmp_path)


def test_another_key_stops_the_start_and_changes_nothing(tmp_path: Path) -> None:
    opened(tmp_path)
    path = tmp_path / "keys" / "secrets.key"
    before = path.read_bytes()
    with pytest.raises(
        Unavailable, match=rf"under the master key {OTHER.fingerprint}, and .*secrets.key holds another"
    ):
        opened(tmp_path, OTHER.fingerprint)
    assert path.read_bytes() == before
    with pytest.raises(Unavailable, match="PLEXSPACES_SECRETS_KEY holds another"):
        opened(tmp_path, OTHER.fingerprint, key=text(MASTER))


def test_a_key_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"secrets.key is not there: restore that key file"):
        opened(tmp_path, OTHER.fingerprint)
    assert not (tmp_path / "keys").exists()


def test_the_environment_wins_and_leads_from_the_file(tmp_path: Path) -> None:
    of_file = opened(tmp_path).present
    keys = opened(tmp_path, of_file.fingerprint, key=text(OTHER))
    assert (keys.present, keys.before, keys.file) == (OTHER, of_file, None)
    keys = opened(tmp_path, OTHER.fingerprint, key=text(OTHER))
    assert (keys.present, keys.before) == (OTHER, None)
    # And back.
    keys = opened(tmp_path, OTHER.fingerprint, previous_key=text(OTHER))
    assert (keys.present, keys.before) == (of_file, OTHER)
    assert keys.file is not None


def test_the_environment_s_key_is_replaced(tmp_path: Path) -> None:
    keys = opened(tmp_path, MASTER.fingerprint, key=text(OTHER), previous_key=text(MASTER))
    assert (keys.present, keys.before) == (OTHER, MASTER)
    # Left in the environment, it does no harm.
    keys = opened(tmp_path, OTHER.fingerprint, key=text(OTHER), previous_key=text(MASTER))
    assert (keys.present, keys.before) == (OTHER, None)
    assert not (tmp_path / "keys").exists()


def test_a_wrong_key_of_the_environment_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"^PLEXSPACES_SECRETS_KEY holds no key") as caught:
        opened(tmp_path, key="not-a-key-but-secret")
    assert "but-secret" not in str(caught.value)


# -- rotation ----------------------------------------------------------------------------------------------


async def test_a_rotation_replaces_the_key_and_keeps_the_values(tmp_path: Path) -> None:
    bench = Bench()
    bench.keys = opened(tmp_path)
    vault = filled(bench)
    for _ in range(3):
        before = in_use(bench)
        fingerprint = await vault.rotate()
        assert before != fingerprint == in_use(bench)
        assert bench.seen[-1] == MasterKeyReplaced(fingerprint)
        keys = opened(tmp_path, in_use(bench))
        assert keys.before is None
        check_filled(bench.vault(keys))
    vault.set("initech", "new", "a-value-of-a-new-tenant", by="bob")
    assert bench.vault(opened(tmp_path, in_use(bench))).reveal("initech", "new") == "a-value-of-a-new-tenant"
    assert sorted(os.listdir(tmp_path / "keys")) == ["secrets.key"]


async def test_a_rotation_before_there_is_anything(tmp_path: Path) -> None:
    bench = Bench()
    bench.keys = opened(tmp_path)
    vault = bench.vault()
    await vault.rotate()
    filled_one = vault
    filled_one.set("acme", "one", "the-value-of-one", by="ada")
    assert bench.vault(opened(tmp_path, in_use(bench))).reveal("acme", "one") == "the-value-of-one"


def test_killed_before_the_database_went_over(tmp_path: Path) -> None:
    bench = Bench()
    bench.keys = opened(tmp_path)
    filled(bench)
    assert bench.keys.file is not None
    bench.keys.file.prepare(OTHER)
    check_filled(bench.vault(opened(tmp_path, in_use(bench))))
    assert sorted(os.listdir(tmp_path / "keys")) == ["secrets.key"]


def test_killed_after_the_database_went_over(tmp_path: Path) -> None:
    bench = Bench()
    bench.keys = opened(tmp_path)
    filled(bench)
    assert bench.keys.file is not None
    bench.keys.file.prepare(OTHER)
    check_filled(bench.vault(Keys(OTHER, before=bench.keys.present)))
    # Here it dies: the file still has the old key.
    keys = opened(tmp_path, in_use(bench))
    assert (keys.present, keys.before) == (OTHER, None)
    check_filled(bench.vault(keys))
    assert sorted(os.listdir(tmp_path / "keys")) == ["secrets.key"]


async def test_the_disk_refuses_in_the_middle_of_a_rotation(tmp_path: Path) -> None:
    """Whether the database goes over later or not, the node starts again; and rotates again, without losing the key
    that the database may name by now."""
    bench = Bench()
    bench.keys = opened(tmp_path)
    vault = filled(bench)
    original = bench.keys.present
    bench.database.disk_refuses = Unavailable("the disk refuses")
    with pytest.raises(Unavailable):
        await vault.rotate()
    # It came through after all, in memory's order; were it killed now, either way is recovered from.
    pending = KeyFile(tmp_path / "keys" / "secrets.key.next")
    second = pending.take(None)
    assert second is not None
    assert in_use(bench) == second.fingerprint != original.fingerprint
    with pytest.raises(Unavailable):
        await vault.rotate()
    assert (tmp_path / "keys" / "secrets.key.next").read_bytes() == second.text(), "not written over"

    bench.database.disk_refuses = None
    third = await vault.rotate()
    assert third == in_use(bench) != second.fingerprint
    check_filled(bench.vault(opened(tmp_path, third)))


async def test_a_rotation_that_is_refused_at_once_changes_nothing(tmp_path: Path) -> None:
    bench = Bench()
    bench.keys = opened(tmp_path)
    vault = filled(bench)
    before = in_use(bench)

    bench.database.refuses = LimitExceeded("too much waits for the disk")
    with pytest.raises(LimitExceeded):
        await vault.rotate()
    bench.database.refuses = None
    vault.set("initech", "new", "a-value-of-a-new-tenant", by="bob")
    assert in_use(bench) == before
    check_filled(bench.vault(opened(tmp_path, before)))
    await vault.rotate()
    check_filled(bench.vault(opened(tmp_path, in_use(bench))))


def test_seeded_chance_is_for_tests_alone(tmp_path: Path) -> None:
    ids = SeededIds(1)
    made = open_keys(SecretsConfig(), tmp_path, None, ids).present
    assert made == MasterKey(SeededIds(1).random_bytes(32))


def test_what_is_replaced_is_overwritten_in_the_file(tmp_path: Path) -> None:
    """`secure_delete` is switched on for the vault's statements, and for no others."""
    from plexspaces_runtime.stores import secrets
    from plexspaces_runtime.stores.secrets import SecretRow, SqliteSecrets

    connection = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    for statement in secrets.SCHEMA:
        connection.execute(statement)

    class Stream:
        def write(self, statements: list[tuple[str, tuple[object, ...]]]) -> int:
            for sql, parameters in statements:
                connection.execute(sql, parameters)
            return 1

    class OneFile:
        stream = Stream()

    table = SqliteSecrets(OneFile())  # type: ignore[arg-type]
    old = os.urandom(20_000)
    table.put_secret(SecretRow("acme", "one", 1, 0, "ada", old))
    assert old[10_000:10_400] in (tmp_path / "a.db").read_bytes()
    table.put_secret(SecretRow("acme", "one", 2, 0, "ada", b"short"))
    assert connection.execute("PRAGMA secure_delete").fetchone() == (0,)
    file = (tmp_path / "a.db").read_bytes()
    connection.close()
    assert not any(old[at : at + 16] in file for at in range(0, len(old) - 16, 16))
