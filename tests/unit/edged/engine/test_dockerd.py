"""The tests' own Docker Engine: what it promises to the tests that use it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd

_KILLED_RUN = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[4])!r})
from tests.support.dockerd import Dockerd
engine = Dockerd(network=False)
engine.start_now()
engine.image_now("bb:1")
with engine.client() as client:
    found = client.containers.run("bb:1", ["sleep", "1000"], detach=True, network_mode="host")
    found.reload()
    print(engine.root, engine.pid, found.attrs["State"]["Pid"], flush=True)
os.kill(os.getpid(), 9)
"""


async def test_a_container_runs_and_its_addresses_are_reached(dockerd: Dockerd) -> None:
    await dockerd.call("create_container", BUSYBOX, ["httpd", "-f", "-p", "80"], name="web")
    await dockerd.call("start", "web")
    seen = await dockerd.call("inspect_container", "web")
    reader, writer = await asyncio.open_connection(seen["NetworkSettings"]["IPAddress"], 80)
    writer.write(b"GET /nothing HTTP/1.0\r\n\r\n")
    assert b" 404 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


def test_a_test_run_that_is_killed_leaves_nothing() -> None:
    run = subprocess.run([sys.executable, "-c", _KILLED_RUN], capture_output=True, text=True, check=False, timeout=30)
    assert run.returncode == -signal.SIGKILL, run.stderr
    root, *pids = run.stdout.split()
    give_up = time.monotonic() + 15
    while Path(root).exists() or any(Path("/proc", pid).exists() for pid in pids):
        assert time.monotonic() < give_up, f"left behind: {root} {pids} {os.listdir(root)}"
        time.sleep(0.05)
