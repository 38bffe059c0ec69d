"""An engine that dies, hangs, lies or was never there; and what we leave behind."""

import asyncio
import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from edgeappliance.edged.engine.api import EngineAway, EngineRefused, LogQuery, PullFailed
from edgeappliance.edged.engine.calls import Calls
from edgeappliance.edged.engine.connection import may_protect
from edgeappliance.edged.engine.docker_engine import DockerEngine
from edgeappliance.edged.engine.events import OVERLAP
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.component import State
from edgeappliance.kernel.errors import ApplianceError
from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd, engine_of_its_own
from tests.unit.edged.engine.conftest import NODE, Running, body, until

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
async def lively() -> AsyncIterator[Dockerd]:
    """An engine of its own whose containers go on while dockerd is down."""
    async with engine_of_its_own(live_restore=True) as engine:
        await engine.image(BUSYBOX)
        yield engine


async def test_without_an_engine_everything_says_so_and_its_arrival_is_noticed(tmp_path: Path) -> None:
    dockerd = Dockerd(network=False)
    async with Running(dockerd.socket) as running:
        await until(lambda: "no Docker Engine" in running.engine.trouble)
        assert running.service.health().state is State.DEGRADED
        assert "systemctl status docker" in running.service.health().next_step
        for call in (
            running.engine.containers(),
            running.engine.create(body("true"), name="x1"),
            running.engine.stop("x", grace=1),
            running.engine.pull("busybox", []),
            running.engine.logs("x", LogQuery()),
            running.engine.root(),
        ):
            with pytest.raises(EngineAway):
                await call
        try:
            await dockerd.start()
            await running.connected()
            assert running.service.health().state is State.RUNNING
            assert await running.engine.containers() == []
        finally:
            await dockerd.close()


async def test_killed_and_started_again_everything_goes_on(lively: Dockerd) -> None:
    async with Running(lively.socket) as running:
        engine = await running.connected()
        id = await engine.create(body("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"), name="stays")
        await engine.start(id)
        before = await engine.inspect(id)
        assert before is not None
        follower = await engine.logs(id, LogQuery(follow=True))
        session = await engine.attach(id, stdin=False, stdout=True, stderr=True, tty=False)

        await lively.kill()
        await until(lambda: running.changes == [True, False])
        async with asyncio.timeout(5):
            assert [piece async for piece in follower] == []
            assert await session.read() is None
        await follower.aclose()
        await session.close()
        with pytest.raises(EngineAway):
            await engine.containers()
        assert engine.trouble

        await lively.start()
        await running.connected()
        assert running.changes == [True, False, True]
        after = await engine.inspect(id)
        assert after is not None
        assert (after.pid, after.running) == (before.pid, True)  # it was not disturbed
        running.events.clear()
        await engine.stop(id, grace=10)
        await until(lambda: any(event.action == "die" for event in running.events))


async def test_a_stop_that_waits_learns_that_the_engine_died(lively: Dockerd) -> None:
    async with Running(lively.socket) as running:
        engine = await running.connected()
        id = await engine.create(body("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"), name="stubborn")
        await engine.start(id)
        await asyncio.sleep(0.3)
        stop = asyncio.ensure_future(engine.stop(id, grace=60))
        await asyncio.sleep(0.3)
        await lively.kill()
        with pytest.raises(EngineAway):
            await asyncio.wait_for(stop, timeout=5)
        await lively.start()
        await running.connected()
        await engine.stop(id, grace=0)


async def test_a_stop_whose_event_was_missed_looks_again_when_events_come_back(lively: Dockerd) -> None:
    async with Running(lively.socket) as running:
        engine = await running.connected()
        id = await engine.create(body("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"), name="obedient")
        await engine.start(id)
        await asyncio.sleep(0.3)
        waiting = DockerEngine(socket=lively.socket, node=NODE, clock=SystemClock())
        waiting.open()
        waiting._calls.speak("1.41")  # calls work, events do not yet
        stop = asyncio.ensure_future(waiting.stop(id, grace=40))
        await asyncio.sleep(OVERLAP + 0.5)
        assert not stop.done()
        following = asyncio.ensure_future(waiting.follow())
        await asyncio.wait_for(stop, timeout=3)
        following.cancel()
        await asyncio.wait([following])
        await waiting.close()


async def test_a_hanging_engine_is_given_up_and_found_again(lively: Dockerd) -> None:
    async with Running(lively.socket) as running:
        running.engine._calls._timeout = 1
        engine = await running.connected()
        os.kill(lively.pid, signal.SIGSTOP)
        try:
            before = time.monotonic()
            with pytest.raises(EngineAway, match="does not answer within 1 s"):
                await engine.containers()
            assert time.monotonic() - before < 3
            await until(lambda: not engine.connected)
            assert threading.active_count() < 20
        finally:
            os.kill(lively.pid, signal.SIGCONT)
        await running.connected()
        assert await engine.containers() == []


@pytest.mark.slow
async def test_kills_at_random_moments_leave_nothing_wrong(lively: Dockerd) -> None:
    """Create, start, stop, remove while dockerd dies again and again: in the end nothing of ours is left over, every
    name can be used, and no thread, task or descriptor has gone astray."""
    seed = int(os.environ.get("FAULT_SEED") or random.randrange(1 << 30))
    print(f"FAULT_SEED={seed}")
    chance = random.Random(seed)
    async with Running(lively.socket) as running:
        engine = await running.connected()
        threads, files = threading.active_count(), descriptors()
        over = asyncio.Event()

        async def live(number: int) -> None:
            while not over.is_set():
                try:
                    id = await engine.create(body("sleep", "1000", uid=f"uid-{number}"), name=f"churn{number}")
                    await engine.start(id)
                    await engine.run(id, ["true"], timeout=5)
                    await engine.stop(id, grace=0)
                    await engine.remove(id)
                except (ApplianceError, TimeoutError):
                    await asyncio.sleep(0.05)
                    with contextlib.suppress(ApplianceError):
                        for container in await engine.containers():
                            if container.pod_uid == f"uid-{number}":
                                await engine.stop(container.id, grace=0)
                                await engine.remove(container.id)

        churn = [asyncio.ensure_future(live(number)) for number in range(4)]
        for _ in range(4):
            await asyncio.sleep(chance.uniform(0.2, 1.5))
            await lively.kill()
            await asyncio.sleep(chance.uniform(0.0, 0.5))
            await lively.start()
        await running.connected()
        over.set()
        async with asyncio.timeout(30):
            await asyncio.gather(*churn)
        for container in await engine.containers():
            await engine.remove(container.id)
        for number in range(4):
            await engine.create(body("true"), name=f"churn{number}")
        assert len(await lively.call("containers", all=True)) == 4
        assert threading.active_count() <= threads + 2  # the test's own to_thread
        await asyncio.sleep(0.1)
        assert descriptors() <= files + 8
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("docker-")]


@pytest.mark.slow
async def test_hammering_leaks_nothing(dockerd: Dockerd) -> None:
    async with Running(dockerd.socket) as running:
        engine = await running.connected()
        id = await engine.create(body("sh", "-c", "echo hello; sleep 1000"), name="anvil")
        await engine.start(id)

        async def strike() -> None:
            await engine.inspect(id)
            assert (await engine.run(id, ["echo", "x"], timeout=30))[1] == b"x\n"
            stream = await engine.logs(id, LogQuery(follow=True))
            async for _ in stream:
                break
            await stream.aclose()
            session = await engine.attach(id, stdin=True, stdout=True, stderr=True, tty=False)
            await session.close()
            with pytest.raises(PullFailed):
                await engine.pull("127.0.0.1:5999/no:1", [])
            with pytest.raises(EngineRefused):
                await engine.create({**body("true"), "Image": "no:1"}, name="never")

        await asyncio.gather(*(strike() for _ in range(4)))
        await asyncio.sleep(0.2)
        threads, files, tasks = threading.active_count(), descriptors(), len(asyncio.all_tasks())
        for _ in range(6):
            await asyncio.gather(*(strike() for _ in range(8)))
        await asyncio.sleep(0.2)
        assert threading.active_count() <= threads
        assert descriptors() <= files + 2
        assert len(asyncio.all_tasks()) == tasks


# -- engines that lie ------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def scripted(path: Path, answer: Answer) -> AsyncIterator[None]:
    """Something that listens where an engine should."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await answer(reader, writer)
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("said", "trouble"),
    [
        (b"", "hung up"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, "no end of head"),
        (b"HTTP/1.1 200 OK\r\n\r\n{", "not JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "cut short"),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", "does not say its version"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "does not say which API"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"Version": "19.03", "ApiVersion": "1.40"}', "too old"),
        (b'HTTP/1.1 503 No\r\n\r\n{"message": "starting up"}', "starting up"),
    ],
)
async def test_what_is_no_engine_is_named(tmp_path: Path, said: bytes, trouble: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()

    async with scripted(tmp_path / "s", answer), Running(tmp_path / "s") as running:
        await until(lambda: trouble in running.engine.trouble)
        assert running.changes == []
        assert running.service.health().state is State.DEGRADED


@pytest.mark.parametrize(
    ("newest", "oldest", "spoken"),
    [("1.41", "1.12", "1.41"), ("1.52", "1.44", "1.47"), ("1.60", "1.55", "1.55"), ("1.43", None, "1.43")],
)
async def test_the_api_version_is_one_that_both_know(
    tmp_path: Path, newest: str, oldest: str | None, spoken: str
) -> None:
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        asked.append(target)
        least = f', "MinAPIVersion": "{oldest}"' if oldest else ""
        if target == "/version":
            writer.write(f'HTTP/1.1 200 OK\r\n\r\n{{"Version": "x", "ApiVersion": "{newest}"{least}}}'.encode())
        elif target.endswith("/info"):
            writer.write(b'HTTP/1.1 200 OK\r\n\r\n{"DockerRootDir": "/d"}')
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await reader.read()

    async with scripted(tmp_path / "s", answer), Running(tmp_path / "s") as running:
        await running.connected()
        assert asked[1] == f"/v{spoken}/info"
        assert asked[2].startswith(f"/v{spoken}/events?")
    await asyncio.sleep(0.05)


async def test_half_an_event_ends_the_connection_and_a_new_one_is_made(tmp_path: Path) -> None:
    streams = iter([b'{"Type": "container", "Act', b'{"Type": "container"\n', b"x" * 2_000_000, b""])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        if target == "/version":
            writer.write(b'HTTP/1.1 200 OK\r\n\r\n{"Version": "x", "ApiVersion": "1.41"}')
        elif target.endswith("/info"):
            writer.write(b'HTTP/1.1 200 OK\r\n\r\n{"DockerRootDir": "/d"}')
        else:
            part = next(streams)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + part)
            await writer.drain()
            if not part:
                await reader.read()

    async with scripted(tmp_path / "s", answer), Running(tmp_path / "s") as running:
        await until(lambda: running.changes == [True, False, True, False, True, False, True], timeout=20)
        assert running.events == []
    await asyncio.sleep(0.05)


async def test_half_an_answer_to_a_call(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n[{")
        await writer.drain()

    async with scripted(tmp_path / "s", answer):
        calls = Calls(tmp_path / "s", hung=lambda: None, threads=1)
        calls.speak("1.41")
        calls.start()
        with pytest.raises(EngineAway):
            await calls.run(lambda client: client.containers())
        await calls.stop()
        with pytest.raises(EngineAway):
            await calls.run(lambda client: client.containers())
    await asyncio.sleep(0.05)


async def test_a_container_that_cannot_be_described_does_not_hide_the_others(tmp_path: Path) -> None:
    good = {"Id": "good", "Config": {"Labels": body("true")["Labels"]}, "State": {"Status": "running", "Pid": 7}}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        status, document = "200 OK", b"{}"
        if "/containers/json" in target:
            document = b'[{"Id": "bad"}, {"Id": "good"}]'
        elif "/containers/bad/" in target:
            status, document = "500 No", b'{"message": "open config.v2.json: input/output error"}'
        elif "/containers/good/" in target:
            document = json.dumps(good).encode()
        writer.write(f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(document)}\r\n\r\n".encode())
        writer.write(document)
        await writer.drain()

    async with scripted(tmp_path / "s", answer):
        engine = DockerEngine(socket=tmp_path / "s", node=NODE, clock=SystemClock())
        engine.open()
        engine._calls.speak("1.41")
        assert [container.id for container in await engine.containers()] == ["good"]
        with pytest.raises(EngineRefused, match="input/output"):
            await engine.inspect("bad")
        await engine.close()
    await asyncio.sleep(0.05)


def test_who_may_shield_from_the_oom_killer() -> None:
    own = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    assert may_protect(os.getpid()) == bool(int(own.split()[1], 16) >> 24 & 1)
    assert may_protect(0)


async def test_an_engine_that_is_not_there_is_called_so(tmp_path: Path) -> None:
    calls = Calls(tmp_path / "s", hung=lambda: None, threads=1)
    calls.speak("1.41")
    calls.start()
    with pytest.raises(EngineAway, match=f"^no Docker Engine answers at {tmp_path}/s: No such file or directory$"):
        await calls.run(lambda client: client.containers())
    await calls.stop()
