"""A cloudhub on loopback with its CA, for edges to connect to; the controllers and the API are played here."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloudgateway.cloudhub.dispatch import Destination
from cloudgateway.cloudhub.hub import CloudHub
from cloudgateway.cloudhub.needs import HubSettings
from cloudgateway.cloudhub.queue import Record
from cloudgateway.cloudhub.session import SessionInfo
from cloudgateway.cloudhub.traffic import Traffic
from cloudgateway.onboarding.authority import CertificateAuthority
from cloudgateway.onboarding.credentials import Credentials
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.metrics import Metrics
from edgeappliance.kernel.supervisor import Supervisor
from edgeappliance.wire.message import Message
from tests.support import kubeedge_edge as edge


class MemoryRecords:
    """`hub.Records` without an API."""

    def __init__(self) -> None:
        self.of: dict[str, dict[str, int]] = {}
        self.log: list[tuple[str, str, int | None]] = []
        self.changed = asyncio.Condition()
        self._notes: set[asyncio.Task[None]] = set()

    async def wait_synced(self) -> None:
        """Always."""

    def versions(self, node: str) -> dict[str, int]:
        return dict(self.of.get(node, {}))

    def note(self, node: str, record: Record) -> None:
        uid = record.subject.uid
        self.log.append((node, uid, record.version))
        known = self.of.setdefault(node, {})
        if record.version is None:
            known.pop(uid, None)
        else:
            known[uid] = record.version


class OpenRelations:
    """`authorization.Relations` from plain dictionaries."""

    def __init__(self) -> None:
        self.pods: dict[tuple[str, str], str] = {}
        self.devices: dict[tuple[str, str], str] = {}
        self.used: set[tuple[str, str, str, str]] = set()

    async def wait_synced(self) -> None:
        """Always."""

    def pod_node(self, namespace: str, name: str) -> str | None:
        return self.pods.get((namespace, name))

    def device_node(self, namespace: str, name: str) -> str | None:
        return self.devices.get((namespace, name))

    def references(self, node: str, kind: str, namespace: str, name: str) -> bool:
        return (node, str(kind), namespace, name) in self.used


class Controller:
    """`hub.Upstream` that remembers, and answers with `reply` when it is set."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[tuple[str, Message]] = asyncio.Queue()
        self.reply: Callable[[str, Message], Any] | None = None

    async def handle(self, node: str, message: Message) -> None:
        await self.messages.put((node, message))
        if self.reply is not None:
            result = self.reply(node, message)
            if asyncio.iscoroutine(result):
                await result


class FixedCredentials:
    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def wait(self) -> Credentials:
        return self._credentials


@dataclass
class HubSite:
    """A running hub and what surrounds it."""

    hub: CloudHub
    ca: CertificateAuthority
    records: MemoryRecords
    relations: OpenRelations
    controllers: dict[Destination, Controller]
    traffic: Traffic
    sessions: list[tuple[str, bool, SessionInfo]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def identity(self, node: str) -> edge.Identity:
        """An identity as enrolment would give it."""
        key = edge.new_key()
        der = self.ca.sign_request(
            edge.csr(key, node),
            node=node,
            usages=[ExtendedKeyUsageOID.CLIENT_AUTH],
            days=30,
            now=datetime.now(UTC),
        )
        pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        return edge.Identity(node, self.ca.certificate_pem, pem, edge.key_pem(key))

    async def connect(self, node: str, **kwargs: Any) -> edge.EdgeCore:
        """A connected edgecore whose session is ready."""
        count = sum(1 for name, up, _ in self.sessions if name == node and up)
        core = edge.EdgeCore(node)
        await core.connect(self.hub.port, self.identity(node).context(), **kwargs)
        await self.until(lambda: sum(1 for name, up, _ in self.sessions if name == node and up) > count)
        return core

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait for something that is told by a callback of the hub, or by the next messages."""
        async with asyncio.timeout(10):
            while not true():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running_hub(
    *,
    settings: HubSettings | None = None,
    leases: Any = None,
    records: MemoryRecords | None = None,
    relations: OpenRelations | None = None,
) -> AsyncIterator[HubSite]:
    """A hub that listens on a port of its own."""
    ca = CertificateAuthority.generate(datetime.now(UTC))
    server = ca.issue_server(["127.0.0.1"], datetime.now(UTC))
    supervisor, relations = Supervisor(), relations or OpenRelations()
    records = records or MemoryRecords()
    traffic = Traffic(Metrics())
    hub = supervisor.add(
        "cloudhub",
        lambda tasks: CloudHub(
            settings=settings or HubSettings(host="127.0.0.1", port=0, node_limit=100),
            credentials=FixedCredentials(Credentials(ca, server)),
            records=records,
            relations=relations,
            leases=leases,
            kube_ca=lambda: "-----BEGIN CERTIFICATE-----\n",
            traffic=traffic,
            clock=SystemClock(),
            tasks=tasks,
        ),
    )
    controllers = {
        to: Controller() for to in (Destination.EDGECONTROLLER, Destination.DEVICECONTROLLER, Destination.ROUTER)
    }
    hub.connect(controllers)
    site = HubSite(hub, ca, records, relations, controllers, traffic)
    hub.on_session(lambda node, up, info: site.sessions.append((node, up, info)))
    await supervisor.start()
    await hub.wait_listening()
    try:
        yield site
    finally:
        await supervisor.stop()
