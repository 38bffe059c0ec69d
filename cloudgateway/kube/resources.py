"""Names of the Kubernetes resources the gateway works with (KubeEdge reference 1.4 and 6)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BY_KIND", "GVR", "find_by_kind"]


@dataclass(frozen=True, slots=True)
class GVR:
    """One resource of the API: where it is served and what its objects are called."""

    group: str
    version: str
    resource: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """``apiVersion`` of its objects: ``v1`` or ``group/version``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_resource(self) -> str:
        """The name the API uses in messages: ``pods`` or ``devices.devices.kubeedge.io``."""
        return f"{self.resource}.{self.group}" if self.group else self.resource

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """Request path; `namespace` is ignored for cluster-scoped resources, None lists all namespaces."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.resource)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


NAMESPACES = GVR("", "v1", "namespaces", "Namespace", namespaced=False)
NODES = GVR("", "v1", "nodes", "Node", namespaced=False)
PODS = GVR("", "v1", "pods", "Pod")
CONFIGMAPS = GVR("", "v1", "configmaps", "ConfigMap")
SECRETS = GVR("", "v1", "secrets", "Secret")
EVENTS = GVR("", "v1", "events", "Event")
SERVICES = GVR("", "v1", "services", "Service")
SERVICE_ACCOUNTS = GVR("", "v1", "serviceaccounts", "ServiceAccount")
PERSISTENT_VOLUMES = GVR("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False)
PERSISTENT_VOLUME_CLAIMS = GVR("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
LEASES = GVR("coordination.k8s.io", "v1", "leases", "Lease")
VOLUME_ATTACHMENTS = GVR("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", namespaced=False)
CERTIFICATE_SIGNING_REQUESTS = GVR(
    "certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", namespaced=False
)
CRDS = GVR("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
DEVICES = GVR("devices.kubeedge.io", "v1beta1", "devices", "Device")
DEVICE_MODELS = GVR("devices.kubeedge.io", "v1beta1", "devicemodels", "DeviceModel")
DEVICE_STATUSES = GVR("devices.kubeedge.io", "v1beta1", "devicestatuses", "DeviceStatus")
RULES = GVR("rules.kubeedge.io", "v1", "rules", "Rule")
RULE_ENDPOINTS = GVR("rules.kubeedge.io", "v1", "ruleendpoints", "RuleEndpoint")
OBJECT_SYNCS = GVR("reliablesyncs.kubeedge.io", "v1alpha1", "objectsyncs", "ObjectSync")
CLUSTER_OBJECT_SYNCS = GVR(
    "reliablesyncs.kubeedge.io", "v1alpha1", "clusterobjectsyncs", "ClusterObjectSync", namespaced=False
)
NODE_GROUPS = GVR("apps.kubeedge.io", "v1alpha1", "nodegroups", "NodeGroup", namespaced=False)
EDGE_APPLICATIONS = GVR("apps.kubeedge.io", "v1alpha1", "edgeapplications", "EdgeApplication")
NODE_UPGRADE_JOBS = GVR("operations.kubeedge.io", "v1alpha2", "nodeupgradejobs", "NodeUpgradeJob", namespaced=False)
IMAGE_PRE_PULL_JOBS = GVR("operations.kubeedge.io", "v1alpha2", "imageprepulljobs", "ImagePrePullJob", namespaced=False)
CONFIG_UPDATE_JOBS = GVR("operations.kubeedge.io", "v1alpha2", "configupdatejobs", "ConfigUpdateJob", namespaced=False)
SERVICE_ACCOUNT_ACCESSES = GVR("policy.kubeedge.io", "v1alpha1", "serviceaccountaccesses", "ServiceAccountAccess")

BY_KIND: dict[tuple[str, str], GVR] = {
    (gvr.api_version, gvr.kind): gvr
    for gvr in (
        NAMESPACES,
        NODES,
        PODS,
        CONFIGMAPS,
        SECRETS,
        EVENTS,
        SERVICES,
        SERVICE_ACCOUNTS,
        PERSISTENT_VOLUMES,
        PERSISTENT_VOLUME_CLAIMS,
        LEASES,
        VOLUME_ATTACHMENTS,
        CERTIFICATE_SIGNING_REQUESTS,
        CRDS,
        DEVICES,
        DEVICE_MODELS,
        DEVICE_STATUSES,
        RULES,
        RULE_ENDPOINTS,
        OBJECT_SYNCS,
        CLUSTER_OBJECT_SYNCS,
        NODE_GROUPS,
        EDGE_APPLICATIONS,
        NODE_UPGRADE_JOBS,
        IMAGE_PRE_PULL_JOBS,
        CONFIG_UPDATE_JOBS,
        SERVICE_ACCOUNT_ACCESSES,
    )
}


def find_by_kind(api_version: str, kind: str, *, namespaced: bool) -> GVR:
    """The resource of an object's type meta; of an unknown kind the plural is guessed as KubeEdge does.

    y -> ies, s -> ses, otherwise +s (KubeEdge reference 2.9).
    """
    known = BY_KIND.get((api_version, kind))
    if known is not None:
        return known
    group, _, version = api_version.rpartition("/")
    plural = kind.lower()
    if plural.endswith("y"):
        plural = plural[:-1] + "ies"
    elif plural.endswith("s"):
        plural += "es"
    else:
        plural += "s"
    return GVR(group, version, plural, kind, namespaced)
