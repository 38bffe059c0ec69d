"""Quantities of pods as numbers, and what follows from them for the engine and for who goes first in need."""

from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from enum import StrEnum

from edgeappliance.edged.pods.spec import Container, Pod, Quantity
from edgeappliance.kernel.errors import InputError
from edgeappliance.kubeapi.quantity import amount

CPU, MEMORY, STORAGE = "cpu", "memory", "ephemeral-storage"

CPU_PERIOD = 100_000
"""Microseconds of the CFS period; quotas are shares of it."""
MIN_QUOTA = 1_000
MIN_SHARES, MAX_SHARES = 2, 262_144
MAX_VALUE = 2**63 - 1

CRITICAL_PRIORITY = 2_000_000_000
GUARANTEED_SCORE, BEST_EFFORT_SCORE = -997, 1000


class Qos(StrEnum):
    """Quality of service class: who is sacrificed last, and first."""

    GUARANTEED = "Guaranteed"
    BURSTABLE = "Burstable"
    BEST_EFFORT = "BestEffort"


def amount_of(quantity: Quantity, *, field: str = "") -> Decimal:
    """A quantity in its unit (cores, bytes); raises InputError naming `field`."""
    try:
        return amount(str(quantity))
    except ValueError as error:
        raise InputError(str(error), field=field) from None


def whole(value: Decimal) -> int:
    """Rounded up, within what fits 64 bits."""
    return int(min(value, Decimal(MAX_VALUE)).to_integral_value(rounding=ROUND_CEILING))


def to_bytes(quantity: Quantity, *, field: str = "") -> int:
    """Bytes, rounded up."""
    return whole(amount_of(quantity, field=field))


def to_millicores(quantity: Quantity, *, field: str = "") -> int:
    """Thousandths of a core, rounded up."""
    return whole(amount_of(quantity, field=field) * 1000)


def limit_of(container: Container, resource: str) -> Decimal | None:
    """A container's limit; None when it has none."""
    found = container.resources.limits.get(resource)
    return None if found is None else amount_of(found, field=f"resources.limits[{resource}]")


def request_of(container: Container, resource: str) -> Decimal | None:
    """A container's request, which is its limit when only that is given."""
    found = container.resources.requests.get(resource)
    if found is None:
        return limit_of(container, resource)
    return amount_of(found, field=f"resources.requests[{resource}]")


def pod_request(pod: Pod, resource: str) -> Decimal:
    """What a pod asks of its node: its containers and sidecars together, or an init container with the sidecars
    before it, whichever is more."""
    return _together(pod, lambda container: request_of(container, resource) or Decimal(0))


def pod_limit(pod: Pod, resource: str) -> Decimal | None:
    """What a pod may use at most; None when one of its containers has no limit."""
    if any(limit_of(container, resource) is None for container in pod.containers()):
        return None
    return _together(pod, lambda container: limit_of(container, resource) or Decimal(0))


def _together(pod: Pod, ask: Callable[[Container], Decimal]) -> Decimal:
    sidecars = peak = Decimal(0)
    for container in pod.spec.init_containers:
        if container.is_sidecar:
            sidecars += ask(container)
            peak = max(peak, sidecars)
        else:
            peak = max(peak, sidecars + ask(container))
    return max(peak, sidecars + sum((ask(container) for container in pod.spec.containers), Decimal(0)))


def qos_class(pod: Pod) -> Qos:
    """Guaranteed: every container limits cpu and memory and requests as much. BestEffort: none names either."""
    guaranteed, named = True, False
    for container in pod.containers():
        for resource in (CPU, MEMORY):
            limit, request = limit_of(container, resource), request_of(container, resource)
            named = named or bool(limit) or bool(request)
            guaranteed = guaranteed and bool(limit) and limit == request
    if not named:
        return Qos.BEST_EFFORT
    return Qos.GUARANTEED if guaranteed else Qos.BURSTABLE


def cpu_shares(container: Container) -> int:
    """Relative weight of a container, from its request."""
    request = request_of(container, CPU)
    if not request:
        return MIN_SHARES
    return max(MIN_SHARES, min(MAX_SHARES, whole(request * 1000) * 1024 // 1000))


def cpu_quota(container: Container) -> int:
    """Microseconds in each CPU_PERIOD; 0 for no limit.

    Not the engine's NanoCpus: it refuses more than there are cores, which Kubernetes admits.
    """
    limit = limit_of(container, CPU)
    if not limit:
        return 0
    return max(MIN_QUOTA, min(MAX_VALUE, whole(limit * 1000) * CPU_PERIOD // 1000))


def memory_limit(container: Container) -> int:
    """Bytes; 0 for no limit."""
    limit = limit_of(container, MEMORY)
    return whole(limit) if limit else 0


def storage_limit(pod: Pod) -> int | None:
    """Bytes of logs, writable layers and emptyDirs that the whole pod may use; None for no limit."""
    limit = pod_limit(pod, STORAGE)
    return whole(limit) if limit else None


def is_critical(pod: Pod) -> bool:
    return pod.spec.priority >= CRITICAL_PRIORITY


def oom_score_adj(pod: Pod, container: Container, *, memory: int) -> int:
    """Whom the kernel kills first when memory runs out; `memory` is the node's capacity in bytes.

    (Kubernetes: Node-pressure eviction, "Node out of memory behavior".) A sidecar is not sacrificed before the
    containers that it serves.
    """
    if pod.spec.priority_class_name == "system-node-critical":
        return GUARANTEED_SCORE
    qos = qos_class(pod)
    if qos is Qos.GUARANTEED:
        return GUARANTEED_SCORE
    if qos is Qos.BEST_EFFORT:
        return BEST_EFFORT_SCORE
    score = _burstable_score(container, memory)
    if container.is_sidecar:
        score = min(score, *(_burstable_score(item, memory) for item in pod.spec.containers), score)
    return score


def _burstable_score(container: Container, memory: int) -> int:
    request = whole(request_of(container, MEMORY) or Decimal(0))
    score = 1000 - 1000 * request // max(memory, 1)
    return min(max(2, score), 999)
