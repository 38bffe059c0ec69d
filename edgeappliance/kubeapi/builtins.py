"""The built-in resources: what is served, what is refused and why."""

from collections.abc import Iterator

from edgeappliance.kubeapi.builtin_types import BuiltinTypes, component
from edgeappliance.kubeapi.printers import BUILTIN_COLUMNS
from edgeappliance.kubeapi.resources import VERBS, ResourceType, Subresource

CRD_GROUP = "apiextensions.k8s.io"
RBAC_GROUP = "rbac.authorization.k8s.io"

_POD_FIELDS = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
)
_EVENT_FIELDS = (
    *(
        f"involvedObject.{key}"
        for key in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    ),
    "reason",
    "reportingComponent",
    "source",
    "type",
)

# group, version, plural, kind, namespaced, short names, has status, categories, field selectors
_SERVED: tuple[tuple[str, str, str, str, bool, tuple[str, ...], bool, tuple[str, ...], tuple[str, ...]], ...] = (
    ("", "v1", "namespaces", "Namespace", False, ("ns",), True, (), ("status.phase",)),
    ("", "v1", "nodes", "Node", False, ("no",), True, (), ("spec.unschedulable",)),
    ("", "v1", "pods", "Pod", True, ("po",), True, ("all",), _POD_FIELDS),
    ("", "v1", "configmaps", "ConfigMap", True, ("cm",), False, (), ()),
    ("", "v1", "secrets", "Secret", True, (), False, (), ("type",)),
    ("", "v1", "serviceaccounts", "ServiceAccount", True, ("sa",), False, (), ()),
    ("", "v1", "events", "Event", True, ("ev",), False, (), _EVENT_FIELDS),
    ("", "v1", "services", "Service", True, ("svc",), True, ("all",), ("spec.clusterIP", "spec.type")),
    ("", "v1", "endpoints", "Endpoints", True, ("ep",), False, (), ()),
    ("", "v1", "persistentvolumes", "PersistentVolume", False, ("pv",), True, (), ()),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", True, ("pvc",), True, (), ()),
    ("coordination.k8s.io", "v1", "leases", "Lease", True, (), False, (), ()),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", True, (), False, (), ()),
    (
        "certificates.k8s.io",
        "v1",
        "certificatesigningrequests",
        "CertificateSigningRequest",
        False,
        ("csr",),
        True,
        (),
        ("spec.signerName",),
    ),
    (RBAC_GROUP, "v1", "roles", "Role", True, (), False, (), ()),
    (RBAC_GROUP, "v1", "rolebindings", "RoleBinding", True, (), False, (), ()),
    (RBAC_GROUP, "v1", "clusterroles", "ClusterRole", False, (), False, (), ()),
    (RBAC_GROUP, "v1", "clusterrolebindings", "ClusterRoleBinding", False, (), False, (), ()),
    (
        CRD_GROUP,
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        False,
        ("crd", "crds"),
        True,
        ("api-extensions",),
        (),
    ),
)
_BOTH = ("create", "get")
_SUBRESOURCES = {
    "pods": (
        Subresource("attach", "PodAttachOptions", _BOTH),
        Subresource("binding", "Binding", ("create",)),
        Subresource("eviction", "Eviction", ("create",), "policy"),
        Subresource("exec", "PodExecOptions", _BOTH),
        Subresource("log", "Pod", ("get",)),
        Subresource("portforward", "PodPortForwardOptions", _BOTH),
    ),
    "serviceaccounts": (Subresource("token", "TokenRequest", ("create",), "authentication.k8s.io"),),
}
_UPSERT = frozenset(("events", "endpoints", "leases", "services"))  # a PUT creates what is not there
_SINGULAR = {"endpoints": "endpoints"}

_NOT_A_CLUSTER = (
    "this is the embedded API of cloudgateway, not a cluster: nothing here {work}. {instead}; or connect cloudgateway "
    "to a Kubernetes cluster, which {kinds} need, and create them there"
)
_ONE_POD = "Create a Pod (kubectl apply -f pod.yaml): it gets an edge node, which keeps it running, offline too"


def _no_controller(work: str, instead: str = _ONE_POD) -> str:
    return _NOT_A_CLUSTER.replace("{work}", work).replace("{instead}", instead)


_NO_INGRESS = (
    "this is the embedded API of cloudgateway, not a cluster: it has no {kinds}. Publish a port of the pod on its "
    "edge node instead (hostPort), or connect cloudgateway to a Kubernetes cluster"
)
_NO_ADMISSION = (
    "this is the embedded API of cloudgateway: it calls no admission webhooks and evaluates no admission policies. "
    "Connect cloudgateway to a Kubernetes cluster if you need them"
)
_REFUSED: tuple[tuple[str, str, str, str, bool, tuple[str, ...], str], ...] = (
    (
        "apps",
        "v1",
        "deployments",
        "Deployment",
        True,
        ("deploy",),
        _no_controller("keeps several copies of a pod or replaces them step by step"),
    ),
    (
        "apps",
        "v1",
        "daemonsets",
        "DaemonSet",
        True,
        ("ds",),
        _no_controller("puts a pod on every node", "Create a Pod for each node, with spec.nodeName set to it"),
    ),
    (
        "apps",
        "v1",
        "statefulsets",
        "StatefulSet",
        True,
        ("sts",),
        _no_controller("numbers the copies of a pod and gives each a volume of its own"),
    ),
    ("apps", "v1", "replicasets", "ReplicaSet", True, ("rs",), _no_controller("keeps several copies of a pod")),
    (
        "batch",
        "v1",
        "jobs",
        "Job",
        True,
        (),
        _no_controller(
            "runs pods until enough of them have succeeded",
            "Create a Pod with restartPolicy: OnFailure, which its node runs until it has succeeded",
        ),
    ),
    (
        "batch",
        "v1",
        "cronjobs",
        "CronJob",
        True,
        ("cj",),
        _no_controller("starts pods by the clock", "Create a Pod that waits for the time itself"),
    ),
    (
        "",
        "v1",
        "replicationcontrollers",
        "ReplicationController",
        True,
        ("rc",),
        _no_controller("keeps several copies of a pod"),
    ),
    ("networking.k8s.io", "v1", "ingresses", "Ingress", True, ("ing",), _NO_INGRESS),
    (
        "admissionregistration.k8s.io",
        "v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        False,
        (),
        _NO_ADMISSION,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        False,
        (),
        _NO_ADMISSION,
    ),
)


def builtin_resources(types: BuiltinTypes) -> Iterator[ResourceType]:
    """The resources that are served and those that are refused with a word why."""
    for group, version, plural, kind, namespaced, short, status, categories, fields in _SERVED:
        name = component(group, version, kind)
        key = f"{plural}.{group}" if group else plural
        yield ResourceType(
            group=group,
            version=version,
            plural=plural,
            kind=kind,
            namespaced=namespaced,
            singular=_SINGULAR.get(plural, kind.lower()),
            list_kind=f"{kind}List",
            short_names=short,
            categories=categories,
            verbs=VERBS if plural != "namespaces" else tuple(verb for verb in VERBS if verb != "deletecollection"),
            status=status,
            subresources=_SUBRESOURCES.get(key, ()),
            generation=plural == "customresourcedefinitions",
            upsert=plural in _UPSERT,
            fields=fields,
            schema=types.schema(name),
            columns=BUILTIN_COLUMNS[key],
            component=name,
        )
    for group, version, plural, kind, namespaced, short, text in _REFUSED:
        yield ResourceType(
            group=group,
            version=version,
            plural=plural,
            kind=kind,
            namespaced=namespaced,
            singular=kind.lower(),
            list_kind=f"{kind}List",
            short_names=short,
            verbs=(),
            refusal=text.format(kinds=plural),
        )
