"""Pods, observations and situations for tests, with as few words as possible."""

from typing import Any

from edgeappliance.edged.pods.observed import Kind, ObservedContainer, ObservedPod, Phase
from edgeappliance.edged.pods.plan import Situation
from edgeappliance.edged.pods.reading import read_pod
from edgeappliance.edged.pods.spec import Pod, spec_hash

UID = "0b1c7e9a-0000-4000-8000-000000000001"
NOW, WALL = 5000.0, 1_700_000_000_000


def container(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": "busybox:1", **fields}


def sidecar(name: str, **fields: Any) -> dict[str, Any]:
    return container(name, restartPolicy="Always", **fields)


def manifest(*containers: str | dict[str, Any], inits: tuple[str | dict[str, Any], ...] = (), **spec: Any) -> Any:
    def full(item: str | dict[str, Any]) -> dict[str, Any]:
        return container(item) if isinstance(item, str) else item

    whole: dict[str, Any] = {"containers": [full(item) for item in containers or ("app",)], **spec}
    if inits:
        whole["initContainers"] = [full(item) for item in inits]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "uid": UID},
        "spec": whole,
    }


def make_pod(*containers: str | dict[str, Any], **spec: Any) -> Pod:
    return read_pod(manifest(*containers, **spec))


def sandbox(attempt: int = 0, phase: Phase = Phase.RUNNING, **fields: Any) -> ObservedContainer:
    values: dict[str, Any] = {"ip": "172.17.0.9", "started_ms": WALL - 60_000}
    if phase is Phase.EXITED:
        values = {"started_ms": WALL - 60_000, "finished_ms": WALL - 1000, "exit_code": 137}
    return ObservedContainer(
        id=f"sandbox-{attempt}",
        name="",
        kind=Kind.SANDBOX,
        pod_uid=UID,
        namespace="default",
        pod_name="web",
        attempt=attempt,
        phase=phase,
        **{**values, **fields},
    )


def running(pod: Pod, name: str, attempt: int = 0, **fields: Any) -> ObservedContainer:
    return _attempt(pod, name, attempt, Phase.RUNNING, {"started_ms": WALL - 50_000, "pid": 4711, **fields})


def exited(pod: Pod, name: str, attempt: int = 0, code: int = 0, **fields: Any) -> ObservedContainer:
    times = {"started_ms": WALL - 50_000, "finished_ms": WALL - 1000, "exit_code": code}
    return _attempt(pod, name, attempt, Phase.EXITED, {**times, **fields})


def created(pod: Pod, name: str, attempt: int = 0, **fields: Any) -> ObservedContainer:
    return _attempt(pod, name, attempt, Phase.CREATED, fields)


def _attempt(pod: Pod, name: str, attempt: int, phase: Phase, fields: dict[str, Any]) -> ObservedContainer:
    spec = next((item for item in pod.containers() if item.name == name), None)
    init = name in [item.name for item in pod.spec.init_containers]
    values: dict[str, Any] = {
        "kind": Kind.INIT if init else Kind.APP,
        "created_ms": WALL - 55_000,
        "image": spec.image if spec else "gone",
        "image_id": "sha256:" + "1" * 64,
        "spec_hash": spec_hash(spec) if spec else "",
        "sandbox": "sandbox-0",
    }
    return ObservedContainer(
        id=f"{name}-{attempt}",
        name=name,
        pod_uid=UID,
        namespace="default",
        pod_name="web",
        attempt=attempt,
        phase=phase,
        **{**values, **fields},
    )


def situation(pod: Pod, *seen: ObservedContainer, **fields: Any) -> Situation:
    """Every ended container was seen ending one second ago, unless `exits` says otherwise."""
    exits = {item.id: NOW - 1 for item in seen if item.exited}
    values: dict[str, Any] = {"now": NOW, "wall_ms": WALL, "started_ms": WALL - 60_000, "exits": exits}
    return Situation(pod=pod, seen=ObservedPod(UID, tuple(seen)), **{**values, **fields})
