"""What is brought along, what is imported up front, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from plexspaces_runtime.build.findings import Finding, Severity
from plexspaces_runtime.build.plan import Plan, Preload

from .conftest import ACTOR

Planned = Callable[..., Plan]


def staged(plan: Plan) -> set[str]:
    """Destinations, the SDK's aside."""
    return {file.destination for file in plan.files if not file.destination.startswith("plexspaces/")}


def own_preloads(plan: Plan) -> set[Preload]:
    """Those that the project asks for: the SDK's standard-library ones aside."""
    return {p for p in plan.preloads if p.required}


def only(plan: Plan) -> Finding:
    [finding] = plan.findings
    return finding


def test_a_single_file_brings_itself_and_the_sdk_without_its_tests(planned: Planned) -> None:
    plan = planned({"m.py": ACTOR, "other.py": "never imported"})
    assert staged(plan) == {"m.py"}
    sdk = {f.destination for f in plan.files} - {"m.py"}
    assert {"plexspaces/__init__.py", "plexspaces/_guest.py", "plexspaces/host.py"} <= sdk
    assert not any(name.startswith(("plexspaces/testing", "plexspaces/_bindings")) for name in sdk)
    assert plan.findings == ()


def test_what_is_imported_beside_it_comes_along_and_nothing_else(planned: Planned) -> None:
    plan = planned(
        {"m.py": "import a\nfrom pack import inner\n" + ACTOR, "a.py": "import b", "b.py": "", "c.py": ""}
        | {"pack/__init__.py": "", "pack/inner.py": "", "pack/data.json": "{}", "pack/tests/test_x.py": ""}
        | {"pack/__pycache__/x.pyc": "", "pack/native.so": ""},
    )
    assert staged(plan) == {"m.py", "a.py", "b.py", "pack/__init__.py", "pack/inner.py", "pack/data.json"}


def test_installed_packages_come_along_transitively_and_whole(planned: Planned) -> None:
    plan = planned(
        {"m.py": "import one\n" + ACTOR},
        {"one/__init__.py": "from . import sub\nimport two", "one/sub.py": "", "one/extra.py": "", "two.py": ""}
        | {"one/templates/page.html": "<p>", "three.py": "", "one-1.0.dist-info/METADATA": "Name: one"},
    )
    assert staged(plan) == {
        "m.py",
        "one/__init__.py",
        "one/sub.py",
        "one/extra.py",
        "one/templates/page.html",
        "one-1.0.dist-info/METADATA",
        "two.py",
    }
    assert plan.dependencies == ("one", "two")


def test_imports_in_functions_are_preloaded(planned: Planned) -> None:
    plan = planned(
        {
            "m.py": "def f():\n    import decimal, side, lib.deep\n    from email import message\n" + ACTOR,
            "side.py": "",
        },
        {
            "lib/__init__.py": "",
            "lib/deep.py": "def g():\n    import fractions\n    from lib import late",
            "lib/late.py": "",
        },
    )
    assert own_preloads(plan) == {
        Preload("decimal", "", True),
        Preload("email", "message", True),
        Preload("side", "", True),
        Preload("lib.deep", "", True),
    }
    assert Preload("fractions", "", False) in plan.preloads
    assert Preload("lib", "late", False) in plan.preloads
    assert {"side.py", "lib/deep.py"} <= staged(plan)


def test_a_guarded_import_in_a_function_is_preloaded_if_it_can_be(planned: Planned) -> None:
    plan = planned(
        {"m.py": "def f():\n    try:\n        import graphlib\n    except ImportError:\n        pass\n" + ACTOR}
    )
    assert Preload("graphlib", "", False) in plan.preloads


@pytest.mark.parametrize(
    "guard",
    [
        "try:\n    import nowhere\nexcept ImportError:\n    nowhere = None\n",
        "try:\n    import ssl\nexcept ImportError:\n    ssl = None\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nowhere\n",
        "if __name__ == '__main__':\n    import nowhere\n",
        "import sys\nif sys.platform == 'win32':\n    import winreg\n",
        "def f():\n    try:\n        import nowhere\n    except ImportError:\n        pass\n",
    ],
)
def test_what_may_be_missing_is_not_missed(planned: Planned, guard: str) -> None:
    assert planned({"m.py": guard + ACTOR}).findings == ()


def test_a_missing_module_is_an_error_with_its_line(planned: Planned) -> None:
    finding = only(planned({"m.py": "import os\nimport nowhere\n" + ACTOR}))
    assert (finding.line, finding.severity) == (2, Severity.ERROR)
    assert "nowhere" in finding.message
    assert "pip install nowhere" in finding.remedy


def test_a_missing_module_in_a_function_is_found_as_well(planned: Planned) -> None:
    assert only(planned({"m.py": "def f():\n    import nowhere\n" + ACTOR})).line == 2


def test_a_misspelt_module_is_recognised(planned: Planned) -> None:
    assert "did you mean 'statistics'?" in only(planned({"m.py": "import statistcs\n" + ACTOR})).remedy
    assert "did you mean 'helper'?" in only(planned({"m.py": "import helpr\n" + ACTOR, "helper.py": ""})).remedy


def test_a_declared_but_uninstalled_requirement_is_recognised(planned: Planned) -> None:
    plan = planned({"m.py": "import some_thing\n" + ACTOR, "requirements.txt": "# x\nsome-thing>=2\n"})
    assert "pip install some-thing" in only(plan).remedy
    assert "required beside the actor" in only(plan).remedy


def test_a_conditional_missing_module_is_a_warning(planned: Planned) -> None:
    finding = only(planned({"m.py": "import os\nif os.environ:\n    import nowhere\n" + ACTOR}))
    assert finding.severity is Severity.WARNING


def test_a_compiled_extension_is_refused_naming_the_way_to_it(planned: Planned) -> None:
    packages = {"fast/__init__.py": "from . import _core", "fast/_core.abi3.so": ""}
    finding = only(planned({"m.py": "import json\nimport fast\n" + ACTOR}, packages))
    assert (finding.line, finding.severity) == (2, Severity.ERROR)
    assert "fast._core" in finding.message
    assert "compiled extension" in finding.message
    assert "pure Python" in finding.remedy


def test_an_optional_compiled_extension_is_left_out(planned: Planned) -> None:
    speedups = "try:\n    from . import _core\nexcept ImportError:\n    _core = None\n"
    plan = planned(
        {"m.py": "import fast\n" + ACTOR}, {"fast/__init__.py": speedups, "fast/_core.abi3.so": "", "fast/slow.py": ""}
    )
    assert plan.findings == ()
    assert staged(plan) == {"m.py", "fast/__init__.py", "fast/slow.py"}


def test_a_caught_unusable_package_is_left_out_with_a_warning(planned: Planned) -> None:
    plan = planned(
        {"m.py": "try:\n    import fast\nexcept ImportError:\n    fast = None\n" + ACTOR},
        {"fast/__init__.py": "from . import _core", "fast/_core.abi3.so": ""},
    )
    assert only(plan).severity is Severity.WARNING
    assert staged(plan) == {"m.py"}
    assert plan.dependencies == ()


def test_a_dependency_that_needs_what_the_guest_lacks_is_refused_at_the_users_line(planned: Planned) -> None:
    plan = planned(
        {"m.py": "import json\nimport web\n" + ACTOR},
        {"web.py": "import web_transport", "web_transport.py": "import ssl"},
    )
    finding = only(plan)
    assert (finding.file.rpartition("/")[2], finding.line) == ("m.py", 2)
    assert "web imports web_transport imports ssl" in finding.message
    assert "host.http_fetch" in finding.remedy


def test_what_a_submodule_of_a_dependency_needs_is_needed(planned: Planned) -> None:
    packages = {"lib/__init__.py": "", "lib/inner.py": "import deeper", "deeper.py": ""}
    plan = planned({"m.py": "from lib import inner\n" + ACTOR}, packages)
    assert "deeper.py" in staged(plan)


def test_packages_that_a_dependency_can_do_without_stay_out(planned: Planned) -> None:
    packages = {
        "lib.py": "def f():\n    import big\ntry:\n    import huge\nexcept ImportError:\n    pass",
        "big.py": "",
        "huge.py": "",
    }
    plan = planned({"m.py": "import lib\n" + ACTOR}, packages)
    assert staged(plan) == {"m.py", "lib.py"}
    assert plan.findings == ()


def test_packages_that_a_dependency_declares_come_along_though_imported_late(planned: Planned) -> None:
    packages = {
        "lib.py": "def f():\n    import big",
        "lib-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: lib\nVersion: 1\nRequires-Dist: Big>=1\n",
        "big.py": "",
        "big-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: big\nVersion: 1\n",
    }
    plan = planned({"m.py": "import lib\n" + ACTOR}, packages)
    assert "big.py" in staged(plan)
    assert Preload("big", "", False) in plan.preloads


@pytest.mark.parametrize("module", ["threading", "subprocess", "socket", "asyncio", "urllib.request"])
def test_modules_of_no_use_in_the_sandbox_are_warned_of(planned: Planned, module: str) -> None:
    finding = only(planned({"m.py": f"import {module}\n" + ACTOR}))
    assert finding.severity is Severity.WARNING
    assert module in finding.message


def test_a_submodule_of_no_use_is_warned_of_by_name(planned: Planned) -> None:
    assert "urllib.request" in only(planned({"m.py": "from urllib import request\n" + ACTOR})).message
    assert planned({"m.py": "from urllib import parse\n" + ACTOR}).findings == ()


def test_a_relative_import_outside_of_any_package(planned: Planned) -> None:
    finding = only(planned({"m.py": "from . import helper\n" + ACTOR, "helper.py": ""}))
    assert "outside of any package" in finding.message


def test_a_relative_import_that_leaves_its_package(planned: Planned) -> None:
    files = {"p/__init__.py": "", "p/m.py": "from ..q import x\n" + ACTOR}
    finding = only(planned(files, source="p/m.py"))
    assert "leaves the package" in finding.message


def test_a_syntax_error_in_any_of_the_own_files_is_reported(planned: Planned) -> None:
    plan = planned({"m.py": "import a, b\n" + ACTOR, "a.py": "x = (", "b.py": "def f(:\n"})
    assert {f.file.rpartition("/")[2] for f in plan.findings} == {"a.py", "b.py"}


def test_a_module_that_hides_the_standard_library_is_refused(planned: Planned) -> None:
    finding = only(planned({"m.py": "import queue\n" + ACTOR, "queue.py": ""}))
    assert "hides the standard library" in finding.message


def test_the_testing_tools_have_no_place_in_a_component(planned: Planned) -> None:
    finding = only(planned({"m.py": "import plexspaces.testing\n" + ACTOR}))
    assert "for tests" in finding.message


def test_all_mistakes_are_reported_at_once(planned: Planned) -> None:
    plan = planned({"m.py": "import nowhere\nimport ssl\nimport threading\nfrom . import x\n" + ACTOR})
    assert [finding.line for finding in sorted(plan.findings, key=lambda f: f.line)] == [1, 2, 3, 4]
