"""Columns of pods: ready containers, the one word that says most about the state, and restarts."""

from typing import Any

from edgeappliance.kubeapi.columns import AGE, NAME, Column
from edgeappliance.kubeapi.times import human_duration, parse_time

NONE = "<none>"
Object = dict[str, Any]


def _statuses(value: Object, key: str) -> list[Object]:
    return value.get("status", {}).get(key) or []


def _sidecars(value: Object) -> set[str]:
    """Names of init containers that stay up (restartPolicy Always)."""
    listed = value.get("spec", {}).get("initContainers") or ()
    return {item.get("name", "") for item in listed if item.get("restartPolicy") == "Always"}


def _ready(value: Object, now_ms: int) -> str:
    sidecars = _sidecars(value)
    total = len(value.get("spec", {}).get("containers") or ()) + len(sidecars)
    ready = sum(
        bool(status.get("ready")) and status.get("state", {}).get("running") is not None
        for status in _statuses(value, "containerStatuses")
    )
    ready += sum(
        status.get("name") in sidecars and bool(status.get("ready"))
        for status in _statuses(value, "initContainerStatuses")
    )
    return f"{ready}/{total}"


def pod_state(value: Object) -> str:
    """The STATUS word: phase, or the reason that a container waits or ended, or Terminating."""
    status = value.get("status", {})
    word = status.get("reason") or status.get("phase") or "Unknown"
    sidecars = _sidecars(value)
    initializing = False
    inits = _statuses(value, "initContainerStatuses")
    total = len(value.get("spec", {}).get("initContainers") or ())
    for index, item in enumerate(inits):
        if _is_past(item, sidecars):
            continue
        state = item.get("state", {})
        ended = state.get("terminated")
        if ended is not None:
            word = "Init:" + _end_word(ended)
        elif state.get("waiting", {}).get("reason") not in (None, "", "PodInitializing"):
            word = "Init:" + str(state["waiting"]["reason"])
        else:
            word = f"Init:{index}/{total}"
        initializing = True
        break
    if not initializing:
        word = _running_word(value, word)
    if value.get("metadata", {}).get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            return "Unknown"
        if status.get("phase") not in ("Succeeded", "Failed"):
            return "Terminating"
    return str(word)


def _end_word(ended: Object) -> str:
    if ended.get("reason"):
        return str(ended["reason"])
    if ended.get("signal"):
        return f"Signal:{ended['signal']}"
    return f"ExitCode:{ended.get('exitCode', 0)}"


def _running_word(value: Object, word: str) -> str:
    running = False
    for item in reversed(_statuses(value, "containerStatuses")):
        state = item.get("state", {})
        if state.get("waiting", {}).get("reason"):
            word = str(state["waiting"]["reason"])
        elif state.get("terminated") is not None:
            word = _end_word(state["terminated"])
        elif item.get("ready") and state.get("running") is not None:
            running = True
    if word == "Completed" and running:
        return "Running" if _is_true(value, "Ready") else "NotReady"
    return word


def _is_true(value: Object, kind: str) -> bool:
    """Whether a condition is."""
    conditions = value.get("status", {}).get("conditions") or ()
    return any(item.get("type") == kind and item.get("status") == "True" for item in conditions)


def _is_past(item: Object, sidecars: set[str]) -> bool:
    """Whether the status of an init container lets the next one begin."""
    ended = item.get("state", {}).get("terminated")
    if ended is not None and ended.get("exitCode", 0) == 0:
        return True
    return item.get("name") in sidecars and bool(item.get("started"))


def _restarts(value: Object, now_ms: int) -> str:
    """Of the containers and sidecars; while the pod initializes, of the init containers so far."""
    sidecars, inits = _sidecars(value), _statuses(value, "initContainerStatuses")
    current = next((index for index, item in enumerate(inits) if not _is_past(item, sidecars)), None)
    if current is not None and not _is_true(value, "Initialized"):
        items = inits[: current + 1]
    else:
        items = _statuses(value, "containerStatuses") + [item for item in inits if item.get("name") in sidecars]
    count = sum(int(item.get("restartCount", 0)) for item in items)
    last = max(
        (parse_time(item.get("lastState", {}).get("terminated", {}).get("finishedAt")) or 0 for item in items),
        default=0,
    )
    if count and last:
        return f"{count} ({human_duration((now_ms - last) / 1000)} ago)"
    return str(count)


def _address(value: Object, now_ms: int) -> str:
    status = value.get("status", {})
    listed = status.get("podIPs") or ()
    return str(listed[0].get("ip") if listed else status.get("podIP") or NONE) or NONE


def _gates(value: Object, now_ms: int) -> str:
    gates = value.get("spec", {}).get("readinessGates") or ()
    if not gates:
        return NONE
    true = {
        condition.get("type")
        for condition in value.get("status", {}).get("conditions") or ()
        if condition.get("status") == "True"
    }
    return f"{sum(gate.get('conditionType') in true for gate in gates)}/{len(gates)}"


POD_COLUMNS = (
    NAME,
    Column("Ready", _ready),
    Column("Status", lambda value, now_ms: pod_state(value)),
    Column("Restarts", _restarts),
    AGE,
    Column("IP", _address, priority=1),
    Column("Node", lambda value, now_ms: value.get("spec", {}).get("nodeName") or NONE, priority=1),
    Column(
        "Nominated Node", lambda value, now_ms: value.get("status", {}).get("nominatedNodeName") or NONE, priority=1
    ),
    Column("Readiness Gates", _gates, priority=1),
)
