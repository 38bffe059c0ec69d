"""A real mosquitto on a free port of 127.0.0.1, and a plain MQTT app to talk through it."""

import asyncio
import contextlib
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from tests.support.net import free_port, wait_port


class Mosquitto:
    """One broker process with the given configuration; can be killed and started again on the same port."""

    def __init__(self, directory: Path, *, port: int | None = None, extra: str = "allow_anonymous true") -> None:
        self.port = port or free_port()
        self._config = directory / f"mosquitto-{self.port}.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\n{extra}\npersistence false\nuser root\nset_tcp_nodelay true\n"
            "max_inflight_messages 0\nmax_queued_messages 100000\nlog_dest stderr\nlog_type error\n"
        )
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Return when the broker accepts."""
        self._process = await asyncio.create_subprocess_exec(
            "mosquitto", "-c", str(self._config), stderr=asyncio.subprocess.DEVNULL
        )
        await wait_port(self.port)

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


@contextlib.asynccontextmanager
async def broker(*, extra: str = "allow_anonymous true", port: int | None = None) -> AsyncIterator[Mosquitto]:
    """A running broker; `extra` lines replace the anonymous access."""
    with tempfile.TemporaryDirectory(prefix="mq") as directory:
        server = Mosquitto(Path(directory), port=port, extra=extra)
        await server.start()
        try:
            yield server
        finally:
            await server.kill()


@pytest.fixture
async def mosquitto() -> AsyncIterator[Mosquitto]:
    """A running anonymous broker on 127.0.0.1."""
    async with broker() as server:
        yield server


class MqttApp:
    """What an app on the appliance does: subscribes, publishes with QoS 1, remembers all it gets in order.

    It runs paho's own network thread, so it shares nothing with the product's client but the library.
    """

    def __init__(self, port: int, *, username: str | None = None, password: str | None = None) -> None:
        self._port = port
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        if username is not None:
            self._client.username_pw_set(username, password)
        # Without it Nagle's algorithm holds a publish back for the delayed acknowledgement of the PUBACK before it.
        self._client.on_socket_open = lambda _c, _u, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._subscribed: dict[int, asyncio.Future[None]] = {}
        self._ready = asyncio.Event()
        self.refused = ""
        self.messages: list[tuple[str, bytes]] = []

    def tls(self, context: ssl.SSLContext) -> None:
        """Use TLS from the next start."""
        self._client.tls_set_context(context)

    async def start(self) -> "MqttApp":
        self._client.on_message = lambda _c, _u, message: self._loop.call_soon_threadsafe(
            self._take, message.topic, bytes(message.payload)
        )
        self._client.on_subscribe = lambda _c, _u, mid, *_: self._loop.call_soon_threadsafe(self._granted, mid)
        self._client.on_connect = lambda _c, _u, _f, code, *_: self._loop.call_soon_threadsafe(
            self._connected, "" if code == 0 else str(code)
        )
        await asyncio.to_thread(self._client.connect, "127.0.0.1", self._port)
        self._client.loop_start()
        async with asyncio.timeout(10):
            await self._ready.wait()
        return self

    async def stop(self) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    async def __aenter__(self) -> "MqttApp":
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def subscribe(self, topic_filter: str) -> None:
        """Return when the broker has granted it."""
        _, mid = self._client.subscribe(topic_filter, qos=1)
        assert mid is not None
        granted = self._subscribed.setdefault(mid, self._loop.create_future())
        async with asyncio.timeout(10):
            await granted

    def publish(self, topic: str, payload: bytes | str) -> None:
        self._client.publish(topic, payload, qos=1)

    async def wait(self, count: int, *, timeout: float = 10.0) -> list[tuple[str, bytes]]:
        """All messages so far, once there are at least `count`."""
        await self._until(lambda: len(self.messages) >= count, timeout)
        return self.messages

    async def wait_for(self, topic: str, *, timeout: float = 10.0) -> bytes:
        """Payload of the newest message on `topic`, waiting for the first one."""
        await self._until(lambda: any(name == topic for name, _ in self.messages), timeout)
        return next(payload for name, payload in reversed(self.messages) if name == topic)

    async def _until(self, condition: Callable[[], bool], timeout: float) -> None:
        async with asyncio.timeout(timeout):
            while not condition():
                self._arrived.clear()
                await self._arrived.wait()

    def take(self) -> list[tuple[str, bytes]]:
        """The messages so far; forgets them."""
        taken, self.messages = self.messages, []
        return taken

    def _connected(self, refused: str) -> None:
        self.refused = refused
        self._ready.set()

    def _granted(self, mid: int) -> None:
        future = self._subscribed.setdefault(mid, self._loop.create_future())
        if not future.done():
            future.set_result(None)

    def _take(self, topic: str, payload: bytes) -> None:
        self.messages.append((topic, payload))
        self._arrived.set()


def topics(messages: list[tuple[str, bytes]]) -> Iterator[str]:
    """The topics of a list of messages."""
    return (topic for topic, _ in messages)
