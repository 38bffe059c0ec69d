"""What edge nodes must know of nodes, pods, config maps and secrets (KubeEdge reference 1.4 A, C-E)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cloudgateway.edgecontroller.locations import CONFIGMAP, Locations, Reference, references
from cloudgateway.edgecontroller.upstream import CLOUDCORE
from cloudgateway.kube.by_node import ByNode, node_of
from cloudgateway.kube.client import KubeClient, KubeObject
from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.informers import Informers, Spawner
from cloudgateway.kube.reflector import Reflector, Watched, key_of, slim
from cloudgateway.kube.resources import CONFIGMAPS, NODES, PODS, SECRETS
from cloudgateway.kube.workqueue import WorkQueue
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import Group, Operation, ResourceType, Source
from edgeappliance.wire.resource import NULL, ResourceName

__all__ = ["EDGE_LABEL", "Downstream", "Push", "relevant_change"]

EDGE_LABEL = "node-role.kubernetes.io/edge"
"""A node with this label (its value empty) is an edge node (KubeEdge reference 1.4 A)."""


class Push(Protocol):
    """The part of cloudhub that this needs."""

    def connected(self, node: str) -> bool: ...

    def push(self, node: str, message: Message) -> None: ...


class Downstream:
    """Pushes to the nodes whose session this gateway holds; all of it can be repeated without harm.

    Bodies of config maps and secrets are not kept: their metadata is mirrored, and the body is fetched when a
    node needs it.
    """

    def __init__(self, client: KubeClient, informers: Informers, hub: Push, *, address: str) -> None:
        self._client = client
        self._informers = informers
        self._hub = hub
        self._address = address
        self._nodes: Reflector
        self._pods: Reflector
        self._bodies: dict[str, Reflector] = {}
        self._by_node = ByNode()
        self._locations = Locations()
        self._targets: dict[Reference, dict[str, None]] = {}
        self._fetches = WorkQueue[Reference]("bodies", self._push_body)
        self._annotations = WorkQueue[str]("annotations", self._annotate, workers=2)
        self._subscriptions: list[Callable[[], None]] = []

    def start(self, scope: Spawner) -> None:
        self._nodes = self._informers.of(Watched(NODES))
        self._pods = self._informers.of(Watched(PODS))
        self._bodies = {
            ResourceType.CONFIGMAP: self._informers.of(Watched(CONFIGMAPS, metadata_only=True)),
            ResourceType.SECRET: self._informers.of(Watched(SECRETS, metadata_only=True)),
        }
        self._fetches.start(scope)
        self._annotations.start(scope)
        self._subscriptions = [
            self._nodes.subscribe(
                on_add=self._node_changed,
                on_update=lambda _, new: self._node_changed(new),
                on_delete=self._node_deleted,
            ),
            self._by_node.follow(self._pods),
            self._pods.subscribe(on_add=self._pod_added, on_update=self._pod_updated, on_delete=self._pod_deleted),
        ]
        for kind, mirror in self._bodies.items():
            self._subscriptions.append(self._follow(kind, mirror))

    def stop(self) -> None:
        for unsubscribe in self._subscriptions:
            unsubscribe()
        self._subscriptions = []
        self._fetches.stop()
        self._annotations.stop()
        self._locations.clear()
        self._targets.clear()

    @property
    def mirrors(self) -> list[Reflector]:
        return [self._nodes, self._pods, *self._bodies.values()]

    def session_up(self, node: str) -> None:
        """Everything that a node must know."""
        self._annotations.add(node)
        own = self._nodes.get("", node)
        if own is not None:
            self._node_changed(own)
        for pod in self._by_node.on(node):
            self._push(node, ResourceType.POD, pod, Operation.INSERT)
        for reference in self._locations.on_node(node):
            self._fetch(reference, node)

    # Nodes

    def _node_changed(self, node: KubeObject) -> None:
        name = key_of(node)[1]
        if self._hub.connected(name) and (node["metadata"].get("labels") or {}).get(EDGE_LABEL) == "":
            self._push(name, ResourceType.NODE, node, Operation.UPDATE)

    def _node_deleted(self, node: KubeObject) -> None:
        name = key_of(node)[1]
        if self._hub.connected(name):  # ends the session
            self._hub.push(name, _message(ResourceName(NULL, ResourceType.NODE, name), Operation.DELETE, None))

    async def _annotate(self, name: str) -> None:
        """Says on the node which gateway holds its session."""
        if not self._hub.connected(name):
            return
        known = self._nodes.get("", name)
        if known is not None and (known["metadata"].get("annotations") or {}).get(CLOUDCORE) == self._address:
            return  # a fleet that reconnects would cause a write, and a push, for each of its nodes
        try:
            await self._client.patch(NODES, None, name, {"metadata": {"annotations": {CLOUDCORE: self._address}}})
        except ApiError as error:
            if not error.not_found:  # not registered yet; registration sets it
                raise

    # Pods

    def _pod_added(self, pod: KubeObject) -> None:
        self._pod(pod, Operation.INSERT)

    def _pod_updated(self, old: KubeObject, new: KubeObject) -> None:
        if relevant_change(old, new):
            self._pod(new, Operation.UPDATE)

    def _pod(self, pod: KubeObject, operation: Operation) -> None:
        node = node_of(pod)
        if not node:
            return
        fresh = self._locations.put(pod["metadata"]["uid"], node, references(pod))
        if self._hub.connected(node):
            self._push(node, ResourceType.POD, pod, operation)
            for reference in fresh:
                self._fetch(reference, node)

    def _pod_deleted(self, pod: KubeObject) -> None:
        self._locations.remove(pod["metadata"]["uid"])
        node = node_of(pod)
        if node and self._hub.connected(node):
            self._push(node, ResourceType.POD, pod, Operation.DELETE)

    # Config maps and secrets

    def _follow(self, kind: str, mirror: Reflector) -> Callable[[], None]:
        def changed(obj: KubeObject) -> None:
            reference = Reference(kind, *key_of(obj))
            for node in self._locations.nodes(reference):
                self._fetch(reference, node)

        def deleted(obj: KubeObject) -> None:
            for node in self._locations.nodes(Reference(kind, *key_of(obj))):
                if self._hub.connected(node):
                    self._push(node, ResourceType(kind), obj, Operation.DELETE)

        return mirror.subscribe(on_add=changed, on_update=lambda _, new: changed(new), on_delete=deleted)

    def _fetch(self, reference: Reference, node: str) -> None:
        if self._hub.connected(node):
            self._targets.setdefault(reference, {})[node] = None
            self._fetches.add(reference)

    async def _push_body(self, reference: Reference) -> None:
        """One request for all nodes that wait for the same object."""
        nodes = self._targets.pop(reference, {})
        if not nodes:
            return
        gvr = CONFIGMAPS if reference.kind == CONFIGMAP else SECRETS
        try:
            obj = slim(await self._client.get(gvr, reference.namespace, reference.name))
        except ApiError as error:
            if error.not_found:  # the pod waits for it; its creation brings it
                return
            self._targets.setdefault(reference, {}).update(nodes)
            raise
        except BaseException:
            self._targets.setdefault(reference, {}).update(nodes)
            raise
        # KubeEdge sends a new secret as an update, a new config map as an insert.
        operation = Operation.INSERT if reference.kind == CONFIGMAP else Operation.UPDATE
        for node in nodes:
            if self._hub.connected(node):
                self._push(node, ResourceType(reference.kind), obj, operation)

    def _push(self, node: str, kind: ResourceType, obj: KubeObject, operation: Operation) -> None:
        namespace, name = key_of(obj)
        self._hub.push(node, _message(ResourceName(namespace or NULL, kind, name), operation, obj))


def relevant_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether an edge must see the new version of a pod: a change of its status alone came from the edge."""
    return bool(old.get("spec") != new.get("spec") or _stable(old) != _stable(new))


def _stable(obj: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in obj["metadata"].items() if key not in ("resourceVersion", "managedFields")}


def _message(resource: ResourceName, operation: Operation, obj: KubeObject | None) -> Message:
    version = "" if obj is None else str(obj["metadata"].get("resourceVersion", ""))
    return Message.new(
        source=Source.EDGECONTROLLER,
        group=Group.RESOURCE,
        operation=operation,
        resource=str(resource),
        content=obj,
        resource_version=version,
    )
