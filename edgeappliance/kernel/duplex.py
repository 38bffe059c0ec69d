"""A pipe of bytes with two directions, whatever carries it: a socket, a tunnel, an upgraded connection."""

import asyncio
import socket
import struct
from typing import Protocol

CHUNK = 64 * 1024

CLOSE_TIMEOUT = 5.0
"""Seconds in which a closed pipe must give away something of what was written: the last of a log on a narrow line may
take long, a peer that takes nothing is left."""

_BYTES_ACKED = struct.Struct("120xQ")
"""tcpi_bytes_acked in the kernel's struct tcp_info (Linux 4.1)."""


class Duplex(Protocol):
    """Both ends may be used at the same time. One reader and one writer at most."""

    async def read(self) -> bytes:
        """The next bytes, b"" at the end. Raises OSError when the pipe broke."""
        ...

    async def write(self, data: bytes) -> None:
        """Returns when there is room for more. Raises OSError when the pipe broke."""
        ...

    async def close(self) -> None:
        """End both directions. Idempotent, never raises."""
        ...


class StreamDuplex:
    """A connection of asyncio's as a Duplex. `first`: bytes that were read from it already."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes = b"") -> None:
        self._reader = reader
        self._writer = writer
        self._first = first
        self._closed = False

    async def read(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        return await self._reader.read(CHUNK)

    async def write(self, data: bytes) -> None:
        if self._closed or self._writer.is_closing():
            raise BrokenPipeError("the connection is closed")
        self._writer.write(data)
        await self._writer.drain()

    async def end(self) -> None:
        """No more is written; reading goes on. With TLS, which cannot do that, nothing."""
        try:
            if not self._closed and self._writer.can_write_eof():
                self._writer.write_eof()
        except (OSError, RuntimeError):
            return  # gone: the reader hears of it

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        transport = self._writer.transport
        # A task, because a time-out must not cancel what the transport itself waits for.
        closing = asyncio.ensure_future(self._writer.wait_closed())
        try:
            taken = _taken(transport)
            while not (await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT))[0]:
                before, taken = taken, _taken(transport)
                if taken <= before:
                    transport.abort()
                    await asyncio.wait({closing}, timeout=1)
                    break
            if closing.done() and not closing.cancelled():
                closing.exception()  # looked at: what the peer made of it does not matter
        except BaseException:
            transport.abort()
            raise
        finally:
            closing.cancel()


def _taken(transport: asyncio.WriteTransport) -> int:
    """A number that grows when the peer takes something."""
    try:
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # What the peer has acknowledged: behind TLS the size of the buffers says nothing.
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
            return int(_BYTES_ACKED.unpack(info)[0])
        return -transport.get_write_buffer_size()
    except (OSError, struct.error, AttributeError):
        # Gone (asyncio's TLS transports raise AttributeError then), or a kernel that does not count.
        return 0
