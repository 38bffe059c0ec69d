"""A bus and a cloud that remember, and a twin service on a real database."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from edgeappliance.devicetwin import DeviceTwin
from edgeappliance.kernel.clock import ManualClock
from edgeappliance.kernel.database import StorageError
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.store import TwinStore, open_store
from edgeappliance.wire.message import Message

NOW = 1_700_000_000_123
D1 = "$hw/events/device/default/d1"


class RecordingBus:
    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []
        self._arrived = asyncio.Event()

    def publish(self, topic: str, payload: bytes) -> bool:
        self.published.append((topic, payload))
        self._arrived.set()
        return True

    def take(self) -> list[tuple[str, Any]]:
        """(end of topic, parsed body) of everything published since the last call."""
        taken, self.published = self.published, []
        return [(topic, json.loads(payload)) for topic, payload in taken]

    async def wait(self, count: int) -> list[tuple[str, Any]]:
        async with asyncio.timeout(10):
            while len(self.published) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.take()


class RecordingCloud:
    def __init__(self, *, connected: bool = True) -> None:
        self.connected = connected
        self.full = False
        self.sent: list[Message] = []
        self._arrived = asyncio.Event()

    def send(self, message: Message) -> bool:
        if not self.connected or self.full:
            return False
        self.sent.append(message)
        self._arrived.set()
        return True

    async def wait(self, count: int) -> list[Message]:
        async with asyncio.timeout(10):
            while len(self.sent) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.take()

    def take(self) -> list[Message]:
        taken, self.sent = self.sent, []
        return taken


class SlowStore(TwinStore):
    """Durable writes wait for `allow`; they fail while `broken`."""

    allow = asyncio.Event()
    broken = False
    durable_writes = 0

    async def save(self, *, durable: bool, **rows: Any) -> None:
        if durable and rows.get("twins"):
            await self.allow.wait()
            if self.broken:
                raise StorageError("disk is full")
            type(self).durable_writes += 1
        await super().save(durable=durable, **rows)


def slow_store() -> type[SlowStore]:
    """A store class of its own, with nothing allowed yet."""
    return type("Slow", (SlowStore,), {"allow": asyncio.Event()})


class Rig:
    """One twin service with its surroundings."""

    def __init__(self, twin: DeviceTwin, bus: RecordingBus, cloud: RecordingCloud, clock: ManualClock) -> None:
        self.twin = twin
        self.bus = bus
        self.cloud = cloud
        self.clock = clock

    def mqtt(self, topic: str, body: Any) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.twin.mqtt(topic, payload)

    async def member(self, *ids: str) -> None:
        """The cloud says that these devices belong to the node."""
        items = [{"id": key, "name": key.partition("/")[2]} for key in ids]
        await self.twin.handle(
            Message.new(
                source="devicecontroller",
                group="twin",
                operation="update",
                resource="membership",
                content={"event_id": "e1", "timestamp": NOW, "added_devices": items, "removed_devices": None},
            )
        )

    async def acknowledge(self, message: Message) -> None:
        """The cloud confirms a report."""
        await self.twin.handle(
            Message.new(
                source="devicecontroller",
                group="twin",
                operation="response",
                resource="twin",
                content="OK",
                parent_id=message.id,
            )
        )


@contextlib.asynccontextmanager
async def twin_rig(
    directory: Path, *, connected: bool = True, store: Any = None, early: Any = (), **options: Any
) -> AsyncIterator[Rig]:
    """A started service on `directory`; the clock stands still at NOW."""
    database = await open_store(directory)
    failures: list[BaseException] = []
    bus, cloud, clock = RecordingBus(), RecordingCloud(connected=connected), ManualClock(wall_ms=NOW)
    twin = DeviceTwin(
        node="edge-1",
        store=store(database) if store else TwinStore(database),
        bus=bus,
        cloud=cloud,
        scope=TaskScope("devicetwin", failures.append),
        clock=clock,
        **{"commit_interval": 0.01, **options},
    )
    for topic, payload in early:
        twin.mqtt(topic, payload)
    try:
        await twin.start()
        yield Rig(twin, bus, cloud, clock)
        assert failures == []
    finally:
        await twin.stop()
        await database.close()
