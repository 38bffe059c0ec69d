"""Images for containers: is it there, must it be pulled, with which credentials, and when may it be tried again."""

import asyncio
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeappliance.edged.engine.api import Credentials, Engine, Image, PullFailed
from edgeappliance.edged.engine.auth import split
from edgeappliance.edged.engine.pull import parse
from edgeappliance.edged.pods.spec import Container, Pod
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.errors import PermanentError, TransientError
from edgeappliance.kernel.log import get_logger

INITIAL, MAXIMUM = 10.0, 300.0
"""Seconds between tries of an image that cannot be pulled, doubling."""

PULLS = 2
"""Pulls that run at the same time: more would only share the same line and card."""

Note = Callable[[str, str, str], None]
"""Event type, reason, message."""


class ImageWait(TransientError):
    """The image is not there yet; `reason` and the message are the container's waiting state, `retry_in` seconds.

    unreachable: nobody answered at the registry, which says nothing about the image.
    """

    def __init__(self, reason: str, message: str, *, retry_in: float, unreachable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_in = retry_in
        self.unreachable = unreachable


class ImageNever(PermanentError):
    """It never will be: `reason` is InvalidImageName or ErrImageNeverPull."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class _Trouble:
    retry_at: float
    delay: float
    message: str
    unreachable: bool


@dataclass(slots=True)
class _Silence:
    until: float
    message: str


class Images:
    """One pull at a time for each image, however many pods want it. What waits for its turn at a registry that has just
    not answered somebody else does not ask it as well."""

    def __init__(self, engine: Engine, *, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._troubles: dict[tuple[str, str], _Trouble] = {}
        self._silences: dict[str, _Silence] = {}
        """By registry."""
        self._pulls: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._turns = asyncio.Semaphore(PULLS)
        self._log = get_logger("edged")

    async def ensure(self, pod: Pod, container: Container, *, credentials: Sequence[Credentials], note: Note) -> Image:
        """The image of `container`, pulled when its policy says so. Raises ImageWait, ImageNever, EngineAway."""
        name = container.image
        try:
            parse(name)
        except PullFailed as error:
            note("Warning", "InspectFailed", error.message)
            raise ImageNever(error.reason, error.message) from None
        present = await self._engine.image(name)
        if present is not None and not _must_pull(container):
            note("Normal", "Pulled", f'Container image "{name}" already present on machine')
            self._troubles.pop((pod.uid, name), None)
            return present
        if container.image_pull_policy == "Never":
            message = f'Container image "{name}" is not present with pull policy of Never'
            note("Warning", "ErrImageNeverPull", message)
            raise ImageNever("ErrImageNeverPull", message)
        try:
            return await self._pull(pod.uid, name, credentials, note)
        except ImageWait as error:
            if present is None or not error.unreachable:
                raise
            # A box that booted without its network runs what it has: its pods must not wait for a registry.
            note(
                "Warning", "PullSkipped", f'The registry of image "{name}" is not reached: the one on this machine runs'
            )
            return present

    async def _pull(self, uid: str, name: str, credentials: Sequence[Credentials], note: Note) -> Image:
        trouble = self._troubles.get((uid, name))
        now = self._clock.monotonic()
        if trouble is not None and now < trouble.retry_at:
            note("Normal", "BackOff", f'Back-off pulling image "{name}"')
            raise ImageWait(
                "ImagePullBackOff",
                f'Back-off pulling image "{name}": ErrImagePull: {trouble.message}',
                retry_in=trouble.retry_at - now,
                unreachable=trouble.unreachable,
            )
        lock = self._pulls.setdefault(name, asyncio.Lock())
        note("Normal", "Pulling", f'Pulling image "{name}"')  # a kubelet says so before its turn has come
        try:
            async with lock, self._turns:
                self._check_silence(name)
                began = self._clock.monotonic()
                image = await self._ask(name, credentials)
        except PullFailed as error:
            delay = min(MAXIMUM, trouble.delay * 2) if trouble is not None else INITIAL
            away = error.unreachable
            self._troubles[(uid, name)] = _Trouble(self._clock.monotonic() + delay, delay, error.message, away)
            note("Warning", "Failed", f'Failed to pull image "{name}": {error.message}')
            raise ImageWait(error.reason, error.message, retry_in=delay, unreachable=away) from None
        ended = self._clock.monotonic()
        took, waited = _duration(ended - began), _duration(ended - now)
        note(
            "Normal",
            "Pulled",
            f'Successfully pulled image "{name}" in {took} ({waited} including waiting). '
            f"Image size: {image.size} bytes.",
        )
        self._troubles.pop((uid, name), None)
        return image

    async def _ask(self, name: str, credentials: Sequence[Credentials]) -> Image:
        registry = split(name)[0]
        try:
            image = await self._engine.pull(name, credentials)
        except PullFailed as error:
            if error.unreachable:
                self._silences[registry] = _Silence(self._clock.monotonic() + INITIAL, error.message)
            raise
        self._silences.pop(registry, None)
        return image

    def _check_silence(self, name: str) -> None:
        silence = self._silences.get(split(name)[0])
        if silence is not None and self._clock.monotonic() < silence.until:
            raise PullFailed(silence.message, unreachable=True)

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        for key in [key for key in self._troubles if key[0] == uid]:
            del self._troubles[key]


def _duration(seconds: float) -> str:
    """As a kubelet writes it: `234ms`, `1.234s`, `1m2.5s`."""
    minutes, rest = divmod(round(seconds * 1000), 60_000)
    if minutes:
        return f"{minutes}m{rest / 1000:g}s"
    return f"{rest / 1000:g}s" if rest >= 1000 else f"{rest}ms"


def _must_pull(container: Container) -> bool:
    policy = container.image_pull_policy
    if policy:
        return policy == "Always"
    tag = container.image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    return "@" not in container.image and tag in ("", "latest")
