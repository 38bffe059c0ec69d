"""Rules of containers: names, images, ports, environment, resources, probes, hooks, security (core/v1 Container)."""

import re
from collections.abc import Iterator
from typing import Any

from cloudgateway.apiserver.fields import Fields
from edgeappliance.kubeapi.names import label_error, label_key_error
from edgeappliance.kubeapi.quantity import amount

Object = dict[str, Any]

SECTIONS = ("containers", "initContainers")
PROTOCOLS = ("SCTP", "TCP", "UDP")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_PORT_NAME = re.compile(r"[-a-z0-9]+")
_STANDARD_RESOURCES = ("cpu", "memory", "ephemeral-storage")
_ENV_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_FIELD_PATHS = frozenset(
    (
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    )
)
_KEYED_PATH = re.compile(r"metadata\.(annotations|labels)\['([^']*)'\]")
_RESOURCE_FIELDS = tuple(f"{side}.{name}" for side in ("limits", "requests") for name in _STANDARD_RESOURCES)


def check_containers(spec: Object, found: Fields) -> None:
    """All containers of a pod."""
    names: set[str] = set()
    for section, index, container in _all(spec):
        path = f"spec.{section}[{index}]"
        _name(container, path, names, found)
        _image(container, path, found)
        _ports(container, path, found, host_network=bool(spec.get("hostNetwork")))
        _environment(container, path, found)
        _resources(container.get("resources") or {}, f"{path}.resources", found)
        _lifecycle(container, path, found, init=section == "initContainers")
        _security(container, path, found)
        policy = container.get("terminationMessagePolicy", "File")
        if policy not in ("File", "FallbackToLogsOnError"):
            found.invalid(f"{path}.terminationMessagePolicy", policy, "must be 'File' or 'FallbackToLogsOnError'")
    for section in SECTIONS:
        _host_ports(spec, section, found)


def _all(spec: Object) -> Iterator[tuple[str, int, Object]]:
    for section in SECTIONS:
        for index, container in enumerate(spec.get(section) or ()):
            yield section, index, container


def _name(container: Object, path: str, names: set[str], found: Fields) -> None:
    name = container.get("name") or ""
    if not name:
        found.required(f"{path}.name")
    elif error := label_error(name):
        found.invalid(f"{path}.name", name, error)
    elif name in names:
        found.duplicate(f"{path}.name", name)
    names.add(name)


def _image(container: Object, path: str, found: Fields) -> None:
    image = container.get("image") or ""
    if not image:
        found.required(f"{path}.image")
    elif image != image.strip():
        found.invalid(f"{path}.image", image, "must not have leading or trailing whitespace")
    found.one_of(f"{path}.imagePullPolicy", container.get("imagePullPolicy"), ("Always", "IfNotPresent", "Never"))


def _ports(container: Object, path: str, found: Fields, *, host_network: bool) -> None:
    names: set[str] = set()
    for index, port in enumerate(container.get("ports") or ()):
        where = f"{path}.ports[{index}]"
        name = port.get("name")
        if name:
            if error := port_name_error(name):
                found.invalid(f"{where}.name", name, error)
            elif name in names:
                found.duplicate(f"{where}.name", name)
            names.add(name)
        if not port.get("containerPort"):
            found.required(f"{where}.containerPort")
        else:
            found.between(f"{where}.containerPort", port["containerPort"], 1, 65535)
        if port.get("hostPort"):
            found.between(f"{where}.hostPort", port["hostPort"], 1, 65535)
            if host_network and port["hostPort"] != port.get("containerPort"):
                found.invalid(
                    f"{where}.containerPort",
                    port.get("containerPort"),
                    "must match `hostPort` when `hostNetwork` is true",
                )
        found.one_of(f"{where}.protocol", port.get("protocol", "TCP"), PROTOCOLS)


def port_name_error(name: str) -> str:
    """Why a text is no port name (IANA service name); empty when it is one."""
    if len(name) > 15:
        return "must be no more than 15 characters"
    if not any("a" <= letter <= "z" for letter in name):
        return "must contain at least one letter (a-z)"
    if "--" in name:
        return "must not contain consecutive hyphens"
    if not _PORT_NAME.fullmatch(name):
        return "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    return "must not begin or end with a hyphen" if name[0] == "-" or name[-1] == "-" else ""


def _host_ports(spec: Object, section: str, found: Fields) -> None:
    taken: set[tuple[str, str, int]] = set()
    for index, container in enumerate(spec.get(section) or ()):
        if section == "initContainers" and container.get("restartPolicy") != "Always":
            continue  # these run one after the other
        for position, port in enumerate(container.get("ports") or ()):
            if not port.get("hostPort"):
                continue
            mark = (port.get("hostIP") or "", port.get("protocol", "TCP"), port["hostPort"])
            if mark in taken:
                shown = f"{mark[1]}/{mark[0]}/{mark[2]}"
                found.duplicate(f"spec.{section}[{index}].ports[{position}].hostPort", shown)
            taken.add(mark)


def _environment(container: Object, path: str, found: Fields) -> None:
    for index, item in enumerate(container.get("env") or ()):
        where = f"{path}.env[{index}]"
        if not item.get("name"):
            found.required(f"{where}.name")
        elif error := env_name_error(item["name"]):
            found.invalid(f"{where}.name", item["name"], error)
        if item.get("valueFrom") is not None:
            _env_source(item, f"{where}.valueFrom", found)
    for index, item in enumerate(container.get("envFrom") or ()):
        where = f"{path}.envFrom[{index}]"
        sources = [key for key in ("configMapRef", "secretRef") if item.get(key) is not None]
        if len(sources) != 1:
            found.invalid(
                where, "", f"{'may not have more than' if sources else 'must specify'} one of configMapRef or secretRef"
            )
        for key in sources:
            if not item[key].get("name"):
                found.required(f"{where}.{key}.name")


def env_name_error(name: str) -> str:
    """Why a text is no name of an environment variable; empty when it is one (printable ASCII without `=`)."""
    if all(" " <= letter <= "~" and letter != "=" for letter in name):
        return ""
    return "a valid environment variable name must consist only of printable ASCII characters other than '='"


def _env_source(item: Object, path: str, found: Fields) -> None:
    source = item["valueFrom"]
    kinds = [key for key in _ENV_SOURCES if source.get(key) is not None]
    if item.get("value"):
        found.invalid(path, "", "may not be specified when `value` is not empty")
    if not kinds:
        found.invalid(path, "", f"must specify one of: {', '.join(f'`{key}`' for key in _ENV_SOURCES[:-1])}")
    elif len(kinds) > 1:
        found.invalid(path, "", "may not have more than one field specified at a time")
    for kind in kinds:
        where, reference = f"{path}.{kind}", source[kind]
        if kind == "fieldRef":
            check_field_path(reference, where, found, keyed=True, environment=True)
        elif kind == "resourceFieldRef":
            check_resource_field(reference, where, found)
        else:
            for key in ("name", "key") if kind != "fileKeyRef" else ("volumeName", "path", "key"):
                if not reference.get(key):
                    found.required(f"{where}.{key}")


def check_field_path(reference: Object, path: str, found: Fields, *, keyed: bool, environment: bool) -> None:
    """A downward API reference to a field of the pod; volumes know whole labels and annotations as well."""
    text = reference.get("fieldPath") or ""
    where = f"{path}.fieldPath"
    match = _KEYED_PATH.fullmatch(text)
    if not text:
        found.required(where)
    elif match is not None and keyed:
        if error := label_key_error(match[2].lower() if match[1] == "annotations" else match[2]):
            found.invalid(where, match[2], error)
    elif environment and text not in _FIELD_PATHS:
        if text in ("metadata.labels", "metadata.annotations"):
            found.unsupported(where, text, _FIELD_PATHS)
        else:
            found.invalid(where, text, f"error converting fieldPath: field label not supported: {text}")
    elif not environment and text not in (*_VOLUME_PATHS,):
        if text in _FIELD_PATHS:
            found.unsupported(where, text, _VOLUME_PATHS)
        else:
            found.invalid(where, text, f"error converting fieldPath: field label not supported: {text}")


_VOLUME_PATHS = ("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")


def check_resource_field(reference: Object, path: str, found: Fields, *, container: bool = False) -> None:
    """A downward API reference to a container's resources; `container`: it must name one."""
    if container and not reference.get("containerName"):
        found.required(f"{path}.containerName")
    resource = reference.get("resource") or ""
    if not resource:
        found.required(f"{path}.resource")
    elif resource not in _RESOURCE_FIELDS and ".hugepages-" not in resource:
        found.unsupported(f"{path}.resource", resource, _RESOURCE_FIELDS)


def _resources(resources: Object, path: str, found: Fields) -> None:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for side, amounts in (("limits", limits), ("requests", requests)):
        for name, text in amounts.items():
            where = f"{path}.{side}[{name}]"
            if amount(str(text)) < 0:
                found.invalid(where, text, "must be greater than or equal to 0")
            if "/" not in name and name not in _STANDARD_RESOURCES and not name.startswith("hugepages-"):
                found.invalid(where, name, "must be a standard resource type or fully qualified")
                found.invalid(where, name, "must be a standard resource for containers")
            elif error := label_key_error(name):
                found.invalid(where, name, error)
    for name, text in requests.items():
        limit = limits.get(name)
        if limit is not None and amount(str(text)) > amount(str(limit)):
            found.invalid(f"{path}.requests", text, f"must be less than or equal to {name} limit of {limit}")


def _lifecycle(container: Object, path: str, found: Fields, *, init: bool) -> None:
    policy = container.get("restartPolicy")
    if policy is not None and not init:
        found.one_of(f"{path}.restartPolicy", policy, ("Always", "Never", "OnFailure"))
    elif policy not in (None, "Always"):
        found.unsupported(f"{path}.restartPolicy", policy, ("Always",))
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if probe is None:
            continue
        if init and policy != "Always":
            found.forbidden(f"{path}.{name}", "may not be set for init containers without restartPolicy=Always")
            continue
        _probe(probe, f"{path}.{name}", found, once=name != "readinessProbe")
        if name == "readinessProbe" and probe.get("terminationGracePeriodSeconds") is not None:
            found.invalid(
                f"{path}.{name}.terminationGracePeriodSeconds",
                probe["terminationGracePeriodSeconds"],
                "must not be set for readinessProbes",
            )
    lifecycle = container.get("lifecycle")
    if lifecycle is None:
        return
    if init and policy != "Always":
        found.forbidden(f"{path}.lifecycle", "may not be set for init containers without restartPolicy=Always")
        return
    for name in ("postStart", "preStop"):
        if lifecycle.get(name) is not None:
            _handler(lifecycle[name], f"{path}.lifecycle.{name}", found)


def _probe(probe: Object, path: str, found: Fields, *, once: bool) -> None:
    _handler(probe, path, found)
    for key in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        found.at_least(f"{path}.{key}", probe.get(key))
    if once and probe.get("successThreshold", 1) != 1:
        found.invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1")
    found.at_least(f"{path}.terminationGracePeriodSeconds", probe.get("terminationGracePeriodSeconds"), 1)


def _handler(handler: Object, path: str, found: Fields) -> None:
    kinds = [key for key in _HANDLERS if handler.get(key) is not None]
    if not kinds:
        found.required(path, "must specify a handler type")
    for extra in kinds[1:]:
        found.forbidden(f"{path}.{extra}", "may not specify more than 1 handler type")
    for kind in kinds[:1]:
        where, value = f"{path}.{kind}", handler[kind]
        if kind == "exec" and not value.get("command"):
            found.required(f"{where}.command")
        if kind in ("httpGet", "tcpSocket"):
            _port_reference(value.get("port"), f"{where}.port", found)
        if kind == "grpc":
            found.between(f"{where}.port", value.get("port", 0), 1, 65535)
        if kind == "httpGet":
            if not value.get("path"):
                found.required(f"{where}.path")
            found.one_of(f"{where}.scheme", value.get("scheme", "HTTP"), ("HTTP", "HTTPS"))
            for header in value.get("httpHeaders") or ():
                if not re.fullmatch(r"[-A-Za-z0-9]+", header.get("name") or ""):
                    text = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name')"
                    found.invalid(f"{where}.httpHeaders", header.get("name", ""), text)


def _port_reference(port: Any, path: str, found: Fields) -> None:
    """A port by number, or by the name of one of the container's ports."""
    if isinstance(port, str):
        found.checked(path, port, port_name_error(port))
    elif not isinstance(port, int) or not 1 <= port <= 65535:
        found.invalid(path, port if port is not None else 0, "must be between 1 and 65535, inclusive")


def _security(container: Object, path: str, found: Fields) -> None:
    context = container.get("securityContext") or {}
    where = f"{path}.securityContext"
    for key in ("runAsUser", "runAsGroup"):
        found.between(f"{where}.{key}", context.get(key), 0, 2**31 - 1)
    found.one_of(f"{where}.procMount", context.get("procMount"), ("Default", "Unmasked"))
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
            found.invalid(where, context, text)
        if "SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or ()):
            text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            found.invalid(where, context, text)
    check_seccomp(context, where, found)


def check_seccomp(context: Object, path: str, found: Fields) -> None:
    """securityContext.seccompProfile of a container or a pod."""
    profile = context.get("seccompProfile")
    if profile is None:
        return
    where = f"{path}.seccompProfile"
    kind, local = profile.get("type") or "", profile.get("localhostProfile")
    if not kind:
        found.required(f"{where}.type", "type is required when seccompProfile is set")
    else:
        found.one_of(f"{where}.type", kind, ("Localhost", "RuntimeDefault", "Unconfined"))
    if kind == "Localhost":
        if not local:
            found.required(f"{where}.localhostProfile", "must be set when seccomp type is Localhost")
        elif local.startswith("/"):
            found.invalid(f"{where}.localhostProfile", local, "must be a relative path")
        elif ".." in local.split("/"):
            found.invalid(f"{where}.localhostProfile", local, "must not contain '..'")
    elif local is not None and kind:
        found.invalid(f"{where}.localhostProfile", local, "can only be set when seccomp type is Localhost")
