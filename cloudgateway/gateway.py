"""The composition root of cloudgateway: the only place that builds its parts and joins them."""

import asyncio
import ipaddress
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from cloudgateway.cloudhub.connection import limit_tls_buffers
from cloudgateway.cloudhub.dispatch import Destination
from cloudgateway.cloudhub.hub import CloudHub
from cloudgateway.cloudhub.leases import SessionLeases
from cloudgateway.cloudhub.needs import HubSettings
from cloudgateway.cloudhub.records import RecordBook
from cloudgateway.cloudhub.traffic import Traffic
from cloudgateway.cloudstream.addresses import NodeAddresses
from cloudgateway.cloudstream.cloudstream import CloudStream, StreamSettings
from cloudgateway.cloudstream.endpoint import Endpoint
from cloudgateway.cloudstream.streamserver import StreamServer
from cloudgateway.config import CloudStreamSettings, GatewaySettings, default_addresses, server_names
from cloudgateway.devicecontroller.controller import DeviceController
from cloudgateway.edgecontroller.controller import EdgeController
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.informers import Informers
from cloudgateway.onboarding.credentials import SiteCredentials
from cloudgateway.onboarding.enrolment import EnrolmentPolicy, EnrolmentServer
from cloudgateway.onboarding.kube_secrets import KubeSecrets
from cloudgateway.onboarding.vault import Vault
from cloudgateway.relations import Relations
from cloudgateway.site import ADMIN_KUBECONFIG, Api, KubeNodes, Mirrors, Preparation, cluster_api, embedded_api, prepare
from cloudgateway.synccontroller.controller import SyncController
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.http import Answer, LocalHttpServer
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.metrics import CONTENT_TYPE, Metrics
from edgeappliance.kernel.supervisor import Supervisor

LATE = 10
"""Order of what lets edges in: after everything that answers them."""


class Gateway:
    """cloudgateway as one object: build, `start`, `stop`."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._supervisor = Supervisor(clock=self._clock)
        self._metrics = Metrics()
        self._api: Api | None = None
        self._pages: LocalHttpServer | None = None
        self.streams: CloudStream | None = None
        self.stream_server: StreamServer | None = None
        self.hub: CloudHub
        self.enrolment: EnrolmentServer
        self.credentials: SiteCredentials
        self.vault: Vault
        self.traffic = Traffic(self._metrics)
        self._log = get_logger("gateway")

    @property
    def api(self) -> Api:
        """The way to the Kubernetes API; after `start`."""
        if self._api is None:
            raise RuntimeError("the gateway is not started")
        return self._api

    async def start(self) -> None:
        """Start every part. Raises OperatorError for what keeps the gateway from its job; leaves nothing behind."""
        limit_tls_buffers()
        settings = self._settings
        if settings.embedded.directory:
            self._api = await embedded_api(settings, serve=True)
        else:
            self._api = await cluster_api(settings)
        try:
            if self._api.embedded is not None:
                await prepare(self._api.client, crds=True)
            self._compose(self._api)
            await self._supervisor.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop every part in reverse order. Idempotent."""
        await self._supervisor.stop()
        api, self._api = self._api, None
        if api is not None:
            await api.close()

    async def wait_listening(self) -> None:
        """Return when edges can join and connect."""
        await self.enrolment.wait_listening()
        await self.hub.wait_listening()
        if self.streams is not None:
            await self.streams.wait_listening()

    def health(self) -> Mapping[str, Health]:
        """Health of every part."""
        return self._supervisor.health()

    def listening(self) -> list[str]:
        """What to tell a person who has just started it."""
        settings, api = self._settings, self.api
        lines = [f"Kubernetes API  {api.url}"]
        if api.embedded is not None:
            lines.append(f"                export KUBECONFIG={api.embedded.directory / ADMIN_KUBECONFIG}")
        lines.append(f"edges join      {settings.enrolment.host}:{self.enrolment.port}")
        lines.append(f"edges connect   {settings.cloudhub.host}:{self.hub.port}")
        if self.streams is not None:
            lines.append(f"edges' streams  {settings.cloudstream.host}:{self.streams.port}")
        if self.stream_server is not None:
            lines.append(f"kubelet API     {settings.cloudstream.stream_host}:{self.stream_server.port}")
        lines.append(f"known as        {', '.join(self.credentials.addresses)}")
        if self._pages is not None:
            lines.append(f"metrics         http://{settings.metrics.host}:{self._pages.port}/metrics")
        return lines

    def _compose(self, api: Api) -> None:
        settings, clock, add = self._settings, self._clock, self._supervisor.add
        client = api.client
        installed: asyncio.Event | None = None
        if api.embedded is not None:
            embedded = api.embedded
            add("api", lambda tasks: Existing(embedded.health))
        else:
            crds = settings.kubernetes.install_crds
            installed = add("cluster", lambda tasks: Preparation(client, crds=crds, tasks=tasks)).installed
        informers = add("mirrors", lambda tasks: Mirrors(Informers(client, tasks, ready=installed))).informers
        self._compose_onboarding(client)
        relations = add("relations", lambda tasks: Relations(informers, volumes=api.embedded is None))
        records = add("records", lambda tasks: RecordBook(api=client, informers=informers, tasks=tasks))
        replica = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        hub_settings = settings.cloudhub
        self.hub = hub = add(
            "cloudhub",
            lambda tasks: CloudHub(
                settings=HubSettings(
                    host=hub_settings.host,
                    port=hub_settings.port,
                    node_limit=hub_settings.node_limit,
                    keepalive=hub_settings.keepalive,
                    authorize=hub_settings.authorize,
                    queue_bytes=hub_settings.queue_mb * 1024 * 1024,
                ),
                credentials=self.credentials,
                records=records,
                relations=relations,
                leases=SessionLeases(api=client, informers=informers, replica=replica),
                kube_ca=lambda: api.ca,
                traffic=self.traffic,
                clock=clock,
                tasks=tasks,
            ),
            order=LATE,
        )
        address = self.credentials.addresses[0]
        endpoint = self._compose_streams(api, informers)
        edges = add(
            "edgecontroller",
            lambda tasks: EdgeController(client, informers, hub, tasks, address=address, endpoint=endpoint),
        )
        devices = add("devicecontroller", lambda tasks: DeviceController(client, informers, hub, tasks, clock=clock))
        add("synccontroller", lambda tasks: SyncController(client, informers, hub, tasks, clock=clock))
        hub.connect({Destination.EDGECONTROLLER: edges, Destination.DEVICECONTROLLER: devices})
        if settings.metrics.enable:
            self._metrics.add_components("cloudgateway", self._supervisor.health)
            self._pages = add("metrics", lambda tasks: self._page_server(), order=LATE)

    def _compose_streams(self, api: Api, informers: Informers) -> Callable[[str], Endpoint | None]:
        """The edges' tunnels, and who asks kubelets through them. Gives where a node's status must lead to."""
        settings, add = self._settings.cloudstream, self._supervisor.add
        if not settings.enable:
            return lambda node: None
        limit = self._settings.cloudhub.node_limit
        tunnels = self.streams = add(
            "cloudstream",
            lambda tasks: CloudStream(
                settings=StreamSettings(settings.host, settings.tunnel_port, limit),
                credentials=self.credentials,
                tasks=tasks,
            ),
            order=LATE,
        )
        if api.embedded is not None:
            api.embedded.reach_kubelets(tunnels)
            return lambda node: None
        server = self.stream_server = add(
            "streamserver",
            lambda tasks: StreamServer(
                host=settings.stream_host,
                port=settings.stream_port,
                client=api.client,
                tunnels=tunnels,
                credentials=self.credentials,
                client_ca=lambda: _client_ca(settings, api),
                tasks=tasks,
            ),
            order=LATE,
        )
        address = settings.address or _own_address(self.credentials.addresses)

        def here() -> Endpoint | None:
            return Endpoint(address, server.port) if address and server.port else None

        addresses = add(
            "nodeaddresses",
            lambda tasks: NodeAddresses(api.client, informers, tunnels, here=here, tasks=tasks),
            order=LATE,
        )
        return addresses.endpoint

    def _compose_onboarding(self, client: KubeClient) -> None:
        settings, clock, add = self._settings.enrolment, self._clock, self._supervisor.add
        self.vault = vault = Vault(KubeSecrets(client))
        self.credentials = add(
            "credentials",
            lambda tasks: SiteCredentials(
                vault=vault,
                addresses=server_names(settings),
                token_lifetime_s=round(settings.token_hours * 3600),
                clock=clock,
                tasks=tasks,
            ),
        )
        policy = EnrolmentPolicy(days=settings.certificate_days, grace=timedelta(days=settings.renewal_grace_days))
        self.enrolment = add(
            "enrolment",
            lambda tasks: EnrolmentServer(
                host=settings.host,
                port=settings.port,
                credentials=self.credentials,
                vault=vault,
                nodes=KubeNodes(client),
                policy=policy,
                clock=clock,
                tasks=tasks,
            ),
            order=LATE,
        )

    def _page_server(self) -> LocalHttpServer:
        return LocalHttpServer(
            host=self._settings.metrics.host,
            port=self._settings.metrics.port,
            pages={
                "/metrics": lambda: Answer(200, self._metrics.render(), CONTENT_TYPE),
                "/healthz": lambda: self._verdict({State.FAILED}),
                "/readyz": lambda: self._verdict({State.FAILED, State.STARTING}),
            },
        )

    def _verdict(self, bad: set[State]) -> Answer:
        lines = [
            f"{name}: {health.state}{': ' + health.reason if health.reason else ''}"
            for name, health in self._supervisor.health().items()
            if health.state in bad
        ]
        return Answer(503, ("\n".join(lines) + "\n").encode()) if lines else Answer(200, b"ok\n")


def _client_ca(settings: CloudStreamSettings, api: Api) -> str:
    """PEM of the CA that vouches for API servers. Raises OperatorError."""
    if not settings.client_ca_file:
        return api.ca
    try:
        return Path(settings.client_ca_file).read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(
            f"cloudstream.client_ca_file {settings.client_ca_file} cannot be read: {error}",
            next_step="check the path and its mode",
        ) from None


def _own_address(addresses: Sequence[str]) -> str:
    """This host's own address, else the first of a gateway's names that is one: a node's InternalIP must be an IP
    address, and of several gateways behind one name it must lead to this one."""
    for address in (*default_addresses(), *addresses):
        try:
            return str(ipaddress.ip_address(address))
        except ValueError:
            continue
    return ""


class Existing:
    """The health of something that is opened and closed elsewhere, as a component."""

    def __init__(self, health: Callable[[], Health]) -> None:
        self._health = health

    async def start(self) -> None:
        """It runs already."""

    async def stop(self) -> None:
        """Its owner closes it."""

    def health(self) -> Health:
        return self._health()
