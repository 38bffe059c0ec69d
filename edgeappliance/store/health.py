"""The database as `edgecore status` shows it."""

import asyncio

from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.database import Database
from edgeappliance.kernel.supervisor import TaskScope

LOOK_EVERY = 60.0


class StoreHealth:
    """Size of the file, and whether a damaged predecessor had to be moved aside. A component."""

    def __init__(self, scope: TaskScope, *, database: Database, clock: Clock) -> None:
        self._scope = scope
        self._database = database
        self._clock = clock
        self._opened_ms = clock.wall_ms()
        self._bytes = 0

    async def start(self) -> None:
        await self._measure()
        self._scope.spawn(self._look(), name="size")

    async def stop(self) -> None:
        await self._scope.cancel()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await self._measure()

    async def _measure(self) -> None:
        path = self._database.path
        names = (path, path.with_name(path.name + "-wal"))
        self._bytes = await asyncio.to_thread(lambda: sum(name.stat().st_size for name in names if name.exists()))

    def health(self) -> Health:
        details = {"file": str(self._database.path), "size_bytes": self._bytes}
        kept = self._database.recovered
        if kept is None:
            return Health(State.RUNNING, since_ms=self._opened_ms, details=details)
        return Health(
            State.DEGRADED,
            f"the database was damaged and is kept as {kept}; it is being filled again from the cloud and the field",
            "check the storage medium; when all is back, remove the kept file and restart edgecore",
            self._opened_ms,
            details,
        )
