"""One accepted connection: requests one after the other, each handed to a handler (RFC 9112, by h11)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import h11

from edgeappliance.kernel.duplex import CHUNK, StreamDuplex
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.web.exchange import Exchange, HttpError, read_request

Handler = Callable[[Exchange], Awaitable[None]]

MAX_HEAD = 64 * 1024
HEAD_TIMEOUT = 15.0
"""Seconds for the head of a request, from its first byte or from the connection."""

IDLE_TIMEOUT = 75.0
"""Seconds that a connection may wait for its next request."""

BODY_TIMEOUT = 30.0
"""Seconds without a byte of a body."""

ANSWER_TIMEOUT = 60.0
"""Seconds in which a whole answer must be taken."""

_REASONS = {
    200: b"OK",
    201: b"Created",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


class ClientGone(ConnectionResetError):
    """The client left, or is too slow: nothing more can be said to it."""


class Connection:
    """Serves one connection. `first`: bytes that were read from it already."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler, *, first: bytes = b""
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._duplex: StreamDuplex | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._left = False
        self._streaming = False
        self._head_only = False
        self._log = get_logger("web")
        if first:
            self._http.receive_data(first)

    async def serve(self) -> None:
        """Serve until the connection ends, then close it. Raises nothing but CancelledError."""
        try:
            while await self._serve_one():
                self._http.start_next_cycle()
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if not self._left or current is None or current.uncancel() > 0:
                raise
        except (OSError, h11.LocalProtocolError) as error:
            self._log.debug("connection dropped", error=error)
        finally:
            await StreamDuplex(self._reader, self._writer).close()

    async def _serve_one(self) -> bool:
        """One request; whether there may be another one."""
        event = await self._head()
        if event is None:
            return False
        self._head_only = event.method == b"HEAD"
        try:
            exchange = Exchange(read_request(event.method, event.target, event.headers.raw_items()), self)
        except HttpError as error:
            await self._refuse(error.status, error.message)
            return False
        try:
            await self._run(exchange)
        finally:
            if self._duplex is not None:
                await self._duplex.close()
        if self._duplex is not None:
            return False
        if self._streaming:
            self._streaming = False
            await self._send(h11.EndOfMessage())
        return self._reusable()

    async def _head(self) -> h11.Request | None:
        """The next request. None when there is none, or when it was no request."""
        waited = IDLE_TIMEOUT if self._http.trailing_data[0] == b"" else HEAD_TIMEOUT
        try:
            async with asyncio.timeout(waited) as limit:
                while True:
                    event = self._http.next_event()
                    if isinstance(event, h11.Request):
                        return event
                    if event is not h11.NEED_DATA:
                        return None
                    data = await self._reader.read(CHUNK)
                    self._http.receive_data(data)
                    if waited == IDLE_TIMEOUT and data:
                        waited = HEAD_TIMEOUT
                        limit.reschedule(asyncio.get_running_loop().time() + HEAD_TIMEOUT)
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint, str(error))
            return None

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._handler(exchange)
            if not exchange.answered:
                raise HttpError(500, "the request was not answered")
        except HttpError as error:
            await self._failed(exchange, error.status, error.message)
        except ClientGone:
            raise
        except OSError as error:
            if self._duplex is None:
                self._log.warning("request failed", path=exchange.request.path, error=error)
                await self._failed(exchange, 500, f"{type(error).__name__}: {error}")
            else:
                self._log.debug("upgraded connection broke", path=exchange.request.path, error=error)
        except Exception as error:  # noqa: BLE001 - one request's fault is its own
            self._log.error("request failed", path=exchange.request.path, error=error, exc_info=error)
            await self._failed(exchange, 500, f"{type(error).__name__}: {error}")
        finally:
            await self._unwatch()

    async def _failed(self, exchange: Exchange, status: int, message: str) -> None:
        if exchange.answered:
            raise ClientGone(message)  # a body cut short is how the client learns of it
        exchange.answered = True
        await self.answer(status, [("Content-Type", "text/plain; charset=utf-8")], message.encode())

    async def _refuse(self, status: int, message: str) -> None:
        """Answer something that was no proper request."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close")]
            await self.answer(status, headers, message.encode())

    def _reusable(self) -> bool:
        """Whether the connection can take another request; a body that nobody read ends it."""
        try:
            while self._http.their_state is h11.SEND_BODY:
                if self._http.next_event() is h11.NEED_DATA:
                    return False
        except h11.RemoteProtocolError:
            return False
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    # -- what the exchange calls --------------------------------------------------------------------------

    def extra_info(self, name: str) -> Any:
        try:
            return self._writer.get_extra_info(name)
        except AttributeError:  # asyncio's TLS transport of a client that has left
            raise ClientGone("the client is gone") from None

    async def read_body(self, limit: int) -> bytes:
        parts = bytearray()
        async for data in self.body_parts():
            parts += data
            if len(parts) > limit:
                raise HttpError(413, f"the body is longer than {limit} bytes")
        return bytes(parts)

    async def body_parts(self) -> AsyncIterator[bytes]:
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise HttpError(error.error_status_hint, str(error)) from None
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif event is h11.NEED_DATA:
                try:
                    async with asyncio.timeout(BODY_TIMEOUT):
                        self._http.receive_data(await self._reader.read(CHUNK))
                except TimeoutError:
                    raise HttpError(408, f"nothing of the body for {BODY_TIMEOUT:.0f} s") from None
                except OSError as error:
                    raise ClientGone(str(error)) from None
            else:
                return

    async def answer(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        parts: list[Any] = [self._response(status, [*headers, ("Content-Length", str(len(body)))])]
        if body and not self._head_only:
            parts.append(h11.Data(data=body))
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await self._send(*parts, h11.EndOfMessage())
        except TimeoutError:
            raise ClientGone("the client does not take its answer") from None

    async def begin(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        await self._send(self._response(status, headers))
        self._streaming = True
        current = asyncio.current_task()
        if current is not None:
            self._watcher = asyncio.create_task(self._watch(current), name="web-watcher")

    async def send_part(self, data: bytes) -> None:
        if not self._head_only:
            await self._send(h11.Data(data=data))

    async def upgrade(self, headers: Sequence[tuple[str, str]]) -> StreamDuplex:
        async for _ in self.body_parts():
            raise HttpError(400, "a request that upgrades has no body")
        switch = h11.InformationalResponse(status_code=101, headers=list(headers), reason=b"Switching Protocols")
        await self._send(switch)
        self._duplex = StreamDuplex(self._reader, self._writer, self._http.trailing_data[0])
        return self._duplex

    # -- inside -------------------------------------------------------------------------------------------

    def _response(self, status: int, headers: Sequence[tuple[str, str]]) -> h11.Response:
        return h11.Response(status_code=status, headers=list(headers), reason=_REASONS.get(status, b""))

    async def _send(self, *events: Any) -> None:
        if self._writer.is_closing():
            raise ClientGone("the connection is closed")
        try:
            self._writer.write(b"".join(data for event in events if (data := self._http.send(event))))
            await self._writer.drain()
        except TimeoutError:
            raise
        except OSError as error:
            raise ClientGone(str(error)) from None

    async def _watch(self, handler: asyncio.Task[Any]) -> None:
        """Cancel the handler when the client goes away while it is being answered."""
        kept = 0
        with contextlib.suppress(OSError, h11.RemoteProtocolError):
            while data := await self._reader.read(CHUNK):
                self._http.receive_data(data)  # a next request that comes early waits in h11
                kept += len(data)
                if kept > MAX_HEAD:
                    return
        self._left = True
        handler.cancel()

    async def _unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
            self._watcher = None
