"""The committed bindings are what componentize-py makes of the contract today."""

from __future__ import annotations

from pathlib import Path

import plexspaces._bindings as bindings
from plexspaces._bindings.__main__ import generate

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = Path(bindings.__file__).parent


def test_no_drift(tmp_path: Path) -> None:
    made = generate(ROOT / "wit" / "plexspaces-actor", tmp_path)
    committed = {path.relative_to(COMMITTED) for path in COMMITTED.rglob("*.py")}
    assert committed - {Path("__init__.py"), Path("__main__.py")} == set(made)
    for file in made:
        assert (tmp_path / file).read_text() == (COMMITTED / file).read_text(), (
            f"{file} differs: python -m plexspaces._bindings wit/plexspaces-actor sdk/plexspaces/_bindings"
        )
