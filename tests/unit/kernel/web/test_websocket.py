"""A WebSocket of the web server, with the client of the package websockets and with bare sockets."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from edgeappliance.kernel.web.exchange import Exchange
from edgeappliance.kernel.web.server import WebServer
from edgeappliance.kernel.web.websocket import WebSocket, accept

HEAD = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


async def echo(exchange: Exchange) -> None:
    socket, _ = await accept(exchange, ["two", "one"], max_message=1000)
    while (message := await socket.receive()) is not None:
        if message == b"leave":
            await socket.close(4000, "left")
            return
        if message == b"result":
            await socket.send(b"7")
            await socket.close(linger=5)
            return
        await socket.send(message)
    await socket.close()


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    server = WebServer(echo, unix=tmp_path / "s")
    await server.start()
    yield tmp_path / "s"
    async with asyncio.timeout(5):
        while server.connections:
            await asyncio.sleep(0.01)
    await server.stop()


def connect(path: Path, **more: Any) -> Any:
    return unix_connect(str(path), "ws://x/", **more)


async def test_messages_pings_and_fragments(path: Path) -> None:
    async with connect(path, subprotocols=["one", "two"]) as client:
        assert client.subprotocol == "one"
        await client.send(b"binary")
        assert await client.recv() == b"binary"
        await client.send([b"in ", b"three ", b"parts"])
        assert await client.recv() == b"in three parts"
        await (await client.ping())
        await client.send("text")
        assert await client.recv() == b"text"
    async with connect(path) as client:
        assert client.subprotocol is None


async def test_we_say_goodbye(path: Path) -> None:
    async with connect(path) as client:
        await client.send(b"leave")
        with pytest.raises(ConnectionClosed):
            await client.recv()
    assert (client.close_code, client.close_reason) == (4000, "left")


async def test_a_message_that_is_too_long(path: Path) -> None:
    async with connect(path) as client:
        await client.send(b"x" * 1001)
        with pytest.raises(ConnectionClosed):
            await client.recv()
    assert client.close_code == 1009


async def test_fragments_that_are_too_long_together(path: Path) -> None:
    async with connect(path) as client:
        await client.send([b"x" * 600, b"x" * 600])
        with pytest.raises(ConnectionClosed):
            await client.recv()
    assert client.close_code == 1009


async def test_no_common_protocol(path: Path) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(path, subprotocols=["three"]).__aenter__()
    assert refused.value.response.status_code == 403


async def raw(path: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (HEAD.replace(b"GET", b"POST"), b"400"),
        (HEAD.replace(b"websocket", b"chat"), b"400"),
        (HEAD.replace(b"dGhl", b""), b"400"),
        (HEAD.replace(b"dGhl", b"!!!!"), b"400"),
        (HEAD.replace(b"dGhl", b"\xe9\xe9\xe9\xe9"), b"400"),
        (HEAD.replace(b" 13", b" 8"), b"426"),
        (HEAD, b"101"),
    ],
)
async def test_handshakes(path: Path, head: bytes, status: bytes) -> None:
    answer = await raw(path, head + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    if status == b"101":
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer  # RFC 6455, 1.3


@pytest.mark.parametrize(
    "frames",
    [
        b"\x82\x03abc",  # not masked
        b"\xf2\x80\0\0\0\0",  # reserved bits
        b"\x83\x80\0\0\0\0",  # no such opcode
        b"\x80\x80\0\0\0\0",  # a continuation of nothing
        b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff",  # a length of 2^64
    ],
)
async def test_frames_that_are_none_end_it(path: Path, frames: bytes) -> None:
    answer = await raw(path, HEAD + b"\r\n" + frames)
    assert answer.partition(b"\r\n\r\n")[2][:1] == b"\x88"  # a close frame


async def test_what_the_peer_still_sends_does_not_cost_it_the_last_message(path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(HEAD + b"\r\n" + masked(b"result"))
    await reader.readuntil(b"\r\n\r\n")
    for _ in range(500):
        writer.write(masked(b"x" * 1000))
        await asyncio.sleep(0)
    await writer.drain()
    assert await reader.readexactly(3) == b"\x82\x017"
    assert (await reader.readexactly(4))[:1] == b"\x88"
    writer.write(b"\x88\x80\0\0\0\0")
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


class Flood:
    """A pipe whose peer sends the same again and again, up to 6 MB, and reads nothing."""

    def __init__(self, first: bytes, frames: bytes) -> None:
        self._next = first
        self._frames = frames
        self.left = 1000

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        data, self._next = self._next, self._frames
        self.left -= 1
        return data if self.left > 0 else b""

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        return


@pytest.mark.parametrize(
    ("first", "frames"),
    [
        (b"\x02\x80\0\0\0\0", b"\0\x80\0\0\0\0" * 1000),  # a message of empty fragments
        (b"\x89\x80\0\0\0\0", b"\x89\x80\0\0\0\0" * 1000),  # pings
    ],
)
async def test_what_only_fills_the_memory_ends_it(first: bytes, frames: bytes) -> None:
    flood = Flood(first, frames)
    socket = WebSocket(flood)
    writing = asyncio.create_task(socket.send(b"output"))
    await asyncio.sleep(0)
    assert await socket.receive() is None
    assert flood.left > 900
    writing.cancel()
    await asyncio.wait([writing])


def masked(data: bytes) -> bytes:
    """A binary message of a client, with a mask of zeros."""
    length = bytes((0x80 | len(data),)) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return b"\x82" + length + b"\0\0\0\0" + data
