"""A websocket as an asyncio protocol: bytes to messages and back, no task of its own, client or server.

websockets' sans-I/O protocol does the framing. Messages are not looked into: text need not be UTF-8.
"""

import asyncio
from typing import Protocol, cast

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

WRITE_HIGH = 64 * 1024
"""Bytes not yet taken by the peer at which `stuck` becomes true. What is behind them waits with its sender."""

WRITE_LIMIT = 8 * 1024 * 1024
"""Bytes at which a peer that reads nothing is given up: small control frames are sent whether it is stuck or not."""

MAX_FRAGMENTS = 16384
"""Fragments of one message; Go's peers make one of each 4 KB."""


class Listener(Protocol):
    """Who uses a websocket."""

    def message(self, payload: bytes) -> None:
        """One whole message."""
        ...

    def writable(self) -> None:
        """The line was stuck and moves again."""
        ...

    def lost(self, reason: str) -> None:
        """The connection is gone. Called once."""
        ...


class WebSocketLine(asyncio.Protocol):
    """One connection. Sub-classes do the upgrade and set `listener` once it is done."""

    __slots__ = (
        "_loop",
        "_parts",
        "_reason",
        "_transport",
        "_ws",
        "gone",
        "heard_at",
        "listener",
        "opened_at",
        "reading_paused",
        "stuck",
    )

    def __init__(self, ws: ClientProtocol | ServerProtocol) -> None:
        self._loop = asyncio.get_running_loop()
        self._ws = ws
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        self._reason = ""
        self.listener: Listener | None = None
        self.stuck = False
        """Whether the peer takes nothing at the moment."""
        self.reading_paused = False
        self.gone = False
        self.opened_at = self.heard_at = self._loop.time()
        """When the connection was made, and when the last bytes came (the loop's time)."""

    # -- for who uses it ----------------------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        """One text message, at once. Look at `stuck` before sending much."""
        if self._ws.state is State.OPEN and not self.gone:
            self._ws.send_text(payload)
            self._flush()

    def ping(self, payload: bytes) -> None:
        """A ping frame; the answer shows as `heard_at`."""
        if self._ws.state is State.OPEN and not self.gone:
            self._ws.send_ping(payload)
            self._flush()

    def pause_reading(self) -> None:
        """Take no more from the peer until `resume_reading`."""
        if self._transport is not None and not self.reading_paused and not self._transport.is_closing():
            self.reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and self.reading_paused and not self._transport.is_closing():
            self.reading_paused = False
            self.heard_at = self._loop.time()  # what the peer said meanwhile is still in the socket
            self._transport.resume_reading()

    def close(self, reason: str) -> None:
        """End the connection with what is written already."""
        self._reason = self._reason or reason
        if self._transport is not None and not self._transport.is_closing():
            if self._ws.state is State.OPEN:
                self._ws.send_close(1000)
                self._flush()
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Drop the connection at once."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    def fact(self, name: str) -> object:
        """What the transport knows: `peername`, `sockname`, `ssl_object`."""
        return None if self._transport is None else self._transport.get_extra_info(name)

    # -- for sub-classes ----------------------------------------------------------------------------------

    def handshake(self, event: Request | Response) -> None:
        """The peer's part of the upgrade."""
        raise NotImplementedError

    def ended(self, reason: str) -> None:
        """The connection is gone, upgraded or not."""

    # -- asyncio.Protocol ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast: uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH)

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self.heard_at = self._loop.time()
        self._ws.receive_data(data)
        for event in self._ws.events_received():
            if isinstance(event, Frame):
                self._take(event)
            else:
                self.handshake(event)
        self._flush()
        if self._ws.parser_exc is not None:
            self.abort(str(self._ws.parser_exc))
        elif self._ws.close_rcvd is not None:
            self.close("closed by the peer")

    def eof_received(self) -> None:
        self._reason = self._reason or "the peer ended the connection"

    def pause_writing(self) -> None:
        self.stuck = True

    def resume_writing(self) -> None:
        self.stuck = False
        if self.listener is not None:
            self.listener.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._transport = None
        self._parts = []
        reason = self._reason or (str(exc) if exc else "") or "the peer ended the connection"
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.lost(reason)
        self.ended(reason)

    # -- inside -------------------------------------------------------------------------------------------

    def _take(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return  # control frames are answered by websockets
        payload = bytes(frame.data)
        if not frame.fin:
            self._parts.append(payload)
            if len(self._parts) > MAX_FRAGMENTS:
                self.abort("a message in too many fragments")
            return
        if self._parts:
            payload = b"".join([*self._parts, payload])
            self._parts = []
        if self.listener is not None:
            self.listener.message(payload)

    def _flush(self) -> None:
        chunks = self._ws.data_to_send()
        if self._transport is None or not chunks or self._transport.is_closing():
            return
        data = b"".join(chunks) if len(chunks) > 1 else chunks[0]
        if data:
            self._transport.write(data)
            if self.stuck and self._transport.get_write_buffer_size() > WRITE_LIMIT:
                self.abort("the peer reads nothing")
        if not chunks[-1]:  # websockets' sign for "nothing more will follow"
            self._transport.close()
