"""`edgecore exec`: a command in a container on this box, with a terminal or without. Works offline."""

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import sys
import termios
import threading
import tty
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, urlencode

from edgeappliance.cli.output import ReaderGone, write_all
from edgeappliance.cli.pods import get_pods, no_answer, pick_container, refusal
from edgeappliance.kernel.errors import PermanentError, TransientError
from edgeappliance.kernel.spdystream import Spdy, SpdyStream, serve_spdy
from edgeappliance.kernel.web.client import HttpUnreachable, upgrade
from edgeappliance.wire.remotecommand import PROTOCOL_HEADER, STREAM_TYPE, Result, decode_result, encode_size

PROTOCOL = "v4.channel.k8s.io"
READ_SIZE = 32 * 1024
STDIN, STDOUT, STDERR = 0, 1, 2


def run_in(
    socket: Path, *, namespace: str, pod: str, container: str, command: Sequence[str], stdin: bool, terminal: bool
) -> int:
    """Run it and be its terminal; the exit code is the command's. Raises ApplianceError."""
    if terminal and not (stdin and os.isatty(STDIN)):
        print("Unable to use a TTY - input is not a terminal or the right kind of file", file=sys.stderr)
        terminal = False
    found = asyncio.run(get_pods(socket))
    chosen = pick_container(found, namespace=namespace, pod=pod, container=container)
    query = [("command", word) for word in command] + [("output", "1")]
    query += [("input", "1")] if stdin else []
    query += [("tty", "1")] if terminal else [("error", "1")]
    target = f"/exec/{quote(namespace)}/{quote(pod)}/{quote(chosen)}?{urlencode(query)}"
    with _raw_terminal() if terminal else contextlib.nullcontext():
        try:
            result = asyncio.run(_run(socket, target, stdin=stdin, terminal=terminal))
        except asyncio.CancelledError:
            return 128 + signal.SIGTERM
        except ReaderGone:  # what became of the command is not known
            return 128 + signal.SIGPIPE
    if result.error:
        raise PermanentError(result.error)
    if result.code:
        print(f"command terminated with exit code {result.code}", file=sys.stderr)
    return result.code or 0


async def _run(socket: Path, target: str, *, stdin: bool, terminal: bool) -> Result:
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):  # the terminal must be put right before we go
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        answer = await upgrade(socket, "POST", target, headers={"Upgrade": "SPDY/3.1", PROTOCOL_HEADER: PROTOCOL})
    except HttpUnreachable as error:
        raise no_answer(socket, error) from None
    if answer.duplex is None:
        raise refusal(answer.status, answer.body)
    async with serve_spdy(answer.duplex, client=True) as spdy:
        try:
            return await _Session(spdy, stdin=stdin, terminal=terminal).run()
        except (OSError, TimeoutError) as error:
            raise TransientError(f"the connection broke: {error}", next_step="see: edgecore status") from None


class _Session:
    """The streams of one command."""

    def __init__(self, spdy: Spdy, *, stdin: bool, terminal: bool) -> None:
        self._spdy = spdy
        self._stdin = stdin
        self._terminal = terminal

    async def run(self) -> Result:
        error = await self._open("error")
        stdin = await self._open("stdin") if self._stdin else None
        outputs = [(await self._open("stdout"), STDOUT)]
        if not self._terminal:
            outputs.append((await self._open("stderr"), STDERR))
        helpers = []
        if stdin is not None:
            helpers.append(asyncio.create_task(_send_input(stdin), name="stdin"))
        if self._terminal:
            helpers.append(asyncio.create_task(_send_sizes(await self._open("resize")), name="resize"))
        try:
            await asyncio.gather(*(_print(stream, fd) for stream, fd in outputs))
            data = b""
            while part := await error.read():
                data += part
            return decode_result(data)
        finally:
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    async def _open(self, kind: str) -> SpdyStream:
        return await self._spdy.open({STREAM_TYPE: kind})


async def _print(stream: SpdyStream, fd: int) -> None:
    while data := await stream.read():
        await asyncio.to_thread(write_all, fd, data)


async def _send_input(stream: SpdyStream) -> None:
    """Our stdin, until it ends or the command does. A thread reads it: a file cannot be waited for."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue(maxsize=4)

    def read() -> None:
        with contextlib.suppress(OSError, RuntimeError):  # the loop is over while we still wait for a key
            data = b"-"
            while data:
                data = os.read(STDIN, READ_SIZE)
                asyncio.run_coroutine_threadsafe(chunks.put(data), loop).result()

    threading.Thread(target=read, name="stdin", daemon=True).start()
    with contextlib.suppress(OSError):  # the command ended first
        while data := await chunks.get():
            await stream.write(data)
        await stream.close_write()


async def _send_sizes(stream: SpdyStream) -> None:
    """The size of our terminal, now and whenever it changes."""
    changed = asyncio.Event()
    changed.set()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    try:
        while True:
            await changed.wait()
            changed.clear()
            with contextlib.suppress(OSError):
                packed = fcntl.ioctl(STDIN, termios.TIOCGWINSZ, b"\0" * 8)
                height, width, _, _ = struct.unpack("HHHH", packed)
                if width and height:
                    await stream.write(encode_size(width, height))
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the command, Ctrl-C too; afterwards the terminal is as it was."""
    before = termios.tcgetattr(STDIN)
    try:
        tty.setraw(STDIN)
        yield
    finally:
        termios.tcsetattr(STDIN, termios.TCSADRAIN, before)
