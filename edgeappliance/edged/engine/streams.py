"""Logs, exec and attach: streams on the event loop that hold no thread (Engine API, "Attach to a container")."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from edgeappliance.edged.engine.multiplex import STDOUT, Demultiplexer, StampedFrames
from edgeappliance.edged.engine.wire import Answer
from edgeappliance.kernel.errors import ApplianceError

SETTLE = 2.0
"""Seconds that the engine may take to note the exit code of an exec whose stream has ended."""

ABANDON_TIMEOUT = 5.0

KEPT_KEYS = ",".join(("ctrl-@", "ctrl-^", "ctrl-_", "ctrl-]") * 4)
"""Keys with which a terminal leaves a container, and which Docker holds back until it knows better. It cannot do
without; its own begin with Ctrl-P, the command before in every shell. Nobody types these, and hardly ever the first."""


class Logs:
    """The output of a container as it was stored. decoder: None where a terminal makes it one stream."""

    def __init__(self, answer: Answer, decoder: Demultiplexer | StampedFrames | None) -> None:
        self._answer = answer
        self._decoder = decoder

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        while data := await self._answer.read():
            if self._decoder is None:
                yield STDOUT, data
                continue
            for piece in self._decoder.feed(data):
                yield piece

    async def aclose(self) -> None:
        """Idempotent, never raises."""
        await self._answer.close()


class Stream:
    """An open exec or attach. resized, ended and abandoned are the calls that go beside the stream."""

    def __init__(
        self,
        answer: Answer,
        *,
        tty: bool,
        resized: Callable[[int, int], Awaitable[None]],
        ended: Callable[[], Awaitable[int | None]] | None = None,
        abandoned: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._answer = answer
        self._decoder = None if tty else Demultiplexer()
        self._ready: list[tuple[int, bytes]] = []
        self._resized = resized
        self._ended = ended
        self._abandoned = abandoned
        self._at_end = False
        self._closed = False

    async def read(self) -> tuple[int, bytes] | None:
        """(1 stdout | 2 stderr, bytes), None at the end."""
        while not self._ready:
            data = await self._answer.read()
            if not data:
                self._at_end = True
                return None
            if self._decoder is None:
                return STDOUT, data
            self._ready = self._decoder.feed(data)[::-1]
        return self._ready.pop()

    async def write(self, data: bytes) -> None:
        """To stdin; returns when there is room for more."""
        await self._answer.write(data)

    async def write_eof(self) -> None:
        """End of stdin."""
        self._answer.write_eof()

    async def resize(self, width: int, height: int) -> None:
        """Of the terminal, in characters. A window that cannot be resized any more is no error."""
        try:
            await self._resized(width, height)
        except ApplianceError:
            pass  # it has ended, or has not begun: the next size will be told again

    async def exit_code(self) -> int | None:
        """Of an exec that has ended; None for attach, or while it runs."""
        return None if self._ended is None else await settled(self._ended, seconds=SETTLE if self._at_end else 0.0)

    async def close(self) -> None:
        """Leave the stream; an exec that still runs is ended. Idempotent, never raises."""
        if self._closed:
            return
        self._closed = True
        await self._answer.close()
        if self._at_end or self._abandoned is None:
            return
        try:
            async with asyncio.timeout(ABANDON_TIMEOUT):
                await self._abandoned()
        except (ApplianceError, TimeoutError):
            pass  # the engine is away, and with it what could be done


async def settled(look: Callable[[], Awaitable[int | None]], *, seconds: float) -> int | None:
    """What `look` returns as soon as it is not None; asked again for up to `seconds`."""
    delay, waited = 0.005, 0.0
    while (code := await look()) is None and waited < seconds:
        await asyncio.sleep(delay)
        waited += delay
        delay = min(0.2, delay * 2)
    return code


async def drained(stream: Stream, *, limit: int) -> bytes:
    """Everything that comes until the end, of which `limit` bytes are kept."""
    kept = bytearray()
    while (piece := await stream.read()) is not None:
        kept += piece[1][: max(0, limit - len(kept))]
    return bytes(kept)
