"""The engine under test on a real Docker Engine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edgeappliance.edged.engine.docker_engine import DockerEngine
from edgeappliance.edged.engine.service import DockerService
from edgeappliance.edged.pods import observed
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.supervisor import TaskScope
from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd

NODE = "edge-1"


class Running:
    """A DockerService with its scope; `failures` is what its tasks raised."""

    def __init__(self, socket: Path, *, node: str = NODE) -> None:
        self.failures: list[BaseException] = []
        self._scope = TaskScope("docker", self.failures.append)
        self.service = DockerService(self._scope, socket=socket, node=node, clock=SystemClock())
        self.engine: DockerEngine = self.service.engine
        self.changes: list[bool] = []
        self.events: list[Any] = []
        self.engine.on_connection(self.changes.append)
        self.engine.on_event(self.events.append)

    async def __aenter__(self) -> "Running":
        await self.service.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.service.stop()
        await self._scope.cancel()
        assert self.failures == []

    async def connected(self, *, timeout: float = 20.0) -> DockerEngine:
        await until(lambda: self.engine.connected, timeout=timeout)
        return self.engine


async def until(condition: Callable[[], bool], *, timeout: float = 10.0) -> None:
    """Return when it holds; TimeoutError otherwise."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def running(dockerd: Dockerd) -> AsyncIterator[Running]:
    async with Running(dockerd.socket) as running:
        await running.connected()
        yield running


@pytest.fixture
def engine(running: Running) -> DockerEngine:
    return running.engine


def body(*command: str, uid: str = "uid-1", name: str = "app", node: str = NODE, **more: Any) -> dict[str, Any]:
    """A create body of a container of ours; `more` goes into it, `host` into its HostConfig."""
    host = {"NetworkMode": "none", **more.pop("host", {})}
    labels = {
        observed.OWNER: node,
        observed.KIND: "app",
        observed.POD_UID: uid,
        observed.POD_NAME: "pod",
        observed.POD_NAMESPACE: "default",
        observed.CONTAINER_NAME: name,
        observed.ATTEMPT: "3",
        observed.BACKOFF: "20",
        observed.GRACE: "7",
        **more.pop("labels", {}),
    }
    return {"Image": BUSYBOX, "Cmd": list(command), "Labels": labels, "HostConfig": host, **more}


@pytest.fixture
def run(engine: DockerEngine) -> Callable[..., Awaitable[str]]:
    """Create and start a container of ours; its id."""
    made = iter(range(1000))

    async def start(*command: str, **more: Any) -> str:
        id = await engine.create(body(*command, **more), name=f"c{next(made)}")
        await engine.start(id)
        return id

    return start
