"""Port 10003: the kubelet API of every edge node, for the API server of a real cluster (reference 9.4)."""

import re
from collections.abc import Callable

from cloudgateway.cloudstream.access import Access, attributes, subject_of
from cloudgateway.cloudstream.cloudstream import CloudStream, CredentialSource
from cloudgateway.cloudstream.kubelet import KubeletCall
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.resources import PODS
from cloudgateway.onboarding.tls import stream_context
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import ApplianceError, OperatorError, TransientError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.relay import relay
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.kernel.web.exchange import Exchange, HttpError, Request
from edgeappliance.kernel.web.server import WebServer
from edgeappliance.wire.tunnel import RAW, FrameType, path_kind

_NODE_OF = re.compile(r"/api/v1/nodes/(?:https?:)?(?P<node>[a-z0-9.-]+)(?::[^/]*)?/proxy(?:/.*)?")
_HOP = frozenset({"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"})
MAX_CONNECTIONS = 4096

NO_NODE = (
    "which node is meant? All edge nodes are reached at this address: ask for stats and metrics through the API "
    "server, /api/v1/nodes/NODE/proxy/...; metrics-server asks each node directly and cannot reach edge nodes\n"
)


class StreamServer:
    """HTTPS for API servers. A component.

    client_ca: PEM of the CA that signed the API servers' client certificates for kubelets; raises OperatorError.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        client: KubeClient,
        tunnels: CloudStream,
        credentials: CredentialSource,
        client_ca: Callable[[], str],
        tasks: TaskScope,
    ) -> None:
        self._host = host
        self._wanted_port = port
        self._client = client
        self._tunnels = tunnels
        self._credentials = credentials
        self._client_ca = client_ca
        self._tasks = tasks
        self._access = Access(client)
        self._server: WebServer | None = None
        self._log = get_logger("cloudstream")

    @property
    def port(self) -> int:
        """The port in use; 0 while not listening."""
        return 0 if self._server is None else self._server.port

    async def start(self) -> None:
        """Listen as soon as there is a server certificate."""
        self._tasks.spawn(self._listen(), name="listen")

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    def health(self) -> Health:
        if self._server is None:
            return Health(State.STARTING, "waiting for the site's CA")
        return Health(State.RUNNING, details={"port": str(self.port), "connections": self._server.connections})

    async def _listen(self) -> None:
        credentials = await self._credentials.wait()
        server = WebServer(
            self._serve,
            host=self._host,
            port=self._wanted_port,
            tls=stream_context(credentials.server, self._client_ca()),
            max_connections=MAX_CONNECTIONS,
        )
        try:
            await server.start()
        except OperatorError as error:
            raise OperatorError(error.message, next_step="set cloudstream.stream_port to a free port") from None
        self._server = server
        self._log.info("stream port listens", host=self._host, port=server.port)

    # -- one request --------------------------------------------------------------------------------------

    async def _serve(self, exchange: Exchange) -> None:
        request = exchange.request
        subject = subject_of(exchange.extra_info("peercert"))
        if subject is None:
            raise HttpError(401, "Unauthorized\n")
        kind = _kind(request)
        try:
            node = await self._node(request, kind)
            if not await self._access.allowed(subject, attributes(request.method, request.path, node)):
                raise HttpError(403, f'Forbidden (user={subject.name}, resource=nodes, name="{node}")\n')
            call = _call(request, kind)
            if kind in RAW:
                await self._upgrade(exchange, node, call)
            else:
                await self._fetch(exchange, node, call)
        except TransientError as error:
            raise HttpError(503, f"{error}\n") from None
        except ApplianceError as error:
            if isinstance(error, HttpError):
                raise
            raise HttpError(502, f"{error}\n") from None

    async def _node(self, request: Request, kind: FrameType) -> str:
        """Whose kubelet is meant: the pod's node, or the one that the API server was asked for."""
        if kind is FrameType.METRIC_CONNECT:
            found = _NODE_OF.fullmatch(request.headers.get("x-forwarded-uri", "").partition("?")[0])
            if found is None:
                raise HttpError(400, NO_NODE)
            return found["node"]
        _, namespace, name, *_ = request.path.strip("/").split("/")
        try:
            pod = await self._client.get(PODS, namespace, name)
        except ApiError as error:
            if error.not_found:
                raise HttpError(404, f'pod "{name}" not found\n') from None
            raise
        node = str((pod.get("spec") or {}).get("nodeName") or "")
        if not node:
            raise HttpError(400, f"pod {name} does not have a host assigned\n")
        return node

    async def _fetch(self, exchange: Exchange, node: str, call: KubeletCall) -> None:
        answer = await self._tunnels.get(node, call)
        try:
            stream = await exchange.stream(answer.status, answer.content_type)
            async for data in answer:
                await stream.write(data)
        finally:
            await answer.close()

    async def _upgrade(self, exchange: Exchange, node: str, call: KubeletCall) -> None:
        """Raw from the end of the kubelet's head on."""
        upgraded = await self._tunnels.upgrade(node, call)
        headers = [(name, value) for name, value in upgraded.headers.items() if name not in _HOP]
        if upgraded.duplex is None:
            content_type = dict(headers).pop("content-type", "text/plain; charset=utf-8")
            await exchange.answer(upgraded.status, upgraded.body, content_type, headers=[("Connection", "close")])
            return
        try:
            await relay(await exchange.upgrade(headers), upgraded.duplex)
        finally:
            await upgraded.duplex.close()


def _kind(request: Request) -> FrameType:
    kind = path_kind(request.path)
    if kind is None:
        raise HttpError(404, "404 page not found\n")
    if request.method != "GET" and not (kind in RAW and request.method == "POST"):
        raise HttpError(405, "405: Method Not Allowed\n")
    if kind in RAW and not (request.upgrades_to("spdy/3.1") or request.upgrades_to("websocket")):
        raise HttpError(400, "Upgrade request required\n")
    return kind


def _call(request: Request, kind: FrameType) -> KubeletCall:
    headers = {name: [value] for name, value in request.headers.items()}
    if protocols := request.tokens("x-stream-protocol-version"):
        headers["x-stream-protocol-version"] = protocols
    return KubeletCall(
        kind=kind,
        path=request.path,
        query=request.target.partition("?")[2],
        method=request.method,
        headers=headers,
    )
