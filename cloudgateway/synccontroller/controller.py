"""synccontroller: compares records with objects and sends what a node lacks (KubeEdge reference 2.9)."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Protocol

from cloudgateway.kube.client import KubeClient, KubeObject
from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.informers import Informers, Spawner
from cloudgateway.kube.reflector import Reflector, Watched, key_of, slim
from cloudgateway.kube.resources import (
    CLUSTER_OBJECT_SYNCS,
    DEVICE_MODELS,
    DEVICES,
    GVR,
    NODES,
    OBJECT_SYNCS,
    PODS,
    find_by_kind,
)
from cloudgateway.kube.workqueue import WorkQueue
from cloudgateway.synccontroller.decide import Action, SyncRecord, decide, node_of_record, parse_record
from edgeappliance.kernel.clock import Clock, SystemClock
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.kernel.log import get_logger
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import Group, Operation, ResourceType, Source
from edgeappliance.wire.resource import NULL, ResourceName
from edgeappliance.wire.twin import MemberDevice, MembershipUpdate

__all__ = ["Hub", "SyncController"]

_log = get_logger("synccontroller")

# These are mirrored with their bodies by other controllers; one watch serves all.
_WHOLE = (PODS, DEVICES, DEVICE_MODELS, NODES)
_BREATH = 200
"""Records after which a round lets others run: it looks at some ten thousand, a few microseconds each."""

RecordKey = tuple[str, str]
"""Namespace and name of a record."""


class Hub(Protocol):
    """What this controller needs of cloudhub."""

    def connected(self, node: str) -> bool:
        """Whether this gateway holds the node's session."""
        ...

    def push(self, node: str, message: Message) -> None:
        """Queues a message (its resource without the node prefix)."""
        ...


class SyncController:
    """Goes over all records of connected nodes every `interval` seconds.

    A difference that was sent is not sent again before `patience` seconds have passed, unless the object has
    changed meanwhile: the hub repeats what is not acknowledged by itself.
    """

    def __init__(
        self,
        client: KubeClient,
        informers: Informers,
        hub: Hub,
        scope: Spawner,
        *,
        interval: float = 5.0,
        patience: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._informers = informers
        self._hub = hub
        self._scope = scope
        self._interval = interval
        self._patience = patience
        self._clock = clock or SystemClock()
        self._sent: dict[str, tuple[str, float]] = {}
        self._running = False
        self._records: tuple[Reflector, Reflector]
        self._of_node: dict[str, dict[RecordKey, SyncRecord]] = {}
        self._kinds: dict[tuple[str, str, bool], tuple[GVR, Reflector]] = {}
        self._nodes: Reflector
        self._subscriptions: list[Callable[[], None]] = []
        self._orphans = WorkQueue[tuple[GVR, str, str]]("orphaned-records", self._delete_record, workers=2)

    async def start(self) -> None:
        self._records = (
            self._informers.of(Watched(OBJECT_SYNCS)),
            self._informers.of(Watched(CLUSTER_OBJECT_SYNCS)),
        )
        self._nodes = self._informers.of(Watched(NODES))
        self._subscriptions = [self._nodes.subscribe(on_delete=lambda node: self._node_deleted(key_of(node)[1]))]
        for mirror in self._records:
            self._subscriptions.append(
                mirror.subscribe(on_add=self._put, on_update=lambda _, new: self._put(new), on_delete=self._drop)
            )
        self._orphans.start(self._scope)
        self._scope.spawn(self._run(), name="rounds")
        self._running = True

    async def stop(self) -> None:
        self._running = False
        for unsubscribe in self._subscriptions:
            unsubscribe()
        self._subscriptions = []
        self._orphans.stop()
        self._sent.clear()
        self._of_node.clear()
        self._kinds.clear()

    def health(self) -> Health:
        if not self._running:
            return Health(State.STOPPED)
        for mirror in (*self._records, self._nodes):
            if mirror.last_error:
                return Health(State.DEGRADED, mirror.last_error)
        return Health(State.RUNNING, details={"records": sum(len(mirror) for mirror in self._records)})

    async def round(self) -> int:
        """One comparison of every record of connected nodes; gives the number of messages sent."""
        sent = 0
        now = self._clock.monotonic()
        self._sent = {name: entry for name, entry in self._sent.items() if now - entry[1] < self._patience}
        looked = 0
        for node in [node for node in self._of_node if self._hub.connected(node)]:
            for record in list(self._of_node.get(node, {}).values()):
                looked += 1
                if looked % _BREATH == 0:
                    await asyncio.sleep(0)
                try:
                    sent += await self._repair(record, now)
                except ApplianceError as error:
                    _log.warning("cannot repair", record=record.record, error=str(error))
        return sent

    async def _run(self) -> None:
        for mirror in (*self._records, self._nodes):
            await mirror.wait_synced()
        for node in list(self._of_node):
            if self._nodes.get("", node) is None:
                self._node_deleted(node)
        while True:
            await self.round()
            await asyncio.sleep(self._interval)

    def _put(self, obj: KubeObject) -> None:
        record = parse_record(obj)
        if record is not None:
            self._of_node.setdefault(record.node, {})[record.namespace, record.record] = record

    def _drop(self, obj: KubeObject) -> None:
        namespace, name = key_of(obj)
        node = node_of_record(name)
        records = self._of_node.get(node)
        if records is not None and records.pop((namespace, name), None) is not None and not records:
            del self._of_node[node]

    def _kind(self, record: SyncRecord) -> tuple[GVR, Reflector]:
        """The resource of the recorded object, and its mirror."""
        key = (record.api_version, record.kind, bool(record.namespace))
        known = self._kinds.get(key)
        if known is None:
            gvr = find_by_kind(record.api_version, record.kind, namespaced=bool(record.namespace))
            known = (gvr, self._informers.of(Watched(gvr, metadata_only=gvr not in _WHOLE)))
            self._kinds[key] = known
        return known

    async def _repair(self, record: SyncRecord, now: float) -> int:
        gvr, mirror = self._kind(record)
        if not mirror.synced:
            return 0
        obj = mirror.get(record.namespace, record.name)
        action = decide(record, obj)
        if action is Action.NOTHING:
            self._sent.pop(record.record, None)
            return 0
        version = "" if obj is None else str(obj["metadata"].get("resourceVersion", ""))
        if self._sent.get(record.record, ("", 0.0))[0] == f"{action.value} {version}":
            return 0
        # The mirror may lag behind the record or hold metadata only: what is sent is read now.
        obj = await self._read(gvr, record)
        action = decide(record, obj)
        message = _message(gvr, record, action, obj)
        if message is None or not self._hub.connected(record.node):
            return 0
        if record.kind == DEVICES.kind and action is Action.DELETE:
            self._hub.push(record.node, _farewell(record))
        self._hub.push(record.node, message)
        self._sent[record.record] = (f"{action.value} {version}", now)
        _log.debug("repaired", node=record.node, resource=message.resource, operation=message.operation)
        return 1

    async def _read(self, gvr: GVR, record: SyncRecord) -> KubeObject | None:
        try:
            return slim(await self._client.get(gvr, record.namespace or None, record.name))
        except ApiError as error:
            if error.not_found:
                return None
            raise

    def _node_deleted(self, node: str) -> None:
        for namespace, name in self._of_node.get(node, {}):
            self._orphans.add((OBJECT_SYNCS if namespace else CLUSTER_OBJECT_SYNCS, namespace, name))

    async def _delete_record(self, key: tuple[GVR, str, str]) -> None:
        gvr, namespace, name = key
        if self._nodes.get("", node_of_record(name)) is not None:  # the node is back
            return
        try:
            await self._client.delete(gvr, namespace or None, name)
        except ApiError as error:
            if not error.not_found:
                raise


def _message(gvr: GVR, record: SyncRecord, action: Action, obj: KubeObject | None) -> Message | None:
    """The repair; deletions carry a stub with name, namespace and the UID that the node knows."""
    if action is Action.NOTHING:
        return None
    if action is Action.UPDATE and obj is not None:
        content = obj
        version = str(obj["metadata"].get("resourceVersion", ""))
    elif gvr == NODES:
        return None  # a node's own deletion ends its session (edgecontroller)
    else:
        metadata = {"name": record.name, "uid": record.uid}
        if record.namespace:
            metadata["namespace"] = record.namespace
        content = {"apiVersion": record.api_version, "kind": record.kind, "metadata": metadata}
        version = ""
    return Message.new(
        source=Source.EDGECONTROLLER,
        group=Group.RESOURCE,
        operation=Operation.UPDATE if action is Action.UPDATE else Operation.DELETE,
        resource=str(ResourceName(record.namespace or NULL, record.kind.lower(), record.name)),
        content=content,
        resource_version=version,
    )


def _farewell(record: SyncRecord) -> Message:
    """A device leaves the node's twins by membership; that message is not acknowledged and may have been lost."""
    device = MemberDevice(id=f"{record.namespace}/{record.name}", name=record.name)
    return Message.new(
        source=Source.DEVICECONTROLLER,
        group=Group.TWIN,
        operation=Operation.UPDATE,
        resource=ResourceType.MEMBERSHIP,
        content=MembershipUpdate(
            event_id=str(uuid.uuid4()), timestamp=time.time_ns() // 1_000_000, removed_devices=[device]
        ),
    )
