"""Nodes that fell silent become Unknown; pods of nodes that are gone go; old events go."""

import asyncio
from dataclasses import dataclass
from typing import Any

from cloudgateway.apiserver.controllers.readiness import Readiness
from cloudgateway.apiserver.controllers.recorder import Recorder
from cloudgateway.apiserver.controllers.tainting import TaintEviction
from cloudgateway.apiserver.store import ObjectStore
from cloudgateway.apiserver.writing import Writer
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.database import StorageError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kubeapi.errors import StatusFailure
from edgeappliance.kubeapi.printers import event_sort_key
from edgeappliance.kubeapi.resources import Registry
from edgeappliance.kubeapi.storage import Entry
from edgeappliance.kubeapi.times import rfc3339

NODES, PODS, EVENTS, LEASES = "nodes", "pods", "events", "leases.coordination.k8s.io"
NODE_LEASES = "kube-node-lease"
"""Namespace of the leases with which nodes say that they live."""

GRACE = 40.0
"""Seconds without a renewed lease or a new status after which a node is Unknown (as node-lifecycle has it)."""
ORPHAN_GRACE = 40.0
"""Seconds that a pod outlives its node object: a node that registers anew keeps its pods."""
EVENT_LIFE_MS = 3600 * 1000
EVENT_INTERVAL = 60.0
INTERVAL = 5.0
COMPONENT = "node-controller"
CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


@dataclass(frozen=True, slots=True)
class _Sign:
    lease: int
    version: int
    heartbeat: str
    since: float


def _heartbeat(entry: Entry) -> str:
    return repr(entry.object().get("status", {}).get("conditions"))


class NodeWatch:
    """Looks at all nodes and their pods every `INTERVAL`.

    Silence is measured by our own clock from when a sign of life was seen, so a node's wrong clock, or a restart
    of ours, makes nobody Unknown.
    """

    def __init__(self, *, store: ObjectStore, writer: Writer, registry: Registry, clock: Clock) -> None:
        self._store = store
        self._writer = writer
        self._registry = registry
        self._clock = clock
        parts: dict[str, Any] = {"store": store, "writer": writer, "registry": registry, "clock": clock}
        recorder = Recorder(**parts, component=COMPONENT)
        self._readiness = Readiness(**parts, recorder=recorder)
        self._evictions = TaintEviction(**parts, recorder=recorder)
        self._signs: dict[str, _Sign] = {}
        self._events_seen_to = 0.0
        self._missing: dict[str, float] = {}
        self._log = get_logger("nodes")

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                await self.examine()
            except StorageError as error:
                self._log.warning("the examination of nodes waits for the disk", error=error)
            await asyncio.sleep(INTERVAL)

    async def examine(self) -> None:
        """One look at everything."""
        await self._silent_nodes()
        await self._readiness.examine()
        await self._evictions.examine()
        await self._stray_pods()
        await self._old_events()

    async def _silent_nodes(self) -> None:
        resource = self._registry.stored(NODES)
        now = self._clock.monotonic()
        signs = {}
        for entry in self._store.entries(NODES):
            sign = signs[entry.name] = self._sign(entry, now)
            if now - sign.since >= GRACE and resource is not None:
                changed = await self._writer.modify(resource, entry, self._silence)
                if changed is not None and changed.version != entry.version:
                    self._log.warning("node fell silent", node=entry.name, seconds=int(now - sign.since))
                    # Our own write is no sign of life.
                    signs[entry.name] = _Sign(sign.lease, changed.version, _heartbeat(changed), sign.since)
        self._signs = signs

    def _sign(self, entry: Entry, now: float) -> "_Sign":
        """The newest sign of life: a renewed lease or a new heartbeat; labels that somebody sets are none."""
        lease = self._store.get(LEASES, NODE_LEASES, entry.name)
        renewed = lease.version if lease is not None else 0
        known = self._signs.get(entry.name)
        if known is not None and known.lease == renewed and known.version == entry.version:
            return known
        heartbeat = _heartbeat(entry)
        if known is not None and known.lease == renewed and known.heartbeat == heartbeat:
            return _Sign(renewed, entry.version, heartbeat, known.since)
        return _Sign(renewed, entry.version, heartbeat, now)

    def _silence(self, value: dict[str, Any]) -> bool:
        conditions: list[dict[str, Any]] = value.setdefault("status", {}).setdefault("conditions", [])
        present = {condition.get("type"): condition for condition in conditions}
        now = rfc3339(self._clock.wall_ms())
        changed = False
        for kind in CONDITIONS:
            condition = present.get(kind)
            if condition is None and kind != "Ready":
                continue
            if condition is None:
                condition = {"type": kind, "reason": "NodeStatusNeverUpdated"}
                condition["message"] = "Kubelet never posted node status."
                conditions.append(condition)
            elif condition.get("status") == "Unknown":
                continue
            else:
                condition["reason"] = "NodeStatusUnknown"
                condition["message"] = "Kubelet stopped posting node status."
            condition["status"] = "Unknown"
            condition["lastTransitionTime"] = now
            changed = True
        return changed

    async def _stray_pods(self) -> None:
        """Pods whose node is gone, and pods that are being deleted and never had a node."""
        now = self._clock.monotonic()
        missing: dict[str, float] = {}
        for entry in self._store.entries(PODS):
            node = entry.fields.get("spec.nodeName", "")
            if not node:
                if entry.deleting:
                    await self._delete(PODS, entry)
                continue
            if self._store.get(NODES, "", node) is not None:
                continue
            since = missing[entry.uid] = self._missing.get(entry.uid, now)
            if now - since >= ORPHAN_GRACE:
                self._log.info("pod of a deleted node collected", pod=f"{entry.namespace}/{entry.name}", node=node)
                await self._delete(PODS, entry)
        self._missing = missing

    async def _old_events(self) -> None:
        now = self._clock.monotonic()
        if now < self._events_seen_to:
            return
        self._events_seen_to = now + EVENT_INTERVAL
        limit = self._clock.wall_ms() - EVENT_LIFE_MS
        for index, entry in enumerate(self._store.entries(EVENTS)):
            if index % 200 == 199:
                await asyncio.sleep(0)  # a site with thousands of events is served meanwhile
            seen = event_sort_key(entry.object())
            if 0 < seen < limit:
                await self._delete(EVENTS, entry)

    async def _delete(self, key: str, entry: Entry) -> None:
        resource = self._registry.stored(key)
        if resource is None:
            return
        try:
            await self._writer.delete_entry(resource, entry, {"gracePeriodSeconds": 0})
        except StatusFailure as failure:
            if failure.reason != "NotFound":  # gone already is what was wanted
                self._log.warning("object not deleted", resource=key, name=entry.name, error=failure)
