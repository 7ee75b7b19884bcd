"""Which facets there are, in which order they stand, and what is said of those that are not right."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from plexspaces_runtime.actors.facets import Facet
from plexspaces_runtime.clock import ManualClock
from plexspaces_runtime.config import ConfigError
from plexspaces_runtime.durability.facet import DurabilityType
from plexspaces_runtime.errors import InvalidArgument
from plexspaces_runtime.facets.contained import Contained
from plexspaces_runtime.facets.kind import FacetContext, FacetType
from plexspaces_runtime.facets.metrics import Metrics
from plexspaces_runtime.facets.registry import GROUP, FacetRegistry
from plexspaces_runtime.scope import Address
from tests.unit.facets.house import House
from tests.unit.scripted import SCOPE

ADDRESS = Address(SCOPE, "counter")


@dataclass(frozen=True)
class Entry:
    type: str
    config: Mapping[str, Any] = field(default_factory=dict)
    priority: int | None = None


class Shout(FacetType[str]):
    """A custom type of facet."""

    priority = 75

    def parse(self, config: Mapping[str, Any]) -> str:
        return str(config.get("word", "hey"))

    def build(self, context: FacetContext, config: str) -> Facet:
        return Shouting(f"{config} {context.address.text}")


class Shouting(Facet):
    def __init__(self, text: str) -> None:
        self._text = text

    def report(self) -> dict[str, Any]:
        return {"text": self._text}


NOT_A_TYPE = 5


def registry(entry_points: Iterable[EntryPoint] = ()) -> FacetRegistry:
    async def make() -> FacetRegistry:
        house = House()
        return FacetRegistry(
            house.residents,
            DurabilityType(house.durability),
            clock=ManualClock(),
            events=house.bench.events,
            limits=house.bench.limits,
            entry_points=entry_points,
        )

    return asyncio.run(make())


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{value}", GROUP)


RATE = Entry("rate_limit", {"messages_per_second": 5})
ROLES = Entry("authorisation", {"roles": ["admin"]})


def order(*entries: Entry) -> list[str]:
    return [chosen.name for chosen in registry().parse_all(entries)]


def test_the_higher_the_priority_the_further_out() -> None:
    assert order(Entry("metrics"), RATE, ROLES, Entry("durability"), Entry("virtual_actor")) == [
        "virtual_actor",
        "durability",
        "authorisation",
        "rate_limit",
        "metrics",
    ]
    assert order(Entry("metrics", priority=95), Entry("virtual_actor", priority=1), ROLES) == [
        "metrics",
        "authorisation",
        "virtual_actor",
    ]


def test_of_the_same_priority_the_first_written_stands_further_out() -> None:
    metrics, rate = Entry("metrics", priority=5), Entry("rate_limit", RATE.config, 5)
    assert order(metrics, rate) == ["metrics", "rate_limit"]
    assert order(rate, metrics) == ["rate_limit", "metrics"]


def test_the_chain_has_a_facet_of_each_and_reports_by_name() -> None:
    chain = registry().chain([Entry("metrics"), RATE], ADDRESS)
    assert chain is not None
    assert list(chain.report()) == ["rate_limit", "metrics"]
    assert registry().chain([], ADDRESS) is None


def test_authorisation_has_two_spellings_and_is_one_facet() -> None:
    american = Entry("authorization", {"roles": ["admin"]})
    assert order(american) == ["authorisation"]
    with pytest.raises(InvalidArgument, match="facet 'authorisation' is given twice"):
        order(american, ROLES)


def test_every_spelling_has_its_parser() -> None:
    parsers = registry().parsers
    assert set(parsers) == {*registry().names, "authorization"}
    for name in ("authorisation", "authorization"):
        with pytest.raises(InvalidArgument, match="asks for no role"):
            parsers[name]({})


def test_an_unknown_facet_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidArgument, match="no facet 'virtual_actors'; did you mean 'virtual_actor'"):
        order(Entry("virtual_actors"))
    with pytest.raises(InvalidArgument, match="known are authorisation, durability, metrics, rate_limit"):
        order(Entry("zzz"))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (Entry("durability", {"checkpoint_interval": 0}), "checkpoint_interval = 0: must be a whole number from 1"),
        (Entry("virtual_actor", {"idle_timeout": 600}), "idle_timeout = 600: must be a time with its unit"),
        (Entry("virtual_actor", {"idle_timeout": "10 minutes"}), "must be a time with its unit"),
        (Entry("virtual_actor", {"idle_timeout": "0s"}), "at least 0.01 s"),
        (Entry("virtual_actor", {"activation_strategy": "egaer"}), "did you mean 'eager'?"),
        (Entry("virtual_actor", {"idle_time": "1m"}), "did you mean 'idle_timeout'?"),
    ],
)
def test_a_configuration_that_is_wrong_is_refused_with_a_remedy(entry: Entry, words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        order(entry)
    assert words in raised.value.message


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30), ("10m", 600), ("1.5h", 5_400), ("2 d", 172_800)]
)
def test_times_have_units(text: str, seconds: float) -> None:
    (chosen,) = registry().parse_all([Entry("virtual_actor", {"idle_timeout": text})])
    assert chosen.config.idle_s == seconds


def test_a_virtual_actor_is_lazy_unless_told() -> None:
    assert not registry().is_eager([Entry("virtual_actor"), Entry("metrics")])
    assert not registry().is_eager([Entry("metrics")])
    assert registry().is_eager([Entry("virtual_actor", {"activation_strategy": "eager"})])


# -- from packages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["Shout", "READY_MADE"])
def test_a_custom_facet_stands_where_its_type_says_and_is_contained(value: str) -> None:
    known = registry([point("shout", value)])
    entries = [Entry("metrics"), Entry("shout", {"word": "ho"}), ROLES]
    assert [chosen.name for chosen in known.parse_all(entries)] == ["authorisation", "shout", "metrics"]
    chain = known.chain(entries, ADDRESS)
    assert chain is not None
    assert chain.find(Contained) is not None
    assert chain.find(Shouting) is None
    assert chain.find(Metrics) is not None
    assert chain.report()["shout"] == {"text": "ho counter"}
    assert "shout" in known.names


READY_MADE = Shout()


def test_everything_that_is_wrong_with_the_packages_is_said_at_once() -> None:
    points = [point("five", "NOT_A_TYPE"), point("gone", "Nowhere"), point("metrics", "Shout")]
    with pytest.raises(ConfigError) as raised:
        registry(points)
    five, gone, metrics = raised.value.details["issues"]
    assert "'five'" in five
    assert "is a int, not a plexspaces_runtime.facets.kind.FacetType" in five
    assert "'gone'" in gone
    assert "cannot be loaded: AttributeError" in gone
    assert "there is a facet of this name already" in metrics


@pytest.fixture(name="installed")
def _installed(tmp_path: Path) -> Iterator[Path]:
    """An installed package whose facet does not import."""
    info = tmp_path / "acme_facets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-facets\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\naudit = acme_facets_missing:Audit\n", encoding="utf-8")
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    sys.path.remove(str(tmp_path))
    importlib.invalidate_caches()


def test_an_installed_package_that_does_not_import_is_named(installed: Path) -> None:
    async def make() -> None:
        house = House()
        FacetRegistry(
            house.residents,
            DurabilityType(house.durability),
            clock=ManualClock(),
            events=house.bench.events,
            limits=house.bench.limits,
        )

    with pytest.raises(ConfigError) as raised:
        asyncio.run(make())
    assert "facet 'audit' of package acme-facets (acme_facets_missing:Audit)" in str(raised.value)


# -- the documentation -------------------------------------------------------------------------------------

PAGE = Path(__file__).resolve().parents[3] / "docs" / "facets.md"


def test_the_page_has_every_facet_in_its_order_and_its_example_is_taken() -> None:
    text = PAGE.read_text(encoding="utf-8")
    known = registry()
    rows = [(name, int(priority)) for name, priority in re.findall(r"^\| `(\w+)`[^|]*\| (\d+) \|", text, re.MULTILINE)]
    entries = [Entry("virtual_actor"), Entry("durability"), ROLES, RATE, Entry("metrics")]
    assert rows == [(chosen.name, chosen.priority) for chosen in known.parse_all(entries)]
    assert {name for name, _ in rows} == set(known.names)
    example = tomllib.loads(re.findall(r"^```toml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[0])
    (child,) = example["supervisor"]["children"]
    assert len(known.parse_all([Entry(**facet) for facet in child["facets"]])) == 4
