"""Manifests of pods for tests, and what to wait for."""

from typing import Any

from tests.support.docker_fixtures import BUSYBOX

Object = dict[str, Any]


def container(name: str = "main", *command: str, **fields: Any) -> Object:
    """A container of the busybox image; `command` is run by itself (no shell)."""
    made: Object = {"name": name, "image": BUSYBOX, "imagePullPolicy": "IfNotPresent"}
    if command:
        made["command"] = list(command)
    return {**made, **fields}


def shell(script: str, name: str = "main", **fields: Any) -> Object:
    """A container that runs a script of its own with the image's shell."""
    return container(name, "sh", "-c", script, **fields)


SLEEPS = "trap 'exit 0' TERM; while true; do sleep 1 & wait $!; done"
"""A script that runs until it is told to end, and then does so at once."""


def pod(name: str, *containers: Object, node: str = "edge-demo", namespace: str = "default", **spec: Any) -> Object:
    """A pod; without containers, one that sleeps."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 3,
            "containers": list(containers) or [shell(SLEEPS)],
            **spec,
        },
    }


def condition(obj: Object, kind: str) -> str:
    """Status of a condition, "" when there is none."""
    for item in obj.get("status", {}).get("conditions") or ():
        if item["type"] == kind:
            return str(item["status"])
    return ""


def state(obj: Object, name: str = "main", *, init: bool = False) -> tuple[str, Object]:
    """(`waiting` | `running` | `terminated`, its details) of a container; ("", {}) when the status has none."""
    for item in obj.get("status", {}).get("initContainerStatuses" if init else "containerStatuses") or ():
        if item["name"] == name:
            for word, details in item["state"].items():
                return word, details
    return "", {}


def restarts(obj: Object, name: str = "main") -> int:
    """restartCount of a container."""
    for item in obj.get("status", {}).get("containerStatuses") or ():
        if item["name"] == name:
            return int(item["restartCount"])
    return 0
