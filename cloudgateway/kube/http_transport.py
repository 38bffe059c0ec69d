"""Requests to a real API server over HTTP; the only module of this package that knows aiohttp."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakSet

import aiohttp
from yarl import URL

from cloudgateway.kube.access import ClusterAccess
from cloudgateway.kube.errors import ApiUnavailable, api_error
from cloudgateway.kube.transport import Request, Response

__all__ = ["HttpTransport"]

_TOKEN_LIFETIME = 60.0
_STREAM_CHUNK = 256 * 1024
_CLOSE_TIME = 1.0


class HttpTransport:
    """One pool of connections to one API server.

    Must be built inside a running event loop. `connections` bounds what is open at once (watches included: give
    it room for as many as there are watched resources).
    """

    def __init__(self, access: ClusterAccess, *, connections: int = 128) -> None:
        self._access = access
        self._base = access.server
        self._server_name = access.tls_server_name or None
        self._token = access.token
        self._token_read = 0.0
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=access.ssl_context() or True, limit=connections, socket_factory=self._socket
            ),
            headers={"User-Agent": "cloudgateway"},
            auto_decompress=True,
            read_bufsize=_STREAM_CHUNK,
            # Watches must not be ended by the whole-request limit; each call sets its own.
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def send(self, request: Request, *, timeout: float) -> Response:
        try:
            try:
                return await self._send(request, timeout)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                # A kept connection that the server has closed meanwhile shows only when it is used. Once more on a
                # new one, unless it could not connect at all or doing it twice would make a difference.
                if isinstance(error, aiohttp.ClientConnectorError) or request.method == "POST":
                    raise
                return await self._send(request, timeout)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unavailable(self._base, error) from error

    async def _send(self, request: Request, timeout: float) -> Response:
        async with self._session.request(
            request.method,
            self._url(request),
            data=request.body,
            headers=await self._headers(request),
            server_hostname=self._server_name,
            timeout=aiohttp.ClientTimeout(total=timeout, connect=min(timeout, 10.0)),
        ) as response:
            body = await response.read()
            return Response(response.status, body, _retry_after(response))

    @asynccontextmanager
    async def stream(self, request: Request, *, read_timeout: float) -> AsyncIterator[AsyncIterator[bytes]]:
        try:
            async with self._session.request(
                request.method,
                self._url(request),
                headers=await self._headers(request),
                server_hostname=self._server_name,
                timeout=aiohttp.ClientTimeout(total=None, connect=10.0, sock_read=read_timeout),
            ) as response:
                if response.status != 200:
                    raise api_error(response.status, await response.read())
                yield response.content.iter_any()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unavailable(self._base, error) from error

    async def close(self) -> None:
        await self._session.close()
        # aiohttp does not wait for the connections of requests that were cancelled: they need some turns more.
        deadline = asyncio.get_running_loop().time() + _CLOSE_TIME
        while any(made.fileno() >= 0 for made in self._sockets):
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.005)

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        made = _keepalive_socket(address)
        self._sockets.add(made)
        return made

    def _url(self, request: Request) -> URL:
        url = URL(self._base + request.path, encoded=True)
        return url.with_query(dict(request.query)) if request.query else url

    async def _headers(self, request: Request) -> dict[str, str]:
        headers = {"Accept": request.accept}
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        if self._access.token_file is not None and time.monotonic() - self._token_read > _TOKEN_LIFETIME:
            try:
                text = await asyncio.to_thread(self._access.token_file.read_text)
            except OSError as error:
                if not self._token:
                    raise ApiUnavailable(f"cannot read the token file {self._access.token_file}: {error}") from error
            else:
                self._token = text.strip()
                self._token_read = time.monotonic()
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        return headers


def _keepalive_socket(address: tuple[Any, ...]) -> socket.socket:
    # A watch is silent for minutes on a quiet cluster; without probes a cut line would look like silence.
    family, kind, protocol = address[0], address[1], address[2]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
    return made


def _retry_after(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), 30.0) if text.isdigit() else 0.0


def _unavailable(server: str, error: BaseException) -> ApiUnavailable:
    reason = str(error) or type(error).__name__
    return ApiUnavailable(
        f"the Kubernetes API at {server} does not answer: {reason}",
        next_step="check that the API server runs and can be reached from the gateway",
    )
