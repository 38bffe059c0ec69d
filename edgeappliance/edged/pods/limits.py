"""Fields of a pod that this node does not act upon.

Whatever is neither in the structures of `spec.py` nor known to mean nothing on a node is named, so that nothing is
ignored in silence, also what a later Kubernetes brings.
"""

import functools
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from edgeappliance.edged.pods.spec import PodSpec

LIMIT = 20
"""Fields named of one pod, so that the text stays readable."""

_INDEX = re.compile(r"\[\d+\]")
_CONTAINER = r"spec\.(containers|initContainers)\[\]"

_MEANINGLESS = re.compile(
    r"spec\.(serviceAccount|automountServiceAccountToken|enableServiceLinks|schedulerName|schedulingGates"
    r"|schedulingGroup|preemptionPolicy|topologySpreadConstraints|overhead|evictionResponders"
    r"|affinity\.podAffinity|affinity\.podAntiAffinity"
    r"|affinity\.nodeAffinity\.preferredDuringSchedulingIgnoredDuringExecution"
    r"|securityContext\.(seLinuxChangePolicy|windowsOptions))"
    rf"|{_CONTAINER}\.(resizePolicy|securityContext\.windowsOptions)"
)
"""For the API server, the scheduler or another operating system."""

_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "spec.hostUsers": (True,),
    "spec.securityContext.supplementalGroupsPolicy": ("Merge",),
    "recursiveReadOnly": ("Disabled", "IfPossible"),
}
"""Values by path, or by the last part of it, that ask for nothing."""

_FATAL: dict[str, str] = {
    "spec.hostUsers": "the containers would share the node's users",
    "spec.runtimeClassName": "there is one runtime on this node",
    "spec.resourceClaims": "devices are not allocated on this node; use a hostPath volume of the device",
    "spec.securityContext.supplementalGroupsPolicy": "the groups of the image would be given to the processes too",
    "claims": "devices are not allocated on this node; use a hostPath volume of the device",
    "volumeDevices": "there are no block volumes on this node",
    "fileKeyRef": "the variable would be missing",
    "recursiveReadOnly": "mounts below the volume would be writable",
    "clusterTrustBundle": "the file would be missing",
    "podCertificate": "the file would be missing",
}
"""By path, or by the last part of it: why the pod must not run without the field."""

_WHY: dict[str, str] = {
    "spec.ephemeralContainers": "debug containers are not started on this node; use kubectl exec",
    "spec.resources": "limits of a whole pod are not set on this node; give them to its containers",
}


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A field that this node does not act upon. fatal: running the pod without it would be wrong or unsafe."""

    path: str
    why: str
    fatal: bool

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


def unsupported(obj: dict[str, Any]) -> tuple[Unsupported, ...]:
    """What of the pod's specification this node does not act upon, fatal ones first, at most `LIMIT` of them."""
    spec = obj.get("spec")
    found = [] if not isinstance(spec, dict) else [*_walk(spec, PodSpec, "spec"), *_values(spec)]
    found.sort(key=lambda item: not item.fatal)
    return tuple(found[:LIMIT])


def _walk(value: Any, kind: Any, path: str) -> Iterator[Unsupported]:
    if isinstance(value, dict):
        fields = _fields(kind)
        for key, item in value.items():
            below = f"{path}.{key}"
            if item is None or item in ({}, [], ""):
                continue  # what Go reads as absent
            if fields is None:
                return  # a map, whose keys are free
            if key in fields:
                yield from _walk(item, fields[key], below)
            elif (judged := _judge(below, item)) is not None:
                yield judged
    elif isinstance(value, list):
        inner = _item(kind)
        for index, item in enumerate(value if inner is not None else ()):
            yield from _walk(item, inner, f"{path}[{index}]")


def _judge(path: str, value: Any) -> Unsupported | None:
    shape = _INDEX.sub("[]", path)
    last = shape.rpartition(".")[2]
    if _MEANINGLESS.fullmatch(shape):
        return None
    for name in (shape, last):
        if value in _DEFAULTS.get(name, ()):
            return None
    if re.fullmatch(r"spec\.volumes\[\]\.\w+", shape):
        return Unsupported(path, "this kind of volume does not exist on this node", True)
    for name in (shape, last):
        if name in _FATAL:
            return Unsupported(path, _FATAL[name], True)
    if ".securityContext." in shape:
        return Unsupported(path, "this node does not know this restriction", True)
    return Unsupported(path, _WHY.get(shape, "this node does not act upon it"), False)


def _values(spec: dict[str, Any]) -> Iterator[Unsupported]:
    """Known fields with values that cannot be had here."""
    system = spec.get("os")
    if isinstance(system, dict) and system.get("name") not in (None, "", "linux"):
        yield Unsupported("spec.os.name", "this node runs Linux", True)
    for key in ("initContainers", "containers"):
        yield from _foreign_resources(spec.get(key), f"spec.{key}")
    volumes = spec.get("volumes")
    for index, volume in enumerate(volumes if isinstance(volumes, list) else ()):
        empty = volume.get("emptyDir") if isinstance(volume, dict) else None
        medium = empty.get("medium") if isinstance(empty, dict) else None
        if medium not in (None, "", "Memory"):
            yield Unsupported(f"spec.volumes[{index}].emptyDir.medium", f"there is no {medium} on this node", True)


def _foreign_resources(containers: Any, path: str) -> Iterator[Unsupported]:
    """Resources of a vendor (`example.org/gpu`): a scheduler looks for a node that has them, and this one has none."""
    for index, container in enumerate(containers if isinstance(containers, list) else ()):
        resources = container.get("resources") if isinstance(container, dict) else None
        for side in ("limits", "requests"):
            amounts = resources.get(side) if isinstance(resources, dict) else None
            for name, amount in amounts.items() if isinstance(amounts, dict) else ():
                if "/" in name and amount not in (None, 0, "0"):
                    yield Unsupported(
                        f"{path}[{index}].resources.{side}[{name}]", "this node has no such resource", False
                    )


def _members(kind: Any) -> tuple[Any, ...]:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return typing.get_args(kind)
    return (kind,)


def _item(kind: Any) -> Any | None:
    """The type of a list's items, when they are structures."""
    for member in _members(kind):
        if typing.get_origin(member) is list:
            return typing.get_args(member)[0]
    return None


def _fields(kind: Any) -> dict[str, Any] | None:
    for member in _members(kind):
        if isinstance(member, type) and issubclass(member, msgspec.Struct):
            return _struct_fields(member)
    return None


@functools.lru_cache(maxsize=128)
def _struct_fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    hints = typing.get_type_hints(struct)
    names = zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
    return {encoded: hints[name] for name, encoded in names}
