"""Looks at single containers after the engine's events: one at a time for each, the last one after the last event."""

import asyncio

from edgeappliance.edged.engine.api import Engine
from edgeappliance.edged.runtime import PodRuntime
from edgeappliance.edged.worker import PodWorker
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope

LOOK_AGAIN = 1.0
"""Seconds until a container that could not be looked at is asked for again."""
TRIES = 5


class Looks:
    """Brings each worker what the engine says of a container that something has happened to."""

    def __init__(self, scope: TaskScope, *, engine: Engine, runtime: PodRuntime) -> None:
        self._scope = scope
        self._engine = engine
        self._runtime = runtime
        self._again: dict[str, bool] = {}
        """Containers that are being looked at, and whether once more is needed."""
        self._log = get_logger("edged")

    def look(self, worker: PodWorker, id: str) -> None:
        """Something has happened to a container of that pod."""
        if id in self._again:
            self._again[id] = True
        else:
            self._again[id] = False
            self._scope.spawn(self._look(worker, id), name="inspect")

    def stopped(self) -> None:
        """The tasks of the scope are cancelled, some of them before they began."""
        self._again.clear()

    async def _look(self, worker: PodWorker, id: str) -> None:
        tries = 0
        try:
            while True:
                try:
                    container = await self._runtime.inspect(worker.pod, id)
                except ApplianceError as error:
                    self._log.debug("container not inspected", id=id[:12], reason=error.message)
                    tries += 1
                    if tries == TRIES or not self._engine.connected:
                        return  # all of them are listed when it is back
                    await asyncio.sleep(LOOK_AGAIN)
                    continue
                if container is None:
                    worker.vanished(id)
                else:
                    worker.observe(container)
                if not self._again.get(id):
                    return
                self._again[id] = False
        finally:
            self._again.pop(id, None)
