"""The status of one container, as the API shows it (core/v1 ContainerStatus)."""

from collections.abc import Mapping
from typing import Any

from edgeappliance.edged.pods.containers import (
    View,
    crash_loop,
    exit_code,
    has_ended,
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
    newest = view.newest
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
    status["restartCount"] = newest.attempt
    _identify(status, newest, view)
    ended = view.ended
    if newest.running and (view.name not in situation.busy or over):
        status["state"] = {"running": {"startedAt": rfc3339(newest.started_ms)}}
        status["started"] = has_started(view, newest, situation)
        status["ready"] = is_ready(view, newest, situation)
        if ended:
            status["lastState"] = {"terminated": terminated(situation, view, ended[0])}
        return status
    waiting = None if over else _waiting(situation, view)
    if has_ended(newest) and waiting is None:
        status["state"] = {"terminated": terminated(situation, view, newest)}
        status["ready"] = view.kind is Kind.INIT and not view.spec.is_sidecar and exit_code(newest) == 0
        if len(ended) > 1:
            status["lastState"] = {"terminated": terminated(situation, view, ended[1])}
        return status
    status["state"] = {"waiting": waiting or _first_wait(situation)}
    if ended:
        status["lastState"] = {"terminated": terminated(situation, view, ended[0])}
    return status


def _identify(status: dict[str, Any], container: ObservedContainer, view: View) -> None:
    if container.phase is Phase.CREATED and not container.error:
        return  # not started yet: it may be replaced still
    status["image"] = container.image or view.spec.image
    status["imageID"] = f"docker://{container.image_id}" if container.image_id else ""
    status["containerID"] = f"docker://{container.id}"


def _unseen(
    situation: Situation, view: View, previous: Mapping[str, Any] | None, status: dict[str, Any], *, over: bool
) -> dict[str, Any]:
    """Nothing of the container is on the engine: it was not started yet, or it was removed since."""
    if over and previous is not None:
        state = previous.get("state") or {}
        if "terminated" in state:
            return dict(previous)
        if "running" in state:
            reason, message, code = LOST
            lost = {"exitCode": code, "reason": reason, "message": message}
            return {**previous, "state": {"terminated": lost}, "ready": False, "started": False}
    waiting = None if over else _waiting(situation, view)
    status["state"] = {"waiting": waiting or _first_wait(situation)}
    return status


def _first_wait(situation: Situation) -> dict[str, Any]:
    """Why a container that was not started yet waits."""
    if situation.blocked is not None:
        reason, message = situation.blocked
        return {"reason": reason, "message": message}
    return {"reason": "PodInitializing" if situation.pod.spec.init_containers else "ContainerCreating"}


def _waiting(situation: Situation, view: View) -> dict[str, Any] | None:
    """What keeps a container that is to be started from it: a failure, a wait after crashes, its start under way."""
    newest = view.newest
    if newest is not None and newest.running:
        return {"reason": "ContainerCreating"}
    if newest is not None and has_ended(newest) and not starts_again(situation.pod, view, newest):
        return None
    failure = situation.failures.get(view.name)
    if failure is not None:
        return {"reason": failure.reason, "message": failure.message}
    if newest is None or not has_ended(newest):
        return None
    if view.name in situation.busy:
        return None
    wait = restart_wait(situation, view)
    if wait.until <= situation.now:
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
