"""Why a pod is not well: the one line for each container that `kubectl describe` needs a page for."""

from collections.abc import Mapping
from typing import Any

Object = Mapping[str, Any]

ON_THE_WAY = ("ContainerCreating", "PodInitializing")
"""Reasons for which a container waits while all goes well, unless a message says otherwise."""
NEVER_RAN = ("ContainerCannotRun", "StartError")
"""Reasons of an end without a line in the log."""
FIELDS = "edgeappliance.io/SupportedFields"


def troubles(pod: Object) -> list[tuple[str, str]]:
    """(container or "", why) of what keeps a pod from running, [] when nothing does."""
    status = pod.get("status") or {}
    found: list[tuple[str, str]] = []
    for condition in status.get("conditions") or ():
        if condition.get("type") == FIELDS and condition.get("status") == "False":
            found.append(("", _words(condition)))
    if status.get("reason") or status.get("message"):
        found.append(("", _words(status)))
    said = {text.partition(": ")[2] for _, text in found}
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        text = _container(one, pod["metadata"])
        if text and text.partition(": ")[2] not in said:
            found.append((str(one.get("name")), text))
    return found


def _container(one: Object, metadata: Object) -> str:
    state = one.get("state") or {}
    waiting, ended = state.get("waiting"), state.get("terminated")
    before = (one.get("lastState") or {}).get("terminated")
    if waiting is not None and (waiting.get("message") or waiting.get("reason") not in ON_THE_WAY):
        if before is None:
            return _words(waiting)
        wait = str(waiting.get("message") or "").partition(" restarting ")[0]  # the rest names what the line names
        text = ": ".join(part for part in (str(waiting.get("reason") or ""), wait) if part)
        return f"{text}; it ended with {_end(before, one, metadata, '-p ')}"
    if ended is not None and ended.get("exitCode"):
        return f"ended with {_end(ended, one, metadata)}"
    return ""


def _end(terminated: Object, one: Object, metadata: Object, which: str = "") -> str:
    text = f"exit code {terminated.get('exitCode')}"
    words = _words(terminated)
    if words not in ("", "Error"):
        text += f" ({words})"
    if terminated.get("reason") in NEVER_RAN:
        return text
    where = f"-n {metadata.get('namespace')} " if metadata.get("namespace") not in (None, "default") else ""
    return f"{text}; see: edgecore logs {where}{which}{metadata.get('name')} -c {one.get('name')}"


def _words(value: Object) -> str:
    reason, message = str(value.get("reason") or ""), str(value.get("message") or "").strip()
    return ": ".join(part for part in (reason, message) if part)
