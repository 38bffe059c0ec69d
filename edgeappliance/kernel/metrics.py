"""Prometheus metrics of one process, in a registry of its own."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from edgeappliance.kernel.component import Health, State

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

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)


class ComponentMetrics(Collector):
    """The health of every component as metrics, read when they are asked for.

    `<prefix>_component_up{component}` is 1 while running; every number among a component's details becomes
    `<prefix>_<component>_<detail>`.
    """

    def __init__(self, prefix: str, health: Callable[[], Mapping[str, Health]]) -> None:
        self._prefix = prefix
        self._health = health

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(f"{self._prefix}_component_up", "1 while the component runs", labels=["component"])
        figures = []
        for name, health in self._health().items():
            up.add_metric([name], 1.0 if health.state is State.RUNNING else 0.0)
            for key, value in health.details.items():
                if isinstance(value, int | float):
                    metric = re.sub(r"[^a-zA-Z0-9_]", "_", f"{self._prefix}_{name}_{key}")
                    figures.append(UnknownMetricFamily(metric, f"{key.replace('_', ' ')} of {name}", float(value)))
        yield up
        yield from figures
