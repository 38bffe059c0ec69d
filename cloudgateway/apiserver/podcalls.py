"""What is asked of a kubelet for a subresource of a pod. Pure: from the pod and the query (core/v1 Pod*Options)."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from cloudgateway.cloudstream.kubelet import KubeletCall
from edgeappliance.kubeapi.errors import Cause, StatusFailure, bad_request, invalid
from edgeappliance.kubeapi.request import flag
from edgeappliance.wire.tunnel import FrameType

Pod = Mapping[str, Any]

STREAMS = ("attach", "exec", "portforward")
"""Subresources of pods that need an upgraded connection."""

_SECTIONS = ("containers", "initContainers", "ephemeralContainers")
_KUBELET_NAMES = (("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty"))
_FLAGS = ("follow", "previous", "timestamps")
_MAX_COMMAND = 32 * 1024


def log_call(pod: Pod, query: Mapping[str, str]) -> KubeletCall | None:
    """GET of the log; None for a pod that has no node yet, whose log is empty. Raises StatusFailure."""
    asked = _log_options(pod, query)
    container = container_name(pod, query.get("container", ""))
    if not _node(pod):
        return None
    return KubeletCall(
        kind=FrameType.LOGS_CONNECT, path=f"/containerLogs/{_where(pod)}/{container}", query=urlencode(asked)
    )


def stream_call(
    pod: Pod, subresource: str, query: Mapping[str, Sequence[str]], *, protocols: Sequence[str]
) -> KubeletCall:
    """The upgrade for exec, attach or portforward; `protocols` are offered to the kubelet. Raises StatusFailure."""
    if not _node(pod):
        raise bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")
    headers = {"X-Stream-Protocol-Version": list(protocols), "Upgrade": ["SPDY/3.1"], "Connection": ["Upgrade"]}
    if subresource == "portforward":
        return KubeletCall(
            kind=FrameType.PORTFORWARD_CONNECT, path=f"/portForward/{_where(pod)}", method="POST", headers=headers
        )
    single = {key: values[-1] for key, values in query.items() if values}
    container = container_name(pod, single.get("container", ""))
    asked = [(kubelet, "1") for name, kubelet in _KUBELET_NAMES if flag(single, name)]
    if ("tty", "1") in asked:  # a terminal has one output
        asked = [item for item in asked if item[0] != "error"]
    kind = FrameType.ATTACH_CONNECT
    if subresource == "exec":
        kind = FrameType.EXEC_CONNECT
        command = list(query.get("command", ()))
        if not command:
            raise bad_request("you must specify at least one command for the container")
        if sum(map(len, command)) > _MAX_COMMAND:
            raise bad_request(f"command: longer than {_MAX_COMMAND} characters")
        asked += [("command", word) for word in command]
    return KubeletCall(
        kind=kind,
        path=f"/{subresource}/{_where(pod)}/{container}",
        query=urlencode(asked),
        method="POST",
        headers=headers,
    )


def container_name(pod: Pod, given: str) -> str:
    """The container that is meant, in upstream's words where that is not clear. Raises StatusFailure."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    names = {section: [str(item.get("name")) for item in spec.get(section) or ()] for section in _SECTIONS}
    if given:
        if not any(given in known for known in names.values()):
            raise bad_request(f"container {given} is not valid for pod {name}")
        return given
    containers = names["containers"]
    if len(containers) == 1:
        return containers[0]
    text = f"a container name must be specified for pod {name}, choose one of: [{' '.join(containers)}]"
    if names["initContainers"]:
        text += f" or one of the init containers: [{' '.join(names['initContainers'])}]"
    raise bad_request(text)


def _node(pod: Pod) -> str:
    return str(pod["spec"].get("nodeName") or "")


def _where(pod: Pod) -> str:
    metadata = pod["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}"


def _log_options(pod: Pod, query: Mapping[str, str]) -> dict[str, str]:
    """The options that a kubelet takes under the same names. StatusFailure 422 for what they cannot be."""
    causes: list[Cause] = []
    asked = {name: "true" for name in _FLAGS if flag(query, name)}
    for name, least, words in (
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ):
        text = query.get(name)
        if text in (None, ""):
            continue
        number = _integer(str(text), name)
        if number < least:
            causes.append(Cause("FieldValueInvalid", f"Invalid value: {number}: {words}", name))
        asked[name] = str(number)
    if query.get("sinceTime"):
        asked["sinceTime"] = query["sinceTime"]
        if "sinceSeconds" in asked:
            text = "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"
            causes.append(Cause("FieldValueForbidden", text, "sinceTime"))
    if query.get("stream", "All") != "All":
        causes.append(
            Cause(
                "FieldValueNotSupported", f'Unsupported value: "{query["stream"]}": supported values: "All"', "stream"
            )
        )
    if causes:
        raise invalid("", "PodLogOptions", pod["metadata"]["name"], causes)
    return asked


def _integer(text: str, name: str) -> int:
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise bad_request(f"{name}: {text[:40]!r} is not a number")
    return int(text)


def kubelet_failure(status: int, text: str) -> StatusFailure:
    """What a kubelet's refusal is to a client of the API."""
    text = text.strip() or f"the kubelet answered with status {status}"
    reason = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 503: "ServiceUnavailable"}
    if status not in reason:
        return StatusFailure(500, "InternalError", text)
    return StatusFailure(status, reason[status], text)
