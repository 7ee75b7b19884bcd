"""Generate the bindings: `python -m plexspaces._bindings WIT_DIRECTORY TARGET_DIRECTORY`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def generate(wit: Path, target: Path) -> list[Path]:
    """Write the bindings of `wit` below `target`; the files, relative to it.

    Only `wit_world` and `componentize_py_types` are kept: the rest serves asynchronous worlds.  The one absolute
    import is made relative to this package, so that plain CPython needs no top-level module of that name.
    """
    tool = Path(sys.executable).with_name("componentize-py")
    written: list[Path] = []
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "bindings"  # the tool wants to make it itself
        subprocess.run([tool, "-q", "-d", wit, "-w", "actor", "bindings", raw], check=True)
        for source in [raw / "componentize_py_types.py", *sorted((raw / "wit_world").rglob("*.py"))]:
            relative = source.relative_to(raw)
            text = source.read_text(encoding="utf-8").replace(
                "from componentize_py_types import", "from plexspaces._bindings.componentize_py_types import"
            )
            path = target / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("# mypy: ignore-errors\n" + text, encoding="utf-8")
            written.append(relative)
    return written


if __name__ == "__main__":
    for file in generate(Path(sys.argv[1]), Path(sys.argv[2])):
        print(file)
