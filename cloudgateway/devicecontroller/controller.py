"""Pushes devices and models to the nodes that need them and takes their reports (KubeEdge reference 1.4 G-J)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

from cloudgateway.devicecontroller.status_writer import DeviceKey, Report, StatusWriter
from cloudgateway.kube.by_node import ByNode, node_of
from cloudgateway.kube.client import KubeClient, KubeObject
from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.informers import Informers, Spawner
from cloudgateway.kube.reflector import Reflector, Watched, key_of
from cloudgateway.kube.resources import DEVICE_MODELS, DEVICE_STATUSES, DEVICES
from cloudgateway.kube.workqueue import WorkQueue
from edgeappliance.kernel.clock import Clock, SystemClock
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.log import get_logger
from edgeappliance.wire import gojson
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import OK, Group, Operation, ResourceType, Source
from edgeappliance.wire.resource import ResourceName, strip_node
from edgeappliance.wire.twin import MemberDevice, MembershipUpdate, StateMessage, TwinUpdate

__all__ = ["DeviceController", "Hub"]

_log = get_logger("devicecontroller")


class Hub(Protocol):
    """What this controller needs of cloudhub."""

    def connected(self, node: str) -> bool:
        """Whether this gateway holds the node's session."""
        ...

    def push(self, node: str, message: Message) -> None:
        """Queues a message (its resource without the node prefix)."""
        ...

    def on_session(self, callback: Callable[[str, bool, Any], None]) -> None:
        """Has `callback(node, up, info)` called when a session begins or ends."""
        ...


class DeviceController:
    """Devices down, twins and states up, for the nodes whose session this gateway holds."""

    def __init__(
        self,
        client: KubeClient,
        informers: Informers,
        hub: Hub,
        scope: Spawner,
        *,
        clock: Clock | None = None,
        writes_per_second: float = 200.0,
    ) -> None:
        self._client = client
        self._informers = informers
        self._hub = hub
        self._scope = scope
        self._devices: Reflector
        self._models: Reflector
        self._by_node = ByNode()
        self._subscriptions: list[Callable[[], None]] = []
        self._running = False
        self._statuses = WorkQueue("devicestatus", self._ensure_status, workers=4)
        self._owners: dict[DeviceKey, str] = {}
        self.writer = StatusWriter(
            client,
            self,
            clock=clock or SystemClock(),
            answer=self._answer,
            unknown=self._unknown,
            writes_per_second=writes_per_second,
        )
        hub.on_session(self._session)

    async def start(self) -> None:
        self._devices = self._informers.of(Watched(DEVICES))
        self._models = self._informers.of(Watched(DEVICE_MODELS))
        self._running = True
        self.writer.start(self._scope)
        self._scope.spawn(self._begin_statuses(), name="statuses")
        self._subscriptions = [
            self._by_node.follow(self._devices),  # first, so that it is true when the next hears of a change
            self._devices.subscribe(
                on_add=self._device_added, on_update=self._device_updated, on_delete=self._device_deleted
            ),
            self._models.subscribe(on_add=self._model_changed, on_update=lambda _, new: self._model_changed(new)),
        ]

    async def stop(self) -> None:
        self._running = False
        for unsubscribe in self._subscriptions:
            unsubscribe()
        self._subscriptions = []
        self._statuses.stop()
        self.writer.stop()

    def health(self) -> Health:
        if not self._running:
            return Health(State.STOPPED)
        figures = self.writer.figures
        details = {
            "reports_total": figures.reports,
            "writes_total": figures.writes,
            "reports_superseded_total": figures.superseded,
            "reports_dropped_total": figures.dropped,
            "waiting": self.writer.waiting,
        }
        for mirror in (self._devices, self._models):
            if mirror.last_error:
                return Health(State.DEGRADED, mirror.last_error, details=details)
        if not self._devices.synced:
            return Health(State.STARTING, "reading devices", details=details)
        return Health(State.RUNNING, details=details)

    # From the edge

    async def handle(self, node: str, message: Message) -> None:
        """A message of source ``twin``. Never waits; what is malformed is answered with an error."""
        resource = strip_node(message.resource)
        parts = resource.split("/")
        try:
            if len(parts) == 5 and parts[0] == "device" and parts[3:] == ["twin", "edge_updated"]:
                update = message.content_as(TwinUpdate)
                self.writer.twins((parts[1], parts[2]), Report(node, message.id), update)
            elif len(parts) == 5 and parts[0] == "device" and parts[3:] == ["state", "update"]:
                state = gojson.loads(message.content_bytes(), StateMessage, field="content").device
                self.writer.state((parts[1], parts[2]), Report(node, message.id), state)
            else:
                # The edge asks for membership/detail on every connect; KubeEdge's cloud does not answer either.
                _log.debug("not for us", node=node, resource=resource, operation=message.operation)
        except WireError as error:
            _log.warning("malformed report", node=node, resource=resource, error=str(error))
            self._hub.push(node, message.error(str(error)))

    async def device(self, key: DeviceKey) -> Mapping[str, Any] | None:
        """See `DeviceLookup`."""
        if self._devices.synced:
            mirrored = self._devices.get(*key)
            if mirrored is not None:
                return mirrored
        try:
            return await self._client.get(DEVICES, *key)
        except ApiError as error:
            if error.not_found:
                return None
            raise

    def properties(self, device: Mapping[str, Any]) -> Collection[str]:
        """The names that the Device lists, and those of its model."""
        names = _property_names(device)
        model = self._models.get(key_of(device)[0], _model(device))
        return names if model is None else names | _property_names(model)

    def _answer(self, report: Report) -> None:
        self._hub.push(
            report.node,
            Message.new(
                source=Source.DEVICECONTROLLER,
                group=Group.TWIN,
                operation=Operation.RESPONSE,
                resource=ResourceType.TWIN,
                content=OK,
                parent_id=report.message_id,
            ),
        )

    def _unknown(self, node: str, key: DeviceKey) -> None:
        _log.info("a node reports for a device that does not exist", node=node, device="/".join(key))
        self._push_membership(node, removed=[key])

    # To the edge

    def _session(self, node: str, up: bool, info: Any) -> None:
        del info
        if not self._running:
            return
        mine = self._by_node.on(node)
        for device in mine:
            # While the session was elsewhere, another gateway may have written the status.
            self.writer.forget(key_of(device))
        if not up or not mine:
            return
        self._push_membership(node, added=mine)
        for model in {(key_of(device)[0], _model(device)) for device in mine}:
            self._push_model(node, model, Operation.INSERT)
        for device in mine:
            self._push(node, ResourceType.DEVICE, device, Operation.INSERT)

    def _device_added(self, device: KubeObject) -> None:
        node = node_of(device)
        if not node:
            return
        if self._owners.get(key_of(device)) != device["metadata"].get("uid"):
            self._statuses.add(key_of(device))
        if self._hub.connected(node):
            self._attach(node, device)

    def _device_updated(self, old: KubeObject, new: KubeObject) -> None:
        before, after = node_of(old), node_of(new)
        if before != after:
            if before and self._hub.connected(before):
                self._detach(before, old)
            self._device_added(new)
            return
        if old.get("spec") == new.get("spec") or not after:
            return
        if _property_names(old) - _property_names(new) and self._hub.connected(after):
            self.writer.prune(key_of(new))
        if self._hub.connected(after):
            self._push_model(after, (key_of(new)[0], _model(new)), Operation.UPDATE)
            self._push(after, ResourceType.DEVICE, new, Operation.UPDATE)
            if _model(old) != _model(new):
                self._drop_unused_model(after, key_of(old)[0], _model(old))

    def _device_deleted(self, device: KubeObject) -> None:
        self._owners.pop(key_of(device), None)
        self.writer.forget(key_of(device))
        node = node_of(device)
        if node and self._hub.connected(node):
            self._detach(node, device)

    def _model_changed(self, model: KubeObject) -> None:
        namespace, name = key_of(model)
        nodes = {
            node_of(device) for device in self._devices if key_of(device)[0] == namespace and _model(device) == name
        }
        for node in nodes:
            if node and self._hub.connected(node):
                self._push(node, ResourceType.DEVICE_MODEL, model, Operation.UPDATE)

    def _attach(self, node: str, device: KubeObject) -> None:
        self._push_membership(node, added=[device])
        self._push_model(node, (key_of(device)[0], _model(device)), Operation.INSERT)
        self._push(node, ResourceType.DEVICE, device, Operation.INSERT)

    def _detach(self, node: str, device: KubeObject) -> None:
        self._push_membership(node, removed=[key_of(device)])
        self._push(node, ResourceType.DEVICE, device, Operation.DELETE)
        self._drop_unused_model(node, key_of(device)[0], _model(device))

    def _drop_unused_model(self, node: str, namespace: str, name: str) -> None:
        in_use = any(key_of(device)[0] == namespace and _model(device) == name for device in self._by_node.on(node))
        model = self._models.get(namespace, name)
        if not in_use and model is not None:
            self._push(node, ResourceType.DEVICE_MODEL, model, Operation.DELETE)

    def _push_model(self, node: str, key: DeviceKey, operation: Operation) -> None:
        model = self._models.get(*key)
        if model is not None:  # one that comes later is pushed when it comes
            self._push(node, ResourceType.DEVICE_MODEL, model, operation)

    def _push(self, node: str, kind: ResourceType, obj: KubeObject, operation: Operation) -> None:
        namespace, name = key_of(obj)
        self._hub.push(
            node,
            Message.new(
                source=Source.DEVICECONTROLLER,
                group=Group.RESOURCE,
                operation=operation,
                resource=str(ResourceName(namespace, kind, name)),
                content=obj,
                resource_version=str(obj["metadata"].get("resourceVersion", "")),
            ),
        )

    def _push_membership(
        self, node: str, *, added: Iterable[KubeObject] = (), removed: Iterable[DeviceKey] = ()
    ) -> None:
        update = MembershipUpdate(
            event_id=str(uuid.uuid4()),
            timestamp=time.time_ns() // 1_000_000,
            added_devices=[_member(device) for device in added] or None,
            removed_devices=[MemberDevice(id=f"{namespace}/{name}", name=name) for namespace, name in removed] or None,
        )
        self._hub.push(
            node,
            Message.new(
                source=Source.DEVICECONTROLLER,
                group=Group.TWIN,
                operation=Operation.UPDATE,
                resource=ResourceType.MEMBERSHIP,
                content=update,
            ),
        )

    # DeviceStatus objects

    async def _begin_statuses(self) -> None:
        """Learns which statuses exist with one list, so that a start does not ask for each device."""
        await self._devices.wait_synced()
        try:
            found = await self._client.list(DEVICE_STATUSES, metadata_only=True)
        except ApiError as error:
            _log.warning("cannot list device statuses", error=str(error))
        else:
            for status in found.items:
                for owner in status["metadata"].get("ownerReferences") or []:
                    if owner.get("controller"):
                        self._owners[key_of(status)] = str(owner.get("uid", ""))
        self._statuses.start(self._scope)

    async def _ensure_status(self, key: DeviceKey) -> None:
        device = self._devices.get(*key)
        if device is None or not node_of(device):
            return
        uid = str(device["metadata"].get("uid", ""))
        if self._owners.get(key) == uid:
            return
        await self.writer.ensure(device)
        self._owners[key] = uid


def _model(device: Mapping[str, Any]) -> str:
    return str(((device.get("spec") or {}).get("deviceModelRef") or {}).get("name") or "")


def _property_names(obj: Mapping[str, Any]) -> set[str]:
    return {str(entry.get("name")) for entry in (obj.get("spec") or {}).get("properties") or []}


def _member(device: Mapping[str, Any]) -> MemberDevice:
    namespace, name = key_of(device)
    labels = device["metadata"].get("labels") or {}
    return MemberDevice(id=f"{namespace}/{name}", name=name, description=str(labels.get("description", "")))
