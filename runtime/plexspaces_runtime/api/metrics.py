"""/metrics: the node's counters and the edge's own, as Prometheus reads them.

The edge counts into plain dictionaries; only a scrape makes metric families of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BOUNDS_NS = [int(bound * 1e9) for bound in _BOUNDS_S]


class HttpMetrics:
    """What was answered, how, and in what time; a Prometheus collector.

    Args:
        node_counters: the node's, by name.
        in_flight: requests under way.
    """

    def __init__(self, node_counters: Callable[[], Mapping[str, float]], in_flight: Callable[[], int]) -> None:
        self._node_counters = node_counters
        self._in_flight = in_flight
        # By operation and status: how many in each bucket, and last the nanoseconds of all together.
        self._seen: dict[tuple[str, int], list[int]] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def observe(self, operation: str, status: int, duration_ns: int) -> None:
        """Count one answer."""
        row = self._seen.get((operation, status))
        if row is None:
            row = self._seen[operation, status] = [0] * (len(_BOUNDS_NS) + 2)
        row[bisect_left(_BOUNDS_NS, duration_ns)] += 1
        row[-1] += duration_ns

    def render(self) -> bytes:
        """The text of a scrape."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The metric families; `prometheus_client` calls it."""
        for name, value in self._node_counters().items():
            if name.endswith("_total"):
                family = f"plexspaces_{name.removesuffix('_total')}"
                counter = CounterMetricFamily(family, f"Total of the node: {name}.")
                counter.add_metric([], value)
                yield counter
            else:
                gauge = GaugeMetricFamily(f"plexspaces_{name}", f"Now, in the node: {name}.")
                gauge.add_metric([], value)
                yield gauge
        in_flight = GaugeMetricFamily("plexspaces_http_requests_in_flight", "Requests under way.")
        in_flight.add_metric([], self._in_flight())
        yield in_flight
        answers = CounterMetricFamily("plexspaces_http_requests", "Requests answered.", labels=["operation", "status"])
        by_operation: dict[str, list[int]] = {}
        for (operation, status), row in self._seen.items():
            answers.add_metric([operation, str(status)], sum(row[:-1]))
            totals = by_operation.setdefault(operation, [0] * len(row))
            by_operation[operation] = [total + each for total, each in zip(totals, row, strict=True)]
        yield answers
        times = HistogramMetricFamily(
            "plexspaces_http_request_duration_seconds", "From the headers to the answer.", labels=["operation"]
        )
        for operation, (*buckets, time_ns) in by_operation.items():
            running, cumulated = 0, []
            for bound, count in zip((*map(str, _BOUNDS_S), "+Inf"), buckets, strict=True):
                running += count
                cumulated.append((bound, running))
            times.add_metric([operation], cumulated, time_ns / 1e9)
        yield times
