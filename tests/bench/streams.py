"""streams: kubectl through the gateway's tunnel: a keystroke's echo, a log line's way, how fast a log is read."""

import asyncio
import os
import pty
import sys
import time
import tty
from pathlib import Path

from tests.bench.figure import figure, percentile
from tests.bench.pods_site import PodSite, runs
from tests.support.pods import SLEEPS, pod, shell
from tests.support.programs import KUBECTL
from tests.support.stand import Stand, eventually

KEYS = 300
LINES = 300
LOG_MB = 60


async def main() -> int:
    async with PodSite(edged={"log_max_mb": LOG_MB * 2}) as site:
        stand = site.stand
        pipe = stand.directory / "pipe"
        pipe.mkdir()
        os.mkfifo(pipe / "fifo")
        volumes = [{"name": "pipe", "hostPath": {"path": str(pipe), "type": "Directory"}}]
        mounts = [{"name": "pipe", "mountPath": "/pipe"}]
        talker = shell("exec cat /pipe/fifo", "talker", volumeMounts=mounts)
        line = "x" * 1023
        writer = shell(f"yes {line} | head -n {LOG_MB * 1024}; {SLEEPS}", "writer")
        await site.create(pod("streams", talker, writer, volumes=volumes))

        async def ready() -> bool:
            return all(map(runs, await site.list()))

        await eventually(ready, what="the pod", timeout=60)
        keys = await echo(stand)
        how = f"kubectl exec -it -- cat, {KEYS} keystrokes 20 ms apart, through gateway and tunnel"
        figure("streams-echo-p50", percentile(keys, 0.5) * 1000, "ms", target=30, how=how)
        figure("streams-echo-p99", percentile(keys, 0.99) * 1000, "ms", target=150, how=how)
        seen = await follow(stand, pipe / "fifo")
        how = f"written by the container to shown by kubectl logs -f, {LINES} lines 20 ms apart"
        figure("streams-log-p50", percentile(seen, 0.5) * 1000, "ms", target=30, how=how)
        figure("streams-log-p99", percentile(seen, 0.99) * 1000, "ms", target=150, how=how)
        rate = await throughput(stand)
        how = f"kubectl logs of {LOG_MB} MB in lines of 1 KiB"
        figure("streams-log-throughput", rate, "MB/s", target=10, how=how, better="more")
    return 0


async def reader_of(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0))
    return reader


async def echo(stand: Stand) -> list[float]:
    """Seconds from each keystroke to its echo."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    process = await asyncio.create_subprocess_exec(
        KUBECTL, "exec", "-it", "streams", "-c", "writer", "--", "cat",
        stdin=slave, stdout=slave, stderr=slave, env={**os.environ, **stand.kubectl_environment()},
    )  # fmt: skip
    os.close(slave)
    reader = await reader_of(os.dup(master))
    times = []
    os.write(master, b"begin\r")
    async with asyncio.timeout(30):
        await reader.readuntil(b"begin\r\nbegin\r\n")
    for number in range(KEYS):
        key = b"abcdefghij"[number % 10 : number % 10 + 1]
        began = time.perf_counter()
        os.write(master, key)
        async with asyncio.timeout(10):
            while key not in await reader.read(64):
                continue
        times.append(time.perf_counter() - began)
        await asyncio.sleep(0.02)
    process.kill()
    await process.wait()
    os.close(master)
    return times


async def follow(stand: Stand, fifo: Path) -> list[float]:
    """Seconds from each line's writing to its showing."""
    process = await asyncio.create_subprocess_exec(
        KUBECTL, "logs", "-f", "streams", "-c", "talker",
        stdout=asyncio.subprocess.PIPE, env={**os.environ, **stand.kubectl_environment()},
    )  # fmt: skip
    assert process.stdout is not None
    descriptor = os.open(fifo, os.O_WRONLY)
    await asyncio.sleep(1.0)
    times = []
    for number in range(LINES):
        line = f"line {number}\n".encode()
        began = time.perf_counter()
        os.write(descriptor, line)
        async with asyncio.timeout(10):
            while await process.stdout.readline() != line:
                continue
        times.append(time.perf_counter() - began)
        await asyncio.sleep(0.02)
    os.close(descriptor)
    process.kill()
    await process.wait()
    return times


async def throughput(stand: Stand) -> float:
    """MB a second of a whole log."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        KUBECTL, "logs", "streams", "-c", "writer",
        stdout=asyncio.subprocess.PIPE, env={**os.environ, **stand.kubectl_environment()}, limit=2**22,
    )  # fmt: skip
    assert process.stdout is not None
    size = 0
    while data := await process.stdout.read(2**20):
        size += len(data)
    await process.wait()
    assert size >= LOG_MB * 1024 * 1024, f"{size} bytes of the log came"
    return size / 1e6 / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
