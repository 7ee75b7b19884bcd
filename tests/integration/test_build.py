"""The builder with the real compiler: what comes out, what is not done twice, and what is said when it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plexspaces_runtime.build import BuildFailed, build, guest_python
from plexspaces_runtime.build.builder import BuildResult

ROOT = Path(__file__).parents[2]
COUNTER = ROOT / "apps" / "counter" / "counter_actor.py"
WASM_COMPONENT = b"\0asm\x0d\0\x01\0"

pytestmark = pytest.mark.guest


def built(source: Path, output: Path, **options: Path) -> tuple[BuildResult, list[str]]:
    phases: list[str] = []
    result = build(source, output, progress=lambda step: phases.append(step.phase), **options)  # type: ignore[arg-type]
    return result, phases


def test_the_counter_becomes_a_component_and_is_compiled_once(guest: Callable[[str], Path], tmp_path: Path) -> None:
    first = guest("counter").read_bytes()
    assert first.startswith(WASM_COMPONENT)
    result, phases = built(COUNTER, tmp_path / "deep" / "counter.wasm")
    assert phases == ["check"], "an unchanged actor is neither staged nor compiled"
    assert result.cached
    assert result.output.read_bytes() == first
    assert result.size_bytes == len(first)
    assert (result.module, len(result.roles), result.dependencies) == ("counter_actor", 1, ())


def test_the_same_source_elsewhere_is_not_compiled_again(guest: Callable[[str], Path], tmp_path: Path) -> None:
    guest("counter")
    copy = tmp_path / "counter_actor.py"
    copy.write_bytes(COUNTER.read_bytes())
    assert built(copy, tmp_path / "c.wasm")[1] == ["check"]


def test_the_commands_build_at_once_what_is_unchanged(guest: Callable[[str], Path], tmp_path: Path) -> None:
    guest("counter")
    scripts = Path(sys.executable).parent
    for name in ("plexspaces", "plexspaces-py"):
        done = subprocess.run(
            [scripts / name, "build", COUNTER, "-o", "counter.wasm", "--json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        answer = json.loads(done.stdout)
        assert answer["cached"] is True
        assert Path(tmp_path, answer["output"]).read_bytes() == guest("counter").read_bytes()
        print(f"{name}: unchanged actor in {answer['elapsed_s']} s")


def test_a_package_with_dependencies_and_late_imports(tmp_path: Path) -> None:
    """One compilation for many claims: each is checked inside the guest while the component is built."""
    project, installed = tmp_path / "project", tmp_path / "venv/lib/python3.11/site-packages"
    files = {
        project / "shop/__init__.py": "",
        project / "shop/prompt.txt": "hello",
        project / "shop/late.py": "VALUE = 1\n",
        project / "shop/actor.py": (
            "import sys\nfrom pathlib import Path\nimport pure_dep\nfrom importlib.metadata import version\n"
            "from plexspaces import actor, handler\n"
            "PROMPT = Path(__file__).with_name('prompt.txt').read_text()\n"
            "assert version('pure-dep') == '1.5'\n"
            "try:\n    import numpy\nexcept ImportError:\n    numpy = None\n"
            "if sys.platform == 'wasi':\n    assert numpy is None, numpy\n"
            "@actor\nclass Shop:\n"
            "    @handler('x')\n    def x(self):\n"
            "        from . import late\n        import colorsys\n        return late.VALUE\n"
        ),
        installed / "pure_dep/__init__.py": "from ._inner import thing\n",
        installed / "pure_dep/_inner.py": "def thing():\n    import graphlib\n    return graphlib\n",
        installed / "pure_dep-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: pure-dep\nVersion: 1.5\n",
    }
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    env = {**os.environ, "VIRTUAL_ENV": str(tmp_path / "venv"), "PLEXSPACES_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "plexspaces_runtime.cli",
            "build",
            project / "shop",
            "-o",
            tmp_path / "s.wasm",
            "--json",
        ],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["module"], answer["dependencies"], answer["cached"]) == ("shop.actor", ["pure_dep"], False)
    assert not list(project.rglob("__pycache__")), "the project itself is left as it was"
    assert not list((tmp_path / "cache").rglob("work-*"))


def test_what_fails_only_in_the_guest_is_told_with_the_users_line(tmp_path: Path) -> None:
    source = tmp_path / "odd_actor.py"
    source.write_text(
        "import sys\nfrom plexspaces import actor, handler\n\n"
        "if sys.platform == 'wasi':\n    raise ValueError('not here')\n\n"
        "@actor\nclass A:\n    @handler('x')\n    def x(self): return 1\n"
    )
    output = tmp_path / "odd.wasm"
    output.write_bytes(b"the last good one")
    with pytest.raises(BuildFailed) as caught:
        build(source, output, cache_dir=tmp_path / "cache")
    [finding] = caught.value.findings
    assert (finding.file.rpartition("/")[2], finding.line) == ("odd_actor.py", 5)
    assert "ValueError: not here" in finding.message
    assert "Stack backtrace" not in str(finding)
    assert output.read_bytes() == b"the last good one"


def test_the_table_of_the_guests_standard_library_is_true(tmp_path: Path) -> None:
    """The guest tries every name and tells by raising."""
    source = tmp_path / "probe_actor.py"
    quiet = ("antigravity", "this", "idlelib", "turtledemo")
    source.write_text(
        "import sys\nfrom plexspaces import actor, handler\n"
        "if sys.platform == 'wasi':\n"
        f"    table = {sorted(guest_python.STANDARD_LIBRARY)!r}\n"
        f"    names = [n for n in sys.stdlib_module_names if n not in {quiet!r}]\n"
        "    there = []\n"
        "    for name in names:\n"
        "        try:\n            __import__(name)\n        except BaseException:\n            continue\n"
        "        there.append(name)\n"
        "    missing = sorted(set(there) - set(table) - {'_frozen_importlib', '_frozen_importlib_external'})\n"
        "    wrong = sorted(set(table) & set(names) - set(there))\n"
        "    raise ValueError(f'{sys.version_info[:2]} missing={missing} wrong={wrong}')\n"
        "@actor\nclass A:\n    @handler('x')\n    def x(self): return 1\n"
    )
    with pytest.raises(BuildFailed) as caught:
        build(source, tmp_path / "x.wasm", cache_dir=tmp_path / "cache")
    [finding] = caught.value.findings
    assert f"{guest_python.VERSION} missing=[] wrong=[]" in finding.message
