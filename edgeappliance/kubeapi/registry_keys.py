"""Names of the collections that controllers look into (`ResourceType.key`)."""

NAMESPACES = "namespaces"
NODES = "nodes"
PODS = "pods"
EVENTS = "events"
LEASES = "leases.coordination.k8s.io"
CRDS = "customresourcedefinitions.apiextensions.k8s.io"

NODE_LEASES = "kube-node-lease"
"""Namespace of the leases with which nodes say that they live."""
