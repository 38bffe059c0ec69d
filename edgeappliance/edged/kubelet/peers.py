"""The far end of an exec or attach: the same five verbs over SPDY streams and over a WebSocket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

from edgeappliance.edged.kubelet.query import StreamOptions
from edgeappliance.edged.kubelet.upgrade import upgrade_to_spdy
from edgeappliance.kernel.spdystream import Spdy, SpdyStream, serve_spdy
from edgeappliance.kernel.web import websocket
from edgeappliance.kernel.web.exchange import Exchange
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.remotecommand import (
    SPDY_PROTOCOLS,
    STREAM_TYPE,
    WEBSOCKET_PROTOCOLS,
    Channel,
    Result,
    SizeReader,
    WebSocketProtocol,
    encode_result,
    has_status,
)

STREAMS_TIMEOUT = 30.0
"""Seconds in which a client must have opened its streams."""

LINGER = 10.0
"""Seconds that a client has to leave after the result, so that what it still sends cannot make TCP drop the result, and
the end of a long output gets over a narrow line. Clients leave when they have read the result."""

STALL_PING = 15.0
"""Seconds of a container that does not read its stdin after which the client is pinged."""

MAX_SIZES = 16


class Peer(Protocol):
    """Who looks into a container. Everything but `write` never raises."""

    async def stdin(self) -> bytes:
        """The next bytes, b"" at the end."""
        ...

    async def size(self) -> tuple[int, int] | None:
        """The next size of the terminal, None when no more come."""
        ...

    async def write(self, kind: int, data: bytes) -> None:
        """To stdout (1) or stderr (2). Raises OSError when the peer is gone."""
        ...

    async def finish(self, result: Result) -> None:
        """Tell how it ended, and take leave."""
        ...

    async def gone(self) -> None:
        """Returns when the peer has left."""
        ...


@contextlib.asynccontextmanager
async def open_peer(exchange: Exchange, options: StreamOptions) -> AsyncIterator[Peer]:
    """Upgrade the request and wait for the client's streams. Raises HttpError before the upgrade, OSError after it."""
    if exchange.request.upgrades_to("websocket"):
        names = [protocol.name for protocol in WEBSOCKET_PROTOCOLS]
        socket, name = await websocket.accept(exchange, names)
        async with _websocket_peer(socket, name, options) as peer:
            yield peer
        return
    duplex, spdy_protocol = await upgrade_to_spdy(exchange, SPDY_PROTOCOLS)
    async with serve_spdy(duplex, client=False) as spdy:
        yield await _spdy_peer(spdy, spdy_protocol, options)


# -- SPDY ------------------------------------------------------------------------------------------------------


class SpdyPeer:
    """A stream for each channel."""

    def __init__(self, spdy: Spdy, streams: dict[str, SpdyStream], *, status: bool) -> None:
        self._spdy = spdy
        self._streams = streams
        self._outputs = {1: streams.get("stdout"), 2: streams.get("stderr")}
        self._status = status
        self._sizes: list[tuple[int, int]] = []
        self._reader = SizeReader()

    async def stdin(self) -> bytes:
        return await self._read("stdin")

    async def size(self) -> tuple[int, int] | None:
        while not self._sizes:
            data = await self._read("resize")
            if not data:
                return None
            self._sizes = self._reader.feed(data)[-MAX_SIZES:]
        return self._sizes.pop(0)

    async def write(self, kind: int, data: bytes) -> None:
        stream = self._outputs.get(kind)
        if stream is not None:
            await stream.write(data)

    async def finish(self, result: Result) -> None:
        with contextlib.suppress(OSError):
            for stream in self._outputs.values():
                if stream is not None:
                    await stream.close_write()
            error = self._streams["error"]
            await error.write(encode_result(result, status=self._status))
            await error.close_write()
        await self._spdy.flush()  # however slowly it is read
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                await self.gone()

    async def gone(self) -> None:
        await self._spdy.ended()

    async def _read(self, name: str) -> bytes:
        stream = self._streams.get(name)
        if stream is None:
            return b""
        try:
            return await stream.read()
        except OSError:
            return b""


async def _spdy_peer(spdy: Spdy, protocol: str, options: StreamOptions) -> SpdyPeer:
    """Raises OSError when the streams do not come."""
    wanted = {"error"} | {name for name in ("stdin", "stdout", "stderr") if getattr(options, name)}
    if options.tty and protocol not in ("", "channel.k8s.io", "v2.channel.k8s.io"):
        wanted.add("resize")
    streams: dict[str, SpdyStream] = {}
    async with asyncio.timeout(STREAMS_TIMEOUT):
        while wanted - streams.keys():
            stream = await spdy.accept()
            if stream is None:
                raise ConnectionResetError("the client left before it had opened its streams")
            name = stream.headers.get(STREAM_TYPE, "")
            if name not in wanted or name in streams:
                stream.reset()
                continue
            streams[name] = stream
    return SpdyPeer(spdy, streams, status=has_status(protocol))


# -- WebSocket -------------------------------------------------------------------------------------------------


class WebSocketPeer:
    """Channels in messages. `listen` must be running."""

    def __init__(self, socket: websocket.WebSocket, protocol: WebSocketProtocol, options: StreamOptions) -> None:
        self._socket = socket
        self._protocol = protocol
        self._options = options
        self._stdin: asyncio.Queue[bytes] = asyncio.Queue(maxsize=4)
        self._sizes: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue(maxsize=MAX_SIZES)
        self._reader = SizeReader()
        self._gone = asyncio.Event()
        self._input_ended = not options.stdin

    async def listen(self) -> None:
        """Sort what comes until the client leaves."""
        try:
            while (message := await self._socket.receive()) is not None:
                if message:
                    await self._sort(*self._protocol.decode(message))
        except (WireError, OSError):
            pass  # it does not keep to its protocol, or is gone
        finally:
            self._gone.set()

    async def _sort(self, channel: int, data: bytes) -> None:
        if channel == Channel.STDIN and data and not self._input_ended:
            await self._put(data)
        elif channel == Channel.RESIZE:
            for size in self._reader.feed(data):
                if self._sizes.full():
                    self._sizes.get_nowait()
                self._sizes.put_nowait(size)
        elif channel == Channel.CLOSE and self._protocol.closes and data[:1] == b"\0" and not self._input_ended:
            self._input_ended = True
            await self._put(b"")

    async def _put(self, data: bytes) -> None:
        """Wait while the container does not read; a client that is gone meanwhile shows when it is pinged."""
        while True:
            try:
                async with asyncio.timeout(STALL_PING):
                    await self._stdin.put(data)
                return
            except TimeoutError:
                await self._socket.ping()

    async def stdin(self) -> bytes:
        return await self._stdin.get() if self._options.stdin else b""

    async def size(self) -> tuple[int, int] | None:
        return await self._sizes.get() if self._options.tty else None

    async def write(self, kind: int, data: bytes) -> None:
        if not (self._options.stdout if kind == 1 else self._options.stderr):
            return
        await self._socket.send(self._protocol.encode(kind, data), text=self._protocol.encoded)

    async def finish(self, result: Result) -> None:
        text = encode_result(result, status=self._protocol.status)
        with contextlib.suppress(OSError):
            if text:
                await self._socket.send(self._protocol.encode(Channel.ERROR, text), text=self._protocol.encoded)
            await self._socket.say_goodbye()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                await self.gone()

    async def gone(self) -> None:
        await self._gone.wait()


@contextlib.asynccontextmanager
async def _websocket_peer(
    socket: websocket.WebSocket, name: str, options: StreamOptions
) -> AsyncIterator[WebSocketPeer]:
    chosen = name or "channel.k8s.io"
    protocol = next(protocol for protocol in WEBSOCKET_PROTOCOLS if protocol.name == chosen)
    peer = WebSocketPeer(socket, protocol, options)
    listening = asyncio.create_task(peer.listen(), name="websocket-listener")
    try:
        await peer.write(1 if options.stdout else 2, b"")  # as upstream: tells the client that it is connected
        yield peer
    finally:
        listening.cancel()
        await asyncio.wait([listening])
        await socket.close()
