"""KubeEdge's two ends of the stream tunnel, scripted from the specification (reference 9.4): neither knows anything of
Edge Appliance's own frames."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

LOGS, EXEC, METRIC, DATA, REMOVE, CLOSE, ATTACH = range(7)


def uvarint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return out + bytes((value,))


def read_uvarint(data: bytes) -> tuple[int, bytes]:
    value = shift = index = 0
    while True:
        byte = data[index]
        value |= (byte & 0x7F) << shift
        index, shift = index + 1, shift + 7
        if byte < 0x80:
            return value, data[index:]


def frame(connection: int, kind: int, data: bytes = b"") -> bytes:
    return uvarint(connection) + uvarint(kind) + data


def parse(message: bytes) -> tuple[int, int, bytes]:
    connection, rest = read_uvarint(message)
    kind, data = read_uvarint(rest)
    return connection, kind, data


def connect_data(message_id: int, path: str, query: str, *, method: str = "") -> bytes:
    """The JSON of a connect frame as Go writes it."""
    url: dict[str, Any] = {
        "Scheme": "http", "Opaque": "", "User": None, "Host": "127.0.0.1:10350", "Path": path, "RawPath": "",
        "OmitHost": False, "ForceQuery": False, "RawQuery": query, "Fragment": "", "RawFragment": "",
    }  # fmt: skip
    body: dict[str, Any] = {
        "MessID": message_id,
        "url": url,
        "header": {"X-Stream-Protocol-Version": ["v4.channel.k8s.io"]},
    }
    if method:
        body["method"] = method
    return json.dumps(body).encode()


@dataclass
class CloudTunnel:
    """An edge's tunnel at cloudcore. `came`: frames in order."""

    socket: ServerConnection
    came: list[tuple[int, int, bytes]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, connection: int, kind: int, data: bytes = b"") -> None:
        await self.socket.send(frame(connection, kind, data), text=True)

    def data(self, connection: int) -> bytes:
        return b"".join(data for number, kind, data in self.came if (number, kind) == (connection, DATA))

    def kinds(self, connection: int) -> set[int]:
        return {kind for number, kind, _ in self.came if number == connection}

    async def until(self, connection: int, kind: int) -> None:
        async with asyncio.timeout(10):
            while kind not in self.kinds(connection):
                self.changed.clear()
                await self.changed.wait()


@dataclass
class TunnelServer:
    """cloudcore's port 10004. `tunnels`: those of each node, newest last."""

    port: int = 0
    tunnels: dict[str, list[CloudTunnel]] = field(default_factory=dict)
    headers: list[dict[str, str]] = field(default_factory=list)


@asynccontextmanager
async def tunnel_server(context: ssl.SSLContext, port: int = 0) -> AsyncIterator[TunnelServer]:
    """Listens with mutual TLS; port 0 is any free one."""
    site = TunnelServer()

    async def accept(socket: ServerConnection) -> None:
        assert socket.request is not None
        assert socket.request.path == "/v1/kubeedge/connect"
        site.headers.append(dict(socket.request.headers.raw_items()))
        tunnel = CloudTunnel(socket)
        site.tunnels.setdefault(socket.request.headers["SessionHostNameOverride"], []).append(tunnel)
        try:
            while True:
                message = await socket.recv(decode=False)
                assert isinstance(message, bytes)
                tunnel.came.append(parse(message))
                tunnel.changed.set()
        except ConnectionClosed:
            return

    async with serve(accept, "127.0.0.1", port, ssl=context, ping_interval=None, close_timeout=1) as server:
        site.port = server.sockets[0].getsockname()[1]
        yield site


@dataclass
class EdgeTunnel:
    """edgecore's end. Logs are answered with `lines`, exec echoes behind a 101 head. `removed`: connections that the
    cloud ended."""

    socket: ClientConnection
    lines: list[bytes]
    connects: dict[int, dict[str, Any]] = field(default_factory=dict)
    removed: list[int] = field(default_factory=list)

    async def run(self) -> None:
        talks: set[asyncio.Task[None]] = set()
        try:
            while True:
                message = await self.socket.recv(decode=False)
                assert isinstance(message, bytes)
                connection, kind, data = parse(message)
                assert kind <= ATTACH, "a frame that KubeEdge does not know"
                if kind in (LOGS, METRIC):
                    self.connects[connection] = json.loads(data)
                    talks.add(asyncio.create_task(self._log(connection)))
                elif kind in (EXEC, ATTACH):
                    self.connects[connection] = json.loads(data)
                    head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
                    await self.send(connection, DATA, head + b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n")
                elif kind == DATA:
                    for start in range(0, len(data), 256):
                        await self.send(connection, DATA, data[start : start + 256])
                elif kind == REMOVE:
                    self.removed.append(connection)
                    await self.send(connection, REMOVE)
        except ConnectionClosed:
            return
        finally:
            for talk in talks:
                talk.cancel()
            if talks:
                await asyncio.wait(talks)

    async def _log(self, connection: int) -> None:
        try:
            for line in self.lines:
                for start in range(0, len(line), 256):
                    await self.send(connection, DATA, line[start : start + 256])
            await self.send(connection, REMOVE)
        except ConnectionClosed:
            return

    async def send(self, connection: int, kind: int, data: bytes = b"") -> None:
        await self.socket.send(frame(connection, kind, data), text=True)


@asynccontextmanager
async def edge_tunnel(port: int, node: str, context: ssl.SSLContext, lines: list[bytes]) -> AsyncIterator[EdgeTunnel]:
    """An edgecore that dials the tunnel port."""
    headers = {"SessionHostNameOverride": node, "SessionInternalIP": "192.0.2.9"}
    url = f"wss://127.0.0.1:{port}/v1/kubeedge/connect"
    async with connect(
        url, ssl=context, additional_headers=headers, compression=None, ping_interval=5, close_timeout=1
    ) as socket:
        assert socket.response is not None
        tunnel = EdgeTunnel(socket, lines)
        running = asyncio.create_task(tunnel.run())
        try:
            yield tunnel
        finally:
            running.cancel()
            await asyncio.wait([running])
