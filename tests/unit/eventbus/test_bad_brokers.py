"""Peers on the broker's port that are no good broker."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.unit.eventbus.parts import event_bus, external

CONNACK = b"\x20\x02\x00\x00"


async def reason_of(answer: bytes, directory: Path, wanted: str, *, close: bool = False) -> str:
    """What the bus says of a peer that answers the CONNECT with these bytes."""
    peers: list[asyncio.StreamWriter] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer)
        await reader.read(1000)
        writer.write(answer)
        if close:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with event_bus(external(port), directory) as (bus, _, watcher):
            async with asyncio.timeout(10):
                while wanted not in bus.health().reason:
                    await asyncio.sleep(0.01)
            assert watcher.seen == []
            assert not bus.connected
            return bus.health().reason
    finally:
        for writer in peers:
            writer.close()
        server.close()
        await server.wait_closed()


async def test_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edgeappliance.eventbus.client.CONNECT_TIMEOUT", 0.2)
    assert await reason_of(b"", tmp_path, "does not answer")


async def test_refused_login(tmp_path: Path):
    assert "Not authorized" in await reason_of(b"\x20\x02\x00\x05", tmp_path, "refused the connection")


async def test_closing_at_once(tmp_path: Path):
    assert await reason_of(b"", tmp_path, "the connection ended", close=True)


@pytest.mark.parametrize(
    "garbage",
    [
        CONNACK + b"\x32\x01\x00",  # a PUBLISH too short for its topic
        CONNACK + b"\x32\x06\x00\x09ab\x00\x01",  # a topic longer than its packet
        CONNACK + b"\x30\xff\xff\xff\xff\xff",  # a length of five bytes
        b"\x20\x01\x00",  # a CONNACK too short
        b"\xf0\x00",  # an unknown packet
    ],
)
async def test_garbage(tmp_path: Path, garbage: bytes):
    assert await reason_of(garbage, tmp_path, "Protocol error")


async def test_a_receiver_that_fails_costs_nobody_else(tmp_path: Path, mosquitto: Any):
    async with event_bus(external(mosquitto.port), tmp_path) as (bus, _, watcher):
        got: asyncio.Queue[bytes] = asyncio.Queue()
        bus.subscribe("bad", lambda _, payload: 1 // len(payload))
        bus.subscribe("good", lambda _, payload: got.put_nowait(payload))
        await watcher.wait(True)
        bus.publish("bad", b"")
        bus.publish("good", b"1")
        async with asyncio.timeout(5):
            assert await got.get() == b"1"
        assert watcher.seen == [True]


async def test_topics_that_nobody_may_publish_on(tmp_path: Path, mosquitto: Any):
    async with event_bus(external(mosquitto.port), tmp_path) as (bus, _, watcher):
        await watcher.wait(True)
        for topic in ("a/+", "#", ""):
            assert not bus.publish(topic, b"x")
        assert bus.connected
