"""The contract of the locks, over every implementation."""

from __future__ import annotations

import asyncio
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
from plexspaces_runtime.ids import SeededIds
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores import engine, locks
from plexspaces_runtime.stores.database import Database, Schema
from plexspaces_runtime.stores.locks import Lease, Locks, MemoryLocks, SqliteLocks, Waiter
from plexspaces_runtime.stores.quotas import Quotas

OURS = Scope("acme", "default")
OTHERS = (Scope("acme", "other"), Scope("rival", "default"))
SCHEMA = Schema(1, (*engine.SCHEMA, *locks.SCHEMA))


class Bed:
    def __init__(self, kind: str, folder: Path, **limits: Any) -> None:
        self.kind = kind
        self.folder = folder
        self.limits = Limits(**limits)
        self.clock = ManualClock()
        self.alarm_s: float | None = None
        self.database: Database | None = None
        self.locks: Locks
        self.opened = 0

    async def open(self) -> None:
        table: Any = MemoryLocks()
        if self.kind == "sqlite":
            self.database = Database(
                self.folder, SCHEMA, loop=asyncio.get_running_loop(), events=EventBus(), limits=self.limits
            )
            await self.database.start()
            table = SqliteLocks(self.database)
        self.opened += 1
        self.quotas = Quotas(self.limits)
        self.locks = Locks(
            table, clock=self.clock, ids=SeededIds(self.opened), quotas=self.quotas, set_alarm=self._set_alarm
        )
        self.locks.load()

    def _set_alarm(self, delay_s: float | None) -> None:
        self.alarm_s = None if delay_s is None else self.clock.monotonic_ns() / 1e9 + delay_s

    def advance(self, seconds: float) -> None:
        """Let time pass, and ring when the alarm is due, as the node does."""
        until = self.clock.monotonic_ns() / 1e9 + seconds
        while self.alarm_s is not None and self.alarm_s <= until:
            self.clock.advance(max(0.0, self.alarm_s - self.clock.monotonic_ns() / 1e9) + 1e-9)
            self.alarm_s = None
            self.locks.ring()
        self.clock.advance(max(0.0, until - self.clock.monotonic_ns() / 1e9))

    async def close(self) -> None:
        if self.database is not None:
            await self.database.stop()
            self.database = None

    def take(self, name: str = "a", ttl_ms: int = 1_000, scope: Scope = OURS) -> Lease:
        lease = self.locks.acquire(scope, name, ttl_ms)
        assert isinstance(lease, Lease)
        return lease

    def wait(self, heard: list[Any], wait_ms: int, name: str = "a", ttl_ms: int = 1_000) -> Waiter:
        waiter = self.locks.acquire(OURS, name, ttl_ms, wait_ms, heard.append)
        assert isinstance(waiter, Waiter)
        return waiter


@pytest.fixture(params=["sqlite", "memory"])
def on(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    def run(test: Callable[[Bed], Any], **limits: Any) -> None:
        async def main() -> None:
            bed = Bed(request.param, tmp_path, **limits)
            await bed.open()
            try:
                await test(bed)
            finally:
                await bed.close()

        asyncio.run(main())

    return run


def test_a_name_has_one_holder_and_a_token_that_grows(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        first = bed.take()
        assert first.token == 1
        assert first.expires_ms == bed.clock.now_ns() // 1_000_000 + 1_000
        assert bed.locks.acquire(OURS, "a", 1_000) is None
        assert bed.take("b").token == 1
        assert bed.locks.release(OURS, "a", first.lock_id)
        assert not bed.locks.release(OURS, "a", first.lock_id)
        second = bed.take()
        assert (second.token, second.lock_id != first.lock_id) == (2, True)
        bed.advance(0.999)
        assert bed.locks.acquire(OURS, "a", 1_000) is None
        bed.advance(0.002)
        assert bed.take().token == 3

    on(test)


def test_only_the_holder_renews_and_releases(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        lease = bed.take()
        with pytest.raises(Conflict, match="no longer held"):
            bed.locks.renew(OURS, "a", "somebody", 1_000)
        assert not bed.locks.release(OURS, "a", "somebody")
        bed.advance(0.9)
        renewed = bed.locks.renew(OURS, "a", lease.lock_id, 1_000)
        assert (renewed.token, renewed.lock_id) == (lease.token, lease.lock_id)
        bed.advance(0.9)
        assert bed.locks.acquire(OURS, "a", 1_000) is None
        bed.advance(0.2)
        with pytest.raises(Conflict):
            bed.locks.renew(OURS, "a", lease.lock_id, 1_000)
        assert not bed.locks.release(OURS, "a", lease.lock_id)
        with pytest.raises(Conflict):
            bed.locks.renew(OURS, "nobody's", lease.lock_id, 1_000)

    on(test)


def test_who_waits_longest_is_next(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        lease = bed.take()
        heard: list[list[Any]] = [[], [], []]
        for each in heard:
            bed.wait(each, 60_000)
        assert bed.locks.acquire(OURS, "a", 1_000) is None
        bed.locks.release(OURS, "a", lease.lock_id)
        assert [len(each) for each in heard] == [1, 0, 0]
        assert heard[0][0].token == 2
        # Nobody releases: the next one has it when the time is over.
        bed.advance(1.001)
        assert heard[1][0].token == 3
        # Somebody who comes now comes after those who wait, although the name may just be free.
        bed.locks.release(OURS, "a", heard[1][0].lock_id)
        assert heard[2][0].token == 4
        assert [len(each) for each in heard] == [1, 1, 1]

    on(test)


def test_waiting_ends_with_its_time(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        bed.take(ttl_ms=60_000)
        heard: list[Any] = []
        bed.wait(heard, 500)
        bed.advance(0.499)
        assert heard == []
        bed.advance(0.002)
        assert heard == [None]
        assert bed.alarm_s is None

    on(test)


def test_who_has_gone_is_not_given_a_lease(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        lease = bed.take()
        gone: list[Any] = []
        stays: list[Any] = []
        waiter = bed.wait(gone, 60_000)
        bed.wait(stays, 60_000)
        bed.locks.give_up(waiter)
        bed.locks.give_up(waiter)
        bed.locks.release(OURS, "a", lease.lock_id)
        assert (gone, stays[0].token) == ([], 2)

    on(test)


def test_every_namespace_and_tenant_has_its_own_names(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        lease = bed.take(ttl_ms=60_000)
        for other in OTHERS:
            assert bed.take(scope=other).token == 1
            assert not bed.locks.release(other, "a", lease.lock_id)
            with pytest.raises(Conflict):
                bed.locks.renew(other, "a", lease.lock_id, 1_000)
        assert bed.locks.acquire(OURS, "a", 1_000) is None

    on(test)


@pytest.mark.parametrize(
    ("name", "ttl_ms", "wait_ms"), [("", 1, 0), ("x" * 257, 1, 0), ("a\x00", 1, 0), ("a", 0, 0), ("a", 1, 86_400_001)]
)
def test_what_cannot_be(on: Callable[..., None], name: str, ttl_ms: int, wait_ms: int) -> None:
    async def test(bed: Bed) -> None:
        with pytest.raises(InvalidArgument, match="is not possible"):
            bed.locks.acquire(OURS, name, ttl_ms, wait_ms, lambda _outcome: None)

    on(test)


def test_names_count_for_the_tenants_bytes(on: Callable[..., None]) -> None:
    async def test(bed: Bed) -> None:
        for number in range(6):
            bed.take(f"lock-{number}")
        with pytest.raises(LimitExceeded):
            bed.take("lock-6")
        assert bed.take("lock-6", scope=Scope("rival", "default")).token == 1

    on(test, stored_bytes_per_tenant_max=1_024)


def test_leases_and_tokens_outlive_the_node(tmp_path: Path) -> None:
    async def main() -> None:
        bed = Bed("sqlite", tmp_path)
        await bed.open()
        held, freed = bed.take("held", 5_000), bed.take("freed")
        bed.locks.release(OURS, "freed", freed.lock_id)
        await bed.close()
        bed.clock.advance(1)
        await bed.open()
        assert bed.locks.acquire(OURS, "held", 1_000) is None
        assert bed.locks.renew(OURS, "held", held.lock_id, 1_000).token == 1
        assert bed.take("freed").token == 2
        bed.advance(1.001)
        assert bed.take("held").token == 2
        await bed.close()

    asyncio.run(main())


def test_a_lease_the_disk_does_not_take_is_none(tmp_path: Path) -> None:
    async def main() -> None:
        bed = Bed("sqlite", tmp_path)
        await bed.open()
        lease = bed.take()
        heard: list[Any] = []
        bed.wait(heard, 60_000)
        assert bed.database is not None
        bed.database.stream._refusing = "nothing can be stored: told so"
        with pytest.raises(Unavailable):
            bed.take("b")
        with pytest.raises(Unavailable):
            bed.locks.release(OURS, "a", lease.lock_id)
        bed.advance(1.001)
        assert [type(each) for each in heard] == [Unavailable]
        bed.database.stream._refusing = ""
        assert bed.take("b").token == 1
        assert bed.take().token == 2
        await bed.close()

    asyncio.run(main())


class Model(RuleBasedStateMachine):
    """At no time two holders; tokens grow; whoever waits is served in order or told that the time is over."""

    @initialize()
    def begin(self) -> None:
        self.bed = Bed("memory", Path())
        asyncio.run(self.bed.open())
        self.leases: list[Lease] = []
        self.waiting: list[tuple[int, float]] = []
        self.served: list[int] = []
        self.timed_out: list[int] = []
        self.count = 0

    def _now(self) -> float:
        return self.bed.clock.monotonic_ns() / 1e9

    @rule(ttl_ms=st.integers(1, 3_000), wait_ms=st.sampled_from([0, 0, 500, 5_000]))
    def acquire(self, ttl_ms: int, wait_ms: int) -> None:
        self.count += 1
        number = self.count

        def answer(outcome: Any) -> None:
            if outcome is None:
                self.timed_out.append(number)
            else:
                self.served.append(number)
                self.leases.append(outcome)

        outcome = self.bed.locks.acquire(OURS, "a", ttl_ms, wait_ms, answer)
        if isinstance(outcome, Lease):
            self.leases.append(outcome)
        elif isinstance(outcome, Waiter):
            self.waiting.append((number, self._now() + wait_ms / 1000))

    @rule(which=st.integers(0, 5))
    def release(self, which: int) -> None:
        if self.leases:
            lease = self.leases[-1 - which % len(self.leases)]
            newest = lease is self.leases[-1]
            assert not self.bed.locks.release(OURS, "a", lease.lock_id) or newest

    @rule(seconds=st.sampled_from([0.1, 0.7, 4.0]))
    def wait(self, seconds: float) -> None:
        self.bed.advance(seconds)

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "leases"):
            return
        tokens = [lease.token for lease in self.leases]
        assert tokens == list(range(1, len(tokens) + 1))
        assert self.served == sorted(self.served)
        ended = set(self.served) | set(self.timed_out)
        assert len(self.served) + len(self.timed_out) == len(ended)
        for number, until in self.waiting:
            assert number in ended or until >= self._now() - 1e-6


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
