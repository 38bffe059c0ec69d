"""The HTTP server and client on real sockets."""

import asyncio
import stat
from pathlib import Path

import pytest

from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.web import client
from edgeappliance.kernel.web.exchange import Exchange, HttpError
from edgeappliance.kernel.web.server import WebServer


class Site:
    """Handlers for the tests; remembers who was cancelled."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.seen: list[Exchange] = []

    async def __call__(self, exchange: Exchange) -> None:
        self.seen.append(exchange)
        match exchange.request.path:
            case "/hello":
                await exchange.answer(200, f"hello {exchange.request.first('name', 'you')}\n")
            case "/echo":
                await exchange.answer(200, await exchange.body(1000))
            case "/refused":
                raise HttpError(404, "not here")
            case "/broken":
                raise OSError(111, "the engine is away")
            case "/silent":
                return
            case "/lines":
                stream = await exchange.stream()
                for number in range(3):
                    await stream.write(f"line {number}\n".encode())
            case "/half":
                stream = await exchange.stream()
                await stream.write(b"the first half")
                raise ValueError("the second half is lost")
            case "/ever":
                stream = await exchange.stream()
                try:
                    while True:
                        await stream.write(b"x" * 1000)
                        await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            case "/quiet":
                await exchange.stream()
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            case "/talk":
                duplex = await exchange.upgrade([("Upgrade", "shout")])
                while data := await duplex.read():
                    await duplex.write(data.upper())


@pytest.fixture
async def site(tmp_path: Path):
    server = WebServer(Site(), unix=tmp_path / "s")
    await server.start()
    yield server
    await server.stop()


async def ask(path: Path, method: str, target: str, **more) -> tuple[int, bytes]:
    async with client.request(path, method, target, **more) as response:
        return response.status, b"".join([data async for data in response])


@pytest.mark.parametrize(
    ("method", "target", "body", "answer"),
    [
        ("GET", "/hello", b"", (200, b"hello you\n")),
        ("GET", "/hello?name=a%20b&name=c", b"", (200, b"hello a b\n")),
        ("GET", "/%68ello", b"", (200, b"hello you\n")),
        ("HEAD", "/hello", b"", (200, b"")),
        ("HEAD", "/lines", b"", (200, b"")),
        ("POST", "/echo", b"abc", (200, b"abc")),
        ("POST", "/echo", b"a" * 1001, (413, b"the body is longer than 1000 bytes")),
        ("GET", "/refused", b"", (404, b"not here")),
        ("GET", "/broken", b"", (500, b"ConnectionRefusedError: [Errno 111] the engine is away")),
        ("GET", "/silent", b"", (500, b"the request was not answered")),
        ("GET", "/lines", b"", (200, b"line 0\nline 1\nline 2\n")),
    ],
)
async def test_answers(site: WebServer, tmp_path: Path, method: str, target: str, body: bytes, answer: object) -> None:
    assert await ask(tmp_path / "s", method, target, body=body) == answer


async def test_the_socket_is_its_owners(site: WebServer, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    with pytest.raises(OperatorError, match="another process answers"):
        await WebServer(Site(), unix=tmp_path / "s").start()
    await site.stop()
    assert not (tmp_path / "s").exists()
    with pytest.raises(client.HttpUnreachable, match="No such file"):
        await ask(tmp_path / "s", "GET", "/hello")


async def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    first = await asyncio.start_unix_server(lambda r, w: None, path=str(tmp_path / "s"))
    first.close()
    await first.wait_closed()
    server = WebServer(Site(), unix=tmp_path / "s")
    await server.start()
    assert (await ask(tmp_path / "s", "GET", "/hello"))[0] == 200
    await server.stop()


async def test_a_taken_port_is_named() -> None:
    server = WebServer(Site())
    await server.start()
    with pytest.raises(OperatorError, match=f"127.0.0.1:{server.port}: .*in use"):
        await WebServer(Site(), port=server.port).start()
    await server.stop()


async def raw(path: Path, data: bytes, *, end: bool = False) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    if end:
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_connection_is_kept_for_the_next_request(site: WebServer, tmp_path: Path) -> None:
    one = b"GET /lines HTTP/1.1\r\nHost: x\r\n\r\n"
    post = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok"
    last = b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await raw(tmp_path / "s", one + post + last)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.endswith(b"hello you\n")


async def test_a_body_that_nobody_reads_ends_the_connection(site: WebServer, tmp_path: Path) -> None:
    post = b"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nok"
    answer = await raw(tmp_path / "s", post)
    assert answer.endswith(b"hello you\n")


async def test_expect_100_continue(site: WebServer, tmp_path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
    writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 100")
    await reader.readline()
    writer.write(b"ok")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000, b"431"),
        (b"GET /hello?" + b"a=1&" * 1000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"POST /talk HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    ],
)
async def test_bad_requests(site: WebServer, tmp_path: Path, data: bytes, status: bytes) -> None:
    assert (await raw(tmp_path / "s", data, end=True)).startswith(b"HTTP/1.1 " + status)


async def test_a_broken_answer_does_not_look_whole(site: WebServer, tmp_path: Path) -> None:
    with pytest.raises(client.HttpUnreachable, match="broke off"):
        await ask(tmp_path / "s", "GET", "/half")


@pytest.mark.parametrize("target", ["/ever", "/quiet"])
async def test_a_client_that_leaves_ends_its_request(site: WebServer, tmp_path: Path, target: str) -> None:
    handler: Site = site._handler  # type: ignore[assignment]
    async with client.request(tmp_path / "s", "GET", target) as response:
        assert response.status == 200
    async with asyncio.timeout(2):
        await handler.cancelled.wait()
        while site.connections:
            await asyncio.sleep(0.01)


async def test_a_client_that_reads_nothing_stops_the_writer_only(site: WebServer, tmp_path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"), limit=1024)
    writer.write(b"GET /ever HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.sleep(0.1)
    assert (await ask(tmp_path / "s", "GET", "/hello"))[0] == 200
    writer.transport.abort()
    handler: Site = site._handler  # type: ignore[assignment]
    async with asyncio.timeout(2):
        await handler.cancelled.wait()
    del reader


async def test_upgrade(site: WebServer, tmp_path: Path) -> None:
    answer = await client.upgrade(tmp_path / "s", "POST", "/talk", headers={"Upgrade": "shout"})
    assert answer.status == 101
    assert answer.headers["upgrade"] == "shout"
    assert answer.duplex is not None
    await answer.duplex.write(b"abc")
    assert await answer.duplex.read() == b"ABC"
    await answer.duplex.close()
    refused = await client.upgrade(tmp_path / "s", "POST", "/refused", headers={"Upgrade": "shout"})
    assert (refused.status, refused.duplex, refused.body) == (404, None, b"not here")


async def test_bytes_sent_with_the_upgrade_are_not_lost(site: WebServer, tmp_path: Path) -> None:
    head = b"POST /talk HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\n"
    assert (await raw(tmp_path / "s", head + b"early", end=True)).endswith(b"\r\n\r\nEARLY")


async def test_stop_ends_what_is_open(tmp_path: Path) -> None:
    server = WebServer(Site(), unix=tmp_path / "s")
    await server.start()
    async with client.request(tmp_path / "s", "GET", "/quiet"):
        async with asyncio.timeout(2):
            await server.stop()
    assert server.connections == 0


async def test_connections_are_bounded(tmp_path: Path) -> None:
    server = WebServer(Site(), unix=tmp_path / "s", max_connections=2)
    await server.start()
    async with client.request(tmp_path / "s", "GET", "/quiet"), client.request(tmp_path / "s", "GET", "/quiet"):
        with pytest.raises(client.HttpUnreachable):
            await ask(tmp_path / "s", "GET", "/hello")
    async with asyncio.timeout(2):
        while server.connections:
            await asyncio.sleep(0.01)
    assert (await ask(tmp_path / "s", "GET", "/hello"))[0] == 200
    await server.stop()


async def test_slow_heads_are_dropped(site: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeappliance.kernel.web.connection.HEAD_TIMEOUT", 0.1)
    async with asyncio.timeout(2):
        assert await raw(tmp_path / "s", b"GET /hello HTTP/1.1\r\n") == b""


async def test_a_server_that_says_nothing(tmp_path: Path) -> None:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(nothing, path=str(tmp_path / "s"))
    with pytest.raises(client.HttpUnreachable, match=r"no answer within 0.1 s"):
        await ask(tmp_path / "s", "GET", "/hello", timeout=0.1)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("bad", ["/a b", "/a\r\nX: y", "/\u20ac"])
async def test_a_target_cannot_forge_a_head(site: WebServer, tmp_path: Path, bad: str) -> None:
    with pytest.raises(client.HttpUnreachable):
        await ask(tmp_path / "s", "GET", bad)
