"""Work by key: each key at most once at a time, failures repeated on their own back-off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from cloudgateway.kube.errors import is_retryable
from cloudgateway.kube.informers import Spawner
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.kernel.log import get_logger

__all__ = ["WorkQueue"]

K = TypeVar("K", bound=Hashable)

_log = get_logger("kube.workqueue")


class WorkQueue(Generic[K]):
    """Calls `work(key)` for every key that is added, `workers` of them at once.

    A key added while its work runs is run once more. Work that fails for a reason that may pass is repeated with
    a back-off of its own, so one object that cannot be written never delays another; any other failure is
    logged, and the key rests until it is added again.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[K], Awaitable[None]],
        *,
        workers: int = 8,
        initial: float = 0.2,
        maximum: float = 60.0,
    ) -> None:
        self._name = name
        self._work = work
        self._workers = workers
        self._initial = initial
        self._maximum = maximum
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._queued: set[K] = set()
        self._running: set[K] = set()
        self._again: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._backoffs: dict[K, Backoff] = {}

    def start(self, scope: Spawner) -> None:
        """The workers run until `scope` ends."""
        for number in range(self._workers):
            scope.spawn(self._serve(), name=f"{self._name}-{number}")

    def stop(self) -> None:
        """Forgets what is queued. The workers end with their scope."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._backoffs.clear()
        self._queued.clear()
        self._running.clear()
        self._again.clear()
        while not self._ready.empty():
            self._ready.get_nowait()

    def add(self, key: K) -> None:
        """Has the work of `key` done soon; cheap and idempotent."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.put_nowait(key)

    @property
    def failing(self) -> int:
        """How many keys wait for another try."""
        return len(self._timers)

    async def _serve(self) -> None:
        while True:
            key = await self._ready.get()
            self._queued.discard(key)
            self._running.add(key)
            try:
                await self._work(key)
            except Exception as error:  # noqa: BLE001  - one object must not stop the work on the others
                self._failed(key, error)
            else:
                self._backoffs.pop(key, None)
            finally:
                self._running.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)

    def _failed(self, key: K, error: Exception) -> None:
        if is_retryable(error):
            backoff = self._backoffs.get(key)
            if backoff is None:
                backoff = self._backoffs[key] = Backoff(initial=self._initial, maximum=self._maximum)
            delay = backoff.next_delay()
            _log.warning("will try again", queue=self._name, key=str(key), seconds=round(delay, 1), error=str(error))
            if key not in self._again:
                self._timers[key] = asyncio.get_running_loop().call_later(delay, self._wake, key)
            return
        self._backoffs.pop(key, None)
        text = str(error) if isinstance(error, ApplianceError) else f"{type(error).__name__}: {error}"
        _log.error("given up until it changes", queue=self._name, key=str(key), error=text)

    def _wake(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)
