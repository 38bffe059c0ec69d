"""gateway-fleet: 2 000 simulated edges, each with its own certificate, against the whole gateway.

Memory of a session after small messages and after one of 64 KB, time until all are back after a kill -9, and keyed
messages per second pushed, acknowledged and recorded. Gateway and edges are a process each.
"""

import asyncio
import os
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from tests.bench.figure import figure
from tests.support.net import free_port

EDGES = int(os.environ.get("FLEET_EDGES", "2000"))
BIG = 64 * 1024
PUSHES = 60_000


async def order(gateway: Process, line: str, timeout: float = 180.0) -> list[str]:
    """One order to the gateway process and its answer."""
    assert gateway.stdin is not None
    assert gateway.stdout is not None
    gateway.stdin.write(line.encode() + b"\n")
    async with asyncio.timeout(timeout):
        return (await gateway.stdout.readline()).decode().split()


async def start_gateway(directory: Path, port: int) -> Process:
    """The gateway process, not yet ready."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.fleet_gateway", str(directory / "api"), str(port), stdin=PIPE, stdout=PIPE
    )


async def ready(gateway: Process) -> None:
    """Return when it listens."""
    assert gateway.stdout is not None
    async with asyncio.timeout(60):
        while (await gateway.stdout.readline()).split() != [b"ready"]:
            assert gateway.returncode is None


async def sessions(gateway: Process, count: int, timeout: float) -> float:
    """Wait until the gateway holds `count` ready sessions; the PSS in KB then."""
    async with asyncio.timeout(timeout):
        while True:
            have, kb = await order(gateway, "memory")
            if int(have) == count:
                return float(kb)
            await asyncio.sleep(0.1)


async def run(directory: Path) -> None:
    port = free_port()
    pems = directory / "pems"
    pems.mkdir()
    gateway = await start_gateway(directory, port)
    edges: Process | None = None
    try:
        await ready(gateway)
        await order(gateway, f"identities {EDGES} {pems}")
        _, before = await order(gateway, "memory")
        edges = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.bench.fleet_edges",
            str(port),
            str(EDGES),
            str(pems),
            stdout=asyncio.subprocess.DEVNULL,
        )
        await sessions(gateway, EDGES, 120)
        await order(gateway, f"push {EDGES * 2} 200")
        kb = await sessions(gateway, EDGES, 10)
        small = (kb - float(before)) / EDGES
        how = f"{EDGES} mutual-TLS sessions with a certificate each, PSS of the whole gateway less its start"
        figure("gateway-fleet-session", small, "KB", target=80, how=f"{how}; after two 400-byte pushes each")

        seconds, cpu, done = await order(gateway, f"push {PUSHES} 300")
        rate, per_core = int(done) / float(seconds), int(done) / float(cpu)
        how_push = (
            f"{PUSHES} keyed 500-byte messages to {EDGES} nodes, pushed, acknowledged and recorded through the "
            f"embedded API; {rate:.0f}/s on the wall clock with the edges on the other core"
        )
        figure("gateway-fleet-messages", per_core, "messages/CPU-s", target=6000, better="more", how=how_push)

        await order(gateway, f"push {EDGES} {BIG}")
        kb = await sessions(gateway, EDGES, 10)
        big = (kb - float(before)) / EDGES
        figure("gateway-fleet-session-big", big, "KB", target=200, how=f"{how}; after one 64 KB push each")

        gateway.kill()
        await gateway.wait()
        began = time.perf_counter()
        gateway = await start_gateway(directory, port)
        await ready(gateway)
        listening = time.perf_counter() - began
        await sessions(gateway, EDGES, 120)
        took = time.perf_counter() - began
        figure(
            "gateway-fleet-reconnect",
            took,
            "s",
            target=20,
            how=f"kill -9 and start again; from the start of the process, which listens after {listening:.1f} s, "
            f"to {EDGES} sessions",
        )
    finally:
        for process in (edges, gateway):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()


async def main() -> int:
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        await run(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
