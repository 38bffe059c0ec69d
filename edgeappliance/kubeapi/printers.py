"""Columns of the built-in kinds, as `kubectl get` shows them against a cluster (pods are in `pod_printer`)."""

from typing import Any

from edgeappliance.kubeapi.columns import AGE, NAME, Column
from edgeappliance.kubeapi.pod_printer import POD_COLUMNS
from edgeappliance.kubeapi.times import age, parse_time

NONE = "<none>"
UNSET = "<unset>"
UNKNOWN = "<unknown>"
Object = dict[str, Any]


def created_at(value: Object, now_ms: int) -> Any:
    """metadata.creationTimestamp as it is."""
    return value.get("metadata", {}).get("creationTimestamp", "")


CREATED_AT = Column("Created At", created_at)


def _node_status(value: Object, now_ms: int) -> str:
    words = []
    for condition in value.get("status", {}).get("conditions") or ():
        if condition.get("type") == "Ready":
            words.append("Ready" if condition.get("status") == "True" else "NotReady")
    if not words:
        words.append("Unknown")
    if value.get("spec", {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _node_roles(value: Object, now_ms: int) -> str:
    prefix = "node-role.kubernetes.io/"
    roles = set()
    for key, item in (value.get("metadata", {}).get("labels") or {}).items():
        if key.startswith(prefix) and len(key) > len(prefix):
            roles.add(key[len(prefix) :])
        elif key == "kubernetes.io/role" and item:
            roles.add(item)
    return ",".join(sorted(roles)) or NONE


def _node_address(kind: str) -> Any:
    def read(value: Object, now_ms: int) -> str:
        for address in value.get("status", {}).get("addresses") or ():
            if address.get("type") == kind:
                return str(address.get("address", NONE))
        return NONE

    return read


def _node_info(key: str) -> Any:
    def read(value: Object, now_ms: int) -> str:
        return value.get("status", {}).get("nodeInfo", {}).get(key) or UNKNOWN

    return read


def _node_version(value: Object, now_ms: int) -> str:
    return str(value.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", ""))


NODE_COLUMNS = (
    NAME,
    Column("Status", _node_status),
    Column("Roles", _node_roles),
    AGE,
    Column("Version", _node_version),
    Column("Internal-IP", _node_address("InternalIP"), priority=1),
    Column("External-IP", _node_address("ExternalIP"), priority=1),
    Column("OS-Image", _node_info("osImage"), priority=1),
    Column("Kernel-Version", _node_info("kernelVersion"), priority=1),
    Column("Container-Runtime", _node_info("containerRuntimeVersion"), priority=1),
)


def _data_count(*keys: str) -> Any:
    return lambda value, now_ms: sum(len(value.get(key) or ()) for key in keys)


CONFIGMAP_COLUMNS = (NAME, Column("Data", _data_count("data", "binaryData"), "integer"), AGE)
SECRET_COLUMNS = (
    NAME,
    Column("Type", lambda value, now_ms: value.get("type", "")),
    Column("Data", _data_count("data"), "integer"),
    AGE,
)
NAMESPACE_COLUMNS = (NAME, Column("Status", lambda value, now_ms: value.get("status", {}).get("phase", "")), AGE)
LEASE_COLUMNS = (
    NAME,
    Column("Holder", lambda value, now_ms: value.get("spec", {}).get("holderIdentity") or ""),
    AGE,
)
SERVICEACCOUNT_COLUMNS = (NAME, AGE)


def _event_time(value: Object, first: bool) -> object:
    series = value.get("series") or {}
    if not first and series.get("lastObservedTime"):
        return series["lastObservedTime"]
    order = ("firstTimestamp", "eventTime") if first else ("lastTimestamp", "firstTimestamp", "eventTime")
    return next((value[key] for key in order if value.get(key)), None)


def _event_age(first: bool) -> Any:
    return lambda value, now_ms: age(_event_time(value, first), now_ms)


def _event_object(value: Object, now_ms: int) -> str:
    target = value.get("involvedObject", {})
    name = target.get("name", "")
    kind = str(target.get("kind", "")).lower()
    return f"{kind}/{name}" if kind else name


def _event_source(value: Object, now_ms: int) -> str:
    source = value.get("source") or {}
    words = [source.get("component") or value.get("reportingComponent") or "", source.get("host") or ""]
    return ", ".join(filter(None, words))


def _event_count(value: Object, now_ms: int) -> int:
    return int((value.get("series") or {}).get("count") or value.get("count") or 1)


EVENT_COLUMNS = (
    Column("Last Seen", _event_age(False)),
    Column("Type", lambda value, now_ms: value.get("type", "")),
    Column("Reason", lambda value, now_ms: value.get("reason", "")),
    Column("Object", _event_object),
    Column("Subobject", lambda value, now_ms: value.get("involvedObject", {}).get("fieldPath", ""), priority=1),
    Column("Source", _event_source, priority=1),
    Column("Message", lambda value, now_ms: str(value.get("message", "")).strip()),
    Column("First Seen", _event_age(True), priority=1),
    Column("Count", _event_count, priority=1),
    Column("Name", lambda value, now_ms: value.get("metadata", {}).get("name", ""), priority=1),
)


def _service_ports(value: Object, now_ms: int) -> str:
    words = []
    for port in value.get("spec", {}).get("ports") or ():
        text = str(port.get("port"))
        if port.get("nodePort"):
            text += f":{port['nodePort']}"
        words.append(f"{text}/{port.get('protocol', 'TCP')}")
    return ",".join(words) or NONE


def _selector(value: Object, now_ms: int) -> str:
    pairs = (value.get("spec", {}).get("selector") or {}).items()
    return ",".join(f"{key}={item}" for key, item in sorted(pairs)) or NONE


SERVICE_COLUMNS = (
    NAME,
    Column("Type", lambda value, now_ms: value.get("spec", {}).get("type", "")),
    Column("Cluster-IP", lambda value, now_ms: value.get("spec", {}).get("clusterIP") or NONE),
    Column("External-IP", lambda value, now_ms: ",".join(value.get("spec", {}).get("externalIPs") or ()) or NONE),
    Column("Port(s)", _service_ports),
    AGE,
    Column("Selector", _selector, priority=1),
)


def _endpoints(value: Object, now_ms: int) -> str:
    found = []
    for subset in value.get("subsets") or ():
        for address in subset.get("addresses") or ():
            ports = subset.get("ports") or ()
            found += [f"{address.get('ip')}:{port.get('port')}" for port in ports] or [str(address.get("ip"))]
    return _shortened(found)


def _shortened(found: list[str]) -> str:
    if len(found) > 3:
        return ",".join(found[:3]) + f" + {len(found) - 3} more..."
    return ",".join(found) or NONE


def _slice_ports(value: Object, now_ms: int) -> str:
    return (
        _shortened([str(port.get("port", "*")) for port in value.get("ports") or ()]) if value.get("ports") else UNSET
    )


def _slice_endpoints(value: Object, now_ms: int) -> str:
    if not value.get("endpoints"):
        return UNSET
    return _shortened([address for item in value["endpoints"] for address in item.get("addresses") or ()])


ENDPOINTS_COLUMNS = (NAME, Column("Endpoints", _endpoints), AGE)
ENDPOINTSLICE_COLUMNS = (
    NAME,
    Column("AddressType", lambda value, now_ms: value.get("addressType", "")),
    Column("Ports", _slice_ports),
    Column("Endpoints", _slice_endpoints),
    AGE,
)

_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _modes(section: str) -> Any:
    def read(value: Object, now_ms: int) -> str:
        return ",".join(_MODES.get(mode, mode) for mode in value.get(section, {}).get("accessModes") or ())

    return read


def _at(section: str, key: str, default: str = "") -> Any:
    return lambda value, now_ms: value.get(section, {}).get(key) or default


def _claim(value: Object, now_ms: int) -> str:
    reference = value.get("spec", {}).get("claimRef")
    return f"{reference.get('namespace', '')}/{reference.get('name', '')}" if reference else ""


def _phase(value: Object, now_ms: int) -> str:
    if value.get("metadata", {}).get("deletionTimestamp"):
        return "Terminating"
    return str(value.get("status", {}).get("phase", ""))


def _capacity(section: str) -> Any:
    return lambda value, now_ms: str((value.get(section, {}).get("capacity") or {}).get("storage", ""))


PV_COLUMNS = (
    NAME,
    Column("Capacity", _capacity("spec")),
    Column("Access Modes", _modes("spec")),
    Column("Reclaim Policy", _at("spec", "persistentVolumeReclaimPolicy")),
    Column("Status", _phase),
    Column("Claim", _claim),
    Column("StorageClass", _at("spec", "storageClassName")),
    Column("Reason", _at("status", "reason")),
    AGE,
    Column("VolumeMode", _at("spec", "volumeMode", UNSET), priority=1),
)
PVC_COLUMNS = (
    NAME,
    Column("Status", _phase),
    Column("Volume", _at("spec", "volumeName")),
    Column("Capacity", _capacity("status")),
    Column("Access Modes", _modes("status")),
    Column("StorageClass", _at("spec", "storageClassName")),
    AGE,
    Column("VolumeMode", _at("spec", "volumeMode", UNSET), priority=1),
)


def _role_ref(value: Object, now_ms: int) -> str:
    reference = value.get("roleRef", {})
    return f"{reference.get('kind', '')}/{reference.get('name', '')}"


def _subjects(kind: str) -> Any:
    def read(value: Object, now_ms: int) -> str:
        names = []
        for subject in value.get("subjects") or ():
            if subject.get("kind") == kind:
                scope = f"{subject['namespace']}/" if subject.get("namespace") else ""
                names.append(scope + str(subject.get("name", "")))
        return ", ".join(names)

    return read


ROLE_COLUMNS = (NAME, CREATED_AT)
BINDING_COLUMNS = (
    NAME,
    Column("Role", _role_ref),
    AGE,
    Column("Users", _subjects("User"), priority=1),
    Column("Groups", _subjects("Group"), priority=1),
    Column("ServiceAccounts", _subjects("ServiceAccount"), priority=1),
)


def _csr_condition(value: Object, now_ms: int) -> str:
    types = [condition.get("type") for condition in value.get("status", {}).get("conditions") or ()]
    words = [word for word in ("Approved", "Denied", "Failed") if word in types] or ["Pending"]
    if value.get("status", {}).get("certificate"):
        words.append("Issued")
    return ",".join(words)


CSR_COLUMNS = (
    NAME,
    AGE,
    Column("SignerName", _at("spec", "signerName", NONE)),
    Column("Requestor", _at("spec", "username")),
    Column("Condition", _csr_condition),
)


def event_sort_key(value: Object) -> int:
    """Unix ms of when an event was last seen; 0 when it does not say."""
    return parse_time(_event_time(value, False)) or 0


BUILTIN_COLUMNS: dict[str, tuple[Column, ...]] = {
    "nodes": NODE_COLUMNS,
    "pods": POD_COLUMNS,
    "configmaps": CONFIGMAP_COLUMNS,
    "secrets": SECRET_COLUMNS,
    "namespaces": NAMESPACE_COLUMNS,
    "serviceaccounts": SERVICEACCOUNT_COLUMNS,
    "events": EVENT_COLUMNS,
    "services": SERVICE_COLUMNS,
    "endpoints": ENDPOINTS_COLUMNS,
    "persistentvolumes": PV_COLUMNS,
    "persistentvolumeclaims": PVC_COLUMNS,
    "leases.coordination.k8s.io": LEASE_COLUMNS,
    "endpointslices.discovery.k8s.io": ENDPOINTSLICE_COLUMNS,
    "roles.rbac.authorization.k8s.io": ROLE_COLUMNS,
    "clusterroles.rbac.authorization.k8s.io": ROLE_COLUMNS,
    "rolebindings.rbac.authorization.k8s.io": BINDING_COLUMNS,
    "clusterrolebindings.rbac.authorization.k8s.io": BINDING_COLUMNS,
    "certificatesigningrequests.certificates.k8s.io": CSR_COLUMNS,
    "customresourcedefinitions.apiextensions.k8s.io": (NAME, CREATED_AT),
}
