"""devicetwin: keeps the twins of this node's devices, answers apps and mappers, reports to the cloud.

What changes only reported values is done at once, in memory, and saved with the next commit. What may change an
expected value waits in its device's line until one durable write has it on the disk; then it is answered.
"""

import asyncio
import time
from collections import deque

import msgspec

from edgeappliance.devicemodel import Access, DeviceSpec
from edgeappliance.devicetwin import bodies, rules, work
from edgeappliance.devicetwin.device import Device
from edgeappliance.devicetwin.durable import DurableLines
from edgeappliance.devicetwin.members import Bus, Members
from edgeappliance.devicetwin.reporter import Cloud, Reporter
from edgeappliance.devicetwin.requests import DEVICE_PREFIX, NO_DEVICE_RESULT, Address, Request, parse, parse_topic
from edgeappliance.kernel.clock import Clock, SystemClock
from edgeappliance.kernel.component import Condition, Health, State
from edgeappliance.kernel.database import StorageError
from edgeappliance.kernel.errors import TransientError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.store import TwinStore
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import Operation
from edgeappliance.wire.twin import MemberDevice, MembershipUpdate, StateUpdate, TwinBase, TwinUpdate

TICK = 5.0
"""Seconds between looks at what the cloud has not confirmed."""

MAX_EARLY = 1000
"""Requests that are kept while the twins are being loaded."""

MAX_TOPICS = 4096
"""Parsed topics that are remembered."""

STATES = frozenset(("online", "offline", "ok", "unknown", "unhealthy"))


class _Detail(msgspec.Struct):
    """Answer to `membership/detail`."""

    devices: list[MemberDevice] | None = None


class DeviceTwin:
    """The twin service.

    `mqtt` is the inbox for device and node topics; `handle` takes messages of group `twin` from the cloud;
    `apply` and `remove` take device specifications from Device objects and local files.
    """

    def __init__(
        self,
        *,
        node: str,
        store: TwinStore,
        bus: Bus,
        cloud: Cloud,
        scope: TaskScope,
        clock: Clock | None = None,
        strict: bool = False,
        commit_interval: float = 10.0,
    ) -> None:
        self._store = store
        self._bus = bus
        self._cloud = cloud
        self._scope = scope
        self._clock = clock or SystemClock()
        self._strict = strict
        self._commit_interval = commit_interval
        self._topics: dict[str, Address | None] = {}
        self._unsaved = asyncio.Event()
        self._loaded = False
        self._early: deque[tuple[str, bytes]] = deque(maxlen=MAX_EARLY)
        self._reporter = Reporter(cloud=cloud, clock=self._clock, node=node, confirmed=self._unsaved.set)
        self._members = Members(node=node, store=store, bus=bus, clock=self._clock, forget=self._forget)
        self._lines = DurableLines(store=store, clock=self._clock, finish=self._finish, fail=self._fail)
        self._decode_update = msgspec.json.Decoder(TwinUpdate)
        self._decode_base = msgspec.json.Decoder(TwinBase)
        self._decode_state = msgspec.json.Decoder(StateUpdate)
        self._condition = Condition(self._clock)
        self._log = get_logger("devicetwin")
        self.updates = 0
        """Updates taken since the start of the process."""

    # Component.

    async def start(self) -> None:
        """Load the twins and serve them; the cloud may come later."""
        await self._members.load()
        self._loaded = True
        while self._early:
            self.mqtt(*self._early.popleft())
        self._scope.spawn(self._lines.run(), name="save-expected")
        self._scope.spawn(self._save_reported(), name="save-reported")
        self._scope.spawn(self._look_at_reports(), name="reports")
        self._condition.set(State.RUNNING)
        if self._cloud.connected:
            self._reporter.connected(list(self._members.devices.values()))

    async def stop(self) -> None:
        """Save what is not saved yet."""
        await self._scope.cancel()
        try:
            async with asyncio.timeout(5.0):
                await self._commit()
        except (StorageError, TimeoutError) as error:
            self._log.error("reported values not saved at stop", error=error)
        self._condition.set(State.STOPPED)

    def health(self) -> Health:
        """Counts of devices and of what the cloud does not know yet."""
        details = {
            "devices": len(self._members.devices),
            "updates_total": self.updates,
            "reports_sent_total": self._reporter.sent,
            "reports_in_flight": self._reporter.in_flight,
            "values_superseded_total": self._reporter.superseded,
            "devices_not_confirmed": sum(
                1
                for device in self._members.devices.values()
                if device.dirty or device.state_version > device.state_acked
            ),
            "desired_refused": {
                f"{device.id} {key}": reason
                for device in self._members.devices.values()
                for key, reason in device.refused.items()
            },
        }
        return self._condition.health(details)

    # MQTT.

    def mqtt(self, topic: str, payload: bytes) -> None:
        """A message on a device or node topic; answers on MQTT, never raises, never blocks."""
        if not self._loaded:
            self._early.append((topic, payload))
            return
        address = self._topics.get(topic)
        if address is None:
            address = parse_topic(topic)
            if address is None:
                return
            if len(self._topics) >= MAX_TOPICS:
                self._topics.clear()
            self._topics[topic] = address
        if address.request is Request.TWIN_UPDATE:
            self._update(address.id, payload)
        elif address.request is Request.TWIN_GET:
            self._get(address.id, payload)
        elif address.request is Request.STATE_UPDATE:
            self._state(address.id, payload)
        elif address.request is Request.CLOUD_UPDATED:
            self._cloud_updated(address.id, payload)
        else:
            self._members.get(payload)

    def _update(self, device_id: str, payload: bytes) -> None:
        self.updates += 1
        request = self._twin_request(payload, rules.PARSE_FAILED)
        if request is None:
            return
        device = self._members.devices.get(device_id)
        if device is None:
            missing = rules.Refusal(rules.NOT_FOUND, rules.NO_DEVICE)
            self._refuse(f"{DEVICE_PREFIX}{device_id}/twin/update/result", request.event_id, missing)
            return
        self._take(device, request)

    def _cloud_updated(self, device_id: str, payload: bytes) -> None:
        request = self._twin_request(payload, rules.SYNC_PARSE_FAILED)
        device = self._members.devices.get(device_id)
        if request is not None and device is not None:
            self._take(device, work.Sync(request.twin))

    def _twin_request(self, payload: bytes, unreadable: str) -> work.Update | None:
        """A well-shaped request; None when it was refused, on the topic without an id."""
        try:
            request = parse(payload, self._decode_update)
        except WireError:
            self._refuse(NO_DEVICE_RESULT, "", rules.Refusal(rules.BAD_REQUEST, unreadable))
            return None
        refused = rules.shape_refused(request.twin, strict=self._strict)
        if refused is not None or request.twin is None:
            self._refuse(NO_DEVICE_RESULT, "", refused or rules.Refusal(rules.BAD_REQUEST, rules.NO_TWIN))
            return None
        return work.Update(request.event_id, request.twin)

    def _get(self, device_id: str, payload: bytes) -> None:
        topic = f"{DEVICE_PREFIX}{device_id}/twin/get/result"
        try:
            request = parse(payload, self._decode_base)
        except WireError as error:
            text = payload[:1024].decode(errors="replace")
            reason = f"Unmarshal twin info {text} failed , err: {error}"
            self._refuse(topic, "", rules.Refusal(rules.BAD_REQUEST, reason))
            return
        device = self._members.devices.get(device_id)
        if device is None:
            reason = f"Device {device_id} not found while getting twin"
            self._refuse(topic, request.event_id, rules.Refusal(rules.NOT_FOUND, reason))
            return
        self._take(device, work.Get(request.event_id))

    def _state(self, device_id: str, payload: bytes) -> None:
        try:
            request = parse(payload, self._decode_state)
        except WireError as error:
            self._log.warning("state update refused", device=device_id, error=error)
            return
        device = self._members.devices.get(device_id)
        # Upstream answers neither an unknown state nor an unknown device.
        if device is None or request.state.lower() not in STATES:
            return
        now_ms = self._clock.wall_ms()
        device.state = request.state
        device.last_online = rfc3339(now_ms) if request.state.lower() in ("online", "ok") else ""
        if not device.local:
            device.state_version += 1
        device.row_unsaved = True
        self._unsaved.set()
        self._bus.publish(device.topics.state_result, bodies.state_body(device, now_ms=now_ms))
        self._reporter.report(device)

    def _refuse(self, topic: str, event_id: str, why: rules.Refusal) -> None:
        now_ms = self._clock.wall_ms()
        self._bus.publish(*bodies.error(topic, event_id=event_id, now_ms=now_ms, code=why.code, reason=why.reason))

    def _take(self, device: Device, item: work.Work) -> None:
        if device not in self._lines and not work.needs_disk(item):
            done = work.perform(device, device.twin, item, now_ms=self._clock.wall_ms())
            if done.entries:
                device.unsaved.update(done.entries)
                self._unsaved.set()
            self._finish(device, done)
        elif not self._lines.put(device, item) and isinstance(item, work.Update):
            busy = rules.Refusal(rules.UNAVAILABLE, "too many requests wait for the disk")
            self._refuse(device.topics.result, item.event_id, busy)

    def _finish(self, device: Device, done: work.Done) -> None:
        for topic, payload in done.answers:
            self._bus.publish(topic, payload)
        if self._members.devices.get(device.id) is not device:
            return  # removed while its values went to the disk
        if done.rejected:
            self._reporter.reject(device, done.rejected)
        if done.reported:
            self._reporter.touch(device, done.reported)
            self._reporter.report(device)

    def _fail(self, device: Device, item: work.Work, failure: StorageError) -> None:
        self._condition.degrade(failure)
        if isinstance(item, work.Update):
            why = rules.Refusal(rules.INTERNAL_ERROR, str(failure))
            self._bus.publish(*work.refusal(device, item.event_id, why, now_ms=self._clock.wall_ms()))

    # Devices.

    async def apply(self, spec: DeviceSpec) -> None:
        """Take a Device specification: membership, types, and the desired values that are new since the last one.

        Returns when they are on the disk. Raises StorageError.
        """
        await self._members.add([MemberDevice(id=spec.id, name=spec.name)])
        device = self._members.devices.get(spec.id)
        if device is None:  # removed at the same moment
            return
        if device.local and not spec.local:  # the cloud has taken it over and knows nothing of it yet
            device.local = False
            device.state_version += 1 if device.state else 0
            self._reporter.touch(device, list(device.twin.entries))
            self._reporter.report(device)
        device.local = spec.local
        device.types = {item.name: item.type.twin_type for item in spec.properties}
        writable = {
            item.name: item.desired for item in spec.properties if item.desired and item.access is Access.READ_WRITE
        }
        withdrawn = device.applied.keys() - writable.keys()
        device.refused = {key: why for key, why in device.refused.items() if key in writable}
        fresh = {key: value for key, value in writable.items() if device.applied.get(key) != value}
        if not (fresh or withdrawn or rules.retyped(device.twin.entries, device.types)):
            return
        finished: asyncio.Future[work.Done] = asyncio.get_running_loop().create_future()
        if not self._lines.put(device, work.Desire(fresh, frozenset(withdrawn)), finished=finished):
            raise TransientError(f"device {device.id}: too many requests wait for the disk")
        done = await finished
        for key, reason in done.refused.items():
            if device.refused.get(key) != reason:
                self._log.warning("desired value refused", device=device.id, property=key, reason=reason)
        device.refused = {key: why for key, why in device.refused.items() if key not in done.applied}
        device.refused.update(done.refused)

    async def remove(self, device_id: str) -> None:
        """Forget a device with its twin; an unknown one is no error. Raises StorageError."""
        await self._members.remove([device_id])

    def device(self, device_id: str) -> Device | None:
        """A device with its twin, to be looked at only."""
        return self._members.devices.get(device_id)

    def _forget(self, device: Device) -> None:
        self._reporter.forget(device)
        self._lines.drop(device)

    # The cloud.

    async def handle(self, message: Message) -> None:
        """A message of group `twin` from the cloud. What is not understood is logged and dropped."""
        try:
            await self._handle(message)
        except WireError as error:
            self._log.warning("message of the cloud refused", resource=message.resource, error=error)

    async def _handle(self, message: Message) -> None:
        resource = message.resource
        if resource == "membership/detail":
            devices = message.content_as(_Detail).devices
            if devices is None:  # an answer without a list says nothing; an empty list removes all
                raise WireError("is missing", field="content.devices")
            await self._members.replace(devices)
        elif message.operation == Operation.RESPONSE:
            self._reporter.acknowledge(message.parent_id)
        elif resource == "membership" or resource.endswith("/membership"):
            await self._members.update(message.content_as(MembershipUpdate))
        elif resource.startswith("device/") and resource.endswith("/twin/cloud_updated"):
            self._cloud_updated(
                resource.removeprefix("device/").removesuffix("/twin/cloud_updated"), message.content_bytes()
            )
        else:
            self._log.warning("message of the cloud not understood", operation=message.operation, resource=resource)

    def connection(self, up: bool) -> None:
        """The link came up or went down."""
        if up:
            self._reporter.connected(list(self._members.devices.values()))
        else:
            self._reporter.disconnected()

    async def _look_at_reports(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._reporter.tick(list(self._members.devices.values()))

    # Reported values to the disk.

    async def _save_reported(self) -> None:
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(self._commit_interval)
            self._unsaved.clear()
            try:
                await self._commit()
            except StorageError as error:
                self._condition.degrade(error)
                self._log.error("reported values not saved", error=error)
                self._unsaved.set()
            else:
                self._condition.set(State.RUNNING)

    async def _commit(self) -> None:
        """Save what changed. A device whose expected values are being saved comes with the next commit."""
        devices, twins, saved = [], [], []
        for device in self._members.devices.values():
            if device in self._lines:
                self._unsaved.set()
                continue
            keys, row = device.unsaved, device.row_unsaved
            if not keys and not row:
                continue
            twins += [device.twin_row(key, device.twin.entries[key], applied=device.applied.get(key)) for key in keys]
            if row:
                devices.append(device.row())
            device.unsaved, device.row_unsaved = set(), False
            saved.append((device, keys, row))
        if not saved:
            return
        try:
            await self._store.save(devices=devices, twins=twins, durable=False)
        except BaseException:
            for device, keys, row in saved:
                device.unsaved |= keys
                device.row_unsaved = device.row_unsaved or row
            raise


def rfc3339(unix_ms: int) -> str:
    """UTC with whole seconds, as Go writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_ms // 1000))
