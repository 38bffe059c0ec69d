"""/pods, /runningpods and /stats/summary as JSON. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from edgeappliance.edged.kubelet.needs import Pods
from edgeappliance.edged.pods.observed import Kind


def pod_list(items: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A PodList."""
    return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": list(items)}


def running_pods(pods: Pods) -> dict[str, Any]:
    """What runs on the engine: pods with the names and images of their running containers, nothing more."""
    items = []
    for pod in pods.objects():
        metadata = pod["metadata"]
        running = [c for c in pods.observed(str(metadata.get("uid", ""))) if c.running and c.kind is not Kind.SANDBOX]
        if running:
            items.append(
                {
                    "metadata": {key: metadata.get(key) for key in ("name", "namespace", "uid")},
                    "spec": {"containers": [{"name": c.name, "image": c.image, "resources": {}} for c in running]},
                    "status": {},
                }
            )
    return pod_list(items)


_KEPT = {"cpu", "memory", "name", "startTime", "podRef", "nodeName"}


def only_cpu_and_memory(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary as metrics-server asks for it."""

    def short(value: Mapping[str, Any]) -> dict[str, Any]:
        return {key: part for key, part in value.items() if key in _KEPT}

    pods = [
        short(pod) | {"containers": [short(one) for one in pod.get("containers") or []]}
        for pod in summary.get("pods") or []
    ]
    return {"node": short(summary.get("node") or {}), "pods": pods}
