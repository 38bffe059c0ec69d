"""Many simulated edges in one process: mutual TLS, websocket, an acknowledgement for every push, keepalives.

`fleet_edges.py PORT COUNT DIR`: prints `connected N` whenever the number of connected edges changes (at most ten
times a second). A lost link is dialled again after 1 s, doubled up to 10 s, jittered, as edgecore does.
"""

import asyncio
import asyncio.sslproto
import base64
import os
import random
import ssl
import sys
from pathlib import Path
from typing import cast

_KEEPALIVE = (
    b'{"header":{"msg_id":"k","timestamp":1},"route":{"source":"websocket","group":"resource",'
    b'"operation":"keepalive","resource":"node"},"content":"ping"}\n'
)


def frame(payload: bytes) -> bytes:
    """A masked text frame; the mask is zero, which is as good as any here."""
    size = len(payload)
    head = bytes([0x81, 0x80 | size]) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return head + b"\0\0\0\0" + payload


class Edge(asyncio.Protocol):
    def __init__(self, fleet: "Fleet", number: int) -> None:
        self._fleet = fleet
        self.number = number
        self.buffer = b""
        self.parts: list[bytes] = []
        self.open = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self.transport.write(
            f"GET /p/node-{self.number}/events HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nnode_id: node-{self.number}\r\n"
            f"ConnectionUse: msg\r\nEdge-Appliance: 1\r\nEdge-Appliance-Store: s{self.number}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.open:
            head, mark, rest = self.buffer.partition(b"\r\n\r\n")
            if not mark:
                return
            if b" 101 " not in head:
                self.transport.abort()
                return
            self.open, self.buffer = True, rest
            self._fleet.changed(1)
            self.keepalive()
        answers = []
        while (payload := self.next_frame()) is not None:
            start = payload.find(b'"msg_id":"') + 10
            parent = payload[start : payload.index(b'"', start)]
            answers.append(
                frame(
                    b'{"header":{"msg_id":"a","parent_msg_id":"%s","timestamp":1},"route":{"source":"edgecontroller",'
                    b'"group":"resource","operation":"response","resource":"default/configmap/cm"},"content":"OK"}\n'
                    % parent
                )
            )
        if answers:
            self.transport.write(b"".join(answers))

    def next_frame(self) -> bytes | None:
        """The next whole message in the buffer; fragments are put together."""
        while len(self.buffer) >= 2:
            size, at = self.buffer[1] & 0x7F, 2
            if size == 126:
                size, at = int.from_bytes(self.buffer[2:4], "big"), 4
            elif size == 127:
                size, at = int.from_bytes(self.buffer[2:10], "big"), 10
            if len(self.buffer) < at + size:
                return None
            last, payload = self.buffer[0] & 0x80, self.buffer[at : at + size]
            self.buffer = self.buffer[at + size :]
            self.parts.append(payload)
            if last:
                whole, self.parts = b"".join(self.parts), []
                return whole
        return None

    def keepalive(self) -> None:
        if self.open:
            self.transport.write(frame(_KEEPALIVE))
            asyncio.get_running_loop().call_later(15, self.keepalive)

    def connection_lost(self, error: Exception | None) -> None:
        if self.open:
            self.open = False
            self._fleet.changed(-1)
        self._fleet.dial_later(self.number)


class Fleet:
    def __init__(self, port: int, count: int, directory: Path) -> None:
        self._port = port
        self._count = count
        self._directory = directory
        self._contexts: list[ssl.SSLContext] = []
        self._delays = [1.0] * count
        self._connected = 0
        self._told = asyncio.Event()
        self._dials: set[asyncio.Task[None]] = set()
        # A real edge shakes one hand at a time; this process must not queue thousands behind each other's time-outs.
        self._slots = asyncio.Semaphore(64)

    async def run(self) -> None:
        for number in range(self._count):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(self._directory / "ca.pem")
            context.load_cert_chain(self._directory / f"node-{number}.pem")
            self._contexts.append(context)
        for number in range(self._count):
            self._spawn(number, random.random() * 2)
        while True:
            await self._told.wait()
            self._told.clear()
            print("connected", self._connected, flush=True)
            await asyncio.sleep(0.1)

    def changed(self, step: int) -> None:
        self._connected += step
        self._told.set()

    def dial_later(self, number: int) -> None:
        delay = self._delays[number] * (0.6 + 0.4 * random.random())
        self._delays[number] = min(10.0, self._delays[number] * 2)
        self._spawn(number, delay)

    def _spawn(self, number: int, delay: float) -> None:
        task = asyncio.get_running_loop().create_task(self._dial(number, delay))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _dial(self, number: int, delay: float) -> None:
        await asyncio.sleep(delay)
        try:
            async with self._slots:
                await asyncio.get_running_loop().create_connection(
                    lambda: Edge(self, number),
                    "127.0.0.1",
                    self._port,
                    ssl=self._contexts[number],
                    server_hostname="127.0.0.1",
                )
        except OSError:
            self.dial_later(number)
        else:
            self._delays[number] = 1.0


if __name__ == "__main__":
    asyncio.sslproto.SSLProtocol.max_size = 16 * 1024
    asyncio.run(Fleet(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])).run())
