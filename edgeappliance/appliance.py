"""The composition root of edgecore: the only place that builds its parts and hands each what it needs."""

import asyncio
import fcntl
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from edgeappliance.config.endpoint import Endpoint
from edgeappliance.config.joined import ENROLL_PORT, Place, place
from edgeappliance.config.settings import EdgeSettings
from edgeappliance.devicemodel.catalogue import CatalogueChange
from edgeappliance.devicetwin.service import DeviceTwin
from edgeappliance.edged.facts import Limits, Machine, read_machine
from edgeappliance.edged.node import Node
from edgeappliance.edgehub.enrolment import Enrolment
from edgeappliance.edgehub.hub import EdgeHub
from edgeappliance.edgehub.identity import IdentityFiles, clock_is_implausible
from edgeappliance.edgehub.link import Target
from edgeappliance.edgehub.session import Pace
from edgeappliance.edgehub.solitary import NoCloud
from edgeappliance.eventbus.broker import Broker
from edgeappliance.eventbus.service import EventBus
from edgeappliance.kernel.clock import Clock, SystemClock
from edgeappliance.kernel.component import State
from edgeappliance.kernel.control import ControlServer, Verb
from edgeappliance.kernel.database import Database
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.files import make_directory
from edgeappliance.kernel.http import Answer, LocalHttpServer, Page
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import Supervisor
from edgeappliance.mappers.local import LocalFolder
from edgeappliance.mappers.service import Mappers
from edgeappliance.metamanager.devices import Devices, Receiver
from edgeappliance.metamanager.metamanager import MetaManager
from edgeappliance.report import device_report
from edgeappliance.store import MetaStore, SubscriptionStore, TwinStore, open_store, store_identity
from edgeappliance.store.health import StoreHealth
from edgeappliance.version import version
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import Group, Source

if TYPE_CHECKING:
    from edgeappliance.edgestream.edgestream import EdgeStream
    from edgeappliance.podparts import PodParts

LATE = 10
"""Start order of what must find everything else in its place: the link, and what reports or listens."""


class Appliance:
    """edgecore as a whole: `start`, `stop`, and what it says of itself.

    suspect: the appliance before this one found the database damaged.
    """

    def __init__(self, config: EdgeSettings, *, clock: Clock | None = None, suspect: bool = False) -> None:
        self._config = config
        self._suspect = suspect
        self._clock = clock or SystemClock()
        self._began = time.monotonic()
        self._locks: list[TextIO] = []
        self._database: Database | None = None
        self._supervisor = Supervisor(clock=self._clock)
        self._place: Place
        self._machine: Machine
        self._twin: DeviceTwin
        self._devices: Devices
        self._mappers: Mappers | None = None
        self._log = get_logger("edgecore")

    async def start(self) -> None:
        """Start every part; returns when local callers can be served. Raises OperatorError, StorageError."""
        try:
            await asyncio.to_thread(self._prepare)
            self._place = place(self._config)
            self._database = await open_store(self._config.state_path, suspect=self._suspect)
            self._machine = await asyncio.to_thread(read_machine, self._config.state_path)
            self._compose(self._database, await store_identity(self._database))
            await self._supervisor.start()
        except BaseException:
            await self.stop()
            raise
        self._log.info("edgecore runs", node=self._place.node, version=version(), cloud=str(self._place.hub or "none"))

    async def damaged(self) -> None:
        """Returns when the database is found damaged: stop, and start a new Appliance, which replaces the file."""
        if self._database is None:
            raise RuntimeError("the appliance is not started")
        await self._database.damaged.wait()

    async def stop(self) -> None:
        """Stop every part in reverse order; idempotent."""
        if self._database is not None:
            self._log.info("edgecore stops")
        await self._supervisor.stop()
        if self._database is not None:
            await self._database.close()
            self._database = None
        while self._locks:
            self._locks.pop().close()

    def _prepare(self) -> None:
        """Directories, and the locks that refuse a second edgecore: on the same state, or in the same runtime
        directory, where it would take the running one's broker for a leftover and end it."""
        for key, directory in (("state_dir", self._config.state_path), ("runtime_dir", self._config.runtime_path)):
            make_directory(directory, next_step="run as root, or set state_dir and runtime_dir")
            self._locks.append(_lock(directory / "lock", key))

    # Composition.

    def _compose(self, database: Database, store: str) -> None:
        config, clock, add = self._config, self._clock, self._supervisor.add
        runtime = config.runtime_path
        node, hub = self._place.node, self._place.hub
        cloud = self._add_cloud(node, store)

        add("store", lambda scope: StoreHealth(scope, database=database, clock=clock))
        meta = add("metamanager", lambda scope: MetaManager(scope, store=MetaStore(database), cloud=cloud, clock=clock))
        if config.mqtt.mode == "internal":
            add("broker", lambda scope: Broker(settings=config.mqtt, runtime=runtime, scope=scope, clock=clock))
        subscriptions = SubscriptionStore(database)
        bus = add(
            "eventbus",
            lambda scope: EventBus(
                settings=config.mqtt, node=node, cloud=cloud, subscriptions=subscriptions, scope=scope, clock=clock
            ),
        )
        self._twin = add(
            "devicetwin",
            lambda scope: DeviceTwin(
                node=node,
                store=TwinStore(database),
                bus=bus,
                cloud=cloud,
                scope=scope,
                clock=clock,
                strict=config.twin.strict,
                commit_interval=config.twin.commit_interval,
            ),
        )
        bus.twin_inbox(self._twin.mqtt)
        receivers: list[Receiver] = [_twin_changes(self._twin)]
        if config.mappers.modbus:
            self._mappers = add("mappers", lambda scope: Mappers(scope=scope, bus=bus, clock=clock))
            receivers.append(self._mappers.apply)
        local = LocalFolder(Path(config.mappers.directory))
        self._devices = add("devices", lambda scope: Devices(scope, objects=meta, receivers=receivers, local=local))
        cloud.on_connection(self._twin.connection)
        cloud.route(Group.RESOURCE, meta.receive)
        cloud.route(Group.TWIN, self._twin.handle)
        cloud.route(Group.USER, _user_messages(bus))
        pods = self._add_pods(database, meta, cloud) if config.edged.enable else None
        if config.node.enable and hub is not None:
            self._add_node(cloud, pods)
        if pods is not None and hub is not None and config.edgestream.enable:
            cloud.on_connection(self._add_stream(self._place.tunnel or hub).link_changed)
        verbs: dict[str, Verb] = {"status": self._status, "devices": self._device_list}
        if pods is not None:
            files = IdentityFiles(config.identity_path) if hub is not None else None
            verbs["autonomy"] = partial(pods.autonomy, files)
        if config.metrics.enable:
            add("metrics", lambda scope: self._metrics_server(), order=LATE)
        add("control", lambda scope: ControlServer(path=config.control_socket, verbs=verbs), order=LATE)

    def _add_pods(self, database: Database, meta: MetaManager, cloud: EdgeHub | NoCloud) -> "PodParts":
        from edgeappliance.podparts import PodParts  # Docker's client only where pods run

        return PodParts(
            self._supervisor,
            config=self._config,
            node=self._place.node,
            machine=self._machine,
            database=database,
            meta=meta,
            cloud=cloud,
            clock=self._clock,
            limits=_pressure_limits(self._config),
        )

    def _add_node(self, cloud: EdgeHub | NoCloud, pods: "PodParts | None") -> None:
        config = self._config
        node = self._supervisor.add(
            "node",
            lambda scope: Node(
                scope,
                cloud=cloud,
                name=self._place.node,
                version=version(),
                data_directory=config.state_path,
                clock=self._clock,
                runtime=pods.node_runtime() if pods is not None else None,
                note=pods.note if pods is not None else None,
                limits=_pressure_limits(config),
                labels=config.node.labels,
            ),
            order=LATE,
        )
        if pods is not None:
            pods.on_change(node.changed)

    def _add_stream(self, server: Endpoint) -> "EdgeStream":
        from edgeappliance.edgestream.edgestream import EdgeStream

        config = self._config
        files = IdentityFiles(config.identity_path)

        async def tls() -> ssl.SSLContext:
            return await asyncio.to_thread(self._client_context, files)

        return self._supervisor.add(
            "edgestream",
            lambda scope: EdgeStream(
                scope,
                host=server.host,
                port=server.port,
                node=self._place.node,
                tls=tls,
                kubelet=config.runtime_path / "kubelet.sock",
                clock=self._clock,
            ),
            order=LATE,
        )

    def _client_context(self, files: IdentityFiles) -> ssl.SSLContext:
        """TLS as this node. Raises OperatorError while it has no identity."""
        identity = files.load()
        if identity is None:
            raise OperatorError("this node has no certificate yet", next_step="see component edgehub")
        ignore_dates = clock_is_implausible(self._clock.wall_ms() / 1000, identity.facts)
        return identity.client_context(ignore_dates=ignore_dates)

    def _add_cloud(self, node: str, store: str) -> EdgeHub | NoCloud:
        hub, enroll = self._place.hub, self._place.enroll
        if hub is None:
            return self._supervisor.add("edgehub", lambda scope: NoCloud(), order=LATE)
        settings, clock = self._config.cloud, self._clock
        files = IdentityFiles(self._config.identity_path)
        port = enroll.port if enroll is not None else ENROLL_PORT
        host = enroll.host if enroll is not None else hub.host
        enrolment = Enrolment(files=files, host=host, port=port, node=node, clock=clock)
        target = Target(host=hub.host, port=hub.port, node=node, project=settings.project, store=store)
        pace = Pace(keepalive=settings.heartbeat, rate=settings.messages_per_second, burst=settings.message_burst)
        return self._supervisor.add(
            "edgehub",
            lambda scope: EdgeHub(
                scope,
                target=target,
                files=files,
                enrolment=enrolment,
                clock=clock,
                token_file=Path(settings.token_file) if settings.token_file else None,
                pace=pace,
                rotate=settings.rotate_certificates,
            ),
            order=LATE,
        )

    def _metrics_server(self) -> LocalHttpServer:
        from edgeappliance.kernel.metrics import CONTENT_TYPE, Metrics

        metrics = Metrics()
        metrics.add_process("edgecore", version=version(), node=self._place.node)
        metrics.add_components("edgecore", self._supervisor.health)
        pages: dict[str, Page] = {
            "/metrics": lambda: Answer(200, metrics.render(), CONTENT_TYPE),
            "/healthz": self._healthz,
        }
        return LocalHttpServer(host="127.0.0.1", port=self._config.metrics.port, pages=pages)

    def _healthz(self) -> Answer:
        failed = [name for name, health in self._supervisor.health().items() if health.state is State.FAILED]
        return Answer(503, f"failed: {', '.join(failed)}\n".encode()) if failed else Answer(200, b"ok\n")

    # What it says of itself.

    async def _status(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "node": self._place.node,
            "version": version(),
            "uptime_s": round(time.monotonic() - self._began, 1),
            "now_ms": self._clock.wall_ms(),
            "components": {
                name: {
                    "state": health.state.value,
                    "reason": health.reason,
                    "next_step": health.next_step,
                    "since_ms": health.since_ms,
                    "details": dict(health.details),
                }
                for name, health in self._supervisor.health().items()
            },
        }

    async def _device_list(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        field = self._mappers.devices() if self._mappers is not None else []
        report = device_report(self._devices.results(), self._twin, field)
        return {"now_ms": self._clock.wall_ms(), "devices": report}


def _pressure_limits(config: EdgeSettings) -> Limits:
    """Below what this node is under pressure."""
    free = config.edged.evict_disk_percent / 100
    return Limits(memory_kib=config.edged.evict_memory_mb * 1024, disk=free, inodes=free / 2)


def _lock(path: Path, key: str) -> TextIO:
    """The file, locked until it is closed. Raises OperatorError."""
    try:
        lock = path.open("a")
    except OSError as error:
        raise OperatorError(
            f"{path}: {error.strerror}", next_step=f"check {key}, its owner and its file system"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise OperatorError(
            f"another edgecore uses {path.parent}",
            next_step=f"stop it first, or use another {key}; `edgecore status` shows the running one",
        ) from None
    return lock


def _twin_changes(twin: DeviceTwin) -> Receiver:
    """A device that became invalid keeps its twin until it is corrected or removed."""

    async def take(change: CatalogueChange) -> None:
        if change.spec is not None:
            await twin.apply(change.spec)
        elif change.removed:
            await twin.remove(change.device_id)

    return take


def _user_messages(bus: EventBus) -> Callable[[Message], Awaitable[None]]:
    """Group `user` goes by its source (reference 1.2); what has no receiver is logged and dropped."""
    log = get_logger("edgecore")

    async def receive(message: Message) -> None:
        if message.source == Source.ROUTER_EVENTBUS:
            await bus.handle(message)
        else:
            log.warning("no receiver for a message of group user", source=message.source, resource=message.resource)

    return receive
