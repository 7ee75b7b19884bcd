"""The contract of the key-value store, over every implementation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import Conflict, InvalidArgument, LimitExceeded, Unavailable
from plexspaces_runtime.events import EventBus
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores import engine, keyvalue
from plexspaces_runtime.stores.database import Database, Schema
from plexspaces_runtime.stores.keyvalue import KeyValue, MemoryKeys, Space, SqliteKeys
from plexspaces_runtime.stores.quotas import Quotas

OURS = Space(Scope("acme", "default"), "cart/1")
# Everybody from whom it must be hidden: another actor, namespace, tenant.
OTHERS = (
    Space(Scope("acme", "default"), "cart/2"),
    Space(Scope("acme", "other"), "cart/1"),
    Space(Scope("rival", "default"), "cart/1"),
)
SCHEMA = Schema(1, (*engine.SCHEMA, *keyvalue.SCHEMA))


class Bed:
    """A store, its clock and its alarm; `reopen` is what a restart of the node leaves."""

    def __init__(self, kind: str, folder: Path, **limits: Any) -> None:
        self.kind = kind
        self.folder = folder
        self.limits = Limits(**limits)
        self.clock = ManualClock()
        self.alarms: list[float] = []
        self.database: Database | None = None
        self.memory = MemoryKeys()
        self.store: KeyValue
        self.quotas: Quotas

    async def open(self) -> None:
        self.quotas = Quotas(self.limits)
        table: Any = self.memory
        if self.kind == "sqlite":
            self.database = Database(
                self.folder, SCHEMA, loop=asyncio.get_running_loop(), events=EventBus(), limits=self.limits
            )
            await self.database.start()
            table = SqliteKeys(self.database)
        self.store = KeyValue(
            table, clock=self.clock, limits=self.limits, quotas=self.quotas, set_alarm=self.alarms.append
        )
        self.store.load()

    async def reopen(self) -> None:
        await self.close()
        if self.kind == "sqlite":
            await self.open()

    async def close(self) -> None:
        if self.database is not None:
            await self.database.stop()
            self.database = None

    async def settle(self) -> None:
        """Let the disk catch up, so that what is asked next is read from there."""
        if self.database is not None:
            await self.database.stream.flushed()


Test = Callable[[Bed], Any]


@pytest.fixture(params=["sqlite", "memory"])
def on(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    def run(test: Test, **limits: Any) -> None:
        async def main() -> None:
            bed = Bed(request.param, tmp_path, **limits)
            await bed.open()
            try:
                await test(bed)
            finally:
                await bed.close()

        asyncio.run(main())

    return run


def test_what_is_put_is_there_at_once_and_after_the_disk_has_it(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        store = bed.store
        assert store.get(OURS, "a") is None
        store.put(OURS, "a", '{"x": [1, null, "ü"]}')
        assert store.get(OURS, "a") == '{"x": [1, null, "ü"]}'
        await bed.settle()
        assert store.get(OURS, "a") == '{"x": [1, null, "ü"]}'
        store.put(OURS, "a", "2")
        assert store.get(OURS, "a") == "2"
        assert store.delete(OURS, "a")
        assert not store.delete(OURS, "a")
        assert store.get(OURS, "a") is None
        await bed.settle()
        assert store.get(OURS, "a") is None

    on(test)


@pytest.mark.parametrize("settled", [False, True])
def test_every_owner_namespace_and_tenant_has_its_own(on: Callable[..., None], settled: bool) -> None:
    async def test(bed: Bed) -> None:
        bed.store.put(OURS, "a", "1")
        if settled:
            await bed.settle()
        for other in OTHERS:
            assert bed.store.get(other, "a") is None
            assert not bed.store.delete(other, "a")
            assert bed.store.list_keys(other) == ([], "")
            assert not bed.store.compare_and_set(other, "a", "1", "2")
            assert bed.store.increment(other, "n", 5) == 5
        assert bed.store.list_keys(OURS) == (["a"], "")
        assert bed.store.get(OURS, "a") == "1"
        assert bed.store.increment(OURS, "n", 1) == 1

    on(test)


def test_a_value_is_compared_as_json_and_whole_numbers_to_their_last_digit(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        store = bed.store
        store.put(OURS, "a", "99999999999999999999999")
        assert not store.compare_and_set(OURS, "a", "99999999999999999999998", "1")
        assert store.compare_and_set(OURS, "a", " 99999999999999999999999 ", '{"a":1,"b":[true]}')
        for other in ('{"a":1.0,"b":[true]}', '{"a":true,"b":[true]}', '{"a":1,"b":[1]}'):
            assert not store.compare_and_set(OURS, "a", other, "1")
        assert store.compare_and_set(OURS, "a", '{"b": [true], "a": 1}', "1")

    on(test)


def test_a_time_to_live_is_exact_and_gives_the_room_back(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        store = bed.store
        store.put(OURS, "a", "1", 1_000)
        store.put(OURS, "b", "1")
        await bed.settle()
        bed.clock.advance(0.999)
        assert store.get(OURS, "a") == "1"
        bed.clock.advance(0.001)
        assert store.get(OURS, "a") is None
        assert store.list_keys(OURS) == (["b"], "")
        assert not store.delete(OURS, "a")
        store.put(OURS, "c", "1", 5_000)
        assert store.increment(OURS, "c", 1) == 2
        assert bed.alarms
        bed.clock.advance(10)
        await bed.settle()
        store.ring()
        assert (bed.quotas.keys.of("acme"), store.get(OURS, "c")) == (1, None)
        # A value without a time takes the place of one that had one.
        store.put(OURS, "d", "1", 1_000)
        store.put(OURS, "d", "2")
        bed.clock.advance(10)
        assert store.get(OURS, "d") == "2"
        store.ring()
        assert store.get(OURS, "d") == "2"

    on(test)


def test_the_alarm_is_for_the_earliest_and_set_again_as_long_as_there_is_one(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        assert bed.alarms == []
        bed.store.put(OURS, "late", "1", 60_000)
        bed.store.put(OURS, "soon", "1", 1_000)
        bed.store.put(OURS, "later", "1", 90_000)
        assert bed.alarms == [61.0, 2.0]
        await bed.settle()
        bed.clock.advance(2)
        bed.store.ring()
        assert bed.alarms[2:] == [59.0]
        await bed.reopen()
        if bed.kind == "sqlite":
            assert bed.alarms[3:] == [59.0]
            assert bed.quotas.keys.of("acme") == 2

    on(test)


def test_keys_are_listed_in_byte_order_in_pages(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        names = [*sorted(f"user/{n}" for n in range(250)), "user/é", "user/😀", "v", "users", "use"]
        for number, name in enumerate(names):
            bed.store.put(OURS, name, "1")
            if number == 120:
                # Half of it on disk, half of it on the way.
                await bed.settle()
        bed.store.delete(OURS, "user/17")
        wanted = sorted((n for n in names if n.startswith("user/") and n != "user/17"), key=str.encode)
        found: list[str] = []
        cursor = ""
        pages = 0
        while True:
            keys, cursor = bed.store.list_keys(OURS, "user/", cursor, 30)
            found += keys
            pages += 1
            assert len(keys) <= 30
            if not cursor:
                break
        assert found == wanted
        assert pages == -(-len(wanted) // 30)
        assert len(bed.store.list_keys(OURS)[0]) == 100
        with pytest.raises(InvalidArgument):
            bed.store.list_keys(OURS, limit=1_001)

    on(test)


def test_compare_and_set(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        store = bed.store
        assert not store.compare_and_set(OURS, "a", "1", "2")
        assert store.compare_and_set(OURS, "a", None, '{"x": 1, "y": 2}')
        assert not store.compare_and_set(OURS, "a", None, "1")
        assert store.compare_and_set(OURS, "a", '{"y":2,"x":1}', "true")
        # Equal in Python, and not the same value.
        assert not store.compare_and_set(OURS, "a", "1", "2")
        assert store.compare_and_set(OURS, "a", "true", None)
        assert store.get(OURS, "a") is None
        assert store.compare_and_set(OURS, "a", None, None)
        store.put(OURS, "a", "null", 1_000)
        assert not store.compare_and_set(OURS, "a", None, "1")
        bed.clock.advance(1)
        assert store.compare_and_set(OURS, "a", None, "1")

    on(test)


def test_increment(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        store = bed.store
        assert [store.increment(OURS, "n", delta) for delta in (1, 5, -10)] == [1, 6, -4]
        await bed.settle()
        assert store.increment(OURS, "n", 4) == 0
        for text in ('"1"', "1.0", "true", "null", "[1]"):
            store.put(OURS, "x", text)
            with pytest.raises(Conflict, match="no whole number"):
                store.increment(OURS, "x", 1)
            assert store.get(OURS, "x") == text
        store.put(OURS, "x", str(2**63 - 2))
        assert store.increment(OURS, "x", 1) == 2**63 - 1
        with pytest.raises(Conflict, match="64 bits"):
            store.increment(OURS, "x", 1)

    on(test)


@pytest.mark.parametrize("key", ["", "x" * 1_025, "é" * 513, "a\x00b"])
def test_keys_that_cannot_be(on: Callable[..., None], key: str) -> None:
    async def test(bed: Bed) -> None:
        for act in (
            lambda: bed.store.get(OURS, key),
            lambda: bed.store.put(OURS, key, "1"),
            lambda: bed.store.delete(OURS, key),
            lambda: bed.store.increment(OURS, key, 1),
            lambda: bed.store.compare_and_set(OURS, key, None, "1"),
        ):
            with pytest.raises(InvalidArgument, match="is not possible"):
                act()

    on(test)


def test_values_that_cannot_be(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        with pytest.raises(InvalidArgument, match="not JSON"):
            bed.store.put(OURS, "a", "{")
        with pytest.raises(InvalidArgument, match="ttl_ms"):
            bed.store.put(OURS, "a", "1", 0)
        bed.store.put(OURS, "k" * 1_024, json.dumps("x" * 62))
        with pytest.raises(LimitExceeded, match="value_bytes_max"):
            bed.store.put(OURS, "a", json.dumps("x" * 63))
        assert bed.store.list_keys(OURS) == (["k" * 1_024], "")

    on(test, value_bytes_max=64)


def test_a_tenant_has_so_many_keys_and_bytes_and_no_more(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        for number in range(3):
            bed.store.put(OURS, f"k{number}", "1")
        with pytest.raises(LimitExceeded) as refused:
            bed.store.put(OTHERS[0], "k", "1")
        assert refused.value.details["limit"] == "keys_per_tenant_max"
        bed.store.put(OTHERS[2], "k", "1")
        bed.store.put(OURS, "k0", "22")
        bed.store.delete(OURS, "k1")
        bed.store.put(OTHERS[0], "k", "1")
        with pytest.raises(LimitExceeded) as refused:
            bed.store.put(OURS, "k0", json.dumps("x" * 2_000))
        assert refused.value.details["limit"] == "stored_bytes_per_tenant_max"
        assert bed.store.get(OURS, "k0") == "22"
        used = bed.quotas.bytes.of("acme")
        await bed.reopen()
        assert bed.quotas.bytes.of("acme") == used
        for space, key in ((OURS, "k0"), (OURS, "k2"), (OTHERS[0], "k")):
            bed.store.delete(space, key)
        assert (bed.quotas.bytes.of("acme"), bed.quotas.keys.of("acme")) == (0, 0)

    on(test, keys_per_tenant_max=3, stored_bytes_per_tenant_max=1_024)


def test_what_the_disk_refuses_has_not_happened(tmp_path: Path) -> None:
    async def test(bed: Bed) -> None:
        assert bed.database is not None
        bed.store.put(OURS, "a", "1")
        await bed.settle()
        bed.database.stream._refusing = "nothing can be stored: told so"
        for act in (
            lambda: bed.store.put(OURS, "a", "2"),
            lambda: bed.store.put(OURS, "b", "2"),
            lambda: bed.store.delete(OURS, "a"),
            lambda: bed.store.increment(OURS, "a", 1),
            lambda: bed.store.compare_and_set(OURS, "a", "1", "2"),
        ):
            with pytest.raises(Unavailable):
                act()
        bed.clock.advance(60)
        bed.store.ring()
        assert bed.store.list_keys(OURS) == (["a"], "")
        assert bed.store.get(OURS, "a") == "1"
        assert bed.quotas.keys.of("acme") == 1
        bed.database.stream._refusing = ""

    async def main() -> None:
        bed = Bed("sqlite", tmp_path)
        await bed.open()
        await test(bed)
        await bed.close()

    asyncio.run(main())


class Model(RuleBasedStateMachine):
    """Both implementations beside a dictionary."""

    KEYS = st.sampled_from(["a", "b", "ab", "b/1", "é"])
    VALUES = st.sampled_from(["1", "2", '"x"', "null", "true"])
    SPACES = st.sampled_from([OURS, *OTHERS])

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.beds = [Bed(kind, Path(self.folder.name)) for kind in ("sqlite", "memory")]
        for bed in self.beds:
            self.loop.run_until_complete(bed.open())
        self.model: dict[tuple[Space, str], tuple[str, float]] = {}
        self.now = 0.0

    def teardown(self) -> None:
        for bed in self.beds:
            self.loop.run_until_complete(bed.close())
        self.loop.close()
        self.folder.cleanup()

    def living(self, space: Space, key: str) -> str | None:
        text, until = self.model.get((space, key), ("", 0.0))
        return text if until > self.now else None

    @rule(space=SPACES, key=KEYS, value=VALUES, ttl=st.sampled_from([None, 500, 1_500]))
    def put(self, space: Space, key: str, value: str, ttl: int | None) -> None:
        for bed in self.beds:
            bed.store.put(space, key, value, ttl)
        self.model[space, key] = (value, float("inf") if ttl is None else self.now + ttl / 1000)

    @rule(space=SPACES, key=KEYS)
    def delete(self, space: Space, key: str) -> None:
        expected = self.living(space, key) is not None
        assert [bed.store.delete(space, key) for bed in self.beds] == [expected] * 2
        self.model.pop((space, key), None)

    @rule(space=SPACES, key=KEYS, expected=st.none() | VALUES, value=st.none() | VALUES)
    def compare_and_set(self, space: Space, key: str, expected: str | None, value: str | None) -> None:
        same = self.living(space, key) == expected
        assert [bed.store.compare_and_set(space, key, expected, value) for bed in self.beds] == [same] * 2
        if same and value is None:
            self.model.pop((space, key), None)
        elif same and value is not None:
            self.model[space, key] = (value, float("inf"))

    @rule(seconds=st.sampled_from([0.25, 0.5, 2.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for bed in self.beds:
            bed.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        for bed in self.beds:
            bed.store.ring()

    @rule()
    def settle(self) -> None:
        for bed in self.beds:
            self.loop.run_until_complete(bed.settle())

    @rule()
    def reopen(self) -> None:
        self.loop.run_until_complete(self.beds[0].reopen())

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "beds"):
            return
        for space in (OURS, *OTHERS):
            wanted = sorted(
                (key for (its, key) in self.model if its == space and self.living(space, key) is not None),
                key=str.encode,
            )
            for bed in self.beds:
                assert bed.store.list_keys(space)[0] == wanted
                for key in wanted:
                    assert bed.store.get(space, key) == self.living(space, key)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
