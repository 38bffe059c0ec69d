"""A kubelet whose containers are processes of this machine: logs are scripted, exec and port-forward are real."""

import asyncio
import contextlib
from pathlib import Path

from edgeappliance.kernel.duplex import StreamDuplex
from edgeappliance.kernel.spdystream import SpdyStream, serve_spdy
from edgeappliance.kernel.web.exchange import Exchange
from edgeappliance.wire.remotecommand import (
    PORT,
    PORT_FORWARD,
    PROTOCOL_HEADER,
    REQUEST_ID,
    STREAM_TYPE,
    Result,
    SizeReader,
    encode_result,
)
from tests.support.tunnel import ScriptedKubelet

_INPUTS = {"input": "stdin", "output": "stdout", "error": "stderr"}


class ProcessKubelet(ScriptedKubelet):
    """`sizes`: terminal sizes that came. `summary`: what /stats/summary says."""

    def __init__(self, socket: Path) -> None:
        super().__init__(socket)
        self.sizes: list[tuple[int, int]] = []
        self.summary = b"{}"
        self.running = 0
        self.serve = self._route

    async def _route(self, exchange: Exchange) -> None:
        parts = exchange.request.path.strip("/").split("/")
        if parts[0] in ("exec", "attach"):
            await self._exec(exchange)
        elif parts[0] == "portForward":
            await self._port_forward(exchange)
        elif exchange.request.path == "/stats/summary":
            await exchange.answer(200, self.summary, "application/json")
        else:
            await self._standard(exchange)

    async def _exec(self, exchange: Exchange) -> None:
        query = exchange.request.query
        if exchange.request.path.endswith("/nope"):
            await exchange.answer(404, 'container not found ("nope")')
            return
        if not exchange.request.upgrades_to("spdy/3.1"):
            await exchange.answer(400, "this kubelet speaks SPDY only")
            return
        offered = exchange.request.tokens(PROTOCOL_HEADER.lower())
        assert "v4.channel.k8s.io" in offered
        pipe = await exchange.upgrade([("Upgrade", "SPDY/3.1"), (PROTOCOL_HEADER, "v4.channel.k8s.io")])
        wanted = {"error", *(name for key, name in _INPUTS.items() if query.get(key))}
        if query.get("tty"):
            wanted = (wanted - {"stderr"}) | {"resize"}
        async with serve_spdy(pipe, client=False) as spdy:
            streams: dict[str, SpdyStream] = {}
            while set(streams) != wanted:
                stream = await spdy.accept()
                if stream is None:
                    return
                streams[stream.headers[STREAM_TYPE]] = stream
            if exchange.request.path.startswith("/attach"):
                command = ["cat"]
            else:
                command = list(query["command"])
            await self._run(command, streams)

    async def _run(self, command: list[str], streams: dict[str, SpdyStream]) -> None:
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        except OSError as error:
            await self._result(streams, Result(error=f"{command[0]}: {error.strerror}"))
            return
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.running += 1
        inward = [asyncio.create_task(_feed(streams.get("stdin"), process.stdin)),
                  asyncio.create_task(self._resize(streams.get("resize")))]  # fmt: skip
        try:
            with contextlib.suppress(OSError):
                await asyncio.gather(
                    _drain(process.stdout, streams.get("stdout")), _drain(process.stderr, streams.get("stderr"))
                )
                await self._result(streams, Result(await process.wait()))
        finally:
            self.running -= 1
            if process.returncode is None:
                process.kill()
            await process.communicate()  # what nobody read: else its pipes stay open
            for task in inward:
                task.cancel()
            await asyncio.wait(inward)

    async def _result(self, streams: dict[str, SpdyStream], result: Result) -> None:
        await streams["error"].write(encode_result(result, status=True))
        for stream in streams.values():
            await stream.close_write()

    async def _resize(self, stream: SpdyStream | None) -> None:
        reader = SizeReader()
        while stream is not None and (data := await stream.read()):
            self.sizes += reader.feed(data)

    async def _port_forward(self, exchange: Exchange) -> None:
        assert exchange.request.tokens(PROTOCOL_HEADER.lower()) == [PORT_FORWARD]
        pipe = await exchange.upgrade([("Upgrade", "SPDY/3.1"), (PROTOCOL_HEADER, PORT_FORWARD)])
        pairs: dict[str, dict[str, SpdyStream]] = {}
        tasks: set[asyncio.Task[None]] = set()
        async with serve_spdy(pipe, client=False) as spdy:
            while (stream := await spdy.accept()) is not None:
                pair = pairs.setdefault(stream.headers[REQUEST_ID], {})
                pair[stream.headers[STREAM_TYPE]] = stream
                if len(pair) == 2:
                    tasks.add(asyncio.create_task(_forward(pair, int(stream.headers[PORT]))))
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _forward(pair: dict[str, SpdyStream], port: int) -> None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        await pair["error"].write(f"dial {port}: {error.strerror}".encode())
        await pair["error"].close_write()
        await pair["data"].close()
        return
    target = StreamDuplex(reader, writer)

    async def inward() -> None:
        while data := await pair["data"].read():
            await target.write(data)
        await target.end()

    async def outward() -> None:
        while data := await target.read():
            await pair["data"].write(data)
        await pair["data"].close_write()

    with contextlib.suppress(OSError):
        await asyncio.gather(inward(), outward())
    await target.close()
    await pair["error"].close_write()


async def _feed(stream: SpdyStream | None, target: asyncio.StreamWriter) -> None:
    try:
        while stream is not None and (data := await stream.read()):
            target.write(data)
            await target.drain()
    except OSError:
        pass  # the client is gone: the command reads the end of its input
    finally:
        target.close()


async def _drain(source: asyncio.StreamReader, stream: SpdyStream | None) -> None:
    while data := await source.read(65536):
        if stream is not None:
            await stream.write(data)
