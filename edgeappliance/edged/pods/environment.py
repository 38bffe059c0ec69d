"""What a container's processes find in their environment, and the pod's own fields as texts.

Sources: Kubernetes API reference (EnvVar, EnvFromSource, ObjectFieldSelector, ResourceFieldSelector), "Dependent
environment variables", "Expose Pod Information to Containers".
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING
from typing import Any

from edgeappliance.edged.pods.resources import amount_of, limit_of, request_of
from edgeappliance.edged.pods.spec import Container, EnvSource, KeyRef, Pod, ResourceFieldRef
from edgeappliance.kernel.errors import TransientError

Objects = Mapping[tuple[str, str], Mapping[str, Any] | None]
"""(namespace, name) -> the object, None or missing where there is none."""

CONFIG_MAP, SECRET = "configmap", "secret"

_KEYED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
_NAME = re.compile(r"[ -<>-~]+")
"""Printable ASCII but the equals sign: what Kubernetes takes as the name of a variable."""


class ConfigMissing(TransientError):
    """A config map, a secret or a key that a container needs is not there; the message is a kubelet's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a pod may ask about its node. cpu in millicores, memory and storage in bytes: what is allocatable."""

    node_name: str = ""
    host_ip: str = ""
    pod_ip: str = ""
    cpu: int = 0
    memory: int = 0
    storage: int = 0


@dataclass(frozen=True, slots=True)
class Reference:
    """A config map or secret that a pod names. kind is `configmap` or `secret`."""

    kind: str
    namespace: str
    name: str
    optional: bool = False


def environment(pod: Pod, container: Container, *, config_maps: Objects, secrets: Objects, facts: Facts) -> list[str]:
    """`NAME=value` for every variable: envFrom first, then env, which may refer to what stands before it.

    Raises ConfigMissing, and InputError for a field that there is not.
    """
    namespace = pod.metadata.namespace
    values: dict[str, str] = {}
    for source in container.env_from:
        if source.config_map_ref is not None:
            texts = _config_data(config_maps, namespace, source.config_map_ref.name, source.config_map_ref.optional)
        elif source.secret_ref is not None:
            texts = _secret_data(secrets, namespace, source.secret_ref.name, source.secret_ref.optional)
        else:
            continue
        values.update({source.prefix + key: value for key, value in texts.items() if _NAME.fullmatch(key)})
    for variable in container.env:
        if variable.value_from is None:
            value: str | None = expand(variable.value, values)
        else:
            value = _sourced(pod, container, variable.value_from, config_maps, secrets, facts)
        if value is not None:
            values[variable.name] = value
    return [f"{name}={value}" for name, value in values.items()]


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` replaced by its value, left alone when there is none; `$$` is a dollar sign."""

    def replaced(match: re.Match[str]) -> str:
        name = match[1]
        return "$" if name is None else values.get(name, match[0])

    return _REFERENCE.sub(replaced, text) if "$" in text else text


def as_mapping(variables: list[str]) -> dict[str, str]:
    """`NAME=value` texts as a mapping, for `expand`."""
    return dict(variable.split("=", 1) for variable in variables)


def _sourced(
    pod: Pod, container: Container, source: EnvSource, config_maps: Objects, secrets: Objects, facts: Facts
) -> str | None:
    """None for an optional key that is not there: the variable is then not set."""
    namespace = pod.metadata.namespace
    if source.field_ref is not None:
        return field_value(pod, source.field_ref.field_path, facts)
    if source.resource_field_ref is not None:
        return resource_value(pod, container, source.resource_field_ref, facts)
    if (ref := source.config_map_key_ref) is not None:
        data = _config_data(config_maps, namespace, ref.name, ref.optional)
        return _key(data, ref, f"ConfigMap {namespace}/{ref.name}")
    if (ref := source.secret_key_ref) is not None:
        data = _secret_data(secrets, namespace, ref.name, ref.optional)
        return _key(data, ref, f"Secret {namespace}/{ref.name}")
    return ""


def _key(data: Mapping[str, str], ref: KeyRef, where: str) -> str | None:
    value = data.get(ref.key)
    if value is None and not ref.optional:
        raise ConfigMissing(f"couldn't find key {ref.key} in {where}")
    return value


def _config_data(objects: Objects, namespace: str, name: str, optional: bool) -> dict[str, str]:
    found = objects.get((namespace, name))
    if found is None:
        if optional:
            return {}
        raise ConfigMissing(f'configmap "{name}" not found')
    data = found.get("data") or {}
    return {key: value for key, value in data.items() if isinstance(value, str)}


def _secret_data(objects: Objects, namespace: str, name: str, optional: bool) -> dict[str, str]:
    found = objects.get((namespace, name))
    if found is None:
        if optional:
            return {}
        raise ConfigMissing(f'secret "{name}" not found')
    texts = {}
    for key, value in (found.get("data") or {}).items():
        try:
            texts[key] = base64.b64decode(value, validate=True).decode("utf-8", "replace")
        except (binascii.Error, ValueError, TypeError):
            raise ConfigMissing(f'secret "{name}" cannot be read: data[{key}] is not base64') from None
    return texts


def field_value(pod: Pod, path: str, facts: Facts) -> str:
    """What a fieldPath says of the pod. Raises ConfigMissing for a path that there is not.

    `metadata.labels` and `metadata.annotations` as a whole are for volumes: one `key="value"` a line.
    """
    metadata, spec = pod.metadata, pod.spec
    keyed = _KEYED.fullmatch(path)
    if keyed is not None:
        return (metadata.labels if keyed[1] == "labels" else metadata.annotations).get(keyed[2], "")
    pod_ip = facts.host_ip if spec.host_network else facts.pod_ip
    match path:
        case "metadata.name":
            return metadata.name
        case "metadata.namespace":
            return metadata.namespace
        case "metadata.uid":
            return metadata.uid
        case "metadata.labels":
            return _lines(metadata.labels)
        case "metadata.annotations":
            return _lines(metadata.annotations)
        case "spec.nodeName":
            return spec.node_name or facts.node_name
        case "spec.serviceAccountName":
            return spec.service_account_name
        case "status.hostIP" | "status.hostIPs":
            return facts.host_ip
        case "status.podIP" | "status.podIPs":
            return pod_ip
    raise ConfigMissing(f"unsupported fieldPath: {path}")


def _lines(texts: Mapping[str, str]) -> str:
    return "\n".join(f"{key}={_quoted(value)}" for key, value in sorted(texts.items()))


_ESCAPES = {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}
_ESCAPES |= {"\\": r"\\", '"': r"\""}


def _quoted(text: str) -> str:
    """The text as Go's strconv.Quote writes it."""
    return f'"{"".join(_escaped(character) for character in text)}"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def resource_value(pod: Pod, container: Container, ref: ResourceFieldRef, facts: Facts) -> str:
    """What a resourceFieldRef says, in units of its divisor, rounded up; `containerName` may name another container.

    A limit that is not set is what the node has to give. Raises ConfigMissing for a resource that there is not.
    """
    if ref.container_name:
        named = next((item for item in pod.containers() if item.name == ref.container_name), None)
        if named is None:
            raise ConfigMissing(f"container {ref.container_name} not found")
        container = named
    side, _, resource = ref.resource.partition(".")
    if side not in ("limits", "requests") or not resource:
        raise ConfigMissing(f"unsupported container resource: {ref.resource}")
    value = (limit_of if side == "limits" else request_of)(container, resource)
    if value is None and side == "limits":
        value = {"cpu": amount_of(f"{facts.cpu}m"), "memory": amount_of(facts.memory)}.get(
            resource, amount_of(facts.storage) if resource == "ephemeral-storage" else None
        )
    if value is None:
        return "0"
    divisor = amount_of(ref.divisor) or amount_of(1)
    return str(int((value / divisor).to_integral_value(rounding=ROUND_CEILING)))


def references(pod: Pod) -> set[Reference]:
    """Every config map and secret that the pod names: variables, volumes, pull secrets (which may be missing)."""
    namespace = pod.metadata.namespace
    found: set[tuple[str, str, bool]] = set()
    for container in pod.containers():
        for source in container.env_from:
            if source.config_map_ref is not None:
                found.add((CONFIG_MAP, source.config_map_ref.name, source.config_map_ref.optional))
            if source.secret_ref is not None:
                found.add((SECRET, source.secret_ref.name, source.secret_ref.optional))
        for variable in container.env:
            origin = variable.value_from
            if origin is not None and origin.config_map_key_ref is not None:
                found.add((CONFIG_MAP, origin.config_map_key_ref.name, origin.config_map_key_ref.optional))
            if origin is not None and origin.secret_key_ref is not None:
                found.add((SECRET, origin.secret_key_ref.name, origin.secret_key_ref.optional))
    for volume in pod.spec.volumes:
        if volume.config_map is not None:
            found.add((CONFIG_MAP, volume.config_map.name, volume.config_map.optional))
        if volume.secret is not None:
            found.add((SECRET, volume.secret.secret_name, volume.secret.optional))
        for part in volume.projected.sources if volume.projected is not None else ():
            if part.config_map is not None:
                found.add((CONFIG_MAP, part.config_map.name, part.config_map.optional))
            if part.secret is not None:
                found.add((SECRET, part.secret.name, part.secret.optional))
    found.update((SECRET, secret.name, True) for secret in pod.spec.image_pull_secrets)
    needed = {(kind, name) for kind, name, optional in found if name and not optional}
    named = {(kind, name) for kind, name, _ in found if name}
    return {Reference(kind, namespace, name, (kind, name) not in needed) for kind, name in named}
