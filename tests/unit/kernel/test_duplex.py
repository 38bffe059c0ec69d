"""Closing a pipe whose peer reads slowly."""

import asyncio
import socket
import ssl
import struct
import time
from pathlib import Path

import pytest

from edgeappliance.kernel import duplex
from edgeappliance.kernel.duplex import StreamDuplex
from tests.support.kubeedge_authority import Authority

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


async def tls_pair(directory: Path) -> tuple[StreamDuplex, ssl.SSLSocket, asyncio.Server]:
    """The server's end of a TLS connection, and a client's socket that blocks and has little room."""
    authority = Authority()
    files = authority.server_files(directory, address="127.0.0.1")
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(files)
    pipes: asyncio.Queue[StreamDuplex] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=1024 * 1024)
        pipes.put_nowait(StreamDuplex(reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=server_side)
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client_side = ssl.create_default_context(cadata=authority.pem)

    def dial() -> ssl.SSLSocket:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(10)
        plain.connect(server.sockets[0].getsockname())
        return client_side.wrap_socket(plain, server_hostname="127.0.0.1")

    client = await asyncio.to_thread(dial)
    return await pipes.get(), client, server


async def test_a_slow_reader_behind_tls_gets_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(duplex, "CLOSE_TIMEOUT", 0.4)
    pipe, client, server = await tls_pair(tmp_path)
    await pipe.write(SENT)
    closing = asyncio.create_task(pipe.close())

    def read_slowly() -> int:
        got = 0
        while data := client.recv(8192):
            got += len(data)
            time.sleep(0.05)
        return got

    assert await asyncio.to_thread(read_slowly) == len(SENT)
    client.close()
    await closing
    server.close()
    await server.wait_closed()


async def test_a_peer_behind_tls_that_is_gone(tmp_path: Path) -> None:
    pipe, client, server = await tls_pair(tmp_path)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()

    async def write() -> None:
        while True:
            await pipe.write(b"x")
            await asyncio.sleep(0)

    with pytest.raises(OSError, match="reset|closed|lost"):
        await write()
    await asyncio.sleep(0.05)
    await pipe.close()
    server.close()
    await server.wait_closed()
