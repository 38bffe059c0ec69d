"""A client: one request a connection, its answer as a stream, or an upgraded connection."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h11

from edgeappliance.kernel.duplex import CHUNK, Duplex, StreamDuplex
from edgeappliance.kernel.errors import TransientError

MAX_HEAD = 64 * 1024
MAX_REFUSAL = 64 * 1024
"""Bytes kept of the body of a refused upgrade."""

CONNECT_TIMEOUT = 10.0
HEAD_TIMEOUT = 30.0

Address = Path | tuple[str, int] | Duplex
"""A Unix socket, a host and port, or a pipe that leads to the server already."""

Headers = Mapping[str, str] | Sequence[tuple[str, str]]


class HttpUnreachable(TransientError):
    """Nobody answered, or not with HTTP."""


@dataclass(frozen=True, slots=True)
class Upgraded:
    """The answer to an upgrade: with status 101 the new pipe, else what the server said."""

    status: int
    headers: Mapping[str, str]
    duplex: Duplex | None
    body: bytes = b""


class Response:
    """The head of an answer; iterate for its body. Raises HttpUnreachable when it ends too early."""

    def __init__(self, talk: "_Talk", head: h11.Response | h11.InformationalResponse) -> None:
        self._talk = talk
        self.status = int(head.status_code)
        self.headers = _merged(head)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            event = await self._talk.next()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            else:
                return

    async def read(self, limit: int) -> bytes:
        """The body, cut at `limit` bytes."""
        parts = bytearray()
        async for data in self:
            parts += data
            if len(parts) >= limit:
                break
        return bytes(parts[:limit])


class _Talk:
    """h11's client side on a pipe."""

    def __init__(self, duplex: Duplex) -> None:
        self.duplex = duplex
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)

    async def send(self, request: h11.Request, body: bytes) -> None:
        data = self.http.send(request) or b""
        if body:
            data += self.http.send(h11.Data(data=body)) or b""
        data += self.http.send(h11.EndOfMessage()) or b""
        try:
            await self.duplex.write(data)
        except OSError:
            return  # the server may have answered before it read everything: its answer says more

    async def next(self) -> object:
        """The next event of the answer. Raises HttpUnreachable."""
        try:
            while (event := self.http.next_event()) is h11.NEED_DATA:
                self.http.receive_data(await self.duplex.read())
        except (OSError, h11.RemoteProtocolError) as error:
            raise HttpUnreachable(f"the answer broke off: {error}") from None
        return event

    async def head(self) -> h11.Response | h11.InformationalResponse:
        """The head of the answer, or 101."""
        while True:
            event = await self.next()
            if isinstance(event, h11.Response):
                return event
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    return event
            else:
                raise HttpUnreachable("the connection ended before the answer")


async def connect(
    address: Path | tuple[str, int], *, tls: ssl.SSLContext | None = None, timeout: float = CONNECT_TIMEOUT
) -> StreamDuplex:
    """A pipe to `address`. Raises HttpUnreachable."""
    try:
        async with asyncio.timeout(timeout):
            if isinstance(address, Path):
                reader, writer = await asyncio.open_unix_connection(str(address), limit=CHUNK)
            else:
                host, port = address
                reader, writer = await asyncio.open_connection(host, port, limit=CHUNK, ssl=tls)
    except TimeoutError:
        raise HttpUnreachable(f"{_where(address)}: no connection in time") from None
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise HttpUnreachable(f"{_where(address)}: {text}") from None
    return StreamDuplex(reader, writer)


@contextlib.asynccontextmanager
async def request(
    address: Address,
    method: str,
    target: str,
    *,
    headers: Headers = (),
    body: bytes = b"",
    tls: ssl.SSLContext | None = None,
    timeout: float = HEAD_TIMEOUT,
) -> AsyncIterator[Response]:
    """Ask, and give the answer once its head is there; `timeout` (s) is for connection and head, the body takes as
    long as it takes. Raises HttpUnreachable. Leaving the block closes the connection."""
    duplex = await _pipe(address, tls, timeout)
    try:
        talk = _Talk(duplex)
        async with _patience(address, timeout):
            await talk.send(_request(address, method, target, headers, body, close=True), body)
            head = await talk.head()
        yield Response(talk, head)
    finally:
        await duplex.close()


async def upgrade(
    address: Address,
    method: str,
    target: str,
    *,
    headers: Headers,
    tls: ssl.SSLContext | None = None,
    timeout: float = HEAD_TIMEOUT,
) -> Upgraded:
    """Ask for an upgrade; `headers` name the protocol (`Upgrade: SPDY/3.1`). Raises HttpUnreachable."""
    duplex = await _pipe(address, tls, timeout)
    try:
        talk = _Talk(duplex)
        async with _patience(address, timeout):
            await talk.send(_request(address, method, target, [("Connection", "Upgrade"), *_pairs(headers)], b""), b"")
            head = await talk.head()
            if head.status_code == 101:
                rest = talk.http.trailing_data[0]
                return Upgraded(101, _merged(head), _with_first(duplex, rest))
            response = Response(talk, head)
            return await _refused(response, duplex)
    except BaseException:
        await duplex.close()
        raise


async def _refused(response: Response, duplex: Duplex) -> Upgraded:
    try:
        body = await response.read(MAX_REFUSAL)
    except HttpUnreachable:
        body = b""
    await duplex.close()
    return Upgraded(response.status, response.headers, None, body)


class _Preceded:
    """A Duplex with bytes that were read from it already."""

    def __init__(self, duplex: Duplex, first: bytes) -> None:
        self._duplex = duplex
        self._first = first

    async def read(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        return await self._duplex.read()

    async def write(self, data: bytes) -> None:
        await self._duplex.write(data)

    async def close(self) -> None:
        await self._duplex.close()


def _with_first(duplex: Duplex, first: bytes) -> Duplex:
    return _Preceded(duplex, first) if first else duplex


async def _pipe(address: Address, tls: ssl.SSLContext | None, timeout: float) -> Duplex:
    if isinstance(address, Path | tuple):
        return await connect(address, tls=tls, timeout=min(timeout, CONNECT_TIMEOUT))
    return address


@contextlib.asynccontextmanager
async def _patience(address: Address, timeout: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError:
        raise HttpUnreachable(f"{_where(address)}: no answer within {timeout:g} s") from None


def _request(
    address: Address, method: str, target: str, headers: Headers, body: bytes, *, close: bool = False
) -> h11.Request:
    pairs = _pairs(headers)
    names = {name.lower() for name, _ in pairs}
    if "host" not in names:
        pairs.insert(0, ("Host", _host(address)))
    if body or method not in ("GET", "HEAD"):
        pairs.append(("Content-Length", str(len(body))))
    if close and "connection" not in names:
        pairs.append(("Connection", "close"))
    try:
        return h11.Request(method=method, target=target, headers=pairs)
    except (h11.LocalProtocolError, UnicodeEncodeError) as error:
        raise HttpUnreachable(f"{_where(address)}: not a request: {error}") from None


def _pairs(headers: Headers) -> list[tuple[str, str]]:
    return list(headers.items() if isinstance(headers, Mapping) else headers)


def _merged(head: h11.Response | h11.InformationalResponse) -> dict[str, str]:
    merged: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        merged[name] = f"{merged[name]}, {value}" if name in merged else value
    return merged


def _host(address: Address) -> str:
    if not isinstance(address, tuple):
        return "localhost"
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _where(address: Address) -> str:
    if isinstance(address, Path):
        return str(address)
    return _host(address) if isinstance(address, tuple) else "the pipe"
