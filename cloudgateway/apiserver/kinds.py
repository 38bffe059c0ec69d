"""What the built-in kinds need beyond their schema: defaults, rules, and what a create or an update may set."""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cloudgateway.apiserver import pod_rules, pods
from edgeappliance.kubeapi.errors import Cause
from edgeappliance.kubeapi.names import label_error, path_segment_error, subdomain_error
from edgeappliance.kubeapi.request import User

Object = dict[str, Any]
DATA_LIMIT = 1024 * 1024
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


def _nothing(value: Object) -> None:
    return None


def _no_causes(value: Object, old: Object | None) -> list[Cause]:
    return []


def _keep(value: Object, user: User | None) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Rules of one built-in kind; all of them work on the object in place or report causes.

    `create` sets what a client may not choose when an object is made. `grace` gives the seconds a deletion
    waits for the node, from the object and what the client asked. `returned` kinds answer their deletion with
    the object instead of a Status.
    """

    name_error: Callable[[str], str] = subdomain_error
    default: Callable[[Object], None] = _nothing
    validate: Callable[[Object, Object | None], list[Cause]] = _no_causes
    create: Callable[[Object, User | None], None] = _keep
    grace: Callable[[Object, int | None], int] | None = None
    durable: bool = True
    returned: bool = False


def _default_namespace(value: Object) -> None:
    metadata = value["metadata"]
    metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata.get("name", "")
    value.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    value.setdefault("status", {}).setdefault("phase", "Active")


def _create_namespace(value: Object, user: User | None) -> None:
    value["spec"] = {"finalizers": ["kubernetes"]}
    value["status"] = {"phase": "Active"}


def _data_causes(value: Object, old: Object | None) -> list[Cause]:
    causes = []
    size = 0
    for section in ("data", "binaryData"):
        for key, item in (value.get(section) or {}).items():
            size += len(key) + len(str(item).encode("utf-8", "surrogatepass"))
            if not _DATA_KEY.fullmatch(key):
                text = f"Invalid value: \"{key}\": a valid key consists of alphanumeric characters, '-', '_' or '.'"
                causes.append(Cause("FieldValueInvalid", text, f"{section}[{key}]"))
    if size > DATA_LIMIT * (4 / 3 if value.get("kind") == "Secret" else 1):
        causes.append(Cause("FieldValueTooLong", f"Too long: may not be more than {DATA_LIMIT} bytes", ""))
    if old is not None and old.get("immutable"):
        for section in ("data", "binaryData", "immutable"):
            if value.get(section) != old.get(section):
                causes.append(
                    Cause("FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set", section)
                )
    return causes


def _default_secret(value: Object) -> None:
    value.setdefault("type", "Opaque")
    plain = value.pop("stringData", None)
    if plain:
        data = value.setdefault("data", {})
        for key, item in plain.items():
            data[key] = base64.b64encode(str(item).encode()).decode()


def _secret_causes(value: Object, old: Object | None) -> list[Cause]:
    causes = _data_causes(value, old)
    if old is not None and value.get("type") != old.get("type"):
        causes.append(Cause("FieldValueInvalid", f'Invalid value: "{value.get("type")}": field is immutable', "type"))
    return causes


def _default_service(value: Object) -> None:
    spec = value.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if spec["type"] != "ExternalName":
            port.setdefault("targetPort", port.get("port"))
    value.setdefault("status", {}).setdefault("loadBalancer", {})


def _default_volume(value: Object) -> None:
    spec = value.setdefault("spec", {})
    spec.setdefault("volumeMode", "Filesystem")
    if value.get("kind") == "PersistentVolume":
        spec.setdefault("persistentVolumeReclaimPolicy", "Retain")
    value.setdefault("status", {}).setdefault("phase", "Pending")


def _default_rbac(value: Object) -> None:
    if value.get("kind") in ("RoleBinding", "ClusterRoleBinding"):
        value.get("roleRef", {}).setdefault("apiGroup", "rbac.authorization.k8s.io")
        for subject in value.get("subjects") or ():
            group = "" if subject.get("kind") == "ServiceAccount" else "rbac.authorization.k8s.io"
            if group:
                subject.setdefault("apiGroup", group)


def _binding_causes(value: Object, old: Object | None) -> list[Cause]:
    if not value.get("roleRef", {}).get("name"):
        return [Cause("FieldValueRequired", "Required value", "roleRef.name")]
    if old is not None and old.get("roleRef") != value.get("roleRef"):
        return [Cause("FieldValueInvalid", "Invalid value: cannot change roleRef", "roleRef")]
    return []


def _default_event(value: Object) -> None:
    if not value.get("eventTime"):
        value.setdefault("count", 1)


def _create_csr(value: Object, user: User | None) -> None:
    spec = value.setdefault("spec", {})
    if user is not None:
        spec["username"] = user.name
        spec["groups"] = [*user.groups, "system:authenticated"]
    value["status"] = {}


def _csr_causes(value: Object, old: Object | None) -> list[Cause]:
    spec = value.get("spec", {})
    causes = [
        Cause("FieldValueRequired", "Required value", f"spec.{key}")
        for key in ("request", "signerName", "usages")
        if not spec.get(key)
    ]
    if old is not None and old.get("spec") != spec:
        causes.append(Cause("FieldValueForbidden", "Forbidden: a request cannot be changed", "spec"))
    return causes


def _node_causes(value: Object, old: Object | None) -> list[Cause]:
    causes = []
    seen = set()
    for index, taint in enumerate(value.get("spec", {}).get("taints") or ()):
        path = f"spec.taints[{index}]"
        if not taint.get("key"):
            causes.append(Cause("FieldValueRequired", "Required value", f"{path}.key"))
        if taint.get("effect") not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
            causes.append(
                Cause(
                    "FieldValueNotSupported",
                    f'Unsupported value: "{taint.get("effect", "")}": supported values: '
                    '"NoExecute", "NoSchedule", "PreferNoSchedule"',
                    f"{path}.effect",
                )
            )
        mark = (taint.get("key"), taint.get("effect"))
        if mark in seen:
            causes.append(Cause("FieldValueDuplicate", f"Duplicate value: {mark[0]}:{mark[1]}", path))
        seen.add(mark)
    return causes


_ROLE = Kind(name_error=path_segment_error)
_BINDING = Kind(name_error=path_segment_error, default=_default_rbac, validate=_binding_causes)

KINDS: dict[str, Kind] = {
    "namespaces": Kind(name_error=label_error, default=_default_namespace, create=_create_namespace),
    "nodes": Kind(validate=_node_causes),
    "pods": Kind(default=pods.default, validate=pod_rules.causes, create=pods.create, grace=pods.grace, returned=True),
    "configmaps": Kind(validate=_data_causes),
    "secrets": Kind(default=_default_secret, validate=_secret_causes),
    "serviceaccounts": Kind(returned=True),
    "events": Kind(default=_default_event, durable=False),
    "services": Kind(name_error=label_error, default=_default_service, returned=True),
    "persistentvolumes": Kind(default=_default_volume, returned=True),
    "persistentvolumeclaims": Kind(default=_default_volume, returned=True),
    "leases.coordination.k8s.io": Kind(durable=False),
    "roles.rbac.authorization.k8s.io": _ROLE,
    "clusterroles.rbac.authorization.k8s.io": _ROLE,
    "rolebindings.rbac.authorization.k8s.io": _BINDING,
    "clusterrolebindings.rbac.authorization.k8s.io": _BINDING,
    "certificatesigningrequests.certificates.k8s.io": Kind(create=_create_csr, validate=_csr_causes),
}
"""Rules by collection; one that is not named here has none beyond its schema."""
