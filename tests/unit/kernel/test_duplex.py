"""Closing a pipe whose peer reads slowly."""

import asyncio
import socket

import pytest

from edgeappliance.kernel import duplex
from edgeappliance.kernel.duplex import StreamDuplex

SENT = b"x" * 200_000


async def pair() -> tuple[StreamDuplex, socket.socket]:
    """A pipe with small buffers in the kernel, and the socket at its other end."""
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    far.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=near)
    writer.transport.set_write_buffer_limits(high=1024 * 1024)
    return StreamDuplex(reader, writer), far


async def test_what_was_written_reaches_a_slow_reader() -> None:
    pipe, far = await pair()
    await pipe.write(SENT)
    closing = asyncio.create_task(pipe.close())
    await asyncio.sleep(1.5)
    got = bytearray()
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(far, 65536):
        got += data
    await closing
    far.close()
    assert bytes(got) == SENT


async def test_a_reader_that_takes_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplex, "CLOSE_TIMEOUT", 0.1)
    pipe, far = await pair()
    await pipe.write(SENT)
    async with asyncio.timeout(2):
        await pipe.close()
        await pipe.close()
    far.close()
