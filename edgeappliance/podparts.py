"""The parts of edgecore that run pods, built and joined: a piece of the composition root of its own.

Imported only where `edged.enable` is set: the Docker Engine's client and what hangs on it stay out of memory otherwise.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeappliance.config.settings import EdgeSettings
from edgeappliance.edged.autonomy import Wanted, report
from edgeappliance.edged.cgroups import Cgroups
from edgeappliance.edged.edged import Edged
from edgeappliance.edged.engine.api import Image
from edgeappliance.edged.engine.create import SandboxSettings
from edgeappliance.edged.engine.service import DockerService
from edgeappliance.edged.events import EventRecorder, EventType, Regarding
from edgeappliance.edged.facts import Limits, Machine, Pressure
from edgeappliance.edged.housekeeping.images import ImageLimits
from edgeappliance.edged.housekeeping.service import Housekeeping
from edgeappliance.edged.kubelet.api import KubeletApi
from edgeappliance.edged.objects import Objects
from edgeappliance.edged.pause.archive import IMAGE as PAUSE
from edgeappliance.edged.pods.admission import Capacity, admit
from edgeappliance.edged.pods.environment import Facts
from edgeappliance.edged.pods.resources import to_bytes
from edgeappliance.edged.pods.spec import Pod
from edgeappliance.edged.probes.runner import ProbeRunner
from edgeappliance.edged.reporter import StatusReporter
from edgeappliance.edged.runtime import PodRuntime
from edgeappliance.edged.static import StaticPods
from edgeappliance.edged.stats import Stats
from edgeappliance.edged.tokens import Tokens
from edgeappliance.edged.volumes.pod import PodVolumes
from edgeappliance.edgehub.hub import EdgeHub
from edgeappliance.edgehub.identity import IdentityFiles
from edgeappliance.edgehub.solitary import NoCloud
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.database import Database
from edgeappliance.kernel.supervisor import Supervisor, TaskScope
from edgeappliance.metamanager.metamanager import MetaManager
from edgeappliance.metamanager.objects import Change
from edgeappliance.store import MetaStore, PodStore
from edgeappliance.wire.operations import ResourceType


class PodParts:
    """Adds edged's components to the supervisor; afterwards `runtime` is what the node needs of them."""

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        config: EdgeSettings,
        node: str,
        machine: Machine,
        database: Database,
        meta: MetaManager,
        cloud: EdgeHub | NoCloud,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._config = config
        self._limits = limits
        self._store = MetaStore(database)
        self._clock = clock
        self._node = node
        self._machine = machine
        self._cloud = cloud
        self._listeners: list[Callable[[], None]] = []
        self._labels: dict[str, str] | None = None
        meta.subscribe(ResourceType.NODE, self._node_changed)
        settings = config.edged
        self.docker: DockerService = supervisor.add(
            "docker", lambda scope: DockerService(scope, socket=Path(settings.docker), node=node, clock=clock)
        )
        self.docker.engine.on_connection(lambda _: self._tell_node())
        self.objects = Objects(source=meta, link=cloud, clock=clock)
        self.events = EventRecorder(cloud=cloud, node=node, clock=clock, enabled=settings.events)
        self.tokens = Tokens(source=meta, store=self._store, link=cloud, clock=clock)
        self.volumes = PodVolumes(
            config.state_path,
            engine=self.docker.engine,
            objects=self.objects,
            tokens=self.tokens,
            cluster_domain=settings.cluster_domain,
        )
        self.edged: Edged = supervisor.add(
            "edged", lambda scope: self._edged(scope, database=database, meta=meta, clock=clock)
        )
        cloud.on_connection(self.edged.link_changed)
        self.static: StaticPods = supervisor.add(
            "static",
            lambda scope: StaticPods(scope, directory=Path(settings.manifests), node=node, clock=clock),
        )
        self.static.on_change(self.edged.set_static)
        cgroups = Cgroups()
        self.housekeeping: Housekeeping = supervisor.add(
            "housekeeping",
            lambda scope: Housekeeping(
                scope,
                node=node,
                engine=self.docker.engine,
                pods=self.edged,
                volumes=self.volumes,
                events=self.events,
                cgroups=cgroups,
                clock=clock,
                data_directory=config.state_path,
                limits=limits,
                image_limits=ImageLimits(
                    high=settings.image_gc_high, low=settings.image_gc_low, min_age=settings.image_min_age
                ),
                changed=self._tell_node,
                kept=(PAUSE,),
            ),
        )
        self.stats = Stats(
            node=node,
            cgroups=cgroups,
            clock=clock,
            data_directory=config.state_path,
            image_directory=self._image_directory,
            pods=lambda: list(self.edged.workers.values()),
            tally=self.probes.tally,
            volumes=self.volumes.usage,
        )
        self.kubelet: KubeletApi = supervisor.add(
            "kubelet",
            lambda scope: KubeletApi(
                scope,
                runtime=config.runtime_path,
                port=settings.kubelet_port,
                open_to_all=settings.kubelet_open,
                pods=self.edged,
                engine=self.docker.engine,
                figures=self.stats,
                syncing=lambda: self.edged.syncing,
                clock=clock,
            ),
        )

    async def autonomy(self, files: IdentityFiles | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What would survive a cut from the cloud. files: of this node's identity, None when it has no cloud."""
        identity = await asyncio.to_thread(files.load) if files is not None else None
        ends = identity.facts.not_after if identity is not None else None
        return await report(
            node=self._node,
            pods=[Wanted(worker.pod, bool(worker.finished)) for worker in self.edged.workers.values()],
            store=self._store,
            engine=self.docker.engine,
            certificate_ends=0.0 if files is not None and identity is None else ends,
            clock=self._clock,
        )

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the engine came or went, or a pressure: what the node says of itself has changed."""
        self._listeners.append(callback)

    def _tell_node(self) -> None:
        for callback in self._listeners:
            callback()

    def _image_directory(self) -> Path | None:
        facts = self.docker.engine.facts
        return facts.root if facts is not None else None

    def note(self, reason: str, message: str) -> None:
        """An event of this node."""
        self.events.event(Regarding.node(self._node), EventType.NORMAL, reason, message)

    def node_runtime(self) -> "NodeRuntime":
        """What the node tells of what runs its pods."""
        return NodeRuntime(self, max_pods=self._config.edged.max_pods)

    def _edged(self, scope: TaskScope, *, database: Database, meta: MetaManager, clock: Clock) -> Edged:
        engine = self.docker.engine
        allocatable = self._machine.allocatable(pods=0, limits=self._limits)
        cpu, memory = self._machine.cpus * 1000, to_bytes(allocatable["memory"])
        storage = to_bytes(allocatable["ephemeral-storage"])
        self.probes = ProbeRunner(scope, engine=engine, clock=clock, on_change=self._probed, events=self.events)
        runtime = PodRuntime(
            engine=engine,
            volumes=self.volumes,
            objects=self.objects,
            probes=self.probes,
            events=self.events,
            clock=clock,
            node=self._node,
            node_ip=self.node_ip,
            facts=Facts(node_name=self._node, cpu=cpu, memory=memory, storage=storage),
            settings=self._sandbox_settings(),
        )
        settings = self._config.edged

        def admission(pod: Pod, others: list[Pod]) -> tuple[str, str] | None:
            capacity = Capacity(name=self._node, labels=self._labels, cpu=cpu, memory=memory, storage=storage)
            return admit(pod, others, capacity, max_pods=settings.max_pods, privileged_allowed=settings.privileged)

        return Edged(
            scope,
            node=self._node,
            desired=meta,
            objects=self.objects,
            engine=engine,
            runtime=runtime,
            reporter=StatusReporter(scope, cloud=self._cloud),
            events=self.events,
            store=PodStore(database),
            clock=clock,
            admission=admission,
            sends_all=lambda: self._cloud.ours,
            keep=settings.dead_containers,
        )

    def _sandbox_settings(self) -> SandboxSettings:
        settings = self._config.edged
        return SandboxSettings(
            network=settings.network,
            cluster_dns=tuple(settings.cluster_dns),
            cluster_domain=settings.cluster_domain,
            log_max_mb=settings.log_max_mb,
            log_files=settings.log_files,
            memory=self._machine.memory_kib * 1024,
            seccomp_profiles=self._config.state_path / "seccomp",
        )

    async def _node_changed(self, change: Change) -> None:
        """The node as the API has it: an administrator may have given it labels since it registered."""
        metadata = change.value.get("metadata") if change.value is not None else None
        if change.resource.name == self._node and isinstance(metadata, dict):
            labels = metadata.get("labels")
            self._labels = labels if isinstance(labels, dict) else {}

    def _probed(self, uid: str) -> None:
        worker = self.edged.workers.get(uid)
        if worker is not None:
            worker.wake()

    def node_ip(self) -> str:
        """The address by which this node reaches its cloud, else that of its default route; "" without a network."""
        return self._cloud.local_address or _route_address()


class NodeRuntime:
    """What the node tells of its pods' runtime."""

    def __init__(self, parts: PodParts, *, max_pods: int) -> None:
        self._engine = parts.docker.engine
        self._kubelet = parts.kubelet
        self._housekeeping = parts.housekeeping
        self.max_pods = max_pods

    @property
    def trouble(self) -> str:
        return "" if self._engine.connected else f"container runtime is down: {self._engine.trouble}"

    @property
    def version(self) -> str:
        return f"docker://{self._engine.version}"

    @property
    def kubelet_port(self) -> int:
        return self._kubelet.port

    def images(self) -> Sequence[Image]:
        return self._housekeeping.images

    def pressure(self) -> Pressure | None:
        return self._housekeeping.pressure


def _route_address() -> str:
    """This host's address on its default route; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET: routed like any address, reached by nobody
        except OSError:
            return ""
        return str(probe.getsockname()[0])
