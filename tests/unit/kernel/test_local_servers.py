"""The loopback HTTP server, the control socket, host commands, back-off."""

import asyncio
import stat
from pathlib import Path

import pytest

from edgeappliance.kernel import control, hostcmd
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.errors import OperatorError, TransientError
from edgeappliance.kernel.http import Answer, LocalHttpServer


async def get(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.fixture
async def http():
    server = LocalHttpServer(host="127.0.0.1", port=0, pages={"/metrics": lambda: Answer(200, b"up 1\n")})
    await server.start()
    yield server
    await server.stop()


@pytest.mark.parametrize(
    ("request_text", "status", "body"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200 OK", b"up 1\n"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200 OK", b"up 1\n"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200 OK", b""),
        (b"GET /nope HTTP/1.1\r\n\r\n", b"404 Not Found", b"try /metrics\n"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed", b"GET only\n"),
        (b"hello\r\n\r\n", b"400 Bad Request", b"not HTTP/1.x\n"),
    ],
)
async def test_http_answers(http: LocalHttpServer, request_text: bytes, status: bytes, body: bytes) -> None:
    head, _, rest = (await get(http.port, request_text)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert rest == body


async def test_http_drops_an_endless_head(http: LocalHttpServer) -> None:
    assert await get(http.port, b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000) == b""


async def test_http_says_which_port_is_taken(http: LocalHttpServer) -> None:
    second = LocalHttpServer(host="127.0.0.1", port=http.port, pages={})
    with pytest.raises(OperatorError, match=str(http.port)):
        await second.start()


async def test_control_socket_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"

    async def add(arguments):
        return arguments["a"] + arguments["b"]

    async def refuse(arguments):
        raise OperatorError("no", next_step="do that")

    server = control.ControlServer(path=path, verbs={"add": add, "refuse": refuse})
    await server.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert await control.call(path, "add", a=1, b=2) == 3
    with pytest.raises(TransientError, match="do that"):
        await control.call(path, "refuse")
    with pytest.raises(TransientError, match="unknown 'nothing'"):
        await control.call(path, "nothing")
    second = control.ControlServer(path=path, verbs={})
    with pytest.raises(OperatorError, match="another edgecore"):
        await second.start()
    await server.stop()
    with pytest.raises(OperatorError, match="is it running"):
        await control.call(path, "add")


async def test_control_socket_survives_garbage(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    server = control.ControlServer(path=path, verbs={})
    await server.start()
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"\x00garbage\n")
    assert b"error" in await reader.readline()
    writer.close()
    await writer.wait_closed()
    await server.stop()


async def test_a_verb_that_breaks_and_an_answer_of_many_megabytes(tmp_path: Path) -> None:
    async def broken(arguments):
        raise KeyError("nobody thought of this")

    async def long(arguments):
        return "x" * 6_000_000

    path = tmp_path / "c.sock"
    server = control.ControlServer(path=path, verbs={"broken": broken, "long": long})
    await server.start()
    with pytest.raises(TransientError, match="KeyError"):
        await control.call(path, "broken")
    assert len(await control.call(path, "long")) == 6_000_000
    await server.stop()


async def test_an_answer_that_is_cut_off_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"

    async def half(reader, writer):
        await reader.readline()
        writer.write(b'{"result": ')
        writer.close()

    server = await asyncio.start_unix_server(half, path=str(path))
    with pytest.raises(TransientError, match="before its answer was complete"):
        await control.call(path, "status")
    server.close()


async def test_a_page_that_breaks_is_answered_and_costs_only_itself() -> None:
    def broken():
        raise KeyError("x")

    server = LocalHttpServer(host="127.0.0.1", port=0, pages={"/bad": broken, "/good": lambda: Answer(200, b"ok")})
    await server.start()
    assert b"500 Internal Server Error" in await get(server.port, b"GET /bad HTTP/1.1\r\n\r\n")
    assert b"200 OK" in await get(server.port, b"GET /good HTTP/1.1\r\n\r\n")
    await server.stop()


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    path.touch()
    server = control.ControlServer(path=path, verbs={})
    await server.start()
    await server.stop()
    assert not path.exists()


async def test_host_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await hostcmd.run(["cat"], timeout=10, input=b"in")).out == b"in"
    with pytest.raises(hostcmd.CommandFailed, match="code 1"):
        await hostcmd.run(["false"], timeout=10)
    with pytest.raises(hostcmd.CommandFailed, match=r"within 0\.1 s"):
        await hostcmd.run(["sleep", "60"], timeout=0.1)
    with pytest.raises(OperatorError, match="not installed"):
        await hostcmd.run(["no-such-program-here"], timeout=1)


def test_a_frozen_library_path_does_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/frozen")
    assert hostcmd.clean_environment()["LD_LIBRARY_PATH"] == "/frozen"  # not frozen: the user's own
    monkeypatch.setenv("_PYI_ARCHIVE_FILE", "x")
    assert "LD_LIBRARY_PATH" not in hostcmd.clean_environment()
    assert "_PYI_ARCHIVE_FILE" not in hostcmd.clean_environment()
    monkeypatch.setenv("LD_LIBRARY_PATH_ORIG", "/user")
    assert hostcmd.clean_environment()["LD_LIBRARY_PATH"] == "/user"


def test_backoff_grows_stops_and_resets_after_a_stable_time() -> None:
    backoff = Backoff(initial=1, maximum=10, jitter=0, reset_after=60)
    assert [backoff.next_delay() for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    backoff.succeeded(59)
    assert backoff.next_delay() == 10
    backoff.succeeded(60)
    assert backoff.next_delay() == 1


def test_backoff_jitter_only_shortens() -> None:
    backoff = Backoff(initial=10, maximum=10, jitter=0.2, random=lambda: 1.0)
    assert backoff.next_delay() == pytest.approx(8)
