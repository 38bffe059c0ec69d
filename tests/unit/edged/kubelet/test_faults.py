"""Clients that stop, vanish or talk nonsense, an engine that dies, an API that is stopped: nobody else notices."""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Callable

import pytest
from websockets.asyncio.client import unix_connect

from edgeappliance.edged.kubelet import peers
from edgeappliance.kernel import duplex, spdystream
from edgeappliance.kernel.web import client
from edgeappliance.wire.remotecommand import Result
from tests.support.dockerd import Dockerd
from tests.unit.edged.kubelet.conftest import Stand
from tests.unit.edged.kubelet.spdy_client import exec_target, read_until, session, upgraded

SEED = int(os.environ.get("FAULT_SEED", "0")) or random.randrange(2**32)


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def quiet(stand: Stand) -> bool:
    """Whether nobody is connected."""
    return not stand.api.health().details["connections"]


async def test_a_command_that_never_reads_and_a_client_that_vanishes(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spdystream, "STALL_PING", 0.1)
    await stand.pod("web", c=["sleep", "1000"])
    target = exec_target("sleep", "4322", options="input=1&output=1")
    async with session(stand.socket, target, stdin=True, stderr=False) as streams:
        assert streams.stdin is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    await streams.stdin.write(b"x" * 100_000)
        streams.spdy._duplex._writer.transport.abort()  # type: ignore[attr-defined]
    await until(lambda: quiet(stand))
    async with asyncio.timeout(10):
        while "4322" in (await stand.get("/run/default/web/c?cmd=ps"))[1]:
            await asyncio.sleep(0.1)


async def test_the_same_over_a_websocket(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "STALL_PING", 0.1)
    await stand.pod("web", c=["sleep", "1000"])
    target = exec_target("sleep", "4323", options="input=1&output=1")
    connecting = unix_connect(str(stand.socket), f"ws://localhost{target}", compression=None)
    async with connecting as connection:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    await connection.send(b"\0" + b"x" * 100_000)
        connection.transport.abort()
    await until(lambda: quiet(stand))
    async with asyncio.timeout(10):
        while "4323" in (await stand.get("/run/default/web/c?cmd=ps"))[1]:
            await asyncio.sleep(0.1)


async def test_a_slow_reader_gets_the_end_of_a_long_output(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "LINGER", 0.5)
    monkeypatch.setattr(duplex, "CLOSE_TIMEOUT", 0.5)
    monkeypatch.setattr(spdystream, "CLOSE_TIMEOUT", 0.5)
    await stand.pod("web", c=["sleep", "1000"])
    target = exec_target("dd", "if=/dev/zero", "bs=1M", "count=3", "status=none", options="output=1")
    async with session(stand.socket, target, stderr=False) as streams:
        assert streams.stdout is not None
        await asyncio.sleep(1)
        size = 0
        while part := await streams.stdout.read():
            size += len(part)
            await asyncio.sleep(0.2)
        assert size == 3 * 1024 * 1024
        assert (await streams.finish())[0] == Result(0)


async def test_a_log_reader_that_stops_delays_nobody(stand: Stand) -> None:
    await stand.pod("web", c=["yes"])
    async with client.request(stand.socket, "GET", "/containerLogs/default/web/c?follow=1"):
        await asyncio.sleep(0.3)
        started = time.perf_counter()
        assert (await stand.get("/healthz"))[0] == 200
        assert time.perf_counter() - started < 1
    await until(lambda: quiet(stand))


async def test_stopping_ends_every_stream_in_time(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"], talker=["yes"])
    async with (
        session(stand.socket, exec_target("sleep", "500")) as running,
        session(stand.socket, exec_target("yes")),
        upgraded(stand.socket, "/portForward/default/web", "portforward.k8s.io") as forwarding,
        client.request(stand.socket, "GET", "/containerLogs/default/talker/c?follow=1"),
    ):
        started = time.perf_counter()
        await stand.api.stop()
        assert time.perf_counter() - started < 6
        async with asyncio.timeout(5):
            await running.spdy.ended()
            await forwarding.ended()
    assert not stand.socket.exists()
    await stand.api.start()
    assert (await stand.get("/healthz"))[0] == 200


async def test_an_engine_that_dies_under_an_exec(dockerd: Dockerd, stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    async with session(stand.socket, exec_target("sh", "-c", "echo on; sleep 1000")) as streams:
        assert streams.stdout is not None
        await read_until(streams.stdout, b"on\n")
        await dockerd.kill()
        result, _, _ = await streams.finish()
    assert result.error.startswith("error executing command in container: ")
    await until(lambda: quiet(stand))
    await dockerd.start()


async def test_nonsense_after_the_upgrade(stand: Stand) -> None:
    print(f"FAULT_SEED={SEED}")
    dice = random.Random(SEED)
    await stand.pod("web", c=["sleep", "1000"])
    for _ in range(60):
        target = dice.choice([exec_target("ls"), "/attach/default/web/c?output=1", "/portForward/default/web"])
        protocol = "portforward.k8s.io" if "portForward" in target else "v4.channel.k8s.io"
        headers = {"Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": protocol}
        answer = await client.upgrade(stand.socket, "POST", target, headers=headers)
        assert answer.duplex is not None
        start = dice.choice([b"", b"\x80\x03\x00\x01", b"\x80\x03\x00\x06\x00\x00\x00\x04", b"\x00\x00\x00\x01"])
        with contextlib.suppress(OSError):
            await answer.duplex.write(start + dice.randbytes(dice.randrange(1, 400)))
        await answer.duplex.close()
    await until(lambda: quiet(stand))
    assert (await stand.get("/healthz"))[0] == 200


async def test_nonsense_instead_of_requests(stand: Stand) -> None:
    print(f"FAULT_SEED={SEED}")
    dice = random.Random(SEED)
    good = (
        b"GET /exec/default/web/c?command=ls&output=1 HTTP/1.1\r\nHost: localhost\r\n"
        b"Connection: upgrade\r\nUpgrade: spdy/3.1\r\n\r\n"
    )
    for _ in range(200):
        data = bytearray(good if dice.random() < 0.7 else dice.randbytes(dice.randrange(1, 300)))
        for _ in range(dice.randrange(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        reader, writer = await asyncio.open_unix_connection(str(stand.socket))
        writer.write(bytes(data))
        writer.write_eof()
        answer = await reader.read()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
        writer.close()
        await writer.wait_closed()
    await until(lambda: quiet(stand))
    assert (await stand.get("/healthz"))[0] == 200


async def test_nothing_leaks(stand: Stand) -> None:
    """Sessions that end in every way there is; afterwards there are as many tasks and descriptors as before."""
    print(f"FAULT_SEED={SEED}")
    dice = random.Random(SEED)
    await stand.pod("web", c=["sleep", "1000"])

    async def one() -> None:
        target = exec_target("sh", "-c", "echo a; cat", options="input=1&output=1&error=1")
        async with session(stand.socket, target, stdin=True) as streams:
            assert streams.stdin is not None
            end = dice.randrange(4)
            if end == 0:
                await streams.stdin.close_write()
                assert (await streams.finish())[1] == b"a\n"
            elif end == 1:
                streams.error.reset()
            elif end == 2:
                streams.stdin.reset()
                await streams.finish()
            # 3: it just leaves

    async def some(count: int) -> None:
        for _ in range(count):
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(one())
        await until(lambda: quiet(stand))

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    await some(2)
    tasks, files = len(asyncio.all_tasks()), descriptors()
    await some(8)
    await until(lambda: len(asyncio.all_tasks()) <= tasks and descriptors() <= files + 2)
    assert (await stand.get("/run/default/web/c?cmd=ps"))[1].count("cat") == 0
