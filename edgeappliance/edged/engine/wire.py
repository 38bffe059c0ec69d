"""One request to the Docker Engine on the event loop: for what streams, is hijacked, or takes long.

Requests are HTTP/1.0: the engine then neither keeps the connection nor cuts the body into chunks, so what follows
the head is the stream itself, in both directions where it is hijacked (Engine API, "Attach to a container").
"""

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeappliance.edged.engine.api import EngineAway, EngineRefused

MAX_BODY = 16 * 1024 * 1024
"""Bytes of an answer that is read as a whole."""
READ_SIZE = 128 * 1024
HEAD_TIMEOUT = 30.0
CLOSE_TIMEOUT = 1.0


class Answer:
    """Status, headers (lower case) and the stream that follows. Close it."""

    def __init__(
        self, status: int, headers: Mapping[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.status = status
        self.headers = headers
        self._reader = reader
        self._writer = writer

    @property
    def peer(self) -> int:
        """The process that listens at the other end; 0 when the kernel does not say (unix(7), SO_PEERCRED)."""
        found: socket.socket | None = self._writer.get_extra_info("socket")
        if found is None:
            return 0
        pid, _uid, _gid = struct.unpack("3i", found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(pid)

    async def read(self) -> bytes:
        """The next bytes, b"" at the end."""
        try:
            return await self._reader.read(READ_SIZE)
        except OSError as error:
            raise EngineAway(f"the Docker Engine went away: {error}") from None

    async def body(self, *, limit: int = MAX_BODY) -> bytes:
        """All of it. Raises EngineAway when it is cut short or longer than `limit`."""
        parts: list[bytes] = []
        size = 0
        while data := await self.read():
            size += len(data)
            if size > limit:
                raise EngineAway(f"the Docker Engine's answer is longer than {limit} bytes")
            parts.append(data)
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length) != size:
            raise EngineAway("the Docker Engine's answer was cut short")
        return b"".join(parts)

    async def write(self, data: bytes) -> None:
        """Returns when there is room for more."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise EngineAway(f"the Docker Engine went away: {error}") from None

    def write_eof(self) -> None:
        """End our direction only."""
        try:
            self._writer.write_eof()
        except (OSError, RuntimeError):
            pass  # it is gone already: the reader will say so

    def abort(self) -> None:
        """Drop the connection now; who reads it sees its end."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Idempotent, never raises."""
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()


async def ask(
    path: Path,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: Any = None,
    timeout: float = HEAD_TIMEOUT,
) -> Answer:
    """Send a request (`body` as JSON) and return at the end of the answer's head, whatever its status.

    Raises EngineAway when nobody answers within `timeout` seconds, or not in HTTP.
    """
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=READ_SIZE)
            try:
                writer.write(_request(method, target, headers or {}, body))
                await writer.drain()
                status, found = await _head(reader)
            except BaseException:
                writer.transport.abort()
                raise
            return Answer(status, found, reader, writer)
    except TimeoutError:
        raise EngineAway(f"the Docker Engine does not answer within {timeout:g} s") from None
    except FileNotFoundError:
        raise EngineAway(f"there is no Docker Engine at {path}", next_step=_NEXT_STEP) from None
    except PermissionError:
        raise EngineAway(
            f"{path} may not be used by this user", next_step="run as root or in the group docker"
        ) from None
    except OSError as error:
        raise EngineAway(
            f"no Docker Engine answers at {path}: {error.strerror or error}", next_step=_NEXT_STEP
        ) from None


_NEXT_STEP = "install and start Docker (systemctl status docker), correct edged.docker, or set edged.enable = false"


async def ask_json(path: Path, target: str, *, timeout: float = HEAD_TIMEOUT) -> Any:
    """GET a JSON document. Raises EngineAway and EngineRefused."""
    answer = await ask(path, "GET", target, timeout=timeout)
    try:
        async with asyncio.timeout(timeout):
            body = await answer.body()
    except TimeoutError:
        raise EngineAway(f"the Docker Engine does not finish its answer within {timeout:g} s") from None
    finally:
        await answer.close()
    if answer.status != 200:
        raise refusal(answer.status, body)
    try:
        return json.loads(body)
    except ValueError:
        raise EngineAway("the Docker Engine's answer is not JSON") from None


def refusal(status: int, body: bytes) -> EngineRefused:
    """What the engine said, as the error to raise."""
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = body.decode(errors="replace").strip() or f"status {status}"
    return EngineRefused(message[:4096], code=status)


def _request(method: str, target: str, headers: Mapping[str, str], body: Any) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {target} HTTP/1.0", "Host: docker"]
    if body is not None:
        lines.append("Content-Type: application/json")
    if method != "GET":
        lines.append(f"Content-Length: {len(content)}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        raise EngineAway("the Docker Engine hung up") from None
    except asyncio.LimitOverrunError:
        raise EngineAway("this is no Docker Engine: its answer has no end of head") from None
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise EngineAway("this is no Docker Engine: its answer is not HTTP")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return int(words[1]), headers
