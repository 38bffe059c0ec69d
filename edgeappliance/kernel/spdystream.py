"""SPDY streams over any pipe of bytes: the shell around `wire.spdy`."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping

from edgeappliance.kernel.duplex import Duplex
from edgeappliance.wire.spdy import (
    Data,
    Event,
    Opened,
    Replied,
    Reset,
    ResetCode,
    SpdyCore,
    SpdyError,
)

HIGH = 512 * 1024
"""Bytes received for one stream at which reading from the peer pauses until that stream has been read."""

OUT_HIGH = 256 * 1024
"""Bytes not yet written at which writers wait."""

OUT_LIMIT = 4 * 1024 * 1024
"""Bytes not yet written at which a peer is given up: beyond writers' own there are only answers to its frames."""

MAX_UNACCEPTED = 64
STALL_PING = 15.0
"""Seconds of pause after which a ping finds out whether the peer is still there: a paused reader sees no end."""


CLOSE_TIMEOUT = 5.0
"""Seconds for what is not written yet when a connection is closed; who cannot lose it calls `flush` first."""


class SpdyStream:
    """One stream; a Duplex. Its errors are OSErrors: the peer reset it, or the connection broke."""

    def __init__(self, spdy: "Spdy", id: int, headers: Mapping[str, str]) -> None:
        self._spdy = spdy
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._error: OSError | None = None
        self._changed = asyncio.Event()
        self._wrote_fin = False
        self.id = id
        self.headers = headers

    async def read(self) -> bytes:
        """All that has arrived, b"" at the end. Raises OSError."""
        while not self._chunks:
            if self._ended:
                return b""  # whatever became of the connection since
            if self._error is not None:
                raise self._error
            self._changed.clear()
            await self._changed.wait()
        data = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        self._spdy.drained(self.id)
        return data

    async def write(self, data: bytes) -> None:
        """Queue it and return when there is room for more. Raises OSError."""
        if self._error is not None:
            raise self._error
        await self._spdy.send(self.id, data)
        if self._error is not None:
            raise self._error

    async def close_write(self) -> None:
        """End our direction. Never raises."""
        if not self._wrote_fin and self._error is None:
            self._wrote_fin = True
            with contextlib.suppress(OSError):
                await self._spdy.send(self.id, b"", fin=True)

    def reset(self, code: int = ResetCode.CANCEL) -> None:
        """End both directions at once."""
        self._spdy.reset(self.id, code)
        self.fail(ConnectionResetError("the stream was reset"))

    async def close(self) -> None:
        """End both directions: orderly where the peer has ended its own, else with a reset. Never raises."""
        await self.close_write()
        if not self._ended:
            self.reset()

    # -- what the session tells it ------------------------------------------------------------------------

    def feed(self, data: bytes, *, fin: bool) -> None:
        """Bytes from the peer."""
        if self._error is None and data:
            self._chunks.append(data)
            self._size += len(data)
            if self._size > HIGH:
                self._spdy.filled(self.id)
        self._ended = self._ended or fin
        self._changed.set()

    def fail(self, error: OSError) -> None:
        """It broke; what has arrived is still read, unless it was we who reset it."""
        if self._error is None:
            self._error = error
        self._changed.set()


class Spdy:
    """One connection. `run` moves the bytes and must be running while it is used; see `serve_spdy`."""

    def __init__(self, duplex: Duplex, *, client: bool) -> None:
        self._duplex = duplex
        self._core = SpdyCore(client=client)
        self._streams: dict[int, SpdyStream] = {}
        self._replies: dict[int, asyncio.Future[None]] = {}
        self._full: set[int] = set()
        self._accepted: deque[SpdyStream] = deque()
        self._arrived = asyncio.Event()
        self._wanted = asyncio.Event()
        self._written = asyncio.Event()
        self._drained = asyncio.Event()
        self._gone = asyncio.Event()
        self._error: OSError | None = None
        self._closed = False
        self._writing = False

    @property
    def broken(self) -> bool:
        """Whether the connection is gone."""
        return self._error is not None

    async def open(self, headers: Mapping[str, str], *, timeout: float = 30.0) -> SpdyStream:
        """Open a stream and wait until the peer has accepted it. Raises OSError, TimeoutError."""
        self._check()
        try:
            id = self._core.open(headers)
        except SpdyError as error:
            raise ConnectionError(str(error)) from None
        stream = self._streams[id] = SpdyStream(self, id, dict(headers))
        reply = self._replies[id] = asyncio.get_running_loop().create_future()
        self._wanted.set()
        try:
            async with asyncio.timeout(timeout):
                await reply
        except BaseException:
            stream.reset()
            raise
        finally:
            self._replies.pop(id, None)
        return stream

    async def accept(self) -> SpdyStream | None:
        """The next stream that the peer opened (it has our reply already); None when the connection is gone."""
        while not self._accepted:
            if self._error is not None or self._closed:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._accepted.popleft()

    async def ended(self) -> None:
        """Returns when the connection is gone."""
        await self._gone.wait()

    async def flush(self, *, timeout: float | None = None) -> None:
        """Wait until all is written or the peer is gone, at most `timeout` seconds. Never raises."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while (self._core.pending or self._wanted.is_set() or self._writing) and self._error is None:
                    self._written.clear()
                    await self._written.wait()

    async def close(self) -> None:
        """Write what is due, then end the connection. Idempotent, never raises."""
        if not self._closed:
            self._closed = True
            await self.flush(timeout=CLOSE_TIMEOUT)
            self._break(ConnectionAbortedError("the connection was closed"))
            await self._duplex.close()

    async def run(self) -> None:
        """Move the bytes until the connection ends. Never raises but CancelledError; cancelled, it breaks it."""
        writer = asyncio.create_task(self._write_out(), name="spdy-writer")
        error = ConnectionResetError("the peer ended the connection")
        try:
            while data := await self._duplex.read():
                for event in self._core.receive(data):
                    self._take(event)
                if self._core.pending:
                    self._wanted.set()
                if self._core.failed is not None:
                    raise self._core.failed
                if self._core.pending > OUT_LIMIT:
                    raise SpdyError("asks for more and more answers and reads none", field="connection")
                await self._pause()
        except SpdyError as problem:
            error = ConnectionResetError(f"the peer broke SPDY: {problem}")
        except OSError as problem:
            error = ConnectionResetError(str(problem))
        finally:
            self._break(error)
            writer.cancel()
            await asyncio.wait([writer])
            await self._duplex.close()

    # -- what streams call --------------------------------------------------------------------------------

    async def send(self, id: int, data: bytes, *, fin: bool = False) -> None:
        """Data of a stream. Raises OSError when the stream or the connection has ended."""
        for start in range(0, max(len(data), 1), OUT_HIGH):
            # Room is waited for first too: hundreds of streams would each put one more part there.
            await self._room()
            self._check()
            part = data[start : start + OUT_HIGH]
            if not self._core.send(id, part, fin=fin and start + OUT_HIGH >= len(data)):
                raise BrokenPipeError("the stream has ended")
            self._wanted.set()
        await self._room()
        self._forget(id)

    async def _room(self) -> None:
        while self._core.pending > OUT_HIGH and self._error is None:
            self._written.clear()
            await self._written.wait()

    def reset(self, id: int, code: int) -> None:
        """End a stream in both directions."""
        self._core.reset(id, code)
        self._streams.pop(id, None)
        self._wanted.set()
        self.drained(id)

    def filled(self, id: int) -> None:
        """A stream has more than its reader keeps up with."""
        self._full.add(id)

    def drained(self, id: int) -> None:
        """A stream was read empty, or needs no reader any more."""
        self._full.discard(id)
        self._drained.set()

    # -- inside -------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _forget(self, id: int) -> None:
        """Streams that ended in both directions are no longer looked up."""
        if id in self._streams and not self._core.alive(id):
            del self._streams[id]

    def _take(self, event: Event) -> None:
        if isinstance(event, Data):
            stream = self._streams.get(event.id)
            if stream is not None:
                stream.feed(event.data, fin=event.fin)
                if event.fin:
                    self._forget(event.id)
        elif isinstance(event, Opened):
            self._take_opened(event)
        elif isinstance(event, Replied):
            reply = self._replies.get(event.id)
            if reply is not None and not reply.done():
                reply.set_result(None)
            if event.fin and (stream := self._streams.get(event.id)) is not None:
                stream.feed(b"", fin=True)
                self._forget(event.id)
        elif isinstance(event, Reset):
            self._take_reset(event)
        # Ponged and GoneAway ask for nothing: streams end one by one.

    def _take_opened(self, event: Opened) -> None:
        if len(self._accepted) >= MAX_UNACCEPTED:
            self._core.reset(event.id, ResetCode.REFUSED_STREAM)
            return
        stream = self._streams[event.id] = SpdyStream(self, event.id, event.headers)
        if event.fin:
            stream.feed(b"", fin=True)
        self._core.reply(event.id)
        self._accepted.append(stream)
        self._arrived.set()

    def _take_reset(self, event: Reset) -> None:
        error = ConnectionResetError(f"the peer reset the stream (code {event.code})")
        stream = self._streams.pop(event.id, None)
        if stream is not None:
            stream.fail(error)
            self.drained(event.id)
        reply = self._replies.get(event.id)
        if reply is not None and not reply.done():
            reply.set_exception(error)

    async def _pause(self) -> None:
        """Wait while a stream is full; pings find out whether the peer is still there."""
        while self._error is None and self._full:
            self._drained.clear()
            try:
                async with asyncio.timeout(STALL_PING):
                    await self._drained.wait()
            except TimeoutError:
                self._core.ping()
                self._wanted.set()

    async def _write_out(self) -> None:
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while data := self._core.take():
                    self._writing = True
                    await self._duplex.write(data)
                    self._writing = False
                    self._written.set()
                self._written.set()
        except OSError as error:
            self._break(ConnectionResetError(str(error)))
            await self._duplex.close()  # ends the reading too

    def _break(self, error: OSError) -> None:
        if self._error is not None:
            return
        self._error = error
        for stream in list(self._streams.values()):
            stream.fail(error)
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(error)
        for event in (self._arrived, self._written, self._drained, self._gone):
            event.set()


@contextlib.asynccontextmanager
async def serve_spdy(duplex: Duplex, *, client: bool) -> AsyncIterator[Spdy]:
    """A connection that runs as long as the block does, and is closed with it."""
    spdy = Spdy(duplex, client=client)
    running = asyncio.create_task(spdy.run(), name="spdy")
    try:
        yield spdy
        await spdy.close()
    finally:
        running.cancel()
        await asyncio.wait([running])
        await duplex.close()
