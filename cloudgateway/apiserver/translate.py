"""exec and attach between a client's WebSocket and a kubelet's SPDY streams (KEP-4006), and bytes in a WebSocket."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from edgeappliance.kernel.duplex import Duplex
from edgeappliance.kernel.relay import first_of
from edgeappliance.kernel.spdystream import Spdy, SpdyStream, serve_spdy
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.remotecommand import (
    STREAM_TYPE,
    Channel,
    Result,
    WebSocketProtocol,
    decode_result,
    encode_result,
)

MAX_RESULT = 64 * 1024
_GOING_AWAY = 1001
DRAIN_SECONDS = 10.0
"""For output that is still under way when the result is there."""

LINGER = 10.0
"""Seconds for a client to leave after the result. Its stdin may still be under way, and must not cost it the result."""

STALL_PING = 15.0
"""Seconds of a command that reads no stdin between signs of life to the client, whose pings wait behind its stdin;
kubectl gives up after 60 s without."""


class Socket(Protocol):
    """A WebSocket: `kernel.web.websocket.WebSocket`."""

    async def receive(self) -> bytes | None: ...

    async def send(self, data: bytes, *, text: bool = False) -> None: ...

    async def ping(self) -> None: ...

    async def close(self, code: int = 1000, reason: str = "", *, linger: float = 0) -> None: ...


class SocketPipe:
    """A WebSocket whose messages are pieces of a stream of bytes: a Duplex."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    async def read(self) -> bytes:
        while (message := await self._socket.receive()) is not None:
            if message:
                return message
        return b""

    async def write(self, data: bytes) -> None:
        await self._socket.send(data)

    async def close(self) -> None:
        await self._socket.close()


async def translate(socket: Socket, protocol: WebSocketProtocol, pipe: Duplex, *, channels: Sequence[Channel]) -> None:
    """Serve one exec or attach on `pipe`, a fresh SPDY connection to a kubelet. `channels` are those asked for of
    stdin, stdout, stderr and resize. Returns when either side has ended; both are closed then."""
    talk = _Talk(socket, protocol)
    try:
        async with serve_spdy(pipe, client=True) as spdy:
            await talk.run(spdy, channels)
    except (OSError, TimeoutError) as error:
        await talk.result(encode_result(Result(error=f"the stream broke: {error}"), status=protocol.status))
    finally:
        if talk.said:
            await socket.close(linger=LINGER)
        else:  # a normal end without a result would be success to the client
            await socket.close(_GOING_AWAY, "the stream was cut")


class _Talk:
    def __init__(self, socket: Socket, protocol: WebSocketProtocol) -> None:
        self._socket = socket
        self._protocol = protocol
        self._inward: dict[Channel, SpdyStream] = {}
        self._stuck = False
        self.said = False
        """Whether the client knows how it ended."""

    async def run(self, spdy: Spdy, channels: Sequence[Channel]) -> None:
        """Open the streams in the order in which kubectl does, all at once: the node may be far away. Carry them."""
        names = ["error", *(channel.name.lower() for channel in channels)]
        error, *opened = await asyncio.gather(*(spdy.open({STREAM_TYPE: name}) for name in names))
        found = list(zip(channels, opened, strict=True))
        self._inward = {channel: stream for channel, stream in found if channel in (Channel.STDIN, Channel.RESIZE)}
        outward = [(channel, stream) for channel, stream in found if channel not in self._inward]
        await first_of(self._from_client(), self._from_kubelet(error, outward), self._signs_of_life(), name="exec")

    async def _from_client(self) -> None:
        while (message := await self._socket.receive()) is not None:
            try:
                channel, data = self._protocol.decode(message)
            except WireError:
                return  # what it means is not to be guessed
            if channel == Channel.CLOSE and self._protocol.closes:
                await self._close_channel(data)
            elif (stream := self._of(channel)) is not None and data:
                self._stuck = True
                try:
                    await stream.write(data)
                except OSError:
                    pass  # the command reads no more; what it says is still to come
                self._stuck = False

    async def _signs_of_life(self) -> None:
        while True:
            await asyncio.sleep(STALL_PING)
            if self._stuck:
                await self._socket.ping()

    def _of(self, channel: int) -> SpdyStream | None:
        """The stream for what the client sends on a channel; None for one that was not asked for."""
        return next((stream for known, stream in self._inward.items() if known == channel), None)

    async def _close_channel(self, data: bytes) -> None:
        stream = self._of(data[0]) if data else None
        if stream is not None:
            await stream.close_write()

    async def _from_kubelet(self, error: SpdyStream, outward: Sequence[tuple[Channel, SpdyStream]]) -> None:
        pumps = [asyncio.create_task(self._pump(*item), name=f"exec-{item[0].name.lower()}") for item in outward]
        try:
            result = await _whole(error)
            if pumps:
                await asyncio.wait(pumps, timeout=DRAIN_SECONDS)
            await self.result(self._converted(result))
        finally:
            for pump in pumps:
                pump.cancel()
            if pumps:
                await asyncio.wait(pumps)

    async def _pump(self, channel: Channel, stream: SpdyStream) -> None:
        try:
            while data := await stream.read():
                await self._send(channel, data)
        except OSError:
            return  # the error stream, or the client's end, tells what happened

    async def result(self, data: bytes) -> None:
        """How it ended, once; nothing to say is success before v4."""
        if self.said:
            return
        self.said = True
        if data:
            try:
                await self._send(Channel.ERROR, data)
            except OSError:
                return  # nobody is left who could read it

    def _converted(self, result: bytes) -> bytes:
        if self._protocol.status:
            return result or encode_result(Result(0), status=True)
        return encode_result(decode_result(result), status=False)

    async def _send(self, channel: int, data: bytes) -> None:
        await self._socket.send(self._protocol.encode(channel, data), text=self._protocol.encoded)


async def _whole(stream: SpdyStream) -> bytes:
    parts = bytearray()
    while data := await stream.read():
        parts += data
        if len(parts) > MAX_RESULT:
            break
    return bytes(parts[:MAX_RESULT])
