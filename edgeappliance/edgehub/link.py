"""The websocket to the cloud: TLS, upgrade, frames, and the timer that drives the session (reference 2.3, 2.4).

Built on the sans-I/O protocol of `websockets`: all that became due in one turn of the loop leaves in one
write, a send needs no task, and every byte is counted.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from edgeappliance.edgehub.session import Pace, Session
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.errors import TransientError
from edgeappliance.kernel.reach import reach
from edgeappliance.wire.limits import MAX_MESSAGE
from edgeappliance.wire.message import Message, encode
from edgeappliance.wire.operations import Group, Operation, Source

PORT = 10000
"""The message port of KubeEdge (reference 3.5)."""

DEFAULT_PROJECT = "e632aba927ea4ac2b575ec1603d56f10"
"""KubeEdge's default project id (reference 2.3)."""

OURS = "Edge-Appliance"
"""Header by which the two programs of this project know each other in the upgrade; its value is "1"."""

STORE = "Edge-Appliance-Store"
"""Header with the identity of our database: when it is a new one, our gateway sends everything again."""

OPEN_TIMEOUT = 10.0
CLOSE_TIMEOUT = 1.0
WRITE_HIGH = 256 * 1024

_PORT_STEP = "check that this is the message port of a KubeEdge cloud (10000)"

MAX_FRAGMENTS = 16384
"""Fragments of one message; KubeEdge's are of 4082 bytes (reference 2.3), which makes some 4100 of the longest."""


class Blame(StrEnum):
    """What a refused connection says about our certificate."""

    NONE = "none"
    PERHAPS = "perhaps"
    CERTIFICATE = "certificate"


class LinkRefused(TransientError):
    """The cloud did not accept the connection."""

    def __init__(self, message: str, *, next_step: str = "", blame: Blame = Blame.NONE) -> None:
        super().__init__(message, next_step=next_step)
        self.blame = blame


@dataclass(slots=True)
class Traffic:
    """Bytes and messages on the wire below TLS, since the process started."""

    bytes_sent: int = 0
    bytes_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect and as whom."""

    host: str
    port: int
    node: str
    project: str = DEFAULT_PROJECT
    store: str = ""
    """Identity of this node's database."""

    @property
    def url(self) -> str:
        """`wss://<host>:<port>/<project>/<node>/events`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"wss://{host}:{self.port}/{self.project}/{self.node}/events"


class Link(asyncio.Protocol):
    """One connection. Build it with `open_link`; it is used from the event loop's thread only."""

    def __init__(
        self,
        target: Target,
        *,
        clock: Clock,
        on_message: Callable[[bytes], None],
        traffic: Traffic,
        pace: Pace,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._target = target
        self._clock = clock
        self._on_message = on_message
        self._traffic = traffic
        self._pace = pace
        self._loop = loop
        self._protocol = ClientProtocol(parse_uri(target.url), max_size=MAX_MESSAGE)
        self._fragments: list[bytes] = []
        self._session: Session | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._flush: asyncio.Handle | None = None
        self._writable = True
        self._reason = ""
        self._transport: asyncio.Transport | None = None
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[str] = loop.create_future()
        """Resolves with the reason once the connection is gone."""
        self.ours = False
        self.local_address = ""

    # -- what the hub calls -------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether a message offered now has a connection to go to."""
        return self._session is not None and not self.closed.done()

    def send(self, message: Message, *, urgent: bool = False) -> bool:
        """Queue a message; False when the link is down or its queue is full."""
        if not self.is_open or self._session is None:
            return False
        if not self._session.offer(encode(message), urgent=urgent):
            return False
        if self._flush is None:
            self._flush = self._loop.call_soon(self._step)
        return True

    async def close(self) -> None:
        """Say good-bye and leave; bounded by CLOSE_TIMEOUT."""
        if self._transport is None or self.closed.done():
            return
        self._reason = self._reason or "closed by us"
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(1000)
            self._write_out()
        try:
            await asyncio.wait_for(asyncio.shield(self.closed), CLOSE_TIMEOUT)
        except TimeoutError:
            self._transport.abort()
            await self.closed

    def abort(self, reason: str) -> None:
        """Drop the connection now."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast: uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH)
        address = transport.get_extra_info("sockname")
        self.local_address = str(address[0]) if address else ""
        request = self._protocol.connect()
        request.headers["node_id"] = self._target.node
        request.headers["project_id"] = self._target.project
        request.headers["ConnectionUse"] = "msg"
        request.headers[OURS] = "1"
        if self._target.store:
            request.headers[STORE] = self._target.store
        self._protocol.send_request(request)
        self._write_out()

    def data_received(self, data: bytes) -> None:
        self._traffic.bytes_received += len(data)
        if self._session is not None:
            self._session.received()
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._take_frame(event)
            elif isinstance(event, Response):
                self._take_response(event)
        self._write_out()
        if self._protocol.handshake_exc is not None or self._protocol.parser_exc is not None:
            self.abort(str(self._protocol.handshake_exc or self._protocol.parser_exc))
        elif self._protocol.close_rcvd is not None:
            self.abort(self._reason or f"closed by the cloud: {self._protocol.close_rcvd}")

    def eof_received(self) -> None:
        self._reason = self._reason or "the cloud ended the connection"

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._step()

    def connection_lost(self, exc: Exception | None) -> None:
        for handle in (self._timer, self._flush):
            if handle is not None:
                handle.cancel()
        self._timer = self._flush = None
        reason = self._reason or (f"{exc}" if exc else "") or "the cloud ended the connection"
        if not self.opened.done():
            self.opened.set_exception(self._refusal(exc, reason))
            self.opened.exception()  # looked at: with TLS unfinished, create_connection is what raises
        if not self.closed.done():
            self.closed.set_result(reason)

    # -- inside -------------------------------------------------------------------------------------------

    def _refusal(self, exc: Exception | None, reason: str) -> Exception:
        failed = self._protocol.handshake_exc
        if isinstance(failed, InvalidStatus):
            return LinkRefused(
                f"the cloud answered the upgrade with status {failed.response.status_code}", next_step=_PORT_STEP
            )
        if isinstance(failed, InvalidHandshake):
            return LinkRefused(f"the cloud's answer to the upgrade is wrong: {failed}", next_step=_PORT_STEP)
        if isinstance(exc, ssl.SSLError):
            # TLS 1.3: a client certificate that the cloud refuses shows only after our side is through.
            return refused_by_tls(exc)
        # A server on asyncio drops a client whose certificate it refuses without the alert that says so.
        return LinkRefused(
            f"{reason} before it answered the upgrade",
            next_step="look into the cloud's log; it may not accept this node's certificate",
            blame=Blame.PERHAPS,
        )

    def _take_response(self, response: Response) -> None:
        if self._protocol.state is not State.OPEN:
            return  # handshake_exc says why
        self.ours = response.headers.get(OURS) == "1"
        self._session = Session(limited=not self.ours, now=self._clock.monotonic(), pace=self._pace)
        self._step()
        if not self.opened.done():
            self.opened.set_result(None)

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if frame.fin and not self._fragments:
                self._deliver(bytes(frame.data))
                return
            self._fragments.append(bytes(frame.data))
            if len(self._fragments) > MAX_FRAGMENTS:
                self.abort("a message in too many fragments")
            elif frame.fin:
                whole = b"".join(self._fragments)
                self._fragments.clear()
                self._deliver(whole)

    def _deliver(self, data: bytes) -> None:
        self._traffic.messages_received += 1
        self._on_message(data)

    def _step(self) -> None:
        """Do what the session wants now and set the timer for the next time."""
        self._flush = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._session is None or self._transport is None or self._protocol.state is not State.OPEN:
            return
        unsent = self._transport.get_write_buffer_size()
        step = self._session.step(self._clock.monotonic(), unsent=unsent, writable=self._writable)
        if step.dead:
            self.abort("no answer to a ping: the link is dead")
            return
        if step.keepalive:
            self._protocol.send_text(encode(_keepalive()))
            self._protocol.send_ping(b"")
            self._traffic.messages_sent += 1
        for data in step.frames:
            self._protocol.send_text(data)
        self._traffic.messages_sent += len(step.frames)
        self._write_out()
        self._timer = self._loop.call_later(step.wake_in, self._step)

    def _write_out(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        data = b"".join(self._protocol.data_to_send())
        if data:
            self._traffic.bytes_sent += len(data)
            self._transport.write(data)


def _keepalive() -> Message:
    return Message.new(
        source=Source.WEBSOCKET,
        group=Group.RESOURCE,
        operation=Operation.KEEPALIVE,
        resource="node",
        content="ping",
    )


def refused_by_tls(error: ssl.SSLError) -> LinkRefused:
    """What a TLS failure means for the operator."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return LinkRefused(
            f"the cloud's certificate was not accepted: {error.verify_message}",
            next_step="check the address of the cloud and the clocks of both machines",
        )
    reason = error.reason or str(error)
    certificate = "CERTIFICATE" in reason or "UNKNOWN_CA" in reason
    step = (
        "the cloud does not accept this node's certificate: if it was removed or expired there, enrol again "
        "with `edgecore join`"
        if certificate
        else _PORT_STEP
    )
    return LinkRefused(
        f"TLS with the cloud failed: {reason}",
        next_step=step,
        blame=Blame.CERTIFICATE if certificate else Blame.NONE,
    )


async def open_link(
    target: Target,
    *,
    context: ssl.SSLContext,
    clock: Clock,
    on_message: Callable[[bytes], None],
    traffic: Traffic,
    pace: Pace | None = None,
    timeout: float = OPEN_TIMEOUT,
) -> Link:
    """Connect, upgrade, and return the open link with its first keepalive sent. Raises LinkRefused."""

    async def attempt(address: str) -> Link:
        link = Link(target, clock=clock, on_message=on_message, traffic=traffic, pace=pace or Pace())
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: link, address, target.port, ssl=context, server_hostname=target.host
            )
            await link.opened
            return link
        finally:
            if not link.is_open:
                link.opened.cancel()
                link.abort("not opened")

    try:
        return await reach(target.host, target.port, attempt, timeout=timeout)
    except ssl.SSLError as error:
        raise refused_by_tls(error) from error
    except TimeoutError as error:
        raise LinkRefused(
            f"{target.host}:{target.port} did not answer within {timeout:.0f} s",
            next_step=f"check the network, and that no firewall drops TCP port {target.port}",
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise LinkRefused(
            f"{target.host}:{target.port} cannot be reached: {reason}",
            next_step="check the network and that the cloud is running",
        ) from error
