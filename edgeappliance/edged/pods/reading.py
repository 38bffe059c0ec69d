"""A pod from the API or a file to the value that the rest works with."""

import re
from typing import Any

import msgspec

from edgeappliance.edged.pods.limits import Unsupported, unsupported
from edgeappliance.edged.pods.resources import amount_of
from edgeappliance.edged.pods.spec import Container, Pod, Quantity
from edgeappliance.kernel.errors import InputError
from edgeappliance.kubeapi.names import label_error, subdomain_error

CONTAINER_LIMIT = 256
VOLUME_LIMIT = 1024
"""Of one pod. Kubernetes sets no limit; nobody comes near these."""

__all__ = ["Unsupported", "read_pod", "unsupported"]

FULL_NAME_LIMIT = 64
"""Of a hostname, Linux' own."""

_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_DEPTH = 64


def read_pod(obj: dict[str, Any]) -> Pod:
    """The pod; raises InputError that names the field. Nulls count as absent, unknown fields are left out.

    Names, namespace and UID are safe as parts of paths.
    """
    try:
        pod = msgspec.convert(_with_defaults(_without_nulls(obj)), Pod)
    except msgspec.ValidationError as error:
        raise _named(error) from None
    except RecursionError:
        raise InputError("nested too deeply", field="") from None
    _check_names(pod)
    _check_values(pod)
    return pod


def _with_defaults(value: Any) -> Any:
    """A volume of no kind is an emptyDir, which the API server fills in for pods that pass one."""
    spec = value.get("spec") if isinstance(value, dict) else None
    volumes = spec.get("volumes") if isinstance(spec, dict) else None
    for volume in volumes if isinstance(volumes, list) else ():
        if isinstance(volume, dict) and volume.keys() == {"name"}:
            volume["emptyDir"] = {}
    return value


def _without_nulls(value: Any, depth: int = 0) -> Any:
    """Go's reading: null leaves a field as it was."""
    if depth > _DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        return {key: _without_nulls(item, depth + 1) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item, depth + 1) for item in value if item is not None]
    return value


def _named(error: msgspec.ValidationError) -> InputError:
    """msgspec says "Expected `str`, got `int` - at `$.spec.hostname`"; "missing required field `name`" names it too."""
    text, _, path = str(error).partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    missing = re.fullmatch(r"Object missing required field `(.+)`", text)
    if missing is not None:
        return InputError("is required", field=".".join(part for part in (field, missing[1]) if part))
    return InputError(text[:1].lower() + text[1:], field=field)


def _check_names(pod: Pod) -> None:
    metadata = pod.metadata
    if error := subdomain_error(metadata.name):
        raise InputError(error, field="metadata.name")
    if error := label_error(metadata.namespace):
        raise InputError(error, field="metadata.namespace")
    if not _UID.fullmatch(metadata.uid):
        raise InputError("must be letters, digits and dashes, at most 128", field="metadata.uid")
    _check_limit("spec.containers", len(pod.spec.containers), CONTAINER_LIMIT)
    _check_limit("spec.initContainers", len(pod.spec.init_containers), CONTAINER_LIMIT)
    _check_limit("spec.volumes", len(pod.spec.volumes), VOLUME_LIMIT)
    if not pod.spec.containers:
        raise InputError("is required", field="spec.containers")
    for name, value in (("hostname", pod.spec.hostname), ("subdomain", pod.spec.subdomain)):
        if value and (error := label_error(value)):
            raise InputError(error, field=f"spec.{name}")
    override = pod.spec.hostname_override
    if override and (error := subdomain_error(override)):
        raise InputError(error, field="spec.hostnameOverride")
    _check_limit("spec.hostnameOverride", len(override), FULL_NAME_LIMIT, "characters")
    taken: set[str] = set()
    for field, container in _containers(pod):
        if error := label_error(container.name):
            raise InputError(error, field=f"{field}.name")
        if container.name in taken:
            raise InputError(f'duplicate value: "{container.name}"', field=f"{field}.name")
        taken.add(container.name)
    volumes: set[str] = set()
    for index, volume in enumerate(pod.spec.volumes):
        if error := label_error(volume.name):
            raise InputError(error, field=f"spec.volumes[{index}].name")
        if volume.name in volumes:
            raise InputError(f'duplicate value: "{volume.name}"', field=f"spec.volumes[{index}].name")
        volumes.add(volume.name)
    for field, container in _containers(pod):
        for index, mount in enumerate(container.volume_mounts):
            if mount.name not in volumes:
                raise InputError(f'not found: "{mount.name}"', field=f"{field}.volumeMounts[{index}].name")


def _check_limit(field: str, count: int, limit: int, unit: str = "items") -> None:
    if count > limit:
        raise InputError(f"must have at most {limit} {unit}", field=field)


def _containers(pod: Pod) -> list[tuple[str, Container]]:
    inits = [(f"spec.initContainers[{i}]", container) for i, container in enumerate(pod.spec.init_containers)]
    return inits + [(f"spec.containers[{i}]", container) for i, container in enumerate(pod.spec.containers)]


_POLICIES = ("Always", "OnFailure", "Never")


def _check_values(pod: Pod) -> None:
    if pod.spec.restart_policy not in _POLICIES:
        raise _unsupported_value("spec.restartPolicy", pod.spec.restart_policy, _POLICIES)
    if pod.spec.termination_grace_period_seconds < 0:
        raise InputError("must be greater than or equal to 0", field="spec.terminationGracePeriodSeconds")
    for field, container in _containers(pod):
        if container.restart_policy not in ("", *_POLICIES):
            raise _unsupported_value(f"{field}.restartPolicy", container.restart_policy, _POLICIES)
        for side, amounts in (("limits", container.resources.limits), ("requests", container.resources.requests)):
            for resource, quantity in amounts.items():
                _check_quantity(quantity, f"{field}.resources.{side}[{resource}]")
    for index, volume in enumerate(pod.spec.volumes):
        if volume.empty_dir is not None and volume.empty_dir.size_limit is not None:
            _check_quantity(volume.empty_dir.size_limit, f"spec.volumes[{index}].emptyDir.sizeLimit")


def _check_quantity(quantity: Quantity, field: str) -> None:
    if amount_of(quantity, field=field) < 0:
        raise InputError("must be greater than or equal to 0", field=field)


def _unsupported_value(field: str, value: str, supported: tuple[str, ...]) -> InputError:
    listed = ", ".join(f'"{word}"' for word in supported)
    return InputError(f'unsupported value: "{value}": supported values: {listed}', field=field)
