"""A TCP relay between two real peers that can cut a connection or swallow everything."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Relay:
    """Listens on `port` and passes bytes to 127.0.0.1:`target`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._hole = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._hole.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._hole.set()
        self.cut()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def black_hole(self, on: bool = True) -> None:
        """Nothing gets through in either direction; connections stay up, as with packets dropped on the way."""
        if on:
            self._hole.clear()
        else:
            self._hole.set()

    def cut(self) -> None:
        """Every connection is reset."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._writers |= ends
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer))
                group.create_task(self._pump(far_reader, writer))
        except* OSError:
            pass  # one end is gone: the other one goes too
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._hole.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


@contextlib.asynccontextmanager
async def relay(target: int) -> AsyncIterator[Relay]:
    """A running relay to 127.0.0.1:`target`."""
    running = Relay(target)
    await running.start()
    try:
        yield running
    finally:
        await running.stop()
