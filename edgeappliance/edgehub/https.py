"""One HTTPS GET, with a body when asked for: all that enrolment needs, without an HTTP library."""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from edgeappliance.kernel.reach import reach

MAX_ANSWER = 1024 * 1024
MAX_HEAD = 16 * 1024


class AnswerError(Exception):
    """The peer's answer is not HTTP, or larger than what enrolment ever sends."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status code and body of a response."""

    status: int
    body: bytes


async def get(
    host: str,
    port: int,
    path: str,
    *,
    context: ssl.SSLContext,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    timeout: float = 30.0,
) -> Answer:
    """GET `https://host:port/path`; `body` travels on the GET, as `/edge.crt` wants it (reference 3.3).

    Raises OSError (ssl.SSLError included), TimeoutError after `timeout` seconds, AnswerError.
    """
    async with asyncio.timeout(timeout):
        reader, writer = await reach(
            host,
            port,
            lambda address: asyncio.open_connection(address, port, ssl=context, server_hostname=host, limit=MAX_HEAD),
            timeout=timeout,
        )
        try:
            shown = f"[{host}]" if ":" in host else host
            lines = [f"GET {path} HTTP/1.1", f"Host: {shown}:{port}", "Connection: close", "Accept: */*"]
            lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
            if body:
                lines.append(f"Content-Length: {len(body)}")
            writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            await writer.drain()
            return await _read_answer(reader)
        finally:
            # Not awaited: the answer is complete, and a peer that never closes its side would hold us.
            writer.transport.abort()


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, _, rest = head[0].partition(" ")
        status = int(rest[:3])
        if not version.startswith("HTTP/1."):
            raise AnswerError(f"not an HTTP answer: {head[0][:80]!r}")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return Answer(status, await _read_chunks(reader))
        if "content-length" in headers:
            length = int(headers["content-length"])
            if not 0 <= length <= MAX_ANSWER:
                raise AnswerError(f"an answer of {length} bytes")
            return Answer(status, await reader.readexactly(length))
        body = await reader.read(MAX_ANSWER + 1)
        while not reader.at_eof() and len(body) <= MAX_ANSWER:
            body += await reader.read(MAX_ANSWER + 1 - len(body))
        if len(body) > MAX_ANSWER:
            raise AnswerError(f"an answer of more than {MAX_ANSWER} bytes")
        return Answer(status, body)
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("the connection ended in the middle of the answer") from error
    except (asyncio.LimitOverrunError, ValueError) as error:
        raise AnswerError(f"not an HTTP answer: {error}") from error


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    """A chunked body (RFC 9112, 7.1): Go uses it for bodies above 2 KiB."""
    body = b""
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size == 0:
            return body
        if not 0 < size <= MAX_ANSWER - len(body):
            raise AnswerError(f"an answer of more than {MAX_ANSWER} bytes")
        body += await reader.readexactly(size)
        await reader.readexactly(2)
