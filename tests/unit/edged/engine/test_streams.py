"""Logs, exec and attach on a real engine."""

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from edgeappliance.edged.engine.api import EngineRefused, LogQuery
from edgeappliance.edged.engine.docker_engine import DockerEngine
from edgeappliance.edged.engine.streams import Stream
from tests.support.dockerd import Dockerd
from tests.unit.edged.engine.conftest import until

Run = Callable[..., Awaitable[str]]


async def all_of(engine: DockerEngine, id: str, **query: object) -> list[tuple[int, bytes]]:
    stream = await engine.logs(id, LogQuery(**query))  # type: ignore[arg-type]
    found = [piece async for piece in stream]
    await stream.aclose()
    return found


async def text_of(engine: DockerEngine, id: str, **query: object) -> str:
    return b"".join(data for _, data in await all_of(engine, id, **query)).decode()


async def ended(engine: DockerEngine, id: str) -> None:
    async with asyncio.timeout(10):
        while (seen := await engine.inspect(id)) is not None and not seen.exited:
            await asyncio.sleep(0.02)


async def read_until(session: Stream, wanted: bytes) -> bytes:
    got = b""
    async with asyncio.timeout(10):
        while wanted not in got:
            piece = await session.read()
            assert piece is not None, got
            got += piece[1]
    return got


# -- logs ------------------------------------------------------------------------------------------------------


async def test_logs_keep_their_kind_and_answer_to_every_question(engine: DockerEngine, run: Run) -> None:
    id = await run("sh", "-c", "for i in 1 2 3; do echo out$i; echo err$i >&2; done; sleep 1.2; echo late")
    await ended(engine, id)
    pieces = await all_of(engine, id)
    assert b"".join(data for kind, data in pieces if kind == 1) == b"out1\nout2\nout3\nlate\n"
    assert b"".join(data for kind, data in pieces if kind == 2) == b"err1\nerr2\nerr3\n"
    assert await text_of(engine, id, tail=1) == "late\n"
    assert await text_of(engine, id, tail=0) == ""
    stamped = (await text_of(engine, id, tail=1, timestamps=True)).split(" ")
    assert stamped[1] == "late\n"
    assert stamped[0].startswith("20")
    seen = await engine.inspect(id)
    assert seen is not None
    assert await text_of(engine, id, since_ms=seen.finished_ms - 600) == "late\n"


async def test_following_shows_lines_as_they_are_written_and_ends_with_the_container(
    engine: DockerEngine, run: Run
) -> None:
    id = await run("sh", "-c", "echo first; sleep 0.5; echo second; sleep 0.3")
    stream = await engine.logs(id, LogQuery(follow=True))
    arrived = {}
    async for _, data in stream:
        for line in data.split():
            arrived[line] = time.monotonic()
    await stream.aclose()
    assert list(arrived) == [b"first", b"second"]
    assert arrived[b"second"] - arrived[b"first"] > 0.3


async def test_a_long_line_has_one_time_stamp(engine: DockerEngine, run: Run) -> None:
    id = await run("sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo")
    await ended(engine, id)
    line = await text_of(engine, id, timestamps=True)
    assert len(line.partition(" ")[2]) == 40001
    assert line.count(" ") == 1


async def test_logs_of_a_terminal(engine: DockerEngine, run: Run) -> None:
    id = await run("sh", "-c", "echo out; echo err >&2", Tty=True)
    await ended(engine, id)
    assert {kind for kind, _ in await all_of(engine, id)} == {1}
    assert await text_of(engine, id) == "out\r\nerr\r\n"


async def test_logs_of_what_is_not_there(engine: DockerEngine) -> None:
    with pytest.raises(EngineRefused) as refused:
        await engine.logs("0" * 64, LogQuery())
    assert refused.value.code == 404


async def test_many_followers_hold_no_thread(engine: DockerEngine, run: Run) -> None:
    id = await run("sh", "-c", "echo begin; while [ ! -e /go ]; do sleep 0.05; done; echo end")
    threads = threading.active_count()
    streams = [await engine.logs(id, LogQuery(follow=True)) for _ in range(30)]
    readers = [asyncio.ensure_future(_collect(stream)) for stream in streams]
    assert (await engine.run(id, ["touch", "/go"], timeout=10))[0] == 0
    assert await asyncio.gather(*readers) == [b"begin\nend\n"] * 30
    assert threading.active_count() <= threads + 1


async def _collect(stream: object) -> bytes:
    data = b"".join([data async for _, data in stream])  # type: ignore[attr-defined]
    await stream.aclose()  # type: ignore[attr-defined]
    return data


async def test_a_slow_reader_does_not_fill_our_memory(engine: DockerEngine, run: Run) -> None:
    id = await run("sh", "-c", "head -c 60000000 /dev/zero | tr '\\0' '\\n'; sleep 100")
    stream = await engine.logs(id, LogQuery(follow=True))
    before = _resident()
    await asyncio.sleep(1.5)
    assert _resident() - before < 20 << 20
    await stream.aclose()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- exec ------------------------------------------------------------------------------------------------------


async def test_exec_carries_input_output_and_the_exit_code(engine: DockerEngine, run: Run) -> None:
    id = await run("sleep", "100")
    session = await engine.exec(
        id, ["sh", "-c", "echo oops >&2; cat; exit 4"], stdin=True, stdout=True, stderr=True, tty=False
    )
    assert await session.read() == (2, b"oops\n")
    assert await session.exit_code() is None
    await session.write(b"hello ")
    await session.write(b"world")
    await session.write_eof()
    got = b""
    while (piece := await session.read()) is not None:
        assert piece[0] == 1
        got += piece[1]
    assert got == b"hello world"
    assert await session.exit_code() == 4
    await session.close()
    await session.close()


async def test_exec_with_a_terminal_echoes_and_is_resized(engine: DockerEngine, run: Run) -> None:
    id = await run("sleep", "100")
    session = await engine.exec(id, ["sh"], stdin=True, stdout=True, stderr=True, tty=True)
    await session.write(b"echo mark$((20+3))\n")
    await read_until(session, b"mark23")
    await session.resize(132, 43)
    await session.write(b"stty size\n")
    await read_until(session, b"43 132")
    await session.write(b"exit 6\n")
    while await session.read() is not None:
        pass
    assert await session.exit_code() == 6
    await session.resize(80, 25)  # nothing to resize any more
    await session.close()


async def test_much_data_goes_through_exec_unchanged(engine: DockerEngine, run: Run) -> None:
    id = await run("sleep", "100")
    block = os.urandom(1 << 20)
    session = await engine.exec(id, ["cat"], stdin=True, stdout=True, stderr=False, tty=False)

    async def send() -> None:
        for _ in range(8):
            await session.write(block)
        await session.write_eof()

    sending = asyncio.ensure_future(send())
    got = bytearray()
    while (piece := await session.read()) is not None:
        got += piece[1]
    await sending
    assert got == block * 8
    assert await session.exit_code() == 0
    await session.close()


async def test_an_exec_that_is_left_is_ended(engine: DockerEngine, run: Run, dockerd: Dockerd) -> None:
    id = await run("sleep", "100")
    for tty in (False, True):
        session = await engine.exec(
            id, ["sh", "-c", "echo begun; sleep 77"], stdin=False, stdout=True, stderr=True, tty=tty
        )
        await read_until(session, b"begun")
        await session.close()
    for _ in range(50):
        _, processes = await engine.run(id, ["ps"], timeout=10)
        if b"echo begun" not in processes:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"still there: {processes!r}")


async def test_exec_in_what_does_not_run_is_refused(engine: DockerEngine, run: Run) -> None:
    id = await run("true")
    await ended(engine, id)
    with pytest.raises(EngineRefused) as refused:
        await engine.exec(id, ["true"], stdin=False, stdout=True, stderr=True, tty=False)
    assert refused.value.code == 409
    with pytest.raises(EngineRefused):
        await engine.run("0" * 64, ["true"], timeout=10)


async def test_run_gives_code_and_a_bounded_output(engine: DockerEngine, run: Run) -> None:
    id = await run("sleep", "100")
    code, output = await engine.run(id, ["sh", "-c", "echo yes; echo no >&2; exit 3"], timeout=10)
    assert (code, sorted(output.split())) == (3, [b"no", b"yes"])
    code, output = await engine.run(id, ["sh", "-c", "yes | head -c 3000000"], timeout=20, limit=1000)
    assert (code, len(output)) == (0, 1000)
    code, output = await engine.run(id, ["/no/such"], timeout=10)
    assert code in (126, 127)
    assert b"no such file" in output


async def test_run_ends_what_takes_too_long(engine: DockerEngine, run: Run) -> None:
    id = await run("sleep", "100")
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        await engine.run(id, ["sleep", "55"], timeout=0.5)
    assert time.monotonic() - before < 3
    _, processes = await engine.run(id, ["ps"], timeout=10)
    assert b"sleep 55" not in processes


# -- attach ----------------------------------------------------------------------------------------------------


async def test_attach_speaks_with_the_container(engine: DockerEngine, run: Run) -> None:
    id = await run(
        "sh", "-c", "while read line; do echo got $line; done; echo over >&2", OpenStdin=True, StdinOnce=True
    )
    session = await engine.attach(id, stdin=True, stdout=True, stderr=True, tty=False)
    await session.write(b"one\n")
    assert await session.read() == (1, b"got one\n")
    await session.write_eof()
    assert await session.read() == (2, b"over\n")
    assert await session.read() is None
    assert await session.exit_code() is None
    await session.close()


@pytest.mark.parametrize("how", ["exec", "attach"])
async def test_every_key_of_a_terminal_goes_through_at_once(engine: DockerEngine, run: Run, how: str) -> None:
    """Docker keeps Ctrl-P back, as the first key of its own way to leave; in a shell that is the command before."""
    id = await run("cat", OpenStdin=True, Tty=True)
    if how == "exec":
        session = await engine.exec(id, ["cat"], stdin=True, stdout=True, stderr=True, tty=True)
    else:
        session = await engine.attach(id, stdin=True, stdout=True, stderr=True, tty=True)
    await asyncio.sleep(0.3)
    for key in (b"\x10", b"\x11", b"\x1e", b"\x02", b"\x1d"):
        await session.write(key)
        if key != b"\x11":  # the terminal's own: it lets its output go on
            await read_until(session, b"^" + bytes([key[0] + 64]))
    await session.write(b"still\n")
    await read_until(session, b"still")
    await session.close()


async def test_attach_to_a_terminal(engine: DockerEngine, run: Run) -> None:
    id = await run("sh", OpenStdin=True, Tty=True)
    session = await engine.attach(id, stdin=True, stdout=True, stderr=False, tty=True)
    await session.resize(101, 11)
    await session.write(b"stty size\n")
    await read_until(session, b"11 101")
    await session.close()
    await asyncio.sleep(0.2)
    seen = await engine.inspect(id)
    assert seen is not None
    assert seen.running  # leaving an attach ends nothing


async def test_leaving_an_attach_to_a_silent_container(engine: DockerEngine, run: Run) -> None:
    id = await run("sleep", "100")
    session = await engine.attach(id, stdin=False, stdout=True, stderr=True, tty=False)
    reading = asyncio.ensure_future(session.read())
    await asyncio.sleep(0.1)
    await session.close()
    await until(reading.done, timeout=3)
    await asyncio.wait([reading])
    assert reading.exception() is not None or reading.result() is None
