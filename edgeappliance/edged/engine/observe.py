"""What the Docker Engine says of a container or an image, as our values (Engine API: inspect)."""

import re
from collections.abc import Mapping
from typing import Any

from edgeappliance.edged.engine.api import ContainerEvent, Image
from edgeappliance.edged.pods import observed
from edgeappliance.edged.pods.observed import Kind, ObservedContainer, Phase
from edgeappliance.kubeapi.times import parse_time

_PHASES = {"created": Phase.CREATED, "running": Phase.RUNNING, "paused": Phase.RUNNING, "restarting": Phase.RUNNING}


def read_container(document: Mapping[str, Any]) -> ObservedContainer | None:
    """GET /containers/{id}/json; None when it lacks what makes it one of ours."""
    config, state = _part(document, "Config"), _part(document, "State")
    labels = {str(name): str(value) for name, value in _part(config, "Labels").items()}
    try:
        kind = Kind(labels.get(observed.KIND, ""))
    except ValueError:
        return None
    uid = labels.get(observed.POD_UID, "")
    if not uid:
        return None
    phase = _PHASES.get(str(state.get("Status", "")), Phase.EXITED)
    running = phase is Phase.RUNNING
    return ObservedContainer(
        id=str(document.get("Id", "")),
        name="" if kind is Kind.SANDBOX else labels.get(observed.CONTAINER_NAME, ""),
        kind=kind,
        pod_uid=uid,
        namespace=labels.get(observed.POD_NAMESPACE, ""),
        pod_name=labels.get(observed.POD_NAME, ""),
        attempt=_number(labels.get(observed.ATTEMPT)),
        phase=phase,
        created_ms=time_ms(document.get("Created")),
        started_ms=time_ms(state.get("StartedAt")),
        finished_ms=0 if running else time_ms(state.get("FinishedAt")),
        exit_code=_number(state.get("ExitCode")),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        pid=_number(state.get("Pid")) if running else 0,
        ip=address(document),
        image=str(config.get("Image", "")),
        image_id=str(document.get("Image", "")),
        spec_hash=labels.get(observed.SPEC_HASH, ""),
        sandbox=labels.get(observed.SANDBOX, ""),
        backoff=_seconds(labels.get(observed.BACKOFF)),
        grace=_number(labels.get(observed.GRACE), 30),
        labels=labels,
    )


def address(document: Mapping[str, Any]) -> str:
    """The first IPv4 address of a container on its networks, "" when it has none."""
    networks = _part(_part(document, "NetworkSettings"), "Networks")
    found = [str(network.get("IPAddress") or "") for network in networks.values() if isinstance(network, Mapping)]
    return next((ip for ip in found if ip), "")


def read_image(document: Mapping[str, Any]) -> Image:
    """GET /images/{name}/json or an entry of GET /images/json (which knows neither user nor volumes)."""
    created = document.get("Created")
    config = _part(document, "Config")
    names = [*(document.get("RepoTags") or ()), *(document.get("RepoDigests") or ())]
    return Image(
        id=str(document.get("Id", "")),
        names=tuple(str(name) for name in names if not str(name).startswith("<none>")),
        size=_number(document.get("Size")),
        created_ms=created * 1000 if isinstance(created, int) else time_ms(created),
        user=str(config.get("User") or ""),
        volumes=tuple(_part(config, "Volumes")),
    )


def read_event(document: Mapping[str, Any]) -> ContainerEvent | None:
    """One entry of GET /events; None when it is about something else than a container."""
    if document.get("Type") != "container":
        return None
    actor = _part(document, "Actor")
    return ContainerEvent(
        id=str(actor.get("ID", "")),
        action=str(document.get("Action", "")),
        pod_uid=str(_part(actor, "Attributes").get(observed.POD_UID, "")),
    )


def time_ms(text: object) -> int:
    """Unix ms of an RFC 3339 time; 0 for the engine's `0001-01-01T00:00:00Z` and for what is no time."""
    return max(0, parse_time(text) or 0)


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A member that is an object; an empty one when it is missing, null or something else."""
    part = document.get(name)
    return part if isinstance(part, Mapping) else {}


def _number(value: object, default: int = 0) -> int:
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?\d{1,12}", value) else default


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) else 0.0
