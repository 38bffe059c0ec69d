"""port-forward into real pods: what listens on their loopback, half-closed connections, refused ones."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import pytest

from edgeappliance.edged.kubelet import netns, portforward
from edgeappliance.kernel.spdystream import Spdy, SpdyStream
from tests.unit.edged.kubelet.conftest import Stand
from tests.unit.edged.kubelet.spdy_client import read_all, read_until, upgraded

ECHO = ["nc", "-ll", "-p", "7000", "-e", "cat"]
"""Every connection has its own cat."""


@contextlib.asynccontextmanager
async def forwarding(stand: Stand, pod: str = "web") -> AsyncIterator[Spdy]:
    async with upgraded(stand.socket, f"/portForward/default/{pod}", "portforward.k8s.io") as spdy:
        yield spdy


async def pair(spdy: Spdy, port: int, request: str = "0") -> tuple[SpdyStream, SpdyStream]:
    headers = {"port": str(port)} | ({"requestID": request} if request else {})
    error = await spdy.open({"streamType": "error", **headers})
    return await spdy.open({"streamType": "data", **headers}), error


async def listening(stand: Stand, pod: str, port: int) -> None:
    """Wait until somebody listens on a port of the pod."""
    async with asyncio.timeout(10):
        while (
            f":{port:04X}" not in (await stand.get(f"/run/default/{pod}/c?cmd=cat%20/proc/net/tcp%20/proc/net/tcp6"))[1]
        ):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("request_id", ["5", ""])
async def test_both_directions_and_their_ends(stand: Stand, request_id: str) -> None:
    await stand.pod("web", network="bridge", c=ECHO)
    await listening(stand, "web", 7000)
    async with forwarding(stand) as spdy:
        data, error = await pair(spdy, 7000, request_id)
        await data.write(b"hello")
        assert await read_until(data, b"hello") == b"hello"
        await data.write(b"x" * 100_000)
        await data.close_write()
        assert len(await read_all(data)) == 100_000
        assert await read_all(error) == b""


async def test_a_listener_on_the_pods_loopback(stand: Stand) -> None:
    await stand.pod("web", network="bridge", c=["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/etc"])
    await listening(stand, "web", 8080)
    async with forwarding(stand) as spdy:
        data, _ = await pair(spdy, 8080)
        await data.write(b"GET /hostname HTTP/1.0\r\n\r\n")
        assert (await read_all(data)).startswith(b"HTTP/1.1 200 OK")


async def test_many_connections_at_once(stand: Stand) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(10_000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def one(spdy: Spdy, number: int) -> None:
        data, error = await pair(spdy, port, str(number))
        text = f"{number}-".encode() * 5000
        await data.write(text)
        await data.close_write()
        assert (await read_all(data), await read_all(error)) == (text, b"")

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await stand.pod("host", network="host", c=["sleep", "1000"])
    async with forwarding(stand, "host") as spdy:
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(one(spdy, number))
        async with asyncio.timeout(5):
            while spdy._core.streams:
                await asyncio.sleep(0.01)
    server.close()
    await server.wait_closed()


async def test_a_port_where_nobody_listens(stand: Stand) -> None:
    await stand.pod("web", network="bridge", c=["sleep", "1000"])
    async with forwarding(stand) as spdy:
        data, error = await pair(spdy, 7001)
        text = await read_until(error, b"refused")
        assert text.startswith(b"error forwarding port 7001 to pod web_default: failed to connect to localhost:7001")
        assert await read_all(error) == b""
        with contextlib.suppress(OSError):
            assert await data.read() == b""


async def test_a_pod_of_the_hosts_network(stand: Stand) -> None:
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await stand.pod("host", network="host", c=["sleep", "1000"])
    async with forwarding(stand, "host") as spdy:
        data, _ = await pair(spdy, port)
        assert await read_all(data) == b""
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    "headers",
    [
        {"streamType": "data"},
        {"streamType": "data", "port": "0"},
        {"streamType": "data", "port": "70000"},
        {"streamType": "data", "port": "-1"},
        {"streamType": "stdin", "port": "80"},
        {"port": "80"},
    ],
)
async def test_streams_that_say_too_little_are_reset(stand: Stand, headers: dict[str, str]) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    async with forwarding(stand) as spdy:
        stream = await spdy.open(headers)
        with pytest.raises(OSError, match="reset"):
            await stream.read()


async def test_a_stream_without_its_other_half(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portforward, "PAIR_TIMEOUT", 0.1)
    await stand.pod("web", c=["sleep", "1000"])
    async with forwarding(stand) as spdy, asyncio.timeout(5):
        stream = await spdy.open({"streamType": "data", "port": "80", "requestID": "1"})
        second = await spdy.open({"streamType": "data", "port": "80", "requestID": "1"})
        for one in (second, stream):
            with pytest.raises(OSError, match="reset"):
                await one.read()


async def test_a_client_that_leaves_closes_its_connections(stand: Stand) -> None:
    await stand.pod("web", network="bridge", c=ECHO)
    await listening(stand, "web", 7000)
    async with forwarding(stand) as spdy:
        data, _ = await pair(spdy, 7000)
        await data.write(b"hello")
        await read_until(data, b"hello")
        assert await cats(stand) == 1
    async with asyncio.timeout(5):
        while await cats(stand):
            await asyncio.sleep(0.05)


async def cats(stand: Stand) -> int:
    processes = (await stand.get("/run/default/web/c?cmd=ps"))[1].splitlines()
    return sum(line.endswith(" cat") and "nc" not in line for line in processes)


async def test_the_pods_address_where_its_namespace_is_closed(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for pid in (0, 1):
        reader, writer = await netns.connect(port, netns.Inside(pid, "", "127.0.0.1"))
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        monkeypatch.setattr(netns, "_enter", closed)  # 0: not known; 1: as without CAP_SYS_ADMIN
    with pytest.raises(PermissionError):
        await netns.connect(port, netns.Inside(1, "", ""))
    server.close()
    await server.wait_closed()


def closed(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


async def test_a_number_that_belongs_to_another_process() -> None:
    with pytest.raises(FileNotFoundError):
        await netns.connect(80, netns.Inside(2**22 + 1, "a" * 64, "127.0.0.1"))
    with pytest.raises(ProcessLookupError, match="has ended"):
        await netns.connect(80, netns.Inside(os.getpid(), "a" * 64, "127.0.0.1"))


async def test_a_sandbox_that_ends_meanwhile(stand: Stand) -> None:
    await stand.pod("web", network="bridge", c=ECHO)
    async with forwarding(stand) as spdy:
        for container in stand.observed("uid-web"):
            await stand.engine.stop(container.id, grace=0)
        _, error = await pair(spdy, 7000)
        assert b"error forwarding port 7000" in await read_all(error)
