"""Taints of nodes and what pods tolerate (Kubernetes documentation, "Taints and Tolerations"). Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]

_NODE = "node.kubernetes.io/"
UNSCHEDULABLE = f"{_NODE}unschedulable"
NOT_READY = f"{_NODE}not-ready"
UNREACHABLE = f"{_NODE}unreachable"
_PRESSURES = {
    "MemoryPressure": f"{_NODE}memory-pressure",
    "DiskPressure": f"{_NODE}disk-pressure",
    "PIDPressure": f"{_NODE}pid-pressure",
    "NetworkUnavailable": f"{_NODE}network-unavailable",
}
MANAGED = frozenset((UNSCHEDULABLE, NOT_READY, UNREACHABLE, *_PRESSURES.values()))
"""Keys whose NoSchedule taints follow the node's conditions."""


@dataclass(frozen=True, slots=True)
class Taint:
    """effect: NoSchedule, PreferNoSchedule or NoExecute."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Toleration:
    """An empty key tolerates every taint, an empty effect every effect; `seconds`: a NoExecute taint for that long."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    seconds: int | None = None

    def tolerates(self, taint: Taint) -> bool:
        """Whether a pod with this toleration is not kept away by the taint."""
        if self.effect not in ("", taint.effect) or self.key not in ("", taint.key):
            return False
        return self.operator == "Exists" or (self.operator in ("", "Equal") and self.value == taint.value)

    @property
    def of_unschedulable(self) -> bool:
        """Whether a cordoned node is none to stay away from."""
        return self.tolerates(Taint(UNSCHEDULABLE, "", "NoSchedule"))


def tolerations(spec: Object) -> tuple[Toleration, ...]:
    """A pod's tolerations."""
    return tuple(
        Toleration(
            str(item.get("key") or ""),
            str(item.get("operator") or "Equal"),
            str(item.get("value") or ""),
            str(item.get("effect") or ""),
            item.get("tolerationSeconds"),
        )
        for item in spec.get("tolerations") or ()
    )


def own_taints(spec: Object) -> tuple[Taint, ...]:
    """The taints of a node's spec, without those that follow its conditions."""
    found = (
        Taint(str(item.get("key", "")), str(item.get("value") or ""), str(item.get("effect", "")))
        for item in spec.get("taints") or ()
    )
    return tuple(taint for taint in found if not (taint.key in MANAGED and taint.effect == "NoSchedule"))


def condition_taints(node: Object) -> tuple[Taint, ...]:
    """The NoSchedule taints that a node's conditions and its cordon demand, in a steady order."""
    conditions = {
        condition.get("type"): condition.get("status")
        for condition in (node.get("status") or {}).get("conditions") or ()
    }
    keys = []
    ready = conditions.get("Ready")
    if ready == "Unknown":
        keys.append(UNREACHABLE)
    elif ready != "True":
        keys.append(NOT_READY)
    keys += [key for kind, key in _PRESSURES.items() if conditions.get(kind) == "True"]
    if (node.get("spec") or {}).get("unschedulable"):
        keys.append(UNSCHEDULABLE)
    return tuple(Taint(key, "", "NoSchedule") for key in keys)


def tainted(node: Object, *, time: str) -> list[dict[str, Any]] | None:
    """The taints that a node's spec should list; None when they are there already. `time` is RFC 3339."""
    present = list((node.get("spec") or {}).get("taints") or ())
    wanted = {taint.key for taint in condition_taints(node)}
    managed = {item.get("key") for item in present if _managed(item)}
    if wanted == managed:
        return None
    kept = [item for item in present if not _managed(item) or item.get("key") in wanted]
    added = sorted(wanted - managed)
    return [*kept, *({"key": key, "effect": "NoSchedule", "timeAdded": time} for key in added)]


def _managed(item: Object) -> bool:
    return item.get("key") in MANAGED and item.get("effect") == "NoSchedule"
