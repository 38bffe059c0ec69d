"""One websocket on port 10000: bytes to messages and back, no task of its own (reference 2.3).

websockets' sans-I/O protocol does the framing. The asyncio layer of that package is not used: its tasks, queues and
read-ahead cost more memory per idle session than everything else here.
"""

import asyncio
import asyncio.sslproto
import ssl
from collections.abc import Iterator
from typing import Protocol, cast

from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from edgeappliance.wire.limits import MAX_MESSAGE

FRAGMENT = 4082
"""Payload bytes of one frame, as upstream's 4096-byte write buffer makes them."""
TLS_BUFFER = 16 * 1024
"""One TLS record. asyncio's own default of 256 KiB per connection is the largest cost of an idle session."""
WRITE_HIGH = 64 * 1024
CLOSE_TIME = 3.0
"""Seconds for the TLS goodbye."""


def limit_tls_buffers() -> None:
    """Let every TLS connection of this process read one TLS record at a time. For the composition root.

    Measured with 300 mutual-TLS sessions: 55 KB each in place of 294, 150 after 64 KB each way in place of 511.
    """
    asyncio.sslproto.SSLProtocol.max_size = TLS_BUFFER


class Link(Protocol):
    """What a connection needs of the session that it carries."""

    def received(self, payload: bytes) -> None:
        """One whole message."""
        ...

    def payloads(self) -> Iterator[bytes]:
        """Messages to send, for as long as they are taken."""
        ...

    def writable(self) -> None:
        """The line was stuck and moves again."""
        ...

    def lost(self) -> None:
        """The connection is gone."""
        ...


class ByteCount(Protocol):
    """Where bytes are counted, inside TLS."""

    bytes_in: int
    bytes_out: int


class Gate(Protocol):
    """Who decides on upgrades."""

    def arrived(self, connection: "Connection") -> None:
        """A TLS handshake is done."""
        ...

    def upgrade(self, connection: "Connection", request: Request) -> Link | tuple[int, str]:
        """The session for a connection, or the HTTP status and text that refuse it."""
        ...

    def left(self, connection: "Connection") -> None:
        """The connection is gone, with a session or without."""
        ...


class Connection(asyncio.Protocol):
    """The shell around websockets' server protocol."""

    __slots__ = (
        "_count",
        "_gate",
        "_link",
        "_loop",
        "_parts",
        "_pumping",
        "_rest",
        "_stuck",
        "_transport",
        "_ws",
        "response_headers",
        "since",
    )

    def __init__(self, gate: Gate, count: ByteCount, *, max_message: int = MAX_MESSAGE) -> None:
        self._gate = gate
        self._count = count
        self._ws = ServerProtocol(max_size=max_message)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._link: Link | None = None
        self._parts: list[bytes] = []
        self._rest: tuple[bytes, int] | None = None
        self._stuck = False
        self._pumping = False
        self.response_headers: dict[str, str] = {}
        self.since = self._loop.time()

    @property
    def common_name(self) -> str:
        """CN of the client certificate; empty without one."""
        tls = None if self._transport is None else self._transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert() if isinstance(tls, ssl.SSLObject) else None
        subject = (certificate or {}).get("subject", ())
        names = [
            value
            for part in cast("tuple[tuple[tuple[str, str], ...], ...]", subject)
            for key, value in part
            if key == "commonName"
        ]
        return names[0] if len(names) == 1 else ""

    @property
    def peer(self) -> str:
        """Address of the other end."""
        name = None if self._transport is None else self._transport.get_extra_info("peername")
        return str(name[0]) if name else ""

    @property
    def upgraded(self) -> bool:
        """Whether a session was admitted on it."""
        return self._link is not None

    @property
    def stuck(self) -> bool:
        """Whether the peer takes nothing at the moment."""
        return self._stuck

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH)
        self._gate.arrived(self)

    def connection_lost(self, error: Exception | None) -> None:
        link, self._link = self._link, None
        self._transport = None
        self._rest = None
        if link is not None:
            link.lost()
        self._gate.left(self)

    def pause_writing(self) -> None:
        self._stuck = True

    def resume_writing(self) -> None:
        self._stuck = False
        if self._link is not None:
            self._link.writable()
        self.pump()

    def pause_reading(self) -> None:
        """Take no more from the peer until `resume_reading`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """End the connection without a websocket close frame, as upstream (reference 2.4)."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        self._count.bytes_in += len(data)
        if self._ws.state is State.CLOSED or self._transport is None or self._transport.is_closing():
            return
        self._ws.receive_data(data)
        for event in self._ws.events_received():
            if isinstance(event, Request):
                self._upgrade(event)
            elif isinstance(event, Frame):
                self._frame(event)
        self._flush()
        if self._ws.close_expected():
            self.close()

    def _upgrade(self, request: Request) -> None:
        response = self._ws.accept(request)
        if response.status_code == 101:
            answer = self._gate.upgrade(self, request)
            if isinstance(answer, tuple):
                response = self._refusal(*answer)
            else:
                self._link = answer
                for key, value in self.response_headers.items():
                    response.headers[key] = value
        self._ws.send_response(response)

    def _refusal(self, status: int, text: str) -> Response:
        return self._ws.reject(status, text + "\n")

    def _frame(self, frame: Frame) -> None:
        if self._link is None or frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return  # control frames are answered by websockets
        if not frame.fin:
            self._parts.append(bytes(frame.data))
            return
        payload = bytes(frame.data)
        if self._parts:
            payload = b"".join([*self._parts, payload])
            self._parts = []
        self._link.received(payload)

    def schedule(self) -> None:
        """Send what waits, soon; many messages pushed in one go share their writes."""
        if not self._pumping and not self._stuck:
            self._pumping = True
            self._loop.call_soon(self._pump_scheduled)

    def _pump_scheduled(self) -> None:
        self._pumping = False
        self.pump()

    def pump(self) -> None:
        """Send what waits until the line is full."""
        if self._link is None or self._ws.state is not State.OPEN:
            return
        if self._transport is None or self._transport.is_closing():
            return
        size = 0
        messages = self._link.payloads()
        while not self._stuck:
            if self._rest is None:
                payload = next(messages, None)
                if payload is None:
                    break
                self._rest = (payload, 0)
            size += self._send_fragment()
            if size >= TLS_BUFFER - FRAGMENT:  # one TLS record a write keeps OpenSSL's buffers small
                self._flush()
                size = 0
        self._flush()

    def _send_fragment(self) -> int:
        assert self._rest is not None  # noqa: S101 - the caller has just looked
        payload, start = self._rest
        end = min(len(payload), start + FRAGMENT)
        last = end == len(payload)
        part = payload if start == 0 and last else payload[start:end]
        if start == 0:
            self._ws.send_text(part, fin=last)
        else:
            self._ws.send_continuation(part, fin=last)
        self._rest = None if last else (payload, end)
        return end - start

    def _flush(self) -> None:
        chunks = self._ws.data_to_send()
        if self._transport is None or not chunks:
            return
        data = b"".join(chunks)
        if data:
            self._count.bytes_out += len(data)
            self._transport.write(data)
        if not chunks[-1]:  # websockets' sign for "nothing more will follow"
            self.close()
