"""Rules of a pod's volumes and of what containers mount of them (core/v1 Volume, VolumeMount)."""

from typing import Any

from cloudgateway.apiserver.container_rules import SECTIONS, check_field_path, check_resource_field
from cloudgateway.apiserver.fields import Fields
from edgeappliance.kubeapi.names import label_error
from edgeappliance.kubeapi.quantity import amount

Object = dict[str, Any]

_HOST_PATH_TYPES = (
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
)
_PROPAGATIONS = ("Bidirectional", "HostToContainer", "None")
_TOKEN_LEAST = 600


def check_volumes(spec: Object, found: Fields) -> None:
    """All volumes of a pod, and its containers' mounts."""
    names: set[str] = set()
    for index, volume in enumerate(spec.get("volumes") or ()):
        path = f"spec.volumes[{index}]"
        name = volume.get("name") or ""
        if not name:
            found.required(f"{path}.name")
        elif error := label_error(name):
            found.invalid(f"{path}.name", name, error)
        elif name in names:
            found.duplicate(f"{path}.name", name)
        names.add(name)
        _source(volume, path, found)
    for section in SECTIONS:
        for index, container in enumerate(spec.get(section) or ()):
            _mounts(container, f"spec.{section}[{index}]", names, found)


def _source(volume: Object, path: str, found: Fields) -> None:
    kinds = [key for key in volume if key != "name" and volume[key] is not None]
    for extra in kinds[1:]:
        found.forbidden(f"{path}.{extra}", "may not specify more than 1 volume type")
    for kind in kinds[:1]:
        where, source = f"{path}.{kind}", volume[kind]
        match kind:
            case "emptyDir":
                limit = source.get("sizeLimit")
                if limit is not None and amount(str(limit)) < 0:
                    found.forbidden(f"{where}.sizeLimit", "SizeLimit field must be a valid resource quantity")
            case "hostPath":
                _host_path(source, where, found)
            case "configMap":
                _projected_files(source, where, found, name="name")
            case "secret":
                _projected_files(source, where, found, name="secretName")
            case "downwardAPI":
                _mode(source.get("defaultMode"), f"{where}.defaultMode", found)
                _downward(source, where, found, set())
            case "projected":
                _projected(source, where, found)
            case "persistentVolumeClaim":
                if not source.get("claimName"):
                    found.required(f"{where}.claimName")


def _host_path(source: Object, path: str, found: Fields) -> None:
    text = source.get("path") or ""
    if not text:
        found.required(f"{path}.path")
    elif ".." in text.split("/"):
        found.invalid(f"{path}.path", text, "must not contain '..'")
    found.one_of(f"{path}.type", source.get("type"), _HOST_PATH_TYPES)


def _projected_files(source: Object, path: str, found: Fields, *, name: str) -> None:
    """A config map or a secret as a volume."""
    if not source.get(name):
        found.required(f"{path}.{name}")
    _mode(source.get("defaultMode"), f"{path}.defaultMode", found)
    _items(source, path, found, set())


def _items(source: Object, path: str, found: Fields, taken: set[str]) -> None:
    for index, item in enumerate(source.get("items") or ()):
        where = f"{path}.items[{index}]"
        if not item.get("key"):
            found.required(f"{where}.key")
        _file(item, where, found, taken)


def _file(item: Object, path: str, found: Fields, taken: set[str]) -> None:
    """A path within a volume, and its mode."""
    text = item.get("path") or ""
    if not text:
        found.required(f"{path}.path")
    elif error := relative_path_error(text):
        found.invalid(f"{path}.path", text, error)
    elif text in taken:
        found.invalid(f"{path}.path", text, "conflicting duplicate paths")
    elif text.startswith(".."):
        found.invalid(f"{path}.path", text, "must not start with '..'")
    taken.add(text)
    _mode(item.get("mode"), f"{path}.mode", found)


def relative_path_error(text: str) -> str:
    """Why a text is no path that stays below its volume; empty when it is one."""
    if text.startswith("/"):
        return "must be a relative path"
    return "must not contain '..'" if ".." in text.split("/") else ""


def _mode(mode: int | None, path: str, found: Fields) -> None:
    if mode is not None and not 0 <= mode <= 0o777:
        found.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive")


def _downward(source: Object, path: str, found: Fields, taken: set[str]) -> None:
    for index, item in enumerate(source.get("items") or ()):
        where = f"{path}.items[{index}]"
        _file(item, where, found, taken)
        field, resource = item.get("fieldRef"), item.get("resourceFieldRef")
        if field is not None:
            check_field_path(field, f"{where}.fieldRef", found, keyed=True, environment=False)
            if resource is not None:
                found.invalid(where, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
        elif resource is not None:
            check_resource_field(resource, f"{where}.resourceFieldRef", found, container=True)
        else:
            found.required(f"{where}.fieldRef", "one of fieldRef and resourceFieldRef is required")


def _projected(source: Object, path: str, found: Fields) -> None:
    _mode(source.get("defaultMode"), f"{path}.defaultMode", found)
    taken: set[str] = set()
    for index, item in enumerate(source.get("sources") or ()):
        where = f"{path}.sources[{index}]"
        kinds = [key for key in item if item[key] is not None]
        if len(kinds) > 1:
            found.forbidden(where, "may not specify more than 1 volume type")
        for kind in kinds[:1]:
            inner, value = f"{where}.{kind}", item[kind]
            if kind in ("configMap", "secret"):
                if not value.get("name"):
                    found.required(f"{inner}.name")
                _items(value, inner, found, taken)
            elif kind == "downwardAPI":
                _downward(value, inner, found, taken)
            elif kind == "serviceAccountToken":
                _token(value, inner, found, taken)


def _token(value: Object, path: str, found: Fields, taken: set[str]) -> None:
    seconds = value.get("expirationSeconds")
    if seconds is not None and seconds < _TOKEN_LEAST:
        found.invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
    elif seconds is not None and seconds > 2**32:
        found.invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds")
    _file(value, path, found, taken)


def _mounts(container: Object, path: str, names: set[str], found: Fields) -> None:
    places: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        where = f"{path}.volumeMounts[{index}]"
        if not mount.get("name"):
            found.required(f"{where}.name")
        elif mount["name"] not in names:
            found.not_found(f"{where}.name", mount["name"])
        place = mount.get("mountPath") or ""
        if not place:
            found.required(f"{where}.mountPath")
        elif place in places:
            found.invalid(f"{where}.mountPath", place, "must be unique")
        places.add(place)
        for key in ("subPath", "subPathExpr"):
            if mount.get(key):
                found.checked(f"{where}.{key}", mount[key], relative_path_error(mount[key]))
        if mount.get("subPath") and mount.get("subPathExpr"):
            found.invalid(
                f"{where}.subPathExpr", mount["subPathExpr"], "subPathExpr and subPath are mutually exclusive"
            )
        propagation = mount.get("mountPropagation")
        found.one_of(f"{where}.mountPropagation", propagation, _PROPAGATIONS)
        privileged = (container.get("securityContext") or {}).get("privileged")
        if propagation == "Bidirectional" and not privileged:
            text = "Bidirectional mount propagation is available only to privileged containers"
            found.forbidden(f"{where}.mountPropagation", text)
