"""Who concerns whom: the view of the cluster by which cloudhub decides what a node may say."""

from collections.abc import Callable
from typing import Any

from cloudgateway.edgecontroller.locations import references
from cloudgateway.kube.informers import Informers
from cloudgateway.kube.reflector import Key, Reflector, Watched, key_of
from cloudgateway.kube.resources import DEVICES, PERSISTENT_VOLUME_CLAIMS, PODS, VOLUME_ATTACHMENTS
from edgeappliance.kernel.component import Health, State
from edgeappliance.wire.operations import ResourceType

Need = tuple[str, str, str]
"""Resource type, namespace, name."""


class Relations:
    """`cloudhub.needs.ClusterView` from mirrors. A component."""

    def __init__(self, informers: Informers, *, volumes: bool) -> None:
        """`volumes`: the API serves volume attachments (the embedded one does not)."""
        self._informers = informers
        self._volumes = volumes
        self._pods: Reflector | None = None
        self._devices: Reflector | None = None
        self._claims: Reflector | None = None
        self._attachments: Reflector | None = None
        self._owners: dict[Key, str] = {}
        self._needs: dict[str, dict[Key, frozenset[Need]]] = {}
        self._unsubscribe: Callable[[], None] | None = None

    async def start(self) -> None:
        """Begin to mirror."""
        self._owners.clear()
        self._needs.clear()
        self._pods = self._informers.of(Watched(PODS))
        self._devices = self._informers.of(Watched(DEVICES))
        self._unsubscribe = self._pods.subscribe(on_add=self._put, on_update=self._changed, on_delete=self._remove)
        if self._volumes:
            self._claims = self._informers.of(Watched(PERSISTENT_VOLUME_CLAIMS))
            self._attachments = self._informers.of(Watched(VOLUME_ATTACHMENTS))

    async def stop(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def health(self) -> Health:
        if self._pods is None or not self._pods.synced:
            return Health(State.STARTING, "reading pods")
        return Health(State.RUNNING, details={"pods": len(self._owners)})

    async def wait_synced(self) -> None:
        """Return when the mirrors hold what the API holds; an API without volumes is none to wait for."""
        for mirror in (self._pods, self._devices):
            if mirror is not None:
                await mirror.wait_synced()

    def pod_node(self, namespace: str, name: str) -> str | None:
        """The node a pod is bound to, "" when it is not, None when there is none."""
        pod = None if self._pods is None else self._pods.get(namespace, name)
        return None if pod is None else str((pod.get("spec") or {}).get("nodeName") or "")

    def device_node(self, namespace: str, name: str) -> str | None:
        """The node of a Device, None when there is none."""
        device = None if self._devices is None else self._devices.get(namespace, name)
        return None if device is None else str((device.get("spec") or {}).get("nodeName") or "")

    def references(self, node: str, kind: ResourceType, namespace: str, name: str) -> bool:
        """Whether a pod of the node needs the object."""
        if kind == ResourceType.VOLUME_ATTACHMENT:
            found = None if self._attachments is None else self._attachments.get("", name)
            return found is not None and (found.get("spec") or {}).get("nodeName") == node
        needs = self._needs.get(node, {}).values()
        if kind == ResourceType.PERSISTENT_VOLUME:
            return any(self._volume(need) == name for pod in needs for need in pod)
        return any((kind, namespace, name) in pod for pod in needs)

    def _volume(self, need: Need) -> str:
        """The volume that a claim is bound to; "" for anything else."""
        kind, namespace, name = need
        if kind != ResourceType.PERSISTENT_VOLUME_CLAIM or self._claims is None:
            return ""
        claim = self._claims.get(namespace, name)
        return "" if claim is None else str((claim.get("spec") or {}).get("volumeName") or "")

    def _changed(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        if old.get("spec") != new.get("spec"):  # statuses change all the time
            self._put(new)

    def _put(self, pod: dict[str, Any]) -> None:
        spec = pod.get("spec") or {}
        node = str(spec.get("nodeName") or "")
        self._remove(pod)
        if not node:
            return
        namespace, _ = key = key_of(pod)
        needs: set[Need] = {(one.kind, one.namespace, one.name) for one in references(pod)}
        account = str(spec.get("serviceAccountName") or "default")
        needs.add((ResourceType.SERVICE_ACCOUNT_TOKEN, namespace, account))
        for volume in spec.get("volumes") or []:
            claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if claim:
                needs.add((ResourceType.PERSISTENT_VOLUME_CLAIM, namespace, str(claim)))
        self._owners[key] = node
        self._needs.setdefault(node, {})[key] = frozenset(needs)

    def _remove(self, pod: dict[str, Any]) -> None:
        key = key_of(pod)
        node = self._owners.pop(key, None)
        if node is not None:
            del self._needs[node][key]
            if not self._needs[node]:
                del self._needs[node]
