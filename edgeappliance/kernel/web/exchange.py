"""One request and its answer, as a handler sees them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from edgeappliance.kernel.duplex import StreamDuplex
from edgeappliance.kernel.errors import PermanentError

MAX_BODY = 1024 * 1024
MAX_QUERY_FIELDS = 512


class HttpError(PermanentError):
    """Answered with `status` and its text as the body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message, status=status)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The head of a request.

    target: as it was sent, path and query. path: decoded. headers: names in lower case, several values of one joined
    with ", ". query: of each key all its values, in order.
    """

    method: str
    target: str
    path: str
    headers: Mapping[str, str]
    query: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def tokens(self, name: str) -> list[str]:
        """The comma-separated values of a header."""
        return [token for part in self.headers.get(name, "").split(",") if (token := part.strip())]

    def first(self, key: str, default: str = "") -> str:
        """The first value of a query key."""
        values = self.query.get(key)
        return values[0] if values else default

    def upgrades_to(self, protocol: str) -> bool:
        """Whether the client wants the connection to become `protocol` (in lower case)."""
        connection = [token.lower() for token in self.tokens("connection")]
        return "upgrade" in connection and protocol in [token.lower() for token in self.tokens("upgrade")]


def read_request(method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Request:
    """A request from its parts on the wire. Raises HttpError."""
    merged: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        merged[name] = f"{merged[name]}, {value}" if name in merged else value
    text = target.decode("latin-1")
    try:
        parts = urlsplit(text if not text.startswith("//") else "/" + text.lstrip("/"))
        query = parse_qs(parts.query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError as error:
        raise HttpError(400, f"request target: {error}") from None
    return Request(
        method=method.decode("latin-1"), target=text, path=unquote(parts.path) or "/", headers=merged, query=query
    )


class Answering(Protocol):
    """What an exchange needs of its connection."""

    async def read_body(self, limit: int) -> bytes: ...

    def body_parts(self) -> AsyncIterator[bytes]: ...

    async def answer(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None: ...

    async def begin(self, status: int, headers: Sequence[tuple[str, str]]) -> None: ...

    async def send_part(self, data: bytes) -> None: ...

    async def upgrade(self, headers: Sequence[tuple[str, str]]) -> StreamDuplex: ...

    def extra_info(self, name: str) -> Any: ...


class ResponseStream:
    """The body of an answer that is written piece by piece; it ends when the handler returns."""

    def __init__(self, connection: Answering) -> None:
        self._connection = connection

    async def write(self, data: bytes) -> None:
        """Returns when there is room for more. Raises OSError when the client is gone."""
        if data:
            await self._connection.send_part(data)


class Exchange:
    """A request that is answered once: with `answer`, `stream` or `upgrade`."""

    def __init__(self, request: Request, connection: Answering) -> None:
        self.request = request
        self.answered = False
        self._connection = connection

    def extra_info(self, name: str) -> Any:
        """Of the transport: `peername`, `ssl_object`, `peercert`, `socket`."""
        return self._connection.extra_info(name)

    async def body(self, limit: int = MAX_BODY) -> bytes:
        """The whole body. Raises HttpError (413) when it is longer than `limit`."""
        return await self._connection.read_body(limit)

    def body_parts(self) -> AsyncIterator[bytes]:
        """The body as it arrives, however long."""
        return self._connection.body_parts()

    async def answer(
        self,
        status: int,
        body: bytes | str = b"",
        content_type: str = "text/plain; charset=utf-8",
        *,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """The whole answer at once."""
        self._once()
        raw = body.encode() if isinstance(body, str) else body
        await self._connection.answer(status, [("Content-Type", content_type), *headers], raw)

    async def stream(
        self,
        status: int = 200,
        content_type: str = "text/plain; charset=utf-8",
        *,
        headers: Sequence[tuple[str, str]] = (),
    ) -> ResponseStream:
        """Begin an answer of unknown length. From now on the handler is cancelled when the client goes away."""
        self._once()
        await self._connection.begin(status, [("Content-Type", content_type), *headers])
        return ResponseStream(self._connection)

    async def upgrade(self, headers: Sequence[tuple[str, str]]) -> StreamDuplex:
        """Switch protocols (101); `headers` name the new one. The pipe is closed when the handler returns."""
        if self.answered:
            raise RuntimeError("this request was answered already")
        if "upgrade" not in self.request.headers or "connection" not in self.request.headers:
            raise HttpError(400, "the request does not ask for an upgrade")
        duplex = await self._connection.upgrade([("Connection", "Upgrade"), *headers])
        self.answered = True
        return duplex

    def _once(self) -> None:
        if self.answered:
            raise RuntimeError("this request was answered already")
        self.answered = True
