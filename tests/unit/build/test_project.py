"""From what a user names to the module with the actors."""

from __future__ import annotations

from pathlib import Path

import pytest

from plexspaces_runtime.build.findings import BuildFailed, Finding
from plexspaces_runtime.build.project import locate

from .conftest import ACTOR, write


def refused(source: Path) -> Finding:
    with pytest.raises(BuildFailed) as caught:
        locate(source)
    [finding] = caught.value.findings
    return finding


def test_a_file_is_a_module_of_its_directory(tmp_path: Path) -> None:
    project = locate(write(tmp_path, {"counter_actor.py": ACTOR}) / "counter_actor.py")
    assert (project.root, project.module) == (tmp_path, "counter_actor")


def test_a_file_inside_a_package_keeps_its_full_name(tmp_path: Path) -> None:
    write(tmp_path, {"a/__init__.py": "", "a/b/__init__.py": "", "a/b/c.py": ACTOR})
    project = locate(tmp_path / "a/b/c.py")
    assert (project.root, project.module) == (tmp_path, "a.b.c")


def test_a_package_whose_init_holds_the_actors(tmp_path: Path) -> None:
    write(tmp_path, {"pack/__init__.py": ACTOR, "pack/util.py": ""})
    for source in (tmp_path / "pack", tmp_path / "pack/__init__.py"):
        project = locate(source)
        assert (project.root, project.module) == (tmp_path, "pack")


def test_the_module_with_actors_is_found_in_a_directory(tmp_path: Path) -> None:
    write(tmp_path, {"src/one.py": "x = 1", "src/two.py": ACTOR, "tests/three.py": ACTOR, "test_two.py": ACTOR})
    assert locate(tmp_path).module == "two"


def test_the_module_that_lists_the_actors_beats_those_that_hold_them(tmp_path: Path) -> None:
    listing = "from .a import A\nfrom .b import B\nACTOR_REGISTRY: dict = {'a': A, 'b': B}\n"
    write(tmp_path, {"p/__init__.py": "", "p/a.py": ACTOR, "p/b.py": ACTOR, "p/all.py": listing})
    assert locate(tmp_path / "p").module == "p.all"


def test_several_modules_with_actors_are_not_guessed_between(tmp_path: Path) -> None:
    finding = refused(write(tmp_path, {"one.py": ACTOR, "two.py": ACTOR}))
    assert "one.py" in finding.message
    assert "two.py" in finding.message
    assert "ACTOR_REGISTRY" in finding.remedy


def test_a_directory_without_actors(tmp_path: Path) -> None:
    assert "no module with an actor" in refused(write(tmp_path, {"one.py": "x = 1"})).message


def test_nothing_there_but_something_like_it(tmp_path: Path) -> None:
    finding = refused(write(tmp_path, {"counter_actor.py": ""}) / "counter_acter.py")
    assert finding.remedy == "did you mean 'counter_actor.py'?"


@pytest.mark.parametrize("name", ["counter-actor.py", "1st.py", "queue.py", "plexspaces.py", "wit_world.py"])
def test_names_that_no_module_may_have(tmp_path: Path, name: str) -> None:
    assert refused(write(tmp_path, {name: ACTOR}) / name).remedy.startswith("rename it")


def test_something_else_than_python(tmp_path: Path) -> None:
    assert refused(write(tmp_path, {"x.txt": ""}) / "x.txt").message == "not a Python file"
