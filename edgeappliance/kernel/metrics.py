"""Prometheus metrics of one process, in a registry of its own."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from edgeappliance.kernel.component import RESTARTS, Health, State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Makes counters, gauges and histograms and renders them all."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, documentation, labels, registry=self._registry)

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(name, documentation, labels, registry=self._registry)

    def histogram(
        self, name: str, documentation: str, labels: Sequence[str] = (), *, buckets: Sequence[float]
    ) -> Histogram:
        return Histogram(name, documentation, labels, buckets=buckets, registry=self._registry)

    def add_components(self, prefix: str, health: Callable[[], Mapping[str, Health]]) -> None:
        """Include the health of components; `health` is asked at every rendering."""
        self._registry.register(ComponentMetrics(prefix, health))

    def add_process(self, prefix: str, **labels: str) -> None:
        """Include memory, CPU time and start of this process, and `<prefix>_build_info` with `labels`."""
        ProcessCollector(registry=self._registry)
        self._registry.register(_Build(prefix, labels))

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)


class _Build(Collector):
    def __init__(self, prefix: str, labels: Mapping[str, str]) -> None:
        self._prefix = prefix
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(f"{self._prefix}_build", "What runs here", value=dict(self._labels))


class ComponentMetrics(Collector):
    """The health of every component as metrics, read when they are asked for.

    `<prefix>_component_up{component}` is 1 while running, `<prefix>_component_restarts_total{component}` counts the
    supervisor's restarts; every other number among a component's details becomes `<prefix>_<component>_<detail>`,
    a counter when it ends in `_total`. The numbers of a table of tables, such as `lines` by name, become
    `<prefix>_<component>_line_<detail>{line}`.
    """

    def __init__(self, prefix: str, health: Callable[[], Mapping[str, Health]]) -> None:
        self._prefix = prefix
        self._health = health

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(f"{self._prefix}_component_up", "1 while the component runs", labels=["component"])
        restarts = CounterMetricFamily(
            f"{self._prefix}_component_restarts", "Restarts of a component that failed", labels=["component"]
        )
        figures: list[Metric] = []
        for name, health in self._health().items():
            up.add_metric([name], 1.0 if health.state is State.RUNNING else 0.0)
            restarts.add_metric([name], float(health.details.get(RESTARTS, 0)))
            for key, value in health.details.items():
                if isinstance(value, int | float) and key != RESTARTS:
                    figures.append(_family(f"{self._prefix}_{name}_{key}", f"of {name}", (), {(): value}))
                elif isinstance(value, Mapping):
                    figures += _table(f"{self._prefix}_{name}", key.removesuffix("s"), value)
        yield up
        yield restarts
        yield from figures


def _table(prefix: str, label: str, table: Mapping[str, object]) -> Iterator[Metric]:
    """The numbers of all rows, one family for each name among them."""
    families: dict[str, dict[tuple[str, ...], float]] = {}
    for row, figures in table.items():
        for key, value in figures.items() if isinstance(figures, Mapping) else ():
            if isinstance(value, int | float):
                families.setdefault(key, {})[(str(row),)] = value
    for key, samples in families.items():
        yield _family(f"{prefix}_{label}_{key}", f"of each {label}", (label,), samples)


def _family(name: str, whose: str, labels: Sequence[str], samples: Mapping[tuple[str, ...], float]) -> Metric:
    name = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    counter = name.endswith("_total")
    words = f"{name.removesuffix('_total').replace('_', ' ')}, {whose}"
    made = (CounterMetricFamily if counter else GaugeMetricFamily)(name.removesuffix("_total"), words, labels=labels)
    for values, value in samples.items():
        made.add_metric(values, float(value))
    return made
