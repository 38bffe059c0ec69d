"""The small HTTPS client against servers that answer well, oddly, and not at all."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgeappliance.edgehub import https
from tests.support.kubeedge_authority import Authority


@contextlib.asynccontextmanager
async def server(directory: Path, answer: bytes, *, stay: bool = False) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers every request with `answer`, then closes, or stays."""
    asked: list[bytes] = []
    release = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line[:15] == b"Content-Length:"), 0)
        asked.append(head + await reader.readexactly(length))
        writer.write(answer)
        if stay:
            await release.wait()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Authority().server_files(directory))
    running = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield running.sockets[0].getsockname()[1], asked
    finally:
        release.set()
        running.close()
        await running.wait_closed()
        await asyncio.sleep(0)


def anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", b""),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            b"abc0123456789",
        ),
    ],
)
async def test_the_ways_a_body_ends(tmp_path: Path, answer: bytes, body: bytes) -> None:
    async with server(tmp_path, answer) as (port, asked):
        found = await https.get(
            "127.0.0.1", port, "/edge.crt", context=anybody(), headers={"NodeName": "n"}, body=b"CSR"
        )
        assert found == https.Answer(200, body)
        head, _, sent = asked[0].partition(b"\r\n\r\n")
        assert sent == b"CSR"
        assert head.startswith(b"GET /edge.crt HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"NodeName: n" in head


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * (https.MAX_ANSWER + 1),
    ],
    ids=["ssh", "status", "huge", "negative", "huge-chunk", "bad-chunk", "long-head", "endless"],
)
async def test_what_is_no_answer_is_named(tmp_path: Path, answer: bytes) -> None:
    async with server(tmp_path, answer) as (port, _):
        with pytest.raises(https.AnswerError):
            await https.get("127.0.0.1", port, "/", context=anybody())


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"])
async def test_a_connection_that_ends_early(tmp_path: Path, answer: bytes) -> None:
    async with server(tmp_path, answer) as (port, _):
        with pytest.raises(ConnectionResetError):
            await https.get("127.0.0.1", port, "/", context=anybody())


async def test_a_server_that_says_nothing(tmp_path: Path) -> None:
    async with server(tmp_path, b"", stay=True) as (port, _):
        with pytest.raises(TimeoutError):
            await https.get("127.0.0.1", port, "/", context=anybody(), timeout=0.2)
