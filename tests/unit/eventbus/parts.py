"""An event bus on a real broker, with a cloud that remembers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from edgeappliance.config.settings import Mqtt
from edgeappliance.eventbus import EventBus
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.store import SubscriptionStore, open_store
from edgeappliance.wire.message import Message


class RecordingCloud:
    def __init__(self) -> None:
        self.connected = True
        self.sent: list[Message] = []
        self._arrived = asyncio.Event()

    def send(self, message: Message) -> bool:
        if self.connected:
            self.sent.append(message)
            self._arrived.set()
        return self.connected

    async def wait(self, count: int) -> list[Message]:
        async with asyncio.timeout(10):
            while len(self.sent) < count:
                self._arrived.clear()
                await self._arrived.wait()
        taken, self.sent = self.sent, []
        return taken


class Watcher:
    """Remembers the ups and downs of the connection."""

    def __init__(self) -> None:
        self.seen: list[bool] = []
        self._changed = asyncio.Event()

    def __call__(self, up: bool) -> None:
        self.seen.append(up)
        self._changed.set()

    async def wait(self, up: bool, *, after: int = 0, timeout: float = 10.0) -> None:
        async with asyncio.timeout(timeout):
            while up not in self.seen[after:]:
                self._changed.clear()
                await self._changed.wait()


@contextlib.asynccontextmanager
async def event_bus(settings: Mqtt, directory: Path) -> AsyncIterator[tuple[EventBus, RecordingCloud, Watcher]]:
    """A started event bus; not necessarily connected yet."""
    directory.mkdir(exist_ok=True)
    database = await open_store(directory)
    failures: list[BaseException] = []
    cloud, watcher = RecordingCloud(), Watcher()
    bus = EventBus(
        settings=settings,
        node="edge-1",
        cloud=cloud,
        subscriptions=SubscriptionStore(database),
        scope=TaskScope("eventbus", failures.append),
    )
    bus.on_connection(watcher)
    try:
        await bus.start()
        yield bus, cloud, watcher
        await bus.stop()
        assert failures == []
    finally:
        await bus.stop()
        await database.close()


def external(port: int, **more: object) -> Mqtt:
    """Settings for a broker on 127.0.0.1."""
    return Mqtt(mode="external", port=port, **more)  # type: ignore[arg-type]
