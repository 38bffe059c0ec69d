"""The rounds of housekeeping: looks now and then, and does what the pure parts decide."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeappliance.edged.cgroups import Cgroups
from edgeappliance.edged.engine.api import EngineAway, Image
from edgeappliance.edged.events import EventType, Regarding
from edgeappliance.edged.facts import Limits, Pressure
from edgeappliance.edged.housekeeping.evictor import Evictor
from edgeappliance.edged.housekeeping.images import ImageCollector, ImageLimits, listed_name, to_free
from edgeappliance.edged.housekeeping.needs import Events, HousekeepingEngine, Pods, Volumes
from edgeappliance.edged.housekeeping.orphans import Orphans
from edgeappliance.edged.stats import file_system
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.component import Condition, Health, State
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope

SIGNALS_EVERY = 10.0
"""Seconds between looks at memory and disk: some reads from /proc, and statvfs (kubelet's eviction interval)."""

LIMITS_EVERY = 60.0
IMAGES_EVERY = 60.0
REMAINS_EVERY = 60.0
COLLECT_EVERY = 300.0
"""As a kubelet's image garbage collection."""

ENGINE_EVERY = 3.0


@dataclass(slots=True)
class _Chore:
    """needs_engine: while the engine is away, it is looked for every ENGINE_EVERY seconds."""

    every: float
    work: Callable[[], Awaitable[None]]
    needs_engine: bool = True
    at: float = 0.0


class Housekeeping:
    """A component. Everything that takes long runs only when something is short or has a limit.

    changed: called when `pressure` or `images` have changed, so that the node tells it at once.
    kept: names of images that are never removed.
    pace: times the seconds between rounds.
    """

    def __init__(
        self,
        scope: TaskScope,
        *,
        node: str,
        engine: HousekeepingEngine,
        pods: Pods,
        volumes: Volumes,
        events: Events,
        cgroups: Cgroups,
        clock: Clock,
        data_directory: Path,
        limits: Limits,
        image_limits: ImageLimits,
        changed: Callable[[], None],
        kept: Sequence[str] = (),
        pace: float = 1.0,
    ) -> None:
        self._scope = scope
        self._node = node
        self._engine = engine
        self._pods = pods
        self._volumes = volumes
        self._events = events
        self._clock = clock
        self._pace = pace
        self._image_limits = image_limits
        self._changed = changed
        self._images = ImageCollector(engine, clock=clock, in_use=self._images_in_use, kept=kept)
        self._evictor = Evictor(
            node=node,
            engine=engine,
            pods=pods,
            volumes=volumes,
            events=events,
            cgroups=cgroups,
            images=self._images,
            clock=clock,
            data_directory=data_directory,
            limits=limits,
            changed=changed,
        )
        self._orphans = Orphans()
        self._ended: set[str] = set()
        self._condition = Condition(clock)
        self._log = get_logger("edged")

    @property
    def pressure(self) -> Pressure | None:
        """The node's conditions; None before the first look."""
        return self._evictor.pressure

    @property
    def images(self) -> Sequence[Image]:
        """The images of this machine as they were last seen."""
        return self._images.images

    async def start(self) -> None:
        self._orphans.forget()
        # Two rounds beside each other: ending the remains of a pod takes as long as its grace period.
        signals = _Chore(SIGNALS_EVERY, self._evictor.check_signals, needs_engine=False)
        self._scope.spawn(self._run(signals), name="pressure")
        rounds = (
            _Chore(LIMITS_EVERY, self._evictor.check_limits),
            _Chore(IMAGES_EVERY, self._look_at_images),
            _Chore(COLLECT_EVERY, self._collect_images),
            _Chore(REMAINS_EVERY, self._remove_remains),
        )
        self._scope.spawn(self._run(*rounds), name="rounds")
        self._condition.set(State.RUNNING)

    async def stop(self) -> None:
        await self._scope.cancel()
        self._condition.set(State.STOPPED)

    def health(self) -> Health:
        details = {
            "images": len(self.images),
            "evictions_total": self._evictor.evictions,
            "events_waiting": self._events.waiting,
            "events_dropped_total": self._events.dropped,
        }
        return self._condition.health(details)

    async def _run(self, *chores: _Chore) -> None:
        while True:
            for chore in chores:
                now = self._clock.monotonic()
                if now < chore.at:
                    continue
                if chore.needs_engine and not self._engine.connected:
                    chore.at = now + ENGINE_EVERY * self._pace
                    continue
                chore.at = now + chore.every * self._pace
                await self._do(chore)
            self._events.flush()
            await asyncio.sleep(max(0.0, min(chore.at for chore in chores) - self._clock.monotonic()))

    async def _do(self, chore: _Chore) -> None:
        try:
            await chore.work()
        except EngineAway:
            return  # said elsewhere; it is done when the engine is back
        except (ApplianceError, OSError) as error:
            self._log.warning("housekeeping failed", error=error)

    def _images_in_use(self) -> set[str]:
        used: set[str] = set()
        for worker in self._pods.workers.values():
            used.update(container.image_id for container in worker.containers if container.image_id)
            if not worker.finished:
                used.update(listed_name(container.image) for container in worker.pod.containers())
        for strays in self._pods.strays.values():
            used.update(container.image_id for container in strays)
        return used

    async def _look_at_images(self) -> None:
        before = self.images
        await self._images.look()
        if self.images != before:
            self._changed()

    async def _collect_images(self) -> None:
        root = await self._engine.root()
        found = await asyncio.to_thread(file_system, root)
        wanted = to_free(capacity=found.capacity, available=found.available, limits=self._image_limits)
        if not wanted:
            return
        self._log.info("the engine's disk is filling, unused images are removed", wanted=wanted)
        collected = await self._images.collect(wanted, min_age=self._image_limits.min_age)
        if collected.freed < wanted:
            message = (
                f"Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, "
                f"but only found {collected.freed} bytes eligible to free."
            )
            self._events.event(Regarding.node(self._node), EventType.WARNING, "FreeDiskSpaceFailed", message)

    async def _remove_remains(self) -> None:
        if not self._pods.known_is_complete():
            self._orphans.forget()
            return
        directories = await self._volumes.known()
        strays = {
            uid: left
            for uid, found in self._pods.strays.items()
            if (left := [container for container in found if container.id not in self._ended])
        }
        remains = self._orphans.find(strays=strays, directories=directories, known=self._pods.workers.keys())
        for container in remains.containers:
            if container.pod_uid in self._pods.workers:
                continue  # the cloud has sent its pod meanwhile
            self._log.warning(
                "a container of a pod that nobody knows is removed",
                container=container.name or "sandbox",
                pod=f"{container.namespace}/{container.pod_name}",
                uid=container.pod_uid,
            )
            if container.running:
                await self._engine.stop(container.id, grace=container.grace)
            await self._engine.remove(container.id)
            self._ended.add(container.id)
        for uid in remains.directories:
            if uid not in self._pods.workers:
                self._log.warning("the directory of a pod that nobody knows is removed", uid=uid)
                await self._volumes.remove(uid)
