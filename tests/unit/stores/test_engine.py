"""The ordered write stream on real SQLite files, with steps that fail."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import InternalError, LimitExceeded, Unavailable
from plexspaces_runtime.events import Event, EventBus, StorageFailed, StorageFault, StorageRecovered
from plexspaces_runtime.stores import engine
from plexspaces_runtime.stores.database import FILE, Database, Schema, connect

SCHEMA = Schema(
    1,
    (
        *engine.SCHEMA,
        "CREATE TABLE log (number INTEGER PRIMARY KEY, text TEXT NOT NULL)",
        # Without a key: what is done twice is seen.
        "CREATE TABLE plain (number INTEGER)",
    ),
)


def insert(number: int, text: str = "x") -> tuple[str, tuple[object, ...]]:
    return ("INSERT INTO log VALUES (?, ?)", (number, text))


def on_disk(folder: Path) -> list[int]:
    """What another process would find."""
    connection = sqlite3.connect(folder / FILE)
    try:
        return [number for (number,) in connection.execute("SELECT number FROM log ORDER BY number")]
    finally:
        connection.close()


class Faults:
    """Connections whose steps fail as told."""

    def __init__(self) -> None:
        self.before: Callable[[str], sqlite3.Error | None] = lambda _sql: None
        self.after: Callable[[str], sqlite3.Error | None] = lambda _sql: None
        self.opening: sqlite3.Error | None = None
        self.opened = 0

    def connect(self, path: Path) -> Faulty:
        self.opened += 1
        if self.opening is not None:
            raise self.opening
        return Faulty(connect(path), self)


class Faulty:
    def __init__(self, real: Any, faults: Faults) -> None:
        self._real = real
        self._faults = faults

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        if error := self._faults.before(sql):
            raise error
        done = self._real.execute(sql, parameters)
        if error := self._faults.after(sql):
            raise error
        return done

    def close(self) -> None:
        self._real.close()


def error(code: int, text: str = "as told") -> sqlite3.OperationalError:
    made = sqlite3.OperationalError(text)
    made.sqlite_errorcode = code
    return made


class Bed:
    def __init__(self, database: Database, faults: Faults, events: EventBus) -> None:
        self.database = database
        self.stream = database.stream
        self.faults = faults
        self.seen: list[Event] = []
        events.subscribe(self.seen.append)

    def told(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not happened():
                await asyncio.sleep(0.001)


@asynccontextmanager
async def opened(folder: Path, **limits: Any) -> AsyncIterator[Bed]:
    faults, events = Faults(), EventBus()
    database = Database(
        folder,
        SCHEMA,
        loop=asyncio.get_running_loop(),
        events=events,
        limits=Limits(**limits),
        open_writer=faults.connect,
    )
    await database.start()
    try:
        yield Bed(database, faults, events)
    finally:
        await database.stop()


async def test_what_is_flushed_is_on_disk_in_order_and_reads_see_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as bed:
        numbers = [bed.stream.write([insert(number)]) for number in range(100)]
        assert numbers == list(range(1, 101))
        await bed.stream.flushed()
        assert (bed.stream.enqueued, bed.stream.durable) == (100, 100)
        assert on_disk(tmp_path) == list(range(100))
        assert bed.database.read("SELECT count(*) FROM log") == [(100,)]
        assert [row async for row in bed.database.scan("SELECT number FROM log WHERE number < ?", (2,))] == [(0,), (1,)]


async def test_writers_that_come_together_share_a_commit(tmp_path: Path) -> None:
    async with opened(tmp_path) as bed:
        commits = 0

        def counting(sql: str) -> None:
            nonlocal commits
            commits += sql == "COMMIT"

        bed.faults.before = counting
        for number in range(1_000):
            bed.stream.write([insert(number)])
        await bed.stream.flushed()
        assert commits < 100


async def test_whoever_waits_hears_when_its_own_write_is_durable_and_not_before(tmp_path: Path) -> None:
    async with opened(tmp_path) as bed:
        heard: list[tuple[int, int]] = []
        for number in range(50):
            seq = bed.stream.write([insert(number)])

            def durable(problem: Exception | None, seq: int = seq) -> None:
                assert problem is None
                assert bed.stream.durable >= seq
                heard.append((seq, bed.stream.durable))

            bed.stream.when_durable(seq, durable)
        # Asked late and out of order: still in the order of the numbers.
        bed.stream.when_durable(25, lambda _problem: heard.append((25, -1)))
        await bed.stream.flushed()
        assert [seq for seq, _ in heard] == sorted([*range(1, 51), 25])
        at_once: list[Exception | None] = []
        bed.stream.when_durable(3, at_once.append)
        assert at_once == [None]


async def test_a_unit_is_whole_or_not_there(tmp_path: Path) -> None:
    async with opened(tmp_path) as bed:
        bed.stream.write([insert(1), insert(2)])
        bad = bed.stream.write([insert(3), insert(1), insert(4)])
        bed.stream.write([insert(5)])
        heard: list[Exception | None] = []
        bed.stream.when_durable(bad, heard.append)
        await bed.stream.flushed()
        # One that breaks a rule of the database is a bug of ours: it harms nobody else, and nobody believes in it.
        assert on_disk(tmp_path) == [1, 2, 5]
        assert [type(problem) for problem in heard] == [InternalError]
        assert len(bed.told(StorageFault)) == 1
        assert bed.told(StorageFailed) == []


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR]
)
@pytest.mark.parametrize("step", ["BEGIN", "INSERT", "UPDATE written", "COMMIT"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_at_whichever_step_the_disk_refuses_nothing_is_lost_or_done_twice(
    tmp_path: Path, code: int, step: str, when: str
) -> None:
    async with opened(tmp_path) as bed:
        bed.stream.write([insert(0)])
        await bed.stream.flushed()
        failing = True

        def fault(sql: str) -> sqlite3.Error | None:
            return error(code) if failing and sql.startswith(step) else None

        setattr(bed.faults, when, fault)
        seq = bed.stream.write([("INSERT INTO plain VALUES (1)", ()), insert(1)])
        heard: list[Exception | None] = []
        bed.stream.when_durable(seq, heard.append)
        await bed.until(lambda: bool(heard))
        assert isinstance(heard[0], Unavailable)
        with pytest.raises(Unavailable, match="nothing can be stored"):
            bed.stream.write([insert(2)])
        with pytest.raises(Unavailable):
            await bed.stream.flushed()
        assert bed.stream.durable == 1
        # The cause is gone: it goes on by itself, and what was taken comes through, once.
        failing = False
        await bed.until(lambda: bed.stream.durable == 2)
        bed.stream.write([insert(3)])
        await bed.stream.flushed()
        assert on_disk(tmp_path) == [0, 1, 3]
        assert len(bed.told(StorageFailed)) == 1
        assert len(bed.told(StorageRecovered)) == 1
        assert bed.told(StorageFault) == []
        assert bed.database.read("SELECT number FROM plain") == [(1,)]


async def test_a_writer_that_cannot_open_the_file_says_so_and_tries_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as bed:
        bed.faults.opening = error(sqlite3.SQLITE_CANTOPEN)
        bed.stream.write([insert(1)])
        await bed.until(lambda: bool(bed.told(StorageFailed)))
        assert "belongs to this user" in bed.told(StorageFailed)[0].message
        bed.faults.opening = None
        await bed.until(lambda: bed.stream.durable == 1)
        assert bed.faults.opened >= 2


async def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    async with opened(tmp_path) as bed:
        # As a quota of the file system does, but without one.
        pages = 40
        limited = True
        real = bed.faults.connect

        def small(path: Path) -> Any:
            connection = real(path)
            connection.execute(f"PRAGMA max_page_count = {pages if limited else 1_000_000}")
            return connection

        bed.stream._connect = lambda: small(tmp_path / FILE)
        for number in range(200):
            try:
                bed.stream.write([insert(number, "x" * 2_000)])
            except Unavailable:
                break
            await asyncio.sleep(0)
        await bed.until(lambda: bool(bed.told(StorageFailed)))
        assert "the disk is full: make room" in bed.told(StorageFailed)[0].message
        acknowledged = bed.stream.durable
        limited = False
        await bed.until(lambda: bed.stream.durable == bed.stream.enqueued)
        assert bed.stream.durable > acknowledged
        assert on_disk(tmp_path) == list(range(bed.stream.durable))


async def test_another_process_that_holds_the_database_is_waited_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as bed:
        other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        bed.stream.write([insert(1)])
        # Reads never wait for a commit, whoever's it is.
        assert bed.database.read("SELECT count(*) FROM log") == [(0,)]
        other.execute("ROLLBACK")
        other.close()
        await bed.stream.flushed()
        assert on_disk(tmp_path) == [1]


async def test_too_much_that_waits_is_refused_with_the_limit(tmp_path: Path) -> None:
    async with opened(tmp_path, pending_writes_max=3) as bed:
        bed.faults.before = lambda sql: error(sqlite3.SQLITE_BUSY) if sql.startswith("BEGIN") else None
        for number in range(3):
            bed.stream.write([insert(number)])
        with pytest.raises((LimitExceeded, Unavailable)) as refused:
            bed.stream.write([insert(3)])
        if isinstance(refused.value, LimitExceeded):
            assert refused.value.details["limit"] == "pending_writes_max"
        bed.faults.before = lambda _sql: None
        await bed.until(lambda: bed.stream.durable == 3)
        bed.stream.write([insert(4)])
        await bed.stream.flushed()


async def test_bytes_that_wait_are_counted_and_given_back(tmp_path: Path) -> None:
    async with opened(tmp_path, pending_write_bytes_max=1 << 20) as bed:
        with pytest.raises(LimitExceeded):
            bed.stream.write([insert(0, "x" * (1 << 20))])
        for number in range(20):
            bed.stream.write([insert(number, "x" * 500_000)])
            await bed.stream.flushed()


async def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    for round_ in range(3):
        async with opened(tmp_path) as bed:
            assert bed.stream.durable == round_
            assert bed.stream.write([insert(round_)]) == round_ + 1
    assert on_disk(tmp_path) == [0, 1, 2]


async def test_stopping_brings_what_is_left_to_the_disk(tmp_path: Path) -> None:
    async with opened(tmp_path) as bed:
        for number in range(500):
            bed.stream.write([insert(number)])
    assert on_disk(tmp_path) == list(range(500))


async def test_a_node_whose_disk_refuses_still_stops(tmp_path: Path) -> None:
    async with opened(tmp_path) as bed:
        bed.faults.before = lambda sql: error(sqlite3.SQLITE_FULL) if sql == "COMMIT" else None
        bed.stream.write([insert(1)])
        await bed.until(lambda: bool(bed.told(StorageFailed)))
    assert on_disk(tmp_path) == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["", "", "", "BEGIN", "INSERT", "COMMIT"])), max_size=30))
def test_whatever_fails_when_what_was_acknowledged_is_there(steps: list[tuple[int, str]]) -> None:
    import tempfile

    async def scenario(folder: Path) -> None:
        number = 0
        async with opened(folder) as bed:
            for size, fails_at in steps:
                fails = [fails_at] if fails_at else []

                def fault(sql: str, fails: list[str] = fails) -> sqlite3.Error | None:
                    return error(sqlite3.SQLITE_IOERR) if fails and sql.startswith(fails[0]) and fails.pop() else None

                bed.faults.after = fault
                unit = [insert(number + part) for part in range(size)]
                try:
                    bed.stream.write(unit)
                except Unavailable:
                    continue
                number += size
                try:
                    await bed.stream.flushed()
                except Unavailable:
                    continue
                assert on_disk(folder) == list(range(number))
            await bed.until(lambda: bed.stream.durable == bed.stream.enqueued)
            assert on_disk(folder) == list(range(number))

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(Path(folder)))


def test_every_refusal_says_what_to_do() -> None:
    for code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CORRUPT):
        text = engine.explain(error(code, "the original words"))
        assert "the original words" in text
        assert len(text.split(": ")) >= 3
