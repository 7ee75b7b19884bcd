"""The build cache: what makes a key, and that entries are whole or absent."""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from plexspaces_runtime.build import builder, cache
from plexspaces_runtime.build.builder import build_key
from plexspaces_runtime.build.cache import BuildCache, content_key, copy_atomically, write_atomically
from plexspaces_runtime.build.findings import Finding, Severity
from plexspaces_runtime.build.imports import Import
from plexspaces_runtime.build.plan import Plan, Preload, StagedFile

from .conftest import ACTOR

KEY = "a" * 64


def stored(store: BuildCache, key: str = KEY, content: bytes = b"wasm") -> cache.Entry:
    with store.workspace() as folder:
        built = folder / "c.wasm"
        built.write_bytes(content)
        return store.store(key, built, ["a"], [Finding("f", 1, "m", "r", Severity.WARNING)])


@pytest.mark.parametrize(
    "changed",
    [
        ({"a": "1"}, [("x", b"2")]),
        ({"a": "2"}, [("x", b"1")]),
        ({"b": "1"}, [("x", b"1")]),
        ({"a": "1"}, [("y", b"1")]),
        ({"a": "1"}, [("x", b"1"), ("y", b"")]),
        ({"a": "1", "b": ""}, [("x", b"1")]),
        ({"a": "1"}, []),
    ],
)
def test_every_ingredient_and_every_byte_is_in_the_key(changed: tuple[dict[str, str], list[tuple[str, bytes]]]) -> None:
    assert content_key(*changed) != content_key({"a": "1"}, [("x", b"1")])


def test_the_same_bytes_divided_otherwise_are_another_key() -> None:
    assert content_key({}, [("a", b"1b:1"), ("c", b"")]) != content_key({}, [("a", b"1"), ("b", b"1c")])
    assert content_key({}, [("a", b"bc")]) != content_key({}, [("ab", b"c")])
    assert content_key({}, [("a", b"1"), ("b", b"2")]) == content_key({}, [("b", b"2"), ("a", b"1")])


def test_what_changes_the_key_of_a_plan(planned: Callable[..., Plan]) -> None:
    plan = planned({"m.py": "import dep\n" + ACTOR}, {"dep.py": "x = 1"})
    key = build_key(plan)
    assert build_key(plan) == key

    def with_file(destination: str) -> Plan:
        files = tuple(
            StagedFile(f.destination, f.source, f.data + b"\n") if f.destination == destination else f
            for f in plan.files
        )
        return dataclasses.replace(plan, files=files)

    changed = [
        build_key(with_file("m.py")),
        build_key(with_file("dep.py")),
        build_key(with_file("plexspaces/host.py")),
        build_key(dataclasses.replace(plan, files=plan.files[1:])),
        build_key(dataclasses.replace(plan, preloads=(*plan.preloads, Preload("decimal", "", True)))),
        build_key(dataclasses.replace(plan, project=dataclasses.replace(plan.project, module="n"))),
    ]
    assert len({key, *changed}) == 1 + len(changed)


def test_the_key_does_not_know_where_the_project_lies(planned: Callable[..., Plan], tmp_path: Path) -> None:
    one = planned({"m.py": ACTOR})
    moved = dataclasses.replace(
        one, project=dataclasses.replace(one.project, root=tmp_path / "elsewhere", file=tmp_path / "elsewhere/m.py")
    )
    assert build_key(one) == build_key(moved)


def test_the_tools_are_in_the_key() -> None:
    assert builder._componentize_version().startswith("0.")
    assert len(builder._own_sources()) == 64


def test_what_is_stored_is_found_as_it_was(tmp_path: Path) -> None:
    store = BuildCache(tmp_path / "cache")
    assert store.find(KEY) is None
    entry = stored(store)
    assert store.find(KEY) == entry
    assert entry.wasm.read_bytes() == b"wasm"
    assert (entry.roles, entry.warnings[0].message, entry.size_bytes) == (("a",), "m", 4)
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.name.startswith("work-")] == []


@pytest.mark.parametrize("damage", ["truncated", "no description", "torn description", "no wasm"])
def test_a_damaged_entry_is_no_entry(tmp_path: Path, damage: str) -> None:
    store = BuildCache(tmp_path)
    entry = stored(store)
    about = entry.wasm.with_suffix(".json")
    match damage:
        case "truncated":
            entry.wasm.write_bytes(b"was")
        case "no description":
            about.unlink()
        case "torn description":
            about.write_text(about.read_text()[:-5])
        case "no wasm":
            entry.wasm.unlink()
    assert store.find(KEY) is None
    assert stored(store) is not None


def test_room_is_made_for_the_newest(tmp_path: Path) -> None:
    store = BuildCache(tmp_path, kept_bytes_max=10)
    stored(store, "1" * 64, b"12345")
    stored(store, "2" * 64, b"12345")
    assert store.find("1" * 64) is not None, "looking it up makes it recently used"
    stored(store, "3" * 64, b"12345")
    assert [key for key in "123" if store.find(key * 64)] == ["1", "3"]
    stored(store, "4" * 64, b"x" * 100)
    assert [key for key in "1234" if store.find(key * 64)] == ["4"]


def _build_once(folder: str, log: str) -> None:
    store = BuildCache(Path(folder))
    with store.building(KEY):
        if store.find(KEY) is None:
            with Path(log).open("a") as file:
                file.write("built\n")
            stored(store)


def test_one_of_several_processes_builds_and_the_others_wait(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_build_once, args=(str(tmp_path / "c"), str(log))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert log.read_text() == "built\n"
    assert not list((tmp_path / "c").glob("*.lock"))


def test_scans_come_back_as_they_were(tmp_path: Path) -> None:
    store = BuildCache(tmp_path)
    scans = {"h": [Import("a.b", 3, True, False, True, "c")], "i": []}
    store.save_scans("/x.py", scans)
    assert store.load_scans("/x.py") == scans
    assert store.load_scans("/y.py") == {}
    next(tmp_path.glob("scans-*")).write_text("{")
    assert store.load_scans("/x.py") == {}


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    target = tmp_path / "out.wasm"
    write_atomically(target, b"old")
    with pytest.raises(IsADirectoryError):
        copy_atomically(tmp_path, target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_output_has_the_mode_of_an_ordinary_file(tmp_path: Path) -> None:
    ordinary, ours = tmp_path / "a", tmp_path / "b"
    ordinary.write_bytes(b"")
    write_atomically(ours, b"")
    assert ours.stat().st_mode == ordinary.stat().st_mode
