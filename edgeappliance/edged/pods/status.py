"""The status of a pod, as the API shows it (core/v1 PodStatus), and the patch that brings it there."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgeappliance.edged.pods.containers import (
    FAILED,
    SUCCEEDED,
    View,
    ended_phase,
    exit_code,
    has_ended,
    is_complete,
    is_passed,
    views,
    why_stopping,
)
from edgeappliance.edged.pods.limits import Unsupported
from edgeappliance.edged.pods.plan import Situation, Stopped
from edgeappliance.edged.pods.states import container_status, cut
from edgeappliance.kubeapi.times import rfc3339

Condition = dict[str, Any]

SUPPORTED = "edgeappliance.io/SupportedFields"
"""Condition of a pod with fields that this node does not act upon: False, and which."""

OWNED = (
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    SUPPORTED,
)
"""Conditions that nobody else writes."""

OPTIONAL = ("reason", "message", "hostIP", "hostIPs", "podIP", "podIPs", "startTime", "initContainerStatuses")
TEXT_LIMIT = 4096


def pod_status(
    situation: Situation,
    *,
    node_ip: str,
    qos: str,
    previous: Mapping[str, Any] | None,
    unsupported: Sequence[Unsupported] = (),
) -> dict[str, Any]:
    """The whole status. `previous`: the status made before, from which transition times, addresses and what can no
    longer be seen are kept. `unsupported`: fields that a condition names."""
    before = previous if previous is not None else {}
    pod, stopping = situation.pod, why_stopping(situation)
    over = bool(situation.finished) or stopping is not None
    phase = _phase(situation, before)
    status: dict[str, Any] = {"phase": phase}
    reason, message = _words(situation, before) if phase == FAILED else ("", "")
    if reason:
        status["reason"] = reason
    if message:
        status["message"] = cut(message, TEXT_LIMIT)
    status["qosClass"] = str(qos)
    if situation.started_ms:
        status["startTime"] = rfc3339(situation.started_ms)
    rejected = stopping is not None and stopping.why is Stopped.REJECTED
    if not rejected:
        _addresses(status, situation, before, node_ip)
    inits, apps = views(pod, situation.seen)
    if not (rejected and not situation.seen.containers):
        known = {item.get("name"): item for item in _listed(before, "containerStatuses", "initContainerStatuses")}
        if inits:
            status["initContainerStatuses"] = [
                container_status(situation, view, known.get(view.name), over=over) for view in inits
            ]
        status["containerStatuses"] = [
            container_status(situation, view, known.get(view.name), over=over) for view in apps
        ]
    wanted = _conditions(situation, status, unsupported)
    dated = before if "conditions" in before else pod.status
    status["conditions"] = _dated(wanted, dated, rfc3339(situation.wall_ms))
    return status


def _listed(status: Mapping[str, Any], *keys: str) -> list[Any]:
    return [item for key in keys for item in status.get(key) or () if isinstance(item, dict)]


# -- phase ----------------------------------------------------------------------------------------------------


def _phase(situation: Situation, before: Mapping[str, Any]) -> str:
    if situation.finished:
        return situation.finished
    stopping = why_stopping(situation)
    inits, apps = views(situation.pod, situation.seen)
    idle = not situation.seen.running and not situation.busy
    if stopping is not None and idle:
        told = before.get("phase")
        if told in (SUCCEEDED, FAILED):
            return str(told)  # how its containers ended is gone with them
        return _phase_at_end(stopping.why, apps)
    if stopping is None and not any(c.running for view in (*inits, *apps) for c in view.attempts):
        ended = ended_phase(situation)
        if ended:
            return ended
    # One that runs counts once its postStart hook is done.
    up = [view.name not in situation.busy or any(has_ended(attempt) for attempt in view.attempts) for view in apps]
    return "Running" if apps and all(up) and all(_has_run(view) for view in apps) else "Pending"


def _phase_at_end(why: Stopped, apps: list[View]) -> str:
    """A pod that was told to end has ended: well, if all its containers did."""
    if why is not Stopped.DELETED:
        return FAILED
    codes = [exit_code(view.newest) if view.newest is not None and has_ended(view.newest) else 1 for view in apps]
    return FAILED if any(codes) else SUCCEEDED


def _has_run(view: View) -> bool:
    return any(attempt.running or has_ended(attempt) for attempt in view.attempts)


def _words(situation: Situation, before: Mapping[str, Any]) -> tuple[str, str]:
    """status.reason and status.message of a pod that has failed."""
    stopping = why_stopping(situation)
    if stopping is not None and stopping.why is not Stopped.DELETED:
        message = stopping.message
        if stopping.why is Stopped.REJECTED and not message.startswith("Pod was rejected"):
            message = f"Pod was rejected: {message}"
        return stopping.reason, message
    told = before if before.get("phase") == FAILED else situation.pod.status
    if told.get("phase") != FAILED:
        return "", ""
    return str(told.get("reason") or ""), str(told.get("message") or "")


# -- addresses ------------------------------------------------------------------------------------------------


def _addresses(status: dict[str, Any], situation: Situation, before: Mapping[str, Any], node_ip: str) -> None:
    """Where the pod is. An address that was had once stays until there is another."""
    host = node_ip or str(before.get("hostIP") or "")
    if host:
        status["hostIP"] = host
        status["hostIPs"] = [{"ip": host}]
    sandbox = situation.seen.sandbox()
    ip = ""
    if sandbox is not None and sandbox.running:
        ip = host if situation.pod.spec.host_network else sandbox.ip
    ip = ip or str(before.get("podIP") or "")
    if ip:
        status["podIP"] = ip
        status["podIPs"] = [{"ip": ip}]


# -- conditions -----------------------------------------------------------------------------------------------


def _conditions(situation: Situation, status: Mapping[str, Any], unsupported: Sequence[Unsupported]) -> list[Condition]:
    phase = status["phase"]
    sandbox = situation.seen.sandbox()
    up = sandbox is not None and sandbox.running and (situation.pod.spec.host_network or bool(sandbox.ip))
    ready = _containers_ready(situation, status)
    found = [
        _condition("PodReadyToStartContainers", up),
        _initialized(situation, phase),
        _ready(situation, ready),
        {**ready, "type": "ContainersReady"},
        _condition("PodScheduled", True),
    ]
    stopping = why_stopping(situation)
    if stopping is not None and stopping.why is Stopped.EVICTED:
        found.append(_condition("DisruptionTarget", True, "TerminationByKubelet", stopping.message))
    if unsupported:
        text = cut("; ".join(str(item) for item in unsupported), TEXT_LIMIT)
        found.append(_condition(SUPPORTED, False, "UnsupportedFields", text))
    return found


def _condition(kind: str, on: bool, reason: str = "", message: str = "") -> Condition:
    condition = {"type": kind, "status": "True" if on else "False"}
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    return condition


def _initialized(situation: Situation, phase: str) -> Condition:
    if phase == SUCCEEDED:
        return _condition("Initialized", True, "PodCompleted")
    inits, apps = views(situation.pod, situation.seen)
    waits = [
        view.name
        for index, view in enumerate(inits)
        if not is_complete(view, situation)
        and (view.spec.is_sidecar or not is_passed(inits, apps, index, situation))
        and not (situation.finished and _has_run(view))
    ]
    if not waits:
        return _condition("Initialized", True)
    message = f"containers with incomplete status: [{' '.join(waits)}]"
    return _condition("Initialized", False, "ContainersNotInitialized", message)


def _containers_ready(situation: Situation, status: Mapping[str, Any]) -> Condition:
    """ContainersReady, which is also what Ready builds on."""
    if status["phase"] == SUCCEEDED:
        return _condition("", False, "PodCompleted")
    if status["phase"] == FAILED:
        return _condition("", False, "PodFailed")
    sidecars = {container.name for container in situation.pod.spec.init_containers if container.is_sidecar}
    items = [item for item in _listed(status, "initContainerStatuses") if item["name"] in sidecars]
    unready = [item["name"] for item in (*items, *_listed(status, "containerStatuses")) if not item["ready"]]
    if not unready:
        return _condition("", True)
    message = f"containers with unready status: [{' '.join(unready)}]"
    return _condition("", False, "ContainersNotReady", message)


def _ready(situation: Situation, containers: Condition) -> Condition:
    """Ready: the containers are, and so say all readiness gates, which others write."""
    if containers["status"] != "True":
        return {**containers, "type": "Ready"}
    told = {item.get("type"): item.get("status") for item in _listed(situation.pod.status, "conditions")}
    wrong = []
    for gate in situation.pod.spec.readiness_gates:
        name = gate.condition_type
        if name not in told:
            wrong.append(f'corresponding condition of pod readiness gate "{name}" does not exist.')
        elif told[name] != "True":
            wrong.append(f'the status of pod readiness gate "{name}" is not "True", but {told[name]}')
    if wrong:
        return _condition("Ready", False, "ReadinessGatesNotReady", ", ".join(wrong))
    return _condition("Ready", True)


def _dated(conditions: list[Condition], before: Mapping[str, Any], now: str) -> list[Condition]:
    """With transition times, which move only with the status."""
    known = {item.get("type"): item for item in _listed(before, "conditions")}
    dated = []
    for condition in conditions:
        old = known.get(condition["type"])
        same = old is not None and old.get("status") == condition["status"]
        since = old.get("lastTransitionTime") if old is not None and same else None
        dated.append({**condition, "lastTransitionTime": since or now})
    return dated


# -- patch ----------------------------------------------------------------------------------------------------


def patch(old: Mapping[str, Any] | None, new: Mapping[str, Any], *, uid: str = "") -> dict[str, Any]:
    """The content of a `podpatch`: a strategic merge patch that makes the status what `new` says, whatever the API
    has of ours. `old`: the status that the API has as far as it is known, None when it is not. The UID makes the API
    refuse it for a later pod of the name."""
    known = old if old is not None else {}
    status = dict(new)
    for key in OPTIONAL:
        if key not in new and (old is None or key in known):
            status[key] = None
    for key in ("podIPs", "hostIPs"):
        if new.get(key):
            status[key] = [{"$patch": "replace"}, *new[key]]
    conditions = [{"reason": None, "message": None, **condition} for condition in new.get("conditions", ())]
    present = {condition["type"] for condition in conditions}
    for kind in OWNED:
        had = old is None or any(item.get("type") == kind for item in _listed(known, "conditions"))
        if kind not in present and had:
            conditions.append({"type": kind, "$patch": "delete"})
    status["conditions"] = conditions
    return {"metadata": {"uid": uid} if uid else {}, "status": status}
