"""Whether a pod may run on this node at all, in the words of a kubelet that refuses one."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from edgeappliance.edged.pods.resources import CPU, MEMORY, STORAGE, pod_request, whole
from edgeappliance.edged.pods.spec import NodeRequirement, NodeTerm, Pod
from edgeappliance.kubeapi.selectors import node_requirement_met

SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
"""Kubernetes: Using sysctls in a Kubernetes Cluster, "Safe and Unsafe Sysctls"."""

EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the node is and has to give. cpu in millicores, memory and storage in bytes; 0: not known, not checked.

    labels: those that the API has for the node, which are more than it registered with; None: not known, not checked.
    """

    name: str
    labels: Mapping[str, str] | None = None
    cpu: int = 0
    memory: int = 0
    storage: int = 0


Refusal = tuple[str, str]
"""status.reason and status.message of a pod that is not admitted."""


def admit(
    pod: Pod, others: Iterable[Pod], machine: Capacity, *, max_pods: int, privileged_allowed: bool = True
) -> Refusal | None:
    """Why the pod must not run beside `others` (those of this node that have not ended); None when it may."""
    others = [other for other in others if other.uid != pod.uid]
    checks: tuple[Callable[[], Refusal | None], ...] = (
        lambda: _system(pod, machine),
        lambda: _privileged(pod, privileged_allowed),
        lambda: _sysctls(pod),
        lambda: _room(pod, others, machine, max_pods),
        lambda: _pages(pod),
        lambda: _place(pod, machine),
        lambda: _ports(pod, others),
    )
    return next((refusal for check in checks if (refusal := check()) is not None), None)


def _system(pod: Pod, machine: Capacity) -> Refusal | None:
    if pod.spec.os is not None and pod.spec.os.name not in ("", "linux"):
        return "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
    wanted = pod.spec.node_selector.get("kubernetes.io/os")
    if wanted not in (None, "linux"):
        return (
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        )
    return None


def _privileged(pod: Pod, allowed: bool) -> Refusal | None:
    if allowed or not any(container.security_context.privileged for container in pod.containers()):
        return None
    return "Forbidden", f'pod with UID "{pod.uid}" specified privileged container, but is disallowed'


def _sysctls(pod: Pod) -> Refusal | None:
    for sysctl in pod.spec.security_context.sysctls:
        name = sysctl.name.replace("/", ".")
        if name not in SAFE_SYSCTLS:
            return "SysctlForbidden", f'forbidden sysctl: "{sysctl.name}" not allowlisted'
        if pod.spec.host_network and name.startswith("net."):
            return "SysctlForbidden", f'forbidden sysctl: "{sysctl.name}" not allowed with host net enabled'
        if pod.spec.host_ipc and name.startswith("kernel.shm"):
            return "SysctlForbidden", f'forbidden sysctl: "{sysctl.name}" not allowed with host ipc enabled'
    return None


def _room(pod: Pod, others: list[Pod], machine: Capacity, max_pods: int) -> Refusal | None:
    if len(others) + 1 > max_pods:
        return _out_of("pods", 1, len(others), max_pods)
    for resource, unit, capacity in (
        (CPU, 1000, machine.cpu),
        (MEMORY, 1, machine.memory),
        (STORAGE, 1, machine.storage),
    ):
        wanted = whole(pod_request(pod, resource) * unit)
        if not wanted or not capacity:
            continue
        used = whole(sum((pod_request(other, resource) for other in others), Decimal(0)) * unit)
        if used + wanted > capacity:
            return _out_of(resource, wanted, used, capacity)
    return None


def _pages(pod: Pod) -> Refusal | None:
    """Huge pages: the engine can give none."""
    asked = {
        resource
        for container in pod.containers()
        for resource in (*container.resources.requests, *container.resources.limits)
        if resource.startswith("hugepages-")
    }
    for resource in sorted(asked):
        if wanted := whole(pod_request(pod, resource)):
            return _out_of(resource, wanted, 0, 0)
    return None


def _out_of(resource: str, wanted: int, used: int, capacity: int) -> Refusal:
    message = f"Node didn't have enough resource: {resource}, requested: {wanted}, used: {used}, capacity: {capacity}"
    return f"OutOf{resource}", message


def _place(pod: Pod, machine: Capacity) -> Refusal | None:
    if pod.spec.node_name and pod.spec.node_name != machine.name:
        return "NodeName", "Predicate NodeName failed: node(s) didn't match the requested node name"
    if machine.labels is None:
        return None
    required = pod.spec.affinity.node_affinity.required
    labels = machine.labels
    selected = all(labels.get(key) == value for key, value in pod.spec.node_selector.items())
    terms = None if required is None else required.node_selector_terms
    if selected and (terms is None or any(_matches(term, machine.name, labels) for term in terms)):
        return None
    return "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"


def _matches(term: NodeTerm, name: str, labels: Mapping[str, str]) -> bool:
    """Of the terms one must match, of a term everything; an empty term matches nothing."""
    if not term.match_expressions and not term.match_fields:
        return False
    fields = {"metadata.name": name}
    return all(_meets(one, labels) for one in term.match_expressions) and all(
        _meets(one, fields) for one in term.match_fields
    )


def _meets(requirement: NodeRequirement, labels: Mapping[str, str]) -> bool:
    return node_requirement_met(requirement.operator, requirement.values, labels.get(requirement.key))


def _ports(pod: Pod, others: list[Pod]) -> Refusal | None:
    taken = [port for other in others for port in host_ports(other)]
    for wanted in host_ports(pod):
        if any(_clash(wanted, port) for port in taken):
            message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
            return "NodePorts", message
    return None


HostPort = tuple[str, str, int]
"""Address ("" is all), protocol, port."""


def host_ports(pod: Pod) -> list[HostPort]:
    """The ports of the node that a pod takes, those of its containers and sidecars; with hostNetwork all that it
    names."""
    containers = [*pod.spec.containers, *(item for item in pod.spec.init_containers if item.is_sidecar)]
    found = []
    for port in (port for container in containers for port in container.ports):
        number = port.host_port or (port.container_port if pod.spec.host_network else 0)
        if number:
            found.append(("" if port.host_ip in EVERYWHERE else port.host_ip, port.protocol, number))
    return found


def _clash(one: HostPort, other: HostPort) -> bool:
    same_address = one[0] == other[0] or not one[0] or not other[0]
    return same_address and one[1:] == other[1:]
