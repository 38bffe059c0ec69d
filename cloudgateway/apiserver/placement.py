"""Where a pod may run: its demands against what nodes offer. Pure.

Rules and words are those of the Kubernetes scheduler's filters (Kubernetes documentation, "Assigning Pods to
Nodes", "Taints and Tolerations", "Resource Management"): node(s) were unschedulable, untolerated taints, node
selector and required node affinity, host ports, resources. Of the preferences node affinity and PreferNoSchedule
taints count; what else is equal goes to the first node by name.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from cloudgateway.apiserver.affinity import Term, preferences, required_terms, selector_terms
from cloudgateway.apiserver.pods import quality
from cloudgateway.apiserver.taints import Taint, Toleration, condition_taints, own_taints, tolerations
from edgeappliance.kubeapi.quantity import amount

Object = Mapping[str, Any]
Resources = Mapping[str, Decimal]

NO_NODES = "no nodes available to schedule pods"
_NOTHING = Decimal(0)
_ANY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
_MEMORY_PRESSURE = Toleration("node.kubernetes.io/memory-pressure", "Exists", "", "NoSchedule")
"""What admission upstream adds to every pod that asks for something: it is not the first to go."""
_NOT_EVALUATED = (
    "the scheduler of the embedded API of cloudgateway does not evaluate {field}: use spec.nodeSelector, node "
    "affinity or spec.nodeName, or connect cloudgateway to a Kubernetes cluster"
)


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the node that a container takes."""

    address: str
    protocol: str
    port: int

    def clashes(self, other: "HostPort") -> bool:
        """Whether both cannot be had on one node."""
        return (self.port, self.protocol) == (other.port, other.protocol) and (
            self.address == other.address or self.address in _ANY_ADDRESS or other.address in _ANY_ADDRESS
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """What a pod takes of the node it runs on. `requests` by resource name, in the resource's own unit."""

    requests: Resources = field(default_factory=dict)
    ports: tuple[HostPort, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Everything of a pod that decides where it may run. `unsupported` names what cannot be decided here."""

    demand: Demand
    selector: Mapping[str, str]
    terms: tuple[Term, ...] | None
    preferred: tuple[tuple[int, Term], ...]
    tolerations: tuple[Toleration, ...]
    unsupported: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One node as a scheduler sees it."""

    name: str
    labels: Mapping[str, str]
    allocatable: Resources
    taints: tuple[Taint, ...]
    unschedulable: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """The node that was chosen, or "" and why none was."""

    node: str = ""
    message: str = ""


def demand_of(pod: Object) -> Demand:
    """What a pod takes; requests follow the rules for sidecars (init containers with restartPolicy Always)."""
    spec = pod.get("spec") or {}
    ports = tuple(
        HostPort(str(port.get("hostIP") or ""), str(port.get("protocol") or "TCP"), int(port["hostPort"]))
        for container in _containers(spec)
        for port in container.get("ports") or ()
        if port.get("hostPort")
    )
    return Demand(_requests(spec), ports)


def wish_of(pod: Object) -> Wish:
    """What decides where a pod may run."""
    spec = pod.get("spec") or {}
    affinity = spec.get("affinity") or {}
    tolerated = tolerations(spec)
    if quality(spec) != "BestEffort":
        tolerated += (_MEMORY_PRESSURE,)
    return Wish(
        demand=demand_of(pod),
        selector=dict(spec.get("nodeSelector") or {}),
        terms=required_terms(affinity),
        preferred=preferences(affinity),
        tolerations=tolerated,
        unsupported=_unsupported(spec, affinity),
    )


def place_of(node: Object) -> Place:
    """A node as its object describes it; what its conditions say counts as taints at once."""
    spec, status, metadata = node.get("spec") or {}, node.get("status") or {}, node["metadata"]
    offered = status.get("allocatable") or status.get("capacity") or {}
    return Place(
        name=str(metadata["name"]),
        labels=dict(metadata.get("labels") or {}),
        allocatable=_amounts(offered),
        taints=(*own_taints(spec), *condition_taints(node)),
        unschedulable=bool(spec.get("unschedulable")),
    )


def place(wish: Wish, places: Sequence[Place], load: Mapping[str, Iterable[Demand]]) -> Decision:
    """The node for a pod; `load` are the demands of the pods that each node has already."""
    if wish.unsupported:
        return Decision(message=_NOT_EVALUATED.format(field=wish.unsupported))
    if not places:
        return Decision(message=NO_NODES)
    refusals: Counter[str] = Counter()
    admitted = []
    for candidate in places:
        reasons = obstacles(wish, candidate, load.get(candidate.name, ()))
        if reasons:
            refusals.update(reasons)
        else:
            admitted.append(candidate)
    if admitted:
        return Decision(min(admitted, key=lambda candidate: (-_liking(wish, candidate), candidate.name)).name)
    listed = ", ".join(sorted(f"{count} {reason}" for reason, count in refusals.items()))
    return Decision(message=f"0/{len(places)} nodes are available: {listed}.")


def obstacles(wish: Wish, candidate: Place, load: Iterable[Demand]) -> list[str]:
    """Why a node is none for a pod, in the scheduler's words; empty when it is one."""
    if candidate.unschedulable and not any(toleration.of_unschedulable for toleration in wish.tolerations):
        return ["node(s) were unschedulable"]
    for taint in candidate.taints:
        if taint.effect in ("NoSchedule", "NoExecute") and not _tolerated(wish, taint):
            return [f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}"]
    if not selector_terms(wish.selector, wish.terms, candidate.labels, candidate.name):
        return ["node(s) didn't match Pod's node affinity/selector"]
    present = list(load)
    if any(mine.clashes(theirs) for demand in present for theirs in demand.ports for mine in wish.demand.ports):
        return ["node(s) didn't have free ports for the requested pod ports"]
    return list(_lacking(wish.demand, candidate, present))


def _lacking(demand: Demand, candidate: Place, present: Sequence[Demand]) -> Iterator[str]:
    if len(present) + 1 > candidate.allocatable.get("pods", _NOTHING):
        yield "Too many pods"
    for name, asked in demand.requests.items():
        taken = sum((other.requests.get(name, _NOTHING) for other in present), start=_NOTHING)
        if asked > 0 and taken + asked > candidate.allocatable.get(name, _NOTHING):
            yield f"Insufficient {name}"


def _tolerated(wish: Wish, taint: Taint) -> bool:
    return any(toleration.tolerates(taint) for toleration in wish.tolerations)


def _liking(wish: Wish, candidate: Place) -> int:
    """Preferences: the weights of matching node affinity terms, 100 less for each PreferNoSchedule taint."""
    liked = sum(weight for weight, term in wish.preferred if term.matches(candidate.labels, candidate.name))
    disliked = sum(taint.effect == "PreferNoSchedule" and not _tolerated(wish, taint) for taint in candidate.taints)
    return liked - 100 * disliked


def _unsupported(spec: Object, affinity: Object) -> str:
    for kind in ("podAffinity", "podAntiAffinity"):
        if (affinity.get(kind) or {}).get("requiredDuringSchedulingIgnoredDuringExecution"):
            return f"spec.affinity.{kind}"
    for constraint in spec.get("topologySpreadConstraints") or ():
        if constraint.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule":
            return "spec.topologySpreadConstraints"
    return "spec.resourceClaims" if spec.get("resourceClaims") else ""


def _containers(spec: Object) -> Iterator[Object]:
    """Containers that run as long as the pod does."""
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            yield container
    yield from spec.get("containers") or ()


def _requests(spec: Object) -> Resources:
    """Containers that last add up; an init container needs its own beside the sidecars that run by then."""
    lasting: dict[str, Decimal] = {}
    most: dict[str, Decimal] = {}
    for container in spec.get("initContainers") or ():
        for name, value in _asked(container).items():
            before = lasting.get(name, _NOTHING)
            most[name] = max(most.get(name, _NOTHING), value + before)
            if container.get("restartPolicy") == "Always":
                lasting[name] = value + before
    for container in spec.get("containers") or ():
        for name, value in _asked(container).items():
            lasting[name] = lasting.get(name, _NOTHING) + value
    total = {name: max(most.get(name, _NOTHING), lasting.get(name, _NOTHING)) for name in {**most, **lasting}}
    total.update(_asked(spec))  # resources of the pod as a whole stand above those of its containers
    for name, value in _amounts(spec.get("overhead") or {}).items():
        total[name] = total.get(name, _NOTHING) + value
    return total


def _asked(holder: Object) -> dict[str, Decimal]:
    """The requests of a container or of a pod."""
    return _amounts((holder.get("resources") or {}).get("requests") or {})


def _amounts(texts: Mapping[str, Any]) -> dict[str, Decimal]:
    """Quantities as numbers; what cannot be read counts as none (a node's status is not validated)."""
    found = {}
    for name, text in texts.items():
        try:
            found[name] = amount(str(text))
        except ValueError:
            continue
    return found
