"""The server side of a WebSocket on an upgraded connection (RFC 6455, by the sans-I/O protocol of `websockets`)."""

import asyncio
import base64
import hashlib
from collections.abc import Sequence

from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from edgeappliance.kernel.duplex import Duplex
from edgeappliance.kernel.web.exchange import Exchange, HttpError

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MAX_MESSAGE = 1024 * 1024
MAX_FRAGMENTS = 16384
"""Fragments of one message; empty ones count for nothing in its length."""

MAX_PINGS = 1024
"""Pings of a peer that does not read their answers."""

CLOSE_TIMEOUT = 1.0


class WebSocket:
    """Whole messages on a pipe. One reader; any number of writers."""

    def __init__(self, duplex: Duplex, *, max_message: int = MAX_MESSAGE) -> None:
        self._duplex = duplex
        self._protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=max_message)
        self._parts: list[bytes] = []
        self._messages: list[bytes] = []
        self._writing = asyncio.Lock()
        self._pings = 0
        self._closed = False

    async def receive(self) -> bytes | None:
        """The next message, text or binary; None when the peer has closed or is gone, or broke the protocol."""
        try:
            while not self._messages:
                if self._protocol.close_rcvd is not None or self._protocol.parser_exc is not None:
                    return None
                data = await self._duplex.read()
                if not data:
                    return None
                self._protocol.receive_data(data)
                for event in self._protocol.events_received():
                    if isinstance(event, Frame):
                        self._take(event)
                if not self._writing.locked():  # else whoever writes now writes this too
                    await self._flush()
        except OSError:
            return None
        return self._messages.pop(0)

    async def send(self, data: bytes, *, text: bool = False) -> None:
        """One message. Returns when there is room for more. Raises OSError when the peer is gone or has closed."""
        try:
            if text:
                self._protocol.send_text(data)
            else:
                self._protocol.send_binary(data)
        except InvalidState:
            raise BrokenPipeError("the WebSocket is closed") from None
        await self._flush()

    async def ping(self) -> None:
        """For who cannot `receive` at the moment: finds out whether the peer is there, and says that we are, as its own
        pings are not read. Raises OSError."""
        if self._protocol.state is not State.OPEN:
            raise BrokenPipeError("the WebSocket is closed")
        self._protocol.send_ping(b"")
        self._protocol.send_pong(b"")
        await self._flush()

    async def say_goodbye(self, code: int = 1000, reason: str = "") -> None:
        """Nothing more is sent; `receive` goes on until the peer has said so too. Raises OSError."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason.encode()[:120].decode(errors="ignore"))
        await self._flush()

    async def close(self, code: int = 1000, reason: str = "", *, linger: float = 0) -> None:
        """Say good-bye and leave; `linger` seconds are for the peer's own good-bye, so that what it still sends makes
        TCP drop nothing of ours. Idempotent, never raises."""
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(max(CLOSE_TIMEOUT, linger)):
                await self.say_goodbye(code, reason)
                while linger and await self.receive() is not None:
                    continue
        except (OSError, TimeoutError):
            pass  # it is gone already
        await self._duplex.close()

    def _take(self, frame: Frame) -> None:
        """Raises OSError for what only fills the memory."""
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._parts.append(bytes(frame.data))
            if frame.fin:
                self._messages.append(b"".join(self._parts))
                self._parts.clear()
            elif len(self._parts) >= MAX_FRAGMENTS:
                raise ConnectionAbortedError("a message in too many fragments")
        elif frame.opcode is Opcode.PING:
            self._pings += 1
            if self._pings > MAX_PINGS:
                raise ConnectionAbortedError("a peer that asks and reads no answer")

    async def _flush(self) -> None:
        async with self._writing:
            while data := b"".join(self._protocol.data_to_send()):
                await self._duplex.write(data)
                self._pings = 0


async def accept(
    exchange: Exchange, protocols: Sequence[str], *, max_message: int = MAX_MESSAGE
) -> tuple[WebSocket, str]:
    """Make a WebSocket of a request; with it the subprotocol, the first of the client's that is among `protocols`
    ("" when the client offers none). Raises HttpError when it asks for none, or for none that we speak."""
    request = exchange.request
    key = request.headers.get("sec-websocket-key", "")
    try:
        proper = len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        proper = False
    if request.method != "GET" or not request.upgrades_to("websocket") or not proper:
        raise HttpError(400, "not a WebSocket handshake")
    if request.headers.get("sec-websocket-version") != "13":
        raise HttpError(426, "WebSocket version 13 only")
    offered = request.tokens("sec-websocket-protocol")
    chosen = next((name for name in offered if name in protocols), "")
    if offered and not chosen:
        raise HttpError(403, f"unable to negotiate protocol: client supports {offered}, server accepts {[*protocols]}")
    digest = hashlib.sha1((key + _MAGIC).encode(), usedforsecurity=False).digest()
    headers = [("Upgrade", "websocket"), ("Sec-WebSocket-Accept", base64.b64encode(digest).decode())]
    if chosen:
        headers.append(("Sec-WebSocket-Protocol", chosen))
    return WebSocket(await exchange.upgrade(headers), max_message=max_message), chosen
