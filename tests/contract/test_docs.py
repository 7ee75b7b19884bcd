"""What the documentation says, compared with what the code says: settings, errors, routes, snippets, links."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import orjson
import pytest

from plexspaces_runtime.actors.capabilities import CAPABILITIES, parse_entries
from plexspaces_runtime.api.config import HttpConfig
from plexspaces_runtime.api.faults import FAULTS
from plexspaces_runtime.api.permissions import NEEDED, ROLES, Permission
from plexspaces_runtime.api.routes import ROUTES
from plexspaces_runtime.cli.app import COMMANDS
from plexspaces_runtime.config import QUOTAS, ConfigError, Limits, settings
from plexspaces_runtime.deployment.appconfig import parse, reference
from plexspaces_runtime.deployment.grants import CapabilityNews
from plexspaces_runtime.deployment.model import DeployConfig
from plexspaces_runtime.deployment.status import ApplicationStatus
from plexspaces_runtime.durability.durability import DurabilityConfig
from plexspaces_runtime.egress.links import LINK_KEYS

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def rows(page: Path, heading: str) -> Iterator[list[str]]:
    """The cells of every table row below a heading, up to the next heading, without the tables' own heads."""
    section = page.read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1]
    section = re.split(r"^#", re.sub(r"```.*?```", "", section, flags=re.DOTALL), maxsplit=1, flags=re.MULTILINE)[0]
    lines = section.splitlines()
    for number, line in enumerate(lines):
        is_head = number + 1 < len(lines) and lines[number + 1].startswith("|---")
        if line.startswith("|") and not line.startswith("|---") and not is_head:
            yield [cell.strip() for cell in line.strip("|").split("|")]


def code(cell: str) -> str:
    return cell.strip("`")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


# -- configuration -----------------------------------------------------------------------------------------


def unit(name: str) -> str:
    for pattern, unit_ in ((r"_bytes", "bytes"), (r"_ms(_|$)", "milliseconds"), (r"_s(_|$)", "seconds")):
        if re.search(pattern, name):
            return unit_
    return ""


@pytest.mark.parametrize("table", ["node", "auth", "tls", "egress", "secrets", "limits"])
def test_every_setting_is_documented_as_it_is(table: str) -> None:
    # The directories' defaults depend on the user: the page gives the usual ones.
    per_user = {"data_dir": "~/.local/share/plexspaces", "cache_dir": "~/.cache/plexspaces"}
    expected = []
    for setting in settings():
        if setting.table == table:
            default = "" if setting.default in (None, ()) else str(setting.default)
            default = per_user.get(setting.name, default)
            expected.append([setting.name, default, unit(setting.name), setting.environment, setting.doc])
    found = [
        [code(name), code(default), unit_, code(environment), doc]
        for name, default, unit_, environment, doc in rows(DOCS / "configuration.md", f"## `[{table}]`")
    ]
    assert found == expected


def test_every_key_of_a_link_is_documented_as_it_is() -> None:
    found = [
        [code(name), type_, unit_, default if default == "required" else code(default), doc]
        for name, type_, unit_, default, doc in rows(DOCS / "egress.md", "## The keys of a link")
    ]
    assert found == [[key.name, key.type, key.unit, key.default, key.doc] for key in LINK_KEYS]


def test_the_first_link_can_be_read() -> None:
    (shown,) = blocks(DOCS / "egress.md", "toml")
    link = parse(shown).links["llm-api"]
    assert (link.base_url, link.secrets) == ("https://api.openai.com", {"openai"})


@pytest.mark.parametrize("table", list(dict.fromkeys(key.table for key in reference())))
def test_every_key_of_an_application_is_documented_as_it_is(table: str) -> None:
    found = [
        [code(name), type_, unit_, default, doc]
        for name, type_, unit_, default, doc in rows(DOCS / "applications.md", f"## `{table}`")
    ]
    expected = [[key.name, key.type, key.unit, key.default, key.doc] for key in reference() if key.table == table]
    assert found == expected


def test_every_capability_is_documented_as_it_is() -> None:
    expected = [
        [f"`{each.name}`", "yes" if each.by_default else "no", each.names, each.doc] for each in CAPABILITIES
    ]
    assert [*rows(DOCS / "capabilities.md", "## Entries")] == expected


def test_what_is_told_of_a_versions_capabilities_is_documented() -> None:
    found = [code(name) for name, _ in rows(DOCS / "capabilities.md", "## What a new version asks for")]
    assert found == [each.name for each in fields(CapabilityNews)]


def test_the_patterns_that_are_shown_are_possible() -> None:
    shown = [code(entry) for entry, *_ in rows(DOCS / "capabilities.md", "## Patterns")]
    assert parse_entries(shown) == set(shown)


def test_every_key_of_a_type_on_its_own_is_documented() -> None:
    found = {code(name) for name, *_ in rows(DOCS / "http.md", "## Deploying")}
    assert found == {each.name for each in fields(DeployConfig)}


def test_the_applications_that_are_shown_can_be_read() -> None:
    (shown,) = blocks(DOCS / "applications.md", "toml")
    assert [child.name for child in parse(shown).actors()] == ["orders", "packer", "courier"]
    (messages,) = blocks(DOCS / "applications.md", "text")
    wrong = shown.replace('role = "orders"', 'restrat = "x"').replace("args = {", "shutdown = 5\nargs = {")
    with pytest.raises(ConfigError) as caught:
        parse(wrong)
    said = [re.sub(r":\d+:", ":", line) for line in messages.splitlines()]
    assert [re.sub(r":\d+:", ":", issue) for issue in caught.value.details["issues"]] == said


def test_what_an_application_answers_is_shown_in_full() -> None:
    shown = [block for block in blocks(DOCS / "http.md", "json") if '"changes"' in block]
    names = {each.name for each in fields(ApplicationStatus)} - {"scope"} | {"tenant", "namespace"}
    assert [set(orjson.loads(block)) for block in shown] == [names]


def test_the_stores_limits_have_their_defaults() -> None:
    found = {code(name): default for name, default in rows(DOCS / "stores.md", "## Limits")}
    assert found
    assert found == {name: str(getattr(Limits(), name)) for name in found}


@pytest.mark.parametrize(("page", "heading"), [("durability.md", "## Settings"), ("facets.md", "## `durability`")])
def test_the_settings_of_durability_are_documented_as_they_are(page: str, heading: str) -> None:
    config = DurabilityConfig()
    assert {code(name): code(default) for name, default, _ in rows(DOCS / page, heading)} == {
        "checkpoint_interval": str(config.checkpoint_interval),
        "max_attempts": str(config.max_attempts),
        "retry_backoff": f'"{config.retry_backoff_s * 1_000:.0f}ms"',
        "reply_retention": f'"{config.reply_retention_ms // 3_600_000}h"',
        "retain_checkpoints": str(config.retain_checkpoints),
    }


def test_the_readmes_limits_have_their_defaults() -> None:
    limits = Limits()
    found = {name: default for name, default, _ in rows(README, "## When something goes wrong") if "_" in name}
    assert len(found) >= 5
    for name, default in found.items():
        assert default == str(getattr(limits, code(name))), name


# -- HTTP --------------------------------------------------------------------------------------------------


def test_every_error_is_documented_with_its_status() -> None:
    found = {code(name): (int(status), code(grpc)) for name, status, grpc, *_ in rows(DOCS / "http.md", "## Errors")}
    assert found == {name: (fault.status, fault.grpc) for name, fault in FAULTS.items()}


def test_the_readmes_errors_have_their_status() -> None:
    found = [row for row in rows(README, "## When something goes wrong") if code(row[0]) in FAULTS]
    assert len(found) >= 5
    for name, status, _ in found:
        assert FAULTS[code(name)].status == int(status), name


def test_every_route_is_documented() -> None:
    found = [(code(method), code(path)) for method, path, *_ in rows(DOCS / "http.md", "## Routes")]
    # One row for the actor of a type stands for the one with a key as well, where there are both.
    every = {(route.method, route.path) for route in ROUTES}
    expected = set()
    for method, path in every:
        with_key = path.replace("{type}", "{type}/{key}")
        if "{key}" in path and (method, path.replace("/{key}", "")) in every:
            continue
        twin = "{key}" not in path and with_key != path and (method, with_key) in every
        expected.add((method, path.replace("{type}", "{type}[/{key}]") if twin else path))
    assert sorted(found) == sorted(expected)


def test_who_may_use_what_is_documented_as_it_is() -> None:
    found = {code(name): may.split(", ") for name, may in rows(DOCS / "authorisation.md", "## Roles of the node")}
    without = Permission.PUBLIC
    assert found == {
        role: [each.value for each in Permission if each in permissions and each is not without]
        for role, permissions in ROLES.items()
    }
    operations = {code(name): may for name, may in rows(DOCS / "authorisation.md", "## Operations")}
    assert operations == {name: may.value for name, may in NEEDED.items() if may is not without}


def test_every_quota_is_documented() -> None:
    named = " ".join(cell for cell, _ in rows(DOCS / "quotas.md", "## How much may be asked"))
    assert set(re.findall(r"`(\w+)`", named)) == set(QUOTAS)


def test_the_limits_of_the_edge_are_documented() -> None:
    edge = HttpConfig()
    found = {code(name): code(value) for name, value, _ in rows(DOCS / "http.md", "## Limits of the edge")}
    said_elsewhere = {"host", "port", "upload_dir"}
    assert found == {
        each.name: str(getattr(edge, each.name)) for each in fields(edge) if each.name not in said_elsewhere
    }


# -- commands ----------------------------------------------------------------------------------------------


def test_the_readme_lists_every_command() -> None:
    first_cells = " ".join(row[0] for row in rows(README, "## Command line"))
    listed = set(re.findall(r"(?:`plexspaces |, `)([a-z-]+)", first_cells))
    assert listed == set(COMMANDS)


# -- what is shown -----------------------------------------------------------------------------------------


def as_module(name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of this text, with a file: the SDK reports where things are declared."""
    file = folder / f"{name}.py"
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def run_tests(module: ModuleType) -> int:
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    for test in tests:
        test()
    return len(tests)


def test_the_readme_shows_the_example_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actor, tests = blocks(README, "python")
    assert actor == (ROOT / "apps" / "counter" / "counter_actor.py").read_text(encoding="utf-8")
    template = ROOT / "runtime" / "plexspaces_runtime" / "cli" / "templates" / "counter_actor.py.txt"
    assert actor == template.read_text(encoding="utf-8"), "`serve --example` and `init` give the same counter"
    as_module("counter_actor", actor, tmp_path, monkeypatch)
    assert run_tests(as_module("test_of_the_readme", tests, tmp_path, monkeypatch)) == 2


@pytest.mark.parametrize(
    ("page", "tests"),
    [
        ("actors.md", 4),
        ("behaviours.md", 4),
        ("durability.md", 2),
        ("egress.md", 3),
        ("facets.md", 1),
        ("secrets.md", 1),
        ("stores.md", 7),
        ("workflows.md", 2),
    ],
)
def test_the_guides_snippets_run(page: str, tests: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n\n".join(blocks(DOCS / page, "python"))
    assert run_tests(as_module("the_guide", text, tmp_path, monkeypatch)) == text.count("def test_") >= tests


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = [
        target
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
        if not target.startswith(("http://", "https://")) and not (page.parent / target).exists()
    ]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    roots = (ROOT, ROOT / "runtime" / "plexspaces_runtime", ROOT / "sdk" / "plexspaces", page.parent)
    named = re.findall(r"`((?:[a-z_-]+/)+[\w-]+\.(?:py|wit|md|toml))(?:::\w+)?`", text)
    missing = [name for name in named if not any((root / name).exists() for root in roots)]
    assert not missing


def test_tests_that_are_named_are_there() -> None:
    for page in PAGES:
        for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{page.name}: {file}::{name}"


def test_the_tour_has_ten_files() -> None:
    tour = README.read_text(encoding="utf-8").split("## A tour in ten files", 1)[1]
    assert [int(number) for number in re.findall(r"^(\d+)\. \[", tour, re.MULTILINE)] == list(range(1, 11))
