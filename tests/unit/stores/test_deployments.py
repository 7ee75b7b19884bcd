"""What is to run after a restart: records, and the component files they name."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.errors import Conflict, InvalidComponent, LimitExceeded, Unavailable
from plexspaces_runtime.ids import SystemIds
from plexspaces_runtime.scope import Address, Scope
from plexspaces_runtime.stores.deployments import (
    APPLICATION,
    DEPLOYMENT,
    ComponentFiles,
    Deployments,
    MemoryDeployments,
    Record,
)
from plexspaces_runtime.stores.engine import Statement

SCOPE = Scope("acme", "default")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def record(name: str, content: bytes = b"one", version: int = 1) -> Record:
    return Record(SCOPE, DEPLOYMENT, name, "{}", {name: digest(content)}, version, {name: version})


class Table(MemoryDeployments):
    """Takes what is written, unless it is told to refuse."""

    def __init__(self) -> None:
        self.units: list[list[Statement]] = []
        self.refusal: Exception | None = None

    def write(self, statements: list[Statement]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.units.append(statements)


class Kept:
    """Deployments on a table and a folder."""

    def __init__(self, folder: Path) -> None:
        self.table = Table()
        self.folder = folder
        self.alarms: list[float | None] = []
        self.flushes = 0
        self.deployments = Deployments(
            self.table, ComponentFiles(folder, SystemIds()), set_alarm=self.alarms.append, flushed=self._flushed
        )

    async def _flushed(self) -> None:
        self.flushes += 1

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "components")


# -- components --------------------------------------------------------------------------------------------


async def test_a_component_is_held_until_it_is_recorded_and_for_as_long_as_it_is(kept: Kept) -> None:
    files = {digest(b"one"): b"one", digest(b"two"): b"two"}
    with await kept.deployments.keep(files):
        await kept.deployments.tidy()
        assert kept.names() == {f"{hash_}.wasm" for hash_ in files}
        kept.deployments.put(record("counter", b"two"))
    await kept.deployments.settle()
    assert kept.names() == {f"{digest(b'two')}.wasm"}
    kept.deployments.drop(SCOPE, DEPLOYMENT, "counter")
    await kept.deployments.settle()
    assert kept.names() == set()


async def test_one_that_two_deployments_bring_at_a_time_is_held_for_both(kept: Kept) -> None:
    first = await kept.deployments.keep({digest(b"one"): b"one"})
    second = await kept.deployments.keep({digest(b"one"): b"one"})
    first.release()
    first.release()
    await kept.deployments.tidy()
    assert len(kept.names()) == 1
    second.release()
    await kept.deployments.tidy()
    assert kept.names() == set()


async def test_a_component_is_its_owner_s_alone_and_found_again(kept: Kept, tmp_path: Path) -> None:
    source = tmp_path / "upload"
    source.write_bytes(b"x" * 3_000_000)
    hash_ = digest(source.read_bytes())
    with await kept.deployments.keep({hash_: source}):
        path = await kept.deployments.component(hash_)
    assert path.read_bytes() == source.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert kept.folder.stat().st_mode & 0o777 == 0o700


async def test_a_damaged_component_is_noticed_and_mended(kept: Kept) -> None:
    hash_ = digest(b"one")
    with await kept.deployments.keep({hash_: b"one"}):
        path = await kept.deployments.component(hash_)
        path.write_bytes(b"ome")
        with pytest.raises(InvalidComponent, match="damaged"):
            await kept.deployments.component(hash_)
        with await kept.deployments.keep({hash_: b"one"}):
            assert (await kept.deployments.component(hash_)).read_bytes() == b"one"
        path.unlink()
        with pytest.raises(InvalidComponent, match="is not in"):
            await kept.deployments.component(hash_)


async def test_a_source_that_changed_under_our_hands_is_refused(kept: Kept) -> None:
    with pytest.raises(Conflict, match="changed"):
        await kept.deployments.keep({digest(b"one"): b"two"})
    assert kept.names() == set()
    await kept.deployments.tidy()


async def test_a_folder_that_is_none(kept: Kept) -> None:
    kept.folder.write_text("")
    with pytest.raises(Unavailable, match="cannot be kept"):
        await kept.deployments.keep({digest(b"one"): b"one"})


async def test_what_a_crash_left_is_swept_and_nothing_else(kept: Kept) -> None:
    kept.folder.mkdir()
    kept.deployments.put(record("counter"))
    for name in ("component-1.tmp", f"{digest(b'one')}.wasm", f"{digest(b'two')}.wasm", "notes.txt"):
        (kept.folder / name).write_text("")
    await kept.deployments.tidy()
    assert kept.names() == {f"{digest(b'one')}.wasm", "notes.txt"}


# -- records -----------------------------------------------------------------------------------------------


def test_a_record_takes_the_place_of_the_one_before(kept: Kept) -> None:
    deployments = kept.deployments
    deployments.put(record("counter"))
    deployments.put(record("other"))
    deployments.put(record("counter", b"two", 2))
    assert [(each.name, each.version) for each in deployments.records()] == [("counter", 2), ("other", 1)]
    assert deployments.find(SCOPE, APPLICATION, "counter") is None


def test_actors_are_forgotten_with_their_type_in_the_same_unit(kept: Kept) -> None:
    deployments = kept.deployments
    both = Record(SCOPE, APPLICATION, "shop", "", {}, 1, {"a": 1, "b": 1})
    deployments.put(both)
    for type_ in ("a", "b"):
        deployments.put_spawned(Address(SCOPE, type_, "1"), None)
        deployments.put_stopped(Address(SCOPE, type_))
    units = len(kept.table.units)
    deployments.put(Record(SCOPE, APPLICATION, "shop", "", {}, 2, {"b": 1}))
    assert len(kept.table.units) == units + 1
    assert deployments.spawned(SCOPE, ["a", "b"]) == [(Address(SCOPE, "b", "1"), None)]
    assert not deployments.is_stopped(Address(SCOPE, "a"))
    assert deployments.is_stopped(Address(SCOPE, "b"))
    deployments.drop(SCOPE, APPLICATION, "shop", ["b"])
    assert len(kept.table.units) == units + 2
    assert deployments.records() == deployments.spawned(SCOPE, ["b"]) == []


def test_what_changes_nothing_writes_nothing(kept: Kept) -> None:
    address = Address(SCOPE, "counter")
    kept.deployments.drop_spawned(address)
    kept.deployments.drop_stopped(address)
    kept.deployments.drop(SCOPE, DEPLOYMENT, "counter")
    kept.deployments.forget_actors(SCOPE, ["counter"])
    assert kept.table.units == []


@pytest.mark.parametrize("refusal", [Unavailable("disk"), LimitExceeded("too much")])
async def test_what_the_disk_refuses_is_written_later_and_in_order(kept: Kept, refusal: Exception) -> None:
    deployments, table = kept.deployments, kept.table
    table.refusal = refusal
    deployments.put(record("counter"))
    deployments.put(record("counter", b"two", 2))
    with pytest.raises(Unavailable, match="could not be recorded"):
        await deployments.settle()
    assert kept.alarms
    assert (kept.flushes, table.units) == (0, [])
    table.refusal = None
    deployments.ring()
    versions: list[Any] = [unit[0][1][-2] for unit in table.units]
    assert versions == [1, 2]
    await deployments.settle()
    assert kept.flushes == 1


async def test_a_deployment_that_cannot_be_recorded_is_not_begun(kept: Kept) -> None:
    kept.table.refusal = Unavailable("disk")
    kept.deployments.put(record("counter"))
    with pytest.raises(Unavailable):
        await kept.deployments.keep({digest(b"two"): b"two"})
    kept.table.refusal = None
    await kept.deployments.settle()
    assert not kept.folder.exists()


async def test_deployments_that_bring_and_sweep_at_the_same_time(kept: Kept) -> None:
    contents = [bytes([number % 3]) for number in range(30)]

    async def deploy(content: bytes, number: int) -> None:
        with await kept.deployments.keep({digest(content): content}):
            kept.deployments.put(record("counter", content, number))
        await kept.deployments.settle()
        (now,) = kept.deployments.records()
        assert (await kept.deployments.component(now.components["counter"])).exists()

    await asyncio.gather(*(deploy(content, number) for number, content in enumerate(contents)))
    assert kept.names() == {f"{hash_}.wasm" for hash_ in kept.deployments.records()[0].components.values()}
