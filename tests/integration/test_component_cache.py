"""Compiled components: compiled once, in another process; found again in memory and on disk; never loaded damaged."""

from __future__ import annotations

import asyncio
import hashlib
import stat
from pathlib import Path

import pytest
from wasmtime import Engine, wat2wasm

from plexspaces_runtime.errors import InternalError, InvalidComponent, LimitExceeded
from plexspaces_runtime.wasm import wit
from plexspaces_runtime.wasm.cache import ComponentCache
from plexspaces_runtime.wasm.config import config_digest, engine_config

from .component_wat import component

ENGINE = Engine(engine_config())
WASM = bytes(wat2wasm(component(wit.load())))
OTHER = bytes(wat2wasm(component(wit.load(), imports=["clock"])))
HASH = hashlib.sha256(WASM).hexdigest()


def cache(directory: Path, **limits: float) -> ComponentCache:
    chosen = {"compile_s_max": 60.0, "entries_max": 4, **limits}
    return ComponentCache(ENGINE, directory / "components", **chosen)  # type: ignore[arg-type]


def compiled_file(directory: Path) -> Path:
    (file,) = (directory / "components").glob("*.cwasm")
    return file


async def under_way(components: ComponentCache) -> None:
    while not components.loading:
        await asyncio.sleep(0)


def overwrite(file: Path, data: bytes) -> None:
    # A new file of the same name: Wasmtime maps the old one, and writing to that would change running code.
    file.unlink(missing_ok=True)
    file.write_bytes(data)


class TestFound:
    async def test_compiled_audited_and_named_by_its_hash(self, tmp_path: Path) -> None:
        loaded = await cache(tmp_path).load(WASM)
        assert loaded.hash == HASH
        assert loaded.size_bytes == len(WASM)
        assert "plexspaces:actor/messaging@0.1.0" in loaded.audit.imports

    async def test_a_file_is_as_good_as_bytes(self, tmp_path: Path) -> None:
        file = tmp_path / "actor.wasm"
        overwrite(file, WASM)
        assert (await cache(tmp_path).load(file)).hash == HASH

    async def test_in_memory(self, tmp_path: Path) -> None:
        components = cache(tmp_path)
        first = await components.load(WASM)
        compiled_file(tmp_path).unlink()
        assert await components.load(WASM) is first
        assert components.compiled == 1

    async def test_on_disk_by_the_next_node(self, tmp_path: Path) -> None:
        await cache(tmp_path).load(WASM)
        second = cache(tmp_path)
        await second.load(WASM)
        assert second.compiled == 0

    async def test_two_deployments_of_the_same_bytes_compile_once(self, tmp_path: Path) -> None:
        components = cache(tmp_path)
        loaded = await asyncio.gather(*(components.load(WASM) for _ in range(5)))
        assert components.compiled == 1
        assert len(set(map(id, loaded))) == 1

    async def test_a_caller_that_gives_up_does_not_take_the_others_along(self, tmp_path: Path) -> None:
        components = cache(tmp_path)
        first, second = (asyncio.create_task(components.load(WASM)) for _ in range(2))
        await under_way(components)
        first.cancel()
        assert (await second).hash == HASH
        assert first.cancelled()
        assert components.compiled == 1

    async def test_what_somebody_still_holds_is_found_however_many_came_later(self, tmp_path: Path) -> None:
        components = cache(tmp_path, entries_max=1)
        first = await components.load(WASM)
        await components.load(OTHER)
        for file in (tmp_path / "components").iterdir():
            file.unlink()
        assert await components.load(WASM) is first

    async def test_what_nobody_holds_is_dropped_at_the_limit(self, tmp_path: Path) -> None:
        components = cache(tmp_path, entries_max=1)
        await components.load(WASM)
        await components.load(OTHER)
        for file in (tmp_path / "components").iterdir():
            file.unlink()
        await components.load(WASM)
        assert components.compiled == 3

    async def test_the_loop_goes_on_while_it_compiles(self, tmp_path: Path) -> None:
        components = cache(tmp_path)
        task = asyncio.create_task(components.load(WASM))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 100

    async def test_the_least_recently_used_leaves_the_disk_first(self, tmp_path: Path) -> None:
        size = len(await load_and_read(tmp_path, WASM))
        components = cache(tmp_path, disk_bytes_max=size + 10)
        await components.load(OTHER)
        assert not compiled_file(tmp_path).name.startswith(HASH)


async def load_and_read(directory: Path, wasm: bytes) -> bytes:
    await cache(directory).load(wasm)
    return compiled_file(directory).read_bytes()


class TestDistrust:
    async def test_the_directory_and_its_files_are_closed_to_others(self, tmp_path: Path) -> None:
        await cache(tmp_path).load(WASM)
        folder = tmp_path / "components"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
        assert {file.suffix for file in folder.iterdir()} == {".cwasm", ".sha256"}
        assert config_digest() in compiled_file(tmp_path).name

    @pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
    def test_a_directory_that_others_can_write_to_is_refused(self, tmp_path: Path, mode: int) -> None:
        (tmp_path / "components").mkdir()
        (tmp_path / "components").chmod(mode)
        with pytest.raises(InternalError, match="others can write to it"):
            cache(tmp_path)

    def test_a_directory_that_others_can_only_read_is_closed(self, tmp_path: Path) -> None:
        (tmp_path / "components").mkdir(mode=0o755)
        cache(tmp_path)
        assert stat.S_IMODE((tmp_path / "components").stat().st_mode) == 0o700

    @pytest.mark.parametrize("damage", ["flip", "cut", "no digest", "strange digest", "empty", "empty both"])
    async def test_a_damaged_file_is_compiled_again_never_loaded(self, tmp_path: Path, damage: str) -> None:
        whole = await load_and_read(tmp_path, WASM)
        file = compiled_file(tmp_path)
        digest = file.with_suffix(".sha256")
        match damage:
            case "flip":
                middle = len(whole) // 2
                overwrite(file, whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
            case "cut":
                overwrite(file, whole[:-1])
            case "no digest":
                digest.unlink()
            case "strange digest":
                digest.write_bytes(b"\xff\xfe")
            case "empty":
                overwrite(file, b"")
            case "empty both":
                overwrite(file, b"")
                digest.write_bytes(b"")
        components = cache(tmp_path)
        assert (await components.load(WASM)).hash == HASH
        assert components.compiled == 1
        assert hashlib.sha256(file.read_bytes()).hexdigest() == digest.read_text(encoding="ascii")

    async def test_a_whole_file_that_wasmtime_refuses_is_compiled_again(self, tmp_path: Path) -> None:
        await cache(tmp_path).load(WASM)
        file = compiled_file(tmp_path)
        overwrite(file, b"of another machine")
        file.with_suffix(".sha256").write_text(hashlib.sha256(b"of another machine").hexdigest(), encoding="ascii")
        components = cache(tmp_path)
        await components.load(WASM)
        assert (components.compiled, components.discarded) == (1, 1)

    def test_what_a_killed_node_had_begun_is_removed_and_a_living_ones_is_not(self, tmp_path: Path) -> None:
        folder = tmp_path / "components"
        cache(tmp_path)
        # No process has number 0 in /proc; 1 always lives.
        for name in ("a.0.tmp", "a.1.tmp"):
            (folder / name).touch()
        cache(tmp_path)
        assert [file.name for file in folder.iterdir()] == ["a.1.tmp"]


class TestRefused:
    @pytest.mark.parametrize(
        ("wasm", "says"),
        [
            (b"\0asm\x0d\0\x01\0\xff\xff\xff", "damaged or not valid"),
            (WASM[: len(WASM) // 2], "truncated"),
            (b"\0asm\x01\0\0\0\0", "core WebAssembly module"),
            (b"garbage", "not WebAssembly"),
        ],
    )
    async def test_by_name_and_nothing_is_left_behind(self, tmp_path: Path, wasm: bytes, says: str) -> None:
        components = cache(tmp_path)
        with pytest.raises(InvalidComponent, match=says):
            await components.load(wasm)
        assert list((tmp_path / "components").iterdir()) == []
        assert components.compiled == 0

    async def test_a_refusal_is_not_remembered_as_a_component(self, tmp_path: Path) -> None:
        components = cache(tmp_path)
        foreign = bytes(wat2wasm(component(wit.load(), extra='(import "wasi:cli/stdin@0.2.0" (instance))')))
        for _ in range(2):
            with pytest.raises(InvalidComponent, match="wasi:cli/stdin"):
                await components.load(foreign)

    async def test_too_slow(self, tmp_path: Path) -> None:
        with pytest.raises(LimitExceeded, match=r"compile_s_max = 0.001 s") as caught:
            await cache(tmp_path, compile_s_max=0.001).load(WASM)
        assert caught.value.details["unit"] == "s"
        assert list((tmp_path / "components").iterdir()) == []

    async def test_too_much_memory(self, tmp_path: Path) -> None:
        with pytest.raises(LimitExceeded, match="compile_memory_bytes_max"):
            await cache(tmp_path, compile_memory_bytes_max=100 << 20).load(bytes(wat2wasm(large())))

    async def test_closing_stops_the_compiler(self, tmp_path: Path) -> None:
        components = cache(tmp_path)
        task = asyncio.create_task(components.load(WASM))
        await under_way(components)
        await components.close()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert list((tmp_path / "components").iterdir()) == []


def large() -> str:
    """A component whose code takes much memory to compile."""
    body = " ".join(
        "(local.set 0 (i32.mul (local.get 0) (i32.add (local.get 0) (i32.const 3))))" for _ in range(60_000)
    )
    functions = f"(func (param i32) {body})" * 4
    return f"(component (core module {functions}))"
