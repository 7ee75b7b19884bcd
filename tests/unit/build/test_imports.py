"""What a source file imports, read off its text."""

from __future__ import annotations

import pytest

from plexspaces_runtime.build.imports import Import, absolute, scan


def only(source: str, module: str = "pkg.mod", is_package: bool = False) -> Import:
    [found] = scan(source, module, is_package=is_package)
    return found


def test_plain_imports_in_order() -> None:
    found = scan("import a, b.c\nfrom d import e, f as g\nfrom h import *\n", "m", is_package=False)
    assert [(i.module, i.attribute, i.line) for i in found] == [
        ("a", "", 1),
        ("b.c", "", 1),
        ("d", "e", 2),
        ("d", "f", 2),
        ("h", "", 3),
    ]
    assert not any(i.lazy or i.guarded or i.conditional for i in found)


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    import x",
        "async def f():\n    import x",
        "class C:\n    def m(self):\n        import x",
        "def f():\n    if y:\n        pass\n    with z:\n        import x",
        "def f():\n    for i in y:\n        import x",
        "def f():\n    return importlib.import_module('x')",
        "def f():\n    __import__('x')",
        "def f():\n    def g():\n        import x",
    ],
)
def test_imports_inside_functions_are_lazy(source: str) -> None:
    assert (only(source).module, only(source).lazy) == ("x", True)


def test_a_class_body_runs_at_once() -> None:
    assert not only("class C:\n    import x").lazy


@pytest.mark.parametrize(
    ("source", "guarded"),
    [
        ("try:\n    import x\nexcept ImportError:\n    pass", True),
        ("try:\n    import x\nexcept ModuleNotFoundError:\n    pass", True),
        ("try:\n    import x\nexcept (ValueError, builtins.ImportError):\n    pass", True),
        ("try:\n    import x\nexcept:\n    pass", True),
        ("try:\n    import x\nexcept Exception:\n    pass", True),
        ("with contextlib.suppress(ImportError):\n    import x", True),
        ("try:\n    import x\nexcept ValueError:\n    pass", False),
        ("try:\n    import x\nfinally:\n    pass", False),
        ("try:\n    pass\nexcept ImportError:\n    pass\nelse:\n    import x", False),
        ("with open('f'):\n    import x", False),
    ],
)
def test_a_caught_absence_is_guarded(source: str, guarded: bool) -> None:
    assert only(source).guarded is guarded


@pytest.mark.parametrize(
    ("test", "outcome"),
    [
        ("TYPE_CHECKING", False),
        ("typing.TYPE_CHECKING", False),
        ("not TYPE_CHECKING", True),
        ("__name__ == '__main__'", False),
        ("sys.platform == 'win32'", False),
        ("sys.platform != 'win32'", True),
        ("sys.platform.startswith('wasi')", True),
        ("os.name == 'nt'", False),
        ("sys.version_info >= (3, 11)", True),
        ("sys.version_info < (3, 8)", False),
        ("sys.version_info[0] == 2", False),
        ("sys.version_info[:2] >= (3, 15)", False),
        ("sys.platform in ('linux', 'darwin')", False),
        ("TYPE_CHECKING or sys.version_info >= (3, 11)", True),
        ("TYPE_CHECKING and unknown", False),
        ("unknown", None),
        ("unknown or TYPE_CHECKING", None),
    ],
)
def test_branches_the_guest_cannot_take_are_left_out(test: str, outcome: bool | None) -> None:
    found = scan(f"if {test}:\n    import yes\nelse:\n    import no", "m", is_package=False)
    wanted = {True: [("yes", False)], False: [("no", False)], None: [("yes", True), ("no", True)]}[outcome]
    assert [(i.module, i.conditional) for i in found] == wanted


@pytest.mark.parametrize(
    ("package", "level", "name", "result"),
    [
        ("a.b", 0, "x.y", "x.y"),
        ("a.b", 1, "x", "a.b.x"),
        ("a.b", 1, "", "a.b"),
        ("a.b", 2, "x", "a.x"),
        ("a.b", 3, "x", ""),
        ("", 1, "x", ""),
    ],
)
def test_relative_names(package: str, level: int, name: str, result: str) -> None:
    assert absolute(package, level, name) == result


def test_relative_imports_count_from_the_package() -> None:
    assert only("from .x import y", "pkg.mod").module == "pkg.x"
    assert only("from .x import y", "pkg.mod", is_package=True).module == "pkg.mod.x"


def test_a_computed_name_is_not_guessed() -> None:
    assert scan("importlib.import_module(name)\n__import__(f'{x}')", "m", is_package=False) == []
