"""Which devices belong to this node (KubeEdge reference 4.8)."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from edgeappliance.devicetwin import bodies
from edgeappliance.devicetwin.device import Device
from edgeappliance.devicetwin.requests import NODE_PREFIX, parse
from edgeappliance.kernel.clock import Clock
from edgeappliance.store import TwinStore
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.twin import MemberDevice, MembershipUpdate, TwinBase


class Bus(Protocol):
    """What the twin needs of the MQTT client."""

    def publish(self, topic: str, payload: bytes) -> bool:
        """Publish with QoS 1; False when there is no broker."""
        ...


class Members:
    """The devices of this node by id, each saved before anybody is told."""

    def __init__(
        self, *, node: str, store: TwinStore, bus: Bus, clock: Clock, forget: Callable[[Device], None]
    ) -> None:
        self._updated = f"{NODE_PREFIX}{node}/membership/updated"
        self._get_result = f"{NODE_PREFIX}{node}/membership/get/result"
        self._store = store
        self._bus = bus
        self._clock = clock
        self._forget = forget
        # The cloud's membership and the Device objects come by different roads, at the same moment.
        self._changing = asyncio.Lock()
        self._decode_base = msgspec.json.Decoder(TwinBase)
        self.devices: dict[str, Device] = {}

    async def load(self) -> None:
        """Read all devices from the store, once."""
        for stored in await self._store.load():
            if stored.device.id not in self.devices:
                self.devices[stored.device.id] = Device.from_store(stored)

    def get(self, payload: bytes) -> None:
        """`membership/get`."""
        now_ms = self._clock.wall_ms()
        try:
            request = parse(payload, self._decode_base)
        except WireError as error:
            text = payload[:1024].decode(errors="replace")
            reason = f"Unmarshal get membership info {text} failed , err: {error}"
            self._bus.publish(*bodies.error(self._get_result, event_id="", now_ms=now_ms, code=400, reason=reason))
            return
        body = bodies.membership_list(list(self.devices.values()), request_id=request.event_id, now_ms=now_ms)
        self._bus.publish(self._get_result, body)

    async def update(self, change: MembershipUpdate) -> None:
        """`membership` of the cloud. Devices that are known already are left as they are.

        (Upstream publishes a 400 on the update result of each of them whenever the cloud restarts.)
        """
        await self.add(item for item in change.added_devices or [] if item.id)
        await self.remove(item.id for item in change.removed_devices or [] if item.id)

    async def replace(self, items: list[MemberDevice]) -> None:
        """`membership/detail` of the cloud, the full list. Devices of local files stay."""
        wanted = {item.id for item in items}
        await self.add(item for item in items if item.id)
        await self.remove([key for key, device in self.devices.items() if key not in wanted and not device.local])

    async def add(self, items: Iterable[MemberDevice]) -> None:
        """Add those that are not known."""
        async with self._changing:
            fresh = {item.id: item for item in items if item.id not in self.devices}
            if not fresh:
                return
            devices = [Device(id=key, description=item.description) for key, item in fresh.items()]
            await self._store.save(devices=[device.row() for device in devices], durable=True)
            self.devices.update((device.id, device) for device in devices)
            body = bodies.membership_changed(added=list(fresh.values()), now_ms=self._clock.wall_ms())
            self._bus.publish(self._updated, body)

    async def remove(self, ids: Iterable[str]) -> None:
        """Remove those that are known, with their twins."""
        async with self._changing:
            gone = [device for key in ids if (device := self.devices.get(key)) is not None]
            if not gone:
                return
            for device in gone:
                await self._store.delete(device.id)
                self._forget(device)
                del self.devices[device.id]
            named = [MemberDevice(id=device.id, name=device.name) for device in gone]
            body = bodies.membership_changed(removed=named, now_ms=self._clock.wall_ms())
            self._bus.publish(self._updated, body)
