"""A gateway's tunnel port and edges that dial it, on loopback, each edge with a scripted kubelet behind it."""

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloudgateway.cloudstream.cloudstream import CloudStream, StreamSettings
from cloudgateway.onboarding.authority import CertificateAuthority
from cloudgateway.onboarding.credentials import Credentials
from edgeappliance.edgestream.edgestream import EdgeStream
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.supervisor import Supervisor
from edgeappliance.kernel.web.exchange import Exchange, Request
from edgeappliance.kernel.web.server import WebServer
from tests.support import kubeedge_edge as edge
from tests.support.hub import FixedCredentials

LINE = b"%07d " + b"x" * 1015 + b"\n"
"""A log line of 1 KiB."""


class ScriptedKubelet:
    """The kubelet API as far as the tunnel needs one. `asked`: requests in order."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.asked: list[Request] = []
        self.open = 0
        self.ended = asyncio.Event()
        self.serve: Callable[[Exchange], Awaitable[None]] | None = None
        self.server = WebServer(self._handle, unix=socket, max_connections=2000)

    async def _handle(self, exchange: Exchange) -> None:
        self.asked.append(exchange.request)
        self.open += 1
        try:
            await (self.serve or self._standard)(exchange)
        finally:
            self.open -= 1
            self.ended.set()

    async def _standard(self, exchange: Exchange) -> None:
        request = exchange.request
        parts = request.path.strip("/").split("/")
        if parts[0] == "containerLogs":
            await self._logs(exchange, parts[-1])
        elif parts[0] in ("exec", "attach", "portForward"):
            if parts[-1] == "nope":
                await exchange.answer(404, 'pod "nope" does not exist\n')
                return
            pipe = await exchange.upgrade([("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", "v4.channel.k8s.io")])
            await pipe.write(b"ready\n")
            while data := await pipe.read():
                await pipe.write(data)
        else:
            await exchange.answer(200, f"{request.target}\n")

    async def _logs(self, exchange: Exchange, container: str) -> None:
        if container == "nope":
            await exchange.answer(400, 'container "nope" in pod "p" is waiting to start: ContainerCreating')
            return
        stream = await exchange.stream()
        count = int(exchange.request.first("tailLines", "3"))
        block = 64
        for start in range(0, count, block):
            await stream.write(b"".join(LINE % number for number in range(start, min(count, start + block))))
        if exchange.request.first("follow"):
            while True:
                await asyncio.sleep(0.05)
                await stream.write(b"tick\n")


@dataclass
class Edge:
    """An edge with its kubelet."""

    stream: EdgeStream
    kubelet: ScriptedKubelet
    supervisor: Supervisor


@dataclass
class TunnelSite:
    """A running cloudstream; `join` adds edges."""

    cloud: CloudStream
    ca: CertificateAuthority
    directory: Path
    stack: AsyncExitStack
    edges: dict[str, Edge] = field(default_factory=dict)

    def identity(self, node: str) -> edge.Identity:
        """An identity as enrolment would give it."""
        return node_identity(self.ca, node)

    async def join(
        self,
        node: str,
        *,
        port: int = 0,
        make: "Callable[[Path], ScriptedKubelet]" = ScriptedKubelet,
        name: str = "",
        up: bool = True,
    ) -> Edge:
        """An edge; `name`: whose certificate it shows. Waits until its tunnel is up, unless `up` is False."""
        context = self.identity(name or node).context()
        return await join_edge(
            self.stack, self.directory, node, port=port or self.cloud.port, context=context, make=make,
            wait=self._wait if up else None, edges=self.edges,
        )  # fmt: skip

    async def _wait(self, node: str) -> None:
        await until(lambda: self.cloud.tunnel(node) is not None)


def node_identity(ca: CertificateAuthority, node: str) -> edge.Identity:
    """An identity as enrolment would give it."""
    key = edge.new_key()
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    der = ca.sign_request(edge.csr(key, node), node=node, usages=usages, days=30, now=datetime.now(UTC))
    pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
    return edge.Identity(node, ca.certificate_pem, pem, edge.key_pem(key))


async def join_edge(
    stack: AsyncExitStack,
    directory: Path,
    node: str,
    *,
    port: int,
    context: ssl.SSLContext | None = None,
    tls: Callable[[], Awaitable[ssl.SSLContext]] | None = None,
    backoff: Backoff | None = None,
    make: Callable[[Path], ScriptedKubelet] = ScriptedKubelet,
    wait: Callable[[str], Awaitable[None]] | None = None,
    edges: dict[str, Edge] | None = None,
) -> Edge:
    """An edge that dials `port`, with a kubelet that `make` makes."""

    async def given() -> ssl.SSLContext:
        assert context is not None
        return context

    scripted = make(directory / f"{node}.sock")
    await scripted.server.start()
    stack.push_async_callback(scripted.server.stop)
    supervisor = Supervisor()
    stream = supervisor.add(
        "edgestream",
        lambda scope: EdgeStream(
            scope,
            host="127.0.0.1",
            port=port,
            node=node,
            tls=tls or given,
            kubelet=scripted.socket,
            clock=SystemClock(),
            backoff=backoff or Backoff(initial=0.05, maximum=0.3),
        ),
    )
    stack.push_async_callback(supervisor.stop)
    await supervisor.start()
    made = Edge(stream, scripted, supervisor)
    if edges is not None:
        edges[node] = made
    if wait is not None:
        await wait(node)
    return made


@asynccontextmanager
async def tunnel_site(*, node_limit: int = 100) -> AsyncIterator[TunnelSite]:
    """A cloudstream that listens on a port of its own."""
    ca = CertificateAuthority.generate(datetime.now(UTC))
    server = ca.issue_server(["127.0.0.1"], datetime.now(UTC))
    supervisor = Supervisor()
    cloud = supervisor.add(
        "cloudstream",
        lambda tasks: CloudStream(
            settings=StreamSettings("127.0.0.1", 0, node_limit),
            credentials=FixedCredentials(Credentials(ca, server)),
            tasks=tasks,
        ),
    )
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tn")))
        stack.push_async_callback(supervisor.stop)
        await supervisor.start()
        await cloud.wait_listening()
        yield TunnelSite(cloud, ca, directory, stack)


async def until(true: Callable[[], bool], *, timeout: float = 10.0) -> None:
    """Wait for something that no event tells."""
    async with asyncio.timeout(timeout):
        while not true():
            await asyncio.sleep(0.005)
