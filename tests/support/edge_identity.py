"""An edge that joined: files, enrolment and hub for a cloud on loopback."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeappliance.edgehub.enrolment import Enrolment
from edgeappliance.edgehub.hub import EdgeHub
from edgeappliance.edgehub.identity import IdentityFiles
from edgeappliance.edgehub.link import Target
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import Clock, SystemClock
from edgeappliance.kernel.supervisor import Supervisor
from tests.support.kubeedge_cloud import KubeEdgeCloud

NODE = "edge-1"


@dataclass
class Edge:
    """A hub under a supervisor, and what it was made of."""

    hub: EdgeHub
    supervisor: Supervisor
    files: IdentityFiles
    enrolment: Enrolment

    async def connected(self, timeout: float = 10.0) -> None:
        """Return when the link is up."""
        if self.hub.connected:
            return
        up = asyncio.Event()
        self.hub.on_connection(lambda on: up.set() if on else None)
        async with asyncio.timeout(timeout):
            await up.wait()


def enrolment_for(cloud: KubeEdgeCloud, directory: Path, *, node: str = NODE, clock: Clock | None = None) -> Enrolment:
    return Enrolment(
        files=IdentityFiles(directory),
        host="127.0.0.1",
        port=cloud.http_port,
        node=node,
        clock=clock or SystemClock(),
        timeout=5.0,
    )


@contextlib.asynccontextmanager
async def edge(
    cloud: KubeEdgeCloud,
    directory: Path,
    *,
    node: str = NODE,
    clock: Clock | None = None,
    join: bool = True,
    port: int | None = None,
    prepare: Callable[[EdgeHub, Supervisor], Any] = lambda hub, supervisor: None,
    **options: Any,
) -> AsyncIterator[Edge]:
    """A node that joined `cloud` and keeps its link; `prepare` adds routes and components before the start."""
    clock = clock or SystemClock()
    enrolment = enrolment_for(cloud, directory, node=node, clock=clock)
    files = IdentityFiles(directory)
    if join and files.load() is None:
        await enrolment.join(cloud.token())
    supervisor = Supervisor()
    hub = supervisor.add(
        "edgehub",
        lambda scope: EdgeHub(
            scope,
            target=Target("127.0.0.1", port or cloud.ws_port, node, store="store-1"),
            files=files,
            enrolment=enrolment,
            clock=clock,
            backoff=Backoff(initial=0.05, maximum=0.2),
            **options,
        ),
    )
    prepare(hub, supervisor)
    await supervisor.start()
    try:
        yield Edge(hub, supervisor, files, enrolment)
    finally:
        await supervisor.stop()
