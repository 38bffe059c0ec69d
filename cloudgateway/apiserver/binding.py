"""What is written into a pod when it gets a node, and when it gets none. Pure."""

from typing import Any

Object = dict[str, Any]

SCHEDULED = "PodScheduled"
UNSCHEDULABLE = "Unschedulable"
GATED = "SchedulingGated"
GATES_MESSAGE = "Scheduling is blocked due to non-empty scheduling gates"


def bind(pod: Object, node: str, *, time: str) -> None:
    """Place a pod on a node; `time` is RFC 3339."""
    pod.setdefault("spec", {})["nodeName"] = node
    set_condition(pod, {"type": SCHEDULED, "status": "True"}, time=time)


def refuse(pod: Object, reason: str, message: str, *, time: str) -> bool:
    """Say why a pod has no node; whether that is news."""
    return set_condition(pod, {"type": SCHEDULED, "status": "False", "reason": reason, "message": message}, time=time)


def set_condition(pod: Object, condition: Object, *, time: str) -> bool:
    """Put a condition in place of the one of its type; its transition time moves with its status only."""
    conditions: list[Object] = pod.setdefault("status", {}).setdefault("conditions", [])
    for index, known in enumerate(conditions):
        if known.get("type") != condition["type"]:
            continue
        same = known.get("status") == condition["status"]
        since = known.get("lastTransitionTime", time) if same else time
        renewed = {**condition, "lastTransitionTime": since}
        if renewed == {key: item for key, item in known.items() if item is not None}:
            return False
        conditions[index] = renewed
        return True
    conditions.append({**condition, "lastTransitionTime": time})
    return True
