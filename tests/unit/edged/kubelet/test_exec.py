"""exec and attach over SPDY and over WebSockets, on real containers."""

import asyncio
import base64
import json
import time
from typing import Any

import pytest
from websockets.asyncio.client import unix_connect
from websockets.exceptions import InvalidStatus

from edgeappliance.wire.remotecommand import Result, encode_size
from tests.unit.edged.kubelet.conftest import Stand
from tests.unit.edged.kubelet.spdy_client import exec_target, read_until, session, upgraded


async def test_output_and_exit_code(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    target = exec_target("sh", "-c", "echo out; echo err >&2; exit 3")
    async with session(stand.socket, target) as streams:
        assert await streams.finish() == (Result(3), b"out\n", b"err\n")
    async with session(stand.socket, exec_target("echo", "$HOME; `id`")) as streams:
        assert await streams.finish() == (Result(0), b"$HOME; `id`\n", b"")


@pytest.mark.parametrize("protocol", ["v3.channel.k8s.io", "channel.k8s.io", ""])
async def test_old_protocols_give_texts(stand: Stand, protocol: str) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    async with session(stand.socket, exec_target("false"), protocols=protocol) as streams:
        assert streams.stdout is not None
        assert await read_until(streams.error, b"code 1") == b"command terminated with exit code 1"


async def test_stdin_of_ten_megabytes(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    target = exec_target("sh", "-c", "wc -c; cat > /dev/null", options="input=1&output=1&error=1")
    async with session(stand.socket, target, stdin=True) as streams:
        assert streams.stdin is not None
        for _ in range(100):
            await streams.stdin.write(b"x" * 100_000)
        await streams.stdin.close_write()
        result, out, _ = await streams.finish()
    assert (result, out.strip()) == (Result(0), b"10000000")


async def test_output_of_twenty_megabytes_is_whole_and_fast(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    started = time.perf_counter()
    async with session(stand.socket, exec_target("dd", "if=/dev/zero", "bs=1M", "count=20", "status=none")) as streams:
        result, out, _ = await streams.finish()
    assert (result, len(out)) == (Result(0), 20 * 1024 * 1024)
    assert time.perf_counter() - started < 10


async def test_a_terminal(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    async with session(stand.socket, exec_target("sh", options="input=1&output=1&tty=1"), stdin=True, tty=True) as s:
        assert s.stdin is not None
        assert s.stdout is not None
        assert s.resize is not None
        await s.resize.write(encode_size(101, 33))
        await read_until(s.stdout, b"# ")
        async with asyncio.timeout(5):
            size = b""
            while b"33 101" not in size:  # the size is set beside the stream
                await s.stdin.write(b"stty size\n")
                size = await read_until(s.stdout, b"# ")
        await s.resize.write(encode_size(80, 24))
        await s.stdin.write(b"sleep 0.3; stty size; exit 7\n")
        result, out, _ = await s.finish()
    assert b"24 80" in out
    assert result == Result(7)


async def test_a_command_that_is_not_there(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    async with session(stand.socket, exec_target("/nope")) as streams:
        result, out, err = await streams.finish()
    assert result.code == 126 or "no such file" in result.error, (result, out, err)


async def test_a_client_that_leaves_ends_its_command(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    async with session(stand.socket, exec_target("sh", "-c", "echo on; exec sleep 4321")) as streams:
        assert streams.stdout is not None
        await read_until(streams.stdout, b"on\n")
        assert "4321" in (await stand.get("/run/default/web/c?cmd=ps"))[1]
    async with asyncio.timeout(10):
        while "4321" in (await stand.get("/run/default/web/c?cmd=ps"))[1]:
            await asyncio.sleep(0.1)
        while stand.api.health().details["connections"]:
            await asyncio.sleep(0.05)


async def test_a_reader_that_stops_holds_the_command_and_nobody_else(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    async with session(stand.socket, exec_target("yes")) as slow:
        await asyncio.sleep(0.5)
        async with session(stand.socket, exec_target("echo", "quick")) as quick:
            assert (await quick.finish())[1] == b"quick\n"
        assert slow.stdout is not None
        assert await slow.stdout.read()


async def test_streams_that_never_come(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeappliance.edged.kubelet.peers.STREAMS_TIMEOUT", 0.1)
    await stand.pod("web", c=["sleep", "1000"])
    async with upgraded(stand.socket, exec_target("ls")) as spdy, asyncio.timeout(5):
        await spdy.open({"streamType": "error"})
        await spdy.ended()


async def test_streams_of_no_use_are_refused(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    async with upgraded(stand.socket, exec_target("ls")) as spdy:
        for kind in ("stdin", "nonsense"):
            stream = await spdy.open({"streamType": kind})
            with pytest.raises(OSError, match="reset"):
                await stream.read()


async def test_no_common_protocol(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    with pytest.raises(AssertionError, match=r"unable to negotiate protocol: client supports \['v9'\]"):
        async with upgraded(stand.socket, exec_target("ls"), "v9"):
            pass


async def test_many_at_once_leave_nothing(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])

    async def one(number: int) -> None:
        async with session(stand.socket, exec_target("echo", str(number))) as streams:
            assert await streams.finish() == (Result(0), f"{number}\n".encode(), b"")

    before = len(asyncio.all_tasks())
    for _ in range(3):
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(one(number))
    async with asyncio.timeout(5):
        while stand.api.health().details["connections"] or len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.05)


# -- attach ----------------------------------------------------------------------------------------------------


async def test_attach_sees_and_feeds_the_main_process(stand: Stand) -> None:
    loop = "while read line; do echo got $line; done; echo over"
    await stand.pod("web", c={"Cmd": ["sh", "-c", loop], "OpenStdin": True, "StdinOnce": True})
    async with session(stand.socket, "/attach/default/web/c?input=1&output=1&error=1", stdin=True) as streams:
        assert streams.stdin is not None
        assert streams.stdout is not None
        await streams.stdin.write(b"one\n")
        assert await read_until(streams.stdout, b"\n") == b"got one\n"
        await streams.stdin.close_write()
        result, out, _ = await streams.finish()
    assert (out, result.succeeded) == (b"over\n", True)


async def test_detaching_leaves_the_container(stand: Stand) -> None:
    await stand.pod("web", c=["sh", "-c", "while sleep 0.1; do echo tick; done"])
    async with session(stand.socket, "/attach/default/web/c?output=1&error=1") as streams:
        assert streams.stdout is not None
        await read_until(streams.stdout, b"tick\n")
    await stand.look()
    assert any(c.running and c.name == "c" for c in stand.observed("uid-web"))


# -- WebSockets ------------------------------------------------------------------------------------------------


def websocket(stand: Stand, target: str, *protocols: str) -> Any:
    return unix_connect(
        str(stand.socket), f"ws://localhost{target}", subprotocols=list(protocols) or None, compression=None
    )


async def received(connection: Any) -> dict[int, bytes]:
    """Everything by channel, until the server says good-bye."""
    got: dict[int, bytes] = {}
    async with asyncio.timeout(20):
        async for message in connection:
            got[message[0]] = got.get(message[0], b"") + message[1:]
    return got


async def test_v5_with_the_end_of_stdin(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    target = exec_target("sh", "-c", "cat; echo end >&2; exit 4", options="stdin=true&stdout=true&stderr=true")
    async with websocket(stand, target, "v5.channel.k8s.io", "v4.channel.k8s.io") as connection:
        assert connection.subprotocol == "v5.channel.k8s.io"
        await connection.send(b"\x00hello ")
        await connection.send(b"\x00world")
        await connection.send(b"\xff\x00")
        got = await received(connection)
    assert (got[1], got[2]) == (b"hello world", b"end\n")
    assert json.loads(got[3])["details"] == {"causes": [{"reason": "ExitCode", "message": "4"}]}
    assert connection.close_code == 1000


async def test_v4_terminal(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    target = exec_target("sh", options="stdin=true&stdout=true&tty=true")
    async with websocket(stand, target, "v4.channel.k8s.io") as connection:
        await connection.send(b"\x04" + encode_size(90, 20))
        await connection.send(b"\x00sleep 0.3; stty size; exit\n")
        got = await received(connection)
    assert b"20 90" in got[1]
    assert json.loads(got[3]) == {"metadata": {}, "status": "Success"}


async def test_base64_for_browsers(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    async with websocket(stand, exec_target("echo", "hi"), "base64.channel.k8s.io") as connection:
        messages = [message async for message in connection]
    assert [base64.b64decode(m[1:]) for m in messages if m[0] == "1"][-1] == b"hi\n"


async def test_what_no_websocket_gets(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    with pytest.raises(InvalidStatus) as refused:
        await websocket(stand, exec_target("ls"), "v9.channel.k8s.io").__aenter__()
    assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as refused:
        await websocket(stand, exec_target("ls", container="nope"), "v4.channel.k8s.io").__aenter__()
    assert refused.value.response.status_code == 404


async def test_nonsense_on_a_websocket_ends_it(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    async with websocket(stand, exec_target("sleep", "77"), "base64.channel.k8s.io") as connection:
        await connection.send("0!!!")
        await received_text(connection)
    async with asyncio.timeout(10):
        while "sleep 77" in (await stand.get("/run/default/web/c?cmd=ps"))[1]:
            await asyncio.sleep(0.1)


async def received_text(connection: Any) -> None:
    async with asyncio.timeout(10):
        async for _ in connection:
            pass
