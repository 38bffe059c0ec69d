"""SPDY streams over real sockets: both ends ours, slow readers, peers that vanish."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from edgeappliance.kernel import spdystream
from edgeappliance.kernel.duplex import StreamDuplex
from edgeappliance.kernel.spdystream import Spdy, SpdyStream, serve_spdy
from edgeappliance.wire.spdy import SpdyCore


async def pipes() -> tuple[StreamDuplex, StreamDuplex]:
    left, right = socket.socketpair()
    return (
        StreamDuplex(*await asyncio.open_unix_connection(sock=left)),
        StreamDuplex(*await asyncio.open_unix_connection(sock=right)),
    )


@contextlib.asynccontextmanager
async def both() -> AsyncIterator[tuple[Spdy, Spdy]]:
    left, right = await pipes()
    async with serve_spdy(left, client=True) as client, serve_spdy(right, client=False) as server:
        yield client, server


async def accepted(server: Spdy) -> SpdyStream:
    async with asyncio.timeout(2):
        stream = await server.accept()
    assert stream is not None
    return stream


async def read_all(stream: SpdyStream) -> bytes:
    data = bytearray()
    while part := await stream.read():
        data += part
    return bytes(data)


async def test_streams_carry_both_ways() -> None:
    async with both() as (client, server):
        ours = await client.open({"streamtype": "data"})
        theirs = await accepted(server)
        assert theirs.headers == {"streamtype": "data"}
        await ours.write(b"question")
        await ours.close_write()
        assert await read_all(theirs) == b"question"
        await theirs.write(b"answer")
        await theirs.close_write()
        assert await read_all(ours) == b"answer"
        assert not client._streams
        assert not server._streams
        with pytest.raises(OSError, match="ended"):
            await theirs.write(b"more")


async def test_a_reset_is_an_error_on_the_other_side() -> None:
    async with both() as (client, server):
        ours = await client.open({})
        theirs = await accepted(server)
        await ours.write(b"last words")
        ours.reset()
        assert await theirs.read() == b"last words"
        with pytest.raises(OSError, match="reset the stream"):
            await theirs.read()
        with pytest.raises(OSError, match="was reset"):
            await ours.read()
        with pytest.raises(OSError, match="reset"):
            await theirs.write(b"x")
        await theirs.close()


async def test_closing_the_connection_ends_everything_in_order() -> None:
    async with both() as (client, server):
        ours = await client.open({})
        theirs = await accepted(server)
        await theirs.write(b"x" * 300_000)
        await server.close()
        data = b""
        with contextlib.suppress(OSError):
            while part := await ours.read():
                data += part
        assert len(data) == 300_000
        assert await server.accept() is None
        with pytest.raises(OSError, match="ended the connection"):
            await client.open({})


async def test_a_slow_reader_holds_its_writer_back() -> None:
    async with both() as (client, server):
        ours = await client.open({})
        theirs = await accepted(server)
        written = 0

        async def fill() -> None:
            nonlocal written
            for _ in range(200):
                await ours.write(b"x" * 50_000)
                written += 50_000
            await ours.close_write()

        filling = asyncio.create_task(fill())
        await asyncio.sleep(0.2)
        assert not filling.done()
        assert written < 3_000_000
        assert len(await read_all(theirs)) == 10_000_000
        await filling


async def test_a_peer_that_vanishes_during_a_stall_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spdystream, "STALL_PING", 0.05)
    left, right = await pipes()
    async with serve_spdy(right, client=False) as server:
        async with serve_spdy(left, client=True) as client:
            ours = await client.open({})
            theirs = await accepted(server)
            await ours.write(b"x" * (spdystream.HIGH + 100_000))
            await asyncio.sleep(0.1)
            assert [server.broken] == [False]
        async with asyncio.timeout(2):
            while not server.broken:
                await asyncio.sleep(0.02)
        with pytest.raises(OSError, match=r".+"):
            await read_all(theirs)


async def test_a_peer_that_breaks_the_protocol_is_left() -> None:
    left, right = await pipes()
    async with serve_spdy(right, client=False) as server:
        await left.write(b"\x80\x02 what is this?")
        assert await server.accept() is None
        assert await left.read() == b""
    await left.close()


async def test_streams_that_nobody_accepts_are_refused() -> None:
    async with both() as (client, _server):
        for _ in range(spdystream.MAX_UNACCEPTED):
            await client.open({})
        with pytest.raises(OSError, match="code 3"):
            await client.open({})


async def test_open_does_not_wait_for_ever() -> None:
    left, right = await pipes()
    async with serve_spdy(left, client=True) as client:
        with pytest.raises(TimeoutError):
            await client.open({}, timeout=0.05)
        assert not client._streams
    await right.close()


async def test_the_end_of_the_block_ends_readers() -> None:
    async with both() as (client, server):
        ours = await client.open({})
        reading = asyncio.create_task(ours.read())
        await asyncio.sleep(0)
        await server.close()
        with pytest.raises(OSError, match="ended"):
            await reading


async def test_many_writers_at_once() -> None:
    async with both() as (client, server):
        streams = [await client.open({"n": str(number)}) for number in range(20)]
        others = [await accepted(server) for _ in range(20)]

        async def talk(stream: SpdyStream) -> None:
            for _ in range(20):
                await stream.write(stream.headers["n"].encode() * 1000)
            await stream.close_write()

        async with asyncio.TaskGroup() as group:
            for stream in streams:
                group.create_task(talk(stream))
            reading = [group.create_task(read_all(other)) for other in others]
        for other, task in zip(others, reading, strict=True):
            assert task.result() == other.headers["n"].encode() * 20_000


async def test_many_writers_share_the_room_of_one_connection() -> None:
    left, right = await pipes()
    core = SpdyCore(client=True)
    ids = [core.open({}) for _ in range(60)]
    async with serve_spdy(left, client=False) as server:
        await right.write(core.take())
        streams = [await accepted(server) for _ in ids]
        writers = [asyncio.create_task(stream.write(b"x" * 100_000)) for stream in streams]
        await asyncio.sleep(0.2)
        assert server._core.pending < 1024 * 1024
        for writer in writers:
            writer.cancel()
        await asyncio.wait(writers)
        await right.close()


async def test_a_peer_that_only_asks_for_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spdystream, "OUT_LIMIT", 16 * 1024)
    left, right = await pipes()

    async def stands_still(data: bytes) -> None:
        await asyncio.get_running_loop().create_future()

    core = SpdyCore(client=True)
    async with serve_spdy(left, client=False) as server:
        monkeypatch.setattr(server._duplex, "write", stands_still)
        for _ in range(8):
            for _ in range(500):
                core.open({})
            with contextlib.suppress(OSError):
                await right.write(core.take())
        async with asyncio.timeout(20):
            await server.ended()
    await right.close()
