"""The HTTPS enrolment endpoints on port 10002 (reference 3.3)."""

import asyncio
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from aiohttp import web

from cloudgateway.onboarding.authority import (
    CertificateRefused,
    RequestRefused,
    node_of,
    parse_usages,
)
from cloudgateway.onboarding.credentials import Credentials, SiteCredentials
from cloudgateway.onboarding.guard import ConnectionGuard
from cloudgateway.onboarding.tls import enrolment_context
from cloudgateway.onboarding.tokens import TokenRefused
from cloudgateway.onboarding.vault import Vault
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import ApplianceError, OperatorError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.wire.limits import MAX_CSR

NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
MAX_NODE_NAME = 253
_BODY_TIMEOUT = 30.0
_MAX_REPORT = 3 * 1024 * 1024
_HANDSHAKE_TIMEOUT = 10.0


class Nodes(Protocol):
    """Which nodes there are."""

    async def exists(self, name: str) -> bool:
        """Whether a Node object of that name exists. Raises ApplianceError when that cannot be told."""
        ...


@dataclass(frozen=True, slots=True)
class EnrolmentPolicy:
    """The operator's choices. `days` a node certificate lives, `grace` an expired one may still be renewed."""

    days: int
    grace: timedelta


def valid_node_name(name: str) -> bool:
    """A DNS subdomain, as Kubernetes wants of node names."""
    return len(name) <= MAX_NODE_NAME and NODE_NAME.fullmatch(name) is not None


class EnrolmentServer:
    """Serves the CA, signs node certificates, answers whether a node name is taken. A component."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        credentials: SiteCredentials,
        vault: Vault,
        nodes: Nodes,
        policy: EnrolmentPolicy,
        clock: Clock,
        tasks: TaskScope,
        connections: int = 512,
        patience: float = 60.0,
    ) -> None:
        """At most `connections` at once, each for `patience` seconds at most."""
        self._host = host
        self._port = port
        self._credentials = credentials
        self._vault = vault
        self._nodes = nodes
        self._policy = policy
        self._clock = clock
        self._tasks = tasks
        self._connections = connections
        self._patience = patience
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._bound = 0
        self._listening = asyncio.Event()
        self._log = get_logger("onboarding")

    @property
    def port(self) -> int:
        """The port in use; 0 while not listening."""
        return self._bound

    async def start(self) -> None:
        """Listen as soon as there is a server certificate."""
        self._tasks.spawn(self._serve(), name="listen")

    async def stop(self) -> None:
        self._listening.clear()
        server, self._server = self._server, None
        if server is not None:
            server.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def health(self) -> Health:
        if self._runner is None:
            return Health(State.STARTING, "waiting for the site's CA")
        return Health(State.RUNNING, details={"port": str(self._bound)})

    async def wait_listening(self) -> None:
        """Return when the port accepts."""
        await self._listening.wait()

    async def _serve(self) -> None:
        credentials = await self._credentials.wait()
        app = web.Application(client_max_size=_MAX_REPORT)
        routes = Routes(
            credentials=credentials,
            reserved=self._credentials.reserved,
            vault=self._vault,
            nodes=self._nodes,
            policy=self._policy,
            clock=self._clock,
        )
        routes.add_to(app)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0, lingering_time=1.0)
        await runner.setup()
        context = enrolment_context(credentials.server, credentials.authority.certificate_der)
        assert runner.server is not None  # noqa: S101 - it is set up
        guard = ConnectionGuard(runner.server, most=self._connections, longest=self._patience)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                guard,
                self._host,
                self._port,
                ssl=context,
                ssl_handshake_timeout=_HANDSHAKE_TIMEOUT,
                backlog=256,
            )
        except OSError as error:
            await runner.cleanup()
            raise OperatorError(
                f"cannot listen on {self._host}:{self._port}: {error.strerror or error}",
                next_step="set enrolment.port to a free port or stop the program that holds it",
            ) from None
        self._runner = runner
        self._bound = int(self._server.sockets[0].getsockname()[1])
        self._listening.set()
        self._log.info("enrolment listens", host=self._host, port=self._bound)


class Routes:
    """The answers. Status, text and content type of each are reference 3.3's."""

    def __init__(
        self,
        *,
        credentials: Credentials,
        reserved: tuple[str, ...],
        vault: Vault,
        nodes: Nodes,
        policy: EnrolmentPolicy,
        clock: Clock,
    ) -> None:
        self._authority = credentials.authority
        self._reserved = reserved
        self._vault = vault
        self._nodes = nodes
        self._policy = policy
        self._clock = clock
        self._log = get_logger("onboarding")

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_get("/ca.crt", self.ca)
        app.router.add_get("/edge.crt", self.edge)
        app.router.add_get("/node/{name}", self.node)
        app.router.add_post("/nodeupgrade", self.node_upgrade)
        app.router.add_post("/task/{type}/name/{task}/node/{node}/status", self.task_status)

    async def ca(self, _request: web.Request) -> web.Response:
        """The CA certificate, DER."""
        return _der(self._authority.certificate_der)

    async def edge(self, request: web.Request) -> web.Response:
        """Sign the CSR in the body of a GET, for a join token or for the certificate that is to be renewed."""
        node = request.headers.get("NodeName", "")
        try:
            refused = await self._refuse(request, node)
        except ApplianceError as error:  # the API that keeps the tokens does not answer: the edge tries again
            return _text(500, f"failed to sign certs for edgenode {node}, err: {error.message}")
        if refused is not None:
            self._log.warning("enrolment refused", node=node, peer=request.remote, reason=refused)
            return _text(401, refused)
        try:
            body = await _read(request, MAX_CSR)
            if node and not valid_node_name(node):  # it could enrol, and then never connect
                raise RequestRefused(f"{node!r} is not a node name (a DNS name in lower case)")
            usages = parse_usages(request.headers.get("ExtKeyUsages"))
            certificate = self._authority.sign_request(
                body,
                node=node,
                usages=usages,
                days=self._policy.days,
                now=self._now(),
                reserved=self._reserved,
            )
        except RequestRefused as error:
            self._log.warning("certificate not signed", node=node, peer=request.remote, reason=error)
            return _text(500, f"failed to sign certs for edgenode {node}, err: {error}")
        self._log.info("certificate signed", node=node, peer=request.remote, days=self._policy.days)
        return _der(certificate)

    async def node(self, request: web.Request) -> web.Response:
        """Whether a node of that name exists (keadm asks before it joins)."""
        name = request.match_info["name"]
        if not valid_node_name(name):
            return _text(400, "Invalid node name")
        try:
            found = await self._nodes.exists(name)
        except ApplianceError as error:
            return _text(500, f"failed to get node {name}, err: {error.message}")
        return _text(200, "Node found") if found else _text(404, "Node not found")

    async def node_upgrade(self, request: web.Request) -> web.Response:
        """A legacy upgrade report. Unlike upstream it needs the node's own certificate."""
        return await self._report(request, "")

    async def task_status(self, request: web.Request) -> web.Response:
        """A legacy task report, likewise."""
        return await self._report(request, request.match_info["node"])

    async def _report(self, request: web.Request, node: str) -> web.Response:
        try:
            report = json.loads(await _read(request, _MAX_REPORT))
        except (RequestRefused, ValueError, RecursionError) as error:
            return _text(400, f"failed to read the report, err: {error}")
        if not isinstance(report, dict):
            return _text(400, "failed to read the report, err: not a JSON object")
        named = {name for name in (node, report.get("NodeName")) if isinstance(name, str) and name}
        certificate = _peer_certificate(request)
        if certificate is None:
            return _text(401, "a node certificate is required")
        for name in named or {node_of(certificate)}:
            try:
                self._verify(certificate, name)
            except CertificateRefused as error:
                return _text(401, _not_verified(name, error))
        self._log.info(
            "node reported",
            node=",".join(sorted(named)),
            path=request.path,
            report=json.dumps(report)[:2000],
        )
        return _text(200, "ok")

    async def _refuse(self, request: web.Request, node: str) -> str | None:
        """Why this request may not have a certificate; None when it may."""
        certificate = _peer_certificate(request)
        bearer = request.headers.get("Authorization", "")
        if certificate is not None:
            try:
                self._verify(certificate, node)
            except CertificateRefused as error:
                if not bearer:
                    return _not_verified(node, error)
            else:
                return None
        return await self._refuse_token(bearer)

    async def _refuse_token(self, bearer: str) -> str | None:
        if not bearer:
            return "token validation failure, token is empty"
        scheme, _, jwt = bearer.partition(" ")
        if scheme.lower() != "bearer" or not jwt:
            return "token validation failure, token cannot be split"
        try:
            await self._vault.check_token(jwt, self._authority, self._now())
        except TokenRefused as error:
            return f"token validation failure, err: {error}"
        return None

    def _verify(self, certificate: bytes, node: str) -> None:
        self._authority.verify_node(certificate, node=node, now=self._now(), grace=self._policy.grace)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.wall_ms() / 1000, UTC)


def _not_verified(node: str, error: CertificateRefused) -> str:
    return f"failed to verify the certificate for edgenode: {node}, err: {error}"


def _peer_certificate(request: web.Request) -> bytes | None:
    """The client certificate (DER) of the connection; its chain was verified in the handshake, its dates not."""
    transport = request.transport
    tls = None if transport is None else transport.get_extra_info("ssl_object")
    certificate: bytes | None = None if tls is None else tls.getpeercert(binary_form=True)
    return certificate


async def _read(request: web.Request, limit: int) -> bytes:
    """The body, refused beyond `limit` before it is in memory and when it dawdles."""
    if request.content_length is not None and request.content_length > limit:
        raise RequestRefused(f"the body is longer than {limit} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise RequestRefused(f"the body is longer than {limit} bytes")
    except TimeoutError:
        raise RequestRefused(f"the body did not arrive within {_BODY_TIMEOUT:.0f} s") from None
    return bytes(body)


def _der(data: bytes) -> web.Response:
    return web.Response(body=data, content_type="application/octet-stream")


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text)
