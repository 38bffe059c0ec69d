"""The first bytes of a connection, which say whether aiohttp serves it or an upgrade takes it over."""

import asyncio
from collections.abc import Callable
from typing import cast

from cloudgateway.apiserver.upgrades import wants_upgrade
from edgeappliance.kernel.duplex import CHUNK

FIRST_REQUEST_SECONDS = 30.0
"""How long a client may take for the head of its first request."""

HEAD_LIMIT = 64 * 1024


class Entrance(asyncio.Protocol):
    """Holds a connection until the head of its first request is there, then hands it over.

    plain: makes the protocol for everything but upgrades. upgraded: takes this entrance, and its `streams`.
    """

    def __init__(self, plain: Callable[[], asyncio.Protocol], upgraded: Callable[["Entrance"], None]) -> None:
        self._plain = plain
        self._upgraded = upgraded
        self._head = bytearray()
        self._transport: asyncio.Transport | None = None
        self._silent: asyncio.TimerHandle | None = None

    def streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        """The connection as a pair of streams, and the bytes that were read of it already."""
        transport = self._transport
        if transport is None:
            raise ConnectionResetError("the connection is gone")
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=CHUNK, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop), bytes(self._head)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast: uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._silent = asyncio.get_running_loop().call_later(FIRST_REQUEST_SECONDS, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._heard()
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._head += data
        if self._transport is None or not (b"\r\n\r\n" in self._head or _strange(self._head)):
            return
        self._heard()
        if wants_upgrade(bytes(self._head.partition(b"\r\n\r\n")[0])):
            self._upgraded(self)
            return
        protocol = self._plain()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(bytes(self._head))

    def _heard(self) -> None:
        if self._silent is not None:
            self._silent.cancel()
            self._silent = None


def _strange(head: bytearray) -> bool:
    """Whether it is no beginning of a proper HTTP/1.1 head: aiohttp knows what to say to it."""
    line, complete, _ = head.partition(b"\n")
    if len(head) > HEAD_LIMIT or b"\n\n" in head:
        return True
    return bool(complete) and not line.rstrip(b"\r").endswith((b" HTTP/1.1", b" HTTP/1.0"))
