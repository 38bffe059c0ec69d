"""The component: keeps the tunnel to the cloud open and carries its streams to the kubelet API (reference 9.4)."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from edgeappliance.edgestream.line import ClientLine, open_line
from edgeappliance.edgestream.requests import KubeletRequest, kubelet_request
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.component import Condition, Health, State
from edgeappliance.kernel.errors import ApplianceError, OperatorError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.relay import first_of, relay
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.kernel.tunnel import Channel, Tunnel
from edgeappliance.kernel.web.client import HttpUnreachable, connect, request
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.tunnel import Answer, ConnectRequest

PING_EVERY = 5.0
"""Seconds between pings, as KubeEdge's edge sends them (reference 9.4)."""

IDENTITY_LOOK = 2.0
"""Seconds between looks for an identity while this node has none."""

SILENCE = 20.0
"""Seconds without a byte from the cloud after which the tunnel is dead."""

PING = b"ping you"


class EdgeStream:
    """The edge's end of the tunnel. A component.

    tls: gives the context to connect with as this node, read anew for each connection (certificates rotate); raises
    OperatorError while the node has none.
    kubelet: Unix socket of the kubelet API, which asks no credentials there.
    """

    def __init__(
        self,
        scope: TaskScope,
        *,
        host: str,
        port: int,
        node: str,
        tls: Callable[[], Awaitable[ssl.SSLContext]],
        kubelet: Path,
        clock: Clock,
        backoff: Backoff | None = None,
    ) -> None:
        self._scope = scope
        self._host = host
        self._port = port
        self._node = node
        self._tls = tls
        self._kubelet = kubelet
        self._backoff = backoff or Backoff(initial=1.0, maximum=30.0, reset_after=10.0)
        self._wake = asyncio.Event()
        self._tunnel: Tunnel | None = None
        self._line: ClientLine | None = None
        self._opened = 0
        self._refused = 0
        self._condition = Condition(clock)
        self._log = get_logger("edgestream")

    async def start(self) -> None:
        self._condition.set(State.STARTING, "connecting")
        self._scope.spawn(self._run(), name="tunnel")

    async def stop(self) -> None:
        line = self._line
        if line is not None:
            line.close("edgecore stops")
        await self._scope.cancel()
        if line is not None:
            line.abort("edgecore stops")
        self._condition.set(State.STOPPED)

    def link_changed(self, connected: bool) -> None:
        """The link to the cloud came up or broke: when it is there again, so is the way for the tunnel."""
        if connected:
            self._wake.set()

    def health(self) -> Health:
        return self._condition.health(
            {
                "tunnel": f"{self._host}:{self._port}",
                "streams": 0 if self._tunnel is None else len(self._tunnel),
                "streams_total": self._opened,
                "refused_total": self._refused,
            }
        )

    # -- the tunnel ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            began = asyncio.get_running_loop().time()
            try:
                context = await self._tls()
                line = await open_line(self._host, self._port, node=self._node, context=context, listen=self._listen)
            except ApplianceError as error:
                if self._condition.reason != error.message:
                    self._log.warning("no tunnel", reason=error.message, next_step=error.next_step)
                self._condition.degrade(error)
                if isinstance(error, OperatorError):  # it may join at any moment
                    await asyncio.sleep(IDENTITY_LOOK)
                    continue
            else:
                reason = await self._use(line)
                self._log.info("tunnel closed", reason=reason)
                self._condition.set(State.DEGRADED, f"the tunnel broke: {reason}", "it is dialled again")
                self._backoff.succeeded(asyncio.get_running_loop().time() - began)
            await self._pause(self._backoff.next_delay())

    async def _pause(self, seconds: float) -> None:
        """Wait for `seconds`, or until the link to the cloud comes up."""
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    def _listen(self, line: ClientLine) -> Tunnel:
        self._tunnel = Tunnel(line, ours=line.ours, accept=self._accept)
        return self._tunnel

    async def _use(self, line: ClientLine) -> str:
        """Serve one tunnel until it is gone; why it went."""
        self._line = line
        self._log.info("tunnel open", cloud=f"{self._host}:{self._port}", ours=line.ours)
        self._condition.set(State.RUNNING)
        try:
            while not line.closed.done():
                line.ping(PING)
                await asyncio.wait([line.closed], timeout=PING_EVERY)
                silent = asyncio.get_running_loop().time() - line.heard_at
                if silent > SILENCE and not line.reading_paused:
                    line.abort("no answer to a ping: the tunnel is dead")
            return await line.closed
        finally:
            line.abort("the tunnel is given up")
            self._line = self._tunnel = None

    # -- one stream ---------------------------------------------------------------------------------------

    def _accept(self, channel: Channel, asked: ConnectRequest) -> None:
        self._opened += 1
        self._scope.spawn(self._serve(channel, asked), name=f"stream-{channel.id}")

    async def _serve(self, channel: Channel, asked: ConnectRequest) -> None:
        try:
            wanted = kubelet_request(channel.kind, asked)
            if wanted.raw:
                await self._relay(channel, wanted)
            else:
                await first_of(self._fetch(channel, wanted), _until_closed(channel), name=f"fetch-{channel.id}")
        except WireError as error:
            self._refused += 1
            self._log.warning("the cloud asks for what is not served", reason=error)
            await _refuse(channel, 403, str(error))
        except HttpUnreachable as error:
            await _refuse(channel, 502, f"the kubelet API of node {self._node}: {error.message}")
        except OSError as error:
            self._log.debug("stream broke", connection=channel.id, error=error)
        except Exception as error:  # noqa: BLE001 - one stream's fault is its own
            self._log.error("stream failed", connection=channel.id, error=error, exc_info=error)
        finally:
            channel.end()

    async def _relay(self, channel: Channel, wanted: KubeletRequest) -> None:
        """The kubelet's connection as it is, from the head of its answer on."""
        kubelet = await connect(self._kubelet)
        try:
            await kubelet.write(wanted.head())
        except OSError as error:
            await kubelet.close()
            raise HttpUnreachable(str(error)) from None
        await relay(channel, kubelet)

    async def _fetch(self, channel: Channel, wanted: KubeletRequest) -> None:
        async with request(self._kubelet, wanted.method, wanted.target, headers=wanted.headers) as answer:
            channel.head(Answer(answer.status, answer.headers.get("content-type", "")))
            async for data in answer:
                await channel.write(data)


async def _until_closed(channel: Channel) -> None:
    """Return when the cloud wants no more of it."""
    while await channel.read():
        continue


async def _refuse(channel: Channel, status: int, text: str) -> None:
    """Say why there is no stream, in the form that the kind of stream has."""
    body = f"{text}\n".encode()
    try:
        if channel.raw:
            head = (
                f"HTTP/1.1 {status} Refused\r\nContent-Type: text/plain; charset=utf-8\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            await channel.write(head.encode() + body)
        else:
            channel.head(Answer(status, "text/plain; charset=utf-8"))
            await channel.write(body)
    except OSError:
        return  # nobody is left who could read it
