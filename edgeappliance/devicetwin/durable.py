"""Lines of work that must be on the disk before it is answered.

Work of one device keeps its order: while a durable write is under way, everything that comes for that device waits
behind it. Whatever waits, of all devices, goes into the next write together.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from edgeappliance.devicetwin import work
from edgeappliance.devicetwin.device import Device, TwinSet
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.database import StorageError
from edgeappliance.kernel.log import get_logger
from edgeappliance.store import TwinRow, TwinStore

MAX_WAITING = 1000
"""Requests of one device that may wait for the disk."""

SAVE_TRIES = 5
SAVE_PAUSE = 1.0
"""Tries of a durable write and seconds between them, before its requests fail (KubeEdge reference 4.5)."""


@dataclass(slots=True)
class _Waiting:
    item: work.Work
    finished: asyncio.Future[work.Done] | None
    done: work.Done = field(default_factory=work.Done)


@dataclass(slots=True)
class _Line:
    device: Device
    waiting: deque[_Waiting] = field(default_factory=deque)


@dataclass(slots=True)
class _Batch:
    """What one device brings to a write: the work done on a copy of its twin."""

    line: _Line
    twin: TwinSet
    steps: list[_Waiting]
    applied: dict[str, str]


class DurableLines:
    """Does work durably and hands what came of it to `finish(device, done)`, or the failure to `fail`."""

    def __init__(
        self,
        *,
        store: TwinStore,
        clock: Clock,
        finish: Callable[[Device, work.Done], None],
        fail: Callable[[Device, work.Work, StorageError], None],
        save_pause: float = SAVE_PAUSE,
    ) -> None:
        self._store = store
        self._clock = clock
        self._finish = finish
        self._fail = fail
        self._save_pause = save_pause
        self._lines: dict[str, _Line] = {}
        self._wake = asyncio.Event()
        self._log = get_logger("devicetwin")

    def __contains__(self, device: Device) -> bool:
        """Whether work of this device waits or is being saved."""
        return device.id in self._lines

    def put(self, device: Device, item: work.Work, *, finished: asyncio.Future[work.Done] | None = None) -> bool:
        """Queue work; False when the device's line is full. `finished` gets the outcome or the StorageError."""
        line = self._lines.get(device.id)
        if line is None:
            line = self._lines[device.id] = _Line(device)
        if len(line.waiting) >= MAX_WAITING:
            return False
        line.waiting.append(_Waiting(item, finished))
        self._wake.set()
        return True

    def drop(self, device: Device) -> None:
        """The device is gone, and what waits for it too."""
        line = self._lines.pop(device.id, None)
        for step in line.waiting if line is not None else ():
            if step.finished is not None:
                step.finished.cancel()

    async def run(self) -> None:
        """Serve the lines for ever. What a cancelled write held is served by the next run."""
        if self._lines:
            self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            batches = [self._perform(line) for line in self._lines.values() if line.waiting]
            try:
                failure = await self._save([row for batch in batches for row in _rows(batch)])
            except asyncio.CancelledError:
                for batch in batches:
                    batch.line.waiting.extendleft(reversed(batch.steps))
                raise
            for batch in batches:
                self._settle(batch, failure)

    def _perform(self, line: _Line) -> _Batch:
        device, twin = line.device, line.device.twin.copy()
        batch = _Batch(line, twin, list(line.waiting), dict(device.applied))
        line.waiting.clear()
        for step in batch.steps:
            step.done = work.perform(device, twin, step.item, now_ms=self._clock.wall_ms())
            for key, value in step.done.applied.items():
                if value is None:
                    batch.applied.pop(key, None)
                else:
                    batch.applied[key] = value
        return batch

    async def _save(self, rows: list[TwinRow]) -> StorageError | None:
        if not rows:
            return None
        failure: StorageError | None = None
        for attempt in range(SAVE_TRIES):
            if attempt:
                await asyncio.sleep(self._save_pause)
            try:
                await self._store.save(twins=rows, durable=True)
            except StorageError as error:
                self._log.error("expected values not saved", attempt=attempt + 1, error=error)
                failure = error
            else:
                return None
        return failure

    def _settle(self, batch: _Batch, failure: StorageError | None) -> None:
        device = batch.line.device
        if failure is None:
            device.twin = batch.twin
            device.applied = batch.applied
        for step in batch.steps:
            if failure is None:
                device.unsaved.difference_update(step.done.entries)
                self._finish(device, step.done)
            elif isinstance(step.item, work.Get) or not step.done.entries:
                now_ms = self._clock.wall_ms()
                self._finish(device, work.perform(device, device.twin, step.item, now_ms=now_ms))
            else:
                self._fail(device, step.item, failure)
            _resolve(step, failure)
        if batch.line.waiting:
            self._wake.set()
        elif self._lines.get(device.id) is batch.line:
            del self._lines[device.id]


def _rows(batch: _Batch) -> list[TwinRow]:
    touched = (key for step in batch.steps for key in (*step.done.entries, *step.done.applied))
    keys = dict.fromkeys(key for key in touched if key in batch.twin.entries)
    return [batch.line.device.twin_row(key, batch.twin.entries[key], applied=batch.applied.get(key)) for key in keys]


def _resolve(step: _Waiting, failure: StorageError | None) -> None:
    if step.finished is None or step.finished.done():
        return
    if failure is None:
        step.finished.set_result(step.done)
    else:
        step.finished.set_exception(failure)
