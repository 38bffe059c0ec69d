"""edged as the composition root joins it, on a real Docker Engine and a real database, with a scripted cloud."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeappliance.config.settings import Edged as EdgedSettings
from edgeappliance.config.settings import EdgeSettings
from edgeappliance.edged.edged import Edged
from edgeappliance.edged.facts import Limits, Machine, read_machine
from edgeappliance.edged.pods.observed import ObservedContainer
from edgeappliance.edgehub.hub import EdgeHub
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.database import Database
from edgeappliance.kernel.supervisor import Supervisor
from edgeappliance.metamanager.metamanager import MetaManager
from edgeappliance.podparts import PodParts
from edgeappliance.store import MetaStore, open_store
from tests.support.dockerd import Dockerd
from tests.support.edge_identity import NODE, Edge, edge
from tests.support.kubeedge_cloud import KubeEdgeCloud
from tests.support.pods import pod

Object = dict[str, Any]


@dataclass
class Stand:
    """A node that runs pods."""

    cloud: KubeEdgeCloud
    edge: Edge
    parts: PodParts
    database: Database
    manifests: Path

    @property
    def edged(self) -> Edged:
        return self.parts.edged

    def bind(self, name: str, *containers: Object, status: Object | None = None, **spec: Any) -> str:
        """A pod for this node, pushed as an informer does; its uid."""
        obj = self.cloud.object("Pod", "default", name, spec=pod(name, *containers, node=NODE, **spec)["spec"])
        obj["status"] = status or {"phase": "Pending"}
        self.cloud.objects[f"default/pod/{name}"] = obj
        self.push("insert", name)
        return str(obj["metadata"]["uid"])

    def push(self, operation: str, name: str) -> None:
        self.cloud.push(operation, f"default/pod/{name}", json.loads(json.dumps(self.object(name))))

    def delete(self, name: str, *, grace: int = 1) -> None:
        """As `kubectl delete`: the node is told to end the pod."""
        metadata = self.object(name)["metadata"]
        metadata |= {"deletionTimestamp": "2026-11-22T10:00:00Z", "deletionGracePeriodSeconds": grace}
        self.push("update", name)

    def object(self, name: str) -> Object:
        """The pod as the cloud has it; {} when it has none."""
        return self.cloud.objects.get(f"default/pod/{name}", {})

    def phase(self, name: str) -> str:
        return str(self.object(name).get("status", {}).get("phase", ""))

    async def phase_is(self, name: str, phase: str, *, timeout: float = 20.0) -> Object:
        """The pod, as soon as the cloud has it in that phase."""
        await self.cloud.wait(lambda _: self.phase(name) == phase, timeout=timeout)
        return self.object(name)

    def patches(self, name: str) -> list[Object]:
        return [json.loads(item.content) for item in self.cloud.messages(f"default/podpatch/{name}", "patch")]

    async def containers(self, uid: str) -> list[ObservedContainer]:
        """What is on the engine for a pod."""
        return [item for item in await self.parts.docker.engine.containers() if item.pod_uid == uid]

    async def restart(self, name: str) -> None:
        """What the supervisor does with a component that failed."""
        entry = self.edge.supervisor._entries[name]
        await self.edge.supervisor._stop_one(entry)
        await self.edge.supervisor._start_one(entry)


@contextlib.asynccontextmanager
async def stand(cloud: KubeEdgeCloud, dockerd: Dockerd, directory: Path, **settings: Any) -> AsyncIterator[Stand]:
    """A node whose state lies in `directory`: used again, it is the same node after a restart of edgecore."""
    state, manifests = directory / "state", directory / "manifests"
    state.mkdir(exist_ok=True)
    manifests.mkdir(exist_ok=True)
    database = await open_store(state)
    machine: Machine = await asyncio.to_thread(read_machine, state)
    config = EdgeSettings(
        state_dir=str(state),
        runtime_dir=str(directory / "run"),
        edged=EdgedSettings(
            docker=str(dockerd.socket), manifests=str(manifests), kubelet_port=0, evict_disk_percent=0, **settings
        ),
    )
    (directory / "run").mkdir(exist_ok=True)
    made: list[PodParts] = []

    def prepare(hub: EdgeHub, supervisor: Supervisor) -> None:
        meta = supervisor.add("metamanager", lambda scope: MetaManager(scope, store=MetaStore(database), cloud=hub))
        hub.route("resource", meta.receive)
        parts = PodParts(
            supervisor,
            config=config,
            node=NODE,
            machine=machine,
            database=database,
            meta=meta,
            cloud=hub,
            clock=SystemClock(),
            limits=Limits(memory_kib=1024, disk=0.0, inodes=0.0),
        )
        parts.static._check = 0.1
        made.append(parts)

    try:
        async with edge(cloud, directory / "id", prepare=prepare) as running:
            await running.connected()
            yield Stand(cloud, running, made[0], database, manifests)
    finally:
        await database.close()


async def until(condition: Callable[[], Any], *, timeout: float = 20.0) -> None:
    """Return when it holds; TimeoutError otherwise."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.02)
