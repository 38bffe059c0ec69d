"""Which container a request means, and a kubelet's words when there is none. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgeappliance.edged.kubelet.needs import Pods
from edgeappliance.edged.pods.observed import Kind, ObservedContainer
from edgeappliance.kernel.web.exchange import HttpError

_SCHEME = "docker://"
_PULL_WORDS = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}
"""Said in place of the reason."""


def pod_of(pods: Pods, *, namespace: str, name: str, uid: str = "") -> dict[str, Any]:
    """The pod's object. Raises HttpError 404."""
    pod = pods.object(namespace, name, uid)
    if pod is None:
        raise HttpError(404, f'pod "{name}" does not exist')
    return pod


def uid_of(pod: Mapping[str, Any]) -> str:
    """metadata.uid."""
    return str(pod["metadata"].get("uid", ""))


def log_source(pod: Mapping[str, Any], container: str, *, previous: bool) -> str:
    """The engine's id of the container whose output is meant.

    Of a container that waits for its next start it is the last one that ran. Raises HttpError: 404 when the pod has no
    container of that name, 400 when it has not run (yet).
    """
    name = pod["metadata"].get("name", "")
    if container not in container_names(pod):
        raise HttpError(404, f'container "{container}" not found in pod "{name}"')
    status = _status(pod, container)
    if status is None:
        raise HttpError(400, f'container "{container}" in pod "{name}" is not available')
    state = _dict(status.get("state"))
    last = _id(_dict(_dict(status.get("lastState")).get("terminated")))
    if previous:
        if not last:
            raise HttpError(400, f'previous terminated container "{container}" in pod "{name}" not found')
        return last
    if "running" in state:
        return _strip(str(status.get("containerID", "")))
    ended = _id(_dict(state.get("terminated")))
    if ended or last:
        return ended or last
    if "terminated" in state:
        raise HttpError(400, f'container "{container}" in pod "{name}" is terminated')
    reason = str(_dict(state.get("waiting")).get("reason", ""))
    if not reason:
        raise HttpError(400, f'container "{container}" in pod "{name}" is waiting to start - no logs yet')
    words = _PULL_WORDS.get(reason, reason)
    raise HttpError(400, f'container "{container}" in pod "{name}" is waiting to start: {words}')


def running(observed: Sequence[ObservedContainer], container: str) -> ObservedContainer:
    """The container that runs under that name. Raises HttpError 404."""
    found = [c for c in observed if c.name == container and c.kind is not Kind.SANDBOX and c.running]
    if not found:
        raise HttpError(404, f'container not found ("{container}")')
    return max(found, key=lambda c: c.attempt)


def sandbox(observed: Sequence[ObservedContainer], name: str) -> ObservedContainer:
    """The running sandbox of a pod. Raises HttpError 404."""
    found = [c for c in observed if c.kind is Kind.SANDBOX and c.running]
    if not found:
        raise HttpError(404, f'sandbox of pod "{name}" is not running')
    return max(found, key=lambda c: c.attempt)


def container_names(pod: Mapping[str, Any]) -> list[str]:
    """Of the containers, then of the init containers."""
    spec = _dict(pod.get("spec"))
    return [str(_dict(c).get("name")) for key in ("containers", "initContainers") for c in spec.get(key) or []]


def container_spec(pod: Mapping[str, Any], container: str) -> Mapping[str, Any]:
    """The container as the pod describes it, {} when it does not."""
    spec = _dict(pod.get("spec"))
    both = [_dict(c) for key in ("containers", "initContainers") for c in spec.get(key) or []]
    return next((c for c in both if c.get("name") == container), {})


def _status(pod: Mapping[str, Any], container: str) -> Mapping[str, Any] | None:
    status = _dict(pod.get("status"))
    for key in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
        for one in status.get(key) or []:
            if _dict(one).get("name") == container:
                return _dict(one)
    return None


def _id(terminated: Mapping[str, Any]) -> str:
    return _strip(str(terminated.get("containerID") or ""))


def _strip(id: str) -> str:
    return id.removeprefix(_SCHEME)


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
