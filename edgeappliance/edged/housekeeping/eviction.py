"""Which pod has to go when something is short, and what is said about it. Pure.

(Kubernetes documentation, "Node-pressure Eviction" and "Local ephemeral storage".)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from edgeappliance.edged.housekeeping.signals import Level, Signal, quantity
from edgeappliance.edged.pods.resources import (
    MEMORY,
    STORAGE,
    is_critical,
    limit_of,
    request_of,
    storage_limit,
    to_bytes,
)
from edgeappliance.edged.pods.spec import Container, Pod
from edgeappliance.kernel.errors import InputError

EVICTED = "Evicted"
"""status.reason, and the reason of the event."""

WORTHWHILE = 1024 * 1024
"""Bytes that a pod must use of what is short. Offline nobody makes a new pod for one that was evicted in vain."""

WORTHWHILE_INODES = 100

SOURCE = "kubernetes.io/config.source"
"""Annotation of a static pod: where it comes from, other than "api"."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a container, or a pod, uses: bytes of memory, bytes and inodes of disk."""

    memory: int = 0
    disk: int = 0
    inodes: int = 0

    def of(self, signal: Signal) -> int:
        if signal is Signal.MEMORY:
            return self.memory
        return self.inodes if signal.resource == "inodes" else self.disk


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pod that runs. `total` has what no container has for itself: volumes, the sandbox."""

    pod: Pod
    total: Used
    containers: Mapping[str, Used] = field(default_factory=dict)


def is_spared(pod: Pod) -> bool:
    """Critical pods and those of the manifest folder are never evicted."""
    return is_critical(pod) or pod.metadata.annotations.get(SOURCE, "api") != "api"


def ranked(candidates: Sequence[Candidate], signal: Signal) -> list[Candidate]:
    """Those that may be evicted, the first to go first: who uses more than it asked for, then by priority, then by
    how much more. For inodes nobody can ask: by priority, then by how many."""
    least = WORTHWHILE_INODES if signal.resource == "inodes" else WORTHWHILE
    open_to = [item for item in candidates if not is_spared(item.pod) and item.total.of(signal) >= least]
    return sorted(open_to, key=lambda item: _rank(item, signal))


def _rank(candidate: Candidate, signal: Signal) -> tuple[bool, int, Decimal, str]:
    used = candidate.total.of(signal)
    requested = Decimal(0)
    if signal.resource != "inodes":
        requested = sum((_request(item, signal) for item in candidate.pod.spec.containers), Decimal(0))
    return used <= requested, candidate.pod.spec.priority, requested - used, candidate.pod.uid


def _request(container: Container, signal: Signal) -> Decimal:
    try:
        return request_of(container, MEMORY if signal is Signal.MEMORY else STORAGE) or Decimal(0)
    except InputError:
        return Decimal(0)


def low_on(candidate: Candidate, signal: Signal, level: Level) -> str:
    """status.message of a pod that was evicted because the node is short of something."""
    resource = signal.resource
    write = str if resource == "inodes" else quantity
    text = (
        f"The node was low on resource: {resource}. "
        f"Threshold quantity: {write(level.threshold)}, available: {write(level.available)}. "
    )
    if resource == "inodes":
        return text
    for container in candidate.pod.spec.containers:
        used = candidate.containers.get(container.name, Used()).of(signal)
        request = int(_request(container, signal))
        if used > request:
            text += (
                f"Container {container.name} was using {quantity(used)}, request is {quantity(request)}, "
                f"has larger consumption of {resource}. "
            )
    return text


def is_limited(pod: Pod) -> bool:
    """Whether anything that the pod may put on the disk has a limit, so that it must be measured."""
    return (
        any(_size_limit_of(pod).values())
        or storage_limit(pod) is not None
        or any(limit_of(container, STORAGE) for container in pod.containers())
    )


def over_limit(pod: Pod, *, volumes: Mapping[str, int], containers: Mapping[str, int]) -> str:
    """What the pod exceeds of its own limits, in a kubelet's words, "" when nothing.

    volumes: bytes of each emptyDir on disk. containers: bytes of log and writable layer of each container.
    """
    for name, limit in _size_limit_of(pod).items():
        if limit and volumes.get(name, 0) > limit:
            return f'Usage of EmptyDir volume "{name}" exceeds the limit "{quantity(limit)}". '
    for container in pod.containers():
        own = limit_of(container, STORAGE)
        if own and containers.get(container.name, 0) > own:
            return f'Container {container.name} exceeded its local ephemeral storage limit "{quantity(int(own))}". '
    whole = storage_limit(pod)
    if whole is not None and sum(volumes.values()) + sum(containers.values()) > whole:
        return f"Pod ephemeral local storage usage exceeds the total limit of containers {quantity(whole)}. "
    return ""


def _size_limit_of(pod: Pod) -> dict[str, int]:
    """Limits of emptyDirs on disk; those in memory have theirs from the kernel."""
    return {
        volume.name: to_bytes(volume.empty_dir.size_limit)
        for volume in pod.spec.volumes
        if volume.empty_dir is not None and volume.empty_dir.medium == "" and volume.empty_dir.size_limit is not None
    }
