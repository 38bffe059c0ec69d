"""Bounds what strangers can hold of a server: connections, and the time of each."""

import asyncio
from collections.abc import Callable
from typing import cast


class ConnectionGuard:
    """A protocol factory around another: at most `most` connections, none longer than `longest` seconds.

    An HTTP server waits for ever for the first byte of a request. The port is open to everybody, so the oldest
    connection makes room for a new one: an enrolment takes milliseconds, who holds on is not enrolling.
    """

    def __init__(self, factory: Callable[[], asyncio.Protocol], *, most: int, longest: float) -> None:
        self._factory = factory
        self._most = most
        self._longest = longest
        self._open: dict[_Guarded, None] = {}

    def __call__(self) -> asyncio.Protocol:
        return _Guarded(self, self._factory())

    def opened(self, connection: "_Guarded") -> float:
        """A connection is there; how long it may last."""
        if len(self._open) >= self._most:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.abort()
        self._open[connection] = None
        return self._longest

    def closed(self, connection: "_Guarded") -> None:
        """A connection is gone."""
        self._open.pop(connection, None)


class _Guarded(asyncio.Protocol):
    """Hands everything on to `inner`."""

    def __init__(self, guard: ConnectionGuard, inner: asyncio.Protocol) -> None:
        self._guard = guard
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._end: asyncio.TimerHandle | None = None
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._end = asyncio.get_running_loop().call_later(self._guard.opened(self), self.abort)
        self._inner.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()
        self._guard.closed(self)
        self._inner.connection_lost(error)

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()
