"""The component that holds the edges' tunnels, one a node (reference 9.4)."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from websockets.http11 import Request

from cloudgateway.cloudstream.kubelet import KubeletAnswer, KubeletCall, NotReached, ask_upgrade, fetch
from cloudgateway.cloudstream.line import ServerLine
from cloudgateway.onboarding.authority import NODE_PREFIX
from cloudgateway.onboarding.credentials import Credentials
from cloudgateway.onboarding.enrolment import valid_node_name
from cloudgateway.onboarding.tls import link_context
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.kernel.tunnel import Channel, Tunnel
from edgeappliance.kernel.web.client import Upgraded
from edgeappliance.kernel.websocket import Listener
from edgeappliance.wire.tunnel import ADDRESS_HEADER, CONNECT_PATH, NODE_HEADER, OURS_HEADER, ConnectRequest, FrameType

_UPGRADE_TIME = 15.0
_CLOSE_TIME = 3.0
_TICK = 5.0
_GOODBYE_TIME = 1.0

SILENCE = 30.0
"""Seconds without a byte from an edge, which pings every 5, after which its tunnel is gone."""


class CredentialSource(Protocol):
    """Where the server certificate comes from."""

    async def wait(self) -> Credentials: ...


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """The operator's choices."""

    host: str
    port: int
    node_limit: int


class NodeTunnel:
    """The tunnel of one node. `address`: what the box says is its own."""

    def __init__(self, node: str, line: ServerLine, *, address: str) -> None:
        self.node = node
        self.line = line
        self.address = address
        self.ours = line.ours
        self.tunnel = Tunnel(line, ours=line.ours)

    def open(self, kind: FrameType, request: ConnectRequest) -> Channel:
        return self.tunnel.open(kind, request)


TunnelCallback = Callable[[str, NodeTunnel | None], None]
"""Called with a node and its new tunnel, or with None when it has none any more."""


class CloudStream:
    """Accepts tunnels and asks kubelets through them. A component."""

    def __init__(self, *, settings: StreamSettings, credentials: CredentialSource, tasks: TaskScope) -> None:
        self._settings = settings
        self._credentials = credentials
        self._tasks = tasks
        self._tunnels: dict[str, NodeTunnel] = {}
        self._lines: dict[ServerLine, NodeTunnel | None] = {}
        self._callbacks: list[TunnelCallback] = []
        self._server: asyncio.Server | None = None
        self._listening = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._log = get_logger("cloudstream")

    # -- for the others -----------------------------------------------------------------------------------

    def on_tunnel(self, callback: TunnelCallback) -> None:
        """Call back when a node's tunnel begins and when it is gone."""
        self._callbacks.append(callback)

    def tunnel(self, node: str) -> NodeTunnel | None:
        """The node's tunnel, when it ends here."""
        return self._tunnels.get(node)

    def nodes(self) -> list[str]:
        """Nodes whose tunnels end here."""
        return list(self._tunnels)

    def drop(self, node: str, reason: str) -> None:
        """End a node's tunnel; the edge dials again."""
        found = self._tunnels.get(node)
        if found is not None:
            found.line.close(reason)

    async def get(self, node: str, call: KubeletCall) -> KubeletAnswer:
        """Ask a node's kubelet; close the answer. Raises NotReached, TooManyChannels."""
        return await fetch(self._found(node), call)

    async def upgrade(self, node: str, call: KubeletCall) -> Upgraded:
        """Ask a node's kubelet for an upgrade. Raises NotReached, TooManyChannels."""
        return await ask_upgrade(self._found(node), call)

    def _found(self, node: str) -> NodeTunnel:
        found = self._tunnels.get(node)
        if found is None:
            raise NotReached(
                f'node "{node}" has no tunnel to this gateway',
                next_step="is the box on, and edgestream enabled on it? It must reach the gateway's tunnel port",
            )
        return found

    # -- component ----------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port in use; 0 while not listening."""
        if self._server is None or not self._server.sockets:
            return 0
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen as soon as there is a server certificate."""
        self._tasks.spawn(self._listen(), name="listen")
        self._tasks.spawn(self._watch_time(), name="time")

    async def stop(self) -> None:
        self._listening.clear()
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for line in list(self._lines):
            line.close("the gateway stops")
        try:
            async with asyncio.timeout(_GOODBYE_TIME):
                await self._empty.wait()
        except TimeoutError:
            for line in list(self._lines):
                line.abort("the gateway stops")

    def health(self) -> Health:
        if self._server is None:
            return Health(State.STARTING, "waiting for the site's CA")
        tunnels = list(self._tunnels.values())
        details = {
            "port": str(self.port),
            "tunnels": len(tunnels),
            "streams": sum(len(one.tunnel) for one in tunnels),
            "waiting_bytes": sum(one.tunnel.waiting for one in tunnels),
        }
        return Health(State.RUNNING, details=details)

    async def wait_listening(self) -> None:
        """Return when the port accepts."""
        await self._listening.wait()

    async def _listen(self) -> None:
        credentials = await self._credentials.wait()
        settings = self._settings
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: ServerLine(self),
                settings.host,
                settings.port,
                ssl=link_context(credentials.server, credentials.authority.certificate_der),
                ssl_handshake_timeout=_UPGRADE_TIME,
                ssl_shutdown_timeout=_CLOSE_TIME,
                backlog=1024,
            )
        except OSError as error:
            raise OperatorError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}",
                next_step="set cloudstream.tunnel_port to a free port or stop the program that holds it",
            ) from None
        self._listening.set()
        self._log.info("cloudstream listens", host=settings.host, port=self.port)

    async def _watch_time(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            now = asyncio.get_running_loop().time()
            for line, admitted in list(self._lines.items()):
                if admitted is None:
                    if now - line.opened_at > _UPGRADE_TIME:
                        line.abort("no upgrade")
                elif now - line.heard_at > SILENCE and not line.reading_paused:
                    line.abort("no ping: the edge is gone")

    # -- line.Gate ----------------------------------------------------------------------------------------

    def arrived(self, line: ServerLine) -> None:
        self._lines[line] = None
        self._empty.clear()

    def admit(self, line: ServerLine, request: Request) -> Listener | tuple[int, str]:
        """A node's certificate must say the name that it gives, as on port 10000 (reference 2.6)."""
        node = _first(request, NODE_HEADER)
        if request.path.partition("?")[0] != CONNECT_PATH:
            return self._refuse(line, node, 404, f"tunnels begin at {CONNECT_PATH}")
        if not valid_node_name(node):
            return self._refuse(line, node, 400, f"header {NODE_HEADER} is not a node name")
        if line.common_name != NODE_PREFIX + node:
            return self._refuse(line, node, 403, "the certificate is not this node's")
        if node not in self._tunnels and len(self._tunnels) >= self._settings.node_limit:
            return self._refuse(line, node, 503, "the node limit is reached")
        before = self._tunnels.get(node)
        if before is not None:
            before.line.close("replaced by a new tunnel")
        line.ours = _first(request, OURS_HEADER) == "1"
        tunnel = NodeTunnel(node, line, address=_first(request, ADDRESS_HEADER)[:64])
        self._tunnels[node] = self._lines[line] = tunnel
        self._log.info("tunnel open", node=node, peer=line.peer, ours=line.ours)
        self._tell(node, tunnel)
        return tunnel.tunnel

    def left(self, line: ServerLine, reason: str) -> None:
        tunnel = self._lines.pop(line, None)
        if not self._lines:
            self._empty.set()
        if tunnel is not None and self._tunnels.get(tunnel.node) is tunnel:
            del self._tunnels[tunnel.node]
            self._log.info("tunnel closed", node=tunnel.node, reason=reason)
            self._tell(tunnel.node, None)

    def _refuse(self, line: ServerLine, node: str, status: int, reason: str) -> tuple[int, str]:
        self._log.warning("tunnel refused", node=node[:253], peer=line.peer, cn=line.common_name, reason=reason)
        return status, reason

    def _tell(self, node: str, tunnel: NodeTunnel | None) -> None:
        for callback in self._callbacks:
            try:
                callback(node, tunnel)
            except Exception as error:  # noqa: BLE001 - one listener's fault must not keep the others uninformed
                self._log.error("tunnel callback failed", node=node, error=error, exc_info=error)


def _first(request: Request, header: str) -> str:
    values = request.headers.get_all(header)
    return values[0].strip() if values else ""
