"""A server on a Unix socket or a TCP port. A component."""

import asyncio
import os
import socket
import ssl
from pathlib import Path

from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.http import close_all
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.web.connection import Connection, Handler

MAX_CONNECTIONS = 256
MODE = 0o600
STOP_TIMEOUT = 2.0
"""Seconds in which connections may end in order when the server stops; then they are dropped."""

_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
"""A client whose machine went away is noticed after a minute, also while nothing is sent."""


class WebServer:
    """Hands each request to `handler`. Either `unix`, a path that only its owner may open, or `host` and `port`."""

    def __init__(
        self,
        handler: Handler,
        *,
        unix: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._handler = handler
        self._unix = unix
        self._host = host
        self._port = port
        self._tls = tls
        self._max_connections = max_connections
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._turned_away = 0
        self._log = get_logger("web")

    @property
    def port(self) -> int:
        """The port in use (of interest when 0 was asked for)."""
        if self._unix is not None or self._server is None or not self._server.sockets:
            return self._port
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def start(self) -> None:
        """Listen. Raises OperatorError when the port or the socket is taken."""
        try:
            if self._unix is not None:
                self._server = await self._listen_unix(self._unix)
            else:
                self._server = await asyncio.start_server(self._serve, self._host, self._port, ssl=self._tls)
        except OSError as error:
            raise OperatorError(
                f"cannot listen on {self._where()}: {error.strerror or error}",
                next_step="choose another port or stop the program that holds it"
                if self._unix is None
                else "check the directory and its mode",
            ) from None

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = None
        if self._unix is not None:
            self._unix.unlink(missing_ok=True)
        await asyncio.sleep(0)  # a connection accepted just now gets its task
        doomed = dict(self._connections)
        for task in doomed:
            task.cancel()
        if doomed:
            _, slow = await asyncio.wait(doomed, timeout=STOP_TIMEOUT)
            for task in slow:
                doomed[task].transport.abort()
            if slow:
                await asyncio.wait(slow, timeout=STOP_TIMEOUT)

    def health(self) -> Health:
        state = State.RUNNING if self._server is not None else State.STOPPED
        details = {
            "address": self._where(),
            "connections": len(self._connections),
            "turned_away_total": self._turned_away,
        }
        return Health(state, details=details)

    def _where(self) -> str:
        return str(self._unix) if self._unix is not None else f"{self._host}:{self.port}"

    async def _listen_unix(self, path: Path) -> asyncio.Server:
        if await _somebody_listens(path):
            raise OperatorError(f"another process answers on {path}", next_step="stop it first")
        return await asyncio.start_unix_server(self._serve, sock=_bind(path))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= self._max_connections:
            self._turned_away += 1
            self._log.warning("connection turned away", at=self._where(), connections=len(self._connections))
            writer.transport.abort()
            return
        self._connections[task] = writer
        try:
            keep_alive(writer)
            await Connection(reader, writer, self._handler).serve()
        except asyncio.CancelledError:
            return  # stop(); asyncio's stream server would log the cancellation as an error
        finally:
            del self._connections[task]


def keep_alive(writer: asyncio.StreamWriter) -> None:
    """Let the kernel find out when a TCP peer is gone. Nothing on a Unix socket."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        except OSError:
            return  # gone already


async def serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler, *, first: bytes = b""
) -> None:
    """Serve one connection that was accepted elsewhere. `first`: bytes that were read from it already."""
    await Connection(reader, writer, handler, first=first).serve()


def _bind(path: Path) -> socket.socket:
    """A socket there, in place of one that nobody answers on. Raises OSError."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o777 & ~MODE)
    try:
        sock.bind(str(path))
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(previous)
    return sock


async def _somebody_listens(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return False
    await close_all({writer})
    return True
