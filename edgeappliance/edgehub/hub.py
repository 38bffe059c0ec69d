"""edgehub: keeps the link to the cloud up and hands what arrives to its receivers (reference 1.2, 2)."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from edgeappliance.edgehub.enrolment import Enrolment
from edgeappliance.edgehub.identity import IdentityFiles, clock_is_implausible
from edgeappliance.edgehub.keeper import IdentityKeeper
from edgeappliance.edgehub.link import Link, LinkRefused, Target, Traffic, open_link
from edgeappliance.edgehub.session import Pace
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.component import Condition, Health, State
from edgeappliance.kernel.errors import ApplianceError, TransientError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.message import Message, decode
from edgeappliance.wire.operations import OK, Group, Operation, ResourceType

MAX_INBOX = 1024
"""Messages that may wait for one receiver. Beyond, the newest is dropped: an object is sent again by the cloud."""

_TRANSPORT_OPERATIONS = {Operation.PING, Operation.PONG, Operation.CONFIG}
_NEVER_ACKNOWLEDGED = {ResourceType.NODE_PATCH.value, ResourceType.POD_PATCH.value}

Receiver = Callable[[Message], Awaitable[None]]


class LinkDown(TransientError):
    """There is no link to the cloud, or it broke while an answer was awaited."""


class RequestTimeout(TransientError):
    """The cloud did not answer in time."""


class EdgeHub:
    """The only way to the cloud and back.

    A message from the cloud that answers a request completes it; every other one goes, in order of arrival,
    to the receiver of its group. Receivers of different groups do not wait for each other.

    token_file: joins with it when there is no identity, and removes it then. rotate: renew the certificate
    at 70-90 % of its life; an expired one is renewed either way.
    """

    def __init__(
        self,
        scope: TaskScope,
        *,
        target: Target,
        files: IdentityFiles,
        enrolment: Enrolment,
        clock: Clock,
        token_file: Path | None = None,
        backoff: Backoff | None = None,
        pace: Pace | None = None,
        rotate: bool = True,
    ) -> None:
        self._scope = scope
        self._target = target
        self._clock = clock
        self._keeper = IdentityKeeper(
            node=target.node, files=files, enrolment=enrolment, clock=clock, token_file=token_file
        )
        self._pace = pace or Pace()
        self._rotates = rotate
        # A gentle factor: after an outage of seconds everybody is back within one or two more.
        self._backoff = backoff or Backoff(initial=1.0, maximum=10.0, factor=1.15, jitter=0.3)
        self._link: Link | None = None
        self._receivers: dict[str, Receiver] = {}
        self._inboxes: dict[str, asyncio.Queue[Message]] = {}
        self._listeners: list[Callable[[bool], None]] = []
        self._pending: dict[str, asyncio.Future[Message]] = {}
        self._dropped = 0
        self._refused_messages = 0
        self._connections = 0
        self._condition = Condition(clock)
        self._log = get_logger("edgehub")
        self.traffic = Traffic()

    # -- for the other components -------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether there is a link now."""
        return self._link is not None and self._link.is_open

    @property
    def ours(self) -> bool:
        """Whether the peer is a cloudgateway of this project, which announced itself in the upgrade."""
        return self._link is not None and self._link.ours

    @property
    def local_address(self) -> str:
        """Our address on the way to the cloud; empty before the first link."""
        return self._link.local_address if self._link is not None else ""

    def send(self, message: Message) -> bool:
        """Send without waiting. False when there is no link (nothing is kept) or its queue is full."""
        link = self._link
        if link is None:
            return False
        return link.send(message, urgent=message.operation == Operation.RESPONSE)

    async def request(self, message: Message, timeout: float, *, acknowledge: bool = True) -> Message:
        """Send and return the cloud's answer, which may be of operation `error`.

        The answer is acknowledged here as KubeEdge's edge does it (reference 2.8), unless the caller does so
        itself after storing it. Raises LinkDown or RequestTimeout.
        """
        if self._link is None:
            raise LinkDown("not connected to the cloud")
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._pending[message.id] = future
        try:
            if not self.send(message):
                raise LinkDown("the link to the cloud is overloaded" if self.connected else "the link broke")
            async with asyncio.timeout(timeout):
                answer = await future
        except TimeoutError:
            raise RequestTimeout(f"no answer to {message.operation} {message.resource} in {timeout:.0f} s") from None
        finally:
            del self._pending[message.id]
        if acknowledge and needs_acknowledgement(answer):
            self.send(answer.reply(OK))
        return answer

    def route(self, group: str, receiver: Receiver) -> None:
        """Hand messages of a group to `receiver`. `resource` and `func` go the same way (reference 1.2)."""
        for name in (Group.RESOURCE, Group.FUNC) if group == Group.RESOURCE else (group,):
            self._receivers[name] = receiver

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """Call `callback(True)` after every connect and `callback(False)` after every loss."""
        self._listeners.append(callback)

    # -- component ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the identity and begin; connecting goes on in the background."""
        await self._keeper.load()
        self._condition.set(State.STARTING, "connecting")
        self._inboxes = {}
        for group, receiver in self._receivers.items():
            inbox: asyncio.Queue[Message] = asyncio.Queue(MAX_INBOX)
            self._inboxes[group] = inbox
            self._scope.spawn(self._receive(inbox, receiver), name=f"receive-{group}")
        self._scope.spawn(self._keep_connected(), name="connect")
        if self._rotates:
            self._scope.spawn(self._keeper.rotate(self._change_over), name="rotate")

    async def stop(self) -> None:
        await self._scope.cancel()
        self._condition.set(State.STOPPED)

    def health(self) -> Health:
        details: dict[str, Any] = {
            "cloud": f"{self._target.host}:{self._target.port}",
            "peer": ("cloudgateway" if self.ours else "KubeEdge") if self.connected else "",
            "connections_total": self._connections,
            "sent_bytes_total": self.traffic.bytes_sent,
            "received_bytes_total": self.traffic.bytes_received,
            "messages_sent_total": self.traffic.messages_sent,
            "messages_received_total": self.traffic.messages_received,
            "messages_dropped_total": self._dropped,
            "messages_refused_total": self._refused_messages,
        }
        if self._keeper.identity is not None:
            details["certificate_expiry_timestamp_seconds"] = int(self._keeper.identity.facts.not_after)
        return self._condition.health(details)

    # -- the connection -----------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        while True:
            started = self._clock.monotonic()
            try:
                await self._one_connection()
            except ApplianceError as error:
                self._report(error)
            self._backoff.succeeded(self._clock.monotonic() - started)
            await asyncio.sleep(self._backoff.next_delay())

    async def _one_connection(self) -> None:
        identity = await self._keeper.ready()
        ignore_dates = clock_is_implausible(self._clock.wall_ms() / 1000, identity.facts)
        if ignore_dates:
            self._log.warning("the clock cannot be right: certificate dates are not checked", ms=self._clock.wall_ms())
        context = await asyncio.to_thread(identity.client_context, ignore_dates=ignore_dates)
        try:
            link = await open_link(
                self._target,
                context=context,
                clock=self._clock,
                on_message=self._take,
                traffic=self.traffic,
                pace=self._pace,
            )
        except LinkRefused as error:
            await self._keeper.blamed(error.blame)
            raise
        self._link = link
        self._keeper.accepted()
        self._connections += 1
        self._condition.set(State.RUNNING)
        self._log.info("connected", cloud=self._target.url, ours=link.ours)
        for listener in self._listeners:
            listener(True)
        try:
            reason = await link.closed
        finally:
            self._link = None
            self._lost()
            await link.close()
        raise LinkDown(f"the link broke: {reason}")

    def _change_over(self) -> None:
        """There is a new certificate: the next connection uses it."""
        if self._link is not None:
            self._link.abort("changing to the new certificate")

    def _lost(self) -> None:
        """The link is gone: nobody waits for its answers any longer."""
        waiting = [future for future in self._pending.values() if not future.done()]
        for future in waiting:
            future.set_exception(LinkDown("the link broke before the answer came"))
        if self._condition.state is State.RUNNING:
            self._condition.set(State.DEGRADED, "the link broke")
            for listener in self._listeners:
                listener(False)

    def _report(self, error: ApplianceError) -> None:
        problem = self._keeper.problem
        reason = error.message if problem is None else f"{error.message}; {problem.message}"
        step = (error if problem is None else problem).next_step or "nothing yet: it is tried again, again and again"
        if (self._condition.state, self._condition.reason) != (State.DEGRADED, reason):
            self._log.warning("no link to the cloud", reason=reason, next_step=step)
        self._condition.set(State.DEGRADED, reason, step)

    # -- messages -----------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        try:
            message = decode(data)
        except WireError as error:
            self._refused_messages += 1
            self._log.warning("message refused", reason=error, bytes=len(data))
            return
        waiting = self._pending.get(message.parent_id) if message.parent_id else None
        if waiting is not None:
            if not waiting.done():
                waiting.set_result(message)
        elif message.operation in _TRANSPORT_OPERATIONS:
            self.send(message.reply("ack"))
        elif message.group in (Group.RESOURCE, Group.FUNC) and message.parent_id:
            # Nobody waits any more. KubeEdge forgets such a reply and is sent it for ever (reference 2.8).
            if needs_acknowledgement(message):
                self.send(message.reply(OK))
        elif message.group == Group.USER and message.parent_id:
            self._log.debug("late answer dropped", resource=message.resource)
        elif message.operation == Operation.ERROR:
            text = bytes(message.content)[:500].decode("utf-8", "replace")
            self._log.warning("the cloud could not do what was asked", resource=message.resource, error=text)
        else:
            self._sort(message)

    def _sort(self, message: Message) -> None:
        inbox = self._inboxes.get(message.group)
        if inbox is None:
            self._refused_messages += 1
            self._log.warning("message of a group that nobody receives", group=message.group, source=message.source)
            return
        try:
            inbox.put_nowait(message)
        except asyncio.QueueFull:
            self._dropped += 1
            self._log.warning("receiver too slow, message dropped", group=message.group, resource=message.resource)

    async def _receive(self, inbox: asyncio.Queue[Message], receiver: Receiver) -> None:
        while True:
            message = await inbox.get()
            try:
                await receiver(message)
            except Exception as error:  # noqa: BLE001 - one poisoned message must cost only itself
                self._log.error("message not handled", resource=message.resource, error=error, exc_info=error)
                if message.group in (Group.RESOURCE, Group.FUNC):
                    self.send(message.error(str(error)))


def needs_acknowledgement(reply: Message) -> bool:
    """Whether KubeEdge's edge acknowledges this reply of the cloud: objects, except answers to patches
    (reference 2.7, and what its edgecore was seen to do)."""
    if reply.operation != Operation.RESPONSE or reply.group not in (Group.RESOURCE, Group.FUNC) or reply.is_ok:
        return False
    parts = reply.resource.split("/")
    return not (len(parts) == 3 and parts[1] in _NEVER_ACKNOWLEDGED)
