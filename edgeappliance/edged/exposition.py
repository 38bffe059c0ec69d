"""Prometheus text of a kubelet's /metrics pages: the usual few series, under their usual names.

(Kubernetes documentation, "Kubernetes Metrics Reference"; cAdvisor's documentation, "Monitoring with Prometheus".)
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from edgeappliance.edged.measured import Look, MeasuredContainer, MeasuredPod
from edgeappliance.edged.probes.runner import Tally

SECOND = 1_000_000_000
Labels = Mapping[str, str]
Sample = tuple[Labels, float]


class Page:
    """Families one after the other."""

    def __init__(self, *, time_ms: int | None = None) -> None:
        self._lines: list[str] = []
        self._time = "" if time_ms is None else f" {time_ms}"

    def add(self, name: str, kind: Literal["counter", "gauge"], words: str, samples: Iterable[Sample]) -> None:
        """One family; left out when it has no samples."""
        rows = [f"{name}{_labels(labels)} {_value(value)}{self._time}" for labels, value in samples]
        if rows:
            self._lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}", *rows]

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _value(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def resource_text(look: Look) -> str:
    """/metrics/resource: what metrics-server reads."""
    page = Page(time_ms=look.wall_ms)
    containers = [(_resource_labels(pod, item), item) for pod in look.pods for item in pod.containers]
    page.add(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        ((labels, item.usage.cpu_ns / SECOND) for labels, item in containers),
    )
    page.add(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        ((labels, item.usage.working_set) for labels, item in containers),
    )
    page.add(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
        ((labels, item.container.started_ms / 1000) for labels, item in containers),
    )
    page.add(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
        [({}, look.machine.cpu_ns / SECOND)],
    )
    page.add(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
        [({}, look.machine.working_set)],
    )
    pods = [({"namespace": p.pod.metadata.namespace, "pod": p.pod.metadata.name}, p.usage) for p in look.pods]
    page.add(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
        ((labels, usage.cpu_ns / SECOND) for labels, usage in pods),
    )
    page.add(
        "pod_memory_working_set_bytes",
        "gauge",
        "Current working set of the pod in bytes",
        ((labels, usage.working_set) for labels, usage in pods),
    )
    tail = Page()
    for name in ("resource_scrape_error", "scrape_error"):
        tail.add(name, "gauge", "1 if there was an error while getting container metrics, 0 otherwise", [({}, 0)])
    return page.text() + tail.text()


def _resource_labels(pod: MeasuredPod, item: MeasuredContainer) -> Labels:
    metadata = pod.pod.metadata
    return {"container": item.container.name, "namespace": metadata.namespace, "pod": metadata.name}


def cadvisor_text(look: Look) -> str:
    """/metrics/cadvisor."""
    page = Page(time_ms=look.wall_ms)
    items = [(_cadvisor_labels(pod, item), item) for pod in look.pods for item in pod.containers]
    page.add(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        (({**labels, "cpu": "total"}, item.usage.cpu_ns / SECOND) for labels, item in items),
    )
    figures = (
        ("container_memory_usage_bytes", "Current memory usage in bytes.", "memory"),
        ("container_memory_working_set_bytes", "Current working set in bytes.", "working_set"),
        ("container_memory_rss", "Size of RSS in bytes.", "rss"),
        ("container_processes", "Number of processes running inside the container.", "pids"),
    )
    for name, words, attribute in figures:
        page.add(name, "gauge", words, ((labels, getattr(item.usage, attribute)) for labels, item in items))
    page.add(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        ((labels, item.container.started_ms / 1000) for labels, item in items),
    )
    page.add(
        "container_last_seen",
        "gauge",
        "Last time a container was seen by the exporter",
        ((labels, look.wall_ms // 1000) for labels, _ in items),
    )
    _add_networks(page, look)
    return page.text()


def _cadvisor_labels(pod: MeasuredPod, item: MeasuredContainer) -> Labels:
    return {
        "container": item.container.name,
        "id": item.group,
        "image": item.container.image,
        "name": item.container.id,
        "namespace": pod.pod.metadata.namespace,
        "pod": pod.pod.metadata.name,
    }


def _add_networks(page: Page, look: Look) -> None:
    rows = []
    for pod in look.pods:
        if pod.network is None or pod.sandbox is None:
            continue
        sandbox, metadata = pod.sandbox, pod.pod.metadata
        labels = {"id": sandbox.group, "namespace": metadata.namespace, "pod": metadata.name}
        rows += [({**labels, "interface": interface.name}, interface) for interface in pod.network.interfaces]
    figures = (
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", "rx_bytes"),
        ("container_network_receive_errors_total", "Cumulative count of errors while receiving", "rx_errors"),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", "tx_bytes"),
        ("container_network_transmit_errors_total", "Cumulative count of errors while transmitting", "tx_errors"),
    )
    for name, words, attribute in figures:
        page.add(name, "counter", words, ((labels, getattr(interface, attribute)) for labels, interface in rows))


def kubelet_text(look: Look, node: str) -> str:
    """/metrics: how much runs here."""
    page = Page()
    page.add("kubelet_node_name", "gauge", "The node's name. The count is always 1.", [({"node": node}, 1)])
    page.add(
        "kubelet_running_pods",
        "gauge",
        "Number of pods that have a running pod sandbox",
        [({}, sum(pod.sandbox is not None for pod in look.pods))],
    )
    running = sum(len(pod.containers) for pod in look.pods)
    page.add(
        "kubelet_running_containers",
        "gauge",
        "Number of containers currently running",
        [({"container_state": "running"}, running)],
    )
    return page.text()


def probes_text(tally: Tally) -> str:
    """/metrics/probes."""
    page = Page()
    page.add(
        "prober_probe_total",
        "counter",
        "Cumulative number of a liveness, readiness or startup probe for a container by result.",
        (
            (
                {
                    "container": try_.container,
                    "namespace": try_.namespace,
                    "pod": try_.pod,
                    "pod_uid": try_.uid,
                    "probe_type": try_.kind,
                    "result": try_.result,
                },
                count,
            )
            for try_, count in sorted(tally.items())
        ),
    )
    return page.text()
