"""What is counted of an actor's messages."""

from __future__ import annotations

from typing import Any

import pytest

from plexspaces_runtime.actors import exits
from plexspaces_runtime.actors.envelope import Envelope, Kind
from plexspaces_runtime.actors.guest import Failure, Trapped
from plexspaces_runtime.errors import InvalidArgument
from plexspaces_runtime.facets.kind import Chain
from plexspaces_runtime.facets.metrics import OPERATIONS_MAX, OTHERS, Metrics, MetricsType
from tests.unit.scripted import Bench

REFUSAL = Failure(False, "handler-refused", "no", "{}", "")
CRASH = Failure(True, "ValueError", "ValueError: bad", "{}", "")


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ("{}", "ok"),
        (None, "ok"),
        (REFUSAL, "refused"),
        (Trapped(exits.crashed("trap", "")), "crashed"),
        (Trapped(exits.limit("cpu", "")), "limit"),
        (Trapped(exits.KILLED), "killed"),
    ],
)
def test_each_outcome_has_a_word(result: Any, outcome: str) -> None:
    metrics = Metrics()
    metrics.handled(Envelope("m", Kind.CALL, "get", "{}"), result, 1_500_000)
    assert metrics.report()["operations"]["get"] == {"outcomes": {outcome: 1}, "cpu_ms": 1.5, "cpu_ms_max": 1.5}


def test_processor_time_adds_up_and_its_peak_is_kept() -> None:
    metrics = Metrics()
    for cpu_ns in (1_000_000, 4_000_000, 2_000_000):
        metrics.handled(Envelope("m", Kind.CALL, "get", "{}"), "{}", cpu_ns)
    assert metrics.report()["operations"]["get"] == {"outcomes": {"ok": 3}, "cpu_ms": 7.0, "cpu_ms_max": 4.0}


def test_senders_who_make_up_names_take_no_more_memory() -> None:
    metrics = Metrics()
    for number in range(3 * OPERATIONS_MAX):
        metrics.handled(Envelope("m", Kind.CALL, f"op-{number}", "{}"), REFUSAL, 0)
    operations = metrics.report()["operations"]
    assert len(operations) == OPERATIONS_MAX + 1
    assert operations[OTHERS]["outcomes"] == {"refused": 2 * OPERATIONS_MAX}


async def test_it_counts_what_a_running_actor_does() -> None:
    def handle(_id: str, _kind: str, op: str, *_: str) -> Any:
        return CRASH if op == "crash" else REFUSAL if op == "no" else "{}"
        yield

    bench, metrics = Bench(), Metrics()
    actor = await bench.start("a", handle=handle, facets=Chain((("metrics", metrics),)))
    for op in ("get", "get", "no", "crash"):
        await bench.ask(actor, op)
    report = metrics.report()
    assert report["starts"] == 1
    assert {name: figures["outcomes"] for name, figures in report["operations"].items()} == {
        "get": {"ok": 2},
        "no": {"refused": 1},
        "crash": {"crashed": 1},
    }


def test_it_has_no_settings() -> None:
    MetricsType().parse({})
    with pytest.raises(InvalidArgument, match="'metrics' has no setting 'interval'; it has none"):
        MetricsType().parse({"interval": 1})
