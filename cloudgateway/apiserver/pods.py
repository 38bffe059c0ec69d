"""Pods: the defaults that a node relies on, what a new one is, how its deletion waits."""

from typing import Any

from edgeappliance.kubeapi.quantity import amount
from edgeappliance.kubeapi.request import User

Object = dict[str, Any]
MODE = 420  # 0644, as upstream defaults the mode of projected files
TOKEN_SECONDS = 3600
MIRROR = "kubernetes.io/config.mirror"
"""Annotation of a pod that stands for a static pod of a node."""
DEFAULT_ACCOUNT = "default"
PRIORITIES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
"""The priority classes that every cluster has; here there are no others."""


def default(value: Object) -> None:
    """Fill in what upstream fills in (core/v1 SetDefaults_Pod and its parts)."""
    spec = value.setdefault("spec", {})
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    if spec.setdefault("terminationGracePeriodSeconds", 30) < 0:
        spec["terminationGracePeriodSeconds"] = 1  # as the API documents negative values
    spec.setdefault("enableServiceLinks", True)
    if spec.get("serviceAccountName"):
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for section in ("initContainers", "containers"):
        for container in spec.get(section) or ():
            _default_container(container, host_network=bool(spec.get("hostNetwork")))
    for volume in spec.get("volumes") or ():
        _default_volume(volume)
    value.setdefault("status", {}).setdefault("phase", "Pending")


def _default_container(container: Object, *, host_network: bool) -> None:
    image = str(container.get("image", ""))
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    latest = "@" not in image and tag in ("", "latest")
    container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    resources = container.setdefault("resources", {})
    if resources.get("limits"):
        requests = resources.setdefault("requests", {})
        for name, amount in resources["limits"].items():
            requests.setdefault(name, amount)
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if host_network:
            port.setdefault("hostPort", port.get("containerPort"))
    for item in container.get("env") or ():
        reference = (item.get("valueFrom") or {}).get("fieldRef")
        if reference is not None:
            reference.setdefault("apiVersion", "v1")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(name):
            _default_probe(container[name])


def _default_probe(probe: Object) -> None:
    for key, number in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        probe[key] = probe.get(key) or number  # as in Go, 0 means that it is not set
    if probe.get("httpGet") is not None:
        probe["httpGet"].setdefault("path", "/")
        probe["httpGet"].setdefault("scheme", "HTTP")
    if probe.get("grpc") is not None:
        probe["grpc"].setdefault("service", "")


def _default_volume(volume: Object) -> None:
    for section in ("configMap", "secret", "downwardAPI", "projected"):
        if volume.get(section) is not None:
            volume[section].setdefault("defaultMode", MODE)
    for source in (volume.get("projected") or {}).get("sources") or ():
        if source.get("serviceAccountToken") is not None:
            source["serviceAccountToken"].setdefault("expirationSeconds", TOKEN_SECONDS)
    if volume.get("hostPath") is not None:
        volume["hostPath"].setdefault("type", "")
    if len(volume) == 1:
        volume["emptyDir"] = {}


def create(value: Object, user: User | None) -> None:
    """A new pod is Pending, whatever the client says of its status, and has a service account unless it is a mirror."""
    spec = value.setdefault("spec", {})
    if MIRROR not in (value["metadata"].get("annotations") or {}):
        spec["serviceAccountName"] = spec.get("serviceAccountName") or spec.get("serviceAccount") or DEFAULT_ACCOUNT
        spec["serviceAccount"] = spec["serviceAccountName"]
    if spec.get("priorityClassName") in PRIORITIES:
        spec["priority"] = PRIORITIES[spec["priorityClassName"]]
    value["status"] = {"phase": "Pending", "qosClass": quality(value.get("spec", {}))}


def quality(spec: Object) -> str:
    """status.qosClass: Guaranteed, Burstable or BestEffort."""
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    guaranteed, named = True, False
    for container in containers:
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            limit = amount(str(limits.get(name, 0)))
            request = amount(str(requests.get(name, limits.get(name, 0))))
            named = named or bool(limit) or bool(request)  # an amount of 0 is none
            guaranteed = guaranteed and bool(limit) and limit == request
    if not named:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def grace(value: Object, asked: int | None) -> int:
    """Seconds that the node gets to end a pod; 0 means that the object goes at once."""
    spec = value.get("spec", {})
    if not spec.get("nodeName") or value.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    if asked is not None:
        return max(0, asked)
    return int(spec.get("terminationGracePeriodSeconds", 30))
