"""What mapper tests share: devices in the form of the API, a bus in memory, and a running Mappers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from typing import Any

from edgeappliance.devicemodel import CatalogueChange, DeviceSpec, merge
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.mappers.binding import Protocols
from edgeappliance.mappers.service import Mappers


def spec_of(
    name: str, protocol: dict[str, Any], properties: dict[str, dict[str, Any]], *, namespace: str = "default"
) -> DeviceSpec:
    """A Modbus device. Each property: ``type`` (FLOAT), ``access`` (ReadWrite), ``cycle`` (100 ms), ``report``,
    ``minimum``, ``maximum``; the other keys are its visitor's."""
    model_properties, device_properties = [], []
    for key, value in properties.items():
        visitor = dict(value)
        model_properties.append(
            {
                "name": key,
                "type": visitor.pop("type", "FLOAT"),
                "accessMode": visitor.pop("access", "ReadWrite"),
                "minimum": visitor.pop("minimum", None),
                "maximum": visitor.pop("maximum", None),
            }
        )
        device_properties.append(
            {
                "name": key,
                "collectCycle": visitor.pop("cycle", 100),
                "reportCycle": visitor.pop("report_cycle", 0),
                "reportToCloud": True,
                "visitors": {"protocolName": "modbus", "configData": visitor},
            }
        )
    model = {"metadata": {"name": "m", "namespace": namespace}, "spec": {"properties": model_properties}}
    device = {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "deviceModelRef": {"name": "m"},
            "protocol": {"protocolName": "modbus", "configData": protocol},
            "properties": device_properties,
        },
    }
    return merge(device, model)


class MemoryBus:
    """The `Bus` that eventbus gives, in memory; remembers everything published and lets tests wait for it."""

    def __init__(self) -> None:
        self.connected = True
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self._subscriptions: list[tuple[str, Callable[[str, bytes], None]]] = []
        self._connections: list[Callable[[bool], None]] = []
        self._news = asyncio.Event()

    def publish(self, topic: str, payload: bytes) -> bool:
        if not self.connected:
            return False
        self.messages.append((topic, json.loads(payload)))
        self._news.set()
        return True

    def subscribe(self, topic_filter: str, callback: Callable[[str, bytes], None]) -> None:
        self._subscriptions.append((topic_filter, callback))

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        self._connections.append(callback)

    def deliver(self, topic: str, payload: object) -> None:
        """A message from another client."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        for topic_filter, callback in self._subscriptions:
            if len(topic.split("/")) == len(topic_filter.split("/")) and fnmatchcase(
                topic, topic_filter.replace("+", "*")
            ):
                callback(topic, body)

    def link(self, connected: bool) -> None:
        """The broker goes or comes back."""
        self.connected = connected
        for callback in self._connections:
            callback(connected)

    def actual(self, device: str, name: str) -> dict[str, Any] | None:
        """The newest actual half of a property."""
        for topic, body in reversed(self.messages):
            if topic == f"$hw/events/device/{device}/twin/update" and name in body["twin"]:
                return dict(body["twin"][name]["actual"])
        return None

    def value(self, device: str, name: str) -> str | None:
        """Its value."""
        actual = self.actual(device, name)
        return None if actual is None else actual["value"]

    def quality(self, device: str, name: str) -> str:
        """Its quality; ``good`` when nothing is said."""
        actual = self.actual(device, name)
        return "" if actual is None else actual["metadata"].get("quality", "good")

    def state(self, device: str) -> str | None:
        """The newest state word of a device."""
        for topic, body in reversed(self.messages):
            if topic == f"$hw/events/device/{device}/state/update":
                return str(body["state"])
        return None

    async def until(self, condition: Callable[[], object], timeout: float = 10.0) -> None:
        """Wait for messages until `condition` holds."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def running_mappers(
    *specs: DeviceSpec, bus: MemoryBus | None = None, protocols: Protocols | None = None
) -> AsyncIterator[tuple[Mappers, MemoryBus]]:
    """Mappers that poll `specs`; a failed task fails the test."""
    bus = bus or MemoryBus()
    failures: list[BaseException] = []
    scope = TaskScope("mappers", failures.append)
    mappers = Mappers(scope=scope, bus=bus, clock=SystemClock(), protocols=protocols)
    for spec in specs:
        await mappers.apply(CatalogueChange(spec.id, spec))
    await mappers.start()
    try:
        yield mappers, bus
    finally:
        await mappers.stop()
        await scope.cancel()
    assert not failures
