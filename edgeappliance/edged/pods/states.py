"""The status of one container, as the API shows it (core/v1 ContainerStatus)."""

from collections.abc import Mapping
from typing import Any

from edgeappliance.edged.pods.containers import (
    View,
    crash_loop,
    exit_code,
    has_started,
    is_ready,
    restart_wait,
    starts_again,
)
from edgeappliance.edged.pods.observed import Kind, ObservedContainer, Phase
from edgeappliance.edged.pods.plan import Situation
from edgeappliance.kubeapi.times import rfc3339

MESSAGE_LIMIT = 4096
MESSAGES_LIMIT = 12 * 1024
"""Bytes of the termination message of one container, and of all of a pod (Kubernetes: Determine the Reason for Pod
Failure)."""

CANNOT_RUN = (126, 127)
"""Exit codes that the engine gives for a program that is not there or may not run."""

LOST = ("ContainerStatusUnknown", "The container could not be located when the pod was terminated", 137)


def container_status(
    situation: Situation, view: View, previous: Mapping[str, Any] | None, *, over: bool
) -> dict[str, Any]:
    """What a container does and did. `previous`: its status as last reported. `over`: the pod starts nothing more."""
    newest, ended = view.newest, view.ended
    status: dict[str, Any] = {
        "name": view.name,
        "image": view.spec.image,
        "imageID": "",
        "state": {},
        "lastState": {},
        "ready": False,
        "started": False,
        "restartCount": 0,
    }
    if newest is None:
        return _unseen(situation, view, previous, status, over=over)
    if newest.running and (view.name not in situation.busy or over):
        _identify(status, newest)
        status["state"] = {"running": {"startedAt": rfc3339(newest.started_ms)}}
        status["started"] = has_started(view, newest, situation)
        status["ready"] = is_ready(view, newest, situation)
        _show_last(status, situation, view, ended)
        return status
    if not ended:  # its first attempt is being made
        status["state"] = {"waiting": _failure(situation, view) or _first_wait(situation)}
        return status
    # What is being started counts once that is done: until then the one before it is shown.
    _identify(status, ended[0])
    waiting = None if over else _waiting(situation, view, ended[0])
    if waiting is not None:
        status["state"] = {"waiting": waiting}
        _show_last(status, situation, view, ended)
        return status
    status["state"] = {"terminated": terminated(situation, view, ended[0])}
    status["ready"] = view.kind is Kind.INIT and not view.spec.is_sidecar and exit_code(ended[0]) == 0
    _show_last(status, situation, view, ended[1:])
    if not status["lastState"] and previous is not None and previous.get("restartCount") == newest.attempt:
        status["lastState"] = previous.get("lastState") or {}  # the attempt before it has been removed
    return status


def _show_last(status: dict[str, Any], situation: Situation, view: View, ended: list[ObservedContainer]) -> None:
    if ended:
        status["lastState"] = {"terminated": terminated(situation, view, ended[0])}


def _identify(status: dict[str, Any], container: ObservedContainer) -> None:
    status["restartCount"] = container.attempt
    status["image"] = container.image or status["image"]
    status["imageID"] = f"docker://{container.image_id}" if container.image_id else ""
    status["containerID"] = f"docker://{container.id}"


def _unseen(
    situation: Situation, view: View, previous: Mapping[str, Any] | None, status: dict[str, Any], *, over: bool
) -> dict[str, Any]:
    """Nothing of the container is on the engine: it was not started yet, or it was removed since."""
    if over and previous is not None:
        if "running" not in (previous.get("state") or {}):
            return dict(previous)
        reason, message, code = LOST
        lost = {"exitCode": code, "reason": reason, "message": message}
        return {**previous, "state": {"terminated": lost}, "ready": False, "started": False}
    status["state"] = {"waiting": _failure(situation, view) or _first_wait(situation)}
    return status


def _first_wait(situation: Situation) -> dict[str, Any]:
    """Why a container that was not started yet waits."""
    if situation.blocked is not None:
        reason, message = situation.blocked
        return {"reason": reason, "message": message}
    return {"reason": "PodInitializing" if situation.pod.spec.init_containers else "ContainerCreating"}


def _failure(situation: Situation, view: View) -> dict[str, Any] | None:
    """Why it could not be started."""
    failure = situation.failures.get(view.name)
    return None if failure is None else {"reason": failure.reason, "message": failure.message}


def _waiting(situation: Situation, view: View, ended: ObservedContainer) -> dict[str, Any] | None:
    """What keeps a container that has ended from its next attempt: a failure, a wait after crashes."""
    if not starts_again(situation.pod, view, ended):
        return None
    failure = _failure(situation, view)
    if failure is not None:
        return failure
    wait = restart_wait(situation, view)
    if not wait.backoff or (wait.until <= situation.now and view.name not in situation.busy):
        return None
    reason, message = crash_loop(situation.pod, view, wait)
    return {"reason": reason, "message": message}


def terminated(situation: Situation, view: View, ended: ObservedContainer) -> dict[str, Any]:
    """How an attempt ended (core/v1 ContainerStateTerminated)."""
    code = exit_code(ended)
    begun = ended.started_ms or ended.created_ms
    state: dict[str, Any] = {
        "containerID": f"docker://{ended.id}",
        "exitCode": code,
        "reason": _end_reason(ended, code),
        "startedAt": rfc3339(begun),
        "finishedAt": rfc3339(ended.finished_ms or begun),
    }
    message = ended.error if ended.phase is Phase.CREATED else (ended.message or ended.error)
    if message:
        share = MESSAGES_LIMIT // max(1, len(situation.pod.containers()))
        state["message"] = cut(message, min(MESSAGE_LIMIT, share))
    return state


def _end_reason(ended: ObservedContainer, code: int) -> str:
    if ended.phase is Phase.CREATED:
        return "ContainerCannotRun" if code in CANNOT_RUN else "StartError"
    if ended.oom_killed:
        return "OOMKilled"
    return "Completed" if code == 0 else "Error"


def cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8."""
    if len(text) * 4 <= limit:
        return text
    return text.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")
