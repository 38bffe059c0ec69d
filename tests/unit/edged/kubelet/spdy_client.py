"""A client of exec, attach and port-forward over SPDY, for the tests: everything it got, in one value."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from edgeappliance.kernel.spdystream import Spdy, SpdyStream, serve_spdy
from edgeappliance.kernel.web import client
from edgeappliance.wire.remotecommand import Result, decode_result

PROTOCOLS = "v4.channel.k8s.io, v3.channel.k8s.io, v2.channel.k8s.io, channel.k8s.io"


def exec_target(*command: str, pod: str = "web", container: str = "c", options: str = "output=1&error=1") -> str:
    words = "&".join(f"command={quote(word)}" for word in command)
    return f"/exec/default/{pod}/{container}?{words}&{options}"


@contextlib.asynccontextmanager
async def upgraded(socket: Path, target: str, protocols: str = PROTOCOLS) -> AsyncIterator[Spdy]:
    headers = {"Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": protocols}
    answer = await client.upgrade(socket, "POST", target, headers=headers)
    assert answer.duplex is not None, (answer.status, answer.body)
    async with serve_spdy(answer.duplex, client=True) as spdy:
        yield spdy


@dataclass(slots=True)
class Streams:
    """The streams of one session."""

    spdy: Spdy
    error: SpdyStream
    stdin: SpdyStream | None = None
    stdout: SpdyStream | None = None
    stderr: SpdyStream | None = None
    resize: SpdyStream | None = None

    async def finish(self) -> tuple[Result, bytes, bytes]:
        """The result, and what came on stdout and stderr."""
        assert self.stdout is not None
        async with asyncio.timeout(20):
            out = await read_all(self.stdout)
            err = await read_all(self.stderr) if self.stderr is not None else b""
            return decode_result(await read_all(self.error)), out, err


@contextlib.asynccontextmanager
async def session(
    socket: Path,
    target: str,
    *,
    stdin: bool = False,
    stderr: bool = True,
    tty: bool = False,
    protocols: str = PROTOCOLS,
) -> AsyncIterator[Streams]:
    """An open exec or attach."""
    async with upgraded(socket, target, protocols) as spdy:
        streams = Streams(spdy, await spdy.open({"streamType": "error"}))
        if stdin:
            streams.stdin = await spdy.open({"streamType": "stdin"})
        streams.stdout = await spdy.open({"streamType": "stdout"})
        if stderr and not tty:
            streams.stderr = await spdy.open({"streamType": "stderr"})
        if tty:
            streams.resize = await spdy.open({"streamType": "resize"})
        yield streams


async def read_all(stream: SpdyStream) -> bytes:
    data = bytearray()
    while part := await stream.read():
        data += part
    return bytes(data)


async def read_until(stream: SpdyStream, text: bytes) -> bytes:
    """All up to and with `text`."""
    data = b""
    async with asyncio.timeout(10):
        while text not in data:
            part = await stream.read()
            assert part, data
            data += part
    return data
