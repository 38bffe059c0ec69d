"""What housekeeping needs of others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgeappliance.edged.events import Regarding
from edgeappliance.edged.housekeeping.images import ImageEngine
from edgeappliance.edged.pods.observed import ObservedContainer
from edgeappliance.edged.pods.plan import Stopping
from edgeappliance.edged.pods.spec import Pod
from edgeappliance.edged.volumes.tree import Usage


class Worker(Protocol):
    """A pod of this node."""

    @property
    def pod(self) -> Pod: ...

    @property
    def containers(self) -> tuple[ObservedContainer, ...]: ...

    @property
    def finished(self) -> str:
        """The phase that it has ended with, "" while it has not."""
        ...

    @property
    def stopping(self) -> Stopping | None: ...


class Pods(Protocol):
    """What housekeeping needs of edged."""

    @property
    def workers(self) -> Mapping[str, Worker]:
        """By pod UID."""
        ...

    @property
    def strays(self) -> Mapping[str, Sequence[ObservedContainer]]:
        """Containers of ours that belong to no pod, by pod UID."""
        ...

    def known_is_complete(self) -> bool:
        """Whether a pod that is not among `workers` is not wanted."""
        ...

    def evict(self, uid: str, reason: str, message: str, grace: int = 0) -> None:
        """End a pod for good, with status and event."""
        ...


class HousekeepingEngine(ImageEngine, Protocol):
    """What housekeeping needs of the engine. Every call may raise EngineAway and EngineRefused."""

    @property
    def connected(self) -> bool: ...

    async def stop(self, id: str, *, grace: int) -> None: ...

    async def remove(self, id: str) -> None: ...

    async def root(self) -> Path: ...


class Volumes(Protocol):
    """What housekeeping needs of the pods' directories."""

    async def known(self) -> set[str]:
        """Pod UIDs with a directory."""
        ...

    async def usage(self, uid: str) -> dict[str, Usage]:
        """Of each volume on disk."""
        ...

    async def remove(self, uid: str) -> None: ...


class Events(Protocol):
    @property
    def waiting(self) -> int:
        """Events that have not been sent."""
        ...

    @property
    def dropped(self) -> int:
        """Events that never will be."""
        ...

    def event(self, regarding: Regarding, type: str, reason: str, message: str) -> None: ...

    def flush(self) -> None: ...
