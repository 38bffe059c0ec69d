"""cloudhub: accepts the nodes, keeps their sessions, carries messages both ways (reference 1.3, 2.3-2.9)."""

import asyncio
from collections.abc import Callable, Mapping

from websockets.http11 import Request

from cloudgateway.cloudhub.authorization import forbidden, refusal
from cloudgateway.cloudhub.connection import CLOSE_TIME, Connection, Link
from cloudgateway.cloudhub.delivery import Kind, plan, resource_type
from cloudgateway.cloudhub.dispatch import Destination, destination
from cloudgateway.cloudhub.needs import ClusterView, CredentialSource, HubSettings, Leases, Records, Upstream
from cloudgateway.cloudhub.queue import OURS, UPSTREAM, NodeQueue, Outcome, QueueBudget
from cloudgateway.cloudhub.session import Incoming, Session, SessionInfo
from cloudgateway.cloudhub.traffic import Traffic
from cloudgateway.onboarding.authority import NODE_PREFIX
from cloudgateway.onboarding.enrolment import valid_node_name
from cloudgateway.onboarding.tls import link_context
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import ApplianceError, OperatorError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.message import Message, decode, encode
from edgeappliance.wire.operations import Group, Operation, ResourceType, Source

OURS_HEADER = "Edge-Appliance"
"""Sent by our edges with value 1, answered with the same; then the peer is not an unmodified edgecore."""
STORE_HEADER = "Edge-Appliance-Store"
"""Identity of the edge's database. A new one means that it has nothing, whatever the records say."""
_TICK = 0.5
_UPGRADE_TIME = 15.0
_CLAIM_LONGEST = 10.0
_GOODBYE_TIME = 1.0


SessionCallback = Callable[[str, bool, SessionInfo], None]


class CloudHub:
    """The link's cloud end. A component."""

    def __init__(
        self,
        *,
        settings: HubSettings,
        credentials: CredentialSource,
        records: Records,
        relations: ClusterView,
        leases: Leases | None,
        kube_ca: Callable[[], str],
        traffic: Traffic,
        clock: Clock,
        tasks: TaskScope,
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._records = records
        self._relations = relations
        self._leases = leases
        self._kube_ca = kube_ca
        self._traffic = traffic
        self._clock = clock
        self._tasks = tasks
        self._controllers: dict[Destination, Upstream] = {}
        self._callbacks: list[SessionCallback] = []
        self._budget = QueueBudget(settings.queue_bytes)
        self._sessions: dict[str, Session] = {}
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self._listening = asyncio.Event()
        self._log = get_logger("cloudhub")

    # --- for the composition root and the controllers

    def connect(self, controllers: Mapping[Destination, Upstream]) -> None:
        """Say who handles what; before `start`."""
        self._controllers.update(controllers)

    def on_session(self, callback: SessionCallback) -> None:
        """Call back when a node can be pushed to and when it no longer can. An `up` may come again."""
        self._callbacks.append(callback)

    def connected(self, node: str) -> bool:
        """Whether this replica holds the node's session."""
        session = self._sessions.get(node)
        return session is not None and session.ready

    def nodes(self) -> list[str]:
        """Nodes whose sessions this replica holds."""
        return [node for node, session in self._sessions.items() if session.ready]

    def push(self, node: str, message: Message) -> None:
        """Send a message to a node in its turn; without a session it is dropped (`on_session` brings all again).

        `message.resource` is as on the socket, without the node. How it is delivered follows from the message.
        """
        session = self._sessions.get(node)
        if session is None or not session.ready:
            self._traffic.dropped("not connected")
            return
        resource = message.resource
        if message.operation == Operation.DELETE and resource_type(resource) == ResourceType.NODE:
            self._end(session, "the node was deleted")
            return
        delivery = plan(message)
        if delivery.kind is Kind.REFUSED:
            self._log.warning("message cannot be delivered", node=node, resource=resource, reason=delivery.reason)
        outcome, record = session.queue.push(
            delivery, msg_id=message.id, payload=encode(message), now=self._clock.monotonic()
        )
        if record is not None:
            self._records.note(node, record)
        if outcome in (Outcome.QUEUED, Outcome.REPLACED):
            session.connection.schedule()
        else:
            self._traffic.dropped(outcome.value)

    # --- component

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
        if self._leases is not None:
            self._leases.watch(self._taken)

    async def stop(self) -> None:
        """Close the port and every session."""
        self._listening.clear()
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for session in list(self._sessions.values()):
            self._end(session, "the gateway stops")
        for connection in list(self._connections):
            connection.close()
        try:
            async with asyncio.timeout(_GOODBYE_TIME):
                await self._empty.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()

    def health(self) -> Health:
        if self._server is None:
            return Health(State.STARTING, "waiting for the site's CA")
        details = {
            "port": str(self.port),
            "sessions": sum(session.ready for session in self._sessions.values()),
            "queued": sum(len(session.queue) for session in self._sessions.values()),
            "queued_bytes": sum(session.queue.size for session in self._sessions.values()),
        }
        return Health(State.RUNNING, details=details)

    async def wait_listening(self) -> None:
        """Return when the port accepts."""
        await self._listening.wait()

    async def _listen(self) -> None:
        credentials = await self._credentials.wait()
        context = link_context(credentials.server, credentials.authority.certificate_der)
        settings = self._settings
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self, self._traffic),
                settings.host,
                settings.port,
                ssl=context,
                ssl_handshake_timeout=_UPGRADE_TIME,
                ssl_shutdown_timeout=CLOSE_TIME,
                backlog=1024,
            )
        except OSError as error:
            raise OperatorError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}",
                next_step="set cloudhub.port to a free port or stop the program that holds it",
            ) from None
        self._listening.set()
        self._log.info("cloudhub listens", host=settings.host, port=self.port)

    async def _watch_time(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            now = self._clock.monotonic()
            for session in list(self._sessions.values()):
                try:
                    self._look_after(session, now)
                except Exception as error:  # noqa: BLE001 - one node's fault must not end the others' sessions
                    self._broken(session, error)
            loop_now = asyncio.get_running_loop().time()
            for connection in [one for one in self._connections if loop_now - one.since > _UPGRADE_TIME]:
                if not connection.upgraded:
                    connection.abort()
            self._traffic.publish(len(self.nodes()))

    def _look_after(self, session: Session, now: float) -> None:
        if now - session.heard_at > self._settings.keepalive and not session.paused:
            self._end(session, "no keepalive")
            return
        if session.ready and not session.connection.stuck and not session.queue.idle:
            session.queue.expire(now)
            session.connection.pump()
        if session.ready and session.queue.take_resync():
            self._log.info("queue has room again, sending everything anew", node=session.node)
            self._tell(session, up=True, resync=True)

    # --- connection.Gate

    def arrived(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._empty.clear()

    def left(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def upgrade(self, connection: Connection, request: Request) -> Link | tuple[int, str]:
        """Admit a node: its certificate must say the name that it gives (reference 2.6)."""
        node = _first(request, "node_id")
        if not valid_node_name(node):
            return self._refuse(connection, node, 400, "header node_id is not a node name")
        if connection.common_name != NODE_PREFIX + node:
            return self._refuse(connection, node, 403, "the certificate is not this node's")
        if _first(request, "ConnectionUse") not in ("", "msg"):
            return self._refuse(connection, node, 400, "ConnectionUse must be msg")
        if node not in self._sessions and len(self._sessions) >= self._settings.node_limit:
            return self._refuse(connection, node, 503, "the node limit is reached")
        before = self._sessions.get(node)
        if before is not None:
            self._end(before, "replaced by a new connection")
        ours = _first(request, OURS_HEADER) == "1"
        if ours:
            connection.response_headers[OURS_HEADER] = "1"
        store = _first(request, STORE_HEADER)[:128] if ours else ""
        session = Session(node, connection, self, ours=ours, store=store, clock=self._clock)
        self._sessions[node] = session
        self._tasks.spawn(self._open_guarded(session), name=f"open-{node}")
        return session

    def _refuse(self, connection: Connection, node: str, status: int, reason: str) -> tuple[int, str]:
        self._traffic.dropped("connection refused")
        self._log.warning(
            "connection refused", node=node[:253], peer=connection.peer, cn=connection.common_name, reason=reason
        )
        return status, reason

    async def _open_guarded(self, session: Session) -> None:
        try:
            await self._open(session)
        except Exception as error:  # noqa: BLE001 - likewise
            self._broken(session, error)

    def _broken(self, session: Session, error: Exception) -> None:
        self._log.error("session failed", node=session.node, error=error, exc_info=error)
        self._end(session, "a fault of ours")

    async def _open(self, session: Session) -> None:
        """Claim the node, read what it has acknowledged, then let messages flow."""
        await self._records.wait_synced()
        await self._relations.wait_synced()
        backoff = Backoff(initial=0.2, maximum=_CLAIM_LONGEST)
        same_store = True
        while self._leases is not None and not session.ended:
            try:
                same_store = await self._leases.claim(session.node, session.store)
                break
            except ApplianceError as error:
                self._log.warning("node not claimed", node=session.node, error=error)
                await asyncio.sleep(backoff.next_delay())
        if session.ended:
            return
        if not same_store:
            self._log.info("the node has a new store, sending it everything", node=session.node)
        versions = self._records.versions(session.node) if same_store else {}
        session.queue = NodeQueue(
            OURS if session.ours else UPSTREAM, versions, self._traffic.queue, budget=self._budget
        )
        session.ready = True
        self._log.info("node connected", node=session.node, peer=session.connection.peer, ours=session.ours)
        self._tell(session, up=True)
        self._drain_soon(session)

    # --- session.Switchboard

    def ended(self, session: Session) -> None:
        self._end(session, "the connection closed")

    def received(self, session: Session, payload: bytes) -> None:
        """One message from a node."""
        try:
            message = decode(payload)
        except WireError as error:
            self._traffic.dropped("unreadable")
            if not session.troubled:  # once a session: a broken peer must not fill the log
                session.troubled = True
                self._log.warning("unreadable message", node=session.node, error=error, size=len(payload))
            return
        self._traffic.messages_in += 1
        if not message.operation:  # edgecore does send a message without anything in it now and then
            self._traffic.dropped("empty")
            return
        to = destination(message)
        if to is Destination.ACKNOWLEDGEMENT:
            record = session.queue.acknowledge(message.parent_id)
            if record is not None:
                self._records.note(session.node, record)
            session.connection.schedule()
        elif to is Destination.KEEPALIVE:
            session.heard_at = self._clock.monotonic()
        elif to is Destination.ERROR:
            self._peer_error(session, message)
        else:
            session.accept(Incoming(message, to, len(payload)))
            self._drain_soon(session)

    def _peer_error(self, session: Session, message: Message) -> None:
        known = session.queue.refuse(message.parent_id, self._clock.monotonic())
        self._traffic.dropped("refused by node")
        self._log.warning(
            "node could not take a message",
            node=session.node,
            resource=message.resource,
            reason=message.content_bytes()[:200].decode("utf-8", "replace"),
            retried=known,
        )
        session.connection.schedule()

    def _denied(self, session: Session, message: Message, to: Destination) -> bool:
        """Whether the node may not say this; told to it where it waits. Only true once the mirrors are read."""
        if not self._settings.authorize:
            return False
        reason = refusal(session.node, message, to, self._relations)
        if reason is None:
            return False
        self._traffic.denied += 1
        self._log.warning(
            "message denied",
            node=session.node,
            operation=message.operation,
            resource=message.resource,
            reason=reason,
        )
        answer = forbidden(session.node, message, reason)
        if answer is not None:
            self.push(session.node, answer)
        return True

    def _drain_soon(self, session: Session) -> None:
        if session.ready and session.inbox and not session.draining:
            session.draining = True
            self._tasks.spawn(self._drain(session), name=f"inbox-{session.node}")

    async def _drain(self, session: Session) -> None:
        """Hand a node's messages over, one after the other; the task ends with the inbox."""
        try:
            while not session.ended and (incoming := session.take()) is not None:
                await self._handle(session, incoming)
        except Exception as error:  # noqa: BLE001 - one node's fault must not end the others' sessions
            self._broken(session, error)
        finally:
            session.draining = False

    async def _handle(self, session: Session, incoming: Incoming) -> None:
        message, to = incoming.message, incoming.destination
        if self._denied(session, message, to):
            return
        if to is Destination.TRANSPORT:
            self.push(session.node, message.reply("ack"))
            return
        if to is Destination.KUBE_CA:
            answer = message.reply(self._kube_ca(), source=Source.CLOUDHUB, group=Group.RESOURCE)
            self.push(session.node, answer)
            return
        controller = self._controllers.get(to)
        if controller is None:
            self._traffic.dropped("nobody handles it")
            return
        try:
            await controller.handle(session.node, message)
        except Exception as error:  # noqa: BLE001 - one message that breaks a controller must not end the hub
            self._traffic.dropped("failed")
            self._log.error(
                "message failed",
                node=session.node,
                operation=message.operation,
                resource=message.resource,
                error=error,
                exc_info=None if isinstance(error, ApplianceError) else error,
            )
            self.push(session.node, message.error(str(error)))

    def _taken(self, node: str) -> None:
        session = self._sessions.get(node)
        if session is not None:
            self._end(session, "another replica holds the node")

    def _end(self, session: Session, reason: str) -> None:
        if session.ended:
            return
        session.ended = True
        if self._sessions.get(session.node) is session:
            del self._sessions[session.node]
        session.inbox.clear()
        session.queue.release()
        session.connection.close()
        was_ready, session.ready = session.ready, False
        self._log.info("node disconnected", node=session.node, reason=reason)
        if was_ready:
            self._tell(session, up=False)
        if self._leases is not None and self._listening.is_set():
            self._tasks.spawn(self._release(session.node), name=f"release-{session.node}")

    async def _release(self, node: str) -> None:
        if self._leases is None or node in self._sessions:
            return
        try:
            await self._leases.release(node)
        except Exception as error:  # noqa: BLE001 - the next who claims the node does not care
            self._log.warning("node not released", node=node, error=error)

    def _tell(self, session: Session, *, up: bool, resync: bool = False) -> None:
        info = SessionInfo(session.connection.peer, session.ours, resync)
        for callback in self._callbacks:
            try:
                callback(session.node, up, info)
            except Exception as error:  # noqa: BLE001 - one controller's fault must not keep the others uninformed
                self._log.error("session callback failed", node=session.node, error=error, exc_info=error)


def _first(request: Request, header: str) -> str:
    """The first value of a header; Go peers repeat ConnectionUse on retries."""
    values = request.headers.get_all(header)
    return values[0].strip() if values else ""
