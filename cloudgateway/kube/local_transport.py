"""Requests straight into the embedded API, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import unquote

from cloudgateway.kube.errors import ApiUnavailable, api_error
from cloudgateway.kube.transport import Request, Response
from edgeappliance.kubeapi.request import ApiRequest, ApiResponse, User

__all__ = ["LocalApi", "LocalTransport"]


class LocalApi(Protocol):
    """The core of the embedded API."""

    def handle(self, request: ApiRequest, /) -> Awaitable[ApiResponse]: ...


class LocalTransport:
    """Calls an API core of the same process, as an administrator unless `user` says otherwise."""

    def __init__(self, api: LocalApi, *, user: User | None = None) -> None:
        self._api = api
        self._user = user or User("system:cloudgateway", ("system:masters", "system:authenticated"))

    async def send(self, request: Request, *, timeout: float) -> Response:
        try:
            async with asyncio.timeout(timeout):
                response = await self._api.handle(self._translate(request))
                body = response.body
                if not isinstance(body, bytes):
                    body = b"".join([chunk async for chunk in body])
        except TimeoutError:
            raise ApiUnavailable(f"the embedded API did not answer within {timeout:.0f} s") from None
        return Response(response.status, body)

    @asynccontextmanager
    async def stream(self, request: Request, *, read_timeout: float) -> AsyncIterator[AsyncIterator[bytes]]:
        del read_timeout  # there is no line that could be cut
        response = await self._api.handle(self._translate(request))
        body = response.body
        if response.status != 200:
            raise api_error(response.status, body if isinstance(body, bytes) else b"")
        chunks = _once(body) if isinstance(body, bytes) else body
        try:
            yield chunks
        finally:
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()  # the watch ends with its reader, not with the garbage collector

    async def close(self) -> None:
        """The API belongs to its owner."""

    def _translate(self, request: Request) -> ApiRequest:
        return ApiRequest(
            method=request.method,
            path=unquote(request.path),
            query=request.query,
            body=request.body or b"",
            content_type=request.content_type if request.body is not None else "",
            accept=request.accept,
            user=self._user,
        )


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
