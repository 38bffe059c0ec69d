"""Looks at what is short, tells it, and ends pods when nothing else makes room."""

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeappliance.edged.cgroups import Cgroups, Usage
from edgeappliance.edged.events import EventType, Regarding
from edgeappliance.edged.facts import Limits, Pressure, read_pressure
from edgeappliance.edged.housekeeping.eviction import (
    EVICTED,
    Candidate,
    Used,
    is_limited,
    low_on,
    over_limit,
    ranked,
)
from edgeappliance.edged.housekeeping.images import ImageCollector
from edgeappliance.edged.housekeeping.layers import container_use
from edgeappliance.edged.housekeeping.needs import Events, HousekeepingEngine, Pods, Volumes, Worker
from edgeappliance.edged.housekeeping.signals import Level, Pressures, Signal, levels, low
from edgeappliance.edged.pods.observed import Kind, ObservedContainer
from edgeappliance.edged.stats import file_system
from edgeappliance.edged.volumes.tree import Usage as DiskUse
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.log import get_logger

IN_VAIN = 60.0
"""Seconds after an attempt that freed no disk: looking at what every pod has there takes long."""

ROOM_COMES = 30.0
"""Seconds that an evicted pod has to leave before another is evicted."""

EVERYTHING = 2**62


class Evictor:
    """changed: called when `pressure` has changed, so that the node tells it at once."""

    def __init__(
        self,
        *,
        node: str,
        engine: HousekeepingEngine,
        pods: Pods,
        volumes: Volumes,
        events: Events,
        cgroups: Cgroups,
        images: ImageCollector,
        clock: Clock,
        data_directory: Path,
        limits: Limits,
        changed: Callable[[], None],
    ) -> None:
        self._node = node
        self._engine = engine
        self._pods = pods
        self._volumes = volumes
        self._events = events
        self._cgroups = cgroups
        self._images = images
        self._clock = clock
        self._directory = data_directory
        self._limits = limits
        self._changed = changed
        self._pressures = Pressures()
        self._told: set[Signal] = set()
        self._leaving: tuple[str, float] | None = None
        self._apart = False
        """Whether the engine's data is on a file system of its own."""
        self._disk_again = 0.0
        self._log = get_logger("edged")
        self.pressure: Pressure | None = None
        """The node's conditions; None before the first look."""
        self.evictions = 0

    async def check_signals(self) -> None:
        """Memory, disk and process numbers: tell what is short, and end at most one pod. Raises EngineAway."""
        measured, pids = await self._measure()
        short = list(low(measured))
        now = self._clock.monotonic()
        seen = Pressure(memory=Signal.MEMORY in short, disk=any(signal.is_disk for signal in short), pids=pids)
        pressure = self._pressures.update(seen, now)
        if pressure != self.pressure:
            self.pressure = pressure
            self._changed()
        for signal in short:
            if signal not in self._told:
                message = f"Attempting to reclaim {signal.resource}"
                self._events.event(Regarding.node(self._node), EventType.WARNING, "EvictionThresholdMet", message)
        self._told = set(short)
        if self._room_comes(now):
            return
        for signal in short:
            if signal.is_disk and now < self._disk_again:
                continue
            if signal.is_disk and await self._reclaim(signal):
                return
            if await self._evict_for(signal, measured[signal]):
                return
            if signal.is_disk:
                self._disk_again = now + IN_VAIN

    async def _measure(self) -> tuple[dict[Signal, Level], bool]:
        """The levels, and whether process numbers run out."""
        images = await self._engine.root() if self._engine.connected else None

        def work() -> tuple[dict[Signal, Level], bool]:
            self._apart = images is not None and _device(images) not in (None, _device(self._directory))
            found = levels(
                available_memory=self._cgroups.available_memory(),
                node_fs=file_system(self._directory),
                image_fs=file_system(images) if self._apart and images is not None else None,
                limits=self._limits,
            )
            return found, read_pressure(self._directory, limits=self._limits).pids

        return await asyncio.to_thread(work)

    async def _reclaim(self, signal: Signal) -> bool:
        """Remove what no pod needs from the disk; whether that is enough."""
        elsewhere = self._apart and signal in (Signal.NODE_FS, Signal.NODE_INODES)
        if elsewhere or not self._engine.connected:
            return False
        collected = await self._images.collect(EVERYTHING, min_age=0.0)
        if not collected.freed:
            return False
        measured, _ = await self._measure()
        return signal not in measured or not measured[signal].low

    def _room_comes(self, now: float) -> bool:
        """Whether a pod that was evicted a moment ago is still leaving."""
        if self._leaving is None:
            return False
        uid, at = self._leaving
        worker = self._pods.workers.get(uid)
        if worker is not None and any(item.running for item in worker.containers) and now - at < ROOM_COMES:
            return True
        self._leaving = None
        return False

    async def _evict_for(self, signal: Signal, level: Level) -> bool:
        candidates = [await self._candidate(worker, signal) for worker in self._running()]
        for candidate in ranked(candidates, signal):
            uid = candidate.pod.uid
            if uid in self._pods.workers and not self._pods.workers[uid].finished:
                self._evict(uid, low_on(candidate, signal, level))
                return True
        return False

    def _running(self) -> list[Worker]:
        return [
            worker
            for worker in list(self._pods.workers.values())
            if not worker.finished and worker.stopping is None and any(item.running for item in worker.containers)
        ]

    async def _candidate(self, worker: Worker, signal: Signal) -> Candidate:
        containers = [item for item in worker.containers if item.running]
        used: dict[str, Used] = {}
        rest = Used()
        if signal is Signal.MEMORY:
            usages = await asyncio.to_thread(lambda: [self._cgroups.usage(item.pid) or Usage() for item in containers])
            parts = [Used(memory=usage.working_set) for usage in usages]
        else:
            of_images = signal in (Signal.IMAGE_FS, Signal.IMAGE_INODES)
            parts = [Used() for _ in containers]
            if of_images or not self._apart:
                parts = [Used(disk=use.bytes, inodes=use.inodes) for use in await self._disk(containers)]
            if not of_images:
                volumes = (await self._volumes.usage(worker.pod.uid)).values()
                rest = Used(disk=sum(use.bytes for use in volumes), inodes=sum(use.inodes for use in volumes))
        for container, part in zip(containers, parts, strict=True):
            rest = Used(rest.memory + part.memory, rest.disk + part.disk, rest.inodes + part.inodes)
            if container.kind is not Kind.SANDBOX:
                used[container.name] = part
        return Candidate(worker.pod, rest, used)

    async def _disk(self, containers: Sequence[ObservedContainer]) -> list[DiskUse]:
        root = await self._engine.root()
        return await asyncio.to_thread(lambda: [container_use(root, item.id) for item in containers])

    def _evict(self, uid: str, message: str) -> None:
        self.evictions += 1
        self._leaving = (uid, self._clock.monotonic())
        worker = self._pods.workers[uid]
        self._log.warning("pod evicted", pod=worker.pod.key, reason=message.strip())
        self._pods.evict(uid, EVICTED, message)

    async def check_limits(self) -> None:
        """End pods that exceed what they may put on the disk. Raises EngineAway."""
        for worker in self._running():
            pod = worker.pod
            if not is_limited(pod):
                continue
            containers = [item for item in worker.containers if item.running and item.kind is not Kind.SANDBOX]
            on_disk = {volume.name for volume in pod.spec.volumes if volume.empty_dir is not None}
            volumes = {name: use.bytes for name, use in (await self._volumes.usage(pod.uid)).items() if name in on_disk}
            used = {item.name: use.bytes for item, use in zip(containers, await self._disk(containers), strict=True)}
            message = over_limit(pod, volumes=volumes, containers=used)
            if message and pod.uid in self._pods.workers:
                self._evict(pod.uid, message)


def _device(path: Path) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None
