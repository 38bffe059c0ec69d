"""The sandbox of a pod, the container that holds its network: made and started."""

import asyncio
from typing import Any

from edgeappliance.edged.engine.api import Engine, EngineRefused
from edgeappliance.edged.engine.create import SandboxSettings, sandbox_body
from edgeappliance.edged.events import EventRecorder
from edgeappliance.edged.pause.archive import IMAGE as PAUSE
from edgeappliance.edged.pause.archive import archive as pause_archive
from edgeappliance.edged.pods.environment import Facts
from edgeappliance.edged.pods.observed import ObservedContainer
from edgeappliance.edged.pods.reconcile import SANDBOX_CHANGED
from edgeappliance.edged.pods.spec import Pod
from edgeappliance.edged.volumes.errors import VolumeError
from edgeappliance.edged.volumes.pod import PodVolumes
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.kernel.log import get_logger


class StartFailed(ApplianceError):
    """A container that could not be started: its waiting reason, and when to try again (s; None: by back-off)."""

    def __init__(self, reason: str, message: str, *, retry_in: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_in = retry_in


class Sandboxes:
    """Makes them. Knows how far this engine may protect a container from the OOM killer."""

    def __init__(
        self, engine: Engine, *, volumes: PodVolumes, events: EventRecorder, node: str, settings: SandboxSettings
    ) -> None:
        self._engine = engine
        self._volumes = volumes
        self._events = events
        self._node = node
        self._settings = settings
        self._least_score = -1000
        self._scores_tried = False
        self._log = get_logger("edged")

    async def start(self, pod: Pod, attempt: int, facts: Facts) -> ObservedContainer:
        """Volumes, then the container that holds the pod's network. Raises StartFailed, EngineAway."""
        if attempt > 0:
            self._events.pod(pod, "Normal", "SandboxChanged", SANDBOX_CHANGED)
        try:
            await self._volumes.prepare(pod, facts)
        except VolumeError as error:
            self._events.pod(pod, "Warning", error.reason, error.message)
            raise StartFailed("ContainerCreating", error.message) from None
        if await self._engine.image(PAUSE) is None:
            await self._engine.load(await asyncio.to_thread(pause_archive))
        body = sandbox_body(
            pod,
            node=self._node,
            attempt=attempt,
            image=PAUSE,
            mounts=self._volumes.sandbox_mounts(pod),
            settings=self._settings,
        )
        return await self._run(pod, attempt, body)

    async def _run(self, pod: Pod, attempt: int, body: dict[str, Any]) -> ObservedContainer:
        wanted = self.bound(body)
        id = ""
        try:
            id = await self._engine.create(body, name=engine_name(pod, "POD", attempt))
            await self._engine.start(id)
        except EngineRefused as error:
            await self.discard(id)
            if id and wanted < 0 and not self._scores_tried:
                # An engine without CAP_SYS_RESOURCE (in a container, on some kernels) can protect nobody from the OOM
                # killer, and its error does not say that this is why it starts nothing.
                self._least_score, self._scores_tried = 0, True
                return await self._run(pod, attempt, body)
            message = f"Failed to create pod sandbox: {error.message}"
            self._events.pod(pod, "Warning", "FailedCreatePodSandBox", message)
            raise StartFailed("ContainerCreating", message) from None
        if wanted < 0:
            self._scores_tried = True
        container = await self._engine.inspect(id)
        if container is None:
            raise StartFailed("ContainerCreating", "the sandbox is gone", retry_in=1.0)
        return container

    def bound(self, body: dict[str, Any]) -> int:
        """Keep the OOM score to what the engine is allowed to give; the score itself."""
        host = body["HostConfig"]
        host["OomScoreAdj"] = max(self._least_score, int(host.get("OomScoreAdj") or 0))
        return int(host["OomScoreAdj"])

    async def discard(self, id: str) -> None:
        """Remove what was made and is of no use; what stays is removed by the next plan."""
        if not id:
            return
        try:
            await self._engine.remove(id)
        except ApplianceError as error:
            self._log.debug("container not removed", id=id[:12], reason=error.message)


def engine_name(pod: Pod, container: str, attempt: int) -> str:
    """As dockershim named them: people and tools know the form."""
    metadata = pod.metadata
    return f"k8s_{container}_{metadata.name}_{metadata.namespace}_{metadata.uid}_{attempt}"[:250]
