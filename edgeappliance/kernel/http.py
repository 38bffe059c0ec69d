"""A small HTTP/1.1 server for loopback: GET only, one request a connection, no framework in memory."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.log import get_logger

MAX_HEAD = 8192
READ_TIMEOUT = 5.0
MAX_CONNECTIONS = 32

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, type and body."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Page = Callable[[], Answer | Awaitable[Answer]]


class LocalHttpServer:
    """Serves fixed paths, for `/metrics` and `/healthz`. A component."""

    def __init__(self, *, host: str, port: int, pages: Mapping[str, Page]) -> None:
        self._host = host
        self._port = port
        self._pages = dict(pages)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._log = get_logger("http")

    @property
    def port(self) -> int:
        """The port in use (of interest when 0 was asked for)."""
        if self._server is None or not self._server.sockets:
            return self._port
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen. Raises OperatorError when the port is taken."""
        try:
            self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=MAX_HEAD)
        except OSError as error:
            raise OperatorError(
                f"cannot listen on {self._host}:{self._port}: {error.strerror or error}",
                next_step="choose another port or stop the program that holds it",
            ) from None

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            await close_all(self._writers)

    def health(self) -> Health:
        state = State.RUNNING if self._server is not None else State.STOPPED
        return Health(state, details={"address": f"{self._host}:{self.port}"})

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if len(self._writers) <= MAX_CONNECTIONS:
                async with asyncio.timeout(READ_TIMEOUT):
                    answer, head_only = await self._answer(reader)
                    writer.write(_render(answer, head_only=head_only))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self._log.debug("request dropped")
        finally:
            self._writers.discard(writer)
            await close_all({writer})

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[Answer, bool]:
        head = await reader.readuntil(b"\r\n\r\n")
        parts = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            return Answer(400, b"not HTTP/1.x\n"), False
        method, target, _ = parts
        if method not in ("GET", "HEAD"):
            return Answer(405, b"GET only\n"), False
        page = self._pages.get(target.partition("?")[0])
        if page is None:
            return Answer(404, ("try " + " ".join(sorted(self._pages)) + "\n").encode()), method == "HEAD"
        try:
            result = page()
            answer = result if isinstance(result, Answer) else await result
        except Exception as error:  # noqa: BLE001 - one page's fault is its own
            self._log.error("page failed", path=target, error=error, exc_info=error)
            answer = Answer(500, f"{type(error).__name__}: {error}\n".encode())
        return answer, method == "HEAD"


async def close_all(writers: Iterable[asyncio.StreamWriter]) -> None:
    """Close connections and wait for their transports; what the peer makes of it does not matter."""
    closing = list(writers)
    for writer in closing:
        writer.close()
    for writer in closing:
        try:
            await writer.wait_closed()
        except OSError:
            continue  # the peer was gone first


def _render(answer: Answer, *, head_only: bool) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Status')}\r\n"
        f"Content-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}\r\nConnection: close\r\n\r\n"
    ).encode("latin-1")
    return head if head_only else head + answer.body
