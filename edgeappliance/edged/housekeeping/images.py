"""Which images may go when the disk fills (Kubernetes documentation, "Garbage collection of unused images")."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgeappliance.edged.engine.api import EngineRefused, Image
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.log import get_logger


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Percent of the disk in use at which images are removed, and down to which; seconds that an unused one is kept."""

    high: int = 85
    low: int = 80
    min_age: float = 120.0


@dataclass(frozen=True, slots=True)
class Collected:
    """Bytes that were freed of those that had to be."""

    wanted: int
    freed: int


class ImageEngine(Protocol):
    async def images(self) -> list[Image]: ...

    async def remove_image(self, id: str) -> None: ...


@dataclass(slots=True)
class _Known:
    detected: float
    used: float


class ImageCollector:
    """Knows the images of this machine and when each was last in use.

    in_use: the ids of images that containers were made from, and the names of those that pods want: an image that a
    pod of this node wants is never removed, also when there is no container of it just now, because without a link to
    its registry it could not come back. Nor is one of `kept`, the names that this program brings with it.
    """

    def __init__(
        self,
        engine: ImageEngine,
        *,
        clock: Clock,
        in_use: Callable[[], Collection[str]],
        kept: Collection[str] = (),
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._in_use = in_use
        self._kept = frozenset(kept)
        self._known: dict[str, _Known] = {}
        self._images: list[Image] = []
        self._collecting = asyncio.Lock()
        self._log = get_logger("edged")

    @property
    def images(self) -> Sequence[Image]:
        """As they were at the last look."""
        return self._images

    async def look(self) -> None:
        """Take note of what is there and what is in use. Raises EngineAway, EngineRefused."""
        self._images = await self._engine.images()
        now = self._clock.monotonic()
        in_use = self._in_use()
        present = {image.id for image in self._images}
        self._known = {id: known for id, known in self._known.items() if id in present}
        for image in self._images:
            known = self._known.setdefault(image.id, _Known(now, 0.0))
            if self._is_used(image, in_use):
                known.used = now

    async def collect(self, wanted: int, *, min_age: float) -> Collected:
        """Free `wanted` bytes if that can be: the image that was unused longest first. Raises EngineAway."""
        async with self._collecting:
            return await self._collect(wanted, min_age)

    async def _collect(self, wanted: int, min_age: float) -> Collected:
        await self.look()
        freed = 0
        for image in self._removable(min_age):
            if freed >= wanted:
                break
            try:
                await self._engine.remove_image(image.id)
            except EngineRefused as error:  # something else on this machine uses it
                self._log.debug("image not removed", image=image.id, reason=error.message)
                continue
            self._log.info("image removed", image=next(iter(image.names), image.id), bytes=image.size)
            freed += image.size
        if freed:
            await self.look()
        return Collected(wanted, freed)

    def _removable(self, min_age: float) -> list[Image]:
        now = self._clock.monotonic()
        in_use = self._in_use()
        unused = [
            (self._known[image.id], image)
            for image in self._images
            if not self._is_used(image, in_use) and not self._kept.intersection(image.names)
        ]
        old = [(known, image) for known, image in unused if now - max(known.detected, known.used) >= min_age]
        old.sort(key=lambda item: (item[0].used, item[0].detected))
        return [image for _, image in old]

    def _is_used(self, image: Image, in_use: Collection[str]) -> bool:
        return image.id in in_use or any(name in in_use for name in image.names)


def to_free(*, capacity: int, available: int, limits: ImageLimits) -> int:
    """Bytes that must be freed: 0 below the high mark, else down to the low one."""
    if not capacity or (capacity - available) * 100 < limits.high * capacity:
        return 0
    return max(0, capacity * (100 - limits.low) // 100 - available)


def listed_name(name: str) -> str:
    """A pod's name for an image as the engine lists it: without Docker Hub's own words, with its tag or its digest."""
    for words in ("docker.io/", "index.docker.io/", "library/"):
        name = name.removeprefix(words)
    path, at, digest = name.partition("@")
    folder, slash, last = path.rpartition("/")
    base, _, tag = last.partition(":")
    return f"{folder}{slash}{base}@{digest}" if at else f"{folder}{slash}{base}:{tag or 'latest'}"
