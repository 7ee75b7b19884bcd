"""What every implementation of blobs keeps to: case by case, against a plain model, and across tenants."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import Limits
from plexspaces_runtime.errors import AlreadyExists, InvalidArgument, LimitExceeded, PayloadTooLarge
from plexspaces_runtime.ids import SystemIds
from plexspaces_runtime.scope import Scope
from plexspaces_runtime.stores.blobs import (
    ROW_OVERHEAD_BYTES,
    BlobInfo,
    Blobs,
    Bodies,
    FileBodies,
    MemoryBlobs,
    MemoryBodies,
    SqliteBlobs,
)
from tests.contract.stores.backends import Backend, backends

ACME = Scope("acme", "default")
OTHER_NAMESPACE = Scope("acme", "other")
EVIL = Scope("evil", "default")


class House:
    """A store on a backend."""

    def __init__(self, backend: Backend, bodies: Bodies | None = None, **limits: Any) -> None:
        self.backend = backend
        self.clock = ManualClock()
        settings_ = Limits(**limits)
        durable = backend.database is not None
        self.bodies = bodies or (FileBodies(backend.folder / "blobs", SystemIds()) if durable else MemoryBodies())
        self.blobs = Blobs(
            SqliteBlobs(backend.database) if backend.database is not None else MemoryBlobs(),
            self.bodies,
            quotas=backend.quotas(settings_),
            clock=self.clock,
            limits=settings_,
            remove=lambda work: work(),
        )
        self.swept = self.blobs.load()

    def put(self, name: str, data: bytes = b"", scope: Scope = ACME, content_type: str = "", **more: Any) -> BlobInfo:
        upload = self.blobs.begin(scope, name, content_type, **more)
        try:
            for start in range(0, len(data), 7):
                upload.write(data[start : start + 7])
            upload.seal()
            return self.blobs.finish(upload)[0]
        except BaseException:
            upload.discard()
            raise

    def get(self, name: str, scope: Scope = ACME, offset: int = 0, length: int = 1 << 20) -> bytes | None:
        found = self.blobs.open(scope, name)
        if found is None:
            return None
        try:
            return found[1].read(offset, length)
        finally:
            found[1].close()

    def names(self, scope: Scope = ACME, prefix: str = "", cursor: str = "", limit: int = 0) -> list[str]:
        return [info.name for info in self.blobs.list_blobs(scope, prefix, cursor, limit)]

    def files(self) -> list[Path]:
        return [path for path in (self.backend.folder / "blobs").rglob("*") if path.is_file()]


@pytest.fixture(name="backend", params=backends())
async def _backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    async with request.param(tmp_path) as backend:
        yield backend


async def test_put_get_stat_delete(backend: Backend) -> None:
    house = House(backend)
    data = bytes(range(256)) * 10
    info = house.put("reports/may.pdf", data, content_type="application/pdf")
    assert info == BlobInfo(
        "reports/may.pdf", 2560, "application/pdf", hashlib.sha256(data).hexdigest(), house.clock.now_ns() // 1_000_000
    )
    for _ in range(2):
        assert house.blobs.stat(ACME, "reports/may.pdf") == info
        assert house.get("reports/may.pdf") == data
        assert house.get("reports/may.pdf", offset=2550, length=100) == data[2550:]
        assert house.get("reports/may.pdf", offset=9999) == b""
        await backend.flush()
    assert house.blobs.delete(ACME, "reports/may.pdf")
    assert not house.blobs.delete(ACME, "reports/may.pdf")
    assert house.get("reports/may.pdf") is None
    assert house.blobs.stat(ACME, "reports/may.pdf") is None
    assert house.put("empty").size_bytes == 0
    assert house.get("empty") == b""


async def test_a_blob_is_the_old_one_until_the_new_one_is_complete(backend: Backend) -> None:
    house = House(backend)
    house.put("a", b"old")
    upload = house.blobs.begin(ACME, "a")
    upload.write(b"new")
    assert house.get("a") == b"old"
    upload.seal()
    assert house.get("a") == b"old"
    _, is_new = house.blobs.finish(upload)
    assert (house.get("a"), is_new) == (b"new", False)


async def test_who_reads_reads_to_the_end(backend: Backend) -> None:
    house = House(backend)
    house.put("a", b"old")
    found = house.blobs.open(ACME, "a")
    assert found is not None
    house.put("a", b"newer")
    house.blobs.delete(ACME, "a")
    await backend.flush()
    assert found[1].read(0, 10) == b"old"
    found[1].close()


async def test_only_where_there_is_none(backend: Backend) -> None:
    house = House(backend)
    early = house.blobs.begin(ACME, "a", only_new=True)
    early.seal()
    house.put("a", b"1", only_new=True)
    with pytest.raises(AlreadyExists):
        house.put("a", b"2", only_new=True)
    with pytest.raises(AlreadyExists):
        house.blobs.finish(early)
    assert house.get("a") == b"1"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "./a",
        "a\x00",
        "a\nb",
        "\x7f",
        "a" * 257,
        "ä" * 128 + "/" + "ä" * 129,
    ],
)
async def test_what_is_no_name(backend: Backend, name: str) -> None:
    blobs = House(backend).blobs
    calls: list[Callable[[], object]] = [
        lambda: blobs.begin(ACME, name),
        lambda: blobs.open(ACME, name),
        lambda: blobs.stat(ACME, name),
        lambda: blobs.delete(ACME, name),
    ]
    for call in calls:
        with pytest.raises(InvalidArgument):
            call()


@pytest.mark.parametrize("name", ["a", "a b/ä.pdf", "...", "a/.b", "~", "C:\\x", "%2e%2e", "a" * 256 + "/" + "b" * 255])
async def test_what_is_a_name_and_never_a_path(backend: Backend, name: str) -> None:
    house = House(backend)
    house.put(name, b"x")
    await backend.flush()
    assert house.get(name) == b"x"
    if backend.database is not None:
        assert [len(path.relative_to(backend.folder / "blobs").parts) for path in house.files()] == [2]
        assert len(house.files()[0].name) == 32


@pytest.mark.parametrize(
    "content_type", ["x", "a/b\r\nx: y", "a/b;\x7f", "ä/b", "a" * 64 + "/b", "text/plain; " + "x" * 121]
)
async def test_what_is_no_content_type(backend: Backend, content_type: str) -> None:
    with pytest.raises(InvalidArgument):
        House(backend).blobs.begin(ACME, "a", content_type)


async def test_names_by_prefix_in_pages(backend: Backend) -> None:
    house = House(backend)
    for name in ("b", "a/2", "a/1", "a", "ab"):
        house.put(name)
    assert house.names() == ["a", "a/1", "a/2", "ab", "b"]
    assert house.names(prefix="a/") == ["a/1", "a/2"]
    assert house.names(cursor="a/1", limit=2) == ["a/2", "ab"]
    assert house.names(prefix="a", cursor="a/2") == ["ab"]
    assert house.names(prefix="c") == []
    with pytest.raises(InvalidArgument):
        house.names(limit=1_001)


@pytest.mark.parametrize(("size", "fits"), [(99, True), (100, True), (101, False)])
async def test_a_blob_has_so_many_bytes(backend: Backend, size: int, fits: bool) -> None:
    house = House(backend, blob_bytes_max=100)
    for known in (0, size):
        if fits:
            assert house.put("a", b"x" * size, size_bytes=known).size_bytes == size
        else:
            with pytest.raises(PayloadTooLarge):
                house.put("a", b"x" * size, size_bytes=known)
            assert house.get("a") is None
    await backend.flush()
    assert len(house.files()) == (1 if fits and backend.database is not None else 0)


async def test_a_tenant_has_so_many_blobs(backend: Backend) -> None:
    house = House(backend, blobs_per_tenant_max=2)
    house.put("a")
    house.put("b", scope=OTHER_NAMESPACE)
    with pytest.raises(LimitExceeded) as refused:
        house.put("c")
    assert refused.value.details["limit"] == "blobs_per_tenant_max"
    house.put("a", b"again")
    house.put("c", scope=EVIL)
    house.blobs.delete(ACME, "a")
    house.put("c")


async def test_a_tenant_stores_so_many_bytes(backend: Backend) -> None:
    house = House(backend, stored_bytes_per_tenant_max=1_000 + 2 * (ROW_OVERHEAD_BYTES + 1))
    house.put("a", b"x" * 600)
    with pytest.raises(LimitExceeded) as refused:
        house.put("b", b"x" * 401)
    assert refused.value.details["limit"] == "stored_bytes_per_tenant_max"
    with pytest.raises(LimitExceeded):
        house.blobs.begin(ACME, "b", size_bytes=401)
    house.put("b", b"x" * 400)
    with pytest.raises(LimitExceeded):
        house.put("a", b"x" * 601)
    assert house.get("a") == b"x" * 600
    house.put("a", b"x" * 100)
    house.put("b", b"x" * 900)
    house.put("c", b"x" * 900, scope=EVIL)


async def test_files_go_when_nothing_leads_to_them_any_more(backend: Backend) -> None:
    if backend.database is None:
        pytest.skip("there are no files")
    house = House(backend)
    house.put("a", b"1")
    await backend.flush()
    [first] = house.files()
    house.put("a", b"2")
    # Until the new row is on disk, a crash would bring back the old one.
    assert first.exists()
    await backend.flush()
    assert not first.exists()
    house.blobs.delete(ACME, "a")
    await backend.flush()
    assert house.files() == []
    house.blobs.begin(ACME, "b").discard()
    assert house.files() == []


async def test_what_a_crash_leaves_over_is_swept(backend: Backend) -> None:
    if backend.database is None:
        pytest.skip("there are no files")
    house = House(backend)
    house.put("a", b"kept")
    unfinished = house.blobs.begin(ACME, "b")
    unfinished.write(b"half")
    sealed = house.blobs.begin(ACME, "c")
    sealed.seal()
    await backend.flush()
    assert len(house.files()) == 3
    again = House(backend)
    assert again.swept == 2
    assert again.names() == ["a"]
    assert again.get("a") == b"kept"
    assert again.blobs.stat(ACME, "a") == house.blobs.stat(ACME, "a")
    assert len(again.files()) == 1
    assert [path.stat().st_mode & 0o077 for path in again.files()] == [0]


@pytest.mark.parametrize("stranger", [EVIL, OTHER_NAMESPACE])
async def test_no_function_sees_or_touches_what_belongs_to_others(backend: Backend, stranger: Scope) -> None:
    house = House(backend)
    house.put("a", b"secret")
    await backend.flush()
    assert house.blobs.open(stranger, "a") is None
    assert house.blobs.stat(stranger, "a") is None
    assert house.names(stranger) == []
    assert not house.blobs.delete(stranger, "a")
    house.put("a", b"theirs", stranger, only_new=True)
    assert house.get("a") == b"secret"
    assert house.blobs.delete(stranger, "a")
    assert house.get("a") == b"secret"


# -- against a model ---------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "a/b", "b"])
SCOPES = st.sampled_from([ACME, EVIL])
BYTES_MAX = 2_000


class Machine(RuleBasedStateMachine):
    """Random puts, deletions, flushes and restarts."""

    backend_kind: Any

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.context = self.backend_kind(Path(self.folder.name))
        self.backend = self.run(self.context.__aenter__())
        self.model: dict[tuple[Scope, str], bytes] = {}
        self.house = House(self.backend, stored_bytes_per_tenant_max=BYTES_MAX)

    def run(self, what: Any) -> Any:
        return self.loop.run_until_complete(what)

    def teardown(self) -> None:
        if hasattr(self, "context"):
            self.run(self.context.__aexit__(None, None, None))
            self.loop.close()
            self.folder.cleanup()

    def used(self, scope: Scope) -> int:
        return sum(
            len(data) + len(name) + ROW_OVERHEAD_BYTES for (owner, name), data in self.model.items() if owner == scope
        )

    @rule(scope=SCOPES, name=NAMES, size=st.integers(0, 900), fill=st.integers(0, 255))
    def put(self, scope: Scope, name: str, size: int, fill: int) -> None:
        data = bytes([fill]) * size
        before = self.model.get((scope, name))
        self.model[scope, name] = data
        if self.used(scope) > BYTES_MAX and len(data) > len(before or b"") - (
            0 if before is not None else ROW_OVERHEAD_BYTES
        ):
            if before is None:
                del self.model[scope, name]
            else:
                self.model[scope, name] = before
            with pytest.raises(LimitExceeded):
                self.house.put(name, data, scope)
        else:
            self.house.put(name, data, scope)

    @rule(scope=SCOPES, name=NAMES)
    def delete(self, scope: Scope, name: str) -> None:
        assert self.house.blobs.delete(scope, name) == (self.model.pop((scope, name), None) is not None)

    @rule()
    def flush(self) -> None:
        self.run(self.backend.flush())

    @precondition(lambda self: self.backend.database is not None)
    @rule()
    def restart(self) -> None:
        self.run(self.backend.flush())
        self.house = House(self.backend, stored_bytes_per_tenant_max=BYTES_MAX)
        assert self.house.swept == 0
        assert len(self.house.files()) == len(self.model)

    @invariant()
    def they_agree(self) -> None:
        if hasattr(self, "house"):
            for scope in (ACME, EVIL):
                assert self.house.names(scope) == sorted(name for owner, name in self.model if owner == scope)
            for (scope, name), data in self.model.items():
                assert self.house.get(name, scope) == data
                info = self.house.blobs.stat(scope, name)
                assert info is not None
                assert (info.size_bytes, info.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("kind", backends())
def test_it_behaves_like_its_model(kind: Any) -> None:
    run_state_machine_as_test(
        type("Machine", (Machine,), {"backend_kind": staticmethod(kind)}),
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
