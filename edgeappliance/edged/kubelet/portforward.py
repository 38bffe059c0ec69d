"""/portForward over SPDY: each forwarded connection is a pair of streams, one for data and one for errors."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from edgeappliance.edged.kubelet.upgrade import upgrade_to_spdy
from edgeappliance.kernel.duplex import StreamDuplex
from edgeappliance.kernel.spdystream import Spdy, SpdyStream, serve_spdy
from edgeappliance.kernel.web.exchange import Exchange
from edgeappliance.wire.remotecommand import PORT, PORT_FORWARD, REQUEST_ID, STREAM_TYPE

PAIR_TIMEOUT = 30.0
"""Seconds in which the second stream of a pair must follow the first."""

MAX_CONNECTIONS = 512

Connect = Callable[[int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@dataclass(slots=True)
class _Pair:
    """The two streams of a forwarded connection, as they arrive."""

    data: SpdyStream | None = None
    error: SpdyStream | None = None
    timer: asyncio.TimerHandle | None = None


async def run_port_forward(exchange: Exchange, connect: Connect, *, pod: str) -> None:
    """Forward connections until the client leaves. `connect` opens one to a port of the pod; `pod` is for messages.

    Raises HttpError before the upgrade.
    """
    duplex, _ = await upgrade_to_spdy(exchange, (PORT_FORWARD,))
    async with serve_spdy(duplex, client=False) as spdy:
        await _Forwarder(spdy, connect, pod).run()


class _Forwarder:
    """Pairs streams and gives each pair its connection."""

    def __init__(self, spdy: Spdy, connect: Connect, pod: str) -> None:
        self._spdy = spdy
        self._connect = connect
        self._pod = pod
        self._pairs: dict[str, _Pair] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        try:
            while (stream := await self._spdy.accept()) is not None:
                self._take(stream)
        finally:
            for pair in self._pairs.values():
                if pair.timer is not None:
                    pair.timer.cancel()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def _take(self, stream: SpdyStream) -> None:
        kind, port = stream.headers.get(STREAM_TYPE), stream.headers.get(PORT, "")
        if kind not in ("data", "error") or not _is_port(port) or len(self._tasks) >= MAX_CONNECTIONS:
            stream.reset()
            return
        # Clients older than requestID open the error stream first, then the data stream with the next number.
        key = stream.headers.get(REQUEST_ID) or str(stream.id if kind == "error" else stream.id - 2)
        pair = self._pairs.setdefault(key, _Pair())
        if getattr(pair, kind) is not None:
            stream.reset()
            return
        setattr(pair, kind, stream)
        if pair.data is None or pair.error is None:
            pair.timer = asyncio.get_running_loop().call_later(PAIR_TIMEOUT, self._give_up, key)
            return
        if pair.timer is not None:
            pair.timer.cancel()
        del self._pairs[key]
        task = asyncio.create_task(self._forward(pair.data, pair.error, int(port)), name=f"port-forward-{port}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _give_up(self, key: str) -> None:
        pair = self._pairs.pop(key, None)
        for stream in (pair.data, pair.error) if pair is not None else ():
            if stream is not None:
                stream.reset()

    async def _forward(self, data: SpdyStream, error: SpdyStream, port: int) -> None:
        try:
            reader, writer = await self._connect(port)
        except OSError as problem:
            reason = os.strerror(problem.errno).lower() if problem.errno else str(problem)
            text = f"error forwarding port {port} to pod {self._pod}: failed to connect to localhost:{port}: {reason}"
            with contextlib.suppress(OSError):
                await error.write(text.encode())
            await error.close()
            await data.close()
            return
        inside = StreamDuplex(reader, writer)
        try:
            await _join(data, inside)
        finally:
            await inside.close()
            await data.close()
            await error.close()


async def _join(outside: SpdyStream, inside: StreamDuplex) -> None:
    """Copy both ways; the end of one direction is told, the end of the pod's ends both (as a kubelet does)."""

    async def inward() -> None:
        while part := await outside.read():
            await inside.write(part)
        await inside.end()

    async def outward() -> None:
        while part := await inside.read():
            await outside.write(part)
        await outside.close_write()

    tasks = [asyncio.create_task(inward(), name="inward"), asyncio.create_task(outward(), name="outward")]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[1] not in done and all(task.exception() is None for task in done):
            await asyncio.wait([tasks[1]])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text[:6]) < 65536
