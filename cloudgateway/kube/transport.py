"""How requests reach an API: over HTTP (`http_transport`) or straight into the embedded one (`local_transport`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Request", "Response", "Transport"]

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """One API request. `path` is absolute and already escaped; `query` is not."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = JSON
    accept: str = JSON


@dataclass(frozen=True, slots=True)
class Response:
    """A complete answer. `retry_after` is the server's wish in seconds, 0 when it has none."""

    status: int
    body: bytes
    retry_after: float = 0.0


class Transport(Protocol):
    """Sends requests; knows the server's address and our identity, nothing about Kubernetes objects."""

    async def send(self, request: Request, *, timeout: float) -> Response:
        """The whole answer, whatever its status. Raises ApiUnavailable."""
        ...

    def stream(self, request: Request, *, read_timeout: float) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """An answer's body in pieces as they arrive; ends with the body.

        Raises ApiUnavailable, also when nothing came for `read_timeout` seconds, and ApiError on entering when
        the status is not 200.
        """
        ...

    async def close(self) -> None:
        """Idempotent."""
        ...
