"""Paths of the host that never answer."""

import asyncio
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeappliance.edged.pods.environment import Facts
from edgeappliance.edged.volumes.errors import VolumeError
from edgeappliance.edged.volumes.patience import NoAnswer, Patience
from edgeappliance.edged.volumes.pod import PodVolumes
from tests.unit.edged.volumes.parts import EngineVolumes, IssuedTokens, StoredObjects, pod


@pytest.fixture
def dead_mount(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system whose server does not answer; it goes when the test ends."""
    directory = tmp_path / "dead"
    directory.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0"
    subprocess.run(["mount", "-i", "-t", "fuse", "-o", options, "dead", directory], check=True, pass_fds=[server])
    try:
        yield directory
    finally:
        os.close(server)
        subprocess.run(["umount", "--lazy", directory], check=True)
        for thread in threading.enumerate():
            if thread.name.startswith("look "):
                thread.join(5)


async def test_a_dead_mount_holds_up_its_own_pod_alone(dead_mount: Path, tmp_path: Path) -> None:
    volumes = PodVolumes(
        tmp_path / "state",
        engine=EngineVolumes(tmp_path),
        objects=StoredObjects(),
        tokens=IssuedTokens(),
        cluster_domain="cluster.local",
        patience=Patience(timeout=0.2, limit=3),
    )
    dead = pod(volumes=[{"name": "v", "hostPath": {"path": str(dead_mount / "x"), "type": "Directory"}}])
    for _ in range(3):
        with pytest.raises(VolumeError, match='SetUp failed for volume "v" : .*/x: does not answer within 0.2 s'):
            await volumes.prepare(dead, Facts())
    with pytest.raises(VolumeError, match="too many paths of this node do not answer"):
        await volumes.prepare(dead, Facts())
    await asyncio.wait_for(volumes.prepare(pod(volumes=[{"name": "v", "emptyDir": {}}]), Facts()), 2)


async def test_results_and_errors_belong_to_the_caller() -> None:
    patience = Patience(timeout=5, limit=1)
    for _ in range(3):  # the place is free again each time
        assert await patience.look("/", lambda: 5) == 5
        with pytest.raises(ZeroDivisionError):
            await patience.look("/", lambda: 1 / 0)
    release = threading.Event()
    with pytest.raises(NoAnswer):
        await Patience(timeout=0.05).look("/", release.wait)
    release.set()
